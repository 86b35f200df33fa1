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

/* Room for `count` in arrays that are worked on by fours. */
#define LORA__SECULAR_ROOM(count) (((count) + 3) / 4 * 4)

typedef struct lora__secular {
    size_t count;
    double *poles;   /* [count], ascending, no two the same, the first one 0 */
    double *weights; /* [LORA__SECULAR_ROOM(count)], above 0 */
    double *gaps;    /* as many: set by lora__secular_root() */
    const lora__kernels *kernels;
} lora__secular;

/* Root i as its square's distance from that of the nearer of its two poles:
 *     x^2 = poles[origin]^2 + offset,  gaps[k] = poles[k]^2 - poles[origin]^2,
 * so that gaps[k] - offset is accurate to a few eps of itself for all k. f is
 * within a few eps of the sum of its terms' magnitudes there. 0 if it was not
 * found, which has no cause but numbers that are none. */
LORA_PRIVATE int lora__secular_root(double *offset,
                                    size_t *origin,
                                    const lora__secular *secular,
                                    size_t i);

#endif
