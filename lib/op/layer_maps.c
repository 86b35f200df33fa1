/* Products of a stage with maps: each sample is [before, channels, positions],
 * where positions are those of a convolution, inner axes of LoKr, or both.
 *
 *   forward   Y[out, to] = W[out, in * K] P[in * K, to]
 *   back      gP = W^T gY, added to gX from where P came from
 *   gradient  gW[out, in * K] = gY P^T, summed over samples
 *
 * P are the patches: what the kernel sees at each position, zeros outside; the
 * input itself where the kernel is one element that moves by one. Sums as in
 * layer_rows.c.
 */
#include "op/layer.h"

#include <string.h>

/* Of a product: rows and most positions of a tile; numbers of the patches. */
#define LAYER_MAPS_ROWS 64
#define LAYER_MAPS_COLS 192
#define LAYER_MAPS_PATCHES ((size_t)1 << 17)

/* Small products that one job has, by their multiplications. */
#define LAYER_MAPS_WORK ((size_t)1 << 19)

/* Of a gradient: outputs and columns of a block, positions at a time. */
#define LAYER_MAPS_OUTS 64
#define LAYER_MAPS_WIDE 144
#define LAYER_MAPS_DEPTH 512

typedef struct layer_maps_job {
    const lora__layer_run *run;
    const lora__layer_stage *stage;
    const lora__layer_finish *finish;
    const lora__layer_sink *sink;
    lora__layer_data out; /* of the product; of a gradient, the outputs' one */
    lora__layer_data in;
    const float *matrix; /* [rows, k] of one of `before`, or all of them */
    size_t rows;         /* of the product */
    size_t k;
    size_t from; /* positions, of `in` and of `out` */
    size_t to;
    size_t channels; /* of a block, where blocks are of channels */
    size_t cols;     /* positions at a time */
    size_t blocks;   /* of one product */
    size_t grain;    /* products or blocks of one job */
    size_t count;
    int patched;  /* P is not the input */
    int mirrored; /* what goes out is moved, not what comes in */
} layer_maps_job;

static size_t layer_maps_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t layer_maps_blocks(size_t count, size_t size)
{
    return (count - 1) / size + 1;
}

/* ---- patches ----------------------------------------------------------- */

/* 1 if the patches are not the input itself. */
static int layer_maps_patched(const lora__layer_run *run,
                              const lora__layer_stage *stage)
{
    const lora__layer_geometry *g = &run->geometry;

    for (size_t d = 0; stage->conv && d < 3; d++) {
        if (g->kernel[d] != 1 || g->stride[d] != 1 || g->padding[d] != 0) {
            return 1;
        }
    }
    return 0;
}

/* Where a position of the output has its patch's element, in the dimension d:
 * SIZE_MAX outside. */
static size_t layer_maps_source(const lora__layer_geometry *g,
                                size_t d,
                                size_t position,
                                size_t element)
{
    const size_t at = position * g->stride[d] + element * g->dilation[d];

    return at >= g->padding[d] && at - g->padding[d] < g->in[d]
               ? at - g->padding[d]
               : SIZE_MAX;
}

/* Positions [first, end) of one line of outputs, that patch elements are taken
 * from or given back to: the line is `first / out[2]`. */
typedef struct layer_maps_line {
    size_t count; /* positions of it */
    size_t x;     /* its first one, in the last dimension */
    size_t base;  /* of the input's line; SIZE_MAX: outside */
} layer_maps_line;

static layer_maps_line layer_maps_next(const lora__layer_geometry *g,
                                       size_t position,
                                       size_t end,
                                       const size_t *element)
{
    const size_t row = position / g->out[2];
    const size_t z = layer_maps_source(g, 0, row / g->out[1], element[0]);
    const size_t y = layer_maps_source(g, 1, row % g->out[1], element[1]);
    layer_maps_line line;

    line.x = position % g->out[2];
    line.count = layer_maps_min(g->out[2] - line.x, end - position);
    line.base = z == SIZE_MAX || y == SIZE_MAX ? SIZE_MAX
                                               : (z * g->in[1] + y) * g->in[2];
    return line;
}

static void
layer_maps_element(size_t out[3], const lora__layer_geometry *g, size_t index)
{
    out[2] = index % g->kernel[2];
    out[1] = index / g->kernel[2] % g->kernel[1];
    out[0] = index / g->kernel[2] / g->kernel[1];
}

