/* Reading undo files. */
#include "op/undo_read.h"

#include "core/text.h"
#include "format/inflate.h"
#include "format/shards.h"
#include "format/sort.h"
#include "model/pipeline.h"

#include <string.h>

/* Every component may have an index and its files. */
#define UNDO_MOST_FILES ((uint64_t)LORA__PIPELINE_MAX * (LORA__SHARDS_MAX + 1))

/* Names of files: a folder and a file, of what any system has. */
#define UNDO_MOST_NAME 1024

typedef struct undo_scan {
    lora__undo_content *undo;
    const lora_limits *limits;
    uint64_t bytes; /* of the file */
    uint64_t at;    /* of the record */
    uint64_t record_count;
    uint32_t stage; /* the type of the last record */
    lora__undo_head head;
    unsigned char raw[LORA__UNDO_HEAD];
    void *payload; /* of small records, with a NUL after it */
    size_t payload_room;
    size_t adapter_count; /* of those read */
    size_t file_count;
    size_t tensor_count;
    size_t hash_count;
    unsigned char *hashed; /* by tensor */
} undo_scan;

static lora_status undo_scan_fail(const undo_scan *s,
                                  lora_status status,
                                  const char *what,
                                  lora_error *error)
{
    return lora__fail(error, status, s->at, s->undo->path, "%s", what);
}

static lora_status
undo_scan_damaged(const undo_scan *s, const char *what, lora_error *error)
{
    return undo_scan_fail(s, LORA_ERROR_FORMAT, what, error);
}

/* ---- records ----------------------------------------------------------- */

/* The payload of a small record, of at most `most` bytes, and its sum. */
static lora_status
undo_scan_load(undo_scan *s, uint64_t most, lora_error *error)
{
    const lora__undo_content *undo = s->undo;

    if (s->head.payload > most) {
        return undo_scan_damaged(s, "a record that is too long", error);
    }
    TRY(lora__grow(&s->payload, &s->payload_room, undo->context,
                   (size_t)s->head.payload + 1, 1, error));
    TRY(lora__reader_read(&undo->reader, s->at + LORA__UNDO_HEAD, s->payload,
                          s->head.payload, undo->path, error));
    ((char *)s->payload)[s->head.payload] = '\0';
    if (lora__undo_sum(s->raw, s->payload, s->head.payload) !=
        lora__undo_get_u32(s->raw + LORA__UNDO_HEAD - 4)) {
        return undo_scan_damaged(s, "a record with a wrong checksum: damaged",
                                 error);
    }
    return LORA_OK;
}

/* A count that the file may have: so many records are in it. */
static lora_status undo_scan_count(size_t *out,
                                   const undo_scan *s,
                                   uint64_t count,
                                   uint64_t most,
                                   lora_error *error)
{
    if (count > most) {
        return undo_scan_fail(s, LORA_ERROR_LIMIT, "more of them than may be",
                              error);
    }
    if (count > s->bytes / LORA__UNDO_HEAD) {
        return undo_scan_fail(s, LORA_ERROR_TRUNCATED,
                              "more records than the file has", error);
    }
    return lora__u64_to_size(count, out)
               ? LORA_OK
               : undo_scan_fail(s, LORA_ERROR_LIMIT, "too large", error);
}

