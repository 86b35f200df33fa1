/* Opening adapters: from files, memory and readers, and every way in which
 * it is refused, with the place in the file.
 */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#include "api/reader.h"

static image sample;

/* Sound files ------------------------------------------------------------ */

static void test_three_ways(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *from[4] = {NULL};
    lora_adapter_open_options options;
    source s = source_of(&sample);
    lora_reader reader = source_reader(&s);
    lora_error error;

    (void)state;
    folder_put("in.safetensors", sample.file, sample.bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open(&from[0], context, in_folder("in.safetensors"),
                            NULL, &error));
    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = LORA_OPEN_MAP;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open(&from[1], context, in_folder("in.safetensors"),
                            &options, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open_memory(&from[2], context, sample.file, sample.bytes,
                                   NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open_reader(&from[3], context, &reader, NULL, &error));
    lora_context_destroy(context);
    for (size_t i = 0; i < COUNT(from); i++) {
        size_t bytes;
        unsigned char *file = saved_bytes(from[i], &bytes);
        assert_int_equal(lora_adapter_module_count(from[i]), 4);
        assert_int_equal(lora_adapter_tensor_count(from[i]), 13);
        assert_int_equal(bytes, sample.bytes);
        assert_memory_equal(file, sample.file, bytes);
        free(file);
    }
    assert_int_equal(s.destroyed, 0);
    for (size_t i = 0; i < COUNT(from); i++) {
        lora_adapter_destroy(from[i]);
    }
    assert_int_equal(s.destroyed, 1);
}

/* What is made from an adapter reads through its reader. */
static void test_reader_lifetime(void **state)
{
    lora_context *context = plain_context();
    source s = source_of(&sample);
    lora_adapter *adapter = open_source(context, &s);
    lora_adapter *copy;
    lora_adapter *copy_of_copy;
    size_t bytes;
    unsigned char *file;

    (void)state;
    assert_int_equal(lora_adapter_convert(&copy, adapter, NULL, NULL), LORA_OK);
    lora_adapter_destroy(adapter);
    assert_int_equal(lora_adapter_convert(&copy_of_copy, copy, NULL, NULL),
                     LORA_OK);
    lora_adapter_destroy(copy);
    assert_int_equal(s.destroyed, 0);
    file = saved_bytes(copy_of_copy, &bytes);
    assert_int_equal(bytes, sample.bytes);
    assert_memory_equal(file, sample.file, bytes);
    free(file);
    lora_adapter_destroy(copy_of_copy);
    assert_int_equal(s.destroyed, 1);
    lora_context_destroy(context);
}

/* Arguments -------------------------------------------------------------- */

static void test_arguments(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_open_options options;
    source s = source_of(&sample);
    lora_reader reader = source_reader(&s);
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_adapter_open(NULL, context, "x", NULL, &error));
    CHECK_ARGUMENT(lora_adapter_open(&out, NULL, "x", NULL, &error));
    assert_null(out);
    out = JUNK(lora_adapter);
    CHECK_ARGUMENT(lora_adapter_open(&out, context, NULL, NULL, &error));
    assert_null(out);

    CHECK_ARGUMENT(lora_adapter_open_memory(NULL, context, sample.file,
                                            sample.bytes, NULL, &error));
    out = JUNK(lora_adapter);
    CHECK_ARGUMENT(lora_adapter_open_memory(&out, NULL, sample.file,
                                            sample.bytes, NULL, &error));
    assert_null(out);
    out = JUNK(lora_adapter);
    CHECK_ARGUMENT(
        lora_adapter_open_memory(&out, context, NULL, 1, NULL, &error));
    assert_null(out);

    out = JUNK(lora_adapter);
    CHECK_ARGUMENT(lora_adapter_open_reader(&out, context, NULL, NULL, &error));
    assert_null(out);
    CHECK_ARGUMENT(
        lora_adapter_open_reader(NULL, context, &reader, NULL, &error));
    assert_int_equal(s.destroyed, 1);
    CHECK_ARGUMENT(lora_adapter_open_reader(&out, NULL, &reader, NULL, &error));
    assert_int_equal(s.destroyed, 2);
    reader.size = NULL;
    CHECK_ARGUMENT(
        lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    assert_int_equal(s.destroyed, 2); /* it was not taken over */
    reader = source_reader(&s);
    reader.read_at = NULL;
    CHECK_ARGUMENT(
        lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    assert_int_equal(s.destroyed, 2);

    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = 2;
    out = JUNK(lora_adapter);
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
          lora_adapter_open_memory(&out, context, sample.file, sample.bytes,
                                   &options, &error));
    assert_null(out);
    lora_adapter_open_options_init(&options, sizeof options);
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_open_memory(&out, context, sample.file, sample.bytes,
                                   &options, &error));
    lora_context_destroy(context);
}

