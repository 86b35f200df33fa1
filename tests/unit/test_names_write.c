/* Names, written: spelling targets, keeping what was read, and that every name
 * that can be written is read back as the same. */
#include "names.h"

/* Writing ------------------------------------------------------------------ */

typedef struct spelled {
    const char *dialect;
    const char *family; /* NULL: none */
    const char *target;
    const char *role;
    const char *key; /* NULL: refused */
    lora_status status;
} spelled;

static lora__role role_of(const char *name)
{
    for (int i = 0; i < LORA__ROLE_COUNT; i++) {
        if (strcmp(lora__role_name((lora__role)i), name) == 0) {
            return (lora__role)i;
        }
    }
    fail_msg("no role %s", name);
    return LORA__ROLE_UNKNOWN;
}

#define NO LORA_ERROR_UNSUPPORTED
static const spelled spelled_rows[] = {
    {"kohya", "sd15", ATTENTION "attn1.to_q", "down",
     "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
     ".lora_down.weight",
     0},
    {"kohya", "sdxl", "unet.up_blocks.0.upsamplers.0.conv", "up",
     "lora_unet_output_blocks_2_2_conv.lora_up.weight", 0},
    {"kohya", NULL, "unet.up_blocks.0.upsamplers.0.conv", "up",
     "lora_unet_up_blocks_0_upsamplers_0_conv.lora_up.weight", 0},
    {"kohya", NULL, "unet.add_embedding.linear_1", "up",
     "lora_unet_label_emb_0_0.lora_up.weight", 0},
    {"kohya-SDXL", "sd15", "unet.up_blocks.0.upsamplers.0.conv", "up",
     "lora_unet_output_blocks_2_1_conv.lora_up.weight", 0},
    {"kohya", "sd15", "text_encoder." CLIP "0.mlp.fc1", "alpha",
     "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", 0},
    {"kohya", "sdxl", "text_encoder." CLIP "0.mlp.fc1", "alpha",
     "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", 0},
    {"kohya", NULL, "text_encoder." CLIP "0.mlp.fc1", "dora_scale",
     "lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale", 0},
    {"kohya", "sdxl", "text_encoder_2." CLIP "0.mlp.fc1", "hada_w1_a",
     "lora_te2_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", 0},
    {"lycoris-wrapper", "sdxl", "unet.conv_in", "lokr_w1",
     "lycoris_conv_in.lokr_w1", 0},
    {"kohya-oft", "sdxl", "unet.conv_in", "oft_blocks",
     "oft_unet_input_blocks_0_0.oft_blocks", 0},
    {"kohya-oft", "sdxl", "text_encoder." CLIP "0.mlp.fc1", "oft_blocks", NULL,
     NO},
    {"diffusers-old", "sd15", ATTENTION "attn1.to_out.0", "down",
     ATTENTION "attn1.processor.to_out_lora.down.weight", 0},
    {"diffusers-old", "sd15", "text_encoder." CLIP "0.self_attn.v_proj", "up",
     "text_encoder." CLIP "0.self_attn.to_v_lora.up.weight", 0},
    {"diffusers-old", "sd15", ATTENTION "ff.net.2", "down", NULL, NO},
    {"diffusers-old", "sd15", ATTENTION "attn1.to_q", "alpha", NULL, NO},
    {"diffusers-unet", "sd15", "unet.conv_in", "down",
     "unet.conv_in.lora.down.weight", 0},
    {"diffusers-unet", "sd15", "unet.conv_in", "alpha", "unet.conv_in.alpha",
     0},
    {"diffusers-unet", "sd15", "text_encoder." CLIP "0.mlp.fc1", "up",
     "text_encoder." CLIP "0.mlp.fc1.lora_linear_layer.up.weight", 0},
    {"diffusers-te", "sdxl", "text_encoder_2." CLIP "0.mlp.fc1", "down",
     "text_encoder_2." CLIP "0.mlp.fc1.lora_linear_layer.down.weight", 0},
    {"diffusers", "sd15", "unet.conv_in", "down", "unet.conv_in.lora_A.weight",
     0},
    {"diffusers-peft", "sd15", "unet.conv_in", "dora_scale",
     "unet.conv_in.lora_magnitude_vector", 0},
    {"diffusers", "sd15", "unet.conv_in", "alpha", NULL, NO},
    {"diffusers", "sd15", "unet.conv_in", "mid", NULL, NO},
    {"peft", "sd15", "unet.conv_in", "up",
     "base_model.model.conv_in.lora_B.weight", 0},
    {"peft-raw", "sd15", "unet.conv_in", "up",
     "base_model.model.conv_in.lora_B.default.weight", 0},
    {"peft-raw", "sd15", "unet.conv_in", "up_bias",
     "base_model.model.conv_in.lora_B.default.bias", 0},
    {"peft-raw", "sd15", "unet.conv_in", "dora_scale",
     "base_model.model.conv_in.lora_magnitude_vector.default.weight", 0},
    {"peft-raw", "sd15", "unet.conv_in", "hada_w1_a",
     "base_model.model.conv_in.hada_w1_a.default", 0},
    {"cloneofsimo", "sd15", ATTENTION "attn1.to_q", "down", NULL, NO},
    {"kohya", "sd15", "a.b", "down", NULL, LORA_ERROR_KEY},
    {"kohya", "sd15", "<s1>", "token", "<s1>", 0},
};

