/* Builders: adapters from tensors, and from other adapters. */
#include "api/support.h"

static lora_tensor view_of(lora_dtype dtype,
                           int32_t ndim,
                           int64_t a,
                           int64_t b,
                           const void *data,
                           uint64_t bytes)
{
    lora_tensor view = {data, bytes, {a, b}, ndim, dtype};

    return view;
}

static lora_status add_f32(lora_builder *builder,
                           const char *name,
                           int64_t rows,
                           int64_t cols,
                           const float *values)
{
    lora_tensor view = view_of(LORA_DTYPE_F32, 2, rows, cols, values,
                               (uint64_t)(rows * cols) * sizeof *values);

    return lora_builder_add_tensor(builder, name, &view, NULL);
}

/* Tensors and metadata in any order give the file that a hand writes. */
static void test_from_nothing(void **state)
{
    const float alpha = 1.0f;
    const double wide[2] = {0.1, -0.2};
    float values[12];
    image im;
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_builder *builder = JUNK(lora_builder);
    lora_adapter *adapter = JUNK(lora_adapter);
    lora_tensor view;
    lora_error error;
    unsigned char *file;
    size_t bytes;

    (void)state;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_create(&builder, context, NULL, &error));
    some_numbers(values, 8, 14);
    assert_int_equal(add_f32(builder, SAMPLE_K ".lora_up.weight", 4, 2, values),
                     LORA_OK);
    some_numbers(values, 12, 13);
    assert_int_equal(
        add_f32(builder, SAMPLE_K ".lora_down.weight", 2, 6, values), LORA_OK);
    memset(values, 0, sizeof values); /* it was copied */
    view = view_of(LORA_DTYPE_F32, 0, 0, 0, &alpha, 4);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_add_tensor(builder, SAMPLE_K ".alpha", &view, &error));
    view = view_of(LORA_DTYPE_F64, 1, 2, 0, wide, 16);
    assert_int_equal(lora_builder_add_tensor(builder, "z", &view, NULL),
                     LORA_OK);
    view = view_of(LORA_DTYPE_F32, 2, 0, 7, NULL, 0);
    assert_int_equal(lora_builder_add_tensor(builder, "empty", &view, NULL),
                     LORA_OK);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_set_metadata(builder, "b", "2", &error));
    assert_int_equal(
        lora_builder_set_metadata(builder, "a", "\xC3\xA4\"\n", NULL), LORA_OK);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_finish(&adapter, builder, &error));
    lora_builder_destroy(builder);

    image_begin(&im, "\"a\":\"\xC3\xA4\\\"\\n\",\"b\":\"2\"");
    image_raw(&im, "z", "F64", "2", wide, sizeof wide);
    image_raw(&im, "empty", "F32", "0,7", NULL, 0);
    image_f32(&im, SAMPLE_K ".alpha", "", &alpha, 1);
    image_some(&im, SAMPLE_K ".lora_down.weight", "2,6", 12, 13);
    image_some(&im, SAMPLE_K ".lora_up.weight", "4,2", 8, 14);
    image_end(&im);
    file = saved_bytes(adapter, &bytes);
    assert_int_equal(bytes, im.bytes);
    assert_memory_equal(file, im.file, bytes);
    free(file);
    assert_int_equal(lora_adapter_module_count(adapter), 1);
    lora_adapter_destroy(adapter);
    image_free(&im);
    heap_end(&h, context);
}

