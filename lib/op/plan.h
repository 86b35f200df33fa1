/* Plans inside the library.
 *
 * plan.c keeps the list of adapters and knows what differs; plan_cut.c makes
 * jobs of that, plan_jobs.c runs them, plan_rows.c is the way to the host's
 * rows and the kept ones, plan_factors.c exports factors.
 *
 * What is in a tensor is told by marks, one for each effect of an adapter that
 * has a strength. A tensor's marks of now, compared with those that its last
 * complete run had, say whether it is to be made again.
 */
#ifndef LORA__OP_PLAN_H
#define LORA__OP_PLAN_H

#include "model/model.h"
#include "model/patched.h"
#include "model/rounding.h"
#include "platform/atomic.h"

#include <lora/plan.h>

/* One effect on a tensor. */
typedef struct lora__plan_mark {
    uint64_t use; /* of a binding, as plan_adapter has it */
    size_t module;
    lora_part part;
    double strength;
} lora__plan_mark;

typedef struct lora__plan_marks {
    lora__plan_mark *list; /* of lora__alloc */
    size_t count;
} lora__plan_marks;

/* A tensor. */
typedef struct lora__plan_target {
    lora_plan_memory memory; /* row_bytes, row_step and dtype are set; dtype is
                              * NONE with decode */
    int is_set;
    size_t original; /* of the model of originals; SIZE_MAX: none */
    size_t rows;
    size_t columns;
    size_t chunk_rows; /* that are made at a time */
    size_t block_rows; /* of a job: a multiple of that */
    size_t block_count;
    unsigned char *saved; /* all rows as they were stored; NULL: not kept */
    size_t saved_bytes;
    unsigned char *has_block; /* one a block: 1 once its rows are in `saved` */
    lora__plan_marks applied; /* what the last complete run had */
    lora__plan_marks wanted;  /* what the jobs are to make */
    uint32_t touched;         /* atomic; 1: jobs have begun, not all ended */
    uint32_t jobs_left;       /* atomic */
} lora__plan_target;

/* Targets [first, end) of the order: some blocks of one, or all of several. */
typedef struct lora__plan_job {
    size_t first;
    size_t end;
    size_t block;  /* SIZE_MAX: all */
    uint32_t done; /* atomic */
} lora__plan_job;

typedef struct lora__plan_adapter {
    uint64_t id;
    uint64_t use; /* another one for each binding that was in this place */
    lora_binding *binding;
    lora_strength strength;
} lora__plan_adapter;

struct lora_plan {
    lora_context *context;
    lora_model *model;
    lora_model *originals; /* or NULL */
    const lora__checkpoint *checkpoint;
    const lora__kernels *kernels;
    lora_plan_options options; /* no zero in block_bytes */
    lora__rounding rounding;
    lora__plan_target *targets; /* one for each tensor of the model */
    size_t target_count;
    lora__plan_adapter *adapters;
    size_t adapter_count;
    size_t adapter_capacity;
    uint64_t last_id;
    uint64_t last_use;

    /* The jobs; all NULL and 0 while there are none. */
    lora__patch *patches;
    size_t patch_count;
    size_t *order; /* targets to be made again */
    size_t order_count;
    size_t order_room;
    lora__plan_job *jobs;
    size_t job_count;
    size_t job_room;
    size_t rows_bytes; /* of scratch: numbers, and what follows them */
    size_t stored_bytes;
};

/* What a thread has that runs a job. */
typedef struct lora__plan_work {
    lora_plan *plan;
    float *rows;           /* rows_bytes */
    unsigned char *stored; /* stored_bytes: a row of any tensor fits */
} lora__plan_work;

/* An adapter as a patch. */
LORA_PRIVATE lora__patch lora__plan_patch(const lora__plan_adapter *adapter);

/* 1 if a tensor is as it should be. */
LORA_PRIVATE int lora__plan_is_made(const lora_plan *plan, size_t tensor);

/* What is to be in a tensor. */
LORA_PRIVATE lora_status lora__plan_mark_all(lora__plan_marks *out,
                                             const lora_plan *plan,
                                             size_t tensor,
                                             lora_error *error);
LORA_PRIVATE void lora__plan_unmark(lora__plan_marks *marks, lora_context *c);

/* Forget the jobs, if there are some, and what was kept for those that never
 * began. */
LORA_PRIVATE void lora__plan_uncut(lora_plan *plan);

/* Make jobs of what is to be done. */
LORA_PRIVATE lora_status lora__plan_cut(lora_plan *plan, lora_error *error);

/* Give up the rows that are kept of a target. */
LORA_PRIVATE void lora__plan_unsave(lora__plan_target *target,
                                    lora_context *context);

/* 1 if a tensor's rows can be had again from elsewhere. */
LORA_PRIVATE int lora__plan_has_originals(const lora_plan *plan, size_t tensor);

/* Keep the rows of a block, unless they are. */
LORA_PRIVATE lora_status lora__plan_save(const lora__plan_work *work,
                                         size_t tensor,
                                         size_t block,
                                         lora_error *error);

/* Put the rows of a block back as they were. */
LORA_PRIVATE lora_status lora__plan_restore(const lora__plan_work *work,
                                            size_t tensor,
                                            size_t block,
                                            lora_error *error);

/* Rows as they were, as numbers: a lora__patched_source of a lora__plan_work.
 */
LORA_PRIVATE lora_status lora__plan_source(float *out,
                                           void *user,
                                           size_t tensor,
                                           uint64_t first,
                                           size_t count,
                                           lora_error *error);

/* Round work->rows and put them into the host's memory. */
LORA_PRIVATE lora_status lora__plan_write(const lora__plan_work *work,
                                          size_t tensor,
                                          size_t first,
                                          size_t count,
                                          lora_error *error);

#endif
