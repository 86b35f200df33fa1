/* Rows of a host's weights: as they are stored, as they were, as numbers.
 *
 * What a tensor was before any adapter is, block by block, in what is kept; or
 * where nothing is kept of it, elsewhere; or, as long as nothing was written,
 * in the host's memory.
 */
#include "op/plan.h"

#include "core/options.h"

#include <string.h>

/* ---- the host's memory ------------------------------------------------- */

static const char *plan_name(const lora_plan *plan, size_t tensor)
{
    return plan->checkpoint->tensors[tensor].name;
}

/* What a function of the host answered. */
static lora_status plan_host(const lora_plan *plan,
                             size_t tensor,
                             lora_status status,
                             const char *what,
                             lora_error *error)
{
    if (status == LORA_OK) {
        return LORA_OK;
    }
    return lora__fail(error, status < 0 ? status : LORA_ERROR_IO,
                      LORA_NO_OFFSET, plan_name(plan, tensor),
                      "the host could not %s its rows", what);
}

static int plan_is_dense(const lora_plan_memory *memory)
{
    return memory->data != NULL && memory->row_step == memory->row_bytes;
}

static lora_status plan_load(const lora_plan *plan,
                             size_t tensor,
                             size_t first,
                             size_t count,
                             unsigned char *out,
                             lora_error *error)
{
    const lora_plan_memory *memory = &plan->targets[tensor].memory;
    const unsigned char *data = memory->data;

    if (data == NULL) {
        return plan_host(plan, tensor,
                         memory->load(memory->user, tensor, first, count, out),
                         "load", error);
    }
    data += first * memory->row_step;
    if (plan_is_dense(memory)) {
        memcpy(out, data, count * memory->row_bytes);
        return LORA_OK;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(out + i * memory->row_bytes, data + i * memory->row_step,
               memory->row_bytes);
    }
    return LORA_OK;
}

static lora_status plan_store(const lora_plan *plan,
                              size_t tensor,
                              size_t first,
                              size_t count,
                              const unsigned char *in,
                              lora_error *error)
{
    const lora_plan_memory *memory = &plan->targets[tensor].memory;
    unsigned char *data = memory->data;

    if (data == NULL) {
        return plan_host(plan, tensor,
                         memory->store(memory->user, tensor, first, count, in),
                         "store", error);
    }
    data += first * memory->row_step;
    if (plan_is_dense(memory)) {
        memcpy(data, in, count * memory->row_bytes);
        return LORA_OK;
    }
    for (size_t i = 0; i < count; i++) {
        memcpy(data + i * memory->row_step, in + i * memory->row_bytes,
               memory->row_bytes);
    }
    return LORA_OK;
}

/* ---- originals --------------------------------------------------------- */

LORA_PRIVATE void lora__plan_unsave(lora__plan_target *target,
                                    lora_context *context)
{
    lora__free(context, target->saved, target->saved_bytes,
               LORA__ALIGN_NUMERIC);
    lora__free(context, target->has_block, target->block_count, LORA__ALIGN);
    target->saved = NULL;
    target->saved_bytes = 0;
    target->has_block = NULL;
}

LORA_PRIVATE int lora__plan_has_originals(const lora_plan *plan, size_t tensor)
{
    const lora__plan_target *target = &plan->targets[tensor];

    return target->memory.original != NULL || target->original != SIZE_MAX;
}

/* Rows that are not kept, as they were stored. */
static lora_status plan_reread(const lora_plan *plan,
                               size_t tensor,
                               size_t first,
                               size_t count,
                               void *out,
                               lora_error *error)
{
    const lora__plan_target *target = &plan->targets[tensor];
    const lora_plan_memory *memory = &target->memory;

    if (memory->original != NULL) {
        return plan_host(
            plan, tensor,
            memory->original(memory->user, tensor, first, count, out),
            "read again", error);
    }
    INVARIANT(target->original != SIZE_MAX, error);
    return lora__checkpoint_read_bytes(plan->originals->checkpoint,
                                       target->original,
                                       (uint64_t)first * memory->row_bytes, out,
                                       count * memory->row_bytes, error);
}

/* 1 if the host's memory may hold something else than it did before. */
static int plan_is_changed(const lora__plan_target *target)
{
    return target->applied.count != 0 || target->wanted.count != 0 ||
           lora__atomic_load_u32(&target->touched);
}

