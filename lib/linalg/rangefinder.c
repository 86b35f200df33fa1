/* Range finder: products with the matrix in f32, bases in f64. */
#include "linalg/rangefinder.h"

#include "core/rng.h"
#include "linalg/householder.h"
#include "linalg/triangle.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Power iterations: at least and at most. */
#define RANGEFINDER_LEAST 2
#define RANGEFINDER_MOST 4

/* No more of them once the block can be expected to gain less than this share
 * of the square norm that it does not hold: with 0.02 the truncated product's
 * error would be within 1.01 of the optimum if all of it were the leading
 * directions', of which it is a part. */
#define RANGEFINDER_GAIN 0.02

/* A product is cut into blocks of so many columns or rows of the matrix, for
 * threads and for cancelling, and the former into pieces of this depth. */
#define RANGEFINDER_COLS 768
#define RANGEFINDER_ROWS 256
#define RANGEFINDER_DEPTH 256

/* Columns of a block that are transformed at a time. */
#define RANGEFINDER_STRIP 512

/* Loss of orthogonality that one pass by Cholesky may have at all, and that
 * a second one is made for. */
#define RANGEFINDER_LOSS 1e-3
#define RANGEFINDER_ENOUGH 1e-10

/* Exponents beyond this need not be taken out of M: its products with small
 * powers of two stay clear of both ends of f32's range. */
#define RANGEFINDER_EXPONENT 64

/* What one grow() works with. */
typedef struct rangefinder_work {
    size_t add;
    double *y;     /* new rows of Q */
    double *z;     /* new rows of B */
    lora__block f; /* floats [add, longer length], as the next one */
    lora__block rows;
    lora__block numbers;
    double *l; /* [add, add], as the next one */
    double *mix;
    double *strip; /* [add, RANGEFINDER_STRIP], and [add, add] floats */
    double *scale; /* [add], as the next one */
    double *column;
    lora__block integers; /* [add] exponents */
} rangefinder_work;

LORA_PRIVATE void lora__range_begin(lora__range *out,
                                    lora_context *context,
                                    const float *matrix,
                                    size_t rows,
                                    size_t cols,
                                    double squares,
                                    uint64_t seed,
                                    int parallel)
{
    int exponent;

    memset(out, 0, sizeof *out);
    out->context = context;
    out->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    out->matrix = matrix;
    out->rows = rows;
    out->cols = cols;
    out->q_is_down = cols < rows;
    out->parallel = parallel;
    out->squares = squares;
    out->seed = seed;
    out->lengths[0] = out->q_is_down ? cols : rows;
    out->lengths[1] = out->q_is_down ? rows : cols;
    (void)frexp(sqrt(squares), &exponent);
    exponent =
        exponent > RANGEFINDER_EXPONENT ? RANGEFINDER_EXPONENT : exponent;
    exponent =
        exponent < -RANGEFINDER_EXPONENT ? -RANGEFINDER_EXPONENT : exponent;
    out->exponent = -exponent;
}

LORA_PRIVATE void lora__range_destroy(lora__range *range)
{
    lora__block_destroy(&range->q, range->context);
    lora__block_destroy(&range->b, range->context);
    range->count = 0;
}

/* Products ------------------------------------------------------------- */

/* out[count, cols] = in[count, rows] M, or out[count, rows] = in[count, cols]
 * M^T. */
typedef struct rangefinder_product {
    const lora__range *range;
    double *out;
    const float *in;
    size_t count;
} rangefinder_product;

/* Columns [from, from + width) of in M. */
static lora_status rangefinder_columns(const rangefinder_product *p,
                                       size_t from,
                                       size_t width,
                                       lora_error *error)
{
    const lora__range *range = p->range;
    const size_t cols = range->cols;
    lora__block block;
    float *piece;

    /* Two floats a double. */
    TRY(lora__block_create(&block, p->count, (width + 1) / 2, range->context,
                           error));
    piece = (float *)(void *)block.at;
    for (size_t i = 0; i < p->count; i++) {
        memset(p->out + i * cols + from, 0, width * sizeof *p->out);
    }
    for (size_t at = 0; at < range->rows; at += RANGEFINDER_DEPTH) {
        const size_t rest = range->rows - at;
        const size_t depth =
            rest < RANGEFINDER_DEPTH ? rest : RANGEFINDER_DEPTH;

        range->kernels->gemm_f32(piece, width, p->in + at, range->rows,
                                 range->matrix + at * cols + from, cols,
                                 p->count, width, depth);
        for (size_t i = 0; i < p->count; i++) {
            double *row = p->out + i * cols + from;

            for (size_t j = 0; j < width; j++) {
                row[j] += (double)piece[i * width + j];
            }
        }
    }
    lora__block_destroy(&block, range->context);
    return LORA_OK;
}

