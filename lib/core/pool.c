/* The default executor: a fixed set of threads that take indices in turn.
 *
 * They are started by the first call that has work for them: many a context
 * only opens a file. A thread that cannot be started is done without.
 *
 * Small calls come close after one another, and being woken takes longer than
 * they do: where each thread has a processor, one that is done looks for the
 * next call for some microseconds before it sleeps. It is the lock that says
 * who works at a call; what is looked at without it only ends the looking.
 */
#include "core/pool.h"

#include "platform/atomic.h"
#include "platform/thread.h"

#include <string.h>

/* More threads than this never help and only cost memory. */
#define POOL_MAX_THREADS 256

/* Looks at a number that another thread will change, before sleeping: up to
 * 50 microseconds. And the most calls without them, where none of the last ones
 * came in time. */
#define POOL_LOOKS 1000
#define POOL_MAX_RESTS 64

typedef struct pool_worker {
    lora__thread thread;
    lora__pool *pool;
    uint32_t index;
} pool_worker;

struct lora__pool {
    lora_allocator allocator;
    lora__mutex mutex;
    lora__condition work; /* there is work, or the end */
    lora__condition idle; /* all threads have left a call */
    pool_worker *workers; /* count - 1: the caller is worker 0 */
    uint32_t count;
    uint32_t started;
    uint32_t looks; /* before sleeping */

    /* The call that runs now, if any. It does not change while threads work
     * at it. */
    lora_task_fn fn;
    void *arg;
    size_t end;
    uint32_t call; /* its number */
    int open;      /* threads may come */
    int busy;
    int stop;
    int tried; /* to start the threads */

    /* Atomic, and apart from what the lock guards. */
    unsigned char apart[64];
    uint64_t next;
    uint32_t working; /* threads at the call; more of them with the lock only */
    uint32_t waiting; /* the caller sleeps until there are none */
    unsigned char apart_too[64];
    uint32_t posted; /* the last call's number, or that of the end */
};

/* 1 as soon as a number is not `seen`; 0 if it stays so. */
static int pool_look(const lora__pool *pool, const uint32_t *at, uint32_t seen)
{
    for (uint32_t i = 0; i < pool->looks; i++) {
        if (lora__atomic_load_u32(at) != seen) {
            return 1;
        }
        lora__thread_pause();
    }
    return 0;
}

/* Take indices until none is left. */
static void pool_work(lora__pool *pool, uint32_t worker)
{
    for (;;) {
        const uint64_t index = lora__atomic_add_u64(&pool->next, 1) - 1;

        if (index >= pool->end) {
            return;
        }
        pool->fn(pool->arg, (size_t)index, worker);
    }
}

/* Of a thread, which came with the lock: leave the call without it. The last
 * one wakes the caller. */
static void pool_leave(lora__pool *pool)
{
    if (lora__atomic_add_u32(&pool->working, UINT32_MAX) == 0 &&
        lora__atomic_load_u32(&pool->waiting)) {
        lora__mutex_lock(&pool->mutex);
        lora__condition_broadcast(&pool->idle);
        lora__mutex_unlock(&pool->mutex);
    }
}

/* Where looking was in vain again and again, rest from it for a while: other
 * programs need the processor, or calls are few. */
static void pool_thread(void *arg)
{
    pool_worker *worker = arg;
    lora__pool *pool = worker->pool;
    uint32_t misses = 1;
    uint32_t rests = 0;
    uint32_t call = 0; /* the last one it was at */

    lora__mutex_lock(&pool->mutex);
    while (!pool->stop) {
        if (!pool->open || pool->call == call) {
            lora__condition_wait(&pool->work, &pool->mutex);
            continue;
        }
        call = pool->call;
        lora__atomic_add_u32(&pool->working, 1);
        lora__mutex_unlock(&pool->mutex);
        pool_work(pool, worker->index);
        pool_leave(pool);
        if (rests > 0) {
            rests--;
        } else if (pool_look(pool, &pool->posted, call)) {
            misses = 1;
        } else {
            rests = misses - 1;
            misses = misses < POOL_MAX_RESTS ? misses * 2 : misses;
        }
        lora__mutex_lock(&pool->mutex);
    }
    lora__mutex_unlock(&pool->mutex);
}

static uint32_t pool_concurrency(void *user)
{
    const lora__pool *pool = user;

    return pool->count;
}

/* Called with the lock held; a new thread waits for it. */
static void pool_start(lora__pool *pool)
{
    pool->tried = 1;
    for (uint32_t i = 0; i + 1 < pool->count; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i + 1;
        if (!lora__thread_start(&pool->workers[i].thread, pool_thread,
                                &pool->workers[i])) {
            return;
        }
        pool->started++;
    }
}

