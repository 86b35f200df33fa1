/* Reading checkpoints: shares of tensors as numbers. */
#include "kernel/kernel.h"
#include "model/checkpoint.h"

#include <string.h>

/* Values are converted through a buffer of this size. */
#define READING_CHUNK_BYTES 16384

/* Holdings -----------------------------------------------------------------
 */

static lora_status holding_refuse(const lora__checkpoint *c,
                                  size_t tensor,
                                  const char *what,
                                  lora_error *error)
{
    return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                      c->tensors[tensor].name, "%s", what);
}

/* The rows that the slices have of all of them. */
static uint64_t holding_rows(const lora__row_set *set, uint64_t rows)
{
    uint64_t units = 0;

    for (uint16_t s = 0; s < set->slice_count; s++) {
        units += (uint64_t)(set->slices[s].end - set->slices[s].begin);
    }
    return rows / set->units * units;
}

/* Cut the part's rows out of what is the whole tensor. */
static lora_status holding_cut(lora__holding *hold,
                               const lora__checkpoint *c,
                               const lora__part *part,
                               lora_error *error)
{
    const lora__row_set *set = &part->rows;
    int64_t first = hold->shape[0];

    hold->part = part;
    hold->target = part->target;
    hold->layer = part->layer;
    if (set->transposed) {
        if (hold->ndim != 2) {
            return holding_refuse(c, hold->tensor, "not a matrix", error);
        }
        hold->shape[0] = hold->shape[1];
        hold->shape[1] = first;
        hold->columns = hold->rows;
        hold->rows = (uint64_t)hold->shape[0];
    } else if (set->units != 0) {
        if (hold->ndim < 1 || hold->rows % set->units != 0) {
            return holding_refuse(c, hold->tensor,
                                  "its rows cannot be split as the base's are",
                                  error);
        }
        hold->rows = holding_rows(set, hold->rows);
        hold->shape[0] = (int64_t)hold->rows;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__checkpoint_hold(lora__holding *out,
                                               const lora__checkpoint *c,
                                               size_t tensor,
                                               const lora__part *part,
                                               lora_error *error)
{
    const lora__tensor *from = &c->tensors[tensor];
    const lora__entry *entry = from->entry;
    lora__holding hold = {0};

    hold.target = from->target;
    hold.tensor = tensor;
    hold.layer = from->layer;
    hold.ndim = entry->ndim;
    memcpy(hold.shape, entry->shape, sizeof hold.shape);
    hold.rows = entry->ndim == 0 ? 1 : (uint64_t)entry->shape[0];
    hold.columns = lora__shape_count(entry->shape, 1, entry->ndim);
    if (hold.columns == UINT64_MAX) {
        return holding_refuse(c, tensor, "too large", error);
    }
    if (part != NULL) {
        TRY(holding_cut(&hold, c, part, error));
    }
    *out = hold;
    return LORA_OK;
}

/* Values -------------------------------------------------------------------
 */

LORA_PRIVATE lora_status lora__checkpoint_read_bytes(const lora__checkpoint *c,
                                                     size_t tensor,
                                                     uint64_t offset,
                                                     void *buffer,
                                                     size_t bytes,
                                                     lora_error *error)
{
    const lora__tensor *from = &c->tensors[tensor];

    return lora__container_read(from->container, from->index, offset, buffer,
                                bytes, error);
}

typedef struct reading {
    const lora__tensor *tensor;
    const lora__kernels *kernels;
    size_t size;      /* of an element */
    lora_dtype dtype; /* F32 or F64: of the numbers */
    size_t width;     /* of one of those */
} reading;

static reading
reading_begin(const lora__checkpoint *c, size_t tensor, lora_dtype dtype)
{
    reading r;

    r.tensor = &c->tensors[tensor];
    r.kernels = lora__kernels_get(lora__context_get(c->context)->cpu);
    r.size = lora_dtype_bits(r.tensor->entry->dtype) / 8;
    r.dtype = dtype;
    r.width = lora_dtype_bits(dtype) / 8;
    return r;
}

static lora_status reading_convert(const reading *r,
                                   void *out,
                                   const void *stored,
                                   size_t count,
                                   lora_error *error)
{
    lora_dtype dtype = r->tensor->entry->dtype;

    return r->dtype == LORA_DTYPE_F64
               ? lora__convert_to_f64(out, stored, dtype, count, r->kernels,
                                      error)
               : lora__convert_to_f32(out, stored, dtype, count, r->kernels,
                                      error);
}

/* Elements of a type that is wider than the numbers, a chunk at a time. */
static lora_status reading_wide(const reading *r,
                                unsigned char *out,
                                uint64_t first,
                                size_t count,
                                lora_error *error)
{
    const size_t step = READING_CHUNK_BYTES / r->size;
    unsigned char chunk[READING_CHUNK_BYTES];

    for (size_t done = 0; done < count; done += step) {
        size_t some = count - done < step ? count - done : step;
        TRY(lora__container_read(r->tensor->container, r->tensor->index,
                                 (first + done) * r->size, chunk,
                                 some * r->size, error));
        TRY(reading_convert(r, out + done * r->width, chunk, some, error));
    }
    return LORA_OK;
}

/* Elements of the tensor, which has them. Narrow ones are read in one go, into
 * the end of the output, and widened from its beginning: what is written never
 * reaches what is still to be read. */
static lora_status reading_span(const reading *r,
                                unsigned char *out,
                                uint64_t first,
                                size_t count,
                                lora_error *error)
{
    const size_t step = READING_CHUNK_BYTES / r->width;
    unsigned char chunk[READING_CHUNK_BYTES];
    unsigned char *stored;

    if (r->size > r->width) {
        return reading_wide(r, out, first, count, error);
    }
    stored = out + count * (r->width - r->size);
    TRY(lora__container_read(r->tensor->container, r->tensor->index,
                             first * r->size, stored, count * r->size, error));
    for (size_t done = 0; r->tensor->entry->dtype != r->dtype && done < count;
         done += step) {
        size_t some = count - done < step ? count - done : step;
        memcpy(chunk, stored + done * r->size, some * r->size);
        TRY(reading_convert(r, out + done * r->width, chunk, some, error));
    }
    return LORA_OK;
}

/* Rows of a target that is the transpose of what is stored. */
static lora_status reading_transposed(const reading *r,
                                      unsigned char *out,
                                      const lora__holding *hold,
                                      uint64_t first,
                                      size_t count,
                                      lora_error *error)
{
    double line[READING_CHUNK_BYTES / sizeof(double)]; /* of either type */
    const size_t step = sizeof line / r->width;
    const size_t columns = (size_t)hold->columns;

    for (size_t column = 0; column < columns; column++) {
        for (size_t done = 0; done < count; done += step) {
            size_t some = count - done < step ? count - done : step;
            TRY(reading_span(r, (unsigned char *)line,
                             column * hold->rows + first + done, some, error));
            for (size_t i = 0; i < some; i++) {
                memcpy(out + ((done + i) * columns + column) * r->width,
                       (const unsigned char *)line + i * r->width, r->width);
            }
        }
    }
    return LORA_OK;
}

/* Rows of a target that has some of the tensor's. */
static lora_status reading_sliced(const reading *r,
                                  unsigned char *out,
                                  const lora__holding *hold,
                                  uint64_t first,
                                  uint64_t count,
                                  lora_error *error)
{
    const lora__row_set *set = &hold->part->rows;
    const uint64_t unit = (uint64_t)r->tensor->entry->shape[0] / set->units;

    for (uint16_t s = 0; s < set->slice_count && count > 0; s++) {
        uint64_t begin = unit * set->slices[s].begin;
        uint64_t rows = unit * set->slices[s].end - begin;
        uint64_t some;

        if (first >= rows) {
            first -= rows;
            continue;
        }
        some = rows - first < count ? rows - first : count;
        TRY(reading_span(r, out, (begin + first) * hold->columns,
                         (size_t)(some * hold->columns), error));
        out += some * hold->columns * r->width;
        count -= some;
        first = 0;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__checkpoint_scale(float *out,
                                                const lora__checkpoint *c,
                                                size_t tensor,
                                                lora_error *error)
{
    const size_t index = c->tensors[tensor].scale;
    reading r;

    *out = 1;
    if (index == SIZE_MAX) {
        return LORA_OK;
    }
    r = reading_begin(c, index, LORA_DTYPE_F32);
    if (r.tensor->entry->elements != 1 ||
        !lora__dtype_is_float(r.tensor->entry->dtype)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          r.tensor->name,
                          "a scale of other than one number is not supported");
    }
    return reading_span(&r, (unsigned char *)out, 0, 1, error);
}

LORA_PRIVATE lora_status lora__checkpoint_read_rows(void *out,
                                                    lora_dtype dtype,
                                                    const lora__checkpoint *c,
                                                    const lora__holding *hold,
                                                    uint64_t first_row,
                                                    size_t row_count,
                                                    lora_error *error)
{
    const lora__tensor *tensor = &c->tensors[hold->tensor];
    const lora__row_set *set = hold->part == NULL ? NULL : &hold->part->rows;
    const reading r = reading_begin(c, hold->tensor, dtype);
    uint64_t count;
    size_t values;
    float scale;

    if (first_row > hold->rows || row_count > hold->rows - first_row) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, tensor->name,
                          "no such rows");
    }
    if (!lora__dtype_is_readable(tensor->entry->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, tensor->name,
                          "%s is no type of numbers",
                          lora_dtype_name(tensor->entry->dtype));
    }
    if (!lora__mul_u64(row_count, hold->columns, &count) ||
        !lora__u64_to_size(count, &values) || values > SIZE_MAX / r.width) {
        return lora__fail_memory(error, count);
    }
    if (values == 0) {
        return LORA_OK;
    }
    TRY(lora__checkpoint_scale(&scale, c, hold->tensor, error));
    if (set != NULL && set->transposed) {
        TRY(reading_transposed(&r, out, hold, first_row, row_count, error));
    } else if (set != NULL && set->units != 0) {
        TRY(reading_sliced(&r, out, hold, first_row, row_count, error));
    } else {
        TRY(reading_span(&r, out, first_row * hold->columns, values, error));
    }
    if (tensor->scale != SIZE_MAX && dtype == LORA_DTYPE_F64) {
        r.kernels->scale_f64(out, (double)scale, values);
    } else if (tensor->scale != SIZE_MAX) {
        r.kernels->scale_f32(out, scale, values);
    }
    return LORA_OK;
}
