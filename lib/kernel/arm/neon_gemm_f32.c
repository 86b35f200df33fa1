/* Tiles of matrix products in f32 with NEON; as neon_gemm.c, with twice
 * as many elements in a register.
 */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__NEON

#include <arm_neon.h>
#include <math.h>

#define NEON_F32_LOAD(i)                                                       \
    float32x4_t c##i##0 = vdupq_n_f32(0);                                      \
    float32x4_t c##i##1 = c##i##0;                                             \
    float32x4_t c##i##2 = c##i##0;                                             \
    float32x4_t c##i##3 = c##i##0;                                             \
    const float *a##i = a[i];                                                  \
    if (add) {                                                                 \
        c##i##0 = vld1q_f32(c + i * ldc);                                      \
        c##i##1 = vld1q_f32(c + i * ldc + 4);                                  \
        c##i##2 = vld1q_f32(c + i * ldc + 8);                                  \
        c##i##3 = vld1q_f32(c + i * ldc + 12);                                 \
    }

#define NEON_F32_STEP(i)                                                       \
    a_p = vld1q_dup_f32(a##i + p);                                             \
    c##i##0 = vfmaq_f32(c##i##0, a_p, b0);                                     \
    c##i##1 = vfmaq_f32(c##i##1, a_p, b1);                                     \
    c##i##2 = vfmaq_f32(c##i##2, a_p, b2);                                     \
    c##i##3 = vfmaq_f32(c##i##3, a_p, b3)

#define NEON_F32_STORE(i)                                                      \
    vst1q_f32(c + i * ldc, c##i##0);                                           \
    vst1q_f32(c + i * ldc + 4, c##i##1);                                       \
    vst1q_f32(c + i * ldc + 8, c##i##2);                                       \
    vst1q_f32(c + i * ldc + 12, c##i##3)

/* C[4,16] = (add ? C : 0) + A[4,k] * B[k,16]. */
static void neon_f32_tile(void *out,
                          size_t ldc,
                          const void *const *a,
                          const void *from,
                          size_t ldb,
                          size_t k,
                          int add)
{
    float *c = out;
    const float *b = from;
    NEON_F32_LOAD(0)
    NEON_F32_LOAD(1)
    NEON_F32_LOAD(2)
    NEON_F32_LOAD(3)

    for (size_t p = 0; p < k; p++, b += ldb) {
        const float32x4_t b0 = vld1q_f32(b);
        const float32x4_t b1 = vld1q_f32(b + 4);
        const float32x4_t b2 = vld1q_f32(b + 8);
        const float32x4_t b3 = vld1q_f32(b + 12);
        float32x4_t a_p;

        NEON_F32_STEP(0);
        NEON_F32_STEP(1);
        NEON_F32_STEP(2);
        NEON_F32_STEP(3);
    }
    NEON_F32_STORE(0);
    NEON_F32_STORE(1);
    NEON_F32_STORE(2);
    NEON_F32_STORE(3);
}

static void neon_f32_pack(void *packed, const void *from, size_t ldb, size_t k)
{
    float *out = packed;
    const float *b = from;

    for (size_t p = 0; p < k; p++, b += ldb, out += 16) {
        vst1q_f32(out, vld1q_f32(b));
        vst1q_f32(out + 4, vld1q_f32(b + 4));
        vst1q_f32(out + 8, vld1q_f32(b + 8));
        vst1q_f32(out + 12, vld1q_f32(b + 12));
    }
}

#define NEON_DOTS_STEP(i)                                                      \
    a_p = vld1q_f32(a##i + p);                                                 \
    s##i##0 = vfmaq_f32(s##i##0, a_p, b0);                                     \
    s##i##1 = vfmaq_f32(s##i##1, a_p, b1);                                     \
    s##i##2 = vfmaq_f32(s##i##2, a_p, b2);                                     \
    s##i##3 = vfmaq_f32(s##i##3, a_p, b3)

#define NEON_DOTS_STORE(i)                                                     \
    sum = vpaddq_f32(vpaddq_f32(s##i##0, s##i##1),                             \
                     vpaddq_f32(s##i##2, s##i##3));                            \
    vst1q_f64(sums + i * 4, vcvt_f64_f32(vget_low_f32(sum)));                  \
    vst1q_f64(sums + i * 4 + 2, vcvt_high_f64_f32(sum))

/* sums[4,4] = A[4,k] * B[4,k]^T, four partial sums an element and then the
 * odd ones of k, in f64. */
static void neon_dots_tile(double *sums,
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
    float32x4_t s00 = vdupq_n_f32(0);
    float32x4_t s01 = s00, s02 = s00, s03 = s00, s10 = s00, s11 = s00;
    float32x4_t s12 = s00, s13 = s00, s20 = s00, s21 = s00, s22 = s00;
    float32x4_t s23 = s00, s30 = s00, s31 = s00, s32 = s00, s33 = s00;
    float32x4_t sum;
    size_t p = 0;

    for (; p + 4 <= k; p += 4) {
        const float32x4_t b0 = vld1q_f32(b_0 + p);
        const float32x4_t b1 = vld1q_f32(b_1 + p);
        const float32x4_t b2 = vld1q_f32(b_2 + p);
        const float32x4_t b3 = vld1q_f32(b_3 + p);
        float32x4_t a_p;

        NEON_DOTS_STEP(0);
        NEON_DOTS_STEP(1);
        NEON_DOTS_STEP(2);
        NEON_DOTS_STEP(3);
    }
    NEON_DOTS_STORE(0);
    NEON_DOTS_STORE(1);
    NEON_DOTS_STORE(2);
    NEON_DOTS_STORE(3);
    for (; p < k; p++) {
        for (size_t i = 0; i < 16; i++) {
            const float *x = a[i / 4];
            const float *y = b[i % 4];

            sums[i] = fma((double)x[p], (double)y[p], sums[i]);
        }
    }
}

static void neon_gemm_row_f32(
    float *out, const float *a, const float *b, size_t ldb, size_t n, size_t k)
{
    for (size_t p = 0; p < k; p++) {
        lora__neon_axpy_f32(out, b + p * ldb, a[p], n);
    }
}

static const lora__gemm_tile neon_f32_tiles = {
    sizeof(float), 4, 16, neon_f32_tile, neon_f32_pack, NULL};
static const lora__gram_tile neon_dots_tiles = {sizeof(float), 4, 4,
                                                neon_dots_tile, NULL};

LORA_PRIVATE void lora__neon_gemm_f32(float *c,
                                      size_t ldc,
                                      const float *a,
                                      size_t lda,
                                      const float *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_gemm_f32(&neon_f32_tiles, neon_gemm_row_f32, c, ldc, a, lda, b,
                         ldb, m, n, k);
}

LORA_PRIVATE void lora__neon_dots_f32(double *c,
                                      size_t ldc,
                                      const float *a,
                                      size_t lda,
                                      const float *b,
                                      size_t ldb,
                                      size_t m,
                                      size_t n,
                                      size_t k)
{
    lora__tiles_dots(&neon_dots_tiles, c, ldc, a, lda, b, ldb, m, n, k);
}

#endif