/* The system ------------------------------------------------------------- */

static void test_io(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *out = JUNK(lora_adapter);
    const char *missing = in_folder("missing.safetensors");
    source s = source_of(&sample);
    lora_reader reader = source_reader(&s);
    lora_error error;

    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, missing,
          lora_adapter_open(&out, context, missing, NULL, &error));
    assert_int_equal(error.os_error, ENOENT);
    assert_null(out);
    folder_clear(state);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, folder,
          lora_adapter_open(&out, context, folder, NULL, &error));

    s.fail_at = 0;
    CHECK(LORA_ERROR_IO, 0, NULL,
          lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    s.reads = 0;
    s.status = 7; /* a reader that takes errno for a status */
    CHECK(LORA_ERROR_IO, 0, NULL,
          lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    s.reads = 0;
    s.status = LORA_ERROR_THREAD; /* its own status is handed on */
    CHECK(LORA_ERROR_THREAD, 0, NULL,
          lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    s.size_fails = 1;
    CHECK(LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
          lora_adapter_open_reader(&out, context, &reader, NULL, &error));
    assert_int_equal(s.destroyed, 4);
    lora_context_destroy(context);
}

/* Damaged files ---------------------------------------------------------- */

/* A file of a header as it stands, and data of zeros. */
static void open_header(const char *header,
                        size_t data_bytes,
                        lora_status status,
                        uint64_t offset)
{
    size_t header_bytes = strlen(header);
    size_t bytes = 8 + header_bytes + data_bytes;
    unsigned char *file = calloc(bytes, 1);
    lora_context *context = plain_context();
    lora_adapter *out = JUNK(lora_adapter);
    lora_error error;

    assert_non_null(file);
    put_u64(file, header_bytes);
    memcpy(file + 8, header, header_bytes);
    CHECK(status, offset, NULL,
          lora_adapter_open_memory(&out, context, file, bytes, NULL, &error));
    assert_null(out);
    /* A file is named by its path. */
    folder_put("bad.safetensors", file, bytes);
    CHECK(status, offset, in_folder("bad.safetensors"),
          lora_adapter_open(&out, context, in_folder("bad.safetensors"), NULL,
                            &error));
    lora_context_destroy(context);
    free(file);
}

#define T(dtype, shape, from, to)                                              \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #from  \
    "," #to "]}"

#define A_F32 "\"a\":" T("F32", "1", 0, 4)

static void test_damaged(void **state)
{
    const uint64_t entry = strlen(A_F32);

    (void)state;
    /* Offsets count from the begin of the file: 8, then the header. */
    open_header("[]", 0, LORA_ERROR_FORMAT, 8);
    open_header("{\"a\":1}", 0, LORA_ERROR_FORMAT, 8 + 5);
    open_header("{\"a\" 1}", 0, LORA_ERROR_FORMAT, 8 + 5);
    open_header("{" A_F32 "} x", 4, LORA_ERROR_FORMAT, 8 + entry + 3);
    open_header("{\"a\":" T("F33", "1", 0, 4) "}", 4, LORA_ERROR_FORMAT,
                8 + strlen("{\"a\":{\"dtype\":"));
    open_header("{\"a\":" T("F32", "-1", 0, 4) "}", 4, LORA_ERROR_FORMAT,
                8 + strlen("{\"a\":{\"dtype\":\"F32\",\"shape\":["));
    open_header("{\"a\":" T("F32", "2", 0, 4) "}", 4, LORA_ERROR_FORMAT, 8 + 1);
    open_header("{\"a\":" T("F32", "1", 4, 8) "}", 8, LORA_ERROR_FORMAT, 8 + 1);
    open_header("{" A_F32 "}", 5, LORA_ERROR_FORMAT, 8 + entry + 2 + 4);
    open_header("{" A_F32 "}", 3, LORA_ERROR_TRUNCATED, 8 + entry + 2 + 3);
    open_header("{" A_F32 ",\"a\":" T("F32", "1", 4, 8) "}", 8,
                LORA_ERROR_DUPLICATE, 8 + entry + 2);
    open_header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0,
                LORA_ERROR_DUPLICATE,
                8 + strlen("{\"__metadata__\":{\"k\":\"1\","));
    open_header("{\"__metadata__\":{\"k\":1}}", 0, LORA_ERROR_FORMAT,
                8 + strlen("{\"__metadata__\":{\"k\":"));
}

static void test_not_a_model(void **state)
{
    static const struct {
        const char *text;
        lora_status status;
        const char *word; /* that the message has */
    } files[] = {
        {"", LORA_ERROR_TRUNCATED, "empty"},
        {"abc", LORA_ERROR_TRUNCATED, "8 bytes"},
        {"<!DOCTYPE html>\n<html>", LORA_ERROR_FORMAT, "HTML"},
        {"version https://git-lfs.github.com/spec/v1\n", LORA_ERROR_FORMAT,
         "LFS"},
        {"\x89PNG\r\n\x1A\n", LORA_ERROR_FORMAT, "PNG"},
        {"{\"weights\": [1, 2]}", LORA_ERROR_FORMAT, "JSON"},
    };
    lora_context *context = plain_context();
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(files); i++) {
        const char *path = in_folder("file.safetensors");
        size_t bytes = strlen(files[i].text);
        lora_adapter *out = JUNK(lora_adapter);
        folder_put("file.safetensors", files[i].text, bytes);
        CHECK(files[i].status, ANY_OFFSET, path,
              lora_adapter_open(&out, context, path, NULL, &error));
        assert_null(out);
        assert_true(error.offset != LORA_NO_OFFSET);
        assert_non_null(strstr(error.message, files[i].word));
    }
    lora_context_destroy(context);
}

