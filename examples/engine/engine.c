/* liblora inside a game engine: the two files of the amalgamation, a prefix of
 * its own, and nothing but the engine's memory, threads and archive.
 *
 *     engine ARCHIVE [KIB]
 *
 * Loads the weights of a network, puts one style into them, another in its
 * place, then both, and takes all out again. KIB is how much of its memory the
 * engine may use.
 */
#include "net.h"
#include "try.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKERS = 4 };

static _Alignas(64) unsigned char engine_block[8 << 20];

/* What a context is needed for. */
typedef struct game {
    lora_context *context;
    lora_adapter *weights;
    lora_binding *ink;
    lora_binding *oil;
    net net;
} game;

/* Say what became of each module of a style. */
static lora_status
print_binding(const char *name, const lora_binding *binding, lora_error *error)
{
    lora_binding_info info = {.struct_size = sizeof info};

    TRY(lora_binding_get_info(&info, binding, error));
    printf("%s: %" PRIu64 " of %" PRIu64 " modules are bound\n", name,
           info.bound_count, info.module_count);
    for (size_t i = 0; i < info.item_count; i++) {
        lora_binding_item item = {.struct_size = sizeof item};

        TRY(lora_binding_get_item(&item, binding, i, error));
        printf("  %s\n    %s\n", item.name,
               item.change_count > 0 ? item.tensor : item.reason);
    }
    return LORA_OK;
}

/* A style of the archive, matched with the network. The binding keeps its
 * adapter alive, as a plan does its bindings. */
static lora_status load_style(lora_binding **out,
                              const game *g,
                              pack *archive,
                              const char *name,
                              lora_error *error)
{
    lora_adapter *adapter = NULL;
    lora_status status;

    TRY(pack_open_adapter(&adapter, g->context, archive, name, error));
    status = lora_binding_create(out, g->net.model, adapter, NULL, error);
    lora_adapter_destroy(adapter);
    TRY(status);
    return print_binding(name, *out, error);
}

static lora_status
begin(game *g, arena *memory, jobs *workers, pack *archive, lora_error *error)
{
    lora_allocator allocator = arena_allocator(memory);
    lora_executor executor = jobs_executor(workers);
    lora_context_options options;

    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    options.executor = &executor;
    TRY(lora_context_create(&g->context, &options, error));
    TRY(pack_open_adapter(&g->weights, g->context, archive, "weights", error));
    TRY(net_begin(&g->net, memory, workers, g->weights, g->context, error));
    TRY(load_style(&g->ink, g, archive, "ink", error));
    return load_style(&g->oil, g, archive, "oil", error);
}

static void end(game *g)
{
    net_end(&g->net);
    lora_binding_destroy(g->oil);
    lora_binding_destroy(g->ink);
    lora_adapter_destroy(g->weights);
    lora_context_destroy(g->context);
}

static lora_status update(net *n, const char *what, lora_error *error)
{
    size_t job_count;

    TRY(net_update(n, &job_count, error));
    printf("%s: %zu jobs, weights %016" PRIx64 "\n", what, job_count,
           net_hash(n));
    return LORA_OK;
}

/* Each update is a frame in which a player chose something. */
static lora_status play(game *g, lora_error *error)
{
    const lora_strength half = {0.5, 0.5};
    net *n = &g->net;
    uint64_t before = net_hash(n);
    uint64_t first;
    uint64_t second;

    TRY(update(n, "as loaded", error));
    TRY(lora_plan_add(&first, n->plan, g->ink, NULL, error));
    TRY(update(n, "ink", error));
    TRY(lora_plan_replace(n->plan, first, g->oil, NULL, error));
    TRY(update(n, "oil instead", error));
    TRY(lora_plan_add(&second, n->plan, g->ink, &half, error));
    TRY(update(n, "and half of ink", error));
    TRY(lora_plan_remove(n->plan, first, error));
    TRY(lora_plan_remove(n->plan, second, error));
    TRY(update(n, "neither", error));
    if (net_hash(n) != before) {
        return LORA_ERROR_INTERNAL;
    }
    puts("the weights are as before");
    return LORA_OK;
}

static lora_status run(arena *memory, pack *archive, lora_error *error)
{
    game g = {0};
    jobs workers;
    lora_status status;

    if (!jobs_begin(&workers, WORKERS)) {
        return LORA_ERROR_THREAD;
    }
    status = begin(&g, memory, &workers, archive, error);
    if (status == LORA_OK) {
        status = play(&g, error);
    }
    end(&g);
    jobs_end(&workers);
    return status;
}

int main(int argc, char **argv)
{
    size_t bytes =
        argc == 3 ? (size_t)atoi(argv[2]) * 1024 : sizeof engine_block;
    arena memory;
    pack archive;
    lora_error error;
    lora_status status = LORA_ERROR_THREAD; /* no lock */

    if (argc < 2 || argc > 3 || bytes < 64 || bytes > sizeof engine_block) {
        fputs("usage: engine ARCHIVE [KIB]\n", stderr);
        return 2;
    }
    if (!pack_open(&archive, argv[1])) {
        fprintf(stderr, "%s: no archive\n", argv[1]);
        return 1;
    }
    lora_error_init(&error, sizeof error);
    if (arena_begin(&memory, engine_block, bytes)) {
        status = run(&memory, &archive, &error);
        printf("%zu bytes at most, %zu now\n", memory.peak, memory.used);
        arena_end(&memory);
    }
    pack_close(&archive);
    if (status != LORA_OK) {
        fprintf(stderr, "%s: %s %s\n", lora_status_name(status), error.subject,
                error.message);
    }
    return status == LORA_OK ? 0 : 1;
}
