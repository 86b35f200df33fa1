/* Cutting modules whose factors would cost more than their dense change, such
 * as LoHa of a high rank: the change itself is decomposed, as far as the rule
 * asks. What is beyond that is known by its norm alone. So it is done too where
 * all spectra are there: the result does not depend on that.
 */
#include "linalg/dense.h"
#include "op/factor_split.h"
#include "op/report.h"
#include "op/resize.h"

#include <math.h>
#include <string.h>

/* Smaller ones are decomposed in full as quickly. */
#define DENSE_LEAST 256

/* A goal that the rule, and cap and floor, can be told by. 0: it looks at all
 * values. */
static int
dense_goal(lora__dense_goal *out, const lora__resize *job, size_t index)
{
    const lora_rank_rule *rule = lora__resize_rule(job, index);

    memset(out, 0, sizeof *out);
    out->rank = (size_t)job->options.min_rank;
    switch (rule->kind) {
    case LORA_RANK_FIXED:
        out->rank = (size_t)rule->rank;
        return 1;
    case LORA_RANK_ENERGY:
        out->energy = rule->value;
        return 1;
    case LORA_RANK_RATIO:
        out->ratio = 1.0 / rule->value;
        return 1;
    case LORA_RANK_THRESHOLD:
        out->above = rule->value;
        return 1;
    case LORA_RANK_SIZE:
        out->rank = job->results[index].planned;
        return 1;
    default:
        return 0;
    }
}

/* Rows, columns, and the shorter side. */
static void dense_sizes(size_t sizes[3], const lora__resize *job, size_t index)
{
    int32_t ndim;
    const int64_t *shape = lora__resize_shape(&ndim, job, index);

    sizes[0] = (size_t)shape[0];
    sizes[1] = lora__shape_size(shape, 1, ndim);
    sizes[2] = sizes[0] < sizes[1] ? sizes[0] : sizes[1];
}

LORA_PRIVATE int lora__resize_is_dense(const lora__resize *job, size_t index)
{
    const lora__module *module = &job->adapter->modules[index];
    size_t rank = module->kind->factor_rank(job->adapter, module);
    lora__dense_goal goal;
    size_t sizes[3];

    dense_sizes(sizes, job, index);
    return !module->kind->is_pair && !module->kind->decomposes &&
           sizes[2] >= DENSE_LEAST && rank > sizes[2] / 2 &&
           lora__resize_rule(job, index)->kind != LORA_RANK_SIZE &&
           dense_goal(&goal, job, index) && goal.rank < rank;
}

/* The squared error of factors, which have the scale in them. */
static double dense_error(const lora__factors *cut,
                          const float *values,
                          double *row,
                          const lora__kernels *kernels)
{
    double sum = 0.0;

    for (size_t i = 0; i < cut->rows; i++) {
        kernels->f32_to_f64(row, values + i * cut->cols, cut->cols);
        for (size_t k = 0; k < cut->rank; k++) {
            kernels->axpy_f64(row, cut->down + k * cut->cols,
                              -cut->up_t[k * cut->rows + i], cut->cols);
        }
        sum += kernels->dot_f64(row, row, cut->cols);
    }
    return sum;
}

/* The row of the report, of the values that were found. */
static void dense_numbers(lora__resize *job,
                          size_t index,
                          const lora__dense *dense,
                          size_t keep,
                          size_t rank,
                          double discarded)
{
    lora_report_module *numbers = &job->report->modules[index];
    double *sigma = (double *)(uintptr_t)numbers->sigma;
    double squares = dense->squares;
    double found = 0.0;

    numbers->sigma_count = dense->count < numbers->sigma_count
                               ? dense->count
                               : numbers->sigma_count;
    memcpy(sigma, dense->sigma, numbers->sigma_count * sizeof *sigma);
    lora__resize_numbers(numbers, keep, rank, discarded);
    for (size_t i = numbers->sigma_count; i-- > 0;) {
        found += sigma[i] * sigma[i];
    }
    job->results[index].beyond = squares > found ? squares - found : 0.0;
    if (squares > 0.0) {
        numbers->energy = 1.0 - discarded / squares;
        numbers->frobenius = sqrt(numbers->energy > 0.0 ? numbers->energy : 0);
        numbers->stable_rank = squares / numbers->largest / numbers->largest;
    }
}

