/* Names: the guess of the base model, and the layers that follow from it. What
 * whole adapters are taken for is for test_catalogues.c. */
#include "names.h"

/* The base ----------------------------------------------------------------- */

typedef struct base_case {
    const char *family; /* NULL: unknown */
    const char *alternatives;
    int64_t width; /* of all */
    const char *keys[5];
    const char *metadata[3];
} base_case;

#define UNET "lora_unet_down_blocks_1_attentions_0_transformer_blocks_"
#define SD_UNET "lora_unet_down_blocks_0_attentions_0_transformer_blocks_"
#define TE "lora_te_text_model_encoder_layers_"
#define TE1 "lora_te1_text_model_encoder_layers_"
#define TE2 "lora_te2_text_model_encoder_layers_"
#define DOWN ".lora_down.weight"

static const base_case base_cases[] = {
    /* widths of the cross-attention */
    {"sd15", "", 768, {UNET "0_attn2_to_k" DOWN}, {NULL}},
    {"sd21", "", 1024, {UNET "0_attn2_to_v" DOWN}, {NULL}},
    {"sdxl", "", 2048, {UNET "0_attn2_to_k" DOWN}, {NULL}},
    {"sd15",
     "",
     768,
     {SD_UNET "0_attn2_to_k" DOWN, TE "0_mlp_fc1" DOWN},
     {NULL}},
    /* names that only one has */
    {"sdxl", "", 20, {UNET "1_attn1_to_q" DOWN}, {NULL}},
    {"sdxl",
     "sd3_medium sd35_medium sd35_large",
     20,
     {TE2 "0_mlp_fc1" DOWN},
     {NULL}},
    {"sdxl",
     "sd3_medium sd35_medium sd35_large",
     1280,
     {"text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A."
      "weight"},
     {NULL}},
    {"sdxl", "", 20, {"lora_unet_input_blocks_4_1_proj_in" DOWN}, {NULL}},
    {"sd21", "", 20, {TE "22_mlp_fc1" DOWN}, {NULL}},
    /* not enough to tell */
    {NULL, "sd15 sd21 sdxl", 20, {UNET "0_attn1_to_q" DOWN}, {NULL}},
    {NULL, "sd15 sd21", 20, {SD_UNET "0_attn1_to_q" DOWN}, {NULL}},
    {NULL,
     "sd15 sdxl flux1_dev sd3_medium sd35_medium sd35_large",
     768,
     {TE "0_self_attn_q_proj" DOWN},
     {NULL}},
    {"sd15",
     "",
     768,
     {TE "0_self_attn_q_proj" DOWN},
     {"ss_base_model_version", "sd_v1"}},
    {NULL,
     "flux1_dev sd3_medium sd35_medium sd35_large",
     4096,
     {"base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"},
     {NULL}},
    {"sd21", "", 1024, {TE "0_self_attn_q_proj" DOWN}, {NULL}},
    /* unreal widths */
    {"sd15", "sd21", 20, {SD_UNET "0_attn2_to_k" DOWN}, {NULL}},
    /* not ours */
    {NULL,
     "",
     768,
     {"lora_unet_double_blks_0_img_mod_lin" DOWN,
      TE1 "0_self_attn_q_proj" DOWN},
     {NULL}},
    {NULL, "", 20, {"lora_unet_x" DOWN}, {NULL}},
    {NULL, "", 20, {"conv_in.weight"}, {NULL}},
    {NULL,
     "",
     768,
     {TE1 "0_self_attn_q_proj" DOWN, TE2 "0_mlp_fc1" DOWN},
     {"ss_base_model_version", "kolors"}},
    /* transformers: by names that only one has */
    {"flux1_dev",
     "",
     20,
     {"lora_unet_double_blocks_0_img_mod_lin" DOWN,
      TE1 "0_self_attn_q_proj" DOWN},
     {NULL}},
    {"hunyuan_video",
     "",
     3072,
     {"lora_unet_single_blocks_38_linear2" DOWN},
     {NULL}},
    {"sd35_large",
     "",
     20,
     {"lora_unet_joint_blocks_24_x_block_attn_qkv" DOWN},
     {NULL}},
    {"sd35_medium",
     "",
     20,
     {"lora_unet_joint_blocks_0_x_block_attn2_qkv" DOWN},
     {NULL}},
    {"wan21_i2v_14b",
     "",
     20,
     {"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight",
      "diffusion_model.blocks.0.self_attn.q.lora_A.weight"},
     {NULL}},
    /* by the width of the model */
    {"sd35_large",
     "",
     2432,
     {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
      "transformer.transformer_blocks.0.ff_context.net.2.lora_A.weight",
      "transformer.transformer_blocks.0.ff.net.2.lora_A.weight"},
     {NULL}},
    {"sd35_large",
     "",
     2432,
     {"lora_unet_joint_blocks_0_x_block_attn_qkv" DOWN},
     {NULL}},
    /* the likeliest of a few */
    {"flux1_dev",
     "chroma hunyuan_video",
     20,
     {"lora_unet_single_blocks_0_linear1" DOWN},
     {NULL}},
    {"sd3_medium",
     "sd35_medium sd35_large",
     20,
     {"lora_unet_joint_blocks_0_x_block_attn_qkv" DOWN},
     {NULL}},
    {"wan21_t2v_14b",
     "wan21_i2v_14b",
     1536,
     {"lora_unet_blocks_0_self_attn_q" DOWN},
     {NULL}},
    /* too many */
    {NULL,
     "flux1_dev chroma sd3_medium sd35_medium sd35_large hunyuan_video",
     20,
     {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight"},
     {NULL}},
    /* what the trainer says, with names that tell no more */
    {"flux1_dev",
     "",
     20,
     {"lora_unet_single_blocks_0_linear1" DOWN},
     {"ss_base_model_version", "flux1"}},
    {"chroma",
     "",
     20,
     {"lora_unet_single_blocks_0_linear1" DOWN},
     {"modelspec.architecture", "chroma/lora"}},
    {"flux1_dev",
     "",
     20,
     {"lora_unet_single_blocks_0_linear1" DOWN},
     {"modelspec.architecture", "flux-1-schnell/lora"}},
    {"sd35_medium",
     "",
     20,
     {"lora_unet_joint_blocks_0_x_block_attn_qkv" DOWN},
     {"ss_base_model_version", "5-medium"}},
    {"sd3_medium",
     "",
     768,
     {TE1 "0_self_attn_q_proj" DOWN, TE2 "0_mlp_fc1" DOWN},
     {"ss_base_model_version", "medium"}},
    {"wan21_i2v_14b",
     "",
     20,
     {"lora_unet_blocks_0_cross_attn_k_img" DOWN},
     {"ss_base_model_version", "wan"}},
    {"wan21_t2v_14b",
     "wan21_i2v_14b",
     20,
     {"lora_unet_blocks_0_cross_attn_k" DOWN},
     {"ss_base_model_version", "wan"}},
    /* what the trainer says */
    {"sd15",
     "",
     20,
     {UNET "0_attn1_to_q" DOWN},
     {"ss_base_model_version", "sd_v1"}},
    {"sd21",
     "",
     20,
     {UNET "0_attn1_to_q" DOWN},
     {"ss_base_model_version", "sd_v2_v"}},
    {"sdxl",
     "",
     20,
     {UNET "0_attn1_to_q" DOWN},
     {"ss_base_model_version", "sdxl_base_v1-0"}},
    {"sdxl",
     "",
     20,
     {UNET "0_attn1_to_q" DOWN},
     {"modelspec.architecture", "stable-diffusion-xl-v1-base/lora"}},
    {"sd21",
     "",
     20,
     {UNET "0_attn1_to_q" DOWN},
     {"modelspec.architecture", "stable-diffusion-v2-768-v/lora"}},
    {"sd21", "", 20, {UNET "0_attn1_to_q" DOWN}, {"ss_v2", "True"}},
    {"sd15",
     "sdxl",
     20,
     {UNET "1_attn1_to_q" DOWN},
     {"ss_base_model_version", "sd_v1"}},
    {"sdxl",
     "",
     20,
     {UNET "1_attn1_to_q" DOWN},
     {"ss_base_model_version", "ponyxl"}},
};

static void base_is_guessed(void **state)
{
    static file f;

    (void)state;
    for (size_t i = 0; i < COUNT(base_cases); i++) {
        const base_case *c = &base_cases[i];
        int64_t shape[2] = {4, 0};
        char alternatives[96] = "";

        shape[1] = c->width;
        file_open(&f);
        f.metadata = c->metadata;
        for (const char *const *key = c->keys; *key != NULL; key++) {
            file_add(&f, *key, 2, shape);
        }
        file_read(&f);
        for (size_t a = 0; a < f.names.alternative_count; a++) {
            size_t used = strlen(alternatives);
            snprintf(alternatives + used, sizeof alternatives - used, "%s%s",
                     a == 0 ? "" : " ",
                     lora__family_id(f.names.alternatives[a]));
        }
        if (c->family == NULL) {
            assert_null(f.names.family);
            assert_true(f.names.confidence == 0);
        } else {
            assert_non_null(f.names.family);
            assert_string_equal(lora__family_id(f.names.family), c->family);
            assert_true(f.names.confidence > 0 && f.names.confidence <= 1);
        }
        assert_string_equal(alternatives, c->alternatives);
        file_close(&f);
    }
}

static void layer_follows_the_base(void **state)
{
    static const struct {
        int64_t width;
        lora__layer layer;
    } rows[] = {
        {768, LORA__LAYER_CONV1},
        {2048, LORA__LAYER_LINEAR},
        {20, LORA__LAYER_UNKNOWN},
    };
    static file f;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        int64_t shape[2] = {4, 0};
        shape[1] = rows[i].width;
        file_open(&f);
        file_add(&f, "unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", 2,
                 shape);
        file_add(&f, UNET "0_attn2_to_k" DOWN, 2, shape);
        file_add(&f, "unet.conv_in.lora_A.weight", 4, shape);
        file_read(&f);
        assert_int_equal(f.names.keys[0].layer, rows[i].layer);
        assert_int_equal(f.names.keys[1].layer, LORA__LAYER_LINEAR);
        assert_int_equal(f.names.keys[2].layer, LORA__LAYER_CONV3);
        file_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base_is_guessed),
        cmocka_unit_test(layer_follows_the_base),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
