/* Files on Windows. Paths are UTF-8 and become UTF-16 here. Paths over 260
 * characters need a host whose manifest says longPathAware. A file that is
 * open for reading here can be renamed or deleted by others, as on POSIX,
 * unless it is mapped.
 */
#include "platform/file.h"

#ifdef _WIN32

#include <stdio.h>
#include <string.h>
#include <wchar.h>
#include <windows.h>

#define FILE_MAX_CALL ((size_t)1 << 30)
#define FILE_MAX_PATH 4096

typedef struct file_wide_path {
    wchar_t text[FILE_MAX_PATH];
} file_wide_path;

static int32_t file_last_error(void)
{
    DWORD os_error = GetLastError();

    if (os_error == ERROR_FILE_EXISTS) {
        os_error = ERROR_ALREADY_EXISTS;
    }
    return os_error == 0 ? ERROR_GEN_FAILURE : (int32_t)os_error;
}

static int32_t file_widen(file_wide_path *out, const char *path)
{
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1,
                               out->text, FILE_MAX_PATH) > 0
               ? 0
               : file_last_error();
}

static HANDLE file_handle(lora__file file)
{
    return (HANDLE)file.handle;
}

static lora__path_type file_type(DWORD attributes)
{
    return attributes & FILE_ATTRIBUTE_DIRECTORY ? LORA__PATH_FOLDER
           : attributes & FILE_ATTRIBUTE_DEVICE  ? LORA__PATH_OTHER
                                                 : LORA__PATH_FILE;
}

LORA_PRIVATE int32_t lora__file_open(lora__file *out,
                                     lora__path_type *out_type,
                                     uint64_t *out_bytes,
                                     const char *path)
{
    file_wide_path wide;
    LARGE_INTEGER size;
    DWORD attributes;
    HANDLE handle;
    int32_t os_error = file_widen(&wide, path);

    out->handle = -1;
    if (os_error != 0) {
        return os_error;
    }
    attributes = GetFileAttributesW(wide.text);
    if (attributes != INVALID_FILE_ATTRIBUTES &&
        file_type(attributes) == LORA__PATH_FOLDER) {
        *out_type = LORA__PATH_FOLDER;
        *out_bytes = 0;
        return 0;
    }
    handle = CreateFileW(wide.text, GENERIC_READ,
                         FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                         NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        return file_last_error();
    }
    out->handle = (intptr_t)handle;
    *out_bytes = 0;
    *out_type = LORA__PATH_OTHER;
    if (GetFileType(handle) == FILE_TYPE_DISK) {
        *out_type = LORA__PATH_FILE;
        if (!GetFileSizeEx(handle, &size)) {
            os_error = file_last_error();
            lora__file_close(out);
            return os_error;
        }
        *out_bytes = (uint64_t)size.QuadPart;
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
    while (bytes > 0) {
        DWORD want = (DWORD)(bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL);
        DWORD got = 0;
        OVERLAPPED at = {0};

        at.Offset = (DWORD)(offset & 0xFFFFFFFFu);
        at.OffsetHigh = (DWORD)(offset >> 32);
        if (!ReadFile(file_handle(file), out, want, &got, &at)) {
            int32_t os_error = file_last_error();
            return os_error == ERROR_HANDLE_EOF ? 0 : os_error;
        }
        if (got == 0) {
            break;
        }
        out += got;
        offset += got;
        bytes -= got;
        *out_got += got;
    }
    return 0;
}

/* The view keeps the mapping alive after its handle is closed. */
LORA_PRIVATE int32_t lora__file_map(const void **out_data,
                                    lora__file file,
                                    uint64_t bytes)
{
    HANDLE mapping;
    const void *data;
    int32_t os_error = 0;

    if (bytes == 0 || bytes > SIZE_MAX) {
        return ERROR_FILE_INVALID;
    }
    mapping =
        CreateFileMappingW(file_handle(file), NULL, PAGE_READONLY, 0, 0, NULL);
    if (mapping == NULL) {
        return file_last_error();
    }
    data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, (size_t)bytes);
    if (data == NULL) {
        os_error = file_last_error();
    } else {
        *out_data = data;
    }
    CloseHandle(mapping);
    return os_error;
}

LORA_PRIVATE void lora__file_unmap(const void *data, uint64_t bytes)
{
    (void)bytes;
    UnmapViewOfFile(data);
}

LORA_PRIVATE int32_t lora__file_create(lora__file *out, const char *path)
{
    file_wide_path wide;
    HANDLE handle;
    int32_t os_error = file_widen(&wide, path);

    out->handle = -1;
    if (os_error != 0) {
        return os_error;
    }
    handle = CreateFileW(wide.text, GENERIC_WRITE, 0, NULL, CREATE_NEW,
                         FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        return file_last_error();
    }
    out->handle = (intptr_t)handle;
    return 0;
}

