/* A square matrix brought to two diagonals by reflections from both sides
 * (Golub and Kahan 1965). Only linalg/ calls this.
 *
 *     C[n, n] = U B V^T,  B[i,i] = diagonal[i],  B[i,i+1] = beside[i]
 *
 * U = H_0 ... H_(n-1), H_j = I - tau_j v_j^T v_j as householder.h has them; V
 * is forgotten. Backward stable: |U B V^T - C| <= c n eps |C| in the Frobenius
 * norm, c a small constant. The largest element of C should be near 1; norms
 * below 1e-145 are taken for 0.
 */
#ifndef LORA__LINALG_BIDIAGONAL_H
#define LORA__LINALG_BIDIAGONAL_H

#include "kernel/kernel.h"

/* diagonal[n]; beside[n], its last element 0; v[n, n] and tau[n] of U. C is
 * destroyed. Takes 160 n doubles. CANCELLED. */
LORA_PRIVATE lora_status lora__bidiagonal_create(double *diagonal,
                                                 double *beside,
                                                 double *v,
                                                 double *tau,
                                                 double *c,
                                                 size_t n,
                                                 lora_context *context,
                                                 lora_error *error);

/* X[n, n] = X U^T: rows that are vectors of B become those of C. v is
 * destroyed. Takes 128 n doubles. CANCELLED. */
LORA_PRIVATE lora_status lora__bidiagonal_turn(double *x,
                                               double *v,
                                               const double *tau,
                                               size_t n,
                                               lora_context *context,
                                               lora_error *error);

#endif
