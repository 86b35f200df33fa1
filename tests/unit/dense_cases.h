/* Dense matrices for decompositions, and contexts to decompose them in. The
 * numbers that results are compared with are numpy's, in float64, of the same
 * matrices: (3 p p + 5 q q + 7 p q) % 101 - 50, divided by 64.
 */
#ifndef DENSE_CASES_H
#define DENSE_CASES_H

#include "faults.h"

#include <lora/lora.h>

#include <math.h>

static inline double dense_element(size_t p, size_t q)
{
    return ((double)((3 * p * p + 5 * q * q + 7 * p * q) % 101) - 50.0) / 64.0;
}

static inline float *dense_matrix(size_t rows, size_t cols)
{
    float *values = malloc(rows * cols * sizeof *values);

    assert_non_null(values);
    for (size_t i = 0; i < rows * cols; i++) {
        values[i] = (float)dense_element(i / cols, i % cols);
    }
    return values;
}

/* Not a number anywhere, so that what is left unset shows. */
static inline double *dense_unset(size_t count)
{
    double *values = malloc((count + 1) * sizeof *values);

    assert_non_null(values);
    for (size_t i = 0; i <= count; i++) {
        values[i] = (double)NAN;
    }
    return values;
}

/* With `faults` or not, with all kernels of the machine or the reference. */
static inline lora_context *dense_context(faults_state *faults, int reference)
{
    const lora_allocator allocator = {sizeof allocator, faults, faults_alloc,
                                      faults_realloc, faults_free};
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.allocator = faults != NULL ? &allocator : NULL;
    options.disable_cpu = reference ? ~(lora_cpu)0 : 0;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

#endif
