/* Cayley's transform and its series: the equation it solves and what makes a
 * rotation of it, in long double; closed forms of two dimensions; the same bits
 * by every kernel.
 */
#include "dense_cases.h"

#include "linalg/cayley.h"

#include <float.h>

/* A skew matrix with elements of about `scale`, which lose one another in no
 * order of rows. */
static double *cayley_skew(size_t n, double scale)
{
    double *s = dense_unset(n * n);

    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            double a = dense_element(i, j) - dense_element(j, i);
            /* Rows and columns of many sizes: what is largest comes late. */
            double spread = (double)((i + 1) * (j + 1)) / (double)(n * n);
            s[i * n + j] = scale * spread * a;
        }
    }
    return s;
}

static double cayley_norm(const double *x, size_t count)
{
    double sum = 0.0;

    for (size_t i = 0; i < count; i++) {
        sum += x[i] * x[i];
    }
    return sqrt(sum);
}

/* |(I - S) T - 2 S| and |T + T^T + T^T T|, which is |R^T R - I|. */
static void
cayley_off(long double off[2], const double *t, const double *s, size_t n)
{
    long double sums[2] = {0, 0};

    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            long double solved = (long double)t[i * n + j] - 2 * s[i * n + j];
            long double turned = (long double)t[i * n + j] + t[j * n + i];
            for (size_t k = 0; k < n; k++) {
                solved -= (long double)s[i * n + k] * t[k * n + j];
                turned += (long double)t[k * n + i] * t[k * n + j];
            }
            sums[0] += solved * solved;
            sums[1] += turned * turned;
        }
    }
    off[0] = sqrtl(sums[0]);
    off[1] = sqrtl(sums[1]);
}

/* Elimination leaves a residual of 3 n g u |A| |T| at most, u = eps / 2, with g
 * the growth of the largest element, which is below 8 where rows are chosen
 * well, as they are here. R is off by that times |(I - S)^-1| <= 1, and R^T R
 * by |R| <= sqrt(n) times it twice. */
static void test_solved(void **state)
{
    static const size_t sizes[] = {1, 2, 3, 31, 32, 33, 65, 150, 270};
    static const double scales[] = {0.0, 1e-9, 0.1, 1.0, 30.0, 1e8};
    lora_context *context = dense_context(NULL, 0);
    lora_context *reference = dense_context(NULL, 1);

    (void)state;
    for (size_t c = 0; c < LORA__COUNT(sizes) * LORA__COUNT(scales); c++) {
        size_t n = sizes[c / LORA__COUNT(scales)];
        double *s = cayley_skew(n, scales[c % LORA__COUNT(scales)]);
        double *out = dense_unset(n * n);
        double *other = dense_unset(n * n);
        double *work = dense_unset(2 * n * n);
        long double off[2];
        double bound;
        assert_int_equal(lora__cayley(out, work, s, n, context, NULL), LORA_OK);
        cayley_off(off, out, s, n);
        bound = 12 * (double)n * DBL_EPSILON *
                (sqrt((double)n) + cayley_norm(s, n * n)) *
                cayley_norm(out, n * n);
        assert_true(off[0] <= bound);
        assert_true(off[1] <= 2 * sqrt((double)n) * bound);
        assert_int_equal(lora__cayley(other, work, s, n, reference, NULL),
                         LORA_OK);
        assert_memory_equal(out, other, n * n * sizeof *out);
        free(work);
        free(other);
        free(out);
        free(s);
    }
    lora_context_destroy(context);
    lora_context_destroy(reference);
}

/* Q = [0 q; -q 0] gives R - I = [-q q, q; -q, -q q] 2 / (1 + q q), each element
 * to a few roundings of itself, however small or large. */
static void test_two(void **state)
{
    static const double turns[] = {1e-150, 1e-9, 0.5, 1.0, 3.0, 1e9, 1e100};
    lora_context *context = dense_context(NULL, 0);

    (void)state;
    for (size_t i = 0; i < LORA__COUNT(turns); i++) {
        double q = turns[i];
        double s[4] = {0.0, q, -q, 0.0};
        double scale = 2.0 / (1.0 + q * q);
        double want[4] = {-q * q * scale, q * scale, -q * scale,
                          -q * q * scale};
        double out[4];
        double work[8];
        assert_int_equal(lora__cayley(out, work, s, 2, context, NULL), LORA_OK);
        for (size_t j = 0; j < 4; j++) {
            assert_true(fabs(out[j] - want[j]) <=
                        8 * DBL_EPSILON * fabs(want[j]));
        }
    }
    lora_context_destroy(context);
}

/* Powers, added up in long double from the first on: those of the library have
 * n roundings each, of elements that are not above |S|^p. */
static void test_series(void **state)
{
    static const size_t lasts[] = {1, 2, 3, 4, 6, 9};
    static const size_t sizes[] = {1, 2, 7, 40};
    lora_context *context = dense_context(NULL, 0);

    (void)state;
    for (size_t c = 0; c < LORA__COUNT(sizes) * LORA__COUNT(lasts); c++) {
        size_t n = sizes[c / LORA__COUNT(lasts)];
        size_t last = lasts[c % LORA__COUNT(lasts)];
        double end = c % 2 == 0 ? 2.0 : 1.0;
        double *s = cayley_skew(n, 0.1);
        double *out = dense_unset(n * n);
        double *work = dense_unset(2 * n * n);
        long double *power = calloc(n * n, sizeof *power);
        long double *next = calloc(n * n, sizeof *next);
        long double *sum = calloc(n * n, sizeof *sum);
        long double norm = cayley_norm(s, n * n);
        long double bound = 0;
        assert_true(power != NULL && next != NULL && sum != NULL);
        for (size_t i = 0; i < n * n; i++) {
            power[i] = s[i];
        }
        for (size_t p = 1; p <= last; p++) {
            long double by = p == last ? end : 2;
            bound += (long double)(p * n + last) * DBL_EPSILON * by *
                     powl(norm, (long double)p);
            for (size_t i = 0; i < n * n; i++) {
                sum[i] += by * power[i];
                next[i] = 0;
                for (size_t k = 0; k < n; k++) {
                    next[i] += power[i / n * n + k] * s[k * n + i % n];
                }
            }
            memcpy(power, next, n * n * sizeof *power);
        }
        assert_int_equal(
            lora__cayley_series(out, work, s, n, last, end, context, NULL),
            LORA_OK);
        for (size_t i = 0; i < n * n; i++) {
            assert_true(fabsl(out[i] - sum[i]) <= bound);
        }
        free(sum);
        free(next);
        free(power);
        free(work);
        free(out);
        free(s);
    }
    lora_context_destroy(context);
}

static void test_cancelled(void **state)
{
    lora_context_options options;
    lora_cancel_token *token;
    lora_context *context;
    double s[4] = {0.0, 1.0, -1.0, 0.0};
    double out[4];
    double work[8];

    (void)state;
    assert_int_equal(lora_cancel_token_create(&token, NULL), LORA_OK);
    lora_context_options_init(&options, sizeof options);
    options.cancel = token;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    lora_cancel_token_cancel(token);
    assert_int_equal(lora__cayley(out, work, s, 2, context, NULL),
                     LORA_ERROR_CANCELLED);
    assert_int_equal(
        lora__cayley_series(out, work, s, 2, 4, 1.0, context, NULL),
        LORA_ERROR_CANCELLED);
    lora_context_destroy(context);
    lora_cancel_token_destroy(token);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_solved),
        cmocka_unit_test(test_two),
        cmocka_unit_test(test_series),
        cmocka_unit_test(test_cancelled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
