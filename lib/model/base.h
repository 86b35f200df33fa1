/* Finding what a module changes in a base model. */
#ifndef LORA__MODEL_BASE_H
#define LORA__MODEL_BASE_H

#include "adapter/kind.h"
#include "model/checkpoint.h"

/* Weights that are one in the adapter and several in the base. */
#define LORA__MAX_PIECES 12

/* Rows [begin, end) of a module's tensor, from a row of a holding on. */
typedef struct lora__base_piece {
    const lora__holding *hold;
    size_t begin;
    size_t end;
    size_t first;
} lora__base_piece;

typedef struct lora__found_tensor {
    lora__holding whole; /* where the base has it as one */
    lora__base_piece pieces[LORA__MAX_PIECES];
    size_t piece_count;
    const lora__checkpoint *checkpoint;
} lora__found_tensor;

/* The weight and the bias of a module, as far as the base has them. Points into
 * itself: it is filled where it stays. */
typedef struct lora__found_base {
    lora__base base; /* what kinds take */
    lora__base_tensor tensors[2];
    lora__found_tensor found[2];
} lora__found_base;

/* Look for "<module>.weight" and "<module>.bias", the module's name being as
 * stored, that without "base_model.model.", or canonical; and where the module
 * is of a weight that the base has in parts, for all of those. What is not
 * there is no failure: kinds refuse it where they need it. */
LORA_PRIVATE lora_status lora__base_find(lora__found_base *out,
                                         const lora__checkpoint *checkpoint,
                                         const lora__module *module,
                                         lora_error *error);

/* How a part of a module is computed at strength 1, with what the base, which
 * may be NULL, has of it if it depends on that. */
LORA_PRIVATE lora_status lora__base_how(lora__rows_how *how,
                                        lora__found_base *found,
                                        const lora__checkpoint *checkpoint,
                                        const lora__module *module,
                                        lora_part part,
                                        lora_error *error);

/* Rows of a part of a module's change at strength 1, as numbers of a type, of
 * that base. They point to `found`. */
LORA_PRIVATE lora_status lora__base_rows(lora__rows *out,
                                         lora__found_base *found,
                                         const lora__checkpoint *checkpoint,
                                         const lora_adapter *adapter,
                                         const lora__module *module,
                                         lora_part part,
                                         lora_dtype dtype,
                                         lora_error *error);

/* 1: a part is what a module makes of the base's bias, and there is none. */
LORA_PRIVATE int lora__base_lacks_bias(const lora__module *module,
                                       lora_part part,
                                       const lora__rows_how *how);

#endif
