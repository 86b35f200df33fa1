/* Names, read: each dialect and each trap, damaged keys, and what happens when
 * memory runs out.
 *
 * What is expected was written down from real files and from the definitions
 * of the formats, not from the tables of the library. Whether the families'
 * rules make the right targets is for test_catalogues.c; modules of several
 * targets and keys with numbers are in test_names_parts.c.
 */
#include "names.h"

/* Names of modules ----------------------------------------------------------
 */

static const meaning sd_rows[] = {
    {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
     ".lora_down.weight",
     "kohya", "down",
     "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
     ATTENTION "attn1.to_q", 1},
    {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
     ".alpha",
     "kohya", "alpha",
     "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
     ATTENTION "attn1.to_out.0", 1},
    {"lora_unet_mid_block_resnets_1_conv2.lora_mid.weight", "kohya", "mid",
     "lora_unet_mid_block_resnets_1_conv2", "unet.mid_block.resnets.1.conv2",
     1},
    {"lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight", "kohya",
     "up", "lora_te_text_model_encoder_layers_11_mlp_fc1",
     "text_encoder." CLIP "11.mlp.fc1", 1},
    {"lora_te1_text_model_encoder_layers_3_self_attn_k_proj.alpha", "kohya",
     "alpha", "lora_te1_text_model_encoder_layers_3_self_attn_k_proj",
     "text_encoder." CLIP "3.self_attn.k_proj", 1},
    {"lora_te2_text_model_encoder_layers_31_mlp_fc2.lora_up.weight", "kohya",
     "up", "lora_te2_text_model_encoder_layers_31_mlp_fc2",
     "text_encoder_2." CLIP "31.mlp.fc2", 1},
    {"lora_te2_text_projection.diff", "lycoris-kohya", "diff",
     "lora_te2_text_projection", "text_encoder_2.text_projection", 1},
    {"lora_unet_down_blocks_1_attentions_0_proj_in.hada_w1_a", "lycoris-kohya",
     "hada_w1_a", "lora_unet_down_blocks_1_attentions_0_proj_in",
     "unet.down_blocks.1.attentions.0.proj_in", 1},
    {"lora_unet_conv_norm_out.w_norm", "lycoris-kohya", "w_norm",
     "lora_unet_conv_norm_out", "unet.conv_norm_out", 1},
    {"oft_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
     ".oft_blocks",
     "kohya-oft", "oft_blocks",
     "oft_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v",
     "unet.mid_block.attentions.0." TB "attn2.to_v", 1},
    {"lycoris_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj"
     ".lokr_w1",
     "lycoris-wrapper", "lokr_w1",
     "lycoris_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj",
     "unet.up_blocks.1.attentions.2." TB "ff.net.0.proj", 1},
    {"lycoris_text_model_encoder_layers_0_mlp_fc1.alpha", "lycoris-wrapper",
     "alpha", "lycoris_text_model_encoder_layers_0_mlp_fc1",
     "text_encoder." CLIP "0.mlp.fc1", 1},
    /* flattened once too often */
    {"lora_unet_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_"
     "processor_to_out_lora_down.weight",
     "kohya", "down",
     "lora_unet_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_"
     "processor_to_out",
     ATTENTION "attn1.to_out.0", 1},
    {"lora_unet__conv_in.lora_up.weight", "kohya", "up", "lora_unet__conv_in",
     "unet.conv_in", 1},
};

static const meaning sdxl_rows[] = {
    {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha",
     "kohya-SDXL", "alpha",
     "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
     "unet.down_blocks.1.attentions.0." TB "attn1.to_q", 1},
    {"lora_unet_middle_block_1_transformer_blocks_9_ff_net_2.lora_up.weight",
     "kohya-SDXL", "up",
     "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2",
     "unet.mid_block.attentions.0.transformer_blocks.9.ff.net.2", 1},
    {"lora_unet_middle_block_2_in_layers_2.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_middle_block_2_in_layers_2", "unet.mid_block.resnets.1.conv1",
     1},
    {"lora_unet_output_blocks_5_0_skip_connection.lora_up.weight", "kohya-SDXL",
     "up", "lora_unet_output_blocks_5_0_skip_connection",
     "unet.up_blocks.1.resnets.2.conv_shortcut", 1},
    {"lora_unet_output_blocks_2_2_conv.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_output_blocks_2_2_conv", "unet.up_blocks.0.upsamplers.0.conv",
     1},
    {"lora_unet_output_blocks_2_1_conv.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_output_blocks_2_1_conv", "unet.up_blocks.0.upsamplers.0.conv",
     1},
    {"lora_unet_input_blocks_3_0_op.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv",
     1},
    {"lora_unet_time_embed_0.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_time_embed_0", "unet.time_embedding.linear_1", 1},
    {"lora_unet_label_emb_0_2.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_label_emb_0_2", "unet.add_embedding.linear_2", 1},
    {"lora_unet_out_2.lora_up.weight", "kohya-SDXL", "up", "lora_unet_out_2",
     "unet.conv_out", 1},
    {"lora_unet_input_blocks_0_0.lora_up.weight", "kohya-SDXL", "up",
     "lora_unet_input_blocks_0_0", "unet.conv_in", 1},
    /* the text encoders of such a file, and a name nobody has */
    {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
     "kohya-SDXL", "up", "lora_te1_text_model_encoder_layers_0_mlp_fc1",
     "text_encoder." CLIP "0.mlp.fc1", 1},
    {"lora_unet_input_blocks_9_1_proj_in.lora_up.weight", "kohya", "up",
     "lora_unet_input_blocks_9_1_proj_in", "input_blocks_9_1_proj_in", 0},
};

