/* Tiles of matrix products in f32 with AVX-512; as avx512_gemm.c, with twice
 * as many elements in a register.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>
#include <math.h>

#define AVX512_F32 LORA__TARGET("avx512f,avx512vl,avx512dq,fma")

#define AVX512_F32_LOAD(i)                                                     \
    __m512 c##i##0 = _mm512_setzero_ps();                                      \
    __m512 c##i##1 = c##i##0;                                                  \
    __m512 c##i##2 = c##i##0;                                                  \
    const float *a##i = a[i];                                                  \
    if (add) {                                                                 \
        c##i##0 = _mm512_loadu_ps(c + i * ldc);                                \
        c##i##1 = _mm512_loadu_ps(c + i * ldc + 16);                           \
        c##i##2 = _mm512_loadu_ps(c + i * ldc + 32);                           \
    }

#define AVX512_F32_STEP(i)                                                     \
    a_p = _mm512_set1_ps(a##i[p]);                                             \
    c##i##0 = _mm512_fmadd_ps(a_p, b0, c##i##0);                               \
    c##i##1 = _mm512_fmadd_ps(a_p, b1, c##i##1);                               \
    c##i##2 = _mm512_fmadd_ps(a_p, b2, c##i##2)

#define AVX512_F32_STORE(i)                                                    \
    _mm512_storeu_ps(c + i * ldc, c##i##0);                                    \
    _mm512_storeu_ps(c + i * ldc + 16, c##i##1);                               \
    _mm512_storeu_ps(c + i * ldc + 32, c##i##2)

/* C[8,48] = (add ? C : 0) + A[8,k] * B[k,48]. */
AVX512_F32 static void avx512_f32_tile(void *out,
                                       size_t ldc,
                                       const void *const *a,
                                       const void *from,
                                       size_t ldb,
                                       size_t k,
                                       int add)
{
    float *c = out;
    const float *b = from;
    AVX512_F32_LOAD(0)
    AVX512_F32_LOAD(1)
    AVX512_F32_LOAD(2)
    AVX512_F32_LOAD(3)
    AVX512_F32_LOAD(4)
    AVX512_F32_LOAD(5)
    AVX512_F32_LOAD(6)
    AVX512_F32_LOAD(7)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const __m512 b0 = _mm512_loadu_ps(b);
        const __m512 b1 = _mm512_loadu_ps(b + 16);
        const __m512 b2 = _mm512_loadu_ps(b + 32);
        __m512 a_p;

        AVX512_F32_STEP(0);
        AVX512_F32_STEP(1);
        AVX512_F32_STEP(2);
        AVX512_F32_STEP(3);
        AVX512_F32_STEP(4);
        AVX512_F32_STEP(5);
        AVX512_F32_STEP(6);
        AVX512_F32_STEP(7);
    }
    AVX512_F32_STORE(0);
    AVX512_F32_STORE(1);
    AVX512_F32_STORE(2);
    AVX512_F32_STORE(3);
    AVX512_F32_STORE(4);
    AVX512_F32_STORE(5);
    AVX512_F32_STORE(6);
    AVX512_F32_STORE(7);
}

AVX512_F32 static void
avx512_f32_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    float *out = packed;
    const float *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 48) {
        _mm512_storeu_ps(out, _mm512_loadu_ps(b));
        _mm512_storeu_ps(out + 16, _mm512_loadu_ps(b + 16));
        _mm512_storeu_ps(out + 32, _mm512_loadu_ps(b + 32));
    }
}

#define AVX512_F32_NARROW_LOAD(i)                                              \
    __m512 c##i = add ? _mm512_loadu_ps(c + i * ldc) : _mm512_setzero_ps();    \
    const float *a##i = a[i]

#define AVX512_F32_NARROW_STEP(i)                                              \
    c##i = _mm512_fmadd_ps(_mm512_set1_ps(a##i[p]), b_p, c##i)

