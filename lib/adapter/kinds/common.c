/* Checks that the kinds share. Shapes were checked for overflow by the
 * container: the product of any tensor's dimensions fits in 63 bits.
 */
#include "adapter/kinds/common.h"
#include "adapter/config.h"

#include <string.h>

LORA_PRIVATE size_t lora__kind_count_of(const lora__module *module,
                                        lora__role role)
{
    size_t count = 0;

    for (size_t i = 0; i < module->member_count; i++) {
        count += module->members[i].role == role;
    }
    return count;
}

LORA_PRIVATE int lora__kind_usable(lora__opening *opening,
                                   lora__module *module,
                                   const lora__entry *entry,
                                   lora__role role,
                                   int32_t ndim)
{
    if (!lora__dtype_is_float(entry->dtype)) {
        (void)lora__module_reject(opening, module, LORA_ERROR_DTYPE, "dtype",
                                  "%s is %s: floating point is needed",
                                  lora__role_name(role),
                                  lora_dtype_name(entry->dtype));
        return 0;
    }
    if (entry->ndim < ndim) {
        (void)lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                  "%s has %d dimensions: at least %d belong",
                                  lora__role_name(role), (int)entry->ndim,
                                  (int)ndim);
        return 0;
    }
    if (entry->elements == 0) {
        (void)lora__module_reject(opening, module, LORA_ERROR_SHAPE,
                                  "rank_zero", "%s is empty",
                                  lora__role_name(role));
        return 0;
    }
    return 1;
}

LORA_PRIVATE const lora__entry *lora__kind_optional(lora__opening *opening,
                                                    lora__module *module,
                                                    lora__role role,
                                                    int32_t ndim)
{
    const lora__entry *entry =
        lora__module_entry(opening->adapter, module, role);

    return entry != NULL &&
                   lora__kind_usable(opening, module, entry, role, ndim)
               ? entry
               : NULL;
}

LORA_PRIVATE const lora__entry *lora__kind_require(lora__opening *opening,
                                                   lora__module *module,
                                                   lora__role role,
                                                   int32_t ndim)
{
    if (!kind_has(module, role)) {
        (void)lora__module_reject(opening, module, LORA_ERROR_KEY,
                                  "missing_pair", "%s is missing",
                                  lora__role_name(role));
        return NULL;
    }
    return lora__kind_optional(opening, module, role, ndim);
}

LORA_PRIVATE int64_t lora__kind_product(const lora__entry *entry, int32_t first)
{
    uint64_t product = lora__shape_count(entry->shape, first, entry->ndim);

    return product > INT64_MAX ? INT64_MAX : (int64_t)product;
}

/* Names tell the class of a layer, shapes do not: trainers store the factors
 * of linear layers as 1 x 1 convolutions and the other way round. */
static void kind_fit_ndim(lora__module *module, uint64_t kernel)
{
    if (module->layer == LORA__LAYER_LINEAR && kernel == 1) {
        module->ndim = 2;
    } else if (module->layer == LORA__LAYER_CONV1 && module->ndim == 2) {
        module->shape[2] = 1;
        module->shape[3] = 1;
        module->ndim = 4;
    }
}

LORA_PRIVATE lora_status lora__kind_set_shape(lora__opening *opening,
                                              lora__module *module,
                                              int64_t rows,
                                              int64_t cols,
                                              const lora__entry *spatial)
{
    uint64_t elements;
    uint64_t kernel;

    module->shape[0] = rows;
    module->shape[1] = cols;
    module->ndim = 2;
    for (int32_t i = 2; spatial != NULL && i < spatial->ndim; i++) {
        module->shape[module->ndim++] = spatial->shape[i];
    }
    kernel = lora__shape_count(module->shape, 2, module->ndim);
    if (!lora__mul_u64((uint64_t)rows, (uint64_t)cols, &elements) ||
        !lora__mul_u64(elements, kernel, &elements) ||
        elements > INT64_MAX / 8) {
        return lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                   "the weight would be too large");
    }
    kind_fit_ndim(module, kernel);
    return LORA_OK;
}

