/* GLoRA: dW = s * (W a1 a2 + b1 b2), of a convolution with the first product
 * over its inputs: sum_i W[o, i, x] (a1 a2)[i, j].
 *
 *   new layout  a1 [in, r]   a2 [r, in]   b1 [out, r]   b2 [r, in, k...]
 *   old layout  a1 [r, in]   a2 [in, r]   b1 [r, in, k...]   b2 [out, r]
 *
 * The shapes tell the layouts apart, but where the weight is square: then r is
 * the smaller of a1's sides. Where those are the same too nothing tells. alpha
 * is raw, with rsLoRA as without: what the file gives when loaded is weaker
 * than what was trained. A trained gate is in a2 and b2, and to be refused
 * besides. Source: formats.md 5.12.
 */
#include "adapter/kinds/common.h"

#include <string.h>

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

/* The module's tensors as one of the layouts has them, the roles being in
 * order of in_up, in_down, up, down; 0 if one is missing. */
typedef enum glora_layout { GLORA_NEW, GLORA_OLD } glora_layout;

static const lora__role glora_roles[2][4] = {
    {LORA__ROLE_GLORA_A1, LORA__ROLE_GLORA_A2, LORA__ROLE_GLORA_B1,
     LORA__ROLE_GLORA_B2},
    {LORA__ROLE_GLORA_A2, LORA__ROLE_GLORA_A1, LORA__ROLE_GLORA_B2,
     LORA__ROLE_GLORA_B1},
};

static glora_factors glora_kind_factors(const lora_adapter *adapter,
                                        const lora__module *module,
                                        glora_layout layout)
{
    const lora__role *roles = glora_roles[layout];
    glora_factors f;

    f.in_up = lora__module_entry(adapter, module, roles[0]);
    f.in_down = lora__module_entry(adapter, module, roles[1]);
    f.up = lora__module_entry(adapter, module, roles[2]);
    f.down = lora__module_entry(adapter, module, roles[3]);
    return f;
}

/* Whether the shapes go together in a layout. */
static int glora_kind_fits(const glora_factors *f)
{
    int64_t rank = f->in_down->shape[0];
    int64_t in = f->in_down->shape[1];

    return f->in_up->shape[0] == in && f->in_up->shape[1] == rank &&
           f->up->shape[1] == rank && f->down->shape[0] == rank &&
           f->down->shape[1] == in;
}

/* Of a module whose tensors are there. What fits neither way is given the
 * layout in which the contracted side is the smaller one, to be refused. */
static glora_layout glora_kind_layout(const lora_adapter *adapter,
                                      const lora__module *module)
{
    glora_factors f = glora_kind_factors(adapter, module, GLORA_NEW);
    glora_factors old = glora_kind_factors(adapter, module, GLORA_OLD);
    int is_new = glora_kind_fits(&f);

    if (is_new != glora_kind_fits(&old)) {
        return is_new ? GLORA_NEW : GLORA_OLD;
    }
    return f.in_up->shape[0] < f.in_up->shape[1] ? GLORA_OLD : GLORA_NEW;
}

/* Both products contract over one rank and end in one input. */
static lora_status glora_kind_check(lora__opening *opening,
                                    lora__module *module,
                                    const glora_factors *f,
                                    const glora_factors *other)
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
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_GLORA_A2));
    if (f->in_up->shape[0] == f->in_up->shape[1] && glora_kind_fits(f) &&
        glora_kind_fits(other)) {
        return lora__module_reject(
            opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
            "a square weight of full rank: whether the layout is the old or "
            "the new one cannot be told");
    }
    return LORA_OK;
}

static lora_status glora_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    glora_layout layout;
    glora_factors f;
    glora_factors other;

    for (int i = 0; i < 4; i++) {
        if (lora__kind_require(opening, module, glora_roles[GLORA_NEW][i], 2) ==
            NULL) {
            return LORA_OK;
        }
    }
    layout = glora_kind_layout(opening->adapter, module);
    f = glora_kind_factors(opening->adapter, module, layout);
    other = glora_kind_factors(opening->adapter, module,
                               layout == GLORA_NEW ? GLORA_OLD : GLORA_NEW);
    module->dtype = f.in_up->dtype;
    module->changes = LORA_PART_WEIGHT;
    module->needs = LORA_PART_WEIGHT;
    TRY(glora_kind_check(opening, module, &f, &other));
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

/* ---- numbers ----------------------------------------------------------- */

/* WORK holds a row's product with in_up [kernel, r], and the first term of the
 * change for one element of the kernel [in].
 *
 * Without a kernel both terms are one product, [W a1, b1] [a2; b2]: BOTH is the
 * right side, WORK some rows of the left one. */
