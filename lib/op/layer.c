/* Making a layer of a module: its chain with numbers. Running it is in
 * layer_run.c.
 */
#include "op/layer.h"

#include "core/options.h"
#include "platform/atomic.h"

#include <string.h>

LORA_API void lora_layer_options_init(lora_layer_options *options, size_t size)
{
    lora__options_init(options, size);
}

/* ---- weights ----------------------------------------------------------- */

/* out[cols, rows] of in[rows, cols] */
static void layer_transpose(const lora_layer *layer,
                            float *out,
                            const float *in,
                            size_t rows,
                            size_t cols)
{
    layer->kernels->turn_f32(out, rows, in, cols, rows, cols);
}

/* The weight of a stage and its transpose, of the factors as they are now.
 * One of them may be the factor itself. */
static void layer_derive(lora_layer *layer, lora__layer_stage *stage)
{
    const lora__link *link = stage->link;
    const float *const *factors = (const float *const *)layer->factors;
    const size_t cols = stage->in * stage->kernel;
    const size_t items = stage->parts;

    if (link->maker != NULL) {
        link->maker->make(stage->weight, link, factors, layer->kernels,
                          layer->scratch);
    } else if (link->turned) {
        layer_transpose(layer, stage->weight, factors[link->factor], cols,
                        link->out);
    } else if (stage->weight != factors[link->factor]) {
        memcpy(stage->weight, factors[link->factor],
               stage->weight_count * sizeof *stage->weight);
    }
    if (layer->scale != 1.0F) {
        layer->kernels->scale_f32(stage->weight, layer->scale,
                                  stage->weight_count);
    }
    for (size_t i = 0; i < items; i++) {
        layer_transpose(layer, stage->turned + i * cols * stage->out,
                        stage->weight + i * cols * stage->out, stage->out,
                        cols);
    }
    for (size_t i = 0; stage->spread != NULL && i < items * stage->out; i++) {
        layer_transpose(layer, stage->spread + i * cols,
                        stage->weight + i * cols, stage->in, stage->kernel);
    }
}

/* Whether a stage moves its few outputs rather than its many inputs: the
 * kernel must go by one, and not begin outside of what it touches. */
static int layer_spreads(const lora_layer *layer,
                         const lora__layer_stage *stage)
{
    const lora__layer_geometry *g = &layer->geometry;

    for (size_t d = 0; d < 3; d++) {
        if (g->stride[d] != 1 ||
            g->padding[d] > g->dilation[d] * (g->kernel[d] - 1)) {
            return 0;
        }
    }
    return stage->conv && stage->kernel > 1 && stage->out < stage->in;
}

