/* Fusing while something fails: memory, reads, the disk, the base that is cut
 * meanwhile, and cancelling at every moment. After a failure the files are
 * those of before, and the same call gives what it would have given.
 */
#ifdef _WIN32

/* Limits and folders are those of POSIX. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#include "api/reader.h"

#include <lora/fuse.h>

#include <signal.h>
#include <sys/resource.h>

#define OUT in_folder("out.safetensors")
#define UNDO in_folder("undo")

static image sample;
static image base;

/* ---- files ------------------------------------------------------------- */

/* The weights of the sample's modules, and two that nothing changes. */
static void image_weights(image *im)
{
    uint16_t halves[24];
    const float rest[40] = {1.0f};

    for (size_t i = 0; i < COUNT(halves); i++) {
        halves[i] = (uint16_t)(0x3000 + 37 * i);
    }
    image_begin(im, "\"note\":\"kept\"");
    image_f32(im, "first", "40", rest, 40);
    image_raw(im, SAMPLE_Q ".weight", "F16", "4,6", halves, 48);
    image_some(im, SAMPLE_CONV ".weight", "5,2,3,3", 90, 21);
    image_some(im, SAMPLE_CORE ".weight", "4,3,3,3", 108, 22);
    image_raw(im, SAMPLE_TE ".weight", "BF16", "4,3", halves, 24);
    image_raw(im, "last", "U8", "7", "1234567", 7);
    image_end(im);
}

/* Some of the base's tensors as a file of its own. */
static void put_shard(const char *file, const char *name, const char *shape)
{
    image part;
    size_t count = strcmp(shape, "4,6") == 0 ? 24 : 90;

    image_begin(&part, NULL);
    image_some(&part, name, shape, count, 23);
    image_end(&part);
    folder_put(file, part.file, part.bytes);
    image_free(&part);
}

static const char shard_index[] =
    "{\"weight_map\":{\"" SAMPLE_Q ".weight\":\"m-1.safetensors\","
    "\"" SAMPLE_CONV ".weight\":\"m-2.safetensors\"}}";

/* ---- the work ---------------------------------------------------------- */

typedef struct job {
    const char *name;
    int shards; /* 1: the base is in several files */
    int undo;   /* 1: with an undo file */
    lora_undo_mode mode;
    uint32_t flags;
    uint64_t shard_bytes;
    int files; /* that are written */
} job;

static const job jobs[] = {
    {"plain", 0, 0, 0, LORA_FUSE_OVERWRITE, 0, 1},
    {"stochastic", 0, 0, 0, LORA_FUSE_OVERWRITE | LORA_FUSE_STOCHASTIC, 0, 1},
    {"undo", 0, 1, LORA_UNDO_RAW, LORA_FUSE_OVERWRITE, 0, 2},
    {"predict", 0, 1, LORA_UNDO_PREDICT, LORA_FUSE_OVERWRITE, 0, 2},
    {"cut", 0, 0, 0, LORA_FUSE_OVERWRITE, 400, 0},
    {"shards", 1, 0, 0, LORA_FUSE_OVERWRITE, 0, 0},
    {"resumed", 0, 0, 0, LORA_FUSE_OVERWRITE | LORA_FUSE_RESUME, 0, 1},
    {"tried", 0, 1, 0, LORA_FUSE_DRY_RUN, 0, 0},
};

static const char *base_path(const job *j)
{
    return in_folder(j->shards ? "m.safetensors.index.json"
                               : "base.safetensors");
}

static void put_inputs(const job *j)
{
    folder_clear(NULL);
    if (!j->shards) {
        folder_put("base.safetensors", base.file, base.bytes);
        return;
    }
    put_shard("m-1.safetensors", SAMPLE_Q ".weight", "4,6");
    put_shard("m-2.safetensors", SAMPLE_CONV ".weight", "5,2,3,3");
    folder_put("m.safetensors.index.json", shard_index, sizeof shard_index - 1);
}

/* What is there in place of the output. */
static void put_old(const job *j)
{
    if (j->files > 0) {
        folder_put("out.safetensors", "old", 3);
        if (j->undo) {
            folder_put("undo", "old", 3);
        }
    }
}

