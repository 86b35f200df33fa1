/* Rank conversion: each module's factors are decomposed, cut and written
 * again; modules run side by side. Source: algorithms.md 1 and 2.
 */
#include "op/emit.h"

#include "core/options.h"
#include "core/text.h"
#include "linalg/factored.h"
#include "op/factor_error.h"
#include "op/rank_rule.h"
#include "op/report.h"
#include "op/values.h"

#include <math.h>
#include <string.h>

LORA_API void
lora_adapter_resize_options_init(lora_adapter_resize_options *options,
                                 size_t size)
{
    lora__options_init(options, size);
}

/* What a module becomes: new factors in the file's types, or, with up NULL,
 * what it was. */
typedef struct resize_result {
    int left_out;
    size_t rank;
    void *up;   /* [rows, rank] */
    void *down; /* [rank, cols] */
    size_t up_bytes;
    size_t down_bytes;
} resize_result;

typedef struct resize_job {
    const lora_adapter *adapter;
    const lora_rank_rule *rule;
    lora_adapter_resize_options options;
    const lora__kernels *kernels;
    resize_result *results; /* one a module, as report->modules */
    lora_report *report;
    int lowers; /* some module has new factors */
} resize_job;

/* ---- choosing ---------------------------------------------------------- */

/* The rule for a module: the last override that matches, the one for k x k
 * convolutions, or the general one. */
static const lora_rank_rule *resize_rule_for(const resize_job *job,
                                             const lora__module *module)
{
    const lora_adapter_resize_options *o = &job->options;
    int64_t kernel = 1;

    for (size_t i = o->override_count; i-- > 0;) {
        if (lora__module_matches(module, o->overrides[i].pattern)) {
            return &o->overrides[i].rule;
        }
    }
    for (int32_t i = 2; i < module->ndim; i++) {
        kernel *= module->shape[i];
    }
    return kernel > 1 && o->conv_rule != NULL ? o->conv_rule : job->rule;
}

/* Directions to keep: what the rule says, within cap and floor; a layer is
 * never left without any. */
static size_t resize_keep(const resize_job *job,
                          const lora_rank_rule *rule,
                          const double *sigma,
                          size_t count)
{
    size_t keep = lora__rank_rule_apply(rule, sigma, count);
    size_t cap = (size_t)job->options.max_rank;
    size_t floor = (size_t)job->options.min_rank;

    keep = cap != 0 && keep > cap ? cap : keep;
    /* A zero layer that is lowered keeps one direction of zeros. */
    keep = count > 0 && sigma[0] == 0.0 && keep < count ? 0 : keep;
    floor = floor == 0 ? 1 : floor;
    keep = keep < floor ? floor : keep;
    return keep > count ? count : keep;
}

/* The rank to write: the directions kept, or with padding the full number of
 * a fixed rule, within the cap. */
static size_t
resize_rank(const resize_job *job, const lora_rank_rule *rule, size_t keep)
{
    size_t full = (size_t)rule->rank;
    size_t cap = (size_t)job->options.max_rank;

    full = cap != 0 && full > cap ? cap : full;
    return job->options.pad && rule->kind == LORA_RANK_FIXED && full > keep
               ? full
               : keep;
}

/* ---- one module -------------------------------------------------------- */

/* Round to the file's type and back, in place: what readers will see.
 * NONFINITE where a value does not fit. */
static lora_status resize_round(double *values,
                                size_t count,
                                lora_dtype dtype,
                                const char *name,
                                const lora__kernels *kernels,
                                lora_error *error)
{
    unsigned char chunk[256 * 8];

    for (size_t done = 0; done < count; done += 256) {
        size_t step = count - done < 256 ? count - done : 256;
        TRY(lora__convert_from_f64(chunk, dtype, values + done, step, kernels,
                                   error));
        TRY(lora__convert_to_f64(values + done, chunk, dtype, step, kernels,
                                 error));
        for (size_t i = done; i < done + step; i++) {
            if (!(values[i] - values[i] == 0.0)) { /* they were finite */
                return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                                  name,
                                  "a new factor is too large for %s: choose "
                                  "another dtype",
                                  lora_dtype_name(dtype));
            }
        }
    }
    return LORA_OK;
}

static lora_dtype
resize_dtype(const resize_job *job, const lora__module *module, lora__role role)
{
    return job->options.dtype != LORA_DTYPE_NONE
               ? job->options.dtype
               : lora__module_entry(job->adapter, module, role)->dtype;
}

