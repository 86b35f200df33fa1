/* Light-LoRA through the interface: arguments, failures, memory that ends, and
 * numbers that follow from the definition alone. Those of torch are for
 * golden/test_light.py.
 */
#include "api/reader.h"

#include <math.h>

static lora_context *context;

#define OLD_Q                                                                  \
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1."              \
    "processor.to_q_lora"
#define OUT_SIZE 12
#define IN_SIZE 9

static lora_light_recipe recipe_of(const char *draws)
{
    static const lora_light_shape shapes[] = {{"*", OUT_SIZE, IN_SIZE}};
    lora_light_recipe recipe;

    lora_light_recipe_init(&recipe, sizeof recipe);
    recipe.draws = draws;
    recipe.down_size = 5;
    recipe.up_size = 4;
    recipe.shapes = shapes;
    recipe.shape_count = 1;
    return recipe;
}

/* A plain pair that Light-LoRA can be made of. */
static void image_plain(image *im)
{
    image_begin(im, NULL);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,9", 2 * IN_SIZE, 1);
    image_some(im, SAMPLE_Q ".lora_up.weight", "12,2", 2 * OUT_SIZE, 2);
    image_end(im);
}

static void read_delta(float out[OUT_SIZE * IN_SIZE], const lora_adapter *from)
{
    assert_int_equal(lora_adapter_delta(out, OUT_SIZE * IN_SIZE * sizeof *out,
                                        from, 0, LORA_PART_WEIGHT, 1.0,
                                        LORA_DTYPE_F32, 0, OUT_SIZE, NULL),
                     LORA_OK);
}

static void assert_near(const lora_adapter *a, const lora_adapter *b)
{
    float x[OUT_SIZE * IN_SIZE];
    float y[OUT_SIZE * IN_SIZE];

    read_delta(x, a);
    read_delta(y, b);
    for (size_t i = 0; i < COUNT(x); i++) {
        assert_true(fabsf(x[i] - y[i]) < 1e-5f);
    }
}

/* A projection done twice is the same, and is what it expands to; so is one
 * whose matrices are stored. */
