/* BLAKE3: a binary tree over chunks of 1 KiB, each of 16 blocks.
 *
 * What is last in its tree gets flags of its own, and what is last is known
 * only in the end. So a full block waits for the byte after it, and so does a
 * full chunk; all else is compressed at once. Whole chunks are compressed
 * eight at a time, in loops that compilers make vector instructions of.
 */
#include "format/blake3.h"

#include <string.h>

#define BLAKE3_CHUNK ((size_t)1024)
#define BLAKE3_LANES 8u
#define BLAKE3_EACH_LANE for (size_t l = 0; l < BLAKE3_LANES; l++)

enum {
    BLAKE3_CHUNK_START = 1,
    BLAKE3_CHUNK_END = 2,
    BLAKE3_PARENT = 4,
    BLAKE3_ROOT = 8
};

static const uint32_t blake3_initial[8] = {
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
};

/* The words of the message in the order in which each round takes them. */
static const uint8_t blake3_order[7][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1},
    {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4},
    {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13},
};

static inline uint32_t blake3_rotate(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static inline uint32_t blake3_load(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

/* One step on four words of the state. */
#define BLAKE3_MIX(a, b, c, d, x, y)                                           \
    do {                                                                       \
        (a) += (b) + (x);                                                      \
        (d) = blake3_rotate((d) ^ (a), 16);                                    \
        (c) += (d);                                                            \
        (b) = blake3_rotate((b) ^ (c), 12);                                    \
        (a) += (b) + (y);                                                      \
        (d) = blake3_rotate((d) ^ (a), 8);                                     \
        (c) += (d);                                                            \
        (b) = blake3_rotate((b) ^ (c), 7);                                     \
    } while (0)

/* A round: the columns of the state, then its diagonals, by a MIX of words or
 * of lanes. */
#define BLAKE3_ROUND(MIX, v, words, order)                                     \
    do {                                                                       \
        MIX(v[0], v[4], v[8], v[12], words[order[0]], words[order[1]]);        \
        MIX(v[1], v[5], v[9], v[13], words[order[2]], words[order[3]]);        \
        MIX(v[2], v[6], v[10], v[14], words[order[4]], words[order[5]]);       \
        MIX(v[3], v[7], v[11], v[15], words[order[6]], words[order[7]]);       \
        MIX(v[0], v[5], v[10], v[15], words[order[8]], words[order[9]]);       \
        MIX(v[1], v[6], v[11], v[12], words[order[10]], words[order[11]]);     \
        MIX(v[2], v[7], v[8], v[13], words[order[12]], words[order[13]]);      \
        MIX(v[3], v[4], v[9], v[14], words[order[14]], words[order[15]]);      \
    } while (0)

/* Compress the 16 words of a block into the chaining value. */
static void blake3_compress(uint32_t value[8],
                            const uint32_t words[16],
                            size_t bytes,
                            uint64_t counter,
                            unsigned flags)
{
    uint32_t v[16];

    memcpy(v, value, 8 * sizeof *v);
    memcpy(v + 8, blake3_initial, 4 * sizeof *v);
    v[12] = (uint32_t)counter;
    v[13] = (uint32_t)(counter >> 32);
    v[14] = (uint32_t)bytes;
    v[15] = flags;
    for (size_t round = 0; round < 7; round++) {
        const uint8_t *order = blake3_order[round];
        BLAKE3_ROUND(BLAKE3_MIX, v, words, order);
    }
    for (size_t i = 0; i < 8; i++) {
        value[i] = v[i] ^ v[i + 8];
    }
}

typedef uint32_t blake3_lanes[BLAKE3_LANES];

static inline void blake3_mix_lanes(uint32_t *restrict a,
                                    uint32_t *restrict b,
                                    uint32_t *restrict c,
                                    uint32_t *restrict d,
                                    const uint32_t *restrict x,
                                    const uint32_t *restrict y)
{
    BLAKE3_EACH_LANE
    {
        uint32_t i = a[l];
        uint32_t j = b[l];
        uint32_t k = c[l];
        uint32_t m = d[l];
        BLAKE3_MIX(i, j, k, m, x[l], y[l]);
        a[l] = i;
        b[l] = j;
        c[l] = k;
        d[l] = m;
    }
}

/* The same for one block of each of eight chunks in a row. */
static void blake3_compress_lanes(blake3_lanes value[8],
                                  const uint8_t *block,
                                  uint64_t counter,
                                  unsigned flags)
{
    blake3_lanes words[16];
    blake3_lanes v[16];

    for (size_t i = 0; i < 16; i++) {
        BLAKE3_EACH_LANE
        {
            words[i][l] = blake3_load(block + BLAKE3_CHUNK * l + 4 * i);
        }
    }
    memcpy(v, value, 8 * sizeof *v);
    BLAKE3_EACH_LANE
    {
        for (size_t i = 0; i < 4; i++) {
            v[8 + i][l] = blake3_initial[i];
        }
        v[12][l] = (uint32_t)(counter + l);
        v[13][l] = (uint32_t)((counter + l) >> 32);
        v[14][l] = 64;
        v[15][l] = flags;
    }
    for (size_t round = 0; round < 7; round++) {
        const uint8_t *order = blake3_order[round];
        BLAKE3_ROUND(blake3_mix_lanes, v, words, order);
    }
    for (size_t i = 0; i < 8; i++) {
        BLAKE3_EACH_LANE
        {
            value[i][l] = v[i][l] ^ v[i + 8][l];
        }
    }
}

/* `value` becomes that of the subtree over `left` and itself. */
static void
blake3_join(uint32_t value[8], const uint32_t left[8], unsigned root)
{
    uint32_t words[16];

    memcpy(words, left, 8 * sizeof *words);
    memcpy(words + 8, value, 8 * sizeof *words);
    memcpy(value, blake3_initial, sizeof blake3_initial);
    blake3_compress(value, words, 64, 0, BLAKE3_PARENT | root);
}

/* A chunk is finished: as many subtrees are complete now as its number has
 * zeros at the end. */
static void blake3_push(lora__blake3 *b, uint32_t value[8])
{
    b->chunks++;
    for (uint64_t n = b->chunks; n % 2 == 0; n /= 2) {
        blake3_join(value, b->stack[--b->depth], 0);
    }
    memcpy(b->stack[b->depth++], value, sizeof b->stack[0]);
}

/* Compress the block that is held. */
static void
blake3_block(uint32_t value[8], const lora__blake3 *b, unsigned flags)
{
    uint32_t words[16];

    for (size_t i = 0; i < 16; i++) {
        words[i] = blake3_load(b->block + 4 * i);
    }
    blake3_compress(value, words, b->held, b->chunks,
                    flags | (b->blocks == 0 ? BLAKE3_CHUNK_START : 0));
}

/* The held block is full and not the last of all: make room. */
static void blake3_flush(lora__blake3 *b)
{
    if (b->blocks < BLAKE3_CHUNK / 64 - 1) {
        blake3_block(b->value, b, 0);
        b->blocks++;
    } else {
        blake3_block(b->value, b, BLAKE3_CHUNK_END);
        blake3_push(b, b->value);
        memcpy(b->value, blake3_initial, sizeof blake3_initial);
        b->blocks = 0;
    }
    b->held = 0;
}

static void blake3_eight_chunks(lora__blake3 *b, const uint8_t *data)
{
    blake3_lanes value[8];

    for (size_t i = 0; i < 8; i++) {
        BLAKE3_EACH_LANE
        {
            value[i][l] = blake3_initial[i];
        }
    }
    for (size_t at = 0; at < BLAKE3_CHUNK; at += 64) {
        blake3_compress_lanes(value, data + at, b->chunks,
                              at == 0                   ? BLAKE3_CHUNK_START
                              : at + 64 == BLAKE3_CHUNK ? BLAKE3_CHUNK_END
                                                        : 0);
    }
    BLAKE3_EACH_LANE
    {
        uint32_t one[8];
        for (size_t i = 0; i < 8; i++) {
            one[i] = value[i][l];
        }
        blake3_push(b, one);
    }
}

LORA_PRIVATE void lora__blake3_init(lora__blake3 *blake)
{
    memset(blake, 0, sizeof *blake);
    memcpy(blake->value, blake3_initial, sizeof blake3_initial);
}

LORA_PRIVATE void
lora__blake3_update(lora__blake3 *blake, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    while (bytes > 0) {
        size_t n;

        if (blake->held == sizeof blake->block) {
            blake3_flush(blake);
        }
        if (blake->blocks == 0 && blake->held == 0 &&
            bytes > BLAKE3_LANES * BLAKE3_CHUNK) {
            n = BLAKE3_LANES * BLAKE3_CHUNK;
            blake3_eight_chunks(blake, p);
        } else {
            n = sizeof blake->block - blake->held;
            n = bytes < n ? bytes : n;
            memcpy(blake->block + blake->held, p, n);
            blake->held += n;
        }
        p += n;
        bytes -= n;
    }
}

LORA_PRIVATE void lora__blake3_finish(const lora__blake3 *blake,
                                      uint8_t digest[32])
{
    lora__blake3 last = *blake;
    unsigned depth = blake->depth;

    memset(last.block + last.held, 0, sizeof last.block - last.held);
    blake3_block(last.value, &last,
                 BLAKE3_CHUNK_END | (depth == 0 ? BLAKE3_ROOT : 0));
    while (depth > 0) {
        depth--;
        blake3_join(last.value, blake->stack[depth],
                    depth == 0 ? BLAKE3_ROOT : 0);
    }
    for (size_t i = 0; i < 32; i++) {
        digest[i] = (uint8_t)(last.value[i / 4] >> (8 * (i % 4)));
    }
}
