/* The hashes by which sites and front ends know a file; algorithms.md 9.
 *
 *   sha256   of the whole file
 *   AutoV1   first 8 digits of sha256 of the 64 KiB at 1 MiB (A1111's old)
 *   AutoV2   first 10 digits of sha256
 *   AutoV3   first 12 digits of sha256 of all after the header
 *   crc32    of the whole file
 */
#include "op/hash.h"

#include "core/options.h"
#include "format/crc32.h"

#include <stdio.h>
#include <string.h>

#define HASH_CHUNK_BYTES ((size_t)1 << 20)

LORA_PRIVATE void lora__hash_range(lora__sha256 *sha,
                                   const unsigned char *chunk,
                                   uint64_t offset,
                                   size_t bytes,
                                   uint64_t begin,
                                   uint64_t end)
{
    uint64_t from = offset > begin ? offset : begin;
    uint64_t to = offset + bytes < end ? offset + bytes : end;

    if (from < to) {
        lora__sha256_update(sha, chunk + (from - offset), (size_t)(to - from));
    }
}

LORA_PRIVATE void lora__hash_hex(char *out, lora__sha256 *sha, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t digest[32];

    lora__sha256_finish(sha, digest);
    for (size_t i = 0; i < digits; i++) {
        unsigned nibble = i % 2 == 0 ? digest[i / 2] >> 4 : digest[i / 2] & 15u;
        out[i] = hex[nibble];
    }
    out[digits] = '\0';
}

static lora_status hash_stream(lora_hashes *out,
                               const lora__container *container,
                               unsigned char *chunk,
                               lora_error *error)
{
    lora_cpu cpu = lora__context_get(container->context)->cpu;
    uint64_t bytes = container->file_bytes;
    lora__sha256 whole;
    lora__sha256 window;
    lora__sha256 body;
    lora__crc32 crc;

    lora__sha256_init(&whole, cpu);
    lora__sha256_init(&window, cpu);
    lora__sha256_init(&body, cpu);
    lora__crc32_init(&crc);
    for (uint64_t offset = 0; offset < bytes;) {
        uint64_t left = bytes - offset;
        size_t step = left < HASH_CHUNK_BYTES ? (size_t)left : HASH_CHUNK_BYTES;
        TRY(lora__reader_read(&container->reader, offset, chunk, step,
                              container->path, error));
        lora__sha256_update(&whole, chunk, step);
        lora__hash_range(&window, chunk, offset, step, LORA__HASH_WINDOW_BEGIN,
                         LORA__HASH_WINDOW_END);
        lora__hash_range(&body, chunk, offset, step, container->data_offset,
                         bytes);
        lora__crc32_update(&crc, chunk, step);
        offset += step;
        TRY(lora__progress(container->context, "hash", offset, bytes, error));
    }
    lora__hash_hex(out->sha256, &whole, 64);
    lora__hash_hex(out->auto_v1, &window, 8);
    lora__hash_hex(out->auto_v3, &body, 12);
    memcpy(out->auto_v2, out->sha256, 10);
    snprintf(out->crc32, sizeof out->crc32, "%08x", (unsigned)crc.value);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__hash_container(lora_hashes *out,
                                              const lora__container *container,
                                              lora_error *error)
{
    unsigned char *chunk;
    lora_status status;

    memset(out, 0, sizeof *out);
    if (container->reader.read_at == NULL) {
        return LORA_OK;
    }
    chunk = lora__alloc(container->context, HASH_CHUNK_BYTES, LORA__ALIGN);
    if (chunk == NULL) {
        return lora__fail_memory(error, HASH_CHUNK_BYTES);
    }
    status = hash_stream(out, container, chunk, error);
    lora__free(container->context, chunk, HASH_CHUNK_BYTES, LORA__ALIGN);
    return status;
}

LORA_API lora_status lora_hash_file(lora_hashes *out,
                                    lora_context *context,
                                    const char *path,
                                    lora_error *error)
{
    lora__container *container;
    lora_reader reader;
    lora_hashes hashes;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(path != NULL, error);
    TRY(lora__reader_open_file(&reader, context, path, 0, error));
    TRY(lora__container_open(&container, context, &reader, path, error));
    status = lora__hash_container(&hashes, container, error);
    lora__container_release(container);
    return status == LORA_OK
               ? lora__out_write(out, &hashes, sizeof hashes, error)
               : status;
}
