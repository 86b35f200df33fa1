/* The pictures of `lora plot`, one file each. */
#ifndef PLOT_H
#define PLOT_H

#include "svg.h"

enum { PLOT_WIDTH = 900 };

/* Draw a whole picture of the operands. 0, or an exit code after a message,
 * `out` empty then; the caller releases it either way. */
typedef int (*plot_fn)(app_state *app, svg *out, int count, char **operands);

int plot_spectrum(app_state *app, svg *out, int count, char **paths);

#endif
