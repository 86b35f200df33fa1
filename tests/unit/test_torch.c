/* Checkpoints of torch: names, damage. What the golden files hold is
 * compared by golden/test_load.py; here are the cases no library writes.
 */
#include "torch_files.h"

#include "format/torch.h"

static heap memory;
static lora_context *context;

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_context(&memory, context);
    return 0;
}

/* One storage of so many F32: 0, 1, 2 ... */
static blob counting(size_t count)
{
    blob b = {malloc(count * sizeof(float)), count * sizeof(float)};

    assert_non_null(b.data);
    for (size_t i = 0; i < count; i++) {
        float value = (float)i;
        memcpy(b.data + i * sizeof value, &value, sizeof value);
    }
    return b;
}

/* A tensor of the storage "0", which has `elements` F32, in one dimension. */
static void put_vector(bytes *b, int64_t elements, int64_t first, int64_t size)
{
    const int64_t stride = 1;

    put_tensor(b, "FloatStorage", "0", elements, first, 1, &size, &stride, 0);
}

/* A checkpoint with this pickle and a counting storage "0"; the pickle is
 * freed. */
static blob make_file_of(bytes *text, size_t elements)
{
    blob pickle = take(text);
    blob storage = counting(elements);
    blob file = make_torch(&pickle, &storage, 1);

    free(pickle.data);
    free(storage.data);
    return file;
}

/* Names ------------------------------------------------------------------ */

/* The names of what a pickle holds, in order; it makes vectors of three of the
 * seven elements of the storage by put_vector(). */
static void check_names(bytes *text, const char *expected)
{
    blob file = make_file_of(text, 7);
    lora__buffer names;
    lora__container *c;
    lora_error error;

    lora__buffer_init(&names, context);
    if (open_blob(&c, context, &file, "f", &error) != LORA_OK) {
        fail_msg("%s: %s", expected, error.message);
    }
    assert_string_equal(c->format, "torch zip");
    for (size_t i = 0; i < c->entry_count; i++) {
        size_t found;
        assert_true(lora__map_find(&found, &c->by_name, c->entries[i].name,
                                   c->entries[i].name_bytes));
        assert_int_equal(found, i);
        lora__buffer_printf(&names, i == 0 ? "%s" : " %s", c->entries[i].name);
    }
    assert_string_equal(names.data, expected);
    lora__buffer_destroy(&names);
    lora__container_release(c);
    free(file.data);
}

static void put_named(bytes *text, const char *name)
{
    put_text(text, name);
    put_vector(text, 7, 1, 3);
}

static void test_names(void **state)
{
    bytes text = {NULL, 0, 0};

    (void)state;
    PUT(&text, "\x80\2}(");
    put_named(&text, "b");
    put_named(&text, "a.x");
    put_text(&text, "");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "u.");
    check_names(&text, "b a.x ");

    PUT(&text, "\x80\2}(");
    put_text(&text, "dict");
    PUT(&text, "}(K\5");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "J\xFE\xFF\xFF\xFF");
    put_vector(&text, 7, 1, 3);
    put_named(&text, "name");
    PUT(&text, "u");
    put_text(&text, "list");
    PUT(&text, "](N");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "G\0\0\0\0\0\0\0\0(");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "teu.");
    check_names(&text, "dict.5 dict.-2 dict.name list.1 list.3.0");

    PUT(&text, "\x80\2](K\1");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "]");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "ae.");
    check_names(&text, "0001 0002.0");

    PUT(&text, "\x80\2");
    put_vector(&text, 7, 1, 3);
    PUT(&text, ".");
    check_names(&text, "tensor");
}

/* What wraps a state dict is left out, with all that lies beside it; whatever
 * is no tensor is dropped, and its classes are not looked at. */
