/* Products of matrices, the reference. In f64, and for the dot products, plain
 * loops with multiply and add apart (or as the compiler sees fit), as machines
 * that need it have no fused instruction to be fast with; gemm_f32 is defined
 * bit by bit and says fmaf().
 */
#include "kernel/variants.h"

#include <string.h>

/* C[i,j] = sum of A[i,p] * A[j,p] for j <= i. */
LORA_PRIVATE void lora__ref_gram_f64(
    double *c, size_t ldc, const double *a, size_t lda, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            c[i * ldc + j] = lora__ref_dot_f64(a + i * lda, a + j * lda, k);
        }
    }
}

/* row[n] += a[0] * B[0,n] + ... + a[3] * B[3,n], added in this order. */
static void ref_gemm_add_4(
    double *row, const double *a, const double *b, size_t ldb, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        double sum = row[j];

        sum += a[0] * b[j];
        sum += a[1] * b[j + ldb];
        sum += a[2] * b[j + 2 * ldb];
        sum += a[3] * b[j + 3 * ldb];
        row[j] = sum;
    }
}

/* C[m,n] = A[m,k] * B[k,n], rows of C gathered from rows of B. */
LORA_PRIVATE void lora__ref_gemm_f64(double *c,
                                     size_t ldc,
                                     const double *a,
                                     size_t lda,
                                     const double *b,
                                     size_t ldb,
                                     size_t m,
                                     size_t n,
                                     size_t k)
{
    for (size_t i = 0; n != 0 && i < m; i++) {
        double *row = c + i * ldc;
        const double *factors = a + i * lda;
        size_t p = 0;

        memset(row, 0, n * sizeof *row);
        for (; p + 4 <= k; p += 4) {
            ref_gemm_add_4(row, factors + p, b + p * ldb, ldb, n);
        }
        for (; p < k; p++) {
            for (size_t j = 0; j < n; j++) {
                row[j] += factors[p] * b[p * ldb + j];
            }
        }
    }
}

LORA_PRIVATE void lora__ref_gemm_f32(float *c,
                                     size_t ldc,
                                     const float *a,
                                     size_t lda,
                                     const float *b,
                                     size_t ldb,
                                     size_t m,
                                     size_t n,
                                     size_t k)
{
    for (size_t i = 0; n != 0 && i < m; i++) {
        float *row = c + i * ldc;

        memset(row, 0, n * sizeof *row);
        for (size_t p = 0; p < k; p++) {
            lora__ref_axpy_f32(row, b + p * ldb, a[i * lda + p], n);
        }
    }
}

/* Four sums side by side over at most 512 elements. */
static float ref_dot_f32(const float *a, const float *b, size_t count)
{
    float s0 = 0;
    float s1 = 0;
    float s2 = 0;
    float s3 = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) {
        s0 += a[i] * b[i];
    }
    return (s0 + s1) + (s2 + s3);
}

LORA_PRIVATE void lora__ref_dots_f32(double *c,
                                     size_t ldc,
                                     const float *a,
                                     size_t lda,
                                     const float *b,
                                     size_t ldb,
                                     size_t m,
                                     size_t n,
                                     size_t k)
{
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;

            for (size_t p = 0; p < k; p += LORA__DOTS_DEPTH) {
                const size_t rest = k - p;

                sum += (double)ref_dot_f32(
                    a + i * lda + p, b + j * ldb + p,
                    rest < LORA__DOTS_DEPTH ? rest : LORA__DOTS_DEPTH);
            }
            c[i * ldc + j] = sum;
        }
    }
}
