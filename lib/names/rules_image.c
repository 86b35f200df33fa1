/* Rules: further models for images: Lumina 2, AuraFlow, PixArt Sigma,
 * HunyuanDiT, Qwen-Image and the prior of Stable Cascade. */
#include "names/rules.h"

/* Lumina 2: queries are three times as wide as keys and values. -------- */

#define IMAGE_LUMINA LORA__FAMILY_LUMINA2

static const lora__rule image_lumina_layer[] = {
    RULE_TRAINED_FUSED("attn.to_{q|k|v}", "attention.qkv", "0:3|3:4|4:5/5"),
    RULE_TRAINED("attn.to_out.0", "attention.out"),
    RULE_NORM("attn.norm_{q|k}", "attention.{q|k}_norm"),
    RULE_TRAINED("feed_forward.linear_{1-3}", "feed_forward.w{1-3}"),
    RULE_NORM("ffn_norm{1-2}", "ffn_norm{1-2}"),
    RULE_NORM("norm2", "attention_norm2"),
};

static const lora__rule image_lumina_modulated[] = {
    RULE_TRAINED("norm1.linear", "adaLN_modulation.1"),
    RULE_NORM("norm1.norm", "attention_norm1"),
};

static const lora__rule image_lumina_plain[] = {
    RULE_NORM("norm1", "attention_norm1"),
};

static const lora__rule image_lumina_ends[] = {
    RULE_LINEAR("x_embedder", "x_embedder"),
    RULE_LINEAR("time_caption_embed.timestep_embedder.linear_{1|2}",
                "t_embedder.mlp.{0|2}"),
    RULE_NORM("time_caption_embed.caption_embedder.0", "cap_embedder.0"),
    RULE_LINEAR("time_caption_embed.caption_embedder.1", "cap_embedder.1"),
    RULE_TRAINED("norm_out.linear_1", "final_layer.adaLN_modulation.1"),
    RULE_TRAINED("norm_out.linear_2", "final_layer.linear"),
};

/* AuraFlow ---------------------------------------------------------------- */

#define IMAGE_AURAFLOW LORA__FAMILY_AURAFLOW

static const lora__rule image_aura_double[] = {
    RULE_LINEAR("norm1.linear", "modX.1"),
    RULE_LINEAR("norm1_context.linear", "modC.1"),
    RULE_LINEAR("attn.to_{q|k|v}", "attn.w2{q|k|v}"),
    RULE_LINEAR("attn.add_{q|k|v}_proj", "attn.w1{q|k|v}"),
    RULE_LINEAR("attn.to_out.0", "attn.w2o"),
    RULE_LINEAR("attn.to_add_out", "attn.w1o"),
    RULE_LINEAR("ff.linear_{1-2}", "mlpX.c_fc{1-2}"),
    RULE_LINEAR("ff.out_projection", "mlpX.c_proj"),
    RULE_LINEAR("ff_context.linear_{1-2}", "mlpC.c_fc{1-2}"),
    RULE_LINEAR("ff_context.out_projection", "mlpC.c_proj"),
};

static const lora__rule image_aura_single[] = {
    RULE_LINEAR("norm1.linear", "modCX.1"),
    RULE_LINEAR("attn.to_{q|k|v}", "attn.w1{q|k|v}"),
    RULE_LINEAR("attn.to_out.0", "attn.w1o"),
    RULE_LINEAR("ff.linear_{1-2}", "mlp.c_fc{1-2}"),
    RULE_LINEAR("ff.out_projection", "mlp.c_proj"),
};

static const lora__rule image_aura_ends[] = {
    RULE_TABLE("register_tokens", "register_tokens"),
    RULE_TABLE("pos_embed.pos_embed", "positional_encoding"),
    RULE_LINEAR("pos_embed.proj", "init_x_linear"),
    RULE_LINEAR("context_embedder", "cond_seq_linear"),
    RULE_LINEAR("time_step_proj.linear_{1|2}", "t_embedder.mlp.{0|2}"),
    RULE_FUSED("norm_out.linear", "modF.1", RULE_SWAPPED),
    RULE_LINEAR("proj_out", "final_linear"),
};

/* PixArt Sigma ------------------------------------------------------------ */

#define IMAGE_PIXART LORA__FAMILY_PIXART_SIGMA

static const lora__rule image_pixart_block[] = {
    RULE_TABLE("scale_shift_table", "scale_shift_table"),
    RULE_FUSED("attn1.to_{q|k|v}", "attn.qkv", RULE_THIRDS),
    RULE_LINEAR("attn1.to_out.0", "attn.proj"),
    RULE_LINEAR("attn2.to_q", "cross_attn.q_linear"),
    RULE_FUSED("attn2.to_{k|v}", "cross_attn.kv_linear", RULE_HALVES),
    RULE_LINEAR("attn2.to_out.0", "cross_attn.proj"),
    RULE_LINEAR("ff.net.0.proj", "mlp.fc1"),
    RULE_LINEAR("ff.net.2", "mlp.fc2"),
};

