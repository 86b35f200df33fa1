/* Saving adapters as safetensors: to files, memory, writers. */
#include "adapter/adapter.h"
#include "core/options.h"

#include <string.h>

LORA_API void lora_adapter_save_options_init(lora_adapter_save_options *options,
                                             size_t size)
{
    lora__options_init(options, size);
}

/* Tensors that are not in memory pass through a buffer of this size. */
#define SAVE_CHUNK_BYTES ((size_t)256 << 10)

typedef struct save_state {
    const lora_adapter *adapter;
    unsigned char *chunk;
    uint64_t done;
    uint64_t total;
} save_state;

static lora_status save_produce(void *user,
                                size_t index,
                                lora__sink_fn sink,
                                void *sink_user,
                                lora_error *error)
{
    save_state *state = user;
    const lora__container *container = state->adapter->container;
    uint64_t bytes = container->entries[index].bytes;
    const unsigned char *view = lora__container_view(container, index);
    uint64_t offset = 0;

    while (offset < bytes) {
        uint64_t left = bytes - offset;
        size_t step = left < SAVE_CHUNK_BYTES ? (size_t)left : SAVE_CHUNK_BYTES;
        if (view == NULL) {
            TRY(lora__container_read(container, index, offset, state->chunk,
                                     step, error));
        }
        TRY(sink(sink_user, view == NULL ? state->chunk : view + offset, step,
                 error));
        offset += step;
    }
    state->done++;
    return lora__progress(state->adapter->context, "save", state->done,
                          state->total, error);
}

/* What is to be written. */
static lora_status save_list(lora__out_tensor **out,
                             const lora__metadata **out_metadata,
                             size_t *out_metadata_count,
                             lora__arena *arena,
                             const lora_adapter *adapter,
                             lora_error *error)
{
    TRY(lora__safetensors_list(out, arena, adapter->container, error));
    return lora__adapter_metadata(out_metadata, out_metadata_count, adapter,
                                  arena, error);
}

LORA_PRIVATE lora_status lora__adapter_write(const lora_adapter *adapter,
                                             const lora_writer *writer,
                                             lora_error *error)
{
    const lora__container *container = adapter->container;
    save_state state = {adapter, NULL, 0, container->entry_count};
    const lora__metadata *metadata;
    size_t metadata_count;
    lora__out_tensor *list;
    lora__arena arena;
    lora_status status;

    lora__arena_init(&arena, adapter->context);
    status =
        save_list(&list, &metadata, &metadata_count, &arena, adapter, error);
    if (status == LORA_OK) {
        state.chunk =
            lora__alloc(adapter->context, SAVE_CHUNK_BYTES, LORA__ALIGN);
        if (state.chunk == NULL) {
            status = lora__fail_memory(error, SAVE_CHUNK_BYTES);
        }
    }
    if (status != LORA_OK) {
        lora__writer_abort(writer);
    } else {
        status = lora__safetensors_write(
            adapter->context, writer, list, container->entry_count, metadata,
            metadata_count, save_produce, &state, error);
    }
    lora__free(adapter->context, state.chunk, SAVE_CHUNK_BYTES, LORA__ALIGN);
    lora__arena_destroy(&arena);
    return status;
}

LORA_API lora_status lora_adapter_save(const lora_adapter *adapter,
                                       const char *path,
                                       const lora_adapter_save_options *options,
                                       lora_error *error)
{
    lora_adapter_save_options o;
    lora_writer writer;

    lora__error_begin(error);
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(path != NULL, error);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_save_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(o.reserved1, error));
    TRY(lora__writer_open_file(&writer, adapter->context, path,
                               o.overwrite != 0, error));
    return lora__adapter_write(adapter, &writer, error);
}

LORA_API lora_status lora_adapter_save_writer(const lora_adapter *adapter,
                                              const lora_writer *writer,
                                              lora_error *error)
{
    lora_writer ours;

    lora__error_begin(error);
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(writer != NULL, error);
    TRY(lora__options_read(&ours, sizeof ours,
                           LORA__SIZE_TO(lora_writer, abort), writer, error));
    CHECK_ARG(ours.write != NULL && ours.finish != NULL, error);
    return lora__adapter_write(adapter, &ours, error);
}

/* A writer over the caller's buffer, which is known to be large enough. */
typedef struct save_memory {
    unsigned char *data;
    size_t used;
} save_memory;

static lora_status save_memory_write(void *user, const void *data, size_t bytes)
{
    save_memory *memory = user;

    memcpy(memory->data + memory->used, data, bytes);
    memory->used += bytes;
    return LORA_OK;
}

static lora_status save_memory_finish(void *user)
{
    (void)user;
    return LORA_OK;
}

LORA_API lora_status lora_adapter_save_memory(void *buffer,
                                              size_t bytes,
                                              size_t *out_bytes,
                                              const lora_adapter *adapter,
                                              lora_error *error)
{
    save_memory memory = {buffer, 0};
    lora_writer writer = {sizeof writer, &memory, save_memory_write,
                          save_memory_finish, NULL};
    const lora__metadata *metadata;
    size_t metadata_count;
    lora__out_tensor *list;
    lora__arena arena;
    uint64_t needed = 0;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out_bytes != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    lora__arena_init(&arena, adapter->context);
    status =
        save_list(&list, &metadata, &metadata_count, &arena, adapter, error);
    if (status == LORA_OK) {
        status = lora__safetensors_measure(&needed, adapter->context, list,
                                           adapter->container->entry_count,
                                           metadata, metadata_count, error);
    }
    lora__arena_destroy(&arena);
    if (status != LORA_OK) {
        return status;
    }
    if (needed > SIZE_MAX) {
        return lora__fail_memory(error, needed);
    }
    if (buffer != NULL) {
        if (bytes < needed) {
            return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                              "needs a buffer of %llu bytes",
                              (unsigned long long)needed);
        }
        TRY(lora__adapter_write(adapter, &writer, error));
    }
    *out_bytes = (size_t)needed;
    return LORA_OK;
}
