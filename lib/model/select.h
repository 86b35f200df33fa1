/* Choosing modules by component, block, sort of layer or name, each with a
 * factor: the language is described in <lora/model.h>.
 */
#ifndef LORA__MODEL_SELECT_H
#define LORA__MODEL_SELECT_H

#include "adapter/adapter.h"

#include <lora/model.h>

typedef struct lora__selected {
    const char *pattern;
    double factor;
    size_t count; /* of modules that it fits */
} lora__selected;

/* The block of a UNet that a canonical target is in, as "IN04", "M00",
 * "OUT11"; "BASE" for others. */
#define LORA__BLOCK_NAME 8
LORA_PRIVATE void lora__select_block(char out[LORA__BLOCK_NAME],
                                     const char *target);

/* 1 if a pattern that is no list fits the module. */
LORA_PRIVATE int lora__select_fits(const lora__module *module,
                                   const char *pattern);

/* Multiply the factors, one for each module of the adapter, by what a selection
 * says, and count the modules that it fits. OPTION for lists of a length that
 * nobody uses, and for what should be one; RANGE for numbers that are not
 * finite. */
LORA_PRIVATE lora_status lora__select_apply(double *factors,
                                            lora__selected *selected,
                                            const lora_adapter *adapter,
                                            lora_error *error);

#endif
