/* Files of the operating system: reading at offsets, and replacing a file in
 * one step or not at all. Real files in a folder of their own, a real limit
 * on file sizes for the disk that is full.
 */
#ifdef _WIN32

/* The links, modes and limits used here are those of POSIX. */
int main(void)
{
    return 77;
}

#else

#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "containers.h"
#include "platform/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static const char *in_folder(const char *name)
{
    static char paths[64][512];
    static unsigned turn;
    char *path = paths[turn++ % 64];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* What the folder holds, but "." and ".."; removes it. */
static int count_files(int also_remove)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 &&
            strcmp(entry->d_name, "..") != 0) {
            count++;
            if (also_remove) {
                assert_int_equal(remove(in_folder(entry->d_name)), 0);
            }
        }
    }
    closedir(dir);
    return count;
}

static int make_folder(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof folder, "%.40s/lora-test-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    count_files(1);
    return rmdir(folder);
}

static int clear_folder(void **state)
{
    (void)state;
    count_files(1);
    return 0;
}

static void put_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void check_file(const char *path, const char *text)
{
    char read[256];
    FILE *file = fopen(path, "rb");
    size_t n;

    assert_non_null(file);
    n = fread(read, 1, sizeof read, file);
    fclose(file);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(read, text, n);
}

static mode_t mode_of(const char *path)
{
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 07777;
}

/* Reading ---------------------------------------------------------------- */

static void test_open(void **state)
{
    const char *path = in_folder("file");
    lora__file file;
    lora__path_type type;
    uint64_t bytes;
    char buffer[8];
    size_t got;

    (void)state;
    assert_int_equal(lora__file_open(&file, &type, &bytes, path), ENOENT);
    assert_int_equal(file.handle, -1);
    put_file(path, "0123456789");
    assert_int_equal(lora__file_open(&file, &type, &bytes, path), 0);
    assert_int_equal(type, LORA__PATH_FILE);
    assert_int_equal(bytes, 10);
    assert_int_equal(lora__file_read_at(file, 3, buffer, 4, &got), 0);
    assert_int_equal(got, 4);
    assert_memory_equal(buffer, "3456", 4);
    assert_int_equal(lora__file_read_at(file, 8, buffer, 8, &got), 0);
    assert_int_equal(got, 2);
    assert_memory_equal(buffer, "89", 2);
    assert_int_equal(lora__file_read_at(file, 10, buffer, 8, &got), 0);
    assert_int_equal(got, 0);
    assert_int_equal(lora__file_read_at(file, INT64_MAX, buffer, 8, &got),
                     EOVERFLOW);
    assert_int_equal(lora__file_read_at(file, UINT64_MAX, buffer, 8, &got),
                     EOVERFLOW);
    assert_int_equal(got, 0);
    assert_int_equal(lora__file_close(&file), 0);
    assert_int_equal(lora__file_close(&file), 0);

    assert_int_equal(lora__file_open(&file, &type, &bytes, folder), 0);
    assert_int_equal(type, LORA__PATH_FOLDER);
    assert_int_equal(file.handle, -1);

    /* Nobody writes into the pipe: a plain open would wait for ever. */
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(lora__file_open(&file, &type, &bytes, in_folder("pipe")),
                     0);
    assert_int_equal(type, LORA__PATH_OTHER);
    assert_int_equal(lora__file_close(&file), 0);
}

/* Bytes beyond 4 GiB, in a file that takes no room. */
static void test_far(void **state)
{
    const uint64_t far = ((uint64_t)5 << 30) + 3;
    const char *path = in_folder("sparse");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    lora__file file;
    lora__path_type type;
    uint64_t bytes;
    char buffer[8];
    size_t got;

    (void)state;
    assert_true(fd >= 0);
    if (pwrite(fd, "far", 3, (off_t)far) != 3) {
        close(fd);
        skip(); /* the file system has no such sizes */
    }
    close(fd);
    assert_int_equal(lora__file_open(&file, &type, &bytes, path), 0);
    assert_true(bytes == far + 3);
    assert_int_equal(lora__file_read_at(file, far - 1, buffer, 8, &got), 0);
    assert_int_equal(got, 4);
    assert_memory_equal(buffer, "\0far", 4);
    lora__file_close(&file);
}

