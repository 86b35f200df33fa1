/* The files that a fused model is written to: which, and where in them tensors
 * go.
 */
#include "op/fuse.h"

#include "core/text.h"
#include "format/folder.h"
#include "format/shards.h"
#include "format/sort.h"
#include "op/emit.h"
#include "op/report.h"

#include <stdio.h>
#include <string.h>

#define FUSE_SUFFIX ".safetensors"

/* ---- which files ------------------------------------------------------- */

/* Files of these formats are written as they are, with other numbers. */
static int files_is_kept(const lora__container *container)
{
    return strcmp(container->format, "safetensors") == 0 ||
           strcmp(container->format, "gguf") == 0;
}

static lora_status files_add(lora__fuse_file **out,
                             lora__fuse *job,
                             const lora__container *container,
                             lora_error *error)
{
    size_t capacity = job->file_capacity;
    void *files = job->files;

    TRY(lora__arena_grow(&files, &capacity, &job->arena, job->file_count + 1,
                         sizeof *job->files, error));
    job->files = files;
    job->file_capacity = capacity;
    *out = &job->files[job->file_count++];
    memset(*out, 0, sizeof **out);
    (*out)->container = container;
    return LORA_OK;
}

/* ---- names ------------------------------------------------------------- */

/* The first bytes of a name, and what comes after them. */
static lora_status files_name_after(const char **out,
                                    lora__fuse *job,
                                    const char *name,
                                    size_t bytes,
                                    const char *after,
                                    lora_error *error)
{
    lora__buffer text;
    lora_status status;

    lora__buffer_init(&text, job->context);
    lora__buffer_append(&text, name, bytes);
    lora__buffer_puts(&text, after);
    status = lora__buffer_status(&text, error);
    if (status == LORA_OK) {
        status =
            lora__arena_string(out, &job->arena, text.data, text.bytes, error);
    }
    lora__buffer_destroy(&text);
    return status;
}

/* One of several files: "<path less its suffix><after>", or, where the path has
 * none, "<path>/model<after>". */
static lora_status files_name_shard(const char **out,
                                    lora__fuse *job,
                                    const char *after,
                                    lora_error *error)
{
    const char *path = job->path;

    if (job->in_folder) {
        TRY(lora__folder_join(&path, &job->arena, path, strlen(path),
                              "model" FUSE_SUFFIX, error));
    }
    return files_name_after(
        out, job, path, strlen(path) - (sizeof FUSE_SUFFIX - 1), after, error);
}

/* "<folder>/<component>/<name of the model's file>", the component and a slash
 * only where there is one; a pickle's name as that of a safetensors file. */
static lora_status files_name_within(const char **out,
                                     lora__fuse *job,
                                     const char *component,
                                     const char *from,
                                     lora_error *error)
{
    const char *name = from + lora__path_folder_bytes(from);
    const char *folder = job->path;
    size_t bytes = strlen(name);

    if (component[0] != '\0') {
        TRY(lora__folder_join(&folder, &job->arena, folder, strlen(folder),
                              component, error));
    }
    if (lora__text_ends(name, bytes, ".bin")) {
        TRY(files_name_after(&name, job, name, bytes - 4, FUSE_SUFFIX, error));
    }
    return lora__folder_join(out, &job->arena, folder, strlen(folder), name,
                             error);
}

/* ---- heads ------------------------------------------------------------- */

static lora_status files_keep_text(lora__fuse *job,
                                   lora__fuse_file *file,
                                   const lora__buffer *text,
                                   lora_error *error)
{
    TRY(lora__buffer_status(text, error));
    file->head_bytes = text->bytes;
    return lora__arena_string(&file->head, &job->arena, text->data, text->bytes,
                              error);
}

/* The metadata of a file without hashes of its tensors, which are others. */
static lora_status files_fresh_metadata(lora__metadata **out,
                                        size_t *out_count,
                                        lora__fuse *job,
                                        const lora__container *from,
                                        lora_error *error)
{
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, from->metadata_count,
                           sizeof **out, error));
    *out = memory;
    *out_count = 0;
    for (size_t i = 0; i < from->metadata_count; i++) {
        if (job->change_count == 0 ||
            !lora__metadata_is_hash(from->metadata[i].key)) {
            (*out)[(*out_count)++] = from->metadata[i];
        }
    }
    return LORA_OK;
}

