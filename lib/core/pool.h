/* The default executor: threads of our own, owned by a context. */
#ifndef LORA__CORE_POOL_H
#define LORA__CORE_POOL_H

#include "core/context.h"

typedef struct lora__pool lora__pool;

/* A pool in which `threads` tasks run at once: the caller's thread and
 * threads - 1 more. */
LORA_PRIVATE lora_status lora__pool_create(lora__pool **out,
                                           const lora_allocator *allocator,
                                           uint32_t threads,
                                           lora_error *error);
LORA_PRIVATE void lora__pool_destroy(lora__pool *pool);

/* The pool as an executor. */
LORA_PRIVATE lora_executor lora__pool_executor(lora__pool *pool);

#endif
