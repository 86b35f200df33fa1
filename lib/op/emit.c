/* Emitting tensors and alphas. */
#include "op/emit.h"

#include "adapter/config.h"
#include "op/derive.h"
#include "op/emit_alpha.h"

#include <string.h>

LORA_PRIVATE lora_status lora__emit_begin(lora__emit *emit,
                                          const lora_adapter *source,
                                          size_t module_count,
                                          const lora__dialect *dialect,
                                          const lora__family *family,
                                          lora_error *error)
{
    lora_context *context = source->context;
    void *memory;

    memset(emit, 0, sizeof *emit);
    emit->source = source;
    emit->dialect = dialect;
    emit->family = family;
    lora__buffer_init(&emit->name, context);
    lora__arena_init(&emit->arena, context);
    TRY(lora_builder_create(&emit->builder, context, NULL, error));
    TRY(lora__alpha_read_record(&emit->record, &emit->has_record, &emit->arena,
                                source, error));
    TRY(lora__alloc_zeroed(&memory, context, module_count + 1,
                           sizeof *emit->alphas, error));
    emit->alphas = memory;
    emit->alpha_room = module_count + 1;
    return lora__builder_copy_metadata(emit->builder, source, error);
}

LORA_PRIVATE void lora__emit_end(lora__emit *emit)
{
    lora_context *context = emit->source->context;

    lora_builder_destroy(emit->builder);
    lora__map_destroy(&emit->record.modules);
    lora__arena_destroy(&emit->arena);
    lora__buffer_destroy(&emit->name);
    if (emit->alphas != NULL) {
        lora__free(context, emit->alphas,
                   emit->alpha_room * sizeof *emit->alphas, LORA__ALIGN);
    }
}

LORA_PRIVATE int lora__emit_is_scale(lora__role role)
{
    return role == LORA__ROLE_ALPHA || role == LORA__ROLE_SCALE ||
           role == LORA__ROLE_SCALAR;
}

LORA_PRIVATE const lora__dialect *lora__emit_dialect(const lora__emit *emit,
                                                     const lora__module *module)
{
    return emit->dialect == NULL ? module->dialect : emit->dialect;
}

LORA_PRIVATE void lora__emit_spelling(lora__spelling *out,
                                      const lora__module *module,
                                      const lora__family *family,
                                      int mends,
                                      lora__role role)
{
    memset(out, 0, sizeof *out);
    out->family = family;
    out->target = module->target;
    out->stored = mends ? module->path : module->name;
    out->stored_dialect = mends && module->known ? NULL : module->dialect;
    out->known = module->known;
    out->role = role;
}

/* The name of a role, of which the module has a tensor `key`, or none. */
static lora_status emit_spell_as(lora__emit *emit,
                                 const lora__module *module,
                                 lora__role role,
                                 const char *key,
                                 lora_error *error)
{
    const lora__dialect *dialect = lora__emit_dialect(emit, module);
    lora__spelling spelling;
    int mends = module->broken && emit->dialect != NULL; /* it was asked for */
    lora__row_set rows; /* whoever calls this has seen to them */

    lora__buffer_clear(&emit->name);
    if (key != NULL && dialect == module->dialect && !mends) {
        lora__buffer_puts(&emit->name, key);
    } else {
        lora__emit_spelling(&spelling, module, emit->family, mends, role);
        /* That of a bias tells whether there is an adapter beside it. */
        spelling.key =
            dialect == module->dialect || role == LORA__ROLE_BIAS ? key : NULL;
        spelling.rows = &rows;
        TRY(lora__names_write(&emit->name, dialect, &spelling, error));
    }
    return lora__buffer_status(&emit->name, error);
}

LORA_PRIVATE lora_status lora__emit_spell(lora__emit *emit,
                                          const lora__module *module,
                                          lora__role role,
                                          lora_error *error)
{
    const lora__entry *entry = lora__module_entry(emit->source, module, role);

    return emit_spell_as(emit, module, role, entry == NULL ? NULL : entry->name,
                         error);
}

LORA_PRIVATE lora_status lora__emit_spell_new(lora__emit *emit,
                                              const lora__module *module,
                                              lora__role role,
                                              lora_error *error)
{
    lora__spelling spelling;
    lora__row_set rows;

    lora__buffer_clear(&emit->name);
    lora__emit_spelling(&spelling, module, emit->family,
                        module->broken && emit->dialect != NULL, role);
    spelling.rows = &rows;
    return lora__names_write(&emit->name, lora__emit_dialect(emit, module),
                             &spelling, error);
}

