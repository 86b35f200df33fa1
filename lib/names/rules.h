/* The rules of the families: what their tables are made of.
 *
 * A rule is a name with holes:
 *
 *     {2-5}    a number in that range     {0-9/3}  every third of them
 *     {1}      just that number           {x|y}    one of these words
 *     {0-N}    N is the site's depth - 1
 *
 * and, in original names, which refer to the numbers of the other spelling:
 *
 *     {1+3a+b}   that number, of the first two; 3 blocks make a level
 *     {=2|1}     either is read, the first is written
 *
 * Apart from these, holes stand in the same order in both spellings, so a word
 * or a number has its counterpart at the same place. '.' stands for the
 * separator. A target is "<site>.<rule>", or the one that is not empty.
 *
 * Where the original model has one weight for several layers of diffusers',
 * `rows` says which of its rows are whose: for each word of the last hole,
 * which the original name lacks, the ranges of rows in units, and how many
 * units the weight has. "0:1|1:2|2:3/3" are thirds, "1:2,0:1/2" are swapped
 * halves. "T" is the weight transposed.
 */
#ifndef LORA__NAMES_RULES_H
#define LORA__NAMES_RULES_H

#include "names/family.h"

/* A layer, or some that are alike, within a site. */
typedef struct lora__rule {
    lora__family_set families;
    const char *name;
    const char *original; /* NULL: the same */
    const char *rows;     /* NULL: all of them, in order */
    lora__layer layer;
    int is_default; /* trainers adapt it unless told otherwise */
} lora__rule;

/* A place in the model where such layers are. */
typedef struct lora__site {
    lora__family_set families;
    lora__component component;
    lora__component slot; /* which encoder it is to kohya and ComfyUI */
    int is_alias;         /* `original` is one more spelling, only read */
    const char *name;
    const char *original; /* NULL: it has none */
    const lora__rule *rules;
    size_t rule_count;
    int16_t depth; /* of {0-N} in the rules */
} lora__site;

/* Sites of one file. The families and components are those of its sites. */
typedef struct lora__site_group {
    lora__family_set families;
    uint32_t components; /* a bit each */
    const lora__site *sites;
    size_t site_count;
} lora__site_group;

LORA_PRIVATE_DATA const lora__site_group lora__rules_unet;
LORA_PRIVATE_DATA const lora__site_group lora__rules_text;
LORA_PRIVATE_DATA const lora__site_group lora__rules_flux;
LORA_PRIVATE_DATA const lora__site_group lora__rules_sd3;
LORA_PRIVATE_DATA const lora__site_group lora__rules_image;
LORA_PRIVATE_DATA const lora__site_group lora__rules_video;

/* Rules that hold for all families of their site. */
#define RULE_OF(layer, name, original)                                         \
    {                                                                          \
        LORA__FAMILY_ALL, name, original, NULL, layer, 0                       \
    }
#define RULE_LINEAR(name, original) RULE_OF(LORA__LAYER_LINEAR, name, original)
#define RULE_CONV(name, original) RULE_OF(LORA__LAYER_CONV, name, original)
#define RULE_CONV3(name, original) RULE_OF(LORA__LAYER_CONV3, name, original)
#define RULE_CONV1(name, original) RULE_OF(LORA__LAYER_CONV1, name, original)
#define RULE_NORM(name, original) RULE_OF(LORA__LAYER_NORM, name, original)
#define RULE_TABLE(name, original)                                             \
    RULE_OF(LORA__LAYER_PARAMETER, name, original)
#define RULE_EMBEDDING(name, original)                                         \
    RULE_OF(LORA__LAYER_EMBEDDING, name, original)
#define RULE_FUSED(name, original, rows)                                       \
    {                                                                          \
        LORA__FAMILY_ALL, name, original, rows, LORA__LAYER_LINEAR, 0          \
    }
/* The same, adapted by default. */
#define RULE_TRAINED(name, original)                                           \
    {                                                                          \
        LORA__FAMILY_ALL, name, original, NULL, LORA__LAYER_LINEAR, 1          \
    }
#define RULE_TRAINED_FUSED(name, original, rows)                               \
    {                                                                          \
        LORA__FAMILY_ALL, name, original, rows, LORA__LAYER_LINEAR, 1          \
    }

#define RULE_THIRDS "0:1|1:2|2:3/3"
#define RULE_HALVES "0:1|1:2/2"
#define RULE_SWAPPED "1:2,0:1/2"

#define RULE_SITE(families, component, name, original, rules)                  \
    {                                                                          \
        families, component, component, 0, name, original, rules,              \
            LORA__COUNT(rules), 0                                              \
    }
#define RULE_TRANSFORMER(families, name, original, rules)                      \
    RULE_SITE(families, LORA__COMPONENT_TRANSFORMER, name, original, rules)
#define RULE_ALIAS(families, component, slot, name, original, rules)           \
    {                                                                          \
        families, component, slot, 1, name, original, rules,                   \
            LORA__COUNT(rules), 0                                              \
    }

#endif
