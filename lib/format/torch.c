/* Zip archives of torch, storages, and reading tensors from them. torch.h. */
#include "format/torch.h"

#include "format/quote.h"
#include "platform/atomic.h"

#include <string.h>

/* Storages of so many bytes altogether are checked when a file is opened. */
#define TORCH_CHECK_AT_ONCE ((uint64_t)1 << 20)

/* What is read at a time when elements lie apart, and how far apart they may
 * lie before it is cheaper to read them one by one. */
enum { TORCH_CHUNK = 16384, TORCH_GAP = 2048 };

/* Storages --------------------------------------------------------------- */

static const struct {
    const char *name;
    lora_dtype dtype;
    uint32_t unit;
} torch_classes[] = {
    {"FloatStorage", LORA_DTYPE_F32, 4},
    {"HalfStorage", LORA_DTYPE_F16, 2},
    {"BFloat16Storage", LORA_DTYPE_BF16, 2},
    {"DoubleStorage", LORA_DTYPE_F64, 8},
    {"LongStorage", LORA_DTYPE_I64, 8},
    {"IntStorage", LORA_DTYPE_I32, 4},
    {"ShortStorage", LORA_DTYPE_I16, 2},
    {"CharStorage", LORA_DTYPE_I8, 1},
    {"ByteStorage", LORA_DTYPE_U8, 1},
    {"BoolStorage", LORA_DTYPE_BOOL, 1},
    {"ComplexFloatStorage", LORA_DTYPE_C64, 8},
    {"ComplexDoubleStorage", LORA_DTYPE_NONE, 16},
    {"QInt8Storage", LORA_DTYPE_NONE, 1},
    {"QUInt8Storage", LORA_DTYPE_NONE, 1},
    {"QInt32Storage", LORA_DTYPE_NONE, 4},
    {"QUInt4x2Storage", LORA_DTYPE_NONE, 1},
    {"QUInt2x4Storage", LORA_DTYPE_NONE, 1},
    {"UntypedStorage", LORA_DTYPE_NONE, 1},
};

LORA_PRIVATE lora_dtype lora__torch_dtype(const lora__pickle_value *global)
{
    static const struct {
        const char *name;
        lora_dtype dtype;
    } types[] = {
        {"float8_e4m3fn", LORA_DTYPE_F8_E4M3},
        {"float8_e5m2", LORA_DTYPE_F8_E5M2},
        {"float8_e4m3fnuz", LORA_DTYPE_F8_E4M3FNUZ},
        {"float8_e5m2fnuz", LORA_DTYPE_F8_E5M2FNUZ},
        {"float8_e8m0fnu", LORA_DTYPE_F8_E8M0},
        {"uint16", LORA_DTYPE_U16},
        {"uint32", LORA_DTYPE_U32},
        {"uint64", LORA_DTYPE_U64},
        {"float32", LORA_DTYPE_F32},
        {"float16", LORA_DTYPE_F16},
        {"bfloat16", LORA_DTYPE_BF16},
        {"float64", LORA_DTYPE_F64},
        {"int64", LORA_DTYPE_I64},
        {"int32", LORA_DTYPE_I32},
        {"int16", LORA_DTYPE_I16},
        {"int8", LORA_DTYPE_I8},
        {"uint8", LORA_DTYPE_U8},
        {"bool", LORA_DTYPE_BOOL},
        {"complex64", LORA_DTYPE_C64},
    };

    for (size_t i = 0; i < LORA__COUNT(types); i++) {
        if (lora__pickle_is_global(global, "torch", types[i].name)) {
            return types[i].dtype;
        }
    }
    return LORA_DTYPE_NONE;
}

/* Refuse what a persistent id says. */
static lora_status torch_fail_id(const lora__torch *torch,
                                 const lora__pickle_value *id,
                                 const char *what,
                                 lora_error *error)
{
    return lora__fail(error, LORA_ERROR_FORMAT, id->as.node->offset,
                      torch->container->path, "storage: %s", what);
}

/* ("storage", class, key, location, count) and, in streams, what part of the
 * storage it is. */
typedef struct torch_id {
    const lora__pickle_value *class_name;
    const lora__pickle_value *key;
    const lora__pickle_value *part; /* or NULL */
    uint64_t count;
} torch_id;