static lora_status undo_scan_begin(undo_scan *s, lora_error *error)
{
    lora__undo_content *undo = s->undo;
    const unsigned char *data;
    uint32_t values[4];
    void *memory;

    TRY(undo_scan_load(s, LORA__UNDO_BEGIN_BYTES, error));
    data = s->payload;
    for (size_t i = 0; i < LORA__COUNT(values); i++) {
        values[i] = lora__undo_get_u32(data + 4 * i);
    }
    if (s->head.payload != LORA__UNDO_BEGIN_BYTES ||
        values[0] > LORA__UNDO_PREDICT || values[1] > LORA__UNDO_FOLDER ||
        values[2] > LORA_STRENGTH_INTERPOLATE || values[3] > INT32_MAX) {
        return undo_scan_damaged(s, "a mode that is not known", error);
    }
    undo->mode = (int)values[0];
    undo->layout = (int)values[1];
    undo->rule = (lora_strength_rule)values[2];
    undo->dora = (lora_dora_rule)values[3];
    TRY(undo_scan_count(&undo->file_count, s, s->head.index, UNDO_MOST_FILES,
                        error));
    TRY(undo_scan_count(&undo->tensor_count, s, s->head.offset,
                        s->limits->tensor_count, error));
    TRY(undo_scan_count(&undo->adapter_count, s, s->head.bytes, UINT32_MAX,
                        error));
    if (undo->file_count == 0 ||
        (undo->layout == LORA__UNDO_ONE_FILE && undo->file_count != 1)) {
        return undo_scan_damaged(s, "not as many files as there may be", error);
    }
    TRY(lora__arena_zeroed(&memory, &undo->arena, undo->file_count,
                           sizeof *undo->files, error));
    undo->files = memory;
    TRY(lora__arena_zeroed(&memory, &undo->arena, undo->tensor_count + 1,
                           sizeof *undo->tensors, error));
    undo->tensors = memory;
    TRY(lora__arena_zeroed(&memory, &undo->arena, undo->adapter_count + 1,
                           sizeof *undo->adapters, error));
    undo->adapters = memory;
    TRY(lora__arena_zeroed(&memory, &undo->arena, undo->tensor_count + 1, 1,
                           error));
    s->hashed = memory;
    return LORA_OK;
}

static lora_status undo_scan_adapter(undo_scan *s, lora_error *error)
{
    TRY(undo_scan_load(s, LORA__UNDO_IDENTITY, error));
    if (s->head.payload != LORA__UNDO_IDENTITY ||
        s->head.index != s->adapter_count ||
        s->adapter_count == s->undo->adapter_count) {
        return undo_scan_damaged(s, "an adapter out of order", error);
    }
    memcpy(s->undo->adapters[s->adapter_count++], s->payload,
           LORA__UNDO_IDENTITY);
    return LORA_OK;
}

/* A name that leads nowhere but to a file in a folder, or in a folder of
 * that. */
static int undo_name_is_plain(const char *name, size_t bytes)
{
    int depth = 0;

    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)name[i];
        const int first = i == 0 || name[i - 1] == '/';
        depth += c == '/';
        if (c < 0x20 || c == 0x7F || c == '\\' || c == ':' ||
            (first && (c == '.' || c == '/'))) {
            return 0;
        }
    }
    return bytes > 0 && name[bytes - 1] != '/' && depth <= 1 &&
           lora__text_is_utf8(name, bytes);
}

static lora_status undo_scan_file(undo_scan *s, lora_error *error)
{
    lora__undo_content *undo = s->undo;
    lora__undo_file_info *file;
    const char *name;

    TRY(undo_scan_load(s, UNDO_MOST_NAME, error));
    name = s->payload;
    if (s->head.index != s->file_count || s->file_count == undo->file_count) {
        return undo_scan_damaged(s, "a file out of order", error);
    }
    if (memchr(name, '\0', s->head.payload) != NULL ||
        (undo->layout == LORA__UNDO_FOLDER &&
         !undo_name_is_plain(name, s->head.payload))) {
        return undo_scan_damaged(s,
                                 "a name that is not that of a file in the "
                                 "output's folder",
                                 error);
    }
    for (size_t i = 0; i < s->file_count; i++) {
        if (strcmp(undo->files[i].name, name) == 0) {
            return undo_scan_fail(s, LORA_ERROR_DUPLICATE, "a file twice",
                                  error);
        }
    }
    file = &undo->files[s->file_count++];
    file->bytes = s->head.bytes;
    return lora__arena_string(&file->name, &undo->arena, name, s->head.payload,
                              error);
}

/* 1 if [offset, offset + bytes) is within so many bytes. */
static int undo_fits(uint64_t offset, uint64_t bytes, uint64_t of)
{
    return offset <= of && bytes <= of - offset;
}

