/* LoKr: the Kronecker product of two matrices, each whole or a product itself.
 *
 *   dW[a * o2 + b, (c * i2 + d) * K + x] = s * w1[a, c] * w2[b, d, x]
 *
 *   w1  lokr_w1 [o1, i1], or w1_a [o1, r] w1_b [r, i1]
 *   w2  lokr_w2 [o2, i2, k...], or w2_a [o2, r] w2_b [r, i2 * K], or with a
 *       core t2 [r, r, k...], where w2_a is stored transposed, [r, o2]:
 *       w2[p, q, x] = sum_ij t2[i, j, x] w2_a[i, p] w2_b[j, q]
 *
 * The rank, by which alpha is divided, is the first dimension of w2_b, else of
 * w1_b; with both whole there is none, the scale is 1 and alpha, which trainers
 * then store without meaning it, is ignored; but PEFT divides its alpha by its
 * r. Source: formats.md 5.6 and 5.7.
 */
#include "adapter/kinds/common.h"
#include "format/sort.h"
#include "linalg/factored.h"

#include <string.h>

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
    module->dtype = lora__module_entry(opening->adapter, module,
                                       kind_has(module, LORA__ROLE_LOKR_W1)
                                           ? LORA__ROLE_LOKR_W1
                                           : LORA__ROLE_LOKR_W1_B)
                        ->dtype;
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
    lora__kind_unfold(module);
    TRY(lora__kind_check_bias(opening, module, LORA__ROLE_DIFF_BIAS));
    TRY(lora__kind_check_dora(opening, module));
    if (rank == 0) {
        return lora__module_resolve_scale_whole(opening, module);
    }
    TRY(lora__kind_set_rank(opening, module, rank));
    return lora__module_resolve_scale(opening, module);
}

/* ---- numbers ----------------------------------------------------------- */

/* Both factors of the product, whole: w1 [o1, i1], w2 [o2, i2 * K]; and what
 * is multiplied to get one. */
enum { LOKR_BLOCK_W1, LOKR_BLOCK_W2, LOKR_BLOCK_A, LOKR_BLOCK_B };

/* Rows and columns of w2, of the state's sizes. */
enum { LOKR_ROWS2, LOKR_COLS2 };

/* One factor from its pair. */
static lora_status lokr_kind_multiply(lora__rows *state,
                                      size_t block,
                                      const lora_adapter *adapter,
                                      const lora__member *a,
                                      const lora__member *b,
                                      const lora__member *core,
                                      lora_error *error)
{
    const lora__entry *inner = &adapter->container->entries[b->entry];
    const lora__entry *outer = &adapter->container->entries[a->entry];
    size_t rank = (size_t)inner->shape[0];
    size_t rows = (size_t)outer->elements / rank;
    size_t cols = (size_t)inner->elements / rank;
    size_t count;

    if (core != NULL) {
        const lora__entry *entry = &adapter->container->entries[core->entry];
        cols *= (size_t)lora__kind_product(entry, 2);
        TRY(lora__rows_load_turned(state, LOKR_BLOCK_A, adapter, a->entry,
                                   error));
        TRY(lora__kind_load_cored(state, LOKR_BLOCK_B, adapter, core, b,
                                  error));
    } else {
        TRY(lora__rows_load(state, LOKR_BLOCK_A, adapter, a->entry, error));
        TRY(lora__rows_load(state, LOKR_BLOCK_B, adapter, b->entry, error));
    }
    if (!lora__mul_size(rows, cols, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, block, count, error));
    lora__kind_gemm(state, state->blocks[block], cols,
                    state->blocks[LOKR_BLOCK_A], rank,
                    state->blocks[LOKR_BLOCK_B], cols, rows, cols, rank);
    lora__rows_drop(state, LOKR_BLOCK_A);
    lora__rows_drop(state, LOKR_BLOCK_B);
    return LORA_OK;
}

/* One factor, of the roles that begin with that of the whole one. */
static lora_status lokr_kind_load(lora__rows *state,
                                  size_t block,
                                  const lora_adapter *adapter,
                                  const lora__module *module,
                                  lora__role full_role,
                                  lora_error *error)
{
    const lora__member *full = lora__module_find(module, full_role);
    const lora__member *core =
        full_role == LORA__ROLE_LOKR_W2
            ? lora__module_find(module, LORA__ROLE_LOKR_T2)
            : NULL;

    return full != NULL
               ? lora__rows_load(state, block, adapter, full->entry, error)
               : lokr_kind_multiply(
                     state, block, adapter,
                     lora__module_find(module, (lora__role)(full_role + 1)),
                     lora__module_find(module, (lora__role)(full_role + 2)),
                     core, error);
}

/* Rows of w1, the dimension that is not transposed by a core. */
static size_t lokr_kind_rows1(const lora_adapter *adapter,
                              const lora__module *module)
{
    lora__role role = kind_has(module, LORA__ROLE_LOKR_W1)
                          ? LORA__ROLE_LOKR_W1
                          : LORA__ROLE_LOKR_W1_A;

    return (size_t)lora__module_entry(adapter, module, role)->shape[0];
}

