/* The hashes by which sites and front ends know a file; algorithms.md 9.
 *
 *   sha256       of the whole file
 *   AutoV1       first 8 digits of sha256 of the 64 KiB at 1 MiB (A1111's old)
 *   AutoV2       first 10 digits of sha256
 *   AutoV3       first 12 digits of sha256 of all after the header
 *   crc32        of the whole file
 *   blake3       of the whole file
 *   LyCORIS      "0x" and sha256 of the tensors' data in file order
 *   kohya's two, content id: see hash_tensors.c
 *
 * What follows the header of a safetensors file is its tensors' data in file
 * order and nothing else, so that one digest serves for several of these.
 */
#include "op/hash.h"

#include "adapter/locate.h"
#include "core/options.h"
#include "format/blake3.h"
#include "format/crc32.h"
#include "format/shards.h"

#include <stdio.h>
#include <string.h>

#define HASH_TASKS 4

/* One reading of the file. The tasks share a chunk and nothing else. */
typedef struct hash_stream {
    const lora__container *container;
    unsigned char *chunk;
    uint64_t offset;           /* of the chunk */
    size_t bytes;              /* in it */
    int has_body;              /* all after the header is the tensors' data */
    int has_content;           /* the file's order is that of the content id */
    size_t next;               /* tensor that the content id comes to next */
    uint32_t runs[HASH_TASKS]; /* of each task, on this chunk */
    lora__sha256 whole;
    lora__sha256 window;
    lora__sha256 body;
    lora__sha256 content;
    lora__blake3 blake3;
    lora__crc32 crc;
} hash_stream;

/* The tensors, or parts of them, that lie in the chunk. */
static void hash_content(hash_stream *s)
{
    const lora__container *container = s->container;
    uint64_t end = s->offset + s->bytes;

    while (s->next < container->entry_count) {
        const lora__entry *entry = &container->entries[s->next];
        uint64_t entry_end = entry->offset + entry->bytes;
        if (entry->offset >= end && end != container->file_bytes) {
            return;
        }
        if (entry->offset >= s->offset) {
            lora__hash_describe(&s->content, entry);
        }
        lora__hash_range(&s->content, s->chunk, s->offset, s->bytes,
                         entry->offset, entry_end);
        if (entry_end > end) {
            return;
        }
        s->next++;
    }
}

static void hash_task(void *arg, size_t index, uint32_t worker)
{
    hash_stream *s = arg;

    (void)worker;
    s->runs[index]++;
    switch (index) {
    case 0:
        lora__sha256_update(&s->whole, s->chunk, s->bytes);
        lora__hash_range(&s->window, s->chunk, s->offset, s->bytes,
                         LORA__HASH_WINDOW_BEGIN, LORA__HASH_WINDOW_END);
        break;
    case 1:
        lora__blake3_update(&s->blake3, s->chunk, s->bytes);
        break;
    case 2:
        if (s->has_body) {
            lora__hash_range(&s->body, s->chunk, s->offset, s->bytes,
                             s->container->data_offset, UINT64_MAX);
        }
        lora__crc32_update(&s->crc, s->chunk, s->bytes);
        break;
    default:
        if (s->has_content) {
            hash_content(s);
        }
        break;
    }
}

static void hash_stream_begin(hash_stream *s,
                              const lora__container *container,
                              unsigned char *chunk)
{
    lora_cpu cpu = lora__context_get(container->context)->cpu;

    memset(s, 0, sizeof *s);
    s->container = container;
    s->chunk = chunk;
    s->has_body = strcmp(container->format, "safetensors") == 0;
    s->has_content =
        s->has_body && lora__hash_is_ordered(container, LORA__HASH_NAME);
    lora__sha256_init(&s->whole, cpu);
    lora__sha256_init(&s->window, cpu);
    lora__sha256_init(&s->body, cpu);
    lora__sha256_init(&s->content, cpu);
    lora__blake3_init(&s->blake3);
    lora__crc32_init(&s->crc);
}

/* Hash the chunk; a small file is done before threads would have started. */
static lora_status hash_stream_chunk(hash_stream *s, lora_error *error)
{
    const lora_executor *executor =
        &lora__context_get(s->container->context)->executor;

    memset(s->runs, 0, sizeof s->runs);
    if (executor->parallel_for != NULL &&
        s->container->file_bytes > LORA__HASH_CHUNK_BYTES) {
        executor->parallel_for(executor->user, hash_task, s, HASH_TASKS);
    } else {
        for (size_t i = 0; i < HASH_TASKS; i++) {
            hash_task(s, i, 0);
        }
    }
    for (size_t i = 0; i < HASH_TASKS; i++) {
        if (s->runs[i] != 1) {
            return lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
                              "the executor did not run each task once");
        }
    }
    return LORA_OK;
}

