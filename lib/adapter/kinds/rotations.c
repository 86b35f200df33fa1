/* Blocks of OFT and BOFT become rotations.
 *
 * A block gives a skew matrix S, whose norm may be limited, and S a rotation by
 * Cayley's transform, or what a series makes of it. Where the transpose is what
 * turns, S is -Q, as the transpose of a rotation is its inverse.
 */
#include "adapter/kinds/rotations.h"
#include "adapter/config.h"
#include "linalg/block.h"
#include "linalg/cayley.h"

#include <math.h>
#include <string.h>

/* Of a series, so many terms are computed: PEFT has 5. */
#define ROTATIONS_MOST_TERMS 1024

/* What both trainers add to a norm. */
#define ROTATIONS_TINY 1e-8

LORA_PRIVATE int lora__rotations_are_kohyas(const lora_adapter *adapter,
                                            const lora__module *module)
{
    const char *trainer =
        lora__container_metadata(adapter->container, "ss_network_module");

    return strcmp(lora__dialect_id(module->dialect), "kohya-oft") == 0 ||
           lora__kind_count_of(module, LORA__ROLE_OFT_BLOCKS) > 1 ||
           (trainer != NULL && (strcmp(trainer, "networks.oft") == 0 ||
                                strcmp(trainer, "networks.oft_flux") == 0));
}

/* Whose norm is limited, and how. */
typedef enum rotations_limit {
    ROTATIONS_FREE,
    ROTATIONS_ALL_KOHYA, /* that of all blocks of a piece together */
    ROTATIONS_ALL_LYCORIS,
    ROTATIONS_EACH
} rotations_limit;

/* How blocks become rotations. */
typedef struct rotations_rule {
    const lora__rotations *r;
    double by;   /* what B - B^T, or the triangle, is multiplied by */
    size_t last; /* power of the series; 0: Cayley's transform */
    double end;  /* what that power is multiplied by; the others by 2 */
    rotations_limit limit;
    double most; /* the norm */
} rotations_rule;

/* Of a series of PEFT before 0.18 all terms count twice. Since then the last
 * one does not, as many are taken where 3 are asked for as for 4, and 2 as
 * before.
 */
static lora_status rotations_rule_peft(rotations_rule *out,
                                       const lora__module *module,
                                       const lora__peft_oft *peft,
                                       lora_error *error)
{
    INVARIANT(peft != NULL, error);
    out->limit = peft->limited ? ROTATIONS_EACH : ROTATIONS_FREE;
    out->most = peft->eps / sqrt((double)out->r->count);
    out->by = 1.0;
    if (!peft->series) {
        return LORA_OK;
    }
    if (!(peft->terms <= ROTATIONS_MOST_TERMS)) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET, module->name,
                          "more than %d num_cayley_neumann_terms",
                          ROTATIONS_MOST_TERMS);
    }
    out->by = peft->terms < 2.0 ? 0.0 : -1.0; /* nothing, of 1 */
    out->last = peft->terms < 3.0 ? 1 : (size_t)peft->terms - 1;
    out->end = 2.0;
    if (peft->version >= 18 && out->last > 1) {
        out->last = out->last < 3 ? 3 : out->last;
        out->end = 1.0;
    }
    return LORA_OK;
}

static void rotations_rule_rows(rotations_rule *out,
                                const lora_adapter *adapter,
                                const lora__module *module)
{
    out->by = out->r->entry->ndim == 4 ? 1.0 : -1.0;
    out->most = module->has_alpha ? module->alpha : 0.0;
    out->most *= (double)(out->r->count * out->r->side);
    out->limit = lora__rotations_are_kohyas(adapter, module)
                     ? ROTATIONS_ALL_KOHYA
                 : out->most > 0.0 ? ROTATIONS_ALL_LYCORIS
                                   : ROTATIONS_FREE;
}

/* What skew matrices of a norm are multiplied by. A norm that is not finite is
 * passed on: 0 in its place would be a number. */
