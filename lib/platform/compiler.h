/* What differs between compilers; the only place for GNU extensions.
 *
 * Anyone may include this.
 */
#ifndef LORA__PLATFORM_COMPILER_H
#define LORA__PLATFORM_COMPILER_H

#include <stddef.h>
#include <stdint.h>

/* Linkage of names shared between the library's files. The amalgamation and
 * the unity build define it as `static`. Declarations of data need a word of
 * their own: `extern` between files, `static` within one. */
#ifdef LORA_PRIVATE
#define LORA_PRIVATE_DATA LORA_PRIVATE
#else
#define LORA_PRIVATE
#define LORA_PRIVATE_DATA extern
#endif

#ifdef __FAST_MATH__
#error "liblora defines its results bit by bit: build without -ffast-math"
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LORA__PRINTF(text, first) __attribute__((format(printf, text, first)))
#define LORA__UNUSED __attribute__((unused))
#define LORA__LIKELY(x) __builtin_expect(!!(x), 1)
#else
#define LORA__PRINTF(text, first)
#define LORA__UNUSED
#define LORA__LIKELY(x) (x)
#endif

/* Per-function instruction sets, so that every file compiles with plain
 * flags under any build system. Empty where SIMD is left out. */
#if !defined(LORA_NO_SIMD) && defined(__x86_64__) &&                           \
    (defined(__GNUC__) || defined(__clang__))
#define LORA__X86 1
#define LORA__TARGET(isa) __attribute__((target(isa)))
#else
#define LORA__X86 0
#define LORA__TARGET(isa)
#endif

#if !defined(LORA_NO_SIMD) && defined(__aarch64__) &&                          \
    (defined(__GNUC__) || defined(__clang__))
#define LORA__NEON 1
#else
#define LORA__NEON 0
#endif

/* Tell the processor that a loop waits for another thread. */
#if (defined(__GNUC__) || defined(__clang__)) &&                               \
    (defined(__x86_64__) || defined(__i386__))
#define LORA__PAUSE() __builtin_ia32_pause()
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__)
#define LORA__PAUSE() __asm__ volatile("isb" ::: "memory")
#else
#define LORA__PAUSE() ((void)0)
#endif

#define LORA__COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
