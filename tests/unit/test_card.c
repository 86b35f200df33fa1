/* Model cards: what people and tools write at the beginning of a README.md.
 * The values expected are those that YAML gives them, but for ends of lines,
 * which are spaces here, or "not said" where the reader does not know the form.
 * Then damaged cards: they may say anything or nothing, in bounded memory.
 */
#include "adapter/card.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct card_case {
    const char *text;
    const char *base_model;
    const char *instance_prompt;
    const char *license;
    const char *tags; /* each with '|' behind it */
} card_case;

static const card_case cases[] = {
    {"---\nbase_model: a/b\n---\n", "a/b", NULL, NULL, ""},
    {"\xEF\xBB\xBF---\r\nbase_model: a/b\r\n---\r\ntext", "a/b", NULL, NULL,
     ""},
    {"---\nbase_model: a/b\n...\nlicense: x", "a/b", NULL, NULL, ""},
    {"--- \nbase_model:    a/b   # the base\nlicense: mit#x\n---", "a/b", NULL,
     "mit#x", ""},
    {"---\n# note\n\nlicense: \"a \\\"b\\\" \\\\ c\"\ninstance_prompt: "
     "'it''s'\n"
     "---",
     NULL, "it's", "a \"b\" \\ c", ""},
    /* Lists, of which the first is the base. */
    {"---\nbase_model:\n- a/b\n- c/d\ntags:\n  - one\n  - \"two\" # x\n---",
     "a/b", NULL, NULL, "one|two|"},
    {"---\nbase_model: [a/b, c/d]\ntags: [one, \"t, wo\", 'three',]\n---",
     "a/b", NULL, NULL, "one|t, wo|three|"},
    {"---\ntags: [one,\n  two,\n  three]\nlicense: mit\n---", NULL, NULL, "mit",
     "one|two|three|"},
    {"---\ntags: []\nbase_model: []\nlicense:\n---", NULL, NULL, NULL, ""},
    {"---\ntags: lora\n---", NULL, NULL, NULL, "lora|"},
    /* Long text, as tools fold it. */
    {"---\ninstance_prompt: a photo of sks\n  dog in a\n  bucket\nlicense: "
     "mit\n"
     "---",
     NULL, "a photo of sks dog in a bucket", "mit", ""},
    {"---\ninstance_prompt: \"a photo\n  of it\"\nlicense: mit\n---", NULL,
     "a photo of it", "mit", ""},
    {"---\ninstance_prompt: >-\n  a photo: of\n  it # here\nlicense: mit\n---",
     NULL, "a photo: of it # here", "mit", ""},
    {"---\ninstance_prompt: |\n  one\nlicense: mit\n---", NULL, "one", "mit",
     ""},
    {"---\ntags:\n- a b\n  c\n-   'd\n\n  e'\n- \"f\\\n  \\ g\"\n---", NULL,
     NULL, NULL, "a b c|d e|f g|"},
    {"---\nbase_model:\n\n  - a/b\n    - c\n---", "a/b - c", NULL, NULL, ""},
    /* Not said. */
    {"---\nbase_model: null\nlicense: ~\ninstance_prompt: \"\"\n---", NULL,
     NULL, NULL, ""},
    {"---\nbase_model: {a: b}\nlicense: &x mit\ninstance_prompt: *x\n---", NULL,
     NULL, NULL, ""},
    {"---\nbase_model:\n  name: a/b\nlicense: !!str mit\n---", NULL, NULL, NULL,
     ""},
    {"---\ninstance_prompt: a: b\ntags:\n- text: x\n  output: y\n- z\n---",
     NULL, NULL, NULL, "z|"},
    {"---\nbase_model: 'open\nlicense: mit\n---", NULL, NULL, "mit", ""},
    /* Keys elsewhere, or that only look like it; the first one holds. */
    {"---\nwidget:\n- text: x\n  license: no\n  base_model: no\nbase_model: "
     "a/b\n"
     "---",
     "a/b", NULL, NULL, ""},
    {"---\nbase_model_relation: adapter\nbase_model:a/b\nBase_model: x\n---",
     NULL, NULL, NULL, ""},
    {"---\nlicense: one\nlicense: two\n---", NULL, NULL, "one", ""},
    {"---\n---\nlicense: mit\n", NULL, NULL, NULL, ""},
    {"---\nlicense: \xC3\xA9t\xC3\xA9\n---", NULL, NULL, "\xC3\xA9t\xC3\xA9",
     ""},
};

