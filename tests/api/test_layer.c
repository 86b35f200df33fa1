/* Layers: what is refused and why, what is told, memory and its failures, and a
 * product by hand. Numbers are compared in differential/test_layers.py.
 */
#include "api/support.h"

static lora_context *context;
static image file; /* of the adapter that is open */

#define CONV "lora_unet_conv"
#define LINEAR "lora_unet_linear"
#define SCALE "lora_unet_scale"

static const float two_by_two[] = {1.0F, 2.0F, 3.0F, 4.0F};

/* In the order of the file: conv, dora, kron, linear, norm, scale. */
static lora_adapter *open_some(lora_context *c)
{
    const float alpha = 4.0F;
    const float none = 0.0F;
    float rough[64];
    some_numbers(rough, COUNT(rough), 3);
    image_begin(&file, NULL);
    image_f32(&file, CONV ".lora_down.weight", "2,3,3,3", rough, 54);
    image_f32(&file, CONV ".lora_up.weight", "4,2,1,1", rough, 8);
    image_f32(&file, "lora_unet_dora.dora_scale", "2,1", rough, 2);
    image_f32(&file, "lora_unet_dora.lora_down.weight", "2,2", rough, 4);
    image_f32(&file, "lora_unet_dora.lora_up.weight", "2,2", rough, 4);
    image_f32(&file, "lora_unet_kron.diff_b", "6", rough, 6);
    image_f32(&file, "lora_unet_kron.lokr_w1", "2,2", rough, 4);
    image_f32(&file, "lora_unet_kron.lokr_w2", "3,4", rough, 12);
    image_f32(&file, LINEAR ".alpha", "", &alpha, 1);
    image_f32(&file, LINEAR ".lora_down.weight", "2,2", two_by_two, 4);
    image_f32(&file, LINEAR ".lora_up.weight", "3,2", rough, 6);
    image_f32(&file, "lora_unet_norm.w_norm", "5", rough, 5);
    image_f32(&file, SCALE ".on_input", "", &none, 1);
    image_f32(&file, SCALE ".weight", "3", rough, 3);
    image_end(&file);
    return open_image(c, &file);
}

static void close_some(lora_adapter *adapter)
{
    lora_adapter_destroy(adapter);
    image_free(&file);
}

static lora_status make(lora_layer **out,
                        const lora_adapter *adapter,
                        const char *name,
                        const lora_layer_options *options,
                        lora_error *error)
{
    size_t index;

    assert_int_equal(lora_adapter_find_module(&index, adapter, name, NULL),
                     LORA_OK);
    return lora_layer_create(out, adapter, index, 1.0, options, error);
}

static lora_layer *made(const lora_adapter *adapter, const char *name)
{
    lora_layer *layer;

    assert_int_equal(make(&layer, adapter, name, NULL, NULL), LORA_OK);
    return layer;
}

static void refuse(const lora_adapter *adapter,
                   const char *name,
                   const lora_layer_options *options,
                   lora_status expected)
{
    lora_layer *layer = JUNK(lora_layer);
    lora_error error;
    lora_status status;

    error_dirty(&error);
    status = make(&layer, adapter, name, options, &error);
    assert_error(&error, status, expected, LORA_NO_OFFSET, NULL);
    assert_null(layer);
}

/* One field of the options with a value that cannot be. */
static void refuse_option(const lora_adapter *adapter,
                          const char *name,
                          size_t offset,
                          int32_t value,
                          lora_status expected)
{
    lora_layer_options options;

    lora_layer_options_init(&options, sizeof options);
    memcpy((unsigned char *)&options + offset, &value, sizeof value);
    refuse(adapter, name, &options, expected);
}

#define AT(field) offsetof(lora_layer_options, field)