static lora_status undo_scan_tensor(undo_scan *s, lora_error *error)
{
    lora__undo_content *undo = s->undo;
    lora__undo_tensor_info *tensor;
    const unsigned char *data;

    if (s->head.payload < LORA__UNDO_TENSOR_BYTES ||
        s->head.payload - LORA__UNDO_TENSOR_BYTES > s->limits->name_bytes) {
        return undo_scan_damaged(s, "a name that is over the limit", error);
    }
    TRY(undo_scan_load(s, UINT32_MAX, error));
    data = s->payload;
    if (s->head.index != s->tensor_count ||
        s->tensor_count == undo->tensor_count) {
        return undo_scan_damaged(s, "a tensor out of order", error);
    }
    tensor = &undo->tensors[s->tensor_count++];
    tensor->file = lora__undo_get_u32(data);
    tensor->dtype = (lora_dtype)(lora__undo_get_u32(data + 4) & INT32_MAX);
    tensor->flags = s->head.flags;
    tensor->offset = s->head.offset;
    tensor->bytes = s->head.bytes;
    tensor->name_bytes = s->head.payload - LORA__UNDO_TENSOR_BYTES;
    if (tensor->file >= undo->file_count ||
        !undo_fits(tensor->offset, tensor->bytes,
                   undo->files[tensor->file].bytes)) {
        return undo_scan_damaged(s, "a tensor that is in no file", error);
    }
    return lora__arena_string(&tensor->name, &undo->arena,
                              (const char *)data + LORA__UNDO_TENSOR_BYTES,
                              tensor->name_bytes, error);
}

static lora_status undo_scan_hash(undo_scan *s, lora_error *error)
{
    lora__undo_tensor_info *tensor;

    TRY(undo_scan_load(s, LORA__UNDO_HASH_BYTES, error));
    if (s->head.payload != LORA__UNDO_HASH_BYTES ||
        s->head.index >= s->undo->tensor_count || s->hashed[s->head.index]) {
        return undo_scan_damaged(s, "a hash of no tensor", error);
    }
    s->hashed[s->head.index] = 1;
    s->hash_count++;
    tensor = &s->undo->tensors[s->head.index];
    memcpy(tensor->before, s->payload, 32);
    memcpy(tensor->after, (const uint8_t *)s->payload + 32, 32);
    return LORA_OK;
}

/* Remember a piece; it is read when it is needed. */
static lora_status undo_scan_piece(undo_scan *s, lora_error *error)
{
    lora__undo_content *undo = s->undo;
    const lora__undo_head *head = &s->head;
    const int data = head->type == LORA__UNDO_DATA;
    const size_t owners = data ? undo->file_count : undo->tensor_count;
    size_t *count = data ? &undo->data_count : &undo->delta_count;
    size_t *capacity = data ? &undo->data_capacity : &undo->delta_capacity;
    lora__undo_piece **items = data ? &undo->data : &undo->deltas;
    lora__undo_piece *piece;
    void *memory = *items;
    uint64_t whole;

    if (head->index >= owners) {
        return undo_scan_damaged(s, "bytes of nothing", error);
    }
    whole = data ? undo->files[head->index].bytes
                 : undo->tensors[head->index].bytes;
    if (head->bytes == 0 || head->bytes > LORA__UNDO_PIECE ||
        !undo_fits(head->offset, head->bytes, whole) ||
        ((head->flags & LORA__UNDO_PACKED) != 0
             ? head->payload >= head->bytes
             : head->payload != head->bytes)) {
        return undo_scan_damaged(s, "bytes that do not fit", error);
    }
    if ((head->flags & LORA__UNDO_PREDICTED) != 0 &&
        undo->mode != LORA__UNDO_PREDICT) {
        return undo_scan_damaged(s, "a flag that cannot be", error);
    }
    if ((head->flags & LORA__UNDO_PREDICTED) != 0 &&
        (undo->tensors[head->index].flags & LORA__UNDO_BLOCKS) != 0) {
        return undo_scan_damaged(s, "predicted blocks", error);
    }
    TRY(lora__grow(&memory, capacity, undo->context, *count + 1, sizeof *piece,
                   error));
    *items = memory;
    piece = &(*items)[(*count)++];
    piece->owner = (size_t)head->index;
    piece->offset = head->offset;
    piece->at = s->at;
    piece->bytes = (uint32_t)head->bytes;
    piece->payload = head->payload;
    piece->flags = head->flags;
    return LORA_OK;
}

