/* Unfusing: the files of a model as they were before adapters were fused into
 * it, from the fused model and its undo file.
 *
 * A tensor is restored piece by piece, and hashed as it is read and as it is
 * written, so that memory does not grow with it. Tensors are independent jobs.
 */
#include "core/options.h"
#include "format/folder.h"
#include "format/output.h"
#include "format/sha256.h"
#include "model/model.h"
#include "op/report.h"
#include "op/undo_read.h"

#include <lora/fuse.h>

#include <string.h>

/* A file that is being restored. */
typedef struct unfuse_file {
    const char *path;
    lora__output *output; /* NULL: not begun, or done; or a dry run */
} unfuse_file;

typedef struct unfuse_job {
    lora_context *context;
    lora_model_unfuse_options options;
    const char *path; /* of the output */
    lora__arena arena;
    lora__undo_content undo;
    lora__checkpoint *fused;
    size_t *fused_of; /* by tensor of the undo file: in the fused model */
    const lora_binding *const *bindings;
    size_t binding_count;
    lora__patched patched;
    size_t *bound_of; /* by tensor: in the bindings' model */
    unfuse_file *files;
    const char **folders; /* made for this, to be removed if it fails */
    size_t folder_count;
} unfuse_job;

/* What restoring one tensor takes. */
typedef struct unfuse_work {
    const unfuse_job *job;
    const lora__undo_tensor_info *tensor;
    lora__undo_place place;
    size_t index;         /* in the undo file */
    size_t most;          /* bytes of a piece */
    unsigned char *bytes; /* of the fused tensor, then of the restored one */
    unsigned char *delta;
    unsigned char *packed;
    unsigned char *predicted;
    size_t room;
    lora__patcher *patcher; /* NULL until it is needed */
    void *change;           /* floats */
    size_t change_room;
    float scale;
    lora__sha256 after;
    lora__sha256 before;
} unfuse_work;

/* ---- the fused model --------------------------------------------------- */

static lora_status
unfuse_refuse(const char *tensor, const char *what, lora_error *error)
{
    return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, tensor, "%s",
                      what);
}

/* Find the undo file's tensors in a model. */
static lora_status unfuse_match(size_t **out,
                                unfuse_job *job,
                                const lora__checkpoint *model,
                                lora_error *error)
{
    void *memory;
    size_t *found;
    unsigned char *seen;

    TRY(lora__arena_zeroed(&memory, &job->arena, job->undo.tensor_count + 1,
                           sizeof *found, error));
    found = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, model->tensor_count + 1, 1,
                           error));
    seen = memory;
    for (size_t t = 0; t < job->undo.tensor_count; t++) {
        const lora__undo_tensor_info *tensor = &job->undo.tensors[t];
        const lora__entry *entry;

        if (!lora__checkpoint_find(&found[t], model, tensor->name,
                                   tensor->name_bytes)) {
            return unfuse_refuse(tensor->name,
                                 "the model has no such tensor: not the model "
                                 "of this undo file",
                                 error);
        }
        entry = model->tensors[found[t]].entry;
        if (seen[found[t]]++ || entry->dtype != tensor->dtype ||
            (entry->quantised != NULL) !=
                ((tensor->flags & LORA__UNDO_BLOCKS) != 0) ||
            lora__undo_find_place(model, found[t]).bytes != tensor->bytes) {
            return unfuse_refuse(tensor->name,
                                 "of another type or size than in the model of "
                                 "this undo file",
                                 error);
        }
    }
    for (size_t i = 0; i < model->tensor_count; i++) {
        if (!seen[i]) {
            return unfuse_refuse(model->tensors[i].name,
                                 "the undo file knows no such tensor: not of "
                                 "this model",
                                 error);
        }
    }
    *out = found;
    return LORA_OK;
}

/* ---- adapters ---------------------------------------------------------- */

static lora_status
unfuse_check_adapter(const unfuse_job *job, size_t index, lora_error *error)
{
    const unsigned char *stored = job->undo.adapters[index];
    const lora__patch *patch = &job->patched.patches[index];
    const char *path = patch->bind->adapter->container->path;
    unsigned char given[LORA__UNDO_IDENTITY];

    TRY(lora__undo_identify(given, patch, error));
    if (memcmp(given, stored, LORA__UNDO_CONTENT) != 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, path,
                          "not the adapter that was fused in place %llu",
                          (unsigned long long)index + 1);
    }
    if (memcmp(given, stored, sizeof given) != 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, path,
                          "fused with another strength");
    }
    return LORA_OK;
}

