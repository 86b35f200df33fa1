/* Failing: filling in a lora_error, and passing a status up.
 *
 * Inside the library a function that can fail takes a lora_error *last (it
 * may be NULL) and returns a status. A public function calls
 * lora__error_begin() first; the deepest function that knows what went wrong
 * calls LORA__FAIL or lora__fail(), everybody above only forwards.
 */
#ifndef LORA__CORE_STATUS_H
#define LORA__CORE_STATUS_H

#include "platform/compiler.h"

#include <lora/status.h>

#include <stdarg.h>

/* Forward a failure. */
#define TRY(expression)                                                        \
    do {                                                                       \
        lora_status try_status = (expression);                                 \
        if (try_status != LORA_OK) {                                           \
            return try_status;                                                 \
        }                                                                      \
    } while (0)

/* Forward a failure to the one clean-up place of a function, which has a
 * local `status`. */
#define TRY_OR_DONE(expression)                                                \
    do {                                                                       \
        status = (expression);                                                 \
        if (status != LORA_OK) {                                               \
            goto done;                                                         \
        }                                                                      \
    } while (0)

/* Refuse an argument of a public function. */
#define CHECK_ARG(condition, error)                                            \
    do {                                                                       \
        if (!(condition)) {                                                    \
            return lora__fail((error), LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,    \
                              "", "argument refused: " #condition);            \
        }                                                                      \
    } while (0)

/* What must hold whatever the input: a breach is our fault, not the file's. */
#define INVARIANT(condition, error)                                            \
    do {                                                                       \
        if (!(condition)) {                                                    \
            return lora__fail((error), LORA_ERROR_INTERNAL, LORA_NO_OFFSET,    \
                              "", "broken invariant: " #condition);            \
        }                                                                      \
    } while (0)

/* Reset a record at the start of a public call. */
LORA_PRIVATE void lora__error_begin(lora_error *error);

/* Record a failure unless one is recorded already, and return `status`.
 * `subject` may be NULL; the format may not use floating point, whose text
 * depends on the locale. */
LORA_PRIVATE lora_status lora__fail(lora_error *error,
                                    lora_status status,
                                    uint64_t offset,
                                    const char *subject,
                                    const char *format,
                                    ...) LORA__PRINTF(5, 6);

/* The same for a failed allocation of `bytes`. */
LORA_PRIVATE lora_status lora__fail_memory(lora_error *error, uint64_t bytes);

/* The same for a failed call of the operating system. */
LORA_PRIVATE lora_status lora__fail_os(lora_error *error,
                                       int32_t os_error,
                                       const char *subject,
                                       const char *what);

/* Give a recorded failure a subject (a file) if it has none. */
LORA_PRIVATE void lora__error_set_subject(lora_error *error,
                                          const char *subject);

/* Copy what a task recorded into the caller's record, unless it has one. */
LORA_PRIVATE lora_status lora__error_merge(lora_error *error,
                                           const lora_error *from);

#endif
