/* Fusing that goes on after its end: which tensors are in the partial files.
 *
 * A record names tensors whose bytes were flushed before it was written, so
 * that it holds after a loss of power too. Flushing is slow: tensors are told
 * of together, once they are of some size.
 */
#include "op/fuse.h"

#include "core/buffer.h"

#include <lora/version.h>

#include <string.h>

/* The two sorts of records. The bytes of the first are numbers of tensors. */
enum { FUSE_LOG_TENSORS = 0, FUSE_LOG_WHOLE = 1 };

/* So much is written again at most by each thread, or this part of all. */
#define FUSE_LOG_BYTES ((uint64_t)256 << 20)
#define FUSE_LOG_PARTS 16

/* ---- the job's identity ------------------------------------------------ */

static void fuse_log_hash_module(lora__sha256 *sha, const lora__module *m)
{
    const int32_t how[] = {m->ndim,    m->dora,  m->tucker,    m->padded,
                           m->sparse,  m->needs, m->of_inputs, m->transposed,
                           m->changes, m->dtype, m->has_alpha};

    lora__journal_hash_text(sha, m->name);
    lora__journal_hash_text(sha, m->target);
    lora__sha256_update(sha, how, sizeof how);
    lora__sha256_update(sha, &m->rank, sizeof m->rank);
    lora__sha256_update(sha, &m->alpha, sizeof m->alpha);
    lora__sha256_update(sha, &m->scale, sizeof m->scale);
}

/* All of an adapter, as a training may write the same table again. */
static lora_status fuse_log_hash_adapter(lora__sha256 *sha,
                                         const lora_adapter *adapter,
                                         lora_error *error)
{
    const lora__container *from = adapter->container;
    unsigned char chunk[4096];

    for (size_t i = 0; i < adapter->module_count; i++) {
        fuse_log_hash_module(sha, &adapter->modules[i]);
    }
    for (size_t i = 0; i < from->entry_count; i++) {
        const lora__entry *entry = &from->entries[i];
        lora__journal_hash_text(sha, entry->name);
        lora__sha256_update(sha, &entry->dtype, sizeof entry->dtype);
        lora__sha256_update(sha, entry->shape,
                            (size_t)entry->ndim * sizeof *entry->shape);
        for (uint64_t at = 0; at < entry->bytes; at += sizeof chunk) {
            uint64_t left = entry->bytes - at;
            size_t step = left < sizeof chunk ? (size_t)left : sizeof chunk;
            TRY(lora__container_read(from, i, at, chunk, step, error));
            lora__sha256_update(sha, chunk, step);
        }
    }
    return LORA_OK;
}

/* Everything that decides which bytes come out, and where. */
static lora_status fuse_log_identity(uint8_t out[32],
                                     const lora__fuse *job,
                                     const lora_binding *const *binds,
                                     lora_error *error)
{
    const lora_model_fuse_options *o = &job->options;
    uint32_t flags = o->flags & (LORA_FUSE_STOCHASTIC | LORA_FUSE_SATURATE);
    lora__sha256 sha;

    lora__sha256_init(&sha, job->cpu);
    lora__journal_hash_text(&sha, "fuse");
    lora__journal_hash_text(&sha, lora_version_string());
    lora__journal_hash_text(&sha, job->kernels->name);
    lora__sha256_update(&sha, &flags, sizeof flags);
    lora__sha256_update(&sha, &o->seed, sizeof o->seed);
    lora__sha256_update(&sha, &o->strength_rule, sizeof o->strength_rule);
    lora__sha256_update(&sha, &o->dora_rule, sizeof o->dora_rule);
    for (size_t i = 0; i < job->file_count; i++) {
        const lora__fuse_file *file = &job->files[i];
        lora__sha256_update(&sha, &file->bytes, sizeof file->bytes);
        lora__sha256_update(&sha, file->head, file->head_bytes);
    }
    for (size_t i = 0; i < job->patched.patch_count; i++) {
        const lora__patch *patch = &job->patches[i];
        const lora_adapter *adapter = binds[i]->adapter;
        lora__sha256_update(&sha, &patch->strength, sizeof patch->strength);
        TRY(fuse_log_hash_adapter(&sha, adapter, error));
        for (size_t m = 0; m < adapter->module_count; m++) {
            double factor = patch->factors == NULL ? 1.0 : patch->factors[m];
            lora__sha256_update(&sha, &factor, sizeof factor);
        }
    }
    TRY(lora__journal_hash_checkpoint(&sha, job->model, error));
    lora__sha256_finish(&sha, out);
    return LORA_OK;
}