enum {
    GLORA_BLOCK_IN_UP,
    GLORA_BLOCK_IN_DOWN,
    GLORA_BLOCK_UP,
    GLORA_BLOCK_DOWN,
    GLORA_BLOCK_WORK,
    GLORA_BLOCK_BOTH
};

/* Rows of WORK. */
#define GLORA_ROWS ((size_t)64)

static lora_status glora_kind_prepare_plain(lora__rows *state,
                                            lora_error *error)
{
    const size_t numbers = state->rank * state->cols;
    const size_t bytes = numbers * lora__rows_size(state);
    unsigned char *both;
    size_t count;

    if (!lora__mul_size(2 * GLORA_ROWS, state->rank, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, GLORA_BLOCK_WORK, count, error));
    if (!lora__mul_size(numbers, 2, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, GLORA_BLOCK_BOTH, count, error));
    both = state->blocks[GLORA_BLOCK_BOTH];
    memcpy(both, state->blocks[GLORA_BLOCK_IN_DOWN], bytes);
    memcpy(both + bytes, state->blocks[GLORA_BLOCK_DOWN], bytes);
    return LORA_OK;
}

static lora_status glora_kind_prepare(lora__rows *state,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora_error *error)
{
    const lora__role *roles = glora_roles[glora_kind_layout(adapter, module)];

    state->rank = (size_t)module->rank;
    state->multiplier *= module->scale;
    for (size_t i = 0; i < 4; i++) {
        TRY(lora__rows_load(state, i, adapter,
                            lora__module_find(module, roles[i])->entry, error));
    }
    if (state->cols != (size_t)module->shape[1]) {
        return lora__rows_block(state, GLORA_BLOCK_WORK,
                                state->rank + state->cols, error);
    }
    return glora_kind_prepare_plain(state, error);
}

/* (W a1)[i, x, :] into `work`, then its product with a2 into a row, one
 * element of the kernel after the other. */
static void glora_kind_first(const lora__rows *state,
                             size_t in,
                             const void *base,
                             unsigned char *row)
{
    size_t size = lora__rows_size(state);
    size_t kernel = state->cols / in;
    unsigned char *work = state->blocks[GLORA_BLOCK_WORK];
    unsigned char *line = work + state->rank * size;
    const unsigned char *in_up = state->blocks[GLORA_BLOCK_IN_UP];
    const unsigned char *in_down = state->blocks[GLORA_BLOCK_IN_DOWN];

    for (size_t x = 0; x < kernel; x++) {
        memset(work, 0, state->rank * size);
        memset(line, 0, in * size);
        for (size_t i = 0; i < in; i++) {
            lora__rows_axpy(state, work, in_up + i * state->rank * size, base,
                            i * kernel + x, state->rank);
        }
        for (size_t r = 0; r < state->rank; r++) {
            lora__rows_axpy(state, line, in_down + r * in * size, work, r, in);
        }
        for (size_t j = 0; j < in; j++) {
            memcpy(row + (j * kernel + x) * size, line + j * size, size);
        }
    }
}

/* The same of rows without a kernel. */
static void
glora_kind_plain(const lora__rows *state, size_t begin, size_t count, void *out)
{
    const size_t size = lora__rows_size(state);
    const size_t rank = state->rank;
    const size_t cols = state->cols;
    unsigned char *left = state->blocks[GLORA_BLOCK_WORK];
    const unsigned char *up = state->blocks[GLORA_BLOCK_UP];

    lora__kind_gemm(state, left, 2 * rank, lora__rows_base(state, begin), cols,
                    state->blocks[GLORA_BLOCK_IN_UP], rank, count, rank, cols);
    for (size_t i = 0; i < count; i++) {
        memcpy(left + (2 * i + 1) * rank * size, up + (begin + i) * rank * size,
               rank * size);
    }
    lora__kind_gemm(state, out, cols, left, 2 * rank,
                    state->blocks[GLORA_BLOCK_BOTH], cols, count, cols,
                    2 * rank);
    lora__rows_scale(state, out, count * cols);
}

/* s m (W a1 a2 + b1 b2) */
static void glora_kind_rows(const lora__rows *state,
                            const lora__module *module,
                            size_t begin,
                            size_t end,
                            void *out)
{
    size_t step = state->cols * lora__rows_size(state);
    const unsigned char *down = state->blocks[GLORA_BLOCK_DOWN];
    const int plain = state->blocks[GLORA_BLOCK_BOTH] != NULL;
    unsigned char *row = out;

    for (size_t i = begin; plain && i < end; i += GLORA_ROWS) {
        glora_kind_plain(state, i, end - i < GLORA_ROWS ? end - i : GLORA_ROWS,
                         row);
        row += GLORA_ROWS * step;
    }
    for (size_t i = begin; !plain && i < end; i++) {
        glora_kind_first(state, (size_t)module->shape[1],
                         lora__rows_base(state, i), row);
        for (size_t r = 0; r < state->rank; r++) {
            lora__rows_axpy(state, row, down + r * step,
                            state->blocks[GLORA_BLOCK_UP], i * state->rank + r,
                            state->cols);
        }
        lora__rows_scale(state, row, state->cols);
        row += step;
    }
}

