/* Saving: to files, memory and writers. */
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
static lora_context *context;
static lora_adapter *adapter;

static void test_file(void **state)
{
    const char *path = in_folder("out.safetensors");
    lora_adapter_save_options options;
    lora_error error;

    folder_clear(state);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save(adapter, path, NULL, &error));
    folder_check("out.safetensors", sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 1);

    /* What is there stays, unless it is said to be replaced. */
    folder_put("out.safetensors", "old", 3);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, path,
          lora_adapter_save(adapter, path, NULL, &error));
    assert_int_equal(error.os_error, EEXIST);
    folder_check("out.safetensors", "old", 3);
    lora_adapter_save_options_init(&options, sizeof options);
    options.overwrite = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save(adapter, path, &options, &error));
    folder_check("out.safetensors", sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 1);
}

static void test_refused(void **state)
{
    const char *path = in_folder("refused.safetensors");
    const char *no_folder = in_folder("missing/x.safetensors");
    const char *in_file = in_folder("file/x.safetensors");
    char as_folder[128];
    lora_adapter_save_options options;
    lora_error error;

    folder_clear(state);
    CHECK_ARGUMENT(lora_adapter_save(NULL, path, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_save(adapter, NULL, NULL, &error));
    lora_adapter_save_options_init(&options, sizeof options);
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_save(adapter, path, &options, &error));
    assert_int_equal(folder_count(0), 0);

    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, no_folder,
          lora_adapter_save(adapter, no_folder, NULL, &error));
    assert_int_equal(error.os_error, ENOENT);
    folder_put("file", "", 0);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_file,
          lora_adapter_save(adapter, in_file, NULL, &error));
    assert_int_equal(error.os_error, ENOTDIR);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, "",
          lora_adapter_save(adapter, "", NULL, &error));
    lora_adapter_save_options_init(&options, sizeof options);
    options.overwrite = 1;
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, folder,
          lora_adapter_save(adapter, folder, &options, &error));
    snprintf(as_folder, sizeof as_folder, "%s/", folder);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, as_folder,
          lora_adapter_save(adapter, as_folder, &options, &error));
    assert_int_equal(folder_count(0), 1);
}

/* An adapter read from a path may be saved there, mapped or not. */
static void test_onto_itself(void **state)
{
    const char *path = in_folder("self.safetensors");
    lora_adapter_open_options open_options;
    lora_adapter_save_options save_options;
    lora_error error;

    folder_clear(state);
    lora_adapter_open_options_init(&open_options, sizeof open_options);
    lora_adapter_save_options_init(&save_options, sizeof save_options);
    save_options.overwrite = 1;
    for (uint32_t flags = 0; flags <= LORA_OPEN_MAP; flags++) {
        lora_adapter *read;
        lora_adapter *renamed;
        lora_adapter_convert_options convert_options;
        lora_adapter *again;

        folder_put("self.safetensors", sample.file, sample.bytes);
        open_options.flags = flags;
        assert_int_equal(
            lora_adapter_open(&read, context, path, &open_options, NULL),
            LORA_OK);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_save(read, path, &save_options, &error));
        folder_check("self.safetensors", sample.file, sample.bytes);
        /* The adapter still has the old file; a result of it replaces both. */
        lora_adapter_convert_options_init(&convert_options,
                                          sizeof convert_options);
        convert_options.dtype = LORA_DTYPE_F16;
        assert_int_equal(
            lora_adapter_convert(&renamed, read, &convert_options, NULL),
            LORA_OK);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_save(renamed, path, &save_options, &error));
        assert_int_equal(lora_adapter_open(&again, context, path, NULL, NULL),
                         LORA_OK);
        assert_same_file(again, renamed);
        assert_same_file(read, adapter);
        lora_adapter_destroy(again);
        lora_adapter_destroy(renamed);
        lora_adapter_destroy(read);
    }
    assert_int_equal(folder_count(0), 1);
}

