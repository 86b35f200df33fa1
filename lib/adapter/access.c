/* Looking inside an adapter: the public accessors. */
#include "adapter/adapter.h"
#include "adapter/kind.h"
#include "core/options.h"

#include <string.h>

/* Tensors that one job reads: a few modules. Below so many bytes there is but
 * one job, as waiting for other threads could take longer. */
#define ACCESS_JOB 8
#define ACCESS_FEW_BYTES ((uint64_t)4 << 20)

static lora_status
access_index(size_t index, size_t count, const char *what, lora_error *error)
{
    return index < count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                            "%s %llu of %llu", what, (unsigned long long)index,
                            (unsigned long long)count);
}

/* Whether there are `count` from `first` on; names the first that is not. */
static lora_status access_range(size_t first,
                                size_t count,
                                size_t total,
                                const char *what,
                                lora_error *error)
{
    return first <= total && count <= total - first
               ? LORA_OK
               : access_index(first < total ? total : first, total, what,
                              error);
}

LORA_API lora_status lora_adapter_get_info(lora_adapter_info *out,
                                           const lora_adapter *adapter,
                                           lora_error *error)
{
    lora_adapter_info info;
    const lora__container *container;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    container = adapter->container;
    memset(&info, 0, sizeof info);
    info.path = container->path;
    info.container = container->format;
    info.family = adapter->names.family == NULL
                      ? ""
                      : lora__family_id(adapter->names.family);
    info.confidence = adapter->names.confidence;
    info.bytes = container->file_bytes;
    info.tensor_count = container->entry_count;
    info.module_count = adapter->module_count;
    info.problem_count = adapter->problems.count;
    for (size_t i = 0; i < container->entry_count; i++) {
        if (adapter->entry_module[i] != SIZE_MAX) {
            info.parameters += container->entries[i].elements;
        } else {
            info.unknown_count +=
                adapter->names.keys[i].role == LORA__ROLE_UNKNOWN;
        }
    }
    return lora__out_write(out, &info, sizeof info, error);
}

LORA_API size_t lora_adapter_module_count(const lora_adapter *adapter)
{
    return adapter == NULL ? 0 : adapter->module_count;
}

static lora_module_info access_module(const lora__module *module)
{
    lora_module_info info;

    memset(&info, 0, sizeof info);
    info.name = module->name;
    info.target = module->target;
    info.kind = module->kind == NULL ? "" : module->kind->id;
    info.dialect = lora__dialect_id(module->dialect);
    info.rank = module->rank;
    info.alpha = module->alpha;
    info.scale = module->scale;
    memcpy(info.shape, module->shape, sizeof info.shape);
    info.ndim = module->ndim;
    info.has_alpha = module->has_alpha;
    info.dtype = module->dtype;
    info.dora = module->dora;
    info.tucker = module->tucker;
    info.changes = module->changes;
    info.status = module->status;
    return info;
}

