/* No malloc: all memory comes from one block that the caller owns.
 *
 *     ./arena file.safetensors [KIB]
 *
 * The library gives free and realloc the size of the block, so blocks need no
 * headers: what is free is a list, sorted by address, within the free memory
 * itself. For one thread.
 */
#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIT ((size_t)64) /* the strictest alignment that is asked for */

typedef struct piece {
    struct piece *next;
    size_t size;
} piece;

#define ROUND_UP(size) (((size) + UNIT - 1) / UNIT * UNIT)

/* The first piece that is large enough. */
static void *arena_alloc(void *user, size_t size, size_t align)
{
    piece **at = user;
    size_t need = ROUND_UP(size);
    piece *found;

    (void)align;
    while (*at != NULL && ((*at)->size < need || need < size)) {
        at = &(*at)->next;
    }
    found = *at;
    if (found != NULL && found->size > need) {
        piece *rest = (void *)((char *)found + need);

        rest->next = found->next;
        rest->size = found->size - need;
        *at = rest;
    } else if (found != NULL) {
        *at = found->next;
    }
    return found; /* NULL makes the library answer LORA_ERROR_MEMORY */
}

/* Back into the list, joined with its neighbours. */
static void arena_free(void *user, void *block, size_t size, size_t align)
{
    piece **at = user;
    piece *before = NULL;
    piece *back = block;

    (void)align;
    for (; *at != NULL && *at < back; at = &(*at)->next) {
        before = *at;
    }
    back->size = ROUND_UP(size);
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
}

static void *arena_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = arena_alloc(user, new_size, align);

    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        arena_free(user, block, old_size, align);
    }
    return moved;
}

static _Alignas(64) unsigned char memory[64 << 20];

int main(int argc, char **argv)
{
    piece *all = (void *)memory;
    size_t bytes = argc == 3 ? (size_t)atoi(argv[2]) * 1024 : sizeof memory;
    lora_allocator allocator = {sizeof allocator, &all, arena_alloc,
                                arena_realloc, arena_free};
    lora_rank_rule rule = {LORA_RANK_ENERGY, 0, 0.9};
    lora_context_options options;
    lora_context *context = NULL;
    lora_adapter *adapter = NULL;
    lora_adapter *small = NULL;
    lora_error error;
    int done;

    if (argc < 2 || argc > 3 || bytes < UNIT || bytes > sizeof memory) {
        fputs("usage: arena FILE [KIB]\n", stderr);
        return 2;
    }
    all->next = NULL;
    all->size = bytes;
    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    done = lora_context_create(&context, &options, &error) == LORA_OK &&
           lora_adapter_open(&adapter, context, argv[1], NULL, &error) ==
               LORA_OK &&
           lora_adapter_resize(&small, NULL, adapter, &rule, NULL, &error) ==
               LORA_OK;
    printf("%s, %llu bytes at most\n", done ? "done" : error.message,
           (unsigned long long)lora_context_memory_peak(context));
    lora_adapter_destroy(small);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    if (all != (void *)memory || all->size != bytes) {
        puts("memory was lost");
        return 3;
    }
    return done ? 0 : 1;
}
