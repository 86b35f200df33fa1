/* Jobs are coarse, so that one lock is enough. */
#include "jobs.h"

/* Take jobs of the batch until none is left. Holds the lock but in a job. */
static void work(jobs *j, uint32_t worker)
{
    while (j->next < j->count) {
        size_t index = j->next++;

        pthread_mutex_unlock(&j->lock);
        j->fn(j->arg, index, worker);
        pthread_mutex_lock(&j->lock);
        if (++j->done == j->count) {
            pthread_cond_signal(&j->idle);
        }
    }
}

static void *worker_main(void *user)
{
    jobs_worker *worker = user;
    jobs *j = worker->owner;

    pthread_mutex_lock(&j->lock);
    while (!j->stop) {
        work(j, worker->index);
        if (!j->stop) {
            pthread_cond_wait(&j->wake, &j->lock);
        }
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

void jobs_run(jobs *j, lora_task_fn fn, void *arg, size_t count)
{
    pthread_mutex_lock(&j->lock);
    j->fn = fn;
    j->arg = arg;
    j->next = 0;
    j->count = count;
    j->done = 0;
    pthread_cond_broadcast(&j->wake);
    work(j, 0);
    while (j->done < count) {
        pthread_cond_wait(&j->idle, &j->lock);
    }
    pthread_mutex_unlock(&j->lock);
}

int jobs_begin(jobs *j, uint32_t worker_count)
{
    *j = (jobs){.worker_count = 1};
    if (pthread_mutex_init(&j->lock, NULL) != 0) {
        return 0;
    }
    if (pthread_cond_init(&j->wake, NULL) != 0) {
        pthread_mutex_destroy(&j->lock);
        return 0;
    }
    if (pthread_cond_init(&j->idle, NULL) != 0) {
        pthread_cond_destroy(&j->wake);
        pthread_mutex_destroy(&j->lock);
        return 0;
    }
    while (j->worker_count < worker_count &&
           j->worker_count < JOBS_MAX_WORKERS) {
        jobs_worker *worker = &j->workers[j->worker_count];

        worker->owner = j;
        worker->index = j->worker_count;
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
            break; /* the others do its work */
        }
        j->worker_count++;
    }
    return 1;
}

void jobs_end(jobs *j)
{
    pthread_mutex_lock(&j->lock);
    j->stop = 1;
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
    for (uint32_t i = 1; i < j->worker_count; i++) {
        pthread_join(j->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&j->idle);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
}

static uint32_t hook_concurrency(void *user)
{
    return ((const jobs *)user)->worker_count;
}

static void
hook_parallel_for(void *user, lora_task_fn fn, void *arg, size_t count)
{
    jobs_run(user, fn, arg, count);
}

lora_executor jobs_executor(jobs *j)
{
    lora_executor executor = {sizeof executor, j, hook_concurrency,
                              hook_parallel_for};

    return executor;
}
