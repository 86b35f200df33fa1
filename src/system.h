/* What the program asks of the operating system; one file a system. */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum system_kind {
    SYSTEM_NOTHING, /* no such path */
    SYSTEM_FILE,
    SYSTEM_FOLDER,
    SYSTEM_OTHER /* device, socket, ... */
} system_kind;

/* What a path leads to; links are followed. */
system_kind system_path_kind(const char *path);

/* 1 if files may be made in the folder. */
int system_can_write_folder(const char *folder);

/* The folder part of a path, "." if it has none. Free with free(). */
char *system_folder_of(const char *path);

/* Make a folder; 0, or errno. */
int system_make_folder(const char *path);

/* Make a folder with a fresh name where temporary files go; NULL on failure.
 * Free with free(). */
char *system_make_temporary_folder(const char *stem);

/* Write a file under a temporary name beside it and give it its own, so that
 * it is there whole or not at all; without `replace` only where there is none.
 * 0, or errno, with nothing changed. */
int system_write_file(const char *path,
                      const char *text,
                      size_t bytes,
                      int replace);

/* Number of CPUs that work now; at least 1. */
uint32_t system_cpu_count(void);

/* Milliseconds of a clock that never goes back. */
uint64_t system_milliseconds(void);

/* Columns of the terminal on stderr; 80 if unknown. */
int system_columns(void);

/* 1 if the stream is a terminal that understands escape sequences, and the
 * user has not said otherwise (NO_COLOR, TERM=dumb). */
int system_can_color(FILE *stream);

/* Have `fn` called, in a signal handler, when the user interrupts; the next
 * time the program ends at once. A closed pipe becomes a write error. */
void system_catch_signals(void (*fn)(int number));

/* The address of a symbol in a shared library that is loaded on demand, or
 * NULL: an optional part need not slow down each start. */
void *system_find_symbol(const char *library, const char *symbol);

#endif