static void test_round(void **state)
{
    const lora_light_recipe recipe = recipe_of("down_aux,up_aux");
    lora_light_options options;
    lora_adapter *adapter, *small, *again, *plain;
    lora_report *report;
    lora_error error;
    image im;

    (void)state;
    image_plain(&im);
    adapter = open_image(context, &im);
    lora_light_options_init(&options, sizeof options);
    for (uint32_t store = 0; store < 2; store++) {
        lora_report_module row = {.struct_size = sizeof row};
        options.store = store;
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_light_compress(&small, &report, adapter, &recipe, &options,
                                  &error));
        assert_int_equal(lora_adapter_tensor_count(small), store ? 4 : 2);
        assert_int_equal(lora_report_module_count(report), 1);
        assert_int_equal(lora_report_get_module(&row, report, 0, NULL),
                         LORA_OK);
        assert_true(row.energy > 0.0 && row.energy < 1.0);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_light_compress(&again, NULL, small, &recipe, &options,
                                  &error));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_light_expand(&plain, again, NULL, NULL, &error));
        assert_near(small, again);
        assert_near(small, plain);
        tensor_at(plain, SAMPLE_Q ".lora_up.weight");
        lora_report_destroy(report);
        report = JUNK(lora_report);
        if (store) {
            CHECK(LORA_OK, LORA_NO_OFFSET, "",
                  lora_light_verify(&report, small, NULL, &error));
            assert_int_equal(lora_report_problem_count(report), 0);
            lora_report_destroy(report);
        } else {
            CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
                  lora_light_verify(&report, small, NULL, &error));
            assert_null(report);
        }
        lora_adapter_destroy(plain);
        lora_adapter_destroy(again);
        lora_adapter_destroy(small);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_draw(void **state)
{
    lora_light_draw draws[2] = {{2, 3, 1.0, LORA_LIGHT_NORMAL, 0},
                                {3, 2, 1.0, LORA_LIGHT_ORTHOGONAL, 0}};
    float out[6];
    lora_error error;

    (void)state;
    CHECK(
        LORA_OK, LORA_NO_OFFSET, "",
        lora_light_draw_matrix(out, sizeof out, context, 1, draws, 2, &error));
    for (int i = 0; i < 2; i++) { /* columns of norm 1, at right angles */
        for (int j = 0; j < 2; j++) {
            const float dot = out[i] * out[j] + out[i + 2] * out[j + 2] +
                              out[i + 4] * out[j + 4];
            assert_true(fabsf(dot - (float)(i == j)) < 1e-6f);
        }
    }
    CHECK_ARGUMENT(
        lora_light_draw_matrix(NULL, 24, context, 1, draws, 2, &error));
    CHECK_ARGUMENT(
        lora_light_draw_matrix(out, sizeof out, NULL, 1, draws, 2, &error));
    CHECK_ARGUMENT(
        lora_light_draw_matrix(out, sizeof out, context, 1, NULL, 2, &error));
    CHECK_ARGUMENT(
        lora_light_draw_matrix(out, sizeof out, context, 1, draws, 0, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
          lora_light_draw_matrix(out, 20, context, 1, draws, 2, &error));
    draws[0].rows = 0;
    CHECK(
        LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
        lora_light_draw_matrix(out, sizeof out, context, 1, draws, 2, &error));
    draws[0].rows = INT64_MAX;
    CHECK(
        LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
        lora_light_draw_matrix(out, sizeof out, context, 1, draws, 2, &error));
    draws[0].rows = 2;
    draws[0].init = 9;
    CHECK_ARGUMENT(
        lora_light_draw_matrix(out, sizeof out, context, 1, draws, 2, &error));
}

static void test_create(void **state)
{
    const char *const targets[] = {"*mid_block*attn1.to_q"};
    lora_light_recipe recipe;
    lora_light_options options;
    lora_adapter *out;
    lora_error error;

    (void)state;
    lora_light_recipe_init(&recipe, sizeof recipe);
    lora_light_options_init(&options, sizeof options);
    options.targets = targets;
    options.target_count = 1;
    recipe.family = "sd15";
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_light_create(&out, context, &recipe, &options, &error));
    assert_int_equal(lora_adapter_tensor_count(out), 2);
    lora_adapter_destroy(out);
    options.variant = LORA_LIGHT_BOTH_ZERO;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "variant",
          lora_light_create(&out, context, &recipe, &options, &error));
    assert_null(out);
    options.variant = 6;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "variant",
          lora_light_create(&out, context, &recipe, &options, &error));
    options.variant = LORA_LIGHT_GAUSSIAN;
    options.deviation = -1.0;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "deviation",
          lora_light_create(&out, context, &recipe, &options, &error));
    options.deviation = 0.0;
    options.dialect = "nobody's";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "nobody's",
          lora_light_create(&out, context, &recipe, &options, &error));
    options.dialect = "peft";
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, NULL,
          lora_light_create(&out, context, &recipe, &options, &error));
    options.dialect = NULL;
    recipe.family = "nobody";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "nobody",
          lora_light_create(&out, context, &recipe, &options, &error));
    recipe.family = NULL;
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "family",
          lora_light_create(&out, context, &recipe, &options, &error));
    recipe.draws = "down_aux";
    CHECK_ARGUMENT(lora_light_create(&out, context, &recipe, &options, &error));
    CHECK_ARGUMENT(lora_light_create(&out, context, NULL, &options, &error));
    CHECK_ARGUMENT(lora_light_create(&out, NULL, &recipe, &options, &error));
    CHECK_ARGUMENT(lora_light_create(NULL, context, &recipe, &options, &error));
}

static void test_fails(void **state)
{
    lora_light_recipe recipe = recipe_of("down_aux,up_aux");
    lora_light_options options;
    lora_adapter *adapter, *small, *out;
    lora_report *report;
    lora_error error;
    image im;
    source s;

    (void)state;
    image_plain(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    lora_light_options_init(&options, sizeof options);
    CHECK_ARGUMENT(
        lora_light_compress(NULL, &report, adapter, &recipe, NULL, &error));
    out = JUNK(lora_adapter);
    report = JUNK(lora_report);
    CHECK_ARGUMENT(
        lora_light_compress(&out, &report, NULL, &recipe, NULL, &error));
    assert_null(out);
    assert_null(report);
    CHECK_ARGUMENT(lora_light_expand(NULL, adapter, NULL, NULL, &error));
    CHECK_ARGUMENT(lora_light_expand(&out, NULL, NULL, NULL, &error));
    CHECK_ARGUMENT(lora_light_verify(NULL, adapter, NULL, &error));
    CHECK_ARGUMENT(lora_light_verify(&report, NULL, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          lora_light_expand(&out, adapter, NULL, NULL, &error));
    assert_null(out);
    options.dtype = LORA_DTYPE_I32;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          lora_light_compress(&out, NULL, adapter, &recipe, &options, &error));
    options.dtype = LORA_DTYPE_NONE;
    options.rank = -1;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "rank",
          lora_light_expand(&out, adapter, &recipe, &options, &error));
    recipe.down_size = -1;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "recipe",
          lora_light_compress(&out, NULL, adapter, &recipe, NULL, &error));
    recipe = recipe_of("down_aux,sideways");
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
          lora_light_compress(&out, NULL, adapter, &recipe, NULL, &error));
    recipe = recipe_of("down_aux");
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
          lora_light_compress(&out, NULL, adapter, &recipe, NULL, &error));
    recipe = recipe_of("down_aux,up_aux");
    s.fail_at = s.reads + 1;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          lora_light_compress(&out, NULL, adapter, &recipe, NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_light_compress(&small, NULL, adapter, &recipe, NULL, &error));
    recipe.draws = "down_aux";
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_light_expand(&out, small, &recipe, NULL, &error));
    assert_null(out);
    lora_adapter_destroy(small);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Every allocation of a call fails once. */
