/* Extraction: a difference that is known beforehand, refusals, journals,
 * progress and cancelling, and that the number of threads changes nothing.
 */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/pair.h"

static heap h;
static lora_context *context;

static const lora_rank_rule one_rank = {LORA_RANK_FIXED, 1, 0.0};

static lora_status extract(lora_adapter **out,
                           const lora_adapter_extract_options *options,
                           lora_error *error)
{
    lora_report *report = JUNK(lora_report);
    lora_status status;

    *out = JUNK(lora_adapter);
    status = lora_adapter_extract(out, &report, context, PAIR_BASE, PAIR_TUNED,
                                  &one_rank, options, error);
    assert_true((status == LORA_OK) == (*out != NULL));
    assert_true((status == LORA_OK) == (report != NULL));
    lora_report_destroy(report);
    return status;
}

static lora_adapter *extracted(const lora_adapter_extract_options *options)
{
    lora_adapter *adapter;
    lora_error error;

    CHECK(LORA_OK, LORA_NO_OFFSET, "", extract(&adapter, options, &error));
    return adapter;
}

static lora_adapter_extract_options defaults(void)
{
    lora_adapter_extract_options options;

    lora_adapter_extract_options_init(&options, sizeof options);
    return options;
}

/* ---- numbers ----------------------------------------------------------- */

/* Factors of F32 with values up to 12: three roundings, 12 * 3 * 2^-24. */
static void test_numbers(void **state)
{
    lora_adapter_extract_options options = defaults();
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    lora_error error;

    (void)state;
    options.dtype = LORA_DTYPE_F32;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_extract(&adapter, &report, context, PAIR_BASE,
                               PAIR_TUNED, &one_rank, &options, &error));
    assert_int_equal(lora_adapter_module_count(adapter), PAIR_LAYERS);
    assert_int_equal(lora_report_module_count(report), PAIR_LAYERS);
    for (size_t i = 0; i < PAIR_LAYERS; i++) {
        const pair_layer *l = &pair_layers[i];
        lora_report_module m = {.struct_size = sizeof m};
        double delta[PAIR_MOST];
        char name[200];
        double squares = 0.0;
        snprintf(name, sizeof name, "unet.%s", l->name);
        assert_int_equal(lora_adapter_delta(
                             delta, l->rows * l->cols * sizeof *delta, adapter,
                             module_at(adapter, name), LORA_PART_WEIGHT, 1.0,
                             LORA_DTYPE_F64, 0, (int64_t)l->rows, NULL),
                         LORA_OK);
        for (size_t k = 0; k < l->rows * l->cols; k++) {
            double want = pair_delta(i, k / l->cols, k % l->cols);
            assert_true(fabs(delta[k] - want) < 12.0 * 3.0 / (1 << 24));
            squares += want * want;
        }
        assert_int_equal(lora_report_get_module(&m, report, i, NULL), LORA_OK);
        assert_string_equal(m.name, l->name);
        assert_int_equal(m.rank_out, 1);
        assert_true(fabs(m.sigma[0] - sqrt(squares)) < 1e-5);
        assert_true(fabs(m.energy - 1.0) < 1e-6);
        assert_true(m.frobenius == sqrt(m.energy));
        assert_true(m.largest == m.sigma[0] && m.least == m.sigma[0]);
        assert_true(fabs(m.stable_rank - 1.0) < 1e-6);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
}

/* The report and the error are optional. */
static void test_optional(void **state)
{
    lora_adapter *adapter = NULL;

    (void)state;
    assert_int_equal(lora_adapter_extract(&adapter, NULL, context, PAIR_BASE,
                                          PAIR_TUNED, NULL, NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_module_count(adapter), PAIR_LAYERS);
    lora_adapter_destroy(adapter);
}

/* ---- arguments --------------------------------------------------------- */

static void test_arguments(void **state)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_adapter_extract(NULL, &report, context, "a", "b",
                                        &one_rank, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_extract(&out, &report, NULL, "a", "b",
                                        &one_rank, NULL, &error));
    assert_null(out);
    assert_null(report);
    out = JUNK(lora_adapter);
    CHECK_ARGUMENT(lora_adapter_extract(&out, NULL, context, NULL, "b",
                                        &one_rank, NULL, &error));
    assert_null(out);
    CHECK_ARGUMENT(lora_adapter_extract(&out, NULL, context, "a", NULL,
                                        &one_rank, NULL, &error));
}