static lora_status unfuse_take_adapters(unfuse_job *job,
                                        const lora_strength *strengths,
                                        lora_error *error)
{
    const lora__checkpoint *model;
    lora__patch *patches;
    void *memory;

    if (job->undo.mode != LORA__UNDO_PREDICT) {
        return LORA_OK;
    }
    if (job->binding_count != job->undo.adapter_count) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, job->undo.path,
                          "it needs the %llu adapters that were fused, and "
                          "%llu are given",
                          (unsigned long long)job->undo.adapter_count,
                          (unsigned long long)job->binding_count);
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, job->binding_count + 1,
                           sizeof *patches, error));
    patches = memory;
    job->patched.patches = patches;
    job->patched.patch_count = job->binding_count;
    job->patched.rule = job->undo.rule;
    job->patched.dora = job->undo.dora;
    job->patched.alone = 1;
    for (size_t i = 0; i < job->binding_count; i++) {
        const lora_strength *strength =
            strengths == NULL ? NULL : &strengths[i];
        patches[i].bind = &job->bindings[i]->bind;
        patches[i].strength.model = patches[i].strength.text_encoder = 1;
        TRY(lora__strength_read(&strength, error));
        if (strength != NULL) {
            patches[i].strength = *strength;
        }
        patches[i].factors = job->bindings[i]->factors;
        TRY(unfuse_check_adapter(job, i, error));
    }
    model = job->binding_count == 0 ? job->fused : job->bindings[0]->bind.model;
    job->patched.model = model;
    return unfuse_match(&job->bound_of, job, model, error);
}

/* ---- files ------------------------------------------------------------- */

/* Make a folder, and remember that it was not there. */
static lora_status
unfuse_make_folder(unfuse_job *job, const char *path, lora_error *error)
{
    int made = 0;
    int32_t os_error = lora__folder_make(&made, path);

    if (os_error != 0) {
        return lora__fail_os(error, os_error, path, "cannot make the folder");
    }
    if (made) {
        job->folders[job->folder_count++] = path;
    }
    return LORA_OK;
}

/* The path of a file, in a folder that is there then. */
static lora_status
unfuse_place_file(unfuse_job *job, size_t file, lora_error *error)
{
    const char *name = job->undo.files[file].name;
    const size_t below = lora__path_folder_bytes(name);
    const char *folder;

    if (job->undo.layout == LORA__UNDO_ONE_FILE) {
        job->files[file].path = job->path;
        return LORA_OK;
    }
    TRY(lora__folder_join(&job->files[file].path, &job->arena, job->path,
                          strlen(job->path), name, error));
    if (below > 0 && !(job->options.flags & LORA_FUSE_DRY_RUN)) {
        TRY(lora__arena_string(
            &folder, &job->arena, job->files[file].path,
            strlen(job->files[file].path) - strlen(name) + below - 1, error));
        TRY(unfuse_make_folder(job, folder, error));
    }
    return LORA_OK;
}

static lora_status unfuse_begin_files(unfuse_job *job, lora_error *error)
{
    const int dry = (job->options.flags & LORA_FUSE_DRY_RUN) != 0;
    const int overwrite = (job->options.flags & LORA_FUSE_OVERWRITE) != 0;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, job->undo.file_count,
                           sizeof *job->files, error));
    job->files = memory;
    TRY(lora__arena_zeroed(&memory, &job->arena, job->undo.file_count + 1,
                           sizeof *job->folders, error));
    job->folders = memory;
    if (job->undo.layout == LORA__UNDO_FOLDER && !dry) {
        TRY(unfuse_make_folder(job, job->path, error));
    }
    for (size_t f = 0; f < job->undo.file_count; f++) {
        TRY(unfuse_place_file(job, f, error));
        if (!dry) {
            TRY(lora__output_open(&job->files[f].output, job->context,
                                  job->files[f].path, overwrite, error));
        }
    }
    return LORA_OK;
}

static lora_status unfuse_write(const unfuse_job *job,
                                size_t file,
                                uint64_t offset,
                                const void *data,
                                size_t bytes,
                                lora_error *error)
{
    lora__output *output = job->files[file].output;

    return output == NULL
               ? LORA_OK
               : lora__output_write_at(output, offset, data, bytes, error);
}

