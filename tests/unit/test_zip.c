/* Zip archives: what torch writes and others pack again is read; what two
 * readers could read differently, or what lies outside, is refused.
 */
#include "torch_files.h"

#include "format/zip.h"

static const zip_item plain_items[] = {
    {"top/first", "the first", 9, 0},
    {"top/empty", "", 0, 0},
    {"top/last", "and the last one", 16, 0},
};

/* Where the parts of an archive of plain_items lie. */
enum {
    LOCAL_0 = 0,
    DATA_0 = 30 + 9,
    LOCAL_2 = DATA_0 + 9 + 30 + 9,
    CENTRAL_0 = LOCAL_2 + 30 + 8 + 16,
    CENTRAL_1 = CENTRAL_0 + 46 + 9,
    END = CENTRAL_1 + 46 + 9 + 46 + 8,
    WHOLE = END + 22
};

/* Open an archive in a container that is not opened otherwise. */
static lora_status open_zip(lora__zip *zip,
                            lora__container **out,
                            lora_context *context,
                            const blob *b,
                            lora_error *error)
{
    lora_status status =
        lora__container_create(out, context, "zip", "f", error);

    if (status != LORA_OK) {
        return status;
    }
    status = lora__reader_open_memory(&(*out)->reader, context, b->data,
                                      b->bytes, error);
    if (status == LORA_OK) {
        (*out)->file_bytes = b->bytes;
        status = lora__zip_open(zip, *out, error);
        if (status != LORA_OK) {
            lora__zip_close(zip);
        }
    }
    if (status != LORA_OK) {
        lora__container_release(*out);
    }
    return status;
}

/* Every record has the data that were put in. */
static void check_items(lora_context *context,
                        const blob *b,
                        const zip_item *items,
                        size_t count)
{
    lora__container *c;
    lora__zip zip;

    assert_int_equal(open_zip(&zip, &c, context, b, NULL), LORA_OK);
    assert_int_equal(zip.count, count);
    for (size_t i = 0; i < count; i++) {
        const lora__zip_record *record =
            lora__zip_find(&zip, items[i].name, strlen(items[i].name));
        const unsigned char *data;

        assert_non_null(record);
        assert_int_equal(record->bytes, items[i].count);
        assert_int_equal(
            lora__zip_load(&data, &zip, record, 1000, &c->arena, NULL),
            LORA_OK);
        assert_memory_equal(data, items[i].data, items[i].count);
        assert_memory_equal(b->data + record->offset, items[i].data,
                            items[i].count);
        assert_int_equal(lora__zip_verify(&zip, record, NULL), LORA_OK);
    }
    assert_null(lora__zip_find(&zip, "top", 3));
    lora__zip_close(&zip);
    lora__container_release(c);
}

static void test_good(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (unsigned how = 0; how < 16; how++) {
        zip_item items[3];
        blob b;

        memcpy(items, plain_items, sizeof items);
        for (size_t i = 0; i < 3; i++) {
            items[i].how = how & 7;
        }
        b = make_zip(items, 3, how >= 8);
        check_items(context, &b, items, 3);
        free(b.data);
    }
    end_context(&h, context);
}

/* Records are told apart by where they lie, not by the directory's order. */
static void test_order(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_zip(plain_items, 3, 0);
    unsigned char first[46 + 9];

    (void)state;
    assert_int_equal(b.bytes, WHOLE);
    memcpy(first, b.data + CENTRAL_0, sizeof first);
    memcpy(b.data + CENTRAL_0, b.data + CENTRAL_1, sizeof first);
    memcpy(b.data + CENTRAL_1, first, sizeof first);
    check_items(context, &b, plain_items, 3);
    free(b.data);
    end_context(&h, context);
}

typedef struct damage {
    const char *what;
    size_t at;
    const char *bytes;
    size_t count;
    lora_status status;
    const char *message;
} damage;

