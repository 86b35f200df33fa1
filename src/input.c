/* Opening an adapter: see input.h. */
#include "input.h"

#include "system.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_TEXT_MOST ((size_t)16 << 20)

/* The first that is there is taken, as PEFT does. */
static const char *const input_peft_models[] = {"adapter_model.safetensors",
                                                "adapter_model.bin", NULL};
static const char input_peft_config[] = "adapter_config.json";

static lora_status input_fail(lora_error *error,
                              lora_status status,
                              const char *path,
                              const char *message)
{
    size_t bytes = strlen(path);
    size_t room = sizeof error->subject - 1;
    lora_error_init(error, sizeof *error);
    error->status = status;
    snprintf(error->subject, sizeof error->subject, "%s",
             bytes > room ? path + bytes - room : path);
    snprintf(error->message, sizeof error->message, "%s", message);
    return status;
}

lora_status input_read_text(char **out,
                            size_t *out_bytes,
                            const char *path,
                            lora_error *error)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return input_fail(error, LORA_ERROR_IO, path, strerror(errno));
    }
    char *text = app_alloc(INPUT_TEXT_MOST, 1);
    *out_bytes = fread(text, 1, INPUT_TEXT_MOST, file);
    int failed = ferror(file);
    int number = errno;
    fclose(file);
    if (failed || *out_bytes == INPUT_TEXT_MOST) {
        free(text);
        return failed ? input_fail(error, LORA_ERROR_IO, path, strerror(number))
                      : input_fail(error, LORA_ERROR_LIMIT, path,
                                   "too large, 16 MiB is the limit");
    }
    *out = text;
    return LORA_OK;
}

/* FOLDER/NAME if there is such a file, else NULL; free it. */
static char *input_beside(const char *folder, const char *name)
{
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = app_alloc(bytes, 1);
    snprintf(path, bytes, "%s/%s", folder, name);
    if (system_path_kind(path) != SYSTEM_FILE) {
        free(path);
        return NULL;
    }
    return path;
}

/* 1 if the last part of the path is a name that PEFT gives to its models. */
static int input_is_model(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    for (size_t i = 0; input_peft_models[i] != NULL; i++) {
        if (strcmp(name, input_peft_models[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

lora_status input_open(app_state *app,
                       lora_adapter **out,
                       const char *path,
                       lora_error *error)
{
    lora_adapter_open_options options;
    lora_status status = LORA_OK;
    char *text = NULL;
    char *model = NULL;
    char *config = NULL;
    lora_adapter_open_options_init(&options, sizeof options);
    if (system_path_kind(path) == SYSTEM_FOLDER) {
        for (size_t i = 0; model == NULL && input_peft_models[i] != NULL; i++) {
            model = input_beside(path, input_peft_models[i]);
        }
        config = model != NULL ? input_beside(path, input_peft_config) : NULL;
    } else if (input_is_model(path)) {
        char *folder = system_folder_of(path);
        config =
            folder != NULL ? input_beside(folder, input_peft_config) : NULL;
        free(folder);
    }
    if (app->common.config != NULL || config != NULL) {
        status = input_read_text(
            &text, &options.config_bytes,
            app->common.config != NULL ? app->common.config : config, error);
        options.config = text;
    }
    if (status == LORA_OK) {
        status = lora_adapter_open(
            out, app->context, model != NULL ? model : path, &options, error);
    }
    free(text);
    free(model);
    free(config);
    return status;
}
