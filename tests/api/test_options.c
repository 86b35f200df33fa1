/* The rules of structs that may grow, for every one of them: options, tables
 * of functions, and results.
 */
#ifdef _WIN32

/* Saving needs a folder, made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/pair.h"

#define ROOM 512 /* bytes: no struct is larger */
#define LATER 24 /* bytes that a later release might have appended */

static lora_context *context;
static lora_adapter *adapter;
static lora_report *ranks;    /* of a resize */
static lora_report *findings; /* of a check */
static image sample;

/* Options ---------------------------------------------------------------- */

static lora_status use_context(const void *options, lora_error *error)
{
    lora_context *out = JUNK(lora_context);
    lora_status status = lora_context_create(&out, options, error);

    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_context_destroy(out);
    return status;
}

/* Give up the adapter a call made, which is NULL if it failed. */
static lora_status end_adapter(lora_adapter *out, lora_status status)
{
    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_adapter_destroy(out);
    return status;
}

static lora_status use_open(const void *options, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status = lora_adapter_open_memory(&out, context, sample.file,
                                                  sample.bytes, options, error);

    return end_adapter(out, status);
}

static lora_status use_convert(const void *options, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status = lora_adapter_convert(&out, adapter, options, error);

    return end_adapter(out, status);
}

static lora_status use_embed(const void *options, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status =
        lora_adapter_insert_embeddings(&out, adapter, NULL, 0, options, error);

    return end_adapter(out, status);
}

static lora_status use_resize(const void *options, lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status =
        lora_adapter_resize(&out, &report, adapter, &rule, options, error);

    if (status != LORA_OK) {
        assert_null(report);
    }
    lora_report_destroy(report);
    return end_adapter(out, status);
}

static lora_status use_extract(const void *options, lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status;

    pair_make();
    status = lora_adapter_extract(&out, &report, context, PAIR_BASE, PAIR_TUNED,
                                  &rule, options, error);
    folder_count(1);
    if (status != LORA_OK) {
        assert_null(report);
    }
    lora_report_destroy(report);
    return end_adapter(out, status);
}

static lora_status use_describe(const void *options, lora_error *error)
{
    lora_report *out = JUNK(lora_report);
    lora_status status = lora_adapter_describe(&out, adapter, options, error);

    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_report_destroy(out);
    return status;
}

static lora_status use_check(const void *options, lora_error *error)
{
    lora_report *out = JUNK(lora_report);
    lora_status status = lora_adapter_check(&out, adapter, options, error);

    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_report_destroy(out);
    return status;
}

static lora_status use_fix(const void *options, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status = lora_adapter_fix(&out, NULL, adapter, options, error);

    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_adapter_destroy(out);
    return status;
}

static lora_status use_save(const void *options, lora_error *error)
{
    lora_status status = lora_adapter_save(
        adapter, in_folder("save.safetensors"), options, error);

    assert_int_equal(folder_count(1), status == LORA_OK ? 1 : 0);
    return status;
}

static lora_status use_delta(const void *options, lora_error *error)
{
    lora_status status = lora_adapter_save_delta(
        adapter, in_folder("delta.safetensors"), 1.0, options, error);

    assert_int_equal(folder_count(1), status == LORA_OK ? 1 : 0);
    return status;
}

static lora_status use_edit(const void *options, lora_error *error)
{
    lora_status status;

    folder_put("edit", sample.file, sample.bytes);
    status = lora_metadata_edit_file(NULL, context, in_folder("edit"), NULL, 0,
                                     options, error);
    folder_count(1);
    return status;
}

#define INIT(type)                                                             \
    static void init_##type(void *options, size_t size)                        \
    {                                                                          \
        lora_##type##_options_init(options, size);                             \
    }

INIT(context)
INIT(adapter_open)
INIT(adapter_describe)
INIT(adapter_save)
INIT(adapter_delta)
INIT(adapter_check)
INIT(adapter_fix)
INIT(adapter_convert)
INIT(adapter_embed)
INIT(adapter_resize)
INIT(adapter_extract)
INIT(metadata_edit)

