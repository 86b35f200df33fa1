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

/* The four factors by what they are, whichever layout they came in. */
typedef struct glora_factors {
    const lora__entry *in_up;   /* [in, r] */
    const lora__entry *in_down; /* [r, in] */
    const lora__entry *up;      /* [out, r] */
    const lora__entry *down;    /* [r, in, k...] */
} glora_factors;

/* Both products contract over one rank and end in one input. */
static lora_status glora_kind_check(lora__opening *opening,
                                    lora__module *module,
                                    const glora_factors *f)
{
    TRY(lora__kind_agree(opening, module, "ranks of a1 and a2",
                         f->in_up->shape[1], f->in_down->shape[0]));
    TRY(lora__kind_agree(opening, module, "sides of a1 a2", f->in_up->shape[0],
                         f->in_down->shape[1]));
    TRY(lora__kind_agree(opening, module, "ranks of b1 and b2", f->up->shape[1],
                         f->down->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of a and b",
                         f->in_up->shape[1], f->up->shape[1]));
    TRY(lora__kind_agree(opening, module, "kernel of b's up",
                         lora__kind_product(f->up, 2), 1));
    TRY(lora__kind_agree(opening, module, "inputs of a and b",
                         f->in_down->shape[1], f->down->shape[1]));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_GLORA_A1));
    return lora__kind_matrix(opening, module, LORA__ROLE_GLORA_A2);
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
    glora_factors f = {a1, a2, b1, b2};

    if (a1 == NULL || a2 == NULL || b1 == NULL || b2 == NULL) {
        return LORA_OK;
    }
    if (a1->shape[0] < a1->shape[1]) { /* old */
        f = (glora_factors){a2, a1, b2, b1};
    }
    module->dtype = a1->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(glora_kind_check(opening, module, &f));
    TRY(lora__kind_set_rank(opening, module, f.in_down->shape[0]));
    TRY(lora__kind_set_shape(opening, module, f.up->shape[0], f.down->shape[1],
                             f.down));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    return lora__module_resolve_scale(opening, module);
}

/* A row of W a1 a2 needs a row of W; so do zeros in b1. */
static int glora_kind_extent(lora__extent *out,
                             const lora_adapter *adapter,
                             const lora__module *module,
                             lora__role role)
{
    const lora__entry *a1 =
        lora__module_entry(adapter, module, LORA__ROLE_GLORA_A1);
    lora__role up =
        a1->shape[0] < a1->shape[1] ? LORA__ROLE_GLORA_B2 : LORA__ROLE_GLORA_B1;

    if (role == up) {
        out->rows = 0;
        out->neutral = 0;
        return 1;
    }
    return role >= LORA__ROLE_GLORA_A1 && role <= LORA__ROLE_GLORA_B2;
}

LORA_PRIVATE const lora__kind lora__kind_glora = {
    .id = "glora",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_GLORA_A1) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_A2) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_B1) |
        LORA__ROLE_BIT(LORA__ROLE_GLORA_B2) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA) |
        LORA__ROLE_BIT(LORA__ROLE_SCALE) | LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .claim = glora_kind_claim,
    .parse = glora_kind_parse,
    .extent = glora_kind_extent,
};
