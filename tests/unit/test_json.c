/* The JSON reader: what it accepts, what it refuses and where, and what it
 * says about the parts. The expectations come from RFC 8259.
 */
#include "format/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BASE 1000

/* Copied to a block of just its size, so that a sanitizer sees any byte read
 * beyond it. */
static char *exact_copy(const char *text, size_t bytes)
{
    char *copy = malloc(bytes == 0 ? 1 : bytes);

    assert_non_null(copy);
    memcpy(copy, text, bytes);
    return copy;
}

/* Read to the end and decode every string. */
static lora_status
read_all(const char *text, size_t bytes, uint32_t depth, lora_error *error)
{
    char *copy = exact_copy(text, bytes);
    char *decoded = malloc(bytes + 1);
    lora__json json;
    lora__json_event event;
    lora_status status;

    assert_non_null(decoded);
    lora_error_init(error, sizeof *error);
    lora__json_init(&json, copy, bytes, BASE, depth);
    do {
        status = lora__json_next(&event, &json, error);
        if (status == LORA_OK &&
            (event.type == LORA__JSON_KEY || event.type == LORA__JSON_STRING)) {
            size_t n;
            status = lora__json_decode(decoded, &n, &event, error);
            assert_int_equal(status, LORA_OK);
            assert_true(n <= event.bytes);
            assert_int_equal(decoded[n], 0);
        }
    } while (status == LORA_OK && event.type != LORA__JSON_END);
    if (status == LORA_OK) {
        assert_int_equal(json.position, bytes);
        assert_int_equal(lora__json_next(&event, &json, error), LORA_OK);
        assert_int_equal(event.type, LORA__JSON_END);
    }
    free(decoded);
    free(copy);
    return status;
}

static void test_accepted(void **state)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "1e5",
        "1E+5",
        "-12.50e-10",
        "123456789012345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " \t\r\n[ ] ",
        "[1,2,[3],{}]",
        "{\"a\":1}",
        "{ \"a\" : { \"b\" : [ true , null ] } , \"\" : \"x\" }",
        "{\"a\":1,\"a\":2}", /* duplicates are the caller's business */
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"",
        "\"\\u0000\"",
        "\"\\uD83D\\uDE00\"",
        "\"\\ud83d\\ude00\"",
        "\"\\uffff\\u007f\"",
        "\"\x7f\"",
        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "\"12345678\"",
        "\"1234567890123456\"",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        lora_error error;
        lora_status status = read_all(texts[i], strlen(texts[i]), 8, &error);

        if (status != LORA_OK) {
            fail_msg("refused: %s (%s)", texts[i], error.message);
        }
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        size_t where;
    } cases[] = {
        {"", 0},
        {"  ", 2},
        {"+1", 0},
        {"-", 1},
        {"-a", 1},
        {".5", 0},
        {"1.", 2},
        {"1.e5", 2},
        {"1e", 2},
        {"1e+", 3},
        {"01", 0},
        {"-01", 1},
        {"1 2", 2},
        {"0x10", 1},
        {"NaN", 0},
        {"Infinity", 0},
        {"tru", 0},
        {"nul", 0},
        {"True", 0},
        {"truex", 4},
        {"[", 1},
        {"]", 0},
        {"[1", 2},
        {"[1,", 3},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[1 2]", 3},
        {"[1}", 2},
        {"{", 1},
        {"}", 0},
        {"{]", 1},
        {"{\"a\"}", 4},
        {"{\"a\":}", 5},
        {"{\"a\":1", 6},
        {"{\"a\":1,}", 7},
        {"{\"a\":1]", 6},
        {"{\"a\" 1}", 5},
        {"{\"a\":1 \"b\":2}", 7},
        {"{a:1}", 1},
        {"{'a':1}", 1},
        {"{1:1}", 1},
        {"{null:1}", 1},
        {"{,}", 1},
        {"[]]", 2},
        {"[] x", 3},
        {"{}{}", 2},
        {"// c\n1", 0},
        {"/*c*/1", 0},
        {"[1/*c*/]", 2},
        {"\"", 1},
        {"\"abc", 4},
        {"\"12345678", 9},
        {"\"a\nb\"", 2},
        {"\"a\tb\"", 2},
        {"\"12345678\x01\"", 9},
        {"\"123\x1f"
         "5678\"",
         4},
        {"\"\\", 1},
        {"\"\\x41\"", 1},
        {"\"\\a\"", 1},
        {"\"\\u004\"", 1},
        {"\"\\u00g0\"", 1},
        {"\"\\u", 1},
        {"\"\\ud800\"", 1},
        {"\"\\ud800x\"", 1},
        {"\"\\ud800\\n\"", 1},
        {"\"\\ud800\\u0041\"", 1},
        {"\"\\ud800\\ud800\"", 1},
        {"\"\\udc00\"", 1},
        {"\"\\udc00\\udc00\"", 1},
        {"\"\\ude00\\ud83d\"", 1},
        {"\"\\ud83d\\ude0", 1},
        {"\"a\x80\"", 1},
        {"\"\xc3\"", 1},
        {"\"\xc0\xaf\"", 1},
        {"\"\xed\xa0\x80\"", 1},
        {"\"\xf4\x90\x80\x80\"", 1},
        {"\"\xff\"", 1},
        {"\"12345678\xff\"", 1},
        {"\"1234567\xff\"", 1},
        {"\xef\xbb\xbf{}", 0},
        {"\xc2\xa0{}", 0},
        {"\f{}", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lora_error error;
        lora_status status =
            read_all(cases[i].text, strlen(cases[i].text), 8, &error);

        if (status != LORA_ERROR_FORMAT ||
            error.offset != BASE + cases[i].where) {
            fail_msg("%s: status %d at %d, expected %d", cases[i].text,
                     (int)status, (int)(error.offset - BASE),
                     (int)cases[i].where);
        }
        assert_true(strlen(error.message) > 0);
    }
    /* NUL is a control, in a string and outside. */
    {
        lora_error error;
        assert_int_equal(read_all("\"a\0b\"", 5, 8, &error), LORA_ERROR_FORMAT);
        assert_int_equal(error.offset, BASE + 2);
        assert_int_equal(read_all("1\0", 2, 8, &error), LORA_ERROR_FORMAT);
        assert_int_equal(error.offset, BASE + 1);
    }
}

