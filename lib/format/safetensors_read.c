/* Reading the header of a safetensors file.
 *
 *   offset 0      N, 64-bit little-endian
 *   offset 8      N bytes: a JSON object, padded with spaces
 *   offset 8 + N  data, to the end of the file
 *
 * The object maps a tensor's name to {"dtype", "shape", "data_offsets"}, and
 * "__metadata__" to strings. The rules are those of the reference reader, and
 * stricter where that one lets pass what two readers would understand
 * differently: a name given twice, NUL in strings, anything but '{' first.
 *
 * The header is read once, into memory that stays: names and metadata are
 * decoded where they lie, so parsing allocates nothing per tensor, and the
 * place of a name in the file can be told from its address.
 */
#include "core/text.h"
#include "format/container.h"
#include "format/json.h"
#include "format/quote.h"
#include "format/sort.h"

#include <string.h>

/* Header, entry, and the list in it; unknown members may nest further. */
#define ST_MAX_DEPTH 8

#define ST_USUAL_ENTRY 128 /* bytes of one, with its name */
#define ST_MAX_GUESS 4096

typedef struct st_parser {
    lora__container *container;
    const lora_limits *limits;
    char *header;
    size_t header_bytes;
    lora__json json;
    lora__metadata *metadata;
    size_t metadata_count;
    size_t metadata_capacity;
    int has_metadata;
    lora_dtype dtype; /* of the last tensor: most are alike */
} st_parser;

/* Where in the file a byte of the header is. */
static uint64_t st_offset(const st_parser *p, const char *place)
{
    return 8 + (uint64_t)(place - p->header);
}

/* Refuse the whole file, at a byte of it. */
static lora_status st_fail(const st_parser *p,
                           lora_status status,
                           uint64_t offset,
                           const char *what,
                           lora_error *error)
{
    return lora__fail(error, status, offset, p->container->path, "%s", what);
}

/* Refuse a tensor. */
static lora_status st_fail_tensor(const st_parser *p,
                                  lora_status status,
                                  uint64_t offset,
                                  const char *name,
                                  const char *what,
                                  lora_error *error)
{
    return lora__fail_named(error, status, offset, p->container->path, "tensor",
                            name, strlen(name), what);
}

/* Decode a key or string where it lies. Only an escape can give a NUL. */
static lora_status st_decode(const char **out,
                             size_t *out_bytes,
                             st_parser *p,
                             const lora__json_event *event,
                             lora_error *error)
{
    char *text = p->header + (event->text - p->header);

    TRY(lora__json_decode(text, out_bytes, event, error));
    if (event->escaped && memchr(text, '\0', *out_bytes) != NULL) {
        return st_fail(p, LORA_ERROR_FORMAT, event->offset,
                       "a NUL character in a string", error);
    }
    *out = text;
    return LORA_OK;
}

/* Next event, which must be of a type. */
static lora_status st_expect(lora__json_event *out,
                             st_parser *p,
                             lora__json_type type,
                             const char *what,
                             lora_error *error)
{
    TRY(lora__json_next(out, &p->json, error));
    return out->type == type
               ? LORA_OK
               : st_fail(p, LORA_ERROR_FORMAT, out->offset, what, error);
}

/* The format has them in capitals only. */
static int st_dtype_is(lora_dtype dtype, const char *name)
{
    return dtype != LORA_DTYPE_NONE &&
           strcmp(lora_dtype_name(dtype), name) == 0;
}

static lora_status
st_read_dtype(st_parser *p, lora__entry *entry, lora_error *error)
{
    lora__json_event event;
    const char *name;
    size_t bytes;

    TRY(st_expect(&event, p, LORA__JSON_STRING, "dtype must be a string",
                  error));
    TRY(st_decode(&name, &bytes, p, &event, error));
    if (!st_dtype_is(p->dtype, name)) {
        p->dtype = lora_dtype_from_name(name);
        if (!st_dtype_is(p->dtype, name)) {
            return st_fail_tensor(p, LORA_ERROR_FORMAT, event.offset,
                                  entry->name, "unknown dtype", error);
        }
    }
    entry->dtype = p->dtype;
    return LORA_OK;
}

