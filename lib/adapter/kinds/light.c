/* Light-LoRA: dW = s * up_aux up down down_aux, the outer matrices frozen and
 * often not stored but drawn again from a seed. Source: formats.md 5.16.
 * Recognised here by its own tensors; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int light_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    int count = 0;

    (void)adapter;
    for (int role = LORA__ROLE_LIGHT_DOWN_AUX; role <= LORA__ROLE_LIGHT_SEED;
         role++) {
        count += kind_has(module, (lora__role)role);
    }
    return count == 0 ? 0 : 30;
}

static lora_status light_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    const lora__entry *down =
        lora__kind_optional(opening, module, LORA__ROLE_DOWN, 2);
    const lora__entry *in =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_DOWN_AUX, 2);
    const lora__entry *out =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_UP_AUX, 2);

    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    module->dtype =
        opening->adapter->container->entries[module->members[0].entry].dtype;
    if (in != NULL && out != NULL) {
        TRY(lora__kind_set_shape(opening, module, out->shape[0], in->shape[1],
                                 NULL));
    }
    if (down == NULL || module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_set_rank(opening, module, down->shape[0]));
    return lora__module_resolve_scale(opening, module);
}

LORA_PRIVATE const lora__kind lora__kind_light = {
    .id = "light",
    .roles = LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |
             LORA__ROLE_BIT(LORA__ROLE_WEIGHT) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_DOWN_AUX) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_UP_AUX) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_DOWN_UP) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_SEED) |
             LORA__ROLE_BIT(LORA__ROLE_SCALE) |
             LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .claim = light_kind_claim,
    .parse = light_kind_parse,
};
