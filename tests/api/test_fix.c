/* Repairs through the interface: arguments, results, failures. What they do to
 * numbers is for golden/test_fix.py.
 */
#include "api/reader.h"

static lora_context *context;

#define BROKEN                                                                 \
    "lora_unet_unet_down_blocks_0_attentions_0_"                               \
    "transformer_blocks_0_attn1_to_k"

/* A broken name, an alpha below 0, half of a pair, a stale hash. */
static void image_broken(image *im)
{
    const float below[] = {-1.0f};
    const float one[] = {1.0f};

    image_begin(im, SAMPLE_BASE ",\"sshs_model_hash\":\"00\"");
    image_f32(im, BROKEN "_lora_down.alpha", "", one, 1);
    image_some(im, BROKEN "_lora_down.weight", "2,6", 12, 1);
    image_some(im, BROKEN "_lora_up.weight", "4,2", 8, 2);
    image_f32(im, SAMPLE_Q ".alpha", "", below, 1);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 3);
    image_some(im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 4);
    image_some(im, "lora_unet_half.lora_up.weight", "4,2", 8, 5);
    image_end(im);
}

static lora_status fix(lora_adapter **out,
                       lora_report **out_report,
                       const lora_adapter *adapter,
                       uint32_t skip_bad,
                       lora_error *error)
{
    lora_adapter_fix_options options;

    lora_adapter_fix_options_init(&options, sizeof options);
    options.skip_bad = skip_bad;
    *out = JUNK(lora_adapter);
    if (out_report != NULL) {
        *out_report = JUNK(lora_report);
    }
    return lora_adapter_fix(out, out_report, adapter, &options, error);
}

/* Repairs, in order, as "code subject;". */
static void assert_fixes(const lora_report *report, const char *expected)
{
    char text[1024] = "";

    for (size_t i = 0; i < lora_report_fix_count(report); i++) {
        lora_problem one = {.struct_size = sizeof one};
        size_t at = strlen(text);
        assert_int_equal(lora_report_get_fix(&one, report, i, NULL), LORA_OK);
        assert_int_equal(one.status, LORA_OK);
        assert_true(one.message[0] != '\0');
        snprintf(text + at, sizeof text - at, "%s %s;", one.code, one.subject);
    }
    assert_string_equal(text, expected);
}

static void test_fix(void **state)
{
    lora_problem problem = {.struct_size = sizeof problem};
    lora_report *report;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    image im;

    (void)state;
    image_broken(&im);
    adapter = open_image(context, &im);
    for (uint32_t skip = 0; skip < 2; skip++) {
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              fix(&out, &report, adapter, skip, &error));
        tensor_at(out, SAMPLE_K ".alpha");
        tensor_at(out, SAMPLE_K ".lora_down.weight");
        tensor_at(out, SAMPLE_K ".lora_up.weight");
        assert_int_equal(lora_adapter_tensor_count(out), 7 - skip);
        assert_fixes(report, skip ? "unusable lora_unet_half;"
                                    "broken_names " BROKEN ";"
                                    "alpha_negative " SAMPLE_Q ";"
                                    "stale_hash sshs_model_hash;"
                                  : "broken_names " BROKEN ";"
                                    "alpha_negative " SAMPLE_Q ";"
                                    "stale_hash sshs_model_hash;");
        /* The half, and that no base has such a layer. */
        assert_int_equal(lora_report_problem_count(report), skip ? 0 : 2);
        if (!skip) {
            assert_int_equal(lora_report_get_problem(&problem, report, 0, NULL),
                             LORA_OK);
            assert_string_equal(problem.code, "missing_pair");
            assert_non_null(strstr(problem.message, "not repaired"));
        }
        lora_report_destroy(report);
        lora_adapter_destroy(out);
    }
    /* The report is not needed, and neither are options. */
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_fix(&out, NULL, adapter, NULL, &error));
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_sound(void **state)
{
    lora_report *report;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    image im;

    (void)state;
    image_pairs(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", fix(&out, &report, adapter, 1, &error));
    assert_same_file(out, adapter);
    assert_int_equal(lora_report_fix_count(report), 0);
    assert_int_equal(lora_report_problem_count(report), 0);
    lora_report_destroy(report);
    lora_adapter_destroy(adapter); /* the result holds on to its file */
    tensor_at(out, SAMPLE_Q ".alpha");
    lora_adapter_destroy(out);
    image_free(&im);
}

/* A name in the dialect that is asked for is one that it has. */
static void test_convert(void **state)
{
    lora_adapter_convert_options options;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    image im;

    (void)state;
    image_broken(&im);
    adapter = open_image(context, &im);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.skip_bad = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_convert(&out, adapter, &options, &error));
    tensor_at(out, BROKEN "_lora_up.weight");
    lora_adapter_destroy(out);
    options.dialect = "kohya";
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_convert(&out, adapter, &options, &error));
    tensor_at(out, SAMPLE_K ".lora_up.weight");
    tensor_at(out, SAMPLE_K ".alpha");
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_fails(void **state)
{
    lora_adapter_fix_options options;
    lora_problem one = {.struct_size = sizeof one};
    lora_report *report;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    image im;
    source s;

    (void)state;
    image_broken(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    CHECK_ARGUMENT(lora_adapter_fix(NULL, &report, adapter, NULL, &error));
    out = JUNK(lora_adapter);
    report = JUNK(lora_report);
    CHECK_ARGUMENT(lora_adapter_fix(&out, &report, NULL, NULL, &error));
    assert_null(out);
    assert_null(report);
    lora_adapter_fix_options_init(&options, sizeof options);
    options.family = "nobody";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "nobody",
          lora_adapter_fix(&out, &report, adapter, &options, &error));
    options.family = NULL;
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_fix(&out, &report, adapter, &options, &error));
    s.fail_at = s.reads + 1;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          fix(&out, &report, adapter, 0, &error));
    assert_null(out);
    assert_null(report);

    CHECK(LORA_OK, LORA_NO_OFFSET, "", fix(&out, &report, adapter, 0, &error));
    CHECK_ARGUMENT(lora_report_get_fix(NULL, report, 0, &error));
    CHECK_ARGUMENT(lora_report_get_fix(&one, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_report_get_fix(&one, report, 3, &error));
    assert_int_equal(lora_report_fix_count(NULL), 0);
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_some(&im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 4);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          fix(&out, &report, adapter, 1, &error));
    assert_null(out);
    assert_null(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
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
        cmocka_unit_test(test_fix),
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_fails),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
