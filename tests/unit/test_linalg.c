/* The SVD of a factored matrix with the built-in code, and its parts. */
#include "linalg_cases.h"

#include "linalg/block.h"
#include "linalg/householder.h"
#include "linalg/triangle.h"

static lora_context *context_with(const lora_backend *backend, lora_cpu disable)
{
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.backend = backend;
    options.disable_cpu = disable;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

static const lora__kernels *reference_kernels(void)
{
    return lora__kernels_get(0);
}

static void test_all(void **state)
{
    lora_context *context = context_with(NULL, 0);

    (void)state;
    cases_all(context);
    lora_context_destroy(context);
}

static void test_all_reference(void **state)
{
    lora_context *context = context_with(NULL, ~(lora_cpu)0);

    (void)state;
    cases_all(context);
    lora_context_destroy(context);
}

static void test_thin(void **state)
{
    lora_context *context = context_with(NULL, 0);

    (void)state;
    cases_thin(context);
    lora_context_destroy(context);
}

static void test_nonfinite(void **state)
{
    lora_context *context = context_with(NULL, 0);

    (void)state;
    cases_nonfinite(context);
    lora_context_destroy(context);
}

static void test_memory(void **state)
{
    (void)state;
    cases_memory(NULL);
}

/* A product beyond the largest double. */
static void test_overflow(void **state)
{
    lora_context *context = context_with(NULL, 0);
    const double up_t[2] = {1e200, 1};
    const double down[2] = {1e200, 1};
    const lora__svd_input in = {2, 2, 1, up_t, down};
    lora__svd svd;

    (void)state;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL),
                     LORA_ERROR_NONFINITE);
    lora_context_destroy(context);
}

/* Subnormal numbers and the largest ones, one against the other. */
static void test_edges_of_range(void **state)
{
    lora_context *context = context_with(NULL, 0);
    double up_t[2] = {0x1p-1074, 0};
    double down[2] = {0, 0x1.8p1023};
    const lora__svd_input in = {2, 2, 1, up_t, down};
    double up_out[2];
    double down_out[2];
    lora__svd svd;

    (void)state;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL), LORA_OK);
    assert_true(fabs(svd.sigma[0] / 0x1.8p-51 - 1) < 1e-15);
    assert_int_equal(
        lora__svd_truncate(up_out, down_out, &svd, &in, 1, context, NULL),
        LORA_OK);
    assert_true(fabs(up_out[0] * down_out[1] / 0x1.8p-51 - 1) < 1e-15);
    assert_true(up_out[1] == 0 && down_out[0] == 0);
    lora__svd_destroy(&svd, context);
    lora_context_destroy(context);
}

/* sigma below the smallest double is 0, and its rows with it. */
static void test_underflow(void **state)
{
    lora_context *context = context_with(NULL, 0);
    const double up_t[2] = {1e-200, 1e-201};
    const double down[2] = {1e-200, 1e-203};
    const lora__svd_input in = {2, 2, 1, up_t, down};
    double up_out[2];
    double down_out[2];
    lora__svd svd;

    (void)state;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL), LORA_OK);
    assert_true(svd.sigma[0] == 0);
    assert_int_equal(
        lora__svd_truncate(up_out, down_out, &svd, &in, 1, context, NULL),
        LORA_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_true(up_out[i] == 0 && down_out[i] == 0);
    }
    lora__svd_destroy(&svd, context);
    lora_context_destroy(context);
}

static void test_refusals(void **state)
{
    lora_context *context = context_with(NULL, 0);
    const double one[2] = {1, 2};
    const lora__svd_input empty = {0, 2, 1, one, one};
    const lora__svd_input in = {2, 2, 1, one, one};
    double up_t[4];
    double down[4];
    lora__svd svd;

    (void)state;
    assert_int_equal(lora__svd_create(&svd, context, &empty, NULL),
                     LORA_ERROR_INTERNAL);
    lora__svd_destroy(&svd, context);
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL), LORA_OK);
    assert_int_equal(
        lora__svd_truncate(up_t, down, &svd, &in, 2, context, NULL),
        LORA_ERROR_INTERNAL);
    assert_int_equal(
        lora__svd_truncate(up_t, down, &svd, &in, 0, context, NULL), LORA_OK);
    lora__svd_destroy(&svd, context);
    lora__svd_destroy(&svd, context);
    lora_context_destroy(context);
}

