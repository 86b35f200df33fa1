/* Running a layer: the stages one after another, each over the whole batch.
 *
 * What goes from stage to stage lies in the workspace, F32 and dense. Going
 * back, it is made again first. The workspace:
 *
 *   forward   two tensors, in turn; x as F32 if it is not and maps come first;
 *             scratch of the workers
 *   backward  the tensor after each stage but the last; two gradients, in turn;
 *             x and the gradient of y as F32 if they are not; the gradient of a
 *             weight that is made, and what its maker works in; scratch
 */
#include "op/layer.h"

#include <string.h>

/* Where things lie, in bytes from the aligned start of the workspace. */
typedef struct layer_run_plan {
    lora__layer_run run;
    size_t sizes[LORA__CHAIN_LINKS + 1]; /* of a sample before each stage and
                                          * after the last one */
    size_t hidden[LORA__CHAIN_LINKS];    /* after each stage but the last */
    size_t gradients[2];
    size_t x;
    size_t grad_y;
    size_t weight; /* the gradient of one */
    size_t maker;
    size_t scratch;
    size_t bytes;
    int back;
} layer_run_plan;

/* ---- sizes ------------------------------------------------------------- */

static lora_status layer_run_too_large(const lora_layer *layer,
                                       lora_error *error)
{
    return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, layer->name,
                      "the batch is too large");
}

/* The geometry of an image. */
static lora_status layer_run_geometry(lora__layer_geometry *out,
                                      const lora_layer *layer,
                                      const lora_layer_batch *batch,
                                      lora_error *error)
{
    const size_t unused = 3 - layer->dims;

    *out = layer->geometry;
    for (size_t d = 0; d < 3; d++) {
        const int64_t size = d < unused || batch->size[d - unused] == 0
                                 ? 1
                                 : batch->size[d - unused];
        const uint64_t reach =
            (uint64_t)out->dilation[d] * (out->kernel[d] - 1) + 1;
        const uint64_t all = (uint64_t)size + 2 * (uint64_t)out->padding[d];

        if (size < 0 || size > INT32_MAX || all < reach ||
            (lora__layer_takes_ids(layer) && size != 1) ||
            (d >= layer->dims && batch->size[d] > 1) || batch->size[d] < 0) {
            return lora__fail(
                error, LORA_ERROR_RANGE, LORA_NO_OFFSET, layer->name,
                "images of %lld x %lld x %lld do not fit",
                (long long)batch->size[0], (long long)batch->size[1],
                (long long)batch->size[2]);
        }
        out->in[d] = (size_t)size;
        out->out[d] = (size_t)((all - reach) / out->stride[d] + 1);
    }
    return LORA_OK;
}

/* Of a layer that moves by one: an element of the kernel that goes from an
 * input to an output is the opposite one on the way from the output. */
static void layer_run_mirror(lora__layer_geometry *out,
                             const lora__layer_geometry *g)
{
    *out = *g;
    for (size_t d = 0; d < 3; d++) {
        out->padding[d] = g->dilation[d] * (g->kernel[d] - 1) - g->padding[d];
        out->in[d] = g->out[d];
        out->out[d] = g->in[d];
    }
}

static int layer_run_product(size_t *out, const size_t *sizes, size_t count)
{
    *out = 1;
    for (size_t i = 0; i < count; i++) {
        if (!lora__mul_size(*out, sizes[i], out)) {
            return 0;
        }
    }
    return 1;
}

/* Elements of a sample before and after each stage. */
static int layer_run_sizes(layer_run_plan *plan)
{
    const lora__layer_run *run = &plan->run;
    const lora_layer *layer = run->layer;

    for (size_t i = 0; i <= layer->stage_count; i++) {
        const lora__layer_stage *stage =
            &layer->stages[i < layer->stage_count ? i : i - 1];
        const int after = i == layer->stage_count;
        const size_t parts[] = {stage->before, after ? stage->out : stage->in,
                                stage->after,
                                lora__layer_positions(run, stage, after)};

        if (!layer_run_product(&plan->sizes[i], parts, LORA__COUNT(parts))) {
            return 0;
        }
    }
    return 1;
}

