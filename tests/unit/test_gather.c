/* Gathered tensors: rectangles of others, read at every offset and length,
 * against the same put together element by element. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the others */
#include <cmocka.h>

#include "op/gather.h"

#include <lora/context.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Two matrices to take from, [12, 200] and [1500, 3]. */
enum { WIDE_ROWS = 12, WIDE = 200, LONG_ROWS = 1500, NARROW = 3 };

static float wide[WIDE_ROWS * WIDE];
static float narrow[LONG_ROWS * NARROW];
static lora_context *context;
static lora_adapter *adapter;

static void add(lora_builder *builder,
                const char *name,
                float *values,
                int64_t rows,
                int64_t cols)
{
    lora_tensor t = {0};

    for (int64_t i = 0; i < rows * cols; i++) {
        values[i] = (float)(i + 1);
    }
    t.data = values;
    t.bytes = (size_t)(rows * cols) * sizeof *values;
    t.shape[0] = rows;
    t.shape[1] = cols;
    t.ndim = 2;
    t.dtype = LORA_DTYPE_F32;
    assert_int_equal(lora_builder_add_tensor(builder, name, &t, NULL), LORA_OK);
}

static int set_up(void **state)
{
    lora_builder *builder;

    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    add(builder, "a", wide, WIDE_ROWS, WIDE);
    add(builder, "b", narrow, LONG_ROWS, NARROW);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    return 0;
}

/* What the rectangle has at (row, col) of the result, by its definition. */
static float element(const lora__rect *rect, uint64_t row, uint64_t col)
{
    const float *from = rect->entry == 0 ? wide : narrow;
    uint64_t y = row - rect->row;
    uint64_t x = col - rect->col;

    return from[(rect->from_row + (rect->transposed ? x : y)) *
                    rect->from_width +
                rect->from_col + (rect->transposed ? y : x)] *
           (float)rect->factor;
}

/* Make the tensor, and read it: whole, and pieces that begin and end within
 * elements. */
static void
check(int64_t rows, int64_t cols, const lora__rect *rects, size_t count)
{
    const int64_t shape[] = {rows, cols};
    size_t elements = (size_t)(rows * cols);
    size_t bytes = elements * sizeof(float);
    float *expected = calloc(elements, sizeof *expected);
    unsigned char *got = malloc(bytes);
    const unsigned char *all = (const unsigned char *)expected;
    lora_builder *builder;
    lora_adapter *out;

    assert_non_null(expected);
    assert_non_null(got);
    for (size_t i = 0; i < count; i++) {
        const lora__rect *r = &rects[i];
        for (uint64_t y = r->row; y < r->row + r->rows; y++) {
            for (uint64_t x = r->col; x < r->col + r->cols; x++) {
                expected[y * (uint64_t)cols + x] = element(r, y, x);
            }
        }
    }
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora__gather_add(builder, "t", adapter, LORA_DTYPE_F32, 2,
                                      shape, rects, count, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_finish(&out, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    assert_int_equal(
        lora__container_read(out->container, 0, 0, got, bytes, NULL), LORA_OK);
    assert_memory_equal(got, all, bytes);
    for (size_t at = 0; at < bytes; at += 1 + at % 97) {
        size_t length =
            1 + (at * 7919) % (bytes - at < 5000 ? bytes - at : 5000);
        assert_int_equal(
            lora__container_read(out->container, 0, at, got, length, NULL),
            LORA_OK);
        assert_memory_equal(got, all + at, length);
    }
    lora_adapter_destroy(out);
    free(got);
    free(expected);
}

/* entry, from_width, from_row, from_col, row, col, rows, cols, ... */
static void test_rows(void **state)
{
    static const lora__rect whole[] = {
        {1, NARROW, 500, 0, 0, 0, 500, NARROW, 0, 1.0}};
    static const lora__rect swapped[] = {
        {0, WIDE, 6, 0, 0, 0, 6, WIDE, 0, 1.0},
        {0, WIDE, 0, 0, 6, 0, 6, WIDE, 0, 2.0}};
    static const lora__rect some[] = {{0, WIDE, 2, 50, 1, 3, 7, 140, 0, 0.5}};

    (void)state;
    check(500, NARROW, whole, COUNT(whole));
    check(WIDE_ROWS, WIDE, swapped, COUNT(swapped));
    check(9, 150, some, COUNT(some));
}

static void test_blocks(void **state)
{
    static const lora__rect diagonal[] = {
        {1, NARROW, 0, 0, 0, 0, 700, NARROW, 0, 1.0},
        {1, NARROW, 700, 0, 800, 5, 800, NARROW, 0, 4.0}};
    static const lora__rect column[] = {
        {1, NARROW, 3, 1, 0, 0, 1200, 1, 0, 1.0},
        {1, NARROW, 3, 0, 0, 1, 1200, 1, 0, 1.0}};
    static const lora__rect far_apart[] = {
        {0, WIDE, 0, 0, 0, 1100, 3, 100, 0, 1.0},
        {0, WIDE, 3, 100, 2, 10, 2, 60, 0, 1.0}};

    (void)state;
    check(1600, 8, diagonal, COUNT(diagonal));
    check(1200, 2, column, COUNT(column));
    check(5, 2500, far_apart, COUNT(far_apart));
}

static void test_transposed(void **state)
{
    static const lora__rect tall[] = {
        {0, WIDE, 0, 0, 0, 0, WIDE, WIDE_ROWS, 1, 1.0}};
    static const lora__rect flat[] = {
        {1, NARROW, 0, 0, 0, 0, NARROW, LONG_ROWS, 1, 1.0}};
    static const lora__rect part[] = {
        {1, NARROW, 20, 1, 1, 7, 2, 1400, 1, 3.0}};

    (void)state;
    check(WIDE, WIDE_ROWS, tall, COUNT(tall));
    check(NARROW, LONG_ROWS, flat, COUNT(flat));
    check(4, 1410, part, COUNT(part));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_transposed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
