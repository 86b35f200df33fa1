/* (IA)^3: rows or columns of the weight are scaled.
 *
 *   LyCORIS  `weight` with `on_input`, from zero:  W' = W o (1 + m w), along
 *            the columns' inputs if on_input, else along the rows; the bias
 *            stays
 *   PEFT     `ia3_l`, from one:  W' = W o l, of feedforward layers along the
 *            inputs, else along the rows, and the bias with them. There is no
 *            multiplier: W + m (W' - W), as for the former
 *
 * Which layers of PEFT are feedforward is told by the shape of a linear
 * layer's vector, [1, in] or [out, 1]. That of a convolution is [1, n, 1, 1]
 * either way: the configuration tells, or else the base's shape if it can.
 * Source: formats.md 5.11.
 */
#include "adapter/config.h"
#include "adapter/kinds/common.h"

#include <string.h>

static int ia3_kind_claim(const lora_adapter *adapter,
                          const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_ON_INPUT) ? 20
           : kind_has(module, LORA__ROLE_IA3)    ? 20
                                                 : 0;
}

typedef enum ia3_side { IA3_ROWS, IA3_INPUTS, IA3_NOT_TOLD } ia3_side;

/* The side that PEFT's vector is of. */
static ia3_side ia3_kind_peft_side(const lora_adapter *adapter,
                                   const lora__module *module)
{
    const lora__entry *entry =
        lora__module_entry(adapter, module, LORA__ROLE_IA3);
    int told = entry->ndim == 2 && entry->elements > 1;
    int feedforward;

    if (entry->ndim == 2 && told) {
        return entry->shape[0] == 1 ? IA3_INPUTS : IA3_ROWS;
    }
    return !lora__config_feedforward(&feedforward, adapter->config,
                                     module->target)
               ? IA3_NOT_TOLD
           : feedforward ? IA3_INPUTS
                         : IA3_ROWS;
}

/* The side, as far as the file tells it. */
static ia3_side ia3_kind_stored_side(const lora_adapter *adapter,
                                     const lora__module *module)
{
    const lora__member *member = lora__module_find(module, LORA__ROLE_ON_INPUT);
    double on_input;

    if (member == NULL) {
        return ia3_kind_peft_side(adapter, module);
    }
    return lora__adapter_read_scalar(&on_input, adapter, member->entry, NULL) !=
                   LORA_OK
               ? IA3_NOT_TOLD
           : on_input != 0.0 ? IA3_INPUTS
                             : IA3_ROWS;
}

static lora_status ia3_kind_parse(lora__opening *opening, lora__module *module)
{
    int peft = kind_has(module, LORA__ROLE_IA3);
    lora__role role = peft ? LORA__ROLE_IA3 : LORA__ROLE_WEIGHT;
    const lora__entry *weight = lora__kind_require(opening, module, role, 1);
    const lora__entry *side =
        lora__module_entry(opening->adapter, module, LORA__ROLE_ON_INPUT);
    ia3_side stored;

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
    stored = ia3_kind_stored_side(opening->adapter, module);
    module->of_inputs = stored == IA3_INPUTS ? 1 : stored == IA3_ROWS ? 0 : -1;
    if (peft && stored != IA3_INPUTS) {
        module->changes |= LORA_PART_BIAS;
    }
    module->needs = module->changes;
    return LORA_OK; /* the weight's shape is not in the file */
}

/* ---- numbers ----------------------------------------------------------- */

enum { IA3_BLOCK_VECTOR };

/* What the file says of the side, or the base's shape if that can. A weight
 * that PEFT knows to be stored [in, out] has the sides swapped. */
