/* Editing the metadata of a file.
 *
 * The header is made anew from what was read, with the tensors in the order
 * of the file, so that the data after it are right as they are. It is then
 * written over the old one, or before a copy of the data.
 */
#include "adapter/locate.h"
#include "core/options.h"
#include "core/text.h"
#include "format/shards.h"

#include <lora/metadata.h>

#include <string.h>

#define EDIT_CHUNK_BYTES ((size_t)1 << 20)

typedef struct edit_job {
    const lora_metadata_edit_options *options;
    const lora__container *container;
    const char *path;
    lora__arena arena;
    lora__out_tensor *tensors;
    lora__metadata *metadata; /* as edited */
    size_t metadata_count;
    lora__buffer header;
    uint64_t data_bytes;
    lora_metadata_edit result;
} edit_job;

LORA_API void
lora_metadata_edit_options_init(lora_metadata_edit_options *options,
                                size_t size)
{
    lora__options_init(options, size);
}

/* ---- what is to be changed --------------------------------------------- */

static lora_status edit_check_changes(const lora_metadata_change *changes,
                                      size_t count,
                                      lora_error *error)
{
    for (size_t i = 0; i < count; i++) {
        const char *key = changes[i].key;
        const char *value = changes[i].value;

        CHECK_ARG(key != NULL, error);
        if (!lora__text_is_utf8(key, strlen(key)) ||
            (value != NULL && !lora__text_is_utf8(value, strlen(value)))) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, key,
                              "metadata is not UTF-8");
        }
        for (size_t j = 0; value != NULL && j < i; j++) {
            if (changes[j].value != NULL && strcmp(changes[j].key, key) == 0) {
                return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET,
                                  key, "the same key is set twice");
            }
        }
    }
    return LORA_OK;
}

static void edit_remove(edit_job *job, const char *pattern)
{
    size_t kept = 0;

    for (size_t i = 0; i < job->metadata_count; i++) {
        if (!lora__text_matches(pattern, job->metadata[i].key)) {
            job->metadata[kept++] = job->metadata[i];
        }
    }
    job->result.removed += job->metadata_count - kept;
    job->metadata_count = kept;
}

static void edit_set(edit_job *job, const char *key, const char *value)
{
    for (size_t i = 0; i < job->metadata_count; i++) {
        lora__metadata *m = &job->metadata[i];
        if (strcmp(m->key, key) == 0) {
            job->result.replaced += strcmp(m->value, value) != 0;
            m->value = value;
            return;
        }
    }
    job->metadata[job->metadata_count].key = key;
    job->metadata[job->metadata_count].value = value;
    job->metadata_count++;
    job->result.added++;
}

static lora_status edit_apply(edit_job *job,
                              const lora_metadata_change *changes,
                              size_t count,
                              lora_error *error)
{
    const lora__container *container = job->container;
    size_t room;
    void *memory;

    if (!lora__add_size(container->metadata_count, count, &room)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, room, sizeof *job->metadata,
                           error));
    job->metadata = memory;
    job->metadata_count = container->metadata_count;
    if (job->metadata_count > 0) {
        memcpy(job->metadata, container->metadata,
               job->metadata_count * sizeof *job->metadata);
    }
    for (size_t i = 0; i < count; i++) {
        if (changes[i].value == NULL) {
            edit_remove(job, changes[i].key);
        } else {
            edit_set(job, changes[i].key, changes[i].value);
        }
    }
    return LORA_OK;
}

/* ---- the header -------------------------------------------------------- */

static lora_status
edit_put_header(edit_job *job, uint64_t least_bytes, lora_error *error)
{
    lora__buffer_clear(&job->header);
    return lora__safetensors_put_header(
        &job->header, &job->data_bytes, job->tensors,
        job->container->entry_count,
        job->metadata_count > 0 ? job->metadata : NULL, job->metadata_count,
        least_bytes, error);
}

/* A header for a new file, with the room that was asked for. */
static lora_status edit_put_new_header(edit_job *job, lora_error *error)
{
    uint64_t least;

    TRY(edit_put_header(job, 0, error));
    if (job->options->room_bytes == 0) {
        return LORA_OK;
    }
    if (!lora__add_u64(job->header.bytes - 8, job->options->room_bytes,
                       &least) ||
        least > LORA__SAFETENSORS_MAX_HEADER) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, job->path,
                          "with so much room the header is over the format's "
                          "limit");
    }
    return edit_put_header(job, (least + 7) / 8 * 8, error);
}

/* What is written must be what we would read again. */
static lora_status edit_check_header(edit_job *job, lora_error *error)
{
    uint64_t limit =
        lora__context_get(job->container->context)->limits.header_bytes;
    size_t used = job->header.bytes;

    while (job->header.data[used - 1] == ' ') {
        used--;
    }
    job->result.room_bytes = job->header.bytes - used;
    job->result.bytes = job->header.bytes + job->data_bytes;
    return job->header.bytes - 8 <= limit
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, job->path,
                            "a header of %llu bytes, over the limit of %llu",
                            (unsigned long long)(job->header.bytes - 8),
                            (unsigned long long)limit);
}

/* ---- writing ----------------------------------------------------------- */

/* Change the file itself, if that can be done within its header; where not,
 * find out that it may be written to. *out_done is 1 if nothing is left to do.
 */
