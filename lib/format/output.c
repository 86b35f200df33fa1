/* Writing a file under a temporary name. */
#include "format/output.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Another program would have to take this many names at the same moment. */
#define OUTPUT_ATTEMPTS 16

#define OUTPUT_NAME "lora-XXXXXXXX.tmp"
#define OUTPUT_PARTIAL ".partial"

struct lora__output {
    lora_context *context;
    lora__file file;
    int overwrite;
    int flushed;
    int partial; /* 1: it stays where it is not finished */
    char *path;
    char *temporary; /* "" until the file is there */
    size_t path_room;
    size_t temporary_room;
};

static void output_free(lora__output *o)
{
    lora__free(o->context, o->path, o->path_room, LORA__ALIGN);
    lora__free(o->context, o->temporary, o->temporary_room, LORA__ALIGN);
    lora__free(o->context, o, sizeof *o, LORA__ALIGN);
}

static lora_status
output_allocate(lora__output *o, const char *path, lora_error *error)
{
    o->path_room = strlen(path) + 1;
    o->temporary_room =
        o->partial ? strlen(path) + sizeof OUTPUT_PARTIAL
                   : lora__path_folder_bytes(path) + sizeof OUTPUT_NAME;
    o->path = lora__alloc(o->context, o->path_room, LORA__ALIGN);
    o->temporary = lora__alloc(o->context, o->temporary_room, LORA__ALIGN);
    if (o->temporary != NULL) {
        o->temporary[0] = '\0';
    }
    if (o->path == NULL || o->temporary == NULL) {
        return lora__fail_memory(error, o->path_room + o->temporary_room);
    }
    memcpy(o->path, path, o->path_room);
    return LORA_OK;
}

static lora_status output_check_target(const lora__output *o, lora_error *error)
{
    lora__path_type type = LORA__PATH_FILE;

    if (o->path[lora__path_folder_bytes(o->path)] == '\0') {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, o->path,
                          "not the name of a file");
    }
    if (!o->overwrite) {
        return lora__path_exists(o->path)
                   ? lora__fail_os(error, lora__os_exists(), o->path,
                                   "not overwritten")
                   : LORA_OK;
    }
    if (lora__path_type_of(&type, o->path) == 0 && type != LORA__PATH_FILE) {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, o->path,
                          type == LORA__PATH_FOLDER
                              ? "a folder: give a file name"
                              : "a pipe or device: it is not replaced");
    }
    return LORA_OK;
}

static lora_status output_create(lora__output *o, lora_error *error)
{
    size_t folder = lora__path_folder_bytes(o->path);
    char *name = o->temporary + folder;
    int32_t os_error = lora__os_exists();

    memcpy(o->temporary, o->path, folder);
    for (int i = 0; i < OUTPUT_ATTEMPTS && os_error == lora__os_exists(); i++) {
        snprintf(name, sizeof OUTPUT_NAME, "lora-%08" PRIx32 ".tmp",
                 lora__process_id());
        os_error = lora__file_create(&o->file, o->temporary);
    }
    if (os_error != 0) {
        o->temporary[0] = '\0';
        return lora__fail_os(error, os_error, o->path,
                             "cannot create a file in its folder");
    }
    return LORA_OK;
}

/* An output without a file. */
static lora_status output_new(lora__output **out,
                              lora_context *context,
                              const char *path,
                              int overwrite,
                              int partial,
                              lora_error *error)
{
    void *memory;
    lora__output *o;
    lora_status status;

    *out = NULL;
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *o, error));
    o = memory;
    o->context = context;
    o->file.handle = -1;
    o->overwrite = overwrite;
    o->partial = partial;
    TRY_OR_DONE(output_allocate(o, path, error));
    status = output_check_target(o, error);
done:
    if (status != LORA_OK) {
        lora__output_abort(o);
        return status;
    }
    *out = o;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__output_open(lora__output **out,
                                           lora_context *context,
                                           const char *path,
                                           int overwrite,
                                           lora_error *error)
{
    lora_status status;

    TRY(output_new(out, context, path, overwrite, 0, error));
    status = output_create(*out, error);
    if (status != LORA_OK) {
        lora__output_abort(*out);
        *out = NULL;
    }
    return status;
}

LORA_PRIVATE lora_status lora__output_open_partial(lora__output **out,
                                                   lora_context *context,
                                                   const char *path,
                                                   int overwrite,
                                                   uint64_t bytes,
                                                   lora_error *error)
{
    uint64_t there = 0;
    int32_t os_error;
    lora__output *o;

    TRY(output_new(out, context, path, overwrite, 1, error));
    o = *out;
    memcpy(o->temporary, path, o->path_room - 1);
    memcpy(o->temporary + o->path_room - 1, OUTPUT_PARTIAL,
           sizeof OUTPUT_PARTIAL);
    if (bytes == 0) {
        lora__path_remove(o->temporary);
        os_error = lora__file_create(&o->file, o->temporary);
        if (os_error != 0) {
            lora__output_abort(o);
            *out = NULL;
            return lora__fail_os(error, os_error, path,
                                 "cannot create a file in its folder");
        }
        return LORA_OK;
    }
    if (lora__path_exists(o->temporary)) {
        os_error = lora__file_open_update(&o->file, &there, o->temporary);
        if (os_error != 0) {
            lora__output_abort(o);
            *out = NULL;
            return lora__fail_os(error, os_error, path,
                                 "cannot open what there is of it");
        }
    }
    if (o->file.handle == -1 || there != bytes) {
        lora__output_abort(o);
        *out = NULL;
    }
    return LORA_OK;
}

LORA_PRIVATE const char *lora__output_path(const lora__output *output)
{
    return output->path;
}

LORA_PRIVATE lora_status lora__output_write_at(lora__output *output,
                                               uint64_t offset,
                                               const void *data,
                                               size_t bytes,
                                               lora_error *error)
{
    int32_t os_error = lora__file_write_at(output->file, offset, data, bytes);

    return os_error == 0
               ? LORA_OK
               : lora__fail_os(error, os_error, output->path, "cannot write");
}

LORA_PRIVATE lora_status lora__output_sync(const lora__output *output,
                                           lora_error *error)
{
    int32_t os_error = lora__file_flush(output->file);

    return os_error == 0 ? LORA_OK
                         : lora__fail_os(error, os_error, output->path,
                                         "cannot complete");
}

LORA_PRIVATE lora_status lora__output_flush(lora__output *output,
                                            lora_error *error)
{
    lora_status status =
        output->flushed ? LORA_OK : lora__output_sync(output, error);

    output->flushed = status == LORA_OK;
    return status;
}

LORA_PRIVATE lora_status lora__output_finish(lora__output *output,
                                             lora_error *error)
{
    lora_status status = lora__output_flush(output, error);
    int32_t os_error = 0;

    if (status == LORA_OK) {
        os_error = lora__file_close(&output->file);
    }
    if (status == LORA_OK && os_error == 0) {
        os_error = lora__path_rename(output->temporary, output->path,
                                     output->overwrite);
    }
    if (os_error != 0) {
        status =
            lora__fail_os(error, os_error, output->path, "cannot complete");
    }
    if (status != LORA_OK) {
        lora__output_abort(output);
        return status;
    }
    output_free(output);
    return LORA_OK;
}

LORA_PRIVATE void lora__output_abort(lora__output *output)
{
    if (output == NULL) {
        return;
    }
    lora__file_close(&output->file);
    if (!output->partial && output->temporary != NULL &&
        output->temporary[0] != '\0') {
        lora__path_remove(output->temporary);
    }
    output_free(output);
}
