/* Number types of ggml, and tensors stored as blocks of 32 numbers.
 *
 * d and m are F16, the bits of the numbers lie together: byte i of `low` has
 * the lower four bits of number i and, above them, those of number i + 16; bit
 * i of the 32-bit `high` is the fifth bit of number i.
 *
 *   Q8_0  d, 32 signed bytes        d * q
 *   Q4_0  d, low                    d * (q - 8)
 *   Q4_1  d, m, low                 d * q + m
 *   Q5_0  d, high, low              d * (q - 16)
 *   Q5_1  d, m, high, low           d * q + m
 *
 * The product of the 11 bits of d and the 8 of q is exact in F32, so the only
 * rounding is that of adding m, with or without a fused multiply-add.
 */
#include "format/gguf.h"
#include "tensor/minifloat.h"

#include <math.h>
#include <string.h>

/* Blocks that are decoded at a time, and bytes of the largest one. */
enum { GGUF_CHUNK = 128, GGUF_BLOCK_BYTES = 34 };

/* Bytes that a block becomes. */
#define GGUF_MADE (LORA__GGUF_BLOCK * sizeof(float))

static float gguf_half(const unsigned char *in)
{
    return lora__f32_from_bits(lora__float_decode(
        (uint32_t)in[0] | (uint32_t)in[1] << 8, &lora__format_f16));
}

static void gguf_decode_q8_0(float *out, const unsigned char *block)
{
    float d = gguf_half(block);

    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        int q = block[2 + i] < 128 ? block[2 + i] : block[2 + i] - 256;
        out[i] = d * (float)q;
    }
}

/* The numbers of a block from their bits. `high` NULL: there are four. */
static void gguf_unpack(int out[LORA__GGUF_BLOCK],
                        const unsigned char *low,
                        const unsigned char *high)
{
    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        unsigned byte = low[i % 16];
        unsigned fifth = high == NULL ? 0 : high[i / 8];

        fifth = fifth >> (i % 8) & 1u;
        out[i] = (int)((i < 16 ? byte & 15u : byte >> 4) | fifth << 4);
    }
}

static void
gguf_decode_centred(float *out, float d, const int *numbers, int centre)
{
    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        out[i] = d * (float)(numbers[i] - centre);
    }
}

static void
gguf_decode_shifted(float *out, float d, const int *numbers, float m)
{
    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        out[i] = d * (float)numbers[i] + m;
    }
}

static void gguf_decode_q4_0(float *out, const unsigned char *block)
{
    int numbers[LORA__GGUF_BLOCK];

    gguf_unpack(numbers, block + 2, NULL);
    gguf_decode_centred(out, gguf_half(block), numbers, 8);
}

static void gguf_decode_q4_1(float *out, const unsigned char *block)
{
    int numbers[LORA__GGUF_BLOCK];

    gguf_unpack(numbers, block + 4, NULL);
    gguf_decode_shifted(out, gguf_half(block), numbers, gguf_half(block + 2));
}

static void gguf_decode_q5_0(float *out, const unsigned char *block)
{
    int numbers[LORA__GGUF_BLOCK];

    gguf_unpack(numbers, block + 6, block + 2);
    gguf_decode_centred(out, gguf_half(block), numbers, 16);
}

static void gguf_decode_q5_1(float *out, const unsigned char *block)
{
    int numbers[LORA__GGUF_BLOCK];

    gguf_unpack(numbers, block + 8, block + 4);
    gguf_decode_shifted(out, gguf_half(block), numbers, gguf_half(block + 2));
}

/* Types that are not read have their names for the message. */
static const lora__gguf_type gguf_types[] = {
    {0, "F32", LORA_DTYPE_F32, 0, NULL},
    {1, "F16", LORA_DTYPE_F16, 0, NULL},
    {2, "Q4_0", LORA_DTYPE_F32, 18, gguf_decode_q4_0},
    {3, "Q4_1", LORA_DTYPE_F32, 20, gguf_decode_q4_1},
    {6, "Q5_0", LORA_DTYPE_F32, 22, gguf_decode_q5_0},
    {7, "Q5_1", LORA_DTYPE_F32, 24, gguf_decode_q5_1},
    {8, "Q8_0", LORA_DTYPE_F32, 34, gguf_decode_q8_0},
    {9, "Q8_1", LORA_DTYPE_NONE, 0, NULL},
    {10, "Q2_K", LORA_DTYPE_NONE, 0, NULL},
    {11, "Q3_K", LORA_DTYPE_NONE, 0, NULL},
    {12, "Q4_K", LORA_DTYPE_NONE, 0, NULL},
    {13, "Q5_K", LORA_DTYPE_NONE, 0, NULL},
    {14, "Q6_K", LORA_DTYPE_NONE, 0, NULL},
    {15, "Q8_K", LORA_DTYPE_NONE, 0, NULL},
    {16, "IQ2_XXS", LORA_DTYPE_NONE, 0, NULL},
    {17, "IQ2_XS", LORA_DTYPE_NONE, 0, NULL},
    {18, "IQ3_XXS", LORA_DTYPE_NONE, 0, NULL},
    {19, "IQ1_S", LORA_DTYPE_NONE, 0, NULL},
    {20, "IQ4_NL", LORA_DTYPE_NONE, 0, NULL},
    {21, "IQ3_S", LORA_DTYPE_NONE, 0, NULL},
    {22, "IQ2_S", LORA_DTYPE_NONE, 0, NULL},
    {23, "IQ4_XS", LORA_DTYPE_NONE, 0, NULL},
    {24, "I8", LORA_DTYPE_I8, 0, NULL},
    {25, "I16", LORA_DTYPE_I16, 0, NULL},
    {26, "I32", LORA_DTYPE_I32, 0, NULL},
    {27, "I64", LORA_DTYPE_I64, 0, NULL},
    {28, "F64", LORA_DTYPE_F64, 0, NULL},
    {29, "IQ1_M", LORA_DTYPE_NONE, 0, NULL},
    {30, "BF16", LORA_DTYPE_BF16, 0, NULL},
    {34, "TQ1_0", LORA_DTYPE_NONE, 0, NULL},
    {35, "TQ2_0", LORA_DTYPE_NONE, 0, NULL},
    {39, "MXFP4", LORA_DTYPE_NONE, 0, NULL},
    {40, "NVFP4", LORA_DTYPE_NONE, 0, NULL},
    {41, "Q1_0", LORA_DTYPE_NONE, 0, NULL},
};

