/* Full differences and norms: dense changes of a weight, a bias, or both.
 *
 *   diff, w_norm   W' = W + m * diff, in the shape of the weight
 *   diff_b, b_norm b' = b + m * diff_b
 *   bias           b' = b + m * (bias - b), which PEFT trained of a layer that
 *                  has no adapter
 *
 * alpha has no meaning here and is ignored. Source: formats.md 5.8.
 */
#include "adapter/kinds/common.h"

#include <string.h>

static int full_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_DIFF)        ? 6
           : kind_has(module, LORA__ROLE_DIFF_BIAS) ? 1
           : lora__module_replaces_bias(module)     ? 1
                                                    : 0;
}

static int norm_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_NORM_WEIGHT) ||
                   kind_has(module, LORA__ROLE_NORM_BIAS)
               ? 5
               : 0;
}

/* Both kinds: a weight and a bias change, of which one may be missing. */
static lora_status full_kind_parse_parts(lora__opening *opening,
                                         lora__module *module,
                                         lora__role weight_role,
                                         lora__role bias_role)
{
    const lora__entry *weight =
        lora__kind_optional(opening, module, weight_role, 1);
    const lora__entry *bias =
        lora__kind_optional(opening, module, bias_role, 1);

    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    module->scale = 1.0;
    if (weight != NULL) {
        module->changes |= LORA_PART_WEIGHT;
        module->dtype = weight->dtype;
        module->ndim = weight->ndim;
        memcpy(module->shape, weight->shape, sizeof module->shape);
    }
    if (weight == NULL && bias != NULL) {
        module->dtype = bias->dtype;
        module->ndim = 1;
        module->shape[0] = (int64_t)bias->elements;
    }
    return lora__kind_check_bias(opening, module, bias_role);
}

/* What changes with it is said of all kinds that have such a bias. */
static lora_status full_kind_parse_bias(lora__opening *opening,
                                        lora__module *module)
{
    const lora__entry *bias =
        lora__kind_require(opening, module, LORA__ROLE_BIAS, 1);

    if (bias != NULL) {
        module->scale = 1.0;
        module->dtype = bias->dtype;
        module->ndim = 1;
        module->shape[0] = (int64_t)bias->elements;
    }
    return LORA_OK;
}

static lora_status full_kind_parse(lora__opening *opening, lora__module *module)
{
    if (!kind_has(module, LORA__ROLE_DIFF) &&
        !kind_has(module, LORA__ROLE_DIFF_BIAS)) {
        return full_kind_parse_bias(opening, module);
    }
    return full_kind_parse_parts(opening, module, LORA__ROLE_DIFF,
                                 LORA__ROLE_DIFF_BIAS);
}

static lora_status norm_kind_parse(lora__opening *opening, lora__module *module)
{
    TRY(lora__kind_vector(opening, module, LORA__ROLE_NORM_WEIGHT));
    return full_kind_parse_parts(opening, module, LORA__ROLE_NORM_WEIGHT,
                                 LORA__ROLE_NORM_BIAS);
}

static lora_status full_kind_prepare(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    const lora__member *member = lora__module_find(module, LORA__ROLE_DIFF);

    if (member == NULL) {
        member = lora__module_find(module, LORA__ROLE_NORM_WEIGHT);
    }
    return lora__rows_load(state, 0, adapter, member->entry, error);
}

static void full_kind_rows(const lora__rows *state,
                           const lora__module *module,
                           size_t begin,
                           size_t end,
                           void *out)
{
    size_t step = state->cols * lora__rows_size(state);

    (void)module;
    memcpy(out, (const unsigned char *)state->blocks[0] + begin * step,
           (end - begin) * step);
    lora__rows_scale(state, out, (end - begin) * state->cols);
}

static int full_kind_extent(lora__extent *out,
                            const lora_adapter *adapter,
                            const lora__module *module,
                            lora__role role)
{
    (void)adapter;
    (void)module;
    out->rows = 0;
    out->mirror = role == LORA__ROLE_DIFF ? role : LORA__ROLE_UNKNOWN;
    return role == LORA__ROLE_DIFF || role == LORA__ROLE_NORM_WEIGHT ||
           role == LORA__ROLE_NORM_BIAS;
}

LORA_PRIVATE const lora__kind lora__kind_full = {
    .id = "full",
    .is_whole = 1,
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_DIFF) | LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS),
    .unscaled =
        LORA__ROLE_BIT(LORA__ROLE_DIFF) | LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS),
    .claim = full_kind_claim,
    .parse = full_kind_parse,
    .prepare = full_kind_prepare,
    .rows = full_kind_rows,
    .chain = lora__chain_full,
    .extent = full_kind_extent,
};

LORA_PRIVATE const lora__kind lora__kind_norm = {
    .id = "norm",
    .is_whole = 1,
    .roles = LORA__ROLE_BIT(LORA__ROLE_NORM_WEIGHT) |
             LORA__ROLE_BIT(LORA__ROLE_NORM_BIAS),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_NORM_WEIGHT) |
                LORA__ROLE_BIT(LORA__ROLE_NORM_BIAS),
    .claim = norm_kind_claim,
    .parse = norm_kind_parse,
    .prepare = full_kind_prepare,
    .rows = full_kind_rows,
    .extent = full_kind_extent,
};
