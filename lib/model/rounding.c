/* Rounding changed weights. */
#include "model/rounding.h"

#include "core/rng.h"

#include <math.h>
#include <string.h>

/* Numbers that are rounded at a time. */
#define ROUNDING_CHUNK 512

LORA_PRIVATE uint64_t lora__rounding_key(const char *target, int32_t role)
{
    uint64_t key = 0xCBF29CE484222325u ^ (uint64_t)role; /* FNV-1a */

    for (size_t i = 0; target[i] != '\0'; i++) {
        key = (key ^ (unsigned char)target[i]) * 0x100000001B3u;
    }
    return key;
}

/* The largest finite number of an 8-bit float; 0 for other types. */
static float rounding_largest(lora_dtype dtype)
{
    switch (dtype) {
    case LORA_DTYPE_F8_E4M3:
        return 448.0F;
    case LORA_DTYPE_F8_E5M2:
    case LORA_DTYPE_F8_E5M2FNUZ:
        return 57344.0F;
    case LORA_DTYPE_F8_E4M3FNUZ:
        return 240.0F;
    default:
        return 0.0F;
    }
}

/* NaN stays: it compares false. */
static void rounding_clamp(float *in, size_t count, float largest)
{
    for (size_t i = 0; i < count; i++) {
        in[i] = in[i] > largest ? largest : in[i] < -largest ? -largest : in[i];
    }
}

static uint32_t rounding_get(const unsigned char *at, size_t size)
{
    uint16_t half;

    if (size == 1) {
        return at[0];
    }
    memcpy(&half, at, sizeof half);
    return half;
}

static void rounding_set(unsigned char *at, size_t size, uint32_t bits)
{
    uint16_t half = (uint16_t)bits;

    if (size == 1) {
        at[0] = (unsigned char)bits;
    } else {
        memcpy(at, &half, sizeof half);
    }
}

/* The code on the other side of a number that was rounded to `bits`: the types
 * are a sign and a magnitude, and magnitudes are in order. */
static uint32_t
rounding_other(uint32_t bits, size_t size, float value, float rounded)
{
    const uint32_t sign = (uint32_t)1 << (size * 8 - 1);
    const uint32_t magnitude = bits & (sign - 1);

    if (rounded == 0.0F) {
        return (value < 0.0F ? sign : 0) | 1u;
    }
    if (fabsf(value) > fabsf(rounded)) {
        return bits + 1;
    }
    return magnitude == 1 ? 0 : bits - 1;
}

/* Swap codes for the other ones by chance. `others` has room for them. */
static lora_status rounding_chance(unsigned char *out,
                                   lora_dtype dtype,
                                   const float *in,
                                   size_t count,
                                   const lora__rounding *rounding,
                                   uint64_t key,
                                   uint64_t first,
                                   const lora__kernels *kernels,
                                   lora_error *error)
{
    const size_t size = lora_dtype_bits(dtype) / 8;
    const uint32_t seed[2] = {(uint32_t)rounding->seed,
                              (uint32_t)(rounding->seed >> 32)};
    unsigned char others[2 * ROUNDING_CHUNK];
    float rounded[ROUNDING_CHUNK];
    float away[ROUNDING_CHUNK];
    uint32_t words[4] = {0, 0, 0, 0};
    uint64_t drawn = UINT64_MAX;

    TRY(lora__convert_to_f32(rounded, out, dtype, count, kernels, error));
    for (size_t i = 0; i < count; i++) {
        rounding_set(others + i * size, size,
                     rounding_other(rounding_get(out + i * size, size), size,
                                    in[i], rounded[i]));
    }
    TRY(lora__convert_to_f32(away, others, dtype, count, kernels, error));
    for (size_t i = 0; i < count; i++) {
        const uint64_t element = first + i;
        float share;
        if (in[i] == rounded[i] || !isfinite(rounded[i]) ||
            !isfinite(away[i])) {
            continue;
        }
        if (element / 4 != drawn) {
            const uint32_t counter[4] = {(uint32_t)(element / 4),
                                         (uint32_t)(element / 4 >> 32),
                                         (uint32_t)key, (uint32_t)(key >> 32)};
            drawn = element / 4;
            lora__philox(words, counter, seed);
        }
        share = (in[i] - rounded[i]) / (away[i] - rounded[i]);
        if ((double)words[element % 4] < (double)share * 4294967296.0) {
            memcpy(out + i * size, others + i * size, size);
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__round(void *out,
                                     lora_dtype dtype,
                                     float *in,
                                     size_t count,
                                     const lora__rounding *rounding,
                                     uint64_t key,
                                     uint64_t first,
                                     const lora__kernels *kernels,
                                     lora_error *error)
{
    const size_t size = lora_dtype_bits(dtype) / 8;
    const float largest = rounding_largest(dtype);
    unsigned char *to = out;

    if (rounding->saturate && largest != 0.0F) {
        rounding_clamp(in, count, largest);
    }
    TRY(lora__convert_from_f32(out, dtype, in, count, kernels, error));
    if (!rounding->stochastic || size > 2) {
        return LORA_OK;
    }
    for (size_t done = 0; done < count; done += ROUNDING_CHUNK) {
        size_t left = count - done;
        TRY(rounding_chance(to + done * size, dtype, in + done,
                            left < ROUNDING_CHUNK ? left : ROUNDING_CHUNK,
                            rounding, key, first + done, kernels, error));
    }
    return LORA_OK;
}
