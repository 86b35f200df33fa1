/* A weight as LoKr: how it is divided, and the factors. */
#ifndef LORA__OP_LOKR_H
#define LORA__OP_LOKR_H

#include "linalg/block.h"
#include "linalg/kronecker.h"

/* w1 [o1, i1], w2 [o2, i2 k...] and, where w2 is cut, its rank. */
typedef struct lora__lokr {
    lora__kronecker_input input;
    size_t in2; /* i2 */
    double *w1;
    double *w2;
    lora__block memory; /* of both */
    size_t rank;        /* of w2; 0: whole */
} lora__lokr;

/* How the sides of a weight [rows, in, kernel] are divided; factor 0 is none.
 * No dimension is 0. */
LORA_PRIVATE void lora__lokr_split(
    lora__lokr *out, size_t rows, size_t in, size_t kernel, int32_t factor);

/* Memory for both; freed with lora__block_destroy(). */
LORA_PRIVATE lora_status lora__lokr_begin(lora__lokr *k,
                                          const float *values,
                                          lora_context *context,
                                          lora_error *error);

#endif
