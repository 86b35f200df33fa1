/* The kinds table: everything that tells one kind of adapter from another.
 *
 * A kind is one file in kinds/ and one line in kinds/table.c. It knows roles,
 * not spellings; nothing outside kinds/ knows a kind's formula, and nothing
 * switches on kinds.
 */
#ifndef LORA__ADAPTER_KIND_H
#define LORA__ADAPTER_KIND_H

#include "adapter/adapter.h"
#include "kernel/kernel.h"

/* The currency of op/: dW[rows, cols] = scale * up[rows, rank] * down[rank,
 * cols]. The scale stays apart until a writer applies it, once. f64, since
 * SVDs follow; up is transposed so that both have their long side contiguous.
 * Of a module whose weight is stored transposed they are the layer's factors:
 * dW^T then.
 */
typedef struct lora__factors {
    lora_context *context;
    size_t rows;
    size_t cols;
    size_t rank;
    double scale;
    double *up_t; /* [rank, rows] */
    double *down; /* [rank, cols] */
} lora__factors;

/* What computing rows of a dense change needs, made once for many rows. */
typedef struct lora__rows {
    lora_context *context;
    const lora__kernels *kernels;
    lora_dtype dtype; /* F32 or F64: of the blocks, the sums and the output */
    double multiplier;
    size_t rows;
    size_t cols;
    size_t rank;
    void *blocks[4]; /* the kind's; freed by lora__rows_destroy() */
    size_t block_bytes[4];
} lora__rows;

/* How a tensor goes with the weight, for taking some rows of it, or putting
 * those of several modules together. */
enum { LORA__AXIS_NONE = -1 };
typedef struct lora__extent {
    int32_t rows;      /* the dimension over the weight's rows; NONE: it is the
                        * same for all of them */
    int32_t terms;     /* the dimension over the terms whose sum is the change;
                        * NONE: it has no such, or is not a sum */
    int64_t grain;     /* rows of the weight for one step of `rows` */
    int32_t neutral;   /* 1: zeros in some rows leave these as they are */
    lora__role mirror; /* what the tensor, transposed, is to the transposed
                        * weight; UNKNOWN: nothing */
} lora__extent;

/* A set of roles. */
#define LORA__ROLE_BIT(role) ((uint64_t)1 << (role))

/* Roles that any kind may have: alpha is ignored where it has no meaning. */
#define LORA__ROLES_COMMON LORA__ROLE_BIT(LORA__ROLE_ALPHA)

struct lora__kind {
    const char *id;

    /* The roles it understands, besides the common ones. A module with others
     * is refused: leaving a tensor out would change the effect. */
    uint64_t roles;

    /* What to multiply for a change that is m times as strong, where it is in
     * proportion to that. `scaled`: what alpha multiplies too; one tensor of
     * the weight change, and what belongs to a bias. `unscaled`: all else.
     * Both 0: not in proportion, or not known to be. */
    uint64_t scaled;
    uint64_t unscaled;

    /* 1: factors are not its tensors down and up but made of more, so that
     * others cannot simply take their place. */
    int32_t composite;

    /* How well the module's roles and shapes fit: 0 not at all; the highest
     * wins. */
    int (*claim)(const lora_adapter *adapter, const lora__module *module);

    /* Check the module and set rank, shape, dtype, scale, changes, flags. A
     * module that cannot be used is marked by lora__module_reject() and is no
     * failure of the call. */
    lora_status (*parse)(lora__opening *opening, lora__module *module);

    /* The rank of the exact factors of the weight change, and the factors;
     * both NULL where the kind has none. */
    size_t (*factor_rank)(const lora_adapter *adapter,
                          const lora__module *module);
    lora_status (*factors)(lora__factors *out,
                           const lora_adapter *adapter,
                           const lora__module *module,
                           lora_error *error);

    /* Load the blocks, set rank, and multiply the kind's scale into the
     * multiplier; NULL where it needs the base weight. All else is set. */
    lora_status (*prepare)(lora__rows *state,
                           const lora_adapter *adapter,
                           const lora__module *module,
                           lora_error *error);

    /* Rows [begin, end) of multiplier * dW into `out`. */
    void (*rows)(const lora__rows *state,
                 const lora__module *module,
                 size_t begin,
                 size_t end,
                 void *out);

