/* Light-LoRA to plain LoRA. */
#include "op/light.h"

#include "linalg/factored.h"
#include "op/factor_split.h"
#include "op/values.h"

#include <string.h>

/* The best of rank k, singular values in up; in place. */
static lora_status
light_expand_cut(lora__factors *f, size_t k, lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(f->context)->cpu);
    const lora__svd_input input = {f->rows, f->cols, f->rank, f->up_t, f->down};
    lora__svd svd;
    lora__factors cut;
    lora_status status;

    memset(&svd, 0, sizeof svd);
    memset(&cut, 0, sizeof cut);
    TRY_OR_DONE(lora__svd_create(&svd, f->context, &input, error));
    k = k < svd.count ? k : svd.count;
    TRY_OR_DONE(
        lora__factors_alloc(&cut, f->context, f->rows, f->cols, k, error));
    TRY_OR_DONE(lora__svd_truncate(cut.up_t, cut.down, &svd, &input, k,
                                   f->context, error));
    lora__factors_split(&cut, kernels, LORA_SPLIT_UP, 1.0, svd.sigma, k);
    cut.scale = f->scale;
    lora__svd_destroy(&svd, f->context);
    lora__factors_destroy(f);
    *f = cut;
    return LORA_OK;
done:
    lora__svd_destroy(&svd, f->context);
    lora__factors_destroy(&cut);
    return status;
}

/* A factor under the name that a plain LoRA has for it. */
static lora_status light_expand_put(lora__emit *emit,
                                    const lora__module *module,
                                    lora__role role,
                                    lora_dtype dtype,
                                    size_t rows,
                                    size_t cols,
                                    const double *values,
                                    lora_error *error)
{
    const int64_t shape[LORA_MAX_DIMS] = {(int64_t)rows, (int64_t)cols, 1, 1};
    lora__spelling spelling;
    lora__row_set unused;

    lora__buffer_clear(&emit->name);
    lora__emit_spelling(&spelling, module, emit->family, 0, role);
    spelling.rows = &unused;
    TRY(lora__names_write(&emit->name, module->dialect, &spelling, error));
    TRY(lora__buffer_status(&emit->name, error));
    return lora__emit_f64(emit, emit->name.data, dtype, module->ndim, shape,
                          values, error);
}

/* Up row by row, and times the scale where the dialect has no place for it. */
static double *light_expand_up(const lora__factors *f, double scale)
{
    double *up = lora__alloc(f->context, f->rows * f->rank * sizeof *up,
                             LORA__ALIGN_NUMERIC);

    for (size_t i = 0; up != NULL && i < f->rows; i++) {
        for (size_t r = 0; r < f->rank; r++) {
            up[i * f->rank + r] = scale * f->up_t[r * f->rows + i];
        }
    }
    return up;
}

static lora_status light_expand_factors(lora__emit *emit,
                                        const lora__module *module,
                                        const lora__factors *f,
                                        lora_dtype dtype,
                                        lora_error *error)
{
    const lora__entry *alpha =
        lora__module_entry(emit->source, module, LORA__ROLE_ALPHA);
    const int has_alpha =
        lora__dialect_has_role(module->dialect, LORA__ROLE_ALPHA) ||
        lora__dialect_alpha_in_metadata(module->dialect);
    double *up = light_expand_up(f, has_alpha ? 1.0 : f->scale);
    lora_status status;

    if (up == NULL) {
        return lora__fail_memory(error, f->rows * f->rank * sizeof *up);
    }
    TRY_OR_DONE(light_expand_put(emit, module, LORA__ROLE_DOWN, dtype, f->rank,
                                 f->cols, f->down, error));
    status = light_expand_put(emit, module, LORA__ROLE_UP, dtype, f->rows,
                              f->rank, up, error);
    if (status == LORA_OK && has_alpha && (alpha != NULL || f->scale != 1.0)) {
        status = lora__emit_put_alpha(emit, module, f->scale * (double)f->rank,
                                      (int64_t)f->rank,
                                      alpha != NULL ? alpha->dtype : dtype,
                                      alpha != NULL && alpha->ndim == 1, error);
    }
done:
    lora__free(f->context, up, f->rows * f->rank * sizeof *up,
               LORA__ALIGN_NUMERIC);
    return status;
}

