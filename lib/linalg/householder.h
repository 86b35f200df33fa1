/* LQ factorisation by Householder reflections, for rows of any rank.
 *
 *     A[r, n] = L[r, r] * Q[r, n],  r <= n,  Q Q^T = I
 *
 * Q is the first r rows of H_(r-1) ... H_0, H_j = I - tau_j v_j^T v_j, where
 * the row v_j[n] is 0 before position j and 1 there. Their product is
 *
 *     H_0 ... H_(r-1) = I - V^T K^-T V,
 *     K = the lower triangle of V V^T, its diagonal replaced by 1 / tau
 *
 * (the compact WY form, with the inverse of its triangle). A row that is 0
 * when its turn comes has v = 0 and tau = 0 and counts as K[j,j] = 1.
 *
 * Backward stable row by row: L Q = A + E with |E_i| <= c n r eps |A_i|,
 * c a small constant, whatever the rank of A. Rows should be of norm near 1;
 * what is below 1e-145 is taken for 0. Only linalg/ calls this.
 */
#ifndef LORA__LINALG_HOUSEHOLDER_H
#define LORA__LINALG_HOUSEHOLDER_H

#include "kernel/kernel.h"

/* Make v of x[count] in place, so that x H = [beta 0 ... 0]; returns beta. The
 * sign of beta avoids cancellation in x[0] - beta. */
LORA_PRIVATE double lora__householder_make(double *x,
                                           double *out_tau,
                                           size_t count,
                                           const lora__kernels *kernels);

/* a[rank, length] becomes V, dense; l[rank, rank] with zeros above the
 * diagonal; tau[rank]. Uses the backend if there is one. CANCELLED. */
LORA_PRIVATE lora_status lora__lq_create(double *l,
                                         double *a,
                                         double *tau,
                                         size_t rank,
                                         size_t length,
                                         lora_context *context,
                                         lora_error *error);

/* K[rank, rank], lower triangle only, of V[rank, length]; rows are ldk and
 * ldv apart. */
LORA_PRIVATE void lora__lq_triangle(double *k,
                                    size_t ldk,
                                    const double *v,
                                    size_t ldv,
                                    const double *tau,
                                    size_t rank,
                                    size_t length,
                                    const lora__kernels *kernels);

/* mix[rank, rank] = -V1 K^-1, V1[i,j] = V[j,i], so that Q = [I 0] + mix V.
 * scratch[rank, rank]. */
LORA_PRIVATE void lora__lq_mix(double *mix,
                               double *scratch,
                               const double *v,
                               const double *tau,
                               size_t rank,
                               size_t length,
                               const lora__kernels *kernels);

#endif
