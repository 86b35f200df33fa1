/* Streams that torch.save wrote before 1.6:
 *
 *   pickle   the magic number
 *   pickle   1001, the version
 *   pickle   a dict that says, among others, the order of bytes
 *   pickle   the object
 *   pickle   a list of the keys of all storages
 *   count (64-bit), data                            for each of them
 *
 * A pickle does not say how long it is. As much as is needed is read: a piece
 * of the file is tried, then one four times as large.
 */
#include "format/torch.h"

#include <string.h>

#define LEGACY_FIRST_PIECE 65536

/* The first pickle: protocol 2, LONG1 of ten bytes, STOP. */
static const unsigned char legacy_magic[] = {
    0x80, 0x02, 0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46,
    0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E,
};

/* All but the last byte: a file that ends there is cut. */
LORA_PRIVATE int lora__torch_is_legacy(const unsigned char *head, size_t bytes)
{
    return bytes >= sizeof legacy_magic - 1 &&
           memcmp(head, legacy_magic, sizeof legacy_magic - 1) == 0;
}

typedef struct legacy_parts {
    lora__pickle version;
    lora__pickle system;
    lora__pickle object;
    lora__pickle keys;
    uint64_t end; /* where the storages begin */
} legacy_parts;

/* All pickles, from the begin of the file. */
static lora_status legacy_read_pickles(legacy_parts *out,
                                       const lora__container *container,
                                       lora__arena *arena,
                                       const unsigned char *text,
                                       size_t bytes,
                                       lora_error *error)
{
    lora__pickle *const parts[] = {&out->version, &out->system, &out->object,
                                   &out->keys};
    size_t at = sizeof legacy_magic;

    if (bytes < sizeof legacy_magic) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, bytes, container->path,
                          "a PyTorch checkpoint of the old form that ends "
                          "within its magic number");
    }
    if (memcmp(text, legacy_magic, sizeof legacy_magic) != 0) {
        return lora__fail(error, LORA_ERROR_FORMAT, 0, container->path,
                          "damaged magic number of a PyTorch checkpoint of "
                          "the old form");
    }
    for (size_t i = 0; i < LORA__COUNT(parts); i++) {
        TRY(lora__pickle_read(parts[i], arena, text + at, bytes - at, at,
                              container->path, error));
        at += parts[i]->bytes;
    }
    out->end = at;
    return LORA_OK;
}

