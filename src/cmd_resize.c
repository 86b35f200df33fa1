/* lora resize: lower the ranks of an adapter. */
#include "cmd.h"
#include "input.h"
#include "output.h"
#include "ranks.h"
#include "say.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct resize_settings {
    ranks_settings ranks;
    opt_list outputs;
    int pad, keep_core;
    const char *base;
} resize_settings;

static const opt_spec resize_options[] = {
    {"output", 'o', OPT_LIST, "FILE[@RULE]",
     "where it goes; @rank=8: by that rule (repeatable)",
     offsetof(resize_settings, outputs), 0, 0, 0},
    RANKS_OPTION(
        "rank", OPT_COUNT, "K", "at most K", rules.rank, 1, RANKS_MOST),
    RANKS_OPTIONS,
    {"pad", 0, OPT_FLAG, NULL, "fill up with zeros to just --rank",
     offsetof(resize_settings, pad), 0, 0, 0},
    {"keep-core", 0, OPT_FLAG, NULL, "keep the cores of Tucker modules",
     offsetof(resize_settings, keep_core), 0, 0, 0},
    {"base", 0, OPT_TEXT, "BASE",
     "the model, for kinds that change its weights",
     offsetof(resize_settings, base), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* Sums over all layers; errors and energies are of the squared values. */
typedef struct resize_totals {
    text_tally ranks_in, ranks_out;
    double energy; /* all there was */
    double lost;   /* what was dropped */
    double least;  /* smallest share kept by a layer */
    char least_name[160];
    size_t count, lowered;
} resize_totals;

/* Refuse what contradicts a rule. */
static int resize_check_rules(app_state *app,
                              const resize_settings *own,
                              const ranks_rules *rules)
{
    if (own->pad && rules->rank == 0) {
        return say_usage(app, "--pad", "needs --rank");
    }
    return ranks_check_rules(app, &own->ranks, rules);
}

/* The main rule; 0, or EXIT_USAGE after a message. */
static int resize_pick_rule(app_state *app,
                            const resize_settings *own,
                            const ranks_choice *choice,
                            lora_rank_rule *out)
{
    *out = choice->rule;
    if (!choice->given && choice->conv_rule == NULL &&
        own->ranks.max_rank == 0 && choice->override_count == 0) {
        return say_usage(app, NULL,
                         "to what rank? Give --rank K, --energy E, --ratio P, "
                         "--threshold T, --cumulative C, --effective, --knee "
                         "or --size SIZE");
    }
    return resize_check_rules(app, own, &own->ranks.rules);
}

/* One file to write, and the rule for it. */
typedef struct resize_target {
    char *path; /* NULL: none, with --dry-run */
    lora_rank_rule rule;
} resize_target;

/* The option that names a rule, or NULL. */
static const opt_spec *resize_rule_option(const char *name, size_t bytes)
{
    for (const opt_spec *spec = resize_options; spec->name != NULL; spec++) {
        if (spec->offset < sizeof(ranks_rules) && strlen(spec->name) == bytes &&
            memcmp(spec->name, name, bytes) == 0) {
            return spec;
        }
    }
    return NULL;
}

/* Say whose error is not that of what is changed. */
static void resize_note_dora(app_state *app, const lora_report *report)
{
    lora_problem problem;
    size_t count = 0;
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        count +=
            lora_report_get_problem(&problem, report, i, NULL) == LORA_OK &&
            strcmp(problem.code, "dora") == 0;
    }
    if (count > 0) {
        say_note(app,
                 "%zu module%s with DoRA: what is kept is of the change "
                 "inside; --base tells it of the weights",
                 count, count == 1 ? "" : "s");
    }
}

/* Read FILE or FILE@RULE, RULE being an option without its dashes. What stands
 * behind an '@' and begins with no such name belongs to the file's. */
static int resize_read_target(app_state *app,
                              const resize_settings *own,
                              const ranks_choice *choice,
                              const char *text,
                              resize_target *out)
{
    resize_settings other;
    const char *at = strrchr(text, '@');
    const char *name = at != NULL ? at + 1 : "";
    size_t bytes = strcspn(name, "=");
    const opt_spec *spec = resize_rule_option(name, bytes);
    size_t path_bytes = spec == NULL ? strlen(text) : (size_t)(at - text);
    const char *value = name[bytes] == '=' ? name + bytes + 1 : NULL;
    int code;
    if (path_bytes == 0) {
        return say_usage(app, "--output", "needs a value that is not empty");
    }
    if (spec == NULL) {
        code = resize_pick_rule(app, own, choice, &out->rule);
    } else if ((spec->kind == OPT_FLAG) != (value == NULL)) {
        return say_usage(app, "--output", "\"%s\" is not FILE@%s%s%s", text,
                         spec->name, spec->kind == OPT_FLAG ? "" : "=",
                         spec->kind == OPT_FLAG ? "" : spec->value);
    } else {
        memset(&other, 0, sizeof other);
        code = opt_store(app, spec, (char *)&other + spec->offset, value);
        ranks_find_rule(&other.ranks.rules, &out->rule);
        if (code == 0) {
            code = resize_check_rules(app, own, &other.ranks.rules);
        }
    }
    if (code == 0) {
        out->path = app_alloc(path_bytes + 1, 1);
        memcpy(out->path, text, path_bytes);
        out->path[path_bytes] = '\0';
    }
    return code;
}

/* The squared norm that a layer's share is of: its error tells, which may be
 * that of a weight with DoRA, or of a layer whose values are not all there. */
static double resize_squares(const lora_report_module *layer)
{
    double squares = 0.0;
    if (layer->energy < 1.0 - 1e-6) {
        return layer->error * layer->error / (1.0 - layer->energy);
    }
    for (size_t i = 0; i < layer->sigma_count; i++) {
        squares += layer->sigma[i] * layer->sigma[i];
    }
    return squares;
}

static lora_status
resize_sum(resize_totals *totals, const lora_report *report, lora_error *error)
{
    lora_report_module layer;
    layer.struct_size = sizeof layer;
    totals->least = 2.0;
    totals->count = lora_report_module_count(report);
    for (size_t i = 0; i < totals->count; i++) {
        lora_status status = lora_report_get_module(&layer, report, i, error);
        if (status != LORA_OK) {
            return status;
        }
        text_tally_number(&totals->ranks_in, (double)layer.rank_in);
        text_tally_number(&totals->ranks_out, (double)layer.rank_out);
        totals->lowered += layer.rank_out < layer.rank_in;
        totals->lost += layer.error * layer.error;
        totals->energy += resize_squares(&layer);
        if (layer.energy < totals->least) {
            totals->least = layer.energy;
            text_clean(totals->least_name, sizeof totals->least_name,
                       layer.name);
        }
    }
    text_tally_sort_values(&totals->ranks_in);
    text_tally_sort_values(&totals->ranks_out);
    return LORA_OK;
}

static uint64_t resize_parameters(const lora_adapter *adapter)
{
    lora_adapter_info info;
    info.struct_size = sizeof info;
    return lora_adapter_get_info(&info, adapter, NULL) == LORA_OK
               ? info.parameters
               : 0;
}

static uint64_t resize_bytes(const lora_adapter *adapter)
{
    lora_adapter_info info;
    info.struct_size = sizeof info;
    return lora_adapter_get_info(&info, adapter, NULL) == LORA_OK ? info.bytes
                                                                  : 0;
}

static void resize_put_totals(const resize_totals *totals,
                              const lora_adapter *before,
                              const lora_adapter *after,
                              uint64_t bytes)
{
    char one[TEXT_NUMBER];
    char other[TEXT_NUMBER];
    printf("layers      %zu, %zu of them lowered\n", totals->count,
           totals->lowered);
    printf("ranks       ");
    text_tally_print(&totals->ranks_in, 8);
    printf(" -> ");
    text_tally_print(&totals->ranks_out, 8);
    printf("\nparameters  %s -> %s\n",
           text_grouped(one, resize_parameters(before)),
           text_grouped(other, resize_parameters(after)));
    printf("size        %s -> %s\n", text_bytes(one, resize_bytes(before)),
           text_bytes(other, bytes));
    if (totals->energy > 0.0) {
        double lost = totals->lost / totals->energy;
        printf("energy      %.2f %% kept, relative error %.3g\n",
               100.0 * (1.0 - lost), sqrt(lost));
    }
    if (totals->least <= 1.0) {
        printf("worst       %.2f %% kept, %s\n", 100.0 * totals->least,
               totals->least_name);
    }
}

static void resize_put_layers(const app_state *app, const lora_report *report)
{
    text_table table;
    lora_report_module layer;
    layer.struct_size = sizeof layer;
    text_table_begin(&table,
                     "module|>rank|>now|>kept %|>error|>largest|>least|>"
                     "dropped|>stable|>effective");
    for (size_t i = 0; i < lora_report_module_count(report); i++) {
        if (lora_report_get_module(&layer, report, i, NULL) != LORA_OK) {
            continue;
        }
        text_table_cell(&table, TEXT_PLAIN, "%s", layer.name);
        text_table_cell(&table, TEXT_PLAIN, "%lld", (long long)layer.rank_in);
        text_table_cell(&table, TEXT_BOLD, "%lld", (long long)layer.rank_out);
        text_table_cell(&table, TEXT_PLAIN, "%.2f", 100.0 * layer.energy);
        text_table_cell(&table, TEXT_PLAIN, "%.4g", layer.error);
        text_table_cell(&table, TEXT_PLAIN, "%.4g", layer.largest);
        text_table_cell(&table, TEXT_PLAIN, "%.4g", layer.least);
        text_table_cell(&table, TEXT_PLAIN, "%.4g", layer.spectral);
        text_table_cell(&table, TEXT_PLAIN, "%.1f", layer.stable_rank);
        text_table_cell(&table, TEXT_PLAIN, "%.1f", layer.effective_rank);
    }
    putchar('\n');
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
}

static int resize_report(app_state *app,
                         const char *input,
                         const lora_report *report,
                         const lora_adapter *before,
                         const lora_adapter *after,
                         uint64_t bytes)
{
    resize_totals totals;
    lora_error error;
    if (app->common.json) {
        puts(lora_report_to_json(report, NULL));
        return 0;
    }
    lora_error_init(&error, sizeof error);
    memset(&totals, 0, sizeof totals);
    lora_status status = resize_sum(&totals, report, &error);
    if (status == LORA_OK) {
        resize_put_totals(&totals, before, after, bytes);
        resize_note_dora(app, report);
        if (app->common.verbose) {
            resize_put_layers(app, report);
        }
    }
    text_tally_end(&totals.ranks_in);
    text_tally_end(&totals.ranks_out);
    return status == LORA_OK
               ? 0
               : say_failure(app, SAY_WORKING, input, status, &error);
}

/* Respell the result where --dialect asks for it. */
static lora_status
resize_respell(const app_state *app, lora_adapter **adapter, lora_error *error)
{
    lora_adapter *respelled = NULL;
    lora_adapter_convert_options options;
    if (app->common.dialect == NULL) {
        return LORA_OK;
    }
    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = app->common.dialect;
    options.skip_bad = app->common.skip_bad != 0;
    lora_status status =
        lora_adapter_convert(&respelled, *adapter, &options, error);
    if (status == LORA_OK) {
        lora_adapter_destroy(*adapter);
        *adapter = respelled;
    }
    return status;
}

/* What a run works with. */
typedef struct resize_job {
    app_state *app;
    const char *input;
    lora_adapter *before;
    lora_spectra *spectra; /* NULL: for one result only */
    lora_adapter_resize_options options;
} resize_job;

/* Resize, respell, and edit the metadata, and measure what came of it. */
static int resize_make(const resize_job *job,
                       const lora_rank_rule *rule,
                       lora_adapter **after,
                       lora_report **report,
                       uint64_t *out_bytes)
{
    lora_error error;
    size_t bytes = 0;
    lora_error_init(&error, sizeof error);
    lora_status status = job->spectra != NULL
                             ? lora_spectra_resize(after, report, job->spectra,
                                                   rule, &job->options, &error)
                             : lora_adapter_resize(after, report, job->before,
                                                   rule, &job->options, &error);
    if (status == LORA_OK) {
        status = resize_respell(job->app, after, &error);
    }
    if (status == LORA_OK) {
        int code = output_edit_metadata(job->app, after);
        if (code != 0) {
            return code;
        }
        status = lora_adapter_save_memory(NULL, 0, &bytes, *after, &error);
        *out_bytes = bytes;
    }
    return status == LORA_OK
               ? 0
               : say_failure(job->app, SAY_WORKING, job->input, status, &error);
}

/* The same, where other names and metadata may take more than they did: a size
 * is one of what is written. */
static int resize_fit(const resize_job *job,
                      const lora_rank_rule *rule,
                      lora_adapter **after,
                      lora_report **report,
                      uint64_t *bytes)
{
    lora_rank_rule tighter = *rule;
    for (;;) {
        int code = resize_make(job, &tighter, after, report, bytes);
        if (code != 0 || rule->kind != LORA_RANK_SIZE ||
            (double)*bytes <= rule->value) {
            return code;
        }
        tighter.value -= (double)*bytes - rule->value;
        if (tighter.value < 1.0) {
            say_error(job->app, job->input,
                      "names and metadata alone take more than --size");
            return EXIT_USAGE;
        }
        lora_report_destroy(*report);
        lora_adapter_destroy(*after);
        *report = NULL;
        *after = NULL;
    }
}

/* From the open adapter to the saved result. */
static int resize_work(const resize_job *job, const resize_target *target)
{
    app_state *app = job->app;
    lora_adapter *after = NULL;
    lora_report *report = NULL;
    uint64_t bytes = 0;
    app->common.output = target->path;
    int code = resize_fit(job, &target->rule, &after, &report, &bytes);
    if (code == 0) {
        code = output_save(app, after, job->input, &bytes);
    }
    if (code == 0) {
        code =
            resize_report(app, job->input, report, job->before, after, bytes);
        output_say_written(app, bytes);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(after);
    return code;
}

/* All results, of one decomposition where there are several. */
static int
resize_all(resize_job *job, const resize_target *targets, size_t count)
{
    app_state *app = job->app;
    lora_error error;
    int code = 0;
    lora_error_init(&error, sizeof error);
    lora_status status = input_open(app, &job->before, job->input, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_READING, job->input, status, &error);
    }
    if (count > 1 || targets[0].rule.kind == LORA_RANK_SIZE) {
        status = lora_spectra_create(&job->spectra, job->before, &error);
        if (status != LORA_OK) {
            code = say_failure(app, SAY_WORKING, job->input, status, &error);
        }
    }
    for (size_t i = 0; code == 0 && i < count; i++) {
        if (count > 1) {
            if (app->common.json) {
                fputs(i == 0 ? "[" : ",", stdout);
            } else {
                printf("%s%s\n", i == 0 ? "" : "\n", targets[i].path);
            }
        }
        code = resize_work(job, &targets[i]);
    }
    if (code == 0 && count > 1 && app->common.json) {
        puts("]");
    }
    lora_spectra_destroy(job->spectra);
    lora_adapter_destroy(job->before);
    return code;
}

/* Read what is to be written and check that it can be. */
static int resize_read_targets(app_state *app,
                               const resize_settings *own,
                               const ranks_choice *choice,
                               resize_target *targets,
                               size_t count)
{
    int code = 0;
    int needed = own->outputs.count == 0;
    for (size_t i = 0; code == 0 && i < own->outputs.count; i++) {
        const char *text = own->outputs.items[i];
        code = resize_read_target(app, own, choice, text, &targets[i]);
        needed |=
            targets[i].path != NULL && strlen(targets[i].path) == strlen(text);
        for (size_t j = 0; code == 0 && j < i; j++) {
            if (strcmp(targets[i].path, targets[j].path) == 0) {
                code = say_usage(app, "--output", "%s is given twice",
                                 targets[i].path);
            }
        }
    }
    if (code == 0 && own->outputs.count == 0) {
        code = resize_pick_rule(app, own, choice, &targets[0].rule);
    } else if (code == 0 && !needed && choice->given) {
        code = say_usage(app, "--output",
                         "every file has a rule of its own, so leave out the "
                         "general one");
    }
    for (size_t i = 0; code == 0 && i < count; i++) {
        app->common.output = targets[i].path;
        code = output_check_adapter(app);
    }
    return code;
}

static int
resize_run(app_state *app, int count, char **paths, const void *settings)
{
    const resize_settings *own = settings;
    size_t target_count = own->outputs.count > 0 ? own->outputs.count : 1;
    resize_target *targets = app_alloc(target_count, sizeof *targets);
    ranks_choice choice;
    resize_job job;
    (void)count;
    int code = ranks_read(app, &own->ranks, &choice);
    if (code == 0) {
        code = resize_read_targets(app, own, &choice, targets, target_count);
    }
    if (code == 0) {
        memset(&job, 0, sizeof job);
        job.app = app;
        job.input = paths[0];
        lora_adapter_resize_options_init(&job.options, sizeof job.options);
        job.options.conv_rule = choice.conv_rule;
        job.options.overrides = choice.overrides;
        job.options.override_count = choice.override_count;
        job.options.max_rank = (int32_t)own->ranks.max_rank;
        job.options.min_rank = (int32_t)own->ranks.min_rank;
        job.options.pad = own->pad != 0;
        job.options.keep_core = own->keep_core != 0;
        job.options.base = own->base;
        job.options.counting = choice.counting;
        job.options.split = choice.split;
        job.options.dtype = output_dtype(app);
        job.options.skip_bad = app->common.skip_bad != 0;
        code = resize_all(&job, targets, target_count);
    }
    ranks_release(&choice);
    for (size_t i = 0; i < target_count; i++) {
        free(targets[i].path);
    }
    free(targets);
    return code;
}

const app_verb cmd_resize = {
    "resize",
    "IN -o OUT",
    "lower the ranks, losing as little as possible",
    "lora resize big.safetensors -o small.safetensors --rank 16\t"
    "rank 16 everywhere\n"
    "lora resize big.safetensors -o small.safetensors --energy 0.95\t"
    "as low as each layer allows\n"
    "lora resize big.safetensors -o small.safetensors --rank 32 "
    "--module-rank '*ff*=8'\tless for some\n"
    "lora resize big.safetensors -o 8.safetensors@rank=8 "
    "-o 40.safetensors@size=40MB\tseveral at once\n",
    "Values are the singular values of a layer's scaled weight change. The\n"
    "result is the best approximation of its rank. Patterns have * and ? and\n"
    "match stored or canonical names; the last that matches holds.\n",
    resize_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUTS | OPT_GROUP_SKIP_BAD |
        OPT_GROUP_MODEL,
    sizeof(resize_settings),
    VERB_CONTEXT,
    1,
    1,
    resize_run,
};
