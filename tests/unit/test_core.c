/* The core: maps, buffers, arenas, options of other ages, memory of a context,
 * jobs, threads.
 */
#ifdef _WIN32

/* The threads of this test are POSIX threads. */
int main(void)
{
    return 77;
}

#else

#define _XOPEN_SOURCE 700

#include "api/support.h"

#include "core/arena.h"
#include "core/buffer.h"
#include "core/map.h"
#include "core/options.h"
#include "core/pool.h"
#include "platform/atomic.h"

#include <pthread.h>

/* ---- containers -------------------------------------------------------- */

static void test_map(void **state)
{
    enum { KEYS = 5000 };
    static char keys[KEYS][16];
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora__map map;
    size_t value = 77;
    size_t bytes;

    (void)state;
    lora__map_init(&map, context);
    assert_int_equal(lora__map_find(&value, &map, "x", 1), 0);
    assert_int_equal(value, 77);
    for (size_t i = 0; i < KEYS; i++) {
        snprintf(keys[i], sizeof keys[i], "key.%u", (unsigned)i);
        bytes = strlen(keys[i]);
        assert_int_equal(lora__map_add(&value, &map, keys[i], bytes, i, NULL),
                         LORA_OK);
        assert_int_equal(value, i);
    }
    for (size_t i = 0; i < KEYS; i++) {
        char copy[16];
        bytes = strlen(keys[i]);
        memcpy(copy, keys[i], bytes); /* no NUL: the length counts */
        assert_int_equal(lora__map_add(&value, &map, copy, bytes, 9, NULL),
                         LORA_OK);
        assert_int_equal(value, i);
        value = 77;
        assert_int_equal(lora__map_find(&value, &map, copy, bytes), 1);
        assert_int_equal(value, i);
        assert_int_equal(lora__map_find(&value, &map, copy, bytes - 1),
                         bytes > 5);
    }
    /* More room changes nothing, less room even less. */
    assert_int_equal(lora__map_reserve(&map, 3 * KEYS, NULL), LORA_OK);
    bytes = map.capacity;
    assert_true(bytes >= 3 * KEYS);
    assert_int_equal(lora__map_reserve(&map, 3 * KEYS, NULL), LORA_OK);
    assert_int_equal(lora__map_reserve(&map, 1, NULL), LORA_OK);
    assert_int_equal(map.capacity, bytes);
    assert_int_equal(map.count, KEYS);
    assert_int_equal(lora__map_find(&value, &map, "key.4321", 8), 1);
    assert_int_equal(value, 4321);
    assert_int_equal(lora__map_reserve(&map, SIZE_MAX, NULL),
                     LORA_ERROR_MEMORY);
    assert_int_equal(map.capacity, bytes);
    /* Keys may hold NUL, and be empty. */
    assert_int_equal(lora__map_add(&value, &map, "a\0b", 3, 1, NULL), LORA_OK);
    assert_int_equal(lora__map_add(&value, &map, "a\0c", 3, 2, NULL), LORA_OK);
    assert_int_equal(value, 2);
    assert_int_equal(lora__map_add(&value, &map, "", 0, 3, NULL), LORA_OK);
    assert_int_equal(value, 3);
    assert_int_equal(map.count, KEYS + 3);
    lora__map_destroy(&map);
    lora__map_destroy(&map);
    heap_end(&h, context);
}

/* A map that could not grow still has what it had. */
static void test_map_without_memory(void **state)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    lora__map map;
    size_t value;
    size_t count = 0;
    lora_error error;

    (void)state;
    lora__map_init(&map, context);
    for (; count < sizeof letters - 1; count++) {
        lora_status status;
        h.fail_at = h.calls + (count == 0 ? 1 : 0); /* but for the first */
        lora_error_init(&error, sizeof error);
        status = lora__map_add(&value, &map, letters + count, 1, count, &error);
        if (status != LORA_OK) {
            assert_int_equal(error.status, LORA_ERROR_MEMORY);
            break;
        }
    }
    assert_true(count > 10 && count < sizeof letters - 1);
    assert_int_equal(map.count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(lora__map_find(&value, &map, letters + i, 1), 1);
        assert_int_equal(value, i);
    }
    lora__map_destroy(&map);
    heap_end(&h, context);
}

