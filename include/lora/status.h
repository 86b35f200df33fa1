/* Status codes and the error record.
 *
 * Every function that can fail returns a lora_status: 0 is success, negative
 * is failure. What went wrong in words, with the file, tensor or option it is
 * about and the byte offset in it, goes into a lora_error that the caller owns
 * and passes last. NULL is accepted everywhere.
 *
 * Codes lie in bands. Numbers never change; new ones may come in any minor
 * release, so treat an unknown negative value as failure.
 *
 * On failure outputs are NULL or untouched, inputs are unchanged, and the
 * context can be used again.
 */
#ifndef LORA_STATUS_H
#define LORA_STATUS_H

#include <lora/export.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t lora_status;

enum {
    LORA_OK = 0,

    /* The caller: -1 and below. */
    LORA_ERROR_ARGUMENT = -1,    /* NULL or senseless argument */
    LORA_ERROR_STATE = -2,       /* call out of order */
    LORA_ERROR_RANGE = -3,       /* index or value out of range */
    LORA_ERROR_UNSUPPORTED = -4, /* not in this build, or not for this kind */
    LORA_ERROR_OPTION = -5,      /* option unknown to this version */

    /* Resources: -100 and below. */
    LORA_ERROR_MEMORY = -100, /* allocation failed, or over the budget */
    LORA_ERROR_IO = -101,     /* the operating system refused; see os_error */
    LORA_ERROR_LIMIT = -102,  /* input over a limit of the context */
    LORA_ERROR_THREAD = -103, /* no lock, or an executor left tasks undone */

    /* Data: -200 and below. */
    LORA_ERROR_FORMAT = -200,    /* not of the format, or damaged */
    LORA_ERROR_TRUNCATED = -201, /* ends too early */
    LORA_ERROR_DTYPE = -202,     /* number type cannot be used here */
    LORA_ERROR_SHAPE = -203,     /* shapes do not fit */
    LORA_ERROR_KEY = -204,       /* name missing, unknown or without partner */
    LORA_ERROR_DUPLICATE = -205, /* the same thing twice */

    /* Numbers: -300 and below. */
    LORA_ERROR_NONFINITE = -300,   /* NaN or infinity */
    LORA_ERROR_CONVERGENCE = -301, /* an iteration did not settle */

    LORA_ERROR_CANCELLED = -400, /* by the progress callback or a token */
    LORA_ERROR_INTERNAL = -500   /* a fault in liblora: please report it */
};

/* No position is known. */
#define LORA_NO_OFFSET UINT64_MAX

/** Details of a failure, in the caller's memory.
 *
 *  Set up with lora_error_init(); a record whose struct_size was never set is
 *  refused, as writing to it could overrun it. Each call resets the record it
 *  is given. The first failure within one call is kept, so that a failing
 *  clean-up does not hide the cause. Filled in without allocating.
 */
typedef struct lora_error {
    size_t struct_size;
    lora_status status;
    int32_t os_error;  /* errno or GetLastError(), else 0 */
    uint64_t offset;   /* byte in the input, or LORA_NO_OFFSET */
    char subject[256]; /* file, tensor or option; a long one keeps its tail */
    char message[256]; /* one line: what, and what to do where that helps */
} lora_error;

/** Prepare an error record.
 *
 *  @param error  the record; NULL does nothing.
 *  @param size   sizeof(lora_error) of the caller.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_error_init(lora_error *error, size_t size);

/** Name of a status, such as "FORMAT" for LORA_ERROR_FORMAT.
 *
 *  @return a static string; "UNKNOWN" for a number this version lacks.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_status_name(lora_status status);

#ifdef __cplusplus
}
#endif

#endif
