/* Guessing the base model: metadata, then names, then widths, then how much of
 * a model is there.
 *
 * Metadata is what a trainer wrote, names are what it must have had: both are
 * trusted above widths, which an adapter for another model may share. Where
 * several families remain a model card may name one of them; else the answer
 * is none of them, but all are listed; unless the others are much rarer, or
 * cut-down models.
 */
#include "names/guess.h"

#include "core/text.h"

#include <string.h>

/* Inputs of the projections in a text encoder; the first is CLIP-L. */
#define GUESS_CLIP_L_WIDTH 768
#define GUESS_OPENCLIP_H_WIDTH 1024

/* Beside the UNets' own evidence, other families are neither here nor there;
 * and the other way round. */
#define GUESS_OTHERS (LORA__FAMILY_ALL & ~LORA__FAMILIES_UNET)

static lora__family_set guess_by_width(int64_t width, int context)
{
    lora__family_set set = 0;

    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if ((context ? family->context_width : family->width) == width) {
            set |= family->bit;
        }
    }
    return set;
}

static int
guess_target_ends(const char *target, const char *one, const char *two)
{
    size_t bytes = strlen(target);

    return lora__text_ends(target, bytes, one) ||
           lora__text_ends(target, bytes, two);
}

LORA_PRIVATE void
lora__guess_width(lora__evidence *evidence, const char *target, int64_t width)
{
    size_t bytes = strlen(target);
    lora__family_set set = 0;

    if (lora__text_begins(target, bytes, "text_encoder.")) {
        if (lora__text_ends(target, bytes, "_proj")) {
            set = width == GUESS_CLIP_L_WIDTH
                      ? LORA__FAMILY_SD15 | LORA__FAMILY_SDXL
                  : width == GUESS_OPENCLIP_H_WIDTH ? LORA__FAMILY_SD21
                                                    : 0;
            set |= set == 0 ? 0 : GUESS_OTHERS;
            if (width == GUESS_OPENCLIP_H_WIDTH) {
                set &= ~(GUESS_OTHERS & LORA__FAMILIES_WITH_ENCODERS);
            }
        }
    } else if (lora__text_begins(target, bytes, "transformer.")) {
        if (guess_target_ends(target, "attn.to_q", "attn1.to_q")) {
            set = guess_by_width(width, 0);
            set |= set == 0 ? 0 : LORA__FAMILIES_UNET;
        }
    } else if (guess_target_ends(target, ".attn2.to_k", ".attn2.to_v")) {
        evidence->context_seen = 1;
        set = guess_by_width(width, 1);
        set |= set == 0 ? 0 : GUESS_OTHERS;
    }
    if (set != 0) {
        evidence->widths = evidence->width_seen ? evidence->widths & set : set;
        evidence->width_seen = 1;
    }
}

static int guess_begins(const char *text, const char *part)
{
    return text != NULL && part != NULL &&
           lora__text_begins(text, strlen(text), part);
}

/* What the trainer says, which may be several families. None: nothing, or a
 * model that is not in the table, in which case *out_other is set. */
static lora__family_set guess_from_metadata(int *out_other,
                                            lora__metadata_fn metadata,
                                            const void *user)
{
    const char *version = metadata(user, "ss_base_model_version");
    const char *architecture = metadata(user, "modelspec.architecture");
    const char *v2 = metadata(user, "ss_v2");
    lora__family_set by_version = 0;
    lora__family_set by_architecture = 0;

    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if (guess_begins(version, family->ss_prefix)) {
            by_version |= family->bit;
        }
        if (guess_begins(architecture, family->architecture_part)) {
            by_architecture |= family->bit;
        }
    }
    if (by_version != 0 || by_architecture != 0) {
        return by_version != 0 ? by_version : by_architecture;
    }
    *out_other = (version != NULL && version[0] != '\0' &&
                  strcmp(version, "None") != 0) ||
                 (architecture != NULL && architecture[0] != '\0');
    return v2 != NULL && strcmp(v2, "True") == 0 ? LORA__FAMILY_SD21 : 0;
}