static void test_buffer(void **state)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    lora__buffer b;
    size_t value;

    (void)state;
    lora__buffer_init(&b, context);
    lora__buffer_puts(&b, "");
    assert_string_equal(b.data, "");
    for (int i = 0; i < 300; i++) {
        lora__buffer_printf(&b, "%d,", i);
        lora__buffer_putc(&b, i % 2 ? 'x' : '\0');
    }
    assert_int_equal(b.bytes, 300 + 10 * 2 + 90 * 3 + 200 * 4);
    assert_memory_equal(b.data, "0,\0001,x2,\0003,x", 12);
    assert_int_equal(b.data[b.bytes], '\0');
    lora__buffer_clear(&b);
    lora__buffer_number(&b, 0.5);
    lora__buffer_putc(&b, ' ');
    lora__buffer_number(&b, NAN);
    lora__buffer_putc(&b, ' ');
    lora__buffer_number(&b, -HUGE_VAL);
    assert_string_equal(b.data, "0.5 null null");
    assert_int_equal(lora__buffer_status(&b, NULL), LORA_OK);
    lora__buffer_destroy(&b);
    lora__buffer_destroy(&b);

    /* Failure sticks, and what was there stays. */
    lora__buffer_puts(&b, "kept");
    h.fail_at = h.calls;
    for (int i = 0; i < 300; i++) {
        lora__buffer_puts(&b, "more");
    }
    assert_int_equal(lora__buffer_status(&b, NULL), LORA_ERROR_MEMORY);
    assert_memory_equal(b.data, "keptmore", 8);
    assert_int_equal(b.data[b.bytes], '\0');
    value = b.bytes;
    lora__buffer_printf(&b, "%0300d", 7);
    assert_int_equal(b.bytes, value);
    assert_int_equal(b.data[b.bytes], '\0');
    lora__buffer_destroy(&b);
    heap_end(&h, context);
}

static void test_arena(void **state)
{
    heap h;
    lora_context *context = heap_context(&h, NULL);
    unsigned char *blocks[400];
    lora__arena arena;
    const char *text;
    void *memory;

    (void)state;
    lora__arena_init(&arena, context);
    lora__arena_destroy(&arena);
    for (size_t i = 0; i < COUNT(blocks); i++) {
        blocks[i] = lora__arena_alloc(&arena, i * 7);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 16, 0);
        memset(blocks[i], (int)i & 0xFF, i * 7);
    }
    for (size_t i = 0; i < COUNT(blocks); i++) {
        for (size_t k = 0; k < i * 7; k++) {
            assert_int_equal(blocks[i][k], i & 0xFF);
        }
    }
    assert_true(h.live < 12); /* chunks, not blocks */
    assert_non_null(lora__arena_alloc(&arena, 5 << 20));
    assert_null(lora__arena_alloc(&arena, SIZE_MAX));
    assert_null(lora__arena_alloc(&arena, SIZE_MAX - 20));
    assert_int_equal(
        lora__arena_zeroed(&memory, &arena, SIZE_MAX / 8, 16, NULL),
        LORA_ERROR_MEMORY);
    assert_int_equal(lora__arena_zeroed(&memory, &arena, 0, 16, NULL), LORA_OK);
    assert_non_null(memory);
    assert_int_equal(lora__arena_zeroed(&memory, &arena, 3, 5, NULL), LORA_OK);
    for (size_t i = 0; i < 15; i++) {
        assert_int_equal(((unsigned char *)memory)[i], 0);
    }
    assert_int_equal(lora__arena_string(&text, &arena, "abc", 2, NULL),
                     LORA_OK);
    assert_string_equal(text, "ab");
    lora__arena_destroy(&arena);
    heap_end(&h, context);
}

/* ---- options and results ----------------------------------------------- */

/* As a struct grows from release to release. */
typedef struct options_1 {
    size_t struct_size;
    uint32_t a;
    uint32_t b;
} options_1;

typedef struct options_2 {
    size_t struct_size;
    uint32_t a;
    uint32_t b;
    uint64_t c;
} options_2;

