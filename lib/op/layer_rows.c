/* Products of a stage with rows: a layer of one position, where a batch is a
 * matrix [rows, in], and each sample has `before` rows of it.
 *
 *   forward   Y[rows, out] = X[rows, in] W^T
 *   back      gX[rows, in] = gY[rows, out] W
 *   gradient  gW[out, in] = gY^T X
 *
 * f32 with sums of at most LORA__LAYER_DEPTH products, these added in f64 or,
 * where they are few, in f32: the error is about 1e-7 of the result where signs
 * are mixed, and at most (DEPTH + k / DEPTH) 2^-24 sum |x| |w|.
 */
#include "op/layer.h"

#include <string.h>

/* Rows of a job, the columns of a tile, and up to how many columns products
 * are made as dot products: few columns leave the tiles of gemm empty. */
#define LAYER_ROWS_BLOCK 64
#define LAYER_ROWS_TILE 480
#define LAYER_ROWS_DOTS 128
#define LAYER_ROWS_DOTS_DEPTH 96

/* Rows from which on blocks of all columns are enough of them; of fewer rows
 * the multiplications of a block, how many blocks there are for 64 rows at
 * most, and what their columns are a multiple of. */
#define LAYER_ROWS_MANY ((size_t)256)
#define LAYER_ROWS_WORK ((size_t)1 << 19)
#define LAYER_ROWS_PIECES ((size_t)4)
#define LAYER_ROWS_COLS 48

/* Of a gradient: the block of the shorter and of the longer side. */
#define LAYER_ROWS_SHORT 128
#define LAYER_ROWS_LONG 96

/* Of one that is made in place: its columns at a time. */
#define LAYER_ROWS_WIDE 240

typedef struct layer_rows_job {
    const lora__layer_run *run;
    const lora__layer_finish *finish;
    lora__layer_data out;
    lora__layer_data in;
    const float *matrix; /* [k, n] */
    const float *turned; /* [n, k] */
    size_t before;
    size_t k;
    size_t n;
    int dots;
    int plain;         /* all rows of both are evenly apart */
    size_t rows;       /* of a block */
    size_t row_blocks; /* of all, or unless plain of one sample */
    size_t cols;       /* of a block */
    size_t col_blocks;
} layer_rows_job;

/* A block of the result: row `row` of the sample or of all is where the data
 * say, and further rows are a step apart. */
typedef struct layer_rows_block {
    size_t row;
    size_t rows;
    size_t col;
    size_t cols;
    size_t in_first;
    size_t in_step;
    size_t out_first;
    size_t out_step;
} layer_rows_block;

static size_t layer_rows_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The step from row to row where there is one for all of them; else 0. */
static size_t
layer_rows_step(lora__layer_data data, size_t before, size_t width)
{
    return before == 1 ? data.step : data.step == before * width ? width : 0;
}

static int layer_rows_by_dots(size_t k, size_t n)
{
    return n <= LAYER_ROWS_DOTS && k >= LAYER_ROWS_DOTS_DEPTH;
}

/* Scratch: sums or products of a piece, the tile, rows of the input. */
static size_t layer_rows_room(size_t k, size_t n)
{
    (void)k;
    (void)n;
    return LAYER_ROWS_BLOCK * (LAYER_ROWS_TILE * 2 * sizeof(float) +
                               LAYER_ROWS_DOTS * 2 * sizeof(double) +
                               LORA__LAYER_DEPTH * sizeof(float));
}

static size_t layer_rows_gradient_room(void)
{
    const size_t sums = LAYER_ROWS_LONG * (sizeof(float) + sizeof(double));
    const size_t wide = LAYER_ROWS_WIDE * sizeof(float);

    return LAYER_ROWS_SHORT * (LORA__LAYER_DEPTH * sizeof(float) +
                               (sums > wide ? sums : wide)) +
           LAYER_ROWS_LONG * sizeof(double) * 2;
}

LORA_PRIVATE size_t lora__layer_rows_scratch(const lora__layer_run *run,
                                             const lora__layer_stage *stage)
{
    const size_t product = layer_rows_room(stage->in, stage->out);
    const size_t gradient = layer_rows_gradient_room();

    (void)run;
    return product > gradient ? product : gradient;
}

/* Columns [p, p + depth) of the block's rows of the input as F32, and the step
 * between them. */
