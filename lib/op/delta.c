/* Writing the dense changes of an adapter to a file, block by block. */
#include "adapter/kind.h"
#include "core/options.h"
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
} delta_item;

typedef struct delta_job {
    const lora_adapter *adapter;
    double strength;
    lora_adapter_delta_options options;
    lora_dtype dtype;
    lora__arena arena; /* names */
    delta_item *items; /* by the id of the tensor to be written */
    lora__out_tensor *tensors;
    size_t count;
} delta_job;

static lora_status
delta_add(delta_job *job, size_t index, lora_part part, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    const char *name = job->options.canonical ? module->target : module->name;
    lora__out_tensor *tensor = &job->tensors[job->count];
    lora__buffer text;
    uint64_t elements;
    lora_status status;

    lora__buffer_init(&text, job->adapter->context);
    lora__buffer_puts(&text, name);
    lora__buffer_puts(&text, part == LORA_PART_BIAS ? ".bias" : "");
    TRY_OR_DONE(lora__buffer_status(&text, error));
    status = lora__arena_string(&tensor->name, &job->arena, text.data,
                                text.bytes, error);
done:
    lora__buffer_destroy(&text);
    if (status != LORA_OK) {
        return status;
    }
    tensor->dtype = job->dtype;
    tensor->ndim = part == LORA_PART_BIAS ? 1 : module->ndim;
    memcpy(tensor->shape, module->shape, sizeof tensor->shape);
    tensor->id = job->count;
    if (lora__safetensors_size(&elements, &tensor->bytes, job->dtype,
                               tensor->ndim, tensor->shape) != NULL) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the dense change is too large");
    }
    job->items[job->count].module = index;
    job->items[job->count].part = part;
    job->count++;
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
    static const lora_part parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};
    const lora_adapter *adapter = job->adapter;
    unsigned char *left_out;
    void *memory;

    if (adapter->module_count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path,
                          "no adapter: there is no change to write");
    }
    TRY(delta_admit(&left_out, job, error));
    TRY(lora__arena_zeroed(&memory, &job->arena, adapter->module_count,
                           2 * sizeof *job->items, error));
    job->items = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, adapter->module_count,
                           2 * sizeof *job->tensors, error));
    job->tensors = memory;
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (left_out[m]) {
            continue;
        }
        for (size_t i = 0; i < LORA__COUNT(parts); i++) {
            if ((module->changes & parts[i]) != 0) {
                TRY(lora__rows_check(module, parts[i], error));
                TRY(delta_add(job, m, parts[i], error));
            }
        }
    }
    return LORA_OK;
}

static lora_status delta_produce(void *user,
                                 size_t id,
                                 lora__sink_fn sink,
                                 void *sink_user,
                                 lora_error *error)
{
    const delta_job *job = user;
    const delta_item *item = &job->items[id];
    const lora__module *module = &job->adapter->modules[item->module];
    lora_context *context = job->adapter->context;
    lora__rows state;
    size_t row_bytes;
    size_t step;
    size_t block_bytes;
    void *block;
    lora_status status = LORA_OK;

    TRY(lora__rows_create(&state, job->adapter, module, item->part,
                          job->strength, job->dtype, error));
    row_bytes = state.cols * lora__rows_size(&state);
    step = row_bytes > DELTA_BLOCK_BYTES ? 1 : DELTA_BLOCK_BYTES / row_bytes;
    step = step > state.rows ? state.rows : step;
    block_bytes = step * row_bytes;
    block = lora__alloc(context, block_bytes, LORA__ALIGN_NUMERIC);
    if (block == NULL) {
        status = lora__fail_memory(error, block_bytes);
        goto done;
    }
    for (size_t row = 0; row < state.rows; row += step) {
        size_t end = state.rows - row < step ? state.rows : row + step;
        lora__rows_read(&state, module, item->part, row, end, block);
        TRY_OR_DONE(sink(sink_user, block, (end - row) * row_bytes, error));
    }
    status = lora__progress(context, "delta", id + 1, job->count, error);
done:
    lora__free(context, block, block_bytes, LORA__ALIGN_NUMERIC);
    lora__rows_destroy(&state);
    return status;
}

static lora_status
delta_save(delta_job *job, const char *path, lora_error *error)
{
    lora_writer writer;

    TRY(delta_plan(job, error));
    TRY(lora__writer_open_file(&writer, job->adapter->context, path,
                               job->options.overwrite != 0, error));
    return lora__safetensors_write(job->adapter->context, &writer, job->tensors,
                                   job->count, NULL, 0, delta_produce, job,
                                   error);
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
    CHECK_ARG(path != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_adapter_delta_options, skip_bad),
                           options, error));
    job.adapter = adapter;
    job.strength = strength;
    job.dtype = job.options.dtype == LORA_DTYPE_NONE ? LORA_DTYPE_F32
                                                     : job.options.dtype;
    if (job.dtype != LORA_DTYPE_F32 && job.dtype != LORA_DTYPE_F64) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "F32 or F64 is needed");
    }
    lora__arena_init(&job.arena, adapter->context);
    status = delta_save(&job, path, error);
    lora__arena_destroy(&job.arena);
    return status;
}
