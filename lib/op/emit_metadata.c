/* Metadata of a result, as other programs read it; algorithms.md 9. */
#include "adapter/config.h"
#include "adapter/strength.h"
#include "core/text.h"
#include "op/emit_alpha.h"
#include "op/hash.h"

#include <math.h>
#include <string.h>

/* From here on a guess of the base is taken as certain. */
#define METADATA_CERTAIN 0.9

static lora_status metadata_set(lora_builder *builder,
                                const char *key,
                                const char *value,
                                lora_error *error)
{
    return lora_builder_set_metadata(builder, key, value, error);
}

/* 1 if alphas have to be written: one is not the rank, the source had such an
 * entry, or names come from a dialect with tensors for alpha, where it has to
 * be known on the way back which module had one. */
static int metadata_needs_config(const lora__emit *emit)
{
    int needed =
        lora__builder_metadata(emit->builder, LORA__CONFIG_KEY) != NULL ||
        lora__builder_metadata(emit->builder, LORA__CONFIG_ALPHA_KEY) != NULL ||
        (emit->dialect != NULL && emit->source->names.dialect_count > 0 &&
         lora__dialect_has_role(emit->source->names.dialects[0],
                                LORA__ROLE_ALPHA));

    for (size_t i = 0; i < emit->alpha_count && !needed; i++) {
        needed = emit->alphas[i].alpha != (double)emit->alphas[i].rank;
    }
    return needed;
}

/* Keys that were added, for the way back. */
typedef struct metadata_added {
    const char *keys[LORA__COUNT(((lora__alpha_record *)0)->added) + 1];
    size_t count;
} metadata_added;

/* Set a key that is not there yet, and remember it. */
static lora_status metadata_add(lora__emit *emit,
                                metadata_added *added,
                                const char *key,
                                const char *value,
                                lora_error *error)
{
    if (value == NULL || lora__builder_metadata(emit->builder, key) != NULL ||
        added->count + 1 == LORA__COUNT(added->keys)) {
        return LORA_OK;
    }
    added->keys[added->count++] = key;
    return lora_builder_set_metadata(emit->builder, key, value, error);
}

/* Say what the base is, where that is certain and not said yet. */
static lora_status
metadata_put_base(lora__emit *emit, metadata_added *added, lora_error *error)
{
    const lora__family *family = emit->source->names.family;
    const char *version;

    if (family == NULL || emit->source->names.confidence < METADATA_CERTAIN) {
        return LORA_OK;
    }
    version = lora__family_ss_version(family);
    if (version != NULL &&
        lora__builder_metadata(emit->builder, "ss_base_model_version") ==
            NULL) {
        TRY(metadata_add(emit, added, "ss_base_model_version", version, error));
        TRY(metadata_add(emit, added, "ss_v2",
                         strncmp(version, "sd_v2", 5) == 0 ? "True" : "False",
                         error));
    }
    return metadata_add(emit, added, "modelspec.architecture",
                        lora__family_architecture(family), error);
}

static lora_status metadata_put_config(lora__emit *emit, lora_error *error)
{
    metadata_added added = {{NULL}, 0};
    lora__buffer text;
    lora_status status = LORA_OK;

    lora__buffer_init(&text, emit->source->context);
    if (emit->has_record) {
        added.count = emit->record.added_count;
        memcpy(added.keys, emit->record.added, sizeof emit->record.added);
    }
    /* Loaders of diffusers' files want to be told that tensors are torch's. */
    TRY_OR_DONE(metadata_add(emit, &added, "format", "pt", error));
    TRY_OR_DONE(metadata_put_base(emit, &added, error));
    TRY_OR_DONE(
        lora__alpha_put_config(&text, emit->alphas, emit->alpha_count, error));
    TRY_OR_DONE(
        metadata_set(emit->builder, LORA__CONFIG_KEY, text.data, error));
    TRY_OR_DONE(
        metadata_set(emit->builder, LORA__CONFIG_ALPHA_KEY, NULL, error));
    lora__buffer_clear(&text);
    lora__alpha_put_record(&text, emit->alphas, emit->alpha_count, added.keys);
    TRY_OR_DONE(lora__buffer_status(&text, error));
    status = metadata_set(emit->builder, LORA__ALPHA_KEY, text.data, error);
done:
    lora__buffer_destroy(&text);
    return status;
}

/* Alphas are tensors now: the entries that held them are stale, and diffusers
 * refuses a file that has both. */