LORA_PRIVATE void lora__kind_unfold(lora__module *module)
{
    if (module->layer == LORA__LAYER_CONV3 && module->ndim == 2 &&
        module->shape[1] % 9 == 0) {
        module->shape[1] /= 9;
        module->shape[2] = 3;
        module->shape[3] = 3;
        module->ndim = 4;
    }
}

LORA_PRIVATE lora_status lora__kind_set_rank(lora__opening *opening,
                                             lora__module *module,
                                             int64_t rank)
{
    uint64_t limit = lora__context_get(opening->adapter->context)->limits.rank;

    if (rank < 1) {
        return lora__module_reject(opening, module, LORA_ERROR_SHAPE,
                                   "rank_zero", "rank 0");
    }
    if ((uint64_t)rank > limit) {
        return lora__module_reject(opening, module, LORA_ERROR_LIMIT,
                                   "rank_limit",
                                   "rank %lld is over the limit of %llu",
                                   (long long)rank, (unsigned long long)limit);
    }
    module->rank = rank;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__kind_agree(lora__opening *opening,
                                          lora__module *module,
                                          const char *what,
                                          int64_t a,
                                          int64_t b)
{
    return a == b ? LORA_OK
                  : lora__module_reject(opening, module, LORA_ERROR_SHAPE,
                                        "rank_mismatch", "%s: %lld and %lld",
                                        what, (long long)a, (long long)b);
}

LORA_PRIVATE lora_status lora__kind_matrix(lora__opening *opening,
                                           lora__module *module,
                                           lora__role role)
{
    const lora__entry *entry =
        lora__module_entry(opening->adapter, module, role);

    return entry == NULL || lora__kind_product(entry, 2) == 1
               ? LORA_OK
               : lora__module_reject(
                     opening, module, LORA_ERROR_SHAPE, "shape",
                     "%s has a kernel, which has no place there",
                     lora__role_name(role));
}

LORA_PRIVATE lora_status lora__kind_vector(lora__opening *opening,
                                           lora__module *module,
                                           lora__role role)
{
    const lora__entry *entry = lora__kind_optional(opening, module, role, 1);
    int wide = 0;

    for (int32_t i = 0; entry != NULL && i < entry->ndim; i++) {
        wide += entry->shape[i] > 1;
    }
    return wide <= 1
               ? LORA_OK
               : lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                     "%s has more than one dimension above 1",
                                     lora__role_name(role));
}

LORA_PRIVATE lora_status lora__kind_check_bias(lora__opening *opening,
                                               lora__module *module,
                                               lora__role role)
{
    const lora__entry *entry = lora__kind_optional(opening, module, role, 1);

    if (entry == NULL) {
        return LORA_OK;
    }
    module->changes |= LORA_PART_BIAS;
    TRY(lora__kind_vector(opening, module, role));
    return lora__kind_agree(opening, module, "rows of weight and bias",
                            module->shape[0], (int64_t)entry->elements);
}

LORA_PRIVATE lora_status lora__kind_check_dora(lora__opening *opening,
                                               lora__module *module)
{
    const lora__entry *entry =
        lora__kind_optional(opening, module, LORA__ROLE_DORA, 1);
    int inputs;

    if (entry == NULL) {
        return LORA_OK;
    }
    module->dora = 1;
    module->needs |= LORA_PART_WEIGHT;
    TRY(lora__kind_vector(opening, module, LORA__ROLE_DORA));
    inputs = lora__kind_dora_inputs(
        module, entry,
        lora__name_has_peft_magnitude(entry->name, entry->name_bytes));
    if (entry->elements != (uint64_t)module->shape[inputs] &&
        (!inputs || entry->ndim < 3 || module->ndim != 2 ||
         (uint64_t)module->shape[1] % entry->elements != 0)) {
        return lora__module_reject(
            opening, module, LORA_ERROR_SHAPE, "shape",
            "dora_scale has %llu elements, for the %s of a %lld x %lld weight",
            (unsigned long long)entry->elements, inputs ? "inputs" : "rows",
            (long long)module->shape[0], (long long)module->shape[1]);
    }
    return LORA_OK;
}

