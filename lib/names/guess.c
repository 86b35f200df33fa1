/* Guessing the base model: metadata, then names, then widths.
 *
 * Metadata is what a trainer wrote, names are what it must have had: both are
 * trusted above widths, which an adapter for another model may share. Where
 * several families remain the answer is none of them, but all are listed.
 */
#include "names/guess.h"

#include "core/text.h"

#include <string.h>

/* Inputs of the projections in a text encoder; the first is CLIP-L. */
#define GUESS_CLIP_L_WIDTH 768
#define GUESS_OPENCLIP_H_WIDTH 1024

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
        }
    } else if (lora__text_ends(target, bytes, ".attn2.to_k") ||
               lora__text_ends(target, bytes, ".attn2.to_v")) {
        evidence->context_seen = 1;
        for (size_t i = 0; i < lora__family_count(); i++) {
            const lora__family *family = lora__family_at(i);
            set |= family->context_width == width ? family->bit : 0;
        }
    }
    if (set != 0) {
        evidence->widths = evidence->width_seen ? evidence->widths & set : set;
        evidence->width_seen = 1;
    }
}

/* What the trainer says. NULL: nothing, or a model that is not in the table,
 * in which case *out_other is set. */
static const lora__family *guess_from_metadata(int *out_other,
                                               lora__metadata_fn metadata,
                                               const void *user)
{
    const char *version = metadata(user, "ss_base_model_version");
    const char *architecture = metadata(user, "modelspec.architecture");
    const char *v2 = metadata(user, "ss_v2");

    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if (version != NULL &&
            lora__text_begins(version, strlen(version), family->ss_prefix)) {
            return family;
        }
    }
    for (size_t i = 0; i < lora__family_count(); i++) {
        const lora__family *family = lora__family_at(i);
        if (architecture != NULL &&
            lora__text_begins(architecture, strlen(architecture),
                              family->architecture_part)) {
            return family;
        }
    }
    *out_other = (version != NULL && version[0] != '\0' &&
                  strcmp(version, "None") != 0) ||
                 (architecture != NULL && architecture[0] != '\0');
    if (v2 != NULL && strcmp(v2, "True") == 0) {
        return lora__family_find("sd21");
    }
    return NULL;
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
    return set;
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

static void guess_from_evidence(lora__names *out,
                                const lora__evidence *evidence)
{
    lora__family_set set = guess_from_names(evidence);
    lora__family_set fitting = set & evidence->widths;

    if (fitting != 0) {
        set = fitting;
    }
    out->family = guess_only(set);
    out->confidence = out->family == NULL ? 0 : fitting != 0 ? 0.95 : 0.9;
    /* SD 1 and 2 have the same UNet but for its widths. Of widths that
     * neither has, as in cut-down models, the older is the likelier. */
    if (set == (LORA__FAMILY_SD15 | LORA__FAMILY_SD21) &&
        evidence->context_seen && !evidence->width_seen) {
        out->family = lora__family_find("sd15");
        out->confidence = 0.5;
    }
    guess_list(out, set);
}

LORA_PRIVATE void lora__guess_family(lora__names *out,
                                     const lora__evidence *evidence,
                                     lora__metadata_fn metadata,
                                     const void *metadata_user)
{
    const lora__family *said = NULL;
    int other = 0;

    if (metadata != NULL) {
        said = guess_from_metadata(&other, metadata, metadata_user);
    }
    if (said != NULL) {
        lora__family_set set = guess_from_names(evidence);
        out->family = said;
        out->confidence = set != 0 ? 1 : 0.9;
        if ((set & said->bit) == 0 && set != 0) {
            out->confidence = 0.5;
            guess_list(out, set);
        }
        return;
    }
    /* Text encoders are shared with models that are not in the table. */
    if (evidence->backbone_unknown > evidence->backbone_known ||
        (other && evidence->backbone_known == 0)) {
        return;
    }
    guess_from_evidence(out, evidence);
}
