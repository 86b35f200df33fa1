/* The kinds table: everything that tells one kind of adapter from another.
 *
 * A kind is one file in kinds/ and one line in kinds/table.c. It knows roles,
 * not spellings; nothing outside kinds/ knows a kind's formula, and nothing
 * switches on kinds.
 */
#ifndef LORA__ADAPTER_KIND_H
#define LORA__ADAPTER_KIND_H

#include "adapter/adapter.h"
#include "adapter/chain.h"
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
    double *up_t;  /* [rank, rows] */
    double *down;  /* [rank, cols] */
    double *sigma; /* [rank], descending: singular values of up * down, whose
                    * vectors times their roots the rows of up_t and down are.
                    * NULL: these are any factors */
} lora__factors;

/* A tensor of the base model: rows of numbers, one for each step of the first
 * dimension. */
typedef struct lora__base_tensor lora__base_tensor;
struct lora__base_tensor {
    const char *name; /* for messages */
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
    /* Rows [begin, end), which are there, as numbers of `dtype`. */
    lora_status (*read)(void *out,
                        lora_dtype dtype,
                        const lora__base_tensor *tensor,
                        size_t begin,
                        size_t end,
                        lora_error *error);
    const void *user; /* what read() takes them from */
    const lora__kernels *kernels;
    size_t step; /* numbers of one row */
};

/* What the base has for a module; NULL: no such tensor. */
typedef struct lora__base {
    const lora__base_tensor *weight;
    const lora__base_tensor *bias;
} lora__base;

/* Blocks of numbers: kinds have the first ones, what is around a kind the
 * last. */
enum {
    LORA__BLOCK_DORA = 8,
    LORA__BLOCK_SPARSE,
    LORA__MAX_BLOCKS = LORA__BLOCK_SPARSE + 3
};

/* Rows that begin where those before end, in grains of so many. */
enum { LORA__MAX_GRAINS = 8 };
typedef struct lora__grain {
    size_t end;
    size_t rows;
} lora__grain;

/* How the norms of DoRA are made. */
typedef struct lora__dora {
    int32_t peft;    /* 1: PEFT's rule, else LyCORIS' */
    int32_t inputs;  /* 1: a norm for each input, else for each row */
    size_t count;    /* of norms */
    double strength; /* LyCORIS' m */
} lora__dora;

/* What computing rows of a dense change needs, made once for many rows.
 *
 * A kind whose change depends on the base weight sets `needs` of its modules
 * when parsing, and finds the base's rows by lora__rows_base(): in `rows` those
 * of the same numbers, and with them the whole of each `grain` of rows that
 * one of them is in; in `prepare` none, unless it asks by lora__rows_want(),
 * which it may do for some rows after others. It answers W' - W. Where the bias
 * is among the needs, prepare and rows are called for that too: a weight of one
 * column, the bias being its base.
 */
typedef struct lora__rows {
    lora_context *context;
    const lora__kernels *kernels;
    lora_dtype dtype; /* F32 or F64: of the blocks, the sums and the output */
    double multiplier;
    size_t rows;
    size_t cols;
    size_t rank;
    size_t sizes[2];                /* the kind's */
    void *blocks[LORA__MAX_BLOCKS]; /* the kind's; freed by
                                     * lora__rows_destroy() */
    size_t block_bytes[LORA__MAX_BLOCKS];
    lora_part part;
    const lora__base_tensor *base;   /* of the part; NULL: it is not used */
    const lora__base_tensor *weight; /* of the base, whatever the part; may be
                                      * NULL */
    size_t grain;                    /* rows of the base that go together, 1 at
                                      * least; set by `prepare` */
    lora__grain grains[LORA__MAX_GRAINS]; /* where they are not the same for all
                                           * rows; `grain` is then the most */
    size_t grain_count;                   /* 0: they are */
    unsigned char *base_rows;             /* [base_begin, base_end), in dtype */
    size_t base_bytes;
    size_t base_begin;
    size_t base_end;
    double after;     /* what W' - W is multiplied by: the strength, where a
                       * kind that is not linear in it interpolates */
    int32_t weights;  /* 1: W' is wanted, not W' - W */
    int32_t factors;  /* 1: factors are made of the blocks, and no rows */
    int32_t own_rows; /* 1: the part's change is `rows` of the kind */
    double sparse;    /* what a sparse residual is multiplied by */
    int32_t has_dora; /* 1: with DoRA around it */
    lora__dora dora;
} lora__rows;

