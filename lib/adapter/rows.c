/* Numbers of a module: its factors, and rows of its dense changes.
 *
 * What a kind's file computes is one weight change; what is the same for all
 * kinds (loading tensors, biases, the public calls) is here.
 */
#include "adapter/kind.h"

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
    }
    memset(f, 0, sizeof *f);
}

LORA_PRIVATE lora_status lora__factors_take(lora__factors *out,
                                            lora__rows *state,
                                            size_t block,
                                            lora_error *error)
{
    size_t bytes = state->rows * state->rank * sizeof(double);

    memset(out, 0, sizeof *out);
    out->context = state->context;
    out->rows = state->rows;
    out->cols = state->cols;
    out->rank = state->rank;
    out->scale = state->multiplier;
    out->down = state->blocks[block];
    state->blocks[block] = NULL;
    out->up_t = lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    if (out->up_t == NULL) {
        lora__factors_destroy(out);
        return lora__fail_memory(error, bytes);
    }
    return LORA_OK;
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

LORA_PRIVATE lora_status lora__module_has_factors(const lora__module *module,
                                                  lora_error *error)
{
    TRY(lora__module_check(module, error));
    if (module->kind->factors == NULL || module->dora) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "%s%s has no factors in this version",
                          module->kind->id, module->dora ? " with DoRA" : "");
    }
    return rows_check_lacks(module, error);
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

/* ---- loading tensors --------------------------------------------------- */

/* Tensors are converted through a buffer of this size. */
#define ROWS_CHUNK_BYTES 16384