static void test_refused(void **state)
{
    lora_adapter *adapter = open_some(context);
    lora_layer *layer = JUNK(lora_layer);
    lora_error error;

    (void)state;
    refuse(adapter, "lora_unet_norm", NULL, LORA_ERROR_UNSUPPORTED);
    refuse(adapter, "lora_unet_dora", NULL, LORA_ERROR_UNSUPPORTED);
    refuse_option(adapter, "lora_unet_kron", AT(groups), 3,
                  LORA_ERROR_UNSUPPORTED);
    refuse_option(adapter, "lora_unet_kron", AT(groups), 4, LORA_ERROR_SHAPE);
    refuse_option(adapter, SCALE, AT(groups), 3, LORA_ERROR_SHAPE);
    refuse_option(adapter, SCALE, AT(kernel), 3, LORA_ERROR_SHAPE);
    refuse_option(adapter, SCALE, AT(padding), 1, LORA_ERROR_SHAPE);
    refuse_option(adapter, CONV, AT(groups), 3, LORA_ERROR_SHAPE);
    refuse_option(adapter, CONV, AT(kernel), 2, LORA_ERROR_SHAPE);
    refuse_option(adapter, LINEAR, AT(kernel), 3, LORA_ERROR_SHAPE);
    refuse_option(adapter, CONV, AT(stride), -1, LORA_ERROR_RANGE);
    refuse_option(adapter, CONV, AT(padding), -1, LORA_ERROR_RANGE);
    refuse_option(adapter, CONV, AT(dilation), -1, LORA_ERROR_RANGE);
    refuse_option(adapter, CONV, AT(stride) + 8, 2, LORA_ERROR_RANGE);
    refuse_option(adapter, LINEAR, AT(dtype), LORA_DTYPE_F64, LORA_ERROR_DTYPE);
    error_dirty(&error);
    assert_error(&error,
                 lora_layer_create(&layer, adapter, 99, 1.0, NULL, &error),
                 LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL);
    assert_null(layer);
    assert_int_equal(
        lora_layer_create(&layer, adapter, 0, (double)NAN, NULL, NULL),
        LORA_ERROR_RANGE);
    assert_int_equal(lora_layer_create(NULL, adapter, 0, 1.0, NULL, NULL),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(lora_layer_create(&layer, NULL, 0, 1.0, NULL, NULL),
                     LORA_ERROR_ARGUMENT);
    close_some(adapter);
}

static void test_told(void **state)
{
    lora_adapter *adapter = open_some(context);
    lora_layer *layer = made(adapter, CONV);
    lora_layer_info info = {.struct_size = sizeof info};
    lora_layer_factor factor = {.struct_size = sizeof factor};
    const lora_layer_batch batch = {1, {7, 3, 0}};
    int64_t size[3];

    (void)state;
    close_some(adapter); /* is not needed any more */
    assert_int_equal(lora_layer_get_info(&info, layer, NULL), LORA_OK);
    assert_int_equal(info.channels_in, 3);
    assert_int_equal(info.channels_out, 4);
    assert_int_equal(info.factor_count, 2);
    assert_int_equal(info.dtype, LORA_DTYPE_F32);
    assert_int_equal(info.dims, 2);
    assert_int_equal(info.kernel[0], 3);
    assert_int_equal(info.kernel[2], 0);
    assert_int_equal(lora_layer_get_factor(&factor, layer, 0, NULL), LORA_OK);
    assert_string_equal(factor.name, CONV ".lora_down.weight");
    assert_string_equal(factor.role, "down");
    assert_int_equal(factor.elements, 54);
    assert_int_equal(factor.ndim, 4);
    assert_int_equal(factor.shape[1], 3);
    assert_int_equal(factor.frozen, 0);
    assert_int_equal(lora_layer_get_factor(&factor, layer, 2, NULL),
                     LORA_ERROR_RANGE);
    assert_int_equal(lora_layer_set_factor(layer, 2, two_by_two, 4, NULL),
                     LORA_ERROR_RANGE);
    assert_int_equal(lora_layer_set_factor(layer, 0, two_by_two, 4, NULL),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(lora_layer_output_size(size, layer, &batch, NULL),
                     LORA_OK);
    assert_int_equal(size[0], 5);
    assert_int_equal(size[1], 1);
    assert_int_equal(size[2], 1);
    assert_ptr_equal(lora_layer_retain(layer), layer);
    lora_layer_destroy(layer);
    lora_layer_destroy(layer);
    assert_null(lora_layer_retain(NULL));
    lora_layer_destroy(NULL);
}

/* Where what is told of a layer stands to the model's. */
static void test_places(void **state)
{
    lora_adapter *adapter = open_some(context);
    lora_layer *beside = made(adapter, LINEAR);
    lora_layer *scale = made(adapter, SCALE);
    lora_layer_info info = {.struct_size = sizeof info};

    (void)state;
    close_some(adapter);
    assert_int_equal(lora_layer_get_info(&info, beside, NULL), LORA_OK);
    assert_int_equal(info.place, LORA_LAYER_PLACE_BESIDE);
    assert_int_equal(info.input, LORA_LAYER_INPUT_NUMBERS);
    assert_int_equal(lora_layer_get_info(&info, scale, NULL), LORA_OK);
    assert_int_equal(info.place, LORA_LAYER_PLACE_PRODUCT);
    assert_int_equal(info.channels_in, 3);
    assert_int_equal(info.channels_out, 3);
    lora_layer_destroy(beside);
    lora_layer_destroy(scale);
}

/* Batches that a layer cannot take, whatever is asked about them. */
static void test_batches(void **state)
{
    static const lora_layer_batch bad[] = {
        {1, {2, 3, 0}},                  /* the kernel is larger */
        {1, {3, -1, 0}},                 /* */
        {1, {3, 3, 2}},                  /* one dimension too many */
        {-1, {3, 3, 0}},                 /* */
        {INT64_MAX, {3, 3, 0}},          /* */
        {1, {(int64_t)1 << 40, 3, 0}},   /* */
        {1 << 30, {1 << 30, 1 << 30, 0}} /* */
    };
    lora_adapter *adapter = open_some(context);
    lora_layer *layer = made(adapter, CONV);
    float some[64] = {0};
    size_t bytes = 77;

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        lora_error error;

        error_dirty(&error);
        assert_error(
            &error,
            lora_layer_workspace(&bytes, &bytes, layer, &bad[i], &error),
            LORA_ERROR_RANGE, LORA_NO_OFFSET, CONV);
        assert_int_equal(bytes, 77);
        assert_int_equal(lora_layer_forward(some, 0, layer, some + 32, 0,
                                            &bad[i], 0, some, sizeof some,
                                            NULL),
                         LORA_ERROR_RANGE);
    }
    lora_layer_destroy(layer);
    close_some(adapter);
}

/* up, strength and scale by hand: y = 1 * (4 / 2) * up (down x). */
static void test_by_hand(void **state)
{
    static const float up[] = {1.0F, 0.0F, 0.0F, 1.0F, 2.0F, -1.0F};
    const float x[] = {1.0F, -1.0F};
    /* down x = (-1, -1) */
    const float expected[] = {-2.0F, -2.0F, -2.0F};
    const lora_layer_batch batch = {1, {0, 0, 0}};
    const lora_layer_batch none = {0, {0, 0, 0}};
    lora_adapter *adapter = open_some(context);
    lora_layer *layer = made(adapter, LINEAR);
    float gradient[4] = {9.0F, 9.0F, 9.0F, 9.0F};
    float *gradients[] = {gradient, NULL};
    float y[] = {5.0F, 5.0F, 5.0F};
    unsigned char *room;
    size_t forward;
    size_t back;

    (void)state;
    assert_int_equal(lora_layer_set_factor(layer, 1, up, COUNT(up), NULL),
                     LORA_OK);
    assert_int_equal(lora_layer_workspace(&forward, &back, layer, &batch, NULL),
                     LORA_OK);
    room = malloc((forward > back ? forward : back) + 1);
    assert_non_null(room);
    /* Of any alignment. */
    assert_int_equal(lora_layer_forward(y, 0, layer, x, 0, &batch, 0, room + 1,
                                        forward, NULL),
                     LORA_OK);
    assert_memory_equal(y, expected, sizeof y);
    y[0] = 5.0F;
    assert_int_equal(lora_layer_forward(y, 0, layer, x, 0, &batch, 0, room,
                                        forward - 1, NULL),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(
        lora_layer_forward(y, 2, layer, x, 0, &batch, 0, room, forward, NULL),
        LORA_ERROR_ARGUMENT);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, x, 1, &batch, 0, room, forward, NULL),
        LORA_ERROR_ARGUMENT);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, x, 0, &batch, 2, room, forward, NULL),
        LORA_ERROR_ARGUMENT);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, x, 0, &none, 0, room, forward, NULL),
        LORA_OK);
    assert_true(y[0] == 5.0F);
    /* Of no samples the gradient is 0. */
    assert_int_equal(lora_layer_backward(NULL, 0, gradients, layer, x, 0, y, 0,
                                         &none, LORA_LAYER_ADD_FACTORS, room,
                                         back, NULL),
                     LORA_OK);
    assert_true(gradient[3] == 9.0F);
    assert_int_equal(lora_layer_backward(NULL, 0, gradients, layer, x, 0, y, 0,
                                         &none, 0, room, back, NULL),
                     LORA_OK);
    assert_true(gradient[0] == 0.0F && gradient[3] == 0.0F);
    free(room);
    lora_layer_destroy(layer);
    close_some(adapter);
}

