/* The SVD of squares, and its parts: reduction to two diagonals, the
 * secular equation, divide and conquer.
 *
 * References are reflections, sums and Jacobi's rotations in long double
 * (linalg_numbers.h), and closed forms.
 */
#include "linalg_numbers.h"

#include "linalg/bidiagonal.h"
#include "linalg/conquer.h"
#include "linalg/secular.h"
#include "linalg/square.h"

/* Errors are promised to c n eps; c is below 2 wherever it was measured. */
#define LIMIT(n) (4 * CASES_EPSILON * (long double)(n))

static lora_context *context_without(lora_cpu disable)
{
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.disable_cpu = disable;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

/* The kernels to go through: all, AVX2 at most, none. */
static const lora_cpu disabled[] = {0, LORA_CPU_AVX512, ~(lora_cpu)0};

/* Two diagonals --------------------------------------------------------- */

/* x[n] = x H_j, in long double. */
static void
reflect(long double *x, const double *v, const double *tau, size_t n, size_t j)
{
    long double dot = 0;

    for (size_t p = j; p < n; p++) {
        dot += x[p] * cases_wide(v[j * n + p]);
    }
    for (size_t p = j; p < n; p++) {
        x[p] -= cases_wide(tau[j]) * dot * cases_wide(v[j * n + p]);
    }
}

/* rows[n, n] = C^T U: reflections go over the columns of C. */
static long double *
turned_columns(const double *c, const double *v, const double *tau, size_t n)
{
    long double *rows = calloc(n * n, sizeof *rows);

    assert_non_null(rows);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            rows[i * n + j] = cases_wide(c[j * n + i]);
        }
        for (size_t j = 0; j < n; j++) {
            reflect(rows + i * n, v, tau, n, j);
        }
    }
    return rows;
}

/* U^T C C^T U = B B^T, which knows nothing of V; X U^T. */
static void check_bidiagonal(lora_context *context, const double *c, size_t n)
{
    double *work = cases_numbers(n * n);
    double *v = cases_normal(n * n);
    double *x = cases_normal(n * n);
    double *d = cases_numbers(n);
    double *e = cases_numbers(n);
    double *tau = cases_numbers(n);
    long double *wide = calloc(n, sizeof *wide);
    long double *rows;
    long double squares = 0;

    assert_non_null(wide);
    memcpy(work, c, n * n * sizeof *c);
    for (size_t i = 0; i < n * n; i++) {
        squares += cases_wide(c[i]) * cases_wide(c[i]);
    }
    assert_int_equal(
        lora__bidiagonal_create(d, e, v, tau, work, n, context, NULL), LORA_OK);
    assert_true(e[n - 1] == 0);
    rows = turned_columns(c, v, tau, n);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            long double off = 0;

            assert_true(j == i || v[i * n + j] == 0);
            for (size_t p = 0; p < n; p++) {
                off += rows[p * n + i] * rows[p * n + j];
            }
            off -= i == j ? cases_wide(d[i]) * cases_wide(d[i]) +
                                cases_wide(e[i]) * cases_wide(e[i])
                          : 0;
            off -= i == j + 1 ? cases_wide(e[j]) * cases_wide(d[i]) : 0;
            assert_true(fabsl(off) <= LIMIT(n) * squares);
        }
    }
    memcpy(work, x, n * n * sizeof *x);
    free(rows);
    rows = NULL;
    {
        double *spoiled = cases_numbers(n * n);

        memcpy(spoiled, v, n * n * sizeof *v);
        assert_int_equal(
            lora__bidiagonal_turn(work, spoiled, tau, n, context, NULL),
            LORA_OK);
        free(spoiled);
    }
    for (size_t i = 0; i < n; i++) {
        long double norm = 0;

        for (size_t j = 0; j < n; j++) {
            wide[j] = cases_wide(x[i * n + j]);
            norm += wide[j] * wide[j];
        }
        for (size_t j = n; j-- > 0;) {
            reflect(wide, v, tau, n, j);
        }
        for (size_t j = 0; j < n; j++) {
            assert_true(fabsl(wide[j] - cases_wide(work[i * n + j])) <=
                        LIMIT(n) * sqrtl(norm));
        }
    }
    free(work);
    free(v);
    free(x);
    free(d);
    free(e);
    free(tau);
    free(wide);
}

