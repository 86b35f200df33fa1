/* Opening checkpoints: files, names, and who has which target. */
#include "model/checkpoint.h"

#include "core/text.h"
#include "format/quote.h"
#include "format/shards.h"
#include "kernel/kernel.h"
#include "model/pipeline.h"
#include "platform/atomic.h"

#include <string.h>

#define CHECKPOINT_QUOTED 80 /* of a name in a message */

/* Names that no adapter is for ---------------------------------------------
 */

/* VAEs as all-in-one files have them, and running means of the weights. */
static const char *const checkpoint_aside_begins[] = {
    "first_stage_model.",
    "vae.",
    "model_ema.",
};

/* Tables of the noise schedule, and markers of what a model predicts. */
static const char *const checkpoint_aside_names[] = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "denoiser.sigmas",
    "scaled_fp8",
    "v_pred",
    "ztsnr",
};

/* Ends of names that are set aside unless a family has the target: buffers, and
 * what quantised weights have beside them. */
static const char *const checkpoint_aside_ends[] = {
    ".pos_embed",        ".position_ids",  ".logit_scale",
    ".absmax",           ".nested_absmax", ".quant_map",
    ".nested_quant_map", ".SCB",           ".scales",
};

static int checkpoint_is_aside(const char *name, size_t bytes)
{
    for (size_t i = 0; i < LORA__COUNT(checkpoint_aside_begins); i++) {
        if (lora__text_begins(name, bytes, checkpoint_aside_begins[i])) {
            return 1;
        }
    }
    for (size_t i = 0; i < LORA__COUNT(checkpoint_aside_names); i++) {
        const char *aside = checkpoint_aside_names[i];
        if (strlen(aside) == bytes && memcmp(aside, name, bytes) == 0) {
            return 1;
        }
    }
    return 0;
}

