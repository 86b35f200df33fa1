/* Rules: Stable Diffusion 3 and 3.5. 3.5 has norms of queries and keys; its
 * medium model has a second attention in the first 13 blocks. The text stream
 * ends within the last block. */
#include "names/rules.h"

#define SD3_MEDIUM LORA__FAMILY_SD3_MEDIUM
#define SD3_5_MEDIUM LORA__FAMILY_SD35_MEDIUM
#define SD3_5_LARGE LORA__FAMILY_SD35_LARGE
#define SD3_NORMS (SD3_5_MEDIUM | SD3_5_LARGE)

static const lora__rule sd3_block[] = {
    RULE_TRAINED("norm1.linear", "x_block.adaLN_modulation.1"),
    RULE_TRAINED_FUSED("attn.to_{q|k|v}", "x_block.attn.qkv", RULE_THIRDS),
    RULE_TRAINED("attn.to_out.0", "x_block.attn.proj"),
    RULE_TRAINED("ff.net.0.proj", "x_block.mlp.fc1"),
    RULE_TRAINED("ff.net.2", "x_block.mlp.fc2"),
    RULE_TRAINED_FUSED(
        "attn.add_{q|k|v}_proj", "context_block.attn.qkv", RULE_THIRDS),
    {SD3_NORMS, "attn.norm_{q|k}", "x_block.attn.ln_{q|k}", NULL,
     LORA__LAYER_NORM, 0},
    {SD3_NORMS, "attn.norm_added_{q|k}", "context_block.attn.ln_{q|k}", NULL,
     LORA__LAYER_NORM, 0},
};

static const lora__rule sd3_context[] = {
    RULE_TRAINED("norm1_context.linear", "context_block.adaLN_modulation.1"),
    RULE_TRAINED("attn.to_add_out", "context_block.attn.proj"),
    RULE_TRAINED("ff_context.net.0.proj", "context_block.mlp.fc1"),
    RULE_TRAINED("ff_context.net.2", "context_block.mlp.fc2"),
};

static const lora__rule sd3_last_context[] = {
    RULE_TRAINED_FUSED("norm1_context.linear",
                       "context_block.adaLN_modulation.1",
                       RULE_SWAPPED),
};

static const lora__rule sd3_second[] = {
    RULE_TRAINED_FUSED("attn2.to_{q|k|v}", "x_block.attn2.qkv", RULE_THIRDS),
    RULE_TRAINED("attn2.to_out.0", "x_block.attn2.proj"),
    RULE_NORM("attn2.norm_{q|k}", "x_block.attn2.ln_{q|k}"),
};

static const lora__rule sd3_ends[] = {
    RULE_CONV("pos_embed.proj", "x_embedder.proj"),
    RULE_LINEAR("time_text_embed.{timestep|text}_embedder.linear_{1|2}",
                "{t|y}_embedder.mlp.{0|2}"),
    RULE_LINEAR("context_embedder", "context_embedder"),
    RULE_FUSED(
        "norm_out.linear", "final_layer.adaLN_modulation.1", RULE_SWAPPED),
    RULE_LINEAR("proj_out", "final_layer.linear"),
};

#define SD3_SITE(families, range, rules)                                       \
    RULE_TRANSFORMER(families, "transformer_blocks." range,                    \
                     "joint_blocks." range, rules)

static const lora__site sd3_sites[] = {
    SD3_SITE(SD3_MEDIUM | SD3_5_MEDIUM, "{0-23}", sd3_block),
    SD3_SITE(SD3_MEDIUM | SD3_5_MEDIUM, "{0-22}", sd3_context),
    SD3_SITE(SD3_MEDIUM | SD3_5_MEDIUM, "{23}", sd3_last_context),
    SD3_SITE(SD3_5_MEDIUM, "{0-12}", sd3_second),
    SD3_SITE(SD3_5_LARGE, "{0-37}", sd3_block),
    SD3_SITE(SD3_5_LARGE, "{0-36}", sd3_context),
    SD3_SITE(SD3_5_LARGE, "{37}", sd3_last_context),
    RULE_TRANSFORMER(LORA__FAMILIES_SD3, "", "", sd3_ends),
};

LORA_PRIVATE const lora__site_group lora__rules_sd3 = {
    LORA__FAMILIES_SD3, LORA__COMPONENT_BIT(LORA__COMPONENT_TRANSFORMER),
    sd3_sites, LORA__COUNT(sd3_sites)};