static void test_memory(void **state)
{
    unsigned char *buffer = malloc(sample.bytes);
    size_t bytes = 0;
    lora_error error;

    (void)state;
    assert_non_null(buffer);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_memory(NULL, 0, &bytes, adapter, &error));
    assert_int_equal(bytes, sample.bytes);
    bytes = 0;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_memory(buffer, sample.bytes, &bytes, adapter,
                                   &error));
    assert_int_equal(bytes, sample.bytes);
    assert_memory_equal(buffer, sample.file, bytes);
    bytes = 77;
    memset(buffer, 0xEE, sample.bytes);
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_save_memory(buffer, sample.bytes - 1, &bytes, adapter,
                                   &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_save_memory(buffer, 0, &bytes, adapter, &error));
    assert_int_equal(buffer[0], 0xEE);
    CHECK_ARGUMENT(lora_adapter_save_memory(NULL, 0, NULL, adapter, &error));
    CHECK_ARGUMENT(lora_adapter_save_memory(NULL, 0, &bytes, NULL, &error));
    assert_int_equal(bytes, 77);
    free(buffer);
}

static void test_writer(void **state)
{
    static sink s;
    lora_writer writer = sink_writer(&s);
    lora_error error;

    (void)state;
    sink_init(&s);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_writer(adapter, &writer, &error));
    assert_int_equal(s.bytes, sample.bytes);
    assert_memory_equal(s.data, sample.file, s.bytes);
    assert_int_equal(s.finished, 1);
    assert_int_equal(s.aborted, 0);

    sink_init(&s);
    CHECK_ARGUMENT(lora_adapter_save_writer(NULL, &writer, &error));
    CHECK_ARGUMENT(lora_adapter_save_writer(adapter, NULL, &error));
    writer.write = NULL;
    CHECK_ARGUMENT(lora_adapter_save_writer(adapter, &writer, &error));
    writer = sink_writer(&s);
    writer.finish = NULL;
    CHECK_ARGUMENT(lora_adapter_save_writer(adapter, &writer, &error));
    assert_int_equal(s.writes + (size_t)s.finished + (size_t)s.aborted, 0);

    writer = sink_writer(&s);
    writer.abort = NULL;
    s.fail_at = 1;
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_save_writer(adapter, &writer, &error));
    assert_int_equal(s.finished, 0);
}

/* The source shrinks between opening and saving. */
static void test_truncated_source(void **state)
{
    static sink s;
    lora_writer writer = sink_writer(&s);
    source from = source_of(&sample);
    lora_adapter *read = open_source(context, &from);
    lora_error error;
    unsigned char buffer[16384];
    size_t bytes = 77;

    folder_clear(state);
    from.bytes -= 40;
    CHECK(LORA_ERROR_TRUNCATED, sample.bytes - 40, NULL,
          lora_adapter_save(read, in_folder("t"), NULL, &error));
    assert_int_equal(folder_count(0), 0);
    assert_true(sample.bytes <= sizeof buffer);
    CHECK(
        LORA_ERROR_TRUNCATED, sample.bytes - 40, NULL,
        lora_adapter_save_memory(buffer, sizeof buffer, &bytes, read, &error));
    assert_int_equal(bytes, 77);
    sink_init(&s);
    CHECK(LORA_ERROR_TRUNCATED, sample.bytes - 40, NULL,
          lora_adapter_save_writer(read, &writer, &error));
    assert_int_equal(s.finished, 0);
    assert_int_equal(s.aborted, 1);
    lora_adapter_destroy(read);
}

