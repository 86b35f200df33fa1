/* lora bind: what of an adapter a model takes, key by key. */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bind_settings {
    const char *base;
    const char *family;
    int strict;
    opt_list select;
} bind_settings;

static const opt_spec bind_options[] = {
    {"base", 0, OPT_TEXT, "BASE", "the model: a file, an index, a folder",
     offsetof(bind_settings, base), 0, 0, 0},
    {"family", 0, OPT_TEXT, "NAME", "or what it is, such as sd15, flux1_dev",
     offsetof(bind_settings, family), 0, 0, 0},
    {"strict", 0, OPT_FLAG, NULL, "fail unless all is bound",
     offsetof(bind_settings, strict), 0, 0, 0},
    {"select", 0, OPT_LIST, "PATTERN=FACTOR",
     "weight of a component, block or name (repeatable)",
     offsetof(bind_settings, select), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* One run: the model is opened once for all files. */
typedef struct bind_run {
    const bind_settings *own;
    lora_model *model;
    lora_selection *selections;
} bind_run_state;

/* ---- what is printed --------------------------------------------------- */

static void bind_put_verdict(const app_state *app,
                             const char *path,
                             const lora_binding_info *info,
                             size_t left_out)
{
    char clean[512];
    uint64_t fits = info->bound_count + left_out;
    int all = info->bound_count == info->item_count && fits != 0;
    text_color color = all ? TEXT_GREEN : fits > 0 ? TEXT_YELLOW : TEXT_RED;
    printf("%s: %s%llu of %llu modules bound%s",
           text_clean(clean, sizeof clean, path), text_on(app->color, color),
           (unsigned long long)info->bound_count,
           (unsigned long long)info->module_count, text_off(app->color));
    if (info->verdict != LORA_BINDING_WRONG && *info->model_family != '\0') {
        printf(" to %s", info->model_family);
    }
    if (left_out > 0) {
        printf(", %zu left out", left_out);
    }
    if (info->verdict == LORA_BINDING_WRONG) {
        printf("; wrong base: it is for %s, the model is %s",
               info->adapter_family, info->model_family);
    }
    putchar('\n');
}

/* Where the changes go: "tensor", or "tensor[0:320]" for some of its rows. */
static void bind_add_changes(text_table *table,
                             const lora_binding *binding,
                             size_t index,
                             const lora_binding_item *item)
{
    char cell[1024] = "";
    size_t at = 0;
    lora_binding_change change;
    change.struct_size = sizeof change;
    for (size_t i = 0; i < item->change_count && at < sizeof cell; i++) {
        if (lora_binding_get_change(&change, binding, index, i, NULL) !=
            LORA_OK) {
            continue;
        }
        int some = change.row_end > 0 && item->change_count > 1;
        int put = snprintf(cell + at, sizeof cell - at, "%s%s",
                           at > 0 ? ", " : "", change.tensor);
        at += put < 0 ? 0 : (size_t)put;
        if (some && at < sizeof cell) {
            put = snprintf(cell + at, sizeof cell - at, "[%lld:%lld]",
                           (long long)change.row_begin,
                           (long long)change.row_end);
            at += put < 0 ? 0 : (size_t)put;
        }
    }
    text_table_cell(table, TEXT_PLAIN, "%s", cell);
}

/* What is wrong; the half that a module has of both is told here too. */
static void bind_add_problems(text_table *table, const lora_report *report)
{
    lora_problem problem;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK) {
            text_table_cell(table, TEXT_YELLOW, "%s", problem.code);
            text_table_cell(table, TEXT_BOLD, "%s", problem.subject);
            text_table_cell(table, TEXT_PLAIN, "-");
            text_table_cell(table, TEXT_PLAIN, "%s", problem.message);
        }
    }
}

/* Problems, then whatever changes the model. */
static void bind_put_rows(const app_state *app,
                          const lora_binding *binding,
                          const lora_report *report,
                          size_t count)
{
    char number[TEXT_NUMBER];
    text_table table;
    lora_binding_item item;
    item.struct_size = sizeof item;
    text_table_begin(&table,
                     "state|module|>factor|what it changes, or why not");
    bind_add_problems(&table, report);
    for (size_t i = 0; i < count; i++) {
        if (lora_binding_get_item(&item, binding, i, NULL) != LORA_OK ||
            item.change_count == 0) {
            continue;
        }
        int out = item.state == LORA_BINDING_LEFT_OUT;
        text_table_cell(&table, out ? TEXT_DIM : TEXT_GREEN, "%s",
                        out                                ? "left_out"
                        : item.state == LORA_BINDING_BOUND ? "bound"
                                                           : "half");
        text_table_cell(&table, TEXT_BOLD, "%s", item.name);
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        text_real(number, item.factor));
        bind_add_changes(&table, binding, i, &item);
    }
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

