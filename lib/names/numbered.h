/* Keys with a number where others have a name: files of candle-lora, of
 * Sam_LoRA, and lists that torch pickled. Used inside names/ only.
 *
 *     <stem>.a<number>.weight    candle-lora; module "<stem>.<number>"
 *     w_a_<number>               Sam_LoRA; module "<number>"
 *     0000, 0001, …              a list: up and down of "unet:0", and so on
 */
#ifndef LORA__NAMES_NUMBERED_H
#define LORA__NAMES_NUMBERED_H

#include "names/dialect.h"

typedef struct lora__numbered {
    lora__styles style;
    lora__role role;
    size_t stem_bytes; /* from the key's begin; 0: none */
    const char *number;
    size_t number_bytes;
} lora__numbered;

/* 1 if the key is of one of the styles. */
LORA_PRIVATE int lora__numbered_find(lora__numbered *out,
                                     lora__styles styles,
                                     const char *key,
                                     size_t bytes);

/* Append the module's name. */
LORA_PRIVATE void lora__numbered_put_module(lora__buffer *out,
                                            const lora__numbered *numbered,
                                            const char *key);

/* Append the key of a role of a module; nothing if there is none. */
LORA_PRIVATE void lora__numbered_put_key(lora__buffer *out,
                                         lora__styles styles,
                                         lora__role role,
                                         const char *module);

LORA_PRIVATE int lora__numbered_has_role(lora__styles styles, lora__role role);

/* Append what a module of Sam_LoRA changes: by turns the rows of q and those of
 * v in the one weight that a block has for q, k and v. */
LORA_PRIVATE void lora__numbered_put_sam(lora__buffer *out, const char *module);

/* If the keys are those of a list, what its modules are of: "unet" or
 * "text_encoder"; else NULL. */
LORA_PRIVATE const char *lora__numbered_list(const lora__key_in *keys,
                                             size_t key_count);

/* The number of a key of a list. */
LORA_PRIVATE uint32_t lora__numbered_index(const lora__key_in *key);

#endif