static void test_wrappers(void **state)
{
    bytes text = {NULL, 0, 0};

    (void)state;
    PUT(&text, "\x80\2}(");
    put_named(&text, "beside");
    put_text(&text, "callbacks");
    PUT(&text, "cpytorch_lightning.callbacks\nModelCheckpoint\n)\x81}(");
    put_named(&text, "within");
    PUT(&text, "ub");
    put_text(&text, "state_dict");
    PUT(&text, "ccollections\nOrderedDict\n)R(");
    put_named(&text, "inner");
    PUT(&text, "u}(");
    put_text(&text, "_metadata");
    PUT(&text, "}ubu.");
    check_names(&text, "inner");

    PUT(&text, "\x80\2}("); /* no dict, so it wraps nothing */
    put_named(&text, "state_dict");
    PUT(&text, "u.");
    check_names(&text, "state_dict");

    PUT(&text, "\x80\2}(");
    put_text(&text, "parameter");
    PUT(&text, "ctorch._utils\n_rebuild_parameter\n(");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "\x88"
               "ccollections\nOrderedDict\n)RtR");
    put_text(&text, "subclass");
    PUT(&text, "ctorch._tensor\n_rebuild_from_type_v2\n("
               "ctorch._utils\n_rebuild_parameter\nctorch.nn.a\nB\n(");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "\x88"
               "ccollections\nOrderedDict\n)Rt}tR");
    put_text(&text, "dict");
    PUT(&text, "ctorch.nn.modules.container\nParameterDict\n)\x81}(");
    put_text(&text, "_parameters");
    PUT(&text, "}(");
    put_named(&text, "p");
    PUT(&text, "uubX\3\0\0\0setc__builtin__\nset\n]\x85Ru.");
    check_names(&text, "parameter subclass dict.p");
}

/* Refusals --------------------------------------------------------------- */

/* Open, which must fail so; frees the file. */
static void check_refused(blob *file, lora_status status, const char *message)
{
    lora__container *c = NULL;
    lora_error error;
    lora_status got = open_blob(&c, context, file, "f", &error);

    if (got != status || strstr(error.message, message) == NULL) {
        fail_msg("%s: %d, \"%s\"", message, (int)got, error.message);
    }
    assert_null(c);
    assert_string_equal(error.subject, "f");
    assert_true(error.offset == LORA_NO_OFFSET || error.offset <= file->bytes);
    free(file->data);
    file->data = NULL;
}

static void refuse(bytes *text, lora_status status, const char *message)
{
    blob file = make_file_of(text, 7);

    check_refused(&file, status, message);
}

/* A tensor, within a dict, that is refused. */
static void refuse_tensor(const char *class_name,
                          const char *key,
                          int64_t elements,
                          int64_t first,
                          int32_t ndim,
                          const int64_t *shape,
                          const int64_t *strides,
                          lora_status status,
                          const char *message)
{
    bytes text = {NULL, 0, 0};

    PUT(&text, "\x80\2}(");
    put_text(&text, "name");
    put_tensor(&text, class_name, key, elements, first, ndim, shape, strides,
               0);
    PUT(&text, "u.");
    refuse(&text, status, message);
}

