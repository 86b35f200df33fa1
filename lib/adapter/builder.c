/* Builders: tensors and metadata on their way to become an adapter.
 *
 * A removed item stays in its place as a mark, so that indices hold.
 */
#include "adapter/builder.h"

#include "adapter/config.h"
#include "core/text.h"
#include "format/sort.h"

#include <string.h>

typedef struct builder_item {
    lora__entry entry;
    int removed;
} builder_item;

typedef struct builder_pair {
    const char *key;
    const char *value; /* NULL: removed */
} builder_pair;

struct lora_builder {
    lora_context *context;
    lora__arena arena; /* names and metadata */
    builder_item *items;
    size_t item_count;
    size_t item_capacity;
    lora__map item_index;
    builder_pair *pairs;
    size_t pair_count;
    size_t pair_capacity;
    lora__map pair_index;
};

static void builder_drop_item(lora_builder *b, builder_item *item)
{
    if (!item->removed) {
        lora__entry_release(&item->entry, b->context);
        item->removed = 1;
    }
}

/* Back to empty. */
static void builder_reset(lora_builder *b)
{
    lora_context *context = b->context;

    for (size_t i = 0; i < b->item_count; i++) {
        builder_drop_item(b, &b->items[i]);
    }
    lora__free(context, b->items, b->item_capacity * sizeof *b->items,
               LORA__ALIGN);
    lora__free(context, b->pairs, b->pair_capacity * sizeof *b->pairs,
               LORA__ALIGN);
    lora__map_destroy(&b->item_index);
    lora__map_destroy(&b->pair_index);
    lora__arena_destroy(&b->arena);
    memset(b, 0, sizeof *b);
    b->context = context;
    lora__arena_init(&b->arena, context);
    lora__map_init(&b->item_index, context);
    lora__map_init(&b->pair_index, context);
}

