/* Model cards. */
#include "adapter/card.h"

#include "core/text.h"

#include <string.h>

/* Tags, and values of other lists, that are kept. */
#define CARD_MAX_ITEMS 64

/* A run of bytes of the card. */
typedef struct card_slice {
    const char *at;
    size_t bytes;
} card_slice;

typedef struct card_reader {
    const char *at;
    const char *end;
    lora__arena *arena;
    lora_error *error;
    const char *items[CARD_MAX_ITEMS]; /* the value that was read last */
    size_t item_count;
} card_reader;

/* ---- lines ------------------------------------------------------------- */

/* The next line, without its end; 0 at the end of the text. */
static int card_line(card_slice *out, card_reader *r)
{
    const char *end;

    if (r->at == r->end) {
        return 0;
    }
    end = memchr(r->at, '\n', (size_t)(r->end - r->at));
    out->at = r->at;
    out->bytes = (size_t)((end == NULL ? r->end : end) - r->at);
    r->at = end == NULL ? r->end : end + 1;
    if (out->bytes > 0 && out->at[out->bytes - 1] == '\r') {
        out->bytes--;
    }
    return 1;
}

static int card_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static card_slice card_trim(card_slice s)
{
    while (s.bytes > 0 && card_is_blank(s.at[0])) {
        s.at++;
        s.bytes--;
    }
    while (s.bytes > 0 && card_is_blank(s.at[s.bytes - 1])) {
        s.bytes--;
    }
    return s;
}

static int card_is(card_slice s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

/* 1 if the line goes on with the value before it: blank, indented, or an item
 * of a list, which may stand at the margin. */
static int card_goes_on(card_slice line)
{
    return line.bytes == 0 || card_is_blank(line.at[0]) ||
           (line.at[0] == '-' && (line.bytes == 1 || line.at[1] == ' '));
}

/* The YAML between the two marks; 0 if there is none. */
static int card_find_front(card_reader *r, const char *text, size_t bytes)
{
    const char *begin;
    card_slice line;

    r->at = text;
    r->end = text + bytes;
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        r->at += 3;
    }
    if (!card_line(&line, r) || !card_is(card_trim(line), "---")) {
        return 0;
    }
    begin = r->at;
    while (card_line(&line, r)) {
        if (card_is(line, "---") || card_is(line, "...")) {
            r->end = line.at;
            r->at = begin;
            return lora__text_is_utf8(begin, (size_t)(r->end - begin)) &&
                   memchr(begin, '\0', (size_t)(r->end - begin)) == NULL;
        }
    }
    return 0;
}

/* ---- scalars ----------------------------------------------------------- */

/* Bytes of a quoted text with its quotes; 0 if it does not end. */
static size_t card_quoted_bytes(card_slice s)
{
    for (size_t i = 1; i < s.bytes; i++) {
        if (s.at[0] == '"' && s.at[i] == '\\') {
            i++;
        } else if (s.at[i] == s.at[0]) {
            if (s.at[0] == '"' || i + 1 == s.bytes || s.at[i + 1] != '\'') {
                return i + 1;
            }
            i++; /* '' is one quote */
        }
    }
    return 0;
}

/* Take the quotes and escapes off; `out` has room for all. The escapes of
 * other characters, which no tool writes for UTF-8, stay as they are. */
static size_t card_unquote(char *out, card_slice s)
{
    size_t n = 0;

    for (size_t i = 1; i + 1 < s.bytes; i++) {
        char c = s.at[i];
        if (s.at[0] == '\'' && c == '\'') {
            i++;
        } else if (s.at[0] == '"' && c == '\\') {
            char next = s.at[i + 1];
            if (next == '"' || next == '\\' || next == '/') {
                c = next;
                i++;
            } else if (next == 'n' || next == 't' || next == ' ') {
                c = ' ';
                i++;
            }
        }
        out[n++] = c;
    }
    return n;
}

/* A plain text ends before a comment. */
static card_slice card_plain(card_slice s)
{
    for (size_t i = 0; i < s.bytes; i++) {
        if (s.at[i] == '#' && (i == 0 || card_is_blank(s.at[i - 1]))) {
            s.bytes = i;
        }
    }
    return card_trim(s);
}

