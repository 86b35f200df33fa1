/* lora light: adapters whose factors act between frozen random matrices. */
#include "cmd.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct light_settings {
    const char *draws;
    const char *family;
    const char *base;
    opt_list shapes;
    uint64_t down_size, up_size;
    uint64_t rank;
    uint64_t variant;
    opt_real std;
    opt_list targets;
    int store;
} light_settings;

static const opt_spec light_options[] = {
    {"draws", 0, OPT_TEXT, "LIST",
     "what was drawn, in order (down_aux,down,up_aux)",
     offsetof(light_settings, draws), 0, 0, 0},
    {"family", 0, OPT_TEXT, "ID", "the base, such as sd15 (a guess)",
     offsetof(light_settings, family), 0, 0, 0},
    {"base", 0, OPT_TEXT, "FILE", "take sizes of layers from a checkpoint",
     offsetof(light_settings, base), 0, 0, 0},
    {"shape", 0, OPT_LIST, "PATTERN=OUTxIN",
     "sizes of layers, outputs first (repeatable)",
     offsetof(light_settings, shapes), 0, 0, 0},
    {"down-size", 0, OPT_COUNT, "A", "rows of down_aux (100)",
     offsetof(light_settings, down_size), 1, 1 << 20, 0},
    {"up-size", 0, OPT_COUNT, "B", "columns of up_aux (50)",
     offsetof(light_settings, up_size), 1, 1 << 20, 0},
    {"rank", 0, OPT_COUNT, "K", "create: the rank (4); expand: at most K",
     offsetof(light_settings, rank), 1, 1 << 20, 0},
    {"store", 0, OPT_FLAG, NULL, "write the frozen matrices too",
     offsetof(light_settings, store), 0, 0, 0},
    {"variant", 0, OPT_COUNT, "N",
     "0 at first: 1 up, 2 down, 3 both, 4 one; 5 random",
     offsetof(light_settings, variant), 1, 5, 0},
    {"std", 0, OPT_REAL, "X", "create: deviation of the normal numbers (1)",
     offsetof(light_settings, std), 1e-30, 1e30, 0},
    {"target", 0, OPT_LIST, "PATTERN",
     "create: these layers (attention; repeatable)",
     offsetof(light_settings, targets), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* The draws of the article's variants. */
static const char *const light_variants[] = {NULL,
                                             "down_aux,down,up_aux",
                                             "down_aux,up,up_aux",
                                             "down_aux,up_aux",
                                             "down_aux,up_aux",
                                             NULL};

enum {
    LIGHT_EXPAND,
    LIGHT_COMPRESS,
    LIGHT_VERIFY,
    LIGHT_CREATE,
    LIGHT_ACTIONS
};

static const char *const light_actions[LIGHT_ACTIONS] = {"expand", "compress",
                                                         "verify", "create"};

/* One call, with everything its options say. */
typedef struct light_call {
    app_state *app;
    const light_settings *own;
    const char *input;
    lora_light_recipe recipe;
    lora_light_options options;
    lora_light_shape *shapes;
    char **patterns; /* the shapes' own copies */
    int told;        /* a recipe was given */
} light_call;

/* ---- what is given ----------------------------------------------------- */

/* "PATTERN=OUTxIN" */
static int light_read_shape(light_call *call, size_t index)
{
    const char *text = call->own->shapes.items[index];
    const char *equals = strrchr(text, '=');
    const char *times = equals == NULL ? NULL : strchr(equals, 'x');
    uint64_t sides[2] = {0, 0};
    char number[24];

    if (times != NULL && (size_t)(times - equals) < sizeof number) {
        memcpy(number, equals + 1, (size_t)(times - equals - 1));
        number[times - equals - 1] = '\0';
        if (!opt_read_count(&sides[0], number) ||
            !opt_read_count(&sides[1], times + 1)) {
            sides[0] = 0;
        }
    }
    if (sides[0] == 0 || sides[1] == 0 || sides[0] > INT32_MAX ||
        sides[1] > INT32_MAX) {
        return say_usage(call->app, "--shape",
                         "\"%s\" is not PATTERN=OUTxIN, such as "
                         "*.attn1.*=320x320",
                         text);
    }
    call->patterns[index] = app_alloc((size_t)(equals - text) + 1, 1);
    memcpy(call->patterns[index], text, (size_t)(equals - text));
    call->patterns[index][equals - text] = '\0';
    call->shapes[index].pattern = call->patterns[index];
    call->shapes[index].rows = (int64_t)sides[0];
    call->shapes[index].cols = (int64_t)sides[1];
    return 0;
}

static int light_read(light_call *call, int action)
{
    app_state *app = call->app;
    const light_settings *own = call->own;

    lora_light_recipe_init(&call->recipe, sizeof call->recipe);
    lora_light_options_init(&call->options, sizeof call->options);
    call->shapes = app_alloc(own->shapes.count + 1, sizeof *call->shapes);
    call->patterns = app_alloc(own->shapes.count + 1, sizeof *call->patterns);
    memset(call->patterns, 0, (own->shapes.count + 1) * sizeof *call->patterns);
    for (size_t i = 0; i < own->shapes.count; i++) {
        int code = light_read_shape(call, i);
        if (code != 0) {
            return code;
        }
    }
    call->recipe.seed = app->common.seed;
    call->recipe.draws = own->draws;
    if (own->draws == NULL && action != LIGHT_CREATE) {
        call->recipe.draws = light_variants[own->variant];
    }
    call->recipe.family = own->family;
    call->recipe.base = own->base;
    call->recipe.shapes = call->shapes;
    call->recipe.shape_count = own->shapes.count;
    call->recipe.down_size = (int64_t)own->down_size;
    call->recipe.up_size = (int64_t)own->up_size;
    call->told = call->recipe.draws != NULL;
    call->options.dialect = app->common.dialect;
    call->options.targets = own->targets.items;
    call->options.target_count = own->targets.count;
    call->options.deviation = own->std.given ? own->std.value : 0.0;
    call->options.rank = (int64_t)own->rank;
    call->options.dtype = output_dtype(app);
    call->options.store = own->store != 0;
    call->options.skip_bad = app->common.skip_bad != 0;
    call->options.variant = (lora_light_variant)own->variant;
    return 0;
}

static void light_release(light_call *call)
{
    for (size_t i = 0; call->patterns != NULL && i < call->own->shapes.count;
         i++) {
        free(call->patterns[i]);
    }
    free(call->patterns);
    free(call->shapes);
}

/* Options of another action would be ignored. */
static int
light_check_action(app_state *app, int action, const light_settings *own)
{
    const unsigned create = 1u << LIGHT_CREATE;
    const unsigned files = ~create;
    const struct {
        const char *name;
        int given;
        unsigned actions;
    } rules[] = {
        {"--draws", own->draws != NULL, files},
        {"--base", own->base != NULL, files},
        {"--rank", own->rank != 0, create | 1u << LIGHT_EXPAND},
        {"--store", own->store, create | 1u << LIGHT_COMPRESS},
        {"--std", own->std.given, create},
        {"--target", own->targets.count > 0, create},
    };

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (rules[i].given && (rules[i].actions >> action & 1u) == 0) {
            return say_usage(app, rules[i].name, "says nothing to light %s",
                             light_actions[action]);
        }
    }
    return 0;
}

static int light_check_create(app_state *app, const light_settings *own)
{
    if (own->family == NULL) {
        return say_usage(app, "--family", "of which base? Such as sd15");
    }
    return own->std.given && own->variant != 5
               ? say_usage(app, "--std", "is for --variant 5")
               : 0;
}

/* A recipe is told as a whole or not at all. */
static int
light_check_recipe(app_state *app, int action, const light_settings *own)
{
    const int part = app->common.seed != 0 || own->family != NULL ||
                     own->base != NULL || own->shapes.count != 0 ||
                     own->down_size != 0 || own->up_size != 0;

    if (own->variant != 0 && own->draws != NULL) {
        return say_usage(app, "--variant", "and --draws say the same");
    }
    if (own->variant == 5) {
        return say_usage(app, "--variant", "of normal numbers: say --draws");
    }
    return part && own->draws == NULL && own->variant == 0 &&
                   action != LIGHT_COMPRESS
               ? say_usage(app, "--draws",
                           "what was drawn, in which order? A seed alone does "
                           "not tell: --variant N or --draws")
               : 0;
}

static int light_check(app_state *app, int action, const light_settings *own)
{
    int code = light_check_action(app, action, own);

    if (code != 0) {
        return code;
    }
    return action == LIGHT_CREATE ? light_check_create(app, own)
                                  : light_check_recipe(app, action, own);
}

/* ---- reports ----------------------------------------------------------- */

static void light_put_problems(const app_state *app, const lora_report *report)
{
    const size_t most = app->common.verbose ? SIZE_MAX : 4;
    size_t count = lora_report_problem_count(report);
    lora_problem problem;
    problem.struct_size = sizeof problem;

    for (size_t i = 0; i < count && i < most; i++) {
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK) {
            printf("%s: %s\n", problem.subject, problem.message);
        }
    }
    if (count > most) {
        printf("and %zu more (--verbose shows them)\n", count - most);
    }
}

