/* PEFT's adapter_config.json, given with an adapter whose names are PEFT's. */
#include "fuzz.h"

const char fuzz_name[] = "config";

#define T "base_model.model.down_blocks.0.attentions.0."
#define F32_4 "{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char header[] =
        "{\"" T "to_q.lora_A.weight\":" F32_4 "[0,16]},"
        "\"" T "to_q.lora_B.weight\":" F32_4 "[16,32]},"
        "\"" T "ff.lora_A.weight\":" F32_4 "[32,48]},"
        "\"" T "ff.lora_B.weight\":" F32_4 "[48,64]}}";
    blob file = make_file(header, sizeof header - 1, 64);
    lora_adapter_open_options options;

    lora_adapter_open_options_init(&options, sizeof options);
    options.config = bytes == 0 ? "" : (const char *)data;
    options.config_bytes = bytes;
    fuzz_adapter(file.data, file.bytes, &options);
    free(file.data);
    return 0;
}
