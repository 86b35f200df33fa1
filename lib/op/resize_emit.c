/* The result of rank conversion as an adapter: tensors, alphas, metadata. */
#include "adapter/strength.h"
#include "core/text.h"
#include "op/emit.h"
#include "op/peft_type.h"
#include "op/report.h"
#include "op/resize.h"

#include <math.h>
#include <string.h>

/* A new tensor of the name that was spelled, whose data is given up; or its
 * place alone. */
static lora_status resize_emit_data(lora__emit *emit,
                                    const lora__resize *job,
                                    lora_dtype dtype,
                                    int32_t ndim,
                                    const int64_t *shape,
                                    void **data,
                                    lora_error *error)
{
    void *owned = *data;

    if (job->measures) {
        return lora__builder_add_made(emit->builder, emit->name.data,
                                      job->adapter->container, ndim, shape,
                                      dtype, NULL, NULL, 0, error);
    }
    *data = NULL;
    return lora__builder_adopt(emit->builder, emit->name.data, dtype, ndim,
                               shape, owned, error);
}

static lora_status resize_emit_factor(lora__emit *emit,
                                      const lora__resize *job,
                                      const lora__module *module,
                                      lora__role role,
                                      int32_t ndim,
                                      const int64_t *shape,
                                      void **data,
                                      lora_error *error)
{
    TRY(!module->kind->is_pair ? lora__emit_spell_new(emit, module, role, error)
                               : lora__emit_spell(emit, module, role, error));
    return resize_emit_data(emit, job, lora__resize_dtype(job, module, role),
                            ndim, shape, data, error);
}

/* The factor that a new one replaces; NULL: there is none. */
static const lora__entry *
resize_old(const lora__resize *job, const lora__module *module, lora__role role)
{
    return module->kind->is_pair
               ? lora__module_entry(job->adapter, module, role)
               : NULL;
}

/* The shape of a new factor: as the one before, or, where there was none, as
 * the weight has it; `outer` is the dimension that is not the rank. A whole one
 * gets the kernel that a core had. */
static int32_t resize_shape(int64_t shape[LORA_MAX_DIMS],
                            const lora__resize *job,
                            size_t index,
                            const lora__entry *old,
                            int32_t outer,
                            int is_whole,
                            int64_t rank)
{
    int32_t ndim;
    const int64_t *weight = lora__resize_shape(&ndim, job, index);

    ndim = old == NULL || is_whole ? ndim : old->ndim;
    memcpy(shape, old == NULL || is_whole ? weight : old->shape,
           LORA_MAX_DIMS * sizeof *shape);
    if (lora__resize_is_turned(job, index)) {
        shape[0] = weight[1];
        shape[1] = weight[0];
    }
    if (is_whole) {
        shape[1] = old->shape[1];
    }
    for (int32_t i = 2; old == NULL && outer == 0 && i < ndim; i++) {
        shape[i] = 1;
    }
    shape[1 - outer] = rank;
    return ndim;
}

/* A bias change that came of the base's; alpha will be the rank, so that it is
 * the same by either name. */
static lora_status resize_emit_bias(lora__emit *emit,
                                    const lora__resize *job,
                                    size_t index,
                                    lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__resize_result *result = &job->results[index];
    lora_dtype dtype = lora__resize_dtype(job, module, LORA__ROLE_UP);
    int64_t rows = result->shape[lora__resize_is_turned(job, index)];

    if (!result->has_bias) {
        return LORA_OK;
    }
    TRY(lora__emit_spell(emit, module, lora__resize_bias_role(job, module),
                         error));
    return resize_emit_data(emit, job, dtype, 1, &rows, &result->bias, error);
}

/* A module with new factors: they replace up and down, or what a kind has
 * instead, and make core, scale and alpha what they now are. */
