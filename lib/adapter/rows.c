/* Numbers of a module: its factors, and rows of its dense changes.
 *
 * What a kind's file computes is one weight change; what is the same for all
 * kinds (biases, the base, the public calls) is here, and in rows_load.c.
 */
#include "adapter/kind.h"
#include "core/options.h"

#include <math.h>
#include <string.h>

/* ---- factors ----------------------------------------------------------- */

LORA_PRIVATE lora_status lora__factors_alloc(lora__factors *out,
                                             lora_context *context,
                                             size_t rows,
                                             size_t cols,
                                             size_t rank,
                                             lora_error *error)
{
    size_t up;
    size_t down;
    size_t direction;

    memset(out, 0, sizeof *out);
    if (!lora__mul_size(rank, sizeof(double), &direction) ||
        !lora__mul_size(rows, direction, &up) ||
        !lora__mul_size(cols, direction, &down)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    out->context = context;
    out->rows = rows;
    out->cols = cols;
    out->rank = rank;
    out->up_t = lora__alloc(context, up, LORA__ALIGN_NUMERIC);
    out->down = lora__alloc(context, down, LORA__ALIGN_NUMERIC);
    if (out->up_t == NULL || out->down == NULL) {
        lora__factors_destroy(out);
        return lora__fail_memory(error, up + down);
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__factors_destroy(lora__factors *f)
{
    if (f->context != NULL) {
        lora__free(f->context, f->up_t, f->rows * f->rank * sizeof(double),
                   LORA__ALIGN_NUMERIC);
        lora__free(f->context, f->down, f->cols * f->rank * sizeof(double),
                   LORA__ALIGN_NUMERIC);
        lora__free(f->context, f->sigma, f->rank * sizeof(double), LORA__ALIGN);
    }
    memset(f, 0, sizeof *f);
}

LORA_PRIVATE void lora__factors_take(lora__factors *out,
                                     lora__rows *state,
                                     size_t up_t,
                                     size_t down)
{
    memset(out, 0, sizeof *out);
    out->context = state->context;
    out->rows = state->rows;
    out->cols = state->cols;
    out->rank = state->rank;
    out->scale = state->multiplier;
    out->up_t = state->blocks[up_t];
    out->down = state->blocks[down];
    state->blocks[up_t] = NULL;
    state->blocks[down] = NULL;
}

/* Numbers can be computed, and this module's are not in the file. */
static lora_status rows_check_lacks(const lora__module *module,
                                    lora_error *error)
{
    return module->lacks == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, module->name,
                            "%s", module->lacks);
}

LORA_PRIVATE const char *lora__module_beside(const lora__module *module)
{
    return module->dora     ? " with DoRA"
           : module->padded ? " of a weight with zeros put to it"
           : module->sparse ? " with a sparse residual"
                            : NULL;
}

LORA_PRIVATE lora_status lora__module_has_factors(const lora__module *module,
                                                  lora_error *error)
{
    const char *beside = lora__module_beside(module);

    TRY(lora__module_check(module, error));
    if ((module->needs & LORA_PART_WEIGHT) != 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s%s has no factors of its own: convert it to LoRA "
                          "with the base",
                          module->kind->id, module->dora ? " with DoRA" : "");
    }
    if (module->kind->factors == NULL || beside != NULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "%s%s has no factors in this version",
                          module->kind->id, beside == NULL ? "" : beside);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__module_factors(lora__factors *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora_error *error)
{
    memset(out, 0, sizeof *out);
    TRY(lora__module_has_factors(module, error));
    return module->kind->factors(out, adapter, module, error);
}

/* ---- rows -------------------------------------------------------------- */

enum { ROWS_BIAS_DIFF, ROWS_BIAS_UP };

/* Whether the kind itself computes a part. */
static int rows_is_own(const lora__module *module, lora_part part)
{
    return part == LORA_PART_WEIGHT ||
           ((module->needs & part) != 0 && !lora__module_replaces_bias(module));
}

/* b' - b = m * (diff_b + s * up_bias), whichever are there; or m * (bias - b),
 * with a bias that replaces it in the place of diff_b. */
static lora_status rows_prepare_bias(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    static const lora__role roles[] = {LORA__ROLE_DIFF_BIAS,
                                       LORA__ROLE_NORM_BIAS, LORA__ROLE_UP_BIAS,
                                       LORA__ROLE_BIAS};

    state->cols = 1;
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        const lora__member *member = lora__module_find(module, roles[i]);
        size_t block = i == 2 ? ROWS_BIAS_UP : ROWS_BIAS_DIFF;
        if (member == NULL || state->blocks[block] != NULL) {
            continue;
        }
        if (adapter->container->entries[member->entry].elements !=
            state->rows) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              module->name, "bias of another length");
        }
        TRY(lora__rows_load(state, block, adapter, member->entry, error));
    }
    return LORA_OK;
}

