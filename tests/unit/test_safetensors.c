/* The safetensors reader: what it makes of sound files, and what it refuses,
 * where and how. The damaged files are those of the golden set, and more.
 */
#include "containers.h"

/* Sound files ------------------------------------------------------------ */

static void test_good(void **state)
{
    static const struct {
        const char *name;
        lora_dtype dtype;
        int32_t ndim;
        int64_t shape[3];
        uint64_t begin, bytes, elements;
    } want[] = {
        {"four", LORA_DTYPE_F4, 2, {2, 2, 0}, 0, 2, 4},
        {"none", LORA_DTYPE_F64, 3, {4, 0, 5}, 2, 0, 0},
        {"mA\"", LORA_DTYPE_BF16, 3, {2, 1, 3}, 2, 12, 6},
        {"late", LORA_DTYPE_U8, 1, {3, 0, 0}, 14, 3, 3},
        {"scalar", LORA_DTYPE_I64, 0, {0, 0, 0}, 17, 8, 1},
        {"also none", LORA_DTYPE_F6_E2M3, 1, {0, 0, 0}, 25, 0, 0},
    };
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_file(GOOD, strlen(GOOD), GOOD_DATA);
    lora__container *c;
    unsigned char bytes[4];
    lora_error error;

    (void)state;
    assert_int_equal(open_blob(&c, context, &b, "good", &error), LORA_OK);
    assert_string_equal(c->format, "safetensors");
    assert_string_equal(c->path, "good");
    assert_int_equal(c->file_bytes, b.bytes);
    assert_int_equal(c->data_offset, 8 + strlen(GOOD));
    assert_int_equal(c->entry_count, 6);
    for (size_t i = 0; i < 6; i++) {
        const lora__entry *e = &c->entries[i];
        assert_string_equal(e->name, want[i].name);
        assert_int_equal(e->dtype, want[i].dtype);
        assert_int_equal(e->ndim, want[i].ndim);
        for (int32_t d = 0; d < e->ndim; d++) {
            assert_true(e->shape[d] == want[i].shape[d]);
        }
        assert_int_equal(e->bytes, want[i].bytes);
        assert_int_equal(e->elements, want[i].elements);
        assert_int_equal(e->offset, c->data_offset + want[i].begin);
    }
    assert_int_equal(c->metadata_count, 3);
    assert_string_equal(c->metadata[0].key, "");
    assert_string_equal(c->metadata[1].key, "a\xc3\xa9");
    assert_string_equal(c->metadata[1].value, "line\n");
    assert_string_equal(c->metadata[2].key, "z");
    assert_string_equal(lora__container_metadata(c, "z"), "1");
    assert_null(lora__container_metadata(c, "y"));
    touch(c);

    /* "late" is bytes 15, 16, 17 of the data, which count from 1. */
    assert_int_equal(lora__container_read(c, 3, 1, bytes, 2, NULL), LORA_OK);
    assert_int_equal(bytes[0], 16);
    assert_int_equal(bytes[1], 17);
    assert_int_equal(lora__container_read(c, 3, 3, bytes, 0, NULL), LORA_OK);
    assert_int_equal(lora__container_read(c, 3, 2, bytes, 2, NULL),
                     LORA_ERROR_RANGE);
    assert_int_equal(lora__container_read(c, 3, UINT64_MAX, bytes, 2, NULL),
                     LORA_ERROR_RANGE);
    assert_ptr_equal(lora__container_view(c, 3),
                     b.data + 8 + strlen(GOOD) + 14);
    lora__container_retain(c);
    lora__container_release(c);
    lora__container_release(c);
    lora__container_release(NULL);
    free(b.data);
    end_context(&h, context);
}

