/* Making pairs of modules whose change depends on the base: of the factors that
 * the kind then has, or else of the dense change, which is read a module at a
 * time.
 *
 * All of a change without factors is a pair of its own kind: the change, and an
 * identity on its shorter side.
 */
#include "adapter/config.h"
#include "linalg/block.h"
#include "op/emit.h"
#include "op/factor_error.h"
#include "op/report.h"
#include "op/resize.h"

#include <math.h>
#include <string.h>

/* ---- rows -------------------------------------------------------------- */

LORA_PRIVATE lora_status lora__resize_rows(lora__rows *out,
                                           lora__found_base *found,
                                           const lora__resize *job,
                                           size_t index,
                                           lora_part part,
                                           lora_dtype dtype,
                                           lora_error *error)
{
    lora__module module = job->adapter->modules[index];

    if (!lora__resize_is_based(job, index)) {
        module = lora__module_inner(&module);
    }
    return lora__base_rows(out, found, job->base, job->adapter, &module, part,
                           dtype, error);
}

/* ---- planning ---------------------------------------------------------- */

/* What a pair has no place for. */
static lora_status based_check(const lora__module *module, lora_error *error)
{
    const char *beside = module->padded   ? "a weight with zeros put to it"
                         : module->sparse ? "a sparse residual"
                         : module->kind->columns ? "an embedding"
                                                 : NULL;

    return beside == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name, "%s%s of %s cannot become a pair",
                            module->kind->id, module->dora ? " with DoRA" : "",
                            beside);
}

LORA_PRIVATE lora__role lora__resize_bias_role(const lora__resize *job,
                                               const lora__module *module)
{
    const lora__dialect *dialect =
        job->named != NULL ? job->named : module->dialect;

    return lora__dialect_has_role(dialect, LORA__ROLE_DIFF_BIAS)
               ? LORA__ROLE_DIFF_BIAS
           : lora__dialect_has_role(dialect, LORA__ROLE_UP_BIAS)
               ? LORA__ROLE_UP_BIAS
               : LORA__ROLE_UNKNOWN;
}

/* Whether the bias changes with the base's, which is there. */
static int based_has_bias(const lora__module *module, const lora__rows_how *how)
{
    return (module->needs & LORA_PART_BIAS) != 0 &&
           !lora__base_lacks_bias(module, LORA_PART_BIAS, how);
}

static lora_status
based_plan(lora__resize *job, size_t index, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__resize_result *result = &job->results[index];
    lora_report_module *numbers = &job->report->modules[index];
    lora__found_base found;
    lora__rows_how how;
    size_t rows;
    size_t cols;
    void *memory;

    TRY(based_check(module, error));
    TRY(lora__base_how(&how, &found, job->base, module, LORA_PART_WEIGHT,
                       error));
    TRY(lora__rows_plan(result->shape, &result->ndim, module, &how, error));
    if (result->ndim < 2) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the base's weight is a vector, which has no pair");
    }
    result->has_bias = based_has_bias(module, &how);
    if (result->has_bias &&
        lora__resize_bias_role(job, module) == LORA__ROLE_UNKNOWN) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "the change of its bias has no name in this dialect");
    }
    rows = (size_t)result->shape[0];
    cols = lora__shape_size(result->shape, 1, result->ndim);
    numbers->sigma_count = rows < cols ? rows : cols;
    TRY(lora__arena_zeroed(&memory, &job->report->arena, numbers->sigma_count,
                           sizeof(double), error));
    numbers->sigma = memory;
    numbers->rank_in = module->rank;
    return LORA_OK;
}

/* What the base does not fit is as unusable as what does not fit in itself. */
LORA_PRIVATE lora_status lora__resize_plan_based(lora__resize *job,
                                                 size_t index,
                                                 lora_error *error)
{
    lora__found_base found;
    lora__rows state;
    lora_status status = based_plan(job, index, error);

    if (status == LORA_OK && job->options.skip_bad) {
        status = lora__resize_rows(&state, &found, job, index, LORA_PART_WEIGHT,
                                   LORA_DTYPE_F32, error);
        if (status == LORA_OK) {
            lora__rows_destroy(&state);
        }
    }
    if (job->options.skip_bad && job->base != NULL &&
        (status == LORA_ERROR_KEY || status == LORA_ERROR_SHAPE ||
         status == LORA_ERROR_DTYPE)) {
        lora__error_begin(error);
        job->results[index].left_out = 1;
        return LORA_OK;
    }
    return status;
}

/* ---- all of a change --------------------------------------------------- */

/* The report of a pair that is all of the change but for rounding. */
static void based_measured(
    lora__resize *job, size_t index, size_t rank, double squares, double lost)
{
    lora_report_module *numbers = &job->report->modules[index];

    numbers->sigma_count = 0;
    lora__resize_numbers(numbers, 0, rank, lost);
    numbers->energy = squares > 0.0 ? 1.0 - lost / squares : 1.0;
    numbers->frobenius = sqrt(numbers->energy > 0.0 ? numbers->energy : 0.0);
    job->results[index].beyond = squares;
}

