/* Reading GGUF, versions 2 and 3.
 *
 *   "GGUF", version u32, tensors u64, pairs u64
 *   pairs    key, type u32, value
 *   tensors  name, dimensions u32, sizes u64 ..., type u32, offset u64
 *   data     from the next multiple of "general.alignment", 32 by default
 *
 * All of it little-endian, with no alignment before the data. A string is its
 * length, u64, and UTF-8; a list is the type of its elements, u32, their
 * number, u64, and they. Sizes stand with the fastest first. A tensor begins
 * where the one before it ends, rounded up to the alignment.
 *
 * The rules are those of ggml's reader, and stricter where two readers would
 * understand differently: strings that are not UTF-8 or have a NUL in them,
 * bools other than 0 and 1, bytes after the last tensor and its padding.
 * Padding is not looked at; the alignment is limited, so that it stays small.
 *
 * Pairs become metadata: numbers as decimal text, short lists as JSON. Long
 * lists, and lists of lists, are left out: they are vocabularies of models,
 * not about adapters.
 */
#include "format/gguf.h"

#include "core/text.h"
#include "format/json.h"
#include "format/quote.h"
#include "tensor/minifloat.h"

#include <stdio.h>
#include <string.h>

enum {
    GGUF_WINDOW = 8192, /* read at a time */
    GGUF_MAX_DEPTH = 4, /* lists in lists */
    GGUF_MAX_ALIGNMENT = 65536,
    GGUF_MAX_LIST = 64,    /* elements of a list that is kept */
    GGUF_LEAST_PAIR = 14,  /* bytes: a key of one letter, a number of one */
    GGUF_LEAST_TENSOR = 24 /* bytes: no name, no dimensions */
};

/* Types of values. */
enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_LIST,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};

/* Bytes of a number; of strings and lists at least so many. */
static const unsigned char gguf_least_bytes[GGUF_TYPE_COUNT] = {
    1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

typedef struct gguf_parser {
    lora__container *container;
    const lora_limits *limits;
    uint64_t position; /* in the file, of the next byte */
    uint64_t pair_count;
    uint64_t alignment;
    uint64_t data_bytes; /* of the tensors so far, padded */
    uint64_t data_end;   /* the same without the last padding */
    lora__map keys;      /* of all pairs, also those left out */
    lora__buffer text;
    uint64_t window_begin;
    size_t window_bytes;
    unsigned char window[GGUF_WINDOW];
} gguf_parser;

static lora_status gguf_fail(const gguf_parser *p,
                             lora_status status,
                             uint64_t offset,
                             const char *what,
                             lora_error *error)
{
    return lora__fail(error, status, offset, p->container->path, "%s", what);
}

/* Refuse a tensor. */
static lora_status gguf_fail_tensor(const gguf_parser *p,
                                    lora_status status,
                                    uint64_t offset,
                                    const lora__entry *entry,
                                    const char *what,
                                    lora_error *error)
{
    return lora__fail_named(error, status, offset, p->container->path, "tensor",
                            entry->name, entry->name_bytes, what);
}

/* Bytes ---------------------------------------------------------------- */

/* See that `count` things of at least `bytes` each can follow. */
static lora_status gguf_expect(const gguf_parser *p,
                               uint64_t count,
                               uint64_t bytes,
                               lora_error *error)
{
    const lora__container *container = p->container;
    uint64_t wanted;
    uint64_t end;

    if (!lora__mul_u64(count, bytes, &wanted) ||
        !lora__add_u64(p->position, wanted, &end) ||
        end > p->limits->header_bytes) {
        return lora__fail(error, LORA_ERROR_LIMIT, p->position, container->path,
                          "its header is over the limit of %llu bytes",
                          (unsigned long long)p->limits->header_bytes);
    }
    if (end > container->file_bytes) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, container->file_bytes,
                          container->path,
                          "ends within its header, which has at least %llu "
                          "bytes: incomplete download or copy",
                          (unsigned long long)end);
    }
    return LORA_OK;
}

