/* Deflate streams, by zlib. Its memory comes from the context. */
#include "format/inflate.h"

#include "format/container.h"

#ifdef LORA_HAVE_ZLIB

#include <limits.h>
#include <string.h>
#include <zlib.h>

#define INFLATE_CHUNK 16384

/* zlib frees without a size: it is kept in front of the block. */
static voidpf inflate_alloc(voidpf context, uInt items, uInt size)
{
    size_t bytes;
    unsigned char *block;

    if (!lora__mul_size(items, size, &bytes) ||
        !lora__add_size(bytes, LORA__ALIGN, &bytes)) {
        return Z_NULL;
    }
    block = lora__alloc(context, bytes, LORA__ALIGN);
    if (block == NULL) {
        return Z_NULL;
    }
    memcpy(block, &bytes, sizeof bytes);
    return block + LORA__ALIGN;
}

static void inflate_free(voidpf context, voidpf address)
{
    unsigned char *block = (unsigned char *)address - LORA__ALIGN;
    size_t bytes;

    memcpy(&bytes, block, sizeof bytes);
    lora__free(context, block, bytes, LORA__ALIGN);
}

/* The stream must end with the last byte of the input, and fill the output. */
static lora_status inflate_run(z_stream *z,
                               size_t bytes,
                               const lora_reader *reader,
                               uint64_t offset,
                               uint64_t packed,
                               const char *path,
                               lora_error *error)
{
    unsigned char chunk[INFLATE_CHUNK];
    uint64_t at = offset;
    int result = Z_OK;

    while (result == Z_OK) {
        if (z->avail_in == 0 && packed > 0) {
            size_t step = packed < sizeof chunk ? (size_t)packed : sizeof chunk;
            TRY(lora__reader_read(reader, at, chunk, step, path, error));
            z->next_in = chunk;
            z->avail_in = (uInt)step;
            at += step;
            packed -= step;
        }
        if (z->avail_out == 0) {
            z->avail_out = bytes < UINT_MAX ? (uInt)bytes : UINT_MAX;
            bytes -= z->avail_out;
        }
        result = inflate(z, Z_NO_FLUSH);
    }
    if (result == Z_MEM_ERROR) {
        return lora__fail_memory(error, INFLATE_CHUNK);
    }
    if (result != Z_STREAM_END || z->avail_in > 0 || packed > 0 ||
        z->avail_out > 0 || bytes > 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, offset, path,
                          "deflated data that are damaged, or not of the size "
                          "they claim");
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__inflate(unsigned char *out,
                                       size_t bytes,
                                       lora_context *context,
                                       const lora_reader *reader,
                                       uint64_t offset,
                                       uint64_t packed,
                                       const char *path,
                                       lora_error *error)
{
    z_stream z;
    lora_status status;

    memset(&z, 0, sizeof z);
    z.zalloc = inflate_alloc;
    z.zfree = inflate_free;
    z.opaque = context;
    z.next_out = out;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) {
        return lora__fail_memory(error, INFLATE_CHUNK);
    }
    status = inflate_run(&z, bytes, reader, offset, packed, path, error);
    inflateEnd(&z);
    return status;
}

LORA_PRIVATE lora_status lora__deflate(size_t *out_packed,
                                       unsigned char *out,
                                       lora_context *context,
                                       const void *data,
                                       size_t bytes,
                                       size_t dense,
                                       lora_error *error)
{
    z_stream z;
    int code = Z_OK;

    *out_packed = 0;
    if (bytes == 0 || bytes > UINT_MAX) {
        return LORA_OK;
    }
    memset(&z, 0, sizeof z);
    z.zalloc = inflate_alloc;
    z.zfree = inflate_free;
    z.opaque = context;
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)dense;
    z.next_out = out;
    z.avail_out = (uInt)bytes - 1;
    if (deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, -MAX_WBITS, MAX_MEM_LEVEL,
                     dense != 0 ? Z_HUFFMAN_ONLY : Z_RLE) != Z_OK) {
        return lora__fail_memory(error, INFLATE_CHUNK);
    }
    if (dense != 0) {
        /* This packs what came before it. */
        code = deflateParams(&z, Z_BEST_SPEED, Z_RLE);
    }
    z.avail_in += (uInt)(bytes - dense);
    if (code == Z_OK && deflate(&z, Z_FINISH) == Z_STREAM_END) {
        *out_packed = bytes - 1 - z.avail_out;
    }
    deflateEnd(&z);
    return LORA_OK;
}

#else

LORA_PRIVATE lora_status lora__deflate(size_t *out_packed,
                                       unsigned char *out,
                                       lora_context *context,
                                       const void *data,
                                       size_t bytes,
                                       size_t dense,
                                       lora_error *error)
{
    (void)out;
    (void)context;
    (void)data;
    (void)bytes;
    (void)dense;
    (void)error;
    *out_packed = 0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__inflate(unsigned char *out,
                                       size_t bytes,
                                       lora_context *context,
                                       const lora_reader *reader,
                                       uint64_t offset,
                                       uint64_t packed,
                                       const char *path,
                                       lora_error *error)
{
    (void)out;
    (void)bytes;
    (void)context;
    (void)reader;
    (void)packed;
    return lora__fail(error, LORA_ERROR_FORMAT, offset, path,
                      "deflated data, and this build has no zlib: pack the "
                      "archive again without compression");
}

#endif
