/* Conversion between any two number types.
 *
 * Types whose values all fit into F32 go by way of F32, the others by way of
 * F64, in blocks on the stack; integers go to integers directly.
 */
#include "kernel/kernel.h"

#include "core/integer.h"
#include "platform/cpuid.h"
#include "tensor/minifloat.h"

/* Elements of a block: 4 KiB of F32, and 8 KiB of F64 or integers. */
#define CONVERT_BLOCK 1024

/* Below this many elements asking for the CPU costs more than it saves. */
#define CONVERT_FEW 32768

static size_t convert_bytes(lora_dtype dtype)
{
    return lora_dtype_bits(dtype) / 8;
}

static size_t convert_block(size_t count, size_t done)
{
    return count - done < CONVERT_BLOCK ? count - done : CONVERT_BLOCK;
}

static lora_status
convert_refuse(lora_dtype dtype, const char *what, lora_error *error)
{
    return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
                      "numbers cannot be %s %s", what, lora_dtype_name(dtype));
}

static int convert_is_integer(lora_dtype dtype)
{
    switch (dtype) {
    case LORA_DTYPE_U8:
    case LORA_DTYPE_I8:
    case LORA_DTYPE_U16:
    case LORA_DTYPE_I16:
    case LORA_DTYPE_U32:
    case LORA_DTYPE_I32:
    case LORA_DTYPE_U64:
    case LORA_DTYPE_I64:
        return 1;
    default:
        return 0;
    }
}

static const lora__float_format *convert_f8_format(lora_dtype dtype)
{
    switch (dtype) {
    case LORA_DTYPE_F8_E5M2:
        return &lora__format_e5m2;
    case LORA_DTYPE_F8_E4M3:
        return &lora__format_e4m3;
    case LORA_DTYPE_F8_E5M2FNUZ:
        return &lora__format_e5m2fnuz;
    case LORA_DTYPE_F8_E4M3FNUZ:
        return &lora__format_e4m3fnuz;
    default:
        return NULL;
    }
}

LORA_PRIVATE int lora__dtype_is_float(lora_dtype dtype)
{
    return dtype == LORA_DTYPE_F64 || dtype == LORA_DTYPE_F32 ||
           dtype == LORA_DTYPE_F16 || dtype == LORA_DTYPE_BF16 ||
           convert_f8_format(dtype) != NULL;
}

LORA_PRIVATE int lora__dtype_is_readable(lora_dtype dtype)
{
    return lora__dtype_is_float(dtype) || convert_is_integer(dtype) ||
           dtype == LORA_DTYPE_BOOL || dtype == LORA_DTYPE_F8_E8M0;
}

/* 1 if F32 does not hold all values of the type. */
static int convert_is_wide(lora_dtype dtype)
{
    return dtype == LORA_DTYPE_F64 || dtype == LORA_DTYPE_I32 ||
           dtype == LORA_DTYPE_U32 || dtype == LORA_DTYPE_I64 ||
           dtype == LORA_DTYPE_U64;
}

#define CONVERT_LOAD(type)                                                     \
    do {                                                                       \
        for (size_t i = 0; i < count; i++) {                                   \
            type value;                                                        \
                                                                               \
            memcpy(&value, in + i * sizeof value, sizeof value);               \
            out[i] = (int64_t)value;                                           \
        }                                                                      \
    } while (0)

/* Integers and BOOL as I64; of U64 what fits. */
static void convert_load_integers(int64_t *out,
                                  const unsigned char *in,
                                  lora_dtype dtype,
                                  size_t count)
{
    switch (dtype) {
    case LORA_DTYPE_BOOL:
        for (size_t i = 0; i < count; i++) {
            out[i] = in[i] != 0;
        }
        break;
    case LORA_DTYPE_U8:
        CONVERT_LOAD(uint8_t);
        break;
    case LORA_DTYPE_I8:
        CONVERT_LOAD(int8_t);
        break;
    case LORA_DTYPE_U16:
        CONVERT_LOAD(uint16_t);
        break;
    case LORA_DTYPE_I16:
        CONVERT_LOAD(int16_t);
        break;
    case LORA_DTYPE_U32:
        CONVERT_LOAD(uint32_t);
        break;
    case LORA_DTYPE_I32:
        CONVERT_LOAD(int32_t);
        break;
    case LORA_DTYPE_I64:
        CONVERT_LOAD(int64_t);
        break;
    default: /* U64: a negative value is one that does not fit */
        CONVERT_LOAD(uint64_t);
        for (size_t i = 0; i < count; i++) {
            out[i] = out[i] < 0 ? INT64_MAX : out[i];
        }
        break;
    }
}

