/* Writing undo files. */
#include "op/undo.h"

#include "format/inflate.h"
#include "format/sort.h"
#include "op/hash.h"
#include "op/undo_record.h"
#include "platform/thread.h"

#include <string.h>

/* The files of a model: those with tensors, and indices. */
typedef struct undo_file {
    const char *path;
    const lora__container *container; /* NULL: an index, all of it kept */
    uint64_t bytes;
} undo_file;

/* Bytes of a tensor in a file. */
typedef struct undo_extent {
    size_t file;
    uint64_t offset;
    uint64_t bytes;
} undo_extent;

struct lora__undo {
    lora_context *context;
    const lora__patched *patched;
    int mode;
    lora__mutex lock;
    int has_lock;
    lora_writer writer;
    int has_writer;
    uint64_t record_count;
    lora_status status;  /* of the first record that could not be written */
    unsigned char *told; /* by tensor */
    size_t told_count;
    lora__arena arena;
    undo_file *files;
    size_t file_count;
    undo_extent *extents; /* by tensor */
};

/* ---- records ----------------------------------------------------------- */

static lora_status undo_append(lora__undo *undo,
                               const lora__undo_head *head,
                               const void *payload,
                               lora_error *error)
{
    unsigned char bytes[LORA__UNDO_HEAD];
    lora_status status;

    lora__undo_encode(bytes, head, payload);
    lora__mutex_lock(&undo->lock);
    status = undo->status;
    if (status != LORA_OK) {
        (void)lora__fail(error, status, LORA_NO_OFFSET, "undo",
                         "an earlier record could not be written");
    } else {
        status = lora__writer_write(&undo->writer, bytes, sizeof bytes, error);
        if (status == LORA_OK) {
            status = lora__writer_write(&undo->writer, payload, head->payload,
                                        error);
        }
        undo->status = status;
        undo->record_count++;
    }
    lora__mutex_unlock(&undo->lock);
    return status;
}

/* A record of a piece of at most LORA__UNDO_PIECE bytes, packed where that
 * helps; `room` is for as many. The first `dense` bytes have no runs. */
static lora_status undo_append_piece(lora__undo *undo,
                                     lora__undo_head *head,
                                     const unsigned char *data,
                                     unsigned char *room,
                                     size_t dense,
                                     lora_error *error)
{
    size_t packed;

    TRY(lora__deflate(&packed, room, undo->context, data, (size_t)head->bytes,
                      dense, error));
    head->flags |= packed != 0 ? LORA__UNDO_PACKED : 0;
    head->payload = (uint32_t)(packed != 0 ? packed : head->bytes);
    return undo_append(undo, head, packed != 0 ? room : data, error);
}

/* ---- files ------------------------------------------------------------- */

static lora_status undo_add_file(lora__undo *undo,
                                 size_t *capacity,
                                 const char *path,
                                 const lora__container *container,
                                 lora_error *error)
{
    void *files = undo->files;
    undo_file *file;

    TRY(lora__arena_grow(&files, capacity, &undo->arena, undo->file_count + 1,
                         sizeof *undo->files, error));
    undo->files = files;
    file = &undo->files[undo->file_count++];
    file->path = path;
    file->container = container;
    file->bytes = container != NULL ? container->file_bytes : 0;
    return LORA_OK;
}

/* Where a tensor lies. The tensors of a file follow each other. */
static lora_status
undo_place(lora__undo *undo, size_t *capacity, size_t tensor, lora_error *error)
{
    const lora__undo_place place =
        lora__undo_find_place(undo->patched->model, tensor);
    undo_extent *extent = &undo->extents[tensor];

    if (undo->file_count == 0 ||
        undo->files[undo->file_count - 1].container != place.container) {
        TRY(undo_add_file(undo, capacity, place.container->path,
                          place.container, error));
    }
    extent->file = undo->file_count - 1;
    extent->offset = place.offset;
    extent->bytes = place.bytes;
    return LORA_OK;
}

