/* Conversions with AVX2 and F16C. Bit by bit the reference's, which also
 * takes the last few elements of an array.
 */
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>

#define AVX2_CONVERT LORA__TARGET("avx2,f16c")

/* VCVTPH2PS quiets NaNs as the reference does, and heeds no MXCSR bit for
 * subnormals. */
LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f16_to_f32(float *out, const void *in, size_t count)
{
    const __m128i_u *from = in;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(from++)));
    }
    lora__ref_f16_to_f32(out + i, from, count - i);
}

LORA_PRIVATE AVX2_CONVERT void
lora__avx2_bf16_to_f32(float *out, const void *in, size_t count)
{
    const __m128i_u *from = in;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from++));

        _mm256_storeu_ps(out + i,
                         _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    lora__ref_bf16_to_f32(out + i, from, count - i);
}

/* The rounding mode is in the instruction; MXCSR could flush subnormal input
 * only, which is zero in F16 anyway. */
LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f32_to_f16(void *out, const float *in, size_t count)
{
    __m128i_u *to = out;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        _mm_storeu_si128(to++, _mm256_cvtps_ph(_mm256_loadu_ps(in + i),
                                               _MM_FROUND_TO_NEAREST_INT));
    }
    lora__ref_f32_to_f16(to, in + i, count - i);
}

/* Eight BF16 codes, in 32 bits each. Adding just under half a unit, and one
 * more if the unit is odd, carries exactly when nearest-even rounds up. */
AVX2_CONVERT static inline __m256i avx2_bf16_codes(const float *in)
{
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(in));
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(bits,
                         _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))),
        16);
    const __m256i magnitude =
        _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    const __m256i is_nan =
        _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));

    return _mm256_blendv_epi8(rounded, quiet, is_nan);
}

LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f32_to_bf16(void *out, const float *in, size_t count)
{
    __m256i_u *to = out;
    size_t i = 0;

    for (; i + 16 <= count; i += 16) {
        /* The pack works by halves of 128 bits; the permutation puts the
         * quarters in order again. */
        const __m256i pairs = _mm256_packus_epi32(avx2_bf16_codes(in + i),
                                                  avx2_bf16_codes(in + i + 8));

        _mm256_storeu_si256(to++, _mm256_permute4x64_epi64(pairs, 0xd8));
    }
    lora__ref_f32_to_bf16(to, in + i, count - i);
}

/* MXCSR may make VCVTPS2PD take subnormals for zeros: those go another way. */
LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f32_to_f64(double *out, const float *in, size_t count)
{
    const __m128i smallest_normal = _mm_set1_epi32(0x00800000);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const __m128 values = _mm_loadu_ps(in + i);
        const __m128i magnitude =
            _mm_and_si128(_mm_castps_si128(values), _mm_set1_epi32(0x7fffffff));
        const __m128i subnormal =
            _mm_and_si128(_mm_cmpgt_epi32(smallest_normal, magnitude),
                          _mm_cmpgt_epi32(magnitude, _mm_setzero_si128()));

        if (_mm_testz_si128(subnormal, subnormal)) {
            _mm256_storeu_pd(out + i, _mm256_cvtps_pd(values));
        } else {
            lora__ref_f32_to_f64(out + i, in + i, 4);
        }
    }
    lora__ref_f32_to_f64(out + i, in + i, count - i);
}

/* Four F64 as F32, each in the lower half of 64 bits; *usable is left all
 * ones if every one is zero or, as an F32, normal, and gets zeros otherwise.
 * Shifting the pattern right by 29 cuts the mantissa to 23 bits; subtracting
 * 1023 - 127 from the exponent field rebiases it. */
AVX2_CONVERT static inline __m256i
avx2_narrow(const double *in, int to_odd, __m256i *usable)
{
    const __m256i bits = _mm256_castpd_si256(_mm256_loadu_pd(in));
    const __m256i magnitude =
        _mm256_and_si256(bits, _mm256_set1_epi64x(INT64_MAX));
    const __m256i is_zero =
        _mm256_cmpeq_epi64(magnitude, _mm256_setzero_si256());
    const __m256i is_normal = _mm256_andnot_si256(
        _mm256_cmpgt_epi64(_mm256_set1_epi64x((int64_t)897 << 52), magnitude),
        _mm256_cmpgt_epi64(_mm256_set1_epi64x((int64_t)1151 << 52), magnitude));
    const __m256i sign = _mm256_and_si256(_mm256_srli_epi64(bits, 32),
                                          _mm256_set1_epi64x(0x80000000));
    __m256i code;

    if (to_odd) {
        /* The lower 29 bits carry into the last one kept unless all zero. */
        const __m256i lower = _mm256_set1_epi64x(0x1fffffff);
        const __m256i lost =
            _mm256_add_epi64(_mm256_and_si256(magnitude, lower), lower);

        code = _mm256_srli_epi64(_mm256_or_si256(magnitude, lost), 29);
    } else {
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi64(magnitude, 29),
                                             _mm256_set1_epi64x(1));
        const __m256i almost_half = _mm256_set1_epi64x(0x0fffffff);

        code = _mm256_srli_epi64(
            _mm256_add_epi64(magnitude, _mm256_add_epi64(odd, almost_half)),
            29);
    }
    code = _mm256_sub_epi64(code, _mm256_set1_epi64x((int64_t)896 << 23));
    *usable = _mm256_and_si256(*usable, _mm256_or_si256(is_zero, is_normal));
    return _mm256_or_si256(_mm256_andnot_si256(is_zero, code), sign);
}

/* Eight F64 as F32. 1 if done, 0 if one of them needs the reference. */
AVX2_CONVERT static inline int
avx2_narrow_8(float *out, const double *in, int to_odd)
{
    __m256i usable = _mm256_set1_epi64x(-1);
    const __m256 low = _mm256_castsi256_ps(avx2_narrow(in, to_odd, &usable));
    const __m256 high =
        _mm256_castsi256_ps(avx2_narrow(in + 4, to_odd, &usable));
    const __m256i pairs =
        _mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88));

    if (!_mm256_testc_si256(usable, _mm256_set1_epi64x(-1))) {
        return 0;
    }
    _mm256_storeu_ps(
        out, _mm256_castsi256_ps(_mm256_permute4x64_epi64(pairs, 0xd8)));
    return 1;
}

LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f64_to_f32(float *out, const double *in, size_t count)
{
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        if (!avx2_narrow_8(out + i, in + i, 0)) {
            lora__ref_f64_to_f32(out + i, in + i, 8);
        }
    }
    lora__ref_f64_to_f32(out + i, in + i, count - i);
}

LORA_PRIVATE AVX2_CONVERT void
lora__avx2_f64_to_f32_odd(float *out, const double *in, size_t count)
{
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        if (!avx2_narrow_8(out + i, in + i, 1)) {
            lora__ref_f64_to_f32_odd(out + i, in + i, 8);
        }
    }
    lora__ref_f64_to_f32_odd(out + i, in + i, count - i);
}

#endif
