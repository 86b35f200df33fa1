/* Writing names: spelling (target, role) in a dialect.
 *
 * A name that was read in the dialect asked for is kept letter by letter.
 * Otherwise it is formed from the canonical target, which takes a family that
 * knows it; only between dialects that both use diffusers' dotted names can
 * an unknown one be carried over. Where the dialect has one weight for several
 * targets, the caller is told which rows of it the target gets.
 */
#include "names/names.h"

#include "core/text.h"
#include "names/dialect.h"
#include "names/numbered.h"

#include <string.h>

static lora_status write_refuse(const lora__dialect *dialect,
                                const lora__spelling *spelling,
                                lora_error *error)
{
    return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                      spelling->target, "%s has no name for the %s of this",
                      dialect->id, lora__role_name(spelling->role));
}

static lora_status write_refuse_place(const lora__dialect *dialect,
                                      const lora__spelling *spelling,
                                      lora_error *error)
{
    return lora__fail(
        error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, spelling->target,
        "%s has no names for this model, or this part of one", dialect->id);
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

static lora_status write_split(const lora__dialect *dialect,
                               const lora__spelling *spelling,
                               lora_error *error)
{
    return lora__fail(
        error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, spelling->target,
        "%s cuts or orders the rows of this in another way", dialect->id);
}

static lora_status write_ambiguous(const lora__dialect *dialect,
                                   const lora__spelling *spelling,
                                   lora_error *error)
{
    return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, spelling->target,
                      "several models have this layer, each with a name of its "
                      "own in %s: say which it is",
                      dialect->id);
}

static void write_truncate(lora__buffer *out, size_t bytes)
{
    if (out->data != NULL) {
        out->bytes = bytes;
        out->data[bytes] = '\0';
    }
}

/* Dialects with names for attention processors only: replace the end of the
 * name from `begin` on; 0 if it has none. */
static int
write_rename(lora__buffer *out, size_t begin, const lora__dialect *dialect)
{
    if (out->failed) {
        return 1; /* found out at the end */
    }
    for (size_t i = 0; i < LORA__RENAME_COUNT; i++) {
        const lora__rename *rename = lora__rename_at(i);
        if ((rename->styles & dialect->styles) != 0 &&
            lora__name_ends(out->data + begin, out->bytes - begin, '.',
                            rename->now)) {
            write_truncate(out, out->bytes - strlen(rename->now));
            lora__buffer_puts(out, rename->old);
            return 1;
        }
    }
    return 0;
}

/* What a family calls a place: its name there, and the rows. */
typedef struct write_form {
    int original;
    lora__row_set rows;
} write_form;

/* 1 if all families of the set have one original name for the target, which
 * stands in `out` from `begin` on, and the same rows. */
static int write_agrees(lora__buffer *out,
                        size_t begin,
                        const lora__dialect *dialect,
                        const lora__spelling *spelling,
                        const write_form *form,
                        lora__family_set families)
{
    size_t bytes = out->bytes - begin;

    /* UNets do, by the way they are made. */
    for (families &= ~LORA__FAMILIES_UNET; families != 0 && !out->failed;
         families &= families - 1) {
        lora__place place;
        lora__row_set rows;
        size_t end = out->bytes;
        int same;

        (void)lora__family_match_target(
            &place, NULL, families & (~families + 1), spelling->target);
        lora__place_put(out, &place, 1, dialect->separator);
        (void)lora__place_rows(&rows, &place);
        same = !out->failed && out->bytes - end == bytes &&
               memcmp(out->data + begin, out->data + end, bytes) == 0 &&
               memcmp(&rows, &form->rows, sizeof rows) == 0;
        if (!out->failed) {
            write_truncate(out, end);
        }
        if (!same) {
            return 0;
        }
    }
    return 1;
}

/* 1 if the dialect has the original names of these families. */
static int write_is_original(const lora__dialect *dialect,
                             lora__family_set families)
{
    if ((dialect->flags & LORA__DIALECT_BY_FAMILY) != 0) {
        return (families & ~LORA__FAMILIES_KOHYA_ORIGINAL) == 0;
    }
    return (dialect->flags & LORA__DIALECT_ORIGINAL) != 0;
}

