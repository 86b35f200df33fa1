/* LoRA and LoCon: a pair of factors, for convolutions perhaps with a core.
 *
 *   linear       dW[out, in] = s * up[out, r] * down[r, in]
 *   convolution  the same, down [r, in, k...] flattened to [r, in * K]
 *   core         dW[p, q, x] = s * sum_ij up[p, i] mid[i, j, x] down[j, q]
 *
 * Multiplying the core into down gives the plain form: down'[i, q * K + x] =
 * sum_j mid[i, j, x] down[j, q]. Source: formats.md 5.1 to 5.4.
 *
 * Where a weight is stored [in, out], the change is dW[in, out] = s * (up
 * down)^T.
 */
#include "adapter/kinds/common.h"

#include <string.h>

/* A pair or half of one: what is missing is said by parsing. */
static int lora_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    (void)adapter;
    return 10 * (kind_has(module, LORA__ROLE_DOWN) +
                 kind_has(module, LORA__ROLE_UP));
}

/* The same with a kernel larger than one element, or a core. */
static int locon_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    const lora__entry *down =
        lora__module_entry(adapter, module, LORA__ROLE_DOWN);
    int score = lora_kind_claim(adapter, module);
    int wide = down != NULL && lora__kind_product(down, 2) > 1;

    return score != 0 && (wide || kind_has(module, LORA__ROLE_MID)) ? score + 1
                                                                    : 0;
}

static lora_status lora_kind_parse_core(lora__opening *opening,
                                        lora__module *module,
                                        const lora__entry *up,
                                        const lora__entry *mid,
                                        const lora__entry *down)
{
    module->tucker = 1;
    TRY(lora__kind_agree(opening, module, "ranks of up and core", up->shape[1],
                         mid->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of core and down",
                         mid->shape[1], down->shape[0]));
    TRY(lora__kind_agree(opening, module, "kernel of down beside a core",
                         lora__kind_product(down, 2), 1));
    return lora__kind_set_shape(opening, module, up->shape[0], down->shape[1],
                                mid);
}

/* The shape that the base's weight is to be brought to, with zeros, before the
 * change is added: that of the change, as a list of integers. */
static lora_status lora_kind_pad(lora__opening *opening, lora__module *module)
{
    const lora__entry *entry =
        lora__module_entry(opening->adapter, module, LORA__ROLE_RESHAPE_WEIGHT);

    if (entry == NULL) {
        return LORA_OK;
    }
    module->padded = 1;
    if (lora__dtype_is_float(entry->dtype) ||
        !lora__dtype_is_readable(entry->dtype)) {
        return lora__module_reject(opening, module, LORA_ERROR_DTYPE, "dtype",
                                   "reshape_weight is %s: integers are needed",
                                   lora_dtype_name(entry->dtype));
    }
    return entry->ndim == 1 && entry->shape[0] == module->ndim
               ? LORA_OK
               : lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                     "reshape_weight has not the dimensions of "
                                     "the change");
}

static lora_status lora_kind_parse(lora__opening *opening, lora__module *module)
{
    const lora__entry *down =
        lora__kind_require(opening, module, LORA__ROLE_DOWN, 2);
    const lora__entry *up =
        lora__kind_require(opening, module, LORA__ROLE_UP, 2);
    const lora__entry *mid =
        lora__kind_optional(opening, module, LORA__ROLE_MID, 2);

    if (module->status != LORA_OK || down == NULL || up == NULL) {
        return LORA_OK;
    }
    module->dtype = down->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, up->shape[1]));
    TRY(lora__kind_set_rank(opening, module, down->shape[0]));
    TRY(lora__kind_agree(opening, module, "kernel of up",
                         lora__kind_product(up, 2), 1));
    if (mid != NULL) {
        TRY(lora_kind_parse_core(opening, module, up, mid, down));
    } else {
        TRY(lora__kind_agree(opening, module, "ranks of up and down",
                             up->shape[1], down->shape[0]));
        TRY(lora__kind_set_shape(opening, module, up->shape[0], down->shape[1],
                                 down));
    }
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_UP_BIAS));
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    TRY(lora__kind_turn(opening, module));
    TRY(lora_kind_pad(opening, module));
    TRY(lora__sparse_parse(opening, module));
    return lora__module_resolve_scale(opening, module);
}

/* ---- numbers ----------------------------------------------------------- */

static size_t lora_kind_factor_rank(const lora_adapter *adapter,
                                    const lora__module *module)
{
    return (size_t)lora__module_entry(adapter, module, LORA__ROLE_UP)->shape[1];
}

