/* Writing names: spelling (target, role) in a dialect.
 *
 * A name that was read in the dialect asked for is kept letter by letter.
 * Otherwise it is formed from the canonical target, which takes a family that
 * knows it; only between dialects that both use diffusers' dotted names can
 * an unknown one be carried over.
 */
#include "names/names.h"

#include "names/dialect.h"

#include <string.h>

static lora_status write_refuse(const lora__dialect *dialect,
                                const lora__spelling *spelling,
                                lora_error *error)
{
    return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                      spelling->target, "%s has no name for the %s of this",
                      dialect->id, lora__role_name(spelling->role));
}

static lora_status write_unknown(const lora__dialect *dialect,
                                 const lora__spelling *spelling,
                                 lora_error *error)
{
    return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, spelling->target,
                      "no known model has this layer, so its name in %s is "
                      "not known either",
                      dialect->id);
}

/* diffusers-old: only attention processors have names. */
static int write_attention(lora__buffer *out,
                           const char *prefix,
                           const char *name,
                           size_t bytes)
{
    for (size_t i = 0; i < LORA__RENAME_COUNT; i++) {
        const lora__rename *rename = lora__rename_at(i);
        if (lora__name_ends(name, bytes, '.', rename->now)) {
            lora__buffer_puts(out, prefix);
            lora__buffer_append(out, name, bytes - strlen(rename->now));
            lora__buffer_puts(out, rename->old);
            return 1;
        }
    }
    return 0;
}

/* The name of a target that a family knows. */
static lora_status write_known(lora__buffer *out,
                               const lora__dialect *dialect,
                               const lora__spelling *spelling,
                               const lora__place *place,
                               lora__family_set families,
                               lora_error *error)
{
    const char *prefix = dialect->prefixes[place->component];
    const char *name = spelling->target;
    size_t bytes = strlen(name);
    int ldm = (dialect->flags & LORA__DIALECT_LDM) != 0;

    if (prefix == NULL) {
        return write_refuse(dialect, spelling, error);
    }
    if ((dialect->flags & LORA__DIALECT_ATTENTION) != 0) {
        (void)lora__component_take(&name, &bytes, '.');
        return write_attention(out, prefix, name, bytes)
                   ? LORA_OK
                   : write_refuse(dialect, spelling, error);
    }
    if ((dialect->flags & LORA__DIALECT_BY_FAMILY) != 0) {
        ldm = (families & ~LORA__FAMILIES_KOHYA_LDM) == 0;
    }
    if (dialect->te1_prefix != NULL && place->component == LORA__COMPONENT_TE &&
        (families & ~LORA__FAMILIES_TWO_ENCODERS) == 0) {
        prefix = dialect->te1_prefix;
    }
    lora__buffer_puts(out, prefix);
    lora__place_put(out, place, ldm, dialect->separator);
    return LORA_OK;
}

/* The name of a target that no family knows, read in another dialect. */
static lora_status write_carried(lora__buffer *out,
                                 const lora__dialect *dialect,
                                 const lora__spelling *spelling,
                                 lora_error *error)
{
    const lora__dialect *from = spelling->stored_dialect;
    const char *name = spelling->target;
    size_t bytes = strlen(name);
    const char *prefix;

    if (from == NULL) {
        return write_unknown(dialect, spelling, error);
    }
    if ((from->flags & dialect->flags & LORA__DIALECT_KIN) != 0) {
        lora__buffer_puts(out, spelling->stored);
        return LORA_OK;
    }
    if ((from->flags & dialect->flags & LORA__DIALECT_DOTTED) == 0) {
        return write_unknown(dialect, spelling, error);
    }
    prefix = dialect->prefixes[lora__component_take(&name, &bytes, '.')];
    if (prefix == NULL) {
        return write_unknown(dialect, spelling, error);
    }
    lora__buffer_puts(out, prefix);
    lora__buffer_append(out, name, bytes);
    return LORA_OK;
}

static lora_status write_module(lora__buffer *out,
                                const lora__dialect *dialect,
                                const lora__spelling *spelling,
                                lora_error *error)
{
    const lora__family *family = spelling->family;
    lora__place place;
    lora__family_set known = 0;

    if (spelling->stored != NULL && spelling->stored_dialect == dialect) {
        lora__buffer_puts(out, spelling->stored);
        return LORA_OK;
    }
    if (family != NULL) {
        known =
            lora__family_match_target(&place, family->bit, spelling->target);
    }
    if (known == 0) {
        known = lora__family_match_target(&place, LORA__FAMILY_ALL,
                                          spelling->target);
    }
    if (known == 0) {
        return write_carried(out, dialect, spelling, error);
    }
    return write_known(out, dialect, spelling, &place, known, error);
}

/* The suffix; peft-raw puts the adapter's name behind the parameter's. */
static void
write_suffix(lora__buffer *out, const lora__dialect *dialect, const char *text)
{
    const char *last = strrchr(text, '.');

    if ((dialect->flags & LORA__DIALECT_ADAPTER) == 0) {
        lora__buffer_puts(out, text);
        return;
    }
    if (strcmp(last, ".weight") != 0 && strcmp(last, ".bias") != 0) {
        last = text + strlen(text);
    }
    lora__buffer_append(out, text, (size_t)(last - text));
    lora__buffer_puts(out, ".default");
    lora__buffer_puts(out, last);
}

LORA_PRIVATE lora_status lora__names_write(struct lora__buffer *out,
                                           const lora__dialect *dialect,
                                           const lora__spelling *spelling,
                                           lora_error *error)
{
    const char *target = spelling->target;
    size_t bytes = strlen(target);
    lora__styles styles = dialect->styles;
    const char *suffix;

    if (spelling->role == LORA__ROLE_TOKEN) {
        lora__buffer_puts(out, target);
        return lora__buffer_status(out, error);
    }
    if (dialect->te_styles != 0 &&
        lora__component_take(&target, &bytes, '.') >= LORA__COMPONENT_TE) {
        styles = dialect->te_styles;
    }
    suffix = lora__suffix_text(spelling->role, styles);
    if (suffix == NULL && spelling->stored_dialect == dialect) {
        suffix = lora__suffix_text(spelling->role, 0); /* it was read here */
    }
    if (suffix == NULL) {
        return write_refuse(dialect, spelling, error);
    }
    TRY(write_module(out, dialect, spelling, error));
    write_suffix(out, dialect, suffix);
    return lora__buffer_status(out, error);
}
