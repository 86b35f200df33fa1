/* Executors of all manners, cancelling at every moment, and one adapter used
 * by several threads at once. Results may not depend on any of it.
 */
#ifdef _WIN32

/* The threads of this test are POSIX threads. */
int main(void)
{
    return 77;
}

#else

#include "torture/works.h"

#include <pthread.h>
#include <time.h>

static image sample;

/* More modules than threads, of several sizes. */
static void image_crowd(image *im)
{
    image_begin(im, "\"ss_network_dim\":\"4\",\"sshs_model_hash\":\"0\"");
    for (int i = 0; i < 24; i++) {
        int rows = 3 + i % 7;
        int cols = 4 + i % 5;
        char name[64];
        char shape[32];
        snprintf(name, sizeof name, "lora_unet_%02d.lora_down.weight", i);
        snprintf(shape, sizeof shape, "4,%d", cols);
        image_some(im, name, shape, (size_t)(4 * cols), 100 + (uint32_t)i);
        snprintf(name, sizeof name, "lora_unet_%02d.lora_up.weight", i);
        snprintf(shape, sizeof shape, "%d,4", rows);
        image_some(im, name, shape, (size_t)(4 * rows), 200 + (uint32_t)i);
    }
    image_end(im);
}

/* ---- results as bytes -------------------------------------------------- */

typedef struct result {
    unsigned char *file; /* of the resized adapter */
    size_t bytes;
    char *ranks;    /* JSON */
    char *findings; /* JSON */
} result;

static char *copy_json(const lora_report *report)
{
    size_t bytes;
    const char *json = lora_report_to_json(report, &bytes);
    char *copy = malloc(bytes + 1);

    assert_non_null(copy);
    memcpy(copy, json, bytes + 1);
    return copy;
}

static lora_status resize(lora_adapter **out,
                          lora_report **out_report,
                          const lora_adapter *adapter,
                          lora_error *error)
{
    const lora_rank_rule rule = {LORA_RANK_ENERGY, 0, 0.8};

    return lora_adapter_resize(out, out_report, adapter, &rule, NULL, error);
}

static void result_make(result *r, const lora_context_options *options)
{
    heap h;
    lora_context *context = heap_context(&h, options);
    lora_adapter *adapter = open_image(context, &sample);
    lora_adapter *out;
    lora_report *report;

    assert_int_equal(resize(&out, &report, adapter, NULL), LORA_OK);
    r->file = saved_bytes(out, &r->bytes);
    r->ranks = copy_json(report);
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    assert_int_equal(lora_adapter_check(&report, adapter, NULL, NULL), LORA_OK);
    r->findings = copy_json(report);
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
}

static void result_free(result *r)
{
    free(r->file);
    free(r->ranks);
    free(r->findings);
}

static void assert_same_result(const result *a, const result *b)
{
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->file, b->file, a->bytes);
    assert_string_equal(a->ranks, b->ranks);
    assert_string_equal(a->findings, b->findings);
}

/* ---- executors --------------------------------------------------------- */

enum { WORKERS = 64 };

static uint32_t many(void *user)
{
    (void)user;
    return WORKERS;
}

static void forwards(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = 0; i < count; i++) {
        fn(arg, i, (uint32_t)(i % WORKERS));
    }
}

static void backwards(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = count; i-- > 0;) {
        fn(arg, i, WORKERS - 1);
    }
}

/* From both ends to the middle. */
static void inwards(void *user, lora_task_fn fn, void *arg, size_t count)
{
    (void)user;
    for (size_t i = 0; i < count; i++) {
        fn(arg, i % 2 == 0 ? i / 2 : count - 1 - i / 2, 0);
    }
}

typedef struct task {
    lora_task_fn fn;
    void *arg;
    size_t index;
    uint32_t worker;
    pthread_t thread;
} task;

static void *task_run(void *arg)
{
    const task *t = arg;

    t->fn(t->arg, t->index, t->worker);
    return NULL;
}

