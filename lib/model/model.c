/* Models: checkpoints, the tensors of a host, the layers of a family. */
#include "model/model.h"

#include "core/options.h"
#include "core/text.h"
#include "kernel/kernel.h"
#include "model/pipeline.h"
#include "platform/atomic.h"

#include <string.h>

LORA_API void lora_model_options_init(lora_model_options *options, size_t size)
{
    lora__options_init(options, size);
}

LORA_API void lora_model_tensor_init(lora_model_tensor *tensor, size_t size)
{
    lora__options_init(tensor, size);
}

/* ---- making ------------------------------------------------------------ */

static lora_status model_begin(lora_model **out,
                               lora_context *context,
                               const char *family,
                               lora_error *error)
{
    const lora__family *known =
        family == NULL ? NULL : lora__family_find(family);
    void *memory;

    if (family != NULL && known == NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, family,
                          "no such family");
    }
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof **out, error));
    *out = memory;
    (*out)->references = 1;
    (*out)->context = lora_context_retain(context);
    (*out)->family = known;
    return LORA_OK;
}

static lora_status model_read_options(lora_model_options *out,
                                      const lora_model_options *options,
                                      lora_error *error)
{
    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_model_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(out->reserved1, error));
    return (out->flags & ~(uint32_t)LORA_OPEN_MAP) == 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
                            "a flag that this version does not know");
}

/* The checkpoint is new: nobody else has it. */
static void model_take(lora_model *model, lora__checkpoint *checkpoint)
{
    if (model->family != NULL) {
        checkpoint->family = model->family;
        checkpoint->confidence = 1.0;
        checkpoint->alternative_count = 0;
    }
    model->checkpoint = checkpoint;
}

LORA_API lora_status lora_model_open(lora_model **out,
                                     lora_context *context,
                                     const char *path,
                                     const lora_model_options *options,
                                     lora_error *error)
{
    lora_model_options o;
    lora__checkpoint *checkpoint;
    lora_model *model = NULL;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(path != NULL, error);
    TRY(model_read_options(&o, options, error));
    TRY(model_begin(&model, context, o.family, error));
    TRY_OR_DONE(lora__checkpoint_open(&checkpoint, context, path,
                                      (o.flags & LORA_OPEN_MAP) != 0, error));
    model_take(model, checkpoint);
    *out = model;
    model = NULL;
done:
    lora_model_destroy(model);
    return status;
}

LORA_API lora_status lora_model_create(lora_model **out,
                                       lora_context *context,
                                       const lora_model_options *options,
                                       lora_error *error)
{
    lora_model_options o;
    lora_model *model = NULL;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    TRY(model_read_options(&o, options, error));
    TRY(model_begin(&model, context, o.family, error));
    TRY_OR_DONE(
        lora__container_create(&model->hosts, context, "host", "", error));
    *out = model;
    model = NULL;
done:
    lora_model_destroy(model);
    return status;
}

/* ---- families ---------------------------------------------------------- */

/* The weight of a target, or its bias, as a tensor of the catalogue. */
static lora_status model_add_target(lora__container *container,
                                    const lora__buffer *target,
                                    const char *member,
                                    const lora__family *family,
                                    lora__buffer *text,
                                    lora_error *error)
{
    lora__entry entry = {0};
    lora__entry *added;
    int64_t shape[2];

    lora__buffer_clear(text);
    lora__buffer_puts(text, target->data);
    lora__buffer_puts(text, member);
    TRY(lora__buffer_status(text, error));
    TRY(lora__arena_string(&entry.name, &container->arena, text->data,
                           text->bytes, error));
    entry.name_bytes = text->bytes;
    entry.dtype = LORA_DTYPE_F32;
    entry.ndim = 1;
    if (lora__family_shape(shape, family, target->data)) {
        const int is_bias = strcmp(member, ".bias") == 0;
        entry.ndim = is_bias ? 1 : 2;
        entry.elements = (uint64_t)shape[0];
        entry.shape[0] = shape[0];
        if (!is_bias) {
            entry.elements *= (uint64_t)shape[1];
            entry.shape[1] = shape[1];
        }
        entry.bytes = entry.elements * sizeof(float);
    }
    TRY(lora__container_add(&added, container, error));
    *added = entry;
    return LORA_OK;
}

