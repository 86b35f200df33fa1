/* Rank conversion inside: what its files share. A module's factors are
 * decomposed (spectra.c) and cut (resize_cut.c) to the rank that is chosen for
 * it (resize_choose.c); the results become an adapter (resize_emit.c) and a
 * report (resize_report.c); resize.c is the call. Source: algorithms.md 1
 * and 2.
 */
#ifndef LORA__OP_RESIZE_H
#define LORA__OP_RESIZE_H

#include "op/spectra.h"

#include <lora/report.h>
#include <lora/resize.h>

/* What a module becomes: new factors in the file's types, or, with up NULL,
 * what it was. */
typedef struct lora__resize_result {
    int left_out;
    size_t rank;
    void *up;   /* [rows, rank] */
    void *down; /* [rank, cols] */
    size_t up_bytes;
    size_t down_bytes;
} lora__resize_result;

typedef struct lora__resize {
    const lora_spectra *spectra;
    const lora_adapter *adapter; /* of the spectra */
    const lora_rank_rule *rule;
    lora_adapter_resize_options options;
    const lora__kernels *kernels;
    lora__resize_result *results; /* one a module, as report->modules */
    lora_report *report;
    int lowers; /* some module has new factors */
} lora__resize;

/* How many directions of a module are kept, and the rank that is written: more
 * than those if it is filled up with zeros. */
typedef struct lora__rank_choice {
    size_t keep;
    size_t rank;
} lora__rank_choice;

LORA_PRIVATE lora__rank_choice lora__resize_choose(
    const lora__resize *job, size_t index, const lora__spectrum *spectrum);

/* The type a factor is written in. */
LORA_PRIVATE lora_dtype lora__resize_dtype(const lora__resize *job,
                                           const lora__module *module,
                                           lora__role role);

/* A job of lora__run_jobs(): open a module, choose, cut, and fill in its result
 * and its row of the report. */
LORA_PRIVATE lora_status lora__resize_module(void *job,
                                             size_t index,
                                             uint32_t worker,
                                             lora_error *error);

/* The adapter of the results, which give up their factors. */
LORA_PRIVATE lora_status lora__resize_emit(lora_adapter **out,
                                           lora__resize *job,
                                           lora_error *error);

/* Fill in a row of the report whose singular values are there. `keep` of them
 * are kept, in factors of that rank; `discarded` is the squared norm of the
 * error. */
LORA_PRIVATE void lora__resize_numbers(lora_report_module *out,
                                       size_t keep,
                                       size_t rank,
                                       double discarded);

/* Finish the report, `result` being what was emitted. */
LORA_PRIVATE lora_status lora__resize_report(lora__resize *job,
                                             const lora_adapter *result,
                                             lora_error *error);

#endif
