/* What operations say: descriptions, findings, hashes. */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#include "api/reader.h"

static lora_context *context;

/* The text has a part; the JSON keys here have no spaces around them. */
static void assert_has(const lora_report *report, const char *part)
{
    size_t bytes = 77;
    const char *json = lora_report_to_json(report, &bytes);

    assert_int_equal(strlen(json), bytes);
    if (strstr(json, part) == NULL) {
        fail_msg("no %s in %s", part, json);
    }
}

/* Findings, in order, as "code subject;". */
static void assert_problems(const lora_report *report, const char *expected)
{
    char text[1024] = "";

    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        lora_problem problem = {.struct_size = sizeof problem};
        size_t at = strlen(text);
        assert_int_equal(lora_report_get_problem(&problem, report, i, NULL),
                         LORA_OK);
        assert_true(problem.severity >= LORA_SEVERITY_NOTE &&
                    problem.severity <= LORA_SEVERITY_ERROR);
        assert_true((problem.severity == LORA_SEVERITY_ERROR) ==
                    (problem.status != LORA_OK));
        assert_true(problem.message[0] != '\0');
        snprintf(text + at, sizeof text - at, "%s %s;", problem.code,
                 problem.subject);
    }
    assert_string_equal(text, expected);
}

static void test_describe(void **state)
{
    lora_adapter_describe_options options;
    lora_report *report = JUNK(lora_report);
    lora_adapter *adapter;
    lora_error error;
    image im;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_describe(&report, adapter, NULL, &error));
    assert_has(report, "\"container\":\"safetensors\"");
    assert_has(report, "\"tensors\":13");
    assert_has(report, "\"dialects\":[\"kohya\"]");
    assert_has(report, "\"family\":\"sd15\"");
    assert_has(report, "\"dtype\":{\"F32\":13}");
    assert_has(report, "\"parameters\":157");
    assert_has(report, "\"kinds\":{\"lora\":2,\"locon\":2}");
    assert_has(report, "\"note\":\"a b\"");
    assert_null(strstr(lora_report_to_json(report, NULL), "\"modules\""));
    assert_has(report, "\"hashes\":{}");
    assert_int_equal(lora_report_module_count(report), 0);
    assert_problems(report, "");
    lora_report_destroy(report);

    lora_adapter_describe_options_init(&options, sizeof options);
    options.modules = options.hashes = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_describe(&report, adapter, &options, &error));
    assert_has(report, "\"name\":\"" SAMPLE_CORE "\"");
    assert_has(report, "\"shape\":[4,3,3,3]");
    assert_has(report, "\"scale\":0.5");
    assert_has(report, "\"tucker\":true");
    assert_has(report, "\"sha256\":\"");
    lora_report_destroy(report);

    report = JUNK(lora_report);
    CHECK_ARGUMENT(lora_adapter_describe(NULL, adapter, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_describe(&report, NULL, NULL, &error));
    assert_null(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_describe_fails(void **state)
{
    lora_adapter_describe_options options;
    lora_report *report = JUNK(lora_report);
    lora_adapter *adapter;
    lora_error error;
    image im;
    source s;

    (void)state;
    image_sample(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    lora_adapter_describe_options_init(&options, sizeof options);
    options.hashes = 1;
    s.fail_at = s.reads;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          lora_adapter_describe(&report, adapter, &options, &error));
    assert_null(report);
    /* Without hashes nothing is read. */
    options.hashes = 0;
    s.fail_at = s.reads;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_describe(&report, adapter, &options, &error));
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_check(void **state)
{
    const float bad[4] = {1.0f, INFINITY, NAN, 2.0f};
    const float large[4] = {1.0f, 70000.0f, 1.0f, 1.0f};
    const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const float two[1] = {2.0f};
    lora_adapter_check_options options;
    lora_report *report = JUNK(lora_report);
    lora_adapter *adapter;
    lora_problem problem = {.struct_size = sizeof problem};
    lora_error error;
    image im;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_check(&report, adapter, NULL, &error));
    assert_problems(report, "stale_metadata ss_network_dim;"
                            "stale_hash sshs_model_hash;");
    assert_has(report, "\"verdict\":\"warnings\"");
    lora_report_destroy(report);
    lora_adapter_check_options_init(&options, sizeof options);
    options.family = "nobody";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "nobody",
          lora_adapter_check(&report, adapter, &options, &error));
    assert_null(report);
    CHECK_ARGUMENT(lora_adapter_check(NULL, adapter, NULL, &error));
    report = JUNK(lora_report);
    CHECK_ARGUMENT(lora_adapter_check(&report, NULL, NULL, &error));
    assert_null(report);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, "\"ss_base_model_version\":\"sd_v1\"");
    image_f32(&im, SAMPLE_K ".alpha", "", two, 1);
    image_f32(&im, SAMPLE_K ".lora_down.weight", "2,2", bad, 4);
    image_f32(&im, SAMPLE_K ".lora_up.weight", "2,2", large, 4);
    image_f32(&im, SAMPLE_Q ".lora_down.weight", "2,2", large, 4);
    image_f32(&im, SAMPLE_Q ".lora_up.weight", "2,2", zero, 4);
    image_f32(&im, "lora_unet_nobody.lora_up.weight", "2,2", large, 4);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_check(&report, adapter, NULL, &error));
    assert_problems(report, "missing_pair lora_unet_nobody;"
                            "nonfinite " SAMPLE_K ".lora_down.weight;"
                            "f16_overflow " SAMPLE_K ".lora_up.weight;"
                            "f16_overflow " SAMPLE_Q ".lora_down.weight;"
                            "f16_overflow lora_unet_nobody.lora_up.weight;"
                            "no_effect " SAMPLE_Q ";"
                            "alpha_mixed " SAMPLE_Q ";"
                            "unknown_target lora_unet_nobody;");
    assert_has(report, "\"verdict\":\"errors\"");
    assert_has(report, "\"errors\":2");
    assert_int_equal(lora_report_get_problem(&problem, report, 1, NULL),
                     LORA_OK);
    assert_int_equal(problem.status, LORA_ERROR_NONFINITE);
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* One weight under two names, and one role twice: neither is applied. */
static void test_duplicates(void **state)
{
    lora_module_info info = {.struct_size = sizeof info};
    lora_report *report;
    lora_adapter *adapter;
    image im;

    (void)state;
    image_begin(&im, NULL);
    image_some(&im, SAMPLE_K ".lora_A.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_K ".lora_down.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_K ".lora_up.weight", "2,1", 2, 1);
    image_some(&im, SAMPLE_Q ".lora_down.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_Q ".lora_up.weight", "2,1", 2, 1);
    image_some(&im, SAMPLE_Q_TARGET ".lora_A.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_Q_TARGET ".lora_B.weight", "2,1", 2, 1);
    image_end(&im);
    adapter = open_image(context, &im);
    for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
        assert_int_equal(lora_adapter_get_module(&info, adapter, m, NULL),
                         LORA_OK);
        if (strcmp(info.name, SAMPLE_K) != 0) {
            assert_string_equal(info.target, SAMPLE_Q_TARGET);
            assert_int_equal(info.status, LORA_ERROR_KEY);
        }
    }
    assert_int_equal(lora_adapter_describe(&report, adapter, NULL, NULL),
                     LORA_OK);
    assert_has(report, "\"code\":\"duplicate_module\"");
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* A weight that one module changes whole, and another one in part: q of the
 * first block, beside q, k and v in one. The second block has only the fused
 * one, and stays usable. */
static void test_duplicate_parts(void **state)
{
    static const char *const refused[] = {
        "lora_unet_double_blocks_0_img_attn_qkv",
        "transformer.transformer_blocks.0.attn.to_q",
    };
    lora_module_info info = {.struct_size = sizeof info};
    lora_report *report;
    lora_adapter *adapter;
    lora_error error;
    size_t count = 0;
    image im;

    (void)state;
    image_begin(&im, NULL);
    image_some(&im, "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
               "1,4", 4, 1);
    image_some(&im, "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
               "6,1", 6, 1);
    image_some(&im, "lora_unet_double_blocks_1_img_attn_qkv.lora_down.weight",
               "1,4", 4, 1);
    image_some(&im, "lora_unet_double_blocks_1_img_attn_qkv.lora_up.weight",
               "6,1", 6, 1);
    image_some(&im, "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
               "1,4", 4, 1);
    image_some(&im, "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
               "2,1", 2, 1);
    image_end(&im);
    adapter = open_image(context, &im);
    for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
        assert_int_equal(lora_adapter_get_module(&info, adapter, m, NULL),
                         LORA_OK);
        if (info.status == LORA_OK) {
            assert_string_equal(info.name,
                                "lora_unet_double_blocks_1_img_attn_qkv");
            continue;
        }
        assert_int_equal(info.status, LORA_ERROR_KEY);
        assert_string_equal(info.name, refused[count++]);
    }
    assert_int_equal(count, 2);
    assert_int_equal(lora_adapter_describe(&report, adapter, NULL, NULL),
                     LORA_OK);
    assert_problems(report,
                    "duplicate_module lora_unet_double_blocks_0_img_attn_qkv;"
                    "duplicate_module "
                    "transformer.transformer_blocks.0.attn.to_q;");
    lora_report_destroy(report);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_adapter_save_delta(adapter, "not written.safetensors", 1.0, NULL,
                                  &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_check_fails(void **state)
{
    lora_report *report = JUNK(lora_report);
    lora_adapter *adapter;
    lora_error error;
    image im;
    source s;

    (void)state;
    image_sample(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    s.fail_at = s.reads + 2;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          lora_adapter_check(&report, adapter, NULL, &error));
    assert_null(report);
    s.bytes -= 1;
    CHECK(LORA_ERROR_TRUNCATED, s.bytes, NULL,
          lora_adapter_check(&report, adapter, NULL, &error));
    assert_null(report);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_reports(void **state)
{
    lora_report_module module = {.struct_size = sizeof module};
    lora_problem problem = {.struct_size = sizeof problem};
    lora_report *report;
    lora_adapter *adapter;
    lora_error error;
    image im;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_adapter_check(&report, adapter, NULL, NULL), LORA_OK);
    lora_adapter_destroy(adapter); /* the report stands alone */
    assert_null(lora_report_to_json(NULL, NULL));
    assert_int_equal(lora_report_module_count(NULL), 0);
    assert_int_equal(lora_report_problem_count(NULL), 0);
    assert_int_equal(lora_report_problem_count(report), 2);
    CHECK_ARGUMENT(lora_report_get_problem(NULL, report, 0, &error));
    CHECK_ARGUMENT(lora_report_get_problem(&problem, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_report_get_problem(&problem, report, 2, &error));
    CHECK_ARGUMENT(lora_report_get_module(NULL, report, 0, &error));
    CHECK_ARGUMENT(lora_report_get_module(&module, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_report_get_module(&module, report, 0, &error));
    lora_report_destroy(report);
    lora_report_destroy(NULL);
    image_free(&im);
}

static uint32_t two_workers(void *user)
{
    (void)user;
    return 2;
}

static void all_but_one(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = 1; i < count; i++) {
        fn(arg, i, (uint32_t)(i % 2));
    }
}

/* An executor that leaves work out must not give wrong hashes. */
static void expect_lazy_executor_found(const char *path)
{
    const lora_executor lazy = {sizeof lazy, NULL, two_workers, all_but_one};
    lora_hashes hashes = {.struct_size = sizeof hashes};
    lora_context_options options;
    lora_context *own;
    lora_error error;

    lora_context_options_init(&options, sizeof options);
    options.executor = &lazy;
    assert_int_equal(lora_context_create(&own, &options, NULL), LORA_OK);
    CHECK(LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
          lora_hash_file(&hashes, own, path, &error));
    lora_context_destroy(own);
}

/* A file large enough for AutoV1, which looks at 64 KiB at 1 MiB. The values
 * were computed with Python's hashlib, zlib and blake3, those of kohya from a
 * file that has "__metadata__":{} instead. */
static void test_hash(void **state)
{
    static const char header[] =
        "{\"__metadata__\":{\"a\":\"1\"},\"w\":{\"dtype\":\"U8\",\"shape\":["
        "1200000],\"data_offsets\":[0,1200000]}}";
    size_t header_bytes = (sizeof header - 1 + 7) / 8 * 8;
    size_t bytes = 8 + header_bytes + 1200000;
    unsigned char *file = malloc(bytes);
    lora_hashes hashes = {.struct_size = sizeof hashes};
    const char *path = in_folder("hash.safetensors");
    lora_error error;

    (void)state;
    assert_non_null(file);
    put_u64(file, header_bytes);
    memset(file + 8, ' ', header_bytes);
    memcpy(file + 8, header, sizeof header - 1);
    for (size_t i = 0; i < 1200000; i++) {
        file[8 + header_bytes + i] = (unsigned char)(i * 7 + (i >> 8));
    }
    folder_put("hash.safetensors", file, bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_hash_file(&hashes, context, path, &error));
    assert_string_equal(
        hashes.sha256,
        "1c4e657270fd88dea4efcd3a80740995c283660091561624c3c196fc6b52774c");
    assert_string_equal(hashes.auto_v1, "805c58af");
    assert_string_equal(hashes.auto_v2, "1c4e657270");
    assert_string_equal(hashes.auto_v3, "c8d392942418");
    assert_string_equal(hashes.crc32, "70e6d23a");
    assert_string_equal(
        hashes.blake3,
        "f3f6f9daaac87d6b892650dbf6f4c7d20e26dc2eb54e82e6a7d914926fd93ee5");
    assert_string_equal(
        hashes.lycoris,
        "0xc8d392942418b2184e1ef7b661db57a589320161e2f56d95bde24ee4df42e0e1");
    assert_string_equal(hashes.sshs_model_hash, hashes.lycoris + 2);
    assert_string_equal(hashes.sshs_legacy_hash, "ebb824dd");
    assert_string_equal(
        hashes.content_id,
        "69d11efd351a5f57f910e7ef1a8d6f6c39653fa3da6b2339fd642d70a39e5563");
    expect_lazy_executor_found(path);

    CHECK_ARGUMENT(lora_hash_file(NULL, context, path, &error));
    CHECK_ARGUMENT(lora_hash_file(&hashes, NULL, path, &error));
    CHECK_ARGUMENT(lora_hash_file(&hashes, context, NULL, &error));
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("none"),
          lora_hash_file(&hashes, context, in_folder("none"), &error));
    assert_int_equal(error.os_error, ENOENT);
    folder_put("hash.safetensors", file, bytes - 1);
    CHECK(LORA_ERROR_TRUNCATED, bytes - 1, path,
          lora_hash_file(&hashes, context, path, &error));
    folder_put("hash.safetensors", "<html></html>", 13);
    CHECK(LORA_ERROR_FORMAT, 0, path,
          lora_hash_file(&hashes, context, path, &error));
    assert_string_equal(hashes.crc32, "70e6d23a"); /* untouched */
    free(file);
}

static int set_up(void **state)
{
    context = plain_context();
    return folder_make(state);
}

static int tear_down(void **state)
{
    lora_context_destroy(context);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_describe_fails),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_duplicate_parts),
        cmocka_unit_test(test_check_fails),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_hash),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
