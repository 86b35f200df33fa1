/* A stage that has a number for each channel:
 *
 *   forward and back  Y[c, position] = w[c] X[c, position]
 *   gradient          gw[c] = sum gY[c, position] X[c, position], in f64
 */
#include "op/layer.h"

#include <string.h>

/* Numbers at a time, and channels of a job of the gradient. */
#define LAYER_SCALING_CHUNK 512
#define LAYER_SCALING_BLOCK 64

typedef struct layer_scaling_job {
    const lora__layer_run *run;
    const lora__layer_stage *stage;
    const lora__layer_finish *finish;
    const lora__layer_sink *sink;
    lora__layer_data out; /* of a gradient, the outputs' one */
    lora__layer_data in;
} layer_scaling_job;

/* One row or image. */
static lora_status layer_scaling_run_product(void *arg,
                                             size_t index,
                                             uint32_t worker,
                                             lora_error *error)
{
    const layer_scaling_job *job = arg;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t positions = lora__layer_positions(job->run, job->stage, 0);
    const size_t count = job->stage->before * positions;
    const float *in = (const float *)job->in.data + index * job->in.step;
    float room[LAYER_SCALING_CHUNK];
    size_t n;

    (void)worker;
    (void)error;
    for (size_t first = 0; first < count; first += n) {
        const size_t channel = first / positions;
        const size_t left =
            positions == 1 ? count - first : (channel + 1) * positions - first;

        n = left < LAYER_SCALING_CHUNK ? left : LAYER_SCALING_CHUNK;
        if (positions == 1) {
            for (size_t i = 0; i < n; i++) {
                room[i] = job->stage->weight[first + i] * in[first + i];
            }
        } else {
            memcpy(room, in + first, n * sizeof *room);
            kernels->scale_f32(room, job->stage->weight[channel], n);
        }
        if (job->finish->multiplier != 1.0F) {
            kernels->scale_f32(room, job->finish->multiplier, n);
        }
        lora__layer_store(
            lora__layer_at(job->out, index * job->out.step + first),
            job->out.dtype, kernels, room, n, job->finish->add);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__layer_scaling_product(const lora__layer_run *run,
                            const lora__layer_stage *stage,
                            lora__layer_data out,
                            lora__layer_data in,
                            const lora__layer_finish *finish,
                            lora_error *error)
{
    layer_scaling_job job = {run, stage, finish, NULL, out, in};

    return lora__run_jobs(run->layer->context, NULL, layer_scaling_run_product,
                          &job, run->batch, error);
}

static lora_status layer_scaling_run_gradient(void *arg,
                                              size_t index,
                                              uint32_t worker,
                                              lora_error *error)
{
    const layer_scaling_job *job = arg;
    const size_t positions = lora__layer_positions(job->run, job->stage, 0);
    const size_t first = index * LAYER_SCALING_BLOCK;
    const size_t left = job->stage->before - first;
    const size_t count =
        left < LAYER_SCALING_BLOCK ? left : LAYER_SCALING_BLOCK;
    double sums[LAYER_SCALING_BLOCK] = {0};

    (void)worker;
    (void)error;
    for (size_t s = 0; s < job->run->batch; s++) {
        const float *g = (const float *)job->out.data + s * job->out.step +
                         first * positions;
        const float *x =
            (const float *)job->in.data + s * job->in.step + first * positions;

        for (size_t c = 0; c < count; c++) {
            for (size_t p = 0; p < positions; p++) {
                sums[c] += (double)*g++ * (double)*x++;
            }
        }
    }
    lora__layer_sink_row(job->sink, sums, first, 0, count);
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__layer_scaling_gradient(const lora__layer_run *run,
                             const lora__layer_stage *stage,
                             const lora__layer_sink *sink,
                             lora__layer_data gradient,
                             lora__layer_data in,
                             lora_error *error)
{
    layer_scaling_job job = {run, stage, NULL, sink, gradient, in};

    return lora__run_jobs(run->layer->context, NULL, layer_scaling_run_gradient,
                          &job, (stage->before - 1) / LAYER_SCALING_BLOCK + 1,
                          error);
}
