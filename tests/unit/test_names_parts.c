/* Names of the original models: modules that are several targets, or one with
 * its rows moved; names that mean different layers to different models; and
 * keys with numbers for names.
 *
 * What is expected comes from the models' published converters.
 */
#include "names.h"

#define DOWN ".lora_down.weight"
#define A ".lora_A.weight"
#define DOUBLE "transformer.transformer_blocks."
#define SINGLE "transformer.single_transformer_blocks."

/* Parts ---------------------------------------------------------------------
 */

/* A key, and the parts as "target rows" joined by blanks; "" for none. */
typedef struct fused {
    const char *key;
    const char *dialect;
    const char *target;
    const char *parts;
} fused;

#define QKV(site, name)                                                        \
    site "to_q 0:1/3 " site "to_k 1:2/3 " site "to_v 2:3/3" name

static const fused flux_rows[] = {
    {"lora_unet_double_blocks_0_img_attn_qkv" DOWN, "kohya",
     "transformer.double_blocks.0.img_attn.qkv", QKV(DOUBLE "0.attn.", "")},
    {"lora_unet_double_blocks_18_img_mod_lin" DOWN, "kohya",
     DOUBLE "18.norm1.linear", ""},
    {"diffusion_model.double_blocks.1.txt_attn.qkv" A, "comfy/native",
     "transformer.double_blocks.1.txt_attn.qkv",
     DOUBLE "1.attn.add_q_proj 0:1/3 " DOUBLE "1.attn.add_k_proj 1:2/3 " DOUBLE
            "1.attn.add_v_proj 2:3/3"},
    {"double_blocks.2.img_attn.qkv" A, "bfl-control",
     "transformer.double_blocks.2.img_attn.qkv", QKV(DOUBLE "2.attn.", "")},
    {"base_model.model.double_blocks.3.img_attn.qkv" A, "peft",
     "transformer.double_blocks.3.img_attn.qkv", QKV(DOUBLE "3.attn.", "")},
    {"transformer.double_blocks.4.processor.qkv_lora1.down.weight", "xlabs",
     "transformer.double_blocks.4.img_attn.qkv", QKV(DOUBLE "4.attn.", "")},
    {"double_blocks.5.processor.proj_lora2.down.weight", "xlabs",
     DOUBLE "5.attn.to_add_out", ""},
    {"lora_unet_single_blocks_0_linear1" DOWN, "kohya",
     "transformer.single_blocks.0.linear1",
     SINGLE "0.attn.to_q 0:1/7 " SINGLE "0.attn.to_k 1:2/7 " SINGLE
            "0.attn.to_v 2:3/7 " SINGLE "0.proj_mlp 3:7/7"},
    {"single_blocks.1.processor.qkv_lora.down.weight", "xlabs",
     "transformer.single_blocks.1.processor.qkv_lora",
     QKV(SINGLE "1.attn.", "")},
    {"single_blocks.1.processor.proj_lora.down.weight", "xlabs",
     SINGLE "1.proj_out", ""},
    {"lora_unet_final_layer_adaLN_modulation_1" DOWN, "kohya",
     "transformer.final_layer.adaLN_modulation.1",
     "transformer.norm_out.linear 1:2,0:1/2"},
    {"transformer.norm_out.linear" A, "diffusers",
     "transformer.norm_out.linear", ""},
    {"lora_transformer_norm_out_linear" DOWN, "OneTrainer DiT",
     "transformer.norm_out.linear", ""},
    {"lora_te1_text_model_encoder_layers_0_mlp_fc1" DOWN, "kohya",
     "text_encoder." CLIP "0.mlp.fc1", ""},
    /* T5 is the third encoder to one trainer, and the second to another */
    {"lora_te3_encoder_block_23_layer_1_DenseReluDense_wo" DOWN, "kohya",
     "text_encoder_2.encoder.block.23.layer.1.DenseReluDense.wo", ""},
    {"lora_te2_encoder_block_0_layer_0_SelfAttention_q" DOWN, "kohya",
     "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q", ""},
    {"text_encoders.t5xxl.transformer.shared" A, "comfy/native",
     "text_encoder_2.shared", ""},
};

