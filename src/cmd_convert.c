/* lora convert: other names, other number types, fewer modules, another
 * strength; else the same weight change.
 */
#include "cmd.h"
#include "convert_lokr.h"
#include "input.h"
#include "json.h"
#include "output.h"
#include "ranks.h"
#include "say.h"
#include "text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct convert_settings {
    ranks_settings ranks; /* the rules of it; RANKS_OPTION wants it first */
    int bake_alpha;
    int kind;
    int truncation;
    const char *family;
    const char *base;
    opt_list drops;
    uint64_t rank_prefix;
    uint64_t factor;
} convert_settings;

enum { CONVERT_LORA = 1, CONVERT_FULL, CONVERT_LOKR }; /* of --as */

static const opt_spec convert_options[] = {
    {"bake-alpha", 0, OPT_FLAG, NULL,
     "put the scale into the factors, alpha = rank",
     offsetof(convert_settings, bake_alpha), 0, 0, 0},
    {"family", 0, OPT_TEXT, "ID", "the base, such as sd15 or sdxl (a guess)",
     offsetof(convert_settings, family), 0, 0, 0},
    {"drop", 0, OPT_LIST, "PATTERN",
     "leave the modules that match out (repeatable)",
     offsetof(convert_settings, drops), 0, 0, 0},
    {"as", 0, OPT_CHOICE, "lora|full|lokr",
     "what kinds become: pairs, differences, products",
     offsetof(convert_settings, kind), 0, 0, 0},
    {"base", 0, OPT_TEXT, "BASE", "the model, for kinds that need its weights",
     offsetof(convert_settings, base), 0, 0, 0},
    RANKS_OPTION("rank",
                 OPT_COUNT,
                 "K",
                 "with --as: the best of rank K at most",
                 rules.rank,
                 1,
                 RANKS_MOST),
    RANKS_OPTION("energy",
                 OPT_REAL,
                 "E",
                 "with --as: keep the share E of the squared values",
                 rules.energy,
                 0,
                 1),
    RANKS_OPTION("ratio",
                 OPT_REAL,
                 "P",
                 "with --as: drop values below the largest / P",
                 rules.ratio,
                 1,
                 1e300),
    RANKS_OPTION("threshold",
                 OPT_REAL,
                 "T",
                 "with --as: drop values up to T",
                 rules.threshold,
                 0,
                 1e300),
    {"factor", 0, OPT_COUNT, "N",
     "with --as lokr: divides the sides (near square)",
     offsetof(convert_settings, factor), 1, RANKS_MOST, 0},
    {"rank-prefix", 0, OPT_COUNT, "K", "of DyLoRA: the first K directions",
     offsetof(convert_settings, rank_prefix), 1, RANKS_MOST, 0},
    {"truncate", 0, OPT_CHOICE, "keep-alpha|trained-sqrt|keep-scale",
     "what becomes of alpha then (keep-alpha)",
     offsetof(convert_settings, truncation), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* The dialects of the modules, most frequent first. */
static void convert_tally_dialects(text_tally *tally,
                                   const lora_adapter *adapter)
{
    lora_module_info module;
    module.struct_size = sizeof module;
    for (size_t i = 0; i < lora_adapter_module_count(adapter); i++) {
        if (lora_adapter_get_module(&module, adapter, i, NULL) == LORA_OK) {
            text_tally_label(tally, module.dialect);
        }
    }
    text_tally_sort_counts(tally);
}

static void convert_put_side(const lora_adapter *adapter, uint64_t bytes)
{
    text_tally dialects = {NULL, 0, 0};
    char number[TEXT_NUMBER];
    convert_tally_dialects(&dialects, adapter);
    printf("%zu tensors, %zu modules", lora_adapter_tensor_count(adapter),
           lora_adapter_module_count(adapter));
    if (dialects.count > 0) {
        printf(", ");
        text_tally_print(&dialects, 4);
        printf(" names");
    }
    printf(", %s\n", text_bytes(number, bytes));
    text_tally_end(&dialects);
}

static void convert_put_names(const char *key, const lora_adapter *adapter)
{
    text_tally dialects = {NULL, 0, 0};
    convert_tally_dialects(&dialects, adapter);
    printf(",\"%s\":[", key);
    for (size_t i = 0; i < dialects.count; i++) {
        fputs(i > 0 ? "," : "", stdout);
        json_put_string(stdout, dialects.entries[i].label);
    }
    putchar(']');
    text_tally_end(&dialects);
}

static void convert_put_json(const app_state *app,
                             const char *input,
                             const lora_adapter *before,
                             const lora_adapter *after,
                             const lora_report *report,
                             uint64_t bytes)
{
    fputs("{\"file\":", stdout);
    json_put_string(stdout, input);
    fputs(",\"output\":", stdout);
    if (app->common.output != NULL) {
        json_put_string(stdout, app->common.output);
    } else {
        fputs("null", stdout);
    }
    printf(",\"written\":%s,\"bytes\":%llu,\"tensors\":%zu,\"modules\":%zu",
           app->common.dry_run ? "false" : "true", (unsigned long long)bytes,
           lora_adapter_tensor_count(after), lora_adapter_module_count(after));
    convert_put_names("dialects_in", before);
    convert_put_names("dialects_out", after);
    if (report != NULL) {
        printf(",\"report\":%s", lora_report_to_json(report, NULL));
    }
    puts("}");
}

/* How far the modules that became something else are from what they were, of
 * those whose change was measured. */
static void convert_put_error(const lora_report *report)
{
    lora_report_module module;
    double worst = -1.0;
    char name[160] = "";
    size_t count = 0;
    module.struct_size = sizeof module;
    for (size_t i = 0; i < lora_report_module_count(report); i++) {
        if (lora_report_get_module(&module, report, i, NULL) != LORA_OK) {
            continue;
        }
        double lost = sqrt(fmax(0.0, 1.0 - module.energy));
        count++;
        if (lost > worst) {
            worst = lost;
            snprintf(name, sizeof name, "%s", module.name);
        }
    }
    if (count > 0) {
        printf("error   at most %.2g of a module's change", worst);
        if (worst > 0.0) {
            printf(", %s", name);
        }
        putchar('\n');
    }
}

/* Both halves of the result, on stdout. */
static int convert_report(app_state *app,
                          const char *input,
                          const lora_adapter *before,
                          const lora_adapter *after,
                          const lora_report *report,
                          uint64_t bytes)
{
    lora_adapter_info info;
    lora_error error;
    lora_error_init(&error, sizeof error);
    info.struct_size = sizeof info;
    if (app->common.json) {
        convert_put_json(app, input, before, after, report, bytes);
        return 0;
    }
    lora_status status = lora_adapter_get_info(&info, before, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_WORKING, input, status, &error);
    }
    printf("before  ");
    convert_put_side(before, info.bytes);
    printf("after   ");
    convert_put_side(after, bytes);
    convert_put_error(report);
    return 0;
}

/* Options that say something of others. */
static int convert_check(app_state *app, const convert_settings *own)
{
    lora_rank_rule rule;
    int rules = ranks_find_rule(&own->ranks.rules, &rule);
    int plain = rules == 0 || rule.kind == LORA_RANK_FIXED;
    if (rules != 0 && own->kind != CONVERT_LORA &&
        (own->kind != CONVERT_LOKR || !plain)) {
        return say_usage(app, NULL,
                         "--rank and its like go with --as lora; lora resize "
                         "lowers ranks");
    }
    if (rules > 1) {
        return say_usage(app, NULL,
                         "one of --rank, --energy, --ratio and --threshold");
    }
    if (own->factor != 0 && own->kind != CONVERT_LOKR) {
        return say_usage(app, "--factor", "goes with --as lokr");
    }
    if (own->base != NULL && own->kind == 0) {
        return say_usage(app, "--base", "goes with --as");
    }
    if (own->truncation != 0 && own->rank_prefix == 0) {
        return say_usage(app, NULL, "--truncate goes with --rank-prefix");
    }
    return output_check_adapter(app);
}

static int
convert_run(app_state *app, int count, char **paths, const void *settings)
{
    const convert_settings *own = settings;
    lora_adapter *before = NULL;
    lora_adapter *after = NULL;
    lora_report *report = NULL;
    lora_rank_rule rule;
    lora_adapter_convert_options options;
    lora_error error;
    lora_strength strength;
    uint64_t bytes = 0;
    int given;
    (void)count;
    int code = convert_check(app, own);
    if (code != 0) {
        return code;
    }
    char *input = input_split(&strength, &given, paths[0]);
    lora_error_init(&error, sizeof error);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = app->common.dialect;
    options.family = own->family;
    options.dtype = output_dtype(app);
    options.bake_alpha = own->bake_alpha != 0;
    options.skip_bad = app->common.skip_bad != 0;
    options.strength = given ? &strength : NULL;
    options.drops = own->drops.items;
    options.drop_count = own->drops.count;
    int rules = ranks_find_rule(&own->ranks.rules, &rule);
    options.base = own->base;
    if (own->kind == CONVERT_LOKR) { /* from pairs, where those take the base */
        options.kind = own->base != NULL ? "lora" : NULL;
        options.dtype = LORA_DTYPE_NONE;
    } else if (own->kind != 0) {
        options.kind = own->kind == CONVERT_LORA ? "lora" : "full";
        options.rule = rules != 0 ? &rule : NULL;
    }
    options.rank_prefix = (int32_t)own->rank_prefix;
    options.truncation =
        own->truncation == 0 ? 0 : (lora_truncation)(own->truncation - 1);
    lora_status status = input_open(app, &before, input, &error);
    if (status != LORA_OK) {
        code = say_failure(app, SAY_READING, input, status, &error);
    }
    if (code == 0) {
        status = lora_adapter_convert_report(&after, &report, before, &options,
                                             &error);
    }
    if (code == 0 && status == LORA_OK && own->kind == CONVERT_LOKR) {
        status = convert_lokr(&after, &report, app, own->factor,
                              rules != 0 ? rule.rank : 0, &error);
    }
    if (code == 0 && status != LORA_OK) {
        code = say_failure(app, SAY_WORKING, input, status, &error);
    }
    if (code == 0) {
        code = output_edit_metadata(app, &after);
    }
    if (code == 0) {
        code = output_save(app, after, input, &bytes);
    }
    if (code == 0) {
        code = convert_report(app, input, before, after, report, bytes);
        output_say_written(app, bytes);
    }
    lora_report_destroy(report);
    lora_adapter_destroy(after);
    lora_adapter_destroy(before);
    free(input);
    return code;
}

const app_verb cmd_convert = {
    "convert",
    "IN[:WEIGHT[:TE_WEIGHT]] -o OUT",
    "other names or number types, fewer modules, another strength",
    "lora convert style.safetensors -o diffusers.safetensors "
    "--dialect diffusers\tfor diffusers\n"
    "lora convert style.safetensors -o half.safetensors --dtype f16\t"
    "half the size of f32\n"
    "lora convert style.safetensors -o clean.safetensors --no-metadata\t"
    "without training data\n"
    "lora convert style.safetensors -o style/ --dialect peft\tfor PEFT\n"
    "lora convert style.safetensors:0.7 -o soft.safetensors --drop "
    "text_encoder\tweaker, and for the UNet alone\n"
    "lora convert loha.safetensors -o plain.safetensors --as lora\t"
    "LoHa and LoKr as plain LoRA\n"
    "lora convert dora.safetensors -o plain.safetensors --as lora --rank 32 "
    "--base model.safetensors\tDoRA as plain LoRA of rank 32\n"
    "lora convert style.safetensors -o lokr.safetensors --as lokr --factor 8\t"
    "the nearest LoKr\n",
    "Without options the same tensors are written anew. Dialects are kohya,\n"
    "diffusers-old, diffusers-unet, diffusers, peft and the others that\n"
    "lora info names. With --dialect peft OUT may be a folder, or end with a\n"
    "slash: it gets the two files that PEFT loads. With a WEIGHT the result\n"
    "has at weight 1 the effect that the input has at it; TE_WEIGHT is that\n"
    "of text encoders. --drop takes the name of a component, or a pattern of\n"
    "names, in which * is any text.\n"
    "With --as lora LoHa and LoKr become pairs of factors, exactly, or with\n"
    "--rank the best of that rank; with --as full all become the difference\n"
    "of the weight; with --as lokr the nearest Kronecker product, of which\n"
    "--rank is that of the larger factor. Kinds that change a weight by\n"
    "what it is, as GLoRA, (IA)^3, T-LoRA, OFT and all with DoRA, take\n"
    "--base, the model. The largest error of a module is told, as a share of\n"
    "its change.\n",
    convert_options,
    OPT_GROUP_TALK | OPT_GROUP_JSON | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT |
        OPT_GROUP_FORCE | OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD |
        OPT_GROUP_MODEL,
    sizeof(convert_settings),
    VERB_CONTEXT,
    1,
    1,
    convert_run,
};
