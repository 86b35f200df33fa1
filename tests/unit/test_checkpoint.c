/* Checkpoints: what their tensors are, and the numbers in them. Files and
 * folders are opened by test_checkpoint_files.c, and the names of all families
 * compared with catalogues by test_checkpoint_names.c.
 */
#include "checkpoints.h"

#include "op/values.h"

#include <math.h>

static heap memory;
static lora_context *context;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define F32 LORA_DTYPE_F32

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_context(&memory, context);
    return 0;
}

/* Numbers ------------------------------------------------------------------
 */

#define RESBLOCK "conditioner.embedders.1.model.transformer.resblocks.3."
#define CLIP_G "text_encoder_2.text_model.encoder.layers.3."

/* An original weight is what it is, and each layer's share of it. */
static void shares_are_rows(void **state)
{
    static const weight weights[] = {
        {RESBLOCK "attn.in_proj_weight", F32, 2, {6, 2}, NULL},
        {RESBLOCK "attn.in_proj_bias", F32, 1, {6}, NULL},
        {"conditioner.embedders.1.model.text_projection", F32, 2, {2, 3}, NULL},
        {"model.diffusion_model.single_blocks.7.linear1.weight",
         F32,
         2,
         {14, 1},
         NULL},
        {"model.diffusion_model.final_layer.adaLN_modulation.1.weight",
         F32,
         2,
         {4, 2},
         NULL},
    };
    static const float counted[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const float turned[] = {1, 4, 2, 5, 3, 6};
    static const float mlp[] = {7, 8, 9, 10, 11, 12, 13, 14};
    static const float swapped[] = {5, 6, 7, 8, 1, 2, 3, 4};
    lora__checkpoint *c;
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    check_rows(c, CLIP_G "self_attn.q_proj", LORA__ROLE_WEIGHT, counted, 2, 2);
    check_rows(c, CLIP_G "self_attn.k_proj", LORA__ROLE_WEIGHT, counted + 4, 2,
               2);
    check_rows(c, CLIP_G "self_attn.v_proj", LORA__ROLE_WEIGHT, counted + 8, 2,
               2);
    check_rows(c, CLIP_G "self_attn.v_proj", LORA__ROLE_BIAS, counted + 4, 2,
               1);
    check_rows(c, "text_encoder_2.text_projection", LORA__ROLE_WEIGHT, turned,
               3, 2);
    check_rows(c, "transformer.single_transformer_blocks.7.attn.to_k",
               LORA__ROLE_WEIGHT, counted + 2, 2, 1);
    check_rows(c, "transformer.single_transformer_blocks.7.proj_mlp",
               LORA__ROLE_WEIGHT, mlp, 8, 1);
    check_rows(c, "transformer.norm_out.linear", LORA__ROLE_WEIGHT, swapped, 4,
               2);
    /* The whole, in its own order. */
    check_rows(c, "text_encoder_2.model.transformer.resblocks.3.attn.in_proj",
               LORA__ROLE_WEIGHT, counted, 6, 2);
    check_rows(c, "transformer.final_layer.adaLN_modulation.1",
               LORA__ROLE_WEIGHT, counted, 4, 2);
    assert_null(lora__checkpoint_find_target(c, CLIP_G "self_attn.out_proj",
                                             LORA__ROLE_WEIGHT));
    lora__checkpoint_release(c);
    free(file.data);
}

/* Every type of floats, by its bits. */
static void types_are_exact(void **state)
{
    static const uint16_t f16[] = {0x3C00, 0xC000, 0x0001, 0x7C00};
    static const uint16_t bf16[] = {0x3F80, 0xC000, 0x0001, 0x7F80};
    static const double f64[] = {1.0, -2.0, 0.1, 1e300};
    static const uint8_t e4m3[] = {0x38, 0xC0, 0x01, 0x7E};
    static const uint8_t e5m2[] = {0x3C, 0xC0, 0x01, 0x7C};
    static const weight weights[] = {
        {"a.weight", LORA_DTYPE_F16, 2, {2, 2}, f16},
        {"b.weight", LORA_DTYPE_BF16, 2, {2, 2}, bf16},
        {"c.weight", LORA_DTYPE_F64, 2, {2, 2}, f64},
        {"d.weight", LORA_DTYPE_F8_E4M3, 2, {2, 2}, e4m3},
        {"e.weight", LORA_DTYPE_F8_E5M2, 2, {2, 2}, e5m2},
        {"f.weight", F32, 0, {0}, NULL},
    };
    static const float want[][4] = {
        {1, -2, 0x1p-24F, INFINITY}, {1, -2, 0x1p-133F, INFINITY},
        {1, -2, 0.1F, INFINITY},     {1, -2, 0x1p-9F, 448},
        {1, -2, 0x1p-16F, INFINITY},
    };
    static const float one = 1;
    lora__checkpoint *c;
    unsigned char stored[8];
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    for (size_t i = 0; i < 5; i++) {
        const char target[] = {(char)('a' + i), '\0'};
        check_rows(c, target, LORA__ROLE_WEIGHT, want[i], 2, 2);
    }
    check_rows(c, "f", LORA__ROLE_WEIGHT, &one, 1, 1);
    assert_int_equal(lora__checkpoint_read_bytes(c, 0, 2, stored, 4, NULL),
                     LORA_OK);
    assert_memory_equal(stored, f16 + 1, 4);
    assert_int_equal(lora__checkpoint_read_bytes(c, 0, 6, stored, 4, NULL),
                     LORA_ERROR_RANGE);
    lora__checkpoint_release(c);
    free(file.data);
}

/* More values than are converted at a time: 5,000 in F16, 1.0 but for some. */
static void long_rows_are_whole(void **state)
{
    static uint16_t values[2][5000];
    static float got[2][5000];
    const weight w = {"a.weight", LORA_DTYPE_F16, 2, {2, 5000}, values};
    lora__checkpoint *c;
    blob file;

    (void)state;
    for (size_t i = 0; i < 10000; i++) {
        /* 0x4000 + i is 2 + i / 512, below 4 */
        values[i / 5000][i % 5000] = (uint16_t)(0x4000 + i % 1000);
    }
    assert_int_equal(open_weights(&c, &file, context, &w, 1, NULL), LORA_OK);
    assert_int_equal(lora__checkpoint_read_rows(got[0], LORA_DTYPE_F32, c,
                                                &c->holds[0], 0, 2, NULL),
                     LORA_OK);
    for (size_t i = 0; i < 10000; i++) {
        assert_true(got[i / 5000][i % 5000] == 2 + (float)(i % 1000) / 512);
    }
    lora__checkpoint_release(c);
    free(file.data);
}

/* Weights in F8 that are times a number beside them. */
static void scales_are_applied(void **state)
{
    static const uint8_t e4m3[] = {0x38, 0xC0}; /* 1, -2 */
    static const float scale = 0.375F;
    static const float pair[] = {0.5F, 2};
    static const weight weights[] = {
        {"a.weight", LORA_DTYPE_F8_E4M3, 2, {2, 1}, e4m3},
        {"a.scale_weight", F32, 0, {0}, &scale},
        {"a.scale_input", F32, 0, {0}, &scale},
        {"b.weight", LORA_DTYPE_F8_E4M3, 2, {2, 1}, e4m3},
        {"b.weight_scale", F32, 1, {1}, &scale},
        {"c.weight", LORA_DTYPE_F8_E4M3, 2, {2, 1}, e4m3},
        {"c.weight_scale", F32, 1, {2}, pair},
    };
    static const float want[] = {0.375F, -0.75F};
    const lora__holding *hold;
    lora__checkpoint *c;
    float got[2];
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    check_rows(c, "a", LORA__ROLE_WEIGHT, want, 2, 1);
    check_rows(c, "b", LORA__ROLE_WEIGHT, want, 2, 1);
    hold = lora__checkpoint_find_target(c, "c", LORA__ROLE_WEIGHT);
    assert_non_null(hold);
    assert_int_equal(
        lora__checkpoint_read_rows(got, LORA_DTYPE_F32, c, hold, 0, 2, NULL),
        LORA_ERROR_UNSUPPORTED);
    assert_int_equal(lora__checkpoint_scale(got, c, 0, NULL), LORA_OK);
    assert_true(got[0] == scale);
    assert_int_equal(lora__checkpoint_scale(got, c, 1, NULL), LORA_OK);
    assert_true(got[0] == 1);
    for (size_t i = 0; i < c->tensor_count; i++) {
        int helps = strstr(c->tensors[i].name, "scale") != NULL;
        assert_int_equal(c->tensors[i].use,
                         helps ? LORA__TENSOR_ASIDE : LORA__TENSOR_TARGET);
    }
    lora__checkpoint_release(c);
    free(file.data);
}

/* The first value that is not finite is named, read at once or in rows. */
static void bad_values_are_found(void **state)
{
    static const uint16_t f16[] = {0x3C00, 0xC400, 0x7BFF,
                                   0x7C00, 0x0000, 0x7E00};
    const weight w = {"a.weight", LORA_DTYPE_F16, 2, {3, 2}, f16};
    lora__values at_once;
    lora__values in_rows = {0};
    lora__checkpoint *c;
    lora_error error;
    float rows[6];
    blob file;

    (void)state;
    lora_error_init(&error, sizeof error);
    assert_int_equal(open_weights(&c, &file, context, &w, 1, NULL), LORA_OK);
    assert_int_equal(lora__values_look_at(&at_once, c->tensors[0].container,
                                          c->tensors[0].index, NULL),
                     LORA_OK);
    assert_int_equal(lora__checkpoint_read_rows(rows, LORA_DTYPE_F32, c,
                                                &c->holds[0], 0, 3, NULL),
                     LORA_OK);
    for (size_t i = 0; i < 3; i++) {
        lora__values_add(&in_rows, rows + 2 * i, 2, 2 * i);
    }
    assert_int_equal(at_once.bad, 2);
    assert_int_equal(at_once.first_bad, 3);
    assert_true(at_once.largest == 65504);
    assert_memory_equal(&at_once, &in_rows, sizeof at_once);
    assert_int_equal(lora__values_check(&in_rows, c->tensors[0].entry, &error),
                     LORA_ERROR_NONFINITE);
    assert_string_equal(error.subject, "a.weight");
    assert_non_null(strstr(error.message, "element 3"));
    lora__checkpoint_release(c);
    free(file.data);
}

/* Names --------------------------------------------------------------------
 */

#define CLIP "text_model.encoder.layers.0.mlp.fc1"
#define UNET "model.diffusion_model."
#define UNET_Q "input_blocks.1.1.transformer_blocks.0.attn1.to_q"

/* One key alone, by the prefix that its checkpoint gives it: formats.md 9.2. */
static void prefixes_are_known(void **state)
{
    static const struct {
        const char *name;
        const char *target;
        lora__role role;
        int original;
    } cases[] = {
        {"model.diffusion_model.middle_block.1.proj_out.bias",
         "unet.mid_block.attentions.0.proj_out", LORA__ROLE_BIAS, 1},
        {"model.diffusion_model.label_emb.0.2.weight",
         "unet.add_embedding.linear_2", LORA__ROLE_WEIGHT, 1},
        {"unet.mid_block.attentions.0.proj_out.bias",
         "unet.mid_block.attentions.0.proj_out", LORA__ROLE_BIAS, 0},
        {"cond_stage_model.transformer." CLIP ".weight", "text_encoder." CLIP,
         LORA__ROLE_WEIGHT, 0},
        {"text_encoder.encoder.layers.0.mlp.fc1.bias", "text_encoder." CLIP,
         LORA__ROLE_BIAS, 1},
        {"text_encoder.encoder.layers.22.mlp.fc1.weight",
         "text_encoder.text_model.encoder.layers.22.mlp.fc1", LORA__ROLE_WEIGHT,
         1},
        {"text_encoder.embeddings.token_embedding.weight",
         "text_encoder.text_model.embeddings.token_embedding",
         LORA__ROLE_WEIGHT, 1},
        {"text_encoder.final_layer_norm.weight",
         "text_encoder.text_model.final_layer_norm", LORA__ROLE_WEIGHT, 1},
        {"cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.bias",
         "text_encoder." CLIP, LORA__ROLE_BIAS, 1},
        {"cond_stage_model.model.positional_embedding",
         "text_encoder.text_model.embeddings.position_embedding",
         LORA__ROLE_WEIGHT, 1},
        {"conditioner.embedders.0.transformer." CLIP ".weight",
         "text_encoder." CLIP, LORA__ROLE_WEIGHT, 0},
        {"conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.bias",
         "text_encoder_2." CLIP, LORA__ROLE_BIAS, 1},
        {"text_encoders.clip_l.transformer." CLIP ".weight",
         "text_encoder." CLIP, LORA__ROLE_WEIGHT, 0},
        {"text_encoders.clip_g.transformer." CLIP ".weight",
         "text_encoder_2." CLIP, LORA__ROLE_WEIGHT, 0},
        {"double_blocks.3.img_attn.norm.key_norm.scale",
         "transformer.transformer_blocks.3.attn.norm_k", LORA__ROLE_WEIGHT, 1},
        {"model.diffusion_model.distilled_guidance_layer.norms.4.scale",
         "transformer.distilled_guidance_layer.norms.4", LORA__ROLE_WEIGHT, 1},
        {"model.diffusion_model.joint_blocks.3.context_block.mlp.fc1.bias",
         "transformer.transformer_blocks.3.ff_context.net.0.proj",
         LORA__ROLE_BIAS, 1},
        {"blocks.7.self_attn.o.weight", "transformer.blocks.7.attn1.to_out.0",
         LORA__ROLE_WEIGHT, 1},
        {"blocks.7.modulation", "transformer.blocks.7.scale_shift_table",
         LORA__ROLE_WEIGHT, 1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const weight w = {cases[i].name, F32, 2, {2, 2}, NULL};
        lora__checkpoint *c;
        blob file;

        assert_int_equal(open_weights(&c, &file, context, &w, 1, NULL),
                         LORA_OK);
        assert_string_equal(c->tensors[0].target, cases[i].target);
        assert_int_equal(c->tensors[0].role, cases[i].role);
        assert_int_equal(c->tensors[0].original, cases[i].original);
        assert_int_equal(c->tensors[0].known, 1);
        lora__checkpoint_release(c);
        free(file.data);
    }
}

/* A layer that all three UNets have tells none of them, though it is spelled
 * as adapters of one of them alone are. */
static void few_names_tell_no_family(void **state)
{
    static const weight w = {"input_blocks.0.0.weight", F32, 2, {2, 2}, NULL};
    lora__checkpoint *c;
    blob file;

    (void)state;
    assert_int_equal(open_weights(&c, &file, context, &w, 1, NULL), LORA_OK);
    assert_string_equal(c->tensors[0].target, "unet.conv_in");
    assert_null(c->family);
    assert_int_equal(c->alternative_count, 3);
    lora__checkpoint_release(c);
    free(file.data);
}

/* What no adapter changes is set aside, whatever it is called besides. */
static void some_are_no_targets(void **state)
{
    static const struct {
        const char *name;
        lora_dtype dtype;
        lora__tensor_use use;
        const char *target;
    } cases[] = {
        {UNET UNET_Q ".weight", F32, LORA__TENSOR_TARGET,
         "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"},
        {UNET "own.layer.weight", F32, LORA__TENSOR_TARGET, UNET "own.layer"},
        {UNET "own.layer.bias", F32, LORA__TENSOR_TARGET, UNET "own.layer"},
        {UNET "own.table", F32, LORA__TENSOR_TARGET, UNET "own.table"},
        {UNET "own.int8.weight", LORA_DTYPE_I8, LORA__TENSOR_NUMBERS,
         UNET "own.int8"},
        {UNET "pos_embed", F32, LORA__TENSOR_ASIDE, UNET "pos_embed"},
        {"first_stage_model.encoder.conv_in.weight", F32, LORA__TENSOR_ASIDE,
         NULL},
        {"vae.decoder.conv_in.weight", F32, LORA__TENSOR_ASIDE, NULL},
        {"model_ema.diffusion_modelinput_blocks11", F32, LORA__TENSOR_ASIDE,
         NULL},
        {"betas", F32, LORA__TENSOR_ASIDE, NULL},
        {"ztsnr", F32, LORA__TENSOR_ASIDE, NULL},
        {UNET "own.layer.weight.absmax", F32, LORA__TENSOR_ASIDE, NULL},
        {"alphas_cumprod", F32, LORA__TENSOR_ASIDE, NULL},
        {"cond_stage_model.logit_scale", F32, LORA__TENSOR_ASIDE, NULL},
        {"cond_stage_model.transformer.text_model.embeddings.position_ids", F32,
         LORA__TENSOR_ASIDE, NULL},
    };
    weight weights[COUNT(cases)];
    lora__checkpoint *c;
    blob file;

    (void)state;
    memset(weights, 0, sizeof weights);
    for (size_t i = 0; i < COUNT(cases); i++) {
        weights[i].name = cases[i].name;
        weights[i].dtype = cases[i].dtype;
        weights[i].ndim = 2;
        weights[i].shape[0] = weights[i].shape[1] = 2;
    }
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const lora__tensor *tensor = tensor_named(c, cases[i].name);
        assert_int_equal(tensor->use, cases[i].use);
        if (cases[i].target != NULL) {
            assert_string_equal(tensor->target, cases[i].target);
        }
        assert_true(
            (lora__checkpoint_find_target(c, tensor->target, tensor->role) !=
             NULL) == (cases[i].use != LORA__TENSOR_ASIDE));
    }
    assert_int_equal(tensor_named(c, UNET "own.layer.bias")->role,
                     LORA__ROLE_BIAS);
    assert_int_equal(tensor_named(c, UNET "own.table")->role,
                     LORA__ROLE_WEIGHT);
    assert_int_equal(tensor_named(c, UNET "own.table")->known, 0);
    lora__checkpoint_release(c);
    free(file.data);
}

/* Two tensors for one target: nobody could say which one counts. */
static void twice_is_refused(void **state)
{
    static const weight weights[] = {
        {UNET UNET_Q ".weight", F32, 2, {2, 2}, NULL},
        {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
         ".weight",
         F32,
         2,
         {2, 2},
         NULL},
    };
    lora__checkpoint *c;
    lora_error error;
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), &error),
        LORA_ERROR_DUPLICATE);
    assert_null(c);
    assert_string_equal(error.subject, "base");
    assert_non_null(strstr(error.message, "the same weight twice"));
    free(file.data);
}

