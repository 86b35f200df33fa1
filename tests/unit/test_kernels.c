/* Every variant of the kernels this CPU has.
 *
 * Conversions, axpy and scale against the reference, bit by bit, at every
 * count up to 67, at odd addresses, and with the floating-point unit set to
 * flush subnormals. (That the reference itself is right is test_dtype's
 * matter, from definitions.) Sums against plain loops in long double, within
 * bounds.
 *
 * Also built without cmocka: -DTEST_PLAIN.
 */
#ifdef TEST_PLAIN
#include "plain.h"
#else
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#endif

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "platform/cpuid.h"

#include <lora/context.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define MOST_COUNT 67
#define GUARD 16

static const lora__kernels *variants[4];
static const char *variant_names[4];
static size_t variant_count;
static const lora__kernels *ref;

static void find_variants(void)
{
    static const struct {
        lora_cpu needs;
        const char *name;
    } known[] = {
        {LORA_CPU_AVX2, "avx2"},
        {LORA_CPU_AVX2 | LORA_CPU_AVX512, "avx512"},
        {LORA_CPU_NEON, "neon"},
    };
    const lora_cpu cpu = lora__cpu_features();

    ref = lora__kernels_get(0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if ((cpu & known[i].needs) == known[i].needs) {
            variant_names[variant_count] = known[i].name;
            variants[variant_count++] = lora__kernels_get(known[i].needs);
        }
    }
}

static uint64_t random_state = 88172645463325252u;

static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* In [-1, 1). */
static double random_number(void)
{
    return (double)(int64_t)random_bits() / 9223372036854775808.0;
}

/* Subnormals treated as zero, on input and on output; or not. */
static void set_flushing(int on)
{
#if defined(__x86_64__)
    const unsigned bits = 0x8040; /* FTZ, DAZ */

    _mm_setcsr(on ? _mm_getcsr() | bits : _mm_getcsr() & ~bits);
#elif defined(__aarch64__)
    const uint64_t bit = (uint64_t)1 << 24; /* FZ */
    uint64_t fpcr;

    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    fpcr = on ? fpcr | bit : fpcr & ~bit;
    __asm__ volatile("msr fpcr, %0" : : "r"(fpcr));
#else
    (void)on;
#endif
}

/* The table that goes with a CPU. */
static void the_best_allowed_variant_is_chosen(void **state)
{
    const lora_cpu cpu = lora__cpu_features();

    (void)state;
    assert_true(strcmp(ref->name, "ref") == 0);
    for (size_t i = 0; i < variant_count; i++) {
        assert_true(strcmp(variants[i]->name, variant_names[i]) == 0);
    }
    if (variant_count != 0) {
        assert_true(lora__kernels_get(cpu) == variants[variant_count - 1]);
    }
    assert_true((cpu & LORA_CPU_AVX512) == 0 || (cpu & LORA_CPU_AVX2) != 0);
    assert_true(lora__kernels_get(LORA_CPU_AVX512) == ref);
    assert_true(lora__kernels_get(LORA_CPU_SHA) == ref);
}

/* What the compiler's own run-time library says. */
static void features_are_the_compilers(void **state)
{
    (void)state;
#if LORA__X86 && !defined(_WIN32)
    const int avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                       __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl");

    assert_int_equal((lora__cpu_features() & LORA_CPU_AVX2) != 0, avx2 != 0);
    assert_int_equal((lora__cpu_features() & LORA_CPU_AVX512) != 0,
                     avx512 != 0);
#endif
}

/* One conversion with the types taken off. */
typedef struct conversion {
    const char *name;
    size_t in_bytes;
    size_t out_bytes;
    void (*run)(const lora__kernels *k, void *out, const void *in, size_t n);
} conversion;

#define DEFINE_CONVERSION(name)                                                \
    static void run_##name(const lora__kernels *k, void *out, const void *in,  \
                           size_t n)                                           \
    {                                                                          \
        k->name(out, in, n);                                                   \
    }

DEFINE_CONVERSION(f16_to_f32)
DEFINE_CONVERSION(bf16_to_f32)
DEFINE_CONVERSION(f32_to_f16)
DEFINE_CONVERSION(f32_to_bf16)
DEFINE_CONVERSION(f32_to_f64)
DEFINE_CONVERSION(f64_to_f32)
DEFINE_CONVERSION(f64_to_f32_odd)

