/* The safetensors writer against bytes that the reference package
 * (safetensors 0.8.0) wrote, and when something fails on the way.
 */
#include "containers.h"
#include "format/sort.h"

typedef struct output {
    unsigned char data[4096];
    size_t bytes;
    size_t countdown; /* writes until one fails; SIZE_MAX: never */
    int fail_finish;
    int finished, aborted;
} output;

static lora_status output_write(void *user, const void *data, size_t bytes)
{
    output *o = user;

    assert_int_equal(o->finished + o->aborted, 0);
    if (o->countdown-- == 0) {
        return LORA_ERROR_IO;
    }
    assert_true(bytes <= sizeof o->data - o->bytes);
    memcpy(o->data + o->bytes, data, bytes);
    o->bytes += bytes;
    return LORA_OK;
}

static lora_status output_finish(void *user)
{
    output *o = user;

    assert_int_equal(o->finished + o->aborted, 0);
    o->finished = 1;
    return o->fail_finish ? LORA_ERROR_IO : LORA_OK;
}

static void output_abort(void *user)
{
    output *o = user;

    assert_int_equal(o->aborted, 0);
    o->aborted = 1;
}

static lora_writer output_writer(output *o)
{
    lora_writer writer = {sizeof writer, o, output_write, output_finish,
                          output_abort};

    memset(o, 0, sizeof *o);
    o->countdown = SIZE_MAX;
    return writer;
}

typedef struct source {
    const unsigned char *data[8]; /* by id */
    size_t bytes[8];
    size_t chunk;
} source;

static lora_status produce(void *user,
                           size_t id,
                           lora__sink_fn sink,
                           void *sink_user,
                           lora_error *error)
{
    const source *s = user;

    for (size_t at = 0; at < s->bytes[id]; at += s->chunk) {
        size_t left = s->bytes[id] - at;
        lora_status status = sink(sink_user, s->data[id] + at,
                                  left < s->chunk ? left : s->chunk, error);
        if (status != LORA_OK) {
            return status;
        }
    }
    return LORA_OK;
}

/* What safetensors 0.8.0 wrote for these tensors and this metadata. */
static const char expected_header[] =
    "{\"__metadata__\":{\"k\\\"\\t\xc3\xa9\":\"v\\\\\\n\x7f/\\u001f\"},"
    "\"i\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[8,24]},"
    "\"\xc3\xa9\\\"\\\\\\n\\u0001\":{\"dtype\":\"F32\",\"shape\":[2,0],"
    "\"data_offsets\":[24,24]},"
    "\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[24,30]},"
    "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[30,34]},"
    "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[34,37]},"
    "\"t\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[37,38]}}      ";
static const unsigned char expected_data[] = {
    7, 0,    0,    0,    0, 0,    0,    0,    0, 0,    0x80, 0x3F, 0,
    0, 0,    0x40, 0,    0, 0x40, 0x40, 0,    0, 0x80, 0x40, 0,    0,
    0, 0x3C, 0,    0x40, 0, 0,    0,    0x3C, 1, 2,    3,    1};

static const lora__metadata reference_metadata[] = {
    {"k\"\t\xc3\xa9", "v\\\n\x7f/\x1f"}};

#define REFERENCE_COUNT 7

static void reference_tensors(lora__out_tensor t[REFERENCE_COUNT], source *s)
{
    static const lora__out_tensor all[REFERENCE_COUNT] = {
        {"b", LORA_DTYPE_F16, 1, {2}, 4, 0},
        {"t", LORA_DTYPE_BOOL, 1, {1}, 1, 1},
        {"a", LORA_DTYPE_F16, 1, {3}, 6, 2},
        {"\xc3\xa9\"\\\n\x01", LORA_DTYPE_F32, 2, {2, 0}, 0, 3},
        {"w", LORA_DTYPE_F32, 2, {2, 2}, 16, 4},
        {"i", LORA_DTYPE_I64, 0, {0}, 8, 5},
        {"u", LORA_DTYPE_U8, 1, {3}, 3, 6},
    };
    static const size_t begins[REFERENCE_COUNT] = {30, 37, 24, 24, 8, 0, 34};

    memcpy(t, all, sizeof all);
    memset(s, 0, sizeof *s);
    s->chunk = 5;
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        s->data[i] = expected_data + begins[i];
        s->bytes[i] = (size_t)all[i].bytes;
    }
}

