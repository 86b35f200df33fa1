/* lora delta: the dense weight change of every module. */
#include "cmd.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>

/* Rows of one block when nothing is written: about this many bytes. */
#define DELTA_BLOCK ((int64_t)1 << 24)

typedef struct delta_settings {
    int names; /* 1: stored, 2: canonical */
    int dtype; /* 1: f32, 2: f64 */
    opt_real strength;
} delta_settings;

static const opt_spec delta_options[] = {
    {"names", 0, OPT_CHOICE, "stored|canonical", "names of the result (stored)",
     offsetof(delta_settings, names), 0, 0, 0},
    {"strength", 0, OPT_REAL, "M", "the user's multiplier (1)",
     offsetof(delta_settings, strength), -1e6, 1e6, 0},
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

/* Compute one part of a module block by block and throw the numbers away. */
static lora_status delta_try_part(const lora_adapter *adapter,
                                  size_t index,
                                  const lora_module_info *module,
                                  lora_part part,
                                  const delta_settings *own,
                                  lora_error *error)
{
    lora_dtype dtype = delta_dtype(own);
    int64_t rows = module->ndim > 0 ? module->shape[0] : 0;
    int64_t row_bytes = lora_dtype_bits(dtype) / 8;
    for (int32_t i = 1; part == LORA_PART_WEIGHT && i < module->ndim; i++) {
        if (module->shape[i] > 0 && row_bytes > INT64_MAX / module->shape[i]) {
            return LORA_ERROR_LIMIT;
        }
        row_bytes *= module->shape[i];
    }
    if (rows <= 0 || row_bytes <= 0) {
        return LORA_OK;
    }
    int64_t block = DELTA_BLOCK / row_bytes;
    block = block < 1 ? 1 : block > rows ? rows : block;
    lora_status status = LORA_OK;
    void *buffer = app_alloc((size_t)block, (size_t)row_bytes);
    for (int64_t row = 0; row < rows && status == LORA_OK; row += block) {
        int64_t end = rows - row > block ? row + block : rows;
        status = lora_adapter_delta(
            buffer, (size_t)(end - row) * (size_t)row_bytes, adapter, index,
            part, delta_strength(own), dtype, row, end, error);
    }
    free(buffer);
    return status;
}

static lora_status delta_try_module(const lora_adapter *adapter,
                                    size_t index,
                                    const lora_module_info *module,
                                    const delta_settings *own,
                                    lora_error *error)
{
    static const lora_part parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};
    lora_status status = LORA_OK;
    if (module->status != LORA_OK) { /* no rows, for the message alone */
        char none = 0;
        status = lora_adapter_delta(&none, 0, adapter, index, LORA_PART_WEIGHT,
                                    1.0, delta_dtype(own), 0, 0, error);
        return status != LORA_OK ? status : module->status;
    }
    for (size_t i = 0; i < 2 && status == LORA_OK; i++) {
        if ((module->changes & parts[i]) != 0) {
            status =
                delta_try_part(adapter, index, module, parts[i], own, error);
        }
    }
    return status;
}

/* --dry-run: everything but the file. */
static lora_status delta_try(app_state *app,
                             const lora_adapter *adapter,
                             const delta_settings *own,
                             lora_error *error)
{
    size_t count = lora_adapter_module_count(adapter);
    lora_module_info module;
    module.struct_size = sizeof module;
    if (count == 0) {
        snprintf(error->message, sizeof error->message,
                 "has no module of a known kind");
        return LORA_ERROR_KEY;
    }
    for (size_t i = 0; i < count; i++) {
        lora_status status =
            lora_adapter_get_module(&module, adapter, i, error);
        if (status == LORA_OK && module.status != LORA_OK &&
            app->common.skip_bad) {
            continue;
        }
        if (status == LORA_OK) {
            status = delta_try_module(adapter, i, &module, own, error);
        }
        if (status != LORA_OK) {
            return status;
        }
        if (app_interrupted()) {
            return LORA_ERROR_CANCELLED;
        }
    }
    return LORA_OK;
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
    lora_error_init(&error, sizeof error);
    lora_adapter_delta_options_init(&options, sizeof options);
    options.dtype = delta_dtype(own);
    options.canonical = own->names == 2;
    options.overwrite = app->common.force != 0;
    options.skip_bad = app->common.skip_bad != 0;
    lora_status status = input_open(app, &adapter, input, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_READING, input, status, &error);
    }
    if (app->common.dry_run) {
        status = delta_try(app, adapter, own, &error);
    } else {
        status = lora_adapter_save_delta(adapter, app->common.output,
                                         delta_strength(own), &options, &error);
    }
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
    "named as in diffusers\n",
    "Each tensor has the shape of the weight it is to be added to; changes of\n"
    "a bias are called MODULE.bias. The result is much larger than the\n"
    "adapter.\n",
    delta_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD,
    sizeof(delta_settings),
    VERB_CONTEXT,
    1,
    1,
    delta_run,
};
