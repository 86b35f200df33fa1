/* T-LoRA: dW = s * (P diag(l) Q - P0 diag(l0) Q0), where the start P0, l0, Q0
 * is the truncated SVD of the base weight and not stored. Source: formats.md
 * 5.16b. Recognised here; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int tlora_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_TLORA_LAMBDA) ||
                   kind_has(module, LORA__ROLE_TLORA_P)
               ? 20
               : 0;
}

static lora_status tlora_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    const lora__entry *q =
        lora__kind_require(opening, module, LORA__ROLE_TLORA_Q, 2);
    const lora__entry *p =
        lora__kind_require(opening, module, LORA__ROLE_TLORA_P, 2);
    const lora__entry *lambda =
        lora__kind_require(opening, module, LORA__ROLE_TLORA_LAMBDA, 1);

    if (q == NULL || p == NULL || lambda == NULL) {
        return LORA_OK;
    }
    module->dtype = q->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, q->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of p and q", p->shape[1],
                         q->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of lambda and q",
                         (int64_t)lambda->elements, q->shape[0]));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_TLORA_P));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_TLORA_Q));
    TRY(lora__kind_vector(opening, module, LORA__ROLE_TLORA_LAMBDA));
    TRY(lora__kind_set_shape(opening, module, p->shape[0], q->shape[1], q));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    return lora__module_resolve_scale(opening, module);
}

LORA_PRIVATE const lora__kind lora__kind_tlora = {
    .id = "tlora",
    .roles = LORA__ROLE_BIT(LORA__ROLE_TLORA_Q) |
             LORA__ROLE_BIT(LORA__ROLE_TLORA_P) |
             LORA__ROLE_BIT(LORA__ROLE_TLORA_LAMBDA) |
             LORA__ROLE_BIT(LORA__ROLE_SCALE) |
             LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .claim = tlora_kind_claim,
    .parse = tlora_kind_parse,
};
