/* Bindings: a model, an adapter, and how strongly each module is applied. */
#include "model/model.h"

#include "core/options.h"
#include "platform/atomic.h"

#include <string.h>

LORA_API void
lora_binding_create_options_init(lora_binding_create_options *options,
                                 size_t size)
{
    lora__options_init(options, size);
}

/* ---- selections -------------------------------------------------------- */

static lora_status binding_select(lora_binding *binding,
                                  const lora_binding_create_options *options,
                                  lora_error *error)
{
    lora__arena *arena = &binding->bind.arena;
    const size_t modules = binding->adapter->module_count;
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, modules, sizeof *binding->factors,
                           error));
    binding->factors = memory;
    for (size_t m = 0; m < modules; m++) {
        binding->factors[m] = 1.0;
    }
    TRY(lora__arena_zeroed(&memory, arena, options->selection_count,
                           sizeof *binding->selections, error));
    binding->selections = memory;
    binding->selection_count = options->selection_count;
    for (size_t i = 0; i < options->selection_count; i++) {
        const lora_selection *from = &options->selections[i];
        lora__selected *to = &binding->selections[i];

        CHECK_ARG(from->pattern != NULL, error);
        TRY(lora__arena_string(&to->pattern, arena, from->pattern,
                               strlen(from->pattern), error));
        to->factor = from->factor;
        TRY(lora__select_apply(binding->factors, to, binding->adapter, error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_binding_state
lora__binding_state_of(const lora_binding *binding, size_t item)
{
    const lora__bound *bound = &binding->bind.items[item];

    return bound->effect_count != 0 && binding->factors[bound->module] == 0.0
               ? LORA_BINDING_LEFT_OUT
               : (lora_binding_state)bound->state;
}

/* ---- the verdict ------------------------------------------------------- */

static int binding_may_be(const lora_adapter *adapter,
                          const lora__family *family)
{
    int may = adapter->names.family == NULL || adapter->names.family == family;

    for (size_t i = 0; i < adapter->names.alternative_count; i++) {
        may |= adapter->names.alternatives[i] == family;
    }
    return may;
}

/* Modules that are bound, or would be. */
static size_t binding_fits(const lora_binding *binding)
{
    return binding->bind.counts[LORA__BOUND] +
           binding->bind.counts[LORA__BOUND_HALF];
}

static lora_binding_verdict binding_judge(const lora_binding *binding)
{
    const lora_adapter *adapter = binding->adapter;
    const lora__family *family = binding->bind.model->family;
    const size_t fits = binding_fits(binding);
    const int other = family != NULL && !binding_may_be(adapter, family);

    if (fits != 0 && fits == adapter->module_count) {
        return other ? LORA_BINDING_UNSURE : LORA_BINDING_RIGHT;
    }
    if (other) {
        return LORA_BINDING_WRONG;
    }
    return fits != 0 && family != NULL && adapter->names.family == family
               ? LORA_BINDING_RIGHT
               : LORA_BINDING_UNSURE;
}

static const char *binding_family_id(const lora__family *family)
{
    return family == NULL ? "" : lora__family_id(family);
}

/* ---- telling ----------------------------------------------------------- */

static const char *binding_item_name(const lora_binding *binding, size_t item)
{
    const lora__bound *bound = &binding->bind.items[item];

    return bound->module == SIZE_MAX
               ? binding->adapter->container->entries[bound->tensor].name
               : binding->adapter->modules[bound->module].name;
}

static const char *binding_adapter_name(const lora_binding *binding)
{
    const char *path = binding->adapter->container->path;

    return path[0] == '\0' ? "the adapter" : path;
}

/* One line for all: hundreds of them hide what is wrong. */
static void binding_warn(const lora_binding *binding)
{
    const lora_adapter *adapter = binding->adapter;
    const char *name = binding_adapter_name(binding);
    const size_t fits = binding_fits(binding);

    if (binding->verdict == LORA_BINDING_WRONG) {
        lora__log(binding->context, LORA_LOG_WARNING,
                  "%s: made for %s, the model is %s: %llu of %llu modules fit",
                  name, binding_family_id(adapter->names.family),
                  binding_family_id(binding->bind.model->family),
                  (unsigned long long)fits,
                  (unsigned long long)adapter->module_count);
    } else if (binding->bind.counts[LORA__BOUND] != binding->bind.count) {
        lora__log(
            binding->context, LORA_LOG_WARNING,
            "%s: %llu of %llu modules fit the model, %llu of them half; "
            "%llu tensors are of no module",
            name, (unsigned long long)fits,
            (unsigned long long)adapter->module_count,
            (unsigned long long)binding->bind.counts[LORA__BOUND_HALF],
            (unsigned long long)binding->bind.counts[LORA__BOUND_UNKNOWN]);
    }
    for (size_t i = 0; i < binding->selection_count; i++) {
        if (binding->selections[i].count == 0) {
            lora__log(binding->context, LORA_LOG_WARNING,
                      "%s: no module of %s is meant by it",
                      binding->selections[i].pattern, name);
        }
    }
}

/* Say one thing that a strict binding refuses; the first is the failure. */
static void binding_refuse(lora_status *status,
                           lora_error *error,
                           const lora_binding *binding,
                           lora_status why,
                           const char *subject,
                           const char *reason)
{
    lora__log(binding->context, LORA_LOG_ERROR, "%s: %s", subject, reason);
    if (*status == LORA_OK) {
        *status = lora__fail(error, why, LORA_NO_OFFSET, subject, "%s", reason);
    }
}

/* What a strict binding answers. */
static lora_status binding_check(const lora_binding *binding, lora_error *error)
{
    lora_status status = LORA_OK;

    for (size_t i = 0; i < binding->bind.count; i++) {
        const lora__bound *bound = &binding->bind.items[i];
        if (bound->state != LORA__BOUND) {
            binding_refuse(&status, error, binding, bound->status,
                           binding_item_name(binding, i), bound->reason);
        }
    }
    for (size_t i = 0; i < binding->selection_count; i++) {
        if (binding->selections[i].count == 0) {
            binding_refuse(&status, error, binding, LORA_ERROR_KEY,
                           binding->selections[i].pattern,
                           "no module is meant by it");
        }
    }
    if (binding->adapter->module_count == 0) {
        binding_refuse(&status, error, binding, LORA_ERROR_KEY,
                       binding->adapter->container->path,
                       "there are no modules in it");
    }
    return status;
}

/* ---- making ------------------------------------------------------------ */

static lora_status binding_fill(lora_binding *binding,
                                const lora_binding_create_options *options,
                                lora_error *error)
{
    TRY(lora__bind_create(&binding->bind, binding->adapter,
                          binding->model->checkpoint, error));
    TRY(binding_select(binding, options, error));
    for (size_t i = 0; i < binding->bind.count; i++) {
        binding->counts[lora__binding_state_of(binding, i)]++;
    }
    binding->verdict = binding_judge(binding);
    if (options->strict) {
        return binding_check(binding, error);
    }
    binding_warn(binding);
    return LORA_OK;
}

LORA_API lora_status
lora_binding_create(lora_binding **out,
                    lora_model *model,
                    lora_adapter *adapter,
                    const lora_binding_create_options *options,
                    lora_error *error)
{
    lora_binding_create_options o;
    lora_binding *binding;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(model != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__options_read(
        &o, sizeof o, LORA__SIZE_TO(lora_binding_create_options, reserved1),
        options, error));
    TRY(lora__options_reserved(o.reserved1, error));
    CHECK_ARG(o.selection_count == 0 || o.selections != NULL, error);
    TRY(lora_model_seal(model, error));
    TRY(lora__alloc_zeroed(&memory, adapter->context, 1, sizeof *binding,
                           error));
    binding = memory;
    binding->references = 1;
    binding->context = lora_context_retain(adapter->context);
    binding->model = lora_model_retain(model);
    binding->adapter = lora_adapter_retain(adapter);
    TRY_OR_DONE(binding_fill(binding, &o, error));
    *out = binding;
    binding = NULL;
done:
    lora_binding_destroy(binding);
    return status;
}

LORA_API lora_binding *lora_binding_retain(lora_binding *binding)
{
    if (binding != NULL) {
        lora__atomic_add_u32(&binding->references, 1);
    }
    return binding;
}

LORA_API void lora_binding_destroy(lora_binding *binding)
{
    lora_context *context;

    if (binding == NULL ||
        lora__atomic_add_u32(&binding->references, UINT32_MAX) != 0) {
        return;
    }
    context = binding->context;
    lora__bind_destroy(&binding->bind);
    lora_adapter_destroy(binding->adapter);
    lora_model_destroy(binding->model);
    lora__free(context, binding, sizeof *binding, LORA__ALIGN);
    lora_context_destroy(context);
}

/* ---- asking ------------------------------------------------------------ */

LORA_API lora_status lora_binding_get_info(lora_binding_info *out,
                                           const lora_binding *binding,
                                           lora_error *error)
{
    lora_binding_info info = {0};

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(binding != NULL, error);
    info.struct_size = sizeof info;
    info.model_family = binding_family_id(binding->bind.model->family);
    info.adapter_family = binding_family_id(binding->adapter->names.family);
    info.adapter_confidence = binding->adapter->names.confidence;
    info.item_count = binding->bind.count;
    info.module_count = binding->adapter->module_count;
    info.bound_count = binding->counts[LORA_BINDING_BOUND] +
                       binding->counts[LORA_BINDING_HALF];
    info.share = info.module_count == 0
                     ? 0.0
                     : (double)info.bound_count / (double)info.module_count;
    info.verdict = binding->verdict;
    return lora__out_write(out, &info, sizeof info, error);
}

LORA_API size_t lora_binding_count(const lora_binding *binding,
                                   lora_binding_state state)
{
    return binding == NULL || state < 0 || state > LORA_BINDING_LEFT_OUT
               ? 0
               : binding->counts[state];
}

static lora_status
binding_check_item(const lora_binding *binding, size_t item, lora_error *error)
{
    return item < binding->bind.count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                            "item %llu of %llu", (unsigned long long)item,
                            (unsigned long long)binding->bind.count);
}

/* The pieces of all effects. */
static size_t binding_change_count(const lora__bound *bound)
{
    size_t count = 0;

    for (size_t e = 0; e < bound->effect_count; e++) {
        count += bound->effects[e].span_count;
    }
    return count;
}

/* What the model has for a module: its weight, or else its bias. */
static void binding_put_expected(lora_binding_item *item,
                                 const lora_binding *binding,
                                 const lora__bound *bound)
{
    const lora__found_tensor *found = &bound->found->found[0];
    size_t tensor;

    found += found->piece_count == 0;
    if (found->piece_count == 0) {
        return;
    }
    tensor = found->whole.tensor;
    item->tensor = lora__model_tensor_name(binding->model, tensor);
    if (lora__checkpoint_has_shape(binding->bind.model, tensor)) {
        item->expected_ndim = found->whole.ndim;
        memcpy(item->expected, found->whole.shape, sizeof item->expected);
    }
}

static void binding_put_module(lora_binding_item *item,
                               const lora_binding *binding,
                               const lora__bound *bound)
{
    const lora__module *module = &binding->adapter->modules[bound->module];

    item->target = module->target;
    item->factor = binding->factors[bound->module];
    item->module_index = bound->module;
    item->tensor_index = UINT64_MAX;
    item->found_ndim = module->ndim;
    memcpy(item->found, module->shape, sizeof item->found);
    binding_put_expected(item, binding, bound);
}

LORA_API lora_status lora_binding_get_item(lora_binding_item *out,
                                           const lora_binding *binding,
                                           size_t index,
                                           lora_error *error)
{
    lora_binding_item item = {0};
    const lora__bound *bound;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(binding != NULL, error);
    TRY(binding_check_item(binding, index, error));
    bound = &binding->bind.items[index];
    item.struct_size = sizeof item;
    item.name = binding_item_name(binding, index);
    item.target = item.tensor = "";
    item.reason = bound->reason;
    item.state = lora__binding_state_of(binding, index);
    item.status = bound->status;
    item.change_count = binding_change_count(bound);
    if (bound->module == SIZE_MAX) {
        item.factor = 1.0;
        item.module_index = UINT64_MAX;
        item.tensor_index = bound->tensor;
    } else {
        binding_put_module(&item, binding, bound);
    }
    return lora__out_write(out, &item, sizeof item, error);
}

/* The effect that has the index-th piece of all, and which of its own. */
static const lora__effect *binding_find_change(const lora__bound *bound,
                                               size_t *index)
{
    size_t e = 0;

    while (e < bound->effect_count && *index >= bound->effects[e].span_count) {
        *index -= bound->effects[e++].span_count;
    }
    return e < bound->effect_count ? &bound->effects[e] : NULL;
}

LORA_API lora_status lora_binding_get_change(lora_binding_change *out,
                                             const lora_binding *binding,
                                             size_t item,
                                             size_t index,
                                             lora_error *error)
{
    lora_binding_change change = {0};
    const lora__effect *effect;
    size_t span = index;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(binding != NULL, error);
    TRY(binding_check_item(binding, item, error));
    effect = binding_find_change(&binding->bind.items[item], &span);
    if (effect == NULL) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                          binding_item_name(binding, item), "no change %llu",
                          (unsigned long long)index);
    }
    change.struct_size = sizeof change;
    change.tensor = lora__model_tensor_name(binding->model, effect->tensor);
    change.tensor_index = effect->tensor;
    change.row_begin = (int64_t)effect->spans[span].begin;
    change.row_end = (int64_t)effect->spans[span].end;
    change.module_row = (int64_t)effect->spans[span].first;
    change.part = effect->part;
    change.transposed = effect->turned;
    return lora__out_write(out, &change, sizeof change, error);
}

LORA_API lora_status lora_binding_suggest(const char **out,
                                          const lora_binding *binding,
                                          size_t item,
                                          lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(binding != NULL, error);
    TRY(binding_check_item(binding, item, error));
    *out = lora__binding_nearest(binding, item);
    return LORA_OK;
}
