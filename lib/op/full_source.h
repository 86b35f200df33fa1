/* Dense changes of an adapter as tensors of a container. */
#ifndef LORA__OP_FULL_SOURCE_H
#define LORA__OP_FULL_SOURCE_H

#include "model/base.h"

typedef struct lora__full_source lora__full_source;

/* A tensor: the change of a weight or bias, rounded to a type. */
typedef struct lora__full_item {
    lora__full_source *source;
    size_t module;
    lora_part part;
    lora_dtype dtype;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
} lora__full_item;

/* What rows are read through: the state of one item, and some of its rows. */
typedef struct lora__full_reading {
    const lora__full_item *item; /* NULL: none */
    lora__found_base found;
    lora__rows state;
    size_t step;  /* rows at a time */
    size_t begin; /* of those that are there, up to `end` */
    size_t end;
    unsigned char *numbers; /* as computed, in the state's type */
    unsigned char *rounded; /* in the item's */
    size_t bytes;           /* of each */
} lora__full_reading;

struct lora__full_source {
    lora_adapter *adapter;  /* owned in part */
    lora__checkpoint *base; /* the same; or NULL */
    const lora__kernels *kernels;
    lora__full_item *items; /* in the container's arena, in its order */
    size_t count;
    uint32_t readers;          /* atomic */
    lora__full_reading common; /* of the first of them */
};

/* A container of the items, of which there may be `room`, none yet. */
LORA_PRIVATE lora_status
lora__full_source_create(lora__container **out,
                         lora__full_source **out_source,
                         lora_adapter *adapter,
                         lora__checkpoint *base,
                         size_t room,
                         lora_error *error);

/* One more: its module, part, type and shape. */
LORA_PRIVATE lora_status lora__full_source_add(lora__container *container,
                                               lora__full_source *source,
                                               const lora__full_item *item,
                                               lora_error *error);

/* Have rows [begin, end) of an item, at most `step` of them, as numbers and
 * rounded. A zeroed one is none yet. */
LORA_PRIVATE lora_status lora__full_read(lora__full_reading *window,
                                         const lora__full_item *item,
                                         size_t begin,
                                         size_t end,
                                         lora_error *error);
LORA_PRIVATE lora_status lora__full_open(lora__full_reading *window,
                                         const lora__full_item *item,
                                         lora_error *error);
LORA_PRIVATE void lora__full_close(lora__full_reading *window);

#endif
