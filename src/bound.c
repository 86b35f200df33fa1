/* Binding the adapters of a command line: see bound.h. */
#include "bound.h"

#include "input.h"
#include "say.h"

#include <stdlib.h>
#include <string.h>

static int bound_add(app_state *app,
                     bound_adapters *all,
                     const char *argument,
                     const lora_binding_create_options *options)
{
    lora_error error;
    int given;
    int code = 0;
    lora_adapter *adapter = NULL;
    char *path = input_split(&all->strengths[all->count], &given, argument);
    lora_error_init(&error, sizeof error);
    lora_status status = input_open(app, &adapter, path, &error);
    if (status == LORA_OK) {
        status = lora_binding_create(&all->bindings[all->count], all->model,
                                     adapter, options, &error);
    }
    if (status == LORA_OK) {
        all->count++;
    } else {
        code = say_failure(app, SAY_READING, path, status, &error);
    }
    lora_adapter_destroy(adapter);
    free(path);
    return code;
}

int bound_open(app_state *app,
               bound_adapters *out,
               const char *model,
               char **arguments,
               size_t count,
               const opt_list *selections,
               int strict)
{
    lora_binding_create_options options;
    lora_selection *chosen = NULL;
    lora_error error;
    memset(out, 0, sizeof *out);
    lora_binding_create_options_init(&options, sizeof options);
    lora_error_init(&error, sizeof error);
    int code = input_read_selections(app, &chosen, selections);
    if (code == 0) {
        lora_status status =
            lora_model_open(&out->model, app->context, model, NULL, &error);
        code = status == LORA_OK
                   ? 0
                   : say_failure(app, SAY_READING, model, status, &error);
    }
    options.selections = chosen;
    options.selection_count = selections->count;
    options.strict = strict != 0;
    out->bindings = app_alloc(count + 1, sizeof(lora_binding *));
    out->strengths = app_alloc(count + 1, sizeof *out->strengths);
    for (size_t i = 0; i < count && code == 0; i++) {
        code = bound_add(app, out, arguments[i], &options);
    }
    input_release_selections(chosen, selections->count);
    return code;
}

void bound_close(bound_adapters *all)
{
    for (size_t i = 0; i < all->count; i++) {
        lora_binding_destroy(all->bindings[i]);
    }
    free(all->bindings);
    free(all->strengths);
    lora_model_destroy(all->model);
}