static int light_put_verified(app_state *app, const lora_report *report)
{
    const size_t count = lora_report_problem_count(report);

    if (app->common.json) {
        puts(lora_report_to_json(report, NULL));
    } else {
        light_put_problems(app, report);
        if (count == 0) {
            puts("all stored frozen matrices are what the recipe draws");
        }
    }
    return count == 0 ? EXIT_DONE : EXIT_MISMATCH;
}

static void
light_put_made(const light_call *call, const lora_adapter *made, uint64_t bytes)
{
    const app_state *app = call->app;

    fputs("{\"output\":", stdout);
    if (app->common.output != NULL) {
        json_put_string(stdout, app->common.output);
    } else {
        fputs("null", stdout);
    }
    printf(",\"written\":%s,\"bytes\":%llu,\"tensors\":%zu,\"modules\":%zu}\n",
           app->common.dry_run ? "false" : "true", (unsigned long long)bytes,
           lora_adapter_tensor_count(made), lora_adapter_module_count(made));
}

static void light_put_compressed(const app_state *app,
                                 const lora_report *report)
{
    lora_report_module layer;
    double norm = 0.0;
    double lost = 0.0;
    layer.struct_size = sizeof layer;

    if (app->common.json) {
        puts(lora_report_to_json(report, NULL));
        return;
    }
    for (size_t i = 0; i < lora_report_module_count(report); i++) {
        if (lora_report_get_module(&layer, report, i, NULL) == LORA_OK) {
            lost += layer.error * layer.error;
            norm += layer.energy < 1.0
                        ? layer.error * layer.error / (1.0 - layer.energy)
                        : 0.0;
        }
    }
    printf("layers      %zu\n", lora_report_module_count(report));
    if (norm > 0.0) {
        printf("energy      %.4g %% kept\n", 100.0 * (1.0 - lost / norm));
    }
}

