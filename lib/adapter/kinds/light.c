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

/* The two trained factors, down [r, a] and up [b, r]; or their product [b, a];
 * or both in one vector beside a seed. Sets the inner sizes, -1 where the file
 * does not tell them. */
static lora_status light_kind_inner(lora__opening *opening,
                                    lora__module *module,
                                    int64_t *out_b,
                                    int64_t *out_a)
{
    const lora__entry *down =
        lora__kind_optional(opening, module, LORA__ROLE_DOWN, 2);
    const lora__entry *up =
        lora__kind_optional(opening, module, LORA__ROLE_UP, 2);
    const lora__entry *product =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_DOWN_UP, 2);

    *out_a = *out_b = -1;
    if (kind_has(module, LORA__ROLE_WEIGHT)) {
        return lora__kind_vector(opening, module, LORA__ROLE_WEIGHT);
    }
    if (product != NULL) {
        *out_b = product->shape[0];
        *out_a = product->shape[1];
        return LORA_OK;
    }
    if (down == NULL || up == NULL) {
        return lora__module_reject(opening, module, LORA_ERROR_KEY,
                                   "missing_pair",
                                   "down and up, or their product, is missing");
    }
    *out_b = up->shape[0];
    *out_a = down->shape[1];
    TRY(lora__kind_set_rank(opening, module, down->shape[0]));
    return lora__kind_agree(opening, module, "ranks of up and down",
                            up->shape[1], down->shape[0]);
}

static lora_status light_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    static const lora__role matrices[] = {
        LORA__ROLE_DOWN, LORA__ROLE_UP, LORA__ROLE_LIGHT_DOWN_UP,
        LORA__ROLE_LIGHT_DOWN_AUX, LORA__ROLE_LIGHT_UP_AUX};
    const lora__entry *in =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_DOWN_AUX, 2);
    const lora__entry *out =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_UP_AUX, 2);
    int64_t a;
    int64_t b;

    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    module->dtype =
        opening->adapter->container->entries[module->members[0].entry].dtype;
    TRY(light_kind_inner(opening, module, &b, &a));
    for (size_t i = 0; i < LORA__COUNT(matrices); i++) {
        TRY(lora__kind_matrix(opening, module, matrices[i]));
    }
    if (in != NULL && a >= 0) {
        TRY(lora__kind_agree(opening, module, "sizes of down and down_aux", a,
                             in->shape[0]));
    }
    if (out != NULL && b >= 0) {
        TRY(lora__kind_agree(opening, module, "sizes of up and up_aux", b,
                             out->shape[1]));
    }
    if (module->status == LORA_OK && in != NULL && out != NULL) {
        TRY(lora__kind_set_shape(opening, module, out->shape[0], in->shape[1],
                                 NULL));
    }
    return module->status != LORA_OK || module->rank == 0
               ? LORA_OK
               : lora__module_resolve_scale(opening, module);
}

/* Rows of the frozen matrix, if it is stored: drawn again, it would be one of
 * another size. */
static int light_kind_extent(lora__extent *out,
                             const lora_adapter *adapter,
                             const lora__module *module,
                             lora__role role)
{
    (void)adapter;
    if (!kind_has(module, LORA__ROLE_LIGHT_UP_AUX) ||
        kind_has(module, LORA__ROLE_LIGHT_SEED)) {
        return 0;
    }
    out->rows = role == LORA__ROLE_LIGHT_UP_AUX ? 0 : LORA__AXIS_NONE;
    return role == LORA__ROLE_DOWN || role == LORA__ROLE_UP ||
           (role >= LORA__ROLE_LIGHT_DOWN_AUX &&
            role <= LORA__ROLE_LIGHT_DOWN_UP);
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
    .chain = lora__chain_light,
    .extent = light_kind_extent,
};