static const lora__rule image_pixart_ends[] = {
    RULE_TABLE("scale_shift_table", "final_layer.scale_shift_table"),
    RULE_CONV("pos_embed.proj", "x_embedder.proj"),
    RULE_LINEAR("proj_out", "final_layer.linear"),
    RULE_LINEAR("adaln_single.emb.timestep_embedder.linear_{1|2}",
                "t_embedder.mlp.{0|2}"),
    RULE_LINEAR("adaln_single.linear", "t_block.1"),
    RULE_LINEAR("caption_projection.linear_{1|2}", "y_embedder.y_proj.fc{1|2}"),
};

/* HunyuanDiT: the second norm and the third change places. ------------- */

#define IMAGE_HUNYUAN LORA__FAMILY_HUNYUAN_DIT

static const lora__rule image_hunyuan_block[] = {
    RULE_LINEAR("norm1.linear", "default_modulation.1"),
    RULE_NORM("norm1.norm", "norm1"),
    RULE_NORM("attn{1-2}.norm_{q|k}", "attn{1-2}.{q|k}_norm"),
    RULE_FUSED("attn1.to_{q|k|v}", "attn1.Wqkv", RULE_THIRDS),
    RULE_LINEAR("attn2.to_q", "attn2.q_proj"),
    RULE_FUSED("attn2.to_{k|v}", "attn2.kv_proj", RULE_HALVES),
    RULE_LINEAR("attn{1-2}.to_out.0", "attn{1-2}.out_proj"),
    RULE_NORM("norm2", "norm3"),
    RULE_NORM("norm3", "norm2"),
    RULE_LINEAR("ff.net.0.proj", "mlp.fc1"),
    RULE_LINEAR("ff.net.2", "mlp.fc2"),
};

/* The second half takes what the first half had. */
static const lora__rule image_hunyuan_skip[] = {
    RULE_NORM("skip_norm", "skip_norm"),
    RULE_LINEAR("skip_linear", "skip_linear"),
};

static const lora__rule image_hunyuan_ends[] = {
    RULE_TABLE("text_embedding_padding", "text_embedding_padding"),
    RULE_LINEAR("text_embedder.linear_{1|2}", "mlp_t5.{0|2}"),
    RULE_CONV("pos_embed.proj", "x_embedder.proj"),
    RULE_LINEAR("time_extra_emb.timestep_embedder.linear_{1|2}",
                "t_embedder.mlp.{0|2}"),
    RULE_TABLE("time_extra_emb.pooler.positional_embedding",
               "pooler.positional_embedding"),
    RULE_LINEAR("time_extra_emb.pooler.{q|k|v|c}_proj",
                "pooler.{q|k|v|c}_proj"),
    RULE_LINEAR("time_extra_emb.extra_embedder.linear_{1|2}",
                "extra_embedder.{0|2}"),
    RULE_FUSED(
        "norm_out.linear", "final_layer.adaLN_modulation.1", RULE_SWAPPED),
    RULE_LINEAR("proj_out", "final_layer.linear"),
};

/* Qwen-Image: the names of diffusers throughout. ----------------------- */

#define IMAGE_QWEN LORA__FAMILY_QWEN_IMAGE

static const lora__rule image_qwen_block[] = {
    RULE_LINEAR("{img|txt}_mod.1", NULL),
    RULE_NORM("attn.norm_{q|k}", NULL),
    RULE_LINEAR("attn.to_{q|k|v}", NULL),
    RULE_LINEAR("attn.add_{q|k|v}_proj", NULL),
    RULE_LINEAR("attn.to_out.0", NULL),
    RULE_LINEAR("attn.to_add_out", NULL),
    RULE_NORM("attn.norm_added_{q|k}", NULL),
    RULE_LINEAR("{img|txt}_mlp.net.0.proj", NULL),
    RULE_LINEAR("{img|txt}_mlp.net.2", NULL),
};

static const lora__rule image_qwen_ends[] = {
    RULE_LINEAR("time_text_embed.timestep_embedder.linear_{1-2}", NULL),
    RULE_NORM("txt_norm", NULL),
    RULE_LINEAR("{img|txt}_in", NULL),
    RULE_LINEAR("norm_out.linear", NULL),
    RULE_LINEAR("proj_out", NULL),
};

/* Stable Cascade: convolution, time and attention blocks in turn. ------- */

#define IMAGE_CASCADE LORA__FAMILY_CASCADE

static const lora__rule image_cascade_conv[] = {
    RULE_CONV3("depthwise", "depthwise"),
    RULE_LINEAR("channelwise.{0|4}", "channelwise.{0|4}"),
    RULE_TABLE("channelwise.2.{gamma|beta}", "channelwise.2.{gamma|beta}"),
};

static const lora__rule image_cascade_time[] = {
    RULE_LINEAR("mapper", "mapper"),
    RULE_LINEAR("mapper_{sca|crp}", "mapper_{sca|crp}"),
};

static const lora__rule image_cascade_attention[] = {
    RULE_FUSED("attention.to_{q|k|v}", "attention.attn.in_proj", RULE_THIRDS),
    RULE_LINEAR("attention.to_out.0", "attention.attn.out_proj"),
    RULE_LINEAR("kv_mapper.1", "kv_mapper.1"),
};

