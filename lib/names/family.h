/* Families: which targets a base model has, and how they are spelled.
 *
 * A family is no list of names but a set of rules, shared between families
 * (rules.h). A stored name is tested against the rules directly; nothing is
 * expanded. There are two spellings: that of diffusers, of which canonical
 * targets are made, and the original one of the model's authors, which may
 * have one weight where diffusers has several. Used inside names/ only.
 */
#ifndef LORA__NAMES_FAMILY_H
#define LORA__NAMES_FAMILY_H

#include "core/buffer.h"
#include "names/names.h"
#include "names/rule.h"

/* Which model of a pipeline; the names are those of diffusers. */
typedef enum lora__component {
    LORA__COMPONENT_ANY = 0, /* the name does not tell */
    LORA__COMPONENT_UNET,
    LORA__COMPONENT_TRANSFORMER,
    LORA__COMPONENT_PRIOR,
    LORA__COMPONENT_TE,
    LORA__COMPONENT_TE2,
    LORA__COMPONENT_TE3,
    LORA__COMPONENT_COUNT,
    /* Slots only: text encoders as checkpoints have them. */
    LORA__COMPONENT_OPENCLIP_H = LORA__COMPONENT_COUNT,
    LORA__COMPONENT_OPENCLIP_G
} lora__component;

/* Sets of components, a bit each. */
#define LORA__COMPONENT_BIT(component) (1u << (component))
#define LORA__COMPONENTS_BACKBONE                                              \
    (LORA__COMPONENT_BIT(LORA__COMPONENT_UNET) |                               \
     LORA__COMPONENT_BIT(LORA__COMPONENT_TRANSFORMER) |                        \
     LORA__COMPONENT_BIT(LORA__COMPONENT_PRIOR))
#define LORA__COMPONENTS_ALL                                                   \
    ((1u << LORA__COMPONENT_COUNT) - (1u << LORA__COMPONENT_UNET))

/* Sets of families, a bit each, in the order of the family table. */
typedef uint32_t lora__family_set;
#define LORA__FAMILY_SD15 0x00001u
#define LORA__FAMILY_SD21 0x00002u
#define LORA__FAMILY_SDXL 0x00004u
#define LORA__FAMILY_FLUX 0x00008u
#define LORA__FAMILY_CHROMA 0x00010u
#define LORA__FAMILY_SD3_MEDIUM 0x00020u
#define LORA__FAMILY_SD35_MEDIUM 0x00040u
#define LORA__FAMILY_SD35_LARGE 0x00080u
#define LORA__FAMILY_LUMINA2 0x00100u
#define LORA__FAMILY_AURAFLOW 0x00200u
#define LORA__FAMILY_WAN_T2V 0x00400u
#define LORA__FAMILY_WAN_I2V 0x00800u
#define LORA__FAMILY_HUNYUAN_VIDEO 0x01000u
#define LORA__FAMILY_LTX_VIDEO 0x02000u
#define LORA__FAMILY_CASCADE 0x04000u
#define LORA__FAMILY_PIXART_SIGMA 0x08000u
#define LORA__FAMILY_HUNYUAN_DIT 0x10000u
#define LORA__FAMILY_COGVIDEOX 0x20000u
#define LORA__FAMILY_QWEN_IMAGE 0x40000u
#define LORA__FAMILY_ALL 0x7FFFFu
#define LORA__FAMILY_MAX 19

#define LORA__FAMILIES_UNET                                                    \
    (LORA__FAMILY_SD15 | LORA__FAMILY_SD21 | LORA__FAMILY_SDXL)
#define LORA__FAMILIES_SD3                                                     \
    (LORA__FAMILY_SD3_MEDIUM | LORA__FAMILY_SD35_MEDIUM |                      \
     LORA__FAMILY_SD35_LARGE)

/* Where kohya's trainer, and others after it, flatten the original names
 * instead of those of diffusers, and where the first text encoder has a
 * number. */
#define LORA__FAMILIES_KOHYA_ORIGINAL                                          \
    (LORA__FAMILY_SDXL | LORA__FAMILY_FLUX | LORA__FAMILY_CHROMA |             \
     LORA__FAMILIES_SD3 | LORA__FAMILY_LUMINA2 | LORA__FAMILY_AURAFLOW |       \
     LORA__FAMILY_WAN_T2V | LORA__FAMILY_WAN_I2V |                             \
     LORA__FAMILY_HUNYUAN_VIDEO | LORA__FAMILY_LTX_VIDEO |                     \
     LORA__FAMILY_HUNYUAN_DIT)
#define LORA__FAMILIES_TWO_ENCODERS                                            \
    (LORA__FAMILY_SDXL | LORA__FAMILY_FLUX | LORA__FAMILIES_SD3)
/* Those whose text encoders have rules. */
#define LORA__FAMILIES_WITH_ENCODERS                                           \
    (LORA__FAMILIES_UNET | LORA__FAMILY_FLUX | LORA__FAMILIES_SD3)