static const conversion conversions[] = {
    {"f16_to_f32", 2, 4, run_f16_to_f32},
    {"bf16_to_f32", 2, 4, run_bf16_to_f32},
    {"f32_to_f16", 4, 2, run_f32_to_f16},
    {"f32_to_bf16", 4, 2, run_f32_to_bf16},
    {"f32_to_f64", 4, 8, run_f32_to_f64},
    {"f64_to_f32", 8, 4, run_f64_to_f32},
    {"f64_to_f32_odd", 8, 4, run_f64_to_f32_odd},
};

#define CONVERSION_COUNT (sizeof conversions / sizeof *conversions)

static void check_same(const conversion *c,
                       const lora__kernels *k,
                       const unsigned char *want,
                       const unsigned char *got,
                       size_t count)
{
    for (size_t i = 0; i < count * c->out_bytes; i++) {
        if (want[i] != got[i]) {
            fail_msg("%s %s: element %zu", k->name, c->name, i / c->out_bytes);
        }
    }
}

/* The inputs through the reference, then through every variant, with and
 * without flushing; the reference, too, must not heed it. */
static void
compare_conversion(const conversion *c, const void *in, size_t count)
{
    unsigned char *want = malloc(count * c->out_bytes);
    unsigned char *got = malloc(count * c->out_bytes);

    assert_true(want != NULL && got != NULL);
    c->run(ref, want, in, count);
    for (size_t v = 0; v < variant_count; v++) {
        memset(got, 0xa5, count * c->out_bytes);
        c->run(variants[v], got, in, count);
        check_same(c, variants[v], want, got, count);
        memset(got, 0xa5, count * c->out_bytes);
        set_flushing(1);
        c->run(variants[v], got, in, count);
        set_flushing(0);
        check_same(c, variants[v], want, got, count);
    }
    set_flushing(1);
    c->run(ref, got, in, count);
    set_flushing(0);
    check_same(c, ref, want, got, count);
    free(want);
    free(got);
}

static void decoding_is_the_references_for_all_codes(void **state)
{
    static uint16_t codes[1 << 16];

    (void)state;
    for (uint32_t i = 0; i < 1 << 16; i++) {
        codes[i] = (uint16_t)i;
    }
    compare_conversion(&conversions[0], codes, 1 << 16);
    compare_conversion(&conversions[1], codes, 1 << 16);
}

/* Mantissas where rounding to `kept` of `bits` bits may go wrong: what is cut
 * off is zero, one, just below, at and just above a half, and all ones, under
 * every short pattern of what is kept, and under random ones. */
static uint64_t mantissa_of(size_t index, uint32_t bits, uint32_t kept)
{
    const uint32_t cut = bits - kept;
    const uint64_t half = (uint64_t)1 << (cut - 1);
    const uint64_t ends[] = {0, 1, half - 1, half, half + 1, 2 * half - 1};
    const uint64_t upper[] = {0,
                              1,
                              2,
                              3,
                              ((uint64_t)1 << kept) - 1,
                              ((uint64_t)1 << kept) - 2,
                              random_bits(),
                              random_bits()};
    const uint64_t top = upper[index / 6 % 8] & (((uint64_t)1 << kept) - 1);

    return top << cut | ends[index % 6];
}

#define MANTISSAS 48

/* All signs and exponents of F32, and mantissas as above, for both targets,
 * for subnormal results (any number of bits kept) and at random. */
static void f32_encoding_is_the_references(void **state)
{
    const size_t per_exponent = MANTISSAS * 22 + 512;
    uint32_t *in = malloc(512 * per_exponent * sizeof *in);
    size_t n = 0;

    (void)state;
    assert_true(in != NULL);
    for (uint32_t exponent = 0; exponent < 512; exponent++) {
        for (uint32_t kept = 1; kept < 23; kept++) {
            for (size_t i = 0; i < MANTISSAS; i++) {
                in[n++] = exponent << 23 | (uint32_t)mantissa_of(i, 23, kept);
            }
        }
        for (size_t i = 0; i < 512; i++) {
            in[n++] = exponent << 23 | (uint32_t)(random_bits() >> 41);
        }
    }
    for (size_t c = 2; c < 5; c++) {
        compare_conversion(&conversions[c], in, n);
    }
    free(in);
}

