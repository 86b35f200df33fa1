/* Looking inside an adapter: facts, modules, tensors, metadata. */
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

static void test_info(void **state)
{
    lora_adapter_info info = {.struct_size = sizeof info};
    lora_adapter *from_file;
    lora_adapter *result;
    lora_error error;

    (void)state;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_get_info(&info, adapter, &error));
    assert_string_equal(info.path, "");
    assert_string_equal(info.container, "safetensors");
    assert_string_equal(info.family, "sd15");
    assert_true(info.confidence > 0.9 && info.confidence <= 1.0);
    assert_int_equal(info.bytes, sample.bytes);
    assert_int_equal(info.parameters, 4 + 6 + 8 + 12 + 8 + 54 + 15 + 50);
    assert_int_equal(info.tensor_count, 13);
    assert_int_equal(info.module_count, 4);
    assert_int_equal(info.unknown_count, 0);
    assert_int_equal(info.problem_count, 0);

    folder_put("a.safetensors", sample.file, sample.bytes);
    assert_int_equal(lora_adapter_open(&from_file, context,
                                       in_folder("a.safetensors"), NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_get_info(&info, from_file, NULL), LORA_OK);
    assert_string_equal(info.path, in_folder("a.safetensors"));
    assert_int_equal(lora_adapter_convert(&result, from_file, NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_get_info(&info, result, NULL), LORA_OK);
    assert_string_equal(info.path, "");
    assert_string_equal(info.container, "memory");
    assert_int_equal(info.bytes, 0);
    lora_adapter_destroy(result);
    lora_adapter_destroy(from_file);

    CHECK_ARGUMENT(lora_adapter_get_info(NULL, adapter, &error));
    CHECK_ARGUMENT(lora_adapter_get_info(&info, NULL, &error));
}

static void check_module(const char *name,
                         const char *target,
                         const char *kind,
                         int64_t rank,
                         double alpha,
                         const char *shape,
                         int32_t tucker)
{
    lora_module_info info = {.struct_size = sizeof info};
    char text[80] = "";
    lora_error error;

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_get_module(&info, adapter, module_at(adapter, name),
                                  &error));
    for (int32_t i = 0; i < info.ndim; i++) {
        size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, i == 0 ? "%d" : " %d",
                 (int)info.shape[i]);
    }
    assert_string_equal(info.name, name);
    assert_string_equal(info.target, target);
    assert_string_equal(info.kind, kind);
    assert_string_equal(info.dialect, "kohya");
    assert_int_equal(info.rank, rank);
    assert_int_equal(info.has_alpha, 1);
    assert_true(info.alpha == alpha);
    assert_true(info.scale == alpha / (double)rank);
    assert_string_equal(text, shape);
    assert_int_equal(info.dtype, LORA_DTYPE_F32);
    assert_int_equal(info.dora, 0);
    assert_int_equal(info.tucker, tucker);
    assert_int_equal(info.changes, LORA_PART_WEIGHT);
    assert_int_equal(info.status, LORA_OK);
    assert_int_equal(info.reserved1, 0);
    assert_int_equal(module_at(adapter, target), module_at(adapter, name));
}

