/* Options: see opt.h. getopt_long() does the splitting; everything it needs is
 * made from the verb's table. */
#define _POSIX_C_SOURCE 200809L

#include "opt.h"

#include "app.h"
#include "say.h"
#include "text.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define COMMON(field) offsetof(opt_common, field)
#define OPT_MOST 96  /* options of one verb, common ones included */
#define OPT_CODE 256 /* getopt's code of the first option; above any letter */
#define OPT_NAMES_MOST 64 /* longest name that suggestions look at */

static const opt_spec opt_common_table[] = {
    {"output", 'o', OPT_TEXT, "FILE", "where the result goes", COMMON(output),
     0, 0, OPT_GROUP_OUTPUT},
    {"dry-run", 0, OPT_FLAG, NULL, "do everything but write the result",
     COMMON(dry_run), 0, 0, OPT_GROUP_OUTPUT | OPT_GROUP_OUTPUTS},
    {"force", 0, OPT_FLAG, NULL, "replace an existing file", COMMON(force), 0,
     0, OPT_GROUP_FORCE},
    {"dtype", 0, OPT_CHOICE, "f32|f16|bf16|keep",
     "number type of the factors (keep)", COMMON(dtype), 0, 0, OPT_GROUP_MODEL},
    {"dialect", 0, OPT_TEXT, "ID",
     "spelling of the names: kohya, diffusers ... (keep)", COMMON(dialect), 0,
     0, OPT_GROUP_MODEL},
    {"metadata", 0, OPT_LIST, "KEY=VALUE", "set a metadata entry (repeatable)",
     COMMON(metadata), 0, 0, OPT_GROUP_MODEL},
    {"no-metadata", 0, OPT_FLAG, NULL,
     "leave out metadata that no number depends on", COMMON(no_metadata), 0, 0,
     OPT_GROUP_MODEL},
    {"config", 0, OPT_TEXT, "FILE",
     "PEFT's adapter_config.json, if it lies elsewhere", COMMON(config), 0, 0,
     OPT_GROUP_INPUT},
    {"skip-bad", 0, OPT_FLAG, NULL, "leave unusable modules out",
     COMMON(skip_bad), 0, 0, OPT_GROUP_SKIP_BAD},
    {"json", 0, OPT_FLAG, NULL, "print JSON", COMMON(json), 0, 0,
     OPT_GROUP_JSON},
    {"threads", 0, OPT_COUNT, "N", "threads to use (one a CPU)",
     COMMON(threads), 1, 1024, OPT_GROUP_CONTEXT},
    {"memory", 0, OPT_SIZE, "SIZE", "most memory to use: 200M, 4G, 512KiB",
     COMMON(memory), 1, 9.0e18, OPT_GROUP_CONTEXT},
    {"backend", 0, OPT_CHOICE, "auto|builtin|blas",
     "who does the linear algebra (auto)", COMMON(backend), 0, 0,
     OPT_GROUP_CONTEXT},
    {"seed", 0, OPT_COUNT, "N", "seed of what is random (0)", COMMON(seed), 0,
     1.8e19, OPT_GROUP_CONTEXT},
    {"log-level", 0, OPT_CHOICE, "none|error|warning|info|debug",
     "messages of the library to show (warning)", COMMON(log_level), 0, 0,
     OPT_GROUP_CONTEXT},
    {"no-progress", 0, OPT_FLAG, NULL, "no progress bar", COMMON(no_progress),
     0, 0, OPT_GROUP_CONTEXT},
    {"no-color", 0, OPT_FLAG, NULL, "no colours", COMMON(no_color), 0, 0,
     OPT_GROUP_TALK},
    {"quiet", 'q', OPT_FLAG, NULL, "results and errors only", COMMON(quiet), 0,
     0, OPT_GROUP_TALK},
    {"verbose", 'v', OPT_FLAG, NULL, "more detail", COMMON(verbose), 0, 0,
     OPT_GROUP_TALK},
    {"help", 'h', OPT_FLAG, NULL, "show this help", COMMON(help), 0, 0,
     OPT_GROUP_TALK},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

/* Where a table stands in the other struct: the common rows fill in
 * app->common, the rest the settings of the verb. */
typedef struct opt_target {
    const opt_spec *spec;
    void *field;
} opt_target;

const opt_spec *opt_at(const app_verb *verb, size_t index)
{
    if (verb->options != NULL) {
        const opt_spec *own = verb->options;
        for (; own->name != NULL; own++) {
            if (index-- == 0) {
                return own;
            }
        }
    }
    for (const opt_spec *row = opt_common_table; row->name != NULL; row++) {
        if ((row->group & verb->groups) != 0 && index-- == 0) {
            return row;
        }
    }
    return NULL;
}

static opt_target opt_target_at(app_state *app, void *settings, size_t index)
{
    opt_target target = {opt_at(app->verb, index), NULL};
    if (target.spec != NULL) {
        char *base =
            target.spec->group != 0 ? (char *)&app->common : (char *)settings;
        target.field = base + target.spec->offset;
    }
    return target;
}

int opt_read_count(uint64_t *out, const char *text)
{
    uint64_t value = 0;
    if (*text == '\0') {
        return 0;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return 0;
        }
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return 1;
}

static const char *opt_skip_digits(const char *at, int *digits)
{
    while (*at >= '0' && *at <= '9') {
        at++;
        *digits += 1;
    }
    return at;
}

/* The end of [+-]digits[.digits][e[+-]digits], or NULL. Narrower than
 * strtod(), which takes spaces, hexadecimal, "nan" and "infinity". */
static const char *opt_scan_real(const char *text)
{
    int digits = 0;
    const char *at = text;
    if (*at == '+' || *at == '-') {
        at++;
    }
    at = opt_skip_digits(at, &digits);
    if (*at == '.') {
        at = opt_skip_digits(at + 1, &digits);
    }
    if (digits == 0) {
        return NULL;
    }
    if (*at == 'e' || *at == 'E') {
        int exponent_digits = 0;
        const char *exponent = at + 1;
        if (*exponent == '+' || *exponent == '-') {
            exponent++;
        }
        exponent = opt_skip_digits(exponent, &exponent_digits);
        if (exponent_digits > 0) {
            at = exponent;
        }
    }
    return at;
}

int opt_read_real(double *out, const char *text)
{
    const char *end = opt_scan_real(text);
    if (end == NULL || *end != '\0') {
        return 0;
    }
    double value = strtod(text, NULL);
    if (!(value >= -1.7e308 && value <= 1.7e308)) {
        return 0;
    }
    *out = value;
    return 1;
}

int opt_read_size(uint64_t *out, const char *text)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {
        {"", 1.0},       {"B", 1.0},      {"K", 0x1p10},   {"M", 0x1p20},
        {"G", 0x1p30},   {"T", 0x1p40},   {"KiB", 0x1p10}, {"MiB", 0x1p20},
        {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"kB", 1e3},     {"KB", 1e3},
        {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"k", 0x1p10},
    };
    int digits = 0;
    const char *end = opt_skip_digits(text, &digits);
    if (*end == '.') {
        end = opt_skip_digits(end + 1, &digits);
    }
    if (digits == 0) {
        return 0;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) == 0) {
            double bytes = strtod(text, NULL) * units[i].bytes;
            if (!(bytes >= 1.0 && bytes <= 9.0e18)) {
                return 0;
            }
            *out = (uint64_t)bytes;
            return 1;
        }
    }
    return 0;
}

