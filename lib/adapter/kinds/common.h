/* What the kinds share: checking tensors and setting shapes. */
#ifndef LORA__ADAPTER_KINDS_COMMON_H
#define LORA__ADAPTER_KINDS_COMMON_H

#include "adapter/kind.h"

/* 1 if the module has the role. */
static inline int kind_has(const lora__module *module, lora__role role)
{
    return lora__module_find(module, role) != NULL;
}

/* How many tensors of the module have the role. */
LORA_PRIVATE size_t lora__kind_count_of(const lora__module *module,
                                        lora__role role);

/* The tensor of a role that the kind cannot do without; NULL, and the module
 * rejected, where it is missing, is no float, or has fewer than `ndim` or
 * empty dimensions. */
LORA_PRIVATE const lora__entry *lora__kind_require(lora__opening *opening,
                                                   lora__module *module,
                                                   lora__role role,
                                                   int32_t ndim);

/* The same for a role that may be missing: NULL then, without rejecting. */
LORA_PRIVATE const lora__entry *lora__kind_optional(lora__opening *opening,
                                                    lora__module *module,
                                                    lora__role role,
                                                    int32_t ndim);

/* 1 if one of several tensors of a role is fit as those are, or else 0, and the
 * module rejected. */
LORA_PRIVATE int lora__kind_usable(lora__opening *opening,
                                   lora__module *module,
                                   const lora__entry *entry,
                                   lora__role role,
                                   int32_t ndim);

/* Set shape to [rows, cols, spatial...] with the spatial dimensions of
 * `spatial` (from its third), bring it to the number of dimensions that the
 * layer is known to have, and check the number of elements. */
LORA_PRIVATE lora_status lora__kind_set_shape(lora__opening *opening,
                                              lora__module *module,
                                              int64_t rows,
                                              int64_t cols,
                                              const lora__entry *spatial);

/* Factors of LoHa and LoKr have the kernel of a convolution in their columns:
 * where the name tells that the kernel is 3 x 3, [out, in * 9] becomes [out,
 * in, 3, 3]. */
LORA_PRIVATE void lora__kind_unfold(lora__module *module);

/* Set the rank, which must be at least 1 and within the limit. */
LORA_PRIVATE lora_status lora__kind_set_rank(lora__opening *opening,
                                             lora__module *module,
                                             int64_t rank);

/* Reject the module unless two dimensions that must agree do. */
LORA_PRIVATE lora_status lora__kind_agree(lora__opening *opening,
                                          lora__module *module,
                                          const char *what,
                                          int64_t a,
                                          int64_t b);

/* Reject the module unless a tensor, if it is there, is a matrix: dimensions
 * from the third on, which factors of convolutions have, are 1. */
LORA_PRIVATE lora_status lora__kind_matrix(lora__opening *opening,
                                           lora__module *module,
                                           lora__role role);

/* Reject the module unless a tensor, if it is there, has a number for each row
 * or column: all its dimensions but one are 1. */
LORA_PRIVATE lora_status lora__kind_vector(lora__opening *opening,
                                           lora__module *module,
                                           lora__role role);

/* A bias change, if there is one: one element for each row; sets `changes`. */
LORA_PRIVATE lora_status lora__kind_check_bias(lora__opening *opening,
                                               lora__module *module,
                                               lora__role role);

/* 1 if a magnitude is of the weight's inputs (its columns, less the kernel),
 * 0 if of its rows. */
LORA_PRIVATE int lora__kind_dora_inputs(const lora__module *module,
                                        const lora__entry *entry,
                                        int peft);

/* A DoRA magnitude has one element for each row or column of the weight, or
 * for each input of a convolution whose kernel the module cannot tell. */
LORA_PRIVATE lora_status lora__kind_check_dora(lora__opening *opening,
                                               lora__module *module);

/* Of a layer that stores its weight [in, out]. The configuration says it of
 * all layers, but it holds for those of GPT-2's class only, which no family
 * has, and which are never convolutions. */
LORA_PRIVATE lora_status lora__kind_turn(lora__opening *opening,
                                         lora__module *module);

/* Numbers of a change that is stored transposed: dW[rows, cols] = scale * a^T
 * b^T with a [r, rows] and b [cols, r]. Blocks A and BT are [r, rows] and [r,
 * cols] then. */