/* Files with tensors first, then what joins them. */
static lora_status undo_list(lora__undo *undo, lora_error *error)
{
    const lora__checkpoint *model = undo->patched->model;
    size_t capacity = 0;
    void *memory;

    for (size_t i = 0; i < model->file_count; i++) {
        const char *format = model->files[i].container->format;
        if (strncmp(format, "safetensors", 11) != 0 &&
            strcmp(format, "gguf") != 0) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              model->files[i].path,
                              "no undo file for a %s: convert the model to "
                              "safetensors first",
                              format);
        }
    }
    TRY(lora__arena_zeroed(&memory, &undo->arena, model->tensor_count + 1,
                           sizeof *undo->extents, error));
    undo->extents = memory;
    for (size_t t = 0; t < model->tensor_count; t++) {
        TRY(undo_place(undo, &capacity, t, error));
    }
    for (size_t i = 0; i < model->file_count; i++) {
        const lora__container *container = model->files[i].container;
        if (container->reader.read_at == NULL) {
            TRY(undo_add_file(undo, &capacity, container->path, NULL, error));
        } else if (container->entry_count == 0) {
            TRY(undo_add_file(undo, &capacity, container->path, container,
                              error));
        }
    }
    return LORA_OK;
}

/* The name of a file below the folder that is restored. */
static const char *undo_name(const lora__undo *undo, const undo_file *file)
{
    const char *root = undo->patched->model->path;
    const size_t bytes = strlen(root);
    const char *name = file->path;

    if (strncmp(name, root, bytes) == 0 && name[bytes] != '\0') {
        for (name += bytes; *name == '/' || *name == '\\';) {
            name++;
        }
        return name;
    }
    return name + lora__path_folder_bytes(name);
}

/* ---- the beginning ----------------------------------------------------- */

static lora_status undo_write_begin(lora__undo *undo, lora_error *error)
{
    const lora__patched *patched = undo->patched;
    const int folder = undo->file_count != 1 ||
                       strcmp(undo->files[0].path, patched->model->path) != 0;
    unsigned char payload[LORA__UNDO_BEGIN_BYTES];
    lora__undo_head head = {LORA__UNDO_BEGIN, 0, 0, 0, 0, sizeof payload};

    head.index = undo->file_count;
    head.offset = patched->model->tensor_count;
    head.bytes = undo->mode == LORA__UNDO_PREDICT ? patched->patch_count : 0;
    lora__undo_put_u32(payload, (uint32_t)undo->mode);
    lora__undo_put_u32(payload + 4,
                       folder ? LORA__UNDO_FOLDER : LORA__UNDO_ONE_FILE);
    lora__undo_put_u32(payload + 8, (uint32_t)patched->rule);
    lora__undo_put_u32(payload + 12, (uint32_t)patched->dora);
    return undo_append(undo, &head, payload, error);
}

static lora_status undo_write_adapters(lora__undo *undo, lora_error *error)
{
    unsigned char payload[LORA__UNDO_IDENTITY];
    lora__undo_head head = {LORA__UNDO_ADAPTER, 0, 0, 0, 0, sizeof payload};

    if (undo->mode != LORA__UNDO_PREDICT) {
        return LORA_OK;
    }
    for (size_t p = 0; p < undo->patched->patch_count; p++) {
        head.index = p;
        TRY(lora__undo_identify(payload, &undo->patched->patches[p], error));
        TRY(undo_append(undo, &head, payload, error));
    }
    return LORA_OK;
}

