/* lora unfuse: the model that adapters were fused into, as it was. */
#include "bound.h"
#include "cmd.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "system.h"
#include "text.h"

#include <stdio.h>

typedef struct unfuse_settings {
    const char *undo;
    opt_list select;
} unfuse_settings;

static const opt_spec unfuse_options[] = {
    {"undo", 0, OPT_TEXT, "FILE", "the undo file that fusing wrote",
     offsetof(unfuse_settings, undo), 0, 0, 0},
    {"select", 0, OPT_LIST, "PATTERN=FACTOR", "as it was given to fuse",
     offsetof(unfuse_settings, select), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static void unfuse_report(app_state *app,
                          const char *fused,
                          const unfuse_settings *own,
                          const lora_report *report)
{
    progress_clear(&app->bar);
    if (app->common.json) {
        fputs("{\"file\":", stdout);
        json_put_string(stdout, fused);
        fputs(",\"undo\":", stdout);
        json_put_string(stdout, own->undo);
        fputs(",\"output\":", stdout);
        if (app->common.output != NULL) {
            json_put_string(stdout, app->common.output);
        } else {
            fputs("null", stdout);
        }
        printf(",\"written\":%s,\"report\":%s}\n",
               app->common.dry_run ? "false" : "true",
               lora_report_to_json(report, NULL));
    }
    if (app->common.dry_run) {
        say_note(app, "dry run: all of it comes back, nothing was written");
    } else {
        say_note(app, "wrote %s, as it was before fusing", app->common.output);
    }
}

/* A model of several files goes to a folder, which may be there. */
static int unfuse_check_output(app_state *app)
{
    return app->common.output != NULL &&
                   system_path_kind(app->common.output) == SYSTEM_FOLDER
               ? 0
               : output_check(app);
}

static int
unfuse_run(app_state *app, int count, char **operands, const void *settings)
{
    const unfuse_settings *own = settings;
    const char *fused = operands[0];
    bound_adapters all = {NULL, NULL, NULL, 0};
    lora_model_unfuse_options options;
    lora_report *report = NULL;
    lora_error error;
    if (own->undo == NULL) {
        return say_usage(app, NULL, "--undo is needed");
    }
    int code = unfuse_check_output(app);
    if (code != 0) {
        return code;
    }
    lora_error_init(&error, sizeof error);
    lora_model_unfuse_options_init(&options, sizeof options);
    options.flags = (app->common.force ? LORA_FUSE_OVERWRITE : 0u) |
                    (app->common.dry_run ? LORA_FUSE_DRY_RUN : 0u);
    /* A model is opened for adapters alone. */
    code = count == 1 ? 0
                      : bound_open(app, &all, fused, operands + 1,
                                   (size_t)count - 1, &own->select, 0);
    if (code == 0) {
        const char *output = app->common.output;
        lora_status status =
            lora_model_unfuse(&report, app->context, fused, own->undo,
                              output != NULL ? output : "",
                              (const lora_binding *const *)all.bindings,
                              all.strengths, all.count, &options, &error);
        if (status == LORA_OK) {
            unfuse_report(app, fused, own, report);
        } else {
            code = output_say_failure(app, fused, status, &error);
        }
    }
    lora_report_destroy(report);
    bound_close(&all);
    return code;
}

const app_verb cmd_unfuse = {
    "unfuse",
    "FUSED [ADAPTER[:WEIGHT]...] --undo FILE -o OUT",
    "the model that adapters were fused into, bit for bit",
    "lora unfuse fused.safetensors --undo fused.undo -o model.safetensors\t"
    "as it was\n"
    "lora unfuse fused.safetensors style.safetensors:0.8 --undo small.undo -o "
    "model.safetensors\t"
    "from an undo file that needs the adapters\n"
    "lora unfuse fused.safetensors --undo fused.undo --dry-run\t"
    "does it fit?\n",
    "Every tensor is checked by its hash before and after. Exit code 4 where\n"
    "the model is not as fusing left it, or the adapters are not those that\n"
    "were fused, in their order and with their weights. Of several undo files\n"
    "the last one goes first. A model of several files goes to a folder.\n",
    unfuse_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT,
    sizeof(unfuse_settings),
    VERB_CONTEXT,
    1,
    -1,
    unfuse_run,
};