static double rotations_factor(const rotations_rule *rule, double norm)
{
    double least = norm < rule->most ? norm : rule->most;

    if (norm - norm != 0.0) {
        return norm;
    }
    switch (rule->limit) {
    case ROTATIONS_ALL_KOHYA:
        return (least + ROTATIONS_TINY) / (norm + ROTATIONS_TINY);
    case ROTATIONS_ALL_LYCORIS:
        norm += ROTATIONS_TINY;
        return norm > rule->most ? rule->most / norm : 1.0;
    case ROTATIONS_EACH:
        return norm > rule->most ? rule->most / norm : 1.0;
    default:
        return 1.0;
    }
}

/* An element of the triangle above a diagonal, or below it, with the sign. */
static double rotations_triangle(const lora__rows *state,
                                 const rotations_rule *rule,
                                 size_t block,
                                 size_t i,
                                 size_t j)
{
    const void *raw = state->blocks[LORA__BLOCK_ROTATIONS_RAW];
    size_t side = rule->r->side;
    size_t row = i < j ? i : j;
    size_t col = i < j ? j : i;
    size_t at = block * (side * (side - 1) / 2) +
                row * (2 * side - row - 1) / 2 + col - row - 1;

    return i == j  ? 0.0
           : i < j ? rule->by * lora__rows_get(state, raw, at)
                   : -rule->by * lora__rows_get(state, raw, at);
}

/* An element of B - B^T. Of what is interleaved one half comes after the other.
 */
static double rotations_square(const lora__rows *state,
                               const rotations_rule *rule,
                               size_t block,
                               size_t i,
                               size_t j)
{
    const void *raw = state->blocks[LORA__BLOCK_ROTATIONS_RAW];
    size_t side = rule->r->side;
    size_t half = side / 2;
    size_t begin = block * side * side;

    if (rule->r->role == LORA__ROLE_OFT_BLOCKS && rule->r->entry->ndim == 4) {
        i = i % half * 2 + i / half;
        j = j % half * 2 + j / half;
    }
    return rule->by * (lora__rows_get(state, raw, begin + i * side + j) -
                       lora__rows_get(state, raw, begin + j * side + i));
}

/* One skew matrix, and the sum of its squares. */
static double rotations_skew(double *out,
                             const lora__rows *state,
                             const rotations_rule *rule,
                             size_t block)
{
    size_t side = rule->r->side;
    double squares = 0.0;

    for (size_t i = 0; i < side; i++) {
        for (size_t j = 0; j < side; j++) {
            double value = rule->r->role == LORA__ROLE_OFT_R
                               ? rotations_triangle(state, rule, block, i, j)
                               : rotations_square(state, rule, block, i, j);
            out[i * side + j] = value;
            squares = fma(value, value, squares);
        }
    }
    return squares;
}

/* R^T - I, of R as it is stored. */
static void rotations_stored(double *out,
                             const lora__rows *state,
                             size_t side,
                             size_t block)
{
    const void *raw = state->blocks[LORA__BLOCK_ROTATIONS_RAW];

    for (size_t i = 0; i < side; i++) {
        for (size_t j = 0; j < side; j++) {
            out[i * side + j] =
                lora__rows_get(state, raw, (block * side + j) * side + i) -
                (i == j ? 1.0 : 0.0);
        }
    }
}

/* The rotation of a block less the identity, into the first of scratch[4 b, b].
 * `factor` is that of all blocks. */
static lora_status rotations_turn(double *scratch,
                                  const lora__rows *state,
                                  const rotations_rule *rule,
                                  size_t block,
                                  double factor,
                                  lora_error *error)
{
    size_t side = rule->r->side;
    double *skew = scratch + side * side;
    double *work = skew + side * side;
    double squares;

    if (rule->r->role == LORA__ROLE_OFT_DIAG) {
        rotations_stored(scratch, state, side, block);
        return LORA_OK;
    }
    squares = rotations_skew(skew, state, rule, block);
    if (rule->limit == ROTATIONS_EACH) {
        factor = rotations_factor(rule, sqrt(squares));
    }
    state->kernels->scale_f64(skew, factor, side * side);
    return rule->last != 0
               ? lora__cayley_series(scratch, work, skew, side, rule->last,
                                     rule->end, state->context, error)
               : lora__cayley(scratch, work, skew, side, state->context, error);
}