/* A head of the size that the file's has, without those hashes. */
static lora_status files_refresh_head(lora__fuse *job,
                                      lora__fuse_file *file,
                                      const lora__metadata *metadata,
                                      size_t metadata_count,
                                      lora_error *error)
{
    const lora__container *from = file->container;
    lora__out_tensor *tensors;
    lora__buffer head;
    uint64_t data_bytes;
    lora_status status;

    TRY(lora__safetensors_list(&tensors, &job->arena, from, error));
    lora__buffer_init(&head, job->context);
    status = lora__safetensors_put_header(
        &head, &data_bytes, tensors, from->entry_count, metadata,
        metadata_count, file->head_bytes - 8, error);
    if (status == LORA_OK && head.bytes == file->head_bytes) {
        status = files_keep_text(job, file, &head, error);
    }
    lora__buffer_destroy(&head);
    return status;
}

/* As the model's file begins, but for hashes of tensors that change. */
static lora_status
files_keep_head(lora__fuse *job, lora__fuse_file *file, lora_error *error)
{
    const lora__container *from = file->container;
    lora__metadata *metadata;
    size_t count;
    void *memory;

    if (!lora__u64_to_size(from->data_offset, &file->head_bytes)) {
        return lora__fail_memory(error, from->data_offset);
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, file->head_bytes, 1, error));
    file->head = memory;
    file->bytes = from->file_bytes;
    TRY(lora__reader_read(&from->reader, 0, memory, file->head_bytes,
                          from->path, error));
    TRY(files_fresh_metadata(&metadata, &count, job, from, error));
    return count == from->metadata_count
               ? LORA_OK
               : files_refresh_head(job, file, metadata, count, error);
}

/* A head for some tensors of the file's container, and their places. `first`
 * is the model's tensor that is the container's first. */
static lora_status files_make_head(lora__fuse *job,
                                   size_t file,
                                   const lora__out_tensor *tensors,
                                   size_t count,
                                   size_t first,
                                   lora_error *error)
{
    static const lora__metadata of_torch[] = {{"format", "pt"}};
    lora__metadata *metadata;
    size_t metadata_count;
    lora__fuse_file *made = &job->files[file];
    const lora__container *from = made->container;
    int kept = files_is_kept(from);
    lora__buffer head;
    uint64_t offset;
    lora_status status;

    TRY(files_fresh_metadata(&metadata, &metadata_count, job, from, error));
    lora__buffer_init(&head, job->context);
    TRY_OR_DONE(lora__safetensors_put_header(
        &head, &made->bytes, tensors, count, kept ? metadata : of_torch,
        kept ? metadata_count : LORA__COUNT(of_torch), 0, error));
    TRY_OR_DONE(files_keep_text(job, made, &head, error));
    offset = made->head_bytes;
    made->bytes += offset;
    for (size_t i = 0; i < count; i++) {
        lora__fuse_place *place = &job->places[first + tensors[i].id];
        place->file = file;
        place->offset = offset;
        offset += tensors[i].bytes;
    }
done:
    lora__buffer_destroy(&head);
    return status;
}

/* ---- kinds of output --------------------------------------------------- */

/* Files as the model's are, in a folder or as the one path. */
static lora_status
files_plan_kept(lora__fuse *job, int in_folder, lora_error *error)
{
    size_t tensor = 0;

    for (size_t f = 0; f < job->model->file_count; f++) {
        const lora__checkpoint_file *of = &job->model->files[f];
        for (size_t i = 0; i < of->container->entry_count; i++, tensor++) {
            size_t at = job->file_count;
            const lora__container *from = of->container;
            const lora__entry *entry = lora__container_resolve(&from, i);
            lora__fuse_file *file;
            while (at > 0 && job->files[at - 1].container != from) {
                at--;
            }
            if (at == 0) {
                TRY(files_add(&file, job, from, error));
                at = job->file_count;
                file->path = job->path;
                if (in_folder) {
                    TRY(files_name_within(&file->path, job, of->component,
                                          from->path, error));
                }
                TRY(files_keep_head(job, file, error));
            }
            job->places[tensor].file = at - 1;
            job->places[tensor].offset = entry->offset;
        }
    }
    return LORA_OK;
}