static void test_modules(void **state)
{
    lora_module_info info = {.struct_size = sizeof info};
    lora_error error;
    size_t index = 77;

    (void)state;
    assert_int_equal(lora_adapter_module_count(NULL), 0);
    assert_int_equal(lora_adapter_module_count(adapter), 4);
    assert_int_equal(module_at(adapter, SAMPLE_TE), 0);
    assert_int_equal(module_at(adapter, SAMPLE_CORE), 3);
    check_module(SAMPLE_TE, "text_encoder.text_model.encoder.layers.0.mlp.fc1",
                 "lora", 2, 4.0, "4 3", 0);
    check_module(SAMPLE_Q, SAMPLE_Q_TARGET, "lora", 2, 1.0, "4 6", 0);
    check_module(SAMPLE_CONV, "unet.down_blocks.0.resnets.0.conv1", "locon", 3,
                 3.0, "5 2 3 3", 0);
    check_module(SAMPLE_CORE, "unet.down_blocks.0.resnets.0.conv2", "locon", 2,
                 2.0, "4 3 3 3", 1);

    CHECK_ARGUMENT(lora_adapter_get_module(NULL, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_module(&info, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_module(&info, adapter, 4, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_module(&info, adapter, SIZE_MAX, &error));
    CHECK_ARGUMENT(lora_adapter_find_module(NULL, adapter, "x", &error));
    CHECK_ARGUMENT(lora_adapter_find_module(&index, NULL, "x", &error));
    CHECK_ARGUMENT(lora_adapter_find_module(&index, adapter, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, SAMPLE_Q "_",
          lora_adapter_find_module(&index, adapter, SAMPLE_Q "_", &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          lora_adapter_find_module(&index, adapter, "", &error));
    assert_int_equal(index, 77);
}

static void test_tensor_info(void **state)
{
    lora_tensor_info info = {.struct_size = sizeof info};
    uint64_t offset = 8 + sample.header_bytes;
    lora_error error;

    (void)state;
    assert_int_equal(lora_adapter_tensor_count(NULL), 0);
    for (size_t i = 0; i < lora_adapter_tensor_count(adapter); i++) {
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_get_tensor_info(&info, adapter, i, &error));
        assert_int_equal(info.offset, offset); /* in file order, no holes */
        assert_int_equal(info.dtype, LORA_DTYPE_F32);
        offset += info.bytes;
    }
    assert_int_equal(offset, sample.bytes);
    assert_int_equal(lora_adapter_get_tensor_info(
                         &info, adapter,
                         tensor_at(adapter, SAMPLE_CORE ".lora_mid.weight"),
                         NULL),
                     LORA_OK);
    assert_string_equal(info.role, "mid");
    assert_int_equal(info.module_index, 3);
    assert_int_equal(info.ndim, 4);
    assert_int_equal(info.shape[2], 3);
    assert_int_equal(info.bytes, 36 * 4);

    CHECK_ARGUMENT(lora_adapter_get_tensor_info(NULL, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_tensor_info(&info, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_tensor_info(&info, adapter, 13, &error));
}

/* Arrays of structs that are shorter and longer than ours. */
static void test_tensor_infos(void **state)
{
    const size_t sizes[] = {offsetof(lora_tensor_info, bytes),
                            sizeof(lora_tensor_info),
                            sizeof(lora_tensor_info) + 16};
    unsigned char out[14 * (sizeof(lora_tensor_info) + 16)];
    lora_tensor_info info;
    lora_error error;

    (void)state;
    for (size_t s = 0; s < COUNT(sizes); s++) {
        uint64_t before = 0;
        memset(out, 0xEE, sizeof out);
        memcpy(out, &sizes[s], sizeof(size_t));
        CHECK(
            LORA_OK, LORA_NO_OFFSET, "",
            lora_adapter_get_tensor_infos((void *)out, adapter, 0, 13, &error));
        for (size_t i = 0; i < 13; i++) {
            const unsigned char *at = out + i * sizes[s];
            memset(&info, 0, sizeof info);
            memcpy(&info, at, s == 0 ? sizes[0] : sizeof info);
            assert_int_equal(info.struct_size, sizes[s]);
            assert_int_equal(tensor_at(adapter, info.name), i);
            assert_true(info.offset > before);
            assert_true(s != 2 || (at[sizes[1]] == 0 && at[sizes[2] - 1] == 0));
            before = info.offset;
        }
        assert_int_equal(out[13 * sizes[s]], 0xEE);
    }

    memset(&info, 0xEE, sizeof info);
    info.struct_size = sizeof info;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_get_tensor_infos(&info, adapter, 12, 1, &error));
    assert_int_equal(info.offset + info.bytes, sample.bytes);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_get_tensor_infos(NULL, adapter, 13, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_tensor_infos(NULL, adapter, 0, 1, &error));
    CHECK_ARGUMENT(lora_adapter_get_tensor_infos(&info, NULL, 0, 1, &error));
    info.name = "kept";
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_tensor_infos(&info, adapter, 12, 2, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_tensor_infos(&info, adapter, 1, SIZE_MAX, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_tensor_infos(&info, adapter, 14, 0, &error));
    info.struct_size = 0;
    CHECK_ARGUMENT(lora_adapter_get_tensor_infos(&info, adapter, 0, 1, &error));
    assert_string_equal(info.name, "kept");
}

static void test_several_modules(void **state)
{
    static const char *const names[] = {SAMPLE_TE, SAMPLE_Q, SAMPLE_CONV,
                                        SAMPLE_CORE};
    lora_module_info out[4];
    lora_error error;

    (void)state;
    memset(out, 0xEE, sizeof out);
    out->struct_size = sizeof *out;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_get_modules(out, adapter, 0, 4, &error));
    for (size_t i = 0; i < 4; i++) {
        size_t at = module_at(adapter, names[i]);
        assert_string_equal(out[at].name, names[i]);
        assert_int_equal(out[at].rank, i == 2 ? 3 : 2);
        assert_int_equal(out[at].struct_size, sizeof *out);
    }
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_modules(out, adapter, 1, 4, &error));
    CHECK_ARGUMENT(lora_adapter_get_modules(NULL, adapter, 0, 4, &error));
    CHECK_ARGUMENT(lora_adapter_get_modules(out, NULL, 0, 4, &error));
}

/* Tensors of no module: one without a meaning, and one of each type. */
static void test_unknown_tensors(void **state)
{
    lora_adapter_info info = {.struct_size = sizeof info};
    lora_tensor_info tensor = {.struct_size = sizeof tensor};
    unsigned char data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned char read[8];
    lora_adapter *other;
    image im;

    (void)state;
    image_begin(&im, NULL);
    for (lora_dtype d = LORA_DTYPE_BOOL; d <= LORA_DTYPE_U64; d++) {
        char name[32];
        /* Four elements of F6 and two of F4 fill whole bytes. */
        const char *shape = lora_dtype_bits(d) < 8 ? "4" : "1";
        size_t bytes =
            lora_dtype_bits(d) * (lora_dtype_bits(d) < 8 ? 4 : 1) / 8;
        snprintf(name, sizeof name, "x%02d", (int)d);
        image_raw(&im, name, lora_dtype_name(d), shape, data, bytes);
    }
    image_end(&im);
    other = open_image(context, &im);
    assert_int_equal(lora_adapter_get_info(&info, other, NULL), LORA_OK);
    assert_int_equal(info.unknown_count, LORA_DTYPE_U64);
    assert_int_equal(info.parameters, 0);
    assert_int_equal(info.problem_count, 1);
    for (size_t i = 0; i < LORA_DTYPE_U64; i++) {
        assert_int_equal(lora_adapter_get_tensor_info(&tensor, other, i, NULL),
                         LORA_OK);
        assert_int_equal(tensor.dtype, i + 1);
        assert_string_equal(tensor.role, "unknown");
        assert_int_equal(tensor.module_index, UINT64_MAX);
        assert_int_equal(lora_adapter_read_tensor(read, (size_t)tensor.bytes,
                                                  other, i, LORA_DTYPE_NONE,
                                                  NULL),
                         LORA_OK);
        assert_memory_equal(read, data, (size_t)tensor.bytes);
    }
    lora_adapter_destroy(other);
    image_free(&im);
}

static void test_read_tensor(void **state)
{
    size_t up = tensor_at(adapter, SAMPLE_Q ".lora_up.weight");
    float expected[8];
    float got[8];
    double wide[8];
    uint16_t half[8];
    lora_error error;

    (void)state;
    some_numbers(expected, 8, 4);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensor(got, sizeof got, adapter, up,
                                   LORA_DTYPE_NONE, &error));
    assert_memory_equal(got, expected, sizeof got);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensor(wide, sizeof wide, adapter, up,
                                   LORA_DTYPE_F64, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensor(half, sizeof half, adapter, up,
                                   LORA_DTYPE_F16, &error));
    assert_int_equal(
        lora_tensor_convert(got, LORA_DTYPE_F32, half, LORA_DTYPE_F16, 8, NULL),
        LORA_OK);
    for (size_t i = 0; i < 8; i++) {
        assert_true(wide[i] == (double)expected[i]);
        assert_true(got[i] == expected[i]); /* seven bits fit in F16 */
    }
}

static void test_read_tensor_refused(void **state)
{
    static const lora_dtype bad[] = {LORA_DTYPE_F4,
                                     LORA_DTYPE_C64,
                                     LORA_DTYPE_F6_E2M3,
                                     LORA_DTYPE_F8_E8M0,
                                     LORA_DTYPE_BOOL,
                                     99,
                                     -1};
    const char *name = SAMPLE_Q ".lora_up.weight";
    size_t up = tensor_at(adapter, name);
    lora_adapter *other;
    unsigned char read[64] = {0};
    lora_error error;
    image im;

    (void)state;
    CHECK_ARGUMENT(lora_adapter_read_tensor(NULL, 32, adapter, up, 0, &error));
    CHECK_ARGUMENT(lora_adapter_read_tensor(read, 32, NULL, up, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_read_tensor(read, 32, adapter, 13, 0, &error));
    for (size_t bytes = 31; bytes < 34; bytes += 2) {
        CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, name,
              lora_adapter_read_tensor(read, bytes, adapter, up, 0, &error));
    }
    CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, name,
          lora_adapter_read_tensor(read, 32, adapter, up, LORA_DTYPE_F64,
                                   &error));
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
              lora_adapter_read_tensor(read, 8 * lora_dtype_bits(bad[i]) / 8,
                                       adapter, up, bad[i], &error));
        CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
              lora_adapter_read_tensor(read, 64, adapter, up, bad[i], &error));
    }

    /* From a type that is only passed through. */
    image_begin(&im, NULL);
    image_raw(&im, "c", "C64", "1", read, 8);
    image_raw(&im, "e", "C64", "0", read, 0);
    image_raw(&im, "f", "F4", "4", read, 2);
    image_end(&im);
    other = open_image(context, &im);
    for (size_t i = 0; i < 3; i++) {
        size_t count = i == 0 ? 1 : i == 1 ? 0 : 4;
        CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
              lora_adapter_read_tensor(read, count * 4, other, i,
                                       LORA_DTYPE_F32, &error));
    }
    assert_int_equal(
        lora_adapter_read_tensor(NULL, 0, other, 1, LORA_DTYPE_NONE, NULL),
        LORA_OK);
    lora_adapter_destroy(other);
    image_free(&im);
}

