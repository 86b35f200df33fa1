/* The adapters of a command line, in the order given, bound to one model. */
#ifndef BOUND_H
#define BOUND_H

#include "app.h"

typedef struct bound_adapters {
    lora_model *model;
    lora_binding **bindings;
    lora_strength *strengths;
    size_t count;
} bound_adapters;

/* Open a model and bind arguments FILE[:WEIGHT[:TE_WEIGHT]] to it, with
 * `selections` of --select; `strict`: all of each must fit. 0, or an exit code
 * after a message; closed in either case. */
int bound_open(app_state *app,
               bound_adapters *out,
               const char *model,
               char **arguments,
               size_t count,
               const opt_list *selections,
               int strict);
void bound_close(bound_adapters *all);

#endif