/* Positions of a line whose element lies inside: [*begin, *end). */
static void layer_maps_inside(size_t *begin,
                              size_t *end,
                              const lora__layer_geometry *g,
                              const layer_maps_line *line,
                              size_t element)
{
    const size_t offset = element * g->dilation[2];
    const size_t limit = g->in[2] + g->padding[2];
    size_t first = 0;
    size_t past = 0;

    if (offset < g->padding[2]) {
        first = (g->padding[2] - offset - 1) / g->stride[2] + 1;
    }
    if (offset < limit) {
        past = (limit - offset - 1) / g->stride[2] + 1;
    }
    *begin = first > line->x ? first - line->x : 0;
    *end = past > line->x ? layer_maps_min(past - line->x, line->count) : 0;
    if (*begin > *end) {
        *begin = *end;
    }
}

/* One row of patches: one element of the kernel in one channel. */
static void layer_maps_take(float *out,
                            const lora__layer_geometry *g,
                            const float *channel,
                            size_t kernel_index,
                            size_t first,
                            size_t end)
{
    size_t element[3];
    layer_maps_line line;

    layer_maps_element(element, g, kernel_index);
    for (size_t p = first; p < end; p += line.count, out += line.count) {
        const float *from;
        size_t a;
        size_t b;

        line = layer_maps_next(g, p, end, element);
        if (line.base == SIZE_MAX) {
            memset(out, 0, line.count * sizeof *out);
            continue;
        }
        layer_maps_inside(&a, &b, g, &line, element[2]);
        memset(out, 0, a * sizeof *out);
        memset(out + b, 0, (line.count - b) * sizeof *out);
        from = channel + line.base;
        if (a == b) {
            continue;
        }
        from += (line.x + a) * g->stride[2] + element[2] * g->dilation[2] -
                g->padding[2];
        if (g->stride[2] == 1) {
            memcpy(out + a, from, (b - a) * sizeof *out);
        } else {
            for (size_t i = a; i < b; i++, from += g->stride[2]) {
                out[i] = *from;
            }
        }
    }
}

/* The reverse: add a row of patches to its channel. */
static void layer_maps_give(float *channel,
                            const lora__layer_geometry *g,
                            const float *in,
                            size_t kernel_index,
                            size_t first,
                            size_t end)
{
    size_t element[3];
    layer_maps_line line;

    layer_maps_element(element, g, kernel_index);
    for (size_t p = first; p < end; p += line.count, in += line.count) {
        float *to;
        size_t a;
        size_t b;

        line = layer_maps_next(g, p, end, element);
        if (line.base == SIZE_MAX) {
            continue;
        }
        layer_maps_inside(&a, &b, g, &line, element[2]);
        if (a == b) {
            continue;
        }
        to = channel + line.base + (line.x + a) * g->stride[2] +
             element[2] * g->dilation[2] - g->padding[2];
        for (size_t i = a; i < b; i++, to += g->stride[2]) {
            *to += in[i];
        }
    }
}

/* P of some channels and positions, and the step of its rows. */
static const float *layer_maps_patches(size_t *step,
                                       float *room,
                                       const layer_maps_job *job,
                                       const float *item,
                                       size_t channel,
                                       size_t channels,
                                       size_t first,
                                       size_t count)
{
    const size_t kernel = job->stage->kernel;

    if (!job->patched) {
        *step = job->from;
        return item + channel * job->from + first;
    }
    *step = count;
    for (size_t c = 0; c < channels * kernel; c++) {
        layer_maps_take(room + c * count, &job->run->geometry,
                        item + (channel + c / kernel) * job->from, c % kernel,
                        first, first + count);
    }
    return room;
}

/* ---- products ---------------------------------------------------------- */

/* C[m, n] = A[m, k] B[k, n], in pieces of the depth, added in `piece`. */
static void layer_maps_gemm(const lora__kernels *kernels,
                            float *c,
                            size_t c_step,
                            float *piece,
                            const float *a,
                            size_t a_step,
                            const float *b,
                            size_t b_step,
                            size_t m,
                            size_t n,
                            size_t k)
{
    for (size_t p = 0; p < k; p += LORA__LAYER_DEPTH) {
        const size_t depth = layer_maps_min(LORA__LAYER_DEPTH, k - p);

        kernels->gemm_f32(p == 0 ? c : piece, p == 0 ? c_step : n, a + p,
                          a_step, b + p * b_step, b_step, m, n, depth);
        for (size_t i = 0; p != 0 && i < m; i++) {
            kernels->axpy_f32(c + i * c_step, piece + i * n, 1.0F, n);
        }
    }
}

