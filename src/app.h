/* What every file of the program shares: the verbs, their options, the state
 * of one run, and the exit codes.
 *
 * The program is the library's first user: it sees <lora/lora.h> and nothing
 * else of it. It never calls setlocale(), so numbers are read and printed the
 * same way everywhere.
 */
#ifndef APP_H
#define APP_H

#include "opt.h"
#include "progress.h"

#include <lora/lora.h>

#include <stddef.h>

/* Have the compiler check a format and its arguments. */
#if defined(__GNUC__)
#define APP_PRINTF(format_at, first_at)                                        \
    __attribute__((__format__(__printf__, format_at, first_at)))
#else
#define APP_PRINTF(format_at, first_at)
#endif

/* Exit codes, part of the interface. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,   /* the operation failed, or cannot be done */
    EXIT_USAGE = 2,    /* the command line is wrong */
    EXIT_INPUT = 3,    /* an input cannot be read, or is damaged */
    EXIT_MISMATCH = 4, /* keys, shapes or values do not fit */
    EXIT_MEMORY = 5,   /* over --memory, or the machine has no more */
    EXIT_INTERRUPTED = 130
};

typedef struct app_state app_state;

/* What a verb needs from the program. */
enum {
    VERB_CONTEXT = 1, /* a library context */
    VERB_HIDDEN = 2   /* not in the list of verbs */
};

/* One subcommand. `run` gets the operands and the settings that its options
 * were read into, and returns an exit code. */
typedef struct app_verb {
    const char *name;
    const char *operands;    /* as shown in the usage line */
    const char *summary;     /* one line, for the list of verbs */
    const char *examples;    /* lines "command\tcomment\n" */
    const char *notes;       /* what options cannot say; may be NULL */
    const opt_spec *options; /* its own; ends with an empty row; may be NULL */
    unsigned groups;         /* OPT_GROUP_*: the common options it takes */
    size_t settings_bytes;   /* of the struct that `options` fill in */
    int flags;               /* VERB_* */
    int min_operands;
    int max_operands; /* -1: any number */
    int (*run)(app_state *app,
               int count,
               char **operands,
               const void *settings);
} app_verb;

/* All verbs, in the order of the list; ends with NULL. */
extern const app_verb *const app_verbs[];

/* One run of one verb. */
struct app_state {
    const app_verb *verb;
    opt_common common;
    lora_context *context; /* NULL without VERB_CONTEXT */
    progress bar;
    int color; /* stdout may be coloured */
};

/* Run a command line; argv[0] is the name of the verb. `defaults` (or NULL)
 * are common options to start from: how `demo` runs its steps. */
int app_run(const opt_common *defaults, int argc, char **argv);

/* The verb of that name, or NULL. */
const app_verb *app_find_verb(const char *name);

/* 1 once the user has asked to stop. */
int app_interrupted(void);

/* Memory for text and tables; ends the program where there is none. */
void *app_alloc(size_t count, size_t size);

#endif
