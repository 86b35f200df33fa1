/* Writing the dense changes of an adapter to a file, block by block. */
#include "adapter/kind.h"
#include "core/options.h"
#include "model/base.h"
#include "op/values.h"

#include <string.h>

LORA_API void
lora_adapter_delta_options_init(lora_adapter_delta_options *options,
                                size_t size)
{
    lora__options_init(options, size);
}

/* Rows are computed in blocks of about this size. */
#define DELTA_BLOCK_BYTES ((size_t)1 << 20)

typedef struct delta_item {
    size_t module;
    lora_part part;
    const lora__row_set *set;     /* the rows of a target within the module's
                                   * weight; NULL: all of them */
    int64_t shape[LORA_MAX_DIMS]; /* of the part */
    int32_t ndim;
} delta_item;

typedef struct delta_job {
    const lora_adapter *adapter;
    double strength;
    lora_adapter_delta_options options;
    lora_dtype dtype;
    lora__checkpoint *base; /* NULL: there is none */
    lora__arena arena;      /* names */
    delta_item *items;      /* by the id of the tensor to be written */
    lora__out_tensor *tensors;
    size_t count;
} delta_job;

/* Row `at` of so many units, where the weight has `rows`. */
static size_t delta_row(const lora__row_set *set, size_t rows, size_t at)
{
    return rows / set->units * at;
}

/* A target that is a weight of its own needs no rows chosen. */
static const lora__row_set *delta_set(const lora__part *piece)
{
    return piece->rows.units == 0 && !piece->rows.transposed ? NULL
                                                             : &piece->rows;
}

/* Whether a module is written target by target: its rows can be shared out. */
static int delta_splits(const delta_job *job,
                        const lora__module *module,
                        const delta_item *item)
{
    for (size_t i = 0; i < module->part_count; i++) {
        const lora__row_set *set = &module->parts[i].rows;
        if ((set->units != 0 && item->shape[0] % set->units != 0) ||
            (set->transposed && item->part == LORA_PART_WEIGHT &&
             item->ndim != 2)) {
            return 0;
        }
    }
    return job->options.canonical && module->part_count != 0;
}

static void delta_shape(lora__out_tensor *tensor, const delta_item *item)
{
    const lora__row_set *set = item->set;
    size_t rows = 0;

    tensor->ndim = item->ndim;
    memcpy(tensor->shape, item->shape, sizeof tensor->shape);
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; i < set->slice_count; i++) {
        rows += delta_row(set, (size_t)item->shape[0],
                          (size_t)(set->slices[i].end - set->slices[i].begin));
    }
    tensor->shape[0] = set->units == 0 ? item->shape[0] : (int64_t)rows;
    if (set->transposed && item->part == LORA_PART_WEIGHT) {
        tensor->shape[1] = tensor->shape[0];
        tensor->shape[0] = item->shape[1];
    }
}

/* "<name>", "<name>.bias"; of changed weights "<name>.weight" too. */
static const char *delta_member(const delta_job *job, lora_part part)
{
    return part == LORA_PART_BIAS ? ".bias"
           : job->options.weights ? ".weight"
                                  : "";
}

/* `item` is all there but for the rows, which are those of a piece. */
static lora_status delta_add(delta_job *job,
                             const delta_item *from,
                             const lora__part *piece,
                             lora_error *error)
{
    const lora__module *module = &job->adapter->modules[from->module];
    const char *name = piece != NULL            ? piece->target
                       : job->options.canonical ? module->target
                                                : module->name;
    lora__out_tensor *tensor = &job->tensors[job->count];
    delta_item *item = &job->items[job->count];
    lora__buffer text;
    uint64_t elements;
    lora_status status;

    lora__buffer_init(&text, job->adapter->context);
    lora__buffer_puts(&text, name);
    lora__buffer_puts(&text, delta_member(job, from->part));
    TRY_OR_DONE(lora__buffer_status(&text, error));
    status = lora__arena_string(&tensor->name, &job->arena, text.data,
                                text.bytes, error);
done:
    lora__buffer_destroy(&text);
    if (status != LORA_OK) {
        return status;
    }
    *item = *from;
    item->set = piece == NULL ? NULL : delta_set(piece);
    delta_shape(tensor, item);
    tensor->dtype = job->dtype;
    tensor->id = job->count;
    if (lora__safetensors_size(&elements, &tensor->bytes, job->dtype,
                               tensor->ndim, tensor->shape) != NULL) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the dense change is too large");
    }
    job->count++;
    return LORA_OK;
}

static void
delta_how(lora__rows_how *how, const delta_job *job, const delta_item *item)
{
    memset(how, 0, sizeof *how);
    how->part = item->part;
    how->dtype = job->dtype;
    how->strength = job->strength;
    how->rule = job->options.strength_rule;
    how->dora = job->options.dora_rule;
    how->weights = job->options.weights != 0;
}