/* Files with tensors come before the indices that lead to them. */
static lora_status unfuse_finish_files(unfuse_job *job, lora_error *error)
{
    for (size_t f = 0; f < job->undo.file_count; f++) {
        if (job->files[f].output != NULL) {
            TRY(lora__output_flush(job->files[f].output, error));
        }
    }
    for (size_t f = 0; f < job->undo.file_count; f++) {
        lora__output *output = job->files[f].output;
        job->files[f].output = NULL;
        if (output != NULL) {
            TRY(lora__output_finish(output, error));
        }
    }
    return LORA_OK;
}

static void unfuse_drop_files(unfuse_job *job)
{
    for (size_t f = 0; job->files != NULL && f < job->undo.file_count; f++) {
        lora__output_abort(job->files[f].output);
    }
    while (job->folder_count > 0) {
        lora__folder_remove(job->folders[--job->folder_count]);
    }
}

/* ---- a tensor ---------------------------------------------------------- */

/* The changes of all numbers of the piece, of which the first is *out_skip
 * numbers after the first of its row. */
static lora_status unfuse_change(size_t *out_skip,
                                 unfuse_work *w,
                                 uint64_t first,
                                 size_t count,
                                 lora_error *error)
{
    const unfuse_job *job = w->job;
    const size_t bound = job->bound_of[w->index];
    lora__holding hold;
    uint64_t row;
    uint64_t rows;
    uint64_t values;

    TRY(lora__checkpoint_hold(&hold, job->patched.model, bound, NULL, error));
    INVARIANT(hold.columns > 0, error); /* as the tensor has bytes */
    row = first / hold.columns;
    rows = (first + count - 1) / hold.columns - row + 1;
    if (!lora__mul_u64(rows, hold.columns, &values) || values > SIZE_MAX) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__grow(&w->change, &w->change_room, job->context, (size_t)values,
                   sizeof(float), error));
    if (w->patcher == NULL) {
        TRY(lora__checkpoint_scale(&w->scale, job->fused,
                                   job->fused_of[w->index], error));
        TRY(lora__patcher_open(&w->patcher, &job->patched, bound, error));
    }
    *out_skip = (size_t)(first - row * hold.columns);
    return lora__patcher_read(w->change, w->patcher, (size_t)row, (size_t)rows,
                              error);
}

/* Make the fused bytes of a piece those that were predicted. */
static lora_status
unfuse_predict(unfuse_work *w, const lora__undo_piece *piece, lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(w->job->context)->cpu);
    const size_t size = lora_dtype_bits(w->tensor->dtype) / 8;
    const size_t count = size == 0 ? 0 : piece->bytes / size;
    size_t skip = 0;

    if (!lora__dtype_is_float(w->tensor->dtype) || piece->offset % size != 0 ||
        piece->bytes % size != 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, piece->at,
                          w->job->undo.path,
                          "predicted bytes that are no whole numbers");
    }
    TRY(unfuse_change(&skip, w, piece->offset / size, count, error));
    TRY(lora__undo_predict(w->predicted, w->bytes,
                           (const float *)w->change + skip, w->tensor->dtype,
                           w->scale, count, kernels, error));
    memcpy(w->bytes, w->predicted, piece->bytes);
    return LORA_OK;
}

/* Restore `bytes` from an offset on; a piece of the undo file, or none, is of
 * just these. */
static lora_status unfuse_step(unfuse_work *w,
                               uint64_t offset,
                               size_t bytes,
                               const lora__undo_piece *piece,
                               lora_error *error)
{
    TRY(lora__undo_read_place(&w->place, offset, w->bytes, bytes, error));
    lora__sha256_update(&w->after, w->bytes, bytes);
    if (piece != NULL) {
        TRY(lora__undo_read_piece(w->delta, &w->job->undo, piece, w->packed,
                                  error));
        if ((piece->flags & LORA__UNDO_PREDICTED) != 0) {
            TRY(unfuse_predict(w, piece, error));
            lora__undo_join(w->bytes, w->delta,
                            lora_dtype_bits(w->tensor->dtype) / 8, bytes);
        } else {
            lora__undo_xor(w->bytes, w->delta, bytes);
        }
    }
    if (w->tensor->delta_count > 0) {
        lora__sha256_update(&w->before, w->bytes, bytes);
    }
    return unfuse_write(w->job, w->tensor->file, w->tensor->offset + offset,
                        w->bytes, bytes, error);
}

