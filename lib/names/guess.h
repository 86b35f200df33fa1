/* Guessing the base model. Used inside names/ only. */
#ifndef LORA__NAMES_GUESS_H
#define LORA__NAMES_GUESS_H

#include "names/family.h"

/* What the modules of a file say, a module counted once. */
typedef struct lora__evidence {
    size_t known_count;                    /* by any family */
    size_t family_count[LORA__FAMILY_MAX]; /* by each of them */
    size_t core_count[LORA__FAMILY_MAX];   /* targets of its core */
    size_t backbone_known;                 /* outside of the text encoders */
    size_t backbone_unknown;               /* of these, by no family */
    int ldm;                               /* names were flattened from LDM */
    int context_seen;        /* a cross-attention's inputs were counted */
    int width_seen;          /* and some family has that number */
    lora__family_set widths; /* the families that have all of them */
} lora__evidence;

/* Note the number of inputs of a layer. */
LORA_PRIVATE void
lora__guess_width(lora__evidence *evidence, const char *target, int64_t width);

/* Fill in family, confidence and alternatives. */
LORA_PRIVATE void lora__guess_family(lora__names *out,
                                     const lora__evidence *evidence,
                                     lora__metadata_fn metadata,
                                     const void *metadata_user);

#endif
