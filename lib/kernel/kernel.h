/* Kernels: the inner loops, as a table chosen by CPU.
 *
 * The reference in ref/ is the meaning. Every other variant gives the same
 * bits for conversions, axpy, scale and gemm_f32. The kernels below an SVD
 * (gram, gemm_f64, gemv, dots, dot, poles, rotate) have a fixed order of
 * summation in each variant, so the same bits for any number of threads, and
 * other bits in another variant.
 *
 * Pointers to void may be unaligned, typed ones are aligned to their type.
 * Outputs do not overlap inputs unless it says so. A count of 0 is in order.
 *
 * The thread is taken to round to nearest. Conversions do not heed a setting
 * that flushes subnormals to zero; arithmetic does.
 */
#ifndef LORA__KERNEL_KERNEL_H
#define LORA__KERNEL_KERNEL_H

#include "core/context.h"

#include <lora/tensor.h>

/* The longest sum in f32 of dots_f32. */
#define LORA__DOTS_DEPTH 512

typedef struct lora__kernels {
    const char *name; /* "ref", "avx2", "avx512", "neon" */

    /* Decode: exact. NaNs are quieted, BF16 excepted, which is copied. */
    void (*f16_to_f32)(float *out, const void *in, size_t count);
    void (*bf16_to_f32)(float *out, const void *in, size_t count);
    void (*f32_to_f64)(double *out, const float *in, size_t count);

    /* Encode: round to nearest even; NaN stays NaN (quieted, sign and upper
     * payload kept); overflow to infinity. */
    void (*f32_to_f16)(void *out, const float *in, size_t count);
    void (*f32_to_bf16)(void *out, const float *in, size_t count);
    void (*f64_to_f32)(float *out, const double *in, size_t count);

    /* Round to odd, for another encoding to follow: together they round
     * once. See lora__f64_narrow_odd. */
    void (*f64_to_f32_odd)(float *out, const double *in, size_t count);

    /* out[j] = fma(b, a[j], out[j]); out may be a. Which of several NaNs
     * comes out, and the sign of a new one, is open. */
    void (*axpy_f32)(float *out, const float *a, float b, size_t count);
    void (*axpy_f64)(double *out, const double *a, double b, size_t count);

    /* out[c, r] = in[r, c], of rows and columns of `in`; steps as below. */
    void (*turn_f32)(float *out,
                     size_t out_step,
                     const float *in,
                     size_t in_step,
                     size_t rows,
                     size_t cols);

    /* out[j] *= b */
    void (*scale_f32)(float *out, float b, size_t count);
    void (*scale_f64)(double *out, double b, size_t count);

    /* Row-major f64 with leading dimensions (elements a row).
     *
     * An element is a sum over k, accumulated in f64; in any order and with
     * or without fused multiply-add its error is at most
     *     (k + 1) * 2^-53 / (1 - (k + 1) * 2^-53) * sum |a| * |b|,
     * barring underflow. */

    /* Lower triangle and diagonal of C[n,n] = A[n,k] * A^T: Gram of rows.
     * What lies above the diagonal is left alone. Made for long rows. */
    void (*gram_f64)(
        double *c, size_t ldc, const double *a, size_t lda, size_t n, size_t k);

    /* C[m,n] = A[m,k] * B[k,n]; k ascending, one accumulator an element.
     * Made for small m and k and long n. */
    void (*gemm_f64)(double *c,
                     size_t ldc,
                     const double *a,
                     size_t lda,
                     const double *b,
                     size_t ldb,
                     size_t m,
                     size_t n,
                     size_t k);

    /* The same in f32: C[i,j] starts at 0 and is fmaf(A[i,p], B[p,j], C[i,j])
     * for p ascending, so that any cut into blocks of rows or columns gives
     * the same bits. Error: at most k u / (1 - k u) sum |a| |b|, u = 2^-24. */
    void (*gemm_f32)(float *c,
                     size_t ldc,
                     const float *a,
                     size_t lda,
                     const float *b,
                     size_t ldb,
                     size_t m,
                     size_t n,
                     size_t k);

    /* C[m,n] = A[m,k] * B[n,k]^T, dot products of rows: in f32 over pieces of
     * LORA__DOTS_DEPTH elements, the pieces in f64. Error: at most
     * LORA__DOTS_DEPTH * 2^-24 * sum |a| |b|, and about 1e-7 of the result
     * where signs are mixed. Made for long rows and more of B than of A. */
    void (*dots_f32)(double *c,
                     size_t ldc,
                     const float *a,
                     size_t lda,
                     const float *b,
                     size_t ldb,
                     size_t m,
                     size_t n,
                     size_t k);

    /* sum of a[j] * b[j]; a may be b. */
    double (*dot_f64)(const double *a, const double *b, size_t count);

    /* y[m] = A[m,n] * x[n], and y[n] += A[m,n]^T * x[m]; rows of A are lda
     * apart. */
    void (*gemv_f64)(double *y,
                     const double *a,
                     size_t lda,
                     const double *x,
                     size_t m,
                     size_t n);
    void (*gemv_t_f64)(double *y,
                       const double *a,
                       size_t lda,
                       const double *x,
                       size_t m,
                       size_t n);

    /* out[j] = a[j] / b[j]; out may be a or b. */
    void (*divide_f64)(double *out,
                       const double *a,
                       const double *b,
                       size_t count);

    /* Sums over poles at four points at once. For point i, with
     *     d = (poles[j] - origins[i]) * (poles[j] + origins[i]) - offsets[i]
     * and t = weights[j] / d: sums[i] of t, sums[4 + i] of |t|, sums[8 + i] of
     * t / d, and sums[12 + i] of t / d^2. */
    void (*poles_f64)(double *sums,
                      const double *weights,
                      const double *poles,
                      const double *origins,
                      const double *offsets,
                      size_t count);

    /* x' = c x - s y, y' = s x + c y. */
    void (*rotate_f64)(double *x, double *y, double c, double s, size_t count);
} lora__kernels;

