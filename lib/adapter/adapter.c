/* Adapters: from a container's tensors to modules. */
#include "adapter/adapter.h"

#include "adapter/card.h"
#include "adapter/config.h"
#include "adapter/embeddings.h"
#include "adapter/kind.h"
#include "adapter/light.h"
#include "core/text.h"
#include "platform/atomic.h"

#include <stdio.h>
#include <string.h>

/* ---- problems ---------------------------------------------------------- */

LORA_PRIVATE void lora__problems_init(lora__problems *problems,
                                      lora__arena *arena)
{
    problems->arena = arena;
    problems->first = NULL;
    problems->end = &problems->first;
    problems->count = 0;
}

static lora_status adapter_add_problem(lora__problems *problems,
                                       lora_severity severity,
                                       lora_status status,
                                       const char *code,
                                       const char *subject,
                                       const char *message,
                                       lora_error *error)
{
    lora__problem_node *node;
    void *memory;

    TRY(lora__arena_zeroed(&memory, problems->arena, 1, sizeof *node, error));
    node = memory;
    node->problem.struct_size = sizeof node->problem;
    node->problem.code = code;
    node->problem.severity = severity;
    node->problem.status = status;
    TRY(lora__arena_string(&node->problem.subject, problems->arena, subject,
                           strlen(subject), error));
    TRY(lora__arena_string(&node->problem.message, problems->arena, message,
                           strlen(message), error));
    *problems->end = node;
    problems->end = &node->next;
    problems->count++;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__problems_add(lora__problems *problems,
                                            lora_severity severity,
                                            lora_status status,
                                            const char *code,
                                            const char *subject,
                                            lora_error *error,
                                            const char *format,
                                            ...)
{
    char message[256];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return adapter_add_problem(problems, severity, status, code, subject,
                               message, error);
}

/* ---- modules ----------------------------------------------------------- */

LORA_PRIVATE int lora__module_matches(const lora__module *module,
                                      const char *pattern)
{
    return lora__text_matches(pattern, module->name) ||
           lora__text_matches(pattern, module->target) ||
           (module->component[0] != '\0' &&
            lora__text_matches(pattern, module->component));
}

LORA_PRIVATE const lora__member *lora__module_find(const lora__module *module,
                                                   lora__role role)
{
    const lora__member *member = module->members;

    if ((module->roles & LORA__ROLE_BIT(role)) == 0) {
        return NULL;
    }
    while (member->role != role) {
        member++;
    }
    return member;
}

LORA_PRIVATE const lora__entry *lora__module_entry(const lora_adapter *adapter,
                                                   const lora__module *module,
                                                   lora__role role)
{
    const lora__member *member = lora__module_find(module, role);

    return member == NULL ? NULL : &adapter->container->entries[member->entry];
}

LORA_PRIVATE lora_status lora__module_reject(lora__opening *opening,
                                             lora__module *module,
                                             lora_status status,
                                             const char *code,
                                             const char *format,
                                             ...)
{
    lora_adapter *adapter = opening->adapter;
    char message[256];
    va_list args;
    lora_status made;

    if (module->status != LORA_OK) {
        return LORA_OK; /* the first reason is the one to mend */
    }
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    module->status = status;
    made = lora__arena_string(&module->reason, &adapter->arena, message,
                              strlen(message), opening->error);
    if (made == LORA_OK) {
        made =
            adapter_add_problem(&adapter->problems, LORA_SEVERITY_ERROR, status,
                                code, module->name, message, opening->error);
    }
    opening->status = opening->status == LORA_OK ? made : opening->status;
    return made;
}

LORA_PRIVATE lora_status lora__module_check(const lora__module *module,
                                            lora_error *error)
{
    return module->status == LORA_OK
               ? LORA_OK
               : lora__fail(error, module->status, LORA_NO_OFFSET, module->name,
                            "%s", module->reason);
}

/* ---- opening ----------------------------------------------------------- */

static const char *adapter_metadata(const void *user, const char *key)
{
    const lora_adapter *adapter = user;

    if (strcmp(key, LORA__NAMES_CARD) == 0) {
        return adapter->card == NULL ? NULL : adapter->card->base_model;
    }
    return lora__container_metadata(adapter->container, key);
}

static lora_status adapter_read_names(lora_adapter *adapter, lora_error *error)
{
    lora__container *container = adapter->container;
    lora__key_in *keys;
    void *memory;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, adapter->context,
                           container->entry_count + 1, sizeof *keys, error));
    keys = memory;
    for (size_t i = 0; i < container->entry_count; i++) {
        keys[i].name = container->entries[i].name;
        keys[i].name_bytes = container->entries[i].name_bytes;
        keys[i].ndim = container->entries[i].ndim;
        keys[i].shape = container->entries[i].shape;
    }
    status = lora__names_read(&adapter->names, &adapter->arena, keys,
                              container->entry_count, adapter_metadata, adapter,
                              error);
    lora__free(adapter->context, keys,
               (container->entry_count + 1) * sizeof *keys, LORA__ALIGN);
    return status;
}

