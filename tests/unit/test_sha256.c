/* SHA-256 and CRC-32 against published vectors and digests that Python's
 * hashlib and zlib gave, with and without the CPU's instructions.
 */
#include "format/crc32.h"
#include "format/sha256.h"
#include "platform/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BIG ((size_t)1 << 20)

static void to_hex(char out[65], const uint8_t digest[32])
{
    for (size_t i = 0; i < 32; i++) {
        out[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    out[64] = '\0';
}

static void fill_small(uint8_t data[300])
{
    for (size_t i = 0; i < 300; i++) {
        data[i] = (uint8_t)(i * 7 + 3);
    }
}

/* A byte before the data makes every pointer unaligned. */
static uint8_t *make_big(void)
{
    uint8_t *data = malloc(BIG + 1);

    assert_non_null(data);
    for (size_t i = 0; i < BIG; i++) {
        data[i + 1] = (uint8_t)(i * i + (i >> 7));
    }
    return data;
}

static void check(lora_cpu cpu, const void *data, size_t bytes, const char *hex)
{
    lora__sha256 sha;
    uint8_t digest[32];
    char text[65];

    lora__sha256_init(&sha, cpu);
    lora__sha256_update(&sha, data, bytes);
    lora__sha256_finish(&sha, digest);
    to_hex(text, digest);
    assert_string_equal(text, hex);
}

/* FIPS 180-4 examples. */
static void check_vectors(lora_cpu cpu)
{
    static const char two[] =
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    static const char four[] =
        "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
        "hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
    char *many = malloc(1000000);

    assert_non_null(many);
    memset(many, 'a', 1000000);
    check(cpu, NULL, 0,
          "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check(cpu, "abc", 3,
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check(cpu, two, strlen(two),
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check(cpu, four, strlen(four),
          "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
    check(cpu, many, 1000000,
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(many);
}

/* The digest of the digests of every length from 0 to 300. */
static void check_lengths(lora_cpu cpu)
{
    uint8_t data[300];
    uint8_t digest[32];
    lora__sha256 all, one;
    char text[65];

    fill_small(data);
    lora__sha256_init(&all, cpu);
    for (size_t n = 0; n <= 300; n++) {
        lora__sha256_init(&one, cpu);
        lora__sha256_update(&one, data, n);
        lora__sha256_finish(&one, digest);
        lora__sha256_update(&all, digest, 32);
    }
    lora__sha256_finish(&all, digest);
    to_hex(text, digest);
    assert_string_equal(
        text,
        "7d917fbd2cf49ddff9ad0a8706bba32d204e92e71d2e369c5a03d6af29278c9f");
}

static void check_chunks(lora_cpu cpu)
{
    static const size_t steps[] = {1, 3, 55, 63, 64, 65, 127, 128, 4096, BIG};
    uint8_t *data = make_big();

    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        lora__sha256 sha;
        uint8_t digest[32];
        char text[65];

        lora__sha256_init(&sha, cpu);
        for (size_t at = 0; at < BIG; at += steps[s]) {
            size_t n = BIG - at < steps[s] ? BIG - at : steps[s];
            lora__sha256_update(&sha, data + 1 + at, n);
            lora__sha256_update(&sha, NULL, 0);
        }
        lora__sha256_finish(&sha, digest);
        to_hex(text, digest);
        assert_string_equal(text, "d55ca21efca0cfd70a2d0207bc8a96719d6731fe7890"
                                  "89a2955d8c98cf7b4837");
    }
    free(data);
}

static void test_portable(void **state)
{
    (void)state;
    check_vectors(0);
    check_lengths(0);
    check_chunks(0);
}

static void test_instructions(void **state)
{
    lora_cpu cpu = lora__cpu_features() & LORA_CPU_SHA;

    (void)state;
    if (cpu == 0) {
        skip();
    }
    check_vectors(cpu);
    check_lengths(cpu);
    check_chunks(cpu);
}

static uint32_t crc32_of(const void *data, size_t bytes)
{
    lora__crc32 crc;

    lora__crc32_init(&crc);
    lora__crc32_update(&crc, data, bytes);
    return crc.value;
}

static void test_crc32(void **state)
{
    uint8_t data[300];
    uint8_t *big = make_big();
    lora__crc32 all, one;

    (void)state;
    assert_int_equal(crc32_of(NULL, 0), 0);
    assert_int_equal(crc32_of("123456789", 9), 0xCBF43926);
    assert_int_equal(crc32_of(big + 1, BIG), 0xEF085083);

    /* The CRC of the CRCs, little-endian, of every length from 0 to 300. */
    fill_small(data);
    lora__crc32_init(&all);
    for (size_t n = 0; n <= 300; n++) {
        uint32_t value = crc32_of(data, n);
        uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8),
                            (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
        lora__crc32_update(&all, bytes, 4);
    }
    assert_int_equal(all.value, 0xA4790FED);

    for (size_t cut = 0; cut <= 300; cut++) {
        lora__crc32_init(&one);
        lora__crc32_update(&one, data, cut);
        lora__crc32_update(&one, data + cut, 300 - cut);
        assert_int_equal(one.value, crc32_of(data, 300));
    }
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_portable),
        cmocka_unit_test(test_instructions),
        cmocka_unit_test(test_crc32),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