/* Positions at a time of a product with patches of `k` rows. */
static size_t layer_maps_cols(size_t k, int patched)
{
    const size_t most = LAYER_MAPS_PATCHES / k / 48 * 48;

    return !patched    ? LAYER_MAPS_COLS
           : most < 48 ? 48
                       : layer_maps_min(most, LAYER_MAPS_COLS);
}

/* Rows [row, row + rows) of one product, at positions from `first` on. */
static void layer_maps_tile(const layer_maps_job *job,
                            float *tile,
                            size_t sample,
                            size_t item,
                            const float *patches,
                            size_t step,
                            size_t row,
                            size_t rows,
                            size_t first,
                            size_t count)
{
    const lora__layer_finish *finish = job->finish;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t channel = item * job->rows + row;
    const size_t at = sample * job->out.step + channel * job->to + first;
    const float *matrix =
        job->matrix + lora__layer_part(job->stage, item) * job->rows * job->k +
        row * job->k;
    float *piece = tile + LAYER_MAPS_ROWS * LAYER_MAPS_COLS;
    const int in_place = job->out.dtype == LORA_DTYPE_F32 && !finish->add &&
                         finish->bias == NULL;
    float *to = in_place ? (float *)job->out.data + at : tile;
    const size_t to_step = in_place ? job->to : count;
    const size_t after = job->stage->after;
    const float *bias = finish->bias;

    layer_maps_gemm(kernels, to, to_step, piece, matrix, job->k, patches, step,
                    rows, count, job->k);
    for (size_t i = 0; i < rows; i++, to += to_step) {
        if (finish->multiplier != 1.0F) {
            kernels->scale_f32(to, finish->multiplier, count);
        }
        for (size_t p = 0; bias != NULL && p < count; p++) {
            to[p] +=
                bias[(channel + i) * after + (first + p) * after / job->to];
        }
        if (!in_place) {
            lora__layer_store(lora__layer_at(job->out, at + i * job->to),
                              job->out.dtype, kernels, to, count, finish->add);
        }
    }
}

static lora_status
layer_maps_run(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const layer_maps_job *job = arg;
    const size_t before = job->stage->before;
    const size_t end = layer_maps_min((index + 1) * job->grain, job->count);
    float *tile = lora__layer_scratch(job->run, worker);
    float *room = tile + 2 * (size_t)LAYER_MAPS_ROWS * LAYER_MAPS_COLS;

    (void)error;
    for (size_t i = index * job->grain; i < end; i++) {
        const size_t first = i % job->blocks * job->cols;
        const size_t item = i / job->blocks % before;
        const size_t sample = i / job->blocks / before;
        const size_t count = layer_maps_min(job->cols, job->to - first);
        const size_t width = job->k / (job->patched ? job->stage->kernel : 1);
        const float *from = (const float *)job->in.data +
                            sample * job->in.step + item * width * job->from;
        size_t step;
        const float *patches =
            layer_maps_patches(&step, room, job, from, 0, width, first, count);

        for (size_t row = 0; row < job->rows; row += LAYER_MAPS_ROWS) {
            layer_maps_tile(job, tile, sample, item, patches, step, row,
                            layer_maps_min(LAYER_MAPS_ROWS, job->rows - row),
                            first, count);
        }
    }
    return LORA_OK;
}

/* Channels of a block to which patches are given, which lies in scratch as a
 * whole: few enough for that, and for some blocks of them. */
static size_t
layer_maps_channels(size_t kernel, size_t channels, size_t positions)
{
    const size_t by_kernel = LAYER_MAPS_WIDE / kernel;
    const size_t by_size = ((size_t)1 << 18) / positions;
    const size_t count = layer_maps_min(layer_maps_min(by_kernel, by_size),
                                        layer_maps_blocks(channels, 4));

    return count == 0 ? 1 : count;
}

/* What is left to be done with a block of channels. */
static void layer_maps_finish(const layer_maps_job *job,
                              float *whole,
                              size_t sample,
                              size_t channel,
                              size_t channels)
{
    const lora__layer_finish *finish = job->finish;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t count = channels * job->to;

    if (finish->multiplier != 1.0F) {
        kernels->scale_f32(whole, finish->multiplier, count);
    }
    for (size_t i = 0; finish->bias != NULL && i < count; i++) {
        whole[i] += finish->bias[channel + i / job->to];
    }
    lora__layer_store(
        lora__layer_at(job->out, sample * job->out.step + channel * job->to),
        job->out.dtype, kernels, whole, count, finish->add);
}

