/* Operations on vectors with NEON. */
#include "kernel/tiles.h"
#include "kernel/variants.h"

#if LORA__NEON

#include <arm_neon.h>
#include <math.h>

LORA_PRIVATE void
lora__neon_axpy_f32(float *out, const float *a, float b, size_t count)
{
    const float32x4_t factor = vdupq_n_f32(b);
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        vst1q_f32(out + i,
                  vfmaq_f32(vld1q_f32(out + i), factor, vld1q_f32(a + i)));
    }
    for (; i < count; i++) {
        out[i] = fmaf(b, a[i], out[i]);
    }
}

LORA_PRIVATE void
lora__neon_axpy_f64(double *out, const double *a, double b, size_t count)
{
    const float64x2_t factor = vdupq_n_f64(b);
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        vst1q_f64(out + i,
                  vfmaq_f64(vld1q_f64(out + i), factor, vld1q_f64(a + i)));
    }
    for (; i < count; i++) {
        out[i] = fma(b, a[i], out[i]);
    }
}

static void neon_turn_4(
    float *out, size_t out_step, const float *in, size_t in_step, size_t cols)
{
    size_t c = 0;

    for (; c + 4 <= cols; c += 4) {
        const float32x4x2_t r01 =
            vtrnq_f32(vld1q_f32(in + c), vld1q_f32(in + in_step + c));
        const float32x4x2_t r23 = vtrnq_f32(vld1q_f32(in + 2 * in_step + c),
                                            vld1q_f32(in + 3 * in_step + c));
        float *to = out + c * out_step;

        for (size_t i = 0; i < 2; i++, to += out_step) {
            vst1q_f32(to, vcombine_f32(vget_low_f32(r01.val[i]),
                                       vget_low_f32(r23.val[i])));
            vst1q_f32(to + 2 * out_step,
                      vcombine_f32(vget_high_f32(r01.val[i]),
                                   vget_high_f32(r23.val[i])));
        }
    }
    for (; c < cols; c++) {
        for (size_t r = 0; r < 4; r++) {
            out[c * out_step + r] = in[r * in_step + c];
        }
    }
}

LORA_PRIVATE void lora__neon_turn_f32(float *out,
                                      size_t out_step,
                                      const float *in,
                                      size_t in_step,
                                      size_t rows,
                                      size_t cols)
{
    lora__tiles_turn(neon_turn_4, out, out_step, in, in_step, rows, cols);
}

LORA_PRIVATE void lora__neon_scale_f32(float *out, float b, size_t count)
{
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        vst1q_f32(out + i, vmulq_n_f32(vld1q_f32(out + i), b));
    }
    for (; i < count; i++) {
        out[i] *= b;
    }
}

LORA_PRIVATE void lora__neon_scale_f64(double *out, double b, size_t count)
{
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        vst1q_f64(out + i, vmulq_n_f64(vld1q_f64(out + i), b));
    }
    for (; i < count; i++) {
        out[i] *= b;
    }
}

/* Eight sums side by side, then pairwise, then the rest one by one. */
LORA_PRIVATE double
lora__neon_dot_f64(const double *a, const double *b, size_t count)
{
    float64x2_t s0 = vdupq_n_f64(0);
    float64x2_t s1 = s0;
    float64x2_t s2 = s0;
    float64x2_t s3 = s0;
    double sum;
    size_t i = 0;

    for (; i + 8 <= count; i += 8) {
        s0 = vfmaq_f64(s0, vld1q_f64(a + i), vld1q_f64(b + i));
        s1 = vfmaq_f64(s1, vld1q_f64(a + i + 2), vld1q_f64(b + i + 2));
        s2 = vfmaq_f64(s2, vld1q_f64(a + i + 4), vld1q_f64(b + i + 4));
        s3 = vfmaq_f64(s3, vld1q_f64(a + i + 6), vld1q_f64(b + i + 6));
    }
    sum = vaddvq_f64(vaddq_f64(vaddq_f64(s0, s1), vaddq_f64(s2, s3)));
    for (; i < count; i++) {
        sum = fma(a[i], b[i], sum);
    }
    return sum;
}

LORA_PRIVATE void lora__neon_gemv_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    for (size_t i = 0; i < m; i++) {
        y[i] = lora__neon_dot_f64(a + i * lda, x, n);
    }
}

