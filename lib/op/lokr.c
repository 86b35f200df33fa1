/* LoRA to LoKr: the nearest Kronecker product of each change.
 *
 * The change is made as a matrix of F32, with the scale in it, for the product
 * has no factors that those of LoRA would tell. Modules run side by side.
 */
#include "op/lokr.h"

#include "core/options.h"
#include "op/peft_type.h"
#include "op/remake.h"
#include "op/resize.h"

#include <lora/convert.h>

#include <math.h>
#include <string.h>

LORA_API void lora_lokr_options_init(lora_lokr_options *options, size_t size)
{
    lora__options_init(options, size);
}

LORA_PRIVATE void lora__lokr_split(
    lora__lokr *out, size_t rows, size_t in, size_t kernel, int32_t factor)
{
    lora__kronecker_input *input = &out->input;
    size_t by = factor > 0 ? (size_t)factor : 0;

    lora__kronecker_split(&input->rows1, &input->rows2, rows, by);
    lora__kronecker_split(&input->cols1, &out->in2, in, by);
    input->cols2 = out->in2 * kernel;
}

LORA_PRIVATE lora_status lora__lokr_begin(lora__lokr *k,
                                          const float *values,
                                          lora_context *context,
                                          lora_error *error)
{
    size_t ones = k->input.rows1 * k->input.cols1;

    k->input.values = values;
    TRY(lora__block_create(
        &k->memory, 1, ones + k->input.rows2 * k->input.cols2, context, error));
    k->w1 = k->memory.at;
    k->w2 = k->w1 + ones;
    return LORA_OK;
}

/* ---- modules ----------------------------------------------------------- */

/* The tensors of LoKr that are written. */
static const lora__role lokr_roles[] = {LORA__ROLE_LOKR_W1, LORA__ROLE_LOKR_W2,
                                        LORA__ROLE_LOKR_W2_A,
                                        LORA__ROLE_LOKR_W2_B};

enum { LOKR_TENSORS = LORA__COUNT(lokr_roles) };

typedef struct lokr_result {
    int is_new;
    lora__lokr k; /* the sides alone, once it is done */
    void *data[LOKR_TENSORS];
    size_t bytes[LOKR_TENSORS];
    double norm;
    double error;
} lokr_result;

typedef struct lokr_job {
    lora__remake remake;
    lora_lokr_options options;
    lokr_result *results; /* one a module */
} lokr_job;

static lora_dtype lokr_dtype(const lokr_job *job, const lora__module *module)
{
    return job->options.dtype == LORA_DTYPE_NONE ? module->dtype
                                                 : job->options.dtype;
}

/* 1 if a module is to become LoKr: it has factors, and is none yet. */
static int lokr_applies(const lora__module *module)
{
    return lora__resize_applies(module) &&
           lora__module_find(module, LORA__ROLE_LOKR_W1) == NULL &&
           lora__module_find(module, LORA__ROLE_LOKR_W1_A) == NULL;
}

static lora_status lokr_check(const lora__module *module, lora_error *error)
{
    const char *why = module->transposed ? "its weight is stored transposed"
                      : module->kind->columns
                          ? "LoKr is of layers, and this of an embedding"
                      : lora__module_find(module, LORA__ROLE_UP_BIAS) != NULL
                          ? "LoKr has no place for its bias"
                          : NULL;

    TRY(lora__module_has_factors(module, error));
    if (!lora__dialect_has_role(module->dialect, LORA__ROLE_LOKR_W1)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s cannot hold lokr: convert to the names of kohya, "
                          "ComfyUI or PEFT",
                          lora__dialect_id(module->dialect));
    }
    return why == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name, "%s cannot become lokr: %s",
                            module->kind->id, why);
}

/* Rows as they are stored: readers see them rounded. */
static lora_status lokr_store(lokr_result *result,
                              size_t tensor,
                              lokr_job *job,
                              const lora__module *module,
                              double *values,
                              size_t rows,
                              size_t length,
                              lora_error *error)
{
    double lost = 0.0;

    return lora__resize_encode(&result->data[tensor], &result->bytes[tensor],
                               values, &lost, rows, length,
                               lokr_roles[tensor] == LORA__ROLE_LOKR_W2_A,
                               lokr_dtype(job, module), module->name,
                               job->remake.adapter->context, error);
}

