/* A hash map from byte strings to indices, keys borrowed. */
#ifndef LORA__CORE_MAP_H
#define LORA__CORE_MAP_H

#include "core/context.h"

typedef struct lora__map_slot {
    const char *key;
    size_t key_bytes;
    uint64_t hash;
    size_t value;
} lora__map_slot;

typedef struct lora__map {
    lora_context *context;
    lora__map_slot *slots;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
} lora__map;

LORA_PRIVATE void lora__map_init(lora__map *map, lora_context *context);
LORA_PRIVATE void lora__map_destroy(lora__map *map);

/* Make room for that many keys at once. */
LORA_PRIVATE lora_status lora__map_reserve(lora__map *map,
                                           size_t count,
                                           lora_error *error);

/* Add a key. *out_existing is its value if it was there already (and is then
 * left alone), else `value`. */
LORA_PRIVATE lora_status lora__map_add(size_t *out_existing,
                                       lora__map *map,
                                       const char *key,
                                       size_t key_bytes,
                                       size_t value,
                                       lora_error *error);

/* 1 and the value, or 0. */
LORA_PRIVATE int lora__map_find(size_t *out_value,
                                const lora__map *map,
                                const char *key,
                                size_t key_bytes);

#endif
