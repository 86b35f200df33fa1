/* Writing safetensors files, byte for byte as the reference writer does:
 * compact JSON, metadata first, tensors by dtype from the highest to the
 * lowest and then by name, the header padded with spaces to a multiple of 8.
 * Large types come first, so every tensor is aligned to its element size. The
 * one thing the reference leaves to chance, the order of metadata, is by key.
 */
#include "format/container.h"
#include "format/json.h"
#include "format/sort.h"

#include "core/text.h"

#include <inttypes.h>
#include <string.h>

static int st_compare_tensors(const void *a, const void *b)
{
    const lora__out_tensor *x = a;
    const lora__out_tensor *y = b;

    if (x->dtype != y->dtype) {
        return x->dtype > y->dtype ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static int st_compare_keys(const void *a, const void *b)
{
    const lora__metadata *x = a;
    const lora__metadata *y = b;

    return strcmp(x->key, y->key);
}

static lora_status st_check_name(lora__map *names,
                                 const lora__out_tensor *tensor,
                                 lora_error *error)
{
    const char *name = tensor->name;
    size_t bytes = strlen(name);
    size_t count = names->count;
    size_t existing;

    if (!lora__text_is_utf8(name, bytes)) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, name,
                          "a tensor name that is not UTF-8");
    }
    if (strcmp(name, "__metadata__") == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, name,
                          "no tensor can have this name");
    }
    TRY(lora__map_add(&existing, names, name, bytes, count, error));
    if (existing != count) {
        return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, name,
                          "two tensors with this name");
    }
    return LORA_OK;
}

/* What is written must be what a reader accepts. */
static lora_status st_check_tensors(lora_context *context,
                                    const lora__out_tensor *tensors,
                                    size_t count,
                                    lora_error *error)
{
    lora__map names;
    lora_status status = LORA_OK;

    lora__map_init(&names, context);
    for (size_t i = 0; i < count; i++) {
        const lora__out_tensor *t = &tensors[i];
        uint64_t elements, bytes;
        const char *wrong = lora__safetensors_size(&elements, &bytes, t->dtype,
                                                   t->ndim, t->shape);

        if (wrong == NULL && lora_dtype_bits(t->dtype) == 0) {
            wrong = "no such dtype";
        } else if (wrong == NULL && bytes != t->bytes) {
            wrong = "its bytes do not fit dtype and shape";
        }
        if (wrong != NULL) {
            status = lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                                t->name, "%s", wrong);
            goto done;
        }
        TRY_OR_DONE(st_check_name(&names, t, error));
    }
done:
    lora__map_destroy(&names);
    return status;
}

/* "__metadata__":{...}, or nothing. */
static lora_status st_put_metadata(lora__buffer *out,
                                   const lora__metadata *metadata,
                                   size_t count,
                                   lora_error *error)
{
    void *memory;
    lora__metadata *sorted;
    lora_status status = LORA_OK;

    if (metadata == NULL) {
        return LORA_OK;
    }
    TRY(lora__alloc_zeroed(&memory, out->context, count, sizeof *sorted,
                           error));
    sorted = memory;
    if (count > 0) {
        memcpy(sorted, metadata, count * sizeof *sorted);
    }
    lora__sort(sorted, count, sizeof *sorted, st_compare_keys);
    lora__json_put_key(out, "__metadata__");
    lora__buffer_putc(out, '{');
    for (size_t i = 0; i < count; i++) {
        const lora__metadata *m = &sorted[i];

        if (i > 0 && strcmp(m[-1].key, m->key) == 0) {
            status = lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET,
                                m->key, "the same metadata key twice");
            goto done;
        }
        if (!lora__text_is_utf8(m->key, strlen(m->key)) ||
            !lora__text_is_utf8(m->value, strlen(m->value))) {
            status = lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, m->key,
                                "metadata that is not UTF-8");
            goto done;
        }
        lora__json_put_key(out, m->key);
        lora__json_put_string(out, m->value);
    }
    lora__buffer_putc(out, '}');
done:
    lora__free(out->context, sorted, count * sizeof *sorted, LORA__ALIGN);
    return status;
}

static void
st_put_tensor(lora__buffer *out, const lora__out_tensor *t, uint64_t begin)
{
    lora__json_put_key(out, t->name);
    lora__buffer_printf(out, "{\"dtype\":\"%s\",\"shape\":[",
                        lora_dtype_name(t->dtype));
    for (int32_t i = 0; i < t->ndim; i++) {
        lora__buffer_printf(out, "%s%" PRId64, i > 0 ? "," : "", t->shape[i]);
    }
    lora__buffer_printf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                        begin, begin + t->bytes);
}

LORA_PRIVATE lora_status
lora__safetensors_list(lora__out_tensor **out,
                       lora__arena *arena,
                       const lora__container *container,
                       lora_error *error)
{
    lora__out_tensor *list;
    void *memory;

    TRY(lora__arena_zeroed(&memory, arena, container->entry_count, sizeof *list,
                           error));
    list = memory;
    for (size_t i = 0; i < container->entry_count; i++) {
        const lora__entry *entry = &container->entries[i];
        list[i].name = entry->name;
        list[i].dtype = entry->dtype;
        list[i].ndim = entry->ndim;
        memcpy(list[i].shape, entry->shape, sizeof list[i].shape);
        list[i].bytes = entry->bytes;
        list[i].id = i;
    }
    *out = list;
    return LORA_OK;
}

