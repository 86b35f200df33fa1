/* Tiles of matrix products in f32 with AVX2 and FMA; as avx2_gemm.c, with twice
 * as many elements in a register.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>
#include <math.h>

#define AVX2_F32 LORA__TARGET("avx2,fma")

#define AVX2_F32_LOAD(i)                                                       \
    __m256 c##i##0 = _mm256_setzero_ps();                                      \
    __m256 c##i##1 = c##i##0;                                                  \
    __m256 c##i##2 = c##i##0;                                                  \
    const float *a##i = a[i];                                                  \
    if (add) {                                                                 \
        c##i##0 = _mm256_loadu_ps(c + i * ldc);                                \
        c##i##1 = _mm256_loadu_ps(c + i * ldc + 8);                            \
        c##i##2 = _mm256_loadu_ps(c + i * ldc + 16);                           \
    }

#define AVX2_F32_STEP(i)                                                       \
    a_p = _mm256_broadcast_ss(a##i + p);                                       \
    c##i##0 = _mm256_fmadd_ps(a_p, b0, c##i##0);                               \
    c##i##1 = _mm256_fmadd_ps(a_p, b1, c##i##1);                               \
    c##i##2 = _mm256_fmadd_ps(a_p, b2, c##i##2)

#define AVX2_F32_STORE(i)                                                      \
    _mm256_storeu_ps(c + i * ldc, c##i##0);                                    \
    _mm256_storeu_ps(c + i * ldc + 8, c##i##1);                                \
    _mm256_storeu_ps(c + i * ldc + 16, c##i##2)

/* C[4,24] = (add ? C : 0) + A[4,k] * B[k,24]. */
AVX2_F32 static void avx2_f32_tile(void *out,
                                   size_t ldc,
                                   const void *const *a,
                                   const void *from,
                                   size_t ldb,
                                   size_t k,
                                   int add)
{
    float *c = out;
    const float *b = from;
    AVX2_F32_LOAD(0)
    AVX2_F32_LOAD(1)
    AVX2_F32_LOAD(2)
    AVX2_F32_LOAD(3)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const __m256 b0 = _mm256_loadu_ps(b);
        const __m256 b1 = _mm256_loadu_ps(b + 8);
        const __m256 b2 = _mm256_loadu_ps(b + 16);
        __m256 a_p;

        AVX2_F32_STEP(0);
        AVX2_F32_STEP(1);
        AVX2_F32_STEP(2);
        AVX2_F32_STEP(3);
    }
    AVX2_F32_STORE(0);
    AVX2_F32_STORE(1);
    AVX2_F32_STORE(2);
    AVX2_F32_STORE(3);
}

AVX2_F32 static void
avx2_f32_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    float *out = packed;
    const float *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 24) {
        _mm256_storeu_ps(out, _mm256_loadu_ps(b));
        _mm256_storeu_ps(out + 8, _mm256_loadu_ps(b + 8));
        _mm256_storeu_ps(out + 16, _mm256_loadu_ps(b + 16));
    }
}

/* [sum of x, sum of y, sum of z, sum of w]. */
AVX2_F32 static inline __m256d
avx2_dots_sums(__m256 x, __m256 y, __m256 z, __m256 w)
{
    const __m256 xy = _mm256_hadd_ps(x, y);
    const __m256 zw = _mm256_hadd_ps(z, w);
    const __m256 xyzw = _mm256_hadd_ps(xy, zw);

    return _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(xyzw),
                                      _mm256_extractf128_ps(xyzw, 1)));
}