static void test_write(void **state)
{
    lora__out_tensor t[REFERENCE_COUNT];
    source s;
    output o;
    lora_writer writer = output_writer(&o);
    heap h;
    lora_context *context = make_context(&h, NULL);
    uint64_t measured = 0;
    unsigned char length[8];
    lora__container *c;
    blob b;

    (void)state;
    reference_tensors(t, &s);
    assert_int_equal(lora__safetensors_measure(&measured, context, t,
                                               REFERENCE_COUNT,
                                               reference_metadata, 1, NULL),
                     LORA_OK);
    reference_tensors(t, &s);
    assert_int_equal(
        lora__safetensors_write(context, &writer, t, REFERENCE_COUNT,
                                reference_metadata, 1, produce, &s, NULL),
        LORA_OK);
    assert_int_equal(o.finished, 1);
    assert_int_equal(o.aborted, 0);
    assert_int_equal(o.bytes, 494);
    assert_int_equal(measured, 494);
    put_length(length, 448);
    assert_memory_equal(o.data, length, 8);
    assert_memory_equal(o.data + 8, expected_header, 448);
    assert_memory_equal(o.data + 456, expected_data, 38);

    b = blob_of(o.data, o.bytes);
    assert_int_equal(open_blob(&c, context, &b, "", NULL), LORA_OK);
    assert_int_equal(c->entry_count, REFERENCE_COUNT);
    for (size_t i = 0; i < REFERENCE_COUNT; i++) {
        assert_string_equal(c->entries[i].name, t[i].name);
    }
    assert_string_equal(lora__container_metadata(c, "k\"\t\xc3\xa9"),
                        "v\\\n\x7f/\x1f");
    lora__container_release(c);
    free(b.data);

    /* Nothing at all. */
    writer = output_writer(&o);
    assert_int_equal(lora__safetensors_write(context, &writer, NULL, 0, NULL, 0,
                                             produce, &s, NULL),
                     LORA_OK);
    assert_int_equal(o.bytes, 16);
    assert_memory_equal(o.data, "\x08\0\0\0\0\0\0\0{}      ", 16);
    end_context(&h, context);
}

/* Metadata in any order gives the same file, and the array stays as it is. */
static void test_write_metadata(void **state)
{
    static const lora__metadata mixed[] = {
        {"b", "2"}, {"\xc3\xa9", "4"}, {"", "0"}, {"a", "1"}, {"c", "3"}};
    static const char expected[] =
        "{\"__metadata__\":{\"\":\"0\",\"a\":\"1\",\"b\":\"2\",\"c\":\"3\","
        "\"\xc3\xa9\":\"4\"}}";
    output o;
    lora_writer writer = output_writer(&o);
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    assert_int_equal(lora__safetensors_write(context, &writer, NULL, 0, mixed,
                                             5, produce, NULL, NULL),
                     LORA_OK);
    assert_memory_equal(o.data + 8, expected, strlen(expected));
    end_context(&h, context);
}

