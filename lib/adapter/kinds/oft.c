/* OFT and BOFT: the weight is turned by blocks, each a rotation made of a skew
 * matrix Q by Cayley's transform.
 *
 *   kohya, LyCORIS   rows: W' = f o (R^T W), oft_blocks B [nb, b, b],
 *                    Q = B - B^T, R = (I + Q) (I - Q)^-1; the old oft_diag
 *                    holds R itself
 *   kohya's of Flux  the same of each piece of the rows, with blocks and a norm
 *                    of its own: oft_blocks.0 of q, .1 of k, .2 of v, and of a
 *                    single block .3 of the MLP; the numbers of their forward,
 *                    as their merge puts the pieces side by side
 *   LyCORIS' BOFT    rows: W' = f o (R_M ... R_1 W), B [M, nb, b, b]
 *   PEFT             inputs: W' = W R^T, oft_R the upper triangles of Q
 *                    [nb, b (b - 1) / 2], R = (I - Q) (I + Q)^-1, or a series
 *                    that comes near the inverse of that: the configuration
 *                    tells
 *   PEFT's BOFT      inputs: W'^T = R_M ... R_1 W^T o f, boft_R [M, nb, b, b],
 *                    Q = (B - B^T) / 2, R as above
 *
 * with a factor f for each row, where there is one. alpha is no scale: it
 * limits the norm of Q, of all blocks together, to alpha times the rows; an
 * alpha of 0 does so too with kohya, to nothing, and not with LyCORIS.
 *
 * Stage i of M mixes pairs of half blocks that are 2^i halves apart. LyCORIS
 * has the two halves of a pair interleaved, which is the same as another order
 * of rows and columns of B.
 *
 * The strength m goes into the rotations, R - I times m, with kohya and
 * LyCORIS; f is then that of the file, whatever m. PEFT has no strength: W + m
 * (W' - W). Source: formats.md 5.13 and 5.14.
 *
 * Blocks are read in the type of the sums; rotations are made of them in f64
 * and rounded once. A sum is over b products, in ascending order, for each of M
 * stages: an element is off by (b + 3) M u of what the magnitudes in it add up
 * to, at most.
 */
#include "adapter/config.h"
#include "adapter/kinds/rotations.h"
#include "core/text.h"

#include <math.h>
#include <string.h>

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

/* What may stand beside blocks of a role; tensors of the other kinds of blocks
 * would be left out. */
static const struct {
    lora__role blocks;
    int32_t ndim; /* 4 of a butterfly, where that is 3 */
    int32_t inputs;
    lora__role factors;
} oft_roles[] = {
    {LORA__ROLE_OFT_BLOCKS, 3, 0, LORA__ROLE_RESCALE},
    {LORA__ROLE_OFT_DIAG, 3, 0, LORA__ROLE_RESCALE},
    {LORA__ROLE_OFT_R, 2, 1, LORA__ROLE_UNKNOWN},
    {LORA__ROLE_BOFT_R, 3, 1, LORA__ROLE_BOFT_S},
};

/* The place of the module's blocks in the table; one of the claimed ones has
 * some. */
static size_t oft_kind_place(const lora__module *module)
{
    size_t i = 0;

    while (i < LORA__COUNT(oft_roles) - 1 &&
           !kind_has(module, oft_roles[i].blocks)) {
        i++;
    }
    return i;
}

/* The side of a matrix with so many numbers above its diagonal. */
static int64_t oft_kind_side(int64_t numbers)
{
    int64_t side = 1;

    while (side <= INT32_MAX && side * (side - 1) / 2 < numbers) {
        side++;
    }
    return side;
}

/* The blocks of a number; those that have none are the first, and only. */
static const lora__entry *oft_kind_piece(const lora_adapter *adapter,
                                         const lora__module *module,
                                         lora__role role,
                                         size_t number)
{
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        const lora__entry *entry = &adapter->container->entries[member->entry];
        int32_t piece;

        if (member->role != role) {
            continue;
        }
        piece = lora__name_piece(entry->name, entry->name_bytes);
        if ((piece < 0 ? 0 : (size_t)piece) == number) {
            return entry;
        }
    }
    return NULL;
}