static lora_status
st_read_shape(st_parser *p, lora__entry *entry, lora_error *error)
{
    lora__json_event event;

    TRY(st_expect(&event, p, LORA__JSON_ARRAY_BEGIN, "shape must be a list",
                  error));
    entry->ndim = 0;
    for (;;) {
        uint64_t size;

        TRY(lora__json_next(&event, &p->json, error));
        if (event.type == LORA__JSON_ARRAY_END) {
            return LORA_OK;
        }
        TRY(lora__json_u64(&size, &event, error));
        if (size > INT64_MAX) {
            return st_fail_tensor(p, LORA_ERROR_FORMAT, event.offset,
                                  entry->name, "dimension over 2^63-1", error);
        }
        if (entry->ndim == LORA_MAX_DIMS) {
            return st_fail_tensor(p, LORA_ERROR_FORMAT, event.offset,
                                  entry->name, "more than 8 dimensions", error);
        }
        entry->shape[entry->ndim++] = (int64_t)size;
    }
}

static lora_status
st_read_offsets(st_parser *p, lora__entry *entry, lora_error *error)
{
    lora__json_event event;
    uint64_t range[2];

    TRY(st_expect(&event, p, LORA__JSON_ARRAY_BEGIN,
                  "data_offsets must be a list", error));
    for (size_t i = 0; i < 2; i++) {
        TRY(lora__json_next(&event, &p->json, error));
        TRY(lora__json_u64(&range[i], &event, error));
    }
    if (range[1] < range[0]) {
        return st_fail_tensor(p, LORA_ERROR_FORMAT, event.offset, entry->name,
                              "data ends before it begins", error);
    }
    entry->offset = range[0];
    entry->bytes = range[1] - range[0];
    return st_expect(&event, p, LORA__JSON_ARRAY_END,
                     "data_offsets must be two numbers", error);
}

LORA_PRIVATE const char *lora__safetensors_size(uint64_t *out_elements,
                                                uint64_t *out_bytes,
                                                lora_dtype dtype,
                                                int32_t ndim,
                                                const int64_t *shape)
{
    uint64_t product = 1;
    uint64_t bits;
    int empty = 0;

    if (ndim < 0 || ndim > LORA_MAX_DIMS) {
        return "more than 8 dimensions";
    }
    for (int32_t i = 0; i < ndim; i++) {
        if (shape[i] < 0) {
            return "negative dimension";
        }
        empty |= shape[i] == 0;
        if (shape[i] != 0 &&
            !lora__mul_u64(product, (uint64_t)shape[i], &product)) {
            return "the shape overflows 64 bits";
        }
    }
    if (!lora__mul_u64(product, lora_dtype_bits(dtype), &bits)) {
        return "the shape overflows 64 bits";
    }
    if (!empty && bits % 8 != 0) {
        return "its elements do not fill whole bytes";
    }
    *out_elements = empty ? 0 : product;
    *out_bytes = empty ? 0 : bits / 8;
    return NULL;
}

/* One field of an entry; each of the known ones may come once. */
static lora_status st_read_field(st_parser *p,
                                 lora__entry *entry,
                                 unsigned *seen,
                                 const lora__json_event *key,
                                 lora_error *error)
{
    static const struct {
        const char *name;
        lora_status (*read)(st_parser *p, lora__entry *, lora_error *error);
    } fields[] = {
        {"dtype", st_read_dtype},
        {"shape", st_read_shape},
        {"data_offsets", st_read_offsets},
    };
    const char *name;
    size_t bytes;

    TRY(st_decode(&name, &bytes, p, key, error));
    for (unsigned i = 0; i < LORA__COUNT(fields); i++) {
        if (strcmp(name, fields[i].name) == 0) {
            if (*seen & 1u << i) {
                return st_fail_tensor(p, LORA_ERROR_FORMAT, key->offset,
                                      entry->name, "the same field twice",
                                      error);
            }
            *seen |= 1u << i;
            return fields[i].read(p, entry, error);
        }
    }
    return lora__json_skip(&p->json, key, error);
}

/* All fields of an entry, in any order. */
static lora_status st_read_fields(st_parser *p,
                                  lora__entry *entry,
                                  const lora__json_event *key,
                                  lora_error *error)
{
    lora__json_event event;
    unsigned seen = 0;

    TRY(st_expect(&event, p, LORA__JSON_OBJECT_BEGIN,
                  "a tensor must be an object", error));
    for (;;) {
        TRY(lora__json_next(&event, &p->json, error));
        if (event.type != LORA__JSON_KEY) {
            break;
        }
        TRY(st_read_field(p, entry, &seen, &event, error));
    }
    return seen == 7
               ? LORA_OK
               : st_fail_tensor(p, LORA_ERROR_FORMAT, key->offset, entry->name,
                                "dtype, shape or data_offsets is missing",
                                error);
}

/* The usual forms -----------------------------------------------------------
 *
 * Writers have two forms of an entry between them, and most of the time to open
 * a file with thousands went into taking them apart like any JSON. What follows
 * reads these forms alone: whatever differs from them, and all that is wrong,
 * is left to st_read_fields(), which reads the entry from its start.
 */