static lora_status torch_read_id(torch_id *out,
                                 const lora__torch *torch,
                                 const lora__pickle_value *id,
                                 lora_error *error)
{
    const lora__pickle_value *tuple = lora__pickle_item(id, 0);
    const lora__pickle_value *type = lora__pickle_item(tuple, 1);
    const lora__pickle_value *count = lora__pickle_item(tuple, 4);

    if (lora__pickle_is_text(lora__pickle_item(tuple, 0), "module")) {
        return torch_fail_id(torch, id,
                             "a whole module, with its code, was saved: save "
                             "its state_dict instead",
                             error);
    }
    out->key = lora__pickle_item(tuple, 2);
    out->part = lora__pickle_item(tuple, 5);
    if (!lora__pickle_is_text(lora__pickle_item(tuple, 0), "storage") ||
        type == NULL || type->type != LORA__PICKLE_GLOBAL || out->key == NULL ||
        out->key->type != LORA__PICKLE_TEXT || count == NULL ||
        count->type != LORA__PICKLE_INTEGER || count->as.integer < 0) {
        return torch_fail_id(torch, id, "not declared as torch does it", error);
    }
    out->class_name = lora__pickle_item(type, 1);
    out->count = (uint64_t)count->as.integer;
    return LORA_OK;
}

LORA_PRIVATE lora__torch_storage *
lora__torch_find(const lora__torch *torch, const lora__pickle_value *key)
{
    size_t index;

    return key != NULL && key->type == LORA__PICKLE_TEXT &&
                   lora__map_find(&index, &torch->by_key, key->as.text,
                                  key->text_bytes)
               ? &torch->storages[index]
               : NULL;
}

/* Add a storage, or compare with what it was declared as before. */
static lora_status torch_declare_one(lora__torch *torch,
                                     const lora__pickle_value *id,
                                     lora_error *error)
{
    lora__torch_storage *storage = &torch->storages[torch->storage_count];
    size_t row = 0;
    size_t existing;
    torch_id read;

    TRY(torch_read_id(&read, torch, id, error));
    while (row < LORA__COUNT(torch_classes) &&
           !lora__pickle_is_text(read.class_name, torch_classes[row].name)) {
        row++;
    }
    if (row == LORA__COUNT(torch_classes)) {
        return torch_fail_id(torch, id, "of a class that is not known", error);
    }
    storage->key = read.key->as.text;
    storage->key_bytes = read.key->text_bytes;
    storage->dtype = torch_classes[row].dtype;
    storage->unit = torch_classes[row].unit;
    storage->count = read.count;
    if (!lora__mul_u64(read.count, storage->unit, &storage->bytes)) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, id->as.node->offset,
                          torch->container->path,
                          "storage: more elements than any file has");
    }
    TRY(lora__map_add(&existing, &torch->by_key, storage->key,
                      storage->key_bytes, torch->storage_count, error));
    if (existing == torch->storage_count) {
        torch->storage_count++;
        return LORA_OK;
    }
    return torch->storages[existing].dtype == storage->dtype &&
                   torch->storages[existing].bytes == storage->bytes
               ? LORA_OK
               : torch_fail_id(torch, id, "one key for two of them", error);
}

LORA_PRIVATE lora_status lora__torch_declare(
    lora__torch *torch, const lora__pickle_value *persistent, lora_error *error)
{
    lora__pickle_cursor cursor = lora__pickle_items_of(persistent);
    const lora__pickle_value *id;
    size_t count = 0;
    void *memory;

    while (lora__pickle_next(&cursor) != NULL) {
        count++;
    }
    TRY(lora__arena_zeroed(&memory, &torch->container->arena, count,
                           sizeof *torch->storages, error));
    torch->storages = memory;
    cursor = lora__pickle_items_of(persistent);
    while ((id = lora__pickle_next(&cursor)) != NULL) {
        TRY(torch_declare_one(torch, id, error));
    }
    return LORA_OK;
}

/* A non-negative integer. */
static int torch_is_size(uint64_t *out, const lora__pickle_value *value)
{
    if (value == NULL || value->type != LORA__PICKLE_INTEGER ||
        value->as.integer < 0) {
        return 0;
    }
    *out = (uint64_t)value->as.integer;
    return 1;
}

LORA_PRIVATE lora_status lora__torch_resolve(lora__torch_span *out,
                                             const lora__torch *torch,
                                             const lora__pickle_value *id,
                                             lora_error *error)
{
    torch_id read;

    TRY(torch_read_id(&read, torch, id, error));
    out->storage = lora__torch_find(torch, read.key);
    INVARIANT(out->storage != NULL, error);
    out->first = 0;
    out->count = out->storage->count;
    if (read.part != NULL && read.part->type != LORA__PICKLE_NONE) {
        if (!torch_is_size(&out->first, lora__pickle_item(read.part, 1)) ||
            !torch_is_size(&out->count, lora__pickle_item(read.part, 2)) ||
            out->first > out->storage->count ||
            out->count > out->storage->count - out->first) {
            return torch_fail_id(torch, id, "a part that lies outside of it",
                                 error);
        }
    }
    return LORA_OK;
}

