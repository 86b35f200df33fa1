/* Opening adapters: files, memory, readers. */
#include "adapter/config.h"
#include "core/options.h"
#include "core/text.h"
#include "platform/file.h"

#include <string.h>

LORA_API void lora_adapter_open_options_init(lora_adapter_open_options *options,
                                             size_t size)
{
    lora__options_init(options, size);
}

/* PEFT's configuration is small; what is larger is something else. */
#define OPEN_MAX_CONFIG (16u << 20)

/* PEFT keeps alpha in a file beside the tensors; files that we wrote carry it
 * with them. */
static int open_wants_config(const lora__container *container)
{
    return lora__container_metadata(container, LORA__CONFIG_KEY) == NULL &&
           container->entry_count > 0 &&
           lora__text_begins(container->entries[0].name,
                             container->entries[0].name_bytes,
                             "base_model.model.");
}

static lora_status open_read_all(char **out,
                                 size_t *out_bytes,
                                 const lora_reader *reader,
                                 lora_context *context,
                                 const char *path,
                                 lora_error *error)
{
    uint64_t bytes;
    lora_status status;

    TRY(reader->size(reader->user, &bytes));
    if (bytes > OPEN_MAX_CONFIG) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, path,
                          "too large for a configuration");
    }
    *out_bytes = (size_t)bytes;
    *out = lora__alloc(context, *out_bytes, LORA__ALIGN);
    if (*out == NULL) {
        return lora__fail_memory(error, bytes);
    }
    status = lora__reader_read(reader, 0, *out, *out_bytes, path, error);
    if (status != LORA_OK) {
        lora__free(context, *out, *out_bytes, LORA__ALIGN);
        *out = NULL;
    }
    return status;
}

/* Read adapter_config.json beside `path`; *out stays NULL if there is none. */
static lora_status open_sibling_config(char **out,
                                       size_t *out_bytes,
                                       lora_context *context,
                                       const char *path,
                                       lora_error *error)
{
    static const char name[] = "adapter_config.json";
    lora__buffer sibling;
    lora_reader reader;
    lora_status status;

    lora__buffer_init(&sibling, context);
    lora__buffer_append(&sibling, path, lora__path_folder_bytes(path));
    lora__buffer_puts(&sibling, name);
    TRY_OR_DONE(lora__buffer_status(&sibling, error));
    if (lora__path_exists(sibling.data)) {
        TRY_OR_DONE(
            lora__reader_open_file(&reader, context, sibling.data, 0, error));
        status = open_read_all(out, out_bytes, &reader, context, sibling.data,
                               error);
        reader.destroy(reader.user);
    } /* else alpha is the rank */
done:
    lora__buffer_destroy(&sibling);
    return status;
}

/* From a reader, which is owned, to an adapter. */
static lora_status open_reader(lora_adapter **out,
                               lora_context *context,
                               const lora_reader *reader,
                               const char *path,
                               const lora_adapter_open_options *options,
                               lora_error *error)
{
    lora__container *container;
    const char *config = options->config;
    size_t config_bytes = options->config_bytes;
    char *sibling = NULL;
    lora_status status;

    TRY(lora__container_open(&container, context, reader, path, error));
    if (config == NULL && path[0] != '\0' && open_wants_config(container)) {
        status =
            open_sibling_config(&sibling, &config_bytes, context, path, error);
        config = sibling;
        if (status != LORA_OK) {
            lora__container_release(container);
            return status;
        }
    }
    status = lora__adapter_create(out, container, config, config_bytes, error);
    lora__free(context, sibling, config_bytes, LORA__ALIGN);
    if (status != LORA_OK) {
        lora__error_set_subject(error, path);
    }
    return status;
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
    lora_reader reader;

    TRY(open_begin(out, context, &o, options, error));
    CHECK_ARG(path != NULL, error);
    TRY(lora__reader_open_file(&reader, context, path,
                               (o.flags & LORA_OPEN_MAP) != 0, error));
    return open_reader(out, context, &reader, path, &o, error);
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
    return open_reader(out, context, &reader, "", &o, error);
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
    return open_reader(out, context, &ours, "", &o, error);
}