static lora_status
layer_floats(float **out, lora_layer *layer, size_t count, lora_error *error)
{
    size_t bytes;

    if (!lora__mul_size(count, sizeof **out, &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    *out = lora__arena_alloc(&layer->arena, bytes);
    return *out == NULL ? lora__fail_memory(error, bytes) : LORA_OK;
}

/* ---- making ------------------------------------------------------------ */

/* One number of the options for each dimension: 0 means `least`, and beyond
 * `dims` it must mean it. */
static lora_status layer_read_sizes(size_t out[3],
                                    const int32_t in[3],
                                    int32_t least,
                                    size_t dims,
                                    const char *what,
                                    const lora__module *module,
                                    lora_error *error)
{
    for (size_t d = 0; d < 3; d++) {
        const int32_t value = in[d] == 0 ? least : in[d];

        if (value < least || (d >= dims && value != least)) {
            return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                              module->name, "%s %d in dimension %u of %u", what,
                              (int)value, (unsigned)d, (unsigned)dims);
        }
        out[d] = (size_t)value;
    }
    return LORA_OK;
}

/* Unused dimensions come first: lines of positions are long then. */
static void layer_turn_geometry(lora__layer_geometry *g, size_t dims)
{
    size_t *all[] = {g->kernel, g->stride, g->padding, g->dilation};

    for (size_t i = 0; i < LORA__COUNT(all); i++) {
        const size_t unused = i == 2 ? 0 : 1;

        for (size_t turn = dims; turn < 3; turn++) {
            all[i][2] = all[i][1];
            all[i][1] = all[i][0];
            all[i][0] = unused;
        }
    }
}

/* Those of the module's kernel, else of the one that it is said to have; else
 * there may be any. */
static size_t layer_dims(size_t own, const lora_layer_options *o)
{
    size_t dims = 3;

    while (dims > 0 && o->kernel[dims - 1] == 0) {
        dims--;
    }
    return own != 0 ? own : dims != 0 ? dims : 3;
}

/* The kernel that the module has, or that it is said to have, and how it
 * moves. Sets the kernel's elements. */
static lora_status layer_read_geometry(lora_layer *layer,
                                       size_t *out_kernel,
                                       const lora__module *module,
                                       const lora_layer_options *o,
                                       lora_error *error)
{
    lora__layer_geometry *g = &layer->geometry;
    const size_t own = module->ndim > 2 ? (size_t)module->ndim - 2 : 0;
    const size_t dims = layer_dims(own, o);

    if (own > 3) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "a kernel of more than 3 dimensions");
    }
    TRY(layer_read_sizes(g->kernel, o->kernel, 1, dims, "kernel", module,
                         error));
    TRY(layer_read_sizes(g->stride, o->stride, 1, dims, "stride", module,
                         error));
    TRY(layer_read_sizes(g->padding, o->padding, 0, dims, "padding", module,
                         error));
    TRY(layer_read_sizes(g->dilation, o->dilation, 1, dims, "dilation", module,
                         error));
    *out_kernel = 1;
    for (size_t d = 0; d < 3; d++) {
        const int64_t size = d < own ? module->shape[2 + d] : 0;

        if (size != 0 && o->kernel[d] != 0 && size != o->kernel[d]) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              module->name, "the kernel is %lld, not %d",
                              (long long)size, (int)o->kernel[d]);
        }
        if (size != 0) {
            g->kernel[d] = (size_t)size;
        }
        if (!lora__mul_size(*out_kernel, g->kernel[d], out_kernel)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    layer->dims = dims;
    layer->rows = own == 0 && o->kernel[0] == 0;
    layer_turn_geometry(g, dims);
    return LORA_OK;
}