static lora_status ia3_kind_side(ia3_side *out,
                                 const lora__rows *state,
                                 const lora_adapter *adapter,
                                 const lora__module *module,
                                 const lora__entry *entry,
                                 lora_error *error)
{
    const lora__member *member = lora__module_find(module, LORA__ROLE_ON_INPUT);
    const lora__base_tensor *weight = state->weight;
    int square = weight != NULL && weight->shape[0] == weight->shape[1];
    double on_input = 0.0;

    if (member != NULL) {
        TRY(lora__adapter_read_scalar(&on_input, adapter, member->entry,
                                      error));
        *out = on_input != 0.0 ? IA3_INPUTS : IA3_ROWS;
        return LORA_OK;
    }
    *out = ia3_kind_peft_side(adapter, module);
    if (*out == IA3_NOT_TOLD && (weight == NULL || square)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "whether ia3_l scales inputs or outputs is told by "
                          "the feedforward_modules of an adapter_config.json, "
                          "or a weight that is not square");
    }
    if (*out == IA3_NOT_TOLD) {
        *out = entry->elements == (uint64_t)weight->shape[0] ? IA3_ROWS
                                                             : IA3_INPUTS;
    }
    if (weight != NULL && weight->ndim == 2 && !module->known &&
        lora__config_transposed(adapter->config, module->target)) {
        *out = *out == IA3_ROWS ? IA3_INPUTS : IA3_ROWS;
    }
    return LORA_OK;
}

/* A vector that is as long as what it scales: the rows of the part, or the
 * inputs, which a bias has none of. */
static lora_status ia3_kind_check(const lora__rows *state,
                                  const lora__module *module,
                                  const lora__entry *entry,
                                  ia3_side side,
                                  lora_error *error)
{
    uint64_t inputs =
        state->weight == NULL ? 0 : (uint64_t)state->weight->shape[1];
    int matrix = state->part == LORA_PART_WEIGHT;
    uint64_t wanted;

    if (matrix && state->base->ndim < 2) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the base's weight is a vector");
    }
    if (side == IA3_INPUTS && !matrix) {
        return LORA_OK;
    }
    wanted = side == IA3_ROWS ? state->rows : inputs;
    return entry->elements == wanted
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                            module->name,
                            "%llu factors for %llu %s of the base",
                            (unsigned long long)entry->elements,
                            (unsigned long long)wanted,
                            side == IA3_ROWS ? "rows" : "inputs");
}

static lora_status ia3_kind_prepare(lora__rows *state,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora_error *error)
{
    int peft = kind_has(module, LORA__ROLE_IA3);
    const lora__member *member =
        lora__module_find(module, peft ? LORA__ROLE_IA3 : LORA__ROLE_WEIGHT);
    const lora__entry *entry = &adapter->container->entries[member->entry];
    ia3_side side;
    void *vector;

    TRY(ia3_kind_side(&side, state, adapter, module, entry, error));
    TRY(ia3_kind_check(state, module, entry, side, error));
    if (side == IA3_INPUTS && state->part == LORA_PART_BIAS) {
        TRY(lora__rows_block(state, IA3_BLOCK_VECTOR, state->rows, error));
        memset(state->blocks[IA3_BLOCK_VECTOR], 0,
               state->block_bytes[IA3_BLOCK_VECTOR]);
        return LORA_OK; /* stays as it is */
    }
    TRY(lora__rows_load(state, IA3_BLOCK_VECTOR, adapter, member->entry,
                        error));
    vector = state->blocks[IA3_BLOCK_VECTOR];
    for (size_t i = 0; peft && i < (size_t)entry->elements; i++) {
        lora__rows_set(state, vector, i,
                       lora__rows_get(state, vector, i) - 1.0);
    }
    state->rank = side == IA3_INPUTS ? (size_t)entry->elements : 0;
    return LORA_OK;
}

/* out[0, count) = by * in[0, count) */
static void ia3_kind_copy(
    const lora__rows *state, void *out, const void *in, double by, size_t count)
{
    memcpy(out, in, count * lora__rows_size(state));
    lora__rows_scale_by(state, out, by, count);
}