static void test_arguments(void **state)
{
    const float values[4] = {0};
    lora_context *context = plain_context();
    lora_builder *builder = JUNK(lora_builder);
    lora_adapter *adapter = JUNK(lora_adapter);
    lora_tensor view = view_of(LORA_DTYPE_F32, 2, 2, 2, values, sizeof values);
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_builder_create(NULL, context, NULL, &error));
    CHECK_ARGUMENT(lora_builder_create(&builder, NULL, NULL, &error));
    assert_null(builder);
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    CHECK_ARGUMENT(lora_builder_add_tensor(NULL, "x", &view, &error));
    CHECK_ARGUMENT(lora_builder_add_tensor(builder, NULL, &view, &error));
    CHECK_ARGUMENT(lora_builder_add_tensor(builder, "x", NULL, &error));
    /* No name at all is a name: safetensors reads and writes it. */
    assert_int_equal(lora_builder_add_tensor(builder, "", &view, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_remove_tensor(builder, "", NULL), LORA_OK);
    CHECK_ARGUMENT(
        lora_builder_add_tensor(builder, "__metadata__", &view, &error));
    CHECK_ARGUMENT(lora_builder_add_tensor(builder, "\xFF", &view, &error));
    view.data = NULL;
    CHECK_ARGUMENT(lora_builder_add_tensor(builder, "x", &view, &error));
    CHECK_ARGUMENT(lora_builder_remove_tensor(NULL, "x", &error));
    CHECK_ARGUMENT(lora_builder_remove_tensor(builder, NULL, &error));
    CHECK_ARGUMENT(lora_builder_set_metadata(NULL, "k", "v", &error));
    CHECK_ARGUMENT(lora_builder_set_metadata(builder, "\xC3", "v", &error));
    CHECK_ARGUMENT(
        lora_builder_set_metadata(builder, "k", "\xED\xA0\x80", &error));
    CHECK_ARGUMENT(lora_builder_finish(NULL, builder, &error));
    CHECK_ARGUMENT(lora_builder_finish(&adapter, NULL, &error));
    assert_null(adapter);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    assert_int_equal(lora_adapter_tensor_count(adapter), 0);
    assert_int_equal(lora_adapter_metadata_count(adapter), 0);
    lora_adapter_destroy(adapter);
    lora_builder_destroy(builder);
    lora_context_destroy(context);
}

static void test_shapes(void **state)
{
    static const struct {
        lora_dtype dtype;
        int32_t ndim;
        int64_t a;
        int64_t b;
        uint64_t bytes;
        lora_status status;
    } cases[] = {
        {LORA_DTYPE_F32, 2, 2, 2, 16, LORA_OK},
        {LORA_DTYPE_F32, 2, 2, 2, 15, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, 2, 2, 2, 17, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, 1, 4, 0, 16, LORA_OK},
        {LORA_DTYPE_F32, 2, -2, -2, 16, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, -1, 4, 0, 16, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, 9, 4, 1, 16, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, 2, INT64_MAX, INT64_MAX, 4, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F32, 2, INT64_MAX, 0, 0, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F4, 1, 3, 0, 1, LORA_ERROR_SHAPE},
        {LORA_DTYPE_F4, 1, 4, 0, 2, LORA_OK},
        {LORA_DTYPE_NONE, 1, 4, 0, 16, LORA_ERROR_DTYPE},
        {23, 1, 4, 0, 16, LORA_ERROR_DTYPE},
    };
    const unsigned char data[32] = {0};
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_builder *builder;
    lora_error error;

    (void)state;
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(cases); i++) {
        lora_tensor view = view_of(cases[i].dtype, cases[i].ndim, cases[i].a,
                                   cases[i].b, data, cases[i].bytes);
        char name[8];
        snprintf(name, sizeof name, "t%u", (unsigned)i);
        CHECK(cases[i].status, LORA_NO_OFFSET,
              cases[i].status == LORA_OK ? "" : name,
              lora_builder_add_tensor(builder, name, &view, &error));
    }
    lora_builder_destroy(builder);
    heap_end(&h, context);
}