static void targets_are_spelled(void **state)
{
    static file f;
    lora__buffer out;
    lora_error error;

    (void)state;
    file_open(&f);
    lora__buffer_init(&out, f.context);
    for (size_t i = 0; i < COUNT(spelled_rows); i++) {
        const spelled *row = &spelled_rows[i];
        const lora__dialect *dialect = lora__dialect_find(row->dialect);
        lora__spelling spelling = {0};

        assert_non_null(dialect);
        spelling.family =
            row->family == NULL ? NULL : lora__family_find(row->family);
        spelling.target = row->target;
        spelling.role = role_of(row->role);
        lora__buffer_clear(&out);
        lora_error_init(&error, sizeof error);
        assert_int_equal(lora__names_write(&out, dialect, &spelling, &error),
                         row->status);
        if (row->key == NULL) {
            assert_int_equal(out.bytes, 0);
            assert_int_equal(error.status, row->status);
            assert_string_equal(error.subject, row->target);
        } else {
            assert_string_equal(out.data, row->key);
        }
    }
    lora__buffer_destroy(&out);
    file_close(&f);
}

/* What was read is written back: in its own dialect letter by letter, in
 * others as far as the name carries. */
static void stored_names_are_kept(void **state)
{
    static const struct {
        const char *stored;
        const char *from;
        const char *target;
        const char *to;
        const char *key; /* NULL: KEY */
    } rows[] = {
        {"down_blocks.0.attentions.0." TB "attn1.processor.to_q",
         "diffusers-old", ATTENTION "attn1.to_q", "diffusers-old",
         "down_blocks.0.attentions.0." TB
         "attn1.processor.to_q_lora.down.weight"},
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1", "kohya",
         "text_encoder." CLIP "0.mlp.fc1", "kohya",
         "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
        {"unet:7", "cloneofsimo", "unet:7", "cloneofsimo", "unet:7:down"},
        {"lora_unet_a_b", "kohya", "a_b", "lycoris-kohya",
         "lora_unet_a_b.lora_down.weight"},
        {"lora_unet_a_b", "kohya", "a_b", "diffusers", NULL},
        {"lora_unet_a_b", "kohya", "a_b", "lycoris-wrapper", NULL},
        {"transformer.a.b", "diffusers", "transformer.a.b", "peft",
         "base_model.model.a.b.lora_A.weight"},
        {"transformer.a.b", "diffusers", "transformer.a.b", "diffusers-unet",
         "transformer.a.b.lora.down.weight"},
        {"transformer.a.b", "diffusers", "transformer.a.b", "kohya", NULL},
        {"base_model.model.a.b", "peft", "a.b", "peft-raw",
         "base_model.model.a.b.lora_A.default.weight"},
        {"base_model.model.a.b", "peft", "a.b", "diffusers", NULL},
        {"diffusion_model.a.b", "comfy/native", "a.b", "diffusers", NULL},
    };
    static file f;
    lora__buffer out;

    (void)state;
    file_open(&f);
    lora__buffer_init(&out, f.context);
    for (size_t i = 0; i < COUNT(rows); i++) {
        lora__spelling spelling = {0};

        spelling.target = rows[i].target;
        spelling.stored = rows[i].stored;
        spelling.stored_dialect = lora__dialect_find(rows[i].from);
        spelling.role = LORA__ROLE_DOWN;
        lora__buffer_clear(&out);
        assert_int_equal(lora__names_write(&out, lora__dialect_find(rows[i].to),
                                           &spelling, NULL),
                         rows[i].key == NULL ? LORA_ERROR_KEY : LORA_OK);
        assert_string_equal(out.data == NULL ? "" : out.data,
                            rows[i].key == NULL ? "" : rows[i].key);
    }
    lora__buffer_destroy(&out);
    file_close(&f);
}

