/* The context inside the library: memory, limits, parallel work, talk. */
#ifndef LORA__CORE_CONTEXT_H
#define LORA__CORE_CONTEXT_H

#include "core/integer.h"
#include "core/status.h"

#include <lora/context.h>

/* A context with every hook and limit resolved; set once, then read only. */
typedef struct lora__settings {
    lora_allocator allocator;
    lora_executor executor; /* parallel_for is NULL for serial work */
    lora_backend backend;   /* all NULL for built-in */
    lora_limits limits;     /* no zeros but memory_bytes */
    lora_log_fn log;
    void *log_user;
    lora_progress_fn progress;
    void *progress_user;
    lora_cpu cpu; /* LORA_CPU_* bits found and not disabled */
} lora__settings;

LORA_PRIVATE const lora__settings *lora__context_get(const lora_context *c);

/* Memory. `bytes` of 0 is served as 1. NULL when it fails or would go over
 * the budget; lora__free needs the same size and alignment. */
LORA_PRIVATE void *lora__alloc(lora_context *c, size_t bytes, size_t align);
LORA_PRIVATE void *lora__realloc(lora_context *c,
                                 void *block,
                                 size_t old_bytes,
                                 size_t new_bytes,
                                 size_t align);
LORA_PRIVATE void
lora__free(lora_context *c, void *block, size_t bytes, size_t align);

/* Alignment for structs and tables, and for large numeric buffers. */
#define LORA__ALIGN 16
#define LORA__ALIGN_NUMERIC 64

/* Allocate count * bytes, zeroed, LORA__ALIGN; fills in the error. */
LORA_PRIVATE lora_status lora__alloc_zeroed(
    void **out, lora_context *c, size_t count, size_t bytes, lora_error *error);

/* What a table of that capacity grows to, for `count` items. */
LORA_PRIVATE lora_status lora__grow_capacity(size_t *out,
                                             size_t capacity,
                                             size_t count,
                                             lora_error *error);

/* Make room in a growing table of items for `count` of them; new ones are
 * not initialised. *items is NULL and *capacity 0 at first; on failure both are
 * as before. */
LORA_PRIVATE lora_status lora__grow(void **items,
                                    size_t *capacity,
                                    lora_context *c,
                                    size_t count,
                                    size_t item_bytes,
                                    lora_error *error);

/* How many tasks may run at once: workers are below this number. */
LORA_PRIVATE uint32_t lora__concurrency(const lora_context *c);

/* One piece of parallel work that can fail. */
typedef lora_status (*lora__job_fn)(void *arg,
                                    size_t index,
                                    uint32_t worker,
                                    lora_error *error);

/* Run `count` jobs on the executor. Progress is told as `stage` between jobs,
 * or not at all if that is NULL, and cancelling is honoured; after a failure
 * no new job starts. The failure of the lowest index that ran is returned. */
LORA_PRIVATE lora_status lora__run_jobs(lora_context *c,
                                        const char *stage,
                                        lora__job_fn fn,
                                        void *arg,
                                        size_t count,
                                        lora_error *error);

/* Tell progress, or with a stage of NULL only look at the token; CANCELLED if
 * the callback or the token says so. */
LORA_PRIVATE lora_status lora__progress(lora_context *c,
                                        const char *stage,
                                        uint64_t done,
                                        uint64_t total,
                                        lora_error *error);

LORA_PRIVATE void
lora__log(lora_context *c, lora_log_level level, const char *format, ...)
    LORA__PRINTF(3, 4);

#endif