/* A finite number that became infinite or NaN did not fit. */
static lora_status emit_check_overflow(const unsigned char *data,
                                       lora_dtype dtype,
                                       const double *values,
                                       size_t count,
                                       const char *name,
                                       const lora__kernels *kernels,
                                       lora_error *error)
{
    size_t size = lora_dtype_bits(dtype) / 8;
    double chunk[256];

    for (size_t done = 0; done < count; done += LORA__COUNT(chunk)) {
        size_t step = count - done < LORA__COUNT(chunk) ? count - done
                                                        : LORA__COUNT(chunk);
        TRY(lora__convert_to_f64(chunk, data + done * size, dtype, step,
                                 kernels, error));
        for (size_t i = 0; i < step; i++) {
            double value = values[done + i];
            if (value - value == 0.0 && !(chunk[i] - chunk[i] == 0.0)) {
                return lora__fail(
                    error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, name,
                    "element %llu is too large for %s: choose "
                    "another dtype",
                    (unsigned long long)(done + i), lora_dtype_name(dtype));
            }
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__emit_encode_at(void *out,
                                              lora_context *context,
                                              const char *name,
                                              lora_dtype dtype,
                                              const double *values,
                                              size_t count,
                                              lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);

    TRY(lora__convert_from_f64(out, dtype, values, count, kernels, error));
    return emit_check_overflow(out, dtype, values, count, name, kernels, error);
}

LORA_PRIVATE lora_status lora__emit_encode(void **out,
                                           lora_context *context,
                                           const char *name,
                                           lora_dtype dtype,
                                           const double *values,
                                           size_t count,
                                           lora_error *error)
{
    size_t bytes = count * (lora_dtype_bits(dtype) / 8);
    unsigned char *data = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    lora_status status;

    if (data == NULL) {
        return lora__fail_memory(error, bytes);
    }
    status =
        lora__emit_encode_at(data, context, name, dtype, values, count, error);
    if (status != LORA_OK) {
        lora__free(context, data, bytes, LORA__ALIGN_NUMERIC);
        return status;
    }
    *out = data;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__emit_f64(lora__emit *emit,
                                        const char *name,
                                        lora_dtype dtype,
                                        int32_t ndim,
                                        const int64_t *shape,
                                        const double *values,
                                        lora_error *error)
{
    void *data;

    TRY(lora__emit_encode(&data, emit->source->context, name, dtype, values,
                          lora__shape_size(shape, 0, ndim), error));
    return lora__builder_adopt(emit->builder, name, dtype, ndim, shape, data,
                               error);
}

LORA_PRIVATE lora_status lora__emit_entry(lora__emit *emit,
                                          const char *name,
                                          size_t index,
                                          double factor,
                                          lora_dtype dtype,
                                          int32_t ndim,
                                          const int64_t *shape,
                                          lora_error *error)
{
    lora__container *container = emit->source->container;
    const lora__entry *entry = &container->entries[index];

    dtype = dtype == LORA_DTYPE_NONE || !lora__dtype_is_float(entry->dtype)
                ? entry->dtype
                : dtype;
    if (factor == 1.0 && dtype == entry->dtype) {
        return lora__builder_add_entry(emit->builder, name, container, index,
                                       ndim, shape, error);
    }
    TRY(lora__derive_check(emit->source, index, factor, dtype, error));
    return lora__builder_add_derived(emit->builder, name, container, index,
                                     ndim, shape, dtype, lora__derive_scaled,
                                     factor, error);
}

/* What the configuration in metadata is to say of a module. */
static lora__emit_alpha *emit_record(lora__emit *emit,
                                     const lora__module *module,
                                     double alpha,
                                     int64_t rank)
{
    lora__emit_alpha *record = &emit->alphas[emit->alpha_count++];

    record->target =
        module->known ? module->target
                      : lora__names_read_back(lora__emit_dialect(emit, module),
                                              module->dialect, module->target);
    record->component = lora__config_component(record->target);
    record->alpha = alpha;
    lora__alpha_describe(record, module, rank);
    if (emit->becomes != NULL) {
        record->type = emit->becomes;
        record->has_core = 0;
    }
    return record;
}

/* A tensor that something is added to, under the name that is there. */
static lora_status emit_plus(lora__emit *emit,
                             size_t index,
                             const lora__respelling *there,
                             lora_dtype dtype,
                             lora_error *error)
{
    lora__container *container = emit->source->container;

    if (dtype == LORA_DTYPE_NONE) {
        dtype = container->entries[index].dtype == LORA_DTYPE_F64
                    ? LORA_DTYPE_F64
                    : LORA_DTYPE_F32;
    }
    TRY(lora__derive_check(emit->source, index, 1.0, dtype, error));
    return lora__builder_add_derived(emit->builder, emit->name.data, container,
                                     index, there->ndim, there->shape, dtype,
                                     lora__derive_plus, there->plus, error);
}

/* A flag, as torch has integers. */
static lora_status emit_mark(lora__emit *emit,
                             const lora__module *module,
                             const lora__respelling *there,
                             lora_error *error)
{
    unsigned char *data;

    TRY(lora__emit_spell(emit, module, there->mark, error));
    data = lora__alloc(emit->source->context, 8, LORA__ALIGN_NUMERIC);
    if (data == NULL) {
        return lora__fail_memory(error, 8);
    }
    memset(data, 0, 8);
    data[0] = (unsigned char)there->marked;
    return lora__builder_adopt(emit->builder, emit->name.data, LORA_DTYPE_I64,
                               0, NULL, data, error);
}

LORA_PRIVATE lora_status lora__emit_respelt(lora__emit *emit,
                                            const lora__module *module,
                                            size_t index,
                                            const lora__respelling *there,
                                            double factor,
                                            lora_dtype dtype,
                                            lora_error *error)
{
    if (there->role == LORA__ROLE_UNKNOWN) {
        return LORA_OK;
    }
    TRY(emit_spell_as(emit, module, there->role,
                      emit->source->container->entries[index].name, error));
    if (there->plus == 0.0) {
        return lora__emit_entry(emit, emit->name.data, index, factor, dtype,
                                there->ndim, there->shape, error);
    }
    emit->changed = 1;
    TRY(emit_plus(emit, index, there, dtype, error));
    if (lora__dialect_alpha_in_metadata(lora__emit_dialect(emit, module))) {
        (void)emit_record(emit, module, 1.0, 1);
    }
    return there->mark == LORA__ROLE_UNKNOWN
               ? LORA_OK
               : emit_mark(emit, module, there, error);
}

LORA_PRIVATE lora_dtype lora__emit_alpha_dtype(lora_dtype wanted, double alpha)
{
    const lora__kernels *kernels = lora__kernels_get(0);
    unsigned char bytes[8];
    double back;

    return lora__convert_from_f64(bytes, wanted, &alpha, 1, kernels, NULL) ==
                       LORA_OK &&
                   lora__convert_to_f64(&back, bytes, wanted, 1, kernels,
                                        NULL) == LORA_OK &&
                   back == alpha
               ? wanted
               : LORA_DTYPE_F32;
}

LORA_PRIVATE lora_status lora__emit_put_alpha(lora__emit *emit,
                                              const lora__module *module,
                                              double alpha,
                                              int64_t rank,
                                              lora_dtype dtype,
                                              int32_t ndim,
                                              lora_error *error)
{
    const lora__dialect *dialect = lora__emit_dialect(emit, module);
    const lora__entry *source =
        lora__module_entry(emit->source, module, LORA__ROLE_ALPHA);
    int64_t one[LORA_MAX_DIMS] = {1};

    if (lora__dialect_has_role(dialect, LORA__ROLE_ALPHA)) {
        TRY(lora__emit_spell(emit, module, LORA__ROLE_ALPHA, error));
        return lora__emit_f64(emit, emit->name.data,
                              lora__emit_alpha_dtype(dtype, alpha), ndim, one,
                              &alpha, error);
    }
    if (lora__dialect_alpha_in_metadata(dialect)) {
        lora__emit_alpha *record = emit_record(emit, module, alpha, rank);
        record->dtype = source == NULL ? LORA_DTYPE_NONE : source->dtype;
        record->ndim = source == NULL ? 0 : source->ndim;
        record->was_zero =
            source != NULL && module->alpha == 0.0 && alpha == (double)rank;
        if (source == NULL && emit->has_record) {
            double stored = 1.0;
            lora__alpha_stored(&stored, &record->dtype, &record->ndim,
                               &emit->record, module->target);
            record->was_zero = stored == 0.0 && alpha == (double)rank;
        }
        return LORA_OK;
    }
    return alpha == (double)rank
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name,
                            "%s has no place for alpha: bake it in",
                            lora__dialect_id(dialect));
}

LORA_PRIVATE int lora__emit_is_whole(const lora__module *module)
{
    return module->rank == 0 && module->kind->factors != NULL;
}

/* As alpha over a rank of 1, which is said beside it. */
LORA_PRIVATE lora_status lora__emit_put_whole(lora__emit *emit,
                                              const lora__module *module,
                                              double scale,
                                              lora_error *error)
{
    return lora__dialect_alpha_in_metadata(lora__emit_dialect(emit, module))
               ? lora__emit_put_alpha(emit, module, scale, 1, LORA_DTYPE_NONE,
                                      0, error)
               : LORA_OK;
}

LORA_PRIVATE lora_status lora__emit_rest(lora__emit *emit, lora_error *error)
{
    lora__container *container = emit->source->container;

    for (size_t i = 0; i < container->entry_count; i++) {
        if (emit->source->entry_module[i] == SIZE_MAX) {
            TRY(lora__builder_add_entry(emit->builder,
                                        container->entries[i].name, container,
                                        i, -1, NULL, error));
        }
    }
    return LORA_OK;
}
