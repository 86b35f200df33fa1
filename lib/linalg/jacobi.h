/* SVD of a small square matrix: singular values and left vectors. Only
 * linalg/ calls this.
 */
#ifndef LORA__LINALG_JACOBI_H
#define LORA__LINALG_JACOBI_H

#include "kernel/kernel.h"

/* C[n, n] = U diag(sigma) V^T, sigma[n] descending, u_t[n, n] = U^T; C is
 * destroyed. Values below `floor` > 0 count as rounding: they and their rows
 * of u_t are 0. C should be scaled to have no elements far from its largest
 * one's reach, which should be near 1.
 *
 * Error of sigma: c n eps |C|, c a small constant, plus what was below the
 * floor; rows of u_t that are not 0 are orthonormal to c n eps. Uses the
 * backend if there is one. Above 16 rows it takes 2 n^2 + 150 n doubles while
 * it runs. CONVERGENCE if C is not finite. CANCELLED, also in the midst of it.
 */
LORA_PRIVATE lora_status lora__jacobi_left(double *sigma,
                                           double *u_t,
                                           double *c,
                                           size_t n,
                                           double floor,
                                           lora_context *context,
                                           lora_error *error);

#endif