static lora_status rows_read(void *out,
                             lora_dtype dtype,
                             const lora_adapter *adapter,
                             size_t index,
                             const lora__kernels *kernels,
                             lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    size_t step = ROWS_CHUNK_BYTES / size;
    unsigned char chunk[ROWS_CHUNK_BYTES];

    for (uint64_t done = 0; done < entry->elements; done += step) {
        uint64_t left = entry->elements - done;
        size_t count = left < step ? (size_t)left : step;
        TRY(lora__container_read(adapter->container, index, done * size, chunk,
                                 count * size, error));
        if (dtype == LORA_DTYPE_F64) {
            TRY(lora__convert_to_f64((double *)out + done, chunk, entry->dtype,
                                     count, kernels, error));
        } else {
            TRY(lora__convert_to_f32((float *)out + done, chunk, entry->dtype,
                                     count, kernels, error));
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_block(lora__rows *state,
                                          size_t block,
                                          size_t count,
                                          lora_error *error)
{
    size_t bytes;

    if (!lora__mul_size(count, lora__rows_size(state), &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    state->blocks[block] =
        lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    if (state->blocks[block] == NULL) {
        return lora__fail_memory(error, bytes);
    }
    state->block_bytes[block] = bytes;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_load(lora__rows *state,
                                         size_t block,
                                         const lora_adapter *adapter,
                                         size_t index,
                                         lora_error *error)
{
    size_t count;

    if (!lora__u64_to_size(adapter->container->entries[index].elements,
                           &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, block, count, error));
    return rows_read(state->blocks[block], state->dtype, adapter, index,
                     state->kernels, error);
}

/* In tiles that stay in the cache. `size` is a constant where this is called:
 * the copies become moves. */
static inline void rows_transpose(unsigned char *out,
                                  const unsigned char *in,
                                  size_t rows,
                                  size_t cols,
                                  size_t size)
{
    enum { TILE = 16 };

    for (size_t r0 = 0; r0 < rows; r0 += TILE) {
        size_t r1 = r0 + TILE < rows ? r0 + TILE : rows;
        for (size_t c = 0; c < cols; c++) {
            for (size_t r = r0; r < r1; r++) {
                memcpy(out + (c * rows + r) * size, in + (r * cols + c) * size,
                       size);
            }
        }
    }
}

LORA_PRIVATE void lora__rows_transpose(const lora__rows *state,
                                       void *out,
                                       const void *in,
                                       size_t rows,
                                       size_t cols)
{
    if (state->dtype == LORA_DTYPE_F64) {
        rows_transpose(out, in, rows, cols, sizeof(double));
    } else {
        rows_transpose(out, in, rows, cols, sizeof(float));
    }
}

/* ---- rows -------------------------------------------------------------- */

enum { ROWS_BIAS_DIFF, ROWS_BIAS_UP };

/* b' - b = m * (diff_b + s * up_bias), whichever are there. */
static lora_status rows_prepare_bias(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    static const lora__role roles[] = {
        LORA__ROLE_DIFF_BIAS, LORA__ROLE_NORM_BIAS, LORA__ROLE_UP_BIAS};

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

    for (size_t i = begin; i < end; i++) {
        double value = 0.0;
        if (diff != NULL) {
            value = wide ? ((const double *)diff)[i]
                         : (double)((const float *)diff)[i];
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

/* The weight change needs the base, or the module has no such part. */
LORA_PRIVATE lora_status lora__rows_check(const lora__module *module,
                                          lora_part part,
                                          lora_error *error)
{
    TRY(lora__module_check(module, error));
    if ((module->changes & part) == 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "changes no %s",
                          part == LORA_PART_BIAS ? "bias" : "weight");
    }
    if (part == LORA_PART_WEIGHT &&
        (module->kind->prepare == NULL || module->dora)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "%s%s cannot be computed in this version",
                          module->kind->id, module->dora ? " with DoRA" : "");
    }
    return part == LORA_PART_WEIGHT ? rows_check_lacks(module, error) : LORA_OK;
}

LORA_PRIVATE lora_status lora__rows_create(lora__rows *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           lora_part part,
                                           double strength,
                                           lora_dtype dtype,
                                           lora_error *error)
{
    lora_context *context = adapter->context;
    lora_status status;

    memset(out, 0, sizeof *out);
    TRY(lora__rows_check(module, part, error));
    out->context = context;
    out->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    out->dtype = dtype;
    out->multiplier = strength;
    out->rows = (size_t)module->shape[0];
    out->cols = 1;
    for (int32_t i = 1; i < module->ndim; i++) {
        out->cols *= (size_t)module->shape[i];
    }
    status = part == LORA_PART_BIAS
                 ? rows_prepare_bias(out, adapter, module, error)
                 : module->kind->prepare(out, adapter, module, error);
    if (status != LORA_OK) {
        lora__rows_destroy(out);
    }
    return status;
}

LORA_PRIVATE void lora__rows_read(const lora__rows *state,
                                  const lora__module *module,
                                  lora_part part,
                                  size_t begin,
                                  size_t end,
                                  void *out)
{
    if (part == LORA_PART_BIAS) {
        rows_bias(state, module, begin, end, out);
    } else {
        module->kind->rows(state, module, begin, end, out);
    }
}

LORA_PRIVATE void lora__rows_destroy(lora__rows *state)
{
    for (size_t i = 0; i < LORA__COUNT(state->blocks); i++) {
        if (state->blocks[i] != NULL) {
            lora__free(state->context, state->blocks[i], state->block_bytes[i],
                       LORA__ALIGN_NUMERIC);
        }
    }
    memset(state, 0, sizeof *state);
}

/* ---- public calls ------------------------------------------------------ */

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
    lora__rows state;
    size_t needed;
    lora_status status = LORA_OK;

    lora__error_begin(error);
    CHECK_ARG(buffer != NULL, error);
    CHECK_ARG(part == LORA_PART_WEIGHT || part == LORA_PART_BIAS, error);
    TRY(rows_module(&module, adapter, index, dtype, error));
    TRY(lora__rows_check(module, part, error));
    if (row_begin < 0 || row_end < row_begin || row_end > module->shape[0]) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, module->name,
                          "rows %lld to %lld of %lld", (long long)row_begin,
                          (long long)row_end, (long long)module->shape[0]);
    }
    TRY(lora__rows_create(&state, adapter, module, part, strength, dtype,
                          error));
    if (!lora__mul_size((size_t)(row_end - row_begin),
                        state.cols * lora__rows_size(&state), &needed) ||
        needed != bytes) {
        status =
            lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, module->name,
                       "buffer has not the size of %lld "
                       "rows",
                       (long long)(row_end - row_begin));
        goto done;
    }
    lora__rows_read(&state, module, part, (size_t)row_begin, (size_t)row_end,
                    buffer);
done:
    lora__rows_destroy(&state);
    return status;
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
    int64_t cols = 1;

    lora__error_begin(error);
    TRY(rows_module(&module, adapter, index, dtype, error));
    TRY(lora__module_has_factors(module, error));
    if (up != NULL || down != NULL) {
        TRY(rows_copy_factors(up, down, dtype, adapter, module, error));
    }
    for (int32_t i = 1; i < module->ndim; i++) {
        cols *= module->shape[i];
    }
    if (out_rows != NULL) {
        *out_rows = module->shape[0];
    }
    if (out_cols != NULL) {
        *out_cols = cols;
    }
    if (out_rank != NULL) {
        *out_rank = (int64_t)module->kind->factor_rank(adapter, module);
    }
    if (out_scale != NULL) {
        *out_scale = module->scale;
    }
    return LORA_OK;
}
