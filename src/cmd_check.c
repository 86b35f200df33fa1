/* lora check: is the file fit for use? */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "text.h"

#include <stdio.h>

typedef struct check_settings {
    int strict;
    const char *family;
} check_settings;

static const opt_spec check_options[] = {
    {"strict", 0, OPT_FLAG, NULL, "warnings fail too",
     offsetof(check_settings, strict), 0, 0, 0},
    {"base", 0, OPT_TEXT, "ID",
     "the base it is for, such as sd15, sdxl (a guess)",
     offsetof(check_settings, family), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static lora_status check_count(size_t counts[LORA_SEVERITY_ERROR + 1],
                               const lora_report *report,
                               lora_error *error)
{
    lora_problem problem;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        lora_status status =
            lora_report_get_problem(&problem, report, i, error);
        if (status != LORA_OK) {
            return status;
        }
        if (problem.severity >= LORA_SEVERITY_NOTE &&
            problem.severity <= LORA_SEVERITY_ERROR) {
            counts[problem.severity]++;
        }
    }
    return LORA_OK;
}

static void check_put_count(size_t count, const char *what)
{
    if (count > 0) {
        printf(", %zu %s%s", count, what, count == 1 ? "" : "s");
    }
}

static void check_put_verdict(const app_state *app,
                              const char *path,
                              const size_t *counts,
                              int bad)
{
    char clean[512];
    text_color color = bad                                 ? TEXT_RED
                       : counts[LORA_SEVERITY_WARNING] > 0 ? TEXT_YELLOW
                                                           : TEXT_GREEN;
    const char *verdict = counts[LORA_SEVERITY_ERROR] > 0
                              ? "not usable as it is"
                          : bad                               ? "not clean"
                          : counts[LORA_SEVERITY_WARNING] > 0 ? "usable"
                                                              : "good";
    printf("%s: %s%s%s", text_clean(clean, sizeof clean, path),
           text_on(app->color, color), verdict, text_off(app->color));
    check_put_count(counts[LORA_SEVERITY_ERROR], "error");
    check_put_count(counts[LORA_SEVERITY_WARNING], "warning");
    check_put_count(counts[LORA_SEVERITY_NOTE], "note");
    putchar('\n');
}

/* Findings of one severity, in file order. */
static void check_add_rows(text_table *table,
                           const lora_report *report,
                           lora_severity severity)
{
    static const char *const names[] = {"", "note", "warning", "error"};
    static const text_color colors[] = {TEXT_PLAIN, TEXT_DIM, TEXT_YELLOW,
                                        TEXT_RED};
    lora_problem problem;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK &&
            problem.severity == severity) {
            text_table_cell(table, colors[severity], "%s", names[severity]);
            text_table_cell(table, TEXT_PLAIN, "%s", problem.code);
            text_table_cell(table, TEXT_BOLD, "%s",
                            *problem.subject != '\0' ? problem.subject : "-");
            text_table_cell(table, TEXT_PLAIN, "%s", problem.message);
        }
    }
}

static lora_status check_file(app_state *app,
                              const char *path,
                              const void *settings,
                              int *code,
                              lora_error *error)
{
    const check_settings *own = settings;
    size_t counts[LORA_SEVERITY_ERROR + 1] = {0};
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    lora_adapter_check_options options;
    lora_adapter_check_options_init(&options, sizeof options);
    options.family = own->family;
    lora_status status = input_open(app, &adapter, path, error);
    if (status == LORA_OK) {
        status = lora_adapter_check(&report, adapter, &options, error);
    }
    progress_clear(&app->bar);
    if (status == LORA_OK) {
        status = check_count(counts, report, error);
    }
    if (status == LORA_OK) {
        int bad = counts[LORA_SEVERITY_ERROR] > 0 ||
                  (own->strict && counts[LORA_SEVERITY_WARNING] > 0);
        *code = bad ? EXIT_MISMATCH : EXIT_DONE;
        if (app->common.json) {
            fputs(lora_report_to_json(report, NULL), stdout);
        } else {
            text_table table;
            text_table_begin(&table, "|||");
            check_put_verdict(app, path, counts, bad);
            check_add_rows(&table, report, LORA_SEVERITY_ERROR);
            check_add_rows(&table, report, LORA_SEVERITY_WARNING);
            check_add_rows(&table, report, LORA_SEVERITY_NOTE);
            text_table_print(&table, "  ", app->color);
            text_table_end(&table);
        }
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    return status;
}

static int
check_run(app_state *app, int count, char **paths, const void *settings)
{
    return files_each(app, count, paths, check_file, settings, "");
}

const app_verb cmd_check = {
    "check",
    "FILE...",
    "find what would make it do nothing, or harm: pairs, shapes, NaN",
    "lora check style.safetensors\tthe verdict, then the findings\n"
    "lora check --base sdxl --strict *.safetensors\tfor a CI job\n",
    "Reads every value. Exit code 4 if there is an error, or with --strict a\n"
    "warning; 3 if a file cannot be read.\n",
    check_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT,
    sizeof(check_settings),
    VERB_CONTEXT,
    1,
    -1,
    check_run,
};
