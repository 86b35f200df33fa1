/* Reading names: from the keys of a file to modules, roles and targets.
 *
 * One pass strips the suffixes and collects the distinct module names; then
 * each module is resolved once, alone and in the light of the whole file
 * (resolve.c); then the keys get what their module got. Other questions for
 * the whole file are here: whether it has numbers instead of names, whether
 * the order of a positional file fits, and whether PEFT's adapter name is
 * always the same.
 *
 * Nothing here fails but for memory: what cannot be told is unknown.
 */
#include "names/read.h"

#include "core/text.h"
#include "names/mend.h"
#include "names/numbered.h"
#include "names/positional.h"
#include "names/token.h"

#include <string.h>

typedef char read_roles_fit[LORA__ROLE_COUNT <= 64 ? 1 : -1];

/* With these a bare ".weight" belongs to the adapter. */
#define READ_WEIGHT_PARTNERS                                                   \
    (LORA__READ_ROLE(LORA__ROLE_ON_INPUT) |                                    \
     LORA__READ_ROLE(LORA__ROLE_LIGHT_SEED))

/* A numbered module has both factors, or is something else. */
#define READ_FACTORS                                                           \
    (LORA__READ_ROLE(LORA__ROLE_DOWN) | LORA__READ_ROLE(LORA__ROLE_UP))

/* Keys --------------------------------------------------------------------- */