/* Of a module that was parsed: its pieces, and how many there are. */
static size_t oft_kind_blocks(lora__rotations out[LORA__MAX_GRAINS],
                              const lora_adapter *adapter,
                              const lora__module *module)
{
    const size_t place = oft_kind_place(module);
    const lora__role role = oft_roles[place].blocks;
    const size_t count = lora__kind_count_of(module, role);

    for (size_t i = 0; i < count; i++) {
        lora__rotations *b = &out[i];
        const int64_t *shape;

        b->role = role;
        b->entry = oft_kind_piece(adapter, module, role, i);
        b->inputs = oft_roles[place].inputs;
        shape = b->entry->shape;
        b->stages = b->entry->ndim == 4 ? (size_t)*shape++ : 1;
        b->count = (size_t)shape[0];
        b->side = (size_t)(role == LORA__ROLE_OFT_R ? oft_kind_side(shape[1])
                                                    : shape[1]);
    }
    return count;
}

/* ---- checks ------------------------------------------------------------ */

/* Each of the M factors of a butterfly mixes pairs of half blocks that are 2^i
 * half blocks apart: blocks are even, and the rows whole multiples of 2^M half
 * blocks. Of one factor alone nothing is halved, but that LyCORIS does so. */
static lora_status oft_kind_butterfly(lora__opening *opening,
                                      lora__module *module,
                                      const lora__entry *blocks)
{
    int64_t factors = blocks->shape[0];
    int64_t half_blocks = 2 * blocks->shape[1];
    int whole = factors == 1 && kind_has(module, LORA__ROLE_BOFT_R);

    if (!whole && (blocks->shape[3] % 2 != 0 || factors > 62 ||
                   half_blocks % ((int64_t)1 << factors) != 0)) {
        return lora__module_reject(
            opening, module, LORA_ERROR_SHAPE, "shape",
            "%lld blocks of side %lld make no butterfly of %lld factors",
            (long long)blocks->shape[1], (long long)blocks->shape[3],
            (long long)factors);
    }
    return LORA_OK;
}

/* What stands beside the blocks: a constraint, and a factor and a bias for each
 * row, which are known where they are turned. */
static lora_status oft_kind_beside(lora__opening *opening,
                                   lora__module *module,
                                   int64_t rows,
                                   size_t place)
{
    static const lora__role roles[] = {LORA__ROLE_RESCALE, LORA__ROLE_BOFT_S,
                                       LORA__ROLE_DIFF_BIAS};

    for (size_t i = 0; i < LORA__COUNT(roles); i++) {
        const lora__entry *entry =
            lora__kind_optional(opening, module, roles[i], 1);
        TRY(lora__kind_vector(opening, module, roles[i]));
        if (entry != NULL && roles[i] != LORA__ROLE_DIFF_BIAS &&
            roles[i] != oft_roles[place].factors) {
            return lora__module_reject(
                opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
                "%s beside %s is not supported", lora__role_name(roles[i]),
                lora__role_name(oft_roles[place].blocks));
        }
        if (entry != NULL && !oft_roles[place].inputs) {
            TRY(lora__kind_agree(opening, module, "rows of blocks and a vector",
                                 rows, (int64_t)entry->elements));
        }
    }
    for (size_t i = place + 1; i < LORA__COUNT(oft_roles); i++) {
        if (kind_has(module, oft_roles[i].blocks)) {
            return lora__module_reject(
                opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
                "%s beside %s is not supported",
                lora__role_name(oft_roles[i].blocks),
                lora__role_name(oft_roles[place].blocks));
        }
    }
    /* There is no rank: this reads alpha, and leaves the scale at 1. */
    return lora__module_resolve_scale(opening, module);
}

/* What the numbers need beside the blocks. */
static const char *oft_kind_lacks(const lora_adapter *adapter,
                                  const lora__module *module)
{
    if (kind_has(module, LORA__ROLE_OFT_BLOCKS) && !module->has_alpha &&
        lora__rotations_are_kohyas(adapter, module)) {
        return "rotations, and no alpha that limits them";
    }
    if (kind_has(module, LORA__ROLE_OFT_R) &&
        lora__config_oft(adapter->config, module->target) == NULL) {
        return "rotations, and no adapter_config.json that says with "
               "use_cayley_neumann how they are made";
    }
    return NULL;
}

