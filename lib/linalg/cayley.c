/* Cayley's transform of a skew matrix.
 *
 * Every element is one accumulator with its terms in one order, however the
 * work is cut, and the loops are those of axpy, which has the same bits in all
 * variants.
 */
#include "linalg/cayley.h"

#include "kernel/kernel.h"

#include <math.h>
#include <string.h>

/* So many rows are taken from all others at a time, and so many columns are
 * solved for: what is read again and again stays in the cache. */
#define CAYLEY_PANEL 32
#define CAYLEY_STRIP 256

/* a[n, 2 n]: the matrix, and what it is solved for. */
typedef struct cayley_system {
    double *a;
    size_t n;
    size_t step; /* 2 n */
    const lora__kernels *kernels;
} cayley_system;

/* Let the row come first that has the largest number in a column, of those that
 * are left. */
static void cayley_choose(const cayley_system *s, size_t column)
{
    double *row = s->a + column * s->step;
    double *best = row;

    for (size_t i = column + 1; i < s->n; i++) {
        double *other = s->a + i * s->step;
        best = fabs(other[column]) > fabs(best[column]) ? other : best;
    }
    for (size_t j = 0; best != row && j < s->step; j++) {
        double kept = row[j];
        row[j] = best[j];
        best[j] = kept;
    }
}

/* Eliminate columns [begin, end), in these columns alone; what a row is to be
 * multiplied by stays where the zero would be. */
static void cayley_panel(const cayley_system *s, size_t begin, size_t end)
{
    for (size_t k = begin; k < end; k++) {
        const double *row = s->a + k * s->step;

        cayley_choose(s, k);
        for (size_t i = k + 1; i < s->n; i++) {
            double *other = s->a + i * s->step;
            other[k] /= row[k];
            s->kernels->axpy_f64(other + k + 1, row + k + 1, -other[k],
                                 end - k - 1);
        }
    }
}

/* The same in the columns from `end` on. */
static void cayley_follow(const cayley_system *s, size_t begin, size_t end)
{
    for (size_t i = begin + 1; i < s->n; i++) {
        double *row = s->a + i * s->step;
        size_t last = i < end ? i : end;

        for (size_t k = begin; k < last; k++) {
            s->kernels->axpy_f64(row + end, s->a + k * s->step + end, -row[k],
                                 s->step - end);
        }
    }
}

/* Some columns of the solution, last row first. */
static void cayley_solve(const cayley_system *s, size_t begin, size_t count)
{
    for (size_t k = s->n; k-- > 0;) {
        double *row = s->a + k * s->step;

        for (size_t j = k + 1; j < s->n; j++) {
            s->kernels->axpy_f64(row + begin, s->a + j * s->step + begin,
                                 -row[j], count);
        }
        s->kernels->scale_f64(row + begin, 1.0 / row[k], count);
    }
}

LORA_PRIVATE lora_status lora__cayley(double *out,
                                      double *work,
                                      const double *skew,
                                      size_t n,
                                      lora_context *context,
                                      lora_error *error)
{
    const cayley_system s = {
        work, n, 2 * n, lora__kernels_get(lora__context_get(context)->cpu)};

    for (size_t i = 0; i < n; i++) {
        double *row = work + i * s.step;
        for (size_t j = 0; j < n; j++) {
            row[j] = (i == j ? 1.0 : 0.0) - skew[i * n + j];
            row[n + j] = 2.0 * skew[i * n + j];
        }
    }
    for (size_t k = 0; k < n; k += CAYLEY_PANEL) {
        size_t end = n - k < CAYLEY_PANEL ? n : k + CAYLEY_PANEL;
        TRY(lora__progress(context, NULL, 0, 0, error));
        cayley_panel(&s, k, end);
        cayley_follow(&s, k, end);
    }
    for (size_t j = 0; j < n; j += CAYLEY_STRIP) {
        TRY(lora__progress(context, NULL, 0, 0, error));
        cayley_solve(&s, n + j, n - j < CAYLEY_STRIP ? n - j : CAYLEY_STRIP);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(out + i * n, work + i * s.step + n, n * sizeof *out);
    }
    return LORA_OK;
}

/* out[n, n] = x y */
static void cayley_multiply(double *out,
                            const double *x,
                            const double *y,
                            size_t n,
                            const lora__kernels *kernels)
{
    memset(out, 0, n * n * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n; k++) {
            kernels->axpy_f64(out + i * n, y + k * n, x[i * n + k], n);
        }
    }
}

LORA_PRIVATE lora_status lora__cayley_series(double *out,
                                             double *work,
                                             const double *skew,
                                             size_t n,
                                             size_t last,
                                             double end,
                                             lora_context *context,
                                             lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    double *power = work;
    double *next = work + n * n;

    memset(out, 0, n * n * sizeof *out);
    memcpy(power, skew, n * n * sizeof *power);
    for (size_t p = 1;; p++) {
        double *kept = power;

        kernels->axpy_f64(out, power, p < last ? 2.0 : end, n * n);
        if (p >= last) {
            return LORA_OK;
        }
        TRY(lora__progress(context, NULL, 0, 0, error));
        cayley_multiply(next, power, skew, n, kernels);
        power = next;
        next = kept;
    }
}
