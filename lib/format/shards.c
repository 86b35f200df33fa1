/* Checkpoints in several files. */
#include "format/shards.h"

#include "core/text.h"
#include "format/folder.h"
#include "format/json.h"
#include "format/quote.h"
#include "format/sort.h"
#include "platform/file.h"

#include <string.h>

/* Index, map, and what metadata may nest. */
#define SHARDS_MAX_DEPTH 8

typedef struct shards_file {
    const char *name; /* in the index's text */
    lora__container *container;
} shards_file;

/* One line of the map. */
typedef struct shards_claim {
    const char *tensor; /* in the index's text */
    size_t bytes;
    uint64_t offset; /* in the index */
    size_t file;
} shards_claim;

typedef struct shards_job {
    lora__container *joined;
    lora_context *context;
    const char *path; /* of the index */
    lora__json json;
    char *text;
    int has_map;
    shards_claim *claims;
    size_t claim_count;
    size_t claim_capacity;
    lora__map by_name; /* of files */
    size_t file_count;
    shards_file files[LORA__SHARDS_MAX];
} shards_job;

/* ---- the index --------------------------------------------------------- */

static lora_status shards_fail(const shards_job *job,
                               lora_status status,
                               uint64_t offset,
                               const char *what,
                               lora_error *error)
{
    return lora__fail(error, status, offset, job->path, "%s", what);
}

static lora_status shards_fail_claim(const shards_job *job,
                                     lora_status status,
                                     const shards_claim *claim,
                                     const char *what,
                                     lora_error *error)
{
    return lora__fail_named(error, status, claim->offset, job->path, "tensor",
                            claim->tensor, claim->bytes, what);
}

/* Decode a key or string where it lies. */
static lora_status shards_decode(const char **out,
                                 size_t *out_bytes,
                                 const shards_job *job,
                                 const lora__json_event *event,
                                 lora_error *error)
{
    char *text = job->text + (event->text - job->text);

    TRY(lora__json_decode(text, out_bytes, event, error));
    if (memchr(text, '\0', *out_bytes) != NULL) {
        return shards_fail(job, LORA_ERROR_FORMAT, event->offset,
                           "a NUL character in a string", error);
    }
    *out = text;
    return LORA_OK;
}

/* 1 if the name can mean nothing but a file beside the index. A colon is a
 * drive or a stream on Windows; "..", and the index itself, do not end so. */
static int shards_is_plain(const char *name, size_t bytes)
{
    return name[0] != '.' && strpbrk(name, "/\\:") == NULL &&
           bytes > strlen(".safetensors") &&
           lora__text_ends(name, bytes, ".safetensors");
}

/* The file of a claim, listed when first met. */
static lora_status shards_add_file(size_t *out,
                                   shards_job *job,
                                   const lora__json_event *event,
                                   lora_error *error)
{
    const char *name;
    size_t bytes;

    TRY(shards_decode(&name, &bytes, job, event, error));
    if (!shards_is_plain(name, bytes)) {
        return lora__fail_named(error, LORA_ERROR_FORMAT, event->offset,
                                job->path, "file", name, bytes,
                                "not the name of a .safetensors file beside "
                                "the index");
    }
    TRY(lora__map_add(out, &job->by_name, name, bytes, job->file_count, error));
    if (*out < job->file_count) {
        return LORA_OK;
    }
    if (job->file_count == LORA__SHARDS_MAX) {
        return lora__fail(error, LORA_ERROR_LIMIT, event->offset, job->path,
                          "more than %d files", LORA__SHARDS_MAX);
    }
    job->files[job->file_count++].name = name;
    return LORA_OK;
}

