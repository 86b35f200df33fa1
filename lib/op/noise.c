/* The rounding noise of a difference.
 *
 * Sums are of powers of four, in F64, rows and columns each in their order: an
 * error of at most n * 2^-53 of a sum of n.
 */
#include "op/noise.h"

#include "kernel/kernel.h"

#include <math.h>
#include <string.h>

/* A type as far as its spacing goes. */
typedef struct noise_type {
    lora_dtype dtype;
    int mantissa; /* bits */
    int least;    /* exponent of the smallest normal number */
    int most;     /* and of the largest finite one */
} noise_type;

static const noise_type noise_types[] = {
    {LORA_DTYPE_F64, 52, -1022, 1023}, {LORA_DTYPE_F32, 23, -126, 127},
    {LORA_DTYPE_BF16, 7, -126, 127},   {LORA_DTYPE_F16, 10, -14, 15},
    {LORA_DTYPE_F8_E5M2, 2, -14, 15},  {LORA_DTYPE_F8_E5M2FNUZ, 2, -15, 15},
    {LORA_DTYPE_F8_E4M3, 3, -6, 8},    {LORA_DTYPE_F8_E4M3FNUZ, 3, -7, 7},
};

/* Exponent bits of an F32: 0 for zero and subnormals, the last for infinity and
 * NaN. */
#define NOISE_BIAS 127
#define NOISE_LAST 255

static const noise_type *noise_find(lora_dtype dtype)
{
    for (size_t i = 0; i < LORA__COUNT(noise_types); i++) {
        if (noise_types[i].dtype == dtype) {
            return &noise_types[i];
        }
    }
    return NULL;
}

LORA_PRIVATE int lora__noise_is_coarser(lora_dtype one, lora_dtype other)
{
    const noise_type *a = noise_find(one);
    const noise_type *b = noise_find(other);

    return a != NULL && b != NULL && a->mantissa < b->mantissa;
}

/* The spacing is 2^(e - mantissa), where e is the value's exponent, but not
 * below that of the smallest normal number. */
static void noise_fill(double squares[NOISE_LAST + 1], const noise_type *type)
{
    for (int bits = 0; bits <= NOISE_LAST; bits++) {
        int exponent = bits == 0            ? type->least
                       : bits == NOISE_LAST ? type->most
                                            : bits - NOISE_BIAS;
        exponent = exponent < type->least ? type->least : exponent;
        squares[bits] = ldexp(1.0, 2 * (exponent - type->mantissa));
    }
}

LORA_PRIVATE lora_status lora__noise_begin(lora__noise *out,
                                           lora_context *context,
                                           lora_dtype dtype,
                                           double unit,
                                           size_t columns,
                                           lora_error *error)
{
    const noise_type *type = noise_find(dtype);
    void *memory;

    memset(out, 0, sizeof *out);
    if (type == NULL) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
                          "%s is no type that rounds", lora_dtype_name(dtype));
    }
    TRY(lora__alloc_zeroed(&memory, context, columns, sizeof(double), error));
    out->context = context;
    out->dtype = dtype;
    out->unit = unit;
    out->columns = columns;
    out->column_sums = memory;
    noise_fill(out->squares, type);
    return LORA_OK;
}

static double noise_square(const lora__noise *noise, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return noise->squares[bits >> 23 & NOISE_LAST];
}

/* Add a row whose values are times the unit. */
static double noise_add_scaled(const lora__noise *noise, const float *values)
{
    double sum = 0;

    for (size_t j = 0; j < noise->columns; j++) {
        double stored = (double)values[j] / noise->unit;
        double square = noise_square(noise, (float)stored);
        noise->column_sums[j] += square;
        sum += square;
    }
    return sum;
}

static double noise_add_row(const lora__noise *noise, const float *values)
{
    double sum = 0;

    for (size_t j = 0; j < noise->columns; j++) {
        double square = noise_square(noise, values[j]);
        noise->column_sums[j] += square;
        sum += square;
    }
    return sum;
}

LORA_PRIVATE void
lora__noise_add(lora__noise *noise, const float *values, size_t rows)
{
    for (size_t i = 0; i < rows; i++, values += noise->columns) {
        double sum = noise->unit == 1.0 ? noise_add_row(noise, values)
                                        : noise_add_scaled(noise, values);
        noise->row_max = sum > noise->row_max ? sum : noise->row_max;
    }
}

LORA_PRIVATE double lora__noise_sigma(const lora__noise *noise)
{
    double column_max = 0;

    for (size_t j = 0; j < noise->columns; j++) {
        double sum = noise->column_sums[j];
        column_max = sum > column_max ? sum : column_max;
    }
    return fabs(noise->unit) * (sqrt(noise->row_max) + sqrt(column_max)) /
           sqrt(12.0);
}

LORA_PRIVATE void lora__noise_end(lora__noise *noise)
{
    if (noise->column_sums != NULL) {
        lora__free(noise->context, noise->column_sums,
                   noise->columns * sizeof(double), LORA__ALIGN);
    }
    memset(noise, 0, sizeof *noise);
}
