/* LoHa: the elementwise product of two changes of low rank.
 *
 *   linear       dW[out, in] = s * (w1_a w1_b) o (w2_a w2_b)
 *   convolution  the same, w1_b and w2_b [r, in * K]
 *   cores        M1[p, q, x] = sum_ij t1[i, j, x] w1_a[i, p] w1_b[j, q], M2 in
 *                the same way, dW = s * M1 o M2
 *
 * With cores, [r, r, k...], the a-factors are stored transposed, [r, out]. The
 * rank, by which alpha is divided, is the first dimension of w1_b in both
 * layouts. Source: formats.md 5.5 and 5.6.
 */
#include "adapter/kinds/common.h"
#include "core/integer.h"

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
    lora__kind_unfold(module);
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    return lora__module_resolve_scale(opening, module);
}

/* ---- numbers ----------------------------------------------------------- */

/* The factors of both products: a [rows, rank], b [rank, cols]. */
enum { LOHA_BLOCK_A1, LOHA_BLOCK_B1, LOHA_BLOCK_A2, LOHA_BLOCK_B2 };

/* The ranks of both products, of the state's sizes. */
enum { LOHA_RANK1, LOHA_RANK2 };

/* One product: its a and b, and its core. */
static lora_status loha_kind_load(lora__rows *state,
                                  size_t product,
                                  const lora_adapter *adapter,
                                  const lora__module *module,
                                  lora_error *error)
{
    static const lora__role roles[2][3] = {
        {LORA__ROLE_HADA_W1_A, LORA__ROLE_HADA_W1_B, LORA__ROLE_HADA_T1},
        {LORA__ROLE_HADA_W2_A, LORA__ROLE_HADA_W2_B, LORA__ROLE_HADA_T2}};
    const lora__member *a = lora__module_find(module, roles[product][0]);
    const lora__member *b = lora__module_find(module, roles[product][1]);
    const lora__member *core = lora__module_find(module, roles[product][2]);
    size_t a_block = LOHA_BLOCK_A1 + 2 * product;
    size_t b_block = LOHA_BLOCK_B1 + 2 * product;

    state->sizes[LOHA_RANK1 + product] =
        (size_t)adapter->container->entries[b->entry].shape[0];
    if (core != NULL) {
        TRY(lora__rows_load_turned(state, a_block, adapter, a->entry, error));
        return lora__kind_load_cored(state, b_block, adapter, core, b, error);
    }
    TRY(lora__rows_load(state, a_block, adapter, a->entry, error));
    return lora__rows_load(state, b_block, adapter, b->entry, error);
}

static lora_status loha_kind_prepare(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    state->multiplier *= module->scale;
    TRY(loha_kind_load(state, 0, adapter, module, error));
    return loha_kind_load(state, 1, adapter, module, error);
}

/* Rows that are computed at once, and columns: a tile of the second product
 * lies on the stack. */
enum { LOHA_TILE_ROWS = 32, LOHA_TILE_COLS = 144 };

/* out[m, n] = (a b)[i.., j..], of one of the products. */
static void loha_kind_tile(const lora__rows *state,
                           size_t product,
                           size_t i,
                           size_t j,
                           size_t m,
                           size_t n,
                           void *out,
                           size_t ldo)
{
    size_t size = lora__rows_size(state);
    size_t rank = state->sizes[LOHA_RANK1 + product];
    const unsigned char *a = state->blocks[LOHA_BLOCK_A1 + 2 * product];
    const unsigned char *b = state->blocks[LOHA_BLOCK_B1 + 2 * product];

    lora__kind_gemm(state, out, ldo, a + i * rank * size, rank, b + j * size,
                    state->cols, m, n, rank);
}

/* out[0, count) *= by[0, count) */
static void loha_kind_multiply(const lora__rows *state,
                               void *out,
                               const void *by,
                               size_t count)
{
    if (state->dtype == LORA_DTYPE_F64) {
        for (size_t i = 0; i < count; i++) {
            ((double *)out)[i] *= ((const double *)by)[i];
        }
    } else {
        for (size_t i = 0; i < count; i++) {
            ((float *)out)[i] *= ((const float *)by)[i];
        }
    }
}

/* An element is rounded as each of the two products is, once where they are
 * multiplied, and once by the scale. */
static void loha_kind_rows(const lora__rows *state,
                           const lora__module *module,
                           size_t begin,
                           size_t end,
                           void *out)
{
    size_t size = lora__rows_size(state);
    size_t step = state->cols * size;
    double tile[LOHA_TILE_ROWS * LOHA_TILE_COLS];

    (void)module;
    for (size_t i = begin; i < end; i += LOHA_TILE_ROWS) {
        size_t m = end - i < LOHA_TILE_ROWS ? end - i : LOHA_TILE_ROWS;
        unsigned char *rows = (unsigned char *)out + (i - begin) * step;
        for (size_t j = 0; j < state->cols; j += LOHA_TILE_COLS) {
            size_t left = state->cols - j;
            size_t n = left < LOHA_TILE_COLS ? left : LOHA_TILE_COLS;
            loha_kind_tile(state, 0, i, j, m, n, rows + j * size, state->cols);
            loha_kind_tile(state, 1, i, j, m, n, tile, LOHA_TILE_COLS);
            for (size_t k = 0; k < m; k++) {
                loha_kind_multiply(
                    state, rows + k * step + j * size,
                    (const unsigned char *)tile + k * LOHA_TILE_COLS * size, n);
            }
        }
    }
    lora__rows_scale(state, out, (end - begin) * state->cols);
}

