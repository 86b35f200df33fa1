/* Tiles of matrix products with AVX-512, for the loops of tiles.c. Larger
 * than the AVX2 ones, so that loads per fused multiply-add stay few where a
 * core does two of 512 bits a cycle.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__X86

#include <immintrin.h>
#include <math.h>

#define AVX512_GEMM LORA__TARGET("avx512f,avx512vl,avx512dq,fma")

#define AVX512_GEMM_LOAD(i)                                                    \
    __m512d c##i##0 = _mm512_setzero_pd();                                     \
    __m512d c##i##1 = c##i##0;                                                 \
    __m512d c##i##2 = c##i##0;                                                 \
    const double *a##i = a[i];                                                 \
    if (add) {                                                                 \
        c##i##0 = _mm512_loadu_pd(c + i * ldc);                                \
        c##i##1 = _mm512_loadu_pd(c + i * ldc + 8);                            \
        c##i##2 = _mm512_loadu_pd(c + i * ldc + 16);                           \
    }

#define AVX512_GEMM_STEP(i)                                                    \
    a_p = _mm512_set1_pd(a##i[p]);                                             \
    c##i##0 = _mm512_fmadd_pd(a_p, b0, c##i##0);                               \
    c##i##1 = _mm512_fmadd_pd(a_p, b1, c##i##1);                               \
    c##i##2 = _mm512_fmadd_pd(a_p, b2, c##i##2)

#define AVX512_GEMM_STORE(i)                                                   \
    _mm512_storeu_pd(c + i * ldc, c##i##0);                                    \
    _mm512_storeu_pd(c + i * ldc + 8, c##i##1);                                \
    _mm512_storeu_pd(c + i * ldc + 16, c##i##2)

/* C[8,24] = (add ? C : 0) + A[8,k] * B[k,24]. */
AVX512_GEMM static void avx512_gemm_tile(void *out,
                                         size_t ldc,
                                         const void *const *a,
                                         const void *from,
                                         size_t ldb,
                                         size_t k,
                                         int add)
{
    double *c = out;
    const double *b = from;
    AVX512_GEMM_LOAD(0)
    AVX512_GEMM_LOAD(1)
    AVX512_GEMM_LOAD(2)
    AVX512_GEMM_LOAD(3)
    AVX512_GEMM_LOAD(4)
    AVX512_GEMM_LOAD(5)
    AVX512_GEMM_LOAD(6)
    AVX512_GEMM_LOAD(7)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const __m512d b0 = _mm512_loadu_pd(b);
        const __m512d b1 = _mm512_loadu_pd(b + 8);
        const __m512d b2 = _mm512_loadu_pd(b + 16);
        __m512d a_p;

        AVX512_GEMM_STEP(0);
        AVX512_GEMM_STEP(1);
        AVX512_GEMM_STEP(2);
        AVX512_GEMM_STEP(3);
        AVX512_GEMM_STEP(4);
        AVX512_GEMM_STEP(5);
        AVX512_GEMM_STEP(6);
        AVX512_GEMM_STEP(7);
    }
    AVX512_GEMM_STORE(0);
    AVX512_GEMM_STORE(1);
    AVX512_GEMM_STORE(2);
    AVX512_GEMM_STORE(3);
    AVX512_GEMM_STORE(4);
    AVX512_GEMM_STORE(5);
    AVX512_GEMM_STORE(6);
    AVX512_GEMM_STORE(7);
}

AVX512_GEMM static void
avx512_gemm_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    double *out = packed;
    const double *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 24) {
        _mm512_storeu_pd(out, _mm512_loadu_pd(b));
        _mm512_storeu_pd(out + 8, _mm512_loadu_pd(b + 8));
        _mm512_storeu_pd(out + 16, _mm512_loadu_pd(b + 16));
    }
}

/* Halves folded together: eight partial sums to four. */
AVX512_GEMM static inline __m256d avx512_gram_fold(__m512d x)
{
    return _mm256_add_pd(_mm512_castpd512_pd256(x),
                         _mm512_extractf64x4_pd(x, 1));
}

