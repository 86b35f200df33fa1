/* Cutting what is to be done into jobs.
 *
 * A tensor whose changes are added is made block by block. One of which a kind
 * needs the weight is made as a whole, and so are together those of which one
 * is read for the other: modules that the model has in several tensors. So
 * nobody reads rows that another job keeps or gives up at the same time.
 */
#include "op/plan.h"

#include <string.h>

/* What is known while cutting; all but `redo` of every tensor. */
typedef struct plan_cutting {
    lora__arena arena;
    size_t *parent;       /* of the tensors that are read together */
    size_t *head;         /* the first of those that are to be made */
    size_t *next;         /* and the one after it */
    unsigned char *whole; /* 1: it is not made block by block */
    unsigned char *redo;
    size_t job_count; /* at most */
} plan_cutting;

LORA_PRIVATE void lora__plan_uncut(lora_plan *plan)
{
    lora_context *context = plan->context;

    for (size_t i = 0; i < plan->order_count; i++) {
        lora__plan_target *target = &plan->targets[plan->order[i]];
        lora__plan_unmark(&target->wanted, context);
        if (target->applied.count == 0 &&
            !lora__atomic_load_u32(&target->touched)) {
            lora__plan_unsave(target, context);
        }
    }
    lora__free(context, plan->patches,
               plan->patch_count * sizeof *plan->patches, LORA__ALIGN);
    lora__free(context, plan->order, plan->order_room * sizeof *plan->order,
               LORA__ALIGN);
    lora__free(context, plan->jobs, plan->job_room * sizeof *plan->jobs,
               LORA__ALIGN);
    plan->patches = NULL;
    plan->order = NULL;
    plan->jobs = NULL;
    plan->patch_count = plan->order_room = plan->order_count = 0;
    plan->job_count = plan->job_room = 0;
    plan->rows_bytes = plan->stored_bytes = 0;
}

/* ---- which are read together ------------------------------------------- */

static size_t cut_root(const plan_cutting *cut, size_t tensor)
{
    while (cut->parent[tensor] != tensor) {
        cut->parent[tensor] = cut->parent[cut->parent[tensor]];
        tensor = cut->parent[tensor];
    }
    return tensor;
}

static void cut_join_module(plan_cutting *cut,
                            const lora__bound *item,
                            const lora__module *module)
{
    for (size_t i = 0; i < item->effect_count; i++) {
        const lora__effect *effect = &item->effects[i];
        if ((module->needs & effect->part) == 0) {
            continue;
        }
        cut->whole[effect->tensor] = 1;
        for (size_t k = 0; k < i; k++) {
            if (item->effects[k].part == effect->part) {
                size_t root = cut_root(cut, item->effects[k].tensor);
                cut->parent[cut_root(cut, effect->tensor)] = root;
            }
        }
    }
}

static void cut_join(plan_cutting *cut, const lora_plan *plan)
{
    for (size_t t = 0; t < plan->target_count; t++) {
        cut->parent[t] = t;
        cut->head[t] = SIZE_MAX;
    }
    for (size_t p = 0; p < plan->patch_count; p++) {
        const lora__patch *patch = &plan->patches[p];
        for (size_t i = 0; i < patch->bind->count; i++) {
            const lora__bound *item = &patch->bind->items[i];
            if (item->effect_count != 0 &&
                lora__patch_strength(patch, item->module) != 0.0) {
                cut_join_module(cut, item,
                                &patch->bind->adapter->modules[item->module]);
            }
        }
    }
}

/* ---- what is kept ------------------------------------------------------ */

static lora_status
cut_keep(lora_plan *plan, size_t tensor, uint64_t *kept, lora_error *error)
{
    lora__plan_target *target = &plan->targets[tensor];
    const size_t bytes = target->rows * target->memory.row_bytes;
    const uint64_t most =
        plan->options.saved_bytes == 0 ? UINT64_MAX : plan->options.saved_bytes;
    void *memory;

    if (target->saved != NULL || target->wanted.count == 0 ||
        target->applied.count != 0 || lora__atomic_load_u32(&target->touched)) {
        return LORA_OK;
    }
    if ((plan->options.flags & LORA_PLAN_SAVE_NONE) != 0 || *kept > most ||
        bytes > most - *kept) {
        return lora__plan_has_originals(plan, tensor)
                   ? LORA_OK
                   : lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET,
                                plan->checkpoint->tensors[tensor].name,
                                "%llu bytes of it are to be kept beside "
                                "%llu, and there are no originals: allow more "
                                "saved_bytes",
                                (unsigned long long)bytes,
                                (unsigned long long)*kept);
    }
    TRY(lora__alloc_zeroed(&memory, plan->context, target->block_count, 1,
                           error));
    target->has_block = memory;
    target->saved = lora__alloc(plan->context, bytes, LORA__ALIGN_NUMERIC);
    if (target->saved == NULL) {
        lora__plan_unsave(target, plan->context);
        return lora__fail_memory(error, bytes);
    }
    target->saved_bytes = bytes;
    *kept += bytes;
    return LORA_OK;
}

LORA_API uint64_t lora_plan_saved_bytes(const lora_plan *plan)
{
    uint64_t bytes = 0;

    for (size_t t = 0; plan != NULL && t < plan->target_count; t++) {
        bytes += plan->targets[t].saved_bytes;
    }
    return bytes;
}

/* ---- jobs -------------------------------------------------------------- */