static void f64_encoding_is_the_references(void **state)
{
    const size_t most = 4096 * (MANTISSAS * 24);
    uint64_t *in = malloc(most * sizeof *in);
    size_t n = 0;

    (void)state;
    assert_true(in != NULL);
    for (uint64_t exponent = 0; exponent < 4096; exponent++) {
        /* All bits kept where an F32 can be, else a few. */
        const uint64_t field = exponent & 2047;
        const uint32_t step = field > 860 && field < 1160 ? 1 : 8;

        for (uint32_t kept = 1; kept < 25; kept += step) {
            for (size_t i = 0; i < MANTISSAS; i++) {
                in[n++] = exponent << 52 | mantissa_of(i, 52, kept);
            }
        }
    }
    assert_true(n <= most);
    compare_conversion(&conversions[5], in, n);
    compare_conversion(&conversions[6], in, n);
    free(in);
}

/* Rounding to odd and then to F16 or BF16 is rounding once: ties of those
 * types, disturbed far below what F32 holds, must not be ties any more. */
static void round_to_odd_prevents_double_rounding(void **state)
{
    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];
        const double f16_tie = 1 + ldexp(1, -11);
        const double bf16_tie = 1 + ldexp(1, -8);
        const double in[8] = {f16_tie,
                              f16_tie + ldexp(1, -50),
                              f16_tie - ldexp(1, -50),
                              ldexp(1, -25),
                              ldexp(1, -25) + ldexp(1, -70),
                              bf16_tie,
                              bf16_tie + ldexp(1, -50),
                              bf16_tie - ldexp(1, -50)};
        const uint16_t f16[8] = {0x3c00, 0x3c01, 0x3c00, 0,
                                 1,      0x3c04, 0x3c04, 0x3c04};
        const uint16_t bf16[3] = {0x3f80, 0x3f81, 0x3f80};
        uint16_t out[8];
        float odd[8];

        const double ends[4] = {1e39, -1e300, (double)INFINITY, -1e-300};
        const float odd_ends[4] = {FLT_MAX, -FLT_MAX, INFINITY, -0x1p-149f};

        k->f64_to_f32_odd(odd, ends, 4);
        assert_memory_equal(odd, odd_ends, sizeof odd_ends);
        k->f64_to_f32_odd(odd, in, 8);
        k->f32_to_f16(out, odd, 8);
        assert_memory_equal(out, f16, sizeof f16);
        k->f32_to_bf16(out, odd + 5, 3);
        assert_memory_equal(out, bf16, sizeof bf16);
    }
}

/* Typed pointers by steps of an element, others byte by byte. */
static size_t alignment_step(size_t bytes)
{
    return bytes == 2 ? 1 : bytes;
}

static void conversions_keep_to_their_count(void **state)
{
    unsigned char in[(MOST_COUNT + GUARD) * 8];
    unsigned char want[(MOST_COUNT + 2 * GUARD) * 8];
    unsigned char got[sizeof want];

    (void)state;
    for (size_t i = 0; i < sizeof in / 8; i++) {
        /* Half of them numbers of ordinary size, half anything. */
        const double number = random_number();
        uint64_t bits = random_bits();

        if (i % 2 == 0) {
            memcpy(&bits, &number, sizeof bits);
        }
        memcpy(in + 8 * i, &bits, sizeof bits);
    }
    for (size_t c = 0; c < CONVERSION_COUNT; c++) {
        const conversion *conv = &conversions[c];
        const size_t in_step = alignment_step(conv->in_bytes);
        const size_t out_step = alignment_step(conv->out_bytes);

        for (size_t n = 0; n <= MOST_COUNT; n++) {
            for (size_t shift = 0; shift < 5; shift++) {
                const void *from = in + shift * in_step;
                const size_t at = GUARD * 8 + shift * out_step;

                memset(want, 0xa5, sizeof want);
                conv->run(ref, want + at, from, n);
                for (size_t v = 0; v < variant_count; v++) {
                    memset(got, 0xa5, sizeof got);
                    conv->run(variants[v], got + at, from, n);
                    assert_memory_equal(want, got, sizeof want);
                }
            }
        }
    }
}

