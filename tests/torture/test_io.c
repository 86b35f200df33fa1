/* Inputs and outputs that fail: reads that fail, are short, end early or
 * change; files cut at every length and with every byte of the header wrong;
 * writers that fail, full disks, impossible paths.
 */
#ifdef _WIN32

/* Limits and permissions are those of POSIX. */
int main(void)
{
    return 77;
}

#else

#include "torture/works.h"

#include "api/pair.h"
#include "api/reader.h"

#include <signal.h>
#include <sys/resource.h>

static heap h;
static lora_context *context;
static image sample;

/* ---- what is done with an input ---------------------------------------- */

/* Open through a source and do the work; the context must be clean again. */
static lora_status run(source *s, work todo, lora_error *error)
{
    lora_reader reader = source_reader(s);
    lora_adapter *adapter = JUNK(lora_adapter);
    size_t live = h.live;
    lora_status status =
        lora_adapter_open_reader(&adapter, context, &reader, NULL, error);

    if (status == LORA_OK) {
        status = todo(adapter, error);
        lora_adapter_destroy(adapter);
    } else {
        assert_null(adapter);
    }
    assert_int_equal(s->destroyed, 1);
    assert_int_equal(h.live, live);
    return status;
}

/* ---- reading ----------------------------------------------------------- */

static void test_nth_read(void **state)
{
    lora_error error;

    (void)state;
    for (size_t w = 0; w < COUNT(works); w++) {
        for (size_t n = 0;; n++) {
            source s = source_of(&sample);
            lora_status status;
            s.fail_at = n;
            error_dirty(&error);
            status = run(&s, works[w], &error);
            if (s.reads <= n) {
                assert_error(&error, status, LORA_OK, LORA_NO_OFFSET, "");
                assert_true(n > 2);
                break;
            }
            assert_error(&error, status, LORA_ERROR_IO, ANY_OFFSET, NULL);
            assert_true(error.offset <= sample.bytes);
        }
    }
}

/* One byte a call, or three, is slow and otherwise in order. */
static void test_short_reads(void **state)
{
    lora_error error;

    (void)state;
    for (size_t most = 1; most <= 3; most += 2) {
        for (size_t w = 0; w < COUNT(works); w++) {
            source s = source_of(&sample);
            s.most = most;
            CHECK(LORA_OK, LORA_NO_OFFSET, "", run(&s, works[w], &error));
        }
    }
}

static void test_lies(void **state)
{
    static const uint64_t sizes[] = {
        0, 1, 7, 8, 9, 511, 512, 513, 1 << 20, INT64_MAX, UINT64_MAX};
    static const size_t extra[] = {1, 4096, SIZE_MAX / 2};
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        source s = source_of(&sample);
        lora_status status;
        s.claimed = sizes[i];
        error_dirty(&error);
        status = run(&s, do_save, &error);
        assert_error(&error, status,
                     sizes[i] < sample.bytes ? LORA_ERROR_TRUNCATED
                                             : LORA_ERROR_FORMAT,
                     ANY_OFFSET, NULL);
        assert_true(error.offset != LORA_NO_OFFSET);
    }
    for (size_t bytes = 0; bytes < sample.bytes; bytes += 13) {
        source s = source_of(&sample);
        s.bytes = bytes; /* and claims to have all */
        CHECK(LORA_ERROR_TRUNCATED, ANY_OFFSET, NULL, run(&s, do_save, &error));
        assert_true(error.offset >= bytes && error.offset < sample.bytes);
    }
    for (size_t i = 0; i < COUNT(extra); i++) {
        source s = source_of(&sample);
        s.lie = extra[i];
        CHECK(LORA_ERROR_IO, 0, NULL, run(&s, do_save, &error));
    }
}

/* From the nth read on the content is another: whatever comes of it, nothing
 * breaks and nothing is left. */
static void test_changing(void **state)
{
    lora_error error;

    (void)state;
    for (size_t w = 0; w < COUNT(works); w++) {
        for (size_t n = 0;; n++) {
            source s = source_of(&sample);
            lora_status status;
            s.changed_at = n;
            error_dirty(&error);
            status = run(&s, works[w], &error);
            assert_error(&error, status, status, ANY_OFFSET, NULL);
            assert_int_not_equal(status, LORA_ERROR_INTERNAL);
            if (s.reads <= n) {
                assert_int_equal(status, LORA_OK);
                break;
            }
        }
    }
}

/* ---- damaged files ----------------------------------------------------- */

