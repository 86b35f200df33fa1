/* Rules: Flux.1 and what was made of its architecture: Chroma and
 * HunyuanVideo. Double blocks have two streams, single blocks one. */
#include "names/rules.h"

#define FLUX_DEV LORA__FAMILY_FLUX
#define FLUX_BOTH (LORA__FAMILY_FLUX | LORA__FAMILY_CHROMA)
#define FLUX_HUNYUAN LORA__FAMILY_HUNYUAN_VIDEO

/* q, k and v are as wide as the model, the MLP four times. */
#define FLUX_QKV_OF_7 "0:1|1:2|2:3/7"
#define FLUX_MLP_OF_7 "3:7/7"

static const lora__rule flux_double[] = {
    RULE_NORM("attn.norm_{q|k}", "img_attn.norm.{query|key}_norm"),
    RULE_TRAINED_FUSED("attn.to_{q|k|v}", "img_attn.qkv", RULE_THIRDS),
    RULE_TRAINED("attn.to_out.0", "img_attn.proj"),
    RULE_TRAINED("ff.net.0.proj", "img_mlp.0"),
    RULE_TRAINED("ff.net.2", "img_mlp.2"),
    RULE_NORM("attn.norm_added_{q|k}", "txt_attn.norm.{query|key}_norm"),
    RULE_TRAINED_FUSED("attn.add_{q|k|v}_proj", "txt_attn.qkv", RULE_THIRDS),
    RULE_TRAINED("attn.to_add_out", "txt_attn.proj"),
    RULE_TRAINED("ff_context.net.0.proj", "txt_mlp.0"),
    RULE_TRAINED("ff_context.net.2", "txt_mlp.2"),
    {FLUX_DEV, "norm1.linear", "img_mod.lin", NULL, LORA__LAYER_LINEAR, 1},
    {FLUX_DEV, "norm1_context.linear", "txt_mod.lin", NULL, LORA__LAYER_LINEAR,
     1},
};

static const lora__rule flux_single[] = {
    RULE_NORM("attn.norm_{q|k}", "norm.{query|key}_norm"),
    RULE_TRAINED_FUSED("attn.to_{q|k|v}", "linear1", FLUX_QKV_OF_7),
    RULE_TRAINED_FUSED("proj_mlp", "linear1", FLUX_MLP_OF_7),
    RULE_TRAINED("proj_out", "linear2"),
    {FLUX_DEV, "norm.linear", "modulation.lin", NULL, LORA__LAYER_LINEAR, 1},
};

/* XLabs' trainer adapts the attention alone, and so part of linear1. */
static const lora__rule flux_single_xlabs[] = {
    RULE_FUSED("attn.to_{q|k|v}", "processor.qkv_lora", RULE_THIRDS),
};

static const lora__rule flux_ends[] = {
    RULE_LINEAR("x_embedder", "img_in"),
    RULE_LINEAR("context_embedder", "txt_in"),
    RULE_LINEAR("proj_out", "final_layer.linear"),
    {FLUX_DEV, "norm_out.linear", "final_layer.adaLN_modulation.1",
     RULE_SWAPPED, LORA__LAYER_LINEAR, 0},
    {FLUX_DEV, "time_text_embed.{timestep|guidance|text}_embedder.linear_{1|2}",
     "{time|guidance|vector}_in.{in|out}_layer", NULL, LORA__LAYER_LINEAR, 0},
};

static const lora__rule flux_chroma_ends[] = {
    RULE_LINEAR("{in|out}_proj", "{in|out}_proj"),
    RULE_LINEAR("layers.{0-4}.linear_{1|2}", "layers.{0-4}.{in|out}_layer"),
    RULE_NORM("norms.{0-4}", "norms.{0-4}"),
};

static const lora__rule flux_hunyuan_double[] = {
    RULE_LINEAR("norm1.linear", "img_mod.linear"),
    RULE_NORM("attn.norm_{q|k}", "img_attn_{q|k}_norm"),
    RULE_FUSED("attn.to_{q|k|v}", "img_attn_qkv", RULE_THIRDS),
    RULE_LINEAR("attn.to_out.0", "img_attn_proj"),
    RULE_LINEAR("ff.net.0.proj", "img_mlp.fc1"),
    RULE_LINEAR("ff.net.2", "img_mlp.fc2"),
    RULE_LINEAR("norm1_context.linear", "txt_mod.linear"),
    RULE_NORM("attn.norm_added_{q|k}", "txt_attn_{q|k}_norm"),
    RULE_FUSED("attn.add_{q|k|v}_proj", "txt_attn_qkv", RULE_THIRDS),
    RULE_LINEAR("attn.to_add_out", "txt_attn_proj"),
    RULE_LINEAR("ff_context.net.0.proj", "txt_mlp.fc1"),
    RULE_LINEAR("ff_context.net.2", "txt_mlp.fc2"),
};