static int checkpoint_ends_aside(const char *name, size_t bytes)
{
    for (size_t i = 0; i < LORA__COUNT(checkpoint_aside_ends); i++) {
        const char *end = checkpoint_aside_ends[i];
        if (lora__text_ends(name, bytes, end) || strcmp(name, end + 1) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Tensors ------------------------------------------------------------------
 */

/* "<component>.<stored>": the names of two components may be the same. */
static lora_status checkpoint_name(lora__tensor *tensor,
                                   lora__checkpoint *c,
                                   const char *component,
                                   lora__buffer *text,
                                   lora_error *error)
{
    const lora__entry *entry = tensor->entry;

    tensor->name = entry->name;
    tensor->name_bytes = entry->name_bytes;
    if (component[0] == '\0') {
        return LORA_OK;
    }
    lora__buffer_clear(text);
    lora__buffer_puts(text, component);
    lora__buffer_putc(text, '.');
    lora__buffer_append(text, entry->name, entry->name_bytes);
    TRY(lora__buffer_status(text, error));
    tensor->name_bytes = text->bytes;
    return lora__arena_string(&tensor->name, &c->arena, text->data, text->bytes,
                              error);
}

static lora_status checkpoint_list_file(lora__checkpoint *c,
                                        const lora__checkpoint_file *file,
                                        lora__buffer *text,
                                        lora_error *error)
{
    lora__container *container = file->container;

    for (size_t i = 0; i < container->entry_count; i++) {
        lora__tensor *tensor = &c->tensors[c->tensor_count];
        size_t existing;

        tensor->entry = &container->entries[i];
        tensor->container = container;
        tensor->index = i;
        tensor->scale = SIZE_MAX;
        TRY(checkpoint_name(tensor, c, file->component, text, error));
        tensor->module = tensor->target = tensor->name;
        tensor->component = file->component;
        tensor->use = checkpoint_is_aside(tensor->name, tensor->name_bytes)
                          ? LORA__TENSOR_ASIDE
                      : lora__dtype_is_float(tensor->entry->dtype)
                          ? LORA__TENSOR_TARGET
                          : LORA__TENSOR_NUMBERS;
        TRY(lora__map_add(&existing, &c->by_name, tensor->name,
                          tensor->name_bytes, c->tensor_count, error));
        INVARIANT(existing == c->tensor_count, error);
        c->tensor_count++;
    }
    return LORA_OK;
}

static lora_status checkpoint_list(lora__checkpoint *c, lora_error *error)
{
    const lora_limits *limits = &lora__context_get(c->context)->limits;
    uint64_t total = 0; /* of a few counts of things in memory */
    lora__buffer text;
    void *memory;
    lora_status status = LORA_OK;

    for (size_t i = 0; i < c->file_count; i++) {
        total += c->files[i].container->entry_count;
    }
    if (total > limits->tensor_count) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, c->path,
                          "more tensors than the limit");
    }
    TRY(lora__arena_zeroed(&memory, &c->arena, (size_t)total + 1,
                           sizeof *c->tensors, error));
    c->tensors = memory;
    lora__buffer_init(&text, c->context);
    for (size_t i = 0; i < c->file_count && status == LORA_OK; i++) {
        status = checkpoint_list_file(c, &c->files[i], &text, error);
    }
    lora__buffer_destroy(&text);
    return status;
}

/* Names --------------------------------------------------------------------
 */

/* What the first file says that says anything. */
static const char *checkpoint_metadata(const void *user, const char *key)
{
    const lora__checkpoint *c = user;
    const char *value = NULL;

    for (size_t i = 0; i < c->file_count && value == NULL; i++) {
        value = lora__container_metadata(c->files[i].container, key);
    }
    return value;
}

/* 1 if the rows of the tensor can be cut as its parts are. */
static int checkpoint_fits_parts(const lora__tensor *tensor)
{
    const lora__entry *entry = tensor->entry;

    for (size_t i = 0; i < tensor->part_count; i++) {
        const lora__row_set *rows = &tensor->parts[i].rows;
        if (entry->ndim < 1 || (rows->transposed && entry->ndim != 2) ||
            (rows->units != 0 && entry->shape[0] % rows->units != 0)) {
            return 0;
        }
    }
    return 1;
}

static void checkpoint_understand(lora__tensor *tensor,
                                  const lora__key_out *key)
{
    if (key->target[0] == '\0') {
        return;
    }
    tensor->module = key->module;
    tensor->target = key->target;
    tensor->role = key->role;
    tensor->layer = key->layer;
    tensor->known = key->known;
    tensor->original = key->original;
    tensor->parts = key->parts;
    tensor->part_count = key->part_count;
    if (key->component[0] != '\0') {
        tensor->component = key->component;
    }
    if (!checkpoint_fits_parts(tensor)) {
        tensor->parts = NULL;
        tensor->part_count = 0;
    }
    if ((tensor->role != LORA__ROLE_WEIGHT &&
         tensor->role != LORA__ROLE_BIAS) ||
        (!tensor->known &&
         checkpoint_ends_aside(tensor->name, tensor->name_bytes))) {
        tensor->use = LORA__TENSOR_ASIDE;
    }
}

static lora_status
checkpoint_read_keys(lora__checkpoint *c, lora__key_in *keys, lora_error *error)
{
    lora__names names;
    size_t count = 0;

    for (size_t i = 0; i < c->tensor_count; i++) {
        const lora__tensor *tensor = &c->tensors[i];
        lora__key_in *key = &keys[count];

        if (tensor->use == LORA__TENSOR_ASIDE) {
            continue;
        }
        count++;
        key->name = tensor->name;
        key->name_bytes = tensor->name_bytes;
        key->ndim = tensor->entry->ndim;
        key->shape = tensor->entry->shape;
    }
    TRY(lora__names_read_base(&names, &c->arena, keys, count,
                              checkpoint_metadata, c, error));
    count = 0;
    for (size_t i = 0; i < c->tensor_count; i++) {
        if (c->tensors[i].use != LORA__TENSOR_ASIDE) {
            checkpoint_understand(&c->tensors[i], &names.keys[count++]);
        }
    }
    c->family = names.family;
    c->confidence = names.confidence;
    c->alternative_count = names.alternative_count;
    memcpy(c->alternatives, names.alternatives, sizeof c->alternatives);
    return LORA_OK;
}

static lora_status checkpoint_read_names(lora__checkpoint *c, lora_error *error)
{
    size_t count = c->tensor_count + 1;
    void *keys;
    lora_status status;

    TRY(lora__alloc_zeroed(&keys, c->context, count, sizeof(lora__key_in),
                           error));
    status = checkpoint_read_keys(c, keys, error);
    lora__free(c->context, keys, count * sizeof(lora__key_in), LORA__ALIGN);
    return status;
}

/* The targets of a family say themselves what they are. */
static lora_status checkpoint_take_targets(lora__checkpoint *c,
                                           const lora__family *family,
                                           lora_error *error)
{
    for (size_t i = 0; i < c->tensor_count; i++) {
        lora__tensor *tensor = &c->tensors[i];
        const char *end = strchr(tensor->name, '.');
        size_t bytes = tensor->name_bytes;

        tensor->role = LORA__ROLE_WEIGHT;
        if (lora__text_ends(tensor->name, bytes, ".weight")) {
            bytes -= sizeof ".weight" - 1;
        } else if (lora__text_ends(tensor->name, bytes, ".bias")) {
            bytes -= sizeof ".bias" - 1;
            tensor->role = LORA__ROLE_BIAS;
        }
        INVARIANT(end != NULL, error);
        TRY(lora__arena_string(&tensor->target, &c->arena, tensor->name, bytes,
                               error));
        TRY(lora__arena_string(&tensor->component, &c->arena, tensor->name,
                               (size_t)(end - tensor->name), error));
        tensor->module = tensor->target;
        tensor->layer = lora__family_layer(family, tensor->target);
        tensor->known = 1;
    }
    c->family = family;
    c->confidence = 1.0;
    c->catalogue = 1;
    return LORA_OK;
}

static void checkpoint_take_listed(lora__checkpoint *c,
                                   const lora__listed *listed)
{
    for (size_t i = 0; listed != NULL && i < c->tensor_count; i++) {
        if (listed[i].component != NULL) {
            c->tensors[i].component = listed[i].component;
        }
        if (listed[i].part_count != 0) {
            c->tensors[i].parts = listed[i].parts;
            c->tensors[i].part_count = listed[i].part_count;
        }
    }
}

/* Scales -------------------------------------------------------------------
 */

/* Tell the weights of F8 of their scales. */
static lora_status checkpoint_find_scales(lora__checkpoint *c,
                                          lora_error *error)
{
    lora__buffer name;
    lora_status status = LORA_OK;

    lora__buffer_init(&name, c->context);
    for (size_t i = 0; i < c->tensor_count && status == LORA_OK; i++) {
        size_t weight;

        if (c->tensors[i].role != LORA__ROLE_SCALE) {
            continue;
        }
        lora__buffer_clear(&name);
        lora__buffer_puts(&name, c->tensors[i].module);
        lora__buffer_puts(&name, ".weight");
        status = lora__buffer_status(&name, error);
        if (status == LORA_OK &&
            lora__map_find(&weight, &c->by_name, name.data, name.bytes)) {
            c->tensors[weight].scale = i;
        }
    }
    lora__buffer_destroy(&name);
    return status;
}

/* Targets ------------------------------------------------------------------
 */

static lora__map *checkpoint_map(lora__checkpoint *c, lora__role role)
{
    return role == LORA__ROLE_BIAS ? &c->by_bias : &c->by_target;
}

static lora_status checkpoint_refuse_twice(const lora__checkpoint *c,
                                           const lora__tensor *one,
                                           const lora__tensor *other,
                                           lora_error *error)
{
    char first[CHECKPOINT_QUOTED];
    char second[CHECKPOINT_QUOTED];

    lora__quote(first, sizeof first, one->name, one->name_bytes);
    lora__quote(second, sizeof second, other->name, other->name_bytes);
    return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, c->path,
                      "the same weight twice: %s, %s", first, second);
}

