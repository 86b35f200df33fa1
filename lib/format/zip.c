/* Reading zip archives.
 *
 *   local header, name, extra, data, descriptor    for each record
 *   central header, name, extra, comment           for each record
 *   zip64 end and its locator                      where numbers are large
 *   end, 22 bytes
 *
 * The archive must end with its end record (torch writes no comment), and the
 * directory must lie just before the end records. Local headers may leave
 * checksum and sizes to a descriptor behind the data; where they have them,
 * they must agree with the directory, so that no two readers see different
 * data. All offsets are 64-bit; sums are checked.
 */
#include "format/zip.h"

#include "format/inflate.h"
#include "format/quote.h"
#include "format/sort.h"

#include <string.h>

enum {
    ZIP_LOCAL_BYTES = 30,
    ZIP_CENTRAL_BYTES = 46,
    ZIP_LOCATOR_BYTES = 20,
    ZIP_END64_BYTES = 56,
    ZIP_END_BYTES = 22,
    ZIP_MAX_NAME = 512,
    ZIP_CHUNK = 65536
};

/* Bits of a record's flags. */
#define ZIP_ENCRYPTED 0x0001u
#define ZIP_DESCRIPTOR 0x0008u

/* Numbers that say "see the zip64 field". */
#define ZIP_LARGE16 0xFFFFu
#define ZIP_LARGE32 0xFFFFFFFFu

static uint64_t zip_number(const unsigned char *p, size_t bytes)
{
    uint64_t value = 0;

    while (bytes-- > 0) {
        value = value << 8 | p[bytes];
    }
    return value;
}

static uint32_t zip_u16(const unsigned char *p)
{
    return (uint32_t)zip_number(p, 2);
}

static uint32_t zip_u32(const unsigned char *p)
{
    return (uint32_t)zip_number(p, 4);
}

static int zip_is(const unsigned char *p, const char *signature)
{
    return memcmp(p, signature, 4) == 0;
}

/* Refuse the archive, at a byte of it. */
static lora_status
zip_fail(const lora__zip *zip, uint64_t offset, const char *what, lora_error *e)
{
    return lora__fail(e, LORA_ERROR_FORMAT, offset, zip->container->path, "%s",
                      what);
}

/* Refuse a record. */
static lora_status zip_fail_record(const lora__zip *zip,
                                   lora_status status,
                                   uint64_t offset,
                                   const lora__zip_record *record,
                                   const char *what,
                                   lora_error *error)
{
    return lora__fail_named(error, status, offset, zip->container->path,
                            "record", record->name, record->name_bytes, what);
}

static lora_status zip_read(const lora__zip *zip,
                            uint64_t offset,
                            void *buffer,
                            size_t bytes,
                            lora_error *error)
{
    return lora__reader_read(&zip->container->reader, offset, buffer, bytes,
                             zip->container->path, error);
}

/* What the end records say. */
typedef struct zip_end {
    uint64_t count;
    uint64_t bytes;  /* of the directory */
    uint64_t offset; /* of the directory */
    uint64_t limit;  /* where the end records begin */
} zip_end;

/* The zip64 end, which replaces the numbers that did not fit. `locator` lies
 * just before the end record. */
static lora_status zip_read_end64(zip_end *end,
                                  const lora__zip *zip,
                                  uint64_t locator_offset,
                                  const unsigned char *locator,
                                  lora_error *error)
{
    unsigned char p[ZIP_END64_BYTES];
    uint64_t offset = zip_number(locator + 8, 8);
    zip_end large;
    uint64_t size;

    if (zip_u32(locator + 4) != 0 || zip_u32(locator + 16) > 1) {
        return zip_fail(zip, locator_offset, "an archive in several parts",
                        error);
    }
    if (offset > locator_offset || locator_offset - offset < sizeof p) {
        return zip_fail(zip, locator_offset,
                        "the zip64 end record is not where it should be",
                        error);
    }
    TRY(zip_read(zip, offset, p, sizeof p, error));
    size = zip_number(p + 4, 8);
    if (!zip_is(p, "PK\6\6") || size != locator_offset - offset - 12) {
        return zip_fail(zip, offset, "damaged zip64 end record", error);
    }
    large.count = zip_number(p + 32, 8);
    large.bytes = zip_number(p + 40, 8);
    large.offset = zip_number(p + 48, 8);
    large.limit = offset;
    if (zip_u32(p + 16) != 0 || zip_u32(p + 20) != 0 ||
        zip_number(p + 24, 8) != large.count ||
        (end->count != ZIP_LARGE16 && end->count != large.count) ||
        (end->bytes != ZIP_LARGE32 && end->bytes != large.bytes) ||
        (end->offset != ZIP_LARGE32 && end->offset != large.offset)) {
        return zip_fail(zip, offset, "the two end records differ", error);
    }
    *end = large;
    return LORA_OK;
}

