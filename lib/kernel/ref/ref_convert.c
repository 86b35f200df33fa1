/* Conversions, the reference: the integer definitions of minifloat.h. */
#include "kernel/variants.h"
#include "tensor/minifloat.h"

static uint16_t ref_load_u16(const void *in, size_t index)
{
    uint16_t code;

    memcpy(&code, (const unsigned char *)in + index * sizeof code, sizeof code);
    return code;
}

static void ref_store_u16(void *out, size_t index, uint32_t code)
{
    const uint16_t narrow = (uint16_t)code;

    memcpy((unsigned char *)out + index * sizeof narrow, &narrow,
           sizeof narrow);
}

LORA_PRIVATE void lora__ref_f16_to_f32(float *out, const void *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = lora__f32_from_bits(
            lora__float_decode(ref_load_u16(in, i), &lora__format_f16));
    }
}

LORA_PRIVATE void
lora__ref_bf16_to_f32(float *out, const void *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = lora__f32_from_bits((uint32_t)ref_load_u16(in, i) << 16);
    }
}

LORA_PRIVATE void
lora__ref_f32_to_f64(double *out, const float *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = lora__f64_from_bits(lora__f32_widen(lora__f32_bits(in[i])));
    }
}

LORA_PRIVATE void lora__ref_f32_to_f16(void *out, const float *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t bits = lora__f32_widen(lora__f32_bits(in[i]));

        ref_store_u16(out, i, lora__float_encode(bits, &lora__format_f16));
    }
}

/* The upper half of the pattern. Adding just under half a unit, and one more
 * if the unit is odd, carries exactly when nearest-even rounds up. */
LORA_PRIVATE void
lora__ref_f32_to_bf16(void *out, const float *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = lora__f32_bits(in[i]);
        const uint32_t upper = bits >> 16;
        const int is_nan = (bits & 0x7fffffffu) > LORA__F32_INF;

        ref_store_u16(out, i,
                      is_nan ? upper | 0x40
                             : (bits + 0x7fff + (upper & 1)) >> 16);
    }
}

LORA_PRIVATE void
lora__ref_f64_to_f32(float *out, const double *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = lora__f32_from_bits(
            lora__float_encode(lora__f64_bits(in[i]), &lora__format_f32));
    }
}

LORA_PRIVATE void
lora__ref_f64_to_f32_odd(float *out, const double *in, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] =
            lora__f32_from_bits(lora__f64_narrow_odd(lora__f64_bits(in[i])));
    }
}
