/* The families' rules against the catalogues of their targets: the same set,
 * row for row, with layer, default, and the names that kohya, diffusers and the
 * original checkpoint have for them, in both directions, with the rows where
 * one weight is several targets.
 *
 * The catalogues are tables that were traced through the original converters,
 * and are not part of this tree: where they lie beside it, or in the folder
 * given as argument, every row is compared; everywhere, a digest of all rows
 * is.
 */
#include "catalogues.h"

#include "core/buffer.h"
#include "core/map.h"

#include <lora/context.h>

#define SUFFIX ".lora_down.weight"
#define PEFT_SUFFIX ".lora_A.weight"

/* rows: lines of the catalogue. digest: the sum, modulo 2^64, of the FNV-1a
 * hashes of "<target>\t<layer>\t<default>\t<kohya's name>" over these lines,
 * layer as in layer_names, default 0 or 1: independent of the order. Buffers,
 * which nobody adapts, are no rows here; SD 3.5 has the text encoders of SD 3.
 * bare: lines of linear layers without a bias; bare_digest: the sum of the
 * hashes of their targets.
 */
static const struct {
    const char *family;
    size_t rows;
    size_t defaults;
    uint64_t digest;
    size_t bare;
    uint64_t bare_digest;
} families[] = {
    {"sd15", 490, 264, 0x8D7864F590CB7C60u, 96, 0x919BF29DA4ED7808u},
    {"sd21", 578, 330, 0x8FB29EA50471D322u, 96, 0x919BF29DA4ED7808u},
    {"sdxl", 1409, 986, 0x39E82C1C41ADE786u, 421, 0xD579581A674E3E7Du},
    {"flux1_dev", 974, 734, 0x53E8DF1022309182u, 168, 0x4621CE6977F59000u},
    {"chroma", 590, 418, 0x31A9EA485052C317u, 0, 0x0000000000000000u},
    {"sd3_medium", 920, 765, 0xA5671A649C9DD136u, 170, 0xC5CC288C43B81679u},
    {"sd35_medium", 1094, 817, 0xE2D4A08A07552A07u, 170, 0xC5CC288C43B81679u},
    {"sd35_large", 1268, 961, 0x21B875D22E1BADF0u, 170, 0xC5CC288C43B81679u},
    {"lumina2", 425, 240, 0x64F6F3B188102915u, 210, 0xEBF25ED2A4654EA7u},
    {"auraflow", 328, 0, 0x09EEB2D181B1632Du, 323, 0x1B308F7A78180E36u},
    {"wan21_t2v_14b", 648, 0, 0x3B868E3776ED6BF1u, 0, 0x0000000000000000u},
    {"wan21_i2v_14b", 772, 0, 0x7572CECBCE3CDE17u, 0, 0x0000000000000000u},
    {"hunyuan_video", 712, 0, 0x63E24FA8AF405268u, 0, 0x0000000000000000u},
    {"ltx_video", 428, 0, 0x9114EBAB28D639D8u, 0, 0x0000000000000000u},
    {"stable_cascade_prior", 839, 0, 0xF3E74718573DBAFEu, 0,
     0x0000000000000000u},
    {"pixart_sigma", 316, 0, 0x5E32308E07ECE72Fu, 0, 0x0000000000000000u},
    {"hunyuan_dit", 773, 0, 0x1C569084428A4177u, 0, 0x0000000000000000u},
    {"cogvideox_5b", 512, 0, 0xC2BDB7BCA7D97011u, 0, 0x0000000000000000u},
    {"qwen_image", 1087, 0, 0x047BBA43B8D3EC04u, 0, 0x0000000000000000u},
};

static const char *const layer_names[] = {
    [LORA__LAYER_UNKNOWN] = "unknown",
    [LORA__LAYER_LINEAR] = "linear",
    [LORA__LAYER_CONV1] = "conv1",
    [LORA__LAYER_CONV] = "conv",
    [LORA__LAYER_CONV3] = "conv",
    [LORA__LAYER_NORM] = "norm",
    [LORA__LAYER_EMBEDDING] = "embedding",
    [LORA__LAYER_PARAMETER] = "parameter",
};

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

/* The module's name in a dialect and the rows that the target has of it. */
static void spell(char *out,
                  lora__row_set *rows,
                  lora_context *context,
                  const lora__family *family,
                  const char *dialect,
                  const char *target)
{
    const lora__dialect *d = lora__dialect_find(dialect);
    lora__spelling spelling = {0};
    lora__buffer text;
    size_t bytes;

    lora__buffer_init(&text, context);
    spelling.family = family;
    spelling.target = target;
    spelling.role = LORA__ROLE_DOWN;
    spelling.rows = rows;
    assert_int_equal(lora__names_write(&text, d, &spelling, NULL), LORA_OK);
    assert_non_null(strstr(text.data, ".lora_"));
    bytes = (size_t)(strstr(text.data, ".lora_") - text.data);
    assert_true(bytes > 0 && bytes < MAX_NAME);
    memcpy(out, text.data, bytes);
    out[bytes] = '\0';
    lora__buffer_destroy(&text);
}

