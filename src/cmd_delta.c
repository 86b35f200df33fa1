/* lora delta: the dense weight change of every module. */
#include "cmd.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "rules.h"
#include "say.h"
#include "text.h"

#include <stdio.h>

typedef struct delta_settings {
    int names; /* 1: stored, 2: canonical */
    int dtype; /* 1: f32, 2: f64 */
    opt_real strength;
    const char *base;
    int weights;
    rules_settings rules;
} delta_settings;

static const opt_spec delta_options[] = {
    {"names", 0, OPT_CHOICE, "stored|canonical", "names of the result (stored)",
     offsetof(delta_settings, names), 0, 0, 0},
    {"strength", 0, OPT_REAL, "M", "the user's multiplier (1)",
     offsetof(delta_settings, strength), -1e6, 1e6, 0},
    RULES_OPTIONS(delta_settings),
    {"base", 0, OPT_TEXT, "BASE", "the model that the adapter is for",
     offsetof(delta_settings, base), 0, 0, 0},
    {"weights", 0, OPT_FLAG, NULL, "the changed weights; needs --base",
     offsetof(delta_settings, weights), 0, 0, 0},
    {"dtype", 0, OPT_CHOICE, "f32|f64", "number type of the result (f32)",
     offsetof(delta_settings, dtype), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static lora_dtype delta_dtype(const delta_settings *own)
{
    return own->dtype == 2 ? LORA_DTYPE_F64 : LORA_DTYPE_F32;
}

static double delta_strength(const delta_settings *own)
{
    return own->strength.given ? own->strength.value : 1.0;
}

/* Modules that have a place in the result. */
static size_t delta_count(const lora_adapter *adapter)
{
    size_t count = 0;
    lora_module_info module;
    module.struct_size = sizeof module;
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        count +=
            lora_adapter_get_module(&module, adapter, i, NULL) == LORA_OK &&
            module.status == LORA_OK;
    }
    return count;
}

static void delta_report(const app_state *app,
                         const char *input,
                         const lora_adapter *adapter,
                         const delta_settings *own)
{
    const char *output = app->common.output;
    size_t count = delta_count(adapter);
    if (app->common.json) {
        fputs("{\"file\":", stdout);
        json_put_string(stdout, input);
        fputs(",\"output\":", stdout);
        if (output != NULL) {
            json_put_string(stdout, output);
        } else {
            fputs("null", stdout);
        }
        printf(",\"written\":%s,\"modules\":%zu,\"dtype\":\"%s\"}\n",
               app->common.dry_run ? "false" : "true", count,
               lora_dtype_name(delta_dtype(own)));
    } else {
        printf("%zu module%s, dense, %s\n", count, count == 1 ? "" : "s",
               lora_dtype_name(delta_dtype(own)));
    }
}

static void delta_fill(lora_adapter_delta_options *options,
                       const app_state *app,
                       const delta_settings *own)
{
    lora_adapter_delta_options_init(options, sizeof *options);
    options->dtype = delta_dtype(own);
    options->canonical = own->names == 2;
    options->overwrite = app->common.force != 0;
    options->skip_bad = app->common.skip_bad != 0;
    options->base = own->base;
    options->strength_rule = rules_strength(&own->rules);
    options->dora_rule = rules_dora(&own->rules);
    options->weights = own->weights != 0;
    options->dry_run = app->common.dry_run != 0;
}

static int
delta_run(app_state *app, int count, char **paths, const void *settings)
{
    const delta_settings *own = settings;
    const char *input = paths[0];
    lora_adapter *adapter = NULL;
    lora_adapter_delta_options options;
    lora_error error;
    (void)count;
    int code = output_check(app);
    if (code != 0) {
        return code;
    }
    if (own->weights && own->base == NULL) {
        return say_usage(app, "--weights", "needs --base");
    }
    lora_error_init(&error, sizeof error);
    delta_fill(&options, app, own);
    lora_status status = input_open(app, &adapter, input, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_READING, input, status, &error);
    }
    status = lora_adapter_save_delta(adapter, app->common.output,
                                     delta_strength(own), &options, &error);
    if (status != LORA_OK) {
        code = output_say_failure(app, input, status, &error);
    } else {
        progress_clear(&app->bar);
        delta_report(app, input, adapter, own);
        if (app->common.dry_run) {
            say_note(app, "dry run: nothing was written");
        } else {
            say_note(app, "wrote %s", app->common.output);
        }
    }
    lora_adapter_destroy(adapter);
    return code;
}

const app_verb cmd_delta = {
    "delta",
    "FILE -o OUT",
    "the dense weight change of every module",
    "lora delta style.safetensors -o dense.safetensors\t"
    "one tensor a module, f32\n"
    "lora delta style.safetensors -o half.safetensors --strength 0.5\t"
    "at half strength\n"
    "lora delta style.safetensors -o dense.safetensors --names canonical\t"
    "named as in diffusers\n"
    "lora delta ia3.safetensors --base model.safetensors --weights -o "
    "new.safetensors\t"
    "the weights it makes of the model's\n",
    "Each tensor has the shape of the weight it is to be added to; changes of\n"
    "a bias are called MODULE.bias. The result is much larger than the\n"
    "adapter.\n"
    "\n"
    "Some kinds, as (IA)^3 and GLoRA, change a weight by what it is: --base "
    "is\n"
    "the model, a file or folder, that has it as MODULE.weight, the module\n"
    "being named as in the adapter or as in diffusers. With --weights the\n"
    "result is what the weights become.\n",
    delta_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD,
    sizeof(delta_settings),
    VERB_CONTEXT,
    1,
    1,
    delta_run,
};