/* In f64 whatever the type: biases are short, and one rounding is best. */
static void rows_bias(const lora__rows *state,
                      const lora__module *module,
                      size_t begin,
                      size_t end,
                      void *out)
{
    const void *diff = state->blocks[ROWS_BIAS_DIFF];
    const void *up = state->blocks[ROWS_BIAS_UP];
    int wide = state->dtype == LORA_DTYPE_F64;
    int replaces = lora__module_replaces_bias(module);

    for (size_t i = begin; i < end; i++) {
        double value = 0.0;
        if (diff != NULL) {
            value = wide ? ((const double *)diff)[i]
                         : (double)((const float *)diff)[i];
        }
        if (replaces) {
            value -= lora__rows_get(state, lora__rows_base(state, i), 0);
        }
        if (up != NULL) {
            value = fma(module->scale,
                        wide ? ((const double *)up)[i]
                             : (double)((const float *)up)[i],
                        value);
        }
        value *= state->multiplier;
        if (wide) {
            ((double *)out)[i - begin] = value;
        } else {
            ((float *)out)[i - begin] = (float)value;
        }
    }
}

static lora_status rows_check(const lora__module *module,
                              const lora__rows_how *how,
                              lora_error *error)
{
    lora_part part = how->part;
    int own = rows_is_own(module, part);

    TRY(lora__module_check(module, error));
    if ((module->changes & part) == 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "changes no %s",
                          part == LORA_PART_BIAS ? "bias" : "weight");
    }
    if (own && module->kind->prepare == NULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "%s cannot be computed in this version",
                          module->kind->id);
    }
    if ((module->needs & part) != 0 && how->base == NULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s%s needs the base %s: give the model (--base)",
                          own ? module->kind->id : "a trained bias",
                          module->dora && own ? " with DoRA" : "",
                          part == LORA_PART_BIAS ? "bias" : "weight");
    }
    return part == LORA_PART_WEIGHT ? rows_check_lacks(module, error) : LORA_OK;
}

/* The tensor of the base whose change is asked for; how->base is not NULL. */
static const lora__base_tensor *rows_given(const lora__rows_how *how)
{
    return how->part == LORA_PART_BIAS ? how->base->bias : how->base->weight;
}

/* The base's tensor, where it takes part. */
static const lora__base_tensor *rows_base(const lora__module *module,
                                          const lora__rows_how *how)
{
    return how->base == NULL ||
                   (!how->weights && (module->needs & how->part) == 0)
               ? NULL
               : rows_given(how);
}

LORA_PRIVATE lora_status lora__rows_plan(int64_t shape[LORA_MAX_DIMS],
                                         int32_t *out_ndim,
                                         const lora__module *module,
                                         const lora__rows_how *how,
                                         lora_error *error)
{
    const lora__base_tensor *base = rows_base(module, how);

    TRY(rows_check(module, how, error));
    /* What is given must fit, also where the change does not depend on it. */
    if (base == NULL && how->base != NULL) {
        TRY(lora__base_shape(shape, out_ndim, module, how->part,
                             rows_given(how), error));
    }
    if (base == NULL && (how->weights || (module->needs & how->part) != 0)) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, module->name,
                          "the base has no such %s",
                          how->part == LORA_PART_BIAS ? "bias" : "weight");
    }
    return lora__base_shape(shape, out_ndim, module, how->part, base, error);
}