/* What the rules say of a target. */
static int
rule_row(row *out, lora_context *context, const lora__family *family, size_t i)
{
    lora__buffer text;
    lora__target facts;
    lora__row_set rows;
    int found;

    memset(out, 0, sizeof *out);
    lora__buffer_init(&text, context);
    found = lora__family_target_at(&text, &facts, family, i);
    if (found) {
        assert_true(text.bytes < sizeof out->target);
        memcpy(out->target, text.data, text.bytes + 1);
        out->layer = facts.layer;
        out->is_default = facts.is_default;
        spell(out->kohya, &rows, context, family, "kohya", out->target);
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
        size_t bare = 0;
        uint64_t bare_digest = 0;
        row r;

        assert_non_null(family);
        assert_int_equal(lora__family_target_count(family), families[f].rows);
        for (size_t i = 0; rule_row(&r, context, family, i); i++) {
            assert_true(i < families[f].rows);
            defaults += (size_t)r.is_default;
            digest += row_digest(&r);
            if (lora__family_lacks_bias(family, r.target)) {
                bare++;
                bare_digest += hash_text(0xCBF29CE484222325u, r.target);
            }
        }
        assert_int_equal(defaults, families[f].defaults);
        assert_true(digest == families[f].digest);
        assert_int_equal(bare, families[f].bare);
        assert_true(bare_digest == families[f].bare_digest);
    }
    lora_context_destroy(context);
}

/* The catalogue of a family; skips the test where there is none. */
static row *load(size_t f, size_t *count)
{
    row *rows = load_catalogue(families[f].family, count);
    int defaults = 0;

    if (rows == NULL) {
        skip();
    }
    assert_int_equal(*count, families[f].rows);
    /* Where the trainer's choice is known, it is the core. */
    for (size_t i = 0; i < *count; i++) {
        defaults |= rows[i].is_default;
    }
    for (size_t i = 0; defaults && i < *count; i++) {
        rows[i].is_core = rows[i].is_default;
    }
    return rows;
}

/* What the key means is the row's target, or has it as a part. */
static void check_key(const lora__key_out *key, const row *want)
{
    static const lora__row_set whole;
    size_t found = 0;

    assert_int_equal(key->known, 1);
    if (key->part_count == 0) {
        assert_string_equal(key->target, want->target);
        assert_int_equal(key->layer, want->layer);
        return;
    }
    for (size_t i = 0; i < key->part_count; i++) {
        if (strcmp(key->parts[i].target, want->target) == 0) {
            assert_int_equal(key->parts[i].layer, want->layer);
            check_rows(&key->parts[i].rows, want->part);
            assert_memory_not_equal(&key->parts[i].rows, &whole, sizeof whole);
            found++;
        }
    }
    assert_int_equal(found, 1);
}

/* Names ---------------------------------------------------------------------
 */

/* The name of a row's module, "" for none. */
typedef void (*row_name)(char *out, const row *r);

/* As in the checkpoint. */
static void name_original(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s%s",
             is_text(r) || strncmp(r->original, "model.d", 7) == 0
                 ? ""
                 : "diffusion_model.",
             r->original, PEFT_SUFFIX);
}

static void name_native(char *out, const row *r)
{
    const char *name = r->original;

    if (strncmp(name, "model.diffusion_model.", 22) == 0) {
        name += 22;
    }
    snprintf(out, MAX_KEY, "%s%s%s", is_text(r) ? "" : "diffusion_model.", name,
             PEFT_SUFFIX);
}

static void name_kohya(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", r->kohya, SUFFIX);
}

static void name_diffusers(char *out, const row *r)
{
    snprintf(out, MAX_KEY, "%s%s", r->target, PEFT_SUFFIX);
}

/* One model a file: text encoders are not part of it. */
static void name_peft(char *out, const row *r)
{
    out[0] = '\0';
    if (!is_text(r)) {
        snprintf(out, MAX_KEY, "base_model.model.%s%s",
                 past_component(r->target), PEFT_SUFFIX);
    }
}

/* Flattened by a tool that trains the model of diffusers. Some names mean
 * another layer to kohya: the rest of the file tells. */
static void name_flattened(char *out, const row *r)
{
    int text = is_text(r);

    snprintf(out, MAX_KEY, "%s_%s%s",
             !text ? strncmp(r->target, "prior", 5) == 0 ? "lora_prior_unet"
                                                         : "lora_unet"
             : r->target[12] == '.' ? "lora_te1"
             : r->target[13] == '2' ? "lora_te2"
                                    : "lora_te3",
             past_component(r->target), SUFFIX);
    for (char *c = out; c < out + strlen(out) - strlen(SUFFIX); c++) {
        *c = (char)(*c == '.' ? '_' : *c);
    }
}

static const struct {
    const char *what;
    row_name name;
} manners[] = {
    {"kohya", name_kohya},       {"diffusers", name_diffusers},
    {"original", name_original}, {"native", name_native},
    {"peft", name_peft},         {"flattened", name_flattened},
};
#define MANNERS (sizeof manners / sizeof manners[0])

