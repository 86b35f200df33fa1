/* Modules as full differences: the kind of which nothing can be said but what
 * it does, and that every program that knows it computes alike.
 */
#include "op/full.h"

#include "adapter/config.h"
#include "op/emit.h"
#include "op/full_source.h"
#include "op/report.h"

#include <math.h>
#include <string.h>

typedef struct full_job {
    lora_adapter *adapter;
    const lora__dialect *named;
    lora_dtype dtype;
    int skip_bad;
    lora__container *container; /* of the differences */
    lora__full_source *source;
    unsigned char *left_out; /* one a module */
    size_t *first; /* the module's first item; its end is the next's */
    lora_report *report;
    double *squares; /* of each item: the change's, and what rounding loses */
    double *lost;
} full_job;

/* ---- planning ---------------------------------------------------------- */

/* Whether a module becomes a difference: its weight changes, or it has a bias
 * in the place of the base's, and is none yet. */
static int full_applies(const lora__module *module)
{
    return ((module->changes & LORA_PART_WEIGHT) != 0 ||
            lora__module_replaces_bias(module)) &&
           lora__module_find(module, LORA__ROLE_DIFF) == NULL &&
           lora__module_find(module, LORA__ROLE_NORM_WEIGHT) == NULL;
}

/* What a difference has no place for. */
static lora_status full_check(const full_job *job,
                              const lora__module *module,
                              const lora__full_item *item,
                              lora_error *error)
{
    const lora__dialect *dialect =
        job->named != NULL ? job->named : module->dialect;
    lora__role role =
        item->part == LORA_PART_BIAS ? LORA__ROLE_DIFF_BIAS : LORA__ROLE_DIFF;

    if (module->padded) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "a weight with zeros put to it has no difference");
    }
    if (item->ndim == 2 && !module->known &&
        lora__config_transposed(job->adapter->config, module->target)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "the difference of a weight that is stored "
                          "transposed has no name");
    }
    return lora__dialect_has_role(dialect, role)
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name,
                            "%s has no name for a full difference: choose "
                            "another dialect, such as kohya",
                            lora__dialect_id(dialect));
}

static lora_status
full_plan_part(full_job *job, size_t index, lora_part part, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__found_base found;
    lora__rows_how how;
    lora__full_item item;
    lora__full_reading window;

    memset(&item, 0, sizeof item);
    TRY(lora__base_how(&how, &found, job->source->base, module, part, error));
    if (lora__base_lacks_bias(module, part, &how)) {
        return LORA_OK; /* it scales the bias, and there is none */
    }
    item.module = index;
    item.part = part;
    item.dtype = job->dtype != LORA_DTYPE_NONE ? job->dtype : module->dtype;
    TRY(lora__rows_plan(item.shape, &item.ndim, module, &how, error));
    TRY(full_check(job, module, &item, error));
    TRY(lora__full_source_add(job->container, job->source, &item, error));
    if (job->skip_bad) {
        memset(&window, 0, sizeof window);
        TRY(lora__full_open(
            &window, &job->source->items[job->source->count - 1], error));
        lora__full_close(&window);
    }
    return LORA_OK;
}

/* What the base does not fit is as unusable as what does not fit in itself. */
static lora_status
full_plan_module(full_job *job, size_t index, lora_error *error)
{
    static const lora_part parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};
    const lora__module *module = &job->adapter->modules[index];

    TRY(lora__module_check(module, error));
    for (size_t i = 0; i < LORA__COUNT(parts) && full_applies(module); i++) {
        lora_status status = (module->changes & parts[i]) != 0
                                 ? full_plan_part(job, index, parts[i], error)
                                 : LORA_OK;
        if (job->skip_bad && job->source->base != NULL &&
            (status == LORA_ERROR_KEY || status == LORA_ERROR_SHAPE ||
             status == LORA_ERROR_DTYPE)) {
            lora__error_begin(error);
            job->left_out[index] = 1;
            return lora__problems_add(
                &job->report->problems, LORA_SEVERITY_WARNING, LORA_OK,
                "left_out", module->name, error, "unusable, so left out");
        }
        TRY(status);
    }
    return LORA_OK;
}