/* Bytes that were expected. */
static lora_status
gguf_take(gguf_parser *p, void *buffer, size_t bytes, lora_error *error)
{
    const lora__container *container = p->container;
    unsigned char *out = buffer;

    while (bytes > 0) {
        uint64_t into = p->position - p->window_begin;
        size_t step;

        if (into >= p->window_bytes) {
            uint64_t left = container->file_bytes - p->position;
            p->window_bytes = 0; /* until it is read */
            step = left < GGUF_WINDOW ? (size_t)left : GGUF_WINDOW;
            TRY(lora__reader_read(&container->reader, p->position, p->window,
                                  step, container->path, error));
            p->window_begin = p->position;
            p->window_bytes = step;
            into = 0;
        }
        step = p->window_bytes - (size_t)into;
        step = step < bytes ? step : bytes;
        memcpy(out, p->window + (size_t)into, step);
        out += step;
        bytes -= step;
        p->position += step;
    }
    return LORA_OK;
}

/* A number of 1 to 8 bytes, as bits. */
static lora_status
gguf_take_bits(uint64_t *out, gguf_parser *p, size_t bytes, lora_error *error)
{
    unsigned char raw[8];

    TRY(gguf_expect(p, 1, bytes, error));
    TRY(gguf_take(p, raw, bytes, error));
    *out = 0;
    for (size_t i = 0; i < bytes; i++) {
        *out |= (uint64_t)raw[i] << (8 * i);
    }
    return LORA_OK;
}

static lora_status
gguf_take_u32(uint32_t *out, gguf_parser *p, lora_error *error)
{
    uint64_t bits;

    TRY(gguf_take_bits(&bits, p, 4, error));
    *out = (uint32_t)bits;
    return LORA_OK;
}

/* A string, into the container's arena. */
static lora_status gguf_take_string(const char **out,
                                    size_t *out_bytes,
                                    gguf_parser *p,
                                    lora_error *error)
{
    uint64_t at = p->position;
    uint64_t length;
    size_t bytes;
    char *text;

    TRY(gguf_take_bits(&length, p, 8, error));
    TRY(gguf_expect(p, 1, length, error));
    if (!lora__u64_to_size(length, &bytes) || bytes == SIZE_MAX) {
        return lora__fail_memory(error, length);
    }
    text = lora__arena_alloc(&p->container->arena, bytes + 1);
    if (text == NULL) {
        return lora__fail_memory(error, length);
    }
    TRY(gguf_take(p, text, bytes, error));
    text[bytes] = '\0';
    if (memchr(text, '\0', bytes) != NULL) {
        return gguf_fail(p, LORA_ERROR_FORMAT, at, "a NUL in a string", error);
    }
    if (!lora__text_is_utf8(text, bytes)) {
        return gguf_fail(p, LORA_ERROR_FORMAT, at, "a string that is not UTF-8",
                         error);
    }
    *out = text;
    *out_bytes = bytes;
    return LORA_OK;
}

/* Pairs ---------------------------------------------------------------- */

static lora_status
gguf_take_type(uint32_t *out, gguf_parser *p, lora_error *error)
{
    uint64_t at = p->position;

    TRY(gguf_take_u32(out, p, error));
    return *out < GGUF_TYPE_COUNT
               ? LORA_OK
               : gguf_fail(p, LORA_ERROR_FORMAT, at,
                           "a value of a type that is not known", error);
}

static void gguf_put_float(lora__buffer *text, double value)
{
    if (value != value) {
        lora__buffer_puts(text, "nan");
    } else if (value - value != 0.0) {
        lora__buffer_puts(text, value > 0.0 ? "inf" : "-inf");
    } else {
        lora__buffer_number(text, value);
    }
}