/* 1 + the position of text among the words of "one|two|three", or 0. */
static int opt_find_choice(const char *choices, const char *text)
{
    size_t bytes = strlen(text);
    int position = 1;
    const char *at = choices;
    for (;;) {
        size_t word = strcspn(at, "|");
        if (word == bytes && memcmp(at, text, bytes) == 0) {
            return position;
        }
        if (at[word] == '\0') {
            return 0;
        }
        at += word + 1;
        position++;
    }
}

static int opt_bad_number(app_state *app,
                          const opt_spec *spec,
                          const char *value,
                          const char *what)
{
    char shown[80];
    char low[TEXT_NUMBER];
    char high[TEXT_NUMBER];
    char option[OPT_NAMES_MOST];
    snprintf(option, sizeof option, "--%s", spec->name);
    text_clean(shown, sizeof shown, value);
    text_real(low, spec->min);
    text_real(high, spec->max);
    if (spec->max >= 1e6) {
        return say_usage(app, option, "\"%s\" is not %s from %s", shown, what,
                         low);
    }
    return say_usage(app, option, "\"%s\" is not %s from %s to %s", shown, what,
                     low, high);
}

static void opt_append(opt_list *list, const char *item)
{
    const char **items = app_alloc(list->count + 1, sizeof *items);
    for (size_t i = 0; i < list->count; i++) {
        items[i] = list->items[i];
    }
    items[list->count] = item;
    free(list->items);
    list->items = items;
    list->count++;
}