/* Find what the module changes in the base, if there is one. */
static lora_status delta_find(lora__found_base *found,
                              lora__rows_how *how,
                              const delta_job *job,
                              const lora__module *module,
                              lora_error *error)
{
    if (job->base == NULL) {
        return LORA_OK;
    }
    if (!how->weights && module->needs == 0) {
        return LORA_OK;
    }
    how->base = &found->base;
    return lora__base_find(found, job->base, module, error);
}

/* Weight or bias of a module, whole or target by target. */
static lora_status
delta_add_part(delta_job *job, size_t index, lora_part part, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__found_base found;
    lora__rows_how how;
    delta_item item;
    lora__rows state;

    memset(&item, 0, sizeof item);
    item.module = index;
    item.part = part;
    delta_how(&how, job, &item);
    TRY(delta_find(&found, &how, job, module, error));
    if (lora__base_lacks_bias(module, part, &how)) {
        return LORA_OK; /* it scales the bias, and there is none */
    }
    TRY(lora__rows_plan(item.shape, &item.ndim, module, &how, error));
    if (job->options.skip_bad && (module->needs & part) != 0) {
        TRY(lora__rows_create_how(&state, job->adapter, module, &how, error));
        lora__rows_destroy(&state);
    }
    if (!delta_splits(job, module, &item)) {
        return delta_add(job, &item, NULL, error);
    }
    for (size_t p = 0; p < module->part_count; p++) {
        TRY(delta_add(job, &item, &module->parts[p], error));
    }
    return LORA_OK;
}

/* What the base does not fit is as unusable as what does not fit in itself. */
static lora_status
delta_add_module(delta_job *job, size_t index, lora_error *error)
{
    static const lora_part parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};
    const lora__module *module = &job->adapter->modules[index];
    size_t before = job->count;

    for (size_t i = 0; i < LORA__COUNT(parts); i++) {
        lora_status status = LORA_OK;
        if ((module->changes & parts[i]) != 0) {
            status = delta_add_part(job, index, parts[i], error);
        }
        if ((status == LORA_ERROR_KEY || status == LORA_ERROR_SHAPE ||
             status == LORA_ERROR_DTYPE) &&
            job->base != NULL && job->options.skip_bad) {
            lora__error_begin(error);
            job->count = before;
            return LORA_OK;
        }
        TRY(status);
    }
    return LORA_OK;
}

/* Which modules take part: unusable ones and such with NaN do not. */
static lora_status
delta_admit(unsigned char **out, delta_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    lora__values *values;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, adapter->module_count, 1,
                           error));
    *out = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena,
                           adapter->container->entry_count, sizeof *values,
                           error));
    values = memory;
    TRY(lora__values_scan(values, adapter, error));
    return lora__values_admit(*out, values, adapter, job->options.skip_bad != 0,
                              error);
}

/* List the tensors, and refuse before anything is written. */
static lora_status delta_plan(delta_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    unsigned char *left_out;
    size_t most = 0;
    void *memory;

    if (adapter->module_count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path,
                          "no adapter: there is no change to write");
    }
    TRY(delta_admit(&left_out, job, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        size_t parts = adapter->modules[m].part_count;
        most += parts == 0 ? 1 : parts;
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, most, 2 * sizeof *job->items,
                           error));
    job->items = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, most, 2 * sizeof *job->tensors,
                           error));
    job->tensors = memory;
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (!left_out[m]) {
            TRY(delta_add_module(job, m, error));
        }
    }
    return LORA_OK;
}

/* Where the rows of a tensor go. */
typedef struct delta_sink {
    lora__sink_fn write;
    void *user;
} delta_sink;

