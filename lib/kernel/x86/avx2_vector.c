/* Operations on vectors with AVX2 and FMA. */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>
#include <math.h>

#define AVX2_VECTOR LORA__TARGET("avx2,fma")

LORA_PRIVATE AVX2_VECTOR void
lora__avx2_axpy_f32(float *out, const float *a, float b, size_t count)
{
    const __m256 factor = _mm256_set1_ps(b);
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        _mm256_storeu_ps(out + i,
                         _mm256_fmadd_ps(factor, _mm256_loadu_ps(a + i),
                                         _mm256_loadu_ps(out + i)));
    }
    for (; i < count; i++) {
        out[i] = fmaf(b, a[i], out[i]);
    }
}

LORA_PRIVATE AVX2_VECTOR void
lora__avx2_axpy_f64(double *out, const double *a, double b, size_t count)
{
    const __m256d factor = _mm256_set1_pd(b);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        _mm256_storeu_pd(out + i,
                         _mm256_fmadd_pd(factor, _mm256_loadu_pd(a + i),
                                         _mm256_loadu_pd(out + i)));
    }
    for (; i < count; i++) {
        out[i] = fma(b, a[i], out[i]);
    }
}

AVX2_VECTOR static void avx2_turn_4(
    float *out, size_t out_step, const float *in, size_t in_step, size_t cols)
{
    size_t c = 0;

    for (; c + 4 <= cols; c += 4) {
        const __m128 r0 = _mm_loadu_ps(in + c);
        const __m128 r1 = _mm_loadu_ps(in + in_step + c);
        const __m128 r2 = _mm_loadu_ps(in + 2 * in_step + c);
        const __m128 r3 = _mm_loadu_ps(in + 3 * in_step + c);
        const __m128 low01 = _mm_unpacklo_ps(r0, r1);
        const __m128 low23 = _mm_unpacklo_ps(r2, r3);
        const __m128 high01 = _mm_unpackhi_ps(r0, r1);
        const __m128 high23 = _mm_unpackhi_ps(r2, r3);
        float *to = out + c * out_step;

        _mm_storeu_ps(to, _mm_movelh_ps(low01, low23));
        _mm_storeu_ps(to + out_step, _mm_movehl_ps(low23, low01));
        _mm_storeu_ps(to + 2 * out_step, _mm_movelh_ps(high01, high23));
        _mm_storeu_ps(to + 3 * out_step, _mm_movehl_ps(high23, high01));
    }
    for (; c < cols; c++) {
        for (size_t r = 0; r < 4; r++) {
            out[c * out_step + r] = in[r * in_step + c];
        }
    }
}

LORA_PRIVATE void lora__avx2_turn_f32(float *out,
                                      size_t out_step,
                                      const float *in,
                                      size_t in_step,
                                      size_t rows,
                                      size_t cols)
{
    lora__tiles_turn(avx2_turn_4, out, out_step, in, in_step, rows, cols);
}

LORA_PRIVATE AVX2_VECTOR void
lora__avx2_scale_f32(float *out, float b, size_t count)
{
    const __m256 factor = _mm256_set1_ps(b);
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        _mm256_storeu_ps(out + i,
                         _mm256_mul_ps(_mm256_loadu_ps(out + i), factor));
    }
    for (; i < count; i++) {
        out[i] *= b;
    }
}

LORA_PRIVATE AVX2_VECTOR void
lora__avx2_scale_f64(double *out, double b, size_t count)
{
    const __m256d factor = _mm256_set1_pd(b);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        _mm256_storeu_pd(out + i,
                         _mm256_mul_pd(_mm256_loadu_pd(out + i), factor));
    }
    for (; i < count; i++) {
        out[i] *= b;
    }
}