/* A key that belongs to a module: embeddings of tokens stand alone. */
static int adapter_is_member(const lora__key_out *key)
{
    return key->role != LORA__ROLE_UNKNOWN && key->role != LORA__ROLE_TOKEN;
}

/* Number the modules by their first key; entry_module says which. */
static lora_status adapter_number_modules(lora_adapter *adapter,
                                          lora_error *error)
{
    const lora__names *names = &adapter->names;
    size_t *numbers; /* less 1; 0: the module has none yet */
    void *memory;

    TRY(lora__arena_zeroed(&memory, &adapter->arena, names->key_count + 1,
                           sizeof *adapter->entry_module, error));
    adapter->entry_module = memory;
    TRY(lora__alloc_zeroed(&memory, adapter->context, names->module_count + 1,
                           sizeof *numbers, error));
    numbers = memory;
    for (size_t i = 0; i < names->key_count; i++) {
        const lora__key_out *key = &names->keys[i];
        adapter->entry_module[i] = SIZE_MAX;
        if (adapter_is_member(key)) {
            size_t *number = &numbers[key->module_index];
            *number = *number == 0 ? ++adapter->module_count : *number;
            adapter->entry_module[i] = *number - 1;
        }
    }
    lora__free(adapter->context, numbers,
               (names->module_count + 1) * sizeof *numbers, LORA__ALIGN);
    return LORA_OK;
}

static lora_status adapter_group(lora_adapter *adapter, lora_error *error)
{
    size_t count = adapter->container->entry_count;
    lora__member *members;
    void *memory;

    TRY(adapter_number_modules(adapter, error));
    TRY(lora__arena_zeroed(&memory, &adapter->arena, adapter->module_count,
                           sizeof *adapter->modules, error));
    adapter->modules = memory;
    TRY(lora__arena_zeroed(&memory, &adapter->arena, count, sizeof *members,
                           error));
    members = memory;
    for (size_t i = 0; i < count; i++) {
        const lora__key_out *key = &adapter->names.keys[i];
        lora__module *module;
        if (adapter->entry_module[i] == SIZE_MAX) {
            continue;
        }
        module = &adapter->modules[adapter->entry_module[i]];
        if (module->member_count++ == 0) {
            module->name = key->module;
            module->path = key->path;
            module->component = key->component;
            module->target = key->target;
            module->dialect = key->dialect;
            module->layer = key->layer;
            module->known = key->known;
            module->parts = key->parts;
            module->part_count = key->part_count;
            module->broken = key->broken;
            module->scale = 1.0;
        }
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        adapter->modules[m].members = members;
        members += adapter->modules[m].member_count;
        adapter->modules[m].member_count = 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (adapter->entry_module[i] != SIZE_MAX) {
            lora__module *module = &adapter->modules[adapter->entry_module[i]];
            lora__member *member = &module->members[module->member_count++];
            member->role = adapter->names.keys[i].role;
            member->entry = i;
            module->roles |= LORA__ROLE_BIT(member->role);
        }
    }
    return LORA_OK;
}

/* The same role twice means two spellings of one thing: which one would be
 * applied is anybody's guess. Numbered pieces are not, whose kind sees whether
 * all are there. */