static const fused sd3_rows[] = {
    {"lora_unet_joint_blocks_0_x_block_attn_qkv" DOWN, "kohya",
     "transformer.joint_blocks.0.x_block.attn.qkv", QKV(DOUBLE "0.attn.", "")},
    {"lora_unet_joint_blocks_22_context_block_adaLN_modulation_1" DOWN, "kohya",
     DOUBLE "22.norm1_context.linear", ""},
    {"lora_unet_joint_blocks_23_context_block_adaLN_modulation_1" DOWN, "kohya",
     "transformer.joint_blocks.23.context_block.adaLN_modulation.1",
     DOUBLE "23.norm1_context.linear 1:2,0:1/2"},
    {"lora_te3_shared" DOWN, "kohya", "text_encoder_3.shared", ""},
};

/* The same block is the last of the medium model, but not of the large. */
static const fused large_rows[] = {
    {"lora_unet_joint_blocks_23_context_block_adaLN_modulation_1" DOWN, "kohya",
     DOUBLE "23.norm1_context.linear", ""},
    {"lora_unet_joint_blocks_37_context_block_adaLN_modulation_1" DOWN, "kohya",
     "transformer.joint_blocks.37.context_block.adaLN_modulation.1",
     DOUBLE "37.norm1_context.linear 1:2,0:1/2"},
};

static const fused lumina_rows[] = {
    {"lora_unet_noise_refiner_1_attention_qkv" DOWN, "kohya",
     "transformer.noise_refiner.1.attention.qkv",
     "transformer.noise_refiner.1.attn.to_q 0:3/5 "
     "transformer.noise_refiner.1.attn.to_k 3:4/5 "
     "transformer.noise_refiner.1.attn.to_v 4:5/5"},
    /* in whole, unlike that of others */
    {"lora_unet_final_layer_adaLN_modulation_1" DOWN, "kohya",
     "transformer.norm_out.linear_1", ""},
    {"layers.3.attention.out" A, "bfl-control",
     "transformer.layers.3.attn.to_out.0", ""},
};

static const fused cog_rows[] = {
    {"diffusion_model.mixins.adaln_layer.adaLN_modulations.41.1" A,
     "comfy/native", "transformer.mixins.adaln_layer.adaLN_modulations.41.1",
     DOUBLE "41.norm1.linear 0:1,2:3/4 " DOUBLE "41.norm2.linear 1:2,3:4/4"},
    {"model.diffusion_model.time_embed.0" A, "comfy/native",
     "transformer.time_embedding.linear_1", ""},
    {"lora_unet_transformer_blocks_41_norm1_linear" DOWN, "kohya",
     DOUBLE "41.norm1.linear", ""},
};

static const fused pixart_rows[] = {
    {"diffusion_model.blocks.27.cross_attn.kv_linear" A, "comfy/native",
     "transformer.blocks.27.cross_attn.kv_linear",
     DOUBLE "27.attn2.to_k 0:1/2 " DOUBLE "27.attn2.to_v 1:2/2"},
    {"diffusion_model.t_block.1" A, "comfy/native",
     "transformer.adaln_single.linear", ""},
};

/* Norms that change places, in a file of original names and in one of those of
 * diffusers. */
