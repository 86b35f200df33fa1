/* Deflating, and unpacking what was deflated, through zlib where the build has
 * it. */
#ifndef LORA__FORMAT_INFLATE_H
#define LORA__FORMAT_INFLATE_H

#include "core/context.h"

#include <lora/io.h>

/* Unpack `packed` bytes at `offset` of the reader into just `bytes` bytes.
 * FORMAT if they are not what they claim to be, or if there is no zlib. */
LORA_PRIVATE lora_status lora__inflate(unsigned char *out,
                                       size_t bytes,
                                       lora_context *context,
                                       const lora_reader *reader,
                                       uint64_t offset,
                                       uint64_t packed,
                                       const char *path,
                                       lora_error *error);

/* Pack quickly what is mostly zeros or has few values: differences, of which
 * only frequencies and, past the first `dense` bytes, runs are looked for. Into
 * less than `bytes` bytes. *out_packed is 0 where they do not become less, or
 * there is no zlib. */
LORA_PRIVATE lora_status lora__deflate(size_t *out_packed,
                                       unsigned char *out,
                                       lora_context *context,
                                       const void *data,
                                       size_t bytes,
                                       size_t dense,
                                       lora_error *error);

#endif
