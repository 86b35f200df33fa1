/* SHA-256 (FIPS 180-4), with the CPU's instructions where it has them. */
#ifndef LORA__FORMAT_SHA256_H
#define LORA__FORMAT_SHA256_H

#include "core/context.h"

typedef struct lora__sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
    void (*compress)(uint32_t state[8], const uint8_t *data, size_t blocks);
} lora__sha256;

LORA_PRIVATE void lora__sha256_init(lora__sha256 *sha, lora_cpu cpu);
LORA_PRIVATE void
lora__sha256_update(lora__sha256 *sha, const void *data, size_t bytes);
LORA_PRIVATE void lora__sha256_finish(lora__sha256 *sha, uint8_t digest[32]);

#endif