static lora_status
undo_write_tensor(lora__undo *undo, size_t tensor, lora_error *error)
{
    const lora__tensor *from = &undo->patched->model->tensors[tensor];
    const undo_extent *extent = &undo->extents[tensor];
    const size_t bytes = LORA__UNDO_TENSOR_BYTES + from->name_bytes;
    lora__undo_head head = {LORA__UNDO_TENSOR, 0, tensor, extent->offset,
                            extent->bytes,     0};
    unsigned char *payload = lora__alloc(undo->context, bytes, LORA__ALIGN);
    lora_status status;

    if (payload == NULL) {
        return lora__fail_memory(error, bytes);
    }
    head.payload = (uint32_t)bytes;
    head.flags = from->entry->quantised != NULL ? LORA__UNDO_BLOCKS : 0;
    lora__undo_put_u32(payload, (uint32_t)extent->file);
    lora__undo_put_u32(payload + 4, (uint32_t)from->entry->dtype);
    memcpy(payload + LORA__UNDO_TENSOR_BYTES, from->name, from->name_bytes);
    status = undo_append(undo, &head, payload, error);
    lora__free(undo->context, payload, bytes, LORA__ALIGN);
    return status;
}

static lora_status undo_write_tables(lora__undo *undo, lora_error *error)
{
    TRY(undo_write_begin(undo, error));
    TRY(undo_write_adapters(undo, error));
    for (size_t f = 0; f < undo->file_count; f++) {
        const char *name = undo_name(undo, &undo->files[f]);
        lora__undo_head head = {LORA__UNDO_FILE, 0, f, 0, 0, 0};
        head.bytes = undo->files[f].bytes;
        head.payload = (uint32_t)strlen(name);
        TRY(undo_append(undo, &head, name, error));
    }
    for (size_t t = 0; t < undo->patched->model->tensor_count; t++) {
        TRY(undo_write_tensor(undo, t, error));
    }
    return LORA_OK;
}

/* ---- bytes that are no tensor's ---------------------------------------- */