/* Of a weight that cannot be cut there are no shares. */
static void odd_rows_stay_whole(void **state)
{
    static const weight weights[] = {
        {RESBLOCK "attn.in_proj_weight", F32, 2, {5, 2}, NULL},
        {"conditioner.embedders.1.model.text_projection", F32, 1, {2}, NULL},
    };
    static const float counted[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    lora__checkpoint *c;
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    assert_null(lora__checkpoint_find_target(c, CLIP_G "self_attn.q_proj",
                                             LORA__ROLE_WEIGHT));
    check_rows(c, "text_encoder_2.model.transformer.resblocks.3.attn.in_proj",
               LORA__ROLE_WEIGHT, counted, 5, 2);
    assert_int_equal(c->tensors[1].part_count, 0);
    lora__checkpoint_release(c);
    free(file.data);
}

static void patterns_match(void **state)
{
    static const weight weights[] = {
        {RESBLOCK "attn.in_proj_weight", F32, 2, {6, 2}, NULL},
    };
    static const struct {
        const char *pattern;
        int matches;
    } cases[] = {
        {RESBLOCK "attn.in_proj_weight", 1},
        {RESBLOCK "attn.in_proj", 1},
        {"text_encoder_2", 1},
        {"text_encoder", 0},
        {"*.self_attn.?_proj", 1},
        {"*.resblocks.3.*", 1},
        {"*.resblocks.4.*", 0},
        {"", 0},
    };
    lora__checkpoint *c;
    blob file;

    (void)state;
    assert_int_equal(
        open_weights(&c, &file, context, weights, COUNT(weights), NULL),
        LORA_OK);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(lora__tensor_matches(&c->tensors[0], cases[i].pattern),
                         cases[i].matches);
    }
    lora__checkpoint_release(c);
    free(file.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_rows),
        cmocka_unit_test(types_are_exact),
        cmocka_unit_test(long_rows_are_whole),
        cmocka_unit_test(scales_are_applied),
        cmocka_unit_test(bad_values_are_found),
        cmocka_unit_test(prefixes_are_known),
        cmocka_unit_test(few_names_tell_no_family),
        cmocka_unit_test(some_are_no_targets),
        cmocka_unit_test(twice_is_refused),
        cmocka_unit_test(odd_rows_stay_whole),
        cmocka_unit_test(patterns_match),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
