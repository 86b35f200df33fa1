/* The strict JSON reader and the writing helpers; see json.h.
 *
 * The reader is a state machine over a stack of open brackets, so depth costs
 * no C stack. Every string it hands out was checked in full: escapes,
 * surrogates, controls and UTF-8.
 */
#include "format/json.h"

#include "core/text.h"

#include <string.h>

enum {
    JSON_WANT_VALUE,        /* at the start, after ':' or ',' in an array */
    JSON_WANT_FIRST_VALUE,  /* after '[': a value or ']' */
    JSON_WANT_FIRST_KEY,    /* after '{': a key or '}' */
    JSON_WANT_KEY,          /* after ',' in an object */
    JSON_WANT_COMMA_OR_END, /* after a value */
    JSON_WANT_NOTHING       /* the end was told */
};

LORA_PRIVATE void lora__json_init(lora__json *json,
                                  const char *text,
                                  size_t bytes,
                                  uint64_t base_offset,
                                  uint32_t max_depth)
{
    memset(json, 0, sizeof *json);
    json->text = text;
    json->bytes = bytes;
    json->base_offset = base_offset;
    json->max_depth =
        max_depth < LORA__JSON_MAX_DEPTH ? max_depth : LORA__JSON_MAX_DEPTH;
    json->state = JSON_WANT_VALUE;
}

static lora_status json_fail(const lora__json *json,
                             size_t position,
                             const char *what,
                             lora_error *error)
{
    return lora__fail(error, LORA_ERROR_FORMAT, json->base_offset + position,
                      NULL, "JSON: %s",
                      position < json->bytes ? what : "the text ends early");
}

static void json_skip_space(lora__json *json)
{
    while (json->position < json->bytes) {
        char c = json->text[json->position];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            return;
        }
        json->position++;
    }
}

/* Four hexadecimal digits; 1 if they are there. */
static int json_read_hex(uint32_t *out, const char *text, size_t bytes)
{
    uint32_t value = 0;

    if (bytes < 4) {
        return 0;
    }
    for (size_t i = 0; i < 4; i++) {
        uint32_t c = (unsigned char)text[i];
        uint32_t letter = c | 0x20;
        if (c >= '0' && c <= '9') {
            value = value * 16 + (c - '0');
        } else if (letter >= 'a' && letter <= 'f') {
            value = value * 16 + (letter - 'a' + 10);
        } else {
            return 0;
        }
    }
    *out = value;
    return 1;
}

/* What a backslash and a letter mean; 0 for \u and what is no escape. */
static uint32_t json_unescape(char letter)
{
    switch (letter) {
    case '"':
    case '\\':
    case '/':
        return (unsigned char)letter;
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return 0;
    }
}

/* Read the escape at `text`, which begins with a backslash. Returns its
 * length and the character, or 0 if it is none; a surrogate counts only as
 * the first of a proper pair. */
static size_t json_read_escape(uint32_t *out, const char *text, size_t bytes)
{
    uint32_t low;

    if (bytes < 2) {
        return 0;
    }
    *out = json_unescape(text[1]);
    if (*out != 0) {
        return 2;
    }
    if (text[1] != 'u' || !json_read_hex(out, text + 2, bytes - 2)) {
        return 0;
    }
    if (*out < 0xD800 || *out > 0xDFFF) {
        return 6;
    }
    if (*out > 0xDBFF || bytes < 12 || text[6] != '\\' || text[7] != 'u' ||
        !json_read_hex(&low, text + 8, bytes - 8) || low < 0xDC00 ||
        low > 0xDFFF) {
        return 0;
    }
    *out = 0x10000 + ((*out - 0xD800) << 10) + (low - 0xDC00);
    return 12;
}

/* Length of the run of bytes at `text` that are no quote, backslash or
 * control; *out_high gets bit 7 set if a byte of the run may have it.
 *
 * Eight bytes at a time: (x - 0x20) & ~x has bit 7 set in the lowest byte
 * that is below 0x20, and, through the borrow, only ever in bytes above such
 * a byte; the same with 1 finds zero bytes. So a word without any such bit
 * is clean, whatever the byte order. */
