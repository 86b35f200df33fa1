/* What the tests of containers share: memory that can run out, files in
 * memory, and a header that uses most of the format.
 */
#ifndef TEST_CONTAINERS_H
#define TEST_CONTAINERS_H

#include "format/container.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef TEST_PLAIN
#include "plain.h"
#else
#include <cmocka.h>
#endif

/* Memory that can run out ------------------------------------------------ */

typedef struct heap {
    size_t live;      /* blocks */
    size_t countdown; /* allocations until one fails; SIZE_MAX: never */
    int lasting;      /* and every later one */
} heap;

static inline int heap_fails(heap *h)
{
    if (h->countdown == SIZE_MAX) {
        return 0;
    }
    if (h->countdown > 0) {
        h->countdown--;
        return 0;
    }
    if (!h->lasting) {
        h->countdown = SIZE_MAX;
    }
    return 1;
}

/* The byte before a block says how far it is into what malloc gave. */
static inline void *heap_alloc(void *user, size_t size, size_t align)
{
    heap *h = user;
    unsigned char *block;
    size_t shift;

    assert_true(size > 0 && align <= 64);
    if (heap_fails(h)) {
        return NULL;
    }
    block = malloc(size + align);
    assert_non_null(block);
    shift = align - (uintptr_t)block % align;
    block += shift;
    block[-1] = (unsigned char)shift;
    memset(block, 0xA5, size);
    h->live++;
    return block;
}

static inline void heap_free(void *user, void *block, size_t size, size_t align)
{
    heap *h = user;
    unsigned char *bytes = block;

    assert_int_equal((uintptr_t)block % align, 0);
    memset(block, 0x5A, size);
    free(bytes - bytes[-1]);
    h->live--;
}

/* Always moves. */
static inline void *heap_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = heap_alloc(user, new_size, align);

    if (moved != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        heap_free(user, block, old_size, align);
    }
    return moved;
}

static inline lora_context *make_context(heap *h, const lora_limits *limits)
{
    lora_allocator allocator = {sizeof allocator, h, heap_alloc, heap_realloc,
                                heap_free};
    lora_context_options options;
    lora_context *context;

    memset(h, 0, sizeof *h);
    h->countdown = SIZE_MAX;
    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    options.limits = limits;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

static inline void end_context(heap *h, lora_context *context)
{
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    assert_int_equal(h->live, 0);
}

/* Files in memory -------------------------------------------------------- */

typedef struct blob {
    unsigned char *data;
    size_t bytes;
} blob;

/* Blocks have just their size, so that a sanitizer sees any byte read beyond
 * them. */
static inline blob blob_of(const void *data, size_t bytes)
{
    blob b = {malloc(bytes == 0 ? 1 : bytes), bytes};

    assert_non_null(b.data);
    if (bytes > 0) {
        memcpy(b.data, data, bytes);
    }
    return b;
}

static inline void put_length(unsigned char *out, uint64_t length)
{
    for (size_t i = 0; i < 8; i++) {
        out[i] = (unsigned char)(length >> (8 * i));
    }
}

static inline blob
make_file(const char *header, size_t header_bytes, size_t data_bytes)
{
    blob b = {malloc(8 + header_bytes + data_bytes),
              8 + header_bytes + data_bytes};

    assert_non_null(b.data);
    put_length(b.data, header_bytes);
    memcpy(b.data + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) {
        b.data[8 + header_bytes + i] = (unsigned char)(i + 1);
    }
    return b;
}

static inline lora_status open_blob(lora__container **out,
                                    lora_context *context,
                                    const blob *b,
                                    const char *path,
                                    lora_error *error)
{
    lora_reader reader;
    lora_status status;

    if (error != NULL) {
        lora_error_init(error, sizeof *error);
    }
    status =
        lora__reader_open_memory(&reader, context, b->data, b->bytes, error);
    return status == LORA_OK
               ? lora__container_open(out, context, &reader, path, error)
               : status;
}

/* What a reader does with an accepted file must not go wrong either. */
static inline void touch(const lora__container *c)
{
    unsigned char byte;

    for (size_t i = 0; i < c->entry_count; i++) {
        const lora__entry *e = &c->entries[i];
        size_t found;

        assert_int_equal(strlen(e->name), e->name_bytes);
        assert_true(
            lora__map_find(&found, &c->by_name, e->name, e->name_bytes));
        assert_int_equal(found, i);
        assert_non_null(lora__container_view(c, i));
        if (e->bytes > 0) {
            assert_int_equal(
                lora__container_read(c, i, e->bytes - 1, &byte, 1, NULL),
                LORA_OK);
        }
    }
    for (size_t i = 0; i < c->metadata_count; i++) {
        const char *value = lora__container_metadata(c, c->metadata[i].key);
        assert_ptr_equal(value, c->metadata[i].value);
    }
}

/* Headers ---------------------------------------------------------------- */

/* A tensor of four bytes at the begin of the data. */
#define E4 "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"

#define GOOD                                                                   \
    "{\"__metadata__\":{\"z\":\"1\",\"a\\u00e9\":\"line\\n\",\"\":\"empty\"}," \
    "\"late\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[14,17]},"      \
    "\"m\\u0041\\\"\":{\"shape\":[2,1,3],\"extra\":{\"x\":[1,{\"y\":null}]},"  \
    "\"data_offsets\":[2,14],\"dtype\":\"BF16\"},"                             \
    "\"none\":{\"dtype\":\"F64\",\"shape\":[4,0,5],\"data_offsets\":[2,2]},"   \
    "\"four\":{\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[0,2]},"      \
    "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[17,25]},"    \
    "\"also none\":{\"dtype\":\"F6_E2M3\",\"shape\":[0],"                      \
    "\"data_offsets\":[25,25]}}   "
#define GOOD_DATA 25

/* xorshift64: the same numbers everywhere. */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
