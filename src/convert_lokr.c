/* convert --as lokr. */
#include "convert_lokr.h"

#include "output.h"

lora_status convert_lokr(lora_adapter **adapter,
                         lora_report **report,
                         const app_state *app,
                         uint64_t factor,
                         int32_t rank,
                         lora_error *error)
{
    lora_adapter *made = NULL;
    lora_adapter *typed = NULL;
    lora_lokr_options options;
    lora_adapter_convert_options type;
    lora_lokr_options_init(&options, sizeof options);
    options.dtype = output_dtype(app);
    options.factor = (int32_t)factor;
    options.rank = rank;
    options.skip_bad = app->common.skip_bad != 0;
    lora_report_destroy(*report);
    lora_status status =
        lora_adapter_to_lokr(&made, report, *adapter, &options, error);
    if (status == LORA_OK) {
        lora_adapter_convert_options_init(&type, sizeof type);
        type.dtype = options.dtype;
        status = lora_adapter_convert(&typed, made, &type, error);
        lora_adapter_destroy(made);
    }
    if (status == LORA_OK) {
        lora_adapter_destroy(*adapter);
        *adapter = typed;
    }
    return status;
}