static void test_refused_tensors(void **state)
{
    static const int64_t sizes[9] = {2, 3, 1, 1, 1, 1, 1, 1, 1};
    static const int64_t steps[9] = {3, 1, 1, 1, 1, 1, 1, 1, 1};
    static const int64_t many[2] = {INT64_MAX, INT64_MAX};
    static const int64_t large[2] = {1 << 20, 1 << 20};
    static const int64_t negative[2] = {-1, 1};
    static const int64_t none[2] = {0, 0};
    const char *f32 = "FloatStorage";

    (void)state;
#define TENSOR(class_name, key, elements, first, ndim, shape, strides, status, \
               message)                                                        \
    refuse_tensor(class_name, key, elements, first, ndim, shape, strides,      \
                  LORA_ERROR_##status, message)
    TENSOR(f32, "0", 7, 2, 2, sizes, steps, FORMAT, "beyond its storage");
    TENSOR(f32, "0", 7, 7, 0, sizes, steps, FORMAT, "beyond its storage");
    TENSOR(f32, "0", 7, INT64_MAX, 2, sizes, steps, FORMAT, "beyond");
    TENSOR(f32, "0", 7, 0, 2, sizes, many, FORMAT, "beyond");
    TENSOR(f32, "0", 7, -1, 2, sizes, steps, FORMAT, "are not such");
    TENSOR(f32, "0", 7, 0, 2, negative, steps, FORMAT, "are not such");
    TENSOR(f32, "0", 7, 0, 2, sizes, negative, FORMAT, "are not such");
    TENSOR(f32, "0", 7, 0, 9, sizes, steps, FORMAT, "are not such");
    TENSOR(f32, "0", 7, 0, 2, many, none, FORMAT, "overflows");
    TENSOR(f32, "0", 7, 0, 2, large, none, LIMIT, "far larger than the file");
    TENSOR(f32, "1", 7, 0, 2, sizes, steps, FORMAT, "record is missing");
    TENSOR(f32, "0", 8, 0, 2, sizes, steps, TRUNCATED, "shorter");
    TENSOR(f32, "0", 6, 0, 2, sizes, steps, FORMAT, "longer");
    TENSOR(f32, "0", -7, 0, 2, sizes, steps, FORMAT, "as torch does");
    TENSOR(f32, "0", INT64_MAX, 0, 2, sizes, steps, TRUNCATED, "any file");
    TENSOR("FooStorage", "0", 7, 0, 2, sizes, steps, FORMAT, "not known");
    TENSOR("QInt32Storage", "0", 7, 0, 2, sizes, steps, FORMAT, "number type");
    TENSOR("UntypedStorage", "0", 28, 0, 2, sizes, steps, FORMAT,
           "number type");
#undef TENSOR
}

static void test_refused_trees(void **state)
{
    bytes text = {NULL, 0, 0};

    (void)state;
    PUT(&text, "\x80\2}(");
    put_named(&text, "a.b");
    put_text(&text, "a");
    PUT(&text, "}(");
    put_named(&text, "b");
    PUT(&text, "uu.");
    refuse(&text, LORA_ERROR_DUPLICATE, "tensor \"a.b\": the same name twice");

    PUT(&text, "\x80\2}(");
    put_text(&text, "object");
    PUT(&text, "ctorch.nn.a\nB\n)\x81}(");
    put_named(&text, "x");
    PUT(&text, "ubu.");
    refuse(&text, LORA_ERROR_FORMAT, "class that is not loaded");

    PUT(&text, "\x80\2}(");
    put_text(&text, "set");
    PUT(&text, "\x8F(");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "\x90u.");
    refuse(&text, LORA_ERROR_FORMAT, "class that is not loaded");

    PUT(&text, "\x80\2}(K\1K\2\x86]");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "au.");
    refuse(&text, LORA_ERROR_FORMAT, "tensor \"?.0\": under a key");

    PUT(&text, "\x80\2}(U\2\xFF\xFE");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "u.");
    refuse(&text, LORA_ERROR_FORMAT,
           "tensor \"?"
           "?\": its name is not UTF-8");

    PUT(&text, "\x80\2}(U\3a\0b");
    put_vector(&text, 7, 1, 3);
    PUT(&text, "u.");
    refuse(&text, LORA_ERROR_FORMAT, "NUL");

    PUT(&text, "\x80\2}(");
    put_text(&text, "q");
    PUT(&text, "ctorch._utils\n_rebuild_qtensor\n)Ru.");
    refuse(&text, LORA_ERROR_FORMAT, "tensor \"q\": quantised");

    PUT(&text, "\x80\2}(");
    put_text(&text, "bare");
    PUT(&text, "ctorch._utils\n_rebuild_tensor_v2\n)Ru.");
    refuse(&text, LORA_ERROR_FORMAT, "are not such");

    PUT(&text, "\x80\2}q\0(");
    put_text(&text, "self");
    PUT(&text, "h\0u.");
    refuse(&text, LORA_ERROR_LIMIT, "within themselves");

    PUT(&text, "\x80\2(");
    put_text(&text, "module");
    PUT(&text, "ctorch.nn.a\nB\nNNtQ.");
    refuse(&text, LORA_ERROR_FORMAT, "a whole module");

    PUT(&text, "\x80\2K\1Q.");
    refuse(&text, LORA_ERROR_FORMAT, "as torch does");

    PUT(&text, "\x80\2}.");
    refuse(&text, LORA_ERROR_FORMAT, "without tensors");

    PUT(&text, "\x80\2N.N");
    refuse(&text, LORA_ERROR_FORMAT, "more than one pickle");
}

