/* Growing byte buffers. */
#include "core/buffer.h"

#include "core/text.h"

#include <stdio.h>
#include <string.h>

LORA_PRIVATE void lora__buffer_init(lora__buffer *buffer, lora_context *c)
{
    memset(buffer, 0, sizeof *buffer);
    buffer->context = c;
}

LORA_PRIVATE void lora__buffer_destroy(lora__buffer *buffer)
{
    if (buffer->data != NULL) {
        lora__free(buffer->context, buffer->data, buffer->capacity,
                   LORA__ALIGN);
    }
    lora__buffer_init(buffer, buffer->context);
}

LORA_PRIVATE void lora__buffer_clear(lora__buffer *buffer)
{
    buffer->bytes = 0;
    if (buffer->data != NULL) {
        buffer->data[0] = '\0';
    }
}

static int buffer_grow(lora__buffer *buffer, size_t bytes)
{
    size_t needed;
    size_t capacity = buffer->capacity == 0 ? 256 : buffer->capacity;
    void *data;

    if (buffer->failed) {
        return 0;
    }
    if (!lora__add_size(buffer->bytes, bytes, &needed) ||
        !lora__add_size(needed, 1, &needed)) {
        buffer->failed = 1;
        return 0;
    }
    while (capacity < needed) {
        capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    }
    data = buffer->data == NULL
               ? lora__alloc(buffer->context, capacity, LORA__ALIGN)
               : lora__realloc(buffer->context, buffer->data, buffer->capacity,
                               capacity, LORA__ALIGN);
    if (data == NULL) {
        buffer->failed = 1;
        return 0;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 1;
}

/* Room for `bytes` more and the final NUL: as a rule it is there. */
static int buffer_reserve(lora__buffer *buffer, size_t bytes)
{
    return (!buffer->failed && bytes < buffer->capacity - buffer->bytes) ||
           buffer_grow(buffer, bytes);
}

LORA_PRIVATE void
lora__buffer_append(lora__buffer *buffer, const void *data, size_t bytes)
{
    if (!buffer_reserve(buffer, bytes)) {
        return;
    }
    if (bytes > 0) {
        memcpy(buffer->data + buffer->bytes, data, bytes);
    }
    buffer->bytes += bytes;
    buffer->data[buffer->bytes] = '\0';
}

LORA_PRIVATE void lora__buffer_puts(lora__buffer *buffer, const char *text)
{
    lora__buffer_append(buffer, text, strlen(text));
}

LORA_PRIVATE void lora__buffer_putc(lora__buffer *buffer, char c)
{
    lora__buffer_append(buffer, &c, 1);
}

/* Most texts fit into the room there is, and are printed once. */
LORA_PRIVATE void
lora__buffer_printf(lora__buffer *buffer, const char *format, ...)
{
    size_t room = buffer->capacity - buffer->bytes;
    char *place = room == 0 ? NULL : buffer->data + buffer->bytes;
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(place, room, format, args);
    va_end(args);
    if (length >= 0 && (size_t)length >= room &&
        buffer_reserve(buffer, (size_t)length)) {
        room = buffer->capacity - buffer->bytes;
        va_start(args, format);
        vsnprintf(buffer->data + buffer->bytes, room, format, args);
        va_end(args);
    }
    if (length < 0 || (size_t)length >= room) {
        buffer->failed = 1; /* or has been */
        length = 0;
    }
    buffer->bytes += (size_t)length;
    if (buffer->data != NULL) {
        buffer->data[buffer->bytes] = '\0';
    }
}

LORA_PRIVATE void lora__buffer_whole(lora__buffer *buffer, uint32_t value)
{
    char text[10];
    size_t at = sizeof text;

    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    lora__buffer_append(buffer, text + at, sizeof text - at);
}

static void buffer_put_number(lora__buffer *buffer,
                              double value,
                              size_t (*put)(char *out, double value))
{
    char text[40];

    if (value - value == 0.0) {
        lora__buffer_append(buffer, text, put(text, value));
    } else {
        lora__buffer_puts(buffer, "null");
    }
}

LORA_PRIVATE void lora__buffer_number(lora__buffer *buffer, double value)
{
    buffer_put_number(buffer, value, lora__text_from_double);
}

LORA_PRIVATE void lora__buffer_measured(lora__buffer *buffer, double value)
{
    buffer_put_number(buffer, value, lora__text_from_measured);
}

LORA_PRIVATE lora_status lora__buffer_status(const lora__buffer *buffer,
                                             lora_error *error)
{
    return buffer->failed ? lora__fail_memory(error, buffer->capacity)
                          : LORA_OK;
}