/* The index of a model in several files stays as it is. */
static lora_status files_plan_indices(lora__fuse *job, lora_error *error)
{
    const lora_limits *limits = &lora__context_get(job->context)->limits;

    for (size_t f = 0; f < job->model->file_count; f++) {
        const lora__checkpoint_file *of = &job->model->files[f];
        lora__fuse_file *file;
        char *text;

        if (!lora__shards_is_index(of->path)) {
            continue;
        }
        TRY(files_add(&file, job, NULL, error));
        TRY(files_name_within(&file->path, job, of->component, of->path,
                              error));
        TRY(lora__folder_load(&text, &file->head_bytes, &job->arena, of->path,
                              limits->header_bytes, 0, error));
        file->head = text;
        file->bytes = file->head_bytes;
    }
    return LORA_OK;
}

/* {"metadata":{"total_size":N},"weight_map":{tensor: file}} */
static lora_status files_make_index(lora__fuse *job,
                                    const lora__out_tensor *tensors,
                                    size_t count,
                                    uint64_t total,
                                    lora_error *error)
{
    lora__fuse_file *file;
    lora__buffer json;
    lora_status status;

    TRY(files_add(&file, job, NULL, error));
    TRY(files_name_shard(&file->path, job, FUSE_SUFFIX ".index.json", error));
    lora__buffer_init(&json, job->context);
    lora__buffer_puts(&json, "{\"metadata\":{");
    lora__report_put_u64(&json, "total_size", total);
    lora__buffer_puts(&json, "},\"weight_map\":{");
    for (size_t i = 0; i < count; i++) {
        const char *path = job->files[job->places[tensors[i].id].file].path;
        lora__report_put_string(&json, tensors[i].name,
                                path + lora__path_folder_bytes(path));
    }
    lora__buffer_puts(&json, "}}\n");
    status = files_keep_text(job, file, &json, error);
    file->bytes = file->head_bytes;
    lora__buffer_destroy(&json);
    return status;
}

/* So many tensors, from the first on, are within the size; one at least. */
static size_t
files_shard_count(const lora__out_tensor *tensors, size_t count, uint64_t most)
{
    uint64_t bytes = 0;
    size_t n = 0;

    while (n < count &&
           (n == 0 || most == 0 || bytes + tensors[n].bytes <= most)) {
        bytes += tensors[n++].bytes;
    }
    return n;
}

/* The tensors of one of the model's files as safetensors, in one file or in
 * several of a limited size. */
static lora_status files_plan_made(lora__fuse *job,
                                   const lora__checkpoint_file *of,
                                   size_t first,
                                   const char *path,
                                   lora_error *error)
{
    const size_t count = of->container->entry_count;
    const uint64_t most = job->options.shard_bytes;
    lora__out_tensor *tensors;
    size_t shards = 0;
    uint64_t total = 0;

    TRY(lora__safetensors_list(&tensors, &job->arena, of->container, error));
    lora__safetensors_sort(tensors, count);
    for (size_t i = 0; i < count; shards++) {
        i += files_shard_count(tensors + i, count - i, most);
    }
    for (size_t i = 0, s = 1; i < count; s++) {
        size_t some = files_shard_count(tensors + i, count - i, most);
        lora__fuse_file *file;
        char after[64];
        TRY(files_add(&file, job, of->container, error));
        file->path = path;
        if (most != 0) {
            snprintf(after, sizeof after, "-%05zu-of-%05zu" FUSE_SUFFIX, s,
                     shards);
            TRY(files_name_shard(&file->path, job, after, error));
        }
        TRY(files_make_head(job, job->file_count - 1, tensors + i, some, first,
                            error));
        for (size_t k = 0; k < some; k++) {
            total += tensors[i + k].bytes;
        }
        i += some;
    }
    return most != 0 ? files_make_index(job, tensors, count, total, error)
                     : LORA_OK;
}