static void test_map(void **state)
{
    const char *path = in_folder("file");
    lora__file file;
    lora__path_type type;
    uint64_t bytes;
    const void *data;

    (void)state;
    put_file(path, "mapped");
    assert_int_equal(lora__file_open(&file, &type, &bytes, path), 0);
    assert_int_not_equal(lora__file_map(&data, file, 0), 0);
    assert_int_equal(lora__file_map(&data, file, bytes), 0);
    assert_memory_equal(data, "mapped", 6);
    lora__file_close(&file); /* the map stays */
    assert_memory_equal(data, "mapped", 6);
    lora__file_unmap(data, bytes);
}

static void check_reader(lora_context *context, int map)
{
    static const char header[] = "{\"a\":" E4 "}";
    blob b = make_file(header, strlen(header), 4);
    FILE *out = fopen(in_folder("model"), "wb");
    lora_reader reader;
    lora__container *c;
    unsigned char bytes[4];
    lora_error error;

    assert_non_null(out);
    fwrite(b.data, 1, b.bytes, out);
    fclose(out);
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__reader_open_file(&reader, context,
                                            in_folder("model"), map, &error),
                     LORA_OK);
    assert_int_equal(lora__container_open(&c, context, &reader, "m", &error),
                     LORA_OK);
    assert_int_equal(lora__container_read(c, 0, 1, bytes, 3, &error), LORA_OK);
    assert_memory_equal(bytes, "\2\3\4", 3);
    if (map) {
        assert_memory_equal(lora__container_view(c, 0), "\1\2\3\4", 4);
    } else {
        assert_null(lora__container_view(c, 0));
    }
    /* The file is cut while it is open. */
    assert_int_equal(truncate(in_folder("model"), (off_t)b.bytes - 2), 0);
    assert_int_equal(lora__container_read(c, 0, 0, bytes, 4, &error),
                     LORA_ERROR_TRUNCATED);
    assert_int_equal(error.offset, b.bytes - 2);
    lora__container_release(c);
    free(b.data);
}

/* What a caller of the table itself sees. */
static void test_reader_table(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    lora_reader r;
    const void *data = NULL;
    char bytes[8];
    size_t got;

    (void)state;
    put_file(in_folder("file"), "0123");
    assert_int_equal(
        lora__reader_open_file(&r, context, in_folder("file"), 1, NULL),
        LORA_OK);
    assert_int_equal(r.map(r.user, 1, 3, &data), LORA_OK);
    assert_memory_equal(data, "123", 3);
    assert_int_equal(r.map(r.user, 2, 3, &data), LORA_ERROR_RANGE);
    assert_int_equal(r.map(r.user, UINT64_MAX, 2, &data), LORA_ERROR_RANGE);
    assert_int_equal(r.read_at(r.user, 2, bytes, 8, &got), LORA_OK);
    assert_int_equal(got, 2);
    assert_memory_equal(bytes, "23", 2);
    assert_int_equal(r.read_at(r.user, UINT64_MAX, bytes, 8, &got),
                     LORA_ERROR_IO);
    r.destroy(r.user);
    end_context(&h, context);
}

static void test_reader(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    const char *refused[] = {folder, in_folder("pipe"), "/dev/null"};
    lora_reader reader;
    lora_error error;

    (void)state;
    check_reader(context, 0);
    check_reader(context, 1);

    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__reader_open_file(&reader, context,
                                            in_folder("absent"), 0, &error),
                     LORA_ERROR_IO);
    assert_int_equal(error.os_error, ENOENT);
    assert_string_equal(error.subject, in_folder("absent"));
    assert_non_null(strstr(error.message, "no such file"));

    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(
            lora__reader_open_file(&reader, context, refused[i], 0, NULL),
            LORA_ERROR_IO);
    }
    put_file(in_folder("empty"), "");
    for (int map = 0; map < 2; map++) {
        lora__container *c;
        lora_error_init(&error, sizeof error);
        assert_int_equal(lora__reader_open_file(&reader, context,
                                                in_folder("empty"), map, NULL),
                         LORA_OK);
        assert_int_equal(
            lora__container_open(&c, context, &reader, "e", &error),
            LORA_ERROR_TRUNCATED);
        assert_string_equal(error.message, "empty file");
    }
    end_context(&h, context);
}