static void test_bidiagonal(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 15, 16, 17, 32, 33, 50, 70};

    (void)state;
    cases_seed = 11;
    for (size_t k = 0; k < 3; k++) {
        lora_context *context = context_without(disabled[k]);

        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            double *c = cases_normal(n * n);

            check_bidiagonal(context, c, n);
            /* Columns and rows that are 0 when their turn comes. */
            for (size_t j = 0; j < n; j++) {
                c[j * n] = 0;
                c[(n / 2) * n + j] = 0;
                c[j * n + n - 1] = c[j * n + n / 2];
            }
            check_bidiagonal(context, c, n);
            memset(c, 0, n * n * sizeof *c);
            check_bidiagonal(context, c, n);
            free(c);
        }
        lora_context_destroy(context);
    }
}

/* The secular equation -------------------------------------------------- */

/* f, its slope and the size of its terms at origin^2 + offset. */
static void secular_at(long double *out,
                       const lora__secular *s,
                       double origin,
                       double offset)
{
    const long double pole = cases_wide(origin);

    out[0] = out[2] = 1;
    out[1] = 0;
    for (size_t k = 0; k < s->count; k++) {
        const long double p = cases_wide(s->poles[k]);
        const long double gap = (p - pole) * (p + pole) - cases_wide(offset);
        const long double t = cases_wide(s->weights[k]) / gap;

        out[0] += t;
        out[1] += t / gap;
        out[2] += fabsl(t);
    }
}

/* Roots lie between their poles, nearer to the one they are told from, and f
 * is 0 there to its rounding and that of the root: two or three roundings a
 * term and as many as there are terms of their sum. */
static void check_secular(const lora__secular *s)
{
    double *offsets = cases_numbers(s->count);
    double *origins = cases_numbers(s->count);

    assert_int_equal(lora__secular_roots(offsets, origins, s), 1);
    for (size_t i = 0; i < s->count; i++) {
        const int is_last = i + 1 == s->count;
        const double gap = is_last ? (double)INFINITY
                                   : (s->poles[i + 1] - s->poles[i]) *
                                         (s->poles[i + 1] + s->poles[i]);
        const double offset = offsets[i];
        long double f[3];

        if (origins[i] == s->poles[i]) {
            assert_true(offset > 0 && offset <= gap / 2);
        } else {
            assert_true(!is_last && origins[i] == s->poles[i + 1]);
            assert_true(offset < 0 && offset >= -gap / 2);
        }
        secular_at(f, s, origins[i], offset);
        assert_true(fabsl(f[0]) <=
                    LIMIT(4 + s->count) *
                        (f[2] + fabsl(cases_wide(offset)) * f[1]));
    }
    free(offsets);
    free(origins);
}

/* Poles from far apart to next to each other, weights from 1 to rounding. */
static void test_secular(void **state)
{
    enum { MOST = 41 };
    static const double spreads[] = {1, 1e-3, 1e-7, 1e-13};
    static const double sizes[] = {1, 1e-6, 1e-14, 1e-30};
    double poles[MOST];
    double weights[MOST];

    (void)state;
    cases_seed = 12;
    for (size_t v = 0; v < 3; v++) {
        lora_context *context = context_without(disabled[v]);
        lora__secular s = {0, poles, weights, NULL};

        s.kernels = lora__kernels_get(lora__context_get(context)->cpu);
        for (size_t i = 0; i < 16 * MOST; i++) {
            s.count = i / 16 + 1;
            poles[0] = 0;
            for (size_t k = 0; k < s.count; k++) {
                const double random = cases_random();

                if (k > 0) {
                    poles[k] = poles[k - 1] + spreads[k % 2 == 0 ? 0 : i % 4] *
                                                  (0.1 + fabs(cases_random()));
                }
                weights[k] = sizes[k % 3 == 0 ? 0 : i / 4 % 4] *
                             (1e-3 + random * random);
            }
            check_secular(&s);
        }
        lora_context_destroy(context);
    }
}

/* Divide and conquer ---------------------------------------------------- */

/* U^T U = I, and U^T B has orthogonal rows of norms sigma: with what they are
 * made of, at most LIMIT of the largest. */
