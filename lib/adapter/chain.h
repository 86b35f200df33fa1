/* A module as a chain of small products: what running a layer forward and
 * back needs to know of a kind.
 *
 * One sample goes through the links as a tensor [before, in, after, positions],
 * which each link turns into [before, out, after, positions]: along one axis it
 * multiplies by a matrix weight[out, in]. At most one link has the kernel of a
 * convolution, weight[out, in, kernel], and changes the positions; its `after`
 * is 1. Layers that are no convolutions have one position. The last link gives
 * the layer's outputs, and the chain's result is yet to be multiplied by the
 * module's scale.
 *
 *   LoRA   down, up         LoCon  down with the kernel, up
 *   core   down, core with the kernel, up
 *   embedding  A, of which columns are looked up, B
 *   (IA)3  a number for each channel, each of `before` with a part of its own
 *   LoKr   [i1, i2] by w2 along i2, by w1 along i1: w1 between the factors of
 *          w2 if it has them, where the tensor is smallest
 *
 * Groups of a convolution go side by side through the links, as the first part
 * of `before`. Each has rows of its own of the last link's weight; or with
 * LoKr, whose rows [o1, o2] are cut, rows of w1 or of w1 and w2.
 */
#ifndef LORA__ADAPTER_CHAIN_H
#define LORA__ADAPTER_CHAIN_H

#include "adapter/adapter.h"
#include "kernel/kernel.h"

#include <lora/layer.h>

enum { LORA__CHAIN_LINKS = 5, LORA__CHAIN_FACTORS = 8 };

typedef struct lora__link lora__link;

/* One factor of a Hadamard product: a [rows, outer] and b [inner, in], b with
 * the core [outer, inner, kernel] if there is one; a is stored transposed
 * then. `a`, `b` and `core` are indices of factors. */
typedef struct lora__link_side {
    size_t a;
    size_t b;
    size_t core; /* SIZE_MAX: none; outer is inner */
    size_t outer;
    size_t inner;
} lora__link_side;

struct lora__link {
    size_t before;
    size_t in;
    size_t out;
    size_t after;
    size_t kernel; /* elements; 1 without `conv` */
    int conv;      /* takes the layer's stride, padding and dilation */
    int lookup;    /* of the first: what comes in is the number of a column */

    /* The rows of the weight are cut into parts, and item i of `before` is
     * multiplied by part i / each % parts: to `out` / parts rows. */
    size_t parts;
    size_t each;

    /* The weight is a factor as it is stored, or transposed; or made. */
    size_t factor;
    int turned;
    const struct lora__link_maker *maker; /* NULL: not made */
    lora__link_side sides[2];             /* the maker's */
};

/* Weights that are made of several factors. Both work in `scratch`, of the
 * size that was asked for; factors and gradients are by index of factor. */
typedef struct lora__link_maker {
    /* The numbers that scratch has; 0 on overflow. */
    size_t (*scratch)(const lora__link *link);

    /* weight[out, in * kernel] */
    void (*make)(float *weight,
                 const lora__link *link,
                 const float *const *factors,
                 const lora__kernels *kernels,
                 float *scratch);

    /* Add to the gradients, those that are not NULL, what follows from the
     * gradient of the weight. */
    void (*pull)(float *const *gradients,
                 const lora__link *link,
                 const float *gradient,
                 const float *const *factors,
                 const lora__kernels *kernels,
                 float *scratch);
} lora__link_maker;

/* A whole tensor, or numbers of one from `first` on as a matrix, or a matrix
 * that is drawn again. */
typedef struct lora__chain_factor {
    size_t entry; /* in the container; SIZE_MAX: it is drawn */
    lora__role role;
    int frozen; /* is not trained */
    size_t first;
    size_t shape[2]; /* {0, 0}: that of the tensor */
    lora_status (*draw)(float *out,
                        const lora_adapter *adapter,
                        const lora__module *module,
                        const struct lora__chain_factor *factor,
                        lora_error *error);
} lora__chain_factor;

typedef struct lora__chain {
    lora__link links[LORA__CHAIN_LINKS];
    size_t link_count;
    lora__chain_factor factors[LORA__CHAIN_FACTORS];
    size_t factor_count;
    lora_layer_place place;
} lora__chain;

/* Fill in the chain of a usable module whose kernel has that many elements,
 * which divides the columns of its weight, in a layer of that many groups. A
 * table's `chain`. */
typedef lora_status (*lora__chain_fn)(lora__chain *out,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      size_t kernel,
                                      size_t groups,
                                      lora_error *error);

LORA_PRIVATE lora_status lora__chain_pair(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error);
LORA_PRIVATE lora_status lora__chain_light(lora__chain *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           size_t kernel,
                                           size_t groups,
                                           lora_error *error);
LORA_PRIVATE lora_status lora__chain_embedding(lora__chain *out,
                                               const lora_adapter *adapter,
                                               const lora__module *module,
                                               size_t kernel,
                                               size_t groups,
                                               lora_error *error);
LORA_PRIVATE lora_status lora__chain_full(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error);
LORA_PRIVATE lora_status lora__chain_loha(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error);
LORA_PRIVATE lora_status lora__chain_lokr(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error);

/* For those: all groups through all links, with rows of the last one for each.
 */
LORA_PRIVATE lora_status lora__chain_split(lora__chain *chain,
                                           size_t groups,
                                           lora_error *error);

/* For those: take a role's tensor as the next factor. SIZE_MAX: the module has
 * none. */
LORA_PRIVATE size_t lora__chain_take(lora__chain *chain,
                                     const lora__module *module,
                                     lora__role role);

#endif
