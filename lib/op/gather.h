/* Gathered tensors: put together from rectangles of others, zeros elsewhere,
 * when they are read. A tensor is taken as a matrix: its first dimension by all
 * the others.
 */
#ifndef LORA__OP_GATHER_H
#define LORA__OP_GATHER_H

#include "adapter/builder.h"

/* rows x cols elements, times a factor. */
typedef struct lora__rect {
    size_t entry;        /* of the container they come from ... */
    uint64_t from_width; /* ... its columns ... */
    uint64_t from_row;   /* ... and where in it they begin */
    uint64_t from_col;
    uint64_t row; /* and where they are put */
    uint64_t col;
    uint64_t rows; /* as put */
    uint64_t cols;
    int transposed; /* rows there are columns here */
    double factor;
} lora__rect;

/* Add such a tensor to a builder. Rectangles do not overlap, and lie within
 * what they are taken from and put into. NONFINITE if a finite number would
 * not fit in the type. */
LORA_PRIVATE lora_status lora__gather_add(lora_builder *builder,
                                          const char *name,
                                          const lora_adapter *adapter,
                                          lora_dtype dtype,
                                          int32_t ndim,
                                          const int64_t *shape,
                                          const lora__rect *rects,
                                          size_t count,
                                          lora_error *error);

#endif
