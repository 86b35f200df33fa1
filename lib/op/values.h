/* Looking at the values of tensors: what is not finite spoils every result,
 * so operations refuse it before they write anything.
 */
#ifndef LORA__OP_VALUES_H
#define LORA__OP_VALUES_H

#include "adapter/adapter.h"

/* What the values of one tensor are like. Zeros for types that cannot be
 * other than finite. */
typedef struct lora__values {
    uint64_t bad;       /* NaN and infinite values */
    uint64_t first_bad; /* the first one's index */
    double largest;     /* magnitude of the finite ones */
} lora__values;

/* Look at one tensor. */
LORA_PRIVATE lora_status lora__values_look(lora__values *out,
                                           const lora_adapter *adapter,
                                           size_t index,
                                           lora_error *error);

/* The same for a tensor of any container. */
LORA_PRIVATE lora_status lora__values_look_at(lora__values *out,
                                              const lora__container *container,
                                              size_t index,
                                              lora_error *error);

/* Look at the next values of a tensor that is read anyway, `first` of which
 * came before. `out` is zeroed before the first ones. */
LORA_PRIVATE void lora__values_add(lora__values *out,
                                   const float *values,
                                   size_t count,
                                   uint64_t first);

/* Look at every tensor; `out` has one element for each. */
LORA_PRIVATE lora_status lora__values_scan(lora__values *out,
                                           const lora_adapter *adapter,
                                           lora_error *error);

/* NONFINITE, with tensor and index, if the tensor is bad. */
LORA_PRIVATE lora_status lora__values_check(const lora__values *values,
                                            const lora__entry *entry,
                                            lora_error *error);

/* Decide for every module whether an operation takes it: 1 in left_out, which
 * begins with 0 or 1 for modules that nobody wants, where it is unusable and
 * `skip_bad` allows to go on without it, else the failure. `values` may be
 * NULL: values are not looked at. */
LORA_PRIVATE lora_status lora__values_admit(unsigned char *left_out,
                                            const lora__values *values,
                                            const lora_adapter *adapter,
                                            int skip_bad,
                                            lora_error *error);

#endif
