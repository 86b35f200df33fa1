/* The Tucker form of a convolution's weight: see tucker.h.
 *
 * Higher-order orthogonal iteration. With one side's basis V[in_rank, in]
 * fixed, the best one of the other side has the leading left vectors of
 * M x V[out, in_rank K], a matrix small enough to be decomposed in full; and
 * so in turn. Each half never raises the error
 *
 *     |M - result|^2 = |M|^2 - |core|^2,
 *
 * and |core|^2 are the squares of the singular values kept in the last half.
 *
 * It starts from a random projection of the input channels on a few more
 * directions than are asked for, or from all of them where they are few, which
 * then is HOSVD. On sums of directions that fall off as a power, and on low
 * ranks under noise, it ends within 1e-3 of where it ends from HOSVD's bases;
 * on noise there are many minima, within 1 %, and they are below the error of
 * HOSVD. And no matrix [in, out K] of M's size is ever decomposed.
 */
#include "linalg/tucker.h"

#include "linalg/block.h"
#include "linalg/small.h"

#include "kernel/kernel.h"

#include <math.h>
#include <string.h>

#define TUCKER_ROUNDS 12
#define TUCKER_GAIN 1e-5 /* of the squared error: less is not gone on for */
#define TUCKER_EXTRA 8   /* directions of the start beyond the rank */

typedef struct tucker_work {
    const lora__tucker_input *input;
    lora__tucker_result *out;
    const lora__kernels *kernels;
    lora_context *context;
    size_t row_count;    /* in K, elements of a row of M */
    size_t start;        /* directions of the start */
    lora__block numbers; /* of these: */
    double *row;         /* [in, K] */
    double *turned;      /* [K, in] */
    double *spread;      /* [start, in], the basis of the start */
    double *sides;       /* [most of the ranks, most channels of both], as the
                          * right vectors of a matrix decomposed */
    double *sigma;       /* [most of the ranks] */
    double *matrix;      /* [out, K start], [in, out_rank K] */
    double *product;     /* [out_rank, in, K] */
} tucker_work;

static const double *tucker_row(const tucker_work *w, size_t p)
{
    w->kernels->f32_to_f64(w->row, w->input->values + p * w->row_count,
                           w->row_count);
    return w->row;
}

/* ---- products ---------------------------------------------------------- */

/* matrix[out, (x, j)] = sum over q of M[., q, x] basis[j, q] */
static void
tucker_project_in(const tucker_work *w, const double *basis, size_t count)
{
    size_t in = w->input->in;
    size_t kernel = w->input->kernel;
    double *to = w->matrix;

    for (size_t p = 0; p < w->input->out; p++) {
        const double *row = tucker_row(w, p);
        for (size_t x = 0; x < kernel; x++) {
            for (size_t q = 0; q < in; q++) {
                w->turned[q] = row[q * kernel + x];
            }
            for (size_t j = 0; j < count; j++) {
                *to++ = w->kernels->dot_f64(w->turned, basis + j * in, in);
            }
        }
    }
}

/* product[i, in, K] = sum over p of basis[i, p] M[p, in, K] */
static void tucker_project_out(const tucker_work *w, const double *basis)
{
    size_t out = w->input->out;

    memset(w->product, 0, w->out->out_rank * w->row_count * sizeof *w->product);
    for (size_t p = 0; p < out; p++) {
        const double *row = tucker_row(w, p);
        for (size_t i = 0; i < w->out->out_rank; i++) {
            w->kernels->axpy_f64(w->product + i * w->row_count, row,
                                 basis[i * out + p], w->row_count);
        }
    }
}

/* matrix[in, (i, x)] = product[i, in, x] */
static void tucker_turn_product(const tucker_work *w)
{
    size_t kernel = w->input->kernel;
    size_t width = w->out->out_rank * kernel;

    for (size_t i = 0; i < w->out->out_rank; i++) {
        for (size_t q = 0; q < w->input->in; q++) {
            memcpy(w->matrix + q * width + i * kernel,
                   w->product + i * w->row_count + q * kernel,
                   kernel * sizeof *w->matrix);
        }
    }
}