/* A number of any size, now and then zero, infinite or NaN. */
static double any_number(void)
{
    const uint64_t choice = random_bits() % 64;

    switch (choice) {
    case 0:
        return INFINITY;
    case 1:
        return -INFINITY;
    case 2:
        return (double)NAN;
    case 3:
        return -0.0;
    default:
        return ldexp(random_number(), (int)(choice % 3) * 50 - 50);
    }
}

/* Two results are the same in bits, or both NaN. */
static void check_f32(const float *want, const float *got, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isnan(want[i]) || !isnan(got[i])) {
            assert_memory_equal(&want[i], &got[i], sizeof *want);
        }
    }
}

static void check_f64(const double *want, const double *got, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!isnan(want[i]) || !isnan(got[i])) {
            assert_memory_equal(&want[i], &got[i], sizeof *want);
        }
    }
}

enum { ROOM = MOST_COUNT + 2 * GUARD };

/* in place: out[j] = fma(b, out[j], out[j]). */
static void vectors_f32(const lora__kernels *k, size_t n, size_t at, float b)
{
    float a[ROOM];
    float start[ROOM];
    float want[ROOM];
    float got[ROOM];

    for (size_t i = 0; i < ROOM; i++) {
        a[i] = (float)any_number();
        start[i] = (float)any_number();
    }
    memcpy(want, start, sizeof want);
    memcpy(got, start, sizeof got);
    ref->axpy_f32(want + at, a + 3, b, n);
    k->axpy_f32(got + at, a + 3, b, n);
    check_f32(want, got, ROOM);
    ref->axpy_f32(want + at, want + at, b, n);
    k->axpy_f32(got + at, got + at, b, n);
    check_f32(want, got, ROOM);
    ref->scale_f32(want + at, b, n);
    k->scale_f32(got + at, b, n);
    check_f32(want, got, ROOM);
    assert_memory_equal(got, start, at * sizeof *got);
    assert_memory_equal(got + at + n, start + at + n,
                        (ROOM - at - n) * sizeof *got);
}

static void vectors_f64(const lora__kernels *k, size_t n, size_t at, double b)
{
    double a[ROOM];
    double start[ROOM];
    double want[ROOM];
    double got[ROOM];

    for (size_t i = 0; i < ROOM; i++) {
        a[i] = any_number();
        start[i] = any_number();
    }
    memcpy(want, start, sizeof want);
    memcpy(got, start, sizeof got);
    ref->axpy_f64(want + at, a + 3, b, n);
    k->axpy_f64(got + at, a + 3, b, n);
    check_f64(want, got, ROOM);
    ref->axpy_f64(want + at, want + at, b, n);
    k->axpy_f64(got + at, got + at, b, n);
    check_f64(want, got, ROOM);
    ref->scale_f64(want + at, b, n);
    k->scale_f64(got + at, b, n);
    check_f64(want, got, ROOM);
    assert_memory_equal(got, start, at * sizeof *got);
    assert_memory_equal(got + at + n, start + at + n,
                        (ROOM - at - n) * sizeof *got);
}

static void axpy_and_scale_are_the_references(void **state)
{
    static const double factors[] = {1, -0.75, 1e-30, 3e20, 0};

    (void)state;
    for (size_t v = 0; v < variant_count; v++) {
        for (size_t n = 0; n <= MOST_COUNT; n++) {
            for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
                vectors_f32(variants[v], n, GUARD + i, (float)factors[i]);
                vectors_f64(variants[v], n, GUARD + i, factors[i]);
            }
        }
    }
}

/* (1 + u)^2 - (1 + 2u) = u^2, which two roundings lose. */
static void axpy_is_fused(void **state)
{
    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];
        const float u = FLT_EPSILON;
        float a_f32[9];
        float out_f32[9];
        double a_f64[9];
        double out_f64[9];

        for (size_t i = 0; i < 9; i++) {
            a_f32[i] = 1 + u;
            out_f32[i] = -(1 + 2 * u);
            a_f64[i] = 1 + DBL_EPSILON;
            out_f64[i] = -(1 + 2 * DBL_EPSILON);
        }
        k->axpy_f32(out_f32, a_f32, 1 + u, 9);
        k->axpy_f64(out_f64, a_f64, 1 + DBL_EPSILON, 9);
        for (size_t i = 0; i < 9; i++) {
            assert_true(out_f32[i] == u * u);
            assert_true(out_f64[i] == DBL_EPSILON * DBL_EPSILON);
        }
    }
}