static lora_status full_plan(full_job *job, lora_error *error)
{
    size_t count = job->adapter->module_count;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->report->arena, count, 1, error));
    job->left_out = memory;
    TRY(lora__arena_zeroed(&memory, &job->report->arena, count + 1,
                           sizeof *job->first, error));
    job->first = memory;
    for (size_t m = 0; m < count; m++) {
        job->first[m] = job->source->count;
        TRY(full_plan_module(job, m, error));
    }
    job->first[count] = job->source->count;
    TRY(lora__arena_zeroed(&memory, &job->report->arena, 2 * count + 1,
                           2 * sizeof *job->squares, error));
    job->squares = memory;
    job->lost = job->squares + 2 * count + 1;
    return LORA_OK;
}

/* ---- measuring --------------------------------------------------------- */

/* So many numbers are compared at a time. */
#define FULL_WIDE 512

/* Squares of some numbers, and of what rounding makes them differ by. */
static lora_status full_compare(double *squares,
                                double *lost,
                                const lora__full_reading *window,
                                size_t count,
                                lora_error *error)
{
    const lora__full_item *item = window->item;
    const lora__kernels *kernels = item->source->kernels;
    size_t size = lora__rows_size(&window->state);
    size_t rounded = lora_dtype_bits(item->dtype) / 8;
    double numbers[FULL_WIDE];
    double there[FULL_WIDE];

    for (size_t done = 0; done < count; done += FULL_WIDE) {
        size_t step = count - done < FULL_WIDE ? count - done : FULL_WIDE;
        TRY(lora__convert_to_f64(numbers, window->numbers + done * size,
                                 window->state.dtype, step, kernels, error));
        TRY(lora__convert_to_f64(there, window->rounded + done * rounded,
                                 item->dtype, step, kernels, error));
        *squares += kernels->dot_f64(numbers, numbers, step);
        kernels->axpy_f64(there, numbers, -1.0, step);
        *lost += kernels->dot_f64(there, there, step);
    }
    return LORA_OK;
}

/* A job of lora__run_jobs(): every number of an item is finite. */
static lora_status
full_measure(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    full_job *job = arg;
    const lora__full_item *item = &job->source->items[index];
    const lora__module *module = &job->adapter->modules[item->module];
    lora__full_reading window;
    double lost = 0.0;
    double squares = 0.0;
    lora_status status;

    (void)worker;
    memset(&window, 0, sizeof window);
    if (job->left_out[item->module]) {
        return LORA_OK;
    }
    TRY(lora__full_open(&window, item, error));
    for (size_t row = 0; row < window.state.rows; row += window.step) {
        size_t left = window.state.rows - row;
        size_t step = left < window.step ? left : window.step;
        TRY_OR_DONE(lora__full_read(&window, item, row, row + step, error));
        TRY_OR_DONE(full_compare(&squares, &lost, &window,
                                 step * window.state.cols, error));
    }
    status = squares - squares != 0.0
                 ? lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                              module->name, "the change is not finite")
             : lost - lost != 0.0
                 ? lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                              module->name,
                              "the change is too large for %s: choose another "
                              "dtype",
                              lora_dtype_name(item->dtype))
                 : LORA_OK;
    job->squares[index] = squares;
    job->lost[index] = lost;
done:
    lora__full_close(&window);
    return status;
}

/* A row for each module that became a difference, of its weight, or of its bias
 * where that is all. */
static lora_status full_report(full_job *job, lora_error *error)
{
    lora_report *report = job->report;
    double total = 0.0;
    double lost = 0.0;
    size_t count = 0;

    TRY(lora__report_add_modules(report, job->adapter->module_count, error));
    for (size_t m = 0; m < job->adapter->module_count; m++) {
        lora_report_module *row = &report->modules[count];
        const lora__module *module = &job->adapter->modules[m];
        size_t item = job->first[m];
        if (job->first[m + 1] == item || job->left_out[m]) {
            continue;
        }
        row->struct_size = sizeof *row;
        TRY(lora__arena_string(&row->name, &report->arena, module->name,
                               strlen(module->name), error));
        row->rank_in = module->rank;
        row->error = sqrt(job->lost[item]);
        row->energy = job->squares[item] > 0.0
                          ? 1.0 - job->lost[item] / job->squares[item]
                          : 1.0;
        row->frobenius = sqrt(fmax(row->energy, 0.0));
        total += job->squares[item];
        lost += job->lost[item];
        count++;
    }
    report->module_count = count;
    lora__buffer_putc(&report->json, '{');
    lora__report_put_modules(report);
    lora__report_put_totals(report, total, lost);
    lora__buffer_putc(&report->json, '}');
    lora__report_put_problems(report);
    lora__buffer_putc(&report->json, '}');
    return lora__report_finish(report, error);
}