/* The families that know the most of the names: all of them, as a rule. */
static lora__family_set guess_from_names(const lora__evidence *evidence)
{
    lora__family_set set = 0;
    size_t most = 1;

    for (size_t i = 0; i < lora__family_count(); i++) {
        size_t count = evidence->family_count[i];
        set = count > most ? 0 : set;
        most = count > most ? count : most;
        if (count == most) {
            set |= lora__family_at(i)->bit;
        }
    }
    /* Only for SDXL does kohya's trainer flatten LDM names. */
    if (evidence->ldm && (set & LORA__FAMILY_SDXL) != 0) {
        set = LORA__FAMILY_SDXL;
    }
    return evidence->backbone_known == 0 ? set & LORA__FAMILIES_WITH_ENCODERS
                                         : set;
}

/* Those of the set that are there as a whole. */
static lora__family_set guess_whole(const lora__evidence *evidence,
                                    lora__family_set set)
{
    lora__family_set whole = 0;

    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if ((set & family->bit) != 0 && evidence->core_count[i] > 0 &&
            evidence->core_count[i] >= lora__family_core_count(family)) {
            whole |= family->bit;
        }
    }
    return whole;
}

static void guess_list(lora__names *out, lora__family_set set)
{
    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if ((set & family->bit) != 0 && family != out->family &&
            out->alternative_count < LORA__MAX_ALTERNATIVES) {
            out->alternatives[out->alternative_count++] = family;
        }
    }
}

static const lora__family *guess_only(lora__family_set set)
{
    for (size_t i = 0; i < lora__family_count(); i++) {
        if (set == lora__family_at(i)->bit) {
            return lora__family_at(i);
        }
    }
    return NULL;
}

/* The family whose less likely kin all the others are. */
static const lora__family *guess_kin(lora__family_set set)
{
    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if ((set & family->bit) != 0 && family->kin != 0 &&
            (set & ~(family->bit | family->kin)) == 0) {
            return family;
        }
    }
    return NULL;
}

/* What a model card calls a base: a part of the name of its repository. The
 * first that fits holds. Source: the repositories of the models' authors. */
static const struct {
    const char *part; /* in lower case */
    lora__family_set set;
} guess_repositories[] = {
    {"stable-diffusion-xl", LORA__FAMILY_SDXL},
    {"sdxl", LORA__FAMILY_SDXL},
    {"stable-diffusion-v1", LORA__FAMILY_SD15},
    {"stable-diffusion-2", LORA__FAMILY_SD21},
    {"stable-diffusion-3.5-medium", LORA__FAMILY_SD35_MEDIUM},
    {"stable-diffusion-3.5-large", LORA__FAMILY_SD35_LARGE},
    {"stable-diffusion-3-medium", LORA__FAMILY_SD3_MEDIUM},
    {"chroma", LORA__FAMILY_CHROMA},
    {"flux.1", LORA__FAMILY_FLUX},
    {"lumina-image-2", LORA__FAMILY_LUMINA2},
    {"auraflow", LORA__FAMILY_AURAFLOW},
    {"wan2.1-t2v", LORA__FAMILY_WAN_T2V},
    {"wan2.1-i2v", LORA__FAMILY_WAN_I2V},
    {"hunyuanvideo", LORA__FAMILY_HUNYUAN_VIDEO},
    {"ltx-video", LORA__FAMILY_LTX_VIDEO},
    {"stable-cascade", LORA__FAMILY_CASCADE},
    {"pixart-sigma", LORA__FAMILY_PIXART_SIGMA},
    {"hunyuandit", LORA__FAMILY_HUNYUAN_DIT},
    {"cogvideox", LORA__FAMILY_COGVIDEOX},
    {"qwen-image", LORA__FAMILY_QWEN_IMAGE},
};