/* Kinds, dialects, types and metadata of many sorts, not all of them sound. */
static void image_mixed(image *im)
{
    const float zero[16] = {0};

    image_begin(im, "\"lora_adapter_metadata\":\"{\\\"unet.r\\\": 2}\","
                    "\"ss_tag_frequency\":\"{\\\"d\\\": {\\\"cat\\\": 3}}\"");
    image_f32(im, "base_model.model.x.lora_A.weight", "2,4", zero, 8);
    image_f32(im, "base_model.model.x.lora_B.weight", "4,2", zero, 8);
    image_f32(im, "lora_unet_a.hada_w1_a", "4,2", zero, 8);
    image_f32(im, "lora_unet_b.lokr_w1", "2,2", zero, 4);
    image_f32(im, "lora_unet_c.oft_blocks", "2,2,2", zero, 8);
    image_f32(im, "lora_unet_d.diff", "4", zero, 4);
    image_f32(im, "unet:0:up", "4,2", zero, 8);
    image_raw(im, "z", "F4", "4,2", zero, 4);
    image_end(im);
}

static void use_everything(const lora_adapter *adapter)
{
    lora_error error;

    for (size_t w = 0; w < COUNT(works); w++) {
        if (works[w] != do_save && works[w] != do_delta) {
            error_dirty(&error);
            works[w](adapter, &error);
            assert_int_not_equal(error.status, LORA_ERROR_INTERNAL);
        }
    }
}

static void test_cut_anywhere(void **state)
{
    static void (*const make[])(image *) = {image_sample, image_mixed};
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(make); i++) {
        image im;
        make[i](&im);
        for (size_t bytes = 0; bytes < im.bytes; bytes++) {
            unsigned char *cut = malloc(bytes + (bytes == 0));
            lora_adapter *out = JUNK(lora_adapter);
            lora_status status;
            assert_non_null(cut);
            memcpy(cut, im.file, bytes);
            error_dirty(&error);
            status = lora_adapter_open_memory(&out, context, cut, bytes, NULL,
                                              &error);
            assert_null(out);
            assert_true(status == LORA_ERROR_TRUNCATED ||
                        status == LORA_ERROR_FORMAT);
            assert_error(&error, status, status, ANY_OFFSET, NULL);
            assert_true(error.offset <= bytes);
            free(cut);
        }
        image_free(&im);
    }
}

/* Every byte of the header replaced: refused with its place, or opened and
 * then usable in every way. */
static void test_wrong_anywhere(void **state)
{
    static const unsigned char wrong[] = {0x00, '"', '9', ']', 0xFF, 0x01};
    lora_error error;
    image im;

    (void)state;
    image_mixed(&im);
    for (size_t at = 0; at < 8 + im.header_bytes; at++) {
        unsigned char right = im.file[at];
        for (size_t i = 0; i < COUNT(wrong); i++) {
            lora_adapter *out = JUNK(lora_adapter);
            lora_status status;
            im.file[at] = wrong[i] == 0x01 ? right ^ 1 : wrong[i];
            error_dirty(&error);
            status = lora_adapter_open_memory(&out, context, im.file, im.bytes,
                                              NULL, &error);
            assert_error(&error, status, status, ANY_OFFSET, NULL);
            if (status == LORA_OK) {
                use_everything(out);
            } else {
                assert_null(out);
                assert_true(error.offset <= im.bytes);
            }
            lora_adapter_destroy(out);
        }
        im.file[at] = right;
    }
    image_free(&im);
}

/* ---- writing ----------------------------------------------------------- */

static void test_nth_write(void **state)
{
    static sink s;
    lora_adapter *adapter = open_image(context, &sample);
    lora_writer writer = sink_writer(&s);
    size_t live = h.live;
    lora_error error;

    (void)state;
    for (size_t n = 0;; n++) {
        sink_init(&s);
        s.fail_at = n;
        error_dirty(&error);
        if (lora_adapter_save_writer(adapter, &writer, &error) == LORA_OK) {
            assert_true(s.writes <= n && n > 0);
            break;
        }
        assert_error(&error, error.status, LORA_ERROR_IO, LORA_NO_OFFSET, NULL);
        assert_int_equal(s.writes, n + 1); /* not called again */
        assert_int_equal(s.finished, 0);
        assert_int_equal(s.aborted, 1);
        assert_int_equal(h.live, live);
    }
    sink_init(&s);
    s.finish_fails = 1;
    s.status = LORA_ERROR_THREAD;
    CHECK(LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
          lora_adapter_save_writer(adapter, &writer, &error));
    assert_int_equal(s.finished, 1);
    assert_int_equal(s.aborted, 1);
    s.status = 5; /* no status of ours */
    s.finished = s.aborted = 0;
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_save_writer(adapter, &writer, &error));
    lora_adapter_destroy(adapter);
}

