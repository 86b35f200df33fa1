/* Embeddings of learned tokens: read, taken out, put in.
 *
 * Their numbers are never changed but for their type, so all results refer to
 * the tensors they came from.
 */
#include "adapter/embeddings.h"

#include "core/options.h"
#include "op/emit.h"
#include "op/values.h"

#include <lora/embed.h>

#include <string.h>

/* cloneofsimo's mark of a token in the metadata. */
#define EMBED_MARK "<embed>"

/* A guess of the base that is less certain refuses nothing. */
#define EMBED_SURE 0.9

LORA_API void
lora_adapter_embed_options_init(lora_adapter_embed_options *options,
                                size_t size)
{
    lora__options_init(options, size);
}

/* Looking ------------------------------------------------------------------ */

LORA_API size_t lora_adapter_embedding_count(const lora_adapter *adapter)
{
    return adapter == NULL ? 0 : adapter->embedding_count;
}

static lora_status
embed_check_index(const lora_adapter *adapter, size_t index, lora_error *error)
{
    return index < adapter->embedding_count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                            "embedding %llu of %llu", (unsigned long long)index,
                            (unsigned long long)adapter->embedding_count);
}

LORA_API lora_status lora_adapter_get_embedding(lora_embedding_info *out,
                                                const lora_adapter *adapter,
                                                size_t index,
                                                lora_error *error)
{
    const lora__embedding *embedding;
    lora_embedding_info info;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(embed_check_index(adapter, index, error));
    embedding = &adapter->embeddings[index];
    memset(&info, 0, sizeof info);
    info.token = embedding->token;
    info.encoder = embedding->encoder;
    info.form = lora__token_form_id(embedding->form);
    info.tensor_index = embedding->entry;
    info.vectors = embedding->vectors;
    info.width = embedding->width;
    info.dtype = adapter->container->entries[embedding->entry].dtype;
    info.status = embedding->status;
    return lora__out_write(out, &info, sizeof info, error);
}

LORA_API lora_status lora_adapter_find_embedding(size_t *out_index,
                                                 const lora_adapter *adapter,
                                                 const char *token,
                                                 const char *encoder,
                                                 lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out_index != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(token != NULL, error);
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        if (strcmp(adapter->embeddings[i].token, token) == 0 &&
            (encoder == NULL ||
             strcmp(adapter->embeddings[i].encoder, encoder) == 0)) {
            *out_index = i;
            return LORA_OK;
        }
    }
    return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, token,
                      "no such token");
}

/* Usable, values included. */
static lora_status embed_admit(const lora_adapter *adapter,
                               const lora__embedding *embedding,
                               lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[embedding->entry];
    lora__values values;

    TRY(lora__embedding_check(adapter, embedding, error));
    TRY(lora__values_look(&values, adapter, embedding->entry, error));
    return values.bad == 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_NONFINITE, entry->offset,
                            embedding->token,
                            "%llu of its %llu values are NaN or infinite",
                            (unsigned long long)values.bad,
                            (unsigned long long)entry->elements);
}

LORA_API lora_status lora_adapter_read_embedding(void *buffer,
                                                 size_t bytes,
                                                 const lora_adapter *adapter,
                                                 size_t index,
                                                 lora_dtype dtype,
                                                 lora_error *error)
{
    const lora__embedding *embedding;

    lora__error_begin(error);
    CHECK_ARG(buffer != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(embed_check_index(adapter, index, error));
    embedding = &adapter->embeddings[index];
    TRY(embed_admit(adapter, embedding, error));
    return lora_adapter_read_tensor(buffer, bytes, adapter, embedding->entry,
                                    dtype, error);
}

/* Choosing ----------------------------------------------------------------- */

typedef struct embed_job {
    lora__emit emit; /* its source: where the next tensors come from */
    lora__arena arena;
    lora_adapter_embed_options options;
    lora__token_form form; /* FORM_COUNT: by default */
    const lora__family *family;
} embed_job;

/* Which embeddings of a file are meant, and how many each one's token has. */
typedef struct embed_choice {
    unsigned char *chosen; /* one an embedding */
    size_t *encoders;
    size_t token_count;
    int is_single; /* no token has several encoders */
} embed_choice;

static lora_status embed_count(embed_choice *choice,
                               const lora_adapter *adapter,
                               lora_error *error)
{
    lora__map map;
    lora_status status = LORA_OK;
    size_t first;

    lora__map_init(&map, adapter->context);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < adapter->embedding_count; i++) {
            const char *token = adapter->embeddings[i].token;
            if (!choice->chosen[i]) {
                continue;
            }
            TRY_OR_DONE(
                lora__map_add(&first, &map, token, strlen(token), i, error));
            if (pass == 0) {
                choice->token_count += first == i;
                choice->encoders[first]++;
            } else {
                choice->encoders[i] = choice->encoders[first];
                choice->is_single &= choice->encoders[i] == 1;
            }
        }
    }