/* w2 as the product of its factors, which are stored, [o2, r] and [r, i2 K];
 * the first is turned for that. */
static lora_status lokr_cut(lokr_result *result,
                            lokr_job *job,
                            const lora__module *module,
                            lora__lokr *k,
                            lora_error *error)
{
    lora_context *context = job->remake.adapter->context;
    const size_t rows = k->input.rows2;
    const size_t cols = k->input.cols2;
    lora__block memory = {NULL, 0};
    double *up_t;
    double *down;
    lora_status status;

    TRY(lora__block_create(&memory, k->rank, rows + cols, context, error));
    up_t = memory.at;
    down = up_t + k->rank * rows;
    TRY_OR_DONE(lora__kronecker_cut(k->w1, k->w2, up_t, down, &result->error,
                                    k->rank, &k->input, context, error));
    TRY_OR_DONE(lokr_store(result, 2, job, module, up_t, k->rank, rows, error));
    TRY_OR_DONE(lokr_store(result, 3, job, module, down, k->rank, cols, error));
    memset(k->w2, 0, rows * cols * sizeof *k->w2);
    for (size_t b = 0; b < rows; b++) {
        for (size_t r = 0; r < k->rank; r++) {
            job->remake.kernels->axpy_f64(k->w2 + b * cols, down + r * cols,
                                          up_t[r * rows + b], cols);
        }
    }
done:
    lora__block_destroy(&memory, context);
    return status;
}

/* The product nearest to a change, and how far it is when it is stored. */
static lora_status lokr_fit(lokr_result *result,
                            lokr_job *job,
                            const lora__module *module,
                            lora__lokr *k,
                            lora_error *error)
{
    lora_context *context = job->remake.adapter->context;
    size_t ones = k->input.rows1 * k->input.cols1;
    size_t rows = k->input.rows2;
    size_t cols = k->input.cols2;
    size_t rank = (size_t)job->options.rank;

    memset(k->memory.at, 0, k->memory.count * sizeof(double));
    TRY(lora__kronecker_error(&result->norm, k->w1, k->w2, &k->input, context,
                              error));
    TRY(lora__kronecker_fit(k->w1, k->w2, &result->error, &k->input, context,
                            error));
    k->rank = rank * (rows + cols) < rows * cols ? rank : 0;
    if (k->rank > 0) {
        TRY(lokr_cut(result, job, module, k, error));
    } else {
        TRY(lokr_store(result, 1, job, module, k->w2, rows, cols, error));
    }
    TRY(lokr_store(result, 0, job, module, k->w1, 1, ones, error));
    return lora__kronecker_error(&result->error, k->w1, k->w2, &k->input,
                                 context, error);
}

