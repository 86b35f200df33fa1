/* A layer's adapter prepared to run, and the pieces that its passes are made
 * of: products of a stage with rows (layers of one position) and with maps
 * (positions of convolutions, and inner axes of LoKr).
 *
 * Work is cut into jobs by sizes alone, and each number of a result is made by
 * one job: any number of threads gives the same bits.
 */
#ifndef LORA__OP_LAYER_H
#define LORA__OP_LAYER_H

#include "adapter/chain.h"
#include "adapter/kind.h"
#include "core/arena.h"

#include <lora/layer.h>

/* Sums in f32 are over at most so many products; of such sums more are added
 * in f64, or few of them in f32. */
#define LORA__LAYER_DEPTH 512

/* Tensors that a change of the bias may be the sum of: one that is changed by
 * the strength alone, and one that the module's scale is of, too. */
#define LORA__LAYER_BIASES 2

/* A link with its weight. */
typedef struct lora__layer_stage {
    const lora__link *link;
    size_t before;
    size_t in;
    size_t out;
    size_t after;
    size_t kernel;
    int conv;
    size_t parts; /* weights there are: see chain.h */
    size_t each;
    float *weight;       /* [parts, out, in * kernel] */
    float *turned;       /* [parts, in * kernel, out] */
    float *spread;       /* [parts, out, kernel, in], where few channels
                          * are made of many: they are moved instead; or NULL */
    float multiplier;    /* of what goes out */
    size_t weight_count; /* numbers of all weights */
} lora__layer_stage;

/* A convolution, in three dimensions of which the unused are 1. */
typedef struct lora__layer_geometry {
    size_t kernel[3];
    size_t stride[3];
    size_t padding[3];
    size_t dilation[3];
    size_t in[3];
    size_t out[3];
} lora__layer_geometry;

struct lora_layer {
    uint32_t references; /* atomic */
    lora_context *context;
    const lora__kernels *kernels;
    lora__arena arena;
    const char *name;
    lora_dtype dtype;
    lora__layer_geometry geometry; /* without `in` and `out` */
    size_t dims;                   /* the last of it that are used */
    int rows;                      /* nothing tells of images */
    size_t channels_in;
    size_t channels_out;
    lora__chain chain;
    lora_layer_factor infos[LORA__CHAIN_FACTORS];
    float *factors[LORA__CHAIN_FACTORS];
    float *bias; /* of each output, the strength in it; NULL: none */
    size_t bias_factors[LORA__LAYER_BIASES]; /* SIZE_MAX: no such */
    double bias_scales[LORA__LAYER_BIASES];
    float *scratch;
    size_t scratch_count;
    float scale; /* in the weight of a single stage */
    lora__layer_stage stages[LORA__CHAIN_LINKS];
    size_t stage_count;
};

/* Numbers of a batch: samples lie `step` elements apart. */
typedef struct lora__layer_data {
    void *data;
    lora_dtype dtype;
    size_t step;
} lora__layer_data;

/* One pass over one batch. */
typedef struct lora__layer_run {
    const lora_layer *layer;
    size_t batch;
    size_t positions_in;
    size_t positions_out;
    lora__layer_geometry geometry;
    lora__layer_geometry mirror; /* from inputs to outputs, where they move by
                                  * one: as the geometry, of what goes back */
    unsigned char *scratch;      /* of all workers */
    size_t scratch_bytes;        /* of one */
} lora__layer_run;

/* Where a gradient of a weight goes. */
typedef struct lora__layer_sink {
    float *data;
    size_t rows; /* of the whole weight */
    size_t cols;
    int turned; /* to [cols, rows] */
    int add;
    float multiplier;
} lora__layer_sink;

/* What is done with numbers that are ready. */
typedef struct lora__layer_finish {
    float multiplier;
    const float *bias; /* of each channel of `before` * channels; or NULL */
    int add;           /* to what is there */
} lora__layer_finish;

/* Positions before and after a stage. */
static inline size_t lora__layer_positions(const lora__layer_run *run,
                                           const lora__layer_stage *stage,
                                           int after)
{
    size_t i = (size_t)(stage - run->layer->stages);
    int passed = after && stage->conv;

    for (size_t k = 0; k < i; k++) {
        passed |= run->layer->stages[k].conv;
    }
    return passed ? run->positions_out : run->positions_in;
}

/* 1 if the stage is a product with rows. */
static inline int lora__layer_is_rows(const lora__layer_run *run,
                                      const lora__layer_stage *stage)
{
    return stage->after == 1 && stage->kernel == 1 && stage->parts == 1 &&
           lora__layer_positions(run, stage, 0) == 1 &&
           lora__layer_positions(run, stage, 1) == 1;
}

/* 1 if what goes in are ids. */
static inline int lora__layer_takes_ids(const lora_layer *layer)
{
    return layer->stages[0].link->lookup;
}

/* 1 if the stage has a number for each channel. */
static inline int lora__layer_is_scaling(const lora__layer_stage *stage)
{
    return stage->in == 1 && stage->out == 1 && stage->after == 1 &&
           !stage->conv && !stage->link->turned && stage->each == 1 &&
           stage->parts == stage->before && stage->parts > 1;
}

/* Which weight one of `before` is multiplied by. */
static inline size_t lora__layer_part(const lora__layer_stage *stage,
                                      size_t item)
{
    return item / stage->each % stage->parts;
}

