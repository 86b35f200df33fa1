/* Threads on Windows: slim locks and condition variables. */
#if defined(_WIN32) && !defined(LORA_NO_THREADS)

#include "platform/thread.h"

#include <process.h>
#include <string.h>
#include <windows.h>

_Static_assert(sizeof(SRWLOCK) <= sizeof(lora__mutex), "mutex size");
_Static_assert(sizeof(CONDITION_VARIABLE) <= sizeof(lora__condition),
               "condition size");

LORA_PRIVATE int lora__mutex_init(lora__mutex *mutex)
{
    InitializeSRWLock((SRWLOCK *)&mutex->storage);
    return 1;
}

LORA_PRIVATE void lora__mutex_destroy(lora__mutex *mutex)
{
    (void)mutex;
}

LORA_PRIVATE void lora__mutex_lock(lora__mutex *mutex)
{
    AcquireSRWLockExclusive((SRWLOCK *)&mutex->storage);
}

LORA_PRIVATE void lora__mutex_unlock(lora__mutex *mutex)
{
    ReleaseSRWLockExclusive((SRWLOCK *)&mutex->storage);
}

LORA_PRIVATE int lora__condition_init(lora__condition *condition)
{
    InitializeConditionVariable((CONDITION_VARIABLE *)&condition->storage);
    return 1;
}

LORA_PRIVATE void lora__condition_destroy(lora__condition *condition)
{
    (void)condition;
}

LORA_PRIVATE void lora__condition_wait(lora__condition *condition,
                                       lora__mutex *mutex)
{
    SleepConditionVariableSRW((CONDITION_VARIABLE *)&condition->storage,
                              (SRWLOCK *)&mutex->storage, INFINITE, 0);
}

LORA_PRIVATE void lora__condition_broadcast(lora__condition *condition)
{
    WakeAllConditionVariable((CONDITION_VARIABLE *)&condition->storage);
}

static unsigned __stdcall thread_main_win32(void *arg)
{
    lora__thread *thread = arg;

    thread->entry(thread->arg);
    return 0;
}

LORA_PRIVATE int
lora__thread_start(lora__thread *thread, void (*entry)(void *), void *arg)
{
    uintptr_t handle;

    thread->entry = entry;
    thread->arg = arg;
    handle = _beginthreadex(NULL, 0, thread_main_win32, thread, 0, NULL);
    if (handle == 0) {
        return 0;
    }
    memcpy(thread->storage.bytes, &handle, sizeof handle);
    return 1;
}

LORA_PRIVATE void lora__thread_join(lora__thread *thread)
{
    uintptr_t handle;

    memcpy(&handle, thread->storage.bytes, sizeof handle);
    WaitForSingleObject((HANDLE)handle, INFINITE);
    CloseHandle((HANDLE)handle);
}

LORA_PRIVATE uint32_t lora__thread_processors(void)
{
    SYSTEM_INFO info;

    GetSystemInfo(&info);
    return info.dwNumberOfProcessors;
}

LORA_PRIVATE void lora__thread_pause(void)
{
    YieldProcessor();
}

#else

/* A translation unit must not be empty. */
typedef int lora__thread_win32_is_unused;

#endif
