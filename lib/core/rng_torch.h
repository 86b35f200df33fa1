/* The numbers of torch's generator on the CPU: MT19937, and the uniform and
 * normal float32 numbers that torch makes of its words. What was drawn there
 * with a seed, and not stored, is drawn again here.
 *
 * Words and uniform numbers are equal to torch's bit by bit; normal numbers to
 * within two units in the last place, as neither there nor here logarithm and
 * sine are the same on every machine.
 */
#ifndef LORA__CORE_RNG_TORCH_H
#define LORA__CORE_RNG_TORCH_H

#include "platform/compiler.h"

#define LORA__TORCH_WORDS 624

typedef struct lora__torch_rng {
    uint32_t state[LORA__TORCH_WORDS];
    uint32_t next;  /* word of the state that comes next */
    int has_normal; /* one was made and not used yet ... */
    double normal;  /* ... this one */
} lora__torch_rng;

/* torch.manual_seed(seed): the low half counts. */
LORA_PRIVATE void lora__torch_seed(lora__torch_rng *rng, uint64_t seed);

/* The next 32 random bits. */
LORA_PRIVATE uint32_t lora__torch_word(lora__torch_rng *rng);

/* Tensor.uniform_(from, to) of a contiguous float32 tensor. */
LORA_PRIVATE void lora__torch_uniform(
    lora__torch_rng *rng, float *out, size_t count, double from, double to);

/* Tensor.normal_(0, std) of a contiguous float32 tensor. From 16 elements on
 * torch works in another way than below. */
LORA_PRIVATE void
lora__torch_normal(lora__torch_rng *rng, float *out, size_t count, double std);

#endif
