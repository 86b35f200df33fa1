/* Fusing adapters into a checkpoint: every tensor is a job of its own, which
 * reads rows, changes them, rounds them and writes them to their place.
 */
#include "op/fuse.h"

#include "core/options.h"
#include "format/gguf.h"
#include "op/report.h"
#include "op/values.h"

#include <string.h>

/* Rows are changed in tiles of about so many bytes of F32, and bytes copied in
 * pieces of that size. */
#define FUSE_TILE_BYTES ((size_t)1 << 20)

LORA_API void lora_model_fuse_options_init(lora_model_fuse_options *options,
                                           size_t size)
{
    lora__options_init(options, size);
}

/* ---- tensors that are changed ------------------------------------------ */

/* A tensor in work: `rows` of it at a time. */
typedef struct fuse_work {
    lora__fuse *job;
    size_t tensor;
    const lora__entry *entry;
    lora__patcher *patcher;
    lora__patcher *change; /* what is added alone; NULL: nobody asks for it */
    float scale;           /* the stored numbers are these divided by it */
    uint64_t key;          /* for rounding */
    size_t columns;
    size_t rows;
    size_t step; /* rows of a tile */
    size_t tile_bytes;
    size_t stored_bytes; /* of a tile, as it is stored */
    float *tile;
    float *added; /* tiles again, for predicting */
    unsigned char *after;
    unsigned char *before; /* for undoing */
    unsigned char *predicted;
    lora__sha256 before_hash;
    lora__sha256 after_hash;
} fuse_work;

/* Bytes in which so many elements are stored. */
static uint64_t fuse_stored(const lora__entry *entry, uint64_t elements)
{
    return entry->quantised != NULL
               ? lora__gguf_stored_bytes(entry, elements)
               : elements * (lora_dtype_bits(entry->dtype) / 8);
}

static lora_status
fuse_alloc(void **out, const fuse_work *work, size_t bytes, lora_error *error)
{
    *out = lora__alloc(work->job->context, bytes, LORA__ALIGN_NUMERIC);
    return *out != NULL ? LORA_OK : lora__fail_memory(error, bytes);
}

static lora_status fuse_allocate(fuse_work *work, lora_error *error)
{
    void *memory;

    TRY(fuse_alloc(&memory, work, work->tile_bytes, error));
    work->tile = memory;
    TRY(fuse_alloc(&memory, work, work->stored_bytes, error));
    work->after = memory;
    if (work->job->undo == NULL) {
        return LORA_OK;
    }
    TRY(fuse_alloc(&memory, work, work->stored_bytes, error));
    work->before = memory;
    if (work->change != NULL) {
        TRY(fuse_alloc(&memory, work, work->tile_bytes, error));
        work->added = memory;
        TRY(fuse_alloc(&memory, work, work->stored_bytes, error));
        work->predicted = memory;
    }
    return LORA_OK;
}

static lora_status fuse_open_change(fuse_work *work, lora_error *error)
{
    lora__fuse *job = work->job;

    if (job->undo == NULL || job->options.undo_mode != LORA_UNDO_PREDICT ||
        work->entry->quantised != NULL ||
        !lora__patched_adds(&job->patched, work->tensor)) {
        return LORA_OK;
    }
    return lora__patcher_open(&work->change, &job->changes_alone, work->tensor,
                              error);
}

