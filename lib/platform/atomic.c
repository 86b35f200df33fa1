/* Atomic operations, on C11 atomics; with MSVC on its intrinsics. */
#include "platform/atomic.h"

#ifdef _MSC_VER

#include <intrin.h>

LORA_PRIVATE uint32_t lora__atomic_add_u32(uint32_t *value, uint32_t delta)
{
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)value,
                                             (long)delta) +
           delta;
}

LORA_PRIVATE uint32_t lora__atomic_load_u32(const uint32_t *value)
{
    return (uint32_t)_InterlockedOr((volatile long *)value, 0);
}

LORA_PRIVATE void lora__atomic_store_u32(uint32_t *value, uint32_t desired)
{
    _InterlockedExchange((volatile long *)value, (long)desired);
}

LORA_PRIVATE uint64_t lora__atomic_add_u64(uint64_t *value, uint64_t delta)
{
    return (uint64_t)_InterlockedExchangeAdd64((volatile __int64 *)value,
                                               (__int64)delta) +
           delta;
}

LORA_PRIVATE uint64_t lora__atomic_load_u64(const uint64_t *value)
{
    return (uint64_t)_InterlockedOr64((volatile __int64 *)value, 0);
}

LORA_PRIVATE void lora__atomic_max_u64(uint64_t *value, uint64_t floor)
{
    uint64_t seen = lora__atomic_load_u64(value);
    while (seen < floor) {
        uint64_t old = (uint64_t)_InterlockedCompareExchange64(
            (volatile __int64 *)value, (__int64)floor, (__int64)seen);
        if (old == seen) {
            return;
        }
        seen = old;
    }
}

#else

#include <stdatomic.h>

/* The counters are plain integers in structs that other languages may see;
 * they are lock-free and of the same size as their atomic types. */
_Static_assert(sizeof(_Atomic uint32_t) == sizeof(uint32_t), "atomic layout");
_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "atomic layout");

LORA_PRIVATE uint32_t lora__atomic_add_u32(uint32_t *value, uint32_t delta)
{
    return atomic_fetch_add((_Atomic uint32_t *)value, delta) + delta;
}

LORA_PRIVATE uint32_t lora__atomic_load_u32(const uint32_t *value)
{
    return atomic_load((const _Atomic uint32_t *)value);
}

LORA_PRIVATE void lora__atomic_store_u32(uint32_t *value, uint32_t desired)
{
    atomic_store((_Atomic uint32_t *)value, desired);
}

LORA_PRIVATE uint64_t lora__atomic_add_u64(uint64_t *value, uint64_t delta)
{
    return atomic_fetch_add((_Atomic uint64_t *)value, delta) + delta;
}

LORA_PRIVATE uint64_t lora__atomic_load_u64(const uint64_t *value)
{
    return atomic_load((const _Atomic uint64_t *)value);
}

LORA_PRIVATE void lora__atomic_max_u64(uint64_t *value, uint64_t floor)
{
    uint64_t seen = lora__atomic_load_u64(value);

    while (seen < floor && !atomic_compare_exchange_weak(
                               (_Atomic uint64_t *)value, &seen, floor)) {
    }
}

#endif