int opt_store(app_state *app,
              const opt_spec *spec,
              void *field,
              const char *value)
{
    char option[OPT_NAMES_MOST];
    char shown[80];
    snprintf(option, sizeof option, "--%s", spec->name);
    switch (spec->kind) {
    case OPT_FLAG:
        *(int *)field = 1;
        return 0;
    case OPT_TEXT:
        if (*value == '\0') {
            return say_usage(app, option, "needs a value that is not empty");
        }
        *(const char **)field = value;
        return 0;
    case OPT_COUNT: {
        uint64_t count;
        if (!opt_read_count(&count, value) || (double)count < spec->min ||
            (double)count > spec->max) {
            return opt_bad_number(app, spec, value, "a whole number");
        }
        *(uint64_t *)field = count;
        return 0;
    }
    case OPT_REAL: {
        opt_real real = {0, 1};
        if (!opt_read_real(&real.value, value) || real.value < spec->min ||
            real.value > spec->max) {
            return opt_bad_number(app, spec, value, "a number");
        }
        *(opt_real *)field = real;
        return 0;
    }
    case OPT_SIZE:
        if (!opt_read_size((uint64_t *)field, value)) {
            return say_usage(app, option,
                             "\"%s\" is not a size, write 200M, 4G or 512KiB",
                             text_clean(shown, sizeof shown, value));
        }
        return 0;
    case OPT_CHOICE: {
        int choice = opt_find_choice(spec->value, value);
        if (choice == 0) {
            return say_usage(app, option, "\"%s\" is not one of %s",
                             text_clean(shown, sizeof shown, value),
                             spec->value);
        }
        *(int *)field = choice;
        return 0;
    }
    case OPT_LIST:
        opt_append((opt_list *)field, value);
        return 0;
    }
    return 0;
}

/* Edit distance of two short words. */
static size_t opt_distance(const char *one, const char *other)
{
    size_t row[OPT_NAMES_MOST + 1];
    size_t columns = strlen(other);
    if (columns > OPT_NAMES_MOST) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= columns; j++) {
        row[j] = j;
    }
    for (size_t i = 0; one[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < columns; j++) {
            size_t change = diagonal + (one[i] != other[j]);
            size_t gap = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = change < gap ? change : gap;
        }
    }
    return row[columns];
}

const char *opt_nearest(const char *wrong,
                        const char *(*names)(const void *user, size_t index),
                        const void *user)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    size_t bytes = strlen(wrong);
    const char *name;
    if (bytes > OPT_NAMES_MOST) {
        return NULL;
    }
    for (size_t i = 0; (name = names(user, i)) != NULL; i++) {
        size_t distance = opt_distance(wrong, name);
        if (bytes >= 3 && strncmp(name, wrong, bytes) == 0) {
            distance = 1; /* an unfinished word */
        }
        if (distance < best_distance) {
            best_distance = distance;
            best = name;
        }
    }
    return best_distance <= 1 + bytes / 4 ? best : NULL;
}

static const char *opt_name_at(const void *user, size_t index)
{
    const opt_spec *spec = opt_at((const app_verb *)user, index);
    return spec != NULL ? spec->name : NULL;
}

/* getopt_long() met an option it does not know. */
static int opt_unknown(app_state *app, const char *argument)
{
    char shown[80];
    char name[OPT_NAMES_MOST];
    text_clean(shown, sizeof shown, argument);
    if (argument[0] == '-' && argument[1] == '-') {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(argument + 2, "="),
                 argument + 2);
        const char *near = opt_nearest(name, opt_name_at, app->verb);
        if (near != NULL) {
            return say_usage(app, shown, "no such option, did you mean --%s?",
                             near);
        }
    }
    return say_usage(app, shown, "no such option");
}