static lora_status fuse_open(fuse_work *work, lora_error *error)
{
    lora__fuse *job = work->job;
    const lora__tensor *tensor = &job->model->tensors[work->tensor];
    lora__holding hold;
    size_t row;

    work->entry = tensor->entry;
    work->key = lora__rounding_key(tensor->target, (int32_t)tensor->role);
    TRY(lora__checkpoint_hold(&hold, job->model, work->tensor, NULL, error));
    TRY(lora__checkpoint_scale(&work->scale, job->model, work->tensor, error));
    if (!lora__u64_to_size(hold.columns, &work->columns) ||
        !lora__u64_to_size(hold.rows, &work->rows) ||
        !lora__mul_size(work->columns, sizeof *work->tile, &row)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    work->step = row > FUSE_TILE_BYTES ? 1 : FUSE_TILE_BYTES / row;
    work->step = work->step < work->rows ? work->step : work->rows;
    work->tile_bytes = work->step * row;
    work->stored_bytes =
        (size_t)fuse_stored(work->entry, work->step * work->columns);
    TRY(lora__patcher_open(&work->patcher, &job->patched, work->tensor, error));
    TRY(fuse_open_change(work, error));
    lora__sha256_init(&work->before_hash, job->cpu);
    lora__sha256_init(&work->after_hash, job->cpu);
    return fuse_allocate(work, error);
}

static void fuse_close(fuse_work *work)
{
    lora_context *context = work->job->context;

    lora__patcher_close(work->patcher);
    lora__patcher_close(work->change);
    lora__free(context, work->tile, work->tile_bytes, LORA__ALIGN_NUMERIC);
    lora__free(context, work->added, work->tile_bytes, LORA__ALIGN_NUMERIC);
    lora__free(context, work->after, work->stored_bytes, LORA__ALIGN_NUMERIC);
    lora__free(context, work->before, work->stored_bytes, LORA__ALIGN_NUMERIC);
    lora__free(context, work->predicted, work->stored_bytes,
               LORA__ALIGN_NUMERIC);
}

/* Stored bytes of the model's file, as they lie there. */
static lora_status fuse_read_stored(void *out,
                                    const lora__fuse *job,
                                    size_t tensor,
                                    uint64_t offset,
                                    size_t bytes,
                                    lora_error *error)
{
    const lora__tensor *of = &job->model->tensors[tensor];

    return of->entry->quantised != NULL
               ? lora__gguf_read_stored(out, of->entry, offset, bytes, error)
               : lora__container_read(of->container, of->index, offset, out,
                                      bytes, error);
}

/* Keep what undoing needs of a tile. */
static lora_status fuse_remember(fuse_work *work,
                                 size_t first,
                                 size_t count,
                                 uint64_t offset,
                                 size_t bytes,
                                 lora_error *error)
{
    lora__fuse *job = work->job;

    TRY(fuse_read_stored(work->before, job, work->tensor, offset, bytes,
                         error));
    lora__sha256_update(&work->before_hash, work->before, bytes);
    lora__sha256_update(&work->after_hash, work->after, bytes);
    if (work->change != NULL) {
        TRY(lora__patcher_read(work->added, work->change, first, count, error));
        TRY(lora__undo_predict(work->predicted, work->after, work->added,
                               work->entry->dtype, work->scale,
                               count * work->columns, job->kernels, error));
    }
    return lora__undo_put(job->undo, work->tensor, offset, work->before,
                          work->after, work->predicted, bytes, error);
}

static lora_status
fuse_tile(fuse_work *work, size_t first, size_t count, lora_error *error)
{
    lora__fuse *job = work->job;
    const lora__fuse_place *place = &job->places[work->tensor];
    const size_t values = count * work->columns;
    const uint64_t before = (uint64_t)first * work->columns;
    const uint64_t offset = fuse_stored(work->entry, before);
    const size_t bytes = (size_t)fuse_stored(work->entry, values);

    TRY(lora__patcher_read(work->tile, work->patcher, first, count, error));
    for (size_t i = 0; work->scale != 1.0F && i < values; i++) {
        work->tile[i] /= work->scale;
    }
    if (work->entry->quantised != NULL) {
        lora__gguf_encode_q8_0(work->after, work->tile, values);
    } else {
        TRY(lora__round(work->after, work->entry->dtype, work->tile, values,
                        &job->rounding, work->key, before, job->kernels,
                        error));
    }
    if (job->undo != NULL) {
        TRY(fuse_remember(work, first, count, offset, bytes, error));
    }
    return lora__output_write_at(job->files[place->file].output,
                                 place->offset + offset, work->after, bytes,
                                 error);
}

static lora_status
fuse_change(lora__fuse *job, size_t tensor, lora_error *error)
{
    uint8_t before[32];
    uint8_t after[32];
    fuse_work work;
    lora_status status;

    memset(&work, 0, sizeof work);
    work.job = job;
    work.tensor = tensor;
    TRY_OR_DONE(fuse_open(&work, error));
    for (size_t row = 0; row < work.rows; row += work.step) {
        size_t left = work.rows - row;
        TRY_OR_DONE(
            fuse_tile(&work, row, left < work.step ? left : work.step, error));
    }
    if (job->undo != NULL) {
        lora__sha256_finish(&work.before_hash, before);
        lora__sha256_finish(&work.after_hash, after);
        status = lora__undo_hash(job->undo, tensor, before, after, error);
    }
done:
    fuse_close(&work);
    return status;
}

/* ---- tensors that stay ------------------------------------------------- */

static lora_status fuse_copy(lora__fuse *job, size_t tensor, lora_error *error)
{
    const lora__fuse_place *place = &job->places[tensor];
    const lora__entry *entry = job->model->tensors[tensor].entry;
    const uint64_t bytes = entry->quantised != NULL
                               ? fuse_stored(entry, entry->elements)
                               : entry->bytes;
    const size_t most =
        bytes < FUSE_TILE_BYTES ? (size_t)bytes : FUSE_TILE_BYTES;
    unsigned char *piece = lora__alloc(job->context, most, LORA__ALIGN_NUMERIC);
    lora__sha256 hash;
    uint8_t digest[32];
    lora_status status = LORA_OK;

    if (piece == NULL) {
        return lora__fail_memory(error, most);
    }
    lora__sha256_init(&hash, job->cpu);
    for (uint64_t done = 0; done < bytes; done += most) {
        size_t step = bytes - done < most ? (size_t)(bytes - done) : most;
        TRY_OR_DONE(fuse_read_stored(piece, job, tensor, done, step, error));
        TRY_OR_DONE(lora__output_write_at(job->files[place->file].output,
                                          place->offset + done, piece, step,
                                          error));
        if (job->undo != NULL) {
            lora__sha256_update(&hash, piece, step);
        }
    }
    if (job->undo != NULL) {
        lora__sha256_finish(&hash, digest);
        status = lora__undo_hash(job->undo, tensor, digest, digest, error);
    }
done:
    lora__free(job->context, piece, most, LORA__ALIGN_NUMERIC);
    return status;
}

/* A job of lora__run_jobs(). */
static lora_status
fuse_tensor(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    lora__fuse *job = arg;
    const size_t tensor = job->order[index];
    lora_status status;

    (void)worker;
    if (job->log.done_count > 0 && job->log.done[tensor]) {
        return LORA_OK;
    }
    status = job->changes[tensor] ? fuse_change(job, tensor, error)
                                  : fuse_copy(job, tensor, error);
    lora__error_set_subject(error, job->model->tensors[tensor].name);
    return status == LORA_OK ? lora__fuse_log_add(job, tensor, error) : status;
}

/* ---- what is to be done ------------------------------------------------ */

static lora_status fuse_check(lora__fuse *job,
                              const lora_model *model,
                              const lora_binding *const *bindings,
                              const lora_strength *strengths,
                              size_t count,
                              lora_error *error)
{
    const lora_model_fuse_options *o = &job->options;

    if (!lora__model_is_of_files(model)) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, "model",
                          "no checkpoint: its tensors are in no file");
    }
    CHECK_ARG((o->flags & ~(uint32_t)31) == 0, error);
    CHECK_ARG(o->undo_mode == LORA_UNDO_RAW ||
                  o->undo_mode == LORA_UNDO_PREDICT,
              error);
    TRY(lora__rules_check(o->strength_rule, o->dora_rule, error));
    for (size_t i = 0; i < count; i++) {
        const lora_strength *strength =
            strengths == NULL ? NULL : &strengths[i];
        CHECK_ARG(bindings[i] != NULL && bindings[i]->model == model, error);
        TRY(lora__strength_read(&strength, error));
    }
    return LORA_OK;
}