/* One "tensor": "file". */
static lora_status shards_read_claim(shards_job *job,
                                     const lora__json_event *key,
                                     lora_error *error)
{
    const lora_limits *limits = &lora__context_get(job->context)->limits;
    lora__json_event event;
    void *claims = job->claims;
    shards_claim *claim;

    if (job->claim_count >= limits->tensor_count) {
        return shards_fail(job, LORA_ERROR_LIMIT, key->offset,
                           "more tensors than the limit", error);
    }
    TRY(lora__grow(&claims, &job->claim_capacity, job->context,
                   job->claim_count + 1, sizeof *claim, error));
    job->claims = claims;
    claim = &job->claims[job->claim_count++];
    claim->offset = key->offset;
    TRY(shards_decode(&claim->tensor, &claim->bytes, job, key, error));
    TRY(lora__json_next(&event, &job->json, error));
    if (event.type != LORA__JSON_STRING) {
        return shards_fail_claim(job, LORA_ERROR_FORMAT, claim,
                                 "its file is not a string", error);
    }
    return shards_add_file(&claim->file, job, &event, error);
}

static lora_status
shards_read_map(shards_job *job, const lora__json_event *key, lora_error *error)
{
    lora__json_event event;

    if (job->has_map) {
        return shards_fail(job, LORA_ERROR_DUPLICATE, key->offset,
                           "weight_map twice", error);
    }
    job->has_map = 1;
    TRY(lora__json_next(&event, &job->json, error));
    if (event.type != LORA__JSON_OBJECT_BEGIN) {
        return shards_fail(job, LORA_ERROR_FORMAT, event.offset,
                           "weight_map must be an object", error);
    }
    for (;;) {
        TRY(lora__json_next(&event, &job->json, error));
        if (event.type != LORA__JSON_KEY) {
            return LORA_OK;
        }
        TRY(shards_read_claim(job, &event, error));
    }
}

static lora_status shards_read_index(shards_job *job, lora_error *error)
{
    const lora_limits *limits = &lora__context_get(job->context)->limits;
    lora__json_event event;
    size_t bytes;

    TRY(lora__folder_load(&job->text, &bytes, &job->joined->arena, job->path,
                          limits->header_bytes, 0, error));
    lora__json_init(&job->json, job->text, bytes, 0, SHARDS_MAX_DEPTH);
    TRY(lora__json_next(&event, &job->json, error));
    if (event.type != LORA__JSON_OBJECT_BEGIN) {
        return shards_fail(job, LORA_ERROR_FORMAT, event.offset,
                           "an index must be a JSON object", error);
    }
    for (;;) {
        const char *name;

        TRY(lora__json_next(&event, &job->json, error));
        if (event.type != LORA__JSON_KEY) {
            break;
        }
        TRY(shards_decode(&name, &bytes, job, &event, error));
        if (strcmp(name, "weight_map") == 0) {
            TRY(shards_read_map(job, &event, error));
        } else {
            TRY(lora__json_skip(&job->json, &event, error));
        }
    }
    TRY(lora__json_next(&event, &job->json, error)); /* nothing may follow */
    if (job->claim_count == 0) {
        return shards_fail(
            job, LORA_ERROR_FORMAT, LORA_NO_OFFSET,
            "not the index of a checkpoint: it has no weight_map "
            "with tensors",
            error);
    }
    return LORA_OK;
}

/* ---- the files --------------------------------------------------------- */

static int shards_compare_files(const void *a, const void *b)
{
    const shards_file *const *x = a;
    const shards_file *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static lora_status
shards_open_file(shards_job *job, shards_file *file, int map, lora_error *error)
{
    lora__container *joined = job->joined;
    lora__container *container;
    lora_reader reader;
    const char *path;

    TRY(lora__folder_beside(&path, &joined->arena, job->path, file->name,
                            error));
    TRY(lora__reader_open_file(&reader, job->context, path, map, error));
    TRY(lora__container_open(&container, job->context, &reader, path, error));
    file->container = container;
    if (strcmp(container->format, "safetensors") != 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, path,
                          "a file of an index must be safetensors");
    }
    if (!lora__add_u64(joined->file_bytes, container->file_bytes,
                       &joined->file_bytes)) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, path,
                          "the files are too large together");
    }
    return LORA_OK;
}

