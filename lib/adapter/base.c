/* The base's tensors, as kinds see them: rows of numbers, some at a time. */
#include "adapter/kind.h"
#include "core/text.h"

#include <string.h>

/* ---- shapes ------------------------------------------------------------ */

/* Dimensions without those of 1 at the end; one is left. */
static int32_t base_ndim(const int64_t *shape, int32_t ndim)
{
    while (ndim > 1 && shape[ndim - 1] == 1) {
        ndim--;
    }
    return ndim;
}

/* Smaller in rows or inputs alone. */
static int base_is_within(const int64_t *shape,
                          const lora__base_tensor *tensor,
                          int32_t ndim)
{
    int within = 1;

    for (int32_t i = 0; i < ndim; i++) {
        within &=
            i < 2 ? tensor->shape[i] <= shape[i] : tensor->shape[i] == shape[i];
    }
    return within;
}

/* A kernel of one element may be there or not, on either side; one that the
 * module's factors cannot tell is in its columns. */
static lora_status base_agree(const lora__module *module,
                              const int64_t *shape,
                              int32_t ndim,
                              const lora__base_tensor *tensor,
                              lora_error *error)
{
    int32_t own = base_ndim(shape, ndim);
    int same = own == base_ndim(tensor->shape, tensor->ndim);

    if (module->padded && same) {
        same = base_is_within(shape, tensor, own);
        own = 0;
    }
    for (int32_t i = 0; i < own && same; i++) {
        same = shape[i] == tensor->shape[i];
    }
    same =
        same || (own == 2 && tensor->ndim > 2 && shape[0] == tensor->shape[0] &&
                 (uint64_t)shape[1] == tensor->step);
    if (!same) {
        char is[LORA__TEXT_SHAPE];
        char wanted[LORA__TEXT_SHAPE];
        lora__text_put_shape(is, tensor->shape, tensor->ndim);
        lora__text_put_shape(wanted, shape, ndim);
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "%s of the base is %s, not %s", tensor->name, is,
                          wanted);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__base_shape(int64_t shape[LORA_MAX_DIMS],
                                          int32_t *out_ndim,
                                          const lora__module *module,
                                          lora_part part,
                                          const lora__base_tensor *tensor,
                                          lora_error *error)
{
    int32_t ndim =
        part == LORA_PART_BIAS && module->ndim > 1 ? 1 : module->ndim;

    if (tensor == NULL) {
        memcpy(shape, module->shape, sizeof module->shape);
        *out_ndim = ndim;
        return LORA_OK;
    }
    if (tensor->ndim == 0 || tensor->step == 0 || tensor->shape[0] == 0) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "%s of the base is empty", tensor->name);
    }
    if (ndim > 0) {
        TRY(base_agree(module, module->shape, ndim, tensor, error));
    } else if (part == LORA_PART_BIAS && tensor->step != 1) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "%s of the base is not a vector", tensor->name);
    }
    if (module->padded && part == LORA_PART_WEIGHT) {
        memcpy(shape, module->shape, sizeof module->shape);
        *out_ndim = ndim;
        return LORA_OK;
    }
    memcpy(shape, tensor->shape, sizeof tensor->shape);
    *out_ndim = tensor->ndim;
    return LORA_OK;
}

/* ---- rows -------------------------------------------------------------- */

/* Rows as wide as the state's, of a base that may have narrower and fewer ones:
 * those that are there are read in one go and moved apart, the last one first.
 */
static lora_status
base_read_padded(lora__rows *state, size_t begin, size_t end, lora_error *error)
{
    const size_t size = lora__rows_size(state);
    const size_t narrow = state->base->step * size;
    const size_t wide = state->cols * size;
    const size_t rows = (size_t)state->base->shape[0];
    const size_t last = end < rows ? end : rows;

    if (begin < last) {
        TRY(state->base->read(state->base_rows, state->dtype, state->base,
                              begin, last, error));
    }
    for (size_t i = end; i-- > begin;) {
        unsigned char *to = state->base_rows + (i - begin) * wide;
        size_t kept = i < last ? narrow : 0;
        memmove(to, state->base_rows + (i - begin) * narrow, kept);
        memset(to + kept, 0, wide - kept);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_want(lora__rows *state,
                                         size_t begin,
                                         size_t end,
                                         lora_error *error)
{
    size_t bytes;

    if (!lora__mul_size(end - begin, state->cols, &bytes) ||
        !lora__mul_size(bytes, lora__rows_size(state), &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    state->base_begin = state->base_end = begin;
    if (bytes > state->base_bytes) {
        lora__free(state->context, state->base_rows, state->base_bytes,
                   LORA__ALIGN_NUMERIC);
        state->base_bytes = 0;
        state->base_rows =
            lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
        if (state->base_rows == NULL) {
            return lora__fail_memory(error, bytes);
        }
        state->base_bytes = bytes;
    }
    TRY(base_read_padded(state, begin, end, error));
    state->base_end = end;
    return LORA_OK;
}

/* ---- tensors in memory ------------------------------------------------- */

static lora_status base_read_view(void *out,
                                  lora_dtype dtype,
                                  const lora__base_tensor *tensor,
                                  size_t begin,
                                  size_t end,
                                  lora_error *error)
{
    const lora_tensor *view = tensor->user;
    size_t size = lora_dtype_bits(view->dtype) / 8;
    size_t count = (end - begin) * tensor->step;
    const unsigned char *data =
        (const unsigned char *)view->data + begin * tensor->step * size;

    return dtype == LORA_DTYPE_F64
               ? lora__convert_to_f64(out, data, view->dtype, count,
                                      tensor->kernels, error)
               : lora__convert_to_f32(out, data, view->dtype, count,
                                      tensor->kernels, error);
}

LORA_PRIVATE lora_status lora__base_view(lora__base_tensor *out,
                                         const lora_context *context,
                                         const lora_tensor *tensor,
                                         const char *name,
                                         lora_error *error)
{
    size_t bytes;

    if (!lora__dtype_is_float(tensor->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, name,
                          "%s: floating point is needed",
                          lora_dtype_name(tensor->dtype));
    }
    CHECK_ARG(tensor->data != NULL, error);
    CHECK_ARG(tensor->ndim >= 1 && tensor->ndim <= LORA_MAX_DIMS, error);
    memset(out, 0, sizeof *out);
    bytes = lora_dtype_bits(tensor->dtype) / 8;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        CHECK_ARG(tensor->shape[i] > 0, error);
        if (!lora__mul_size(bytes, (size_t)tensor->shape[i], &bytes)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    out->step = lora__shape_size(tensor->shape, 1, tensor->ndim);
    if (bytes != tensor->bytes) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, name,
                          "%llu bytes are not its shape's",
                          (unsigned long long)tensor->bytes);
    }
    out->name = name;
    out->ndim = tensor->ndim;
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    out->read = base_read_view;
    out->user = tensor;
    out->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    return LORA_OK;
}
