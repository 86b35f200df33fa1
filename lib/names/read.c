/* Reading names: from the keys of a file to modules, roles and targets.
 *
 * One pass strips the suffixes and collects the distinct module names; then
 * each module is resolved once; then the keys get what their module got. Some
 * questions are for the whole file: whether the order of a positional file
 * fits, whether PEFT's adapter name is always the same, which text encoder a
 * bare name means, and what the base is.
 *
 * Nothing here fails but for memory: what cannot be told is unknown.
 */
#include "names/names.h"

#include "core/map.h"
#include "core/text.h"
#include "names/dialect.h"
#include "names/guess.h"
#include "names/positional.h"

#include <string.h>

/* Sets of roles, a bit each. */
typedef uint64_t read_roles;
#define READ_ROLE(role) ((read_roles)1 << (role))
typedef char read_roles_fit[LORA__ROLE_COUNT <= 64 ? 1 : -1];

/* These make no module by themselves. */
#define READ_ACCESSORIES                                                       \
    (READ_ROLE(LORA__ROLE_ALPHA) | READ_ROLE(LORA__ROLE_SCALE) |               \
     READ_ROLE(LORA__ROLE_SCALAR) | READ_ROLE(LORA__ROLE_WEIGHT) |             \
     READ_ROLE(LORA__ROLE_BIAS))

/* With these a bare ".weight" belongs to the adapter. */
#define READ_WEIGHT_PARTNERS                                                   \
    (READ_ROLE(LORA__ROLE_ON_INPUT) | READ_ROLE(LORA__ROLE_LIGHT_SEED))

#define READ_NONE SIZE_MAX

typedef struct read_module {
    const char *name; /* in the caller's key */
    size_t bytes;
    read_roles roles;
    lora__styles styles; /* of all suffixes but accessories */
    int lycoris;         /* has a suffix that kohya's trainer lacks */
    int raw;             /* has PEFT's adapter name in a suffix */
    int bare;            /* a text encoder, but which one is not said */
    int real;            /* is a module at all */
    const lora__prefix *prefix;
    lora__component component;
    lora__family_set known;
    lora__place place;
    lora__dialect_index dialect;
    const char *stored;
    const char *target;
} read_module;

typedef struct read_key {
    size_t module; /* READ_NONE: no suffix */
    lora__role role;
} read_key;

typedef struct read_state {
    lora_context *context;
    lora__arena *arena;
    const lora__key_in *keys;
    size_t key_count;
    read_key *found;
    read_module *modules; /* room for one a key */
    size_t module_count;
    lora__map map; /* from names to modules */
    lora__buffer text;
    const char *adapter; /* PEFT's adapter name */
    size_t adapter_bytes;
    int adapters_differ;
    int control_marker; /* has the tensor that marks a control-LoRA */
    int positional;
    int positional_extended;
    int positional_unfit[LORA__COMPONENT_COUNT];
    lora__metadata_fn metadata;
    const void *metadata_user;
} read_state;

/* Keys --------------------------------------------------------------------- */

/* 1 if the rest of the key fits a suffix that is too short to trust alone. */
static int read_suffix_holds(const read_state *r,
                             const lora__suffix_match *match,
                             const char *key)
{
    size_t bytes = match->module_bytes;

    if (match->suffix->styles == LORA__STYLE_CONTROL) {
        return r->control_marker;
    }
    if (match->suffix->styles == LORA__STYLE_XLABS) {
        while (bytes > 0 && key[bytes - 1] >= '0' && key[bytes - 1] <= '9') {
            bytes--;
        }
        return lora__text_ends(key, bytes, "_lora");
    }
    if (match->suffix->styles == LORA__STYLE_NUMBER) {
        lora__position position;
        return lora__position_read(&position, key, bytes);
    }
    return 1;
}

static void read_note_adapter(read_state *r, const lora__suffix_match *match)
{
    if (r->adapter == NULL) {
        r->adapter = match->adapter;
        r->adapter_bytes = match->adapter_bytes;
    } else if (r->adapter_bytes != match->adapter_bytes ||
               memcmp(r->adapter, match->adapter, match->adapter_bytes) != 0) {
        r->adapters_differ = 1;
    }
}

