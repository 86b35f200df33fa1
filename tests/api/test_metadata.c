/* Editing metadata: what becomes of the file, and what is refused. */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#define NAME "in.safetensors"
#define COPY "out.safetensors"

static lora_context *context;
static image sample;

static lora_status edit(lora_metadata_edit *out,
                        const lora_metadata_change *changes,
                        size_t count,
                        const lora_metadata_edit_options *options,
                        lora_error *error)
{
    memset(out, 0xEE, sizeof *out);
    out->struct_size = sizeof *out;
    return lora_metadata_edit_file(out, context, in_folder(NAME), changes,
                                   count, options, error);
}

/* The file holds this header, padded to what it had, and the sample's data. */
static void check_written(const char *name, const char *header, size_t length)
{
    size_t bytes = 8 + length + sample.data_bytes;
    unsigned char *file = malloc(bytes);

    assert_non_null(file);
    put_u64(file, length);
    memset(file + 8, ' ', length);
    memcpy(file + 8, header, strlen(header));
    memcpy(file + 8 + length, sample.data, sample.data_bytes);
    folder_check(name, file, bytes);
    free(file);
}

/* The sample's header with other metadata. */
static const char *header_with(const char *metadata)
{
    static char text[1 << 15];
    const char *tensors = strstr(sample.header, "},\"lora_te");

    assert_non_null(tensors);
    if (*metadata == '\0') {
        snprintf(text, sizeof text, "{%s", tensors + 2);
    } else {
        snprintf(text, sizeof text, "{\"__metadata__\":{%s%s", metadata,
                 tensors);
    }
    while (text[strlen(text) - 1] == ' ') {
        text[strlen(text) - 1] = '\0';
    }
    return text;
}

static ino_t inode_of(const char *name)
{
    struct stat info;

    assert_int_equal(lstat(in_folder(name), &info), 0);
    return info.st_ino;
}

static void test_in_place(void **state)
{
    static const lora_metadata_change changes[] = {
        {"s*", NULL}, {"m?del*", NULL}, {"note", "\xC3\xBC \"q\""}, {"x", ""}};
    const char *header;
    lora_metadata_edit out;
    lora_error error;
    ino_t inode;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    inode = inode_of(NAME);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          edit(&out, changes, COUNT(changes), NULL, &error));
    assert_int_equal(out.added, 1);
    assert_int_equal(out.replaced, 1);
    assert_int_equal(out.removed, 4);
    assert_int_equal(out.in_place, 1);
    assert_int_equal(out.bytes, sample.bytes);
    header = header_with("\"note\":\"\xC3\xBC \\\"q\\\"\",\"x\":\"\"");
    assert_int_equal(out.room_bytes, sample.header_bytes - strlen(header));
    check_written(NAME, header, sample.header_bytes);
    assert_true(inode_of(NAME) == inode);

    /* The last entry takes the object with it. */
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          edit(&out, &(lora_metadata_change){"*", NULL}, 1, NULL, &error));
    check_written(NAME, header_with(""), sample.header_bytes);

    /* The room is there for as much as was in it, to the last byte. */
    for (size_t more = 0; more < 2; more++) {
        char value[512];
        size_t bytes =
            out.room_bytes - strlen("\"__metadata__\":{\"k\":\"\"},");
        memset(value, 'v', sizeof value);
        value[bytes + more] = '\0';
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              edit(&out, &(lora_metadata_change){"k", value}, 1, NULL, &error));
        assert_int_equal(out.in_place, !more);
        assert_int_equal(out.room_bytes, more ? 7 : 0);
        assert_true((inode_of(NAME) == inode) == !more);
        if (!more) {
            out.room_bytes = bytes + strlen("\"__metadata__\":{\"k\":\"\"},");
        }
    }
    assert_int_equal(folder_count(0), 1);
}

static void test_nothing(void **state)
{
    static const lora_metadata_change same[] = {{"note", "a b"},
                                                {"nothing", NULL}};
    lora_metadata_edit_options options;
    lora_metadata_edit out;
    lora_error error;
    ino_t inode;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    inode = inode_of(NAME);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, NULL, 0, NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, same, 2, NULL, &error));
    assert_int_equal(out.added + out.replaced + out.removed, 0);
    assert_int_equal(out.in_place, 1);
    folder_check(NAME, sample.file, sample.bytes);

    /* A trial tells what would be. */
    lora_metadata_edit_options_init(&options, sizeof options);
    options.dry_run = 1;
    CHECK(
        LORA_OK, LORA_NO_OFFSET, "",
        edit(&out, &(lora_metadata_change){"note", NULL}, 1, &options, &error));
    assert_int_equal(out.in_place, 1);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          edit(&out, &(lora_metadata_change){"more", "text"}, 1, &options,
               &error));
    assert_int_equal(out.in_place, 0);
    assert_true(out.bytes > sample.bytes);
    options.output = in_folder(COPY);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, NULL, 0, &options, &error));
    folder_check(NAME, sample.file, sample.bytes);
    assert_true(inode_of(NAME) == inode);
    assert_int_equal(folder_count(0), 1);
}

