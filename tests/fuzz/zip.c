/* Zip archives: the directory, finding, unpacking, checksums. */
#include "fuzz.h"

#include "format/zip.h"

const char fuzz_name[] = "zip";

/* The checksum of zip, a bit at a time. */
static uint32_t checksum(const unsigned char *data, uint64_t bytes)
{
    uint32_t crc = UINT32_MAX;

    for (uint64_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        }
    }
    return ~crc;
}

/* Both ways to read a record come to the same, and what was unpacked is what
 * the directory says. */
static void check_record(lora__zip *zip, const lora__zip_record *r)
{
    const unsigned char *data;
    uint64_t file_bytes = zip->container->file_bytes;
    lora_error error;
    lora_status status;

    assert_ptr_equal(lora__zip_find(zip, r->name, r->name_bytes), r);
    assert_true(r->offset <= file_bytes && r->packed <= file_bytes - r->offset);
    assert_true(r->deflated || r->packed == r->bytes);
    lora_error_init(&error, sizeof error);
    status =
        lora__zip_load(&data, zip, r, 1u << 20, &zip->container->arena, &error);
    assert_true(status == LORA_OK || status == LORA_ERROR_FORMAT ||
                status == LORA_ERROR_LIMIT || status == LORA_ERROR_TRUNCATED ||
                status == LORA_ERROR_UNSUPPORTED);
    assert_true(status != LORA_OK || checksum(data, r->bytes) == r->checksum);
    if (!r->deflated && status != LORA_ERROR_LIMIT) {
        assert_int_equal(lora__zip_verify(zip, r, NULL), status);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context *context;
    heap memory;
    lora__container *c;
    lora__zip zip;
    lora_error error;
    lora_status status;

    limits.memory_bytes =
        fuzz_memory_most((const uint8_t *)"PK\3", 3, 0) + 264 * bytes;
    context = make_context(&memory, &limits);
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__container_create(&c, context, "zip", "", NULL),
                     LORA_OK);
    assert_int_equal(
        lora__reader_open_memory(&c->reader, context, data, bytes, NULL),
        LORA_OK);
    c->file_bytes = bytes;
    status = lora__zip_open(&zip, c, &error);
    assert_int_equal(status, error.status);
    assert_true(status != LORA_ERROR_MEMORY && status != LORA_ERROR_INTERNAL);
    for (size_t i = 0; status == LORA_OK && i < zip.count; i++) {
        check_record(&zip, &zip.records[i]);
    }
    assert_true(zip.unpacked <= lora__expanded_most(bytes));
    lora__zip_close(&zip);
    lora__container_release(c);
    end_context(&memory, context);
    return 0;
}