/* ---- one file ---------------------------------------------------------- */

static int bind_code(const bind_settings *own,
                     const lora_binding_info *info,
                     const lora_report *report,
                     size_t left_out)
{
    int none = info->bound_count + left_out == 0;
    int bad = lora_report_problem_count(report) > 0;
    return none || (own->strict && bad) ? EXIT_MISMATCH : EXIT_DONE;
}

static lora_status bind_tell(app_state *app,
                             const char *path,
                             const bind_settings *own,
                             const lora_binding *binding,
                             int *code,
                             lora_error *error)
{
    lora_report *report = NULL;
    lora_binding_info info;
    size_t left_out = lora_binding_count(binding, LORA_BINDING_LEFT_OUT);
    info.struct_size = sizeof info;
    lora_status status = lora_binding_get_info(&info, binding, error);
    if (status == LORA_OK) {
        status = lora_binding_report(&report, binding, error);
    }
    if (status != LORA_OK) {
        return status;
    }
    progress_clear(&app->bar);
    if (app->common.json) {
        fputs(lora_report_to_json(report, NULL), stdout);
    } else {
        bind_put_verdict(app, path, &info, left_out);
        bind_put_rows(app, binding, report, (size_t)info.item_count);
    }
    *code = bind_code(own, &info, report, left_out);
    if (*code != EXIT_DONE) {
        say_error(app, path,
                  info.bound_count + left_out == 0
                      ? "nothing of it is bound: it would have no effect"
                      : "not all of it is bound");
    }
    lora_report_destroy(report);
    return LORA_OK;
}

static lora_status bind_file(app_state *app,
                             const char *path,
                             const void *settings,
                             int *code,
                             lora_error *error)
{
    const bind_run_state *run = settings;
    lora_binding_create_options options;
    lora_adapter *adapter = NULL;
    lora_binding *binding = NULL;
    lora_binding_create_options_init(&options, sizeof options);
    options.selections = run->selections;
    options.selection_count = run->own->select.count;
    lora_status status = input_open(app, &adapter, path, error);
    if (status == LORA_OK) {
        status =
            lora_binding_create(&binding, run->model, adapter, &options, error);
    }
    if (status == LORA_OK) {
        status = bind_tell(app, path, run->own, binding, code, error);
    }
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    return status;
}

/* ---- the command line -------------------------------------------------- */

static int
bind_open_model(app_state *app, lora_model **out, const bind_settings *own)
{
    lora_error error;
    lora_model_options options;
    lora_error_init(&error, sizeof error);
    if (own->base == NULL) {
        lora_status status =
            lora_model_family(out, app->context, own->family, &error);
        return status == LORA_OK
                   ? 0
                   : say_failure(app, SAY_WORKING, own->family, status, &error);
    }
    lora_model_options_init(&options, sizeof options);
    options.family = own->family;
    lora_status status =
        lora_model_open(out, app->context, own->base, &options, &error);
    return status == LORA_OK
               ? 0
               : say_failure(app, SAY_READING, own->base, status, &error);
}

static int
bind_run(app_state *app, int count, char **paths, const void *settings)
{
    const bind_settings *own = settings;
    bind_run_state run = {own, NULL, NULL};
    int code = 0;
    if (own->base == NULL && own->family == NULL) {
        return say_usage(app, NULL, "--base or --family is needed");
    }
    code = input_read_selections(app, &run.selections, &own->select);
    if (code == 0) {
        code = bind_open_model(app, &run.model, own);
    }
    if (code == 0) {
        code = files_each(app, count, paths, bind_file, &run, "\n");
    }
    input_release_selections(run.selections, own->select.count);
    lora_model_destroy(run.model);
    return code;
}

const app_verb cmd_bind = {
    "bind",
    "FILE...",
    "what of an adapter a model takes, and why not the rest",
    "lora bind style.safetensors --family sdxl\tis it for that model?\n"
    "lora bind style.safetensors --base model.safetensors --strict\t"
    "with the shapes of that model; exit code 4 unless all is bound\n"
    "lora bind style.safetensors --family sd15 --select te=0 --select M00=0.5\t"
    "what is left\n",
    "Every module is listed, and every tensor that is of none. Exit code 4 if\n"
    "nothing is bound, or with --strict not all. A pattern is a component\n"
    "(unet, transformer, text_encoder_2; te: all text encoders), a block of a\n"
    "UNet (IN04, M00, OUT11, BASE; blocks.down, blocks.mid, blocks.up), a "
    "sort\n"
    "of layer (attn, attn.self, attn.cross, ff, conv, norm), or a pattern for\n"
    "names ('*', '?'); or --select has 12, 17, 20 or 26 block weights.\n",
    bind_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT,
    sizeof(bind_settings),
    VERB_CONTEXT,
    1,
    -1,
    bind_run,
};
