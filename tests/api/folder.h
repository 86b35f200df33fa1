/* A folder for the files of one test program; POSIX. Include it first: it
 * says which of the system's names are wanted.
 */
#ifndef TEST_FOLDER_H
#define TEST_FOLDER_H

#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "api/support.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[80];

static inline const char *in_folder(const char *name)
{
    static char paths[32][1024];
    static unsigned turn;
    char *path = paths[turn++ % COUNT(paths)];

    assert_true(folder[0] != '\0'); /* folder_make() was called */
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Files in the folder; with `remove_them` none is left. */
static inline int folder_count(int remove_them)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 &&
            strcmp(entry->d_name, "..") != 0) {
            count++;
            if (remove_them) {
                assert_int_equal(remove(in_folder(entry->d_name)), 0);
            }
        }
    }
    closedir(dir);
    return count;
}

static inline int folder_make(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof folder, "%.50s/lora-api-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    return mkdtemp(folder) == NULL;
}

static inline int folder_clear(void **state)
{
    (void)state;
    folder_count(1);
    return 0;
}

static inline int folder_remove(void **state)
{
    folder_clear(state);
    return rmdir(folder);
}

static inline void folder_put(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(in_folder(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* The file holds just these bytes. */
static inline void
folder_check(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(in_folder(name), "rb");
    unsigned char *read = malloc(bytes + 1);

    assert_non_null(file);
    assert_non_null(read);
    assert_int_equal(fread(read, 1, bytes + 1, file), bytes);
    assert_memory_equal(read, data, bytes);
    free(read);
    fclose(file);
}

#endif