/* One key may not stand for two storages. */
static void test_two_storages(void **state)
{
    const int64_t size = 1;
    bytes text = {NULL, 0, 0};

    (void)state;
    PUT(&text, "\x80\2](");
    put_vector(&text, 7, 1, 3);
    put_tensor(&text, "IntStorage", "0", 7, 0, 1, &size, &size, 0);
    PUT(&text, "e.");
    refuse(&text, LORA_ERROR_FORMAT, "one key for two");
}

/* Limits of the context. */
static void test_limits(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits, .tensor_count = 2};
    heap h;
    bytes text = {NULL, 0, 0};
    lora__container *c;
    lora_context *small;
    blob file;

    (void)state;
    PUT(&text, "\x80\2}(");
    put_named(&text, "first");
    put_named(&text, "second");
    put_named(&text, "third");
    PUT(&text, "u.");
    file = make_file_of(&text, 7);
    for (int i = 0; i < 3; i++) {
        static const lora_status statuses[] = {
            LORA_ERROR_LIMIT, LORA_ERROR_LIMIT, LORA_ERROR_LIMIT};
        if (i == 1) {
            limits.tensor_count = 3;
            limits.name_bytes = 5;
        } else if (i == 2) {
            limits.name_bytes = 6;
            limits.header_bytes = 100;
        }
        small = make_context(&h, &limits);
        assert_int_equal(open_blob(&c, small, &file, "f", NULL), statuses[i]);
        end_context(&h, small);
    }
    limits.header_bytes = 0;
    small = make_context(&h, &limits);
    assert_int_equal(open_blob(&c, small, &file, "f", NULL), LORA_OK);
    lora__container_release(c);
    end_context(&h, small);
    free(file.data);
}

/* Records ---------------------------------------------------------------- */

static void
refuse_records(const zip_item *items, size_t count, const char *message)
{
    blob file = make_zip(items, count, 0);

    check_refused(&file, LORA_ERROR_FORMAT, message);
}

static void test_records(void **state)
{
    static const char pickle[] = "\x80\2}.";
    zip_item items[] = {
        {"a/data.pkl", pickle, 4, 0},
        {"a/byteorder", "little", 6, 0},
        {"a/version", "3", 1, 0},
    };
    blob file;

    (void)state;
    refuse_records(items, 3, "without tensors");
    refuse_records(items + 1, 2, "a zip archive without data.pkl");
    items[2].name = "b/version";
    refuse_records(items, 3, "outside of the folder");
    items[2].name = "../evil";
    refuse_records(items, 3, "outside of the folder");
    items[2].name = "a";
    refuse_records(items, 3, "outside of the folder");
    items[2].name = "a/constants.pkl";
    refuse_records(items, 3, "TorchScript");
    items[2].name = "a/code/x.py";
    refuse_records(items, 3, "TorchScript");
    items[2].name = "a/version";
    items[1].data = "big";
    items[1].count = 3;
    refuse_records(items, 3, "big-endian");
    items[1].data = "middle";
    items[1].count = 6;
    refuse_records(items, 3, "unknown order");
    items[0].name = "data.pkl";
    refuse_records(items, 1, "without data.pkl");
    items[1].data = "a longer word than there is";
    items[1].count = 27;
    items[0].name = "a/data.pkl";
    file = make_zip(items, 3, 0);
    check_refused(&file, LORA_ERROR_LIMIT, "over the limit");
}

/* A large storage is not read when the file is opened; damage is told when
 * anything in it is read, and nothing of it is lent. */