typedef lora_status (*light_work)(const lora_adapter *adapter,
                                  lora_error *error);

static lora_status do_compress(const lora_adapter *adapter, lora_error *error)
{
    const lora_light_recipe recipe = recipe_of("down_aux:normal,down,up_aux");
    lora_light_options options;
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status;

    lora_light_options_init(&options, sizeof options);
    options.store = 1;
    status =
        lora_light_compress(&out, &report, adapter, &recipe, &options, error);
    assert_true(status == LORA_OK || (out == NULL && report == NULL));
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    return status;
}

static lora_status do_expand(const lora_adapter *adapter, lora_error *error)
{
    const lora_light_recipe recipe = recipe_of("down_aux,up_aux");
    lora_light_options options;
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status;

    lora_light_options_init(&options, sizeof options);
    options.rank = 2;
    status = lora_light_expand(&out, adapter, &recipe, &options, error);
    assert_true(status == LORA_OK || out == NULL);
    lora_adapter_destroy(out);
    return status;
}

static lora_status do_verify(const lora_adapter *adapter, lora_error *error)
{
    const lora_light_recipe recipe = recipe_of("down_aux,up_aux");
    lora_report *report = JUNK(lora_report);
    lora_status status = lora_light_verify(&report, adapter, &recipe, error);

    assert_true(status == LORA_OK || report == NULL);
    lora_report_destroy(report);
    return status;
}

static lora_status do_create(const lora_adapter *adapter, lora_error *error)
{
    const char *const targets[] = {"*mid_block*attn1.to_q"};
    lora_light_recipe recipe;
    lora_light_options options;
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status;

    (void)adapter;
    lora_light_recipe_init(&recipe, sizeof recipe);
    lora_light_options_init(&options, sizeof options);
    recipe.family = "sd15";
    options.targets = targets;
    options.target_count = 1;
    options.store = 1;
    status = lora_light_create(&out, context, &recipe, &options, error);
    assert_true(status == LORA_OK || out == NULL);
    lora_adapter_destroy(out);
    return status;
}

static void try_memory(heap *h, const image *im, light_work work)
{
    lora_adapter *adapter = open_image(context, im);
    lora_status status = LORA_ERROR_MEMORY;
    const size_t live = lora_context_memory_live(context);
    size_t n = 0;

    for (; status != LORA_OK; n++) {
        lora_error error;
        lora_error_init(&error, sizeof error);
        h->fail_at = h->calls + n;
        status = work(adapter, &error);
        h->fail_at = SIZE_MAX;
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
        assert_int_equal(error.status, status);
        assert_int_equal(lora_context_memory_live(context), live);
    }
    assert_true(n > 10);
    lora_adapter_destroy(adapter);
}

static void test_memory(void **state)
{
    lora_context *before = context;
    heap h;
    image im;

    (void)state;
    context = heap_context(&h, NULL);
    image_plain(&im);
    try_memory(&h, &im, do_compress);
    try_memory(&h, &im, do_create);
    image_free(&im);
    image_begin(&im, NULL);
    image_some(&im, OLD_Q ".down_up.weight", "4,5", 20, 1);
    image_some(&im, OLD_Q ".down_aux.weight", "5,9", 45, 2);
    image_end(&im);
    try_memory(&h, &im, do_expand);
    try_memory(&h, &im, do_verify);
    image_free(&im);
    heap_end(&h, context);
    context = before;
}

static int set_up(void **state)
{
    (void)state;
    context = plain_context();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),  cmocka_unit_test(test_draw),
        cmocka_unit_test(test_create), cmocka_unit_test(test_fails),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
