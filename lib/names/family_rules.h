/* The rules of the families; included by family.c alone.
 *
 * Names have holes:
 *
 *     {2-5}      a number in that range       {1}    just that number
 *     {0-N}      N is the rule's depth - 1    {x|y}  one of these words
 *
 * and, in LDM names, which refer to the first two numbers as a and b:
 *
 *     {1+3a+b}   that number; 3 blocks make a level
 *     {=2|1}     either is read, the first is written
 *
 * '.' stands for the separator. A target is "<site>.<part>", or the part alone
 * where the site is "". The LDM name of a part is NULL where it is the same as
 * in diffusers, that of a site where it has none.
 */
#ifndef LORA__NAMES_FAMILY_RULES_H
#define LORA__NAMES_FAMILY_RULES_H

#include "names/family.h"

/* A target within a site. */
typedef struct family_part {
    lora__family_set families;
    const char *name;
    const char *ldm;
    lora__layer layer;
    int is_default; /* trainers adapt it unless told otherwise */
} family_part;

/* A place in the model where such parts are. */
typedef struct family_site {
    lora__family_set families;
    lora__component component;
    const char *name;
    const char *ldm;
    const family_part *parts;
    size_t part_count;
    int16_t depth; /* of {0-N} in the parts */
} family_site;

#define FAMILY_SD (LORA__FAMILY_SD15 | LORA__FAMILY_SD21)
#define FAMILY_XL LORA__FAMILY_SDXL
#define FAMILY_ALL LORA__FAMILY_ALL

/* A spatial transformer. Only SD 1 projects with 1 x 1 convolutions. */
static const family_part family_attention[] = {
    {FAMILY_ALL, "norm", NULL, LORA__LAYER_NORM, 0},
    {LORA__FAMILY_SD15, "proj_{in|out}", NULL, LORA__LAYER_CONV1, 1},
    {LORA__FAMILY_SD21 | FAMILY_XL, "proj_{in|out}", NULL, LORA__LAYER_LINEAR,
     1},
    {FAMILY_ALL, "transformer_blocks.{0-N}.attn{1-2}.to_{q|k|v}", NULL,
     LORA__LAYER_LINEAR, 1},
    {FAMILY_ALL, "transformer_blocks.{0-N}.attn{1-2}.to_out.0", NULL,
     LORA__LAYER_LINEAR, 1},
    {FAMILY_ALL, "transformer_blocks.{0-N}.ff.net.0.proj", NULL,
     LORA__LAYER_LINEAR, 1},
    {FAMILY_ALL, "transformer_blocks.{0-N}.ff.net.2", NULL, LORA__LAYER_LINEAR,
     1},
    {FAMILY_ALL, "transformer_blocks.{0-N}.norm{1-3}", NULL, LORA__LAYER_NORM,
     0},
};
#define FAMILY_ATTENTION family_attention, LORA__COUNT(family_attention)

/* A residual block; the last part is there only where widths change. */
static const family_part family_resnet[] = {
    {FAMILY_ALL, "norm1", "in_layers.0", LORA__LAYER_NORM, 0},
    {FAMILY_ALL, "conv1", "in_layers.2", LORA__LAYER_CONV, 0},
    {FAMILY_ALL, "time_emb_proj", "emb_layers.1", LORA__LAYER_LINEAR, 0},
    {FAMILY_ALL, "norm2", "out_layers.0", LORA__LAYER_NORM, 0},
    {FAMILY_ALL, "conv2", "out_layers.3", LORA__LAYER_CONV, 0},
    {FAMILY_ALL, "conv_shortcut", "skip_connection", LORA__LAYER_CONV1, 0},
};
#define FAMILY_RESNET family_resnet, 5
#define FAMILY_RESNET_SHORTCUT family_resnet, 6
#define FAMILY_SHORTCUT family_resnet + 5, 1

static const family_part family_clip_layer[] = {
    {FAMILY_ALL, "self_attn.{k|v|q|out}_proj", NULL, LORA__LAYER_LINEAR, 1},
    {FAMILY_ALL, "layer_norm{1-2}", NULL, LORA__LAYER_NORM, 0},
    {FAMILY_ALL, "mlp.fc{1-2}", NULL, LORA__LAYER_LINEAR, 1},
};
#define FAMILY_CLIP_LAYER family_clip_layer, LORA__COUNT(family_clip_layer)

static const family_part family_clip[] = {
    {FAMILY_ALL, "embeddings.{token|position}_embedding", NULL,
     LORA__LAYER_EMBEDDING, 0},
    {FAMILY_ALL, "final_layer_norm", NULL, LORA__LAYER_NORM, 0},
};
#define FAMILY_CLIP family_clip, LORA__COUNT(family_clip)

static const family_part family_projection[] = {
    {FAMILY_ALL, "text_projection", NULL, LORA__LAYER_LINEAR, 0},
};

static const family_part family_ends[] = {
    {FAMILY_ALL, "conv_in", "input_blocks.0.0", LORA__LAYER_CONV, 0},
    {FAMILY_ALL, "conv_norm_out", "out.0", LORA__LAYER_NORM, 0},
    {FAMILY_ALL, "conv_out", "out.2", LORA__LAYER_CONV, 0},
};
#define FAMILY_ENDS family_ends, LORA__COUNT(family_ends)

static const family_part family_embedding[] = {
    {FAMILY_ALL, "linear_1", "0", LORA__LAYER_LINEAR, 0},
    {FAMILY_ALL, "linear_2", "2", LORA__LAYER_LINEAR, 0},
};
#define FAMILY_EMBEDDING family_embedding, LORA__COUNT(family_embedding)

static const family_part family_downsampler[] = {
    {FAMILY_ALL, "conv", "op", LORA__LAYER_CONV, 0},
};