/* Read a piece of the file and its pickles. */
static lora_status legacy_try(legacy_parts *out,
                              const lora__container *container,
                              lora__arena *arena,
                              size_t bytes,
                              lora_error *error)
{
    unsigned char *text = lora__arena_alloc(arena, bytes);

    if (text == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY(lora__reader_read(&container->reader, 0, text, bytes, container->path,
                          error));
    return legacy_read_pickles(out, container, arena, text, bytes, error);
}

static lora_status legacy_load(legacy_parts *out,
                               const lora__container *container,
                               lora__arena *arena,
                               lora_error *error)
{
    uint64_t limit = lora__context_get(container->context)->limits.header_bytes;
    uint64_t bytes = LEGACY_FIRST_PIECE;
    uint64_t most = container->file_bytes;

    most = most < limit ? most : limit;
    most = most < SIZE_MAX ? most : SIZE_MAX;
    for (;;) {
        lora_error tried;
        lora_status status;

        bytes = bytes < most ? bytes : most;
        lora_error_init(&tried, sizeof tried);
        status = legacy_try(out, container, arena, (size_t)bytes, &tried);
        if (status != LORA_ERROR_TRUNCATED || bytes == container->file_bytes) {
            return status == LORA_OK ? status
                                     : lora__error_merge(error, &tried);
        }
        if (bytes == most) {
            return lora__fail(error, LORA_ERROR_LIMIT, bytes, container->path,
                              "pickles of more than %llu bytes, over the limit",
                              (unsigned long long)bytes);
        }
        lora__arena_destroy(arena);
        bytes = bytes < most / 4 ? bytes * 4 : most;
    }
}

static lora_status legacy_check_system(const lora__container *container,
                                       const legacy_parts *parts,
                                       lora_error *error)
{
    const lora__pickle_value *version = &parts->version.root;
    lora__pickle_cursor cursor = lora__pickle_items_of(&parts->system.root);
    const lora__pickle_value *key;
    int little = 1;

    while ((key = lora__pickle_next(&cursor)) != NULL) {
        const lora__pickle_value *value = lora__pickle_next(&cursor);
        if (lora__pickle_is_text(key, "little_endian") && value != NULL) {
            little = value->type == LORA__PICKLE_BOOL && value->as.integer == 1;
        }
    }
    if (version->type != LORA__PICKLE_INTEGER || version->as.integer != 1001 ||
        parts->system.root.type != LORA__PICKLE_DICT) {
        return lora__fail(error, LORA_ERROR_FORMAT, sizeof legacy_magic,
                          container->path,
                          "a PyTorch checkpoint of an unknown old form");
    }
    return little ? LORA_OK
                  : lora__fail(error, LORA_ERROR_FORMAT, sizeof legacy_magic,
                               container->path,
                               "numbers are big-endian: save it again on "
                               "another machine");
}

static lora_status legacy_fail(const lora__torch *torch,
                               lora_status status,
                               uint64_t offset,
                               const char *what,
                               lora_error *error)
{
    return lora__fail(error, status, offset, torch->container->path,
                      "storage: %s", what);
}

/* One storage: how many elements, then the elements. *at moves behind it. */
static lora_status legacy_place(lora__torch *torch,
                                const lora__pickle_value *key,
                                uint64_t *at,
                                lora_error *error)
{
    const lora__container *container = torch->container;
    lora__torch_storage *storage = lora__torch_find(torch, key);
    unsigned char p[8];
    uint64_t count = 0;

    if (storage == NULL || storage->placed) {
        return legacy_fail(torch, LORA_ERROR_FORMAT, *at,
                           "listed twice, or nothing refers to it", error);
    }
    TRY(lora__reader_read(&container->reader, *at, p, sizeof p, container->path,
                          error));
    for (size_t i = sizeof p; i-- > 0;) {
        count = count << 8 | p[i];
    }
    if (count != storage->count) {
        return legacy_fail(torch, LORA_ERROR_FORMAT, *at,
                           "not as many elements as were declared", error);
    }
    *at += sizeof p;
    if (storage->bytes > container->file_bytes - *at) {
        return legacy_fail(torch, LORA_ERROR_TRUNCATED, container->file_bytes,
                           "its data are cut: incomplete download or copy",
                           error);
    }
    storage->offset = *at;
    storage->placed = 1;
    *at += storage->bytes;
    return LORA_OK;
}

static lora_status legacy_place_all(lora__torch *torch,
                                    const legacy_parts *parts,
                                    lora_error *error)
{
    lora__pickle_cursor cursor = lora__pickle_items_of(&parts->keys.root);
    const lora__pickle_value *key;
    uint64_t at = parts->end;

    if (parts->keys.root.type != LORA__PICKLE_LIST) {
        return legacy_fail(torch, LORA_ERROR_FORMAT, at,
                           "there is no list of them", error);
    }
    while ((key = lora__pickle_next(&cursor)) != NULL) {
        TRY(legacy_place(torch, key, &at, error));
    }
    for (size_t i = 0; i < torch->storage_count; i++) {
        if (!torch->storages[i].placed) {
            return legacy_fail(torch, LORA_ERROR_FORMAT, at,
                               "one is not in the list of them", error);
        }
    }
    return at == torch->container->file_bytes
               ? LORA_OK
               : lora__fail(
                     error, LORA_ERROR_FORMAT, at, torch->container->path,
                     "%llu bytes after the last storage",
                     (unsigned long long)(torch->container->file_bytes - at));
}

static lora_status
legacy_read(lora__torch *torch, lora__arena *arena, lora_error *error)
{
    legacy_parts parts;

    TRY(legacy_load(&parts, torch->container, arena, error));
    TRY(legacy_check_system(torch->container, &parts, error));
    TRY(lora__torch_declare(torch, &parts.object.persistent, error));
    TRY(legacy_place_all(torch, &parts, error));
    return lora__torch_read_tree(torch, &parts.object.root, error);
}

LORA_PRIVATE lora_status lora__torch_read_legacy(lora__container *container,
                                                 lora_error *error)
{
    return lora__torch_read(container, "torch legacy", legacy_read, error);
}
