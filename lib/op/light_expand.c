/* Light-LoRA to plain LoRA. */
#include "op/light.h"

#include "linalg/block.h"
#include "linalg/small.h"
#include "op/values.h"

#include <math.h>
#include <string.h>

/* The one trained matrix M [b, a] of a module. */
static lora_status light_expand_load(lora__block *out,
                                     const lora_adapter *adapter,
                                     const lora__member *member,
                                     lora_error *error)
{
    lora__rows state;
    lora_status status;

    memset(&state, 0, sizeof state);
    state.context = adapter->context;
    state.kernels = lora__kernels_get(lora__context_get(adapter->context)->cpu);
    state.dtype = LORA_DTYPE_F64;
    status = lora__rows_load(&state, 0, adapter, member->entry, error);
    if (status == LORA_OK) {
        status =
            lora__block_create(out, 1, state.block_bytes[0] / sizeof(double),
                               adapter->context, error);
    }
    if (status == LORA_OK) {
        memcpy(out->at, state.blocks[0], state.block_bytes[0]);
    }
    lora__rows_destroy(&state);
    return status;
}

/* rows of `out` [k, n] = turn[k, inner] rows[inner, n] */
static void light_expand_turn(double *out,
                              const double *turn,
                              const double *rows,
                              size_t k,
                              size_t inner,
                              size_t n,
                              const lora__kernels *kernels)
{
    memset(out, 0, k * n * sizeof *out);
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j < inner; j++) {
            kernels->axpy_f64(out + i * n, rows + j * n, turn[i * inner + j],
                              n);
        }
    }
}

/* With M = U diag(sigma) V^T: up' = up_aux U diag(sigma), down' = V^T down_aux,
 * for the first k. The factors have M in one of them: with it in down they are
 * turned by U, else by V. The vectors come times sqrt(sigma). */
static void light_expand_split(lora__factors *cut,
                               const lora__factors *f,
                               const double *sigma,
                               const double *vectors,
                               int in_down,
                               const lora__kernels *kernels)
{
    light_expand_turn(cut->up_t, vectors, f->up_t, cut->rank, f->rank, f->rows,
                      kernels);
    light_expand_turn(cut->down, vectors, f->down, cut->rank, f->rank, f->cols,
                      kernels);
    for (size_t i = 0; i < cut->rank; i++) {
        const double root = sqrt(sigma[i]);
        const double unit = root > 0.0 ? 1.0 / root : 0.0;
        const double up = in_down ? root : unit;
        const double down = in_down ? unit * unit * unit : unit;

        kernels->scale_f64(cut->up_t + i * f->rows, up, f->rows);
        kernels->scale_f64(cut->down + i * f->cols, down, f->cols);
    }
}

/* The article's cut: of the trained matrix, not of the change. In place. */
static lora_status light_expand_cut(lora__factors *f,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    size_t k,
                                    lora_error *error)
{
    const lora__member *member =
        lora__module_find(module, LORA__ROLE_LIGHT_DOWN_UP);
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(f->context)->cpu);
    const int64_t *shape = adapter->container->entries[member->entry].shape;
    const size_t b = (size_t)shape[0];
    const size_t a = (size_t)shape[1];
    lora__block matrix = {NULL, 0};
    lora__block vectors = {NULL, 0};
    lora__factors cut;
    lora_status status;
    double *u;
    double *v;

    memset(&cut, 0, sizeof cut);
    TRY_OR_DONE(light_expand_load(&matrix, adapter, member, error));
    TRY_OR_DONE(lora__block_create(&vectors, k, a + b + 1, f->context, error));
    u = vectors.at + k;
    v = u + k * b;
    TRY_OR_DONE(lora__small_truncate(vectors.at, u, v, matrix.at, b, a, k,
                                     f->context, error));
    TRY_OR_DONE(
        lora__factors_alloc(&cut, f->context, f->rows, f->cols, k, error));
    light_expand_split(&cut, f, vectors.at, a < b ? v : u, a >= b, kernels);
    cut.scale = f->scale;
    lora__factors_destroy(f);
    *f = cut;
    memset(&cut, 0, sizeof cut);
done:
    lora__block_destroy(&vectors, adapter->context);
    lora__block_destroy(&matrix, adapter->context);
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
    /* An alpha of 0 would mean the rank. */
    const int has_alpha =
        f->scale != 0.0 &&
        (lora__dialect_has_role(module->dialect, LORA__ROLE_ALPHA) ||
         lora__dialect_alpha_in_metadata(module->dialect));
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
    if (options->rank > 0 && (size_t)options->rank < f.rank &&
        lora__module_find(module, LORA__ROLE_LIGHT_DOWN_UP) != NULL) {
        status =
            light_expand_cut(&f, adapter, module, (size_t)options->rank, error);
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