static void check_left(const double *sigma,
                       const double *u_t,
                       const long double *b,
                       size_t n,
                       long double largest)
{
    long double *rows = calloc(n * n + 1, sizeof *rows);

    assert_non_null(rows);
    for (size_t i = 0; i < n; i++) {
        for (size_t p = 0; p < n; p++) {
            for (size_t j = 0; j < n; j++) {
                rows[i * n + j] += cases_wide(u_t[i * n + p]) * b[p * n + j];
            }
        }
    }
    for (size_t i = 0; i < n; i++) {
        const long double a = cases_wide(sigma[i]);

        assert_true(sigma[i] >= 0 && (i == 0 || sigma[i] <= sigma[i - 1]));
        for (size_t j = 0; j <= i && sigma[i] > 0; j++) {
            long double dot = i == j ? -1 : 0;
            long double product = i == j ? -a * a : 0;

            for (size_t p = 0; p < n; p++) {
                dot += cases_wide(u_t[i * n + p]) * cases_wide(u_t[j * n + p]);
                product += rows[i * n + p] * rows[j * n + p];
            }
            assert_true(fabsl(dot) <= LIMIT(n));
            assert_true(fabsl(product) <=
                        LIMIT(n) * largest *
                            (cases_wide(sigma[j]) + LIMIT(n) * largest));
        }
    }
    free(rows);
}

/* expected[n], descending, or NULL: by Jacobi in long double. */
static void check_conquer(lora_context *context,
                          const double *d,
                          const double *e,
                          size_t n,
                          const long double *expected)
{
    double *work[2] = {cases_numbers(n), cases_numbers(n)};
    double *sigma = cases_numbers(n);
    double *u_t = cases_normal(n * n);
    double *spare = cases_normal(n * n);
    long double *b = calloc(n * n, sizeof *b);
    long double *values = calloc(n, sizeof *values);
    double largest = 0;

    assert_true(b != NULL && values != NULL);
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fmax(fabs(d[i]), fabs(e[i])));
    }
    largest = largest > 0 ? largest : 1;
    for (size_t i = 0; i < n; i++) {
        b[i * n + i] = cases_wide(d[i]) / cases_wide(largest);
        if (i + 1 < n) {
            b[i * n + i + 1] = cases_wide(e[i]) / cases_wide(largest);
        }
    }
    if (expected == NULL) {
        cases_svd(values, b, n, n);
    }
    for (size_t i = 0; expected != NULL && i < n; i++) {
        values[i] = expected[i] / cases_wide(largest);
    }
    memcpy(work[0], d, n * sizeof *d);
    memcpy(work[1], e, n * sizeof *e);
    assert_int_equal(
        lora__conquer(sigma, u_t, work[0], work[1], spare, n, context, NULL),
        LORA_OK);
    for (size_t i = 0; i < n; i++) {
        sigma[i] /= largest;
        if (!(fabsl(cases_wide(sigma[i]) - values[i]) <=
              LIMIT(n) * values[0])) {
            fail_msg("%zu: sigma %zu is %g, not %Lg", n, i, sigma[i],
                     values[i]);
        }
    }
    check_left(sigma, u_t, b, n, values[0]);
    free(work[0]);
    free(work[1]);
    free(sigma);
    free(u_t);
    free(spare);
    free(b);
    free(values);
}

/* Ones on both diagonals: sigma = 2 cos(k pi / (2 n + 1)), and the bare
 * elements where one diagonal is 0. */
static void check_closed_forms(lora_context *context, size_t n)
{
    const long double pi = acosl(-1);
    double *d = cases_numbers(n);
    double *e = cases_numbers(n);
    long double *expected = calloc(n, sizeof *expected);

    assert_non_null(expected);
    for (size_t i = 0; i < n; i++) {
        d[i] = 1;
        e[i] = i + 1 < n;
        expected[i] =
            2 * cosl(pi * (long double)(i + 1) / (long double)(2 * n + 1));
    }
    check_conquer(context, d, e, n, expected);
    for (int beside = 0; beside < 2; beside++) {
        const size_t count = n - (size_t)beside;
        double *on = beside ? e : d;

        memset(d, 0, n * sizeof *d);
        memset(e, 0, n * sizeof *e);
        memset(expected, 0, n * sizeof *expected);
        check_conquer(context, d, e, n, expected); /* nothing at all */
        for (size_t i = 0; i < count; i++) {
            on[i] = cases_random();
            on[i] = i % 5 == 1 ? -on[i - 1] : on[i]; /* some alike */
            expected[i] = fabsl(cases_wide(on[i]));
        }
        qsort(expected, count, sizeof *expected, cases_descending);
        check_conquer(context, d, e, n, expected);
    }
    free(d);
    free(e);
    free(expected);
}