static const struct {
    const char *name;
    size_t size;
    void (*init)(void *options, size_t size);
    lora_status (*use)(const void *options, lora_error *error);
} all_options[] = {
    {"context", sizeof(lora_context_options), init_context, use_context},
    {"open", sizeof(lora_adapter_open_options), init_adapter_open, use_open},
    {"describe", sizeof(lora_adapter_describe_options), init_adapter_describe,
     use_describe},
    {"save", sizeof(lora_adapter_save_options), init_adapter_save, use_save},
    {"delta", sizeof(lora_adapter_delta_options), init_adapter_delta,
     use_delta},
    {"check", sizeof(lora_adapter_check_options), init_adapter_check,
     use_check},
    {"fix", sizeof(lora_adapter_fix_options), init_adapter_fix, use_fix},
    {"convert", sizeof(lora_adapter_convert_options), init_adapter_convert,
     use_convert},
    {"embed", sizeof(lora_adapter_embed_options), init_adapter_embed,
     use_embed},
    {"resize", sizeof(lora_adapter_resize_options), init_adapter_resize,
     use_resize},
    {"extract", sizeof(lora_adapter_extract_options), init_adapter_extract,
     use_extract},
    {"edit", sizeof(lora_metadata_edit_options), init_metadata_edit, use_edit},
};

static int all_bytes_are(const void *data, size_t bytes, unsigned char value)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < bytes; i++) {
        if (p[i] != value) {
            return 0;
        }
    }
    return 1;
}

static size_t size_in(const void *options)
{
    size_t size;

    memcpy(&size, options, sizeof size);
    return size;
}

/* The size, zeros up to it, and nothing beyond. */
static void test_init(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(all_options); i++) {
        const size_t sizes[] = {sizeof(size_t), all_options[i].size,
                                all_options[i].size + LATER};
        unsigned char options[ROOM];
        for (size_t s = 0; s < COUNT(sizes); s++) {
            memset(options, 0xEE, sizeof options);
            all_options[i].init(options, sizes[s]);
            assert_int_equal(size_in(options), sizes[s]);
            assert_true(all_bytes_are(options + sizeof(size_t),
                                      sizes[s] - sizeof(size_t), 0));
            assert_true(
                all_bytes_are(options + sizes[s], ROOM - sizes[s], 0xEE));
        }
        memset(options, 0xEE, sizeof options);
        all_options[i].init(options, sizeof(size_t) - 1);
        assert_true(all_bytes_are(options, sizeof options, 0xEE));
        all_options[i].init(NULL, all_options[i].size);
    }
}

/* A struct is handed over in a block of just its size, so that a sanitizer
 * sees reads beyond it. */
static void expect(size_t which, size_t size, int tail, lora_status expected)
{
    unsigned char *options = malloc(size < sizeof size ? sizeof size : size);
    lora_error error;

    assert_non_null(options);
    all_options[which].init(options, size < sizeof size ? sizeof size : size);
    memcpy(options, &size, sizeof size);
    if (tail) {
        options[size - 1] = 1;
    }
    error_dirty(&error);
    assert_error(&error, all_options[which].use(options, &error), expected,
                 LORA_NO_OFFSET, NULL);
    free(options);
}

static void test_options_of_any_age(void **state)
{
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(all_options); i++) {
        size_t size = all_options[i].size;
        CHECK(LORA_OK, LORA_NO_OFFSET, "", all_options[i].use(NULL, &error));
        expect(i, 0, 0, LORA_ERROR_ARGUMENT);
        expect(i, sizeof(size_t), 0, LORA_ERROR_ARGUMENT);
        expect(i, size - 1, 0, LORA_ERROR_ARGUMENT);
        expect(i, size, 0, LORA_OK);
        expect(i, size + 1, 0, LORA_OK);
        expect(i, size + LATER, 0, LORA_OK);
        expect(i, size + 1, 1, LORA_ERROR_OPTION);
        expect(i, size + LATER, 1, LORA_ERROR_OPTION);
    }
}

/* Tables ----------------------------------------------------------------- */

static heap table_heap;
static int destroyed;

static uint32_t one(void *user)
{
    (void)user;
    return 1;
}

static void serially(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = 0; i < count; i++) {
        fn(arg, i, 0);
    }
}

