/* List the modules of an adapter file.
 *
 *     cc inspect.c $(pkg-config --cflags --libs lora) -o inspect
 *     ./inspect file.safetensors
 */
#include <lora/lora.h>

#include <inttypes.h>
#include <stdio.h>

static int print_modules(const lora_adapter *adapter, lora_error *error)
{
    size_t count = lora_adapter_module_count(adapter);
    lora_adapter_info file;
    size_t i;

    file.struct_size = sizeof file;
    if (lora_adapter_get_info(&file, adapter, error) != LORA_OK) {
        return 1;
    }
    printf("%s, base %s, %zu modules\n", file.container,
           file.family[0] ? file.family : "unknown", count);
    for (i = 0; i < count; i++) {
        lora_module_info module;

        module.struct_size = sizeof module;
        if (lora_adapter_get_module(&module, adapter, i, error) != LORA_OK) {
            return 1;
        }
        printf("%s: %s, rank %" PRId64 ", %s, x %g\n", module.target,
               module.kind, module.rank, lora_dtype_name(module.dtype),
               module.scale);
    }
    return 0;
}

int main(int argc, char **argv)
{
    lora_context *context = NULL;
    lora_adapter *adapter = NULL;
    lora_error error;
    int failed = 1;

    if (argc != 2) {
        fputs("usage: inspect FILE\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    if (lora_context_create(&context, NULL, &error) == LORA_OK &&
        lora_adapter_open(&adapter, context, argv[1], NULL, &error) ==
            LORA_OK) {
        failed = print_modules(adapter, &error);
    }
    if (failed) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    lora_adapter_destroy(adapter);
    lora_context_destroy(context);
    return failed;
}