/* 1 if all is in files that can be kept; *single: in one. */
static int files_are_kept(const lora__checkpoint *model, int *single)
{
    const lora__container *only = NULL;
    int kept = 1;

    *single = model->file_count == 1;
    for (size_t f = 0; f < model->file_count; f++) {
        const lora__container *container = model->files[f].container;
        for (size_t i = 0; i < container->entry_count; i++) {
            const lora__container *from = container;
            (void)lora__container_resolve(&from, i);
            kept &= files_is_kept(from);
            *single &= only == NULL || only == from;
            only = from;
        }
    }
    *single &= strcmp(model->files[0].path, model->path) == 0 &&
               !lora__shards_is_index(model->path);
    return kept;
}

/* ---- order ------------------------------------------------------------- */

typedef struct files_item {
    size_t tensor;
    lora__fuse_place place;
} files_item;

static int files_compare(const void *a, const void *b)
{
    const files_item *x = a;
    const files_item *y = b;

    if (x->place.file != y->place.file) {
        return x->place.file < y->place.file ? -1 : 1;
    }
    if (x->place.offset != y->place.offset) {
        return x->place.offset < y->place.offset ? -1 : 1;
    }
    return x->tensor < y->tensor ? -1 : 1;
}

static lora_status files_order(lora__fuse *job, lora_error *error)
{
    const size_t count = job->model->tensor_count;
    files_item *items;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, count, sizeof *job->order,
                           error));
    job->order = memory;
    TRY(lora__alloc_zeroed(&memory, job->context, count + 1, sizeof *items,
                           error));
    items = memory;
    for (size_t i = 0; i < count; i++) {
        items[i].tensor = i;
        items[i].place = job->places[i];
    }
    lora__sort(items, count, sizeof *items, files_compare);
    for (size_t i = 0; i < count; i++) {
        job->order[i] = items[i].tensor;
    }
    lora__free(job->context, items, (count + 1) * sizeof *items, LORA__ALIGN);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__fuse_plan_files(lora__fuse *job,
                                               lora_error *error)
{
    const lora__checkpoint *model = job->model;
    int single;
    int kept = files_are_kept(model, &single);
    size_t first = 0;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, model->tensor_count + 1,
                           sizeof *job->places, error));
    job->places = memory;
    job->in_folder = !single || (job->options.shard_bytes != 0 &&
                                 !lora__text_ends(job->path, strlen(job->path),
                                                  FUSE_SUFFIX));
    if (job->options.shard_bytes != 0 && !single) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          model->path,
                          "a size of files is for a model of one file");
    }
    if (kept && job->options.shard_bytes == 0) {
        TRY(files_plan_kept(job, !single, error));
        TRY(files_plan_indices(job, error));
        return files_order(job, error);
    }
    for (size_t f = 0; f < model->file_count; f++) {
        const lora__checkpoint_file *of = &model->files[f];
        const char *path = job->path;
        if (!single) {
            TRY(files_name_within(&path, job, of->component, of->path, error));
        }
        TRY(files_plan_made(job, of, first, path, error));
        first += of->container->entry_count;
    }
    return files_order(job, error);
}

/* ---- making them ------------------------------------------------------- */

/* Make the folder that a file is to be in; it is kept in mind. */
static lora_status
files_make_folder(lora__fuse *job, const char *path, lora_error *error)
{
    size_t bytes = lora__path_folder_bytes(path);
    const char *folder;
    size_t capacity = job->folder_capacity;
    void *folders = job->folders;
    int made = 0;
    int32_t os_error;

    if (bytes <= 1) {
        return LORA_OK;
    }
    TRY(lora__arena_string(&folder, &job->arena, path, bytes - 1, error));
    TRY(lora__arena_grow(&folders, &capacity, &job->arena,
                         job->folder_count + 1, sizeof *job->folders, error));
    job->folders = folders;
    job->folder_capacity = capacity;
    os_error = lora__folder_make(&made, folder);
    if (os_error != 0) {
        return lora__fail_os(error, os_error, folder, "cannot make the folder");
    }
    if (made) {
        job->folders[job->folder_count++] = folder;
    }
    return LORA_OK;
}

