/* Resolving modules: from a stored name to dialect, family and target.
 *
 * First each name by itself, against the rules of all families; then the file
 * as a whole says which text encoder a bare name means and what the base is;
 * then names that mean one thing here and another there get the base's meaning.
 */
#include "names/read.h"

#include "core/text.h"
#include "names/guess.h"

#include <string.h>

/* One module --------------------------------------------------------------- */

static int resolve_is_real(const lora__reading *r,
                           const lora__read_module *module)
{
    if (module->raw && r->adapters_differ) {
        return 0;
    }
    if (r->base) {
        return 1;
    }
    if ((module->roles & ~LORA__READ_ACCESSORIES) != 0) {
        return 1;
    }
    /* A lone alpha, where the name says that it was an adapter's. */
    return (module->roles & LORA__READ_ROLE(LORA__ROLE_ALPHA)) != 0 &&
           (module->prefix->text[0] != '\0' ||
            module->component != LORA__COMPONENT_ANY);
}

/* Append the rest of a stored name as later versions of its tool would write
 * it. */
static void resolve_modernise(lora__buffer *out,
                              const lora__read_module *module,
                              const char *name,
                              size_t bytes)
{
    static const char layer[] = ".base_layer";
    const size_t layer_bytes = sizeof layer - 1;
    char separator = module->prefix->separator;

    for (size_t i = 0; i < LORA__RENAME_COUNT; i++) {
        const lora__rename *rename = lora__rename_at(i);
        if ((module->styles & rename->styles) != 0 &&
            lora__name_ends(name, bytes, separator, rename->old)) {
            lora__buffer_append(out, name, bytes - strlen(rename->old));
            lora__name_put(out, rename->now, separator);
            return;
        }
    }
    /* A tuner inside another one. */
    for (const char *end = name + bytes; name < end;) {
        size_t left = (size_t)(end - name);
        size_t part = 1;
        if (separator == '.' && lora__text_begins(name, left, layer) &&
            (left == layer_bytes || name[layer_bytes] == '.')) {
            name += layer_bytes;
            continue;
        }
        while (part < left && name[part] != '.') {
            part++;
        }
        lora__buffer_append(out, name, part);
        name += part;
    }
}

/* What the name may be, in families of the set. A name that both spellings
 * have is taken as the file has the others, or as its dialect does. */
static lora__scope resolve_scope(const lora__reading *r,
                                 const lora__read_module *module,
                                 lora__family_set families)
{
    lora__scope scope = {families, module->prefix->components, 0, 0};

    if (module->named != LORA__COMPONENT_ANY) {
        scope.components = LORA__COMPONENT_BIT(module->named);
    } else if (scope.components == 0) {
        scope.components = LORA__COMPONENTS_ALL;
    }
    scope.original_first =
        r->originals != 0
            ? r->originals > 0
            : module->prefix->dialect == LORA__DIALECT_KOHYA ||
                  module->prefix->dialect == LORA__DIALECT_KOHYA_OFT ||
                  module->prefix->dialect == LORA__DIALECT_NATIVE;
    return scope;
}

/* Look for the name in the components it may belong to. */
static void resolve_match(lora__reading *r,
                          lora__read_module *module,
                          const lora__scope *scope)
{
    module->known =
        lora__family_match(&module->place, &r->memo, scope, module->own,
                           strlen(module->own), module->prefix->separator);
    if (module->known != 0) {
        module->component = module->place.component;
        module->bare = module->prefix->components == 0 &&
                       module->named == LORA__COMPONENT_ANY &&
                       module->component >= LORA__COMPONENT_TE;
    }
}

/* What looks like a component may be the begin of a name: "transformer.layers"
 * of CogVideoX. */
static void resolve_match_whole(lora__reading *r, lora__read_module *module)
{
    lora__component named = module->named;
    const char *own = module->own;
    lora__scope scope;

    module->named = LORA__COMPONENT_ANY;
    module->own = module->target;
    scope = resolve_scope(r, module, LORA__FAMILY_ALL);
    resolve_match(r, module, &scope);
    if (module->known == 0) {
        module->named = named;
        module->own = own;
    }
}

static const struct {
    lora__styles style;
    lora__dialect_index dialect;
} resolve_style_dialects[] = {
    {LORA__STYLE_OLD, LORA__DIALECT_DIFFUSERS_OLD},
    {LORA__STYLE_UNET, LORA__DIALECT_DIFFUSERS_UNET},
    {LORA__STYLE_TE, LORA__DIALECT_DIFFUSERS_TE},
    {LORA__STYLE_HCP, LORA__DIALECT_HCP},
    {LORA__STYLE_XLABS, LORA__DIALECT_XLABS},
    {LORA__STYLE_CONTROL, LORA__DIALECT_CONTROL},
    {LORA__STYLE_LORALIB, LORA__DIALECT_LORALIB},
    {LORA__STYLE_LLAMA, LORA__DIALECT_LLAMA},
    {LORA__STYLE_PEFT, LORA__DIALECT_DIFFUSERS},
};

