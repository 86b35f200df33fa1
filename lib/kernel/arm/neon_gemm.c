/* Tiles of matrix products with NEON, for the loops of tiles.c: sixteen sums
 * of two elements, which cover four units with a latency of four cycles.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__NEON

#include <arm_neon.h>
#include <math.h>

#define NEON_GEMM_LOAD(i)                                                      \
    float64x2_t c##i##0 = vdupq_n_f64(0);                                      \
    float64x2_t c##i##1 = c##i##0;                                             \
    float64x2_t c##i##2 = c##i##0;                                             \
    float64x2_t c##i##3 = c##i##0;                                             \
    const double *a##i = a[i];                                                 \
    if (add) {                                                                 \
        c##i##0 = vld1q_f64(c + i * ldc);                                      \
        c##i##1 = vld1q_f64(c + i * ldc + 2);                                  \
        c##i##2 = vld1q_f64(c + i * ldc + 4);                                  \
        c##i##3 = vld1q_f64(c + i * ldc + 6);                                  \
    }

#define NEON_GEMM_STEP(i)                                                      \
    a_p = vld1q_dup_f64(a##i + p);                                             \
    c##i##0 = vfmaq_f64(c##i##0, a_p, b0);                                     \
    c##i##1 = vfmaq_f64(c##i##1, a_p, b1);                                     \
    c##i##2 = vfmaq_f64(c##i##2, a_p, b2);                                     \
    c##i##3 = vfmaq_f64(c##i##3, a_p, b3)

#define NEON_GEMM_STORE(i)                                                     \
    vst1q_f64(c + i * ldc, c##i##0);                                           \
    vst1q_f64(c + i * ldc + 2, c##i##1);                                       \
    vst1q_f64(c + i * ldc + 4, c##i##2);                                       \
    vst1q_f64(c + i * ldc + 6, c##i##3)

/* C[4,8] = (add ? C : 0) + A[4,k] * B[k,8]. */
static void neon_gemm_tile(void *out,
                           size_t ldc,
                           const void *const *a,
                           const void *from,
                           size_t ldb,
                           size_t k,
                           int add)
{
    double *c = out;
    const double *b = from;
    NEON_GEMM_LOAD(0)
    NEON_GEMM_LOAD(1)
    NEON_GEMM_LOAD(2)
    NEON_GEMM_LOAD(3)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const float64x2_t b0 = vld1q_f64(b);
        const float64x2_t b1 = vld1q_f64(b + 2);
        const float64x2_t b2 = vld1q_f64(b + 4);
        const float64x2_t b3 = vld1q_f64(b + 6);
        float64x2_t a_p;

        NEON_GEMM_STEP(0);
        NEON_GEMM_STEP(1);
        NEON_GEMM_STEP(2);
        NEON_GEMM_STEP(3);
    }
    NEON_GEMM_STORE(0);
    NEON_GEMM_STORE(1);
    NEON_GEMM_STORE(2);
    NEON_GEMM_STORE(3);
}

static void neon_gemm_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    double *out = packed;
    const double *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 8) {
        vst1q_f64(out, vld1q_f64(b));
        vst1q_f64(out + 2, vld1q_f64(b + 2));
        vst1q_f64(out + 4, vld1q_f64(b + 4));
        vst1q_f64(out + 6, vld1q_f64(b + 6));
    }
}

#define NEON_GRAM_STEP(i)                                                      \
    a_p = vld1q_f64(a##i + p);                                                 \
    s##i##0 = vfmaq_f64(s##i##0, a_p, b0);                                     \
    s##i##1 = vfmaq_f64(s##i##1, a_p, b1);                                     \
    s##i##2 = vfmaq_f64(s##i##2, a_p, b2);                                     \
    s##i##3 = vfmaq_f64(s##i##3, a_p, b3)

#define NEON_GRAM_STORE(i)                                                     \
    vst1q_f64(sums + i * 4, vpaddq_f64(s##i##0, s##i##1));                     \
    vst1q_f64(sums + i * 4 + 2, vpaddq_f64(s##i##2, s##i##3))

/* sums[4,4] = A[4,k] * B[4,k]^T, two partial sums an element and then the odd
 * one of k. */
static void neon_gram_tile(double *sums,
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
    float64x2_t s00 = vdupq_n_f64(0);
    float64x2_t s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00;
    float64x2_t s12 = s00, s13 = s00, s20 = s00, s21 = s00, s22 = s00;
    float64x2_t s23 = s00, s30 = s00, s31 = s00, s32 = s00, s33 = s00;
    size_t p = 0;

    for (; p + 2 <= k; p += 2) {
        const float64x2_t b0 = vld1q_f64(b_0 + p);
        const float64x2_t b1 = vld1q_f64(b_1 + p);
        const float64x2_t b2 = vld1q_f64(b_2 + p);
        const float64x2_t b3 = vld1q_f64(b_3 + p);
        float64x2_t a_p;

        NEON_GRAM_STEP(0);
        NEON_GRAM_STEP(1);
        NEON_GRAM_STEP(2);
        NEON_GRAM_STEP(3);
    }
    NEON_GRAM_STORE(0);
    NEON_GRAM_STORE(1);
    NEON_GRAM_STORE(2);
    NEON_GRAM_STORE(3);
    for (; p < k; p++) {
        for (size_t i = 0; i < 16; i++) {
            const double *x = a[i / 4];
            const double *y = b[i % 4];

            sums[i] = fma(x[p], y[p], sums[i]);
        }
    }
}

static const lora__gemm_tile neon_gemm_tiles = {
    sizeof(double), 4, 8, neon_gemm_tile, neon_gemm_pack, NULL};
static const lora__gram_tile neon_gram_tiles = {sizeof(double), 4, 4,
                                                neon_gram_tile, NULL};

LORA_PRIVATE void lora__neon_gemm_f64(double *c,
                                      size_t ldc,
                                      const double *a,
                                      size_t lda,
                                      const double *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_gemm(&neon_gemm_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

LORA_PRIVATE void lora__neon_gram_f64(
    double *c, size_t ldc, const double *a, size_t lda, size_t n, size_t k)
{
    lora__tiles_gram(&neon_gram_tiles, c, ldc, a, lda, n, k);
}

#endif
