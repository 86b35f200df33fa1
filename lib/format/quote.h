/* Names that came from a file, in messages: they may be long, unprintable or
 * not terminated.
 */
#ifndef LORA__FORMAT_QUOTE_H
#define LORA__FORMAT_QUOTE_H

#include "core/status.h"

/* Copy a name to be shown, cut to what has `room`, which is not 0; '?' stands
 * for controls, and for what is not UTF-8. */
LORA_PRIVATE void
lora__quote(char *out, size_t room, const char *name, size_t bytes);

/* lora__fail() about something named within a file, such as a "record". The
 * name goes into the message; where the file has no path it is the subject. */
LORA_PRIVATE lora_status lora__fail_named(lora_error *error,
                                          lora_status status,
                                          uint64_t offset,
                                          const char *path,
                                          const char *kind,
                                          const char *name,
                                          size_t name_bytes,
                                          const char *what);

#endif