static const meaning dotted_rows[] = {
    {ATTENTION "attn1.processor.to_q_lora.down.weight", "diffusers-old", "down",
     ATTENTION "attn1.processor.to_q", ATTENTION "attn1.to_q", 1},
    {"down_blocks.0.attentions.0." TB "attn1.processor.to_out_lora.up.weight",
     "diffusers-old", "up",
     "down_blocks.0.attentions.0." TB "attn1.processor.to_out",
     ATTENTION "attn1.to_out.0", 1},
    {"text_encoder." CLIP "2.self_attn.to_q_lora.down.weight", "diffusers-old",
     "down", "text_encoder." CLIP "2.self_attn.to_q",
     "text_encoder." CLIP "2.self_attn.q_proj", 1},
    {"text_encoder." CLIP "2.self_attn.to_out_lora.up.weight", "diffusers-old",
     "up", "text_encoder." CLIP "2.self_attn.to_out",
     "text_encoder." CLIP "2.self_attn.out_proj", 1},
    {ATTENTION "attn1.processor.to_q_lora.down_aux.weight", "diffusers-old",
     "down_aux", ATTENTION "attn1.processor.to_q", ATTENTION "attn1.to_q", 1},
    {ATTENTION "attn1.processor.to_k_lora.aux_seed", "diffusers-old",
     "aux_seed", ATTENTION "attn1.processor.to_k", ATTENTION "attn1.to_k", 1},
    {ATTENTION "attn1.processor.to_k_lora.weight", "diffusers-old", "weight",
     ATTENTION "attn1.processor.to_k", ATTENTION "attn1.to_k", 1},
    {ATTENTION "attn2.to_out.0.lora.down.weight", "diffusers-unet", "down",
     ATTENTION "attn2.to_out.0", ATTENTION "attn2.to_out.0", 1},
    {ATTENTION "attn2.to_out.0.alpha", "diffusers-unet", "alpha",
     ATTENTION "attn2.to_out.0", ATTENTION "attn2.to_out.0", 1},
    {"text_encoder_2." CLIP "20.mlp.fc1.lora_linear_layer.up.weight",
     "diffusers-te", "up", "text_encoder_2." CLIP "20.mlp.fc1",
     "text_encoder_2." CLIP "20.mlp.fc1", 1},
    {"text_encoder.encoder.layers.4.mlp.fc1.lora_A.weight", "diffusers", "down",
     "text_encoder.encoder.layers.4.mlp.fc1", "text_encoder." CLIP "4.mlp.fc1",
     1},
    {"unet.conv_in.lora_A.weight", "diffusers", "down", "unet.conv_in",
     "unet.conv_in", 1},
    {"unet.conv_in.lora_magnitude_vector", "diffusers", "dora_scale",
     "unet.conv_in", "unet.conv_in", 1},
    {"unet.conv_out.lora_B.bias", "diffusers", "up_bias", "unet.conv_out",
     "unet.conv_out", 1},
    {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "diffusers",
     "down", "transformer.transformer_blocks.0.attn.to_q",
     "transformer.transformer_blocks.0.attn.to_q", 1},
    {"transformer.blk.0.to_q.lora_A.weight", "diffusers", "down",
     "transformer.blk.0.to_q", "transformer.blk.0.to_q", 0},
    {"up_blocks.0.upsamplers.0.conv.lora_B.weight", "diffusers", "up",
     "up_blocks.0.upsamplers.0.conv", "unet.up_blocks.0.upsamplers.0.conv", 1},
    {"base_model.model.mid_block.resnets.1.conv2.lora_A.weight", "peft", "down",
     "base_model.model.mid_block.resnets.1.conv2",
     "unet.mid_block.resnets.1.conv2", 1},
    {"base_model.model." CLIP "4.mlp.fc1.lora_B.weight", "peft", "up",
     "base_model.model." CLIP "4.mlp.fc1", "text_encoder." CLIP "4.mlp.fc1", 1},
    {"base_model.model.tok.lora_embedding_A", "peft", "embedding_down",
     "base_model.model.tok", "tok", 0},
    {"base_model.model.blk.0.to_q.base_layer.lora_A.weight", "peft", "down",
     "base_model.model.blk.0.to_q.base_layer", "blk.0.to_q", 0},
    {"base_model.model.to_k.oft_R.weight", "peft", "oft_R",
     "base_model.model.to_k", "to_k", 0},
    {"base_model.model.ff.net.2.ia3_l", "peft", "ia3_l",
     "base_model.model.ff.net.2", "ff.net.2", 0},
    {"diffusion_model.input_blocks.1.1.proj_in.lora_A.weight", "comfy/native",
     "down", "diffusion_model.input_blocks.1.1.proj_in",
     "unet.down_blocks.0.attentions.0.proj_in", 1},
    {"diffusion_model.double_blocks.0.img_mlp.0.lora_up.weight", "comfy/native",
     "up", "diffusion_model.double_blocks.0.img_mlp.0",
     "transformer.transformer_blocks.0.ff.net.0.proj", 1},
    {"diffusion_model.double_blks.0.img_mlp.0.lora_up.weight", "comfy/native",
     "up", "diffusion_model.double_blks.0.img_mlp.0", "double_blks.0.img_mlp.0",
     0},
    {"double_blks.3.processor.qkv_lora1.down.weight", "xlabs", "down",
     "double_blks.3.processor.qkv_lora1", "double_blks.3.img_attn.qkv", 0},
    {"down_blocks.0.attentions.0." TB "attn1.to_q.___.layer.W_down", "hcp",
     "down", "down_blocks.0.attentions.0." TB "attn1.to_q",
     ATTENTION "attn1.to_q", 1},
    {"down_blocks.0.attentions.0." TB "attn1.to_q.___.alpha", "hcp", "alpha",
     "down_blocks.0.attentions.0." TB "attn1.to_q", ATTENTION "attn1.to_q", 1},
    {"blk.fc.lora_A", "loralib", "down", "blk.fc", "blk.fc", 0},
    {"blk.3.attn_q.weight.lora_a", "llama.cpp", "down", "blk.3.attn_q",
     "blk.3.attn_q", 0},
    {"blk.3.attn_q.weight.lora_b", "llama.cpp", "up", "blk.3.attn_q",
     "blk.3.attn_q", 0},
};

