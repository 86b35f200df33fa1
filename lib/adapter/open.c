/* Opening adapters: files, folders, memory, readers. */
#include "adapter/card.h"
#include "adapter/config.h"
#include "adapter/locate.h"
#include "core/options.h"
#include "core/text.h"
#include "format/folder.h"
#include "format/shards.h"

#include <string.h>

LORA_API void lora_adapter_open_options_init(lora_adapter_open_options *options,
                                             size_t size)
{
    lora__options_init(options, size);
}

/* PEFT's configuration is small; what is larger is something else. */
#define OPEN_MAX_CONFIG (16u << 20)

/* PEFT keeps alpha in a file beside the tensors, and reads it whatever the
 * tensors' file says. Under another name a file that we wrote, which has alpha
 * in its metadata, may lie beside the configuration of something else. */
static int open_wants_config(const lora__container *container, int is_peft)
{
    return is_peft ||
           (lora__container_metadata(container, LORA__CONFIG_KEY) == NULL &&
            container->entry_count > 0 &&
            lora__text_begins(container->entries[0].name,
                              container->entries[0].name_bytes,
                              "base_model.model."));
}

/* A card that cannot be read says nothing. */
static lora_status open_read_card(lora__beside *beside,
                                  lora__arena *arena,
                                  const char *path,
                                  lora_error *error)
{
    lora_error found;
    lora_status status;
    char *text;

    lora_error_init(&found, sizeof found);
    status = lora__folder_load(&text, &beside->card_bytes, arena, path,
                               LORA__CARD_MAX_BYTES, 1, &found);
    if (status == LORA_OK) {
        beside->card = text;
    }
    return status == LORA_ERROR_MEMORY ? lora__error_merge(error, &found)
                                       : LORA_OK;
}

/* What lies beside the container's file, as far as options do not say it. */
static lora_status open_read_beside(lora__beside *beside,
                                    lora__arena *arena,
                                    const lora__location *location,
                                    const lora__container *container,
                                    lora_error *error)
{
    if (beside->config == NULL && location->config != NULL &&
        open_wants_config(container, location->is_peft)) {
        char *text;
        TRY(lora__folder_load(&text, &beside->config_bytes, arena,
                              location->config, OPEN_MAX_CONFIG, 0, error));
        beside->config = text;
    } /* without one alpha is the rank */
    return location->card == NULL
               ? LORA_OK
               : open_read_card(beside, arena, location->card, error);
}

static lora_status open_path(lora_adapter **out,
                             lora_context *context,
                             lora__arena *arena,
                             const char *path,
                             const lora_adapter_open_options *options,
                             lora_error *error)
{
    lora__beside beside = {options->config, options->config_bytes, NULL, 0};
    lora__container *container;
    lora__location location;
    lora_status status;

    TRY(lora__locate(&location, arena, path, error));
    TRY(lora__container_open_path(&container, context, location.model,
                                  (options->flags & LORA_OPEN_MAP) != 0,
                                  error));
    status = open_read_beside(&beside, arena, &location, container, error);
    if (status != LORA_OK) {
        lora__container_release(container);
        return status;
    }
    status = lora__adapter_create(out, container, &beside, error);
    lora__error_set_subject(error, location.model);
    return status;
}

/* From a reader, which is owned, to an adapter. */
static lora_status open_reader(lora_adapter **out,
                               lora_context *context,
                               const lora_reader *reader,
                               const lora_adapter_open_options *options,
                               lora_error *error)
{
    lora__beside beside = {options->config, options->config_bytes, NULL, 0};
    lora__container *container;

    TRY(lora__container_open(&container, context, reader, "", error));
    return lora__adapter_create(out, container, &beside, error);
}

static lora_status open_begin(lora_adapter **out,
                              lora_context *context,
                              lora_adapter_open_options *options,
                              const lora_adapter_open_options *theirs,
                              lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    TRY(lora__options_read(options, sizeof *options,
                           LORA__SIZE_TO(lora_adapter_open_options, reserved1),
                           theirs, error));
    TRY(lora__options_reserved(options->reserved1, error));
    if ((options->flags & ~(uint32_t)LORA_OPEN_MAP) != 0) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
                          "a flag this version does not have");
    }
    return LORA_OK;
}

LORA_API lora_status lora_adapter_open(lora_adapter **out,
                                       lora_context *context,
                                       const char *path,
                                       const lora_adapter_open_options *options,
                                       lora_error *error)
{
    lora_adapter_open_options o;
    lora__arena arena;
    lora_status status;

    TRY(open_begin(out, context, &o, options, error));
    CHECK_ARG(path != NULL, error);
    lora__arena_init(&arena, context);
    status = open_path(out, context, &arena, path, &o, error);
    lora__arena_destroy(&arena);
    return status;
}

LORA_API lora_status
lora_adapter_open_memory(lora_adapter **out,
                         lora_context *context,
                         const void *data,
                         size_t bytes,
                         const lora_adapter_open_options *options,
                         lora_error *error)
{
    lora_adapter_open_options o;
    lora_reader reader;

    TRY(open_begin(out, context, &o, options, error));
    CHECK_ARG(data != NULL || bytes == 0, error);
    TRY(lora__reader_open_memory(&reader, context, data, bytes, error));
    return open_reader(out, context, &reader, &o, error);
}

LORA_API lora_status
lora_adapter_open_reader(lora_adapter **out,
                         lora_context *context,
                         const lora_reader *reader,
                         const lora_adapter_open_options *options,
                         lora_error *error)
{
    lora_adapter_open_options o;
    lora_reader ours;
    lora_status status;

    lora__error_begin(error);
    if (out != NULL) {
        *out = NULL; /* before the reader may be refused */
    }
    CHECK_ARG(reader != NULL, error);
    TRY(lora__options_read(&ours, sizeof ours,
                           LORA__SIZE_TO(lora_reader, destroy), reader, error));
    if (ours.size == NULL || ours.read_at == NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
                          "the reader lacks size or read_at");
    }
    status = open_begin(out, context, &o, options, error);
    if (status != LORA_OK) {
        if (ours.destroy != NULL) {
            ours.destroy(ours.user);
        }
        return status;
    }
    return open_reader(out, context, &ours, &o, error);
}