/* Texts with nothing in front. */
static const char *const none[] = {
    "",
    "-",
    "---",
    "---\n",
    "---\nlicense: mit\n",
    "--\nlicense: mit\n---\n",
    "# Title\n---\nlicense: mit\n---\n",
    "\n---\nlicense: mit\n---\n",
    "----\nlicense: mit\n---\n",
    "---\nlicense: \xFF\n---\n",
    "---\nlicense: mit\n ---\n",
};

static void same(const char *got, const char *expected, const char *text)
{
    if ((got == NULL) != (expected == NULL) ||
        (got != NULL && strcmp(got, expected) != 0)) {
        fail_msg("%s: \"%s\" instead of \"%s\"", text,
                 got == NULL ? "(nothing)" : got,
                 expected == NULL ? "(nothing)" : expected);
    }
}

/* Parse a copy in a block of just its size, for sanitizers. */
static const lora__card *
parse(lora__arena *arena, const char *text, size_t bytes)
{
    const lora__card *card;
    char *copy = malloc(bytes + (bytes == 0));

    assert_non_null(copy);
    memcpy(copy, text, bytes);
    assert_int_equal(lora__card_parse(&card, arena, copy, bytes, NULL),
                     LORA_OK);
    free(copy);
    return card;
}

static void test_cases(void **state)
{
    lora_context *context;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    for (size_t i = 0; i < LORA__COUNT(cases); i++) {
        lora__arena arena;
        const lora__card *card;
        char tags[200] = "";

        lora__arena_init(&arena, context);
        card = parse(&arena, cases[i].text, strlen(cases[i].text));
        assert_non_null(card);
        same(card->base_model, cases[i].base_model, cases[i].text);
        same(card->instance_prompt, cases[i].instance_prompt, cases[i].text);
        same(card->license, cases[i].license, cases[i].text);
        for (size_t t = 0; t < card->tag_count; t++) {
            strcat(tags, card->tags[t]);
            strcat(tags, "|");
        }
        same(tags, cases[i].tags, cases[i].text);
        lora__arena_destroy(&arena);
    }
    lora_context_destroy(context);
}

static void test_none(void **state)
{
    lora_context *context;
    lora__arena arena;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__arena_init(&arena, context);
    for (size_t i = 0; i < LORA__COUNT(none); i++) {
        assert_null(parse(&arena, none[i], strlen(none[i])));
    }
    assert_null(parse(&arena, "---\nlicense: a\0b\n---", 20));
    lora__arena_destroy(&arena);
    lora_context_destroy(context);
}

/* More tags than are kept, and more keys than anybody writes: what is kept
 * stays within a few times the text. */
static void test_bounds(void **state)
{
    static char text[LORA__CARD_MAX_BYTES];
    lora_context *context;
    lora__arena arena;
    const lora__card *card;
    size_t n;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__arena_init(&arena, context);
    n = (size_t)snprintf(text, sizeof text, "---\ntags:\n");
    for (int i = 0; i < 1000; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "- t%d\n", i);
    }
    n += (size_t)snprintf(text + n, sizeof text - n, "license: mit\n---");
    card = parse(&arena, text, n);
    assert_int_equal(card->tag_count, 64);
    assert_string_equal(card->tags[63], "t63");
    assert_string_equal(card->license, "mit");
    lora__arena_destroy(&arena);

    n = (size_t)snprintf(text, sizeof text, "---\n");
    while (n < sizeof text - 40) {
        n += (size_t)snprintf(text + n, sizeof text - n, "tags: >\n x\n");
    }
    n += (size_t)snprintf(text + n, sizeof text - n, "---");
    card = parse(&arena, text, n);
    assert_string_equal(card->tags[0], "x");
    assert_true(lora_context_memory_peak(context) < 64 * sizeof text);
    lora__arena_destroy(&arena);
    lora_context_destroy(context);
}

static void test_damage(void **state)
{
    static const char odd[] = "-:#'\"[]|>\\ \n,a\r{";
    lora_context *context;
    uint32_t seed = 1;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    for (int round = 0; round < 20000; round++) {
        const char *from = cases[(size_t)round % LORA__COUNT(cases)].text;
        char text[300];
        size_t bytes = strlen(from);
        lora__arena arena;

        memcpy(text, from, bytes);
        for (int i = 0; i < 1 + round % 4; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[(seed >> 8) % bytes] = odd[(seed >> 24) % (sizeof odd - 1)];
        }
        lora__arena_init(&arena, context);
        (void)parse(&arena, text, bytes - (seed >> 4) % 3);
        lora__arena_destroy(&arena);
    }
    lora_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_damage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