static lora_status rangefinder_columns_job(void *arg,
                                           size_t index,
                                           uint32_t worker,
                                           lora_error *error)
{
    const rangefinder_product *p = arg;
    const size_t from = index * RANGEFINDER_COLS;
    const size_t rest = p->range->cols - from;

    (void)worker;
    return rangefinder_columns(
        p, from, rest < RANGEFINDER_COLS ? rest : RANGEFINDER_COLS, error);
}

static lora_status rangefinder_rows_job(void *arg,
                                        size_t index,
                                        uint32_t worker,
                                        lora_error *error)
{
    const rangefinder_product *p = arg;
    const lora__range *range = p->range;
    const size_t from = index * RANGEFINDER_ROWS;
    const size_t rest = range->rows - from;

    (void)worker;
    (void)error;
    range->kernels->dots_f32(
        p->out + from, range->rows, p->in, range->cols,
        range->matrix + from * range->cols, range->cols, p->count,
        rest < RANGEFINDER_ROWS ? rest : RANGEFINDER_ROWS, range->cols);
    return LORA_OK;
}

/* Blocks are the same for any number of threads, and so are the bits. */
static lora_status rangefinder_multiply(const lora__range *range,
                                        double *out,
                                        const float *in,
                                        size_t count,
                                        int onto_down,
                                        lora_error *error)
{
    rangefinder_product p = {range, out, in, count};
    const lora__job_fn job =
        onto_down ? rangefinder_columns_job : rangefinder_rows_job;
    const size_t jobs = onto_down ? (range->cols - 1) / RANGEFINDER_COLS + 1
                                  : (range->rows - 1) / RANGEFINDER_ROWS + 1;

    if (range->parallel) {
        return lora__run_jobs(range->context, NULL, job, &p, jobs, error);
    }
    for (size_t i = 0; i < jobs; i++) {
        TRY(lora__progress(range->context, NULL, 0, 0, error));
        TRY(job(&p, i, 0, error));
    }
    return LORA_OK;
}

/* The sketch ------------------------------------------------------------ */

/* Ones in each half of 32 bits, in the halves. */
static uint32_t rangefinder_ones(uint32_t x)
{
    x -= (x >> 1) & 0x55555555;
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f;
    return (x + (x >> 8)) & 0x001f001f;
}

/* out[add, length] of independent numbers that are normal but for being
 * whole: of 16 fair bits, how many more than 8 are set. Moments are a normal
 * distribution's to 5 % up to the fourth, which is all that a sketch asks for,
 * and no library's logarithm or cosine is in it. `first` is the index of the
 * first row. */
static void rangefinder_draw(float *out,
                             uint64_t seed,
                             size_t first,
                             size_t add,
                             size_t length,
                             int32_t exponent)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const float unit = ldexpf(1, exponent);

    for (size_t i = 0; i < add; i++) {
        const uint64_t row = first + i;
        float *to = out + i * length;

        for (size_t j = 0; j < length; j += 8) {
            const uint64_t block = j / 8;
            const size_t some = length - j < 8 ? length - j : 8;
            uint32_t words[4] = {(uint32_t)block, (uint32_t)(block >> 32),
                                 (uint32_t)row, (uint32_t)(row >> 32)};

            lora__philox(words, words, key);
            for (size_t w = 0; w < some; w++) {
                const uint32_t ones = rangefinder_ones(words[w / 2]);
                const uint32_t half = w % 2 == 0 ? ones & 0xffff : ones >> 16;

                to[j + w] = unit * (float)((int32_t)half - 8);
            }
        }
    }
}

/* Bases ------------------------------------------------------------------ */

/* G of the rows, scaled to a diagonal near 1, plus `shift` on it, to L. */
static int rangefinder_triangle(const lora__range *range,
                                rangefinder_work *work,
                                const double *y,
                                size_t length,
                                double shift)
{
    const size_t n = work->add;

    range->kernels->gram_f64(work->l, n, y, length, n, length);
    lora__triangle_equilibrate(work->l, work->scale,
                               (int32_t *)(void *)work->integers.at, n);
    for (size_t i = 0; i < n; i++) {
        work->l[i * n + i] += shift;
    }
    return lora__triangle_cholesky(work->l, n, range->kernels);
}