static lora_status hash_stream_run(hash_stream *s, lora_error *error)
{
    const lora__container *container = s->container;
    uint64_t total = container->file_bytes;

    while (s->offset < total) {
        uint64_t left = total - s->offset;
        s->bytes = left < LORA__HASH_CHUNK_BYTES ? (size_t)left
                                                 : LORA__HASH_CHUNK_BYTES;
        TRY(lora__reader_read(&container->reader, s->offset, s->chunk, s->bytes,
                              container->path, error));
        TRY(hash_stream_chunk(s, error));
        s->offset += s->bytes;
        TRY(lora__progress(container->context, "hash", s->offset, total,
                           error));
    }
    return LORA_OK;
}

static void hash_stream_end(lora_hashes *out, hash_stream *s)
{
    uint8_t digest[32];

    lora__hash_finish(out->sha256, &s->whole, 64);
    lora__hash_finish(out->auto_v1, &s->window, 8);
    memcpy(out->auto_v2, out->sha256, 10);
    snprintf(out->crc32, sizeof out->crc32, "%08x", (unsigned)s->crc.value);
    lora__blake3_finish(&s->blake3, digest);
    lora__hash_hex(out->blake3, digest, 64);
    if (s->has_body) {
        memcpy(out->lycoris, "0x", 2);
        lora__hash_finish(out->lycoris + 2, &s->body, 64);
        memcpy(out->auto_v3, out->lycoris + 2, 12);
    }
    if (s->has_content) {
        lora__hash_finish(out->content_id, &s->content, 64);
    }
}

/* kohya's two are those of a safetensors file; some tensors of other
 * containers cannot be in one. */
static lora_status hash_add_kohya(lora_hashes *out,
                                  const lora__container *container,
                                  lora_error *error)
{
    lora_error own;
    lora_status status;

    lora_error_init(&own, sizeof own);
    status = lora__hash_legacy(out->sshs_legacy_hash, container, &own);
    if (status == LORA_ERROR_KEY || status == LORA_ERROR_LIMIT) {
        return LORA_OK;
    }
    if (status != LORA_OK) {
        return lora__error_merge(error, &own);
    }
    if (out->lycoris[0] != '\0' &&
        lora__hash_is_ordered(container, LORA__HASH_WRITER)) {
        memcpy(out->sshs_model_hash, out->lycoris + 2, LORA__HASH_TEXT);
        return LORA_OK;
    }
    return lora__hash_tensors(out->sshs_model_hash, container,
                              LORA__HASH_WRITER, 0, error);
}

LORA_PRIVATE lora_status lora__hash_container(lora_hashes *out,
                                              const lora__container *container,
                                              lora_error *error)
{
    lora_context *context = container->context;
    unsigned char *chunk;
    hash_stream stream;
    lora_status status;

    memset(out, 0, sizeof *out);
    if (container->reader.read_at == NULL) { /* several files, or none yet */
        TRY(lora__hash_tensors(out->content_id, container, LORA__HASH_NAME, 1,
                               error));
        return hash_add_kohya(out, container, error);
    }
    chunk = lora__alloc(context, LORA__HASH_CHUNK_BYTES, LORA__ALIGN);
    if (chunk == NULL) {
        return lora__fail_memory(error, LORA__HASH_CHUNK_BYTES);
    }
    hash_stream_begin(&stream, container, chunk);
    status = hash_stream_run(&stream, error);
    lora__free(context, chunk, LORA__HASH_CHUNK_BYTES, LORA__ALIGN);
    if (status != LORA_OK) {
        return status;
    }
    hash_stream_end(out, &stream);
    if (!stream.has_body) {
        memcpy(out->lycoris, "0x", 2);
        TRY(lora__hash_tensors(out->lycoris + 2, container, LORA__HASH_FILE, 0,
                               error));
    }
    if (!stream.has_content) {
        TRY(lora__hash_tensors(out->content_id, container, LORA__HASH_NAME, 1,
                               error));
    }
    return hash_add_kohya(out, container, error);
}

static lora_status hash_path(lora_hashes *out,
                             lora__arena *arena,
                             const char *path,
                             lora_error *error)
{
    lora__container *container;
    lora__location location;
    lora_status status;

    TRY(lora__locate(&location, arena, path, error));
    TRY(lora__container_open_path(&container, arena->context, location.model, 0,
                                  error));
    status = lora__hash_container(out, container, error);
    lora__container_release(container);
    return status;
}

LORA_API lora_status lora_hash_file(lora_hashes *out,
                                    lora_context *context,
                                    const char *path,
                                    lora_error *error)
{
    lora__arena arena;
    lora_hashes hashes;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(path != NULL, error);
    lora__arena_init(&arena, context);
    status = hash_path(&hashes, &arena, path, error);
    lora__arena_destroy(&arena);
    return status == LORA_OK
               ? lora__out_write(out, &hashes, sizeof hashes, error)
               : status;
}