/* Take room for count * size numbers of F32. */
static int
layer_run_place(size_t *out, layer_run_plan *plan, size_t count, size_t size)
{
    size_t bytes;

    *out = plan->bytes;
    return lora__mul_size(count, size, &bytes) &&
           lora__mul_size(bytes, sizeof(float), &bytes) &&
           lora__add_size(bytes, LORA__ALIGN_NUMERIC - 1, &bytes) &&
           lora__add_size(plan->bytes,
                          bytes / LORA__ALIGN_NUMERIC * LORA__ALIGN_NUMERIC,
                          &plan->bytes);
}

/* The most of what lies after every `every`-th stage from `first` on, the last
 * stage excepted. */
static size_t
layer_run_most(const layer_run_plan *plan, size_t first, size_t every)
{
    size_t most = 0;

    for (size_t i = first; i + 1 < plan->run.layer->stage_count; i += every) {
        most = plan->sizes[i + 1] > most ? plan->sizes[i + 1] : most;
    }
    return most;
}

static int layer_run_place_hidden(layer_run_plan *plan)
{
    const lora_layer *layer = plan->run.layer;
    const size_t batch = plan->run.batch;

    for (size_t i = 0; i + 1 < layer->stage_count; i++) {
        if (!plan->back && i >= 2) {
            plan->hidden[i] = plan->hidden[i - 2];
        } else if (!layer_run_place(&plan->hidden[i], plan, batch,
                                    plan->back ? plan->sizes[i + 1]
                                               : layer_run_most(plan, i, 2))) {
            return 0;
        }
    }
    return 1;
}

static int layer_run_place_back(layer_run_plan *plan)
{
    const lora_layer *layer = plan->run.layer;
    const size_t batch = plan->run.batch;
    const size_t most = layer_run_most(plan, 0, 1);
    const int half = layer->dtype != LORA_DTYPE_F32;
    size_t made = 0;

    for (size_t i = 0; i < layer->stage_count; i++) {
        const lora__layer_stage *stage = &layer->stages[i];

        if (stage->link->maker != NULL && stage->weight_count > made) {
            made = stage->weight_count;
        }
    }
    return layer_run_place(&plan->gradients[0], plan, batch, most) &&
           layer_run_place(&plan->gradients[1], plan, batch, most) &&
           layer_run_place(&plan->grad_y, plan, half ? batch : 0,
                           plan->sizes[layer->stage_count]) &&
           layer_run_place(&plan->weight, plan, made, 1) &&
           layer_run_place(&plan->maker, plan, made == 0 ? 0 : 1,
                           layer->scratch_count);
}

/* Scratch of the workers: the same for all stages. */
static int layer_run_place_scratch(layer_run_plan *plan)
{
    lora__layer_run *run = &plan->run;
    const lora_layer *layer = run->layer;

    for (size_t i = 0; i < layer->stage_count; i++) {
        const lora__layer_stage *stage = &layer->stages[i];
        const size_t bytes = lora__layer_is_rows(run, stage)
                                 ? lora__layer_rows_scratch(run, stage)
                                 : lora__layer_maps_scratch(run, stage);

        if (bytes == 0) {
            return 0;
        }
        if (bytes > run->scratch_bytes) {
            run->scratch_bytes = bytes;
        }
    }
    if (!lora__add_size(run->scratch_bytes, LORA__ALIGN_NUMERIC - 1,
                        &run->scratch_bytes)) {
        return 0;
    }
    run->scratch_bytes -= run->scratch_bytes % LORA__ALIGN_NUMERIC;
    return layer_run_place(&plan->scratch, plan,
                           lora__concurrency(layer->context),
                           run->scratch_bytes / sizeof(float));
}

