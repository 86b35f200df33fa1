/* Plans: which adapters are to be in a model's weights, and what differs. */
#include "op/plan.h"

#include "core/options.h"

#include <string.h>

/* Rows that are made at a time: as many as kinds make in one go, which then
 * begin where these do. */
#define PLAN_CHUNK_BYTES ((size_t)1 << 20)
#define PLAN_CHUNK_ROWS 8
#define PLAN_BLOCK_BYTES ((uint64_t)16 << 20)

/* ---- marks ------------------------------------------------------------- */

LORA_PRIVATE lora__patch lora__plan_patch(const lora__plan_adapter *adapter)
{
    lora__patch patch;

    patch.bind = &adapter->binding->bind;
    patch.strength = adapter->strength;
    patch.factors = adapter->binding->factors;
    return patch;
}

/* The next effect that has a strength, of those of all adapters one after
 * another. */
typedef struct plan_walk {
    const lora_plan *plan;
    size_t tensor;
    size_t adapter;
    size_t effect; /* in the binding's list */
    int inside;    /* 1: `effect` is one of this adapter's */
} plan_walk;

static plan_walk plan_walk_begin(const lora_plan *plan, size_t tensor)
{
    plan_walk walk = {0};

    walk.plan = plan;
    walk.tensor = tensor;
    return walk;
}

static int plan_walk_next(plan_walk *walk, lora__plan_mark *out)
{
    for (; walk->adapter < walk->plan->adapter_count; walk->adapter++) {
        const lora__plan_adapter *adapter =
            &walk->plan->adapters[walk->adapter];
        const lora__patch patch = lora__plan_patch(adapter);
        const size_t *first = patch.bind->first + walk->tensor;

        if (!walk->inside) {
            walk->effect = first[0];
            walk->inside = 1;
        }
        while (walk->effect < first[1]) {
            const lora__effect *effect = patch.bind->effects[walk->effect++];
            out->use = adapter->use;
            out->module = effect->module;
            out->part = effect->part;
            out->strength = lora__patch_strength(&patch, effect->module);
            if (out->strength != 0.0) {
                return 1;
            }
        }
        walk->inside = 0;
    }
    return 0;
}

static int plan_mark_equals(const lora__plan_mark *a, const lora__plan_mark *b)
{
    return a->use == b->use && a->module == b->module && a->part == b->part &&
           a->strength == b->strength;
}

LORA_PRIVATE int lora__plan_is_made(const lora_plan *plan, size_t tensor)
{
    const lora__plan_target *target = &plan->targets[tensor];
    plan_walk walk = plan_walk_begin(plan, tensor);
    lora__plan_mark mark;
    size_t count = 0;

    if (lora__atomic_load_u32(&target->touched)) {
        return 0;
    }
    while (plan_walk_next(&walk, &mark)) {
        if (count == target->applied.count ||
            !plan_mark_equals(&mark, &target->applied.list[count])) {
            return 0;
        }
        count++;
    }
    return count == target->applied.count;
}

LORA_PRIVATE lora_status lora__plan_mark_all(lora__plan_marks *out,
                                             const lora_plan *plan,
                                             size_t tensor,
                                             lora_error *error)
{
    plan_walk walk = plan_walk_begin(plan, tensor);
    lora__plan_mark mark;
    size_t count = 0;
    void *memory;

    out->list = NULL;
    out->count = 0;
    while (plan_walk_next(&walk, &mark)) {
        count++;
    }
    if (count == 0) {
        return LORA_OK;
    }
    TRY(lora__alloc_zeroed(&memory, plan->context, count, sizeof mark, error));
    out->list = memory;
    walk = plan_walk_begin(plan, tensor);
    while (plan_walk_next(&walk, &out->list[out->count])) {
        out->count++;
        if (out->count == count) {
            break;
        }
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__plan_unmark(lora__plan_marks *marks, lora_context *c)
{
    lora__free(c, marks->list, marks->count * sizeof *marks->list, LORA__ALIGN);
    marks->list = NULL;
    marks->count = 0;
}

/* ---- plans ------------------------------------------------------------- */

LORA_API void lora_plan_options_init(lora_plan_options *options, size_t size)
{
    lora__options_init(options, size);
}

LORA_API void lora_plan_memory_init(lora_plan_memory *memory, size_t size)
{
    lora__options_init(memory, size);
}

static lora_status plan_read_options(lora_plan_options *out,
                                     const lora_plan_options *options,
                                     lora_error *error)
{
    const uint32_t known =
        LORA_PLAN_STOCHASTIC | LORA_PLAN_SATURATE | LORA_PLAN_SAVE_NONE;

    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_plan_options, reserved1), options,
                           error));
    TRY(lora__options_reserved(out->reserved1, error));
    TRY(lora__rules_check(out->strength_rule, out->dora_rule, error));
    if ((out->flags & ~known) != 0) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
                          "no such flag");
    }
    if (out->block_bytes == 0) {
        out->block_bytes = PLAN_BLOCK_BYTES;
    }
    return LORA_OK;
}

