/* Gathered tensors. */
#include "op/gather.h"

#include "kernel/kernel.h"
#include "op/derive.h"

#include <string.h>

enum { GATHER_CHUNK = LORA__DERIVE_CHUNK };

/* What the entry of a gathered tensor has as its source. */
typedef struct gather_plan {
    uint64_t width;
    int plain; /* the bytes are those of the sources */
    size_t count;
    lora__rect rects[];
} gather_plan;

/* A piece of the result on its way: elements [first, first + count), in f64, or
 * as they are. */
typedef struct gather_chunk {
    const lora__container *from;
    const lora__kernels *kernels;
    uint64_t width;
    uint64_t first;
    size_t count;
    size_t size; /* of an element */
    int plain;
    unsigned char *out;
} gather_chunk;

/* Room for a chunk, of either sort. */
typedef union gather_room {
    double wide[GATHER_CHUNK];
    unsigned char bytes[GATHER_CHUNK * sizeof(double)];
} gather_room;

static uint64_t gather_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t gather_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The columns of a row that are both in the rectangle and in the chunk: none
 * if *out_end is not above *out_begin. */
static void gather_columns(uint64_t *out_begin,
                           uint64_t *out_end,
                           const gather_chunk *c,
                           const lora__rect *rect,
                           uint64_t row)
{
    uint64_t begin = row * c->width;
    uint64_t last = c->first + c->count;

    *out_begin = gather_max(rect->col, c->first > begin ? c->first - begin : 0);
    *out_end =
        gather_min(rect->col + rect->cols, last > begin ? last - begin : 0);
}

/* `count` neighbours in the source, at most a chunk. */
static lora_status gather_read(gather_room *out,
                               const gather_chunk *c,
                               const lora__rect *rect,
                               uint64_t row,
                               uint64_t col,
                               size_t count,
                               lora_error *error)
{
    const lora__entry *entry = &c->from->entries[rect->entry];
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    unsigned char bytes[GATHER_CHUNK * sizeof(double)];
    uint64_t at =
        (rect->from_row + row) * rect->from_width + rect->from_col + col;

    TRY(lora__container_read(c->from, rect->entry, at * size,
                             c->plain ? out->bytes : bytes, count * size,
                             error));
    if (c->plain) {
        return LORA_OK;
    }
    TRY(lora__convert_to_f64(out->wide, bytes, entry->dtype, count, c->kernels,
                             error));
    if (rect->factor != 1.0) {
        c->kernels->scale_f64(out->wide, rect->factor, count);
    }
    return LORA_OK;
}

/* Rows [begin, end) of the result, which are rows of the source too. Several
 * are read at once, with what lies between them, if that is a chunk at most. */
static lora_status gather_rows(gather_chunk *c,
                               const lora__rect *rect,
                               uint64_t begin,
                               uint64_t end,
                               lora_error *error)
{
    gather_room values;
    uint64_t step =
        rect->from_width >= GATHER_CHUNK ? 1 : GATHER_CHUNK / rect->from_width;

    for (uint64_t row = begin; row < end; row += step) {
        uint64_t last = gather_min(row + step, end) - 1;
        uint64_t first_col;
        uint64_t end_col;
        uint64_t ignored;
        uint64_t start;

        gather_columns(&first_col, &ignored, c, rect, row);
        gather_columns(&ignored, &end_col, c, rect, last);
        start = first_col - rect->col;
        TRY(gather_read(
            &values, c, rect, row - rect->row, start,
            (size_t)((last - row) * rect->from_width + end_col - first_col),
            error));
        for (uint64_t r = row; r <= last; r++) {
            uint64_t a;
            uint64_t b;
            gather_columns(&a, &b, c, rect, r);
            memcpy(c->out + (r * c->width + a - c->first) * c->size,
                   values.bytes +
                       ((r - row) * rect->from_width + a - rect->col - start) *
                           c->size,
                   (size_t)(b - a) * c->size);
        }
    }
    return LORA_OK;
}

/* The same where they are columns of the source: a run of rows of the result
 * is a run of neighbours there. */
