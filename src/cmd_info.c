/* lora info: what a file is. */
#include "cmd.h"
#include "files.h"
#include "input.h"
#include "json.h"
#include "say.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define INFO_TEXT 512 /* longest metadata value shown in a line */
#define INFO_TAGS 10

typedef struct info_settings {
    int modules;
    opt_list hashes;
} info_settings;

static const opt_spec info_options[] = {
    {"modules", 0, OPT_FLAG, NULL, "one line a module",
     offsetof(info_settings, modules), 0, 0, 0},
    {"hash", 0, OPT_LIST, "NAME",
     "add a hash: sha256, auto_v2, auto_v3 ..., or all",
     offsetof(info_settings, hashes), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* What is counted over all modules. */
typedef struct info_counts {
    text_tally kinds, ranks, alphas, scales, dialects, parts, dtypes;
    size_t without_alpha;
    size_t embeddings;
} info_counts;

static void info_end_counts(info_counts *counts)
{
    text_tally_end(&counts->kinds);
    text_tally_end(&counts->ranks);
    text_tally_end(&counts->alphas);
    text_tally_end(&counts->scales);
    text_tally_end(&counts->dialects);
    text_tally_end(&counts->parts);
    text_tally_end(&counts->dtypes);
}

static lora_status info_count_modules(info_counts *counts,
                                      const lora_adapter *adapter,
                                      lora_error *error)
{
    lora_module_info module;
    module.struct_size = sizeof module;
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        char part[48];
        lora_status status =
            lora_adapter_get_module(&module, adapter, i, error);
        if (status != LORA_OK) {
            return status;
        }
        snprintf(part, sizeof part, "%.*s", (int)strcspn(module.target, "."),
                 module.target);
        text_tally_label(&counts->kinds,
                         *module.kind != '\0' ? module.kind : "unknown");
        text_tally_label(&counts->dialects, module.dialect);
        if (strchr(module.target, '.') != NULL) {
            text_tally_label(&counts->parts, part);
        }
        if (module.rank > 0) {
            text_tally_number(&counts->ranks, (double)module.rank);
            text_tally_number(&counts->scales, module.scale);
            if (module.has_alpha) {
                text_tally_number(&counts->alphas, module.alpha);
            } else {
                counts->without_alpha++;
            }
        }
    }
    text_tally_sort_counts(&counts->kinds);
    text_tally_sort_counts(&counts->dialects);
    text_tally_sort_counts(&counts->parts);
    text_tally_sort_values(&counts->ranks);
    text_tally_sort_values(&counts->alphas);
    text_tally_sort_values(&counts->scales);
    return LORA_OK;
}

static lora_status info_count_tensors(info_counts *counts,
                                      const lora_adapter *adapter,
                                      lora_error *error)
{
    lora_tensor_info tensor;
    tensor.struct_size = sizeof tensor;
    for (size_t i = 0; i < lora_adapter_tensor_count(adapter); i++) {
        lora_status status =
            lora_adapter_get_tensor_info(&tensor, adapter, i, error);
        if (status != LORA_OK) {
            return status;
        }
        text_tally_label(&counts->dtypes, lora_dtype_name(tensor.dtype));
        counts->embeddings += strcmp(tensor.role, "token") == 0;
    }
    text_tally_sort_counts(&counts->dtypes);
    return LORA_OK;
}

static void info_label(const app_state *app, const char *label)
{
    printf("  %s%-12s%s", text_on(app->color, TEXT_DIM), label,
           text_off(app->color));
}

static void
info_put_tally(const app_state *app, const char *label, const text_tally *tally)
{
    if (tally->count > 0) {
        info_label(app, label);
        text_tally_print(tally, 8);
        putchar('\n');
    }
}

/* "sdxl, 98 % sure; otherwise sd21, sd15" */
static void info_put_base(const app_state *app,
                          const lora_adapter_info *info,
                          json_slice report)
{
    json_slice value;
    char text[INFO_TEXT];
    json_walk others =
        json_enter(json_member(json_member(report, "base"), "alternatives"));
    info_label(app, "base model");
    if (*info->family == '\0') {
        puts("not recognised");
        return;
    }
    printf("%s, %.0f %% sure", info->family, info->confidence * 100.0);
    const char *between = "; otherwise ";
    while (json_next(&others, NULL, &value)) {
        /* A name, or an object that has one. */
        json_slice name = json_member(value, "family");
        json_text(text, sizeof text, name.at != NULL ? name : value);
        if (*text != '\0' && strcmp(text, info->family) != 0) {
            fputs(between, stdout);
            text_put(stdout, text);
            between = ", ";
        }
    }
    putchar('\n');
}

/* Say so where a value is not from the file itself. */
static const char *info_card(char *out, json_slice from)
{
    json_text(out, INFO_TEXT, from);
    return strcmp(out, "README.md") == 0 ? " (README.md)" : "";
}

/* The part of the report that people wrote: base model, trigger words, tags. */
static void info_put_summary(const app_state *app, json_slice report)
{
    char text[INFO_TEXT];
    char clean[INFO_TEXT];
    char from[INFO_TEXT];
    char number[TEXT_NUMBER];
    json_slice value;
    json_slice summary = json_member(report, "summary");
    json_text(text, sizeof text, json_member(summary, "base_model"));
    if (*text != '\0') {
        info_label(app, "trained on");
        printf("%s%s\n", text_clean(clean, sizeof clean, text),
               info_card(from, json_member(summary, "base_model_from")));
    }
    json_walk words = json_enter(json_member(summary, "trigger_words"));
    for (int i = 0; json_next(&words, NULL, &value); i++) {
        if (i == 0) {
            info_label(app, "triggers");
        }
        json_text(text, sizeof text, value);
        printf("%s%s", i > 0 ? ", " : "",
               text_clean(clean, sizeof clean, text));
        if (words.rest.bytes == 0) {
            puts(info_card(from, json_member(summary, "trigger_words_from")));
        }
    }
    json_walk tags = json_enter(json_member(summary, "tags"));
    for (int i = 0; i < INFO_TAGS && json_next(&tags, NULL, &value); i++) {
        if (i == 0) {
            info_label(app, "tags");
        }
        json_text(text, sizeof text, json_member(value, "tag"));
        printf("%s%s (%s)", i > 0 ? ", " : "",
               text_clean(clean, sizeof clean, text),
               text_grouped(
                   number, (uint64_t)json_number(json_member(value, "count"))));
        if (tags.rest.bytes == 0 || i == INFO_TAGS - 1) {
            putchar('\n');
        }
    }
    if (json_is_true(json_member(summary, "thumbnail"))) {
        info_label(app, "thumbnail");
        puts("yes");
    }
    json_text(text, sizeof text,
              json_member(json_member(summary, "card"), "license"));
    if (*text != '\0') {
        info_label(app, "license");
        printf("%s (README.md)\n", text_clean(clean, sizeof clean, text));
    }
}

static void info_put_embeddings(const app_state *app, json_slice report)
{
    char text[INFO_TEXT];
    char last[INFO_TEXT];
    char clean[INFO_TEXT];
    json_slice value;
    json_walk walk = json_enter(json_member(report, "embeddings"));
    const char *between = "";
    if (walk.rest.bytes == 0) {
        return;
    }
    info_label(app, "embeddings");
    while (json_next(&walk, NULL, &value)) {
        json_text(text, sizeof text, json_member(value, "token"));
        if (*between == '\0' || strcmp(text, last) != 0) { /* by encoder */
            printf("%s%s", between, text_clean(clean, sizeof clean, text));
        }
        memcpy(last, text, sizeof last);
        between = ", ";
    }
    putchar('\n');
}

static text_color info_severity(lora_severity severity, const char **name)
{
    switch (severity) {
    case LORA_SEVERITY_ERROR:
        *name = "error";
        return TEXT_RED;
    case LORA_SEVERITY_WARNING:
        *name = "warning";
        return TEXT_YELLOW;
    default:
        *name = "note";
        return TEXT_DIM;
    }
}

static lora_status info_put_problems(const app_state *app,
                                     const lora_report *report,
                                     lora_error *error)
{
    text_table table;
    lora_problem problem;
    lora_status status = LORA_OK;
    size_t count = lora_report_problem_count(report);
    info_label(app, "problems");
    if (count == 0) {
        puts("none seen (lora check looks at the values too)");
        return LORA_OK;
    }
    printf("%zu\n", count);
    text_table_begin(&table, "|||");
    problem.struct_size = sizeof problem;
    for (size_t i = 0; i < count && status == LORA_OK; i++) {
        const char *severity;
        status = lora_report_get_problem(&problem, report, i, error);
        if (status == LORA_OK) {
            text_color color = info_severity(problem.severity, &severity);
            text_table_cell(&table, color, "%s", severity);
            text_table_cell(&table, TEXT_PLAIN, "%s", problem.code);
            text_table_cell(&table, TEXT_BOLD, "%s",
                            *problem.subject != '\0' ? problem.subject : "-");
            text_table_cell(&table, TEXT_PLAIN, "%s", problem.message);
        }
    }
    text_table_print(&table, "    ", app->color);
    text_table_end(&table);
    return status;
}

static lora_status info_put_modules(const app_state *app,
                                    const lora_adapter *adapter,
                                    lora_error *error)
{
    text_table table;
    lora_module_info module;
    lora_status status = LORA_OK;
    module.struct_size = sizeof module;
    text_table_begin(&table,
                     "module|kind|>rank|>alpha|>scale|shape|dtype|notes");
    for (size_t i = 0;
         i < lora_adapter_module_count(adapter) && status == LORA_OK; i++) {
        char number[TEXT_NUMBER];
        char shape[TEXT_SHAPE];
        status = lora_adapter_get_module(&module, adapter, i, error);
        if (status != LORA_OK) {
            break;
        }
        text_table_cell(&table, TEXT_PLAIN, "%s", module.target);
        text_table_cell(&table, TEXT_PLAIN, "%s", module.kind);
        text_table_cell(&table, TEXT_PLAIN, "%lld", (long long)module.rank);
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        module.has_alpha ? text_real(number, module.alpha)
                                         : "-");
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        text_real(number, module.scale));
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        text_shape(shape, module.shape, module.ndim));
        text_table_cell(&table, TEXT_PLAIN, "%s",
                        lora_dtype_name(module.dtype));
        text_table_cell(&table, TEXT_RED, "%s%s%s", module.dora ? "dora " : "",
                        module.tucker ? "tucker " : "",
                        module.status != LORA_OK ? "unusable" : "");
    }
    putchar('\n');
    text_table_print(&table, "  ", app->color);
    text_table_end(&table);
    return status;
}

