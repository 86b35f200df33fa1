/* The SVD of a factored matrix with OpenBLAS underneath: the same cases and
 * limits as the built-in code has, then one against the other. */
#ifdef LORA_HAVE_OPENBLAS

#include "linalg_cases.h"

#include <lora/openblas.h>

static lora_context *context_with(const lora_backend *backend)
{
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.backend = backend;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

static void test_table(void **state)
{
    const lora_backend *backend = lora_openblas_backend();

    (void)state;
    assert_int_equal(backend->struct_size, sizeof *backend);
    assert_string_equal(backend->name, "openblas");
    assert_ptr_equal(backend, lora_openblas_backend());
}

/* C = 2 A B^T - C, A = [1 3 5; 2 4 6], B = [1 0 1; 2 1 0], column-major. */
static void test_gemm(void **state)
{
    const double a[] = {1, 2, 3, 4, 5, 6};
    const double b[] = {1, 2, 0, 1, 1, 0};
    const double expected[] = {11, 14, 7, 12};
    double c[] = {1, 2, 3, 4};

    (void)state;
    lora_openblas_backend()->gemm_f64('N', 'T', 2, 2, 3, 2, a, 2, b, 2, -1, c,
                                      2);
    for (size_t i = 0; i < 4; i++) {
        assert_true(c[i] == expected[i]);
    }
}

/* Applying the reflectors H_k = I - tau v v^T, last first, to R gives A. */
static void test_qr(void **state)
{
    enum { M = 9, N = 4 };

    const lora_backend *backend = lora_openblas_backend();
    double *a;
    double q[M * N];
    double product[M * N] = {0};
    double tau[N];
    double work[64 * N];

    (void)state;
    cases_seed = 11;
    a = cases_normal(M * N);
    memcpy(q, a, sizeof q);
    assert_int_equal(backend->geqrf_f64(M, N, q, M, tau, work, 64 * N), 0);
    for (size_t j = 0; j < N; j++) {
        memcpy(product + j * M, q + j * M, (j + 1) * sizeof *q);
    }
    for (size_t k = N; k-- > 0;) {
        for (size_t j = 0; j < N; j++) {
            double *column = product + j * M;
            double dot = column[k];

            for (size_t i = k + 1; i < M; i++) {
                dot += q[k * M + i] * column[i];
            }
            column[k] -= tau[k] * dot;
            for (size_t i = k + 1; i < M; i++) {
                column[i] -= tau[k] * dot * q[k * M + i];
            }
        }
    }
    for (size_t i = 0; i < M * N; i++) {
        assert_true(fabs(product[i] - a[i]) < 1e-14);
    }
    free(a);
}

static void test_gesdd(void **state)
{
    const lora_backend *backend = lora_openblas_backend();
    double a[] = {3, 0, 0, 0, -2, 0}; /* [3, 2] */
    double s[2];
    double u[6];
    double vt[4];
    double work[400];
    int32_t iwork[16];

    (void)state;
    assert_int_equal(
        backend->gesdd_f64(3, 2, a, 3, s, u, 3, vt, 2, work, -1, iwork), 0);
    assert_true(work[0] >= 1 && work[0] <= 400);
    assert_int_equal(
        backend->gesdd_f64(3, 2, a, 3, s, u, 3, vt, 2, work, 400, iwork), 0);
    assert_true(fabs(s[0] - 3) < 1e-15 && fabs(s[1] - 2) < 1e-15);
    assert_true(fabs(u[0] * vt[0] - 1) < 1e-15);
    assert_true(fabs(u[4] * vt[3] + 1) < 1e-15);
}

static void test_all(void **state)
{
    lora_context *context = context_with(lora_openblas_backend());

    (void)state;
    cases_all(context);
    lora_context_destroy(context);
}

static void test_thin(void **state)
{
    lora_context *context = context_with(lora_openblas_backend());

    (void)state;
    cases_thin(context);
    lora_context_destroy(context);
}

static void test_nonfinite(void **state)
{
    lora_context *context = context_with(lora_openblas_backend());

    (void)state;
    cases_nonfinite(context);
    lora_context_destroy(context);
}

static void test_memory(void **state)
{
    (void)state;
    cases_memory(lora_openblas_backend());
}

/* Every member may be missing. */
static void test_parts(void **state)
{
    (void)state;
    for (int part = 0; part < 3; part++) {
        lora_backend backend = *lora_openblas_backend();
        lora_context *context;

        if (part == 0) {
            backend.gemm_f64 = NULL;
        } else if (part == 1) {
            backend.geqrf_f64 = NULL;
        } else {
            backend.gesdd_f64 = NULL;
        }
        context = context_with(&backend);
        cases_seed = 12;
        cases_run(context, 40, 60, 20, NULL, 1e-12);
        cases_run(context, 40, 60, 20, cases_deficient_both, 1e-12);
        cases_run(context, 10, 60, 20, NULL, 1e-12);
        lora_context_destroy(context);
    }
}

/* At the size of a real module, where the reference would take too long:
 * sigma of both within 1e-12 sigma_1. */
static void test_agrees(void **state)
{
    enum { ROWS = 1280, COLS = 2048, RANK = 64 };

    lora_context *context[2] = {context_with(NULL),
                                context_with(lora_openblas_backend())};
    static const cases_change_fn changes[] = {
        NULL, cases_deficient_both, cases_middling, cases_graded_mixed};

    (void)state;
    cases_seed = 13;
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        double *up_t = cases_normal(RANK * ROWS);
        double *down = cases_normal(RANK * COLS);
        const lora__svd_input in = {ROWS, COLS, RANK, up_t, down};
        lora__svd svd[2];

        if (changes[i] != NULL) {
            changes[i](up_t, down, in);
        }
        for (int j = 0; j < 2; j++) {
            assert_int_equal(lora__svd_create(&svd[j], context[j], &in, NULL),
                             LORA_OK);
        }
        for (size_t j = 0; j < RANK; j++) {
            assert_true(fabs(svd[0].sigma[j] - svd[1].sigma[j]) <=
                        1e-12 * svd[0].sigma[0]);
        }
        for (int j = 0; j < 2; j++) {
            lora__svd_destroy(&svd[j], context[j]);
        }
        free(up_t);
        free(down);
    }
    lora_context_destroy(context[0]);
    lora_context_destroy(context[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),     cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_qr),        cmocka_unit_test(test_gesdd),
        cmocka_unit_test(test_all),       cmocka_unit_test(test_thin),
        cmocka_unit_test(test_nonfinite), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_agrees),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    return 77; /* skipped */
}

#endif
