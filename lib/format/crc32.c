/* CRC-32, eight bytes a step.
 *
 * The state is the remainder of the message so far. table[0][b] is what the
 * byte b leaves after 8 steps of division; table[k][b] the same after k more
 * zero bytes. Division is linear, so eight bytes are done at once by adding
 * (xor) what each of them leaves after the bytes that follow it.
 */
#include "format/crc32.h"

#include <string.h>

LORA_PRIVATE void lora__crc32_init(lora__crc32 *crc)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t r = b;
        for (int bit = 0; bit < 8; bit++) {
            r = (r >> 1) ^ (0xEDB88320u & (0u - (r & 1u)));
        }
        crc->table[0][b] = r;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int k = 1; k < 8; k++) {
            uint32_t r = crc->table[k - 1][b];
            crc->table[k][b] = (r >> 8) ^ crc->table[0][r & 0xFF];
        }
    }
    crc->value = 0;
}

LORA_PRIVATE void
lora__crc32_update(lora__crc32 *crc, const void *data, size_t bytes)
{
    uint32_t(*const table)[256] = crc->table;
    const unsigned char *p = data;
    uint32_t r = ~crc->value;

    while (bytes >= 8) {
        r ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
             (uint32_t)p[3] << 24;
        r = table[7][r & 0xFF] ^ table[6][(r >> 8) & 0xFF] ^
            table[5][(r >> 16) & 0xFF] ^ table[4][r >> 24] ^ table[3][p[4]] ^
            table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
        p += 8;
        bytes -= 8;
    }
    while (bytes > 0) {
        r = (r >> 8) ^ table[0][(r ^ *p) & 0xFF];
        p++;
        bytes--;
    }
    crc->value = ~r;
}
