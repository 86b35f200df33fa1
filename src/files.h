/* Verbs that take several files. */
#ifndef FILES_H
#define FILES_H

#include "app.h"

/* Look at one file and print the result; prints nothing when it fails. May
 * set *code where the result itself is bad news. */
typedef lora_status (*files_fn)(app_state *app,
                                const char *path,
                                const void *settings,
                                int *code,
                                lora_error *error);

/* Call `fn` for each file. A file that fails does not stop the others; the
 * worst exit code is returned. `between` stands between two results. With
 * --json: an object for one file, an array for several, in which a failed
 * file is {"file","error"}. */
int files_each(app_state *app,
               int count,
               char **paths,
               files_fn fn,
               const void *settings,
               const char *between);

#endif
