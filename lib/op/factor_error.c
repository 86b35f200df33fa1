/* The error of factors, three ways. */
#include "op/factor_error.h"

#include <string.h>

/* From the Gram matrices of the stacked factors, n = old + new rank: O((rows +
 * cols) n^2), never the dense matrix. */
static lora_status factor_error_gram(double *out,
                                     const lora__factors *f,
                                     const double *up_t,
                                     const double *down,
                                     size_t rank,
                                     const lora__kernels *kernels,
                                     lora_error *error)
{
    size_t n = f->rank + rank;
    size_t up_count = n * f->rows;
    size_t bytes = (up_count + n * f->cols + 2 * n * n) * sizeof(double);
    double *block = lora__alloc(f->context, bytes, LORA__ALIGN_NUMERIC);
    double *all_down;
    double *gram_up;
    double *gram_down;
    double sum = 0.0;

    if (block == NULL) {
        return lora__fail_memory(error, bytes);
    }
    all_down = block + up_count;
    gram_up = all_down + n * f->cols;
    gram_down = gram_up + n * n;
    memcpy(block, f->up_t, f->rank * f->rows * sizeof *block);
    memcpy(block + f->rank * f->rows, up_t, rank * f->rows * sizeof *block);
    kernels->scale_f64(block, f->scale, f->rank * f->rows);
    kernels->scale_f64(block + f->rank * f->rows, -1.0, rank * f->rows);
    memcpy(all_down, f->down, f->rank * f->cols * sizeof *block);
    memcpy(all_down + f->rank * f->cols, down, rank * f->cols * sizeof *block);
    kernels->gram_f64(gram_up, n, block, f->rows, n, f->rows);
    kernels->gram_f64(gram_down, n, all_down, f->cols, n, f->cols);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            sum += 2.0 * gram_up[i * n + j] * gram_down[i * n + j];
        }
        sum += gram_up[i * n + i] * gram_down[i * n + i];
    }
    lora__free(f->context, block, bytes, LORA__ALIGN_NUMERIC);
    *out = sum > 0.0 ? sum : 0.0;
    return LORA_OK;
}

/* Row by row, for layers that are smaller than their Gram matrices would be:
 * O(rows cols n), in memory of one row. */
static lora_status factor_error_rows(double *out,
                                     const lora__factors *f,
                                     const double *up_t,
                                     const double *down,
                                     size_t rank,
                                     const lora__kernels *kernels,
                                     lora_error *error)
{
    size_t bytes = f->cols * sizeof(double);
    double *row = lora__alloc(f->context, bytes, LORA__ALIGN_NUMERIC);

    if (row == NULL) {
        return lora__fail_memory(error, bytes);
    }
    *out = 0.0;
    for (size_t i = 0; i < f->rows; i++) {
        memset(row, 0, bytes);
        for (size_t r = 0; r < f->rank; r++) {
            kernels->axpy_f64(row, f->down + r * f->cols,
                              f->scale * f->up_t[r * f->rows + i], f->cols);
        }
        for (size_t r = 0; r < rank; r++) {
            kernels->axpy_f64(row, down + r * f->cols, -up_t[r * f->rows + i],
                              f->cols);
        }
        *out += kernels->dot_f64(row, row, f->cols);
    }
    lora__free(f->context, row, bytes, LORA__ALIGN_NUMERIC);
    return LORA_OK;
}

/* M = H + T, the first directions and the others, where these are known and so
 * H and T orthogonal: |M - N|^2 = |H - N|^2 + |T|^2 - 2 <T, N>. O(rank (rows +
 * cols)) for a direction of T. */
static lora_status factor_error_known(double *out,
                                      const lora__factors *f,
                                      const double *up_t,
                                      const double *down,
                                      size_t rank,
                                      const lora__kernels *kernels,
                                      lora_error *error)
{
    lora__factors head = *f;
    double tail = 0.0;
    double inner = 0.0;

    head.sigma = NULL;
    head.rank = rank;
    TRY(lora__factor_error(out, &head, up_t, down, rank, kernels, error));
    for (size_t t = rank; t < f->rank; t++) {
        tail += f->scale * f->sigma[t] * (f->scale * f->sigma[t]);
        for (size_t k = 0; k < rank; k++) {
            inner += kernels->dot_f64(f->up_t + t * f->rows, up_t + k * f->rows,
                                      f->rows) *
                     kernels->dot_f64(f->down + t * f->cols, down + k * f->cols,
                                      f->cols);
        }
    }
    tail += *out - 2.0 * f->scale * inner;
    *out = tail > 0.0 ? tail : 0.0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__factor_error(double *out,
                                            const lora__factors *f,
                                            const double *up_t,
                                            const double *down,
                                            size_t rank,
                                            const lora__kernels *kernels,
                                            lora_error *error)
{
    size_t least = f->rows < f->cols ? f->rows : f->cols;

    if (f->sigma != NULL && rank < f->rank) {
        return factor_error_known(out, f, up_t, down, rank, kernels, error);
    }
    return f->rank + rank < least
               ? factor_error_gram(out, f, up_t, down, rank, kernels, error)
               : factor_error_rows(out, f, up_t, down, rank, kernels, error);
}
