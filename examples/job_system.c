/* The host's own threads: an executor, as an engine would put before its job
 * system.
 *
 *     ./job_system in.safetensors out.safetensors THREADS
 *
 * Work is cut the same way for any number of threads, so the result has the
 * same bytes. Needs C11 atomics and POSIX threads.
 */
#include <lora/lora.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 64u

typedef struct batch {
    lora_task_fn fn;
    void *arg;
    size_t count;
    atomic_size_t next;
} batch;

typedef struct job_worker {
    pthread_t thread;
    batch *work;
    uint32_t index;
} job_worker;

static void *work(void *user)
{
    job_worker *w = user;
    size_t i;

    while ((i = atomic_fetch_add(&w->work->next, 1)) < w->work->count) {
        w->work->fn(w->work->arg, i, w->index);
    }
    return NULL;
}

static uint32_t concurrency(void *user)
{
    return *(const uint32_t *)user;
}

/* The calling thread is worker 0. A thread that does not start is not missed:
 * the others do its work. */
static void parallel_for(void *user, lora_task_fn fn, void *arg, size_t count)
{
    uint32_t threads = *(const uint32_t *)user;
    batch all = {fn, arg, count, 0};
    job_worker workers[MAX_THREADS];
    uint32_t started = 1;

    for (uint32_t i = 0; i < threads; i++) {
        workers[i].work = &all;
        workers[i].index = i;
    }
    while (started < threads && pthread_create(&workers[started].thread, NULL,
                                               work, &workers[started]) == 0) {
        started++;
    }
    work(&workers[0]);
    while (--started > 0) {
        pthread_join(workers[started].thread, NULL);
    }
}

int main(int argc, char **argv)
{
    uint32_t threads = argc == 4 ? (uint32_t)atoi(argv[3]) : 0;
    lora_executor executor = {sizeof executor, &threads, concurrency,
                              parallel_for};
    lora_rank_rule rule = {LORA_RANK_ENERGY, 0, 0.9};
    lora_context_options options;
    lora_context *context = NULL;
    lora_adapter *big = NULL;
    lora_adapter *small = NULL;
    lora_error error;
    int done;

    if (threads < 1 || threads > MAX_THREADS) {
        fputs("usage: job_system IN OUT THREADS\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    options.executor = &executor;
    done = lora_context_create(&context, &options, &error) == LORA_OK &&
           lora_adapter_open(&big, context, argv[1], NULL, &error) == LORA_OK &&
           lora_adapter_resize(&small, NULL, big, &rule, NULL, &error) ==
               LORA_OK &&
           lora_adapter_save(small, argv[2], NULL, &error) == LORA_OK;
    if (!done) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    lora_adapter_destroy(small);
    lora_adapter_destroy(big);
    lora_context_destroy(context);
    return done ? 0 : 1;
}