/* Rows of one block, as they were stored, where they lie or in `buffer`. */
static lora_status plan_original(const unsigned char **out,
                                 const lora_plan *plan,
                                 size_t tensor,
                                 size_t first,
                                 size_t count,
                                 unsigned char *buffer,
                                 lora_error *error)
{
    const lora__plan_target *target = &plan->targets[tensor];
    const lora_plan_memory *memory = &target->memory;

    *out = buffer;
    if (target->saved != NULL &&
        target->has_block[first / target->block_rows]) {
        *out = target->saved + first * memory->row_bytes;
        return LORA_OK;
    }
    if (target->saved == NULL && plan_is_changed(target)) {
        return plan_reread(plan, tensor, first, count, buffer, error);
    }
    if (plan_is_dense(memory)) {
        *out = (const unsigned char *)memory->data + first * memory->row_bytes;
        return LORA_OK;
    }
    return plan_load(plan, tensor, first, count, buffer, error);
}

/* Rows from `first` on that one block has, and the buffer has room for. */
static size_t plan_piece(const lora__plan_work *work,
                         size_t tensor,
                         size_t first,
                         size_t count)
{
    const lora__plan_target *target = &work->plan->targets[tensor];
    const size_t left = target->block_rows - first % target->block_rows;
    const size_t room = work->plan->stored_bytes / target->memory.row_bytes;

    count = count < left ? count : left;
    return count < room ? count : room;
}

LORA_PRIVATE lora_status lora__plan_source(float *out,
                                           void *user,
                                           size_t tensor,
                                           uint64_t first,
                                           size_t count,
                                           lora_error *error)
{
    const lora__plan_work *work = user;
    const lora_plan *plan = work->plan;
    const lora__plan_target *target = &plan->targets[tensor];
    const lora_plan_memory *memory = &target->memory;
    size_t row = (size_t)first;

    if (!target->is_set) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET,
                          plan_name(plan, tensor), "its memory was not set");
    }
    while (count > 0) {
        const size_t some = plan_piece(work, tensor, row, count);
        const unsigned char *in;
        TRY(plan_original(&in, plan, tensor, row, some, work->stored, error));
        if (memory->decode != NULL) {
            TRY(plan_host(
                plan, tensor,
                memory->decode(memory->user, tensor, row, some, in, out),
                "decode", error));
        } else {
            TRY(lora__convert_to_f32(out, in, memory->dtype,
                                     some * target->columns, plan->kernels,
                                     error));
        }
        out += some * target->columns;
        row += some;
        count -= some;
    }
    return LORA_OK;
}

/* ---- what jobs do with rows -------------------------------------------- */

static size_t plan_block_rows(const lora__plan_target *target, size_t block)
{
    const size_t left = target->rows - block * target->block_rows;

    return left < target->block_rows ? left : target->block_rows;
}

