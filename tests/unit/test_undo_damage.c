/* Undo files that are damaged or hostile, memory that runs out, and disks that
 * are full: an error each time, and nothing written.
 */
#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "undos.h"

#include <signal.h>
#include <sys/resource.h>

enum { ROWS = 6, COLUMNS = 10 };

static fused_by by;
static const char *base;
static const char *fused;
static const char *undo;
static const char *back;

static int begin_fused(void **state)
{
    void *a = normals(LORA_DTYPE_F16, ROWS * COLUMNS, 0.02, 1);
    void *b = normals(LORA_DTYPE_F16, ROWS * COLUMNS, 0.02, 2);
    const weight weights[] = {
        {"blocks.0.a.weight", LORA_DTYPE_F16, 2, {ROWS, COLUMNS}, a},
        {"blocks.0.b.weight", LORA_DTYPE_F16, 2, {ROWS, COLUMNS}, b},
        {"x", LORA_DTYPE_F32, 1, {4}, NULL},
    };
    const int failed = begin(state);

    base = in_folder("base.safetensors");
    fused = in_folder("fused.safetensors");
    undo = in_folder("undo");
    back = in_folder("back.safetensors");
    put_model(base, weights, COUNT(weights));
    by = make_adapter(ROWS, COLUMNS, 2, 9);
    free(a);
    free(b);
    return failed;
}

static int end_fused(void **state)
{
    end_adapter(&by);
    return end(state);
}

static lora_status fuse_now(int mode)
{
    return fuse_one(base, fused, by.adapter, 1, undo, mode, NULL);
}

static lora_status unfuse_now(int mode, lora_error *error)
{
    return unfuse(fused, undo, back,
                  mode == LORA__UNDO_PREDICT ? by.adapter : NULL, 1, 0, error);
}

/* The undo file that is there is refused, for what it is. */
static void refused(int mode, const char *why)
{
    lora_error error;
    const lora_status status = unfuse_now(mode, &error);

    if (!is_refusal(status) && status != LORA_ERROR_KEY) {
        fail_msg("%s: %d %s", why, (int)status, error.message);
    }
    assert_true(error.subject[0] != '\0' && error.message[0] != '\0');
    if (status != LORA_ERROR_KEY) {
        assert_string_equal(error.subject, undo);
    }
    assert_int_equal(count_files(), 3); /* base, fused, undo */
}

/* Damage -------------------------------------------------------------------
 */

static void cut_files_are_refused(void **state)
{
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        blob whole;
        assert_int_equal(fuse_now(mode), LORA_OK);
        whole = load(undo);
        for (size_t i = 0; i < whole.bytes; i++) {
            put_bytes(undo, whole.data, i);
            refused(mode, "cut");
        }
        whole.data[whole.bytes] = 'x';
        put_bytes(undo, whole.data, whole.bytes + 1);
        refused(mode, "longer");
        free(whole.data);
        assert_int_equal(remove(undo), 0);
    }
}

static void flipped_bits_are_refused(void **state)
{
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        blob whole;
        assert_int_equal(fuse_now(mode), LORA_OK);
        whole = load(undo);
        for (size_t i = 0; i < whole.bytes; i++) {
            const unsigned char bit = (unsigned char)(1u << i % 8);
            whole.data[i] ^= bit;
            put_bytes(undo, whole.data, whole.bytes);
            refused(mode, "flipped");
            whole.data[i] ^= bit;
        }
        free(whole.data);
        assert_int_equal(remove(undo), 0);
    }
}