static lora_status read_scan_key(read_state *r, size_t index, lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    lora__suffix_match match;
    read_module *module;
    size_t slot;

    r->found[index].module = READ_NONE;
    if (!lora__suffix_find(&match, key->name, key->name_bytes) ||
        !read_suffix_holds(r, &match, key->name)) {
        return LORA_OK;
    }
    TRY(lora__map_add(&slot, &r->map, key->name, match.module_bytes,
                      r->module_count, error));
    module = &r->modules[slot];
    if (slot == r->module_count) {
        module->name = key->name;
        module->bytes = match.module_bytes;
        r->module_count++;
    }
    r->found[index].module = slot;
    r->found[index].role = match.suffix->role;
    module->roles |= READ_ROLE(match.suffix->role);
    if ((READ_ROLE(match.suffix->role) & READ_ACCESSORIES) == 0) {
        module->styles |= match.suffix->styles;
        module->lycoris |= (match.suffix->styles & LORA__STYLE_KOHYA) == 0;
    }
    if (match.adapter != NULL) {
        module->raw = 1;
        read_note_adapter(r, &match);
    }
    return LORA_OK;
}

/* Modules ------------------------------------------------------------------ */

static int read_is_real(const read_state *r, const read_module *module)
{
    if (module->raw && r->adapters_differ) {
        return 0;
    }
    if ((module->roles & ~READ_ACCESSORIES) != 0) {
        return 1;
    }
    /* A lone alpha, where the name says that it was an adapter's. */
    return (module->roles & READ_ROLE(LORA__ROLE_ALPHA)) != 0 &&
           (module->prefix->text[0] != '\0' ||
            module->component != LORA__COMPONENT_ANY);
}

/* Append the rest of a stored name as later versions of its tool would write
 * it. */
