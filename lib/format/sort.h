/* Sorting without allocating: qsort of some C libraries calls malloc. */
#ifndef LORA__FORMAT_SORT_H
#define LORA__FORMAT_SORT_H

#include "platform/compiler.h"

/* Sort `count` items of `bytes` bytes each, ascending. Not stable: for one
 * result whatever the input's order, no two items may compare equal. Input
 * that is sorted already costs one pass. */
LORA_PRIVATE void lora__sort(void *items,
                             size_t count,
                             size_t bytes,
                             int (*compare)(const void *a, const void *b));

#endif
