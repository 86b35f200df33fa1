/* Containers: making, opening, sharing, and reading what is in them. */
#include "format/container.h"

#include "format/gguf.h"
#include "format/sort.h"
#include "format/torch.h"
#include "platform/atomic.h"

#include <string.h>

#define CONTAINER_HEAD 512

LORA_PRIVATE lora_status lora__container_create(lora__container **out,
                                                lora_context *context,
                                                const char *format,
                                                const char *path,
                                                lora_error *error)
{
    void *memory;
    lora__container *container;
    lora_status status;

    *out = NULL;
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *container, error));
    container = memory;
    container->references = 1;
    container->context = lora_context_retain(context);
    container->format = format;
    lora__arena_init(&container->arena, context);
    lora__map_init(&container->by_name, context);
    TRY_OR_DONE(lora__arena_string(&container->path, &container->arena, path,
                                   strlen(path), error));
    *out = container;
    container = NULL;
done:
    lora__container_release(container);
    return status;
}

/* Find out what the reader holds, and read its table. */
static lora_status container_load(lora__container *container, lora_error *error)
{
    const lora_reader *reader = &container->reader;
    const char *path = container->path;
    unsigned char head[CONTAINER_HEAD] = {0};
    size_t bytes = sizeof head;
    const char *what;
    lora_status status = reader->size(reader->user, &container->file_bytes);

    if (status != LORA_OK) {
        return lora__fail(error, status < 0 ? status : LORA_ERROR_IO,
                          LORA_NO_OFFSET, path, "its size is not known");
    }
    if (container->file_bytes == 0) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, 0, path, "empty file");
    }
    if (container->file_bytes < bytes) {
        bytes = (size_t)container->file_bytes;
    }
    TRY(lora__reader_read(reader, 0, head, bytes, path, error));

    /* A header of less than 4 GiB that begins with a brace is safetensors,
     * whatever the length looks like. Nothing below can have both. */
    if (bytes < 9 || head[8] != '{' || head[4] != 0 || head[5] != 0 ||
        head[6] != 0 || head[7] != 0) {
        if (lora__torch_is_zip(head, bytes)) {
            return lora__torch_read_zip(container, error);
        }
        if (lora__torch_is_legacy(head, bytes)) {
            return lora__torch_read_legacy(container, error);
        }
        if (lora__gguf_is(head, bytes)) {
            return lora__gguf_read(container, error);
        }
        what = lora__sniff(head, bytes);
        if (what != NULL) {
            return lora__fail(error, LORA_ERROR_FORMAT, 0, path, "%s", what);
        }
    }
    if (bytes < 8) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, bytes, path,
                          "ends within the first 8 bytes");
    }
    return lora__safetensors_read(container, head, error);
}

LORA_PRIVATE lora_status lora__container_open(lora__container **out,
                                              lora_context *context,
                                              const lora_reader *reader,
                                              const char *path,
                                              lora_error *error)
{
    lora__container *container;
    lora_status status;

    *out = NULL;
    status =
        lora__container_create(&container, context, "safetensors", path, error);
    if (status != LORA_OK) {
        if (reader->destroy != NULL) {
            reader->destroy(reader->user);
        }
        return status;
    }
    container->reader = *reader;
    TRY_OR_DONE(container_load(container, error));
    *out = container;
    container = NULL;
done:
    lora__container_release(container);
    return status;
}

