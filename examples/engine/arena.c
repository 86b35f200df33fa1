/* First fit. The library gives free and realloc the size of the block, so that
 * blocks need no headers.
 */
#include "arena.h"

#include <string.h>

#define UNIT ((size_t)64) /* the strictest alignment that is asked for */
#define ROUND_UP(size) (((size) + !(size) + UNIT - 1) / UNIT * UNIT)

int arena_begin(arena *a, void *block, size_t bytes)
{
    a->pieces = block;
    a->pieces->next = NULL;
    a->pieces->size = bytes;
    a->used = 0;
    a->peak = 0;
    return pthread_mutex_init(&a->lock, NULL) == 0;
}

void arena_end(arena *a)
{
    pthread_mutex_destroy(&a->lock);
}

/* Cut a block off a piece, or take the piece whole. */
static void *cut(arena_piece **at, size_t need)
{
    arena_piece *found = *at;

    if (found->size > need) {
        arena_piece *rest = (void *)((char *)found + need);

        rest->next = found->next;
        rest->size = found->size - need;
        *at = rest;
    } else {
        *at = found->next;
    }
    return found;
}

void *arena_take(arena *a, size_t bytes)
{
    size_t need = ROUND_UP(bytes);
    arena_piece **at;
    void *block = NULL;

    if (need < bytes) {
        return NULL;
    }
    pthread_mutex_lock(&a->lock);
    at = &a->pieces;
    while (*at != NULL && (*at)->size < need) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        block = cut(at, need);
        a->used += need;
        a->peak = a->used > a->peak ? a->used : a->peak;
    }
    pthread_mutex_unlock(&a->lock);
    return block; /* NULL makes the library answer LORA_ERROR_MEMORY */
}

/* Back into the list, joined with its neighbours. */
void arena_give(arena *a, void *block, size_t bytes)
{
    arena_piece *before = NULL;
    arena_piece *back = block;
    arena_piece **at = &a->pieces;

    if (block == NULL) {
        return;
    }
    pthread_mutex_lock(&a->lock);
    for (; *at != NULL && *at < back; at = &(*at)->next) {
        before = *at;
    }
    back->size = ROUND_UP(bytes);
    a->used -= back->size;
    back->next = *at;
    *at = back;
    if ((char *)back + back->size == (char *)back->next) {
        back->size += back->next->size;
        back->next = back->next->next;
    }
    if (before != NULL && (char *)before + before->size == (char *)back) {
        before->size += back->size;
        before->next = back->next;
    }
    pthread_mutex_unlock(&a->lock);
}

static void *hook_alloc(void *user, size_t size, size_t align)
{
    (void)align; /* all blocks are aligned to UNIT */
    return arena_take(user, size);
}

static void hook_free(void *user, void *block, size_t size, size_t align)
{
    (void)align;
    arena_give(user, block, size);
}

static void *hook_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = arena_take(user, new_size);

    (void)align;
    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        arena_give(user, block, old_size);
    }
    return moved;
}

lora_allocator arena_allocator(arena *a)
{
    lora_allocator allocator = {sizeof allocator, a, hook_alloc, hook_realloc,
                                hook_free};

    return allocator;
}