LORA_PRIVATE void lora__safetensors_sort(lora__out_tensor *tensors,
                                         size_t count)
{
    lora__sort(tensors, count, sizeof *tensors, st_compare_tensors);
}

LORA_PRIVATE lora_status
lora__safetensors_put_header(lora__buffer *out,
                             uint64_t *out_data_bytes,
                             const lora__out_tensor *tensors,
                             size_t count,
                             const lora__metadata *metadata,
                             size_t metadata_count,
                             uint64_t least_bytes,
                             lora_error *error)
{
    uint64_t end = 0;
    uint64_t length;

    TRY(st_check_tensors(out->context, tensors, count, error));
    lora__buffer_append(out, "\0\0\0\0\0\0\0", 8);
    lora__buffer_putc(out, '{');
    TRY(st_put_metadata(out, metadata, metadata_count, error));
    for (size_t i = 0; i < count; i++) {
        uint64_t begin = end;
        if (!lora__add_u64(begin, tensors[i].bytes, &end)) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              tensors[i].name, "the file overflows 64 bits");
        }
        st_put_tensor(out, &tensors[i], begin);
    }
    lora__buffer_putc(out, '}');
    TRY(lora__buffer_status(out, error));
    length = out->bytes - 8;
    length = length <= least_bytes ? least_bytes : (length + 7) / 8 * 8;
    if (length > LORA__SAFETENSORS_MAX_HEADER) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, NULL,
                          "a header of %llu bytes, over the format's limit",
                          (unsigned long long)length);
    }
    while (out->bytes - 8 < length && !out->failed) {
        lora__buffer_putc(out, ' ');
    }
    TRY(lora__buffer_status(out, error));
    for (size_t i = 0; i < 8; i++) {
        out->data[i] = (char)(unsigned char)(length >> (8 * i));
    }
    *out_data_bytes = end;
    return LORA_OK;
}

/* The header of a file as this writer makes it: sorted, and without metadata
 * where there are none. */
static lora_status st_put_own_header(lora__buffer *out,
                                     uint64_t *out_data_bytes,
                                     lora__out_tensor *tensors,
                                     size_t count,
                                     const lora__metadata *metadata,
                                     size_t metadata_count,
                                     lora_error *error)
{
    lora__safetensors_sort(tensors, count);
    return lora__safetensors_put_header(out, out_data_bytes, tensors, count,
                                        metadata_count > 0 ? metadata : NULL,
                                        metadata_count, 0, error);
}

typedef struct st_sink {
    const lora_writer *writer;
    const lora__out_tensor *tensor;
    uint64_t left;
} st_sink;

static lora_status
st_sink_put(void *user, const void *data, size_t bytes, lora_error *error)
{
    st_sink *sink = user;

    if (bytes > sink->left) {
        return lora__fail(error, LORA_ERROR_INTERNAL, LORA_NO_OFFSET,
                          sink->tensor->name, "more bytes than announced");
    }
    sink->left -= bytes;
    return bytes == 0 ? LORA_OK
                      : lora__writer_write(sink->writer, data, bytes, error);
}

LORA_PRIVATE lora_status lora__safetensors_write(lora_context *context,
                                                 const lora_writer *writer,
                                                 lora__out_tensor *tensors,
                                                 size_t count,
                                                 const lora__metadata *metadata,
                                                 size_t metadata_count,
                                                 lora__produce_fn produce,
                                                 void *user,
                                                 lora_error *error)
{
    lora__buffer header;
    uint64_t data_bytes;
    lora_status status;

    lora__buffer_init(&header, context);
    TRY_OR_DONE(st_put_own_header(&header, &data_bytes, tensors, count,
                                  metadata, metadata_count, error));
    TRY_OR_DONE(lora__writer_write(writer, header.data, header.bytes, error));
    for (size_t i = 0; i < count; i++) {
        st_sink sink = {writer, &tensors[i], tensors[i].bytes};

        TRY_OR_DONE(produce(user, tensors[i].id, st_sink_put, &sink, error));
        if (sink.left != 0) {
            status = lora__fail(error, LORA_ERROR_INTERNAL, LORA_NO_OFFSET,
                                tensors[i].name, "fewer bytes than announced");
            goto done;
        }
    }
done:
    lora__buffer_destroy(&header);
    if (status != LORA_OK) {
        lora__writer_abort(writer);
        return status;
    }
    return lora__writer_finish(writer, error);
}

LORA_PRIVATE lora_status
lora__safetensors_measure(uint64_t *out_bytes,
                          lora_context *context,
                          lora__out_tensor *tensors,
                          size_t count,
                          const lora__metadata *metadata,
                          size_t metadata_count,
                          lora_error *error)
{
    lora__buffer header;
    uint64_t data_bytes = 0;
    uint64_t total = 0;
    lora_status status;

    lora__buffer_init(&header, context);
    TRY_OR_DONE(st_put_own_header(&header, &data_bytes, tensors, count,
                                  metadata, metadata_count, error));
    if (!lora__add_u64(header.bytes, data_bytes, &total)) {
        status = lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
                            "the file overflows 64 bits");
        goto done;
    }
    *out_bytes = total;
done:
    lora__buffer_destroy(&header);
    return status;
}
