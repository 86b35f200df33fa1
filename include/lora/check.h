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

typedef struct lora_adapter_fix_options {
    size_t struct_size;
    const char *family; /* base to take names from; NULL: the guess */
    uint32_t skip_bad;  /* 1: leave unusable modules out */
    uint32_t reserved1;
} lora_adapter_fix_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_adapter_fix_options_init(lora_adapter_fix_options *options,
                                            size_t size);

/** Repair what a check finds, where there is one way to: the weight changes
 *  stay the same, to the bit where factors are plain numbers.
 *
 *  Names that loaders pass over become those of their dialect, with or without
 *  PEFT's adapter name inside; alphas that programs read in different ways
 *  (none beside others, 0, below 0) become one that all read alike; a factor
 *  over the range of F16 gives a power of two to its partner, if that is exact;
 *  hashes and ranks in the metadata that are of other tensors become those of
 *  these. A module that cannot be used is kept as it is, or left out on demand.
 *  Where there is nothing to repair, the result has the same tensors and
 *  metadata.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives the report: its fixes say what was repaired, its
 *                     problems what a check finds in the result, and why it is
 *                     still there; NULL on failure; may be NULL.
 *  @param adapter     must not be NULL; the result keeps its file open.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return LORA_OK, also when problems are left; LORA_ERROR_ARGUMENT (also for
 *          an unknown family); LORA_ERROR_OPTION; LORA_ERROR_KEY (every module
 *          would be left out); LORA_ERROR_IO; LORA_ERROR_TRUNCATED;
 *          LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_fix(lora_adapter **out,
                 lora_report **out_report,
                 const lora_adapter *adapter,
                 const lora_adapter_fix_options *options,
                 lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