static lora_status model_add_targets(lora__container *container,
                                     const lora__family *family,
                                     lora__buffer *target,
                                     lora__buffer *text,
                                     lora_error *error)
{
    lora__target kind;

    for (size_t i = 0;; i++) {
        lora__buffer_clear(target);
        if (!lora__family_target_at(target, &kind, family, i)) {
            return LORA_OK;
        }
        TRY(lora__buffer_status(target, error));
        TRY(model_add_target(container, target,
                             kind.layer == LORA__LAYER_PARAMETER ? ""
                                                                 : ".weight",
                             family, text, error));
        if (kind.layer != LORA__LAYER_PARAMETER &&
            kind.layer != LORA__LAYER_EMBEDDING) {
            TRY(model_add_target(container, target, ".bias", family, text,
                                 error));
        }
    }
}

LORA_API lora_status lora_model_family(lora_model **out,
                                       lora_context *context,
                                       const char *family,
                                       lora_error *error)
{
    lora__container *container = NULL;
    lora_model *model = NULL;
    lora__buffer target;
    lora__buffer text;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(family != NULL, error);
    lora__buffer_init(&target, context);
    lora__buffer_init(&text, context);
    TRY_OR_DONE(model_begin(&model, context, family, error));
    TRY_OR_DONE(
        lora__container_create(&container, context, "family", "", error));
    TRY_OR_DONE(
        model_add_targets(container, model->family, &target, &text, error));
    status = lora__checkpoint_list_family(&model->checkpoint, container,
                                          model->family, error);
    container = NULL; /* it was taken */
    if (status == LORA_OK) {
        *out = model;
        model = NULL;
    }
done:
    lora__buffer_destroy(&text);
    lora__buffer_destroy(&target);
    lora__container_release(container);
    lora_model_destroy(model);
    return status;
}

/* ---- hosts ------------------------------------------------------------- */

static lora_status model_refuse(lora_status status,
                                const char *name,
                                const char *what,
                                lora_error *error)
{
    return lora__fail(error, status, LORA_NO_OFFSET, name, "%s", what);
}

