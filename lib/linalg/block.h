/* A block of doubles from the context that remembers its size. */
#ifndef LORA__LINALG_BLOCK_H
#define LORA__LINALG_BLOCK_H

#include "core/context.h"

typedef struct lora__block {
    double *at; /* NULL: none */
    size_t count;
} lora__block;

/* rows * cols doubles, not set, LORA__ALIGN_NUMERIC. */
LORA_PRIVATE lora_status lora__block_create(lora__block *out,
                                            size_t rows,
                                            size_t cols,
                                            lora_context *context,
                                            lora_error *error);

/* Numbers between -1/2 and 1/2 that look like chance and are always the same:
 * a start for iterations, which must have a share of what they look for. */
LORA_PRIVATE void lora__block_spread(double *out, size_t count);

LORA_PRIVATE void lora__block_destroy(lora__block *block,
                                      lora_context *context);

#endif
