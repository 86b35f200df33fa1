/* What became of every key of an adapter in a model, as a report. */
#include "model/model.h"
#include "op/report.h"

#include <string.h>

/* The nearest names are looked for, for so many items: where more do not fit,
 * the model is another one. */
#define BINDING_SUGGESTIONS 64

static const char *const telling_states[] = {
    "bound",   "half",    "nowhere",     "shape",   "dtype",
    "partner", "damaged", "unsupported", "unknown", "left_out"};

static const char *const telling_verdicts[] = {"right", "wrong", "unsure"};

/* A report in the making. */
typedef struct telling {
    lora_report *report;
    const lora_binding *binding;
    size_t suggestions; /* that may still be looked for */
} telling;

static void telling_put_family(lora__buffer *json,
                               const char *key,
                               const char *family,
                               double confidence)
{
    lora__json_put_key(json, key);
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "family", family[0] == '\0' ? NULL : family);
    lora__report_put_number(json, "confidence", confidence);
    lora__buffer_putc(json, '}');
}

static void telling_put_counts(const telling *r)
{
    lora__buffer *json = &r->report->json;

    lora__json_put_key(json, "counts");
    lora__buffer_putc(json, '{');
    for (size_t s = 0; s < LORA__COUNT(telling_states); s++) {
        lora__report_put_u64(json, telling_states[s], r->binding->counts[s]);
    }
    lora__buffer_putc(json, '}');
}

static lora_status telling_put_selections(const telling *r, lora_error *error)
{
    lora__buffer *json = &r->report->json;

    lora__json_put_key(json, "selections");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < r->binding->selection_count; i++) {
        const lora__selected *selected = &r->binding->selections[i];
        lora__buffer_puts(json, i == 0 ? "{" : ",{");
        lora__report_put_string(json, "pattern", selected->pattern);
        lora__report_put_number(json, "factor", selected->factor);
        lora__report_put_u64(json, "modules", selected->count);
        lora__buffer_putc(json, '}');
        if (selected->count == 0) {
            TRY(lora__problems_add(&r->report->problems, LORA_SEVERITY_WARNING,
                                   LORA_ERROR_KEY, "selection_unused",
                                   selected->pattern, error,
                                   "no module is meant by it"));
        }
    }
    lora__buffer_putc(json, ']');
    return LORA_OK;
}

static lora_status telling_put_changes(const telling *r,
                                       size_t item,
                                       uint64_t count,
                                       lora_error *error)
{
    lora__buffer *json = &r->report->json;

    lora__json_put_key(json, "changes");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < count; i++) {
        lora_binding_change change;

        change.struct_size = sizeof change;
        TRY(lora_binding_get_change(&change, r->binding, item, i, error));
        lora__buffer_puts(json, i == 0 ? "{" : ",{");
        lora__report_put_string(json, "tensor", change.tensor);
        lora__report_put_string(
            json, "part", change.part == LORA_PART_BIAS ? "bias" : "weight");
        if (change.row_end > 0) {
            const int64_t rows[2] = {change.row_begin, change.row_end};
            lora__report_put_shape(json, "rows", rows, 2);
            lora__report_put_u64(json, "module_row",
                                 (uint64_t)change.module_row);
        }
        lora__report_put_bool(json, "transposed", change.transposed);
        lora__buffer_putc(json, '}');
    }
    lora__buffer_putc(json, ']');
    return LORA_OK;
}

/* The nearest name, of those that the model does not have. */
static const char *
telling_suggestion(telling *r, size_t index, const lora_binding_item *item)
{
    if ((item->state != LORA_BINDING_NOWHERE &&
         item->state != LORA_BINDING_UNKNOWN) ||
        r->binding->verdict == LORA_BINDING_WRONG || r->suggestions == 0) {
        return NULL;
    }
    r->suggestions--;
    return lora__binding_nearest(r->binding, index);
}

