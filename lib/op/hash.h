/* Hashes inside the library. */
#ifndef LORA__OP_HASH_H
#define LORA__OP_HASH_H

#include "format/container.h"
#include "format/sha256.h"

#include <lora/hash.h>

/* Hash the part of a chunk, which stands at `offset` in its stream, that lies
 * in [begin, end). */
LORA_PRIVATE void lora__hash_range(lora__sha256 *sha,
                                   const unsigned char *chunk,
                                   uint64_t offset,
                                   size_t bytes,
                                   uint64_t begin,
                                   uint64_t end);

/* The first `digits` (at most 64) hexadecimal digits and a NUL. */
LORA_PRIVATE void lora__hash_hex(char *out, lora__sha256 *sha, size_t digits);

/* The bytes that AutoV1 and kohya's old hash look at. */
#define LORA__HASH_WINDOW_BEGIN 0x100000u
#define LORA__HASH_WINDOW_END 0x110000u

/* The hashes of what a container was read from; all "" where it was read from
 * nothing. */
LORA_PRIVATE lora_status lora__hash_container(lora_hashes *out,
                                              const lora__container *container,
                                              lora_error *error);

#endif
