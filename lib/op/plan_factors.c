/* Factors of what a plan's adapters change in a tensor, for a host that keeps
 * them beside the weight:
 *
 *   dW[rows, columns] = sum over r of scales[r] * up[:, r] * down[r, :]
 *
 * with the ranks of all adapters one after another. They are put together in
 * f64, as they are decomposed, and rounded once.
 */
#include "op/plan.h"

#include "core/options.h"
#include "linalg/factored.h"

#include <math.h>
#include <string.h>

/* What is known of a tensor's factors before they are there. */
typedef struct plan_export {
    const lora_plan *plan;
    size_t tensor;
    lora_plan_factors_options options;
    lora__factors factors; /* those of all adapters */
    double *scales;        /* one for each rank of these */
    double error;
} plan_export;

/* Called for each effect that has a strength. */
typedef lora_status (*plan_effect_fn)(plan_export *job,
                                      const lora__patch *patch,
                                      const lora__effect *effect,
                                      lora_error *error);

static lora_status
export_each(plan_export *job, plan_effect_fn fn, lora_error *error)
{
    const lora_plan *plan = job->plan;

    for (size_t i = 0; i < plan->adapter_count; i++) {
        const lora__patch patch = lora__plan_patch(&plan->adapters[i]);
        const size_t *first = patch.bind->first + job->tensor;
        for (size_t e = first[0]; e < first[1]; e++) {
            const lora__effect *effect = patch.bind->effects[e];
            if (lora__patch_strength(&patch, effect->module) != 0.0) {
                TRY(fn(job, &patch, effect, error));
            }
        }
    }
    return LORA_OK;
}

static lora_status export_count(plan_export *job,
                                const lora__patch *patch,
                                const lora__effect *effect,
                                lora_error *error)
{
    const lora_adapter *adapter = patch->bind->adapter;
    const lora__module *module = &adapter->modules[effect->module];

    if (effect->part != LORA_PART_WEIGHT) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "the change of a bias has no factors");
    }
    TRY(lora__module_has_factors(module, error));
    if (!lora__add_size(job->factors.rank,
                        module->kind->factor_rank(adapter, module),
                        &job->factors.rank)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    return LORA_OK;
}

/* Copy a module's factors behind those that are there. `up` and `down` are
 * those of the tensor, as it lies: a module of a weight that is stored
 * transposed has them the other way round, and so has a tensor that is the
 * transpose of its weight. */
static lora_status export_put(plan_export *job,
                              const lora__factors *f,
                              const lora__effect *effect,
                              int turned,
                              lora_error *error)
{
    lora__factors *to = &job->factors;
    const double *up_t = turned ? f->down : f->up_t;
    const double *down = turned ? f->up_t : f->down;
    const size_t rows = turned ? f->cols : f->rows;

    INVARIANT((turned ? f->rows : f->cols) == to->cols, error);
    for (size_t r = 0; r < f->rank; r++) {
        double *up_to = to->up_t + (to->rank + r) * to->rows;
        for (size_t s = 0; s < effect->span_count; s++) {
            const lora__span *span = &effect->spans[s];
            const size_t count = span->end - span->begin;
            INVARIANT(span->first + count <= rows && span->end <= to->rows,
                      error);
            memcpy(up_to + span->begin, up_t + r * rows + span->first,
                   count * sizeof *up_to);
        }
    }
    memcpy(to->down + to->rank * to->cols, down,
           f->rank * to->cols * sizeof *down);
    return LORA_OK;
}

static lora_status export_add(plan_export *job,
                              const lora__patch *patch,
                              const lora__effect *effect,
                              lora_error *error)
{
    const lora_adapter *adapter = patch->bind->adapter;
    const lora__module *module = &adapter->modules[effect->module];
    const double strength = lora__patch_strength(patch, effect->module);
    lora__factors f;
    lora_status status;

    TRY(lora__module_factors(&f, adapter, module, error));
    status = export_put(job, &f, effect, module->transposed != effect->turned,
                        error);
    for (size_t r = 0; status == LORA_OK && r < f.rank; r++) {
        job->scales[job->factors.rank++] = strength * f.scale;
    }
    lora__factors_destroy(&f);
    return status;
}

/* Put the factors of all effects behind each other. */
static lora_status
export_fill(plan_export *job, size_t exact, lora_error *error)
{
    const size_t rows = job->factors.rows;
    const size_t cols = job->factors.cols;
    void *memory;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, job->plan->context, exact,
                           sizeof *job->scales, error));
    job->scales = memory;
    TRY(lora__factors_alloc(&job->factors, job->plan->context, rows, cols,
                            exact, error));
    memset(job->factors.up_t, 0, rows * exact * sizeof(double));
    job->factors.rank = 0; /* so many are there */
    status = export_each(job, export_add, error);
    if (status == LORA_OK && job->factors.rank != exact) {
        status = lora__fail(error, LORA_ERROR_INTERNAL, LORA_NO_OFFSET, NULL,
                            "factors of another rank than was said");
    }
    job->factors.rank = exact;
    return status;
}

