/* The JSON reader, against a recogniser written from the grammar of RFC 8259
 * alone; and what it reads, written again.
 */
#include "fuzz.h"

#include "core/text.h"
#include "format/json.h"

const char fuzz_name[] = "json";

/* The grammar, rule by rule: each gives the end of what it matches, or NULL. */

static const char *rule_space(const char *p, const char *end)
{
    while (p < end && strchr(" \t\n\r", *p) != NULL && *p != '\0') {
        p++;
    }
    return p;
}

static const char *rule_word(const char *p, const char *end, const char *word)
{
    size_t bytes = strlen(word);

    return (size_t)(end - p) >= bytes && memcmp(p, word, bytes) == 0 ? p + bytes
                                                                     : NULL;
}

static const char *rule_digits(const char *p, const char *end)
{
    const char *start = p;

    while (p < end && *p >= '0' && *p <= '9') {
        p++;
    }
    return p > start ? p : NULL;
}

static const char *rule_number(const char *p, const char *end)
{
    const char *start;

    p += p < end && *p == '-';
    start = p;
    p = rule_digits(p, end);
    if (p == NULL || (*start == '0' && p > start + 1)) {
        return NULL;
    }
    if (p < end && *p == '.') {
        p = rule_digits(p + 1, end);
    }
    if (p != NULL && p < end && (*p == 'e' || *p == 'E')) {
        p++;
        p += p < end && (*p == '+' || *p == '-');
        p = rule_digits(p, end);
    }
    return p;
}

/* Four digits of an escape, or UINT32_MAX. */
static uint32_t rule_hex(const char *p, const char *end)
{
    uint32_t value = 0;

    for (int i = 0; i < 4; i++, p++) {
        const char *digits = "0123456789abcdef0123456789ABCDEF";
        const char *digit = p < end && *p != '\0' ? strchr(digits, *p) : NULL;

        if (digit == NULL) {
            return UINT32_MAX;
        }
        value = value * 16 + (uint32_t)(digit - digits) % 16;
    }
    return value;
}

static const char *rule_escape(const char *p, const char *end)
{
    uint32_t unit;

    if (p == end || *p == '\0') {
        return NULL;
    }
    if (*p != 'u') {
        return strchr("\"\\/bfnrt", *p) != NULL ? p + 1 : NULL;
    }
    unit = rule_hex(p + 1, end);
    if (unit == UINT32_MAX || (unit >= 0xDC00 && unit <= 0xDFFF)) {
        return NULL;
    }
    p += 5;
    if (unit < 0xD800 || unit > 0xDFFF) {
        return p;
    }
    p = rule_word(p, end, "\\u");
    unit = p == NULL ? 0 : rule_hex(p, end);
    return p != NULL && unit >= 0xDC00 && unit <= 0xDFFF ? p + 4 : NULL;
}

static const char *rule_string(const char *p, const char *end)
{
    const char *start = ++p;

    while (p != NULL && p < end && *p != '"') {
        if ((unsigned char)*p < 0x20) {
            return NULL;
        }
        p = *p == '\\' ? rule_escape(p + 1, end) : p + 1;
    }
    return p != NULL && p < end &&
                   lora__text_is_utf8(start, (size_t)(p - start))
               ? p + 1
               : NULL;
}

static const char *rule_value(const char *p, const char *end, uint32_t depth);

static const char *rule_list(const char *p, const char *end, uint32_t depth)
{
    char close = *p == '{' ? '}' : ']';

    p = rule_space(p + 1, end);
    if (p < end && *p == close) {
        return p + 1;
    }
    for (;;) {
        p = rule_space(p, end);
        if (close == '}') {
            p = p < end && *p == '"' ? rule_string(p, end) : NULL;
            p = p == NULL ? NULL : rule_space(p, end);
            p = p == NULL ? NULL : rule_word(p, end, ":");
        }
        p = p == NULL ? NULL : rule_value(p, end, depth);
        if (p == NULL || p == end || (*p != ',' && *p != close)) {
            return NULL;
        }
        if (*p++ == close) {
            return p;
        }
    }
}