done:
    lora__map_destroy(&map);
    return status;
}

/* All, or those of so many tokens. */
static lora_status embed_choose(embed_choice *out,
                                embed_job *job,
                                const lora_adapter *adapter,
                                const char *const *tokens,
                                size_t token_count,
                                lora_error *error)
{
    size_t count = adapter->embedding_count;
    void *memory;

    memset(out, 0, sizeof *out);
    out->is_single = 1;
    if (count == 0 && token_count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path,
                          "there is no embedding in it");
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, count, 1, error));
    out->chosen = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, count, sizeof *out->encoders,
                           error));
    out->encoders = memory;
    for (size_t t = 0; t < token_count; t++) {
        size_t found = 0;
        CHECK_ARG(tokens[t] != NULL, error);
        for (size_t i = 0; i < count; i++) {
            if (strcmp(adapter->embeddings[i].token, tokens[t]) == 0) {
                out->chosen[i] = 1;
                found++;
            }
        }
        if (found == 0) {
            return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, tokens[t],
                              "no such token");
        }
    }
    if (token_count == 0) {
        memset(out->chosen, 1, count);
    }
    return embed_count(out, adapter, error);
}

/* Writing ------------------------------------------------------------------ */

/* Whether the token can be a name in that form, and be read back from it. */
static lora_status
embed_check_token(const char *token, lora__token_form form, lora_error *error)
{
    lora__token_name name;

    if (form != LORA__TOKEN_NAMED && form != LORA__TOKEN_BUNDLE) {
        return LORA_OK;
    }
    if (token[0] == '\0') {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "",
                          "nothing says what the token is called: name it");
    }
    if (form == LORA__TOKEN_BUNDLE && strchr(token, '.') != NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, token,
                          "programs cut a token of a bundle at its first dot: "
                          "give it another name");
    }
    if (form == LORA__TOKEN_NAMED &&
        lora__token_read(&name, token, strlen(token)) &&
        name.form != LORA__TOKEN_NAMED) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, token,
                          "the name means something else in files: give it "
                          "another one");
    }
    return LORA_OK;
}

/* In a bundle, what follows the token: programs for one text encoder have a
 * name of A1111's for it. NULL stands for that. */
static const char *embed_bundle_encoder(const embed_job *job,
                                        const lora__embedding *embedding,
                                        size_t encoders)
{
    int clip = strcmp(embedding->encoder, "clip_l") == 0 ||
               strcmp(embedding->encoder, "clip_h") == 0;
    int alone =
        job->family == NULL || lora__token_encoder_count(job->family) == 1;

    return encoders == 1 && (embedding->encoder[0] == '\0' || (clip && alone))
               ? NULL
               : embedding->encoder;
}

/* One embedding of the emit's source, under the name of a form. `encoders` is
 * how many its token has. */
