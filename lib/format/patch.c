/* Writing within an existing file.
 *
 * The one thing that this library writes other than whole: a header, where
 * the new one has the size of the old one. The file may have been replaced
 * since it was read, so that what is there is compared first.
 */
#include "format/container.h"

#include "platform/file.h"

#include <string.h>

#define PATCH_STEP 4096

/* Set *out to 1 if the file begins with these bytes. */
static int32_t patch_compare(int *out,
                             lora__file file,
                             const unsigned char *expected,
                             size_t bytes)
{
    unsigned char there[PATCH_STEP];

    *out = 1;
    for (size_t at = 0; at < bytes && *out; at += PATCH_STEP) {
        size_t step = bytes - at < PATCH_STEP ? bytes - at : PATCH_STEP;
        size_t got;
        int32_t os_error = lora__file_read_at(file, at, there, step, &got);

        if (os_error != 0) {
            return os_error;
        }
        *out = got == step && memcmp(there, expected + at, step) == 0;
    }
    return 0;
}

static int32_t patch_write(lora__file file,
                           size_t begin,
                           const unsigned char *data,
                           size_t end)
{
    int32_t os_error =
        lora__file_write_at(file, begin, data + begin, end - begin);

    return os_error != 0 ? os_error : lora__file_flush(file);
}

static lora_status patch_replace(lora__file file,
                                 const char *path,
                                 const unsigned char *before,
                                 const unsigned char *after,
                                 size_t bytes,
                                 lora_error *error)
{
    size_t begin = 0;
    size_t end = bytes;
    int32_t os_error;

    while (begin < end && before[begin] == after[begin]) {
        begin++;
    }
    while (end > begin && before[end - 1] == after[end - 1]) {
        end--;
    }
    os_error = patch_write(file, begin, after, end);
    if (os_error == 0) {
        return LORA_OK;
    }
    return lora__fail_os(
        error, os_error, path,
        patch_write(file, begin, before, end) == 0
            ? "cannot write, what was there has been put back"
            : "cannot write, nor put back what was there: the header is "
              "damaged");
}

LORA_PRIVATE lora_status lora__patch_file(int *out_done,
                                          const char *path,
                                          uint64_t file_bytes,
                                          const void *before,
                                          const void *after,
                                          size_t bytes,
                                          int dry_run,
                                          lora_error *error)
{
    lora__file file;
    uint64_t bytes_now;
    int same = 1;
    lora_status status = LORA_OK;
    int32_t os_error = lora__file_open_update(&file, &bytes_now, path);

    *out_done = 0;
    if (os_error != 0) {
        return lora__fail_os(error, os_error, path, "cannot write");
    }
    if (file.handle == -1) {
        return LORA_OK;
    }
    os_error = patch_compare(&same, file, before, bytes);
    if (os_error != 0) {
        status = lora__fail_os(error, os_error, path, "cannot read");
    } else if (!same || bytes_now != file_bytes) {
        status = lora__fail(error, LORA_ERROR_IO, LORA_NO_OFFSET, path,
                            "was changed by another program meanwhile");
    } else if (!dry_run) {
        status = patch_replace(file, path, before, after, bytes, error);
    }
    lora__file_close(&file);
    *out_done = status == LORA_OK;
    return status;
}
