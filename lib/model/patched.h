/* Tensors of a model as adapters leave them.
 *
 * Adapters are applied one after another, in the order they are given. A change
 * that does not depend on the weight is added; a kind that needs the weight has
 * the one that those before it left. All is summed in F32; whoever asks rounds
 * once, when everything is in.
 */
#ifndef LORA__MODEL_PATCHED_H
#define LORA__MODEL_PATCHED_H

#include "adapter/strength.h"
#include "model/bind.h"

/* One adapter that is applied. */
typedef struct lora__patch {
    const lora__bind *bind;
    lora_strength strength;
    const double *factors; /* one for each module, times the strength; NULL:
                            * they are 1 */
} lora__patch;

/* Rows of a tensor as they are before; they are there. */
typedef lora_status (*lora__patched_source)(float *out,
                                            void *user,
                                            size_t tensor,
                                            uint64_t first,
                                            size_t count,
                                            lora_error *error);

typedef struct lora__patched {
    const lora__checkpoint *model; /* of all bindings */
    const lora__patch *patches;
    size_t patch_count;
    lora_strength_rule rule;
    lora_dora_rule dora;
    lora__patched_source source; /* NULL: the checkpoint's */
    void *source_user;
    int alone; /* 1: all tensors are zeros before, so that what is added is
                * told alone */
} lora__patched;

/* How strong a module is. */
LORA_PRIVATE double lora__patch_strength(const lora__patch *patch,
                                         size_t module);

/* 1 if an adapter changes the tensor; one of strength 0 changes nothing. */
LORA_PRIVATE int lora__patched_changes(const lora__patched *patched,
                                       size_t tensor);

/* 1 if what is added to the tensor depends neither on its numbers nor on a
 * decomposition: it has the same bits on every machine. */
LORA_PRIVATE int lora__patched_adds(const lora__patched *patched,
                                    size_t tensor);

/* What computing rows of one tensor takes, for one thread. */
typedef struct lora__patcher lora__patcher;

LORA_PRIVATE lora_status lora__patcher_open(lora__patcher **out,
                                            const lora__patched *patched,
                                            size_t tensor,
                                            lora_error *error);

/* Rows [first, first + count) of the tensor, which has them, after all
 * adapters: count x columns numbers. The same rows have the same bits whichever
 * others are asked for. */
LORA_PRIVATE lora_status lora__patcher_read(float *out,
                                            lora__patcher *patcher,
                                            size_t first,
                                            size_t count,
                                            lora_error *error);

/* Closing NULL does nothing. */
LORA_PRIVATE void lora__patcher_close(lora__patcher *patcher);

#endif
