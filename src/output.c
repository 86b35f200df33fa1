/* Writing a result: see output.h. */
#include "output.h"

#include "say.h"
#include "system.h"
#include "text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Metadata that readers take numbers from: alpha and ranks of dialects that
 * have no tensors for them. Leaving it out would change the adapter. */
static const char *const output_numeric_keys[] = {"lora_adapter_metadata"};

/* What a PEFT folder has. */
static const char *const output_peft_files[] = {"adapter_model.safetensors",
                                                "adapter_config.json"};

#define OUTPUT_NUMERIC_COUNT                                                   \
    (sizeof output_numeric_keys / sizeof output_numeric_keys[0])

static int output_check_folder(app_state *app, const char *path)
{
    int code = 0;
    char *folder = system_folder_of(path);
    if (folder == NULL) {
        say_error(app, path, "out of memory");
        return EXIT_MEMORY;
    }
    switch (system_path_kind(folder)) {
    case SYSTEM_FOLDER:
        if (!system_can_write_folder(folder)) {
            say_error(app, path, "the folder cannot be written to");
            code = EXIT_FAILED;
        }
        break;
    case SYSTEM_NOTHING:
        say_error(app, path, "there is no folder %s, make it first", folder);
        code = EXIT_FAILED;
        break;
    default:
        say_error(app, path, "%s is not a folder", folder);
        code = EXIT_FAILED;
        break;
    }
    free(folder);
    return code;
}

static int output_check_metadata(app_state *app)
{
    const opt_list *entries = &app->common.metadata;
    for (size_t i = 0; i < entries->count; i++) {
        const char *equals = strchr(entries->items[i], '=');
        if (equals == NULL || equals == entries->items[i]) {
            return say_usage(app, "--metadata", "\"%s\" is not KEY=VALUE",
                             entries->items[i]);
        }
    }
    return 0;
}

static int output_is_stdout(const app_state *app)
{
    return app->common.output != NULL && strcmp(app->common.output, "-") == 0;
}

int output_check(app_state *app)
{
    const char *path = app->common.output;
    int code = output_check_metadata(app);
    if (code != 0) {
        return code;
    }
    if (path == NULL) {
        return app->common.dry_run
                   ? 0
                   : say_usage(app, NULL, "where to? Give -o FILE");
    }
    if (output_is_stdout(app)) {
        return say_usage(app, "--output", "results are written to files only");
    }
    switch (system_path_kind(path)) {
    case SYSTEM_NOTHING:
        return output_check_folder(app, path);
    case SYSTEM_FOLDER:
        say_error(app, path, "is a folder, give the name of a file");
        return EXIT_FAILED;
    case SYSTEM_OTHER:
        say_error(app, path, "exists and is not a regular file");
        return EXIT_FAILED;
    case SYSTEM_FILE:
        if (!app->common.force) {
            say_error(app, path, "exists, use --force to replace it");
            return EXIT_FAILED;
        }
        return output_check_folder(app, path);
    }
    return 0;
}

int output_check_text(app_state *app)
{
    return output_is_stdout(app) ? 0 : output_check(app);
}

/* Remove all entries but those that numbers depend on. */
static lora_status output_strip(lora_builder *builder,
                                const lora_adapter *adapter,
                                lora_error *error)
{
    lora_status status = lora_builder_set_metadata(builder, NULL, NULL, error);
    for (size_t i = 0; status == LORA_OK && i < OUTPUT_NUMERIC_COUNT; i++) {
        const char *key = output_numeric_keys[i];
        const char *value = lora_adapter_find_metadata(adapter, key);
        if (value != NULL) {
            status = lora_builder_set_metadata(builder, key, value, error);
        }
    }
    return status;
}

/* Set one KEY=VALUE, which output_check() has found to be one. */
static lora_status
output_set(lora_builder *builder, const char *entry, lora_error *error)
{
    size_t bytes = (size_t)(strchr(entry, '=') - entry);
    char *key = app_alloc(bytes + 1, 1);
    memcpy(key, entry, bytes);
    key[bytes] = '\0';
    lora_status status =
        lora_builder_set_metadata(builder, key, entry + bytes + 1, error);
    free(key);
    return status;
}

int output_edit_metadata(app_state *app, lora_adapter **adapter)
{
    const opt_list *entries = &app->common.metadata;
    lora_builder *builder = NULL;
    lora_adapter *edited = NULL;
    lora_error error;
    lora_error_init(&error, sizeof error);
    if (entries->count == 0 && !app->common.no_metadata) {
        return 0;
    }
    lora_status status =
        lora_builder_create(&builder, app->context, *adapter, &error);
    if (status == LORA_OK && app->common.no_metadata) {
        status = output_strip(builder, *adapter, &error);
    }
    for (size_t i = 0; status == LORA_OK && i < entries->count; i++) {
        status = output_set(builder, entries->items[i], &error);
    }
    if (status == LORA_OK) {
        status = lora_builder_finish(&edited, builder, &error);
    }
    lora_builder_destroy(builder);
    if (status != LORA_OK) {
        return say_failure(app, SAY_WORKING, "--metadata", status, &error);
    }
    lora_adapter_destroy(*adapter);
    *adapter = edited;
    return 0;
}