/* ---- numbers ----------------------------------------------------------- */

LORA_PRIVATE lora_status lora__kind_take_factors(lora__factors *out,
                                                 lora__rows *state,
                                                 size_t up,
                                                 size_t down,
                                                 lora_error *error)
{
    TRY(lora__rows_block(state, LORA__BLOCK_SPARE, state->rows * state->rank,
                         error));
    lora__rows_transpose(state, state->blocks[LORA__BLOCK_SPARE],
                         state->blocks[up], state->rows, state->rank);
    lora__factors_take(out, state, LORA__BLOCK_SPARE, down);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__kind_load_cored(lora__rows *state,
                                               size_t block,
                                               const lora_adapter *adapter,
                                               const lora__member *core,
                                               const lora__member *b,
                                               lora_error *error)
{
    enum { CORE = LORA__BLOCK_SPARE, B };
    const lora__entry *core_entry = &adapter->container->entries[core->entry];
    size_t rank = (size_t)core_entry->shape[0];
    size_t inner = (size_t)core_entry->shape[1];
    size_t kernel = (size_t)lora__kind_product(core_entry, 2);
    size_t in = (size_t)adapter->container->entries[b->entry].shape[1];
    size_t step = kernel * lora__rows_size(state);
    const unsigned char *mid;
    unsigned char *out;
    size_t count;

    if (!lora__mul_size(rank, kernel, &count) ||
        !lora__mul_size(count, in, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_load(state, CORE, adapter, core->entry, error));
    TRY(lora__rows_load(state, B, adapter, b->entry, error));
    TRY(lora__rows_block(state, block, count, error));
    mid = state->blocks[CORE];
    out = state->blocks[block];
    memset(out, 0, rank * in * step);
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < inner; j++) {
            for (size_t q = 0; q < in; q++) {
                lora__rows_axpy(state, out + (i * in + q) * step,
                                mid + (i * inner + j) * step, state->blocks[B],
                                j * in + q, kernel);
            }
        }
    }
    lora__rows_drop(state, CORE);
    lora__rows_drop(state, B);
    return LORA_OK;
}

LORA_PRIVATE void lora__kind_gemm(const lora__rows *state,
                                  void *out,
                                  size_t ldo,
                                  const void *a,
                                  size_t lda,
                                  const void *b,
                                  size_t ldb,
                                  size_t m,
                                  size_t n,
                                  size_t k)
{
    const double *rows = b;
    double *sums = out;

    if (state->dtype != LORA_DTYPE_F64) {
        state->kernels->gemm_f32(out, ldo, a, lda, b, ldb, m, n, k);
        return;
    }
    for (size_t i = 0; i < m; i++) {
        memset(sums + i * ldo, 0, n * sizeof *sums);
        for (size_t p = 0; p < k; p++) {
            lora__rows_axpy(state, sums + i * ldo, rows + p * ldb, a,
                            i * lda + p, n);
        }
    }
}