static void read_modernise(lora__buffer *out,
                           const read_module *module,
                           const char *name,
                           size_t bytes)
{
    static const char layer[] = ".base_layer";
    const size_t layer_bytes = sizeof layer - 1;
    const lora__styles old = LORA__STYLE_OLD | LORA__STYLE_ALIAS;
    char separator = module->prefix->separator;

    for (size_t i = 0; i < LORA__RENAME_COUNT; i++) {
        const lora__rename *rename = lora__rename_at(i);
        if ((module->styles & old) != 0 &&
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

/* Look for the name in the components it may belong to. */
static void read_match(read_module *module, const char *name, size_t bytes)
{
    static const lora__component order[] = {
        LORA__COMPONENT_UNET, LORA__COMPONENT_TE, LORA__COMPONENT_TE2};
    char separator = module->prefix->separator;

    if (module->component != LORA__COMPONENT_ANY) {
        module->known =
            lora__family_match(&module->place, LORA__FAMILY_ALL,
                               module->component, name, bytes, separator);
        return;
    }
    for (size_t i = 0; i < LORA__COUNT(order) && module->known == 0; i++) {
        module->known = lora__family_match(&module->place, LORA__FAMILY_ALL,
                                           order[i], name, bytes, separator);
        if (module->known != 0) {
            module->component = order[i];
            module->bare = order[i] != LORA__COMPONENT_UNET;
        }
    }
}

static const struct {
    lora__styles style;
    lora__dialect_index dialect;
} read_style_dialects[] = {
    {LORA__STYLE_OLD, LORA__DIALECT_DIFFUSERS_OLD},
    {LORA__STYLE_UNET, LORA__DIALECT_DIFFUSERS_UNET},
    {LORA__STYLE_TE, LORA__DIALECT_DIFFUSERS_TE},
    {LORA__STYLE_HCP, LORA__DIALECT_HCP},
    {LORA__STYLE_XLABS, LORA__DIALECT_XLABS},
    {LORA__STYLE_CONTROL, LORA__DIALECT_CONTROL},
    {LORA__STYLE_LORALIB, LORA__DIALECT_LORALIB},
    {LORA__STYLE_PEFT, LORA__DIALECT_DIFFUSERS},
};

/* The dialect of a name whose prefix is a component of diffusers or nothing:
 * the style tells. `named`: there is a component. */
static lora__dialect_index read_dialect_by_style(const read_module *module,
                                                 int named)
{
    if (module->raw) {
        return LORA__DIALECT_PEFT_RAW;
    }
    for (size_t i = 0; i < LORA__COUNT(read_style_dialects); i++) {
        if ((module->styles & read_style_dialects[i].style) != 0) {
            return read_style_dialects[i].dialect;
        }
    }
    if (named) {
        return module->styles == 0 ? LORA__DIALECT_DIFFUSERS_UNET
                                   : LORA__DIALECT_DIFFUSERS;
    }
    return (module->styles & (LORA__STYLE_KOHYA | LORA__STYLE_LYCORIS)) == 0
               ? LORA__DIALECT_PEFT
           : module->lycoris ? LORA__DIALECT_LYCORIS_KOHYA
                             : LORA__DIALECT_KOHYA;
}

static lora__dialect_index read_dialect(const read_module *module, int named)
{
    switch (module->prefix->dialect) {
    case LORA__DIALECT_KOHYA:
        return module->lycoris ? LORA__DIALECT_LYCORIS_KOHYA
               : module->known != 0 && module->place.ldm
                   ? LORA__DIALECT_KOHYA_SDXL
                   : LORA__DIALECT_KOHYA;
    case LORA__DIALECT_PEFT:
        return module->raw ? LORA__DIALECT_PEFT_RAW : LORA__DIALECT_PEFT;
    case LORA__DIALECT_DIFFUSERS:
        return read_dialect_by_style(module, named);
    default:
        return module->prefix->dialect;
    }
}

/* Find out what a module is, all but what the whole file has to say. */
static lora_status
read_resolve(read_state *r, read_module *module, lora_error *error)
{
    const char *name = module->name;
    size_t bytes = module->bytes;
    size_t skip;
    size_t head = 0;

    module->prefix = lora__prefix_find(name, bytes);
    module->component = module->prefix->component;
    skip = strlen(module->prefix->text);
    name += skip;
    bytes -= skip;
    lora__buffer_clear(&r->text);
    if (module->component == LORA__COMPONENT_ANY) {
        size_t before = bytes;
        module->component =
            lora__component_take(&name, &bytes, module->prefix->separator);
        head = before - bytes;
    }
    if (!read_is_real(r, module)) {
        return LORA_OK;
    }
    /* A name that no family knows is its own target, less the prefix. */
    lora__buffer_append(&r->text, name - head, head);
    read_modernise(&r->text, module, name, bytes);
    TRY(lora__buffer_status(&r->text, error));
    module->real = r->text.bytes > head;
    if (!module->real) {
        return LORA_OK;
    }
    TRY(lora__arena_string(&module->target, r->arena, r->text.data,
                           r->text.bytes, error));
    TRY(lora__arena_string(&module->stored, r->arena, module->name,
                           module->bytes, error));
    read_match(module, r->text.data + head, r->text.bytes - head);
    module->dialect = read_dialect(module, head > 0);
    return LORA_OK;
}

/* Positional files --------------------------------------------------------- */

/* The order is fixed, so it holds for all modules of a component or none:
 * the number of dimensions tells layers apart. */
static void read_survey_positions(read_state *r)
{
    const char *classes =
        r->metadata == NULL ? NULL : r->metadata(r->metadata_user, "unet");
    lora__position position;

    r->positional_extended =
        classes != NULL && strstr(classes, "ResnetBlock2D") != NULL;
    for (size_t i = 0; classes == NULL && i < r->key_count; i++) {
        const read_key *key = &r->found[i];
        if (key->module != READ_NONE && r->keys[i].ndim > 2 &&
            r->modules[key->module].styles == LORA__STYLE_NUMBER) {
            r->positional_extended = 1;
        }
    }
    for (size_t i = 0; i < r->key_count; i++) {
        const read_key *key = &r->found[i];
        const read_module *module;
        lora__layer layer;

        if (key->module == READ_NONE || key->role != LORA__ROLE_DOWN) {
            continue;
        }
        module = &r->modules[key->module];
        if (module->styles != LORA__STYLE_NUMBER ||
            !lora__position_read(&position, module->name, module->bytes)) {
            continue;
        }
        r->positional = 1;
        lora__buffer_clear(&r->text);
        layer = lora__position_put(&r->text, &position, r->positional_extended);
        if (layer == LORA__LAYER_UNKNOWN ||
            (layer == LORA__LAYER_LINEAR) != (r->keys[i].ndim == 2)) {
            r->positional_unfit[position.component] = 1;
        }
    }
}

static lora_status
read_resolve_position(read_state *r, read_module *module, lora_error *error)
{
    lora__position position;

    module->real = lora__position_read(&position, module->name, module->bytes);
    module->component = position.component;
    module->dialect = LORA__DIALECT_CLONEOFSIMO;
    TRY(lora__arena_string(&module->stored, r->arena, module->name,
                           module->bytes, error));
    module->target = module->stored;
    lora__buffer_clear(&r->text);
    if (r->positional_unfit[position.component] ||
        lora__position_put(&r->text, &position, r->positional_extended) ==
            LORA__LAYER_UNKNOWN) {
        return LORA_OK;
    }
    TRY(lora__buffer_status(&r->text, error));
    module->known = lora__family_match_target(&module->place, LORA__FAMILY_ALL,
                                              r->text.data);
    return LORA_OK;
}

static lora_status read_resolve_all(read_state *r, lora_error *error)
{
    read_survey_positions(r);
    for (size_t i = 0; i < r->module_count; i++) {
        read_module *module = &r->modules[i];
        TRY(module->styles == LORA__STYLE_NUMBER
                ? read_resolve_position(r, module, error)
                : read_resolve(r, module, error));
    }
    return LORA_OK;
}

/* The file as a whole ------------------------------------------------------ */

/* Settle what single names leave open. */
static void read_harmonise(read_state *r)
{
    int second = 0; /* a bare text encoder has what only the second one has */
    int ldm = 0;

    for (size_t i = 0; i < r->module_count; i++) {
        const read_module *module = &r->modules[i];
        second |= module->bare && module->component == LORA__COMPONENT_TE2;
        ldm |= module->real && module->dialect == LORA__DIALECT_KOHYA_SDXL;
    }
    for (size_t i = 0; i < r->module_count; i++) {
        read_module *module = &r->modules[i];
        if (second && module->bare && module->component == LORA__COMPONENT_TE) {
            const char *name = module->target;
            module->component = LORA__COMPONENT_TE2;
            module->known = lora__family_match(
                &module->place, LORA__FAMILY_ALL, LORA__COMPONENT_TE2, name,
                strlen(name), module->prefix->separator);
        }
        /* Text encoders are spelled alike in both. */
        if (ldm && module->dialect == LORA__DIALECT_KOHYA &&
            module->component >= LORA__COMPONENT_TE) {
            module->dialect = LORA__DIALECT_KOHYA_SDXL;
        }
    }
}

static lora_status read_spell_targets(read_state *r, lora_error *error)
{
    for (size_t i = 0; i < r->module_count; i++) {
        read_module *module = &r->modules[i];
        if (!module->real || module->known == 0) {
            continue;
        }
        lora__buffer_clear(&r->text);
        lora__buffer_puts(&r->text, lora__component_name(module->component));
        lora__buffer_putc(&r->text, '.');
        lora__place_put(&r->text, &module->place, 0, '.');
        TRY(lora__buffer_status(&r->text, error));
        TRY(lora__arena_string(&module->target, r->arena, r->text.data,
                               r->text.bytes, error));
    }
    return LORA_OK;
}

static void read_guess(read_state *r, lora__names *out)
{
    lora__evidence evidence = {0};

    for (size_t i = 0; i < r->module_count; i++) {
        const read_module *module = &r->modules[i];
        int backbone = module->component < LORA__COMPONENT_TE;

        if (!module->real) {
            continue;
        }
        evidence.known_count += module->known != 0;
        evidence.backbone_known += backbone && module->known != 0;
        evidence.backbone_unknown += backbone && module->known == 0;
        evidence.ldm |= module->known != 0 && module->place.ldm &&
                        module->prefix->dialect != LORA__DIALECT_NATIVE;
        for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
            evidence.family_count[f] += module->known >> f & 1;
        }
    }
    for (size_t i = 0; i < r->key_count; i++) {
        const read_key *key = &r->found[i];
        if (key->module != READ_NONE && r->keys[i].ndim >= 2 &&
            (key->role == LORA__ROLE_DOWN ||
             key->role == LORA__ROLE_HADA_W1_B) &&
            r->modules[key->module].known != 0) {
            lora__guess_width(&evidence, r->modules[key->module].target,
                              r->keys[i].shape[1]);
        }
    }
    lora__guess_family(out, &evidence, r->metadata, r->metadata_user);
}

/* Answers ------------------------------------------------------------------ */

/* A learned token: "<name>", or what the metadata says is one. */
static lora_status
read_token(read_state *r, lora__key_out *out, size_t index, lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    int token = key->name_bytes > 2 && key->name[0] == '<' &&
                key->name[key->name_bytes - 1] == '>';

    if (!token && r->positional && r->metadata != NULL) {
        const char *value;
        lora__buffer_clear(&r->text);
        lora__buffer_append(&r->text, key->name, key->name_bytes);
        TRY(lora__buffer_status(&r->text, error));
        value = r->metadata(r->metadata_user, r->text.data);
        token = value != NULL && strcmp(value, "<embed>") == 0;
    }
    if (token) {
        TRY(lora__arena_string(&out->module, r->arena, key->name,
                               key->name_bytes, error));
        out->target = out->module;
        out->role = LORA__ROLE_TOKEN;
        out->dialect =
            r->positional ? lora__dialect_at(LORA__DIALECT_CLONEOFSIMO) : NULL;
    }
    return LORA_OK;
}

/* 1 if a tensor of that role belongs to the module, not to a base model. */
static int read_role_holds(const read_module *module, lora__role role)
{
    switch (role) {
    case LORA__ROLE_WEIGHT:
        return (module->roles & READ_WEIGHT_PARTNERS) != 0;
    case LORA__ROLE_BIAS:
    case LORA__ROLE_SCALE:
        return (module->roles & ~READ_ACCESSORIES) != 0;
    default:
        return 1;
    }
}

static lora_status read_answer_key(read_state *r,
                                   lora__names *out,
                                   size_t index,
                                   lora_error *error)
{
    const read_key *key = &r->found[index];
    const read_module *module;
    lora__key_out *answer = &out->keys[index];

    answer->module = "";
    answer->target = "";
    if (key->module == READ_NONE) {
        return read_token(r, answer, index, error);
    }
    module = &r->modules[key->module];
    if (!module->real || !read_role_holds(module, key->role)) {
        return LORA_OK;
    }
    answer->dialect = lora__dialect_at(module->dialect);
    answer->role = key->role;
    answer->module = module->stored;
    answer->target = module->target;
    answer->known = module->known != 0;
    answer->layer =
        lora__place_layer(&module->place, module->known, out->family);
    return LORA_OK;
}

/* The dialects by the number of keys; where equal, in the table's order. */
static void read_list_dialects(lora__names *out)
{
    size_t counts[LORA__DIALECT_COUNT] = {0};

    for (size_t i = 0; i < out->key_count; i++) {
        if (out->keys[i].dialect != NULL) {
            counts[out->keys[i].dialect - lora__dialect_at(0)]++;
        }
    }
    while (out->dialect_count < LORA__MAX_DIALECTS) {
        size_t best = 0;
        for (size_t d = 1; d < LORA__DIALECT_COUNT; d++) {
            best = counts[d] > counts[best] ? d : best;
        }
        if (counts[best] == 0) {
            return;
        }
        counts[best] = 0;
        out->dialects[out->dialect_count++] =
            lora__dialect_at((lora__dialect_index)best);
    }
}

static lora_status read_run(read_state *r, lora__names *out, lora_error *error)
{
    static const char marker[] = "lora_controlnet";

    for (size_t i = 0; i < r->key_count; i++) {
        r->control_marker |=
            r->keys[i].name_bytes == sizeof marker - 1 &&
            memcmp(r->keys[i].name, marker, sizeof marker - 1) == 0;
    }
    for (size_t i = 0; i < r->key_count; i++) {
        TRY(read_scan_key(r, i, error));
    }
    TRY(read_resolve_all(r, error));
    read_harmonise(r);
    TRY(read_spell_targets(r, error));
    read_guess(r, out);
    for (size_t i = 0; i < r->key_count; i++) {
        TRY(read_answer_key(r, out, i, error));
    }
    read_list_dialects(out);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__names_read(lora__names *out,
                                          lora__arena *arena,
                                          const lora__key_in *keys,
                                          size_t key_count,
                                          lora__metadata_fn metadata,
                                          const void *metadata_user,
                                          lora_error *error)
{
    lora_context *context = arena->context;
    read_state r = {0};
    void *found = NULL;
    void *modules = NULL;
    void *answers = NULL;
    lora_status status;

    memset(out, 0, sizeof *out);
    r.context = context;
    r.arena = arena;
    r.keys = keys;
    r.key_count = key_count;
    r.metadata = metadata;
    r.metadata_user = metadata_user;
    lora__map_init(&r.map, context);
    lora__buffer_init(&r.text, context);

    TRY_OR_DONE(lora__arena_zeroed(&answers, arena, key_count,
                                   sizeof(lora__key_out), error));
    TRY_OR_DONE(lora__alloc_zeroed(&found, context, key_count, sizeof(read_key),
                                   error));
    TRY_OR_DONE(lora__alloc_zeroed(&modules, context, key_count,
                                   sizeof(read_module), error));
    r.found = found;
    r.modules = modules;
    out->keys = answers;
    out->key_count = key_count;
    TRY_OR_DONE(read_run(&r, out, error));

done:
    if (modules != NULL) {
        lora__free(context, modules, key_count * sizeof(read_module),
                   LORA__ALIGN);
    }
    if (found != NULL) {
        lora__free(context, found, key_count * sizeof(read_key), LORA__ALIGN);
    }
    lora__buffer_destroy(&r.text);
    lora__map_destroy(&r.map);
    if (status != LORA_OK) {
        memset(out, 0, sizeof *out);
    }
    return status;
}
