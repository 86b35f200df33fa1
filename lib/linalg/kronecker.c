/* The Kronecker product nearest to a dense matrix: see kronecker.h.
 *
 * The leading left singular vector of R comes from Lanczos on R R^T: a basis
 * of what the powers of R R^T make of a start, kept orthogonal in full, in
 * which R R^T is tridiagonal. Restarted with the best vector found, until
 *
 *     |R R^T u - theta u| <= KRONECKER_RESIDUAL theta,
 *
 * which leaves theta = sigma^2 relatively exact to the square of that over the
 * gap. Powers alone would need hundreds of products: values of weight changes
 * fall off by a percent or two.
 */
#include "linalg/kronecker.h"

#include "linalg/block.h"
#include "linalg/small.h"
#include "linalg/square.h"

#include <math.h>
#include <string.h>

#define KRONECKER_STEPS 24 /* between restarts */
#define KRONECKER_RESTARTS 8
#define KRONECKER_RESIDUAL 1e-6

LORA_PRIVATE void lora__kronecker_split(size_t *small,
                                        size_t *large,
                                        size_t dimension,
                                        size_t factor)
{
    size_t divisor = 1;

    if (factor > 0 && dimension % factor == 0) {
        divisor = factor;
    } else {
        size_t most = factor > 0 ? factor : dimension;
        for (size_t m = 2; m <= most && m <= dimension / m; m++) {
            divisor = dimension % m == 0 ? m : divisor;
        }
    }
    *small = divisor;
    *large = dimension / divisor;
    if (*small > *large) {
        *small = *large;
        *large = divisor;
    }
}

/* ---- products with the blocks of M ------------------------------------- */

typedef struct kronecker_work {
    const lora__kronecker_input *input;
    const lora__kernels *kernels;
    size_t length1; /* rows1 cols1 */
    size_t length2;
    lora__block numbers;
    double *row;   /* a row of M */
    double *image; /* [length2] */
    double *basis; /* [KRONECKER_STEPS + 1, length1] */
    double *next;  /* [length1] */
    double *small; /* [KRONECKER_STEPS, KRONECKER_STEPS], as the next */
    double *left;
    double *theta; /* [KRONECKER_STEPS] */
    lora_context *context;
} kronecker_work;

static const double *kronecker_row(const kronecker_work *w, size_t row)
{
    size_t cols = w->input->cols1 * w->input->cols2;

    w->kernels->f32_to_f64(w->row, w->input->values + row * cols, cols);
    return w->row;
}

/* out[length2] = R^T x[length1] */
static void
kronecker_to_w2(double *out, const kronecker_work *w, const double *x)
{
    const lora__kronecker_input *in = w->input;

    memset(out, 0, w->length2 * sizeof *out);
    for (size_t i = 0; i < in->rows1 * in->rows2; i++) {
        const double *row = kronecker_row(w, i);
        const double *weight = x + i / in->rows2 * in->cols1;
        double *to = out + i % in->rows2 * in->cols2;
        for (size_t c = 0; c < in->cols1; c++) {
            w->kernels->axpy_f64(to, row + c * in->cols2, weight[c], in->cols2);
        }
    }
}

/* out[length1] = R x[length2] */
static void
kronecker_to_w1(double *out, const kronecker_work *w, const double *x)
{
    const lora__kronecker_input *in = w->input;

    memset(out, 0, w->length1 * sizeof *out);
    for (size_t i = 0; i < in->rows1 * in->rows2; i++) {
        const double *row = kronecker_row(w, i);
        const double *weight = x + i % in->rows2 * in->cols2;
        double *to = out + i / in->rows2 * in->cols1;
        for (size_t c = 0; c < in->cols1; c++) {
            to[c] +=
                w->kernels->dot_f64(row + c * in->cols2, weight, in->cols2);
        }
    }
}

/* |M - w1 (x) w2|_F; w1 NULL: |M|_F. */
static double
kronecker_distance(const kronecker_work *w, const double *w1, const double *w2)
{
    const lora__kronecker_input *in = w->input;
    double sum = 0.0;

    for (size_t i = 0; i < in->rows1 * in->rows2; i++) {
        size_t cols = in->cols1 * in->cols2;
        (void)kronecker_row(w, i);
        for (size_t c = 0; w1 != NULL && c < in->cols1; c++) {
            w->kernels->axpy_f64(w->row + c * in->cols2,
                                 w2 + i % in->rows2 * in->cols2,
                                 -w1[i / in->rows2 * in->cols1 + c], in->cols2);
        }
        sum += w->kernels->dot_f64(w->row, w->row, cols);
    }
    return sqrt(sum);
}

