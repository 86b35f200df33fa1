/* UTF-8, patterns, and the ends of strings. */
#include "core/text.h"

#include <stdio.h>
#include <string.h>

/* Length of the well-formed sequence at `text`, or 0 (Unicode table 3-7). */
static size_t text_utf8_sequence(const unsigned char *text, size_t bytes)
{
    unsigned char lead = text[0];
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    size_t length;

    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length > bytes) {
        return 0;
    }
    switch (lead) {
    case 0xE0:
        low = 0xA0; /* no overlong forms */
        break;
    case 0xED:
        high = 0x9F; /* no surrogates */
        break;
    case 0xF0:
        low = 0x90;
        break;
    case 0xF4:
        high = 0x8F; /* not above U+10FFFF */
        break;
    default:
        break;
    }
    if (text[1] < low || text[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length;
}

LORA_PRIVATE int lora__text_is_utf8(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;

    while (i < bytes) {
        uint64_t word;
        size_t length;

        /* Eight ASCII bytes at a time: names and metadata mostly are. */
        if (bytes - i >= 8) {
            memcpy(&word, p + i, 8);
            if ((word & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        length = text_utf8_sequence(p + i, bytes - i);
        if (length == 0) {
            return 0;
        }
        i += length;
    }
    return 1;
}

/* On a mismatch only the last '*' is tried again, one byte further: earlier
 * ones can stay where they are, so the time is bounded by the product of the
 * lengths. */
LORA_PRIVATE int lora__text_matches(const char *pattern, const char *text)
{
    const char *star = NULL;
    const char *star_text = NULL;

    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            star_text = text;
        } else if (*pattern == '?' || *pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++star_text;
        } else {
            return 0;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

LORA_PRIVATE int
lora__text_begins(const char *text, size_t bytes, const char *part)
{
    size_t length = strlen(part);

    return bytes >= length && memcmp(text, part, length) == 0;
}

LORA_PRIVATE int
lora__text_ends(const char *text, size_t bytes, const char *part)
{
    size_t length = strlen(part);

    return bytes >= length && memcmp(text + bytes - length, part, length) == 0;
}

LORA_PRIVATE void lora__text_put_shape(char out[LORA__TEXT_SHAPE],
                                       const int64_t *shape,
                                       int32_t ndim)
{
    size_t used = 0;

    out[0] = '\0';
    for (int32_t d = 0; d < ndim && used < LORA__TEXT_SHAPE - 20; d++) {
        used += (size_t)snprintf(out + used, LORA__TEXT_SHAPE - used, "%s%lld",
                                 d == 0 ? "" : "x", (long long)shape[d]);
    }
}
