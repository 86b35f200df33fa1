/* Contexts: resolving what the host gave, counting memory, running jobs. */
#include "core/context.h"

#include "core/alloc.h"
#include "core/options.h"
#include "core/pool.h"
#include "platform/atomic.h"
#include "platform/cpuid.h"
#include "platform/thread.h"

#include <stdio.h>
#include <string.h>

struct lora_cancel_token {
    uint32_t references; /* atomic */
    uint32_t cancelled;  /* atomic */
};

struct lora_context {
    lora__settings settings;
    lora_cancel_token *cancel;
    lora__pool *pool;     /* NULL with the host's executor, or none */
    lora__mutex talk;     /* one log line or progress call at a time */
    uint64_t memory_live; /* atomic */
    uint64_t memory_peak; /* atomic */
    uint32_t references;  /* atomic */
    int has_talk;
};

LORA_API void lora_context_options_init(lora_context_options *options,
                                        size_t size)
{
    lora__options_init(options, size);
}

/* The tables inside the options are options structs themselves. */
static lora_status context_read_tables(lora__settings *s,
                                       const lora_context_options *o,
                                       lora_error *error)
{
    lora_limits *l = &s->limits;

    s->allocator = lora__alloc_default();
    if (o->allocator != NULL) {
        TRY(lora__options_read(&s->allocator, sizeof s->allocator,
                               LORA__SIZE_TO(lora_allocator, free),
                               o->allocator, error));
        CHECK_ARG(s->allocator.alloc != NULL && s->allocator.free != NULL &&
                      s->allocator.realloc != NULL,
                  error);
    }
    TRY(lora__options_read(&s->executor, sizeof s->executor,
                           LORA__SIZE_TO(lora_executor, parallel_for),
                           o->executor, error));
    CHECK_ARG(o->executor == NULL || (s->executor.concurrency != NULL &&
                                      s->executor.parallel_for != NULL),
              error);
    TRY(lora__options_read(&s->backend, sizeof s->backend,
                           LORA__SIZE_TO(lora_backend, gesdd_f64), o->backend,
                           error));
    TRY(lora__options_read(l, sizeof *l,
                           LORA__SIZE_TO(lora_limits, memory_bytes), o->limits,
                           error));
    l->header_bytes = l->header_bytes == 0 ? 100000000 : l->header_bytes;
    l->tensor_count = l->tensor_count == 0 ? 1000000 : l->tensor_count;
    l->name_bytes = l->name_bytes == 0 ? 65536 : l->name_bytes;
    l->rank = l->rank == 0 ? 65536 : l->rank;
    return LORA_OK;
}

static void context_free(lora_context *c)
{
    lora_allocator allocator = c->settings.allocator;

    lora__pool_destroy(c->pool);
    if (c->has_talk) {
        lora__mutex_destroy(&c->talk);
    }
    lora_cancel_token_destroy(c->cancel);
    allocator.free(allocator.user, c, sizeof *c, LORA__ALIGN);
}

LORA_API lora_status lora_context_create(lora_context **out,
                                         const lora_context_options *options,
                                         lora_error *error)
{
    lora_context_options o;
    lora__settings settings;
    lora_context *c;
    lora_status status = LORA_OK;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_context_options, disable_cpu),
                           options, error));
    memset(&settings, 0, sizeof settings);
    TRY(context_read_tables(&settings, &o, error));
    settings.log = o.log;
    settings.log_user = o.log_user;
    settings.progress = o.progress;
    settings.progress_user = o.progress_user;
    settings.cpu = lora__cpu_features() & ~o.disable_cpu;

    c = settings.allocator.alloc(settings.allocator.user, sizeof *c,
                                 LORA__ALIGN);
    if (c == NULL) {
        return lora__fail_memory(error, sizeof *c);
    }
    memset(c, 0, sizeof *c);
    c->settings = settings;
    c->references = 1;
    if (o.cancel != NULL) {
        lora__atomic_add_u32(&o.cancel->references, 1);
        c->cancel = o.cancel;
    }
    c->has_talk = lora__mutex_init(&c->talk);
    if (!c->has_talk) {
        status = lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
                            "a lock could not be made");
        goto done;
    }
    if (o.executor == NULL && o.max_threads > 1) {
        TRY_OR_DONE(lora__pool_create(&c->pool, &c->settings.allocator,
                                      o.max_threads, error));
        c->settings.executor = lora__pool_executor(c->pool);
    }
    *out = c;
    c = NULL;
done:
    if (c != NULL) {
        context_free(c);
    }
    return status;
}

LORA_API lora_context *lora_context_retain(lora_context *context)
{
    if (context != NULL) {
        lora__atomic_add_u32(&context->references, 1);
    }
    return context;
}

LORA_API void lora_context_destroy(lora_context *context)
{
    if (context != NULL &&
        lora__atomic_add_u32(&context->references, UINT32_MAX) == 0) {
        context_free(context);
    }
}

LORA_API uint64_t lora_context_memory_peak(const lora_context *context)
{
    return context == NULL ? 0 : lora__atomic_load_u64(&context->memory_peak);
}