/* What is not finite would spoil the model. */
static lora_status fuse_check_values(const lora__fuse *job,
                                     const lora_binding *binding,
                                     lora_error *error)
{
    const lora_adapter *adapter = binding->adapter;
    const size_t count = adapter->container->entry_count;
    lora__values *values;
    void *memory;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, job->context, count, sizeof *values,
                           error));
    values = memory;
    status = lora__values_scan(values, adapter, error);
    for (size_t i = 0; i < binding->bind.count && status == LORA_OK; i++) {
        const lora__bound *item = &binding->bind.items[i];
        const lora__module *module;
        if (item->effect_count == 0 ||
            (binding->factors != NULL &&
             binding->factors[item->module] == 0.0)) {
            continue;
        }
        module = &adapter->modules[item->module];
        for (size_t m = 0; m < module->member_count && status == LORA_OK; m++) {
            size_t entry = module->members[m].entry;
            status = lora__values_check(
                &values[entry], &adapter->container->entries[entry], error);
        }
    }
    lora__free(job->context, values, count * sizeof *values, LORA__ALIGN);
    return status;
}

static lora_status fuse_prepare(lora__fuse *job,
                                const lora_binding *const *bindings,
                                const lora_strength *strengths,
                                size_t count,
                                lora_error *error)
{
    static const lora_strength full = {1.0, 1.0};
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, count, sizeof *job->patches,
                           error));
    job->patches = memory;
    for (size_t i = 0; i < count; i++) {
        job->patches[i].bind = &bindings[i]->bind;
        job->patches[i].strength = strengths == NULL ? full : strengths[i];
        job->patches[i].factors = bindings[i]->factors;
        TRY(fuse_check_values(job, bindings[i], error));
    }
    job->patched.model = job->model;
    job->patched.patches = job->patches;
    job->patched.patch_count = count;
    job->patched.rule = job->options.strength_rule;
    job->patched.dora = job->options.dora_rule;
    job->changes_alone = job->patched;
    job->changes_alone.alone = 1;
    job->rounding.seed = job->options.seed;
    job->rounding.stochastic = (job->options.flags & LORA_FUSE_STOCHASTIC) != 0;
    job->rounding.saturate = (job->options.flags & LORA_FUSE_SATURATE) != 0;
    TRY(lora__arena_zeroed(&memory, &job->arena, job->model->tensor_count + 1,
                           1, error));
    job->changes = memory;
    for (size_t t = 0; t < job->model->tensor_count; t++) {
        job->changes[t] =
            (unsigned char)lora__patched_changes(&job->patched, t);
        job->change_count += job->changes[t];
    }
    return lora__fuse_plan_files(job, error);
}

