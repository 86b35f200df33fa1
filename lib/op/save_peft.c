/* Saving as a folder that PEFT loads; formats.md 6.
 *
 * The scale of a module is lora_alpha / r there, of the configuration or of its
 * patterns. What the tensors' file says of alpha in its own metadata, PEFT does
 * not read.
 */
#include "adapter/adapter.h"
#include "core/options.h"
#include "core/text.h"
#include "format/folder.h"
#include "op/emit_alpha.h"
#include "op/peft_type.h"
#include "platform/file.h"

#include <string.h>

#define PEFT_PREFIX "base_model.model."

/* 1 for a trained bias of a layer that has no adapter. */
static int peft_is_bias(const lora__module *module)
{
    return module->roles == LORA__ROLE_BIT(LORA__ROLE_BIAS);
}

static lora_status peft_check(const lora__module *module, lora_error *error)
{
    const lora__peft_type *type = lora__peft_type_of(module);

    TRY(lora__module_check(module, error));
    if (module->broken ||
        strcmp(lora__dialect_id(module->dialect), "peft") != 0 ||
        !lora__text_begins(module->name, strlen(module->name), PEFT_PREFIX)) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, module->name,
                          "not a name of PEFT: convert to the dialect peft");
    }
    if (peft_is_bias(module)) {
        return LORA_OK;
    }
    if (type == NULL ||
        (lora__module_replaces_bias(module) && !type->is_pair)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name, "%s has no place in a PEFT folder yet",
                          module->kind->id);
    }
    if (module->of_inputs < 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "whether ia3_l scales inputs or outputs is told by "
                          "the feedforward_modules of an adapter_config.json");
    }
    return LORA_OK;
}

/* What PEFT says of all modules at once must be true of them, or do no harm:
 * a bias that is not there is 0, but a magnitude would be that of the base. It
 * refuses biases beside embeddings or DoRA. Magnitudes have the shape of
 * PEFT's, which is not that of LyCORIS. */
static lora_status peft_check_all(const lora_adapter *adapter,
                                  const lora__emit_alpha *alphas,
                                  lora_error *error)
{
    const lora__module *biased = NULL;

    for (size_t m = 0; m < adapter->module_count; m++) {
        biased = alphas[m].has_bias ? &adapter->modules[m] : biased;
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        const lora__entry *dora =
            lora__module_entry(adapter, module, LORA__ROLE_DORA);
        if (alphas[m].type != alphas[0].type) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              module->name,
                              "a PEFT folder has adapters of one type: this is "
                              "of %s, and %s of %s",
                              alphas[m].type->id, adapter->modules[0].name,
                              alphas[0].type->id);
        }
        if (alphas[m].has_dora != alphas[0].has_dora) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              module->name,
                              "in a PEFT folder all modules are of DoRA, or "
                              "none");
        }
        if (dora != NULL && dora->ndim != (module->ndim == 2 ? 1 : 4)) {
            return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              dora->name,
                              "a magnitude of another shape than PEFT has");
        }
        if (biased != NULL &&
            (dora != NULL ||
             lora__module_find(module, LORA__ROLE_EMBEDDING_DOWN) != NULL)) {
            return lora__fail(
                error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
                "PEFT loads no %s beside a bias, as that of %s",
                dora != NULL ? "DoRA" : "embeddings", biased->name);
        }
    }
    return LORA_OK;
}

/* The alpha that gives the module's scale: the one it has, if that does. */
static double peft_alpha(const lora__module *module)
{
    double rank = (double)module->rank;

    return module->has_alpha && module->alpha / rank == module->scale
               ? module->alpha
               : module->scale * rank;
}

/* What is said of the modules that are adapters, `biases` being trained beside
 * them. */
