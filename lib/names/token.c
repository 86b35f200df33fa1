/* Names of learned tokens. */
#include "names/token.h"

#include "core/buffer.h"
#include "core/text.h"
#include "names/family.h"

#include <string.h>

#define TOKEN_BUNDLE "bundle_emb."
#define TOKEN_PARAM "string_to_param."
#define TOKEN_PARAMS "emb_params"

static const char *const token_forms[] = {"token", "a1111", "emb_params",
                                          "encoder", "bundle"};

/* What trainers call text encoders. Vectors named "_out" go behind the encoder
 * instead of before it. */
static const char *const token_encoders[] = {
    "clip_l", "clip_g",    "clip_h",       "t5",         "gemma",
    "llama",  "qwen",      "text_encoder", "clip_l_out", "clip_g_out",
    "t5_out", "gemma_out", "llama_out",    "qwen_out",   "text_encoder_out",
};

/* diffusers' first pivotal tuning counted them. */
static const char *const token_counted[] = {"text_encoders_0",
                                            "text_encoders_1"};

/* Widths, and who has such an encoder of those whose encoders are known. The
 * same trainers call the one of SD 2, "clip_h", "clip_l" too. */
static const struct {
    const char *encoder;
    int64_t width;
    const char *alias;
    lora__family_set families;
} token_widths[] = {
    {"clip_l", 768, "clip_l",
     LORA__FAMILY_SD15 | LORA__FAMILY_SDXL | LORA__FAMILY_FLUX |
         LORA__FAMILIES_SD3},
    {"clip_h", 1024, "clip_l", LORA__FAMILY_SD21},
    {"clip_g", 1280, "clip_g", LORA__FAMILY_SDXL | LORA__FAMILIES_SD3},
    {"t5", 4096, "t5", LORA__FAMILY_FLUX | LORA__FAMILIES_SD3},
};

static const char *token_find(const char *const *names,
                              size_t count,
                              const char *key,
                              size_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(names[i]) == bytes && memcmp(names[i], key, bytes) == 0) {
            return names[i];
        }
    }
    return NULL;
}

static int
token_find_encoder(lora__token_name *out, const char *key, size_t bytes)
{
    out->encoder =
        token_find(token_encoders, LORA__COUNT(token_encoders), key, bytes);
    if (out->encoder == NULL) {
        out->encoder =
            token_find(token_counted, LORA__COUNT(token_counted), key, bytes);
        out->is_counted = out->encoder != NULL;
    }
    return out->encoder != NULL;
}

/* What follows "bundle_emb.". Tokens may have dots, so the end is looked at
 * first; else the first dot counts, as for A1111. */
static void
token_read_bundle(lora__token_name *out, const char *rest, size_t bytes)
{
    const char *dot = memchr(rest, '.', bytes);
    size_t at = bytes;

    out->form = LORA__TOKEN_BUNDLE;
    out->token = rest;
    out->token_bytes = dot == NULL ? bytes : (size_t)(dot - rest);
    for (size_t i = 0; i + 1 < bytes; i++) {
        if (rest[i] == '.' &&
            lora__text_begins(rest + i + 1, bytes - i - 1, TOKEN_PARAM)) {
            out->token_bytes = i;
            return;
        }
        at = rest[i] == '.' ? i : at;
    }
    if (at == bytes) {
        return;
    }
    if (token_find_encoder(out, rest + at + 1, bytes - at - 1) ||
        lora__text_ends(rest, bytes, "." TOKEN_PARAMS)) {
        out->token_bytes = at;
    }
}

LORA_PRIVATE int
lora__token_read(lora__token_name *out, const char *key, size_t bytes)
{
    memset(out, 0, sizeof *out);
    out->token = key;
    if (bytes > 2 && key[0] == '<' && key[bytes - 1] == '>') {
        out->form = LORA__TOKEN_NAMED;
        out->token_bytes = bytes;
    } else if (lora__text_begins(key, bytes, TOKEN_PARAM)) {
        out->form = LORA__TOKEN_A1111;
    } else if (bytes == sizeof TOKEN_PARAMS - 1 &&
               memcmp(key, TOKEN_PARAMS, bytes) == 0) {
        out->form = LORA__TOKEN_EMB_PARAMS;
    } else if (token_find_encoder(out, key, bytes)) {
        out->form = LORA__TOKEN_ENCODER;
    } else if (lora__text_begins(key, bytes, TOKEN_BUNDLE)) {
        token_read_bundle(out, key + sizeof TOKEN_BUNDLE - 1,
                          bytes - (sizeof TOKEN_BUNDLE - 1));
    } else {
        return 0;
    }
    return 1;
}

LORA_PRIVATE void lora__token_put(lora__buffer *out,
                                  lora__token_form form,
                                  const char *token,
                                  const char *encoder)
{
    switch (form) {
    case LORA__TOKEN_BUNDLE:
        lora__buffer_printf(out, "%s%s.%s", TOKEN_BUNDLE, token,
                            encoder == NULL ? TOKEN_PARAM "*" : encoder);
        break;
    case LORA__TOKEN_ENCODER:
        lora__buffer_puts(out, encoder);
        break;
    case LORA__TOKEN_EMB_PARAMS:
        lora__buffer_puts(out, TOKEN_PARAMS);
        break;
    case LORA__TOKEN_A1111:
        lora__buffer_puts(out, TOKEN_PARAM "*");
        break;
    default:
        lora__buffer_puts(out, token);
        break;
    }
}

LORA_PRIVATE const char *lora__token_form_id(lora__token_form form)
{
    return token_forms[form];
}

LORA_PRIVATE lora__token_form lora__token_form_find(const char *id)
{
    int form = 0;

    while (form < LORA__TOKEN_FORM_COUNT &&
           strcmp(token_forms[form], id) != 0) {
        form++;
    }
    return (lora__token_form)form;
}

LORA_PRIVATE const char *lora__token_encoder(int64_t width)
{
    for (size_t i = 0; i < LORA__COUNT(token_widths); i++) {
        if (token_widths[i].width == width) {
            return token_widths[i].encoder;
        }
    }
    return "";
}

LORA_PRIVATE int lora__token_is_other(const char *encoder, int64_t width)
{
    int has_width = 0;
    int is_known = 0;

    for (size_t i = 0; i < LORA__COUNT(token_widths); i++) {
        int is_this = strcmp(token_widths[i].encoder, encoder) == 0 ||
                      strcmp(token_widths[i].alias, encoder) == 0;

        is_known |= is_this;
        if (token_widths[i].width == width) {
            if (is_this) {
                return 0;
            }
            has_width = 1;
        }
    }
    return is_known && has_width;
}

LORA_PRIVATE int lora__token_encoder_count(const lora__family *family)
{
    int count = 0;

    for (size_t i = 0; i < LORA__COUNT(token_widths); i++) {
        count += (token_widths[i].families & family->bit) != 0;
    }
    return count;
}

LORA_PRIVATE int lora__token_fits(const lora__family *family, int64_t width)
{
    int fits = family == NULL || lora__token_encoder_count(family) == 0;

    for (size_t i = 0; !fits && i < LORA__COUNT(token_widths); i++) {
        fits = token_widths[i].width == width &&
               (token_widths[i].families & family->bit) != 0;
    }
    return fits;
}