static const float *layer_rows_piece(size_t *step,
                                     float *room,
                                     const layer_rows_job *job,
                                     const layer_rows_block *block,
                                     size_t p,
                                     size_t depth)
{
    const size_t first = block->in_first + p;

    if (job->in.dtype == LORA_DTYPE_F32) {
        *step = block->in_step;
        return (const float *)job->in.data + first;
    }
    for (size_t i = 0; i < block->rows; i++) {
        lora__layer_load(
            room + i * depth, job->run->layer->kernels, job->in.dtype,
            lora__layer_at(job->in, first + i * block->in_step), depth);
    }
    *step = depth;
    return room;
}

/* Multiply, add the bias and store columns of a block, which are in a tile. */
static void layer_rows_finish(const layer_rows_job *job,
                              const layer_rows_block *block,
                              float *tile,
                              size_t col,
                              size_t cols)
{
    const lora__layer_finish *finish = job->finish;
    const lora__kernels *kernels = job->run->layer->kernels;

    for (size_t i = 0; i < block->rows; i++) {
        const size_t item = (block->row + i) % job->before;
        float *from = tile + i * cols;

        if (finish->multiplier != 1.0F) {
            kernels->scale_f32(from, finish->multiplier, cols);
        }
        if (finish->bias != NULL) {
            kernels->axpy_f32(from, finish->bias + item * job->n + col, 1.0F,
                              cols);
        }
        lora__layer_store(
            lora__layer_at(job->out,
                           block->out_first + i * block->out_step + col),
            job->out.dtype, kernels, from, cols, finish->add);
    }
}

/* By dot products: sums over pieces of the depth in f64. */
static void layer_rows_by_dot(const layer_rows_job *job,
                              void *scratch,
                              const layer_rows_block *block)
{
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t n = job->n;
    const size_t count = block->rows * n;
    double *sums = scratch;
    double *piece = sums + LAYER_ROWS_BLOCK * LAYER_ROWS_DOTS;
    float *tile = (float *)(void *)(piece + LAYER_ROWS_BLOCK * LAYER_ROWS_DOTS);
    float *room = tile + LAYER_ROWS_BLOCK * LAYER_ROWS_DOTS;

    for (size_t p = 0; p < job->k; p += LORA__LAYER_DEPTH) {
        const size_t depth = layer_rows_min(LORA__LAYER_DEPTH, job->k - p);
        size_t step;
        const float *x = layer_rows_piece(&step, room, job, block, p, depth);

        kernels->dots_f32(p == 0 ? sums : piece, n, x, step, job->turned + p,
                          job->k, block->rows, n, depth);
        for (size_t i = 0; p != 0 && i < count; i++) {
            sums[i] += piece[i];
        }
    }
    kernels->f64_to_f32(tile, sums, count);
    layer_rows_finish(job, block, tile, 0, n);
}

/* By gemm, in place where nothing is left to be done but to multiply. */
static void layer_rows_by_gemm(const layer_rows_job *job,
                               void *scratch,
                               const layer_rows_block *block)
{
    const lora__kernels *kernels = job->run->layer->kernels;
    const lora__layer_finish *finish = job->finish;
    const size_t rows = block->rows;
    const size_t end = block->col + block->cols;
    float *tile = scratch;
    float *piece = tile + LAYER_ROWS_BLOCK * LAYER_ROWS_TILE;
    float *room = piece + LAYER_ROWS_BLOCK * LAYER_ROWS_TILE;
    const float *x;
    size_t step;

    if (job->out.dtype == LORA_DTYPE_F32 && !finish->add &&
        finish->bias == NULL && job->k <= LORA__LAYER_DEPTH) {
        float *to = (float *)job->out.data + block->out_first + block->col;

        x = layer_rows_piece(&step, room, job, block, 0, job->k);
        kernels->gemm_f32(to, block->out_step, x, step,
                          job->matrix + block->col, job->n, rows, block->cols,
                          job->k);
        for (size_t i = 0; finish->multiplier != 1.0F && i < rows; i++) {
            kernels->scale_f32(to + i * block->out_step, finish->multiplier,
                               block->cols);
        }
        return;
    }
    for (size_t j = block->col; j < end; j += LAYER_ROWS_TILE) {
        const size_t cols = layer_rows_min(LAYER_ROWS_TILE, end - j);

        for (size_t p = 0; p < job->k; p += LORA__LAYER_DEPTH) {
            const size_t depth = layer_rows_min(LORA__LAYER_DEPTH, job->k - p);

            x = layer_rows_piece(&step, room, job, block, p, depth);
            kernels->gemm_f32(p == 0 ? tile : piece, cols, x, step,
                              job->matrix + p * job->n + j, job->n, rows, cols,
                              depth);
            if (p != 0) {
                kernels->axpy_f32(tile, piece, 1.0F, rows * cols);
            }
        }
        layer_rows_finish(job, block, tile, j, cols);
    }
}