/* Records left out, twice, or in each other's place; all are whole. */
static void moved_records_are_refused(void **state)
{
    blob whole;
    size_t starts[32];
    size_t count = 0;

    (void)state;
    assert_int_equal(fuse_now(LORA__UNDO_RAW), LORA_OK);
    whole = load(undo);
    for (size_t at = LORA__UNDO_MAGIC_BYTES; at < whole.bytes;) {
        lora__undo_head head;
        (void)lora__undo_decode(&head, whole.data + at);
        starts[count++] = at;
        at += LORA__UNDO_HEAD + head.payload;
    }
    starts[count] = whole.bytes;
    /* begin, file, 3 tensors, the header, 4 pieces, 3 hashes, end */
    assert_int_equal(count, 14);
    for (size_t i = 0; i < count; i++) {
        bytes without = {NULL, 0, 0};
        bytes twice = {NULL, 0, 0};
        put(&without, whole.data, starts[i]);
        put(&without, whole.data + starts[i + 1], whole.bytes - starts[i + 1]);
        put_bytes(undo, without.data, without.count);
        refused(LORA__UNDO_RAW, "left out");
        put(&twice, whole.data, starts[i + 1]);
        put(&twice, whole.data + starts[i], whole.bytes - starts[i]);
        put_bytes(undo, twice.data, twice.count);
        refused(LORA__UNDO_RAW, "twice");
        free(without.data);
        free(twice.data);
    }
    free(whole.data);
}

/* Hostile files, whose checksums are right ---------------------------------
 */

static void put_record(bytes *b,
                       uint32_t type,
                       uint32_t flags,
                       uint64_t index,
                       uint64_t offset,
                       uint64_t size,
                       const void *payload,
                       size_t payload_bytes)
{
    const lora__undo_head head = {type,   flags, index,
                                  offset, size,  (uint32_t)payload_bytes};
    unsigned char raw[LORA__UNDO_HEAD];

    lora__undo_encode(raw, &head, payload);
    put(b, raw, sizeof raw);
    put(b, payload, payload_bytes);
}

#define RECORD(b, type, flags, index, offset, size, payload)                   \
    put_record(b, LORA__UNDO_##type, flags, index, offset, size, payload,      \
               sizeof(payload) - 1)

#define MODES(mode, layout) mode "\0\0\0" layout "\0\0\0\0\0\0\0\0\0\0\0"

static void is_answered(bytes *b, lora_status want, const char *message)
{
    lora_error error;
    lora_reader reader;
    lora__undo_content content;
    lora_status status;
    const uint64_t before = lora_context_memory_live(context);

    lora_error_init(&error, sizeof error);
    assert_int_equal(
        lora__reader_open_memory(&reader, context, b->data, b->count, NULL),
        LORA_OK);
    status = lora__undo_open(&content, context, &reader, "undo", &error);
    lora__undo_close(&content);
    if (status != want || strstr(error.message, message) == NULL) {
        fail_msg("%d, not %d: %s", (int)status, (int)want, error.message);
    }
    assert_int_equal(lora_context_memory_live(context), before);
    assert_true(lora_context_memory_peak(context) < 1u << 20);
    free(b->data);
    memset(b, 0, sizeof *b);
}

static void begin_record(bytes *b,
                         const char modes[17],
                         uint64_t files,
                         uint64_t tensors,
                         uint64_t adapters)
{
    PUT(b, "LORAUND1");
    put_record(b, LORA__UNDO_BEGIN, 0, files, tensors, adapters, modes, 16);
}