static char names[MAX_ROWS][MAX_KEY];
static lora__key_in keys[MAX_ROWS];
static int64_t shapes[MAX_ROWS][2];
static size_t key_rows[MAX_ROWS];

/* The rows' names as the keys of one file. */
static size_t make_keys(const row *rows, size_t count, row_name name, int core)
{
    size_t used = 0;

    for (size_t i = 0; i < count; i++) {
        if (core && !rows[i].is_core) {
            continue;
        }
        name(names[used], &rows[i]);
        if (names[used][0] == '\0') {
            continue;
        }
        shapes[used][0] = 4;
        shapes[used][1] = rows[i].width;
        keys[used].name = names[used];
        keys[used].name_bytes = strlen(names[used]);
        keys[used].ndim = 2;
        keys[used].shape = shapes[used];
        key_rows[used++] = i;
    }
    return used;
}

/* All of a catalogue, and then its core alone, in each manner: each name means
 * its row, and the base is this family. */
static void check_reading(lora_context *context,
                          const lora__family *family,
                          const row *rows,
                          size_t count)
{
    for (size_t m = 0; m < 2 * MANNERS; m++) {
        size_t used = make_keys(rows, count, manners[m / 2].name, m % 2 != 0);
        lora__arena arena;
        lora__names found;

        lora__arena_init(&arena, context);
        assert_int_equal(
            lora__names_read(&found, &arena, keys, used, NULL, NULL, NULL),
            LORA_OK);
        if (found.family != family) {
            fail_msg("%s in %s names is taken for %s", lora__family_id(family),
                     manners[m / 2].what,
                     found.family == NULL ? "none"
                                          : lora__family_id(found.family));
        }
        for (size_t i = 0; i < used; i++) {
            check_key(&found.keys[i], &rows[key_rows[i]]);
        }
        lora__arena_destroy(&arena);
    }
}

/* Original names, but for text encoders of SD 2 and SDXL: their spelling is
 * that of the checkpoint, which nobody writes. */
static void
check_writing(lora_context *context, const lora__family *family, const row *r)
{
    lora__row_set rows;
    char want[MAX_KEY];
    char got[MAX_NAME];

    spell(got, &rows, context, family, "diffusers", r->target);
    assert_string_equal(got, r->target);
    assert_int_equal(rows.units, 0);
    spell(got, &rows, context, family, "kohya", r->target);
    assert_string_equal(got, r->kohya);
    if (strcmp(lora__family_id(family), "pixart_sigma") != 0 &&
        strcmp(lora__family_id(family), "cogvideox_5b") != 0 &&
        strcmp(lora__family_id(family), "stable_cascade_prior") != 0 &&
        !is_text(r)) {
        check_rows(&rows, r->part);
    } else {
        assert_int_equal(rows.units, 0);
    }
    if (is_text(r) && strncmp(r->original, "text_encoders.", 14) != 0) {
        return;
    }
    spell(got, &rows, context, family, "comfy/native", r->target);
    name_native(want, r);
    want[strlen(want) - strlen(PEFT_SUFFIX)] = '\0';
    assert_string_equal(got, want);
    check_rows(&rows, r->part);
}

static void check_family(size_t f)
{
    const lora__family *family = lora__family_find(families[f].family);
    size_t count;
    row *rows = load(f, &count);
    lora_context *context;
    lora__map map;
    size_t where;
    row r;

    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__map_init(&map, context);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(lora__map_add(&where, &map, rows[i].target,
                                       strlen(rows[i].target), i, NULL),
                         LORA_OK);
        assert_int_equal(where, i);
    }
    for (size_t i = 0; rule_row(&r, context, family, i); i++) {
        if (!lora__map_find(&where, &map, r.target, strlen(r.target))) {
            fail_msg("%s has no %s", families[f].family, r.target);
        }
        assert_int_equal(rows[where].seen, 0);
        rows[where].seen = 1;
        assert_int_equal(r.layer, rows[where].layer);
        assert_int_equal(r.is_default, rows[where].is_default);
        assert_int_equal(lora__family_layer(family, r.target), r.layer);
        assert_int_equal(lora__family_lacks_bias(family, r.target),
                         r.layer == LORA__LAYER_LINEAR &&
                             !rows[where].has_bias);
    }
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].seen) {
            fail_msg("no rule makes %s", rows[i].target);
        }
        check_writing(context, family, &rows[i]);
    }
    check_reading(context, family, rows, count);
    lora__map_destroy(&map);
    lora_context_destroy(context);
    free(rows);
}

/* One test a family, which says which it is. */
static void is_its_catalogue(void **state)
{
    check_family(*(const size_t *)*state);
}

#define FAMILIES (sizeof families / sizeof families[0])

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[FAMILIES + 1];
    static size_t numbers[FAMILIES];

    folder = argc > 1 ? argv[1] : NULL;
    tests[0].name = "rules_have_the_digest";
    tests[0].test_func = rules_have_the_digest;
    for (size_t f = 0; f < FAMILIES; f++) {
        numbers[f] = f;
        tests[f + 1].name = families[f].family;
        tests[f + 1].test_func = is_its_catalogue;
        tests[f + 1].initial_state = &numbers[f];
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
