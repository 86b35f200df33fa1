/* Small checkpoints: safetensors files made of tables of tensors. */
#ifndef TEST_CHECKPOINTS_H
#define TEST_CHECKPOINTS_H

#include "bytes.h"

#include "model/checkpoint.h"

/* A tensor; its data are counted up from 1 where there are none. */
typedef struct weight {
    const char *name;
    lora_dtype dtype;
    int ndim;
    int64_t shape[4];
    const void *data;
} weight;

static inline size_t weight_bytes(const weight *w)
{
    size_t size = lora_dtype_bits(w->dtype) / 8;

    for (int d = 0; d < w->ndim; d++) {
        size *= (size_t)w->shape[d];
    }
    return size;
}

/* The numbers 1, 2, 3 ... in F32 or F64; other types have bytes. */
static inline void put_counted(bytes *b, const weight *w)
{
    size_t size = lora_dtype_bits(w->dtype) / 8;
    size_t count = weight_bytes(w) / size;

    for (size_t i = 0; i < count; i++) {
        float narrow = (float)(i + 1);
        double wide = (double)(i + 1);
        if (w->dtype == LORA_DTYPE_F32) {
            put(b, &narrow, sizeof narrow);
        } else if (w->dtype == LORA_DTYPE_F64) {
            put(b, &wide, sizeof wide);
        } else {
            put_number(b, i + 1, size);
        }
    }
}

static inline void put_header(bytes *b, const weight *weights, size_t count)
{
    size_t offset = 0;
    char text[64];

    PUT(b, "{");
    for (size_t i = 0; i < count; i++) {
        const weight *w = &weights[i];
        size_t size = weight_bytes(w);

        put(b, ",\"", i == 0 ? 0 : 1);
        PUT(b, "\"");
        put(b, w->name, strlen(w->name));
        snprintf(text, sizeof text, "\":{\"dtype\":\"%s\",\"shape\":[",
                 lora_dtype_name(w->dtype));
        put(b, text, strlen(text));
        for (int d = 0; d < w->ndim; d++) {
            snprintf(text, sizeof text, "%s%d", d == 0 ? "" : ",",
                     (int)w->shape[d]);
            put(b, text, strlen(text));
        }
        snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", offset,
                 offset + size);
        put(b, text, strlen(text));
        offset += size;
    }
    PUT(b, "}");
}

/* A whole file. */
static inline blob make_weights(const weight *weights, size_t count)
{
    bytes header = {NULL, 0, 0};
    bytes file = {NULL, 0, 0};

    put_header(&header, weights, count);
    put_number(&file, header.count, 8);
    put(&file, header.data, header.count);
    free(header.data);
    for (size_t i = 0; i < count; i++) {
        if (weights[i].data == NULL) {
            put_counted(&file, &weights[i]);
        } else {
            put(&file, weights[i].data, weight_bytes(&weights[i]));
        }
    }
    return take(&file);
}

/* A file in memory, which the caller frees when the checkpoint is gone. */
static inline lora_status open_weights(lora__checkpoint **out,
                                       blob *file,
                                       lora_context *context,
                                       const weight *weights,
                                       size_t count,
                                       lora_error *error)
{
    lora__container *container;

    *file = make_weights(weights, count);
    assert_int_equal(open_blob(&container, context, file, "base", error),
                     LORA_OK);
    return lora__checkpoint_create(out, container, "", error);
}

/* The tensor of that name. */
static inline const lora__tensor *tensor_named(const lora__checkpoint *c,
                                               const char *name)
{
    size_t index = 0;

    assert_true(lora__checkpoint_find(&index, c, name, strlen(name)));
    return &c->tensors[index];
}

/* A target's weight or bias is these numbers, any rows at a time. */
static inline void check_rows(const lora__checkpoint *c,
                              const char *target,
                              lora__role role,
                              const float *want,
                              uint64_t rows,
                              uint64_t columns)
{
    const lora__holding *hold = lora__checkpoint_find_target(c, target, role);
    float got[64];
    double wide[64];

    assert_non_null(hold);
    assert_string_equal(hold->target, target);
    assert_int_equal(hold->rows, rows);
    assert_int_equal(hold->columns, columns);
    assert_true(rows * columns <= 64);
    for (uint64_t first = 0; first <= rows; first++) {
        for (uint64_t count = 0; count <= rows - first; count++) {
            memset(got, 0xA5, sizeof got);
            assert_int_equal(lora__checkpoint_read_rows(got, LORA_DTYPE_F32, c,
                                                        hold, first,
                                                        (size_t)count, NULL),
                             LORA_OK);
            assert_memory_equal(got, want + first * columns,
                                (size_t)(count * columns) * sizeof *want);
            assert_int_equal(lora__checkpoint_read_rows(wide, LORA_DTYPE_F64, c,
                                                        hold, first,
                                                        (size_t)count, NULL),
                             LORA_OK);
            for (size_t i = 0; i < count * columns; i++) {
                assert_true((float)wide[i] == got[i]);
            }
        }
    }
    assert_int_equal(
        lora__checkpoint_read_rows(got, LORA_DTYPE_F32, c, hold, rows, 1, NULL),
        LORA_ERROR_RANGE);
    assert_int_equal(lora__checkpoint_read_rows(got, LORA_DTYPE_F32, c, hold,
                                                rows + 1, 0, NULL),
                     LORA_ERROR_RANGE);
}

#endif
