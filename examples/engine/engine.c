/* An engine that keeps its memory and its files to itself: an allocator hook
 * that counts, and an adapter that is read from memory.
 */
#include "lora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t engine_live; /* bytes */

static void *engine_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    engine_live += size;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void engine_free(void *user, void *block, size_t size, size_t align)
{
    (void)user;
    (void)align;
    engine_live -= block ? size : 0;
    free(block);
}

static void *engine_realloc(
    void *user, void *old, size_t old_size, size_t size, size_t align)
{
    void *block = engine_alloc(user, size, align);

    if (block && old) {
        memcpy(block, old, old_size < size ? old_size : size);
        engine_free(user, old, old_size, align);
    }
    return block;
}

/* A safetensors file without tensors: header length, then the header. */
static const unsigned char engine_asset[] = "\x08\0\0\0\0\0\0\0{}      ";

int main(void)
{
    lora_allocator allocator = {sizeof allocator, NULL, engine_alloc,
                                engine_realloc, engine_free};
    lora_context_options options;
    lora_context *context = NULL;
    lora_adapter *adapter = NULL;
    lora_error error;
    int failed = 1;

    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    if (lora_context_create(&context, &options, &error) == LORA_OK &&
        lora_adapter_open_memory(&adapter, context, engine_asset,
                                 sizeof engine_asset - 1, NULL,
                                 &error) == LORA_OK) {
        printf("%zu modules, %zu bytes live\n",
               lora_adapter_module_count(adapter), engine_live);
        failed = 0;
    } else {
        fprintf(stderr, "%s\n", error.message);
    }
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    return failed || engine_live != 0;
}
