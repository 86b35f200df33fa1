/* A module's factors decomposed, cut and rounded; modules run side by side. */
#include "linalg/block.h"
#include "op/emit.h"
#include "op/factor_error.h"
#include "op/factor_split.h"
#include "op/report.h"
#include "op/resize.h"
#include "op/values.h"

#include <math.h>
#include <string.h>

/* Encode into `out`, leave in `values` what readers will see, and add the
 * squares of what that changed to *lost. */
static lora_status cut_encode(unsigned char *out,
                              double *values,
                              double *lost,
                              size_t count,
                              lora_dtype dtype,
                              const char *name,
                              const lora__kernels *kernels,
                              lora_error *error)
{
    double seen[256]; /* stays in the cache */
    size_t size = lora_dtype_bits(dtype) / 8;

    for (size_t done = 0; done < count; done += LORA__COUNT(seen)) {
        size_t left = count - done;
        size_t step = left < LORA__COUNT(seen) ? left : LORA__COUNT(seen);
        double *at = values + done;
        double squares;
        TRY(lora__convert_from_f64(out + done * size, dtype, at, step, kernels,
                                   error));
        TRY(lora__convert_to_f64(seen, out + done * size, dtype, step, kernels,
                                 error));
        kernels->axpy_f64(at, seen, -1.0, step);
        squares = kernels->dot_f64(at, at, step);
        if (!(squares - squares == 0.0)) { /* they were finite */
            return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, name,
                              "a new factor is too large for %s: choose "
                              "another dtype",
                              lora_dtype_name(dtype));
        }
        *lost += squares;
        memcpy(at, seen, step * sizeof *at);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__resize_round(double *values,
                                            size_t count,
                                            lora_dtype dtype,
                                            const char *name,
                                            const lora__kernels *kernels,
                                            lora_error *error)
{
    unsigned char chunk[256 * 8];
    double lost = 0.0;

    for (size_t done = 0; done < count; done += 256) {
        size_t step = count - done < 256 ? count - done : 256;
        TRY(cut_encode(chunk, values + done, &lost, step, dtype, name, kernels,
                       error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_dtype lora__resize_dtype(const lora__resize *job,
                                           const lora__module *module,
                                           lora__role role)
{
    const lora__entry *entry = lora__module_entry(job->adapter, module, role);

    return job->options.dtype != LORA_DTYPE_NONE ? job->options.dtype
           : entry != NULL                       ? entry->dtype
                                                 : module->dtype;
}

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
                                             lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    size_t size = lora_dtype_bits(dtype) / 8;
    size_t bytes = rank * length * size;
    unsigned char *flat = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    unsigned char *written = flat;
    lora_status status;

    if (flat == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(cut_encode(flat, values, lost, rank * length, dtype, name,
                           kernels, error));
    if (turned) {
        written = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
        if (written == NULL) {
            status = lora__fail_memory(error, bytes);
            goto done;
        }
        lora__transpose(written, flat, rank, length, size);
    }
    *out = written;
    *out_bytes = bytes;
done:
    if (flat != *out) {
        lora__free(context, flat, bytes, LORA__ALIGN_NUMERIC);
    }
    return status;
}

/* lost[2]: of up and of down. */
static lora_status cut_store_pair(lora__resize *job,
                                  size_t index,
                                  lora__factors *cut,
                                  double *lost,
                                  lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__resize_result *result = &job->results[index];
    lora_dtype up = lora__resize_dtype(job, module, LORA__ROLE_UP);
    lora_dtype down = lora__resize_dtype(job, module, LORA__ROLE_DOWN);

    TRY(lora__resize_encode(&result->up, &result->up_bytes, cut->up_t, &lost[0],
                            cut->rank, cut->rows, 1, up, module->name,
                            cut->context, error));
    TRY(lora__resize_encode(&result->down, &result->down_bytes, cut->down,
                            &lost[1], cut->rank, cut->cols, 0, down,
                            module->name, cut->context, error));
    result->rank = cut->rank;
    result->is_new = 1;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__resize_store(lora__resize *job,
                                            size_t index,
                                            lora__factors *cut,
                                            lora_error *error)
{
    double lost[2] = {0.0, 0.0};

    return cut_store_pair(job, index, cut, lost, error);
}

/* Rows that are compared at once. */
#define CUT_ROWS_BYTES ((size_t)1 << 22)

LORA_PRIVATE lora_status lora__resize_difference(double *out,
                                                 double *out_squares,
                                                 lora__rows *state,
                                                 const lora__module *module,
                                                 lora__rows *other,
                                                 const lora__module *of_other,
                                                 lora_error *error)
{
    const lora__kernels *kernels = state->kernels;
    size_t row = state->cols * sizeof(double);
    size_t step = row > CUT_ROWS_BYTES ? 1 : CUT_ROWS_BYTES / row;
    lora__block block;
    double *there;
    lora_status status = LORA_OK;

    INVARIANT(state->rows == other->rows && state->cols == other->cols, error);
    step = step < state->rows ? step : state->rows;
    TRY(lora__block_create(&block, 2 * step, state->cols, state->context,
                           error));
    there = block.at + step * state->cols;
    *out = 0.0;
    *out_squares = 0.0;
    for (size_t i = 0; i < state->rows; i += step) {
        size_t end = state->rows - i < step ? state->rows : i + step;
        size_t count = (end - i) * state->cols;
        TRY_OR_DONE(lora__rows_read(state, module, i, end, block.at, error));
        TRY_OR_DONE(lora__rows_read(other, of_other, i, end, there, error));
        *out_squares += kernels->dot_f64(block.at, block.at, count);
        kernels->axpy_f64(there, block.at, -1.0, count);
        *out += kernels->dot_f64(there, there, count);
    }
done:
    lora__block_destroy(&block, state->context);
    return status;
}

/* Of a module that is no pair, in another type. */
static lora_status cut_rounded(double *out,
                               const lora__resize *job,
                               const lora__module *module,
                               lora_error *error)
{
    const lora__module inner = lora__module_inner(module);
    lora__module rounded;
    lora__rows before;
    lora__rows after;
    double squares;
    size_t there;
    lora_status status;

    TRY(lora_adapter_find_module(&there, job->rounded, module->name, error));
    rounded = lora__module_inner(&job->rounded->modules[there]);
    TRY(lora__rows_create(&before, job->adapter, &inner, LORA_PART_WEIGHT, 1.0,
                          LORA_DTYPE_F64, error));
    status = lora__rows_create(&after, job->rounded, &rounded, LORA_PART_WEIGHT,
                               1.0, LORA_DTYPE_F64, error);
    if (status == LORA_OK) {
        status = lora__resize_difference(out, &squares, &before, &inner, &after,
                                         &rounded, error);
        lora__rows_destroy(&after);
    }
    lora__rows_destroy(&before);
    return status;
}

LORA_PRIVATE lora_status lora__resize_kept_error(double *out,
                                                 const lora__resize *job,
                                                 const lora__module *module,
                                                 const lora__factors *f,
                                                 lora_error *error)
{
    lora_dtype up_dtype = lora__resize_dtype(job, module, LORA__ROLE_UP);
    lora_dtype down_dtype = lora__resize_dtype(job, module, LORA__ROLE_DOWN);
    lora__factors rounded;
    lora_status status;

    *out = 0.0;
    if (job->options.dtype == LORA_DTYPE_NONE) {
        return LORA_OK;
    }
    if (!module->kind->is_pair) {
        return cut_rounded(out, job, module, error);
    }
    TRY(lora__factors_alloc(&rounded, f->context, f->rows, f->cols, f->rank,
                            error));
    memcpy(rounded.up_t, f->up_t, f->rank * f->rows * sizeof *f->up_t);
    memcpy(rounded.down, f->down, f->rank * f->cols * sizeof *f->down);
    TRY_OR_DONE(lora__resize_round(rounded.up_t, f->rank * f->rows, up_dtype,
                                   module->name, job->kernels, error));
    TRY_OR_DONE(lora__resize_round(rounded.down, f->rank * f->cols, down_dtype,
                                   module->name, job->kernels, error));
    job->kernels->scale_f64(rounded.up_t, f->scale, f->rank * f->rows);
    status = lora__factor_error(out, f, rounded.up_t, rounded.down, f->rank,
                                job->kernels, error);
done:
    lora__factors_destroy(&rounded);
    return status;
}

LORA_PRIVATE lora_status lora__resize_nonfinite(lora__resize *job,
                                                size_t index,
                                                lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    const lora__module *module = &adapter->modules[index];

    if (job->options.skip_bad) {
        job->results[index].left_out = 1;
        return LORA_OK;
    }
    for (size_t i = 0; i < module->member_count; i++) {
        size_t entry = module->members[i].entry;
        lora__values values;
        TRY(lora__values_look(&values, adapter, entry, error));
        TRY(lora__values_check(&values, &adapter->container->entries[entry],
                               error));
    }
    return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, module->name,
                      lora__resize_is_based(job, index)
                          ? "the change is not finite, as the base's weight or "
                            "a product is not"
                          : "the product of its factors overflows");
}

/* Factors of the scaled change in f64; rows behind those kept are zero. */
static lora_status cut_factors(lora__factors *out,
                               const lora__resize *job,
                               const lora__spectra_work *work,
                               lora__rank_choice choice,
                               lora_error *error)
{
    const lora__factors *f = &work->factors;
    size_t rest = choice.rank - choice.keep;

    TRY(lora__factors_alloc(out, f->context, f->rows, f->cols, choice.rank,
                            error));
    memset(out->up_t + choice.keep * f->rows, 0,
           rest * f->rows * sizeof *out->up_t);
    memset(out->down + choice.keep * f->cols, 0,
           rest * f->cols * sizeof *out->down);
    TRY(lora__spectra_truncate(out->up_t, out->down, work, choice.keep, error));
    lora__factors_split(out, job->kernels, job->options.split, f->scale,
                        work->svd->sigma, choice.keep);
    return LORA_OK;
}

/* The squared error of factors that were cut and rounded; lost[2] are the
 * squares of what rounding changed. With U V rounded to (U + dU)(V + dV), it
 * adds no more than
 *     (|dU| |V|_2 + |U|_2 |dV|)^2 < 4 (|dU|^2 |V|_2^2 + |U|_2^2 |dV|^2)
 * to the squares of the values that were cut off; where that is less than 1e-6
 * of these, they are the answer. */
static lora_status cut_error(double *out,
                             const lora__resize *job,
                             const lora__factors *f,
                             const lora__factors *cut,
                             const lora__spectrum *spectrum,
                             size_t keep,
                             const double *lost,
                             lora_error *error)
{
    double largest = spectrum->count > 0 ? spectrum->sigma[0] : 0.0;
    int even = job->options.split == LORA_SPLIT_EVEN;
    double up = even ? largest : largest * largest; /* |U|_2^2 */
    double down = even ? largest : 1.0;
    double tail = 0.0;

    for (size_t i = spectrum->count; i-- > keep;) {
        tail += spectrum->sigma[i] * spectrum->sigma[i];
    }
    if (4.0 * (lost[0] * down + up * lost[1]) < 1e-6 * tail) {
        *out = tail;
        return LORA_OK;
    }
    return lora__factor_error(out, f, cut->up_t, cut->down, cut->rank,
                              job->kernels, error);
}

/* Cut to a pair of factors. */
static lora_status cut_pair(lora__resize *job,
                            size_t index,
                            const lora__spectra_work *work,
                            const lora__spectrum *spectrum,
                            lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    const lora__factors *f = &work->factors;
    lora_report_module *numbers = &job->report->modules[index];
    lora__rank_choice choice = lora__resize_choose(job, index, spectrum);
    lora__factors cut;
    double lost[2] = {0.0, 0.0};
    double discarded = 0.0;
    lora_status status;

    if (choice.rank == f->rank && !lora__resize_is_remade(job, index)) {
        /* it stays what it was */
        TRY(lora__resize_kept_error(&discarded, job, module, f, error));
        lora__resize_numbers(numbers, spectrum->count, choice.rank, discarded);
        return LORA_OK;
    }
    memset(&cut, 0, sizeof cut);
    TRY_OR_DONE(cut_factors(&cut, job, work, choice, error));
    TRY_OR_DONE(cut_store_pair(job, index, &cut, lost, error));
    TRY_OR_DONE(cut_error(&discarded, job, f, &cut, spectrum, choice.keep, lost,
                          error));
    lora__resize_numbers(numbers, choice.keep, choice.rank, discarded);
done:
    lora__factors_destroy(&cut);
    return status;
}

LORA_PRIVATE lora_status lora__resize_opened(lora__resize *job,
                                             size_t index,
                                             const lora__spectra_work *work,
                                             lora_error *error)
{
    double *sigma = (double *)(uintptr_t)job->report->modules[index].sigma;
    lora__spectrum spectrum = lora__spectra_read(work, sigma);

    return lora__resize_keeps_core(job, index)
               ? lora__resize_core(job, index, work, &spectrum, error)
               : cut_pair(job, index, work, &spectrum, error);
}

/* The largest magnitude of some numbers; NaN and infinity are not passed by. */
static double cut_largest(const double *values, size_t count)
{
    double largest = 0.0;

    for (size_t i = 0; i < count; i++) {
        double size = fabs(values[i]);
        largest = size <= largest ? largest : size;
        if (!(size - size == 0.0)) {
            return size;
        }
    }
    return largest;
}

/* Share the scale and the sizes of each term out evenly, as powers of two do
 * it, which round nothing: any type has then room for both. */
static lora_status cut_balance(lora__factors *f,
                               const lora__resize *job,
                               const lora__module *module,
                               lora_error *error)
{
    for (size_t k = 0; k < f->rank; k++) {
        double *up = f->up_t + k * f->rows;
        double *down = f->down + k * f->cols;
        double a = cut_largest(up, f->rows) * fabs(f->scale);
        double b = cut_largest(down, f->cols);
        double by = 0.0;

        if (a > 0.0 && b > 0.0) {
            int of_a;
            int of_b;
            (void)frexp(a, &of_a);
            (void)frexp(b, &of_b);
            by = ldexp(1.0, (of_b - of_a) / 2);
        }
        if (!(a - a == 0.0 && b - b == 0.0)) {
            return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                              module->name, "a factor is not finite");
        }
        job->kernels->scale_f64(up, by * f->scale, f->rows);
        job->kernels->scale_f64(down, by > 0.0 ? 1.0 / by : 0.0, f->cols);
    }
    f->scale = 1.0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__resize_exact(lora__resize *job,
                                            size_t index,
                                            lora__factors *f,
                                            lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    uint64_t limit = lora__context_get(job->adapter->context)->limits.rank;

    if (f->rank > limit) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, module->name,
                          "rank %llu is over the limit of %llu",
                          (unsigned long long)f->rank,
                          (unsigned long long)limit);
    }
    TRY(cut_balance(f, job, module, error));
    TRY(lora__resize_store(job, index, f, error));
    job->report->modules[index].rank_out = (int64_t)f->rank;
    job->report->modules[index].sigma_count = 0; /* nobody asked for them */
    return LORA_OK;
}

/* A pair of all terms that the change is a sum of. */
static lora_status cut_exact(lora__resize *job, size_t index, lora_error *error)
{
    lora__factors f;
    lora_status status;

    TRY(lora__module_factors(&f, job->adapter, &job->adapter->modules[index],
                             error));
    status = lora__resize_exact(job, index, &f, error);
    lora__factors_destroy(&f);
    return status;
}

/* 1 where no spectrum is needed, or not that of the module's factors: *status
 * is what came of it. */
static int cut_is_special(lora_status *status,
                          lora__resize *job,
                          size_t index,
                          lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];

    *status = LORA_OK;
    if (job->results[index].left_out) {
        return 1;
    }
    if (lora__resize_is_based(job, index)) {
        *status = lora__resize_based(job, index, error);
        return 1;
    }
    if (!lora__resize_applies(module) ||
        (job->exact && module->kind->is_pair)) {
        return 1;
    }
    if (job->exact) {
        *status = cut_exact(job, index, error);
        return 1;
    }
    if (lora__resize_is_dense(job, index)) {
        *status = lora__resize_dense(job, index, error);
        return 1;
    }
    return 0;
}

LORA_PRIVATE lora_status lora__resize_module(void *arg,
                                             size_t index,
                                             uint32_t worker,
                                             lora_error *error)
{
    lora__resize *job = arg;
    const lora__module *module = &job->adapter->modules[index];
    lora__spectra_work work;
    lora_error found;
    lora_status status;

    (void)worker;
    lora_error_init(&found, sizeof found);
    if (cut_is_special(&status, job, index, &found)) {
        return status == LORA_OK ? LORA_OK
               : status == LORA_ERROR_NONFINITE
                   ? lora__resize_nonfinite(job, index, error)
                   : lora__error_merge(error, &found);
    }
    status = job->spectra->layers[index].is_nonfinite
                 ? LORA_ERROR_NONFINITE
                 : lora__spectra_open(&work, job->spectra, index, &found);
    if (status == LORA_ERROR_NONFINITE) {
        status = lora__resize_nonfinite(job, index, error);
    } else if (status != LORA_OK) {
        lora__error_merge(error, &found);
    } else {
        status = lora__resize_opened(job, index, &work, error);
        lora__spectra_close(&work);
    }
    lora__error_set_subject(error, module->name);
    return status;
}