static lora_status peft_put_adapters(lora__buffer *json,
                                     const lora_adapter *adapter,
                                     int biases,
                                     lora_error *error)
{
    size_t count = adapter->module_count;
    lora__emit_alpha *alphas;
    void *memory;
    lora_status status = LORA_OK;

    if (count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path, "no modules to save");
    }
    TRY(lora__alloc_zeroed(&memory, adapter->context, count, sizeof *alphas,
                           error));
    alphas = memory;
    for (size_t m = 0; m < count; m++) {
        const lora__module *module = &adapter->modules[m];
        alphas[m].target = module->name + strlen(PEFT_PREFIX);
        alphas[m].alpha = peft_alpha(module);
        lora__alpha_describe(&alphas[m], module, module->rank);
    }
    if (biases && !alphas[0].type->is_pair) {
        status = lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            adapter->modules[0].name,
                            "a PEFT folder has trained biases beside LoRA "
                            "alone");
        goto done;
    }
    alphas[0].biases = biases ? 2 : alphas[0].biases;
    TRY_OR_DONE(peft_check_all(adapter, alphas, error));
    TRY_OR_DONE(lora__peft_plan(alphas, adapter, count, error));
    TRY_OR_DONE(lora__alpha_put_config(json, alphas, count, error));
    lora__buffer_putc(json, '\n');
    status = lora__buffer_status(json, error);
done:
    lora__free(adapter->context, alphas, count * sizeof *alphas, LORA__ALIGN);
    return status;
}

static lora_status peft_put_config(lora__buffer *json,
                                   const lora_adapter *adapter,
                                   lora_error *error)
{
    lora_adapter view = *adapter; /* of the adapters among the modules */
    size_t count = adapter->module_count;
    lora__module *modules;
    void *memory;
    lora_status status = LORA_OK;

    TRY(lora__alloc_zeroed(&memory, adapter->context, count + 1,
                           sizeof *modules, error));
    modules = memory;
    view.modules = modules;
    view.module_count = 0;
    for (size_t m = 0; m < count; m++) {
        const lora__module *module = &adapter->modules[m];
        TRY_OR_DONE(peft_check(module, error));
        if (!peft_is_bias(module)) {
            modules[view.module_count++] = *module;
        }
    }
    status = peft_put_adapters(json, &view, view.module_count < count, error);
done:
    lora__free(adapter->context, modules, (count + 1) * sizeof *modules,
               LORA__ALIGN);
    return status;
}

/* The configuration is written first and named last. */
static lora_status peft_write(const lora_adapter *adapter,
                              lora__arena *arena,
                              const lora__buffer *json,
                              const char *folder,
                              int overwrite,
                              lora_error *error)
{
    lora_writer config;
    lora_writer model;
    const char *path;
    lora_status status;

    TRY(lora__folder_join(&path, arena, folder, strlen(folder),
                          "adapter_config.json", error));
    TRY(lora__writer_open_file(&config, adapter->context, path, overwrite,
                               error));
    status = lora__writer_write(&config, json->data, json->bytes, error);
    if (status == LORA_OK) {
        status = lora__folder_join(&path, arena, folder, strlen(folder),
                                   "adapter_model.safetensors", error);
    }
    if (status == LORA_OK) {
        status = lora__writer_open_file(&model, adapter->context, path,
                                        overwrite, error);
    }
    if (status == LORA_OK) {
        status = lora__adapter_write(adapter, &model, error);
    }
    if (status != LORA_OK) {
        lora__writer_abort(&config);
        return status;
    }
    status = lora__writer_finish(&config, error);
    if (status != LORA_OK && !overwrite) {
        lora__path_remove(path); /* a moment ago there was nothing */
    }
    return status;
}

LORA_API lora_status
lora_adapter_save_peft(const lora_adapter *adapter,
                       const char *folder,
                       const lora_adapter_save_options *options,
                       lora_error *error)
{
    lora_adapter_save_options o;
    lora__arena arena;
    lora__buffer json;
    lora_status status;
    int32_t os_error;
    int made = 0;

    lora__error_begin(error);
    CHECK_ARG(adapter != NULL, error);
    CHECK_ARG(folder != NULL, error);
    TRY(lora__options_read(&o, sizeof o,
                           LORA__SIZE_TO(lora_adapter_save_options, reserved1),
                           options, error));
    TRY(lora__options_reserved(o.reserved1, error));
    lora__arena_init(&arena, adapter->context);
    lora__buffer_init(&json, adapter->context);
    TRY_OR_DONE(peft_put_config(&json, adapter, error));
    os_error = lora__folder_make(&made, folder);
    if (os_error != 0) {
        status =
            lora__fail_os(error, os_error, folder, "cannot make the folder");
        goto done;
    }
    status =
        peft_write(adapter, &arena, &json, folder, o.overwrite != 0, error);
done:
    if (status != LORA_OK && made) {
        lora__folder_remove(folder);
    }
    lora__buffer_destroy(&json);
    lora__arena_destroy(&arena);
    return status;
}
