/* Checking an adapter: everything that would make it do nothing, do it twice,
 * or do harm.
 */
#include "adapter/adapter.h"
#include "core/options.h"
#include "core/text.h"
#include "op/hash.h"
#include "op/report.h"
#include "op/values.h"

#include <lora/check.h>

#include <string.h>

LORA_API void
lora_adapter_check_options_init(lora_adapter_check_options *options,
                                size_t size)
{
    lora__options_init(options, size);
}

/* The largest finite F16: what is above becomes infinite in it. */
#define CHECK_F16_MAX 65504.0

typedef struct check_job {
    const lora_adapter *adapter;
    lora__values *values; /* one a tensor */
} check_job;

static lora_status check_note_values(const check_job *job,
                                     lora__problems *problems,
                                     lora_error *error)
{
    const lora__container *container = job->adapter->container;

    for (size_t i = 0; i < container->entry_count; i++) {
        const lora__values *values = &job->values[i];
        const lora__entry *entry = &container->entries[i];
        if (values->bad != 0) {
            TRY(lora__problems_add(
                problems, LORA_SEVERITY_ERROR, LORA_ERROR_NONFINITE,
                "nonfinite", entry->name, error,
                "%llu of %llu values are NaN or infinite, the first is %llu",
                (unsigned long long)values->bad,
                (unsigned long long)entry->elements,
                (unsigned long long)values->first_bad));
        }
        if (values->largest > CHECK_F16_MAX) {
            TRY(lora__problems_add(problems, LORA_SEVERITY_WARNING, LORA_OK,
                                   "f16_overflow", entry->name, error,
                                   "has values above 65504: infinite in F16"));
        }
    }
    return LORA_OK;
}

/* A pair one of whose factors is zero changes nothing. */
static int check_is_idle(const check_job *job, const lora__module *module)
{
    static const lora__role roles[] = {LORA__ROLE_UP, LORA__ROLE_DOWN,
                                       LORA__ROLE_DIFF, LORA__ROLE_NORM_WEIGHT};

    if (module->status != LORA_OK || (module->changes & LORA_PART_BIAS) != 0) {
        return 0;
    }
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        const lora__member *member = lora__module_find(module, roles[i]);
        if (member != NULL && job->values[member->entry].bad == 0 &&
            job->values[member->entry].largest == 0.0) {
            return 1;
        }
    }
    return module->scale == 0.0;
}

static lora_status check_note_modules(const check_job *job,
                                      lora__problems *problems,
                                      lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    size_t idle = 0;
    size_t ranked = 0;
    size_t without_alpha = 0;
    const char *first_idle = "";
    const char *first_without = "";

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        ranked += module->rank > 0;
        if (check_is_idle(job, module) && idle++ == 0) {
            first_idle = module->name;
        }
        if (module->rank > 0 && !module->has_alpha && without_alpha++ == 0) {
            first_without = module->name;
        }
    }
    if (idle != 0) {
        TRY(lora__problems_add(problems, LORA_SEVERITY_WARNING, LORA_OK,
                               "no_effect", first_idle, error,
                               "%llu of %llu modules change nothing: all zero",
                               (unsigned long long)idle,
                               (unsigned long long)adapter->module_count));
    }
    if (without_alpha != 0 && without_alpha != ranked) {
        TRY(lora__problems_add(
            problems, LORA_SEVERITY_WARNING, LORA_OK, "alpha_mixed",
            first_without, error,
            "%llu of %llu modules lack alpha: kohya takes scale 1, diffusers "
            "the most common alpha",
            (unsigned long long)without_alpha, (unsigned long long)ranked));
    }
    return LORA_OK;
}

/* kohya's summary of the ranks, where no module has that rank. */
static lora_status check_note_metadata(const check_job *job,
                                       lora__problems *problems,
                                       lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    const char *text =
        lora__container_metadata(adapter->container, "ss_network_dim");
    size_t used = 0;
    size_t ranked = 0;
    double rank;

    if (text == NULL) {
        return LORA_OK;
    }
    rank = lora__text_to_double(text, strlen(text), &used);
    if (used == 0 || text[used] != '\0') {
        return LORA_OK; /* "Dynamic", "None" */
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        ranked += adapter->modules[m].rank > 0;
        if ((double)adapter->modules[m].rank == rank) {
            return LORA_OK;
        }
    }
    return ranked == 0
               ? LORA_OK
               : lora__problems_add(problems, LORA_SEVERITY_WARNING, LORA_OK,
                                    "stale_metadata", "ss_network_dim", error,
                                    "says rank %s, which no module has", text);
}