/* The nearest of a lower rank, and how far it is from what there was. */
static lora_status export_compress(plan_export *job, lora_error *error)
{
    lora_context *context = job->plan->context;
    const lora__kernels *kernels = job->plan->kernels;
    lora__factors *f = &job->factors;
    lora__factors closest = {0};
    lora__svd_input input;
    lora__svd svd = {0};
    double total = 0.0;
    double rest = 0.0;
    size_t rank = (size_t)job->options.rank;
    lora_status status;

    for (size_t r = 0; r < f->rank; r++) {
        kernels->scale_f64(f->up_t + r * f->rows, job->scales[r], f->rows);
        job->scales[r] = 1.0;
    }
    input.rows = f->rows;
    input.cols = f->cols;
    input.rank = f->rank;
    input.up_t = f->up_t;
    input.down = f->down;
    TRY(lora__svd_create(&svd, context, &input, error));
    TRY_OR_DONE(
        lora__factors_alloc(&closest, context, f->rows, f->cols, rank, error));
    memset(closest.up_t, 0, rank * f->rows * sizeof(double));
    memset(closest.down, 0, rank * f->cols * sizeof(double));
    TRY_OR_DONE(lora__svd_truncate(closest.up_t, closest.down, &svd, &input,
                                   rank < svd.count ? rank : svd.count, context,
                                   error));
    for (size_t i = svd.count; i-- > 0;) {
        total += svd.sigma[i] * svd.sigma[i];
        rest = i >= rank ? total : rest;
    }
    job->error = total == 0.0 ? 0.0 : sqrt(rest / total);
    lora__factors_destroy(f);
    *f = closest;
    memset(&closest, 0, sizeof closest);
done:
    lora__factors_destroy(&closest);
    lora__svd_destroy(&svd, context);
    return status;
}

/* ---- writing ----------------------------------------------------------- */

/* What rounds to infinity, and all that is larger. */
static double export_too_large(lora_dtype dtype)
{
    return dtype == LORA_DTYPE_F16    ? 65520.0
           : dtype == LORA_DTYPE_BF16 ? 0x1.FFp127
                                      : 0x1.FFFFFFp127;
}

static lora_status export_check(const plan_export *job,
                                const double *numbers,
                                size_t row,
                                size_t count,
                                double scale,
                                lora_error *error)
{
    const double limit = export_too_large(job->options.dtype);

    for (size_t i = 0; i < count; i++) {
        if (!(fabs(numbers[row * count + i] * scale) < limit)) {
            return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                              job->plan->checkpoint->tensors[job->tensor].name,
                              "a number of its factors does not fit into %s",
                              lora_dtype_name(job->options.dtype));
        }
    }
    return LORA_OK;
}

static lora_status export_check_all(const plan_export *job,
                                    const double *scales,
                                    lora_error *error)
{
    const lora__factors *f = &job->factors;

    for (size_t r = 0; r < f->rank; r++) {
        const double scale = scales == NULL ? job->scales[r] : 1.0;
        TRY(export_check(job, f->up_t, r, f->rows, scale, error));
        TRY(export_check(job, f->down, r, f->cols, 1.0, error));
    }
    return LORA_OK;
}

/* Rows of `rank` numbers, from one line of numbers for each rank, or lines as
 * they are; `line` has room for one. */
static lora_status export_write(const plan_export *job,
                                const lora_plan_factors_info *info,
                                unsigned char *up,
                                unsigned char *down,
                                const double *scales,
                                double *line,
                                lora_error *error)
{
    const lora__factors *f = &job->factors;
    const lora__kernels *kernels = job->plan->kernels;
    const lora_dtype dtype = job->options.dtype;
    const size_t size = lora_dtype_bits(dtype) / 8;
    const size_t rank = (size_t)info->rank;

    memset(line, 0, (rank > f->cols ? rank : f->cols) * sizeof *line);
    for (size_t r = f->rank; r < rank; r++) {
        memset(down + r * job->options.down_step * size, 0, f->cols * size);
    }
    for (size_t i = 0; i < f->rows && rank > 0; i++) {
        for (size_t r = 0; r < f->rank; r++) {
            line[r] = f->up_t[r * f->rows + i] *
                      (scales == NULL ? job->scales[r] : 1.0);
        }
        TRY(lora__convert_from_f64(up + i * job->options.up_step * size, dtype,
                                   line, rank, kernels, error));
    }
    for (size_t r = 0; r < f->rank; r++) {
        TRY(lora__convert_from_f64(down + r * job->options.down_step * size,
                                   dtype, f->down + r * f->cols, f->cols,
                                   kernels, error));
    }
    return LORA_OK;
}