static lora_status fuse_with(const job *j,
                             const lora_model *model,
                             const lora_binding *binding,
                             lora_error *error)
{
    static const lora_strength strength = {0.5, -1.0};
    lora_report *report = JUNK(lora_report);
    lora_model_fuse_options options;
    lora_status status;

    lora_model_fuse_options_init(&options, sizeof options);
    options.undo = j->undo ? UNDO : NULL;
    options.undo_mode = j->mode;
    options.flags = j->flags;
    options.shard_bytes = j->shard_bytes;
    status =
        lora_model_fuse(&report, model, &binding, &strength, 1,
                        j->shards ? in_folder("fused") : OUT, &options, error);
    assert_int_equal(report != NULL, status == LORA_OK);
    lora_report_destroy(report);
    return status;
}

/* Open, bind and fuse. */
static lora_status fuse(const job *j,
                        lora_context *context,
                        lora_adapter *adapter,
                        lora_error *error)
{
    lora_model *model = JUNK(lora_model);
    lora_binding *binding = JUNK(lora_binding);
    lora_status status =
        lora_model_open(&model, context, base_path(j), NULL, error);

    if (status != LORA_OK) {
        assert_null(model);
        return status;
    }
    status = lora_binding_create(&binding, model, adapter, NULL, error);
    if (status == LORA_OK) {
        status = fuse_with(j, model, binding, error);
        lora_binding_destroy(binding);
    } else {
        assert_null(binding);
    }
    lora_model_destroy(model);
    return status;
}

/* ---- what is left ------------------------------------------------------ */

/* All bytes of the folder and those in it, by the sorted names, in one; of an
 * undo file, whose records come in any order, its length alone. */
typedef struct listing {
    unsigned char bytes[1 << 15];
    size_t count;
} listing;

static void list_file(listing *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t first = out->count + strlen(path) + 1;

    assert_non_null(file);
    assert_true(sizeof out->bytes - out->count > strlen(path) + 1);
    memcpy(out->bytes + out->count, path, strlen(path) + 1);
    out->count += strlen(path) + 1;
    out->count +=
        fread(out->bytes + out->count, 1, sizeof out->bytes - out->count, file);
    assert_true(out->count < sizeof out->bytes && feof(file));
    fclose(file);
    if (strcmp(path, UNDO) == 0 && out->count > first + 3) {
        memset(out->bytes + first, 0, out->count - first);
    }
}

static void list(listing *out, const char *where)
{
    struct dirent **names;
    int count = scandir(where, &names, NULL, alphasort);

    assert_true(count >= 0);
    for (int i = 0; i < count; i++) {
        char path[400];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", where, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            assert_int_equal(stat(path, &st), 0);
            if (S_ISDIR(st.st_mode)) {
                list(out, path);
            } else {
                list_file(out, path);
            }
        }
        free(names[i]);
    }
    free(names);
}

static void assert_listing(const listing *expected)
{
    static listing now;

    now.count = 0;
    list(&now, folder);
    assert_int_equal(now.count, expected->count);
    assert_memory_equal(now.bytes, expected->bytes, now.count);
}

/* Remove what a job has written, folders too. */
static void clean(const job *j)
{
    if (j->shards) {
        static const char *const names[] = {
            "m-1.safetensors", "m-2.safetensors", "m.safetensors.index.json"};
        for (size_t i = 0; i < COUNT(names); i++) {
            char path[100];
            snprintf(path, sizeof path, "fused/%s", names[i]);
            (void)remove(in_folder(path));
        }
        (void)rmdir(in_folder("fused"));
    }
    put_inputs(j);
    put_old(j);
}

/* Before a job, and after one that nothing disturbs. */
static void expect(const job *j, listing *before, listing *after)
{
    lora_context *context = plain_context();
    lora_adapter *adapter = open_image(context, &sample);
    lora_error error;

    before->count = after->count = 0;
    clean(j);
    list(before, folder);
    CHECK(LORA_OK, LORA_NO_OFFSET, "", fuse(j, context, adapter, &error));
    list(after, folder);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    clean(j);
}

static listing before;
static listing after;