static lora_status adapter_check_roles(lora__opening *opening,
                                       lora__module *module)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < module->member_count; i++) {
        lora__role role = module->members[i].role;
        const lora__entry *entry =
            &opening->adapter->container->entries[module->members[i].entry];
        if ((seen & LORA__ROLE_BIT(role)) == 0) {
            seen |= LORA__ROLE_BIT(role);
        } else if (lora__name_piece(entry->name, entry->name_bytes) < 0) {
            return lora__module_reject(
                opening, module, LORA_ERROR_KEY, "duplicate_module",
                "%s is there twice, in two spellings", lora__role_name(role));
        }
    }
    return LORA_OK;
}

/* A dense weight in f64 can be addressed: later products of dimensions need no
 * check of their own. */
static lora_status adapter_check_size(lora__opening *opening,
                                      lora__module *module)
{
    size_t size = sizeof(double);
    size_t dim;

    for (int32_t i = 0; i < module->ndim; i++) {
        if (!lora__u64_to_size((uint64_t)module->shape[i], &dim) ||
            !lora__mul_size(size, dim, &size)) {
            return lora__module_reject(opening, module, LORA_ERROR_SHAPE,
                                       "shape",
                                       "the weight would be too large");
        }
    }
    return LORA_OK;
}

/* A bias that PEFT trained beside its adapter replaces the base's. Elsewhere
 * tensors of that name are something else. */
static lora_status adapter_take_bias(lora__opening *opening,
                                     lora__module *module)
{
    const lora__entry *bias =
        lora__module_entry(opening->adapter, module, LORA__ROLE_BIAS);

    if (bias == NULL || module->status != LORA_OK ||
        !lora__module_replaces_bias(module)) {
        return LORA_OK;
    }
    if (!lora__dtype_is_float(bias->dtype)) {
        return lora__module_reject(opening, module, LORA_ERROR_DTYPE, "dtype",
                                   "its bias is %s, no float",
                                   lora_dtype_name(bias->dtype));
    }
    if (module->transposed || (module->changes & LORA_PART_BIAS) != 0) {
        return lora__module_reject(opening, module, LORA_ERROR_UNSUPPORTED,
                                   "unsupported",
                                   "a trained bias beside %s is not supported",
                                   module->transposed ? "a transposed weight"
                                                      : "another change of it");
    }
    if (bias->ndim != 1 ||
        (module->ndim > 1 && bias->shape[0] != module->shape[0])) {
        return lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                   "its bias has not a number for each row");
    }
    module->changes |= LORA_PART_BIAS;
    module->needs |= LORA_PART_BIAS;
    return LORA_OK;
}

/* A tensor that the kind does not know would be left out silently. */
static lora_status adapter_check_members(lora__opening *opening,
                                         lora__module *module)
{
    uint64_t known = module->kind->roles | LORA__ROLES_COMMON;

    if (lora__module_replaces_bias(module)) {
        known |= LORA__ROLE_BIT(LORA__ROLE_BIAS);
    }

    for (size_t i = 0; i < module->member_count; i++) {
        lora__role role = module->members[i].role;
        if ((known & LORA__ROLE_BIT(role)) == 0) {
            return lora__module_reject(
                opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
                "%s beside the tensors of %s is not supported",
                lora__role_name(role), module->kind->id);
        }
    }
    return LORA_OK;
}

static lora_status adapter_parse_module(lora__opening *opening,
                                        lora__module *module)
{
    int best = 0;

    for (size_t i = 0; i < lora__kind_count(); i++) {
        const lora__kind *kind = lora__kind_at(i);
        int score = kind->claim(opening->adapter, module);
        if (score > best) {
            best = score;
            module->kind = kind;
        }
    }
    TRY(adapter_check_roles(opening, module));
    if (module->kind == NULL) {
        return lora__module_reject(opening, module, LORA_ERROR_KEY,
                                   "incomplete",
                                   "its tensors form no kind of adapter");
    }
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(module->kind->parse(opening, module));
    TRY(adapter_check_members(opening, module));
    TRY(adapter_take_bias(opening, module));
    return adapter_check_size(opening, module);
}

