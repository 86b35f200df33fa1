/* Messages on stderr, and the exit code that a failure means.
 *
 * The form is "lora VERB: subject: what, where, what to do", one line. What
 * comes from files is cleaned of control characters on the way.
 */
#ifndef SAY_H
#define SAY_H

#include "app.h"

/* What the program was doing when the library failed: the same status means
 * another exit code while reading than while writing. */
typedef enum say_phase { SAY_READING, SAY_WORKING, SAY_WRITING } say_phase;

/* An error: subject may be NULL. */
void say_error(app_state *app, const char *subject, const char *format, ...)
    APP_PRINTF(3, 4);

/* A remark that --quiet takes away. */
void say_note(app_state *app, const char *format, ...) APP_PRINTF(2, 3);

/* A mistake in the command line, with the way to the help. EXIT_USAGE. */
int say_usage(app_state *app, const char *subject, const char *format, ...)
    APP_PRINTF(3, 4);

/* A failure of the library, about a file. Returns the exit code. */
int say_failure(app_state *app,
                say_phase phase,
                const char *file,
                lora_status status,
                const lora_error *error);

/* 1 if the subject of an error is the file itself. */
int say_is_about(const lora_error *error, const char *file);

/* The exit code alone. */
int say_exit_code(say_phase phase, lora_status status);

/* The worse of two exit codes. */
int say_worse(int one, int other);

/* The library's log callback; user is the app. */
void say_log(void *user, lora_log_level level, const char *line);

#endif