static const meaning loose_rows[] = {
    /* no family, no prefix, still an adapter */
    {"lora_unet_a_to_q.lora_down.weight", "kohya", "down", "lora_unet_a_to_q",
     "a_to_q", 0},
    {"lora_transformer_single_blks_0_proj_out.alpha", "OneTrainer DiT", "alpha",
     "lora_transformer_single_blks_0_proj_out", "single_blks_0_proj_out", 0},
    {"lora_unet_double_blocks_20_img_attn_qkv.lora_up.weight", "kohya", "up",
     "lora_unet_double_blocks_20_img_attn_qkv", "double_blocks_20_img_attn_qkv",
     0},
    {"l0.lora_up.weight", "kohya", "up", "l0", "l0", 0},
    {"<my-token>", NULL, "token", "<my-token>", "<my-token>", 0},
    /* out of range, odd numbers, too much, too little */
    {"lora_unet_down_blocks_4_resnets_0_conv1.lora_up.weight", "kohya", "up",
     "lora_unet_down_blocks_4_resnets_0_conv1", "down_blocks_4_resnets_0_conv1",
     0},
    {"lora_unet_down_blocks_00_resnets_0_conv1.lora_up.weight", "kohya", "up",
     "lora_unet_down_blocks_00_resnets_0_conv1",
     "down_blocks_00_resnets_0_conv1", 0},
    {"lora_unet_conv_in_2.lora_up.weight", "kohya", "up", "lora_unet_conv_in_2",
     "conv_in_2", 0},
    {"lora_unet_down_blocks_0_resnets.lora_up.weight", "kohya", "up",
     "lora_unet_down_blocks_0_resnets", "down_blocks_0_resnets", 0},
    {"unet.down_blocks_0.resnets.0.conv1.lora_A.weight", "diffusers", "down",
     "unet.down_blocks_0.resnets.0.conv1", "unet.down_blocks_0.resnets.0.conv1",
     0},
    {"lora_te_text_model_encoder_layers_23_mlp_fc1.lora_up.weight", "kohya",
     "up", "lora_te_text_model_encoder_layers_23_mlp_fc1",
     "text_model_encoder_layers_23_mlp_fc1", 0},
    /* embeddings */
    {"<cat-toy>", NULL, "token", "<cat-toy>", "<cat-toy>", 0},
    {"emb_params", NULL, "token", "emb_params", "emb_params", 0},
    {"clip_g", NULL, "token", "clip_g", "clip_g", 0},
    {"bundle_emb.foo.string_to_param.*", NULL, "token",
     "bundle_emb.foo.string_to_param.*", "bundle_emb.foo.string_to_param.*", 0},
};

