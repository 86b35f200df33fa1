/* Positional names: the order of layers in SD 1 and 2.
 *
 * The order is that of depth-first registration in the diffusers of early
 * 2023, which later versions changed: down blocks, up blocks, then the middle;
 * in a block the attentions before the residual blocks; in a transformer block
 * the feed-forward between the two attentions. CLIP registers k, v, q, out.
 */
#include "names/positional.h"

#include <string.h>

static const char *const positional_attention[] = {
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj",
    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
};
#define POSITIONAL_ATTENTION ((uint32_t)LORA__COUNT(positional_attention))

/* The last is there only where widths change. */
static const struct {
    const char *name;
    lora__layer layer;
} positional_resnet[] = {
    {"conv1", LORA__LAYER_CONV3},
    {"time_emb_proj", LORA__LAYER_LINEAR},
    {"conv2", LORA__LAYER_CONV3},
    {"conv_shortcut", LORA__LAYER_CONV1},
};

static const char *const positional_clip[] = {"k_proj", "v_proj", "q_proj",
                                              "out_proj"};
#define POSITIONAL_CLIP ((uint32_t)LORA__COUNT(positional_clip))
#define POSITIONAL_CLIP_LAYERS 23 /* of the larger of the two */

static const struct {
    const char *name;
    uint32_t attentions;
    uint32_t resnets;
    uint32_t shortcuts; /* the first so many resnets have one */
} positional_blocks[] = {
    {"unet.down_blocks.0", 2, 2, 0}, {"unet.down_blocks.1", 2, 2, 1},
    {"unet.down_blocks.2", 2, 2, 1}, {"unet.down_blocks.3", 0, 2, 0},
    {"unet.up_blocks.0", 0, 3, 3},   {"unet.up_blocks.1", 3, 3, 3},
    {"unet.up_blocks.2", 3, 3, 3},   {"unet.up_blocks.3", 3, 3, 3},
    {"unet.mid_block", 1, 2, 0},
};

LORA_PRIVATE int
lora__position_read(lora__position *out, const char *name, size_t bytes)
{
    uint32_t index = 0;
    size_t i;

    out->component = lora__component_take(&name, &bytes, ':');
    if ((out->component != LORA__COMPONENT_UNET &&
         out->component != LORA__COMPONENT_TE) ||
        bytes == 0 || bytes > 6) {
        return 0;
    }
    for (i = 0; i < bytes && name[i] >= '0' && name[i] <= '9'; i++) {
        index = index * 10 + (uint32_t)(name[i] - '0');
    }
    out->index = index;
    return i == bytes;
}

static void positional_put(lora__buffer *out,
                           const char *block,
                           const char *list,
                           uint32_t index,
                           const char *within,
                           const char *name)
{
    lora__buffer_puts(out, block);
    lora__buffer_puts(out, list);
    lora__buffer_whole(out, index);
    lora__buffer_puts(out, within);
    lora__buffer_puts(out, name);
}

static lora__layer
positional_put_unet(lora__buffer *out, uint32_t index, int extended)
{
    for (size_t b = 0; b < LORA__COUNT(positional_blocks); b++) {
        const char *block = positional_blocks[b].name;
        uint32_t size = positional_blocks[b].attentions * POSITIONAL_ATTENTION;

        if (index < size) {
            positional_put(out, block, ".attentions.",
                           index / POSITIONAL_ATTENTION,
                           ".transformer_blocks.0.",
                           positional_attention[index % POSITIONAL_ATTENTION]);
            return LORA__LAYER_LINEAR;
        }
        index -= size;
        for (uint32_t j = 0; extended && j < positional_blocks[b].resnets;
             j++) {
            size = j < positional_blocks[b].shortcuts ? 4 : 3;
            if (index < size) {
                positional_put(out, block, ".resnets.", j, ".",
                               positional_resnet[index].name);
                return positional_resnet[index].layer;
            }
            index -= size;
        }
    }
    return LORA__LAYER_UNKNOWN;
}

LORA_PRIVATE lora__layer lora__position_put(lora__buffer *out,
                                            const lora__position *position,
                                            int extended)
{
    uint32_t index = position->index;

    if (position->component == LORA__COMPONENT_UNET) {
        return positional_put_unet(out, index, extended);
    }
    if (index >= POSITIONAL_CLIP * POSITIONAL_CLIP_LAYERS) {
        return LORA__LAYER_UNKNOWN;
    }
    positional_put(out, "text_encoder.text_model.encoder", ".layers.",
                   index / POSITIONAL_CLIP, ".self_attn.",
                   positional_clip[index % POSITIONAL_CLIP]);
    return LORA__LAYER_LINEAR;
}