static lora_status resize_emit_new(lora__emit *emit,
                                   const lora__resize *job,
                                   size_t index,
                                   lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora__resize_result *result = &job->results[index];
    const lora__entry *up = resize_old(job, module, LORA__ROLE_UP);
    const lora__entry *down = resize_old(job, module, LORA__ROLE_DOWN);
    const lora__entry *alpha =
        lora__module_entry(job->adapter, module, LORA__ROLE_ALPHA);
    const lora__entry *mid =
        lora__module_entry(job->adapter, module, LORA__ROLE_MID);
    int keeps_core = lora__resize_keeps_core(job, index);
    int is_whole = mid != NULL && !keeps_core; /* down gets the kernel */
    int64_t shape[LORA_MAX_DIMS] = {0};
    int64_t rank = (int64_t)result->rank;
    int32_t ndim = resize_shape(shape, job, index, down, 1, is_whole, rank);

    TRY(resize_emit_factor(emit, job, module, LORA__ROLE_DOWN, ndim, shape,
                           &result->down, error));
    if (keeps_core) {
        memcpy(shape, mid->shape, sizeof shape);
        shape[0] = rank;
        shape[1] = rank;
        TRY(resize_emit_factor(emit, job, module, LORA__ROLE_MID, mid->ndim,
                               shape, &result->core, error));
    }
    ndim = resize_shape(shape, job, index, up, 0, 0, rank);
    TRY(resize_emit_factor(emit, job, module, LORA__ROLE_UP, ndim, shape,
                           &result->up, error));
    TRY(resize_emit_bias(emit, job, index, error));
    emit->becomes = lora__peft_type_plain();
    TRY(lora__emit_put_alpha(emit, module, (double)result->rank,
                             (int64_t)result->rank, module->dtype,
                             alpha != NULL && alpha->ndim > 0, error));
    emit->becomes = NULL;
    return LORA_OK;
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
static int resize_puts_alpha(const lora__resize *job,
                             const lora__module *module)
{
    int odd = !module->has_alpha || module->alpha <= 0.0;

    return module->rank > 0 && module->kind->factors != NULL &&
           !module->kind->own_scale &&
           (lora__dialect_alpha_in_metadata(module->dialect) ||
            (job->lowers && odd &&
             lora__dialect_has_role(module->dialect, LORA__ROLE_ALPHA)));
}

/* Whether a tensor stays beside new factors. */
static int resize_keeps(const lora__resize *job, size_t index, lora__role role)
{
    return role == LORA__ROLE_UP_BIAS || role == LORA__ROLE_DIFF_BIAS ||
           (role == LORA__ROLE_BIAS && !lora__resize_is_based(job, index)) ||
           (role == LORA__ROLE_DORA && !job->pairs &&
            !lora__resize_is_based(job, index));
}

static lora_status resize_emit_module(lora__emit *emit,
                                      const lora__resize *job,
                                      size_t index,
                                      lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    int is_new = job->results[index].is_new;
    int explicit = resize_puts_alpha(job, module);
    int in_metadata = lora__emit_is_whole(module) && !is_new &&
                      lora__dialect_alpha_in_metadata(module->dialect);
    double sign = (explicit || in_metadata) && module->scale < 0.0 ? -1.0 : 1.0;
    double bias_scale = is_new ? module->scale : sign;

    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        lora__role role = member->role;
        if ((is_new && !resize_keeps(job, index, role)) ||
            ((explicit || in_metadata) && lora__emit_is_scale(role))) {
            continue;
        }
        TRY(lora__emit_spell(emit, module, role, error));
        TRY(lora__emit_entry(
            emit, emit->name.data, member->entry,
            role == LORA__ROLE_UP_BIAS
                ? bias_scale
                : lora__strength_factor(module, role, sign, 1.0),
            role == LORA__ROLE_ALPHA ? LORA_DTYPE_NONE : job->options.dtype, -1,
            NULL, error));
    }
    if (is_new) {
        return resize_emit_new(emit, job, index, error);
    }
    if (in_metadata) {
        return lora__emit_put_whole(emit, module, fabs(module->scale), error);
    }
    return explicit
               ? lora__emit_put_alpha(emit, module, fabs(resize_alpha(module)),
                                      module->rank, module->dtype, 0, error)
               : LORA_OK;
}

/* The text of a metadata value that sums ranks up: the rank they share, or
 * "Dynamic", as kohya's tools write it. */
static void resize_shared_rank(char *out, const lora__resize *job)
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

/* kohya's loaders go by the trainer's module, which a LoRA has not. */
static lora_status
resize_trainer(lora__emit *emit, const lora__resize *job, lora_error *error)
{
    int others = 0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        others |= job->results[m].is_new &&
                  (!job->adapter->modules[m].kind->is_pair ||
                   lora__resize_is_based(job, m));
    }
    if (!others ||
        lora__builder_metadata(emit->builder, "ss_network_module") == NULL) {
        return LORA_OK;
    }
    TRY(lora_builder_set_metadata(emit->builder, "ss_network_args", NULL,
                                  error));
    return lora_builder_set_metadata(emit->builder, "ss_network_module",
                                     "networks.lora", error);
}

static lora_status
resize_metadata(lora__emit *emit, const lora__resize *job, lora_error *error)
{
    static const char *const keys[] = {"ss_network_dim", "ss_network_alpha"};
    char rank[40];

    resize_shared_rank(rank, job);
    for (size_t i = 0; i < LORA__COUNT(keys); i++) {
        if (lora__builder_metadata(emit->builder, keys[i]) != NULL) {
            TRY(lora_builder_set_metadata(emit->builder, keys[i], rank, error));
        }
    }
    TRY(resize_trainer(emit, job, error));
    emit->changed = 1;
    return lora__emit_metadata(emit, error);
}

/* Put everything into the builder. */
static lora_status
resize_emit_all(lora__emit *emit, lora__resize *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;

    job->lowers = 0;
    for (size_t m = 0; m < adapter->module_count; m++) {
        job->lowers |= job->results[m].is_new;
    }
    TRY(lora__emit_begin(emit, adapter, adapter->module_count, NULL,
                         adapter->names.family, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (!job->results[m].left_out) {
            TRY(resize_emit_module(emit, job, m, error));
        }
    }
    TRY(lora__emit_rest(emit, error));
    return resize_metadata(emit, job, error);
}

LORA_PRIVATE lora_status lora__resize_emit(lora_adapter **out,
                                           lora__resize *job,
                                           lora_error *error)
{
    lora__emit emit;
    lora_status status = resize_emit_all(&emit, job, error);

    if (status == LORA_OK) {
        status = lora__emit_finish(out, &emit, error);
    }
    lora__emit_end(&emit);
    return status;
}

LORA_PRIVATE lora_status lora__resize_measure(uint64_t *out_bytes,
                                              lora__resize *job,
                                              lora_error *error)
{
    lora__emit emit;
    lora_status status;

    job->measures = 1;
    status = resize_emit_all(&emit, job, error);
    job->measures = 0;
    if (status == LORA_OK) {
        status = lora__emit_measure(out_bytes, &emit, error);
    }
    lora__emit_end(&emit);
    return status;
}