static int64_t gguf_signed(uint64_t bits, unsigned bytes)
{
    uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    int64_t value;

    bits = (bits ^ sign) - sign; /* in 64 bits */
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Append a number or a bool to the text. */
static lora_status
gguf_put_number(gguf_parser *p, uint32_t type, lora_error *error)
{
    uint64_t at = p->position;
    unsigned bytes = gguf_least_bytes[type];
    uint64_t bits;

    TRY(gguf_take_bits(&bits, p, bytes, error));
    switch (type) {
    case GGUF_BOOL:
        if (bits > 1) {
            return gguf_fail(p, LORA_ERROR_FORMAT, at,
                             "a bool that is neither 0 nor 1", error);
        }
        lora__buffer_puts(&p->text, bits != 0 ? "true" : "false");
        return LORA_OK;
    case GGUF_F32:
        gguf_put_float(&p->text, (double)lora__f32_from_bits((uint32_t)bits));
        return LORA_OK;
    case GGUF_F64:
        gguf_put_float(&p->text, lora__f64_from_bits(bits));
        return LORA_OK;
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        lora__buffer_printf(&p->text, "%lld",
                            (long long)gguf_signed(bits, bytes));
        return LORA_OK;
    default:
        lora__buffer_printf(&p->text, "%llu", (unsigned long long)bits);
        return LORA_OK;
    }
}

/* Pass over the elements of a list. */
static lora_status gguf_skip_list(
    gguf_parser *p, uint32_t type, uint64_t count, int depth, lora_error *error)
{
    if (depth > GGUF_MAX_DEPTH) {
        return gguf_fail(p, LORA_ERROR_LIMIT, p->position,
                         "lists nested too deep", error);
    }
    TRY(gguf_expect(p, count, gguf_least_bytes[type], error));
    if (type != GGUF_STRING && type != GGUF_LIST) {
        p->position += count * gguf_least_bytes[type];
        return LORA_OK;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint32_t inner;
        uint64_t length;

        if (type == GGUF_LIST) {
            TRY(gguf_take_type(&inner, p, error));
            TRY(gguf_take_bits(&length, p, 8, error));
            TRY(gguf_skip_list(p, inner, length, depth + 1, error));
        } else {
            TRY(gguf_take_bits(&length, p, 8, error));
            TRY(gguf_expect(p, 1, length, error));
            p->position += length;
        }
    }
    return LORA_OK;
}

/* The value of a list as JSON; *out stays NULL if it is not kept. */
static lora_status
gguf_read_list(const char **out, gguf_parser *p, lora_error *error)
{
    uint32_t type;
    uint64_t count;

    TRY(gguf_take_type(&type, p, error));
    TRY(gguf_take_bits(&count, p, 8, error));
    if (type == GGUF_LIST || count > GGUF_MAX_LIST) {
        return gguf_skip_list(p, type, count, 1, error);
    }
    lora__buffer_putc(&p->text, '[');
    for (uint64_t i = 0; i < count; i++) {
        lora__buffer_puts(&p->text, i == 0 ? "" : ", ");
        if (type == GGUF_STRING) {
            const char *text;
            size_t bytes;
            TRY(gguf_take_string(&text, &bytes, p, error));
            lora__json_put_string(&p->text, text);
        } else {
            TRY(gguf_put_number(p, type, error));
        }
    }
    lora__buffer_putc(&p->text, ']');
    TRY(lora__buffer_status(&p->text, error));
    return lora__arena_string(out, &p->container->arena, p->text.data,
                              p->text.bytes, error);
}

/* The alignment, from the text of its value. */
static lora_status gguf_set_alignment(gguf_parser *p,
                                      uint32_t type,
                                      const char *value,
                                      uint64_t at,
                                      lora_error *error)
{
    size_t used;
    uint64_t number;

    if (type != GGUF_U32) {
        return gguf_fail(p, LORA_ERROR_FORMAT, at,
                         "general.alignment must be a 32-bit number", error);
    }
    number = (uint64_t)lora__text_to_double(value, strlen(value), &used);
    if (number == 0 || (number & (number - 1)) != 0) {
        return gguf_fail(p, LORA_ERROR_FORMAT, at,
                         "general.alignment is not a power of two", error);
    }
    if (number > GGUF_MAX_ALIGNMENT) {
        return gguf_fail(p, LORA_ERROR_LIMIT, at,
                         "general.alignment is over 65536", error);
    }
    p->alignment = number;
    return LORA_OK;
}

static lora_status gguf_read_pair(gguf_parser *p, lora_error *error)
{
    lora__container *container = p->container;
    lora__metadata *item = &container->metadata[container->metadata_count];
    uint64_t at = p->position;
    size_t number = p->keys.count;
    size_t existing;
    size_t bytes;
    uint32_t type;

    TRY(gguf_take_string(&item->key, &bytes, p, error));
    if (bytes == 0) {
        return gguf_fail(p, LORA_ERROR_FORMAT, at, "an empty key", error);
    }
    TRY(lora__map_add(&existing, &p->keys, item->key, bytes, number, error));
    if (existing != number) {
        return gguf_fail(p, LORA_ERROR_DUPLICATE, at,
                         "the same metadata key twice", error);
    }
    TRY(gguf_take_type(&type, p, error));
    lora__buffer_clear(&p->text);
    if (type == GGUF_STRING) {
        TRY(gguf_take_string(&item->value, &bytes, p, error));
    } else if (type == GGUF_LIST) {
        TRY(gguf_read_list(&item->value, p, error));
    } else {
        TRY(gguf_put_number(p, type, error));
        TRY(lora__buffer_status(&p->text, error));
        TRY(lora__arena_string(&item->value, &container->arena, p->text.data,
                               p->text.bytes, error));
    }
    if (strcmp(item->key, "general.alignment") == 0) {
        TRY(gguf_set_alignment(p, type, item->value, at, error));
    }
    container->metadata_count += item->value != NULL;
    return LORA_OK;
}

static lora_status gguf_read_pairs(gguf_parser *p, lora_error *error)
{
    lora__container *container = p->container;
    size_t count;
    void *memory;

    TRY(gguf_expect(p, p->pair_count, GGUF_LEAST_PAIR, error));
    if (!lora__u64_to_size(p->pair_count, &count)) {
        return lora__fail_memory(error, p->pair_count);
    }
    TRY(lora__arena_zeroed(&memory, &container->arena, count,
                           sizeof *container->metadata, error));
    container->metadata = memory;
    for (size_t i = 0; i < count; i++) {
        TRY(gguf_read_pair(p, error));
    }
    lora__metadata_sort(container->metadata, container->metadata_count);
    return LORA_OK;
}

/* Tensors -------------------------------------------------------------- */

static lora_status
gguf_read_shape(gguf_parser *p, lora__entry *entry, lora_error *error)
{
    uint64_t at = p->position;
    uint32_t count;

    TRY(gguf_take_u32(&count, p, error));
    if (count > LORA_MAX_DIMS) {
        return gguf_fail_tensor(p, LORA_ERROR_FORMAT, at, entry,
                                "more than 8 dimensions", error);
    }
    entry->ndim = (int32_t)count;
    while (count > 0) {
        uint64_t size;

        at = p->position;
        TRY(gguf_take_bits(&size, p, 8, error));
        if (size > INT64_MAX) {
            return gguf_fail_tensor(p, LORA_ERROR_FORMAT, at, entry,
                                    "dimension over 2^63-1", error);
        }
        entry->shape[--count] = (int64_t)size;
    }
    return LORA_OK;
}

static lora_status gguf_read_type(const lora__gguf_type **out,
                                  gguf_parser *p,
                                  const lora__entry *entry,
                                  lora_error *error)
{
    uint64_t at = p->position;
    char message[120];
    uint32_t id;

    TRY(gguf_take_u32(&id, p, error));
    *out = lora__gguf_type_find(id);
    if (*out != NULL && (*out)->dtype != LORA_DTYPE_NONE) {
        return LORA_OK;
    }
    if (*out == NULL) {
        snprintf(message, sizeof message,
                 "stored as type %u, which is not known", (unsigned)id);
    } else {
        snprintf(message, sizeof message,
                 "stored as %s, which is not read: make the file again as "
                 "F16 or Q8_0",
                 (*out)->name);
    }
    return gguf_fail_tensor(p, LORA_ERROR_UNSUPPORTED, at, entry, message,
                            error);
}

/* Elements, bytes as read, and *out_stored: bytes in the file. */
static const char *gguf_measure(uint64_t *out_stored,
                                lora__entry *entry,
                                const lora__gguf_type *type)
{
    const char *wrong =
        lora__safetensors_size(&entry->elements, &entry->bytes, type->dtype,
                               entry->ndim, entry->shape);

    if (wrong != NULL) {
        return wrong;
    }
    *out_stored = entry->bytes;
    if (type->decode != NULL) {
        if (entry->ndim == 0 ||
            entry->shape[entry->ndim - 1] % LORA__GGUF_BLOCK != 0) {
            return "its rows are not whole blocks";
        }
        /* At most what they become, which fitted. */
        *out_stored = entry->elements / LORA__GGUF_BLOCK * type->block_bytes;
    }
    return NULL;
}

/* Check where the data of a tensor begin, and go on behind them. */
static lora_status gguf_place(gguf_parser *p,
                              const lora__entry *entry,
                              uint64_t stored,
                              uint64_t at,
                              lora_error *error)
{
    uint64_t padded;

    if (entry->offset != p->data_bytes) {
        return gguf_fail_tensor(p, LORA_ERROR_FORMAT, at, entry,
                                entry->offset % p->alignment != 0
                                    ? "its data are not aligned"
                                : entry->offset < p->data_bytes
                                    ? "its data overlap another tensor's"
                                    : "a hole before its data",
                                error);
    }
    if (!lora__add_u64(p->data_bytes, stored, &p->data_end) ||
        !lora__add_u64(p->data_end, p->alignment - 1, &padded)) {
        return gguf_fail_tensor(p, LORA_ERROR_TRUNCATED, at, entry,
                                "more data than any file has", error);
    }
    p->data_bytes = padded - padded % p->alignment;
    return LORA_OK;
}

static lora_status gguf_read_tensor(gguf_parser *p, lora_error *error)
{
    lora__container *container = p->container;
    size_t index = container->entry_count;
    lora__entry *entry;
    const lora__gguf_type *type;
    uint64_t begin = p->position;
    uint64_t stored;
    uint64_t at;
    size_t existing;
    const char *wrong;

    TRY(lora__container_add(&entry, container, error));
    TRY(gguf_take_string(&entry->name, &entry->name_bytes, p, error));
    if (entry->name_bytes > p->limits->name_bytes) {
        return gguf_fail_tensor(p, LORA_ERROR_LIMIT, begin, entry,
                                "its name is over the limit", error);
    }
    TRY(lora__map_add(&existing, &container->by_name, entry->name,
                      entry->name_bytes, index, error));
    if (existing != index) {
        return gguf_fail_tensor(p, LORA_ERROR_DUPLICATE, begin, entry,
                                "the same name twice", error);
    }
    TRY(gguf_read_shape(p, entry, error));
    TRY(gguf_read_type(&type, p, entry, error));
    entry->dtype = type->dtype;
    wrong = gguf_measure(&stored, entry, type);
    if (wrong != NULL) {
        return gguf_fail_tensor(p, LORA_ERROR_FORMAT, begin, entry, wrong,
                                error);
    }
    at = p->position;
    TRY(gguf_take_bits(&entry->offset, p, 8, error));
    TRY(gguf_place(p, entry, stored, at, error));
    return type->decode == NULL
               ? LORA_OK
               : lora__gguf_place_blocks(entry, container, type, error);
}

static lora_status
gguf_read_tensors(gguf_parser *p, uint64_t tensor_count, lora_error *error)
{
    if (tensor_count > p->limits->tensor_count) {
        return gguf_fail(p, LORA_ERROR_LIMIT, 8, "more tensors than the limit",
                         error);
    }
    TRY(gguf_expect(p, tensor_count, GGUF_LEAST_TENSOR, error));
    for (uint64_t i = 0; i < tensor_count; i++) {
        TRY(gguf_read_tensor(p, error));
    }
    return LORA_OK;
}

/* Offsets count from the begin of the data, which now is known. */
static lora_status gguf_place_data(gguf_parser *p, lora_error *error)
{
    lora__container *container = p->container;
    uint64_t begin = p->position + p->alignment - 1; /* far below 2^64 */
    uint64_t room = 0;

    begin -= begin % p->alignment;
    if (container->file_bytes > begin) {
        room = container->file_bytes - begin;
    }
    container->data_offset = begin;
    if (p->data_end > room) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, container->file_bytes,
                          container->path,
                          "%llu of %llu bytes of data are missing: incomplete "
                          "download or copy",
                          (unsigned long long)(p->data_end - room),
                          (unsigned long long)p->data_end);
    }
    /* Not all writers pad the last tensor. */
    if (room > p->data_bytes) {
        return lora__fail(error, LORA_ERROR_FORMAT, begin + p->data_bytes,
                          container->path, "%llu bytes after the last tensor",
                          (unsigned long long)(room - p->data_bytes));
    }
    for (size_t i = 0; i < container->entry_count; i++) {
        container->entries[i].offset += begin;
    }
    return LORA_OK;
}