/* The plan of a pass; `bytes` includes what aligning a workspace takes. */
static lora_status layer_run_make_plan(layer_run_plan *plan,
                                       const lora_layer *layer,
                                       const lora_layer_batch *batch,
                                       int back,
                                       lora_error *error)
{
    lora__layer_run *run = &plan->run;
    int copied;

    memset(plan, 0, sizeof *plan);
    plan->back = back;
    run->layer = layer;
    TRY(layer_run_geometry(&run->geometry, layer, batch, error));
    layer_run_mirror(&run->mirror, &run->geometry);
    if (batch->count < 0 ||
        !lora__u64_to_size((uint64_t)batch->count, &run->batch) ||
        !layer_run_product(&run->positions_in, run->geometry.in, 3) ||
        !layer_run_product(&run->positions_out, run->geometry.out, 3) ||
        !layer_run_sizes(plan)) {
        return layer_run_too_large(layer, error);
    }
    copied = layer->dtype != LORA_DTYPE_F32 && !lora__layer_takes_ids(layer) &&
             (back || !lora__layer_is_rows(run, &layer->stages[0]));
    if (!layer_run_place_hidden(plan) ||
        !layer_run_place(&plan->x, plan, copied ? run->batch : 0,
                         plan->sizes[0]) ||
        (back && !layer_run_place_back(plan)) ||
        !layer_run_place_scratch(plan) ||
        !lora__add_size(plan->bytes, LORA__ALIGN_NUMERIC - 1, &plan->bytes)) {
        return layer_run_too_large(layer, error);
    }
    return LORA_OK;
}

LORA_API lora_status lora_layer_output_size(int64_t out[3],
                                            const lora_layer *layer,
                                            const lora_layer_batch *batch,
                                            lora_error *error)
{
    lora__layer_geometry geometry;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(layer != NULL, error);
    CHECK_ARG(batch != NULL, error);
    TRY(layer_run_geometry(&geometry, layer, batch, error));
    for (size_t d = 0; d < 3; d++) {
        out[d] =
            d < layer->dims ? (int64_t)geometry.out[3 - layer->dims + d] : 1;
    }
    return LORA_OK;
}

LORA_API lora_status lora_layer_workspace(size_t *out_forward,
                                          size_t *out_backward,
                                          const lora_layer *layer,
                                          const lora_layer_batch *batch,
                                          lora_error *error)
{
    layer_run_plan forward;
    layer_run_plan back;

    lora__error_begin(error);
    CHECK_ARG(layer != NULL, error);
    CHECK_ARG(batch != NULL, error);
    TRY(layer_run_make_plan(&forward, layer, batch, 0, error));
    TRY(layer_run_make_plan(&back, layer, batch, 1, error));
    if (out_forward != NULL) {
        *out_forward = forward.bytes;
    }
    if (out_backward != NULL) {
        *out_backward = back.bytes;
    }
    return LORA_OK;
}

/* ---- passes ------------------------------------------------------------ */

/* The caller's numbers, whose step is checked. */
static lora_status layer_run_data(lora__layer_data *out,
                                  const lora_layer *layer,
                                  const void *data,
                                  size_t step,
                                  size_t size,
                                  lora_error *error)
{
    if (step != 0 && step < size) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                          layer->name,
                          "%llu elements do not fit into steps of "
                          "%llu",
                          (unsigned long long)size, (unsigned long long)step);
    }
    memset(out, 0, sizeof *out);
    memcpy(&out->data, &data, sizeof data);
    out->dtype = layer->dtype;
    out->step = step == 0 ? size : step;
    return LORA_OK;
}

/* The same of what goes in, with the size of a row or image. Ids are checked.
 */
static lora_status layer_run_input(lora__layer_data *out,
                                   const layer_run_plan *plan,
                                   const void *x,
                                   size_t step,
                                   lora_error *error)
{
    const lora_layer *layer = plan->run.layer;
    const int ids = lora__layer_takes_ids(layer);

    TRY(layer_run_data(out, layer, x, step, ids ? 1 : plan->sizes[0], error));
    if (!ids) {
        return LORA_OK;
    }
    out->dtype = LORA_DTYPE_I64;
    return lora__layer_lookup_check(&plan->run, *out, error);
}

/* The start of the workspace, aligned. */
static lora_status layer_run_open(unsigned char **out,
                                  layer_run_plan *plan,
                                  void *workspace,
                                  size_t bytes,
                                  lora_error *error)
{
    const size_t past = (size_t)((uintptr_t)workspace % LORA__ALIGN_NUMERIC);

    if (workspace == NULL || bytes < plan->bytes) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                          plan->run.layer->name,
                          "a workspace of %llu bytes, not %llu",
                          (unsigned long long)(workspace == NULL ? 0 : bytes),
                          (unsigned long long)plan->bytes);
    }
    *out = (unsigned char *)workspace +
           (past == 0 ? 0 : LORA__ALIGN_NUMERIC - past);
    plan->run.scratch = *out + plan->scratch;
    return LORA_OK;
}

