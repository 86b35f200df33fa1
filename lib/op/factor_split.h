/* New factors: where the singular values go. */
#ifndef LORA__OP_FACTOR_SPLIT_H
#define LORA__OP_FACTOR_SPLIT_H

#include "adapter/kind.h"

#include <lora/resize.h>

/* Put a scale into balanced factors, evenly, or it and all the singular values,
 * of which there are `count`, into up. */
LORA_PRIVATE void lora__factors_split(lora__factors *f,
                                      const lora__kernels *kernels,
                                      lora_rank_split split,
                                      double scale,
                                      const double *sigma,
                                      size_t count);

#endif
