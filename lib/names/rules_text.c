/* Rules: text encoders. Everybody spells them as diffusers does, but for the
 * checkpoints of Stable Diffusion 2 and XL, which have OpenCLIP's names, and
 * for transformers from 5 on, where CLIP without a projection has lost its
 * "text_model"; those are read and never written.
 */
#include "names/rules.h"

#define TEXT_SD3 LORA__FAMILIES_SD3
#define TEXT_FLUX LORA__FAMILY_FLUX
#define TEXT_CLIP_L                                                            \
    (LORA__FAMILY_SD15 | LORA__FAMILY_SDXL | TEXT_SD3 | TEXT_FLUX)
#define TEXT_CLIP_G (LORA__FAMILY_SDXL | TEXT_SD3)

static const lora__rule text_clip_layer[] = {
    RULE_TRAINED("self_attn.{k|v|q|out}_proj", NULL),
    RULE_NORM("layer_norm{1-2}", NULL),
    RULE_TRAINED("mlp.fc{1-2}", NULL),
};

static const lora__rule text_clip[] = {
    RULE_EMBEDDING("embeddings.{token|position}_embedding", NULL),
    RULE_NORM("final_layer_norm", NULL),
};

static const lora__rule text_projection[] = {
    RULE_LINEAR("text_projection", NULL),
};

static const lora__rule text_t5[] = {
    RULE_EMBEDDING("shared", NULL),
    RULE_EMBEDDING(
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", NULL),
    RULE_NORM("encoder.final_layer_norm", NULL),
};

static const lora__rule text_t5_block[] = {
    RULE_TRAINED("0.SelfAttention.{q|k|v|o}", NULL),
    RULE_TRAINED("1.DenseReluDense.wi_{0-1}", NULL),
    RULE_TRAINED("1.DenseReluDense.wo", NULL),
    RULE_NORM("{0-1}.layer_norm", NULL),
};

static const lora__rule text_openclip_layer[] = {
    RULE_FUSED("self_attn.{q|k|v}_proj", "attn.in_proj", RULE_THIRDS),
    RULE_LINEAR("self_attn.out_proj", "attn.out_proj"),
    RULE_NORM("layer_norm{1-2}", "ln_{1-2}"),
    RULE_LINEAR("mlp.fc1", "mlp.c_fc"),
    RULE_LINEAR("mlp.fc2", "mlp.c_proj"),
};

static const lora__rule text_openclip[] = {
    RULE_EMBEDDING("text_model.embeddings.token_embedding", "token_embedding"),
    RULE_EMBEDDING("text_model.embeddings.position_embedding",
                   "positional_embedding"),
    RULE_NORM("text_model.final_layer_norm", "ln_final"),
    {LORA__FAMILY_SDXL, "text_projection", "text_projection", "T",
     LORA__LAYER_LINEAR, 0},
};

#define TEXT_SITE(families, encoder, name, rules)                              \
    RULE_SITE(families, LORA__COMPONENT_##encoder, name, NULL, rules)
/* T5 is Flux's second encoder, but all trainers call it the third. */
#define TEXT_FLUX_T5(name, rules)                                              \
    {                                                                          \
        TEXT_FLUX, LORA__COMPONENT_TE2, LORA__COMPONENT_TE3, 0, name, NULL,    \
            rules, LORA__COUNT(rules), 0                                       \
    }

#define TEXT_BARE(families, name, bare, rules)                                 \
    RULE_ALIAS(families, LORA__COMPONENT_TE, LORA__COMPONENT_TE, name, bare,   \
               rules)

static const lora__site text_sites[] = {
    TEXT_SITE(TEXT_CLIP_L | LORA__FAMILY_SD21, TE, "text_model", text_clip),
    TEXT_SITE(
        TEXT_CLIP_L, TE, "text_model.encoder.layers.{0-11}", text_clip_layer),
    TEXT_SITE(LORA__FAMILY_SD21,
              TE,
              "text_model.encoder.layers.{0-22}",
              text_clip_layer),
    TEXT_SITE(TEXT_SD3, TE, "", text_projection),

    TEXT_SITE(TEXT_CLIP_G, TE2, "text_model", text_clip),
    TEXT_SITE(
        TEXT_CLIP_G, TE2, "text_model.encoder.layers.{0-31}", text_clip_layer),
    TEXT_SITE(TEXT_CLIP_G, TE2, "", text_projection),

    TEXT_FLUX_T5("", text_t5),
    TEXT_FLUX_T5("encoder.block.{0-23}.layer", text_t5_block),
    TEXT_SITE(TEXT_SD3, TE3, "", text_t5),
    TEXT_SITE(TEXT_SD3, TE3, "encoder.block.{0-23}.layer", text_t5_block),

    TEXT_BARE(TEXT_CLIP_L | LORA__FAMILY_SD21, "text_model", "", text_clip),
    TEXT_BARE(TEXT_CLIP_L,
              "text_model.encoder.layers.{0-11}",
              "encoder.layers.{0-11}",
              text_clip_layer),
    TEXT_BARE(LORA__FAMILY_SD21,
              "text_model.encoder.layers.{0-22}",
              "encoder.layers.{0-22}",
              text_clip_layer),

    RULE_ALIAS(LORA__FAMILY_SD21,
               LORA__COMPONENT_TE,
               LORA__COMPONENT_OPENCLIP_H,
               "text_model.encoder.layers.{0-22}",
               "model.transformer.resblocks.{0-22}",
               text_openclip_layer),
    RULE_ALIAS(LORA__FAMILY_SD21,
               LORA__COMPONENT_TE,
               LORA__COMPONENT_OPENCLIP_H,
               "",
               "model",
               text_openclip),
    RULE_ALIAS(LORA__FAMILY_SDXL,
               LORA__COMPONENT_TE2,
               LORA__COMPONENT_OPENCLIP_G,
               "text_model.encoder.layers.{0-31}",
               "model.transformer.resblocks.{0-31}",
               text_openclip_layer),
    RULE_ALIAS(LORA__FAMILY_SDXL,
               LORA__COMPONENT_TE2,
               LORA__COMPONENT_OPENCLIP_G,
               "",
               "model",
               text_openclip),
};

LORA_PRIVATE const lora__site_group lora__rules_text = {
    TEXT_CLIP_L | LORA__FAMILY_SD21,
    LORA__COMPONENT_BIT(LORA__COMPONENT_TE) |
        LORA__COMPONENT_BIT(LORA__COMPONENT_TE2) |
        LORA__COMPONENT_BIT(LORA__COMPONENT_TE3) |
        LORA__COMPONENT_BIT(LORA__COMPONENT_OPENCLIP_H) |
        LORA__COMPONENT_BIT(LORA__COMPONENT_OPENCLIP_G),
    text_sites, LORA__COUNT(text_sites)};