static void test_options_of_any_age(void **state)
{
    options_1 old = {sizeof old, 1, 2};
    options_2 young = {sizeof young, 1, 2, 3};
    options_1 read_old;
    options_2 read_young;
    lora_error error;

    (void)state;
    /* An old caller of a young library: what it does not know is default. */
    assert_int_equal(lora__options_read(&read_young, sizeof read_young,
                                        sizeof old, &old, NULL),
                     LORA_OK);
    assert_int_equal(read_young.struct_size, sizeof read_young);
    assert_int_equal(read_young.b, 2);
    assert_int_equal(read_young.c, 0);
    /* Between releases nothing ends, but half a field is no harm either. */
    old.struct_size = sizeof old - 4;
    assert_int_equal(
        lora__options_read(&read_young, sizeof read_young, 8, &old, NULL),
        LORA_OK);
    assert_int_equal(read_young.a, 1);
    assert_int_equal(read_young.b, 0);
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__options_read(&read_young, sizeof read_young,
                                        sizeof old, &old, &error),
                     LORA_ERROR_ARGUMENT);
    /* A young caller of an old library may use what that one has. */
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__options_read(&read_old, sizeof read_old,
                                        sizeof read_old, &young, &error),
                     LORA_ERROR_OPTION);
    assert_int_equal(error.status, LORA_ERROR_OPTION);
    young.c = 0;
    assert_int_equal(lora__options_read(&read_old, sizeof read_old,
                                        sizeof read_old, &young, NULL),
                     LORA_OK);
    assert_int_equal(read_old.struct_size, sizeof read_old);
    assert_int_equal(read_old.b, 2);
    assert_int_equal(lora__options_read(&read_old, sizeof read_old,
                                        sizeof read_old, NULL, NULL),
                     LORA_OK);
    assert_int_equal(read_old.a, 0);
    assert_int_equal(lora__options_reserved(0, NULL), LORA_OK);
    assert_int_equal(lora__options_reserved(1, NULL), LORA_ERROR_OPTION);
}

/* ---- memory of a context ----------------------------------------------- */

static void test_budget(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options options;
    lora_context *context;
    void *block;
    void *moved;
    heap h;

    (void)state;
    limits.memory_bytes = 1000;
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    context = heap_context(&h, &options);
    assert_null(lora__alloc(context, 1001, 16));
    assert_int_equal(lora_context_memory_live(context), 0);
    block = lora__alloc(context, 400, 64);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % 64, 0);
    memset(block, 'x', 400);
    /* Growing needs both for a while; what cannot grow stays. */
    assert_null(lora__realloc(context, block, 400, 601, 64));
    assert_int_equal(((char *)block)[399], 'x');
    moved = lora__realloc(context, block, 400, 600, 64);
    assert_non_null(moved);
    assert_int_equal(((char *)moved)[399], 'x');
    assert_int_equal(lora_context_memory_live(context), 600);
    assert_int_equal(lora_context_memory_peak(context), 1000);
    lora__free(context, moved, 600, 64);
    lora__free(context, NULL, 600, 64);
    /* Nothing is served as one byte, given back as nothing. */
    block = lora__alloc(context, 0, 16);
    assert_non_null(block);
    assert_int_equal(lora_context_memory_live(context), 1);
    lora__free(context, block, 0, 16);
    assert_int_equal(lora__alloc_zeroed(&block, context, SIZE_MAX / 2, 3, NULL),
                     LORA_ERROR_MEMORY);
    assert_int_equal(lora__alloc_zeroed(&block, context, 7, 3, NULL), LORA_OK);
    for (size_t i = 0; i < 21; i++) {
        assert_int_equal(((char *)block)[i], 0);
    }
    lora__free(context, block, 21, LORA__ALIGN);
    heap_end(&h, context);
}

/* malloc's blocks, at every alignment. */
static void test_default_allocator(void **state)
{
    lora_context *context = plain_context();

    (void)state;
    for (size_t align = 1; align <= 64; align *= 2) {
        void *block = lora__alloc(context, 100, align);
        assert_non_null(block);
        memset(block, 'y', 100);
        block = lora__realloc(context, block, 100, 5000, align);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % align, 0);
        assert_int_equal(((char *)block)[99], 'y');
        memset(block, 'z', 5000);
        block = lora__realloc(context, block, 5000, 10, align);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % align, 0);
        assert_int_equal(((char *)block)[9], 'z');
        lora__free(context, block, 10, align);
    }
    assert_null(lora__alloc(context, SIZE_MAX, 64));
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
}

/* ---- jobs -------------------------------------------------------------- */

enum { JOBS = 8 };

typedef struct batch {
    lora_status fail[JOBS]; /* what a job answers */
    atomic_int ran[JOBS];
    int meet; /* the failing ones wait for each other */
    pthread_barrier_t barrier;
} batch;

static lora_status
batch_job(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    batch *b = arg;

    (void)worker;
    atomic_fetch_add(&b->ran[index], 1);
    if (b->meet) {
        pthread_barrier_wait(&b->barrier);
    }
    return b->fail[index] == LORA_OK ? LORA_OK
                                     : lora__fail(error, b->fail[index], index,
                                                  NULL, "job %d", (int)index);
}

