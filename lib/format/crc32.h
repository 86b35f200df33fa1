/* CRC-32 as zip, gzip and PNG use it: polynomial 0xEDB88320, reflected. */
#ifndef LORA__FORMAT_CRC32_H
#define LORA__FORMAT_CRC32_H

#include "platform/compiler.h"

/* The tables are made by init (a few microseconds) and live here, as the
 * library has no state of its own. */
typedef struct lora__crc32 {
    uint32_t table[8][256];
    uint32_t value; /* of all bytes so far */
} lora__crc32;

LORA_PRIVATE void lora__crc32_init(lora__crc32 *crc);
LORA_PRIVATE void
lora__crc32_update(lora__crc32 *crc, const void *data, size_t bytes);

#endif
