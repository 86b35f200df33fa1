/* A strict, bounded JSON pull reader, and writing helpers.
 *
 * RFC 8259 with nothing added: no comments, no trailing commas, no NaN, no
 * lone surrogates, no duplicate check (the caller's). Depth is bounded. The
 * reader does not allocate: strings are returned raw and decoded on demand.
 */
#ifndef LORA__FORMAT_JSON_H
#define LORA__FORMAT_JSON_H

#include "core/buffer.h"

#define LORA__JSON_MAX_DEPTH 64

typedef enum lora__json_type {
    LORA__JSON_END = 0, /* after the one value */
    LORA__JSON_OBJECT_BEGIN,
    LORA__JSON_OBJECT_END,
    LORA__JSON_ARRAY_BEGIN,
    LORA__JSON_ARRAY_END,
    LORA__JSON_KEY,
    LORA__JSON_STRING,
    LORA__JSON_NUMBER,
    LORA__JSON_TRUE,
    LORA__JSON_FALSE,
    LORA__JSON_NULL
} lora__json_type;

typedef struct lora__json {
    const char *text;
    size_t bytes;
    size_t position;
    uint64_t base_offset; /* added to positions in errors */
    uint32_t max_depth;
    uint32_t depth;
    uint8_t stack[LORA__JSON_MAX_DEPTH]; /* '{' or '[' */
    int state;                           /* what may come next */
} lora__json;

typedef struct lora__json_event {
    lora__json_type type;
    const char *text; /* raw: string content without quotes, number text */
    size_t bytes;
    int escaped;     /* string has escapes */
    uint64_t offset; /* absolute, of the first byte */
} lora__json_event;

LORA_PRIVATE void lora__json_init(lora__json *json,
                                  const char *text,
                                  size_t bytes,
                                  uint64_t base_offset,
                                  uint32_t max_depth);

LORA_PRIVATE lora_status lora__json_next(lora__json_event *out,
                                         lora__json *json,
                                         lora_error *error);

/* Skip the value that `event`, just read, began; after a key, its value. */
LORA_PRIVATE lora_status lora__json_skip(lora__json *json,
                                         const lora__json_event *event,
                                         lora_error *error);

/* Go on at a position past the value that comes next, which the caller has read
 * without us. */
LORA_PRIVATE void lora__json_pass(lora__json *json, size_t position);

/* Decode a string event into memory of at least event->bytes + 1 bytes;
 * NUL-terminated. May be the place where the raw string lies: decoding never
 * makes it longer, and the NUL then replaces the closing quote, which the
 * reader is past. A decoded string can have a NUL inside. */
LORA_PRIVATE lora_status lora__json_decode(char *out,
                                           size_t *out_bytes,
                                           const lora__json_event *event,
                                           lora_error *error);

/* A number event as an unsigned integer: FORMAT unless it is one that fits.*/
LORA_PRIVATE lora_status lora__json_u64(uint64_t *out,
                                        const lora__json_event *event,
                                        lora_error *error);

/* Append a quoted, escaped string: controls, quotes and backslashes only;
 * other UTF-8 as it is. The same bytes as Rust's serde_json writes. */
LORA_PRIVATE void lora__json_put_string(lora__buffer *out, const char *text);

/* Append "key": with a comma before it unless it is the first member, that
 * is, unless the buffer ends with '{' or is empty. */
LORA_PRIVATE void lora__json_put_key(lora__buffer *out, const char *key);

#endif
