/* The writer on a file, and writing through any writer. */
#include "format/container.h"

#include "format/output.h"

#include <string.h>

/* Thousands of small tensors become few system calls. */
#define WRITER_BUFFER ((size_t)128 << 10)

typedef struct writer_file {
    lora_context *context;
    lora__output *output;
    lora_error failure; /* the last one */
    uint64_t written;
    size_t buffered;
    unsigned char *buffer; /* WRITER_BUFFER bytes */
} writer_file;

static lora_status
writer_file_put(writer_file *w, const void *data, size_t bytes)
{
    lora_status status;

    lora_error_init(&w->failure, sizeof w->failure);
    status =
        lora__output_write_at(w->output, w->written, data, bytes, &w->failure);
    w->written += bytes;
    return status;
}

static lora_status writer_file_flush(writer_file *w)
{
    size_t bytes = w->buffered;

    w->buffered = 0;
    return writer_file_put(w, w->buffer, bytes);
}

static lora_status writer_file_write(void *user, const void *data, size_t bytes)
{
    writer_file *w = user;

    if (bytes > WRITER_BUFFER - w->buffered) {
        TRY(writer_file_flush(w));
    }
    if (bytes >= WRITER_BUFFER) {
        return writer_file_put(w, data, bytes);
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
    lora__free(w->context, w, sizeof *w, LORA__ALIGN);
}

static lora_status writer_file_finish(void *user)
{
    writer_file *w = user;
    lora__output *output = w->output;

    TRY(writer_file_flush(w));
    lora_error_init(&w->failure, sizeof w->failure);
    w->output = NULL;
    TRY(lora__output_finish(output, &w->failure));
    writer_file_free(w);
    return LORA_OK;
}

static void writer_file_abort(void *user)
{
    writer_file *w = user;

    lora__output_abort(w->output);
    writer_file_free(w);
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
    w->buffer = lora__alloc(context, WRITER_BUFFER, LORA__ALIGN);
    if (w->buffer == NULL) {
        status = lora__fail_memory(error, WRITER_BUFFER);
        goto done;
    }
    TRY_OR_DONE(lora__output_open(&w->output, context, path, overwrite, error));
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

/* Our own files know what failed, which the writer's table has no place for.
 */
static lora_status writer_fail(const lora_writer *writer,
                               lora_status status,
                               const char *what,
                               lora_error *error)
{
    if (writer->write == writer_file_write) {
        const writer_file *w = writer->user;
        return lora__error_merge(error, &w->failure);
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
