/* Small questions about text, none of them locale-dependent. */
#ifndef LORA__CORE_TEXT_H
#define LORA__CORE_TEXT_H

#include "core/status.h"

/* 1 if the bytes are well-formed UTF-8. */
LORA_PRIVATE int lora__text_is_utf8(const char *text, size_t bytes);

/* 1 if `text` matches `pattern`: '*' is any run, '?' one byte. */
LORA_PRIVATE int lora__text_matches(const char *pattern, const char *text);

/* 1 if `text` (of `bytes`) begins / ends with the NUL-terminated `part`. */
LORA_PRIVATE int
lora__text_begins(const char *text, size_t bytes, const char *part);
LORA_PRIVATE int
lora__text_ends(const char *text, size_t bytes, const char *part);

/* Read a JSON-style decimal number, in any locale. *out_used is the number of
 * bytes read; 0 if there is no number. Correctly rounded. */
LORA_PRIVATE double
lora__text_to_double(const char *text, size_t bytes, size_t *out_used);

/* A shape as "640x320x3x3", for messages; one that is too long is cut off. */
#define LORA__TEXT_SHAPE 120
LORA_PRIVATE void lora__text_put_shape(char out[LORA__TEXT_SHAPE],
                                       const int64_t *shape,
                                       int32_t ndim);

/* Shortest decimal text that reads back as `value`; at least 32 bytes.
 * Returns the length. */
LORA_PRIVATE size_t lora__text_from_double(char *out, double value);

/* A measured number: 12 digits of a finite `value`, the last of them within 1,
 * at a tenth of the cost; at least 32 bytes. Returns the length. */
LORA_PRIVATE size_t lora__text_from_measured(char *out, double value);

#endif