/* How rows are to be computed. */
typedef struct lora__rows_how {
    lora_part part;
    lora_dtype dtype; /* F32 or F64 */
    double strength;
    lora_strength_rule rule;
    lora_dora_rule dora;
    int32_t weights;        /* 1: W' instead of W' - W */
    int32_t factors;        /* 1: blocks for factors, not for rows */
    const lora__base *base; /* NULL: there is none */
} lora__rows_how;

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

/* How a tensor is written for readers of another dialect, who may know it under
 * another role, in other dimensions, or counted from another zero. */
typedef struct lora__respelling {
    lora__role role; /* UNKNOWN: it is left out */
    int32_t ndim;    /* -1: those it has */
    int64_t shape[LORA_MAX_DIMS];
    double plus;     /* added to each number */
    lora__role mark; /* a flag goes with it; UNKNOWN: none */
    int32_t marked;  /* what that is, 0 or 1 */
} lora__respelling;

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

    /* 1: the change at strength m is not m times that at 1, but what the
     * kind computes, unless the caller has it interpolated. */
    int32_t nonlinear;

    /* 1: its factors are what up and down hold, so that others can simply take
     * their place. */
    int32_t is_pair;

    /* 1: its scale is not alpha / rank, so that no alpha can say it. */
    int32_t own_scale;

    /* 1: its factors come with their singular values. */
    int32_t decomposes;

    /* 1: the weight's columns are what a layer gives, as an embedding's. */
    int32_t columns;

    /* 1: its tensors are a weight, or all of a change: no rank to lower. */
    int32_t is_whole;

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
     * multiplier. All else is set: rows and cols are those of the base where
     * the module needs it. NULL where the kind is not computed. */
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

    /* Exact factors of a change that depends on the base, of a state in F64
     * that `prepare` made, which may lose its blocks; NULL where they are not
     * simpler than the change itself. */
    lora_status (*based_factors)(lora__factors *out,
                                 lora__rows *state,
                                 const lora__module *module,
                                 lora_error *error);

    /* How a tensor of the module goes with the rows of its weight, if not in
     * the way of all kinds; *out is that of a tensor which all rows have in
     * common. 0: not in a way that could be followed. NULL: none of them. */
    int (*extent)(lora__extent *out,
                  const lora_adapter *adapter,
                  const lora__module *module,
                  lora__role role);

    /* How a tensor is written in another dialect, if not as all kinds are;
     * *out is that. UNSUPPORTED where its readers could not have the same
     * change of it. NULL: as all kinds. */
    lora_status (*respell)(lora__respelling *out,
                           const lora_adapter *adapter,
                           const lora__module *module,
                           lora__role role,
                           const lora__dialect *to,
                           lora_error *error);

    /* The module as a chain of products, to run a layer; NULL where the kind
     * has none. See chain.h. */
    lora__chain_fn chain;
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

/* UNSUPPORTED: a dialect cannot hold the module, and why. */
LORA_PRIVATE lora_status lora__respell_refuse(const lora__module *module,
                                              const lora__dialect *to,
                                              const char *why,
                                              lora_error *error);

/* How a tensor of a module is written in another dialect than its own.
 * UNSUPPORTED, with module, kind and dialect, where there is no way. */
LORA_PRIVATE lora_status lora__module_respell(lora__respelling *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora__role role,
                                              const lora__dialect *to,
                                              lora_error *error);