/* 1 if the rest of the key fits a suffix that is too short to trust alone. */
static int read_suffix_holds(const lora__reading *r,
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

static void read_note_adapter(lora__reading *r, const lora__suffix_match *match)
{
    if (r->adapter == NULL) {
        r->adapter = match->adapter;
        r->adapter_bytes = match->adapter_bytes;
    } else if (r->adapter_bytes != match->adapter_bytes ||
               memcmp(r->adapter, match->adapter, match->adapter_bytes) != 0) {
        r->adapters_differ = 1;
    }
}

/* The module of that name, made if there is none yet. A name that is not in a
 * key is copied. Most keys are of the module that the key before is of. */
static lora_status read_find_module(lora__reading *r,
                                    size_t *out,
                                    const char *name,
                                    size_t bytes,
                                    int copy,
                                    lora_error *error)
{
    lora__read_module *module;
    void *modules = r->modules;

    if (r->module_count > 0) {
        module = &r->modules[r->last];
        *out = r->last;
        if (module->bytes == bytes && memcmp(module->name, name, bytes) == 0) {
            return LORA_OK;
        }
    }
    if (lora__map_find(&r->last, &r->map, name, bytes)) {
        *out = r->last;
        return LORA_OK;
    }
    if (copy) {
        TRY(lora__arena_string(&name, r->arena, name, bytes, error));
    }
    TRY(lora__map_add(out, &r->map, name, bytes, r->module_count, error));
    r->last = *out;
    TRY(lora__grow(&modules, &r->module_capacity, r->context,
                   r->module_count + 1, sizeof *module, error));
    r->modules = modules;
    module = &r->modules[r->module_count++];
    memset(module, 0, sizeof *module);
    module->name = module->path = name;
    module->bytes = module->path_bytes = bytes;
    return LORA_OK;
}

/* A key with a number. *out_found: it is one. */
static lora_status read_scan_numbered(lora__reading *r,
                                      int *out_found,
                                      size_t index,
                                      lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    lora__read_key *found = &r->found[index];
    lora__read_module *module;
    lora__numbered numbered = {0};

    lora__buffer_clear(&r->text);
    if (r->list != NULL) {
        uint32_t number = lora__numbered_index(key);
        numbered.style = LORA__STYLE_NUMBER;
        numbered.role = number % 2 == 0 ? LORA__ROLE_UP : LORA__ROLE_DOWN;
        lora__buffer_printf(&r->text, "%s:%u", r->list, (unsigned)(number / 2));
    } else if (lora__numbered_find(&numbered, r->numbered, key->name,
                                   key->name_bytes)) {
        lora__numbered_put_module(&r->text, &numbered, key->name);
    } else {
        *out_found = 0;
        return LORA_OK;
    }
    *out_found = 1;
    TRY(lora__buffer_status(&r->text, error));
    TRY(read_find_module(r, &found->module, r->text.data, r->text.bytes, 1,
                         error));
    found->role = numbered.role;
    module = &r->modules[found->module];
    module->roles |= LORA__READ_ROLE(numbered.role);
    module->styles |= numbered.style;
    return LORA_OK;
}

/* The role of a suffix; but llama.cpp, which looks rows of A up by the token,
 * has that factor of the embedding the other way round than those of layers. */
static lora__role read_role(const lora__suffix_match *match, const char *key)
{
    static const char tokens[] = "token_embd";
    lora__role role = match->suffix->role;

    if (match->suffix->styles != LORA__STYLE_LLAMA ||
        match->module_bytes != sizeof tokens - 1 ||
        memcmp(key, tokens, sizeof tokens - 1) != 0) {
        return role;
    }
    return role == LORA__ROLE_DOWN ? LORA__ROLE_EMBEDDING_ROWS
                                   : LORA__ROLE_EMBEDDING_UP;
}

static lora_status
read_scan_key(lora__reading *r, size_t index, lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    lora__read_key *found = &r->found[index];
    lora__suffix_match match;
    lora__read_module *module;
    int is_numbered = 0;

    found->module = LORA__READ_NONE;
    if (r->list != NULL || r->numbered != 0) {
        TRY(read_scan_numbered(r, &is_numbered, index, error));
    }
    if (is_numbered || !lora__suffix_find(&match, key->name, key->name_bytes) ||
        !read_suffix_holds(r, &match, key->name)) {
        return LORA_OK;
    }
    TRY(read_find_module(r, &found->module, key->name, match.module_bytes, 0,
                         error));
    module = &r->modules[found->module];
    found->role = read_role(&match, key->name);
    module->roles |= LORA__READ_ROLE(found->role);
    if ((LORA__READ_ROLE(found->role) & LORA__READ_ACCESSORIES) == 0) {
        module->styles |= match.suffix->styles;
        module->lycoris |= (match.suffix->styles & LORA__STYLE_KOHYA) == 0;
    }
    module->broken |= (match.suffix->styles & LORA__STYLE_BROKEN) != 0;
    if (match.adapter != NULL) {
        module->raw = 1;
        module->broken |= (match.suffix->styles & LORA__STYLES_RAW) == 0;
        read_note_adapter(r, &match);
    }
    return LORA_OK;
}

/* The keys of a base model: parameters, and what F8 needs beside them. What
 * precedes the text, less a number, ends as the second word. */
static const struct {
    const char *text;
    const char *behind;
    lora__role role;
} read_parameters[] = {
    {".weight", "", LORA__ROLE_WEIGHT},
    {".bias", "", LORA__ROLE_BIAS},
    {".scale", "_norm", LORA__ROLE_WEIGHT}, /* BFL's weights of norms */
    {".scale", ".norms.", LORA__ROLE_WEIGHT},
    {"_weight", ".in_proj", LORA__ROLE_WEIGHT},
    {"_bias", ".in_proj", LORA__ROLE_BIAS},
    {".scale_weight", "", LORA__ROLE_SCALE},
    {".weight_scale", "", LORA__ROLE_SCALE},
    {".scale_input", "", LORA__ROLE_UNKNOWN},
    {".input_scale", "", LORA__ROLE_UNKNOWN},
};

/* The role of a key, and *bytes less its parameter; bare ones are weights. */
static lora__role read_cut_parameter(size_t *bytes, const char *name)
{
    for (size_t i = 0; i < LORA__COUNT(read_parameters); i++) {
        const char *text = read_parameters[i].text;
        const char *behind = read_parameters[i].behind;
        size_t left = *bytes - strlen(text);
        size_t end = left;

        if (*bytes <= strlen(text) || !lora__text_ends(name, *bytes, text)) {
            continue;
        }
        while (end > 0 && name[end - 1] >= '0' && name[end - 1] <= '9') {
            end--;
        }
        if (lora__text_ends(name, end, behind)) {
            *bytes = left;
            return read_parameters[i].role;
        }
    }
    return LORA__ROLE_WEIGHT;
}

static lora_status
read_scan_base_key(lora__reading *r, size_t index, lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    lora__read_key *found = &r->found[index];
    size_t bytes = key->name_bytes;

    found->module = LORA__READ_NONE;
    if (bytes == 0) {
        return LORA_OK;
    }
    found->role = read_cut_parameter(&bytes, key->name);
    TRY(read_find_module(r, &found->module, key->name, bytes, 0, error));
    r->modules[found->module].roles |= LORA__READ_ROLE(found->role);
    return LORA_OK;
}

/* What has to be known before keys can be taken apart. */
static void read_survey_keys(lora__reading *r)
{
    static const char marker[] = "lora_controlnet";

    r->list = lora__numbered_list(r->keys, r->key_count);
    for (size_t i = 0; i < r->key_count; i++) {
        const lora__key_in *key = &r->keys[i];

        r->control_marker |= key->name_bytes == sizeof marker - 1 &&
                             memcmp(key->name, marker, sizeof marker - 1) == 0;
        /* GLoRA has such keys too, but counts from 1. */
        if (lora__text_ends(key->name, key->name_bytes, ".a0.weight")) {
            r->numbered |= LORA__STYLE_CANDLE;
        }
        if (lora__text_begins(key->name, key->name_bytes, "w_a_")) {
            r->numbered |= LORA__STYLE_SAM;
        }
    }
}

/* Positional files --------------------------------------------------------- */

/* The order is fixed, so it holds for all modules of a component or none:
 * the number of dimensions tells layers apart. */
static void read_survey_positions(lora__reading *r)
{
    const char *classes =
        r->metadata == NULL ? NULL : r->metadata(r->metadata_user, "unet");
    lora__position position;

    r->positional_extended =
        classes != NULL && strstr(classes, "ResnetBlock2D") != NULL;
    for (size_t i = 0; classes == NULL && i < r->key_count; i++) {
        const lora__read_key *key = &r->found[i];
        if (key->module != LORA__READ_NONE && r->keys[i].ndim > 2 &&
            r->modules[key->module].styles == LORA__STYLE_NUMBER) {
            r->positional_extended = 1;
        }
    }
    for (size_t i = 0; i < r->key_count; i++) {
        const lora__read_key *key = &r->found[i];
        const lora__read_module *module;
        lora__layer layer;

        if (key->module == LORA__READ_NONE || key->role != LORA__ROLE_DOWN) {
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

static lora_status read_resolve_position(lora__reading *r,
                                         lora__read_module *module,
                                         lora_error *error)
{
    lora__position position;
    const char *target;

    module->real = lora__position_read(&position, module->name, module->bytes);
    module->component = position.component;
    module->dialect = LORA__DIALECT_CLONEOFSIMO;
    module->prefix = lora__prefix_find("", 0);
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
    TRY(lora__arena_string(&target, r->arena, r->text.data, r->text.bytes,
                           error)); /* as the memo points at it */
    module->known = lora__family_match_target(&module->place, &r->memo,
                                              LORA__FAMILY_ALL, target);
    return LORA_OK;
}

/* Modules whose place in the model nobody knows. */
static lora_status read_resolve_numbered(lora__reading *r,
                                         lora__read_module *module,
                                         lora_error *error)
{
    module->real = (module->roles & READ_FACTORS) == READ_FACTORS;
    module->prefix = lora__prefix_find("", 0);
    module->dialect = LORA__DIALECT_CANDLE;
    module->stored = module->name;
    module->target = module->name;
    if ((module->styles & LORA__STYLE_SAM) == 0) {
        return LORA_OK;
    }
    module->dialect = LORA__DIALECT_SAM;
    lora__buffer_clear(&r->text);
    lora__numbered_put_sam(&r->text, module->name);
    TRY(lora__buffer_status(&r->text, error));
    return lora__arena_string(&module->target, r->arena, r->text.data,
                              r->text.bytes, error);
}

/* Mistakes that are taken out of one name; names that are tried in vain before
 * the file is taken for one of a model that no family knows. */
enum { READ_MENDS = 8, READ_MISSES = 64 };

/* A name that nobody knows as it stands may have been spoiled on its way: it is
 * mended as far as it takes until a family knows it, or else left alone. */
static lora_status read_resolve_name(lora__reading *r,
                                     lora__read_module *module,
                                     lora_error *error)
{
    const lora__read_module fresh = *module;
    lora__read_module plain;
    const char *path = module->name;
    size_t bytes = module->bytes;
    int mends = READ_MENDS;

    TRY(lora__read_resolve(r, module, error));
    plain = *module;
    if (!plain.real || r->base ||
        (r->mended == 0 && r->missed >= READ_MISSES)) {
        mends = 0;
    }
    for (int i = 0; module->known == 0 && i < mends; i++) {
        lora__buffer_clear(&r->text);
        if (!lora__name_mend(&r->text, path, bytes)) {
            break;
        }
        TRY(lora__buffer_status(&r->text, error));
        bytes = r->text.bytes;
        TRY(lora__arena_string(&path, r->arena, r->text.data, bytes, error));
        *module = fresh;
        module->path = path;
        module->path_bytes = bytes;
        module->broken = 1;
        TRY(lora__read_resolve(r, module, error));
    }
    r->mended += module->known != 0 && module->path != module->name;
    r->missed += module->known == 0 && path != module->name;
    if (module->known == 0) {
        *module = plain;
        module->path = module->stored;
    }
    module->broken |= module->prefix->broken;
    return LORA_OK;
}

static lora_status read_resolve_all(lora__reading *r, lora_error *error)
{
    read_survey_positions(r);
    for (size_t i = 0; i < r->module_count; i++) {
        lora__read_module *module = &r->modules[i];
        if (module->styles == LORA__STYLE_NUMBER) {
            TRY(read_resolve_position(r, module, error));
        } else if (module->styles == LORA__STYLE_CANDLE ||
                   module->styles == LORA__STYLE_SAM) {
            TRY(read_resolve_numbered(r, module, error));
        } else {
            TRY(read_resolve_name(r, module, error));
        }
    }
    return LORA_OK;
}

/* Answers ------------------------------------------------------------------ */

/* More vectors than one prompt has room for belong to no token. */
#define READ_TOKEN_VECTORS 256

/* 1 for what can be the vectors of a token in a file that has nothing else:
 * diffusers and cloneofsimo call them what the user did. */
static int read_is_lone_token(const lora__key_in *key)
{
    return key->name_bytes > 0 &&
           (key->ndim == 1 ||
            (key->ndim == 2 && key->shape[0] <= READ_TOKEN_VECTORS)) &&
           lora__token_encoder(key->shape[key->ndim - 1])[0] != '\0' &&
           memchr(key->name, '.', key->name_bytes) == NULL;
}

static int read_has_tokens_alone(const lora__reading *r)
{
    for (size_t i = 0; i < r->key_count; i++) {
        if (r->found[i].module != LORA__READ_NONE ||
            !read_is_lone_token(&r->keys[i])) {
            return 0;
        }
    }
    return 1;
}

/* A learned token: by its name, as all of the file is, or by what cloneofsimo's
 * metadata say. */
static lora_status read_token(lora__reading *r,
                              lora__key_out *out,
                              size_t index,
                              lora_error *error)
{
    const lora__key_in *key = &r->keys[index];
    lora__token_name name;
    int token =
        lora__token_read(&name, key->name, key->name_bytes)
            ? name.form == LORA__TOKEN_NAMED || key->ndim == 1 || key->ndim == 2
            : r->tokens_alone;

    if (!token && r->metadata != NULL) {
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
        out->target = out->path = out->module;
        out->role = LORA__ROLE_TOKEN;
        out->dialect =
            r->positional ? lora__dialect_at(LORA__DIALECT_CLONEOFSIMO) : NULL;
    }
    return LORA_OK;
}

/* 1 if a tensor of that role belongs to the module, not to a base model. */
static int read_role_holds(const lora__reading *r,
                           const lora__read_module *module,
                           lora__role role)
{
    if (r->base) {
        return 1;
    }
    switch (role) {
    case LORA__ROLE_WEIGHT:
        return (module->roles & READ_WEIGHT_PARTNERS) != 0;
    case LORA__ROLE_SCALE:
        return module->replaces ||
               (module->roles & ~LORA__READ_ACCESSORIES) != 0;
    case LORA__ROLE_BIAS:
        return module->lone_bias ||
               (module->roles & ~LORA__READ_ACCESSORIES) != 0;
    default:
        return 1;
    }
}

/* The component by its name in a pipeline; checkpoints name slots. */
static const char *read_component(const lora__read_module *module)
{
    switch (module->component) {
    case LORA__COMPONENT_OPENCLIP_H:
        return lora__component_name(LORA__COMPONENT_TE);
    case LORA__COMPONENT_OPENCLIP_G:
        return lora__component_name(LORA__COMPONENT_TE2);
    default:
        return lora__component_name(module->component);
    }
}

static lora_status read_answer_key(lora__reading *r,
                                   lora__names *out,
                                   size_t index,
                                   lora_error *error)
{
    const lora__read_key *key = &r->found[index];
    const lora__read_module *module;
    lora__key_out *answer = &out->keys[index];

    answer->module = answer->path = answer->component = "";
    answer->target = "";
    if (key->module == LORA__READ_NONE) {
        return read_token(r, answer, index, error);
    }
    module = &r->modules[key->module];
    if (!module->real || !read_role_holds(r, module, key->role)) {
        return LORA_OK;
    }
    answer->dialect = r->base ? NULL : lora__dialect_at(module->dialect);
    answer->role = module->replaces ? LORA__ROLE_SET_WEIGHT : key->role;
    answer->module = module->stored;
    answer->module_index = key->module;
    answer->component = read_component(module);
    answer->path = module->path == module->name ? module->stored : module->path;
    answer->known = module->known != 0;
    answer->target =
        r->base && !answer->known ? module->stored : module->target;
    answer->original = answer->known && module->place.original;
    answer->broken = module->broken;
    answer->layer =
        lora__place_layer(&module->place, module->known, out->family);
    answer->parts = module->parts;
    answer->part_count = module->part_count;
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

static lora_status
read_run(lora__reading *r, lora__names *out, lora_error *error)
{
    if (!r->base) {
        read_survey_keys(r);
    }
    for (size_t i = 0; i < r->key_count; i++) {
        TRY(r->base ? read_scan_base_key(r, i, error)
                    : read_scan_key(r, i, error));
    }
    TRY(read_resolve_all(r, error));
    TRY(lora__read_settle(r, out, error));
    r->tokens_alone = !r->base && read_has_tokens_alone(r);
    out->module_count = r->module_count;
    for (size_t i = 0; i < r->key_count; i++) {
        TRY(read_answer_key(r, out, i, error));
    }
    read_list_dialects(out);
    return LORA_OK;
}

static lora_status read_names(lora__names *out,
                              lora__arena *arena,
                              const lora__key_in *keys,
                              size_t key_count,
                              lora__metadata_fn metadata,
                              const void *metadata_user,
                              int base,
                              lora_error *error)
{
    lora_context *context = arena->context;
    lora__reading r = {0};
    void *found = NULL;
    void *answers = NULL;
    lora_status status;

    memset(out, 0, sizeof *out);
    r.context = context;
    r.arena = arena;
    r.keys = keys;
    r.key_count = key_count;
    r.metadata = metadata;
    r.metadata_user = metadata_user;
    r.base = base;
    lora__map_init(&r.map, context);
    lora__buffer_init(&r.text, context);

    TRY_OR_DONE(lora__arena_zeroed(&answers, arena, key_count,
                                   sizeof(lora__key_out), error));
    TRY_OR_DONE(lora__alloc_zeroed(&found, context, key_count,
                                   sizeof(lora__read_key), error));
    r.found = found;
    out->keys = answers;
    out->key_count = key_count;
    TRY_OR_DONE(lora__map_reserve(&r.map, key_count / 2, error));
    TRY_OR_DONE(read_run(&r, out, error));

done:
    lora__free(context, r.modules, r.module_capacity * sizeof *r.modules,
               LORA__ALIGN);
    if (found != NULL) {
        lora__free(context, found, key_count * sizeof(lora__read_key),
                   LORA__ALIGN);
    }
    lora__buffer_destroy(&r.text);
    lora__map_destroy(&r.map);
    if (status != LORA_OK) {
        memset(out, 0, sizeof *out);
    }
    return status;
}

LORA_PRIVATE lora_status lora__names_read(lora__names *out,
                                          lora__arena *arena,
                                          const lora__key_in *keys,
                                          size_t key_count,
                                          lora__metadata_fn metadata,
                                          const void *metadata_user,
                                          lora_error *error)
{
    return read_names(out, arena, keys, key_count, metadata, metadata_user, 0,
                      error);
}

LORA_PRIVATE lora_status lora__names_read_base(lora__names *out,
                                               lora__arena *arena,
                                               const lora__key_in *keys,
                                               size_t key_count,
                                               lora__metadata_fn metadata,
                                               const void *metadata_user,
                                               lora_error *error)
{
    return read_names(out, arena, keys, key_count, metadata, metadata_user, 1,
                      error);
}
