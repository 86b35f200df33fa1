/* SVD of a square matrix: singular values and left vectors. Only linalg/ calls
 * this.
 */
#ifndef LORA__LINALG_SQUARE_H
#define LORA__LINALG_SQUARE_H

#include "kernel/kernel.h"

/* C[n, n] = U diag(sigma) V^T, n > 0: sigma[n] descending, u_t[n, n] = U^T; C
 * is destroyed. Values below `floor` > 0 count as rounding: they and their rows
 * of u_t are 0. The largest element of C should be near 1; what is below 1e-145
 * is taken for 0.
 *
 * Error of sigma: c n eps |C|, c a small constant, plus what was below the
 * floor; rows of u_t that are not 0 are orthonormal to c n eps. Uses the
 * backend if there is one; without it, takes up to 2 n^2 + 163 n doubles while
 * it runs. CONVERGENCE if C is not finite. CANCELLED, also in the midst of it.
 */
LORA_PRIVATE lora_status lora__square_svd(double *sigma,
                                          double *u_t,
                                          double *c,
                                          size_t n,
                                          double floor,
                                          lora_context *context,
                                          lora_error *error);

#endif