LORA_PRIVATE lora_status lora__container_reserve(lora__container *container,
                                                 size_t count,
                                                 lora_error *error)
{
    void *entries = container->entries;

    TRY(lora__grow(&entries, &container->entry_capacity, container->context,
                   count, sizeof *container->entries, error));
    container->entries = entries;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__container_add(lora__entry **out,
                                             lora__container *container,
                                             lora_error *error)
{
    TRY(lora__container_reserve(container, container->entry_count + 1, error));
    *out = &container->entries[container->entry_count++];
    memset(*out, 0, sizeof **out);
    return LORA_OK;
}

LORA_PRIVATE void lora__container_retain(lora__container *container)
{
    lora__atomic_add_u32(&container->references, 1);
}

LORA_PRIVATE void lora__entry_release(const lora__entry *entry,
                                      lora_context *context)
{
    if (entry->owned_bytes != 0) {
        lora__free(context, (void *)(uintptr_t)entry->data, entry->owned_bytes,
                   LORA__ALIGN_NUMERIC);
    }
    if (entry->source_bytes != 0) {
        lora__free(context, entry->source, entry->source_bytes, LORA__ALIGN);
    }
    lora__container_release(entry->parent);
}

/* Parents are released too, so results of results nest as deep as a program
 * chained its operations; makers point to the container that has the bytes,
 * which keeps that shallow. */
LORA_PRIVATE void lora__container_release(lora__container *container)
{
    lora_context *context;

    if (container == NULL ||
        lora__atomic_add_u32(&container->references, UINT32_MAX) != 0) {
        return;
    }
    for (size_t i = 0; i < container->entry_count; i++) {
        lora__entry_release(&container->entries[i], container->context);
    }
    if (container->reader.destroy != NULL) {
        container->reader.destroy(container->reader.user);
    }
    context = container->context;
    lora__free(context, container->entries,
               container->entry_capacity * sizeof *container->entries,
               LORA__ALIGN);
    lora__map_destroy(&container->by_name);
    lora__arena_destroy(&container->arena);
    lora__free(context, container, sizeof *container, LORA__ALIGN);
    lora_context_destroy(context);
}

LORA_PRIVATE const lora__entry *
lora__container_resolve(const lora__container **container, size_t index)
{
    const lora__entry *entry = &(*container)->entries[index];

    while (entry->parent != NULL && entry->derive == NULL) {
        *container = entry->parent;
        entry = &(*container)->entries[entry->parent_index];
    }
    return entry;
}

LORA_PRIVATE lora_status lora__container_read(const lora__container *container,
                                              size_t index,
                                              uint64_t offset,
                                              void *buffer,
                                              size_t bytes,
                                              lora_error *error)
{
    const lora__entry *entry = lora__container_resolve(&container, index);

    if (offset > entry->bytes || bytes > entry->bytes - offset) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, entry->name,
                          "no such bytes in the tensor");
    }
    if (bytes == 0) {
        return LORA_OK;
    }
    if (container->verify != NULL) {
        TRY(container->verify(entry, error));
    }
    if (entry->derive != NULL) {
        return entry->derive(entry, offset, buffer, bytes, error);
    }
    if (entry->data != NULL) {
        memcpy(buffer, (const unsigned char *)entry->data + (size_t)offset,
               bytes);
        return LORA_OK;
    }
    INVARIANT(container->reader.read_at != NULL, error);
    return lora__reader_read(&container->reader, entry->offset + offset, buffer,
                             bytes, container->path, error);
}

LORA_PRIVATE const void *lora__container_view(const lora__container *container,
                                              size_t index)
{
    const lora__entry *entry = lora__container_resolve(&container, index);
    const lora_reader *reader = &container->reader;
    const void *data = entry->data;

    if (container->verify != NULL &&
        container->verify(entry, NULL) != LORA_OK) {
        return NULL; /* reading it tells what is wrong */
    }
    if (data == NULL && entry->derive == NULL && reader->map != NULL &&
        reader->map(reader->user, entry->offset, entry->bytes, &data) !=
            LORA_OK) {
        data = NULL;
    }
    return data;
}

static int metadata_compare(const void *a, const void *b)
{
    const lora__metadata *x = a;
    const lora__metadata *y = b;
    int order = strcmp(x->key, y->key);

    return order != 0 ? order : (x->key > y->key) - (x->key < y->key);
}

LORA_PRIVATE void lora__metadata_sort(lora__metadata *items, size_t count)
{
    lora__sort(items, count, sizeof *items, metadata_compare);
}

LORA_PRIVATE const char *
lora__container_metadata(const lora__container *container, const char *key)
{
    size_t low = 0;
    size_t high = container->metadata_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(container->metadata[middle].key, key);
        if (order == 0) {
            return container->metadata[middle].value;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}