/* The dimensions that go with a respelling, of a tensor whose own they are. */
LORA_PRIVATE void lora__respell_shape(lora__respelling *out,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora__role role,
                                      const lora__dialect *to,
                                      int32_t ndim,
                                      const int64_t *shape);

/* What a module has beside its factors, as words for a message, or NULL:
 * nothing. */
LORA_PRIVATE const char *lora__module_beside(const lora__module *module);

/* A module without the DoRA around it: the change that its factors make, of
 * which W' is made by new norms. Others are as they were. */
static inline lora__module lora__module_inner(const lora__module *module)
{
    lora__module inner = *module;

    if (module->dora) {
        inner.dora = 0;
        inner.needs &= ~(int32_t)LORA_PART_WEIGHT;
    }
    return inner;
}

/* 1 if a module has a trained bias that takes the place of the base's, as
 * PEFT's have it: b' = b + m (trained - b). */
static inline int lora__module_replaces_bias(const lora__module *module)
{
    return lora__module_find(module, LORA__ROLE_BIAS) != NULL &&
           lora__dialect_alpha_in_metadata(module->dialect);
}

/* 1 if DoRA's magnitudes are of the inputs of a weight that has several
 * columns for each, or may have. */
LORA_PRIVATE int lora__dora_is_of_kernels(const lora_adapter *adapter,
                                          const lora__module *module);

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

/* Factors of the state's sizes and scale, which are two blocks of the state,
 * taken from it: up_t[rank, rows] and down[rank, cols]. */
LORA_PRIVATE void lora__factors_take(lora__factors *out,
                                     lora__rows *state,
                                     size_t up_t,
                                     size_t down);

/* OK and the shape of the part, the base's where that takes part, or why its
 * rows cannot be computed. */
LORA_PRIVATE lora_status lora__rows_plan(int64_t shape[LORA_MAX_DIMS],
                                         int32_t *out_ndim,
                                         const lora__module *module,
                                         const lora__rows_how *how,
                                         lora_error *error);

/* Rows of a module's weight or bias change; the first without a base. */
LORA_PRIVATE lora_status lora__rows_create(lora__rows *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           lora_part part,
                                           double strength,
                                           lora_dtype dtype,
                                           lora_error *error);
LORA_PRIVATE lora_status lora__rows_create_how(lora__rows *out,
                                               const lora_adapter *adapter,
                                               const lora__module *module,
                                               const lora__rows_how *how,
                                               lora_error *error);

/* A state to make factors of, in f64; no rows are asked of it. */
LORA_PRIVATE lora_status lora__rows_create_factors(lora__rows *out,
                                                   const lora_adapter *adapter,
                                                   const lora__module *module,
                                                   lora_error *error);

/* The same rows give the same bits, whichever others are asked for. */
LORA_PRIVATE lora_status lora__rows_read(lora__rows *state,
                                         const lora__module *module,
                                         size_t begin,
                                         size_t end,
                                         void *out,
                                         lora_error *error);
LORA_PRIVATE void lora__rows_destroy(lora__rows *state);

/* Have rows [begin, end) of the base there, instead of those before. */
LORA_PRIVATE lora_status lora__rows_want(lora__rows *state,
                                         size_t begin,
                                         size_t end,
                                         lora_error *error);

/* The grain that a row is in: its rows, and the place among `grains` of those
 * like it. */
LORA_PRIVATE size_t lora__rows_grain(size_t *out_begin,
                                     size_t *out_end,
                                     const lora__rows *state,
                                     size_t row);

/* The rows of a module with DoRA; see kinds/dora.c. */
LORA_PRIVATE lora_status lora__dora_prepare(lora__rows *state,
                                            const lora_adapter *adapter,
                                            const lora__module *module,
                                            lora_dora_rule rule,
                                            lora_error *error);
LORA_PRIVATE void lora__dora_rows(const lora__rows *state,
                                  const lora__module *module,
                                  size_t begin,
                                  size_t end,
                                  void *out);