/* What stands between the values. */
typedef struct st_form {
    const char *dtype;
    const char *shape;
    const char *offsets;
    const char *comma;
} st_form;

static const st_form st_forms[] = {
    {"{\"dtype\":\"", "\",\"shape\":[", "],\"data_offsets\":[", ","},
    {" {\"dtype\": \"", "\", \"shape\": [", "], \"data_offsets\": [", ", "},
};

/* Past that text; NULL if something else is at `at`, or if that is NULL. */
static const char *
st_pass_text(const char *at, const char *end, const char *text)
{
    size_t bytes = strlen(text);

    return at != NULL && (size_t)(end - at) >= bytes &&
                   memcmp(at, text, bytes) == 0
               ? at + bytes
               : NULL;
}

/* Past a number below 10^18, which overflows nothing. */
static const char *
st_pass_number(uint64_t *out, const char *at, const char *end)
{
    const char *begin = at;
    uint64_t value = 0;

    if (at == NULL) {
        return NULL;
    }
    end = end - at > 18 ? at + 18 : end;
    while (at < end && *at >= '0' && *at <= '9') {
        value = value * 10 + (uint64_t)(*at++ - '0');
    }
    *out = value;
    return at == begin || (*begin == '0' && at - begin > 1) ? NULL : at;
}

/* Past the name of a number type. */
static const char *
st_pass_dtype(st_parser *p, lora__entry *entry, const char *at, const char *end)
{
    size_t left = at == NULL ? 0 : (size_t)(end - at);
    char name[16];
    size_t n = 0;

    while (n < left && n < sizeof name - 1 && at[n] != '"' && at[n] != '\0') {
        name[n] = at[n];
        n++;
    }
    name[n] = '\0';
    if (!st_dtype_is(p->dtype, name)) {
        p->dtype = lora_dtype_from_name(name);
    }
    entry->dtype = p->dtype;
    return st_dtype_is(p->dtype, name) ? at + n : NULL;
}

/* Past the sizes of a shape, if it has any. */
static const char *st_pass_shape(lora__entry *entry,
                                 const st_form *form,
                                 const char *at,
                                 const char *end)
{
    const char *next = at;

    entry->ndim = 0;
    if (at == NULL || at == end || *at == ']') {
        return at;
    }
    while (next != NULL && entry->ndim < LORA_MAX_DIMS) {
        uint64_t size = 0;
        at = st_pass_number(&size, next, end);
        next = st_pass_text(at, end, form->comma);
        entry->shape[entry->ndim++] = (int64_t)size;
    }
    return at;
}

/* 1 for an entry in that form, with the reader past it. */
static int st_read_form(st_parser *p, lora__entry *entry, const st_form *form)
{
    const char *end = p->header + p->header_bytes;
    const char *at = p->header + p->json.position;
    uint64_t range[2] = {0, 0};

    at = st_pass_text(at, end, form->dtype);
    at = st_pass_dtype(p, entry, at, end);
    at = st_pass_text(at, end, form->shape);
    at = st_pass_shape(entry, form, at, end);
    at = st_pass_text(at, end, form->offsets);
    at = st_pass_number(&range[0], at, end);
    at = st_pass_text(at, end, form->comma);
    at = st_pass_number(&range[1], at, end);
    at = st_pass_text(at, end, "]}");
    if (at == NULL || range[1] < range[0]) {
        return 0;
    }
    entry->offset = range[0];
    entry->bytes = range[1] - range[0];
    lora__json_pass(&p->json, (size_t)(at - p->header));
    return 1;
}

static lora_status st_read_entry(st_parser *p,
                                 const char *name,
                                 size_t name_bytes,
                                 const lora__json_event *key,
                                 lora_error *error)
{
    lora__entry *entry;
    uint64_t bytes;
    const char *wrong;

    if (name_bytes > p->limits->name_bytes) {
        return st_fail_tensor(p, LORA_ERROR_LIMIT, key->offset, name,
                              "its name is over the limit", error);
    }
    if (p->container->entry_count >= p->limits->tensor_count) {
        return st_fail(p, LORA_ERROR_LIMIT, key->offset,
                       "more tensors than the limit", error);
    }
    TRY(lora__container_add(&entry, p->container, error));
    entry->name = name;
    entry->name_bytes = name_bytes;
    if (!st_read_form(p, entry, &st_forms[0]) &&
        !st_read_form(p, entry, &st_forms[1])) {
        TRY(st_read_fields(p, entry, key, error));
    }
    wrong = lora__safetensors_size(&entry->elements, &bytes, entry->dtype,
                                   entry->ndim, entry->shape);
    if (wrong == NULL && bytes != entry->bytes) {
        wrong = "data_offsets do not fit dtype and shape";
    }
    return wrong == NULL ? LORA_OK
                         : st_fail_tensor(p, LORA_ERROR_FORMAT, key->offset,
                                          name, wrong, error);
}

