/* The one rounding of a changed weight to the type it is stored in. */
#ifndef LORA__MODEL_ROUNDING_H
#define LORA__MODEL_ROUNDING_H

#include "kernel/kernel.h"

typedef struct lora__rounding {
    int stochastic; /* 1: up or down by chance, in proportion to what is near;
                     * else to nearest even */
    int saturate;   /* 1: of F8, what is too large becomes the largest; else
                     * NaN or infinity, as the type has it */
    uint64_t seed;
} lora__rounding;

/* A number for a tensor, of its target and role. */
LORA_PRIVATE uint64_t lora__rounding_key(const char *target, int32_t role);

/* Round numbers, which are elements `first` on of the tensor with that key;
 * `in` may be changed. Chance is a function of seed, key and element. DTYPE
 * where the type cannot be written. */
LORA_PRIVATE lora_status lora__round(void *out,
                                     lora_dtype dtype,
                                     float *in,
                                     size_t count,
                                     const lora__rounding *rounding,
                                     uint64_t key,
                                     uint64_t first,
                                     const lora__kernels *kernels,
                                     lora_error *error);

#endif
