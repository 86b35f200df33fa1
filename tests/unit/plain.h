/* The few names of cmocka that a test needs to run where there is no cmocka:
 * on a foreign CPU, cross-compiled with -DTEST_PLAIN, and in fuzz targets. A
 * check that fails aborts, as fuzzers and debuggers like it.
 */
#ifndef TEST_PLAIN_H
#define TEST_PLAIN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(function)                                             \
    {                                                                          \
#function, function                                                    \
    }

#define fail_msg(...)                                                          \
    do {                                                                       \
        fflush(stdout);                                                        \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                        \
        fprintf(stderr, __VA_ARGS__);                                          \
        fprintf(stderr, "\n");                                                 \
        abort();                                                               \
    } while (0)

#define assert_true(x)                                                         \
    do {                                                                       \
        if (!(x)) {                                                            \
            fail_msg("%s", #x);                                                \
        }                                                                      \
    } while (0)
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_ptr_equal(a, b) assert_true((a) == (b))
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_memory_equal(a, b, bytes) assert_true(memcmp(a, b, bytes) == 0)

#define cmocka_run_group_tests(tests, setup, teardown)                         \
    plain_run(tests, sizeof(tests) / sizeof((tests)[0]))

static inline int plain_run(const struct CMUnitTest *tests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        tests[i].run(NULL);
        printf("ok %s\n", tests[i].name);
    }
    printf("%zu passed, 0 failed\n", count);
    return 0;
}

#endif