static const fused hunyuan_original_rows[] = {
    {"lora_unet_blocks_0_attn1_Wqkv" DOWN, "kohya",
     "transformer.blocks.0.attn1.Wqkv", QKV("transformer.blocks.0.attn1.", "")},
    {"lora_unet_blocks_0_norm2.w_norm", "lycoris-kohya",
     "transformer.blocks.0.norm3", ""},
};
static const fused hunyuan_diffusers_rows[] = {
    {"lora_unet_blocks_0_attn1_to_q" DOWN, "kohya",
     "transformer.blocks.0.attn1.to_q", ""},
    {"lora_unet_blocks_39_skip_linear" DOWN, "kohya",
     "transformer.blocks.39.skip_linear", ""},
    {"lora_unet_time_extra_emb_pooler_q_proj" DOWN, "kohya",
     "transformer.time_extra_emb.pooler.q_proj", ""},
    {"lora_unet_blocks_0_norm2.w_norm", "lycoris-kohya",
     "transformer.blocks.0.norm2", ""},
};

/* Conversions for Wan-Fun have one '_' too many. */
static const fused wan_rows[] = {
    {"lora_unet__blocks_0_cross_attn_k_img" DOWN, "kohya",
     "transformer.blocks.0.attn2.add_k_proj", ""},
    {"lora_unet_unet_blocks_0_self_attn_o_lora_down.weight", "kohya",
     "transformer.blocks.0.attn1.to_out.0", ""},
    {"diffusion_model.blocks.0.norm3.diff", "comfy/native",
     "transformer.blocks.0.norm2", ""},
    {"diffusion_model.head.head" A, "comfy/native", "transformer.proj_out", ""},
};

static const fused qwen_rows[] = {
    {"lora_unet_transformer_blocks_59_img_mod_1" DOWN, "kohya",
     DOUBLE "59.img_mod.1", ""},
    {"diffusion_model.img_in" A, "comfy/native", "transformer.img_in", ""},
    {"transformer_blocks.7.txt_mlp.net.2" A, "diffusers",
     DOUBLE "7.txt_mlp.net.2", ""},
    {"lycoris_transformer_blocks_0_attn_to_q.lokr_w1", "lycoris-wrapper",
     DOUBLE "0.attn.to_q", ""},
};

static const fused cascade_rows[] = {
    {"lora_prior_unet_down_blocks_1_71_attention_to_q" DOWN, "kohya",
     "prior.down_blocks.1.71.attention.to_q", ""},
    {"diffusion_model.down_blocks.0.2.attention.attn.in_proj" A, "comfy/native",
     "prior.down_blocks.0.2.attention.attn.in_proj",
     QKV("prior.down_blocks.0.2.attention.", "")},
};

/* Text encoders as the checkpoints have them. */
static const fused checkpoint_rows[] = {
    {"conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj" A,
     "comfy/native",
     "text_encoder_2.model.transformer.resblocks.31.attn.in_proj",
     "text_encoder_2." CLIP "31.self_attn.q_proj 0:1/3 "
     "text_encoder_2." CLIP "31.self_attn.k_proj 1:2/3 "
     "text_encoder_2." CLIP "31.self_attn.v_proj 2:3/3"},
    {"conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc" A,
     "comfy/native", "text_encoder_2." CLIP "0.mlp.fc1", ""},
    {"conditioner.embedders.1.model.text_projection" A, "comfy/native",
     "text_encoder_2.model.text_projection",
     "text_encoder_2.text_projection T"},
    {"conditioner.embedders.0.transformer." CLIP "0.mlp.fc1" A, "comfy/native",
     "text_encoder." CLIP "0.mlp.fc1", ""},
    {"model.diffusion_model.input_blocks.4.1.proj_in" A, "comfy/native",
     "unet.down_blocks.1.attentions.0.proj_in", ""},
};

static const fused openclip_rows[] = {
    {"cond_stage_model.model.transformer.resblocks.22.attn.out_proj" A,
     "comfy/native", "text_encoder." CLIP "22.self_attn.out_proj", ""},
};

static void put_rows(char *out, size_t size, const lora__row_set *rows)
{
    size_t used = 0;

    for (size_t i = 0; i < rows->slice_count; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%d:%d",
                                 i == 0 ? "" : ",", rows->slices[i].begin,
                                 rows->slices[i].end);
    }
    snprintf(out + used, size - used, rows->transposed ? "T" : "/%d",
             rows->units);
}