static lora_status oft_kind_check_sides(lora__opening *opening,
                                        lora__module *module,
                                        const lora__entry *blocks)
{
    int64_t side;

    if (blocks->ndim == 2) {
        side = oft_kind_side(blocks->shape[1]);
        return lora__kind_agree(opening, module, "elements of a triangle",
                                blocks->shape[1], side * (side - 1) / 2);
    }
    TRY(lora__kind_agree(opening, module, "sides of a block",
                         blocks->shape[blocks->ndim - 2],
                         blocks->shape[blocks->ndim - 1]));
    return blocks->ndim == 4 ? oft_kind_butterfly(opening, module, blocks)
                             : LORA_OK;
}

/* The pieces, counted from 0, are all there, and have as many blocks each:
 * their trainer has one number for all. *out_rows: those of the weight that
 * blocks of rows are for. */
static lora_status oft_kind_check_pieces(lora__opening *opening,
                                         lora__module *module,
                                         int64_t *out_rows,
                                         lora__role role,
                                         int32_t ndim)
{
    const size_t count = lora__kind_count_of(module, role);
    const lora__entry *first = NULL;

    *out_rows = 0;
    if (count > LORA__MAX_GRAINS) {
        return lora__module_reject(
            opening, module, LORA_ERROR_UNSUPPORTED, "unsupported",
            "%s is in more than %d pieces", lora__role_name(role),
            (int)LORA__MAX_GRAINS);
    }
    for (size_t i = 0; i < count && module->status == LORA_OK; i++) {
        const lora__entry *entry =
            oft_kind_piece(opening->adapter, module, role, i);
        if (entry == NULL) {
            return lora__module_reject(
                opening, module, LORA_ERROR_KEY, "incomplete",
                "of %llu tensors %s none is number %llu",
                (unsigned long long)count, lora__role_name(role),
                (unsigned long long)i);
        }
        if (!lora__kind_usable(opening, module, entry, role, ndim)) {
            return LORA_OK;
        }
        first = i == 0 ? entry : first;
        TRY(lora__kind_agree(opening, module, "dimensions of blocks",
                             entry->ndim, count > 1 ? 3 : ndim));
        if (module->status == LORA_OK) {
            TRY(oft_kind_check_sides(opening, module, entry));
            TRY(lora__kind_agree(opening, module, "blocks of two pieces",
                                 first->shape[0], entry->shape[0]));
            *out_rows += entry->shape[entry->ndim - 1] *
                         entry->shape[entry->ndim < 3 ? 0 : entry->ndim - 3];
        }
    }
    return LORA_OK;
}

static lora_status oft_kind_parse(lora__opening *opening, lora__module *module)
{
    const size_t place = oft_kind_place(module);
    int butterfly = oft_kind_is_butterfly(opening->adapter, module);
    int64_t rows;

    TRY(oft_kind_check_pieces(opening, module, &rows, oft_roles[place].blocks,
                              oft_roles[place].ndim + butterfly));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    module->dtype =
        oft_kind_piece(opening->adapter, module, oft_roles[place].blocks, 0)
            ->dtype;
    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    if (kind_has(module, LORA__ROLE_DIFF_BIAS)) {
        module->changes |= LORA_PART_BIAS;
    }
    module->needs = module->changes; /* its shape is not in the file */
    TRY(oft_kind_beside(opening, module, rows, place));
    module->lacks = oft_kind_lacks(opening->adapter, module);
    return LORA_OK;
}

/* ---- numbers ----------------------------------------------------------- */

/* FACTORS are of rows, or what is added to the bias. CHANGE is that of one
 * grain of rows, PLACE says the first of them. IN and OUT are one block's rows
 * or columns.
 */
enum {
    OFT_BLOCK_FACTORS = LORA__BLOCK_ROTATIONS + 1,
    OFT_BLOCK_CHANGE,
    OFT_BLOCK_PLACE,
    OFT_BLOCK_IN,
    OFT_BLOCK_OUT
};

