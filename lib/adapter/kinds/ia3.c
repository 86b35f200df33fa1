/* (IA)^3: rows or columns of the weight are scaled.
 *
 * LyCORIS stores `weight` with `on_input` and starts from zero: W' = W o (1 +
 * m w). PEFT stores `ia3_l` and starts from one. Source: formats.md 5.11.
 * Recognised here; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int ia3_kind_claim(const lora_adapter *adapter,
                          const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_ON_INPUT) ? 20
           : kind_has(module, LORA__ROLE_IA3)    ? 20
                                                 : 0;
}

static lora_status ia3_kind_parse(lora__opening *opening, lora__module *module)
{
    lora__role role =
        kind_has(module, LORA__ROLE_IA3) ? LORA__ROLE_IA3 : LORA__ROLE_WEIGHT;
    const lora__entry *weight = lora__kind_require(opening, module, role, 1);
    const lora__entry *side =
        lora__module_entry(opening->adapter, module, LORA__ROLE_ON_INPUT);

    if (weight == NULL) {
        return LORA_OK;
    }
    TRY(lora__kind_vector(opening, module, role));
    if (side != NULL && side->elements != 1) {
        return lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                   "on_input has %llu elements, not one",
                                   (unsigned long long)side->elements);
    }
    module->dtype = weight->dtype;
    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    return LORA_OK; /* the weight's shape is not in the file */
}

/* Rows have their own factor, or all of them those of the columns. No factor
 * is 1 in PEFT's files, and not 0. */
static int ia3_kind_extent(lora__extent *out,
                           const lora_adapter *adapter,
                           const lora__module *module,
                           lora__role role)
{
    const lora__entry *entry = lora__module_entry(adapter, module, role);
    const lora__member *side = lora__module_find(module, LORA__ROLE_ON_INPUT);
    double on_input = 0.0;

    if (role == LORA__ROLE_ON_INPUT) {
        return 1;
    }
    if ((role != LORA__ROLE_WEIGHT && role != LORA__ROLE_IA3) ||
        entry->ndim > 2 ||
        (side != NULL &&
         lora__adapter_read_scalar(&on_input, adapter, side->entry, NULL) !=
             LORA_OK)) {
        return 0;
    }
    if (role == LORA__ROLE_IA3) {
        out->neutral = 0;
        on_input = entry->ndim == 2 && entry->shape[0] == 1;
    }
    out->rows = on_input != 0.0 ? LORA__AXIS_NONE : 0;
    return 1;
}

LORA_PRIVATE const lora__kind lora__kind_ia3 = {
    .id = "ia3",
    .roles = LORA__ROLE_BIT(LORA__ROLE_WEIGHT) |
             LORA__ROLE_BIT(LORA__ROLE_ON_INPUT) |
             LORA__ROLE_BIT(LORA__ROLE_IA3) | LORA__ROLE_BIT(LORA__ROLE_BIAS),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_WEIGHT),
    .claim = ia3_kind_claim,
    .parse = ia3_kind_parse,
    .extent = ia3_kind_extent,
};