static void put_parts(char *out, size_t size, const lora__key_out *key)
{
    size_t used = 0;
    char rows[64];

    out[0] = '\0';
    for (size_t i = 0; i < key->part_count; i++) {
        put_rows(rows, sizeof rows, &key->parts[i].rows);
        used += (size_t)snprintf(out + used, size - used, "%s%s %s",
                                 i == 0 ? "" : " ", key->parts[i].target, rows);
        assert_int_equal(key->parts[i].layer, LORA__LAYER_LINEAR);
    }
    assert_true(used < size);
}

static void check_fused(const fused *rows, size_t count, const char *family)
{
    static file f;
    char parts[600];

    file_open(&f);
    for (size_t i = 0; i < count; i++) {
        file_add(&f, rows[i].key, 2, matrix);
    }
    file_read(&f);
    assert_non_null(f.names.family);
    assert_string_equal(lora__family_id(f.names.family), family);
    for (size_t i = 0; i < count; i++) {
        const lora__key_out *key = &f.names.keys[i];
        assert_string_equal(key->target, rows[i].target);
        assert_string_equal(lora__dialect_id(key->dialect), rows[i].dialect);
        assert_int_equal(key->known, 1);
        put_parts(parts, sizeof parts, key);
        assert_string_equal(parts, rows[i].parts);
        /* a module with parts has a place in its family, too */
        assert_int_not_equal(lora__family_layer(f.names.family, key->target),
                             LORA__LAYER_UNKNOWN);
    }
    file_close(&f);
}

static const struct {
    const fused *rows;
    size_t count;
    const char *family;
} fused_files[] = {
    {flux_rows, COUNT(flux_rows), "flux1_dev"},
    {sd3_rows, COUNT(sd3_rows), "sd3_medium"},
    {large_rows, COUNT(large_rows), "sd35_large"},
    {lumina_rows, COUNT(lumina_rows), "lumina2"},
    {cog_rows, COUNT(cog_rows), "cogvideox_5b"},
    {pixart_rows, COUNT(pixart_rows), "pixart_sigma"},
    {hunyuan_original_rows, COUNT(hunyuan_original_rows), "hunyuan_dit"},
    {hunyuan_diffusers_rows, COUNT(hunyuan_diffusers_rows), "hunyuan_dit"},
    {wan_rows, COUNT(wan_rows), "wan21_i2v_14b"},
    {qwen_rows, COUNT(qwen_rows), "qwen_image"},
    {cascade_rows, COUNT(cascade_rows), "stable_cascade_prior"},
    {checkpoint_rows, COUNT(checkpoint_rows), "sdxl"},
    {openclip_rows, COUNT(openclip_rows), "sd21"},
};

static void modules_have_parts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(fused_files); i++) {
        check_fused(fused_files[i].rows, fused_files[i].count,
                    fused_files[i].family);
    }
}

/* The keys of a module have the same parts, not their own. */
static void parts_are_shared(void **state)
{
    static const char *const keys[] = {
        "lora_unet_double_blocks_0_img_attn_qkv" DOWN,
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
        "lora_unet_double_blocks_0_img_attn_qkv.alpha", NULL};
    static file f;

    (void)state;
    file_open(&f);
    file_read_keys(&f, keys);
    assert_int_equal(f.names.keys[0].part_count, 3);
    assert_ptr_equal(f.names.keys[0].parts, f.names.keys[1].parts);
    assert_ptr_equal(f.names.keys[0].parts, f.names.keys[2].parts);
    assert_int_equal(f.names.keys[2].role, LORA__ROLE_ALPHA);
    file_close(&f);
}

/* BFL's own adapters have whole norms under the parameter's name; a checkpoint
 * has them too. */
