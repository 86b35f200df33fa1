/* The role a tensor plays in its module, whatever its spelling.
 *
 * names/ turns spellings into roles; adapter/kinds/ knows roles only.
 */
#ifndef LORA__NAMES_ROLE_H
#define LORA__NAMES_ROLE_H

typedef enum lora__role {
    LORA__ROLE_UNKNOWN = 0,
    LORA__ROLE_DOWN, /* A  [r, in, k...] */
    LORA__ROLE_UP,   /* B  [out, r, 1...] */
    LORA__ROLE_MID,  /* core [r, r, k...] */
    LORA__ROLE_DOWN_BIAS,
    LORA__ROLE_UP_BIAS,
    LORA__ROLE_EMBEDDING_DOWN,  /* lora_embedding_A [r, vocab] */
    LORA__ROLE_EMBEDDING_UP,    /* lora_embedding_B [dim, r] */
    LORA__ROLE_EMBEDDING_ROWS,  /* llama.cpp's A of tokens, [vocab, r] */
    LORA__ROLE_ADALORA_E,       /* lora_E, a value for each direction */
    LORA__ROLE_ADALORA_RANKNUM, /* what its alpha is divided by */
    LORA__ROLE_ALPHA,
    LORA__ROLE_SCALE,  /* direct multiplier, instead of alpha / rank */
    LORA__ROLE_SCALAR, /* trained gate */
    LORA__ROLE_DORA,   /* magnitude */
    LORA__ROLE_HADA_W1_A,
    LORA__ROLE_HADA_W1_B,
    LORA__ROLE_HADA_W2_A,
    LORA__ROLE_HADA_W2_B,
    LORA__ROLE_HADA_T1,
    LORA__ROLE_HADA_T2,
    LORA__ROLE_LOKR_W1,
    LORA__ROLE_LOKR_W1_A,
    LORA__ROLE_LOKR_W1_B,
    LORA__ROLE_LOKR_W2,
    LORA__ROLE_LOKR_W2_A,
    LORA__ROLE_LOKR_W2_B,
    LORA__ROLE_LOKR_T1,
    LORA__ROLE_LOKR_T2,
    LORA__ROLE_DIFF,
    LORA__ROLE_DIFF_BIAS,
    LORA__ROLE_NORM_WEIGHT, /* w_norm */
    LORA__ROLE_NORM_BIAS,   /* b_norm */
    LORA__ROLE_SET_WEIGHT,
    LORA__ROLE_RESHAPE_WEIGHT,
    LORA__ROLE_SPARSE_INDICES,
    LORA__ROLE_SPARSE_VALUES,
    LORA__ROLE_SPARSE_SIZE,
    LORA__ROLE_WEIGHT, /* a bare .weight: IA3 with ON_INPUT, else a base */
    LORA__ROLE_BIAS,
    LORA__ROLE_ON_INPUT,
    LORA__ROLE_IA3, /* PEFT ia3_l */
    LORA__ROLE_GLORA_A1,
    LORA__ROLE_GLORA_A2,
    LORA__ROLE_GLORA_B1,
    LORA__ROLE_GLORA_B2,
    LORA__ROLE_GLORA_BM,
    LORA__ROLE_OFT_BLOCKS,
    LORA__ROLE_OFT_DIAG,
    LORA__ROLE_RESCALE,
    LORA__ROLE_OFT_R, /* PEFT */
    LORA__ROLE_BOFT_R,
    LORA__ROLE_BOFT_S,
    LORA__ROLE_TLORA_Q,
    LORA__ROLE_TLORA_P,
    LORA__ROLE_TLORA_LAMBDA,
    LORA__ROLE_LIGHT_DOWN_AUX,
    LORA__ROLE_LIGHT_UP_AUX,
    LORA__ROLE_LIGHT_DOWN_UP,
    LORA__ROLE_LIGHT_SEED,
    LORA__ROLE_TOKEN, /* a learned embedding, module "<token>" */
    LORA__ROLE_COUNT
} lora__role;

#endif