#define MANY 40

/* Tensor i has i + 1 numbers: i, i + 1, ... */
static void many_tensors(image *im)
{
    image_begin(im, NULL);
    for (int i = 0; i < MANY; i++) {
        char name[16];
        char shape[16];
        float data[MANY];

        for (int k = 0; k <= i; k++) {
            data[k] = (float)(i + k);
        }
        snprintf(name, sizeof name, "x%02d", i);
        snprintf(shape, sizeof shape, "%d", i + 1);
        image_raw(im, name, "F32", shape, data, (size_t)(i + 1) * 4);
    }
    image_end(im);
}

/* All of them so often that threads share the work. */
#define WISHES (1000 * MANY)

static double many_rows[WISHES][MANY];
static lora_tensor_read many_reads[WISHES];

/* Each into a row, the last first, each second tensor in F64. */
static void wish_for_many(void)
{
    memset(many_reads, 0, sizeof many_reads);
    memset(many_rows, 0xEE, sizeof many_rows);
    for (size_t n = 0; n < WISHES; n++) {
        lora_tensor_read *read = &many_reads[WISHES - 1 - n];
        size_t i = n % MANY;
        read->buffer = many_rows[n];
        read->index = i;
        read->dtype = i % 2 ? LORA_DTYPE_F64 : LORA_DTYPE_NONE;
        read->bytes = (i + 1) * (i % 2 ? 8 : 4);
    }
}