/* L^-1 into mix; each row ends at the diagonal. */
static void rangefinder_invert(const lora__range *range, rangefinder_work *work)
{
    const size_t n = work->add;

    memset(work->mix, 0, n * n * sizeof *work->mix);
    for (size_t i = 0; i < n; i++) {
        work->mix[i * n + i] = 1;
        lora__triangle_solve(work->mix + i * n, n, 1, work->l, n, i + 1,
                             range->kernels);
    }
}

/* Y = L^-1 scale Y. */
static void rangefinder_apply(const lora__range *range,
                              rangefinder_work *work,
                              double *y,
                              size_t length)
{
    const lora__kernels *kernels = range->kernels;
    const size_t n = work->add;

    rangefinder_invert(range, work);
    for (size_t i = 0; i < n; i++) {
        kernels->scale_f64(y + i * length, work->scale[i], length);
    }
    for (size_t from = 0; from < length; from += RANGEFINDER_STRIP) {
        const size_t rest = length - from;
        const size_t width =
            rest < RANGEFINDER_STRIP ? rest : RANGEFINDER_STRIP;

        kernels->gemm_f64(work->strip, width, work->mix, n, y + from, length, n,
                          width, n);
        for (size_t i = 0; i < n; i++) {
            memcpy(y + i * length + from, work->strip + i * width,
                   width * sizeof *y);
        }
    }
}

/* Orthonormal rows by Householder, whatever the rank: of all of Q, so that
 * what is made up where rows are dependent is orthogonal to old ones too. */
static lora_status rangefinder_reflect(lora__range *range,
                                       rangefinder_work *work,
                                       lora_error *error)
{
    const size_t length = range->lengths[0];
    const size_t old = range->count;
    const size_t rank = old + work->add;
    lora__block v = {NULL, 0};
    lora__block small = {NULL, 0};
    lora_status status = LORA_OK;
    double *mix;
    double *tau;

    TRY_OR_DONE(lora__block_create(&v, rank, length, range->context, error));
    TRY_OR_DONE(
        lora__block_create(&small, 2 * rank + 1, rank, range->context, error));
    mix = small.at + rank * rank;
    tau = mix + rank * rank;
    memcpy(v.at, range->q.at, rank * length * sizeof *v.at);
    for (size_t i = 0; i < work->add; i++) {
        double *row = v.at + (old + i) * length;

        for (size_t j = 0; j < length; j++) {
            row[j] *= work->scale[i];
        }
    }
    TRY_OR_DONE(lora__lq_create(small.at, v.at, tau, rank, length,
                                range->context, error));
    lora__lq_mix(mix, small.at, v.at, tau, rank, length, range->kernels);
    range->kernels->gemm_f64(work->y, length, mix + old * rank, rank, v.at,
                             length, work->add, length, rank);
    for (size_t i = 0; i < work->add; i++) {
        work->y[i * length + old + i] += 1;
    }
done:
    lora__block_destroy(&small, range->context);
    lora__block_destroy(&v, range->context);
    return status;
}

/* A basis of the same rows that need not be orthonormal, times 2^exponent,
 * into the floats that are returned. The shift makes Cholesky succeed, and
 * keeps what is below 1e-6 of the rest small. y is scaled.
 *
 * The product is made in f32. Where L^-1 is large that is an error of
 * u |L^-1| of a row; the product that y comes from has left as much there. */
static lora_status rangefinder_condition(const float **out,
                                         const lora__range *range,
                                         rangefinder_work *work,
                                         double *y,
                                         size_t length,
                                         lora_error *error)
{
    const lora__kernels *kernels = range->kernels;
    const size_t n = work->add;
    float *f = (float *)(void *)work->f.at;
    float *rows = (float *)(void *)work->rows.at;
    float *mix = (float *)(void *)work->strip;

    INVARIANT(rangefinder_triangle(range, work, y, length,
                                   32 * (double)n * DBL_EPSILON),
              error);
    rangefinder_invert(range, work);
    kernels->scale_f64(work->mix, ldexp(1, range->exponent), n * n);
    kernels->f64_to_f32(mix, work->mix, n * n);
    for (size_t i = 0; i < n; i++) {
        kernels->scale_f64(y + i * length, work->scale[i], length);
    }
    kernels->f64_to_f32(rows, y, n * length);
    kernels->gemm_f32(f, length, mix, n, rows, length, n, length, n);
    *out = f;
    return LORA_OK;
}