/* After a failure; a job that can be resumed leaves what it needs for that. */
static void assert_before(const job *j)
{
    if ((j->flags & LORA_FUSE_RESUME) != 0) {
        (void)remove(in_folder("out.safetensors.partial"));
        (void)remove(in_folder("out.safetensors.journal"));
    }
    assert_listing(&before);
}

/* ---- memory ------------------------------------------------------------ */

/* Of opening, binding and fusing; 0 when nothing failed any more. */
static int fail_memory(const job *j, size_t n, int lasting)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_adapter *adapter = open_image(context, &sample);
    size_t live = h.live;
    size_t met;
    lora_error error;
    lora_status status;

    clean(j);
    h.lasting = lasting;
    h.fail_at = h.calls + n;
    error_dirty(&error);
    status = fuse(j, context, adapter, &error);
    met = h.met;
    h.fail_at = SIZE_MAX;
    h.lasting = 0;
    if (met != 0) {
        assert_error(&error, status, LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL);
        assert_int_equal(h.live, live);
        if (n % 2 != 0 || (j->flags & LORA_FUSE_RESUME) == 0) {
            assert_before(j);
        } /* else what it left is resumed */
        CHECK(LORA_OK, LORA_NO_OFFSET, "", fuse(j, context, adapter, &error));
    } else {
        assert_error(&error, status, LORA_OK, LORA_NO_OFFSET, "");
    }
    assert_listing(&after);
    assert_int_equal(h.live, live);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
    return met != 0;
}

static void test_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(jobs); i++) {
        expect(&jobs[i], &before, &after);
        for (int lasting = 0; lasting <= 1; lasting++) {
            size_t n = 0;
            while (fail_memory(&jobs[i], n, lasting)) {
                n++;
            }
            assert_true(n > 20);
        }
        clean(&jobs[i]);
    }
}

/* ---- reading ----------------------------------------------------------- */

/* Every read of the adapter. */
static void test_reads(void **state)
{
    (void)state;
    expect(&jobs[2], &before, &after);
    for (size_t n = 0;; n++) {
        heap h;
        lora_context *context = heap_context(&h, NULL);
        source s = source_of(&sample);
        lora_reader reader = source_reader(&s);
        lora_adapter *adapter = NULL;
        lora_error error;
        lora_status status;
        clean(&jobs[2]);
        s.fail_at = n;
        error_dirty(&error);
        status =
            lora_adapter_open_reader(&adapter, context, &reader, NULL, &error);
        if (status == LORA_OK) {
            status = fuse(&jobs[2], context, adapter, &error);
        }
        lora_adapter_destroy(adapter);
        heap_end(&h, context);
        if (s.reads <= n) {
            assert_error(&error, status, LORA_OK, LORA_NO_OFFSET, "");
            assert_true(n > 4);
            break;
        }
        assert_error(&error, status, LORA_ERROR_IO, ANY_OFFSET, NULL);
        assert_listing(&before);
    }
    assert_listing(&after);
    clean(&jobs[2]);
}

/* The base is cut at every length after it was opened. */
static void test_cut_base(void **state)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_adapter *adapter = open_image(context, &sample);
    size_t data = base.bytes - base.data_bytes;

    (void)state;
    for (size_t bytes = 0; bytes < base.bytes; bytes += bytes < data ? 97 : 7) {
        lora_model *model = NULL;
        lora_binding *binding = NULL;
        lora_error error;
        lora_status status;
        clean(&jobs[0]);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_model_open(&model, context, base_path(&jobs[0]), NULL,
                              &error));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_binding_create(&binding, model, adapter, NULL, &error));
        assert_int_equal(truncate(base_path(&jobs[0]), (off_t)bytes), 0);
        before.count = 0;
        list(&before, folder);
        error_dirty(&error);
        status = fuse_with(&jobs[0], model, binding, &error);
        assert_true(status == LORA_ERROR_IO || status == LORA_ERROR_TRUNCATED);
        assert_error(&error, status, status, ANY_OFFSET, NULL);
        assert_listing(&before);
        lora_binding_destroy(binding);
        lora_model_destroy(model);
    }
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
    clean(&jobs[0]);
}

/* ---- the disk ---------------------------------------------------------- */