static void test_jobs_serial(void **state)
{
    lora_context *context = plain_context();
    batch b = {0};
    lora_error error;

    (void)state;
    assert_int_equal(lora__concurrency(context), 1);
    assert_int_equal(lora__run_jobs(context, "test", batch_job, &b, JOBS, NULL),
                     LORA_OK);
    for (size_t i = 0; i < JOBS; i++) {
        assert_int_equal(b.ran[i], 1);
    }
    assert_int_equal(lora__run_jobs(context, "test", batch_job, &b, 0, NULL),
                     LORA_OK);
    b.fail[3] = LORA_ERROR_SHAPE;
    b.fail[5] = LORA_ERROR_KEY;
    lora_error_init(&error, sizeof error);
    assert_int_equal(
        lora__run_jobs(context, "test", batch_job, &b, JOBS, &error),
        LORA_ERROR_SHAPE);
    assert_int_equal(error.offset, 3);
    assert_string_equal(error.message, "job 3");
    assert_int_equal(b.ran[3], 2);
    assert_int_equal(b.ran[4], 1); /* none starts after a failure */
    lora_context_destroy(context);
}

typedef struct batch_task {
    lora_task_fn fn;
    void *arg;
    size_t index;
} batch_task;

static void *batch_thread(void *arg)
{
    const batch_task *t = arg;

    t->fn(t->arg, t->index, (uint32_t)t->index);
    return NULL;
}

static void all_at_once(void *user, lora_task_fn fn, void *arg, size_t count)
{
    batch_task tasks[JOBS];
    pthread_t threads[JOBS];

    (void)user;
    for (size_t i = 0; i < count; i++) {
        tasks[i].fn = fn;
        tasks[i].arg = arg;
        tasks[i].index = i;
        if (pthread_create(&threads[i], NULL, batch_thread, &tasks[i]) != 0) {
            abort();
        }
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
}

static uint32_t eight(void *user)
{
    (void)user;
    return JOBS;
}

/* Several fail at once: the lowest tells. */
static void test_jobs_at_once(void **state)
{
    const lora_executor executor = {sizeof executor, NULL, eight, all_at_once};
    lora_context_options options;
    lora_context *context;

    (void)state;
    lora_context_options_init(&options, sizeof options);
    options.executor = &executor;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    assert_int_equal(lora__concurrency(context), JOBS);
    for (int round = 0; round < 50; round++) {
        batch b = {0};
        lora_error error;
        b.meet = 1;
        b.fail[2] = LORA_ERROR_SHAPE;
        b.fail[4] = LORA_ERROR_KEY;
        b.fail[7] = LORA_ERROR_DTYPE;
        assert_int_equal(pthread_barrier_init(&b.barrier, NULL, JOBS), 0);
        lora_error_init(&error, sizeof error);
        assert_int_equal(
            lora__run_jobs(context, "test", batch_job, &b, JOBS, &error),
            LORA_ERROR_SHAPE);
        assert_int_equal(error.status, LORA_ERROR_SHAPE);
        assert_int_equal(error.offset, 2);
        pthread_barrier_destroy(&b.barrier);
    }
    lora_context_destroy(context);
}

/* ---- the pool ---------------------------------------------------------- */

typedef struct crowd {
    atomic_int ran[1000];
    atomic_int busy[16]; /* by worker */
    atomic_int clashes;
    uint32_t workers;
} crowd;

static void crowd_task(void *arg, size_t index, uint32_t worker)
{
    crowd *c = arg;

    if (worker >= c->workers || atomic_fetch_add(&c->busy[worker], 1) != 0) {
        atomic_fetch_add(&c->clashes, 1);
    }
    atomic_fetch_add(&c->ran[index], 1);
    for (volatile int i = 0; i < 200; i++) {
    }
    if (worker < c->workers) {
        atomic_fetch_sub(&c->busy[worker], 1);
    }
}

static void test_pool(void **state)
{
    static crowd c;
    heap h;
    const lora_allocator hooks = heap_hooks(&h);

    (void)state;
    if (!lora_feature_supported("threads")) {
        skip();
    }
    heap_init(&h);
    for (uint32_t threads = 1; threads <= 8; threads++) {
        lora__pool *pool;
        lora_executor executor;
        assert_int_equal(lora__pool_create(&pool, &hooks, threads, NULL),
                         LORA_OK);
        executor = lora__pool_executor(pool);
        assert_int_equal(executor.concurrency(executor.user), threads);
        memset(&c, 0, sizeof c);
        c.workers = threads;
        for (size_t round = 1; round <= 20; round++) {
            size_t count = round == 1 ? 0 : COUNT(c.ran);
            executor.parallel_for(executor.user, crowd_task, &c, count);
            for (size_t i = 0; i < COUNT(c.ran); i++) {
                assert_int_equal(c.ran[i], round - 1);
            }
        }
        assert_int_equal(c.clashes, 0);
        lora__pool_destroy(pool);
        assert_int_equal(h.live, 0);
    }
    lora__pool_destroy(NULL);
    assert_int_equal(h.misused, 0);
}

/* Calls of few tasks close after one another, as a layer makes them, and some
 * that come late: threads look for a call, sleep, or come when it is over. */
static void test_pool_small_calls(void **state)
{
    static crowd c;
    heap h;
    const lora_allocator hooks = heap_hooks(&h);

    (void)state;
    if (!lora_feature_supported("threads")) {
        skip();
    }
    heap_init(&h);
    for (uint32_t threads = 2; threads <= 4; threads++) {
        int expected[4] = {0, 0, 0, 0};
        lora_executor executor;
        lora__pool *pool;

        assert_int_equal(lora__pool_create(&pool, &hooks, threads, NULL),
                         LORA_OK);
        executor = lora__pool_executor(pool);
        memset(&c, 0, sizeof c);
        c.workers = threads;
        for (size_t call = 0; call < 3000; call++) {
            const size_t count = 1 + call % COUNT(expected);

            executor.parallel_for(executor.user, crowd_task, &c, count);
            for (size_t i = 0; i < count; i++) {
                assert_int_equal(c.ran[i], ++expected[i]);
            }
            for (volatile int i = 0; call % 100 == 0 && i < 200000; i++) {
            }
        }
        assert_int_equal(c.clashes, 0);
        lora__pool_destroy(pool);
        assert_int_equal(h.live, 0);
    }
    assert_int_equal(h.misused, 0);
}

/* ---- atomics and errors ------------------------------------------------ */

static uint32_t shared32;
static uint64_t shared64;
static uint64_t highest;

static void *count_up(void *arg)
{
    uint64_t base = (uint64_t)(uintptr_t)arg;

    for (uint64_t i = 0; i < 20000; i++) {
        lora__atomic_add_u32(&shared32, 1);
        lora__atomic_add_u64(&shared64, UINT64_C(1) << 33);
        lora__atomic_max_u64(&highest, base + i * 5);
    }
    return NULL;
}

static void test_atomics(void **state)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];

    (void)state;
    for (uintptr_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, (void *)i),
                         0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(lora__atomic_load_u32(&shared32), THREADS * 20000);
    assert_int_equal(lora__atomic_load_u64(&shared64),
                     (UINT64_C(1) << 33) * THREADS * 20000);
    assert_int_equal(lora__atomic_load_u64(&highest), 3 + 19999 * 5);
    lora__atomic_max_u64(&highest, 7);
    assert_int_equal(highest, 3 + 19999 * 5);
    assert_int_equal(lora__atomic_add_u32(&shared32, UINT32_MAX),
                     THREADS * 20000 - 1);
    lora__atomic_store_u32(&shared32, 5);
    assert_int_equal(lora__atomic_load_u32(&shared32), 5);
}

