/* Readers on files and memory, and reading through any reader. */
#include "format/container.h"

#include <string.h>

typedef struct reader_file {
    lora_context *context;
    lora__file file;
    uint64_t bytes;
    const void *map; /* or NULL */
} reader_file;

static lora_status reader_file_size(void *user, uint64_t *out_bytes)
{
    const reader_file *r = user;

    *out_bytes = r->bytes;
    return LORA_OK;
}

static lora_status reader_file_read_at(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    const reader_file *r = user;

    return lora__file_read_at(r->file, offset, buffer, bytes, out_got) == 0
               ? LORA_OK
               : LORA_ERROR_IO;
}

static lora_status reader_file_map(void *user,
                                   uint64_t offset,
                                   uint64_t bytes,
                                   const void **out_data)
{
    const reader_file *r = user;

    if (r->map == NULL || offset > r->bytes || bytes > r->bytes - offset) {
        return LORA_ERROR_RANGE;
    }
    *out_data = (const unsigned char *)r->map + offset;
    return LORA_OK;
}

static void reader_file_destroy(void *user)
{
    reader_file *r = user;

    if (r->map != NULL) {
        lora__file_unmap(r->map, r->bytes);
    }
    lora__file_close(&r->file);
    lora__free(r->context, r, sizeof *r, LORA__ALIGN);
}

static lora_status
reader_file_open(reader_file *r, const char *path, int map, lora_error *error)
{
    lora__path_type type = LORA__PATH_OTHER;
    int32_t os_error = lora__file_open(&r->file, &type, &r->bytes, path);

    if (os_error != 0) {
        return lora__fail_os(error, os_error, path, "cannot open");
    }
    if (type != LORA__PATH_FILE) {
        return lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, path,
                          type == LORA__PATH_FOLDER
                              ? "a folder, not a file"
                              : "a pipe or device, not a file");
    }
    /* Without a map views are missing, no more. */
    if (map && r->bytes > 0 &&
        lora__file_map(&r->map, r->file, r->bytes) != 0) {
        r->map = NULL;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__reader_take_file(lora_reader *out,
                                                lora_context *context,
                                                lora__file file,
                                                uint64_t bytes,
                                                lora_error *error)
{
    void *memory;
    reader_file *r;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *r, error));
    r = memory;
    r->context = context;
    r->file = file;
    r->bytes = bytes;
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    out->user = r;
    out->size = reader_file_size;
    out->read_at = reader_file_read_at;
    out->map = reader_file_map;
    out->destroy = reader_file_destroy;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__reader_open_file(lora_reader *out,
                                                lora_context *context,
                                                const char *path,
                                                int map,
                                                lora_error *error)
{
    static const lora__file closed = {-1};
    lora_status status;

    TRY(lora__reader_take_file(out, context, closed, 0, error));
    status = reader_file_open(out->user, path, map, error);
    if (status != LORA_OK) {
        reader_file_destroy(out->user);
        memset(out, 0, sizeof *out);
    }
    return status;
}

typedef struct reader_memory {
    lora_context *context;
    const unsigned char *data;
    size_t bytes;
} reader_memory;

static lora_status reader_memory_size(void *user, uint64_t *out_bytes)
{
    const reader_memory *r = user;

    *out_bytes = r->bytes;
    return LORA_OK;
}

static lora_status reader_memory_read_at(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    const reader_memory *r = user;
    size_t left = offset < r->bytes ? r->bytes - (size_t)offset : 0;

    *out_got = bytes < left ? bytes : left;
    if (*out_got > 0) {
        memcpy(buffer, r->data + (size_t)offset, *out_got);
    }
    return LORA_OK;
}

static lora_status reader_memory_map(void *user,
                                     uint64_t offset,
                                     uint64_t bytes,
                                     const void **out_data)
{
    const reader_memory *r = user;

    if (offset > r->bytes || bytes > r->bytes - offset) {
        return LORA_ERROR_RANGE;
    }
    *out_data = r->data + (size_t)offset;
    return LORA_OK;
}

static void reader_memory_destroy(void *user)
{
    reader_memory *r = user;

    lora__free(r->context, r, sizeof *r, LORA__ALIGN);
}

LORA_PRIVATE lora_status lora__reader_open_memory(lora_reader *out,
                                                  lora_context *context,
                                                  const void *data,
                                                  size_t bytes,
                                                  lora_error *error)
{
    void *memory;
    reader_memory *r;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *r, error));
    r = memory;
    r->context = context;
    r->data = data;
    r->bytes = bytes;
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    out->user = r;
    out->size = reader_memory_size;
    out->read_at = reader_memory_read_at;
    out->map = reader_memory_map;
    out->destroy = reader_memory_destroy;
    return LORA_OK;
}

/* One call. Our own files are asked directly, for the system's reason, which
 * the reader's table has no place for. */
static lora_status reader_step(const lora_reader *reader,
                               uint64_t offset,
                               void *buffer,
                               size_t bytes,
                               size_t *out_got,
                               const char *subject,
                               lora_error *error)
{
    lora_status status;

    if (reader->read_at == reader_file_read_at) {
        const reader_file *r = reader->user;
        int32_t os_error =
            lora__file_read_at(r->file, offset, buffer, bytes, out_got);
        return os_error == 0
                   ? LORA_OK
                   : lora__fail_os(error, os_error, subject, "cannot read");
    }
    status = reader->read_at(reader->user, offset, buffer, bytes, out_got);
    if (status != LORA_OK) {
        return lora__fail(error, status < 0 ? status : LORA_ERROR_IO, offset,
                          subject, "the reader failed");
    }
    if (*out_got > bytes) {
        return lora__fail(error, LORA_ERROR_IO, offset, subject,
                          "the reader claims more bytes than were asked for");
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__reader_read(const lora_reader *reader,
                                           uint64_t offset,
                                           void *buffer,
                                           size_t bytes,
                                           const char *subject,
                                           lora_error *error)
{
    unsigned char *out = buffer;

    while (bytes > 0) {
        size_t got = 0;

        TRY(reader_step(reader, offset, out, bytes, &got, subject, error));
        if (got == 0) {
            return lora__fail(error, LORA_ERROR_TRUNCATED, offset, subject,
                              "ends %llu bytes too early",
                              (unsigned long long)bytes);
        }
        offset += got;
        out += got;
        bytes -= got;
    }
    return LORA_OK;
}