/* out[c, r] = in[r, c]. */
static void
resize_transpose(double *out, const double *in, size_t rows, size_t cols)
{
    for (size_t c = 0; c < cols; c++) {
        for (size_t r = 0; r < rows; r++) {
            out[c * rows + r] = in[r * cols + c];
        }
    }
}

/* Rank-k factors of the scaled change, rounded to the file's types; rows
 * behind k are zero. */
static lora_status resize_cut(lora__factors *out,
                              const resize_job *job,
                              const lora__module *module,
                              const lora__factors *f,
                              const lora__svd *svd,
                              const lora__svd_input *input,
                              size_t keep,
                              size_t rank,
                              lora_error *error)
{
    double root = sqrt(fabs(f->scale));

    TRY(lora__factors_alloc(out, f->context, f->rows, f->cols, rank, error));
    memset(out->up_t, 0, rank * f->rows * sizeof *out->up_t);
    memset(out->down, 0, rank * f->cols * sizeof *out->down);
    TRY(lora__svd_truncate(out->up_t, out->down, svd, input, keep, f->context,
                           error));
    job->kernels->scale_f64(out->up_t, f->scale < 0.0 ? -root : root,
                            keep * f->rows);
    job->kernels->scale_f64(out->down, root, keep * f->cols);
    TRY(resize_round(out->up_t, rank * f->rows,
                     resize_dtype(job, module, LORA__ROLE_UP), module->name,
                     job->kernels, error));
    return resize_round(out->down, rank * f->cols,
                        resize_dtype(job, module, LORA__ROLE_DOWN),
                        module->name, job->kernels, error);
}

