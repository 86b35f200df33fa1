/* Runs a fuzz target on inputs, without a fuzzer: those of its pack, or the
 * files and packs that are named. Each input ends where a page begins that
 * cannot be read, so that a byte read beyond it stops the program at once.
 *
 * A pack is a zip archive whose records are stored, not deflated; pack.py
 * makes them. When an input fails, its name is the last thing printed.
 */
#define _DEFAULT_SOURCE

#include "fuzz.h"

#include <signal.h>
#include <time.h>

#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

/* Processor time for one input, with sanitizers and on slow machines. */
#define MOST_SECONDS 20.0

static char case_name[300];
static size_t case_count;

static void say_case(int number)
{
    fputs(case_name, stderr);
    fputs("\n", stderr);
    signal(number, SIG_DFL);
    raise(number);
}

/* A sanitizer has its own say when memory is touched that must not be; with
 * abort_on_error=1, as tests/run.py sets it, it ends with SIGABRT. */
static void catch_signals(void)
{
    signal(SIGABRT, say_case);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__has_feature)
    signal(SIGSEGV, say_case);
    signal(SIGFPE, say_case);
    signal(SIGILL, say_case);
#ifdef SIGBUS
    signal(SIGBUS, say_case);
#endif
#endif
}

/* Guard pages ---------------------------------------------------------------
 */

#ifdef _WIN32

static void run_guarded(const unsigned char *data, size_t bytes)
{
    blob b = blob_of(data, bytes);

    LLVMFuzzerTestOneInput(b.data, b.bytes);
    free(b.data);
}

#else

static void run_guarded(const unsigned char *data, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (bytes + page - 1) / page * page;
    unsigned char *map = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(map != MAP_FAILED);
    if (bytes > 0) {
        memcpy(map + room - bytes, data, bytes);
    }
    /* targets may not write either */
    assert_int_equal(mprotect(map, room + page, PROT_READ), 0);
    assert_int_equal(mprotect(map + room, page, PROT_NONE), 0);
    LLVMFuzzerTestOneInput(map + room - bytes, bytes);
    munmap(map, room + page);
}

#endif

static void run(const unsigned char *data, size_t bytes)
{
    clock_t start = clock();

    run_guarded(data, bytes);
    if ((double)(clock() - start) / CLOCKS_PER_SEC > MOST_SECONDS) {
        fail_msg("takes too long");
    }
    case_count++;
}

/* Packs ---------------------------------------------------------------------
 */

static blob read_whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    blob b = {NULL, 0};
    size_t got = 1;

    if (file == NULL) {
        fail_msg("cannot open %s", path);
    }
    while (got > 0) {
        b.data = realloc(b.data, b.bytes + (1u << 16));
        assert_non_null(b.data);
        got = fread(b.data + b.bytes, 1, 1u << 16, file);
        b.bytes += got;
    }
    fclose(file);
    return b;
}

static size_t get_number(const unsigned char *data, size_t bytes)
{
    size_t value = 0;

    while (bytes-- > 0) {
        value = value << 8 | data[bytes];
    }
    return value;
}

/* Run the records one after another, by their local headers. */
static void run_pack(const char *path, const blob *pack)
{
    size_t at = 0;

    while (pack->bytes - at >= 30 &&
           memcmp(pack->data + at, "PK\3\4", 4) == 0) {
        const unsigned char *local = pack->data + at;
        size_t bytes = get_number(local + 18, 4);
        size_t name = get_number(local + 26, 2);
        size_t header = 30 + name + get_number(local + 28, 2);

        snprintf(case_name, sizeof case_name, "%s: %.*s", path,
                 name > 200 ? 200 : (int)name, (const char *)local + 30);
        if (get_number(local + 6, 2) & 8 || get_number(local + 8, 2) != 0 ||
            header > pack->bytes - at || bytes > pack->bytes - at - header) {
            fail_msg("not a pack: its records must be stored");
        }
        run(local + header, bytes);
        at += header + bytes;
    }
}

static void run_file(const char *path)
{
    size_t bytes = strlen(path);
    blob file = read_whole(path);

    snprintf(case_name, sizeof case_name, "%s", path);
    if (bytes > 4 && strcmp(path + bytes - 4, ".zip") == 0) {
        run_pack(path, &file);
    } else {
        run(file.data, file.bytes);
    }
    free(file.data);
}

int main(int argc, char **argv)
{
    catch_signals();
    snprintf(case_name, sizeof case_name, "no bytes at all");
    run(NULL, 0);
    for (int i = 1; i < argc; i++) {
        run_file(argv[i]);
    }
    if (argc < 2) {
        char path[80];

        snprintf(path, sizeof path, "tests/fuzz/corpus/%s.zip", fuzz_name);
        run_file(path);
    }
    printf("%zu passed, 0 failed\n", case_count);
    return 0;
}