static int undo_compare(const void *a, const void *b)
{
    const undo_extent *x = a;
    const undo_extent *y = b;

    if (x->file != y->file) {
        return x->file < y->file ? -1 : 1;
    }
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Bytes [begin, end) of a file, through `room` for two pieces. */
static lora_status undo_keep(lora__undo *undo,
                             size_t file,
                             const lora_reader *reader,
                             uint64_t begin,
                             uint64_t end,
                             unsigned char *room,
                             lora_error *error)
{
    while (begin < end) {
        lora__undo_head head = {LORA__UNDO_DATA, 0, file, begin, 0, 0};
        head.bytes =
            end - begin < LORA__UNDO_PIECE ? end - begin : LORA__UNDO_PIECE;
        TRY(lora__reader_read(reader, begin, room, (size_t)head.bytes,
                              undo->files[file].path, error));
        TRY(undo_append_piece(undo, &head, room, room + LORA__UNDO_PIECE, 0,
                              error));
        begin += head.bytes;
    }
    return LORA_OK;
}

/* What lies between the tensors of a file, which are `count` in order. */
static lora_status undo_keep_gaps(lora__undo *undo,
                                  size_t file,
                                  const undo_extent *extents,
                                  size_t count,
                                  unsigned char *room,
                                  lora_error *error)
{
    const lora_reader *reader = &undo->files[file].container->reader;
    uint64_t at = 0;

    for (size_t i = 0; i < count; i++) {
        if (extents[i].bytes == 0) {
            continue;
        }
        INVARIANT(extents[i].offset >= at, error);
        TRY(undo_keep(undo, file, reader, at, extents[i].offset, room, error));
        at = extents[i].offset + extents[i].bytes;
    }
    return undo_keep(undo, file, reader, at, undo->files[file].bytes, room,
                     error);
}

static lora_status undo_keep_all(lora__undo *undo,
                                 undo_extent *extents,
                                 unsigned char *room,
                                 lora_error *error)
{
    const size_t count = undo->patched->model->tensor_count;
    size_t first = 0;

    memcpy(extents, undo->extents, count * sizeof *extents);
    lora__sort(extents, count, sizeof *extents, undo_compare);
    for (size_t f = 0; f < undo->file_count; f++) {
        size_t end = first;
        while (end < count && extents[end].file == f) {
            end++;
        }
        if (undo->files[f].container == NULL) {
            continue;
        }
        TRY(undo_keep_gaps(undo, f, extents + first, end - first, room, error));
        first = end;
    }
    return LORA_OK;
}

/* The indices, which nobody holds open. */
static lora_status undo_keep_indices(lora__undo *undo,
                                     lora_reader *readers,
                                     unsigned char *room,
                                     lora_error *error)
{
    for (size_t f = 0; f < undo->file_count; f++) {
        if (undo->files[f].container == NULL) {
            TRY(undo_keep(undo, f, &readers[f], 0, undo->files[f].bytes, room,
                          error));
        }
    }
    return LORA_OK;
}

static lora_status
undo_open_indices(lora__undo *undo, lora_reader *readers, lora_error *error)
{
    for (size_t f = 0; f < undo->file_count; f++) {
        undo_file *file = &undo->files[f];
        if (file->container == NULL) {
            TRY(lora__reader_open_file(&readers[f], undo->context, file->path,
                                       0, error));
            TRY(readers[f].size(readers[f].user, &file->bytes));
        }
    }
    return LORA_OK;
}

/* Everything that is known before a tensor was changed. */
static lora_status
undo_write_model(lora__undo *undo, lora_reader *readers, lora_error *error)
{
    const size_t count = undo->patched->model->tensor_count + 1;
    const size_t bytes = 2 * LORA__UNDO_PIECE;
    unsigned char *room = lora__alloc(undo->context, bytes, LORA__ALIGN);
    void *extents = NULL;
    lora_status status;

    if (room == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(lora__alloc_zeroed(&extents, undo->context, count,
                                   sizeof *undo->extents, error));
    TRY_OR_DONE(undo_open_indices(undo, readers, error));
    TRY_OR_DONE(lora__writer_write(&undo->writer, LORA__UNDO_MAGIC,
                                   LORA__UNDO_MAGIC_BYTES, error));
    TRY_OR_DONE(undo_write_tables(undo, error));
    TRY_OR_DONE(undo_keep_all(undo, extents, room, error));
    status = undo_keep_indices(undo, readers, room, error);
done:
    lora__free(undo->context, extents, count * sizeof *undo->extents,
               LORA__ALIGN);
    lora__free(undo->context, room, bytes, LORA__ALIGN);
    return status;
}

/* ---- beginning and ending ---------------------------------------------- */

static lora_status
undo_begin(lora__undo *undo, const char *path, int overwrite, lora_error *error)
{
    void *memory;
    lora_reader *readers;
    lora_status status;

    undo->has_lock = lora__mutex_init(&undo->lock);
    if (!undo->has_lock) {
        return lora__fail(error, LORA_ERROR_THREAD, LORA_NO_OFFSET, path,
                          "no lock for the undo file");
    }
    TRY(undo_list(undo, error));
    TRY(lora__arena_zeroed(&memory, &undo->arena,
                           undo->patched->model->tensor_count + 1, 1, error));
    undo->told = memory;
    TRY(lora__arena_zeroed(&memory, &undo->arena, undo->file_count + 1,
                           sizeof *readers, error));
    readers = memory;
    TRY(lora__writer_open_file(&undo->writer, undo->context, path, overwrite,
                               error));
    undo->has_writer = 1;
    status = undo_write_model(undo, readers, error);
    for (size_t f = 0; f < undo->file_count; f++) {
        if (readers[f].destroy != NULL) {
            readers[f].destroy(readers[f].user);
        }
    }
    return status;
}

LORA_PRIVATE lora_status lora__undo_create(lora__undo **out,
                                           const lora__patched *patched,
                                           const char *path,
                                           int mode,
                                           int overwrite,
                                           lora_error *error)
{
    lora_context *context = patched->model->context;
    lora__undo *undo;
    void *memory;
    lora_status status;

    *out = NULL;
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *undo, error));
    undo = memory;
    undo->context = context;
    undo->patched = patched;
    undo->mode = mode;
    lora__arena_init(&undo->arena, context);
    status = undo_begin(undo, path, overwrite, error);
    if (status != LORA_OK) {
        lora__undo_abort(undo);
        return status;
    }
    *out = undo;
    return LORA_OK;
}

