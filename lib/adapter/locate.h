/* What a path means: an adapter's file, and what lies beside it. */
#ifndef LORA__ADAPTER_LOCATE_H
#define LORA__ADAPTER_LOCATE_H

#include "core/arena.h"

/* Paths, in the arena; NULL: there is none. */
typedef struct lora__location {
    const char *model;  /* a file, or the index of several */
    const char *config; /* PEFT's adapter_config.json */
    const char *card;   /* a model card that is meant for this model */
    int is_peft;        /* the model has the name that PEFT gives */
} lora__location;

/* A path to anything but a folder is the model's. In a folder the model is, of
 * these, the first that is there:
 *
 *   adapter_model.safetensors, adapter_model.bin                 PEFT
 *   pytorch_lora_weights.safetensors, pytorch_lora_weights.bin   diffusers
 *   the one index of several files, *.safetensors.index.json
 *   the one *.safetensors file
 *
 * PEFT's and diffusers' together, two indices or two such files are DUPLICATE,
 * with their names, and nothing of all that is IO.
 *
 * A card belongs to what was found in a folder, to files with the names above,
 * and to a file that is the only model in its folder: what a folder of many
 * says of one is not known. */
LORA_PRIVATE lora_status lora__locate(lora__location *out,
                                      lora__arena *arena,
                                      const char *path,
                                      lora_error *error);

#endif
