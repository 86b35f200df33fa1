/* Fusing: a model's files written again with adapters in their tensors. */
#ifndef LORA__OP_FUSE_H
#define LORA__OP_FUSE_H

#include "core/buffer.h"
#include "format/output.h"
#include "format/sha256.h"
#include "model/model.h"
#include "model/patched.h"
#include "model/rounding.h"
#include "op/journal.h"
#include "op/undo.h"
#include "platform/thread.h"

#include <lora/fuse.h>

/* A file to be written. `container` is the model's file that it has tensors of;
 * NULL: all of it is in `head`. */
typedef struct lora__fuse_file {
    const char *path;
    const lora__container *container;
    const char *head; /* all before the data; in the arena */
    size_t head_bytes;
    uint64_t bytes;
    lora__output *output; /* NULL until it is begun, and once it is finished */
} lora__fuse_file;

/* Where a tensor goes. */
typedef struct lora__fuse_place {
    size_t file;
    uint64_t offset;
} lora__fuse_place;

/* What is done, for a later call. */
typedef struct lora__fuse_log {
    lora__journal *journal; /* NULL: none is kept */
    const char *path;
    uint8_t identity[32]; /* of the job */
    lora__mutex lock;     /* of what follows, but `done` */
    int has_lock;
    unsigned char *done; /* one for each tensor: an earlier call wrote it */
    size_t done_count;
    int whole;         /* that call wrote all, and began to give names */
    uint64_t *pending; /* tensors that are written, and not in the journal */
    size_t pending_count;
    uint64_t pending_bytes;
    uint64_t most; /* of them, before the files are flushed */
} lora__fuse_log;

typedef struct lora__fuse {
    lora_model_fuse_options options;
    lora_context *context;
    const lora__checkpoint *model;
    const lora__kernels *kernels;
    lora_cpu cpu;
    const char *path;
    lora__arena arena;
    lora__patched patched;
    lora__patched changes_alone; /* the same, of tensors that are zeros */
    lora__patch *patches;
    lora__rounding rounding;
    lora__fuse_file *files;
    size_t file_count;
    size_t file_capacity;
    int in_folder; /* 1: the path is a folder, with the files in it */
    lora__fuse_place *places; /* one for each tensor */
    size_t *order;            /* tensors as they follow each other on disk */
    unsigned char *changes;   /* one for each tensor: 1 if it is changed */
    size_t change_count;
    lora__fuse_log log;
    lora__undo *undo;     /* NULL: none is wanted */
    const char **folders; /* made for this, to be removed if it fails */
    size_t folder_count;
    size_t folder_capacity;
} lora__fuse;

/* Begin a report with what is bound of each adapter and what is not; the rest
 * becomes problems. KEY where nothing of an adapter is bound. */
LORA_PRIVATE lora_status lora__fuse_report(lora_report **out,
                                           const lora__fuse *job,
                                           const lora_binding *const *bindings,
                                           size_t count,
                                           lora_error *error);
LORA_PRIVATE lora_status lora__fuse_report_finish(lora_report *report,
                                                  const lora__fuse *job,
                                                  lora_error *error);

/* Say which files there are to be, and where tensors go. */
LORA_PRIVATE lora_status lora__fuse_plan_files(lora__fuse *job,
                                               lora_error *error);

/* Open the journal of a call with RESUME, and see what it tells of. */
LORA_PRIVATE lora_status lora__fuse_log_open(lora__fuse *job,
                                             const lora_binding *const *binds,
                                             lora_error *error);

/* Forget what it tells. */
LORA_PRIVATE lora_status lora__fuse_log_reset(lora__fuse *job,
                                              lora_error *error);

/* A tensor is written. Any thread may. */
LORA_PRIVATE lora_status lora__fuse_log_add(lora__fuse *job,
                                            size_t tensor,
                                            lora_error *error);

/* Flush the files and tell what is in them. */
LORA_PRIVATE lora_status lora__fuse_log_commit(lora__fuse *job,
                                               lora_error *error);

/* All is on the disk, and files are to have their names. */
LORA_PRIVATE lora_status lora__fuse_log_whole(lora__fuse *job,
                                              lora_error *error);

/* Close the journal; with `remove` 1 it is of no use any more. */
LORA_PRIVATE void lora__fuse_log_close(lora__fuse *job, int remove);

/* Begin them all: folders, temporary files, heads. */
LORA_PRIVATE lora_status lora__fuse_begin_files(lora__fuse *job,
                                                lora_error *error);

/* Flush all, then give all their names, indices last. */
LORA_PRIVATE lora_status lora__fuse_finish_files(lora__fuse *job,
                                                 lora_error *error);

/* Free heads, and remove what was not finished. */
LORA_PRIVATE void lora__fuse_end_files(lora__fuse *job);

#endif