#define REFUSE(status, setting)                                                \
    do {                                                                       \
        lora_adapter_extract_options options = defaults();                     \
        lora_adapter *out;                                                     \
        lora_error error;                                                      \
        setting;                                                               \
        CHECK(status, LORA_NO_OFFSET, NULL, extract(&out, &options, &error));  \
    } while (0)

static void test_options(void **state)
{
    static const lora_rank_rule odd = {LORA_RANK_ENERGY, 0, 1.5};
    static const lora_rank_rule size = {LORA_RANK_SIZE, 0, 1e6};
    static const lora_rank_override unnamed = {NULL, {LORA_RANK_FIXED, 1, 0.0}};
    static const lora_rank_override wrong = {"*", {LORA_RANK_FIXED, 0, 0.0}};
    static const char *const nothing[1] = {NULL};

    (void)state;
    REFUSE(LORA_ERROR_ARGUMENT, options.kind = -1);
    REFUSE(LORA_ERROR_ARGUMENT, options.kind = LORA_EXTRACT_FULL + 1);
    REFUSE(LORA_ERROR_ARGUMENT, options.counting = LORA_COUNT_LYCORIS + 1);
    REFUSE(LORA_ERROR_ARGUMENT, options.split = -1);
    REFUSE(LORA_ERROR_ARGUMENT, options.conv_rule = &size);
    REFUSE(LORA_ERROR_ARGUMENT, options.flags = 16);
    REFUSE(LORA_ERROR_ARGUMENT, options.flags = LORA_EXTRACT_RESUME);
    REFUSE(LORA_ERROR_ARGUMENT, options.dialect = "none such");
    REFUSE(LORA_ERROR_ARGUMENT, options.include_count = 1);
    REFUSE(LORA_ERROR_ARGUMENT,
           (options.include = nothing, options.include_count = 1));
    REFUSE(LORA_ERROR_ARGUMENT,
           (options.exclude = nothing, options.exclude_count = 1));
    REFUSE(LORA_ERROR_ARGUMENT, options.override_count = 1);
    REFUSE(LORA_ERROR_ARGUMENT,
           (options.overrides = &unnamed, options.override_count = 1));
    REFUSE(LORA_ERROR_RANGE,
           (options.overrides = &wrong, options.override_count = 1));
    REFUSE(LORA_ERROR_RANGE, options.conv_rule = &odd);
    REFUSE(LORA_ERROR_RANGE, options.max_rank = -1);
    REFUSE(LORA_ERROR_RANGE, (options.max_rank = 1, options.min_rank = 2));
    REFUSE(LORA_ERROR_RANGE, options.clamp = 0.5);
    REFUSE(LORA_ERROR_RANGE, options.clamp = 1.5);
    REFUSE(LORA_ERROR_RANGE, options.clamp = NAN);
    REFUSE(LORA_ERROR_DTYPE, options.dtype = LORA_DTYPE_I32);
    REFUSE(LORA_ERROR_IO, options.journal = in_folder("none/journal"));
    assert_int_equal(folder_count(0), 2);
}

/* ---- inputs ------------------------------------------------------------ */

static void spoil(size_t layer, float *values)
{
    if (layer == 2) {
        values[7] = NAN;
    }
}

static void test_nonfinite(void **state)
{
    lora_adapter_extract_options options = defaults();
    lora_adapter *out;
    lora_error error;

    (void)state;
    pair_put("base.safetensors", 0, spoil);
    CHECK(LORA_ERROR_NONFINITE, ANY_OFFSET, PAIR_BLOCK "attn2.to_v.weight",
          extract(&out, NULL, &error));
    assert_non_null(strstr(error.message, "1 of 48 values"));
    assert_non_null(strstr(error.message, "element 7;"));
    assert_non_null(strstr(error.message, "in the base"));
    assert_non_null(strstr(error.message, PAIR_BASE));
    options.flags = LORA_EXTRACT_SKIP_BAD;
    out = extracted(&options);
    assert_int_equal(lora_adapter_module_count(out), PAIR_LAYERS - 1);
    lora_adapter_destroy(out);
}