/* Sizes of a tensor, and how its rows are cut. What lies in memory has no more
 * rows and columns than fit. */
static lora_status
plan_begin_target(lora_plan *plan, size_t tensor, lora_error *error)
{
    lora__plan_target *target = &plan->targets[tensor];
    lora__holding hold;
    size_t row_bytes;
    size_t blocks;

    TRY(lora__checkpoint_hold(&hold, plan->checkpoint, tensor, NULL, error));
    target->original = SIZE_MAX;
    if (hold.rows == 0 || hold.columns == 0 ||
        !lora__u64_to_size(hold.rows, &target->rows) ||
        !lora__u64_to_size(hold.columns, &target->columns) ||
        !lora__mul_size(target->columns, sizeof(double), &row_bytes)) {
        target->rows = target->columns = 0;
        return LORA_OK;
    }
    row_bytes = target->columns * sizeof(float);
    target->chunk_rows =
        row_bytes > PLAN_CHUNK_BYTES / PLAN_CHUNK_ROWS
            ? PLAN_CHUNK_ROWS
            : PLAN_CHUNK_BYTES / row_bytes / PLAN_CHUNK_ROWS * PLAN_CHUNK_ROWS;
    blocks = plan->options.block_bytes < SIZE_MAX
                 ? (size_t)plan->options.block_bytes / row_bytes
                 : SIZE_MAX / row_bytes;
    blocks /= target->chunk_rows;
    target->block_rows = target->chunk_rows * (blocks == 0 ? 1 : blocks);
    if (target->block_rows > target->rows) {
        target->block_rows = target->rows;
    }
    target->block_count = (target->rows - 1) / target->block_rows + 1;
    return LORA_OK;
}

