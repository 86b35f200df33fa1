/* What fusing tells: how much of each adapter is in the model now. */
#include "op/fuse.h"

#include "op/report.h"

static const char *fuse_item_name(const lora_binding *binding,
                                  const lora__bound *item)
{
    return item->module != SIZE_MAX
               ? binding->adapter->modules[item->module].name
               : binding->adapter->container->entries[item->tensor].name;
}

/* So many items of an adapter are told of where none is in the model. */
#define FUSE_TOLD 8

/* Nothing of an adapter in a model is never what was meant. */
static lora_status fuse_refuse(const lora__fuse *job,
                               const lora_binding *binding,
                               lora_error *error)
{
    const lora_adapter *adapter = binding->adapter;
    const lora__family *of = adapter->names.family;
    const lora__family *in = job->model->family;
    size_t count = binding->bind.count;

    for (size_t i = 0; i < count && i < FUSE_TOLD; i++) {
        const lora__bound *item = &binding->bind.items[i];
        lora__log(job->context, LORA_LOG_ERROR, "%s: %s",
                  fuse_item_name(binding, item), item->reason);
    }
    if (count > FUSE_TOLD) {
        lora__log(job->context, LORA_LOG_ERROR, "and %llu more",
                  (unsigned long long)(count - FUSE_TOLD));
    }
    return lora__fail(
        error, LORA_ERROR_KEY, LORA_NO_OFFSET, adapter->container->path,
        "none of its %llu modules is in the model%s%s%s%s",
        (unsigned long long)adapter->module_count,
        of == NULL ? "" : ": it is for ", of == NULL ? "" : lora__family_id(of),
        of == NULL || in == NULL ? "" : ", the model is ",
        of == NULL || in == NULL ? "" : lora__family_id(in));
}

static lora_status fuse_report_items(lora_report *report,
                                     const lora_binding *binding,
                                     lora_error *error)
{
    for (size_t i = 0; i < binding->bind.count; i++) {
        const lora__bound *item = &binding->bind.items[i];
        if (item->state != LORA__BOUND) {
            TRY(lora__problems_add(&report->problems, LORA_SEVERITY_WARNING,
                                   item->status, "not_bound",
                                   fuse_item_name(binding, item), error, "%s",
                                   item->reason));
        }
    }
    return LORA_OK;
}

static lora_status fuse_report_adapter(lora_report *report,
                                       const lora__fuse *job,
                                       const lora_binding *binding,
                                       lora_error *error)
{
    const size_t *counts = binding->bind.counts;
    lora__buffer *json = &report->json;

    if (counts[LORA__BOUND] + counts[LORA__BOUND_HALF] == 0) {
        return fuse_refuse(job, binding, error);
    }
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "file", binding->adapter->container->path);
    lora__report_put_u64(json, "modules", binding->adapter->module_count);
    lora__report_put_u64(json, "bound",
                         counts[LORA__BOUND] + counts[LORA__BOUND_HALF]);
    lora__report_put_u64(json, "half", counts[LORA__BOUND_HALF]);
    lora__buffer_putc(json, '}');
    return fuse_report_items(report, binding, error);
}

LORA_PRIVATE lora_status lora__fuse_report(lora_report **out,
                                           const lora__fuse *job,
                                           const lora_binding *const *bindings,
                                           size_t count,
                                           lora_error *error)
{
    TRY(lora__report_create(out, job->context, error));
    lora__buffer_puts(&(*out)->json, "{\"adapters\":[");
    for (size_t i = 0; i < count; i++) {
        if (i != 0) {
            lora__buffer_putc(&(*out)->json, ',');
        }
        TRY(fuse_report_adapter(*out, job, bindings[i], error));
    }
    lora__buffer_putc(&(*out)->json, ']');
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__fuse_report_finish(lora_report *report,
                                                  const lora__fuse *job,
                                                  lora_error *error)
{
    lora__buffer *json = &report->json;
    uint64_t bytes = 0;

    for (size_t i = 0; i < job->file_count; i++) {
        bytes += job->files[i].bytes;
    }
    lora__report_put_u64(json, "tensors", job->model->tensor_count);
    lora__report_put_u64(json, "changed", job->change_count);
    lora__report_put_u64(json, "resumed", job->log.done_count);
    lora__report_put_u64(json, "files", job->file_count);
    lora__report_put_u64(json, "bytes", bytes);
    lora__report_put_problems(report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(report, error);
}