static void norms_are_replaced(void **state)
{
    static const meaning adapter[] = {
        {"double_blocks.0.img_attn.norm.query_norm.scale", "bfl-control",
         "set_weight", "double_blocks.0.img_attn.norm.query_norm",
         DOUBLE "0.attn.norm_q", 1},
        {"img_in" A, "bfl-control", "down", "img_in", "transformer.x_embedder",
         1},
        {"img_in.lora_B.bias", "bfl-control", "up_bias", "img_in",
         "transformer.x_embedder", 1},
        {"double_blks.0.query_norm.scale", NULL, NULL, NULL, NULL, 0},
        {"double_blocks.0.img_attn.qkv" A, "bfl-control", "down",
         "double_blocks.0.img_attn.qkv",
         "transformer.double_blocks.0.img_attn.qkv", 1},
    };
    static const meaning checkpoint[] = {
        {"double_blocks.0.img_attn.norm.query_norm.scale", NULL, NULL, NULL,
         NULL, 0},
        {"double_blocks.0.img_attn.qkv.weight", NULL, NULL, NULL, NULL, 0},
    };

    (void)state;
    check_file(adapter, COUNT(adapter));
    check_file(checkpoint, COUNT(checkpoint));
}

/* Numbers -------------------------------------------------------------------
 */

static void numbers_for_names(void **state)
{
    static const meaning sam[] = {
        {"w_a_000", "sam-positional", "down", "000",
         "image_encoder.blocks.0.attn.qkv#q", 0},
        {"w_b_000", "sam-positional", "up", "000",
         "image_encoder.blocks.0.attn.qkv#q", 0},
        {"w_a_023", "sam-positional", "down", "023",
         "image_encoder.blocks.11.attn.qkv#v", 0},
        {"w_b_023", "sam-positional", "up", "023",
         "image_encoder.blocks.11.attn.qkv#v", 0},
        {"w_a_024", NULL, NULL, NULL, NULL, 0},
        {"w_b_25", NULL, NULL, NULL, NULL, 0},
        {"w_a_", NULL, NULL, NULL, NULL, 0},
    };
    static const meaning candle[] = {
        {"lora_linear.a0.weight", "candle-lora", "down", "lora_linear.0",
         "lora_linear.0", 0},
        {"lora_linear.b0.weight", "candle-lora", "up", "lora_linear.0",
         "lora_linear.0", 0},
        {"lora_linear.b12.weight", "candle-lora", "up", "lora_linear.12",
         "lora_linear.12", 0},
        {"lora_linear.a12.weight", "candle-lora", "down", "lora_linear.12",
         "lora_linear.12", 0},
        {"lora_embed.a0.weight", "candle-lora", "down", "lora_embed.0",
         "lora_embed.0", 0},
        {"lora_embed.b0.weight", "candle-lora", "up", "lora_embed.0",
         "lora_embed.0", 0},
        {"lora_linear.a3.weight", NULL, NULL, NULL, NULL, 0},
        {".a4.weight", NULL, NULL, NULL, NULL, 0},
    };
    /* without a 0, it is GLoRA */
    static const meaning glora[] = {
        {"x.a1.weight", "lycoris-kohya", "a1", "x", "x", 0},
        {"x.b1.weight", "lycoris-kohya", "b1", "x", "x", 0},
    };

    (void)state;
    check_file(sam, COUNT(sam));
    check_file(candle, COUNT(candle));
    check_file(glora, COUNT(glora));
}