static size_t warnings;

static void count_warnings(void *user, lora_log_level level, const char *line)
{
    (void)user;
    warnings += level == LORA_LOG_WARNING && strstr(line, "4x3") != NULL;
}

/* Each tensor whose shape differs is told of. */
static void test_shapes(void **state)
{
    lora_context_options options;
    lora_adapter *out;
    lora_error error;
    image im;

    (void)state;
    lora_context_destroy(context);
    lora_context_options_init(&options, sizeof options);
    options.log = count_warnings;
    context = heap_context(&h, &options);
    image_begin(&im, NULL);
    image_some(&im, PAIR_BLOCK "attn1.to_k.weight", "4,3", 12, 1);
    image_some(&im, PAIR_BLOCK "attn1.to_q.weight", "4,3", 12, 1);
    image_end(&im);
    folder_put("tuned.safetensors", im.file, im.bytes);
    image_free(&im);
    warnings = 0;
    CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, "unet." PAIR_BLOCK "attn1.to_k",
          extract(&out, NULL, &error));
    assert_non_null(strstr(error.message, "8x6 in the base, 4x3"));
    assert_non_null(strstr(error.message, "2 tensors"));
    assert_int_equal(warnings, 2);
}

static void test_nothing(void **state)
{
    lora_adapter *out;
    lora_error error;

    (void)state;
    pair_put("tuned.safetensors", 0, NULL);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, PAIR_TUNED,
          extract(&out, NULL, &error));
    folder_put("tuned.safetensors", "no model", 8);
    error_dirty(&error);
    assert_int_not_equal(extract(&out, NULL, &error), LORA_OK);
    assert_int_equal(remove(PAIR_TUNED), 0);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, PAIR_TUNED,
          extract(&out, NULL, &error));
}

static void test_memory_limit(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options options;
    lora_adapter *out;
    lora_error error;

    (void)state;
    lora_context_destroy(context);
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    limits.memory_bytes = 1 << 16;
    context = heap_context(&h, &options);
    CHECK(LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL, extract(&out, NULL, &error));
    assert_true(lora_context_memory_peak(context) <= limits.memory_bytes);
}

/* ---- journals ---------------------------------------------------------- */

static void test_journal(void **state)
{
    const char *journal = in_folder("journal");
    lora_adapter_extract_options options = defaults();
    lora_adapter *plain = extracted(NULL);
    lora_adapter *kept;
    lora_adapter *again;
    lora_error error;

    (void)state;
    options.journal = journal;
    kept = extracted(&options);
    assert_int_equal(folder_count(0), 3);
    assert_same_file(kept, plain);
    options.flags = LORA_EXTRACT_RESUME;
    again = extracted(&options);
    assert_same_file(again, plain);
    lora_adapter_destroy(again);
    options.seed = 1;
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, journal,
          extract(&again, &options, &error));
    options.seed = 0;

    /* Files without a name are still there, as are those replaced. */
    assert_int_equal(remove(journal), 0);
    again = extracted(&options);
    options.flags = 0;
    lora_adapter_destroy(extracted(&options));
    assert_same_file(again, plain);
    assert_same_file(kept, plain);
    lora_adapter_destroy(again);
    lora_adapter_destroy(kept);
    lora_adapter_destroy(plain);

    folder_put("journal", "notes", 5);
    CHECK(LORA_ERROR_FORMAT, 0, journal, extract(&again, &options, &error));
    options.flags = LORA_EXTRACT_RESUME;
    CHECK(LORA_ERROR_FORMAT, 0, journal, extract(&again, &options, &error));
    folder_check("journal", "notes", 5);
}

/* ---- progress and cancelling ------------------------------------------- */

typedef struct watch {
    uint64_t calls;
    uint64_t last;
    uint64_t total;
    uint64_t cancel_at; /* the call that does; 0: none */
} watch;

static int32_t
watch_progress(void *user, const char *stage, uint64_t done, uint64_t total)
{
    watch *w = user;

    if (strcmp(stage, "save") == 0) {
        return 0;
    }
    assert_string_equal(stage, "extract");
    assert_true(done > w->last && done <= total);
    w->last = done;
    w->total = total;
    return ++w->calls == w->cancel_at;
}