static void test_checked_late(void **state)
{
    const size_t elements = 300000;
    bytes text = {NULL, 0, 0};
    unsigned char byte;
    lora__container *c;
    lora_error error;
    blob file;

    (void)state;
    PUT(&text, "\x80\2](");
    put_vector(&text, (int64_t)elements, 0, 5);
    put_vector(&text, (int64_t)elements, 0, 0);
    PUT(&text, "e.");
    file = make_file_of(&text, elements);
    assert_int_equal(open_blob(&c, context, &file, "f", NULL), LORA_OK);
    assert_ptr_equal(lora__container_view(c, 0),
                     file.data + c->entries[0].offset);
    lora__container_release(c);

    assert_int_equal(open_blob(&c, context, &file, "f", NULL), LORA_OK);
    file.data[c->entries[0].offset + 4 * elements - 1] ^= 0x10;
    lora_error_init(&error, sizeof error);
    assert_null(lora__container_view(c, 0));
    assert_int_equal(lora__container_read(c, 0, 0, &byte, 1, &error),
                     LORA_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "\"m/data/0\": damaged"));
    assert_int_equal(error.offset, c->entries[0].offset);
    assert_int_equal(lora__container_read(c, 1, 0, &byte, 0, NULL), LORA_OK);
    lora__container_release(c);
    free(file.data);
}

/* Streams ---------------------------------------------------------------- */

/* A stream with vectors of the storages "0" and "1". `padding` bytes of text
 * come first, so that pickles are longer than what is tried first. */
static blob make_stream(size_t padding)
{
    const int64_t size = 3, stride = 2;
    bytes text = {NULL, 0, 0};
    blob storages[2] = {counting(7), counting(5)};
    blob pickle, file;

    PUT(&text, "\x80\2}(");
    for (size_t i = 0; i < padding; i += 200) {
        PUT(&text, "K\1U\xC8");
        for (size_t n = 0; n < 200; n++) {
            PUT(&text, "x");
        }
    }
    put_text(&text, "a");
    put_tensor(&text, "FloatStorage", "0", 7, 1, 1, &size, &stride, 1);
    put_text(&text, "b");
    put_tensor(&text, "FloatStorage", "1", 5, 0, 1, &size, &stride, 1);
    PUT(&text, "u.");
    pickle = take(&text);
    file = make_legacy(&pickle, storages, 2, 4);
    free(pickle.data);
    free(storages[0].data);
    free(storages[1].data);
    return file;
}

static void test_stream(void **state)
{
    static const size_t paddings[] = {0, 60000, 66000, 300000, 1000000};

    (void)state;
    for (size_t i = 0; i < sizeof paddings / sizeof paddings[0]; i++) {
        blob file = make_stream(paddings[i]);
        float values[3];
        lora__container *c;

        assert_int_equal(open_blob(&c, context, &file, "f", NULL), LORA_OK);
        assert_string_equal(c->format, "torch legacy");
        assert_int_equal(c->entry_count, 2);
        assert_int_equal(
            lora__container_read(c, 0, 0, values, sizeof values, NULL),
            LORA_OK);
        assert_true(values[0] == 1 && values[1] == 3 && values[2] == 5);
        assert_int_equal(
            lora__container_read(c, 1, 0, values, sizeof values, NULL),
            LORA_OK);
        assert_true(values[0] == 0 && values[1] == 2 && values[2] == 4);
        lora__container_release(c);
        free(file.data);
    }
}

/* Change the first place of some bytes in a stream. */
static void stream_refused(const char *from,
                           const char *to,
                           size_t count,
                           lora_status status,
                           const char *message)
{
    blob file = make_stream(0);
    size_t at = 0;

    while (memcmp(file.data + at, from, count) != 0) {
        at++;
        assert_true(at + count <= file.bytes);
    }
    memcpy(file.data + at, to, count);
    check_refused(&file, status, message);
}

