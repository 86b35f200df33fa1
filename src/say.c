/* Messages: see say.h. */
#include "say.h"

#include "text.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SAY_LINE 1024

/* "lora VERB: subject: message" with everything cleaned, written at once so
 * that lines of several threads do not mix. */
static void say_line(app_state *app, const char *subject, const char *message)
{
    char shown[SAY_LINE];
    char clean[SAY_LINE];
    char line[3 * SAY_LINE];
    const char *name = app->verb != NULL ? app->verb->name : "";
    text_clean(clean, sizeof clean, message);
    text_clean(shown, sizeof shown, subject != NULL ? subject : "");
    snprintf(line, sizeof line, "lora%s%s: %s%s%s\n", *name != 0 ? " " : "",
             name, shown, *shown != '\0' ? ": " : "", clean);
    fflush(stdout);
    progress_clear(&app->bar);
    fputs(line, stderr);
}

void say_error(app_state *app, const char *subject, const char *format, ...)
{
    char message[SAY_LINE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    say_line(app, subject, message);
}

void say_note(app_state *app, const char *format, ...)
{
    char message[SAY_LINE];
    char clean[SAY_LINE];
    va_list arguments;
    if (app->common.quiet) {
        return;
    }
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    text_clean(clean, sizeof clean, message);
    fflush(stdout);
    progress_clear(&app->bar);
    fprintf(stderr, "%s\n", clean);
}

int say_usage(app_state *app, const char *subject, const char *format, ...)
{
    char message[SAY_LINE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    size_t used = strlen(message);
    snprintf(message + used, sizeof message - used, " (see lora help%s%s)",
             app->verb != NULL ? " " : "",
             app->verb != NULL ? app->verb->name : "");
    say_line(app, subject, message);
    return EXIT_USAGE;
}

int say_exit_code(say_phase phase, lora_status status)
{
    switch (status) {
    case LORA_OK:
        return EXIT_DONE;
    case LORA_ERROR_ARGUMENT:
    case LORA_ERROR_OPTION:
    case LORA_ERROR_RANGE:
        return EXIT_USAGE;
    case LORA_ERROR_IO:
    case LORA_ERROR_LIMIT:
    case LORA_ERROR_FORMAT:
    case LORA_ERROR_DUPLICATE:
        return phase == SAY_WRITING ? EXIT_FAILED : EXIT_INPUT;
    case LORA_ERROR_TRUNCATED: /* always an input, also while saving */
        return EXIT_INPUT;
    case LORA_ERROR_UNSUPPORTED: /* of a container; or of an operation */
        return phase == SAY_READING ? EXIT_INPUT : EXIT_FAILED;
    case LORA_ERROR_DTYPE:
    case LORA_ERROR_SHAPE:
    case LORA_ERROR_KEY:
    case LORA_ERROR_NONFINITE:
        return EXIT_MISMATCH;
    case LORA_ERROR_MEMORY:
        return EXIT_MEMORY;
    case LORA_ERROR_CANCELLED:
        return EXIT_INTERRUPTED;
    default:
        return EXIT_FAILED;
    }
}

int say_is_about(const lora_error *error, const char *file)
{
    /* Of a long path only the tail is kept. */
    size_t subject_bytes = strlen(error->subject);
    size_t file_bytes = strlen(file);
    if (subject_bytes + 8 < sizeof error->subject) {
        return strcmp(error->subject, file) == 0;
    }
    return subject_bytes <= file_bytes &&
           strcmp(file + file_bytes - subject_bytes, error->subject) == 0;
}

/* What to do, where the message cannot know it. */
static const char *
say_hint(const app_state *app, int code, const lora_error *error)
{
    if (code == EXIT_MEMORY && app->common.memory != 0) {
        return ", raise --memory";
    }
    if (error->status == LORA_ERROR_IO && error->os_error == EEXIST) {
        return ", use --force to replace it";
    }
    if (error->status == LORA_ERROR_INTERNAL) {
        return ", please report it";
    }
    return "";
}

int say_failure(app_state *app,
                say_phase phase,
                const char *file,
                lora_status status,
                const lora_error *error)
{
    char where[400] = "";
    int about_file = say_is_about(error, file);
    int code = say_exit_code(phase, status);
    if (status == LORA_ERROR_CANCELLED) {
        say_error(app, file, "interrupted, nothing was written");
        return code;
    }
    int has_offset = error->offset != LORA_NO_OFFSET;
    if (!about_file && *error->subject != '\0') {
        snprintf(where, sizeof where, " (%s", error->subject);
    }
    if (has_offset) {
        size_t used = strlen(where);
        snprintf(where + used, sizeof where - used, "%soffset %llu",
                 used != 0 ? ", " : " (", (unsigned long long)error->offset);
    }
    say_error(app, file, "%s%s%s%s",
              *error->message != '\0' ? error->message
                                      : lora_status_name(status),
              where, *where != '\0' ? ")" : "", say_hint(app, code, error));
    return code;
}

int say_worse(int one, int other)
{
    return one > other ? one : other;
}

void say_log(void *user, lora_log_level level, const char *line)
{
    static const char *const names[] = {"", "error", "warning", "info",
                                        "debug"};
    app_state *app = user;
    char clean[SAY_LINE];
    lora_log_level most = LORA_LOG_WARNING;
    if (app->common.log_level != 0) {
        most = app->common.log_level - OPT_LOG_NONE;
    } else if (app->common.quiet) {
        most = LORA_LOG_ERROR;
    } else if (app->common.verbose) {
        most = LORA_LOG_INFO;
    }
    if (level > most || level < LORA_LOG_ERROR || level > LORA_LOG_DEBUG) {
        return;
    }
    text_clean(clean, sizeof clean, line);
    fprintf(stderr, "%s: %s\n", names[level], clean);
}
