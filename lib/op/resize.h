/* Rank conversion inside: what its files share. A module's factors are
 * decomposed (spectra.c) and cut (resize_cut.c, resize_core.c) to the rank that
 * is chosen for it (resize_choose.c, resize_size.c); the results become an
 * adapter (resize_emit.c) and a report (resize_report.c); resize.c is the call.
 * Source: algorithms.md 1 and 2.
 */
#ifndef LORA__OP_RESIZE_H
#define LORA__OP_RESIZE_H

#include "model/base.h"
#include "op/spectra.h"

#include <lora/report.h>
#include <lora/resize.h>

/* What a module becomes: new factors in the file's types, or what it was. */
typedef struct lora__resize_result {
    int left_out;
    int is_new;
    size_t planned; /* directions, where they are chosen for the whole file */
    size_t rank;
    void *up;   /* [rows, rank] */
    void *down; /* [rank, cols] */
    void *core; /* [rank, rank, kernel], of a module that keeps its core */
    size_t up_bytes;
    size_t down_bytes;
    size_t core_bytes;
    double beyond; /* squares of the singular values that were not found */
    int32_t ndim;  /* not 0: the base told the shape, which the module's may
                    * not be */
    int64_t shape[LORA_MAX_DIMS];
    int has_bias; /* its bias changes with the base's */
    void *bias;   /* [rows] */
    size_t bias_bytes;
    lora__spectrum spectrum; /* of what depends on the base, for a size */
} lora__resize_result;

typedef struct lora__resize {
    const lora_spectra *spectra;
    const lora_adapter *adapter; /* of the spectra */
    const lora_rank_rule *rule;
    lora_adapter_resize_options options;
    const lora__kernels *kernels;
    lora__resize_result *results; /* one a module, as report->modules */
    lora_report *report;
    int pairs;                    /* what is no pair becomes one */
    int exact;                    /* and that is all: no rule */
    const lora__checkpoint *base; /* NULL: there is none */
    const lora__dialect *named;   /* what they are for; NULL: their own */
    lora_adapter *rounded; /* the adapter in another type; NULL: no module
                            * that is no pair changes its type */
    int lowers;            /* some module has new factors */
    int measures;          /* the results have no data */
} lora__resize;

/* How many directions of a module are kept, and the rank that is written: more
 * than those if it is filled up with zeros. */
typedef struct lora__rank_choice {
    size_t keep;
    size_t rank;
} lora__rank_choice;

LORA_PRIVATE lora__rank_choice lora__resize_choose(
    const lora__resize *job, size_t index, const lora__spectrum *spectrum);

/* The same where only the first values are there, with the squares of all;
 * below 0 all values are. */
LORA_PRIVATE lora__rank_choice
lora__resize_choose_part(const lora__resize *job,
                         size_t index,
                         const lora__spectrum *spectrum,
                         double squares);

/* The rule for a module. */
LORA_PRIVATE const lora_rank_rule *lora__resize_rule(const lora__resize *job,
                                                     size_t index);

/* The fewest directions a module may have, and the most that it needs. */
LORA_PRIVATE void lora__resize_range(size_t *out_least,
                                     size_t *out_most,
                                     const lora__resize *job,
                                     const lora__spectrum *spectrum);

/* Choose for the whole file, whose spectra are complete: `planned` of each
 * module under LORA_RANK_SIZE. RANGE if not even the least fits. */
LORA_PRIVATE lora_status lora__resize_plan_size(lora__resize *job,
                                                lora_error *error);

/* Whether a module has factors, or a rank that cannot be lowered. Others stay
 * what they are: biases, norms, full differences. */
LORA_PRIVATE int lora__resize_applies(const lora__module *module);

/* A module with NaN is left out on demand; otherwise say where it is. */
LORA_PRIVATE lora_status lora__resize_nonfinite(lora__resize *job,
                                                size_t index,
                                                lora_error *error);

/* The type a factor is written in. */
LORA_PRIVATE lora_dtype lora__resize_dtype(const lora__resize *job,
                                           const lora__module *module,
                                           lora__role role);

/* Round to the file's type and back, in place: what readers will see.
 * NONFINITE where a value does not fit. */
LORA_PRIVATE lora_status lora__resize_round(double *values,
                                            size_t count,
                                            lora_dtype dtype,
                                            const char *name,
                                            const lora__kernels *kernels,
                                            lora_error *error);

/* Rows [rank, length] in a file's type, in new memory; in `values` what readers
 * will see, and to *lost the squares of what that changed are added. `turned`:
 * written as [length, rank]. *out is NULL before. NONFINITE where a value does
 * not fit. */
LORA_PRIVATE lora_status lora__resize_encode(void **out,
                                             size_t *out_bytes,
                                             double *values,
                                             double *lost,
                                             size_t rank,
                                             size_t length,
                                             int turned,
                                             lora_dtype dtype,
                                             const char *name,
                                             lora_context *context,
                                             lora_error *error);

/* The squared error of a layer that keeps its rank: 0, unless its factors are
 * rounded to another type. */
LORA_PRIVATE lora_status lora__resize_kept_error(double *out,
                                                 const lora__resize *job,
                                                 const lora__module *module,
                                                 const lora__factors *f,
                                                 lora_error *error);

/* The squared norm of the difference of two changes, whose rows are in F64, and
 * that of the first. */
LORA_PRIVATE lora_status lora__resize_difference(double *out,
                                                 double *out_squares,
                                                 lora__rows *state,
                                                 const lora__module *module,
                                                 lora__rows *other,
                                                 const lora__module *of_other,
                                                 lora_error *error);