LORA_PRIVATE lora_status lora__rows_create_how(lora__rows *out,
                                               const lora_adapter *adapter,
                                               const lora__module *module,
                                               const lora__rows_how *how,
                                               lora_error *error)
{
    lora_context *context = adapter->context;
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    lora_status status;

    memset(out, 0, sizeof *out);
    TRY(lora__rows_plan(shape, &ndim, module, how, error));
    out->context = context;
    out->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    out->dtype = how->dtype;
    out->part = how->part;
    out->weights = how->weights;
    out->factors = how->factors;
    out->grain = 1;
    out->multiplier = how->strength;
    out->after = 1.0;
    out->has_dora = module->dora && how->part == LORA_PART_WEIGHT;
    if ((module->kind->nonlinear || out->has_dora) &&
        how->rule == LORA_STRENGTH_INTERPOLATE) {
        out->multiplier = 1.0;
        out->after = how->strength;
    }
    out->own_rows = rows_is_own(module, how->part);
    out->base = rows_base(module, how);
    out->weight = how->base == NULL ? NULL : how->base->weight;
    out->rows = (size_t)shape[0];
    out->cols = lora__shape_size(shape, 1, ndim);
    status = out->has_dora
                 ? lora__dora_prepare(out, adapter, module, how->dora, error)
             : out->own_rows
                 ? module->kind->prepare(out, adapter, module, error)
                 : rows_prepare_bias(out, adapter, module, error);
    if (status != LORA_OK) {
        lora__rows_destroy(out);
    }
    return status;
}

LORA_PRIVATE lora_status lora__rows_create(lora__rows *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           lora_part part,
                                           double strength,
                                           lora_dtype dtype,
                                           lora_error *error)
{
    lora__rows_how how = {0};

    how.part = part;
    how.dtype = dtype;
    how.strength = strength;
    return lora__rows_create_how(out, adapter, module, &how, error);
}

LORA_PRIVATE lora_status lora__rows_create_factors(lora__rows *out,
                                                   const lora_adapter *adapter,
                                                   const lora__module *module,
                                                   lora_error *error)
{
    lora__rows_how how = {0};

    how.part = LORA_PART_WEIGHT;
    how.dtype = LORA_DTYPE_F64;
    how.strength = 1.0;
    how.factors = 1;
    return lora__rows_create_how(out, adapter, module, &how, error);
}

LORA_PRIVATE size_t lora__rows_grain(size_t *out_begin,
                                     size_t *out_end,
                                     const lora__rows *state,
                                     size_t row)
{
    const lora__grain same = {state->rows, state->grain};
    const lora__grain *grains = state->grain_count == 0 ? &same : state->grains;
    size_t begin = 0;
    size_t place = 0;

    while (row >= grains[place].end) {
        begin = grains[place++].end;
    }
    begin += (row - begin) / grains[place].rows * grains[place].rows;
    *out_begin = begin;
    *out_end = grains[place].end - begin > grains[place].rows
                   ? begin + grains[place].rows
                   : grains[place].end;
    return place;
}

/* The base's rows that go with those. */
static lora_status
rows_bring(lora__rows *state, size_t begin, size_t end, lora_error *error)
{
    size_t first;
    size_t last;
    size_t unused;

    (void)lora__rows_grain(&first, &unused, state, begin);
    (void)lora__rows_grain(&unused, &last, state, end - 1);
    return first >= state->base_begin && last <= state->base_end
               ? LORA_OK
               : lora__rows_want(state, first, last, error);
}

/* out = after * out, + base. */
static void
rows_finish(const lora__rows *state, size_t begin, size_t end, void *out)
{
    size_t count = (end - begin) * state->cols;

    if (state->after != 1.0) {
        lora__rows_scale_by(state, out, state->after, count);
    }
    if (state->weights && state->dtype == LORA_DTYPE_F64) {
        state->kernels->axpy_f64(out, lora__rows_base(state, begin), 1.0,
                                 count);
    } else if (state->weights) {
        state->kernels->axpy_f32(out, lora__rows_base(state, begin), 1.0F,
                                 count);
    }
}

/* Rows are made in blocks of about so many bytes, which stay in the cache while
 * they are scaled or added to, and need no more of the base at a time. */
#define ROWS_BLOCK_BYTES ((size_t)1 << 20)

/* Blocks begin at a multiple of this: of the base's grain, and of what tiles of
 * a product have. */
static size_t rows_step(const lora__rows *state)
{
    const size_t row = state->cols * lora__rows_size(state);
    const size_t step =
        row > ROWS_BLOCK_BYTES / 8 ? 8 : ROWS_BLOCK_BYTES / row / 8 * 8;

    return step < state->grain ? state->grain
                               : step / state->grain * state->grain;
}

