/* lora embed: learned tokens of a file, taken out of adapters and put in. */
#include "cmd.h"
#include "files.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMBED_TEXT 60 /* bytes of a token that are shown */

typedef struct embed_settings {
    int form;
    int replace;
    const char *token;
    const char *family;
} embed_settings;

static const opt_spec embed_options[] = {
    {"form", 0, OPT_CHOICE, "token|encoder|bundle|emb_params",
     "names to write, as below (what programs read)",
     offsetof(embed_settings, form), 0, 0, 0},
    {"token", 0, OPT_TEXT, "NAME", "what the one token is to be called",
     offsetof(embed_settings, token), 0, 0, 0},
    {"family", 0, OPT_TEXT, "ID", "insert: the base, such as sdxl (a guess)",
     offsetof(embed_settings, family), 0, 0, 0},
    {"replace", 0, OPT_FLAG, NULL, "insert: tokens that are there already",
     offsetof(embed_settings, replace), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static const char *const embed_forms[] = {NULL, "token", "encoder", "bundle",
                                          "emb_params"};

/* ---- listing ------------------------------------------------------------ */

/* One embedding and the tensor that it is; 0 at the end. */
static int embed_at(lora_embedding_info *out,
                    lora_tensor_info *out_tensor,
                    const lora_adapter *adapter,
                    size_t index)
{
    out->struct_size = sizeof *out;
    out_tensor->struct_size = sizeof *out_tensor;
    return lora_adapter_get_embedding(out, adapter, index, NULL) == LORA_OK &&
           lora_adapter_get_tensor_info(
               out_tensor, adapter, (size_t)out->tensor_index, NULL) == LORA_OK;
}

static void embed_put_text(const char *name, const char *text)
{
    printf("\"%s\":", name);
    json_put_string(stdout, text);
    putchar(',');
}

static void embed_put_json(const char *path, const lora_adapter *adapter)
{
    lora_embedding_info info;
    lora_tensor_info tensor;
    fputs("{\"file\":", stdout);
    json_put_string(stdout, path);
    fputs(",\"embeddings\":[", stdout);
    for (size_t i = 0; embed_at(&info, &tensor, adapter, i); i++) {
        fputs(i > 0 ? ",{" : "{", stdout);
        embed_put_text("token", info.token);
        embed_put_text("encoder", info.encoder);
        embed_put_text("form", info.form);
        embed_put_text("tensor", tensor.name);
        embed_put_text("dtype", lora_dtype_name(info.dtype));
        printf("\"vectors\":%lld,\"width\":%lld,\"bytes\":%llu,\"usable\":%s}",
               (long long)info.vectors, (long long)info.width,
               (unsigned long long)tensor.bytes,
               info.status == LORA_OK ? "true" : "false");
    }
    fputs("]}", stdout);
}

static void embed_put_table(const app_state *app, const lora_adapter *adapter)
{
    lora_embedding_info info;
    lora_tensor_info tensor;
    text_table table;
    char clean[EMBED_TEXT];
    char bytes[TEXT_NUMBER];
    text_table_begin(&table, "token|encoder|>vectors|>width|type|>size|form");
    for (size_t i = 0; embed_at(&info, &tensor, adapter, i); i++) {
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        text_clean(clean, sizeof clean, info.token));
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        info.encoder[0] != '\0' ? info.encoder : "?");
        text_table_cell(&table, TEXT_PLAIN, "%lld", (long long)info.vectors);
        text_table_cell(&table, TEXT_PLAIN, "%lld", (long long)info.width);
        text_table_cell(&table, TEXT_PLAIN, "%s", lora_dtype_name(info.dtype));
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        text_bytes(bytes, tensor.bytes));
        text_table_cell(&table, TEXT_PLAIN, "%s", info.form);
    }
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

