/* Names that no program writes on purpose, and every loader passes over.
 *
 * Scripts that convert or save by hand leave the same few mistakes: a wrapper's
 * name in the path, a prefix put before a name that had it, a name flattened
 * by half or twice. They nest, so one is taken out at a time, from the outside
 * in, until a family knows what is left.
 */
#include "names/mend.h"

#include "core/text.h"
#include "names/dialect.h"

#include <string.h>

/* Parts that torch puts into paths when it wraps a module, anywhere. */
static const char *const mend_wrappers[] = {"_orig_mod", "_fsdp_wrapped_module",
                                            "_checkpoint_wrapped_module",
                                            "processor"};

/* Paths within the program that saved the file. Behind a prefix or a component
 * all of them are strays, at the very begin some are what they say. Longer ones
 * come first. */
static const struct {
    const char *text;
    int leads; /* a stray at the begin, too */
} mend_strays[] = {
    {"base_model.model.", 1},
    {"module.", 1},
    {"model.", 1},
    {"pipe.", 1},
    {"dit.", 1},
    {"network.", 1},
    {"diffusion_model.", 0},
    {"unet.", 0},
    {"transformer.", 0},
    {"text_encoder_3.", 0},
    {"text_encoder_2.", 0},
    {"text_encoder.", 0},
};

/* 1 if the name begins with `part`, in which '.' means the separator. */
static int
mend_begins(const char *name, size_t bytes, char separator, const char *part)
{
    size_t length = strlen(part);

    return length < bytes && lora__name_ends(name, length, separator, part);
}

/* Without parts that are wrappers. */
static int mend_unwrap(lora__buffer *out, const char *name, size_t bytes)
{
    size_t begin = out->bytes;
    size_t part;
    int found = 0;
    int wraps = 0; /* the last part */

    for (size_t at = 0; at < bytes; at += part) {
        wraps = 0;
        for (part = 0; at + part < bytes && name[at + part] != '.'; part++) {
        }
        for (size_t i = 0; i < LORA__COUNT(mend_wrappers); i++) {
            wraps |= part == strlen(mend_wrappers[i]) &&
                     memcmp(name + at, mend_wrappers[i], part) == 0;
        }
        part += at + part < bytes; /* and the dot */
        found |= wraps;
        if (!wraps) {
            lora__buffer_append(out, name + at, part);
        }
    }
    if (wraps && out->bytes > begin) {
        out->data[--out->bytes] = '\0'; /* the dot before it */
    }
    return found;
}

/* "lora_unet.down_blocks.0" and "lora_unet_down_blocks__0": flat names that
 * are not, or have two strokes for a dot. */
static int mend_flatten(lora__buffer *out, const char *name, size_t bytes)
{
    size_t begin = out->bytes;
    const lora__prefix *prefix;
    int found = 0;

    for (size_t i = 0; i < bytes; i++) {
        char c = name[i] == '.' ? '_' : name[i];
        int twice =
            c == '_' && i > 0 && (name[i - 1] == '_' || name[i - 1] == '.');
        found |= twice || name[i] == '.';
        if (!twice) {
            lora__buffer_putc(out, c);
        }
    }
    if (!found || out->failed) {
        return found;
    }
    prefix = lora__prefix_find(out->data + begin, out->bytes - begin);
    return prefix->text[0] != '\0' && prefix->separator == '_';
}

/* Without one stray path, behind the prefix and the component or before. */
static int mend_strip(lora__buffer *out, const char *name, size_t bytes)
{
    const lora__prefix *prefix = lora__prefix_find(name, bytes);
    size_t head = strlen(prefix->text);
    const char *rest = name + head;
    size_t left = bytes - head;

    if (head == 0) {
        (void)lora__component_take(&rest, &left, prefix->separator);
        head = bytes - left;
    }
    for (int leads = 0; leads < 2; leads++) {
        size_t keep = leads ? 0 : head;
        for (size_t i = 0; i < LORA__COUNT(mend_strays); i++) {
            const char *stray = mend_strays[i].text;
            if ((keep > 0 || mend_strays[i].leads) &&
                mend_begins(name + keep, bytes - keep,
                            keep > 0 ? prefix->separator : '.', stray)) {
                lora__buffer_append(out, name, keep);
                keep += strlen(stray);
                lora__buffer_append(out, name + keep, bytes - keep);
                return 1;
            }
        }
    }
    return 0;
}

LORA_PRIVATE int
lora__name_mend(lora__buffer *out, const char *name, size_t bytes)
{
    static int (*const steps[])(lora__buffer *, const char *, size_t) = {
        mend_unwrap, mend_flatten, mend_strip};
    size_t begin = out->bytes;

    for (size_t i = 0; i < LORA__COUNT(steps); i++) {
        if (steps[i](out, name, bytes) && (out->failed || out->bytes > begin)) {
            return 1;
        }
        if (!out->failed && out->data != NULL) {
            out->bytes = begin;
            out->data[begin] = '\0';
        }
    }
    return 0;
}
