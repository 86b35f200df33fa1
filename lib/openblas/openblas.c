/* OpenBLAS and LAPACKE as a backend table.
 *
 * A library of its own: it includes public headers only. LAPACKE's *_work
 * functions are used, column-major, as they allocate nothing and read their
 * arguments as they are (LAPACKE_xxx without _work looks for NaN and takes
 * memory that no hook sees).
 */
#include <lora/openblas.h>

#include <cblas.h>
#include <lapacke.h>

/* The interface has int32_t; a build of LAPACK with 64-bit integers has other
 * symbols and is not what this file is for. */
typedef char openblas_int_is_32_bits[sizeof(lapack_int) == 4 ? 1 : -1];

static CBLAS_TRANSPOSE openblas_op(char op)
{
    return op == 'T' || op == 't' ? CblasTrans : CblasNoTrans;
}

static void openblas_gemm(char op_a,
                          char op_b,
                          int32_t m,
                          int32_t n,
                          int32_t k,
                          double alpha,
                          const double *a,
                          int32_t lda,
                          const double *b,
                          int32_t ldb,
                          double beta,
                          double *c,
                          int32_t ldc)
{
    cblas_dgemm(CblasColMajor, openblas_op(op_a), openblas_op(op_b), m, n, k,
                alpha, a, lda, b, ldb, beta, c, ldc);
}

static int32_t openblas_geqrf(int32_t m,
                              int32_t n,
                              double *a,
                              int32_t lda,
                              double *tau,
                              double *work,
                              int32_t lwork)
{
    return LAPACKE_dgeqrf_work(LAPACK_COL_MAJOR, m, n, a, lda, tau, work,
                               lwork);
}

static int32_t openblas_gesdd(int32_t m,
                              int32_t n,
                              double *a,
                              int32_t lda,
                              double *s,
                              double *u,
                              int32_t ldu,
                              double *vt,
                              int32_t ldvt,
                              double *work,
                              int32_t lwork,
                              int32_t *iwork)
{
    return LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', m, n, a, lda, s, u, ldu,
                               vt, ldvt, work, lwork, iwork);
}

const lora_backend *lora_openblas_backend(void)
{
    static const lora_backend backend = {
        .struct_size = sizeof(lora_backend),
        .name = "openblas",
        .gemm_f64 = openblas_gemm,
        .geqrf_f64 = openblas_geqrf,
        .gesdd_f64 = openblas_gesdd,
    };

    return &backend;
}
