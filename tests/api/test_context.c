/* Contexts and cancel tokens: what is refused, who keeps whom alive, what is
 * counted, and the budget of memory.
 */
#include "api/support.h"

static void test_create(void **state)
{
    lora_context_options options;
    lora_context *context = JUNK(lora_context);
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_context_create(NULL, NULL, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_context_create(&context, NULL, &error));
    lora_context_destroy(context);

    /* Every bit of the CPU may be left out. */
    lora_context_options_init(&options, sizeof options);
    options.disable_cpu = UINT32_MAX;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_context_create(&context, &options, &error));
    lora_context_destroy(context);
}

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

/* All hooks or none. */
static void test_incomplete_tables(void **state)
{
    heap h;
    const lora_allocator whole = heap_hooks(&h);
    lora_allocator allocators[] = {whole, whole, whole};
    lora_executor executors[] = {{sizeof(lora_executor), NULL, one, NULL},
                                 {sizeof(lora_executor), NULL, NULL, serially}};
    lora_context_options options;
    lora_context *context;
    lora_error error;

    (void)state;
    heap_init(&h);
    allocators[0].alloc = NULL;
    allocators[1].realloc = NULL;
    allocators[2].free = NULL;
    for (size_t i = 0; i < COUNT(allocators); i++) {
        lora_context_options_init(&options, sizeof options);
        options.allocator = &allocators[i];
        context = JUNK(lora_context);
        CHECK_ARGUMENT(lora_context_create(&context, &options, &error));
        assert_null(context);
    }
    for (size_t i = 0; i < COUNT(executors); i++) {
        lora_context_options_init(&options, sizeof options);
        options.executor = &executors[i];
        context = JUNK(lora_context);
        CHECK_ARGUMENT(lora_context_create(&context, &options, &error));
        assert_null(context);
    }
    assert_int_equal(h.calls, 0);
}

/* A context with a pool takes several blocks; each may be refused. */
static void test_no_memory(void **state)
{
    for (size_t n = 0;; n++) {
        heap h;
        const lora_allocator hooks = heap_hooks(&h);
        lora_context_options options;
        lora_context *context = JUNK(lora_context);
        lora_error error;
        lora_status status;

        (void)state;
        heap_init(&h);
        h.fail_at = n;
        lora_context_options_init(&options, sizeof options);
        options.allocator = &hooks;
        options.max_threads = lora_feature_supported("threads") ? 3 : 1;
        error_dirty(&error);
        status = lora_context_create(&context, &options, &error);
        if (h.met == 0) {
            assert_int_equal(status, LORA_OK);
            assert_true(n > 0);
            heap_end(&h, context);
            break;
        }
        assert_error(&error, status, LORA_ERROR_MEMORY, LORA_NO_OFFSET, "");
        assert_null(context);
        assert_int_equal(h.live, 0);
    }
}