/* Ids by hand: y = B A[:, id], and what is refused of them. */
static void test_ids(void **state)
{
    static const float a[] = {1.0F, 2.0F, 3.0F, -1.0F, 0.5F, 4.0F};
    static const float b[] = {1.0F, 0.0F, 0.0F, 1.0F, 1.0F, 1.0F};
    static const float expected[] = {3.0F, 4.0F, 7.0F, 1.0F, -1.0F, 0.0F};
    const int64_t ids[] = {2, 0};
    const int64_t bad[] = {2, 3};
    const lora_layer_batch batch = {2, {0, 0, 0}};
    const lora_layer_batch images = {2, {2, 1, 0}};
    lora_layer_info info = {.struct_size = sizeof info};
    lora_layer *layer;
    lora_adapter *adapter;
    float y[6] = {0};
    float gradient[6];
    float *gradients[] = {gradient, NULL};
    float x[6];
    size_t bytes;
    void *room;
    image ids_file;

    (void)state;
    image_begin(&ids_file, NULL);
    image_f32(&ids_file, "base_model.model.embed.lora_embedding_A", "2,3", a,
              6);
    image_f32(&ids_file, "base_model.model.embed.lora_embedding_B", "3,2", b,
              6);
    image_end(&ids_file);
    adapter = open_image(context, &ids_file);
    assert_int_equal(lora_layer_create(&layer, adapter, 0, 1.0, NULL, NULL),
                     LORA_OK);
    lora_adapter_destroy(adapter);
    image_free(&ids_file);
    assert_int_equal(lora_layer_get_info(&info, layer, NULL), LORA_OK);
    assert_int_equal(info.input, LORA_LAYER_INPUT_IDS);
    assert_int_equal(info.channels_in, 3);
    assert_int_equal(lora_layer_workspace(NULL, &bytes, layer, &batch, NULL),
                     LORA_OK);
    room = malloc(bytes);
    assert_non_null(room);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, ids, 0, &batch, 0, room, bytes, NULL),
        LORA_OK);
    assert_memory_equal(y, expected, sizeof y);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, bad, 0, &batch, 0, room, bytes, NULL),
        LORA_ERROR_RANGE);
    assert_memory_equal(y, expected, sizeof y);
    assert_int_equal(
        lora_layer_forward(y, 0, layer, ids, 0, &images, 0, room, bytes, NULL),
        LORA_ERROR_RANGE);
    assert_int_equal(lora_layer_backward(x, 0, gradients, layer, ids, 0, y, 0,
                                         &batch, 0, room, bytes, NULL),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(lora_layer_backward(NULL, 0, gradients, layer, ids, 0, y,
                                         0, &batch, 0, room, bytes, NULL),
                     LORA_OK);
    /* gA[:, 2] = B^T (3, 4, 7), gA[:, 0] = B^T (1, -1, 0) */
    assert_true(gradient[0] == 1.0F && gradient[1] == 0.0F &&
                gradient[2] == 10.0F && gradient[3] == -1.0F &&
                gradient[4] == 0.0F && gradient[5] == 11.0F);
    free(room);
    lora_layer_destroy(layer);
}