/* ---- opening ----------------------------------------------------------- */

static lora_status fuse_log_refuse(const lora__fuse *job, lora_error *error)
{
    if (job->options.undo != NULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          job->options.undo,
                          "what writes an undo file cannot be resumed");
    }
    for (size_t i = 0; i < job->file_count; i++) {
        for (size_t f = 0; f < job->file_count; f++) {
            const lora__container *from = job->files[f].container;
            if (from != NULL && strcmp(from->path, job->files[i].path) == 0) {
                return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                                  from->path,
                                  "what replaces its own input cannot be "
                                  "resumed");
            }
        }
    }
    return LORA_OK;
}

static lora_status fuse_log_recall(lora__fuse *job, lora_error *error)
{
    lora__fuse_log *log = &job->log;
    const size_t tensors = job->model->tensor_count;

    for (size_t r = 0; r < lora__journal_count(log->journal); r++) {
        const lora__journal_record *record = lora__journal_at(log->journal, r);
        size_t count = (size_t)(record->bytes / sizeof *log->pending);
        log->whole |= record->index == FUSE_LOG_WHOLE;
        if (record->index != FUSE_LOG_TENSORS || count > tensors) {
            continue;
        }
        TRY(lora__journal_read(log->journal, record->offset, log->pending,
                               count * sizeof *log->pending, error));
        for (size_t i = 0; i < count; i++) {
            uint64_t tensor = log->pending[i];
            if (tensor < tensors && !log->done[tensor]) {
                log->done[tensor] = 1;
                log->done_count++;
            }
        }
    }
    return LORA_OK;
}

static lora_status fuse_log_allocate(lora__fuse *job, lora_error *error)
{
    lora__fuse_log *log = &job->log;
    const size_t tensors = job->model->tensor_count;
    lora__buffer text;
    uint64_t bytes = 0;
    void *memory;
    lora_status status;

    TRY(lora__arena_zeroed(&memory, &job->arena, tensors + 1, 1, error));
    log->done = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, tensors + 1,
                           sizeof *log->pending, error));
    log->pending = memory;
    for (size_t i = 0; i < job->file_count; i++) {
        bytes += job->files[i].bytes;
    }
    log->most = bytes / FUSE_LOG_PARTS;
    log->most = log->most < FUSE_LOG_BYTES ? log->most : FUSE_LOG_BYTES;
    lora__buffer_init(&text, job->context);
    lora__buffer_puts(&text, job->path);
    while (text.bytes > 1 && text.data[text.bytes - 1] == '/') {
        text.bytes--;
    }
    lora__buffer_puts(&text, ".journal");
    status = lora__buffer_status(&text, error);
    if (status == LORA_OK) {
        status = lora__arena_string(&log->path, &job->arena, text.data,
                                    text.bytes, error);
    }
    lora__buffer_destroy(&text);
    return status;
}

LORA_PRIVATE lora_status lora__fuse_log_open(lora__fuse *job,
                                             const lora_binding *const *binds,
                                             lora_error *error)
{
    lora__fuse_log *log = &job->log;
    lora_error found;
    lora_status status;

    if ((job->options.flags & LORA_FUSE_RESUME) == 0) {
        return LORA_OK;
    }
    TRY(fuse_log_refuse(job, error));
    if ((job->options.flags & LORA_FUSE_DRY_RUN) != 0) {
        return LORA_OK;
    }
    TRY(fuse_log_allocate(job, error));
    TRY(fuse_log_identity(log->identity, job, binds, error));
    log->has_lock = lora__mutex_init(&log->lock);
    if (!log->has_lock) {
        return lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, log->path,
                          "no lock for what is done");
    }
    lora_error_init(&found, sizeof found);
    status = lora__journal_open(&log->journal, job->context, log->path,
                                log->identity, 1, &found);
    if (status == LORA_ERROR_STATE &&
        (job->options.flags & LORA_FUSE_OVERWRITE) != 0) {
        /* Refused again where another process has it. */
        return lora__fuse_log_reset(job, error);
    }
    if (status != LORA_OK) {
        return lora__error_merge(error, &found);
    }
    return fuse_log_recall(job, error);
}