static size_t
json_plain_run(const char *text, size_t bytes, unsigned char *out_high)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t seen = 0;
    size_t n = 0;

    while (bytes - n >= 8) {
        uint64_t word, quote, slash;
        memcpy(&word, text + n, 8);
        quote = word ^ (ones * '"');
        slash = word ^ (ones * '\\');
        if ((((word - ones * 0x20) & ~word) | ((quote - ones) & ~quote) |
             ((slash - ones) & ~slash)) &
            (ones * 0x80)) {
            break;
        }
        seen |= word;
        n += 8;
    }
    *out_high |= (seen & (ones * 0x80)) != 0 ? 0x80 : 0;
    while (n < bytes) {
        unsigned char c = (unsigned char)text[n];
        if (c < 0x20 || c == '"' || c == '\\') {
            break;
        }
        *out_high |= c;
        n++;
    }
    return n;
}

/* The string whose opening quote is at the position. */
static lora_status
json_read_string(lora__json_event *out, lora__json *json, lora_error *error)
{
    const char *text = json->text;
    size_t begin = json->position + 1;
    size_t at = begin;
    unsigned char high = 0;

    for (;;) {
        uint32_t code;
        size_t used;

        at += json_plain_run(text + at, json->bytes - at, &high);
        if (at == json->bytes || text[at] == '"') {
            break;
        }
        if (text[at] != '\\') {
            return json_fail(json, at, "control character in a string", error);
        }
        used = json_read_escape(&code, text + at, json->bytes - at);
        if (used == 0) {
            return json_fail(json, at, "bad escape or lone surrogate", error);
        }
        out->escaped = 1;
        at += used;
    }
    if (at == json->bytes) {
        return json_fail(json, at, "string not closed", error);
    }
    if ((high & 0x80) && !lora__text_is_utf8(text + begin, at - begin)) {
        return json_fail(json, begin, "string is not UTF-8", error);
    }
    out->text = text + begin;
    out->bytes = at - begin;
    json->position = at + 1;
    return LORA_OK;
}