LORA_PRIVATE void lora__resize_turn(lora__factors *f)
{
    double *up_t = f->up_t;
    size_t rows = f->rows;

    f->up_t = f->down;
    f->rows = f->cols;
    f->down = up_t;
    f->cols = rows;
}

LORA_PRIVATE int lora__resize_is_turned(const lora__resize *job, size_t index)
{
    const lora__module *module = &job->adapter->modules[index];

    return module->transposed ||
           (lora__resize_is_based(job, index) && !module->known &&
            job->results[index].ndim == 2 &&
            lora__config_transposed(job->adapter->config, module->target));
}

/* All terms of factors. */
static lora_status based_exact(lora__resize *job,
                               size_t index,
                               lora__factors *f,
                               lora_error *error)
{
    lora_context *context = f->context;
    size_t up_count = f->rank * f->rows;
    size_t down_count = f->rank * f->cols;
    double squares = 0.0;
    double lost = 0.0;
    lora__factors old = *f;
    lora__block copy;
    lora_status status;

    TRY(lora__block_create(&copy, 1, up_count + down_count, context, error));
    memcpy(copy.at, f->up_t, up_count * sizeof *copy.at);
    memcpy(copy.at + up_count, f->down, down_count * sizeof *copy.at);
    old.up_t = copy.at;
    old.down = copy.at + up_count;
    TRY_OR_DONE(lora__factor_error(&squares, &old, old.up_t, old.down, 0,
                                   job->kernels, error));
    TRY_OR_DONE(lora__resize_exact(job, index, f, error));
    TRY_OR_DONE(lora__factor_error(&lost, &old, f->up_t, f->down, f->rank,
                                   job->kernels, error));
    based_measured(job, index, f->rank, squares, lost);
done:
    lora__block_destroy(&copy, context);
    return status;
}

/* All rows as [rank, long side] into the long factor: as they are, or turned
 * where there are more rows than columns. */
static lora_status based_read(lora__factors *f,
                              lora__rows *state,
                              const lora__module *module,
                              lora_error *error)
{
    lora__block block = {NULL, 0};
    lora_status status;

    if (state->rows <= state->cols) {
        return lora__rows_read(state, module, 0, state->rows, f->down, error);
    }
    TRY(lora__block_create(&block, state->rows, state->cols, state->context,
                           error));
    status = lora__rows_read(state, module, 0, state->rows, block.at, error);
    if (status == LORA_OK) {
        lora__rows_transpose(state, f->up_t, block.at, state->rows,
                             state->cols);
    }
    lora__block_destroy(&block, state->context);
    return status;
}

/* Half the exponent of the largest magnitude: by it both factors come as near
 * to each other as powers of two bring them, which round nothing. */
static int based_exponent(double *out_squares,
                          const double *values,
                          size_t count,
                          const lora__kernels *kernels)
{
    double largest = 0.0;
    int exponent;

    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs(values[i]));
    }
    *out_squares = kernels->dot_f64(values, values, count);
    (void)frexp(largest, &exponent);
    return largest > 0.0 ? exponent / 2 : 0;
}

/* The change itself, and an identity. */
static lora_status based_whole(lora__resize *job,
                               size_t index,
                               lora__rows *state,
                               lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    size_t rank = state->rows < state->cols ? state->rows : state->cols;
    size_t count = state->rows * state->cols;
    int wide = state->rows <= state->cols;
    double squares = 0.0;
    double lost = 0.0;
    lora__block old = {NULL, 0};
    lora__factors f;
    double *longer;
    double *one;
    int exponent;
    lora_status status;

    TRY(lora__factors_alloc(&f, state->context, state->rows, state->cols, rank,
                            error));
    longer = wide ? f.down : f.up_t;
    one = wide ? f.up_t : f.down;
    TRY_OR_DONE(based_read(&f, state, module, error));
    exponent = based_exponent(&squares, longer, count, job->kernels);
    if (!(squares - squares == 0.0)) {
        status = lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                            module->name, "the change is not finite");
        goto done;
    }
    TRY_OR_DONE(lora__block_create(&old, 1, count, state->context, error));
    job->kernels->scale_f64(longer, ldexp(1.0, -exponent), count);
    memcpy(old.at, longer, count * sizeof *longer);
    memset(one, 0, rank * rank * sizeof *one);
    for (size_t i = 0; i < rank; i++) {
        one[i * rank + i] = ldexp(1.0, exponent);
    }
    if (lora__resize_is_turned(job, index)) {
        lora__resize_turn(&f);
    }
    f.scale = 1.0;
    TRY_OR_DONE(lora__resize_store(job, index, &f, error));
    job->kernels->axpy_f64(old.at, longer, -1.0, count);
    lost = job->kernels->dot_f64(old.at, old.at, count);
    based_measured(job, index, rank, squares, ldexp(lost, 2 * exponent));