static lora__layer_data layer_run_dense(unsigned char *data, size_t size)
{
    lora__layer_data dense;

    dense.data = data;
    dense.dtype = LORA_DTYPE_F32;
    dense.step = size;
    return dense;
}

/* One stage forward, or back. */
static lora_status layer_run_stage(const layer_run_plan *plan,
                                   size_t index,
                                   int back,
                                   lora__layer_data out,
                                   lora__layer_data in,
                                   const lora__layer_finish *finish,
                                   lora_error *error)
{
    const lora__layer_stage *stage = &plan->run.layer->stages[index];

    if (stage->link->lookup) {
        return lora__layer_lookup_product(&plan->run, stage, out, in, finish,
                                          error);
    }
    if (lora__layer_is_scaling(stage) && finish->bias == NULL) {
        return lora__layer_scaling_product(&plan->run, stage, out, in, finish,
                                           error);
    }
    return lora__layer_is_rows(&plan->run, stage)
               ? lora__layer_rows_product(&plan->run, stage, back, out, in,
                                          finish, error)
               : lora__layer_maps_product(&plan->run, stage, back, out, in,
                                          finish, error);
}

typedef struct layer_run_copy {
    const layer_run_plan *plan;
    lora__layer_data out;
    lora__layer_data in;
    size_t size;
} layer_run_copy;

static lora_status
layer_run_copy_one(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const layer_run_copy *job = arg;

    (void)worker;
    (void)error;
    lora__layer_load((float *)job->out.data + index * job->out.step,
                     job->plan->run.layer->kernels, job->in.dtype,
                     lora__layer_at(job->in, index * job->in.step), job->size);
    return LORA_OK;
}

/* Numbers as dense F32, in place of what they are. */
static lora_status layer_run_widen(lora__layer_data *data,
                                   const layer_run_plan *plan,
                                   unsigned char *room,
                                   size_t size,
                                   lora_error *error)
{
    layer_run_copy job;

    if (data->dtype == LORA_DTYPE_F32 || data->dtype == LORA_DTYPE_I64) {
        return LORA_OK;
    }
    job.plan = plan;
    job.in = *data;
    job.out = layer_run_dense(room, size);
    job.size = size;
    TRY(lora__run_jobs(plan->run.layer->context, NULL, layer_run_copy_one, &job,
                       plan->run.batch, error));
    *data = job.out;
    return LORA_OK;
}

/* All stages up to, and without, `end`, each to its hidden tensor; *data is
 * what goes into that one then. */
static lora_status layer_run_hidden(lora__layer_data *data,
                                    const layer_run_plan *plan,
                                    unsigned char *work,
                                    size_t end,
                                    lora_error *error)
{
    for (size_t i = 0; i < end; i++) {
        const lora__layer_finish finish = {
            plan->run.layer->stages[i].multiplier, NULL, 0};
        lora__layer_data out =
            layer_run_dense(work + plan->hidden[i], plan->sizes[i + 1]);

        TRY(layer_run_stage(plan, i, 0, out, *data, &finish, error));
        *data = out;
    }
    return LORA_OK;
}

LORA_API lora_status lora_layer_forward(void *y,
                                        size_t y_step,
                                        const lora_layer *layer,
                                        const void *x,
                                        size_t x_step,
                                        const lora_layer_batch *batch,
                                        lora_layer_flags flags,
                                        void *workspace,
                                        size_t workspace_bytes,
                                        lora_error *error)
{
    lora__layer_finish finish = {1.0F, NULL, 0};
    layer_run_plan plan;
    lora__layer_data in;
    lora__layer_data out;
    unsigned char *work;
    size_t last;

    lora__error_begin(error);
    CHECK_ARG(y != NULL, error);
    CHECK_ARG(layer != NULL, error);
    CHECK_ARG(x != NULL, error);
    CHECK_ARG(batch != NULL, error);
    CHECK_ARG((flags & ~(lora_layer_flags)LORA_LAYER_ADD) == 0, error);
    TRY(layer_run_make_plan(&plan, layer, batch, 0, error));
    TRY(layer_run_input(&in, &plan, x, x_step, error));
    TRY(layer_run_data(&out, layer, y, y_step, plan.sizes[layer->stage_count],
                       error));
    TRY(layer_run_open(&work, &plan, workspace, workspace_bytes, error));
    if (plan.run.batch == 0) {
        return LORA_OK;
    }
    if (!lora__layer_is_rows(&plan.run, &layer->stages[0])) {
        TRY(layer_run_widen(&in, &plan, work + plan.x, plan.sizes[0], error));
    }
    last = layer->stage_count - 1;
    finish.bias = layer->bias;
    finish.add = (flags & LORA_LAYER_ADD) != 0;
    TRY(layer_run_hidden(&in, &plan, work, last, error));
    return layer_run_stage(&plan, last, 0, out, in, &finish, error);
}