static lora_status sample_size(void *user, uint64_t *out_bytes)
{
    (void)user;
    *out_bytes = sample.bytes;
    return LORA_OK;
}

static lora_status sample_read(
    void *user, uint64_t offset, void *buffer, size_t bytes, size_t *out_got)
{
    (void)user;
    *out_got = 0;
    if (offset < sample.bytes) {
        uint64_t left = sample.bytes - offset;
        *out_got = left < bytes ? (size_t)left : bytes;
        memcpy(buffer, sample.file + offset, *out_got);
    }
    return LORA_OK;
}

static void sample_destroy(void *user)
{
    (void)user;
    destroyed++;
}

static lora_status sink_write(void *user, const void *data, size_t bytes)
{
    (void)user;
    (void)data;
    (void)bytes;
    return LORA_OK;
}

static lora_status sink_finish(void *user)
{
    (void)user;
    return LORA_OK;
}

#define CONTEXT_TABLE(member)                                                  \
    static lora_status use_##member(const void *table, lora_error *error)      \
    {                                                                          \
        lora_context_options options;                                          \
        lora_context_options_init(&options, sizeof options);                   \
        options.member = table;                                                \
        return use_context(&options, error);                                   \
    }

CONTEXT_TABLE(allocator)
CONTEXT_TABLE(executor)
CONTEXT_TABLE(backend)
CONTEXT_TABLE(limits)

static lora_status use_reader(const void *table, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status =
        lora_adapter_open_reader(&out, context, table, NULL, error);

    return end_adapter(out, status);
}

static lora_status use_writer(const void *table, lora_error *error)
{
    return lora_adapter_save_writer(adapter, table, error);
}

static const lora_executor an_executor = {sizeof an_executor, NULL, one,
                                          serially};
static const lora_backend a_backend = {.struct_size = sizeof a_backend,
                                       .name = "none"};
static const lora_limits some_limits = {.struct_size = sizeof some_limits};
static const lora_reader a_reader = {sizeof a_reader, NULL, sample_size,
                                     sample_read,     NULL, sample_destroy};
static const lora_writer a_writer = {sizeof a_writer, NULL, sink_write,
                                     sink_finish, NULL};

static void test_tables_of_any_age(void **state)
{
    const lora_allocator an_allocator = heap_hooks(&table_heap);
    const struct {
        const void *table;
        size_t size;
        lora_status (*use)(const void *table, lora_error *error);
    } all[] = {
        {&an_allocator, sizeof an_allocator, use_allocator},
        {&an_executor, sizeof an_executor, use_executor},
        {&a_backend, sizeof a_backend, use_backend},
        {&some_limits, sizeof some_limits, use_limits},
        {&a_reader, sizeof a_reader, use_reader},
        {&a_writer, sizeof a_writer, use_writer},
    };
    lora_error error;

    (void)state;
    heap_init(&table_heap);
    for (size_t i = 0; i < COUNT(all); i++) {
        const struct {
            size_t size;
            int tail;
            lora_status status;
        } cases[] = {
            {0, 0, LORA_ERROR_ARGUMENT},
            {all[i].size - 1, 0, LORA_ERROR_ARGUMENT},
            {all[i].size, 0, LORA_OK},
            {all[i].size + LATER, 0, LORA_OK},
            {all[i].size + LATER, 1, LORA_ERROR_OPTION},
        };
        for (size_t c = 0; c < COUNT(cases); c++) {
            unsigned char table[ROOM] = {0};
            memcpy(table, all[i].table, all[i].size);
            memcpy(table, &cases[c].size, sizeof cases[c].size);
            if (cases[c].tail) {
                table[cases[c].size - 1] = 1;
            }
            CHECK(cases[c].status, LORA_NO_OFFSET, NULL,
                  all[i].use(table, &error));
        }
    }
    assert_int_equal(table_heap.live, 0);
    assert_int_equal(table_heap.misused, 0);
    assert_int_equal(destroyed, 2); /* each reader that was taken, once */
}

/* Results ---------------------------------------------------------------- */

static lora_status get_info(void *out, lora_error *error)
{
    return lora_adapter_get_info(out, adapter, error);
}