static lora_status embed_put(embed_job *job,
                             const lora__embedding *embedding,
                             lora__token_form form,
                             size_t encoders,
                             lora_error *error)
{
    const char *token =
        job->options.token != NULL ? job->options.token : embedding->token;
    const char *encoder = embedding->encoder;
    int64_t shape[LORA_MAX_DIMS] = {embedding->vectors, embedding->width};
    int32_t ndim = 2;
    lora__buffer *name = &job->emit.name;

    TRY(embed_admit(job->emit.source, embedding, error));
    TRY(embed_check_token(token, form, error));
    if (encoders > 1 &&
        (form == LORA__TOKEN_NAMED || form == LORA__TOKEN_EMB_PARAMS)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, token,
                          "it has vectors for several text encoders, and the "
                          "form a place for one");
    }
    if (form == LORA__TOKEN_BUNDLE) {
        encoder = embed_bundle_encoder(job, embedding, encoders);
    }
    if (encoder != NULL && encoder[0] == '\0' &&
        (form == LORA__TOKEN_ENCODER || form == LORA__TOKEN_BUNDLE)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, token,
                          "no text encoder of width %llu is known",
                          (unsigned long long)embedding->width);
    }
    if (form == LORA__TOKEN_NAMED && embedding->vectors == 1) {
        shape[0] = embedding->width;
        ndim = 1;
    }
    lora__buffer_clear(name);
    lora__token_put(name, form, token, encoder);
    TRY(lora__buffer_status(name, error));
    TRY(lora__emit_entry(&job->emit, name->data, embedding->entry, 1.0,
                         job->options.dtype, ndim, shape, error));
    return form != LORA__TOKEN_NAMED
               ? LORA_OK
               : lora_builder_set_metadata(job->emit.builder, token, EMBED_MARK,
                                           error);
}

/* Take one out of the builder, its mark with it. */
static lora_status embed_take_out(embed_job *job,
                                  const lora_adapter *adapter,
                                  const lora__embedding *embedding,
                                  lora_error *error)
{
    const char *name = adapter->container->entries[embedding->entry].name;
    const char *mark = lora__builder_metadata(job->emit.builder, name);

    if (mark != NULL && strcmp(mark, EMBED_MARK) == 0) {
        TRY(lora_builder_set_metadata(job->emit.builder, name, NULL, error));
    }
    return lora_builder_remove_tensor(job->emit.builder, name, error);
}

static lora_status embed_begin(embed_job *job,
                               const lora_adapter *adapter,
                               const lora_adapter_embed_options *options,
                               lora_error *error)
{
    lora_adapter_embed_options *o = &job->options;

    memset(job, 0, sizeof *job);
    TRY(lora__options_read(o, sizeof *o,
                           LORA__SIZE_TO(lora_adapter_embed_options, replace),
                           options, error));
    job->form = LORA__TOKEN_FORM_COUNT;
    if (o->form != NULL) {
        job->form = lora__token_form_find(o->form);
        if (job->form == LORA__TOKEN_FORM_COUNT ||
            job->form == LORA__TOKEN_A1111) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              o->form, "no form that is written");
        }
    }
    job->family =
        adapter->names.confidence >= EMBED_SURE ? adapter->names.family : NULL;
    if (o->family != NULL) {
        job->family = lora__family_find(o->family);
        if (job->family == NULL) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              o->family, "no such family");
        }
    }
    if (o->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(o->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for vectors",
                          lora_dtype_name(o->dtype));
    }
    lora__arena_init(&job->arena, adapter->context);
    lora__buffer_init(&job->emit.name, adapter->context);
    job->emit.source = adapter;
    return LORA_OK;
}

static void embed_end(embed_job *job)
{
    lora_builder_destroy(job->emit.builder);
    lora__buffer_destroy(&job->emit.name);
    lora__arena_destroy(&job->arena);
}

/* The adapter that was in the builder, its hashes those of its tensors. */
static lora_status embed_finish(lora_adapter **out,
                                embed_job *job,
                                const lora_adapter *adapter,
                                lora_error *error)
{
    job->emit.source = adapter;
    job->emit.changed = 1;
    return lora__emit_finish(out, &job->emit, error);
}

/* Taking out --------------------------------------------------------------- */