/* 1 if a plain text is text: not null, and of no form that is not read here. */
static int card_is_text(card_slice s)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};

    for (size_t i = 0; i < LORA__COUNT(nulls); i++) {
        if (card_is(s, nulls[i])) {
            return 0;
        }
    }
    if (strchr("{}[],&*!|>%@`", s.at[0]) != NULL) {
        return 0;
    }
    for (size_t i = 0; i < s.bytes; i++) {
        if (s.at[i] == ':' && (i + 1 == s.bytes || s.at[i + 1] == ' ')) {
            return 0; /* a map */
        }
    }
    return 1;
}

/* Add a text to the value; what cannot be read is left out. */
static lora_status card_add(card_reader *r, card_slice s)
{
    char *text;
    size_t n;

    s = card_trim(s);
    if (s.bytes > 0 && (s.at[0] == '"' || s.at[0] == '\'')) {
        s.bytes = card_quoted_bytes(s);
    } else {
        s = card_plain(s);
        s.bytes = s.bytes > 0 && card_is_text(s) ? s.bytes : 0;
    }
    if (s.bytes == 0 || r->item_count == CARD_MAX_ITEMS) {
        return LORA_OK;
    }
    text = lora__arena_alloc(r->arena, s.bytes + 1);
    if (text == NULL) {
        return lora__fail_memory(r->error, s.bytes);
    }
    if (s.at[0] == '"' || s.at[0] == '\'') {
        n = card_unquote(text, s);
    } else {
        memcpy(text, s.at, s.bytes);
        n = s.bytes;
    }
    text[n] = '\0';
    if (n > 0) {
        r->items[r->item_count++] = text;
    }
    return LORA_OK;
}

/* ---- values ------------------------------------------------------------ */

/* [one, "two"] */
static lora_status card_add_flow(card_reader *r, card_slice s)
{
    s.at++;
    s.bytes--;
    while (s.bytes > 0) {
        card_slice item = s = card_trim(s);
        size_t skip = 0;

        if (s.bytes > 0 && (s.at[0] == '"' || s.at[0] == '\'')) {
            skip = card_quoted_bytes(s);
        }
        while (skip < s.bytes && s.at[skip] != ',' && s.at[skip] != ']') {
            skip++;
        }
        item.bytes = skip;
        TRY(card_add(r, item));
        if (skip == s.bytes || s.at[skip] == ']') {
            return LORA_OK;
        }
        s.at += skip + 1;
        s.bytes -= skip + 1;
    }
    return LORA_OK;
}

/* Where the lines end that go on with what was read last. */
static const char *card_value_end(const card_reader *r)
{
    card_reader ahead = *r;
    const char *end = r->at;
    card_slice line;

    while (card_line(&line, &ahead) && card_goes_on(line)) {
        end = ahead.at;
    }
    return end;
}

/* 1 if a quoted text goes on in the next line without a space: its end is
 * escaped, by a backslash that is not escaped itself. */
static int card_is_cut(const char *text, size_t bytes)
{
    size_t n = bytes;

    while (n > 0 && text[n - 1] == '\\') {
        n--;
    }
    return bytes > 0 && text[0] == '"' && (bytes - n) % 2 == 1;
}

/* Add the lines to `end` to a value, with spaces between. */
static lora_status card_join(card_slice *value, card_reader *r, const char *end)
{
    size_t n = value->bytes;
    char *text = lora__arena_alloc(r->arena, n + 1 + (size_t)(end - r->at));
    card_slice line;

    if (text == NULL) {
        return lora__fail_memory(r->error, n);
    }
    memcpy(text, value->at, n);
    while (r->at < end && card_line(&line, r)) {
        line = card_trim(line);
        if (line.bytes > 0) {
            if (card_is_cut(text, n)) {
                n--;
            } else {
                text[n++] = ' '; /* there was a line's end */
            }
            memcpy(text + n, line.at, line.bytes);
            n += line.bytes;
        }
    }
    value->at = text;
    value->bytes = n;
    return LORA_OK;
}

static size_t card_indent(card_slice line)
{
    size_t n = 0;

    while (n < line.bytes && line.at[n] == ' ') {
        n++;
    }
    return n;
}