static const family_part family_upsampler[] = {
    {FAMILY_ALL, "conv", NULL, LORA__LAYER_CONV, 0},
};

/* Level i, block j of the UNet are input_blocks.{1+3i+j} on the way down and
 * output_blocks.{3i+j} on the way up, whatever the number of levels. */
#define FAMILY_DOWN_LDM "input_blocks.{1+3a+b}"
#define FAMILY_UP_LDM "output_blocks.{3a+b}"
#define FAMILY_UNET LORA__COMPONENT_UNET

static const family_site family_sites[] = {
    {FAMILY_ALL, FAMILY_UNET, "", "", FAMILY_ENDS, 0},
    {FAMILY_ALL, FAMILY_UNET, "time_embedding", "time_embed", FAMILY_EMBEDDING,
     0},
    {FAMILY_XL, FAMILY_UNET, "add_embedding", "label_emb.0", FAMILY_EMBEDDING,
     0},

    {FAMILY_SD, FAMILY_UNET, "down_blocks.{0-2}.attentions.{0-1}",
     FAMILY_DOWN_LDM ".1", FAMILY_ATTENTION, 1},
    {FAMILY_XL, FAMILY_UNET, "down_blocks.{1}.attentions.{0-1}",
     FAMILY_DOWN_LDM ".1", FAMILY_ATTENTION, 2},
    {FAMILY_XL, FAMILY_UNET, "down_blocks.{2}.attentions.{0-1}",
     FAMILY_DOWN_LDM ".1", FAMILY_ATTENTION, 10},
    {FAMILY_SD, FAMILY_UNET, "down_blocks.{0-3}.resnets.{0-1}",
     FAMILY_DOWN_LDM ".0", FAMILY_RESNET, 0},
    {FAMILY_XL, FAMILY_UNET, "down_blocks.{0-2}.resnets.{0-1}",
     FAMILY_DOWN_LDM ".0", FAMILY_RESNET, 0},
    {FAMILY_ALL, FAMILY_UNET, "down_blocks.{1-2}.resnets.{0}",
     FAMILY_DOWN_LDM ".0", FAMILY_SHORTCUT, 0},
    {FAMILY_SD, FAMILY_UNET, "down_blocks.{0-2}.downsamplers.0",
     "input_blocks.{3+3a}.0", family_downsampler, 1, 0},
    {FAMILY_XL, FAMILY_UNET, "down_blocks.{0-1}.downsamplers.0",
     "input_blocks.{3+3a}.0", family_downsampler, 1, 0},

    {FAMILY_SD, FAMILY_UNET, "mid_block.attentions.0", "middle_block.1",
     FAMILY_ATTENTION, 1},
    {FAMILY_XL, FAMILY_UNET, "mid_block.attentions.0", "middle_block.1",
     FAMILY_ATTENTION, 10},
    {FAMILY_ALL, FAMILY_UNET, "mid_block.resnets.0", "middle_block.0",
     FAMILY_RESNET, 0},
    {FAMILY_ALL, FAMILY_UNET, "mid_block.resnets.1", "middle_block.2",
     FAMILY_RESNET, 0},

    {FAMILY_SD, FAMILY_UNET, "up_blocks.{1-3}.attentions.{0-2}",
     FAMILY_UP_LDM ".1", FAMILY_ATTENTION, 1},
    {FAMILY_XL, FAMILY_UNET, "up_blocks.{0}.attentions.{0-2}",
     FAMILY_UP_LDM ".1", FAMILY_ATTENTION, 10},
    {FAMILY_XL, FAMILY_UNET, "up_blocks.{1}.attentions.{0-2}",
     FAMILY_UP_LDM ".1", FAMILY_ATTENTION, 2},
    {FAMILY_SD, FAMILY_UNET, "up_blocks.{0-3}.resnets.{0-2}",
     FAMILY_UP_LDM ".0", FAMILY_RESNET_SHORTCUT, 0},
    {FAMILY_XL, FAMILY_UNET, "up_blocks.{0-2}.resnets.{0-2}",
     FAMILY_UP_LDM ".0", FAMILY_RESNET_SHORTCUT, 0},
    /* Behind the attention, where the level has one; a widespread table
     * counts one anyway. */
    {FAMILY_SD, FAMILY_UNET, "up_blocks.{0}.upsamplers.0",
     "output_blocks.{2+3a}.{=1|2}", family_upsampler, 1, 0},
    {FAMILY_SD, FAMILY_UNET, "up_blocks.{1-2}.upsamplers.0",
     "output_blocks.{2+3a}.{=2|1}", family_upsampler, 1, 0},
    {FAMILY_XL, FAMILY_UNET, "up_blocks.{0-1}.upsamplers.0",
     "output_blocks.{2+3a}.{=2|1}", family_upsampler, 1, 0},

    {FAMILY_ALL, LORA__COMPONENT_TE, "text_model", NULL, FAMILY_CLIP, 0},
    {LORA__FAMILY_SD15 | FAMILY_XL, LORA__COMPONENT_TE,
     "text_model.encoder.layers.{0-11}", NULL, FAMILY_CLIP_LAYER, 0},
    {LORA__FAMILY_SD21, LORA__COMPONENT_TE, "text_model.encoder.layers.{0-22}",
     NULL, FAMILY_CLIP_LAYER, 0},

    {FAMILY_XL, LORA__COMPONENT_TE2, "text_model", NULL, FAMILY_CLIP, 0},
    {FAMILY_XL, LORA__COMPONENT_TE2, "text_model.encoder.layers.{0-31}", NULL,
     FAMILY_CLIP_LAYER, 0},
    {FAMILY_XL, LORA__COMPONENT_TE2, "", NULL, family_projection, 1, 0},
};

#endif