static void check_row(const double row[MANY], int i)
{
    for (int k = 0; k <= i; k++) {
        float narrow;
        memcpy(&narrow, (const char *)row + 4 * k, 4);
        assert_true((i % 2 ? row[k] : (double)narrow) == i + k);
    }
}

static void test_read_tensors(void **state)
{
    lora_context_options options;
    image im;

    (void)state;
    many_tensors(&im);
    lora_context_options_init(&options, sizeof options);
    for (uint32_t threads = 0; threads < 4; threads++) {
        lora_context *threaded;
        lora_adapter *many;
        lora_error error;
        options.max_threads = threads;
        assert_int_equal(lora_context_create(&threaded, &options, NULL),
                         LORA_OK);
        many = open_image(threaded, &im);
        wish_for_many();
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_read_tensors(many_reads, WISHES, many, &error));
        for (int n = 0; n < WISHES; n++) {
            check_row(many_rows[n], n % MANY);
        }
        wish_for_many(); /* a few, by one thread */
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_read_tensors(many_reads, MANY, many, &error));
        for (int i = 0; i < MANY; i++) {
            check_row(many_rows[WISHES - MANY + i], i);
        }
        lora_adapter_destroy(many);
        lora_context_destroy(threaded);
    }
    image_free(&im);
}