enum { LORA__BLOCK_A, LORA__BLOCK_BT };

LORA_PRIVATE lora_status
lora__kind_prepare_transposed(lora__rows *state,
                              const lora_adapter *adapter,
                              const lora__module *module,
                              lora__role a,
                              lora__role b,
                              lora_error *error);
LORA_PRIVATE void lora__kind_rows_transposed(const lora__rows *state,
                                             size_t begin,
                                             size_t end,
                                             void *out);

/* A pair: blocks up [rows, r], or turned for factors, and down [r, cols]; of a
 * transposed weight what was prepared for it. */
enum { LORA__BLOCK_DOWN = LORA__BLOCK_A, LORA__BLOCK_UP = LORA__BLOCK_BT };

LORA_PRIVATE lora_status lora__kind_load_up(lora__rows *state,
                                            const lora_adapter *adapter,
                                            const lora__module *module,
                                            lora_error *error);
LORA_PRIVATE void lora__kind_pair_rows(const lora__rows *state,
                                       const lora__module *module,
                                       size_t begin,
                                       size_t end,
                                       void *out);

/* As lora__kind.factors. Of a transposed weight those of the layer, as stored:
 * what is written back has their shapes. */
LORA_PRIVATE lora_status lora__kind_pair_factors(lora__factors *out,
                                                 const lora_adapter *adapter,
                                                 const lora__module *module,
                                                 lora_error *error);

/* Two blocks that are free between the loading of others. */
enum { LORA__BLOCK_SPARE = 4 };

/* Factors of a state's blocks up[rows, rank], which is turned, and down[rank,
 * cols]; LORA__BLOCK_SPARE is used. */
LORA_PRIVATE lora_status lora__kind_take_factors(lora__factors *out,
                                                 lora__rows *state,
                                                 size_t up,
                                                 size_t down,
                                                 lora_error *error);

/* Load b [inner, in] with a core [rank, inner, K...] multiplied in:
 *   block[i, q * K + x] = sum_j core[i, j, x] b[j, q] */
LORA_PRIVATE lora_status lora__kind_load_cored(lora__rows *state,
                                               size_t block,
                                               const lora_adapter *adapter,
                                               const lora__member *core,
                                               const lora__member *b,
                                               lora_error *error);

/* out[m, n] = a[m, k] b[k, n], in the state's type, with elements a row: one
 * accumulator an element, k ascending, fused. The same bits for any cut into
 * blocks. */
LORA_PRIVATE void lora__kind_gemm(const lora__rows *state,
                                  void *out,
                                  size_t ldo,
                                  const void *a,
                                  size_t lda,
                                  const void *b,
                                  size_t ldb,
                                  size_t m,
                                  size_t n,
                                  size_t k);

/* Exact factors, of scale 1, of a block [rows, cols] of a state in F64: itself,
 * and an identity on its shorter side. */
LORA_PRIVATE lora_status lora__kind_whole_factors(lora__factors *out,
                                                  const lora__rows *state,
                                                  const double *block,
                                                  size_t rows,
                                                  size_t cols,
                                                  lora_error *error);

/* Rows of scale * a b, of blocks a [rows, rank] and b [rank, cols]. */
LORA_PRIVATE void lora__kind_rows_product(const lora__rows *state,
                                          size_t a,
                                          size_t b,
                                          size_t begin,
                                          size_t end,
                                          void *out);

/* A sparse residual beside a pair, if there is one: see sparse.c. `prepare`
 * wants the strength in `sparse`; `add` adds it to rows that are computed. */
#define LORA__ROLES_SPARSE                                                     \
    (LORA__ROLE_BIT(LORA__ROLE_SPARSE_INDICES) |                               \
     LORA__ROLE_BIT(LORA__ROLE_SPARSE_VALUES) |                                \
     LORA__ROLE_BIT(LORA__ROLE_SPARSE_SIZE))

LORA_PRIVATE lora_status lora__sparse_parse(lora__opening *opening,
                                            lora__module *module);
LORA_PRIVATE lora_status lora__sparse_prepare(lora__rows *state,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora_error *error);
LORA_PRIVATE void
lora__sparse_add(const lora__rows *state, size_t begin, size_t end, void *out);

/* Elements of the dimensions from `first` on. */
LORA_PRIVATE int64_t lora__kind_product(const lora__entry *entry,
                                        int32_t first);

#endif