static void undo_free(lora__undo *undo)
{
    if (undo->has_lock) {
        lora__mutex_destroy(&undo->lock);
    }
    lora__arena_destroy(&undo->arena);
    lora__free(undo->context, undo, sizeof *undo, LORA__ALIGN);
}

LORA_PRIVATE void lora__undo_abort(lora__undo *undo)
{
    if (undo == NULL) {
        return;
    }
    if (undo->has_writer) {
        lora__writer_abort(&undo->writer);
    }
    undo_free(undo);
}

LORA_PRIVATE lora_status lora__undo_finish(lora__undo *undo, lora_error *error)
{
    const lora__undo_head head = {
        LORA__UNDO_END, 0, undo->record_count, 0, 0, 0};
    lora_status status;

    if (undo->told_count != undo->patched->model->tensor_count) {
        status = lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, "undo",
                            "not all tensors were told of");
    } else {
        status = undo_append(undo, &head, "", error);
    }
    if (status != LORA_OK) {
        lora__undo_abort(undo);
        return status;
    }
    status = lora__writer_finish(&undo->writer, error);
    undo_free(undo);
    return status;
}

/* ---- tensors ----------------------------------------------------------- */

static int undo_is_zero(const unsigned char *data, size_t bytes)
{
    return data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0;
}

LORA_PRIVATE lora_status lora__undo_put(lora__undo *undo,
                                        size_t tensor,
                                        uint64_t offset,
                                        const void *before,
                                        const void *after,
                                        const void *predicted,
                                        size_t bytes,
                                        lora_error *error)
{
    const unsigned char *was = before;
    const unsigned char *is = predicted != NULL ? predicted : after;
    const size_t most = bytes < LORA__UNDO_PIECE ? bytes : LORA__UNDO_PIECE;
    const lora__tensor *of = &undo->patched->model->tensors[tensor];
    const size_t size = lora_dtype_bits(of->entry->dtype) / 8;
    unsigned char *room;
    lora_status status = LORA_OK;

    INVARIANT(predicted == NULL || undo->mode == LORA__UNDO_PREDICT, error);
    INVARIANT(offset <= undo->extents[tensor].bytes &&
                  bytes <= undo->extents[tensor].bytes - offset,
              error);
    room = lora__alloc(undo->context, 2 * most, LORA__ALIGN);
    if (room == NULL) {
        return lora__fail_memory(error, 2 * most);
    }
    for (size_t done = 0; done < bytes && status == LORA_OK; done += most) {
        lora__undo_head head = {LORA__UNDO_DELTA, 0, tensor,
                                offset + done,    0, 0};
        size_t some = bytes - done < most ? bytes - done : most;
        head.bytes = some;
        head.flags = predicted != NULL ? LORA__UNDO_PREDICTED : 0;
        if (predicted != NULL) {
            lora__undo_part(room, was + done, is + done, size, some);
        } else {
            memcpy(room, was + done, some);
            lora__undo_xor(room, is + done, some);
        }
        if (predicted != NULL || !undo_is_zero(room, some)) {
            status =
                undo_append_piece(undo, &head, room, room + most,
                                  predicted != NULL ? some / size : 0, error);
        }
    }
    lora__free(undo->context, room, 2 * most, LORA__ALIGN);
    return status;
}

LORA_PRIVATE lora_status lora__undo_hash(lora__undo *undo,
                                         size_t tensor,
                                         const uint8_t before[32],
                                         const uint8_t after[32],
                                         lora_error *error)
{
    const lora__undo_head head = {LORA__UNDO_HASH,      0, tensor, 0, 0,
                                  LORA__UNDO_HASH_BYTES};
    unsigned char payload[LORA__UNDO_HASH_BYTES];
    int again;

    memcpy(payload, before, 32);
    memcpy(payload + 32, after, 32);
    lora__mutex_lock(&undo->lock);
    again = undo->told[tensor];
    undo->told[tensor] = 1;
    undo->told_count += !again;
    lora__mutex_unlock(&undo->lock);
    INVARIANT(!again, error);
    return undo_append(undo, &head, payload, error);
}
