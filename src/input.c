/* Opening an adapter: see input.h. */
#include "input.h"

#include "opt.h"
#include "say.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_TEXT_MOST ((size_t)16 << 20)

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

/* Take a number off the end of a path; 0 if there is none, or nothing before
 * it. */
static int input_take_weight(double *out, char *path)
{
    char *colon = strrchr(path, ':');
    if (colon == NULL || colon == path || !opt_read_real(out, colon + 1)) {
        return 0;
    }
    *colon = '\0';
    return 1;
}

char *input_split(lora_strength *out, int *out_given, const char *argument)
{
    size_t bytes = strlen(argument) + 1;
    char *path = app_alloc(bytes, 1);
    memcpy(path, argument, bytes);
    out->model = out->text_encoder = 1.0;
    *out_given = input_take_weight(&out->text_encoder, path);
    if (*out_given && !input_take_weight(&out->model, path)) {
        out->model = out->text_encoder;
    }
    return path;
}

lora_status input_open(app_state *app,
                       lora_adapter **out,
                       const char *path,
                       lora_error *error)
{
    lora_adapter_open_options options;
    lora_status status = LORA_OK;
    char *text = NULL;
    lora_adapter_open_options_init(&options, sizeof options);
    if (app->common.config != NULL) {
        status = input_read_text(&text, &options.config_bytes,
                                 app->common.config, error);
        options.config = text;
    }
    if (status == LORA_OK) {
        status = lora_adapter_open(out, app->context, path, &options, error);
    }
    free(text);
    return status;
}

static int
input_read_selection(app_state *app, lora_selection *out, const char *text)
{
    const char *equals = strrchr(text, '=');
    size_t bytes = equals == NULL ? strlen(text) : (size_t)(equals - text);
    int is_list = equals == NULL && strchr(text, ',') != NULL;
    out->factor = 1.0;
    if (bytes == 0 ||
        (!is_list &&
         (equals == NULL || !opt_read_real(&out->factor, equals + 1)))) {
        return say_usage(app, "--select",
                         "\"%s\" is neither PATTERN=FACTOR nor a list of block "
                         "weights",
                         text);
    }
    char *pattern = app_alloc(bytes + 1, 1);
    memcpy(pattern, text, bytes);
    pattern[bytes] = '\0';
    out->pattern = pattern;
    return 0;
}

int input_read_selections(app_state *app,
                          lora_selection **out,
                          const opt_list *texts)
{
    int code = 0;
    *out = app_alloc(texts->count + 1, sizeof **out);
    memset(*out, 0, (texts->count + 1) * sizeof **out);
    for (size_t i = 0; i < texts->count && code == 0; i++) {
        code = input_read_selection(app, &(*out)[i], texts->items[i]);
    }
    return code;
}

void input_release_selections(lora_selection *selections, size_t count)
{
    for (size_t i = 0; selections != NULL && i < count; i++) {
        free((void *)(uintptr_t)selections[i].pattern);
    }
    free(selections);
}