static void watch_context(watch *w, lora_cancel_token *token)
{
    lora_context_options options;

    lora_context_destroy(context);
    lora_context_options_init(&options, sizeof options);
    options.progress = watch_progress;
    options.progress_user = w;
    options.cancel = token;
    options.max_threads = 1;
    context = heap_context(&h, &options);
}

static void test_progress(void **state)
{
    watch w = {0};

    (void)state;
    watch_context(&w, NULL);
    lora_adapter_destroy(extracted(NULL));
    assert_int_equal(w.total, PAIR_LAYERS);
    assert_int_equal(w.last, PAIR_LAYERS);
    assert_int_equal(w.calls, PAIR_LAYERS);
}

/* Cancelled after any layer: no result; resumed, what is left is done. */
static void test_cancel(void **state)
{
    lora_adapter_extract_options options = defaults();
    lora_adapter *plain = extracted(NULL);
    size_t bytes;
    unsigned char *want = saved_bytes(plain, &bytes);
    lora_error error;

    (void)state;
    lora_adapter_destroy(plain);
    options.journal = in_folder("journal");
    for (uint64_t at = 1; at < PAIR_LAYERS; at++) {
        watch w = {0};
        lora_adapter *out;
        size_t again;
        unsigned char *got;
        w.cancel_at = at;
        watch_context(&w, NULL);
        options.flags = 0;
        CHECK(LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
              extract(&out, &options, &error));
        assert_int_equal(w.calls, at);
        memset(&w, 0, sizeof w);
        options.flags = LORA_EXTRACT_RESUME;
        out = extracted(&options);
        assert_int_equal(w.total, PAIR_LAYERS - at);
        got = saved_bytes(out, &again);
        assert_int_equal(again, bytes);
        assert_memory_equal(got, want, bytes);
        free(got);
        lora_adapter_destroy(out);
    }
    free(want);
}

static void test_token(void **state)
{
    lora_cancel_token *token;
    lora_adapter *out;
    lora_error error;
    watch w = {0};

    (void)state;
    assert_int_equal(lora_cancel_token_create(&token, NULL), LORA_OK);
    lora_cancel_token_cancel(token);
    watch_context(&w, token);
    CHECK(LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
          extract(&out, NULL, &error));
    lora_context_destroy(context);
    lora_cancel_token_destroy(token);
    context = heap_context(&h, NULL);
}

/* ---- threads ----------------------------------------------------------- */

static uint32_t three(void *user)
{
    (void)user;
    return 3;
}

static void backwards(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = count; i-- > 0;) {
        fn(arg, i, (uint32_t)(i % 3));
    }
}

/* Whoever runs it, and with a journal in whatever order: the same bytes. */
static void test_same_bytes(void **state)
{
    static const lora_executor executor = {sizeof(lora_executor), NULL, three,
                                           backwards};
    lora_adapter *first = extracted(NULL);
    size_t bytes;
    unsigned char *want = saved_bytes(first, &bytes);

    (void)state;
    lora_adapter_destroy(first);
    for (uint32_t threads = 0; threads < 5; threads++) {
        lora_context_options options;
        lora_adapter_extract_options with = defaults();
        lora_context_destroy(context);
        lora_context_options_init(&options, sizeof options);
        options.max_threads = threads;
        options.executor = threads == 0 ? &executor : NULL;
        context = heap_context(&h, &options);
        with.journal = threads % 2 == 0 ? in_folder("journal") : NULL;
        for (int i = 0; i < 2; i++) {
            lora_adapter *out = extracted(&with);
            size_t again;
            unsigned char *got = saved_bytes(out, &again);
            assert_int_equal(again, bytes);
            assert_memory_equal(got, want, bytes);
            free(got);
            lora_adapter_destroy(out);
        }
    }
    free(want);
}

static int begin(void **state)
{
    context = heap_context(&h, NULL);
    folder_clear(state);
    pair_make();
    return 0;
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
        TEST(test_numbers),    TEST(test_optional),     TEST(test_arguments),
        TEST(test_options),    TEST(test_nonfinite),    TEST(test_shapes),
        TEST(test_nothing),    TEST(test_memory_limit), TEST(test_journal),
        TEST(test_progress),   TEST(test_cancel),       TEST(test_token),
        TEST(test_same_bytes),
    };

    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

#endif