static lora_status lokr_kind_prepare(lora__rows *state,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    size_t size = lora__rows_size(state);

    state->multiplier *= module->scale;
    TRY(lokr_kind_load(state, LOKR_BLOCK_W1, adapter, module,
                       LORA__ROLE_LOKR_W1, error));
    TRY(lokr_kind_load(state, LOKR_BLOCK_W2, adapter, module,
                       LORA__ROLE_LOKR_W2, error));
    state->sizes[LOKR_ROWS2] = state->rows / lokr_kind_rows1(adapter, module);
    state->sizes[LOKR_COLS2] =
        state->block_bytes[LOKR_BLOCK_W2] / size / state->sizes[LOKR_ROWS2];
    return LORA_OK;
}

/* An element is rounded as each factor is, once where they are multiplied, and
 * once by the scale. */
static void lokr_kind_rows(const lora__rows *state,
                           const lora__module *module,
                           size_t begin,
                           size_t end,
                           void *out)
{
    size_t rows2 = state->sizes[LOKR_ROWS2];
    size_t cols2 = state->sizes[LOKR_COLS2];
    size_t cols1 = state->cols / cols2;
    size_t step = cols2 * lora__rows_size(state);
    const unsigned char *w2 = state->blocks[LOKR_BLOCK_W2];
    unsigned char *row = out;

    (void)module;
    memset(out, 0, (end - begin) * cols1 * step);
    for (size_t i = begin; i < end; i++) {
        for (size_t c = 0; c < cols1; c++, row += step) {
            lora__rows_axpy(state, row, w2 + i % rows2 * step,
                            state->blocks[LOKR_BLOCK_W1], i / rows2 * cols1 + c,
                            cols2);
        }
    }
    lora__rows_scale(state, out, (end - begin) * state->cols);
}

/* ---- factors ----------------------------------------------------------- */

/* The singular values of the change are the products of those of w1 and w2,
 * and its vectors the Kronecker products of theirs. */

/* Terms of one factor: as many as its pair has, or its shorter side. */
static size_t lokr_kind_side_rank(const lora_adapter *adapter,
                                  const lora__module *module,
                                  lora__role full_role,
                                  size_t rows,
                                  size_t cols)
{
    const lora__entry *b =
        lora__module_entry(adapter, module, (lora__role)(full_role + 2));
    size_t rank = rows < cols ? rows : cols;

    return b != NULL && (uint64_t)b->shape[0] < rank ? (size_t)b->shape[0]
                                                     : rank;
}

/* Rows and columns of w1 and w2. */
typedef struct lokr_kind_sizes {
    size_t rows[2];
    size_t cols[2];
    size_t rank[2];
} lokr_kind_sizes;

static lokr_kind_sizes lokr_kind_sizes_of(const lora_adapter *adapter,
                                          const lora__module *module)
{
    const lora__entry *one =
        lora__module_entry(adapter, module, LORA__ROLE_LOKR_W1);
    lokr_kind_sizes s;
    size_t cols = lora__shape_size(module->shape, 1, module->ndim);

    if (one == NULL) {
        one = lora__module_entry(adapter, module, LORA__ROLE_LOKR_W1_B);
    }
    s.rows[0] = lokr_kind_rows1(adapter, module);
    s.cols[0] = (size_t)one->shape[1];
    s.rows[1] = (size_t)module->shape[0] / s.rows[0];
    s.cols[1] = cols / s.cols[0];
    s.rank[0] = lokr_kind_side_rank(adapter, module, LORA__ROLE_LOKR_W1,
                                    s.rows[0], s.cols[0]);
    s.rank[1] = lokr_kind_side_rank(adapter, module, LORA__ROLE_LOKR_W2,
                                    s.rows[1], s.cols[1]);
    return s;
}

static size_t lokr_kind_factor_rank(const lora_adapter *adapter,
                                    const lora__module *module)
{
    lokr_kind_sizes s = lokr_kind_sizes_of(adapter, module);

    return s.rank[0] * s.rank[1];
}

/* The first `rank` singular values of a block and their vectors, balanced. */
static lora_status lokr_kind_svd(lora__factors *out,
                                 const lora__rows *state,
                                 size_t block,
                                 size_t rows,
                                 size_t cols,
                                 size_t rank,
                                 lora_error *error)
{
    lora_context *context = state->context;
    lora__factors whole;
    lora__svd_input input;
    lora__svd svd;
    void *sigma;
    lora_status status;

    memset(&svd, 0, sizeof svd);
    memset(out, 0, sizeof *out);
    TRY(lora__kind_whole_factors(&whole, state, state->blocks[block], rows,
                                 cols, error));
    input.rows = rows;
    input.cols = cols;
    input.rank = whole.rank;
    input.up_t = whole.up_t;
    input.down = whole.down;
    TRY_OR_DONE(lora__svd_create(&svd, context, &input, error));
    TRY_OR_DONE(lora__factors_alloc(out, context, rows, cols, rank, error));
    TRY_OR_DONE(
        lora__alloc_zeroed(&sigma, context, rank, sizeof *out->sigma, error));
    out->sigma = sigma;
    memcpy(out->sigma, svd.sigma, rank * sizeof *out->sigma);
    status = lora__svd_truncate(out->up_t, out->down, &svd, &input, rank,
                                context, error);
done:
    lora__svd_destroy(&svd, context);
    lora__factors_destroy(&whole);
    if (status != LORA_OK) {
        lora__factors_destroy(out);
    }
    return status;
}

