/* Products of matrices in f64, the reference: plain loops, with multiply and
 * add apart (or as the compiler sees fit), as machines that need it have no
 * fused instruction to be fast with.
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
