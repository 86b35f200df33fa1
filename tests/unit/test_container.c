/* Containers under stress: files cut and changed everywhere, memory that runs
 * out, readers that fail or lie; files of other sorts; containers made of
 * others.
 */
#include "containers.h"

/* Every length and every byte -------------------------------------------- */

static const char *const sound[] = {
    GOOD,
    "{}",
    "{\"a\":" E4 "}",
    "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" E4 "}   ",
};
static const size_t sound_data[] = {GOOD_DATA, 0, 4, 4};

static void test_cut(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t s = 0; s < sizeof sound / sizeof sound[0]; s++) {
        blob whole = make_file(sound[s], strlen(sound[s]), sound_data[s]);

        for (size_t n = 0; n < whole.bytes; n++) {
            blob b = blob_of(whole.data, n);
            lora__container *c;
            lora_error error;

            assert_int_equal(open_blob(&c, context, &b, "f", &error),
                             LORA_ERROR_TRUNCATED);
            assert_int_equal(error.offset, n);
            free(b.data);
        }
        free(whole.data);
    }
    end_context(&h, context);
}

static int is_data_status(lora_status status)
{
    return status == LORA_ERROR_FORMAT || status == LORA_ERROR_TRUNCATED ||
           status == LORA_ERROR_LIMIT || status == LORA_ERROR_DUPLICATE;
}

static void open_damaged(lora_context *context, const blob *b)
{
    lora__container *c;
    lora_error error;
    lora_status status = open_blob(&c, context, b, "f", &error);

    if (status == LORA_OK) {
        touch(c);
        lora__container_release(c);
    } else {
        assert_true(is_data_status(status));
        assert_true(error.offset <= b->bytes);
        assert_string_equal(error.subject, "f");
    }
}

static void test_flip(void **state)
{
    static const unsigned char flips[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20,
                                          0x40, 0x80, 0xFF, 0x7F, 0x0F};
    heap h;
    lora_context *context = make_context(&h, NULL);

    (void)state;
    for (size_t s = 0; s < sizeof sound / sizeof sound[0]; s++) {
        blob b = make_file(sound[s], strlen(sound[s]), sound_data[s]);

        for (size_t n = 0; n < 8 + strlen(sound[s]); n++) {
            for (size_t f = 0; f < sizeof flips; f++) {
                b.data[n] ^= flips[f];
                open_damaged(context, &b);
                b.data[n] ^= flips[f];
            }
        }
        free(b.data);
    }
    end_context(&h, context);
}

/* Change, remove, double or insert pieces of a sound header, keeping the
 * length field right so that the parser is reached. */
static void test_fuzz(void **state)
{
    static const char *const pieces[] = {
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0000",
        "-",
        "1e9",
        "4",
        "\\ud800",
        "null",
        "[0,4]",
        "\"a\":",
        "\xff",
        "\xc3",
        "999999999999999999999",
        "{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}",
        "\"__metadata__\":",
        "\"shape\":[4611686018427387904,4],",
    };
    heap h;
    lora_context *context = make_context(&h, NULL);
    uint64_t seed = 0x9E3779B97F4A7C15u;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char header[4096];
        size_t s = random_next(&seed) % (sizeof sound / sizeof sound[0]);
        size_t n = strlen(sound[s]);
        size_t edits = 1 + random_next(&seed) % 4;
        blob b;

        memcpy(header, sound[s], n);
        for (size_t e = 0; e < edits; e++) {
            size_t at = random_next(&seed) % n;
            size_t length = random_next(&seed) % (n - at);
            const char *piece =
                pieces[random_next(&seed) % (sizeof pieces / sizeof pieces[0])];
            size_t piece_bytes = strlen(piece);

            length = length > 20 ? 20 : length;
            switch (random_next(&seed) % 4) {
            case 0:
                header[at] = (char)(unsigned char)random_next(&seed);
                break;
            case 1:
                memmove(header + at, header + at + length, n - at - length);
                n -= length;
                break;
            case 2:
                memmove(header + at + length, header + at, n - at);
                n += length;
                break;
            default:
                memmove(header + at + piece_bytes, header + at, n - at);
                memcpy(header + at, piece, piece_bytes);
                n += piece_bytes;
                break;
            }
            if (n == 0) {
                header[n++] = '{';
            }
        }
        b = make_file(header, n, sound_data[s]);
        open_damaged(context, &b);
        free(b.data);
    }
    end_context(&h, context);
}

