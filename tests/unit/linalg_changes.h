/* What is done to random factors before their SVD is taken: ranks that are
 * lost, scales that differ, values that repeat or cancel. Used by
 * linalg_cases.h.
 */
#ifndef LINALG_CHANGES_H
#define LINALG_CHANGES_H

#include "linalg_numbers.h"

#include "linalg/factored.h"

/* Orthonormal rows q[count, length], by Gram-Schmidt done twice. */
static double *cases_orthonormal(size_t count, size_t length)
{
    double *q = cases_normal(count * length);

    for (size_t i = 0; i < count; i++) {
        for (int pass = 0; pass < 2; pass++) {
            long double norm = 0;

            for (size_t j = 0; j < i; j++) {
                long double dot = 0;

                for (size_t p = 0; p < length; p++) {
                    dot += cases_wide(q[i * length + p]) *
                           cases_wide(q[j * length + p]);
                }
                for (size_t p = 0; p < length; p++) {
                    q[i * length + p] -= (double)dot * q[j * length + p];
                }
            }
            for (size_t p = 0; p < length; p++) {
                norm += cases_wide(q[i * length + p]) *
                        cases_wide(q[i * length + p]);
            }
            for (size_t p = 0; p < length; p++) {
                q[i * length + p] /= (double)sqrtl(norm);
            }
        }
    }
    return q;
}

/* Changes --------------------------------------------------------------- */

/* Alters up_t[rank, rows] and down[rank, cols] in place. */
typedef void (*cases_change_fn)(double *up_t, double *down, lora__svd_input in);

static void cases_scale(double *x, size_t count, double by)
{
    for (size_t i = 0; i < count; i++) {
        x[i] *= by;
    }
}

static void cases_repeat_values(double *up_t, double *down, lora__svd_input in)
{
    double *u = cases_orthonormal(in.rank, in.rows);
    double *v = cases_orthonormal(in.rank, in.cols);

    memcpy(up_t, u, in.rank * in.rows * sizeof *u);
    memcpy(down, v, in.rank * in.cols * sizeof *v);
    for (size_t i = 0; i < in.rank; i++) {
        cases_scale(down + i * in.cols, in.cols, i < in.rank / 2 ? 3 : 1);
    }
    free(u);
    free(v);
}

/* up of half the rank. */
static void cases_deficient_up(double *up_t, double *down, lora__svd_input in)
{
    const size_t half = in.rank / 2;

    (void)down;
    for (size_t i = half; i < in.rank; i++) {
        for (size_t j = 0; j < in.rows; j++) {
            up_t[i * in.rows + j] = 2 * up_t[(i - half) * in.rows + j] -
                                    up_t[(i - half) / 2 * in.rows + j];
        }
    }
}

static void cases_deficient_down(double *up_t, double *down, lora__svd_input in)
{
    (void)up_t;
    for (size_t i = 1; i < in.rank; i += 2) {
        memcpy(down + i * in.cols, down, in.cols * sizeof *down);
    }
}

static void cases_deficient_both(double *up_t, double *down, lora__svd_input in)
{
    cases_deficient_up(up_t, down, in);
    cases_deficient_down(up_t, down, in);
}

static void cases_zero_up(double *up_t, double *down, lora__svd_input in)
{
    (void)down;
    memset(up_t, 0, in.rank * in.rows * sizeof *up_t);
}

static void cases_zero_rows(double *up_t, double *down, lora__svd_input in)
{
    memset(up_t, 0, in.rows * sizeof *up_t);
    for (size_t i = 3; i < in.rank; i += 4) {
        memset(down + i * in.cols, 0, in.cols * sizeof *down);
    }
}

/* Rows of the product that are 0, as of a masked layer. */
static void cases_zero_columns(double *up_t, double *down, lora__svd_input in)
{
    for (size_t i = 0; i < in.rank; i++) {
        memset(up_t + i * in.rows, 0, in.rows / 2 * sizeof *up_t);
        memset(down + i * in.cols, 0, in.cols / 3 * sizeof *down);
    }
}

static void cases_small(double *up_t, double *down, lora__svd_input in)
{
    cases_scale(up_t, in.rank * in.rows, 1e-20);
    cases_scale(down, in.rank * in.cols, 1e-20);
}

static void cases_large(double *up_t, double *down, lora__svd_input in)
{
    cases_scale(up_t, in.rank * in.rows, 1e20);
    cases_scale(down, in.rank * in.cols, 1e20);
}

