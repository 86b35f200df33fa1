/* Checking an adapter, values included. */
#ifndef LORA_CHECK_H
#define LORA_CHECK_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_adapter_check_options {
    size_t struct_size;
    const char *family; /* report targets this base lacks; NULL: the guess */
} lora_adapter_check_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_check_options_init(lora_adapter_check_options *options,
                                size_t size);

/** Look for everything that would make the adapter do nothing, do it twice,
 *  or do harm: missing partners, shapes, alpha, NaN and infinity, overflow,
 *  unknown names, stale metadata. Reads every tensor.
 *
 *  @param out      receives the report, whose problems are the findings; NULL
 *                  on failure.
 *  @param adapter  must not be NULL.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK, also when problems were found; LORA_ERROR_ARGUMENT (also
 *          for an unknown family);
 *          LORA_ERROR_OPTION; LORA_ERROR_IO; LORA_ERROR_TRUNCATED;
 *          LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_check(lora_report **out,
                   const lora_adapter *adapter,
                   const lora_adapter_check_options *options,
                   lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