/* What is no adapter's stays unknown. */
static const meaning foreign_rows[] = {
    {"conv_in.weight", NULL, NULL, NULL, NULL, 0},
    {"conv_in.bias", NULL, NULL, NULL, NULL, 0},
    {"model.diffusion_model.input_blocks.0.0.weight", NULL, NULL, NULL, NULL,
     0},
    {"lora_unet_conv_in.weight", NULL, NULL, NULL, NULL, 0},
    {"double_blocks.0.query_norm.scale", NULL, NULL, NULL, NULL, 0},
    {"scheduler.alpha", NULL, NULL, NULL, NULL, 0},
    {"encoder.down", NULL, NULL, NULL, NULL, 0},
    {"encoder.block.down.weight", NULL, NULL, NULL, NULL, 0},
    {".lora_down.weight", NULL, NULL, NULL, NULL, 0},
    {"lora_unet_.lora_down.weight", NULL, NULL, NULL, NULL, 0},
    {"lora_down.weight", NULL, NULL, NULL, NULL, 0},
    {"", NULL, NULL, NULL, NULL, 0},
    {".", NULL, NULL, NULL, NULL, 0},
    {"x", NULL, NULL, NULL, NULL, 0},
    {"diffusion_model..base_layer.lora_A.weight", NULL, NULL, NULL, NULL, 0},
    {"unet:x:down", NULL, NULL, NULL, NULL, 0},
    {"unet:1234567:down", NULL, NULL, NULL, NULL, 0},
    {"vae:1:down", NULL, NULL, NULL, NULL, 0},
    {"string_to_token.*", NULL, NULL, NULL, NULL, 0},
    {"bundle_emb", NULL, NULL, NULL, NULL, 0},
    {"emb_params.x", NULL, NULL, NULL, NULL, 0},
    {"clip", NULL, NULL, NULL, NULL, 0},
    {"w_a_000", NULL, NULL, NULL, NULL, 0},
};

static void names_are_read(void **state)
{
    (void)state;
    check_file(sd_rows, COUNT(sd_rows));
    check_file(sdxl_rows, COUNT(sdxl_rows));
    check_file(dotted_rows, COUNT(dotted_rows));
    check_file(loose_rows, COUNT(loose_rows));
}

static void names_are_read_alone(void **state)
{
    (void)state;
    check_single(sd_rows, COUNT(sd_rows));
    check_single(loose_rows, 4);
    check_single(foreign_rows, COUNT(foreign_rows));
}

