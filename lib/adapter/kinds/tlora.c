/* T-LoRA: dW = s * (P diag(l) Q - P0 diag(l0) Q0), where the start P0, l0, Q0
 * is the truncated SVD of the base weight and not stored.
 *
 * The start that is not stored is taken for that of the largest singular
 * values, which is what the trainer does unless told otherwise; files that say
 * so are refused, and weights whose values do not tell where to cut. So are
 * convolutions of k x k, of which the trainer's own programs disagree. All
 * ranks are active. Source: formats.md 5.16b.
 *
 * As one product of twice the rank: [P diag(l), -U] [Q; V] with the start U V.
 */
#include "adapter/kinds/common.h"
#include "format/json.h"
#include "linalg/dense.h"

#include <string.h>

/* Of the trainer's arguments, so much is read. */
#define TLORA_ARGUMENT_BYTES 65536

/* Values closer than this share of the largest one are not told apart by a
 * decomposition in f32, which is the trainer's. */
#define TLORA_GAP 1e-6

static int tlora_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_TLORA_LAMBDA) ||
                   kind_has(module, LORA__ROLE_TLORA_P)
               ? 20
               : 0;
}

static int tlora_kind_text_is(const lora__json_event *event, const char *text)
{
    return event->bytes == strlen(text) &&
           memcmp(event->text, text, event->bytes) == 0;
}

/* 0 if the trainer's arguments, in the metadata, name another start than the
 * largest singular values of the base. They are texts, whatever they mean. */
static int tlora_kind_is_principal(const lora_adapter *adapter)
{
    const char *text =
        lora__container_metadata(adapter->container, "ss_network_args");
    size_t bytes = text == NULL ? 0 : strlen(text);
    lora__json json;
    lora__json_event event;
    int principal = 1;

    if (bytes == 0 || bytes > TLORA_ARGUMENT_BYTES) {
        return 1;
    }
    lora__json_init(&json, text, bytes, 0, 8);
    if (lora__json_next(&event, &json, NULL) != LORA_OK ||
        event.type != LORA__JSON_OBJECT_BEGIN) {
        return 1;
    }
    while (lora__json_next(&event, &json, NULL) == LORA_OK &&
           event.type == LORA__JSON_KEY) {
        int type = tlora_kind_text_is(&event, "sig_type");
        int data = tlora_kind_text_is(&event, "use_data_init");
        if (lora__json_next(&event, &json, NULL) != LORA_OK) {
            break;
        }
        if (type && event.type == LORA__JSON_STRING) {
            principal &= tlora_kind_text_is(&event, "principal");
        }
        if (data) {
            principal &= event.type != LORA__JSON_FALSE &&
                         !tlora_kind_text_is(&event, "False") &&
                         !tlora_kind_text_is(&event, "false");
        }
        if (lora__json_skip(&json, &event, NULL) != LORA_OK) {
            break;
        }
    }
    return principal;
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
    module->needs = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, q->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of p and q", p->shape[1],
                         q->shape[0]));
    TRY(lora__kind_agree(opening, module, "ranks of lambda and q",
                         (int64_t)lambda->elements, q->shape[0]));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_TLORA_P));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_TLORA_Q));
    TRY(lora__kind_vector(opening, module, LORA__ROLE_TLORA_LAMBDA));
    TRY(lora__kind_set_shape(opening, module, p->shape[0], q->shape[1], q));
    if (module->rank > p->shape[0] || module->rank > q->shape[1]) {
        return lora__module_reject(
            opening, module, LORA_ERROR_SHAPE, "rank_mismatch",
            "rank %lld is more than a %lld x %lld weight has",
            (long long)module->rank, (long long)p->shape[0],
            (long long)q->shape[1]);
    }
    if (!tlora_kind_is_principal(opening->adapter)) {
        return lora__module_reject(
            opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
            "it was trained from another start than the largest singular "
            "values of the base, which is not stored");
    }
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    return lora__module_resolve_scale(opening, module);
}

/* ---- numbers ----------------------------------------------------------- */

/* UP and DOWN are the product that rows are of. */
enum {
    TLORA_BLOCK_UP,
    TLORA_BLOCK_DOWN,
    TLORA_BLOCK_P,
    TLORA_BLOCK_Q,
    TLORA_BLOCK_LAMBDA
};

