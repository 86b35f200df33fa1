/* The engine's job system: a few threads that wait for work. */
#ifndef ENGINE_JOBS_H
#define ENGINE_JOBS_H

#include "lora.h"

#include <pthread.h>

enum { JOBS_MAX_WORKERS = 8 };

typedef struct jobs jobs;

typedef struct jobs_worker {
    pthread_t thread;
    jobs *owner;
    uint32_t index; /* 0 is the thread that waits for the batch */
} jobs_worker;

struct jobs {
    pthread_mutex_t lock; /* guards all that follows */
    pthread_cond_t wake;
    pthread_cond_t idle;
    lora_task_fn fn; /* the batch */
    void *arg;
    size_t next;
    size_t count;
    size_t done;
    int stop;
    uint32_t worker_count; /* with the calling thread */
    jobs_worker workers[JOBS_MAX_WORKERS];
};

/* As many workers as can be started, up to `worker_count`. 0 if it fails. */
int jobs_begin(jobs *j, uint32_t worker_count);
void jobs_end(jobs *j);

/* Run fn(arg, index, worker) for each index; from one thread at a time. */
void jobs_run(jobs *j, lora_task_fn fn, void *arg, size_t count);

/* The hooks of the library, on these workers. */
lora_executor jobs_executor(jobs *j);

#endif