LORA_PRIVATE int32_t lora__file_write(lora__file file,
                                      const void *data,
                                      size_t bytes)
{
    const unsigned char *in = data;

    while (bytes > 0) {
        DWORD want = (DWORD)(bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL);
        DWORD done = 0;

        if (!WriteFile(file_handle(file), in, want, &done, NULL)) {
            return file_last_error();
        }
        if (done == 0) {
            return ERROR_WRITE_FAULT;
        }
        in += done;
        bytes -= done;
    }
    return 0;
}

LORA_PRIVATE int32_t lora__file_open_update(lora__file *out,
                                            uint64_t *out_bytes,
                                            const char *path)
{
    file_wide_path wide;
    BY_HANDLE_FILE_INFORMATION info;
    HANDLE handle;
    int32_t os_error = file_widen(&wide, path);

    out->handle = -1;
    *out_bytes = 0;
    if (os_error != 0) {
        return os_error;
    }
    handle =
        CreateFileW(wide.text, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ,
                    NULL, OPEN_EXISTING,
                    FILE_ATTRIBUTE_NORMAL | FILE_FLAG_OPEN_REPARSE_POINT, NULL);
    if (handle == INVALID_HANDLE_VALUE) {
        return file_last_error();
    }
    if (GetFileType(handle) != FILE_TYPE_DISK ||
        !GetFileInformationByHandle(handle, &info) ||
        (info.dwFileAttributes &
         (FILE_ATTRIBUTE_REPARSE_POINT | FILE_ATTRIBUTE_DIRECTORY)) != 0 ||
        info.nNumberOfLinks != 1) {
        CloseHandle(handle);
        return 0;
    }
    *out_bytes = (uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow;
    out->handle = (intptr_t)handle;
    return 0;
}

LORA_PRIVATE int32_t lora__file_write_at(lora__file file,
                                         uint64_t offset,
                                         const void *data,
                                         size_t bytes)
{
    const unsigned char *in = data;

    while (bytes > 0) {
        DWORD want = (DWORD)(bytes < FILE_MAX_CALL ? bytes : FILE_MAX_CALL);
        DWORD done = 0;
        OVERLAPPED at = {0};

        at.Offset = (DWORD)(offset & 0xFFFFFFFFu);
        at.OffsetHigh = (DWORD)(offset >> 32);
        if (!WriteFile(file_handle(file), in, want, &done, &at)) {
            return file_last_error();
        }
        if (done == 0) {
            return ERROR_WRITE_FAULT;
        }
        in += done;
        offset += done;
        bytes -= done;
    }
    return 0;
}

/* Files open for writing are locked: nobody else may open them so. */
LORA_PRIVATE int lora__file_lock(lora__file file)
{
    (void)file;
    return 1;
}

LORA_PRIVATE int32_t lora__file_flush(lora__file file)
{
    return FlushFileBuffers(file_handle(file)) ? 0 : file_last_error();
}

LORA_PRIVATE int32_t lora__file_close(lora__file *file)
{
    HANDLE handle = file_handle(*file);

    file->handle = -1;
    return handle == INVALID_HANDLE_VALUE || CloseHandle(handle)
               ? 0
               : file_last_error();
}

LORA_PRIVATE size_t lora__path_folder_bytes(const char *path)
{
    size_t bytes = 0;

    for (size_t i = 0; path[i] != '\0'; i++) {
        if (path[i] == '/' || path[i] == '\\' || path[i] == ':') {
            bytes = i + 1;
        }
    }
    return bytes;
}

LORA_PRIVATE int lora__path_exists(const char *path)
{
    file_wide_path wide;

    return file_widen(&wide, path) == 0 &&
           GetFileAttributesW(wide.text) != INVALID_FILE_ATTRIBUTES;
}

LORA_PRIVATE int32_t lora__path_type_of(lora__path_type *out, const char *path)
{
    file_wide_path wide;
    DWORD attributes;
    int32_t os_error = file_widen(&wide, path);

    if (os_error != 0) {
        return os_error;
    }
    attributes = GetFileAttributesW(wide.text);
    if (attributes == INVALID_FILE_ATTRIBUTES) {
        return file_last_error();
    }
    *out = file_type(attributes);
    return 0;
}

/* The path with "*" behind it, which is what stands for all that is in it. */
static int32_t file_widen_all(file_wide_path *out, const char *path)
{
    int32_t os_error = file_widen(out, path);
    size_t length;

    if (os_error != 0) {
        return os_error;
    }
    length = wcslen(out->text);
    if (length + 3 > FILE_MAX_PATH) {
        return ERROR_INSUFFICIENT_BUFFER;
    }
    if (length > 0 && wcschr(L"/\\:", out->text[length - 1]) == NULL) {
        out->text[length++] = L'\\';
    }
    out->text[length] = L'*';
    out->text[length + 1] = L'\0';
    return 0;
}

LORA_PRIVATE int32_t lora__folder_each(const char *path,
                                       lora__folder_fn each,
                                       void *user)
{
    file_wide_path wide;
    WIN32_FIND_DATAW found;
    HANDLE search;
    int32_t os_error = file_widen_all(&wide, path);
    int more = 1;

    if (os_error != 0) {
        return os_error;
    }
    search = FindFirstFileW(wide.text, &found);
    if (search == INVALID_HANDLE_VALUE) {
        return file_last_error();
    }
    do {
        char
            name[3 * MAX_PATH]; /* UTF-8 takes three bytes for a unit at most */
        if (WideCharToMultiByte(CP_UTF8, WC_ERR_INVALID_CHARS, found.cFileName,
                                -1, name, sizeof name, NULL, NULL) > 0 &&
            strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            more = each(user, name);
        }
    } while (more && FindNextFileW(search, &found));
    if (more && GetLastError() != ERROR_NO_MORE_FILES) {
        os_error = file_last_error();
    }
    FindClose(search);
    return os_error;
}

LORA_PRIVATE int32_t lora__folder_make(int *out_made, const char *path)
{
    lora__path_type type = LORA__PATH_OTHER;
    file_wide_path wide;
    int32_t os_error = file_widen(&wide, path);

    *out_made = 0;
    if (os_error != 0) {
        return os_error;
    }
    *out_made = CreateDirectoryW(wide.text, NULL) != 0;
    os_error = *out_made ? 0 : file_last_error();
    return os_error == ERROR_ALREADY_EXISTS &&
                   lora__path_type_of(&type, path) == 0 &&
                   type == LORA__PATH_FOLDER
               ? 0
               : os_error;
}

LORA_PRIVATE void lora__folder_remove(const char *path)
{
    file_wide_path wide;

    if (file_widen(&wide, path) == 0) {
        RemoveDirectoryW(wide.text);
    }
}

/* WRITE_THROUGH returns when the rename is on the disk. */
LORA_PRIVATE int32_t lora__path_rename(const char *from,
                                       const char *to,
                                       int replace)
{
    file_wide_path wide_from;
    file_wide_path wide_to;
    DWORD flags =
        MOVEFILE_WRITE_THROUGH | (replace ? MOVEFILE_REPLACE_EXISTING : 0);
    int32_t os_error = file_widen(&wide_from, from);

    if (os_error == 0) {
        os_error = file_widen(&wide_to, to);
    }
    if (os_error == 0 && !MoveFileExW(wide_from.text, wide_to.text, flags)) {
        os_error = file_last_error();
    }
    return os_error;
}

LORA_PRIVATE void lora__path_remove(const char *path)
{
    file_wide_path wide;

    if (file_widen(&wide, path) == 0) {
        DeleteFileW(wide.text);
    }
}

LORA_PRIVATE int32_t lora__os_exists(void)
{
    return ERROR_ALREADY_EXISTS;
}

LORA_PRIVATE uint32_t lora__process_id(void)
{
    LARGE_INTEGER ticks = {0};
    uint64_t mixed;

    QueryPerformanceCounter(&ticks);
    mixed = (uint64_t)ticks.QuadPart ^ (uint64_t)GetTickCount64() << 20;
    mixed ^= (uint64_t)GetCurrentProcessId() << 40;
    return (uint32_t)((mixed * 0x9E3779B97F4A7C15u) >> 32);
}

LORA_PRIVATE void lora__os_message(char *out, size_t bytes, int32_t os_error)
{
    static const struct {
        int32_t number;
        const char *text;
    } known[] = {
        {ERROR_FILE_NOT_FOUND, "no such file"},
        {ERROR_PATH_NOT_FOUND, "no such folder"},
        {ERROR_ACCESS_DENIED, "no permission"},
        {ERROR_ALREADY_EXISTS, "the file exists"},
        {ERROR_SHARING_VIOLATION, "another program uses the file"},
        {ERROR_USER_MAPPED_FILE, "the file is mapped by a program"},
        {ERROR_DISK_FULL, "the disk is full"},
        {ERROR_HANDLE_DISK_FULL, "the disk is full"},
        {ERROR_WRITE_PROTECT, "the disk is write-protected"},
        {ERROR_INVALID_NAME, "not a valid file name"},
        {ERROR_FILENAME_EXCED_RANGE, "the name is too long"},
        {ERROR_INSUFFICIENT_BUFFER, "the path is too long"},
        {ERROR_NO_UNICODE_TRANSLATION, "the path is not UTF-8"},
        {ERROR_TOO_MANY_OPEN_FILES, "too many open files"},
        {ERROR_NOT_ENOUGH_MEMORY, "no memory"},
    };

    for (size_t i = 0; i < LORA__COUNT(known); i++) {
        if (known[i].number == os_error) {
            snprintf(out, bytes, "%s", known[i].text);
            return;
        }
    }
    snprintf(out, bytes, "Windows error %d", (int)os_error);
}

#endif
