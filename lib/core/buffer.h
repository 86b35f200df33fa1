/* A growing byte buffer for text. Failure sticks: append without looking,
 * check `failed` (or lora__buffer_status) once at the end.
 */
#ifndef LORA__CORE_BUFFER_H
#define LORA__CORE_BUFFER_H

#include "core/context.h"

typedef struct lora__buffer {
    lora_context *context;
    char *data; /* NUL-terminated once anything was appended */
    size_t bytes;
    size_t capacity;
    int failed;
} lora__buffer;

LORA_PRIVATE void lora__buffer_init(lora__buffer *buffer, lora_context *c);
LORA_PRIVATE void lora__buffer_destroy(lora__buffer *buffer);

/* Forget the content, keep the memory. */
LORA_PRIVATE void lora__buffer_clear(lora__buffer *buffer);

LORA_PRIVATE void
lora__buffer_append(lora__buffer *buffer, const void *data, size_t bytes);
LORA_PRIVATE void lora__buffer_puts(lora__buffer *buffer, const char *text);
LORA_PRIVATE void lora__buffer_putc(lora__buffer *buffer, char c);

/* printf without floating point (its text depends on the locale). */
LORA_PRIVATE void lora__buffer_printf(lora__buffer *buffer,
                                      const char *format,
                                      ...) LORA__PRINTF(2, 3);

/* A whole number in decimal: printf takes ten times as long. */
LORA_PRIVATE void lora__buffer_whole(lora__buffer *buffer, uint32_t value);

/* Shortest decimal text that reads back as the same double, in any locale;
 * NaN and infinities as null. */
LORA_PRIVATE void lora__buffer_number(lora__buffer *buffer, double value);

/* A measured number, of 12 digits. */
LORA_PRIVATE void lora__buffer_measured(lora__buffer *buffer, double value);

LORA_PRIVATE lora_status lora__buffer_status(const lora__buffer *buffer,
                                             lora_error *error);

#endif