/* Other kinds: recognised, each by its suffix. */
static void every_suffix_has_its_role(void **state)
{
    static const char *const rows[][2] = {
        {"lora_down.weight", "down"},
        {"lora_up.weight", "up"},
        {"lora_mid.weight", "mid"},
        {"lora_up.bias", "up_bias"},
        {"alpha", "alpha"},
        {"scale", "scale"},
        {"dora_scale", "dora_scale"},
        {"hada_w1_a", "hada_w1_a"},
        {"hada_w1_b", "hada_w1_b"},
        {"hada_w2_a", "hada_w2_a"},
        {"hada_w2_b", "hada_w2_b"},
        {"hada_t1", "hada_t1"},
        {"hada_t2", "hada_t2"},
        {"lokr_w1", "lokr_w1"},
        {"lokr_w1_a", "lokr_w1_a"},
        {"lokr_w1_b", "lokr_w1_b"},
        {"lokr_w2", "lokr_w2"},
        {"lokr_w2_a", "lokr_w2_a"},
        {"lokr_w2_b", "lokr_w2_b"},
        {"lokr_t1", "lokr_t1"},
        {"lokr_t2", "lokr_t2"},
        {"diff", "diff"},
        {"diff_b", "diff_b"},
        {"w_norm", "w_norm"},
        {"b_norm", "b_norm"},
        {"set_weight", "set_weight"},
        {"bias_indices", "bias_indices"},
        {"bias_values", "bias_values"},
        {"bias_size", "bias_size"},
        {"bias", "bias"},
        {"weight", "weight"},
        {"on_input", "on_input"},
        {"ia3_l", "ia3_l"},
        {"a1.weight", "a1"},
        {"a2.weight", "a2"},
        {"b1.weight", "b1"},
        {"b2.weight", "b2"},
        {"bm.weight", "bm"},
        {"oft_blocks", "oft_blocks"},
        {"oft_blocks.2", "oft_blocks"},
        {"oft_diag", "oft_diag"},
        {"rescale", "rescale"},
        {"oft_R.weight", "oft_R"},
        {"oft_r", "oft_R"},
        {"boft_R", "boft_R"},
        {"boft_s", "boft_s"},
        {"scalar", "scalar"},
        {"aux_seed", "aux_seed"},
        {"light_down", "down"},
        {"light_up_aux", "up_aux"},
        {"q_layer.weight", "q_layer"},
        {"p_layer.weight", "p_layer"},
        {"lambda_layer", "lambda_layer"},
        {"down_aux", "down_aux"},
        {"reshape_weight", "reshape_weight"},
        {"lora_embedding_B", "embedding_up"},
        {"lora_magnitude_vector", "dora_scale"},
        {"lora_magnitude_vector.weight", "dora_scale"},
        {"lora.alpha", "alpha"},
    };
    static char keys[COUNT(rows)][80];
    static file f;

    (void)state;
    file_open(&f);
    for (size_t i = 0; i < COUNT(rows); i++) {
        snprintf(keys[i], sizeof keys[i], "lora_unet_x.%s", rows[i][0]);
        file_add(&f, keys[i], 2, matrix);
    }
    file_read(&f);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const lora__key_out *got = &f.names.keys[i];
        assert_string_equal(lora__role_name(got->role), rows[i][1]);
        assert_string_equal(got->module, "lora_unet_x");
        assert_string_equal(got->target, "x");
    }
    file_close(&f);
}

static void bare_weights_need_a_partner(void **state)
{
    static const meaning ia3[] = {
        {"lora_unet_x.weight", "lycoris-kohya", "weight", "lora_unet_x", "x",
         0},
        {"lora_unet_x.on_input", "lycoris-kohya", "on_input", "lora_unet_x",
         "x", 0},
        {"lora_unet_y.weight", NULL, NULL, NULL, NULL, 0},
    };
    static const meaning lora[] = {
        {"lora_unet_x.lora_up.weight", "kohya", "up", "lora_unet_x", "x", 0},
        {"lora_unet_x.bias", "kohya", "bias", "lora_unet_x", "x", 0},
        {"lora_unet_x.weight", NULL, NULL, NULL, NULL, 0},
        {"lora_unet_x.scale", "kohya", "scale", "lora_unet_x", "x", 0},
        {"lora_unet_y.bias", NULL, NULL, NULL, NULL, 0},
    };

    (void)state;
    check_file(ia3, COUNT(ia3));
    check_file(lora, COUNT(lora));
}

static void control_lora_needs_its_marker(void **state)
{
    static const meaning rows[] = {
        {"lora_controlnet", NULL, NULL, NULL, NULL, 0},
        {"input_blocks.1.0.in_layers.2.up", "sai control-lora", "up",
         "input_blocks.1.0.in_layers.2", "unet.down_blocks.0.resnets.0.conv1",
         1},
    };

    (void)state;
    check_file(rows, COUNT(rows));
}

static void adapter_name_must_be_constant(void **state)
{
    static const meaning one[] = {
        {"base_model.model.x.lora_A.style.weight", "peft-raw", "down",
         "base_model.model.x", "x", 0},
        {"base_model.model.x.lora_B.style.weight", "peft-raw", "up",
         "base_model.model.x", "x", 0},
        {"base_model.model.x.lora_B.style.bias", "peft-raw", "up_bias",
         "base_model.model.x", "x", 0},
        {"base_model.model.x.lora_magnitude_vector.style.weight", "peft-raw",
         "dora_scale", "base_model.model.x", "x", 0},
        {"unet.conv_in.lora_A.style.weight", "peft-raw", "down", "unet.conv_in",
         "unet.conv_in", 1},
        {"base_model.model.y.hada_w1_a.style", "peft-raw", "hada_w1_a",
         "base_model.model.y", "y", 0},
        {"base_model.model.y.lora_embedding_A.style", "peft-raw",
         "embedding_down", "base_model.model.y", "y", 0},
    };
    static const meaning two[] = {
        {"base_model.model.x.lora_A.one.weight", NULL, NULL, NULL, NULL, 0},
        {"base_model.model.y.lora_A.two.weight", NULL, NULL, NULL, NULL, 0},
    };

    (void)state;
    check_file(one, COUNT(one));
    check_file(two, COUNT(two));
}