/* 1 if the output is to be a folder. */
static int output_is_folder(const char *path)
{
    size_t bytes = strlen(path);
    return bytes > 0 &&
           (path[bytes - 1] == '/' || system_path_kind(path) == SYSTEM_FOLDER);
}

/* A folder is for PEFT, with the names of PEFT. */
static int output_refuse_folder(app_state *app)
{
    say_error(app, app->common.output,
              "is a folder, which takes --dialect peft");
    return EXIT_FAILED;
}

int output_check_adapter(app_state *app)
{
    const char *path = app->common.output;
    if (path == NULL || !output_is_folder(path)) {
        return output_check(app);
    }
    const char *dialect = app->common.dialect;
    if (dialect != NULL && strcmp(dialect, "keep") != 0 &&
        strcmp(dialect, "peft") != 0) {
        return output_refuse_folder(app);
    }
    int code = output_check_metadata(app);
    if (code == 0 && system_path_kind(path) == SYSTEM_FOLDER &&
        !system_can_write_folder(path)) {
        say_error(app, path, "the folder cannot be written to");
        code = EXIT_FAILED;
    }
    for (size_t i = 0; code == 0 && !app->common.force &&
                       i < sizeof output_peft_files / sizeof *output_peft_files;
         i++) {
        size_t bytes = strlen(path) + strlen(output_peft_files[i]) + 2;
        char *file = app_alloc(bytes, 1);
        snprintf(file, bytes, "%s/%s", path, output_peft_files[i]);
        if (system_path_kind(file) != SYSTEM_NOTHING) {
            say_error(app, path, "has a file %s, use --force to replace it",
                      output_peft_files[i]);
            code = EXIT_FAILED;
        }
        free(file);
    }
    return code;
}

int output_save(app_state *app,
                const lora_adapter *adapter,
                const char *input,
                uint64_t *out_bytes)
{
    const char *path = app->common.output;
    lora_adapter_save_options options;
    lora_error error;
    size_t bytes = 0;
    int folder = path != NULL && output_is_folder(path);
    lora_module_info module;
    module.struct_size = sizeof module;
    if (folder &&
        lora_adapter_get_module(&module, adapter, 0, NULL) == LORA_OK &&
        strcmp(module.dialect, "peft") != 0) {
        return output_refuse_folder(app);
    }
    lora_error_init(&error, sizeof error);
    lora_adapter_save_options_init(&options, sizeof options);
    options.overwrite = app->common.force != 0;
    lora_status status =
        lora_adapter_save_memory(NULL, 0, &bytes, adapter, &error);
    *out_bytes = bytes;
    if (status == LORA_OK && !app->common.dry_run) {
        status = output_is_folder(path)
                     ? lora_adapter_save_peft(adapter, path, &options, &error)
                     : lora_adapter_save(adapter, path, &options, &error);
    }
    progress_clear(&app->bar);
    return status == LORA_OK ? 0
                             : output_say_failure(app, input, status, &error);
}

int output_save_text(app_state *app, const char *text, size_t bytes)
{
    const char *path = app->common.output;
    int os_error = 0;
    if (output_is_stdout(app) && !app->common.dry_run) {
        fwrite(text, 1, bytes, stdout); /* main() looks for errors */
        return 0;
    }
    if (!app->common.dry_run) {
        os_error = system_write_file(path, text, bytes, app->common.force != 0);
    }
    if (os_error != 0) {
        say_error(app, path, "cannot be written: %s%s", strerror(os_error),
                  os_error == EEXIST ? ", use --force to replace it" : "");
        return EXIT_FAILED;
    }
    output_say_written(app, bytes);
    return 0;
}

int output_say_failure(app_state *app,
                       const char *input,
                       lora_status status,
                       const lora_error *error)
{
    const char *path = app->common.output;
    size_t bytes = path == NULL ? 0 : strlen(path);
    int about_output =
        path != NULL && strncmp(error->subject, path, bytes) == 0 &&
        (error->subject[bytes] == '\0' || output_is_folder(path)) &&
        status != LORA_ERROR_TRUNCATED;
    return about_output ? say_failure(app, SAY_WRITING, path, status, error)
                        : say_failure(app, SAY_WORKING, input, status, error);
}

void output_say_written(app_state *app, uint64_t bytes)
{
    char size[TEXT_NUMBER];
    const char *path = app->common.output;
    if (app->common.dry_run) {
        say_note(app, "dry run: %s%snothing was written, it would be %s",
                 path != NULL ? path : "", path != NULL ? ": " : "",
                 text_bytes(size, bytes));
    } else {
        say_note(app, "wrote %s, %s", path, text_bytes(size, bytes));
    }
}

lora_dtype output_dtype(const app_state *app)
{
    static const lora_dtype dtypes[] = {LORA_DTYPE_NONE, LORA_DTYPE_F32,
                                        LORA_DTYPE_F16, LORA_DTYPE_BF16,
                                        LORA_DTYPE_NONE};
    return dtypes[app->common.dtype];
}