static uint64_t model_gcd(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The greatest number of rows that all bounds are multiples of. */
static lora_status model_read_unit(uint64_t *out,
                                   const lora_model_tensor *tensor,
                                   int64_t rows,
                                   lora_error *error)
{
    uint64_t unit = (uint64_t)rows;

    for (size_t i = 0; i < tensor->part_count; i++) {
        const lora_model_part *part = &tensor->parts[i];
        if (part->target == NULL || part->target[0] == '\0') {
            return model_refuse(LORA_ERROR_ARGUMENT, tensor->name,
                                "a part without a target", error);
        }
        if (part->row_begin < 0 || part->row_begin >= part->row_end ||
            part->row_end > rows) {
            return model_refuse(LORA_ERROR_RANGE, tensor->name,
                                "a part has no such rows", error);
        }
        unit = model_gcd(unit, (uint64_t)part->row_begin);
        unit = model_gcd(unit, (uint64_t)part->row_end);
    }
    if ((uint64_t)rows / unit > UINT16_MAX) {
        return model_refuse(LORA_ERROR_UNSUPPORTED, tensor->name,
                            "the bounds of its parts have no common measure",
                            error);
    }
    *out = unit;
    return LORA_OK;
}

/* "<component>.<name>", or the name where that begins so or nothing is told;
 * *prefix is how much of it was not there. */
static lora_status model_full_name(const char **out,
                                   size_t *prefix,
                                   lora__arena *arena,
                                   const char *component,
                                   const char *name,
                                   lora_error *error)
{
    const size_t bytes = strlen(name);
    const size_t before = component == NULL ? 0 : strlen(component);
    char *text;

    *prefix = before + 1;
    if (before == 0 ||
        (lora__text_begins(name, bytes, component) && name[before] == '.')) {
        *prefix = 0;
    }
    text = lora__arena_alloc(arena, *prefix + bytes + 1);
    if (text == NULL) {
        return lora__fail_memory(error, *prefix + bytes + 1);
    }
    if (*prefix != 0) {
        memcpy(text, component, before);
        text[before] = '.';
    }
    memcpy(text + *prefix, name, bytes + 1);
    *out = text;
    return LORA_OK;
}

/* The part of a target, a new one if there is none yet. */
static lora_status model_find_part(lora__part **out,
                                   lora__listed *listed,
                                   lora__part *parts,
                                   const char *target,
                                   const lora_model_tensor *tensor,
                                   lora_error *error)
{
    size_t i = 0;

    while (i < listed->part_count && strcmp(parts[i].target, target) != 0) {
        i++;
    }
    *out = &parts[i];
    if (i == listed->part_count) {
        listed->part_count++;
        (*out)->target = target;
    } else if ((*out)->rows.slice_count == LORA__MAX_SLICES) {
        return model_refuse(LORA_ERROR_UNSUPPORTED, tensor->name,
                            "a layer has rows in more than two places", error);
    }
    return LORA_OK;
}

static lora_status model_read_parts(lora__hosted *out,
                                    lora__container *hosts,
                                    const lora_model_tensor *tensor,
                                    int64_t rows,
                                    lora_error *error)
{
    lora__part *parts;
    uint64_t unit = 1;
    void *memory;

    if (tensor->parts == NULL || tensor->part_count == 0) {
        return tensor->part_count == 0
                   ? LORA_OK
                   : model_refuse(LORA_ERROR_ARGUMENT, tensor->name,
                                  "parts are counted, and not given", error);
    }
    TRY(model_read_unit(&unit, tensor, rows, error));
    TRY(lora__arena_zeroed(&memory, &hosts->arena, tensor->part_count,
                           sizeof *parts, error));
    parts = memory;
    out->listed.parts = parts;
    for (size_t i = 0; i < tensor->part_count; i++) {
        const lora_model_part *from = &tensor->parts[i];
        const char *target;
        size_t prefix;
        lora__part *part;
        lora__slice *slice;

        TRY(model_full_name(&target, &prefix, &hosts->arena, tensor->component,
                            from->target, error));
        TRY(model_find_part(&part, &out->listed, parts, target, tensor, error));
        slice = &part->rows.slices[part->rows.slice_count++];
        slice->begin = (uint16_t)((uint64_t)from->row_begin / unit);
        slice->end = (uint16_t)((uint64_t)from->row_end / unit);
        part->rows.units = (uint16_t)((uint64_t)rows / unit);
    }
    return LORA_OK;
}

static lora_status model_read_shape(lora__entry *out,
                                    const lora_model_tensor *tensor,
                                    lora_error *error)
{
    const char *wrong;

    if (tensor->ndim < 1 || tensor->ndim > LORA_MAX_DIMS) {
        return model_refuse(LORA_ERROR_SHAPE, tensor->name,
                            "1 to 8 dimensions are needed", error);
    }
    for (int32_t i = 0; i < tensor->ndim; i++) {
        out->shape[i] = tensor->order == LORA_ORDER_GGML
                            ? tensor->shape[tensor->ndim - 1 - i]
                            : tensor->shape[i];
        if (out->shape[i] < 1) {
            return model_refuse(LORA_ERROR_SHAPE, tensor->name,
                                "an empty dimension", error);
        }
    }
    out->ndim = tensor->ndim;
    out->dtype = tensor->dtype;
    if (lora_dtype_bits(tensor->dtype) == 0) {
        return model_refuse(LORA_ERROR_DTYPE, tensor->name,
                            "no such number type", error);
    }
    wrong = lora__safetensors_size(&out->elements, &out->bytes, out->dtype,
                                   out->ndim, out->shape);
    return wrong == NULL
               ? LORA_OK
               : model_refuse(LORA_ERROR_SHAPE, tensor->name, wrong, error);
}

static lora_status model_check_tensor(lora_model_tensor *out,
                                      const lora_model *model,
                                      const lora_model_tensor *tensor,
                                      lora_error *error)
{
    const lora_limits *limits = &lora__context_get(model->context)->limits;

    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_model_tensor, reserved1), tensor,
                           error));
    TRY(lora__options_reserved(out->reserved1, error));
    if (model->hosts == NULL) {
        return model_refuse(LORA_ERROR_STATE, out->name,
                            "the model takes no more tensors", error);
    }
    if (out->name == NULL || out->name[0] == '\0') {
        return model_refuse(LORA_ERROR_ARGUMENT, NULL,
                            "a tensor without a name", error);
    }
    if (out->component != NULL &&
        lora__pipeline_component(out->component) == NULL) {
        return model_refuse(LORA_ERROR_ARGUMENT, out->component,
                            "no such component", error);
    }
    if (out->order != LORA_ORDER_ROWS && out->order != LORA_ORDER_GGML) {
        return model_refuse(LORA_ERROR_ARGUMENT, out->name,
                            "no such order of dimensions", error);
    }
    if (strlen(out->name) > limits->name_bytes ||
        model->hosts->entry_count >= limits->tensor_count) {
        return model_refuse(LORA_ERROR_LIMIT, out->name,
                            "a longer name, or more tensors, than the limit",
                            error);
    }
    return LORA_OK;
}

