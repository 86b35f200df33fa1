/* An adapter inside another file: an engine's archive, read through a reader
 * of our own, and written again through a writer of our own.
 *
 *     ./custom_io ARCHIVE OFFSET BYTES OUT
 *
 * A context of several threads reads from several at once, which stdio's
 * position in the file would not bear; the default context has one.
 */
#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>

/* A range of an open file. */
typedef struct asset {
    FILE *archive;
    uint64_t offset;
    uint64_t bytes;
} asset;

static lora_status asset_size(void *user, uint64_t *out_bytes)
{
    *out_bytes = ((const asset *)user)->bytes;
    return LORA_OK;
}

static lora_status asset_read_at(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    asset *a = user;
    uint64_t left = offset < a->bytes ? a->bytes - offset : 0;

    bytes = left < bytes ? (size_t)left : bytes;
    if (fseek(a->archive, (long)(a->offset + offset), SEEK_SET) != 0) {
        return LORA_ERROR_IO;
    }
    *out_got = fread(buffer, 1, bytes, a->archive);
    return ferror(a->archive) ? LORA_ERROR_IO : LORA_OK;
}

static lora_status file_write(void *user, const void *data, size_t bytes)
{
    return fwrite(data, 1, bytes, user) == bytes ? LORA_OK : LORA_ERROR_IO;
}

static lora_status file_finish(void *user)
{
    return fflush(user) == 0 ? LORA_OK : LORA_ERROR_IO;
}

static int copy(asset *from, FILE *to, lora_error *error)
{
    lora_reader reader = {.struct_size = sizeof reader,
                          .user = from,
                          .size = asset_size,
                          .read_at = asset_read_at};
    lora_writer writer = {.struct_size = sizeof writer,
                          .user = to,
                          .write = file_write,
                          .finish = file_finish};
    lora_context *context = NULL;
    lora_adapter *adapter = NULL;
    int done = lora_context_create(&context, NULL, error) == LORA_OK &&
               lora_adapter_open_reader(&adapter, context, &reader, NULL,
                                        error) == LORA_OK &&
               lora_adapter_save_writer(adapter, &writer, error) == LORA_OK;

    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    return done;
}

int main(int argc, char **argv)
{
    asset from = {NULL, 0, 0};
    FILE *to;
    lora_error error;
    int done;

    if (argc != 5) {
        fputs("usage: custom_io ARCHIVE OFFSET BYTES OUT\n", stderr);
        return 2;
    }
    from.archive = fopen(argv[1], "rb");
    from.offset = strtoull(argv[2], NULL, 10);
    from.bytes = strtoull(argv[3], NULL, 10);
    to = from.archive != NULL ? fopen(argv[4], "wbx") : NULL; /* x: new */
    if (to == NULL) {
        perror(from.archive == NULL ? argv[1] : argv[4]);
        return 1;
    }
    lora_error_init(&error, sizeof error);
    done = copy(&from, to, &error);
    if (!done) {
        fprintf(stderr, "%s\n", error.message);
    }
    fclose(from.archive);
    if (fclose(to) != 0 || !done) {
        remove(argv[4]);
        return 1;
    }
    return 0;
}
