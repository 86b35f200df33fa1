/* Any bytes as an adapter file, whatever container they make themselves. */
#include "fuzz.h"

const char fuzz_name[] = "adapter";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_adapter(data, bytes, NULL);
    return 0;
}