/* A job of lora__run_jobs(). */
static lora_status
lokr_module(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    lokr_job *job = arg;
    lora_context *context = job->remake.adapter->context;
    const lora__module *module = &job->remake.adapter->modules[index];
    lokr_result *result = &job->results[index];
    size_t rows = (size_t)module->shape[0];
    size_t bytes;
    float *values;
    lora_status status;

    (void)worker;
    if (job->remake.left_out[index] || !lokr_applies(module)) {
        return LORA_OK;
    }
    lora__lokr_split(&result->k, rows, (size_t)module->shape[1],
                     lora__shape_size(module->shape, 2, module->ndim),
                     job->options.factor);
    if (!lora__mul_size(lora__shape_size(module->shape, 0, module->ndim),
                        sizeof *values, &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    values = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    if (values == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(lora_adapter_delta(values, bytes, job->remake.adapter, index,
                                   LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0,
                                   module->shape[0], error));
    TRY_OR_DONE(lora__lokr_begin(&result->k, values, context, error));
    status = lokr_fit(result, job, module, &result->k, error);
    result->is_new = status == LORA_OK;
done:
    lora__block_destroy(&result->k.memory, context);
    lora__free(context, values, bytes, LORA__ALIGN_NUMERIC);
    lora__error_set_subject(error, module->name);
    return status;
}

/* ---- the result -------------------------------------------------------- */

/* Dimensions of the tensors of LoKr, in the order of the roles. */
static int32_t lokr_shape(int64_t shape[LORA_MAX_DIMS],
                          const lora__module *module,
                          const lora__lokr *k,
                          size_t tensor)
{
    const int64_t sides[LOKR_TENSORS][2] = {
        {(int64_t)k->input.rows1, (int64_t)k->input.cols1},
        {(int64_t)k->input.rows2, (int64_t)k->in2},
        {(int64_t)k->input.rows2, (int64_t)k->rank},
        {(int64_t)k->rank, (int64_t)k->input.cols2}};

    memcpy(shape, module->shape, LORA_MAX_DIMS * sizeof *shape);
    shape[0] = sides[tensor][0];
    shape[1] = sides[tensor][1];
    return lokr_roles[tensor] == LORA__ROLE_LOKR_W2 ? module->ndim : 2;
}

/* With w2 whole there is no rank: alpha 1 is right for all, as programs scale
 * by 1 whatever alpha is, or take the rank for 1. */
static lora_status lokr_emit_new(lokr_job *job, size_t index, lora_error *error)
{
    const lora__module *module = &job->remake.adapter->modules[index];
    lokr_result *result = &job->results[index];
    int64_t rank = result->k.rank > 0 ? (int64_t)result->k.rank : 1;
    lora__emit *emit = &job->remake.emit;

    for (size_t i = 0; i < LOKR_TENSORS; i++) {
        int64_t shape[LORA_MAX_DIMS];
        int32_t ndim = lokr_shape(shape, module, &result->k, i);
        void *owned = result->data[i];
        if (owned != NULL) {
            TRY(lora__emit_spell(emit, module, lokr_roles[i], error));
            result->data[i] = NULL;
            TRY(lora__builder_adopt(emit->builder, emit->name.data,
                                    lokr_dtype(job, module), ndim, shape, owned,
                                    error));
        }
    }
    emit->becomes = lora__peft_type_kronecker();
    TRY(lora__emit_put_alpha(emit, module, (double)rank, rank, module->dtype, 0,
                             error));
    emit->becomes = NULL;
    return LORA_OK;
}

/* A module that stays; of one that is new, what is beside its factors. */
static lora_status
lokr_emit_rest(lokr_job *job, size_t index, lora_error *error)
{
    const lora_adapter *adapter = job->remake.adapter;
    const lora__module *module = &adapter->modules[index];
    int is_new = job->results[index].is_new;
    int in_metadata = lora__dialect_alpha_in_metadata(module->dialect) &&
                      lora__resize_applies(module);

    for (size_t i = 0; i < module->member_count; i++) {
        lora__role role = module->members[i].role;
        size_t entry = module->members[i].entry;
        if ((is_new && role != LORA__ROLE_DIFF_BIAS) ||
            (in_metadata && lora__emit_is_scale(role))) {
            continue;
        }
        TRY(lora__emit_entry(&job->remake.emit,
                             adapter->container->entries[entry].name, entry,
                             1.0, LORA_DTYPE_NONE, -1, NULL, error));
    }
    if (is_new || !in_metadata) {
        return LORA_OK;
    }
    return module->rank == 0
               ? lora__emit_put_whole(&job->remake.emit, module, module->scale,
                                      error)
               : lora__emit_put_alpha(&job->remake.emit, module,
                                      module->scale * (double)module->rank,
                                      module->rank, module->dtype, 0, error);
}

/* kohya's loaders go by the trainer's module. */
static lora_status lokr_metadata(lokr_job *job, lora_error *error)
{
    lora_builder *builder = job->remake.emit.builder;

    if (lora__builder_metadata(builder, "ss_network_module") != NULL) {
        TRY(lora_builder_set_metadata(builder, "ss_network_args",
                                      "{\"algo\": \"lokr\"}", error));
        TRY(lora_builder_set_metadata(builder, "ss_network_module",
                                      "lycoris.kohya", error));
    }
    job->remake.emit.changed = 1;
    return lora__emit_metadata(&job->remake.emit, error);
}

static lora_status
lokr_emit(lora_adapter **out, lokr_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->remake.adapter;

    TRY(lora__emit_begin(&job->remake.emit, adapter, adapter->module_count,
                         NULL, adapter->names.family, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (job->remake.left_out[m]) {
            continue;
        }
        if (job->results[m].is_new) {
            TRY(lokr_emit_new(job, m, error));
        }
        TRY(lokr_emit_rest(job, m, error));
    }
    TRY(lora__emit_rest(&job->remake.emit, error));
    TRY(lokr_metadata(job, error));
    return lora__emit_finish(out, &job->remake.emit, error);
}

/* ---- the report -------------------------------------------------------- */

static lora_status
lokr_report_module(lokr_job *job, size_t index, lora_error *error)
{
    const lora__module *module = &job->remake.adapter->modules[index];
    const lokr_result *result = &job->results[index];
    lora__buffer *json = &job->remake.report->json;
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;

    TRY(lora__remake_begin_row(&job->remake, module, (int64_t)result->k.rank,
                               result->norm * result->norm,
                               result->error * result->error, error));
    lora__report_put_u64(json, "rank_in", (uint64_t)module->rank);
    lora__report_put_u64(json, "rank_out", (uint64_t)result->k.rank);
    ndim = lokr_shape(shape, module, &result->k, 0);
    lora__report_put_shape(json, "w1", shape, ndim);
    ndim = lokr_shape(shape, module, &result->k, 1);
    lora__report_put_shape(json, "w2", shape, ndim);
    lora__report_put_number(json, "norm", result->norm);
    lora__remake_end_row(&job->remake);
    return LORA_OK;
}

static lora_status lokr_report(lokr_job *job, lora_error *error)
{
    lora_report *report = job->remake.report;

    TRY(lora__remake_begin_rows(&job->remake, error));
    for (size_t m = 0; m < job->remake.adapter->module_count; m++) {
        if (job->results[m].is_new) {
            TRY(lokr_report_module(job, m, error));
        }
    }
    lora__remake_end_rows(&job->remake);
    lora__report_put_problems(report);
    lora__buffer_putc(&report->json, '}');
    return lora__report_finish(report, error);
}

/* ---- the call ---------------------------------------------------------- */

/* Refuse what cannot be done before any work is done. */
static lora_status lokr_plan(lokr_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->remake.adapter;
    size_t found = 0;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->remake.arena,
                           adapter->module_count + 1, sizeof *job->results,
                           error));
    job->results = memory;
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (!job->remake.left_out[m] && lokr_applies(&adapter->modules[m])) {
            TRY(lokr_check(&adapter->modules[m], error));
            found++;
        }
    }
    return found > 0 ? LORA_OK
                     : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                                  adapter->container->path,
                                  "no module with factors that are not lokr "
                                  "already");
}

