/* Linkage and compiler attributes of the public interface.
 *
 * Two macros change what a program sees: LORA_NAMESPACE (a prefix for every
 * public name, so that two copies can live in one program) and
 * LORA_NO_DEPRECATED (hides deprecated declarations).
 */
#ifndef LORA_EXPORT_H
#define LORA_EXPORT_H

#ifdef LORA_NAMESPACE
#include <lora/rename.h>
#endif

#ifndef LORA_API
#if defined(_WIN32) && defined(LORA_SHARED)
#ifdef LORA_BUILDING
#define LORA_API __declspec(dllexport)
#else
#define LORA_API __declspec(dllimport)
#endif
#elif defined(__GNUC__) && defined(LORA_BUILDING)
#define LORA_API __attribute__((visibility("default")))
#else
#define LORA_API
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LORA_NODISCARD __attribute__((warn_unused_result))
#define LORA_DEPRECATED(since, use)                                            \
    __attribute__((deprecated("since " since "; use " use)))
#else
#define LORA_NODISCARD
#define LORA_DEPRECATED(since, use)
#endif

#endif
