/* Reading options structs of any age, and writing out-structs. */
#include "core/options.h"

#include <string.h>

static size_t options_size_of(const void *options)
{
    size_t size;

    memcpy(&size, options, sizeof size);
    return size;
}

LORA_PRIVATE lora_status lora__options_read(void *ours,
                                            size_t our_bytes,
                                            size_t first_bytes,
                                            const void *theirs,
                                            lora_error *error)
{
    const unsigned char *bytes = theirs;
    size_t size;

    lora__options_init(ours, our_bytes);
    if (theirs == NULL) {
        return LORA_OK;
    }
    size = options_size_of(theirs);
    if (size < first_bytes) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
                          "options with struct_size %llu: call its _init "
                          "function first",
                          (unsigned long long)size);
    }
    for (size_t i = our_bytes; i < size; i++) {
        if (bytes[i] != 0) {
            return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
                              "an option this version does not have is set");
        }
    }
    memcpy(ours, theirs, size < our_bytes ? size : our_bytes);
    memcpy(ours, &our_bytes, sizeof our_bytes);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__options_reserved(uint32_t reserved,
                                                lora_error *error)
{
    return reserved == 0 ? LORA_OK
                         : lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET,
                                      NULL, "a reserved field is not 0");
}

LORA_PRIVATE void lora__options_init(void *options, size_t bytes)
{
    if (options != NULL && bytes >= sizeof bytes) {
        memset(options, 0, bytes);
        memcpy(options, &bytes, sizeof bytes);
    }
}

LORA_PRIVATE lora_status lora__out_write(void *theirs,
                                         const void *ours,
                                         size_t our_bytes,
                                         lora_error *error)
{
    size_t size = options_size_of(theirs);
    size_t shared = size < our_bytes ? size : our_bytes;

    if (size < sizeof size) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
                          "struct_size of the result is not set");
    }
    memcpy(theirs, ours, shared);
    memset((unsigned char *)theirs + shared, 0, size - shared);
    memcpy(theirs, &size, sizeof size);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__out_write_at(void *array,
                                            size_t index,
                                            const void *ours,
                                            size_t our_bytes,
                                            lora_error *error)
{
    size_t size = options_size_of(array);
    unsigned char *theirs = (unsigned char *)array + index * size;

    memcpy(theirs, &size, sizeof size);
    return lora__out_write(theirs, ours, our_bytes, error);
}
