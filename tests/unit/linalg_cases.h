/* Cases for the SVD of a factored matrix, run on any context: test_linalg.c
 * has the built-in code, test_openblas.c a backend.
 *
 * The reference is one-sided Jacobi in long double on the dense product, made
 * in long double too; it shares nothing with the library.
 */
#ifndef LINALG_CASES_H
#define LINALG_CASES_H

#include "faults.h"
#include "linalg_changes.h"

/* The reference --------------------------------------------------------- */

/* m[rows, cols] = up down / scale */
static long double *cases_product(const lora__svd_input *in, long double scale)
{
    long double *m = calloc(in->rows * in->cols + 1, sizeof *m);

    assert_non_null(m);
    for (size_t r = 0; r < in->rank; r++) {
        for (size_t i = 0; i < in->rows; i++) {
            const long double x =
                cases_wide(in->up_t[r * in->rows + i]) / scale;

            for (size_t j = 0; j < in->cols; j++) {
                m[i * in->cols + j] +=
                    x * cases_wide(in->down[r * in->cols + j]);
            }
        }
    }
    return m;
}

/* Sum over components of |u||d| / scale: what rounding is relative to. */
static long double cases_total(const lora__svd_input *in, long double scale)
{
    long double total = 0;

    for (size_t r = 0; r < in->rank; r++) {
        long double u = 0;
        long double d = 0;

        for (size_t i = 0; i < in->rows; i++) {
            const long double x = cases_wide(in->up_t[r * in->rows + i]);

            u = hypotl(u, x);
        }
        for (size_t i = 0; i < in->cols; i++) {
            const long double x = cases_wide(in->down[r * in->cols + i]);

            d = hypotl(d, x);
        }
        total += u / scale * d;
    }
    return total;
}

/* Checks ---------------------------------------------------------------- */

/* The worst seen so far, in the units of the limits. */
static double cases_worst_sigma;
static double cases_worst_excess;

/* Rows x[k, length]: norms^2 = sigma, orthogonal, 0 where sigma is 0. The side
 * that was projected on is orthonormal to 1e-11. The other one is its product
 * with M, whose rounding errors of a few eps T are not small where sigma is as
 * small. Returns the largest error, relative to sigma. */
static long double cases_check_rows(const double *x,
                                    const double *sigma,
                                    size_t k,
                                    size_t length,
                                    long double scale,
                                    long double total)
{
    long double worst = 0;

    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j <= i; j++) {
            const long double a = cases_wide(sigma[i]) / scale;
            const long double b = cases_wide(sigma[j]) / scale;
            long double dot = 0;

            for (size_t p = 0; p < length; p++) {
                dot += cases_wide(x[i * length + p]) *
                       cases_wide(x[j * length + p]) / scale;
            }
            if (a == 0) {
                assert_true(dot == 0);
                continue;
            }
            dot -= i == j ? a : 0;
            if (!(fabsl(dot) <= 1e-11L * sqrtl(a * b) + 50 * CASES_EPSILON *
                                                            total *
                                                            sqrtl(b / a))) {
                fail_msg("rows %zu, %zu of sigma %Lg, %Lg: off by %Lg", i, j, a,
                         b, dot);
            }
            if (fabsl(dot) / sqrtl(a * b) > worst) {
                worst = fabsl(dot) / sqrtl(a * b);
            }
        }
    }
    return worst;
}

static void cases_check_truncation(lora_context *context,
                                   const lora__svd *svd,
                                   const lora__svd_input *in,
                                   const long double *m,
                                   const long double *sigma,
                                   size_t k,
                                   long double scale,
                                   long double total)
{
    const size_t s = in->rows < in->cols ? in->rows : in->cols;
    double *up_t = cases_normal(k * in->rows);
    double *down = cases_normal(k * in->cols);
    long double off = 0;
    long double tail = 0;
    long double up;
    long double other;

    assert_int_equal(lora__svd_truncate(up_t, down, svd, in, k, context, NULL),
                     LORA_OK);
    for (size_t i = 0; i < in->rows; i++) {
        for (size_t j = 0; j < in->cols; j++) {
            long double rest = m[i * in->cols + j];

            for (size_t r = 0; r < k; r++) {
                rest -= cases_wide(up_t[r * in->rows + i]) / scale *
                        cases_wide(down[r * in->cols + j]);
            }
            off += rest * rest;
        }
    }
    for (size_t i = k; i < s; i++) {
        tail += sigma[i] * sigma[i];
    }
    off = sqrtl(off);
    tail = sqrtl(tail);
    if (!(off <= tail * (1 + 1e-9L) + 50 * CASES_EPSILON * total)) {
        fail_msg("rank %zu: error %Lg, optimum %Lg, sigma_1 %Lg", k, off, tail,
                 sigma[0]);
    }
    if (tail > 1e-5L * total && (double)(off / tail - 1) > cases_worst_excess) {
        cases_worst_excess = (double)(off / tail - 1);
    }
    up = cases_check_rows(up_t, svd->sigma, k, in->rows, scale, total);
    other = cases_check_rows(down, svd->sigma, k, in->cols, scale, total);
    if (!(up <= 1e-11L || other <= 1e-11L)) {
        fail_msg("neither side is orthonormal: %Lg, %Lg", up, other);
    }
    free(up_t);
    free(down);
}