LORA_API lora_status lora_adapter_get_modules(lora_module_info *out,
                                              const lora_adapter *adapter,
                                              size_t first,
                                              size_t count,
                                              lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL || count == 0, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(access_range(first, count, adapter->module_count, "module", error));
    for (size_t i = 0; i < count; i++) {
        lora_module_info info = access_module(&adapter->modules[first + i]);
        TRY(lora__out_write_at(out, i, &info, sizeof info, error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_adapter_get_module(lora_module_info *out,
                                             const lora_adapter *adapter,
                                             size_t index,
                                             lora_error *error)
{
    return lora_adapter_get_modules(out, adapter, index, 1, error);
}

LORA_API lora_status lora_adapter_find_module(size_t *out_index,
                                              const lora_adapter *adapter,
                                              const char *name,
                                              lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out_index != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(name != NULL, error);
    if (!lora__map_find(out_index, &adapter->by_name, name, strlen(name))) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, name,
                          "no such module");
    }
    return LORA_OK;
}

LORA_API size_t lora_adapter_tensor_count(const lora_adapter *adapter)
{
    return adapter == NULL ? 0 : adapter->container->entry_count;
}

static lora_tensor_info access_tensor(const lora_adapter *adapter, size_t index)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t module = adapter->entry_module[index];
    lora_tensor_info info;

    memset(&info, 0, sizeof info);
    info.name = entry->name;
    info.role = lora__role_name(adapter->names.keys[index].role);
    info.offset = entry->offset;
    info.bytes = entry->bytes;
    info.module_index = module == SIZE_MAX ? UINT64_MAX : module;
    memcpy(info.shape, entry->shape, sizeof info.shape);
    info.ndim = entry->ndim;
    info.dtype = entry->dtype;
    return info;
}

LORA_API lora_status lora_adapter_get_tensor_infos(lora_tensor_info *out,
                                                   const lora_adapter *adapter,
                                                   size_t first,
                                                   size_t count,
                                                   lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL || count == 0, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(access_range(first, count, adapter->container->entry_count, "tensor",
                     error));
    for (size_t i = 0; i < count; i++) {
        lora_tensor_info info = access_tensor(adapter, first + i);
        TRY(lora__out_write_at(out, i, &info, sizeof info, error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_adapter_get_tensor_info(lora_tensor_info *out,
                                                  const lora_adapter *adapter,
                                                  size_t index,
                                                  lora_error *error)
{
    return lora_adapter_get_tensor_infos(out, adapter, index, 1, error);
}

/* Read `count` elements from `first` on, converted; through f64 where the
 * input or the output has more digits than f32. */
static lora_status access_convert(unsigned char *out,
                                  const lora_adapter *adapter,
                                  size_t index,
                                  lora_dtype dtype,
                                  lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t from = lora_dtype_bits(entry->dtype) / 8;
    size_t to = lora_dtype_bits(dtype) / 8;
    unsigned char chunk[8192];
    size_t step = sizeof chunk / (from == 0 ? 1 : from);

    for (uint64_t done = 0; done < entry->elements; done += step) {
        uint64_t left = entry->elements - done;
        size_t count = left < step ? (size_t)left : step;
        TRY(lora__container_read(adapter->container, index, done * from, chunk,
                                 count * from, error));
        TRY(lora_tensor_convert(out + done * to, dtype, chunk, entry->dtype,
                                count, error));
    }
    return LORA_OK;
}

/* The size of a tensor in a type. Types are refused first: one that cannot be
 * written may have no size. */
static lora_status access_bytes(uint64_t *out,
                                const lora__entry *entry,
                                lora_dtype dtype,
                                lora_error *error)
{
    *out = entry->bytes;
    if (dtype == LORA_DTYPE_NONE) {
        return LORA_OK;
    }
    if (lora_tensor_convert(NULL, dtype, NULL, entry->dtype, 0, error) !=
        LORA_OK) {
        lora__error_set_subject(error, entry->name);
        return LORA_ERROR_DTYPE;
    }
    return lora__mul_u64(entry->elements, lora_dtype_bits(dtype) / 8, out)
               ? LORA_OK
               : lora__fail_memory(error, UINT64_MAX);
}

static lora_status access_check(const lora_tensor_read *read,
                                const lora_adapter *adapter,
                                lora_error *error)
{
    const lora__container *container = adapter->container;
    const lora__entry *entry;
    uint64_t needed;

    CHECK_ARG(read->buffer != NULL || read->bytes == 0, error);
    TRY(lora__options_reserved(read->reserved1, error));
    TRY(access_index(read->index, container->entry_count, "tensor", error));
    entry = &container->entries[read->index];
    TRY(access_bytes(&needed, entry, read->dtype, error));
    if (needed != read->bytes) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, entry->name,
                          "needs a buffer of %llu bytes, not %llu",
                          (unsigned long long)needed,
                          (unsigned long long)read->bytes);
    }
    return LORA_OK;
}

/* Read what was checked. */
static lora_status access_read(const lora_tensor_read *read,
                               const lora_adapter *adapter,
                               lora_error *error)
{
    const lora__container *container = adapter->container;

    return read->dtype == LORA_DTYPE_NONE ||
                   read->dtype == container->entries[read->index].dtype
               ? lora__container_read(container, read->index, 0, read->buffer,
                                      read->bytes, error)
               : access_convert(read->buffer, adapter, read->index, read->dtype,
                                error);
}

LORA_API lora_status lora_adapter_read_tensor(void *buffer,
                                              size_t bytes,
                                              const lora_adapter *adapter,
                                              size_t index,
                                              lora_dtype dtype,
                                              lora_error *error)
{
    const lora_tensor_read read = {buffer, bytes, index, dtype, 0};

    lora__error_begin(error);
    CHECK_ARG(adapter != NULL, error);
    TRY(access_check(&read, adapter, error));
    return access_read(&read, adapter, error);
}

typedef struct access_reads {
    const lora_tensor_read *reads;
    size_t count;
    size_t step; /* tensors of a job */
    const lora_adapter *adapter;
} access_reads;

static lora_status
access_job(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const access_reads *all = arg;
    size_t first = index * all->step;
    size_t left = all->count - first;

    (void)worker;
    for (size_t i = 0; i < left && i < all->step; i++) {
        TRY(access_read(&all->reads[first + i], all->adapter, error));
    }
    return LORA_OK;
}

LORA_API lora_status lora_adapter_read_tensors(const lora_tensor_read *reads,
                                               size_t count,
                                               const lora_adapter *adapter,
                                               lora_error *error)
{
    access_reads all = {reads, count, ACCESS_JOB, adapter};
    uint64_t bytes = 0;

    lora__error_begin(error);
    CHECK_ARG(reads != NULL || count == 0, error);
    CHECK_ARG(adapter != NULL, error);
    for (size_t i = 0; i < count; i++) {
        TRY(access_check(&reads[i], adapter, error));
        if (!lora__add_u64(bytes, reads[i].bytes, &bytes)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    if (bytes < ACCESS_FEW_BYTES && count > 0) {
        all.step = count;
    }
    return lora__run_jobs(adapter->container->context, "read", access_job, &all,
                          count / all.step + (count % all.step != 0), error);
}

LORA_API lora_status lora_adapter_get_tensor(lora_tensor *out,
                                             const lora_adapter *adapter,
                                             size_t index,
                                             lora_error *error)
{
    const lora__entry *entry;
    const void *data;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(access_index(index, adapter->container->entry_count, "tensor", error));
    entry = &adapter->container->entries[index];
    data = lora__container_view(adapter->container, index);
    if (data == NULL && entry->bytes != 0) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, entry->name,
                          "not in memory: open with LORA_OPEN_MAP, or read it");
    }
    memset(out, 0, sizeof *out);
    out->data = data;
    out->bytes = entry->bytes;
    memcpy(out->shape, entry->shape, sizeof out->shape);
    out->ndim = entry->ndim;
    out->dtype = entry->dtype;
    return LORA_OK;
}

LORA_API size_t lora_adapter_metadata_count(const lora_adapter *adapter)
{
    return adapter == NULL ? 0 : adapter->container->metadata_count;
}

LORA_API lora_status lora_adapter_get_metadata(const char **out_key,
                                               const char **out_value,
                                               const lora_adapter *adapter,
                                               size_t index,
                                               lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out_key != NULL, error);
    CHECK_ARG(out_value != NULL, error);
    CHECK_ARG(adapter != NULL, error);
    TRY(access_index(index, adapter->container->metadata_count,
                     "metadata entry", error));
    *out_key = adapter->container->metadata[index].key;
    *out_value = adapter->container->metadata[index].value;
    return LORA_OK;
}

LORA_API const char *lora_adapter_find_metadata(const lora_adapter *adapter,
                                                const char *key)
{
    return adapter == NULL || key == NULL
               ? NULL
               : lora__container_metadata(adapter->container, key);
}
