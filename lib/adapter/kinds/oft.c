/* OFT and BOFT: the weight is rotated by blocks.
 *
 * kohya and LyCORIS store skew blocks, OFT [nb, b, b], BOFT [M, nb, b, b];
 * PEFT stores oft_R [nb, b (b - 1) / 2] and boft_R [M, nb, b, b]. alpha is a
 * constraint, not a scale. Source: formats.md 5.13 and 5.14. Recognised here;
 * not computed in this version.
 */
#include "adapter/kinds/common.h"

static int oft_kind_is_butterfly(const lora_adapter *adapter,
                                 const lora__module *module)
{
    const lora__entry *blocks =
        lora__module_entry(adapter, module, LORA__ROLE_OFT_BLOCKS);

    return kind_has(module, LORA__ROLE_BOFT_R) ||
           (blocks != NULL && blocks->ndim == 4);
}

static int oft_kind_claim(const lora_adapter *adapter,
                          const lora__module *module)
{
    return !oft_kind_is_butterfly(adapter, module) &&
                   (kind_has(module, LORA__ROLE_OFT_BLOCKS) ||
                    kind_has(module, LORA__ROLE_OFT_R) ||
                    kind_has(module, LORA__ROLE_OFT_DIAG))
               ? 20
               : 0;
}

static int boft_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    return oft_kind_is_butterfly(adapter, module) ? 20 : 0;
}

static lora_status oft_kind_parse(lora__opening *opening, lora__module *module)
{
    static const lora__role roles[] = {LORA__ROLE_OFT_BLOCKS, LORA__ROLE_OFT_R,
                                       LORA__ROLE_OFT_DIAG, LORA__ROLE_BOFT_R};
    const lora__entry *blocks = NULL;
    lora__role role = LORA__ROLE_UNKNOWN;

    for (size_t i = 0; i < LORA__COUNT(roles) && blocks == NULL; i++) {
        if (kind_has(module, roles[i])) {
            role = roles[i];
            blocks = lora__kind_require(opening, module, role, 2);
        }
    }
    if (blocks == NULL || module->status != LORA_OK) {
        return LORA_OK;
    }
    module->dtype = blocks->dtype;
    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    if (role == LORA__ROLE_OFT_R) {
        return LORA_OK;
    }
    return lora__kind_agree(opening, module, "sides of a block",
                            blocks->shape[blocks->ndim - 2],
                            blocks->shape[blocks->ndim - 1]);
}

LORA_PRIVATE const lora__kind lora__kind_oft = {
    .id = "oft",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_OFT_BLOCKS) |
        LORA__ROLE_BIT(LORA__ROLE_OFT_DIAG) | LORA__ROLE_BIT(LORA__ROLE_OFT_R) |
        LORA__ROLE_BIT(LORA__ROLE_RESCALE) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA),
    .claim = oft_kind_claim,
    .parse = oft_kind_parse,
};

LORA_PRIVATE const lora__kind lora__kind_boft = {
    .id = "boft",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_OFT_BLOCKS) |
        LORA__ROLE_BIT(LORA__ROLE_BOFT_R) | LORA__ROLE_BIT(LORA__ROLE_BOFT_S) |
        LORA__ROLE_BIT(LORA__ROLE_RESCALE) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA),
    .claim = boft_kind_claim,
    .parse = oft_kind_parse,
};