static const lora__rule image_cascade_ends[] = {
    RULE_LINEAR("clip_{txt_pooled|txt|img}_mapper", NULL),
    RULE_CONV1("embedding.1", NULL),
    RULE_CONV1("down_downscalers.1.1.blocks.0", NULL),
    RULE_CONV1("up_upscalers.0.1.blocks.1", NULL),
    RULE_CONV1("clf.1", NULL),
};

#define IMAGE_PRIOR(name, original, rules)                                     \
    RULE_SITE(IMAGE_CASCADE, LORA__COMPONENT_PRIOR, name, original, rules)
/* The outer levels have 8 of each, the inner ones 24. */
#define IMAGE_PRIOR_LEVELS(first, outer, inner, rules)                         \
    IMAGE_PRIOR("down_blocks.{0}.{" first "-" outer "/3}",                     \
                "down_blocks.{0}.{" first "-" outer "/3}", rules),             \
        IMAGE_PRIOR("down_blocks.{1}.{" first "-" inner "/3}",                 \
                    "down_blocks.{1}.{" first "-" inner "/3}", rules),         \
        IMAGE_PRIOR("up_blocks.{0}.{" first "-" inner "/3}",                   \
                    "up_blocks.{0}.{" first "-" inner "/3}", rules),           \
        IMAGE_PRIOR("up_blocks.{1}.{" first "-" outer "/3}",                   \
                    "up_blocks.{1}.{" first "-" outer "/3}", rules)

static const lora__site image_sites[] = {
    RULE_TRANSFORMER(
        IMAGE_LUMINA, "layers.{0-25}", "layers.{0-25}", image_lumina_layer),
    RULE_TRANSFORMER(
        IMAGE_LUMINA, "layers.{0-25}", "layers.{0-25}", image_lumina_modulated),
    RULE_TRANSFORMER(IMAGE_LUMINA,
                     "noise_refiner.{0-1}",
                     "noise_refiner.{0-1}",
                     image_lumina_layer),
    RULE_TRANSFORMER(IMAGE_LUMINA,
                     "noise_refiner.{0-1}",
                     "noise_refiner.{0-1}",
                     image_lumina_modulated),
    RULE_TRANSFORMER(IMAGE_LUMINA,
                     "context_refiner.{0-1}",
                     "context_refiner.{0-1}",
                     image_lumina_layer),
    RULE_TRANSFORMER(IMAGE_LUMINA,
                     "context_refiner.{0-1}",
                     "context_refiner.{0-1}",
                     image_lumina_plain),
    RULE_TRANSFORMER(IMAGE_LUMINA, "", "", image_lumina_ends),

    RULE_TRANSFORMER(IMAGE_AURAFLOW,
                     "joint_transformer_blocks.{0-3}",
                     "double_layers.{0-3}",
                     image_aura_double),
    RULE_TRANSFORMER(IMAGE_AURAFLOW,
                     "single_transformer_blocks.{0-31}",
                     "single_layers.{0-31}",
                     image_aura_single),
    RULE_TRANSFORMER(IMAGE_AURAFLOW, "", "", image_aura_ends),

    RULE_TRANSFORMER(IMAGE_PIXART,
                     "transformer_blocks.{0-27}",
                     "blocks.{0-27}",
                     image_pixart_block),
    RULE_TRANSFORMER(IMAGE_PIXART, "", "", image_pixart_ends),

    RULE_TRANSFORMER(
        IMAGE_HUNYUAN, "blocks.{0-39}", "blocks.{0-39}", image_hunyuan_block),
    RULE_TRANSFORMER(
        IMAGE_HUNYUAN, "blocks.{21-39}", "blocks.{21-39}", image_hunyuan_skip),
    RULE_TRANSFORMER(IMAGE_HUNYUAN, "", "", image_hunyuan_ends),

    RULE_TRANSFORMER(
        IMAGE_QWEN, "transformer_blocks.{0-59}", NULL, image_qwen_block),
    RULE_TRANSFORMER(IMAGE_QWEN, "", NULL, image_qwen_ends),

    IMAGE_PRIOR_LEVELS("0", "21", "69", image_cascade_conv),
    IMAGE_PRIOR_LEVELS("1", "22", "70", image_cascade_time),
    IMAGE_PRIOR_LEVELS("2", "23", "71", image_cascade_attention),
    IMAGE_PRIOR("", NULL, image_cascade_ends),
};

LORA_PRIVATE const lora__site_group lora__rules_image = {
    IMAGE_LUMINA | IMAGE_AURAFLOW | IMAGE_PIXART | IMAGE_HUNYUAN | IMAGE_QWEN |
        IMAGE_CASCADE,
    LORA__COMPONENT_BIT(LORA__COMPONENT_TRANSFORMER) |
        LORA__COMPONENT_BIT(LORA__COMPONENT_PRIOR),
    image_sites, LORA__COUNT(image_sites)};