static lora_status rows_read_block(lora__rows *state,
                                   const lora__module *module,
                                   size_t begin,
                                   size_t end,
                                   void *out,
                                   lora_error *error)
{
    if (state->base != NULL) {
        TRY(rows_bring(state, begin, end, error));
    }
    if (state->has_dora) {
        lora__dora_rows(state, module, begin, end, out);
    } else if (state->own_rows) {
        module->kind->rows(state, module, begin, end, out);
    } else {
        rows_bias(state, module, begin, end, out);
    }
    rows_finish(state, begin, end, out);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_read(lora__rows *state,
                                         const lora__module *module,
                                         size_t begin,
                                         size_t end,
                                         void *out,
                                         lora_error *error)
{
    const size_t row = state->cols * lora__rows_size(state);
    const size_t step = rows_step(state);
    unsigned char *to = out;

    while (begin < end) {
        const size_t left = step - begin % step;
        const size_t next = left < end - begin ? begin + left : end;

        TRY(rows_read_block(state, module, begin, next, to, error));
        to += (next - begin) * row;
        begin = next;
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__rows_destroy(lora__rows *state)
{
    for (size_t i = 0; i < LORA__COUNT(state->blocks); i++) {
        lora__rows_drop(state, i);
    }
    if (state->base_rows != NULL) {
        lora__free(state->context, state->base_rows, state->base_bytes,
                   LORA__ALIGN_NUMERIC);
    }
    memset(state, 0, sizeof *state);
}

/* ---- public calls ------------------------------------------------------ */

LORA_PRIVATE lora_status lora__rules_check(lora_strength_rule rule,
                                           lora_dora_rule dora,
                                           lora_error *error)
{
    if (rule != LORA_STRENGTH_ORIGIN && rule != LORA_STRENGTH_INTERPOLATE) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET,
                          "strength_rule", "no such rule");
    }
    return dora >= LORA_DORA_ORIGIN && dora <= LORA_DORA_PEFT
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET,
                            "dora_rule", "no such rule");
}

static lora_status rows_module(const lora__module **out,
                               const lora_adapter *adapter,
                               size_t index,
                               lora_dtype dtype,
                               lora_error *error)
{
    CHECK_ARG(adapter != NULL, error);
    if (index >= adapter->module_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "module %llu of %llu", (unsigned long long)index,
                          (unsigned long long)adapter->module_count);
    }
    if (dtype != LORA_DTYPE_F32 && dtype != LORA_DTYPE_F64) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
                          "F32 or F64 is needed");
    }
    *out = &adapter->modules[index];
    return LORA_OK;
}

/* Rows [row_begin, row_end) into the caller's buffer, which must be just as
 * large as they are. */
static lora_status rows_answer(void *buffer,
                               size_t bytes,
                               const lora_adapter *adapter,
                               const lora__module *module,
                               const lora__rows_how *how,
                               int64_t row_begin,
                               int64_t row_end,
                               lora_error *error)
{
    lora__rows state;
    size_t needed;
    lora_status status;

    CHECK_ARG(buffer != NULL, error);
    CHECK_ARG(how->part == LORA_PART_WEIGHT || how->part == LORA_PART_BIAS,
              error);
    TRY(lora__rows_create_how(&state, adapter, module, how, error));
    if (row_begin < 0 || row_end < row_begin ||
        (uint64_t)row_end > state.rows) {
        status =
            lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, module->name,
                       "rows %lld to %lld of %llu", (long long)row_begin,
                       (long long)row_end, (unsigned long long)state.rows);
        goto done;
    }
    if (!lora__mul_size((size_t)(row_end - row_begin),
                        state.cols * lora__rows_size(&state), &needed) ||
        needed != bytes) {
        status =
            lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, module->name,
                       "buffer has not the size of %lld rows",
                       (long long)(row_end - row_begin));
        goto done;
    }
    status = lora__rows_read(&state, module, (size_t)row_begin, (size_t)row_end,
                             buffer, error);
done:
    lora__rows_destroy(&state);
    return status;
}

LORA_API lora_status lora_adapter_delta(void *buffer,
                                        size_t bytes,
                                        const lora_adapter *adapter,
                                        size_t index,
                                        lora_part part,
                                        double strength,
                                        lora_dtype dtype,
                                        int64_t row_begin,
                                        int64_t row_end,
                                        lora_error *error)
{
    const lora__module *module;
    lora__rows_how how = {0};

    lora__error_begin(error);
    TRY(rows_module(&module, adapter, index, dtype, error));
    how.part = part;
    how.dtype = dtype;
    how.strength = strength;
    return rows_answer(buffer, bytes, adapter, module, &how, row_begin, row_end,
                       error);
}

