/* LoRA to LoKr through the interface: arguments, refusals, and a change that is
 * a Kronecker product, worked out by hand. Numbers of others are for
 * differential/test_lokr.py.
 */
#include "api/reader.h"

static lora_context *context;

/* (1 2; 3 4) (x) (1 0 1; 0 2 0) has rank 4: up is it, with down of ones on the
 * diagonal. */
static const float product[24] = {1, 0, 1, 2, 0, 2, 0, 2, 0, 0, 4, 0,
                                  3, 0, 3, 4, 0, 4, 0, 6, 0, 0, 8, 0};

static void image_product(image *im)
{
    const float one[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    const float alpha = 8; /* twice the rank */
    float half[24];

    for (size_t i = 0; i < 24; i++) {
        half[i] = product[i] / 2;
    }
    image_begin(im, SAMPLE_BASE);
    image_f32(im, SAMPLE_Q ".alpha", "", &alpha, 1);
    image_f32(im, SAMPLE_Q ".lora_down.weight", "4,6", half, 24);
    image_f32(im, SAMPLE_Q ".lora_up.weight", "4,4", one, 16);
    image_end(im);
}

static lora_status to_lokr(lora_adapter **out,
                           lora_report **report,
                           const lora_adapter *adapter,
                           int32_t rank,
                           lora_error *error)
{
    lora_lokr_options options;

    lora_lokr_options_init(&options, sizeof options);
    options.factor = 2;
    options.rank = rank;
    *out = JUNK(lora_adapter);
    *report = JUNK(lora_report);
    return lora_adapter_to_lokr(out, report, adapter, &options, error);
}

/* Whole, and with w2 of the rank it has: the same change. Its sides are 2 and
 * 3, so that of rank 1 it is smaller, and of rank 2 it is not. */
static void test_product(void **state)
{
    image im;
    lora_adapter *adapter;

    (void)state;
    image_product(&im);
    adapter = open_image(context, &im);
    for (int32_t rank = 0; rank <= 2; rank++) {
        lora_report_module row = {.struct_size = sizeof row};
        lora_module_info info = {.struct_size = sizeof info};
        lora_adapter *out;
        lora_report *report;
        lora_error error;
        float delta[24];
        double sum = 0.0;

        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              to_lokr(&out, &report, adapter, rank, &error));
        assert_int_equal(lora_report_module_count(report), 1);
        assert_int_equal(lora_report_get_module(&row, report, 0, NULL),
                         LORA_OK);
        assert_int_equal(row.rank_in, 4);
        assert_int_equal(row.rank_out, rank == 1);
        /* |w1|^2 = 30; w2 has the values 2 and sqrt 2 */
        assert_true(fabs(row.error - (rank == 1 ? sqrt(60.0) : 0.0)) < 1e-5);
        assert_true(fabs(row.energy - (rank == 1 ? 4.0 / 6.0 : 1.0)) < 1e-6);
        assert_int_equal(lora_adapter_get_module(&info, out, 0, NULL), LORA_OK);
        assert_string_equal(info.kind, "lokr");
        assert_int_equal(lora_adapter_delta(delta, sizeof delta, out, 0,
                                            LORA_PART_WEIGHT, 1.0,
                                            LORA_DTYPE_F32, 0, 4, NULL),
                         LORA_OK);
        for (size_t i = 0; i < 24; i++) {
            double d = (double)delta[i] - (double)product[i];
            sum += d * d;
        }
        assert_true(fabs(sqrt(sum) - row.error) < 1e-5);
        lora_adapter_destroy(out);
        lora_report_destroy(report);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* What is LoKr stays, bytes and all; and nothing but LoKr is nothing to do. */
static void test_again(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter *again;
    lora_report *report;
    lora_error error;

    (void)state;
    image_product(&im);
    adapter = open_image(context, &im);
    assert_int_equal(to_lokr(&out, &report, adapter, 0, NULL), LORA_OK);
    lora_report_destroy(report);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          to_lokr(&again, &report, out, 0, &error));
    assert_null(again);
    assert_null(report);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void expect_refused(const char *name, const char *shape, size_t count)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_report *report;
    lora_error error;

    image_begin(&im, SAMPLE_BASE);
    image_some(&im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 1);
    image_some(&im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 2);
    image_some(&im, name, shape, count, 3);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, SAMPLE_Q,
          to_lokr(&out, &report, adapter, 0, &error));
    assert_null(out);
    assert_null(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_refused(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *there;
    lora_adapter *out;
    lora_report *report;
    lora_adapter_convert_options names;
    lora_lokr_options options;
    lora_error error;

    (void)state;
    expect_refused(SAMPLE_Q ".dora_scale", "4,1", 4);
    expect_refused(SAMPLE_Q ".lora_up.bias", "4", 4);
    image_product(&im);
    adapter = open_image(context, &im);
    lora_adapter_convert_options_init(&names, sizeof names);
    names.dialect = "diffusers";
    assert_int_equal(lora_adapter_convert(&there, adapter, &names, NULL),
                     LORA_OK);
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, SAMPLE_Q_TARGET,
          to_lokr(&out, &report, there, 0, &error));
    lora_adapter_destroy(there);
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "rank",
          to_lokr(&out, &report, adapter, -1, &error));
    lora_lokr_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_I32;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          lora_adapter_to_lokr(&out, &report, adapter, &options, &error));
    options.struct_size = 1;
    CHECK_ARGUMENT(
        lora_adapter_to_lokr(&out, &report, adapter, &options, &error));
    CHECK_ARGUMENT(lora_adapter_to_lokr(NULL, &report, adapter, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_to_lokr(&out, &report, NULL, NULL, &error));
    assert_null(out);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_to_lokr(&out, NULL, adapter, NULL, &error));
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Values that are not finite are refused, or the module left out. */
static void test_nan(void **state)
{
    const float nan[12] = {NAN};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_lokr_options options;
    lora_error error;

    (void)state;
    image_begin(&im, SAMPLE_BASE);
    image_some(&im, SAMPLE_K ".lora_down.weight", "2,6", 12, 1);
    image_some(&im, SAMPLE_K ".lora_up.weight", "4,2", 8, 2);
    image_f32(&im, SAMPLE_Q ".lora_down.weight", "2,6", nan, 12);
    image_some(&im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    lora_lokr_options_init(&options, sizeof options);
    lora_error_init(&error, sizeof error);
    assert_int_equal(
        lora_adapter_to_lokr(&out, NULL, adapter, &options, &error),
        LORA_ERROR_NONFINITE);
    assert_string_equal(error.subject, SAMPLE_Q ".lora_down.weight");
    assert_null(out);
    options.skip_bad = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_to_lokr(&out, NULL, adapter, &options, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static int set_up(void **state)
{
    (void)state;
    return lora_context_create(&context, NULL, NULL) == LORA_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    lora_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nan),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
