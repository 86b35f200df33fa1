/* Reports. */
#include "op/report.h"

#include "core/options.h"

#include <string.h>

LORA_PRIVATE lora_status lora__report_create(lora_report **out,
                                             lora_context *context,
                                             lora_error *error)
{
    lora_report *report;
    void *memory;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *report, error));
    report = memory;
    report->context = lora_context_retain(context);
    lora__arena_init(&report->arena, context);
    lora__buffer_init(&report->json, context);
    lora__problems_init(&report->problems, &report->arena);
    *out = report;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__report_add_modules(lora_report *report,
                                                  size_t count,
                                                  lora_error *error)
{
    void *memory;

    TRY(lora__arena_zeroed(&memory, &report->arena, count,
                           sizeof *report->modules, error));
    report->modules = memory;
    report->module_count = count;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__report_copy_problems(lora_report *report,
                                                    const lora_adapter *adapter,
                                                    lora_error *error)
{
    const lora__problem_node *node = adapter->problems.first;

    for (; node != NULL; node = node->next) {
        TRY(lora__problems_add(&report->problems, node->problem.severity,
                               node->problem.status, node->problem.code,
                               node->problem.subject, error, "%s",
                               node->problem.message));
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__report_put_problems(lora_report *report)
{
    static const char *const severities[] = {"", "note", "warning", "error"};
    lora__buffer *json = &report->json;
    const lora__problem_node *node = report->problems.first;

    lora__json_put_key(json, "problems");
    lora__buffer_putc(json, '[');
    for (; node != NULL; node = node->next) {
        lora__buffer_puts(json, node == report->problems.first ? "{" : ",{");
        lora__report_put_string(json, "code", node->problem.code);
        lora__report_put_string(json, "severity",
                                severities[node->problem.severity]);
        lora__report_put_string(json, "subject", node->problem.subject);
        lora__report_put_string(json, "message", node->problem.message);
        lora__buffer_putc(json, '}');
    }
    lora__buffer_putc(json, ']');
}

LORA_PRIVATE void
lora__report_put_string(lora__buffer *json, const char *key, const char *value)
{
    lora__json_put_key(json, key);
    if (value == NULL) {
        lora__buffer_puts(json, "null");
    } else {
        lora__json_put_string(json, value);
    }
}

LORA_PRIVATE void
lora__report_put_u64(lora__buffer *json, const char *key, uint64_t value)
{
    lora__json_put_key(json, key);
    lora__buffer_printf(json, "%llu", (unsigned long long)value);
}

LORA_PRIVATE void
lora__report_put_number(lora__buffer *json, const char *key, double value)
{
    lora__json_put_key(json, key);
    lora__buffer_number(json, value);
}

LORA_PRIVATE void
lora__report_put_bool(lora__buffer *json, const char *key, int value)
{
    lora__json_put_key(json, key);
    lora__buffer_puts(json, value ? "true" : "false");
}

LORA_PRIVATE void lora__report_put_shape(lora__buffer *json,
                                         const char *key,
                                         const int64_t *shape,
                                         int32_t ndim)
{
    lora__json_put_key(json, key);
    lora__buffer_putc(json, '[');
    for (int32_t i = 0; i < ndim; i++) {
        lora__buffer_printf(json, i == 0 ? "%lld" : ",%lld",
                            (long long)shape[i]);
    }
    lora__buffer_putc(json, ']');
}

LORA_PRIVATE lora_status lora__report_finish(lora_report *report,
                                             lora_error *error)
{
    const lora__problem_node *node = report->problems.first;
    void *memory;

    TRY(lora__buffer_status(&report->json, error));
    TRY(lora__arena_zeroed(&memory, &report->arena, report->problems.count,
                           sizeof *report->problem_list, error));
    report->problem_list = memory;
    for (size_t i = 0; node != NULL; node = node->next) {
        report->problem_list[i++] = &node->problem;
    }
    return LORA_OK;
}

LORA_API const char *lora_report_to_json(const lora_report *report,
                                         size_t *out_bytes)
{
    if (report == NULL) {
        return NULL;
    }
    if (out_bytes != NULL) {
        *out_bytes = report->json.bytes;
    }
    return report->json.data;
}

LORA_API size_t lora_report_module_count(const lora_report *report)
{
    return report == NULL ? 0 : report->module_count;
}

LORA_API lora_status lora_report_get_module(lora_report_module *out,
                                            const lora_report *report,
                                            size_t index,
                                            lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(report != NULL, error);
    if (index >= report->module_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "module %llu of %llu", (unsigned long long)index,
                          (unsigned long long)report->module_count);
    }
    return lora__out_write(out, &report->modules[index],
                           sizeof report->modules[index], error);
}

LORA_API size_t lora_report_problem_count(const lora_report *report)
{
    return report == NULL ? 0 : report->problems.count;
}

LORA_API lora_status lora_report_get_problem(lora_problem *out,
                                             const lora_report *report,
                                             size_t index,
                                             lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(report != NULL, error);
    if (index >= report->problems.count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "problem %llu of %llu", (unsigned long long)index,
                          (unsigned long long)report->problems.count);
    }
    return lora__out_write(out, report->problem_list[index],
                           sizeof **report->problem_list, error);
}

LORA_API void lora_report_destroy(lora_report *report)
{
    lora_context *context;

    if (report != NULL) {
        context = report->context;
        lora__buffer_destroy(&report->json);
        lora__arena_destroy(&report->arena);
        lora__free(context, report, sizeof *report, LORA__ALIGN);
        lora_context_destroy(context);
    }
}
