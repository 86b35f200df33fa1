/* The context: everything the library may use belongs to it.
 *
 * There is no process-wide state. Memory, threads, numeric backend, log,
 * progress and limits are given when a context is made and never change; two
 * parts of a program may have different ones. Every handle keeps the context
 * it was made with alive, so handles may be destroyed in any order.
 *
 * Threads: a context may be shared. The allocator and the log callback must
 * then be safe to call from several threads.
 */
#ifndef LORA_CONTEXT_H
#define LORA_CONTEXT_H

#include <lora/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_context lora_context;
typedef struct lora_cancel_token lora_cancel_token;

/** Memory hooks: all three or none. `size` is never 0; `align` is a power of
 *  two, up to 64. free and realloc get the size and alignment the block was
 *  made with, so an arena needs no headers.
 */
typedef struct lora_allocator {
    size_t struct_size;
    void *user;
    void *(*alloc)(void *user, size_t size, size_t align);
    void *(*realloc)(void *user,
                     void *block,
                     size_t old_size,
                     size_t new_size,
                     size_t align);
    void (*free)(void *user, void *block, size_t size, size_t align);
} lora_allocator;

/** One piece of parallel work. */
typedef void (*lora_task_fn)(void *arg, size_t index, uint32_t worker);

/** The host's own threads. Work is cut the same way whatever the number of
 *  threads, so results do not depend on it.
 */
typedef struct lora_executor {
    size_t struct_size;
    void *user;

    /** How many tasks can run at once; at least 1. */
    uint32_t (*concurrency)(void *user);

    /** Run fn(arg, index, worker) once for each index below count, and return
     *  when all are done. worker < concurrency; two tasks that run at the
     *  same time have different workers. May be serial. Never nested. */
    void (*parallel_for)(void *user, lora_task_fn fn, void *arg, size_t count);
} lora_executor;

/** Dense linear algebra from elsewhere, column-major, as BLAS and LAPACK
 *  define it; see openblas.h. Members may be NULL: the built-in code is used.
 *  The results of get `info` are LAPACK's: 0 is success. With lwork = -1 the
 *  size wanted is put into work[0].
 */
typedef struct lora_backend {
    size_t struct_size;
    const char *name;

    /** C[m,n] = alpha * op(A) * op(B) + beta * C; op is 'N' or 'T'. */
    void (*gemm_f64)(char op_a,
                     char op_b,
                     int32_t m,
                     int32_t n,
                     int32_t k,
                     double alpha,
                     const double *a,
                     int32_t lda,
                     const double *b,
                     int32_t ldb,
                     double beta,
                     double *c,
                     int32_t ldc);

    /** Householder QR: R in the upper triangle, reflectors below. */
    int32_t (*geqrf_f64)(int32_t m,
                         int32_t n,
                         double *a,
                         int32_t lda,
                         double *tau,
                         double *work,
                         int32_t lwork);

    /** Divide-and-conquer SVD, job 'S': u [m, min], s [min], vt [min, n];
     *  iwork has 8 * min(m, n) elements. */
    int32_t (*gesdd_f64)(int32_t m,
                         int32_t n,
                         double *a,
                         int32_t lda,
                         double *s,
                         double *u,
                         int32_t ldu,
                         double *vt,
                         int32_t ldvt,
                         double *work,
                         int32_t lwork,
                         int32_t *iwork);
} lora_backend;

typedef int32_t lora_log_level;

enum {
    LORA_LOG_ERROR = 1,
    LORA_LOG_WARNING = 2,
    LORA_LOG_INFO = 3,
    LORA_LOG_DEBUG = 4
};

/** Takes one line without a newline. Must not call operations on the same
 *  context. */
typedef void (*lora_log_fn)(void *user, lora_log_level level, const char *line);

/** Told how far an operation is, between its jobs, by whichever thread
 *  finished one (one call at a time: it must not call operations on the same
 *  context). `stage` is a static word such as "resize". A non-zero result
 *  cancels the operation.
 */