/* Faults around the file ------------------------------------------------- */

static void test_memory(void **state)
{
    blob b = make_file(GOOD, strlen(GOOD), GOOD_DATA);

    (void)state;
    for (int lasting = 0; lasting < 2; lasting++) {
        size_t failures = 0;
        lora_status status;
        heap h;
        lora_context *context = make_context(&h, NULL);
        size_t resting = h.live;

        do {
            lora__container *c = NULL;
            lora_error error;

            h.countdown = failures;
            h.lasting = lasting;
            status = open_blob(&c, context, &b, "f", &error);
            h.countdown = SIZE_MAX;
            if (status == LORA_OK) {
                touch(c);
                lora__container_release(c);
            } else {
                assert_int_equal(status, LORA_ERROR_MEMORY);
                assert_int_equal(error.status, LORA_ERROR_MEMORY);
                assert_null(c);
                failures++;
            }
            assert_int_equal(h.live, resting);
        } while (status != LORA_OK);
        assert_true(failures >= 5);
        end_context(&h, context);
    }
    free(b.data);
}

typedef struct bad_reader {
    blob file;
    uint64_t claimed; /* size */
    size_t chunk;     /* most bytes a call */
    size_t countdown; /* calls until one fails; SIZE_MAX: never */
    lora_status failure;
    int size_fails;
    size_t excess; /* claimed beyond what was read */
    int destroyed;
} bad_reader;

static lora_status bad_size(void *user, uint64_t *out_bytes)
{
    const bad_reader *r = user;

    *out_bytes = r->claimed;
    return r->size_fails ? LORA_ERROR_IO : LORA_OK;
}

static lora_status bad_read_at(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    bad_reader *r = user;
    size_t left = offset < r->file.bytes ? r->file.bytes - (size_t)offset : 0;
    size_t n = bytes < left ? bytes : left;

    if (r->countdown-- == 0) {
        return r->failure;
    }
    n = n < r->chunk ? n : r->chunk;
    if (n > 0) {
        memcpy(buffer, r->file.data + (size_t)offset, n);
    }
    *out_got = n + r->excess;
    return LORA_OK;
}

static void bad_destroy(void *user)
{
    ((bad_reader *)user)->destroyed++;
}

static lora_status open_bad(lora_context *context, bad_reader *r)
{
    lora_reader reader = {sizeof reader, r,    bad_size,
                          bad_read_at,   NULL, bad_destroy};
    lora__container *c;
    lora_error error;
    lora_status status;
    unsigned char data[3];

    r->destroyed = 0;
    lora_error_init(&error, sizeof error);
    status = lora__container_open(&c, context, &reader, "f", &error);
    if (status == LORA_OK) {
        assert_int_equal(r->destroyed, 0);
        assert_null(lora__container_view(c, 0));
        assert_int_equal(lora__container_read(c, 3, 0, data, 3, &error),
                         LORA_OK);
        assert_memory_equal(data, "\x0f\x10\x11", 3);
        lora__container_release(c);
    } else {
        assert_int_equal(error.status, status);
        assert_string_equal(error.subject, "f");
    }
    assert_int_equal(r->destroyed, 1);
    return status;
}