/* Limits ----------------------------------------------------------------- */

static lora_status open_limited(const lora_limits *limits, lora_error *error)
{
    lora_context_options options;
    lora_context *context;
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status;
    heap h;

    lora_context_options_init(&options, sizeof options);
    options.limits = limits;
    context = heap_context(&h, &options);
    status = lora_adapter_open_memory(&out, context, sample.file, sample.bytes,
                                      NULL, error);
    assert_true(status == LORA_OK || out == NULL);
    lora_adapter_destroy(out);
    heap_end(&h, context);
    return status;
}

static void test_limits(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits};
    uint64_t header_bytes = sample.header_bytes;
    lora_error error;

    (void)state;
    limits.header_bytes = header_bytes;
    limits.tensor_count = 13;
    CHECK(LORA_OK, LORA_NO_OFFSET, "", open_limited(&limits, &error));
    limits.header_bytes = header_bytes - 1;
    CHECK(LORA_ERROR_LIMIT, 0, NULL, open_limited(&limits, &error));
    limits.header_bytes = 0;
    limits.tensor_count = 12;
    CHECK(LORA_ERROR_LIMIT, ANY_OFFSET, NULL, open_limited(&limits, &error));
    assert_true(error.offset > 8 && error.offset < header_bytes + 8);
    limits.tensor_count = 0;
    limits.name_bytes = strlen(SAMPLE_Q ".lora_down.weight") - 1;
    CHECK(LORA_ERROR_LIMIT, ANY_OFFSET, SAMPLE_Q ".lora_down.weight",
          open_limited(&limits, &error));
    limits.name_bytes = 0;
    limits.memory_bytes = 100;
    CHECK(LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL,
          open_limited(&limits, &error));
}

/* The rank is a module's matter: the file opens, the module is refused. */
static void test_rank_limit(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits};
    lora_module_info info = {.struct_size = sizeof info};
    lora_context_options options;
    lora_context *context;
    lora_adapter *adapter;

    (void)state;
    limits.rank = 2;
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    adapter = open_image(context, &sample);
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        assert_int_equal(lora_adapter_get_module(&info, adapter, i, NULL),
                         LORA_OK);
        assert_int_equal(info.status, strcmp(info.name, SAMPLE_CONV) == 0
                                          ? LORA_ERROR_LIMIT
                                          : LORA_OK);
    }
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
}

/* PEFT's configuration --------------------------------------------------- */

#define PEFT_MODULE "base_model.model.layer"

