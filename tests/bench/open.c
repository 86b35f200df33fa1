/* `./dev bench open`, the part in C: open a file so many times, list its
 * tensors, perhaps read them all, and print the seconds of each time.
 *
 *     open list|read|map FILE TIMES
 *
 * Each time begins with nothing but a context, and ends with nothing.
 */
#define _POSIX_C_SOURCE 199309L

#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Into memory of its own, as it is stored. */
static lora_status read_one(const lora_adapter *adapter,
                            size_t index,
                            const lora_tensor_info *info,
                            lora_error *error)
{
    size_t bytes = (size_t)info->bytes;
    void *memory = malloc(bytes + 1);
    lora_status status = LORA_ERROR_MEMORY;

    if (memory != NULL) {
        status = lora_adapter_read_tensor(memory, bytes, adapter, index,
                                          info->dtype, error);
    }
    free(memory);
    return status;
}

static lora_status
once(lora_context *context, const char *mode, const char *path, lora_error *e)
{
    lora_adapter_open_options options;
    lora_adapter *adapter;
    lora_status status;

    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = mode[0] == 'm' ? LORA_OPEN_MAP : 0;
    status = lora_adapter_open(&adapter, context, path, &options, e);
    if (status != LORA_OK) {
        return status;
    }
    for (size_t i = 0;
         status == LORA_OK && i < lora_adapter_tensor_count(adapter); i++) {
        lora_tensor_info info = {.struct_size = sizeof info};
        lora_tensor view;
        status = lora_adapter_get_tensor_info(&info, adapter, i, e);
        if (status == LORA_OK && mode[0] == 'r') {
            status = read_one(adapter, i, &info, e);
        } else if (status == LORA_OK && mode[0] == 'm') {
            status = lora_adapter_get_tensor(&view, adapter, i, e);
        }
    }
    lora_adapter_destroy(adapter);
    return status;
}

int main(int argc, char **argv)
{
    int times = argc == 4 ? atoi(argv[3]) : 0;
    lora_context *context;
    lora_error error;

    lora_error_init(&error, sizeof error);
    if (times < 1 || lora_context_create(&context, NULL, &error) != LORA_OK) {
        fprintf(stderr, "usage: open list|read|map FILE TIMES\n");
        return 2;
    }
    for (int i = 0; i < times; i++) {
        double start = now();
        if (once(context, argv[1], argv[2], &error) != LORA_OK) {
            fprintf(stderr, "%s: %s\n", argv[2], error.message);
            return 1;
        }
        printf("%.9f\n", now() - start);
    }
    lora_context_destroy(context);
    return 0;
}
