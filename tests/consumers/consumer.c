/* What every way to use the library must be able to build and run: a call
 * with a known answer, a handle made and destroyed, an error with its words.
 */
#ifdef VENDORED
#include "lora.h"
#else
#include <lora/lora.h>
#endif

#include <stdio.h>
#include <string.h>

int main(void)
{
    lora_context *context = NULL;
    lora_adapter *adapter = NULL;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    if (lora_version_number() != LORA_VERSION_NUMBER ||
        strcmp(lora_dtype_name(LORA_DTYPE_BF16), "BF16") != 0) {
        puts("headers and library differ");
        return 1;
    }
    if (lora_context_create(&context, NULL, &error) != LORA_OK) {
        puts(error.message);
        return 1;
    }
    status = lora_adapter_open(&adapter, context, "no-such-file", NULL, &error);
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    if (status != LORA_ERROR_IO || error.message[0] == '\0') {
        puts("opening nothing should be an I/O error with a message");
        return 1;
    }
    puts(lora_build_info());
    return 0;
}
