/* SHA-256: FIPS 180-4 in C, with the SHA extensions of x86, and with those
 * of ARMv8 where the compiler was told that the CPU has them.
 */
#include "format/sha256.h"

#include <string.h>

#if LORA__X86
#include <immintrin.h>
#endif

#if LORA__NEON && (defined(__ARM_FEATURE_SHA2) || defined(__ARM_FEATURE_CRYPTO))
#define SHA256_ARM 1
#include <arm_neon.h>
#else
#define SHA256_ARM 0
#endif

static const uint32_t sha256_k[64] = {
    0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1,
    0x923F82A4, 0xAB1C5ED5, 0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3,
    0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174, 0xE49B69C1, 0xEFBE4786,
    0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
    0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147,
    0x06CA6351, 0x14292967, 0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13,
    0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85, 0xA2BFE8A1, 0xA81A664B,
    0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
    0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A,
    0x5B9CCA4F, 0x682E6FF3, 0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208,
    0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
};

static uint32_t sha256_rotate(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static uint32_t sha256_load(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 |
           (uint32_t)p[3];
}

static void sha256_store(uint8_t *p, uint32_t x)
{
    p[0] = (uint8_t)(x >> 24);
    p[1] = (uint8_t)(x >> 16);
    p[2] = (uint8_t)(x >> 8);
    p[3] = (uint8_t)x;
}

/* One round; the caller renames the variables instead of moving them. */
#define SHA256_ROUND(a, b, c, d, e, f, g, h, i)                                \
    do {                                                                       \
        uint32_t t = (h) + sha256_k[i] + w[i] + ((g) ^ ((e) & ((f) ^ (g)))) +  \
                     (sha256_rotate(e, 6) ^ sha256_rotate(e, 11) ^             \
                      sha256_rotate(e, 25));                                   \
        (d) += t;                                                              \
        (h) = t + (((a) & (b)) | ((c) & ((a) | (b)))) +                        \
              (sha256_rotate(a, 2) ^ sha256_rotate(a, 13) ^                    \
               sha256_rotate(a, 22));                                          \
    } while (0)

static void sha256_block(uint32_t s[8], const uint32_t w[64])
{
    uint32_t a = s[0], b = s[1], c = s[2], d = s[3];
    uint32_t e = s[4], f = s[5], g = s[6], h = s[7];

    for (size_t i = 0; i < 64; i += 8) {
        SHA256_ROUND(a, b, c, d, e, f, g, h, i);
        SHA256_ROUND(h, a, b, c, d, e, f, g, i + 1);
        SHA256_ROUND(g, h, a, b, c, d, e, f, i + 2);
        SHA256_ROUND(f, g, h, a, b, c, d, e, i + 3);
        SHA256_ROUND(e, f, g, h, a, b, c, d, i + 4);
        SHA256_ROUND(d, e, f, g, h, a, b, c, i + 5);
        SHA256_ROUND(c, d, e, f, g, h, a, b, i + 6);
        SHA256_ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    s[0] += a;
    s[1] += b;
    s[2] += c;
    s[3] += d;
    s[4] += e;
    s[5] += f;
    s[6] += g;
    s[7] += h;
}

static void
sha256_compress_c(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    uint32_t w[64];

    for (; blocks > 0; blocks--, data += 64) {
        for (size_t i = 0; i < 16; i++) {
            w[i] = sha256_load(data + 4 * i);
        }
        for (size_t i = 16; i < 64; i++) {
            uint32_t x = w[i - 15];
            uint32_t y = w[i - 2];
            w[i] = w[i - 16] + w[i - 7] +
                   (sha256_rotate(x, 7) ^ sha256_rotate(x, 18) ^ x >> 3) +
                   (sha256_rotate(y, 17) ^ sha256_rotate(y, 19) ^ y >> 10);
        }
        sha256_block(state, w);
    }
}

#if LORA__X86

/* Four rounds on the words in m0, which holds w[i..i+3], and then the words
 * w[i+16..i+19] in its place. sha256msg1 adds the small sigma 0 of the next
 * words, alignr picks w[i+9..i+12], sha256msg2 adds the small sigma 1. */
#define SHA256_X86_ROUNDS(m0, i)                                               \
    do {                                                                       \
        __m128i wk = _mm_add_epi32(                                            \
            m0,                                                                \
            _mm_loadu_si128((const __m128i *)(const void *)(sha256_k + (i)))); \
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);                          \
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E)); \
    } while (0)

#define SHA256_X86_SCHEDULE(m0, m1, m2, m3)                                    \
    m0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(m0, m1),      \
                                            _mm_alignr_epi8(m3, m2, 4)),       \
                              m3)

/* The instructions want the state as {f, e, b, a} and {h, g, d, c}, from the
 * lowest element up. */
