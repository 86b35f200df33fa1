/* lora fuse: adapters into the weights of a checkpoint. */
#include "bound.h"
#include "cmd.h"
#include "output.h"
#include "rules.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fuse_settings {
    const char *undo;
    int undo_mode; /* 1: raw, 2: predict */
    int strict, stochastic, saturate, resume;
    opt_list select;
    uint64_t shard_bytes;
    rules_settings rules;
} fuse_settings;

static const opt_spec fuse_options[] = {
    {"undo", 0, OPT_TEXT, "FILE", "keep what unfuse needs in FILE",
     offsetof(fuse_settings, undo), 0, 0, 0},
    {"undo-mode", 0, OPT_CHOICE, "raw|predict",
     "predict: smaller, and needs the adapters (raw)",
     offsetof(fuse_settings, undo_mode), 0, 0, 0},
    {"strict", 0, OPT_FLAG, NULL, "refuse unless all of every adapter fits",
     offsetof(fuse_settings, strict), 0, 0, 0},
    {"select", 0, OPT_LIST, "PATTERN=FACTOR",
     "weigh these modules, as bind does (repeatable)",
     offsetof(fuse_settings, select), 0, 0, 0},
    {"stochastic", 0, OPT_FLAG, NULL, "round up or down by chance, see --seed",
     offsetof(fuse_settings, stochastic), 0, 0, 0},
    {"saturate", 0, OPT_FLAG, NULL, "of F8: the largest instead of NaN",
     offsetof(fuse_settings, saturate), 0, 0, 0},
    {"shard-size", 0, OPT_SIZE, "SIZE", "most data of one file; with an index",
     offsetof(fuse_settings, shard_bytes), 1, 0, 0},
    {"resume", 0, OPT_FLAG, NULL, "go on where a run with --resume ended",
     offsetof(fuse_settings, resume), 0, 0, 0},
    RULES_OPTIONS(fuse_settings),
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static void fuse_fill(lora_model_fuse_options *options,
                      const app_state *app,
                      const fuse_settings *own)
{
    lora_model_fuse_options_init(options, sizeof *options);
    options->undo = own->undo;
    options->undo_mode =
        own->undo_mode == 2 ? LORA_UNDO_PREDICT : LORA_UNDO_RAW;
    options->seed = app->common.seed;
    options->shard_bytes = own->shard_bytes;
    options->strength_rule = rules_strength(&own->rules);
    options->dora_rule = rules_dora(&own->rules);
    options->flags = (app->common.force ? LORA_FUSE_OVERWRITE : 0u) |
                     (own->stochastic ? LORA_FUSE_STOCHASTIC : 0u) |
                     (own->saturate ? LORA_FUSE_SATURATE : 0u) |
                     (own->resume ? LORA_FUSE_RESUME : 0u) |
                     (app->common.dry_run ? LORA_FUSE_DRY_RUN : 0u);
}

/* What is not in the model: so many lines of it on stderr. */
#define FUSE_LINES 8
static void fuse_warn(app_state *app, const lora_report *report)
{
    size_t count = lora_report_problem_count(report);
    size_t shown = count > FUSE_LINES + 1 ? FUSE_LINES : count;
    lora_problem problem;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < shown; i++) {
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK) {
            say_note(app, "%s: %s", problem.subject, problem.message);
        }
    }
    if (shown < count) {
        say_note(app, "and %zu more, which lora bind names", count - shown);
    }
}

/* Whether a failure is about a file that is being written: the output, one of
 * several that it becomes, or one in it. */
static int fuse_is_writing(const char *output, const lora_error *error)
{
    static const char suffix[] = ".safetensors";
    size_t bytes = strlen(output);
    size_t stem = bytes > sizeof suffix - 1 ? bytes - (sizeof suffix - 1) : 0;
    if (strcmp(output + stem, suffix) == 0) {
        bytes = stem;
    }
    return error->status != LORA_ERROR_TRUNCATED &&
           strncmp(error->subject, output, bytes) == 0 &&
           (error->subject[bytes] == '\0' || error->subject[bytes] == '/' ||
            error->subject[bytes] == '.' || error->subject[bytes] == '-');
}

static int fuse_failed(app_state *app,
                       const char *base,
                       const char *undo,
                       lora_status status,
                       const lora_error *error)
{
    const char *output = app->common.output;
    if (undo != NULL && say_is_about(error, undo)) {
        return say_failure(app, SAY_WRITING, undo, status, error);
    }
    return output != NULL && fuse_is_writing(output, error)
               ? say_failure(app, SAY_WRITING, output, status, error)
               : say_failure(app, SAY_WORKING, base, status, error);
}

static int
fuse_run(app_state *app, int count, char **operands, const void *settings)
{
    const fuse_settings *own = settings;
    lora_model_fuse_options options;
    lora_report *report = NULL;
    bound_adapters all;
    lora_error error;
    int code = output_check_adapter(app);
    if (code != 0) {
        return code;
    }
    if (own->undo != NULL && app->common.output != NULL &&
        strcmp(own->undo, app->common.output) == 0) {
        return say_usage(app, "--undo", "is the output");
    }
    if (own->undo != NULL && own->resume) {
        return say_usage(app, "--resume", "does not go with --undo");
    }
    lora_error_init(&error, sizeof error);
    fuse_fill(&options, app, own);
    code = bound_open(app, &all, operands[0], operands + 1, (size_t)count - 1,
                      &own->select, own->strict);
    if (code == 0) {
        lora_status status = lora_model_fuse(
            &report, all.model, (const lora_binding *const *)all.bindings,
            all.strengths, (size_t)all.count, app->common.output, &options,
            &error);
        if (status != LORA_OK) {
            code = fuse_failed(app, operands[0], own->undo, status, &error);
        }
    }
    if (code == 0) {
        progress_clear(&app->bar);
        fuse_warn(app, report);
        if (app->common.json) {
            puts(lora_report_to_json(report, NULL));
        }
        if (app->common.dry_run) {
            say_note(app, "dry run: nothing was written");
        } else {
            say_note(app, "wrote %s", app->common.output);
        }
    }
    lora_report_destroy(report);
    bound_close(&all);
    return code;
}

const app_verb cmd_fuse = {
    "fuse",
    "BASE ADAPTER[:WEIGHT[:TE_WEIGHT]]... -o OUT",
    "adapters into the weights of a checkpoint",
    "lora fuse base.safetensors style.safetensors:0.8 -o out.safetensors\t"
    "one adapter, at 0.8\n"
    "lora fuse base a.safetensors b.safetensors:0.5 -o out --undo u.undo\t"
    "a folder of diffusers\n",
    "BASE is a checkpoint: a file, an index of shards, or a folder of\n"
    "diffusers; of several files OUT is a folder. All adapters go in with one\n"
    "rounding, and every tensor keeps its type. What does not fit is named; "
    "if\n"
    "nothing of an adapter fits, nothing is written.\n",
    fuse_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT,
    sizeof(fuse_settings),
    VERB_CONTEXT,
    2,
    -1,
    fuse_run,
};