/* One bad wish, and nothing is read. */
static void test_read_tensors_refused(void **state)
{
    const unsigned char untouched[8] = {0xEE, 0xEE, 0xEE, 0xEE,
                                        0xEE, 0xEE, 0xEE, 0xEE};
    lora_tensor_read *last = &many_reads[WISHES - 1];
    lora_adapter *many;
    lora_error error;
    source s;
    image im;

    (void)state;
    many_tensors(&im);
    s = source_of(&im);
    many = open_source(context, &s);
    wish_for_many();
    last->index = MANY;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    last->index = 0;
    last->bytes = 5;
    CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, "x00",
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    last->bytes = 4;
    last->dtype = LORA_DTYPE_BOOL;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "x00",
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    last->dtype = LORA_DTYPE_NONE;
    last->buffer = NULL;
    CHECK_ARGUMENT(lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    last->buffer = many_rows[0];
    last->reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    last->reserved1 = 0;
    CHECK_ARGUMENT(lora_adapter_read_tensors(many_reads, WISHES, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_read_tensors(NULL, 1, many, &error));
    for (size_t n = 0; n < WISHES; n++) {
        assert_memory_equal(many_rows[n], untouched, 8);
    }
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensors(NULL, 0, many, &error));

    s.fail_at = s.reads + 20;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensors(many_reads, WISHES, many, &error));
    lora_adapter_destroy(many);
    image_free(&im);
}

static void test_read_tensor_fails(void **state)
{
    source s = source_of(&sample);
    lora_adapter *other = open_source(context, &s);
    size_t last = lora_adapter_tensor_count(other) - 1;
    unsigned char read[32];
    lora_tensor_info info = {.struct_size = sizeof info};
    lora_error error;

    (void)state;
    assert_int_equal(lora_adapter_get_tensor_info(&info, other, last, NULL),
                     LORA_OK);
    s.fail_at = s.reads;
    CHECK(LORA_ERROR_IO, info.offset, NULL,
          lora_adapter_read_tensor(read, 32, other, last, 0, &error));
    s.bytes -= 5; /* the input has shrunk */
    CHECK(LORA_ERROR_TRUNCATED, sample.bytes - 5, NULL,
          lora_adapter_read_tensor(read, 32, other, last, 0, &error));
    CHECK(LORA_ERROR_TRUNCATED, sample.bytes - 5, NULL,
          lora_adapter_read_tensor(read, 16, other, last, LORA_DTYPE_F16,
                                   &error));
    s.bytes = sample.bytes;
    s.most = 3; /* in many small steps */
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensor(read, 32, other, last, 0, &error));
    assert_memory_equal(read, sample.file + info.offset, 32);
    lora_adapter_destroy(other);
}