/* ---- factors ----------------------------------------------------------- */

/* Each pair of terms of the products is a term of the change, unless its own
 * rows or columns are fewer. */
static size_t loha_kind_factor_rank(const lora_adapter *adapter,
                                    const lora__module *module)
{
    const lora__entry *one =
        lora__module_entry(adapter, module, LORA__ROLE_HADA_W1_B);
    const lora__entry *two =
        lora__module_entry(adapter, module, LORA__ROLE_HADA_W2_B);
    uint64_t most = lora__shape_count(module->shape, 1, module->ndim);
    uint64_t rank;

    most =
        most < (uint64_t)module->shape[0] ? most : (uint64_t)module->shape[0];
    return lora__mul_u64((uint64_t)one->shape[0], (uint64_t)two->shape[0],
                         &rank) &&
                   rank < most
               ? (size_t)rank
               : (size_t)most;
}

/* out[(k * rank2 + l), i] = a[k, i] b[l, i], of both factors transposed. */
static void loha_kind_pairs(double *out,
                            const double *a,
                            const double *b,
                            const size_t ranks[2],
                            size_t length)
{
    for (size_t k = 0; k < ranks[0]; k++) {
        for (size_t l = 0; l < ranks[1]; l++) {
            for (size_t i = 0; i < length; i++) {
                out[i] = a[k * length + i] * b[l * length + i];
            }
            out += length;
        }
    }
}

/* (sum_k a_k b_k^T) o (sum_l c_l d_l^T) = sum_kl (a_k o c_l) (b_k o d_l)^T */
static lora_status
loha_kind_take_pairs(lora__factors *out, lora__rows *state, lora_error *error)
{
    const size_t *ranks = state->sizes;

    TRY(lora__factors_alloc(out, state->context, state->rows, state->cols,
                            ranks[0] * ranks[1], error));
    out->scale = state->multiplier;
    for (size_t i = 0; i < 2; i++) {
        TRY(lora__rows_block(state, LORA__BLOCK_SPARE + i,
                             state->rows * ranks[i], error));
        lora__rows_transpose(state, state->blocks[LORA__BLOCK_SPARE + i],
                             state->blocks[LOHA_BLOCK_A1 + 2 * i], state->rows,
                             ranks[i]);
    }
    loha_kind_pairs(out->up_t, state->blocks[LORA__BLOCK_SPARE],
                    state->blocks[LORA__BLOCK_SPARE + 1], ranks, state->rows);
    loha_kind_pairs(out->down, state->blocks[LOHA_BLOCK_B1],
                    state->blocks[LOHA_BLOCK_B2], ranks, state->cols);
    return LORA_OK;
}

/* Where the pairs are more than the rows or columns, the change itself. */
static lora_status loha_kind_take_whole(lora__factors *out,
                                        lora__rows *state,
                                        const lora__module *module,
                                        lora_error *error)
{
    double scale = state->multiplier;
    size_t count;

    if (!lora__mul_size(state->rows, state->cols, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, LORA__BLOCK_SPARE, count, error));
    state->multiplier = 1.0;
    loha_kind_rows(state, module, 0, state->rows,
                   state->blocks[LORA__BLOCK_SPARE]);
    TRY(lora__kind_whole_factors(out, state, state->blocks[LORA__BLOCK_SPARE],
                                 state->rows, state->cols, error));
    out->scale = scale;
    return LORA_OK;
}

static lora_status loha_kind_factors(lora__factors *out,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    lora__rows state;
    size_t rank;
    lora_status status;

    TRY(lora__rows_create_factors(&state, adapter, module, error));
    status = lora__mul_size(state.sizes[LOHA_RANK1], state.sizes[LOHA_RANK2],
                            &rank) &&
                     rank == loha_kind_factor_rank(adapter, module)
                 ? loha_kind_take_pairs(out, &state, error)
                 : loha_kind_take_whole(out, &state, module, error);
    lora__rows_destroy(&state);
    if (status != LORA_OK) {
        lora__factors_destroy(out);
    }
    return status;
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
    .factor_rank = loha_kind_factor_rank,
    .factors = loha_kind_factors,
    .prepare = loha_kind_prepare,
    .rows = loha_kind_rows,
    .chain = lora__chain_loha,
    .extent = loha_kind_extent,
};