LORA_API lora_status lora_model_add(lora_model *model,
                                    const lora_model_tensor *tensor,
                                    lora_error *error)
{
    lora_model_tensor t;
    lora__hosted hosted = {0};
    lora__entry entry = {0};
    lora__entry *added;
    lora__container *hosts;
    void *memory;
    size_t existing;

    lora__error_begin(error);
    CHECK_ARG(model != NULL, error);
    CHECK_ARG(tensor != NULL, error);
    TRY(model_check_tensor(&t, model, tensor, error));
    TRY(model_read_shape(&entry, &t, error));
    hosts = model->hosts;
    TRY(model_read_parts(&hosted, hosts, &t, entry.shape[0], error));
    TRY(model_full_name(&entry.name, &hosted.prefix, &hosts->arena, t.component,
                        t.name, error));
    entry.name_bytes = strlen(entry.name);
    hosted.listed.component =
        t.component == NULL ? NULL : lora__pipeline_component(t.component);
    memory = model->hosted;
    TRY(lora__grow(&memory, &model->hosted_capacity, model->context,
                   hosts->entry_count + 1, sizeof *model->hosted, error));
    model->hosted = memory;
    if (lora__map_find(&existing, &hosts->by_name, entry.name,
                       entry.name_bytes)) {
        return model_refuse(LORA_ERROR_DUPLICATE, t.name, "it is there already",
                            error);
    }
    TRY(lora__container_add(&added, hosts, error));
    *added = entry;
    model->hosted[hosts->entry_count - 1] = hosted;
    if (lora__map_add(&existing, &hosts->by_name, entry.name, entry.name_bytes,
                      hosts->entry_count - 1, error) != LORA_OK) {
        hosts->entry_count--;
        return LORA_ERROR_MEMORY;
    }
    return LORA_OK;
}

/* What is said of each tensor, apart from where the host finds it. */
static lora_status
model_seal_list(lora_model *model, lora__listed *listed, lora_error *error)
{
    lora__checkpoint *checkpoint;

    for (size_t i = 0; i < model->hosts->entry_count; i++) {
        listed[i] = model->hosted[i].listed;
    }
    /* On failure it is still there, to be added to. */
    lora__container_retain(model->hosts);
    TRY(lora__checkpoint_list(&checkpoint, model->hosts, listed, error));
    lora__container_release(model->hosts);
    model->hosts = NULL;
    model_take(model, checkpoint);
    return LORA_OK;
}