static lora_status
zip_read_end(zip_end *end, const lora__zip *zip, lora_error *error)
{
    unsigned char p[ZIP_LOCATOR_BYTES + ZIP_END_BYTES] = {0};
    uint64_t file_bytes = zip->container->file_bytes;
    size_t have = file_bytes < sizeof p ? (size_t)file_bytes : sizeof p;
    const unsigned char *last = p + ZIP_LOCATOR_BYTES;
    uint64_t offset;

    TRY(zip_read(zip, file_bytes - have, p + sizeof p - have, have, error));
    if (have < ZIP_END_BYTES || !zip_is(last, "PK\5\6") ||
        zip_u16(last + 20) != 0) {
        return lora__fail(error, LORA_ERROR_TRUNCATED, file_bytes,
                          zip->container->path,
                          "a zip archive without its end record: incomplete "
                          "download or copy");
    }
    offset = file_bytes - ZIP_END_BYTES;
    end->count = zip_u16(last + 10);
    end->bytes = zip_u32(last + 12);
    end->offset = zip_u32(last + 16);
    end->limit = offset;
    if (zip_u16(last + 4) != 0 || zip_u16(last + 6) != 0 ||
        zip_u16(last + 8) != end->count) {
        return zip_fail(zip, offset, "an archive in several parts", error);
    }
    if (have == sizeof p && zip_is(p, "PK\6\7")) {
        TRY(zip_read_end64(end, zip, offset - ZIP_LOCATOR_BYTES, p, error));
    }
    if (end->offset > end->limit || end->bytes != end->limit - end->offset) {
        return zip_fail(zip, offset,
                        "the directory is not where the end record has it",
                        error);
    }
    if (end->count > end->bytes / ZIP_CENTRAL_BYTES) {
        return zip_fail(zip, offset, "more records than the directory holds",
                        error);
    }
    return LORA_OK;
}

/* Numbers that did not fit, from the extra field of a central header, in the
 * order in which they are missing. */
static int zip_read_extra(lora__zip_record *record,
                          const unsigned char *extra,
                          size_t bytes)
{
    uint64_t *const wanted[] = {&record->bytes, &record->packed,
                                &record->header};

    while (bytes >= 4) {
        size_t field = zip_u16(extra + 2);
        const unsigned char *p = extra + 4;

        if (field > bytes - 4) {
            return 0;
        }
        if (zip_u16(extra) == 1) {
            for (size_t i = 0; i < LORA__COUNT(wanted); i++) {
                if (*wanted[i] != ZIP_LARGE32) {
                    continue;
                }
                if (field < 8) {
                    return 0;
                }
                *wanted[i] = zip_number(p, 8);
                p += 8;
                field -= 8;
            }
            return 1;
        }
        extra += 4 + field;
        bytes -= 4 + field;
    }
    return 1;
}

/* One header of the directory. *at moves behind it. */
static lora_status zip_read_central(lora__zip_record *record,
                                    const lora__zip *zip,
                                    const unsigned char **at,
                                    const unsigned char *end,
                                    uint64_t offset,
                                    lora_error *error)
{
    const unsigned char *p = *at;
    size_t left = (size_t)(end - p);
    size_t name, extra, comment;
    uint32_t method;

    if (left < ZIP_CENTRAL_BYTES || !zip_is(p, "PK\1\2")) {
        return zip_fail(zip, offset, "damaged zip directory", error);
    }
    name = zip_u16(p + 28);
    extra = zip_u16(p + 30);
    comment = zip_u16(p + 32);
    if (left - ZIP_CENTRAL_BYTES < name + extra + comment || name == 0 ||
        name > ZIP_MAX_NAME) {
        return zip_fail(zip, offset, "damaged zip directory", error);
    }
    record->name = (const char *)p + ZIP_CENTRAL_BYTES;
    record->name_bytes = name;
    record->checksum = zip_u32(p + 16);
    record->packed = zip_u32(p + 20);
    record->bytes = zip_u32(p + 24);
    record->header = zip_u32(p + 42);
    method = zip_u16(p + 10);
    record->deflated = method == 8;
    if ((zip_u16(p + 8) & ZIP_ENCRYPTED) != 0) {
        return zip_fail_record(zip, LORA_ERROR_FORMAT, offset, record,
                               "encrypted", error);
    }
    if (method != 0 && method != 8) {
        return zip_fail_record(zip, LORA_ERROR_FORMAT, offset, record,
                               "packed by a method other than deflate", error);
    }
    if (!zip_read_extra(record, p + ZIP_CENTRAL_BYTES + name, extra)) {
        return zip_fail_record(zip, LORA_ERROR_FORMAT, offset, record,
                               "damaged extra field", error);
    }
    if (!record->deflated && record->packed != record->bytes) {
        return zip_fail_record(zip, LORA_ERROR_FORMAT, offset, record,
                               "stored, and of two sizes", error);
    }
    *at = p + ZIP_CENTRAL_BYTES + name + extra + comment;
    return LORA_OK;
}