/* Rows whose columns are turned together. */
#define OFT_LINES 16

/* The blocks cover the rows of the base, or its columns; one block may serve
 * all of them if PEFT says so. */
static lora_status oft_kind_check(const lora__rows *state,
                                  const lora_adapter *adapter,
                                  const lora__module *module,
                                  const lora__rotations *blocks,
                                  size_t piece_count,
                                  lora_error *error)
{
    const lora__peft_oft *peft =
        lora__config_oft(adapter->config, module->target);
    size_t numbers = blocks->inputs ? state->cols : state->rows;
    size_t count = blocks->count;
    size_t rows = 0;

    if (state->base->ndim < 2) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "the base's weight is a vector");
    }
    if (piece_count > 1) {
        for (size_t i = 0; i < piece_count; i++) {
            rows += blocks[i].count * blocks[i].side;
        }
        return rows == numbers
                   ? LORA_OK
                   : lora__fail(
                         error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                         "%llu pieces with blocks for %llu rows, and "
                         "%llu rows of the base",
                         (unsigned long long)piece_count,
                         (unsigned long long)rows, (unsigned long long)numbers);
    }
    if (blocks->role == LORA__ROLE_OFT_R && peft != NULL && peft->shared &&
        count == 1) {
        count = numbers / blocks->side;
    }
    return numbers % blocks->side == 0 && numbers / blocks->side == count
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET,
                            module->name,
                            "%llu blocks of side %llu for %llu %s of the base",
                            (unsigned long long)blocks->count,
                            (unsigned long long)blocks->side,
                            (unsigned long long)numbers,
                            blocks->inputs ? "inputs" : "rows");
}

/* Factors of rows, if there are any. */
static lora_status oft_kind_load_factors(lora__rows *state,
                                         const lora_adapter *adapter,
                                         const lora__module *module,
                                         lora__role role,
                                         lora_error *error)
{
    const lora__member *member = lora__module_find(module, role);

    if (member == NULL) {
        return LORA_OK;
    }
    if (adapter->container->entries[member->entry].elements != state->rows) {
        return lora__fail(
            error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
            "%s has %llu elements for %llu rows of the base",
            lora__role_name(role),
            (unsigned long long)adapter->container->entries[member->entry]
                .elements,
            (unsigned long long)state->rows);
    }
    return lora__rows_load(state, OFT_BLOCK_FACTORS, adapter, member->entry,
                           error);
}

/* Blocks of scratch that rows are turned in, the largest of all pieces. */
static lora_status oft_kind_room(lora__rows *state,
                                 const lora__rotations *blocks,
                                 size_t piece_count,
                                 lora_error *error)
{
    size_t side = 0;
    size_t begin = 0;
    size_t numbers;

    for (size_t i = 0; i < piece_count; i++) {
        side = blocks[i].side > side ? blocks[i].side : side;
        begin += blocks[i].count * blocks[i].side;
        state->grains[i].end = begin;
        state->grains[i].rows = blocks[i].side;
    }
    state->grain_count = piece_count > 1 ? piece_count : 0;
    state->rank = side;
    state->sizes[0] = blocks->stages;
    state->sizes[1] = blocks->count;
    numbers = side * (blocks->inputs ? OFT_LINES : state->cols);
    TRY(lora__rows_block(state, OFT_BLOCK_IN, numbers, error));
    TRY(lora__rows_block(state, OFT_BLOCK_OUT, numbers, error));
    if (blocks->inputs) {
        return LORA_OK;
    }
    state->grain = side << (blocks->stages - 1);
    TRY(lora__rows_block(state, OFT_BLOCK_CHANGE, state->grain * state->cols,
                         error));
    TRY(lora__rows_block(state, OFT_BLOCK_PLACE, sizeof(size_t), error));
    memset(state->blocks[OFT_BLOCK_PLACE], 0xFF, sizeof(size_t));
    return LORA_OK;
}

