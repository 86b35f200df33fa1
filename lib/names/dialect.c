/* Dialects: the tables.
 *
 * A new dialect is a row in dialect_table, with what it needs that is not
 * there yet: suffixes, prefixes, a style. Ids are those of the format text.
 */
#include "names/dialect.h"

#include "core/text.h"
#include "names/numbered.h"

#include <string.h>

/* Suffixes ----------------------------------------------------------------- */

#define DIALECT_K LORA__STYLE_KOHYA
#define DIALECT_L LORA__STYLE_LYCORIS
#define DIALECT_P LORA__STYLE_PEFT
#define DIALECT_M LORA__STYLE_PEFT_MORE
#define DIALECT_O LORA__STYLE_OLD
#define DIALECT_U LORA__STYLE_UNET
#define DIALECT_T LORA__STYLE_TE
#define DIALECT_H LORA__STYLE_HCP
#define DIALECT_ALIAS LORA__STYLE_ALIAS
#define DIALECT_BROKEN (LORA__STYLE_BROKEN | DIALECT_ALIAS)

#define DIALECT_SUFFIX(text, role, styles)                                     \
    {                                                                          \
        text, sizeof text - 1, role, styles                                    \
    }

/* Reading takes the first row that the key ends with, so a suffix that ends
 * with another stands before it; the frequent ones come first. Writing takes
 * the first row of the role and style. */
