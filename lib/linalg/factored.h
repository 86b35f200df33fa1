/* SVD of a matrix given by its factors.
 *
 *     M[rows, cols] = up[rows, rank] * down[rank, cols]
 *
 * QR of both factors, SVD of the small core R_up * R_down^T; the dense matrix
 * is formed only where it is smaller than its factors. All in f64: factors are
 * stored in f32 at best, and the products of condition numbers that trained
 * factors have would cost f32 the small singular values.
 *
 * up is held transposed, up_t[rank, rows], so that both factors have their
 * long side contiguous.
 *
 * Accuracy, T = sum over components of |up_t[i]| |down[i]|, which is at least
 * sigma_1 and much more only where components cancel: singular values to
 * c eps T with c near 10; the truncated product's Frobenius error to
 * 1 + 1e-10 of the optimum plus c eps T; rows of results orthogonal to 1e-11
 * where sigma > 1e-5 T, and to eps T / sigma below. All else being equal,
 * equal bits for any number of threads.
 */
#ifndef LORA__LINALG_FACTORED_H
#define LORA__LINALG_FACTORED_H

#include "kernel/kernel.h"

typedef struct lora__svd_input {
    size_t rows;
    size_t cols;
    size_t rank;
    const double *up_t; /* [rank, rows] */
    const double *down; /* [rank, cols] */
} lora__svd_input;

/* What lora__svd_truncate() needs. */
typedef struct lora__svd_state lora__svd_state;

/* The decomposition, in memory of the context. count = min(rank, rows, cols)
 * singular values, descending, all finite and >= 0. */
typedef struct lora__svd {
    size_t count;
    double *sigma; /* [count] */
    lora__svd_state *state;
} lora__svd;

/* Dimensions are not 0. NONFINITE if a factor is not finite, or a singular
 * value would not be; CONVERGENCE if the SVD does not settle; CANCELLED. Zero
 * factors, rank deficiency, rank > min(rows, cols) and scales from 1e-150 to
 * 1e150 are all in order. Values below 2 eps T are rounding and come out as 0.
 *
 * Takes O(rank^2) memory where factors are well conditioned, else up to as
 * much as the factors twice. Destroy with lora__svd_destroy(). */
LORA_PRIVATE lora_status lora__svd_create(lora__svd *out,
                                          lora_context *context,
                                          const lora__svd_input *input,
                                          lora_error *error);

/* The best approximation of rank k <= count, balanced:
 *   up_t[k, rows] = sqrt(sigma) * U^T,  down[k, cols] = sqrt(sigma) * V^T
 * with U^T in the rows. Rows that belong to sigma = 0 are zero. The input
 * that was decomposed must still be there. */
LORA_PRIVATE lora_status lora__svd_truncate(double *up_t,
                                            double *down,
                                            const lora__svd *svd,
                                            const lora__svd_input *input,
                                            size_t k,
                                            lora_context *context,
                                            lora_error *error);

/* A zeroed or destroyed one is in order. */
LORA_PRIVATE void lora__svd_destroy(lora__svd *svd, lora_context *context);

#endif