static void test_refused_streams(void **state)
{
    blob file = make_stream(0);
    blob longer = {malloc(file.bytes + 1), file.bytes + 1};
    lora_limits limits = {.struct_size = sizeof limits, .header_bytes = 200};
    lora__container *c;
    heap h;
    lora_context *small = make_context(&h, &limits);

    (void)state;
    assert_non_null(longer.data);
    memcpy(longer.data, file.data, file.bytes);
    longer.data[file.bytes] = 0;
    check_refused(&longer, LORA_ERROR_FORMAT, "1 bytes after");
    assert_int_equal(open_blob(&c, small, &file, "f", NULL), LORA_ERROR_LIMIT);
    end_context(&h, small);
    free(file.data);
#define STREAM(from, to, status, message)                                      \
    stream_refused(from, to, sizeof(from) - 1, LORA_ERROR_##status, message)
    STREAM("\x50\x19.", "\x50\x19N", FORMAT, "magic number");
    STREAM("M\xE9\3.", "M\xE9\4.", FORMAT, "unknown old form");
    STREAM("\x88u.", "\x89u.", FORMAT, "big-endian");
    STREAM("\x88u.", "Nu}.", FORMAT, "one value");
    STREAM("X\1\0\0\0"
           "1e",
           "X\1\0\0\0"
           "0e",
           FORMAT, "twice");
    STREAM("X\1\0\0\0"
           "1e",
           "X\1\0\0\0"
           "2e",
           FORMAT, "refers");
    STREAM("X\1\0\0\0"
           "1e",
           "C\4\0\0\0"
           "1e",
           FORMAT, "refers");
    STREAM("e.\7\0", "e.\6\0", FORMAT, "as many elements");
    STREAM("e.\7\0\0\0\0\0\0\0", "e.\7\0\0\0\0\0\0\x80", FORMAT, "elements");
#undef STREAM
}

/* The sixth member of an id makes a storage a part of another. */
static void test_parts(void **state)
{
    static const struct {
        const char *part;
        lora_status status;
    } cases[] = {
        {"(X\1\0\0\0vK\2K\3t", LORA_OK},
        {"(X\1\0\0\0vK\2K\2t", LORA_ERROR_FORMAT}, /* too small */
        {"(X\1\0\0\0vK\5K\3t", LORA_ERROR_FORMAT}, /* outside */
        {"(X\1\0\0\0vNK\3t", LORA_ERROR_FORMAT},
        {"K\1", LORA_ERROR_FORMAT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* Lengths have NULs in them, so the literal is put in two pieces. */
        static const char head[] = "\x80\2]ctorch._utils\n_rebuild_tensor\n(("
                                   "U\7storagectorch\nFloatStorage\n"
                                   "U\1"
                                   "0U\3cpuK\7";
        bytes text = {NULL, 0, 0};
        blob storage = counting(7);
        blob pickle, file;
        lora__container *c;
        float values[3];

        PUT(&text, head);
        if (cases[i].part[0] == '(') {
            PUT(&text, "(U\1v");
            put(&text, cases[i].part + 7, strlen(cases[i].part + 7));
        } else {
            put(&text, cases[i].part, strlen(cases[i].part));
        }
        PUT(&text, "tQK\0K\3\x85K\1\x85tRa.");
        pickle = take(&text);
        file = make_legacy(&pickle, &storage, 1, 4);
        assert_int_equal(open_blob(&c, context, &file, "f", NULL),
                         cases[i].status);
        if (cases[i].status == LORA_OK) {
            assert_int_equal(
                lora__container_read(c, 0, 0, values, sizeof values, NULL),
                LORA_OK);
            assert_true(values[0] == 2 && values[1] == 3 && values[2] == 4);
            lora__container_release(c);
        }
        free(pickle.data);
        free(storage.data);
        free(file.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_wrappers),
        cmocka_unit_test(test_refused_tensors),
        cmocka_unit_test(test_refused_trees),
        cmocka_unit_test(test_two_storages),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_checked_late),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_refused_streams),
        cmocka_unit_test(test_parts),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