/* Two modules for one weight are both refused, since applying both would do
 * the change twice. */
static lora_status adapter_reject_pair(lora__opening *opening,
                                       lora__module *one,
                                       lora__module *two)
{
    TRY(lora__module_reject(opening, one, LORA_ERROR_KEY, "duplicate_module",
                            "changes the same weight as %s", two->name));
    return lora__module_reject(opening, two, LORA_ERROR_KEY, "duplicate_module",
                               "changes the same weight as %s", one->name);
}

/* Say that module m changes a target. */
static lora_status adapter_claim_target(lora__map *map,
                                        lora__opening *opening,
                                        const char *target,
                                        size_t m)
{
    lora__module *modules = opening->adapter->modules;
    size_t other;

    TRY(lora__map_add(&other, map, target, strlen(target), m, opening->error));
    return other == m
               ? LORA_OK
               : adapter_reject_pair(opening, &modules[other], &modules[m]);
}

/* A target is changed once, whole or as part of a fused weight. Only targets
 * that a family knows can be told to be the same: other names have lost their
 * component. */
static lora_status adapter_check_targets(lora__opening *opening)
{
    lora_adapter *adapter = opening->adapter;
    lora__map map;
    lora_status status = LORA_OK;

    lora__map_init(&map, adapter->context);
    TRY_OR_DONE(lora__map_reserve(&map, adapter->module_count, opening->error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (!module->known) {
            continue;
        }
        TRY_OR_DONE(adapter_claim_target(&map, opening, module->target, m));
        for (size_t i = 0; i < module->part_count; i++) {
            TRY_OR_DONE(adapter_claim_target(&map, opening,
                                             module->parts[i].target, m));
        }
    }
done:
    lora__map_destroy(&map);
    return status;
}

/* Names for look-up: stored ones first, as they are unique. */
static lora_status adapter_index_modules(lora_adapter *adapter,
                                         lora_error *error)
{
    lora__map *map = &adapter->by_name;
    size_t other;

    TRY(lora__map_reserve(map, 2 * adapter->module_count, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        const char *name = adapter->modules[m].name;
        TRY(lora__map_add(&other, map, name, strlen(name), m, error));
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        const char *target = adapter->modules[m].target;
        TRY(lora__map_add(&other, map, target, strlen(target), m, error));
    }
    return LORA_OK;
}

/* Names that were understood, but by few others. */
static lora_status adapter_note_names(lora_adapter *adapter, lora_error *error)
{
    const lora__module *first = NULL;
    size_t broken = 0;

    for (size_t m = 0; m < adapter->module_count; m++) {
        if (adapter->modules[m].broken && broken++ == 0) {
            first = &adapter->modules[m];
        }
    }
    return broken == 0
               ? LORA_OK
               : lora__problems_add(
                     &adapter->problems, LORA_SEVERITY_WARNING, LORA_OK,
                     "broken_names", first->name, error,
                     "%llu of %llu modules have names that most loaders pass "
                     "over: this is read as %s",
                     (unsigned long long)broken,
                     (unsigned long long)adapter->module_count, first->target);
}

/* Say that numbers have fewer bits than their type. */
static lora_status adapter_note_quantised(lora_adapter *adapter,
                                          lora_error *error)
{
    const lora__container *container = adapter->container;
    const lora__entry *first = NULL;
    size_t count = 0;

    for (size_t i = container->entry_count; i-- > 0;) {
        if (container->entries[i].quantised != NULL) {
            first = &container->entries[i];
            count++;
        }
    }
    return first == NULL
               ? LORA_OK
               : lora__problems_add(
                     &adapter->problems, LORA_SEVERITY_NOTE, LORA_OK,
                     "quantised", first->name, error,
                     "%llu of %llu tensors are quantised, this one as %s: read "
                     "as %s, with the precision they have left",
                     (unsigned long long)count,
                     (unsigned long long)container->entry_count,
                     first->quantised, lora_dtype_name(first->dtype));
}

static lora_status adapter_note_problems(lora_adapter *adapter,
                                         lora_error *error)
{
    size_t unknown = 0;
    const char *first = "";

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        if (adapter->names.keys[i].role == LORA__ROLE_UNKNOWN &&
            unknown++ == 0) {
            first = adapter->container->entries[i].name;
        }
    }
    if (adapter->module_count == 0 && adapter->embedding_count == 0) {
        return lora__problems_add(
            &adapter->problems, LORA_SEVERITY_ERROR, LORA_ERROR_KEY,
            "not_an_adapter", "", error, "%s",
            adapter->container->entry_count == 0
                ? "no tensors"
                : "no tensor has the name of an adapter's");
    }
    if (unknown != 0) {
        return lora__problems_add(
            &adapter->problems, LORA_SEVERITY_WARNING, LORA_OK, "unknown_key",
            first, error, "%llu %s of no known module: kept, never applied",
            (unsigned long long)unknown, unknown == 1 ? "tensor" : "tensors");
    }
    return LORA_OK;
}

static lora_status adapter_read_config(lora_adapter *adapter,
                                       const char *config,
                                       size_t config_bytes,
                                       lora_error *error)
{
    const char *text =
        lora__container_metadata(adapter->container, LORA__CONFIG_KEY);
    lora_error found;
    lora_status status;

    if (config != NULL) {
        TRY(lora__arena_string(&adapter->config_text, &adapter->arena, config,
                               config_bytes, error));
        return lora__config_parse(&adapter->config, &adapter->arena, config,
                                  config_bytes, "adapter_config.json", error);
    }
    if (text == NULL) {
        text = lora__container_metadata(adapter->container,
                                        LORA__CONFIG_ALPHA_KEY);
        return text == NULL
                   ? LORA_OK
                   : lora__config_for_all(&adapter->config, &adapter->arena,
                                          text, error);
    }
    /* Metadata is only a hint: what cannot be read is said, not fatal. */
    lora_error_init(&found, sizeof found);
    status = lora__config_parse(&adapter->config, &adapter->arena, text,
                                strlen(text), LORA__CONFIG_KEY, &found);
    if (status == LORA_ERROR_MEMORY) {
        return lora__error_merge(error, &found);
    }
    if (status != LORA_OK) {
        lora__config_destroy(adapter->config);
        adapter->config = NULL;
        return lora__problems_add(&adapter->problems, LORA_SEVERITY_WARNING,
                                  LORA_OK, "metadata_invalid", LORA__CONFIG_KEY,
                                  error,
                                  "cannot be read (%s): alpha is taken as "
                                  "the rank",
                                  found.message);
    }
    return LORA_OK;
}

/* Patterns that would take an engine for regular expressions. */
static lora_status adapter_note_config(lora_adapter *adapter, lora_error *error)
{
    const lora__peft_config *config = adapter->config;

    for (; config != NULL; config = config->next) {
        if (config->alphas.unread != NULL) {
            TRY(lora__problems_add(
                &adapter->problems, LORA_SEVERITY_WARNING, LORA_OK,
                "pattern_unread", config->alphas.unread, error,
                "a regular expression in alpha_pattern is not read: the "
                "scales of what it means are not certain"));
        }
    }
    return LORA_OK;
}

/* Files of one index that do not agree: the first one's word is taken. */
static lora_status adapter_note_metadata(lora_adapter *adapter,
                                         lora_error *error)
{
    const char *key = adapter->container->metadata_conflict;

    return key == NULL
               ? LORA_OK
               : lora__problems_add(&adapter->problems, LORA_SEVERITY_WARNING,
                                    LORA_OK, "metadata_conflict", key, error,
                                    "the files of the index say different "
                                    "things: that of the first is taken");
}

static lora_status adapter_build(lora_adapter *adapter,
                                 const lora__beside *beside,
                                 lora_error *error)
{
    lora__opening opening = {adapter, error, LORA_OK};

    if (beside->card != NULL) {
        TRY(lora__card_parse(&adapter->card, &adapter->arena, beside->card,
                             beside->card_bytes, error));
    }
    TRY(adapter_read_names(adapter, error));
    TRY(adapter_read_config(adapter, beside->config, beside->config_bytes,
                            error));
    TRY(adapter_note_config(adapter, error));
    TRY(adapter_note_metadata(adapter, error));
    TRY(adapter_group(adapter, error));
    TRY(lora__light_open(adapter, error));
    TRY(lora__embeddings_find(adapter, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (adapter->container->ones_lost) {
            lora__module_restore_ones(adapter, &adapter->modules[m]);
        }
        TRY(adapter_parse_module(&opening, &adapter->modules[m]));
        TRY(opening.status);
    }
    TRY(adapter_check_targets(&opening));
    TRY(adapter_index_modules(adapter, error));
    TRY(adapter_note_names(adapter, error));
    TRY(lora__light_note(adapter, error));
    TRY(adapter_note_quantised(adapter, error));
    return adapter_note_problems(adapter, error);
}

static void adapter_free(lora_adapter *adapter)
{
    lora_context *context = adapter->context;

    lora__map_destroy(&adapter->by_name);
    lora__config_destroy(adapter->config);
    lora__light_destroy(adapter->light);
    lora__arena_destroy(&adapter->arena);
    lora__container_release(adapter->container);
    lora__free(context, adapter, sizeof *adapter, LORA__ALIGN);
    lora_context_destroy(context);
}

LORA_PRIVATE lora_status lora__adapter_create(lora_adapter **out,
                                              lora__container *container,
                                              const lora__beside *beside,
                                              lora_error *error)
{
    static const lora__beside nothing = {NULL, 0, NULL, 0};
    lora_adapter *adapter;
    void *memory;
    lora_status status;

    status = lora__alloc_zeroed(&memory, container->context, 1, sizeof *adapter,
                                error);
    if (status != LORA_OK) {
        lora__container_release(container);
        return status;
    }
    adapter = memory;
    adapter->references = 1;
    adapter->context = lora_context_retain(container->context);
    adapter->container = container;
    lora__arena_init(&adapter->arena, adapter->context);
    lora__map_init(&adapter->by_name, adapter->context);
    lora__problems_init(&adapter->problems, &adapter->arena);
    status = adapter_build(adapter, beside == NULL ? &nothing : beside, error);
    if (status != LORA_OK) {
        adapter_free(adapter);
        return status;
    }
    lora__log(adapter->context, LORA_LOG_DEBUG,
              "%s: %llu tensors, %llu modules, %llu problems",
              container->path[0] == '\0' ? container->format : container->path,
              (unsigned long long)container->entry_count,
              (unsigned long long)adapter->module_count,
              (unsigned long long)adapter->problems.count);
    *out = adapter;
    return LORA_OK;
}

LORA_API lora_adapter *lora_adapter_retain(lora_adapter *adapter)
{
    if (adapter != NULL) {
        lora__atomic_add_u32(&adapter->references, 1);
    }
    return adapter;
}

LORA_API void lora_adapter_destroy(lora_adapter *adapter)
{
    if (adapter != NULL &&
        lora__atomic_add_u32(&adapter->references, UINT32_MAX) == 0) {
        adapter_free(adapter);
    }
}

LORA_PRIVATE lora_status lora__adapter_metadata(const lora__metadata **out,
                                                size_t *out_count,
                                                const lora_adapter *adapter,
                                                lora__arena *arena,
                                                lora_error *error)
{
    const lora__container *container = adapter->container;
    size_t count = 0;
    lora__metadata *list;
    void *memory;

    *out = container->metadata;
    *out_count = container->metadata_count;
    if (adapter->config_text == NULL) {
        return LORA_OK;
    }
    TRY(lora__arena_zeroed(&memory, arena, container->metadata_count + 1,
                           sizeof *list, error));
    list = memory;
    for (size_t i = 0; i < container->metadata_count; i++) {
        if (strcmp(container->metadata[i].key, LORA__CONFIG_KEY) != 0) {
            list[count++] = container->metadata[i];
        }
    }
    list[count].key = LORA__CONFIG_KEY;
    list[count++].value = adapter->config_text;
    *out = list;
    *out_count = count;
    return LORA_OK;
}