/* ---- the leading vector ------------------------------------------------ */

static double
kronecker_norm(const kronecker_work *w, const double *x, size_t length)
{
    return sqrt(w->kernels->dot_f64(x, x, length));
}

/* Take from `next` what lies along the basis, twice, as once leaves more than
 * rounding where little is left; what lay along the last vector is returned. */
static double
kronecker_orthogonalise(const kronecker_work *w, size_t count, double *norm)
{
    double along = 0.0;

    for (int pass = 0; pass < 2; pass++) {
        for (size_t j = 0; j < count; j++) {
            const double *v = w->basis + j * w->length1;
            double part = w->kernels->dot_f64(w->next, v, w->length1);
            w->kernels->axpy_f64(w->next, v, -part, w->length1);
            along += j + 1 == count ? part : 0.0;
        }
    }
    *norm = kronecker_norm(w, w->next, w->length1);
    return along;
}

/* One run of Lanczos from basis[0], which becomes the best vector of all;
 * *out_residual is relative to theta. */
static lora_status kronecker_lanczos(const kronecker_work *w,
                                     double *out_residual,
                                     lora_error *error)
{
    double diagonal[KRONECKER_STEPS];
    double beside[KRONECKER_STEPS];
    size_t count = 0;
    size_t most = w->length1 < KRONECKER_STEPS ? w->length1 : KRONECKER_STEPS;
    double largest = 0.0;

    while (count < most) {
        double *v = w->basis + count * w->length1;
        kronecker_to_w2(w->image, w, v);
        kronecker_to_w1(w->next, w, w->image);
        diagonal[count] = kronecker_orthogonalise(w, count + 1, &beside[count]);
        largest = diagonal[count] > largest ? diagonal[count] : largest;
        count++;
        if (!(beside[count - 1] > 1e-14 * largest)) {
            break; /* the basis has all there is to find from the start */
        }
        memcpy(v + w->length1, w->next, w->length1 * sizeof *v);
        w->kernels->scale_f64(v + w->length1, 1.0 / beside[count - 1],
                              w->length1);
    }
    if (!(largest > 0.0)) { /* R is 0, or what it does to the start is */
        *out_residual = 0.0;
        return LORA_OK;
    }
    memset(w->small, 0, count * count * sizeof *w->small);
    for (size_t i = 0; i < count; i++) {
        w->small[i * count + i] = diagonal[i] / largest;
        if (i + 1 < count) {
            w->small[i * count + i + 1] = beside[i] / largest;
            w->small[(i + 1) * count + i] = beside[i] / largest;
        }
    }
    /* Symmetric and not negative: singular vectors are eigenvectors. */
    TRY(lora__square_svd(w->theta, w->left, w->small, count, 1e-18, w->context,
                         error));
    memset(w->next, 0, w->length1 * sizeof *w->next);
    for (size_t j = 0; j < count; j++) {
        w->kernels->axpy_f64(w->next, w->basis + j * w->length1, w->left[j],
                             w->length1);
    }
    double norm = kronecker_norm(w, w->next, w->length1);
    memcpy(w->basis, w->next, w->length1 * sizeof *w->next);
    w->kernels->scale_f64(w->basis, 1.0 / norm, w->length1);
    *out_residual = count == w->length1
                        ? 0.0
                        : beside[count - 1] / largest *
                              fabs(w->left[count - 1]) / w->theta[0];
    return LORA_OK;
}

/* w1 = sqrt(sigma) u, w2 = R^T u / sqrt(sigma) of a unit vector u. */
static void
kronecker_balance(double *w1, double *w2, const kronecker_work *w, double *u)
{
    double sigma;
    double largest = 0.0;

    for (size_t i = 0; i < w->length1; i++) {
        largest = fabs(u[i]) > fabs(largest) ? u[i] : largest;
    }
    w->kernels->scale_f64(u, largest < 0.0 ? -1.0 : 1.0, w->length1);
    kronecker_to_w2(w2, w, u);
    sigma = kronecker_norm(w, w2, w->length2);
    memcpy(w1, u, w->length1 * sizeof *w1);
    w->kernels->scale_f64(w1, sqrt(sigma), w->length1);
    w->kernels->scale_f64(w2, sigma > 0.0 ? 1.0 / sqrt(sigma) : 0.0,
                          w->length2);
}