/* Row i of W a1, one element of the kernel after the other, and of b1. */
static void
glora_kind_up(lora__factors *out, const lora__rows *state, size_t in, size_t i)
{
    size_t kernel = state->cols / in;
    size_t rank = state->rank;
    double *work = state->blocks[GLORA_BLOCK_WORK];
    const double *in_up = state->blocks[GLORA_BLOCK_IN_UP];
    const double *up = state->blocks[GLORA_BLOCK_UP];
    const void *base = lora__rows_base(state, i);

    for (size_t x = 0; x < kernel; x++) {
        memset(work, 0, rank * sizeof *work);
        for (size_t c = 0; c < in; c++) {
            lora__rows_axpy(state, work, in_up + c * rank, base, c * kernel + x,
                            rank);
        }
        for (size_t r = 0; r < rank; r++) {
            out->up_t[(x * rank + r) * out->rows + i] = work[r];
        }
    }
    for (size_t r = 0; r < rank; r++) {
        out->up_t[(kernel * rank + r) * out->rows + i] = up[i * rank + r];
    }
}

/* [a2; b2], a2 with zeros between its elements for each one of the kernel. */
static void
glora_kind_down(lora__factors *out, const lora__rows *state, size_t in)
{
    size_t kernel = state->cols / in;
    size_t rank = state->rank;
    const double *in_down = state->blocks[GLORA_BLOCK_IN_DOWN];
    size_t first = kernel * rank * out->cols;

    memset(out->down, 0, first * sizeof *out->down);
    for (size_t x = 0; x < kernel; x++) {
        for (size_t r = 0; r < rank; r++) {
            double *row = out->down + (x * rank + r) * out->cols;
            for (size_t j = 0; j < in; j++) {
                row[j * kernel + x] = in_down[r * in + j];
            }
        }
    }
    memcpy(out->down + first, state->blocks[GLORA_BLOCK_DOWN],
           rank * out->cols * sizeof *out->down);
}

/* [W a1, b1] and [a2; b2]: a convolution has a W a1 for each element of its
 * kernel. */
static lora_status glora_kind_based_factors(lora__factors *out,
                                            lora__rows *state,
                                            const lora__module *module,
                                            lora_error *error)
{
    enum { STEP = 64 };
    size_t in = (size_t)module->shape[1];
    size_t rank;

    if (!lora__mul_size(state->cols / in + 1, state->rank, &rank)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__factors_alloc(out, state->context, state->rows, state->cols, rank,
                            error));
    out->scale = state->multiplier;
    for (size_t i = 0; i < state->rows; i++) {
        size_t end = state->rows - i < STEP ? state->rows : i + STEP;
        lora_status status =
            i % STEP == 0 ? lora__rows_want(state, i, end, error) : LORA_OK;
        if (status != LORA_OK) {
            lora__factors_destroy(out);
            return status;
        }
        glora_kind_up(out, state, in, i);
    }
    glora_kind_down(out, state, in);
    return LORA_OK;
}

/* A row of W a1 a2 needs a row of W; so do zeros in b1. */
static int glora_kind_extent(lora__extent *out,
                             const lora_adapter *adapter,
                             const lora__module *module,
                             lora__role role)
{
    lora__role up = glora_roles[glora_kind_layout(adapter, module)][2];

    if (role == up) {
        out->rows = 0;
        out->neutral = 0;
        return 1;
    }
    return role >= LORA__ROLE_GLORA_A1 && role <= LORA__ROLE_GLORA_B2;
}

LORA_PRIVATE const lora__kind lora__kind_glora = {
    .id = "glora",
    .roles = LORA__ROLE_BIT(LORA__ROLE_GLORA_A1) |
             LORA__ROLE_BIT(LORA__ROLE_GLORA_A2) |
             LORA__ROLE_BIT(LORA__ROLE_GLORA_B1) |
             LORA__ROLE_BIT(LORA__ROLE_GLORA_B2) |
             LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) |
             LORA__ROLE_BIT(LORA__ROLE_DORA) | LORA__ROLE_BIT(LORA__ROLE_SCALE),
    .claim = glora_kind_claim,
    .parse = glora_kind_parse,
    .prepare = glora_kind_prepare,
    .rows = glora_kind_rows,
    .based_factors = glora_kind_based_factors,
    .extent = glora_kind_extent,
};