/* Encode the new factors into the result. */
static lora_status resize_store(resize_result *result,
                                const resize_job *job,
                                const lora__module *module,
                                const lora__factors *cut,
                                lora_error *error)
{
    lora_dtype up_dtype = resize_dtype(job, module, LORA__ROLE_UP);
    lora_dtype down_dtype = resize_dtype(job, module, LORA__ROLE_DOWN);
    size_t up_count = cut->rank * cut->rows;
    size_t down_count = cut->rank * cut->cols;
    size_t bytes = up_count * sizeof(double);
    double *up = lora__alloc(cut->context, bytes, LORA__ALIGN_NUMERIC);
    lora_status status;

    if (up == NULL) {
        return lora__fail_memory(error, bytes);
    }
    resize_transpose(up, cut->up_t, cut->rank, cut->rows);
    TRY_OR_DONE(lora__emit_encode(&result->down, cut->context, module->name,
                                  down_dtype, cut->down, down_count, error));
    result->down_bytes = down_count * (lora_dtype_bits(down_dtype) / 8);
    TRY_OR_DONE(lora__emit_encode(&result->up, cut->context, module->name,
                                  up_dtype, up, up_count, error));
    result->up_bytes = up_count * (lora_dtype_bits(up_dtype) / 8);
    result->rank = cut->rank;
done:
    lora__free(cut->context, up, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* The squared error of a layer that keeps its rank: 0, unless its factors are
 * rounded to another type. */
static lora_status resize_kept_error(double *out,
                                     const resize_job *job,
                                     const lora__module *module,
                                     const lora__factors *f,
                                     lora_error *error)
{
    lora_dtype up_dtype = resize_dtype(job, module, LORA__ROLE_UP);
    lora_dtype down_dtype = resize_dtype(job, module, LORA__ROLE_DOWN);
    lora__factors rounded;
    lora_status status;

    *out = 0.0;
    if (job->options.dtype == LORA_DTYPE_NONE) {
        return LORA_OK;
    }
    TRY(lora__factors_alloc(&rounded, f->context, f->rows, f->cols, f->rank,
                            error));
    memcpy(rounded.up_t, f->up_t, f->rank * f->rows * sizeof *f->up_t);
    memcpy(rounded.down, f->down, f->rank * f->cols * sizeof *f->down);
    TRY_OR_DONE(resize_round(rounded.up_t, f->rank * f->rows, up_dtype,
                             module->name, job->kernels, error));
    TRY_OR_DONE(resize_round(rounded.down, f->rank * f->cols, down_dtype,
                             module->name, job->kernels, error));
    job->kernels->scale_f64(rounded.up_t, f->scale, f->rank * f->rows);
    status = lora__factor_error(out, f, rounded.up_t, rounded.down, f->rank,
                                job->kernels, error);
done:
    lora__factors_destroy(&rounded);
    return status;
}

/* The numbers of a layer: `discarded` is the squared norm of the error. */
static void resize_measure(lora_report_module *out,
                           size_t keep,
                           size_t rank,
                           double discarded)
{
    double total = 0.0;

    for (size_t i = 0; i < out->sigma_count; i++) {
        total += out->sigma[i] * out->sigma[i];
    }
    out->rank_out = (int64_t)rank;
    out->error = sqrt(discarded);
    out->energy = total > 0.0 ? 1.0 - discarded / total : 1.0;
    out->spectral = keep < out->sigma_count ? out->sigma[keep] : 0.0;
}

static lora_status resize_decomposed(resize_job *job,
                                     size_t index,
                                     const lora__factors *f,
                                     const lora__svd *svd,
                                     const lora__svd_input *input,
                                     lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora_report_module *numbers = &job->report->modules[index];
    const lora_rank_rule *rule = resize_rule_for(job, module);
    double *sigma = (double *)(uintptr_t)numbers->sigma;
    lora__factors cut;
    double discarded = 0.0;
    size_t keep;
    size_t rank;
    lora_status status;

    for (size_t i = 0; i < svd->count; i++) {
        sigma[i] = svd->sigma[i] * fabs(f->scale);
    }
    keep = resize_keep(job, rule, sigma, svd->count);
    rank = resize_rank(job, rule, keep);
    if (rank == f->rank) { /* it stays what it was */
        TRY(resize_kept_error(&discarded, job, module, f, error));
        resize_measure(numbers, svd->count, rank, discarded);
        return LORA_OK;
    }
    memset(&cut, 0, sizeof cut);
    TRY_OR_DONE(
        resize_cut(&cut, job, module, f, svd, input, keep, rank, error));
    TRY_OR_DONE(lora__factor_error(&discarded, f, cut.up_t, cut.down, rank,
                                   job->kernels, error));
    TRY_OR_DONE(resize_store(&job->results[index], job, module, &cut, error));
    resize_measure(numbers, keep, rank, discarded);
done:
    lora__factors_destroy(&cut);
    return status;
}

/* A module with NaN is left out on demand; otherwise say where it is. */
static lora_status
resize_nonfinite(resize_job *job, size_t index, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    const lora__module *module = &adapter->modules[index];

    if (job->options.skip_bad) {
        job->results[index].left_out = 1;
        return LORA_OK;
    }
    for (size_t i = 0; i < module->member_count; i++) {
        size_t entry = module->members[i].entry;
        lora__values values;
        TRY(lora__values_look(&values, adapter, entry, error));
        TRY(lora__values_check(&values, &adapter->container->entries[entry],
                               error));
    }
    return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, module->name,
                      "the product of its factors overflows");
}

static lora_status
resize_module(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    resize_job *job = arg;
    const lora__module *module = &job->adapter->modules[index];
    lora__svd_input input;
    lora__factors f;
    lora__svd svd;
    lora_error found;
    lora_status status;

    (void)worker;
    if (job->results[index].left_out || module->rank == 0) {
        return LORA_OK;
    }
    TRY(lora__module_factors(&f, job->adapter, module, error));
    input.rows = f.rows;
    input.cols = f.cols;
    input.rank = f.rank;
    input.up_t = f.up_t;
    input.down = f.down;
    lora_error_init(&found, sizeof found);
    status = lora__svd_create(&svd, f.context, &input, &found);
    if (status == LORA_ERROR_NONFINITE) {
        status = resize_nonfinite(job, index, error);
    } else if (status != LORA_OK) {
        lora__error_merge(error, &found);
    } else {
        status = resize_decomposed(job, index, &f, &svd, &input, error);
        lora__svd_destroy(&svd, f.context);
    }
    lora__factors_destroy(&f);
    lora__error_set_subject(error, module->name);
    return status;
}

/* ---- the adapter ------------------------------------------------------- */

/* Refuse what cannot be done before any work is done, and make room. */
static lora_status resize_plan(resize_job *job, lora_error *error)
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
        if (module->status != LORA_OK && job->options.skip_bad) {
            job->results[m].left_out = 1;
            continue;
        }
        TRY(lora__module_check(module, error));
        if (module->rank == 0) {
            continue; /* biases, norms, full differences: no rank to change */
        }
        TRY(lora__module_has_factors(module, error));
        rank = module->kind->factor_rank(adapter, module);
        count = 1;
        for (int32_t i = 1; i < module->ndim && count < rank; i++) {
            count *= (size_t)module->shape[i];
        }
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

/* A module with new factors: they replace up and down and make core, scale
 * and alpha what they now are. */
static lora_status resize_emit_new(lora__emit *emit,
                                   const resize_job *job,
                                   size_t index,
                                   lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    resize_result *result = &job->results[index];
    const lora__entry *up =
        lora__module_entry(job->adapter, module, LORA__ROLE_UP);
    const lora__entry *down =
        lora__module_entry(job->adapter, module, LORA__ROLE_DOWN);
    const lora__entry *alpha =
        lora__module_entry(job->adapter, module, LORA__ROLE_ALPHA);
    int64_t shape[LORA_MAX_DIMS] = {0};
    int32_t ndim = module->tucker ? module->ndim : down->ndim;
    void *data;

    memcpy(shape, module->tucker ? module->shape : down->shape, sizeof shape);
    shape[1] = down->shape[1];
    shape[0] = (int64_t)result->rank;
    TRY(lora__emit_spell(emit, module, LORA__ROLE_DOWN, error));
    data = result->down;
    result->down = NULL;
    TRY(lora__builder_adopt(emit->builder, emit->name.data,
                            resize_dtype(job, module, LORA__ROLE_DOWN), ndim,
                            shape, data, error));
    memcpy(shape, up->shape, sizeof shape);
    shape[1] = (int64_t)result->rank;
    TRY(lora__emit_spell(emit, module, LORA__ROLE_UP, error));
    data = result->up;
    result->up = NULL;
    TRY(lora__builder_adopt(emit->builder, emit->name.data,
                            resize_dtype(job, module, LORA__ROLE_UP), up->ndim,
                            shape, data, error));
    return lora__emit_put_alpha(emit, module, (double)result->rank,
                                (int64_t)result->rank, module->dtype,
                                alpha != NULL && alpha->ndim > 0, error);
}

/* The alpha of a module that keeps its factors: as it was given, where the
 * scale is made of it and nothing else. */
static double resize_alpha(const lora__module *module)
{
    double rank = (double)module->rank;

    return module->has_alpha && module->scale == module->alpha / rank
               ? module->alpha
               : module->scale * rank;
}

/* Whether a module that keeps its factors gets an alpha written: always where
 * alphas live in metadata; and where others get new ones and its own is
 * missing, 0 or negative, which loaders take for different things. */
static int resize_puts_alpha(const resize_job *job, const lora__module *module)
{
    int odd = !module->has_alpha || module->alpha <= 0.0;

    return module->rank > 0 && module->kind->factors != NULL &&
           (lora__dialect_alpha_in_metadata(module->dialect) ||
            (job->lowers && odd &&
             lora__dialect_has_role(module->dialect, LORA__ROLE_ALPHA)));
}

static lora_status resize_emit_module(lora__emit *emit,
                                      const resize_job *job,
                                      size_t index,
                                      lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    int is_new = job->results[index].up != NULL;
    int explicit = resize_puts_alpha(job, module);
    double sign = explicit && module->scale < 0.0 ? -1.0 : 1.0;
    double bias_scale = is_new ? module->scale : sign;

    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        lora__role role = member->role;
        int replaced = role == LORA__ROLE_UP || role == LORA__ROLE_DOWN ||
                       role == LORA__ROLE_MID || lora__emit_is_scale(role);
        if ((is_new && replaced) || (explicit && lora__emit_is_scale(role))) {
            continue;
        }
        TRY(lora__emit_spell(emit, module, role, error));
        TRY(lora__emit_entry(emit, emit->name.data, member->entry,
                             role == LORA__ROLE_UP_BIAS ? bias_scale
                             : role == LORA__ROLE_UP    ? sign
                                                        : 1.0,
                             role == LORA__ROLE_ALPHA ? LORA_DTYPE_NONE
                                                      : job->options.dtype,
                             -1, NULL, error));
    }
    if (is_new) {
        return resize_emit_new(emit, job, index, error);
    }
    return explicit
               ? lora__emit_put_alpha(emit, module, fabs(resize_alpha(module)),
                                      module->rank, module->dtype, 0, error)
               : LORA_OK;
}