static lora_status
layer_rows_run(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const layer_rows_job *job = arg;
    void *scratch = lora__layer_scratch(job->run, worker);
    size_t end = job->run->batch * job->before; /* rows of all or a sample */
    layer_rows_block block;

    (void)error;
    memset(&block, 0, sizeof block);
    block.in_step = layer_rows_step(job->in, job->before, job->k);
    block.out_step = layer_rows_step(job->out, job->before, job->n);
    block.row = index / job->col_blocks % job->row_blocks * job->rows;
    block.col = index % job->col_blocks * job->cols;
    block.cols = layer_rows_min(job->cols, job->n - block.col);
    if (!job->plain) {
        const size_t sample = index / job->col_blocks / job->row_blocks;

        end = job->before;
        block.in_first = sample * job->in.step;
        block.out_first = sample * job->out.step;
        block.in_step = job->before == 1 ? job->in.step : job->k;
        block.out_step = job->before == 1 ? job->out.step : job->n;
    }
    block.rows = layer_rows_min(job->rows, end - block.row);
    block.in_first += block.row * block.in_step;
    block.out_first += block.row * block.out_step;
    if (job->dots) {
        layer_rows_by_dot(job, scratch, &block);
    } else {
        layer_rows_by_gemm(job, scratch, &block);
    }
    return LORA_OK;
}

/* Blocks: of whole rows where these are many. Of few rows there are several
 * still, where that is worth the while: by less rows of dot products, and by
 * columns where those are packed, once for each block of rows. */
static size_t layer_rows_cut(layer_rows_job *job)
{
    const size_t all = job->run->batch * job->before;
    const size_t rows = job->plain ? all : job->before;
    const size_t work =
        layer_rows_min(job->k * job->n, LAYER_ROWS_WORK * LAYER_ROWS_PIECES);
    size_t pieces = all < LAYER_ROWS_MANY ? all * work / LAYER_ROWS_WORK : 1;

    pieces = pieces == 0 ? 1 : layer_rows_min(pieces, LAYER_ROWS_PIECES);
    job->rows = LAYER_ROWS_BLOCK;
    job->cols = job->n;
    if (pieces > 1 && job->dots) {
        job->rows = LAYER_ROWS_BLOCK / LAYER_ROWS_PIECES;
    } else if (pieces > 1) {
        job->cols =
            ((job->n - 1) / pieces / LAYER_ROWS_COLS + 1) * LAYER_ROWS_COLS;
    }
    job->row_blocks = (rows - 1) / job->rows + 1;
    job->col_blocks = (job->n - 1) / job->cols + 1;
    return (job->plain ? 1 : job->run->batch) * job->row_blocks *
           job->col_blocks;
}

LORA_PRIVATE lora_status
lora__layer_rows_product(const lora__layer_run *run,
                         const lora__layer_stage *stage,
                         int back,
                         lora__layer_data out,
                         lora__layer_data in,
                         const lora__layer_finish *finish,
                         lora_error *error)
{
    layer_rows_job job;

    job.run = run;
    job.finish = finish;
    job.out = out;
    job.in = in;
    job.matrix = back ? stage->weight : stage->turned;
    job.turned = back ? stage->turned : stage->weight;
    job.before = stage->before;
    job.k = back ? stage->out : stage->in;
    job.n = back ? stage->in : stage->out;
    job.dots = layer_rows_by_dots(job.k, job.n);
    job.plain = layer_rows_step(in, job.before, job.k) != 0 &&
                layer_rows_step(out, job.before, job.n) != 0;
    return lora__run_jobs(run->layer->context, NULL, layer_rows_run, &job,
                          layer_rows_cut(&job), error);
}

/* ---- gradients: blocks ------------------------------------------------- */

typedef struct layer_rows_gradient {
    const lora__layer_run *run;
    const lora__layer_sink *sink;
    lora__layer_data one; /* of the shorter side, and of the longer one; or of
                           * outputs and inputs */
    lora__layer_data two;
    size_t one_width;
    size_t two_width;
    size_t before;
    int swapped; /* the shorter side is what came in */
    int plain;
    int in_place;
    size_t total;  /* rows, of all or of each sample */
    size_t blocks; /* of the longer side */
    size_t grain;  /* blocks of one job */
    size_t count;  /* of all */
} layer_rows_gradient;

/* (rows of one)^T (rows of two) into piece[m, n], and added to the sums, or
 * these begun with it. */