/* One more holding; where a target has one already, that one stays. */
static lora_status checkpoint_add_hold(lora__checkpoint *c,
                                       size_t tensor,
                                       const lora__part *part,
                                       lora_error *error)
{
    lora__holding *hold = &c->holds[c->hold_count];
    lora__map *map = checkpoint_map(c, c->tensors[tensor].role);
    size_t existing;

    TRY(lora__checkpoint_hold(hold, c, tensor, part, error));
    TRY(lora__map_add(&existing, map, hold->target, strlen(hold->target),
                      c->hold_count, error));
    if (existing != c->hold_count) {
        return part != NULL ? LORA_OK
                            : checkpoint_refuse_twice(
                                  c, &c->tensors[c->holds[existing].tensor],
                                  &c->tensors[tensor], error);
    }
    c->hold_count++;
    return LORA_OK;
}

/* Whole tensors first: what has a target to itself goes before a share. */
static lora_status checkpoint_add_holds(lora__checkpoint *c, lora_error *error)
{
    size_t count = 1;
    void *memory;

    for (size_t i = 0; i < c->tensor_count; i++) {
        count += 1 + c->tensors[i].part_count;
    }
    TRY(lora__arena_zeroed(&memory, &c->arena, count, sizeof *c->holds, error));
    c->holds = memory;
    for (size_t i = 0; i < c->tensor_count; i++) {
        if (c->tensors[i].use != LORA__TENSOR_ASIDE) {
            TRY(checkpoint_add_hold(c, i, NULL, error));
        }
    }
    for (size_t i = 0; i < c->tensor_count; i++) {
        const lora__tensor *tensor = &c->tensors[i];
        for (size_t p = 0;
             tensor->use != LORA__TENSOR_ASIDE && p < tensor->part_count; p++) {
            TRY(checkpoint_add_hold(c, i, &tensor->parts[p], error));
        }
    }
    return LORA_OK;
}

