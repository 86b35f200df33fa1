/* Floating-point formats as bit patterns: what every conversion means.
 *
 * Pure integer code, so neither the rounding mode nor flush-to-zero nor the
 * compiler has a say. Kernels are measured against it bit by bit.
 *
 * Values travel between formats as the bits of an F64, which holds all
 * others exactly; encoding therefore rounds once, whatever the source.
 *
 * NaN: quieted, and sign and upper payload kept, between the IEEE formats
 * (F16, BF16, F32, F64, and F8_E5M2 when decoded) -- what F16C and NEON do.
 * The F8 types have one NaN a sign to encode to, the FNUZ types one alone.
 */
#ifndef LORA__TENSOR_MINIFLOAT_H
#define LORA__TENSOR_MINIFLOAT_H

#include "platform/compiler.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__)
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "tensor data is little-endian and is used in place"
#endif
#endif

#define LORA__F32_INF 0x7f800000u
#define LORA__F32_QUIET 0x00400000u
#define LORA__F64_SIGN 0x8000000000000000u
#define LORA__F64_INF 0x7ff0000000000000u
#define LORA__F64_QUIET 0x0008000000000000u

/* A binary format of up to 32 bits: sign, exponent, mantissa. Codes below
 * are without the sign and ascend with the value. */
typedef struct lora__float_format {
    uint32_t mantissa_bits;
    uint32_t sign;     /* the sign bit */
    int32_t bias;      /* value = 1.m * 2^(e - bias), or 0.m * 2^(1 - bias) */
    uint32_t max;      /* largest finite */
    uint32_t overflow; /* what lies beyond: infinity or NaN */
    uint32_t nan;      /* quiet NaN */
    int32_t payload;   /* NaNs keep their upper payload bits when encoded */
    int32_t fnuz;      /* one zero, and the sign alone is NaN */
} lora__float_format;

/* clang-format off */
/* mantissa, sign, bias, max, overflow, nan, payload, fnuz */
static const lora__float_format lora__format_f32 = {
    23, 0x80000000, 127, 0x7f7fffff, 0x7f800000, 0x7fc00000, 1, 0};
static const lora__float_format lora__format_f16 = {
    10,     0x8000,  15,     0x7bff,     0x7c00,     0x7e00, 1, 0};
static const lora__float_format lora__format_e5m2 = {
     2,       0x80,  15,       0x7b,       0x7c,       0x7f, 0, 0};
static const lora__float_format lora__format_e4m3 = {
     3,       0x80,   7,       0x7e,       0x7f,       0x7f, 0, 0};
static const lora__float_format lora__format_e5m2fnuz = {
     2,       0x80,  16,       0x7f,       0x80,       0x80, 0, 1};
static const lora__float_format lora__format_e4m3fnuz = {
     3,       0x80,   8,       0x7f,       0x80,       0x80, 0, 1};
/* clang-format on */

