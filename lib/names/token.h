/* Names of learned tokens: where the vectors of textual inversions stand, in
 * files of their own and in files of adapters. */
#ifndef LORA__NAMES_TOKEN_H
#define LORA__NAMES_TOKEN_H

#include "names/names.h"

/* How the name of a tensor says what it is. What is called like its file says
 * no token itself. */
typedef enum lora__token_form {
    LORA__TOKEN_NAMED,      /* "<cat>": diffusers, cloneofsimo */
    LORA__TOKEN_A1111,      /* "string_to_param.*": called like its file */
    LORA__TOKEN_EMB_PARAMS, /* "emb_params": the same */
    LORA__TOKEN_ENCODER,    /* "clip_l", "clip_g": the same, by text encoder */
    LORA__TOKEN_BUNDLE,     /* "bundle_emb.cat." and one of the others */
    LORA__TOKEN_FORM_COUNT
} lora__token_form;

typedef struct lora__token_name {
    lora__token_form form;
    const char *token; /* within the key */
    size_t token_bytes;
    const char *encoder; /* static; NULL: the name does not say it */
    int is_counted;      /* the encoder's name is but a number */
} lora__token_name;

/* Take the name of a tensor apart; 0 if it is none of a token's. What a file
 * alone can say (a token without brackets) is not asked for. */
LORA_PRIVATE int
lora__token_read(lora__token_name *out, const char *key, size_t bytes);

/* Append the name of a tensor. `encoder` NULL, in a bundle: the one there is.
 */
LORA_PRIVATE void lora__token_put(struct lora__buffer *out,
                                  lora__token_form form,
                                  const char *token,
                                  const char *encoder);

/* The ids of forms, such as "bundle"; FORM_COUNT if there is none. */
LORA_PRIVATE const char *lora__token_form_id(lora__token_form form);
LORA_PRIVATE lora__token_form lora__token_form_find(const char *id);

/* The text encoder whose tokens have that width; "" where it is not known. */
LORA_PRIVATE const char *lora__token_encoder(int64_t width);

/* 1 if tokens of that width are known to be another encoder's. */
LORA_PRIVATE int lora__token_is_other(const char *encoder, int64_t width);

/* How many text encoders of the family are known. */
LORA_PRIVATE int lora__token_encoder_count(const lora__family *family);

/* 1 if a text encoder of the family takes tokens of that width, or if that is
 * not known. */
LORA_PRIVATE int lora__token_fits(const lora__family *family, int64_t width);

#endif