static lora_status telling_note_item(const telling *r,
                                     const lora_binding_item *item,
                                     const char *suggestion,
                                     lora_error *error)
{
    if (item->status == LORA_OK) {
        return LORA_OK;
    }
    return lora__problems_add(&r->report->problems, LORA_SEVERITY_WARNING,
                              item->status, telling_states[item->state],
                              item->name, error, "%s%s%s", item->reason,
                              suggestion == NULL ? "" : "; the nearest is ",
                              suggestion == NULL ? "" : suggestion);
}

static lora_status telling_put_item(telling *r, size_t index, lora_error *error)
{
    lora__buffer *json = &r->report->json;
    lora_binding_item item;
    const char *suggestion;

    item.struct_size = sizeof item;
    TRY(lora_binding_get_item(&item, r->binding, index, error));
    suggestion = telling_suggestion(r, index, &item);
    lora__buffer_puts(json, index == 0 ? "{" : ",{");
    lora__report_put_string(json, "name", item.name);
    lora__report_put_string(json, "target",
                            item.target[0] == '\0' ? NULL : item.target);
    lora__report_put_string(json, "state", telling_states[item.state]);
    lora__report_put_number(json, "factor", item.factor);
    TRY(telling_put_changes(r, index, item.change_count, error));
    if (item.status != LORA_OK) {
        lora__report_put_string(json, "reason", item.reason);
        lora__report_put_string(json, "suggestion", suggestion);
        lora__report_put_shape(json, "expected", item.expected,
                               item.expected_ndim);
        lora__report_put_shape(json, "found", item.found, item.found_ndim);
    }
    lora__buffer_putc(json, '}');
    return telling_note_item(r, &item, suggestion, error);
}

static lora_status telling_note_base(const telling *r,
                                     const lora_binding_info *info,
                                     lora_error *error)
{
    return info->verdict != LORA_BINDING_WRONG
               ? LORA_OK
               : lora__problems_add(&r->report->problems, LORA_SEVERITY_WARNING,
                                    LORA_ERROR_KEY, "wrong_base",
                                    r->binding->adapter->container->path, error,
                                    "this adapter is for %s, the model is %s",
                                    info->adapter_family, info->model_family);
}

static lora_status telling_fill(telling *r, lora_error *error)
{
    const lora_binding *binding = r->binding;
    lora__buffer *json = &r->report->json;
    lora_binding_info info;

    info.struct_size = sizeof info;
    TRY(lora_binding_get_info(&info, binding, error));
    TRY(telling_note_base(r, &info, error));
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "file", binding->adapter->container->path);
    lora__report_put_string(json, "base", binding->bind.model->path);
    telling_put_family(json, "model", info.model_family,
                       binding->bind.model->confidence);
    telling_put_family(json, "adapter", info.adapter_family,
                       info.adapter_confidence);
    lora__report_put_string(json, "verdict", telling_verdicts[info.verdict]);
    lora__report_put_u64(json, "modules", info.module_count);
    lora__report_put_u64(json, "bound", info.bound_count);
    lora__report_put_number(json, "share", info.share);
    telling_put_counts(r);
    TRY(telling_put_selections(r, error));
    lora__json_put_key(json, "items");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < binding->bind.count; i++) {
        TRY(telling_put_item(r, i, error));
    }
    lora__buffer_putc(json, ']');
    lora__report_put_problems(r->report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(r->report, error);
}

LORA_API lora_status lora_binding_report(lora_report **out,
                                         const lora_binding *binding,
                                         lora_error *error)
{
    telling r = {NULL, binding, BINDING_SUGGESTIONS};
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(binding != NULL, error);
    TRY_OR_DONE(lora__report_create(&r.report, binding->context, error));
    TRY_OR_DONE(telling_fill(&r, error));
    *out = r.report;
    r.report = NULL;
done:
    lora_report_destroy(r.report);
    return status;
}