/* The directory, kept in the container's arena for the names. */
static lora_status
zip_read_directory(lora__zip *zip, const zip_end *end, lora_error *error)
{
    lora__container *container = zip->container;
    const unsigned char *directory;
    const unsigned char *at;
    void *memory;

    if (end->bytes >
            lora__context_get(container->context)->limits.header_bytes ||
        end->bytes > SIZE_MAX) {
        return lora__fail(error, LORA_ERROR_LIMIT, end->offset, container->path,
                          "a zip directory of %llu bytes, over the limit",
                          (unsigned long long)end->bytes);
    }
    if (end->count == 0) {
        return zip_fail(zip, end->offset, "an empty zip archive", error);
    }
    memory = lora__arena_alloc(&container->arena, (size_t)end->bytes);
    if (memory == NULL) {
        return lora__fail_memory(error, end->bytes);
    }
    TRY(zip_read(zip, end->offset, memory, (size_t)end->bytes, error));
    directory = memory;
    TRY(lora__arena_zeroed(&memory, &container->arena, (size_t)end->count,
                           sizeof *zip->records, error));
    zip->records = memory;
    zip->count = (size_t)end->count;
    at = directory;
    for (size_t i = 0; i < zip->count; i++) {
        TRY(zip_read_central(&zip->records[i], zip, &at,
                             directory + (size_t)end->bytes,
                             end->offset + (uint64_t)(at - directory), error));
    }
    if (at != directory + (size_t)end->bytes) {
        return zip_fail(zip, end->offset + (uint64_t)(at - directory),
                        "more in the directory than its records", error);
    }
    zip->first_name = zip->records[0].name;
    zip->first_name_bytes = zip->records[0].name_bytes;
    return LORA_OK;
}

static int zip_compare(const void *a, const void *b)
{
    const lora__zip_record *x = a;
    const lora__zip_record *y = b;

    if (x->header != y->header) {
        return x->header < y->header ? -1 : 1;
    }
    return (x->name > y->name) - (x->name < y->name);
}

/* What a local header says of checksum and sizes must be what the directory
 * says, unless it leaves them to a descriptor. Returns what is wrong, or NULL.
 */
static const char *zip_compare_local(const lora__zip_record *record,
                                     const unsigned char *p)
{
    uint32_t flags = zip_u16(p + 6);
    int open = (flags & ZIP_DESCRIPTOR) != 0;

    if (!zip_is(p, "PK\3\4") || (flags & ZIP_ENCRYPTED) != 0 ||
        zip_u16(p + 8) != (record->deflated ? 8u : 0u) ||
        zip_u16(p + 26) != record->name_bytes ||
        memcmp(p + ZIP_LOCAL_BYTES, record->name, record->name_bytes) != 0 ||
        (zip_u32(p + 14) != record->checksum &&
         !(open && zip_u32(p + 14) == 0))) {
        return "its header differs from the directory";
    }
    for (size_t i = 0; i < 2; i++) {
        uint64_t local = zip_u32(p + 18 + 4 * i);
        uint64_t size = i == 0 ? record->packed : record->bytes;

        if (local != size && local != ZIP_LARGE32 && !(open && local == 0)) {
            return "its sizes differ from the directory's";
        }
    }
    return NULL;
}

/* Find the data behind the local header, which must agree with the directory
 * and, with the data, end by `limit`. */
static lora_status zip_read_local(lora__zip_record *record,
                                  const lora__zip *zip,
                                  uint64_t limit,
                                  lora_error *error)
{
    unsigned char p[ZIP_LOCAL_BYTES + ZIP_MAX_NAME];
    size_t bytes = ZIP_LOCAL_BYTES + record->name_bytes;
    const char *wrong;
    uint64_t end;

    if (record->header > limit || limit - record->header < bytes) {
        return zip_fail_record(
            zip, LORA_ERROR_FORMAT,
            record->header < limit ? record->header : limit, record,
            "no room for it where the directory has it", error);
    }
    TRY(zip_read(zip, record->header, p, bytes, error));
    wrong = zip_compare_local(record, p);
    record->offset = record->header + bytes + zip_u16(p + 28);
    if (wrong == NULL &&
        (!lora__add_u64(record->offset, record->packed, &end) || end > limit)) {
        wrong = "its data overlap what follows them";
    }
    return wrong == NULL
               ? LORA_OK
               : zip_fail_record(zip, LORA_ERROR_FORMAT, record->header, record,
                                 wrong, error);
}