/* A list has no names: what it is of, the shapes tell. */
static void lists_are_pairs(void **state)
{
    static const int64_t square[] = {768, 768};
    static const int64_t up[] = {768, 4};
    static const int64_t down[] = {4, 768};
    static char names[24][8];
    static file f;

    (void)state;
    for (int of_text = 0; of_text < 2; of_text++) {
        file_open(&f);
        for (size_t i = 0; i < 24; i++) {
            snprintf(names[i], sizeof names[i], "%04d", (int)(23 - i));
            file_add(&f, names[i], 2,
                     i == 0 && !of_text ? square
                     : i % 2 == 0       ? down
                                        : up);
        }
        f.keys[0].shape = of_text ? down : matrix;
        file_read(&f);
        /* from the back: 0023 is the last down */
        assert_string_equal(f.names.keys[23].module,
                            of_text ? "text_encoder:0" : "unet:0");
        assert_int_equal(f.names.keys[23].role, LORA__ROLE_UP);
        assert_string_equal(f.names.keys[22].module, f.names.keys[23].module);
        assert_int_equal(f.names.keys[22].role, LORA__ROLE_DOWN);
        assert_string_equal(
            f.names.keys[0].target,
            of_text ? "text_encoder." CLIP "2.self_attn.out_proj"
                    : "unet.down_blocks.0.attentions.1." TB "attn1.to_v");
        assert_string_equal(lora__dialect_id(f.names.keys[0].dialect),
                            "cloneofsimo");
        file_close(&f);
    }
}

static void lists_have_no_gaps(void **state)
{
    static const meaning odd[] = {
        {"0000", NULL, NULL, NULL, NULL, 0},
        {"0001", NULL, NULL, NULL, NULL, 0},
        {"0002", NULL, NULL, NULL, NULL, 0},
    };
    static const meaning gap[] = {
        {"0000", NULL, NULL, NULL, NULL, 0},
        {"0002", NULL, NULL, NULL, NULL, 0},
    };
    static const meaning other[] = {
        {"0000", NULL, NULL, NULL, NULL, 0},
        {"000a", NULL, NULL, NULL, NULL, 0},
    };

    (void)state;
    check_file(odd, COUNT(odd));
    check_file(gap, COUNT(gap));
    check_file(other, COUNT(other));
}

/* Writing -------------------------------------------------------------------
 */

typedef struct written {
    const char *dialect;
    const char *family;
    const char *target;
    const char *key;  /* NULL: refused */
    const char *rows; /* of the weight that is spelled; "/0": all */
    lora_status status;
} written;

