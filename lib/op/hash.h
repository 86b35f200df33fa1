/* Hashes inside the library. */
#ifndef LORA__OP_HASH_H
#define LORA__OP_HASH_H

#include "format/container.h"
#include "format/sha256.h"

#include <lora/hash.h>

/* What files are hashed in pieces of. */
#define LORA__HASH_CHUNK_BYTES ((size_t)1 << 20)

/* The bytes that AutoV1 and kohya's old hash look at. */
#define LORA__HASH_WINDOW_BEGIN 0x100000u
#define LORA__HASH_WINDOW_END 0x110000u

/* Room for a whole digest in hexadecimal, and for eight digits. */
#define LORA__HASH_TEXT 65
#define LORA__HASH_SHORT 9

/* The orders in which tensors are hashed. */
typedef enum lora__hash_order {
    LORA__HASH_FILE,   /* as they are */
    LORA__HASH_WRITER, /* by type, then name: the reference writer */
    LORA__HASH_NAME    /* by name: that writer in its first versions */
} lora__hash_order;

/* Hash the part of a chunk, which stands at `offset` in its stream, that lies
 * in [begin, end). */
LORA_PRIVATE void lora__hash_range(lora__sha256 *sha,
                                   const unsigned char *chunk,
                                   uint64_t offset,
                                   size_t bytes,
                                   uint64_t begin,
                                   uint64_t end);

/* The first `digits` (at most 64) hexadecimal digits of a digest, and a NUL. */
LORA_PRIVATE void
lora__hash_hex(char *out, const uint8_t digest[32], size_t digits);
LORA_PRIVATE void
lora__hash_finish(char *out, lora__sha256 *sha, size_t digits);

/* 1 if the tensors of a container stand in that order, WRITER or NAME. */
LORA_PRIVATE int lora__hash_is_ordered(const lora__container *container,
                                       lora__hash_order order);

/* Hash what the content id says of a tensor before its data. */
LORA_PRIVATE void lora__hash_describe(lora__sha256 *sha,
                                      const lora__entry *entry);

/* SHA-256 over the data of all tensors, each of them described first or not:
 * in WRITER order and without descriptions, sshs_model_hash; as in the FILE,
 * LyCORIS'; by NAME and with descriptions, the content id. */
LORA_PRIVATE lora_status lora__hash_tensors(char out[LORA__HASH_TEXT],
                                            const lora__container *container,
                                            lora__hash_order order,
                                            int described,
                                            lora_error *error);

/* In which of the two orders of writers a stored hash is that of the tensors'
 * data; FILE if in neither. */
LORA_PRIVATE lora_status lora__hash_find_order(lora__hash_order *out,
                                               const char *stored,
                                               const lora__container *container,
                                               lora_error *error);

/* sshs_legacy_hash: of the window of the file that has the tensors in WRITER
 * order, and no metadata but the "ss_" entries. KEY or LIMIT where there can
 * be no such file. */
LORA_PRIVATE lora_status lora__hash_legacy(char out[LORA__HASH_SHORT],
                                           const lora__container *container,
                                           lora_error *error);

/* The hashes of what a container was read from; all "" where it was read from
 * nothing. */
LORA_PRIVATE lora_status lora__hash_container(lora_hashes *out,
                                              const lora__container *container,
                                              lora_error *error);

#endif