/* 1 if the name is that of the authors' own checkpoint, with nothing before
 * it. */
static int resolve_is_bfl(const lora__read_module *module)
{
    const lora__styles styles =
        LORA__STYLE_PEFT | LORA__STYLE_KOHYA | LORA__STYLE_LYCORIS;

    return module->named == LORA__COMPONENT_ANY && module->known != 0 &&
           module->place.original &&
           module->component == LORA__COMPONENT_TRANSFORMER &&
           (module->styles & ~styles) == 0;
}

/* The dialect of a name whose prefix is a component of diffusers or nothing:
 * the style tells. */
static lora__dialect_index
resolve_dialect_by_style(const lora__read_module *module)
{
    if (module->raw) {
        return LORA__DIALECT_PEFT_RAW;
    }
    if (resolve_is_bfl(module)) {
        return LORA__DIALECT_BFL;
    }
    for (size_t i = 0; i < LORA__COUNT(resolve_style_dialects); i++) {
        if ((module->styles & resolve_style_dialects[i].style) != 0) {
            return resolve_style_dialects[i].dialect;
        }
    }
    if (module->named != LORA__COMPONENT_ANY) {
        return module->styles == 0 ? LORA__DIALECT_DIFFUSERS_UNET
                                   : LORA__DIALECT_DIFFUSERS;
    }
    return (module->styles & (LORA__STYLE_KOHYA | LORA__STYLE_LYCORIS)) == 0
               ? LORA__DIALECT_PEFT
           : module->lycoris ? LORA__DIALECT_LYCORIS_KOHYA
                             : LORA__DIALECT_KOHYA;
}

/* 1 if the name was flattened from LDM, which only SDXL's trainer does. */
static int resolve_is_ldm(const lora__read_module *module)
{
    return module->known != 0 && module->place.original &&
           module->component == LORA__COMPONENT_UNET;
}

static lora__dialect_index resolve_dialect(const lora__read_module *module)
{
    switch (module->prefix->dialect) {
    case LORA__DIALECT_KOHYA:
        return module->lycoris          ? LORA__DIALECT_LYCORIS_KOHYA
               : resolve_is_ldm(module) ? LORA__DIALECT_KOHYA_SDXL
                                        : LORA__DIALECT_KOHYA;
    case LORA__DIALECT_PEFT:
        return module->raw ? LORA__DIALECT_PEFT_RAW : LORA__DIALECT_PEFT;
    case LORA__DIALECT_DIFFUSERS:
        return resolve_dialect_by_style(module);
    default:
        return module->prefix->dialect;
    }
}

/* The component that the prefix tells, where it tells just one; else the first
 * of those that it leaves. */
static lora__component resolve_prefix_component(const lora__prefix *prefix)
{
    int component = LORA__COMPONENT_UNET;

    if (prefix->components == 0) {
        return LORA__COMPONENT_ANY;
    }
    while ((prefix->components >> component & 1) == 0) {
        component++;
    }
    return (lora__component)component;
}

/* 1 for a norm's scale beside an adapter in the manner of BFL. */
static int resolve_may_replace(const lora__read_module *module)
{
    return module->roles == LORA__READ_ROLE(LORA__ROLE_SCALE) &&
           module->prefix->text[0] == '\0' &&
           lora__text_ends(module->name, module->bytes, "_norm");
}

/* 1 for a bias without a weight in the manner of PEFT, which trains those of
 * all layers if it is told to. Beside a weight it is a layer that is saved
 * whole. */
static int resolve_may_be_bias(const lora__read_module *module)
{
    return module->roles == LORA__READ_ROLE(LORA__ROLE_BIAS) &&
           module->prefix->dialect == LORA__DIALECT_PEFT;
}

