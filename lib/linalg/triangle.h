/* Lower triangular matrices L[n, n], row-major and dense: Cholesky, solving,
 * condition. All inner loops run along rows of L. Only linalg/ calls this.
 */
#ifndef LORA__LINALG_TRIANGLE_H
#define LORA__LINALG_TRIANGLE_H

#include "kernel/kernel.h"

/* Bring the lower triangle of a Gram matrix to a diagonal within [1/4, 1):
 * G[i,j] *= scale[i] scale[j], scale[i] = 2^-exponent[i], which is 1 for a row
 * of zeros. */
LORA_PRIVATE void lora__triangle_equilibrate(double *g,
                                             double *scale,
                                             int32_t *exponent,
                                             size_t n);

/* L * L^T = G, in place of G's lower triangle; what lies above becomes 0.
 * The diagonal of G should be near 1: a pivot below 8 n eps of it is taken
 * for rounding and gives 0, else 1. */
LORA_PRIVATE int
lora__triangle_cholesky(double *l, size_t n, const lora__kernels *kernels);

/* X[rows, n] = X * L^-1; rows of X are ldx apart, rows of L ldl. */
LORA_PRIVATE void lora__triangle_solve(double *x,
                                       size_t ldx,
                                       size_t rows,
                                       const double *l,
                                       size_t ldl,
                                       size_t n,
                                       const lora__kernels *kernels);

/* X[rows, n] = X * L^-T. */
LORA_PRIVATE void lora__triangle_solve_t(double *x,
                                         size_t ldx,
                                         size_t rows,
                                         const double *l,
                                         size_t ldl,
                                         size_t n,
                                         const lora__kernels *kernels);

/* An estimate from below, rarely off by more than a factor of 2, of the
 * largest eigenvalue of (L L^T)^-1; infinite if it overflows. scratch[n]. */
LORA_PRIVATE double lora__triangle_inverse(const double *l,
                                           size_t n,
                                           double *scratch,
                                           const lora__kernels *kernels);

#endif
