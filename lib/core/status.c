/* Status names and the error record. */
#include "core/status.h"

#include "platform/file.h"

#include <stdio.h>
#include <string.h>

LORA_API void lora_error_init(lora_error *error, size_t size)
{
    if (error != NULL && size >= sizeof error->struct_size) {
        memset(error, 0, size);
        error->struct_size = size;
        if (size >= sizeof *error) {
            error->offset = LORA_NO_OFFSET;
        }
    }
}

LORA_API const char *lora_status_name(lora_status status)
{
    static const struct {
        lora_status status;
        const char *name;
    } names[] = {
        {LORA_OK, "OK"},
        {LORA_ERROR_ARGUMENT, "ARGUMENT"},
        {LORA_ERROR_STATE, "STATE"},
        {LORA_ERROR_RANGE, "RANGE"},
        {LORA_ERROR_UNSUPPORTED, "UNSUPPORTED"},
        {LORA_ERROR_OPTION, "OPTION"},
        {LORA_ERROR_MEMORY, "MEMORY"},
        {LORA_ERROR_IO, "IO"},
        {LORA_ERROR_LIMIT, "LIMIT"},
        {LORA_ERROR_THREAD, "THREAD"},
        {LORA_ERROR_FORMAT, "FORMAT"},
        {LORA_ERROR_TRUNCATED, "TRUNCATED"},
        {LORA_ERROR_DTYPE, "DTYPE"},
        {LORA_ERROR_SHAPE, "SHAPE"},
        {LORA_ERROR_KEY, "KEY"},
        {LORA_ERROR_DUPLICATE, "DUPLICATE"},
        {LORA_ERROR_NONFINITE, "NONFINITE"},
        {LORA_ERROR_CONVERGENCE, "CONVERGENCE"},
        {LORA_ERROR_CANCELLED, "CANCELLED"},
        {LORA_ERROR_INTERNAL, "INTERNAL"},
    };

    for (size_t i = 0; i < LORA__COUNT(names); i++) {
        if (names[i].status == status) {
            return names[i].name;
        }
    }
    return "UNKNOWN";
}

/* A record we may write to: set up, and of this release or a later one. */
static int error_is_usable(const lora_error *error)
{
    return error != NULL && error->struct_size >= sizeof *error;
}

LORA_PRIVATE void lora__error_begin(lora_error *error)
{
    if (error_is_usable(error)) {
        lora_error_init(error, error->struct_size);
    }
}

/* Keep the tail: the end of a path or of a tensor name tells more. */
static void error_copy_subject(lora_error *error, const char *subject)
{
    size_t bytes = strlen(subject);
    size_t room = sizeof error->subject - 1;

    if (bytes > room) {
        subject += bytes - room;
        while (((unsigned char)*subject & 0xC0u) == 0x80u) {
            subject++; /* not into the middle of a character */
        }
        bytes = strlen(subject);
    }
    memcpy(error->subject, subject, bytes + 1);
}

LORA_PRIVATE lora_status lora__fail(lora_error *error,
                                    lora_status status,
                                    uint64_t offset,
                                    const char *subject,
                                    const char *format,
                                    ...)
{
    va_list args;

    if (!error_is_usable(error) || error->status != LORA_OK) {
        return status;
    }
    error->status = status;
    error->offset = offset;
    error_copy_subject(error, subject == NULL ? "" : subject);
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return status;
}

LORA_PRIVATE lora_status lora__fail_memory(lora_error *error, uint64_t bytes)
{
    return lora__fail(error, LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL,
                      "no memory for %llu bytes", (unsigned long long)bytes);
}

LORA_PRIVATE lora_status lora__fail_os(lora_error *error,
                                       int32_t os_error,
                                       const char *subject,
                                       const char *what)
{
    char text[128];
    int first = error_is_usable(error) && error->status == LORA_OK;

    lora__os_message(text, sizeof text, os_error);
    lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, subject, "%s: %s", what,
               text);
    if (first) {
        error->os_error = os_error;
    }
    return LORA_ERROR_IO;
}

LORA_PRIVATE void lora__error_set_subject(lora_error *error,
                                          const char *subject)
{
    if (error_is_usable(error) && error->status != LORA_OK &&
        error->subject[0] == '\0') {
        error_copy_subject(error, subject);
    }
}

LORA_PRIVATE lora_status lora__error_merge(lora_error *error,
                                           const lora_error *from)
{
    if (error_is_usable(error) && error->status == LORA_OK) {
        size_t size = error->struct_size;
        memcpy(error, from, sizeof *error);
        error->struct_size = size;
    }
    return from->status;
}