/* In the order of their names, so that nothing depends on the index's. */
static lora_status shards_open_files(shards_job *job,
                                     shards_file **order,
                                     int map,
                                     lora_error *error)
{
    for (size_t i = 0; i < job->file_count; i++) {
        order[i] = &job->files[i];
    }
    lora__sort(order, job->file_count, sizeof *order, shards_compare_files);
    for (size_t i = 0; i < job->file_count; i++) {
        TRY(shards_open_file(job, order[i], map, error));
    }
    return LORA_OK;
}

/* ---- joining ----------------------------------------------------------- */

/* Give the joined container the entries of a file; each holds the file. */
static lora_status
shards_take_entries(shards_job *job, const shards_file *file, lora_error *error)
{
    lora__container *joined = job->joined;

    for (size_t i = 0; i < file->container->entry_count; i++) {
        const lora__entry *from = &file->container->entries[i];
        lora__entry *entry;
        size_t existing;

        TRY(lora__container_add(&entry, joined, error));
        *entry = *from;
        entry->data = NULL;
        entry->parent = file->container;
        entry->parent_index = i;
        lora__container_retain(entry->parent);
        TRY(lora__map_add(&existing, &joined->by_name, entry->name,
                          entry->name_bytes, joined->entry_count - 1, error));
        if (existing != joined->entry_count - 1) {
            return lora__fail_named(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET,
                                    file->container->path, "tensor",
                                    entry->name, entry->name_bytes,
                                    "also in another file of the index");
        }
    }
    return LORA_OK;
}

static lora_status
shards_take_all(shards_job *job, shards_file **order, lora_error *error)
{
    const lora_limits *limits = &lora__context_get(job->context)->limits;
    uint64_t total = 0; /* at most 128 times a count of things in memory */

    for (size_t i = 0; i < job->file_count; i++) {
        total += order[i]->container->entry_count;
    }
    if (total > limits->tensor_count) {
        return shards_fail(job, LORA_ERROR_LIMIT, LORA_NO_OFFSET,
                           "more tensors than the limit", error);
    }
    for (size_t i = 0; i < job->file_count; i++) {
        TRY(shards_take_entries(job, order[i], error));
    }
    return LORA_OK;
}

/* What the index says, against what is there; `seen` is by entry. */
static lora_status
shards_check_claims(shards_job *job, unsigned char *seen, lora_error *error)
{
    const lora__container *joined = job->joined;

    for (size_t i = 0; i < job->claim_count; i++) {
        const shards_claim *claim = &job->claims[i];
        size_t at;

        if (!lora__map_find(&at, &joined->by_name, claim->tensor,
                            claim->bytes) ||
            joined->entries[at].parent != job->files[claim->file].container) {
            return shards_fail_claim(job, LORA_ERROR_FORMAT, claim,
                                     "it is not in the file that the index "
                                     "names: another version, or incomplete",
                                     error);
        }
        if (seen[at]++) {
            return shards_fail_claim(job, LORA_ERROR_DUPLICATE, claim,
                                     "twice in the index", error);
        }
    }
    for (size_t i = 0; i < joined->entry_count; i++) {
        if (!seen[i]) {
            const lora__entry *entry = &joined->entries[i];
            return lora__fail_named(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET,
                                    entry->parent->path, "tensor", entry->name,
                                    entry->name_bytes, "not in the index");
        }
    }
    return LORA_OK;
}

static lora_status shards_check(shards_job *job, lora_error *error)
{
    size_t count = job->joined->entry_count;
    void *seen;
    lora_status status;

    TRY(lora__alloc_zeroed(&seen, job->context, count + 1, 1, error));
    status = shards_check_claims(job, seen, error);
    lora__free(job->context, seen, count + 1, LORA__ALIGN);
    return status;
}

/* ---- metadata ---------------------------------------------------------- */

/* An entry with the place of its file, which makes the order a whole one. */
typedef struct shards_metadata {
    lora__metadata entry;
    size_t file;
} shards_metadata;

static int shards_compare_metadata(const void *a, const void *b)
{
    const shards_metadata *x = a;
    const shards_metadata *y = b;
    int order = strcmp(x->entry.key, y->entry.key);

    return order != 0 ? order : (x->file > y->file) - (x->file < y->file);
}