/* ---- the result -------------------------------------------------------- */

/* What a module was, in the type. */
static lora_status full_emit_kept(lora__emit *emit,
                                  const full_job *job,
                                  const lora__module *module,
                                  lora_error *error)
{
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        TRY(lora__emit_spell(emit, module, member->role, error));
        TRY(lora__emit_entry(emit, emit->name.data, member->entry, 1.0,
                             lora__emit_is_scale(member->role) ? LORA_DTYPE_NONE
                                                               : job->dtype,
                             -1, NULL, error));
    }
    return LORA_OK;
}

static lora_status
full_emit_module(lora__emit *emit, full_job *job, size_t m, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[m];

    if (job->left_out[m]) {
        return LORA_OK;
    }
    if (job->first[m + 1] == job->first[m]) {
        return full_emit_kept(emit, job, module, error);
    }
    for (size_t i = job->first[m]; i < job->first[m + 1]; i++) {
        lora__role role = job->source->items[i].part == LORA_PART_BIAS
                              ? LORA__ROLE_DIFF_BIAS
                              : LORA__ROLE_DIFF;
        TRY(lora__emit_spell(emit, module, role, error));
        TRY(lora__builder_add_entry(emit->builder, emit->name.data,
                                    job->container, i, -1, NULL, error));
    }
    return LORA_OK;
}

/* LyCORIS' name for it, where the trainer is told at all. */
static lora_status full_metadata(lora__emit *emit, lora_error *error)
{
    static const char *const pairs[][2] = {
        {"ss_network_dim", NULL},
        {"ss_network_alpha", NULL},
        {"ss_network_module", "lycoris.kohya"},
        {"ss_network_args", "{\"algo\": \"full\"}"}};
    int told =
        lora__builder_metadata(emit->builder, "ss_network_module") != NULL;

    for (size_t i = 0; i < LORA__COUNT(pairs); i++) {
        if (told ||
            lora__builder_metadata(emit->builder, pairs[i][0]) != NULL) {
            TRY(lora_builder_set_metadata(emit->builder, pairs[i][0],
                                          pairs[i][1], error));
        }
    }
    emit->changed = 1;
    return lora__emit_metadata(emit, error);
}

static lora_status
full_emit(lora_adapter **out, full_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    lora__emit emit;
    lora_status status;

    TRY_OR_DONE(lora__emit_begin(&emit, adapter, adapter->module_count, NULL,
                                 adapter->names.family, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        TRY_OR_DONE(full_emit_module(&emit, job, m, error));
    }
    TRY_OR_DONE(lora__emit_rest(&emit, error));
    if (job->source->count != 0) {
        TRY_OR_DONE(full_metadata(&emit, error));
    }
    status = lora__emit_finish(out, &emit, error);
done:
    lora__emit_end(&emit);
    return status;
}

LORA_PRIVATE lora_status lora__full_make(lora_adapter **out,
                                         lora_report **out_report,
                                         lora_adapter *adapter,
                                         lora__checkpoint *base,
                                         const lora__dialect *named,
                                         lora_dtype dtype,
                                         int skip_bad,
                                         lora_error *error)
{
    full_job job;
    lora_adapter *result = NULL;
    lora_status status;

    memset(&job, 0, sizeof job);
    job.adapter = adapter;
    job.named = named;
    job.dtype = dtype;
    job.skip_bad = skip_bad;
    TRY(lora__full_source_create(&job.container, &job.source, adapter, base,
                                 2 * adapter->module_count, error));
    TRY_OR_DONE(lora__report_create(&job.report, adapter->context, error));
    TRY_OR_DONE(full_plan(&job, error));
    TRY_OR_DONE(lora__run_jobs(adapter->context, "convert", full_measure, &job,
                               job.source->count, error));
    TRY_OR_DONE(full_emit(&result, &job, error));
    TRY_OR_DONE(full_report(&job, error));
    if (out_report != NULL) {
        *out_report = job.report;
        job.report = NULL;
    }
    *out = result;
    result = NULL;
done:
    lora_adapter_destroy(result);
    lora_report_destroy(job.report);
    lora__container_release(job.container);
    return status;
}