/* Views are there from memory, maps and lending readers, and nowhere else. */
static void test_views(void **state)
{
    size_t down = tensor_at(adapter, SAMPLE_CONV ".lora_down.weight");
    lora_tensor_info info = {.struct_size = sizeof info};
    lora_adapter_open_options options;
    lora_adapter *from[4];
    source s = source_of(&sample);
    source lending = source_of(&sample);
    lora_tensor view;
    lora_error error;

    (void)state;
    folder_put("v.safetensors", sample.file, sample.bytes);
    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = LORA_OPEN_MAP;
    from[0] = lora_adapter_retain(adapter);
    assert_int_equal(lora_adapter_open(&from[1], context,
                                       in_folder("v.safetensors"), &options,
                                       NULL),
                     LORA_OK);
    lending.maps = 1;
    from[2] = open_source(context, &lending);
    /* A result lends what its source does. */
    assert_int_equal(lora_adapter_convert(&from[3], from[1], NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_get_tensor_info(&info, adapter, down, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(from); i++) {
        memset(&view, 0xEE, sizeof view);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_get_tensor(
                  &view, from[i],
                  tensor_at(from[i], SAMPLE_CONV ".lora_down.weight"), &error));
        assert_int_equal(view.bytes, 54 * 4);
        assert_int_equal(view.ndim, 4);
        assert_int_equal(view.shape[0], 3);
        assert_int_equal(view.shape[4], 0);
        assert_int_equal(view.dtype, LORA_DTYPE_F32);
        assert_memory_equal(view.data, sample.file + info.offset, 54 * 4);
    }
    assert_int_equal(lora_adapter_get_tensor(&view, adapter, down, NULL),
                     LORA_OK);
    assert_ptr_equal(view.data, sample.file + info.offset);
    for (size_t i = 0; i < COUNT(from); i++) {
        lora_adapter_destroy(from[i]);
    }

    assert_int_equal(lora_adapter_open(&from[0], context,
                                       in_folder("v.safetensors"), NULL, NULL),
                     LORA_OK);
    from[1] = open_source(context, &s);
    for (size_t i = 0; i < 2; i++) {
        CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, info.name,
              lora_adapter_get_tensor(&view, from[i], down, &error));
        lora_adapter_destroy(from[i]);
    }
    CHECK_ARGUMENT(lora_adapter_get_tensor(NULL, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_tensor(&view, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_tensor(&view, adapter, 13, &error));
}

static void test_metadata(void **state)
{
    static const char *const pairs[][2] = {
        {"modelspec.architecture", "stable-diffusion-v1/lora"},
        {"note", "a b"},
        {"ss_base_model_version", "sd_v1"},
        {"ss_network_dim", "7"},
        {"sshs_model_hash", "00"}};
    const char *key = "k";
    const char *value = "v";
    lora_error error;

    (void)state;
    assert_int_equal(lora_adapter_metadata_count(NULL), 0);
    assert_int_equal(lora_adapter_metadata_count(adapter), COUNT(pairs));
    for (size_t i = 0; i < COUNT(pairs); i++) {
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_get_metadata(&key, &value, adapter, i, &error));
        assert_string_equal(key, pairs[i][0]);
        assert_string_equal(value, pairs[i][1]);
        assert_string_equal(lora_adapter_find_metadata(adapter, key), value);
    }
    assert_null(lora_adapter_find_metadata(adapter, "not"));
    assert_null(lora_adapter_find_metadata(adapter, ""));
    assert_null(lora_adapter_find_metadata(adapter, NULL));
    assert_null(lora_adapter_find_metadata(NULL, "note"));
    CHECK_ARGUMENT(lora_adapter_get_metadata(NULL, &value, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_metadata(&key, NULL, adapter, 0, &error));
    CHECK_ARGUMENT(lora_adapter_get_metadata(&key, &value, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_get_metadata(&key, &value, adapter, 5, &error));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_modules),
        cmocka_unit_test(test_several_modules),
        cmocka_unit_test(test_tensor_info),
        cmocka_unit_test(test_tensor_infos),
        cmocka_unit_test(test_unknown_tensors),
        cmocka_unit_test(test_read_tensor),
        cmocka_unit_test(test_read_tensor_refused),
        cmocka_unit_test(test_read_tensors),
        cmocka_unit_test(test_read_tensors_refused),
        cmocka_unit_test(test_read_tensor_fails),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_metadata),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