static lora_status edit_patch(int *out_done, edit_job *job, lora_error *error)
{
    const lora__container *container = job->container;
    const lora_metadata_edit *result = &job->result;
    size_t bytes = (size_t)container->data_offset; /* it was in memory */
    int fits;
    int writes;
    void *before;
    lora_status status;

    TRY(edit_put_header(job, container->data_offset - 8, error));
    TRY(edit_check_header(job, error));
    *out_done = !job->options->rewrite && result->added == 0 &&
                result->replaced == 0 && result->removed == 0;
    if (*out_done) {
        return LORA_OK;
    }
    fits = job->header.bytes == bytes && !job->options->rewrite;
    writes = fits && !job->options->dry_run;
    before = lora__alloc(container->context, bytes, LORA__ALIGN);
    if (before == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(lora__reader_read(&container->reader, 0, before, bytes,
                                  job->path, error));
    status = lora__patch_file(out_done, job->path, container->file_bytes,
                              before, writes ? job->header.data : before, bytes,
                              !writes, error);
    *out_done = *out_done && fits;
done:
    lora__free(container->context, before, bytes, LORA__ALIGN);
    return status;
}

static lora_status edit_copy_data(const edit_job *job,
                                  const lora_writer *writer,
                                  unsigned char *chunk,
                                  lora_error *error)
{
    const lora__container *container = job->container;
    uint64_t offset = container->data_offset;
    uint64_t end = container->file_bytes;

    while (offset < end) {
        uint64_t left = end - offset;
        size_t step = left < EDIT_CHUNK_BYTES ? (size_t)left : EDIT_CHUNK_BYTES;
        TRY(lora__reader_read(&container->reader, offset, chunk, step,
                              job->path, error));
        TRY(lora__writer_write(writer, chunk, step, error));
        offset += step;
        TRY(lora__progress(container->context, "copy",
                           offset - container->data_offset,
                           end - container->data_offset, error));
    }
    return LORA_OK;
}

static lora_status edit_write_anew(edit_job *job, lora_error *error)
{
    const lora_metadata_edit_options *o = job->options;
    lora_context *context = job->container->context;
    lora_writer writer;
    void *chunk;
    lora_status status;

    TRY(edit_put_new_header(job, error));
    TRY(edit_check_header(job, error));
    if (o->dry_run) {
        return LORA_OK;
    }
    chunk = lora__alloc(context, EDIT_CHUNK_BYTES, LORA__ALIGN);
    if (chunk == NULL) {
        return lora__fail_memory(error, EDIT_CHUNK_BYTES);
    }
    TRY_OR_DONE(lora__writer_open_file(
        &writer, context, o->output == NULL ? job->path : o->output,
        o->output == NULL || o->overwrite, error));
    status =
        lora__writer_write(&writer, job->header.data, job->header.bytes, error);
    if (status == LORA_OK) {
        status = edit_copy_data(job, &writer, chunk, error);
    }
    if (status == LORA_OK) {
        status = lora__writer_finish(&writer, error);
    } else {
        lora__writer_abort(&writer);
    }
done:
    lora__free(context, chunk, EDIT_CHUNK_BYTES, LORA__ALIGN);
    return status;
}

static lora_status edit_run(edit_job *job,
                            const lora_metadata_change *changes,
                            size_t count,
                            lora_error *error)
{
    lora_metadata_edit *result = &job->result;
    int in_place = 0;

    if (strcmp(job->container->format, "safetensors") != 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          job->path,
                          "metadata can be changed in safetensors files only");
    }
    TRY(lora__safetensors_list(&job->tensors, &job->arena, job->container,
                               error));
    TRY(edit_apply(job, changes, count, error));
    if (job->options->output == NULL) {
        TRY(edit_patch(&in_place, job, error));
    }
    if (!in_place) {
        TRY(edit_write_anew(job, error));
    }
    result->in_place = in_place;
    return LORA_OK;
}

static lora_status edit_path(edit_job *job,
                             const char *path,
                             const lora_metadata_change *changes,
                             size_t count,
                             lora_error *error)
{
    lora_context *context = job->arena.context;
    lora__container *container;
    lora__location location;
    lora_reader reader;
    lora_status status;

    TRY(lora__locate(&location, &job->arena, path, error));
    if (lora__shards_is_index(location.model)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          location.model,
                          "an index of several files, each with metadata of "
                          "its own: edit them one by one");
    }
    TRY(lora__reader_open_file(&reader, context, location.model, 0, error));
    TRY(lora__container_open(&container, context, &reader, location.model,
                             error));
    job->container = container;
    job->path = location.model;
    status = edit_run(job, changes, count, error);
    lora__container_release(container);
    return status;
}

LORA_API lora_status
lora_metadata_edit_file(lora_metadata_edit *out,
                        lora_context *context,
                        const char *path,
                        const lora_metadata_change *changes,
                        size_t change_count,
                        const lora_metadata_edit_options *options,
                        lora_error *error)
{
    lora_metadata_edit_options o;
    edit_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(path != NULL, error);
    CHECK_ARG(changes != NULL || change_count == 0, error);
    CHECK_ARG(out == NULL || out->struct_size >= sizeof out->struct_size,
              error); /* before anything is written */
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_metadata_edit_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(o.reserved1, error));
    TRY(edit_check_changes(changes, change_count, error));
    memset(&job, 0, sizeof job);
    job.options = &o;
    lora__arena_init(&job.arena, context);
    lora__buffer_init(&job.header, context);
    status = edit_path(&job, path, changes, change_count, error);
    lora__buffer_destroy(&job.header);
    lora__arena_destroy(&job.arena);
    if (status == LORA_OK && out != NULL) {
        status = lora__out_write(out, &job.result, sizeof job.result, error);
    }
    return status;
}