static lora_status metadata_drop_config(lora__emit *emit, lora_error *error)
{
    for (size_t i = 0; emit->has_record && i < emit->record.added_count; i++) {
        TRY(metadata_set(emit->builder, emit->record.added[i], NULL, error));
    }
    TRY(metadata_set(emit->builder, LORA__ALPHA_KEY, NULL, error));
    TRY(metadata_set(emit->builder, LORA__CONFIG_ALPHA_KEY, NULL, error));
    return metadata_set(emit->builder, LORA__CONFIG_KEY, NULL, error);
}

LORA_PRIVATE lora_status lora__emit_metadata(lora__emit *emit,
                                             lora_error *error)
{
    int to_tensors = emit->dialect != NULL &&
                     lora__dialect_has_role(emit->dialect, LORA__ROLE_ALPHA);
    metadata_added added = {{NULL}, 0};

    if (emit->alpha_count > 0 && metadata_needs_config(emit)) {
        return metadata_put_config(emit, error);
    }
    if (to_tensors) {
        TRY(metadata_drop_config(emit, error));
    }
    /* Where only names change, nothing is added to what the user had; not
     * even where a file gets back the names it had once. */
    return emit->changed || (to_tensors && !emit->has_record)
               ? metadata_put_base(emit, &added, error)
               : LORA_OK;
}

/* ---- kohya's summaries ------------------------------------------------- */

LORA_PRIVATE int lora__emit_rank_is_stale(const lora_adapter *source,
                                          const unsigned char *left_out)
{
    const char *text =
        lora__container_metadata(source->container, "ss_network_dim");
    size_t used = 0;
    size_t ranked = 0;
    double rank;

    if (text == NULL) {
        return 0;
    }
    rank = lora__text_to_double(text, strlen(text), &used);
    if (used == 0 || text[used] != '\0') {
        return 0; /* "Dynamic", "None" */
    }
    for (size_t m = 0; m < source->module_count; m++) {
        if (left_out == NULL || !left_out[m]) {
            ranked += source->modules[m].rank > 0;
            if ((double)source->modules[m].rank == rank) {
                return 0;
            }
        }
    }
    return ranked > 0;
}

/* The number, where all had the same. */
static void metadata_put_shared(char *out, double value, int same)
{
    memcpy(out, "Dynamic", 8);
    if (same) {
        out[lora__text_from_double(out, value)] = '\0';
    }
}

LORA_PRIVATE lora_status lora__emit_summary(char out_rank[LORA__SUMMARY_TEXT],
                                            lora_builder *builder,
                                            const lora_adapter *source,
                                            const unsigned char *left_out,
                                            const lora_strength *strength,
                                            lora_error *error)
{
    static const char *const keys[] = {"ss_network_dim", "ss_network_alpha"};
    int stale[2] = {lora__emit_rank_is_stale(source, left_out), 0};
    double shared[2] = {0.0, 0.0};
    int same[2] = {1, 1};
    char text[LORA__SUMMARY_TEXT];

    for (size_t m = 0; m < source->module_count; m++) {
        const lora__module *module = &source->modules[m];
        double rank = (double)module->rank;
        double values[2] = {rank, fabs(module->scale * rank *
                                       lora__strength_of(strength, module))};
        for (size_t i = 0; rank > 0.0 && i < 2; i++) {
            if (left_out == NULL || !left_out[m]) {
                same[i] &= shared[i] == 0.0 || shared[i] == values[i];
                shared[i] = values[i];
            }
        }
    }
    stale[1] = stale[0] || strength != NULL;
    for (size_t i = 0; i < 2; i++) {
        metadata_put_shared(text, shared[i], same[i]);
        if (i == 0 && out_rank != NULL) {
            memcpy(out_rank, text, sizeof text);
        }
        if (stale[i] && lora__builder_metadata(builder, keys[i]) != NULL) {
            TRY(lora_builder_set_metadata(builder, keys[i], text, error));
        }
    }
    return LORA_OK;
}

/* ---- hashes ------------------------------------------------------------ */

static const char *const metadata_hashes[] = {
    "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"};

LORA_PRIVATE int lora__metadata_is_hash(const char *key)
{
    int found = 0;

    for (size_t i = 0; i < LORA__COUNT(metadata_hashes); i++) {
        found |= strcmp(key, metadata_hashes[i]) == 0;
    }
    return found;
}

static int metadata_has_hashes(const lora__container *container)
{
    int found = 0;

    for (size_t i = 0; i < LORA__COUNT(metadata_hashes); i++) {
        found |=
            lora__container_metadata(container, metadata_hashes[i]) != NULL;
    }
    return found;
}

/* Replace the stale hashes of an adapter by its own, the first of them in the
 * order that it had; *adapter is replaced. */