static lora_status undo_scan_end(undo_scan *s, lora_error *error)
{
    TRY(undo_scan_load(s, 0, error));
    if (s->head.index != s->record_count ||
        s->hash_count != s->undo->tensor_count) {
        return undo_scan_damaged(s, "records are missing", error);
    }
    return s->at + LORA__UNDO_HEAD == s->bytes
               ? LORA_OK
               : undo_scan_damaged(s, "bytes after the end", error);
}

/* ---- the order of records ---------------------------------------------- */

static uint32_t undo_flags_of(uint32_t type)
{
    switch (type) {
    case LORA__UNDO_TENSOR:
        return LORA__UNDO_BLOCKS;
    case LORA__UNDO_DATA:
        return LORA__UNDO_PACKED;
    case LORA__UNDO_DELTA:
        return LORA__UNDO_PACKED | LORA__UNDO_PREDICTED;
    default:
        return 0;
    }
}

/* Types ascend, but that DELTA and HASH are mixed, and all of a type are there
 * before the next. */
static lora_status undo_scan_order(undo_scan *s, lora_error *error)
{
    const lora__undo_content *undo = s->undo;
    const uint32_t type = s->head.type;
    const int again = type == LORA__UNDO_DELTA && s->stage == LORA__UNDO_HASH;

    if (type < LORA__UNDO_BEGIN || type > LORA__UNDO_END ||
        (s->head.flags & ~undo_flags_of(type)) != 0) {
        return undo_scan_damaged(s,
                                 "no such record is known: damaged, or of a "
                                 "later version",
                                 error);
    }
    if ((type < s->stage && !again) ||
        (type == LORA__UNDO_BEGIN) != (s->record_count == 0) ||
        (type > LORA__UNDO_ADAPTER &&
         s->adapter_count != undo->adapter_count) ||
        (type > LORA__UNDO_FILE && s->file_count != undo->file_count) ||
        (type > LORA__UNDO_TENSOR && s->tensor_count != undo->tensor_count)) {
        return undo_scan_damaged(s, "a record out of order", error);
    }
    s->stage = type;
    return LORA_OK;
}

static lora_status undo_scan_record(undo_scan *s, lora_error *error)
{
    TRY(undo_scan_order(s, error));
    switch (s->head.type) {
    case LORA__UNDO_BEGIN:
        return undo_scan_begin(s, error);
    case LORA__UNDO_ADAPTER:
        return undo_scan_adapter(s, error);
    case LORA__UNDO_FILE:
        return undo_scan_file(s, error);
    case LORA__UNDO_TENSOR:
        return undo_scan_tensor(s, error);
    case LORA__UNDO_HASH:
        return undo_scan_hash(s, error);
    case LORA__UNDO_END:
        return undo_scan_end(s, error);
    default:
        return undo_scan_piece(s, error);
    }
}

static lora_status undo_scan_run(undo_scan *s, lora_error *error)
{
    const lora__undo_content *undo = s->undo;

    while (s->stage != LORA__UNDO_END) {
        if (s->bytes - s->at < LORA__UNDO_HEAD) {
            return undo_scan_fail(s, LORA_ERROR_TRUNCATED,
                                  "the undo file ends too early: incomplete",
                                  error);
        }
        TRY(lora__reader_read(&undo->reader, s->at, s->raw, sizeof s->raw,
                              undo->path, error));
        (void)lora__undo_decode(&s->head, s->raw);
        if (s->head.payload > s->bytes - s->at - LORA__UNDO_HEAD) {
            return undo_scan_fail(s, LORA_ERROR_TRUNCATED,
                                  "the undo file ends within a record: "
                                  "incomplete, or damaged",
                                  error);
        }
        TRY(undo_scan_record(s, error));
        s->at += LORA__UNDO_HEAD + s->head.payload;
        s->record_count++;
    }
    return LORA_OK;
}

