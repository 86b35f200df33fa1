/* Statuses, error records, version: what every call has in common. */
#include "api/support.h"

static void test_status_names(void **state)
{
    static const struct {
        lora_status status;
        const char *name;
    } known[] = {
        {0, "OK"},           {-1, "ARGUMENT"},    {-2, "STATE"},
        {-3, "RANGE"},       {-4, "UNSUPPORTED"}, {-5, "OPTION"},
        {-100, "MEMORY"},    {-101, "IO"},        {-102, "LIMIT"},
        {-103, "THREAD"},    {-200, "FORMAT"},    {-201, "TRUNCATED"},
        {-202, "DTYPE"},     {-203, "SHAPE"},     {-204, "KEY"},
        {-205, "DUPLICATE"}, {-300, "NONFINITE"}, {-301, "CONVERGENCE"},
        {-400, "CANCELLED"}, {-500, "INTERNAL"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        assert_string_equal(lora_status_name(known[i].status), known[i].name);
    }
    assert_string_equal(lora_status_name(1), "UNKNOWN");
    assert_string_equal(lora_status_name(-6), "UNKNOWN");
    assert_string_equal(lora_status_name(INT32_MIN), "UNKNOWN");
}

static void test_error_init(void **state)
{
    lora_error error;
    size_t size;

    (void)state;
    lora_error_init(NULL, sizeof error);
    memset(&error, 0xEE, sizeof error);
    lora_error_init(&error, sizeof error);
    assert_int_equal(error.struct_size, sizeof error);
    assert_int_equal(error.status, LORA_OK);
    assert_int_equal(error.os_error, 0);
    assert_int_equal(error.offset, LORA_NO_OFFSET);
    assert_string_equal(error.subject, "");
    assert_string_equal(error.message, "");

    /* A size that does not even hold the size writes nothing. */
    memset(&error, 0xEE, sizeof error);
    lora_error_init(&error, sizeof size - 1);
    memcpy(&size, &error, sizeof size);
    assert_int_equal(size, (size_t)0xEEEEEEEEEEEEEEEEu);
}

/* Any failure will do. */
static lora_status fail_with(lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status = lora_adapter_open(&out, NULL, NULL, NULL, error);

    assert_null(out);
    return status;
}

/* A record that was never set up may be smaller than it looks. */
static void test_error_unset(void **state)
{
    static const size_t sizes[] = {0, 1, 8, sizeof(lora_error) - 1};
    lora_error error;
    lora_error before;

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        memset(&error, 0xEE, sizeof error);
        error.struct_size = sizes[i];
        before = error;
        assert_int_equal(fail_with(&error), LORA_ERROR_ARGUMENT);
        assert_memory_equal(&error, &before, sizeof error);
    }
    assert_int_equal(fail_with(NULL), LORA_ERROR_ARGUMENT);
}

/* A record of a later release: its own fields are reset, nothing beyond. */
static void test_error_longer(void **state)
{
    struct {
        lora_error error;
        uint64_t later[4];
        uint64_t beyond;
    } record;

    (void)state;
    memset(&record, 0xEE, sizeof record);
    record.error.struct_size = sizeof record.error + sizeof record.later;
    assert_int_equal(fail_with(&record.error), LORA_ERROR_ARGUMENT);
    assert_int_equal(record.error.struct_size,
                     sizeof record.error + sizeof record.later);
    assert_int_equal(record.error.status, LORA_ERROR_ARGUMENT);
    assert_int_equal(record.error.offset, LORA_NO_OFFSET);
    for (size_t i = 0; i < COUNT(record.later); i++) {
        assert_int_equal(record.later[i], 0);
    }
    assert_int_equal(record.beyond, 0xEEEEEEEEEEEEEEEEu);
}

/* Each call starts anew, also one that succeeds. */
static void test_error_reset(void **state)
{
    lora_context *context;
    lora_error error;

    (void)state;
    error_dirty(&error);
    assert_error(&error, lora_context_create(&context, NULL, &error), LORA_OK,
                 LORA_NO_OFFSET, "");
    assert_int_equal(error.os_error, 0);
    assert_int_equal(error.offset, LORA_NO_OFFSET);
    CHECK_ARGUMENT(fail_with(&error));
    lora_context_destroy(context);
}

/* Of a long subject the tail is kept, from the begin of a character. */
static void test_error_subject(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter = JUNK(lora_adapter);
    char path[2 * 200 + 16];
    lora_error error;
    size_t length;

    (void)state;
    strcpy(path, "/nowhere/");
    for (size_t i = 0; i < 200; i++) {
        strcat(path, "\xC3\xA9");
    }
    strcat(path, ".x");
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_open(&adapter, context, path, NULL, &error));
    assert_null(adapter);
    length = strlen(error.subject);
    assert_true(length == 254 || length == 255);
    assert_string_equal(error.subject, path + strlen(path) - length);
    assert_int_equal((unsigned char)error.subject[0], 0xC3);
    lora_context_destroy(context);
}

static void test_version(void **state)
{
    char text[32];

    (void)state;
    assert_int_equal(lora_version_number(), LORA_VERSION_NUMBER);
    assert_string_equal(lora_version_string(), LORA_VERSION_STRING);
    snprintf(text, sizeof text, "%u.%u.%u", lora_version_number() / 1000000,
             lora_version_number() / 1000 % 1000, lora_version_number() % 1000);
    assert_string_equal(lora_version_string(), text);
    assert_non_null(strstr(lora_build_info(), LORA_VERSION_STRING));
    assert_null(strchr(lora_build_info(), '\n'));
    assert_int_equal(lora_feature_supported(NULL), 0);
    assert_int_equal(lora_feature_supported(""), 0);
    assert_int_equal(lora_feature_supported("Threads"), 0);
    assert_int_equal(lora_feature_supported("threads"),
                     strstr(lora_build_info(), "no threads") == NULL);
    assert_int_equal(lora_feature_supported("zlib"),
                     strstr(lora_build_info(), "no zlib") == NULL);
    assert_int_equal(lora_feature_supported("simd"),
                     strstr(lora_build_info(), "no simd") == NULL);
    assert_int_equal(lora_feature_supported("map"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_error_init),
        cmocka_unit_test(test_error_unset),
        cmocka_unit_test(test_error_longer),
        cmocka_unit_test(test_error_reset),
        cmocka_unit_test(test_error_subject),
        cmocka_unit_test(test_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
