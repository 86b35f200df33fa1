/* The sparse residual that LyCORIS' extraction can put beside a pair: single
 * elements of the weight change, added to the product of the factors.
 *
 *   bias_indices [2, n]  rows and columns of the change as a matrix
 *   bias_values  [n]
 *   bias_size    [2]     of that matrix
 *
 * Indices are of 16 bits and may have run over once: they are read without a
 * sign, and wider matrices are refused. So is one beside a core, which the
 * extraction takes from another weight. alpha, which is the rank there, does
 * not go into it. Source: formats.md 5.9.
 */
#include "adapter/kinds/common.h"

#include <math.h>
#include <string.h>

/* What an index of 16 bits can tell apart. */
#define SPARSE_LIMIT 65536

enum {
    SPARSE_BLOCK_VALUES = LORA__BLOCK_SPARSE, /* in the order of rows */
    SPARSE_BLOCK_COLUMNS,                     /* size_t */
    SPARSE_BLOCK_FIRST                        /* size_t, of each row, where it
                                               * begins; one more at the end */
};

/* Integers of a shape, [2, n] or [n]. */
static const lora__entry *sparse_integers(lora__opening *opening,
                                          lora__module *module,
                                          lora__role role,
                                          int32_t ndim)
{
    const lora__entry *entry =
        lora__module_entry(opening->adapter, module, role);

    if (entry == NULL) {
        (void)lora__module_reject(opening, module, LORA_ERROR_KEY,
                                  "missing_pair", "%s is missing",
                                  lora__role_name(role));
        return NULL;
    }
    if (entry->dtype != LORA_DTYPE_I16 && entry->dtype != LORA_DTYPE_U16 &&
        entry->dtype != LORA_DTYPE_I32 && entry->dtype != LORA_DTYPE_I64) {
        (void)lora__module_reject(opening, module, LORA_ERROR_DTYPE, "dtype",
                                  "%s is %s: integers are needed",
                                  lora__role_name(role),
                                  lora_dtype_name(entry->dtype));
        return NULL;
    }
    if (entry->ndim != ndim || entry->shape[0] != 2) {
        (void)lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                  "%s is not of rows and columns",
                                  lora__role_name(role));
        return NULL;
    }
    return entry;
}

LORA_PRIVATE lora_status lora__sparse_parse(lora__opening *opening,
                                            lora__module *module)
{
    const lora__entry *indices;
    const lora__entry *values;
    uint64_t cols;

    if (!kind_has(module, LORA__ROLE_SPARSE_INDICES) &&
        !kind_has(module, LORA__ROLE_SPARSE_VALUES) &&
        !kind_has(module, LORA__ROLE_SPARSE_SIZE)) {
        return LORA_OK;
    }
    indices = sparse_integers(opening, module, LORA__ROLE_SPARSE_INDICES, 2);
    values = lora__kind_require(opening, module, LORA__ROLE_SPARSE_VALUES, 1);
    if (sparse_integers(opening, module, LORA__ROLE_SPARSE_SIZE, 1) == NULL ||
        indices == NULL || values == NULL) {
        return LORA_OK;
    }
    module->sparse = 1;
    cols = lora__shape_count(module->shape, 1, module->ndim);
    if (module->tucker || module->transposed || cols > SPARSE_LIMIT ||
        module->shape[0] > SPARSE_LIMIT) {
        return lora__module_reject(
            opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
            "a sparse residual %s is not supported",
            module->tucker       ? "beside a core"
            : module->transposed ? "of a transposed weight"
                                 : "of so large a weight");
    }
    TRY(lora__kind_agree(opening, module, "dimensions of bias_values",
                         values->ndim, 1));
    return lora__kind_agree(opening, module, "indices and values",
                            indices->shape[1], (int64_t)values->elements);
}

/* A number of 16 bits that had no room for its sign. */
static size_t sparse_unsign(double value)
{
    return (size_t)(value < 0.0 ? value + SPARSE_LIMIT : value);
}

static lora_status sparse_refuse(const lora__module *module, lora_error *error)
{
    return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                      "its sparse residual is of another matrix");
}

/* Memory that is no numbers of the state's. */
static lora_status
sparse_block(lora__rows *state, size_t block, size_t count, lora_error *error)
{
    size_t bytes = count * sizeof(size_t);

    state->blocks[block] =
        lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    if (state->blocks[block] == NULL) {
        return lora__fail_memory(error, bytes);
    }
    state->block_bytes[block] = bytes;
    return LORA_OK;
}