static void layer_rows_gradient_add(const layer_rows_gradient *job,
                                    double *sums,
                                    int begin,
                                    float *piece,
                                    float *turned,
                                    const float *one,
                                    size_t one_step,
                                    const float *two,
                                    size_t two_step,
                                    size_t m,
                                    size_t n,
                                    size_t rows)
{
    const lora__kernels *kernels = job->run->layer->kernels;

    kernels->turn_f32(turned, rows, one, one_step, rows, m);
    kernels->gemm_f32(piece, n, turned, rows, two, two_step, m, n, rows);
    for (size_t i = 0; sums != NULL && i < m * n; i++) {
        sums[i] = (begin ? 0.0 : sums[i]) + (double)piece[i];
    }
}

/* Sums of a block of the gradient to where they go. */
static void layer_rows_gradient_store(const layer_rows_gradient *job,
                                      double *sums,
                                      double *column,
                                      size_t a,
                                      size_t m,
                                      size_t b,
                                      size_t n)
{
    for (size_t i = 0; !job->swapped && i < m; i++) {
        lora__layer_sink_row(job->sink, sums + i * n, a + i, b, n);
    }
    for (size_t j = 0; job->swapped && j < n; j++) {
        for (size_t i = 0; i < m; i++) {
            column[i] = sums[i * n + j];
        }
        lora__layer_sink_row(job->sink, column, b + j, a, m);
    }
}

/* The same of one piece that is all there is. */
static void layer_rows_gradient_store_piece(const layer_rows_gradient *job,
                                            const float *piece,
                                            float *column,
                                            size_t a,
                                            size_t m,
                                            size_t b,
                                            size_t n)
{
    const lora__layer_sink *sink = job->sink;
    const lora__kernels *kernels = job->run->layer->kernels;

    if (job->swapped && !sink->turned && !sink->add &&
        sink->multiplier == 1.0F) {
        kernels->turn_f32(sink->data + b * sink->cols + a, sink->cols, piece, n,
                          m, n);
        return;
    }
    for (size_t i = 0; !job->swapped && i < m; i++) {
        lora__layer_sink_floats(sink, kernels, piece + i * n, a + i, b, n);
    }
    for (size_t j = 0; job->swapped && j < n; j++) {
        kernels->turn_f32(column, m, piece + j, n, m, 1);
        lora__layer_sink_floats(sink, kernels, column, b + j, a, m);
    }
}

static void layer_rows_gradient_block(const layer_rows_gradient *job,
                                      void *scratch,
                                      size_t index)
{
    const size_t a = index / job->blocks * LAYER_ROWS_SHORT;
    const size_t b = index % job->blocks * LAYER_ROWS_LONG;
    const size_t m = layer_rows_min(LAYER_ROWS_SHORT, job->one_width - a);
    const size_t n = layer_rows_min(LAYER_ROWS_LONG, job->two_width - b);
    double *sums = scratch;
    double *column = sums + LAYER_ROWS_SHORT * LAYER_ROWS_LONG;
    float *piece = (float *)(void *)(column + 2 * LAYER_ROWS_LONG);
    float *turned = piece + LAYER_ROWS_SHORT * LAYER_ROWS_LONG;
    const float *one = (const float *)job->one.data + a;
    const float *two = (const float *)job->two.data + b;
    const size_t samples = job->plain ? 1 : job->run->batch;
    const size_t one_step = job->before == 1 ? job->one.step : job->one_width;
    const size_t two_step = job->before == 1 ? job->two.step : job->two_width;
    const int single = samples == 1 && job->total <= LORA__LAYER_DEPTH;

    for (size_t s = 0; s < samples; s++) {
        for (size_t q = 0; q < job->total; q += LORA__LAYER_DEPTH) {
            layer_rows_gradient_add(
                job, single ? NULL : sums, s == 0 && q == 0, piece, turned,
                one + s * job->one.step + q * one_step, one_step,
                two + s * job->two.step + q * two_step, two_step, m, n,
                layer_rows_min(LORA__LAYER_DEPTH, job->total - q));
        }
    }
    if (single) {
        layer_rows_gradient_store_piece(job, piece, (float *)(void *)column, a,
                                        m, b, n);
    } else {
        layer_rows_gradient_store(job, sums, column, a, m, b, n);
    }
}

/* ---- gradients: blocks of few rows ------------------------------------- */

/* Whether the gradient of so few rows is made in place, from the outputs'
 * gradient turned: that is less to turn than the result, and the inputs fill
 * the tiles of gemm, or none are used. */
