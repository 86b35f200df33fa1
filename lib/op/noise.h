/* The rounding noise of a difference: how large the singular values of W' - W
 * become by nothing but the rounding of the coarser of the two number types.
 *
 *   sigma = (sqrt(max over rows of the row's sum of ulp^2)
 *            + sqrt(max over columns of the column's sum of ulp^2)) / sqrt(12)
 *
 * ulp is the spacing of the coarser type at the value stored in it, and of zero
 * its least spacing: an error of rounding is uniform within it, of variance
 * ulp^2 / 12. By the largest row and column, not by the mean: rows of very
 * different sizes exceed the mean's form.
 */
#ifndef LORA__OP_NOISE_H
#define LORA__OP_NOISE_H

#include "core/context.h"

#include <lora/tensor.h>

typedef struct lora__noise {
    lora_context *context;
    lora_dtype dtype;
    double unit; /* what stored values were multiplied by */
    size_t columns;
    double *column_sums; /* of ulp^2, in units^2 */
    double row_max;      /* the same */
    double squares[256]; /* ulp^2 by the exponent bits of an F32 */
} lora__noise;

/* 1 if rounding to `one` is coarser than to `other`: has fewer bits of
 * mantissa. Types that are not of floats have no rounding: 0. */
LORA_PRIVATE int lora__noise_is_coarser(lora_dtype one, lora_dtype other);

/* Begin with a matrix of `columns`, whose values are of `dtype`, a type of
 * floats, times `unit`, as a rule 1. DTYPE for other types. */
LORA_PRIVATE lora_status lora__noise_begin(lora__noise *out,
                                           lora_context *context,
                                           lora_dtype dtype,
                                           double unit,
                                           size_t columns,
                                           lora_error *error);

/* Add the next rows, row after row, as they are in F32. Sums depend on the
 * order of the rows alone, not on how many come at a time. What is not finite
 * counts as the largest number of its type. */
LORA_PRIVATE void
lora__noise_add(lora__noise *noise, const float *values, size_t rows);

/* sigma; 0 if there were no values. */
LORA_PRIVATE double lora__noise_sigma(const lora__noise *noise);

/* A zeroed one may be ended. */
LORA_PRIVATE void lora__noise_end(lora__noise *noise);

#endif