/* The place for a new tensor: fails where the name is taken or unfit. */
static lora_status builder_add(builder_item **out,
                               lora_builder *b,
                               const char *name,
                               lora_error *error)
{
    size_t bytes = strlen(name);
    const char *copy;
    size_t place;
    void *items = b->items;

    if (!lora__text_is_utf8(name, bytes) || strcmp(name, "__metadata__") == 0) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, name,
                          "not a name for a tensor");
    }
    TRY(lora__grow(&items, &b->item_capacity, b->context, b->item_count + 1,
                   sizeof *b->items, error));
    b->items = items;
    TRY(lora__arena_string(&copy, &b->arena, name, bytes, error));
    TRY(lora__map_add(&place, &b->item_index, copy, bytes, b->item_count,
                      error));
    if (place == b->item_count) {
        b->item_count++;
    } else if (!b->items[place].removed) {
        return lora__fail(error, LORA_ERROR_DUPLICATE, LORA_NO_OFFSET, name,
                          "two tensors of one name");
    }
    memset(&b->items[place], 0, sizeof *b->items);
    b->items[place].removed = 1; /* until it is filled in */
    b->items[place].entry.name = copy;
    b->items[place].entry.name_bytes = bytes;
    *out = &b->items[place];
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__builder_add_derived(lora_builder *builder,
                                                   const char *name,
                                                   lora__container *container,
                                                   size_t index,
                                                   int32_t ndim,
                                                   const int64_t *shape,
                                                   lora_dtype dtype,
                                                   lora__derive_fn derive,
                                                   double factor,
                                                   lora_error *error)
{
    const lora__entry *seen = &container->entries[index];
    const lora__entry *source = seen;
    builder_item *item;
    lora__entry *entry;

    /* Straight to where the bytes are: chains of results would keep each
     * other alive. */
    while (source->parent != NULL && source->derive == NULL) {
        container = source->parent;
        index = source->parent_index;
        source = &container->entries[index];
    }
    TRY(builder_add(&item, builder, name, error));
    entry = &item->entry;
    entry->dtype = dtype;
    entry->ndim = ndim >= 0 ? ndim : seen->ndim;
    memcpy(entry->shape, ndim >= 0 ? shape : seen->shape, sizeof entry->shape);
    entry->elements = source->elements;
    entry->bytes = derive == NULL
                       ? source->bytes
                       : source->elements * (lora_dtype_bits(dtype) / 8);
    entry->parent = container;
    entry->parent_index = index;
    entry->derive = derive;
    entry->factor = factor;
    lora__container_retain(container);
    item->removed = 0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__builder_add_entry(lora_builder *builder,
                                                 const char *name,
                                                 lora__container *container,
                                                 size_t index,
                                                 int32_t ndim,
                                                 const int64_t *shape,
                                                 lora_error *error)
{
    return lora__builder_add_derived(builder, name, container, index, ndim,
                                     shape, container->entries[index].dtype,
                                     NULL, 1.0, error);
}

LORA_PRIVATE lora_status lora__builder_add_made(lora_builder *builder,
                                                const char *name,
                                                lora__container *container,
                                                int32_t ndim,
                                                const int64_t *shape,
                                                lora_dtype dtype,
                                                lora__derive_fn derive,
                                                void *source,
                                                size_t source_bytes,
                                                lora_error *error)
{
    uint64_t elements;
    uint64_t bytes;
    builder_item *item;
    lora_status status;

    if (lora__safetensors_size(&elements, &bytes, dtype, ndim, shape) != NULL) {
        status = lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, name,
                            "the result would be too large");
    } else {
        status = builder_add(&item, builder, name, error);
    }
    if (status != LORA_OK) {
        lora__free(builder->context, source, source_bytes, LORA__ALIGN);
        return status;
    }
    item->entry.dtype = dtype;
    item->entry.ndim = ndim;
    memcpy(item->entry.shape, shape, (size_t)ndim * sizeof *shape);
    item->entry.bytes = bytes;
    item->entry.elements = elements;
    item->entry.parent = container;
    item->entry.derive = derive;
    item->entry.source = source;
    item->entry.source_bytes = source_bytes;
    lora__container_retain(container);
    item->removed = 0;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__builder_adopt(lora_builder *builder,
                                             const char *name,
                                             lora_dtype dtype,
                                             int32_t ndim,
                                             const int64_t *shape,
                                             void *data,
                                             lora_error *error)
{
    uint64_t elements;
    uint64_t bytes;
    builder_item *item;
    lora_status status;

    if (lora__safetensors_size(&elements, &bytes, dtype, ndim, shape) != NULL) {
        bytes = 0;
        status = lora__fail(error, LORA_ERROR_INTERNAL, LORA_NO_OFFSET, name,
                            "a result without a size");
    } else {
        status = builder_add(&item, builder, name, error);
    }
    if (status != LORA_OK) {
        lora__free(builder->context, data, (size_t)bytes, LORA__ALIGN_NUMERIC);
        return status;
    }
    if (bytes == 0) { /* nothing to own */
        lora__free(builder->context, data, 0, LORA__ALIGN_NUMERIC);
        data = NULL;
    }
    item->entry.dtype = dtype;
    item->entry.ndim = ndim;
    if (ndim > 0) { /* a scalar's may be NULL */
        memcpy(item->entry.shape, shape, (size_t)ndim * sizeof *shape);
    }
    item->entry.bytes = bytes;
    item->entry.elements = elements;
    item->entry.data = data;
    item->entry.owned_bytes = (size_t)bytes;
    item->removed = 0;
    return LORA_OK;
}

LORA_PRIVATE const char *lora__builder_metadata(const lora_builder *builder,
                                                const char *key)
{
    size_t i;

    return lora__map_find(&i, &builder->pair_index, key, strlen(key))
               ? builder->pairs[i].value
               : NULL;
}

static lora_status builder_set_pair(lora_builder *b,
                                    const char *key,
                                    const char *value,
                                    lora_error *error)
{
    size_t bytes = strlen(key);
    size_t place;
    void *pairs = b->pairs;

    TRY(lora__grow(&pairs, &b->pair_capacity, b->context, b->pair_count + 1,
                   sizeof *b->pairs, error));
    b->pairs = pairs;
    TRY(lora__arena_string(&key, &b->arena, key, bytes, error));
    if (value != NULL) {
        TRY(lora__arena_string(&value, &b->arena, value, strlen(value), error));
    }
    TRY(lora__map_add(&place, &b->pair_index, key, bytes, b->pair_count,
                      error));
    if (place == b->pair_count) {
        b->pairs[place].key = key;
        b->pair_count++;
    }
    b->pairs[place].value = value;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__builder_copy_metadata(lora_builder *builder,
                                                     const lora_adapter *source,
                                                     lora_error *error)
{
    const lora__metadata *metadata;
    size_t count;

    TRY(lora__adapter_metadata(&metadata, &count, source, &builder->arena,
                               error));
    for (size_t i = 0; i < count; i++) {
        TRY(builder_set_pair(builder, metadata[i].key, metadata[i].value,
                             error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_builder_create(lora_builder **out,
                                         lora_context *context,
                                         const lora_adapter *source,
                                         lora_error *error)
{
    lora_builder *b;
    void *memory;
    lora_status status = LORA_OK;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *b, error));
    b = memory;
    b->context = lora_context_retain(context);
    builder_reset(b);
    for (size_t i = 0; source != NULL && i < source->container->entry_count;
         i++) {
        TRY_OR_DONE(
            lora__builder_add_entry(b, source->container->entries[i].name,
                                    source->container, i, -1, NULL, error));
    }
    if (source != NULL) {
        TRY_OR_DONE(lora__builder_copy_metadata(b, source, error));
    }
    *out = b;
    b = NULL;
done:
    lora_builder_destroy(b);
    return status;
}

LORA_API lora_status lora_builder_add_tensor(lora_builder *builder,
                                             const char *name,
                                             const lora_tensor *tensor,
                                             lora_error *error)
{
    uint64_t elements;
    uint64_t bytes;
    const char *wrong;
    size_t size;
    void *data;

    lora__error_begin(error);
    CHECK_ARG(builder != NULL, error);
    CHECK_ARG(name != NULL, error);
    CHECK_ARG(tensor != NULL, error);
    if (lora_dtype_bits(tensor->dtype) == 0) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, name,
                          "no such number type");
    }
    wrong = lora__safetensors_size(&elements, &bytes, tensor->dtype,
                                   tensor->ndim, tensor->shape);
    if (wrong != NULL || bytes != tensor->bytes) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, name, "%s",
                          wrong != NULL ? wrong
                                        : "the data has not the size of the "
                                          "shape");
    }
    CHECK_ARG(tensor->data != NULL || bytes == 0, error);
    if (!lora__u64_to_size(bytes, &size)) {
        return lora__fail_memory(error, bytes);
    }
    data = lora__alloc(builder->context, size, LORA__ALIGN_NUMERIC);
    if (data == NULL) {
        return lora__fail_memory(error, bytes);
    }
    if (bytes != 0) {
        memcpy(data, tensor->data, (size_t)bytes);
    }
    return lora__builder_adopt(builder, name, tensor->dtype, tensor->ndim,
                               tensor->shape, data, error);
}