/* The folders of the files. */
static lora_status files_make_folders(lora__fuse *job, lora_error *error)
{
    const char *within;

    if (!job->in_folder) {
        return LORA_OK;
    }
    TRY(lora__folder_join(&within, &job->arena, job->path, strlen(job->path),
                          "x", error));
    TRY(files_make_folder(job, within, error));
    for (size_t i = 0; i < job->file_count; i++) {
        TRY(files_make_folder(job, job->files[i].path, error));
    }
    return LORA_OK;
}

/* 1 if the file has its name, by its size. */
static int files_is_named(const lora__fuse_file *file)
{
    lora__path_type type = LORA__PATH_OTHER;
    lora__file there = {-1};
    uint64_t bytes = 0;

    if (lora__file_open(&there, &type, &bytes, file->path) != 0) {
        return 0;
    }
    (void)lora__file_close(&there);
    return type == LORA__PATH_FILE && bytes == file->bytes;
}

static void files_close(lora__fuse *job)
{
    for (size_t i = 0; i < job->file_count; i++) {
        lora__output_abort(job->files[i].output);
        job->files[i].output = NULL;
    }
}

/* Go on with the files of an earlier call. One that has its name already stays
 * closed; *out is 0 where one is not there. */
static lora_status files_reopen(int *out, lora__fuse *job, lora_error *error)
{
    int overwrite = (job->options.flags & LORA_FUSE_OVERWRITE) != 0;

    *out = 1;
    for (size_t i = 0; i < job->file_count && *out; i++) {
        lora__fuse_file *file = &job->files[i];
        /* Where all was written, what is there has its name by that call. */
        TRY(lora__output_open_partial(&file->output, job->context, file->path,
                                      overwrite || job->log.whole, file->bytes,
                                      error));
        *out = file->output != NULL || (job->log.whole && files_is_named(file));
    }
    return LORA_OK;
}

static lora_status
files_begin(lora__fuse *job, lora__fuse_file *file, lora_error *error)
{
    int overwrite = (job->options.flags & LORA_FUSE_OVERWRITE) != 0;

    if (job->log.journal != NULL) {
        TRY(lora__output_open_partial(&file->output, job->context, file->path,
                                      overwrite, 0, error));
    } else {
        TRY(lora__output_open(&file->output, job->context, file->path,
                              overwrite, error));
    }
    TRY(lora__output_write_at(file->output, 0, file->head, file->head_bytes,
                              error));
    /* Also where the data end in padding. */
    return file->bytes == file->head_bytes
               ? LORA_OK
               : lora__output_write_at(file->output, file->bytes - 1, "", 1,
                                       error);
}

LORA_PRIVATE lora_status lora__fuse_begin_files(lora__fuse *job,
                                                lora_error *error)
{
    int there = 0;

    TRY(files_make_folders(job, error));
    if (job->log.done_count > 0 || job->log.whole) {
        TRY(files_reopen(&there, job, error));
        if (!there) {
            lora__log(job->context, LORA_LOG_WARNING,
                      "%s: its files are gone, so all is done again",
                      job->log.path);
            files_close(job);
            TRY(lora__fuse_log_reset(job, error));
        }
    }
    for (size_t i = 0; i < job->file_count && !there; i++) {
        TRY(files_begin(job, &job->files[i], error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__fuse_finish_files(lora__fuse *job,
                                                 lora_error *error)
{
    for (size_t i = 0; i < job->file_count; i++) {
        if (job->files[i].output != NULL) {
            TRY(lora__output_flush(job->files[i].output, error));
        }
    }
    TRY(lora__fuse_log_whole(job, error));
    for (size_t i = 0; i < job->file_count; i++) {
        lora__output *output = job->files[i].output;
        if (output != NULL) {
            job->files[i].output = NULL;
            TRY(lora__output_finish(output, error));
        }
        job->folder_count = 0; /* they have something in them */
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__fuse_end_files(lora__fuse *job)
{
    files_close(job);
    while (job->folder_count > 0) {
        lora__folder_remove(job->folders[--job->folder_count]);
    }
}
