/* Files on POSIX systems. */
#ifndef _WIN32

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif

#endif

#include "platform/file.h"

#ifndef _WIN32

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Systems refuse or shorten requests of 2 GiB and more. */
#define FILE_MAX_CALL ((size_t)1 << 30)

static lora__path_type file_type(const struct stat *info)
{
    return S_ISREG(info->st_mode)   ? LORA__PATH_FILE
           : S_ISDIR(info->st_mode) ? LORA__PATH_FOLDER
                                    : LORA__PATH_OTHER;
}

LORA_PRIVATE int32_t lora__file_open(lora__file *out,
                                     lora__path_type *out_type,
                                     uint64_t *out_bytes,
                                     const char *path)
{
    struct stat info;
    int fd;

    out->handle = -1;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno;
    }
    if (fstat(fd, &info) != 0) {
        int32_t os_error = errno;
        close(fd);
        return os_error;
    }
    *out_type = file_type(&info);
    *out_bytes = info.st_size < 0 ? 0 : (uint64_t)info.st_size;
    if (*out_type == LORA__PATH_FOLDER) {
        close(fd);
    } else {
        out->handle = fd;
    }
    return 0;
}

LORA_PRIVATE int32_t lora__file_read_at(lora__file file,
                                        uint64_t offset,
                                        void *buffer,
                                        size_t bytes,
                                        size_t *out_got)
{
    unsigned char *out = buffer;

    *out_got = 0;
    if (offset > INT64_MAX || bytes > INT64_MAX - offset) {
        return EOVERFLOW;
    }
    while (bytes > 0) {
        size_t want = bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL;
        ssize_t got = pread((int)file.handle, out, want, (off_t)offset);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return errno;
        }
        if (got == 0) {
            break;
        }
        out += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
        *out_got += (size_t)got;
    }
    return 0;
}

LORA_PRIVATE int32_t lora__file_map(const void **out_data,
                                    lora__file file,
                                    uint64_t bytes)
{
    void *data;

    if (bytes == 0 || bytes > SIZE_MAX) {
        return EOVERFLOW;
    }
    data =
        mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, (int)file.handle, 0);
    if (data == MAP_FAILED) {
        return errno;
    }
    *out_data = data;
    return 0;
}

LORA_PRIVATE void lora__file_unmap(const void *data, uint64_t bytes)
{
    munmap((void *)(uintptr_t)data, (size_t)bytes);
}

LORA_PRIVATE int32_t lora__file_create(lora__file *out, const char *path)
{
    int fd;

    out->handle = -1;
    do {
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno;
    }
    out->handle = fd;
    return 0;
}

LORA_PRIVATE int32_t lora__file_write(lora__file file,
                                      const void *data,
                                      size_t bytes)
{
    const unsigned char *in = data;

    while (bytes > 0) {
        size_t want = bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL;
        ssize_t done = write((int)file.handle, in, want);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? errno : EIO;
        }
        in += done;
        bytes -= (size_t)done;
    }
    return 0;
}

LORA_PRIVATE int32_t lora__file_open_update(lora__file *out,
                                            uint64_t *out_bytes,
                                            const char *path)
{
    struct stat info;
    int fd;

    out->handle = -1;
    *out_bytes = 0;
    if (lstat(path, &info) != 0) {
        return errno;
    }
    if (!S_ISREG(info.st_mode) || info.st_nlink != 1) {
        return 0;
    }
    do {
        fd =
            open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return errno == ELOOP ? 0 : errno;
    }
    /* Again, as the path may lead to another file by now. */
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_nlink != 1) {
        close(fd);
        return 0;
    }
    *out_bytes = (uint64_t)info.st_size;
    out->handle = fd;
    return 0;
}

LORA_PRIVATE int32_t lora__file_write_at(lora__file file,
                                         uint64_t offset,
                                         const void *data,
                                         size_t bytes)
{
    const unsigned char *in = data;

    if (offset > INT64_MAX || bytes > INT64_MAX - offset) {
        return EOVERFLOW;
    }
    while (bytes > 0) {
        size_t want = bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL;
        ssize_t done = pwrite((int)file.handle, in, want, (off_t)offset);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? errno : EIO;
        }
        in += done;
        offset += (uint64_t)done;
        bytes -= (size_t)done;
    }
    return 0;
}

LORA_PRIVATE int lora__file_lock(lora__file file)
{
    struct flock lock;

    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    return fcntl((int)file.handle, F_SETLK, &lock) == 0 ||
           (errno != EACCES && errno != EAGAIN);
}

LORA_PRIVATE int32_t lora__file_flush(lora__file file)
{
    int result;

    do {
        result = fsync((int)file.handle);
    } while (result != 0 && errno == EINTR);
    /* Some file systems have no such operation: nothing more can be done. */
    return result == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

/* After an interrupted close the descriptor is gone on most systems; closing
 * again could hit a file of another thread. */
LORA_PRIVATE int32_t lora__file_close(lora__file *file)
{
    int fd = (int)file->handle;

    file->handle = -1;
    return fd < 0 || close(fd) == 0 || errno == EINTR ? 0 : errno;
}

LORA_PRIVATE size_t lora__path_folder_bytes(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

LORA_PRIVATE int lora__path_exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}

LORA_PRIVATE int32_t lora__path_type_of(lora__path_type *out, const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0) {
        return errno;
    }
    *out = file_type(&info);
    return 0;
}