/* Each task on a thread of its own, as many as there are workers at a time. */
static void thread_each(void *user, lora_task_fn fn, void *arg, size_t count)
{
    task tasks[WORKERS];

    (void)user;
    for (size_t done = 0; done < count; done += WORKERS) {
        size_t step = count - done < WORKERS ? count - done : WORKERS;
        for (size_t i = 0; i < step; i++) {
            tasks[i].fn = fn;
            tasks[i].arg = arg;
            tasks[i].index = done + i;
            tasks[i].worker = (uint32_t)i;
            if (pthread_create(&tasks[i].thread, NULL, task_run, &tasks[i])) {
                abort();
            }
        }
        for (size_t i = 0; i < step; i++) {
            pthread_join(tasks[i].thread, NULL);
        }
    }
}

static const lora_executor executors[] = {
    {sizeof(lora_executor), NULL, many, forwards},
    {sizeof(lora_executor), NULL, many, backwards},
    {sizeof(lora_executor), NULL, many, inwards},
    {sizeof(lora_executor), NULL, many, thread_each},
};

static void test_same_results(void **state)
{
    lora_context_options options;
    result expected;
    result got;

    (void)state;
    result_make(&expected, NULL);
    for (size_t i = 0; i < COUNT(executors); i++) {
        lora_context_options_init(&options, sizeof options);
        options.executor = &executors[i];
        result_make(&got, &options);
        assert_same_result(&got, &expected);
        result_free(&got);
    }
    for (uint32_t threads = 0; threads <= 8; threads++) {
        lora_context_options_init(&options, sizeof options);
        options.max_threads = lora_feature_supported("threads") ? threads : 1;
        result_make(&got, &options);
        assert_same_result(&got, &expected);
        result_free(&got);
    }
    result_free(&expected);
}

/* ---- cancelling -------------------------------------------------------- */

typedef struct canceller {
    size_t calls;
    size_t stop_at;
    lora_cancel_token *token; /* cancelled instead, if there is one */
    char stage[32];
    uint64_t done;
    atomic_int inside;
    int overlapped;
    int disordered; /* done went down, or over the total */
} canceller;

static int32_t
cancel_nth(void *user, const char *stage, uint64_t done, uint64_t total)
{
    canceller *c = user;

    c->overlapped |= atomic_fetch_add(&c->inside, 1) != 0;
    if (strcmp(c->stage, stage) != 0) {
        snprintf(c->stage, sizeof c->stage, "%s", stage);
        c->done = 0;
    }
    /* A later pass over the tensors may have the same name. */
    c->disordered |= done > total || (done < c->done && done > 1);
    c->done = done;
    atomic_fetch_sub(&c->inside, 1);
    if (c->calls++ < c->stop_at) {
        return 0;
    }
    if (c->token != NULL) {
        lora_cancel_token_cancel(c->token);
        return 0;
    }
    return 1;
}

/* Cancel at the nth call of progress, for every n, by its answer or by the
 * token; then the same work again must succeed. */
static void cancel_everywhere(work todo,
                              const lora_executor *executor,
                              uint32_t threads,
                              int by_token)
{
    for (size_t n = 0;; n++) {
        lora_context_options options;
        lora_context *context;
        lora_cancel_token *token = NULL;
        lora_adapter *adapter;
        canceller c = {0};
        lora_error error;
        lora_status status;
        size_t live;
        heap h;

        lora_context_options_init(&options, sizeof options);
        options.executor = executor;
        options.max_threads = threads;
        options.progress = cancel_nth;
        options.progress_user = &c;
        if (by_token) {
            assert_int_equal(lora_cancel_token_create(&token, NULL), LORA_OK);
            options.cancel = token;
            c.token = token;
        }
        context = heap_context(&h, &options);
        adapter = open_image(context, &sample);
        live = h.live;
        c.stop_at = n;
        error_dirty(&error);
        status = todo(adapter, &error);
        /* A token that is set at the last call comes too late. */
        if (status == LORA_OK) {
            assert_true(c.calls <= n + (by_token ? 1 : 0));
            assert_true(n > 1);
            assert_int_equal(c.overlapped, 0);
            assert_int_equal(c.disordered, 0);
        } else {
            assert_error(&error, status, LORA_ERROR_CANCELLED, LORA_NO_OFFSET,
                         NULL);
            assert_int_equal(h.live, live);
            c.stop_at = SIZE_MAX;
            lora_cancel_token_reset(token);
            error_dirty(&error);
            assert_error(&error, todo(adapter, &error), LORA_OK, LORA_NO_OFFSET,
                         "");
        }
        lora_adapter_destroy(adapter);
        lora_cancel_token_destroy(token);
        heap_end(&h, context);
        if (status == LORA_OK && c.calls <= n) {
            break;
        }
    }
}

