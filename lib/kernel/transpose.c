/* Transposing matrices of numbers of any type. */
#include "kernel/kernel.h"

#include <string.h>

/* In tiles that stay in the cache. `size` is a constant where this is called:
 * the copies become moves. */
static inline void transpose_tiles(unsigned char *out,
                                   const unsigned char *in,
                                   size_t rows,
                                   size_t cols,
                                   size_t size)
{
    enum { TILE = 16 };

    for (size_t r0 = 0; r0 < rows; r0 += TILE) {
        size_t r1 = r0 + TILE < rows ? r0 + TILE : rows;
        for (size_t c = 0; c < cols; c++) {
            for (size_t r = r0; r < r1; r++) {
                memcpy(out + (c * rows + r) * size, in + (r * cols + c) * size,
                       size);
            }
        }
    }
}

LORA_PRIVATE void lora__transpose(
    void *out, const void *in, size_t rows, size_t cols, size_t size)
{
    switch (size) {
    case 1:
        transpose_tiles(out, in, rows, cols, 1);
        break;
    case 2:
        transpose_tiles(out, in, rows, cols, 2);
        break;
    case 4:
        transpose_tiles(out, in, rows, cols, 4);
        break;
    case 8:
        transpose_tiles(out, in, rows, cols, 8);
        break;
    default:
        transpose_tiles(out, in, rows, cols, size);
    }
}
