/* A change of the bias in a layer: b = m (d + s u), of the tensors d and u that
 * are there, with the strength m and the module's scale s. They are factors:
 *
 *   gradient  gd = m sum gY,  gu = m s sum gY
 *
 * summed over the batch and positions, in f64.
 */
#include "op/layer.h"

#include <math.h>
#include <string.h>

/* Outputs of a job. */
#define LAYER_BIAS_BLOCK 64

LORA_PRIVATE void lora__layer_take_bias(lora_layer *layer,
                                        const lora__module *module,
                                        double strength)
{
    static const lora__role roles[] = {
        LORA__ROLE_DIFF_BIAS, LORA__ROLE_NORM_BIAS, LORA__ROLE_UP_BIAS};
    lora__chain *chain = &layer->chain;

    for (size_t i = 0; i < LORA__LAYER_BIASES; i++) {
        layer->bias_factors[i] = SIZE_MAX;
        layer->bias_scales[i] = i == 0 ? strength : strength * module->scale;
    }
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        const size_t k = roles[i] == LORA__ROLE_UP_BIAS;

        if (layer->bias_factors[k] == SIZE_MAX &&
            (module->changes & LORA_PART_BIAS) != 0) {
            layer->bias_factors[k] = lora__chain_take(chain, module, roles[i]);
        }
    }
}

LORA_PRIVATE void lora__layer_derive_bias(lora_layer *layer)
{
    for (size_t c = 0; layer->bias != NULL && c < layer->channels_out; c++) {
        double sum = 0.0;

        for (size_t i = 0; i < LORA__LAYER_BIASES; i++) {
            const size_t factor = layer->bias_factors[i];

            if (factor != SIZE_MAX) {
                sum = fma(layer->bias_scales[i],
                          (double)layer->factors[factor][c], sum);
            }
        }
        layer->bias[c] = (float)sum;
    }
}

typedef struct layer_bias_job {
    const lora__layer_run *run;
    float *const *gradients;
    lora__layer_data gradient;
    int add;
} layer_bias_job;

static lora_status layer_bias_run_gradient(void *arg,
                                           size_t index,
                                           uint32_t worker,
                                           lora_error *error)
{
    const layer_bias_job *job = arg;
    const lora_layer *layer = job->run->layer;
    const size_t first = index * LAYER_BIAS_BLOCK;
    const size_t left = layer->channels_out - first;
    const size_t count = left < LAYER_BIAS_BLOCK ? left : LAYER_BIAS_BLOCK;
    const size_t positions = job->run->positions_out;
    double sums[LAYER_BIAS_BLOCK] = {0};

    (void)worker;
    (void)error;
    for (size_t s = 0; s < job->run->batch; s++) {
        const float *g = (const float *)job->gradient.data +
                         s * job->gradient.step + first * positions;

        for (size_t c = 0; c < count; c++) {
            for (size_t p = 0; p < positions; p++) {
                sums[c] += (double)*g++;
            }
        }
    }
    for (size_t i = 0; i < LORA__LAYER_BIASES; i++) {
        const size_t factor = layer->bias_factors[i];
        float *to = factor == SIZE_MAX ? NULL : job->gradients[factor];

        for (size_t c = 0; to != NULL && c < count; c++) {
            const double value = layer->bias_scales[i] * sums[c];

            to[first + c] =
                (float)(job->add ? (double)to[first + c] + value : value);
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__layer_bias_gradient(const lora__layer_run *run,
                                                   float *const *gradients,
                                                   lora__layer_data gradient,
                                                   int add,
                                                   lora_error *error)
{
    const lora_layer *layer = run->layer;
    layer_bias_job job = {run, gradients, gradient, add};
    int wanted = 0;

    for (size_t i = 0; i < LORA__LAYER_BIASES; i++) {
        const size_t factor = layer->bias_factors[i];

        wanted |= factor != SIZE_MAX && gradients[factor] != NULL;
    }
    return wanted ? lora__run_jobs(
                        layer->context, NULL, layer_bias_run_gradient, &job,
                        (layer->channels_out - 1) / LAYER_BIAS_BLOCK + 1, error)
                  : LORA_OK;
}
