/* Arenas: chunks of growing size, freed together. */
#include "core/arena.h"

#include <string.h>

/* A new chunk is at least this large, then as large as all before it, up to
 * 1 MiB, so that small objects stay small and large ones take few chunks. What
 * would not fit has a chunk of its own, which does not count. */
#define ARENA_FIRST_CHUNK 1024
#define ARENA_LAST_CHUNK ((size_t)1 << 20)

struct lora__arena_chunk {
    struct lora__arena_chunk *next;
    size_t size; /* with this header */
    size_t used;
    size_t usual; /* what the size is if nothing larger is asked for */
};

#define ARENA_HEADER                                                           \
    ((sizeof(struct lora__arena_chunk) + LORA__ALIGN - 1) / LORA__ALIGN *      \
     LORA__ALIGN)

LORA_PRIVATE void lora__arena_init(lora__arena *arena, lora_context *context)
{
    arena->context = context;
    arena->chunks = NULL;
}

LORA_PRIVATE void lora__arena_destroy(lora__arena *arena)
{
    while (arena->chunks != NULL) {
        struct lora__arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        lora__free(arena->context, chunk, chunk->size, LORA__ALIGN);
    }
}

static int arena_add_chunk(lora__arena *arena, size_t bytes)
{
    size_t usual = ARENA_FIRST_CHUNK;
    size_t size;
    size_t needed;
    struct lora__arena_chunk *chunk;

    if (!lora__add_size(bytes, ARENA_HEADER, &needed)) {
        return 0;
    }
    if (arena->chunks != NULL) {
        usual = arena->chunks->usual * 2;
        usual = usual < ARENA_LAST_CHUNK ? usual : ARENA_LAST_CHUNK;
    }
    size = usual < needed ? needed : usual;
    chunk = lora__alloc(arena->context, size, LORA__ALIGN);
    if (chunk == NULL) {
        return 0;
    }
    chunk->next = arena->chunks;
    chunk->size = size;
    chunk->used = ARENA_HEADER;
    chunk->usual = usual;
    arena->chunks = chunk;
    return 1;
}

LORA_PRIVATE void *lora__arena_alloc(lora__arena *arena, size_t bytes)
{
    size_t rounded;
    void *block;

    if (!lora__add_size(bytes, LORA__ALIGN - 1, &rounded)) {
        return NULL;
    }
    rounded -= rounded % LORA__ALIGN;
    if (arena->chunks == NULL ||
        arena->chunks->size - arena->chunks->used < rounded) {
        if (!arena_add_chunk(arena, rounded)) {
            return NULL;
        }
    }
    block = (unsigned char *)arena->chunks + arena->chunks->used;
    arena->chunks->used += rounded;
    return block;
}

LORA_PRIVATE lora_status lora__arena_zeroed(void **out,
                                            lora__arena *arena,
                                            size_t count,
                                            size_t bytes,
                                            lora_error *error)
{
    size_t total;

    if (!lora__mul_size(count, bytes, &total)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    *out = lora__arena_alloc(arena, total == 0 ? 1 : total);
    if (*out == NULL) {
        return lora__fail_memory(error, total);
    }
    memset(*out, 0, total);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__arena_grow(void **items,
                                          size_t *capacity,
                                          lora__arena *arena,
                                          size_t count,
                                          size_t item_bytes,
                                          lora_error *error)
{
    size_t wanted;
    void *grown;

    if (count <= *capacity) {
        return LORA_OK;
    }
    TRY(lora__grow_capacity(&wanted, *capacity, count, error));
    TRY(lora__arena_zeroed(&grown, arena, wanted, item_bytes, error));
    if (*capacity > 0) {
        memcpy(grown, *items, *capacity * item_bytes);
    }
    *items = grown;
    *capacity = wanted;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__arena_string(const char **out,
                                            lora__arena *arena,
                                            const char *text,
                                            size_t bytes,
                                            lora_error *error)
{
    char *copy = NULL;
    size_t room;

    if (lora__add_size(bytes, 1, &room)) {
        copy = lora__arena_alloc(arena, room);
    }
    if (copy == NULL) {
        return lora__fail_memory(error, bytes);
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    *out = copy;
    return LORA_OK;
}