static inline uint32_t lora__f32_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float lora__f32_from_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t lora__f64_bits(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double lora__f64_from_bits(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* value / 2^shift to nearest even; shift 1..63. */
static inline uint64_t lora__round_shift(uint64_t value, uint32_t shift)
{
    const uint64_t half = (uint64_t)1 << (shift - 1);
    const uint64_t rest = value & (half * 2 - 1);
    const uint64_t whole = value >> shift;

    return whole + (rest > half || (rest == half && (whole & 1) != 0));
}

/* The code of the nearest value, ties to even, from the bits of an F64. */
static inline uint32_t lora__float_encode(uint64_t bits,
                                          const lora__float_format *format)
{
    const uint64_t one = (uint64_t)1 << 52;
    const uint64_t magnitude = bits & ~LORA__F64_SIGN;
    const uint32_t sign = (bits & LORA__F64_SIGN) != 0 ? format->sign : 0;
    const uint64_t mantissa = (magnitude & (one - 1)) | one;
    const int32_t exponent = (int32_t)(magnitude >> 52) - 1023 + format->bias;
    uint32_t shift = 52 - format->mantissa_bits;
    uint64_t code;

    if (magnitude > LORA__F64_INF) {
        code = format->nan;
        if (format->payload) {
            code |= (magnitude & (one - 1)) >> shift;
        }
        return format->fnuz ? format->nan : (uint32_t)code | sign;
    }
    if (exponent >= 1) {
        /* The leading one of the mantissa adds 1 to the exponent field, and
         * so does a mantissa that rounds up to two. */
        code = ((uint64_t)(exponent - 1) << format->mantissa_bits) +
               lora__round_shift(mantissa, shift);
    } else {
        /* Subnormal. Mantissa < 2^53: from a shift of 54 on all is zero, F64
         * subnormals (which have no leading one) included. */
        shift += (uint32_t)(1 - exponent);
        code = shift < 54 ? lora__round_shift(mantissa, shift) : 0;
    }
    if (code > format->max) {
        code = format->overflow;
    }
    if (format->fnuz && (code == 0 || code == format->nan)) {
        return (uint32_t)code;
    }
    return (uint32_t)code | sign;
}

/* The bits of an F32 from a code of F16 or an F8 type: exact. */
static inline uint32_t lora__float_decode(uint32_t code,
                                          const lora__float_format *format)
{
    const uint32_t widen = 23 - format->mantissa_bits;
    const uint32_t sign = (code & format->sign) != 0 ? 0x80000000u : 0;
    uint32_t magnitude = code & (format->sign - 1);
    int32_t exponent = 127 - format->bias;

    if (format->fnuz && code == format->nan) {
        return LORA__F32_INF | LORA__F32_QUIET;
    }
    if (magnitude > format->max) {
        if (magnitude == format->overflow && format->overflow != format->nan) {
            return sign | LORA__F32_INF;
        }
        return sign | LORA__F32_INF | LORA__F32_QUIET |
               (magnitude << widen & (LORA__F32_QUIET - 1));
    }
    if (magnitude == 0) {
        return sign;
    }
    if (magnitude >> format->mantissa_bits == 0) {
        /* Subnormal: shift up to a leading one, one exponent a step. */
        exponent++;
        while (magnitude >> format->mantissa_bits == 0) {
            magnitude <<= 1;
            exponent--;
        }
        magnitude -= (uint32_t)1 << format->mantissa_bits;
    }
    return sign | (((uint32_t)exponent << 23) + (magnitude << widen));
}

/* 2^(code - 127); 255 is NaN. The smallest is an F32 subnormal. */
static inline uint32_t lora__e8m0_decode(uint32_t code)
{
    if (code == 255) {
        return LORA__F32_INF | LORA__F32_QUIET;
    }
    return code == 0 ? 0x00400000u : code << 23;
}

/* The bits of an F64 from the bits of an F32: exact. */
static inline uint64_t lora__f32_widen(uint32_t bits)
{
    const uint64_t sign = (uint64_t)(bits >> 31) << 63;
    uint64_t magnitude = bits & 0x7fffffffu;
    uint64_t exponent = 1023 - 127;

    if (magnitude >= LORA__F32_INF) {
        return sign | LORA__F64_INF | magnitude << 29 |
               (magnitude > LORA__F32_INF ? LORA__F64_QUIET : 0);
    }
    if (magnitude == 0) {
        return sign;
    }
    if (magnitude >> 23 == 0) {
        exponent++;
        while (magnitude >> 23 == 0) {
            magnitude <<= 1;
            exponent--;
        }
        magnitude -= (uint64_t)1 << 23;
    }
    return sign | ((exponent << 52) + (magnitude << 29));
}

/* The bits of an F32 from those of an F64, rounded to odd: cut off, and the
 * last bit set if that lost anything. Rounding the result to nearest in a
 * format with at least two bits fewer equals rounding the F64 once: what was
 * lost can no longer pretend to be a tie. Beyond the largest finite value the
 * result is that value, which is odd. */
static inline uint32_t lora__f64_narrow_odd(uint64_t bits)
{
    const uint64_t one = (uint64_t)1 << 52;
    const uint64_t magnitude = bits & ~LORA__F64_SIGN;
    const uint32_t sign = (uint32_t)(bits >> 32) & 0x80000000u;
    const int32_t exponent = (int32_t)(magnitude >> 52) - 1023 + 127;
    uint64_t mantissa = (magnitude & (one - 1)) | one;
    uint32_t shift = 29;
    uint32_t code;

    if (magnitude >= LORA__F64_INF || magnitude == 0) {
        return lora__float_encode(bits, &lora__format_f32);
    }
    if (exponent > 254) {
        return sign | lora__format_f32.max;
    }
    if (exponent < 1) {
        shift += (uint32_t)(1 - exponent);
        if (shift >= 54) {
            return sign | 1;
        }
    }
    code = (uint32_t)(mantissa >> shift);
    code |= (mantissa & (((uint64_t)1 << shift) - 1)) != 0;
    if (exponent >= 1) {
        code += (uint32_t)(exponent - 1) << 23;
    }
    return sign | code;
}

#endif
