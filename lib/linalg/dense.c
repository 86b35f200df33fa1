/* Truncated SVD of a dense matrix. */
#include "linalg/dense.h"

#include "linalg/rangefinder.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Elements at a time that are widened. */
#define DENSE_BLOCK 1024

/* The shorter side up to which a matrix is decomposed in full. */
#define DENSE_SMALL 64

/* Directions that are looked for at first where no rank is asked for. */
#define DENSE_FIRST 32

/* Rows of the matrix that the second pass works on at a time. */
#define DENSE_ROWS 64

static size_t dense_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* |M|_F^2 with squares in f64, which hold those of any float. Their sum is
 * finite exactly if all elements are. */
static lora_status dense_measure(double *out,
                                 const lora__dense_input *input,
                                 const lora__kernels *kernels,
                                 lora_error *error)
{
    double wide[DENSE_BLOCK];
    double sum = 0;

    for (size_t i = 0; i < input->rows; i++) {
        const float *row = input->values + i * input->cols;

        for (size_t j = 0; j < input->cols; j += DENSE_BLOCK) {
            const size_t some = dense_min(DENSE_BLOCK, input->cols - j);

            kernels->f32_to_f64(wide, row + j, some);
            sum += kernels->dot_f64(wide, wide, some);
        }
        if (!(sum <= DBL_MAX)) {
            return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, NULL,
                              "row %llu of the matrix has NaN or infinity",
                              (unsigned long long)i);
        }
    }
    *out = sum;
    return LORA_OK;
}

/* In full ----------------------------------------------------------------- */

/* M, or M^T where it has more rows than columns, in f64. */
static void dense_widen(double *out,
                        const lora__dense_input *input,
                        const lora__kernels *kernels)
{
    if (input->rows <= input->cols) {
        kernels->f32_to_f64(out, input->values, input->rows * input->cols);
        return;
    }
    for (size_t i = 0; i < input->rows; i++) {
        for (size_t j = 0; j < input->cols; j++) {
            out[j * input->rows + i] =
                (double)input->values[i * input->cols + j];
        }
    }
}

/* The short side is given by the identity, the long one by M itself. */
static lora_status dense_whole(lora__dense *out,
                               lora_context *context,
                               const lora__dense_input *input,
                               lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    const size_t small = dense_min(input->rows, input->cols);
    const size_t large = input->rows + input->cols - small;
    const int tall = input->rows > input->cols;
    double *unit;

    TRY(lora__block_create(&out->blocks[0], small, small, context, error));
    TRY(lora__block_create(&out->blocks[1], small, large, context, error));
    unit = out->blocks[0].at;
    memset(unit, 0, small * small * sizeof *unit);
    for (size_t i = 0; i < small; i++) {
        unit[i * small + i] = 1;
    }
    dense_widen(out->blocks[1].at, input, kernels);
    out->factors.rows = input->rows;
    out->factors.cols = input->cols;
    out->factors.rank = small;
    out->factors.up_t = out->blocks[tall].at;
    out->factors.down = out->blocks[!tall].at;
    TRY(lora__svd_create(&out->svd, context, &out->factors, error));
    out->count = out->svd.count;
    out->sigma = out->svd.sigma;
    out->is_whole = 1;
    out->residual_limit = 1e-14 * sqrt(out->squares);
    return LORA_OK;
}

/* By the range finder ------------------------------------------------------ */

/* The factors as floats, times powers of two that keep the product within the
 * range of floats: M - up down / unit is wanted. */
typedef struct dense_floats {
    size_t rank;
    double up_unit;
    double down_unit;
    float *down;    /* [rank, cols] */
    float *up;      /* [DENSE_ROWS, rank] */
    float *product; /* [DENSE_ROWS, cols] */
} dense_floats;

/* Squares of M - up^T down for rows [from, from + count) of M. */
static double dense_rest_of_rows(const lora__dense_input *input,
                                 const lora__svd_input *factors,
                                 const dense_floats *floats,
                                 size_t from,
                                 size_t count,
                                 const lora__kernels *kernels)
{
    const double back = -1 / (floats->up_unit * floats->down_unit);
    const size_t rank = floats->rank;
    const size_t cols = input->cols;
    double wide[DENSE_BLOCK];
    double other[DENSE_BLOCK];
    double sum = 0;

    for (size_t r = 0; r < rank; r++) {
        const double *row = factors->up_t + r * factors->rows + from;

        for (size_t i = 0; i < count; i++) {
            floats->up[i * rank + r] = (float)(row[i] * floats->up_unit);
        }
    }
    kernels->gemm_f32(floats->product, cols, floats->up, rank, floats->down,
                      cols, count, cols, rank);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < cols; j += DENSE_BLOCK) {
            const size_t some = dense_min(DENSE_BLOCK, cols - j);

            kernels->f32_to_f64(wide, input->values + (from + i) * cols + j,
                                some);
            kernels->f32_to_f64(other, floats->product + i * cols + j, some);
            kernels->axpy_f64(wide, other, back, some);
            sum += kernels->dot_f64(wide, wide, some);
        }
    }
    return sum;
}