/* What getopt_long() wants, made from the table. */
typedef struct opt_getopt {
    struct option longs[OPT_MOST + 1];
    char letters[2 * OPT_MOST + 3];
} opt_getopt;

static void opt_make_getopt(opt_getopt *out, const app_verb *verb)
{
    const opt_spec *spec;
    size_t count = 0;
    char *letter = out->letters;
    *letter++ = ':'; /* a missing value is told from an unknown option */
    for (; count < OPT_MOST && (spec = opt_at(verb, count)) != NULL; count++) {
        struct option *row = &out->longs[count];
        memset(row, 0, sizeof *row);
        row->name = spec->name;
        row->has_arg = spec->kind == OPT_FLAG ? no_argument : required_argument;
        row->val = OPT_CODE + (int)count;
        if (spec->letter != 0) {
            *letter++ = spec->letter;
            if (spec->kind != OPT_FLAG) {
                *letter++ = ':';
            }
        }
    }
    *letter = '\0';
    memset(&out->longs[count], 0, sizeof out->longs[count]);
}

static opt_target opt_find_code(app_state *app, void *settings, int code)
{
    opt_target target;
    for (size_t i = 0; (target = opt_target_at(app, settings, i)).spec != NULL;
         i++) {
        if (code == OPT_CODE + (int)i || code == target.spec->letter) {
            break;
        }
    }
    return target;
}

int opt_parse(
    app_state *app, void *settings, int argc, char **argv, int *out_first)
{
    opt_getopt table;
    int code;
    opt_make_getopt(&table, app->verb);
    opterr = 0;
    optind = 0; /* start anew: demo runs verbs inside a verb */
    while ((code = getopt_long(argc, argv, table.letters, table.longs, NULL)) !=
           -1) {
        if (code == '?' && optopt < OPT_CODE) {
            char letter[3] = {'-', (char)optopt, '\0'};
            return opt_unknown(app, optopt != 0 ? letter : argv[optind - 1]);
        }
        int missing = code == ':';
        int excess = code == '?';
        opt_target target =
            opt_find_code(app, settings, missing || excess ? optopt : code);
        if (target.spec == NULL) {
            return opt_unknown(app, argv[optind - 1]);
        }
        if (missing || excess) {
            char option[OPT_NAMES_MOST];
            snprintf(option, sizeof option, "--%s", target.spec->name);
            return missing ? say_usage(app, option, "needs a value: --%s %s",
                                       target.spec->name, target.spec->value)
                           : say_usage(app, option, "takes no value");
        }
        int bad = opt_store(app, target.spec, target.field, optarg);
        if (bad != 0) {
            return bad;
        }
    }
    *out_first = optind;
    return 0;
}

void opt_release(app_state *app, void *settings)
{
    opt_target target;
    for (size_t i = 0; (target = opt_target_at(app, settings, i)).spec != NULL;
         i++) {
        if (target.spec->kind == OPT_LIST) {
            free(((opt_list *)target.field)->items);
        }
    }
}

static void opt_print_row(FILE *out, const opt_spec *spec)
{
    char left[OPT_NAMES_MOST + 64];
    char letter[5] = "    ";
    if (spec->letter != 0) {
        letter[0] = '-';
        letter[1] = spec->letter;
        letter[2] = ',';
    }
    snprintf(left, sizeof left, "%s--%s%s%s", letter, spec->name,
             spec->value != NULL ? " " : "",
             spec->value != NULL ? spec->value : "");
    if (strlen(left) > 27) {
        fprintf(out, "  %s\n  %-28s%s\n", left, "", spec->help);
    } else {
        fprintf(out, "  %-28s%s\n", left, spec->help);
    }
}

void opt_print_help(FILE *out, const app_verb *verb)
{
    const opt_spec *spec;
    unsigned group = 1;
    for (size_t i = 0; (spec = opt_at(verb, i)) != NULL; i++) {
        unsigned common = (spec->group & (OPT_GROUP_TALK | OPT_GROUP_CONTEXT |
                                          OPT_GROUP_JSON)) != 0;
        if (i == 0 || common != group) {
            fprintf(out, "\n%s\n", common ? "Common options" : "Options");
            group = common;
        }
        opt_print_row(out, spec);
    }
}
