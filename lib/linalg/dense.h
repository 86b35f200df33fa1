/* Truncated SVD of a dense matrix.
 *
 *     M[rows, cols] ~ U diag(sigma) V^T,  count values, descending
 *
 * held as factors and the SVD of those (factored.h), so that a caller cuts at
 * any rank, balanced as always. Small matrices are decomposed in full, in f64;
 * others by a range finder (rangefinder.h) that grows until the goal is met,
 * and in full after all where that would take most of the directions.
 *
 * Accuracy of the range finder: sigma is never above the true values by more
 * than 1e-6 sigma_1, and below them by what two power iterations leave (less
 * than 1e-3 where the next values fall off by half; some percent at the
 * edge of a flat spectrum); the truncated product's error is within 1.01 of
 * the optimum in the Frobenius norm, plus 1e-6 |M|. Directions below about
 * 1e-7 sigma_1 are rounding. In full: as factored.h says.
 *
 * Equal bits for any number of threads, all else being equal.
 */
#ifndef LORA__LINALG_DENSE_H
#define LORA__LINALG_DENSE_H

#include "linalg/block.h"
#include "linalg/factored.h"

/* More directions than are asked for, which make those that are accurate. */
#define LORA__DENSE_EXTRA 12

typedef struct lora__dense_input {
    size_t rows;
    size_t cols;
    const float *values; /* [rows, cols] */
} lora__dense_input;

/* What is to be found, at least; 0 asks for nothing. */
typedef struct lora__dense_goal {
    size_t rank;   /* so many values */
    double above;  /* all values above this */
    double ratio;  /* all values above ratio * sigma_1 */
    double energy; /* so many that their squares are this share of |M|^2 */
    int exact;     /* in full, in f64, whatever it costs */
    int parallel;  /* may use the executor: not from within a job of it */
    uint64_t seed; /* of the sketch */
} lora__dense_goal;

typedef struct lora__dense {
    size_t count;          /* min(rank asked for, rows, cols) or more */
    const double *sigma;   /* [count] */
    double squares;        /* |M|_F^2, to 1e-12 of it */
    double residual;       /* |M - all count components|_F */
    double residual_limit; /* how far off rounding may have it */
    int is_whole;          /* all min(rows, cols) values are there */

    /* Of the count components. */
    lora__svd_input factors;
    lora__svd svd;
    lora__block blocks[2]; /* what `factors` points to */
    lora__block zeros;     /* sigma of a matrix that is 0 */
} lora__dense;

/* Dimensions are not 0. NONFINITE if an element is; CANCELLED, also in the
 * midst of it; CONVERGENCE. Takes about 2 (rows + cols) count + 10 count^2
 * doubles, and half as many again where the rank is lower than count; in full
 * rows * cols + 10 min(rows, cols)^2, and twice that where it is lower.
 * Destroy with lora__dense_destroy(). */
LORA_PRIVATE lora_status lora__dense_create(lora__dense *out,
                                            lora_context *context,
                                            const lora__dense_input *input,
                                            const lora__dense_goal *goal,
                                            lora_error *error);

/* The best approximation of rank k <= count, as lora__svd_truncate():
 *   up_t[k, rows] = sqrt(sigma) * U^T,  down[k, cols] = sqrt(sigma) * V^T
 * What it leaves has the norm sqrt(residual^2 + sum of the sigma^2 left). The
 * input may be gone. */
LORA_PRIVATE lora_status lora__dense_truncate(double *up_t,
                                              double *down,
                                              const lora__dense *dense,
                                              size_t k,
                                              lora_context *context,
                                              lora_error *error);

/* A zeroed or destroyed one is in order. */
LORA_PRIVATE void lora__dense_destroy(lora__dense *dense,
                                      lora_context *context);

#endif
