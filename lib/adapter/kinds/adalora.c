/* AdaLoRA: dW = s B diag(E) A with A [r, in], B [out, r] and E [r, 1]. The
 * weight of a convolution is flat in A, [r, in K].
 *
 *   s = alpha / (ranknum + 1e-5)
 *
 * ranknum is the rank that training began with, whatever is left of it; it may
 * be stored, or else is the configuration's init_r. alpha 0 means the rank.
 * Source: formats.md 5.17.
 */
#include "adapter/config.h"
#include "adapter/kinds/common.h"

/* Where E is missing the configuration tells: without it the rest is as LoRA,
 * and another change. */
static int adalora_kind_claim(const lora_adapter *adapter,
                              const lora__module *module)
{
    int told = (kind_has(module, LORA__ROLE_DOWN) ||
                kind_has(module, LORA__ROLE_UP)) &&
               lora__config_first_rank(adapter->config, module->target) > 0.0;

    return told || kind_has(module, LORA__ROLE_ADALORA_E) ? 30 : 0;
}

/* What alpha is divided by, less the 1e-5. */
static lora_status
adalora_kind_ranknum(double *out, lora__opening *opening, lora__module *module)
{
    const lora__member *member =
        lora__module_find(module, LORA__ROLE_ADALORA_RANKNUM);

    *out = lora__config_first_rank(opening->adapter->config, module->target);
    if (member != NULL) {
        TRY(lora__module_read_number(out, opening, module,
                                     LORA__ROLE_ADALORA_RANKNUM));
    } else if (*out == 0.0) {
        *out = (double)module->rank;
    }
    return module->status != LORA_OK || (*out >= 1.0 && *out - *out == 0.0)
               ? LORA_OK
               : lora__module_reject(opening, module, LORA_ERROR_SHAPE,
                                     "alpha_invalid",
                                     "the rank of its scale is not 1 or more");
}

static lora_status adalora_kind_scale(lora__opening *opening,
                                      lora__module *module)
{
    double rank = (double)module->rank;
    double ranknum;

    TRY(lora__module_resolve_scale(opening, module));
    TRY(adalora_kind_ranknum(&ranknum, opening, module));
    if (module->status == LORA_OK) {
        double alpha =
            module->has_alpha && module->alpha > 0.0 ? module->alpha : rank;
        module->scale = alpha / (ranknum + 1e-5);
    }
    return LORA_OK;
}

static lora_status adalora_kind_parse(lora__opening *opening,
                                      lora__module *module)
{
    const lora__entry *a =
        lora__kind_require(opening, module, LORA__ROLE_DOWN, 2);
    const lora__entry *b =
        lora__kind_require(opening, module, LORA__ROLE_UP, 2);
    const lora__entry *e =
        lora__kind_require(opening, module, LORA__ROLE_ADALORA_E, 1);

    if (a == NULL || b == NULL || e == NULL) {
        return LORA_OK;
    }
    module->dtype = a->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, a->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of A and B", b->shape[1],
                         a->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of A and E",
                         (int64_t)e->elements, a->shape[0]));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_DOWN));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_UP));
    TRY(lora__kind_vector(opening, module, LORA__ROLE_ADALORA_E));
    TRY(lora__kind_set_shape(opening, module, b->shape[0], a->shape[1], NULL));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    lora__kind_unfold(module);
    TRY(lora__kind_turn(opening, module));
    return module->status == LORA_OK ? adalora_kind_scale(opening, module)
                                     : LORA_OK;
}

/* ---- numbers ----------------------------------------------------------- */

/* Beside the blocks of a pair. */
enum { ADALORA_BLOCK_E = LORA__BLOCK_UP + 1 };

static size_t adalora_kind_factor_rank(const lora_adapter *adapter,
                                       const lora__module *module)
{
    (void)adapter;
    return (size_t)module->rank;
}

/* A's rows times E. */
static lora_status adalora_kind_multiply(lora__rows *state,
                                         const lora_adapter *adapter,
                                         const lora__module *module,
                                         size_t length,
                                         lora_error *error)
{
    unsigned char *row = state->blocks[LORA__BLOCK_DOWN];

    TRY(lora__rows_load(state, ADALORA_BLOCK_E, adapter,
                        lora__module_find(module, LORA__ROLE_ADALORA_E)->entry,
                        error));
    for (size_t r = 0; r < state->rank; r++) {
        lora__rows_scale_by(
            state, row,
            lora__rows_get(state, state->blocks[ADALORA_BLOCK_E], r), length);
        row += length * lora__rows_size(state);
    }
    return LORA_OK;
}

static lora_status adalora_kind_prepare(lora__rows *state,
                                        const lora_adapter *adapter,
                                        const lora__module *module,
                                        lora_error *error)
{
    const lora__member *down = lora__module_find(module, LORA__ROLE_DOWN);

    if (module->transposed) {
        TRY(lora__kind_prepare_transposed(
            state, adapter, module, LORA__ROLE_DOWN, LORA__ROLE_UP, error));
        return adalora_kind_multiply(state, adapter, module, state->rows,
                                     error);
    }
    state->rank = (size_t)module->rank;
    state->multiplier *= module->scale;
    TRY(lora__rows_load(state, LORA__BLOCK_DOWN, adapter, down->entry, error));
    TRY(lora__kind_load_up(state, adapter, module, error));
    return adalora_kind_multiply(state, adapter, module, state->cols, error);
}

LORA_PRIVATE const lora__kind lora__kind_adalora = {
    .id = "adalora",
    .own_scale = 1,
    .roles = LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |
             LORA__ROLE_BIT(LORA__ROLE_ADALORA_E) |
             LORA__ROLE_BIT(LORA__ROLE_ADALORA_RANKNUM),
    .claim = adalora_kind_claim,
    .parse = adalora_kind_parse,
    .factor_rank = adalora_kind_factor_rank,
    .factors = lora__kind_pair_factors,
    .prepare = adalora_kind_prepare,
    .rows = lora__kind_pair_rows,
};