static const lora__rule flux_hunyuan_single[] = {
    RULE_LINEAR("norm.linear", "modulation.linear"),
    RULE_NORM("attn.norm_{q|k}", "{q|k}_norm"),
    RULE_FUSED("attn.to_{q|k|v}", "linear1", FLUX_QKV_OF_7),
    RULE_FUSED("proj_mlp", "linear1", FLUX_MLP_OF_7),
    RULE_LINEAR("proj_out", "linear2"),
};

static const lora__rule flux_hunyuan_refiner[] = {
    RULE_NORM("norm{1-2}", "norm{1-2}"),
    RULE_FUSED("attn.to_{q|k|v}", "self_attn_qkv", RULE_THIRDS),
    RULE_LINEAR("attn.to_out.0", "self_attn_proj"),
    RULE_LINEAR("ff.net.0.proj", "mlp.fc1"),
    RULE_LINEAR("ff.net.2", "mlp.fc2"),
    RULE_LINEAR("norm_out.linear", "adaLN_modulation.1"),
};

static const lora__rule flux_hunyuan_context[] = {
    RULE_LINEAR("time_text_embed.timestep_embedder.linear_{1|2}",
                "t_embedder.mlp.{0|2}"),
    RULE_LINEAR("time_text_embed.text_embedder.linear_{1|2}",
                "c_embedder.linear_{1|2}"),
    RULE_LINEAR("proj_in", "input_embedder"),
};

static const lora__rule flux_hunyuan_ends[] = {
    RULE_CONV("x_embedder.proj", "img_in.proj"),
    RULE_LINEAR("time_text_embed.{timestep|guidance}_embedder.linear_{1|2}",
                "{time|guidance}_in.mlp.{0|2}"),
    RULE_LINEAR("time_text_embed.text_embedder.linear_{1|2}",
                "vector_in.{in|out}_layer"),
    RULE_FUSED(
        "norm_out.linear", "final_layer.adaLN_modulation.1", RULE_SWAPPED),
    RULE_LINEAR("proj_out", "final_layer.linear"),
};

static const lora__site flux_sites[] = {
    RULE_TRANSFORMER(FLUX_BOTH,
                     "transformer_blocks.{0-18}",
                     "double_blocks.{0-18}",
                     flux_double),
    RULE_TRANSFORMER(FLUX_BOTH,
                     "single_transformer_blocks.{0-37}",
                     "single_blocks.{0-37}",
                     flux_single),
    RULE_TRANSFORMER(FLUX_BOTH, "", "", flux_ends),
    RULE_ALIAS(FLUX_DEV,
               LORA__COMPONENT_TRANSFORMER,
               LORA__COMPONENT_TRANSFORMER,
               "single_transformer_blocks.{0-37}",
               "single_blocks.{0-37}",
               flux_single_xlabs),

    RULE_TRANSFORMER(LORA__FAMILY_CHROMA,
                     "distilled_guidance_layer",
                     "distilled_guidance_layer",
                     flux_chroma_ends),

    RULE_TRANSFORMER(FLUX_HUNYUAN,
                     "transformer_blocks.{0-19}",
                     "double_blocks.{0-19}",
                     flux_hunyuan_double),
    RULE_TRANSFORMER(FLUX_HUNYUAN,
                     "single_transformer_blocks.{0-39}",
                     "single_blocks.{0-39}",
                     flux_hunyuan_single),
    RULE_TRANSFORMER(FLUX_HUNYUAN,
                     "context_embedder.token_refiner.refiner_blocks.{0-1}",
                     "txt_in.individual_token_refiner.blocks.{0-1}",
                     flux_hunyuan_refiner),
    RULE_TRANSFORMER(
        FLUX_HUNYUAN, "context_embedder", "txt_in", flux_hunyuan_context),
    RULE_TRANSFORMER(FLUX_HUNYUAN, "", "", flux_hunyuan_ends),
};

LORA_PRIVATE const lora__site_group lora__rules_flux = {
    FLUX_BOTH | FLUX_HUNYUAN, LORA__COMPONENT_BIT(LORA__COMPONENT_TRANSFORMER),
    flux_sites, LORA__COUNT(flux_sites)};
