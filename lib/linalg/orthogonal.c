/* The orthogonal factor, by the reflections of householder.h. */
#include "linalg/orthogonal.h"

#include "linalg/block.h"
#include "linalg/householder.h"

#include <string.h>

typedef struct orthogonal_work {
    lora__block v;     /* [rank, length] */
    lora__block q;     /* [rank, length] */
    lora__block small; /* L, mix and scratch [rank, rank], tau[rank] */
} orthogonal_work;

/* Rows of the short side, in f64: M, or M^T where it is tall or square. */
static void
orthogonal_widen(double *out, const float *values, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            out[rows >= cols ? j * rows + i : i * cols + j] =
                (double)values[i * cols + j];
        }
    }
}

static void orthogonal_narrow(
    float *values, const double *q, size_t rows, size_t cols, double gain)
{
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            const double x = q[rows >= cols ? j * rows + i : i * cols + j];

            values[i * cols + j] = (float)x * (float)gain;
        }
    }
}

/* Q = [I 0] + mix V, each row with the sign that makes L's diagonal positive.
 */
static lora_status orthogonal_solve(orthogonal_work *work,
                                    size_t rank,
                                    size_t length,
                                    lora_context *context,
                                    lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    double *l = work->small.at;
    double *mix = l + rank * rank;
    double *scratch = mix + rank * rank;
    double *tau = scratch + rank * rank;

    TRY(lora__lq_create(l, work->v.at, tau, rank, length, context, error));
    lora__lq_mix(mix, scratch, work->v.at, tau, rank, length, kernels);
    kernels->gemm_f64(work->q.at, length, mix, rank, work->v.at, length, rank,
                      length, rank);
    for (size_t i = 0; i < rank; i++) {
        const double diagonal = l[i * rank + i];
        double *row = work->q.at + i * length;

        row[i] += 1;
        kernels->scale_f64(row, (diagonal > 0) - (diagonal < 0), length);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__orthogonal(float *values,
                                          size_t rows,
                                          size_t cols,
                                          double gain,
                                          lora_context *context,
                                          lora_error *error)
{
    const size_t rank = rows < cols ? rows : cols;
    const size_t length = rows < cols ? cols : rows;
    orthogonal_work work;
    lora_status status = LORA_OK;

    memset(&work, 0, sizeof work);
    TRY_OR_DONE(lora__block_create(&work.v, rank, length, context, error));
    TRY_OR_DONE(lora__block_create(&work.q, rank, length, context, error));
    TRY_OR_DONE(
        lora__block_create(&work.small, rank, 3 * rank + 1, context, error));
    orthogonal_widen(work.v.at, values, rows, cols);
    TRY_OR_DONE(orthogonal_solve(&work, rank, length, context, error));
    orthogonal_narrow(values, work.q.at, rows, cols, gain);
done:
    lora__block_destroy(&work.v, context);
    lora__block_destroy(&work.q, context);
    lora__block_destroy(&work.small, context);
    return status;
}