/* Small files that are just allowed. */
static void test_allowed(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        size_t tensors, metadata;
    } cases[] = {
        {"{}", 0, 0, 0},
        {"{ \n}     ", 0, 0, 0},
        {"{\"__metadata__\":{}}", 0, 0, 0},
        {"{\"__metadata__\":null}", 0, 0, 0},
        {"{\"__metadata__\":{\"k\":\"v\"}}", 0, 0, 1},
        {"{\"a\":" E4 ",\"__metadata__\":{\"k\":\"v\"}}", 4, 1, 1},
        {"{\"\":" E4 "}", 4, 1, 0},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,2],"
         "\"data_offsets\":[0,2]}}",
         2, 1, 0},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1152921504606846976,0],"
         "\"data_offsets\":[0,0]}}",
         0, 1, 0},
        {"{\"a\":{\"dtype\":\"F6_E3M2\",\"shape\":[4],"
         "\"data_offsets\":[0,3]}}",
         3, 1, 0},
        {"{\"a\":{\"\\u0064type\":\"\\u00461\\u0036\",\"shape\":[1],"
         "\"data_offsets\":[0,2]}}",
         2, 1, 0},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         0, 2, 0},
    };
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        blob b =
            make_file(cases[i].header, strlen(cases[i].header), cases[i].data);
        lora__container *c;
        lora_error error;

        if (open_blob(&c, context, &b, "file", &error) != LORA_OK) {
            fail_msg("%s: %s", cases[i].header, error.message);
        }
        assert_int_equal(c->entry_count, cases[i].tensors);
        assert_int_equal(c->metadata_count, cases[i].metadata);
        touch(c);
        lora__container_release(c);
        free(b.data);
    }
    end_context(&h, context);
}

/* However it is written, an entry says the same. */
static void test_forms(void **state)
{
    static const char *const forms[] = {
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[3,10],\"data_offsets\":[0,60]}}",
        "{\"a\": {\"dtype\": \"F16\", \"shape\": [3, 10], "
        "\"data_offsets\": [0, 60]}}",
        "{\"a\":{\"dtype\": \"F16\",\"shape\":[3, "
        "10],\"data_offsets\":[0,60]}}",
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[3,10] ,\"data_offsets\":[0,60]}}",
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[3,10],\"data_offsets\":[0,60],"
        "\"more\":[1]}}",
        "{\"a\":{\"shape\":[3,10],\"dtype\":\"F16\",\"data_offsets\":[0,60]}}",
    };
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        blob b = make_file(forms[i], strlen(forms[i]), 60);
        const lora__entry *e;
        lora__container *c;

        assert_int_equal(open_blob(&c, context, &b, "file", NULL), LORA_OK);
        e = &c->entries[0];
        assert_int_equal(e->dtype, LORA_DTYPE_F16);
        assert_int_equal(e->ndim, 2);
        assert_int_equal(e->shape[0], 3);
        assert_int_equal(e->shape[1], 10);
        assert_int_equal(e->bytes, 60);
        assert_int_equal(e->elements, 30);
        lora__container_release(c);
        free(b.data);
    }
    end_context(&h, context);
}

/* A zero byte ends texts of C, but not those of JSON. */
static void test_zero_byte(void **state)
{
    static const char header[] =
        "{\"a\":{\"dtype\":\"F16\0\",\"shape\":[1],\"data_offsets\":[0,2]}}";
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_file(header, sizeof header - 1, 2);
    lora__container *c;
    lora_error error;

    (void)state;
    assert_int_equal(open_blob(&c, context, &b, "file", &error),
                     LORA_ERROR_FORMAT);
    assert_int_equal(error.offset, 8 + 18);
    free(b.data);
    end_context(&h, context);
}