/* What would give other numbers than somebody meant. */
static lora_status oft_kind_refuse(const lora__rows *state,
                                   const lora_adapter *adapter,
                                   const lora__module *module,
                                   const lora__rotations *blocks,
                                   lora_error *error)
{
    const char *why = NULL;

    if (kind_has(module, LORA__ROLE_DORA)) {
        why = "no trainer says what DoRA around a rotation is";
    } else if (blocks->role == LORA__ROLE_OFT_R &&
               !lora__text_ends(blocks->entry->name, blocks->entry->name_bytes,
                                ".weight")) {
        why = "oft_r, of PEFT before 0.16, means another rotation";
    } else if (blocks->inputs && state->base->ndim == 2 && !module->known &&
               lora__config_transposed(adapter->config, module->target)) {
        why = "weights stored [in, out] are not turned in this version";
    }
    return why == NULL ? LORA_OK
                       : lora__fail(error, LORA_ERROR_UNSUPPORTED,
                                    LORA_NO_OFFSET, module->name, "%s", why);
}

static lora_status oft_kind_prepare(lora__rows *state,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora_error *error)
{
    lora__rotations blocks[LORA__MAX_GRAINS];
    const size_t count = oft_kind_blocks(blocks, adapter, module);

    if (state->part == LORA_PART_BIAS) {
        return oft_kind_load_factors(state, adapter, module,
                                     LORA__ROLE_DIFF_BIAS, error);
    }
    TRY(oft_kind_refuse(state, adapter, module, blocks, error));
    TRY(oft_kind_check(state, adapter, module, blocks, count, error));
    TRY(oft_kind_load_factors(state, adapter, module,
                              oft_roles[oft_kind_place(module)].factors,
                              error));
    TRY(oft_kind_room(state, blocks, count, error));
    return lora__rotations_load(state, adapter, module, blocks, count, error);
}

/* What is turned at once: lines of `cols` numbers, of which those of a block
 * are turned, or a line of as many rows. */
typedef struct oft_pass {
    const lora__rows *state;
    size_t side;
    const unsigned char *turns; /* of the first stage */
    size_t lines;
    size_t unit;   /* numbers that go together: 1, or those of a row */
    size_t step;   /* bytes from line to line */
    size_t first;  /* block of a stage */
    size_t count;  /* of blocks */
    size_t shared; /* 1: all blocks are the first one */
    unsigned char *change;
    const unsigned char *base;
} oft_pass;

static void
oft_kind_add(const lora__rows *state, void *out, const void *in, size_t count)
{
    if (state->dtype == LORA_DTYPE_F64) {
        state->kernels->axpy_f64(out, in, 1.0, count);
    } else {
        state->kernels->axpy_f32(out, in, 1.0F, count);
    }
}

/* Take W + D of a block into IN, or with `back` add OUT to D: halves of it, 2^i
 * halves apart. */
static void
oft_kind_move(const oft_pass *pass, size_t stage, size_t block, int back)
{
    const lora__rows *state = pass->state;
    const size_t apart = (size_t)1 << stage;
    const size_t bytes = pass->unit * lora__rows_size(state);
    const size_t half = pass->side / 2;
    const size_t begin =
        block / apart * apart * pass->side + block % apart * half;

    for (size_t i = 0; i < 2 * pass->lines; i++) {
        size_t second = i % 2;
        size_t count = second ? pass->side - half : half;
        size_t from =
            i / 2 * pass->step + (begin + second * apart * half) * bytes;
        size_t to = (i / 2 * pass->side + second * half) * bytes;
        unsigned char *change = pass->change + from;
        if (back) {
            const unsigned char *out = state->blocks[OFT_BLOCK_OUT];
            oft_kind_add(state, change, out + to, count * pass->unit);
        } else {
            unsigned char *in = state->blocks[OFT_BLOCK_IN];
            memcpy(in + to, change, count * bytes);
            oft_kind_add(state, in + to, pass->base + from, count * pass->unit);
        }
    }
}

