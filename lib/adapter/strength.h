/* Strengths that go into an adapter: how much, and which tensors take it. */
#ifndef LORA__ADAPTER_STRENGTH_H
#define LORA__ADAPTER_STRENGTH_H

#include "adapter/kind.h"

#include <lora/convert.h>

/* RANGE unless both numbers are finite. NULL is full strength, and what full
 * strength becomes. */
LORA_PRIVATE lora_status lora__strength_read(const lora_strength **strength,
                                             lora_error *error);

/* The number for a module, by its component. */
LORA_PRIVATE double lora__strength_of(const lora_strength *strength,
                                      const lora__module *module);

/* UNSUPPORTED unless the module's change is in proportion to its strength, and
 * has a tensor to put that into. */
LORA_PRIVATE lora_status lora__strength_check(const lora__module *module,
                                              lora_error *error);

/* What a tensor is multiplied by: `scaled`, where alpha multiplies it too, or
 * `unscaled`, in the sense of the kind's sets of roles; else 1. */
LORA_PRIVATE double lora__strength_factor(const lora__module *module,
                                          lora__role role,
                                          double scaled,
                                          double unscaled);

#endif