LORA_PRIVATE lora_status lora__plan_save(const lora__plan_work *work,
                                         size_t tensor,
                                         size_t block,
                                         lora_error *error)
{
    lora__plan_target *target = &work->plan->targets[tensor];
    const size_t first = block * target->block_rows;

    if (target->saved == NULL || target->has_block[block]) {
        return LORA_OK;
    }
    TRY(plan_load(work->plan, tensor, first, plan_block_rows(target, block),
                  target->saved + first * target->memory.row_bytes, error));
    target->has_block[block] = 1;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__plan_restore(const lora__plan_work *work,
                                            size_t tensor,
                                            size_t block,
                                            lora_error *error)
{
    const lora__plan_target *target = &work->plan->targets[tensor];
    size_t row = block * target->block_rows;
    size_t count = plan_block_rows(target, block);

    if (target->saved != NULL && !target->has_block[block]) {
        return LORA_OK; /* nothing was written there */
    }
    while (count > 0) {
        const size_t some = target->saved != NULL
                                ? count
                                : plan_piece(work, tensor, row, count);
        const unsigned char *in;
        TRY(plan_original(&in, work->plan, tensor, row, some, work->stored,
                          error));
        TRY(plan_store(work->plan, tensor, row, some, in, error));
        row += some;
        count -= some;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__plan_write(const lora__plan_work *work,
                                          size_t tensor,
                                          size_t first,
                                          size_t count,
                                          lora_error *error)
{
    const lora_plan *plan = work->plan;
    const lora__plan_target *target = &plan->targets[tensor];
    const lora_plan_memory *memory = &target->memory;
    const lora__tensor *of = &plan->checkpoint->tensors[tensor];
    unsigned char *to = work->stored;

    if (memory->encode != NULL) {
        TRY(plan_host(
            plan, tensor,
            memory->encode(memory->user, tensor, first, count, work->rows, to),
            "encode", error));
        return plan_store(plan, tensor, first, count, to, error);
    }
    if (plan_is_dense(memory)) {
        to = (unsigned char *)memory->data + first * memory->row_bytes;
    }
    TRY(lora__round(to, memory->dtype, work->rows, count * target->columns,
                    &plan->rounding,
                    lora__rounding_key(of->target, (int32_t)of->role),
                    (uint64_t)first * target->columns, plan->kernels, error));
    return plan_is_dense(memory)
               ? LORA_OK
               : plan_store(plan, tensor, first, count, to, error);
}

/* ---- where rows are ---------------------------------------------------- */

/* A tensor of the originals that has the same bytes. */
static size_t plan_find_original(const lora_plan *plan,
                                 size_t tensor,
                                 const lora_plan_memory *memory)
{
    const lora__tensor *of = &plan->checkpoint->tensors[tensor];
    const lora__plan_target *target = &plan->targets[tensor];
    const lora__entry *entry;
    size_t found;

    if (plan->originals == NULL || memory->decode != NULL ||
        !lora__checkpoint_find(&found, plan->originals->checkpoint, of->name,
                               of->name_bytes)) {
        return SIZE_MAX;
    }
    entry = plan->originals->checkpoint->tensors[found].entry;
    return entry->dtype == memory->dtype && entry->ndim == of->entry->ndim &&
                   entry->bytes == (uint64_t)target->rows * memory->row_bytes &&
                   memcmp(entry->shape, of->entry->shape,
                          sizeof entry->shape) == 0
               ? found
               : SIZE_MAX;
}

/* The format of rows, complete. */
static lora_status plan_fill_format(lora_plan_memory *memory,
                                    const lora_plan *plan,
                                    size_t tensor,
                                    lora_error *error)
{
    const lora__tensor *of = &plan->checkpoint->tensors[tensor];
    const lora__plan_target *target = &plan->targets[tensor];
    size_t bytes;

    if (memory->decode != NULL) {
        CHECK_ARG(memory->row_bytes != 0, error);
        memory->dtype = LORA_DTYPE_NONE;
    } else {
        if (memory->dtype == LORA_DTYPE_NONE) {
            memory->dtype = of->entry->dtype;
        }
        if (!lora__dtype_is_float(memory->dtype)) {
            return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, of->name,
                              "%s has no numbers to change",
                              lora_dtype_name(memory->dtype));
        }
        if (of->scale != SIZE_MAX) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              of->name,
                              "it has a scale beside it: give functions that "
                              "decode and encode");
        }
        bytes = target->columns * (lora_dtype_bits(memory->dtype) / 8);
        CHECK_ARG(memory->row_bytes == 0 || memory->row_bytes == bytes, error);
        memory->row_bytes = bytes;
    }
    if (memory->row_step == 0) {
        memory->row_step = memory->row_bytes;
    }
    CHECK_ARG(memory->row_step >= memory->row_bytes, error);
    if (!lora__mul_size(target->rows, memory->row_step, &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    return LORA_OK;
}

LORA_API lora_status lora_plan_set_memory(lora_plan *plan,
                                          size_t tensor,
                                          const lora_plan_memory *memory,
                                          lora_error *error)
{
    lora__plan_target *target;
    lora_plan_memory own;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    if (tensor >= plan->target_count || plan->targets[tensor].rows == 0) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "the model has no tensor %llu, or it has no numbers",
                          (unsigned long long)tensor);
    }
    target = &plan->targets[tensor];
    memset(&own, 0, sizeof own);
    if (memory != NULL) {
        TRY(lora__options_read(&own, sizeof own,
                               LORA__SIZE_TO(lora_plan_memory, reserved1),
                               memory, error));
        TRY(lora__options_reserved(own.reserved1, error));
        CHECK_ARG((own.load == NULL) == (own.store == NULL), error);
        CHECK_ARG((own.decode == NULL) == (own.encode == NULL), error);
        CHECK_ARG(own.data != NULL || own.load != NULL, error);
        TRY(plan_fill_format(&own, plan, tensor, error));
    }
    lora__plan_uncut(plan);
    if (plan_is_changed(target) &&
        (own.dtype != target->memory.dtype ||
         own.row_bytes != target->memory.row_bytes ||
         (target->saved == NULL && own.original == NULL &&
          plan_find_original(plan, tensor, &own) == SIZE_MAX))) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET,
                          plan_name(plan, tensor),
                          "adapters are in it: remove them, and run the jobs");
    }
    target->memory = own;
    target->is_set = memory != NULL;
    target->original =
        memory == NULL ? SIZE_MAX : plan_find_original(plan, tensor, &own);
    return LORA_OK;
}