/* Sixteen sums side by side, then pairwise, then the rest one by one. */
LORA_PRIVATE AVX2_VECTOR double
lora__avx2_dot_f64(const double *a, const double *b, size_t count)
{
    __m256d s0 = _mm256_setzero_pd();
    __m256d s1 = s0;
    __m256d s2 = s0;
    __m256d s3 = s0;
    __m128d half;
    double sum;
    size_t i = 0;

    for (; i + 16 <= count; i += 16) {
        s0 =
            _mm256_fmadd_pd(_mm256_loadu_pd(a + i), _mm256_loadu_pd(b + i), s0);
        s1 = _mm256_fmadd_pd(_mm256_loadu_pd(a + i + 4),
                             _mm256_loadu_pd(b + i + 4), s1);
        s2 = _mm256_fmadd_pd(_mm256_loadu_pd(a + i + 8),
                             _mm256_loadu_pd(b + i + 8), s2);
        s3 = _mm256_fmadd_pd(_mm256_loadu_pd(a + i + 12),
                             _mm256_loadu_pd(b + i + 12), s3);
    }
    for (; i + 4 <= count; i += 4) {
        s0 =
            _mm256_fmadd_pd(_mm256_loadu_pd(a + i), _mm256_loadu_pd(b + i), s0);
    }
    s0 = _mm256_add_pd(_mm256_add_pd(s0, s1), _mm256_add_pd(s2, s3));
    half = _mm_add_pd(_mm256_castpd256_pd128(s0), _mm256_extractf128_pd(s0, 1));
    sum = _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
    for (; i < count; i++) {
        sum = fma(a[i], b[i], sum);
    }
    return sum;
}

/* [sum of x, sum of y, sum of z, sum of w]. */
AVX2_VECTOR static inline __m256d
avx2_vector_sums(__m256d x, __m256d y, __m256d z, __m256d w)
{
    const __m256d xy = _mm256_hadd_pd(x, y); /* x01 y01 x23 y23 */
    const __m256d zw = _mm256_hadd_pd(z, w);

    return _mm256_add_pd(_mm256_permute2f128_pd(xy, zw, 0x20),
                         _mm256_permute2f128_pd(xy, zw, 0x31));
}

/* Four dot products, as x is read with each. */
AVX2_VECTOR static void
avx2_gemv_4(double *y, const double *a, size_t lda, const double *x, size_t n)
{
    const double *a1 = a + lda;
    const double *a2 = a1 + lda;
    const double *a3 = a2 + lda;
    __m256d s0 = _mm256_setzero_pd();
    __m256d s1 = s0, s2 = s0, s3 = s0, t0 = s0, t1 = s0, t2 = s0, t3 = s0;
    size_t j = 0;

    for (; j + 8 <= n; j += 8) {
        const __m256d x_4 = _mm256_loadu_pd(x + j);
        const __m256d x_8 = _mm256_loadu_pd(x + j + 4);

        s0 = _mm256_fmadd_pd(_mm256_loadu_pd(a + j), x_4, s0);
        s1 = _mm256_fmadd_pd(_mm256_loadu_pd(a1 + j), x_4, s1);
        s2 = _mm256_fmadd_pd(_mm256_loadu_pd(a2 + j), x_4, s2);
        s3 = _mm256_fmadd_pd(_mm256_loadu_pd(a3 + j), x_4, s3);
        t0 = _mm256_fmadd_pd(_mm256_loadu_pd(a + j + 4), x_8, t0);
        t1 = _mm256_fmadd_pd(_mm256_loadu_pd(a1 + j + 4), x_8, t1);
        t2 = _mm256_fmadd_pd(_mm256_loadu_pd(a2 + j + 4), x_8, t2);
        t3 = _mm256_fmadd_pd(_mm256_loadu_pd(a3 + j + 4), x_8, t3);
    }
    _mm256_storeu_pd(
        y, avx2_vector_sums(_mm256_add_pd(s0, t0), _mm256_add_pd(s1, t1),
                            _mm256_add_pd(s2, t2), _mm256_add_pd(s3, t3)));
    for (; j < n; j++) {
        y[0] = fma(a[j], x[j], y[0]);
        y[1] = fma(a1[j], x[j], y[1]);
        y[2] = fma(a2[j], x[j], y[2]);
        y[3] = fma(a3[j], x[j], y[3]);
    }
}

LORA_PRIVATE AVX2_VECTOR void lora__avx2_gemv_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    size_t i = 0;

    for (; i + 4 <= m; i += 4) {
        avx2_gemv_4(y + i, a + i * lda, lda, x, n);
    }
    for (; i < m; i++) {
        y[i] = lora__avx2_dot_f64(a + i * lda, x, n);
    }
}