static size_t json_digits(const lora__json *json, size_t at)
{
    size_t begin = at;

    while (at < json->bytes && json->text[at] >= '0' && json->text[at] <= '9') {
        at++;
    }
    return at - begin;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? */
static lora_status
json_read_number(lora__json_event *out, lora__json *json, lora_error *error)
{
    const char *text = json->text;
    size_t begin = json->position;
    size_t at = begin + (text[begin] == '-');
    size_t digits = json_digits(json, at);

    if (digits == 0 || (digits > 1 && text[at] == '0')) {
        return json_fail(json, at, "malformed number", error);
    }
    at += digits;
    if (at < json->bytes && text[at] == '.') {
        digits = json_digits(json, ++at);
        if (digits == 0) {
            return json_fail(json, at, "malformed number", error);
        }
        at += digits;
    }
    if (at < json->bytes && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        at += at < json->bytes && (text[at] == '+' || text[at] == '-');
        digits = json_digits(json, at);
        if (digits == 0) {
            return json_fail(json, at, "malformed number", error);
        }
        at += digits;
    }
    out->type = LORA__JSON_NUMBER;
    out->text = text + begin;
    out->bytes = at - begin;
    json->position = at;
    return LORA_OK;
}

static lora_status
json_read_word(lora__json_event *out, lora__json *json, lora_error *error)
{
    static const struct {
        const char *word;
        lora__json_type type;
    } words[] = {
        {"true", LORA__JSON_TRUE},
        {"false", LORA__JSON_FALSE},
        {"null", LORA__JSON_NULL},
    };
    const char *rest = json->text + json->position;
    size_t left = json->bytes - json->position;

    for (size_t i = 0; i < LORA__COUNT(words); i++) {
        if (lora__text_begins(rest, left, words[i].word)) {
            out->type = words[i].type;
            out->text = rest;
            out->bytes = strlen(words[i].word);
            json->position += out->bytes;
            return LORA_OK;
        }
    }
    return json_fail(json, json->position, "a value was expected", error);
}

static lora_status
json_open(lora__json_event *out, lora__json *json, lora_error *error)
{
    char bracket = json->text[json->position];

    if (json->depth >= json->max_depth) {
        return json_fail(json, json->position, "nested too deeply", error);
    }
    json->stack[json->depth++] = (uint8_t)bracket;
    json->position++;
    out->type =
        bracket == '{' ? LORA__JSON_OBJECT_BEGIN : LORA__JSON_ARRAY_BEGIN;
    json->state = bracket == '{' ? JSON_WANT_FIRST_KEY : JSON_WANT_FIRST_VALUE;
    return LORA_OK;
}

static void json_close(lora__json_event *out, lora__json *json)
{
    json->depth--;
    out->type = json->stack[json->depth] == '{' ? LORA__JSON_OBJECT_END
                                                : LORA__JSON_ARRAY_END;
    json->position++;
    json->state = JSON_WANT_COMMA_OR_END;
}

static lora_status
json_read_value(lora__json_event *out, lora__json *json, lora_error *error)
{
    char c = json->text[json->position];

    if (c == '{' || c == '[') {
        return json_open(out, json, error);
    }
    if (c == ']' && json->state == JSON_WANT_FIRST_VALUE) {
        json_close(out, json);
        return LORA_OK;
    }
    json->state = JSON_WANT_COMMA_OR_END;
    if (c == '"') {
        out->type = LORA__JSON_STRING;
        return json_read_string(out, json, error);
    }
    if (c == '-' || (c >= '0' && c <= '9')) {
        return json_read_number(out, json, error);
    }
    return json_read_word(out, json, error);
}

/* A key and its colon, or the end of an object that has no members. */
static lora_status
json_read_key(lora__json_event *out, lora__json *json, lora_error *error)
{
    char c = json->text[json->position];

    if (c == '}' && json->state == JSON_WANT_FIRST_KEY) {
        json_close(out, json);
        return LORA_OK;
    }
    if (c != '"') {
        return json_fail(json, json->position, "a key was expected", error);
    }
    out->type = LORA__JSON_KEY;
    TRY(json_read_string(out, json, error));
    json_skip_space(json);
    if (json->position == json->bytes || json->text[json->position] != ':') {
        return json_fail(json, json->position, "':' was expected", error);
    }
    json->position++;
    json->state = JSON_WANT_VALUE;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__json_next(lora__json_event *out,
                                         lora__json *json,
                                         lora_error *error)
{
    memset(out, 0, sizeof *out);
    json_skip_space(json);
    if (json->state == JSON_WANT_COMMA_OR_END && json->depth > 0 &&
        json->position < json->bytes && json->text[json->position] == ',') {
        json->position++;
        json->state = json->stack[json->depth - 1] == '{' ? JSON_WANT_KEY
                                                          : JSON_WANT_VALUE;
        json_skip_space(json);
    }
    out->offset = json->base_offset + json->position;
    if (json->state == JSON_WANT_NOTHING ||
        (json->state == JSON_WANT_COMMA_OR_END && json->depth == 0)) {
        json->state = JSON_WANT_NOTHING;
        return json->position == json->bytes
                   ? LORA_OK
                   : json_fail(json, json->position, "text after the value",
                               error);
    }
    if (json->position == json->bytes) {
        return json_fail(json, json->position, "", error);
    }
    switch (json->state) {
    case JSON_WANT_VALUE:
    case JSON_WANT_FIRST_VALUE:
        return json_read_value(out, json, error);
    case JSON_WANT_FIRST_KEY:
    case JSON_WANT_KEY:
        return json_read_key(out, json, error);
    default:
        break;
    }
    /* '[' + 2 is ']', '{' + 2 is '}' in ASCII. */
    if (json->text[json->position] != json->stack[json->depth - 1] + 2) {
        return json_fail(json, json->position, "',' or a bracket was expected",
                         error);
    }
    json_close(out, json);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__json_skip(lora__json *json,
                                         const lora__json_event *event,
                                         lora_error *error)
{
    lora__json_event next = *event;
    uint32_t depth;

    if (next.type == LORA__JSON_KEY) {
        TRY(lora__json_next(&next, json, error));
    }
    if (next.type != LORA__JSON_OBJECT_BEGIN &&
        next.type != LORA__JSON_ARRAY_BEGIN) {
        return LORA_OK;
    }
    depth = json->depth;
    while (json->depth >= depth) {
        TRY(lora__json_next(&next, json, error));
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__json_pass(lora__json *json, size_t position)
{
    json->position = position;
    json->state = JSON_WANT_COMMA_OR_END;
}

/* UTF-8 of a code point; returns its length. */
static size_t json_put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | (code >> 6));
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | (code >> 12));
        out[1] = (char)(0x80 | ((code >> 6) & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (code >> 18));
    out[1] = (char)(0x80 | ((code >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((code >> 6) & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* An escape of 2, 6 or 12 bytes becomes at most 1, 3 or 4: the output never
 * overtakes the input, which is why `out` may be the raw string itself. */
LORA_PRIVATE lora_status lora__json_decode(char *out,
                                           size_t *out_bytes,
                                           const lora__json_event *event,
                                           lora_error *error)
{
    const char *in = event->text;
    size_t left = event->bytes;
    size_t n = 0;

    while (event->escaped && left > 0) {
        uint32_t code;
        size_t used;

        if (*in != '\\') {
            out[n++] = *in++;
            left--;
            continue;
        }
        used = json_read_escape(&code, in, left);
        INVARIANT(used != 0, error);
        n += json_put_utf8(out + n, code);
        in += used;
        left -= used;
    }
    memmove(out + n, in, left);
    n += left;
    out[n] = '\0';
    *out_bytes = n;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__json_u64(uint64_t *out,
                                        const lora__json_event *event,
                                        lora_error *error)
{
    uint64_t value = 0;
    int good = event->type == LORA__JSON_NUMBER;

    for (size_t i = 0; i < event->bytes && good; i++) {
        uint64_t digit = (uint64_t)(unsigned char)event->text[i] - '0';
        good = digit <= 9 && lora__mul_u64(value, 10, &value) &&
               lora__add_u64(value, digit, &value);
    }
    if (!good) {
        return lora__fail(error, LORA_ERROR_FORMAT, event->offset, NULL,
                          "JSON: a whole number from 0 to 2^64-1 was expected");
    }
    *out = value;
    return LORA_OK;
}

LORA_PRIVATE void lora__json_put_string(lora__buffer *out, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    static const char escaped[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    size_t left = strlen(text);

    lora__buffer_putc(out, '"');
    while (left > 0) {
        unsigned char high = 0;
        size_t run = json_plain_run(text, left, &high);

        lora__buffer_append(out, text, run);
        text += run;
        left -= run;
        if (left > 0) {
            const char *known = memchr(escaped, *text, sizeof escaped - 1);
            char code[6] = {'\\', 'u', '0', '0', '0', '0'};
            if (known != NULL) {
                code[1] = letters[known - escaped];
            } else {
                code[4] = hex[(unsigned char)*text >> 4];
                code[5] = hex[(unsigned char)*text & 15];
            }
            lora__buffer_append(out, code, known != NULL ? 2 : 6);
            text++;
            left--;
        }
    }
    lora__buffer_putc(out, '"');
}

LORA_PRIVATE void lora__json_put_key(lora__buffer *out, const char *key)
{
    if (out->bytes > 0 && out->data[out->bytes - 1] != '{') {
        lora__buffer_putc(out, ',');
    }
    lora__json_put_string(out, key);
    lora__buffer_putc(out, ':');
}
