/* Zip archives, pickles and checkpoints, made a byte at a time for the tests
 * that read them.
 */
#ifndef TEST_TORCH_FILES_H
#define TEST_TORCH_FILES_H

#include "bytes.h"

#include "format/crc32.h"

/* Zip archives ------------------------------------------------------------- */

/* How a record is written. */
enum {
    ITEM_DESCRIPTOR = 1, /* checksum and sizes behind the data, as torch does */
    ITEM_PADDED = 2,     /* an extra field in the local header */
    ITEM_ZIP64 = 4       /* numbers of the directory in a zip64 field */
};

typedef struct zip_item {
    const char *name;
    const void *data;
    size_t count;
    unsigned how;
} zip_item;

static inline uint32_t crc_of(const void *data, size_t count)
{
    lora__crc32 crc;

    lora__crc32_init(&crc);
    lora__crc32_update(&crc, data, count);
    return crc.value;
}

static inline void put_local(bytes *b, const zip_item *i)
{
    int later = (i->how & ITEM_DESCRIPTOR) != 0;
    uint32_t crc = crc_of(i->data, i->count);

    PUT(b, "PK\3\4\0\0");
    put_number(b, later ? 0x0808 : 0, 2);
    put_number(b, 0, 6); /* stored, no time */
    put_number(b, later ? 0 : crc, 4);
    put_number(b, later ? 0 : i->count, 4);
    put_number(b, later ? 0 : i->count, 4);
    put_number(b, strlen(i->name), 2);
    put_number(b, (i->how & ITEM_PADDED) != 0 ? 9 : 0, 2);
    put(b, i->name, strlen(i->name));
    if ((i->how & ITEM_PADDED) != 0) {
        PUT(b, "FB\5\0ZZZZZ");
    }
    put(b, i->data, i->count);
    if (later) {
        PUT(b, "PK\7\x08");
        put_number(b, crc, 4);
        put_number(b, i->count, 4);
        put_number(b, i->count, 4);
    }
}

static inline void put_central(bytes *b, const zip_item *i, size_t offset)
{
    int large = (i->how & ITEM_ZIP64) != 0;

    PUT(b, "PK\1\2\0\0\0\0");
    put_number(b, (i->how & ITEM_DESCRIPTOR) != 0 ? 0x0808 : 0, 2);
    put_number(b, 0, 6);
    put_number(b, crc_of(i->data, i->count), 4);
    put_number(b, large ? UINT32_MAX : i->count, 4);
    put_number(b, large ? UINT32_MAX : i->count, 4);
    put_number(b, strlen(i->name), 2);
    put_number(b, large ? 33 : 0, 2);
    put_number(b, 0, 2);
    put_number(b, 0, 8);
    put_number(b, large ? UINT32_MAX : offset, 4);
    put(b, i->name, strlen(i->name));
    if (large) {
        PUT(b, "\xAA\0\1\0x\1\0\x18\0"); /* another field comes first */
        put_number(b, i->count, 8);
        put_number(b, i->count, 8);
        put_number(b, offset, 8);
    }
}

static inline void put_end64(bytes *b, size_t count, size_t start, size_t end)
{
    size_t at = b->count;

    PUT(b, "PK\6\6\x2C\0\0\0\0\0\0\0\x1E\3\x2D\0\0\0\0\0\0\0\0\0");
    put_number(b, count, 8);
    put_number(b, count, 8);
    put_number(b, end - start, 8);
    put_number(b, start, 8);
    PUT(b, "PK\6\7\0\0\0\0");
    put_number(b, at, 8);
    put_number(b, 1, 4);
}