/* Four rows at a time, as the sums are read and written with each. */
LORA_PRIVATE void lora__neon_gemv_t_f64(
    double *y, const double *a, size_t lda, const double *x, size_t m, size_t n)
{
    size_t i = 0;

    for (; i + 4 <= m; i += 4, a += 4 * lda) {
        const double *a1 = a + lda;
        const double *a2 = a1 + lda;
        const double *a3 = a2 + lda;
        size_t j = 0;

        for (; j + 2 <= n; j += 2) {
            float64x2_t sum = vld1q_f64(y + j);
            float64x2_t other = vmulq_n_f64(vld1q_f64(a1 + j), x[i + 1]);

            sum = vfmaq_n_f64(sum, vld1q_f64(a + j), x[i]);
            other = vfmaq_n_f64(other, vld1q_f64(a3 + j), x[i + 3]);
            sum = vfmaq_n_f64(sum, vld1q_f64(a2 + j), x[i + 2]);
            vst1q_f64(y + j, vaddq_f64(sum, other));
        }
        for (; j < n; j++) {
            const double other = fma(x[i + 3], a3[j], x[i + 1] * a1[j]);

            y[j] = fma(x[i + 2], a2[j], fma(x[i], a[j], y[j])) + other;
        }
    }
    for (; i < m; i++, a += lda) {
        lora__neon_axpy_f64(y, a, x[i], n);
    }
}

LORA_PRIVATE void lora__neon_divide_f64(double *out,
                                        const double *a,
                                        const double *b,
                                        size_t count)
{
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        vst1q_f64(out + i, vdivq_f64(vld1q_f64(a + i), vld1q_f64(b + i)));
    }
    for (; i < count; i++) {
        out[i] = a[i] / b[i];
    }
}

LORA_PRIVATE void lora__neon_poles_f64(double *sums,
                                       const double *weights,
                                       const double *poles,
                                       const double *origins,
                                       const double *offsets,
                                       size_t count)
{
    const float64x2_t one = vdupq_n_f64(1);

    for (size_t i = 0; i < 4; i += 2) {
        const float64x2_t origin = vld1q_f64(origins + i);
        const float64x2_t offset = vld1q_f64(offsets + i);
        float64x2_t s = vdupq_n_f64(0);
        float64x2_t s_abs = s;
        float64x2_t s_2 = s;
        float64x2_t s_3 = s;

        for (size_t j = 0; j < count; j++) {
            const float64x2_t pole = vdupq_n_f64(poles[j]);
            const float64x2_t d = vsubq_f64(
                vmulq_f64(vsubq_f64(pole, origin), vaddq_f64(pole, origin)),
                offset);
            const float64x2_t inverse = vdivq_f64(one, d);
            const float64x2_t t = vmulq_n_f64(inverse, weights[j]);
            const float64x2_t t_2 = vmulq_f64(t, inverse);

            s = vaddq_f64(s, t);
            s_abs = vaddq_f64(s_abs, vabsq_f64(t));
            s_2 = vaddq_f64(s_2, t_2);
            s_3 = vfmaq_f64(s_3, t_2, inverse);
        }
        vst1q_f64(sums + i, s);
        vst1q_f64(sums + 4 + i, s_abs);
        vst1q_f64(sums + 8 + i, s_2);
        vst1q_f64(sums + 12 + i, s_3);
    }
}

LORA_PRIVATE void
lora__neon_rotate_f64(double *x, double *y, double c, double s, size_t count)
{
    const float64x2_t s_2 = vdupq_n_f64(s);
    size_t i = 0;

    for (; i + 2 <= count; i += 2) {
        const float64x2_t x_i = vld1q_f64(x + i);
        const float64x2_t y_i = vld1q_f64(y + i);

        vst1q_f64(x + i, vfmsq_f64(vmulq_n_f64(x_i, c), s_2, y_i));
        vst1q_f64(y + i, vfmaq_f64(vmulq_n_f64(y_i, c), s_2, x_i));
    }
    for (; i < count; i++) {
        const double x_i = x[i];
        const double y_i = y[i];

        x[i] = fma(-s, y_i, c * x_i);
        y[i] = fma(s, x_i, c * y_i);
    }
}

#endif