static lora_status embed_extract(lora_adapter **out,
                                 embed_job *job,
                                 const lora_adapter *adapter,
                                 const char *const *tokens,
                                 size_t token_count,
                                 lora_error *error)
{
    embed_choice choice;
    lora__token_form form = job->form;

    TRY(embed_choose(&choice, job, adapter, tokens, token_count, error));
    if (form == LORA__TOKEN_FORM_COUNT) {
        form = choice.is_single          ? LORA__TOKEN_NAMED
               : choice.token_count == 1 ? LORA__TOKEN_ENCODER
                                         : LORA__TOKEN_BUNDLE;
    }
    if (choice.token_count > 1 &&
        (job->options.token != NULL || form == LORA__TOKEN_ENCODER ||
         form == LORA__TOKEN_EMB_PARAMS)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          job->options.token != NULL ? job->options.token : "",
                          "one name for %llu tokens: take them out one by one",
                          (unsigned long long)choice.token_count);
    }
    TRY(lora_builder_create(&job->emit.builder, adapter->context, NULL, error));
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        if (choice.chosen[i]) {
            TRY(embed_put(job, &adapter->embeddings[i], form,
                          choice.encoders[i], error));
        }
    }
    return embed_finish(out, job, adapter, error);
}

LORA_API lora_status
lora_adapter_extract_embeddings(lora_adapter **out,
                                const lora_adapter *adapter,
                                const char *const *tokens,
                                size_t token_count,
                                const lora_adapter_embed_options *options,
                                lora_error *error)
{
    embed_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(tokens != NULL || token_count == 0, error);
    TRY(embed_begin(&job, adapter, options, error));
    status = embed_extract(out, &job, adapter, tokens, token_count, error);
    embed_end(&job);
    return status;
}

static lora_status embed_remove(lora_adapter **out,
                                embed_job *job,
                                const lora_adapter *adapter,
                                const char *const *tokens,
                                size_t token_count,
                                lora_error *error)
{
    embed_choice choice;

    TRY(embed_choose(&choice, job, adapter, tokens, token_count, error));
    TRY(lora_builder_create(&job->emit.builder, adapter->context, adapter,
                            error));
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        if (choice.chosen[i]) {
            TRY(embed_take_out(job, adapter, &adapter->embeddings[i], error));
        }
    }
    return embed_finish(out, job, adapter, error);
}

LORA_API lora_status lora_adapter_remove_embeddings(lora_adapter **out,
                                                    const lora_adapter *adapter,
                                                    const char *const *tokens,
                                                    size_t token_count,
                                                    lora_error *error)
{
    embed_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(tokens != NULL || token_count == 0, error);
    TRY(embed_begin(&job, adapter, NULL, error));
    status = embed_remove(out, &job, adapter, tokens, token_count, error);
    embed_end(&job);
    return status;
}

/* Putting in --------------------------------------------------------------- */

/* What programs read in a file of that adapter's names. */
static lora__token_form embed_insert_form(const lora_adapter *adapter)
{
    int named = adapter->module_count == 0;

    if (adapter->names.dialect_count > 0 &&
        adapter->names.dialects[0] == lora__dialect_find("cloneofsimo")) {
        return LORA__TOKEN_NAMED;
    }
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        named &= adapter->embeddings[i].form == LORA__TOKEN_NAMED;
    }
    return named ? LORA__TOKEN_NAMED : LORA__TOKEN_BUNDLE;
}

/* Whether the base can have use for the vectors: embeddings that are there
 * already know it better than a guess of the base. */
static lora_status embed_check_fit(const embed_job *job,
                                   const lora_adapter *adapter,
                                   const lora__embedding *embedding,
                                   lora_error *error)
{
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        if (adapter->embeddings[i].width == embedding->width) {
            return LORA_OK;
        }
    }
    return lora__token_fits(job->family, embedding->width)
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                            embedding->token,
                            "its width is %llu, which no text encoder of %s "
                            "has",
                            (unsigned long long)embedding->width,
                            lora__family_id(job->family));
}

/* Make room for the tokens of a source, which `seen` has from now on. */
static lora_status embed_claim(lora__map *seen,
                               const lora_adapter *source,
                               size_t index,
                               const char *rename,
                               lora_error *error)
{
    for (size_t i = 0; i < source->embedding_count; i++) {
        const char *token =
            rename != NULL ? rename : source->embeddings[i].token;
        size_t place;
        TRY(lora__map_add(&place, seen, token, strlen(token), index, error));
        if (place != index) {
            return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET,
                              token, "two of the files have this token");
        }
    }
    return LORA_OK;
}

