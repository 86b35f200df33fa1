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

/* Elements of the dimensions [first, ndim) of a shape, which are not negative:
 * with `first` 1 the columns of a weight, with 2 those of a kernel. The largest
 * number stands for all that are larger. */
static inline uint64_t
lora__shape_count(const int64_t *shape, int32_t first, int32_t ndim)
{
    uint64_t count = 1;
    int fits = 1;

    for (int32_t i = first; i < ndim; i++) {
        fits &= lora__mul_u64(count, (uint64_t)shape[i], &count);
    }
    return fits ? count : UINT64_MAX;
}

/* The same as a size: SIZE_MAX is one for which there is no memory. */
static inline size_t
lora__shape_size(const int64_t *shape, int32_t first, int32_t ndim)
{
    uint64_t count = lora__shape_count(shape, first, ndim);

    return count > SIZE_MAX ? SIZE_MAX : (size_t)count;
}

#endif