/* What is told of a factor, and room for its numbers. */
static lora_status layer_name_factor(lora_layer *layer,
                                     const lora_adapter *adapter,
                                     size_t index,
                                     lora_error *error)
{
    const lora__chain_factor *factor = &layer->chain.factors[index];
    const lora__entry *entry =
        factor->entry == SIZE_MAX ? NULL
                                  : &adapter->container->entries[factor->entry];
    lora_layer_factor *info = &layer->infos[index];
    size_t count;

    info->struct_size = sizeof *info;
    info->role = lora__role_name(factor->role);
    info->name = "";
    info->frozen = (uint32_t)factor->frozen;
    if (entry != NULL) {
        info->elements = entry->elements;
        info->ndim = entry->ndim;
        memcpy(info->shape, entry->shape, sizeof info->shape);
        TRY(lora__arena_string(&info->name, &layer->arena, entry->name,
                               entry->name_bytes, error));
    }
    if (factor->shape[0] != 0) {
        memset(info->shape, 0, sizeof info->shape);
        info->shape[0] = (int64_t)factor->shape[0];
        info->shape[1] = (int64_t)factor->shape[1];
        info->ndim = 2;
        if (!lora__mul_u64(factor->shape[0], factor->shape[1],
                           &info->elements)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    if (!lora__u64_to_size(info->elements, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    return layer_floats(&layer->factors[index], layer, count, error);
}

static lora_status layer_load_factors(lora_layer *layer,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora_error *error)
{
    for (size_t i = 0; i < layer->chain.factor_count; i++) {
        const lora__chain_factor *factor = &layer->chain.factors[i];
        lora__rows state;
        lora_status status;

        TRY(layer_name_factor(layer, adapter, i, error));
        if (factor->draw != NULL) {
            TRY(factor->draw(layer->factors[i], adapter, module, factor,
                             error));
            continue;
        }
        memset(&state, 0, sizeof state);
        state.context = layer->context;
        state.kernels = layer->kernels;
        state.dtype = LORA_DTYPE_F32;
        status = lora__rows_load(&state, 0, adapter, factor->entry, error);
        if (status == LORA_OK) {
            memcpy(layer->factors[i],
                   (const float *)state.blocks[0] + factor->first,
                   (size_t)layer->infos[i].elements * sizeof(float));
        }
        lora__rows_destroy(&state);
        TRY(status);
    }
    return LORA_OK;
}

/* A link whose tensor has other sizes: the kernel divides no row of it. */
static lora_status layer_check_link(const lora_layer *layer,
                                    const lora__link *link,
                                    lora_error *error)
{
    const uint64_t elements = layer->infos[link->factor].elements;

    if (link->in == 0 ||
        (link->maker == NULL &&
         (uint64_t)link->in * link->kernel * link->out != elements)) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, layer->name,
                          "the kernel does not divide the columns of %s",
                          layer->infos[link->factor].name);
    }
    return LORA_OK;
}

static lora_status layer_add_stages(lora_layer *layer, lora_error *error)
{
    const lora__chain *chain = &layer->chain;
    const lora__link *first = &chain->links[0];
    const lora__link *last = &chain->links[chain->link_count - 1];
    size_t channels;

    for (size_t i = 0; i < chain->link_count; i++) {
        const lora__link *link = &chain->links[i];
        lora__layer_stage *stage = &layer->stages[layer->stage_count++];

        TRY(layer_check_link(layer, link, error));
        if (link->out % link->parts != 0) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              layer->name, "%llu rows in %llu groups",
                              (unsigned long long)link->out,
                              (unsigned long long)link->parts);
        }
        stage->link = link;
        stage->before = link->before;
        stage->in = link->in;
        stage->out = link->out / link->parts;
        stage->after = link->after;
        stage->kernel = link->kernel;
        stage->conv = link->conv;
        stage->parts = link->parts;
        stage->each = link->each;
        stage->multiplier = 1.0F;
        stage->weight_count = link->in * link->kernel * link->out;
    }
    layer->channels_out =
        last->before * (last->out / last->parts) * last->after;
    if (!lora__mul_size(first->before, first->in, &channels) ||
        !lora__mul_size(channels, first->after, &layer->channels_in)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    return LORA_OK;
}

/* The scale goes where the tensor is small, before the last product; or into
 * the only one's weight. */
static lora_status
layer_fill_stages(lora_layer *layer, double scale, lora_error *error)
{
    layer->scale = 1.0F;
    if (layer->stage_count == 1) {
        layer->scale = (float)scale;
    } else {
        layer->stages[layer->stage_count - 2].multiplier = (float)scale;
    }
    for (size_t i = 0; i < layer->stage_count; i++) {
        const lora__link *link = layer->stages[i].link;
        size_t count = 0;

        if (link->maker != NULL) {
            count = link->maker->scratch(link);
            if (count == 0) {
                return lora__fail_memory(error, UINT64_MAX);
            }
        }
        if (count > layer->scratch_count) {
            layer->scratch_count = count;
        }
    }
    if (layer->scratch_count != 0) {
        TRY(layer_floats(&layer->scratch, layer, layer->scratch_count, error));
    }
    for (size_t i = 0; i < layer->stage_count; i++) {
        lora__layer_stage *stage = &layer->stages[i];
        const lora__link *link = stage->link;

        stage->weight = layer->factors[link->factor];
        if (link->maker != NULL || link->turned || layer->scale != 1.0F) {
            TRY(layer_floats(&stage->weight, layer, stage->weight_count,
                             error));
        }
        TRY(layer_floats(&stage->turned, layer, stage->weight_count, error));
        if (layer_spreads(layer, stage)) {
            TRY(layer_floats(&stage->spread, layer, stage->weight_count,
                             error));
        }
        layer_derive(layer, stage);
    }
    return LORA_OK;
}

static lora_status layer_make_bias(lora_layer *layer, lora_error *error)
{
    for (size_t i = 0; i < LORA__LAYER_BIASES; i++) {
        const size_t factor = layer->bias_factors[i];

        if (factor == SIZE_MAX) {
            continue;
        }
        if (layer->infos[factor].elements != layer->channels_out) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              layer->name, "bias of another length");
        }
        if (layer->bias == NULL) {
            TRY(layer_floats(&layer->bias, layer, layer->channels_out, error));
        }
    }
    lora__layer_derive_bias(layer);
    return LORA_OK;
}