/* D becomes D + T (W + D), or D + (W + D) T, stage by stage. */
static void oft_kind_pass(const oft_pass *pass, int inputs)
{
    const lora__rows *state = pass->state;
    const size_t side = pass->side;
    const size_t square = side * side * lora__rows_size(state);
    void *in = state->blocks[OFT_BLOCK_IN];
    void *out = state->blocks[OFT_BLOCK_OUT];

    for (size_t i = 0; i < state->sizes[0]; i++) {
        const unsigned char *turns = pass->turns + i * state->sizes[1] * square;
        for (size_t n = 0; n < pass->count; n++) {
            const unsigned char *turn =
                turns + (pass->shared ? 0 : (pass->first + n) * square);
            oft_kind_move(pass, i, n, 0);
            if (inputs) {
                lora__kind_gemm(state, out, side, in, side, turn, side,
                                pass->lines, side, side);
            } else {
                lora__kind_gemm(state, out, pass->unit, turn, side, in,
                                pass->unit, side, pass->unit, side);
            }
            oft_kind_move(pass, i, n, 1);
        }
    }
}

/* f (W + D) - W of a row; `out` may be D. */
static void oft_kind_finish(const lora__rows *state,
                            size_t row,
                            void *out,
                            const void *change)
{
    const void *factors = state->blocks[OFT_BLOCK_FACTORS];
    const void *base = lora__rows_base(state, row);
    double factor;

    if (factors == NULL) {
        memmove(out, change, state->cols * lora__rows_size(state));
        return;
    }
    factor = lora__rows_get(state, factors, row);
    for (size_t i = 0; i < state->cols; i++) {
        lora__rows_set(state, out, i,
                       fma(factor, lora__rows_get(state, change, i),
                           (factor - 1.0) * lora__rows_get(state, base, i)));
    }
}

/* Grain [begin, end), which is of blocks of a piece. */
static void
oft_kind_grain(const lora__rows *state, size_t place, size_t begin, size_t end)
{
    const size_t size = lora__rows_size(state);
    oft_pass pass = {state, 0, NULL, 1, state->cols, 0, 0, 0, 0, NULL, NULL};
    size_t first = 0; /* row of the piece */

    pass.side = state->rank;
    pass.turns = state->blocks[LORA__BLOCK_ROTATIONS];
    if (state->grain_count != 0) {
        for (size_t i = 0; i < place; i++) {
            const size_t rows = state->grains[i].end - first;
            pass.turns += rows * state->grains[i].rows * size;
            first = state->grains[i].end;
        }
        pass.side = state->grains[place].rows;
    }
    pass.count = (end - begin) / pass.side;
    pass.first = (begin - first) / pass.side;
    pass.change = state->blocks[OFT_BLOCK_CHANGE];
    pass.base = lora__rows_base(state, begin);
    memset(pass.change, 0, (end - begin) * state->cols * size);
    oft_kind_pass(&pass, 0);
}

/* Rows are turned a grain at a time, which is kept: others of it may come next.
 */
static void oft_kind_rows_rows(const lora__rows *state,
                               size_t begin,
                               size_t end,
                               unsigned char *out)
{
    const size_t step = state->cols * lora__rows_size(state);
    const unsigned char *change = state->blocks[OFT_BLOCK_CHANGE];
    size_t *kept = state->blocks[OFT_BLOCK_PLACE];

    for (size_t i = begin; i < end; i++) {
        size_t first;
        size_t last;
        size_t place = lora__rows_grain(&first, &last, state, i);
        if (*kept != first) {
            oft_kind_grain(state, place, first, last);
            *kept = first;
        }
        oft_kind_finish(state, i, out + (i - begin) * step,
                        change + (i - first) * step);
    }
}

/* Columns are turned of a few rows at a time. */
static void oft_kind_rows_inputs(const lora__rows *state,
                                 size_t begin,
                                 size_t end,
                                 unsigned char *out)
{
    const size_t step = state->cols * lora__rows_size(state);
    oft_pass pass = {state, 0, NULL, 0, 1, 0, 0, 0, 0, NULL, NULL};

    pass.side = state->rank;
    pass.turns = state->blocks[LORA__BLOCK_ROTATIONS];
    pass.step = step;
    pass.count = state->cols / state->rank;
    pass.shared = state->sizes[1] == 1;
    memset(out, 0, (end - begin) * step);
    for (size_t i = begin; i < end; i += pass.lines) {
        pass.lines = end - i < OFT_LINES ? end - i : OFT_LINES;
        pass.change = out + (i - begin) * step;
        pass.base = lora__rows_base(state, i);
        oft_kind_pass(&pass, 1);
        for (size_t n = 0; n < pass.lines; n++) {
            oft_kind_finish(state, i + n, pass.change + n * step,
                            pass.change + n * step);
        }
    }
    lora__rows_scale(state, out, (end - begin) * state->cols);
}