static const lora__suffix dialect_suffixes[] = {
    DIALECT_SUFFIX(".lora_down.weight", LORA__ROLE_DOWN, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".lora_up.weight", LORA__ROLE_UP, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".lora_A.weight", LORA__ROLE_DOWN, DIALECT_P),
    DIALECT_SUFFIX(".lora_B.weight", LORA__ROLE_UP, DIALECT_P),
    DIALECT_SUFFIX(".___.alpha", LORA__ROLE_ALPHA, DIALECT_H),
    DIALECT_SUFFIX(".lora.alpha", LORA__ROLE_ALPHA, DIALECT_U | DIALECT_ALIAS),
    DIALECT_SUFFIX(
        "_lora_down.alpha", LORA__ROLE_ALPHA, DIALECT_K | DIALECT_BROKEN),
    DIALECT_SUFFIX(".alpha",
                   LORA__ROLE_ALPHA,
                   DIALECT_K | DIALECT_L | DIALECT_U | DIALECT_T |
                       LORA__STYLE_OFT),
    DIALECT_SUFFIX(".lora.down.weight", LORA__ROLE_DOWN, DIALECT_U),
    DIALECT_SUFFIX(".lora.up.weight", LORA__ROLE_UP, DIALECT_U),
    DIALECT_SUFFIX(".lora.mid.weight", LORA__ROLE_MID, DIALECT_U),
    DIALECT_SUFFIX(
        ".lora_linear_layer.down.weight", LORA__ROLE_DOWN, DIALECT_T),
    DIALECT_SUFFIX(".lora_linear_layer.up.weight", LORA__ROLE_UP, DIALECT_T),
    DIALECT_SUFFIX("_lora.down.weight", LORA__ROLE_DOWN, DIALECT_O),
    DIALECT_SUFFIX("_lora.up.weight", LORA__ROLE_UP, DIALECT_O),
    DIALECT_SUFFIX(":down", LORA__ROLE_DOWN, LORA__STYLE_NUMBER),
    DIALECT_SUFFIX(":up", LORA__ROLE_UP, LORA__STYLE_NUMBER),
    DIALECT_SUFFIX(".lora_mid.weight", LORA__ROLE_MID, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".dora_scale", LORA__ROLE_DORA, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(
        ".lora_magnitude_vector.weight", LORA__ROLE_DORA, LORA__STYLE_RAW),
    DIALECT_SUFFIX(".lora_magnitude_vector", LORA__ROLE_DORA, DIALECT_P),
    DIALECT_SUFFIX(".lora_A.bias", LORA__ROLE_DOWN_BIAS, DIALECT_P),
    DIALECT_SUFFIX(".lora_B.bias", LORA__ROLE_UP_BIAS, DIALECT_P),
    DIALECT_SUFFIX(
        ".lora_down.bias", LORA__ROLE_DOWN_BIAS, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".lora_up.bias", LORA__ROLE_UP_BIAS, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".lora_embedding_A", LORA__ROLE_EMBEDDING_DOWN, DIALECT_P),
    DIALECT_SUFFIX(".lora_embedding_B", LORA__ROLE_EMBEDDING_UP, DIALECT_P),

    DIALECT_SUFFIX(".hada_w1_a", LORA__ROLE_HADA_W1_A, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".hada_w1_b", LORA__ROLE_HADA_W1_B, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".hada_w2_a", LORA__ROLE_HADA_W2_A, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".hada_w2_b", LORA__ROLE_HADA_W2_B, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".hada_t1", LORA__ROLE_HADA_T1, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".hada_t2", LORA__ROLE_HADA_T2, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w1", LORA__ROLE_LOKR_W1, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w1_a", LORA__ROLE_LOKR_W1_A, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w1_b", LORA__ROLE_LOKR_W1_B, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w2", LORA__ROLE_LOKR_W2, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w2_a", LORA__ROLE_LOKR_W2_A, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_w2_b", LORA__ROLE_LOKR_W2_B, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_t1", LORA__ROLE_LOKR_T1, DIALECT_L | DIALECT_M),
    DIALECT_SUFFIX(".lokr_t2", LORA__ROLE_LOKR_T2, DIALECT_L | DIALECT_M),

    DIALECT_SUFFIX(".diff", LORA__ROLE_DIFF, DIALECT_L),
    DIALECT_SUFFIX(".diff_b", LORA__ROLE_DIFF_BIAS, DIALECT_L),
    DIALECT_SUFFIX(".w_norm", LORA__ROLE_NORM_WEIGHT, DIALECT_L),
    DIALECT_SUFFIX(".b_norm", LORA__ROLE_NORM_BIAS, DIALECT_L),
    DIALECT_SUFFIX(".set_weight", LORA__ROLE_SET_WEIGHT, DIALECT_L),
    DIALECT_SUFFIX(".reshape_weight", LORA__ROLE_RESHAPE_WEIGHT, DIALECT_L),
    DIALECT_SUFFIX(".bias_indices", LORA__ROLE_SPARSE_INDICES, DIALECT_L),
    DIALECT_SUFFIX(".bias_values", LORA__ROLE_SPARSE_VALUES, DIALECT_L),
    DIALECT_SUFFIX(".bias_size", LORA__ROLE_SPARSE_SIZE, DIALECT_L),
    DIALECT_SUFFIX(".on_input", LORA__ROLE_ON_INPUT, DIALECT_L),
    DIALECT_SUFFIX(".scalar", LORA__ROLE_SCALAR, DIALECT_L),
    DIALECT_SUFFIX(".scale", LORA__ROLE_SCALE, DIALECT_K | DIALECT_L),
    DIALECT_SUFFIX(".scale", LORA__ROLE_SET_WEIGHT, LORA__STYLE_BFL),

    DIALECT_SUFFIX(".a1.weight", LORA__ROLE_GLORA_A1, DIALECT_L),
    DIALECT_SUFFIX(".a2.weight", LORA__ROLE_GLORA_A2, DIALECT_L),
    DIALECT_SUFFIX(".b1.weight", LORA__ROLE_GLORA_B1, DIALECT_L),
    DIALECT_SUFFIX(".b2.weight", LORA__ROLE_GLORA_B2, DIALECT_L),
    DIALECT_SUFFIX(".bm.weight", LORA__ROLE_GLORA_BM, DIALECT_L),
    DIALECT_SUFFIX(".q_layer.weight", LORA__ROLE_TLORA_Q, DIALECT_L),
    DIALECT_SUFFIX(".p_layer.weight", LORA__ROLE_TLORA_P, DIALECT_L),
    DIALECT_SUFFIX(".lambda_layer", LORA__ROLE_TLORA_LAMBDA, DIALECT_L),

    DIALECT_SUFFIX(
        ".oft_blocks", LORA__ROLE_OFT_BLOCKS, DIALECT_L | LORA__STYLE_OFT),
    DIALECT_SUFFIX(".oft_diag", LORA__ROLE_OFT_DIAG, DIALECT_L),
    DIALECT_SUFFIX(".rescale", LORA__ROLE_RESCALE, DIALECT_L),
    DIALECT_SUFFIX(".oft_R.weight", LORA__ROLE_OFT_R, DIALECT_M),
    DIALECT_SUFFIX(".oft_r", LORA__ROLE_OFT_R, DIALECT_M | DIALECT_ALIAS),
    DIALECT_SUFFIX(".boft_R", LORA__ROLE_BOFT_R, DIALECT_M),
    DIALECT_SUFFIX(".boft_s", LORA__ROLE_BOFT_S, DIALECT_M),
    DIALECT_SUFFIX(".ia3_l", LORA__ROLE_IA3, DIALECT_M),

    /* Light-LoRA: its own form, then what was seen elsewhere. */
    DIALECT_SUFFIX(".light_down", LORA__ROLE_DOWN, DIALECT_L | DIALECT_ALIAS),
    DIALECT_SUFFIX(".light_up", LORA__ROLE_UP, DIALECT_L | DIALECT_ALIAS),
    DIALECT_SUFFIX(".light_down_aux", LORA__ROLE_LIGHT_DOWN_AUX, DIALECT_L),
    DIALECT_SUFFIX(".light_up_aux", LORA__ROLE_LIGHT_UP_AUX, DIALECT_L),
    DIALECT_SUFFIX(
        "_lora.down_aux.weight", LORA__ROLE_LIGHT_DOWN_AUX, DIALECT_O),
    DIALECT_SUFFIX("_lora.up_aux.weight", LORA__ROLE_LIGHT_UP_AUX, DIALECT_O),
    DIALECT_SUFFIX("_lora.down_up.weight", LORA__ROLE_LIGHT_DOWN_UP, DIALECT_O),
    DIALECT_SUFFIX("_lora.aux_seed", LORA__ROLE_LIGHT_SEED, DIALECT_O),
    DIALECT_SUFFIX("_lora.weight", LORA__ROLE_WEIGHT, DIALECT_O),
    DIALECT_SUFFIX(
        ".lora.down_aux.weight", LORA__ROLE_LIGHT_DOWN_AUX, DIALECT_U),
    DIALECT_SUFFIX(".lora.up_aux.weight", LORA__ROLE_LIGHT_UP_AUX, DIALECT_U),
    DIALECT_SUFFIX(".lora.down_up.weight", LORA__ROLE_LIGHT_DOWN_UP, DIALECT_U),
    DIALECT_SUFFIX(".lora.aux_seed", LORA__ROLE_LIGHT_SEED, DIALECT_U),
    DIALECT_SUFFIX(".lora.weight", LORA__ROLE_WEIGHT, DIALECT_U),
    DIALECT_SUFFIX(
        ".down_aux", LORA__ROLE_LIGHT_DOWN_AUX, DIALECT_L | DIALECT_ALIAS),
    DIALECT_SUFFIX(
        ".up_aux", LORA__ROLE_LIGHT_UP_AUX, DIALECT_L | DIALECT_ALIAS),
    DIALECT_SUFFIX(".aux_seed", LORA__ROLE_LIGHT_SEED, DIALECT_L),

    DIALECT_SUFFIX(".___.layer.W_down", LORA__ROLE_DOWN, DIALECT_H),
    DIALECT_SUFFIX(".___.layer.W_up", LORA__ROLE_UP, DIALECT_H),
    DIALECT_SUFFIX(".___.layer.lora_down.weight",
                   LORA__ROLE_DOWN,
                   DIALECT_H | DIALECT_ALIAS),
    DIALECT_SUFFIX(
        ".___.layer.lora_up.weight", LORA__ROLE_UP, DIALECT_H | DIALECT_ALIAS),
    DIALECT_SUFFIX(".down.weight", LORA__ROLE_DOWN, LORA__STYLE_XLABS),
    DIALECT_SUFFIX(".up.weight", LORA__ROLE_UP, LORA__STYLE_XLABS),
    DIALECT_SUFFIX(".down", LORA__ROLE_DOWN, LORA__STYLE_CONTROL),
    DIALECT_SUFFIX(".up", LORA__ROLE_UP, LORA__STYLE_CONTROL),
    /* AdaLoRA's factors have loralib's names in PEFT too. */
    DIALECT_SUFFIX(
        ".lora_A", LORA__ROLE_DOWN, LORA__STYLE_LORALIB | LORA__STYLE_RAW),
    DIALECT_SUFFIX(
        ".lora_B", LORA__ROLE_UP, LORA__STYLE_LORALIB | LORA__STYLE_RAW),
    DIALECT_SUFFIX(
        ".lora_E", LORA__ROLE_ADALORA_E, LORA__STYLE_LORALIB | DIALECT_M),
    DIALECT_SUFFIX(".ranknum",
                   LORA__ROLE_ADALORA_RANKNUM,
                   LORA__STYLE_LORALIB | DIALECT_M),
    DIALECT_SUFFIX(".weight.lora_a", LORA__ROLE_DOWN, LORA__STYLE_LLAMA),
    DIALECT_SUFFIX(".weight.lora_b", LORA__ROLE_UP, LORA__STYLE_LLAMA),
    /* Conversions by hand that flattened too much, and put alpha where the
     * pair is. */
    DIALECT_SUFFIX(
        "_lora_down.weight", LORA__ROLE_DOWN, DIALECT_K | DIALECT_BROKEN),
    DIALECT_SUFFIX(
        "_lora_up.weight", LORA__ROLE_UP, DIALECT_K | DIALECT_BROKEN),

    /* Any checkpoint has these: they count beside others only. */
    DIALECT_SUFFIX(".weight", LORA__ROLE_WEIGHT, DIALECT_L),
    DIALECT_SUFFIX(".base_layer.bias", LORA__ROLE_BIAS, DIALECT_M),
    DIALECT_SUFFIX(".bias", LORA__ROLE_BIAS, DIALECT_L | DIALECT_M),
};

static const lora__suffix *dialect_match_suffix(const char *key, size_t bytes)
{
    for (size_t i = 0; i < LORA__COUNT(dialect_suffixes); i++) {
        const lora__suffix *suffix = &dialect_suffixes[i];
        size_t length = suffix->bytes;
        if (length < bytes && key[bytes - 1] == suffix->text[length - 1] &&
            key[bytes - length] == suffix->text[0] &&
            memcmp(key + bytes - length, suffix->text, length) == 0) {
            return suffix;
        }
    }
    return NULL;
}

/* PEFT's own state dicts have the adapter's name in the suffix, as in
 * ".lora_A.<name>.weight" or ".hada_w1_a.<name>": look for the suffix
 * without. `last` is ".weight", ".bias" or "". */
static int dialect_match_raw(lora__suffix_match *out,
                             const char *key,
                             size_t bytes,
                             const char *last)
{
    size_t last_bytes = strlen(last);
    /* Scripts that rename keys leave the name in kohya's as well. */
    lora__styles wanted =
        LORA__STYLES_RAW | (last_bytes > 0 ? DIALECT_K | DIALECT_U : 0);
    size_t name_end;
    size_t dot;

    if (!lora__text_ends(key, bytes, last)) {
        return 0;
    }
    name_end = bytes - last_bytes;
    for (dot = name_end; dot > 0 && key[dot - 1] != '.'; dot--) {
    }
    if (dot < 2 || dot == name_end) {
        return 0;
    }
    dot--;
    for (size_t i = 0; i < LORA__COUNT(dialect_suffixes); i++) {
        const lora__suffix *suffix = &dialect_suffixes[i];
        size_t length = suffix->bytes - last_bytes;
        if ((suffix->styles & wanted) != 0 && suffix->bytes > last_bytes &&
            length < dot && key[dot - length] == '.' &&
            memcmp(key + dot - length, suffix->text, length) == 0 &&
            lora__text_ends(suffix->text, suffix->bytes, last)) {
            out->suffix = suffix;
            out->module_bytes = dot - length;
            out->adapter = key + dot + 1;
            out->adapter_bytes = name_end - dot - 1;
            return 1;
        }
    }
    return 0;
}

/* ".oft_blocks.<number>": blocks of some rows, as kohya's trainer of Flux has
 * them. */
static int
dialect_match_piece(lora__suffix_match *out, const char *key, size_t bytes)
{
    size_t end = bytes;
    const lora__suffix *suffix;

    while (end > 0 && key[end - 1] >= '0' && key[end - 1] <= '9') {
        end--;
    }
    if (end == bytes || end == 0 || key[end - 1] != '.') {
        return 0;
    }
    suffix = dialect_match_suffix(key, end - 1);
    if (suffix == NULL || suffix->role != LORA__ROLE_OFT_BLOCKS) {
        return 0;
    }
    out->suffix = suffix;
    out->module_bytes = end - 1 - suffix->bytes;
    out->piece_bytes = bytes - (end - 1);
    return 1;
}

/* XLabs' single blocks end like the processors of diffusers-old, whose names
 * of layers are others. */
static const lora__suffix *
dialect_as_xlabs(const lora__suffix *suffix, const char *key, size_t bytes)
{
    if ((suffix->styles & DIALECT_O) == 0 ||
        (!lora__text_ends(key, bytes - suffix->bytes, ".processor.qkv") &&
         !lora__text_ends(key, bytes - suffix->bytes, ".processor.proj"))) {
        return suffix;
    }
    for (size_t i = 0; i < LORA__COUNT(dialect_suffixes); i++) {
        if (dialect_suffixes[i].styles == LORA__STYLE_XLABS &&
            dialect_suffixes[i].role == suffix->role) {
            return &dialect_suffixes[i];
        }
    }
    return suffix;
}

LORA_PRIVATE int
lora__suffix_find(lora__suffix_match *out, const char *key, size_t bytes)
{
    const lora__suffix *suffix = dialect_match_suffix(key, bytes);

    memset(out, 0, sizeof *out);
    if (suffix != NULL && suffix->role != LORA__ROLE_WEIGHT &&
        suffix->role != LORA__ROLE_BIAS) {
        suffix = dialect_as_xlabs(suffix, key, bytes);
        out->suffix = suffix;
        out->module_bytes = bytes - suffix->bytes;
        return 1;
    }
    if (dialect_match_raw(out, key, bytes, ".weight") ||
        dialect_match_raw(out, key, bytes, ".bias") ||
        dialect_match_raw(out, key, bytes, "") ||
        dialect_match_piece(out, key, bytes)) {
        return 1;
    }
    if (suffix == NULL) {
        return 0;
    }
    out->suffix = suffix;
    out->module_bytes = bytes - suffix->bytes;
    return 1;
}

/* The suffix that a role is written with in one of the styles, or NULL. */
static const lora__suffix *dialect_suffix_of(lora__role role,
                                             lora__styles styles)
{
    for (size_t i = 0; i < LORA__COUNT(dialect_suffixes); i++) {
        const lora__suffix *suffix = &dialect_suffixes[i];
        if (suffix->role == role && (suffix->styles & DIALECT_ALIAS) == 0 &&
            (styles == 0 || (suffix->styles & styles) != 0)) {
            return suffix;
        }
    }
    return NULL;
}

LORA_PRIVATE const char *lora__suffix_text(lora__role role, lora__styles styles)
{
    const lora__suffix *suffix = dialect_suffix_of(role, styles);

    return suffix == NULL ? NULL : suffix->text;
}

/* Prefixes ----------------------------------------------------------------- */

#define DIALECT_IN(component) LORA__COMPONENT_BIT(LORA__COMPONENT_##component)
#define DIALECT_BACKBONE LORA__COMPONENTS_BACKBONE

/* The first that fits is taken, so longer ones come first. The doubled ones
 * are conversions gone wrong; those of checkpoints were never meant for
 * adapters, but are unmistakable. */
static const lora__prefix dialect_prefixes[] = {
    {"lora_unet_unet_", '_', DIALECT_BACKBONE, LORA__DIALECT_KOHYA, 1},
    {"lora_unet__", '_', DIALECT_BACKBONE, LORA__DIALECT_KOHYA, 1},
    {"lora_unet_", '_', DIALECT_BACKBONE, LORA__DIALECT_KOHYA, 0},
    {"lora_te_", '_', DIALECT_IN(TE), LORA__DIALECT_KOHYA, 0},
    {"lora_te1_", '_', DIALECT_IN(TE), LORA__DIALECT_KOHYA, 0},
    {"lora_te2_", '_', DIALECT_IN(TE2), LORA__DIALECT_KOHYA, 0},
    {"lora_te3_", '_', DIALECT_IN(TE3), LORA__DIALECT_KOHYA, 0},
    {"lora_prior_unet_", '_', DIALECT_IN(PRIOR), LORA__DIALECT_KOHYA, 0},
    {"lora_transformer_", '_', DIALECT_IN(TRANSFORMER),
     LORA__DIALECT_ONETRAINER, 0},
    {"oft_unet_", '_', DIALECT_BACKBONE, LORA__DIALECT_KOHYA_OFT, 0},
    {"lycoris_", '_', 0, LORA__DIALECT_LYCORIS_WRAPPER, 0},
    {"base_model.model.", '.', 0, LORA__DIALECT_PEFT, 0},
    {"diffusion_model.", '.', DIALECT_BACKBONE, LORA__DIALECT_NATIVE, 0},
    {"model.diffusion_model.", '.', DIALECT_BACKBONE, LORA__DIALECT_NATIVE, 0},
    {"text_encoders.clip_l.transformer.", '.', DIALECT_IN(TE),
     LORA__DIALECT_NATIVE, 0},
    {"text_encoders.clip_g.transformer.", '.', DIALECT_IN(TE2),
     LORA__DIALECT_NATIVE, 0},
    {"text_encoders.t5xxl.transformer.", '.', DIALECT_IN(TE3),
     LORA__DIALECT_NATIVE, 0},
    {"cond_stage_model.transformer.", '.', DIALECT_IN(TE), LORA__DIALECT_NATIVE,
     0},
    {"cond_stage_model.", '.', DIALECT_IN(OPENCLIP_H), LORA__DIALECT_NATIVE, 0},
    {"conditioner.embedders.0.transformer.", '.', DIALECT_IN(TE),
     LORA__DIALECT_NATIVE, 0},
    {"conditioner.embedders.1.", '.', DIALECT_IN(OPENCLIP_G),
     LORA__DIALECT_NATIVE, 0},
    {"clip_B.", '.', DIALECT_IN(TE), LORA__DIALECT_DIFFUSERS, 0},
    {"clip_bigG.", '.', DIALECT_IN(TE2), LORA__DIALECT_DIFFUSERS, 0},
    {"", '.', 0, LORA__DIALECT_DIFFUSERS, 0},
};

LORA_PRIVATE const lora__prefix *lora__prefix_find(const char *name,
                                                   size_t bytes)
{
    const lora__prefix *prefix = dialect_prefixes;

    /* Most differ in their first letter; the last row fits everything. */
    while (prefix->text[0] != '\0' &&
           (bytes == 0 || name[0] != prefix->text[0] ||
            !lora__text_begins(name, bytes, prefix->text))) {
        prefix++;
    }
    return prefix;
}

/* Dialects ----------------------------------------------------------------- */

#define DIALECT_KL (DIALECT_K | DIALECT_L)
#define DIALECT_KOHYA_FLAGS                                                    \
    (LORA__DIALECT_KIN | LORA__DIALECT_SLOTS | LORA__DIALECT_BY_FAMILY)

/* any; UNet, transformer, prior; the text encoders */
#define DIALECT_KOHYA_PREFIXES(te)                                             \
    {                                                                          \
        NULL, "lora_unet_", "lora_unet_", "lora_prior_unet_", te, "lora_te2_", \
            "lora_te3_"                                                        \
    }
#define DIALECT_COMPONENT_PREFIXES                                             \
    {                                                                          \
        NULL, "unet.", "transformer.", "prior.", "text_encoder.",              \
            "text_encoder_2.", "text_encoder_3."                               \
    }
/* One model a file: further text encoders are named, else they could not be
 * told from the first. */
#define DIALECT_PEFT_PREFIXES                                                  \
    {                                                                          \
        "base_model.model.", "base_model.model.", "base_model.model.",         \
            "base_model.model.", "base_model.model.",                          \
            "base_model.model.text_encoder_2.",                                \
            "base_model.model.text_encoder_3."                                 \
    }

static const lora__dialect dialect_table[LORA__DIALECT_COUNT] = {
    [LORA__DIALECT_KOHYA] = {"kohya", '_', DIALECT_KOHYA_FLAGS, DIALECT_KL, 0,
                             DIALECT_KOHYA_PREFIXES("lora_te_"), "lora_te1_"},
    [LORA__DIALECT_KOHYA_SDXL] = {"kohya-SDXL", '_',
                                  LORA__DIALECT_KIN | LORA__DIALECT_SLOTS |
                                      LORA__DIALECT_ORIGINAL,
                                  DIALECT_KL, 0,
                                  DIALECT_KOHYA_PREFIXES("lora_te1_"), NULL},
    [LORA__DIALECT_LYCORIS_KOHYA] = {"lycoris-kohya", '_', DIALECT_KOHYA_FLAGS,
                                     DIALECT_KL, 0,
                                     DIALECT_KOHYA_PREFIXES("lora_te_"),
                                     "lora_te1_"},
    [LORA__DIALECT_LYCORIS_WRAPPER] = {"lycoris-wrapper",
                                       '_',
                                       0,
                                       DIALECT_KL,
                                       0,
                                       {NULL, "lycoris_", "lycoris_",
                                        "lycoris_", "lycoris_",
                                        "lycoris_text_encoder_2_",
                                        "lycoris_text_encoder_3_"},
                                       NULL},
    [LORA__DIALECT_KOHYA_OFT] = {"kohya-oft",
                                 '_',
                                 LORA__DIALECT_BY_FAMILY,
                                 LORA__STYLE_OFT,
                                 0,
                                 {NULL, "oft_unet_", "oft_unet_", NULL, NULL,
                                  NULL, NULL},
                                 NULL},
    [LORA__DIALECT_ONETRAINER] = {"OneTrainer DiT",
                                  '_',
                                  0,
                                  DIALECT_KL,
                                  0,
                                  {NULL, NULL, "lora_transformer_", NULL,
                                   "lora_te1_", "lora_te2_", "lora_te3_"},
                                  NULL},
    [LORA__DIALECT_DIFFUSERS_OLD] = {"diffusers-old", '.',
                                     LORA__DIALECT_RENAMED, DIALECT_O, 0,
                                     DIALECT_COMPONENT_PREFIXES, NULL},
    /* The two halves of one era: each component has its own manner. */
    [LORA__DIALECT_DIFFUSERS_UNET] = {"diffusers-unet", '.',
                                      LORA__DIALECT_DOTTED |
                                          LORA__DIALECT_ALPHA_META,
                                      DIALECT_U, DIALECT_T,
                                      DIALECT_COMPONENT_PREFIXES, NULL},
    [LORA__DIALECT_DIFFUSERS_TE] = {"diffusers-te", '.',
                                    LORA__DIALECT_DOTTED |
                                        LORA__DIALECT_ALPHA_META,
                                    DIALECT_U, DIALECT_T,
                                    DIALECT_COMPONENT_PREFIXES, NULL},
    [LORA__DIALECT_DIFFUSERS] = {"diffusers", '.',
                                 LORA__DIALECT_DOTTED |
                                     LORA__DIALECT_ALPHA_META,
                                 DIALECT_P, 0, DIALECT_COMPONENT_PREFIXES,
                                 NULL},
    [LORA__DIALECT_PEFT] = {"peft", '.',
                            LORA__DIALECT_DOTTED | LORA__DIALECT_ALPHA_META,
                            DIALECT_P | DIALECT_M, 0, DIALECT_PEFT_PREFIXES,
                            NULL},
    [LORA__DIALECT_PEFT_RAW] = {"peft-raw", '.',
                                LORA__DIALECT_DOTTED | LORA__DIALECT_ADAPTER |
                                    LORA__DIALECT_ALPHA_META,
                                LORA__STYLE_RAW | DIALECT_P | DIALECT_M, 0,
                                DIALECT_PEFT_PREFIXES, NULL},
    [LORA__DIALECT_NATIVE] = {"comfy/native",
                              '.',
                              LORA__DIALECT_ORIGINAL | LORA__DIALECT_SLOTS,
                              DIALECT_P | DIALECT_L,
                              0,
                              {NULL, "diffusion_model.", "diffusion_model.",
                               "diffusion_model.",
                               "text_encoders.clip_l.transformer.",
                               "text_encoders.clip_g.transformer.",
                               "text_encoders.t5xxl.transformer."},
                              NULL},
    [LORA__DIALECT_XLABS] = {"xlabs",
                             '.',
                             LORA__DIALECT_ORIGINAL | LORA__DIALECT_RENAMED,
                             LORA__STYLE_XLABS,
                             0,
                             {NULL, NULL, "", NULL, NULL, NULL, NULL},
                             NULL},
    [LORA__DIALECT_BFL] = {"bfl-control",
                           '.',
                           LORA__DIALECT_ORIGINAL,
                           DIALECT_P | LORA__STYLE_BFL,
                           0,
                           {NULL, NULL, "", NULL, NULL, NULL, NULL},
                           NULL},
    [LORA__DIALECT_CONTROL] =
        {"sai control-lora", '.', 0, LORA__STYLE_CONTROL, 0, {NULL}, NULL},
    [LORA__DIALECT_CLONEOFSIMO] =
        {"cloneofsimo", ':', 0, LORA__STYLE_NUMBER, 0, {NULL}, NULL},
    [LORA__DIALECT_HCP] = {"hcp", '.', 0, DIALECT_H, 0, {NULL}, NULL},
    [LORA__DIALECT_CANDLE] =
        {"candle-lora", '.', 0, LORA__STYLE_CANDLE, 0, {NULL}, NULL},
    [LORA__DIALECT_LORALIB] =
        {"loralib", '.', 0, LORA__STYLE_LORALIB, 0, {NULL}, NULL},
    [LORA__DIALECT_SAM] =
        {"sam-positional", '_', 0, LORA__STYLE_SAM, 0, {NULL}, NULL},
    [LORA__DIALECT_LLAMA] = {"llama.cpp",
                             '.',
                             LORA__DIALECT_ALPHA_META,
                             LORA__STYLE_LLAMA,
                             0,
                             {NULL},
                             NULL},
};

LORA_PRIVATE const lora__dialect *lora__dialect_at(lora__dialect_index index)
{
    return &dialect_table[index];
}

LORA_PRIVATE const lora__dialect *
lora__dialect_published(const lora__dialect *dialect)
{
    return dialect == &dialect_table[LORA__DIALECT_PEFT_RAW]
               ? &dialect_table[LORA__DIALECT_PEFT]
               : dialect;
}

LORA_PRIVATE const lora__dialect *
lora__dialect_of_pairs(const lora__dialect *dialect)
{
    return dialect == &dialect_table[LORA__DIALECT_KOHYA_OFT]
               ? &dialect_table[LORA__DIALECT_KOHYA]
               : dialect;
}

LORA_PRIVATE int32_t lora__name_piece(const char *key, size_t bytes)
{
    lora__suffix_match match;
    int32_t number = 0;

    if (!lora__suffix_find(&match, key, bytes) || match.piece_bytes == 0) {
        return -1;
    }
    key += bytes - match.piece_bytes + 1;
    if (match.piece_bytes > 4 || (key[0] == '0' && match.piece_bytes > 2)) {
        return INT32_MAX;
    }
    for (size_t i = 0; i + 1 < match.piece_bytes; i++) {
        number = number * 10 + (key[i] - '0');
    }
    return number;
}

static int dialect_is_peft_magnitude(const lora__suffix *suffix)
{
    return suffix != NULL && suffix->role == LORA__ROLE_DORA &&
           (suffix->styles & LORA__STYLES_RAW) != 0;
}

LORA_PRIVATE int lora__name_has_peft_magnitude(const char *key, size_t bytes)
{
    lora__suffix_match match;

    return lora__suffix_find(&match, key, bytes) &&
           dialect_is_peft_magnitude(match.suffix);
}

LORA_PRIVATE int lora__dialect_has_peft_magnitude(const lora__dialect *dialect)
{
    return dialect_is_peft_magnitude(
        dialect_suffix_of(LORA__ROLE_DORA, dialect->styles));
}

LORA_PRIVATE const char *lora__dialect_id(const lora__dialect *dialect)
{
    return dialect->id;
}

LORA_PRIVATE const lora__dialect *lora__dialect_find(const char *id)
{
    if (strcmp(id, "diffusers-peft") == 0) {
        return &dialect_table[LORA__DIALECT_DIFFUSERS];
    }
    for (size_t i = 0; i < LORA__DIALECT_COUNT; i++) {
        if (strcmp(dialect_table[i].id, id) == 0) {
            return &dialect_table[i];
        }
    }
    return NULL;
}

LORA_PRIVATE int lora__dialect_has_role(const lora__dialect *dialect,
                                        lora__role role)
{
    /* diffusers passes over alpha tensors beside names of its own. */
    if (role == LORA__ROLE_ALPHA && lora__dialect_alpha_in_metadata(dialect)) {
        return 0;
    }
    return role == LORA__ROLE_TOKEN ||
           lora__suffix_text(role, dialect->styles) != NULL ||
           lora__numbered_has_role(dialect->styles, role);
}

LORA_PRIVATE int lora__dialect_alpha_in_metadata(const lora__dialect *dialect)
{
    return (dialect->flags & LORA__DIALECT_ALPHA_META) != 0;
}

/* Attention processors ----------------------------------------------------- */

/* Hand conversions from diffusers-old keep its processors. Of a single block
 * XLabs adapts the attention, whose place has that name in the rules. */
#define DIALECT_OLD (DIALECT_O | DIALECT_ALIAS)

static const lora__rename dialect_renames[LORA__RENAME_COUNT] = {
    {DIALECT_OLD, ".processor.to_q", ".to_q"},
    {DIALECT_OLD, ".processor.to_k", ".to_k"},
    {DIALECT_OLD, ".processor.to_v", ".to_v"},
    {DIALECT_OLD, ".processor.to_out", ".to_out.0"},
    {DIALECT_OLD, ".self_attn.to_q", ".self_attn.q_proj"},
    {DIALECT_OLD, ".self_attn.to_k", ".self_attn.k_proj"},
    {DIALECT_OLD, ".self_attn.to_v", ".self_attn.v_proj"},
    {DIALECT_OLD, ".self_attn.to_out", ".self_attn.out_proj"},
    {LORA__STYLE_XLABS, ".processor.qkv_lora1", ".img_attn.qkv"},
    {LORA__STYLE_XLABS, ".processor.qkv_lora2", ".txt_attn.qkv"},
    {LORA__STYLE_XLABS, ".processor.proj_lora1", ".img_attn.proj"},
    {LORA__STYLE_XLABS, ".processor.proj_lora2", ".txt_attn.proj"},
    {LORA__STYLE_XLABS, ".processor.qkv_lora", ".processor.qkv_lora"},
    {LORA__STYLE_XLABS, ".processor.proj_lora", ".linear2"},
};

LORA_PRIVATE const lora__rename *lora__rename_at(size_t index)
{
    return &dialect_renames[index];
}

LORA_PRIVATE int lora__name_ends(const char *name,
                                 size_t bytes,
                                 char separator,
                                 const char *part)
{
    size_t length = strlen(part);

    if (length > bytes) {
        return 0;
    }
    name += bytes - length;
    for (size_t i = 0; i < length; i++) {
        if (name[i] != (part[i] == '.' ? separator : part[i])) {
            return 0;
        }
    }
    return 1;
}

LORA_PRIVATE void
lora__name_put(lora__buffer *out, const char *text, char separator)
{
    for (; *text != '\0'; text++) {
        lora__buffer_putc(out, *text == '.' ? separator : *text);
    }
}

/* Roles -------------------------------------------------------------------- */

static const char *const dialect_role_names[LORA__ROLE_COUNT] = {
    [LORA__ROLE_UNKNOWN] = "unknown",
    [LORA__ROLE_DOWN] = "down",
    [LORA__ROLE_UP] = "up",
    [LORA__ROLE_MID] = "mid",
    [LORA__ROLE_DOWN_BIAS] = "down_bias",
    [LORA__ROLE_UP_BIAS] = "up_bias",
    [LORA__ROLE_EMBEDDING_DOWN] = "embedding_down",
    [LORA__ROLE_EMBEDDING_UP] = "embedding_up",
    [LORA__ROLE_EMBEDDING_ROWS] = "embedding_rows",
    [LORA__ROLE_ADALORA_E] = "adalora_e",
    [LORA__ROLE_ADALORA_RANKNUM] = "adalora_ranknum",
    [LORA__ROLE_ALPHA] = "alpha",
    [LORA__ROLE_SCALE] = "scale",
    [LORA__ROLE_SCALAR] = "scalar",
    [LORA__ROLE_DORA] = "dora_scale",
    [LORA__ROLE_HADA_W1_A] = "hada_w1_a",
    [LORA__ROLE_HADA_W1_B] = "hada_w1_b",
    [LORA__ROLE_HADA_W2_A] = "hada_w2_a",
    [LORA__ROLE_HADA_W2_B] = "hada_w2_b",
    [LORA__ROLE_HADA_T1] = "hada_t1",
    [LORA__ROLE_HADA_T2] = "hada_t2",
    [LORA__ROLE_LOKR_W1] = "lokr_w1",
    [LORA__ROLE_LOKR_W1_A] = "lokr_w1_a",
    [LORA__ROLE_LOKR_W1_B] = "lokr_w1_b",
    [LORA__ROLE_LOKR_W2] = "lokr_w2",
    [LORA__ROLE_LOKR_W2_A] = "lokr_w2_a",
    [LORA__ROLE_LOKR_W2_B] = "lokr_w2_b",
    [LORA__ROLE_LOKR_T1] = "lokr_t1",
    [LORA__ROLE_LOKR_T2] = "lokr_t2",
    [LORA__ROLE_DIFF] = "diff",
    [LORA__ROLE_DIFF_BIAS] = "diff_b",
    [LORA__ROLE_NORM_WEIGHT] = "w_norm",
    [LORA__ROLE_NORM_BIAS] = "b_norm",
    [LORA__ROLE_SET_WEIGHT] = "set_weight",
    [LORA__ROLE_RESHAPE_WEIGHT] = "reshape_weight",
    [LORA__ROLE_SPARSE_INDICES] = "bias_indices",
    [LORA__ROLE_SPARSE_VALUES] = "bias_values",
    [LORA__ROLE_SPARSE_SIZE] = "bias_size",
    [LORA__ROLE_WEIGHT] = "weight",
    [LORA__ROLE_BIAS] = "bias",
    [LORA__ROLE_ON_INPUT] = "on_input",
    [LORA__ROLE_IA3] = "ia3_l",
    [LORA__ROLE_GLORA_A1] = "a1",
    [LORA__ROLE_GLORA_A2] = "a2",
    [LORA__ROLE_GLORA_B1] = "b1",
    [LORA__ROLE_GLORA_B2] = "b2",
    [LORA__ROLE_GLORA_BM] = "bm",
    [LORA__ROLE_OFT_BLOCKS] = "oft_blocks",
    [LORA__ROLE_OFT_DIAG] = "oft_diag",
    [LORA__ROLE_RESCALE] = "rescale",
    [LORA__ROLE_OFT_R] = "oft_R",
    [LORA__ROLE_BOFT_R] = "boft_R",
    [LORA__ROLE_BOFT_S] = "boft_s",
    [LORA__ROLE_TLORA_Q] = "q_layer",
    [LORA__ROLE_TLORA_P] = "p_layer",
    [LORA__ROLE_TLORA_LAMBDA] = "lambda_layer",
    [LORA__ROLE_LIGHT_DOWN_AUX] = "down_aux",
    [LORA__ROLE_LIGHT_UP_AUX] = "up_aux",
    [LORA__ROLE_LIGHT_DOWN_UP] = "down_up",
    [LORA__ROLE_LIGHT_SEED] = "aux_seed",
    [LORA__ROLE_TOKEN] = "token",
};

LORA_PRIVATE const char *lora__role_name(lora__role role)
{
    return role >= 0 && role < LORA__ROLE_COUNT ? dialect_role_names[role]
                                                : "unknown";
}
