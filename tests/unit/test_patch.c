/* Writing within a file: what is written, what refuses, and what is put back
 * when the disk is full (a real limit on file sizes stands for it).
 */
#ifdef _WIN32

/* The links and limits used here are those of POSIX. */
int main(void)
{
    return 77;
}

#else

#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "containers.h"
#include "platform/file.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[96];
static char other[96];

static void put_file(const char *text)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void check_file(const char *text)
{
    char read[64];
    FILE *file = fopen(path, "rb");
    size_t n;

    assert_non_null(file);
    n = fread(read, 1, sizeof read, file);
    fclose(file);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(read, text, n);
}

/* The names are free again after each test. */
static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return 0;
}

static int make_folder(void **state)
{
    const char *parent = getenv("TMPDIR");
    char folder[64];

    (void)state;
    snprintf(folder, sizeof folder, "%.40s/lora-patch-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    return 0;
}

static int remove_folder(void **state)
{
    remove_files(state);
    *strrchr(path, '/') = '\0';
    return rmdir(path);
}

static lora_status patch(int *out_done, const char *before, const char *after)
{
    return lora__patch_file(out_done, path, 10, before, after, strlen(before),
                            0, NULL);
}

static void test_write(void **state)
{
    struct stat info;
    struct stat again;
    int done;

    (void)state;
    put_file("0123456789");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(patch(&done, "01234", "0ab34"), LORA_OK);
    assert_true(done);
    check_file("0ab3456789");
    assert_int_equal(stat(path, &again), 0);
    assert_true(info.st_ino == again.st_ino);
    assert_int_equal(again.st_nlink, 1);
    /* Nothing differs, and a trial. */
    assert_int_equal(patch(&done, "0ab34", "0ab34"), LORA_OK);
    assert_true(done);
    assert_int_equal(
        lora__patch_file(&done, path, 10, "0ab34", "xxxxx", 5, 1, NULL),
        LORA_OK);
    assert_true(done);
    check_file("0ab3456789");
}

/* Larger than what is compared at once. */
static void test_large(void **state)
{
    enum { BYTES = 10000 };
    char *before = malloc(BYTES + 1);
    char *after = malloc(BYTES + 1);
    char *read = malloc(BYTES);
    FILE *file;
    int done;

    (void)state;
    assert_non_null(before);
    assert_non_null(after);
    assert_non_null(read);
    memset(before, 'a', BYTES);
    memset(after, 'a', BYTES);
    before[BYTES] = '\0';
    after[5000] = 'b';
    after[BYTES - 1] = 'c';
    put_file(before);
    before[9999] = 'x'; /* not what is there */
    assert_int_equal(
        lora__patch_file(&done, path, BYTES, before, after, BYTES, 0, NULL),
        LORA_ERROR_IO);
    assert_false(done);
    before[9999] = 'a';
    assert_int_equal(
        lora__patch_file(&done, path, BYTES, before, after, BYTES, 0, NULL),
        LORA_OK);
    assert_true(done);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(read, 1, BYTES, file), BYTES);
    fclose(file);
    assert_memory_equal(read, after, BYTES);
    free(before);
    free(after);
    free(read);
}

static void test_refused(void **state)
{
    lora_error error;
    int done = 1;

    (void)state;
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__patch_file(&done, path, 10, "a", "b", 1, 0, &error),
                     LORA_ERROR_IO);
    assert_int_equal(error.os_error, ENOENT);
    assert_false(done);
    put_file("0123456789");
    assert_int_equal(patch(&done, "01x34", "abcde"), LORA_ERROR_IO);
    assert_int_equal(
        lora__patch_file(&done, path, 11, "01234", "abcde", 5, 0, NULL),
        LORA_ERROR_IO);
    assert_int_equal(patch(&done, "0123456789+", "abcdefghij+"), LORA_ERROR_IO);
    assert_false(done);
    check_file("0123456789");
}

/* What has other names, or is one, is left to a whole new file. */
static void test_links(void **state)
{
    int done = 1;

    (void)state;
    put_file("0123456789");
    assert_int_equal(link(path, other), 0);
    assert_int_equal(patch(&done, "01234", "abcde"), LORA_OK);
    assert_false(done);
    check_file("0123456789");
    unlink(other);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink(other, path), 0);
    done = 1;
    assert_int_equal(patch(&done, "01234", "abcde"), LORA_OK);
    assert_false(done);
    check_file("0123456789");
}

/* The write stops in the middle of what differs; the part before it, which
 * was written, is put back. */
static void test_put_back(void **state)
{
    struct rlimit before;
    struct rlimit limit;
    lora_error error;
    lora_status status;
    int done = 1;

    (void)state;
    put_file("0123456789");
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 4;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    lora_error_init(&error, sizeof error);
    status =
        lora__patch_file(&done, path, 10, "0123456", "0abcdef", 7, 0, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, LORA_ERROR_IO);
    assert_int_equal(error.os_error, EFBIG);
    assert_false(done);
    check_file("0123456789");
    signal(SIGXFSZ, SIG_DFL);
}

static void test_write_at(void **state)
{
    lora__file file;
    uint64_t bytes;

    (void)state;
    put_file("0123456789");
    assert_int_equal(lora__file_open_update(&file, &bytes, path), 0);
    assert_true(file.handle != -1);
    assert_int_equal(bytes, 10);
    assert_int_equal(lora__file_write_at(file, 8, "ab", 2), 0);
    assert_int_equal(lora__file_write_at(file, 3, "", 0), 0);
    assert_int_equal(lora__file_write_at(file, INT64_MAX, "ab", 2), EOVERFLOW);
    assert_int_equal(lora__file_write_at(file, UINT64_MAX, "ab", 2), EOVERFLOW);
    assert_int_equal(lora__file_close(&file), 0);
    check_file("01234567ab");
    unlink(path);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(lora__file_open_update(&file, &bytes, path), 0);
    assert_int_equal(file.handle, -1);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0666), 0); /* does not wait for a reader */
    assert_int_equal(lora__file_open_update(&file, &bytes, path), 0);
    assert_int_equal(file.handle, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_write, remove_files),
        cmocka_unit_test_teardown(test_large, remove_files),
        cmocka_unit_test_teardown(test_refused, remove_files),
        cmocka_unit_test_teardown(test_links, remove_files),
        cmocka_unit_test_teardown(test_put_back, remove_files),
        cmocka_unit_test_teardown(test_write_at, remove_files),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

#endif
