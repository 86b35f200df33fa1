/* lora check: is the file fit for use? And can it be made so? */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "say.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

typedef struct check_settings {
    int strict;
    int fix;
    const char *family;
} check_settings;

static const opt_spec check_options[] = {
    {"strict", 0, OPT_FLAG, NULL, "warnings fail too",
     offsetof(check_settings, strict), 0, 0, 0},
    {"base", 0, OPT_TEXT, "ID",
     "the base it is for, such as sd15, sdxl (a guess)",
     offsetof(check_settings, family), 0, 0, 0},
    {"fix", 0, OPT_FLAG, NULL, "repair what can be repaired, into --output",
     offsetof(check_settings, fix), 0, 0, 0},
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

/* A row of the table. */
static void check_add_row(text_table *table,
                          text_color color,
                          const char *what,
                          const lora_problem *problem)
{
    text_table_cell(table, color, "%s", what);
    text_table_cell(table, TEXT_PLAIN, "%s", problem->code);
    text_table_cell(table, TEXT_BOLD, "%s",
                    *problem->subject != '\0' ? problem->subject : "-");
    text_table_cell(table, TEXT_PLAIN, "%s", problem->message);
}

static void check_add_fixes(text_table *table, const lora_report *report)
{
    lora_problem problem;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < lora_report_fix_count(report); i++) {
        if (lora_report_get_fix(&problem, report, i, NULL) == LORA_OK) {
            check_add_row(table, TEXT_GREEN, "fixed", &problem);
        }
    }
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
            check_add_row(table, colors[severity], names[severity], &problem);
        }
    }
}

/* All rows of a report: repairs, then findings, the worst first. */
static void check_put_rows(const app_state *app, const lora_report *report)
{
    text_table table;
    text_table_begin(&table, "|||");
    check_add_fixes(&table, report);
    check_add_rows(&table, report, LORA_SEVERITY_ERROR);
    check_add_rows(&table, report, LORA_SEVERITY_WARNING);
    check_add_rows(&table, report, LORA_SEVERITY_NOTE);
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

static int check_is_bad(const check_settings *own, const size_t *counts)
{
    return counts[LORA_SEVERITY_ERROR] > 0 ||
           (own->strict && counts[LORA_SEVERITY_WARNING] > 0);
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
        int bad = check_is_bad(own, counts);
        *code = bad ? EXIT_MISMATCH : EXIT_DONE;
        if (app->common.json) {
            fputs(lora_report_to_json(report, NULL), stdout);
        } else {
            check_put_verdict(app, path, counts, bad);
            check_put_rows(app, report);
        }
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    return status;
}

/* ---- repairing --------------------------------------------------------- */

static void check_put_fixed_json(const app_state *app,
                                 const lora_report *report,
                                 int writes,
                                 uint64_t bytes)
{
    size_t length;
    const char *text = lora_report_to_json(report, &length);
    fwrite(text, 1, length - 1, stdout); /* all but the brace at its end */
    fputs(",\"output\":", stdout);
    if (app->common.output != NULL) {
        json_put_string(stdout, app->common.output);
    } else {
        fputs("null", stdout);
    }
    printf(",\"written\":%s,\"bytes\":%llu}\n",
           writes && !app->common.dry_run ? "true" : "false",
           (unsigned long long)bytes);
}

/* Save the result, unless it is as unusable as what it was made from, and say
 * what it is like. */
static int check_save_fixed(app_state *app,
                            const char *path,
                            const check_settings *own,
                            const lora_adapter *fixed,
                            const lora_report *report)
{
    size_t counts[LORA_SEVERITY_ERROR + 1] = {0};
    lora_error error;
    uint64_t bytes = 0;
    int code = 0;
    lora_error_init(&error, sizeof error);
    lora_status status = check_count(counts, report, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_WORKING, path, status, &error);
    }
    int bad = check_is_bad(own, counts);
    int writes =
        counts[LORA_SEVERITY_ERROR] == 0 || lora_report_fix_count(report) > 0;
    if (writes) {
        code = output_save(app, fixed, path, &bytes);
    }
    if (code != 0) {
        return code;
    }
    progress_clear(&app->bar);
    if (app->common.json) {
        check_put_fixed_json(app, report, writes, bytes);
    } else {
        check_put_verdict(
            app, app->common.output != NULL ? app->common.output : path, counts,
            bad);
        check_put_rows(app, report);
    }
    if (writes) {
        output_say_written(app, bytes);
    } else {
        say_note(app, "nothing could be repaired: nothing was written");
    }
    return bad ? EXIT_MISMATCH : EXIT_DONE;
}

static int
check_fix(app_state *app, const char *path, const check_settings *own)
{
    lora_adapter *adapter = NULL;
    lora_adapter *fixed = NULL;
    lora_report *report = NULL;
    lora_adapter_fix_options options;
    lora_error error;
    int code = output_check(app);
    if (code != 0) {
        return code;
    }
    lora_error_init(&error, sizeof error);
    lora_adapter_fix_options_init(&options, sizeof options);
    options.family = own->family;
    options.skip_bad = app->common.skip_bad != 0;
    lora_status status = input_open(app, &adapter, path, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_READING, path, status, &error);
    }
    status = lora_adapter_fix(&fixed, &report, adapter, &options, &error);
    code = status != LORA_OK
               ? say_failure(app, SAY_WORKING, path, status, &error)
               : check_save_fixed(app, path, own, fixed, report);
    lora_report_destroy(report);
    lora_adapter_destroy(fixed);
    lora_adapter_destroy(adapter);
    return code;
}

static int
check_run(app_state *app, int count, char **paths, const void *settings)
{
    const check_settings *own = settings;
    const opt_common *common = &app->common;
    if (own->fix && count > 1) {
        return say_usage(app, "--fix", "repairs one file at a time");
    }
    if (own->fix) {
        return check_fix(app, paths[0], own);
    }
    if (common->output != NULL || common->dry_run || common->force ||
        common->skip_bad) {
        return say_usage(app, NULL,
                         "--output, --dry-run, --force and --skip-bad go with "
                         "--fix");
    }
    return files_each(app, count, paths, check_file, settings, "");
}

const app_verb cmd_check = {
    "check",
    "FILE...",
    "find what would make it do nothing, or harm: pairs, shapes, NaN",
    "lora check style.safetensors\tthe verdict, then the findings\n"
    "lora check --base sdxl --strict *.safetensors\tfor a CI job\n"
    "lora check --fix broken.safetensors -o sound.safetensors\t"
    "what can be repaired\n",
    "Reads every value. Exit code 4 if there is an error, or with --strict a\n"
    "warning; 3 if a file cannot be read. With --fix it is about the result,\n"
    "which is not written if it has errors and nothing was repaired; modules\n"
    "that cannot be used stay as they are, or are left out with --skip-bad.\n",
    check_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD,
    sizeof(check_settings),
    VERB_CONTEXT,
    1,
    -1,
    check_run,
};
