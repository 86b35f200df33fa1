/* Repairing an adapter: what a check finds and there is one way to mend.
 *
 * The result is made tensor by tensor: by reference where nothing is wrong, so
 * that a sound file comes out as it went in. Then it is checked as its source
 * was; what is found still is said with the reason.
 */
#include "op/fix.h"

#include "core/options.h"
#include "op/derive.h"
#include "op/emit.h"

#include <string.h>

LORA_API void lora_adapter_fix_options_init(lora_adapter_fix_options *options,
                                            size_t size)
{
    lora__options_init(options, size);
}

/* What is done to many modules is said once, with the first of them. */
typedef enum fix_kind {
    FIX_NAMES,
    FIX_RAW,
    FIX_ALPHA_MISSING,
    FIX_ALPHA_ZERO,
    FIX_ALPHA_NEGATIVE,
    FIX_RANGE,
    FIX_KINDS
} fix_kind;

typedef struct fix_job {
    const lora_adapter *adapter;
    const lora__family *family;
    lora_builder *builder;
    lora__arena arena;
    lora__buffer name;
    lora__values *values; /* one a tensor */
    unsigned char *bad;   /* one a module */
    const char **names;   /* of the members of a module, in the result */
    int skip_bad;
    int mixed;   /* some modules have an alpha */
    int changed; /* numbers */
    int stale_hash;
    size_t counts[FIX_KINDS];
    const char *first[FIX_KINDS];
    lora__problems fixes;
} fix_job;

static void fix_count(fix_job *job, fix_kind kind, const lora__module *module)
{
    if (job->counts[kind]++ == 0) {
        job->first[kind] = module->name;
    }
}

/* ---- names ------------------------------------------------------------- */

/* Spell a role of a module as its dialect does, or with `keep` behind the name
 * it has. A name that only carried what does not belong to it is kept without.
 * `key`: how the tensor was named, or NULL. */
static lora_status fix_spell(fix_job *job,
                             const char **out,
                             const lora__module *module,
                             lora__role role,
                             const char *key,
                             int keep,
                             lora_error *error)
{
    const lora__dialect *dialect = lora__dialect_published(module->dialect);
    lora__spelling spelling;
    int anew =
        !keep && module->broken && module->known && dialect == module->dialect;

    memset(&spelling, 0, sizeof spelling);
    spelling.family = job->family;
    spelling.target = module->target;
    spelling.stored = keep ? module->name : module->path;
    spelling.stored_dialect = anew ? NULL : dialect;
    spelling.key = key;
    spelling.known = module->known;
    spelling.role = role;
    lora__buffer_clear(&job->name);
    TRY(lora__names_write(&job->name, dialect, &spelling, error));
    return lora__arena_string(out, &job->arena, job->name.data, job->name.bytes,
                              error);
}

/* 1 if the name is that of a tensor of something else. */
static int fix_is_taken(const fix_job *job, const char *name, size_t module)
{
    size_t at;

    return lora__map_find(&at, &job->adapter->container->by_name, name,
                          strlen(name)) &&
           job->adapter->entry_module[at] != module;
}

/* Names for all members, or the old ones where one of them has none;
 * *out_spelled says which. */
static lora_status
fix_names(fix_job *job, int *out_spelled, size_t m, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[m];
    const lora__entry *entries = job->adapter->container->entries;
    int raw = lora__dialect_published(module->dialect) != module->dialect;
    int spelled = module->broken || raw;
    int same = 1;

    for (size_t i = 0; spelled && i < module->member_count; i++) {
        const char *old = entries[module->members[i].entry].name;
        lora_error found;
        lora_status status;

        lora_error_init(&found, sizeof found);
        status = fix_spell(job, &job->names[i], module, module->members[i].role,
                           old, 0, &found);
        if (status == LORA_ERROR_MEMORY) {
            return lora__error_merge(error, &found);
        }
        spelled = status == LORA_OK && !fix_is_taken(job, job->names[i], m);
        same = same && spelled && strcmp(job->names[i], old) == 0;
    }
    if (spelled && !same) {
        fix_count(job, module->broken ? FIX_NAMES : FIX_RAW, module);
    }
    for (size_t i = 0; !spelled && i < module->member_count; i++) {
        job->names[i] = entries[module->members[i].entry].name;
    }
    *out_spelled = spelled;
    return LORA_OK;
}

