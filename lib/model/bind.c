/* Finding what an adapter changes in a model. */
#include "model/bind.h"

#include <string.h>

static const lora_part bind_parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};

/* ---- what a module has in the model ------------------------------------ */

/* An effect on each tensor that pieces are in, with a span for each slice. */
typedef struct bind_draft {
    lora__effect effects[2 * LORA__MAX_PIECES];
    lora__span spans[2 * LORA__MAX_PIECES * LORA__MAX_SLICES];
    size_t effect_count;
    size_t span_count;
} bind_draft;

static void bind_add_span(bind_draft *draft,
                          size_t tensor,
                          lora_part part,
                          size_t begin,
                          size_t rows,
                          size_t first)
{
    lora__effect *last = draft->effects + draft->effect_count;
    lora__span *span = &draft->spans[draft->span_count++];

    span->begin = begin;
    span->end = begin + rows;
    span->first = first;
    if (draft->effect_count == 0 || last[-1].tensor != tensor ||
        last[-1].part != part) {
        memset(last, 0, sizeof *last);
        last->tensor = tensor;
        last->part = part;
        last->spans = span;
        draft->effect_count++;
        last++;
    }
    last[-1].span_count++;
}

/* Rows of a holding, which are `first` on of the module's, in the tensor. */
static void bind_add_piece(bind_draft *draft,
                           const lora__checkpoint *model,
                           const lora__base_piece *piece,
                           lora_part part)
{
    const lora__holding *hold = piece->hold;
    const lora__row_set *set = hold->part == NULL ? NULL : &hold->part->rows;
    size_t unit;
    size_t skip = piece->first;
    size_t first = piece->begin;

    if (set != NULL && set->transposed) {
        bind_add_span(draft, hold->tensor, part, 0, (size_t)hold->columns, 0);
        draft->effects[draft->effect_count - 1].turned = 1;
        return;
    }
    if (set == NULL || set->units == 0) {
        bind_add_span(draft, hold->tensor, part, skip,
                      piece->end - piece->begin, first);
        return;
    }
    unit = (size_t)model->tensors[hold->tensor].entry->shape[0] / set->units;
    for (uint16_t s = 0; s < set->slice_count && first < piece->end; s++) {
        size_t begin = unit * set->slices[s].begin;
        size_t rows = unit * set->slices[s].end - begin;
        if (skip >= rows) {
            skip -= rows;
            continue;
        }
        rows -= skip;
        rows = rows < piece->end - first ? rows : piece->end - first;
        bind_add_span(draft, hold->tensor, part, begin + skip, rows, first);
        first += rows;
        skip = 0;
    }
}

/* In place of a tensor whose shape is not known, one that fits. */
static void bind_stand_in(lora__base_tensor *out,
                          const lora__module *module,
                          lora_part part)
{
    memset(out, 0, sizeof *out);
    out->name = module->target;
    out->ndim = 1;
    out->shape[0] = 1;
    out->step = 1;
    if (module->ndim > 0) {
        out->ndim = part == LORA_PART_BIAS ? 1 : module->ndim;
        memcpy(out->shape, module->shape, sizeof out->shape);
    }
}

/* Why a part cannot be changed, or OK; IO and MEMORY are failures. */
static lora_status bind_check_part(const lora__bind *bind,
                                   const lora__bound *item,
                                   const lora__module *module,
                                   lora_part part,
                                   lora_error *error)
{
    const lora__found_tensor *found =
        &item->found->found[part == LORA_PART_BIAS];
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    lora__base base = item->found->base;
    lora__base_tensor fits;
    lora__rows_how how;

    if (!lora__checkpoint_has_shape(bind->model, found->whole.tensor)) {
        bind_stand_in(&fits, module, part);
        *(part == LORA_PART_BIAS ? &base.bias : &base.weight) = &fits;
    }
    memset(&how, 0, sizeof how);
    how.part = part;
    how.dtype = LORA_DTYPE_F32;
    how.strength = 1.0;
    how.weights = 1;
    how.base = &base;
    TRY(lora__rows_plan(shape, &ndim, module, &how, error));
    if (module->padded) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "it makes the weight larger, which a model in place "
                          "cannot become");
    }
    for (size_t i = 0; i < found->piece_count; i++) {
        const lora__holding *hold = found->pieces[i].hold;
        const lora__part *of = hold->part;
        const char *stored =
            bind->model->tensors[hold->tensor].entry->quantised;
        if (stored != NULL && strcmp(stored, "Q8_0") != 0) {
            return lora__fail(
                error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, module->name,
                "the model has it as %s, which is not written", stored);
        }
        if (of != NULL && of->rows.transposed && found->piece_count != 1) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              module->name,
                              "the model has some of its weight transposed");
        }
    }
    return LORA_OK;
}