LORA_API lora_status lora_builder_remove_tensor(lora_builder *builder,
                                                const char *name,
                                                lora_error *error)
{
    size_t i;

    lora__error_begin(error);
    CHECK_ARG(builder != NULL, error);
    CHECK_ARG(name != NULL, error);
    if (!lora__map_find(&i, &builder->item_index, name, strlen(name)) ||
        builder->items[i].removed) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, name,
                          "no such tensor");
    }
    builder_drop_item(builder, &builder->items[i]);
    return LORA_OK;
}

LORA_API lora_status lora_builder_set_metadata(lora_builder *builder,
                                               const char *key,
                                               const char *value,
                                               lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(builder != NULL, error);
    if (key == NULL) {
        for (size_t i = 0; i < builder->pair_count; i++) {
            builder->pairs[i].value = NULL;
        }
        return LORA_OK;
    }
    if (!lora__text_is_utf8(key, strlen(key)) ||
        (value != NULL && !lora__text_is_utf8(value, strlen(value)))) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, key,
                          "metadata is not UTF-8");
    }
    return builder_set_pair(builder, key, value, error);
}

/* The order in which a file has them. */
static int builder_compare_entries(const void *a, const void *b)
{
    const lora__entry *x = a;
    const lora__entry *y = b;

    return x->dtype != y->dtype ? (x->dtype < y->dtype ? 1 : -1)
                                : strcmp(x->name, y->name);
}