/* ---- actions ----------------------------------------------------------- */

/* Names of another dialect for what was expanded. */
static lora_status
light_respell(const app_state *app, lora_adapter **adapter, lora_error *error)
{
    lora_adapter_convert_options options;
    lora_adapter *spelled;
    lora_status status;

    if (app->common.dialect == NULL) {
        return LORA_OK;
    }
    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = app->common.dialect;
    status = lora_adapter_convert(&spelled, *adapter, &options, error);
    if (status == LORA_OK) {
        lora_adapter_destroy(*adapter);
        *adapter = spelled;
    }
    return status;
}

static int light_make(light_call *call, int action, const lora_adapter *adapter)
{
    app_state *app = call->app;
    const lora_light_recipe *recipe = call->told ? &call->recipe : NULL;
    lora_adapter *made = NULL;
    lora_report *report = NULL;
    lora_error error;
    lora_status status;
    uint64_t bytes = 0;
    int code = 0;

    lora_error_init(&error, sizeof error);
    if (action == LIGHT_CREATE) {
        status = lora_light_create(&made, app->context, &call->recipe,
                                   &call->options, &error);
    } else if (action == LIGHT_COMPRESS) {
        status = lora_light_compress(&made, &report, adapter, &call->recipe,
                                     &call->options, &error);
    } else {
        status =
            lora_light_expand(&made, adapter, recipe, &call->options, &error);
        if (status == LORA_OK) {
            status = light_respell(app, &made, &error);
        }
    }
    if (status != LORA_OK) {
        code = say_failure(app, SAY_WORKING, call->input, status, &error);
    }
    if (code == 0) {
        code = output_edit_metadata(app, &made);
    }
    if (code == 0) {
        code = output_save(app, made, call->input, &bytes);
    }
    if (code == 0) {
        if (report != NULL) {
            light_put_compressed(app, report);
        } else if (app->common.json) {
            light_put_made(call, made, bytes);
        }
        output_say_written(app, bytes);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(made);
    return code;
}

static int light_verify(light_call *call, const lora_adapter *adapter)
{
    lora_report *report = NULL;
    lora_error error;
    lora_status status;
    int code;

    lora_error_init(&error, sizeof error);
    status = lora_light_verify(&report, adapter,
                               call->told ? &call->recipe : NULL, &error);
    code = status == LORA_OK ? light_put_verified(call->app, report)
                             : say_failure(call->app, SAY_WORKING, call->input,
                                           status, &error);
    lora_report_destroy(report);
    return code;
}

static int light_act(light_call *call, int action)
{
    app_state *app = call->app;
    lora_adapter *adapter = NULL;
    lora_error error;
    int code = action == LIGHT_VERIFY ? 0 : output_check_adapter(app);

    if (code == 0 && action != LIGHT_CREATE) {
        lora_error_init(&error, sizeof error);
        lora_status status = input_open(app, &adapter, call->input, &error);
        if (status != LORA_OK) {
            return say_failure(app, SAY_READING, call->input, status, &error);
        }
    }
    if (code == 0) {
        code = action == LIGHT_VERIFY ? light_verify(call, adapter)
                                      : light_make(call, action, adapter);
    }
    lora_adapter_destroy(adapter);
    return code;
}

static int
light_run(app_state *app, int count, char **operands, const void *settings)
{
    light_call call;
    int action = 0;

    while (action < LIGHT_ACTIONS &&
           strcmp(operands[0], light_actions[action]) != 0) {
        action++;
    }
    if (action == LIGHT_ACTIONS) {
        return say_usage(app, operands[0],
                         "do what? expand, compress, verify or create");
    }
    if ((action == LIGHT_CREATE) != (count == 1)) {
        return say_usage(app, light_actions[action],
                         action == LIGHT_CREATE ? "takes no file"
                                                : "needs a file");
    }
    memset(&call, 0, sizeof call);
    call.app = app;
    call.own = settings;
    call.input = count > 1 ? operands[1] : app->common.output;
    int code = light_check(app, action, settings);
    if (code == 0) {
        code = light_read(&call, action);
    }
    if (code == 0) {
        code = light_act(&call, action);
    }
    light_release(&call);
    return code;
}

const app_verb cmd_light = {
    "light",
    "expand|compress|verify FILE, or create",
    "Light-LoRA: expand, compress, verify or create",
    "lora light expand small.safetensors -o lora.safetensors --variant 1 "
    "--family sd15\tplain LoRA, frozen matrices drawn again\n"
    "lora light verify trained.safetensors --draws down_aux,up_aux\t"
    "are those what is stored?\n"
    "lora light compress trained.safetensors -o small.safetensors\t"
    "leave out what a seed tells\n"
    "lora light create -o start.safetensors --family sd15 --rank 4\t"
    "to begin a training with\n",
    "Frozen matrices that are not stored are drawn again as torch draws them:\n"
    "--seed, and --draws, what was drawn in which order: down_aux, down, up,\n"
    "up_aux or down_up, separated by commas, each with :orthogonal, :normal,\n"
    ":xavier or :linear and :VALUE after it. Files that were written by this\n"
    "program say it themselves. Sizes of layers are those of the family, of a\n"
    "base, or given with --shape.\n",
    light_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD |
        OPT_GROUP_MODEL,
    sizeof(light_settings),
    VERB_CONTEXT,
    1,
    2,
    light_run,
};