/* Elements of one kind or another. */
static double element(size_t kind, size_t i, size_t n)
{
    const double at = (double)i / (double)n;

    switch (kind) {
    case 0:
        return cases_random();
    case 1:
        return cases_random() * pow(10, -20 * at); /* graded */
    case 2:
        return cases_random() * pow(10, -20 * (1 - at));
    case 3:
        return i % 3 == 0 ? 1e-9 * cases_random() : 1; /* near alike */
    case 4:
        return i % 4 == 1 ? 0 : cases_random(); /* falls apart */
    case 5:
        return cases_random() * ldexp(1, (int)(i * 37 % 700) - 700);
    case 6:
        return cases_random() * 0x1p900;
    case 7: /* squares that have lost their digits, between others */
        return cases_random() * (i % 2 == 1 ? 1.3e-161 : 1);
    default:
        return 0x1p-900 * (1 + DBL_EPSILON * (double)(i % 3)); /* alike */
    }
}

static void test_conquer(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 8, 17, 31, 32, 50};

    (void)state;
    cases_seed = 13;
    for (size_t v = 0; v < 3; v++) {
        lora_context *context = context_without(disabled[v]);

        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            double *d = cases_numbers(n);
            double *e = cases_numbers(n);

            for (size_t kind = 0; kind < 9; kind++) {
                for (size_t j = 0; j < n; j++) {
                    d[j] = element(kind, j, n);
                    e[j] = j + 1 < n ? element(kind, n - 1 - j, n) : 0;
                }
                check_conquer(context, d, e, n, NULL);
            }
            check_closed_forms(context, n);
            free(d);
            free(e);
        }
        check_closed_forms(context, 150);
        lora_context_destroy(context);
    }
}

/* All of it ------------------------------------------------------------- */

/* Left vectors of C 2^exponent, and a floor of floor 2^exponent: what is below
 * it is 0. All the rest is checked with the power taken off, which is exact. */
static void check_square(lora_context *context,
                         const double *c,
                         size_t n,
                         double floor,
                         int exponent)
{
    double *work = cases_numbers(n * n);
    double *sigma = cases_numbers(n);
    double *u_t = cases_normal(n * n);
    long double *wide = calloc(n * n, sizeof *wide);
    long double *expected = calloc(n, sizeof *expected);
    long double limit;

    assert_true(wide != NULL && expected != NULL);
    for (size_t i = 0; i < n * n; i++) {
        wide[i] = cases_wide(c[i]);
        work[i] = ldexp(c[i], exponent);
    }
    cases_svd(expected, wide, n, n);
    limit = LIMIT(n) * expected[0];
    assert_int_equal(lora__square_svd(sigma, u_t, work, n,
                                      ldexp(floor, exponent), context, NULL),
                     LORA_OK);
    for (size_t i = 0; i < n; i++) {
        const int is_above = expected[i] > cases_wide(floor) + limit;
        const int is_below = expected[i] < cases_wide(floor) - limit;

        sigma[i] = ldexp(sigma[i], -exponent);
        assert_true(sigma[i] >= floor || (sigma[i] == 0 && !is_above));
        assert_true(!is_below || sigma[i] == 0);
        for (size_t j = 0; sigma[i] == 0 && j < n; j++) {
            assert_true(u_t[i * n + j] == 0);
        }
        if (sigma[i] > 0 &&
            !(fabsl(cases_wide(sigma[i]) - expected[i]) <= limit)) {
            fail_msg("%zu: sigma %zu is %g, not %Lg", n, i, sigma[i],
                     expected[i]);
        }
    }
    check_left(sigma, u_t, wide, n, expected[0]);
    free(work);
    free(sigma);
    free(u_t);
    free(wide);
    free(expected);
}

enum { SQUARE_KINDS = 8 };