/* ---- back -------------------------------------------------------------- */

typedef struct layer_run_back {
    layer_run_plan plan;
    unsigned char *work;
    float *gradients[LORA__CHAIN_FACTORS]; /* NULL: not wanted */
    lora__layer_data x;
    lora__layer_data grad_y;
    lora__layer_data grad_x; /* data NULL: not wanted */
    int add;
    int add_factors;
} layer_run_back;

/* 1 if a gradient of a stage's factors is wanted. */
static int layer_run_wanted(const layer_run_back *back, size_t index)
{
    const lora__link *link = back->plan.run.layer->stages[index].link;

    if (link->maker == NULL) {
        return back->gradients[link->factor] != NULL;
    }
    for (size_t s = 0; s < LORA__COUNT(link->sides); s++) {
        const lora__link_side *side = &link->sides[s];

        if (back->gradients[side->a] != NULL ||
            back->gradients[side->b] != NULL ||
            (side->core != SIZE_MAX && back->gradients[side->core] != NULL)) {
            return 1;
        }
    }
    return 0;
}

/* The gradient of a stage's weight. */
static lora_status layer_run_gradient(const layer_run_plan *plan,
                                      const lora__layer_stage *stage,
                                      const lora__layer_sink *sink,
                                      lora__layer_data gradient,
                                      lora__layer_data in,
                                      lora_error *error)
{
    return stage->link->lookup
               ? lora__layer_lookup_gradient(&plan->run, stage, sink, gradient,
                                             in, error)
           : lora__layer_is_scaling(stage)
               ? lora__layer_scaling_gradient(&plan->run, stage, sink, gradient,
                                              in, error)
           : lora__layer_is_rows(&plan->run, stage)
               ? lora__layer_rows_gradient(&plan->run, stage, sink, gradient,
                                           in, error)
               : lora__layer_maps_gradient(&plan->run, stage, sink, gradient,
                                           in, error);
}

/* The gradients of a stage's factors. */
static lora_status layer_run_factors(const layer_run_back *back,
                                     size_t index,
                                     lora__layer_data gradient,
                                     lora_error *error)
{
    const layer_run_plan *plan = &back->plan;
    const lora_layer *layer = plan->run.layer;
    const lora__layer_stage *stage = &layer->stages[index];
    const lora__link *link = stage->link;
    const lora__layer_data in =
        index == 0 ? back->x
                   : layer_run_dense(back->work + plan->hidden[index - 1],
                                     plan->sizes[index]);
    float *made = (float *)(void *)(back->work + plan->weight);
    lora__layer_sink sink;

    sink.data = link->maker != NULL ? made : back->gradients[link->factor];
    sink.rows = link->out;
    sink.cols = link->in * link->kernel;
    sink.turned = link->turned;
    sink.add = link->maker == NULL && back->add_factors;
    sink.multiplier = layer->scale;
    TRY(layer_run_gradient(plan, stage, &sink, gradient, in, error));
    if (link->maker != NULL) {
        link->maker->pull(back->gradients, link, made,
                          (const float *const *)layer->factors, layer->kernels,
                          (float *)(void *)(back->work + plan->maker));
    }
    return LORA_OK;
}

/* Gradients that are added to begin at 0: those of weights that are made, and
 * without a batch all. */
static void layer_run_clear(const layer_run_back *back)
{
    const lora_layer *layer = back->plan.run.layer;
    int made = back->plan.run.batch == 0;

    for (size_t i = 0; i < layer->stage_count; i++) {
        made |= layer->stages[i].link->maker != NULL;
    }
    for (size_t i = 0;
         made && !back->add_factors && i < layer->chain.factor_count; i++) {
        if (back->gradients[i] != NULL) {
            memset(back->gradients[i], 0,
                   (size_t)layer->infos[i].elements * sizeof(float));
        }
    }
}

