/* Number types and tensor views.
 *
 * A view describes memory that somebody else owns. Data is little-endian and
 * may be unaligned: files written by old tools align nothing.
 */
#ifndef LORA_TENSOR_H
#define LORA_TENSOR_H

#include <lora/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tensors have at most this many dimensions. */
#define LORA_MAX_DIMS 8

/** Number types, in the order in which the safetensors writer sorts them
 *  (highest first). Zero means "none" or "keep".
 */
typedef int32_t lora_dtype;

enum {
    LORA_DTYPE_NONE = 0,
    LORA_DTYPE_BOOL = 1,
    LORA_DTYPE_F4 = 2,      /* e2m1, two a byte: passed through only */
    LORA_DTYPE_F6_E2M3 = 3, /* passed through only */
    LORA_DTYPE_F6_E3M2 = 4, /* passed through only */
    LORA_DTYPE_U8 = 5,
    LORA_DTYPE_I8 = 6,
    LORA_DTYPE_F8_E5M2 = 7,
    LORA_DTYPE_F8_E4M3 = 8, /* e4m3fn: no infinity */
    LORA_DTYPE_F8_E8M0 = 9, /* powers of two */
    LORA_DTYPE_F8_E4M3FNUZ = 10,
    LORA_DTYPE_F8_E5M2FNUZ = 11,
    LORA_DTYPE_I16 = 12,
    LORA_DTYPE_U16 = 13,
    LORA_DTYPE_F16 = 14,
    LORA_DTYPE_BF16 = 15,
    LORA_DTYPE_I32 = 16,
    LORA_DTYPE_U32 = 17,
    LORA_DTYPE_F32 = 18,
    LORA_DTYPE_C64 = 19, /* two F32: passed through only */
    LORA_DTYPE_F64 = 20,
    LORA_DTYPE_I64 = 21,
    LORA_DTYPE_U64 = 22
};

/** A view of a tensor.
 *
 *  Frozen: it is passed in arrays, so it never grows.
 */
typedef struct lora_tensor {
    const void *data;             /* first element; little-endian */
    uint64_t bytes;               /* size of the data */
    int64_t shape[LORA_MAX_DIMS]; /* first dimension slowest */
    int32_t ndim;                 /* 0 for a scalar */
    lora_dtype dtype;
} lora_tensor;

/** Size of one element in bits.
 *
 *  @return 4 to 64, or 0 for LORA_DTYPE_NONE and unknown numbers.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API uint32_t lora_dtype_bits(lora_dtype dtype);

/** Name of a type as safetensors spells it: "F16", "BF16", "F8_E4M3" ...
 *
 *  @return a static string; "NONE" for LORA_DTYPE_NONE and unknown numbers.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_dtype_name(lora_dtype dtype);

/** Find a type by name, as safetensors spells it or in lower case ("f16").
 *
 *  @param name  NULL gives LORA_DTYPE_NONE.
 *  @return the type, or LORA_DTYPE_NONE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_dtype lora_dtype_from_name(const char *name);

/** Convert numbers between types.
 *
 *  Decoding is exact (64-bit integers excepted). Encoding rounds once, to
 *  nearest even, from the value as F32 (from F64 where the input is F64).
 *  Too large becomes infinity where the type has one; in F8_E4M3 and the FNUZ
 *  types it becomes NaN, as in torch. NaN stays NaN; integers saturate.
 *
 *  @param out        `count` elements of out_dtype; may be unaligned; must not
 *                    overlap `in` unless equal to it with equal element size.
 *  @param out_dtype  F64, F32, F16, BF16, any F8 but F8_E8M0, or an integer.
 *  @param in         `count` elements of in_dtype; may be unaligned.
 *  @param in_dtype   any type but F4, F6_* and C64.
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_DTYPE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_tensor_convert(void *out,
                                                        lora_dtype out_dtype,
                                                        const void *in,
                                                        lora_dtype in_dtype,
                                                        uint64_t count,
                                                        lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
