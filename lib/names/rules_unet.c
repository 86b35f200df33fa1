/* Rules: the UNets of Stable Diffusion 1, 2 and XL; the original names are
 * those of LDM. */
#include "names/rules.h"

#define UNET_SD (LORA__FAMILY_SD15 | LORA__FAMILY_SD21)
#define UNET_XL LORA__FAMILY_SDXL
#define UNET_ALL LORA__FAMILIES_UNET

/* A spatial transformer. Only SD 1 projects with 1 x 1 convolutions. */
static const lora__rule unet_attention[] = {
    RULE_NORM("norm", NULL),
    {LORA__FAMILY_SD15, "proj_{in|out}", NULL, NULL, LORA__LAYER_CONV1, 1},
    {LORA__FAMILY_SD21 | UNET_XL, "proj_{in|out}", NULL, NULL,
     LORA__LAYER_LINEAR, 1},
    RULE_TRAINED("transformer_blocks.{0-N}.attn{1-2}.to_{q|k|v}", NULL),
    RULE_TRAINED("transformer_blocks.{0-N}.attn{1-2}.to_out.0", NULL),
    RULE_TRAINED("transformer_blocks.{0-N}.ff.net.0.proj", NULL),
    RULE_TRAINED("transformer_blocks.{0-N}.ff.net.2", NULL),
    RULE_NORM("transformer_blocks.{0-N}.norm{1-3}", NULL),
};
#define UNET_ATTENTION unet_attention, LORA__COUNT(unet_attention)

/* A residual block; the last rule is there only where widths change. */
static const lora__rule unet_resnet[] = {
    RULE_NORM("norm1", "in_layers.0"),
    RULE_CONV3("conv1", "in_layers.2"),
    RULE_LINEAR("time_emb_proj", "emb_layers.1"),
    RULE_NORM("norm2", "out_layers.0"),
    RULE_CONV3("conv2", "out_layers.3"),
    RULE_CONV1("conv_shortcut", "skip_connection"),
};
#define UNET_RESNET unet_resnet, 5
#define UNET_RESNET_SHORTCUT unet_resnet, 6
#define UNET_SHORTCUT unet_resnet + 5, 1

static const lora__rule unet_ends[] = {
    RULE_CONV3("conv_in", "input_blocks.0.0"),
    RULE_NORM("conv_norm_out", "out.0"),
    RULE_CONV3("conv_out", "out.2"),
};
#define UNET_ENDS unet_ends, LORA__COUNT(unet_ends)

static const lora__rule unet_embedding[] = {
    RULE_LINEAR("linear_1", "0"),
    RULE_LINEAR("linear_2", "2"),
};
#define UNET_EMBEDDING unet_embedding, LORA__COUNT(unet_embedding)

static const lora__rule unet_downsampler[] = {
    RULE_CONV3("conv", "op"),
};

static const lora__rule unet_upsampler[] = {
    RULE_CONV3("conv", NULL),
};

/* Level i, block j of the UNet are input_blocks.{1+3i+j} on the way down and
 * output_blocks.{3i+j} on the way up, whatever the number of levels. */
#define UNET_DOWN_LDM "input_blocks.{1+3a+b}"
#define UNET_UP_LDM "output_blocks.{3a+b}"
#define UNET_IS LORA__COMPONENT_UNET, LORA__COMPONENT_UNET, 0

static const lora__site unet_sites[] = {
    {UNET_ALL, UNET_IS, "", "", UNET_ENDS, 0},
    {UNET_ALL, UNET_IS, "time_embedding", "time_embed", UNET_EMBEDDING, 0},
    {UNET_XL, UNET_IS, "add_embedding", "label_emb.0", UNET_EMBEDDING, 0},

    {UNET_SD, UNET_IS, "down_blocks.{0-2}.attentions.{0-1}", UNET_DOWN_LDM ".1",
     UNET_ATTENTION, 1},
    {UNET_XL, UNET_IS, "down_blocks.{1}.attentions.{0-1}", UNET_DOWN_LDM ".1",
     UNET_ATTENTION, 2},
    {UNET_XL, UNET_IS, "down_blocks.{2}.attentions.{0-1}", UNET_DOWN_LDM ".1",
     UNET_ATTENTION, 10},
    {UNET_SD, UNET_IS, "down_blocks.{0-3}.resnets.{0-1}", UNET_DOWN_LDM ".0",
     UNET_RESNET, 0},
    {UNET_XL, UNET_IS, "down_blocks.{0-2}.resnets.{0-1}", UNET_DOWN_LDM ".0",
     UNET_RESNET, 0},
    {UNET_ALL, UNET_IS, "down_blocks.{1-2}.resnets.{0}", UNET_DOWN_LDM ".0",
     UNET_SHORTCUT, 0},
    {UNET_SD, UNET_IS, "down_blocks.{0-2}.downsamplers.0",
     "input_blocks.{3+3a}.0", unet_downsampler, 1, 0},
    {UNET_XL, UNET_IS, "down_blocks.{0-1}.downsamplers.0",
     "input_blocks.{3+3a}.0", unet_downsampler, 1, 0},

    {UNET_SD, UNET_IS, "mid_block.attentions.0", "middle_block.1",
     UNET_ATTENTION, 1},
    {UNET_XL, UNET_IS, "mid_block.attentions.0", "middle_block.1",
     UNET_ATTENTION, 10},
    {UNET_ALL, UNET_IS, "mid_block.resnets.0", "middle_block.0", UNET_RESNET,
     0},
    {UNET_ALL, UNET_IS, "mid_block.resnets.1", "middle_block.2", UNET_RESNET,
     0},

    {UNET_SD, UNET_IS, "up_blocks.{1-3}.attentions.{0-2}", UNET_UP_LDM ".1",
     UNET_ATTENTION, 1},
    {UNET_XL, UNET_IS, "up_blocks.{0}.attentions.{0-2}", UNET_UP_LDM ".1",
     UNET_ATTENTION, 10},
    {UNET_XL, UNET_IS, "up_blocks.{1}.attentions.{0-2}", UNET_UP_LDM ".1",
     UNET_ATTENTION, 2},
    {UNET_SD, UNET_IS, "up_blocks.{0-3}.resnets.{0-2}", UNET_UP_LDM ".0",
     UNET_RESNET_SHORTCUT, 0},
    {UNET_XL, UNET_IS, "up_blocks.{0-2}.resnets.{0-2}", UNET_UP_LDM ".0",
     UNET_RESNET_SHORTCUT, 0},
    /* Behind the attention, where the level has one; a widespread table
     * counts one anyway. */
    {UNET_SD, UNET_IS, "up_blocks.{0}.upsamplers.0",
     "output_blocks.{2+3a}.{=1|2}", unet_upsampler, 1, 0},
    {UNET_SD, UNET_IS, "up_blocks.{1-2}.upsamplers.0",
     "output_blocks.{2+3a}.{=2|1}", unet_upsampler, 1, 0},
    {UNET_XL, UNET_IS, "up_blocks.{0-1}.upsamplers.0",
     "output_blocks.{2+3a}.{=2|1}", unet_upsampler, 1, 0},
};

LORA_PRIVATE const lora__site_group lora__rules_unet = {
    UNET_ALL, LORA__COMPONENT_BIT(LORA__COMPONENT_UNET), unet_sites,
    LORA__COUNT(unet_sites)};