/* Saturate and store as any integer type. */
static void convert_store_integers(unsigned char *out,
                                   lora_dtype dtype,
                                   const int64_t *in,
                                   size_t count)
{
    const size_t bytes = convert_bytes(dtype);
    const int is_signed = dtype == LORA_DTYPE_I8 || dtype == LORA_DTYPE_I16 ||
                          dtype == LORA_DTYPE_I32 || dtype == LORA_DTYPE_I64;
    const uint32_t value_bits = dtype == LORA_DTYPE_U64
                                    ? 63
                                    : (uint32_t)bytes * 8 - (uint32_t)is_signed;
    const int64_t max = (int64_t)(UINT64_MAX >> (64 - value_bits));
    const int64_t min = is_signed ? -max - 1 : 0;

    for (size_t i = 0; i < count; i++) {
        int64_t value = in[i] < min ? min : in[i];

        value = value > max ? max : value;
        memcpy(out + i * bytes, &value, bytes); /* little-endian: the low end */
    }
}

/* To nearest even, saturated; 0 for NaN. */
static int64_t convert_round(double value)
{
    const double limit = 9223372036854775808.0; /* 2^63 */
    int64_t whole;
    double rest;

    if (!(value < limit)) {
        return value >= limit ? INT64_MAX : 0;
    }
    if (value < -limit) {
        return INT64_MIN;
    }
    whole = (int64_t)value;
    rest = value - (double)whole; /* exact: 0 from 2^53 on */
    if (rest > 0.5 || (rest >= 0.5 && whole % 2 != 0)) {
        return whole + 1;
    }
    if (rest < -0.5 || (rest <= -0.5 && whole % 2 != 0)) {
        return whole - 1;
    }
    return whole;
}

/* The same for what is above I64. */
static uint64_t convert_round_u64(double value)
{
    const double limit = 18446744073709551616.0; /* 2^64 */

    if (value >= limit) {
        return UINT64_MAX;
    }
    if (value >= limit / 2) {
        return (uint64_t)value;
    }
    return value > 0 ? (uint64_t)convert_round(value) : 0;
}

/* Any F8, E8M0 included, by a table once that pays. */
static void convert_load_f8(float *out,
                            const unsigned char *in,
                            lora_dtype dtype,
                            size_t count)
{
    const lora__float_format *format = convert_f8_format(dtype);
    float values[256];

    for (uint32_t code = 0; code < 256; code++) {
        values[code] = lora__f32_from_bits(
            format != NULL ? lora__float_decode(code, format)
                           : lora__e8m0_decode(code));
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = values[in[i]];
    }
}

static uint64_t convert_u64_at(const unsigned char *in, size_t index)
{
    uint64_t value;

    memcpy(&value, in + index * sizeof value, sizeof value);
    return value;
}

/* Integers and BOOL, a block of them. */
static void convert_integers_to_f32(float *out,
                                    const unsigned char *in,
                                    lora_dtype dtype,
                                    size_t count)
{
    int64_t whole[CONVERT_BLOCK];

    convert_load_integers(whole, in, dtype, count);
    for (size_t i = 0; i < count; i++) {
        out[i] = dtype == LORA_DTYPE_U64 ? (float)convert_u64_at(in, i)
                                         : (float)whole[i];
    }
}

static void convert_integers_to_f64(double *out,
                                    const unsigned char *in,
                                    lora_dtype dtype,
                                    size_t count)
{
    int64_t whole[CONVERT_BLOCK];

    convert_load_integers(whole, in, dtype, count);
    for (size_t i = 0; i < count; i++) {
        out[i] = dtype == LORA_DTYPE_U64 ? (double)convert_u64_at(in, i)
                                         : (double)whole[i];
    }
}

static void convert_f64_to_f32(float *out,
                               const unsigned char *in,
                               size_t count,
                               const lora__kernels *kernels)
{
    double block[CONVERT_BLOCK];

    memcpy(block, in, count * sizeof *block);
    kernels->f64_to_f32(out, block, count);
}