/* The text of a metadata value that sums ranks up: the rank they share, or
 * "Dynamic", as kohya's tools write it. */
static void resize_shared_rank(char *out, const resize_job *job)
{
    int64_t shared = 0;

    for (size_t m = 0; m < job->report->module_count; m++) {
        int64_t rank = job->report->modules[m].rank_out;
        if (rank != 0) {
            shared = shared == 0 || shared == rank ? rank : -1;
        }
    }
    memcpy(out, "Dynamic", 8);
    if (shared > 0) {
        out[lora__text_from_double(out, (double)shared)] = '\0';
    }
}

static lora_status
resize_metadata(lora__emit *emit, const resize_job *job, lora_error *error)
{
    static const char *const keys[] = {"ss_network_dim", "ss_network_alpha"};
    char rank[40];

    resize_shared_rank(rank, job);
    for (size_t i = 0; i < LORA__COUNT(keys); i++) {
        if (lora__builder_metadata(emit->builder, keys[i]) != NULL) {
            TRY(lora_builder_set_metadata(emit->builder, keys[i], rank, error));
        }
    }
    emit->changed = 1;
    return lora__emit_metadata(emit, error);
}

static lora_status
resize_emit(lora_adapter **out, resize_job *job, lora_error *error)
{
    lora__emit emit;
    lora_status status;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        job->lowers |= job->results[m].up != NULL;
    }
    TRY_OR_DONE(lora__emit_begin(&emit, job->adapter,
                                 job->adapter->module_count, NULL,
                                 job->adapter->names.family, error));
    for (size_t m = 0; m < job->adapter->module_count; m++) {
        if (!job->results[m].left_out) {
            TRY_OR_DONE(resize_emit_module(&emit, job, m, error));
        }
    }
    TRY_OR_DONE(lora__emit_rest(&emit, error));
    TRY_OR_DONE(resize_metadata(&emit, job, error));
    status = lora__emit_finish(out, &emit, error);
