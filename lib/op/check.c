/* Checking an adapter: everything that would make it do nothing, do it twice,
 * or do harm.
 */
#include "op/check.h"

#include "core/options.h"
#include "op/emit.h"
#include "op/hash.h"

#include <string.h>

LORA_API void
lora_adapter_check_options_init(lora_adapter_check_options *options,
                                size_t size)
{
    lora__options_init(options, size);
}

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
        if (values->largest > LORA__CHECK_F16_MAX) {
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

LORA_PRIVATE lora__alpha_doubt lora__check_alpha(const lora__module *module)
{
    if (module->status != LORA_OK || module->rank == 0) {
        return LORA__ALPHA_CLEAR;
    }
    if (!module->has_alpha) {
        return LORA__ALPHA_MISSING;
    }
    /* A scale of its own goes before alpha. */
    if (lora__module_find(module, LORA__ROLE_ALPHA) == NULL ||
        lora__module_find(module, LORA__ROLE_SCALE) != NULL ||
        module->alpha > 0.0) {
        return LORA__ALPHA_CLEAR;
    }
    return module->alpha == 0.0 ? LORA__ALPHA_ZERO : LORA__ALPHA_NEGATIVE;
}

static lora_status check_note_alphas(const check_job *job,
                                     lora__problems *problems,
                                     lora_error *error)
{
    static const struct {
        const char *code;
        const char *meaning;
    } doubts[] = {
        {NULL, NULL},
        {"alpha_mixed", "lack alpha: kohya takes scale 1, diffusers the most "
                        "common alpha"},
        {"alpha_zero", "have alpha 0: kohya takes the rank, others no effect"},
        {"alpha_negative", "have an alpha below 0: diffusers never comes to an "
                           "end with some of them"},
    };
    const lora_adapter *adapter = job->adapter;
    size_t counts[LORA__COUNT(doubts)] = {0};
    const char *first[LORA__COUNT(doubts)] = {NULL};
    size_t ranked = 0;

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        lora__alpha_doubt doubt = lora__check_alpha(module);
        ranked += module->rank > 0;
        first[doubt] = counts[doubt]++ == 0 ? module->name : first[doubt];
    }
    for (size_t d = LORA__ALPHA_MISSING; d < LORA__COUNT(doubts); d++) {
        /* A file without any is read alike by all. */
        if (counts[d] != 0 &&
            (d != LORA__ALPHA_MISSING || counts[d] != ranked)) {
            TRY(lora__problems_add(
                problems, LORA_SEVERITY_WARNING, LORA_OK, doubts[d].code,
                first[d], error, "%llu of %llu modules %s",
                (unsigned long long)counts[d], (unsigned long long)ranked,
                doubts[d].meaning));
        }
    }
    return LORA_OK;
}

static lora_status check_note_idle(const check_job *job,
                                   lora__problems *problems,
                                   lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    size_t idle = 0;
    const char *first = "";

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (check_is_idle(job, module) && idle++ == 0) {
            first = module->name;
        }
    }
    return idle == 0 ? LORA_OK
                     : lora__problems_add(
                           problems, LORA_SEVERITY_WARNING, LORA_OK,
                           "no_effect", first, error,
                           "%llu of %llu modules change nothing: all zero",
                           (unsigned long long)idle,
                           (unsigned long long)adapter->module_count);
}

/* Names that PEFT takes the adapter's name out of when it saves, and puts it
 * into when it loads: there it is twice then. */
static lora_status check_note_raw(const check_job *job,
                                  lora__problems *problems,
                                  lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    size_t raw = 0;
    const char *first = "";

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (lora__dialect_published(module->dialect) != module->dialect &&
            raw++ == 0) {
            first = module->name;
        }
    }
    return raw == 0
               ? LORA_OK
               : lora__problems_add(
                     problems, LORA_SEVERITY_NOTE, LORA_OK, "raw_names", first,
                     error,
                     "%llu of %llu modules have the adapter's name in their "
                     "keys: PEFT does not load them",
                     (unsigned long long)raw,
                     (unsigned long long)adapter->module_count);
}

/* kohya's summary of the ranks, where no module has that rank. */
static lora_status check_note_metadata(const check_job *job,
                                       lora__problems *problems,
                                       lora_error *error)
{
    const lora_adapter *adapter = job->adapter;

    return !lora__emit_rank_is_stale(adapter, NULL)
               ? LORA_OK
               : lora__problems_add(problems, LORA_SEVERITY_WARNING, LORA_OK,
                                    "stale_metadata", "ss_network_dim", error,
                                    "says rank %s, which no module has",
                                    lora__container_metadata(adapter->container,
                                                             "ss_network_dim"));
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

LORA_PRIVATE void lora__check_put(lora_report *report)
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
    lora__report_put_string(json, "verdict", verdicts[worst]);
    lora__report_put_u64(json, "errors", counts[LORA_SEVERITY_ERROR]);
    lora__report_put_u64(json, "warnings", counts[LORA_SEVERITY_WARNING]);
    lora__report_put_u64(json, "notes", counts[LORA_SEVERITY_NOTE]);
    lora__report_put_problems(report);
}

LORA_PRIVATE lora_status lora__check_find(lora_report *report,
                                          lora__values **values,
                                          const lora_adapter *adapter,
                                          const lora__family *family,
                                          lora_error *error)
{
    lora__problems *problems = &report->problems;
    check_job job = {adapter, NULL};
    void *memory;

    TRY(lora__report_copy_problems(report, adapter, error));
    TRY(lora__arena_zeroed(&memory, &report->arena,
                           adapter->container->entry_count, sizeof *job.values,
                           error));
    *values = job.values = memory;
    TRY(lora__values_scan(job.values, adapter, error));
    TRY(check_note_values(&job, problems, error));
    TRY(check_note_idle(&job, problems, error));
    TRY(check_note_alphas(&job, problems, error));
    TRY(check_note_raw(&job, problems, error));
    TRY(check_note_metadata(&job, problems, error));
    TRY(check_note_hash(&job, problems, error));
    return check_note_family(&job, family, problems, error);
}

LORA_PRIVATE lora_status lora__check_family(const lora__family **out,
                                            const lora_adapter *adapter,
                                            const char *id,
                                            lora_error *error)
{
    *out = id == NULL ? adapter->names.family : lora__family_find(id);
    return id == NULL || *out != NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, id,
                            "no such family");
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
    lora__values *values;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_check_options, family),
                           options, error));
    TRY(lora__check_family(&family, adapter, o.family, error));
    TRY_OR_DONE(lora__report_create(&report, adapter->context, error));
    TRY_OR_DONE(lora__check_find(report, &values, adapter, family, error));
    lora__buffer_putc(&report->json, '{');
    lora__report_put_string(&report->json, "file", adapter->container->path);
    lora__check_put(report);
    lora__buffer_putc(&report->json, '}');
    TRY_OR_DONE(lora__report_finish(report, error));
    *out = report;
    report = NULL;
done:
    lora_report_destroy(report);
    return status;
}