/* |computed - exact| <= (k + 1) u / (1 - (k + 1) u) * sum |a| |b| with
 * u = 2^-53, whatever the order; the same with u = 2^-64 for our own loop,
 * which the factor below covers many times over. */
static int
within_bound(double got, long double exact, long double magnitudes, size_t k)
{
    const long double ku = (long double)(k + 1) * 0x1p-53L;

    return fabsl((long double)got - exact) <=
           ku / (1 - ku) * magnitudes * (1 + 0x1p-9L);
}

static double *random_matrix(size_t count)
{
    double *a = malloc(count * sizeof *a);

    assert_true(a != NULL);
    for (size_t i = 0; i < count; i++) {
        a[i] = random_number();
    }
    return a;
}

/* The sum over p of a[p * a_step] * b[p * b_step]. */
static int is_product(double got,
                      const double *a,
                      size_t a_step,
                      const double *b,
                      size_t b_step,
                      size_t k)
{
    long double sum = 0;
    long double magnitudes = 0;

    for (size_t p = 0; p < k; p++) {
        const long double product =
            (long double)a[p * a_step] * (long double)b[p * b_step];

        sum += product;
        magnitudes += fabsl(product);
    }
    return within_bound(got, sum, magnitudes, k);
}

/* C[m,n] = A[m,k] B[k,n]; rows longer than needed, and what lies between them
 * left alone. All variants but the reference are chains of fused steps, so
 * they agree with one and with each other in every bit. */
static void
check_gemm(const lora__kernels *kernels, size_t m, size_t n, size_t k)
{
    const size_t lda = k + 3;
    const size_t ldb = n + 1;
    const size_t ldc = n + 2;
    double *a = random_matrix(m * lda + 1);
    double *b = random_matrix(k * ldb + 1);
    double *c = random_matrix(m * ldc + 1);
    double *before = malloc((m * ldc + 1) * sizeof *before);

    assert_true(before != NULL);
    memcpy(before, c, (m * ldc + 1) * sizeof *before);
    kernels->gemm_f64(c, ldc, a, lda, b, ldb, m, n, k);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double chain = 0;

            if (!is_product(c[i * ldc + j], a + i * lda, 1, b + j, ldb, k)) {
                fail_msg("%s gemm %zu %zu %zu", kernels->name, m, n, k);
            }
            for (size_t p = 0; p < k; p++) {
                chain = fma(a[i * lda + p], b[p * ldb + j], chain);
            }
            if (kernels != ref) {
                assert_memory_equal(&c[i * ldc + j], &chain, sizeof chain);
            }
        }
        assert_memory_equal(c + i * ldc + n, before + i * ldc + n,
                            2 * sizeof *c);
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void gemm_is_the_product(void **state)
{
    static const size_t rows[] = {0, 1, 3, 4, 5, 8, 9, 17};
    static const size_t cols[] = {0, 1, 2, 7, 8, 11, 12, 13, 24, 25, 50};
    static const size_t depths[] = {0, 1, 2, 5, 127, 128, 129, 300};

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
                for (size_t p = 0; p < sizeof depths / sizeof *depths; p++) {
                    check_gemm(k, rows[i], cols[j], depths[p]);
                }
            }
        }
        check_gemm(k, 33, 1280, 64);
    }
}

static float *random_floats(size_t count)
{
    float *a = malloc(count * sizeof *a);

    assert_true(a != NULL);
    for (size_t i = 0; i < count; i++) {
        a[i] = (float)random_number();
    }
    return a;
}

/* C[m,n] = A[m,k] B[k,n] in f32: the chain of fused steps, in every bit, the
 * reference too. */
