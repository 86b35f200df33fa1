/* Keys with numbers: taking them apart and putting them together. */
#include "names/numbered.h"

#include "core/text.h"

#include <string.h>

static const struct {
    lora__styles style;
    lora__role role;
    const char *before; /* the number */
    const char *after;
} numbered_forms[] = {
    {LORA__STYLE_CANDLE, LORA__ROLE_DOWN, ".a", ".weight"},
    {LORA__STYLE_CANDLE, LORA__ROLE_UP, ".b", ".weight"},
    {LORA__STYLE_SAM, LORA__ROLE_DOWN, "w_a_", ""},
    {LORA__STYLE_SAM, LORA__ROLE_UP, "w_b_", ""},
};

/* Sam_LoRA pads to three digits; neither has more than a few. */
#define NUMBERED_SAM_DIGITS 3
#define NUMBERED_MAX_DIGITS 6

/* torch's lists are numbered by whoever unpickles them. */
#define NUMBERED_LIST_DIGITS 4

/* More squares of one width than a UNet begins with: a text encoder. */
#define NUMBERED_UNET_SQUARES 4

static int numbered_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int numbered_take(lora__numbered *out,
                         const char *before,
                         const char *after,
                         const char *key,
                         size_t bytes)
{
    size_t end;
    size_t digits = 0;

    if (!lora__text_ends(key, bytes, after)) {
        return 0;
    }
    end = bytes - strlen(after);
    while (digits < end && numbered_is_digit(key[end - digits - 1])) {
        digits++;
    }
    if (digits == 0 || digits > NUMBERED_MAX_DIGITS ||
        !lora__text_ends(key, end - digits, before)) {
        return 0;
    }
    out->number = key + end - digits;
    out->number_bytes = digits;
    out->stem_bytes = end - digits - strlen(before);
    return 1;
}

LORA_PRIVATE int lora__numbered_find(lora__numbered *out,
                                     lora__styles styles,
                                     const char *key,
                                     size_t bytes)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < LORA__COUNT(numbered_forms); i++) {
        lora__styles style = numbered_forms[i].style;

        if ((styles & style) == 0 ||
            !numbered_take(out, numbered_forms[i].before,
                           numbered_forms[i].after, key, bytes)) {
            continue;
        }
        if (style == LORA__STYLE_SAM
                ? out->stem_bytes == 0 &&
                      out->number_bytes == NUMBERED_SAM_DIGITS
                : out->stem_bytes > 0) {
            out->style = style;
            out->role = numbered_forms[i].role;
            return 1;
        }
    }
    return 0;
}

LORA_PRIVATE void lora__numbered_put_module(lora__buffer *out,
                                            const lora__numbered *numbered,
                                            const char *key)
{
    if (numbered->stem_bytes > 0) {
        lora__buffer_append(out, key, numbered->stem_bytes);
        lora__buffer_putc(out, '.');
    }
    lora__buffer_append(out, numbered->number, numbered->number_bytes);
}

LORA_PRIVATE void lora__numbered_put_key(lora__buffer *out,
                                         lora__styles styles,
                                         lora__role role,
                                         const char *module)
{
    const char *dot = strrchr(module, '.');
    const char *number = dot == NULL ? module : dot + 1;

    for (size_t i = 0; i < LORA__COUNT(numbered_forms); i++) {
        if ((numbered_forms[i].style & styles) != 0 &&
            numbered_forms[i].role == role) {
            lora__buffer_append(out, module,
                                dot == NULL ? 0 : (size_t)(dot - module));
            lora__buffer_puts(out, numbered_forms[i].before);
            lora__buffer_puts(out, number);
            lora__buffer_puts(out, numbered_forms[i].after);
            return;
        }
    }
}

LORA_PRIVATE int lora__numbered_has_role(lora__styles styles, lora__role role)
{
    for (size_t i = 0; i < LORA__COUNT(numbered_forms); i++) {
        if ((numbered_forms[i].style & styles) != 0 &&
            numbered_forms[i].role == role) {
            return 1;
        }
    }
    return 0;
}

static uint32_t numbered_value(const char *digits, size_t count)
{
    uint32_t value = 0;

    for (size_t i = 0; i < count; i++) {
        value = value * 10 + (uint32_t)(digits[i] - '0');
    }
    return value;
}

LORA_PRIVATE void lora__numbered_put_sam(lora__buffer *out, const char *module)
{
    uint32_t index = numbered_value(module, strlen(module));

    lora__buffer_printf(out, "image_encoder.blocks.%u.attn.qkv#%c",
                        (unsigned)(index / 2), index % 2 == 0 ? 'q' : 'v');
}

/* Lists -------------------------------------------------------------------- */

LORA_PRIVATE uint32_t lora__numbered_index(const lora__key_in *key)
{
    return numbered_value(key->name, key->name_bytes);
}

/* The width on the model's side: rows of up, columns of down; 0 if the tensor
 * is no matrix. */
static int64_t numbered_width(const lora__key_in *key)
{
    if (key->ndim != 2) {
        return 0;
    }
    return key->shape[lora__numbered_index(key) % 2];
}

LORA_PRIVATE const char *lora__numbered_list(const lora__key_in *keys,
                                             size_t key_count)
{
    int square = key_count > 2 * (size_t)NUMBERED_UNET_SQUARES;

    if (key_count == 0 || key_count % 2 != 0) {
        return NULL;
    }
    for (size_t i = 0; i < key_count; i++) {
        const lora__key_in *key = &keys[i];

        if (key->name_bytes != NUMBERED_LIST_DIGITS) {
            return NULL;
        }
        for (size_t c = 0; c < NUMBERED_LIST_DIGITS; c++) {
            if (!numbered_is_digit(key->name[c])) {
                return NULL;
            }
        }
        /* Keys differ, so that all below the count are all there are. */
        if (lora__numbered_index(key) >= key_count) {
            return NULL;
        }
        square &= numbered_width(key) != 0 &&
                  numbered_width(key) == numbered_width(&keys[0]);
    }
    return square ? "text_encoder" : "unet";
}