/* ---- modules ----------------------------------------------------------- */

static lora_status fix_put_alpha(fix_job *job,
                                 const char *name,
                                 const lora__fix_scale *scale,
                                 int32_t ndim,
                                 lora_error *error)
{
    const int64_t one[LORA_MAX_DIMS] = {1, 1, 1, 1, 1, 1, 1, 1};
    lora_dtype dtype = lora__emit_alpha_dtype(scale->dtype, scale->alpha);
    void *data;

    TRY(lora__emit_encode(&data, job->adapter->context, name, dtype,
                          &scale->alpha, 1, error));
    return lora__builder_adopt(job->builder, name, dtype, ndim, one, data,
                               error);
}

static lora_status fix_put_member(fix_job *job,
                                  const lora__member *member,
                                  const char *name,
                                  double factor,
                                  lora_error *error)
{
    lora__container *container = job->adapter->container;
    lora_dtype dtype = container->entries[member->entry].dtype;

    return factor == 1.0
               ? lora__builder_add_entry(job->builder, name, container,
                                         member->entry, -1, NULL, error)
               : lora__builder_add_derived(job->builder, name, container,
                                           member->entry, -1, NULL, dtype,
                                           lora__derive_scaled, factor, error);
}

static lora_status fix_module(fix_job *job, size_t m, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[m];
    const lora__entry *entries = job->adapter->container->entries;
    const char *name = NULL; /* of alpha */
    lora__fix_scale scale;
    int spelled;

    TRY(fix_names(job, &spelled, m, error));
    TRY(lora__fix_scale_find(&scale, job->adapter, module, job->values,
                             job->mixed, error));
    if (scale.doubt == LORA__ALPHA_MISSING) {
        TRY(fix_spell(job, &name, module, LORA__ROLE_ALPHA, NULL, !spelled,
                      error));
        if (fix_is_taken(job, name, m)) {
            scale.doubt = LORA__ALPHA_CLEAR;
            scale.has_alpha = 0;
        } else {
            TRY(fix_put_alpha(job, name, &scale, 0, error));
        }
    }
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        if (member->role == LORA__ROLE_ALPHA && scale.has_alpha) {
            TRY(fix_put_alpha(job, job->names[i], &scale,
                              entries[member->entry].ndim, error));
        } else {
            TRY(fix_put_member(job, member, job->names[i],
                               lora__fix_scale_factor(&scale, member->role),
                               error));
        }
    }
    if (scale.doubt != LORA__ALPHA_CLEAR) {
        fix_count(
            job,
            (fix_kind)(FIX_ALPHA_MISSING - LORA__ALPHA_MISSING + scale.doubt),
            module);
    }
    if (scale.rescales) {
        fix_count(job, FIX_RANGE, module);
    }
    job->changed |= scale.has_alpha || scale.rescales;
    return LORA_OK;
}

/* As it is, or not at all. */
static lora_status fix_bad_module(fix_job *job, size_t m, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[m];
    const lora__entry *entries = job->adapter->container->entries;
    const char *why = module->reason;

    if (job->skip_bad) {
        job->changed = 1;
        return lora__problems_add(
            &job->fixes, 0, LORA_OK,
            module->status == LORA_OK ? "nonfinite" : "unusable", module->name,
            error, "left out: %s",
            module->status == LORA_OK ? "values are NaN or infinite" : why);
    }
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        TRY(fix_put_member(job, member, entries[member->entry].name, 1.0,
                           error));
    }
    return LORA_OK;
}

static lora_status fix_modules(fix_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    lora__container *container = adapter->container;

    for (size_t m = 0; m < adapter->module_count; m++) {
        if (job->bad[m]) {
            TRY(fix_bad_module(job, m, error));
        } else {
            TRY(fix_module(job, m, error));
        }
        TRY(lora__progress(adapter->context, "fix", m + 1,
                           adapter->module_count, error));
    }
    for (size_t i = 0; i < container->entry_count; i++) {
        if (adapter->entry_module[i] == SIZE_MAX) {
            TRY(lora__builder_add_entry(job->builder,
                                        container->entries[i].name, container,
                                        i, -1, NULL, error));
        }
    }
    return LORA_OK;
}

