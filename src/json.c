/* JSON: see json.h. */
#include "json.h"

#include "text.h"

#include <stdlib.h>
#include <string.h>

static int json_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static json_slice json_trim(json_slice text)
{
    while (text.bytes > 0 && json_is_space(text.at[0])) {
        text.at++;
        text.bytes--;
    }
    while (text.bytes > 0 && json_is_space(text.at[text.bytes - 1])) {
        text.bytes--;
    }
    return text;
}

json_slice json_whole(const char *text, size_t bytes)
{
    json_slice all = {text, bytes};
    return text != NULL ? json_trim(all) : all;
}

/* Bytes up to the separator that ends the value at the start of `text`: a
 * comma or closing bracket at depth 0, outside strings. With `colon`, up to
 * the colon after a key. */
static size_t json_extent(json_slice text, int colon)
{
    size_t depth = 0;
    int in_string = 0;
    for (size_t i = 0; i < text.bytes; i++) {
        char c = text.at[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = 0;
            }
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) {
                return i;
            }
            depth--;
        } else if (depth == 0 && (c == ',' || (colon && c == ':'))) {
            return i;
        }
    }
    return text.bytes;
}

json_walk json_enter(json_slice container)
{
    json_walk walk = {{NULL, 0}, 0};
    if (container.bytes >= 2 &&
        (container.at[0] == '{' || container.at[0] == '[')) {
        walk.is_object = container.at[0] == '{';
        walk.rest.at = container.at + 1;
        walk.rest.bytes = container.bytes - 2;
        walk.rest = json_trim(walk.rest);
    }
    return walk;
}

/* Cut `bytes` and the separator after them off the front of the rest. */
static json_slice json_cut(json_slice *rest, size_t bytes)
{
    json_slice part = {rest->at, bytes};
    size_t gone = bytes < rest->bytes ? bytes + 1 : rest->bytes;
    rest->at += gone;
    rest->bytes -= gone;
    *rest = json_trim(*rest);
    return json_trim(part);
}

int json_next(json_walk *walk, json_slice *key, json_slice *value)
{
    if (walk->rest.bytes == 0) {
        return 0;
    }
    if (walk->is_object) {
        json_slice name = json_cut(&walk->rest, json_extent(walk->rest, 1));
        if (key != NULL) {
            *key = name;
        }
    }
    *value = json_cut(&walk->rest, json_extent(walk->rest, 0));
    return 1;
}

json_slice json_member(json_slice object, const char *name)
{
    json_slice absent = {NULL, 0};
    json_slice key = absent;
    json_slice value;
    size_t bytes = strlen(name);
    json_walk walk = json_enter(object);
    while (walk.is_object && json_next(&walk, &key, &value)) {
        if (key.bytes == bytes + 2 && memcmp(key.at + 1, name, bytes) == 0) {
            return value;
        }
    }
    return absent;
}

static unsigned json_hex4(const char *at)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : 0;
        value = value * 16 + digit;
    }
    return value;
}

static size_t json_encode(char *out, unsigned code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

/* The escape after a backslash at at[0]; returns the bytes it takes and puts
 * its code into *code. */
static size_t json_unescape(const char *at, size_t bytes, unsigned *code)
{
    static const char plain[] = "bfnrt";
    static const char meaning[] = "\b\f\n\r\t";
    if (at[0] == 'u' && bytes >= 5) {
        *code = json_hex4(at + 1);
        if (*code >= 0xd800 && *code < 0xdc00 && bytes >= 11 && at[5] == '\\' &&
            at[6] == 'u') {
            unsigned low = json_hex4(at + 7);
            if (low >= 0xdc00 && low < 0xe000) {
                *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
                return 11;
            }
        }
        if (*code >= 0xd800 && *code < 0xe000) {
            *code = 0xfffd;
        }
        *code = *code == 0 ? 0xfffd : *code; /* our strings end at a zero */
        return 5;
    }
    const char *found = at[0] != '\0' ? strchr(plain, at[0]) : NULL;
    *code = found != NULL ? (unsigned char)meaning[found - plain]
                          : (unsigned char)at[0];
    return 1;
}

const char *json_text(char *buffer, size_t size, json_slice value)
{
    size_t used = 0;
    if (value.bytes >= 2 && value.at[0] == '"') {
        size_t end = value.bytes - 1;
        for (size_t i = 1; i < end && used + 5 < size;) {
            if (value.at[i] == '\\' && i + 1 < end) {
                unsigned code;
                i += 1 + json_unescape(value.at + i + 1, end - i - 1, &code);
                used += json_encode(buffer + used, code);
            } else {
                buffer[used++] = value.at[i++];
            }
        }
    }
    buffer[used] = '\0';
    return buffer;
}

double json_number(json_slice value)
{
    char text[64];
    if (value.at == NULL || value.bytes >= sizeof text) {
        return 0.0;
    }
    memcpy(text, value.at, value.bytes);
    text[value.bytes] = '\0';
    return strtod(text, NULL);
}

int json_is_true(json_slice value)
{
    return value.bytes == 4 && memcmp(value.at, "true", 4) == 0;
}

size_t json_count(json_slice container)
{
    size_t count = 0;
    json_slice value;
    json_walk walk = json_enter(container);
    while (json_next(&walk, NULL, &value)) {
        count++;
    }
    return count;
}

void json_put_string(FILE *out, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    putc('"', out);
    while (*at != '\0') {
        size_t bytes;
        if (*at == '"' || *at == '\\') {
            fprintf(out, "\\%c", *at++);
        } else if (*at < 0x20 || *at == 0x7f) {
            fprintf(out, "\\u%04x", *at++);
        } else if ((bytes = text_sequence(at)) > 0) {
            fwrite(at, 1, bytes, out);
            at += bytes;
        } else {
            fputs("\xef\xbf\xbd", out);
            at++;
        }
    }
    putc('"', out);
}