/* Twice the same, also where the context has threads. */
static void test_same_bits(void **state)
{
    enum { ROWS = 90, COLS = 110, RANK = 33 };

    double *result[2];
    double *up_t;
    double *down;
    const size_t count = RANK * (ROWS + COLS + 1);

    (void)state;
    cases_seed = 7;
    up_t = cases_normal(RANK * ROWS);
    down = cases_normal(RANK * COLS);
    for (uint32_t i = 0; i < 2; i++) {
        const lora__svd_input in = {ROWS, COLS, RANK, up_t, down};
        lora_context_options options;
        lora_context *context;
        lora__svd svd;

        lora_context_options_init(&options, sizeof options);
        options.max_threads = 3 * i;
        assert_int_equal(lora_context_create(&context, &options, NULL),
                         LORA_OK);
        result[i] = cases_numbers(count);
        assert_int_equal(lora__svd_create(&svd, context, &in, NULL), LORA_OK);
        assert_int_equal(lora__svd_truncate(result[i], result[i] + RANK * ROWS,
                                            &svd, &in, RANK, context, NULL),
                         LORA_OK);
        memcpy(result[i] + RANK * (ROWS + COLS), svd.sigma,
               RANK * sizeof(double));
        lora__svd_destroy(&svd, context);
        lora_context_destroy(context);
    }
    assert_memory_equal(result[0], result[1], count * sizeof(double));
    free(result[0]);
    free(result[1]);
    free(up_t);
    free(down);
}

/* Parts ----------------------------------------------------------------- */

/* a = l q by the reflectors, applied one by one in long double. */
static void check_lq(size_t rank, size_t length, size_t independent)
{
    lora_context *context = context_with(NULL, 0);
    double *a = cases_normal(rank * length);
    double *v = cases_numbers(rank * length);
    double *l = cases_numbers(rank * rank);
    double *tau = cases_numbers(rank);
    long double *row = calloc(length, sizeof *row);

    assert_non_null(row);
    for (size_t i = independent; i < rank; i++) {
        for (size_t j = 0; j < length; j++) {
            a[i * length + j] =
                independent == 0 ? 0 : a[(i - independent) * length + j];
        }
    }
    memcpy(v, a, rank * length * sizeof *a);
    assert_int_equal(lora__lq_create(l, v, tau, rank, length, context, NULL),
                     LORA_OK);
    for (size_t i = 0; i < rank; i++) {
        long double norm = 0;

        for (size_t j = i + 1; j < rank; j++) {
            assert_true(l[i * rank + j] == 0);
        }
        for (size_t j = 0; j < i; j++) {
            assert_true(v[i * length + j] == 0);
        }
        /* [l_i 0] H_(r-1) ... H_0 */
        memset(row, 0, length * sizeof *row);
        for (size_t j = 0; j <= i; j++) {
            row[j] = cases_wide(l[i * rank + j]);
        }
        for (size_t j = rank; j-- > 0;) {
            const double *at = v + j * length;
            long double dot = 0;

            for (size_t p = 0; p < length; p++) {
                dot += row[p] * cases_wide(at[p]);
            }
            for (size_t p = 0; p < length; p++) {
                row[p] -= cases_wide(tau[j]) * dot * cases_wide(at[p]);
            }
        }
        for (size_t j = 0; j < length; j++) {
            const long double off = row[j] - cases_wide(a[i * length + j]);

            norm += off * off;
        }
        assert_true(sqrtl(norm) <=
                    100 * CASES_EPSILON * sqrtl((long double)length));
    }
    free(a);
    free(v);
    free(l);
    free(tau);
    free(row);
    lora_context_destroy(context);
}

static void test_lq(void **state)
{
    (void)state;
    cases_seed = 3;
    check_lq(1, 1, 1);
    check_lq(1, 70, 1);
    check_lq(5, 5, 5);
    check_lq(16, 40, 16);
    check_lq(17, 17, 17);
    check_lq(33, 600, 33);
    check_lq(40, 1100, 40);
    check_lq(20, 50, 7);
    check_lq(20, 50, 0);
}

