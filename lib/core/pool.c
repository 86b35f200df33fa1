/* The default executor: a fixed set of threads that take indices in turn.
 *
 * They are started by the first call that has work for them: many a context
 * only opens a file. A thread that cannot be started is done without.
 */
#include "core/pool.h"

#include "platform/thread.h"

#include <string.h>

/* More threads than this never help and only cost memory. */
#define POOL_MAX_THREADS 256

typedef struct pool_worker {
    lora__thread thread;
    lora__pool *pool;
    uint32_t index;
} pool_worker;

struct lora__pool {
    lora_allocator allocator;
    lora__mutex mutex;
    lora__condition work; /* there is work, or the end */
    lora__condition idle; /* a task ended */
    pool_worker *workers; /* count - 1: the caller is worker 0 */
    uint32_t count;
    uint32_t started;

    /* The call that runs now, if any. */
    lora_task_fn fn;
    void *arg;
    size_t next;
    size_t end;
    size_t running; /* tasks that have not returned */
    int busy;
    int stop;
    int tried; /* to start the threads */
};

/* Take indices until none is left; called and returns with the lock held. */
static void pool_work(lora__pool *pool, uint32_t worker)
{
    while (pool->next < pool->end) {
        size_t index = pool->next++;
        lora_task_fn fn = pool->fn;
        void *arg = pool->arg;

        pool->running++;
        lora__mutex_unlock(&pool->mutex);
        fn(arg, index, worker);
        lora__mutex_lock(&pool->mutex);
        pool->running--;
    }
    if (pool->running == 0) {
        lora__condition_broadcast(&pool->idle);
    }
}

static void pool_thread(void *arg)
{
    pool_worker *worker = arg;
    lora__pool *pool = worker->pool;

    lora__mutex_lock(&pool->mutex);
    while (!pool->stop) {
        if (pool->next < pool->end) {
            pool_work(pool, worker->index);
        } else {
            lora__condition_wait(&pool->work, &pool->mutex);
        }
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
    lora__condition_broadcast(&pool->work);
    pool_work(pool, 0);
    while (pool->running > 0) {
        lora__condition_wait(&pool->idle, &pool->mutex);
    }
    pool->next = pool->end = 0;
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
    lora__condition_broadcast(&pool->work);
    lora__mutex_unlock(&pool->mutex);
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