/* With the space around it; nested at most `depth` deep. */
static const char *rule_value(const char *p, const char *end, uint32_t depth)
{
    p = rule_space(p, end);
    if (p == end) {
        return NULL;
    }
    switch (*p) {
    case '{':
    case '[':
        p = depth == 0 ? NULL : rule_list(p, end, depth - 1);
        break;
    case '"':
        p = rule_string(p, end);
        break;
    case 't':
        p = rule_word(p, end, "true");
        break;
    case 'f':
        p = rule_word(p, end, "false");
        break;
    case 'n':
        p = rule_word(p, end, "null");
        break;
    default:
        p = rule_number(p, end);
        break;
    }
    return p == NULL ? NULL : rule_space(p, end);
}

/* Strings -------------------------------------------------------------------
 */

/* Decode, write, read and decode again: the same. */
static void check_string(const lora__json_event *event, lora_context *context)
{
    char *text = malloc(event->bytes + 1);
    char *again;
    size_t bytes, got;
    lora__buffer out;
    lora__json json;
    lora__json_event copy;

    assert_non_null(text);
    assert_int_equal(lora__json_decode(text, &bytes, event, NULL), LORA_OK);
    assert_true(bytes <= event->bytes && text[bytes] == '\0');
    assert_true(lora__text_is_utf8(text, bytes));
    assert_true(event->escaped || (bytes == event->bytes &&
                                   memcmp(text, event->text, bytes) == 0));
    if (strlen(text) == bytes) { /* what is written ends at a NUL */
        lora__buffer_init(&out, context);
        lora__json_put_string(&out, text);
        lora__json_init(&json, out.data, out.bytes, 0, 1);
        assert_int_equal(lora__json_next(&copy, &json, NULL), LORA_OK);
        assert_int_equal(copy.type, LORA__JSON_STRING);
        again = malloc(copy.bytes + 1);
        assert_non_null(again);
        assert_int_equal(lora__json_decode(again, &got, &copy, NULL), LORA_OK);
        assert_int_equal(got, bytes);
        assert_memory_equal(again, text, bytes);
        free(again);
        lora__buffer_destroy(&out);
    }
    free(text);
}

static void check_number(const lora__json_event *event)
{
    const char *end = event->text + event->bytes;
    char text[24];
    uint64_t value;

    if (lora__json_u64(&value, event, NULL) == LORA_OK) {
        int bytes =
            snprintf(text, sizeof text, "%llu", (unsigned long long)value);

        assert_int_equal((size_t)bytes, event->bytes);
        assert_memory_equal(text, event->text, event->bytes);
    } else {
        /* no digits alone, or more than 64 bits */
        assert_true(event->bytes > 19 || rule_digits(event->text, end) != end);
    }
}

static int walk(const char *text, size_t bytes, lora_context *context)
{
    lora__json json;
    lora__json_event event = {0};
    lora_error error;
    uint64_t before = 0;

    lora_error_init(&error, sizeof error);
    lora__json_init(&json, text, bytes, 7, LORA__JSON_MAX_DEPTH);
    for (;;) {
        if (lora__json_next(&event, &json, &error) != LORA_OK) {
            assert_true(error.status == LORA_ERROR_FORMAT ||
                        error.status == LORA_ERROR_TRUNCATED);
            assert_true(error.offset >= 7 && error.offset <= 7 + bytes);
            return 0;
        }
        assert_true(event.offset >= before && event.offset <= 7 + bytes);
        before = event.offset;
        if (event.type == LORA__JSON_END) {
            return 1;
        }
        if (event.type == LORA__JSON_KEY || event.type == LORA__JSON_STRING) {
            check_string(&event, context);
        } else if (event.type == LORA__JSON_NUMBER) {
            check_number(&event);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *text = bytes == 0 ? "" : (const char *)data;
    lora__json json;
    lora__json_event event;
    heap memory;
    lora_context *context = make_context(&memory, NULL);
    int good = walk(text, bytes, context);

    assert_int_equal(good, rule_value(text, text + bytes,
                                      LORA__JSON_MAX_DEPTH) == text + bytes);
    lora__json_init(&json, text, bytes, 0, LORA__JSON_MAX_DEPTH);
    if (good) {
        assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
        assert_int_equal(lora__json_skip(&json, &event, NULL), LORA_OK);
        assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
        assert_int_equal(event.type, LORA__JSON_END);
    }
    end_context(&memory, context);
    return 0;
}