/* A disk that takes so many bytes and no more: what was there stays. */
static void test_full_disk(void **state)
{
    const char *path = in_folder("out.safetensors");
    lora_adapter *adapter = open_image(context, &sample);
    lora_adapter_save_options save_options;
    lora_adapter_delta_options delta_options;
    struct rlimit before;
    lora_error error;

    (void)state;
    lora_adapter_save_options_init(&save_options, sizeof save_options);
    save_options.overwrite = 1;
    lora_adapter_delta_options_init(&delta_options, sizeof delta_options);
    delta_options.overwrite = 1;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t room = 0; room < sample.bytes; room += 211) {
        struct rlimit limit = {room, before.rlim_max};
        lora_status status;
        folder_put("out.safetensors", "old", 3);
        error_dirty(&error);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        status = lora_adapter_save(adapter, path, &save_options, &error);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_error(&error, status, LORA_ERROR_IO, LORA_NO_OFFSET, path);
        assert_int_equal(error.os_error, EFBIG);
        error_dirty(&error);
        limit.rlim_cur = room < 600 ? room : 600;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        status =
            lora_adapter_save_delta(adapter, path, 1.0, &delta_options, &error);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_error(&error, status, LORA_ERROR_IO, LORA_NO_OFFSET, path);
        folder_check("out.safetensors", "old", 3);
        assert_int_equal(folder_count(1), 1);
    }
    signal(SIGXFSZ, SIG_DFL);
    lora_adapter_destroy(adapter);
}

/* ---- extraction -------------------------------------------------------- */

static lora_status
extract(lora_adapter **out, uint32_t flags, lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 2, 0.0};
    lora_adapter_extract_options options;
    lora_status status;

    lora_adapter_extract_options_init(&options, sizeof options);
    options.journal = in_folder("journal");
    options.flags = flags;
    *out = JUNK(lora_adapter);
    error_dirty(error);
    status = lora_adapter_extract(out, NULL, context, PAIR_BASE, PAIR_TUNED,
                                  &rule, &options, error);
    assert_true((status == LORA_OK) == (*out != NULL));
    return status;
}

/* What a journal of everything gives, and its bytes; free() them. */
static unsigned char *whole_journal(lora_adapter **out, size_t *out_bytes)
{
    static unsigned char journal[1 << 16];
    lora_error error;
    FILE *file;
    unsigned char *bytes;

    pair_make();
    assert_int_equal(extract(out, 0, &error), LORA_OK);
    file = fopen(in_folder("journal"), "rb");
    assert_non_null(file);
    *out_bytes = fread(journal, 1, sizeof journal, file);
    assert_true(*out_bytes > 1000 && *out_bytes < sizeof journal);
    fclose(file);
    bytes = malloc(*out_bytes);
    assert_non_null(bytes);
    memcpy(bytes, journal, *out_bytes);
    return bytes;
}

/* Cut at every length: what is not whole is done again. */
static void test_journal_cut(void **state)
{
    lora_adapter *want;
    lora_adapter *got;
    lora_error error;
    size_t bytes;
    unsigned char *journal = whole_journal(&want, &bytes);

    (void)state;
    for (size_t cut = 0; cut <= bytes; cut++) {
        folder_put("journal", journal, cut);
        assert_int_equal(extract(&got, LORA_EXTRACT_RESUME, &error), LORA_OK);
        assert_same_file(got, want);
        lora_adapter_destroy(got);
    }
    lora_adapter_destroy(want);
    free(journal);
}

/* Every byte wrong: of the head refused, and nothing is overwritten; of a
 * record found out. */
static void test_journal_wrong(void **state)
{
    enum { MAGIC = 8, HEAD = MAGIC + 32 };
    lora_adapter *want;
    lora_adapter *got;
    lora_error error;
    size_t bytes;
    unsigned char *journal = whole_journal(&want, &bytes);

    (void)state;
    for (size_t at = 0; at < bytes; at++) {
        lora_status status;
        journal[at] ^= 0x41;
        folder_put("journal", journal, bytes);
        status = extract(&got, LORA_EXTRACT_RESUME, &error);
        assert_error(&error, status,
                     at < MAGIC  ? LORA_ERROR_FORMAT
                     : at < HEAD ? LORA_ERROR_STATE
                                 : LORA_OK,
                     ANY_OFFSET, at < HEAD ? in_folder("journal") : NULL);
        if (status == LORA_OK) {
            assert_same_file(got, want);
        } else {
            folder_check("journal", journal, bytes);
        }
        lora_adapter_destroy(got);
        journal[at] ^= 0x41;
    }
    lora_adapter_destroy(want);
    free(journal);
}

/* A disk that has room for so many bytes of the journal: what is in it counts
 * once there is more. */
static void test_journal_full(void **state)
{
    lora_adapter *want;
    lora_adapter *got;
    struct rlimit before;
    lora_error error;
    size_t bytes;

    (void)state;
    free(whole_journal(&want, &bytes));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t room = 0; room < bytes; room += 61) {
        struct rlimit limit = {room, before.rlim_max};
        lora_status status;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        status = extract(&got, 0, &error);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_error(&error, status, LORA_ERROR_IO, LORA_NO_OFFSET,
                     in_folder("journal"));
        assert_int_equal(error.os_error, EFBIG);
        assert_int_equal(extract(&got, LORA_EXTRACT_RESUME, &error), LORA_OK);
        assert_same_file(got, want);
        lora_adapter_destroy(got);
    }
    signal(SIGXFSZ, SIG_DFL);
    lora_adapter_destroy(want);
}