static void
check_gemm_f32(const lora__kernels *kernels, size_t m, size_t n, size_t k)
{
    const size_t lda = k + 3;
    const size_t ldb = n + 1;
    const size_t ldc = n + 2;
    float *a = random_floats(m * lda + 1);
    float *b = random_floats(k * ldb + 1);
    float *c = random_floats(m * ldc + 1);
    float *before = malloc((m * ldc + 1) * sizeof *before);

    assert_true(before != NULL);
    memcpy(before, c, (m * ldc + 1) * sizeof *before);
    kernels->gemm_f32(c, ldc, a, lda, b, ldb, m, n, k);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            float chain = 0;

            for (size_t p = 0; p < k; p++) {
                chain = fmaf(a[i * lda + p], b[p * ldb + j], chain);
            }
            if (memcmp(&c[i * ldc + j], &chain, sizeof chain) != 0) {
                fail_msg("%s gemm_f32 %zu %zu %zu", kernels->name, m, n, k);
            }
        }
        assert_memory_equal(c + i * ldc + n, before + i * ldc + n,
                            2 * sizeof *c);
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void gemm_f32_is_the_chain(void **state)
{
    static const size_t rows[] = {0, 1, 3, 4, 5, 8, 9, 17};
    static const size_t cols[] = {0, 1, 2, 15, 16, 17, 24, 25, 47, 48, 49, 100};
    static const size_t depths[] = {0, 1, 2, 5, 127, 128, 129, 300};

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
                for (size_t p = 0; p < sizeof depths / sizeof *depths; p++) {
                    check_gemm_f32(k, rows[i], cols[j], depths[p]);
                }
            }
        }
        check_gemm_f32(k, 33, 640, 64);
        check_gemm_f32(k, 3, 2100, 7);
    }
}

/* out[c, r] = in[r, c], and nothing between the rows. */
static void check_turn(const lora__kernels *kernels, size_t rows, size_t cols)
{
    const size_t in_step = cols + 3;
    const size_t out_step = rows + 2;
    float *in = random_floats(rows * in_step + 1);
    float *out = random_floats(cols * out_step + 1);
    float *before = malloc((cols * out_step + 1) * sizeof *before);

    assert_true(before != NULL);
    memcpy(before, out, (cols * out_step + 1) * sizeof *before);
    kernels->turn_f32(out, out_step, in, in_step, rows, cols);
    for (size_t c = 0; c < cols; c++) {
        for (size_t r = 0; r < rows; r++) {
            if (memcmp(&out[c * out_step + r], &in[r * in_step + c],
                       sizeof *in) != 0) {
                fail_msg("%s turn_f32 %zu %zu", kernels->name, rows, cols);
            }
        }
        assert_memory_equal(out + c * out_step + rows,
                            before + c * out_step + rows, 2 * sizeof *out);
    }
    free(in);
    free(out);
    free(before);
}

static void turn_is_the_transpose(void **state)
{
    static const size_t sizes[] = {0, 1, 3, 4, 5, 16, 17, 63, 64, 66, 131};

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
                check_turn(v == variant_count ? ref : variants[v], sizes[i],
                           sizes[j]);
            }
        }
    }
}

/* C[m,n] = A[m,k] B[n,k]^T within the bound: sums of at most 512 in f32, which
 * are u = 2^-24 each, and beyond that in f64. */
static void
check_dots(const lora__kernels *kernels, size_t m, size_t n, size_t k)
{
    const size_t lda = k + 3;
    const size_t ldb = k + 1;
    const size_t ldc = n + 2;
    const size_t depth = k < LORA__DOTS_DEPTH ? k : LORA__DOTS_DEPTH;
    float *a = random_floats(m * lda + 1);
    float *b = random_floats(n * ldb + 1);
    double *c = random_matrix(m * ldc + 1);
    double *before = malloc((m * ldc + 1) * sizeof *before);

    assert_true(before != NULL);
    memcpy(before, c, (m * ldc + 1) * sizeof *before);
    kernels->dots_f32(c, ldc, a, lda, b, ldb, m, n, k);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            double magnitudes = 0;

            for (size_t p = 0; p < k; p++) {
                const double product =
                    (double)a[i * lda + p] * (double)b[j * ldb + p];

                sum += product;
                magnitudes += fabs(product);
            }
            if (!(fabs(c[i * ldc + j] - sum) <=
                  (double)depth * 0x1p-24 * magnitudes * 1.001)) {
                fail_msg("%s dots %zu %zu %zu", kernels->name, m, n, k);
            }
        }
        assert_memory_equal(c + i * ldc + n, before + i * ldc + n,
                            2 * sizeof *c);
    }
    free(a);
    free(b);
    free(c);
    free(before);
}