static const char *const writable[] = {
    "kohya",       "kohya-SDXL",    "lycoris-kohya",  "lycoris-wrapper",
    "kohya-oft",   "diffusers-old", "diffusers-unet", "diffusers-te",
    "diffusers",   "peft",          "peft-raw",       "comfy/native",
    "bfl-control", "xlabs",         "OneTrainer DiT",
};

/* How many targets can be written, where that is not all of them. */
static size_t written_count(const lora__family *family,
                            const char *family_id,
                            const char *dialect_id,
                            size_t count,
                            size_t encoders)
{
    static const struct {
        const char *family;
        size_t old;
        size_t xlabs;
    } rows[] = {
        /* attention of 16, 16 and 70 transformer blocks, of 12, 23 and 44
         * layers of text encoders */
        {"sd15", 128 + 48, 0},
        {"sd21", 128 + 92, 0},
        {"sdxl", 560 + 176, 0},
        /* q, k, v and out of 19 and 57 blocks, 12 layers of CLIP-L, and
         * 4 * 2 in 19 double blocks, q, k, v and linear2 of 38 single ones */
        {"flux1_dev", 19 * 4 + 38 * 3 + 48, 19 * 8 + 38 * 4},
    };

    if (strcmp(dialect_id, "diffusers-old") == 0 ||
        strcmp(dialect_id, "xlabs") == 0) {
        for (size_t i = 0; i < COUNT(rows); i++) {
            if (strcmp(family_id, rows[i].family) == 0) {
                return dialect_id[0] == 'x' ? rows[i].xlabs : rows[i].old;
            }
        }
        return dialect_id[0] == 'x' && strcmp(family_id, "chroma") != 0
                   ? 0
                   : SIZE_MAX;
    }
    if (strcmp(dialect_id, "kohya-oft") == 0) {
        return strcmp(family_id, "stable_cascade_prior") == 0
                   ? 0
                   : count - encoders;
    }
    if (strcmp(dialect_id, "bfl-control") == 0 ||
        strcmp(dialect_id, "OneTrainer DiT") == 0) {
        int transformer = family > lora__family_find("sdxl") &&
                          strcmp(family_id, "stable_cascade_prior") != 0;
        size_t text = dialect_id[0] == 'O' ? encoders : 0;
        return transformer ? count - encoders + text : text;
    }
    return count;
}

