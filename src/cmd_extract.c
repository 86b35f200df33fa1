/* lora extract: the adapter that a checkpoint was tuned by. */
#include "cmd.h"
#include "output.h"
#include "ranks.h"
#include "say.h"
#include "system.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct extract_settings {
    ranks_settings ranks;
    const char *rank; /* a number or "auto" */
    int kind;
    opt_real clamp;
    opt_list include, exclude;
    int exact, resume, skip_shapes;
    uint64_t factor;
} extract_settings;

static const opt_spec extract_options[] = {
    {"rank", 0, OPT_TEXT, "K|auto",
     "at most K; auto: what is more than rounding noise",
     offsetof(extract_settings, rank), 0, 0, 0},
    RANKS_OPTIONS,
    {"kind", 0, OPT_CHOICE, "locon|lora|tucker|lokr|full",
     "what layers become (locon); lora: no k x k",
     offsetof(extract_settings, kind), 0, 0, 0},
    {"factor", 0, OPT_COUNT, "F", "of LoKr: split dimensions by F",
     offsetof(extract_settings, factor), 1, RANKS_MOST, 0},
    {"include", 0, OPT_LIST, "PATTERN", "these layers only (repeatable)",
     offsetof(extract_settings, include), 0, 0, 0},
    {"exclude", 0, OPT_LIST, "PATTERN", "not these (repeatable)",
     offsetof(extract_settings, exclude), 0, 0, 0},
    {"clamp", 0, OPT_REAL, "Q", "cut factors at their quantile Q, as kohya's",
     offsetof(extract_settings, clamp), 0.5, 1, 0},
    {"exact", 0, OPT_FLAG, NULL, "decompose in full, whatever it costs",
     offsetof(extract_settings, exact), 0, 0, 0},
    {"resume", 0, OPT_FLAG, NULL, "go on where an earlier call ended",
     offsetof(extract_settings, resume), 0, 0, 0},
    {"skip-shapes", 0, OPT_FLAG, NULL, "leave out layers whose shapes differ",
     offsetof(extract_settings, skip_shapes), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* ---- the report -------------------------------------------------------- */

static void extract_put_layers(const app_state *app, const lora_report *report)
{
    text_table table;
    lora_report_module layer;
    layer.struct_size = sizeof layer;
    text_table_begin(&table, "module|>rank|>kept %|>error|>largest");
    for (size_t i = 0; i < lora_report_module_count(report); i++) {
        if (lora_report_get_module(&layer, report, i, NULL) != LORA_OK) {
            continue;
        }
        text_table_cell(&table, TEXT_PLAIN, "%s", layer.name);
        text_table_cell(&table, TEXT_BOLD, "%lld", (long long)layer.rank_out);
        text_table_cell(&table, TEXT_PLAIN, "%.2f", 100.0 * layer.energy);
        text_table_cell(&table, TEXT_PLAIN, "%.4g", layer.error);
        text_table_cell(&table, TEXT_PLAIN, "%.4g",
                        layer.sigma_count > 0 ? layer.sigma[0] : 0.0);
    }
    putchar('\n');
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

/* How many problems there are of each code, one line each. */
static void extract_put_problems(const lora_report *report)
{
    lora_problem problem;
    problem.struct_size = sizeof problem;
    size_t count = lora_report_problem_count(report);
    text_tally codes = {0};
    for (size_t i = 0; i < count; i++) {
        if (lora_report_get_problem(&problem, report, i, NULL) == LORA_OK) {
            text_tally_label(&codes, problem.code);
        }
    }
    if (count > 0) {
        printf("left out    ");
        text_tally_print(&codes, 8);
        printf(" (--json names them)\n");
    }
    text_tally_end(&codes);
}

static int extract_report(app_state *app, const lora_report *report)
{
    if (app->common.json) {
        puts(lora_report_to_json(report, NULL));
        return 0;
    }
    lora_report_module layer;
    layer.struct_size = sizeof layer;
    text_tally ranks = {0};
    double norm = 0.0;
    double lost = 0.0;
    size_t count = lora_report_module_count(report);
    for (size_t i = 0; i < count; i++) {
        if (lora_report_get_module(&layer, report, i, NULL) != LORA_OK) {
            continue;
        }
        if (layer.rank_out > 0) {
            text_tally_number(&ranks, (double)layer.rank_out);
        }
        if (layer.energy < 1.0) {
            lost += layer.error * layer.error;
            norm += layer.error * layer.error / (1.0 - layer.energy);
        }
    }
    text_tally_sort_values(&ranks);
    printf("layers      %zu\nranks       ", count);
    text_tally_print(&ranks, 8);
    putchar('\n');
    if (norm > 0.0) {
        printf("energy      %.2f %% kept, relative error %.3g\n",
               100.0 * (1.0 - lost / norm), sqrt(lost / norm));
    }
    extract_put_problems(report);
    if (app->common.verbose) {
        extract_put_layers(app, report);
    }
    text_tally_end(&ranks);
    return 0;
}

/* ---- the work ---------------------------------------------------------- */

/* The rank of --rank into the settings, or `*out_auto`. */
static int extract_read_rank(app_state *app,
                             const char *text,
                             ranks_settings *ranks,
                             int *out_auto)
{
    *out_auto = text != NULL && strcmp(text, "auto") == 0;
    if (text == NULL || *out_auto) {
        return 0;
    }
    if (!opt_read_count(&ranks->rules.rank, text) || ranks->rules.rank < 1 ||
        ranks->rules.rank > RANKS_MOST) {
        return say_usage(app, "--rank",
                         "\"%s\" is not a rank from 1 to %d, nor auto", text,
                         RANKS_MOST);
    }
    return 0;
}

/* Where the journal of an output is, beside it; freed with free(). */
static char *extract_journal_path(const app_state *app)
{
    static const char ending[] = ".journal";
    size_t bytes = strlen(app->common.output);
    while (bytes > 1 && app->common.output[bytes - 1] == '/') {
        bytes--; /* a folder */
    }
    char *path = app_alloc(bytes + sizeof ending, 1);
    memcpy(path, app->common.output, bytes);
    memcpy(path + bytes, ending, sizeof ending);
    return path;
}

/* What a failure is about: the input that it names, a tensor that the message
 * says the file of, or else the second input, which did not fit. */
static const char *
extract_subject(char **paths, lora_status status, const lora_error *error)
{
    for (int i = 0; i < 2; i++) {
        size_t bytes = strlen(paths[i]);
        if (say_is_about(error, paths[i]) ||
            (strncmp(error->subject, paths[i], bytes) == 0 &&
             error->subject[bytes] == '/')) {
            return paths[i];
        }
    }
    return status == LORA_ERROR_NONFINITE ? error->subject : paths[1];
}

/* `begun`: a journal that is there is of this call. */
static int extract_failed(app_state *app,
                          char **paths,
                          const char *journal,
                          int begun,
                          lora_status status,
                          const lora_error *error)
{
    int about_journal = journal != NULL && say_is_about(error, journal);
    int code = say_failure(
        app, about_journal ? SAY_WRITING : SAY_READING,
        about_journal ? journal : extract_subject(paths, status, error), status,
        error);
    if (status == LORA_ERROR_KEY && begun) {
        (void)remove(journal); /* all is done, and comes to nothing */
    } else if (journal != NULL && status != LORA_ERROR_KEY &&
               status != LORA_ERROR_SHAPE &&
               (about_journal ? error->os_error != 0 : code != EXIT_INPUT) &&
               system_path_kind(journal) == SYSTEM_FILE) {
        say_note(app, "%s holds what was done: --resume goes on", journal);
    }
    return code;
}

static int extract_work(app_state *app,
                        char **paths,
                        const lora_rank_rule *rule,
                        const lora_adapter_extract_options *options)
{
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    lora_error error;
    uint64_t bytes = 0;
    int begun = options->journal != NULL &&
                system_path_kind(options->journal) == SYSTEM_NOTHING;
    lora_error_init(&error, sizeof error);
    lora_status status =
        lora_adapter_extract(&adapter, &report, app->context, paths[0],
                             paths[1], rule, options, &error);
    int code = status == LORA_OK ? output_edit_metadata(app, &adapter)
                                 : extract_failed(app, paths, options->journal,
                                                  begun, status, &error);
    if (code == 0) {
        code = output_save(app, adapter, paths[1], &bytes);
    }
    if (code == 0) {
        code = extract_report(app, report);
        output_say_written(app, bytes);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    if (code == 0 && options->journal != NULL) {
        (void)remove(options->journal);
    }
    return code;
}

static int
extract_run(app_state *app, int count, char **paths, const void *settings)
{
    const extract_settings *own = settings;
    ranks_settings ranks = own->ranks;
    ranks_choice choice;
    lora_adapter_extract_options options;
    char *journal = NULL;
    int is_auto = 0;
    (void)count;
    memset(&choice, 0, sizeof choice);
    int code = extract_read_rank(app, own->rank, &ranks, &is_auto);
    if (code == 0) {
        code = ranks_read(app, &ranks, &choice);
    }
    if (code == 0 && choice.given + is_auto != 1 &&
        own->kind != 1 + LORA_EXTRACT_FULL &&
        (own->kind != 1 + LORA_EXTRACT_LOKR || choice.given != 0)) {
        code = say_usage(app, NULL,
                         choice.given ? "--rank auto is a rule already"
                                      : "to what rank? Give --rank K, --rank "
                                        "auto, --energy E or another rule");
    }
    if (code == 0) {
        code = output_check_adapter(app);
    }
    if (code == 0) {
        static const lora_extract_kind kinds[] = {
            LORA_EXTRACT_LOCON,  LORA_EXTRACT_LOCON, LORA_EXTRACT_LORA,
            LORA_EXTRACT_TUCKER, LORA_EXTRACT_LOKR,  LORA_EXTRACT_FULL};
        lora_adapter_extract_options_init(&options, sizeof options);
        journal = app->common.output == NULL || app->common.dry_run
                      ? NULL
                      : extract_journal_path(app);
        options.conv_rule = choice.conv_rule;
        options.overrides = choice.overrides;
        options.override_count = choice.override_count;
        options.include = own->include.items;
        options.include_count = own->include.count;
        options.exclude = own->exclude.items;
        options.exclude_count = own->exclude.count;
        options.dialect = app->common.dialect;
        options.journal = journal;
        options.seed = app->common.seed;
        options.clamp = own->clamp.given ? own->clamp.value : 0.0;
        options.max_rank = (int32_t)ranks.max_rank;
        options.min_rank = (int32_t)ranks.min_rank;
        options.dtype = output_dtype(app);
        options.kind = kinds[own->kind];
        options.counting = choice.counting;
        options.split = choice.split;
        options.lokr_factor = (int32_t)own->factor;
        options.flags =
            (own->exact ? LORA_EXTRACT_EXACT : 0u) |
            (own->skip_shapes ? LORA_EXTRACT_SKIP_SHAPES : 0u) |
            (app->common.skip_bad ? LORA_EXTRACT_SKIP_BAD : 0u) |
            (own->resume && journal != NULL ? LORA_EXTRACT_RESUME : 0u);
        code = extract_work(app, paths, choice.given == 0 ? NULL : &choice.rule,
                            &options);
    }
    free(journal);
    ranks_release(&choice);
    return code;
}

const app_verb cmd_extract = {
    "extract",
    "BASE TUNED -o OUT",
    "the adapter that turns one checkpoint into another",
    "lora extract base.safetensors tuned.safetensors -o out.safetensors "
    "--rank 32\trank 32 everywhere\n"
    "lora extract base tuned -o out.safetensors --rank auto --dialect kohya\t"
    "folders of diffusers; no rounding noise\n",
    "BASE and TUNED are checkpoints: files, indexes of shards, or folders of\n"
    "diffusers; each in its own layout. Layers that did not change are left\n"
    "out. What is done is kept in OUT.journal until all is.\n",
    extract_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD | OPT_GROUP_MODEL,
    sizeof(extract_settings),
    VERB_CONTEXT,
    2,
    2,
    extract_run,
};
