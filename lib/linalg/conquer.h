/* SVD of a matrix of two diagonals by divide and conquer: singular values and
 * left vectors. Only linalg/ calls this.
 */
#ifndef LORA__LINALG_CONQUER_H
#define LORA__LINALG_CONQUER_H

#include "kernel/kernel.h"

/* B[n, n] = U diag(sigma) V^T, B[i,i] = diagonal[i], B[i,i+1] = beside[i]: rows
 * of u_t[n, n] = U^T with their sigma[n], descending. beside[n - 1] is 0;
 * both are destroyed. spare[n, n] is scratch; takes as much again.
 *
 * Error of sigma: c n eps |B|; rows of u_t are orthonormal to c n eps.
 * CONVERGENCE if B is not finite. CANCELLED, also in the midst of it. */
LORA_PRIVATE lora_status lora__conquer(double *sigma,
                                       double *u_t,
                                       double *diagonal,
                                       double *beside,
                                       double *spare,
                                       size_t n,
                                       lora_context *context,
                                       lora_error *error);

#endif