static lora_status light_expand_module(lora__emit *emit,
                                       const lora__module *module,
                                       const lora_light_options *options,
                                       lora_error *error)
{
    const lora_adapter *adapter = emit->source;
    lora__factors f;
    lora_status status = LORA_OK;

    if (!lora__light_is(module)) {
        for (size_t i = 0; i < module->member_count; i++) {
            const size_t entry = module->members[i].entry;
            TRY(lora__emit_entry(emit, adapter->container->entries[entry].name,
                                 entry, 1.0, LORA_DTYPE_NONE, -1, NULL, error));
        }
        return LORA_OK;
    }
    TRY(lora__module_factors(&f, adapter, module, error));
    if (options->rank > 0 && (size_t)options->rank < f.rank) {
        status = light_expand_cut(&f, (size_t)options->rank, error);
    }
    if (status == LORA_OK) {
        status = light_expand_factors(
            emit, module, &f,
            options->dtype == LORA_DTYPE_NONE ? module->dtype : options->dtype,
            error);
    }
    lora__factors_destroy(&f);
    return status;
}

static lora_status light_expand_emit(lora_adapter **out,
                                     lora__emit *emit,
                                     const lora_adapter *adapter,
                                     const lora_light_options *options,
                                     const unsigned char *left_out,
                                     lora_error *error)
{
    TRY(lora__emit_begin(emit, adapter, adapter->module_count, NULL,
                         adapter->names.family, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (!left_out[m]) {
            TRY(light_expand_module(emit, &adapter->modules[m], options,
                                    error));
        }
        TRY(lora__progress(adapter->context, "expand", m + 1,
                           adapter->module_count, error));
    }
    TRY(lora__emit_rest(emit, error));
    TRY(lora_builder_set_metadata(emit->builder, LORA__LIGHT_KEY, NULL, error));
    emit->changed = 1;
    TRY(lora__emit_metadata(emit, error));
    return lora__emit_finish(out, emit, error);
}

static lora_status light_expand_all(lora_adapter **out,
                                    const lora_adapter *adapter,
                                    const lora_light_options *options,
                                    lora_error *error)
{
    lora__arena arena;
    lora__emit emit;
    size_t count = 0;
    void *left_out;
    lora_status status;

    memset(&emit, 0, sizeof emit);
    emit.source = adapter;
    lora__arena_init(&arena, adapter->context);
    TRY_OR_DONE(lora__arena_zeroed(&left_out, &arena, adapter->module_count + 1,
                                   1, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        count += (size_t)lora__light_is(&adapter->modules[m]);
    }
    if (count == 0) {
        status = lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            adapter->container->path,
                            "no Light-LoRA is in it: its factors are as long "
                            "as the layers, or the recipe does not say that "
                            "they should be longer");
        goto done;
    }
    TRY_OR_DONE(lora__values_admit(left_out, NULL, adapter,
                                   options->skip_bad != 0, error));
    status = light_expand_emit(out, &emit, adapter, options, left_out, error);
done:
    lora__emit_end(&emit);
    lora__arena_destroy(&arena);
    return status;
}

LORA_API lora_status lora_light_expand(lora_adapter **out,
                                       const lora_adapter *adapter,
                                       const lora_light_recipe *recipe,
                                       const lora_light_options *options,
                                       lora_error *error)
{
    lora_light_options o;
    lora_adapter *told = NULL;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__light_options_read(&o, options, error));
    if (recipe != NULL) {
        TRY(lora__light_attach(&told, adapter, recipe, error));
    }
    status = light_expand_all(out, told == NULL ? adapter : told, &o, error);
    lora_adapter_destroy(told);
    return status;
}
