/* How far new factors are from old ones. */
#ifndef LORA__OP_FACTOR_ERROR_H
#define LORA__OP_FACTOR_ERROR_H

#include "adapter/kind.h"

/* The squared Frobenius norm of scale * up^T down - up'^T down', where the
 * primed factors have `rank` rows: the error of what is really written,
 * rounding included. In f64 its own error is about 1e-16 of the layer's
 * squared norm. */
LORA_PRIVATE lora_status lora__factor_error(double *out,
                                            const lora__factors *f,
                                            const double *up_t,
                                            const double *down,
                                            size_t rank,
                                            const lora__kernels *kernels,
                                            lora_error *error);

#endif