static void test_anew(void **state)
{
    const lora_metadata_change change = {"note", NULL};
    lora_metadata_edit_options options;
    lora_metadata_edit out;
    lora_error error;
    const char *header = header_with(
        SAMPLE_BASE ",\"ss_network_dim\":\"7\",\"sshs_model_hash\":\"00\"");
    size_t length = (strlen(header) + 7) / 8 * 8;
    ino_t inode;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    inode = inode_of(NAME);
    lora_metadata_edit_options_init(&options, sizeof options);
    options.rewrite = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          edit(&out, &change, 1, &options, &error));
    assert_int_equal(out.in_place, 0);
    assert_int_equal(out.bytes, 8 + length + sample.data_bytes);
    check_written(NAME, header, length);
    assert_true(inode_of(NAME) != inode);

    options.room_bytes = 4001;
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, NULL, 0, &options, &error));
    assert_true(out.room_bytes >= 4001 && out.room_bytes < 4017);
    check_written(NAME, header, length + 4008);

    /* A copy; an existing file stays, unless it is said to be replaced. */
    lora_metadata_edit_options_init(&options, sizeof options);
    options.output = in_folder(COPY);
    folder_put(NAME, sample.file, sample.bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          edit(&out, &change, 1, &options, &error));
    check_written(COPY, header, length);
    folder_check(NAME, sample.file, sample.bytes);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder(COPY),
          edit(&out, NULL, 0, &options, &error));
    assert_int_equal(error.os_error, EEXIST);
    check_written(COPY, header, length);
    options.overwrite = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, NULL, 0, &options, &error));
    folder_check(COPY, sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 2);
}

/* What has several names is not written to: the others keep what they had. */
static void test_links(void **state)
{
    const lora_metadata_change change = {"note", NULL};
    lora_metadata_edit out;
    lora_error error;

    folder_clear(state);
    folder_put(COPY, sample.file, sample.bytes);
    assert_int_equal(link(in_folder(COPY), in_folder(NAME)), 0);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, &change, 1, NULL, &error));
    assert_int_equal(out.in_place, 0);
    folder_check(COPY, sample.file, sample.bytes);

    assert_int_equal(unlink(in_folder(NAME)), 0);
    assert_int_equal(symlink(COPY, in_folder(NAME)), 0);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, NULL, 0, NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, &change, 1, NULL, &error));
    assert_int_equal(out.in_place, 0);
    folder_check(COPY, sample.file, sample.bytes);
    assert_true(inode_of(COPY) != inode_of(NAME));
    assert_int_equal(folder_count(0), 2);
}

static void test_arguments(void **state)
{
    static const lora_metadata_change good = {"a", "b"};
    static const lora_metadata_change no_key = {NULL, "b"};
    static const lora_metadata_change bad_key = {"\xFF", "b"};
    static const lora_metadata_change bad_pattern = {"\xC3(", NULL};
    static const lora_metadata_change bad_value = {"a", "\xED\xA0\x80"};
    static const lora_metadata_change twice[] = {
        {"a", "b"}, {"a", NULL}, {"a", "c"}};
    const char *path = in_folder(NAME);
    lora_metadata_edit_options options;
    lora_metadata_edit out;
    lora_error error;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    CHECK_ARGUMENT(
        lora_metadata_edit_file(NULL, NULL, path, &good, 1, NULL, &error));
    CHECK_ARGUMENT(
        lora_metadata_edit_file(NULL, context, NULL, &good, 1, NULL, &error));
    CHECK_ARGUMENT(
        lora_metadata_edit_file(NULL, context, path, NULL, 1, NULL, &error));
    out.struct_size = 0;
    CHECK_ARGUMENT(
        lora_metadata_edit_file(&out, context, path, &good, 1, NULL, &error));
    CHECK_ARGUMENT(edit(&out, &no_key, 1, NULL, &error));
    CHECK_ARGUMENT(edit(&out, &bad_key, 1, NULL, &error));
    CHECK_ARGUMENT(edit(&out, &bad_pattern, 1, NULL, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "a",
          edit(&out, &bad_value, 1, NULL, &error));
    CHECK(LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, "a",
          edit(&out, twice, 3, NULL, &error));
    lora_metadata_edit_options_init(&options, sizeof options);
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          edit(&out, &good, 1, &options, &error));
    folder_check(NAME, sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 1);
}