/* The first failure is kept, subjects are given only where none is. */
static void test_errors(void **state)
{
    lora_error error;
    lora_error other;

    (void)state;
    lora_error_init(&error, sizeof error);
    lora__error_set_subject(&error, "early");
    assert_string_equal(error.subject, "");
    assert_int_equal(lora__fail_os(&error, 2, NULL, "what"), LORA_ERROR_IO);
    assert_int_equal(lora__fail(&error, LORA_ERROR_KEY, 5, "b", "later"),
                     LORA_ERROR_KEY);
    assert_int_equal(lora__fail_os(&error, 3, "c", "later"), LORA_ERROR_IO);
    assert_int_equal(error.status, LORA_ERROR_IO);
    assert_int_equal(error.os_error, 2);
    assert_int_equal(error.offset, LORA_NO_OFFSET);
    lora__error_set_subject(&error, "file");
    lora__error_set_subject(&error, "other");
    assert_string_equal(error.subject, "file");

    lora_error_init(&other, sizeof other);
    assert_int_equal(lora__error_merge(&other, &error), LORA_ERROR_IO);
    assert_memory_equal(&other, &error, sizeof other);
    error.status = LORA_ERROR_KEY;
    assert_int_equal(lora__error_merge(&other, &error), LORA_ERROR_KEY);
    assert_int_equal(other.status, LORA_ERROR_IO);
    assert_int_equal(lora__error_merge(NULL, &error), LORA_ERROR_KEY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_map_without_memory),
        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_options_of_any_age),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_default_allocator),
        cmocka_unit_test(test_jobs_serial),
        cmocka_unit_test(test_jobs_at_once),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_pool_small_calls),
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