LORA_PRIVATE const lora__gguf_type *lora__gguf_type_find(uint32_t id)
{
    for (size_t i = 0; i < LORA__COUNT(gguf_types); i++) {
        if (gguf_types[i].id == id) {
            return &gguf_types[i];
        }
    }
    return NULL;
}

typedef struct gguf_blocks {
    const lora__container *container;
    const lora__gguf_type *type;
} gguf_blocks;

LORA_PRIVATE uint64_t lora__gguf_stored_bytes(const lora__entry *entry,
                                              uint64_t elements)
{
    const gguf_blocks *blocks = entry->source;

    return elements / LORA__GGUF_BLOCK * blocks->type->block_bytes;
}

LORA_PRIVATE lora_status lora__gguf_read_stored(void *out,
                                                const lora__entry *entry,
                                                uint64_t offset,
                                                size_t bytes,
                                                lora_error *error)
{
    const gguf_blocks *blocks = entry->source;

    return lora__reader_read(&blocks->container->reader, entry->offset + offset,
                             out, bytes, blocks->container->path, error);
}

static void gguf_encode_block(unsigned char *out, const float *in)
{
    float largest = 0.0F;
    float d;
    float inverse;
    uint32_t half;

    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        largest = fabsf(in[i]) > largest ? fabsf(in[i]) : largest;
    }
    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        largest = isfinite(in[i]) ? largest : (float)NAN;
    }
    d = largest / 127.0F;
    inverse = d > 0.0F ? 1.0F / d : 0.0F;
    half = lora__float_encode(lora__f32_widen(lora__f32_bits(d)),
                              &lora__format_f16);
    out[0] = (unsigned char)half;
    out[1] = (unsigned char)(half >> 8);
    for (size_t i = 0; i < LORA__GGUF_BLOCK; i++) {
        float q = inverse > 0.0F ? roundf(in[i] * inverse) : 0.0F;
        out[2 + i] = (unsigned char)(int)q;
    }
}

LORA_PRIVATE void
lora__gguf_encode_q8_0(unsigned char *out, const float *in, size_t count)
{
    for (size_t i = 0; i < count; i += LORA__GGUF_BLOCK) {
        gguf_encode_block(out, in + i);
        out += LORA__GGUF_BLOCK + 2;
    }
}

/* Whole blocks are decoded and cut to the bytes that were asked for. */
static lora_status gguf_decode(const lora__entry *entry,
                               uint64_t offset,
                               void *buffer,
                               size_t bytes,
                               lora_error *error)
{
    const gguf_blocks *blocks = entry->source;
    const lora__container *container = blocks->container;
    size_t block_bytes = blocks->type->block_bytes;
    unsigned char stored[GGUF_CHUNK * GGUF_BLOCK_BYTES];
    float made[GGUF_CHUNK * LORA__GGUF_BLOCK];
    unsigned char *out = buffer;

    while (bytes > 0) {
        uint64_t first = offset / GGUF_MADE;
        size_t skip = (size_t)(offset % GGUF_MADE);
        uint64_t left = entry->bytes / GGUF_MADE - first;
        size_t count = left < GGUF_CHUNK ? (size_t)left : GGUF_CHUNK;
        size_t step;

        if (count > (bytes - 1) / GGUF_MADE + 2) {
            count = (bytes - 1) / GGUF_MADE + 2; /* both ends may be cut */
        }
        TRY(lora__reader_read(&container->reader,
                              entry->offset + first * block_bytes, stored,
                              count * block_bytes, container->path, error));
        for (size_t i = 0; i < count; i++) {
            blocks->type->decode(made + i * LORA__GGUF_BLOCK,
                                 stored + i * block_bytes);
        }
        step = count * GGUF_MADE - skip;
        step = step < bytes ? step : bytes;
        memcpy(out, (const unsigned char *)made + skip, step);
        out += step;
        offset += step;
        bytes -= step;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__gguf_place_blocks(lora__entry *entry,
                                                 lora__container *container,
                                                 const lora__gguf_type *type,
                                                 lora_error *error)
{
    gguf_blocks *blocks;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &container->arena, 1, sizeof *blocks,
                           error));
    blocks = memory;
    blocks->container = container;
    blocks->type = type;
    entry->source = blocks;
    entry->derive = gguf_decode;
    entry->quantised = type->name;
    return LORA_OK;
}
