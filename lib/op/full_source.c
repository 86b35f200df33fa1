/* Dense changes as tensors that are computed when they are read.
 *
 * A tensor is mostly read from its beginning to its end, in small pieces: the
 * state of the module that was read last is kept, with some of its rows. Who
 * reads while another does has a state of its own, for as long as it reads.
 */
#include "op/full_source.h"

#include "platform/atomic.h"

#include <string.h>

/* Rows are computed in blocks of about this size. */
#define FULL_BLOCK_BYTES ((size_t)1 << 20)

LORA_PRIVATE void lora__full_close(lora__full_reading *window)
{
    lora_context *context = window->state.context;

    if (window->item != NULL) {
        lora__free(context, window->numbers, window->bytes,
                   LORA__ALIGN_NUMERIC);
        lora__free(context, window->rounded, window->bytes,
                   LORA__ALIGN_NUMERIC);
        lora__rows_destroy(&window->state);
        window->item = NULL;
    }
}

LORA_PRIVATE lora_status lora__full_open(lora__full_reading *window,
                                         const lora__full_item *item,
                                         lora_error *error)
{
    const lora__full_source *source = item->source;
    const lora__module *module = &source->adapter->modules[item->module];
    lora_context *context = source->adapter->context;
    size_t row;

    lora__full_close(window);
    TRY(lora__base_rows(&window->state, &window->found, source->base,
                        source->adapter, module, item->part,
                        item->dtype == LORA_DTYPE_F64 ? LORA_DTYPE_F64
                                                      : LORA_DTYPE_F32,
                        error));
    row = window->state.cols * sizeof(double);
    window->step = row > FULL_BLOCK_BYTES ? 1 : FULL_BLOCK_BYTES / row;
    window->step =
        window->step < window->state.rows ? window->step : window->state.rows;
    window->bytes = window->step * row;
    window->begin = window->end = 0;
    window->numbers = lora__alloc(context, window->bytes, LORA__ALIGN_NUMERIC);
    window->rounded = lora__alloc(context, window->bytes, LORA__ALIGN_NUMERIC);
    window->item = item; /* there is something to give back */
    if (window->numbers == NULL || window->rounded == NULL) {
        lora__full_close(window);
        return lora__fail_memory(error, window->bytes);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__full_read(lora__full_reading *window,
                                         const lora__full_item *item,
                                         size_t begin,
                                         size_t end,
                                         lora_error *error)
{
    const lora__full_source *source = item->source;
    const lora__module *module = &source->adapter->modules[item->module];
    size_t count = (end - begin) * window->state.cols;

    window->end = window->begin; /* none, until they all are there */
    TRY(lora__rows_read(&window->state, module, begin, end, window->numbers,
                        error));
    if (item->dtype == LORA_DTYPE_F64) {
        memcpy(window->rounded, window->numbers, count * sizeof(double));
    } else {
        const void *numbers = window->numbers;
        TRY(lora__convert_from_f32(window->rounded, item->dtype, numbers, count,
                                   source->kernels, error));
    }
    window->begin = begin;
    window->end = end;
    return LORA_OK;
}

/* Some bytes of an item. */
static lora_status full_copy(unsigned char *out,
                             lora__full_reading *window,
                             const lora__full_item *item,
                             uint64_t offset,
                             size_t bytes,
                             lora_error *error)
{
    size_t row_bytes;

    if (window->item != item) {
        TRY(lora__full_open(window, item, error));
    }
    row_bytes = window->state.cols * (lora_dtype_bits(item->dtype) / 8);
    while (bytes > 0) {
        size_t row = (size_t)(offset / row_bytes);
        size_t first = row / window->step * window->step;
        size_t left = window->state.rows - first;
        size_t step = left < window->step ? left : window->step;
        size_t skip = (size_t)(offset - (uint64_t)first * row_bytes);
        size_t part = step * row_bytes - skip;

        if (row < window->begin || row >= window->end) {
            TRY(lora__full_read(window, item, first, first + step, error));
        }
        part = part < bytes ? part : bytes;
        memcpy(out, window->rounded + skip, part);
        out += part;
        offset += part;
        bytes -= part;
    }
    return LORA_OK;
}

static lora_status full_derive(const lora__entry *entry,
                               uint64_t offset,
                               void *buffer,
                               size_t bytes,
                               lora_error *error)
{
    const lora__full_item *item = entry->source;
    lora__full_source *source = item->source;
    lora__full_reading own;
    lora__full_reading *window = &source->common;
    lora_status status;

    if (lora__atomic_add_u32(&source->readers, 1) != 1) {
        memset(&own, 0, sizeof own);
        window = &own;
    }
    status = full_copy(buffer, window, item, offset, bytes, error);
    if (window == &own) {
        lora__full_close(&own);
    }
    (void)lora__atomic_add_u32(&source->readers, UINT32_MAX);
    return status;
}

/* ---- the container ----------------------------------------------------- */

static void full_source_destroy(void *user)
{
    lora__full_source *source = user;
    lora_context *context = source->adapter->context; /* the container's */

    lora__full_close(&source->common);
    lora__checkpoint_release(source->base);
    lora_adapter_destroy(source->adapter);
    lora__free(context, source, sizeof *source, LORA__ALIGN);
}

LORA_PRIVATE lora_status
lora__full_source_create(lora__container **out,
                         lora__full_source **out_source,
                         lora_adapter *adapter,
                         lora__checkpoint *base,
                         size_t room,
                         lora_error *error)
{
    lora_context *context = adapter->context;
    lora__container *container;
    lora__full_source *source;
    void *memory;
    lora_status status;

    TRY(lora__container_create(&container, context, "changes",
                               adapter->container->path, error));
    TRY_OR_DONE(lora__alloc_zeroed(&memory, context, 1, sizeof *source, error));
    source = memory;
    source->adapter = lora_adapter_retain(adapter);
    if (base != NULL) {
        lora__checkpoint_retain(base);
        source->base = base;
    }
    source->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    container->reader.user = source;
    container->reader.destroy = full_source_destroy;
    TRY_OR_DONE(lora__arena_zeroed(&memory, &container->arena, room,
                                   sizeof *source->items, error));
    source->items = memory;
    *out_source = source;
    *out = container;
    container = NULL;
done:
    lora__container_release(container);
    return status;
}

LORA_PRIVATE lora_status lora__full_source_add(lora__container *container,
                                               lora__full_source *source,
                                               const lora__full_item *item,
                                               lora_error *error)
{
    const lora__module *module = &source->adapter->modules[item->module];
    lora__full_item *own = &source->items[source->count];
    lora__entry *entry;
    uint64_t elements;
    uint64_t bytes;

    if (lora__safetensors_size(&elements, &bytes, item->dtype, item->ndim,
                               item->shape) != NULL) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the dense change is too large");
    }
    TRY(lora__container_add(&entry, container, error));
    *own = *item;
    own->source = source;
    entry->name = module->name; /* for messages; the adapter has it */
    entry->name_bytes = strlen(module->name);
    entry->dtype = item->dtype;
    entry->ndim = item->ndim;
    memcpy(entry->shape, item->shape, sizeof entry->shape);
    entry->elements = elements;
    entry->bytes = bytes;
    entry->derive = full_derive;
    entry->source = own;
    source->count++;
    return LORA_OK;
}
