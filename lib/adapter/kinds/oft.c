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

/* Upper triangles without the diagonal: [nb, b (b - 1) / 2]. */
static lora_status oft_kind_triangle(lora__opening *opening,
                                     lora__module *module,
                                     const lora__entry *triangles)
{
    int64_t side = 1;

    while (side <= INT32_MAX && side * (side - 1) / 2 < triangles->shape[1]) {
        side++;
    }
    return lora__kind_agree(opening, module, "elements of a triangle",
                            triangles->shape[1], side * (side - 1) / 2);
}

/* Each of the M factors of a butterfly mixes pairs of half blocks that are 2^i
 * half blocks apart: blocks are even, and the rows whole multiples of 2^M half
 * blocks. */
static lora_status oft_kind_butterfly(lora__opening *opening,
                                      lora__module *module,
                                      const lora__entry *blocks)
{
    int64_t factors = blocks->shape[0];
    int64_t half_blocks = 2 * blocks->shape[1];

    if (blocks->shape[3] % 2 != 0 || factors > 62 ||
        half_blocks % ((int64_t)1 << factors) != 0) {
        return lora__module_reject(
            opening, module, LORA_ERROR_SHAPE, "shape",
            "%lld blocks of side %lld make no butterfly of %lld factors",
            (long long)blocks->shape[1], (long long)blocks->shape[3],
            (long long)factors);
    }
    return LORA_OK;
}

/* What stands beside the blocks: a constraint, and a scale and a bias for each
 * row. */
static lora_status oft_kind_beside(lora__opening *opening,
                                   lora__module *module,
                                   const lora__entry *blocks)
{
    static const lora__role roles[] = {LORA__ROLE_RESCALE,
                                       LORA__ROLE_DIFF_BIAS};
    int64_t rows =
        blocks->shape[blocks->ndim - 3] * blocks->shape[blocks->ndim - 1];

    TRY(lora__kind_vector(opening, module, LORA__ROLE_BOFT_S));
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        const lora__entry *entry =
            lora__kind_optional(opening, module, roles[i], 1);
        TRY(lora__kind_vector(opening, module, roles[i]));
        if (entry != NULL) {
            TRY(lora__kind_agree(opening, module, "rows of blocks and a vector",
                                 rows, (int64_t)entry->elements));
        }
    }
    /* There is no rank: this reads alpha, and leaves the scale at 1. */
    return lora__module_resolve_scale(opening, module);
}

static lora_status oft_kind_parse(lora__opening *opening, lora__module *module)
{
    static const lora__role roles[] = {LORA__ROLE_OFT_BLOCKS, LORA__ROLE_OFT_R,
                                       LORA__ROLE_OFT_DIAG, LORA__ROLE_BOFT_R};
    int32_t ndim = oft_kind_is_butterfly(opening->adapter, module) ? 4 : 3;
    const lora__entry *blocks = NULL;
    lora__role role = LORA__ROLE_UNKNOWN;

    for (size_t i = 0; i < LORA__COUNT(roles) && role == LORA__ROLE_UNKNOWN;
         i++) {
        role = kind_has(module, roles[i]) ? roles[i] : LORA__ROLE_UNKNOWN;
    }
    ndim = role == LORA__ROLE_OFT_R ? 2 : ndim;
    blocks = lora__kind_require(opening, module, role, ndim);
    if (blocks == NULL) {
        return LORA_OK;
    }
    module->dtype = blocks->dtype;
    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_agree(opening, module, "dimensions of blocks", blocks->ndim,
                         ndim));
    if (role == LORA__ROLE_OFT_R) {
        return oft_kind_triangle(opening, module, blocks);
    }
    TRY(lora__kind_agree(opening, module, "sides of a block",
                         blocks->shape[ndim - 2], blocks->shape[ndim - 1]));
    if (ndim == 4) {
        TRY(oft_kind_butterfly(opening, module, blocks));
    }
    return oft_kind_beside(opening, module, blocks);
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
