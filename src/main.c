/* The program `lora`: finds the verb, reads its options, makes the library
 * context it works in, and turns what happened into an exit code.
 */
#define _POSIX_C_SOURCE 200809L

#include "app.h"

#include "cmd.h"
#include "opt.h"
#include "say.h"
#include "system.h"
#include "text.h"

#include <lora/lora.h>
#ifdef LORA_HAVE_OPENBLAS
#include <lora/openblas.h>
#endif

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

const app_verb *const app_verbs[] = {
    &cmd_info, &cmd_keys,    &cmd_check,   &cmd_bind,       &cmd_hash,
    &cmd_meta, &cmd_convert, &cmd_resize,  &cmd_extract,    &cmd_delta,
    &cmd_fuse, &cmd_unfuse,  &cmd_light,   &cmd_embed,      &cmd_plot,
    &cmd_demo, &cmd_help,    &cmd_version, &cmd_completion, NULL,
};

/* Shared by all runs of this process: a signal handler reaches nothing else.
 * The token is made before signals are caught and never destroyed. */
static lora_cancel_token *main_cancel;
static volatile sig_atomic_t main_signal;

static void main_on_signal(int number)
{
    main_signal = number;
    lora_cancel_token_cancel(main_cancel);
}

int app_interrupted(void)
{
    return main_signal != 0;
}

void *app_alloc(size_t count, size_t size)
{
    void *block = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (block == NULL) {
        fputs("lora: out of memory\n", stderr);
        exit(EXIT_MEMORY);
    }
    return block;
}

const app_verb *app_find_verb(const char *name)
{
    for (size_t i = 0; app_verbs[i] != NULL; i++) {
        if (strcmp(app_verbs[i]->name, name) == 0) {
            return app_verbs[i];
        }
    }
    return NULL;
}

/* The OpenBLAS table. A library of its own, loaded when it is asked for:
 * loading OpenBLAS starts threads and costs more time than most verbs take. */
static const lora_backend *main_load_openblas(void)
{
#if defined(LORA_OPENBLAS_FILE)
    const lora_backend *(*table)(void) = NULL;
    void *symbol =
        system_find_symbol(LORA_OPENBLAS_FILE, "lora_openblas_backend");
    memcpy(&table, &symbol, sizeof table);
    return table == NULL ? NULL : table();
#elif defined(LORA_HAVE_OPENBLAS)
    return lora_openblas_backend();
#else
    return NULL;
#endif
}

/* The table for --backend, NULL for the built-in code. `auto` is the built-in
 * code: on the small matrices of today's verbs it is the faster one. */
static int main_pick_backend(app_state *app, const lora_backend **out)
{
    *out = NULL;
    if (app->common.backend != OPT_BACKEND_BLAS) {
        return 0;
    }
    *out = main_load_openblas();
    if (*out == NULL) {
        say_error(app, "--backend",
                  "blas is not in this build, use auto or builtin");
        return EXIT_FAILED;
    }
    return 0;
}

static int main_make_context(app_state *app)
{
    lora_context_options options;
    lora_limits limits;
    lora_error error;
    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    memset(&limits, 0, sizeof limits);
    limits.struct_size = sizeof limits;
    limits.memory_bytes = app->common.memory;
    int code = main_pick_backend(app, &options.backend);
    if (code != 0) {
        return code;
    }
    progress_begin(&app->bar, !app->common.no_progress && !app->common.quiet);
    options.limits = &limits;
    options.cancel = main_cancel;
    options.log = say_log;
    options.log_user = app;
    options.progress = progress_update;
    options.progress_user = &app->bar;
    /* OpenBLAS has threads of its own, which ours would only get in the way. */
    options.max_threads = app->common.threads != 0
                              ? (uint32_t)app->common.threads
                          : options.backend != NULL ? 1
                                                    : system_cpu_count();
    lora_status status = lora_context_create(&app->context, &options, &error);
    if (status != LORA_OK) {
        return say_failure(app, SAY_WORKING, "", status, &error);
    }
    if (app->common.verbose) {
        say_note(app, "using %u thread%s, %s", options.max_threads,
                 options.max_threads == 1 ? "" : "s",
                 options.backend != NULL ? options.backend->name
                                         : "built-in linear algebra");
    }
    return 0;
}