static int layer_rows_in_place(const layer_rows_gradient *job,
                               const lora__layer_stage *stage)
{
    return job->plain && !job->sink->turned &&
           job->total <= LORA__LAYER_DEPTH &&
           (!job->swapped || (stage->in >= 48 && job->total < stage->in));
}

static void layer_rows_in_place_block(const layer_rows_gradient *job,
                                      void *scratch,
                                      size_t index)
{
    const lora__layer_sink *sink = job->sink;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t a = index / job->blocks * LAYER_ROWS_SHORT;
    const size_t b = index % job->blocks * LAYER_ROWS_WIDE;
    const size_t m = layer_rows_min(LAYER_ROWS_SHORT, job->one_width - a);
    const size_t n = layer_rows_min(LAYER_ROWS_WIDE, job->two_width - b);
    const float *gradient = (const float *)job->one.data + a;
    const float *in = (const float *)job->two.data + b;
    float *turned = scratch;
    float *piece = turned + LAYER_ROWS_SHORT * LORA__LAYER_DEPTH;
    float *to = sink->add ? piece : sink->data + a * sink->cols + b;
    const size_t to_step = sink->add ? n : sink->cols;

    kernels->turn_f32(turned, job->total, gradient, job->one.step, job->total,
                      m);
    kernels->gemm_f32(to, to_step, turned, job->total, in, job->two.step, m, n,
                      job->total);
    for (size_t i = 0; i < m; i++) {
        if (sink->add) {
            lora__layer_sink_floats(sink, kernels, piece + i * n, a + i, b, n);
        } else if (sink->multiplier != 1.0F) {
            kernels->scale_f32(to + i * to_step, sink->multiplier, n);
        }
    }
}

/* ---- gradients --------------------------------------------------------- */

static lora_status layer_rows_gradient_run(void *arg,
                                           size_t index,
                                           uint32_t worker,
                                           lora_error *error)
{
    const layer_rows_gradient *job = arg;
    void *scratch = lora__layer_scratch(job->run, worker);
    const size_t end = layer_rows_min((index + 1) * job->grain, job->count);

    (void)error;
    for (size_t i = index * job->grain; i < end; i++) {
        if (job->in_place) {
            layer_rows_in_place_block(job, scratch, i);
        } else {
            layer_rows_gradient_block(job, scratch, i);
        }
    }
    return LORA_OK;
}

/* Blocks, so many in a job that it is worth the while; a few multiplications
 * more are what it costs to write a result. */
static void layer_rows_gradient_cut(layer_rows_gradient *job)
{
    const size_t wide = job->in_place ? LAYER_ROWS_WIDE : LAYER_ROWS_LONG;
    const size_t depth = layer_rows_min(job->total, LORA__LAYER_DEPTH) + 8;
    const size_t work = layer_rows_min(job->one_width, LAYER_ROWS_SHORT) *
                        layer_rows_min(job->two_width, wide) * depth;

    job->blocks = (job->two_width - 1) / wide + 1;
    job->count = ((job->one_width - 1) / LAYER_ROWS_SHORT + 1) * job->blocks;
    job->grain = LAYER_ROWS_WORK / work;
    job->grain = job->grain == 0 || !job->plain ? 1 : job->grain;
}

LORA_PRIVATE lora_status
lora__layer_rows_gradient(const lora__layer_run *run,
                          const lora__layer_stage *stage,
                          const lora__layer_sink *sink,
                          lora__layer_data gradient,
                          lora__layer_data in,
                          lora_error *error)
{
    layer_rows_gradient job;

    job.run = run;
    job.sink = sink;
    job.before = stage->before;
    job.swapped = stage->in < stage->out;
    job.plain = layer_rows_step(gradient, job.before, stage->out) != 0 &&
                layer_rows_step(in, job.before, stage->in) != 0;
    job.total = job.plain ? run->batch * job.before : job.before;
    job.in_place = layer_rows_in_place(&job, stage);
    job.swapped &= !job.in_place;
    job.one = job.swapped ? in : gradient;
    job.two = job.swapped ? gradient : in;
    job.one_width = job.swapped ? stage->in : stage->out;
    job.two_width = job.swapped ? stage->out : stage->in;
    if (job.before != 1) {
        job.one.step = job.plain ? job.one_width : job.one.step;
        job.two.step = job.plain ? job.two_width : job.two.step;
    }
    layer_rows_gradient_cut(&job);
    return lora__run_jobs(run->layer->context, NULL, layer_rows_gradient_run,
                          &job, (job.count - 1) / job.grain + 1, error);
}