static void test_readers(void **state)
{
    blob b = make_file(GOOD, strlen(GOOD), GOOD_DATA);
    const bad_reader sane = {b, b.bytes, SIZE_MAX, SIZE_MAX, LORA_ERROR_IO,
                             0, 0,       0};
    bad_reader r = sane;
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t n = 0;

    (void)state;
    assert_int_equal(open_bad(context, &r), LORA_OK);
    r.chunk = 1;
    assert_int_equal(open_bad(context, &r), LORA_OK);
    r.chunk = 0; /* the end, at once */
    assert_int_equal(open_bad(context, &r), LORA_ERROR_TRUNCATED);

    r = sane;
    r.size_fails = 1;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_IO);
    r = sane;
    r.excess = 1;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_IO);

    /* The size is a lie: missing data are found when opening or when read. */
    r = sane;
    r.claimed = b.bytes + 1;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_TRUNCATED);
    r.claimed = b.bytes - 1;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_TRUNCATED);
    r = sane;
    r.file.bytes = 100;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_TRUNCATED);
    r.claimed = 0;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_TRUNCATED);

    /* Its failures come through; a positive one becomes IO. */
    r = sane;
    r.failure = LORA_ERROR_CANCELLED;
    r.countdown = 0;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_CANCELLED);
    r.countdown = 0;
    r.failure = 1;
    assert_int_equal(open_bad(context, &r), LORA_ERROR_IO);
    r.failure = LORA_ERROR_IO;
    r.chunk = 7;
    for (; n < 1000; n++) {
        r.countdown = n;
        if (n > b.bytes / 7 + 80) {
            break;
        }
        if (n < b.bytes / 7) {
            assert_int_equal(open_bad(context, &r), LORA_ERROR_IO);
        }
    }
    free(b.data);
    end_context(&h, context);
}

/* The reader on memory lends and copies no byte beyond its end. */
static void test_memory_reader(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    lora_reader r;
    const void *data = NULL;
    char bytes[8];
    size_t got;

    (void)state;
    assert_int_equal(lora__reader_open_memory(&r, context, "0123", 4, NULL),
                     LORA_OK);
    assert_int_equal(r.map(r.user, 1, 3, &data), LORA_OK);
    assert_memory_equal(data, "123", 3);
    assert_int_equal(r.map(r.user, 4, 0, &data), LORA_OK);
    assert_int_equal(r.map(r.user, 2, 3, &data), LORA_ERROR_RANGE);
    assert_int_equal(r.map(r.user, 5, 0, &data), LORA_ERROR_RANGE);
    assert_int_equal(r.map(r.user, UINT64_MAX, 2, &data), LORA_ERROR_RANGE);
    assert_int_equal(r.read_at(r.user, 2, bytes, 8, &got), LORA_OK);
    assert_int_equal(got, 2);
    assert_memory_equal(bytes, "23", 2);
    assert_int_equal(r.read_at(r.user, UINT64_MAX, bytes, 8, &got), LORA_OK);
    assert_int_equal(got, 0);
    r.destroy(r.user);
    end_context(&h, context);
}

/* Files of other sorts --------------------------------------------------- */

static void check_sniff(lora_context *context,
                        const char *bytes,
                        size_t n,
                        const char *word)
{
    unsigned char file[600];
    lora__container *c;
    lora_error error;
    blob b;

    memset(file, strchr("\n<{\xef", bytes[0]) != NULL ? ' ' : 0, sizeof file);
    memcpy(file, bytes, n);
    b = blob_of(file, sizeof file);
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_FORMAT);
    if (strstr(error.message, word) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", word, error.message);
    }
    free(b.data);
}