#define NO LORA_ERROR_UNSUPPORTED
static const written written_rows[] = {
    /* targets with a share of a weight */
    {"kohya", "flux1_dev", DOUBLE "0.attn.to_k",
     "lora_unet_double_blocks_0_img_attn_qkv" DOWN, "1:2/3", 0},
    {"comfy/native", "flux1_dev", SINGLE "9.proj_mlp",
     "diffusion_model.single_blocks.9.linear1" DOWN, "3:7/7", 0},
    {"bfl-control", "flux1_dev", SINGLE "9.attn.to_v",
     "single_blocks.9.linear1" A, "2:3/7", 0},
    {"xlabs", "flux1_dev", DOUBLE "0.attn.add_v_proj",
     "double_blocks.0.processor.qkv_lora2.down.weight", "2:3/3", 0},
    {"xlabs", "flux1_dev", SINGLE "9.attn.to_v",
     "single_blocks.9.processor.qkv_lora.down.weight", "2:3/3", 0},
    {"xlabs", "flux1_dev", SINGLE "9.proj_mlp", NULL, "/0", NO},
    {"kohya", "lumina2", "transformer.layers.0.attn.to_q",
     "lora_unet_layers_0_attention_qkv" DOWN, "0:3/5", 0},
    {"kohya", "flux1_dev", "transformer.norm_out.linear",
     "lora_unet_final_layer_adaLN_modulation_1" DOWN, "1:2,0:1/2", 0},
    {"comfy/native", "cogvideox_5b", DOUBLE "3.norm2.linear",
     "diffusion_model.mixins.adaln_layer.adaLN_modulations.3.1" DOWN,
     "1:2,3:4/4", 0},
    {"kohya", "sd35_large", DOUBLE "23.norm1_context.linear",
     "lora_unet_joint_blocks_23_context_block_adaLN_modulation_1" DOWN, "/0",
     0},
    /* whole ones */
    {"diffusers", "flux1_dev", DOUBLE "0.attn.to_k", DOUBLE "0.attn.to_k" A,
     "/0", 0},
    {"kohya", "cogvideox_5b", DOUBLE "0.attn1.to_k",
     "lora_unet_transformer_blocks_0_attn1_to_k" DOWN, "/0", 0},
    {"kohya", "flux1_dev", "text_encoder_2.shared", "lora_te3_shared" DOWN,
     "/0", 0},
    {"comfy/native", "flux1_dev", "text_encoder_2.shared",
     "text_encoders.t5xxl.transformer.shared" DOWN, "/0", 0},
    {"OneTrainer DiT", "flux1_dev", "text_encoder_2.shared",
     "lora_te2_shared" DOWN, "/0", 0},
    {"kohya", "sd3_medium", "text_encoder." CLIP "0.mlp.fc1",
     "lora_te1_text_model_encoder_layers_0_mlp_fc1" DOWN, "/0", 0},
    {"bfl-control", "flux1_dev", "text_encoder." CLIP "0.mlp.fc1", NULL, "/0",
     NO},
    /* a layer of one model, and the original name of another's */
    {"diffusers", NULL, "transformer.img_in", "transformer.img_in" A, "/0", 0},
    {"kohya", "flux1_dev", "transformer.img_in", "lora_unet_img_in" DOWN, "/0",
     0},
    {"kohya", "flux1_dev", "transformer.x_embedder", "lora_unet_img_in" DOWN,
     "/0", 0},
    /* original weights as a whole */
    {"kohya", "flux1_dev", "transformer.double_blocks.0.img_attn.qkv",
     "lora_unet_double_blocks_0_img_attn_qkv" DOWN, "/0", 0},
    {"kohya", NULL, "transformer.double_blocks.0.img_attn.qkv",
     "lora_unet_double_blocks_0_img_attn_qkv" DOWN, "/0", 0},
    {"bfl-control", "flux1_dev", "transformer.single_blocks.0.linear1",
     "single_blocks.0.linear1" A, "/0", 0},
    {"xlabs", "flux1_dev", "transformer.double_blocks.0.img_attn.qkv",
     "double_blocks.0.processor.qkv_lora1.down.weight", "/0", 0},
    {"xlabs", "flux1_dev", "transformer.single_blocks.0.processor.qkv_lora",
     "single_blocks.0.processor.qkv_lora.down.weight", "/0", 0},
    {"diffusers", "flux1_dev", "transformer.double_blocks.0.img_attn.qkv", NULL,
     "/0", NO},
    {"diffusers", "flux1_dev", "transformer.final_layer.adaLN_modulation.1",
     NULL, "/0", NO},
    {"kohya", "flux1_dev", "transformer.single_blocks.0.processor.qkv_lora",
     NULL, "/0", NO},
    {"xlabs", "flux1_dev", "transformer.single_blocks.0.linear1", NULL, "/0",
     NO},
    {"xlabs", "hunyuan_video", SINGLE "0.proj_out", NULL, "/0", NO},
    {"comfy/native", "sdxl",
     "text_encoder_2.model.transformer.resblocks.0.attn.in_proj", NULL, "/0",
     NO},
    {"kohya", "sdxl", "text_encoder_2.model.text_projection", NULL, "/0", NO},
    /* one layer, and a name for it in each model */
    {"comfy/native", NULL, DOUBLE "0.attn.to_k", NULL, "/0", LORA_ERROR_KEY},
    {"comfy/native", NULL, "transformer.norm_out.linear", NULL, "/0",
     LORA_ERROR_KEY},
    {"comfy/native", NULL, DOUBLE "0.img_mlp.net.2",
     "diffusion_model.transformer_blocks.0.img_mlp.net.2" DOWN, "/0", 0},
    {"diffusers", NULL, DOUBLE "0.attn.to_k", DOUBLE "0.attn.to_k" A, "/0", 0},
    {"candle-lora", "flux1_dev", DOUBLE "0.attn.to_k", NULL, "/0", NO},
};

