/* The families' rules against the catalogues of their targets: the same set,
 * row for row, with layer, default and kohya's name.
 *
 * The catalogues are tables that were traced through the original converters,
 * and are not part of this tree: where they lie beside it, or in the folder
 * given as argument, every row is compared; everywhere, a digest of all rows
 * is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the others */
#include <cmocka.h>

#include "core/buffer.h"
#include "core/map.h"
#include "names/names.h"

#include <lora/context.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX ".lora_down.weight"

static const char *folder;

/* rows: lines of the catalogue. digest: the sum, modulo 2^64, of the FNV-1a
 * hashes of "<target>\t<layer>\t<default>\t<kohya's name>" over these lines,
 * layer as in layer_names, default 0 or 1: independent of the order. */
static const struct {
    const char *family;
    size_t rows;
    size_t defaults;
    uint64_t digest;
} families[] = {
    {"sd15", 490, 264, 0x8D7864F590CB7C60u},
    {"sd21", 578, 330, 0x8FB29EA50471D322u},
    {"sdxl", 1409, 986, 0x39E82C1C41ADE786u},
};

static const char *const layer_names[] = {
    [LORA__LAYER_UNKNOWN] = "unknown", [LORA__LAYER_LINEAR] = "linear",
    [LORA__LAYER_CONV1] = "conv1",     [LORA__LAYER_CONV] = "conv",
    [LORA__LAYER_NORM] = "norm",       [LORA__LAYER_EMBEDDING] = "embedding",
};

/* One line of a catalogue, as far as the rules know it. */
typedef struct row {
    char target[160];
    char kohya[160];
    lora__layer layer;
    int is_default;
    int seen;
} row;

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    }
    return hash;
}

static uint64_t row_digest(const row *r)
{
    uint64_t hash = 0xCBF29CE484222325u;

    hash = hash_text(hash_text(hash, r->target), "\t");
    hash = hash_text(hash_text(hash, layer_names[r->layer]), "\t");
    hash = hash_text(hash_text(hash, r->is_default ? "1" : "0"), "\t");
    return hash_text(hash, r->kohya);
}

/* What the rules say of a target. */
static int
rule_row(row *out, lora_context *context, const lora__family *family, size_t i)
{
    lora__buffer text;
    lora__target facts;
    lora__spelling spelling = {0};
    int found;

    memset(out, 0, sizeof *out);
    lora__buffer_init(&text, context);
    found = lora__family_target_at(&text, &facts, family, i);
    if (found) {
        assert_true(text.bytes < sizeof out->target);
        memcpy(out->target, text.data, text.bytes + 1);
        out->layer = facts.layer;
        out->is_default = facts.is_default;
        spelling.family = family;
        spelling.target = out->target;
        spelling.role = LORA__ROLE_DOWN;
        lora__buffer_clear(&text);
        assert_int_equal(lora__names_write(&text, lora__dialect_find("kohya"),
                                           &spelling, NULL),
                         LORA_OK);
        assert_true(text.bytes < sizeof out->kohya);
        assert_true(text.bytes > strlen(SUFFIX));
        text.bytes -= strlen(SUFFIX);
        assert_string_equal(text.data + text.bytes, SUFFIX);
        memcpy(out->kohya, text.data, text.bytes);
    }
    lora__buffer_destroy(&text);
    return found;
}

static void rules_have_the_digest(void **state)
{
    lora_context *context;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    assert_int_equal(lora__family_count(),
                     sizeof families / sizeof families[0]);
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        const lora__family *family = lora__family_find(families[f].family);
        size_t defaults = 0;
        uint64_t digest = 0;
        row r;

        assert_non_null(family);
        assert_int_equal(lora__family_target_count(family), families[f].rows);
        for (size_t i = 0; rule_row(&r, context, family, i); i++) {
            assert_true(i < families[f].rows);
            defaults += (size_t)r.is_default;
            digest += row_digest(&r);
        }
        assert_int_equal(defaults, families[f].defaults);
        assert_true(digest == families[f].digest);
    }
    lora_context_destroy(context);
}

/* Catalogues --------------------------------------------------------------- */

static FILE *open_catalogue(const char *family)
{
    char source[] = __FILE__;
    char *slash = strrchr(source, '/');
    const char *places[] = {NULL, NULL, "../shared/catalogues",
                            "../../shared/catalogues"};
    char beside[1024];
    char path[1200];

    if (slash != NULL) {
        *slash = '\0';
        snprintf(beside, sizeof beside, "%s/../../../shared/catalogues",
                 source);
        places[1] = beside;
    }
    places[0] = folder;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        FILE *file;
        if (places[i] == NULL) {
            continue;
        }
        snprintf(path, sizeof path, "%s/%s.tsv", places[i], family);
        file = fopen(path, "r");
        if (file != NULL) {
            return file;
        }
    }
    return NULL;
}

