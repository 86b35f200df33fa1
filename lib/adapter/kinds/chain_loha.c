/* LoHa as a chain: by its exact factors, or as one product with the change.
 *
 *   dW[p, c] = M1[p, c] M2[p, c],  M[p, c] = sum_i a[p, i] b'[i, c]
 *            = sum_ij (a1[p, i] a2[p, j]) (b1'[i, c] b2'[j, c])
 *
 * with b' = b, or with a core b'[i, q * K + x] = sum_j core[i, j, x] b[j, q].
 * The right sum is a pair of rank r1 r2, with fewer numbers and less work than
 * dW where r1 r2 (rows + cols) < rows cols; else dW itself is the weight.
 *
 * Weights are made and gradients pulled back in f32, as products of at most
 * rank terms; sums over rows and columns are in f64 or in blocks.
 */
#include "adapter/chain.h"
#include "adapter/kinds/common.h"

#include <string.h>

/* Rows of the change that are made at a time. */
#define CHAIN_LOHA_ROWS 64

static size_t chain_loha_columns(const lora__link *link)
{
    return link->in * link->kernel;
}

/* a[p, i] of a side with `rows` rows in all. */
static float chain_loha_a(const lora__link_side *side,
                          const float *const *factors,
                          size_t rows,
                          size_t p,
                          size_t i)
{
    return side->core != SIZE_MAX ? factors[side->a][i * rows + p]
                                  : factors[side->a][p * side->outer + i];
}

/* b' of a side: b itself, or made in `room`. */
static const float *chain_loha_b(float *room,
                                 const lora__link_side *side,
                                 const float *const *factors,
                                 size_t in,
                                 size_t kernel)
{
    const float *b = factors[side->b];
    const float *core;

    if (side->core == SIZE_MAX) {
        return b;
    }
    core = factors[side->core];
    memset(room, 0, side->outer * in * kernel * sizeof *room);
    for (size_t i = 0; i < side->outer; i++) {
        for (size_t j = 0; j < side->inner; j++) {
            const float *from = core + (i * side->inner + j) * kernel;

            for (size_t q = 0; q < in; q++) {
                float *to = room + (i * in + q) * kernel;

                for (size_t x = 0; x < kernel; x++) {
                    to[x] += from[x] * b[j * in + q];
                }
            }
        }
    }
    return room;
}

/* Gradients of b and the core, from that of b'. */
static void chain_loha_pull_b(float *const *gradients,
                              const lora__link_side *side,
                              const float *const *factors,
                              const float *gradient,
                              size_t in,
                              size_t kernel)
{
    float *to_b = gradients[side->b];
    float *to_core = side->core == SIZE_MAX ? NULL : gradients[side->core];
    const float *b = factors[side->b];

    if (side->core == SIZE_MAX) {
        for (size_t i = 0; to_b != NULL && i < side->outer * in * kernel; i++) {
            to_b[i] += gradient[i];
        }
        return;
    }
    for (size_t i = 0; i < side->outer; i++) {
        for (size_t j = 0; j < side->inner; j++) {
            const size_t at = (i * side->inner + j) * kernel;
            const float *core = factors[side->core] + at;

            for (size_t x = 0; to_core != NULL && x < kernel; x++) {
                double sum = 0.0;

                for (size_t q = 0; q < in; q++) {
                    sum += (double)gradient[(i * in + q) * kernel + x] *
                           (double)b[j * in + q];
                }
                to_core[at + x] += (float)sum;
            }
            for (size_t q = 0; to_b != NULL && q < in; q++) {
                double sum = 0.0;

                for (size_t x = 0; x < kernel; x++) {
                    sum += (double)gradient[(i * in + q) * kernel + x] *
                           (double)core[x];
                }
                to_b[j * in + q] += (float)sum;
            }
        }
    }
}

/* ---- the pair ---------------------------------------------------------- */

static size_t chain_loha_up_scratch(const lora__link *link)
{
    (void)link;
    return 1;
}

/* weight[p, (i, j)] = a1[p, i] a2[p, j] */
static void chain_loha_up_make(float *weight,
                               const lora__link *link,
                               const float *const *factors,
                               const lora__kernels *kernels,
                               float *scratch)
{
    const lora__link_side *one = &link->sides[0];
    const lora__link_side *two = &link->sides[1];

    (void)kernels;
    (void)scratch;
    for (size_t p = 0; p < link->out; p++) {
        for (size_t i = 0; i < one->outer; i++) {
            const float a = chain_loha_a(one, factors, link->out, p, i);

            for (size_t j = 0; j < two->outer; j++) {
                *weight++ = a * chain_loha_a(two, factors, link->out, p, j);
            }
        }
    }
}