static lora_status export_run(plan_export *job,
                              lora_plan_factors_info *info,
                              unsigned char *up,
                              unsigned char *down,
                              double *scales,
                              lora_error *error)
{
    lora_context *context = job->plan->context;
    const size_t exact = (size_t)info->exact_rank;
    const size_t rank = (size_t)info->rank;
    size_t line_count;
    double *line;
    void *memory;
    lora_status status;

    if (exact > 0) {
        TRY(export_fill(job, exact, error));
    }
    if (job->options.rank > 0 && (size_t)job->options.rank < exact) {
        TRY(export_compress(job, error));
    }
    TRY(export_check_all(job, scales, error));
    line_count = rank > job->factors.cols ? rank : job->factors.cols;
    TRY(lora__alloc_zeroed(&memory, context, line_count, sizeof *line, error));
    line = memory;
    status = export_write(job, info, up, down, scales, line, error);
    lora__free(context, line, line_count * sizeof *line, LORA__ALIGN);
    for (size_t r = 0; status == LORA_OK && scales != NULL && r < rank; r++) {
        scales[r] = r < job->factors.rank ? job->scales[r] : 0.0;
    }
    info->error = job->error;
    return status;
}

/* ---- sizes ------------------------------------------------------------- */

static lora_status export_options(plan_export *job,
                                  const lora_plan_factors_options *options,
                                  lora_error *error)
{
    lora_plan_factors_options *own = &job->options;

    TRY(lora__options_read(own, sizeof *own,
                           LORA__SIZE_TO(lora_plan_factors_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(own->reserved1, error));
    if (own->dtype == LORA_DTYPE_NONE) {
        own->dtype = LORA_DTYPE_F32;
    }
    if (own->dtype != LORA_DTYPE_F32 && own->dtype != LORA_DTYPE_F16 &&
        own->dtype != LORA_DTYPE_BF16) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "F32, F16 or BF16 is needed");
    }
    CHECK_ARG(own->rank >= 0 && own->pad_rank >= 0, error);
    return LORA_OK;
}

/* Bytes of rows with steps; the last one has no gap behind it. */
static lora_status export_bytes(uint64_t *out,
                                size_t *step,
                                const char *name,
                                size_t rows,
                                size_t columns,
                                lora_dtype dtype,
                                lora_error *error)
{
    const size_t size = lora_dtype_bits(dtype) / 8;
    size_t bytes = 0;

    if (*step == 0) {
        *step = columns;
    }
    if (*step < columns) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, name,
                          "less than the %llu elements of a row",
                          (unsigned long long)columns);
    }
    if (rows != 0 && columns != 0 &&
        (!lora__mul_size(rows - 1, *step, &bytes) ||
         !lora__add_size(bytes, columns, &bytes) ||
         !lora__mul_size(bytes, size, &bytes))) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    *out = bytes;
    return LORA_OK;
}

static lora_status
export_sizes(lora_plan_factors_info *info, plan_export *job, lora_error *error)
{
    lora_plan_factors_options *options = &job->options;
    lora__factors *f = &job->factors;
    size_t rank;

    TRY(export_each(job, export_count, error));
    rank = f->rank;
    if (options->rank > 0 && (size_t)options->rank < rank) {
        rank = (size_t)options->rank;
    }
    if (options->pad_rank > 0) {
        if (rank > (size_t)options->pad_rank) {
            return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                              "pad_rank", "the rank is %llu",
                              (unsigned long long)rank);
        }
        rank = (size_t)options->pad_rank;
    }
    info->rows = (int64_t)f->rows;
    info->columns = (int64_t)f->cols;
    info->exact_rank = (int64_t)f->rank;
    info->rank = (int64_t)rank;
    f->rank = 0;
    TRY(export_bytes(&info->up_bytes, &options->up_step, "up_step", f->rows,
                     rank, options->dtype, error));
    return export_bytes(&info->down_bytes, &options->down_step, "down_step",
                        rank, f->cols, options->dtype, error);
}

LORA_API void lora_plan_factors_options_init(lora_plan_factors_options *options,
                                             size_t size)
{
    lora__options_init(options, size);
}

LORA_API lora_status lora_plan_factors(lora_plan_factors_info *out,
                                       void *up,
                                       size_t up_bytes,
                                       void *down,
                                       size_t down_bytes,
                                       double *scales,
                                       const lora_plan *plan,
                                       size_t tensor,
                                       const lora_plan_factors_options *options,
                                       lora_error *error)
{
    lora_plan_factors_info info;
    plan_export job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(plan != NULL, error);
    CHECK_ARG((up == NULL) == (down == NULL), error);
    memset(&job, 0, sizeof job);
    memset(&info, 0, sizeof info);
    TRY(export_options(&job, options, error));
    if (tensor >= plan->target_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "the model has no tensor %llu",
                          (unsigned long long)tensor);
    }
    job.plan = plan;
    job.tensor = tensor;
    job.factors.rows = plan->targets[tensor].rows;
    job.factors.cols = plan->targets[tensor].columns;
    TRY(export_sizes(&info, &job, error));
    if (up != NULL) {
        if (up_bytes < info.up_bytes || down_bytes < info.down_bytes) {
            return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                              up_bytes < info.up_bytes ? "up" : "down",
                              "the buffer is too small");
        }
        status = export_run(&job, &info, up, down, scales, error);
        lora__free(plan->context, job.scales,
                   (size_t)info.exact_rank * sizeof *job.scales, LORA__ALIGN);
        lora__factors_destroy(&job.factors);
        TRY(status);
    }
    return lora__out_write(out, &info, sizeof info, error);
}