LORA_PRIVATE lora_status lora__convert_to_f32(float *out,
                                              const void *in,
                                              lora_dtype dtype,
                                              size_t count,
                                              const lora__kernels *kernels,
                                              lora_error *error)
{
    const unsigned char *from = in;
    const size_t bytes = convert_bytes(dtype);

    if (!lora__dtype_is_readable(dtype)) {
        return convert_refuse(dtype, "read from", error);
    }
    if (count == 0) {
        return LORA_OK;
    }
    if (dtype == LORA_DTYPE_F32) {
        memmove(out, in, count * sizeof *out);
    } else if (dtype == LORA_DTYPE_F16) {
        kernels->f16_to_f32(out, in, count);
    } else if (dtype == LORA_DTYPE_BF16) {
        kernels->bf16_to_f32(out, in, count);
    } else {
        for (size_t i = 0; i < count; i += CONVERT_BLOCK) {
            const size_t block = convert_block(count, i);

            if (dtype == LORA_DTYPE_F64) {
                convert_f64_to_f32(out + i, from + i * bytes, block, kernels);
            } else if (convert_is_integer(dtype) || dtype == LORA_DTYPE_BOOL) {
                convert_integers_to_f32(out + i, from + i * bytes, dtype,
                                        block);
            } else {
                convert_load_f8(out + i, from + i * bytes, dtype, block);
            }
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__convert_to_f64(double *out,
                                              const void *in,
                                              lora_dtype dtype,
                                              size_t count,
                                              const lora__kernels *kernels,
                                              lora_error *error)
{
    const unsigned char *from = in;
    const size_t bytes = convert_bytes(dtype);
    float narrow[CONVERT_BLOCK];

    if (!lora__dtype_is_readable(dtype)) {
        return convert_refuse(dtype, "read from", error);
    }
    if (dtype == LORA_DTYPE_F64 && count != 0) {
        memmove(out, in, count * sizeof *out);
        return LORA_OK;
    }
    for (size_t i = 0; i < count; i += CONVERT_BLOCK) {
        const size_t block = convert_block(count, i);

        if (convert_is_wide(dtype)) {
            convert_integers_to_f64(out + i, from + i * bytes, dtype, block);
        } else {
            TRY(lora__convert_to_f32(narrow, from + i * bytes, dtype, block,
                                     kernels, error));
            kernels->f32_to_f64(out + i, narrow, block);
        }
    }
    return LORA_OK;
}

/* A block of F64 to one of the integer types. */
static void convert_f64_to_integers(unsigned char *out,
                                    lora_dtype dtype,
                                    const double *in,
                                    size_t count)
{
    int64_t whole[CONVERT_BLOCK];

    for (size_t i = 0; i < count; i++) {
        if (dtype == LORA_DTYPE_U64) {
            const uint64_t value = convert_round_u64(in[i]);

            memcpy(out + i * sizeof value, &value, sizeof value);
        } else {
            whole[i] = convert_round(in[i]);
        }
    }
    if (dtype != LORA_DTYPE_U64) {
        convert_store_integers(out, dtype, whole, count);
    }
}

/* A block of F64 to F32, F16 or BF16. */
static void convert_f64_to_narrow(void *out,
                                  lora_dtype dtype,
                                  const double *in,
                                  size_t count,
                                  const lora__kernels *kernels)
{
    float narrow[CONVERT_BLOCK];

    if (dtype == LORA_DTYPE_F32) {
        kernels->f64_to_f32(narrow, in, count);
        memcpy(out, narrow, count * sizeof *narrow);
    } else {
        kernels->f64_to_f32_odd(narrow, in, count);
        (dtype == LORA_DTYPE_F16 ? kernels->f32_to_f16
                                 : kernels->f32_to_bf16)(out, narrow, count);
    }
}

LORA_PRIVATE lora_status lora__convert_from_f64(void *out,
                                                lora_dtype dtype,
                                                const double *in,
                                                size_t count,
                                                const lora__kernels *kernels,
                                                lora_error *error)
{
    const lora__float_format *f8 = convert_f8_format(dtype);
    const size_t bytes = convert_bytes(dtype);
    unsigned char *to = out;

    if (!lora__dtype_is_float(dtype) && !convert_is_integer(dtype)) {
        return convert_refuse(dtype, "written as", error);
    }
    if (dtype == LORA_DTYPE_F64 && count != 0) {
        memmove(out, in, count * sizeof *in);
        return LORA_OK;
    }
    for (size_t i = 0; i < count; i += CONVERT_BLOCK) {
        const size_t block = convert_block(count, i);

        if (convert_is_integer(dtype)) {
            convert_f64_to_integers(to + i * bytes, dtype, in + i, block);
        } else if (f8 == NULL) {
            convert_f64_to_narrow(to + i * bytes, dtype, in + i, block,
                                  kernels);
        } else {
            for (size_t j = i; j < i + block; j++) {
                to[j] = (unsigned char)lora__float_encode(lora__f64_bits(in[j]),
                                                          f8);
            }
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__convert_from_f32(void *out,
                                                lora_dtype dtype,
                                                const float *in,
                                                size_t count,
                                                const lora__kernels *kernels,
                                                lora_error *error)
{
    const size_t bytes = convert_bytes(dtype);
    unsigned char *to = out;
    double wide[CONVERT_BLOCK];

    if (!lora__dtype_is_float(dtype) && !convert_is_integer(dtype)) {
        return convert_refuse(dtype, "written as", error);
    }
    if (count == 0) {
        return LORA_OK;
    }
    if (dtype == LORA_DTYPE_F32) {
        memmove(out, in, count * sizeof *in);
    } else if (dtype == LORA_DTYPE_F16) {
        kernels->f32_to_f16(out, in, count);
    } else if (dtype == LORA_DTYPE_BF16) {
        kernels->f32_to_bf16(out, in, count);
    } else {
        for (size_t i = 0; i < count; i += CONVERT_BLOCK) {
            const size_t block = convert_block(count, i);

            kernels->f32_to_f64(wide, in + i, block);
            TRY(lora__convert_from_f64(to + i * bytes, dtype, wide, block,
                                       kernels, error));
        }
    }
    return LORA_OK;
}

/* One block of lora_tensor_convert. */
static lora_status convert_any(unsigned char *out,
                               lora_dtype out_dtype,
                               const unsigned char *in,
                               lora_dtype in_dtype,
                               size_t count,
                               const lora__kernels *kernels,
                               lora_error *error)
{
    union {
        float f32[CONVERT_BLOCK];
        double f64[CONVERT_BLOCK];
        int64_t whole[CONVERT_BLOCK];
    } block;

    if (convert_is_integer(in_dtype) && convert_is_integer(out_dtype)) {
        convert_load_integers(block.whole, in, in_dtype, count);
        convert_store_integers(out, out_dtype, block.whole, count);
    } else if (convert_is_wide(in_dtype)) {
        TRY(lora__convert_to_f64(block.f64, in, in_dtype, count, kernels,
                                 error));
        TRY(lora__convert_from_f64(out, out_dtype, block.f64, count, kernels,
                                   error));
    } else {
        TRY(lora__convert_to_f32(block.f32, in, in_dtype, count, kernels,
                                 error));
        TRY(lora__convert_from_f32(out, out_dtype, block.f32, count, kernels,
                                   error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_tensor_convert(void *out,
                                         lora_dtype out_dtype,
                                         const void *in,
                                         lora_dtype in_dtype,
                                         uint64_t count,
                                         lora_error *error)
{
    const size_t out_bytes = convert_bytes(out_dtype);
    const size_t in_bytes = convert_bytes(in_dtype);
    const lora__kernels *kernels;
    const unsigned char *from = in;
    unsigned char *to = out;

    lora__error_begin(error);
    CHECK_ARG(count == 0 || (out != NULL && in != NULL), error);
    /* No element is larger than 8 bytes. */
    CHECK_ARG(count <= SIZE_MAX / 8, error);
    if (!lora__dtype_is_readable(in_dtype)) {
        return convert_refuse(in_dtype, "read from", error);
    }
    if (!lora__dtype_is_float(out_dtype) && !convert_is_integer(out_dtype)) {
        return convert_refuse(out_dtype, "written as", error);
    }
    if (in_dtype == out_dtype && count != 0) {
        memmove(out, in, (size_t)count * in_bytes);
        return LORA_OK;
    }
    kernels = lora__kernels_get(count < CONVERT_FEW ? 0 : lora__cpu_features());
    for (size_t i = 0; i < count; i += CONVERT_BLOCK) {
        TRY(convert_any(to + i * out_bytes, out_dtype, from + i * in_bytes,
                        in_dtype, convert_block((size_t)count, i), kernels,
                        error));
    }
    return LORA_OK;
}