/* The gradient of a[p, i], if it is wanted. */
static void chain_loha_add_a(float *const *gradients,
                             const lora__link_side *side,
                             size_t rows,
                             size_t p,
                             size_t i,
                             double value)
{
    float *to = gradients[side->a];

    if (to != NULL) {
        to[side->core != SIZE_MAX ? i * rows + p : p * side->outer + i] +=
            (float)value;
    }
}

static void chain_loha_up_pull(float *const *gradients,
                               const lora__link *link,
                               const float *gradient,
                               const float *const *factors,
                               const lora__kernels *kernels,
                               float *scratch)
{
    const lora__link_side *one = &link->sides[0];
    const lora__link_side *two = &link->sides[1];

    (void)kernels;
    (void)scratch;
    for (size_t p = 0; p < link->out; p++) {
        const float *from = gradient + p * one->outer * two->outer;

        for (size_t i = 0; i < one->outer; i++) {
            double sum = 0.0;

            for (size_t j = 0; j < two->outer; j++) {
                sum += (double)from[i * two->outer + j] *
                       (double)chain_loha_a(two, factors, link->out, p, j);
            }
            chain_loha_add_a(gradients, one, link->out, p, i, sum);
        }
        for (size_t j = 0; j < two->outer; j++) {
            double sum = 0.0;

            for (size_t i = 0; i < one->outer; i++) {
                sum += (double)from[i * two->outer + j] *
                       (double)chain_loha_a(one, factors, link->out, p, i);
            }
            chain_loha_add_a(gradients, two, link->out, p, j, sum);
        }
    }
}

/* b1', b2' and their gradients. */
static size_t chain_loha_down_scratch(const lora__link *link)
{
    size_t ranks;
    size_t count;

    if (!lora__add_size(link->sides[0].outer, link->sides[1].outer, &ranks) ||
        !lora__mul_size(ranks, 2, &ranks) ||
        !lora__mul_size(ranks, chain_loha_columns(link), &count)) {
        return 0;
    }
    return count;
}

/* weight[(i, j), c] = b1'[i, c] b2'[j, c] */
static void chain_loha_down_make(float *weight,
                                 const lora__link *link,
                                 const float *const *factors,
                                 const lora__kernels *kernels,
                                 float *scratch)
{
    const lora__link_side *one = &link->sides[0];
    const lora__link_side *two = &link->sides[1];
    const size_t cols = chain_loha_columns(link);
    const float *b1 =
        chain_loha_b(scratch, one, factors, link->in, link->kernel);
    const float *b2 = chain_loha_b(scratch + one->outer * cols, two, factors,
                                   link->in, link->kernel);

    (void)kernels;
    for (size_t i = 0; i < one->outer; i++) {
        for (size_t j = 0; j < two->outer; j++) {
            for (size_t c = 0; c < cols; c++) {
                *weight++ = b1[i * cols + c] * b2[j * cols + c];
            }
        }
    }
}

static void chain_loha_down_pull(float *const *gradients,
                                 const lora__link *link,
                                 const float *gradient,
                                 const float *const *factors,
                                 const lora__kernels *kernels,
                                 float *scratch)
{
    const lora__link_side *one = &link->sides[0];
    const lora__link_side *two = &link->sides[1];
    const size_t cols = chain_loha_columns(link);
    float *room1 = scratch;
    float *room2 = room1 + one->outer * cols;
    float *to1 = room2 + two->outer * cols;
    float *to2 = to1 + one->outer * cols;
    const float *b1 = chain_loha_b(room1, one, factors, link->in, link->kernel);
    const float *b2 = chain_loha_b(room2, two, factors, link->in, link->kernel);

    (void)kernels;
    memset(to1, 0, (one->outer + two->outer) * cols * sizeof *to1);
    for (size_t i = 0; i < one->outer; i++) {
        for (size_t j = 0; j < two->outer; j++) {
            const float *from = gradient + (i * two->outer + j) * cols;

            for (size_t c = 0; c < cols; c++) {
                to1[i * cols + c] += from[c] * b2[j * cols + c];
                to2[j * cols + c] += from[c] * b1[i * cols + c];
            }
        }
    }
    chain_loha_pull_b(gradients, one, factors, to1, link->in, link->kernel);
    chain_loha_pull_b(gradients, two, factors, to2, link->in, link->kernel);
}

/* ---- the change itself ------------------------------------------------- */

/* Blocks of rows of both products, as they are for one side: a block of a and
 * its transpose, M; b' and its gradient, and a product that is added to it. */
typedef struct chain_loha_block {
    float *a;   /* [ROWS, outer] */
    float *a_t; /* [outer, ROWS] */
    float *m;   /* [ROWS, cols] */
    float *room;
    const float *b;
    float *to_b;  /* [outer, cols] */
    float *piece; /* [outer, cols] */
    double *to_a; /* [ROWS, outer] */
} chain_loha_block;

