/* The writer on a file, and writing through any writer.
 *
 * A file is complete or absent: bytes go to a temporary file in the folder of
 * the target, since only within one file system a rename replaces in one
 * step, and on success it is flushed to the disk before it gets its name.
 */
#include "format/container.h"

#include "platform/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Thousands of small tensors become few system calls. */
#define WRITER_BUFFER ((size_t)128 << 10)

/* Another program would have to take this many names at the same moment. */
#define WRITER_ATTEMPTS 16

#define WRITER_NAME "lora-XXXXXXXX.tmp"

typedef struct writer_file {
    lora_context *context;
    lora__file file;
    int overwrite;
    int32_t os_error; /* of the last failure */
    size_t buffered;
    unsigned char *buffer; /* WRITER_BUFFER bytes */
    char *path;
    char *temporary; /* "" until the file is there */
    size_t path_room;
    size_t temporary_room;
} writer_file;

static lora_status writer_file_flush(writer_file *w)
{
    w->os_error = lora__file_write(w->file, w->buffer, w->buffered);
    w->buffered = 0;
    return w->os_error == 0 ? LORA_OK : LORA_ERROR_IO;
}

static lora_status writer_file_write(void *user, const void *data, size_t bytes)
{
    writer_file *w = user;

    if (bytes > WRITER_BUFFER - w->buffered) {
        TRY(writer_file_flush(w));
    }
    if (bytes >= WRITER_BUFFER) {
        w->os_error = lora__file_write(w->file, data, bytes);
        return w->os_error == 0 ? LORA_OK : LORA_ERROR_IO;
    }
    if (bytes > 0) {
        memcpy(w->buffer + w->buffered, data, bytes);
        w->buffered += bytes;
    }
    return LORA_OK;
}

static void writer_file_free(writer_file *w)
{
    lora__free(w->context, w->buffer, WRITER_BUFFER, LORA__ALIGN);
    lora__free(w->context, w->path, w->path_room, LORA__ALIGN);
    lora__free(w->context, w->temporary, w->temporary_room, LORA__ALIGN);
    lora__free(w->context, w, sizeof *w, LORA__ALIGN);
}

static lora_status writer_file_finish(void *user)
{
    writer_file *w = user;

    TRY(writer_file_flush(w));
    w->os_error = lora__file_flush(w->file);
    if (w->os_error == 0) {
        w->os_error = lora__file_close(&w->file);
    }
    if (w->os_error == 0) {
        w->os_error = lora__path_rename(w->temporary, w->path, w->overwrite);
    }
    if (w->os_error != 0) {
        return LORA_ERROR_IO;
    }
    writer_file_free(w);
    return LORA_OK;
}

static void writer_file_abort(void *user)
{
    writer_file *w = user;

    lora__file_close(&w->file);
    if (w->temporary != NULL && w->temporary[0] != '\0') {
        lora__path_remove(w->temporary);
    }
    writer_file_free(w);
}

static lora_status
writer_file_allocate(writer_file *w, const char *path, lora_error *error)
{
    size_t folder = lora__path_folder_bytes(path);

    w->path_room = strlen(path) + 1;
    w->temporary_room = folder + sizeof WRITER_NAME;
    w->buffer = lora__alloc(w->context, WRITER_BUFFER, LORA__ALIGN);
    w->path = lora__alloc(w->context, w->path_room, LORA__ALIGN);
    w->temporary = lora__alloc(w->context, w->temporary_room, LORA__ALIGN);
    if (w->temporary != NULL) {
        w->temporary[0] = '\0';
    }
    if (w->buffer == NULL || w->path == NULL || w->temporary == NULL) {
        return lora__fail_memory(error, WRITER_BUFFER);
    }
    memcpy(w->path, path, w->path_room);
    return LORA_OK;
}

static lora_status writer_file_check_target(const writer_file *w,
                                            lora_error *error)
{
    lora__path_type type = LORA__PATH_FILE;

    if (w->path[lora__path_folder_bytes(w->path)] == '\0') {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, w->path,
                          "not the name of a file");
    }
    if (!w->overwrite) {
        return lora__path_exists(w->path)
                   ? lora__fail_os(error, lora__os_exists(), w->path,
                                   "not overwritten")
                   : LORA_OK;
    }
    if (lora__path_type_of(&type, w->path) == 0 && type != LORA__PATH_FILE) {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, w->path,
                          type == LORA__PATH_FOLDER
                              ? "a folder: give a file name"
                              : "a pipe or device: it is not replaced");
    }
    return LORA_OK;
}

static lora_status writer_file_create(writer_file *w, lora_error *error)
{
    size_t folder = lora__path_folder_bytes(w->path);
    char *name = w->temporary + folder;
    int32_t os_error = lora__os_exists();

    memcpy(w->temporary, w->path, folder);
    for (int i = 0; i < WRITER_ATTEMPTS && os_error == lora__os_exists(); i++) {
        snprintf(name, sizeof WRITER_NAME, "lora-%08" PRIx32 ".tmp",
                 lora__process_id());
        os_error = lora__file_create(&w->file, w->temporary);
    }
    if (os_error != 0) {
        w->temporary[0] = '\0';
        return lora__fail_os(error, os_error, w->path,
                             "cannot create a file in its folder");
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__writer_open_file(lora_writer *out,
                                                lora_context *context,
                                                const char *path,
                                                int overwrite,
                                                lora_error *error)
{
    void *memory;
    writer_file *w;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *w, error));
    w = memory;
    w->context = context;
    w->file.handle = -1;
    w->overwrite = overwrite;
    TRY_OR_DONE(writer_file_allocate(w, path, error));
    TRY_OR_DONE(writer_file_check_target(w, error));
    TRY_OR_DONE(writer_file_create(w, error));
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    out->user = w;
    out->write = writer_file_write;
    out->finish = writer_file_finish;
    out->abort = writer_file_abort;
    w = NULL;
done:
    if (w != NULL) {
        writer_file_abort(w);
    }
    return status;
}

/* Our own files know the system's reason, which the writer's table has no
 * place for. */
static lora_status writer_fail(const lora_writer *writer,
                               lora_status status,
                               const char *what,
                               lora_error *error)
{
    if (writer->write == writer_file_write) {
        const writer_file *w = writer->user;
        return lora__fail_os(error, w->os_error, w->path, what);
    }
    return lora__fail(error, status < 0 ? status : LORA_ERROR_IO,
                      LORA_NO_OFFSET, NULL, "%s: the writer failed", what);
}

LORA_PRIVATE lora_status lora__writer_write(const lora_writer *writer,
                                            const void *data,
                                            size_t bytes,
                                            lora_error *error)
{
    lora_status status = writer->write(writer->user, data, bytes);

    return status == LORA_OK
               ? LORA_OK
               : writer_fail(writer, status, "cannot write", error);
}

LORA_PRIVATE lora_status lora__writer_finish(const lora_writer *writer,
                                             lora_error *error)
{
    lora_status status = writer->finish(writer->user);

    if (status != LORA_OK) {
        status = writer_fail(writer, status, "cannot complete", error);
        lora__writer_abort(writer);
    }
    return status;
}

LORA_PRIVATE void lora__writer_abort(const lora_writer *writer)
{
    if (writer->abort != NULL) {
        writer->abort(writer->user);
    }
}