/* kohya's hash of the tensors, where it is of others: front ends that know
 * files by it take this one for another. LyCORIS' form ("0x") is of an order
 * that files do not keep: nothing is sure. */
static lora_status check_note_hash(const check_job *job,
                                   lora__problems *problems,
                                   lora_error *error)
{
    const lora__container *container = job->adapter->container;
    const char *stored = lora__container_metadata(container, "sshs_model_hash");
    lora__hash_order order = LORA__HASH_WRITER;

    if (stored != NULL && strncmp(stored, "0x", 2) != 0) {
        TRY(lora__hash_find_order(&order, stored, container, error));
    }
    return order != LORA__HASH_FILE
               ? LORA_OK
               : lora__problems_add(
                     problems, LORA_SEVERITY_WARNING, LORA_OK, "stale_hash",
                     "sshs_model_hash", error,
                     "is not the hash of these tensors, in either order");
}

/* Names that the base does not have: such modules are never applied. */
static lora_status check_note_family(const check_job *job,
                                     const lora__family *family,
                                     lora__problems *problems,
                                     lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    size_t missing = 0;
    const char *first = "";

    if (adapter->module_count == 0) {
        return LORA_OK;
    }
    if (family == NULL) {
        return lora__problems_add(problems, LORA_SEVERITY_NOTE, LORA_OK,
                                  "unknown_base", "", error,
                                  "the base model is not certain");
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (lora__family_layer(family, module->target) == LORA__LAYER_UNKNOWN &&
            missing++ == 0) {
            first = module->name;
        }
    }
    return missing == 0
               ? LORA_OK
               : lora__problems_add(
                     problems, LORA_SEVERITY_WARNING, LORA_OK, "unknown_target",
                     first, error,
                     "%llu of %llu modules are for layers %s does not have",
                     (unsigned long long)missing,
                     (unsigned long long)adapter->module_count,
                     lora__family_id(family));
}

static lora_status
check_write(lora_report *report, const lora_adapter *adapter, lora_error *error)
{
    static const char *const verdicts[] = {"ok", "ok", "warnings", "errors"};
    const lora__problem_node *node = report->problems.first;
    lora__buffer *json = &report->json;
    uint64_t counts[4] = {0};
    lora_severity worst = 0;

    for (; node != NULL; node = node->next) {
        counts[node->problem.severity]++;
        worst = node->problem.severity > worst ? node->problem.severity : worst;
    }
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "file", adapter->container->path);
    lora__report_put_string(json, "verdict", verdicts[worst]);
    lora__report_put_u64(json, "errors", counts[LORA_SEVERITY_ERROR]);
    lora__report_put_u64(json, "warnings", counts[LORA_SEVERITY_WARNING]);
    lora__report_put_u64(json, "notes", counts[LORA_SEVERITY_NOTE]);
    lora__report_put_problems(report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(report, error);
}

static lora_status check_run(lora_report *report,
                             check_job *job,
                             const lora__family *family,
                             lora_error *error)
{
    lora__problems *problems = &report->problems;
    void *memory;

    TRY(lora__report_copy_problems(report, job->adapter, error));
    TRY(lora__arena_zeroed(&memory, &report->arena,
                           job->adapter->container->entry_count,
                           sizeof *job->values, error));
    job->values = memory;
    TRY(lora__values_scan(job->values, job->adapter, error));
    TRY(check_note_values(job, problems, error));
    TRY(check_note_modules(job, problems, error));
    TRY(check_note_metadata(job, problems, error));
    TRY(check_note_hash(job, problems, error));
    TRY(check_note_family(job, family, problems, error));
    return check_write(report, job->adapter, error);
}

LORA_API lora_status
lora_adapter_check(lora_report **out,
                   const lora_adapter *adapter,
                   const lora_adapter_check_options *options,
                   lora_error *error)
{
    lora_adapter_check_options o;
    const lora__family *family;
    lora_report *report = NULL;
    check_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_check_options, family),
                           options, error));
    family = adapter->names.family;
    if (o.family != NULL) {
        family = lora__family_find(o.family);
        if (family == NULL) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              o.family, "no such family");
        }
    }
    memset(&job, 0, sizeof job);
    job.adapter = adapter;
    TRY_OR_DONE(lora__report_create(&report, adapter->context, error));
    TRY_OR_DONE(check_run(report, &job, family, error));
    *out = report;
    report = NULL;
done:
    lora_report_destroy(report);
    return status;
}
