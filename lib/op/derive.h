/* Derived tensors: another number type, times a factor, made when read. */
#ifndef LORA__OP_DERIVE_H
#define LORA__OP_DERIVE_H

#include "adapter/adapter.h"
#include "kernel/kernel.h"

/* Elements that are made at once. */
enum { LORA__DERIVE_CHUNK = 1024 };

/* Make `count` whole elements of an entry from `first` on, at most a chunk. */
typedef lora_status (*lora__derive_make_fn)(unsigned char *out,
                                            const lora__entry *entry,
                                            uint64_t first,
                                            size_t count,
                                            const lora__kernels *kernels,
                                            lora_error *error);

/* Some bytes of an entry, which may begin and end within an element. */
LORA_PRIVATE lora_status lora__derive_cut(const lora__entry *entry,
                                          uint64_t offset,
                                          void *buffer,
                                          size_t bytes,
                                          lora__derive_make_fn make,
                                          lora_error *error);

/* factor * the parent's numbers, rounded once to the entry's type. */
LORA_PRIVATE lora_status lora__derive_scaled(const lora__entry *entry,
                                             uint64_t offset,
                                             void *buffer,
                                             size_t bytes,
                                             lora_error *error);

/* The same, with the factor added to each number instead. */
LORA_PRIVATE lora_status lora__derive_plus(const lora__entry *entry,
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
