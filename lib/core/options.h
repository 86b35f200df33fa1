/* The one reader of options structs, and the one writer of out-structs. */
#ifndef LORA__CORE_OPTIONS_H
#define LORA__CORE_OPTIONS_H

#include "core/status.h"

/* The size of a struct up to and with a member: that of its first release, if
 * the member was its last one then. It stays when members are appended. */
#define LORA__SIZE_TO(type, member)                                            \
    (offsetof(type, member) + sizeof(((type *)0)->member))

/* Copy a caller's options into ours. NULL gives defaults (zeros). Shorter
 * than ours: the rest is zero. Longer: what we do not know must be zero, else
 * OPTION. Shorter than `first_bytes`, the size in the first release: ARGUMENT.
 * Both structs begin with size_t struct_size. */
LORA_PRIVATE lora_status lora__options_read(void *ours,
                                            size_t our_bytes,
                                            size_t first_bytes,
                                            const void *theirs,
                                            lora_error *error);

/* OPTION unless a field that is reserved for later releases is 0. */
LORA_PRIVATE lora_status lora__options_reserved(uint32_t reserved,
                                                lora_error *error);

/* What every lora_*_options_init does: zeros, and the size. */
LORA_PRIVATE void lora__options_init(void *options, size_t bytes);

/* Copy our out-struct into a caller's, whose struct_size is set: as much as
 * fits, the rest zero. */
LORA_PRIVATE lora_status lora__out_write(void *theirs,
                                         const void *ours,
                                         size_t our_bytes,
                                         lora_error *error);

/* The same into the struct at `index` of an array, where struct_size of the
 * first is set and goes for all. Only index 0 can fail. */
LORA_PRIVATE lora_status lora__out_write_at(void *array,
                                            size_t index,
                                            const void *ours,
                                            size_t our_bytes,
                                            lora_error *error);

#endif