/* out[i] = in[i] * factors[i] */
static void ia3_kind_multiply(const lora__rows *state,
                              void *out,
                              const void *in,
                              const void *factors)
{
    if (state->dtype == LORA_DTYPE_F64) {
        for (size_t i = 0; i < state->cols; i++) {
            ((double *)out)[i] =
                ((const double *)in)[i] * ((const double *)factors)[i];
        }
    } else {
        for (size_t i = 0; i < state->cols; i++) {
            ((float *)out)[i] =
                ((const float *)in)[i] * ((const float *)factors)[i];
        }
    }
}

/* w o W. `rank` is the number of inputs where those are scaled: each has its
 * elements of the kernel side by side. */
static void ia3_kind_rows(const lora__rows *state,
                          const lora__module *module,
                          size_t begin,
                          size_t end,
                          void *out)
{
    const size_t size = lora__rows_size(state);
    const size_t kernel = state->rank == 0 ? 0 : state->cols / state->rank;
    const void *vector = state->blocks[IA3_BLOCK_VECTOR];
    unsigned char *to = out;

    (void)module;
    for (size_t i = begin; i < end; i++, to += state->cols * size) {
        const unsigned char *base = lora__rows_base(state, i);

        if (kernel == 0) {
            ia3_kind_copy(state, to, base, lora__rows_get(state, vector, i),
                          state->cols);
        } else if (kernel == 1) {
            ia3_kind_multiply(state, to, base, vector);
        }
        for (size_t j = 0; kernel > 1 && j < state->rank; j++) {
            ia3_kind_copy(state, to + j * kernel * size,
                          base + j * kernel * size,
                          lora__rows_get(state, vector, j), kernel);
        }
        lora__rows_scale(state, to, state->cols);
    }
}

/* ---- layers ------------------------------------------------------------ */

static size_t ia3_kind_maker_scratch(const lora__link *link)
{
    (void)link;
    return 1;
}

/* PEFT's, which are from one: l - 1. */
static void ia3_kind_maker_make(float *weight,
                                const lora__link *link,
                                const float *const *factors,
                                const lora__kernels *kernels,
                                float *scratch)
{
    (void)kernels;
    (void)scratch;
    for (size_t i = 0; i < link->out; i++) {
        weight[i] = factors[link->factor][i] - 1.0F;
    }
}

static void ia3_kind_maker_pull(float *const *gradients,
                                const lora__link *link,
                                const float *gradient,
                                const float *const *factors,
                                const lora__kernels *kernels,
                                float *scratch)
{
    (void)factors;
    (void)scratch;
    kernels->axpy_f32(gradients[link->factor], gradient, 1.0F, link->out);
}

static const lora__link_maker ia3_kind_maker = {
    ia3_kind_maker_scratch, ia3_kind_maker_make, ia3_kind_maker_pull};

/* A number for each channel of what goes into the layer, or comes out of it:
 * there LyCORIS' is of the weight alone, PEFT's of the bias too. */