static void test_every_dtype(void **state)
{
    static const struct {
        const char *name;
        size_t bytes; /* of 8 elements */
    } types[] = {
        {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
        {"U8", 8},      {"I8", 8},          {"F8_E5M2", 8},     {"F8_E4M3", 8},
        {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
        {"U16", 16},    {"F16", 16},        {"BF16", 16},       {"I32", 32},
        {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},
        {"I64", 64},    {"U64", 64},
    };
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char header[128];
        lora__container *c;
        blob b;
        int n = snprintf(header, sizeof header,
                         "{\"a\":{\"dtype\":\"%s\",\"shape\":[8],"
                         "\"data_offsets\":[0,%d]}}",
                         types[i].name, (int)types[i].bytes);

        b = make_file(header, (size_t)n, types[i].bytes);
        assert_int_equal(open_blob(&c, context, &b, "", NULL), LORA_OK);
        assert_int_equal(c->entries[0].dtype, i + 1);
        lora__container_release(c);
        free(b.data);
    }
    end_context(&h, context);
}

/* Damaged files ---------------------------------------------------------- */

/* Where `part` is in the file; its last place if there are two. */
static uint64_t place(const char *header, const char *part)
{
    const char *found = strstr(header, part);

    assert_non_null(found);
    while (strstr(found + 1, part) != NULL) {
        found = strstr(found + 1, part);
    }
    return 8 + (uint64_t)(found - header);
}

static void test_refused(void **state)
{
#define DT "\"dtype\":\"F32\","
#define SH "\"shape\":[1],"
#define OF "\"data_offsets\":[0,4]"
    static const struct {
        const char *header;
        size_t data;
        lora_status status;
        const char *where; /* text at the offset; NULL: the end of the header;
                            * "data": the end of the data that is described */
    } cases[] = {
        {"this is not json at all!", 0, LORA_ERROR_FORMAT, "this"},
        {"[1,2,3]", 0, LORA_ERROR_FORMAT, "[1"},
        {"   {\"a\":" E4 "}", 4, LORA_ERROR_FORMAT, "   {"},
        {"\n{\"a\":" E4 "}", 4, LORA_ERROR_FORMAT, "\n{"},
        {"{\"a\":" E4, 4, LORA_ERROR_FORMAT, NULL},
        {"{\"a\":" E4 "}xx", 4, LORA_ERROR_FORMAT, "xx"},
        {"{\"a\":" E4 "}  \n ", 4, LORA_ERROR_FORMAT, "\n"},
        {"{\"a\":" E4 "}{}", 4, LORA_ERROR_FORMAT, "{}"},
        {"{/*c*/\"a\":" E4 "}", 4, LORA_ERROR_FORMAT, "/*"},
        {"{\"a\":" E4 ",}", 4, LORA_ERROR_FORMAT, "}"},
        {"{\"a\":" E4 ",\"a\":" E4 "}", 4, LORA_ERROR_DUPLICATE, "\"a\""},
        {"{\"a\":" E4 ",\"a\":{" DT SH "\"data_offsets\":[4,8]}}", 8,
         LORA_ERROR_DUPLICATE, "\"a\""},
        {"{\"ab\":" E4 ",\"\\u0061b\":" E4 "}", 4, LORA_ERROR_DUPLICATE,
         "\"\\u0061b"},
        {"{\"a\":{" DT "\"dtype\":\"F16\"," SH OF "}}", 4, LORA_ERROR_FORMAT,
         "\"dtype\""},
        {"{\"a\":{" DT SH SH OF "}}", 4, LORA_ERROR_FORMAT, "\"shape\""},
        {"{\"a\":{" DT SH OF "," OF "}}", 4, LORA_ERROR_FORMAT, "\"data_"},
        /* Ranges. */
        {"{\"a\":{" DT "\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{" DT "\"shape\":[2],\"data_offsets\":[4,12]}}",
         12, LORA_ERROR_FORMAT, "\"b\""},
        {"{\"b\":{" DT SH "\"data_offsets\":[8,12]},\"a\":" E4 "}", 12,
         LORA_ERROR_FORMAT, "\"b\""},
        {"{\"a\":{" DT SH "\"data_offsets\":[4,8]}}", 8, LORA_ERROR_FORMAT,
         "\"a\""},
        {"{\"a\":" E4 ",\"b\":" E4 "}", 4, LORA_ERROR_FORMAT, "\"b\""},
        {"{\"a\":{" DT SH "\"data_offsets\":[4,0]}}", 4, LORA_ERROR_FORMAT,
         "0]}}"},
        {"{\"a\":{" DT SH "\"data_offsets\":[-4,0]}}", 4, LORA_ERROR_FORMAT,
         "-4"},
        {"{\"a\":{" DT SH "\"data_offsets\":[0.0,4.0]}}", 4, LORA_ERROR_FORMAT,
         "0.0,"},
        {"{\"a\":{" DT SH "\"data_offsets\":[0,4e0]}}", 4, LORA_ERROR_FORMAT,
         "4e0"},
        {"{\"a\":{" DT SH
         "\"data_offsets\":[9223372036854775808,9223372036854775812]}}",
         4, LORA_ERROR_FORMAT, "\"a\""},
        /* The place in the file wraps to that of the data's begin. */
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],"
         "\"data_offsets\":[18446744073709551615,18446744073709551615]}}",
         0, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT SH "\"data_offsets\":[0,18446744073709551620]}}", 4,
         LORA_ERROR_FORMAT, "18446744073709551620"},
        {"{\"a\":{" DT SH "\"data_offsets\":[\"0\",\"4\"]}}", 4,
         LORA_ERROR_FORMAT, "0\","},
        {"{\"a\":{" DT SH "\"data_offsets\":[0,4,8]}}", 4, LORA_ERROR_FORMAT,
         "8]"},
        {"{\"a\":{" DT SH "\"data_offsets\":[4]}}", 4, LORA_ERROR_FORMAT,
         "]}}"},
        {"{\"a\":{" DT SH "\"data_offsets\":4}}", 4, LORA_ERROR_FORMAT, "4}}"},
        {"{\"a\":{" DT SH "\"data_offsets\":[[0],4]}}", 4, LORA_ERROR_FORMAT,
         "[0]"},
        {"{\"a\":{" DT "\"shape\":[3],\"data_offsets\":[0,8]}}", 8,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[0,5],\"data_offsets\":[0,4]}}", 4,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":" E4 "}", 9, LORA_ERROR_FORMAT, "data"},
        {"{}", 1, LORA_ERROR_FORMAT, "data"},
        /* Types and shapes. */
        {"{\"a\":{\"dtype\":\"F128\"," SH "\"data_offsets\":[0,16]}}", 16,
         LORA_ERROR_FORMAT, "F128"},
        {"{\"a\":{\"dtype\":\"f32\"," SH OF "}}", 4, LORA_ERROR_FORMAT, "f32"},
        {"{\"a\":{\"dtype\":\"NONE\"," SH OF "}}", 4, LORA_ERROR_FORMAT,
         "NONE"},
        {"{\"a\":{\"dtype\":\"\"," SH OF "}}", 4, LORA_ERROR_FORMAT, "\","},
        {"{\"a\":{\"dtype\":18," SH OF "}}", 4, LORA_ERROR_FORMAT, "18"},
        {"{\"a\":{\"dtype\":null," SH OF "}}", 4, LORA_ERROR_FORMAT, "null"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[3],"
         "\"data_offsets\":[0,3]}}",
         3, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[4294967296,4294967296,2]," OF "}}", 4,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[9223372036854775808,4,0],"
         "\"data_offsets\":[0,0]}}",
         0, LORA_ERROR_FORMAT, "9223372036854775808"},
        {"{\"a\":{" DT "\"shape\":[4611686018427387904,4,0],"
         "\"data_offsets\":[0,0]}}",
         0, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[0,4611686018427387904,4],"
         "\"data_offsets\":[0,0]}}",
         0, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[576460752303423488]," OF "}}", 4,
         LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT "\"shape\":[1,1,1,1,1,1,1,1,7]," OF "}}", 4,
         LORA_ERROR_FORMAT, "7]"},
        {"{\"a\":{" DT "\"shape\":[-1]," OF "}}", 4, LORA_ERROR_FORMAT, "-1"},
        {"{\"a\":{" DT "\"shape\":[1.5]," OF "}}", 4, LORA_ERROR_FORMAT, "1.5"},
        {"{\"a\":{" DT "\"shape\":1," OF "}}", 4, LORA_ERROR_FORMAT, "1,"},
        {"{\"a\":{" DT "\"shape\":null," OF "}}", 4, LORA_ERROR_FORMAT, "null"},
        /* Entries. */
        {"{\"a\":{" SH OF "}}", 4, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{" DT OF "}}", 4, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, LORA_ERROR_FORMAT,
         "\"a\""},
        {"{\"a\":{}}", 0, LORA_ERROR_FORMAT, "\"a\""},
        {"{\"a\":null}", 0, LORA_ERROR_FORMAT, "null"},
        {"{\"a\":[]}", 0, LORA_ERROR_FORMAT, "[]"},
        {"{\"a\":\"x\"}", 0, LORA_ERROR_FORMAT, "x\""},
        {"{\"a\":{" DT SH OF ",\"x\":[[[[[[[[1]]]]]]]]}}", 4, LORA_ERROR_FORMAT,
         "[[1"},
        /* Names. */
        {"{\"a\xff\xfe\":" E4 "}", 4, LORA_ERROR_FORMAT, "a\xff"},
        {"{\"a\xed\xa0\x80\":" E4 "}", 4, LORA_ERROR_FORMAT, "a\xed"},
        {"{\"a\\ud800\":" E4 "}", 4, LORA_ERROR_FORMAT, "\\ud800"},
        {"{\"a\\u0000b\":" E4 "}", 4, LORA_ERROR_FORMAT, "\"a\\u"},
        {"{\"a\tb\":" E4 "}", 4, LORA_ERROR_FORMAT, "\tb"},
        {"{\"a\":{" DT SH OF ",\"x\":\"\xff\"}}", 4, LORA_ERROR_FORMAT, "\xff"},
        /* Metadata. */
        {"{\"__metadata__\":{\"k\":5},\"a\":" E4 "}", 4, LORA_ERROR_FORMAT,
         "5}"},
        {"{\"__metadata__\":{\"k\":null}}", 0, LORA_ERROR_FORMAT, "null"},
        {"{\"__metadata__\":{\"k\":{\"x\":\"y\"}},\"a\":" E4 "}", 4,
         LORA_ERROR_FORMAT, "{\"x\""},
        {"{\"__metadata__\":[]}", 0, LORA_ERROR_FORMAT, "[]"},
        {"{\"__metadata__\":\"x\"}", 0, LORA_ERROR_FORMAT, "x\""},
        {"{\"__metadata__\":" E4 "}", 4, LORA_ERROR_FORMAT, "[1]"},
        {"{\"__metadata__\":{\"k\":\"1\"},\"__metadata__\":{\"k\":\"2\"}}", 0,
         LORA_ERROR_DUPLICATE, "\"__metadata__\""},
        {"{\"__metadata__\":null,\"__metadata__\":{}}", 0, LORA_ERROR_DUPLICATE,
         "\"__metadata__\""},
        {"{\"__metadata__\":{\"k\":\"1\",\"j\":\"2\",\"k\":\"1\"}}", 0,
         LORA_ERROR_DUPLICATE, "\"k\""},
        {"{\"__metadata__\":{\"k\":\"a\\u0000b\"}}", 0, LORA_ERROR_FORMAT,
         "a\\u"},
        {"{\"__metadata__\":{\"k\\u0000\":\"a\"}}", 0, LORA_ERROR_FORMAT,
         "\"k"},
    };
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *header = cases[i].header;
        blob b = make_file(header, strlen(header), cases[i].data);
        lora__container *c = (lora__container *)(void *)&h;
        lora_error error;
        uint64_t where = b.bytes - cases[i].data;
        lora_status status = open_blob(&c, context, &b, "a file", &error);

        if (cases[i].where != NULL && strcmp(cases[i].where, "data") == 0) {
            where += strcmp(header, "{}") == 0 ? 0 : 4;
        } else if (cases[i].where != NULL) {
            where = place(header, cases[i].where);
        }
        assert_null(c);
        if (status != cases[i].status || error.status != status) {
            fail_msg("%s: status %d", header, (int)status);
        }
        /* Events of strings begin with the quote or, decoded, after it. */
        if (error.offset != where && error.offset + 1 != where) {
            fail_msg("%s: %s at %d, expected %d", header, error.message,
                     (int)error.offset, (int)where);
        }
        assert_string_equal(error.subject, "a file");
        assert_true(error.message[0] != '\0');
        /* Without a record to fill in it must fail the same. */
        assert_int_equal(open_blob(&c, context, &b, "", NULL), status);
        free(b.data);
    }
    end_context(&h, context);
}

