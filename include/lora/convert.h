/* Conversion: other names, other number types, the same weight change. */
#ifndef LORA_CONVERT_H
#define LORA_CONVERT_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_adapter_convert_options {
    size_t struct_size;
    const char *dialect; /* such as "kohya" or "diffusers"; NULL or "keep" */
    const char *family;  /* base to take names from; NULL: the guess */
    lora_dtype dtype;    /* of the factors; LORA_DTYPE_NONE keeps them */
    uint32_t bake_alpha; /* 1: scale into the factors, alpha = rank */
    uint32_t skip_bad;   /* 1: leave unusable modules out */
    uint32_t reserved1;
} lora_adapter_convert_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_convert_options_init(lora_adapter_convert_options *options,
                                  size_t size);

/** Convert names and number types.
 *
 *  Tensor data is not touched unless a number type changes or the scale is
 *  baked in. What the new dialect has no place for (alpha, in diffusers-peft)
 *  goes into metadata as its readers expect it, so that converting back gives
 *  the same bytes. Tensors of no module keep their names.
 *
 *  @param out      receives the adapter; NULL on failure.
 *  @param adapter  must not be NULL; the result keeps its file open.
 *  @param options  NULL for defaults, which change nothing.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (unknown dialect or family);
 *          LORA_ERROR_OPTION; LORA_ERROR_DTYPE (no type for factors);
 *          LORA_ERROR_UNSUPPORTED (the dialect cannot spell the kind);
 *          LORA_ERROR_KEY (there is no module, or no family knows a name
 *          that must be respelled); a module's own status;
 *          LORA_ERROR_NONFINITE (a value is not finite, or overflows the
 *          type); LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_convert(lora_adapter **out,
                     const lora_adapter *adapter,
                     const lora_adapter_convert_options *options,
                     lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
