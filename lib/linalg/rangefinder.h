/* A basis for the range of a dense matrix, found by random projection.
 *
 *     M[rows, cols] ~ Q^T B,  Q[count, length] orthonormal rows,  B = Q M
 *
 * for the shorter side of M; where that is the columns, all this is said of
 * M^T. Q grows in blocks. Each is a random sketch of what the blocks before
 * left over, brought nearer to the leading singular vectors by two power
 * iterations, with a well-conditioned basis made anew after each product; by
 * up to four, where the part of M that the block holds still grows.
 *
 * The products with M are made in f32: sums over at most
 * RANGEFINDER_DEPTH or LORA__DOTS_DEPTH elements, and those added in f64.
 * That is enough, as Q need only come near the leading singular vectors, and
 * any Q gives B = Q M to about 1e-7 |M|: to u sqrt(depth) of |Q| |M| element by
 * element, of mixed sign. Orthonormality is made in f64 from Gram matrices,
 * whose condition is the square of the block's, and rounding Q to f32 moves it
 * by 1e-8.
 *
 * Only linalg/ calls this.
 */
#ifndef LORA__LINALG_RANGEFINDER_H
#define LORA__LINALG_RANGEFINDER_H

#include "kernel/kernel.h"
#include "linalg/block.h"

typedef struct lora__range {
    lora_context *context;
    const lora__kernels *kernels;
    const float *matrix; /* [rows, cols], the caller's */
    size_t rows;
    size_t cols;
    int q_is_down;     /* rows of Q are as long as rows of the matrix */
    int parallel;      /* products may use the executor */
    double squares;    /* |M|_F^2 */
    int32_t exponent;  /* 2^exponent * |M| is near 1, where that can be had */
    uint64_t seed;     /* of the sketches */
    size_t lengths[2]; /* of rows of Q, of B */
    size_t count;
    lora__block q; /* [count, lengths[0]], elements are floats */
    lora__block b; /* [count, lengths[1]] */
} lora__range;

/* No basis yet. squares is |M|_F^2, finite and not 0. Allocates nothing; what
 * grows is given back by lora__range_destroy(). */
LORA_PRIVATE void lora__range_begin(lora__range *out,
                                    lora_context *context,
                                    const float *matrix,
                                    size_t rows,
                                    size_t cols,
                                    double squares,
                                    uint64_t seed,
                                    int parallel);

/* Add `add` rows; count + add <= min(rows, cols). Takes (rows + cols) * (count
 * + add) doubles, and as much again while it runs. */
LORA_PRIVATE lora_status lora__range_grow(lora__range *range,
                                          size_t add,
                                          lora_error *error);

LORA_PRIVATE void lora__range_destroy(lora__range *range);

#endif
