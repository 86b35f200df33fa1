/* Reports inside the library: an operation fills one in, then it is fixed. */
#ifndef LORA__OP_REPORT_H
#define LORA__OP_REPORT_H

#include "adapter/adapter.h"
#include "format/json.h"

#include <lora/report.h>

struct lora_report {
    lora_context *context;
    lora__arena arena;
    lora__buffer json;
    lora_report_module *modules;
    size_t module_count;
    lora__problems problems;
    lora__problems fixes;
    const lora_problem **problem_list; /* set by lora__report_finish() */
    const lora_problem **fix_list;     /* the same */
};

LORA_PRIVATE lora_status lora__report_create(lora_report **out,
                                             lora_context *context,
                                             lora_error *error);

/* Room for `count` modules, zeroed. */
LORA_PRIVATE lora_status lora__report_add_modules(lora_report *report,
                                                  size_t count,
                                                  lora_error *error);

/* Take over the problems found on opening. */
LORA_PRIVATE lora_status lora__report_copy_problems(lora_report *report,
                                                    const lora_adapter *adapter,
                                                    lora_error *error);

/* Append "modules":[...] of a report on ranks. */
LORA_PRIVATE void lora__report_put_modules(lora_report *report);

/* Begin "totals":{ with what all modules lose, of squared norms; the brace is
 * for the caller to close. */
LORA_PRIVATE void
lora__report_put_totals(lora_report *report, double total, double lost);

/* Append "problems":[...], or "fixes":[...], to the JSON text. */
LORA_PRIVATE void lora__report_put_problems(lora_report *report);
LORA_PRIVATE void lora__report_put_fixes(lora_report *report);

/* Append a member "key":"value"; value NULL writes null. */
LORA_PRIVATE void
lora__report_put_string(lora__buffer *json, const char *key, const char *value);
LORA_PRIVATE void
lora__report_put_u64(lora__buffer *json, const char *key, uint64_t value);
LORA_PRIVATE void
lora__report_put_number(lora__buffer *json, const char *key, double value);
LORA_PRIVATE void
lora__report_put_bool(lora__buffer *json, const char *key, int value);

/* Append "key":[0.5,0.25], measured numbers. */
LORA_PRIVATE void lora__report_put_values(lora__buffer *json,
                                          const char *key,
                                          const double *values,
                                          size_t count);

/* Append "key":[1,2,3]. */
LORA_PRIVATE void lora__report_put_shape(lora__buffer *json,
                                         const char *key,
                                         const int64_t *shape,
                                         int32_t ndim);

/* Make the report ready for its readers; fails if the text is not whole. */
LORA_PRIVATE lora_status lora__report_finish(lora_report *report,
                                             lora_error *error);

#endif