/* Opening ------------------------------------------------------------------
 */

static lora_status checkpoint_begin(lora__checkpoint **out,
                                    lora_context *context,
                                    const char *path,
                                    lora_error *error)
{
    void *memory;
    lora__checkpoint *c;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *c, error));
    c = memory;
    c->references = 1;
    c->context = lora_context_retain(context);
    lora__arena_init(&c->arena, context);
    lora__map_init(&c->by_name, context);
    lora__map_init(&c->by_target, context);
    lora__map_init(&c->by_bias, context);
    TRY_OR_DONE(lora__arena_zeroed(&memory, &c->arena, LORA__PIPELINE_MAX,
                                   sizeof *c->files, error));
    c->files = memory;
    TRY_OR_DONE(
        lora__arena_string(&c->path, &c->arena, path, strlen(path), error));
    *out = c;
    c = NULL;
done:
    lora__checkpoint_release(c);
    return status;
}

/* What is the same wherever the files came from. */
static lora_status checkpoint_finish(lora__checkpoint *c,
                                     const lora__listed *listed,
                                     const lora__family *family,
                                     lora_error *error)
{
    TRY(checkpoint_list(c, error));
    if (family != NULL) {
        TRY(checkpoint_take_targets(c, family, error));
    } else {
        TRY(checkpoint_read_names(c, error));
    }
    checkpoint_take_listed(c, listed);
    TRY(checkpoint_find_scales(c, error));
    return checkpoint_add_holds(c, error);
}

static lora_status
checkpoint_open_files(lora__checkpoint *c, int map, lora_error *error)
{
    lora__pipeline_file found[LORA__PIPELINE_MAX];
    size_t count;

    TRY(lora__pipeline_locate(found, &count, &c->arena, c->path, error));
    for (size_t i = 0; i < count; i++) {
        lora__checkpoint_file *file = &c->files[i];

        TRY(lora__container_open_path(&file->container, c->context,
                                      found[i].path, map, error));
        file->path = file->container->path;
        file->component = found[i].component;
        c->file_count++;
    }
    return checkpoint_finish(c, NULL, NULL, error);
}

LORA_PRIVATE lora_status lora__checkpoint_open(lora__checkpoint **out,
                                               lora_context *context,
                                               const char *path,
                                               int map,
                                               lora_error *error)
{
    lora__checkpoint *c;
    lora_status status;

    *out = NULL;
    TRY(checkpoint_begin(&c, context, path, error));
    status = checkpoint_open_files(c, map, error);
    if (status != LORA_OK) {
        lora__checkpoint_release(c);
        return status;
    }
    *out = c;
    return LORA_OK;
}

