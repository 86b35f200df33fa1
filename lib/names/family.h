/* Families: which targets a base model has, and how they are spelled.
 *
 * A family is no list of names but a set of rules, shared between families
 * (family_rules.h). A stored name is tested against the rules directly;
 * nothing is expanded. Used inside names/ only.
 */
#ifndef LORA__NAMES_FAMILY_H
#define LORA__NAMES_FAMILY_H

#include "core/buffer.h"
#include "names/names.h"

/* Which model of a pipeline; the names are those of diffusers. */
typedef enum lora__component {
    LORA__COMPONENT_ANY = 0, /* the name does not tell */
    LORA__COMPONENT_UNET,
    LORA__COMPONENT_TRANSFORMER,
    LORA__COMPONENT_PRIOR,
    LORA__COMPONENT_TE,
    LORA__COMPONENT_TE2,
    LORA__COMPONENT_TE3,
    LORA__COMPONENT_COUNT
} lora__component;

/* Sets of families, a bit each, in the order of the family table. */
typedef uint32_t lora__family_set;
#define LORA__FAMILY_SD15 1u
#define LORA__FAMILY_SD21 2u
#define LORA__FAMILY_SDXL 4u
#define LORA__FAMILY_ALL 7u
#define LORA__FAMILY_MAX 3

struct lora__family {
    const char *id; /* file name of its catalogue */
    lora__family_set bit;
    const char *ss_version;        /* ss_base_model_version */
    const char *architecture;      /* modelspec.architecture */
    const char *ss_prefix;         /* what ss_base_model_version begins with */
    const char *architecture_part; /* and modelspec.architecture */
    int64_t context_width;         /* inputs of attn2.to_k and to_v */
};

/* Where kohya's trainer flattens LDM names instead of those of diffusers, and
 * where it numbers the first text encoder. */
#define LORA__FAMILIES_KOHYA_LDM LORA__FAMILY_SDXL
#define LORA__FAMILIES_TWO_ENCODERS LORA__FAMILY_SDXL

/* A name that was recognised: rules, and the numbers their holes stand for. */
#define LORA__PLACE_NUMBERS 6
typedef struct lora__place {
    lora__component component;
    uint16_t site;
    uint16_t part;
    int16_t numbers[LORA__PLACE_NUMBERS];
    int ldm;                          /* was spelled in the LDM manner */
    uint8_t layers[LORA__FAMILY_MAX]; /* lora__layer by family */
} lora__place;

/* Which of the `wanted` families have a target of that name; 0 if none.
 * `separator` stands between the parts of the name: '.' or, flattened, '_'.
 * The spellings of diffusers and of LDM are both taken. */
LORA_PRIVATE lora__family_set lora__family_match(lora__place *out,
                                                 lora__family_set wanted,
                                                 lora__component component,
                                                 const char *name,
                                                 size_t bytes,
                                                 char separator);

/* The same for a canonical target, which begins with its component. */
LORA_PRIVATE lora__family_set lora__family_match_target(lora__place *out,
                                                        lora__family_set wanted,
                                                        const char *target);

/* Append the name of a place, without component. */
LORA_PRIVATE void lora__place_put(lora__buffer *out,
                                  const lora__place *place,
                                  int ldm,
                                  char separator);

/* The layer in a family; with NULL, where all families of the set agree. */
LORA_PRIVATE lora__layer lora__place_layer(const lora__place *place,
                                           lora__family_set known,
                                           const lora__family *family);

LORA_PRIVATE const char *lora__component_name(lora__component component);

/* If the name begins with a component and a separator, its component, and
 * *name and *bytes past it; else ANY. */
LORA_PRIVATE lora__component lora__component_take(const char **name,
                                                  size_t *bytes,
                                                  char separator);

#endif