/* component kind diffusers original part kohya kohya_use shape bias */
static int read_row(row *out, FILE *file)
{
    static const char *const components[][2] = {
        {"unet", "unet"}, {"te1", "text_encoder"}, {"te2", "text_encoder_2"}};
    char line[1024];
    char *fields[9];
    const char *component = NULL;
    char *at = line;

    if (fgets(line, sizeof line, file) == NULL) {
        return 0;
    }
    for (int i = 0; i < 9; i++) {
        fields[i] = at;
        at += strcspn(at, "\t\n");
        assert_true(*at != '\0');
        *at++ = '\0';
    }
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(fields[0], components[i][0]) == 0) {
            component = components[i][1];
        }
    }
    assert_non_null(component);
    memset(out, 0, sizeof *out);
    snprintf(out->target, sizeof out->target, "%s.%s", component, fields[2]);
    snprintf(out->kohya, sizeof out->kohya, "%s", fields[5]);
    out->is_default = strcmp(fields[6], "default") == 0;
    if (strcmp(fields[1], "conv2d") == 0) {
        size_t bytes = strlen(fields[7]);
        out->layer = bytes > 4 && strcmp(fields[7] + bytes - 4, "x1x1") == 0
                         ? LORA__LAYER_CONV1
                         : LORA__LAYER_CONV;
    } else {
        out->layer = strcmp(fields[1], "linear") == 0 ? LORA__LAYER_LINEAR
                     : strcmp(fields[1], "norm") == 0 ? LORA__LAYER_NORM
                     : strcmp(fields[1], "embedding") == 0
                         ? LORA__LAYER_EMBEDDING
                         : LORA__LAYER_UNKNOWN;
    }
    return 1;
}

/* Every name in the catalogue's kohya column means that row's target. */
static void check_reading(lora_context *context,
                          const lora__family *family,
                          const row *rows,
                          size_t count)
{
    static char names[2000][200];
    lora__key_in *keys = calloc(count, sizeof *keys);
    lora__arena arena;
    lora__names found;

    assert_non_null(keys);
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%s%s", rows[i].kohya, SUFFIX);
        keys[i].name = names[i];
        keys[i].name_bytes = strlen(names[i]);
    }
    lora__arena_init(&arena, context);
    assert_int_equal(
        lora__names_read(&found, &arena, keys, count, NULL, NULL, NULL),
        LORA_OK);
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(found.keys[i].target, rows[i].target);
        assert_string_equal(found.keys[i].module, rows[i].kohya);
        assert_int_equal(found.keys[i].known, 1);
        assert_int_equal(lora__family_layer(family, rows[i].target),
                         rows[i].layer);
    }
    lora__arena_destroy(&arena);
    free(keys);
}

static void check_family(size_t f)
{
    const lora__family *family = lora__family_find(families[f].family);
    FILE *file = open_catalogue(families[f].family);
    row *rows = calloc(2000, sizeof *rows);
    lora_context *context;
    lora__map map;
    size_t count = 0;
    size_t where;
    char header[1024];
    row r;

    assert_non_null(rows);
    if (file == NULL) {
        free(rows);
        skip();
    }
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__map_init(&map, context);
    assert_non_null(fgets(header, sizeof header, file));
    while (read_row(&rows[count], file)) {
        assert_int_equal(lora__map_add(&where, &map, rows[count].target,
                                       strlen(rows[count].target), count, NULL),
                         LORA_OK);
        assert_int_equal(where, count);
        count++;
        assert_true(count < 2000);
    }
    fclose(file);
    for (size_t i = 0; rule_row(&r, context, family, i); i++) {
        if (!lora__map_find(&where, &map, r.target, strlen(r.target))) {
            fail_msg("%s has no %s", families[f].family, r.target);
        }
        assert_int_equal(rows[where].seen, 0);
        rows[where].seen = 1;
        assert_int_equal(r.layer, rows[where].layer);
        assert_int_equal(r.is_default, rows[where].is_default);
        assert_string_equal(r.kohya, rows[where].kohya);
    }
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].seen) {
            fail_msg("no rule makes %s", rows[i].target);
        }
    }
    check_reading(context, family, rows, count);
    lora__map_destroy(&map);
    lora_context_destroy(context);
    free(rows);
}

static void sd15_is_its_catalogue(void **state)
{
    (void)state;
    check_family(0);
}

static void sd21_is_its_catalogue(void **state)
{
    (void)state;
    check_family(1);
}

static void sdxl_is_its_catalogue(void **state)
{
    (void)state;
    check_family(2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_have_the_digest),
        cmocka_unit_test(sd15_is_its_catalogue),
        cmocka_unit_test(sd21_is_its_catalogue),
        cmocka_unit_test(sdxl_is_its_catalogue),
    };

    folder = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