/* The start's halves: up_t [rank, rows], down [rank, cols]. */
static lora_status tlora_kind_cut(double *up_t,
                                  double *down,
                                  const lora__rows *state,
                                  const lora__module *module,
                                  const float *weight,
                                  lora_error *error)
{
    const size_t rank = (size_t)module->rank;
    lora__dense_input input = {0};
    lora__dense_goal goal = {0};
    lora__dense dense;
    lora_status status;

    input.rows = state->rows;
    input.cols = state->cols;
    input.values = weight;
    goal.rank = rank + 1;
    goal.exact = 1;
    memset(&dense, 0, sizeof dense);
    TRY_OR_DONE(
        lora__dense_create(&dense, state->context, &input, &goal, error));
    if (dense.count > rank && dense.sigma[rank - 1] > 0.0 &&
        dense.sigma[rank - 1] - dense.sigma[rank] <=
            TLORA_GAP * dense.sigma[0]) {
        status = lora__fail(
            error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
            "the base weight's singular values %llu and %llu "
            "are the same: what it was trained from cannot be "
            "known",
            (unsigned long long)rank, (unsigned long long)rank + 1);
        goto done;
    }
    status =
        lora__dense_truncate(up_t, down, &dense, rank, state->context, error);
done:
    lora__dense_destroy(&dense, state->context);
    return status;
}

/* [P diag(l), -U] and [Q; V] */
static void tlora_kind_join(lora__rows *state,
                            size_t rank,
                            const double *up_t,
                            const double *down)
{
    void *up = state->blocks[TLORA_BLOCK_UP];
    void *out = state->blocks[TLORA_BLOCK_DOWN];

    for (size_t i = 0; i < state->rows; i++) {
        for (size_t r = 0; r < rank; r++) {
            double p = lora__rows_get(state, state->blocks[TLORA_BLOCK_P],
                                      i * rank + r);
            double l =
                lora__rows_get(state, state->blocks[TLORA_BLOCK_LAMBDA], r);
            lora__rows_set(state, up, 2 * i * rank + r, p * l);
            lora__rows_set(state, up, (2 * i + 1) * rank + r,
                           -up_t[r * state->rows + i]);
        }
    }
    memcpy(out, state->blocks[TLORA_BLOCK_Q],
           rank * state->cols * lora__rows_size(state));
    for (size_t i = 0; i < rank * state->cols; i++) {
        lora__rows_set(state, out, rank * state->cols + i, down[i]);
    }
}

/* The decomposition takes F32, which is what bases are stored in at most. */
static lora_status tlora_kind_start(lora__rows *state,
                                    const lora__module *module,
                                    lora__block halves[2],
                                    lora_error *error)
{
    size_t count = state->rows * state->cols;
    size_t bytes = count * sizeof(float);
    float *weight = lora__alloc(state->context, bytes, LORA__ALIGN_NUMERIC);
    lora_status status;

    if (weight == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(lora__block_create(&halves[0], (size_t)module->rank,
                                   state->rows, state->context, error));
    TRY_OR_DONE(lora__block_create(&halves[1], (size_t)module->rank,
                                   state->cols, state->context, error));
    TRY_OR_DONE(state->base->read(weight, LORA_DTYPE_F32, state->base, 0,
                                  state->rows, error));
    status = tlora_kind_cut(halves[0].at, halves[1].at, state, module, weight,
                            error);
done:
    lora__free(state->context, weight, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

static lora_status tlora_kind_prepare(lora__rows *state,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora_error *error)
{
    static const lora__role roles[] = {LORA__ROLE_TLORA_P, LORA__ROLE_TLORA_Q,
                                       LORA__ROLE_TLORA_LAMBDA};
    const size_t rank = (size_t)module->rank;
    lora__block halves[2] = {{NULL, 0}, {NULL, 0}};
    lora_status status = LORA_OK;

    state->rank = 2 * rank;
    state->multiplier *= module->scale;
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        TRY(lora__rows_load(state, TLORA_BLOCK_P + i, adapter,
                            lora__module_find(module, roles[i])->entry, error));
    }
    TRY(lora__rows_block(state, TLORA_BLOCK_UP, state->rows * state->rank,
                         error));
    TRY(lora__rows_block(state, TLORA_BLOCK_DOWN, state->cols * state->rank,
                         error));
    TRY_OR_DONE(tlora_kind_start(state, module, halves, error));
    tlora_kind_join(state, rank, halves[0].at, halves[1].at);
    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        lora__rows_drop(state, TLORA_BLOCK_P + i);
    }
done:
    lora__block_destroy(&halves[0], state->context);
    lora__block_destroy(&halves[1], state->context);
    return status;
}

static void tlora_kind_rows(const lora__rows *state,
                            const lora__module *module,
                            size_t begin,
                            size_t end,
                            void *out)
{
    (void)module;
    lora__kind_rows_product(state, TLORA_BLOCK_UP, TLORA_BLOCK_DOWN, begin, end,
                            out);
}

static lora_status tlora_kind_based_factors(lora__factors *out,
                                            lora__rows *state,
                                            const lora__module *module,
                                            lora_error *error)
{
    (void)module;
    return lora__kind_take_factors(out, state, TLORA_BLOCK_UP, TLORA_BLOCK_DOWN,
                                   error);
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
    .prepare = tlora_kind_prepare,
    .rows = tlora_kind_rows,
    .based_factors = tlora_kind_based_factors,
};
