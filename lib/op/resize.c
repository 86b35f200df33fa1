/* Rank conversion: the call. */
#include "op/resize.h"

#include "core/options.h"
#include "op/report.h"

#include <lora/convert.h>

#include <string.h>

LORA_API void
lora_adapter_resize_options_init(lora_adapter_resize_options *options,
                                 size_t size)
{
    lora__options_init(options, size);
}

LORA_PRIVATE int lora__resize_applies(const lora__module *module)
{
    return module->rank > 0 || module->kind->factors != NULL;
}

/* Of DoRA the factors are those of the change inside; its magnitudes, which fix
 * the norms of rows, are kept, and fix those of the result too. With several
 * columns for an input they do not. */
static lora_status
resize_check_factors(const lora__resize *job, size_t index, lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    const lora__module inner = lora__module_inner(module);

    TRY(lora__module_has_factors(&inner, error));
    if (module->dora && lora__dora_is_of_kernels(job->adapter, module)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s with DoRA on the inputs of a convolution cannot "
                          "be resized: convert it to LoRA with the base",
                          module->kind->id);
    }
    return LORA_OK;
}

/* Refuse what cannot be done before any work is done, and make room. */
static lora_status resize_plan(lora__resize *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;

    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        lora_report_module *numbers = &job->report->modules[m];
        size_t rank;
        size_t count;
        void *memory;

        numbers->struct_size = sizeof *numbers;
        /* A report outlives the adapter it tells about. */
        TRY(lora__arena_string(&numbers->name, &job->report->arena,
                               module->name, strlen(module->name), error));
        numbers->energy = 1.0;
        numbers->frobenius = 1.0;
        if (module->status != LORA_OK && job->options.skip_bad) {
            job->results[m].left_out = 1;
            continue;
        }
        TRY(lora__module_check(module, error));
        if (lora__resize_is_based(job, m)) {
            TRY(lora__resize_plan_based(job, m, error));
            continue;
        }
        if (!lora__resize_applies(module)) {
            continue;
        }
        TRY(resize_check_factors(job, m, error));
        rank = module->kind->factor_rank(adapter, module);
        count = lora__shape_size(module->shape, 1, module->ndim);
        count = count < rank ? count : rank;
        count =
            count < (size_t)module->shape[0] ? count : (size_t)module->shape[0];
        TRY(lora__arena_zeroed(&memory, &job->report->arena, count,
                               sizeof(double), error));
        numbers->sigma = memory;
        numbers->sigma_count = count;
        numbers->rank_in = (int64_t)rank;
        numbers->rank_out = (int64_t)rank;
    }
    return LORA_OK;
}

/* A rule that makes sense, and does not pad beyond what could be opened. */
static lora_status resize_check_rule(const lora__resize *job,
                                     const lora_rank_rule *rule,
                                     const char *subject,
                                     lora_error *error)
{
    uint64_t limit = lora__context_get(job->adapter->context)->limits.rank;

    TRY(lora__rank_rule_check(rule, subject, error));
    if (job->options.pad && rule->kind == LORA_RANK_FIXED &&
        (uint64_t)rule->rank > limit) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, subject,
                          "rank %d is over the limit of %llu", (int)rule->rank,
                          (unsigned long long)limit);
    }
    return LORA_OK;
}