static lora_status lokr_run(lora_adapter **out,
                            lokr_job *job,
                            const lora_adapter *adapter,
                            lora_error *error)
{
    lora_adapter *made;
    lora_status status;

    TRY(lora__remake_begin(&job->remake, adapter, job->options.skip_bad != 0,
                           error));
    TRY(lokr_plan(job, error));
    TRY(lora__run_jobs(job->remake.adapter->context, "lokr", lokr_module, job,
                       job->remake.adapter->module_count, error));
    TRY(lokr_emit(&made, job, error));
    status = lokr_report(job, error);
    if (status != LORA_OK) {
        lora_adapter_destroy(made);
        return status;
    }
    *out = made;
    return LORA_OK;
}

static void
lokr_end(lokr_job *job, lora_status status, lora_report **out_report)
{
    lora_context *context = job->remake.adapter->context;

    for (size_t m = 0;
         job->results != NULL && m < job->remake.adapter->module_count; m++) {
        for (size_t i = 0; i < LOKR_TENSORS; i++) {
            lora__free(context, job->results[m].data[i],
                       job->results[m].bytes[i], LORA__ALIGN_NUMERIC);
        }
    }
    lora__remake_end(&job->remake, status, out_report);
}

static lora_status lokr_read_options(lora_lokr_options *out,
                                     const lora_lokr_options *options,
                                     lora_error *error)
{
    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_lokr_options, skip_bad), options,
                           error));
    if (out->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(out->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for factors",
                          lora_dtype_name(out->dtype));
    }
    return out->rank >= 0 ? LORA_OK
                          : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                                       "rank", "negative");
}

LORA_API lora_status lora_adapter_to_lokr(lora_adapter **out,
                                          lora_report **out_report,
                                          const lora_adapter *adapter,
                                          const lora_lokr_options *options,
                                          lora_error *error)
{
    lokr_job job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lokr_read_options(&job.options, options, error));
    status = lokr_run(out, &job, adapter, error);
    lokr_end(&job, status, out_report);
    return status;
}