LORA_PRIVATE lora_status lora__read_resolve(lora__reading *r,
                                            lora__read_module *module,
                                            lora_error *error)
{
    const char *name = module->path;
    size_t bytes = module->path_bytes;
    size_t skip;
    size_t head = 0;
    lora__scope scope;

    module->prefix = lora__prefix_find(name, bytes);
    module->component = resolve_prefix_component(module->prefix);
    skip = strlen(module->prefix->text);
    name += skip;
    bytes -= skip;
    lora__buffer_clear(&r->text);
    /* Flattened, "transformer_blocks" only looks like a component. */
    if (module->component == LORA__COMPONENT_ANY &&
        !(module->prefix->separator == '_' &&
          lora__text_begins(name, bytes, "transformer_blocks_"))) {
        size_t before = bytes;
        module->named =
            lora__component_take(&name, &bytes, module->prefix->separator);
        module->component = module->named;
        head = before - bytes;
    }
    module->replaces = !r->base && resolve_may_replace(module);
    module->lone_bias = !r->base && resolve_may_be_bias(module);
    if (!resolve_is_real(r, module) && !module->replaces &&
        !module->lone_bias) {
        return LORA_OK;
    }
    /* A name that no family knows is its own target, less the prefix. */
    lora__buffer_append(&r->text, name - head, head);
    resolve_modernise(&r->text, module, name, bytes);
    TRY(lora__buffer_status(&r->text, error));
    module->real = r->text.bytes > head;
    if (!module->real) {
        return LORA_OK;
    }
    TRY(lora__arena_string(&module->target, r->arena, r->text.data,
                           r->text.bytes, error));
    TRY(lora__arena_string(&module->stored, r->arena, module->name,
                           module->bytes, error));
    module->own = module->target + head;
    scope = resolve_scope(r, module, LORA__FAMILY_ALL);
    resolve_match(r, module, &scope);
    if (module->known == 0 && head > 0) {
        resolve_match_whole(r, module);
    }
    module->dialect = resolve_dialect(module);
    return LORA_OK;
}

/* The file as a whole ------------------------------------------------------ */

/* A bias alone is PEFT's beside an adapter of PEFT's. */
static void resolve_lone_biases(lora__reading *r)
{
    int peft = 0;
    int raw = 0;

    for (size_t i = 0; i < r->module_count; i++) {
        const lora__read_module *module = &r->modules[i];
        peft |= module->real && !module->lone_bias &&
                module->prefix->dialect == LORA__DIALECT_PEFT;
        raw |= module->real && module->raw;
    }
    for (size_t i = 0; i < r->module_count; i++) {
        lora__read_module *module = &r->modules[i];
        if (module->lone_bias) {
            module->real = module->real && peft;
            module->dialect = raw ? LORA__DIALECT_PEFT_RAW : LORA__DIALECT_PEFT;
        }
    }
}

/* Settle what single names leave open. */
static void resolve_harmonise(lora__reading *r)
{
    int second = 0; /* a bare text encoder has what only the second one has */
    int ldm = 0;
    int bfl = 0;

    for (size_t i = 0; i < r->module_count; i++) {
        const lora__read_module *module = &r->modules[i];
        second |= module->bare && module->component == LORA__COMPONENT_TE2;
        ldm |= module->real && module->dialect == LORA__DIALECT_KOHYA_SDXL;
        bfl |= module->real && !module->replaces &&
               module->dialect == LORA__DIALECT_BFL;
        if (module->known != 0 && !module->place.both &&
            module->component < LORA__COMPONENT_TE) {
            r->originals += module->place.original ? 1 : -1;
        }
    }
    for (size_t i = 0; i < r->module_count; i++) {
        lora__read_module *module = &r->modules[i];
        if (second && module->bare && module->component == LORA__COMPONENT_TE) {
            lora__scope scope = resolve_scope(r, module, LORA__FAMILY_ALL);
            scope.components = LORA__COMPONENT_BIT(LORA__COMPONENT_TE2);
            module->component = LORA__COMPONENT_TE2;
            resolve_match(r, module, &scope);
        }
        /* Text encoders are spelled alike in both. */
        if (ldm && module->dialect == LORA__DIALECT_KOHYA &&
            module->component >= LORA__COMPONENT_TE) {
            module->dialect = LORA__DIALECT_KOHYA_SDXL;
        }
        if (module->replaces) {
            module->real = bfl && module->dialect == LORA__DIALECT_BFL;
        }
    }
}

static lora_status resolve_put_target(lora__reading *r,
                                      const char **out,
                                      const lora__place *place,
                                      int original,
                                      lora_error *error)
{
    lora__buffer_clear(&r->text);
    lora__buffer_puts(&r->text, lora__component_name(place->component));
    lora__buffer_putc(&r->text, '.');
    lora__place_put(&r->text, place, original, '.');
    TRY(lora__buffer_status(&r->text, error));
    return lora__arena_string(out, r->arena, r->text.data, r->text.bytes,
                              error);
}

static lora_status resolve_spell_targets(lora__reading *r, lora_error *error)
{
    for (size_t i = 0; i < r->module_count; i++) {
        lora__read_module *module = &r->modules[i];
        if (module->real && module->known != 0) {
            TRY(resolve_put_target(r, &module->target, &module->place, 0,
                                   error));
        }
    }
    return LORA_OK;
}