/* core[i, j, x] = sum over q of product[i, q, x] down[j, q] */
static void tucker_fill_core(const tucker_work *w)
{
    size_t in = w->input->in;
    size_t kernel = w->input->kernel;
    size_t ranks = w->out->in_rank;

    for (size_t i = 0; i < w->out->out_rank; i++) {
        for (size_t x = 0; x < kernel; x++) {
            for (size_t q = 0; q < in; q++) {
                w->turned[q] = w->product[i * w->row_count + q * kernel + x];
            }
            for (size_t j = 0; j < ranks; j++) {
                w->out->core[(i * ranks + j) * kernel + x] =
                    w->kernels->dot_f64(w->turned, w->out->down + j * in, in);
            }
        }
    }
}

/* |M - result|_F. product[i, q, x] becomes sum over j of core[i, j, x] down[j,
 * q]. */
static double tucker_distance(const tucker_work *w)
{
    size_t out = w->input->out;
    size_t in = w->input->in;
    size_t kernel = w->input->kernel;
    double sum = 0.0;

    memset(w->product, 0, w->out->out_rank * w->row_count * sizeof *w->product);
    for (size_t i = 0; i < w->out->out_rank; i++) {
        for (size_t j = 0; j < w->out->in_rank; j++) {
            const double *core =
                w->out->core + (i * w->out->in_rank + j) * kernel;
            for (size_t q = 0; q < in; q++) {
                w->kernels->axpy_f64(w->product + i * w->row_count + q * kernel,
                                     core, w->out->down[j * in + q], kernel);
            }
        }
    }
    for (size_t p = 0; p < out; p++) {
        (void)tucker_row(w, p);
        for (size_t i = 0; i < w->out->out_rank; i++) {
            w->kernels->axpy_f64(w->row, w->product + i * w->row_count,
                                 -w->out->up_t[i * out + p], w->row_count);
        }
        sum += w->kernels->dot_f64(w->row, w->row, w->row_count);
    }
    return sqrt(sum);
}

/* ---- bases ------------------------------------------------------------- */

/* basis[count, rows]: the leading left vectors of matrix[rows, cols]. Returns
 * the sum of their squared values in *out_squares. */
static lora_status tucker_lead(double *basis,
                               double *out_squares,
                               const tucker_work *w,
                               size_t rows,
                               size_t cols,
                               size_t count,
                               lora_error *error)
{
    size_t most = rows < cols ? rows : cols;
    size_t some = count < most ? count : most;

    memset(basis, 0, count * rows * sizeof *basis);
    TRY(lora__small_truncate(w->sigma, basis, w->sides, w->matrix, rows, cols,
                             some, w->context, error));
    *out_squares = 0.0;
    for (size_t i = 0; i < some; i++) {
        double root = sqrt(w->sigma[i]);
        w->kernels->scale_f64(basis + i * rows, root > 0.0 ? 1.0 / root : 0.0,
                              rows);
        *out_squares += w->sigma[i] * w->sigma[i];
    }
    return LORA_OK;
}

/* The start: all input channels, or a random projection of them. */
static void tucker_spread(const tucker_work *w)
{
    size_t in = w->input->in;

    if (w->start < in) {
        lora__block_spread(w->spread, w->start * in);
        return;
    }
    memset(w->spread, 0, in * in * sizeof *w->spread);
    for (size_t i = 0; i < in; i++) {
        w->spread[i * in + i] = 1.0;
    }
}

static lora_status
tucker_iterate(const tucker_work *w, double squares, lora_error *error)
{
    const lora__tucker_input *in = w->input;
    lora__tucker_result *out = w->out;
    const double *basis = w->spread;
    size_t count = w->start;
    double before = 0.0;

    tucker_spread(w);
    for (int round = 0; round < TUCKER_ROUNDS; round++) {
        double kept;
        tucker_project_in(w, basis, count);
        TRY(tucker_lead(out->up_t, &kept, w, in->out, in->kernel * count,
                        out->out_rank, error));
        tucker_project_out(w, out->up_t);
        tucker_turn_product(w);
        TRY(tucker_lead(out->down, &kept, w, in->in, out->out_rank * in->kernel,
                        out->in_rank, error));
        basis = out->down;
        count = out->in_rank;
        /* Of an error that is rounding, no share is gained. */
        if (round > 0 &&
            kept - before <= TUCKER_GAIN * (squares - kept) + 1e-14 * squares) {
            break;
        }
        before = kept;
    }
    tucker_fill_core(w);
    return LORA_OK;
}

