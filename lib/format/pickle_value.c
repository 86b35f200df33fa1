/* Looking at the values of a pickle. */
#include "format/pickle.h"

#include <string.h>

LORA_PRIVATE lora__pickle_cursor
lora__pickle_items_of(const lora__pickle_value *value)
{
    lora__pickle_cursor cursor = {NULL, 0};

    if (value != NULL && value->type >= LORA__PICKLE_TUPLE) {
        cursor.items = value->as.node->first;
    }
    return cursor;
}

LORA_PRIVATE const lora__pickle_value *
lora__pickle_next(lora__pickle_cursor *cursor)
{
    const lora__pickle_items *items = cursor->items;
    const lora__pickle_value *value;

    if (items == NULL) {
        return NULL;
    }
    value = &items->values[cursor->index++];
    if (cursor->index == items->count) {
        cursor->items = items->next;
        cursor->index = 0;
    }
    return value;
}

LORA_PRIVATE const lora__pickle_value *
lora__pickle_item(const lora__pickle_value *value, size_t index)
{
    lora__pickle_cursor cursor = lora__pickle_items_of(value);

    while (cursor.items != NULL && index >= cursor.items->count) {
        index -= cursor.items->count;
        cursor.items = cursor.items->next;
    }
    cursor.index = index;
    return lora__pickle_next(&cursor);
}

LORA_PRIVATE int lora__pickle_is_text(const lora__pickle_value *value,
                                      const char *text)
{
    return value != NULL && value->type == LORA__PICKLE_TEXT &&
           value->text_bytes == strlen(text) &&
           memcmp(value->as.text, text, value->text_bytes) == 0;
}

LORA_PRIVATE int lora__pickle_is_global(const lora__pickle_value *value,
                                        const char *module,
                                        const char *name)
{
    return value != NULL && value->type == LORA__PICKLE_GLOBAL &&
           lora__pickle_is_text(lora__pickle_item(value, 0), module) &&
           lora__pickle_is_text(lora__pickle_item(value, 1), name);
}
