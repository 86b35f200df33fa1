/* Asks the CPU, and the operating system through XCR0, what may be used.
 *
 * The answer costs a few CPUID instructions, microseconds under a hypervisor:
 * ask once and keep it, as a context does.
 */
#include "platform/cpuid.h"

#include <lora/context.h>

#if LORA__X86
#include <cpuid.h>
#endif

#if LORA__NEON && defined(__linux__)
#include <sys/auxv.h>
#endif

#if LORA__X86

/* Register state the operating system saves. */
#define CPUID_XCR0_AVX 0x06u    /* XMM, YMM */
#define CPUID_XCR0_AVX512 0xe6u /* and mask registers, both halves of ZMM */

static uint32_t cpuid_read_xcr0(void)
{
    uint32_t low;
    uint32_t high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

static int cpuid_has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

static uint32_t cpuid_read_features(void)
{
    /* Leaf 1, ECX. */
    const uint32_t sha_needs = 1u << 9 | 1u << 19; /* SSSE3, SSE4.1 */
    const uint32_t avx2_needs =
        1u << 12 | 1u << 28 | 1u << 29; /* FMA AVX F16C */
    const uint32_t osxsave = 1u << 27;
    /* Leaf 7, EBX. */
    const uint32_t avx2 = 1u << 5;
    const uint32_t sha = 1u << 29;
    const uint32_t avx512 =
        1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    uint32_t features = 0;
    uint32_t xcr0;
    unsigned eax = 0;
    unsigned leaf7_ebx = 0;
    unsigned leaf1_ecx = 0;
    unsigned leaf1_ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;

    if (!__get_cpuid(1, &eax, &leaf1_ebx, &leaf1_ecx, &edx) ||
        !__get_cpuid_count(7, 0, &eax, &leaf7_ebx, &ecx, &edx)) {
        return 0;
    }
    if (cpuid_has(leaf1_ecx, sha_needs) && cpuid_has(leaf7_ebx, sha)) {
        features |= LORA_CPU_SHA;
    }
#if defined(_WIN32) && !defined(__clang__)
    /* GCC aligns the Windows stack to 16 bytes only but spills wide vectors
     * with aligned moves (GCC bug 54412), so wide kernels would fault. */
    return features;
#endif
    xcr0 = cpuid_has(leaf1_ecx, osxsave) ? cpuid_read_xcr0() : 0;
    if (cpuid_has(xcr0, CPUID_XCR0_AVX) && cpuid_has(leaf1_ecx, avx2_needs) &&
        cpuid_has(leaf7_ebx, avx2)) {
        features |= LORA_CPU_AVX2;
        if (cpuid_has(xcr0, CPUID_XCR0_AVX512) &&
            cpuid_has(leaf7_ebx, avx512)) {
            features |= LORA_CPU_AVX512;
        }
    }
    return features;
}

#elif LORA__NEON

/* NEON is part of AArch64; the SHA-256 instructions are an extension. */
static uint32_t cpuid_read_features(void)
{
    uint32_t features = LORA_CPU_NEON;

#if defined(__linux__)
    const unsigned long long hwcap_sha2 = 1u << 6;

    if (getauxval(AT_HWCAP) & hwcap_sha2) {
        features |= LORA_CPU_SHA;
    }
#elif defined(__APPLE__) || defined(__ARM_FEATURE_SHA2) ||                     \
    defined(__ARM_FEATURE_CRYPTO)
    features |= LORA_CPU_SHA;
#endif
    return features;
}

#else

static uint32_t cpuid_read_features(void)
{
    return 0;
}

#endif

LORA_PRIVATE uint32_t lora__cpu_features(void)
{
    return cpuid_read_features();
}