LORA_PRIVATE lora_status lora__fuse_log_reset(lora__fuse *job,
                                              lora_error *error)
{
    lora__fuse_log *log = &job->log;

    memset(log->done, 0, job->model->tensor_count);
    log->done_count = 0;
    log->whole = 0;
    lora__journal_close(log->journal);
    log->journal = NULL;
    return lora__journal_open(&log->journal, job->context, log->path,
                              log->identity, 0, error);
}

/* ---- writing ----------------------------------------------------------- */

static lora_status fuse_log_put(lora__fuse *job,
                                uint64_t sort,
                                const uint64_t *tensors,
                                size_t count,
                                lora_error *error)
{
    const lora__journal_piece piece = {tensors, count * sizeof *tensors};
    uint64_t offset;

    for (size_t i = 0; i < job->file_count; i++) {
        if (job->files[i].output != NULL) {
            TRY(lora__output_sync(job->files[i].output, error));
        }
    }
    return lora__journal_append(&offset, job->log.journal, sort, &piece, 1,
                                error);
}

LORA_PRIVATE lora_status lora__fuse_log_commit(lora__fuse *job,
                                               lora_error *error)
{
    lora__fuse_log *log = &job->log;
    uint64_t *tensors;
    size_t count;
    size_t room;
    lora_status status;

    if (log->journal == NULL) {
        return LORA_OK;
    }
    /* A copy, as others go on while the files are flushed. */
    lora__mutex_lock(&log->lock);
    count = log->pending_count;
    room = (count + 1) * sizeof *tensors;
    tensors = lora__alloc(job->context, room, LORA__ALIGN);
    if (tensors != NULL) {
        memcpy(tensors, log->pending, count * sizeof *tensors);
        log->pending_count = 0;
        log->pending_bytes = 0;
    }
    lora__mutex_unlock(&log->lock);
    if (tensors == NULL) {
        return lora__fail_memory(error, room);
    }
    status = count == 0
                 ? LORA_OK
                 : fuse_log_put(job, FUSE_LOG_TENSORS, tensors, count, error);
    lora__free(job->context, tensors, room, LORA__ALIGN);
    return status;
}

LORA_PRIVATE lora_status lora__fuse_log_add(lora__fuse *job,
                                            size_t tensor,
                                            lora_error *error)
{
    lora__fuse_log *log = &job->log;
    int full;

    if (log->journal == NULL) {
        return LORA_OK;
    }
    lora__mutex_lock(&log->lock);
    log->pending[log->pending_count++] = tensor;
    log->pending_bytes += job->model->tensors[tensor].entry->bytes;
    full = log->pending_bytes >= log->most;
    lora__mutex_unlock(&log->lock);
    return full ? lora__fuse_log_commit(job, error) : LORA_OK;
}

LORA_PRIVATE lora_status lora__fuse_log_whole(lora__fuse *job,
                                              lora_error *error)
{
    if (job->log.journal == NULL) {
        return LORA_OK;
    }
    TRY(fuse_log_put(job, FUSE_LOG_WHOLE, NULL, 0, error));
    return lora__journal_flush(job->log.journal, error);
}

LORA_PRIVATE void lora__fuse_log_close(lora__fuse *job, int remove)
{
    lora__fuse_log *log = &job->log;

    if (log->journal != NULL) {
        lora__journal_close(log->journal);
        log->journal = NULL;
        if (remove) {
            lora__path_remove(log->path);
        }
    }
    if (log->has_lock) {
        lora__mutex_destroy(&log->lock);
        log->has_lock = 0;
    }
}
