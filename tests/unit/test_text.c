/* Numbers and text: decimal conversion against the C library's, UTF-8 and
 * patterns against their definitions.
 */
#include "api/support.h"

#include "core/text.h"

#include <locale.h>

static uint32_t seed = 1;

static uint32_t random32(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 16 | seed << 16) ^ seed >> 3;
}

/* ---- numbers ----------------------------------------------------------- */

/* The C library's conversion is correctly rounded; tests run in locale C. */
static void check_number(const char *text)
{
    size_t bytes = strlen(text);
    size_t used = 77;
    double got = lora__text_to_double(text, bytes, &used);
    double expected = strtod(text, NULL);

    if (used != bytes || memcmp(&got, &expected, sizeof got) != 0) {
        fail_msg("%s: %.17g, not %.17g; %u bytes", text, got, expected,
                 (unsigned)used);
    }
}

static void test_read_numbers(void **state)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "0.0e99",
        "1",
        "-1.5",
        "123456789012345678901234567890",
        "0.1",
        "1e23",
        "8.5e-5",
        "9007199254740993", /* 2^53 + 1: to even */
        "9007199254740992.99999999999999",
        "9007199254740993.00000000000001",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e309",
        "-1e400",
        "1e999999999999",
        "1e-999999999999",
        "2.2250738585072014e-308",
        "2.2250738585072011e-308",
        "4.9406564584124654e-324",
        "2.4703282292062327e-324", /* half of the smallest: to even */
        "2.4703282292062328e-324",
        "7.4109846876186982e-324",
        "1e-400",
        "0.000000000000000000000000000000000000000000000000000001e54",
    };
    char text[1200];

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        check_number(texts[i]);
    }
    for (int i = 0; i < 20000; i++) {
        int digits = 1 + (int)(random32() % 22);
        int at = 0;
        at += snprintf(text, sizeof text, "%s%u.", random32() & 1 ? "-" : "",
                       (unsigned)(random32() % 10));
        for (int k = 0; k < digits; k++) {
            text[at++] = (char)('0' + random32() % 10);
        }
        snprintf(text + at, sizeof text - (size_t)at, "e%d",
                 (int)(random32() % 660) - 335);
        check_number(text);
    }
    /* Exact midpoints of neighbours, and one digit beyond the 770th. */
    for (int i = 0; i < 200; i++) {
        double x =
            ldexp((double)(random32() | 1u), (int)(random32() % 90) - 1074);
        int length =
            snprintf(text, sizeof text, "%.1100f", x + ldexp(1.0, -1074) * 0.5);
        check_number(text);
        assert_true(length > 1000);
        text[length - 1] = '1';
        check_number(text);
    }
}

/* Every double comes back, with no more digits than needed. */
static void test_write_numbers(void **state)
{
    static const struct {
        double value;
        const char *text;
    } known[] = {{0.0, "0"},      {-0.0, "-0"},
                 {1.0, "1"},      {0.1, "0.1"},
                 {-2.5, "-2.5"},  {1e21, "1e+21"},
                 {1e-7, "1e-07"}, {0.3 - 0.1, "0.19999999999999998"}};
    char text[40];

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        size_t length = lora__text_from_double(text, known[i].value);
        assert_int_equal(length, strlen(known[i].text));
        assert_memory_equal(text, known[i].text, length);
    }
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)random32() << 32 | random32();
        double value;
        double back;
        size_t used;
        size_t length;
        memcpy(&value, &bits, sizeof value);
        if (!(value - value == 0.0)) {
            continue;
        }
        length = lora__text_from_double(text, value);
        assert_true(length <= 24);
        back = lora__text_to_double(text, length, &used);
        assert_int_equal(used, length);
        assert_true(memcmp(&back, &value, sizeof back) == 0);
    }
}

/* 12 digits, the last within 1, and no more text than that takes. */
static void test_write_measured(void **state)
{
    static const struct {
        double value;
        const char *text;
    } known[] = {{0.0, "0"},
                 {1.0, "1"},
                 {0.1, "0.1"},
                 {-2.5, "-2.5"},
                 {1234.0, "1234"},
                 {100.25, "100.25"},
                 {1e-4, "0.0001"},
                 {-3.25e-5, "-3.25e-5"},
                 {123456789012.0, "123456789012"},
                 {1e21, "1e21"},
                 {1.0 / 3.0, "0.333333333333"},
                 {0.99999999999999, "1"},
                 {9999999999999.0, "1e13"},
                 {0.3 - 0.1, "0.2"}};
    char text[40];

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        size_t length = lora__text_from_measured(text, known[i].value);
        assert_int_equal(length, strlen(known[i].text));
        assert_memory_equal(text, known[i].text, length);
    }
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)random32() << 32 | random32();
        double value;
        double back;
        size_t length;
        memcpy(&value, &bits, sizeof value);
        if (!(value - value == 0.0)) {
            continue;
        }
        length = lora__text_from_measured(text, value);
        assert_true(length <= 24);
        text[length] = '\0';
        back = strtod(text, NULL);
        assert_true(fabs(back - value) <= 1.1e-11 * fabs(value));
    }
}