static void dots_are_products_of_rows(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 8, 9, 17};
    static const size_t depths[] = {0,  1,   3,   7,   8,   9,   15,
                                    16, 100, 511, 512, 513, 1100};

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
                for (size_t p = 0; p < sizeof depths / sizeof *depths; p++) {
                    check_dots(k, sizes[i], sizes[j], depths[p]);
                }
            }
        }
        check_dots(k, 48, 64, 640);
    }
}

/* Lower triangle of C[n,n] = A[n,k] A^T; the upper one left alone. */
static void check_gram(const lora__kernels *kernels, size_t n, size_t k)
{
    const size_t lda = k + 1;
    const size_t ldc = n + 2;
    double *a = random_matrix(n * lda + 1);
    double *c = random_matrix(n * ldc + 1);
    double *before = malloc((n * ldc + 1) * sizeof *before);

    assert_true(before != NULL);
    memcpy(before, c, (n * ldc + 1) * sizeof *before);
    kernels->gram_f64(c, ldc, a, lda, n, k);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            if (!is_product(c[i * ldc + j], a + i * lda, 1, a + j * lda, 1,
                            k)) {
                fail_msg("%s gram %zu %zu", kernels->name, n, k);
            }
        }
        assert_memory_equal(c + i * ldc + i + 1, before + i * ldc + i + 1,
                            (ldc - i - 1) * sizeof *c);
    }
    free(a);
    free(c);
    free(before);
}

static void gram_is_the_product(void **state)
{
    static const size_t depths[] = {0,   1,   3,   4,   7,   8,    9,
                                    100, 511, 512, 513, 520, 1100, 1280};

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t n = 0; n <= 17; n++) {
            for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
                check_gram(k, n, depths[i]);
            }
        }
        check_gram(k, 64, 640);
    }
}

/* y[m] = A x and y[n] += A^T x, and nothing beyond; at odd addresses. */
static void check_gemv(const lora__kernels *kernels, size_t m, size_t n)
{
    const size_t lda = n + 3;
    double *a = random_matrix(m * lda + 1);
    double *x = random_matrix(m + n + 2);
    double *y = random_matrix(m + n + 2);
    double *before = malloc((m + n + 2) * sizeof *before);
    double *column = malloc((m + 1) * sizeof *column);
    double *with = malloc((m + 1) * sizeof *with);

    assert_true(before != NULL && column != NULL && with != NULL);
    memcpy(before, y, (m + n + 2) * sizeof *before);
    kernels->gemv_f64(y + 1, a + 1, lda, x + 1, m, n);
    for (size_t i = 0; i < m; i++) {
        assert_true(is_product(y[1 + i], a + 1 + i * lda, 1, x + 1, 1, n));
    }
    assert_true(y[0] == before[0]);
    assert_memory_equal(y + 1 + m, before + 1 + m, (n + 1) * sizeof *y);

    memcpy(y, before, (m + n + 2) * sizeof *before);
    kernels->gemv_t_f64(y + 1, a + 1, lda, x + 1, m, n);
    with[0] = 1;
    memcpy(with + 1, x + 1, m * sizeof *x);
    for (size_t j = 0; j < n; j++) {
        column[0] = before[1 + j];
        for (size_t i = 0; i < m; i++) {
            column[1 + i] = a[1 + i * lda + j];
        }
        assert_true(is_product(y[1 + j], column, 1, with, 1, m + 1));
    }
    assert_true(y[0] == before[0]);
    assert_memory_equal(y + 1 + n, before + 1 + n, (m + 1) * sizeof *y);
    free(a);
    free(x);
    free(y);
    free(before);
    free(column);
    free(with);
}

static void gemv_is_the_product(void **state)
{
    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t m = 0; m <= 13; m++) {
            for (size_t n = 0; n <= 35; n++) {
                check_gemv(k, m, n);
            }
        }
        check_gemv(k, 70, 131);
    }
}

static void quotients_are_rounded_once(void **state)
{
    enum { N = 70 };
    double a[N];
    double b[N];
    double out[N];

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t n = 0; n < N - 1; n++) {
            const double before = out[n + 1] = random_number();

            for (size_t i = 0; i < N; i++) {
                a[i] = random_number();
                b[i] = random_number();
            }
            k->divide_f64(out + 1, a + 1, b + 1, n);
            assert_true(out[n + 1] == before);
            for (size_t i = 1; i <= n; i++) {
                assert_true(out[i] == a[i] / b[i]);
            }
        }
    }
}