/* Writing ---------------------------------------------------------------- */

static lora_status write_text(lora_context *context,
                              const char *path,
                              const char *text,
                              int overwrite,
                              lora_error *error)
{
    lora_writer writer;
    lora_status status;

    if (error != NULL) {
        lora_error_init(error, sizeof *error);
    }
    status = lora__writer_open_file(&writer, context, path, overwrite, error);
    if (status != LORA_OK) {
        return status;
    }
    status = lora__writer_write(&writer, text, strlen(text), error);
    if (status != LORA_OK) {
        lora__writer_abort(&writer);
        return status;
    }
    return lora__writer_finish(&writer, error);
}

static void test_overwrite(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    const char *path = in_folder("out");
    lora_writer writer;
    lora_error error;

    (void)state;
    assert_int_equal(write_text(context, path, "one", 0, NULL), LORA_OK);
    check_file(path, "one");
    assert_int_equal(write_text(context, path, "two", 0, &error),
                     LORA_ERROR_IO);
    assert_int_equal(error.os_error, lora__os_exists());
    assert_string_equal(error.subject, path);
    check_file(path, "one");
    assert_int_equal(write_text(context, path, "three", 1, NULL), LORA_OK);
    check_file(path, "three");
    assert_int_equal(write_text(context, in_folder("new"), "4", 1, NULL),
                     LORA_OK);
    check_file(in_folder("new"), "4");
    assert_int_equal(count_files(0), 2);

    /* Somebody else takes the name while we write. */
    assert_int_equal(
        lora__writer_open_file(&writer, context, in_folder("race"), 0, NULL),
        LORA_OK);
    assert_int_equal(lora__writer_write(&writer, "mine", 4, NULL), LORA_OK);
    put_file(in_folder("race"), "theirs");
    lora_error_init(&error, sizeof error);
    assert_int_equal(lora__writer_finish(&writer, &error), LORA_ERROR_IO);
    assert_int_equal(error.os_error, lora__os_exists());
    check_file(in_folder("race"), "theirs");
    assert_int_equal(count_files(0), 3);

    /* Until the end the old file is what others see. */
    assert_int_equal(lora__writer_open_file(&writer, context, path, 1, NULL),
                     LORA_OK);
    assert_int_equal(lora__writer_write(&writer, "half", 4, NULL), LORA_OK);
    check_file(path, "three");
    assert_int_equal(count_files(0), 4);
    lora__writer_abort(&writer);
    check_file(path, "three");
    assert_int_equal(count_files(0), 3);
    end_context(&h, context);
}

static void test_modes_and_links(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    const char *path = in_folder("out");
    struct stat info;
    mode_t mask = umask(022);

    (void)state;
    assert_int_equal(write_text(context, path, "1", 0, NULL), LORA_OK);
    assert_int_equal(mode_of(path), 0644);
    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(write_text(context, path, "2", 1, NULL), LORA_OK);
    assert_int_equal(mode_of(path), 0604);
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(write_text(context, path, "3", 1, NULL), LORA_OK);
    assert_int_equal(mode_of(path), 0400);
    check_file(path, "3");
    umask(mask);

    /* A link is replaced, not what it leads to. */
    put_file(in_folder("store"), "stored");
    assert_int_equal(symlink("store", in_folder("link")), 0);
    assert_int_equal(write_text(context, in_folder("link"), "x", 0, NULL),
                     LORA_ERROR_IO);
    assert_int_equal(write_text(context, in_folder("link"), "new", 1, NULL),
                     LORA_OK);
    check_file(in_folder("store"), "stored");
    check_file(in_folder("link"), "new");
    assert_int_equal(lstat(in_folder("link"), &info), 0);
    assert_true(S_ISREG(info.st_mode));

    /* One that leads nowhere is something all the same. */
    assert_int_equal(symlink("nowhere", in_folder("dangling")), 0);
    assert_int_equal(lora__path_exists(in_folder("dangling")), 1);
    assert_int_equal(write_text(context, in_folder("dangling"), "x", 0, NULL),
                     LORA_ERROR_IO);
    assert_int_equal(write_text(context, in_folder("dangling"), "x", 1, NULL),
                     LORA_OK);
    check_file(in_folder("dangling"), "x");
    assert_int_equal(count_files(0), 4);
    end_context(&h, context);
}