static lora_status resize_check_options(const lora__resize *job,
                                        lora_error *error)
{
    const lora_adapter_resize_options *o = &job->options;

    TRY(resize_check_rule(job, job->rule, NULL, error));
    if (o->conv_rule != NULL) {
        CHECK_ARG(o->conv_rule->kind != LORA_RANK_SIZE, error);
        TRY(resize_check_rule(job, o->conv_rule, "conv_rule", error));
    }
    CHECK_ARG(o->override_count == 0 || o->overrides != NULL, error);
    for (size_t i = 0; i < o->override_count; i++) {
        CHECK_ARG(o->overrides[i].pattern != NULL, error);
        CHECK_ARG(o->overrides[i].rule.kind != LORA_RANK_SIZE, error);
        TRY(resize_check_rule(job, &o->overrides[i].rule,
                              o->overrides[i].pattern, error));
    }
    if (o->max_rank < 0 || o->min_rank < 0 ||
        (o->max_rank != 0 && o->min_rank > o->max_rank)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "max_rank",
                          "cap and floor do not fit");
    }
    CHECK_ARG(o->counting >= LORA_COUNT_EXACT &&
                  o->counting <= LORA_COUNT_LYCORIS,
              error);
    CHECK_ARG(o->split == LORA_SPLIT_EVEN || o->split == LORA_SPLIT_UP, error);
    if (o->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(o->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for factors",
                          lora_dtype_name(o->dtype));
    }
    if (job->adapter->module_count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          job->adapter->container->path,
                          "no adapter: there is nothing to resize");
    }
    return LORA_OK;
}

/* What stays but for its type is measured by what its tensors, rounded, make:
 * of pairs that is done by their factors. */
static lora_status resize_round_all(lora__resize *job, lora_error *error)
{
    lora_adapter_convert_options options;
    int others = 0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        others |= !job->results[m].left_out && !job->exact &&
                  lora__resize_applies(&job->adapter->modules[m]) &&
                  !lora__resize_is_based(job, m) &&
                  !job->adapter->modules[m].kind->is_pair;
    }
    if (!others || job->options.dtype == LORA_DTYPE_NONE) {
        return LORA_OK;
    }
    lora_adapter_convert_options_init(&options, sizeof options);
    options.dtype = job->options.dtype;
    options.skip_bad = job->options.skip_bad;
    return lora_adapter_convert(&job->rounded, job->adapter, &options, error);
}

static void resize_free(lora__resize *job)
{
    lora_context *context = job->adapter->context;

    lora_adapter_destroy(job->rounded);

    for (size_t m = 0; job->results != NULL && m < job->adapter->module_count;
         m++) {
        lora__free(context, job->results[m].up, job->results[m].up_bytes,
                   LORA__ALIGN_NUMERIC);
        lora__free(context, job->results[m].down, job->results[m].down_bytes,
                   LORA__ALIGN_NUMERIC);
        lora__free(context, job->results[m].core, job->results[m].core_bytes,
                   LORA__ALIGN_NUMERIC);
        lora__free(context, job->results[m].bias, job->results[m].bias_bytes,
                   LORA__ALIGN_NUMERIC);
    }
    if (job->results != NULL) {
        lora__free(context, job->results,
                   job->adapter->module_count * sizeof *job->results,
                   LORA__ALIGN);
    }
    lora_report_destroy(job->report);
}

/* The whole operation. */
static lora_status resize_work(lora_adapter **out,
                               lora_report **out_report,
                               lora__resize *job,
                               lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    lora_adapter *result = NULL;
    void *memory;
    lora_status status;

    TRY_OR_DONE(lora__report_create(&job->report, adapter->context, error));
    TRY_OR_DONE(
        lora__report_add_modules(job->report, adapter->module_count, error));
    TRY_OR_DONE(lora__alloc_zeroed(&memory, adapter->context,
                                   adapter->module_count, sizeof *job->results,
                                   error));
    job->results = memory;
    TRY_OR_DONE(resize_plan(job, error));
    TRY_OR_DONE(resize_round_all(job, error));
    lora__log(adapter->context, LORA_LOG_DEBUG,
              "resize: %llu modules, %u at a time, %s kernels",
              (unsigned long long)adapter->module_count,
              (unsigned)lora__concurrency(adapter->context),
              job->kernels->name);
    if (job->rule->kind == LORA_RANK_SIZE) {
        TRY_OR_DONE(lora__resize_plan_size(job, error));
    }
    TRY_OR_DONE(lora__run_jobs(adapter->context, "resize", lora__resize_module,
                               job, adapter->module_count, error));
    TRY_OR_DONE(lora__resize_emit(&result, job, error));
    TRY_OR_DONE(lora__resize_dora(job, result, error));
    TRY_OR_DONE(lora__resize_report(job, result, error));
    *out = result;
    result = NULL;
    if (out_report != NULL) {
        *out_report = job->report;
        job->report = NULL;
    }
done:
    lora_adapter_destroy(result);
    resize_free(job);
    return status;
}