/* [sum of x, sum of y, sum of z, sum of w]. */
AVX512_GEMM static inline __m256d
avx512_gram_sums(__m512d x, __m512d y, __m512d z, __m512d w)
{
    /* x02 y02 x13 y13, by pairs of folded partial sums */
    const __m256d xy = _mm256_hadd_pd(avx512_gram_fold(x), avx512_gram_fold(y));
    const __m256d zw = _mm256_hadd_pd(avx512_gram_fold(z), avx512_gram_fold(w));

    return _mm256_add_pd(_mm256_permute2f128_pd(xy, zw, 0x20),
                         _mm256_permute2f128_pd(xy, zw, 0x31));
}

#define AVX512_GRAM_STEP(i)                                                    \
    a_p = _mm512_loadu_pd(a##i + p);                                           \
    s##i##0 = _mm512_fmadd_pd(a_p, b0, s##i##0);                               \
    s##i##1 = _mm512_fmadd_pd(a_p, b1, s##i##1);                               \
    s##i##2 = _mm512_fmadd_pd(a_p, b2, s##i##2);                               \
    s##i##3 = _mm512_fmadd_pd(a_p, b3, s##i##3)

/* sums[4,4] = A[4,k] * B[4,k]^T, eight partial sums an element and then the
 * odd ones of k. */
AVX512_GEMM static void avx512_gram_tile(double *sums,
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
    const double *b_3 = b[3];
    __m512d s00 = _mm512_setzero_pd();
    __m512d s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00, s12 = s00;
    __m512d s13 = s00, s20 = s00, s21 = s00, s22 = s00, s23 = s00, s30 = s00;
    __m512d s31 = s00, s32 = s00, s33 = s00;
    size_t p = 0;

    for (; p + 8 <= k; p += 8) {
        const __m512d b0 = _mm512_loadu_pd(b_0 + p);
        const __m512d b1 = _mm512_loadu_pd(b_1 + p);
        const __m512d b2 = _mm512_loadu_pd(b_2 + p);
        const __m512d b3 = _mm512_loadu_pd(b_3 + p);
        __m512d a_p;

        AVX512_GRAM_STEP(0);
        AVX512_GRAM_STEP(1);
        AVX512_GRAM_STEP(2);
        AVX512_GRAM_STEP(3);
    }
    _mm256_storeu_pd(sums, avx512_gram_sums(s00, s01, s02, s03));
    _mm256_storeu_pd(sums + 4, avx512_gram_sums(s10, s11, s12, s13));
    _mm256_storeu_pd(sums + 8, avx512_gram_sums(s20, s21, s22, s23));
    _mm256_storeu_pd(sums + 12, avx512_gram_sums(s30, s31, s32, s33));
    for (; p < k; p++) {
        for (size_t i = 0; i < 16; i++) {
            const double *x = a[i / 4];
            const double *y = b[i % 4];

            sums[i] = fma(x[p], y[p], sums[i]);
        }
    }
}

static const lora__gemm_tile avx512_gemm_tiles = {
    sizeof(double), 8, 24, avx512_gemm_tile, avx512_gemm_pack, NULL};
static const lora__gram_tile avx512_gram_tiles = {sizeof(double), 4, 4,
                                                  avx512_gram_tile, NULL};

LORA_PRIVATE void lora__avx512_gemm_f64(double *c,
                                        size_t ldc,
                                        const double *a,
                                        size_t lda,
                                        const double *b,
                                        size_t ldb,
                                        size_t m,
                                        size_t n,
                                        size_t k)
{
    lora__tiles_gemm(&avx512_gemm_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

LORA_PRIVATE void lora__avx512_gram_f64(
    double *c, size_t ldc, const double *a, size_t lda, size_t n, size_t k)
{
    lora__tiles_gram(&avx512_gram_tiles, c, ldc, a, lda, n, k);
}

#endif