/* ---- metadata ---------------------------------------------------------- */

static lora_status fix_summary(fix_job *job, lora_error *error)
{
    char rank[LORA__SUMMARY_TEXT];

    TRY(lora__emit_summary(rank, job->builder, job->adapter, job->bad, NULL,
                           error));
    return lora__problems_add(&job->fixes, 0, LORA_OK, "stale_metadata",
                              "ss_network_dim", error, "is %s now", rank);
}

/* ---- the report -------------------------------------------------------- */

static lora_status fix_tell(fix_job *job, lora_error *error)
{
    static const struct {
        const char *code;
        const char *message;
    } kinds[FIX_KINDS] = {
        {"broken_names", "named as their dialect does"},
        {"raw_names", "freed of the adapter's name"},
        {"alpha_mixed", "given alpha = rank: scale 1, as before"},
        {"alpha_zero", "given alpha = rank: scale 1, as before"},
        {"alpha_negative", "given the sign in a factor, not in alpha"},
        {"f16_overflow", "scaled by a power of two and its inverse"},
    };

    for (size_t k = 0; k < FIX_KINDS; k++) {
        if (job->counts[k] != 0) {
            TRY(lora__problems_add(
                &job->fixes, 0, LORA_OK, kinds[k].code, job->first[k], error,
                "%llu %s %s", (unsigned long long)job->counts[k],
                job->counts[k] == 1 ? "module" : "modules", kinds[k].message));
        }
    }
    return LORA_OK;
}

/* Why a finding cannot be mended. */
static const char *fix_reason(const char *code)
{
    static const char *const reasons[][2] = {
        {"missing_pair", "the other half is not in the file"},
        {"incomplete", "what is missing is not in the file"},
        {"nonfinite", "the values are lost"},
        {"alpha_invalid", "the scale is lost"},
        {"rank_mismatch", "which of the tensors is right is not known"},
        {"shape", "which of the tensors is right is not known"},
        {"rank_zero", "there is nothing in it"},
        {"duplicate_module", "which of the two is meant is not known"},
        {"not_an_adapter", "there is nothing to repair"},
        {"f16_overflow", "no power of two brings all into range, exactly"},
        {"broken_names", "no model has the layer, or its name is taken"},
        {"unknown_key", "what it is for is not known"},
        {"unknown_target", "which layer is meant is not known"},
        {"metadata_invalid", "what it said is not known"},
        {"alpha_mixed", "the dialect has no place for alpha"},
        {"alpha_negative", "there is no factor for the sign"},
        {"no_effect", "it may be meant"},
    };

    for (size_t i = 0; i < LORA__COUNT(reasons); i++) {
        if (strcmp(code, reasons[i][0]) == 0) {
            return reasons[i][1];
        }
    }
    return NULL;
}

/* What a check of the result says, with the reasons. */
static lora_status fix_report(lora_report *report,
                              fix_job *job,
                              const lora_adapter *result,
                              lora_error *error)
{
    lora_report *after;
    lora__values *values;
    lora_status status;

    TRY(lora__report_create(&after, result->context, error));
    TRY_OR_DONE(lora__check_find(after, &values, result, job->family, error));
    for (const lora__problem_node *node = after->problems.first; node != NULL;
         node = node->next) {
        const lora_problem *p = &node->problem;
        const char *why = fix_reason(p->code);
        TRY_OR_DONE(lora__problems_add(
            &report->problems, p->severity, p->status, p->code, p->subject,
            error, "%s%s%s", p->message,
            why == NULL ? "" : "; not repaired: ", why == NULL ? "" : why));
    }
    for (const lora__problem_node *node = job->fixes.first; node != NULL;
         node = node->next) {
        const lora_problem *p = &node->problem;
        TRY_OR_DONE(lora__problems_add(&report->fixes, 0, LORA_OK, p->code,
                                       p->subject, error, "%s", p->message));
    }
    lora__buffer_putc(&report->json, '{');
    lora__report_put_string(&report->json, "file",
                            job->adapter->container->path);
    lora__report_put_fixes(report);
    lora__check_put(report);
    lora__buffer_putc(&report->json, '}');
    status = lora__report_finish(report, error);
done:
    lora_report_destroy(after);
    return status;
}