done:
    lora__block_destroy(&old, state->context);
    lora__factors_destroy(&f);
    return status;
}

/* ---- a module ---------------------------------------------------------- */

/* 1 if nothing tells the change but the change itself. */
static int based_is_dense(const lora__module *module)
{
    return module->dora || module->kind->based_factors == NULL;
}

/* 1 if the rule, within the cap, keeps all that so many terms make, and writes
 * no more. */
static int based_keeps_all(const lora__resize *job, size_t index, size_t rank)
{
    const lora_rank_rule *rule = lora__resize_rule(job, index);
    size_t cap = (size_t)job->options.max_rank;

    return rule->kind == LORA_RANK_FIXED && (size_t)rule->rank >= rank &&
           (cap == 0 || cap >= rank) && !job->options.pad;
}

/* The factors that the kind has, all of them or by the rule; not all, where
 * they are more than a change can have. */
static lora_status based_factors(lora__resize *job,
                                 size_t index,
                                 lora__rows *state,
                                 lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__factors f;
    lora__spectra_work work;
    lora__found_base found;
    int many;
    lora_status status;

    TRY(module->kind->based_factors(&f, state, module, error));
    lora__rows_destroy(state);
    many = f.rank > f.rows || f.rank > f.cols;
    if (job->exact && many) {
        lora__factors_destroy(&f);
        TRY(lora__resize_rows(state, &found, job, index, LORA_PART_WEIGHT,
                              LORA_DTYPE_F64, error));
        status = based_whole(job, index, state, error);
        lora__rows_destroy(state);
        return status;
    }
    if (job->exact || (!many && based_keeps_all(job, index, f.rank))) {
        status = based_exact(job, index, &f, error);
        lora__factors_destroy(&f);
        return status;
    }
    TRY(lora__spectra_take(&work, &f, error));
    job->report->modules[index].sigma_count = work.svd->count;
    status = lora__resize_opened(job, index, &work, error);
    lora__spectra_close(&work);
    return status;
}

/* The bias change that comes of the base's. */
static lora_status
based_bias(lora__resize *job, size_t index, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__resize_result *result = &job->results[index];
    lora__found_base found;
    lora__rows state;
    lora__block values = {NULL, 0};
    lora_dtype dtype = lora__resize_dtype(job, module, LORA__ROLE_UP);
    lora_status status;

    if (!result->has_bias) {
        return LORA_OK;
    }
    TRY(lora__resize_rows(&state, &found, job, index, LORA_PART_BIAS,
                          LORA_DTYPE_F64, error));
    TRY_OR_DONE(
        lora__block_create(&values, 1, state.rows, state.context, error));
    TRY_OR_DONE(
        lora__rows_read(&state, module, 0, state.rows, values.at, error));
    TRY_OR_DONE(lora__emit_encode(&result->bias, state.context, module->name,
                                  dtype, values.at, state.rows, error));
    result->bias_bytes = state.rows * (lora_dtype_bits(dtype) / 8);
done:
    lora__block_destroy(&values, state.context);
    lora__rows_destroy(&state);
    return status;
}

LORA_PRIVATE lora_status lora__resize_based(lora__resize *job,
                                            size_t index,
                                            lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__found_base found;
    lora__rows state;
    lora_status status;

    TRY(based_bias(job, index, error));
    if (!job->exact && based_is_dense(module)) {
        return lora__resize_dense(job, index, error);
    }
    TRY(lora__resize_rows(&state, &found, job, index, LORA_PART_WEIGHT,
                          LORA_DTYPE_F64, error));
    status = based_is_dense(module) ? based_whole(job, index, &state, error)
                                    : based_factors(job, index, &state, error);
    lora__rows_destroy(&state);
    return status;
}

LORA_PRIVATE lora_status lora__resize_based_spectrum(lora__resize *job,
                                                     size_t index,
                                                     lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__spectrum *out = &job->results[index].spectrum;
    double *sigma = (double *)(uintptr_t)job->report->modules[index].sigma;
    lora__spectra_work work;
    lora__factors f;
    lora__found_base found;
    lora__rows state;
    lora_status status;

    if (based_is_dense(module)) {
        return lora__resize_dense_spectrum(out, sigma, job, index, error);
    }
    TRY(lora__resize_rows(&state, &found, job, index, LORA_PART_WEIGHT,
                          LORA_DTYPE_F64, error));
    status = module->kind->based_factors(&f, &state, module, error);
    lora__rows_destroy(&state);
    if (status == LORA_OK) {
        status = lora__spectra_take(&work, &f, error);
    }
    if (status == LORA_OK) {
        *out = lora__spectra_read(&work, sigma);
        lora__spectra_close(&work);
    }
    return status;
}