/* Read the options and work on spectra that need not be complete, unless the
 * rule is for the whole file. */
static lora_status resize_run(lora_adapter **out,
                              lora_report **out_report,
                              lora__resize *job,
                              const lora_spectra *spectra,
                              const lora_rank_rule *rule,
                              const lora_adapter_resize_options *options,
                              lora_error *error)
{
    const lora_adapter *adapter = spectra->adapter;
    lora__checkpoint *base;
    lora_status status;

    job->spectra = spectra;
    job->adapter = adapter;
    job->rule = rule;
    job->kernels = lora__kernels_get(lora__context_get(adapter->context)->cpu);
    TRY(lora__options_read(&job->options, sizeof job->options,
                           LORA__SIZE_TO(lora_adapter_resize_options, base),
                           options, error));
    TRY(resize_check_options(job, error));
    if (job->options.base == NULL) {
        return resize_work(out, out_report, job, error);
    }
    TRY(lora__checkpoint_open(&base, adapter->context, job->options.base, 0,
                              error));
    job->base = base;
    status = resize_work(out, out_report, job, error);
    lora__checkpoint_release(base);
    return status;
}

/* Of spectra of its own, which are complete where the rule is for the whole
 * file. */
static lora_status resize_alone(lora_adapter **out,
                                lora_report **out_report,
                                lora__resize *job,
                                const lora_adapter *adapter,
                                const lora_rank_rule *rule,
                                const lora_adapter_resize_options *options,
                                lora_error *error)
{
    lora_spectra spectra;
    lora_status status;

    TRY(lora__spectra_begin(&spectra, adapter, error));
    status = rule->kind == LORA_RANK_SIZE
                 ? lora__spectra_complete(&spectra, error)
                 : LORA_OK;
    if (status == LORA_OK) {
        status =
            resize_run(out, out_report, job, &spectra, rule, options, error);
    }
    lora__spectra_end(&spectra);
    return status;
}

LORA_PRIVATE lora_status
lora__resize_to_pairs(lora_adapter **out,
                      lora_report **out_report,
                      const lora_adapter *adapter,
                      const lora_rank_rule *rule,
                      const lora__checkpoint *base,
                      const lora__dialect *named,
                      const lora_adapter_resize_options *options,
                      lora_error *error)
{
    static const lora_rank_rule any = {.kind = LORA_RANK_FIXED, .rank = 1};
    lora__resize job;

    memset(&job, 0, sizeof job);
    job.pairs = 1;
    job.exact = rule == NULL;
    job.base = base;
    job.named = named;
    return resize_alone(out, out_report, &job, adapter,
                        rule == NULL ? &any : rule, options, error);
}

LORA_API lora_status
lora_adapter_resize(lora_adapter **out,
                    lora_report **out_report,
                    const lora_adapter *adapter,
                    const lora_rank_rule *rule,
                    const lora_adapter_resize_options *options,
                    lora_error *error)
{
    lora__resize job;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(rule != NULL, error);
    memset(&job, 0, sizeof job);
    return resize_alone(out, out_report, &job, adapter, rule, options, error);
}

LORA_API lora_status
lora_spectra_resize(lora_adapter **out,
                    lora_report **out_report,
                    const lora_spectra *spectra,
                    const lora_rank_rule *rule,
                    const lora_adapter_resize_options *options,
                    lora_error *error)
{
    lora__resize job;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(spectra != NULL, error);
    CHECK_ARG(rule != NULL, error);
    memset(&job, 0, sizeof job);
    return resize_run(out, out_report, &job, spectra, rule, options, error);
}
