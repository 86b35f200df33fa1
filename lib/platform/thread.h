/* Threads, locks and conditions; thread_posix.c and thread_win32.c, or
 * thread_none.c under LORA_NO_THREADS.
 */
#ifndef LORA__PLATFORM_THREAD_H
#define LORA__PLATFORM_THREAD_H

#include "platform/compiler.h"

/* Sized for every platform's lock; see the static assertions in the .c. */
typedef struct lora__mutex {
    union {
        void *align;
        unsigned char bytes[64];
    } storage;
} lora__mutex;

typedef struct lora__condition {
    union {
        void *align;
        unsigned char bytes[64];
    } storage;
} lora__condition;

typedef struct lora__thread {
    void (*entry)(void *arg);
    void *arg;
    union {
        void *align;
        unsigned char bytes[16];
    } storage;
} lora__thread;

/* 1 on success. */
LORA_PRIVATE int lora__mutex_init(lora__mutex *mutex);
LORA_PRIVATE void lora__mutex_destroy(lora__mutex *mutex);
LORA_PRIVATE void lora__mutex_lock(lora__mutex *mutex);
LORA_PRIVATE void lora__mutex_unlock(lora__mutex *mutex);

LORA_PRIVATE int lora__condition_init(lora__condition *condition);
LORA_PRIVATE void lora__condition_destroy(lora__condition *condition);
LORA_PRIVATE void lora__condition_wait(lora__condition *condition,
                                       lora__mutex *mutex);
LORA_PRIVATE void lora__condition_broadcast(lora__condition *condition);

/* `thread` must stay where it is until joined. */
LORA_PRIVATE int
lora__thread_start(lora__thread *thread, void (*entry)(void *), void *arg);
LORA_PRIVATE void lora__thread_join(lora__thread *thread);

/* Processors that there are; 1 if that is not known. */
LORA_PRIVATE uint32_t lora__thread_processors(void);

/* What a thread does while it looks at the same number again and again. */
LORA_PRIVATE void lora__thread_pause(void);

#endif