/* Differences d that are two parts of one sign, so that d is off by 5
 * roundings, its inverse by 6 and t by 7; sums of t over powers of it by 7 more
 * each, and by one for each addition. */
static void poles_are_within_bounds(void **state)
{
    enum { N = 40 };
    double w[N];
    double p[N];

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t n = 0; n < N - 1; n++) {
            const long double unit = 0x1p-53L * (long double)(n + 21);
            double at[4];
            double origins[4];
            double got[16];

            for (size_t i = 0; i < N; i++) {
                w[i] = random_number();
                p[i] = 1e-3 * fabs(random_number()) + (double)i;
            }
            for (size_t i = 0; i < 4; i++) {
                origins[i] = i < 2 ? p[1] : p[n];
                at[i] = (i < 2 ? -1e-3 : 1e-3) * (1.1 + random_number());
            }
            k->poles_f64(got, w + 1, p + 1, origins, at, n);
            for (size_t i = 0; i < 16; i++) {
                const long double origin = (long double)origins[i % 4];
                long double sum = 0;
                long double size = 0;

                for (size_t j = 1; j <= n; j++) {
                    const long double pole = (long double)p[j];
                    const long double d = (pole - origin) * (pole + origin) -
                                          (long double)at[i % 4];
                    const long double t = (long double)w[j] / d;
                    const long double term = i < 4    ? t
                                             : i < 8  ? fabsl(t)
                                             : i < 12 ? t / d
                                                      : t / d / d;

                    sum += term;
                    size += fabsl(term);
                }
                assert_true(fabsl((long double)got[i] - sum) <= unit * size);
            }
        }
    }
}

static void dot_and_rotate_are_within_bounds(void **state)
{
    enum { N = 300 };
    double a[N];
    double b[N];

    (void)state;
    for (size_t v = 0; v <= variant_count; v++) {
        const lora__kernels *k = v == variant_count ? ref : variants[v];

        for (size_t n = 0; n < N - 2; n++) {
            const double c = random_number();
            const double s = random_number();
            double x[N];
            double y[N];

            for (size_t i = 0; i < N; i++) {
                a[i] = x[i] = random_number();
                b[i] = y[i] = random_number();
            }
            assert_true(
                is_product(k->dot_f64(a + 1, b + 2, n), a + 1, 1, b + 2, 1, n));
            assert_true(
                is_product(k->dot_f64(a + 1, a + 1, n), a + 1, 1, a + 1, 1, n));
            k->rotate_f64(x + 1, y + 2, c, s, n);
            assert_true(x[0] == a[0] && x[n + 1] == a[n + 1]);
            assert_true(y[1] == b[1] && y[n + 2] == b[n + 2]);
            for (size_t i = 0; i < n; i++) {
                const double factors[2] = {c, s};
                const double negated[2] = {c, -s};
                const double xy[2] = {a[i + 1], b[i + 2]};
                const double yx[2] = {b[i + 2], a[i + 1]};

                assert_true(is_product(x[i + 1], negated, 1, xy, 1, 2));
                assert_true(is_product(y[i + 2], factors, 1, yx, 1, 2));
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_allowed_variant_is_chosen),
        cmocka_unit_test(features_are_the_compilers),
        cmocka_unit_test(decoding_is_the_references_for_all_codes),
        cmocka_unit_test(f32_encoding_is_the_references),
        cmocka_unit_test(f64_encoding_is_the_references),
        cmocka_unit_test(round_to_odd_prevents_double_rounding),
        cmocka_unit_test(conversions_keep_to_their_count),
        cmocka_unit_test(axpy_and_scale_are_the_references),
        cmocka_unit_test(axpy_is_fused),
        cmocka_unit_test(gemm_is_the_product),
        cmocka_unit_test(gemm_f32_is_the_chain),
        cmocka_unit_test(turn_is_the_transpose),
        cmocka_unit_test(dots_are_products_of_rows),
        cmocka_unit_test(gram_is_the_product),
        cmocka_unit_test(gemv_is_the_product),
        cmocka_unit_test(quotients_are_rounded_once),
        cmocka_unit_test(poles_are_within_bounds),
        cmocka_unit_test(dot_and_rotate_are_within_bounds),
    };

    find_variants();
    for (size_t i = 0; i < variant_count; i++) {
        printf("variant %s\n", variants[i]->name);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
