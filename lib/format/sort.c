/* Heapsort: in place, n log n at worst, no recursion. */
#include "format/sort.h"

#include <string.h>

static void sort_swap(unsigned char *a, unsigned char *b, size_t bytes)
{
    unsigned char held[64];

    while (bytes > 0) {
        size_t n = bytes < sizeof held ? bytes : sizeof held;
        memcpy(held, a, n);
        memcpy(a, b, n);
        memcpy(b, held, n);
        a += n;
        b += n;
        bytes -= n;
    }
}

static int sort_is_sorted(const unsigned char *items,
                          size_t count,
                          size_t bytes,
                          int (*compare)(const void *a, const void *b))
{
    for (size_t i = 1; i < count; i++) {
        if (compare(items + (i - 1) * bytes, items + i * bytes) > 0) {
            return 0;
        }
    }
    return 1;
}

/* Sink item `root` until no child is larger; children of i are 2i+1, 2i+2. */
static void sort_sink(unsigned char *items,
                      size_t root,
                      size_t count,
                      size_t bytes,
                      int (*compare)(const void *a, const void *b))
{
    while (root < count / 2) {
        size_t child = 2 * root + 1;
        if (child + 1 < count &&
            compare(items + child * bytes, items + (child + 1) * bytes) < 0) {
            child++;
        }
        if (compare(items + root * bytes, items + child * bytes) >= 0) {
            return;
        }
        sort_swap(items + root * bytes, items + child * bytes, bytes);
        root = child;
    }
}

LORA_PRIVATE void lora__sort(void *items,
                             size_t count,
                             size_t bytes,
                             int (*compare)(const void *a, const void *b))
{
    unsigned char *base = items;

    if (sort_is_sorted(base, count, bytes, compare)) {
        return;
    }
    for (size_t root = count / 2; root-- > 0;) {
        sort_sink(base, root, count, bytes, compare);
    }
    for (size_t end = count; end-- > 1;) {
        sort_swap(base, base + end * bytes, bytes);
        sort_sink(base, 0, end, bytes, compare);
    }
}