static void test_triangle(void **state)
{
    enum { N = 19 };

    const lora__kernels *kernels = reference_kernels();
    double *q;
    double g[N * N];
    double l[N * N];
    double x[2 * N];
    double y[2 * N];
    double scratch[N];

    (void)state;
    cases_seed = 5;
    q = cases_orthonormal(N, N);
    memset(g, 0, sizeof g);
    /* Eigenvalues 1 to 1e-4. */
    for (size_t i = 0; i < N; i++) {
        for (size_t j = 0; j < N; j++) {
            for (size_t p = 0; p < N; p++) {
                g[i * N + j] += q[p * N + i] * q[p * N + j] *
                                pow(10, -4 * (double)p / (N - 1));
            }
        }
    }
    memcpy(l, g, sizeof g);
    assert_int_equal(lora__triangle_cholesky(l, N, kernels), 1);
    for (size_t i = 0; i < N; i++) {
        for (size_t j = 0; j < N; j++) {
            double off = g[i * N + j];

            for (size_t p = 0; p < N; p++) {
                off -= l[i * N + p] * l[j * N + p];
            }
            assert_true(fabs(off) < 1e-14);
            assert_true(j <= i || l[i * N + j] == 0);
        }
    }
    {
        const double found = lora__triangle_inverse(l, N, scratch, kernels);

        assert_true(found > 5e3 && found < 1.0001e4);
    }

    {
        const double tiny[] = {1e-200, 0, 1, 1e-200};

        assert_true(lora__triangle_inverse(tiny, 2, scratch, kernels) >
                    DBL_MAX);
    }

    for (size_t i = 0; i < 2 * N; i++) {
        x[i] = cases_random();
    }
    memset(y, 0, sizeof y);
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < N; j++) {
            for (size_t p = 0; p < N; p++) {
                y[i * N + j] +=
                    i == 0 ? x[p] * l[p * N + j] : x[N + p] * l[j * N + p];
            }
        }
    }
    lora__triangle_solve(y, N, 1, l, N, N, kernels);
    lora__triangle_solve_t(y + N, N, 1, l, N, N, kernels);
    for (size_t i = 0; i < 2 * N; i++) {
        assert_true(fabs(x[i] - y[i]) < 1e-12);
    }

    /* Not positive definite; not even a number. */
    memcpy(l, g, sizeof g);
    memcpy(l + N, l, 2 * sizeof *l);
    l[N] = l[0];
    l[N + 1] = l[0];
    assert_int_equal(lora__triangle_cholesky(l, N, kernels), 0);
    l[0] = (double)NAN;
    assert_int_equal(lora__triangle_cholesky(l, N, kernels), 0);
    free(q);
}

static void test_block(void **state)
{
    lora_context *context = context_with(NULL, 0);
    lora__block block;

    (void)state;
    assert_int_equal(lora__block_create(&block, SIZE_MAX / 2, 3, context, NULL),
                     LORA_ERROR_MEMORY);
    assert_int_equal(lora__block_create(&block, SIZE_MAX / 8, 4, context, NULL),
                     LORA_ERROR_MEMORY);
    assert_null(block.at);
    lora__block_destroy(&block, context);
    lora_context_destroy(context);
}

/* A backend that fails, in each way. */

static int32_t stub_info;
static int stub_calls;

static int32_t stub_gesdd(int32_t m,
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
    (void)m, (void)n, (void)a, (void)lda, (void)s, (void)u, (void)ldu;
    (void)vt, (void)ldvt, (void)iwork;
    stub_calls++;
    work[0] = 10;
    return lwork == -1 ? 0 : stub_info;
}

static int32_t stub_geqrf(int32_t m,
                          int32_t n,
                          double *a,
                          int32_t lda,
                          double *tau,
                          double *work,
                          int32_t lwork)
{
    (void)m, (void)n, (void)a, (void)lda, (void)tau, (void)lwork;
    stub_calls++;
    work[0] = 0; /* senseless */
    return 0;
}

static void test_failing_backend(void **state)
{
    lora_backend backend = {.struct_size = sizeof backend, .name = "stub"};
    double up_t[4] = {1, 2, 3, 5};
    double down[4] = {1, 2, 3, 5};
    const lora__svd_input in = {2, 2, 2, up_t, down};
    lora_context *context;
    lora__svd svd;

    (void)state;
    backend.gesdd_f64 = stub_gesdd;
    context = context_with(&backend, 0);
    stub_calls = 0;
    stub_info = 1;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL),
                     LORA_ERROR_CONVERGENCE);
    stub_info = -3;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL),
                     LORA_ERROR_INTERNAL);
    assert_int_equal(stub_calls, 4);
    assert_int_equal(svd.count, 0);
    lora_context_destroy(context);

    backend.gesdd_f64 = NULL;
    backend.geqrf_f64 = stub_geqrf;
    context = context_with(&backend, 0);
    up_t[2] = 2;
    up_t[3] = 4;
    assert_int_equal(lora__svd_create(&svd, context, &in, NULL),
                     LORA_ERROR_INTERNAL);
    assert_int_equal(stub_calls, 5);
    lora_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_triangle),
        cmocka_unit_test(test_lq),
        cmocka_unit_test(test_block),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_all_reference),
        cmocka_unit_test(test_thin),
        cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_edges_of_range),
        cmocka_unit_test(test_underflow),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_failing_backend),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