/* Reading ---------------------------------------------------------------- */

/* A tensor whose elements lie apart, in the fewest dimensions. */
typedef struct torch_view {
    const lora__torch *torch;
    lora__torch_storage *storage;
    uint64_t first; /* element of the storage, of the tensor's type */
    uint64_t shape[LORA_MAX_DIMS];
    uint64_t strides[LORA_MAX_DIMS];
    int32_t ndim;
} torch_view;

static lora_status torch_fetch(const torch_view *view,
                               uint64_t offset,
                               void *buffer,
                               size_t bytes,
                               lora_error *error)
{
    const lora__container *container = view->torch->container;

    if (view->storage->data != NULL) {
        memcpy(buffer, view->storage->data + (size_t)offset, bytes);
        return LORA_OK;
    }
    return lora__reader_read(&container->reader, view->storage->offset + offset,
                             buffer, bytes, container->path, error);
}

/* `count` elements from element `at` of the storage on, `stride` apart. */
static lora_status torch_gather_run(unsigned char *out,
                                    const torch_view *view,
                                    uint64_t at,
                                    uint64_t stride,
                                    size_t count,
                                    size_t unit,
                                    lora_error *error)
{
    unsigned char chunk[TORCH_CHUNK];
    size_t gap = unit; /* from one to the next within a chunk */
    size_t most = 1;   /* elements of a chunk */

    if (stride == 1) {
        return torch_fetch(view, at * unit, out, count * unit, error);
    }
    if (stride == 0) {
        gap = 0;
        most = count;
    } else if (stride <= TORCH_GAP / unit) {
        gap = (size_t)stride * unit;
        most = (sizeof chunk - unit) / gap + 1;
    }
    while (count > 0) {
        size_t step = count < most ? count : most;

        TRY(torch_fetch(view, at * unit, chunk, (step - 1) * gap + unit,
                        error));
        for (size_t i = 0; i < step; i++) {
            memcpy(out + i * unit, chunk + i * gap, unit);
        }
        out += step * unit;
        at += step * stride;
        count -= step;
    }
    return LORA_OK;
}

/* Whole elements, as many as lie in one line of the last dimension, are made
 * at a time and cut to the bytes that were asked for. */
static lora_status torch_gather(const lora__entry *entry,
                                uint64_t offset,
                                void *buffer,
                                size_t bytes,
                                lora_error *error)
{
    const torch_view *view = entry->source;
    int32_t last = view->ndim - 1;
    size_t unit = lora_dtype_bits(entry->dtype) / 8;
    unsigned char made[TORCH_CHUNK];
    unsigned char *out = buffer;

    while (bytes > 0) {
        uint64_t rest = offset / unit;
        size_t skip = (size_t)(offset % unit);
        uint64_t left = view->shape[last] - rest % view->shape[last];
        uint64_t at = view->first;
        size_t count = sizeof made / unit;
        size_t step;

        for (int32_t d = last; d >= 0; d--) {
            at += rest % view->shape[d] * view->strides[d];
            rest /= view->shape[d];
        }
        count = left < count ? (size_t)left : count;
        if (count > (bytes - 1) / unit + 2) {
            count = (bytes - 1) / unit + 2; /* both ends may be cut */
        }
        TRY(torch_gather_run(made, view, at, view->strides[last], count, unit,
                             error));
        step = count * unit - skip < bytes ? count * unit - skip : bytes;
        memcpy(out, made + skip, step);
        out += step;
        offset += step;
        bytes -= step;
    }
    return LORA_OK;
}

/* Two threads may check the same storage: no harm but the time. */
static lora_status torch_check(const lora__torch *torch,
                               lora__torch_storage *storage,
                               lora_error *error)
{
    if (storage->record == NULL || storage->data != NULL ||
        lora__atomic_load_u32(&storage->checked)) {
        return LORA_OK;
    }
    TRY(lora__zip_verify(&torch->zip, storage->record, error));
    lora__atomic_store_u32(&storage->checked, 1);
    return LORA_OK;
}