static void test_write_refused(void **state)
{
    static const lora__metadata twice[] = {{"k", "1"}, {"j", "2"}, {"k", "3"}};
    static const lora__metadata bad_text[] = {{"k", "\xff"}};
    static const struct {
        lora__out_tensor a, b;
        const lora__metadata *metadata;
        size_t metadata_count;
        lora_status status;
    } cases[] = {
#define T_(name, dtype, n, bytes) {name, dtype, 1, {n}, bytes, 0}
#define F32_ LORA_DTYPE_F32
#define F16_ LORA_DTYPE_F16
        {T_("a", F32_, 1, 4), T_("a", F32_, 1, 4), NULL, 0,
         LORA_ERROR_DUPLICATE},
        {T_("a", F32_, 1, 4), T_("a", F16_, 1, 2), NULL, 0,
         LORA_ERROR_DUPLICATE},
        {T_("a", F32_, 1, 4), T_("__metadata__", F32_, 1, 4), NULL, 0,
         LORA_ERROR_KEY},
        {T_("a", F32_, 1, 4), T_("\xff", F32_, 1, 4), NULL, 0, LORA_ERROR_KEY},
        {T_("a", F32_, 1, 4), T_("b", F32_, 1, 5), NULL, 0, LORA_ERROR_SHAPE},
        {T_("a", F32_, 1, 4), T_("b", F32_, -1, 4), NULL, 0, LORA_ERROR_SHAPE},
        {T_("a", F32_, 1, 4), T_("b", LORA_DTYPE_F4, 3, 2), NULL, 0,
         LORA_ERROR_SHAPE},
        {T_("a", F32_, 1, 4), T_("b", LORA_DTYPE_NONE, 0, 0), NULL, 0,
         LORA_ERROR_SHAPE},
        {T_("a", F32_, 1, 4), T_("b", 99, 0, 0), NULL, 0, LORA_ERROR_SHAPE},
        {T_("a", F32_, 1, 4), T_("b", F32_, 1, 4), twice, 3,
         LORA_ERROR_DUPLICATE},
        {T_("a", F32_, 1, 4), T_("b", F32_, 1, 4), bad_text, 1, LORA_ERROR_KEY},
    };
    static const unsigned char zeros[8] = {0};
    source s = {{zeros}, {4}, 4};
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lora__out_tensor t[2];
        output o;
        lora_writer writer = output_writer(&o);
        lora_error error;
        uint64_t measured = 123;

        t[0] = cases[i].a;
        t[1] = cases[i].b;
        lora_error_init(&error, sizeof error);
        assert_int_equal(lora__safetensors_write(
                             context, &writer, t, 2, cases[i].metadata,
                             cases[i].metadata_count, produce, &s, &error),
                         cases[i].status);
        assert_int_equal(error.status, cases[i].status);
        assert_true(error.subject[0] != '\0');
        assert_int_equal(o.bytes, 0);
        assert_int_equal(o.finished, 0);
        assert_int_equal(o.aborted, 1);
        assert_int_equal(lora__safetensors_measure(
                             &measured, context, t, 2, cases[i].metadata,
                             cases[i].metadata_count, NULL),
                         cases[i].status);
        assert_int_equal(measured, 123);
    }
    end_context(&h, context);
}

/* Sizes at the edge of what the format can say. */
static void test_measure(void **state)
{
    const uint64_t half = (uint64_t)1 << 60; /* bytes, so 2^63 bits */
    lora__out_tensor t[16];
    char names[16][4];
    char *text = malloc(100000001);
    lora__metadata metadata = {"k", text};
    lora_context *context;
    uint64_t bytes = 0;

    (void)state;
    assert_non_null(text);
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
    memset(t, 0, sizeof t);
    for (size_t i = 0; i < 16; i++) {
        snprintf(names[i], sizeof names[i], "%d", (int)(unsigned char)i);
        t[i].name = names[i];
        t[i].dtype = LORA_DTYPE_U8;
        t[i].ndim = 1;
        t[i].shape[0] = (int64_t)half;
        t[i].bytes = half;
    }
    assert_int_equal(
        lora__safetensors_measure(&bytes, context, t, 15, NULL, 0, NULL),
        LORA_OK);
    assert_true(bytes > 15 * half && bytes < 15 * half + 2000);
    assert_int_equal(
        lora__safetensors_measure(&bytes, context, t, 16, NULL, 0, NULL),
        LORA_ERROR_SHAPE);
    /* The data fit, with the header they do not. */
    t[15].shape[0] = (int64_t)half - 100;
    t[15].bytes = half - 100;
    assert_int_equal(
        lora__safetensors_measure(&bytes, context, t, 16, NULL, 0, NULL),
        LORA_ERROR_SHAPE);

    /* {"__metadata__":{"k":"..."}} is 25 bytes more than the value. */
    memset(text, 'x', 100000001);
    text[100000000 - 25] = '\0';
    assert_int_equal(
        lora__safetensors_measure(&bytes, context, NULL, 0, &metadata, 1, NULL),
        LORA_OK);
    assert_int_equal(bytes, 100000008);
    text[100000000 - 25] = 'x';
    text[100000000 - 24] = '\0';
    assert_int_equal(
        lora__safetensors_measure(&bytes, context, NULL, 0, &metadata, 1, NULL),
        LORA_ERROR_LIMIT);
    lora_context_destroy(context);
    free(text);
}

