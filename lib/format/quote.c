/* Names in messages. */
#include "format/quote.h"

#include "core/text.h"

#include <string.h>

LORA_PRIVATE void
lora__quote(char *out, size_t room, const char *name, size_t bytes)
{
    int ascii = !lora__text_is_utf8(name, bytes); /* only that much is sure */

    if (bytes >= room) {
        bytes = room - 1;
        while (bytes > 0 && ((unsigned char)name[bytes] & 0xC0u) == 0x80u) {
            bytes--; /* not into the middle of a character */
        }
    }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        out[i] = c < 0x20 || c == 0x7F || (ascii && c >= 0x80) ? '?' : name[i];
    }
    out[bytes] = '\0';
}

LORA_PRIVATE lora_status lora__fail_named(lora_error *error,
                                          lora_status status,
                                          uint64_t offset,
                                          const char *path,
                                          const char *kind,
                                          const char *name,
                                          size_t name_bytes,
                                          const char *what)
{
    char shown[121];

    lora__quote(shown, sizeof shown, name, name_bytes);
    if (path[0] == '\0') {
        return lora__fail(error, status, offset, shown, "%s", what);
    }
    return lora__fail(error, status, offset, path, "%s \"%s\": %s", kind, shown,
                      what);
}