/* Sort by key, refuse a key given twice, and keep. */
static lora_status st_keep_metadata(st_parser *p, lora_error *error)
{
    lora__metadata *m = p->metadata;
    size_t count = p->metadata_count;
    void *kept;

    lora__metadata_sort(m, count);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(m[i - 1].key, m[i].key) == 0) {
            return st_fail(p, LORA_ERROR_DUPLICATE, st_offset(p, m[i].key) - 1,
                           "the same metadata key twice", error);
        }
    }
    TRY(lora__arena_zeroed(&kept, &p->container->arena, count, sizeof *m,
                           error));
    if (count > 0) {
        memcpy(kept, m, count * sizeof *m);
    }
    p->container->metadata = kept;
    p->container->metadata_count = count;
    return LORA_OK;
}

/* Strings by name, or null. */
static lora_status
st_read_metadata(st_parser *p, const lora__json_event *key, lora_error *error)
{
    lora__json_event event;
    size_t bytes;

    if (p->has_metadata) {
        return st_fail(p, LORA_ERROR_DUPLICATE, key->offset,
                       "__metadata__ twice", error);
    }
    p->has_metadata = 1;
    TRY(lora__json_next(&event, &p->json, error));
    if (event.type == LORA__JSON_NULL) {
        return LORA_OK;
    }
    if (event.type != LORA__JSON_OBJECT_BEGIN) {
        return st_fail(p, LORA_ERROR_FORMAT, event.offset,
                       "__metadata__ must be an object", error);
    }
    for (;;) {
        void *items = p->metadata;
        lora__metadata *item;

        TRY(lora__json_next(&event, &p->json, error));
        if (event.type == LORA__JSON_OBJECT_END) {
            return st_keep_metadata(p, error);
        }
        TRY(lora__grow(&items, &p->metadata_capacity, p->container->context,
                       p->metadata_count + 1, sizeof *item, error));
        p->metadata = items;
        item = &p->metadata[p->metadata_count++];
        TRY(st_decode(&item->key, &bytes, p, &event, error));
        TRY(st_expect(&event, p, LORA__JSON_STRING,
                      "a metadata value must be a string", error));
        TRY(st_decode(&item->value, &bytes, p, &event, error));
    }
}

static lora_status st_parse(st_parser *p, lora_error *error)
{
    lora__json_event event;

    lora__json_init(&p->json, p->header, p->header_bytes, 8, ST_MAX_DEPTH);
    TRY(st_expect(&event, p, LORA__JSON_OBJECT_BEGIN,
                  "the header must be a JSON object", error));
    for (;;) {
        const char *name;
        size_t bytes;

        TRY(lora__json_next(&event, &p->json, error));
        if (event.type == LORA__JSON_OBJECT_END) {
            break;
        }
        TRY(st_decode(&name, &bytes, p, &event, error));
        if (strcmp(name, "__metadata__") == 0) {
            TRY(st_read_metadata(p, &event, error));
        } else {
            TRY(st_read_entry(p, name, bytes, &event, error));
        }
    }
    for (size_t i = p->json.position; i < p->header_bytes; i++) {
        if (p->header[i] != ' ') {
            return st_fail(p, LORA_ERROR_FORMAT, 8 + (uint64_t)i,
                           "only spaces may follow the header's object", error);
        }
    }
    return LORA_OK;
}

/* By data; empty tensors come before what begins at the same byte. Names lie in
 * the header, in its order. */
static int st_compare_entries(const void *a, const void *b)
{
    const lora__entry *x = a;
    const lora__entry *y = b;

    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? -1 : 1;
    }
    return (x->name > y->name) - (x->name < y->name);
}

/* Order the entries by their data, and count offsets from the begin of the
 * file instead of the data. */
static void st_place_entries(lora__container *container)
{
    lora__sort(container->entries, container->entry_count,
               sizeof *container->entries, st_compare_entries);
    for (size_t i = 0; i < container->entry_count; i++) {
        container->entries[i].offset += container->data_offset;
    }
}

