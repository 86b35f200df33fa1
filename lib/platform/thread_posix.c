/* Threads on POSIX. */
#if !defined(_WIN32) && !defined(LORA_NO_THREADS)

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "platform/thread.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(lora__mutex), "mutex size");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(lora__condition), "cond size");
_Static_assert(sizeof(pthread_t) <= 16, "thread size");

LORA_PRIVATE int lora__mutex_init(lora__mutex *mutex)
{
    return pthread_mutex_init((pthread_mutex_t *)&mutex->storage, NULL) == 0;
}

LORA_PRIVATE void lora__mutex_destroy(lora__mutex *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)&mutex->storage);
}

LORA_PRIVATE void lora__mutex_lock(lora__mutex *mutex)
{
    pthread_mutex_lock((pthread_mutex_t *)&mutex->storage);
}

LORA_PRIVATE void lora__mutex_unlock(lora__mutex *mutex)
{
    pthread_mutex_unlock((pthread_mutex_t *)&mutex->storage);
}

LORA_PRIVATE int lora__condition_init(lora__condition *condition)
{
    return pthread_cond_init((pthread_cond_t *)&condition->storage, NULL) == 0;
}

LORA_PRIVATE void lora__condition_destroy(lora__condition *condition)
{
    pthread_cond_destroy((pthread_cond_t *)&condition->storage);
}

LORA_PRIVATE void lora__condition_wait(lora__condition *condition,
                                       lora__mutex *mutex)
{
    pthread_cond_wait((pthread_cond_t *)&condition->storage,
                      (pthread_mutex_t *)&mutex->storage);
}

LORA_PRIVATE void lora__condition_broadcast(lora__condition *condition)
{
    pthread_cond_broadcast((pthread_cond_t *)&condition->storage);
}

static void *thread_main(void *arg)
{
    lora__thread *thread = arg;

    thread->entry(thread->arg);
    return NULL;
}

LORA_PRIVATE int
lora__thread_start(lora__thread *thread, void (*entry)(void *), void *arg)
{
    pthread_t id;

    thread->entry = entry;
    thread->arg = arg;
    if (pthread_create(&id, NULL, thread_main, thread) != 0) {
        return 0;
    }
    memcpy(thread->storage.bytes, &id, sizeof id);
    return 1;
}

LORA_PRIVATE void lora__thread_join(lora__thread *thread)
{
    pthread_t id;

    memcpy(&id, thread->storage.bytes, sizeof id);
    pthread_join(id, NULL);
}

LORA_PRIVATE uint32_t lora__thread_processors(void)
{
#ifdef _SC_NPROCESSORS_ONLN
    const int64_t count = sysconf(_SC_NPROCESSORS_ONLN);

    return count < 1 ? 1 : count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
#else
    return 1;
#endif
}

LORA_PRIVATE void lora__thread_pause(void)
{
    LORA__PAUSE();
}

#else

/* A translation unit must not be empty. */
typedef int lora__thread_posix_is_unused;

#endif
