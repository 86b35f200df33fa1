/* Rules: models for video: Wan 2.1 (from text and from images), LTX-Video and
 * CogVideoX. HunyuanVideo is with Flux, of whose making it is. */
#include "names/rules.h"

/* Wan 2.1 ----------------------------------------------------------------- */

#define VIDEO_WAN (LORA__FAMILY_WAN_T2V | LORA__FAMILY_WAN_I2V)
#define VIDEO_WAN_IMAGE LORA__FAMILY_WAN_I2V

static const lora__rule video_wan_block[] = {
    RULE_LINEAR("attn1.to_{q|k|v}", "self_attn.{q|k|v}"),
    RULE_LINEAR("attn1.to_out.0", "self_attn.o"),
    RULE_NORM("attn1.norm_{q|k}", "self_attn.norm_{q|k}"),
    RULE_LINEAR("attn2.to_{q|k|v}", "cross_attn.{q|k|v}"),
    RULE_LINEAR("attn2.to_out.0", "cross_attn.o"),
    RULE_NORM("attn2.norm_{q|k}", "cross_attn.norm_{q|k}"),
    {VIDEO_WAN_IMAGE, "attn2.add_{k|v}_proj", "cross_attn.{k|v}_img", NULL,
     LORA__LAYER_LINEAR, 0},
    {VIDEO_WAN_IMAGE, "attn2.norm_added_k", "cross_attn.norm_k_img", NULL,
     LORA__LAYER_NORM, 0},
    RULE_LINEAR("ffn.net.0.proj", "ffn.0"),
    RULE_LINEAR("ffn.net.2", "ffn.2"),
    RULE_NORM("norm2", "norm3"),
    RULE_TABLE("scale_shift_table", "modulation"),
};

static const lora__rule video_wan_ends[] = {
    RULE_CONV("patch_embedding", "patch_embedding"),
    RULE_LINEAR("condition_embedder.{time|text}_embedder.linear_{1|2}",
                "{time|text}_embedding.{0|2}"),
    RULE_LINEAR("condition_embedder.time_proj", "time_projection.1"),
    RULE_TABLE("scale_shift_table", "head.modulation"),
    RULE_LINEAR("proj_out", "head.head"),
};

static const lora__rule video_wan_image[] = {
    RULE_NORM("norm1", "0"),
    RULE_LINEAR("ff.net.0.proj", "1"),
    RULE_LINEAR("ff.net.2", "3"),
    RULE_NORM("norm2", "4"),
};

/* LTX-Video --------------------------------------------------------------- */

#define VIDEO_LTX LORA__FAMILY_LTX_VIDEO

static const lora__rule video_ltx_block[] = {
    RULE_TABLE("scale_shift_table", "scale_shift_table"),
    RULE_NORM("attn{1-2}.norm_{q|k}", "attn{1-2}.{q|k}_norm"),
    RULE_LINEAR("attn{1-2}.to_{q|k|v}", "attn{1-2}.to_{q|k|v}"),
    RULE_LINEAR("attn{1-2}.to_out.0", "attn{1-2}.to_out.0"),
    RULE_LINEAR("ff.net.0.proj", "ff.net.0.proj"),
    RULE_LINEAR("ff.net.2", "ff.net.2"),
};

static const lora__rule video_ltx_ends[] = {
    RULE_TABLE("scale_shift_table", "scale_shift_table"),
    RULE_LINEAR("proj_in", "patchify_proj"),
    RULE_LINEAR("time_embed.emb.timestep_embedder.linear_{1-2}",
                "adaln_single.emb.timestep_embedder.linear_{1-2}"),
    RULE_LINEAR("time_embed.linear", "adaln_single.linear"),
    RULE_LINEAR("caption_projection.linear_{1-2}",
                "caption_projection.linear_{1-2}"),
    RULE_LINEAR("proj_out", "proj_out"),
};

/* CogVideoX: one modulation of twelve chunks, six of them for each norm. -- */

#define VIDEO_COG LORA__FAMILY_COGVIDEOX

static const lora__rule video_cog_layer[] = {
    RULE_NORM("norm1.norm", "input_layernorm"),
    RULE_FUSED("attn1.to_{q|k|v}", "attention.query_key_value", RULE_THIRDS),
    RULE_LINEAR("attn1.to_out.0", "attention.dense"),
    RULE_NORM("norm2.norm", "post_attention_layernorm"),
    RULE_LINEAR("ff.net.0.proj", "mlp.dense_h_to_4h"),
    RULE_LINEAR("ff.net.2", "mlp.dense_4h_to_h"),
};

static const lora__rule video_cog_modulation[] = {
    RULE_FUSED("norm1.linear", "1", "0:1,2:3/4"),
    RULE_FUSED("norm2.linear", "1", "1:2,3:4/4"),
};

static const lora__rule video_cog_query[] = {
    RULE_NORM("attn1.norm_q", ""),
};

static const lora__rule video_cog_key[] = {
    RULE_NORM("attn1.norm_k", ""),
};

static const lora__rule video_cog_ends[] = {
    RULE_CONV("patch_embed.proj", "mixins.patch_embed.proj"),
    RULE_LINEAR("patch_embed.text_proj", "mixins.patch_embed.text_proj"),
    RULE_LINEAR("time_embedding.linear_{1|2}", "time_embed.{0|2}"),
    RULE_NORM("norm_final", "transformer.final_layernorm"),
    RULE_LINEAR("norm_out.linear", "mixins.final_layer.adaLN_modulation.1"),
    RULE_NORM("norm_out.norm", "mixins.final_layer.norm_final"),
    RULE_LINEAR("proj_out", "mixins.final_layer.linear"),
};

#define VIDEO_COG_SITE(original, rules)                                        \
    RULE_TRANSFORMER(VIDEO_COG, "transformer_blocks.{0-41}",                   \
                     original ".{0-41}", rules)

static const lora__site video_sites[] = {
    RULE_TRANSFORMER(
        VIDEO_WAN, "blocks.{0-39}", "blocks.{0-39}", video_wan_block),
    RULE_TRANSFORMER(VIDEO_WAN, "", "", video_wan_ends),
    RULE_TRANSFORMER(VIDEO_WAN_IMAGE,
                     "condition_embedder.image_embedder",
                     "img_emb.proj",
                     video_wan_image),

    RULE_TRANSFORMER(VIDEO_LTX,
                     "transformer_blocks.{0-27}",
                     "transformer_blocks.{0-27}",
                     video_ltx_block),
    RULE_TRANSFORMER(VIDEO_LTX, "", "", video_ltx_ends),

    VIDEO_COG_SITE("transformer.layers", video_cog_layer),
    VIDEO_COG_SITE("mixins.adaln_layer.adaLN_modulations",
                   video_cog_modulation),
    VIDEO_COG_SITE("mixins.adaln_layer.query_layernorm_list", video_cog_query),
    VIDEO_COG_SITE("mixins.adaln_layer.key_layernorm_list", video_cog_key),
    RULE_TRANSFORMER(VIDEO_COG, "", "", video_cog_ends),
};

LORA_PRIVATE const lora__site_group lora__rules_video = {
    VIDEO_WAN | VIDEO_LTX | VIDEO_COG,
    LORA__COMPONENT_BIT(LORA__COMPONENT_TRANSFORMER), video_sites,
    LORA__COUNT(video_sites)};