/* The base ----------------------------------------------------------------- */

static void resolve_note_module(lora__evidence *evidence,
                                const lora__reading *r,
                                const lora__read_module *module)
{
    lora__family_set all = module->known | module->place.also;
    int backbone = module->component < LORA__COMPONENT_TE;
    size_t parts = 1;

    evidence->known_count += module->known != 0;
    evidence->backbone_known += backbone && module->known != 0;
    evidence->backbone_unknown += backbone && module->known == 0;
    if (module->known == 0) {
        return;
    }
    evidence->ldm |= !r->base && resolve_is_ldm(module) &&
                     module->prefix->dialect != LORA__DIALECT_NATIVE;
    /* Where the rules have no text encoders, any may be the model's. */
    if (!backbone) {
        all |= LORA__FAMILY_ALL & ~LORA__FAMILIES_WITH_ENCODERS;
    } else if (module->place.original) {
        parts = lora__place_part_count(&module->place, module->known);
        parts = parts == 0 ? 1 : parts;
    }
    for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
        evidence->family_count[f] += all >> f & 1;
        evidence->core_count[f] += (module->place.core >> f & 1) * parts;
    }
}

/* 1 if the tensor is as wide as its layer's inputs. */
static int
resolve_has_inputs(const lora__reading *r, lora__role role, int32_t ndim)
{
    return r->base ? role == LORA__ROLE_WEIGHT && ndim > 1
                   : role == LORA__ROLE_DOWN || role == LORA__ROLE_HADA_W1_B;
}

static void resolve_guess(lora__reading *r, lora__names *out)
{
    lora__evidence evidence = {0};

    for (size_t i = 0; i < r->module_count; i++) {
        if (r->modules[i].real) {
            resolve_note_module(&evidence, r, &r->modules[i]);
        }
    }
    for (size_t i = 0; i < r->key_count; i++) {
        const lora__read_key *key = &r->found[i];
        int32_t ndim = r->keys[i].ndim; /* 1: a row of rank 1 */
        if (key->module != LORA__READ_NONE && ndim >= 1 &&
            resolve_has_inputs(r, key->role, ndim) &&
            r->modules[key->module].known != 0) {
            lora__guess_width(&evidence, r->modules[key->module].target,
                              r->keys[i].shape[ndim == 1 ? 0 : 1]);
        }
    }
    lora__guess_family(out, &evidence, r->metadata, r->metadata_user);
}

/* The base's own meaning --------------------------------------------------- */

static lora_status resolve_put_parts(lora__reading *r,
                                     lora__read_module *module,
                                     lora__family_set family,
                                     lora_error *error)
{
    size_t count = lora__place_part_count(&module->place, family);
    void *memory;
    lora__part *parts;

    if (count == 0) {
        return LORA_OK;
    }
    TRY(lora__arena_zeroed(&memory, r->arena, count, sizeof *parts, error));
    parts = memory;
    for (size_t i = 0; i < count; i++) {
        lora__place place;
        lora__place_part(&place, &parts[i].rows, &module->place, family, i);
        parts[i].layer = LORA__LAYER_LINEAR;
        TRY(resolve_put_target(r, &parts[i].target, &place, 0, error));
    }
    module->parts = parts;
    module->part_count = count;
    return resolve_put_target(r, &module->target, &module->place, 1, error);
}

static lora_status resolve_settle_module(lora__reading *r,
                                         lora__read_module *module,
                                         const lora__family *family,
                                         lora_error *error)
{
    lora__family_set one = family == NULL ? 0 : family->bit;

    one &= module->known | module->place.also;
    /* A position in a list means the same to all. */
    if (one != 0 && module->own != NULL &&
        ((lora__place_families(&module->place) & one) == 0 ||
         module->place.both)) {
        lora__scope scope = resolve_scope(r, module, one);
        resolve_match(r, module, &scope);
        module->dialect = resolve_dialect(module);
        TRY(resolve_put_target(r, &module->target, &module->place, 0, error));
    } else if (one == 0) {
        one = module->known & lora__place_families(&module->place);
        one &= ~one + 1; /* the first */
    }
    return resolve_put_parts(r, module, one, error);
}

LORA_PRIVATE lora_status lora__read_settle(lora__reading *r,
                                           lora__names *out,
                                           lora_error *error)
{
    resolve_lone_biases(r);
    resolve_harmonise(r);
    TRY(resolve_spell_targets(r, error));
    resolve_guess(r, out);
    for (size_t i = 0; i < r->module_count; i++) {
        lora__read_module *module = &r->modules[i];
        if (module->real && module->known != 0) {
            TRY(resolve_settle_module(r, module, out->family, error));
        }
    }
    return LORA_OK;
}