/* C[8,16] = (add ? C : 0) + A[8,k] * B[k,16]. */
AVX512_F32 static void avx512_f32_narrow(void *out,
                                         size_t ldc,
                                         const void *const *a,
                                         const void *from,
                                         size_t ldb,
                                         size_t k,
                                         int add)
{
    float *c = out;
    const float *b = from;
    AVX512_F32_NARROW_LOAD(0);
    AVX512_F32_NARROW_LOAD(1);
    AVX512_F32_NARROW_LOAD(2);
    AVX512_F32_NARROW_LOAD(3);
    AVX512_F32_NARROW_LOAD(4);
    AVX512_F32_NARROW_LOAD(5);
    AVX512_F32_NARROW_LOAD(6);
    AVX512_F32_NARROW_LOAD(7);

    for (size_t p = 0; p < k; p++, b += ldb) {
        const __m512 b_p = _mm512_loadu_ps(b);

        AVX512_F32_NARROW_STEP(0);
        AVX512_F32_NARROW_STEP(1);
        AVX512_F32_NARROW_STEP(2);
        AVX512_F32_NARROW_STEP(3);
        AVX512_F32_NARROW_STEP(4);
        AVX512_F32_NARROW_STEP(5);
        AVX512_F32_NARROW_STEP(6);
        AVX512_F32_NARROW_STEP(7);
    }
    _mm512_storeu_ps(c, c0);
    _mm512_storeu_ps(c + ldc, c1);
    _mm512_storeu_ps(c + 2 * ldc, c2);
    _mm512_storeu_ps(c + 3 * ldc, c3);
    _mm512_storeu_ps(c + 4 * ldc, c4);
    _mm512_storeu_ps(c + 5 * ldc, c5);
    _mm512_storeu_ps(c + 6 * ldc, c6);
    _mm512_storeu_ps(c + 7 * ldc, c7);
}

AVX512_F32 static void
avx512_f32_narrow_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    float *out = packed;
    const float *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 16) {
        _mm512_storeu_ps(out, _mm512_loadu_ps(b));
    }
}

/* Halves folded together: sixteen partial sums to eight. */
AVX512_F32 static inline __m256 avx512_dots_fold(__m512 x)
{
    return _mm256_add_ps(_mm512_castps512_ps256(x),
                         _mm512_extractf32x8_ps(x, 1));
}

/* [sum of x, sum of y, sum of z, sum of w]. */
AVX512_F32 static inline __m256d
avx512_dots_sums(__m512 x, __m512 y, __m512 z, __m512 w)
{
    const __m256 xy = _mm256_hadd_ps(avx512_dots_fold(x), avx512_dots_fold(y));
    const __m256 zw = _mm256_hadd_ps(avx512_dots_fold(z), avx512_dots_fold(w));
    const __m256 xyzw = _mm256_hadd_ps(xy, zw);

    return _mm256_cvtps_pd(_mm_add_ps(_mm256_castps256_ps128(xyzw),
                                      _mm256_extractf128_ps(xyzw, 1)));
}