/* Whatever goes wrong on the way, abort is called once and finish is not. */
static void test_write_failures(void **state)
{
    lora__out_tensor t[REFERENCE_COUNT];
    source s;
    output o;
    lora_writer writer;
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t resting = h.live;
    size_t n;
    lora_status status;

    (void)state;
    for (n = 0;; n++) { /* the disk is full at the nth write */
        reference_tensors(t, &s);
        writer = output_writer(&o);
        o.countdown = n;
        status =
            lora__safetensors_write(context, &writer, t, REFERENCE_COUNT,
                                    reference_metadata, 1, produce, &s, NULL);
        if (status == LORA_OK) {
            break;
        }
        assert_int_equal(status, LORA_ERROR_IO);
        assert_int_equal(o.finished, 0);
        assert_int_equal(o.aborted, 1);
    }
    assert_true(n > 7);

    for (n = 0;; n++) { /* the nth allocation fails */
        reference_tensors(t, &s);
        writer = output_writer(&o);
        h.countdown = n;
        status =
            lora__safetensors_write(context, &writer, t, REFERENCE_COUNT,
                                    reference_metadata, 1, produce, &s, NULL);
        h.countdown = SIZE_MAX;
        assert_int_equal(h.live, resting);
        if (status == LORA_OK) {
            break;
        }
        assert_int_equal(status, LORA_ERROR_MEMORY);
        assert_int_equal(o.aborted, 1);
    }
    assert_true(n > 2);

    writer = output_writer(&o);
    o.fail_finish = 1;
    reference_tensors(t, &s);
    assert_int_equal(lora__safetensors_write(context, &writer, t,
                                             REFERENCE_COUNT, NULL, 0, produce,
                                             &s, NULL),
                     LORA_ERROR_IO);
    assert_int_equal(o.finished, 1);
    assert_int_equal(o.aborted, 1);

    for (int more = 0; more < 2; more++) { /* a wrong number of bytes */
        lora_error error;

        lora_error_init(&error, sizeof error);
        reference_tensors(t, &s);
        s.bytes[4] = more ? 17 : 15;
        writer = output_writer(&o);
        assert_int_equal(lora__safetensors_write(context, &writer, t,
                                                 REFERENCE_COUNT, NULL, 0,
                                                 produce, &s, &error),
                         LORA_ERROR_INTERNAL);
        assert_non_null(strstr(error.message, more ? "more" : "fewer"));
        assert_string_equal(error.subject, "w");
        assert_int_equal(o.finished, 0);
        assert_int_equal(o.aborted, 1);
    }
    end_context(&h, context);
}

/* Sorting ---------------------------------------------------------------- */

static int compare_words(const void *a, const void *b)
{
    uint32_t x, y;

    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void test_sort(void **state)
{
    uint64_t seed = 42;
    uint32_t items[200];

    (void)state;
    lora__sort(NULL, 0, 4, compare_words);
    for (size_t n = 1; n <= 200; n++) {
        uint64_t sum = 0;

        for (size_t i = 0; i < n; i++) {
            items[i] = (uint32_t)(random_next(&seed) % (2 * n));
            sum += (uint64_t)items[i] * items[i];
        }
        lora__sort(items, n, sizeof items[0], compare_words);
        for (size_t i = 0; i < n; i++) {
            assert_true(i == 0 || items[i - 1] <= items[i]);
            sum -= (uint64_t)items[i] * items[i];
        }
        assert_true(sum == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_metadata),
        cmocka_unit_test(test_write_refused),
        cmocka_unit_test(test_measure),
        cmocka_unit_test(test_write_failures),
        cmocka_unit_test(test_sort),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