static lora_status layer_check_module(const lora__module *module,
                                      lora_error *error)
{
    const char *beside = lora__module_beside(module);

    TRY(lora__module_check(module, error));
    if (module->kind->chain == NULL || beside != NULL ||
        (module->changes & LORA_PART_WEIGHT) == 0 || module->ndim == 1) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s%s cannot be run on activations alone",
                          module->kind->id, beside == NULL ? "" : beside);
    }
    return module->lacks == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name, "%s", module->lacks);
}

static lora_status layer_read_options(lora_layer_options *out,
                                      const lora_layer_options *options,
                                      double strength,
                                      lora_error *error)
{
    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_layer_options, kernel), options,
                           error));
    if (!(strength - strength == 0.0)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "strength is not finite");
    }
    if (out->dtype == LORA_DTYPE_NONE) {
        out->dtype = LORA_DTYPE_F32;
    }
    if (out->dtype != LORA_DTYPE_F32 && out->dtype != LORA_DTYPE_F16 &&
        out->dtype != LORA_DTYPE_BF16) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
                          "F32, F16 or BF16 is needed");
    }
    return LORA_OK;
}

/* Where nothing moves over an image, it must not be said how. */
static lora_status layer_check_geometry(const lora_layer *layer,
                                        lora_error *error)
{
    const lora__layer_geometry *g = &layer->geometry;
    int moves = 0;

    for (size_t i = 0; i < layer->chain.link_count; i++) {
        moves |= layer->chain.links[i].conv;
    }
    for (size_t d = 0; !moves && d < 3; d++) {
        if (g->stride[d] != 1 || g->padding[d] != 0 || g->dilation[d] != 1) {
            return lora__fail(
                error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, layer->name,
                "no kernel to have a stride, padding or dilation");
        }
    }
    return LORA_OK;
}

static lora_status layer_fill(lora_layer *layer,
                              const lora_adapter *adapter,
                              const lora__module *module,
                              double strength,
                              const lora_layer_options *o,
                              lora_error *error)
{
    size_t kernel = 1;

    layer->dtype = o->dtype;
    TRY(lora__arena_string(&layer->name, &layer->arena, module->name,
                           strlen(module->name), error));
    TRY(layer_read_geometry(layer, &kernel, module, o, error));
    TRY(module->kind->chain(&layer->chain, adapter, module, kernel,
                            o->groups == 0 ? 1 : o->groups, error));
    TRY(layer_check_geometry(layer, error));
    lora__layer_take_bias(layer, module, strength);
    TRY(layer_load_factors(layer, adapter, module, error));
    TRY(layer_add_stages(layer, error));
    TRY(layer_fill_stages(layer, strength * module->scale, error));
    return layer_make_bias(layer, error);
}