static const char *write_prefix(const lora__dialect *dialect,
                                const lora__place *place,
                                lora__family_set families)
{
    lora__component component = place->component;

    if ((dialect->flags & LORA__DIALECT_SLOTS) != 0 &&
        !lora__place_is_alias(place)) {
        component = lora__place_slot(place);
    }
    if (dialect->te1_prefix != NULL && component == LORA__COMPONENT_TE &&
        (families & ~LORA__FAMILIES_TWO_ENCODERS) == 0) {
        return dialect->te1_prefix;
    }
    return dialect->prefixes[component];
}

/* Whether the target can be written, and how: 0 if it has more than one name
 * in the dialect, or none. */
static int write_choose(write_form *out,
                        const lora__dialect *dialect,
                        const lora__place *place,
                        lora__family_set families)
{
    memset(out, 0, sizeof *out);
    out->original = write_is_original(dialect, families);
    if (!place->original) {
        if (out->original) {
            (void)lora__place_rows(&out->rows, place);
        }
        return 1;
    }
    /* It is the original weight itself. Those with another name for it, as in
     * XLabs' part of one, are for their own dialect only. */
    if (lora__place_is_alias(place)) {
        return (dialect->flags & LORA__DIALECT_RENAMED) != 0 && out->original;
    }
    return out->original;
}

/* The name of a target that a family knows. */
static lora_status write_known(lora__buffer *out,
                               const lora__dialect *dialect,
                               const lora__spelling *spelling,
                               const lora__place *place,
                               lora__family_set families,
                               lora_error *error)
{
    const char *prefix = write_prefix(dialect, place, families);
    size_t start = out->bytes;
    size_t begin;
    write_form form;
    lora__place alias;

    if (!place->original && (dialect->flags & LORA__DIALECT_RENAMED) != 0 &&
        (dialect->flags & LORA__DIALECT_ORIGINAL) != 0 &&
        lora__place_alias(&alias, place)) {
        place = &alias;
        families &= lora__place_families(&alias);
    }
    if (prefix == NULL || (dialect == lora__dialect_at(LORA__DIALECT_XLABS) &&
                           (families & LORA__FAMILY_FLUX) == 0)) {
        return write_refuse_place(dialect, spelling, error);
    }
    if (!write_choose(&form, dialect, place, families)) {
        return write_split(dialect, spelling, error);
    }
    lora__buffer_puts(out, prefix);
    begin = out->bytes;
    lora__place_put(out, place, form.original, dialect->separator);
    if (form.original && !place->original &&
        !write_agrees(out, begin, dialect, spelling, &form,
                      families & (families - 1))) {
        write_truncate(out, start);
        return write_ambiguous(dialect, spelling, error);
    }
    if (spelling->rows == NULL &&
        (form.rows.units != 0 || form.rows.transposed)) {
        write_truncate(out, start);
        return write_split(dialect, spelling, error);
    }
    if ((dialect->flags & LORA__DIALECT_RENAMED) != 0 &&
        !write_rename(out, begin, dialect)) {
        write_truncate(out, start);
        return write_refuse(dialect, spelling, error);
    }
    if (spelling->rows != NULL) {
        *spelling->rows = form.rows;
    }
    return LORA_OK;
}

/* 1 if the model's own names follow one prefix in both, as in those of PEFT. */
static int write_shares_prefix(const lora__dialect *one,
                               const lora__dialect *two)
{
    const char *prefix = one->prefixes[LORA__COMPONENT_ANY];
    const char *other = two->prefixes[LORA__COMPONENT_ANY];

    return prefix != NULL && other != NULL && strcmp(prefix, other) == 0;
}

