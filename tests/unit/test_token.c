/* Names of learned tokens: taken apart and put together, what a file must be
 * for any name to be one, and which text encoder has which width.
 */
#include "names.h"

#include "names/family.h"
#include "names/token.h"

/* Key, form, token, encoder ("" for none). */
static const struct {
    const char *key;
    lora__token_form form;
    const char *token;
    const char *encoder;
} rows[] = {
    {"<cat>", LORA__TOKEN_NAMED, "<cat>", ""},
    {"<a.b c>", LORA__TOKEN_NAMED, "<a.b c>", ""},
    {"string_to_param.*", LORA__TOKEN_A1111, "", ""},
    {"string_to_param.other", LORA__TOKEN_A1111, "", ""},
    {"emb_params", LORA__TOKEN_EMB_PARAMS, "", ""},
    {"clip_l", LORA__TOKEN_ENCODER, "", "clip_l"},
    {"clip_g_out", LORA__TOKEN_ENCODER, "", "clip_g_out"},
    {"text_encoders_1", LORA__TOKEN_ENCODER, "", "text_encoders_1"},
    {"bundle_emb.cat.string_to_param.*", LORA__TOKEN_BUNDLE, "cat", ""},
    {"bundle_emb.cat.toy.string_to_param.*", LORA__TOKEN_BUNDLE, "cat.toy", ""},
    {"bundle_emb.<cat>.t5", LORA__TOKEN_BUNDLE, "<cat>", "t5"},
    {"bundle_emb.v1.5.clip_l_out", LORA__TOKEN_BUNDLE, "v1.5", "clip_l_out"},
    {"bundle_emb.cat.emb_params", LORA__TOKEN_BUNDLE, "cat", ""},
    {"bundle_emb.cat.<other>", LORA__TOKEN_BUNDLE, "cat", ""},
    {"bundle_emb.cat.clip_x.y", LORA__TOKEN_BUNDLE, "cat", ""},
    {"bundle_emb.cat", LORA__TOKEN_BUNDLE, "cat", ""},
    {"bundle_emb..clip_l", LORA__TOKEN_BUNDLE, "", "clip_l"},
    {"bundle_emb.", LORA__TOKEN_BUNDLE, "", ""},
};

static void names_are_taken_apart(void **state)
{
    static const char *const others[] = {
        "",           "<>",   "<x",         "x>",           "cat",
        "clip_ll",    "clip", "bundle_emb", "emb_params.x", "string_to_param",
        "clip_l.cat", "T5",   "encoder_0",
    };
    lora__token_name name;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *key = rows[i].key;
        size_t bytes = strlen(rows[i].token);
        assert_int_equal(lora__token_read(&name, key, strlen(key)), 1);
        assert_int_equal(name.form, rows[i].form);
        assert_int_equal(name.token_bytes, bytes);
        assert_memory_equal(name.token, rows[i].token, bytes);
        assert_string_equal(name.encoder == NULL ? "" : name.encoder,
                            rows[i].encoder);
    }
    for (size_t i = 0; i < COUNT(others); i++) {
        assert_int_equal(lora__token_read(&name, others[i], strlen(others[i])),
                         0);
    }
}

static void names_are_put_together(void **state)
{
    static const char *const expected[] = {"cat", "string_to_param.*",
                                           "emb_params", "clip_g",
                                           "bundle_emb.cat.clip_g"};
    lora_context *context;
    lora__buffer buffer;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    lora__buffer_init(&buffer, context);
    for (int form = 0; form < LORA__TOKEN_FORM_COUNT; form++) {
        lora__buffer_clear(&buffer);
        lora__token_put(&buffer, (lora__token_form)form, "cat", "clip_g");
        assert_string_equal(buffer.data, expected[form]);
        assert_int_equal(
            lora__token_form_find(lora__token_form_id((lora__token_form)form)),
            form);
    }
    lora__buffer_clear(&buffer);
    lora__token_put(&buffer, LORA__TOKEN_BUNDLE, "cat", NULL);
    assert_string_equal(buffer.data, "bundle_emb.cat.string_to_param.*");
    assert_int_equal(lora__token_form_find("other"), LORA__TOKEN_FORM_COUNT);
    lora__buffer_destroy(&buffer);
    lora_context_destroy(context);
}