/* A block of channels, from all positions: first the product, a patch for each
 * position, and then these are added to where they belong. */
static lora_status
layer_maps_run_give(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const layer_maps_job *job = arg;
    const lora__layer_stage *stage = job->stage;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t kernel = stage->kernel;
    const size_t channel = index % job->blocks * job->channels;
    const size_t item = index / job->blocks % stage->before;
    const size_t sample = index / job->blocks / stage->before;
    const size_t channels = layer_maps_min(job->channels, job->rows - channel);
    const size_t rows = channels * kernel;
    const float *from = (const float *)job->in.data + sample * job->in.step +
                        item * job->k * job->from;
    const float *matrix =
        job->matrix +
        (lora__layer_part(stage, item) * job->rows + channel) * kernel * job->k;
    float *whole = lora__layer_scratch(job->run, worker);
    float *patches = whole + job->channels * job->to;
    float *piece = patches + job->channels * kernel * job->cols;

    (void)error;
    memset(whole, 0, channels * job->to * sizeof *whole);
    for (size_t p = 0; p < job->from; p += job->cols) {
        const size_t count = layer_maps_min(job->cols, job->from - p);

        layer_maps_gemm(kernels, patches, count, piece, matrix, job->k,
                        from + p, job->from, rows, count, job->k);
        for (size_t r = 0; r < rows; r++) {
            const size_t element =
                job->mirrored ? kernel - 1 - r % kernel : r % kernel;

            layer_maps_give(whole + r / kernel * job->to,
                            job->mirrored ? &job->run->mirror
                                          : &job->run->geometry,
                            patches + r * count, element, p, p + count);
        }
    }
    layer_maps_finish(job, whole, sample, item * job->rows + channel, channels);
    return LORA_OK;
}

/* Work is cut by sizes alone. */
static size_t layer_maps_grain(size_t rows, size_t k, size_t cols)
{
    const size_t one = rows * layer_maps_min(k, LAYER_MAPS_WORK) * cols;
    const size_t grain = one == 0 ? 1 : LAYER_MAPS_WORK / one;

    return grain == 0 ? 1 : grain;
}

LORA_PRIVATE lora_status
lora__layer_maps_product(const lora__layer_run *run,
                         const lora__layer_stage *stage,
                         int back,
                         lora__layer_data out,
                         lora__layer_data in,
                         const lora__layer_finish *finish,
                         lora_error *error)
{
    layer_maps_job job;
    lora_context *context = run->layer->context;

    memset(&job, 0, sizeof job);
    job.run = run;
    job.stage = stage;
    job.finish = finish;
    job.out = out;
    job.in = in;
    job.matrix = back ? stage->turned : stage->weight;
    job.from = lora__layer_positions(run, stage, back) * stage->after;
    job.to = lora__layer_positions(run, stage, !back) * stage->after;
    job.patched = layer_maps_patched(run, stage);
    job.rows = back ? stage->in : stage->out;
    if (job.patched && (back || stage->spread != NULL)) {
        job.k = back ? stage->out : stage->in;
        job.mirrored = !back;
        job.matrix = back ? stage->turned : stage->spread;
        job.channels = layer_maps_channels(stage->kernel, job.rows, job.to);
        job.cols = LAYER_MAPS_COLS;
        job.blocks = layer_maps_blocks(job.rows, job.channels);
        return lora__run_jobs(context, NULL, layer_maps_run_give, &job,
                              run->batch * stage->before * job.blocks, error);
    }
    job.k = back ? stage->out : stage->in * stage->kernel;
    job.cols = layer_maps_cols(job.k, job.patched);
    job.blocks = layer_maps_blocks(job.to, job.cols);
    job.count = run->batch * stage->before * job.blocks;
    job.grain =
        layer_maps_grain(job.rows, job.k, layer_maps_min(job.cols, job.to));
    return lora__run_jobs(context, NULL, layer_maps_run, &job,
                          layer_maps_blocks(job.count, job.grain), error);
}

/* ---- gradients --------------------------------------------------------- */

/* The blocks of one weight: of outputs, and of channels. */
static size_t layer_maps_gradient_channels(const lora__layer_stage *stage)
{
    const size_t count = LAYER_MAPS_WIDE / stage->kernel;

    return layer_maps_min(count == 0 ? 1 : count, stage->in);
}