static void claims_are_checked(void **state)
{
    bytes b = {NULL, 0, 0};

    (void)state;
    PUT(&b, "LORAUND2........................................");
    is_answered(&b, LORA_ERROR_FORMAT, "not an undo file");
    begin_record(&b, MODES("\2", "\0"), 1, 0, 0);
    is_answered(&b, LORA_ERROR_FORMAT, "mode");
    begin_record(&b, MODES("\0", "\2"), 1, 0, 0);
    is_answered(&b, LORA_ERROR_FORMAT, "mode");
    begin_record(&b, MODES("\0", "\0"), 2, 0, 0);
    RECORD(&b, END, 0, 1, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "files");
    begin_record(&b, MODES("\0", "\0"), UINT64_MAX, 0, 0);
    is_answered(&b, LORA_ERROR_LIMIT, "more");
    begin_record(&b, MODES("\0", "\0"), 1, UINT64_MAX, 0);
    is_answered(&b, LORA_ERROR_LIMIT, "more");
    begin_record(&b, MODES("\0", "\0"), 1, 50000, 0);
    is_answered(&b, LORA_ERROR_TRUNCATED, "more records");
    begin_record(&b, MODES("\1", "\0"), 1, 0, UINT64_MAX);
    is_answered(&b, LORA_ERROR_LIMIT, "more");
    begin_record(&b, MODES("\1", "\0"), 1, 0, UINT32_MAX);
    is_answered(&b, LORA_ERROR_TRUNCATED, "more records");
    begin_record(&b, MODES("\0", "\0"), 1, 0, 0);
    RECORD(&b, END, 0, 1, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "out of order");
    begin_record(&b, MODES("\0", "\0"), 1, 0, 0);
    RECORD(&b, FILE, 0, 0, 0, 9, "a");
    RECORD(&b, END, 0, 2, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "are missing");
    begin_record(&b, MODES("\0", "\0"), 1, 0, 0);
    RECORD(&b, FILE, 2, 0, 0, 0, "a");
    is_answered(&b, LORA_ERROR_FORMAT, "no such record");
    /* The least that is whole: a file of nothing. */
    begin_record(&b, MODES("\0", "\0"), 1, 0, 0);
    RECORD(&b, FILE, 0, 0, 0, 0, "a");
    RECORD(&b, END, 0, 2, 0, 0, "");
    is_answered(&b, LORA_OK, "");
}

static void names_stay_in_the_folder(void **state)
{
    static const char *const names[] = {
        "",   "/etc/x", "../x", "a/../x", "a/b/c",  ".x",   "a/.x", "a//x",
        "a/", "c:x",    "a\\x", "a\nx",   "a\x7Fx", "\xFF", "..",   ".",
    };
    bytes b = {NULL, 0, 0};

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        begin_record(&b, MODES("\0", "\1"), 1, 0, 0);
        put_record(&b, LORA__UNDO_FILE, 0, 0, 0, 0, names[i], strlen(names[i]));
        RECORD(&b, END, 0, 2, 0, 0, "");
        is_answered(&b, LORA_ERROR_FORMAT, "not that of a file");
    }
    begin_record(&b, MODES("\0", "\1"), 2, 0, 0);
    RECORD(&b, FILE, 0, 0, 0, 0, "a/x.y");
    RECORD(&b, FILE, 0, 1, 0, 0, "a/x.y");
    is_answered(&b, LORA_ERROR_DUPLICATE, "twice");
    begin_record(&b, MODES("\0", "\1"), 2, 0, 0);
    RECORD(&b, FILE, 0, 0, 0, 0, "a/x.y");
    RECORD(&b, FILE, 0, 1, 0, 0, "x.y");
    RECORD(&b, END, 0, 3, 0, 0, "");
    is_answered(&b, LORA_OK, "");
}

/* One file of 8 bytes and a tensor in it, before what is tried. */
static void begin_tensor(bytes *b, uint64_t offset, uint64_t size)
{
    begin_record(b, MODES("\0", "\0"), 1, 1, 0);
    RECORD(b, FILE, 0, 0, 0, 8, "a");
    RECORD(b, TENSOR, 0, 0, offset, size, "\0\0\0\0\1\0\0\0x");
}