/* Each key once, with the value of the first file that has it. */
static void shards_unite(lora__container *joined,
                         const shards_metadata *all,
                         size_t count,
                         lora__metadata *kept)
{
    size_t n = 0;

    for (size_t i = 0; i < count; i++) {
        if (n == 0 || strcmp(kept[n - 1].key, all[i].entry.key) != 0) {
            kept[n++] = all[i].entry;
        } else if (joined->metadata_conflict == NULL &&
                   strcmp(kept[n - 1].value, all[i].entry.value) != 0) {
            joined->metadata_conflict = all[i].entry.key;
        }
    }
    joined->metadata = kept;
    joined->metadata_count = n;
}

/* The strings stay with the files, of which each has an entry that holds it. */
static lora_status
shards_join_metadata(shards_job *job, shards_file **order, lora_error *error)
{
    lora__container *joined = job->joined;
    shards_metadata *all;
    size_t count = 0;
    size_t n = 0;
    void *memory;
    void *kept;

    for (size_t i = 0; i < job->file_count; i++) {
        count += order[i]->container->metadata_count;
    }
    TRY(lora__arena_zeroed(&kept, &joined->arena, count, sizeof(lora__metadata),
                           error));
    TRY(lora__alloc_zeroed(&memory, job->context, count + 1, sizeof *all,
                           error));
    all = memory;
    for (size_t i = 0; i < job->file_count; i++) {
        const lora__container *file = order[i]->container;
        for (size_t m = 0; m < file->metadata_count; m++, n++) {
            all[n].entry = file->metadata[m];
            all[n].file = i;
        }
    }
    lora__sort(all, count, sizeof *all, shards_compare_metadata);
    shards_unite(joined, all, count, kept);
    lora__free(job->context, all, (count + 1) * sizeof *all, LORA__ALIGN);
    return LORA_OK;
}

/* ---- opening ----------------------------------------------------------- */

static lora_status shards_load(shards_job *job, int map, lora_error *error)
{
    shards_file *order[LORA__SHARDS_MAX];

    TRY(shards_read_index(job, error));
    TRY(shards_open_files(job, order, map, error));
    TRY(shards_take_all(job, order, error));
    TRY(shards_check(job, error));
    return shards_join_metadata(job, order, error);
}

static lora_status shards_open(lora__container **out,
                               lora_context *context,
                               const char *path,
                               int map,
                               lora_error *error)
{
    shards_job job;
    lora_status status;

    memset(&job, 0, sizeof job);
    job.context = context;
    job.path = path;
    TRY(lora__container_create(&job.joined, context, "safetensors shards", path,
                               error));
    lora__map_init(&job.by_name, context);
    status = shards_load(&job, map, error);
    lora__error_set_subject(error, path);
    for (size_t i = 0; i < job.file_count; i++) {
        lora__container_release(job.files[i].container);
    }
    lora__map_destroy(&job.by_name);
    lora__free(context, job.claims, job.claim_capacity * sizeof *job.claims,
               LORA__ALIGN);
    if (status != LORA_OK) {
        lora__container_release(job.joined);
        return status;
    }
    *out = job.joined;
    return LORA_OK;
}

LORA_PRIVATE int lora__shards_is_index(const char *path)
{
    static const char mark[] = ".safetensors.index.";
    const char *name = path + lora__path_folder_bytes(path);
    const char *at = strstr(name, mark);

    return at != NULL && lora__text_ends(at, strlen(at), ".json");
}

LORA_PRIVATE lora_status lora__container_open_path(lora__container **out,
                                                   lora_context *context,
                                                   const char *path,
                                                   int map,
                                                   lora_error *error)
{
    lora_reader reader;

    *out = NULL;
    if (lora__shards_is_index(path)) {
        return shards_open(out, context, path, map, error);
    }
    TRY(lora__reader_open_file(&reader, context, path, map, error));
    return lora__container_open(out, context, &reader, path, error);
}