/* Outputs of a block whose patches are taken. */
static size_t layer_maps_gradient_outs(const lora__layer_stage *stage)
{
    const size_t count = LAYER_MAPS_WIDE / stage->kernel;

    return layer_maps_min(count == 0 ? 1 : count, stage->out);
}

static lora_status layer_maps_run_gradient(void *arg,
                                           size_t index,
                                           uint32_t worker,
                                           lora_error *error)
{
    const layer_maps_job *job = arg;
    const lora__layer_stage *stage = job->stage;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t outs = layer_maps_blocks(stage->out, LAYER_MAPS_OUTS);
    const size_t channel = index % job->blocks * job->channels;
    const size_t channels = layer_maps_min(job->channels, stage->in - channel);
    const size_t row = index / job->blocks % outs * LAYER_MAPS_OUTS;
    const size_t rows = layer_maps_min(LAYER_MAPS_OUTS, stage->out - row);
    const size_t only = index / job->blocks / outs; /* of the parts */
    const size_t n = channels * stage->kernel;
    const size_t width = job->channels * stage->kernel;
    double *sums = lora__layer_scratch(job->run, worker);
    double *piece = sums + LAYER_MAPS_OUTS * width;
    float *room = (float *)(void *)(piece + LAYER_MAPS_OUTS * width);

    (void)error;
    memset(sums, 0, rows * n * sizeof *sums);
    for (size_t i = 0; i < job->run->batch * stage->before; i++) {
        const size_t item = i % stage->before;
        const size_t sample = i / stage->before;
        const float *x = (const float *)job->in.data + sample * job->in.step +
                         item * stage->in * job->from;
        const float *g = (const float *)job->out.data + sample * job->out.step +
                         (item * stage->out + row) * job->to;

        for (size_t p = 0; lora__layer_part(stage, item) == only && p < job->to;
             p += LAYER_MAPS_DEPTH) {
            const size_t count = layer_maps_min(LAYER_MAPS_DEPTH, job->to - p);
            size_t step;
            const float *patches = layer_maps_patches(
                &step, room, job, x, channel, channels, p, count);

            kernels->dots_f32(piece, n, g + p, job->to, patches, step, rows, n,
                              count);
            for (size_t j = 0; j < rows * n; j++) {
                sums[j] += piece[j];
            }
        }
    }
    for (size_t i = 0; i < rows; i++) {
        lora__layer_sink_row(job->sink, sums + i * n,
                             only * stage->out + row + i,
                             channel * stage->kernel, n);
    }
    return LORA_OK;
}

/* The same with the outputs' gradient moved instead of the input: patches of
 * that, [outs, kernel] of them, by channels as they are. */