struct lora__family {
    const char *id; /* file name of its catalogue */
    lora__family_set bit;
    const char *ss_version;        /* ss_base_model_version; NULL: none known */
    const char *architecture;      /* modelspec.architecture */
    const char *ss_prefix;         /* what ss_base_model_version begins with */
    const char *architecture_part; /* and modelspec.architecture */
    int64_t context_width;         /* inputs of a UNet's attn2.to_k and to_v */
    int64_t width;                 /* of a transformer */
    lora__family_set kin;          /* less likely ones with the same blocks */
};

/* A name that was recognised: rules, and the numbers their holes stand for. */
struct lora__rule;
struct lora__site;
typedef struct lora__place {
    const struct lora__site *site;
    const struct lora__rule *rule;
    lora__component component;
    int original; /* was spelled in the original manner */
    int both;     /* but may be meant in the other one as well */
    int count;    /* of numbers */
    int16_t numbers[LORA__RULE_NUMBERS];
    uint8_t layers[LORA__FAMILY_MAX]; /* lora__layer by family */
    lora__family_set also; /* families with another target of that name */
    lora__family_set core; /* families in whose core it is */
} lora__place;

/* What to look for. */
typedef struct lora__scope {
    lora__family_set families;
    uint32_t components;
    int original_first; /* where both spellings fit, it is the original one */
    int only_diffusers; /* the original spelling is not taken */
} lora__scope;

/* A site in one of its spellings, and how much of a name it is. */
typedef struct lora__site_head {
    const struct lora__site *site;
    size_t bytes;     /* with the separator behind it */
    const char *seen; /* furthest letter that told of a rule; not owned */
    int original;
    int count; /* of numbers */
    int16_t numbers[LORA__RULE_NUMBERS];
} lora__site_head;

/* The sites that a name may be of, as far as the letters go that tell the site.
 * Names of one site follow each other in files, and those letters are the same
 * in all of them, so most names need not be compared with any other. */
#define LORA__MEMO_HEADS 16
typedef struct lora__site_memo {
    lora__scope scope;
    char separator;
    const char *name; /* of the last search; not owned */
    size_t seen;      /* letters of it that decided; 0: nothing is known */
    size_t count;
    lora__site_head heads[LORA__MEMO_HEADS];
} lora__site_memo;

/* Which families of the scope have a target of that name, all of them the
 * same; 0 if none. `separator` stands between the parts of the name: '.' or,
 * flattened, '_'. Both spellings are taken. The memo
 * is zeroed before the first name; it keeps pointing at the last one. */
LORA_PRIVATE lora__family_set lora__family_match(lora__place *out,
                                                 lora__site_memo *memo,
                                                 const lora__scope *scope,
                                                 const char *name,
                                                 size_t bytes,
                                                 char separator);

/* The same for a canonical target, which begins with its component: a layer of
 * diffusers, or an original weight that has parts. The memo may be NULL. */
LORA_PRIVATE lora__family_set lora__family_match_target(lora__place *out,
                                                        lora__site_memo *memo,
                                                        lora__family_set wanted,
                                                        const char *target);

/* Append the name of a place, without component. */
LORA_PRIVATE void lora__place_put(lora__buffer *out,
                                  const lora__place *place,
                                  int original,
                                  char separator);

/* The layer in a family; with NULL, where all families of the set agree. */
LORA_PRIVATE lora__layer lora__place_layer(const lora__place *place,
                                           lora__family_set known,
                                           const lora__family *family);

/* The families that the rules of the place were written for: others agree
 * with its name only. */
LORA_PRIVATE lora__family_set lora__place_families(const lora__place *place);

/* Which encoder the place is in to kohya and ComfyUI. */
LORA_PRIVATE lora__component lora__place_slot(const lora__place *place);

/* 1 if its original spelling is only read. */
LORA_PRIVATE int lora__place_is_alias(const lora__place *place);

/* The same place where a dialect has a name of its own for part of a weight: 1
 * if it has one, which is only read elsewhere. */
LORA_PRIVATE int lora__place_alias(lora__place *out, const lora__place *place);

/* Which rows of the original weight the place has; 0 if it has all of them, in
 * order. For places that were matched in the spelling of diffusers. */
LORA_PRIVATE int lora__place_rows(lora__row_set *out, const lora__place *place);

/* How many targets a place stands for that was spelled in the original
 * manner: 0 if it is just one, unchanged. */
LORA_PRIVATE size_t lora__place_part_count(const lora__place *place,
                                           lora__family_set family);

/* The place and the rows of the index-th of them. */
LORA_PRIVATE void lora__place_part(lora__place *out,
                                   lora__row_set *out_rows,
                                   const lora__place *place,
                                   lora__family_set family,
                                   size_t index);

/* How many layers are in the core of a family: those which an adapter of the
 * whole model has, as a rule. */
LORA_PRIVATE size_t lora__family_core_count(const lora__family *family);

LORA_PRIVATE const char *lora__component_name(lora__component component);

/* If the name begins with a component and a separator, its component, and
 * *name and *bytes past it; else ANY. */
LORA_PRIVATE lora__component lora__component_take(const char **name,
                                                  size_t *bytes,
                                                  char separator);

#endif
