/* The operating system: see system.h. POSIX. */
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* TIOCGWINSZ */

#include "system.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

system_kind system_path_kind(const char *path)
{
    struct stat about;
    if (stat(path, &about) != 0) {
        /* A link that leads nowhere still takes the name. */
        return lstat(path, &about) == 0 ? SYSTEM_OTHER : SYSTEM_NOTHING;
    }
    return S_ISREG(about.st_mode)   ? SYSTEM_FILE
           : S_ISDIR(about.st_mode) ? SYSTEM_FOLDER
                                    : SYSTEM_OTHER;
}

int system_can_write_folder(const char *folder)
{
    return access(folder, W_OK | X_OK) == 0;
}

char *system_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t bytes = slash == NULL   ? 1
                   : slash == path ? 1
                                   : (size_t)(slash - path);
    const char *from = slash == NULL ? "." : path;
    char *folder = malloc(bytes + 1);
    if (folder != NULL) {
        memcpy(folder, from, bytes);
        folder[bytes] = '\0';
    }
    return folder;
}

int system_make_folder(const char *path)
{
    return mkdir(path, 0777) == 0 ? 0 : errno;
}

char *system_make_temporary_folder(const char *stem)
{
    static const char unique[] = "-XXXXXX";
    const char *base = getenv("TMPDIR");
    if (base == NULL || *base == '\0') {
        base = "/tmp";
    }
    size_t bytes = strlen(base) + strlen(stem) + sizeof unique + 1;
    char *path = malloc(bytes);
    if (path == NULL) {
        return NULL;
    }
    snprintf(path, bytes, "%s/%s%s", base, stem, unique);
    if (mkdtemp(path) == NULL) {
        free(path);
        return NULL;
    }
    return path;
}

/* All of a text to the disk. */
static int system_fill_file(int file, const char *text, size_t bytes)
{
    int os_error = 0;
    while (bytes > 0 && os_error == 0) {
        ssize_t written = write(file, text, bytes);
        if (written >= 0) {
            text += written;
            bytes -= (size_t)written;
        } else if (errno != EINTR) {
            os_error = errno;
        }
    }
    if (os_error == 0 && fsync(file) != 0) {
        os_error = errno;
    }
    if (close(file) != 0 && os_error == 0) {
        os_error = errno;
    }
    return os_error;
}

/* Give a file its name. A link fails where the name is taken, in one step;
 * some file systems have none. */
static int system_name_file(const char *from, const char *to, int replace)
{
    if (!replace && link(from, to) == 0) {
        unlink(from);
        return 0;
    }
    if (!replace && system_path_kind(to) != SYSTEM_NOTHING) {
        return EEXIST;
    }
    return rename(from, to) == 0 ? 0 : errno;
}

int system_write_file(const char *path,
                      const char *text,
                      size_t bytes,
                      int replace)
{
    size_t room = strlen(path) + 40;
    char *folder = system_folder_of(path);
    char *name = malloc(room);
    int os_error = ENOMEM;
    if (folder != NULL && name != NULL) {
        snprintf(name, room, "%s/lora-%08lx.tmp", folder, (long)getpid());
        int file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        os_error = file < 0 ? errno : system_fill_file(file, text, bytes);
        if (os_error == 0) {
            os_error = system_name_file(name, path, replace);
        }
        if (file >= 0 && os_error != 0) {
            unlink(name);
        }
    }
    free(folder);
    free(name);
    return os_error;
}

uint32_t system_cpu_count(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > 256 ? 256 : (uint32_t)count;
}

uint64_t system_milliseconds(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        return 0;
    }
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int system_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
        return 80;
    }
    return size.ws_col;
}

int system_can_color(FILE *stream)
{
    const char *no_color = getenv("NO_COLOR");
    const char *terminal = getenv("TERM");
    return isatty(fileno(stream)) && (no_color == NULL || *no_color == '\0') &&
           terminal != NULL && strcmp(terminal, "dumb") != 0;
}

void system_catch_signals(void (*fn)(int number))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = fn;
    action.sa_flags = SA_RESTART | (int)SA_RESETHAND;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    action.sa_flags = 0;
    sigaction(SIGPIPE, &action, NULL);
}

void *system_find_symbol(const char *library, const char *symbol)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    return handle == NULL ? NULL : dlsym(handle, symbol);
}