/* The file ------------------------------------------------------------- */

static lora_status gguf_check_version(gguf_parser *p, lora_error *error)
{
    uint32_t version;

    TRY(gguf_take_u32(&version, p, error));
    if (version == 2 || version == 3) {
        return LORA_OK;
    }
    if (version != 0 && (version & 0xFFFFu) == 0) {
        return gguf_fail(p, LORA_ERROR_FORMAT, 4,
                         "a GGUF file with big-endian numbers: make it again "
                         "as little-endian",
                         error);
    }
    if (version == 1) {
        return gguf_fail(p, LORA_ERROR_FORMAT, 4,
                         "a GGUF file of version 1, which was replaced within "
                         "days: make it again",
                         error);
    }
    return lora__fail(error, LORA_ERROR_FORMAT, 4, p->container->path,
                      "a GGUF file of version %u: 2 and 3 are known",
                      (unsigned)version);
}

static lora_status gguf_parse(gguf_parser *p, lora_error *error)
{
    uint64_t tensor_count;

    p->position = 4;
    TRY(gguf_check_version(p, error));
    TRY(gguf_take_bits(&tensor_count, p, 8, error));
    TRY(gguf_take_bits(&p->pair_count, p, 8, error));
    TRY(gguf_read_pairs(p, error));
    TRY(gguf_read_tensors(p, tensor_count, error));
    return gguf_place_data(p, error);
}

LORA_PRIVATE int lora__gguf_is(const unsigned char *head, size_t bytes)
{
    return bytes >= 4 && memcmp(head, "GGUF", 4) == 0;
}

LORA_PRIVATE lora_status lora__gguf_read(lora__container *container,
                                         lora_error *error)
{
    lora_context *context = container->context;
    gguf_parser p;
    lora_status status;

    p.container = container;
    p.limits = &lora__context_get(context)->limits;
    p.alignment = 32;
    p.data_bytes = 0;
    p.data_end = 0;
    p.window_begin = 0;
    p.window_bytes = 0;
    lora__map_init(&p.keys, context);
    lora__buffer_init(&p.text, context);
    container->format = "gguf";
    container->ones_lost = 1;
    status = gguf_parse(&p, error);
    lora__error_set_subject(error, container->path);
    lora__map_destroy(&p.keys);
    lora__buffer_destroy(&p.text);
    return status;
}