/* Refuse a name given twice, and let names be looked up. */
static lora_status st_index_names(st_parser *p, lora_error *error)
{
    lora__container *container = p->container;

    TRY(lora__map_reserve(&container->by_name, container->entry_count, error));
    for (size_t i = 0; i < container->entry_count; i++) {
        const lora__entry *entry = &container->entries[i];
        size_t existing;

        TRY(lora__map_add(&existing, &container->by_name, entry->name,
                          entry->name_bytes, i, error));
        if (existing != i) {
            const char *other = container->entries[existing].name;
            return st_fail_tensor(
                p, LORA_ERROR_DUPLICATE,
                st_offset(p, other > entry->name ? other : entry->name) - 1,
                entry->name, "the same name twice", error);
        }
    }
    return LORA_OK;
}

/* The data must be covered without holes or overlaps, to the end of the file:
 * bytes that no tensor owns could hide anything, and two tensors that share
 * bytes are no copy of what was saved. */
static lora_status st_check_data(const st_parser *p, lora_error *error)
{
    const lora__container *container = p->container;
    uint64_t room = container->file_bytes - container->data_offset;
    uint64_t at = 0; /* as in data_offsets: from the begin of the data */

    for (size_t i = 0; i < container->entry_count; i++) {
        const lora__entry *entry = &container->entries[i];
        uint64_t begin = entry->offset - container->data_offset;

        if (begin != at) {
            return st_fail_tensor(p, LORA_ERROR_FORMAT,
                                  st_offset(p, entry->name) - 1, entry->name,
                                  begin > at
                                      ? "a hole before its data"
                                      : "its data overlap another tensor's",
                                  error);
        }
        at += entry->bytes; /* its data_offsets' end, which fitted */
    }
    if (at > room) {
        return lora__fail(
            error, LORA_ERROR_TRUNCATED, container->file_bytes, container->path,
            "%llu of %llu bytes of data are missing: incomplete "
            "download or copy",
            (unsigned long long)(at - room), (unsigned long long)at);
    }
    if (at < room) {
        return lora__fail(error, LORA_ERROR_FORMAT, container->data_offset + at,
                          container->path, "%llu bytes after the last tensor",
                          (unsigned long long)(room - at));
    }
    return LORA_OK;
}

/* Read the header's text into the container's arena. */
static lora_status
st_load(st_parser *p, const unsigned char *head, lora_error *error)
{
    lora__container *container = p->container;
    uint64_t length = 0;

    for (unsigned i = 0; i < 8; i++) {
        length |= (uint64_t)head[i] << (8 * i);
    }
    if (length > p->limits->header_bytes || length > SIZE_MAX - 1) {
        return lora__fail(error, LORA_ERROR_LIMIT, 0, container->path,
                          "a header of %llu bytes, over the limit of %llu",
                          (unsigned long long)length,
                          (unsigned long long)p->limits->header_bytes);
    }
    if (length > container->file_bytes - 8) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, container->file_bytes,
                          container->path,
                          "ends within its header of %llu "
                          "bytes: incomplete download or copy",
                          (unsigned long long)length);
    }
    if (length == 0) {
        return st_fail(p, LORA_ERROR_FORMAT, 0, "an empty header", error);
    }
    p->header_bytes = (size_t)length;
    p->header = lora__arena_alloc(&container->arena, p->header_bytes);
    if (p->header == NULL) {
        return lora__fail_memory(error, length);
    }
    TRY(lora__reader_read(&container->reader, 8, p->header, p->header_bytes,
                          container->path, error));
    if (p->header[0] != '{') {
        return st_fail(p, LORA_ERROR_FORMAT, 8,
                       "not a safetensors file: its header must begin with {",
                       error);
    }
    container->data_offset = 8 + length;
    return LORA_OK;
}

/* Entries that a header of this length is likely to have, so that they need not
 * move; few enough to cost nothing where it has not. */
static size_t st_guess_count(const st_parser *p)
{
    size_t count = p->header_bytes / ST_USUAL_ENTRY;

    return count < ST_MAX_GUESS ? count : ST_MAX_GUESS;
}

LORA_PRIVATE lora_status lora__safetensors_read(lora__container *container,
                                                const unsigned char *head,
                                                lora_error *error)
{
    st_parser p;
    lora_context *context = container->context;
    lora_status status;

    memset(&p, 0, sizeof p);
    p.container = container;
    p.limits = &lora__context_get(context)->limits;
    TRY_OR_DONE(st_load(&p, head, error));
    TRY_OR_DONE(lora__container_reserve(container, st_guess_count(&p), error));
    TRY_OR_DONE(st_parse(&p, error));
    st_place_entries(container);
    TRY_OR_DONE(st_index_names(&p, error));
    TRY_OR_DONE(st_check_data(&p, error));
done:
    lora__error_set_subject(error, container->path);
    lora__free(context, p.metadata, p.metadata_capacity * sizeof *p.metadata,
               LORA__ALIGN);
    return status;
}