LORA_PRIVATE const char *lora__names_read_back(const lora__dialect *dialect,
                                               const lora__dialect *from,
                                               const char *target)
{
    const char *any = dialect->prefixes[LORA__COMPONENT_ANY];
    const char *rest = target;
    size_t bytes = strlen(target);
    const char *prefix =
        dialect->prefixes[lora__component_take(&rest, &bytes, '.')];

    return any == NULL || prefix == NULL || strcmp(any, prefix) != 0 ||
                   write_shares_prefix(dialect, from)
               ? target
               : rest;
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

    if (from != NULL && lora__dialect_of_pairs(from) != from &&
        (dialect->flags & LORA__DIALECT_KIN) != 0 &&
        lora__text_begins(spelling->stored, strlen(spelling->stored),
                          from->prefixes[LORA__COMPONENT_UNET])) {
        /* One trainer's, and the same behind the prefix. */
        lora__buffer_puts(out, dialect->prefixes[LORA__COMPONENT_UNET]);
        lora__buffer_puts(out,
                          spelling->stored +
                              strlen(from->prefixes[LORA__COMPONENT_UNET]));
        return LORA_OK;
    }
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
    if (write_shares_prefix(dialect, from)) {
        lora__buffer_puts(out, spelling->stored);
        return LORA_OK;
    }
    prefix = dialect->prefixes[lora__component_take(&name, &bytes, '.')];
    if (prefix == NULL) {
        return write_unknown(dialect, spelling, error);
    }
    lora__buffer_puts(out, prefix);
    lora__buffer_append(out, name, bytes);
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__names_write_module(struct lora__buffer *out,
                         const lora__dialect *dialect,
                         const lora__spelling *spelling,
                         lora_error *error)
{
    const lora__family *family = spelling->family;
    lora__place place;
    lora__family_set known = 0;

    if (spelling->rows != NULL) {
        memset(spelling->rows, 0, sizeof *spelling->rows);
    }
    if (spelling->stored != NULL && spelling->stored_dialect == dialect) {
        lora__buffer_puts(out, spelling->stored);
        return LORA_OK;
    }
    if (family != NULL) {
        known = lora__family_match_target(&place, NULL, family->bit,
                                          spelling->target);
    }
    if (known == 0) {
        known = lora__family_match_target(&place, NULL, LORA__FAMILY_ALL,
                                          spelling->target);
    }
    if (known == 0) {
        return write_carried(out, dialect, spelling, error);
    }
    return write_known(out, dialect, spelling, &place, known, error);
}

/* The suffix; peft-raw puts the adapter's name behind the parameter's, but for
 * biases, which are those of the layers. */
static void write_suffix(lora__buffer *out,
                         const lora__dialect *dialect,
                         lora__role role,
                         const char *text)
{
    const char *last = strrchr(text, '.');

    if ((dialect->flags & LORA__DIALECT_ADAPTER) == 0 ||
        role == LORA__ROLE_BIAS) {
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

/* The suffix of a role: the one that was read, or the dialect's own. *piece is
 * the number that was read behind it. */
static const char *write_choose_suffix(const char **piece,
                                       const lora__spelling *spelling,
                                       lora__styles styles)
{
    const char *key = spelling->key;
    lora__suffix_match match;

    *piece = "";
    if (key != NULL && lora__suffix_find(&match, key, strlen(key)) &&
        match.adapter == NULL && (match.suffix->styles & styles) != 0 &&
        (match.suffix->styles & LORA__STYLE_ALIAS) == 0) {
        *piece = key + strlen(key) - match.piece_bytes;
        return match.suffix->text;
    }
    return lora__suffix_text(spelling->role, styles);
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
    const char *piece;

    if (spelling->role == LORA__ROLE_TOKEN) {
        lora__buffer_puts(out, target);
        return lora__buffer_status(out, error);
    }
    if (lora__numbered_has_role(styles, spelling->role) &&
        spelling->stored_dialect == dialect) {
        lora__numbered_put_key(out, styles, spelling->role, spelling->stored);
        return lora__buffer_status(out, error);
    }
    if (dialect->te_styles != 0 &&
        lora__component_take(&target, &bytes, '.') >= LORA__COMPONENT_TE) {
        styles = dialect->te_styles;
    }
    suffix = write_choose_suffix(&piece, spelling, styles);
    if (suffix == NULL && spelling->stored_dialect == dialect) {
        suffix = lora__suffix_text(spelling->role, 0); /* it was read here */
    }
    if (suffix == NULL) {
        return write_refuse(dialect, spelling, error);
    }
    TRY(lora__names_write_module(out, dialect, spelling, error));
    write_suffix(out, dialect, spelling->role, suffix);
    lora__buffer_puts(out, piece);
    return lora__buffer_status(out, error);
}