static void test_files(void **state)
{
    static const lora_metadata_change good = {"a", "b"};
    lora_metadata_edit out;
    lora_error error;
    image im;

    folder_clear(state);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder(NAME),
          edit(&out, &good, 1, NULL, &error));
    assert_int_equal(error.os_error, ENOENT);
    folder_put(NAME, sample.file, sample.bytes - 1);
    CHECK(LORA_ERROR_TRUNCATED, sample.bytes - 1, in_folder(NAME),
          edit(&out, &good, 1, NULL, &error));
    folder_check(NAME, sample.file, sample.bytes - 1);
    folder_put(NAME, "<html></html>", 13);
    CHECK(LORA_ERROR_FORMAT, 0, in_folder(NAME),
          edit(&out, &good, 1, NULL, &error));

    /* One that repeats a key could be read in two ways: not made worse. */
    image_begin(&im, "\"a\":\"1\",\"a\":\"2\"");
    image_end(&im);
    folder_put(NAME, im.file, im.bytes);
    CHECK(LORA_ERROR_DUPLICATE, ANY_OFFSET, in_folder(NAME),
          edit(&out, &good, 1, NULL, &error));
    folder_check(NAME, im.file, im.bytes);
    image_free(&im);

    /* Neither tensors nor metadata. */
    image_begin(&im, NULL);
    image_end(&im);
    folder_put(NAME, im.file, im.bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", edit(&out, &good, 1, NULL, &error));
    assert_int_equal(out.in_place, 0);
    folder_check(NAME,
                 "\x20\0\0\0\0\0\0\0"
                 "{\"__metadata__\":{\"a\":\"b\"}}      ",
                 40);
    image_free(&im);
    assert_int_equal(folder_count(0), 1);
}

/* No header is written that this context, or the format, would refuse. */
static void test_too_long(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options context_options;
    lora_metadata_edit_options options;
    lora_context *small;
    lora_metadata_edit out = {.struct_size = sizeof out};
    const char *path = in_folder(NAME);
    char value[64];
    lora_error error;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    lora_context_options_init(&context_options, sizeof context_options);
    limits.header_bytes = sample.header_bytes + 16;
    context_options.limits = &limits;
    assert_int_equal(lora_context_create(&small, &context_options, NULL),
                     LORA_OK);
    CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, path,
          lora_metadata_edit_file(&out, small, path,
                                  &(lora_metadata_change){"v", value}, 1, NULL,
                                  &error));
    lora_context_destroy(small);
    lora_metadata_edit_options_init(&options, sizeof options);
    options.rewrite = 1;
    for (size_t i = 0; i < 2; i++) {
        options.room_bytes = i == 0 ? 100000000 : UINT64_MAX - 8;
        CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, path,
              lora_metadata_edit_file(&out, context, path, NULL, 0, &options,
                                      &error));
    }
    folder_check(NAME, sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 1);
}

static int32_t
stop_at_once(void *user, const char *stage, uint64_t done, uint64_t total)
{
    (void)user;
    (void)stage;
    (void)done;
    (void)total;
    return 1;
}

static void test_cancelled(void **state)
{
    lora_context_options context_options;
    lora_metadata_edit_options options;
    lora_context *own;
    lora_error error;

    folder_clear(state);
    folder_put(NAME, sample.file, sample.bytes);
    lora_context_options_init(&context_options, sizeof context_options);
    context_options.progress = stop_at_once;
    assert_int_equal(lora_context_create(&own, &context_options, NULL),
                     LORA_OK);
    lora_metadata_edit_options_init(&options, sizeof options);
    options.rewrite = 1;
    CHECK(LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
          lora_metadata_edit_file(NULL, own, in_folder(NAME), NULL, 0, &options,
                                  &error));
    lora_context_destroy(own);
    folder_check(NAME, sample.file, sample.bytes);
    assert_int_equal(folder_count(0), 1);
}

static int set_up(void **state)
{
    context = plain_context();
    image_sample(&sample);
    return folder_make(state);
}

static int tear_down(void **state)
{
    image_free(&sample);
    lora_context_destroy(context);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_place),  cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_anew),      cmocka_unit_test(test_links),
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_files),
        cmocka_unit_test(test_too_long),  cmocka_unit_test(test_cancelled),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