static lora_status plan_begin(lora_plan *plan, lora_error *error)
{
    void *memory;

    TRY(lora_model_seal(plan->model, error));
    if (plan->originals != NULL) {
        TRY(lora_model_seal(plan->originals, error));
    }
    plan->checkpoint = plan->model->checkpoint;
    if (plan->checkpoint->catalogue) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
                          "a model of a family has no weights");
    }
    TRY(lora__alloc_zeroed(&memory, plan->context,
                           plan->checkpoint->tensor_count,
                           sizeof *plan->targets, error));
    plan->targets = memory;
    plan->target_count = plan->checkpoint->tensor_count;
    for (size_t t = 0; t < plan->target_count; t++) {
        TRY(plan_begin_target(plan, t, error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_plan_create(lora_plan **out,
                                      lora_model *model,
                                      const lora_plan_options *options,
                                      lora_error *error)
{
    lora_plan_options own;
    lora_plan *plan;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(model != NULL, error);
    TRY(plan_read_options(&own, options, error));
    TRY(lora__alloc_zeroed(&memory, model->context, 1, sizeof *plan, error));
    plan = memory;
    plan->context = lora_context_retain(model->context);
    plan->model = lora_model_retain(model);
    plan->originals = lora_model_retain(own.originals);
    plan->kernels = lora__kernels_get(lora__context_get(plan->context)->cpu);
    plan->options = own;
    plan->rounding.stochastic = (own.flags & LORA_PLAN_STOCHASTIC) != 0;
    plan->rounding.saturate = (own.flags & LORA_PLAN_SATURATE) != 0;
    plan->rounding.seed = own.seed;
    status = plan_begin(plan, error);
    if (status != LORA_OK) {
        lora_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return LORA_OK;
}

LORA_API void lora_plan_destroy(lora_plan *plan)
{
    lora_context *context;

    if (plan == NULL) {
        return;
    }
    context = plan->context;
    lora__plan_uncut(plan);
    for (size_t t = 0; t < plan->target_count; t++) {
        lora__plan_unsave(&plan->targets[t], context);
        lora__plan_unmark(&plan->targets[t].applied, context);
    }
    for (size_t i = 0; i < plan->adapter_count; i++) {
        lora_binding_destroy(plan->adapters[i].binding);
    }
    lora__free(context, plan->targets,
               plan->target_count * sizeof *plan->targets, LORA__ALIGN);
    lora__free(context, plan->adapters,
               plan->adapter_capacity * sizeof *plan->adapters, LORA__ALIGN);
    lora_model_destroy(plan->originals);
    lora_model_destroy(plan->model);
    lora__free(context, plan, sizeof *plan, LORA__ALIGN);
    lora_context_destroy(context);
}

/* ---- adapters ---------------------------------------------------------- */

static lora_status plan_take_strength(lora_strength *out,
                                      const lora_strength *strength,
                                      lora_error *error)
{
    out->model = out->text_encoder = 1.0;
    if (strength != NULL) {
        *out = *strength;
        TRY(lora__strength_read(&strength, error));
    }
    return LORA_OK;
}

static lora_status plan_check_binding(const lora_plan *plan,
                                      const lora_binding *binding,
                                      lora_error *error)
{
    return binding->model == plan->model
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                            "binding", "it is to another model");
}

static lora_status plan_find(lora__plan_adapter **out,
                             lora_plan *plan,
                             uint64_t id,
                             lora_error *error)
{
    *out = NULL;
    for (size_t i = 0; i < plan->adapter_count; i++) {
        if (plan->adapters[i].id == id) {
            *out = &plan->adapters[i];
            return LORA_OK;
        }
    }
    return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
                      "the plan has no adapter %llu", (unsigned long long)id);
}

LORA_API lora_status lora_plan_add(uint64_t *out_id,
                                   lora_plan *plan,
                                   lora_binding *binding,
                                   const lora_strength *strength,
                                   lora_error *error)
{
    lora__plan_adapter *adapter;
    lora_strength own;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out_id != NULL, error);
    CHECK_ARG(plan != NULL, error);
    CHECK_ARG(binding != NULL, error);
    TRY(plan_check_binding(plan, binding, error));
    TRY(plan_take_strength(&own, strength, error));
    memory = plan->adapters;
    status = lora__grow(&memory, &plan->adapter_capacity, plan->context,
                        plan->adapter_count + 1, sizeof *adapter, error);
    plan->adapters = memory;
    TRY(status);
    lora__plan_uncut(plan);
    adapter = &plan->adapters[plan->adapter_count++];
    adapter->id = ++plan->last_id;
    adapter->use = ++plan->last_use;
    adapter->binding = lora_binding_retain(binding);
    adapter->strength = own;
    *out_id = adapter->id;
    return LORA_OK;
}

LORA_API lora_status lora_plan_remove(lora_plan *plan,
                                      uint64_t id,
                                      lora_error *error)
{
    lora__plan_adapter *adapter;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    TRY(plan_find(&adapter, plan, id, error));
    lora__plan_uncut(plan);
    lora_binding_destroy(adapter->binding);
    plan->adapter_count--;
    memmove(adapter, adapter + 1,
            (plan->adapter_count - (size_t)(adapter - plan->adapters)) *
                sizeof *adapter);
    return LORA_OK;
}

LORA_API lora_status lora_plan_replace(lora_plan *plan,
                                       uint64_t id,
                                       lora_binding *binding,
                                       const lora_strength *strength,
                                       lora_error *error)
{
    lora__plan_adapter *adapter;
    lora_strength own;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    CHECK_ARG(binding != NULL, error);
    TRY(plan_check_binding(plan, binding, error));
    TRY(plan_take_strength(&own, strength, error));
    TRY(plan_find(&adapter, plan, id, error));
    lora__plan_uncut(plan);
    if (binding != adapter->binding) {
        lora_binding_destroy(adapter->binding);
        adapter->binding = lora_binding_retain(binding);
        adapter->use = ++plan->last_use;
    }
    adapter->strength = own;
    return LORA_OK;
}

LORA_API lora_status lora_plan_set_strength(lora_plan *plan,
                                            uint64_t id,
                                            const lora_strength *strength,
                                            lora_error *error)
{
    lora__plan_adapter *adapter;
    lora_strength own;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    TRY(plan_take_strength(&own, strength, error));
    TRY(plan_find(&adapter, plan, id, error));
    lora__plan_uncut(plan);
    adapter->strength = own;
    return LORA_OK;
}

LORA_API lora_status lora_plan_diff(size_t *out_tensors,
                                    size_t capacity,
                                    size_t *out_count,
                                    const lora_plan *plan,
                                    lora_error *error)
{
    size_t count = 0;

    lora__error_begin(error);
    CHECK_ARG(out_count != NULL, error);
    CHECK_ARG(plan != NULL, error);
    for (size_t t = 0; t < plan->target_count; t++) {
        count += !lora__plan_is_made(plan, t);
    }
    *out_count = count;
    if (out_tensors == NULL) {
        return LORA_OK;
    }
    if (count > capacity) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                          "out_tensors", "room for %llu of %llu tensors",
                          (unsigned long long)capacity,
                          (unsigned long long)count);
    }
    count = 0;
    for (size_t t = 0; t < plan->target_count; t++) {
        if (!lora__plan_is_made(plan, t)) {
            out_tensors[count++] = t;
        }
    }
    return LORA_OK;
}