LORA_PRIVATE int32_t lora__folder_each(const char *path,
                                       lora__folder_fn each,
                                       void *user)
{
    DIR *dir = opendir(path);
    int32_t os_error;
    int more = 1;

    if (dir == NULL) {
        return errno;
    }
    errno = 0;
    while (more) {
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            break;
        }
        more = strcmp(entry->d_name, ".") == 0 ||
               strcmp(entry->d_name, "..") == 0 || each(user, entry->d_name);
        errno = 0; /* the end is told from a failure by it */
    }
    os_error = errno;
    closedir(dir);
    return os_error;
}

LORA_PRIVATE int32_t lora__folder_make(int *out_made, const char *path)
{
    lora__path_type type = LORA__PATH_OTHER;
    int32_t os_error;

    *out_made = mkdir(path, 0777) == 0;
    os_error = *out_made ? 0 : errno;
    return os_error == EEXIST && lora__path_type_of(&type, path) == 0 &&
                   type == LORA__PATH_FOLDER
               ? 0
               : os_error;
}

LORA_PRIVATE void lora__folder_remove(const char *path)
{
    (void)rmdir(path);
}

/* Best effort: not every system can flush a folder, and the rename is done. */
static void file_flush_folder(const char *path)
{
    char folder[4096];
    size_t bytes = lora__path_folder_bytes(path);
    int fd;

    if (bytes >= sizeof folder) {
        return;
    }
    memcpy(folder, path, bytes);
    folder[bytes] = '\0';
    fd = open(bytes == 0 ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

/* Give `from` the permission bits of the file that it is about to replace. */
static void file_keep_mode(const char *from, const char *to)
{
    struct stat ours;
    struct stat theirs;

    if (lstat(to, &theirs) == 0 && S_ISREG(theirs.st_mode) &&
        lstat(from, &ours) == 0 &&
        (ours.st_mode & 0777) != (theirs.st_mode & 0777)) {
        (void)chmod(from, theirs.st_mode & 0777);
    }
}

/* A hard link fails if the name is taken, in one step; where the file system
 * has none, the check and the rename are two. */
static int32_t file_rename_new(const char *from, const char *to)
{
    if (link(from, to) == 0) {
        (void)unlink(from);
        return 0;
    }
    if (errno == EEXIST || lora__path_exists(to)) {
        return EEXIST;
    }
    return rename(from, to) == 0 ? 0 : errno;
}

LORA_PRIVATE int32_t lora__path_rename(const char *from,
                                       const char *to,
                                       int replace)
{
    int32_t os_error;

    if (replace) {
        file_keep_mode(from, to);
        os_error = rename(from, to) == 0 ? 0 : errno;
    } else {
        os_error = file_rename_new(from, to);
    }
    if (os_error == 0) {
        file_flush_folder(to);
    }
    return os_error;
}

LORA_PRIVATE void lora__path_remove(const char *path)
{
    (void)unlink(path);
}

LORA_PRIVATE int32_t lora__os_exists(void)
{
    return EEXIST;
}

LORA_PRIVATE uint32_t lora__process_id(void)
{
    struct timespec now = {0, 0};
    uint64_t mixed;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    mixed = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    mixed = (mixed ^ (uint64_t)getpid() << 40) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(mixed >> 32);
}

LORA_PRIVATE void lora__os_message(char *out, size_t bytes, int32_t os_error)
{
    static const struct {
        int32_t number;
        const char *text;
    } known[] = {
        {ENOENT, "no such file or folder"},
        {EACCES, "no permission"},
        {EPERM, "not permitted"},
        {EEXIST, "the file exists"},
        {EISDIR, "it is a folder"},
        {ENOTDIR, "a part of the path is not a folder"},
        {ENOSPC, "the disk is full"},
        {EROFS, "the file system is read-only"},
        {EIO, "input/output error"},
        {EFBIG, "too large for the file system"},
        {EMFILE, "this process has too many open files"},
        {ENFILE, "the system has too many open files"},
        {ENAMETOOLONG, "the name is too long"},
        {ELOOP, "too many links"},
        {ENOMEM, "no memory"},
        {EINVAL, "the system refuses it"},
        {EOVERFLOW, "too large for this system"},
#ifdef EDQUOT
        {EDQUOT, "the disk quota is used up"},
#endif
    };

    for (size_t i = 0; i < LORA__COUNT(known); i++) {
        if (known[i].number == os_error) {
            snprintf(out, bytes, "%s", known[i].text);
            return;
        }
    }
    snprintf(out, bytes, "operating system error %d", (int)os_error);
}

#endif