static void extents_are_checked(void **state)
{
    static const char hashes[] = "0123456789abcdef0123456789abcdef"
                                 "0123456789abcdef0123456789abcdef";
    bytes b = {NULL, 0, 0};

    (void)state;
    begin_tensor(&b, 4, 5);
    is_answered(&b, LORA_ERROR_FORMAT, "in no file");
    begin_tensor(&b, UINT64_MAX, 8);
    is_answered(&b, LORA_ERROR_FORMAT, "in no file");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 0, 6, 4, "abcd");
    is_answered(&b, LORA_ERROR_FORMAT, "do not fit");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 1, 0, 4, "abcd");
    is_answered(&b, LORA_ERROR_FORMAT, "of nothing");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 0, 0, 3, "abcd");
    is_answered(&b, LORA_ERROR_FORMAT, "do not fit");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, LORA__UNDO_PACKED, 0, 0, 4, "abcd");
    is_answered(&b, LORA_ERROR_FORMAT, "do not fit");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DELTA, LORA__UNDO_PREDICTED, 0, 0, 4, "abcd");
    is_answered(&b, LORA_ERROR_FORMAT, "a flag");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DELTA, 0, 0, 0, 3, "abc");
    RECORD(&b, DELTA, 0, 0, 2, 2, "ab");
    RECORD(&b, HASH, 0, 0, 0, 0, hashes);
    RECORD(&b, END, 0, 6, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "there twice");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 0, 0, 3, "abc");
    RECORD(&b, HASH, 0, 0, 0, 0, hashes);
    RECORD(&b, END, 0, 5, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "missing");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 0, 0, 5, "abcde");
    RECORD(&b, HASH, 0, 0, 0, 0, hashes);
    RECORD(&b, END, 0, 5, 0, 0, "");
    is_answered(&b, LORA_ERROR_FORMAT, "missing");
    begin_tensor(&b, 4, 4);
    RECORD(&b, DATA, 0, 0, 0, 4, "abcd");
    RECORD(&b, HASH, 0, 0, 0, 0, hashes);
    RECORD(&b, END, 0, 5, 0, 0, "");
    is_answered(&b, LORA_OK, "");
}

/* Resources ----------------------------------------------------------------
 */

static void memory_may_run_out(void **state)
{
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        lora_error error;
        size_t done = 0;
        for (int over = 0; !over;) {
            const size_t files = count_files();
            memory.countdown = done++;
            memory.lasting = (int)(done & 1);
            over = fuse_now(mode) == LORA_OK;
            memory.countdown = SIZE_MAX;
            if (!over) {
                assert_int_equal(count_files(), files);
            }
        }
        for (int over = 0; !over;) {
            memory.countdown = done++ % 1000;
            memory.lasting = (int)(done & 1);
            over = unfuse_now(mode, &error) == LORA_OK;
            memory.countdown = SIZE_MAX;
            if (!over) {
                assert_int_equal(error.status, LORA_ERROR_MEMORY);
                assert_int_equal(count_files(), 3);
            }
        }
        check_same(base, back);
        assert_int_equal(remove(undo), 0);
        assert_int_equal(remove(back), 0);
        assert_int_equal(remove(fused), 0);
    }
}

static void limit_files(rlim_t most)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = most;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Files may have ever more bytes, until they may have all. */
static void disks_may_be_full(void **state)
{
    lora_error error;
    rlim_t most = 0;
    lora_status status;

    (void)state;
    (void)signal(SIGXFSZ, SIG_IGN);
    do {
        limit_files(most);
        status = fuse_now(LORA__UNDO_RAW);
        limit_files(RLIM_INFINITY);
        if (status != LORA_OK) {
            assert_int_equal(status, LORA_ERROR_IO);
            assert_int_equal(count_files(), 1);
        }
        /* Where the fused file, which this test writes, fits too. */
        most += status == LORA_OK || most > 4096 ? 65536 : 37;
    } while (status != LORA_OK);
    most = 0;
    do {
        limit_files(most);
        status = unfuse_now(LORA__UNDO_RAW, &error);
        limit_files(RLIM_INFINITY);
        if (status != LORA_OK) {
            assert_int_equal(status, LORA_ERROR_IO);
            assert_int_equal(count_files(), 3);
        }
        most += 13;
    } while (status != LORA_OK);
    check_same(base, back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cut_files_are_refused, begin_fused,
                                        end_fused),
        cmocka_unit_test_setup_teardown(flipped_bits_are_refused, begin_fused,
                                        end_fused),
        cmocka_unit_test_setup_teardown(moved_records_are_refused, begin_fused,
                                        end_fused),
        cmocka_unit_test_setup_teardown(claims_are_checked, begin, end),
        cmocka_unit_test_setup_teardown(names_stay_in_the_folder, begin, end),
        cmocka_unit_test_setup_teardown(extents_are_checked, begin, end),
        cmocka_unit_test_setup_teardown(memory_may_run_out, begin_fused,
                                        end_fused),
        cmocka_unit_test_setup_teardown(disks_may_be_full, begin_fused,
                                        end_fused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
