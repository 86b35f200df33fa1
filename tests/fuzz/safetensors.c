/* Headers of safetensors files, with the length before them always right. */
#include "fuzz.h"

const char fuzz_name[] = "safetensors";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    blob file = fuzz_safetensors(data, bytes);

    fuzz_adapter(file.data, file.bytes, NULL);
    free(file.data);
    return 0;
}