#define AVX2_DOTS_STEP(i)                                                      \
    a_p = _mm256_loadu_ps(a##i + p);                                           \
    s##i##0 = _mm256_fmadd_ps(a_p, b0, s##i##0);                               \
    s##i##1 = _mm256_fmadd_ps(a_p, b1, s##i##1);                               \
    s##i##2 = _mm256_fmadd_ps(a_p, b2, s##i##2)

/* sums[4,3] = A[4,k] * B[3,k]^T, eight partial sums an element and then the
 * odd ones of k, in f64. */
AVX2_F32 static void avx2_dots_tile(double *sums,
                                    const void *const *a,
                                    const void *const *b,
                                    size_t k)
{
    const float *a0 = a[0];
    const float *a1 = a[1];
    const float *a2 = a[2];
    const float *a3 = a[3];
    const float *b_0 = b[0];
    const float *b_1 = b[1];
    const float *b_2 = b[2];
    __m256 s00 = _mm256_setzero_ps();
    __m256 s01 = s00, s02 = s00, s10 = s00, s11 = s00, s12 = s00;
    __m256 s20 = s00, s21 = s00, s22 = s00, s30 = s00, s31 = s00, s32 = s00;
    size_t p = 0;

    for (; p + 8 <= k; p += 8) {
        const __m256 b0 = _mm256_loadu_ps(b_0 + p);
        const __m256 b1 = _mm256_loadu_ps(b_1 + p);
        const __m256 b2 = _mm256_loadu_ps(b_2 + p);
        __m256 a_p;

        AVX2_DOTS_STEP(0);
        AVX2_DOTS_STEP(1);
        AVX2_DOTS_STEP(2);
        AVX2_DOTS_STEP(3);
    }
    _mm256_storeu_pd(sums, avx2_dots_sums(s00, s01, s02, s10));
    _mm256_storeu_pd(sums + 4, avx2_dots_sums(s11, s12, s20, s21));
    _mm256_storeu_pd(sums + 8, avx2_dots_sums(s22, s30, s31, s32));
    for (; p < k; p++) {
        for (size_t i = 0; i < 12; i++) {
            const float *x = a[i / 3];
            const float *y = b[i % 3];

            sums[i] = fma((double)x[p], (double)y[p], sums[i]);
        }
    }
}

LORA_PRIVATE AVX2_F32 void lora__avx2_gemm_row_f32(
    float *out, const float *a, const float *b, size_t ldb, size_t n, size_t k)
{
    size_t p = 0;

    for (; p + 4 <= k; p += 4, b += 4 * ldb) {
        const float *b1 = b + ldb;
        const float *b2 = b1 + ldb;
        const float *b3 = b2 + ldb;
        const __m256 a0 = _mm256_set1_ps(a[p]);
        const __m256 a1 = _mm256_set1_ps(a[p + 1]);
        const __m256 a2 = _mm256_set1_ps(a[p + 2]);
        const __m256 a3 = _mm256_set1_ps(a[p + 3]);
        size_t i = 0;

        for (; i + 8 <= n; i += 8) {
            __m256 sum = _mm256_loadu_ps(out + i);

            sum = _mm256_fmadd_ps(a0, _mm256_loadu_ps(b + i), sum);
            sum = _mm256_fmadd_ps(a1, _mm256_loadu_ps(b1 + i), sum);
            sum = _mm256_fmadd_ps(a2, _mm256_loadu_ps(b2 + i), sum);
            sum = _mm256_fmadd_ps(a3, _mm256_loadu_ps(b3 + i), sum);
            _mm256_storeu_ps(out + i, sum);
        }
        for (; i < n; i++) {
            out[i] = fmaf(a[p], b[i], out[i]);
            out[i] = fmaf(a[p + 1], b1[i], out[i]);
            out[i] = fmaf(a[p + 2], b2[i], out[i]);
            out[i] = fmaf(a[p + 3], b3[i], out[i]);
        }
    }
    for (; p < k; p++, b += ldb) {
        lora__avx2_axpy_f32(out, b, a[p], n);
    }
}

static const lora__gemm_tile avx2_f32_tiles = {
    sizeof(float), 4, 24, avx2_f32_tile, avx2_f32_pack, NULL};
static const lora__gram_tile avx2_dots_tiles = {sizeof(float), 4, 3,
                                                avx2_dots_tile, NULL};

LORA_PRIVATE void lora__avx2_gemm_f32(float *c,
                                      size_t ldc,
                                      const float *a,
                                      size_t lda,
                                      const float *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_gemm_f32(&avx2_f32_tiles, lora__avx2_gemm_row_f32, c, ldc, a,
                         lda, b, ldb, m, n, k);
}

LORA_PRIVATE void lora__avx2_dots_f32(double *c,
                                      size_t ldc,
                                      const float *a,
                                      size_t lda,
                                      const float *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_dots(&avx2_dots_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

#endif