/* 1 if the key means the target, or is of a module with that part. */
static int
means(const lora__key_out *key, const char *target, const lora__row_set *rows)
{
    if (key->part_count == 0) {
        return rows->units == 0 && strcmp(key->target, target) == 0;
    }
    for (size_t i = 0; i < key->part_count; i++) {
        if (strcmp(key->parts[i].target, target) == 0) {
            return memcmp(&key->parts[i].rows, rows, sizeof *rows) == 0;
        }
    }
    return 0;
}

/* All targets of a family in a dialect: written, then read as one file. */
static void round_trip(const lora__family *family, const char *dialect_id)
{
    static file f;
    static lora__row_set rows[MAX_KEYS];
    const lora__dialect *dialect = lora__dialect_find(dialect_id);
    lora__role role = strcmp(dialect_id, "kohya-oft") == 0
                          ? LORA__ROLE_OFT_BLOCKS /* it has no other */
                          : LORA__ROLE_DOWN;
    size_t count = lora__family_target_count(family);
    const char **targets = calloc(count, sizeof *targets);
    lora__buffer target;
    lora__buffer key;
    size_t written = 0;
    size_t encoders = 0;
    size_t want;

    assert_non_null(targets);
    assert_non_null(dialect);
    file_open(&f);
    lora__buffer_init(&target, f.context);
    lora__buffer_init(&key, f.context);
    for (size_t i = 0; i < count; i++) {
        lora__target facts;
        lora__spelling spelling = {0};
        const char *copy;
        lora_status status;

        lora__buffer_clear(&target);
        lora__buffer_clear(&key);
        assert_true(lora__family_target_at(&target, &facts, family, i));
        encoders += strncmp(target.data, "text", 4) == 0;
        spelling.family = family;
        spelling.target = target.data;
        spelling.role = role;
        spelling.rows = &rows[written];
        status = lora__names_write(&key, dialect, &spelling, NULL);
        if (status == LORA_ERROR_UNSUPPORTED) {
            assert_int_equal(key.bytes, 0);
            continue;
        }
        assert_int_equal(status, LORA_OK);
        assert_int_equal(lora__arena_string(&targets[written], &f.arena,
                                            target.data, target.bytes, NULL),
                         LORA_OK);
        assert_int_equal(
            lora__arena_string(&copy, &f.arena, key.data, key.bytes, NULL),
            LORA_OK);
        file_add(&f, copy, 2, matrix);
        written++;
    }
    file_read(&f);
    for (size_t i = 0; i < written; i++) {
        if (!means(&f.names.keys[i], targets[i], &rows[i])) {
            fail_msg("%s in %s is read as %s", targets[i], dialect_id,
                     f.names.keys[i].target);
        }
        assert_int_equal(f.names.keys[i].known, 1);
        assert_int_equal(f.names.keys[i].role, role);
    }
    want = written_count(family, lora__family_id(family), dialect_id, count,
                         encoders);
    assert_true(want == SIZE_MAX || written == want);
    lora__buffer_destroy(&key);
    lora__buffer_destroy(&target);
    file_close(&f);
    free(targets);
}

static void every_target_comes_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < lora__family_count(); i++) {
        for (size_t d = 0; d < COUNT(writable); d++) {
            round_trip(lora__family_at(i), writable[d]);
        }
    }
}

