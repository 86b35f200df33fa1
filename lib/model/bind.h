/* What each module of an adapter changes in a model, and why the others change
 * nothing: nothing is passed over in silence.
 *
 * A module is found by its name or its target (base.h). What it changes is told
 * tensor by tensor: an effect is a module's weight or bias on one tensor, with
 * the rows that go with each other. A module of a weight that the model has in
 * several tensors has several effects; several modules may have effects on one
 * tensor, each on its rows.
 */
#ifndef LORA__MODEL_BIND_H
#define LORA__MODEL_BIND_H

#include "model/base.h"

typedef enum lora__bound_state {
    LORA__BOUND = 0,     /* it changes tensors of the model */
    LORA__BOUND_HALF,    /* the model has its weight, and not its bias, or the
                          * other way round: what it has is changed */
    LORA__BOUND_NOWHERE, /* the model has no such weight */
    LORA__BOUND_SHAPE,   /* it has one of another shape */
    LORA__BOUND_DTYPE,   /* it has one whose numbers cannot be changed */
    LORA__BOUND_PARTNER, /* half of the module is missing in the adapter */
    LORA__BOUND_DAMAGED, /* the module is unusable for another reason */
    LORA__BOUND_UNSUPPORTED,
    LORA__BOUND_UNKNOWN, /* a tensor of the adapter that is of no module */
    LORA__BOUND_STATES
} lora__bound_state;

/* Rows [begin, end) of the tensor are rows of the module's part, from `first`
 * on. */
typedef struct lora__span {
    size_t begin;
    size_t end;
    size_t first;
} lora__span;

typedef struct lora__effect {
    size_t tensor; /* in the checkpoint */
    size_t module; /* in the adapter */
    lora_part part;
    int turned; /* 1: the tensor is the transpose of the module's weight: one
                 * span, whose rows are the module's columns */
    const lora__span *spans;
    size_t span_count;
} lora__effect;

/* A module, or a tensor that is of none. */
typedef struct lora__bound {
    size_t module; /* SIZE_MAX: `tensor` of the adapter is of no module */
    size_t tensor;
    lora__bound_state state;
    lora_status status; /* what an operation that is strict answers */
    const char *reason; /* in words; "" where it is bound */
    lora__found_base *found;
    const lora__effect *effects;
    size_t effect_count;
} lora__bound;

typedef struct lora__bind {
    lora_context *context;
    lora__arena arena;
    const lora_adapter *adapter; /* both must outlive this */
    const lora__checkpoint *model;
    lora__bound *items; /* modules in the adapter's order, then tensors */
    size_t count;
    size_t counts[LORA__BOUND_STATES];
    const lora__effect **effects; /* by tensor, then in the items' order */
    size_t *first; /* the tensor's first effect; its end is the next's */
} lora__bind;

/* Find all modules of an adapter in a model. That one is not found is no
 * failure of the call: MEMORY, or what reading gives. */
LORA_PRIVATE lora_status lora__bind_create(lora__bind *out,
                                           const lora_adapter *adapter,
                                           const lora__checkpoint *model,
                                           lora_error *error);

/* A zeroed one may be destroyed. */
LORA_PRIVATE void lora__bind_destroy(lora__bind *bind);

#endif