/* All metadata, with --verbose. */
static void info_put_metadata(const app_state *app, const lora_adapter *adapter)
{
    text_table table;
    text_table_begin(&table, "metadata|value");
    for (size_t i = 0; i < lora_adapter_metadata_count(adapter); i++) {
        const char *key;
        const char *value;
        char clean[100];
        if (lora_adapter_get_metadata(&key, &value, adapter, i, NULL) ==
            LORA_OK) {
            text_table_cell(&table, TEXT_PLAIN, "%s", key);
            text_table_cell(&table, TEXT_PLAIN, "%s",
                            text_clean(clean, sizeof clean, value));
        }
    }
    if (table.count > 0) {
        putchar('\n');
        text_table_print(&table, "  ", app->color);
    }
    text_table_end(&table);
}

static int info_wants_hash(const info_settings *settings, const char *name)
{
    for (size_t i = 0; i < settings->hashes.count; i++) {
        if (strcmp(settings->hashes.items[i], "all") == 0 ||
            strcmp(settings->hashes.items[i], name) == 0) {
            return 1;
        }
    }
    return 0;
}

static void info_put_hashes(const app_state *app,
                            const info_settings *settings,
                            json_slice report)
{
    char name[64];
    char text[INFO_TEXT];
    json_slice key;
    json_slice value;
    json_walk walk = json_enter(json_member(report, "hashes"));
    while (json_next(&walk, &key, &value)) {
        json_text(name, sizeof name, key);
        json_text(text, sizeof text, value);
        if (info_wants_hash(settings, name) && *text != '\0') {
            info_label(app, name);
            printf("%s%s\n", strlen(name) < 12 ? "" : "  ", text);
        }
    }
}

