/* Matching names against the families' sites: what is remembered from the name
 * before changes no answer. The reference is a search that remembers nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the others */
#include <cmocka.h>

#include "names/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES 256

static const lora__scope scopes[] = {
    {LORA__FAMILY_ALL, LORA__COMPONENTS_ALL, 0, 0},
    {LORA__FAMILY_ALL, LORA__COMPONENTS_ALL, 1, 0},
    {LORA__FAMILY_ALL, LORA__COMPONENTS_BACKBONE, 1, 0},
    {LORA__FAMILIES_UNET, LORA__COMPONENTS_ALL, 0, 1},
};

typedef struct names {
    char text[40000][MOST_BYTES];
    size_t count;
} names;

/* Both names of every target, as they stand or flattened, in the order in which
 * they lie in files. */
static void list_names(names *out, lora_context *context, char separator)
{
    out->count = 0;
    for (size_t f = 0; f < lora__family_count(); f++) {
        const lora__family *family = lora__family_at(f);
        lora__target facts;

        for (size_t i = 0; i < lora__family_target_count(family); i++) {
            lora__buffer target;
            lora__place place;
            lora__family_set known;

            lora__buffer_init(&target, context);
            assert_true(lora__family_target_at(&target, &facts, family, i));
            known = lora__family_match_target(&place, NULL, LORA__FAMILY_ALL,
                                              target.data);
            assert_true(known != 0);
            for (int original = 0; original < 2; original++) {
                lora__buffer_clear(&target);
                lora__place_put(&target, &place, original, separator);
                assert_true(target.bytes < MOST_BYTES);
                assert_true(out->count <
                            sizeof out->text / sizeof out->text[0]);
                memcpy(out->text[out->count++], target.data, target.bytes + 1);
            }
            lora__buffer_destroy(&target);
        }
    }
    assert_true(out->count > 20000);
}

static void compare(lora__site_memo *memo,
                    const lora__scope *scope,
                    const char *name,
                    size_t bytes,
                    char separator)
{
    lora__site_memo none = {0};
    lora__place want;
    lora__place got;
    lora__family_set wanted =
        lora__family_match(&want, &none, scope, name, bytes, separator);
    lora__family_set found =
        lora__family_match(&got, memo, scope, name, bytes, separator);

    if (wanted != found || memcmp(&want, &got, sizeof want) != 0) {
        fail_msg("%.*s", (int)bytes, name);
    }
}

static void memory_changes_nothing(void **state)
{
    static const char separators[] = {'.', '_'};
    names *all = malloc(sizeof *all);
    lora_context *context;

    (void)state;
    assert_non_null(all);
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    for (size_t s = 0; s < 2; s++) {
        list_names(all, context, separators[s]);
        for (size_t k = 0; k < sizeof scopes / sizeof scopes[0]; k++) {
            lora__site_memo memo = {0};
            /* In order, then each far from the one before. */
            for (size_t i = 0; i < all->count; i++) {
                const char *name = all->text[i];
                compare(&memo, &scopes[k], name, strlen(name), separators[s]);
            }
            for (size_t i = 0; i < all->count; i += 3) {
                const char *name = all->text[i * 7919 % all->count];
                compare(&memo, &scopes[k], name, strlen(name), separators[s]);
            }
        }
    }
    lora_context_destroy(context);
    free(all);
}

/* Names cut short or with one letter changed, after a sound one. */
static void damage_is_not_remembered(void **state)
{
    names *all = malloc(sizeof *all);
    lora_context *context;

    (void)state;
    assert_non_null(all);
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    list_names(all, context, '_');
    for (size_t i = 0; i < all->count; i += 97) {
        const char *name = all->text[i];
        size_t bytes = strlen(name);

        for (size_t at = 0; at < bytes; at++) {
            static const char letters[] = "_0a}";
            lora__site_memo memo = {0};
            char damaged[MOST_BYTES];

            memcpy(damaged, name, bytes + 1);
            damaged[at] = letters[(i + at) % 4];
            compare(&memo, &scopes[0], name, bytes, '_');
            compare(&memo, &scopes[0], damaged, bytes, '_');
            compare(&memo, &scopes[0], name, bytes, '_');
            compare(&memo, &scopes[0], name, at, '_');
            compare(&memo, &scopes[0], name, bytes, '_');
        }
    }
    lora_context_destroy(context);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_changes_nothing),
        cmocka_unit_test(damage_is_not_remembered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