/* Whether the model lacks a part that the module changes. What it makes of a
 * bias that is not there is nothing. */
static int
bind_lacks(const lora__bound *item, const lora__module *module, lora_part part)
{
    return item->found->found[part == LORA_PART_BIAS].piece_count == 0 &&
           ((module->needs & part & LORA_PART_BIAS) == 0 ||
            lora__module_replaces_bias(module));
}

/* ---- items ------------------------------------------------------------- */

static lora__bound_state bind_state_of(lora_status status)
{
    switch (status) {
    case LORA_ERROR_SHAPE:
        return LORA__BOUND_SHAPE;
    case LORA_ERROR_DTYPE:
        return LORA__BOUND_DTYPE;
    case LORA_ERROR_KEY:
        return LORA__BOUND_PARTNER;
    case LORA_ERROR_UNSUPPORTED:
        return LORA__BOUND_UNSUPPORTED;
    default:
        return LORA__BOUND_DAMAGED;
    }
}

/* Keep why an item is not bound. What is no fault of the module or the model is
 * passed on. */
static lora_status bind_refuse(lora__bind *bind,
                               lora__bound *item,
                               lora_status status,
                               const lora_error *why,
                               lora_error *error)
{
    if (status == LORA_ERROR_MEMORY || status == LORA_ERROR_IO ||
        status == LORA_ERROR_CANCELLED || status == LORA_ERROR_INTERNAL) {
        return lora__error_merge(error, why);
    }
    item->state = bind_state_of(status);
    item->status = status;
    item->effect_count = 0;
    return lora__arena_string(&item->reason, &bind->arena, why->message,
                              strlen(why->message), error);
}

static lora_status bind_keep(lora__bind *bind,
                             lora__bound *item,
                             const bind_draft *draft,
                             lora_error *error)
{
    void *memory;
    lora__effect *effects;
    lora__span *spans;

    TRY(lora__arena_zeroed(&memory, &bind->arena, draft->effect_count,
                           sizeof *effects, error));
    effects = memory;
    TRY(lora__arena_zeroed(&memory, &bind->arena, draft->span_count,
                           sizeof *spans, error));
    spans = memory;
    memcpy(effects, draft->effects, draft->effect_count * sizeof *effects);
    memcpy(spans, draft->spans, draft->span_count * sizeof *spans);
    for (size_t i = 0; i < draft->effect_count; i++) {
        effects[i].module = item->module;
        effects[i].spans = spans + (draft->effects[i].spans - draft->spans);
        bind->first[effects[i].tensor + 1]++;
    }
    item->effects = effects;
    item->effect_count = draft->effect_count;
    return LORA_OK;
}

/* The module's parts that the model has. *lacking: those it has not. */
static lora_status bind_draw(bind_draft *draft,
                             int32_t *lacking,
                             const lora__bind *bind,
                             const lora__bound *item,
                             lora_error *error)
{
    const lora__module *module = &bind->adapter->modules[item->module];

    for (size_t p = 0; p < LORA__COUNT(bind_parts); p++) {
        const lora_part part = bind_parts[p];
        const lora__found_tensor *found = &item->found->found[p];
        if ((module->changes & part) == 0) {
            continue;
        }
        if (found->piece_count == 0) {
            *lacking |= bind_lacks(item, module, part) ? (int32_t)part : 0;
            continue;
        }
        TRY(bind_check_part(bind, item, module, part, error));
        for (size_t i = 0; i < found->piece_count; i++) {
            bind_add_piece(draft, bind->model, &found->pieces[i], part);
        }
    }
    return LORA_OK;
}