/* New rows of Q to orthonormal ones. */
static lora_status rangefinder_orthonormal(lora__range *range,
                                           rangefinder_work *work,
                                           lora_error *error)
{
    const size_t length = range->lengths[0];

    for (int pass = 0; pass < 2; pass++) {
        double loss = 1;

        if (rangefinder_triangle(range, work, work->y, length, 0)) {
            loss = DBL_EPSILON * sqrt((double)length) *
                   lora__triangle_inverse(work->l, work->add, work->column,
                                          range->kernels);
        }
        if (!(loss <= RANGEFINDER_LOSS)) {
            return rangefinder_reflect(range, work, error);
        }
        rangefinder_apply(range, work, work->y, length);
        if (loss <= RANGEFINDER_ENOUGH) {
            break;
        }
    }
    return LORA_OK;
}

/* y = y - (y Q^T) Q for the rows of Q there were. The scratch `mix` holds as
 * many coefficients as fit at a time. */
static void rangefinder_project(const lora__range *range,
                                rangefinder_work *work)
{
    const lora__kernels *kernels = range->kernels;
    const size_t length = range->lengths[0];
    const size_t n = work->add;

    for (size_t from = 0; from < range->count; from += n) {
        const size_t rest = range->count - from;
        const size_t some = rest < n ? rest : n;
        const double *q = range->q.at + from * length;

        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < some; j++) {
                work->mix[i * some + j] = -kernels->dot_f64(
                    work->y + i * length, q + j * length, length);
            }
        }
        for (size_t at = 0; at < length; at += RANGEFINDER_STRIP) {
            const size_t left = length - at;
            const size_t width =
                left < RANGEFINDER_STRIP ? left : RANGEFINDER_STRIP;

            kernels->gemm_f64(work->strip, width, work->mix, some, q + at,
                              length, n, width, some);
            for (size_t i = 0; i < n; i++) {
                kernels->axpy_f64(work->y + i * length + at,
                                  work->strip + i * width, 1, width);
            }
        }
    }
}

/* Growing ----------------------------------------------------------------- */

/* More rows for a block of rows. */
static lora_status rangefinder_extend(lora__block *block,
                                      size_t old,
                                      size_t rows,
                                      size_t length,
                                      lora_context *context,
                                      lora_error *error)
{
    lora__block more;

    TRY(lora__block_create(&more, rows, length, context, error));
    if (old != 0) {
        memcpy(more.at, block->at, old * length * sizeof *more.at);
    }
    lora__block_destroy(block, context);
    *block = more;
    return LORA_OK;
}

static lora_status rangefinder_work_create(rangefinder_work *work,
                                           lora__range *range,
                                           size_t add,
                                           lora_error *error)
{
    const size_t longer = range->lengths[1]; /* Q is on the shorter side */
    const size_t rows = range->count + add;
    const size_t strip = add > RANGEFINDER_STRIP ? add : RANGEFINDER_STRIP;

    memset(work, 0, sizeof *work);
    work->add = add;
    TRY(rangefinder_extend(&range->q, range->count, rows, range->lengths[0],
                           range->context, error));
    TRY(rangefinder_extend(&range->b, range->count, rows, range->lengths[1],
                           range->context, error));
    TRY(lora__block_create(&work->f, add, longer / 2 + 1, range->context,
                           error));
    TRY(lora__block_create(&work->rows, add, longer / 2 + 1, range->context,
                           error));
    TRY(lora__block_create(&work->integers, 1, add, range->context, error));
    TRY(lora__block_create(&work->numbers, 2 * add + strip + 2, add,
                           range->context, error));
    work->y = range->q.at + range->count * range->lengths[0];
    work->z = range->b.at + range->count * range->lengths[1];
    work->l = work->numbers.at;
    work->mix = work->l + add * add;
    work->strip = work->mix + add * add;
    work->scale = work->strip + add * strip;
    work->column = work->scale + add;
    return LORA_OK;
}

static void rangefinder_work_destroy(rangefinder_work *work,
                                     const lora__range *range)
{
    lora__block_destroy(&work->f, range->context);
    lora__block_destroy(&work->rows, range->context);
    lora__block_destroy(&work->integers, range->context);
    lora__block_destroy(&work->numbers, range->context);
}

