/* Numbers in and out of a layer's passes: types, sums, gradients. */
#include "op/layer.h"

#include <string.h>

/* Elements that are converted at once. */
#define LAYER_STORE_CHUNK 512

LORA_PRIVATE void lora__layer_load(float *out,
                                   const lora__kernels *kernels,
                                   lora_dtype dtype,
                                   const void *in,
                                   size_t count)
{
    if (dtype == LORA_DTYPE_F16) {
        kernels->f16_to_f32(out, in, count);
    } else if (dtype == LORA_DTYPE_BF16) {
        kernels->bf16_to_f32(out, in, count);
    } else {
        memcpy(out, in, count * sizeof *out);
    }
}

static void layer_store_half(unsigned char *out,
                             lora_dtype dtype,
                             const lora__kernels *kernels,
                             const float *in,
                             size_t count)
{
    if (dtype == LORA_DTYPE_F16) {
        kernels->f32_to_f16(out, in, count);
    } else {
        kernels->f32_to_bf16(out, in, count);
    }
}

LORA_PRIVATE void lora__layer_store(void *out,
                                    lora_dtype dtype,
                                    const lora__kernels *kernels,
                                    float *in,
                                    size_t count,
                                    int add)
{
    float old[LAYER_STORE_CHUNK];

    if (dtype == LORA_DTYPE_F32) {
        if (add) {
            kernels->axpy_f32(out, in, 1.0F, count);
        } else {
            memcpy(out, in, count * sizeof *in);
        }
        return;
    }
    for (size_t i = 0; i < count; i += LAYER_STORE_CHUNK) {
        const size_t left = count - i;
        const size_t n = left < LAYER_STORE_CHUNK ? left : LAYER_STORE_CHUNK;
        unsigned char *to = (unsigned char *)out + 2 * i;

        if (add) {
            lora__layer_load(old, kernels, dtype, to, n);
            kernels->axpy_f32(in + i, old, 1.0F, n);
        }
        layer_store_half(to, dtype, kernels, in + i, n);
    }
}

LORA_PRIVATE void lora__layer_sink_row(const lora__layer_sink *sink,
                                       const double *sums,
                                       size_t row,
                                       size_t col,
                                       size_t count)
{
    const size_t step = sink->turned ? sink->rows : 1;
    float *to = sink->turned ? sink->data + col * sink->rows + row
                             : sink->data + row * sink->cols + col;

    for (size_t i = 0; i < count; i++) {
        const double value = sums[i] * (double)sink->multiplier;

        to[i * step] =
            (float)(sink->add ? value + (double)to[i * step] : value);
    }
}

LORA_PRIVATE void lora__layer_sink_floats(const lora__layer_sink *sink,
                                          const lora__kernels *kernels,
                                          const float *values,
                                          size_t row,
                                          size_t col,
                                          size_t count)
{
    float *to = sink->turned ? sink->data + col * sink->rows + row
                             : sink->data + row * sink->cols + col;

    if (sink->turned) {
        for (size_t i = 0; i < count; i++) {
            float *at = to + i * sink->rows;

            *at = (sink->add ? *at : 0.0F) + sink->multiplier * values[i];
        }
    } else if (sink->add) {
        kernels->axpy_f32(to, values, sink->multiplier, count);
    } else {
        memcpy(to, values, count * sizeof *to);
        if (sink->multiplier != 1.0F) {
            kernels->scale_f32(to, sink->multiplier, count);
        }
    }
}