/* c[n, n] of one kind or another. */
static void make_square(double *c, size_t n, size_t kind)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            const double random = cases_random();
            const double down = -16 * (double)i / (double)n;
            const double right = -16 * (double)j / (double)n;
            double *at = c + i * n + j;

            switch (kind) {
            case 0:
                *at = random;
                break;
            case 1: /* a third of full rank, but one of one row */
                *at = i < (n + 2) / 3 ? random : c[(i - (n + 2) / 3) * n + j];
                break;
            case 2: /* graded by rows, columns or both */
                *at = random * pow(10, down);
                break;
            case 3:
                *at = random * pow(10, right);
                break;
            case 4:
                *at = random * pow(10, (down + right) / 2);
                break;
            case 5:
                /* Kahan's matrix: neighbouring rows are near parallel, the
                 * smallest singular value is far below the smallest element
                 * of the diagonal. */
                *at = j > i ? 0 : pow(0.436, (double)j) * (i == j ? 1 : -0.9);
                break;
            case 6:
                *at = i == j; /* all values alike */
                break;
            default:
                *at = 0;
            }
        }
    }
}

/* All sizes to 17, as the parts of larger ones are of these. */
static void test_square(void **state)
{
    static const double floors[] = {1e-14, 1e-6, 0.3, 1e3};

    (void)state;
    cases_seed = 14;
    for (size_t v = 0; v < 3; v++) {
        lora_context *context = context_without(disabled[v]);

        for (size_t n = 1; n <= 17; n++) {
            double *c = cases_numbers(n * n);

            for (size_t kind = 0; kind < SQUARE_KINDS; kind++) {
                make_square(c, n, kind);
                for (size_t i = 0; i < 4; i++) {
                    check_square(context, c, n, floors[i], 0);
                }
                check_square(context, c, n, 1e-14, 430); /* 3e129 */
                check_square(context, c, n, 1e-14, -430);
            }
            free(c);
        }
        lora_context_destroy(context);
    }
}

static void test_large_square(void **state)
{
    static const size_t sizes[] = {31, 40, 48, 64, 70};

    (void)state;
    cases_seed = 16;
    for (size_t v = 0; v < 3; v++) {
        lora_context *context = context_without(disabled[v]);

        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const size_t n = sizes[i];
            double *c = cases_numbers(n * n);

            for (size_t kind = 0; kind < SQUARE_KINDS; kind++) {
                make_square(c, n, kind);
                check_square(context, c, n, 1e-11, 0);
            }
            free(c);
        }
        lora_context_destroy(context);
    }
}

/* What is not finite, or too large to be squared, is not passed off as a
 * result, wherever it is. */
static void check_not_finite(lora_context *context, size_t n, size_t at)
{
    static const double bad[] = {(double)NAN, (double)INFINITY,
                                 -(double)INFINITY, 1e300};
    double *c = cases_numbers(n * n);
    double *u_t = cases_numbers(n * n);
    double *sigma = cases_numbers(n);

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const uint64_t live = lora_context_memory_live(context);
        lora_error error;

        lora_error_init(&error, sizeof error);
        for (size_t j = 0; j < n * n; j++) {
            c[j] = at % 2 == 0 ? cases_random() : 0;
        }
        c[at] = bad[i];
        assert_int_equal(
            lora__square_svd(sigma, u_t, c, n, 1e-15, context, &error),
            LORA_ERROR_CONVERGENCE);
        assert_int_equal(error.status, LORA_ERROR_CONVERGENCE);
        assert_int_equal(lora_context_memory_live(context), live);
    }
    free(c);
    free(u_t);
    free(sigma);
}

static void test_not_finite(void **state)
{
    (void)state;
    cases_seed = 15;
    for (size_t v = 0; v < 3; v++) {
        lora_context *context = context_without(disabled[v]);

        for (size_t n = 1; n <= 24; n += n < 16 ? 1 : 8) {
            for (size_t at = 0; at < n * n; at++) {
                check_not_finite(context, n, at);
            }
        }
        lora_context_destroy(context);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bidiagonal),   cmocka_unit_test(test_secular),
        cmocka_unit_test(test_conquer),      cmocka_unit_test(test_square),
        cmocka_unit_test(test_large_square), cmocka_unit_test(test_not_finite),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