/* 1 if the line is an item of a list at that margin. */
static int card_is_item(card_slice line, size_t indent)
{
    return card_indent(line) == indent && line.bytes > indent + 1 &&
           line.at[indent] == '-' && line.at[indent + 1] == ' ';
}

/* A list, an item on a line, which the lines up to the next item go on with. */
static lora_status card_add_lines(card_reader *r, const char *end)
{
    size_t indent = SIZE_MAX;
    card_slice line;

    while (r->at < end && card_line(&line, r)) {
        card_reader ahead = *r;
        const char *item_end = r->at;
        card_slice item;

        indent = indent == SIZE_MAX && card_trim(line).bytes > 0
                     ? card_indent(line)
                     : indent;
        if (!card_is_item(line, indent)) {
            continue;
        }
        item.at = line.at + indent + 1;
        item.bytes = line.bytes - indent - 1;
        item = card_trim(item);
        while (ahead.at < end && card_line(&line, &ahead) &&
               !card_is_item(line, indent)) {
            item_end = ahead.at;
        }
        TRY(card_join(&item, r, item_end));
        TRY(card_add(r, item));
    }
    return LORA_OK;
}

/* The value after "key:", into the reader's items. */
static lora_status card_value(card_reader *r, card_slice value, const char *end)
{
    r->item_count = 0;
    value = card_trim(value);
    if (value.bytes == 0 || value.at[0] == '#') {
        return card_add_lines(r, end);
    }
    if (value.at[0] == '|' || value.at[0] == '>') {
        value.bytes = 0; /* its text is on the lines that follow, as it is */
        TRY(card_join(&value, r, end));
        value = card_trim(value);
        return value.bytes == 0
                   ? LORA_OK
                   : lora__arena_string(&r->items[r->item_count++], r->arena,
                                        value.at, value.bytes, r->error);
    }
    TRY(card_join(&value, r, end));
    return value.at[0] == '[' ? card_add_flow(r, value) : card_add(r, value);
}

/* ---- the card ---------------------------------------------------------- */

static lora_status
card_keep(lora__card *card, card_reader *r, card_slice key, card_slice value)
{
    const char *end = card_value_end(r);
    const char **one = card_is(key, "base_model") ? &card->base_model
                       : card_is(key, "instance_prompt")
                           ? &card->instance_prompt
                       : card_is(key, "license") ? &card->license
                                                 : NULL;

    if (one == NULL && !card_is(key, "tags")) {
        r->at = end;
        return LORA_OK;
    }
    TRY(card_value(r, value, end));
    if (r->item_count == 0) {
        return LORA_OK;
    }
    if (one != NULL) {
        *one = *one == NULL ? r->items[0] : *one;
    } else if (card->tags == NULL) {
        void *tags;
        TRY(lora__arena_zeroed(&tags, r->arena, r->item_count,
                               sizeof *card->tags, r->error));
        memcpy(tags, r->items, r->item_count * sizeof *card->tags);
        card->tags = tags;
        card->tag_count = r->item_count;
    }
    return LORA_OK;
}

/* Bytes before the colon of "key: value" at the margin; 0 if it is none. */
static size_t card_key_bytes(card_slice line)
{
    for (size_t i = 0; i < line.bytes && !card_goes_on(line); i++) {
        if (line.at[i] == ':' &&
            (i + 1 == line.bytes || card_is_blank(line.at[i + 1]))) {
            return i;
        }
    }
    return 0;
}

LORA_PRIVATE lora_status lora__card_parse(const lora__card **out,
                                          lora__arena *arena,
                                          const char *text,
                                          size_t bytes,
                                          lora_error *error)
{
    card_reader r;
    card_slice line;
    void *memory;

    *out = NULL;
    memset(&r, 0, sizeof r);
    r.arena = arena;
    r.error = error;
    if (!card_find_front(&r, text, bytes)) {
        return LORA_OK;
    }
    TRY(lora__arena_zeroed(&memory, arena, 1, sizeof **out, error));
    while (card_line(&line, &r)) {
        size_t key_bytes = card_key_bytes(line);
        if (key_bytes > 0) {
            card_slice key = {line.at, key_bytes};
            card_slice value = {line.at + key_bytes + 1,
                                line.bytes - key_bytes - 1};
            TRY(card_keep(memory, &r, key, value));
        }
    }
    *out = memory;
    return LORA_OK;
}
