/* Opening an adapter, and reading small files. */
#ifndef INPUT_H
#define INPUT_H

#include "app.h"

/* Open `path`, with PEFT's configuration from --config if that is given. Fails
 * as lora_adapter_open() does. */
lora_status input_open(app_state *app,
                       lora_adapter **out,
                       const char *path,
                       lora_error *error);

/* The file of an argument FILE[:WEIGHT[:TE_WEIGHT]]; free it. The last one or
 * two fields are weights where they are numbers, so that C:\x is a file; one
 * stands for both. *out_given is 0 if there is none: out is 1 and 1 then. */
char *input_split(lora_strength *out, int *out_given, const char *argument);

/* Read what --select was given: PATTERN=FACTOR, of which the last '=' counts,
 * or a list of block weights, which has none. 0, or an exit code after a
 * message; released in either case. */
int input_read_selections(app_state *app,
                          lora_selection **out,
                          const opt_list *texts);
void input_release_selections(lora_selection *selections, size_t count);

/* Read a whole small file (below 16 MiB), with a zero byte after it; free the
 * text. */
lora_status input_read_text(char **out,
                            size_t *out_bytes,
                            const char *path,
                            lora_error *error);

#endif