/* From the last stage to the first; each gradient comes with the multiplier of
 * the stage whose output it is of. */
static lora_status layer_run_all_back(const layer_run_back *back,
                                      lora_error *error)
{
    const layer_run_plan *plan = &back->plan;
    const lora_layer *layer = plan->run.layer;
    lora__layer_data gradient = back->grad_y;

    for (size_t i = layer->stage_count; i-- > 0;) {
        lora__layer_finish finish = {1.0F, NULL, 0};
        lora__layer_data out = back->grad_x;

        if (layer_run_wanted(back, i)) {
            TRY(layer_run_factors(back, i, gradient, error));
        }
        if (i > 0) {
            out = layer_run_dense(back->work + plan->gradients[i & 1],
                                  plan->sizes[i]);
            finish.multiplier = layer->stages[i - 1].multiplier;
        } else {
            finish.add = back->add;
        }
        if (out.data != NULL) {
            TRY(layer_run_stage(plan, i, 1, out, gradient, &finish, error));
        }
        gradient = out;
    }
    return LORA_OK;
}

/* What the passes need of the input, and the passes. */
static lora_status layer_run_whole_back(layer_run_back *back, lora_error *error)
{
    const layer_run_plan *plan = &back->plan;
    const lora_layer *layer = plan->run.layer;
    size_t needed = 0; /* stages whose input is */
    lora__layer_data data;

    for (size_t i = 0; i < layer->stage_count; i++) {
        needed = layer_run_wanted(back, i) ? i + 1 : needed;
    }
    TRY(layer_run_widen(&back->grad_y, plan, back->work + plan->grad_y,
                        plan->sizes[layer->stage_count], error));
    if (needed > 0) {
        TRY(layer_run_widen(&back->x, plan, back->work + plan->x,
                            plan->sizes[0], error));
        data = back->x;
        TRY(layer_run_hidden(&data, plan, back->work, needed - 1, error));
    }
    TRY(lora__layer_bias_gradient(&plan->run, back->gradients, back->grad_y,
                                  back->add_factors, error));
    return layer_run_all_back(back, error);
}

LORA_API lora_status lora_layer_backward(void *grad_x,
                                         size_t grad_x_step,
                                         float *const *grad_factors,
                                         const lora_layer *layer,
                                         const void *x,
                                         size_t x_step,
                                         const void *grad_y,
                                         size_t grad_y_step,
                                         const lora_layer_batch *batch,
                                         lora_layer_flags flags,
                                         void *workspace,
                                         size_t workspace_bytes,
                                         lora_error *error)
{
    layer_run_back back;
    const layer_run_plan *plan = &back.plan;

    lora__error_begin(error);
    CHECK_ARG(layer != NULL, error);
    CHECK_ARG(x != NULL, error);
    CHECK_ARG(grad_y != NULL, error);
    CHECK_ARG(batch != NULL, error);
    CHECK_ARG((flags & ~(lora_layer_flags)(LORA_LAYER_ADD |
                                           LORA_LAYER_ADD_FACTORS)) == 0,
              error);
    memset(&back, 0, sizeof back);
    TRY(layer_run_make_plan(&back.plan, layer, batch, 1, error));
    CHECK_ARG(grad_x == NULL || !lora__layer_takes_ids(layer), error);
    TRY(layer_run_input(&back.x, plan, x, x_step, error));
    TRY(layer_run_data(&back.grad_x, layer, grad_x, grad_x_step, plan->sizes[0],
                       error));
    TRY(layer_run_data(&back.grad_y, layer, grad_y, grad_y_step,
                       plan->sizes[layer->stage_count], error));
    TRY(layer_run_open(&back.work, &back.plan, workspace, workspace_bytes,
                       error));
    back.add = (flags & LORA_LAYER_ADD) != 0;
    back.add_factors = (flags & LORA_LAYER_ADD_FACTORS) != 0;
    for (size_t i = 0; grad_factors != NULL && i < layer->chain.factor_count;
         i++) {
        back.gradients[i] = grad_factors[i];
    }
    layer_run_clear(&back);
    return plan->run.batch == 0 ? LORA_OK : layer_run_whole_back(&back, error);
}