static void check_written(lora__buffer *out, const written *row, int with_rows)
{
    lora__spelling spelling = {0};
    lora__row_set rows;
    lora_error error;
    lora_status want = row->status;
    char text[64];

    spelling.family =
        row->family == NULL ? NULL : lora__family_find(row->family);
    spelling.target = row->target;
    spelling.role = LORA__ROLE_DOWN;
    memset(&rows, 0xFF, sizeof rows);
    spelling.rows = with_rows ? &rows : NULL;
    /* who does not ask for rows gets whole weights only */
    if (!with_rows && want == LORA_OK && strcmp(row->rows, "/0") != 0) {
        want = NO;
    }
    lora__buffer_clear(out);
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__names_write(out, lora__dialect_find(row->dialect),
                                       &spelling, &error),
                     want);
    if (want != LORA_OK) {
        assert_int_equal(out->bytes, 0);
        assert_string_equal(error.subject, row->target);
        return;
    }
    assert_string_equal(out->data, row->key);
    if (with_rows) {
        put_rows(text, sizeof text, &rows);
        assert_string_equal(text, row->rows);
    }
}

static void rows_are_told(void **state)
{
    static file f;
    lora__buffer out;

    (void)state;
    file_open(&f);
    lora__buffer_init(&out, f.context);
    for (size_t i = 0; i < COUNT(written_rows); i++) {
        check_written(&out, &written_rows[i], 1);
        check_written(&out, &written_rows[i], 0);
    }
    lora__buffer_destroy(&out);
    file_close(&f);
}

/* Numbered modules, in their own dialect. */
static void numbers_are_kept(void **state)
{
    static const struct {
        const char *dialect;
        const char *module;
        const char *target;
        const char *down;
        const char *up;
    } rows[] = {
        {"candle-lora", "lora_linear.12", "lora_linear.12",
         "lora_linear.a12.weight", "lora_linear.b12.weight"},
        {"sam-positional", "023", "image_encoder.blocks.11.attn.qkv#v",
         "w_a_023", "w_b_023"},
    };
    static file f;
    lora__buffer out;

    (void)state;
    file_open(&f);
    lora__buffer_init(&out, f.context);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const lora__dialect *dialect = lora__dialect_find(rows[i].dialect);
        lora__spelling spelling = {0};

        assert_true(lora__dialect_has_role(dialect, LORA__ROLE_UP));
        assert_false(lora__dialect_has_role(dialect, LORA__ROLE_ALPHA));
        spelling.target = rows[i].target;
        spelling.stored = rows[i].module;
        spelling.stored_dialect = dialect;
        for (int up = 0; up < 2; up++) {
            spelling.role = up ? LORA__ROLE_UP : LORA__ROLE_DOWN;
            lora__buffer_clear(&out);
            assert_int_equal(lora__names_write(&out, dialect, &spelling, NULL),
                             LORA_OK);
            assert_string_equal(out.data, up ? rows[i].up : rows[i].down);
        }
        lora__buffer_clear(&out);
        assert_int_equal(lora__names_write(&out, lora__dialect_find("kohya"),
                                           &spelling, NULL),
                         LORA_ERROR_KEY);
        assert_int_equal(out.bytes, 0);
    }
    lora__buffer_destroy(&out);
    file_close(&f);
}

static void damaged_names_are_harmless(void **state)
{
    (void)state;
    for (size_t t = 0; t < COUNT(fused_files); t++) {
        for (size_t i = 0; i < fused_files[t].count; i++) {
            check_damaged(fused_files[t].rows[i].key, '_');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modules_have_parts),
        cmocka_unit_test(parts_are_shared),
        cmocka_unit_test(norms_are_replaced),
        cmocka_unit_test(numbers_for_names),
        cmocka_unit_test(lists_are_pairs),
        cmocka_unit_test(lists_have_no_gaps),
        cmocka_unit_test(rows_are_told),
        cmocka_unit_test(numbers_are_kept),
        cmocka_unit_test(damaged_names_are_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