static lora_status
zip_check_records(lora__zip *zip, uint64_t directory, lora_error *error)
{
    lora__sort(zip->records, zip->count, sizeof *zip->records, zip_compare);
    for (size_t i = 0; i < zip->count; i++) {
        lora__zip_record *record = &zip->records[i];
        uint64_t limit = i + 1 < zip->count && record[1].header < directory
                             ? record[1].header
                             : directory;
        size_t existing;

        TRY(lora__map_add(&existing, &zip->by_name, record->name,
                          record->name_bytes, i, error));
        if (existing != i) {
            return zip_fail_record(zip, LORA_ERROR_DUPLICATE, record->header,
                                   record, "the same name twice", error);
        }
        TRY(zip_read_local(record, zip, limit, error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__zip_open(lora__zip *zip,
                                        lora__container *container,
                                        lora_error *error)
{
    zip_end end = {0, 0, 0, 0};

    memset(zip, 0, sizeof *zip);
    zip->container = container;
    lora__map_init(&zip->by_name, container->context);
    lora__crc32_init(&zip->crc);
    TRY(zip_read_end(&end, zip, error));
    TRY(zip_read_directory(zip, &end, error));
    return zip_check_records(zip, end.offset, error);
}

LORA_PRIVATE void lora__zip_close(lora__zip *zip)
{
    lora__map_destroy(&zip->by_name);
}

LORA_PRIVATE const lora__zip_record *
lora__zip_find(const lora__zip *zip, const char *name, size_t bytes)
{
    size_t index;

    return lora__map_find(&index, &zip->by_name, name, bytes)
               ? &zip->records[index]
               : NULL;
}

LORA_PRIVATE uint64_t lora__expanded_most(uint64_t file_bytes)
{
    const uint64_t little = 1u << 20;

    return file_bytes < (UINT64_MAX - little) / 100 ? file_bytes * 100 + little
                                                    : UINT64_MAX;
}

static lora_status zip_bad_checksum(const lora__zip *zip,
                                    const lora__zip_record *record,
                                    lora_error *error)
{
    return zip_fail_record(zip, LORA_ERROR_FORMAT, record->offset, record,
                           "damaged: its checksum differs", error);
}

LORA_PRIVATE lora_status lora__zip_load(const unsigned char **out,
                                        lora__zip *zip,
                                        const lora__zip_record *record,
                                        uint64_t most,
                                        lora__arena *arena,
                                        lora_error *error)
{
    lora__container *container = zip->container;
    uint64_t room = lora__expanded_most(container->file_bytes) - zip->unpacked;
    unsigned char *data;
    lora__crc32 crc;

    if (record->bytes > most || record->bytes > SIZE_MAX ||
        (record->deflated && record->bytes > room)) {
        return zip_fail_record(zip, LORA_ERROR_LIMIT, record->offset, record,
                               "unpacked, it is over the limit", error);
    }
    data = lora__arena_alloc(arena, (size_t)record->bytes);
    if (data == NULL) {
        return lora__fail_memory(error, record->bytes);
    }
    if (record->deflated) {
        zip->unpacked += record->bytes;
        TRY(lora__inflate(data, (size_t)record->bytes, container->context,
                          &container->reader, record->offset, record->packed,
                          container->path, error));
    } else {
        TRY(zip_read(zip, record->offset, data, (size_t)record->bytes, error));
    }
    crc = zip->crc;
    lora__crc32_update(&crc, data, (size_t)record->bytes);
    if (crc.value != record->checksum) {
        return zip_bad_checksum(zip, record, error);
    }
    *out = data;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__zip_verify(const lora__zip *zip,
                                          const lora__zip_record *record,
                                          lora_error *error)
{
    lora_context *context = zip->container->context;
    size_t bytes =
        record->bytes < ZIP_CHUNK ? (size_t)record->bytes : ZIP_CHUNK;
    unsigned char *chunk = lora__alloc(context, bytes, LORA__ALIGN);
    lora__crc32 crc = zip->crc;
    lora_status status = LORA_OK;

    if (chunk == NULL) {
        return lora__fail_memory(error, bytes);
    }
    for (uint64_t done = 0; done < record->bytes && status == LORA_OK;) {
        uint64_t left = record->bytes - done;
        size_t step = left < bytes ? (size_t)left : bytes;

        status = zip_read(zip, record->offset + done, chunk, step, error);
        lora__crc32_update(&crc, chunk, status == LORA_OK ? step : 0);
        done += step;
    }
    if (status == LORA_OK && crc.value != record->checksum) {
        status = zip_bad_checksum(zip, record, error);
    }
    lora__free(context, chunk, bytes, LORA__ALIGN);
    return status;
}
