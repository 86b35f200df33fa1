/* Operations on vectors, the reference.
 *
 * axpy says fma() because it means it: one rounding an element, on every
 * machine. Without the instruction the C library's is correct but slow.
 */
#include "kernel/variants.h"

#include <math.h>
#include <string.h>

LORA_PRIVATE void
lora__ref_axpy_f32(float *out, const float *a, float b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = fmaf(b, a[i], out[i]);
    }
}

LORA_PRIVATE void
lora__ref_axpy_f64(double *out, const double *a, double b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = fma(b, a[i], out[i]);
    }
}

/* In strips of rows that fill a cache line of the output. */
LORA_PRIVATE void lora__ref_turn_f32(float *out,
                                     size_t out_step,
                                     const float *in,
                                     size_t in_step,
                                     size_t rows,
                                     size_t cols)
{
    enum { STRIP = 16 };

    for (size_t r0 = 0; r0 < rows; r0 += STRIP) {
        const size_t end = rows - r0 < STRIP ? rows : r0 + STRIP;

        for (size_t c = 0; c < cols; c++) {
            for (size_t r = r0; r < end; r++) {
                out[c * out_step + r] = in[r * in_step + c];
            }
        }
    }
}

LORA_PRIVATE void lora__ref_scale_f32(float *out, float b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] *= b;
    }
}

LORA_PRIVATE void lora__ref_scale_f64(double *out, double b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] *= b;
    }
}

/* Four sums side by side, as one would wait for itself. */
LORA_PRIVATE double
lora__ref_dot_f64(const double *a, const double *b, size_t count)
{
    double s0 = 0;
    double s1 = 0;
    double s2 = 0;
    double s3 = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    for (; i < count; i++) {
        s0 += a[i] * b[i];
    }
    return (s0 + s1) + (s2 + s3);
}

LORA_PRIVATE void lora__ref_gemv_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    for (size_t i = 0; i < m; i++) {
        y[i] = lora__ref_dot_f64(a + i * lda, x, n);
    }
}

/* Four rows at a time, as the sums are read and written with each. */
LORA_PRIVATE void lora__ref_gemv_t_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    size_t i = 0;

    for (; i + 4 <= m; i += 4, a += 4 * lda) {
        for (size_t j = 0; j < n; j++) {
            y[j] += (x[i] * a[j] + x[i + 1] * a[j + lda]) +
                    (x[i + 2] * a[j + 2 * lda] + x[i + 3] * a[j + 3 * lda]);
        }
    }
    for (; i < m; i++, a += lda) {
        for (size_t j = 0; j < n; j++) {
            y[j] += x[i] * a[j];
        }
    }
}

LORA_PRIVATE void lora__ref_divide_f64(double *out,
                                       const double *a,
                                       const double *b,
                                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = a[i] / b[i];
    }
}

LORA_PRIVATE void lora__ref_poles_f64(double *sums,
                                      const double *weights,
                                      const double *poles,
                                      const double *origins,
                                      const double *offsets,
                                      size_t count)
{
    memset(sums, 0, 16 * sizeof *sums);
    for (size_t j = 0; j < count; j++) {
        for (size_t i = 0; i < 4; i++) {
            const double pole = poles[j];
            const double inverse =
                1 / ((pole - origins[i]) * (pole + origins[i]) - offsets[i]);
            const double t = weights[j] * inverse;

            sums[i] += t;
            sums[4 + i] += fabs(t);
            sums[8 + i] += t * inverse;
            sums[12 + i] += t * inverse * inverse;
        }
    }
}

LORA_PRIVATE void
lora__ref_rotate_f64(double *x, double *y, double c, double s, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const double x_i = x[i];
        const double y_i = y[i];

        x[i] = c * x_i - s * y_i;
        y[i] = s * x_i + c * y_i;
    }
}
