/* Hashes over tensors in an order of their own, wherever they are kept. */
#include "op/hash.h"

#include "format/sort.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

LORA_PRIVATE void lora__hash_range(lora__sha256 *sha,
                                   const unsigned char *chunk,
                                   uint64_t offset,
                                   size_t bytes,
                                   uint64_t begin,
                                   uint64_t end)
{
    uint64_t from = offset > begin ? offset : begin;
    uint64_t to = offset + bytes < end ? offset + bytes : end;

    if (from < to) {
        lora__sha256_update(sha, chunk + (from - offset), (size_t)(to - from));
    }
}

LORA_PRIVATE void
lora__hash_hex(char *out, const uint8_t digest[32], size_t digits)
{
    static const char hex[] = "0123456789abcdef";

    for (size_t i = 0; i < digits; i++) {
        unsigned nibble = i % 2 == 0 ? digest[i / 2] >> 4 : digest[i / 2] & 15u;
        out[i] = hex[nibble];
    }
    out[digits] = '\0';
}

LORA_PRIVATE void lora__hash_finish(char *out, lora__sha256 *sha, size_t digits)
{
    uint8_t digest[32];

    lora__sha256_finish(sha, digest);
    lora__hash_hex(out, digest, digits);
}

static int
hash_compare(const lora__entry *a, const lora__entry *b, lora__hash_order order)
{
    if (order == LORA__HASH_WRITER && a->dtype != b->dtype) {
        return a->dtype > b->dtype ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

LORA_PRIVATE int lora__hash_is_ordered(const lora__container *container,
                                       lora__hash_order order)
{
    const lora__entry *entries = container->entries;

    for (size_t i = 1; i < container->entry_count; i++) {
        if (hash_compare(&entries[i - 1], &entries[i], order) > 0) {
            return 0;
        }
    }
    return 1;
}

static int hash_compare_names(const void *a, const void *b)
{
    const lora__out_tensor *x = a;
    const lora__out_tensor *y = b;

    return strcmp(x->name, y->name);
}

static lora_status hash_list(lora__out_tensor **out,
                             lora__arena *arena,
                             const lora__container *container,
                             lora__hash_order order,
                             lora_error *error)
{
    TRY(lora__safetensors_list(out, arena, container, error));
    if (order == LORA__HASH_WRITER) {
        lora__safetensors_sort(*out, container->entry_count);
    } else if (order == LORA__HASH_NAME) {
        lora__sort(*out, container->entry_count, sizeof **out,
                   hash_compare_names);
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__hash_describe(lora__sha256 *sha,
                                      const lora__entry *entry)
{
    const char *dtype = lora_dtype_name(entry->dtype);
    char text[24];

    lora__sha256_update(sha, entry->name, entry->name_bytes + 1);
    lora__sha256_update(sha, dtype, strlen(dtype) + 1);
    for (int32_t i = 0; i < entry->ndim; i++) {
        int n = snprintf(text, sizeof text, "%s%" PRId64, i > 0 ? "," : "",
                         entry->shape[i]);
        lora__sha256_update(sha, text, (size_t)n);
    }
    lora__sha256_update(sha, "", 1);
}

/* One walk over tensors. */
typedef struct hash_walk {
    const lora__container *container;
    lora__sha256 sha;
    unsigned char *chunk; /* for what is not in memory */
    uint64_t done;
    uint64_t total; /* 0: too little to tell progress */
} hash_walk;

static lora_status
hash_walk_begin(hash_walk *w, const lora__container *container, lora_error *e)
{
    lora_context *context = container->context;

    memset(w, 0, sizeof *w);
    w->container = container;
    lora__sha256_init(&w->sha, lora__context_get(context)->cpu);
    w->chunk = lora__alloc(context, LORA__HASH_CHUNK_BYTES, LORA__ALIGN);
    return w->chunk == NULL ? lora__fail_memory(e, LORA__HASH_CHUNK_BYTES)
                            : LORA_OK;
}

static void hash_walk_end(hash_walk *w)
{
    lora__free(w->container->context, w->chunk, LORA__HASH_CHUNK_BYTES,
               LORA__ALIGN);
}

static lora_status hash_walk_progress(const hash_walk *w, lora_error *error)
{
    return w->total == 0 ? LORA_OK
                         : lora__progress(w->container->context, "hash",
                                          w->done, w->total, error);
}

/* Hash a range of one tensor's bytes. */
static lora_status hash_walk_data(
    hash_walk *w, size_t index, uint64_t begin, uint64_t end, lora_error *error)
{
    const unsigned char *view = lora__container_view(w->container, index);

    while (begin < end) {
        uint64_t left = end - begin;
        size_t step = left < LORA__HASH_CHUNK_BYTES ? (size_t)left
                                                    : LORA__HASH_CHUNK_BYTES;
        if (view == NULL) {
            TRY(lora__container_read(w->container, index, begin, w->chunk, step,
                                     error));
        }
        lora__sha256_update(&w->sha, view == NULL ? w->chunk : view + begin,
                            step);
        begin += step;
        w->done += step;
        TRY(hash_walk_progress(w, error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__hash_tensors(char out[LORA__HASH_TEXT],
                                            const lora__container *container,
                                            lora__hash_order order,
                                            int described,
                                            lora_error *error)
{
    lora__out_tensor *list;
    lora__arena arena;
    hash_walk walk;
    lora_status status;

    lora__arena_init(&arena, container->context);
    TRY_OR_DONE(hash_walk_begin(&walk, container, error));
    TRY_OR_DONE(hash_list(&list, &arena, container, order, error));
    for (size_t i = 0; i < container->entry_count; i++) {
        walk.total += container->entries[i].bytes;
    }
    TRY_OR_DONE(hash_walk_progress(&walk, error)); /* a new walk begins at 0 */
    for (size_t i = 0; i < container->entry_count; i++) {
        const lora__entry *entry = &container->entries[list[i].id];
        if (described) {
            lora__hash_describe(&walk.sha, entry);
        }
        TRY_OR_DONE(hash_walk_data(&walk, list[i].id, 0, entry->bytes, error));
    }
    lora__hash_finish(out, &walk.sha, 64);
done:
    hash_walk_end(&walk);
    lora__arena_destroy(&arena);
    return status;
}

LORA_PRIVATE lora_status lora__hash_find_order(lora__hash_order *out,
                                               const char *stored,
                                               const lora__container *container,
                                               lora_error *error)
{
    static const lora__hash_order orders[] = {LORA__HASH_WRITER,
                                              LORA__HASH_NAME};
    char text[LORA__HASH_TEXT];

    *out = LORA__HASH_FILE;
    for (size_t i = 0; *out == LORA__HASH_FILE && i < LORA__COUNT(orders);
         i++) {
        TRY(lora__hash_tensors(text, container, orders[i], 0, error));
        *out = strcmp(stored, text) == 0 ? orders[i] : LORA__HASH_FILE;
    }
    return LORA_OK;
}

/* kohya hashes a file that has only its own entries. */
static lora_status hash_own_metadata(lora__metadata **out,
                                     size_t *out_count,
                                     lora__arena *arena,
                                     const lora__container *container,
                                     lora_error *error)
{
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, container->metadata_count,
                           sizeof **out, error));
    *out = memory;
    *out_count = 0;
    for (size_t i = 0; i < container->metadata_count; i++) {
        if (strncmp(container->metadata[i].key, "ss_", 3) == 0) {
            (*out)[(*out_count)++] = container->metadata[i];
        }
    }
    return LORA_OK;
}

/* The window of the file with this header and these tensors. */
static lora_status hash_window(hash_walk *walk,
                               const lora__buffer *header,
                               const lora__out_tensor *list,
                               size_t count,
                               lora_error *error)
{
    uint64_t at = header->bytes; /* where a tensor begins in that file */

    lora__hash_range(&walk->sha, (const unsigned char *)header->data, 0,
                     header->bytes, LORA__HASH_WINDOW_BEGIN,
                     LORA__HASH_WINDOW_END);
    for (size_t i = 0; i < count && at < LORA__HASH_WINDOW_END; i++) {
        uint64_t bytes = list[i].bytes;
        uint64_t begin =
            at < LORA__HASH_WINDOW_BEGIN ? LORA__HASH_WINDOW_BEGIN - at : 0;
        uint64_t end = LORA__HASH_WINDOW_END - at;
        if (begin < bytes) {
            TRY(hash_walk_data(walk, list[i].id, begin,
                               end < bytes ? end : bytes, error));
        }
        at += bytes;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__hash_legacy(char out[LORA__HASH_SHORT],
                                           const lora__container *container,
                                           lora_error *error)
{
    size_t count = container->entry_count;
    lora__out_tensor *list;
    lora__metadata *metadata;
    size_t metadata_count;
    uint64_t data_bytes;
    lora__buffer header;
    lora__arena arena;
    hash_walk walk;
    lora_status status;

    lora__buffer_init(&header, container->context);
    lora__arena_init(&arena, container->context);
    TRY_OR_DONE(hash_walk_begin(&walk, container, error));
    TRY_OR_DONE(hash_list(&list, &arena, container, LORA__HASH_WRITER, error));
    TRY_OR_DONE(hash_own_metadata(&metadata, &metadata_count, &arena, container,
                                  error));
    TRY_OR_DONE(lora__safetensors_put_header(
        &header, &data_bytes, list, count, metadata, metadata_count, 0, error));
    TRY_OR_DONE(hash_window(&walk, &header, list, count, error));
    lora__hash_finish(out, &walk.sha, 8);
done:
    hash_walk_end(&walk);
    lora__arena_destroy(&arena);
    lora__buffer_destroy(&header);
    return status;
}