/* out[c, r] = in[r, c], in[rows, cols] of numbers of `size` bytes. */
LORA_PRIVATE void lora__transpose(
    void *out, const void *in, size_t rows, size_t cols, size_t size);

/* The table for a set of CPU features (lora__context_get(c)->cpu). */
LORA_PRIVATE const lora__kernels *lora__kernels_get(lora_cpu cpu);

/* Convert any readable type to F32 or F64, and F32 or F64 to any writable
 * one, with the table's fast paths. One rounding at most: to F32 of F64 and
 * of integers above 16 bits, to F64 of 64-bit integers, and in encoding.
 * Integers are rounded to nearest even, saturate, and are 0 for NaN. `in`
 * and `out` may be the same where the elements have the same size.
 * DTYPE where the type has no numbers or cannot be written. */
LORA_PRIVATE lora_status lora__convert_to_f32(float *out,
                                              const void *in,
                                              lora_dtype dtype,
                                              size_t count,
                                              const lora__kernels *kernels,
                                              lora_error *error);
LORA_PRIVATE lora_status lora__convert_to_f64(double *out,
                                              const void *in,
                                              lora_dtype dtype,
                                              size_t count,
                                              const lora__kernels *kernels,
                                              lora_error *error);
LORA_PRIVATE lora_status lora__convert_from_f32(void *out,
                                                lora_dtype dtype,
                                                const float *in,
                                                size_t count,
                                                const lora__kernels *kernels,
                                                lora_error *error);
LORA_PRIVATE lora_status lora__convert_from_f64(void *out,
                                                lora_dtype dtype,
                                                const double *in,
                                                size_t count,
                                                const lora__kernels *kernels,
                                                lora_error *error);

/* 1 if the type can be decoded to numbers: all but F4, F6 and C64. */
LORA_PRIVATE int lora__dtype_is_readable(lora_dtype dtype);

/* 1 for the floating-point types that can be written: F64, F32, F16, BF16
 * and F8 without E8M0. */
LORA_PRIVATE int lora__dtype_is_float(lora_dtype dtype);

#endif