/* Handles keep the context, whatever order they go in. */
static void test_owners(void **state)
{
    image im;
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora_context *again;
    lora_builder *builder;
    lora_adapter *adapter;
    lora_adapter *result;
    lora_report *report;
    lora_module_info info = {.struct_size = sizeof info};

    (void)state;
    assert_null(lora_context_retain(NULL));
    lora_context_destroy(NULL);
    again = lora_context_retain(context);
    assert_ptr_equal(again, context);
    lora_context_destroy(again);

    image_sample(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_builder_create(&builder, context, adapter, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_check(&report, adapter, NULL, NULL), LORA_OK);
    assert_int_equal(lora_adapter_convert(&result, adapter, NULL, NULL),
                     LORA_OK);
    lora_context_destroy(context);
    assert_null(lora_adapter_retain(NULL));
    assert_ptr_equal(lora_adapter_retain(adapter), adapter);
    lora_adapter_destroy(adapter);
    assert_int_equal(lora_adapter_get_module(&info, adapter, 0, NULL), LORA_OK);
    lora_adapter_destroy(adapter);
    assert_true(strlen(lora_report_to_json(report, NULL)) > 2);
    /* The builder and the result still read the adapter's tensors. */
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    assert_same_file(adapter, result);
    lora_adapter_destroy(result);
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    assert_int_equal(h.live, 0);
    assert_int_equal(h.misused, 0);
    image_free(&im);

    lora_adapter_destroy(NULL);
    lora_builder_destroy(NULL);
    lora_report_destroy(NULL);
    lora_cancel_token_destroy(NULL);
}

/* What is live is what the allocator has given, but for the context's own
 * block. */
static void test_counting(void **state)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    image im;
    heap h;
    lora_context *context = heap_context(&h, NULL);
    size_t own = h.live_bytes;
    lora_adapter *adapter;
    lora_adapter *resized;

    (void)state;
    assert_int_equal(lora_context_memory_live(NULL), 0);
    assert_int_equal(lora_context_memory_peak(NULL), 0);
    assert_int_equal(lora_context_memory_live(context), 0);
    assert_int_equal(lora_context_memory_peak(context), 0);
    image_sample(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_context_memory_live(context), h.live_bytes - own);
    assert_int_equal(
        lora_adapter_resize(&resized, NULL, adapter, &rule, NULL, NULL),
        LORA_OK);
    assert_int_equal(lora_context_memory_live(context), h.live_bytes - own);
    assert_int_equal(lora_context_memory_peak(context), h.peak_bytes - own);
    lora_adapter_destroy(resized);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
    image_free(&im);
}

/* Open and resize within a budget. */
static lora_status
work_within(uint64_t budget, uint64_t *out_peak, lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options options;
    lora_context *context;
    lora_adapter *adapter;
    lora_adapter *resized = NULL;
    lora_status status;
    image im;
    heap h;

    limits.memory_bytes = budget;
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    context = heap_context(&h, &options);
    image_sample(&im);
    status = lora_adapter_open_memory(&adapter, context, im.file, im.bytes,
                                      NULL, error);
    if (status == LORA_OK) {
        status =
            lora_adapter_resize(&resized, NULL, adapter, &rule, NULL, error);
    }
    lora_adapter_destroy(resized);
    lora_adapter_destroy(adapter);
    *out_peak = lora_context_memory_peak(context);
    heap_end(&h, context);
    image_free(&im);
    return status;
}

static void test_budget(void **state)
{
    uint64_t need;
    uint64_t peak;
    lora_error error;

    (void)state;
    CHECK(LORA_OK, LORA_NO_OFFSET, "", work_within(0, &need, &error));
    for (uint64_t budget = 1; budget < need; budget += 1 + need / 97) {
        CHECK(LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL,
              work_within(budget, &peak, &error));
        assert_true(peak <= budget);
    }
    CHECK(LORA_OK, LORA_NO_OFFSET, "", work_within(need, &peak, &error));
    assert_int_equal(peak, need);
}

static void test_cancel_token(void **state)
{
    lora_cancel_token *token = JUNK(lora_cancel_token);
    lora_context_options options;
    lora_context *context;
    lora_adapter *adapter;
    lora_report *report = JUNK(lora_report);
    lora_error error;
    image im;

    (void)state;
    CHECK_ARGUMENT(lora_cancel_token_create(NULL, &error));
    lora_cancel_token_cancel(NULL);
    lora_cancel_token_reset(NULL);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_cancel_token_create(&token, &error));
    lora_context_options_init(&options, sizeof options);
    options.cancel = token;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    image_sample(&im);
    adapter = open_image(context, &im);

    lora_cancel_token_cancel(token);
    CHECK(LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
          lora_adapter_check(&report, adapter, NULL, &error));
    assert_null(report);
    lora_cancel_token_reset(token);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_check(&report, adapter, NULL, &error));
    lora_report_destroy(report);

    lora_cancel_token_destroy(token); /* the context has it still */
    assert_int_equal(lora_adapter_check(&report, adapter, NULL, NULL), LORA_OK);
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    image_free(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_incomplete_tables),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_owners),
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_cancel_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
