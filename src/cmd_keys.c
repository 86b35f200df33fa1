/* lora keys: every tensor of a file. */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "json.h"
#include "text.h"

#include <stdio.h>

/* The module a tensor belongs to, with empty names where it has none. */
static lora_status keys_module(lora_module_info *out,
                               const lora_adapter *adapter,
                               uint64_t index,
                               lora_error *error)
{
    out->struct_size = sizeof *out;
    if (index == UINT64_MAX) {
        out->name = "";
        out->target = "";
        return LORA_OK;
    }
    return lora_adapter_get_module(out, adapter, (size_t)index, error);
}

static void keys_put_json(const lora_tensor_info *tensor,
                          const lora_module_info *module)
{
    fputs("{\"name\":", stdout);
    json_put_string(stdout, tensor->name);
    printf(",\"dtype\":\"%s\",\"shape\":[", lora_dtype_name(tensor->dtype));
    for (int32_t j = 0; j < tensor->ndim; j++) {
        printf("%s%lld", j > 0 ? "," : "", (long long)tensor->shape[j]);
    }
    printf("],\"offset\":%llu,\"bytes\":%llu,\"module\":",
           (unsigned long long)tensor->offset,
           (unsigned long long)tensor->bytes);
    if (tensor->module_index == UINT64_MAX) {
        fputs("null,\"target\":null", stdout);
    } else {
        json_put_string(stdout, module->name);
        fputs(",\"target\":", stdout);
        json_put_string(stdout, module->target);
    }
    fputs(",\"role\":", stdout);
    json_put_string(stdout, tensor->role);
    putchar('}');
}

static void keys_add_row(text_table *table,
                         const lora_tensor_info *tensor,
                         const lora_module_info *module)
{
    char shape[TEXT_SHAPE];
    int unknown = tensor->module_index == UINT64_MAX;
    text_table_cell(table, TEXT_PLAIN, "%s", tensor->name);
    text_table_cell(table, TEXT_PLAIN, "%s", lora_dtype_name(tensor->dtype));
    text_table_cell(table, TEXT_PLAIN, "%s",
                    text_shape(shape, tensor->shape, tensor->ndim));
    text_table_cell(table, TEXT_PLAIN, "%llu",
                    (unsigned long long)tensor->offset);
    text_table_cell(table, unknown ? TEXT_YELLOW : TEXT_PLAIN, "%s",
                    tensor->role);
    text_table_cell(table, TEXT_PLAIN, "%s", unknown ? "-" : module->target);
}

static lora_status keys_file(app_state *app,
                             const char *path,
                             const void *settings,
                             int *code,
                             lora_error *error)
{
    text_table table;
    lora_adapter *adapter = NULL;
    lora_tensor_info tensor;
    lora_module_info module;
    int json = app->common.json;
    const int *file_count = settings;
    (void)code;
    lora_status status = input_open(app, &adapter, path, error);
    if (status != LORA_OK) {
        return status;
    }
    text_table_begin(&table, "name|dtype|shape|>offset|role|target");
    tensor.struct_size = sizeof tensor;
    if (json) {
        fputs("{\"file\":", stdout);
        json_put_string(stdout, path);
        fputs(",\"tensors\":[", stdout);
    }
    for (size_t i = 0; i < lora_adapter_tensor_count(adapter); i++) {
        status = lora_adapter_get_tensor_info(&tensor, adapter, i, error);
        if (status == LORA_OK) {
            status = keys_module(&module, adapter, tensor.module_index, error);
        }
        if (status != LORA_OK) {
            break;
        }
        if (json) {
            fputs(i > 0 ? ",\n" : "", stdout);
            keys_put_json(&tensor, &module);
        } else {
            keys_add_row(&table, &tensor, &module);
        }
    }
    if (json) {
        fputs("]}", stdout);
    } else {
        if (*file_count > 1) {
            printf("%s", text_on(app->color, TEXT_BOLD));
            text_put(stdout, path);
            printf("%s\n", text_off(app->color));
        }
        text_table_print(&table, "", app->color);
    }
    text_table_end(&table);
    lora_adapter_destroy(adapter);
    return status;
}

static int
keys_run(app_state *app, int count, char **paths, const void *settings)
{
    (void)settings;
    return files_each(app, count, paths, keys_file, &count, "\n");
}

const app_verb cmd_keys = {
    "keys",
    "FILE...",
    "every tensor: name, dtype, shape, offset, module and role",
    "lora keys style.safetensors\tthe table\n"
    "lora keys style.safetensors | grep unknown\twhat no module claims\n",
    NULL,
    NULL,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT,
    0,
    VERB_CONTEXT,
    1,
    -1,
    keys_run,
};
