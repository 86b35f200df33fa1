/* Conversions with NEON. Bit by bit the reference's, which also takes the
 * last few elements of an array.
 *
 * Assumes FPCR as programs start with it, flush-to-zero apart: round to
 * nearest, IEEE half precision, NaNs passed on.
 */
#include "kernel/variants.h"

#if LORA__NEON

#include <arm_neon.h>

static inline const uint8_t *neon_bytes(const void *in, size_t index)
{
    return (const uint8_t *)in + 2 * index;
}

/* Four 16-bit codes from anywhere. */
static inline uint16x4_t neon_load_codes(const void *in, size_t index)
{
    return vreinterpret_u16_u8(vld1_u8(neon_bytes(in, index)));
}

static inline void neon_store_codes(void *out, size_t index, uint16x4_t codes)
{
    vst1_u8((uint8_t *)out + 2 * index, vreinterpret_u8_u16(codes));
}

LORA_PRIVATE void
lora__neon_f16_to_f32(float *out, const void *in, size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        vst1q_f32(out + i,
                  vcvt_f32_f16(vreinterpret_f16_u16(neon_load_codes(in, i))));
    }
    lora__ref_f16_to_f32(out + i, neon_bytes(in, i), count - i);
}

LORA_PRIVATE void
lora__neon_bf16_to_f32(float *out, const void *in, size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const uint32x4_t wide = vshll_n_u16(neon_load_codes(in, i), 16);

        vst1q_f32(out + i, vreinterpretq_f32_u32(wide));
    }
    lora__ref_bf16_to_f32(out + i, neon_bytes(in, i), count - i);
}

/* Flushing could hit subnormal input only, which is zero in F16 anyway. */
LORA_PRIVATE void
lora__neon_f32_to_f16(void *out, const float *in, size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const float16x4_t codes = vcvt_f16_f32(vld1q_f32(in + i));

        neon_store_codes(out, i, vreinterpret_u16_f16(codes));
    }
    lora__ref_f32_to_f16((uint8_t *)out + 2 * i, in + i, count - i);
}

/* As the reference rounds. */
LORA_PRIVATE void
lora__neon_f32_to_bf16(void *out, const float *in, size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(in + i));
        const uint32x4_t upper = vshrq_n_u32(bits, 16);
        const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
        const uint32x4_t rounded = vshrq_n_u32(
            vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
        const uint32x4_t is_nan = vcgtq_u32(
            vandq_u32(bits, vdupq_n_u32(0x7fffffff)), vdupq_n_u32(0x7f800000));
        const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));

        neon_store_codes(out, i, vmovn_u32(vbslq_u32(is_nan, quiet, rounded)));
    }
    lora__ref_f32_to_bf16((uint8_t *)out + 2 * i, in + i, count - i);
}

/* Flush-to-zero would take subnormals for zeros: those go another way. */
LORA_PRIVATE void
lora__neon_f32_to_f64(double *out, const float *in, size_t count)
{
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        const float32x2_t values = vld1_f32(in + i);
        const uint32x2_t magnitude =
            vand_u32(vreinterpret_u32_f32(values), vdup_n_u32(0x7fffffff));
        /* Zero wraps around, so subnormals alone are below. */
        const uint32x2_t subnormal = vclt_u32(
            vsub_u32(magnitude, vdup_n_u32(1)), vdup_n_u32(0x007fffff));

        if (vmaxv_u32(subnormal) == 0) {
            vst1q_f64(out + i, vcvt_f64_f32(values));
        } else {
            lora__ref_f32_to_f64(out + i, in + i, 2);
        }
    }
    lora__ref_f32_to_f64(out + i, in + i, count - i);
}

/* 1 if one of two F64 is subnormal as an F32, which could be flushed. */
static inline int neon_is_tiny(float64x2_t values)
{
    const uint64x2_t magnitude =
        vandq_u64(vreinterpretq_u64_f64(values), vdupq_n_u64(INT64_MAX));
    /* Zero wraps around, as above; 897 is the exponent of 2^-126. */
    const uint64x2_t tiny = vcltq_u64(vsubq_u64(magnitude, vdupq_n_u64(1)),
                                      vdupq_n_u64(((uint64_t)897 << 52) - 1));

    return (vgetq_lane_u64(tiny, 0) | vgetq_lane_u64(tiny, 1)) != 0;
}

LORA_PRIVATE void
lora__neon_f64_to_f32(float *out, const double *in, size_t count)
{
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        const float64x2_t values = vld1q_f64(in + i);

        if (neon_is_tiny(values)) {
            lora__ref_f64_to_f32(out + i, in + i, 2);
        } else {
            vst1_f32(out + i, vcvt_f32_f64(values));
        }
    }
    lora__ref_f64_to_f32(out + i, in + i, count - i);
}

LORA_PRIVATE void
lora__neon_f64_to_f32_odd(float *out, const double *in, size_t count)
{
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        const float64x2_t values = vld1q_f64(in + i);

        if (neon_is_tiny(values)) {
            lora__ref_f64_to_f32_odd(out + i, in + i, 2);
        } else {
            vst1_f32(out + i, vcvtx_f32_f64(values));
        }
    }
    lora__ref_f64_to_f32_odd(out + i, in + i, count - i);
}

#endif
