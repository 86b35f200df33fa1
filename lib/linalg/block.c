/* A block of doubles from the context that remembers its size. */
#include "linalg/block.h"

#include <math.h>

LORA_PRIVATE lora_status lora__block_create(lora__block *out,
                                            size_t rows,
                                            size_t cols,
                                            lora_context *context,
                                            lora_error *error)
{
    size_t count;
    size_t bytes;

    out->at = NULL;
    out->count = 0;
    if (!lora__mul_size(rows, cols, &count) ||
        !lora__mul_size(count, sizeof(double), &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    out->at = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    if (out->at == NULL) {
        return lora__fail_memory(error, bytes);
    }
    out->count = count;
    return LORA_OK;
}

/* The fractions of j^2 times the golden ratio: equidistributed, and unlike
 * those of j without correlation between neighbours. */
LORA_PRIVATE void lora__block_spread(double *out, size_t count)
{
    for (size_t j = 0; j < count; j++) {
        double x = (double)(j + 1);
        x *= x * 0.61803398874989485;
        out[j] = x - floor(x) - 0.5;
    }
}

LORA_PRIVATE void lora__block_destroy(lora__block *block, lora_context *context)
{
    if (block->at != NULL) {
        lora__free(context, block->at, block->count * sizeof(double),
                   LORA__ALIGN_NUMERIC);
    }
    block->at = NULL;
    block->count = 0;
}