/* Round factors, which have the scale in them, to the types they are written
 * in, and put them into the result of a module. */
LORA_PRIVATE lora_status lora__resize_store(lora__resize *job,
                                            size_t index,
                                            lora__factors *cut,
                                            lora_error *error);

/* 1 if a module is cut by its dense change; and that; resize_dense.c. */
LORA_PRIVATE int lora__resize_is_dense(const lora__resize *job, size_t index);
LORA_PRIVATE lora_status lora__resize_dense(lora__resize *job,
                                            size_t index,
                                            lora_error *error);

/* All singular values of a dense change, into room for as many as its shorter
 * side has. */
LORA_PRIVATE lora_status lora__resize_dense_spectrum(lora__spectrum *out,
                                                     double *sigma,
                                                     const lora__resize *job,
                                                     size_t index,
                                                     lora_error *error);

/* The shape of a module's change. */
static inline const int64_t *
lora__resize_shape(int32_t *out_ndim, const lora__resize *job, size_t index)
{
    const lora__resize_result *result = &job->results[index];
    const lora__module *module = &job->adapter->modules[index];

    *out_ndim = result->ndim != 0 ? result->ndim : module->ndim;
    return result->ndim != 0 ? result->shape : module->shape;
}

/* ---- with the base; resize_based.c ------------------------------------- */

/* 1 for a module that becomes a pair, and whose change depends on the base: of
 * a resize those that have nothing else to cut. */
static inline int lora__resize_is_based(const lora__resize *job, size_t index)
{
    const lora__module *module = &job->adapter->modules[index];

    return (module->needs & LORA_PART_WEIGHT) != 0 &&
           (job->pairs ||
            (module->kind->factors == NULL && !module->kind->is_whole));
}

/* 1 for a module that becomes a pair, and is none. */
static inline int lora__resize_is_remade(const lora__resize *job, size_t index)
{
    return lora__resize_is_based(job, index) ||
           (job->pairs && !job->adapter->modules[index].kind->is_pair);
}

/* The values that a size of the file is chosen by. */
static inline const lora__spectrum *
lora__resize_spectrum(const lora__resize *job, size_t index)
{
    return lora__resize_is_based(job, index)
               ? &job->results[index].spectrum
               : &job->spectra->layers[index].spectrum;
}

/* Find those of such a module, which are all kept in the report, into
 * `spectrum` of its result. */
LORA_PRIVATE lora_status lora__resize_based_spectrum(lora__resize *job,
                                                     size_t index,
                                                     lora_error *error);

/* Rows of a module's weight change, of DoRA that of the change inside unless it
 * becomes a pair, with the base's tensors, which the state points to, where it
 * depends on them. */
LORA_PRIVATE lora_status lora__resize_rows(lora__rows *out,
                                           lora__found_base *found,
                                           const lora__resize *job,
                                           size_t index,
                                           lora_part part,
                                           lora_dtype dtype,
                                           lora_error *error);

/* Learn the shape of such a module's change, or refuse it. */
LORA_PRIVATE lora_status lora__resize_plan_based(lora__resize *job,
                                                 size_t index,
                                                 lora_error *error);

/* Make it a pair. */
LORA_PRIVATE lora_status lora__resize_based(lora__resize *job,
                                            size_t index,
                                            lora_error *error);

/* Of a weight that is stored [in, out], or that the readers of the result take
 * to be so; and the layer's factors then. */
LORA_PRIVATE int lora__resize_is_turned(const lora__resize *job, size_t index);
LORA_PRIVATE void lora__resize_turn(lora__factors *f);

/* Finish the rows of the report that are of DoRA, `result` being what was
 * emitted: with the base the errors of the changed weights, without a note. */
LORA_PRIVATE lora_status lora__resize_dora(lora__resize *job,
                                           const lora_adapter *result,
                                           lora_error *error);

/* What the base changes of its bias: the role that goes by; UNKNOWN: none. */
LORA_PRIVATE lora__role lora__resize_bias_role(const lora__resize *job,
                                               const lora__module *module);

/* Cut factors that are decomposed to a pair, and measure. */
LORA_PRIVATE lora_status lora__resize_opened(lora__resize *job,
                                             size_t index,
                                             const lora__spectra_work *work,
                                             lora_error *error);

/* A pair of all terms of factors. */
LORA_PRIVATE lora_status lora__resize_exact(lora__resize *job,
                                            size_t index,
                                            lora__factors *f,
                                            lora_error *error);

/* 1 if a module has a core that it is to keep. */
static inline int lora__resize_keeps_core(const lora__resize *job, size_t index)
{
    const lora__module *module = &job->adapter->modules[index];

    return job->options.keep_core && module->tucker && module->kind->is_pair;
}

/* Cut such a module, opened; resize_core.c. */
LORA_PRIVATE lora_status lora__resize_core(lora__resize *job,
                                           size_t index,
                                           const lora__spectra_work *first,
                                           const lora__spectrum *spectrum,
                                           lora_error *error);

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

/* Make every module whose change has factors a pair up and down: its exact
 * factors, or the best of a rank. Pairs are lowered to that rank too. */
LORA_PRIVATE lora_status
lora__resize_to_pairs(lora_adapter **out,
                      lora_report **out_report, /* may be NULL */
                      const lora_adapter *adapter,
                      const lora_rank_rule *rule, /* NULL: exact */
                      const lora__checkpoint *base,
                      const lora__dialect *named,
                      const lora_adapter_resize_options *options,
                      lora_error *error);

/* The size of the file that is emitted, from the ranks of the results alone. */
LORA_PRIVATE lora_status lora__resize_measure(uint64_t *out_bytes,
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