static void oft_kind_rows(const lora__rows *state,
                          const lora__module *module,
                          size_t begin,
                          size_t end,
                          void *out)
{
    const size_t size = lora__rows_size(state);

    if (state->part == LORA_PART_BIAS) {
        const unsigned char *bias = state->blocks[OFT_BLOCK_FACTORS];
        memcpy(out, bias + begin * size, (end - begin) * size);
        lora__rows_scale(state, out, end - begin);
    } else if (oft_roles[oft_kind_place(module)].inputs) {
        oft_kind_rows_inputs(state, begin, end, out);
    } else {
        oft_kind_rows_rows(state, begin, end, out);
    }
}

/* Why readers of another dialect would take it for another change; NULL: they
 * would not. kohya's trainer knows blocks and alpha alone, and what an alpha of
 * 0 means to it is the opposite of what it means to others. */
static const char *oft_kind_misread(const lora_adapter *adapter,
                                    const lora__module *module,
                                    const lora__dialect *dialect)
{
    const int from = lora__rotations_are_kohyas(adapter, module);
    const int to = strcmp(lora__dialect_id(dialect), "kohya-oft") == 0;

    if (lora__kind_count_of(module, LORA__ROLE_OFT_BLOCKS) > 1) {
        return "its blocks are in pieces";
    }
    if (!kind_has(module, LORA__ROLE_OFT_BLOCKS) || from == to) {
        return NULL;
    }
    if (to && oft_kind_is_butterfly(adapter, module)) {
        return "there is no BOFT";
    }
    if (to && (kind_has(module, LORA__ROLE_RESCALE) ||
               kind_has(module, LORA__ROLE_DIFF_BIAS))) {
        return "only blocks and alpha are read";
    }
    return module->alpha > 0.0 ? NULL
           : to                ? "an alpha, its constraint, of 0 turns nothing"
                : "an alpha, its constraint, of 0 limits nothing";
}

/* As it is, or not at all. */
static lora_status oft_kind_respell(lora__respelling *out,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora__role role,
                                    const lora__dialect *to,
                                    lora_error *error)
{
    const char *why = oft_kind_misread(adapter, module, to);

    (void)out;
    (void)role;
    return why == NULL ? LORA_OK : lora__respell_refuse(module, to, why, error);
}

LORA_PRIVATE const lora__kind lora__kind_oft = {
    .id = "oft",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_OFT_BLOCKS) |
        LORA__ROLE_BIT(LORA__ROLE_OFT_DIAG) | LORA__ROLE_BIT(LORA__ROLE_OFT_R) |
        LORA__ROLE_BIT(LORA__ROLE_RESCALE) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA),
    .nonlinear = 1,
    .claim = oft_kind_claim,
    .parse = oft_kind_parse,
    .prepare = oft_kind_prepare,
    .rows = oft_kind_rows,
    .respell = oft_kind_respell,
};

LORA_PRIVATE const lora__kind lora__kind_boft = {
    .id = "boft",
    .roles =
        LORA__ROLE_BIT(LORA__ROLE_OFT_BLOCKS) |
        LORA__ROLE_BIT(LORA__ROLE_BOFT_R) | LORA__ROLE_BIT(LORA__ROLE_BOFT_S) |
        LORA__ROLE_BIT(LORA__ROLE_RESCALE) |
        LORA__ROLE_BIT(LORA__ROLE_DIFF_BIAS) | LORA__ROLE_BIT(LORA__ROLE_DORA),
    .nonlinear = 1,
    .claim = boft_kind_claim,
    .parse = oft_kind_parse,
    .prepare = oft_kind_prepare,
    .rows = oft_kind_rows,
    .respell = oft_kind_respell,
};