static lora_status ia3_kind_chain(lora__chain *out,
                                  const lora_adapter *adapter,
                                  const lora__module *module,
                                  size_t kernel,
                                  size_t groups,
                                  lora_error *error)
{
    const int peft = kind_has(module, LORA__ROLE_IA3);
    const lora__role role = peft ? LORA__ROLE_IA3 : LORA__ROLE_WEIGHT;
    const lora__entry *entry = lora__module_entry(adapter, module, role);
    lora__link *link = &out->links[0];
    lora__rows state;
    ia3_side side;

    memset(out, 0, sizeof *out);
    memset(&state, 0, sizeof state);
    if (kernel != 1 || groups != 1) {
        return lora__fail(
            error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
            "a scale of channels has neither a kernel nor groups");
    }
    TRY(ia3_kind_side(&side, &state, adapter, module, entry, error));
    out->place = side == IA3_INPUTS ? LORA_LAYER_PLACE_BEFORE
                 : peft             ? LORA_LAYER_PLACE_AFTER
                                    : LORA_LAYER_PLACE_PRODUCT;
    link->factor = lora__chain_take(out, module, role);
    link->before = (size_t)entry->elements;
    link->in = 1;
    link->out = link->before;
    link->after = 1;
    link->kernel = 1;
    link->parts = link->before;
    link->each = 1;
    if (peft) {
        link->maker = &ia3_kind_maker;
        for (size_t i = 0; i < LORA__COUNT(link->sides); i++) {
            link->sides[i].a = link->factor;
            link->sides[i].b = link->factor;
            link->sides[i].core = SIZE_MAX;
        }
    }
    out->link_count = 1;
    return LORA_OK;
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

/* ---- dialects ---------------------------------------------------------- */

/* Why PEFT's and LyCORIS' are not the same; NULL: they are. PEFT scales the
 * bias with the outputs, LyCORIS does not: where there is none, that is one
 * thing. */
static const char *ia3_kind_unlike(const lora_adapter *adapter,
                                   const lora__module *module,
                                   ia3_side side)
{
    if (side == IA3_NOT_TOLD) {
        return "whether it scales inputs is not told";
    }
    if (lora__config_transposed(adapter->config, module->target)) {
        return "its weight is stored [in, out]";
    }
    return side == IA3_INPUTS ||
                   lora__names_lack_bias(&adapter->names, module->target)
               ? NULL
               : "it scales outputs, PEFT's with their bias and LyCORIS' "
                 "without it, and the layer is not known to have none (with "
                 "the base, --as full and --as lora have both)";
}

/* LyCORIS' w [n] is PEFT's 1 + w, of inputs [1, n], of outputs [n, 1]; of a
 * convolution both are [1, n, 1, 1]. */
static lora_status ia3_kind_respell(lora__respelling *out,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora__role role,
                                    const lora__dialect *to,
                                    lora_error *error)
{
    const lora__entry *entry = lora__module_entry(adapter, module, role);
    int to_peft = lora__dialect_has_role(to, LORA__ROLE_IA3);
    ia3_side side;
    const char *why;

    if (to_peft == kind_has(module, LORA__ROLE_IA3) ||
        (!to_peft && !lora__dialect_has_role(to, LORA__ROLE_ON_INPUT))) {
        return LORA_OK; /* as it is, or not at all */
    }
    if (role == LORA__ROLE_ON_INPUT) {
        out->role = LORA__ROLE_UNKNOWN; /* dimensions tell */
        return LORA_OK;
    }
    side = ia3_kind_stored_side(adapter, module);
    why = ia3_kind_unlike(adapter, module, side);
    if (why != NULL) {
        return lora__respell_refuse(module, to, why, error);
    }
    out->role = to_peft ? LORA__ROLE_IA3 : LORA__ROLE_WEIGHT;
    out->mark = to_peft ? LORA__ROLE_UNKNOWN : LORA__ROLE_ON_INPUT;
    out->marked = side == IA3_INPUTS;
    out->plus = to_peft ? 1.0 : -1.0;
    if (entry->ndim <= 2) {
        out->ndim = to_peft ? 2 : 1;
        out->shape[0] = (int64_t)entry->elements;
        out->shape[1] = 1;
        if (to_peft && side == IA3_INPUTS) {
            out->shape[0] = 1;
            out->shape[1] = (int64_t)entry->elements;
        }
    }
    return LORA_OK;
}

LORA_PRIVATE const lora__kind lora__kind_ia3 = {
    .id = "ia3",
    .roles = LORA__ROLE_BIT(LORA__ROLE_WEIGHT) |
             LORA__ROLE_BIT(LORA__ROLE_ON_INPUT) |
             LORA__ROLE_BIT(LORA__ROLE_IA3),
    .unscaled = LORA__ROLE_BIT(LORA__ROLE_WEIGHT),
    .claim = ia3_kind_claim,
    .parse = ia3_kind_parse,
    .prepare = ia3_kind_prepare,
    .rows = ia3_kind_rows,
    .chain = ia3_kind_chain,
    .extent = ia3_kind_extent,
    .respell = ia3_kind_respell,
};