/* Every allocation of making a layer fails; running one allocates nothing. */
static void test_memory(void **state)
{
    static const char *const names[] = {CONV, LINEAR, "lora_unet_kron", SCALE};
    const lora_layer_batch batch = {2, {5, 5, 0}};
    static float some[4096];

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        heap h;
        lora_context *c = heap_context(&h, NULL);
        lora_adapter *adapter = open_some(c);
        const lora_layer_batch rows = {2, {0, 0, 0}};
        lora_layer *layer = NULL;
        size_t live = h.live;
        size_t bytes;
        size_t calls;
        void *room;

        for (size_t n = 0; layer == NULL; n++) {
            lora_status status;

            h.fail_at = h.calls + n;
            status = make(&layer, adapter, names[i], NULL, NULL);
            h.fail_at = SIZE_MAX;
            assert_true(status == LORA_ERROR_MEMORY || layer != NULL);
            assert_true(layer != NULL || h.live == live);
        }
        assert_int_equal(lora_layer_workspace(NULL, &bytes, layer,
                                              i == 0 ? &batch : &rows, NULL),
                         LORA_OK);
        room = malloc(bytes);
        assert_non_null(room);
        calls = h.calls;
        assert_int_equal(lora_layer_backward(
                             some, 0, NULL, layer, some + 1024, 0, some + 2048,
                             0, i == 0 ? &batch : &rows, 0, room, bytes, NULL),
                         LORA_OK);
        assert_int_equal(h.calls, calls);
        free(room);
        lora_layer_destroy(layer);
        close_some(adapter);
        heap_end(&h, c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_told),
        cmocka_unit_test(test_places),  cmocka_unit_test(test_batches),
        cmocka_unit_test(test_by_hand), cmocka_unit_test(test_ids),
        cmocka_unit_test(test_memory),
    };
    int failed;

    context = plain_context();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    lora_context_destroy(context);
    return failed;
}