/* CLIP ViT-L, OpenCLIP ViT-H and ViT-bigG, T5 XXL. */
static void widths_tell_encoders(void **state)
{
    static const struct {
        const char *family;
        int64_t widths[4]; /* 0: no more */
    } bases[] = {{"sd15", {768, 0, 0, 0}},
                 {"sd21", {1024, 0, 0, 0}},
                 {"sdxl", {768, 1280, 0, 0}},
                 {"sd3_medium", {768, 1280, 4096, 0}},
                 {"flux1_dev", {768, 4096, 0, 0}}};
    static const int64_t all[] = {768, 1024, 1280, 4096, 12};

    (void)state;
    assert_string_equal(lora__token_encoder(768), "clip_l");
    assert_string_equal(lora__token_encoder(1024), "clip_h");
    assert_string_equal(lora__token_encoder(1280), "clip_g");
    assert_string_equal(lora__token_encoder(4096), "t5");
    assert_string_equal(lora__token_encoder(12), "");
    assert_int_equal(lora__token_is_other("clip_l", 768), 0);
    assert_int_equal(lora__token_is_other("clip_l", 1024), 0); /* of SD 2 */
    assert_int_equal(lora__token_is_other("clip_l", 1280), 1);
    assert_int_equal(lora__token_is_other("clip_g", 768), 1);
    assert_int_equal(lora__token_is_other("clip_g", 12), 0);
    assert_int_equal(lora__token_is_other("gemma", 768), 0);
    assert_int_equal(lora__token_fits(NULL, 12), 1);
    assert_int_equal(lora__token_fits(lora__family_find("qwen_image"), 12), 1);
    for (size_t i = 0; i < COUNT(bases); i++) {
        const lora__family *family = lora__family_find(bases[i].family);
        int count = 0;
        for (size_t w = 0; w < COUNT(all); w++) {
            int fits = 0;
            for (size_t k = 0; k < COUNT(bases[i].widths); k++) {
                fits |= bases[i].widths[k] == all[w];
            }
            assert_int_equal(lora__token_fits(family, all[w]), fits);
            count += fits;
        }
        assert_int_equal(lora__token_encoder_count(family), count);
    }
}

/* Names without brackets are tokens where nothing else is in the file. */
static void tokens_may_be_alone(void **state)
{
    static const int64_t vector[] = {768};
    static const int64_t vectors[] = {8, 1280};
    static const int64_t square[] = {768, 768};
    static const int64_t narrow[] = {767};
    static const int64_t cube[] = {2, 3, 768};
    static const struct {
        const char *key;
        int32_t ndim;
        const int64_t *shape;
        int is_token;
    } seconds[] = {
        {"toy", 1, vector, 1},    {"a toy", 2, vectors, 1},
        {"weight", 2, square, 0}, {"toy", 1, narrow, 0},
        {"toy", 3, cube, 0},      {"conv.weight", 1, vector, 0},
        {"", 1, vector, 0},       {"a.lora_down.weight", 2, vectors, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(seconds); i++) {
        static file f;
        file_open(&f);
        file_add(&f, "cat", 1, vector);
        file_add(&f, seconds[i].key, seconds[i].ndim, seconds[i].shape);
        file_read(&f);
        assert_int_equal(f.names.keys[0].role == LORA__ROLE_TOKEN,
                         seconds[i].is_token);
        assert_int_equal(f.names.keys[1].role == LORA__ROLE_TOKEN,
                         seconds[i].is_token);
        file_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_taken_apart),
        cmocka_unit_test(names_are_put_together),
        cmocka_unit_test(widths_tell_encoders),
        cmocka_unit_test(tokens_may_be_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
