/* Checkpoints of torch: tensors that are views of their storage, with strides,
 * offsets and shared bytes, against an element-by-element reading.
 */
#include "torch_files.h"

#include "format/torch.h"

static heap memory;
static lora_context *context;

enum { VIEW_COUNT = 6, VIEW_ELEMENTS = 5000 };

typedef struct view_case {
    int64_t shape[LORA_MAX_DIMS];
    int64_t strides[LORA_MAX_DIMS];
    int64_t first;
    int32_t ndim;
} view_case;

/* A view that fits, of any sort: transposed, with steps, of stride 0, empty,
 * without dimensions. */
static view_case random_view(uint64_t *seed)
{
    view_case v;
    int64_t last = 0;

    memset(&v, 0, sizeof v);
    v.ndim = (int32_t)(random_next(seed) % 5);
    for (int32_t i = 0; i < v.ndim; i++) {
        static const int64_t sizes[] = {1, 2, 3, 5, 7, 40, 0};
        static const int64_t strides[] = {0, 1, 2, 3, 7, 40, 700};
        uint64_t range = random_next(seed) % 8 == 0 ? 7 : 6;
        v.shape[i] = sizes[random_next(seed) % range];
        v.strides[i] = strides[random_next(seed) % 7];
    }
    if (v.ndim > 1 && random_next(seed) % 2 == 0) { /* in one piece */
        int64_t stride = 1;
        for (int32_t i = v.ndim; i-- > 0;) {
            v.strides[i] = stride;
            stride *= v.shape[i];
        }
    }
    for (int32_t i = 0; i < v.ndim; i++) {
        last += v.shape[i] == 0 ? 0 : (v.shape[i] - 1) * v.strides[i];
    }
    if (last >= VIEW_ELEMENTS) {
        memset(&v, 0, sizeof v);
        last = 0;
    }
    v.first = (int64_t)(random_next(seed) % (uint64_t)(VIEW_ELEMENTS - last));
    return v;
}

/* The elements, from the definition. Returns how many. */
static size_t
gather(unsigned char *out, const view_case *v, const blob *storage, size_t unit)
{
    int64_t index[LORA_MAX_DIMS] = {0};
    size_t count = 0;

    for (int32_t i = 0; i < v->ndim; i++) {
        if (v->shape[i] == 0) {
            return 0;
        }
    }
    for (;;) {
        int64_t at = v->first;
        int32_t d = v->ndim - 1;

        for (int32_t i = 0; i < v->ndim; i++) {
            at += index[i] * v->strides[i];
        }
        memcpy(out + count++ * unit, storage->data + (size_t)at * unit, unit);
        while (d >= 0 && ++index[d] == v->shape[d]) {
            index[d--] = 0;
        }
        if (d < 0) {
            return count;
        }
    }
}

/* Any range of the bytes, and the whole, where it is lent. */
static void check_view(const lora__container *c,
                       size_t index,
                       const unsigned char *expected,
                       size_t expected_bytes,
                       uint64_t *seed)
{
    static unsigned char got[40 * 40 * 40 * 40 * 8];
    const void *lent = lora__container_view(c, index);

    assert_int_equal(c->entries[index].bytes, expected_bytes);
    for (int i = 0; i < 8; i++) {
        size_t from = (size_t)(random_next(seed) % (expected_bytes + 1));
        size_t to =
            from + (size_t)(random_next(seed) % (expected_bytes - from + 1));

        if (i == 0) {
            from = 0;
            to = expected_bytes;
        }
        assert_int_equal(
            lora__container_read(c, index, from, got, to - from, NULL),
            LORA_OK);
        assert_memory_equal(got, expected + from, to - from);
    }
    assert_int_equal(
        lora__container_read(c, index, 0, got, expected_bytes + 1, NULL),
        LORA_ERROR_RANGE);
    if (lent != NULL) {
        assert_memory_equal(lent, expected, expected_bytes);
    } else {
        assert_non_null(c->entries[index].derive);
    }
}

static void check_views(int legacy, size_t type, uint64_t *seed)
{
    static const struct {
        const char *name;
        size_t unit;
    } types[] = {{"CharStorage", 1},
                 {"HalfStorage", 2},
                 {"FloatStorage", 4},
                 {"LongStorage", 8}};
    static unsigned char expected[40 * 40 * 40 * 40 * 8];
    size_t unit = types[type].unit;
    bytes text = {NULL, 0, 0};
    view_case views[VIEW_COUNT];
    blob storage = {malloc(VIEW_ELEMENTS * unit), VIEW_ELEMENTS * unit};
    lora__container *c;
    lora_error error;
    blob pickle, file;

    assert_non_null(storage.data);
    for (size_t i = 0; i < storage.bytes; i++) {
        storage.data[i] = (unsigned char)random_next(seed);
    }
    PUT(&text, "\x80\2](");
    for (size_t i = 0; i < VIEW_COUNT; i++) {
        views[i] = random_view(seed);
        put_tensor(&text, types[type].name, "0", VIEW_ELEMENTS, views[i].first,
                   views[i].ndim, views[i].shape, views[i].strides, legacy);
    }
    PUT(&text, "e.");
    pickle = take(&text);
    file = legacy ? make_legacy(&pickle, &storage, 1, unit)
                  : make_torch(&pickle, &storage, 1);
    if (open_blob(&c, context, &file, "f", &error) != LORA_OK) {
        /* The only reason: many elements out of few. */
        assert_int_equal(error.status, LORA_ERROR_LIMIT);
        assert_non_null(strstr(error.message, "far larger"));
    } else {
        assert_int_equal(c->entry_count, VIEW_COUNT);
        for (size_t i = 0; i < VIEW_COUNT; i++) {
            size_t count = gather(expected, &views[i], &storage, unit);
            assert_int_equal(c->entries[i].ndim, views[i].ndim);
            assert_memory_equal(c->entries[i].shape, views[i].shape,
                                sizeof views[i].shape);
            check_view(c, i, expected, count * unit, seed);
        }
        lora__container_release(c);
    }
    free(pickle.data);
    free(storage.data);
    free(file.data);
}

static void test_views(void **state)
{
    uint64_t seed = 0x243F6A8885A308D3u;

    (void)state;
    for (int i = 0; i < 400; i++) {
        check_views(i % 2, (size_t)i / 2 % 4, &seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
    };
    int failed;

    context = make_context(&memory, NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    end_context(&memory, context);
    return failed;
}