/* The rotations of a piece, from number `at` of theirs. */
static lora_status rotations_all(lora__rows *state,
                                 const lora__module *module,
                                 const rotations_rule *rule,
                                 size_t at,
                                 double *scratch,
                                 lora_error *error)
{
    size_t square = rule->r->side * rule->r->side;
    size_t count = rule->r->stages * rule->r->count;
    double strength = rule->r->inputs ? 1.0 : state->multiplier;
    double squares = 0.0;
    double factor = 1.0;

    if (rule->limit == ROTATIONS_ALL_KOHYA ||
        rule->limit == ROTATIONS_ALL_LYCORIS) {
        for (size_t n = 0; n < count; n++) {
            squares += rotations_skew(scratch, state, rule, n);
        }
        factor = rotations_factor(rule, sqrt(squares));
    }
    for (size_t n = 0; n < count; n++) {
        double sum = 0.0;
        TRY(rotations_turn(scratch, state, rule, n, factor, error));
        for (size_t i = 0; i < square; i++) {
            sum += scratch[i] - scratch[i]; /* 0, or NaN */
            lora__rows_set(state, state->blocks[LORA__BLOCK_ROTATIONS],
                           at + n * square + i, strength * scratch[i]);
        }
        if (sum != 0.0) {
            return lora__fail(
                error, LORA_ERROR_NONFINITE, rule->r->entry->offset,
                module->name, "block %llu of %s gives no finite rotation",
                (unsigned long long)n, lora__role_name(rule->r->role));
        }
    }
    return LORA_OK;
}

static lora_status rotations_rule_make(rotations_rule *out,
                                       const lora_adapter *adapter,
                                       const lora__module *module,
                                       const lora__rotations *r,
                                       lora_error *error)
{
    const rotations_rule pefts_boft = {r, 0.5, 0, 0.0, ROTATIONS_FREE, 0.0};

    *out = pefts_boft;
    if (r->role == LORA__ROLE_OFT_R) {
        return rotations_rule_peft(
            out, module, lora__config_oft(adapter->config, module->target),
            error);
    }
    if (r->role == LORA__ROLE_OFT_BLOCKS) {
        rotations_rule_rows(out, adapter, module);
    }
    return LORA_OK;
}

static lora_status rotations_load_piece(lora__rows *state,
                                        const lora_adapter *adapter,
                                        const lora__module *module,
                                        const lora__rotations *r,
                                        size_t at,
                                        lora_error *error)
{
    const size_t entry = (size_t)(r->entry - adapter->container->entries);
    rotations_rule rule;
    lora__block scratch;
    lora_status status;

    TRY(rotations_rule_make(&rule, adapter, module, r, error));
    TRY(lora__rows_load(state, LORA__BLOCK_ROTATIONS_RAW, adapter, entry,
                        error));
    TRY(lora__block_create(&scratch, 4 * r->side, r->side, state->context,
                           error));
    status = rotations_all(state, module, &rule, at, scratch.at, error);
    lora__block_destroy(&scratch, state->context);
    lora__rows_drop(state, LORA__BLOCK_ROTATIONS_RAW);
    return status;
}

LORA_PRIVATE lora_status lora__rotations_load(lora__rows *state,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              const lora__rotations *pieces,
                                              size_t piece_count,
                                              lora_error *error)
{
    size_t begins[LORA__MAX_GRAINS];
    size_t count = 0;

    INVARIANT(piece_count <= LORA__MAX_GRAINS, error);
    for (size_t i = 0; i < piece_count; i++) {
        const lora__rotations *r = &pieces[i];
        size_t numbers;
        begins[i] = count;
        if (!lora__mul_size(r->side, r->side, &numbers) ||
            !lora__mul_size(numbers, r->stages * r->count, &numbers) ||
            !lora__add_size(count, numbers, &count)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    TRY(lora__rows_block(state, LORA__BLOCK_ROTATIONS, count, error));
    for (size_t i = 0; i < piece_count; i++) {
        TRY(rotations_load_piece(state, adapter, module, &pieces[i], begins[i],
                                 error));
    }
    return LORA_OK;
}