    /* How a tensor of the module goes with the rows of its weight, if not in
     * the way of all kinds; *out is that of a tensor which all rows have in
     * common. 0: not in a way that could be followed. NULL: none of them. */
    int (*extent)(lora__extent *out,
                  const lora_adapter *adapter,
                  const lora__module *module,
                  lora__role role);
};

LORA_PRIVATE size_t lora__kind_count(void);
LORA_PRIVATE const lora__kind *lora__kind_at(size_t index);

/* How a tensor of a module goes with the rows of its weight. UNSUPPORTED, with
 * kind and role, if rows cannot be taken of it. */
LORA_PRIVATE lora_status lora__module_extent(lora__extent *out,
                                             const lora_adapter *adapter,
                                             const lora__module *module,
                                             lora__role role,
                                             lora_error *error);

/* OK, or why a module has no factors. */
LORA_PRIVATE lora_status lora__module_has_factors(const lora__module *module,
                                                  lora_error *error);

/* Factors of a module, destroyed with lora__factors_destroy(). UNSUPPORTED
 * where its kind has none. */
LORA_PRIVATE lora_status lora__module_factors(lora__factors *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora_error *error);
LORA_PRIVATE lora_status lora__factors_alloc(lora__factors *out,
                                             lora_context *context,
                                             size_t rows,
                                             size_t cols,
                                             size_t rank,
                                             lora_error *error);
LORA_PRIVATE void lora__factors_destroy(lora__factors *factors);

/* Factors of the state's sizes and scale, whose down is a block of the state,
 * taken from it; up_t is there to be filled. */
LORA_PRIVATE lora_status lora__factors_take(lora__factors *out,
                                            lora__rows *state,
                                            size_t block,
                                            lora_error *error);

/* OK, or why rows of a part cannot be computed. */
LORA_PRIVATE lora_status lora__rows_check(const lora__module *module,
                                          lora_part part,
                                          lora_error *error);

/* Rows of a module's weight or bias change. */
LORA_PRIVATE lora_status lora__rows_create(lora__rows *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           lora_part part,
                                           double strength,
                                           lora_dtype dtype,
                                           lora_error *error);
LORA_PRIVATE void lora__rows_read(const lora__rows *state,
                                  const lora__module *module,
                                  lora_part part,
                                  size_t begin,
                                  size_t end,
                                  void *out);
LORA_PRIVATE void lora__rows_destroy(lora__rows *state);

/* Read a whole tensor as F32 or F64 numbers into a new block of the state. */
LORA_PRIVATE lora_status lora__rows_load(lora__rows *state,
                                         size_t block,
                                         const lora_adapter *adapter,
                                         size_t entry,
                                         lora_error *error);

/* An empty block of `count` numbers of the state's type. */
LORA_PRIVATE lora_status lora__rows_block(lora__rows *state,
                                          size_t block,
                                          size_t count,
                                          lora_error *error);

/* out[c, r] = in[r, c], in the state's type. */
LORA_PRIVATE void lora__rows_transpose(const lora__rows *state,
                                       void *out,
                                       const void *in,
                                       size_t rows,
                                       size_t cols);

/* Bytes of one number of the state. */
static inline size_t lora__rows_size(const lora__rows *state)
{
    return state->dtype == LORA_DTYPE_F64 ? sizeof(double) : sizeof(float);
}

/* out[0, count) += by[index] * in[0, count), in the state's type. */
static inline void lora__rows_axpy(const lora__rows *state,
                                   void *out,
                                   const void *in,
                                   const void *by,
                                   size_t index,
                                   size_t count)
{
    if (state->dtype == LORA_DTYPE_F64) {
        state->kernels->axpy_f64(out, in, ((const double *)by)[index], count);
    } else {
        state->kernels->axpy_f32(out, in, ((const float *)by)[index], count);
    }
}

/* out[0, count) *= multiplier. */
static inline void
lora__rows_scale(const lora__rows *state, void *out, size_t count)
{
    if (state->dtype == LORA_DTYPE_F64) {
        state->kernels->scale_f64(out, state->multiplier, count);
    } else {
        state->kernels->scale_f32(out, (float)state->multiplier, count);
    }
}

#endif