/* Hand the tensors over: each either moves whole or stays. */
static lora_status builder_move_entries(lora__container *container,
                                        lora_builder *b,
                                        lora_error *error)
{
    size_t seen;

    for (size_t i = 0; i < b->item_count; i++) {
        builder_item *item = &b->items[i];
        lora__entry *entry;
        const char *name;
        if (item->removed) {
            continue;
        }
        TRY(lora__container_add(&entry, container, error));
        TRY(lora__arena_string(&name, &container->arena, item->entry.name,
                               item->entry.name_bytes, error));
        *entry = item->entry;
        entry->name = name;
        item->removed = 1; /* the entry owns it now */
    }
    lora__sort(container->entries, container->entry_count,
               sizeof *container->entries, builder_compare_entries);
    for (size_t i = 0; i < container->entry_count; i++) {
        TRY(lora__map_add(&seen, &container->by_name,
                          container->entries[i].name,
                          container->entries[i].name_bytes, i, error));
    }
    return LORA_OK;
}

static lora_status builder_move_metadata(lora__container *container,
                                         const lora_builder *b,
                                         lora_error *error)
{
    void *memory;

    TRY(lora__arena_zeroed(&memory, &container->arena, b->pair_count,
                           sizeof *container->metadata, error));
    container->metadata = memory;
    for (size_t i = 0; i < b->pair_count; i++) {
        const builder_pair *pair = &b->pairs[i];
        lora__metadata *to = &container->metadata[container->metadata_count];
        if (pair->value == NULL) {
            continue;
        }
        TRY(lora__arena_string(&to->key, &container->arena, pair->key,
                               strlen(pair->key), error));
        TRY(lora__arena_string(&to->value, &container->arena, pair->value,
                               strlen(pair->value), error));
        container->metadata_count++;
    }
    lora__metadata_sort(container->metadata, container->metadata_count);
    return LORA_OK;
}

LORA_API lora_status lora_builder_finish(lora_adapter **out,
                                         lora_builder *builder,
                                         lora_error *error)
{
    lora__container *container = NULL;
    uint64_t limit;
    uint64_t count = 0;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(builder != NULL, error);
    limit = lora__context_get(builder->context)->limits.tensor_count;
    for (size_t i = 0; i < builder->item_count; i++) {
        count += !builder->items[i].removed;
    }
    if (count > limit) {
        status =
            lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, NULL,
                       "%llu tensors, over the limit of %llu",
                       (unsigned long long)count, (unsigned long long)limit);
        goto done;
    }
    TRY_OR_DONE(lora__container_create(&container, builder->context, "memory",
                                       "", error));
    TRY_OR_DONE(builder_move_entries(container, builder, error));
    TRY_OR_DONE(builder_move_metadata(container, builder, error));
    status = lora__adapter_create(out, container, NULL, error);
    container = NULL;
done:
    lora__container_release(container);
    builder_reset(builder);
    return status;
}

LORA_API void lora_builder_destroy(lora_builder *builder)
{
    lora_context *context;

    if (builder != NULL) {
        context = builder->context;
        builder_reset(builder);
        lora__free(context, builder, sizeof *builder, LORA__ALIGN);
        lora_context_destroy(context);
    }
}
