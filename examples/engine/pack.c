/* Files are read by offset, so several threads can read at once. */
#define _POSIX_C_SOURCE 200809L

#include "pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { PACK_HEAD_BYTES = 8, PACK_ROW_BYTES = 64 };

/* Read until there is enough; pread may give less. 0 if it fails. */
static int read_all(int descriptor, void *out, size_t bytes, uint64_t offset)
{
    size_t got = 0;

    while (got < bytes) {
        ssize_t n = pread(descriptor, (char *)out + got, bytes - got,
                          (off_t)(offset + got));
        if (n > 0) {
            got += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            return 0;
        }
    }
    return 1;
}

/* A row of the table must be of a file that the archive has room for. */
static int read_row(pack_file *out, int descriptor, uint32_t i, uint64_t size)
{
    unsigned char row[PACK_ROW_BYTES];

    if (!read_all(descriptor, row, sizeof row,
                  PACK_HEAD_BYTES + (uint64_t)i * PACK_ROW_BYTES)) {
        return 0;
    }
    out->descriptor = descriptor;
    memcpy(out->name, row, sizeof out->name);
    memcpy(&out->offset, row + 48, sizeof out->offset);
    memcpy(&out->bytes, row + 56, sizeof out->bytes);
    return memchr(out->name, 0, sizeof out->name) != NULL &&
           out->offset <= size && out->bytes <= size - out->offset;
}

static int read_table(pack *p)
{
    unsigned char head[PACK_HEAD_BYTES];
    off_t size = lseek(p->descriptor, 0, SEEK_END);

    if (size < 0 || !read_all(p->descriptor, head, sizeof head, 0) ||
        memcmp(head, "PACK", 4) != 0) {
        return 0;
    }
    memcpy(&p->count, head + 4, sizeof p->count);
    if (p->count > PACK_MAX_FILES) {
        return 0;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        if (!read_row(&p->files[i], p->descriptor, i, (uint64_t)size)) {
            return 0;
        }
    }
    return 1;
}

int pack_open(pack *p, const char *path)
{
    p->descriptor = open(path, O_RDONLY);
    if (p->descriptor >= 0 && read_table(p)) {
        return 1;
    }
    pack_close(p);
    return 0;
}

void pack_close(pack *p)
{
    if (p->descriptor >= 0) {
        close(p->descriptor);
    }
    p->descriptor = -1;
}

static lora_status hook_size(void *user, uint64_t *out_bytes)
{
    *out_bytes = ((const pack_file *)user)->bytes;
    return LORA_OK;
}

static lora_status hook_read_at(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    const pack_file *file = user;
    uint64_t left = offset < file->bytes ? file->bytes - offset : 0;

    *out_got = left < bytes ? (size_t)left : bytes;
    return read_all(file->descriptor, buffer, *out_got, file->offset + offset)
               ? LORA_OK
               : LORA_ERROR_IO;
}

lora_status pack_open_adapter(lora_adapter **out,
                              lora_context *context,
                              pack *p,
                              const char *name,
                              lora_error *error)
{
    lora_reader reader = {.struct_size = sizeof reader,
                          .size = hook_size,
                          .read_at = hook_read_at};

    for (uint32_t i = 0; i < p->count; i++) {
        if (strcmp(p->files[i].name, name) == 0) {
            reader.user = &p->files[i];
            return lora_adapter_open_reader(out, context, &reader, NULL, error);
        }
    }
    *out = NULL;
    snprintf(error->message, sizeof error->message, "not in the archive");
    snprintf(error->subject, sizeof error->subject, "%s", name);
    return LORA_ERROR_KEY;
}