static void test_full_disk(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter = open_image(context, &sample);
    struct rlimit unlimited;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < COUNT(jobs) - 1; i++) {
        size_t most = jobs[i].shards || jobs[i].shard_bytes ? 300 : base.bytes;
        expect(&jobs[i], &before, &after);
        for (size_t room = 0; room < most; room += 41) {
            struct rlimit limit = {room, unlimited.rlim_max};
            lora_error error;
            lora_status status;
            clean(&jobs[i]);
            error_dirty(&error);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
            status = fuse(&jobs[i], context, adapter, &error);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
            assert_error(&error, status, LORA_ERROR_IO, LORA_NO_OFFSET, NULL);
            assert_int_equal(error.os_error, EFBIG);
            assert_before(&jobs[i]);
        }
        clean(&jobs[i]);
    }
    signal(SIGXFSZ, SIG_DFL);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
}

/* Outputs that are there, and places that are not. */
static void test_places(void **state)
{
    lora_context *context = plain_context();
    lora_adapter *adapter = open_image(context, &sample);
    job j = jobs[2];
    lora_error error;

    (void)state;
    j.flags = 0;
    clean(&j);
    before.count = 0;
    list(&before, folder);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, OUT,
          fuse(&j, context, adapter, &error));
    assert_int_equal(error.os_error, EEXIST);
    assert_listing(&before);
    assert_int_equal(remove(OUT), 0);
    before.count = 0;
    list(&before, folder);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, UNDO,
          fuse(&j, context, adapter, &error));
    assert_int_equal(error.os_error, EEXIST);
    assert_listing(&before);
    clean(&j);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
}

/* ---- cancelling -------------------------------------------------------- */

typedef struct canceller {
    size_t calls;
    size_t stop_at;
} canceller;

static int32_t
cancel_nth(void *user, const char *stage, uint64_t done, uint64_t total)
{
    canceller *c = user;

    (void)stage;
    assert_true(done <= total);
    return c->calls++ >= c->stop_at;
}

static void cancel_everywhere(const job *j, uint32_t threads)
{
    for (size_t n = 0;; n++) {
        canceller c = {0, n};
        lora_context_options options;
        lora_context *context;
        lora_adapter *adapter;
        lora_error error;
        lora_status status;
        heap h;
        lora_context_options_init(&options, sizeof options);
        options.max_threads = threads;
        options.progress = cancel_nth;
        options.progress_user = &c;
        context = heap_context(&h, &options);
        adapter = open_image(context, &sample);
        clean(j);
        error_dirty(&error);
        status = fuse(j, context, adapter, &error);
        if (status == LORA_OK) {
            assert_true(n > 2 && c.calls <= n);
        } else {
            assert_error(&error, status, LORA_ERROR_CANCELLED, LORA_NO_OFFSET,
                         NULL);
            if (n % 2 != 0 || (j->flags & LORA_FUSE_RESUME) == 0) {
                assert_before(j);
            }
            c.stop_at = SIZE_MAX;
            CHECK(LORA_OK, LORA_NO_OFFSET, "",
                  fuse(j, context, adapter, &error));
        }
        assert_listing(&after);
        lora_adapter_destroy(adapter);
        heap_end(&h, context);
        if (status == LORA_OK) {
            break;
        }
    }
}

static void test_cancel(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(jobs) - 1; i++) {
        expect(&jobs[i], &before, &after);
        cancel_everywhere(&jobs[i], 1);
        cancel_everywhere(&jobs[i], lora_feature_supported("threads") ? 3 : 1);
        clean(&jobs[i]);
    }
}

static int set_up(void **state)
{
    image_sample(&sample);
    image_weights(&base);
    return folder_make(state);
}

static int tear_down(void **state)
{
    image_free(&sample);
    image_free(&base);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_memory, folder_clear),
        cmocka_unit_test_setup(test_reads, folder_clear),
        cmocka_unit_test_setup(test_cut_base, folder_clear),
        cmocka_unit_test_setup(test_full_disk, folder_clear),
        cmocka_unit_test_setup(test_places, folder_clear),
        cmocka_unit_test_setup(test_cancel, folder_clear),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
