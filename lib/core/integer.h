/* Checked arithmetic on sizes. Everything that comes from a file goes
 * through these; plain `a * b` on such numbers is a fault.
 *
 * Each returns 1 and stores the result, or returns 0 on overflow.
 */
#ifndef LORA__CORE_INTEGER_H
#define LORA__CORE_INTEGER_H

#include "platform/compiler.h"

static inline int lora__add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    *out = a + b;
    return *out >= a;
}

static inline int lora__mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    *out = a * b;
    return a == 0 || *out / a == b;
}

static inline int lora__add_size(size_t a, size_t b, size_t *out)
{
    *out = a + b;
    return *out >= a;
}

static inline int lora__mul_size(size_t a, size_t b, size_t *out)
{
    *out = a * b;
    return a == 0 || *out / a == b;
}

static inline int lora__u64_to_size(uint64_t a, size_t *out)
{
    *out = (size_t)a;
    return *out == a;
}

#endif