static void test_cancel_by_progress(void **state)
{
    uint32_t threads = lora_feature_supported("threads") ? 3 : 1;

    (void)state;
    for (size_t w = 2; w < COUNT(works); w++) {
        cancel_everywhere(works[w], NULL, 1, 0);
        cancel_everywhere(works[w], &executors[1], 0, 0);
        cancel_everywhere(works[w], NULL, threads, 0);
    }
}

static void test_cancel_by_token(void **state)
{
    (void)state;
    for (size_t w = 2; w < COUNT(works); w++) {
        cancel_everywhere(works[w], NULL, 1, 1);
    }
}

/* Set before the work begins. */
static void test_cancelled_before(void **state)
{
    lora_context_options options;
    lora_cancel_token *token;
    lora_context *context;
    lora_adapter *adapter;
    lora_error error;
    heap h;

    (void)state;
    assert_int_equal(lora_cancel_token_create(&token, NULL), LORA_OK);
    lora_context_options_init(&options, sizeof options);
    options.cancel = token;
    context = heap_context(&h, &options);
    adapter = open_image(context, &sample);
    lora_cancel_token_cancel(token);
    for (size_t w = 0; w < COUNT(works); w++) {
        size_t live = h.live;
        CHECK(LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
              works[w](adapter, &error));
        assert_int_equal(h.live, live);
    }
    lora_adapter_destroy(adapter);
    lora_cancel_token_destroy(token);
    heap_end(&h, context);
}

static void *cancel_soon(void *arg)
{
    lora_cancel_token *token = arg;
    struct timespec pause = {0, 2000000};

    nanosleep(&pause, NULL);
    lora_cancel_token_cancel(token);
    return NULL;
}

/* From another thread, at some moment: until then work goes on. */
static void test_cancel_from_outside(void **state)
{
    lora_context_options options;
    lora_cancel_token *token;
    lora_context *context;
    lora_adapter *adapter;
    pthread_t thread;
    lora_status status;
    heap h;

    (void)state;
    assert_int_equal(lora_cancel_token_create(&token, NULL), LORA_OK);
    lora_context_options_init(&options, sizeof options);
    options.cancel = token;
    options.max_threads = lora_feature_supported("threads") ? 2 : 1;
    context = heap_context(&h, &options);
    adapter = open_image(context, &sample);
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, token), 0);
    do {
        status = do_resize(adapter, NULL);
    } while (status == LORA_OK);
    assert_int_equal(status, LORA_ERROR_CANCELLED);
    pthread_join(thread, NULL);
    lora_adapter_destroy(adapter);
    lora_cancel_token_destroy(token);
    heap_end(&h, context);
}

/* ---- sharing ----------------------------------------------------------- */

typedef struct user {
    lora_context *context;
    lora_adapter *adapter;
    const unsigned char *expected;
    size_t bytes;
    int failures; /* cmocka is for the main thread only */
} user;