/* Everything about one input. `limit` is for errors of sigma in sigma_1. Where
 * components cancel, rounding is relative to T instead: 2 eps T are the floor
 * below which values are given as 0, and as much again is for what they lost.
 * Truncations add up such errors of all values and vectors, hence 50 eps T. */
static void
cases_check(lora_context *context, const lora__svd_input *in, double limit)
{
    const size_t s = in->rows < in->cols ? in->rows : in->cols;
    const size_t count = in->rank < s ? in->rank : s;
    const uint64_t live = lora_context_memory_live(context);
    long double scale = cases_total(in, 1);
    long double *sigma = calloc(s, sizeof *sigma);
    long double *m;
    long double total;
    long double allowed;
    lora__svd svd;

    assert_non_null(sigma);
    scale = scale > 0 ? scale : 1;
    total = cases_total(in, scale);
    m = cases_product(in, scale);
    cases_svd(sigma, m, in->rows, in->cols);

    assert_int_equal(lora__svd_create(&svd, context, in, NULL), LORA_OK);
    assert_int_equal(svd.count, count);
    allowed = cases_wide(limit) * sigma[0] + 4 * CASES_EPSILON * total;
    for (size_t i = 0; i < count; i++) {
        const long double is = cases_wide(svd.sigma[i]) / scale;

        assert_true(svd.sigma[i] >= 0 && svd.sigma[i] <= DBL_MAX);
        assert_true(i == 0 || svd.sigma[i] <= svd.sigma[i - 1]);
        if (!(fabsl(is - sigma[i]) <= allowed)) {
            fail_msg("sigma %zu is %Lg, not %Lg (sigma_1 %Lg)", i, is, sigma[i],
                     sigma[0]);
        }
        if ((double)(fabsl(is - sigma[i]) / total) > cases_worst_sigma) {
            cases_worst_sigma = (double)(fabsl(is - sigma[i]) / total);
        }
    }
    for (size_t i = count; i < s; i++) {
        assert_true(sigma[i] <= allowed);
    }
    for (int part = 0; part < 4; part++) {
        cases_check_truncation(context, &svd, in, m, sigma,
                               (size_t)part * count / 3, scale, total);
    }
    cases_check_truncation(context, &svd, in, m, sigma, 1, scale, total);
    lora__svd_destroy(&svd, context);
    assert_null(svd.sigma);
    assert_int_equal(lora_context_memory_live(context), live);
    free(m);
    free(sigma);
}

/* Random factors, with a change in between. */
static void cases_run(lora_context *context,
                      size_t rows,
                      size_t cols,
                      size_t rank,
                      cases_change_fn change,
                      double limit)
{
    double *up_t = cases_normal(rank * rows);
    double *down = cases_normal(rank * cols);
    const lora__svd_input in = {rows, cols, rank, up_t, down};

    if (change != NULL) {
        change(up_t, down, in);
    }
    cases_check(context, &in, limit);
    free(up_t);
    free(down);
}

/* All cases. */
static void cases_all(lora_context *context)
{
    static const cases_change_fn changes[] = {
        NULL,
        cases_deficient_up,
        cases_deficient_down,
        cases_deficient_both,
        cases_zero_up,
        cases_zero_rows,
        cases_zero_columns,
        cases_small,
        cases_large,
        cases_smallest,
        cases_largest,
        cases_opposite,
        cases_unequal,
        cases_graded,
        cases_graded_mixed,
        cases_cancel_some,
        cases_cancel_much,
        cases_difference,
        cases_middling,
    };
    static const size_t shapes[][3] = {
        {40, 56, 8},  {61, 37, 24},  {9, 50, 9},     {50, 9, 9},
        {12, 31, 12}, {12, 31, 20},  {31, 12, 20},   {8, 8, 40},
        {5, 7, 5},    {700, 30, 20}, {30, 1100, 18}, {64, 64, 64},
    };

    cases_seed = 1;
    cases_worst_sigma = 0;
    cases_worst_excess = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t j = 0; j < sizeof changes / sizeof changes[0]; j++) {
            cases_run(context, shapes[i][0], shapes[i][1], shapes[i][2],
                      changes[j], 1e-12);
        }
        if (shapes[i][2] <= shapes[i][0] && shapes[i][2] <= shapes[i][1]) {
            cases_run(context, shapes[i][0], shapes[i][1], shapes[i][2],
                      cases_repeat_values, 1e-12);
        }
    }
    print_message("sigma: within %.1f eps T; truncation: %.1e of the optimum\n",
                  cases_worst_sigma / DBL_EPSILON, cases_worst_excess);
}

