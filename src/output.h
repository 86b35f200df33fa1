/* Writing a result: the checks before the work and the save after it. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "app.h"

/* Refuse an output that cannot be written, before any work is done. 0, or an
 * exit code after a message. Without --output only --dry-run passes. */
int output_check(app_state *app);

/* The same for results that can be a folder too: one that is there, or a path
 * that ends with a separator. */
int output_check_adapter(app_state *app);

/* The same for text, which "-" sends to standard output. */
int output_check_text(app_state *app);

/* Apply --metadata and --no-metadata to a result. *adapter may be replaced by
 * another, the first destroyed. */
int output_edit_metadata(app_state *app, lora_adapter **adapter);

/* Save, unless --dry-run, to a file or as a PEFT folder, and tell how many
 * bytes the tensors' file has. `input` is the file the result came from. */
int output_save(app_state *app,
                const lora_adapter *adapter,
                const char *input,
                uint64_t *out_bytes);

/* Write text, whole or not at all, unless --dry-run, and say so. 0, or an exit
 * code after a message. */
int output_save_text(app_state *app, const char *text, size_t bytes);

/* A failure while a file is read and another written at the same time: find
 * out which of them it was, as the exit codes differ. */
int output_say_failure(app_state *app,
                       const char *input,
                       lora_status status,
                       const lora_error *error);

/* The line that says what was, or would have been, written. */
void output_say_written(app_state *app, uint64_t bytes);

/* LORA_DTYPE_* of --dtype. */
lora_dtype output_dtype(const app_state *app);

#endif
