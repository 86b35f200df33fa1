/* Version of the headers, and of the library they are linked to.
 *
 * The only place where the version is written: both builds, the bindings and
 * the changelog check read it from here.
 */
#ifndef LORA_VERSION_H
#define LORA_VERSION_H

#include <lora/export.h>
#include <stdint.h>

#define LORA_VERSION_MAJOR 0
#define LORA_VERSION_MINOR 1
#define LORA_VERSION_PATCH 0
#define LORA_VERSION_STRING "0.1.0"

/* Until 1.0 each minor release may break the ABI, so it is part of the name. */
#define LORA_SOVERSION "0.1"

#define LORA_VERSION_NUMBER                                                    \
    (LORA_VERSION_MAJOR * 1000000 + LORA_VERSION_MINOR * 1000 +                \
     LORA_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/** Version of the linked library, as LORA_VERSION_NUMBER.
 *
 *  @return major * 1000000 + minor * 1000 + patch.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API uint32_t lora_version_number(void);

/** Version of the linked library as text, "0.1.0".
 *
 *  @return a static string.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_version_string(void);

/** What this build has, in one line: compiler, SIMD, threads, zlib.
 *
 *  @return a static string, for logs and bug reports.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_build_info(void);

/** Ask whether a part of the library is in this build.
 *
 *  @param name  "threads", "simd", "zlib", "map"; NULL and unknown names give
 * 0.
 *  @return 1 or 0.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API int32_t lora_feature_supported(const char *name);

#ifdef __cplusplus
}
#endif

#endif