LORA_API lora_status lora_layer_create(lora_layer **out,
                                       const lora_adapter *adapter,
                                       size_t index,
                                       double strength,
                                       const lora_layer_options *options,
                                       lora_error *error)
{
    lora_layer_options o;
    lora_layer *layer;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    if (index >= adapter->module_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "module %llu of %llu", (unsigned long long)index,
                          (unsigned long long)adapter->module_count);
    }
    TRY(layer_read_options(&o, options, strength, error));
    TRY(layer_check_module(&adapter->modules[index], error));
    TRY(lora__alloc_zeroed(&memory, adapter->context, 1, sizeof *layer, error));
    layer = memory;
    layer->references = 1;
    layer->context = lora_context_retain(adapter->context);
    layer->kernels = lora__kernels_get(lora__context_get(layer->context)->cpu);
    lora__arena_init(&layer->arena, layer->context);
    status = layer_fill(layer, adapter, &adapter->modules[index], strength, &o,
                        error);
    if (status != LORA_OK) {
        lora_layer_destroy(layer);
        return status;
    }
    *out = layer;
    return LORA_OK;
}

LORA_API lora_layer *lora_layer_retain(lora_layer *layer)
{
    if (layer != NULL) {
        lora__atomic_add_u32(&layer->references, 1);
    }
    return layer;
}

LORA_API void lora_layer_destroy(lora_layer *layer)
{
    if (layer != NULL &&
        lora__atomic_add_u32(&layer->references, UINT32_MAX) == 0) {
        lora_context *context = layer->context;

        lora__arena_destroy(&layer->arena);
        lora__free(context, layer, sizeof *layer, LORA__ALIGN);
        lora_context_destroy(context);
    }
}

/* ---- looking at it ----------------------------------------------------- */

LORA_API lora_status lora_layer_get_info(lora_layer_info *out,
                                         const lora_layer *layer,
                                         lora_error *error)
{
    lora_layer_info info;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(layer != NULL, error);
    memset(&info, 0, sizeof info);
    info.channels_in = (int64_t)layer->channels_in;
    info.channels_out = (int64_t)layer->channels_out;
    info.factor_count = layer->chain.factor_count;
    info.dtype = layer->dtype;
    info.input = lora__layer_takes_ids(layer) ? LORA_LAYER_INPUT_IDS
                                              : LORA_LAYER_INPUT_NUMBERS;
    info.place = layer->chain.place;
    info.dims = layer->rows ? 0 : (int32_t)layer->dims;
    for (size_t d = 0; d < layer->dims; d++) {
        info.kernel[d] = (int32_t)layer->geometry.kernel[3 - layer->dims + d];
    }
    return lora__out_write(out, &info, sizeof info, error);
}

static lora_status
layer_check_factor(const lora_layer *layer, size_t index, lora_error *error)
{
    return index < layer->chain.factor_count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                            layer->name, "factor %llu of %llu",
                            (unsigned long long)index,
                            (unsigned long long)layer->chain.factor_count);
}

LORA_API lora_status lora_layer_get_factor(lora_layer_factor *out,
                                           const lora_layer *layer,
                                           size_t index,
                                           lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(layer != NULL, error);
    TRY(layer_check_factor(layer, index, error));
    return lora__out_write(out, &layer->infos[index], sizeof *out, error);
}

LORA_API lora_status lora_layer_set_factor(lora_layer *layer,
                                           size_t index,
                                           const float *values,
                                           size_t count,
                                           lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(layer != NULL, error);
    CHECK_ARG(values != NULL, error);
    TRY(layer_check_factor(layer, index, error));
    if (count != layer->infos[index].elements) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                          layer->infos[index].name, "%llu elements, not %llu",
                          (unsigned long long)layer->infos[index].elements,
                          (unsigned long long)count);
    }
    memcpy(layer->factors[index], values, count * sizeof *values);
    for (size_t i = 0; i < layer->stage_count; i++) {
        const lora__link *link = layer->stages[i].link;

        if (link->maker != NULL || link->factor == index) {
            layer_derive(layer, &layer->stages[i]);
        }
    }
    lora__layer_derive_bias(layer);
    return LORA_OK;
}