/* Bytes of scratch that a worker needs for a stage's passes; 0 on overflow. */
LORA_PRIVATE size_t lora__layer_rows_scratch(const lora__layer_run *run,
                                             const lora__layer_stage *stage);
LORA_PRIVATE size_t lora__layer_maps_scratch(const lora__layer_run *run,
                                             const lora__layer_stage *stage);

/* out = finish(stage(in)), or with `back` the same with the transposed stage,
 * from what went out to what came in. `in` of maps is F32. */
LORA_PRIVATE lora_status
lora__layer_rows_product(const lora__layer_run *run,
                         const lora__layer_stage *stage,
                         int back,
                         lora__layer_data out,
                         lora__layer_data in,
                         const lora__layer_finish *finish,
                         lora_error *error);
LORA_PRIVATE lora_status
lora__layer_maps_product(const lora__layer_run *run,
                         const lora__layer_stage *stage,
                         int back,
                         lora__layer_data out,
                         lora__layer_data in,
                         const lora__layer_finish *finish,
                         lora_error *error);

/* The gradient of a stage's weight, from what came in and the gradient of what
 * went out, both F32. */
LORA_PRIVATE lora_status
lora__layer_rows_gradient(const lora__layer_run *run,
                          const lora__layer_stage *stage,
                          const lora__layer_sink *sink,
                          lora__layer_data gradient,
                          lora__layer_data in,
                          lora_error *error);
LORA_PRIVATE lora_status
lora__layer_maps_gradient(const lora__layer_run *run,
                          const lora__layer_stage *stage,
                          const lora__layer_sink *sink,
                          lora__layer_data gradient,
                          lora__layer_data in,
                          lora_error *error);

/* The same of a stage that scales channels, which is one way forward and back.
 */
LORA_PRIVATE lora_status
lora__layer_scaling_product(const lora__layer_run *run,
                            const lora__layer_stage *stage,
                            lora__layer_data out,
                            lora__layer_data in,
                            const lora__layer_finish *finish,
                            lora_error *error);
LORA_PRIVATE lora_status
lora__layer_scaling_gradient(const lora__layer_run *run,
                             const lora__layer_stage *stage,
                             const lora__layer_sink *sink,
                             lora__layer_data gradient,
                             lora__layer_data in,
                             lora_error *error);

/* The same of an embedding's first stage, whose `in` are ids; and RANGE where
 * one of these is of no column. */
LORA_PRIVATE lora_status
lora__layer_lookup_product(const lora__layer_run *run,
                           const lora__layer_stage *stage,
                           lora__layer_data out,
                           lora__layer_data ids,
                           const lora__layer_finish *finish,
                           lora_error *error);
LORA_PRIVATE lora_status
lora__layer_lookup_gradient(const lora__layer_run *run,
                            const lora__layer_stage *stage,
                            const lora__layer_sink *sink,
                            lora__layer_data gradient,
                            lora__layer_data ids,
                            lora_error *error);
LORA_PRIVATE lora_status lora__layer_lookup_check(const lora__layer_run *run,
                                                  lora__layer_data ids,
                                                  lora_error *error);

/* Take the tensors of the bias as factors, when those of the chain are. */
LORA_PRIVATE void lora__layer_take_bias(lora_layer *layer,
                                        const lora__module *module,
                                        double strength);

/* The bias, of its factors as they are now. */
LORA_PRIVATE void lora__layer_derive_bias(lora_layer *layer);

/* The gradients of its factors, NULL where they are not wanted, from that of
 * what went out, F32. */
LORA_PRIVATE lora_status lora__layer_bias_gradient(const lora__layer_run *run,
                                                   float *const *gradients,
                                                   lora__layer_data gradient,
                                                   int add,
                                                   lora_error *error);

/* A worker's scratch. */
static inline void *lora__layer_scratch(const lora__layer_run *run,
                                        uint32_t worker)
{
    return run->scratch + (size_t)worker * run->scratch_bytes;
}

/* `count` numbers as F32. */
LORA_PRIVATE void lora__layer_load(float *out,
                                   const lora__kernels *kernels,
                                   lora_dtype dtype,
                                   const void *in,
                                   size_t count);

/* `count` numbers into a row of the result, which is multiplied by nothing:
 * out = (add ? out : 0) + in, rounded once. `in` is overwritten. */
LORA_PRIVATE void lora__layer_store(void *out,
                                    lora_dtype dtype,
                                    const lora__kernels *kernels,
                                    float *in,
                                    size_t count,
                                    int add);

/* Sums of a gradient, in row `row` of the weight from column `col` on. */
LORA_PRIVATE void lora__layer_sink_row(const lora__layer_sink *sink,
                                       const double *sums,
                                       size_t row,
                                       size_t col,
                                       size_t count);

/* The same of sums in F32. */
LORA_PRIVATE void lora__layer_sink_floats(const lora__layer_sink *sink,
                                          const lora__kernels *kernels,
                                          const float *values,
                                          size_t row,
                                          size_t col,
                                          size_t count);

/* Element `index` of data. */
static inline void *lora__layer_at(lora__layer_data data, size_t index)
{
    return (unsigned char *)data.data +
           index * (data.dtype == LORA_DTYPE_F32 ? sizeof(float) : 2);
}

#endif