/* ---- all of it --------------------------------------------------------- */

/* Which modules can be repaired, and what is wrong with the metadata. */
static lora_status
fix_survey(fix_job *job, lora_report *before, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    const lora__problem_node *node;
    size_t most = 1;
    size_t usable = 0;
    void *memory;

    TRY(lora__check_find(before, &job->values, adapter, job->family, error));
    for (node = before->problems.first; node != NULL; node = node->next) {
        job->stale_hash |= strcmp(node->problem.code, "stale_hash") == 0;
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, adapter->module_count, 1,
                           error));
    job->bad = memory;
    TRY(lora__values_admit(job->bad, job->values, adapter, 1, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        usable += !job->bad[m];
        job->mixed |= module->rank > 0 && module->has_alpha;
        most = module->member_count > most ? module->member_count : most;
    }
    TRY(lora__arena_zeroed(&memory, &job->arena, most, sizeof *job->names,
                           error));
    job->names = memory;
    return usable != 0 || !job->skip_bad || adapter->module_count == 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            adapter->container->path,
                            "no module can be used: nothing would be left");
}

static lora_status
fix_run(lora_adapter **out, fix_job *job, lora_report *before, lora_error *e)
{
    lora_adapter *result;
    lora_status status;

    TRY(fix_survey(job, before, e));
    TRY(lora_builder_create(&job->builder, job->adapter->context, NULL, e));
    TRY(lora__builder_copy_metadata(job->builder, job->adapter, e));
    TRY(fix_modules(job, e));
    TRY(fix_tell(job, e));
    if (lora__emit_rank_is_stale(job->adapter, job->bad)) {
        TRY(fix_summary(job, e));
    }
    if (job->stale_hash) {
        TRY(lora__problems_add(&job->fixes, 0, LORA_OK, "stale_hash",
                               "sshs_model_hash", e,
                               "is that of the tensors now"));
    }
    TRY(lora_builder_finish(&result, job->builder, e));
    status = lora__emit_hashes(&result, job->adapter,
                               job->changed || job->stale_hash, e);
    if (status != LORA_OK) {
        lora_adapter_destroy(result);
        return status;
    }
    *out = result;
    return LORA_OK;
}

LORA_API lora_status lora_adapter_fix(lora_adapter **out,
                                      lora_report **out_report,
                                      const lora_adapter *adapter,
                                      const lora_adapter_fix_options *options,
                                      lora_error *error)
{
    lora_adapter_fix_options o;
    lora_adapter *result = NULL;
    lora_report *before = NULL;
    lora_report *report = NULL;
    fix_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_fix_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(o.reserved1, error));
    TRY(lora__check_family(&job.family, adapter, o.family, error));
    job.adapter = adapter;
    job.skip_bad = o.skip_bad != 0;
    lora__arena_init(&job.arena, adapter->context);
    lora__buffer_init(&job.name, adapter->context);
    lora__problems_init(&job.fixes, &job.arena);
    TRY_OR_DONE(lora__report_create(&before, adapter->context, error));
    TRY_OR_DONE(fix_run(&result, &job, before, error));
    if (out_report != NULL) {
        TRY_OR_DONE(lora__report_create(&report, adapter->context, error));
        TRY_OR_DONE(fix_report(report, &job, result, error));
        *out_report = report;
        report = NULL;
    }
    *out = result;
    result = NULL;
done:
    lora_adapter_destroy(result);
    lora_report_destroy(report);
    lora_report_destroy(before);
    lora_builder_destroy(job.builder);
    lora__buffer_destroy(&job.name);
    lora__arena_destroy(&job.arena);
    return status;
}
