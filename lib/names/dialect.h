/* Dialects: the table of suffixes and the table of dialects.
 *
 * A stored key is <prefix><name of the module><suffix>. The suffix tells the
 * role and the manner of writing (its style); prefix and style together tell
 * the dialect. Both tables serve reading and writing. Used inside names/ only.
 */
#ifndef LORA__NAMES_DIALECT_H
#define LORA__NAMES_DIALECT_H

#include "names/family.h"

/* Manners of writing suffixes, a bit each. */
typedef uint32_t lora__styles;
#define LORA__STYLE_KOHYA 0x0001u     /* .lora_down.weight */
#define LORA__STYLE_LYCORIS 0x0002u   /* .hada_w1_a */
#define LORA__STYLE_PEFT 0x0004u      /* .lora_A.weight */
#define LORA__STYLE_PEFT_MORE 0x0008u /* PEFT's other kinds */
#define LORA__STYLE_RAW 0x0010u       /* only with an adapter's name inside */
#define LORA__STYLE_OLD 0x0020u       /* .processor.to_q_lora.down.weight */
#define LORA__STYLE_UNET 0x0040u      /* .lora.down.weight */
#define LORA__STYLE_TE 0x0080u        /* .lora_linear_layer.down.weight */
#define LORA__STYLE_NUMBER 0x0100u    /* unet:0:down */
#define LORA__STYLE_HCP 0x0200u       /* .___.layer.W_down */
#define LORA__STYLE_XLABS 0x0400u     /* .processor.qkv_lora1.down.weight */
#define LORA__STYLE_CONTROL 0x0800u   /* .down */
#define LORA__STYLE_LORALIB 0x1000u   /* .lora_A */
#define LORA__STYLE_CANDLE 0x2000u    /* .a0.weight: see numbered.h */
#define LORA__STYLE_SAM 0x4000u       /* w_a_000: see numbered.h */
#define LORA__STYLE_ALIAS 0x8000u     /* read, never written */
#define LORA__STYLE_BFL 0x10000u      /* .scale, of a norm */
#define LORA__STYLE_BROKEN 0x20000u   /* what no program writes on purpose */
#define LORA__STYLE_LLAMA 0x40000u    /* .weight.lora_a */
#define LORA__STYLE_OFT 0x80000u      /* kohya's OFT, which has nothing else */

/* Those whose suffixes have the adapter's name inside, in PEFT's own state
 * dicts. */
#define LORA__STYLES_RAW                                                       \
    (LORA__STYLE_PEFT | LORA__STYLE_PEFT_MORE | LORA__STYLE_RAW)

typedef struct lora__suffix {
    const char *text;
    size_t bytes;
    lora__role role;
    lora__styles styles;
} lora__suffix;

/* A suffix found at the end of a key. */
typedef struct lora__suffix_match {
    const lora__suffix *suffix;
    size_t module_bytes; /* what precedes it; at least 1 */
    const char *adapter; /* PEFT adapter name inside it, or NULL */
    size_t adapter_bytes;
    size_t
        piece_bytes; /* behind it, of the number of a piece; 0: there is none */
} lora__suffix_match;

/* The longest suffix that the key ends with; 0 if none. */
LORA_PRIVATE int
lora__suffix_find(lora__suffix_match *out, const char *key, size_t bytes);

/* How the role is written in one of the styles; NULL if not at all. With
 * styles of 0: in any. */
LORA_PRIVATE const char *lora__suffix_text(lora__role role,
                                           lora__styles styles);

/* The rows of the dialect table that the code has to know. */
typedef enum lora__dialect_index {
    LORA__DIALECT_KOHYA,
    LORA__DIALECT_KOHYA_SDXL,
    LORA__DIALECT_LYCORIS_KOHYA,
    LORA__DIALECT_LYCORIS_WRAPPER,
    LORA__DIALECT_KOHYA_OFT,
    LORA__DIALECT_ONETRAINER,
    LORA__DIALECT_DIFFUSERS_OLD,
    LORA__DIALECT_DIFFUSERS_UNET,
    LORA__DIALECT_DIFFUSERS_TE,
    LORA__DIALECT_DIFFUSERS,
    LORA__DIALECT_PEFT,
    LORA__DIALECT_PEFT_RAW,
    LORA__DIALECT_NATIVE,
    LORA__DIALECT_XLABS,
    LORA__DIALECT_BFL,
    LORA__DIALECT_CONTROL,
    LORA__DIALECT_CLONEOFSIMO,
    LORA__DIALECT_HCP,
    LORA__DIALECT_CANDLE,
    LORA__DIALECT_LORALIB,
    LORA__DIALECT_SAM,
    LORA__DIALECT_LLAMA,
    LORA__DIALECT_COUNT
} lora__dialect_index;

/* How a dialect forms names. */
#define LORA__DIALECT_ORIGINAL 0x01u   /* original names always */
#define LORA__DIALECT_KIN 0x02u        /* kohya's prefixes: names are shared */
#define LORA__DIALECT_DOTTED 0x04u     /* diffusers' names, dotted */
#define LORA__DIALECT_RENAMED 0x08u    /* attention processors only */
#define LORA__DIALECT_ADAPTER 0x10u    /* the adapter's name is in the suffix */
#define LORA__DIALECT_ALPHA_META 0x20u /* alpha in lora_adapter_metadata */
#define LORA__DIALECT_BY_FAMILY                                                \
    0x40u                         /* original names where kohya has them       \
                                   */
#define LORA__DIALECT_SLOTS 0x80u /* encoders by their slot */

struct lora__dialect {
    const char *id; /* first column of the format text */
    char separator;
    uint32_t flags;
    lora__styles styles;
    lora__styles te_styles; /* for text encoders, if not the same */
    /* What names of a component begin with; NULL: cannot be spelled. Under
     * ANY: names that no family knows. */
    const char *prefixes[LORA__COMPONENT_COUNT];
    const char *te1_prefix; /* TE of families with two text encoders */
};

LORA_PRIVATE const lora__dialect *lora__dialect_at(lora__dialect_index index);

/* How names of modules begin: what precedes the component's own name. */
typedef struct lora__prefix {
    const char *text;
    char separator;
    uint32_t components;         /* a bit each; 0: the name does not tell */
    lora__dialect_index dialect; /* KOHYA and DIFFUSERS: a group of them */
    int broken;                  /* what no program writes on purpose */
} lora__prefix;

/* The prefix of a module's name, which may be the empty one. */
LORA_PRIVATE const lora__prefix *lora__prefix_find(const char *name,
                                                   size_t bytes);

/* Attention processors have names of their own, in diffusers-old and with
 * XLabs. */
typedef struct lora__rename {
    lora__styles styles;
    const char *old; /* how the name ends there */
    const char *now; /* and elsewhere */
} lora__rename;

#define LORA__RENAME_COUNT 14
LORA_PRIVATE const lora__rename *lora__rename_at(size_t index);

/* 1 if the name ends with `part`, in which '.' means the separator. */
LORA_PRIVATE int lora__name_ends(const char *name,
                                 size_t bytes,
                                 char separator,
                                 const char *part);

/* Append `text`, with the separator for '.'. */
LORA_PRIVATE void
lora__name_put(lora__buffer *out, const char *text, char separator);

#endif