/* The first line: what it is, in one breath. */
static void info_put_headline(const app_state *app,
                              const char *path,
                              const lora_adapter_info *info,
                              const info_counts *counts)
{
    char bytes[TEXT_NUMBER];
    char clean[INFO_TEXT];
    printf("%s%s%s\n", text_on(app->color, TEXT_BOLD),
           text_clean(clean, sizeof clean, path), text_off(app->color));
    printf("  ");
    if (info->module_count == 0 && counts->embeddings > 0) {
        printf("embedding of %s tensor%s",
               text_grouped(bytes, counts->embeddings),
               counts->embeddings == 1 ? "" : "s");
    } else if (info->module_count == 0) {
        printf("no adapter that is known here, %s tensor%s",
               text_grouped(bytes, info->tensor_count),
               info->tensor_count == 1 ? "" : "s");
    } else {
        for (size_t i = 0; i < counts->kinds.count; i++) {
            printf("%s%s", i > 0 ? " + " : "", counts->kinds.entries[i].label);
        }
        printf(" for %s",
               *info->family != '\0' ? info->family : "an unknown base");
        if (counts->ranks.count > 0) {
            const struct text_tally_entry *ranks = counts->ranks.entries;
            size_t last = counts->ranks.count - 1;
            printf(", rank %s", ranks[0].label);
            if (last > 0) {
                printf(" to %s", ranks[last].label);
            }
        }
        printf(", %s names", counts->dialects.entries[0].label);
    }
    printf(", %s\n\n", text_bytes(bytes, info->bytes));
}