/* The undo file has its name first: if nothing comes after it, it fits no
 * fused file, and is refused. */
static lora_status fuse_write(lora__fuse *job, lora_error *error)
{
    int overwrite = (job->options.flags & LORA_FUSE_OVERWRITE) != 0;
    lora__undo *undo;
    lora_status status;

    if (job->options.undo != NULL) {
        TRY(lora__undo_create(&job->undo, &job->patched, job->options.undo,
                              job->options.undo_mode, overwrite, error));
    }
    status = lora__run_jobs(job->context, "fuse", fuse_tensor, job,
                            job->model->tensor_count, error);
    if (status != LORA_OK) {
        (void)lora__fuse_log_commit(job, NULL);
        return status;
    }
    undo = job->undo;
    job->undo = NULL;
    if (undo != NULL) {
        TRY(lora__undo_finish(undo, error));
    }
    return lora__fuse_finish_files(job, error);
}

LORA_API lora_status lora_model_fuse(lora_report **out_report,
                                     const lora_model *model,
                                     const lora_binding *const *bindings,
                                     const lora_strength *strengths,
                                     size_t binding_count,
                                     const char *path,
                                     const lora_model_fuse_options *options,
                                     lora_error *error)
{
    lora__fuse job;
    lora_report *report = NULL;
    lora_status status;

    lora__error_begin(error);
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(model != NULL, error);
    CHECK_ARG(bindings != NULL && binding_count > 0, error);
    memset(&job, 0, sizeof job);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_model_fuse_options, flags),
                           options, error));
    if (path == NULL && (job.options.flags & LORA_FUSE_DRY_RUN) != 0) {
        path = "out.safetensors";
    }
    CHECK_ARG(path != NULL, error);
    CHECK_ARG(job.options.undo == NULL || strcmp(job.options.undo, path) != 0,
              error);
    TRY(fuse_check(&job, model, bindings, strengths, binding_count, error));
    job.context = model->context;
    job.model = model->checkpoint;
    job.path = path;
    job.cpu = lora__context_get(job.context)->cpu;
    job.kernels = lora__kernels_get(job.cpu);
    lora__arena_init(&job.arena, job.context);
    TRY_OR_DONE(
        lora__fuse_report(&report, &job, bindings, binding_count, error));
    TRY_OR_DONE(fuse_prepare(&job, bindings, strengths, binding_count, error));
    TRY_OR_DONE(lora__fuse_log_open(&job, bindings, error));
    if ((job.options.flags & LORA_FUSE_DRY_RUN) == 0) {
        TRY_OR_DONE(lora__fuse_begin_files(&job, error));
    }
    /* Before the files have their names: nothing fails after that. */
    TRY_OR_DONE(lora__fuse_report_finish(report, &job, error));
    if ((job.options.flags & LORA_FUSE_DRY_RUN) == 0) {
        TRY_OR_DONE(fuse_write(&job, error));
    }
    if (out_report != NULL) {
        *out_report = report;
        report = NULL;
    }
done:
    lora__undo_abort(job.undo);
    lora__fuse_end_files(&job);
    lora__fuse_log_close(&job, status == LORA_OK);
    lora__arena_destroy(&job.arena);
    lora_report_destroy(report);
    return status;
}