/* Problems that keep embeddings from being used are told as well. */
static void embed_put_problems(const app_state *app,
                               const lora_adapter *adapter)
{
    lora_problem problem;
    lora_report *report = NULL;
    problem.struct_size = sizeof problem;
    if (lora_adapter_describe(&report, adapter, NULL, NULL) != LORA_OK) {
        return;
    }
    for (size_t i = 0;
         lora_report_get_problem(&problem, report, i, NULL) == LORA_OK; i++) {
        if (strcmp(problem.code, "embedding_bad") == 0) {
            printf("  %serror%s ", text_on(app->color, TEXT_RED),
                   text_off(app->color));
            text_put(stdout, problem.subject);
            fputs(": ", stdout);
            text_put(stdout, problem.message);
            putchar('\n');
        }
    }
    lora_report_destroy(report);
}

static lora_status embed_list(app_state *app,
                              const char *path,
                              const void *settings,
                              int *code,
                              lora_error *error)
{
    lora_adapter *adapter = NULL;
    lora_embedding_info info;
    lora_tensor_info tensor;
    (void)settings;
    lora_status status =
        lora_adapter_open(&adapter, app->context, path, NULL, error);
    if (status != LORA_OK) {
        return status;
    }
    for (size_t i = 0; embed_at(&info, &tensor, adapter, i); i++) {
        if (info.status != LORA_OK) {
            *code = say_worse(*code, say_exit_code(SAY_WORKING, info.status));
        }
    }
    if (app->common.json) {
        embed_put_json(path, adapter);
    } else {
        printf("%s", text_on(app->color, TEXT_BOLD));
        text_put(stdout, path);
        printf("%s\n", text_off(app->color));
        if (lora_adapter_embedding_count(adapter) == 0) {
            puts("  no embeddings");
        } else {
            embed_put_table(app, adapter);
            embed_put_problems(app, adapter);
        }
    }
    lora_adapter_destroy(adapter);
    return LORA_OK;
}

/* ---- writing ------------------------------------------------------------ */

static void embed_fill_options(lora_adapter_embed_options *out,
                               const embed_settings *own)
{
    lora_adapter_embed_options_init(out, sizeof *out);
    out->form = embed_forms[own->form];
    out->token = own->token;
    out->family = own->family;
    out->replace = own->replace != 0;
}

/* Save a result and say what it is; it is destroyed. */
static int embed_write(app_state *app, lora_adapter *result, const char *input)
{
    uint64_t bytes = 0;
    int code = output_save(app, result, input, &bytes);
    if (code == 0 && app->common.json) {
        fputs("{\"file\":", stdout);
        json_put_string(stdout, input);
        fputs(",\"output\":", stdout);
        if (app->common.output != NULL) {
            json_put_string(stdout, app->common.output);
        } else {
            fputs("null", stdout);
        }
        printf(",\"written\":%s,\"bytes\":%llu,\"tensors\":%zu,"
               "\"embeddings\":%zu}\n",
               app->common.dry_run ? "false" : "true",
               (unsigned long long)bytes, lora_adapter_tensor_count(result),
               lora_adapter_embedding_count(result));
    }
    if (code == 0) {
        output_say_written(app, bytes);
    }
    lora_adapter_destroy(result);
    return code;
}

static int embed_open(app_state *app, lora_adapter **out, const char *path)
{
    lora_error error;
    lora_error_init(&error, sizeof error);
    lora_status status =
        lora_adapter_open(out, app->context, path, NULL, &error);
    return status == LORA_OK
               ? 0
               : say_failure(app, SAY_READING, path, status, &error);
}

