/* LoKr: dW = s * kron(w1, w2), each factor full or itself factored.
 *
 * The rank is the first dimension of w2_b, else of w1_b; with both full there
 * is none, the scale is 1 and alpha is ignored. Source: formats.md 5.7.
 * Recognised here; not computed in this version.
 */
#include "adapter/kinds/common.h"

static int lokr_kind_claim(const lora_adapter *adapter,
                           const lora__module *module)
{
    int count = 0;

    (void)adapter;
    for (int role = LORA__ROLE_LOKR_W1; role <= LORA__ROLE_LOKR_T2; role++) {
        count += kind_has(module, (lora__role)role);
    }
    return count == 0 ? 0 : 20 + count;
}

/* One Kronecker factor: full, or a pair. Sets its rows, columns and rank. */
static lora_status lokr_kind_side(lora__opening *opening,
                                  lora__module *module,
                                  lora__role full_role,
                                  const lora__entry *core,
                                  int64_t out[3])
{
    const lora__entry *full = NULL;
    const lora__entry *a;
    const lora__entry *b;
    int transposed = core != NULL;

    for (int i = 0; i < 3; i++) {
        lora__role role = (lora__role)((int)full_role + i);
        if (role != LORA__ROLE_LOKR_W2) { /* which may have a kernel */
            TRY(lora__kind_matrix(opening, module, role));
        }
    }
    if (kind_has(module, full_role)) {
        if (core != NULL || kind_has(module, (lora__role)(full_role + 1)) ||
            kind_has(module, (lora__role)(full_role + 2))) {
            return lora__module_reject(
                opening, module, LORA_ERROR_KEY, "duplicate_module",
                "%s is there whole and factored", lora__role_name(full_role));
        }
        full = lora__kind_require(opening, module, full_role, 2);
        if (full != NULL) {
            out[0] = full->shape[0];
            out[1] = full->shape[1];
        }
        return LORA_OK;
    }
    /* The pair's roles follow the full one's. */
    a = lora__kind_require(opening, module, (lora__role)(full_role + 1), 2);
    b = lora__kind_require(opening, module, (lora__role)(full_role + 2), 2);
    if (a == NULL || b == NULL) {
        return LORA_OK;
    }
    out[0] = a->shape[transposed];
    out[1] = b->shape[1];
    out[2] = b->shape[0];
    if (core != NULL) {
        TRY(lora__kind_agree(opening, module, "ranks of the core and w2_a",
                             core->shape[0], a->shape[0]));
        TRY(lora__kind_agree(opening, module, "ranks of the core and w2_b",
                             core->shape[1], b->shape[0]));
    }
    return lora__kind_agree(opening, module, "ranks of a pair",
                            a->shape[1 - transposed], b->shape[0]);
}

static lora_status lokr_kind_parse(lora__opening *opening, lora__module *module)
{
    const lora__entry *core =
        lora__kind_optional(opening, module, LORA__ROLE_LOKR_T2, 2);
    const lora__entry *w2 =
        lora__module_entry(opening->adapter, module, LORA__ROLE_LOKR_W2);
    int64_t one[3] = {0, 0, 0};
    int64_t two[3] = {0, 0, 0};
    int64_t rank;

    TRY(lokr_kind_side(opening, module, LORA__ROLE_LOKR_W1, NULL, one));
    TRY(lokr_kind_side(opening, module, LORA__ROLE_LOKR_W2, core, two));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    rank = two[2] != 0 ? two[2] : one[2];
    module->dtype =
        opening->adapter->container->entries[module->members[0].entry].dtype;
    module->tucker = core != NULL;
    module->changes = LORA_PART_WEIGHT;
    if (one[0] > INT32_MAX || one[1] > INT32_MAX || two[0] > INT32_MAX ||
        two[1] > INT32_MAX) {
        return lora__module_reject(opening, module, LORA_ERROR_SHAPE, "shape",
                                   "the weight would be too large");
    }
    TRY(lora__kind_set_shape(opening, module, one[0] * two[0], one[1] * two[1],
                             core != NULL ? core : w2));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    if (rank == 0) {
        module->scale = 1.0;
        return LORA_OK;
    }
    TRY(lora__kind_set_rank(opening, module, rank));
    return lora__module_resolve_scale(opening, module);
}

/* A row of w1 is as many rows of the change as w2 has. */
static int lokr_kind_extent(lora__extent *out,
                            const lora_adapter *adapter,
                            const lora__module *module,
                            lora__role role)
{
    const lora__entry *one = lora__module_entry(
        adapter, module,
        kind_has(module, LORA__ROLE_LOKR_W1) ? LORA__ROLE_LOKR_W1
                                             : LORA__ROLE_LOKR_W1_A);

    if (role == LORA__ROLE_LOKR_W1 || role == LORA__ROLE_LOKR_W1_A) {
        out->rows = 0;
        out->grain = module->shape[0] / one->shape[0];
        return 1;
    }
    return role >= LORA__ROLE_LOKR_W1_B && role <= LORA__ROLE_LOKR_T2;
}

LORA_PRIVATE const lora__kind lora__kind_lokr = {
    .id = "lokr",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W1) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W1_A) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W1_B) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W2) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W2_A) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_W2_B) |
        LORA__ROLE_BIT(LORA__ROLE_LOKR_T2) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .scaled = LORA__ROLE_BIT(LORA__ROLE_LOKR_W1) |
              LORA__ROLE_BIT(LORA__ROLE_LOKR_W1_A),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS),
    .claim = lokr_kind_claim,
    .parse = lokr_kind_parse,
    .chain = lora__chain_lokr,
    .extent = lokr_kind_extent,
};
