/* Hash maps from byte strings to indices: open addressing, linear probing. */
#include "core/map.h"

#include <string.h>

LORA_PRIVATE void lora__map_init(lora__map *map, lora_context *context)
{
    memset(map, 0, sizeof *map);
    map->context = context;
}

LORA_PRIVATE void lora__map_destroy(lora__map *map)
{
    if (map->slots != NULL) {
        lora__free(map->context, map->slots, map->capacity * sizeof *map->slots,
                   LORA__ALIGN);
    }
    lora__map_init(map, map->context);
}

static uint64_t map_mix(uint64_t hash, const char *key)
{
    uint64_t word;

    memcpy(&word, key, 8);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

/* Keyed with the context's address, which a file's author does not know, so
 * that names cannot be chosen to collide. FNV-1a over eight bytes at a time,
 * the last eight perhaps over some again, then mixed: short ASCII keys that
 * differ in one digit must spread over the low bits. */
static uint64_t map_hash(const lora__map *map, const char *key, size_t bytes)
{
    const char *const begin = key;
    uint64_t hash = 0xCBF29CE484222325u ^ bytes ^
                    (uint64_t)(uintptr_t)map->context * 0x9E3779B97F4A7C15u;

    while (bytes > 8) {
        hash = map_mix(hash, key);
        key += 8;
        bytes -= 8;
    }
    if (bytes == 8 || key != begin) {
        hash = map_mix(hash, key + bytes - 8);
    } else {
        for (size_t i = 0; i < bytes; i++) {
            hash = (hash ^ (unsigned char)key[i]) * 0x100000001B3u;
        }
    }
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    return hash ^ (hash >> 32);
}

/* The slot that holds the key, or the free one where it belongs. */
static lora__map_slot *map_slot(lora__map_slot *slots,
                                size_t capacity,
                                uint64_t hash,
                                const char *key,
                                size_t key_bytes)
{
    size_t i = (size_t)hash & (capacity - 1);

    while (slots[i].key != NULL &&
           !(slots[i].hash == hash && slots[i].key_bytes == key_bytes &&
             memcmp(slots[i].key, key, key_bytes) == 0)) {
        i = (i + 1) & (capacity - 1);
    }
    return &slots[i];
}

/* How many keys a map holds before it grows. */
static size_t map_room(size_t capacity)
{
    return capacity / 4 * 3;
}

static lora_status
map_resize(lora__map *map, size_t capacity, lora_error *error)
{
    void *memory;
    lora__map_slot *slots;

    TRY(lora__alloc_zeroed(&memory, map->context, capacity, sizeof *map->slots,
                           error));
    slots = memory;
    for (size_t i = 0; i < map->capacity; i++) {
        const lora__map_slot *old = &map->slots[i];
        if (old->key != NULL) {
            *map_slot(slots, capacity, old->hash, old->key, old->key_bytes) =
                *old;
        }
    }
    if (map->slots != NULL) {
        lora__free(map->context, map->slots, map->capacity * sizeof *map->slots,
                   LORA__ALIGN);
    }
    map->slots = slots;
    map->capacity = capacity;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__map_reserve(lora__map *map,
                                           size_t count,
                                           lora_error *error)
{
    size_t capacity = map->capacity;

    while (map_room(capacity) < count) {
        TRY(lora__grow_capacity(&capacity, capacity, capacity + 1, error));
    }
    return capacity == map->capacity ? LORA_OK
                                     : map_resize(map, capacity, error);
}

LORA_PRIVATE lora_status lora__map_add(size_t *out_existing,
                                       lora__map *map,
                                       const char *key,
                                       size_t key_bytes,
                                       size_t value,
                                       lora_error *error)
{
    uint64_t hash = map_hash(map, key, key_bytes);
    lora__map_slot *slot;

    if (map->count >= map_room(map->capacity)) {
        TRY(lora__map_reserve(map, map->count + 1, error));
    }
    slot = map_slot(map->slots, map->capacity, hash, key, key_bytes);
    if (slot->key == NULL) {
        slot->key = key;
        slot->key_bytes = key_bytes;
        slot->hash = hash;
        slot->value = value;
        map->count++;
    }
    *out_existing = slot->value;
    return LORA_OK;
}

LORA_PRIVATE int lora__map_find(size_t *out_value,
                                const lora__map *map,
                                const char *key,
                                size_t key_bytes)
{
    const lora__map_slot *slot;

    if (map->capacity == 0) {
        return 0;
    }
    slot = map_slot(map->slots, map->capacity, map_hash(map, key, key_bytes),
                    key, key_bytes);
    if (slot->key == NULL) {
        return 0;
    }
    *out_value = slot->value;
    return 1;
}