typedef int32_t (*lora_progress_fn)(void *user,
                                    const char *stage,
                                    uint64_t done,
                                    uint64_t total);

/** What an input may ask for. 0 means the default. */
typedef struct lora_limits {
    size_t struct_size;
    uint64_t header_bytes; /* of a container; default 100,000,000 */
    uint64_t tensor_count; /* default 1,000,000 */
    uint64_t name_bytes;   /* one tensor name; default 65,536 */
    uint64_t rank;         /* of one module; default 65,536 */
    uint64_t memory_bytes; /* live at once in this context; default none */
} lora_limits;

/* Parts of the CPU that a context may be told not to use. */
typedef uint32_t lora_cpu;

enum {
    LORA_CPU_AVX2 = 1,   /* AVX2 with FMA and F16C */
    LORA_CPU_AVX512 = 2, /* AVX-512 F, BW, DQ and VL */
    LORA_CPU_NEON = 4,   /* AArch64 */
    LORA_CPU_SHA = 8     /* SHA-256 instructions */
};

typedef struct lora_context_options {
    size_t struct_size;
    const lora_allocator *allocator; /* NULL: malloc */
    const lora_executor *executor;   /* NULL: see max_threads */
    const lora_backend *backend;     /* NULL: built-in */
    const lora_limits *limits;       /* NULL: defaults */
    lora_cancel_token *cancel;       /* NULL: none; the context retains it */
    lora_log_fn log;                 /* NULL: silence */
    void *log_user;
    lora_progress_fn progress; /* NULL: none */
    void *progress_user;
    uint32_t max_threads; /* own threads, up to 256; 0 and 1: none. Not with
                           * an executor */
    lora_cpu disable_cpu; /* LORA_CPU_* bits not to use; 0: use what is there */
} lora_context_options;

/** Fill options with defaults.
 *
 *  @param options  NULL does nothing.
 *  @param size     sizeof(lora_context_options) of the caller.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_context_options_init(lora_context_options *options,
                                        size_t size);

/** Make a context.
 *
 *  The tables in `options` are copied; what their user pointers point to must
 *  outlive the context.
 *
 *  @param out      receives the context; NULL on failure. Destroy with
 *                  lora_context_destroy().
 *  @param options  NULL for defaults: malloc, one thread, built-in kernels.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION;
 *          LORA_ERROR_MEMORY; LORA_ERROR_THREAD.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_context_create(
    lora_context **out, const lora_context_options *options, lora_error *error);

/** Share a context.
 *
 *  @param context  NULL gives NULL.
 *  @return the same context, with one more owner.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_context *lora_context_retain(lora_context *context);

/** Give up a context; the last owner frees it.
 *
 *  @param context  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_context_destroy(lora_context *context);

/** The most memory that was live at once, in bytes.
 *
 *  Counts what handles and operations took from the allocator; the context
 *  itself, a backend's own memory and mapped files are not in it.
 *
 *  @param context  NULL gives 0.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API uint64_t lora_context_memory_peak(const lora_context *context);

/** The memory that is live now, in bytes.
 *
 *  @param context  NULL gives 0.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API uint64_t lora_context_memory_live(const lora_context *context);

/** Make a token that cancels operations from any thread.
 *
 *  @param out    receives the token; NULL on failure. Destroy with
 *                lora_cancel_token_destroy().
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_cancel_token_create(lora_cancel_token **out, lora_error *error);

/** Ask every operation of the contexts that have this token to stop with
 *  LORA_ERROR_CANCELLED.
 *
 *  @param token  NULL does nothing.
 *  @threads safe; also safe in a signal handler.
 *  @since 0.1
 */
LORA_API void lora_cancel_token_cancel(lora_cancel_token *token);

/** Make a token usable again.
 *
 *  @param token  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_cancel_token_reset(lora_cancel_token *token);

/** Give up a token; contexts that have it keep it alive.
 *
 *  @param token  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_cancel_token_destroy(lora_cancel_token *token);

#ifdef __cplusplus
}
#endif

#endif