LORA_API lora_status lora_model_seal(lora_model *model, lora_error *error)
{
    lora_status status;
    size_t count;
    void *memory;

    lora__error_begin(error);
    CHECK_ARG(model != NULL, error);
    if (model->checkpoint != NULL) {
        return LORA_OK;
    }
    count = model->hosts->entry_count + 1;
    TRY(lora__alloc_zeroed(&memory, model->context, count, sizeof(lora__listed),
                           error));
    status = model_seal_list(model, memory, error);
    lora__free(model->context, memory, count * sizeof(lora__listed),
               LORA__ALIGN);
    return status;
}

/* ---- owners ------------------------------------------------------------ */

LORA_API lora_model *lora_model_retain(lora_model *model)
{
    if (model != NULL) {
        lora__atomic_add_u32(&model->references, 1);
    }
    return model;
}

LORA_API void lora_model_destroy(lora_model *model)
{
    lora_context *context;

    if (model == NULL ||
        lora__atomic_add_u32(&model->references, UINT32_MAX) != 0) {
        return;
    }
    context = model->context;
    lora__checkpoint_release(model->checkpoint);
    lora__container_release(model->hosts);
    lora__free(context, model->hosted,
               model->hosted_capacity * sizeof *model->hosted, LORA__ALIGN);
    lora__free(context, model, sizeof *model, LORA__ALIGN);
    lora_context_destroy(context);
}

/* ---- asking ------------------------------------------------------------ */

static lora_status model_check_sealed(const lora_model *model,
                                      lora_error *error)
{
    return model->checkpoint != NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
                            "tensors are still being added to the model");
}

LORA_API lora_status lora_model_get_info(lora_model_info *out,
                                         const lora_model *model,
                                         lora_error *error)
{
    lora_model_info info = {0};
    const lora__checkpoint *c;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(model != NULL, error);
    TRY(model_check_sealed(model, error));
    c = model->checkpoint;
    info.struct_size = sizeof info;
    info.path = c->path;
    info.family = c->family == NULL ? "" : lora__family_id(c->family);
    info.confidence = c->confidence;
    info.tensor_count = c->tensor_count;
    info.catalogue = c->catalogue != 0;
    return lora__out_write(out, &info, sizeof info, error);
}

LORA_PRIVATE const char *lora__model_tensor_name(const lora_model *model,
                                                 size_t tensor)
{
    const char *name = model->checkpoint->tensors[tensor].name;

    return model->hosted == NULL ? name : name + model->hosted[tensor].prefix;
}

LORA_API lora_status lora_model_get_tensor(lora_model_tensor_info *out,
                                           const lora_model *model,
                                           size_t index,
                                           lora_error *error)
{
    lora_model_tensor_info info = {0};
    const lora__checkpoint *c;
    const lora__tensor *tensor;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(model != NULL, error);
    TRY(model_check_sealed(model, error));
    c = model->checkpoint;
    if (index >= c->tensor_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "tensor %llu of %llu", (unsigned long long)index,
                          (unsigned long long)c->tensor_count);
    }
    tensor = &c->tensors[index];
    info.struct_size = sizeof info;
    info.name = lora__model_tensor_name(model, index);
    info.target = tensor->target;
    info.component = tensor->component;
    info.part_count = tensor->part_count;
    info.ndim = -1;
    if (lora__checkpoint_has_shape(c, index)) {
        info.ndim = tensor->entry->ndim;
        memcpy(info.shape, tensor->entry->shape, sizeof info.shape);
    }
    if (!c->catalogue) {
        info.dtype = tensor->entry->dtype;
    }
    return lora__out_write(out, &info, sizeof info, error);
}