/* Four rows at a time, as the sums are read and written with each. */
LORA_PRIVATE AVX2_VECTOR void lora__avx2_gemv_t_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    size_t i = 0;

    for (; i + 4 <= m; i += 4, a += 4 * lda) {
        const double *a1 = a + lda;
        const double *a2 = a1 + lda;
        const double *a3 = a2 + lda;
        const __m256d x0 = _mm256_broadcast_sd(x + i);
        const __m256d x1 = _mm256_broadcast_sd(x + i + 1);
        const __m256d x2 = _mm256_broadcast_sd(x + i + 2);
        const __m256d x3 = _mm256_broadcast_sd(x + i + 3);
        size_t j = 0;

        for (; j + 4 <= n; j += 4) {
            __m256d sum = _mm256_loadu_pd(y + j);
            __m256d other = _mm256_mul_pd(x1, _mm256_loadu_pd(a1 + j));

            sum = _mm256_fmadd_pd(x0, _mm256_loadu_pd(a + j), sum);
            other = _mm256_fmadd_pd(x3, _mm256_loadu_pd(a3 + j), other);
            sum = _mm256_fmadd_pd(x2, _mm256_loadu_pd(a2 + j), sum);
            _mm256_storeu_pd(y + j, _mm256_add_pd(sum, other));
        }
        for (; j < n; j++) {
            const double other = fma(x[i + 3], a3[j], x[i + 1] * a1[j]);

            y[j] = fma(x[i + 2], a2[j], fma(x[i], a[j], y[j])) + other;
        }
    }
    for (; i < m; i++, a += lda) {
        lora__avx2_axpy_f64(y, a, x[i], n);
    }
}

LORA_PRIVATE AVX2_VECTOR void lora__avx2_divide_f64(double *out,
                                                    const double *a,
                                                    const double *b,
                                                    size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        _mm256_storeu_pd(out + i, _mm256_div_pd(_mm256_loadu_pd(a + i),
                                                _mm256_loadu_pd(b + i)));
    }
    for (; i < count; i++) {
        out[i] = a[i] / b[i];
    }
}

LORA_PRIVATE AVX2_VECTOR void lora__avx2_poles_f64(double *sums,
                                                   const double *weights,
                                                   const double *poles,
                                                   const double *origins,
                                                   const double *offsets,
                                                   size_t count)
{
    const __m256d one = _mm256_set1_pd(1);
    const __m256d sign = _mm256_set1_pd(-0.0);
    const __m256d origin = _mm256_loadu_pd(origins);
    const __m256d offset = _mm256_loadu_pd(offsets);
    __m256d s = _mm256_setzero_pd();
    __m256d s_abs = s, s_2 = s, s_3 = s;

    for (size_t j = 0; j < count; j++) {
        const __m256d pole = _mm256_broadcast_sd(poles + j);
        const __m256d inverse = _mm256_div_pd(
            one, _mm256_fmsub_pd(_mm256_sub_pd(pole, origin),
                                 _mm256_add_pd(pole, origin), offset));
        const __m256d t =
            _mm256_mul_pd(_mm256_broadcast_sd(weights + j), inverse);
        const __m256d t_2 = _mm256_mul_pd(t, inverse);

        s = _mm256_add_pd(s, t);
        s_abs = _mm256_add_pd(s_abs, _mm256_andnot_pd(sign, t));
        s_2 = _mm256_add_pd(s_2, t_2);
        s_3 = _mm256_fmadd_pd(t_2, inverse, s_3);
    }
    _mm256_storeu_pd(sums, s);
    _mm256_storeu_pd(sums + 4, s_abs);
    _mm256_storeu_pd(sums + 8, s_2);
    _mm256_storeu_pd(sums + 12, s_3);
}

LORA_PRIVATE AVX2_VECTOR void
lora__avx2_rotate_f64(double *x, double *y, double c, double s, size_t count)
{
    const __m256d c_4 = _mm256_set1_pd(c);
    const __m256d s_4 = _mm256_set1_pd(s);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        const __m256d x_4 = _mm256_loadu_pd(x + i);
        const __m256d y_4 = _mm256_loadu_pd(y + i);

        _mm256_storeu_pd(x + i,
                         _mm256_fnmadd_pd(s_4, y_4, _mm256_mul_pd(c_4, x_4)));
        _mm256_storeu_pd(y + i,
                         _mm256_fmadd_pd(s_4, x_4, _mm256_mul_pd(c_4, y_4)));
    }
    for (; i < count; i++) {
        const double x_i = x[i];
        const double y_i = y[i];

        x[i] = fma(-s, y_i, c * x_i);
        y[i] = fma(s, x_i, c * y_i);
    }
}

#endif