static void test_depth(void **state)
{
    static char deep[200000];
    lora_error error;

    (void)state;
    assert_int_equal(read_all("[[[]]]", 6, 3, &error), LORA_OK);
    assert_int_equal(read_all("[[[]]]", 6, 2, &error), LORA_ERROR_FORMAT);
    assert_int_equal(error.offset, BASE + 2);
    assert_int_equal(read_all("[[],[],{\"a\":{}}]", 16, 3, &error), LORA_OK);
    assert_int_equal(read_all("[[],[],{\"a\":{}}]", 16, 2, &error),
                     LORA_ERROR_FORMAT);
    assert_int_equal(read_all("1", 1, 0, &error), LORA_OK);
    assert_int_equal(read_all("[]", 2, 0, &error), LORA_ERROR_FORMAT);
    /* The limit of the reader itself, whatever the caller allows. */
    memset(deep, '[', sizeof deep / 2);
    memset(deep + sizeof deep / 2, ']', sizeof deep / 2);
    assert_int_equal(read_all(deep, sizeof deep, UINT32_MAX, &error),
                     LORA_ERROR_FORMAT);
    assert_int_equal(error.offset, BASE + LORA__JSON_MAX_DEPTH);
}

/* A letter for every event. */
static void trace(char *out, const char *text)
{
    static const char letters[] = "E{}[]ksntf0";
    lora__json json;
    lora__json_event event;

    lora__json_init(&json, text, strlen(text), 0, 8);
    do {
        assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
        *out++ = letters[event.type];
    } while (event.type != LORA__JSON_END);
    *out = '\0';
}

static void test_events(void **state)
{
    static const char text[] = "{\"a\":[1,\"x\",{}],\"b\":{\"c\":[]},\"d\":"
                               "true,\"e\":false,\"f\":null}";
    char out[64];
    lora__json json;
    lora__json_event event;

    (void)state;
    trace(out, text);
    assert_string_equal(out, "{k[ns{}]k{k[]}ktkfk0}E");

    lora__json_init(&json, "{ \"a\\n\" : -1.5 }", 16, BASE, 8);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.offset, BASE);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_KEY);
    assert_int_equal(event.offset, BASE + 2);
    assert_int_equal(event.bytes, 3);
    assert_memory_equal(event.text, "a\\n", 3);
    assert_int_equal(event.escaped, 1);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_NUMBER);
    assert_int_equal(event.offset, BASE + 10);
    assert_int_equal(event.bytes, 4);
    assert_memory_equal(event.text, "-1.5", 4);
}

static void test_skip(void **state)
{
    static const char text[] = "{\"a\":[1,{\"x\":[[]]},3],\"b\":7,\"c\":{}}";
    lora__json json;
    lora__json_event event;
    uint64_t value;

    (void)state;
    /* By key. */
    lora__json_init(&json, text, strlen(text), 0, 8);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(lora__json_skip(&json, &event, NULL), LORA_OK);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_KEY);
    assert_memory_equal(event.text, "b", 1);
    /* A number has nothing to skip. */
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(lora__json_u64(&value, &event, NULL), LORA_OK);
    assert_int_equal(value, 7);
    assert_int_equal(lora__json_skip(&json, &event, NULL), LORA_OK);
    /* By value. */
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_OBJECT_BEGIN);
    assert_int_equal(lora__json_skip(&json, &event, NULL), LORA_OK);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_OBJECT_END);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    assert_int_equal(event.type, LORA__JSON_END);
}

