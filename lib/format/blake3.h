/* BLAKE3, the plain hash of 256 bits: no key, no longer output. */
#ifndef LORA__FORMAT_BLAKE3_H
#define LORA__FORMAT_BLAKE3_H

#include "platform/compiler.h"

/* 2^54 chunks of 1 KiB are 2^64 bytes: there cannot be more subtrees. */
#define LORA__BLAKE3_DEPTH 54

typedef struct lora__blake3 {
    uint32_t stack[LORA__BLAKE3_DEPTH]
                  [8]; /* finished subtrees, largest first */
    unsigned depth;
    unsigned blocks; /* of the chunk in progress, compressed into `value` */
    uint32_t value[8];
    uint64_t chunks; /* finished */
    size_t held;     /* bytes in `block` */
    uint8_t block[64];
} lora__blake3;

LORA_PRIVATE void lora__blake3_init(lora__blake3 *blake);
LORA_PRIVATE void
lora__blake3_update(lora__blake3 *blake, const void *data, size_t bytes);
LORA_PRIVATE void lora__blake3_finish(const lora__blake3 *blake,
                                      uint8_t digest[32]);

#endif