static void check_damage(lora_context *context, const damage *d)
{
    blob b = make_zip(plain_items, 3, 0);
    lora__container *c;
    lora__zip zip;
    lora_error error;
    lora_status status;

    assert_true(d->at + d->count <= b.bytes);
    memcpy(b.data + d->at, d->bytes, d->count);
    lora_error_init(&error, sizeof error);
    status = open_zip(&zip, &c, context, &b, &error);
    if (status != d->status || strstr(error.message, d->message) == NULL ||
        error.offset > b.bytes) {
        fail_msg("%s: %d, \"%s\", %llu", d->what, (int)status, error.message,
                 (unsigned long long)error.offset);
    }
    assert_string_equal(error.subject, "f");
    free(b.data);
}

#define BYTES(literal) literal, sizeof(literal) - 1

static void test_damage(void **state)
{
    static const damage damages[] = {
        {"no end", END, BYTES("PK\5\7"), LORA_ERROR_TRUNCATED, "end record"},
        {"a comment", END + 20, BYTES("\1"), LORA_ERROR_TRUNCATED, "end"},
        {"second disk", END + 4, BYTES("\1"), LORA_ERROR_FORMAT, "parts"},
        {"count on disk", END + 8, BYTES("\2"), LORA_ERROR_FORMAT, "parts"},
        {"more records", END + 8, BYTES("\4\0\4\0"), LORA_ERROR_FORMAT,
         "more records"},
        {"fewer records", END + 8, BYTES("\2\0\2\0"), LORA_ERROR_FORMAT,
         "more in the directory"},
        {"no records", END + 8, BYTES("\0\0\0\0"), LORA_ERROR_FORMAT, "empty"},
        {"directory size", END + 12, BYTES("\1"), LORA_ERROR_FORMAT,
         "directory is not"},
        {"directory offset", END + 19, BYTES("\x7F"), LORA_ERROR_FORMAT,
         "directory is not"},
        {"central signature", CENTRAL_1, BYTES("XX"), LORA_ERROR_FORMAT,
         "damaged zip directory"},
        {"long name", CENTRAL_0 + 28, BYTES("\xFF\xFF"), LORA_ERROR_FORMAT,
         "damaged zip directory"},
        {"no name", CENTRAL_0 + 28, BYTES("\0\0"), LORA_ERROR_FORMAT,
         "damaged zip directory"},
        {"encrypted", CENTRAL_0 + 8, BYTES("\1"), LORA_ERROR_FORMAT,
         "encrypted"},
        {"bzip2", CENTRAL_0 + 10, BYTES("\x0C"), LORA_ERROR_FORMAT, "method"},
        {"two sizes", CENTRAL_0 + 24, BYTES("\7"), LORA_ERROR_FORMAT,
         "two sizes"},
        {"zip64 without", CENTRAL_0 + 42, BYTES("\xFF\xFF\xFF\xFF"),
         LORA_ERROR_FORMAT, "no room"},
        {"offset into a header", CENTRAL_0 + 42, BYTES("\x05"),
         LORA_ERROR_FORMAT, "differs"},
        {"offset beyond", CENTRAL_0 + 44, BYTES("\x01"), LORA_ERROR_FORMAT,
         "no room"},
        {"local signature", LOCAL_0, BYTES("PK\3\5"), LORA_ERROR_FORMAT,
         "differs"},
        {"local flags", LOCAL_0 + 6, BYTES("\1"), LORA_ERROR_FORMAT, "differs"},
        {"local method", LOCAL_0 + 8, BYTES("\x08"), LORA_ERROR_FORMAT,
         "differs"},
        {"local checksum", LOCAL_0 + 14, BYTES("\0\0\0\0"), LORA_ERROR_FORMAT,
         "differs"},
        {"local packed", LOCAL_0 + 18, BYTES("\0"), LORA_ERROR_FORMAT, "sizes"},
        {"local size", LOCAL_0 + 22, BYTES("\x0A"), LORA_ERROR_FORMAT, "sizes"},
        {"local name length", LOCAL_0 + 26, BYTES("\x08"), LORA_ERROR_FORMAT,
         "differs"},
        {"local name", LOCAL_0 + 34, BYTES("F"), LORA_ERROR_FORMAT, "differs"},
        {"extra into the next", LOCAL_0 + 28, BYTES("\1"), LORA_ERROR_FORMAT,
         "overlap"},
        {"extra into the directory", LOCAL_2 + 28, BYTES("\1"),
         LORA_ERROR_FORMAT, "overlap"},
        {"extra field", CENTRAL_0 + 30, BYTES("\1"), LORA_ERROR_FORMAT,
         "damaged zip directory"},
    };
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        check_damage(context, &damages[i]);
    }
    end_context(&h, context);
}

