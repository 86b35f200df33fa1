/* No threads: locks do nothing, and none can be started. */
#ifdef LORA_NO_THREADS

#include "platform/thread.h"

LORA_PRIVATE int lora__mutex_init(lora__mutex *mutex)
{
    (void)mutex;
    return 1;
}

LORA_PRIVATE void lora__mutex_destroy(lora__mutex *mutex)
{
    (void)mutex;
}

LORA_PRIVATE void lora__mutex_lock(lora__mutex *mutex)
{
    (void)mutex;
}

LORA_PRIVATE void lora__mutex_unlock(lora__mutex *mutex)
{
    (void)mutex;
}

LORA_PRIVATE int lora__condition_init(lora__condition *condition)
{
    (void)condition;
    return 1;
}

LORA_PRIVATE void lora__condition_destroy(lora__condition *condition)
{
    (void)condition;
}

LORA_PRIVATE void lora__condition_wait(lora__condition *condition,
                                       lora__mutex *mutex)
{
    (void)condition;
    (void)mutex;
}

LORA_PRIVATE void lora__condition_broadcast(lora__condition *condition)
{
    (void)condition;
}

LORA_PRIVATE int
lora__thread_start(lora__thread *thread, void (*entry)(void *), void *arg)
{
    (void)thread;
    (void)entry;
    (void)arg;
    return 0;
}

LORA_PRIVATE void lora__thread_join(lora__thread *thread)
{
    (void)thread;
}

LORA_PRIVATE uint32_t lora__thread_processors(void)
{
    return 1;
}

LORA_PRIVATE void lora__thread_pause(void)
{
}

#else

/* A translation unit must not be empty. */
typedef int lora__thread_none_is_unused;

#endif
