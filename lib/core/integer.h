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

/* Elements of the dimensions [first, ndim) of a shape, which are not negative:
 * with `first` 1 the columns of a weight, with 2 those of a kernel. SIZE_MAX,
 * for which there is no memory, stands for all that is more than that. */
static inline size_t
lora__shape_count(const int64_t *shape, int32_t first, int32_t ndim)
{
    size_t count = 1;
    int fits = 1;

    for (int32_t i = first; i < ndim; i++) {
        fits &= (uint64_t)shape[i] <= SIZE_MAX &&
                lora__mul_size(count, (size_t)shape[i], &count);
    }
    return fits ? count : SIZE_MAX;
}

static inline int lora__u64_to_size(uint64_t a, size_t *out)
{
    *out = (size_t)a;
    return *out == a;
}

#endif
