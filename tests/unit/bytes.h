/* Files of bytes that are made a piece at a time. */
#ifndef TEST_BYTES_H
#define TEST_BYTES_H

#include "containers.h"

/* What reading a file of strangers may answer. */
static inline int is_refusal(lora_status status)
{
    return status == LORA_ERROR_FORMAT || status == LORA_ERROR_TRUNCATED ||
           status == LORA_ERROR_LIMIT || status == LORA_ERROR_DUPLICATE;
}

typedef struct bytes {
    unsigned char *data;
    size_t count;
    size_t capacity;
} bytes;

static inline void put(bytes *b, const void *data, size_t count)
{
    if (b->count + count > b->capacity) {
        b->capacity = 2 * (b->count + count) + 64;
        b->data = realloc(b->data, b->capacity);
        assert_non_null(b->data);
    }
    if (count > 0) {
        memcpy(b->data + b->count, data, count);
    }
    b->count += count;
}

/* A string literal, which may have NULs in it. */
#define PUT(b, literal) put(b, literal, sizeof(literal) - 1)

static inline void put_number(bytes *b, uint64_t value, size_t count)
{
    unsigned char text[8];

    put_length(text, value);
    put(b, text, count);
}

/* The bytes as a blob of just their size; the builder is empty then. */
static inline blob take(bytes *b)
{
    blob made = blob_of(b->data, b->count);

    free(b->data);
    memset(b, 0, sizeof *b);
    return made;
}

#endif