/* Numbers in scratch for one side; sums in f64 first, for their alignment. */
static int chain_loha_block_count(size_t *out,
                                  const lora__link *link,
                                  const lora__link_side *side)
{
    const size_t cols = chain_loha_columns(link);
    size_t small;
    size_t wide;

    return lora__mul_size(side->outer, 4 * CHAIN_LOHA_ROWS, &small) &&
           lora__mul_size(side->outer, 3, &wide) &&
           lora__add_size(wide, CHAIN_LOHA_ROWS, &wide) &&
           lora__mul_size(wide, cols, &wide) &&
           lora__add_size(wide, wide & 1, &wide) &&
           lora__add_size(small, wide, out);
}

static size_t chain_loha_dense_scratch(const lora__link *link)
{
    size_t one;
    size_t two;
    size_t count;

    return chain_loha_block_count(&one, link, &link->sides[0]) &&
                   chain_loha_block_count(&two, link, &link->sides[1]) &&
                   lora__add_size(one, two, &count)
               ? count
               : 0;
}

static void chain_loha_block_place(chain_loha_block *out,
                                   const lora__link *link,
                                   const lora__link_side *side,
                                   const float *const *factors,
                                   float *scratch)
{
    const size_t cols = chain_loha_columns(link);
    const size_t small = side->outer * CHAIN_LOHA_ROWS;

    out->to_a = (double *)(void *)scratch;
    out->a = scratch + 2 * small;
    out->a_t = out->a + small;
    out->m = out->a_t + small;
    out->room = out->m + CHAIN_LOHA_ROWS * cols;
    out->to_b = out->room + side->outer * cols;
    out->piece = out->to_b + side->outer * cols;
    out->b = chain_loha_b(out->room, side, factors, link->in, link->kernel);
    memset(out->to_b, 0, side->outer * cols * sizeof *out->to_b);
}

/* The blocks of both sides, one after the other. */
static void chain_loha_blocks_place(chain_loha_block blocks[2],
                                    const lora__link *link,
                                    const float *const *factors,
                                    float *scratch)
{
    const lora__link_side *sides = link->sides;
    size_t count = 0;

    chain_loha_block_count(&count, link, &sides[0]);
    chain_loha_block_place(&blocks[0], link, &sides[0], factors, scratch);
    chain_loha_block_place(&blocks[1], link, &sides[1], factors,
                           scratch + count);
}

/* Rows of M. */
static void chain_loha_block_rows(const chain_loha_block *block,
                                  const lora__link *link,
                                  const lora__link_side *side,
                                  const float *const *factors,
                                  const lora__kernels *kernels,
                                  size_t first,
                                  size_t count)
{
    const size_t cols = chain_loha_columns(link);

    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < side->outer; i++) {
            const float a =
                chain_loha_a(side, factors, link->out, first + p, i);

            block->a[p * side->outer + i] = a;
            block->a_t[i * CHAIN_LOHA_ROWS + p] = a;
        }
    }
    kernels->gemm_f32(block->m, cols, block->a, side->outer, block->b, cols,
                      count, cols, side->outer);
}

/* What rows of a side's gradient, in `e`, give to its a and b'. */
static void chain_loha_block_pull(float *const *gradients,
                                  const chain_loha_block *block,
                                  const lora__link *link,
                                  const lora__link_side *side,
                                  const lora__kernels *kernels,
                                  const float *e,
                                  size_t first,
                                  size_t count)
{
    const size_t cols = chain_loha_columns(link);

    kernels->dots_f32(block->to_a, side->outer, e, cols, block->b, cols, count,
                      side->outer, cols);
    for (size_t p = 0; p < count; p++) {
        for (size_t i = 0; i < side->outer; i++) {
            chain_loha_add_a(gradients, side, link->out, first + p, i,
                             block->to_a[p * side->outer + i]);
        }
    }
    kernels->gemm_f32(block->piece, cols, block->a_t, CHAIN_LOHA_ROWS, e, cols,
                      side->outer, cols, count);
    kernels->axpy_f32(block->to_b, block->piece, 1.0F, side->outer * cols);
}