/* Of the one container, which is released on failure. */
static lora_status checkpoint_of(lora__checkpoint **out,
                                 lora__container *container,
                                 const char *component,
                                 const lora__listed *listed,
                                 const lora__family *family,
                                 lora_error *error)
{
    lora__checkpoint *c;
    lora_status status;

    *out = NULL;
    status = checkpoint_begin(&c, container->context, container->path, error);
    if (status != LORA_OK) {
        lora__container_release(container);
        return status;
    }
    c->files[0].container = container;
    c->files[0].path = container->path;
    c->file_count = 1;
    TRY_OR_DONE(lora__arena_string(&c->files[0].component, &c->arena, component,
                                   strlen(component), error));
    TRY_OR_DONE(checkpoint_finish(c, listed, family, error));
    *out = c;
    c = NULL;
done:
    lora__checkpoint_release(c);
    return status;
}

LORA_PRIVATE lora_status lora__checkpoint_create(lora__checkpoint **out,
                                                 lora__container *container,
                                                 const char *component,
                                                 lora_error *error)
{
    return checkpoint_of(out, container, component, NULL, NULL, error);
}

LORA_PRIVATE lora_status lora__checkpoint_list(lora__checkpoint **out,
                                               lora__container *container,
                                               const lora__listed *listed,
                                               lora_error *error)
{
    return checkpoint_of(out, container, "", listed, NULL, error);
}

LORA_PRIVATE lora_status
lora__checkpoint_list_family(lora__checkpoint **out,
                             lora__container *container,
                             const lora__family *family,
                             lora_error *error)
{
    return checkpoint_of(out, container, "", NULL, family, error);
}

LORA_PRIVATE void lora__checkpoint_retain(lora__checkpoint *checkpoint)
{
    lora__atomic_add_u32(&checkpoint->references, 1);
}

LORA_PRIVATE void lora__checkpoint_release(lora__checkpoint *checkpoint)
{
    lora_context *context;

    if (checkpoint == NULL ||
        lora__atomic_add_u32(&checkpoint->references, UINT32_MAX) != 0) {
        return;
    }
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        lora__container_release(checkpoint->files[i].container);
    }
    context = checkpoint->context;
    lora__map_destroy(&checkpoint->by_name);
    lora__map_destroy(&checkpoint->by_target);
    lora__map_destroy(&checkpoint->by_bias);
    lora__arena_destroy(&checkpoint->arena);
    lora__free(context, checkpoint, sizeof *checkpoint, LORA__ALIGN);
    lora_context_destroy(context);
}

/* Asking -------------------------------------------------------------------
 */

LORA_PRIVATE int lora__checkpoint_find(size_t *out,
                                       const lora__checkpoint *checkpoint,
                                       const char *name,
                                       size_t name_bytes)
{
    return lora__map_find(out, &checkpoint->by_name, name, name_bytes);
}

LORA_PRIVATE const lora__holding *lora__checkpoint_find_target(
    const lora__checkpoint *checkpoint, const char *target, lora__role role)
{
    const lora__map *map =
        role == LORA__ROLE_BIAS ? &checkpoint->by_bias : &checkpoint->by_target;
    size_t at;

    return lora__map_find(&at, map, target, strlen(target))
               ? &checkpoint->holds[at]
               : NULL;
}

LORA_PRIVATE int lora__tensor_matches(const lora__tensor *tensor,
                                      const char *pattern)
{
    if (lora__text_matches(pattern, tensor->name) ||
        lora__text_matches(pattern, tensor->module) ||
        lora__text_matches(pattern, tensor->target) ||
        (tensor->component[0] != '\0' &&
         lora__text_matches(pattern, tensor->component))) {
        return 1;
    }
    for (size_t i = 0; i < tensor->part_count; i++) {
        if (lora__text_matches(pattern, tensor->parts[i].target)) {
            return 1;
        }
    }
    return 0;
}
