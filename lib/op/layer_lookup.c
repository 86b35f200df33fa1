/* The first stage of an embedding: what comes in are ids, each of which is the
 * number of a column of the weight.
 *
 *   forward   Y[row] = W[:, id of row]
 *   gradient  gW[:, id] = the sum of gY[row] over the rows with that id, in f32
 *
 * Ids have no gradient.
 */
#include "op/layer.h"

#include <string.h>

/* Rows of a job. */
#define LAYER_LOOKUP_BLOCK 256

typedef struct layer_lookup_job {
    const lora__layer_run *run;
    const lora__layer_stage *stage;
    const lora__layer_sink *sink;
    lora__layer_data ids;
    lora__layer_data data;
    float multiplier;
} layer_lookup_job;

static uint64_t layer_lookup_id(lora__layer_data ids, size_t row)
{
    int64_t id;

    memcpy(&id, (const unsigned char *)ids.data + row * ids.step * sizeof id,
           sizeof id);
    return (uint64_t)id;
}

LORA_PRIVATE lora_status lora__layer_lookup_check(const lora__layer_run *run,
                                                  lora__layer_data ids,
                                                  lora_error *error)
{
    const lora_layer *layer = run->layer;

    for (size_t i = 0; i < run->batch; i++) {
        const uint64_t id = layer_lookup_id(ids, i);

        if (id >= layer->channels_in) {
            return lora__fail(
                error, LORA_ERROR_RANGE, LORA_NO_OFFSET, layer->name,
                "id %lld of %llu in row %llu", (long long)id,
                (unsigned long long)layer->channels_in, (unsigned long long)i);
        }
    }
    return LORA_OK;
}

static lora_status layer_lookup_run_product(void *arg,
                                            size_t index,
                                            uint32_t worker,
                                            lora_error *error)
{
    const layer_lookup_job *job = arg;
    const lora__kernels *kernels = job->run->layer->kernels;
    const size_t width = job->stage->out;
    const size_t first = index * LAYER_LOOKUP_BLOCK;
    const size_t left = job->run->batch - first;
    const size_t end =
        first + (left < LAYER_LOOKUP_BLOCK ? left : LAYER_LOOKUP_BLOCK);

    (void)worker;
    (void)error;
    for (size_t i = first; i < end; i++) {
        float *to = (float *)job->data.data + i * job->data.step;

        memcpy(to,
               job->stage->turned +
                   (size_t)layer_lookup_id(job->ids, i) * width,
               width * sizeof *to);
        if (job->multiplier != 1.0F) {
            kernels->scale_f32(to, job->multiplier, width);
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__layer_lookup_product(const lora__layer_run *run,
                           const lora__layer_stage *stage,
                           lora__layer_data out,
                           lora__layer_data ids,
                           const lora__layer_finish *finish,
                           lora_error *error)
{
    layer_lookup_job job = {run, stage, NULL, ids, out, finish->multiplier};

    return lora__run_jobs(run->layer->context, NULL, layer_lookup_run_product,
                          &job, (run->batch - 1) / LAYER_LOOKUP_BLOCK + 1,
                          error);
}

/* One row of the weight, in the order of the batch. */
static lora_status layer_lookup_run_gradient(void *arg,
                                             size_t index,
                                             uint32_t worker,
                                             lora_error *error)
{
    const layer_lookup_job *job = arg;
    const lora__layer_sink *sink = job->sink;
    const float *gradient = (const float *)job->data.data + index;
    const size_t step = sink->turned ? sink->rows : 1;
    float *to = sink->data + index * (sink->turned ? 1 : sink->cols);

    (void)worker;
    (void)error;
    for (size_t i = 0; !sink->add && i < sink->cols; i++) {
        to[i * step] = 0.0F;
    }
    for (size_t i = 0; i < job->run->batch; i++) {
        to[(size_t)layer_lookup_id(job->ids, i) * step] +=
            sink->multiplier * gradient[i * job->data.step];
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__layer_lookup_gradient(const lora__layer_run *run,
                            const lora__layer_stage *stage,
                            const lora__layer_sink *sink,
                            lora__layer_data gradient,
                            lora__layer_data ids,
                            lora_error *error)
{
    layer_lookup_job job = {run, stage, sink, ids, gradient, 1.0F};

    return lora__run_jobs(run->layer->context, NULL, layer_lookup_run_gradient,
                          &job, stage->out, error);
}
