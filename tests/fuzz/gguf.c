/* What follows the magic number of a GGUF file. */
#include "fuzz.h"

const char fuzz_name[] = "gguf";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    blob file = {malloc(4 + bytes), 4 + bytes};

    assert_non_null(file.data);
    memcpy(file.data, "GGUF", 4);
    if (bytes > 0) {
        memcpy(file.data + 4, data, bytes);
    }
    fuzz_adapter(file.data, file.bytes, NULL);
    free(file.data);
    return 0;
}
