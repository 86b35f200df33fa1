/* LoHa: dW = s * (w1_a w1_b) o (w2_a w2_b), elementwise product.
 *
 * With cores t1, t2 [r, r, k...] the a-factors are stored transposed, [r,
 * out]. The rank is the first dimension of w1_b in both layouts. Source:
 * formats.md 5.5. Recognised here; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int loha_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    int count = 0;

    (void)adapter;
    for (int role = LORA__ROLE_HADA_W1_A; role <= LORA__ROLE_HADA_T2; role++) {
        count += kind_has(module, (lora__role)role);
    }
    return count == 0 ? 0 : 20 + count;
}

/* A core [r, r, k...] between the factors of a pair. */
static lora_status loha_kind_core(lora__opening *opening,
                                  lora__module *module,
                                  const lora__entry *core,
                                  const lora__entry *a,
                                  const lora__entry *b)
{
    TRY(lora__kind_agree(opening, module, "ranks of a core and its a-factor",
                         core->shape[0], a->shape[0]));
    return lora__kind_agree(opening, module, "ranks of a core and its b-factor",
                            core->shape[1], b->shape[0]);
}

/* The two cores have one kernel. */
static lora_status loha_kind_kernels(lora__opening *opening,
                                     lora__module *module,
                                     const lora__entry *t1,
                                     const lora__entry *t2)
{
    TRY(lora__kind_agree(opening, module, "dimensions of t1 and t2", t1->ndim,
                         t2->ndim));
    for (int32_t i = 2; i < t1->ndim && i < t2->ndim; i++) {
        TRY(lora__kind_agree(opening, module, "kernels of t1 and t2",
                             t1->shape[i], t2->shape[i]));
    }
    return LORA_OK;
}

static lora_status loha_kind_parse(lora__opening *opening, lora__module *module)
{
    const lora__entry *w1a =
        lora__kind_require(opening, module, LORA__ROLE_HADA_W1_A, 2);
    const lora__entry *w1b =
        lora__kind_require(opening, module, LORA__ROLE_HADA_W1_B, 2);
    const lora__entry *w2a =
        lora__kind_require(opening, module, LORA__ROLE_HADA_W2_A, 2);
    const lora__entry *w2b =
        lora__kind_require(opening, module, LORA__ROLE_HADA_W2_B, 2);
    const lora__entry *t1 =
        lora__kind_optional(opening, module, LORA__ROLE_HADA_T1, 2);
    const lora__entry *t2 =
        lora__kind_optional(opening, module, LORA__ROLE_HADA_T2, 2);
    int out;

    if (w1a == NULL || w1b == NULL || w2a == NULL || w2b == NULL ||
        module->status != LORA_OK) {
        return LORA_OK;
    }
    if ((t1 == NULL) != (t2 == NULL)) {
        return lora__module_reject(opening, module, LORA_ERROR_KEY,
                                   "missing_pair", "one of two cores");
    }
    out = t1 == NULL ? 0 : 1;
    module->dtype = w1b->dtype;
    module->tucker = t1 != NULL;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, w1b->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of w1_a and w1_b",
                         w1a->shape[1 - out], w1b->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of w2_a and w2_b",
                         w2a->shape[1 - out], w2b->shape[0]));
    TRY(lora__kind_agree(opening, module, "rows of w1_a and w2_a",
                         w1a->shape[out], w2a->shape[out]));
    TRY(lora__kind_agree(opening, module, "columns of w1_b and w2_b",
                         w1b->shape[1], w2b->shape[1]));
    for (int role = LORA__ROLE_HADA_W1_A; role <= LORA__ROLE_HADA_W2_B;
         role++) {
        TRY(lora__kind_matrix(opening, module, (lora__role)role));
    }
    if (t1 != NULL) {
        TRY(loha_kind_core(opening, module, t1, w1a, w1b));
        TRY(loha_kind_core(opening, module, t2, w2a, w2b));
        TRY(loha_kind_kernels(opening, module, t1, t2));
    }
    TRY(lora__kind_set_shape(opening, module, w1a->shape[out], w1b->shape[1],
                             t1));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    return lora__module_resolve_scale(opening, module);
}

/* Both products give a row of theirs to a row of the change. */
static int loha_kind_extent(lora__extent *out,
                            const lora_adapter *adapter,
                            const lora__module *module,
                            lora__role role)
{
    (void)adapter;
    if (role == LORA__ROLE_HADA_W1_A || role == LORA__ROLE_HADA_W2_A) {
        out->rows = module->tucker ? 1 : 0;
        return 1;
    }
    return role >= LORA__ROLE_HADA_W1_B && role <= LORA__ROLE_HADA_T2;
}

LORA_PRIVATE const lora__kind lora__kind_loha = {
    .id = "loha",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_HADA_W1_A) |
        LORA__ROLE_BIT(LORA__ROLE_HADA_W1_B) |
        LORA__ROLE_BIT(LORA__ROLE_HADA_W2_A) |
        LORA__ROLE_BIT(LORA__ROLE_HADA_W2_B) |
        LORA__ROLE_BIT(LORA__ROLE_HADA_T1) |
        LORA__ROLE_BIT(LORA__ROLE_HADA_T2) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .scaled = LORA__ROLE_BIT(LORA__ROLE_HADA_W1_A),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS),
    .claim = loha_kind_claim,
    .parse = loha_kind_parse,
    .chain = lora__chain_loha,
    .extent = loha_kind_extent,
};