/* Tell the threads, with the lock held and without it. */
static void pool_post(lora__pool *pool)
{
    const uint32_t call = ++pool->call;

    lora__condition_broadcast(&pool->work);
    lora__mutex_unlock(&pool->mutex);
    lora__atomic_store_u32(&pool->posted, call);
}

/* No more threads come; until those that did have left. Returns with the lock
 * held. */
static void pool_close(lora__pool *pool)
{
    uint32_t working = lora__atomic_load_u32(&pool->working);

    while (working > 0 && pool_look(pool, &pool->working, working)) {
        working = lora__atomic_load_u32(&pool->working);
    }
    lora__mutex_lock(&pool->mutex);
    pool->open = 0;
    lora__atomic_store_u32(&pool->waiting, 1);
    while (lora__atomic_load_u32(&pool->working) > 0) {
        lora__condition_wait(&pool->idle, &pool->mutex);
    }
    lora__atomic_store_u32(&pool->waiting, 0);
}

/* A second caller at the same time does its work alone. */
static void
pool_parallel_for(void *user, lora_task_fn fn, void *arg, size_t count)
{
    lora__pool *pool = user;

    lora__mutex_lock(&pool->mutex);
    if (pool->busy) {
        lora__mutex_unlock(&pool->mutex);
        for (size_t i = 0; i < count; i++) {
            fn(arg, i, 0);
        }
        return;
    }
    pool->busy = 1;
    if (!pool->tried) {
        pool_start(pool);
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->next = 0;
    pool->end = count;
    pool->open = 1;
    pool_post(pool);
    pool_work(pool, 0);
    pool_close(pool);
    pool->busy = 0;
    lora__mutex_unlock(&pool->mutex);
}

LORA_PRIVATE lora_executor lora__pool_executor(lora__pool *pool)
{
    lora_executor executor = {sizeof executor, pool, pool_concurrency,
                              pool_parallel_for};
    return executor;
}

LORA_PRIVATE void lora__pool_destroy(lora__pool *pool)
{
    lora_allocator allocator;

    if (pool == NULL) {
        return;
    }
    allocator = pool->allocator;
    lora__mutex_lock(&pool->mutex);
    pool->stop = 1;
    pool_post(pool);
    for (uint32_t i = 0; i < pool->started; i++) {
        lora__thread_join(&pool->workers[i].thread);
    }
    lora__condition_destroy(&pool->work);
    lora__condition_destroy(&pool->idle);
    lora__mutex_destroy(&pool->mutex);
    allocator.free(allocator.user, pool->workers,
                   pool->count * sizeof *pool->workers, LORA__ALIGN);
    allocator.free(allocator.user, pool, sizeof *pool, LORA__ALIGN);
}

/* Make the locks, all or none. */
static int pool_init_locks(lora__pool *pool)
{
    if (!lora__mutex_init(&pool->mutex)) {
        return 0;
    }
    if (!lora__condition_init(&pool->work)) {
        lora__mutex_destroy(&pool->mutex);
        return 0;
    }
    if (!lora__condition_init(&pool->idle)) {
        lora__condition_destroy(&pool->work);
        lora__mutex_destroy(&pool->mutex);
        return 0;
    }
    return 1;
}

LORA_PRIVATE lora_status lora__pool_create(lora__pool **out,
                                           const lora_allocator *allocator,
                                           uint32_t threads,
                                           lora_error *error)
{
    const lora_allocator *a = allocator;
    lora__pool *pool;
    size_t worker_bytes;

    threads = threads > POOL_MAX_THREADS ? POOL_MAX_THREADS : threads;
    worker_bytes = threads * sizeof *pool->workers;
    pool = a->alloc(a->user, sizeof *pool, LORA__ALIGN);
    if (pool == NULL) {
        return lora__fail_memory(error, sizeof *pool);
    }
    memset(pool, 0, sizeof *pool);
    pool->allocator = *a;
    pool->count = threads;
    pool->looks = threads > lora__thread_processors() ? 0 : POOL_LOOKS;
    pool->workers = a->alloc(a->user, worker_bytes, LORA__ALIGN);
    if (pool->workers == NULL) {
        a->free(a->user, pool, sizeof *pool, LORA__ALIGN);
        return lora__fail_memory(error, worker_bytes);
    }
    if (!pool_init_locks(pool)) {
        a->free(a->user, pool->workers, worker_bytes, LORA__ALIGN);
        a->free(a->user, pool, sizeof *pool, LORA__ALIGN);
        return lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
                          "a lock could not be made");
    }
    *out = pool;
    return LORA_OK;
}