#define AVX512_DOTS_STEP(i)                                                    \
    a_p = _mm512_loadu_ps(a##i + p);                                           \
    s##i##0 = _mm512_fmadd_ps(a_p, b0, s##i##0);                               \
    s##i##1 = _mm512_fmadd_ps(a_p, b1, s##i##1);                               \
    s##i##2 = _mm512_fmadd_ps(a_p, b2, s##i##2);                               \
    s##i##3 = _mm512_fmadd_ps(a_p, b3, s##i##3)

/* sums[4,4] = A[4,k] * B[4,k]^T, sixteen partial sums an element and then the
 * odd ones of k, in f64. */
AVX512_F32 static void avx512_dots_tile(double *sums,
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
    const float *b_3 = b[3];
    __m512 s00 = _mm512_setzero_ps();
    __m512 s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00;
    __m512 s13 = s00, s20 = s00, s21 = s00, s22 = s00, s23 = s00, s30 = s00;
    __m512 s31 = s00, s32 = s00, s33 = s00;
    size_t p = 0;

    for (; p + 16 <= k; p += 16) {
        const __m512 b0 = _mm512_loadu_ps(b_0 + p);
        const __m512 b1 = _mm512_loadu_ps(b_1 + p);
        const __m512 b2 = _mm512_loadu_ps(b_2 + p);
        const __m512 b3 = _mm512_loadu_ps(b_3 + p);
        __m512 a_p;

        AVX512_DOTS_STEP(0);
        AVX512_DOTS_STEP(1);
        AVX512_DOTS_STEP(2);
        AVX512_DOTS_STEP(3);
    }
    _mm256_storeu_pd(sums, avx512_dots_sums(s00, s01, s02, s03));
    _mm256_storeu_pd(sums + 4, avx512_dots_sums(s10, s11, s12, s13));
    _mm256_storeu_pd(sums + 8, avx512_dots_sums(s20, s21, s22, s23));
    _mm256_storeu_pd(sums + 12, avx512_dots_sums(s30, s31, s32, s33));
    for (; p < k; p++) {
        for (size_t i = 0; i < 16; i++) {
            const float *x = a[i / 4];
            const float *y = b[i % 4];

            sums[i] = fma((double)x[p], (double)y[p], sums[i]);
        }
    }
}

/* The same of one row of A. */
AVX512_F32 static void
avx512_dots_row(double *sums, const void *a, const void *const *b, size_t k)
{
    const float *a0 = a;
    const float *b_0 = b[0];
    const float *b_1 = b[1];
    const float *b_2 = b[2];
    const float *b_3 = b[3];
    __m512 s00 = _mm512_setzero_ps();
    __m512 s01 = s00, s02 = s00, s03 = s00;
    size_t p = 0;

    for (; p + 16 <= k; p += 16) {
        const __m512 b0 = _mm512_loadu_ps(b_0 + p);
        const __m512 b1 = _mm512_loadu_ps(b_1 + p);
        const __m512 b2 = _mm512_loadu_ps(b_2 + p);
        const __m512 b3 = _mm512_loadu_ps(b_3 + p);
        __m512 a_p;

        AVX512_DOTS_STEP(0);
    }
    _mm256_storeu_pd(sums, avx512_dots_sums(s00, s01, s02, s03));
    for (; p < k; p++) {
        for (size_t i = 0; i < 4; i++) {
            const float *y = b[i];

            sums[i] = fma((double)a0[p], (double)y[p], sums[i]);
        }
    }
}

static const lora__gemm_tile avx512_f32_narrow_tiles = {
    sizeof(float), 8, 16, avx512_f32_narrow, avx512_f32_narrow_pack, NULL};
static const lora__gemm_tile avx512_f32_tiles = {
    sizeof(float),           8, 48, avx512_f32_tile, avx512_f32_pack,
    &avx512_f32_narrow_tiles};
static const lora__gram_tile avx512_dots_tiles = {
    sizeof(float), 4, 4, avx512_dots_tile, avx512_dots_row};

LORA_PRIVATE void lora__avx512_gemm_f32(float *c,
                                        size_t ldc,
                                        const float *a,
                                        size_t lda,
                                        const float *b,
                                        size_t ldb,
                                        size_t m,
                                        size_t n,
                                        size_t k)
{
    lora__tiles_gemm_f32(&avx512_f32_tiles, lora__avx2_gemm_row_f32, c, ldc, a,
                         lda, b, ldb, m, n, k);
}

LORA_PRIVATE void lora__avx512_dots_f32(double *c,
                                        size_t ldc,
                                        const float *a,
                                        size_t lda,
                                        const float *b,
                                        size_t ldb,
                                        size_t m,
                                        size_t n,
                                        size_t k)
{
    lora__tiles_dots(&avx512_dots_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

#endif
