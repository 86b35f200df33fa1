/* The orthogonal factor of a matrix: what torch.nn.init.orthogonal_ makes of
 * random numbers.
 */
#ifndef LORA__LINALG_ORTHOGONAL_H
#define LORA__LINALG_ORTHOGONAL_H

#include "core/context.h"

/* Replace M[rows, cols] by the Q of its QR, or where it has more columns than
 * rows of its LQ, with a diagonal of R or L that is positive, times gain. Such
 * a Q is unique where M has full rank; in f64, with one rounding, so that it
 * is nearer to the exact one than that of a float32 QR is. Rows that depend on
 * those before, which random ones do not, become zeros. MEMORY, CANCELLED. */
LORA_PRIVATE lora_status lora__orthogonal(float *values,
                                          size_t rows,
                                          size_t cols,
                                          double gain,
                                          lora_context *context,
                                          lora_error *error);

#endif