static lora_status get_module(void *out, lora_error *error)
{
    return lora_adapter_get_module(out, adapter, 1, error);
}

static lora_status get_tensor_info(void *out, lora_error *error)
{
    return lora_adapter_get_tensor_info(out, adapter, 1, error);
}

static lora_status get_ranks(void *out, lora_error *error)
{
    return lora_report_get_module(out, ranks, 1, error);
}

static lora_status get_problem(void *out, lora_error *error)
{
    return lora_report_get_problem(out, findings, 0, error);
}

static lora_status get_hashes(void *out, lora_error *error)
{
    lora_status status;

    folder_put("hash", sample.file, sample.bytes);
    status = lora_hash_file(out, context, in_folder("hash"), error);
    folder_count(1);
    return status;
}

static lora_status get_edit(void *out, lora_error *error)
{
    const lora_metadata_change change = {"ss_network_dim", NULL};
    lora_status status;

    folder_put("edit", sample.file, sample.bytes);
    status = lora_metadata_edit_file(out, context, in_folder("edit"), &change,
                                     1, NULL, error);
    folder_count(1);
    return status;
}

static void test_results_of_any_age(void **state)
{
    static const struct {
        size_t size;
        lora_status (*get)(void *out, lora_error *error);
    } all[] = {
        {sizeof(lora_adapter_info), get_info},
        {sizeof(lora_module_info), get_module},
        {sizeof(lora_tensor_info), get_tensor_info},
        {sizeof(lora_report_module), get_ranks},
        {sizeof(lora_problem), get_problem},
        {sizeof(lora_hashes), get_hashes},
        {sizeof(lora_metadata_edit), get_edit},
    };
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(all); i++) {
        unsigned char whole[ROOM];
        unsigned char out[ROOM];
        const size_t sizes[] = {sizeof(size_t), all[i].size - 4,
                                all[i].size + LATER};

        memset(whole, 0xEE, sizeof whole);
        memcpy(whole, &all[i].size, sizeof(size_t));
        CHECK(LORA_OK, LORA_NO_OFFSET, "", all[i].get(whole, &error));
        assert_int_equal(size_in(whole), all[i].size);
        assert_true(
            all_bytes_are(whole + all[i].size, ROOM - all[i].size, 0xEE));

        for (size_t s = 0; s < COUNT(sizes); s++) {
            size_t shared = sizes[s] < all[i].size ? sizes[s] : all[i].size;
            memset(out, 0xEE, sizeof out);
            memcpy(out, &sizes[s], sizeof(size_t));
            CHECK(LORA_OK, LORA_NO_OFFSET, "", all[i].get(out, &error));
            assert_int_equal(size_in(out), sizes[s]);
            assert_memory_equal(out + sizeof(size_t), whole + sizeof(size_t),
                                shared - sizeof(size_t));
            assert_true(all_bytes_are(out + shared, sizes[s] - shared, 0));
            assert_true(all_bytes_are(out + sizes[s], ROOM - sizes[s], 0xEE));
        }

        memset(out, 0, sizeof out); /* struct_size was not set */
        CHECK_ARGUMENT(all[i].get(out, &error));
        assert_true(all_bytes_are(out, sizeof out, 0));
    }
}

/* Together --------------------------------------------------------------- */

static int set_up(void **state)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *resized;

    if (folder_make(state) != 0) {
        return 1;
    }
    image_sample(&sample);
    context = plain_context();
    adapter = open_image(context, &sample);
    assert_int_equal(
        lora_adapter_resize(&resized, &ranks, adapter, &rule, NULL, NULL),
        LORA_OK);
    lora_adapter_destroy(resized);
    assert_int_equal(lora_adapter_check(&findings, adapter, NULL, NULL),
                     LORA_OK);
    return lora_report_problem_count(findings) == 0; /* a stale rank */
}

static int tear_down(void **state)
{
    lora_report_destroy(findings);
    lora_report_destroy(ranks);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    image_free(&sample);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_options_of_any_age),
        cmocka_unit_test(test_tables_of_any_age),
        cmocka_unit_test(test_results_of_any_age),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
