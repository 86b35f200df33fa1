/* Options. One table a verb says everything about them: how they are read,
 * where the value goes, and what help, completion and man page show.
 */
#ifndef OPT_H
#define OPT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct app_state;
struct app_verb;

/* The type that `offset` points to is given for each. */
typedef enum opt_kind {
    OPT_FLAG,   /* int: 1 if given */
    OPT_TEXT,   /* const char *: NULL if not given, never empty */
    OPT_COUNT,  /* uint64_t: a whole number, 0 if not given */
    OPT_REAL,   /* opt_real */
    OPT_SIZE,   /* uint64_t: bytes, 0 if not given */
    OPT_CHOICE, /* int: 0 if not given, else 1 + position in `value` */
    OPT_LIST    /* opt_list: may be given several times */
} opt_kind;

typedef struct opt_real {
    double value;
    int given;
} opt_real;

typedef struct opt_list {
    const char **items;
    size_t count;
} opt_list;

/* One option. */
typedef struct opt_spec {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* or 0 */
    opt_kind kind;
    const char *value; /* "N"; for a choice "one|two|three"; NULL for a flag */
    const char *help;
    size_t offset;
    double min, max; /* numbers: allowed range, both ends included */
    unsigned group;  /* of a common option: OPT_GROUP_* */
} opt_spec;

/* Common options come in groups; a verb takes those that mean something to
 * it, so that no option is accepted and then ignored. */
enum {
    OPT_GROUP_TALK = 1,      /* --quiet, --verbose, --no-color, --help */
    OPT_GROUP_JSON = 2,      /* --json */
    OPT_GROUP_CONTEXT = 4,   /* threads, memory, backend, progress, log */
    OPT_GROUP_FORCE = 8,     /* --force */
    OPT_GROUP_OUTPUT = 16,   /* -o, --dry-run */
    OPT_GROUP_SKIP_BAD = 32, /* --skip-bad */
    OPT_GROUP_INPUT = 64,    /* --config: of an adapter that is opened */
    OPT_GROUP_MODEL = 128,   /* dtype, dialect, metadata of what is written */
    OPT_GROUP_OUTPUTS = 256  /* --dry-run of a verb with an -o of its own */
};

/* Values of the common choices. */
enum { OPT_BACKEND_AUTO = 1, OPT_BACKEND_BUILTIN = 2, OPT_BACKEND_BLAS = 3 };

enum {
    OPT_LOG_NONE = 1 /* then LORA_LOG_ERROR + 1 and so on */
};

typedef struct opt_common {
    int help;
    int json;
    int quiet;
    int verbose;
    int no_progress;
    int no_color;
    int force;
    int dry_run;
    int skip_bad;
    int no_metadata;
    int backend;
    int log_level;
    int dtype; /* 1 + position in f32|f16|bf16|keep */
    uint64_t threads;
    uint64_t memory;
    uint64_t seed;
    const char *config;
    const char *output;
    const char *dialect;
    opt_list metadata;
} opt_common;

/* Read the options of app->verb from argv, argv[0] being the verb, into
 * app->common and `settings`. Operands are moved to the end; *out_first is the
 * index of the first. 0, or EXIT_USAGE after a message. */
int opt_parse(struct app_state *app,
              void *settings,
              int argc,
              char **argv,
              int *out_first);

/* Read the value of one option into its field; a flag's value is not looked
 * at. 0, or EXIT_USAGE after a message. */
int opt_store(struct app_state *app,
              const opt_spec *spec,
              void *field,
              const char *value);

/* Free what opt_parse() allocated. */
void opt_release(struct app_state *app, void *settings);

/* Print the options of a verb as help shows them. */
void opt_print_help(FILE *out, const struct app_verb *verb);

/* Step through all options of a verb, its own first; NULL at the end. */
const opt_spec *opt_at(const struct app_verb *verb, size_t index);

/* The nearest name to a mistyped one, or NULL. Distances up to a third of the
 * length count as near. `names` yields the candidates, NULL at the end. */
const char *opt_nearest(const char *wrong,
                        const char *(*names)(const void *user, size_t index),
                        const void *user);

/* Read a number written in decimal, whole and nothing else; 1 on success. */
int opt_read_count(uint64_t *out, const char *text);
int opt_read_real(double *out, const char *text);
int opt_read_size(uint64_t *out, const char *text);

#endif