/* Both are the first text encoder unless a layer only the second one has
 * shows up. */
static void bare_text_encoder_is_one(void **state)
{
    static const meaning second[] = {
        {"base_model.model." CLIP "0.mlp.fc1.lora_A.weight", "peft", "down",
         "base_model.model." CLIP "0.mlp.fc1",
         "text_encoder_2." CLIP "0.mlp.fc1", 1},
        {"base_model.model." CLIP "30.mlp.fc1.lora_A.weight", "peft", "down",
         "base_model.model." CLIP "30.mlp.fc1",
         "text_encoder_2." CLIP "30.mlp.fc1", 1},
    };

    (void)state;
    check_file(second, 2);
}

static void no_keys_at_all(void **state)
{
    static file f;

    (void)state;
    file_open(&f);
    file_read(&f);
    assert_int_equal(f.names.dialect_count, 0);
    assert_null(f.names.family);
    file_close(&f);
}

/* Two dialects for one target: same target, each its dialect. */
static void mixed_dialects(void **state)
{
    static const char *const keys[] = {
        "lora_unet_conv_in.lora_down.weight",
        "unet.conv_in.lora_A.weight",
        "unet.conv_in.lora_B.weight",
        "unet.conv_out.lora_A.weight",
        "base_model.model.conv_in.lora_A.weight",
        "base_model.model.conv_in.lora_B.weight",
        NULL,
    };
    static file f;

    (void)state;
    file_open(&f);
    file_read_keys(&f, keys);
    assert_string_equal(f.names.keys[0].target, "unet.conv_in");
    assert_string_equal(f.names.keys[1].target, "unet.conv_in");
    assert_string_equal(f.names.keys[4].target, "unet.conv_in");
    assert_int_equal(f.names.dialect_count, 3);
    assert_string_equal(lora__dialect_id(f.names.dialects[0]), "diffusers");
    assert_string_equal(lora__dialect_id(f.names.dialects[1]), "peft");
    assert_string_equal(lora__dialect_id(f.names.dialects[2]), "kohya");
    file_close(&f);
}

/* Positional --------------------------------------------------------------- */

static const struct {
    const char *key;
    const char *target;
} positional_rows[] = {
    {"unet:0:down", "unet.down_blocks.0.attentions.0." TB "attn1.to_q"},
    {"unet:3:down", "unet.down_blocks.0.attentions.0." TB "attn1.to_out.0"},
    {"unet:4:down", "unet.down_blocks.0.attentions.0." TB "ff.net.0.proj"},
    {"unet:9:down", "unet.down_blocks.0.attentions.1." TB "attn1.to_q"},
    {"unet:53:down", "unet.down_blocks.2.attentions.1." TB "attn2.to_out.0"},
    {"unet:54:down", "unet.up_blocks.1.attentions.0." TB "attn1.to_q"},
    {"unet:134:down", "unet.up_blocks.3.attentions.2." TB "attn2.to_out.0"},
    {"unet:135:down", "unet.mid_block.attentions.0." TB "attn1.to_q"},
    {"unet:143:down", "unet.mid_block.attentions.0." TB "attn2.to_out.0"},
    {"text_encoder:0:down", "text_encoder." CLIP "0.self_attn.k_proj"},
    {"text_encoder:5:down", "text_encoder." CLIP "1.self_attn.v_proj"},
    {"text_encoder:10:down", "text_encoder." CLIP "2.self_attn.q_proj"},
    {"text_encoder:47:down", "text_encoder." CLIP "11.self_attn.out_proj"},
};