static lora_status torch_verify(const lora__entry *entry, lora_error *error)
{
    const torch_view *view = entry->source;

    return entry->bytes == 0 ? LORA_OK
                             : torch_check(view->torch, view->storage, error);
}

LORA_PRIVATE lora_status lora__torch_place(lora__entry *entry,
                                           lora__torch *torch,
                                           lora__torch_storage *storage,
                                           uint64_t first,
                                           const uint64_t *strides,
                                           lora_error *error)
{
    lora__container *container = torch->container;
    uint64_t begin = first * (lora_dtype_bits(entry->dtype) / 8);
    torch_view *view;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &container->arena, 1, sizeof *view, error));
    view = memory;
    view->torch = torch;
    view->storage = storage;
    view->first = first;
    for (int32_t i = 0; i < entry->ndim && entry->elements > 0; i++) {
        uint64_t size = (uint64_t)entry->shape[i];
        int32_t n = view->ndim;

        if (size == 1) {
            continue;
        }
        if (n > 0 && view->strides[n - 1] == strides[i] * size) {
            view->shape[n - 1] *= size; /* goes on where this one begins */
            view->strides[n - 1] = strides[i];
        } else {
            view->shape[n] = size;
            view->strides[n] = strides[i];
            view->ndim++;
        }
    }
    entry->source = view;
    entry->offset = storage->data == NULL ? storage->offset + begin : 0;
    if (view->ndim > 1 || (view->ndim == 1 && view->strides[0] != 1)) {
        entry->derive = torch_gather;
    } else if (storage->data != NULL && entry->bytes > 0) {
        entry->data = storage->data + begin;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__torch_read(lora__container *container,
                                          const char *format,
                                          lora__torch_fn read,
                                          lora_error *error)
{
    lora__torch *torch;
    lora__arena arena;
    lora_status status;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &container->arena, 1, sizeof *torch,
                           error));
    torch = memory;
    torch->container = container;
    lora__map_init(&torch->by_key, container->context);
    lora__map_init(&torch->zip.by_name, container->context);
    container->verify = torch_verify;
    container->format = format;
    lora__arena_init(&arena, container->context);
    status = read(torch, &arena, error);
    lora__error_set_subject(error, container->path);
    lora__map_destroy(&torch->by_key);
    lora__zip_close(&torch->zip);
    lora__arena_destroy(&arena);
    return status;
}

/* Zip archives ----------------------------------------------------------- */

LORA_PRIVATE int lora__torch_is_zip(const unsigned char *head, size_t bytes)
{
    return bytes >= 4 && memcmp(head, "PK\3\4", 4) == 0;
}

/* The record "TOP/folder/name", where TOP is what the first record lies in.
 * NULL if there is none. */
static const lora__zip_record *torch_record(const lora__zip *zip,
                                            const char *folder,
                                            const char *name,
                                            size_t name_bytes)
{
    char path[512];
    const char *slash = memchr(zip->first_name, '/', zip->first_name_bytes);
    size_t top = slash == NULL ? 0 : (size_t)(slash - zip->first_name) + 1;
    size_t folder_bytes = strlen(folder);

    if (top == 0 || name_bytes > sizeof path ||
        top + folder_bytes + name_bytes > sizeof path) {
        return NULL;
    }
    memcpy(path, zip->first_name, top);
    memcpy(path + top, folder, folder_bytes);
    memcpy(path + top + folder_bytes, name, name_bytes);
    return lora__zip_find(zip, path, top + folder_bytes + name_bytes);
}

static lora_status torch_fail_record(const lora__torch *torch,
                                     lora_status status,
                                     const lora__zip_record *record,
                                     const char *what,
                                     lora_error *error)
{
    return lora__fail_named(error, status, record->header,
                            torch->container->path, "record", record->name,
                            record->name_bytes, what);
}

/* Archives of TorchScript look alike, but their tensors are named by code. */
static lora_status torch_check_records(const lora__torch *torch,
                                       lora_error *error)
{
    const lora__zip *zip = &torch->zip;
    size_t top = 0;

    while (top < zip->first_name_bytes && zip->first_name[top] != '/') {
        top++;
    }
    for (size_t i = 0; i < zip->count; i++) {
        const lora__zip_record *record = &zip->records[i];

        if (record->name_bytes <= top ||
            memcmp(record->name, zip->first_name, top + 1) != 0) {
            return torch_fail_record(torch, LORA_ERROR_FORMAT, record,
                                     "lies outside of the folder of the others",
                                     error);
        }
        if (record->name_bytes - top > 6 &&
            memcmp(record->name + top, "/code/", 6) == 0) {
            return torch_fail_record(torch, LORA_ERROR_FORMAT, record,
                                     "a TorchScript archive: save its "
                                     "state_dict with torch.save",
                                     error);
        }
    }
    if (torch_record(zip, "", "constants.pkl", 13) != NULL) {
        return torch_fail_record(torch, LORA_ERROR_FORMAT,
                                 torch_record(zip, "", "constants.pkl", 13),
                                 "a TorchScript archive: save its state_dict "
                                 "with torch.save",
                                 error);
    }
    return LORA_OK;
}