/* A singular value of the change: of w1 the one, of w2 the other. */
typedef struct lokr_kind_value {
    double sigma;
    size_t one;
    size_t two;
} lokr_kind_value;

/* Descending, equal ones in the order of the factors. */
static int lokr_kind_compare(const void *a, const void *b)
{
    const lokr_kind_value *x = a;
    const lokr_kind_value *y = b;

    if (x->sigma != y->sigma) {
        return x->sigma > y->sigma ? -1 : 1;
    }
    if (x->one != y->one) {
        return x->one < y->one ? -1 : 1;
    }
    return x->two < y->two ? -1 : x->two > y->two;
}

static void lokr_kind_list(lokr_kind_value *values,
                           const lora__factors *one,
                           const lora__factors *two)
{
    for (size_t i = 0; i < one->rank; i++) {
        for (size_t j = 0; j < two->rank; j++, values++) {
            values->sigma = one->sigma[i] * two->sigma[j];
            values->one = i;
            values->two = j;
        }
    }
}

/* out[i * two + j] = a[i] b[j] */
static void lokr_kind_kron(
    double *out, const double *a, size_t one, const double *b, size_t two)
{
    for (size_t i = 0; i < one; i++) {
        for (size_t j = 0; j < two; j++) {
            out[i * two + j] = a[i] * b[j];
        }
    }
}

static lora_status lokr_kind_combine(lora__factors *out,
                                     const lora__factors *one,
                                     const lora__factors *two,
                                     lora_error *error)
{
    lora_context *context = one->context;
    size_t rank = one->rank * two->rank;
    lokr_kind_value *values;
    void *memory;
    void *sigma;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, context, rank, sizeof *values, error));
    values = memory;
    lokr_kind_list(values, one, two);
    lora__sort(values, rank, sizeof *values, lokr_kind_compare);
    TRY_OR_DONE(lora__factors_alloc(out, context, one->rows * two->rows,
                                    one->cols * two->cols, rank, error));
    TRY_OR_DONE(
        lora__alloc_zeroed(&sigma, context, rank, sizeof *out->sigma, error));
    out->sigma = sigma;
    for (size_t k = 0; k < rank; k++) {
        const lokr_kind_value *v = &values[k];
        out->sigma[k] = v->sigma;
        lokr_kind_kron(out->up_t + k * out->rows,
                       one->up_t + v->one * one->rows, one->rows,
                       two->up_t + v->two * two->rows, two->rows);
        lokr_kind_kron(out->down + k * out->cols,
                       one->down + v->one * one->cols, one->cols,
                       two->down + v->two * two->cols, two->cols);
    }
done:
    lora__free(context, values, rank * sizeof *values, LORA__ALIGN);
    return status;
}

static lora_status lokr_kind_factors(lora__factors *out,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     lora_error *error)
{
    lokr_kind_sizes s = lokr_kind_sizes_of(adapter, module);
    lora__factors side[2];
    lora__rows state;
    lora_status status;

    memset(side, 0, sizeof side);
    TRY(lora__rows_create_factors(&state, adapter, module, error));
    for (size_t i = 0; i < 2; i++) {
        TRY_OR_DONE(lokr_kind_svd(&side[i], &state, LOKR_BLOCK_W1 + i,
                                  s.rows[i], s.cols[i], s.rank[i], error));
    }
    TRY_OR_DONE(lokr_kind_combine(out, &side[0], &side[1], error));
    out->scale = state.multiplier;
done:
    lora__factors_destroy(&side[0]);
    lora__factors_destroy(&side[1]);
    lora__rows_destroy(&state);
    if (status != LORA_OK) {
        lora__factors_destroy(out);
        lora__error_set_subject(error, module->name);
    }
    return status;
}

/* A row of w1 is as many rows of the change as w2 has. */
static int lokr_kind_extent(lora__extent *out,
                            const lora_adapter *adapter,
                            const lora__module *module,
                            lora__role role)
{
    if (role == LORA__ROLE_LOKR_W1 || role == LORA__ROLE_LOKR_W1_A) {
        out->rows = 0;
        out->grain =
            module->shape[0] / (int64_t)lokr_kind_rows1(adapter, module);
        return 1;
    }
    return role >= LORA__ROLE_LOKR_W1_B && role <= LORA__ROLE_LOKR_T2;
}

LORA_PRIVATE const lora__kind lora__kind_lokr = {
    .id = "lokr",
    .decomposes = 1,
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
    .factor_rank = lokr_kind_factor_rank,
    .factors = lokr_kind_factors,
    .prepare = lokr_kind_prepare,
    .rows = lokr_kind_rows,
    .chain = lora__chain_lokr,
    .extent = lokr_kind_extent,
};