static lora_status unfuse_pieces(unfuse_work *w, lora_error *error)
{
    const lora__undo_piece *piece =
        w->tensor->delta_count == 0
            ? NULL
            : &w->job->undo.deltas[w->tensor->first_delta];
    size_t left = w->tensor->delta_count;
    uint64_t at = 0;

    while (at < w->tensor->bytes) {
        uint64_t end = left > 0 ? piece->offset : w->tensor->bytes;
        size_t bytes;

        if (left > 0 && piece->offset == at) {
            bytes = piece->bytes;
            TRY(unfuse_step(w, at, bytes, piece, error));
            piece++;
            left--;
        } else {
            bytes = end - at < w->most ? (size_t)(end - at) : w->most;
            TRY(unfuse_step(w, at, bytes, NULL, error));
        }
        at += bytes;
    }
    return LORA_OK;
}

static lora_status unfuse_compare(unfuse_work *w, lora_error *error)
{
    uint8_t digest[32];

    if (w->tensor->delta_count == 0) {
        w->before = w->after;
    }
    lora__sha256_finish(&w->after, digest);
    if (memcmp(digest, w->tensor->after, sizeof digest) != 0) {
        return unfuse_refuse(w->tensor->name,
                             "not as fusing left it: undo what came later "
                             "first, or it is another model",
                             error);
    }
    lora__sha256_finish(&w->before, digest);
    if (memcmp(digest, w->tensor->before, sizeof digest) != 0) {
        return unfuse_refuse(w->tensor->name,
                             w->tensor->predicted
                                 ? "does not become what it was: not the "
                                   "adapters that were fused, as they were used"
                                 : "does not become what it was: the undo file "
                                   "is damaged",
                             error);
    }
    return LORA_OK;
}

static lora_status unfuse_make_room(unfuse_work *w, lora_error *error)
{
    w->most = w->tensor->bytes < LORA__UNDO_PIECE ? (size_t)w->tensor->bytes
                                                  : LORA__UNDO_PIECE;
    w->room = 4 * w->most + LORA__UNDO_HEAD;
    w->bytes = lora__alloc(w->job->context, w->room, LORA__ALIGN_NUMERIC);
    if (w->bytes == NULL) {
        return lora__fail_memory(error, w->room);
    }
    w->delta = w->bytes + w->most;
    w->predicted = w->delta + w->most;
    w->packed = w->predicted + w->most;
    return LORA_OK;
}

static lora_status
unfuse_tensor(const unfuse_job *job, size_t index, lora_error *error)
{
    const lora_cpu cpu = lora__context_get(job->context)->cpu;
    unfuse_work w = {0};
    lora_status status;

    w.job = job;
    w.index = index;
    w.tensor = &job->undo.tensors[index];
    w.place = lora__undo_find_place(job->fused, job->fused_of[index]);
    lora__sha256_init(&w.after, cpu);
    lora__sha256_init(&w.before, cpu);
    TRY(unfuse_make_room(&w, error));
    TRY_OR_DONE(unfuse_pieces(&w, error));
    status = unfuse_compare(&w, error);
done:
    lora__patcher_close(w.patcher);
    lora__free(job->context, w.change, w.change_room * sizeof(float),
               LORA__ALIGN);
    lora__free(job->context, w.bytes, w.room, LORA__ALIGN_NUMERIC);
    return status;
}

/* ---- all --------------------------------------------------------------- */

/* The bytes that are no tensor's. */
static lora_status unfuse_rest(const unfuse_job *job, lora_error *error)
{
    const size_t room = 2 * LORA__UNDO_PIECE + LORA__UNDO_HEAD;
    unsigned char *bytes = lora__alloc(job->context, room, LORA__ALIGN);
    lora_status status = LORA_OK;

    if (bytes == NULL) {
        return lora__fail_memory(error, room);
    }
    for (size_t i = 0; i < job->undo.data_count; i++) {
        const lora__undo_piece *piece = &job->undo.data[i];
        TRY_OR_DONE(lora__undo_read_piece(bytes, &job->undo, piece,
                                          bytes + LORA__UNDO_PIECE, error));
        TRY_OR_DONE(unfuse_write(job, piece->owner, piece->offset, bytes,
                                 piece->bytes, error));
    }
done:
    lora__free(job->context, bytes, room, LORA__ALIGN);
    return status;
}

static lora_status
unfuse_one(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const unfuse_job *job = arg;

    (void)worker;
    return index == 0 ? unfuse_rest(job, error)
                      : unfuse_tensor(job, index - 1, error);
}