static void test_sniff(void **state)
{
#define SNIFF(bytes, word) check_sniff(context, bytes, sizeof bytes - 1, word)
    static const char lfs[] =
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    char tar[262] = "name";
    heap h;
    lora_context *context = make_context(&h, NULL);
    lora__container *c;
    lora_error error;
    blob b;

    (void)state;
    SNIFF("<!DOCTYPE html>\n<html>", "HTML");
    SNIFF("\n  <HTML lang=en>", "HTML");
    SNIFF("\xef\xbb\xbf<!doctype HTML>\xc3\xa9", "HTML");
    SNIFF("<?xml version=\"1.0\"?>", "XML");
    SNIFF("{\"error\":\"not found\"}", "JSON");
    SNIFF("\x80\x04\x95\x10", "pickle");
    SNIFF("\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip");
    SNIFF("algg\1\0\0\0", "before GGUF");
    SNIFF("%PDF-1.4\n", "PDF");
    SNIFF("\x89PNG\r\n\x1a\n", "PNG");
    SNIFF("\xff\xd8\xff\xe0", "JPEG");
    memcpy(tar + 257, "ustar", 5);
    check_sniff(context, tar, sizeof tar, "tar archive");
    memcpy(tar, "pickle", 7);
    check_sniff(context, tar, sizeof tar, "oldest form");

    b = blob_of(lfs, strlen(lfs));
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "git lfs pull"));
    free(b.data);
    b = blob_of("just some words\n", 16);
    assert_int_equal(open_blob(&c, context, &b, "f", &error),
                     LORA_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "text file"));
    free(b.data);
    end_context(&h, context);
}

/* A header whose length begins like another format's magic is a header: 0x8B1F
 * is what gzip begins with, 0x0280 what a pickle does. */
static void test_not_mistaken(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t n = 0x8B1F; /* gzip */
    char *header = malloc(n);
    lora__container *c;
    blob b;

    (void)state;
    assert_non_null(header);
    memset(header, ' ', n);
    memcpy(header, "{}", 2);
    b = make_file(header, n, 0);
    assert_int_equal(open_blob(&c, context, &b, "", NULL), LORA_OK);
    lora__container_release(c);
    free(b.data);
    n = 0x0280; /* a pickle */
    b = make_file(header, n, 0);
    assert_int_equal(open_blob(&c, context, &b, "", NULL), LORA_OK);
    lora__container_release(c);
    free(b.data);
    free(header);
    end_context(&h, context);
}

/* Containers made of others ---------------------------------------------- */

static void test_parents(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    blob b = make_file(GOOD, strlen(GOOD), GOOD_DATA);
    lora__container *source_file, *made;
    unsigned char bytes[3];
    lora__entry *entry;
    void *own;

    (void)state;
    assert_int_equal(open_blob(&source_file, context, &b, "", NULL), LORA_OK);
    assert_int_equal(lora__container_create(&made, context, "memory", "", NULL),
                     LORA_OK);
    assert_int_equal(lora__container_add(&entry, made, NULL), LORA_OK);
    *entry = source_file->entries[3];
    entry->parent = source_file;
    entry->parent_index = 3;
    lora__container_retain(source_file);
    assert_int_equal(lora__container_add(&entry, made, NULL), LORA_OK);
    own = lora__alloc(context, 3, LORA__ALIGN_NUMERIC);
    assert_non_null(own);
    memcpy(own, "abc", 3);
    entry->name = "own";
    entry->bytes = 3;
    entry->owned_bytes = 3;
    entry->data = own;
    assert_int_equal(made->entry_count, 2);

    lora__container_release(source_file);
    assert_int_equal(lora__container_read(made, 0, 0, bytes, 3, NULL), LORA_OK);
    assert_memory_equal(bytes, "\x0f\x10\x11", 3);
    assert_ptr_equal(lora__container_view(made, 0),
                     b.data + 8 + strlen(GOOD) + 14);
    assert_int_equal(lora__container_read(made, 1, 1, bytes, 2, NULL), LORA_OK);
    assert_memory_equal(bytes, "bc", 2);
    /* A container keeps its context. */
    lora_context_destroy(context);
    lora__container_release(made);
    assert_int_equal(h.live, 0);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),     cmocka_unit_test(test_flip),
        cmocka_unit_test(test_fuzz),    cmocka_unit_test(test_memory),
        cmocka_unit_test(test_readers), cmocka_unit_test(test_memory_reader),
        cmocka_unit_test(test_sniff),   cmocka_unit_test(test_not_mistaken),
        cmocka_unit_test(test_parents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