static void image_peft(image *im)
{
    image_begin(im, NULL);
    image_some(im, PEFT_MODULE ".lora_A.weight", "2,3", 6, 1);
    image_some(im, PEFT_MODULE ".lora_B.weight", "4,2", 8, 2);
    image_end(im);
}

static double first_scale(const lora_adapter *adapter)
{
    lora_module_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_module(&info, adapter, 0, NULL), LORA_OK);
    return info.scale;
}

static void test_config(void **state)
{
    static const char text[] = "{\"r\": 2, \"lora_alpha\": 7}trailing";
    lora_context *context = plain_context();
    lora_adapter *adapter;
    lora_adapter_open_options options;
    lora_error error;
    image im;

    (void)state;
    image_peft(&im);
    lora_adapter_open_options_init(&options, sizeof options);
    options.config = text;
    options.config_bytes = strlen(text) - strlen("trailing");
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open_memory(&adapter, context, im.file, im.bytes,
                                   &options, &error));
    assert_true(first_scale(adapter) == 3.5);
    lora_adapter_destroy(adapter);

    options.config_bytes = strlen(text);
    adapter = JUNK(lora_adapter);
    CHECK(LORA_ERROR_FORMAT, ANY_OFFSET, "adapter_config.json",
          lora_adapter_open_memory(&adapter, context, im.file, im.bytes,
                                   &options, &error));
    assert_null(adapter);

    adapter = open_image(context, &im); /* without one, alpha is the rank */
    assert_true(first_scale(adapter) == 1.0);
    lora_adapter_destroy(adapter);

    /* A file's own is found beside it. */
    folder_clear(state);
    folder_put("adapter_model.safetensors", im.file, im.bytes);
    folder_put("adapter_config.json", "{\"lora_alpha\": 4}", 17);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open(&adapter, context,
                            in_folder("adapter_model.safetensors"), NULL,
                            &error));
    assert_true(first_scale(adapter) == 2.0);
    lora_adapter_destroy(adapter);
    folder_put("adapter_config.json", "{", 1);
    CHECK(LORA_ERROR_FORMAT, ANY_OFFSET, NULL,
          lora_adapter_open(&adapter, context,
                            in_folder("adapter_model.safetensors"), NULL,
                            &error));
    lora_context_destroy(context);
    image_free(&im);
}

static double
scale_with(lora_context *context, const image *im, const char *config)
{
    lora_adapter_open_options options;
    lora_adapter *adapter;
    double scale;

    lora_adapter_open_options_init(&options, sizeof options);
    options.config = config;
    options.config_bytes = strlen(config);
    assert_int_equal(lora_adapter_open_memory(&adapter, context, im->file,
                                              im->bytes, &options, NULL),
                     LORA_OK);
    scale = first_scale(adapter);
    lora_adapter_destroy(adapter);
    return scale;
}

/* alpha / r, alpha / sqrt(r) for rsLoRA, and the first pattern that is the
 * path or ends it. */
static void test_config_fields(void **state)
{
    lora_context *context = plain_context();
    image im;

    (void)state;
    image_peft(&im);
    assert_true(scale_with(context, &im, "{}") == 1.0);
    assert_true(scale_with(context, &im, "{\"lora_alpha\": 3e0}") == 1.5);
    assert_true(
        scale_with(context, &im, "{\"use_rslora\": true, \"lora_alpha\": 6}") ==
        6.0 / sqrt(2.0));
    assert_true(scale_with(context, &im,
                           "{\"use_rslora\": false, \"lora_alpha\": 6}") ==
                3.0);
    assert_true(scale_with(context, &im,
                           "{\"alpha_pattern\": {\"other\": 9, \"yer\": 8, "
                           "\"x\": [1, {}], \"^layer\": 5, \"layer\": 7}, "
                           "\"lora_alpha\": 6, \"more\": {\"a\": [null]}}") ==
                2.5);
    lora_context_destroy(context);
    image_free(&im);
}

/* A saved file says what the configuration said, in place of what the file had
 * said itself. */