/* The residual by a second pass, to 2^-22 |M|: the product in f32 is off by
 * about sqrt(rank) 2^-24 |up| |down|, of mixed sign. */
static lora_status dense_second_pass(lora__dense *out,
                                     lora_context *context,
                                     const lora__dense_input *input,
                                     const lora__range *range,
                                     lora_error *error)
{
    const lora__svd_input *factors = &out->factors;
    const double unit = ldexp(1, range->exponent);
    const size_t cols = input->cols;
    dense_floats floats;
    lora__block block;
    lora_status status = LORA_OK;
    double sum = 0;

    floats.rank = factors->rank;
    floats.up_unit = range->q_is_down ? unit : 1;
    floats.down_unit = range->q_is_down ? 1 : unit;
    TRY(lora__block_create(&block, DENSE_ROWS + floats.rank,
                           cols / 2 + DENSE_ROWS / 2 + 1, context, error));
    floats.down = (float *)(void *)block.at;
    floats.product = floats.down + floats.rank * cols;
    floats.up = floats.product + DENSE_ROWS * cols;
    for (size_t i = 0; i < floats.rank; i++) {
        for (size_t j = 0; j < cols; j++) {
            floats.down[i * cols + j] =
                (float)(factors->down[i * cols + j] * floats.down_unit);
        }
    }
    for (size_t i = 0; i < input->rows; i += DENSE_ROWS) {
        TRY_OR_DONE(lora__progress(context, NULL, 0, 0, error));
        sum += dense_rest_of_rows(input, factors, &floats, i,
                                  dense_min(DENSE_ROWS, input->rows - i),
                                  range->kernels);
    }
    out->residual = sqrt(sum);
    out->residual_limit = 0x1p-22 * sqrt(out->squares);
done:
    lora__block_destroy(&block, context);
    return status;
}

/* |M - Q^T Q M|^2 = |M|^2 - |Q M|^2, as Q is orthonormal. |Q M|^2 is off by
 * 2^-24 of itself at most: errors of elements have mixed signs. Where little
 * is left the difference is that error, and a second pass tells. */
static lora_status dense_residual(lora__dense *out,
                                  lora_context *context,
                                  const lora__dense_input *input,
                                  const lora__range *range,
                                  lora_error *error)
{
    const size_t length = range->lengths[1];
    double rest = out->squares;

    for (size_t i = 0; i < range->count; i++) {
        const double *row = range->b.at + i * length;

        rest -= range->kernels->dot_f64(row, row, length);
    }
    if (rest < 0x1p-10 * out->squares) {
        return dense_second_pass(out, context, input, range, error);
    }
    out->residual = sqrt(rest);
    out->residual_limit = 0x1p-24 * out->squares / out->residual;
    return LORA_OK;
}

/* 1 if what was asked for is among the values that are accurate. */
static int dense_is_enough(const lora__dense *dense,
                           const lora__dense_goal *goal)
{
    const size_t sure = dense->count - LORA__DENSE_EXTRA;
    const double last = dense->sigma[sure - 1];
    double sum = 0;

    for (size_t i = 0; i < sure; i++) {
        sum += dense->sigma[i] * dense->sigma[i];
    }
    return sure >= goal->rank && (goal->above <= 0 || last <= goal->above) &&
           (goal->ratio <= 0 || last <= goal->ratio * dense->sigma[0]) &&
           (goal->energy <= 0 || sum >= goal->energy * dense->squares);
}

/* The SVD of the basis that was found so far. */
static lora_status dense_decompose(lora__dense *out,
                                   lora_context *context,
                                   const lora__range *range,
                                   lora_error *error)
{
    out->factors.rows = range->rows;
    out->factors.cols = range->cols;
    out->factors.rank = range->count;
    out->factors.up_t = range->q_is_down ? range->b.at : range->q.at;
    out->factors.down = range->q_is_down ? range->q.at : range->b.at;
    TRY(lora__svd_create(&out->svd, context, &out->factors, error));
    out->count = out->svd.count;
    out->sigma = out->svd.sigma;
    return LORA_OK;
}

