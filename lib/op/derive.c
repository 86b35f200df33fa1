/* Derived tensors. */
#include "op/derive.h"

#include "op/values.h"

#include <string.h>

enum { DERIVE_CHUNK = LORA__DERIVE_CHUNK };

/* `count` whole elements, from `first` on, times the factor or plus it. Through
 * f32 where that holds the input exactly and nothing is to be done. */
static lora_status derive_elements(unsigned char *out,
                                   const lora__entry *entry,
                                   int plus,
                                   uint64_t first,
                                   size_t count,
                                   const lora__kernels *kernels,
                                   lora_error *error)
{
    lora_dtype from = entry->parent->entries[entry->parent_index].dtype;
    size_t size = lora_dtype_bits(from) / 8;
    unsigned char chunk[DERIVE_CHUNK * sizeof(double)];
    double wide[DERIVE_CHUNK];
    float narrow[DERIVE_CHUNK];

    TRY(lora__container_read(entry->parent, entry->parent_index, first * size,
                             chunk, count * size, error));
    if (!plus && entry->factor == 1.0 && from != LORA_DTYPE_F64) {
        TRY(lora__convert_to_f32(narrow, chunk, from, count, kernels, error));
        return lora__convert_from_f32(out, entry->dtype, narrow, count, kernels,
                                      error);
    }
    TRY(lora__convert_to_f64(wide, chunk, from, count, kernels, error));
    if (!plus) {
        kernels->scale_f64(wide, entry->factor, count);
    }
    for (size_t i = 0; plus && i < count; i++) {
        wide[i] += entry->factor;
    }
    return lora__convert_from_f64(out, entry->dtype, wide, count, kernels,
                                  error);
}

static lora_status derive_products(unsigned char *out,
                                   const lora__entry *entry,
                                   uint64_t first,
                                   size_t count,
                                   const lora__kernels *kernels,
                                   lora_error *error)
{
    return derive_elements(out, entry, 0, first, count, kernels, error);
}

static lora_status derive_sums(unsigned char *out,
                               const lora__entry *entry,
                               uint64_t first,
                               size_t count,
                               const lora__kernels *kernels,
                               lora_error *error)
{
    return derive_elements(out, entry, 1, first, count, kernels, error);
}

LORA_PRIVATE lora_status lora__derive_cut(const lora__entry *entry,
                                          uint64_t offset,
                                          void *buffer,
                                          size_t bytes,
                                          lora__derive_make_fn make,
                                          lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(entry->parent->context)->cpu);
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    unsigned char made[DERIVE_CHUNK * sizeof(double)];
    unsigned char *out = buffer;

    while (bytes > 0) {
        uint64_t first = offset / size;
        size_t skip = (size_t)(offset % size);
        uint64_t left = entry->elements - first;
        size_t count = left < DERIVE_CHUNK ? (size_t)left : DERIVE_CHUNK;
        size_t step;

        if (count > (skip + bytes + size - 1) / size) {
            count = (skip + bytes + size - 1) / size;
        }
        TRY(make(made, entry, first, count, kernels, error));
        step = count * size - skip < bytes ? count * size - skip : bytes;
        memcpy(out, made + skip, step);
        out += step;
        offset += step;
        bytes -= step;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__derive_scaled(const lora__entry *entry,
                                             uint64_t offset,
                                             void *buffer,
                                             size_t bytes,
                                             lora_error *error)
{
    return lora__derive_cut(entry, offset, buffer, bytes, derive_products,
                            error);
}

LORA_PRIVATE lora_status lora__derive_plus(const lora__entry *entry,
                                           uint64_t offset,
                                           void *buffer,
                                           size_t bytes,
                                           lora_error *error)
{
    return lora__derive_cut(entry, offset, buffer, bytes, derive_sums, error);
}

/* Rounding is monotonic, so only the largest magnitude need be tried. */
LORA_PRIVATE lora_status lora__derive_check(const lora_adapter *adapter,
                                            size_t index,
                                            double factor,
                                            lora_dtype dtype,
                                            lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    const lora__kernels *kernels = lora__kernels_get(0);
    unsigned char encoded[8];
    lora__values values;
    double largest;

    TRY(lora__values_look(&values, adapter, index, error));
    largest = values.largest * factor;
    TRY(lora__convert_from_f64(encoded, dtype, &largest, 1, kernels, error));
    TRY(lora__convert_to_f64(&largest, encoded, dtype, 1, kernels, error));
    return largest - largest == 0.0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                            entry->name,
                            "a value is too large for %s: choose another "
                            "dtype",
                            lora_dtype_name(dtype));
}
