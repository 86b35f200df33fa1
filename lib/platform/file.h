/* Files by UTF-8 path: file_posix.c and file_win32.c. Nothing here
 * allocates. Functions return 0 or the operating system's error number. Large
 * requests and interrupted calls are repeated until all is done.
 */
#ifndef LORA__PLATFORM_FILE_H
#define LORA__PLATFORM_FILE_H

#include "platform/compiler.h"

typedef struct lora__file {
    intptr_t handle; /* -1: closed */
} lora__file;

typedef enum lora__path_type {
    LORA__PATH_FILE = 0,
    LORA__PATH_FOLDER,
    LORA__PATH_OTHER
} lora__path_type;

/* Open for reading; *out_type and *out_bytes tell what it is. A folder opens
 * with its type set and the file closed. Opening a pipe does not wait. */
LORA_PRIVATE int32_t lora__file_open(lora__file *out,
                                     lora__path_type *out_type,
                                     uint64_t *out_bytes,
                                     const char *path);

/* Read by offset, to the end of the request or of the file. */
LORA_PRIVATE int32_t lora__file_read_at(lora__file file,
                                        uint64_t offset,
                                        void *buffer,
                                        size_t bytes,
                                        size_t *out_got);

/* Map the whole file (bytes > 0) read-only. */
LORA_PRIVATE int32_t lora__file_map(const void **out_data,
                                    lora__file file,
                                    uint64_t bytes);
LORA_PRIVATE void lora__file_unmap(const void *data, uint64_t bytes);

/* Create a new file, which must not exist (else lora__os_exists()), for
 * writing; mode 0666. */
LORA_PRIVATE int32_t lora__file_create(lora__file *out, const char *path);
LORA_PRIVATE int32_t lora__file_write(lora__file file,
                                      const void *data,
                                      size_t bytes);

/* Open an existing file for reading and for writing within it. A path that is
 * a link, or one of several names of a file, or no file, is left closed: what
 * is written could be seen elsewhere. */
LORA_PRIVATE int32_t lora__file_open_update(lora__file *out,
                                            uint64_t *out_bytes,
                                            const char *path);
LORA_PRIVATE int32_t lora__file_write_at(lora__file file,
                                         uint64_t offset,
                                         const void *data,
                                         size_t bytes);

/* Keep other processes from locking the file until it is closed; 0 if one has
 * it. Everybody gets a file whose file system knows no locks, and a process is
 * not kept out by its own. */
LORA_PRIVATE int lora__file_lock(lora__file file);

/* Bytes to the disk. */
LORA_PRIVATE int32_t lora__file_flush(lora__file file);

/* A closed file may be closed again. */
LORA_PRIVATE int32_t lora__file_close(lora__file *file);

/* Length of the folder part of a path, with its separator; 0 if it has none. */
LORA_PRIVATE size_t lora__path_folder_bytes(const char *path);

/* 1 if something is there, be it a link that leads nowhere. */
LORA_PRIVATE int lora__path_exists(const char *path);

/* What a path leads to, through links; an error if nothing is there. */
LORA_PRIVATE int32_t lora__path_type_of(lora__path_type *out, const char *path);

/* Call `each` with the name of everything in a folder but "." and "..", in no
 * order, until it returns 0. */
typedef int (*lora__folder_fn)(void *user, const char *name);
LORA_PRIVATE int32_t lora__folder_each(const char *path,
                                       lora__folder_fn each,
                                       void *user);

/* Make a folder, mode 0777; *out_made is 0 if there was one. */
LORA_PRIVATE int32_t lora__folder_make(int *out_made, const char *path);

/* Remove a folder if it is empty. */
LORA_PRIVATE void lora__folder_remove(const char *path);

/* Rename over `to` (replace 1), or only if `to` is free (replace 0: the
 * error for an existing target is lora__os_exists()). A link at `to` is
 * replaced, not followed. The folder is flushed too, as far as the file system
 * knows how. A replaced file's permission bits are kept where the file system
 * has any; on Windows access comes from the folder. */
LORA_PRIVATE int32_t lora__path_rename(const char *from,
                                       const char *to,
                                       int replace);
LORA_PRIVATE void lora__path_remove(const char *path);

/* EEXIST, or what the platform calls it. */
LORA_PRIVATE int32_t lora__os_exists(void);

/* A number that differs between processes and calls, for temporary names. */
LORA_PRIVATE uint32_t lora__process_id(void);

/* English text for an error number, into `out`. The system's own words would
 * depend on the locale. */
LORA_PRIVATE void lora__os_message(char *out, size_t bytes, int32_t os_error);

#endif
