/* `./dev bench open`, the part in C: open a file so many times, list its
 * tensors, perhaps read them all, and print the seconds of each time.
 *
 *     open list|read|map FILE TIMES THREADS
 *
 * Each time begins with nothing but a context, and ends with nothing.
 */
#define _DEFAULT_SOURCE

#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory in large pages where there are such, as numpy asks for as well: most
 * of the time that reading takes otherwise is that of the page faults. */
static void *room(size_t bytes)
{
    size_t page = (size_t)2 << 20;
    size_t whole = (bytes + page) / page * page;
    void *block = NULL;

    if (bytes < 2 * page) {
        return malloc(bytes + 1);
    }
    if (posix_memalign(&block, page, whole) != 0) {
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    (void)madvise(block, whole, MADV_HUGEPAGE);
#endif
    return block;
}

/* All of them into one block, as they are stored. */
static lora_status read_all(const lora_adapter *adapter,
                            const lora_tensor_info *infos,
                            size_t count,
                            lora_error *error)
{
    lora_tensor_read *reads = calloc(count + 1, sizeof *reads);
    size_t bytes = 0;
    unsigned char *block;
    lora_status status = LORA_ERROR_MEMORY;

    for (size_t i = 0; i < count; i++) {
        bytes += (size_t)infos[i].bytes;
    }
    block = room(bytes);
    if (reads != NULL && block != NULL) {
        bytes = 0;
        for (size_t i = 0; i < count; i++) {
            reads[i].buffer = block + bytes;
            reads[i].bytes = (size_t)infos[i].bytes;
            reads[i].index = i;
            bytes += reads[i].bytes;
        }
        status = lora_adapter_read_tensors(reads, count, adapter, error);
    }
    free(block);
    free(reads);
    return status;
}

static lora_status
map_all(const lora_adapter *adapter, size_t count, lora_error *error)
{
    lora_status status = LORA_OK;
    lora_tensor view;

    for (size_t i = 0; status == LORA_OK && i < count; i++) {
        status = lora_adapter_get_tensor(&view, adapter, i, error);
    }
    return status;
}

static lora_status
work(const lora_adapter *adapter, const char *mode, lora_error *error)
{
    size_t count = lora_adapter_tensor_count(adapter);
    lora_tensor_info *infos = calloc(count + 1, sizeof *infos);
    lora_status status = LORA_ERROR_MEMORY;

    if (infos != NULL) {
        infos->struct_size = sizeof *infos;
        status = lora_adapter_get_tensor_infos(infos, adapter, 0, count, error);
    }
    if (status == LORA_OK && mode[0] == 'r') {
        status = read_all(adapter, infos, count, error);
    } else if (status == LORA_OK && mode[0] == 'm') {
        status = map_all(adapter, count, error);
    }
    free(infos);
    return status;
}

static lora_status
once(lora_context *context, const char *mode, const char *path, lora_error *e)
{
    lora_adapter_open_options options;
    lora_adapter *adapter;
    lora_status status;

    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = mode[0] == 'm' ? LORA_OPEN_MAP : 0;
    status = lora_adapter_open(&adapter, context, path, &options, e);
    if (status == LORA_OK) {
        status = work(adapter, mode, e);
        lora_adapter_destroy(adapter);
    }
    return status;
}

int main(int argc, char **argv)
{
    int times = argc == 5 ? atoi(argv[3]) : 0;
    lora_context_options options;
    lora_context *context;
    lora_error error;

    lora_error_init(&error, sizeof error);
    lora_context_options_init(&options, sizeof options);
    options.max_threads = argc == 5 ? (uint32_t)atoi(argv[4]) : 0;
    if (times < 1 ||
        lora_context_create(&context, &options, &error) != LORA_OK) {
        fprintf(stderr, "usage: open list|read|map FILE TIMES THREADS\n");
        return 2;
    }
    for (int i = 0; i < times; i++) {
        double start = now();
        if (once(context, argv[1], argv[2], &error) != LORA_OK) {
            fprintf(stderr, "%s: %s\n", argv[2], error.message);
            return 1;
        }
        printf("%.9f\n", now() - start);
    }
    lora_context_destroy(context);
    return 0;
}