static void tables_answer(void **state)
{
    (void)state;
    assert_null(lora__dialect_find("no such"));
    assert_null(lora__dialect_find("KOHYA"));
    assert_null(lora__family_find("sd"));
    assert_null(lora__family_at(lora__family_count()));
    assert_ptr_equal(lora__dialect_find("diffusers-peft"),
                     lora__dialect_find("diffusers"));
    assert_true(
        lora__dialect_alpha_in_metadata(lora__dialect_find("diffusers")));
    assert_false(lora__dialect_alpha_in_metadata(lora__dialect_find("kohya")));
    assert_true(
        lora__dialect_has_role(lora__dialect_find("kohya"), LORA__ROLE_ALPHA));
    assert_false(lora__dialect_has_role(lora__dialect_find("diffusers-old"),
                                        LORA__ROLE_ALPHA));
    assert_true(
        lora__dialect_has_role(lora__dialect_find("peft"), LORA__ROLE_HADA_T1));
    assert_false(lora__dialect_has_role(lora__dialect_find("diffusers"),
                                        LORA__ROLE_HADA_T1));
    assert_string_equal(lora__family_ss_version(lora__family_find("sdxl")),
                        "sdxl_base_v1-0");
    assert_null(lora__family_architecture(lora__family_find("sd21")));
    for (int i = 0; i < LORA__ROLE_COUNT; i++) {
        assert_non_null(lora__role_name((lora__role)i));
    }
    assert_int_equal(lora__family_layer(lora__family_find("sdxl"),
                                        "unet.down_blocks.0.attentions.0.norm"),
                     LORA__LAYER_UNKNOWN);
    assert_int_equal(lora__family_layer(lora__family_find("sd15"),
                                        "unet.down_blocks.0.attentions.0.norm"),
                     LORA__LAYER_NORM);
}

/* Numbers behind a name, and no other ones. */
static void pieces_are_told(void **state)
{
    static const struct {
        const char *key;
        int32_t piece;
    } rows[] = {
        {"oft_unet_a.oft_blocks", -1},
        {"oft_unet_a.oft_blocks.", -1},
        {"oft_unet_a.oft_blocks.x", -1},
        {".oft_blocks.1", -1},
        {"oft_unet_a.lora_up.weight.1", -1},
        {"oft_unet_a.alpha", -1},
        {"", -1},
        {"oft_unet_a.oft_blocks.0", 0},
        {"oft_unet_a.oft_blocks.3", 3},
        {"oft_unet_a.oft_blocks.10", 10},
        {"oft_unet_a.oft_blocks.999", 999},
        {"oft_unet_a.oft_blocks.00", INT32_MAX},
        {"oft_unet_a.oft_blocks.01", INT32_MAX},
        {"oft_unet_a.oft_blocks.1000", INT32_MAX},
        {"oft_unet_a.oft_blocks.4294967296", INT32_MAX},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(lora__name_piece(rows[i].key, strlen(rows[i].key)),
                         rows[i].piece);
    }
}

/* The number is written where the dialect keeps the name, and with it only. */
static void pieces_are_kept(void **state)
{
    static const struct {
        const char *dialect;
        const char *key;
        const char *want;
    } rows[] = {
        {"kohya-oft", "oft_unet_conv_in.oft_blocks.2",
         "oft_unet_conv_in.oft_blocks.2"},
        {"kohya-oft", "oft_unet_conv_in.oft_blocks",
         "oft_unet_conv_in.oft_blocks"},
        {"kohya-oft", NULL, "oft_unet_conv_in.oft_blocks"},
        {"lycoris-kohya", NULL, "lora_unet_conv_in.oft_blocks"},
    };
    static file f;
    lora__buffer out;

    (void)state;
    file_open(&f);
    lora__buffer_init(&out, f.context);
    for (size_t i = 0; i < COUNT(rows); i++) {
        lora__spelling spelling = {0};

        spelling.target = "unet.conv_in";
        spelling.stored = "oft_unet_conv_in";
        spelling.family = lora__family_find("sd15");
        spelling.stored_dialect = lora__dialect_find("kohya-oft");
        spelling.key = rows[i].key;
        spelling.role = LORA__ROLE_OFT_BLOCKS;
        lora__buffer_clear(&out);
        assert_int_equal(lora__names_write(&out,
                                           lora__dialect_find(rows[i].dialect),
                                           &spelling, NULL),
                         LORA_OK);
        assert_string_equal(out.data, rows[i].want);
    }
    lora__buffer_destroy(&out);
    file_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_spelled),
        cmocka_unit_test(stored_names_are_kept),
        cmocka_unit_test(every_target_comes_back),
        cmocka_unit_test(tables_answer),
        cmocka_unit_test(pieces_are_told),
        cmocka_unit_test(pieces_are_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
