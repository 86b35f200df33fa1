/* Pickles, read into plain values; nothing in them is ever called.
 *
 * A pickle is a program for a stack machine. This one knows the operations of
 * protocols 2 to 5 that torch.save and its like write, and makes values that
 * refer to the pickle's own bytes. A global is only a pair of names, and a
 * "call" only an object that holds what would be called and with what; globals
 * that no checkpoint has any business with are refused by name. Time and memory
 * are linear in the pickle's length: every operation makes at most one value,
 * and values are shared, never copied. Values may refer to themselves: whoever
 * walks them bounds the depth.
 */
#ifndef LORA__FORMAT_PICKLE_H
#define LORA__FORMAT_PICKLE_H

#include "core/arena.h"

typedef enum lora__pickle_type {
    LORA__PICKLE_MARK = 0, /* never seen outside */
    LORA__PICKLE_NONE,
    LORA__PICKLE_BOOL,    /* integer is 0 or 1 */
    LORA__PICKLE_INTEGER, /* that fits 64 bits */
    LORA__PICKLE_TEXT,    /* str; not terminated, perhaps not UTF-8 */
    LORA__PICKLE_OTHER,   /* float, bytes, large integer: not kept */
    /* With items: */
    LORA__PICKLE_TUPLE,
    LORA__PICKLE_LIST,
    LORA__PICKLE_DICT,       /* key, value, key, value ... */
    LORA__PICKLE_GLOBAL,     /* module, name: TEXT */
    LORA__PICKLE_PERSISTENT, /* its id */
    LORA__PICKLE_OBJECT /* what to call or NONE, arguments, what was added */
} lora__pickle_type;

typedef struct lora__pickle_value {
    uint32_t type;       /* lora__pickle_type */
    uint32_t text_bytes; /* of a TEXT */
    union {
        int64_t integer;
        const char *text;
        struct lora__pickle_node *node; /* of what has items */
    } as;
} lora__pickle_value;

/* Items come in as many pieces as they were added in. */
typedef struct lora__pickle_items {
    struct lora__pickle_items *next;
    size_t count;
    lora__pickle_value values[];
} lora__pickle_items;

typedef struct lora__pickle_node {
    uint64_t offset; /* of the operation that made it */
    lora__pickle_items *first;
    lora__pickle_items *last;
} lora__pickle_node;

typedef struct lora__pickle {
    lora__pickle_value root;
    lora__pickle_value persistent; /* LIST of every PERSISTENT value */
    size_t bytes;                  /* of the pickle, to its end */
} lora__pickle;

/* Read the pickle that begins the text and perhaps ends before it. Values lie
 * in the arena and refer to the text. `offset` is where the text lies in the
 * file, or LORA_NO_OFFSET. TRUNCATED if the text ends first. */
LORA_PRIVATE lora_status lora__pickle_read(lora__pickle *out,
                                           lora__arena *arena,
                                           const void *text,
                                           size_t bytes,
                                           uint64_t offset,
                                           const char *path,
                                           lora_error *error);

/* 1 if checkpoints name this global, so that reading past it is in order. */
LORA_PRIVATE int lora__pickle_knows(const char *module, const char *name);

/* Walk through the items of a value; NULL at the end, and at once where it has
 * none or is NULL itself. */
typedef struct lora__pickle_cursor {
    const lora__pickle_items *items;
    size_t index;
} lora__pickle_cursor;

LORA_PRIVATE lora__pickle_cursor
lora__pickle_items_of(const lora__pickle_value *value);
LORA_PRIVATE const lora__pickle_value *
lora__pickle_next(lora__pickle_cursor *cursor);

/* One item, or NULL if there are not so many, or no items at all. */
LORA_PRIVATE const lora__pickle_value *
lora__pickle_item(const lora__pickle_value *value, size_t index);

/* 1 if it is this text, or the global "module.name". NULL is neither. */
LORA_PRIVATE int lora__pickle_is_text(const lora__pickle_value *value,
                                      const char *text);
LORA_PRIVATE int lora__pickle_is_global(const lora__pickle_value *value,
                                        const char *module,
                                        const char *name);

#endif
