/* Records of undo files, and what their writer and their reader both do. */
#include "op/undo_record.h"

#include "format/crc32.h"
#include "format/gguf.h"
#include "op/hash.h"

#include <string.h>

/* ---- records ----------------------------------------------------------- */

LORA_PRIVATE void lora__undo_put_u32(unsigned char *out, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (unsigned char)(value >> 8 * i);
    }
}

LORA_PRIVATE uint32_t lora__undo_get_u32(const unsigned char *in)
{
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 |
           (uint32_t)in[3] << 24;
}

static void undo_put_u64(unsigned char *out, uint64_t value)
{
    lora__undo_put_u32(out, (uint32_t)value);
    lora__undo_put_u32(out + 4, (uint32_t)(value >> 32));
}

static uint64_t undo_get_u64(const unsigned char *in)
{
    return (uint64_t)lora__undo_get_u32(in) |
           (uint64_t)lora__undo_get_u32(in + 4) << 32;
}

LORA_PRIVATE uint32_t lora__undo_sum(const unsigned char head[LORA__UNDO_HEAD],
                                     const void *payload,
                                     size_t bytes)
{
    lora__crc32 crc;

    lora__crc32_init(&crc);
    lora__crc32_update(&crc, head, LORA__UNDO_HEAD - 4);
    lora__crc32_update(&crc, payload, bytes);
    return crc.value;
}

LORA_PRIVATE void lora__undo_encode(unsigned char out[LORA__UNDO_HEAD],
                                    const lora__undo_head *head,
                                    const void *payload)
{
    lora__undo_put_u32(out, head->type);
    lora__undo_put_u32(out + 4, head->flags);
    undo_put_u64(out + 8, head->index);
    undo_put_u64(out + 16, head->offset);
    undo_put_u64(out + 24, head->bytes);
    lora__undo_put_u32(out + 32, head->payload);
    lora__undo_put_u32(out + 36, lora__undo_sum(out, payload, head->payload));
}

LORA_PRIVATE uint32_t lora__undo_decode(lora__undo_head *out,
                                        const unsigned char in[LORA__UNDO_HEAD])
{
    out->type = lora__undo_get_u32(in);
    out->flags = lora__undo_get_u32(in + 4);
    out->index = undo_get_u64(in + 8);
    out->offset = undo_get_u64(in + 16);
    out->bytes = undo_get_u64(in + 24);
    out->payload = lora__undo_get_u32(in + 32);
    return lora__undo_get_u32(in + 36);
}

/* ---- adapters ---------------------------------------------------------- */

LORA_PRIVATE lora_status
lora__undo_identify(unsigned char out[LORA__UNDO_IDENTITY],
                    const lora__patch *patch,
                    lora_error *error)
{
    const lora_adapter *adapter = patch->bind->adapter;
    char content[LORA__HASH_TEXT];
    lora__sha256 sha;

    TRY(lora__hash_tensors(content, adapter->container, LORA__HASH_NAME, 1,
                           error));
    memcpy(out, content, LORA__UNDO_CONTENT);
    lora__sha256_init(&sha, lora__context_get(patch->bind->context)->cpu);
    for (size_t m = 0; m < adapter->module_count; m++) {
        double strength =
            lora__strength_of(&patch->strength, &adapter->modules[m]) *
            (patch->factors == NULL ? 1.0 : patch->factors[m]);
        unsigned char bytes[8];
        uint64_t bits;
        memcpy(&bits, &strength, sizeof bits);
        undo_put_u64(bytes, bits);
        lora__sha256_update(&sha, bytes, sizeof bytes);
    }
    lora__sha256_finish(&sha, out + LORA__UNDO_CONTENT);
    return LORA_OK;
}

#define UNDO_HASHED 16384 /* bytes at a time */

/* ---- tensors ----------------------------------------------------------- */

LORA_PRIVATE lora__undo_place lora__undo_find_place(const lora__checkpoint *c,
                                                    size_t tensor)
{
    const lora__tensor *from = &c->tensors[tensor];
    const lora__entry *entry;
    lora__undo_place place;

    place.container = from->container;
    entry = lora__container_resolve(&place.container, from->index);
    place.blocks = entry->quantised != NULL;
    place.offset = entry->offset;
    place.bytes = place.blocks ? lora__gguf_stored_bytes(entry, entry->elements)
                               : entry->bytes;
    return place;
}

LORA_PRIVATE lora_status lora__undo_read_place(const lora__undo_place *place,
                                               uint64_t offset,
                                               void *buffer,
                                               size_t bytes,
                                               lora_error *error)
{
    return bytes == 0 ? LORA_OK
                      : lora__reader_read(&place->container->reader,
                                          place->offset + offset, buffer, bytes,
                                          place->container->path, error);
}

