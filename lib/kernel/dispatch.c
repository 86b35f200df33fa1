/* The tables of kernels, and the choice among them. */
#include "kernel/variants.h"

#include <lora/context.h>

#define DISPATCH_CONVERSIONS(variant)                                          \
    .f16_to_f32 = lora__##variant##_f16_to_f32,                                \
    .bf16_to_f32 = lora__##variant##_bf16_to_f32,                              \
    .f32_to_f64 = lora__##variant##_f32_to_f64,                                \
    .f32_to_f16 = lora__##variant##_f32_to_f16,                                \
    .f32_to_bf16 = lora__##variant##_f32_to_bf16,                              \
    .f64_to_f32 = lora__##variant##_f64_to_f32,                                \
    .f64_to_f32_odd = lora__##variant##_f64_to_f32_odd

#define DISPATCH_VECTOR(variant)                                               \
    .axpy_f32 = lora__##variant##_axpy_f32,                                    \
    .axpy_f64 = lora__##variant##_axpy_f64,                                    \
    .turn_f32 = lora__##variant##_turn_f32,                                    \
    .scale_f32 = lora__##variant##_scale_f32,                                  \
    .scale_f64 = lora__##variant##_scale_f64,                                  \
    .dot_f64 = lora__##variant##_dot_f64,                                      \
    .gemv_f64 = lora__##variant##_gemv_f64,                                    \
    .gemv_t_f64 = lora__##variant##_gemv_t_f64,                                \
    .divide_f64 = lora__##variant##_divide_f64,                                \
    .poles_f64 = lora__##variant##_poles_f64,                                  \
    .rotate_f64 = lora__##variant##_rotate_f64

#define DISPATCH_GEMM(variant)                                                 \
    .gram_f64 = lora__##variant##_gram_f64,                                    \
    .gemm_f64 = lora__##variant##_gemm_f64,                                    \
    .gemm_f32 = lora__##variant##_gemm_f32,                                    \
    .dots_f32 = lora__##variant##_dots_f32

static const lora__kernels dispatch_ref = {
    .name = "ref",
    DISPATCH_CONVERSIONS(ref),
    DISPATCH_VECTOR(ref),
    DISPATCH_GEMM(ref),
};

#if LORA__X86
static const lora__kernels dispatch_avx2 = {
    .name = "avx2",
    DISPATCH_CONVERSIONS(avx2),
    DISPATCH_VECTOR(avx2),
    DISPATCH_GEMM(avx2),
};

/* Conversions and long vectors are bound by memory, the vectors of an SVD are
 * short: wider registers gain nothing there. */
static const lora__kernels dispatch_avx512 = {
    .name = "avx512",
    DISPATCH_CONVERSIONS(avx2),
    DISPATCH_VECTOR(avx2),
    DISPATCH_GEMM(avx512),
};
#endif

#if LORA__NEON
static const lora__kernels dispatch_neon = {
    .name = "neon",
    DISPATCH_CONVERSIONS(neon),
    DISPATCH_VECTOR(neon),
    DISPATCH_GEMM(neon),
};
#endif

LORA_PRIVATE const lora__kernels *lora__kernels_get(lora_cpu cpu)
{
#if LORA__X86
    if ((cpu & LORA_CPU_AVX2) != 0) {
        return (cpu & LORA_CPU_AVX512) != 0 ? &dispatch_avx512 : &dispatch_avx2;
    }
#endif
#if LORA__NEON
    if ((cpu & LORA_CPU_NEON) != 0) {
        return &dispatch_neon;
    }
#endif
    (void)cpu;
    return &dispatch_ref;
}