static void info_put_counts(const app_state *app,
                            const lora_adapter_info *info,
                            const info_counts *counts)
{
    char number[TEXT_NUMBER];
    info_label(app, "modules");
    printf("%s", text_grouped(number, info->module_count));
    if (counts->kinds.count > 0) {
        printf(": ");
        text_tally_print(&counts->kinds, 8);
    }
    putchar('\n');
    info_put_tally(app, "parts", &counts->parts);
    info_put_tally(app, "names", &counts->dialects);
    info_put_tally(app, "ranks", &counts->ranks);
    if (counts->alphas.count > 0) {
        info_label(app, "alphas");
        text_tally_print(&counts->alphas, 8);
        if (counts->without_alpha > 0) {
            printf(", without (%zu)", counts->without_alpha);
        }
        putchar('\n');
    }
    info_put_tally(app, "scales", &counts->scales);
    info_put_tally(app, "dtypes", &counts->dtypes);
    info_label(app, "parameters");
    printf("%s\n", text_grouped(number, info->parameters));
    info_label(app, "tensors");
    printf("%s", text_grouped(number, info->tensor_count));
    if (info->unknown_count > 0) {
        printf(", of which %s unknown (lora keys lists them)",
               text_grouped(number, info->unknown_count));
    }
    putchar('\n');
}

static lora_status info_print(app_state *app,
                              const char *path,
                              const info_settings *settings,
                              const lora_adapter *adapter,
                              const lora_report *report,
                              lora_error *error)
{
    info_counts counts;
    lora_adapter_info info;
    size_t bytes;
    const char *text = lora_report_to_json(report, &bytes);
    json_slice json = json_whole(text, bytes);
    memset(&counts, 0, sizeof counts);
    info.struct_size = sizeof info;
    lora_status status = lora_adapter_get_info(&info, adapter, error);
    if (status == LORA_OK) {
        status = info_count_modules(&counts, adapter, error);
    }
    if (status == LORA_OK) {
        status = info_count_tensors(&counts, adapter, error);
    }
    if (status == LORA_OK) {
        info_put_headline(app, path, &info, &counts);
        info_put_base(app, &info, json);
        info_put_counts(app, &info, &counts);
        info_put_embeddings(app, json);
        info_put_summary(app, json);
        info_put_hashes(app, settings, json);
        status = info_put_problems(app, report, error);
    }
    if (status == LORA_OK && settings->modules) {
        status = info_put_modules(app, adapter, error);
    }
    if (status == LORA_OK && app->common.verbose) {
        info_put_metadata(app, adapter);
    }
    info_end_counts(&counts);
    return status;
}