/* Tokens of the adapter that are in `seen` are replaced, or refused. */
static lora_status embed_displace(embed_job *job,
                                  const lora__map *seen,
                                  const lora_adapter *adapter,
                                  lora_error *error)
{
    for (size_t i = 0; i < adapter->embedding_count; i++) {
        const char *token = adapter->embeddings[i].token;
        size_t place;
        if (!lora__map_find(&place, seen, token, strlen(token))) {
            continue;
        }
        if (!job->options.replace) {
            return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET,
                              token,
                              "the adapter has this token already: replace it, "
                              "or give it another name");
        }
        TRY(embed_take_out(job, adapter, &adapter->embeddings[i], error));
    }
    return LORA_OK;
}

static lora_status embed_insert_source(embed_job *job,
                                       const lora_adapter *adapter,
                                       const lora_adapter *source,
                                       lora_error *error)
{
    lora__token_form form = job->form != LORA__TOKEN_FORM_COUNT
                                ? job->form
                                : embed_insert_form(adapter);
    embed_choice choice;

    TRY(embed_choose(&choice, job, source, NULL, 0, error));
    if (job->options.token != NULL && choice.token_count > 1) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          job->options.token, "one name for %llu tokens",
                          (unsigned long long)choice.token_count);
    }
    job->emit.source = source;
    for (size_t i = 0; i < source->embedding_count; i++) {
        const lora__embedding *embedding = &source->embeddings[i];

        TRY(lora__embedding_check(source, embedding, error));
        TRY(embed_check_fit(job, adapter, embedding, error));
        if (form == LORA__TOKEN_NAMED && adapter->module_count > 0 &&
            embedding->vectors != 1) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              embedding->token,
                              "it has %llu vectors, and the program that reads "
                              "this adapter takes one",
                              (unsigned long long)embedding->vectors);
        }
        TRY(embed_put(job, embedding, form, choice.encoders[i], error));
    }
    return LORA_OK;
}

static lora_status embed_insert(lora_adapter **out,
                                embed_job *job,
                                const lora_adapter *adapter,
                                const lora_adapter *const *sources,
                                size_t source_count,
                                lora_error *error)
{
    const char *rename = job->options.token;
    lora__map seen;
    lora_status status = LORA_OK;

    lora__map_init(&seen, adapter->context);
    TRY_OR_DONE(lora_builder_create(&job->emit.builder, adapter->context,
                                    adapter, error));
    for (size_t i = 0; i < source_count; i++) {
        TRY_OR_DONE(embed_claim(&seen, sources[i], i, rename, error));
    }
    TRY_OR_DONE(embed_displace(job, &seen, adapter, error));
    for (size_t i = 0; i < source_count; i++) {
        TRY_OR_DONE(embed_insert_source(job, adapter, sources[i], error));
    }
    status = embed_finish(out, job, adapter, error);
done:
    lora__map_destroy(&seen);
    return status;
}

LORA_API lora_status
lora_adapter_insert_embeddings(lora_adapter **out,
                               const lora_adapter *adapter,
                               const lora_adapter *const *sources,
                               size_t source_count,
                               const lora_adapter_embed_options *options,
                               lora_error *error)
{
    embed_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(sources != NULL || source_count == 0, error);
    for (size_t i = 0; i < source_count; i++) {
        CHECK_ARG(sources[i] != NULL, error);
    }
    TRY(embed_begin(&job, adapter, options, error));
    if (job.form != LORA__TOKEN_FORM_COUNT && job.form != LORA__TOKEN_NAMED &&
        job.form != LORA__TOKEN_BUNDLE) {
        embed_end(&job);
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                          job.options.form,
                          "has no place for tokens beside modules");
    }
    status = embed_insert(out, &job, adapter, sources, source_count, error);
    embed_end(&job);
    return status;
}