static lora_status dense_cut(lora__resize *job,
                             size_t index,
                             const lora__dense *dense,
                             const float *values,
                             lora_error *error)
{
    lora_context *context = job->adapter->context;
    lora__spectrum spectrum = {dense->sigma, dense->count, 0, 1.0};
    lora__rank_choice choice;
    lora__block row = {NULL, 0};
    int turned =
        lora__resize_is_based(job, index) && lora__resize_is_turned(job, index);
    lora__factors cut;
    size_t sizes[3];
    lora_status status;

    memset(&cut, 0, sizeof cut);
    dense_sizes(sizes, job, index);
    spectrum.full = sizes[2];
    choice = lora__resize_choose_part(job, index, &spectrum, dense->squares);
    TRY_OR_DONE(lora__block_create(&row, sizes[1], 1, context, error));
    TRY_OR_DONE(lora__factors_alloc(&cut, context, sizes[0], sizes[1],
                                    choice.rank, error));
    memset(cut.up_t, 0, choice.rank * cut.rows * sizeof *cut.up_t);
    memset(cut.down, 0, choice.rank * cut.cols * sizeof *cut.down);
    TRY_OR_DONE(lora__dense_truncate(cut.up_t, cut.down, dense, choice.keep,
                                     context, error));
    if (turned) {
        lora__resize_turn(&cut);
    }
    lora__factors_split(&cut, job->kernels, job->options.split, 1.0,
                        dense->sigma, choice.keep);
    TRY_OR_DONE(lora__resize_store(job, index, &cut, error));
    if (turned) {
        lora__resize_turn(&cut);
    }
    dense_numbers(job, index, dense, choice.keep, choice.rank,
                  dense_error(&cut, values, row.at, job->kernels));
done:
    lora__factors_destroy(&cut);
    lora__block_destroy(&row, context);
    return status;
}

/* A module's change, and as much of its decomposition as is wanted. */
typedef struct dense_work {
    lora__dense dense;
    float *values;
    size_t bytes;
} dense_work;

static void dense_end(dense_work *work, lora_context *context)
{
    lora__dense_destroy(&work->dense, context);
    lora__free(context, work->values, work->bytes, LORA__ALIGN_NUMERIC);
}

/* On failure there is something to give back too. */
static lora_status dense_begin(dense_work *work,
                               const lora__resize *job,
                               size_t index,
                               const lora__dense_goal *goal,
                               lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora_context *context = job->adapter->context;
    lora__dense_input input;
    lora__found_base found;
    lora__rows state;
    size_t sizes[3];
    size_t bytes;
    lora_status status;

    memset(work, 0, sizeof *work);
    dense_sizes(sizes, job, index);
    if (!lora__mul_size(sizes[0], sizes[1], &bytes) ||
        !lora__mul_size(bytes, sizeof *work->values, &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    work->values = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    if (work->values == NULL) {
        return lora__fail_memory(error, bytes);
    }
    work->bytes = bytes;
    TRY(lora__resize_rows(&state, &found, job, index, LORA_PART_WEIGHT,
                          LORA_DTYPE_F32, error));
    status =
        lora__rows_read(&state, module, 0, state.rows, work->values, error);
    lora__rows_destroy(&state);
    input.rows = sizes[0];
    input.cols = sizes[1];
    input.values = work->values;
    return status == LORA_OK
               ? lora__dense_create(&work->dense, context, &input, goal, error)
               : status;
}

LORA_PRIVATE lora_status lora__resize_dense(lora__resize *job,
                                            size_t index,
                                            lora_error *error)
{
    lora__dense_goal goal;
    dense_work work;
    lora_status status;

    goal.exact = !dense_goal(&goal, job, index); /* all values */
    status = dense_begin(&work, job, index, &goal, error);
    if (status == LORA_OK) {
        status = dense_cut(job, index, &work.dense, work.values, error);
    }
    dense_end(&work, job->adapter->context);
    return status;
}

LORA_PRIVATE lora_status lora__resize_dense_spectrum(lora__spectrum *out,
                                                     double *sigma,
                                                     const lora__resize *job,
                                                     size_t index,
                                                     lora_error *error)
{
    const lora__dense_goal goal = {.exact = 1};
    dense_work work;
    lora_status status = dense_begin(&work, job, index, &goal, error);

    if (status == LORA_OK) {
        memcpy(sigma, work.dense.sigma, work.dense.count * sizeof *sigma);
        out->sigma = sigma;
        out->count = out->full = work.dense.count;
        out->scale = 1.0;
    }
    dense_end(&work, job->adapter->context);
    return status;
}
