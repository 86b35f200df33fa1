/* Finding what a module changes in a base model. */
#ifndef LORA__OP_BASE_H
#define LORA__OP_BASE_H

#include "adapter/kind.h"
#include "model/checkpoint.h"

/* The weight and the bias of a module, as far as the base has them. Points into
 * itself: it is filled where it stays. */
typedef struct lora__found_base {
    lora__base base; /* what kinds take */
    lora__base_tensor tensors[2];
    lora__holding holds[2];
    const lora__checkpoint *checkpoint;
} lora__found_base;

/* Look for "<module>.weight" and "<module>.bias", the module's name being as
 * stored, that without "base_model.model.", or canonical. What is not there is
 * no failure: kinds refuse it where they need it. */
LORA_PRIVATE lora_status lora__base_find(lora__found_base *out,
                                         const lora__checkpoint *checkpoint,
                                         const lora__module *module,
                                         lora_error *error);

#endif
