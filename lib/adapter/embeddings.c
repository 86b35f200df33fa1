/* Finding the learned tokens of a file. A tensor that cannot be one token's
 * vectors is listed with the reason, and a problem.
 */
#include "adapter/embeddings.h"

#include "kernel/kernel.h"

#include <string.h>

/* The file's name less its folder and its last suffix: what programs call a
 * textual inversion that does not say it. */
static lora_status
embeddings_file_name(const char **out, lora_adapter *adapter, lora_error *error)
{
    const char *name = adapter->container->path;
    const char *dot;

    for (const char *at = name; *at != '\0'; at++) {
        name = *at == '/' || *at == '\\' ? at + 1 : name;
    }
    dot = strrchr(name, '.');
    return lora__arena_string(out, &adapter->arena, name,
                              dot == NULL || dot == name ? strlen(name)
                                                         : (size_t)(dot - name),
                              error);
}

/* What messages are about. */
static const char *embeddings_subject(const lora_adapter *adapter,
                                      const lora__embedding *embedding)
{
    return embedding->token[0] != '\0'
               ? embedding->token
               : adapter->container->entries[embedding->entry].name;
}

static void embeddings_refuse(lora__embedding *embedding,
                              lora_status status,
                              const char *reason)
{
    if (embedding->status == LORA_OK) {
        embedding->status = status;
        embedding->reason = reason;
    }
}

static void embeddings_measure(lora__embedding *embedding,
                               const lora__entry *entry)
{
    if (entry->ndim < 1 || entry->ndim > 2) {
        embeddings_refuse(embedding, LORA_ERROR_SHAPE,
                          "neither a vector nor a list of vectors");
        return;
    }
    embedding->vectors = entry->ndim == 1 ? 1 : entry->shape[0];
    embedding->width = entry->shape[entry->ndim - 1];
    if (entry->elements == 0) {
        embeddings_refuse(embedding, LORA_ERROR_SHAPE, "it has no values");
    }
    if (!lora__dtype_is_float(entry->dtype)) {
        embeddings_refuse(embedding, LORA_ERROR_DTYPE,
                          "its type is none of vectors");
    }
}

/* Judge it beside those that came before. `seen` has tokens, and tokens with
 * their encoders behind a zero byte. */
static lora_status embeddings_compare(lora_adapter *adapter,
                                      lora__map *seen,
                                      size_t index,
                                      lora_error *error)
{
    lora__embedding *embedding = &adapter->embeddings[index];
    const lora__embedding *first;
    size_t token_bytes = strlen(embedding->token);
    size_t bytes = token_bytes + 1 + strlen(embedding->encoder);
    size_t place;
    char *key = lora__arena_alloc(&adapter->arena, bytes + 1);

    if (key == NULL) {
        return lora__fail_memory(error, bytes + 1);
    }
    memcpy(key, embedding->token, token_bytes + 1);
    memcpy(key + token_bytes + 1, embedding->encoder, bytes - token_bytes);
    TRY(lora__map_add(&place, seen, key, bytes, index, error));
    if (place != index) {
        embeddings_refuse(embedding, LORA_ERROR_DUPLICATE,
                          "the file has this token twice");
    }
    TRY(lora__map_add(&place, seen, key, token_bytes, index, error));
    first = &adapter->embeddings[place];
    if (embedding->vectors != first->vectors) {
        embeddings_refuse(embedding, LORA_ERROR_SHAPE,
                          "not as many vectors as for its other encoder");
    }
    return LORA_OK;
}

static lora_status embeddings_add(lora_adapter *adapter,
                                  lora__map *seen,
                                  size_t entry,
                                  const char *file_name,
                                  lora_error *error)
{
    const lora__entry *tensor = &adapter->container->entries[entry];
    size_t index = adapter->embedding_count++;
    lora__embedding *embedding = &adapter->embeddings[index];
    lora__token_name name;

    embedding->entry = entry;
    if (!lora__token_read(&name, tensor->name, tensor->name_bytes)) {
        name.token_bytes = tensor->name_bytes; /* others said that it is one */
    }
    embedding->form = name.form;
    embedding->token = file_name;
    if (name.form == LORA__TOKEN_NAMED || name.form == LORA__TOKEN_BUNDLE) {
        TRY(lora__arena_string(&embedding->token, &adapter->arena, name.token,
                               name.token_bytes, error));
    }
    embeddings_measure(embedding, tensor);
    embedding->encoder = lora__token_encoder(embedding->width);
    if (name.encoder != NULL &&
        (!name.is_counted || embedding->encoder[0] == '\0')) {
        embedding->encoder = name.encoder;
    }
    if (lora__token_is_other(embedding->encoder, embedding->width)) {
        embeddings_refuse(embedding, LORA_ERROR_SHAPE,
                          "the width is that of another text encoder");
    }
    TRY(embeddings_compare(adapter, seen, index, error));
    return embedding->status == LORA_OK
               ? LORA_OK
               : lora__problems_add(
                     &adapter->problems, LORA_SEVERITY_ERROR, embedding->status,
                     "embedding_bad", embeddings_subject(adapter, embedding),
                     error, "%s: %s", tensor->name, embedding->reason);
}

LORA_PRIVATE lora_status lora__embeddings_find(lora_adapter *adapter,
                                               lora_error *error)
{
    const lora__key_out *keys = adapter->names.keys;
    const char *file_name;
    lora__map seen;
    size_t count = 0;
    lora_status status;
    void *memory;

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        count += keys[i].role == LORA__ROLE_TOKEN;
    }
    if (count == 0) {
        return LORA_OK;
    }
    TRY(lora__arena_zeroed(&memory, &adapter->arena, count,
                           sizeof *adapter->embeddings, error));
    adapter->embeddings = memory;
    TRY(embeddings_file_name(&file_name, adapter, error));
    lora__map_init(&seen, adapter->context);
    status = LORA_OK;
    for (size_t i = 0; status == LORA_OK && i < adapter->container->entry_count;
         i++) {
        if (keys[i].role == LORA__ROLE_TOKEN) {
            status = embeddings_add(adapter, &seen, i, file_name, error);
        }
    }
    lora__map_destroy(&seen);
    return status;
}

LORA_PRIVATE lora_status lora__embedding_check(const lora_adapter *adapter,
                                               const lora__embedding *embedding,
                                               lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[embedding->entry];

    return embedding->status == LORA_OK
               ? LORA_OK
               : lora__fail(error, embedding->status, entry->offset,
                            embeddings_subject(adapter, embedding), "%s",
                            embedding->reason);
}
