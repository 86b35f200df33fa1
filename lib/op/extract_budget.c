/* Extraction to a size of the file. Layers are cut generously first, in F32,
 * and the ranks of all are then chosen as resize does it, so that this is done
 * in one way: the file is measured with its header, and is never larger. What
 * is kept of a layer is the best of its rank either way.
 */
#include "core/map.h"
#include "op/extract.h"

#include <math.h>
#include <string.h>

/* An adapter's modules by the names of their up. */
static lora_status
budget_index(lora__map *out, const lora_adapter *adapter, lora_error *error)
{
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__entry *up =
            lora__module_entry(adapter, &adapter->modules[m], LORA__ROLE_UP);
        size_t existing;
        if (up != NULL) {
            TRY(lora__map_add(&existing, out, up->name, strlen(up->name), m,
                              error));
        }
    }
    return LORA_OK;
}

/* The module that a layer became; NULL: it has no factors. */
static lora_status budget_find(const lora__module **out,
                               lora__extract *job,
                               size_t index,
                               const lora_adapter *adapter,
                               const lora__map *modules,
                               lora_error *error)
{
    const lora__extracted *result = &job->results[index];
    lora__buffer name;
    size_t found;
    lora_status status = LORA_OK;

    *out = NULL;
    if (result->state != LORA__EXTRACT_DONE || result->rank == 0) {
        return LORA_OK;
    }
    lora__buffer_init(&name, job->context);
    TRY_OR_DONE(lora__extract_spell(&name, job, &job->pair.matches[index],
                                    LORA__ROLE_UP, error));
    if (lora__map_find(&found, modules, name.data, strlen(name.data))) {
        *out = &adapter->modules[found];
    }
done:
    lora__buffer_destroy(&name);
    return status;
}

/* One type for all: BF16 where all of the tuned checkpoint that changed is. */
static lora_dtype budget_dtype(const lora__extract *job)
{
    if (job->options.dtype != LORA_DTYPE_NONE) {
        return job->options.dtype;
    }
    for (size_t i = 0; i < job->pair.count; i++) {
        size_t tensor = job->pair.matches[i].tuned.tensor;
        if (job->results[i].state == LORA__EXTRACT_DONE &&
            job->pair.tuned->tensors[tensor].entry->dtype != LORA_DTYPE_BF16) {
            return LORA_DTYPE_F16;
        }
    }
    return LORA_DTYPE_BF16;
}

/* Layers with a rule of their own have been cut by it: they stay. */
static lora_status budget_keep_own(lora_rank_override *out,
                                   size_t *out_count,
                                   lora__extract *job,
                                   const lora_adapter *wide,
                                   const lora__map *modules,
                                   lora_error *error)
{
    *out_count = 0;
    for (size_t i = 0; i < job->pair.count; i++) {
        const lora__module *module;
        if (lora__extract_rule(job, &job->pair.matches[i]) == job->rule) {
            continue;
        }
        TRY(budget_find(&module, job, i, wide, modules, error));
        if (module != NULL) {
            out[*out_count].pattern = module->name;
            out[*out_count].rule.kind = LORA_RANK_FIXED;
            out[*out_count].rule.rank = (int32_t)job->results[i].rank;
            (*out_count)++;
        }
    }
    return LORA_OK;
}

/* The ranks that were chosen, and what they lose more, into the results: what
 * is lost twice is orthogonal, but beside a core. */
static lora_status budget_update(lora__extract *job,
                                 const lora_adapter *wide,
                                 const lora_report *report,
                                 const lora__map *modules,
                                 lora_error *error)
{
    for (size_t i = 0; i < job->pair.count; i++) {
        lora__extracted *result = &job->results[i];
        const lora__module *module;
        const lora_report_module *row;
        TRY(budget_find(&module, job, i, wide, modules, error));
        if (module == NULL) {
            continue;
        }
        row = &report->modules[module - wide->modules];
        result->error =
            sqrt(result->error * result->error + row->error * row->error);
        result->is_estimate |= module->tucker;
        result->rank = row->rank_out;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__extract_fit(lora_adapter **out,
                                           lora__extract *job,
                                           const lora_adapter *wide,
                                           lora_error *error)
{
    lora_adapter_resize_options options;
    lora__map modules;
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    lora_rank_override *own;
    void *memory;
    lora_status status;

    lora__map_init(&modules, job->context);
    TRY(lora__alloc_zeroed(&memory, job->context, job->pair.count, sizeof *own,
                           error));
    own = memory;
    lora_adapter_resize_options_init(&options, sizeof options);
    options.overrides = own;
    options.max_rank = job->options.max_rank;
    options.min_rank = job->options.min_rank;
    options.split = job->options.split;
    options.dtype = budget_dtype(job);
    options.keep_core = 1;
    TRY_OR_DONE(budget_index(&modules, wide, error));
    TRY_OR_DONE(budget_keep_own(own, &options.override_count, job, wide,
                                &modules, error));
    TRY_OR_DONE(lora_adapter_resize(&adapter, &report, wide, job->size,
                                    &options, error));
    TRY_OR_DONE(budget_update(job, wide, report, &modules, error));
    *out = adapter;
    adapter = NULL;
done:
    lora_adapter_destroy(adapter);
    lora_report_destroy(report);
    lora__map_destroy(&modules);
    lora__free(job->context, own, job->pair.count * sizeof *own, LORA__ALIGN);
    return status;
}
