/* The rotation that a skew matrix stands for, by Cayley's transform
 *
 *     R = (I + S) (I - S)^-1,  S[n, n], S^T = -S,
 *
 * and by the series that is put in its place. Both come without the identity,
 * R - I, which is as small as S is: little of it would be left of a
 * difference.
 */
#ifndef LORA__LINALG_CAYLEY_H
#define LORA__LINALG_CAYLEY_H

#include "core/context.h"

/* out[n, n] = R - I = 2 S (I - S)^-1, by elimination with rows chosen largest
 * first. Singular values of I - S are 1 at least, so there always is one; with
 * g the growth, which is small, out is off by about n g eps |I - S| |out|. The
 * same bits on every machine. skew[n, n] stays; work[n, 2 n]. CANCELLED. */
LORA_PRIVATE lora_status lora__cayley(double *out,
                                      double *work,
                                      const double *skew,
                                      size_t n,
                                      lora_context *context,
                                      lora_error *error);

/* out[n, n] = 2 S + 2 S^2 + ... + 2 S^(last - 1) + end S^last, last > 0.
 * Otherwise as above. */
LORA_PRIVATE lora_status lora__cayley_series(double *out,
                                             double *work,
                                             const double *skew,
                                             size_t n,
                                             size_t last,
                                             double end,
                                             lora_context *context,
                                             lora_error *error);

#endif