static void chain_loha_dense_make(float *weight,
                                  const lora__link *link,
                                  const float *const *factors,
                                  const lora__kernels *kernels,
                                  float *scratch)
{
    const lora__link_side *sides = link->sides;
    const size_t cols = chain_loha_columns(link);
    chain_loha_block blocks[2];
    size_t count;

    chain_loha_blocks_place(blocks, link, factors, scratch);
    for (size_t p = 0; p < link->out; p += CHAIN_LOHA_ROWS) {
        const size_t left = link->out - p;

        count = left < CHAIN_LOHA_ROWS ? left : CHAIN_LOHA_ROWS;
        for (size_t s = 0; s < 2; s++) {
            chain_loha_block_rows(&blocks[s], link, &sides[s], factors, kernels,
                                  p, count);
        }
        for (size_t i = 0; i < count * cols; i++) {
            weight[p * cols + i] = blocks[0].m[i] * blocks[1].m[i];
        }
    }
}

static void chain_loha_dense_pull(float *const *gradients,
                                  const lora__link *link,
                                  const float *gradient,
                                  const float *const *factors,
                                  const lora__kernels *kernels,
                                  float *scratch)
{
    const lora__link_side *sides = link->sides;
    const size_t cols = chain_loha_columns(link);
    chain_loha_block blocks[2];
    size_t count;

    chain_loha_blocks_place(blocks, link, factors, scratch);
    for (size_t p = 0; p < link->out; p += CHAIN_LOHA_ROWS) {
        const float *from = gradient + p * cols;
        const size_t left = link->out - p;

        count = left < CHAIN_LOHA_ROWS ? left : CHAIN_LOHA_ROWS;
        for (size_t s = 0; s < 2; s++) {
            chain_loha_block_rows(&blocks[s], link, &sides[s], factors, kernels,
                                  p, count);
        }
        for (size_t i = 0; i < count * cols; i++) {
            const float m1 = blocks[0].m[i];

            blocks[0].m[i] = from[i] * blocks[1].m[i];
            blocks[1].m[i] = from[i] * m1;
        }
        for (size_t s = 0; s < 2; s++) {
            chain_loha_block_pull(gradients, &blocks[s], link, &sides[s],
                                  kernels, blocks[s].m, p, count);
        }
    }
    for (size_t s = 0; s < 2; s++) {
        chain_loha_pull_b(gradients, &sides[s], factors, blocks[s].to_b,
                          link->in, link->kernel);
    }
}

/* ---- the chain --------------------------------------------------------- */

static const lora__link_maker chain_loha_up = {
    chain_loha_up_scratch, chain_loha_up_make, chain_loha_up_pull};
static const lora__link_maker chain_loha_down = {
    chain_loha_down_scratch, chain_loha_down_make, chain_loha_down_pull};
static const lora__link_maker chain_loha_dense = {
    chain_loha_dense_scratch, chain_loha_dense_make, chain_loha_dense_pull};

static lora__link_side chain_loha_side(lora__chain *chain,
                                       const lora_adapter *adapter,
                                       const lora__module *module,
                                       lora__role a,
                                       lora__role b,
                                       lora__role core)
{
    const lora__entry *entry = lora__module_entry(adapter, module, b);
    lora__link_side side;

    side.inner = (size_t)entry->shape[0];
    side.outer = side.inner;
    side.a = lora__chain_take(chain, module, a);
    side.b = lora__chain_take(chain, module, b);
    side.core = lora__chain_take(chain, module, core);
    if (side.core != SIZE_MAX) {
        side.outer =
            (size_t)lora__module_entry(adapter, module, core)->shape[0];
    }
    return side;
}

LORA_PRIVATE lora_status lora__chain_loha(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error)
{
    lora__link link;
    size_t rows = (size_t)module->shape[0];
    size_t cols = lora__shape_size(module->shape, 1, module->ndim);
    size_t ranks;
    size_t numbers;

    memset(out, 0, sizeof *out);
    memset(&link, 0, sizeof link);
    link.before = 1;
    link.after = 1;
    link.parts = 1;
    link.each = 1;
    link.in = cols / kernel;
    link.out = rows;
    link.kernel = kernel;
    link.conv = 1;
    link.sides[0] = chain_loha_side(out, adapter, module, LORA__ROLE_HADA_W1_A,
                                    LORA__ROLE_HADA_W1_B, LORA__ROLE_HADA_T1);
    link.sides[1] = chain_loha_side(out, adapter, module, LORA__ROLE_HADA_W2_A,
                                    LORA__ROLE_HADA_W2_B, LORA__ROLE_HADA_T2);
    link.maker = &chain_loha_dense;
    if (lora__mul_size(link.sides[0].outer, link.sides[1].outer, &ranks) &&
        lora__mul_size(ranks, rows + cols, &numbers) && numbers < rows * cols) {
        link.maker = &chain_loha_down;
        link.out = ranks;
        out->links[out->link_count++] = link;
        link.maker = &chain_loha_up;
        link.in = ranks;
        link.out = rows;
        link.kernel = 1;
        link.conv = 0;
    }
    out->links[out->link_count++] = link;
    return lora__chain_split(out, groups, error);
}