done:
    lora__emit_end(&emit);
    return status;
}

/* ---- the report -------------------------------------------------------- */

static void resize_put_totals(resize_job *job, const lora_adapter *result)
{
    lora__buffer *json = &job->report->json;
    double total = 0.0;
    double discarded = 0.0;
    uint64_t bytes_in = 0;
    uint64_t bytes_out = 0;

    for (size_t m = 0; m < job->report->module_count; m++) {
        const lora_report_module *module = &job->report->modules[m];
        for (size_t i = 0; i < module->sigma_count; i++) {
            total += module->sigma[i] * module->sigma[i];
        }
        discarded += module->error * module->error;
    }
    for (size_t i = 0; i < job->adapter->container->entry_count; i++) {
        bytes_in += job->adapter->container->entries[i].bytes;
    }
    for (size_t i = 0; i < result->container->entry_count; i++) {
        bytes_out += result->container->entries[i].bytes;
    }
    lora__json_put_key(json, "totals");
    lora__buffer_putc(json, '{');
    lora__report_put_u64(json, "modules", job->report->module_count);
    lora__report_put_number(json, "energy",
                            total > 0.0 ? 1.0 - discarded / total : 1.0);
    lora__report_put_number(json, "error", sqrt(discarded));
    lora__report_put_number(json, "relative_error",
                            total > 0.0 ? sqrt(discarded / total) : 0.0);
    lora__report_put_u64(json, "bytes_in", bytes_in);
    lora__report_put_u64(json, "bytes_out", bytes_out);
    lora__buffer_putc(json, '}');
}

static void resize_put_module(lora__buffer *json,
                              const lora_report_module *module)
{
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "name", module->name);
    lora__report_put_u64(json, "rank_in", (uint64_t)module->rank_in);
    lora__report_put_u64(json, "rank_out", (uint64_t)module->rank_out);
    lora__report_put_number(json, "energy", module->energy);
    lora__report_put_number(json, "error", module->error);
    lora__report_put_number(json, "spectral_error", module->spectral);
    lora__json_put_key(json, "sigma");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < module->sigma_count; i++) {
        lora__buffer_puts(json, i == 0 ? "" : ",");
        lora__buffer_number(json, module->sigma[i]);
    }
    lora__buffer_puts(json, "]}");
}

/* Modules that were left out have no numbers; they are problems. */
static lora_status resize_drop_rows(resize_job *job, lora_error *error)
{
    lora_report *report = job->report;
    size_t count = 0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        if (!job->results[m].left_out) {
            report->modules[count++] = report->modules[m];
            continue;
        }
        TRY(lora__problems_add(
            &report->problems, LORA_SEVERITY_WARNING, LORA_OK, "left_out",
            job->adapter->modules[m].name, error, "unusable, so left out"));
    }
    report->module_count = count;
    return LORA_OK;
}