static int main_check_operands(app_state *app, int count)
{
    const app_verb *verb = app->verb;
    if (count < verb->min_operands) {
        return say_usage(app, NULL, "%s missing: lora %s %s",
                         count == 0 ? "operand" : "an operand is", verb->name,
                         verb->operands);
    }
    if (verb->max_operands >= 0 && count > verb->max_operands) {
        return say_usage(app, NULL, "too many operands: lora %s %s", verb->name,
                         verb->operands);
    }
    return 0;
}

static int
main_run_verb(app_state *app, void *settings, int count, char **operands)
{
    uint64_t begun = system_milliseconds();
    char peak[TEXT_NUMBER];
    int code = main_check_operands(app, count);
    if (code != 0) {
        return code;
    }
    app->color = !app->common.no_color && system_can_color(stdout);
    if ((app->verb->flags & VERB_CONTEXT) == 0) {
        return app->verb->run(app, count, operands, settings);
    }
    code = main_make_context(app);
    if (code != 0) {
        return code;
    }
    code = app->verb->run(app, count, operands, settings);
    progress_clear(&app->bar);
    if (app->common.verbose) {
        text_bytes(peak, lora_context_memory_peak(app->context));
        say_note(app, "%llu ms, at most %s of memory",
                 (unsigned long long)(system_milliseconds() - begun), peak);
    }
    lora_context_destroy(app->context);
    return code;
}

static const char *main_verb_name(const void *user, size_t index)
{
    (void)user;
    return app_verbs[index] != NULL ? app_verbs[index]->name : NULL;
}

int app_run(const opt_common *defaults, int argc, char **argv)
{
    app_state app;
    int first = argc;
    memset(&app, 0, sizeof app);
    if (defaults != NULL) {
        app.common = *defaults;
    }
    app.verb = app_find_verb(argv[0]);
    if (app.verb == NULL) {
        char shown[80];
        const char *near = opt_nearest(argv[0], main_verb_name, NULL);
        text_clean(shown, sizeof shown, argv[0]);
        return near != NULL ? say_usage(&app, shown,
                                        "no such verb, did you mean %s?", near)
                            : say_usage(&app, shown, "no such verb");
    }
    void *settings = app_alloc(1, app.verb->settings_bytes);
    int code = opt_parse(&app, settings, argc, argv, &first);
    if (code == 0 && app.common.help) {
        char help[] = "help";
        char *show[] = {help, argv[0], NULL};
        code = app_run(NULL, 2, show);
    } else if (code == 0) {
        code = main_run_verb(&app, settings, argc - first, argv + first);
    }
    opt_release(&app, settings);
    free(settings);
    return code;
}

/* What is still in the buffer must reach its reader. One that has gone away
 * (lora keys FILE | head) is no failure. */
static int main_flush(int code)
{
    errno = 0;
    int failed = fflush(stdout) != 0;
    failed = failed || ferror(stdout);
    if (failed && errno != EPIPE) {
        fprintf(stderr, "lora: standard output: %s\n",
                errno != 0 ? strerror(errno) : "cannot be written");
        return code != 0 ? code : EXIT_FAILED;
    }
    return code;
}

int main(int argc, char **argv)
{
    char help[] = "help";
    char version[] = "version";
    char *fallback[] = {help, NULL};
    if (lora_cancel_token_create(&main_cancel, NULL) != LORA_OK) {
        fputs("lora: out of memory\n", stderr);
        return EXIT_MEMORY;
    }
    system_catch_signals(main_on_signal);
    if (argc < 2) {
        app_run(NULL, 1, fallback);
        return main_flush(EXIT_USAGE);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        argv[1] = help;
    } else if (strcmp(argv[1], "--version") == 0) {
        argv[1] = version;
    }
    int code = app_run(NULL, argc - 1, argv + 1);
    if (app_interrupted()) {
        code = main_signal == SIGINT ? EXIT_INTERRUPTED : 128 + main_signal;
    }
    return main_flush(code);
}
