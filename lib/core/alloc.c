/* The default allocator, on malloc: the only file that may call it.
 *
 * malloc aligns to 16 on the platforms we know. For more, a block is made
 * larger and the address malloc gave is kept just before the aligned one.
 */
#include "core/alloc.h"
#include "core/integer.h"

#include <stdlib.h>
#include <string.h>

#define ALLOC_NATURAL 16

static void *alloc_aligned(size_t size, size_t align)
{
    size_t room;
    unsigned char *raw;
    unsigned char *block;

    if (!lora__add_size(size, align + sizeof(void *), &room)) {
        return NULL;
    }
    raw = malloc(room);
    if (raw == NULL) {
        return NULL;
    }
    block = raw + sizeof(void *);
    block += (align - (uintptr_t)block % align) % align;
    memcpy(block - sizeof(void *), &raw, sizeof(void *));
    return block;
}

static void alloc_free(void *user, void *block, size_t size, size_t align)
{
    void *raw = block;

    (void)user;
    (void)size;
    if (block != NULL && align > ALLOC_NATURAL) {
        memcpy(&raw, (unsigned char *)block - sizeof(void *), sizeof(void *));
    }
    free(raw);
}

static void *alloc_new(void *user, size_t size, size_t align)
{
    (void)user;
    return align > ALLOC_NATURAL ? alloc_aligned(size, align) : malloc(size);
}

static void *alloc_resize(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved;

    if (align <= ALLOC_NATURAL) {
        return realloc(block, new_size);
    }
    moved = alloc_aligned(new_size, align);
    if (moved != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        alloc_free(user, block, old_size, align);
    }
    return moved;
}

LORA_PRIVATE lora_allocator lora__alloc_default(void)
{
    lora_allocator allocator = {sizeof allocator, NULL, alloc_new, alloc_resize,
                                alloc_free};
    return allocator;
}