/* Vectors and single numbers. */
static void cases_thin(lora_context *context)
{
    static const size_t shapes[][3] = {{1, 1, 1},  {1, 20, 1}, {20, 1, 1},
                                       {1, 20, 6}, {20, 1, 6}, {2, 2, 1},
                                       {1, 1, 9},  {3, 200, 2}};

    cases_seed = 2;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        cases_run(context, shapes[i][0], shapes[i][1], shapes[i][2], NULL,
                  1e-14);
        cases_run(context, shapes[i][0], shapes[i][1], shapes[i][2],
                  cases_smallest, 1e-14);
        cases_run(context, shapes[i][0], shapes[i][1], shapes[i][2],
                  cases_zero_up, 1e-14);
    }
}

static void cases_nonfinite(lora_context *context)
{
    static const size_t shapes[][3] = {{20, 30, 4}, {6, 5, 9}};
    const double bad[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const size_t rows = shapes[i][0];
        const size_t cols = shapes[i][1];
        const size_t rank = shapes[i][2];

        for (size_t j = 0; j < 6; j++) {
            double *up_t = cases_normal(rank * rows);
            double *down = cases_normal(rank * cols);
            const lora__svd_input in = {rows, cols, rank, up_t, down};
            lora_error error;
            lora__svd svd;

            lora_error_init(&error, sizeof error);
            /* Its partner is 0: it counts all the same. */
            if (j < 3) {
                up_t[rank * rows - 1] = bad[j];
                memset(down + (rank - 1) * cols, 0, cols * sizeof *down);
            } else {
                down[cols] = bad[j - 3];
            }
            assert_int_equal(lora__svd_create(&svd, context, &in, &error),
                             LORA_ERROR_NONFINITE);
            assert_int_equal(error.status, LORA_ERROR_NONFINITE);
            assert_null(svd.sigma);
            assert_int_equal(svd.count, 0);
            free(up_t);
            free(down);
        }
    }
}

/* Fail each allocation in turn ------------------------------------------ */

static void cases_memory(const lora_backend *backend)
{
    static const cases_change_fn changes[] = {NULL, cases_deficient_both,
                                              cases_smallest, cases_zero_rows};
    static const size_t shapes[][3] = {{40, 30, 20}, {9, 30, 14}, {30, 9, 14}};
    faults_state faults = {-1, 0, 0};
    const lora_allocator allocator = {sizeof allocator, &faults, faults_alloc,
                                      faults_realloc, faults_free};
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    options.backend = backend;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    for (size_t i = 0; i < 12; i++) {
        const size_t *shape = shapes[i % 3];
        double *up_t = cases_normal(shape[2] * shape[0]);
        double *down = cases_normal(shape[2] * shape[1]);
        const lora__svd_input in = {shape[0], shape[1], shape[2], up_t, down};
        const size_t live = faults.live;
        lora_status status = LORA_ERROR_MEMORY;
        int at;

        if (changes[i / 3] != NULL) {
            changes[i / 3](up_t, down, in);
        }
        for (at = 0; status != LORA_OK; at++) {
            lora_error error;
            lora__svd svd;

            lora_error_init(&error, sizeof error);
            faults.calls = 0;
            faults.fail_at = at;
            status = lora__svd_create(&svd, context, &in, &error);
            faults.fail_at = -1;
            if (status == LORA_OK) {
                lora__svd_destroy(&svd, context);
            } else {
                assert_int_equal(status, LORA_ERROR_MEMORY);
                assert_int_equal(error.status, LORA_ERROR_MEMORY);
                assert_null(svd.sigma);
            }
            assert_int_equal(faults.live, live);
        }
        assert_true(at > 5);
        free(up_t);
        free(down);
    }
    lora_context_destroy(context);
    assert_int_equal(faults.live, 0);
}

#endif