/* Retain, look, compute, make, save and give up, many times. */
static void *use_shared(void *arg)
{
    user *u = arg;

    for (int round = 0; round < 20; round++) {
        lora_adapter *mine = lora_adapter_retain(u->adapter);
        lora_context *context = lora_context_retain(u->context);
        lora_adapter *out = NULL;
        lora_report *report = NULL;
        lora_cancel_token *token = NULL;
        unsigned char file[1 << 16];
        float row[8];
        size_t bytes = 0;
        int ok;
        lora_module_info info = {.struct_size = sizeof info};

        ok = resize(&out, &report, mine, NULL) == LORA_OK &&
             lora_adapter_save_memory(file, sizeof file, &bytes, out, NULL) ==
                 LORA_OK &&
             bytes == u->bytes && memcmp(file, u->expected, bytes) == 0 &&
             lora_adapter_get_module(&info, mine, 3, NULL) == LORA_OK &&
             lora_adapter_delta(row, (size_t)info.shape[1] * 4, mine, 3,
                                LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0, 1,
                                NULL) == LORA_OK &&
             lora_cancel_token_create(&token, NULL) == LORA_OK;
        u->failures += !ok;
        lora_cancel_token_destroy(token);
        lora_report_destroy(report);
        lora_adapter_destroy(out);
        lora_adapter_destroy(mine);
        lora_context_destroy(context);
    }
    return NULL;
}

static void share(uint32_t max_threads, const lora_executor *executor)
{
    enum { USERS = 3 };
    lora_context_options options;
    lora_context *context;
    lora_adapter *adapter;
    pthread_t threads[USERS];
    user users[USERS];
    result expected;
    heap h;

    result_make(&expected, NULL);
    lora_context_options_init(&options, sizeof options);
    options.max_threads = max_threads;
    options.executor = executor;
    context = heap_context(&h, &options);
    adapter = open_image(context, &sample);
    for (size_t i = 0; i < USERS; i++) {
        users[i].context = context;
        users[i].adapter = adapter;
        users[i].expected = expected.file;
        users[i].bytes = expected.bytes;
        users[i].failures = 0;
        assert_int_equal(
            pthread_create(&threads[i], NULL, use_shared, &users[i]), 0);
    }
    for (size_t i = 0; i < USERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(users[i].failures, 0);
    }
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
    result_free(&expected);
}

static void test_shared(void **state)
{
    (void)state;
    share(1, NULL);
    if (lora_feature_supported("threads")) {
        share(3, NULL);
    }
    share(0, &executors[3]);
}

/* Two operations at once in one context tell their progress in turn. */
static int32_t
tell_slowly(void *arg, const char *stage, uint64_t done, uint64_t total)
{
    canceller *c = arg;
    struct timespec pause = {0, 50000};

    (void)stage;
    (void)done;
    (void)total;
    if (atomic_fetch_add(&c->inside, 1) != 0) {
        c->overlapped = 1;
    }
    nanosleep(&pause, NULL);
    atomic_fetch_sub(&c->inside, 1);
    return 0;
}

static void *save_shared(void *arg)
{
    lora_adapter *adapter = arg;
    unsigned char file[1 << 16];
    size_t bytes;

    return lora_adapter_save_memory(file, sizeof file, &bytes, adapter, NULL) ==
                   LORA_OK
               ? NULL
               : arg;
}

static void test_progress_in_turn(void **state)
{
    lora_context_options options;
    lora_context *context;
    lora_adapter *adapter;
    canceller c = {0};
    pthread_t threads[2];
    void *failed;
    heap h;

    (void)state;
    lora_context_options_init(&options, sizeof options);
    options.progress = tell_slowly;
    options.progress_user = &c;
    context = heap_context(&h, &options);
    adapter = open_image(context, &sample);
    for (size_t i = 0; i < COUNT(threads); i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, save_shared, adapter), 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(c.overlapped, 0);
    lora_adapter_destroy(adapter);
    heap_end(&h, context);
}

static int set_up(void **state)
{
    image_crowd(&sample);
    return folder_make(state);
}

static int tear_down(void **state)
{
    image_free(&sample);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_results),
        cmocka_unit_test(test_cancel_by_progress),
        cmocka_unit_test(test_cancel_by_token),
        cmocka_unit_test(test_cancelled_before),
        cmocka_unit_test(test_cancel_from_outside),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_progress_in_turn),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