/* ---- the calls --------------------------------------------------------- */

static lora_status kronecker_begin(kronecker_work *w,
                                   const lora__kronecker_input *input,
                                   lora_context *context,
                                   lora_error *error)
{
    const size_t steps = KRONECKER_STEPS;
    size_t cols;
    size_t rows;
    size_t vectors;
    size_t count;

    memset(w, 0, sizeof *w);
    w->input = input;
    w->context = context;
    w->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    if (!lora__mul_size(input->rows1, input->cols1, &w->length1) ||
        !lora__mul_size(input->rows2, input->cols2, &w->length2) ||
        !lora__mul_size(input->cols1, input->cols2, &cols) ||
        !lora__mul_size(input->rows1, input->rows2, &rows) ||
        !lora__mul_size(w->length1, steps + 2, &vectors) ||
        !lora__add_size(vectors, cols, &count) ||
        !lora__add_size(count, w->length2, &count) ||
        !lora__add_size(count, 2 * steps * steps + steps, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__block_create(&w->numbers, 1, count, context, error));
    w->row = w->numbers.at;
    w->image = w->row + cols;
    w->basis = w->image + w->length2;
    w->next = w->basis + w->length1 * (steps + 1);
    w->small = w->next + w->length1;
    w->left = w->small + steps * steps;
    w->theta = w->left + steps * steps;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__kronecker_fit(double *w1,
                                             double *w2,
                                             double *out_error,
                                             const lora__kronecker_input *input,
                                             lora_context *context,
                                             lora_error *error)
{
    kronecker_work w;
    double residual = 1.0;
    lora_status status;

    TRY(kronecker_begin(&w, input, context, error));
    if (!isfinite(kronecker_distance(&w, NULL, NULL))) {
        status = lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, NULL,
                            "a weight change is not finite");
        goto done;
    }
    lora__block_spread(w.basis, w.length1);
    w.kernels->scale_f64(w.basis, 1.0 / kronecker_norm(&w, w.basis, w.length1),
                         w.length1);
    for (int i = 0; i < KRONECKER_RESTARTS && residual > KRONECKER_RESIDUAL;
         i++) {
        TRY_OR_DONE(kronecker_lanczos(&w, &residual, error));
    }
    kronecker_balance(w1, w2, &w, w.basis);
    *out_error = kronecker_distance(&w, w1, w2);
    status = LORA_OK;
done:
    lora__block_destroy(&w.numbers, context);
    return status;
}

LORA_PRIVATE lora_status lora__kronecker_cut(double *w1,
                                             double *w2,
                                             double *up_t,
                                             double *down,
                                             double *out_error,
                                             size_t k,
                                             const lora__kronecker_input *input,
                                             lora_context *context,
                                             lora_error *error)
{
    kronecker_work w;
    lora__block sigma = {NULL, 0};
    double squares;
    lora_status status;

    TRY(kronecker_begin(&w, input, context, error));
    TRY_OR_DONE(lora__block_create(&sigma, 1, k, context, error));
    TRY_OR_DONE(lora__small_truncate(sigma.at, up_t, down, w2, input->rows2,
                                     input->cols2, k, context, error));
    memset(w2, 0, w.length2 * sizeof *w2);
    for (size_t i = 0; i < k; i++) {
        for (size_t b = 0; b < input->rows2; b++) {
            w.kernels->axpy_f64(w2 + b * input->cols2, down + i * input->cols2,
                                up_t[i * input->rows2 + b], input->cols2);
        }
    }
    kronecker_to_w1(w1, &w, w2);
    squares = w.kernels->dot_f64(w2, w2, w.length2);
    w.kernels->scale_f64(w1, squares > 0.0 ? 1.0 / squares : 0.0, w.length1);
    *out_error = kronecker_distance(&w, w1, w2);
done:
    lora__block_destroy(&sigma, context);
    lora__block_destroy(&w.numbers, context);
    return status;
}

LORA_PRIVATE lora_status
lora__kronecker_error(double *out,
                      const double *w1,
                      const double *w2,
                      const lora__kronecker_input *input,
                      lora_context *context,
                      lora_error *error)
{
    kronecker_work w;

    TRY(kronecker_begin(&w, input, context, error));
    *out = kronecker_distance(&w, w1, w2);
    lora__block_destroy(&w.numbers, context);
    return LORA_OK;
}
