/* Tiles of matrix products with AVX2 and FMA, for the loops of tiles.c.
 *
 * A core starts two fused multiply-adds a cycle and each takes four or five
 * cycles, so ten sums must be under way; both tiles keep twelve in registers
 * and use the other four for operands.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>
#include <math.h>

#define AVX2_GEMM LORA__TARGET("avx2,fma")

#define AVX2_GEMM_LOAD(i)                                                      \
    __m256d c##i##0 = _mm256_setzero_pd();                                     \
    __m256d c##i##1 = c##i##0;                                                 \
    __m256d c##i##2 = c##i##0;                                                 \
    const double *a##i = a[i];                                                 \
    if (add) {                                                                 \
        c##i##0 = _mm256_loadu_pd(c + i * ldc);                                \
        c##i##1 = _mm256_loadu_pd(c + i * ldc + 4);                            \
        c##i##2 = _mm256_loadu_pd(c + i * ldc + 8);                            \
    }

#define AVX2_GEMM_STEP(i)                                                      \
    a_p = _mm256_broadcast_sd(a##i + p);                                       \
    c##i##0 = _mm256_fmadd_pd(a_p, b0, c##i##0);                               \
    c##i##1 = _mm256_fmadd_pd(a_p, b1, c##i##1);                               \
    c##i##2 = _mm256_fmadd_pd(a_p, b2, c##i##2)

#define AVX2_GEMM_STORE(i)                                                     \
    _mm256_storeu_pd(c + i * ldc, c##i##0);                                    \
    _mm256_storeu_pd(c + i * ldc + 4, c##i##1);                                \
    _mm256_storeu_pd(c + i * ldc + 8, c##i##2)

/* C[4,12] = (add ? C : 0) + A[4,k] * B[k,12]. */
AVX2_GEMM static void avx2_gemm_tile(void *out,
                                     size_t ldc,
                                     const void *const *a,
                                     const void *from,
                                     size_t ldb,
                                     size_t k,
                                     int add)
{
    double *c = out;
    const double *b = from;
    AVX2_GEMM_LOAD(0)
    AVX2_GEMM_LOAD(1)
    AVX2_GEMM_LOAD(2)
    AVX2_GEMM_LOAD(3)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const __m256d b0 = _mm256_loadu_pd(b);
        const __m256d b1 = _mm256_loadu_pd(b + 4);
        const __m256d b2 = _mm256_loadu_pd(b + 8);
        __m256d a_p;

        AVX2_GEMM_STEP(0);
        AVX2_GEMM_STEP(1);
        AVX2_GEMM_STEP(2);
        AVX2_GEMM_STEP(3);
    }
    AVX2_GEMM_STORE(0);
    AVX2_GEMM_STORE(1);
    AVX2_GEMM_STORE(2);
    AVX2_GEMM_STORE(3);
}

AVX2_GEMM static void
avx2_gemm_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    double *out = packed;
    const double *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 12) {
        _mm256_storeu_pd(out, _mm256_loadu_pd(b));
        _mm256_storeu_pd(out + 4, _mm256_loadu_pd(b + 4));
        _mm256_storeu_pd(out + 8, _mm256_loadu_pd(b + 8));
    }
}

/* [sum of x, sum of y, sum of z, sum of w]. */
AVX2_GEMM static inline __m256d
avx2_gram_sums(__m256d x, __m256d y, __m256d z, __m256d w)
{
    const __m256d xy = _mm256_hadd_pd(x, y); /* x01 y01 x23 y23 */
    const __m256d zw = _mm256_hadd_pd(z, w);

    return _mm256_add_pd(_mm256_permute2f128_pd(xy, zw, 0x20),
                         _mm256_permute2f128_pd(xy, zw, 0x31));
}

#define AVX2_GRAM_STEP(i)                                                      \
    a_p = _mm256_loadu_pd(a##i + p);                                           \
    s##i##0 = _mm256_fmadd_pd(a_p, b0, s##i##0);                               \
    s##i##1 = _mm256_fmadd_pd(a_p, b1, s##i##1);                               \
    s##i##2 = _mm256_fmadd_pd(a_p, b2, s##i##2)

/* sums[4,3] = A[4,k] * B[3,k]^T, four partial sums an element and then the
 * odd ones of k. */
AVX2_GEMM static void avx2_gram_tile(double *sums,
                                     const void *const *a,
                                     const void *const *b,
                                     size_t k)
{
    const double *a0 = a[0];
    const double *a1 = a[1];
    const double *a2 = a[2];
    const double *a3 = a[3];
    const double *b_0 = b[0];
    const double *b_1 = b[1];
    const double *b_2 = b[2];
    __m256d s00 = _mm256_setzero_pd();
    __m256d s01 = s00, s02 = s00, s10 = s00, s11 = s00, s12 = s00;
    __m256d s20 = s00, s21 = s00, s22 = s00, s30 = s00, s31 = s00, s32 = s00;
    size_t p = 0;

    for (; p + 4 <= k; p += 4) {
        const __m256d b0 = _mm256_loadu_pd(b_0 + p);
        const __m256d b1 = _mm256_loadu_pd(b_1 + p);
        const __m256d b2 = _mm256_loadu_pd(b_2 + p);
        __m256d a_p;

        AVX2_GRAM_STEP(0);
        AVX2_GRAM_STEP(1);
        AVX2_GRAM_STEP(2);
        AVX2_GRAM_STEP(3);
    }
    _mm256_storeu_pd(sums, avx2_gram_sums(s00, s01, s02, s10));
    _mm256_storeu_pd(sums + 4, avx2_gram_sums(s11, s12, s20, s21));
    _mm256_storeu_pd(sums + 8, avx2_gram_sums(s22, s30, s31, s32));
    for (; p < k; p++) {
        for (size_t i = 0; i < 12; i++) {
            const double *x = a[i / 3];
            const double *y = b[i % 3];

            sums[i] = fma(x[p], y[p], sums[i]);
        }
    }
}

static const lora__gemm_tile avx2_gemm_tiles = {
    sizeof(double), 4, 12, avx2_gemm_tile, avx2_gemm_pack, NULL};
static const lora__gram_tile avx2_gram_tiles = {sizeof(double), 4, 3,
                                                avx2_gram_tile, NULL};

LORA_PRIVATE void lora__avx2_gemm_f64(double *c,
                                      size_t ldc,
                                      const double *a,
                                      size_t lda,
                                      const double *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_gemm(&avx2_gemm_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

LORA_PRIVATE void lora__avx2_gram_f64(
    double *c, size_t ldc, const double *a, size_t lda, size_t n, size_t k)
{
    lora__tiles_gram(&avx2_gram_tiles, c, ldc, a, lda, n, k);
}

#endif
