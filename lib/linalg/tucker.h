/* A convolution's weight as a small core between two matrices of channels.
 *
 *     M[out, in, K] ~ sum over i, j of up_t[i, p] core[i, j, x] down[j, q],
 *     core[out_rank, in_rank, K]
 *
 * the Tucker form of LoCon: lora_up[out, r] is up_t turned, lora_mid[r, r, k
 * ...] the core, lora_down[r, in] down.
 *
 * Elements are f32, sums f64. Single-threaded; equal bits always.
 */
#ifndef LORA__LINALG_TUCKER_H
#define LORA__LINALG_TUCKER_H

#include "core/context.h"

typedef struct lora__tucker_input {
    size_t out;
    size_t in;
    size_t kernel;       /* K, all of its elements */
    const float *values; /* [out, in, K] */
} lora__tucker_input;

typedef struct lora__tucker_result {
    size_t out_rank; /* <= min(out, in K) */
    size_t in_rank;  /* <= min(in, out K) */
    double *up_t;    /* [out_rank, out] */
    double *core;    /* [out_rank, in_rank, K] */
    double *down;    /* [in_rank, in] */
    double error;    /* |M - result|_F, measured */
} lora__tucker_result;

/* Fill the arrays of *out, whose ranks are set. The three have one Frobenius
 * norm; rows of up_t are orthogonal and of one norm, those of down too, as far
 * as M has directions for them: rows beyond are 0, and the core's with them.
 *
 * With in_rank = in or out_rank = out the error is the least there is. Else it
 * is a local minimum, to a few 1e-5 of its square where singular values of M's
 * unfoldings fall off at the ranks, to 1 % where they do not. Dimensions and
 * ranks are not 0, and in_rank <= in. NONFINITE if an element is; CONVERGENCE.
 */
LORA_PRIVATE lora_status lora__tucker_fit(lora__tucker_result *out,
                                          const lora__tucker_input *input,
                                          lora_context *context,
                                          lora_error *error);

#endif