/* Names are free again once removed; a refused tensor changes nothing. */
static void test_remove(void **state)
{
    const float one[1] = {1.0f};
    const float two[1] = {2.0f};
    lora_tensor view = view_of(LORA_DTYPE_F32, 1, 1, 0, one, 4);
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_builder *builder;
    lora_adapter *adapter;
    float read = 0.0f;
    lora_error error;

    (void)state;
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "x",
          lora_builder_remove_tensor(builder, "x", &error));
    assert_int_equal(lora_builder_add_tensor(builder, "x", &view, NULL),
                     LORA_OK);
    view.data = two;
    CHECK(LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, "x",
          lora_builder_add_tensor(builder, "x", &view, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_remove_tensor(builder, "x", &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "x",
          lora_builder_remove_tensor(builder, "x", &error));
    assert_int_equal(lora_builder_add_tensor(builder, "x", &view, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    assert_int_equal(lora_adapter_tensor_count(adapter), 1);
    assert_int_equal(lora_adapter_read_tensor(&read, 4, adapter, 0, 0, NULL),
                     LORA_OK);
    assert_true(read == 2.0f);
    lora_adapter_destroy(adapter);

    /* The builder is empty, and can be used again. */
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    assert_int_equal(lora_adapter_tensor_count(adapter), 0);
    lora_adapter_destroy(adapter);
    lora_builder_destroy(builder);
    heap_end(&h, context);
}

static void test_metadata(void **state)
{
    image im;
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_adapter *source;
    lora_adapter *adapter;
    lora_builder *builder;
    lora_error error;

    (void)state;
    image_sample(&im);
    source = open_image(context, &im);
    assert_int_equal(lora_builder_create(&builder, context, source, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_set_metadata(builder, "note", "c", NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_set_metadata(builder, "new", "", NULL),
                     LORA_OK);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_set_metadata(builder, "sshs_model_hash", NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_set_metadata(builder, "missing", NULL, &error));
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    assert_int_equal(lora_adapter_metadata_count(adapter), 5);
    assert_string_equal(lora_adapter_find_metadata(adapter, "note"), "c");
    assert_string_equal(lora_adapter_find_metadata(adapter, "new"), "");
    assert_null(lora_adapter_find_metadata(adapter, "sshs_model_hash"));
    /* The source is what it was. */
    assert_string_equal(lora_adapter_find_metadata(source, "note"), "a b");
    lora_adapter_destroy(adapter);
    lora_builder_destroy(builder);

    assert_int_equal(lora_builder_create(&builder, context, source, NULL),
                     LORA_OK);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_builder_set_metadata(builder, NULL, NULL, &error));
    assert_int_equal(lora_builder_set_metadata(builder, "only", "1", NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    assert_int_equal(lora_adapter_metadata_count(adapter), 1);
    lora_adapter_destroy(adapter);
    lora_builder_destroy(builder);
    lora_adapter_destroy(source);
    heap_end(&h, context);
    image_free(&im);
}

/* Tensors of a source are not copied: they are lent from the same memory. */
static void test_from_source(void **state)
{
    image im;
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_context *other = plain_context();
    lora_adapter *source;
    lora_adapter *adapter;
    lora_builder *builder;
    lora_tensor a;
    lora_tensor b;

    (void)state;
    image_sample(&im);
    source = open_image(context, &im);
    /* A builder of another context takes them as well. */
    assert_int_equal(lora_builder_create(&builder, other, source, NULL),
                     LORA_OK);
    lora_context_destroy(other);
    assert_int_equal(
        lora_builder_remove_tensor(builder, SAMPLE_Q ".alpha", NULL), LORA_OK);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    assert_int_equal(lora_adapter_tensor_count(adapter), 12);
    assert_int_equal(
        lora_adapter_get_tensor(
            &a, source, tensor_at(source, SAMPLE_Q ".lora_up.weight"), NULL),
        LORA_OK);
    assert_int_equal(
        lora_adapter_get_tensor(
            &b, adapter, tensor_at(adapter, SAMPLE_Q ".lora_up.weight"), NULL),
        LORA_OK);
    assert_ptr_equal(a.data, b.data);
    lora_adapter_destroy(source);
    assert_memory_equal(b.data, a.data, 32);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
    image_free(&im);
}

/* The limit counts what the adapter would have. */
static void test_limit(void **state)
{
    const float one[1] = {1.0f};
    lora_tensor view = view_of(LORA_DTYPE_F32, 1, 1, 0, one, 4);
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options options;
    lora_context *context;
    lora_builder *builder;
    lora_adapter *adapter = JUNK(lora_adapter);
    lora_error error;
    heap h;

    (void)state;
    limits.tensor_count = 2;
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    context = heap_context(&h, &options);
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(lora_builder_add_tensor(builder, "a", &view, NULL),
                         LORA_OK);
        assert_int_equal(lora_builder_add_tensor(builder, "b", &view, NULL),
                         LORA_OK);
        assert_int_equal(lora_builder_add_tensor(builder, "c", &view, NULL),
                         LORA_OK);
        if (round == 0) {
            CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, NULL,
                  lora_builder_finish(&adapter, builder, &error));
            assert_null(adapter); /* and the builder is empty */
        } else {
            assert_int_equal(lora_builder_remove_tensor(builder, "a", NULL),
                             LORA_OK);
            CHECK(LORA_OK, LORA_NO_OFFSET, "",
                  lora_builder_finish(&adapter, builder, &error));
        }
    }
    lora_adapter_destroy(adapter);
    lora_builder_destroy(builder);
    heap_end(&h, context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_from_nothing), cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_shapes),       cmocka_unit_test(test_remove),
        cmocka_unit_test(test_metadata),     cmocka_unit_test(test_from_source),
        cmocka_unit_test(test_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
