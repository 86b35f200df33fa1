/* The few atomic operations the library needs, on C11 atomics or MSVC's. */
#ifndef LORA__PLATFORM_ATOMIC_H
#define LORA__PLATFORM_ATOMIC_H

#include "platform/compiler.h"

/* All sequentially consistent. `add` returns the new value. */
LORA_PRIVATE uint32_t lora__atomic_add_u32(uint32_t *value, uint32_t delta);
LORA_PRIVATE uint32_t lora__atomic_load_u32(const uint32_t *value);
LORA_PRIVATE void lora__atomic_store_u32(uint32_t *value, uint32_t desired);
LORA_PRIVATE uint64_t lora__atomic_add_u64(uint64_t *value, uint64_t delta);
LORA_PRIVATE uint64_t lora__atomic_load_u64(const uint64_t *value);

/* Raise `value` to at least `floor`. */
LORA_PRIVATE void lora__atomic_max_u64(uint64_t *value, uint64_t floor);

#endif
