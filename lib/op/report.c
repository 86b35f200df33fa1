/* Reports. */
#include "op/report.h"

#include "core/options.h"

#include <math.h>
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
    lora__problems_init(&report->fixes, &report->arena);
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

/* A finding; a repair has no severity. */
static void report_put_problem(lora__buffer *json, const lora_problem *problem)
{
    static const char *const severities[] = {"", "note", "warning", "error"};

    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "code", problem->code);
    if (problem->severity != 0) {
        lora__report_put_string(json, "severity",
                                severities[problem->severity]);
    }
    lora__report_put_string(json, "subject", problem->subject);
    lora__report_put_string(json, "message", problem->message);
    lora__buffer_putc(json, '}');
}

static void report_put_list(lora__buffer *json,
                            const char *key,
                            const lora__problems *problems)
{
    const lora__problem_node *node = problems->first;

    lora__json_put_key(json, key);
    lora__buffer_putc(json, '[');
    for (; node != NULL; node = node->next) {
        lora__buffer_puts(json, node == problems->first ? "" : ",");
        report_put_problem(json, &node->problem);
    }
    lora__buffer_putc(json, ']');
}

LORA_PRIVATE void lora__report_put_problems(lora_report *report)
{
    report_put_list(&report->json, "problems", &report->problems);
}

LORA_PRIVATE void lora__report_put_fixes(lora_report *report)
{
    report_put_list(&report->json, "fixes", &report->fixes);
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

LORA_PRIVATE void lora__report_put_values(lora__buffer *json,
                                          const char *key,
                                          const double *values,
                                          size_t count)
{
    lora__json_put_key(json, key);
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < count; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__buffer_measured(json, values[i]);
    }
    lora__buffer_putc(json, ']');
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

/* The nodes of a list as an array. */
static lora_status report_index(const lora_problem ***out,
                                lora_report *report,
                                const lora__problems *problems,
                                lora_error *error)
{
    const lora__problem_node *node = problems->first;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &report->arena, problems->count,
                           sizeof **out, error));
    *out = memory;
    for (size_t i = 0; node != NULL; node = node->next) {
        (*out)[i++] = &node->problem;
    }
    return LORA_OK;
}

static void report_put_module(lora__buffer *json,
                              const lora_report_module *module)
{
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "name", module->name);
    lora__report_put_u64(json, "rank_in", (uint64_t)module->rank_in);
    lora__report_put_u64(json, "rank_out", (uint64_t)module->rank_out);
    lora__report_put_number(json, "energy", module->energy);
    lora__report_put_number(json, "error", module->error);
    lora__report_put_number(json, "spectral_error", module->spectral);
    lora__report_put_number(json, "frobenius", module->frobenius);
    lora__report_put_number(json, "sigma_1", module->largest);
    lora__report_put_number(json, "sigma_r", module->least);
    lora__report_put_number(json, "stable_rank", module->stable_rank);
    lora__report_put_number(json, "effective_rank", module->effective_rank);
    lora__report_put_values(json, "sigma", module->sigma, module->sigma_count);
    lora__buffer_putc(json, '}');
}

LORA_PRIVATE void lora__report_put_modules(lora_report *report)
{
    lora__buffer *json = &report->json;

    lora__json_put_key(json, "modules");
    lora__buffer_putc(json, '[');
    for (size_t m = 0; m < report->module_count; m++) {
        lora__buffer_puts(json, m == 0 ? "" : ",");
        report_put_module(json, &report->modules[m]);
    }
    lora__buffer_putc(json, ']');
}

LORA_PRIVATE void
lora__report_put_totals(lora_report *report, double total, double lost)
{
    lora__buffer *json = &report->json;

    lora__json_put_key(json, "totals");
    lora__buffer_putc(json, '{');
    lora__report_put_u64(json, "modules", report->module_count);
    lora__report_put_number(json, "energy",
                            total > 0.0 ? 1.0 - lost / total : 1.0);
    lora__report_put_number(json, "error", sqrt(lost));
    lora__report_put_number(json, "frobenius",
                            total > lost ? sqrt(1.0 - lost / total)
                                         : total == 0.0);
    lora__report_put_number(json, "relative_error",
                            total > 0.0 ? sqrt(lost / total) : 0.0);
}

LORA_PRIVATE lora_status lora__report_finish(lora_report *report,
                                             lora_error *error)
{
    TRY(lora__buffer_status(&report->json, error));
    TRY(report_index(&report->problem_list, report, &report->problems, error));
    return report_index(&report->fix_list, report, &report->fixes, error);
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

/* One of a list. */
static lora_status report_get(lora_problem *out,
                              const char *what,
                              const lora_problem *const *list,
                              size_t count,
                              size_t index,
                              lora_error *error)
{
    if (index >= count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "%s %llu of %llu", what, (unsigned long long)index,
                          (unsigned long long)count);
    }
    return lora__out_write(out, list[index], sizeof *list[index], error);
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
    return report_get(out, "problem", report->problem_list,
                      report->problems.count, index, error);
}

LORA_API size_t lora_report_fix_count(const lora_report *report)
{
    return report == NULL ? 0 : report->fixes.count;
}

LORA_API lora_status lora_report_get_fix(lora_problem *out,
                                         const lora_report *report,
                                         size_t index,
                                         lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    CHECK_ARG(report != NULL, error);
    return report_get(out, "repair", report->fix_list, report->fixes.count,
                      index, error);
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