/* The report as it is, but for the hashes that were not asked for. */
static void info_put_json(const info_settings *settings,
                          const lora_report *report)
{
    size_t bytes;
    const char *text = lora_report_to_json(report, &bytes);
    json_slice whole = json_whole(text, bytes);
    json_slice hashes = json_member(whole, "hashes");
    if (settings->hashes.count == 0 || hashes.at == NULL) {
        fwrite(whole.at, 1, whole.bytes, stdout);
        return;
    }
    char name[64];
    json_slice key;
    json_slice value;
    const char *between = "";
    json_walk walk = json_enter(hashes);
    fwrite(whole.at, 1, (size_t)(hashes.at - whole.at), stdout);
    putchar('{');
    while (json_next(&walk, &key, &value)) {
        if (info_wants_hash(settings, json_text(name, sizeof name, key))) {
            printf("%s%.*s:%.*s", between, (int)key.bytes, key.at,
                   (int)value.bytes, value.at);
            between = ",";
        }
    }
    putchar('}');
    const char *after = hashes.at + hashes.bytes;
    fwrite(after, 1, (size_t)(whole.at + whole.bytes - after), stdout);
}

static lora_status info_file(app_state *app,
                             const char *path,
                             const void *settings,
                             int *code,
                             lora_error *error)
{
    const info_settings *own = settings;
    lora_adapter *adapter = NULL;
    lora_report *report = NULL;
    lora_adapter_describe_options options;
    (void)code;
    lora_adapter_describe_options_init(&options, sizeof options);
    options.modules = own->modules != 0;
    options.hashes = own->hashes.count > 0;
    lora_status status = input_open(app, &adapter, path, error);
    if (status == LORA_OK) {
        status = lora_adapter_describe(&report, adapter, &options, error);
    }
    progress_clear(&app->bar);
    if (status == LORA_OK && app->common.json) {
        info_put_json(own, report);
    } else if (status == LORA_OK) {
        status = info_print(app, path, own, adapter, report, error);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(adapter);
    return status;
}

static int
info_run(app_state *app, int count, char **paths, const void *settings)
{
    static const char *const names[] = {
        "all",       "sha256", "auto_v1",         "auto_v2",          "auto_v3",
        "crc32",     "blake3", "sshs_model_hash", "sshs_legacy_hash", "lycoris",
        "content_id"};
    const info_settings *own = settings;
    for (size_t i = 0; i < own->hashes.count; i++) {
        int known = 0;
        for (size_t j = 0; j < sizeof names / sizeof names[0]; j++) {
            known = known || strcmp(own->hashes.items[i], names[j]) == 0;
        }
        if (!known) {
            return say_usage(app, "--hash",
                             "\"%s\" is not one of all, sha256, auto_v1, "
                             "auto_v2, auto_v3, crc32, blake3, "
                             "sshs_model_hash, sshs_legacy_hash, lycoris, "
                             "content_id",
                             own->hashes.items[i]);
        }
    }
    return files_each(app, count, paths, info_file, settings, "\n");
}

const app_verb cmd_info = {
    "info",
    "FILE...",
    "what a file is: base model, kinds, ranks, dtypes, metadata",
    "lora info style.safetensors\tthe overview\n"
    "lora info --modules style.safetensors\tand every module\n"
    "lora info --json *.safetensors\tfor programs\n",
    "Reads the header and the alphas only, unless hashes are asked for. With\n"
    "--verbose all metadata is listed.\n",
    info_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT,
    sizeof(info_settings),
    VERB_CONTEXT,
    1,
    -1,
    info_run,
};
