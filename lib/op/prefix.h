/* DyLoRA cut to its first directions. */
#ifndef LORA__OP_PREFIX_H
#define LORA__OP_PREFIX_H

#include "adapter/adapter.h"

#include <lora/convert.h>

/* All modules of a higher rank cut to this one; others stay as they are.
 * UNSUPPORTED where a module of a higher rank is no plain pair; the status of a
 * module that cannot be used. */
LORA_PRIVATE lora_status lora__prefix_cut(lora_adapter **out,
                                          const lora_adapter *adapter,
                                          int32_t rank,
                                          lora_truncation truncation,
                                          lora_error *error);

#endif