static lora_status cut_patches(lora_plan *plan, lora_error *error)
{
    void *memory;

    TRY(lora__alloc_zeroed(&memory, plan->context, plan->adapter_count,
                           sizeof *plan->patches, error));
    plan->patches = memory;
    plan->patch_count = plan->adapter_count;
    for (size_t i = 0; i < plan->adapter_count; i++) {
        plan->patches[i] = lora__plan_patch(&plan->adapters[i]);
    }
    return LORA_OK;
}

/* The targets that are to be made again; nothing is kept yet. */
static lora_status
cut_find(lora_plan *plan, plan_cutting *cut, lora_error *error)
{
    void *memory;
    size_t count = 0;

    for (size_t t = 0; t < plan->target_count; t++) {
        cut->redo[t] = !lora__plan_is_made(plan, t);
        count += cut->redo[t];
        if (cut->redo[t] && !plan->targets[t].is_set) {
            return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET,
                              plan->checkpoint->tensors[t].name,
                              "its memory was not set");
        }
    }
    TRY(lora__alloc_zeroed(&memory, plan->context, count, sizeof *plan->order,
                           error));
    plan->order = memory;
    plan->order_room = count;
    return LORA_OK;
}

/* Put a target, with those that are made with it, into the order, and count
 * their jobs. */
static lora_status cut_place(lora_plan *plan,
                             plan_cutting *cut,
                             size_t tensor,
                             uint64_t *kept,
                             lora_error *error)
{
    const size_t root = cut_root(cut, tensor);
    size_t t = cut->whole[tensor] ? cut->head[root] : tensor;

    while (t != SIZE_MAX && cut->redo[t]) {
        lora__plan_target *target = &plan->targets[t];
        plan->order[plan->order_count++] = t;
        cut->redo[t] = 0;
        TRY(lora__plan_mark_all(&target->wanted, plan, t, error));
        TRY(cut_keep(plan, t, kept, error));
        target->jobs_left = cut->whole[t] ? 1 : (uint32_t)target->block_count;
        cut->job_count += target->jobs_left;
        t = cut->whole[t] ? cut->next[t] : SIZE_MAX;
    }
    return LORA_OK;
}

static lora_status
cut_order(lora_plan *plan, plan_cutting *cut, lora_error *error)
{
    uint64_t kept = lora_plan_saved_bytes(plan);
    lora_status status = LORA_OK;

    for (size_t t = plan->target_count; t-- > 0;) {
        if (cut->redo[t] && cut->whole[t]) {
            const size_t root = cut_root(cut, t);
            cut->next[t] = cut->head[root];
            cut->head[root] = t;
        }
    }
    for (size_t t = 0; t < plan->target_count && status == LORA_OK; t++) {
        if (cut->redo[t]) {
            status = cut_place(plan, cut, t, &kept, error);
        }
    }
    return status;
}

static void cut_jobs(lora_plan *plan, const plan_cutting *cut)
{
    size_t end;

    for (size_t i = 0; i < plan->order_count; i = end) {
        const size_t tensor = plan->order[i];
        const lora__plan_target *target = &plan->targets[tensor];
        const int whole = cut->whole[tensor];
        end = i + 1;
        while (whole && end < plan->order_count &&
               cut->whole[plan->order[end]] &&
               cut_root(cut, plan->order[end]) == cut_root(cut, tensor)) {
            end++;
        }
        for (size_t b = 0; b < (whole ? 1 : target->block_count); b++) {
            lora__plan_job *job = &plan->jobs[plan->job_count++];
            job->first = i;
            job->end = end;
            job->block = whole ? SIZE_MAX : b;
        }
    }
}

/* Room for the rows of any tensor that a job makes or reads. */
static void cut_scratch(lora_plan *plan)
{
    for (size_t t = 0; t < plan->target_count; t++) {
        const lora__plan_target *target = &plan->targets[t];
        const size_t rows = target->chunk_rows < target->rows
                                ? target->chunk_rows
                                : target->rows;
        const size_t numbers = rows * target->columns * sizeof(float);
        const size_t stored = rows * target->memory.row_bytes;
        if (target->is_set) {
            plan->rows_bytes =
                numbers > plan->rows_bytes ? numbers : plan->rows_bytes;
            plan->stored_bytes =
                stored > plan->stored_bytes ? stored : plan->stored_bytes;
        }
    }
}

static lora_status
cut_run(lora_plan *plan, plan_cutting *cut, lora_error *error)
{
    const size_t count = plan->target_count;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &cut->arena, count, 3 * sizeof(size_t),
                           error));
    cut->parent = memory;
    cut->head = cut->parent + count;
    cut->next = cut->head + count;
    TRY(lora__arena_zeroed(&memory, &cut->arena, count, 2, error));
    cut->whole = memory;
    cut->redo = cut->whole + count;
    TRY(cut_patches(plan, error));
    cut_join(cut, plan);
    TRY(cut_find(plan, cut, error));
    if (plan->order_room == 0) {
        return LORA_OK;
    }
    TRY(cut_order(plan, cut, error));
    TRY(lora__alloc_zeroed(&memory, plan->context, cut->job_count,
                           sizeof *plan->jobs, error));
    plan->jobs = memory;
    plan->job_room = cut->job_count;
    cut_jobs(plan, cut);
    cut_scratch(plan);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__plan_cut(lora_plan *plan, lora_error *error)
{
    plan_cutting cut;
    lora_status status;

    memset(&cut, 0, sizeof cut);
    lora__plan_uncut(plan);
    lora__arena_init(&cut.arena, plan->context);
    status = cut_run(plan, &cut, error);
    lora__arena_destroy(&cut.arena);
    if (status != LORA_OK) {
        lora__plan_uncut(plan);
    }
    return status;
}