static void test_config_saved(void **state)
{
    const char *config = "{\"lora_alpha\": 3}";
    lora_context *context = plain_context();
    lora_adapter_open_options options;
    lora_adapter *adapter;
    lora_adapter *saved;
    unsigned char file[2048];
    unsigned char again[2048];
    size_t bytes;
    image im;

    (void)state;
    image_peft(&im);
    lora_adapter_open_options_init(&options, sizeof options);
    options.config = config;
    options.config_bytes = strlen(config);
    assert_int_equal(lora_adapter_open_memory(&adapter, context, im.file,
                                              im.bytes, &options, NULL),
                     LORA_OK);
    assert_int_equal(
        lora_adapter_save_memory(file, sizeof file, &bytes, adapter, NULL),
        LORA_OK);
    lora_adapter_destroy(adapter);
    assert_int_equal(
        lora_adapter_open_memory(&adapter, context, file, bytes, NULL, NULL),
        LORA_OK);
    assert_string_equal(
        lora_adapter_find_metadata(adapter, "lora_adapter_metadata"), config);
    assert_true(first_scale(adapter) == 1.5);
    lora_adapter_destroy(adapter);

    options.config = "{\"lora_alpha\": 8}";
    assert_int_equal(lora_adapter_open_memory(&adapter, context, file, bytes,
                                              &options, NULL),
                     LORA_OK);
    assert_int_equal(
        lora_adapter_save_memory(again, sizeof again, &bytes, adapter, NULL),
        LORA_OK);
    assert_int_equal(
        lora_adapter_open_memory(&saved, context, again, bytes, NULL, NULL),
        LORA_OK);
    assert_true(first_scale(saved) == 4.0);
    assert_int_equal(lora_adapter_metadata_count(saved),
                     lora_adapter_metadata_count(adapter));
    lora_adapter_destroy(saved);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    image_free(&im);
}

/* A model's own names may begin as those of a pipeline's components do, and
 * then belong to the path. */
static void test_config_component(void **state)
{
    static const struct {
        const char *config;
        double scale;
    } cases[] = {
        {"{\"alpha_pattern\": {\"transformer.h.0\": 8}}", 4.0},
        {"{\"alpha_pattern\": {\"^transformer.h.0\": 8}}", 4.0},
        {"{\"alpha_pattern\": {\"h.0\": 6}}", 3.0},
        {"{\"alpha_pattern\": {\"mer.h.0\": 6}}", 1.0},
        {"{\"transformer.alpha_pattern\": {\"h.0\": 6}}", 3.0},
        {"{\"transformer.alpha_pattern\": {\"transformer.h.0\": 6}}", 1.0},
    };
    lora_context *context = plain_context();
    image im;

    (void)state;
    image_begin(&im, NULL);
    image_some(&im, "base_model.model.transformer.h.0.lora_A.weight", "2,3", 6,
               1);
    image_some(&im, "base_model.model.transformer.h.0.lora_B.weight", "4,2", 8,
               2);
    image_end(&im);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_true(scale_with(context, &im, cases[i].config) ==
                    cases[i].scale);
    }
    lora_context_destroy(context);
    image_free(&im);
}

/* The file beside: there, not there, far too large, a folder. */
static void test_config_beside(void **state)
{
    const char *path = in_folder("adapter_model.safetensors");
    const char *beside = in_folder("adapter_config.json");
    lora_context *context = plain_context();
    lora_adapter *adapter;
    lora_error error;
    image im;

    folder_clear(state);
    image_peft(&im);
    folder_put("adapter_model.safetensors", im.file, im.bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open(&adapter, context, path, NULL, &error));
    assert_true(first_scale(adapter) == 1.0);
    lora_adapter_destroy(adapter);

    folder_put("adapter_config.json", "", 0);
    assert_int_equal(truncate(beside, 1 << 30), 0);
    CHECK(LORA_ERROR_LIMIT, ANY_OFFSET, beside,
          lora_adapter_open(&adapter, context, path, NULL, &error));
    assert_null(adapter);
    assert_int_equal(remove(beside), 0);
    assert_int_equal(mkdir(beside, 0700), 0);
    CHECK(LORA_ERROR_IO, ANY_OFFSET, beside,
          lora_adapter_open(&adapter, context, path, NULL, &error));
    assert_null(adapter);
    lora_context_destroy(context);
    image_free(&im);
}

static int set_up(void **state)
{
    image_sample(&sample);
    return folder_make(state);
}

static int tear_down(void **state)
{
    image_free(&sample);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_ways),
        cmocka_unit_test(test_reader_lifetime),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_io),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_not_a_model),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_rank_limit),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_fields),
        cmocka_unit_test(test_config_saved),
        cmocka_unit_test(test_config_component),
        cmocka_unit_test(test_config_beside),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