/* ---- what they say together -------------------------------------------- */

static int undo_compare_pieces(const void *a, const void *b)
{
    const lora__undo_piece *x = a;
    const lora__undo_piece *y = b;

    if (x->owner != y->owner) {
        return x->owner < y->owner ? -1 : 1;
    }
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Give tensors their deltas, of which no two may be of the same bytes. */
static lora_status undo_check_deltas(lora__undo_content *undo,
                                     lora_error *error)
{
    lora__sort(undo->deltas, undo->delta_count, sizeof *undo->deltas,
               undo_compare_pieces);
    for (size_t i = 0; i < undo->delta_count; i++) {
        const lora__undo_piece *piece = &undo->deltas[i];
        lora__undo_tensor_info *tensor = &undo->tensors[piece->owner];
        if (tensor->delta_count == 0) {
            tensor->first_delta = i;
        } else if (piece[-1].offset + piece[-1].bytes > piece->offset) {
            return lora__fail(error, LORA_ERROR_FORMAT, piece->at, undo->path,
                              "bytes of a tensor that are there twice");
        }
        tensor->delta_count++;
        tensor->predicted |= (piece->flags & LORA__UNDO_PREDICTED) != 0;
    }
    return LORA_OK;
}

typedef struct undo_stretch {
    size_t file;
    uint64_t offset;
    uint64_t bytes;
} undo_stretch;

static int undo_compare_stretches(const void *a, const void *b)
{
    const undo_stretch *x = a;
    const undo_stretch *y = b;

    if (x->file != y->file) {
        return x->file < y->file ? -1 : 1;
    }
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* All bytes of all files are told once. */
static lora_status undo_check_stretches(const lora__undo_content *undo,
                                        undo_stretch *all,
                                        size_t count,
                                        lora_error *error)
{
    size_t i = 0;

    lora__sort(all, count, sizeof *all, undo_compare_stretches);
    for (size_t f = 0; f < undo->file_count; f++) {
        uint64_t at = 0;
        for (; i < count && all[i].file == f && all[i].offset == at; i++) {
            at += all[i].bytes; /* within the file, as was checked */
        }
        if (at != undo->files[f].bytes || (i < count && all[i].file == f)) {
            return lora__fail(error, LORA_ERROR_FORMAT, LORA_NO_OFFSET,
                              undo->path,
                              "bytes of a file are missing, or there twice, at "
                              "%llu of %s",
                              (unsigned long long)at, undo->files[f].name);
        }
    }
    return LORA_OK;
}

static lora_status undo_check_files(lora__undo_content *undo, lora_error *error)
{
    size_t most;
    size_t count = 0;
    undo_stretch *all;
    void *memory;
    lora_status status;

    if (!lora__add_size(undo->tensor_count, undo->data_count, &most) ||
        !lora__add_size(most, 1, &most)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__alloc_zeroed(&memory, undo->context, most, sizeof *all, error));
    all = memory;
    for (size_t t = 0; t < undo->tensor_count; t++) {
        if (undo->tensors[t].bytes > 0) {
            all[count].file = undo->tensors[t].file;
            all[count].offset = undo->tensors[t].offset;
            all[count++].bytes = undo->tensors[t].bytes;
        }
    }
    for (size_t d = 0; d < undo->data_count; d++) {
        all[count].file = undo->data[d].owner;
        all[count].offset = undo->data[d].offset;
        all[count++].bytes = undo->data[d].bytes;
    }
    status = undo_check_stretches(undo, all, count, error);
    lora__free(undo->context, memory, most * sizeof *all, LORA__ALIGN);
    return status;
}

/* ---- opening ----------------------------------------------------------- */

static lora_status undo_load(lora__undo_content *undo, lora_error *error)
{
    unsigned char magic[LORA__UNDO_MAGIC_BYTES];
    undo_scan scan = {0};
    lora_status status;

    scan.undo = undo;
    scan.limits = &lora__context_get(undo->context)->limits;
    scan.at = LORA__UNDO_MAGIC_BYTES;
    status = undo->reader.size(undo->reader.user, &scan.bytes);
    if (status != LORA_OK) {
        return lora__fail(error, status < 0 ? status : LORA_ERROR_IO,
                          LORA_NO_OFFSET, undo->path, "its size is not known");
    }
    if (scan.bytes < sizeof magic) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, scan.bytes, undo->path,
                          "too short for an undo file");
    }
    TRY(lora__reader_read(&undo->reader, 0, magic, sizeof magic, undo->path,
                          error));
    if (memcmp(magic, LORA__UNDO_MAGIC, sizeof magic) != 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, undo->path,
                          "not an undo file");
    }
    status = undo_scan_run(&scan, error);
    lora__free(undo->context, scan.payload, scan.payload_room, LORA__ALIGN);
    TRY(status);
    TRY(undo_check_deltas(undo, error));
    return undo_check_files(undo, error);
}

