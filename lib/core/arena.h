/* An arena: many small blocks that live and die together.
 *
 * Immutable objects keep their names and tables in one, so that building them
 * needs no clean-up per piece. Not safe for several threads at once.
 */
#ifndef LORA__CORE_ARENA_H
#define LORA__CORE_ARENA_H

#include "core/context.h"

typedef struct lora__arena {
    lora_context *context;
    struct lora__arena_chunk *chunks;
} lora__arena;

LORA_PRIVATE void lora__arena_init(lora__arena *arena, lora_context *context);
LORA_PRIVATE void lora__arena_destroy(lora__arena *arena);

/* Uninitialised memory, 16-byte aligned; NULL on failure. */
LORA_PRIVATE void *lora__arena_alloc(lora__arena *arena, size_t bytes);

/* count * bytes, zeroed; fills in the error. */
LORA_PRIVATE lora_status lora__arena_zeroed(void **out,
                                            lora__arena *arena,
                                            size_t count,
                                            size_t bytes,
                                            lora_error *error);

/* Make room in a growing table, as lora__grow does. The table that was outgrown
 * stays in the arena: all of them together are below twice the last. */
LORA_PRIVATE lora_status lora__arena_grow(void **items,
                                          size_t *capacity,
                                          lora__arena *arena,
                                          size_t count,
                                          size_t item_bytes,
                                          lora_error *error);

/* A NUL-terminated copy of `bytes` bytes; fills in the error. */
LORA_PRIVATE lora_status lora__arena_string(const char **out,
                                            lora__arena *arena,
                                            const char *text,
                                            size_t bytes,
                                            lora_error *error);

#endif