/* `end64`: with zip64 end records. */
static inline blob make_zip(const zip_item *items, size_t count, int end64)
{
    bytes b = {NULL, 0, 0};
    size_t offsets[64];
    size_t start, end;

    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++) {
        offsets[i] = b.count;
        put_local(&b, &items[i]);
    }
    start = b.count;
    for (size_t i = 0; i < count; i++) {
        put_central(&b, &items[i], offsets[i]);
    }
    end = b.count;
    if (end64) {
        put_end64(&b, count, start, end);
    }
    PUT(&b, "PK\5\6\0\0\0\0");
    put_number(&b, end64 ? UINT16_MAX : count, 2);
    put_number(&b, end64 ? UINT16_MAX : count, 2);
    put_number(&b, end64 ? UINT32_MAX : end - start, 4);
    put_number(&b, end64 ? UINT32_MAX : start, 4);
    put_number(&b, 0, 2);
    return take(&b);
}

/* Pickles ------------------------------------------------------------------ */

static inline void put_text(bytes *b, const char *text)
{
    PUT(b, "X");
    put_number(b, strlen(text), 4);
    put(b, text, strlen(text));
}

static inline void put_integer(bytes *b, int64_t value)
{
    PUT(b, "\x8A\x08");
    put_number(b, (uint64_t)value, 8);
}

static inline void put_sizes(bytes *b, const int64_t *values, int32_t count)
{
    PUT(b, "(");
    for (int32_t i = 0; i < count; i++) {
        put_integer(b, values[i]);
    }
    PUT(b, "t");
}

/* A tensor on a storage with this class, key and number of elements. In a
 * stream (`legacy`) the storage's id has a sixth member. */
static inline void put_tensor(bytes *b,
                              const char *class_name,
                              const char *key,
                              int64_t elements,
                              int64_t first,
                              int32_t ndim,
                              const int64_t *shape,
                              const int64_t *strides,
                              int legacy)
{
    PUT(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    PUT(b, "ctorch\n");
    put(b, class_name, strlen(class_name));
    PUT(b, "\n");
    put_text(b, key);
    put_text(b, "cuda:0");
    put_integer(b, elements);
    put(b, "N", legacy ? 1 : 0);
    PUT(b, "tQ");
    put_integer(b, first);
    put_sizes(b, shape, ndim);
    put_sizes(b, strides, ndim);
    PUT(b, "\x89"
           "ccollections\nOrderedDict\n)RtR");
}

/* Checkpoints -------------------------------------------------------------- */

/* An archive with this pickle, and storages whose keys are "0", "1" ... */
static inline blob
make_torch(const blob *pickle, const blob *storages, size_t count)
{
    static const char *const names[] = {"m/data/0", "m/data/1", "m/data/2",
                                        "m/data/3"};
    zip_item items[8] = {
        {"m/data.pkl", pickle->data, pickle->bytes, ITEM_DESCRIPTOR},
        {"m/byteorder", "little", 6, ITEM_PADDED},
    };

    assert_true(count <= 4);
    for (size_t i = 0; i < count; i++) {
        zip_item storage = {names[i], storages[i].data, storages[i].bytes,
                            ITEM_DESCRIPTOR | ITEM_PADDED};
        items[2 + i] = storage;
    }
    items[2 + count].name = "m/version";
    items[2 + count].data = "3\n";
    items[2 + count].count = 2;
    return make_zip(items, 3 + count, 1);
}

/* A stream with this pickle, and storages of elements of `unit` bytes. */
static inline blob
make_legacy(const blob *pickle, const blob *storages, size_t count, size_t unit)
{
    bytes b = {NULL, 0, 0};

    PUT(&b, "\x80\2\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.");
    PUT(&b, "\x80\2M\xE9\3.\x80\2}(");
    put_text(&b, "protocol_version");
    PUT(&b, "M\xE9\3");
    put_text(&b, "little_endian");
    PUT(&b, "\x88u.");
    put(&b, pickle->data, pickle->bytes);
    PUT(&b, "\x80\2](");
    for (size_t i = 0; i < count; i++) {
        char key[2] = {(char)('0' + i), '\0'};
        put_text(&b, key);
    }
    PUT(&b, "e.");
    for (size_t i = 0; i < count; i++) {
        put_number(&b, storages[i].bytes / unit, 8);
        put(&b, storages[i].data, storages[i].bytes);
    }
    return take(&b);
}

#endif