static void test_number_ends(void **state)
{
    static const struct {
        const char *text;
        size_t used;
        double value;
    } cases[] = {
        {"", 0, 0.0},      {"-", 0, 0.0},      {".5", 0, 0.0},
        {"+1", 0, 0.0},    {"a", 0, 0.0},      {"1.", 1, 1.0},
        {"1.e5", 1, 1.0},  {"1e", 1, 1.0},     {"1e+", 1, 1.0},
        {"12,5", 2, 12.0}, {"7e2x", 3, 700.0}, {"0x10", 1, 0.0},
        {"nan", 0, 0.0},   {"inf", 0, 0.0},    {"1 ", 1, 1.0},
    };
    size_t used = 77;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        double value =
            lora__text_to_double(cases[i].text, strlen(cases[i].text), &used);
        assert_int_equal(used, cases[i].used);
        assert_true(value == cases[i].value);
    }
    /* Not beyond what it is given. */
    assert_true(lora__text_to_double("123", 2, &used) == 12.0);
    assert_int_equal(used, 2);
}

static void test_locale(void **state)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE",
                                        "fr_FR.UTF-8", "fr_FR.utf8"};
    const char *found = NULL;
    char text[40];
    size_t used;
    size_t length;

    (void)state;
    for (size_t i = 0; i < COUNT(names) && found == NULL; i++) {
        found = setlocale(LC_NUMERIC, names[i]);
    }
    if (found == NULL) {
        skip(); /* no locale with a decimal comma is installed */
    }
    assert_true(lora__text_to_double("1.5", 3, &used) == 1.5);
    length = lora__text_from_double(text, 1.5);
    assert_memory_equal(text, "1.5", length);
    setlocale(LC_NUMERIC, "C");
}

/* ---- text -------------------------------------------------------------- */

/* By its definition: the shortest form of a code point that is no surrogate. */
static int plain_utf8(const unsigned char *p, size_t bytes)
{
    while (bytes > 0) {
        uint32_t point;
        size_t length = p[0] < 0x80       ? 1
                        : p[0] >> 5 == 6  ? 2
                        : p[0] >> 4 == 14 ? 3
                        : p[0] >> 3 == 30 ? 4
                                          : 0;
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (length == 0 || length > bytes) {
            return 0;
        }
        point = length == 1 ? p[0] : p[0] & (0xFFu >> (length + 1));
        for (size_t i = 1; i < length; i++) {
            if (p[i] >> 6 != 2) {
                return 0;
            }
            point = point << 6 | (p[i] & 0x3Fu);
        }
        if (point < least[length] || point > 0x10FFFF ||
            (point >= 0xD800 && point < 0xE000)) {
            return 0;
        }
        p += length;
        bytes -= length;
    }
    return 1;
}

static void test_utf8(void **state)
{
    static const unsigned char edges[] = {
        0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
        0xC1, 0xC2, 0xDF, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF};
    unsigned char text[12];

    (void)state;
    assert_true(lora__text_is_utf8(NULL, 0));
    for (unsigned lead = 0; lead < 256; lead++) {
        for (unsigned second = 0; second < 256; second++) {
            for (size_t k = 0; k < COUNT(edges) * COUNT(edges); k++) {
                text[0] = (unsigned char)lead;
                text[1] = (unsigned char)second;
                text[2] = edges[k % COUNT(edges)];
                text[3] = edges[k / COUNT(edges)];
                for (size_t bytes = 1; bytes <= 4; bytes++) {
                    assert_int_equal(
                        lora__text_is_utf8((const char *)text, bytes),
                        plain_utf8(text, bytes));
                }
            }
        }
    }
    /* In every place of a word of eight. */
    for (size_t at = 0; at < sizeof text; at++) {
        memset(text, 'a', sizeof text);
        text[at] = 0xFF;
        assert_false(lora__text_is_utf8((const char *)text, sizeof text));
    }
}

static int plain_matches(const char *pattern, const char *text)
{
    if (*pattern == '*') {
        return plain_matches(pattern + 1, text) ||
               (*text != '\0' && plain_matches(pattern, text + 1));
    }
    if (*pattern == '\0' || *text == '\0') {
        return *pattern == *text;
    }
    return (*pattern == '?' || *pattern == *text) &&
           plain_matches(pattern + 1, text + 1);
}

/* All short patterns against all short texts. */
static void test_patterns(void **state)
{
    static const char letters[] = "ab*?";
    char long_text[2001];

    (void)state;
    for (unsigned p = 0; p < 6 * 1024; p++) {
        char pattern[6] = "";
        for (unsigned i = 0; i < p / 1024; i++) {
            pattern[i] = letters[p >> 2 * i & 3];
        }
        for (unsigned t = 0; t < 6 * 32; t++) {
            char text[6] = "";
            for (unsigned i = 0; i < t / 32; i++) {
                text[i] = letters[t >> i & 1];
            }
            assert_int_equal(lora__text_matches(pattern, text),
                             plain_matches(pattern, text));
        }
    }
    /* What takes exponential time when every star is tried again. */
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    assert_false(lora__text_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*b", long_text));
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(lora__text_begins("abc", 3, ""));
    assert_true(lora__text_begins("abc", 3, "abc"));
    assert_false(lora__text_begins("abc", 2, "abc"));
    assert_false(lora__text_begins("abc", 3, "b"));
    assert_true(lora__text_ends("abc", 3, ""));
    assert_true(lora__text_ends("abc", 2, "ab"));
    assert_false(lora__text_ends("abc", 3, "ab"));
    assert_false(lora__text_ends("c", 1, "bc"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_numbers),
        cmocka_unit_test(test_write_numbers),
        cmocka_unit_test(test_write_measured),
        cmocka_unit_test(test_number_ends),
        cmocka_unit_test(test_locale),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