static lora_status gather_transposed(gather_chunk *c,
                                     const lora__rect *rect,
                                     uint64_t begin,
                                     uint64_t end,
                                     lora_error *error)
{
    gather_room values;

    for (uint64_t col = rect->col; col < rect->col + rect->cols; col++) {
        uint64_t a = begin;
        uint64_t b = end;
        /* Only the first and the last row may be in the chunk in part. */
        a += a * c->width + col < c->first;
        b -= (b - 1) * c->width + col >= c->first + c->count;
        if (a >= b) {
            continue;
        }
        TRY(gather_read(&values, c, rect, col - rect->col, a - rect->row,
                        (size_t)(b - a), error));
        for (uint64_t row = a; row < b; row++) {
            memcpy(c->out + (row * c->width + col - c->first) * c->size,
                   values.bytes + (row - a) * c->size, c->size);
        }
    }
    return LORA_OK;
}

static lora_status
gather_rect(gather_chunk *c, const lora__rect *rect, lora_error *error)
{
    uint64_t last = c->first + c->count - 1;
    uint64_t begin = gather_max(rect->row, c->first / c->width);
    uint64_t end = gather_min(rect->row + rect->rows, last / c->width + 1);
    uint64_t a;
    uint64_t b;

    if (rect->transposed) {
        return begin < end ? gather_transposed(c, rect, begin, end, error)
                           : LORA_OK;
    }
    /* Rows that the chunk has no column of, at both its ends. */
    for (; begin < end; begin++) {
        gather_columns(&a, &b, c, rect, begin);
        if (a < b) {
            break;
        }
    }
    for (; begin < end; end--) {
        gather_columns(&a, &b, c, rect, end - 1);
        if (a < b) {
            break;
        }
    }
    return gather_rows(c, rect, begin, end, error);
}

static lora_status gather_make(unsigned char *out,
                               const lora__entry *entry,
                               uint64_t first,
                               size_t count,
                               const lora__kernels *kernels,
                               lora_error *error)
{
    const gather_plan *plan = entry->source;
    gather_room values;
    gather_chunk c = {
        entry->parent,
        kernels,
        plan->width,
        first,
        count,
        plan->plain ? lora_dtype_bits(entry->dtype) / 8 : sizeof(double),
        plan->plain,
        plan->plain ? out : values.bytes};

    memset(c.out, 0, count * c.size);
    for (size_t i = 0; i < plan->count; i++) {
        TRY(gather_rect(&c, &plan->rects[i], error));
    }
    return plan->plain ? LORA_OK
                       : lora__convert_from_f64(out, entry->dtype, values.wide,
                                                count, kernels, error);
}

static lora_status gather_derive(const lora__entry *entry,
                                 uint64_t offset,
                                 void *buffer,
                                 size_t bytes,
                                 lora_error *error)
{
    return lora__derive_cut(entry, offset, buffer, bytes, gather_make, error);
}

LORA_PRIVATE lora_status lora__gather_add(lora_builder *builder,
                                          const char *name,
                                          const lora_adapter *adapter,
                                          lora_dtype dtype,
                                          int32_t ndim,
                                          const int64_t *shape,
                                          const lora__rect *rects,
                                          size_t count,
                                          lora_error *error)
{
    size_t bytes = sizeof(gather_plan) + count * sizeof *rects;
    gather_plan *plan;
    int plain = 1;

    for (size_t i = 0; i < count; i++) {
        const lora__entry *entry = &adapter->container->entries[rects[i].entry];
        plain &= rects[i].factor == 1.0 && dtype == entry->dtype;
        if (i > 0 && rects[i].entry == rects[i - 1].entry &&
            rects[i].factor == rects[i - 1].factor) {
            continue;
        }
        if (rects[i].factor != 1.0 || dtype != entry->dtype) {
            TRY(lora__derive_check(adapter, rects[i].entry, rects[i].factor,
                                   dtype, error));
        }
    }
    plan = lora__alloc(adapter->context, bytes, LORA__ALIGN);
    if (plan == NULL) {
        return lora__fail_memory(error, bytes);
    }
    plan->width = lora__shape_count(shape, 1, ndim);
    plan->plain = plain;
    plan->count = count;
    memcpy(plan->rects, rects, count * sizeof *rects);
    return lora__builder_add_made(builder, name, adapter->container, ndim,
                                  shape, dtype, gather_derive, plan, bytes,
                                  error);
}