/* extract and remove: the operands are a file and tokens. */
static int embed_take(app_state *app,
                      int removes,
                      int count,
                      char **operands,
                      const embed_settings *own)
{
    const char *const *tokens = (const char *const *)(operands + 1);
    size_t token_count = (size_t)count - 1;
    lora_adapter_embed_options options;
    lora_adapter *adapter = NULL;
    lora_adapter *result = NULL;
    lora_error error;
    int code = embed_open(app, &adapter, operands[0]);
    if (code != 0) {
        return code;
    }
    lora_error_init(&error, sizeof error);
    embed_fill_options(&options, own);
    lora_status status =
        removes ? lora_adapter_remove_embeddings(&result, adapter, tokens,
                                                 token_count, &error)
                : lora_adapter_extract_embeddings(
                      &result, adapter, tokens, token_count, &options, &error);
    code = status == LORA_OK
               ? embed_write(app, result, operands[0])
               : say_failure(app, SAY_WORKING, operands[0], status, &error);
    lora_adapter_destroy(adapter);
    return code;
}

static int embed_insert(app_state *app,
                        int count,
                        char **operands,
                        const embed_settings *own)
{
    lora_adapter **files = app_alloc((size_t)count, sizeof *files);
    lora_adapter_embed_options options;
    lora_adapter *result = NULL;
    lora_error error;
    int code = 0;
    for (int i = 0; code == 0 && i < count; i++) {
        code = embed_open(app, &files[i], operands[i]);
    }
    if (code == 0) {
        lora_error_init(&error, sizeof error);
        embed_fill_options(&options, own);
        lora_status status = lora_adapter_insert_embeddings(
            &result, files[0], (const lora_adapter *const *)(files + 1),
            (size_t)count - 1, &options, &error);
        code =
            status == LORA_OK
                ? embed_write(app, result, operands[0])
                : say_failure(app, /* files that clash are none of them bad */
                              status == LORA_ERROR_DUPLICATE ? SAY_WRITING
                                                             : SAY_WORKING,
                              operands[0], status, &error);
    }
    for (int i = 0; i < count; i++) {
        lora_adapter_destroy(files[i]);
    }
    free(files);
    return code;
}

static int
embed_run(app_state *app, int count, char **operands, const void *settings)
{
    const embed_settings *own = settings;
    const char *action = operands[0];
    int inserts = strcmp(action, "insert") == 0;
    int removes = strcmp(action, "remove") == 0;
    if (strcmp(action, "list") == 0) {
        return app->common.output != NULL
                   ? say_usage(app, "--output", "a list is only printed")
                   : files_each(app, count - 1, operands + 1, embed_list,
                                settings, "\n");
    }
    if (!inserts && !removes && strcmp(action, "extract") != 0) {
        return say_usage(app, action,
                         "is none of list, extract, insert, remove");
    }
    if (inserts && count < 3) {
        return say_usage(app, "insert", "which embeddings? Give their files");
    }
    int code = output_check(app);
    if (code != 0) {
        return code;
    }
    return inserts ? embed_insert(app, count - 1, operands + 1, own)
                   : embed_take(app, removes, count - 1, operands + 1, own);
}

const app_verb cmd_embed = {
    "embed",
    "list|extract|insert|remove FILE [TOKEN...|EMBEDDING...]",
    "learned tokens: list them, take them out, put them in",
    "lora embed list style.safetensors\ttokens, their vectors and widths\n"
    "lora embed extract style.safetensors cat-toy -o cat-toy.safetensors\t"
    "a textual inversion of its own\n"
    "lora embed insert style.safetensors cat-toy.pt -o both.safetensors\t"
    "one file for A1111\n"
    "lora embed remove both.safetensors -o style.safetensors\t"
    "the adapter without them\n",
    "list takes files; extract and remove a file and tokens of it (all, if\n"
    "none is named); insert an adapter and files with embeddings: those of\n"
    "A1111 (.pt too), diffusers, ComfyUI, OneTrainer, cloneofsimo's program.\n"
    "Forms are: token, a tensor of that name, for one text encoder; encoder,\n"
    "clip_l and clip_g in a file that is called like the token; bundle,\n"
    "bundle_emb.TOKEN beside the modules of an adapter. By default the form\n"
    "is what programs read there.\n",
    embed_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT,
    sizeof(embed_settings),
    VERB_CONTEXT,
    2,
    -1,
    embed_run,
};