static lora_status
bind_module(lora__bind *bind, lora__bound *item, lora_error *error)
{
    const lora__module *module = &bind->adapter->modules[item->module];
    bind_draft draft;
    int32_t lacking = 0;
    lora_error why;
    lora_status status;

    draft.effect_count = draft.span_count = 0;
    lora_error_init(&why, sizeof why);
    status = lora__module_check(module, &why);
    if (status == LORA_OK) {
        status = lora__base_find(item->found, bind->model, module, &why);
    }
    if (status == LORA_OK) {
        status = bind_draw(&draft, &lacking, bind, item, &why);
    }
    if (status != LORA_OK) {
        return bind_refuse(bind, item, status, &why, error);
    }
    if (lacking != 0) {
        item->state =
            draft.effect_count == 0 ? LORA__BOUND_NOWHERE : LORA__BOUND_HALF;
        item->status = LORA_ERROR_KEY;
        item->reason = (lacking & LORA_PART_WEIGHT) != 0
                           ? "the model has no such weight"
                           : "the model has no such bias";
    }
    return bind_keep(bind, item, &draft, error);
}

static lora_status bind_modules(lora__bind *bind, lora_error *error)
{
    const lora_adapter *adapter = bind->adapter;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &bind->arena, adapter->module_count,
                           sizeof *bind->items->found, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        lora__bound *item = &bind->items[bind->count++];
        item->module = m;
        item->reason = "";
        item->found = (lora__found_base *)memory + m;
        TRY(bind_module(bind, item, error));
    }
    return LORA_OK;
}

/* Tensors of the adapter that nobody knows. */
static void bind_unknown(lora__bind *bind)
{
    const lora_adapter *adapter = bind->adapter;

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        lora__bound *item = &bind->items[bind->count];
        if (adapter->entry_module[i] != SIZE_MAX ||
            adapter->names.keys[i].role != LORA__ROLE_UNKNOWN) {
            continue;
        }
        item->module = SIZE_MAX;
        item->tensor = i;
        item->state = LORA__BOUND_UNKNOWN;
        item->status = LORA_ERROR_KEY;
        item->reason = "no program names a tensor of an adapter so";
        bind->count++;
    }
}

/* Put the effects in the order of tensors: `first` has how many each tensor
 * has, one place further on. */
static lora_status bind_sort(lora__bind *bind, lora_error *error)
{
    const size_t tensors = bind->model->tensor_count;
    void *memory;

    for (size_t t = 0; t < tensors; t++) {
        bind->first[t + 1] += bind->first[t];
    }
    TRY(lora__arena_zeroed(&memory, &bind->arena, bind->first[tensors],
                           sizeof *bind->effects, error));
    bind->effects = memory;
    for (size_t i = 0; i < bind->count; i++) {
        const lora__bound *item = &bind->items[i];
        bind->counts[item->state]++;
        for (size_t e = 0; e < item->effect_count; e++) {
            const lora__effect *effect = &item->effects[e];
            bind->effects[bind->first[effect->tensor]++] = effect;
        }
    }
    /* Each is now where the next one began. */
    memmove(bind->first + 1, bind->first, tensors * sizeof *bind->first);
    bind->first[0] = 0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__bind_create(lora__bind *out,
                                           const lora_adapter *adapter,
                                           const lora__checkpoint *model,
                                           lora_error *error)
{
    size_t most = adapter->module_count + adapter->container->entry_count;
    void *memory;
    lora_status status;

    memset(out, 0, sizeof *out);
    out->context = adapter->context;
    out->adapter = adapter;
    out->model = model;
    lora__arena_init(&out->arena, adapter->context);
    TRY_OR_DONE(lora__arena_zeroed(&memory, &out->arena, most,
                                   sizeof *out->items, error));
    out->items = memory;
    TRY_OR_DONE(lora__arena_zeroed(&memory, &out->arena,
                                   model->tensor_count + 1, sizeof *out->first,
                                   error));
    out->first = memory;
    TRY_OR_DONE(bind_modules(out, error));
    bind_unknown(out);
    status = bind_sort(out, error);
done:
    if (status != LORA_OK) {
        lora__bind_destroy(out);
    }
    return status;
}

LORA_PRIVATE void lora__bind_destroy(lora__bind *bind)
{
    if (bind->context != NULL) {
        lora__arena_destroy(&bind->arena);
    }
    memset(bind, 0, sizeof *bind);
}