/* OPTION for a number that names no rule. */
LORA_PRIVATE lora_status lora__rules_check(lora_strength_rule rule,
                                           lora_dora_rule dora,
                                           lora_error *error);

/* The shape of a part: the base's if there is one, else the module's. SHAPE
 * where they differ in more than dimensions of 1 at the end. */
LORA_PRIVATE lora_status lora__base_shape(int64_t shape[LORA_MAX_DIMS],
                                          int32_t *out_ndim,
                                          const lora__module *module,
                                          lora_part part,
                                          const lora__base_tensor *tensor,
                                          lora_error *error);

/* A tensor of the base that lies in memory, of any float type. */
LORA_PRIVATE lora_status lora__base_view(lora__base_tensor *out,
                                         const lora_context *context,
                                         const lora_tensor *tensor,
                                         const char *name,
                                         lora_error *error);

/* Read a whole tensor as F32 or F64 numbers into a new block of the state. */
LORA_PRIVATE lora_status lora__rows_load(lora__rows *state,
                                         size_t block,
                                         const lora_adapter *adapter,
                                         size_t entry,
                                         lora_error *error);

/* The same turned: [cols, rows], of a tensor [rows, ...], whose other
 * dimensions count as one. */
LORA_PRIVATE lora_status lora__rows_load_turned(lora__rows *state,
                                                size_t block,
                                                const lora_adapter *adapter,
                                                size_t entry,
                                                lora_error *error);

/* As lora__rows_load() into memory of the caller's, as F64. */
LORA_PRIVATE lora_status lora__rows_load_f64(double *out,
                                             const lora__rows *state,
                                             const lora_adapter *adapter,
                                             size_t entry,
                                             lora_error *error);

/* An empty block of `count` numbers of the state's type. */
LORA_PRIVATE lora_status lora__rows_block(lora__rows *state,
                                          size_t block,
                                          size_t count,
                                          lora_error *error);

/* Free a block that is needed no longer. */
LORA_PRIVATE void lora__rows_drop(lora__rows *state, size_t block);

/* Bytes of one number of the state. */
static inline size_t lora__rows_size(const lora__rows *state)
{
    return state->dtype == LORA_DTYPE_F64 ? sizeof(double) : sizeof(float);
}

/* out[c, r] = in[r, c], in the state's type. */
static inline void lora__rows_transpose(const lora__rows *state,
                                        void *out,
                                        const void *in,
                                        size_t rows,
                                        size_t cols)
{
    lora__transpose(out, in, rows, cols, lora__rows_size(state));
}

/* A row of the base, which is there. */
static inline const void *lora__rows_base(const lora__rows *state, size_t row)
{
    return state->base_rows +
           (row - state->base_begin) * state->cols * lora__rows_size(state);
}

/* A number of a block, or of a row, in the state's type. */
static inline double
lora__rows_get(const lora__rows *state, const void *block, size_t index)
{
    return state->dtype == LORA_DTYPE_F64
               ? ((const double *)block)[index]
               : (double)((const float *)block)[index];
}

static inline void
lora__rows_set(const lora__rows *state, void *block, size_t index, double value)
{
    if (state->dtype == LORA_DTYPE_F64) {
        ((double *)block)[index] = value;
    } else {
        ((float *)block)[index] = (float)value;
    }
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

/* out[0, count) *= by. */
static inline void
lora__rows_scale_by(const lora__rows *state, void *out, double by, size_t count)
{
    if (state->dtype == LORA_DTYPE_F64) {
        state->kernels->scale_f64(out, by, count);
    } else {
        state->kernels->scale_f32(out, (float)by, count);
    }
}

/* out[0, count) *= multiplier. */
static inline void
lora__rows_scale(const lora__rows *state, void *out, size_t count)
{
    lora__rows_scale_by(state, out, state->multiplier, count);
}

#endif