/* Give all three the same norm: of bases with orthonormal rows and a core of
 * norm c, the cube root of their product. */
static void tucker_balance(const tucker_work *w)
{
    const lora__tucker_result *out = w->out;
    double *arrays[3] = {out->up_t, out->core, out->down};
    size_t counts[3] = {out->out_rank * w->input->out,
                        out->out_rank * out->in_rank * w->input->kernel,
                        out->in_rank * w->input->in};
    double norms[3];
    double product = 1.0;

    for (size_t i = 0; i < 3; i++) {
        norms[i] = sqrt(w->kernels->dot_f64(arrays[i], arrays[i], counts[i]));
        product *= norms[i];
    }
    for (size_t i = 0; i < 3; i++) {
        w->kernels->scale_f64(arrays[i],
                              product > 0.0 ? cbrt(product) / norms[i] : 0.0,
                              counts[i]);
    }
}

/* ---- the call ---------------------------------------------------------- */

/* *out = a b c, added to *total. */
static int
tucker_count(size_t *out, size_t *total, size_t a, size_t b, size_t c)
{
    return lora__mul_size(a, b, out) && lora__mul_size(*out, c, out) &&
           lora__add_size(*total, *out, total);
}

static lora_status tucker_begin(tucker_work *w,
                                lora__tucker_result *out,
                                const lora__tucker_input *input,
                                lora_context *context,
                                lora_error *error)
{
    size_t most_rank =
        out->out_rank > out->in_rank ? out->out_rank : out->in_rank;
    size_t counts[6];
    size_t by_start, by_rank, total = 0, ignored = 0;
    size_t width;

    memset(w, 0, sizeof *w);
    w->input = input;
    w->out = out;
    w->context = context;
    w->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    w->start = input->in - out->in_rank > TUCKER_EXTRA
                   ? out->in_rank + TUCKER_EXTRA
                   : input->in;
    if (!tucker_count(&by_start, &ignored, input->out, input->kernel,
                      w->start) ||
        !tucker_count(&by_rank, &ignored, input->in, input->kernel,
                      out->out_rank)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    /* Right vectors are as long as one of the two matrices is wide. */
    width = w->start > most_rank ? w->start : most_rank;
    if (!tucker_count(&counts[0], &total, input->in, input->kernel, 1) ||
        !tucker_count(&counts[1], &total, input->in, 1, 1) ||
        !tucker_count(&counts[2], &total, w->start, input->in, 1) ||
        !tucker_count(&counts[3], &total, most_rank, width, input->kernel) ||
        !tucker_count(&counts[4], &total, most_rank, 1, 1) ||
        !tucker_count(&counts[5], &total,
                      by_start > by_rank ? by_start : by_rank, 1, 1) ||
        !lora__add_size(total, by_rank, &total)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__block_create(&w->numbers, 1, total, context, error));
    w->row_count = counts[0];
    w->row = w->numbers.at;
    w->turned = w->row + counts[0];
    w->spread = w->turned + counts[1];
    w->sides = w->spread + counts[2];
    w->sigma = w->sides + counts[3];
    w->matrix = w->sigma + counts[4];
    w->product = w->matrix + counts[5];
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__tucker_fit(lora__tucker_result *out,
                                          const lora__tucker_input *input,
                                          lora_context *context,
                                          lora_error *error)
{
    tucker_work w;
    double squares = 0.0;
    lora_status status;

    TRY(tucker_begin(&w, out, input, context, error));
    for (size_t p = 0; p < input->out; p++) {
        const double *row = tucker_row(&w, p);
        squares += w.kernels->dot_f64(row, row, w.row_count);
    }
    if (!isfinite(squares)) {
        status = lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, NULL,
                            "a weight change is not finite");
        goto done;
    }
    TRY_OR_DONE(tucker_iterate(&w, squares, error));
    tucker_balance(&w);
    out->error = tucker_distance(&w);
done:
    lora__block_destroy(&w.numbers, context);
    return status;
}