LORA_API uint64_t lora_context_memory_live(const lora_context *context)
{
    return context == NULL ? 0 : lora__atomic_load_u64(&context->memory_live);
}

/* Tokens belong to no context, so they come from malloc. */
LORA_API lora_status lora_cancel_token_create(lora_cancel_token **out,
                                              lora_error *error)
{
    lora_allocator allocator = lora__alloc_default();

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = allocator.alloc(NULL, sizeof **out, LORA__ALIGN);
    if (*out == NULL) {
        return lora__fail_memory(error, sizeof **out);
    }
    (*out)->references = 1;
    (*out)->cancelled = 0;
    return LORA_OK;
}

LORA_API void lora_cancel_token_cancel(lora_cancel_token *token)
{
    if (token != NULL) {
        lora__atomic_store_u32(&token->cancelled, 1);
    }
}

LORA_API void lora_cancel_token_reset(lora_cancel_token *token)
{
    if (token != NULL) {
        lora__atomic_store_u32(&token->cancelled, 0);
    }
}

LORA_API void lora_cancel_token_destroy(lora_cancel_token *token)
{
    if (token != NULL &&
        lora__atomic_add_u32(&token->references, UINT32_MAX) == 0) {
        lora_allocator allocator = lora__alloc_default();
        allocator.free(NULL, token, sizeof *token, LORA__ALIGN);
    }
}

LORA_PRIVATE const lora__settings *lora__context_get(const lora_context *c)
{
    return &c->settings;
}

/* Count memory that is about to be taken; 0 if the budget does not allow. */
static int context_charge(lora_context *c, size_t bytes)
{
    uint64_t budget = c->settings.limits.memory_bytes;
    uint64_t live = lora__atomic_add_u64(&c->memory_live, bytes);

    if (budget != 0 && live > budget) {
        lora__atomic_add_u64(&c->memory_live, (uint64_t)0 - bytes);
        return 0;
    }
    return 1;
}

/* The memory was had. */
static void context_had(lora_context *c)
{
    lora__atomic_max_u64(&c->memory_peak,
                         lora__atomic_load_u64(&c->memory_live));
}

static void context_discharge(lora_context *c, size_t bytes)
{
    lora__atomic_add_u64(&c->memory_live, (uint64_t)0 - bytes);
}

LORA_PRIVATE void *lora__alloc(lora_context *c, size_t bytes, size_t align)
{
    const lora_allocator *a = &c->settings.allocator;
    void *block;

    bytes = bytes == 0 ? 1 : bytes;
    if (!context_charge(c, bytes)) {
        return NULL;
    }
    block = a->alloc(a->user, bytes, align);
    if (block == NULL) {
        context_discharge(c, bytes);
    } else {
        context_had(c);
    }
    return block;
}

LORA_PRIVATE void *lora__realloc(lora_context *c,
                                 void *block,
                                 size_t old_bytes,
                                 size_t new_bytes,
                                 size_t align)
{
    const lora_allocator *a = &c->settings.allocator;
    void *moved;

    old_bytes = old_bytes == 0 ? 1 : old_bytes;
    new_bytes = new_bytes == 0 ? 1 : new_bytes;
    if (!context_charge(c, new_bytes)) {
        return NULL;
    }
    moved = a->realloc(a->user, block, old_bytes, new_bytes, align);
    if (moved != NULL) {
        context_had(c);
    }
    context_discharge(c, moved == NULL ? new_bytes : old_bytes);
    return moved;
}

LORA_PRIVATE void
lora__free(lora_context *c, void *block, size_t bytes, size_t align)
{
    const lora_allocator *a = &c->settings.allocator;

    if (block != NULL) {
        bytes = bytes == 0 ? 1 : bytes;
        a->free(a->user, block, bytes, align);
        context_discharge(c, bytes);
    }
}

