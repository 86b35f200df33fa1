/* What a person wants from the metadata and the model card: base model, trigger
 * words, tags. */
#ifndef LORA__OP_SUMMARY_H
#define LORA__OP_SUMMARY_H

#include "adapter/adapter.h"

/* Append "summary":{...}. Metadata that cannot be read counts as absent. */
LORA_PRIVATE lora_status lora__summary_put(lora__buffer *json,
                                           const lora_adapter *adapter,
                                           lora_error *error);

#endif