LORA_API void
lora_adapter_delta_base_options_init(lora_adapter_delta_base_options *options,
                                     size_t size)
{
    lora__options_init(options, size);
}

LORA_API lora_status
lora_adapter_delta_base(void *buffer,
                        size_t bytes,
                        const lora_adapter *adapter,
                        size_t index,
                        lora_part part,
                        double strength,
                        lora_dtype dtype,
                        int64_t row_begin,
                        int64_t row_end,
                        const lora_tensor *weight,
                        const lora_tensor *bias,
                        const lora_adapter_delta_base_options *options,
                        lora_error *error)
{
    const lora__module *module;
    lora_adapter_delta_base_options own;
    lora__base_tensor tensors[2];
    lora__base base = {NULL, NULL};
    lora__rows_how how = {0};

    lora__error_begin(error);
    TRY(rows_module(&module, adapter, index, dtype, error));
    TRY(lora__options_read(
        &own, sizeof own,
        LORA__SIZE_TO(lora_adapter_delta_base_options, reserved1), options,
        error));
    TRY(lora__options_reserved(own.reserved1, error));
    TRY(lora__rules_check(own.strength_rule, own.dora_rule, error));
    if (weight != NULL) {
        TRY(lora__base_view(&tensors[0], adapter->context, weight, "weight",
                            error));
        base.weight = &tensors[0];
    }
    if (bias != NULL) {
        TRY(lora__base_view(&tensors[1], adapter->context, bias, "bias",
                            error));
        base.bias = &tensors[1];
    }
    how.part = part;
    how.dtype = dtype;
    how.strength = strength;
    how.rule = own.strength_rule;
    how.dora = own.dora_rule;
    how.weights = own.weights != 0;
    how.base = &base;
    return rows_answer(buffer, bytes, adapter, module, &how, row_begin, row_end,
                       error);
}

static void rows_store(void *out, lora_dtype dtype, size_t i, double value)
{
    if (dtype == LORA_DTYPE_F64) {
        ((double *)out)[i] = value;
    } else {
        ((float *)out)[i] = (float)value;
    }
}

/* Row-major, as hosts want them. Of a transposed weight, (up down)^T, what is
 * up for them is down in the file. */
static lora_status rows_copy_factors(void *up,
                                     void *down,
                                     lora_dtype dtype,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    int turned = module->transposed;
    lora__factors f;
    const double *up_t;
    const double *flat;
    size_t rows;
    size_t cols;

    TRY(lora__module_factors(&f, adapter, module, error));
    up_t = turned ? f.down : f.up_t;
    flat = turned ? f.up_t : f.down;
    rows = turned ? f.cols : f.rows;
    cols = turned ? f.rows : f.cols;
    for (size_t i = 0; up != NULL && i < rows; i++) {
        for (size_t r = 0; r < f.rank; r++) {
            rows_store(up, dtype, i * f.rank + r, up_t[r * rows + i]);
        }
    }
    for (size_t i = 0; down != NULL && i < cols * f.rank; i++) {
        rows_store(down, dtype, i, flat[i]);
    }
    lora__factors_destroy(&f);
    return LORA_OK;
}

LORA_API lora_status lora_adapter_factors(int64_t *out_rows,
                                          int64_t *out_cols,
                                          int64_t *out_rank,
                                          double *out_scale,
                                          void *up,
                                          void *down,
                                          lora_dtype dtype,
                                          const lora_adapter *adapter,
                                          size_t index,
                                          lora_error *error)
{
    const lora__module *module;

    lora__error_begin(error);
    TRY(rows_module(&module, adapter, index, dtype, error));
    TRY(lora__module_has_factors(module, error));
    if (up != NULL || down != NULL) {
        TRY(rows_copy_factors(up, down, dtype, adapter, module, error));
    }
    if (out_rows != NULL) {
        *out_rows = module->shape[0];
    }
    if (out_cols != NULL) {
        *out_cols = (int64_t)lora__shape_count(module->shape, 1, module->ndim);
    }
    if (out_rank != NULL) {
        *out_rank = (int64_t)module->kind->factor_rank(adapter, module);
    }
    if (out_scale != NULL) {
        *out_scale = module->scale;
    }
    return LORA_OK;
}