static void positional_order(void **state)
{
    static const char *const metadata[] = {"word", "<embed>", "note", "x",
                                           NULL};
    static file f;

    (void)state;
    file_open(&f);
    f.metadata = metadata;
    for (size_t i = 0; i < COUNT(positional_rows); i++) {
        file_add(&f, positional_rows[i].key, 2, matrix);
    }
    file_add(&f, "<s1>", 1, matrix);
    file_add(&f, "word", 1, matrix);
    file_add(&f, "note", 1, matrix);
    file_read(&f);
    for (size_t i = 0; i < COUNT(positional_rows); i++) {
        const lora__key_out *got = &f.names.keys[i];
        assert_string_equal(got->target, positional_rows[i].target);
        assert_string_equal(lora__dialect_id(got->dialect), "cloneofsimo");
        assert_int_equal(got->role, LORA__ROLE_DOWN);
        assert_int_equal(got->layer, LORA__LAYER_LINEAR);
        assert_int_equal(got->known, 1);
        assert_int_equal(strlen(got->module),
                         strlen(positional_rows[i].key) - strlen(":down"));
    }
    for (size_t i = 0; i < 2; i++) {
        const lora__key_out *got = &f.names.keys[COUNT(positional_rows) + i];
        assert_int_equal(got->role, LORA__ROLE_TOKEN);
        assert_string_equal(got->module, i == 0 ? "<s1>" : "word");
        assert_string_equal(lora__dialect_id(got->dialect), "cloneofsimo");
    }
    assert_int_equal(f.names.keys[f.count - 1].role, LORA__ROLE_UNKNOWN);
    file_close(&f);
}

/* Names that tell of a base beside a module that only has a position. */
static void positional_beside_names(void **state)
{
    static file f;

    (void)state;
    file_open(&f);
    file_add(
        &f,
        "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
        ".lora_down.weight",
        2, matrix);
    file_add(&f, "unet:22:down", 2, matrix);
    file_read(&f);
    assert_string_equal(f.names.keys[1].target,
                        "unet.down_blocks.1.attentions.0." TB "ff.net.0.proj");
    assert_string_equal(lora__dialect_id(f.names.keys[1].dialect),
                        "cloneofsimo");
    file_close(&f);
}

/* With residual blocks: in each block after the attentions. */
static void positional_extended(void **state)
{
    static const char *const metadata[] = {
        "unet", "[\"CrossAttention\", \"GEGLU\", \"ResnetBlock2D\"]", NULL};
    static file f;
    static const struct {
        const char *key;
        int32_t ndim;
        const char *target;
        lora__layer layer;
    } rows[] = {
        {"unet:17:down", 2,
         "unet.down_blocks.0.attentions.1." TB "attn2.to_out.0",
         LORA__LAYER_LINEAR},
        {"unet:18:down", 4, "unet.down_blocks.0.resnets.0.conv1",
         LORA__LAYER_CONV3},
        {"unet:19:down", 2, "unet.down_blocks.0.resnets.0.time_emb_proj",
         LORA__LAYER_LINEAR},
        {"unet:20:down", 4, "unet.down_blocks.0.resnets.0.conv2",
         LORA__LAYER_CONV3},
        {"unet:21:down", 4, "unet.down_blocks.0.resnets.1.conv1",
         LORA__LAYER_CONV3},
        {"unet:24:down", 2, "unet.down_blocks.1.attentions.0." TB "attn1.to_q",
         LORA__LAYER_LINEAR},
        {"unet:45:down", 4, "unet.down_blocks.1.resnets.0.conv_shortcut",
         LORA__LAYER_CONV1},
    };

    (void)state;
    for (int with_metadata = 0; with_metadata < 2; with_metadata++) {
        file_open(&f);
        f.metadata = with_metadata ? metadata : NULL;
        for (size_t i = 0; i < COUNT(rows); i++) {
            file_add(&f, rows[i].key, rows[i].ndim, kernel);
        }
        file_read(&f);
        for (size_t i = 0; i < COUNT(rows); i++) {
            assert_string_equal(f.names.keys[i].target, rows[i].target);
            assert_int_equal(f.names.keys[i].layer, rows[i].layer);
        }
        file_close(&f);
    }
}

/* Shapes or counts that contradict the order: no target is made up. */
static void positional_misfit(void **state)
{
    static file f;

    (void)state;
    for (int i = 0; i < 2; i++) {
        file_open(&f);
        file_add(&f, "unet:0:down", 2, matrix);
        file_add(&f, i == 0 ? "unet:9:down" : "unet:700:down", 4 - 2 * i,
                 kernel);
        file_add(&f, "text_encoder:0:down", 2, matrix);
        file_read(&f);
        assert_string_equal(f.names.keys[0].target, "unet:0");
        assert_int_equal(f.names.keys[0].known, 0);
        assert_int_equal(f.names.keys[1].known, 0);
        assert_int_equal(f.names.keys[2].known, 1);
        file_close(&f);
    }
}