LORA_PRIVATE lora_status lora__alloc_zeroed(
    void **out, lora_context *c, size_t count, size_t bytes, lora_error *error)
{
    size_t total;

    if (!lora__mul_size(count, bytes, &total)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    *out = lora__alloc(c, total, LORA__ALIGN);
    if (*out == NULL) {
        return lora__fail_memory(error, total);
    }
    memset(*out, 0, total);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__grow_capacity(size_t *out,
                                             size_t capacity,
                                             size_t count,
                                             lora_error *error)
{
    *out = capacity == 0 ? 64 : capacity;
    while (*out < count) {
        if (!lora__mul_size(*out, 2, out)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__grow(void **items,
                                    size_t *capacity,
                                    lora_context *c,
                                    size_t count,
                                    size_t item_bytes,
                                    lora_error *error)
{
    size_t wanted;
    size_t total;
    void *grown;

    if (count <= *capacity) {
        return LORA_OK;
    }
    TRY(lora__grow_capacity(&wanted, *capacity, count, error));
    if (!lora__mul_size(wanted, item_bytes, &total)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    grown = *items == NULL ? lora__alloc(c, total, LORA__ALIGN)
                           : lora__realloc(c, *items, *capacity * item_bytes,
                                           total, LORA__ALIGN);
    if (grown == NULL) {
        return lora__fail_memory(error, total);
    }
    *items = grown;
    *capacity = wanted;
    return LORA_OK;
}

LORA_PRIVATE uint32_t lora__concurrency(const lora_context *c)
{
    const lora_executor *e = &c->settings.executor;
    uint32_t count = e->parallel_for == NULL ? 1 : e->concurrency(e->user);

    return count == 0 ? 1 : count;
}

static int context_is_cancelled(const lora_context *c)
{
    return c->cancel != NULL && lora__atomic_load_u32(&c->cancel->cancelled);
}

static lora_status context_cancelled(lora_error *error)
{
    return lora__fail(error, LORA_ERROR_CANCELLED, LORA_NO_OFFSET, NULL,
                      "cancelled");
}

/* 1 if there is something to tell: progress to the host, or that it cancelled.
 */
static int context_tells(const lora_context *c, const char *stage)
{
    return context_is_cancelled(c) ||
           (stage != NULL && c->settings.progress != NULL);
}

/* Tell progress, with the lock held. */
static lora_status context_tell(const lora_context *c,
                                const char *stage,
                                uint64_t done,
                                uint64_t total,
                                lora_error *error)
{
    int32_t stop = context_is_cancelled(c);

    if (!stop && stage != NULL && c->settings.progress != NULL) {
        stop =
            c->settings.progress(c->settings.progress_user, stage, done, total);
    }
    return stop ? context_cancelled(error) : LORA_OK;
}

LORA_PRIVATE lora_status lora__progress(lora_context *c,
                                        const char *stage,
                                        uint64_t done,
                                        uint64_t total,
                                        lora_error *error)
{
    lora_status status;

    lora__mutex_lock(&c->talk);
    status = context_tell(c, stage, done, total, error);
    lora__mutex_unlock(&c->talk);
    return status;
}

LORA_PRIVATE void
lora__log(lora_context *c, lora_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;

    if (c->settings.log != NULL) {
        va_start(args, format);
        vsnprintf(line, sizeof line, format, args);
        va_end(args);
        lora__mutex_lock(&c->talk);
        c->settings.log(c->settings.log_user, level, line);
        lora__mutex_unlock(&c->talk);
    }
}

/* What the jobs of one call share; `failed` may be read without the lock, and
 * `done` is counted with it where somebody is told. */
typedef struct context_jobs {
    lora_context *context;
    const char *stage;
    lora__job_fn fn;
    void *arg;
    size_t count;
    uint64_t done;   /* atomic */
    uint32_t failed; /* atomic */
    size_t failed_index;
    lora_error error; /* of failed_index */
} context_jobs;

static void context_job_failed(context_jobs *jobs,
                               size_t index,
                               lora_status status,
                               const lora_error *error)
{
    if (!lora__atomic_load_u32(&jobs->failed) || index < jobs->failed_index) {
        jobs->failed_index = index;
        jobs->error = *error;
        jobs->error.status = status;
    }
    lora__atomic_store_u32(&jobs->failed, 1);
}

static void context_run_job(void *arg, size_t index, uint32_t worker)
{
    context_jobs *jobs = arg;
    lora_error error;
    lora_status status;

    if (lora__atomic_load_u32(&jobs->failed)) {
        return;
    }
    lora_error_init(&error, sizeof error);
    status = jobs->fn(jobs->arg, index, worker, &error);
    if (status == LORA_OK && !context_tells(jobs->context, jobs->stage)) {
        lora__atomic_add_u64(&jobs->done, 1);
        return;
    }
    lora__mutex_lock(&jobs->context->talk);
    if (status == LORA_OK) {
        const uint64_t done = lora__atomic_add_u64(&jobs->done, 1);

        status =
            context_tell(jobs->context, jobs->stage, done, jobs->count, &error);
    }
    if (status != LORA_OK) {
        context_job_failed(jobs, index, status, &error);
    }
    lora__mutex_unlock(&jobs->context->talk);
}

LORA_PRIVATE lora_status lora__run_jobs(lora_context *c,
                                        const char *stage,
                                        lora__job_fn fn,
                                        void *arg,
                                        size_t count,
                                        lora_error *error)
{
    const lora_executor *e = &c->settings.executor;
    context_jobs jobs;

    memset(&jobs, 0, sizeof jobs);
    jobs.context = c;
    jobs.stage = stage;
    jobs.fn = fn;
    jobs.arg = arg;
    jobs.count = count;
    if (context_is_cancelled(c)) {
        return context_cancelled(error);
    }
    if (e->parallel_for != NULL && count > 1) {
        e->parallel_for(e->user, context_run_job, &jobs, count);
    } else {
        for (size_t i = 0; i < count && !jobs.failed; i++) {
            context_run_job(&jobs, i, 0);
        }
    }
    if (jobs.failed) {
        return lora__error_merge(error, &jobs.error);
    }
    return jobs.done == count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, NULL,
                            "the executor ran %llu of %llu tasks",
                            (unsigned long long)jobs.done,
                            (unsigned long long)count);
}