/* The zip64 end must say what the end says, where it says anything. */
static void test_end64(void **state)
{
    static const size_t numbers[] = {4,  16, 20,     24,     32,
                                     40, 48, 56 + 4, 56 + 8, 56 + 16};
    heap h;
    lora_context *context = make_context(&h, NULL);
    lora__container *c;
    lora__zip zip;

    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        blob b = make_zip(plain_items, 3, 1);

        b.data[END + numbers[i]] += 2;
        assert_int_equal(open_zip(&zip, &c, context, &b, NULL),
                         LORA_ERROR_FORMAT);
        free(b.data);
    }
    end_context(&h, context);
}

static void test_duplicate(void **state)
{
    static const zip_item twice[] = {{"a/b", "x", 1, 0}, {"a/b", "x", 1, 0}};
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_zip(twice, 2, 0);
    lora__container *c;
    lora__zip zip;

    (void)state;
    assert_int_equal(open_zip(&zip, &c, context, &b, NULL),
                     LORA_ERROR_DUPLICATE);
    free(b.data);
    end_context(&h, context);
}

/* A changed byte of the data is told by its checksum, whichever way they are
 * read; a record over the limit is not read at all. */
static void test_checksum(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_zip(plain_items, 3, 0);
    const unsigned char *data;
    lora__container *c;
    lora__zip zip;
    lora_error error;

    (void)state;
    lora_error_init(&error, sizeof error);
    b.data[DATA_0 + 3] ^= 1;
    assert_int_equal(open_zip(&zip, &c, context, &b, NULL), LORA_OK);
    assert_int_equal(
        lora__zip_load(&data, &zip, &zip.records[0], 9, &c->arena, &error),
        LORA_ERROR_FORMAT);
    assert_int_equal(error.offset, DATA_0);
    assert_non_null(strstr(error.message, "\"top/first\""));
    assert_int_equal(lora__zip_verify(&zip, &zip.records[0], NULL),
                     LORA_ERROR_FORMAT);
    assert_int_equal(
        lora__zip_load(&data, &zip, &zip.records[0], 8, &c->arena, NULL),
        LORA_ERROR_LIMIT);
    lora__zip_close(&zip);
    lora__container_release(c);
    free(b.data);
    end_context(&h, context);
}

/* Every length, every byte changed, and every allocation failing. */
static void test_everywhere(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob whole = make_zip(plain_items, 3, 1);
    lora__container *c;
    lora__zip zip;

    (void)state;
    for (size_t n = 0; n < whole.bytes; n++) {
        blob b = blob_of(whole.data, n);
        assert_int_equal(open_zip(&zip, &c, context, &b, NULL),
                         LORA_ERROR_TRUNCATED);
        free(b.data);
    }
    for (size_t n = 0; n < whole.bytes * 8; n++) {
        lora_status status;

        whole.data[n / 8] ^= (unsigned char)(1u << n % 8);
        status = open_zip(&zip, &c, context, &whole, NULL);
        if (status == LORA_OK) {
            lora__zip_close(&zip);
            lora__container_release(c);
        } else {
            assert_true(is_refusal(status));
        }
        whole.data[n / 8] ^= (unsigned char)(1u << n % 8);
    }
    for (size_t n = 0;; n++) {
        lora_status status;

        h.countdown = n;
        status = open_zip(&zip, &c, context, &whole, NULL);
        h.countdown = SIZE_MAX;
        if (status == LORA_OK) {
            assert_true(n > 3);
            lora__zip_close(&zip);
            lora__container_release(c);
            break;
        }
        assert_int_equal(status, LORA_ERROR_MEMORY);
        assert_int_equal(lora_context_memory_live(context), 0);
    }
    free(whole.data);
    end_context(&h, context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),       cmocka_unit_test(test_order),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_end64),
        cmocka_unit_test(test_duplicate),  cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_everywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