static void test_deep_nesting(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t n = 60000;
    char *header = malloc(5 + 2 * n + 1);
    lora__container *c;
    lora_error error;
    blob b;

    (void)state;
    assert_non_null(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', n);
    memset(header + 5 + n, ']', n);
    header[5 + 2 * n] = '}';
    b = make_file(header, 5 + 2 * n + 1, 0);
    assert_int_equal(open_blob(&c, context, &b, "", &error), LORA_ERROR_FORMAT);
    /* The same inside a member that is ignored. */
    memcpy(header, "{\"a\":{\"x\":", 10);
    free(b.data);
    b = make_file(header, 5 + 2 * n + 1, 0);
    assert_int_equal(open_blob(&c, context, &b, "", &error), LORA_ERROR_FORMAT);
    free(b.data);
    free(header);
    end_context(&h, context);
}

static void expect_bytes(lora_context *context,
                         const void *data,
                         size_t bytes,
                         lora_status expected,
                         uint64_t offset)
{
    blob b = blob_of(data, bytes);
    lora__container *c;
    lora_error error;

    assert_int_equal(open_blob(&c, context, &b, "f", &error), expected);
    assert_null(c);
    assert_int_equal(error.offset, offset);
    assert_string_equal(error.subject, "f");
    free(b.data);
}

static void test_length_field(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    unsigned char file[10] = {0x10};

    (void)state;
    for (size_t n = 0; n < 8; n++) {
        expect_bytes(context, file, n, LORA_ERROR_TRUNCATED, n);
    }
    memset(file, 0, sizeof file);
    expect_bytes(context, file, 8, LORA_ERROR_FORMAT, 0);
    memcpy(file + 8, "{}", 2);
    put_length(file, 3);
    expect_bytes(context, file, 10, LORA_ERROR_TRUNCATED, 10);
    put_length(file, 1);
    expect_bytes(context, file, 10, LORA_ERROR_FORMAT, 9);
    put_length(file, 100000000);
    expect_bytes(context, file, 10, LORA_ERROR_TRUNCATED, 10);
    put_length(file, 100000001);
    expect_bytes(context, file, 10, LORA_ERROR_LIMIT, 0);
    put_length(file, (uint64_t)1 << 63);
    expect_bytes(context, file, 10, LORA_ERROR_LIMIT, 0);
    put_length(file, UINT64_MAX);
    expect_bytes(context, file, 10, LORA_ERROR_LIMIT, 0);
    /* Nothing was allocated for a header that is not there. */
    assert_true(lora_context_memory_peak(context) < 100000);
    end_context(&h, context);
}

static void test_limits(void **state)
{
    static const char two[] =
        "{\"name\":" E4 ",\"b\":{" DT SH "\"data_offsets\":[4,8]}}";
    lora_limits limits = {sizeof limits, 0, 0, 0, 0, 0};
    blob b = make_file(two, strlen(two), 8);
    lora__container *c;
    lora_error error;

    (void)state;
    for (int i = 0; i < 6; i++) {
        heap h;
        lora_context *context;

        limits.header_bytes = i == 0   ? strlen(two) - 1
                              : i == 1 ? strlen(two)
                                       : 0;
        limits.tensor_count = i == 2 ? 1 : i == 3 ? 2 : 0;
        limits.name_bytes = i == 4 ? 3 : i == 5 ? 4 : 0;
        context = make_context(&h, &limits);
        if (i % 2 == 0) {
            assert_int_equal(open_blob(&c, context, &b, "f", &error),
                             LORA_ERROR_LIMIT);
            assert_int_equal(error.offset, i == 0   ? 0
                                           : i == 2 ? place(two, "\"b\"")
                                                    : place(two, "\"name"));
        } else {
            assert_int_equal(open_blob(&c, context, &b, "f", &error), LORA_OK);
            lora__container_release(c);
        }
        end_context(&h, context);
    }
    free(b.data);
}

/* A name from the file must not break the one-line message. */
static void test_message(void **state)
{
    char header[1200];
    heap h;
    lora_context *context = make_context(&h, NULL);
    lora__container *c;
    lora_error error;
    blob b;
    int n;

    (void)state;
    b = make_file("{\"x\\n\\u001b\x7f\":{}}", 18, 0);
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "tensor \"x???\""));
    assert_int_equal(open_blob(&c, context, &b, "", &error), LORA_ERROR_FORMAT);
    assert_string_equal(error.subject, "x???");
    free(b.data);

    /* The 120th byte of this is the first of a character. */
    memcpy(header, "{\"x", 3);
    for (n = 3; n < 1003; n += 2) {
        memcpy(header + n, "\xc3\xa9", 2);
    }
    memcpy(header + n, "\":{}}", 5);
    b = make_file(header, (size_t)n + 5, 0);
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "\xc3\xa9\": dtype"));
    free(b.data);
    end_context(&h, context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_allowed),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_zero_byte),
        cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_length_field),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_message),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