/* Equal adapters give equal bytes, however they were made. */
static void test_same_bytes(void **state)
{
    lora_builder *builder;
    lora_adapter *built;
    lora_adapter *reread;
    unsigned char *file;
    size_t bytes;
    const lora_tensor none = {NULL, 0, {0}, 1, LORA_DTYPE_F32};

    (void)state;
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    for (size_t i = lora_adapter_tensor_count(adapter); i-- > 0;) {
        lora_tensor_info info = {.struct_size = sizeof info};
        lora_tensor view;
        assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, i, NULL),
                         LORA_OK);
        assert_int_equal(lora_adapter_get_tensor(&view, adapter, i, NULL),
                         LORA_OK);
        assert_int_equal(
            lora_builder_add_tensor(builder, info.name, &view, NULL), LORA_OK);
    }
    for (size_t i = lora_adapter_metadata_count(adapter); i-- > 0;) {
        const char *key;
        const char *value;
        assert_int_equal(
            lora_adapter_get_metadata(&key, &value, adapter, i, NULL), LORA_OK);
        assert_int_equal(lora_builder_set_metadata(builder, key, value, NULL),
                         LORA_OK);
    }
    assert_int_equal(lora_builder_add_tensor(builder, "more", &none, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_remove_tensor(builder, "more", NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_finish(&built, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    assert_same_file(built, adapter);
    file = saved_bytes(built, &bytes);
    assert_int_equal(
        lora_adapter_open_memory(&reread, context, file, bytes, NULL, NULL),
        LORA_OK);
    assert_same_file(reread, built);
    lora_adapter_destroy(reread);
    lora_adapter_destroy(built);
    free(file);
}

/* A header over the format's limit of 100,000,000 bytes. */
static void test_header_limit(void **state)
{
    static const char path[] = "limit.safetensors";
    size_t bytes = 100000000;
    char *value = malloc(bytes);
    lora_builder *builder;
    lora_adapter *large;
    lora_error error;
    size_t out_bytes;

    folder_clear(state);
    assert_non_null(value);
    memset(value, 'a', bytes - 1);
    value[bytes - 1] = '\0';
    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_builder_set_metadata(builder, "k", value, NULL),
                     LORA_OK);
    free(value);
    assert_int_equal(lora_builder_finish(&large, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, NULL,
          lora_adapter_save(large, in_folder(path), NULL, &error));
    CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, NULL,
          lora_adapter_save_memory(NULL, 0, &out_bytes, large, &error));
    assert_int_equal(folder_count(0), 0);
    lora_adapter_destroy(large);
}

static int set_up(void **state)
{
    image_sample(&sample);
    context = plain_context();
    adapter = open_image(context, &sample);
    return folder_make(state);
}

static int tear_down(void **state)
{
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    image_free(&sample);
    return folder_remove(state);
}

/* A folder for PEFT: both files or none. */
static void test_peft(void **state)
{
    const char *config = in_folder("p/adapter_config.json");
    const char *model = in_folder("p/adapter_model.safetensors");
    lora_adapter_save_options options;
    lora_adapter *named;
    lora_adapter *back;
    lora_error error;
    image im;

    folder_clear(state);
    image_begin(&im, NULL);
    image_some(&im, "base_model.model.a.lora_A.weight", "2,6", 12, 1);
    image_some(&im, "base_model.model.a.lora_B.weight", "4,2", 8, 2);
    image_end(&im);
    named = open_image(context, &im);
    CHECK_ARGUMENT(lora_adapter_save_peft(NULL, in_folder("p"), NULL, &error));
    CHECK_ARGUMENT(lora_adapter_save_peft(named, NULL, NULL, &error));
    lora_adapter_save_options_init(&options, sizeof options);
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_save_peft(named, in_folder("p"), &options, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, SAMPLE_TE,
          lora_adapter_save_peft(adapter, in_folder("p"), NULL, &error));
    assert_int_equal(folder_count(0), 0);

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_peft(named, in_folder("p"), NULL, &error));
    folder_check("p/adapter_model.safetensors", im.file, im.bytes);
    assert_int_equal(
        lora_adapter_open(&back, context, in_folder("p"), NULL, NULL), LORA_OK);
    assert_int_equal(lora_adapter_tensor_count(back), 2);
    lora_adapter_destroy(back);

    /* The file that is missing is not made while the other one is there. */
    folder_put("p/adapter_config.json", "old", 3);
    assert_int_equal(remove(model), 0);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, config,
          lora_adapter_save_peft(named, in_folder("p"), NULL, &error));
    assert_int_equal(error.os_error, EEXIST);
    assert_int_equal(access(model, F_OK), -1);
    assert_int_equal(remove(config), 0);
    folder_put("p/adapter_model.safetensors", "old", 3);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, model,
          lora_adapter_save_peft(named, in_folder("p"), NULL, &error));
    assert_int_equal(access(config, F_OK), -1);
    options.reserved1 = 0;
    options.overwrite = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_peft(named, in_folder("p"), &options, &error));
    folder_check("p/adapter_model.safetensors", im.file, im.bytes);

    folder_put("file", "old", 3);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("file"),
          lora_adapter_save_peft(named, in_folder("file"), NULL, &error));
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("no/such"),
          lora_adapter_save_peft(named, in_folder("no/such"), NULL, &error));
    assert_int_equal(remove(model), 0);
    assert_int_equal(remove(config), 0);
    assert_int_equal(rmdir(in_folder("p")), 0);
    lora_adapter_destroy(named);
    image_free(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_peft),
        cmocka_unit_test(test_onto_itself),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_writer),
        cmocka_unit_test(test_truncated_source),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_header_limit),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