static lora_status
torch_check_order(lora__torch *torch, lora__arena *arena, lora_error *error)
{
    const lora__zip_record *record =
        torch_record(&torch->zip, "", "byteorder", 9);
    const unsigned char *text;

    if (record == NULL) {
        return LORA_OK; /* older than the record: little-endian */
    }
    TRY(lora__zip_load(&text, &torch->zip, record, 16, arena, error));
    if (record->bytes == 3 && memcmp(text, "big", 3) == 0) {
        return torch_fail_record(torch, LORA_ERROR_FORMAT, record,
                                 "numbers are big-endian: save it again on "
                                 "another machine",
                                 error);
    }
    return record->bytes == 6 && memcmp(text, "little", 6) == 0
               ? LORA_OK
               : torch_fail_record(torch, LORA_ERROR_FORMAT, record,
                                   "an unknown order of bytes", error);
}

/* Find the records of all storages; unpack what is deflated. */
static lora_status torch_place_storages(lora__torch *torch, lora_error *error)
{
    uint64_t total = 0;

    for (size_t i = 0; i < torch->storage_count; i++) {
        lora__torch_storage *s = &torch->storages[i];

        s->record = torch_record(&torch->zip, "data/", s->key, s->key_bytes);
        if (s->record == NULL) {
            return lora__fail_named(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET,
                                    torch->container->path, "storage", s->key,
                                    s->key_bytes, "its record is missing");
        }
        if (s->record->bytes < s->bytes) {
            return torch_fail_record(torch, LORA_ERROR_TRUNCATED, s->record,
                                     "shorter than the tensors in it", error);
        }
        if (s->record->bytes > s->bytes) {
            return torch_fail_record(torch, LORA_ERROR_FORMAT, s->record,
                                     "longer than its storage", error);
        }
        if (s->record->deflated) {
            TRY(lora__zip_load(&s->data, &torch->zip, s->record, UINT64_MAX,
                               &torch->container->arena, error));
        } else {
            s->offset = s->record->offset;
            total += s->bytes; /* records do not overlap */
        }
        s->placed = 1;
    }
    for (size_t i = 0; total <= TORCH_CHECK_AT_ONCE && i < torch->storage_count;
         i++) {
        TRY(torch_check(torch, &torch->storages[i], error));
    }
    return LORA_OK;
}

static lora_status
torch_read_records(lora__torch *torch, lora__arena *arena, lora_error *error)
{
    lora__container *container = torch->container;
    const lora__zip_record *record;
    const unsigned char *text;
    lora__pickle pickle;

    TRY(lora__zip_open(&torch->zip, container, error));
    record = torch_record(&torch->zip, "", "data.pkl", 8);
    if (record == NULL) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, container->path,
                          "a zip archive without data.pkl, so no PyTorch "
                          "checkpoint: unpack it and open the model inside");
    }
    TRY(torch_check_records(torch, error));
    TRY(torch_check_order(torch, arena, error));
    TRY(lora__zip_load(
        &text, &torch->zip, record,
        lora__context_get(container->context)->limits.header_bytes, arena,
        error));
    TRY(lora__pickle_read(&pickle, arena, text, (size_t)record->bytes,
                          record->deflated ? LORA_NO_OFFSET : record->offset,
                          container->path, error));
    if (pickle.bytes != record->bytes) {
        return torch_fail_record(torch, LORA_ERROR_FORMAT, record,
                                 "more than one pickle", error);
    }
    TRY(lora__torch_declare(torch, &pickle.persistent, error));
    TRY(torch_place_storages(torch, error));
    return lora__torch_read_tree(torch, &pickle.root, error);
}

LORA_PRIVATE lora_status lora__torch_read_zip(lora__container *container,
                                              lora_error *error)
{
    return lora__torch_read(container, "torch zip", torch_read_records, error);
}
