/* Random numbers for tests of the SVD, and the reference for its values:
 * one-sided Jacobi in long double, which shares nothing with the library. Used
 * by linalg_changes.h.
 */
#ifndef LINALG_NUMBERS_H
#define LINALG_NUMBERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#define CASES_EPSILON ((long double)DBL_EPSILON)

/* Numbers --------------------------------------------------------------- */

static uint64_t cases_seed;

static uint64_t cases_bits(void)
{
    uint64_t x = cases_seed += 0x9E3779B97F4A7C15u;

    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Near normal: the sum of four uniform numbers. */
static double cases_random(void)
{
    double sum = 0;

    for (int i = 0; i < 4; i++) {
        sum += (double)(cases_bits() >> 11) * 0x1p-53 - 0.5;
    }
    return sum * 1.7320508075688772;
}

static double *cases_numbers(size_t count)
{
    double *out = calloc(count + 1, sizeof *out);

    assert_non_null(out);
    return out;
}

static double *cases_normal(size_t count)
{
    double *out = cases_numbers(count);

    for (size_t i = 0; i < count; i++) {
        out[i] = cases_random();
    }
    return out;
}

/* Said aloud, as compilers warn of it. */
static long double cases_wide(double x)
{
    return (long double)x;
}

/* The reference --------------------------------------------------------- */

static int cases_descending(const void *a, const void *b)
{
    const long double x = *(const long double *)a;
    const long double y = *(const long double *)b;

    return (x < y) - (x > y);
}

/* sigma[min(rows, cols)] of m, which is left alone. */
static void
cases_svd(long double *sigma, const long double *m, size_t rows, size_t cols)
{
    const size_t s = rows < cols ? rows : cols;
    const size_t l = rows < cols ? cols : rows;
    long double *w = calloc(s * l, sizeof *w);
    int busy = 1;

    assert_non_null(w);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            w[rows < cols ? i * l + j : j * l + i] = m[i * cols + j];
        }
    }
    for (int sweep = 0; busy && sweep < 100; sweep++) {
        busy = 0;
        for (size_t i = 0; i + 1 < s; i++) {
            for (size_t j = i + 1; j < s; j++) {
                long double a = 0;
                long double b = 0;
                long double g = 0;
                long double angle;

                for (size_t p = 0; p < l; p++) {
                    a += w[i * l + p] * w[i * l + p];
                    b += w[j * l + p] * w[j * l + p];
                    g += w[i * l + p] * w[j * l + p];
                }
                if (fabsl(g) <= 1e-17L * sqrtl(a) * sqrtl(b) ||
                    sqrtl(a) < 1e-60L || sqrtl(b) < 1e-60L) {
                    continue;
                }
                busy = 1;
                angle = 0.5L * atan2l(2 * g, a - b);
                a = cosl(angle);
                b = sinl(angle);
                for (size_t p = 0; p < l; p++) {
                    const long double x = w[i * l + p];
                    const long double y = w[j * l + p];

                    w[i * l + p] = a * x + b * y;
                    w[j * l + p] = a * y - b * x;
                }
            }
        }
    }
    assert_false(busy);
    for (size_t i = 0; i < s; i++) {
        long double sum = 0;

        for (size_t p = 0; p < l; p++) {
            sum += w[i * l + p] * w[i * l + p];
        }
        sigma[i] = sqrtl(sum);
    }
    qsort(sigma, s, sizeof *sigma, cases_descending);
    free(w);
}

#endif
