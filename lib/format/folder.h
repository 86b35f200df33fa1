/* Files by their place: beside each other, in a folder, read as a whole. */
#ifndef LORA__FORMAT_FOLDER_H
#define LORA__FORMAT_FOLDER_H

#include "core/arena.h"

/* Names of a folder that are kept, to be shown or opened, and the room for one:
 * the longest name of any system, in UTF-8. */
#define LORA__FOLDER_KEPT 4
#define LORA__FOLDER_NAME 768

typedef struct lora__folder_names {
    size_t count; /* of all that are wanted, or `enough` */
    char first[LORA__FOLDER_KEPT][LORA__FOLDER_NAME]; /* in order of bytes */
} lora__folder_names;

/* Put FOLDER/NAME into the arena; an empty folder is the current one. */
LORA_PRIVATE lora_status lora__folder_join(const char **out,
                                           lora__arena *arena,
                                           const char *folder,
                                           size_t folder_bytes,
                                           const char *name,
                                           lora_error *error);

/* The same for a name beside a file. */
LORA_PRIVATE lora_status lora__folder_beside(const char **out,
                                             lora__arena *arena,
                                             const char *path,
                                             const char *name,
                                             lora_error *error);

/* 1 if the path leads to a file. */
LORA_PRIVATE int lora__folder_has_file(const char *path);

/* Find the files of a folder whose name `wanted` says 1 to; hidden ones are
 * passed over. Stops when there are `enough`. */
LORA_PRIVATE lora_status lora__folder_find(lora__folder_names *out,
                                           lora_context *context,
                                           const char *folder,
                                           int (*wanted)(const char *name),
                                           size_t enough,
                                           lora_error *error);

/* Put the path of the one file that is wanted into the arena; NULL if there is
 * none. DUPLICATE, with the names, if there are several. */
LORA_PRIVATE lora_status lora__folder_only(const char **out,
                                           lora__arena *arena,
                                           const char *folder,
                                           int (*wanted)(const char *name),
                                           lora_error *error);

/* The failure of a folder in which several files may be meant. */
LORA_PRIVATE lora_status lora__folder_refuse(const char *folder,
                                             const lora__folder_names *names,
                                             lora_error *error);

/* Read a file into the arena, with a NUL after it. Of a file of more than
 * `most` bytes the rest is left out if `cut` is 1, else it is refused. */
LORA_PRIVATE lora_status lora__folder_load(char **out,
                                           size_t *out_bytes,
                                           lora__arena *arena,
                                           const char *path,
                                           uint64_t most,
                                           int cut,
                                           lora_error *error);

#endif
