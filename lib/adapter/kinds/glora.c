/* GLoRA: dW = s * (W a1 a2 + b1 b2); the old layout has the factors of each
 * product swapped.
 *
 * Told apart by the contracted dimension, which is the smaller one. Source:
 * formats.md 5.12. Recognised here; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int glora_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_GLORA_A1) ||
                   kind_has(module, LORA__ROLE_GLORA_B1)
               ? 20
               : 0;
}

static lora_status glora_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    const lora__entry *a1 =
        lora__kind_require(opening, module, LORA__ROLE_GLORA_A1, 2);
    const lora__entry *a2 =
        lora__kind_require(opening, module, LORA__ROLE_GLORA_A2, 2);
    const lora__entry *b1 =
        lora__kind_require(opening, module, LORA__ROLE_GLORA_B1, 2);
    const lora__entry *b2 =
        lora__kind_require(opening, module, LORA__ROLE_GLORA_B2, 2);
    int old;

    if (a1 == NULL || a2 == NULL || b1 == NULL || b2 == NULL) {
        return LORA_OK;
    }
    old = a1->shape[0] < a1->shape[1];
    module->dtype = a1->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module,
                            old ? a1->shape[0] : a1->shape[1]));
    TRY(lora__kind_set_shape(opening, module, old ? b2->shape[0] : b1->shape[0],
                             old ? b1->shape[1] : b2->shape[1], old ? b1 : b2));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    return lora__module_resolve_scale(opening, module);
}

LORA_PRIVATE const lora__kind lora__kind_glora = {
    .id = "glora",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_GLORA_A1) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_A2) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_B1) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_B2) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_BM) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .claim = glora_kind_claim,
    .parse = glora_kind_parse,
};