static lora_status metadata_refresh_hashes(lora_adapter **adapter,
                                           lora__hash_order order,
                                           lora_error *error)
{
    const lora__container *container = (*adapter)->container;
    lora_builder *builder;
    lora_adapter *fresh = NULL;
    char model[LORA__HASH_TEXT];
    char body[2 + LORA__HASH_TEXT] = "0x";
    char window[LORA__HASH_SHORT];
    const char *const values[] = {model, window, body};
    lora_status status;

    TRY(lora__hash_tensors(body + 2, container, LORA__HASH_WRITER, 0, error));
    memcpy(model, body + 2, sizeof model);
    if (order != LORA__HASH_WRITER) {
        TRY(lora__hash_tensors(model, container, order, 0, error));
    }
    TRY(lora__hash_legacy(window, container, error));
    TRY(lora_builder_create(&builder, (*adapter)->context, *adapter, error));
    for (size_t i = 0; i < LORA__COUNT(values); i++) {
        if (lora__builder_metadata(builder, metadata_hashes[i]) != NULL) {
            TRY_OR_DONE(
                metadata_set(builder, metadata_hashes[i], values[i], error));
        }
    }
    status = lora_builder_finish(&fresh, builder, error);
done:
    lora_builder_destroy(builder);
    if (status == LORA_OK) {
        lora_adapter_destroy(*adapter);
        *adapter = fresh;
    }
    return status;
}

/* 1 if the tensors have other names than those of the source. */
static int metadata_is_renamed(const lora_adapter *adapter,
                               const lora_adapter *source)
{
    const lora__container *container = adapter->container;
    int same = container->entry_count == source->container->entry_count;
    size_t at;

    for (size_t i = 0; same && i < container->entry_count; i++) {
        same = lora__map_find(&at, &source->container->by_name,
                              container->entries[i].name,
                              container->entries[i].name_bytes);
    }
    return !same;
}

/* The order in which the first hash is to be made anew, where it was right and
 * only names changed; FILE: it is not. */
static lora_status metadata_hash_order(lora__hash_order *out,
                                       const lora_adapter *adapter,
                                       const lora_adapter *source,
                                       lora_error *error)
{
    const char *stored =
        lora__container_metadata(adapter->container, metadata_hashes[0]);

    *out = LORA__HASH_FILE;
    return stored == NULL || !metadata_is_renamed(adapter, source)
               ? LORA_OK
               : lora__hash_find_order(out, stored, source->container, error);
}

LORA_PRIVATE lora_status lora__emit_hashes(lora_adapter **adapter,
                                           const lora_adapter *source,
                                           int changed,
                                           lora_error *error)
{
    lora__hash_order order = LORA__HASH_WRITER;

    if (!metadata_has_hashes((*adapter)->container)) {
        return LORA_OK;
    }
    if (!changed) {
        TRY(metadata_hash_order(&order, *adapter, source, error));
    }
    return order == LORA__HASH_FILE
               ? LORA_OK
               : metadata_refresh_hashes(adapter, order, error);
}

LORA_PRIVATE lora_status lora__emit_measure(uint64_t *out_bytes,
                                            lora__emit *emit,
                                            lora_error *error)
{
    static const size_t lengths[] = {LORA__HASH_TEXT - 1, LORA__HASH_SHORT - 1,
                                     LORA__HASH_TEXT + 1};
    lora_adapter *adapter;
    size_t bytes;
    lora_status status;

    for (size_t i = 0; i < LORA__COUNT(metadata_hashes); i++) {
        char text[LORA__HASH_TEXT + 2] = {0};
        memset(text, '0', lengths[i]); /* a hash is as long whatever it is */
        if (lora__builder_metadata(emit->builder, metadata_hashes[i]) != NULL) {
            TRY(metadata_set(emit->builder, metadata_hashes[i], text, error));
        }
    }
    TRY(lora_builder_finish(&adapter, emit->builder, error));
    status = lora_adapter_save_memory(NULL, 0, &bytes, adapter, error);
    lora_adapter_destroy(adapter);
    *out_bytes = bytes;
    return status;
}

LORA_PRIVATE lora_status lora__emit_finish(lora_adapter **out,
                                           lora__emit *emit,
                                           lora_error *error)
{
    lora_adapter *adapter;
    lora_status status;

    TRY(lora_builder_finish(&adapter, emit->builder, error));
    status = lora__emit_hashes(&adapter, emit->source, emit->changed, error);
    if (status != LORA_OK) {
        lora_adapter_destroy(adapter);
        return status;
    }
    *out = adapter;
    return LORA_OK;
}