/* Grow until it is enough; `found` stays 0 if it came to most directions. */
static lora_status dense_search(int *found,
                                lora__dense *out,
                                lora_context *context,
                                const lora__dense_input *input,
                                const lora__dense_goal *goal,
                                lora_error *error)
{
    const size_t small = dense_min(input->rows, input->cols);
    size_t add = goal->rank != 0 ? goal->rank : DENSE_FIRST;
    lora_status status = LORA_OK;
    lora__range range;

    lora__range_begin(&range, context, input->values, input->rows, input->cols,
                      out->squares, goal->seed, goal->parallel);
    add = dense_min(add, small) + LORA__DENSE_EXTRA + 7;
    add -= add % 8; /* whole tiles */
    while (!*found && (range.count + add) <= small - small / 4) {
        lora__svd_destroy(&out->svd, context);
        TRY_OR_DONE(lora__range_grow(&range, add, error));
        TRY_OR_DONE(dense_decompose(out, context, &range, error));
        *found = dense_is_enough(out, goal);
        add = range.count;
    }
    if (*found) {
        TRY_OR_DONE(dense_residual(out, context, input, &range, error));
        out->blocks[0] = range.q;
        out->blocks[1] = range.b;
        memset(&range.q, 0, sizeof range.q);
        memset(&range.b, 0, sizeof range.b);
    } else {
        lora__svd_destroy(&out->svd, context);
    }
done:
    lora__range_destroy(&range);
    return status;
}

/* Interface ---------------------------------------------------------------- */

/* All values are 0: as many as were asked for, or one. */
static lora_status dense_zero(lora__dense *out,
                              lora_context *context,
                              const lora__dense_input *input,
                              const lora__dense_goal *goal,
                              lora_error *error)
{
    const size_t small = dense_min(input->rows, input->cols);
    const size_t count = goal->rank > 1 ? dense_min(goal->rank, small) : 1;

    TRY(lora__block_create(&out->zeros, 1, count, context, error));
    memset(out->zeros.at, 0, count * sizeof *out->zeros.at);
    out->factors.rows = input->rows;
    out->factors.cols = input->cols;
    out->count = count;
    out->sigma = out->zeros.at;
    return LORA_OK;
}

static lora_status dense_run(lora__dense *out,
                             lora_context *context,
                             const lora__dense_input *input,
                             const lora__dense_goal *goal,
                             lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    int found = 0;

    TRY(dense_measure(&out->squares, input, kernels, error));
    if (out->squares <= 0) {
        return dense_zero(out, context, input, goal, error);
    }
    if (!goal->exact && dense_min(input->rows, input->cols) > DENSE_SMALL) {
        TRY(dense_search(&found, out, context, input, goal, error));
    }
    return found ? LORA_OK : dense_whole(out, context, input, error);
}

LORA_PRIVATE lora_status lora__dense_create(lora__dense *out,
                                            lora_context *context,
                                            const lora__dense_input *input,
                                            const lora__dense_goal *goal,
                                            lora_error *error)
{
    lora_status status;

    memset(out, 0, sizeof *out);
    INVARIANT(input->rows > 0 && input->cols > 0, error);
    status = dense_run(out, context, input, goal, error);
    if (status != LORA_OK) {
        lora__dense_destroy(out, context);
    }
    return status;
}

LORA_PRIVATE lora_status lora__dense_truncate(double *up_t,
                                              double *down,
                                              const lora__dense *dense,
                                              size_t k,
                                              lora_context *context,
                                              lora_error *error)
{
    INVARIANT(k <= dense->count, error);
    if (dense->svd.state == NULL) {
        memset(up_t, 0, k * dense->factors.rows * sizeof *up_t);
        memset(down, 0, k * dense->factors.cols * sizeof *down);
        return LORA_OK;
    }
    return lora__svd_truncate(up_t, down, &dense->svd, &dense->factors, k,
                              context, error);
}

LORA_PRIVATE void lora__dense_destroy(lora__dense *dense, lora_context *context)
{
    lora__svd_destroy(&dense->svd, context);
    lora__block_destroy(&dense->blocks[0], context);
    lora__block_destroy(&dense->blocks[1], context);
    lora__block_destroy(&dense->zeros, context);
    memset(dense, 0, sizeof *dense);
}
