/* Roots of the secular equation of a diagonal matrix under a row,
 *
 *     f(x^2) = 1 + sum over k of weights[k] / (poles[k]^2 - x^2) = 0:
 *
 * the singular values of the matrix with rows z and diag(poles), poles[0] = 0,
 * weights[k] = z[k]^2. Root i lies between pole i and the next one. Only
 * linalg/ calls this.
 */
#ifndef LORA__LINALG_SECULAR_H
#define LORA__LINALG_SECULAR_H

#include "kernel/kernel.h"

typedef struct lora__secular {
    size_t count;
    const double *poles;   /* [count], ascending, no two the same, from 0 */
    const double *weights; /* [count], above 0 */
    const lora__kernels *kernels;
} lora__secular;

/* All roots, as their squares' distances from those of the nearer of their two
 * poles: x^2 = origins[i]^2 + offsets[i]. So
 *     poles[k]^2 - x^2 = (poles[k] - origins[i]) * (poles[k] + origins[i])
 *                        - offsets[i]
 * is accurate to a few eps of itself for all k. f is within a few eps of the
 * sum of its terms' magnitudes there. 0 if a root was not found, which has no
 * cause but numbers that are none. */
LORA_PRIVATE int lora__secular_roots(double *offsets, /* [count] */
                                     double *origins, /* [count] */
                                     const lora__secular *secular);

#endif