static void cases_smallest(double *up_t, double *down, lora__svd_input in)
{
    cases_scale(up_t, in.rank * in.rows, 1e-150);
    cases_scale(down, in.rank * in.cols, 1e-145);
}

static void cases_largest(double *up_t, double *down, lora__svd_input in)
{
    cases_scale(up_t, in.rank * in.rows, 1e150);
    cases_scale(down, in.rank * in.cols, 1e150);
}

static void cases_opposite(double *up_t, double *down, lora__svd_input in)
{
    cases_scale(up_t, in.rank * in.rows, 1e-150);
    cases_scale(down, in.rank * in.cols, 1e150);
}

/* Scales that differ by component and cancel in the product. */
static void cases_unequal(double *up_t, double *down, lora__svd_input in)
{
    for (size_t i = 0; i < in.rank; i++) {
        const double by = ldexp(1, (int)(i % 5) * 240 - 480);

        cases_scale(up_t + i * in.rows, in.rows, by);
        cases_scale(down + i * in.cols, in.cols, 1 / by);
    }
}

/* Component j of size 10^-j: far below rounding at the end. */
static void cases_graded(double *up_t, double *down, lora__svd_input in)
{
    (void)down;
    for (size_t i = 0; i < in.rank; i++) {
        cases_scale(up_t + i * in.rows, in.rows, pow(10, -(double)i));
    }
}

/* The same without small components: rows of up are mixed. */
static void cases_graded_mixed(double *up_t, double *down, lora__svd_input in)
{
    double *mixed = cases_numbers(in.rank * in.rows);

    cases_graded(up_t, down, in);
    for (size_t i = 0; i < in.rank; i++) {
        for (size_t p = 0; p < in.rank; p++) {
            const double by = cases_random();

            for (size_t j = 0; j < in.rows; j++) {
                mixed[i * in.rows + j] += by * up_t[p * in.rows + j];
            }
        }
    }
    memcpy(up_t, mixed, in.rank * in.rows * sizeof *up_t);
    free(mixed);
}

/* Both ill-conditioned, of condition 10^e, and the product is small:
 * up G^-1 times G down with G = diag within random rotations. */
static void
cases_cancel(double *up_t, double *down, lora__svd_input in, double e)
{
    const size_t n = in.rank;
    double *a = cases_orthonormal(n, n);
    double *u = cases_numbers(n * in.rows);
    double *d = cases_numbers(n * in.cols);

    for (size_t i = 0; i < n; i++) {
        for (size_t p = 0; p < n; p++) {
            const double by = pow(10, e * (double)p / (double)(n - 1));

            for (size_t j = 0; j < in.rows; j++) {
                u[i * in.rows + j] += a[p * n + i] * by * up_t[p * in.rows + j];
            }
            for (size_t j = 0; j < in.cols; j++) {
                d[i * in.cols + j] += a[p * n + i] / by * down[p * in.cols + j];
            }
        }
    }
    memcpy(up_t, u, n * in.rows * sizeof *u);
    memcpy(down, d, n * in.cols * sizeof *d);
    free(a);
    free(u);
    free(d);
}

static void cases_cancel_some(double *up_t, double *down, lora__svd_input in)
{
    cases_cancel(up_t, down, in, 2);
}

static void cases_cancel_much(double *up_t, double *down, lora__svd_input in)
{
    cases_cancel(up_t, down, in, 6);
}

/* A product of 1e-6 out of two components of 1. */
static void cases_difference(double *up_t, double *down, lora__svd_input in)
{
    for (size_t i = 0; i + 1 < in.rank; i += 2) {
        for (size_t j = 0; j < in.rows; j++) {
            up_t[(i + 1) * in.rows + j] = -up_t[i * in.rows + j];
        }
        for (size_t j = 0; j < in.cols; j++) {
            down[(i + 1) * in.cols + j] =
                down[i * in.cols + j] + 1e-6 * cases_random();
        }
    }
}

/* Both of condition 10^4 and growing row by row, past the point where Cholesky
 * gives way, but not where it breaks down. */
static void cases_middling(double *up_t, double *down, lora__svd_input in)
{
    for (size_t i = 1; i < in.rank; i++) {
        const double by = pow(10, -4 * (double)i / (double)in.rank);

        for (size_t j = 0; j < in.rows; j++) {
            up_t[i * in.rows + j] = up_t[j] + by * up_t[i * in.rows + j];
        }
        for (size_t j = 0; j < in.cols; j++) {
            down[i * in.cols + j] = down[j] + by * down[i * in.cols + j];
        }
    }
}

#endif