/* Little-endian numbers of so many bytes; the sizes are constants where these
 * are called. */
static inline uint64_t undo_number(const unsigned char *at, size_t size)
{
    uint64_t value = 0;

    memcpy(&value, at, size);
    return value;
}

/* Codes in the order of values, and back: a sign and a magnitude as one
 * number. */
static inline uint64_t undo_ordered(uint64_t code, uint64_t sign)
{
    return (code & sign) != 0 ? ~code : code | sign;
}

static inline uint64_t undo_unordered(uint64_t order, uint64_t sign)
{
    return (order & sign) != 0 ? order & ~sign : ~order;
}

static inline void undo_part_sized(unsigned char *out,
                                   const unsigned char *numbers,
                                   const unsigned char *predicted,
                                   size_t size,
                                   size_t count)
{
    const uint64_t sign = (uint64_t)1 << (8 * size - 1);

    for (size_t i = 0; i < count; i++) {
        uint64_t d =
            undo_ordered(undo_number(numbers + i * size, size), sign) -
            undo_ordered(undo_number(predicted + i * size, size), sign);
        d = (d & sign) != 0 ? ~(d << 1) : d << 1;
        for (size_t b = 0; b < size; b++) {
            out[b * count + i] = (unsigned char)(d >> (8 * b));
        }
    }
}

static inline void undo_join_sized(unsigned char *out,
                                   const unsigned char *parted,
                                   size_t size,
                                   size_t count)
{
    const uint64_t sign = (uint64_t)1 << (8 * size - 1);

    for (size_t i = 0; i < count; i++) {
        uint64_t d = 0;
        for (size_t b = 0; b < size; b++) {
            d |= (uint64_t)parted[b * count + i] << (8 * b);
        }
        d = (d & 1) != 0 ? ~(d >> 1) : d >> 1;
        d = undo_unordered(
            undo_ordered(undo_number(out + i * size, size), sign) + d, sign);
        memcpy(out + i * size, &d, size);
    }
}

LORA_PRIVATE void lora__undo_part(unsigned char *out,
                                  const unsigned char *numbers,
                                  const unsigned char *predicted,
                                  size_t size,
                                  size_t bytes)
{
    switch (size) {
    case 1:
        undo_part_sized(out, numbers, predicted, 1, bytes);
        break;
    case 2:
        undo_part_sized(out, numbers, predicted, 2, bytes / 2);
        break;
    case 4:
        undo_part_sized(out, numbers, predicted, 4, bytes / 4);
        break;
    default:
        undo_part_sized(out, numbers, predicted, 8, bytes / 8);
        break;
    }
}

LORA_PRIVATE void lora__undo_join(unsigned char *out,
                                  const unsigned char *parted,
                                  size_t size,
                                  size_t bytes)
{
    switch (size) {
    case 1:
        undo_join_sized(out, parted, 1, bytes);
        break;
    case 2:
        undo_join_sized(out, parted, 2, bytes / 2);
        break;
    case 4:
        undo_join_sized(out, parted, 4, bytes / 4);
        break;
    default:
        undo_join_sized(out, parted, 8, bytes / 8);
        break;
    }
}

LORA_PRIVATE void
lora__undo_xor(unsigned char *out, const unsigned char *with, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        out[i] ^= with[i];
    }
}

/* ---- predicting -------------------------------------------------------- */

#define UNDO_CHUNK 2048 /* numbers at a time */

LORA_PRIVATE lora_status lora__undo_predict(void *out,
                                            const void *fused,
                                            const float *change,
                                            lora_dtype dtype,
                                            float scale,
                                            size_t count,
                                            const lora__kernels *kernels,
                                            lora_error *error)
{
    const size_t size = lora_dtype_bits(dtype) / 8;
    float numbers[UNDO_CHUNK];
    float before[UNDO_CHUNK];

    for (size_t done = 0; done < count; done += UNDO_CHUNK) {
        const size_t some =
            count - done < UNDO_CHUNK ? count - done : UNDO_CHUNK;
        const unsigned char *from = (const unsigned char *)fused + done * size;
        unsigned char *to = (unsigned char *)out + done * size;
        int nans = 0;

        TRY(lora__convert_to_f32(numbers, from, dtype, some, kernels, error));
        for (size_t i = 0; i < some; i++) {
            before[i] = -change[done + i];
        }
        kernels->axpy_f32(before, numbers, scale, some);
        for (size_t i = 0; i < some; i++) {
            before[i] = scale == 1 ? before[i] : before[i] / scale;
            nans |= before[i] != before[i];
        }
        TRY(lora__convert_from_f32(to, dtype, before, some, kernels, error));
        for (size_t i = 0; nans && i < some; i++) {
            if (before[i] != before[i]) {
                memcpy(to + i * size, from + i * size, size);
            }
        }
    }
    return LORA_OK;
}