/* Rows [begin, end), block by block. */
static lora_status delta_write_rows(const delta_sink *sink,
                                    lora__rows *state,
                                    const lora__module *module,
                                    size_t begin,
                                    size_t end,
                                    lora_error *error)
{
    size_t row_bytes = state->cols * lora__rows_size(state);
    size_t step =
        row_bytes > DELTA_BLOCK_BYTES ? 1 : DELTA_BLOCK_BYTES / row_bytes;
    size_t block_bytes;
    void *block;
    lora_status status = LORA_OK;

    step = step > end - begin ? end - begin : step;
    block_bytes = step * row_bytes;
    block = lora__alloc(state->context, block_bytes, LORA__ALIGN_NUMERIC);
    if (block == NULL) {
        return lora__fail_memory(error, block_bytes);
    }
    for (size_t row = begin; row < end; row += step) {
        size_t next = end - row < step ? end : row + step;
        TRY_OR_DONE(lora__rows_read(state, module, row, next, block, error));
        TRY_OR_DONE(
            sink->write(sink->user, block, (next - row) * row_bytes, error));
    }
done:
    lora__free(state->context, block, block_bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* The transpose of all rows: only small weights are stored so. */
static lora_status delta_write_transposed(const delta_sink *sink,
                                          lora__rows *state,
                                          const lora__module *module,
                                          lora_error *error)
{
    size_t size = lora__rows_size(state);
    size_t bytes = state->rows * state->cols * size;
    unsigned char *in = lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    unsigned char *out =
        lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    lora_status status;

    if (in == NULL || out == NULL) {
        status = lora__fail_memory(error, bytes);
        goto done;
    }
    TRY_OR_DONE(lora__rows_read(state, module, 0, state->rows, in, error));
    lora__rows_transpose(state, out, in, state->rows, state->cols);
    status = sink->write(sink->user, out, bytes, error);
done:
    lora__free(state->context, in, bytes, LORA__ALIGN_NUMERIC);
    lora__free(state->context, out, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

static lora_status delta_write_item(const delta_sink *sink,
                                    lora__rows *state,
                                    const lora__module *module,
                                    const delta_item *item,
                                    lora_error *error)
{
    const lora__row_set *set = item->set;

    if (set != NULL && set->transposed && item->part == LORA_PART_WEIGHT) {
        return delta_write_transposed(sink, state, module, error);
    }
    if (set == NULL || set->units == 0) {
        return delta_write_rows(sink, state, module, 0, state->rows, error);
    }
    for (size_t i = 0; i < set->slice_count; i++) {
        TRY(delta_write_rows(sink, state, module,
                             delta_row(set, state->rows, set->slices[i].begin),
                             delta_row(set, state->rows, set->slices[i].end),
                             error));
    }
    return LORA_OK;
}

static lora_status delta_produce(void *user,
                                 size_t id,
                                 lora__sink_fn write,
                                 void *write_user,
                                 lora_error *error)
{
    const delta_job *job = user;
    const delta_item *item = &job->items[id];
    const lora__module *module = &job->adapter->modules[item->module];
    const delta_sink sink = {write, write_user};
    lora__found_base found;
    lora__rows_how how;
    lora__rows state;
    lora_status status;

    delta_how(&how, job, item);
    TRY(delta_find(&found, &how, job, module, error));
    TRY(lora__rows_create_how(&state, job->adapter, module, &how, error));
    TRY_OR_DONE(delta_write_item(&sink, &state, module, item, error));
    status = lora__progress(job->adapter->context, "delta", id + 1, job->count,
                            error);
done:
    lora__rows_destroy(&state);
    return status;
}

/* What is done with the numbers of a dry run. */
static lora_status
delta_discard(void *user, const void *data, size_t bytes, lora_error *error)
{
    (void)user;
    (void)data;
    (void)bytes;
    (void)error;
    return LORA_OK;
}

/* A base that no change depends on was not read: whoever gave it may have meant
 * the changed weights. */
static void delta_note_base(const delta_job *job)
{
    int32_t needs = 0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        needs |= job->adapter->modules[m].needs;
    }
    if (job->base != NULL && needs == 0 && job->options.weights == 0) {
        lora__log(job->adapter->context, LORA_LOG_WARNING,
                  "%s was not needed: no change in the adapter depends on the "
                  "weights",
                  job->options.base);
    }
}

static lora_status
delta_save(delta_job *job, const char *path, lora_error *error)
{
    lora_writer writer;

    if (job->options.base != NULL) {
        TRY(lora__checkpoint_open(&job->base, job->adapter->context,
                                  job->options.base, 0, error));
    }
    TRY(delta_plan(job, error));
    for (size_t i = 0; job->options.dry_run && i < job->count; i++) {
        TRY(delta_produce(job, i, delta_discard, NULL, error));
    }
    if (job->options.dry_run) {
        delta_note_base(job);
        return LORA_OK;
    }
    TRY(lora__writer_open_file(&writer, job->adapter->context, path,
                               job->options.overwrite != 0, error));
    TRY(lora__safetensors_write(job->adapter->context, &writer, job->tensors,
                                job->count, NULL, 0, delta_produce, job,
                                error));
    delta_note_base(job);
    return LORA_OK;
}

static lora_status delta_check(delta_job *job, lora_error *error)
{
    TRY(lora__rules_check(job->options.strength_rule, job->options.dora_rule,
                          error));
    if (job->options.weights && job->options.base == NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "weights",
                          "changed weights need a base");
    }
    job->dtype = job->options.dtype == LORA_DTYPE_NONE ? LORA_DTYPE_F32
                                                       : job->options.dtype;
    return job->dtype == LORA_DTYPE_F32 || job->dtype == LORA_DTYPE_F64
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                            "F32 or F64 is needed");
}

LORA_API lora_status
lora_adapter_save_delta(const lora_adapter *adapter,
                        const char *path,
                        double strength,
                        const lora_adapter_delta_options *options,
                        lora_error *error)
{
    delta_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_adapter_delta_options, dora_rule),
                           options, error));
    CHECK_ARG(path != NULL || job.options.dry_run, error);
    job.adapter = adapter;
    job.strength = strength;
    TRY(delta_check(&job, error));
    lora__arena_init(&job.arena, adapter->context);
    status = delta_save(&job, path, error);
    lora__checkpoint_release(job.base);
    lora__arena_destroy(&job.arena);
    return status;
}
