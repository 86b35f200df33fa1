/* Truncated SVD of a dense f64 matrix that is small enough to be decomposed in
 * full: the cost is that of its shorter side squared times the longer one.
 */
#ifndef LORA__LINALG_SMALL_H
#define LORA__LINALG_SMALL_H

#include "core/context.h"

/* The best approximation of rank k <= min(rows, cols), balanced:
 *   up_t[k, rows] = sqrt(sigma) * U^T,  down[k, cols] = sqrt(sigma) * V^T
 * with its values sigma[k]. Exact and failing as factored.h says. */
LORA_PRIVATE lora_status lora__small_truncate(double *sigma,
                                              double *up_t,
                                              double *down,
                                              const double *values,
                                              size_t rows,
                                              size_t cols,
                                              size_t k,
                                              lora_context *context,
                                              lora_error *error);

#endif
