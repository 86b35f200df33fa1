/* The Kronecker product nearest to a dense matrix.
 *
 *     M[rows1 rows2, cols1 cols2] ~ w1[rows1, cols1] (x) w2[rows2, cols2],
 *     (w1 (x) w2)[a rows2 + b, c cols2 + d] = w1[a, c] w2[b, d]
 *
 * With the blocks of M as rows of R[rows1 cols1, rows2 cols2] this is
 * R ~ vec(w1) vec(w2)^T, so the nearest one has the leading singular vectors
 * of R, and leaves sqrt(|R|^2 - sigma_1^2) (Van Loan and Pitsianis). R is
 * never made: its rows are runs of M's.
 *
 * A convolution's weight [out, in, k ...] is the matrix [out, in k], its
 * kernel part of cols2: LoKr's w2[o2, i2, k ...] is w2[o2, i2 k].
 *
 * Elements are f32, sums f64. Single-threaded; equal bits always.
 */
#ifndef LORA__LINALG_KRONECKER_H
#define LORA__LINALG_KRONECKER_H

#include "core/context.h"

typedef struct lora__kronecker_input {
    size_t rows1, cols1;
    size_t rows2, cols2;
    const float *values; /* [rows1 rows2, cols1 cols2] */
} lora__kronecker_input;

/* How LyCORIS divides a dimension >= 1 between w1 and w2: by the factor where
 * it divides, else by the divisor nearest below both it and the square root;
 * 0 is no factor. *small <= *large. */
LORA_PRIVATE void lora__kronecker_split(size_t *small,
                                        size_t *large,
                                        size_t dimension,
                                        size_t factor);

/* The nearest product, |w1| = |w2|, the largest element of w1 positive.
 *
 * *out_error is |M - w1 (x) w2|_F, measured. Its square is above the least one
 * by 1e-10 sigma_1^2 where sigma_2 is a percent below sigma_1; where it is
 * nearer, by a part of what lies between their squares. Dimensions are not 0.
 * NONFINITE if an element is; CONVERGENCE. Takes 26 rows1 cols1 + rows2 cols2
 * doubles and a row of M. */
LORA_PRIVATE lora_status lora__kronecker_fit(double *w1, /* [rows1, cols1] */
                                             double *w2, /* [rows2, cols2] */
                                             double *out_error,
                                             const lora__kronecker_input *input,
                                             lora_context *context,
                                             lora_error *error);

/* The same with w2 = up down of rank k <= min(rows2, cols2), up_t and down as
 * lora__svd_truncate() has them. w1 and w2 are from lora__kronecker_fit(): w2
 * is what goes best with w1, so its best approximation of a rank is the best
 * one of that rank. w1 is fitted to it once more, and w2 becomes up down. To go
 * on in turn would gain 1e-4 of the error at most, and is not done. */
LORA_PRIVATE lora_status lora__kronecker_cut(double *w1,
                                             double *w2,
                                             double *up_t, /* [k, rows2] */
                                             double *down, /* [k, cols2] */
                                             double *out_error,
                                             size_t k,
                                             const lora__kronecker_input *input,
                                             lora_context *context,
                                             lora_error *error);

/* |M - w1 (x) w2|_F of any two, measured. */
LORA_PRIVATE lora_status
lora__kronecker_error(double *out,
                      const double *w1,
                      const double *w2,
                      const lora__kronecker_input *input,
                      lora_context *context,
                      lora_error *error);

#endif
