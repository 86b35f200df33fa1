/* What Light-LoRA saves: the sizes of SD 1.5's attention at rank 4, as LoRA and
 * as Light-LoRA with and without its frozen matrices, and that these can be
 * drawn again.
 *
 *     cc light_sizes.c $(pkg-config --cflags --libs lora) -o light_sizes
 *     ./light_sizes
 */
#include <lora/lora.h>

#include <stdio.h>

static lora_status
put_size(const char *what, const lora_adapter *adapter, lora_error *error)
{
    size_t bytes = 0;
    lora_status status =
        lora_adapter_save_memory(NULL, 0, &bytes, adapter, error);

    if (status == LORA_OK) {
        printf("%-24s %6zu KB\n", what, (bytes + 1023) / 1024);
    }
    return status;
}

static lora_status put_created(const char *what,
                               lora_context *context,
                               lora_light_variant variant,
                               uint32_t store,
                               lora_error *error)
{
    lora_light_recipe recipe;
    lora_light_options options;
    lora_adapter *adapter = NULL;
    lora_status status;

    lora_light_recipe_init(&recipe, sizeof recipe);
    lora_light_options_init(&options, sizeof options);
    recipe.family = "sd15"; /* seed 0, matrices of 100 rows and 50 columns */
    options.variant = variant;
    options.store = store;
    status = lora_light_create(&adapter, context, &recipe, &options, error);
    if (status == LORA_OK) {
        status = put_size(what, adapter, error);
    }
    if (status == LORA_OK && variant == LORA_LIGHT_UP_ZERO && !store) {
        lora_adapter *plain = NULL;
        /* The file says how its matrices were drawn: no recipe is needed. */
        status = lora_light_expand(&plain, adapter, NULL, NULL, error);
        if (status == LORA_OK) {
            status = put_size("LoRA", plain, error);
        }
        lora_adapter_destroy(plain);
    }
    lora_adapter_destroy(adapter);
    return status;
}

int main(void)
{
    lora_context *context = NULL;
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_context_create(&context, NULL, &error);
    if (status == LORA_OK) {
        status =
            put_created("down + up", context, LORA_LIGHT_UP_ZERO, 0, &error);
    }
    if (status == LORA_OK) {
        status = put_created("down + up + frozen", context, LORA_LIGHT_UP_ZERO,
                             1, &error);
    }
    if (status == LORA_OK) {
        status = put_created("down_up", context, LORA_LIGHT_JOINED, 0, &error);
    }
    if (status == LORA_OK) {
        status = put_created("down_up + frozen", context, LORA_LIGHT_JOINED, 1,
                             &error);
    }
    if (status != LORA_OK) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    lora_context_destroy(context);
    return status != LORA_OK;
}