static lora_status unfuse_open(unfuse_job *job,
                               const char *fused,
                               const char *undo,
                               lora_error *error)
{
    lora_reader reader;

    TRY(lora__reader_open_file(&reader, job->context, undo, 0, error));
    TRY(lora__undo_open(&job->undo, job->context, &reader, undo, error));
    TRY(lora__checkpoint_open(&job->fused, job->context, fused, 0, error));
    for (size_t i = 0; i < job->fused->file_count; i++) {
        const char *format = job->fused->files[i].container->format;
        if (strncmp(format, "torch", 5) == 0) {
            return unfuse_refuse(fused, "not a model of this undo file", error);
        }
    }
    return unfuse_match(&job->fused_of, job, job->fused, error);
}

static lora_status
unfuse_report(lora_report **out, const unfuse_job *job, lora_error *error)
{
    lora_report *report;
    lora__buffer *json;
    uint64_t bytes = 0; /* of files that were written */
    uint64_t changed = 0;
    lora_status status;

    TRY(lora__report_create(&report, job->context, error));
    json = &report->json;
    for (size_t f = 0; f < job->undo.file_count; f++) {
        bytes += job->undo.files[f].bytes;
    }
    for (size_t t = 0; t < job->undo.tensor_count; t++) {
        changed += job->undo.tensors[t].delta_count != 0;
    }
    lora__buffer_putc(json, '{');
    lora__report_put_string(
        json, "mode", job->undo.mode == LORA__UNDO_PREDICT ? "predict" : "raw");
    lora__report_put_u64(json, "files", job->undo.file_count);
    lora__report_put_u64(json, "bytes", bytes);
    lora__report_put_u64(json, "tensors", job->undo.tensor_count);
    lora__report_put_u64(json, "restored", changed);
    lora__buffer_putc(json, '}');
    status = lora__report_finish(report, error);
    if (status != LORA_OK) {
        lora_report_destroy(report);
        return status;
    }
    *out = report;
    return LORA_OK;
}

static lora_status unfuse_run(unfuse_job *job,
                              const char *fused,
                              const char *undo,
                              const lora_strength *strengths,
                              lora_report **out_report,
                              lora_error *error)
{
    TRY(unfuse_open(job, fused, undo, error));
    TRY(unfuse_take_adapters(job, strengths, error));
    TRY(unfuse_begin_files(job, error));
    TRY(lora__run_jobs(job->context, "unfuse", unfuse_one, job,
                       job->undo.tensor_count + 1, error));
    if (out_report != NULL) {
        TRY(unfuse_report(out_report, job, error));
    }
    /* The output may be the fused model, which must not be open then. */
    lora__checkpoint_release(job->fused);
    job->fused = NULL;
    TRY(unfuse_finish_files(job, error));
    job->folder_count = 0;
    return LORA_OK;
}

static void unfuse_end(unfuse_job *job)
{
    unfuse_drop_files(job);
    lora__checkpoint_release(job->fused);
    lora__undo_close(&job->undo);
    lora__arena_destroy(&job->arena);
}

/* All bindings are to one model whose tensors are known. */
static int unfuse_has_bindings(const lora_binding *const *bindings,
                               size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bindings == NULL || bindings[i] == NULL ||
            bindings[i]->bind.model != bindings[0]->bind.model ||
            !lora__model_is_of_files(bindings[i]->model)) {
            return 0;
        }
    }
    return 1;
}

LORA_API void lora_model_unfuse_options_init(lora_model_unfuse_options *options,
                                             size_t size)
{
    lora__options_init(options, size);
}

LORA_API lora_status lora_model_unfuse(lora_report **out_report,
                                       lora_context *context,
                                       const char *fused,
                                       const char *undo,
                                       const char *path,
                                       const lora_binding *const *bindings,
                                       const lora_strength *strengths,
                                       size_t binding_count,
                                       const lora_model_unfuse_options *options,
                                       lora_error *error)
{
    const uint32_t known = LORA_FUSE_OVERWRITE | LORA_FUSE_DRY_RUN;
    unfuse_job job = {0};
    lora_status status;

    lora__error_begin(error);
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(fused != NULL, error);
    CHECK_ARG(undo != NULL, error);
    CHECK_ARG(path != NULL, error);
    CHECK_ARG(unfuse_has_bindings(bindings, binding_count), error);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_model_unfuse_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(job.options.reserved1, error));
    if ((job.options.flags & ~known) != 0) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
                          "not one of those of unfusing");
    }
    job.context = context;
    job.path = path;
    job.bindings = bindings;
    job.binding_count = binding_count;
    lora__arena_init(&job.arena, context);
    status = unfuse_run(&job, fused, undo, strengths, out_report, error);
    unfuse_end(&job);
    if (status != LORA_OK && out_report != NULL) {
        lora_report_destroy(*out_report);
        *out_report = NULL;
    }
    return status;
}