/* Rows and columns must lie within the matrix, whose size is told again. */
static lora_status sparse_check(const lora__rows *state,
                                const lora__module *module,
                                const void *indices,
                                const void *size,
                                size_t count,
                                lora_error *error)
{
    const size_t limits[2] = {state->rows, state->cols};

    for (size_t side = 0; side < 2; side++) {
        double told = lora__rows_get(state, size, side);
        if (!(told >= -SPARSE_LIMIT && told <= SPARSE_LIMIT) ||
            sparse_unsign(told) % SPARSE_LIMIT != limits[side] % SPARSE_LIMIT) {
            return sparse_refuse(module, error);
        }
        for (size_t i = 0; i < count; i++) {
            double at = lora__rows_get(state, indices, side * count + i);
            if (!(at >= -SPARSE_LIMIT / 2 && at < SPARSE_LIMIT) ||
                sparse_unsign(at) >= limits[side]) {
                return sparse_refuse(module, error);
            }
        }
    }
    return LORA_OK;
}

/* By rows, those of one in the order of the file. While columns are put in
 * place first[r + 1] is where the next one of row r goes. */
static void sparse_sort(lora__rows *state,
                        const double *indices,
                        const double *values,
                        size_t count)
{
    size_t *first = state->blocks[SPARSE_BLOCK_FIRST];
    size_t *columns = state->blocks[SPARSE_BLOCK_COLUMNS];

    memset(first, 0, (state->rows + 2) * sizeof *first);
    for (size_t i = 0; i < count; i++) {
        first[sparse_unsign(indices[i]) + 2]++;
    }
    for (size_t i = 2; i < state->rows + 2; i++) {
        first[i] += first[i - 1];
    }
    for (size_t i = 0; i < count; i++) {
        size_t at = first[sparse_unsign(indices[i]) + 1]++;
        columns[at] = sparse_unsign(indices[count + i]);
        lora__rows_set(state, state->blocks[SPARSE_BLOCK_VALUES], at,
                       values[i]);
    }
}

LORA_PRIVATE lora_status lora__sparse_prepare(lora__rows *state,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora_error *error)
{
    enum { INDICES, VALUES, SIZE, TENSORS };
    static const lora__role roles[TENSORS] = {LORA__ROLE_SPARSE_INDICES,
                                              LORA__ROLE_SPARSE_VALUES,
                                              LORA__ROLE_SPARSE_SIZE};
    lora__rows loaded = *state; /* for reading: with blocks of its own */
    size_t count =
        (size_t)lora__module_entry(adapter, module, LORA__ROLE_SPARSE_VALUES)
            ->elements;
    lora_status status = LORA_OK;

    for (size_t i = 0; i < LORA__COUNT(loaded.blocks); i++) {
        loaded.blocks[i] = NULL;
    }
    loaded.base_rows = NULL;
    loaded.dtype = LORA_DTYPE_F64;
    for (size_t i = 0; i < TENSORS; i++) {
        TRY_OR_DONE(lora__rows_load(&loaded, i, adapter,
                                    lora__module_find(module, roles[i])->entry,
                                    error));
    }
    TRY_OR_DONE(sparse_check(&loaded, module, loaded.blocks[INDICES],
                             loaded.blocks[SIZE], count, error));
    TRY_OR_DONE(lora__rows_block(state, SPARSE_BLOCK_VALUES, count, error));
    TRY_OR_DONE(sparse_block(state, SPARSE_BLOCK_COLUMNS, count, error));
    TRY_OR_DONE(
        sparse_block(state, SPARSE_BLOCK_FIRST, state->rows + 2, error));
    sparse_sort(state, loaded.blocks[INDICES], loaded.blocks[VALUES], count);
done:
    lora__rows_destroy(&loaded);
    return status;
}

LORA_PRIVATE void
lora__sparse_add(const lora__rows *state, size_t begin, size_t end, void *out)
{
    const size_t *first = state->blocks[SPARSE_BLOCK_FIRST];
    const size_t *columns = state->blocks[SPARSE_BLOCK_COLUMNS];
    const void *values = state->blocks[SPARSE_BLOCK_VALUES];

    for (size_t i = begin; i < end; i++) {
        for (size_t k = first[i]; k < first[i + 1]; k++) {
            size_t at = (i - begin) * state->cols + columns[k];
            lora__rows_set(state, out, at,
                           fma(state->sparse, lora__rows_get(state, values, k),
                               lora__rows_get(state, out, at)));
        }
    }
}
