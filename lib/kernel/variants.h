/* The functions the tables are made of. Included by dispatch.c and by the
 * files that define them; a faster variant ends its loops in the reference.
 */
#ifndef LORA__KERNEL_VARIANTS_H
#define LORA__KERNEL_VARIANTS_H

#include "kernel/kernel.h"

/* Declared alike for every variant, as lora__kernels has them. */
#define LORA__DECLARE_CONVERSIONS(variant)                                     \
    LORA_PRIVATE void lora__##variant##_f16_to_f32(float *out, const void *in, \
                                                   size_t count);              \
    LORA_PRIVATE void lora__##variant##_bf16_to_f32(                           \
        float *out, const void *in, size_t count);                             \
    LORA_PRIVATE void lora__##variant##_f32_to_f64(                            \
        double *out, const float *in, size_t count);                           \
    LORA_PRIVATE void lora__##variant##_f32_to_f16(void *out, const float *in, \
                                                   size_t count);              \
    LORA_PRIVATE void lora__##variant##_f32_to_bf16(                           \
        void *out, const float *in, size_t count);                             \
    LORA_PRIVATE void lora__##variant##_f64_to_f32(                            \
        float *out, const double *in, size_t count);                           \
    LORA_PRIVATE void lora__##variant##_f64_to_f32_odd(                        \
        float *out, const double *in, size_t count)

#define LORA__DECLARE_VECTOR(variant)                                          \
    LORA_PRIVATE void lora__##variant##_axpy_f32(float *out, const float *a,   \
                                                 float b, size_t count);       \
    LORA_PRIVATE void lora__##variant##_axpy_f64(double *out, const double *a, \
                                                 double b, size_t count);      \
    LORA_PRIVATE void lora__##variant##_scale_f32(float *out, float b,         \
                                                  size_t count);               \
    LORA_PRIVATE void lora__##variant##_scale_f64(double *out, double b,       \
                                                  size_t count);               \
    LORA_PRIVATE void lora__##variant##_turn_f32(                              \
        float *out, size_t out_step, const float *in, size_t in_step,          \
        size_t rows, size_t cols);                                             \
    LORA_PRIVATE double lora__##variant##_dot_f64(                             \
        const double *a, const double *b, size_t count);                       \
    LORA_PRIVATE void lora__##variant##_gemv_f64(double *y, const double *a,   \
                                                 size_t lda, const double *x,  \
                                                 size_t m, size_t n);          \
    LORA_PRIVATE void lora__##variant##_gemv_t_f64(                            \
        double *y, const double *a, size_t lda, const double *x, size_t m,     \
        size_t n);                                                             \
    LORA_PRIVATE void lora__##variant##_divide_f64(                            \
        double *out, const double *a, const double *b, size_t count);          \
    LORA_PRIVATE void lora__##variant##_poles_f64(                             \
        double *sums, const double *weights, const double *poles,              \
        const double *origins, const double *offsets, size_t count);           \
    LORA_PRIVATE void lora__##variant##_rotate_f64(                            \
        double *x, double *y, double c, double s, size_t count)

#define LORA__DECLARE_GEMM(variant)                                            \
    LORA_PRIVATE void lora__##variant##_gram_f64(double *c, size_t ldc,        \
                                                 const double *a, size_t lda,  \
                                                 size_t n, size_t k);          \
    LORA_PRIVATE void lora__##variant##_gemm_f64(                              \
        double *c, size_t ldc, const double *a, size_t lda, const double *b,   \
        size_t ldb, size_t m, size_t n, size_t k);                             \
    LORA_PRIVATE void lora__##variant##_gemm_f32(                              \
        float *c, size_t ldc, const float *a, size_t lda, const float *b,      \
        size_t ldb, size_t m, size_t n, size_t k);                             \
    LORA_PRIVATE void lora__##variant##_dots_f32(                              \
        double *c, size_t ldc, const float *a, size_t lda, const float *b,     \
        size_t ldb, size_t m, size_t n, size_t k)

LORA__DECLARE_CONVERSIONS(ref);
LORA__DECLARE_VECTOR(ref);
LORA__DECLARE_GEMM(ref);

#if LORA__X86
LORA__DECLARE_CONVERSIONS(avx2);
LORA__DECLARE_VECTOR(avx2);
LORA__DECLARE_GEMM(avx2);
LORA__DECLARE_GEMM(avx512);

/* A lora__gemm_row_fn, of AVX-512 too. */
LORA_PRIVATE void lora__avx2_gemm_row_f32(
    float *out, const float *a, const float *b, size_t ldb, size_t n, size_t k);
#endif

#if LORA__NEON
LORA__DECLARE_CONVERSIONS(neon);
LORA__DECLARE_VECTOR(neon);
LORA__DECLARE_GEMM(neon);
#endif

#endif
