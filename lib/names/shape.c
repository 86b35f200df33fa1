/* What a family tells of a layer by its place. Sizes: of the transformer blocks
 * in the UNets of Stable Diffusion 1, 2 and XL. And which layers have no bias.
 */
#include "names/family.h"

#include "core/text.h"

#include <string.h>

/* Outputs of the UNet's levels; the last two of SD 1 and 2 are alike. */
static const int64_t shape_widths[] = {320, 640, 1280, 1280};

/* The width of the blocks at a target, 0 where it is in none; *rest is what
 * follows. */
static int64_t
shape_width(const char **rest, const lora__family *family, const char *target)
{
    static const char down[] = "unet.down_blocks.";
    static const char up[] = "unet.up_blocks.";
    static const char mid[] = "unet.mid_block.";
    const size_t bytes = strlen(target);
    const size_t levels = family->bit == LORA__FAMILY_SDXL ? 3 : 4;
    const int is_up = lora__text_begins(target, bytes, up);
    size_t level;

    if (lora__text_begins(target, bytes, mid)) {
        *rest = target + sizeof mid - 1;
        return shape_widths[levels - 1];
    }
    if (!is_up && !lora__text_begins(target, bytes, down)) {
        return 0;
    }
    target += (is_up ? sizeof up : sizeof down) - 1;
    level = (size_t)(*target - '0');
    if (level >= levels) {
        return 0;
    }
    *rest = target + 1;
    return shape_widths[is_up ? levels - 1 - level : level];
}

LORA_PRIVATE int lora__family_shape(int64_t out_shape[2],
                                    const lora__family *family,
                                    const char *target)
{
    const char *rest = "";
    size_t bytes;
    int64_t width;

    if (family == NULL || (family->bit & LORA__FAMILIES_UNET) == 0 ||
        lora__family_layer(family, target) != LORA__LAYER_LINEAR) {
        return 0;
    }
    width = shape_width(&rest, family, target);
    bytes = strlen(rest);
    out_shape[0] = out_shape[1] = width;
    if (width == 0) {
        return 0;
    }
    if (lora__text_ends(rest, bytes, ".attn2.to_k") ||
        lora__text_ends(rest, bytes, ".attn2.to_v")) {
        out_shape[1] = family->context_width;
        return 1;
    }
    if (lora__text_ends(rest, bytes, ".ff.net.0.proj")) {
        out_shape[0] = 8 * width; /* twice four: half of it gates the other */
        return 1;
    }
    if (lora__text_ends(rest, bytes, ".ff.net.2")) {
        out_shape[1] = 4 * width;
        return 1;
    }
    return strstr(rest, ".attn1.") != NULL || strstr(rest, ".attn2.") != NULL ||
           lora__text_ends(rest, bytes, ".proj_in") ||
           lora__text_ends(rest, bytes, ".proj_out");
}

/* The linear layers that have none, of the families that have any such. */
static const struct {
    lora__family_set families;
    const char *targets;
} shape_without_bias[] = {
    {LORA__FAMILIES_UNET, "unet.*.attn?.to_?"},
    {LORA__FAMILY_SDXL | LORA__FAMILIES_SD3, "text_encoder*.text_projection"},
    {LORA__FAMILY_FLUX | LORA__FAMILIES_SD3,
     "text_encoder*.encoder.block.*.SelfAttention.?"},
    {LORA__FAMILY_FLUX | LORA__FAMILIES_SD3,
     "text_encoder*.encoder.block.*.DenseReluDense.w*"},
    {LORA__FAMILY_LUMINA2, "transformer.*.attn.to_*"},
    {LORA__FAMILY_LUMINA2, "transformer.*.feed_forward.linear_?"},
    {LORA__FAMILY_AURAFLOW, "transformer.context_embedder"},
    {LORA__FAMILY_AURAFLOW, "transformer.*_transformer_blocks.*"},
    {LORA__FAMILY_AURAFLOW, "transformer.norm_out.linear"},
    {LORA__FAMILY_AURAFLOW, "transformer.proj_out"},
};

LORA_PRIVATE int lora__family_lacks_bias(const lora__family *family,
                                         const char *target)
{
    if (lora__family_layer(family, target) != LORA__LAYER_LINEAR) {
        return 0;
    }
    for (size_t i = 0; i < LORA__COUNT(shape_without_bias); i++) {
        if ((shape_without_bias[i].families & family->bit) != 0 &&
            lora__text_matches(shape_without_bias[i].targets, target)) {
            return 1;
        }
    }
    return 0;
}

/* 1 if the file may be of a family. */
static int shape_is_guess(const lora__names *names, const lora__family *family)
{
    int found = names->family == family;

    for (size_t i = 0; i < names->alternative_count; i++) {
        found |= names->alternatives[i] == family;
    }
    return found;
}

LORA_PRIVATE int lora__names_lack_bias(const lora__names *names,
                                       const char *target)
{
    lora__place place;
    lora__family_set known =
        lora__family_match_target(&place, NULL, LORA__FAMILY_ALL, target);
    size_t guessed = 0;
    size_t lacking = 0;

    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if ((known & family->bit) != 0 && shape_is_guess(names, family)) {
            guessed++;
            lacking += (size_t)lora__family_lacks_bias(family, target);
        }
    }
    return guessed != 0 && lacking == guessed;
}