static void test_targets_refused(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    char long_path[600];

    (void)state;
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(symlink("/dev/null", in_folder("null")), 0);
    assert_int_equal(symlink(folder, in_folder("there")), 0);
    memset(long_path, 'x', sizeof long_path);
    memcpy(long_path, folder, strlen(folder));
    long_path[strlen(folder)] = '/';
    long_path[sizeof long_path - 1] = '\0';
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        const char *targets[] = {
            "",        folder, in_folder("pipe"),  in_folder("null"),
            long_path, "/",    in_folder("there"), "/no/such/folder/file"};

        for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
            lora_error error;
            lora_status status =
                write_text(context, targets[i], "x", overwrite, &error);
            assert_int_equal(status, LORA_ERROR_IO);
            assert_true(error.message[0] != '\0');
        }
    }
    assert_int_equal(count_files(0), 3);
    end_context(&h, context);
}

/* In the current folder, and with many pieces of many sizes. */
static void test_pieces(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t total = 3000000;
    unsigned char *data = malloc(total);
    unsigned char *back = malloc(total);
    char before[512];
    uint64_t seed = 7;
    lora_writer writer;
    FILE *file;
    size_t at = 0;

    (void)state;
    assert_non_null(data);
    assert_non_null(back);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(folder), 0);
    for (size_t i = 0; i < total; i++) {
        data[i] = (unsigned char)random_next(&seed);
    }
    assert_int_equal(lora__writer_open_file(&writer, context, "plain", 0, NULL),
                     LORA_OK);
    while (at < total) {
        size_t most = random_next(&seed) % 16 == 0 ? 300000 : 3000;
        size_t n = random_next(&seed) % most;
        n = n < total - at ? n : total - at;
        assert_int_equal(lora__writer_write(&writer, data + at, n, NULL),
                         LORA_OK);
        at += n;
    }
    assert_int_equal(lora__writer_finish(&writer, NULL), LORA_OK);
    assert_int_equal(chdir(before), 0);
    file = fopen(in_folder("plain"), "rb");
    assert_non_null(file);
    assert_int_equal(fread(back, 1, total, file), total);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    assert_memory_equal(data, back, total);
    free(data);
    free(back);
    end_context(&h, context);
}

/* A limit on the size of files stands for the full disk: it is met in the
 * middle of a large write, when the buffer is written, or at the end. */
static void test_full(void **state)
{
    static const rlim_t limits[] = {0, 100, 70000, 131072, 200000, 399999};
    static unsigned char data[400000];
    heap h;
    lora_context *context = make_context(&h, NULL);
    struct rlimit before;
    const char *path = in_folder("out");

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    put_file(path, "old");
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        for (size_t chunk = 1000; chunk <= sizeof data; chunk *= 20) {
            struct rlimit limit = before;
            lora_writer writer;
            lora_status status;
            lora_error error;

            lora_error_init(&error, sizeof error);
            assert_int_equal(
                lora__writer_open_file(&writer, context, path, 1, NULL),
                LORA_OK);
            limit.rlim_cur = limits[i];
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
            status = LORA_OK;
            for (size_t at = 0; at < sizeof data && status == LORA_OK;
                 at += chunk) {
                size_t left = sizeof data - at;
                status = lora__writer_write(
                    &writer, data + at, left < chunk ? left : chunk, &error);
            }
            if (status == LORA_OK) {
                status = lora__writer_finish(&writer, &error);
            } else {
                lora__writer_abort(&writer);
            }
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
            assert_int_equal(status, LORA_ERROR_IO);
            assert_int_equal(error.os_error, EFBIG);
            assert_string_equal(error.subject, path);
            check_file(path, "old");
            assert_int_equal(count_files(0), 1);
        }
    }
    signal(SIGXFSZ, SIG_DFL);
    end_context(&h, context);
}