LORA__TARGET("sha,sse4.1,ssse3")
static void
sha256_compress_x86(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    const __m128i swap =
        _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i *half = (__m128i *)(void *)state;
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(half), 0xB1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(half + 1), 0x1B);
    __m128i abef = _mm_alignr_epi8(badc, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, badc, 0xF0);

    for (; blocks > 0; blocks--, data += 64) {
        const __m128i *in = (const __m128i *)(const void *)data;
        __m128i abef_before = abef;
        __m128i cdgh_before = cdgh;
        __m128i m0 = _mm_shuffle_epi8(_mm_loadu_si128(in), swap);
        __m128i m1 = _mm_shuffle_epi8(_mm_loadu_si128(in + 1), swap);
        __m128i m2 = _mm_shuffle_epi8(_mm_loadu_si128(in + 2), swap);
        __m128i m3 = _mm_shuffle_epi8(_mm_loadu_si128(in + 3), swap);

        for (size_t i = 0; i < 48; i += 16) {
            SHA256_X86_ROUNDS(m0, i);
            SHA256_X86_SCHEDULE(m0, m1, m2, m3);
            SHA256_X86_ROUNDS(m1, i + 4);
            SHA256_X86_SCHEDULE(m1, m2, m3, m0);
            SHA256_X86_ROUNDS(m2, i + 8);
            SHA256_X86_SCHEDULE(m2, m3, m0, m1);
            SHA256_X86_ROUNDS(m3, i + 12);
            SHA256_X86_SCHEDULE(m3, m0, m1, m2);
        }
        SHA256_X86_ROUNDS(m0, 48);
        SHA256_X86_ROUNDS(m1, 52);
        SHA256_X86_ROUNDS(m2, 56);
        SHA256_X86_ROUNDS(m3, 60);
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    abef = _mm_shuffle_epi32(abef, 0x1B);
    cdgh = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128(half, _mm_blend_epi16(abef, cdgh, 0xF0));
    _mm_storeu_si128(half + 1, _mm_alignr_epi8(cdgh, abef, 8));
}

#endif

#if SHA256_ARM

static void
sha256_compress_arm(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    uint32x4_t abcd = vld1q_u32(state);
    uint32x4_t efgh = vld1q_u32(state + 4);

    for (; blocks > 0; blocks--, data += 64) {
        uint32x4_t abcd_before = abcd;
        uint32x4_t efgh_before = efgh;
        uint32x4_t m[4];

        for (size_t i = 0; i < 4; i++) {
            m[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
        }
        for (size_t i = 0; i < 16; i++) {
            uint32x4_t wk = vaddq_u32(m[i % 4], vld1q_u32(sha256_k + 4 * i));
            uint32x4_t held = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, held, wk);
            m[i % 4] =
                vsha256su1q_u32(vsha256su0q_u32(m[i % 4], m[(i + 1) % 4]),
                                m[(i + 2) % 4], m[(i + 3) % 4]);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#endif

LORA_PRIVATE void lora__sha256_init(lora__sha256 *sha, lora_cpu cpu)
{
    static const uint32_t initial[8] = {
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
        0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    };

    memset(sha, 0, sizeof *sha);
    memcpy(sha->state, initial, sizeof initial);
    sha->compress = sha256_compress_c;
#if LORA__X86
    if (cpu & LORA_CPU_SHA) {
        sha->compress = sha256_compress_x86;
    }
#elif SHA256_ARM
    if (cpu & LORA_CPU_SHA) {
        sha->compress = sha256_compress_arm;
    }
#else
    (void)cpu;
#endif
}

LORA_PRIVATE void
lora__sha256_update(lora__sha256 *sha, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    size_t held = (size_t)(sha->bytes % 64);

    sha->bytes += bytes;
    if (held > 0 && bytes > 0) {
        size_t n = 64 - held < bytes ? 64 - held : bytes;
        memcpy(sha->block + held, p, n);
        if (held + n < 64) {
            return;
        }
        sha->compress(sha->state, sha->block, 1);
        p += n;
        bytes -= n;
    }
    if (bytes >= 64) {
        sha->compress(sha->state, p, bytes / 64);
        p += bytes - bytes % 64;
        bytes %= 64;
    }
    if (bytes > 0) {
        memcpy(sha->block, p, bytes);
    }
}

/* Padding: a bit 1, zeros, and the length in bits in the last 8 bytes. */
LORA_PRIVATE void lora__sha256_finish(lora__sha256 *sha, uint8_t digest[32])
{
    uint8_t tail[72] = {0x80};
    size_t held = (size_t)(sha->bytes % 64);
    size_t zeros = (held < 56 ? 56 : 120) - held;
    uint64_t bits = sha->bytes * 8;

    sha256_store(tail + zeros, (uint32_t)(bits >> 32));
    sha256_store(tail + zeros + 4, (uint32_t)bits);
    lora__sha256_update(sha, tail, zeros + 8);
    for (size_t i = 0; i < 8; i++) {
        sha256_store(digest + 4 * i, sha->state[i]);
    }
}
