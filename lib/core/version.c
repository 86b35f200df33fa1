/* What this build is: version, compiler, parts that are in it. */
#include "platform/compiler.h"

#include <lora/version.h>

#include <string.h>

#define VERSION_TEXT(x) #x
#define VERSION_VALUE(x) VERSION_TEXT(x)

#if defined(__clang__)
#define VERSION_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define VERSION_COMPILER "gcc " __VERSION__
#elif defined(_MSC_VER)
#define VERSION_COMPILER "msvc " VERSION_VALUE(_MSC_VER)
#else
#define VERSION_COMPILER "unknown compiler"
#endif

#if LORA__X86
#define VERSION_SIMD ", simd x86"
#elif LORA__NEON
#define VERSION_SIMD ", simd neon"
#else
#define VERSION_SIMD ", no simd"
#endif

#ifdef LORA_NO_THREADS
#define VERSION_THREADS ", no threads"
#else
#define VERSION_THREADS ", threads"
#endif

#ifdef LORA_HAVE_ZLIB
#define VERSION_ZLIB ", zlib"
#else
#define VERSION_ZLIB ", no zlib"
#endif

uint32_t lora_version_number(void)
{
    return LORA_VERSION_NUMBER;
}

const char *lora_version_string(void)
{
    return LORA_VERSION_STRING;
}

const char *lora_build_info(void)
{
    return "liblora " LORA_VERSION_STRING
           ", " VERSION_COMPILER VERSION_SIMD VERSION_THREADS VERSION_ZLIB;
}

int32_t lora_feature_supported(const char *name)
{
    static const char *const version_features[] = {
        "map",
#ifndef LORA_NO_THREADS
        "threads",
#endif
#if LORA__X86 || LORA__NEON
        "simd",
#endif
#ifdef LORA_HAVE_ZLIB
        "zlib",
#endif
    };
    size_t i;

    if (name == NULL) {
        return 0;
    }
    for (i = 0; i < LORA__COUNT(version_features); i++) {
        if (strcmp(name, version_features[i]) == 0) {
            return 1;
        }
    }
    return 0;
}