/* Rows of doubles as floats, times 2^exponent. */
static const float *rangefinder_narrow(const lora__range *range,
                                       rangefinder_work *work,
                                       double *rows,
                                       size_t length)
{
    float *f = (float *)(void *)work->f.at;

    range->kernels->scale_f64(rows, ldexp(1, range->exponent),
                              work->add * length);
    range->kernels->f64_to_f32(f, rows, work->add * length);
    return f;
}

/* Orthonormal y, rounded to floats, which are returned. */
static lora_status rangefinder_finish(const float **out,
                                      lora__range *range,
                                      rangefinder_work *work,
                                      lora_error *error)
{
    const size_t length = range->lengths[0];

    /* What a projection leaves of old rows is relative to what it took out:
     * the second one begins with rows that are all new and of norm 1. */
    if (range->count != 0) {
        TRY(rangefinder_condition(out, range, work, work->y, length, error));
        range->kernels->f32_to_f64(work->y, *out, work->add * length);
        rangefinder_project(range, work);
    }
    TRY(rangefinder_orthonormal(range, work, error));
    *out = rangefinder_narrow(range, work, work->y, length);
    range->kernels->f32_to_f64(work->y, *out, work->add * length);
    range->kernels->scale_f64(work->y, ldexp(1, -range->exponent),
                              work->add * length);
    return LORA_OK;
}

static double
rangefinder_squares(const lora__range *range, const double *rows, size_t count)
{
    const size_t length = range->lengths[1];
    double sum = 0;

    for (size_t i = 0; i < count; i++) {
        sum += range->kernels->dot_f64(rows + i * length, rows + i * length,
                                       length);
    }
    return sum;
}

/* 1 if the last three square norms of the block say that little will be
 * gained, taking gains for a geometric series; `rest` is what is left to
 * gain from. */
static int rangefinder_settled(const double *held, double rest)
{
    const double before = held[1] - held[0];
    const double gain = held[2] - held[1];

    return gain <= 0 || (gain < before && gain * gain / (before - gain) <=
                                              RANGEFINDER_GAIN * rest);
}

/* From a sketch in f to rows of Q in y and B in z, near the leading singular
 * vectors of what is left. */
static lora_status rangefinder_iterate(lora__range *range,
                                       rangefinder_work *work,
                                       lora_error *error)
{
    const int down = range->q_is_down;
    const size_t add = work->add;
    const double back = ldexp(1, -range->exponent);
    const float *f = (const float *)(const void *)work->f.at;
    const double rest =
        range->squares - rangefinder_squares(range, range->b.at, range->count);
    double held[3] = {0, 0, 0};

    for (int i = 0;; i++) {
        TRY(rangefinder_multiply(range, work->y, f, add, down, error));
        rangefinder_project(range, work);
        if (i < RANGEFINDER_LEAST) {
            TRY(rangefinder_condition(&f, range, work, work->y,
                                      range->lengths[0], error));
        } else {
            TRY(rangefinder_finish(&f, range, work, error));
        }
        TRY(rangefinder_multiply(range, work->z, f, add, !down, error));
        range->kernels->scale_f64(work->z, back, add * range->lengths[1]);
        held[0] = held[1];
        held[1] = held[2];
        held[2] = rangefinder_squares(range, work->z, add);
        if (i >= RANGEFINDER_LEAST &&
            (i == RANGEFINDER_MOST ||
             rangefinder_settled(held, rest - held[2]))) {
            return LORA_OK;
        }
        TRY(rangefinder_condition(&f, range, work, work->z, range->lengths[1],
                                  error));
    }
}

LORA_PRIVATE lora_status lora__range_grow(lora__range *range,
                                          size_t add,
                                          lora_error *error)
{
    rangefinder_work work;
    lora_status status = LORA_OK;

    INVARIANT(add > 0 && add <= range->lengths[0] - range->count, error);
    TRY_OR_DONE(rangefinder_work_create(&work, range, add, error));
    rangefinder_draw((float *)(void *)work.f.at, range->seed, range->count, add,
                     range->lengths[1], range->exponent);
    TRY_OR_DONE(rangefinder_iterate(range, &work, error));
    range->count += add;
done:
    rangefinder_work_destroy(&work, range);
    return status;
}