static lora_status resize_put_report(resize_job *job,
                                     const lora_adapter *result,
                                     lora_error *error)
{
    lora__buffer *json = &job->report->json;

    TRY(resize_drop_rows(job, error));

    lora__buffer_putc(json, '{');
    lora__json_put_key(json, "modules");
    lora__buffer_putc(json, '[');
    for (size_t m = 0; m < job->report->module_count; m++) {
        lora__buffer_puts(json, m == 0 ? "" : ",");
        resize_put_module(json, &job->report->modules[m]);
    }
    lora__buffer_putc(json, ']');
    resize_put_totals(job, result);
    lora__report_put_problems(job->report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(job->report, error);
}

/* ---- the call ---------------------------------------------------------- */

/* A rule that makes sense, and does not pad beyond what could be opened. */
static lora_status resize_check_rule(const resize_job *job,
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

static lora_status resize_check_options(const resize_job *job,
                                        lora_error *error)
{
    const lora_adapter_resize_options *o = &job->options;

    TRY(resize_check_rule(job, job->rule, NULL, error));
    if (o->conv_rule != NULL) {
        TRY(resize_check_rule(job, o->conv_rule, "conv_rule", error));
    }
    CHECK_ARG(o->override_count == 0 || o->overrides != NULL, error);
    for (size_t i = 0; i < o->override_count; i++) {
        CHECK_ARG(o->overrides[i].pattern != NULL, error);
        TRY(resize_check_rule(job, &o->overrides[i].rule,
                              o->overrides[i].pattern, error));
    }
    if (o->max_rank < 0 || o->min_rank < 0 ||
        (o->max_rank != 0 && o->min_rank > o->max_rank)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "max_rank",
                          "cap and floor do not fit");
    }
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

static void resize_free(resize_job *job)
{
    lora_context *context = job->adapter->context;

    for (size_t m = 0; job->results != NULL && m < job->adapter->module_count;
         m++) {
        lora__free(context, job->results[m].up, job->results[m].up_bytes,
                   LORA__ALIGN_NUMERIC);
        lora__free(context, job->results[m].down, job->results[m].down_bytes,
                   LORA__ALIGN_NUMERIC);
    }
    if (job->results != NULL) {
        lora__free(context, job->results,
                   job->adapter->module_count * sizeof *job->results,
                   LORA__ALIGN);
    }
    lora_report_destroy(job->report);
}

LORA_API lora_status
lora_adapter_resize(lora_adapter **out,
                    lora_report **out_report,
                    const lora_adapter *adapter,
                    const lora_rank_rule *rule,
                    const lora_adapter_resize_options *options,
                    lora_error *error)
{
    resize_job job;
    lora_adapter *result = NULL;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(rule != NULL, error);
    memset(&job, 0, sizeof job);
    job.adapter = adapter;
    job.rule = rule;
    job.kernels = lora__kernels_get(lora__context_get(adapter->context)->cpu);
    TRY(lora__options_read(
        &job.options, sizeof job.options,
        LORA__SIZE_TO(lora_adapter_resize_options, reserved1), options, error));
    TRY(lora__options_reserved(job.options.reserved1, error));
    TRY(resize_check_options(&job, error));
    TRY_OR_DONE(lora__report_create(&job.report, adapter->context, error));
    TRY_OR_DONE(
        lora__report_add_modules(job.report, adapter->module_count, error));
    TRY_OR_DONE(lora__alloc_zeroed(&memory, adapter->context,
                                   adapter->module_count, sizeof *job.results,
                                   error));
    job.results = memory;
    TRY_OR_DONE(resize_plan(&job, error));
    lora__log(adapter->context, LORA_LOG_DEBUG,
              "resize: %llu modules, %u at a time, %s kernels",
              (unsigned long long)adapter->module_count,
              (unsigned)lora__concurrency(adapter->context), job.kernels->name);
    TRY_OR_DONE(lora__run_jobs(adapter->context, "resize", resize_module, &job,
                               adapter->module_count, error));
    TRY_OR_DONE(resize_emit(&result, &job, error));
    TRY_OR_DONE(resize_put_report(&job, result, error));
    *out = result;
    result = NULL;
    if (out_report != NULL) {
        *out_report = job.report;
        job.report = NULL;
    }
done:
    lora_adapter_destroy(result);
    resize_free(&job);
    return status;
}