static lora_status lora_kind_check_pad(lora__rows *state,
                                       const lora_adapter *adapter,
                                       const lora__module *module,
                                       lora_error *error)
{
    double sizes[LORA_MAX_DIMS] = {0};
    const lora__member *member =
        lora__module_find(module, LORA__ROLE_RESHAPE_WEIGHT);

    TRY(lora__rows_load_f64(sizes, state, adapter, member->entry, error));
    for (int32_t i = 0; i < module->ndim; i++) {
        if (sizes[i] != (double)module->shape[i]) {
            return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                              module->name,
                              "reshape_weight is not the shape of the change");
        }
    }
    return LORA_OK;
}

static lora_status lora_kind_prepare(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    const lora__member *down = lora__module_find(module, LORA__ROLE_DOWN);
    const lora__member *mid = lora__module_find(module, LORA__ROLE_MID);

    if (module->transposed) {
        return lora__kind_prepare_transposed(
            state, adapter, module, LORA__ROLE_DOWN, LORA__ROLE_UP, error);
    }
    state->rank = lora_kind_factor_rank(adapter, module);
    state->sparse = state->multiplier;
    state->multiplier *= module->scale;
    if (module->padded) {
        TRY(lora_kind_check_pad(state, adapter, module, error));
    }
    if (module->sparse) {
        TRY(lora__sparse_prepare(state, adapter, module, error));
    }
    TRY(lora__kind_load_up(state, adapter, module, error));
    return mid == NULL ? lora__rows_load(state, LORA__BLOCK_DOWN, adapter,
                                         down->entry, error)
                       : lora__kind_load_cored(state, LORA__BLOCK_DOWN, adapter,
                                               mid, down, error);
}

static void lora_kind_rows(const lora__rows *state,
                           const lora__module *module,
                           size_t begin,
                           size_t end,
                           void *out)
{
    lora__kind_pair_rows(state, module, begin, end, out);
    if (module->sparse) {
        lora__sparse_add(state, begin, end, out);
    }
}

/* A row of the change needs a row of up and all of down. It is a sum over the
 * rank, unless there is a core between them. */
static int lora_kind_extent(lora__extent *out,
                            const lora_adapter *adapter,
                            const lora__module *module,
                            lora__role role)
{
    int core = kind_has(module, LORA__ROLE_MID);

    (void)adapter;
    if (role == LORA__ROLE_UP) {
        out->rows = 0;
        out->terms = core ? LORA__AXIS_NONE : 1;
        out->mirror = core ? LORA__ROLE_UNKNOWN : LORA__ROLE_DOWN;
        return 1;
    }
    if (role == LORA__ROLE_DOWN) {
        out->terms = core ? LORA__AXIS_NONE : 0;
        out->mirror = core ? LORA__ROLE_UNKNOWN : LORA__ROLE_UP;
        return 1;
    }
    return role == LORA__ROLE_MID;
}

LORA_PRIVATE const lora__kind lora__kind_lora = {
    .id = "lora",
    .is_pair = 1,
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |
        LORA__ROLE_BIT(LORA__ROLE_MID) | LORA__ROLE_BIT(LORA__ROLE_UP_BIAS) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR) |
        LORA__ROLE_BIT(LORA__ROLE_RESHAPE_WEIGHT) | LORA__ROLES_SPARSE,
    .scaled =
        LORA__ROLE_BIT(LORA__ROLE_UP) | LORA__ROLE_BIT(LORA__ROLE_UP_BIAS),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) |
                LORA__ROLE_BIT(LORA__ROLE_SPARSE_VALUES),
    .claim = lora_kind_claim,
    .parse = lora_kind_parse,
    .factor_rank = lora_kind_factor_rank,
    .factors = lora__kind_pair_factors,
    .prepare = lora_kind_prepare,
    .rows = lora_kind_rows,
    .chain = lora__chain_pair,
    .extent = lora_kind_extent,
};

LORA_PRIVATE const lora__kind lora__kind_locon = {
    .id = "locon",
    .is_pair = 1,
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |
        LORA__ROLE_BIT(LORA__ROLE_MID) | LORA__ROLE_BIT(LORA__ROLE_UP_BIAS) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR) |
        LORA__ROLE_BIT(LORA__ROLE_RESHAPE_WEIGHT) | LORA__ROLES_SPARSE,
    .scaled =
        LORA__ROLE_BIT(LORA__ROLE_UP) | LORA__ROLE_BIT(LORA__ROLE_UP_BIAS),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) |
                LORA__ROLE_BIT(LORA__ROLE_SPARSE_VALUES),
    .claim = locon_kind_claim,
    .parse = lora_kind_parse,
    .factor_rank = lora_kind_factor_rank,
    .factors = lora__kind_pair_factors,
    .prepare = lora_kind_prepare,
    .rows = lora_kind_rows,
    .chain = lora__chain_pair,
    .extent = lora_kind_extent,
};