static void check_decode(const char *raw, const char *expected, size_t bytes)
{
    char text[128];
    lora__json json;
    lora__json_event event;
    size_t n;
    int length = snprintf(text, sizeof text, "\"%s\"", raw);

    lora__json_init(&json, text, (size_t)length, 0, 8);
    assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
    /* In place, as the safetensors reader does it. */
    assert_int_equal(lora__json_decode(text + 1, &n, &event, NULL), LORA_OK);
    assert_int_equal(n, bytes);
    assert_memory_equal(text + 1, expected, bytes);
    assert_int_equal(text[1 + n], 0);
}

static void test_decode(void **state)
{
    (void)state;
    check_decode("", "", 0);
    check_decode("plain", "plain", 5);
    check_decode("a\\\"b\\\\c\\/d", "a\"b\\c/d", 7);
    check_decode("\\b\\f\\n\\r\\t", "\b\f\n\r\t", 5);
    check_decode("\\u0041x\\u0000y", "Ax\0y", 4);
    check_decode("\\u00e9\\u07FF\\u0800\\u20AC\\uFFFD",
                 "\xc3\xa9\xdf\xbf\xe0\xa0\x80\xe2\x82\xac\xef\xbf\xbd", 13);
    check_decode("\\ud800\\udc00\\uDBFF\\uDFFF",
                 "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8);
    check_decode("\xc3\xa9\\n\xe2\x82\xac", "\xc3\xa9\n\xe2\x82\xac", 6);
}

static void test_u64(void **state)
{
    static const struct {
        const char *text;
        lora_status status;
        uint64_t value;
    } cases[] = {
        {"0", LORA_OK, 0},
        {"42", LORA_OK, 42},
        {"9223372036854775808", LORA_OK, (uint64_t)1 << 63},
        {"18446744073709551615", LORA_OK, UINT64_MAX},
        {"18446744073709551616", LORA_ERROR_FORMAT, 0},
        {"18446744073709551620", LORA_ERROR_FORMAT, 0},
        {"184467440737095516150", LORA_ERROR_FORMAT, 0},
        {"99999999999999999999", LORA_ERROR_FORMAT, 0},
        {"-1", LORA_ERROR_FORMAT, 0},
        {"-0", LORA_ERROR_FORMAT, 0},
        {"1.0", LORA_ERROR_FORMAT, 0},
        {"1e3", LORA_ERROR_FORMAT, 0},
        {"\"1\"", LORA_ERROR_FORMAT, 0},
        {"true", LORA_ERROR_FORMAT, 0},
        {"[]", LORA_ERROR_FORMAT, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lora__json json;
        lora__json_event event;
        uint64_t value = 0;

        lora__json_init(&json, cases[i].text, strlen(cases[i].text), 0, 8);
        assert_int_equal(lora__json_next(&event, &json, NULL), LORA_OK);
        assert_int_equal(lora__json_u64(&value, &event, NULL), cases[i].status);
        assert_true(value == cases[i].value);
    }
}

static void test_put(void **state)
{
    lora_context *context;
    lora__buffer out;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__buffer_init(&out, context);
    lora__buffer_putc(&out, '{');
    lora__json_put_key(&out, "a\"b");
    lora__json_put_string(&out, "\x01\b\t\n\f\r\x1f\x7f/\\\xc3\xa9");
    lora__json_put_key(&out, "");
    lora__buffer_puts(&out, "{");
    lora__json_put_key(&out, "long enough for words");
    lora__buffer_puts(&out, "1}}");
    assert_string_equal(
        out.data,
        "{\"a\\\"b\":\"\\u0001\\b\\t\\n\\f\\r\\u001f\x7f/\\\\\xc3\xa9\","
        "\"\":{\"long enough for words\":1}}");
    lora__buffer_destroy(&out);
    lora_context_destroy(context);
}

/* Every byte of a text that uses all of the grammar, cut and changed: the
 * reader must neither crash nor run on. */
static void test_damaged(void **state)
{
    static const char text[] =
        "{\"k\\u00e9\":[1,-2.5e+3,true,false,null,\"\\ud83d\\ude00\xc3\xa9\"],"
        "\"o\":{\"n\":{},\"l\":[]}, \"z\":\"\\\\\"}";
    char copy[sizeof text];
    lora_error error;

    (void)state;
    assert_int_equal(read_all(text, sizeof text - 1, 8, &error), LORA_OK);
    for (size_t n = 0; n < sizeof text - 1; n++) {
        assert_int_equal(read_all(text, n, 8, &error), LORA_ERROR_FORMAT);
        assert_true(error.offset <= BASE + n);
        for (int b = 0; b < 256; b++) {
            lora_status status;
            memcpy(copy, text, sizeof text);
            copy[n] = (char)b;
            status = read_all(copy, sizeof text - 1, 8, &error);
            assert_true(status == LORA_OK || status == LORA_ERROR_FORMAT);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_depth),    cmocka_unit_test(test_events),
        cmocka_unit_test(test_skip),     cmocka_unit_test(test_decode),
        cmocka_unit_test(test_u64),      cmocka_unit_test(test_put),
        cmocka_unit_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