/* 1 if the text has the part, given in lower case, in any case. */
static int guess_has(const char *text, const char *part)
{
    for (; *text != '\0'; text++) {
        size_t i = 0;
        while (part[i] != '\0' &&
               (text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a'
                                                 : text[i]) == part[i]) {
            i++;
        }
        if (part[i] == '\0') {
            return 1;
        }
    }
    return 0;
}

static lora__family_set guess_from_card(const char *base)
{
    for (size_t i = 0; base != NULL && i < LORA__COUNT(guess_repositories);
         i++) {
        if (guess_has(base, guess_repositories[i].part)) {
            return guess_repositories[i].set;
        }
    }
    return 0;
}

/* `card` is looked at where the rest leaves several. */
static void guess_from_set(lora__names *out,
                           const lora__evidence *evidence,
                           lora__family_set set,
                           lora__family_set card)
{
    lora__family_set fitting = set & evidence->widths;

    if (fitting != 0) {
        set = fitting;
    }
    if (guess_only(set) == NULL && (set & LORA__FAMILIES_UNET) == 0) {
        lora__family_set whole = guess_whole(evidence, set);
        set = whole == 0 ? set : whole;
    }
    if (guess_only(set) == NULL && (set & card) != 0) {
        out->family = guess_only(card);
        out->confidence = 0.8;
        guess_list(out, set);
        return;
    }
    out->family = guess_only(set);
    out->confidence = out->family == NULL ? 0 : fitting != 0 ? 0.95 : 0.9;
    /* SD 1 and 2 have the same UNet but for its widths. Of widths that
     * neither has, as in cut-down models, the older is the likelier. */
    if (set == (LORA__FAMILY_SD15 | LORA__FAMILY_SD21) &&
        evidence->context_seen && !evidence->width_seen) {
        out->family = lora__family_find("sd15");
        out->confidence = 0.5;
    } else if (out->family == NULL && guess_kin(set) != NULL) {
        out->family = guess_kin(set);
        out->confidence = 0.5;
    }
    guess_list(out, set);
}

/* Of text encoders alone. Such adapters are a matter of the UNets' users, but
 * other models have the same encoders. */
static void guess_encoder(lora__names *out,
                          const lora__evidence *evidence,
                          lora__family_set set,
                          lora__family_set card)
{
    lora__family_set others = set & GUESS_OTHERS;

    if ((set & card) != 0) {
        guess_from_set(out, evidence, set, card);
        return;
    }
    guess_from_set(out, evidence, set & LORA__FAMILIES_UNET, card);
    if (evidence->width_seen) {
        others &= evidence->widths;
    }
    if (others != 0 && out->family != NULL) {
        out->confidence = 0.5;
    }
    guess_list(out, others);
}

LORA_PRIVATE void lora__guess_family(lora__names *out,
                                     const lora__evidence *evidence,
                                     lora__metadata_fn metadata,
                                     const void *metadata_user)
{
    lora__family_set set = guess_from_names(evidence);
    lora__family_set said = 0;
    lora__family_set card = 0;
    int other = 0;

    if (metadata != NULL) {
        card = guess_from_card(metadata(metadata_user, LORA__NAMES_CARD));
        said = guess_from_metadata(&other, metadata, metadata_user);
    }
    if (said != 0) {
        lora__family_set both = set & said;
        guess_from_set(out, evidence, both != 0 ? both : said, card);
        if (both == 0 && set != 0 && out->family != NULL) {
            out->confidence = 0.5;
            guess_list(out, set);
        } else if (guess_only(said) != NULL) {
            out->confidence = both != 0 ? 1 : 0.9;
        }
        return;
    }
    /* Text encoders are shared with models that are not in the table. */
    if (evidence->backbone_unknown > evidence->backbone_known ||
        (other && evidence->backbone_known == 0)) {
        return;
    }
    if (evidence->backbone_known == 0 && (set & LORA__FAMILIES_UNET) != 0) {
        guess_encoder(out, evidence, set, card);
        return;
    }
    guess_from_set(out, evidence, set, card);
}