/* The nth allocation fails: no file is left. */
static void test_memory(void **state)
{
    heap h;
    lora_context *context = make_context(&h, NULL);
    size_t resting = h.live;
    size_t n = 0;
    lora_status status;

    (void)state;
    do {
        h.countdown = n++;
        status = write_text(context, in_folder("out"), "x", 0, NULL);
        h.countdown = SIZE_MAX;
        assert_int_equal(h.live, resting);
        assert_int_equal(count_files(0), status == LORA_OK ? 1 : 0);
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
    } while (status != LORA_OK);
    assert_true(n > 3);
    for (n = 0;; n++) {
        lora_reader reader;
        h.countdown = n;
        status =
            lora__reader_open_file(&reader, context, in_folder("out"), 1, NULL);
        h.countdown = SIZE_MAX;
        if (status == LORA_OK) {
            reader.destroy(reader.user);
            break;
        }
        assert_int_equal(status, LORA_ERROR_MEMORY);
    }
    assert_true(n > 0);
    end_context(&h, context);
}

static void test_platform(void **state)
{
    lora__file file;
    char text[16];

    (void)state;
    assert_int_equal(lora__path_folder_bytes("a/b/c"), 4);
    assert_int_equal(lora__path_folder_bytes("c"), 0);
    assert_int_equal(lora__path_folder_bytes("/"), 1);
    put_file(in_folder("a"), "a");
    assert_int_equal(lora__file_create(&file, in_folder("a")),
                     lora__os_exists());
    put_file(in_folder("b"), "b");
    assert_int_equal(lora__path_rename(in_folder("a"), in_folder("b"), 0),
                     lora__os_exists());
    check_file(in_folder("b"), "b");
    assert_int_equal(lora__path_rename(in_folder("a"), in_folder("b"), 1), 0);
    check_file(in_folder("b"), "a");
    assert_int_equal(lora__path_rename(in_folder("b"), in_folder("c"), 0), 0);
    check_file(in_folder("c"), "a");
    assert_int_equal(count_files(0), 1);
    assert_int_equal(lora__path_rename(in_folder("no"), in_folder("d"), 0),
                     ENOENT);
    assert_int_equal(lora__path_rename(in_folder("no"), in_folder("d"), 1),
                     ENOENT);
    lora__path_remove(in_folder("c"));
    assert_int_equal(lora__path_exists(in_folder("c")), 0);

    lora__os_message(text, sizeof text, ENOENT);
    assert_string_equal(text, "no such file or");
    lora__os_message(text, sizeof text, 12345);
    assert_string_equal(text, "operating syste");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_open, clear_folder),
        cmocka_unit_test_teardown(test_far, clear_folder),
        cmocka_unit_test_teardown(test_map, clear_folder),
        cmocka_unit_test_teardown(test_reader_table, clear_folder),
        cmocka_unit_test_teardown(test_reader, clear_folder),
        cmocka_unit_test_teardown(test_overwrite, clear_folder),
        cmocka_unit_test_teardown(test_modes_and_links, clear_folder),
        cmocka_unit_test_teardown(test_targets_refused, clear_folder),
        cmocka_unit_test_teardown(test_pieces, clear_folder),
        cmocka_unit_test_teardown(test_full, clear_folder),
        cmocka_unit_test_teardown(test_memory, clear_folder),
        cmocka_unit_test_teardown(test_platform, clear_folder),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

#endif
