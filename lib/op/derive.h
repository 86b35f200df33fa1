/* Derived tensors: another number type, times a factor, made when read. */
#ifndef LORA__OP_DERIVE_H
#define LORA__OP_DERIVE_H

#include "adapter/adapter.h"

/* factor * the parent's numbers, rounded once to the entry's type. */
LORA_PRIVATE lora_status lora__derive_scaled(const lora__entry *entry,
                                             uint64_t offset,
                                             void *buffer,
                                             size_t bytes,
                                             lora_error *error);

/* NONFINITE if a finite number of the tensor would not fit. */
LORA_PRIVATE lora_status lora__derive_check(const lora_adapter *adapter,
                                            size_t index,
                                            double factor,
                                            lora_dtype dtype,
                                            lora_error *error);

#endif