/* A checkpoint cut at every length. */
static void test_checkpoint_cut(void **state)
{
    unsigned char file[1 << 14];
    lora_adapter *got;
    lora_error error;
    FILE *whole;
    size_t bytes;

    (void)state;
    pair_make();
    whole = fopen(PAIR_TUNED, "rb");
    assert_non_null(whole);
    bytes = fread(file, 1, sizeof file, whole);
    assert_true(bytes < sizeof file);
    fclose(whole);
    for (size_t cut = 0; cut < bytes; cut++) {
        lora_status status;
        folder_put("tuned.safetensors", file, cut);
        status = extract(&got, 0, &error);
        assert_true(status == LORA_ERROR_TRUNCATED ||
                    status == LORA_ERROR_FORMAT);
        assert_error(&error, status, status, ANY_OFFSET, NULL);
    }
}

/* ---- paths ------------------------------------------------------------- */

static void expect_path(const char *path, int os_error)
{
    lora_adapter *adapter = open_image(context, &sample);
    lora_adapter *out = JUNK(lora_adapter);
    lora_hashes hashes = {.struct_size = sizeof hashes};
    int files = folder_count(0);
    lora_error error;

    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_open(&out, context, path, NULL, &error));
    assert_null(out);
    assert_true(error.subject[0] != '\0' || path[0] == '\0');
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_hash_file(&hashes, context, path, &error));
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_save(adapter, path, NULL, &error));
    assert_true(os_error == 0 || error.os_error == os_error);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_save_delta(adapter, path, 1.0, NULL, &error));
    assert_int_equal(folder_count(0), files);
    lora_adapter_destroy(adapter);
}

static void test_paths(void **state)
{
    char name[400];

    (void)state;
    expect_path("", 0);
    expect_path(folder, EEXIST);
    expect_path(in_folder("missing/x"), ENOENT);
    folder_put("file", "x", 1);
    expect_path(in_folder("file/x"), ENOTDIR);
    memset(name, 'n', sizeof name);
    name[300] = '\0';
    expect_path(in_folder(name), ENAMETOOLONG);
}

static void test_no_permission(void **state)
{
    const char *locked = in_folder("locked");
    lora_adapter *adapter;
    lora_error error;

    (void)state;
    if (geteuid() == 0) {
        skip(); /* root may do anything */
    }
    adapter = open_image(context, &sample);
    assert_int_equal(mkdir(locked, 0500), 0);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("locked/x"),
          lora_adapter_save(adapter, in_folder("locked/x"), NULL, &error));
    assert_int_equal(error.os_error, EACCES);
    assert_int_equal(rmdir(locked), 0);
    folder_put("secret", "x", 1);
    assert_int_equal(chmod(in_folder("secret"), 0), 0);
    lora_adapter_destroy(adapter);
    adapter = JUNK(lora_adapter);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("secret"),
          lora_adapter_open(&adapter, context, in_folder("secret"), NULL,
                            &error));
    assert_int_equal(error.os_error, EACCES);
    assert_null(adapter);
}

/* Paths are UTF-8 by contract; what is not must do no harm. */
static void test_not_utf8(void **state)
{
    const char *path = in_folder("\xFF\xC3.safetensors");
    lora_adapter *adapter = open_image(context, &sample);
    lora_adapter *out = JUNK(lora_adapter);
    lora_error error;
    lora_status status;

    (void)state;
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_adapter_open(&out, context, path, NULL, &error));
    assert_null(out);
    error_dirty(&error);
    status = lora_adapter_save(adapter, path, NULL, &error);
    assert_true(status == LORA_OK || status == LORA_ERROR_IO);
    assert_int_equal(folder_count(0), status == LORA_OK);
    lora_adapter_destroy(adapter);
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

static int begin(void **state)
{
    context = heap_context(&h, NULL);
    return folder_clear(state);
}

static int end(void **state)
{
    (void)state;
    heap_end(&h, context);
    return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nth_read),       TEST(test_short_reads),
        TEST(test_lies),           TEST(test_changing),
        TEST(test_cut_anywhere),   TEST(test_wrong_anywhere),
        TEST(test_nth_write),      TEST(test_full_disk),
        TEST(test_paths),          TEST(test_no_permission),
        TEST(test_not_utf8),       TEST(test_journal_cut),
        TEST(test_journal_wrong),  TEST(test_journal_full),
        TEST(test_checkpoint_cut),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