LORA_PRIVATE lora_status lora__undo_open(lora__undo_content *out,
                                         lora_context *context,
                                         const lora_reader *reader,
                                         const char *path,
                                         lora_error *error)
{
    lora_status status;

    memset(out, 0, sizeof *out);
    out->context = context;
    out->reader = *reader;
    lora__arena_init(&out->arena, context);
    TRY_OR_DONE(
        lora__arena_string(&out->path, &out->arena, path, strlen(path), error));
    status = undo_load(out, error);
done:
    if (status != LORA_OK) {
        lora__undo_close(out);
    }
    return status;
}

LORA_PRIVATE void lora__undo_close(lora__undo_content *undo)
{
    if (undo->context == NULL) {
        return;
    }
    if (undo->reader.destroy != NULL) {
        undo->reader.destroy(undo->reader.user);
    }
    lora__free(undo->context, undo->data,
               undo->data_capacity * sizeof *undo->data, LORA__ALIGN);
    lora__free(undo->context, undo->deltas,
               undo->delta_capacity * sizeof *undo->deltas, LORA__ALIGN);
    lora__arena_destroy(&undo->arena);
    memset(undo, 0, sizeof *undo);
}

/* ---- pieces ------------------------------------------------------------ */

static lora_status undo_unpack(unsigned char *out,
                               const lora__undo_content *undo,
                               const lora__undo_piece *piece,
                               const unsigned char *packed,
                               lora_error *error)
{
    lora_reader reader;
    lora_error why;
    lora_status status;

    lora_error_init(&why, sizeof why);
    TRY(lora__reader_open_memory(&reader, undo->context, packed, piece->payload,
                                 error));
    status = lora__inflate(out, piece->bytes, undo->context, &reader, 0,
                           piece->payload, undo->path, &why);
    reader.destroy(reader.user);
    return status == LORA_OK ? LORA_OK
                             : lora__fail(error, status, piece->at, undo->path,
                                          "%s", why.message);
}

LORA_PRIVATE lora_status lora__undo_read_piece(unsigned char *out,
                                               const lora__undo_content *undo,
                                               const lora__undo_piece *piece,
                                               unsigned char *room,
                                               lora_error *error)
{
    const unsigned char *payload = room + LORA__UNDO_HEAD;

    TRY(lora__reader_read(&undo->reader, piece->at, room,
                          LORA__UNDO_HEAD + piece->payload, undo->path, error));
    if (lora__undo_sum(room, payload, piece->payload) !=
        lora__undo_get_u32(room + LORA__UNDO_HEAD - 4)) {
        return lora__fail(error, LORA_ERROR_FORMAT, piece->at, undo->path,
                          "a record with a wrong checksum: damaged");
    }
    if ((piece->flags & LORA__UNDO_PACKED) != 0) {
        return undo_unpack(out, undo, piece, payload, error);
    }
    memcpy(out, payload, piece->bytes);
    return LORA_OK;
}
