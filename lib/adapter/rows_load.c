/* Tensors of a file as blocks of numbers, as they are or turned. */
#include "adapter/kind.h"

#include <string.h>

/* Tensors are converted through a buffer of this size. */
#define ROWS_CHUNK_BYTES 32768

/* Numbers at `in` to the place of element `first` of `out`. */
static lora_status rows_convert(void *out,
                                lora_dtype dtype,
                                size_t first,
                                const void *in,
                                lora_dtype in_dtype,
                                size_t count,
                                const lora__kernels *kernels,
                                lora_error *error)
{
    return dtype == LORA_DTYPE_F64
               ? lora__convert_to_f64((double *)out + first, in, in_dtype,
                                      count, kernels, error)
               : lora__convert_to_f32((float *)out + first, in, in_dtype, count,
                                      kernels, error);
}

static lora_status rows_read(void *out,
                             lora_dtype dtype,
                             const lora_adapter *adapter,
                             size_t index,
                             const lora__kernels *kernels,
                             lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    size_t step = ROWS_CHUNK_BYTES / size;
    unsigned char chunk[ROWS_CHUNK_BYTES];

    for (uint64_t done = 0; done < entry->elements; done += step) {
        uint64_t left = entry->elements - done;
        size_t count = left < step ? (size_t)left : step;
        TRY(lora__container_read(adapter->container, index, done * size, chunk,
                                 count * size, error));
        TRY(rows_convert(out, dtype, (size_t)done, chunk, entry->dtype, count,
                         kernels, error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_block(lora__rows *state,
                                          size_t block,
                                          size_t count,
                                          lora_error *error)
{
    size_t bytes;

    if (!lora__mul_size(count, lora__rows_size(state), &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    state->blocks[block] =
        lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    if (state->blocks[block] == NULL) {
        return lora__fail_memory(error, bytes);
    }
    state->block_bytes[block] = bytes;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_load(lora__rows *state,
                                         size_t block,
                                         const lora_adapter *adapter,
                                         size_t index,
                                         lora_error *error)
{
    size_t count;

    if (!lora__u64_to_size(adapter->container->entries[index].elements,
                           &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, block, count, error));
    return rows_read(state->blocks[block], state->dtype, adapter, index,
                     state->kernels, error);
}

/* Rows that are turned at once: runs of a column long enough to be converted
 * well, in little memory. */
static size_t rows_panel(const lora__entry *entry)
{
    enum { LEAST = 16, MOST = 512, BYTES = 65536 };
    size_t rows = (size_t)entry->shape[0];
    size_t row =
        (size_t)entry->elements / rows * (lora_dtype_bits(entry->dtype) / 8);
    size_t count = row * MOST <= BYTES    ? MOST
                   : row * LEAST >= BYTES ? LEAST
                                          : BYTES / row;

    return count < rows ? count : rows;
}

/* Read panels of rows, turn them as they are in the file, and convert them
 * into their places, a run of each column at a time. */
static lora_status rows_read_turned(void *out,
                                    lora_dtype dtype,
                                    const lora_adapter *adapter,
                                    size_t index,
                                    unsigned char *panel,
                                    const lora__kernels *kernels,
                                    lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    size_t rows = (size_t)entry->shape[0];
    size_t cols = (size_t)entry->elements / rows;
    size_t step = rows_panel(entry);
    unsigned char *turned = panel + step * cols * size;

    for (size_t row = 0; row < rows; row += step) {
        size_t count = rows - row < step ? rows - row : step;
        TRY(lora__container_read(adapter->container, index, row * cols * size,
                                 panel, count * cols * size, error));
        lora__transpose(turned, panel, count, cols, size);
        for (size_t c = 0; c < cols; c++) {
            TRY(rows_convert(out, dtype, c * rows + row,
                             turned + c * count * size, entry->dtype, count,
                             kernels, error));
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_load_turned(lora__rows *state,
                                                size_t block,
                                                const lora_adapter *adapter,
                                                size_t index,
                                                lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t count;
    size_t bytes;
    unsigned char *panel;
    lora_status status;

    if (!lora__u64_to_size(entry->elements, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    /* As many numbers were had: twice their bytes are no overflow. */
    TRY(lora__rows_block(state, block, count, error));
    bytes = 2 * rows_panel(entry) * (count / (size_t)entry->shape[0]) *
            (lora_dtype_bits(entry->dtype) / 8);
    panel = lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    if (panel == NULL) {
        return lora__fail_memory(error, bytes);
    }
    status = rows_read_turned(state->blocks[block], state->dtype, adapter,
                              index, panel, state->kernels, error);
    lora__free(state->context, panel, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

LORA_PRIVATE lora_status lora__rows_load_f64(double *out,
                                             const lora__rows *state,
                                             const lora_adapter *adapter,
                                             size_t index,
                                             lora_error *error)
{
    return rows_read(out, LORA_DTYPE_F64, adapter, index, state->kernels,
                     error);
}

LORA_PRIVATE void lora__rows_drop(lora__rows *state, size_t block)
{
    if (state->blocks[block] != NULL) {
        lora__free(state->context, state->blocks[block],
                   state->block_bytes[block], LORA__ALIGN_NUMERIC);
        state->blocks[block] = NULL;
    }
}
