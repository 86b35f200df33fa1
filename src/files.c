/* Verbs that take several files: see files.h. */
#include "files.h"

#include "json.h"
#include "say.h"

#include <stdio.h>

static void files_put_error(const char *path, const lora_error *error)
{
    fputs("{\"file\":", stdout);
    json_put_string(stdout, path);
    printf(",\"error\":{\"status\":\"%s\",\"subject\":",
           lora_status_name(error->status));
    json_put_string(stdout, error->subject);
    if (error->offset == LORA_NO_OFFSET) {
        fputs(",\"offset\":null", stdout);
    } else {
        printf(",\"offset\":%llu", (unsigned long long)error->offset);
    }
    fputs(",\"message\":", stdout);
    json_put_string(stdout, error->message);
    fputs("}}", stdout);
}

int files_each(app_state *app,
               int count,
               char **paths,
               files_fn fn,
               const void *settings,
               const char *between)
{
    int json = app->common.json;
    int worst = 0;
    int printed = 0;
    if (json && count > 1) {
        fputs("[", stdout);
    }
    for (int i = 0; i < count && !app_interrupted(); i++) {
        int code = 0;
        lora_error error;
        lora_error_init(&error, sizeof error);
        if (i > 0) {
            fputs(json ? ",\n" : (printed ? between : ""), stdout);
        }
        lora_status status = fn(app, paths[i], settings, &code, &error);
        if (status != LORA_OK) {
            error.status = status;
            code = say_failure(app, SAY_READING, paths[i], status, &error);
            if (json) {
                files_put_error(paths[i], &error);
            }
        }
        printed = printed || status == LORA_OK;
        worst = say_worse(worst, code);
    }
    if (json) {
        fputs(count > 1 ? "]\n" : "\n", stdout);
    }
    return app_interrupted() ? EXIT_INTERRUPTED : worst;
}
