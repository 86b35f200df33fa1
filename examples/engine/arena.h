/* The engine's memory: one fixed block, and nothing else. */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H

#include "lora.h"

#include <pthread.h>

/* What is free, as a list within the free memory itself, sorted by address. */
typedef struct arena_piece {
    struct arena_piece *next;
    size_t size;
} arena_piece;

typedef struct arena {
    pthread_mutex_t lock; /* jobs of several threads allocate */
    arena_piece *pieces;
    size_t used;
    size_t peak;
} arena;

/* `block` is aligned to 64, `bytes` a multiple of it. 0 if it fails. */
int arena_begin(arena *a, void *block, size_t bytes);
void arena_end(arena *a);

void *arena_take(arena *a, size_t bytes);
void arena_give(arena *a, void *block, size_t bytes); /* NULL is fine */

/* The hooks of the library, on this arena. */
lora_allocator arena_allocator(arena *a);

#endif