/* Faults ------------------------------------------------------------------- */

typedef struct faulty {
    size_t calls;
    size_t fail_at;
    size_t live;
} faulty;

static int faulty_now(faulty *f)
{
    return f->calls++ == f->fail_at;
}

static void *faulty_alloc(void *user, size_t bytes, size_t align)
{
    faulty *f = user;
    void *block = NULL;

    if (!faulty_now(f)) {
        block = aligned_alloc(align, (bytes + align - 1) / align * align);
    }
    f->live += block != NULL;
    return block;
}

static void *faulty_realloc(
    void *user, void *block, size_t old_bytes, size_t new_bytes, size_t align)
{
    faulty *f = user;
    void *moved;

    if (faulty_now(f)) {
        return NULL;
    }
    moved = aligned_alloc(align, (new_bytes + align - 1) / align * align);
    assert_non_null(moved);
    memcpy(moved, block, old_bytes < new_bytes ? old_bytes : new_bytes);
    free(block);
    return moved;
}

static void faulty_free(void *user, void *block, size_t bytes, size_t align)
{
    faulty *f = user;

    (void)bytes;
    (void)align;
    f->live--;
    free(block);
}

/* Each allocation fails once: MEMORY, nothing in the answer, nothing lost. */
static void memory_may_run_out(void **state)
{
    static faulty f;
    static const char *const more[] = {
        "unet:3:down",
        "<s1>",
        "w_a_000",
        "w_b_000",
        "x.a0.weight",
        "x.b0.weight",
        "lora_unet_single_blocks_0_linear1.lora_up.weight",
        "lora_unet_double_blocks_0_img_mod_lin.lora_up.weight",
        "lora_te3_shared.alpha",
        "module.unet._orig_mod.conv_in.lora_B.weight",
    };
    static lora__key_in keys[COUNT(sd_rows) + COUNT(more)];
    lora_context_options options;
    lora_allocator allocator = {0};
    lora_context *context;
    size_t count = 0;
    size_t failures = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(keys); i++) {
        keys[i].name =
            i < COUNT(sd_rows) ? sd_rows[i].key : more[i - COUNT(sd_rows)];
        keys[i].name_bytes = strlen(keys[i].name);
        keys[i].ndim = 2;
        keys[i].shape = matrix;
        count++;
    }
    allocator.struct_size = sizeof allocator;
    allocator.user = &f;
    allocator.alloc = faulty_alloc;
    allocator.realloc = faulty_realloc;
    allocator.free = faulty_free;
    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    f.fail_at = SIZE_MAX;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    for (;;) {
        lora__arena arena;
        lora__names names;
        size_t before = f.live;
        lora_status status;

        lora__arena_init(&arena, context);
        f.fail_at = f.calls + failures;
        status =
            lora__names_read(&names, &arena, keys, count, NULL, NULL, NULL);
        f.fail_at = SIZE_MAX;
        lora__arena_destroy(&arena);
        assert_int_equal(f.live, before);
        if (status == LORA_OK) {
            break;
        }
        assert_int_equal(status, LORA_ERROR_MEMORY);
        assert_null(names.keys);
        assert_int_equal(names.key_count, 0);
        failures++;
    }
    assert_true(failures >= 5);
    lora_context_destroy(context);
    assert_int_equal(f.live, 0);
}

static void damaged_keys_are_harmless(void **state)
{
    static const meaning *const tables[] = {sd_rows, sdxl_rows, dotted_rows,
                                            loose_rows, foreign_rows};
    static const size_t counts[] = {COUNT(sd_rows), COUNT(sdxl_rows),
                                    COUNT(dotted_rows), COUNT(loose_rows),
                                    COUNT(foreign_rows)};

    (void)state;
    for (size_t t = 0; t < COUNT(tables); t++) {
        for (size_t i = 0; i < counts[t]; i++) {
            check_damaged(tables[t][i].key, '.');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read),
        cmocka_unit_test(names_are_read_alone),
        cmocka_unit_test(every_suffix_has_its_role),
        cmocka_unit_test(bare_weights_need_a_partner),
        cmocka_unit_test(control_lora_needs_its_marker),
        cmocka_unit_test(adapter_name_must_be_constant),
        cmocka_unit_test(bare_text_encoder_is_one),
        cmocka_unit_test(no_keys_at_all),
        cmocka_unit_test(mixed_dialects),
        cmocka_unit_test(positional_order),
        cmocka_unit_test(positional_beside_names),
        cmocka_unit_test(positional_extended),
        cmocka_unit_test(positional_misfit),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(damaged_keys_are_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
