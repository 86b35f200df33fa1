/* torch's CPU generator. Formulas with the rounding that its float32 code has:
 * an angle is rounded before its cosine is taken, and so on.
 */
#include "core/rng_torch.h"

#include <math.h>

#define RNG_TORCH_WORDS LORA__TORCH_WORDS
#define RNG_TORCH_MIDDLE 397

/* Normal numbers are made 16 at a time, from as many uniform ones: the first
 * eight give radii, the others angles. */
#define RNG_TORCH_CHUNK 16
#define RNG_TORCH_HALF 8

#define RNG_TORCH_TWO_PI 6.283185307179586476925

LORA_PRIVATE void lora__torch_seed(lora__torch_rng *rng, uint64_t seed)
{
    rng->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < RNG_TORCH_WORDS; i++) {
        const uint32_t last = rng->state[i - 1];

        rng->state[i] = 1812433253u * (last ^ last >> 30) + i;
    }
    rng->next = RNG_TORCH_WORDS;
    rng->has_normal = 0;
    rng->normal = 0.0;
}

/* The next 624 words of the state. */
static void rng_torch_twist(uint32_t *state)
{
    for (uint32_t i = 0; i < RNG_TORCH_WORDS; i++) {
        const uint32_t y = (state[i] & 0x80000000u) |
                           (state[(i + 1) % RNG_TORCH_WORDS] & 0x7fffffffu);

        state[i] = state[(i + RNG_TORCH_MIDDLE) % RNG_TORCH_WORDS] ^ y >> 1 ^
                   ((y & 1) != 0 ? 0x9908b0dfu : 0);
    }
}

LORA_PRIVATE uint32_t lora__torch_word(lora__torch_rng *rng)
{
    uint32_t y;

    if (rng->next == RNG_TORCH_WORDS) {
        rng_torch_twist(rng->state);
        rng->next = 0;
    }
    y = rng->state[rng->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* In [0, 1), of 24 bits. */
static float rng_torch_unit(lora__torch_rng *rng)
{
    return (float)(lora__torch_word(rng) & 0xffffffu) * 0x1p-24f;
}

/* In [0, 1), of 53 bits. */
static double rng_torch_unit_f64(lora__torch_rng *rng)
{
    const uint64_t high = lora__torch_word(rng);
    const uint64_t word = high << 32 | lora__torch_word(rng);

    return (double)(word & (((uint64_t)1 << 53) - 1)) * 0x1p-53;
}

LORA_PRIVATE void lora__torch_uniform(
    lora__torch_rng *rng, float *out, size_t count, double from, double to)
{
    const float low = (float)from;
    const float span = (float)to - low;

    for (size_t i = 0; i < count; i++) {
        out[i] = rng_torch_unit(rng) * span + low;
    }
}

/* Below 16 elements: in double, by twos, of which the second is kept for
 * whoever asks next. */
static double rng_torch_normal_f64(lora__torch_rng *rng)
{
    double angle;
    double radius;

    if (rng->has_normal) {
        rng->has_normal = 0;
        return rng->normal;
    }
    angle = RNG_TORCH_TWO_PI * rng_torch_unit_f64(rng);
    radius = sqrt(-2.0 * log1p(-rng_torch_unit_f64(rng)));
    rng->normal = radius * sin(angle);
    rng->has_normal = 1;
    return radius * cos(angle);
}

/* 16 uniform numbers become normal ones. */
static void rng_torch_normal_chunk(float *x, float std)
{
    for (size_t j = 0; j < RNG_TORCH_HALF; j++) {
        const float u = 1.0f - x[j];
        const float angle = (float)RNG_TORCH_TWO_PI * x[j + RNG_TORCH_HALF];
        const float radius = sqrtf(-2.0f * (float)log((double)u));

        x[j] = radius * (float)cos((double)angle) * std;
        x[j + RNG_TORCH_HALF] = radius * (float)sin((double)angle) * std;
    }
}

LORA_PRIVATE void
lora__torch_normal(lora__torch_rng *rng, float *out, size_t count, double std)
{
    if (count < RNG_TORCH_CHUNK) {
        for (size_t i = 0; i < count; i++) {
            out[i] = (float)(rng_torch_normal_f64(rng) * std);
        }
        return;
    }
    lora__torch_uniform(rng, out, count, 0.0, 1.0);
    for (size_t i = 0; i + RNG_TORCH_CHUNK <= count; i += RNG_TORCH_CHUNK) {
        rng_torch_normal_chunk(out + i, (float)std);
    }
    if (count % RNG_TORCH_CHUNK != 0) { /* the last 16 are made anew */
        out += count - RNG_TORCH_CHUNK;
        lora__torch_uniform(rng, out, RNG_TORCH_CHUNK, 0.0, 1.0);
        rng_torch_normal_chunk(out, (float)std);
    }
}