LORA_PRIVATE lora_status lora__kind_whole_factors(lora__factors *out,
                                                  const lora__rows *state,
                                                  const double *block,
                                                  size_t rows,
                                                  size_t cols,
                                                  lora_error *error)
{
    size_t rank = rows < cols ? rows : cols;
    double *one;

    TRY(lora__factors_alloc(out, state->context, rows, cols, rank, error));
    out->scale = 1.0;
    if (rank == rows) {
        one = out->up_t;
        memcpy(out->down, block, rows * cols * sizeof *block);
    } else {
        one = out->down;
        lora__rows_transpose(state, out->up_t, block, rows, cols);
    }
    memset(one, 0, rank * rank * sizeof *one);
    for (size_t i = 0; i < rank; i++) {
        one[i * rank + i] = 1.0;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__kind_turn(lora__opening *opening,
                                         lora__module *module)
{
    int64_t rows = module->shape[0];

    if (module->known || module->ndim != 2 || module->tucker ||
        !lora__config_transposed(opening->adapter->config, module->target)) {
        return LORA_OK;
    }
    if (module->changes != LORA_PART_WEIGHT) {
        return lora__module_reject(
            opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
            "a bias beside a transposed weight is not supported");
    }
    module->transposed = 1;
    module->shape[0] = module->shape[1];
    module->shape[1] = rows;
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__kind_prepare_transposed(lora__rows *state,
                              const lora_adapter *adapter,
                              const lora__module *module,
                              lora__role a_role,
                              lora__role b_role,
                              lora_error *error)
{
    const lora__member *a = lora__module_find(module, a_role);

    state->rank = (size_t)module->rank;
    state->multiplier *= module->scale;
    TRY(lora__rows_load(state, LORA__BLOCK_A, adapter, a->entry, error));
    return lora__rows_load_turned(state, LORA__BLOCK_BT, adapter,
                                  lora__module_find(module, b_role)->entry,
                                  error);
}

LORA_PRIVATE void lora__kind_rows_product(const lora__rows *state,
                                          size_t a,
                                          size_t b,
                                          size_t begin,
                                          size_t end,
                                          void *out)
{
    size_t skip = begin * state->rank * lora__rows_size(state);
    const unsigned char *up = state->blocks[a];

    lora__kind_gemm(state, out, state->cols, up + skip, state->rank,
                    state->blocks[b], state->cols, end - begin, state->cols,
                    state->rank);
    lora__rows_scale(state, out, (end - begin) * state->cols);
}

LORA_PRIVATE void lora__kind_rows_transposed(const lora__rows *state,
                                             size_t begin,
                                             size_t end,
                                             void *out)
{
    size_t step = state->cols * lora__rows_size(state);
    const unsigned char *bt = state->blocks[LORA__BLOCK_BT];
    unsigned char *row = out;

    for (size_t i = begin; i < end; i++) {
        memset(row, 0, step);
        for (size_t r = 0; r < state->rank; r++) {
            lora__rows_axpy(state, row, bt + r * step,
                            state->blocks[LORA__BLOCK_A], r * state->rows + i,
                            state->cols);
        }
        lora__rows_scale(state, row, state->cols);
        row += step;
    }
}

LORA_PRIVATE lora_status lora__kind_load_up(lora__rows *state,
                                            const lora_adapter *adapter,
                                            const lora__module *module,
                                            lora_error *error)
{
    size_t entry = lora__module_find(module, LORA__ROLE_UP)->entry;

    return state->factors
               ? lora__rows_load_turned(state, LORA__BLOCK_UP, adapter, entry,
                                        error)
               : lora__rows_load(state, LORA__BLOCK_UP, adapter, entry, error);
}

LORA_PRIVATE void lora__kind_pair_rows(const lora__rows *state,
                                       const lora__module *module,
                                       size_t begin,
                                       size_t end,
                                       void *out)
{
    if (module->transposed) {
        lora__kind_rows_transposed(state, begin, end, out);
    } else {
        lora__kind_rows_product(state, LORA__BLOCK_UP, LORA__BLOCK_DOWN, begin,
                                end, out);
    }
}

LORA_PRIVATE lora_status lora__kind_pair_factors(lora__factors *out,
                                                 const lora_adapter *adapter,
                                                 const lora__module *module,
                                                 lora_error *error)
{
    lora__rows state;

    TRY(lora__rows_create_factors(&state, adapter, module, error));
    lora__factors_take(out, &state, LORA__BLOCK_UP, LORA__BLOCK_DOWN);
    if (module->transposed) {
        out->rows = state.cols;
        out->cols = state.rows;
    }
    lora__rows_destroy(&state);
    return LORA_OK;
}