static lora_status layer_maps_run_mirrored(void *arg,
                                           size_t index,
                                           uint32_t worker,
                                           lora_error *error)
{
    const layer_maps_job *job = arg;
    const lora__layer_stage *stage = job->stage;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t kernel = stage->kernel;
    const size_t outs = layer_maps_blocks(stage->out, job->rows);
    const size_t channel = index % job->blocks * LAYER_MAPS_OUTS;
    const size_t n = layer_maps_min(LAYER_MAPS_OUTS, stage->in - channel);
    const size_t row = index / job->blocks % outs * job->rows;
    const size_t rows = layer_maps_min(job->rows, stage->out - row);
    const size_t only = index / job->blocks / outs; /* of the parts */
    const size_t width = job->rows * kernel * LAYER_MAPS_OUTS;
    double *sums = lora__layer_scratch(job->run, worker);
    double *piece = sums + width;
    float *room = (float *)(void *)(piece + width);

    (void)error;
    memset(sums, 0, rows * kernel * n * sizeof *sums);
    for (size_t i = 0; i < job->run->batch * stage->before; i++) {
        const size_t item = i % stage->before;
        const size_t sample = i / stage->before;
        const float *x = (const float *)job->in.data + sample * job->in.step +
                         (item * stage->in + channel) * job->from;
        const float *g = (const float *)job->out.data + sample * job->out.step +
                         (item * stage->out + row) * job->to;

        for (size_t p = 0;
             lora__layer_part(stage, item) == only && p < job->from;
             p += LAYER_MAPS_DEPTH) {
            const size_t count =
                layer_maps_min(LAYER_MAPS_DEPTH, job->from - p);

            for (size_t r = 0; r < rows * kernel; r++) {
                layer_maps_take(room + r * count, &job->run->mirror,
                                g + r / kernel * job->to,
                                kernel - 1 - r % kernel, p, p + count);
            }
            kernels->dots_f32(piece, n, room, count, x + p, job->from,
                              rows * kernel, n, count);
            for (size_t j = 0; j < rows * kernel * n; j++) {
                sums[j] += piece[j];
            }
        }
    }
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < n * kernel; j++) {
            piece[j] = sums[(i * kernel + j % kernel) * n + j / kernel];
        }
        lora__layer_sink_row(job->sink, piece, only * stage->out + row + i,
                             channel * kernel, n * kernel);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__layer_maps_gradient(const lora__layer_run *run,
                          const lora__layer_stage *stage,
                          const lora__layer_sink *sink,
                          lora__layer_data gradient,
                          lora__layer_data in,
                          lora_error *error)
{
    layer_maps_job job;

    memset(&job, 0, sizeof job);
    job.run = run;
    job.stage = stage;
    job.sink = sink;
    job.out = gradient;
    job.in = in;
    job.from = lora__layer_positions(run, stage, 0) * stage->after;
    job.to = lora__layer_positions(run, stage, 1) * stage->after;
    job.patched = layer_maps_patched(run, stage);
    if (stage->spread != NULL) {
        job.rows = layer_maps_gradient_outs(stage);
        job.blocks = layer_maps_blocks(stage->in, LAYER_MAPS_OUTS);
        return lora__run_jobs(
            run->layer->context, NULL, layer_maps_run_mirrored, &job,
            job.blocks * layer_maps_blocks(stage->out, job.rows) * stage->parts,
            error);
    }
    job.channels = layer_maps_gradient_channels(stage);
    job.blocks = layer_maps_blocks(stage->in, job.channels);
    return lora__run_jobs(
        run->layer->context, NULL, layer_maps_run_gradient, &job,
        job.blocks * layer_maps_blocks(stage->out, LAYER_MAPS_OUTS) *
            stage->parts,
        error);
}

/* ---- scratch ----------------------------------------------------------- */

/* a * b * size added to *sum. */
static int layer_maps_add(size_t *sum, size_t a, size_t b, size_t size)
{
    size_t bytes;

    return lora__mul_size(a, b, &bytes) &&
           lora__mul_size(bytes, size, &bytes) &&
           lora__add_size(*sum, bytes, sum);
}

/* Of giving patches to `channels` of `positions`. */
static int layer_maps_add_give(size_t *sum,
                               const lora__layer_stage *stage,
                               size_t channels,
                               size_t positions)
{
    const size_t block =
        layer_maps_channels(stage->kernel, channels, positions);

    return layer_maps_add(sum, block, positions, sizeof(float)) &&
           layer_maps_add(sum, block * stage->kernel, 2 * LAYER_MAPS_COLS,
                          sizeof(float));
}

/* Of the gradient: sums, what is added to them, and patches of `wide` rows. */
static int layer_maps_add_gradient(size_t *sum, size_t wide, int patched)
{
    return layer_maps_add(sum, 2 * LAYER_MAPS_OUTS, wide, sizeof(double)) &&
           (!patched ||
            layer_maps_add(sum, wide, LAYER_MAPS_DEPTH, sizeof(float)));
}

LORA_PRIVATE size_t lora__layer_maps_scratch(const lora__layer_run *run,
                                             const lora__layer_stage *stage)
{
    const int patched = layer_maps_patched(run, stage);
    const size_t k = stage->in * stage->kernel;
    const size_t wide =
        (stage->spread != NULL ? layer_maps_gradient_outs(stage)
                               : layer_maps_gradient_channels(stage)) *
        stage->kernel;
    size_t bytes[4] = {0, 0, 0, 0};
    size_t most = 0;

    if (!layer_maps_add(&bytes[0], 2 * LAYER_MAPS_ROWS, LAYER_MAPS_COLS,
                        sizeof(float)) ||
        (patched &&
         !layer_maps_add(&bytes[0], k, layer_maps_cols(k, 1), sizeof(float))) ||
        (patched && !layer_maps_add_give(&bytes[1], stage, stage->in,
                                         run->positions_in)) ||
        (patched && !layer_maps_add_give(&bytes[2], stage, stage->out,
                                         run->positions_out)) ||
        !layer_maps_add_gradient(&bytes[3], wide, patched)) {
        return 0;
    }
    for (size_t i = 0; i < LORA__COUNT(bytes); i++) {
        most = bytes[i] > most ? bytes[i] : most;
    }
    return most;
}
