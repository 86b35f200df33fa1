/* Adapters in weights that are in memory, changed in place: no copy of the
 * model, no rounding that adds up.
 *
 *     ./merge_in_memory file.safetensors STRENGTH
 *
 * The weights are made up here, one in F16 for each module, of the size that
 * its factors have. The adapter goes in at the strength, at half of it, and out
 * again; each time the program says how many of the numbers are other ones than
 * before.
 */
#include <lora/lora.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A tensor of the host. */
typedef struct weight {
    char name[512];
    size_t bytes;
    unsigned char *data;
    unsigned char *before;
} weight;

typedef struct host {
    lora_context *context;
    lora_adapter *adapter;
    lora_model *model;
    lora_binding *binding;
    lora_plan *plan;
    weight *weights;
    size_t count;
} host;

/* Some F16 numbers, the same everywhere: 0x2800 is 1 / 32. */
static void weight_fill(weight *w)
{
    static uint32_t state = 1;

    for (size_t i = 0; i < w->bytes; i += 2) {
        state = state * 1664525U + 1013904223U;
        w->data[i] = (unsigned char)(state >> 24);
        w->data[i + 1] = (unsigned char)(0x28 | (state >> 16 & 0x80));
    }
    memcpy(w->before, w->data, w->bytes);
}

/* List the weight of a module. */
static lora_status host_add(host *h, size_t module, lora_error *error)
{
    weight *w = &h->weights[h->count++];
    lora_module_info info;
    lora_model_tensor tensor;
    lora_status status;

    info.struct_size = sizeof info;
    status = lora_adapter_get_module(&info, h->adapter, module, error);
    if (status != LORA_OK) {
        return status;
    }
    snprintf(w->name, sizeof w->name, "%s.weight", info.target);
    lora_model_tensor_init(&tensor, sizeof tensor);
    tensor.name = w->name;
    tensor.dtype = LORA_DTYPE_F16;
    tensor.ndim = info.ndim;
    w->bytes = 2;
    for (int32_t d = 0; d < info.ndim; d++) {
        tensor.shape[d] = info.shape[d];
        w->bytes *= (size_t)info.shape[d];
    }
    w->data = malloc(w->bytes);
    w->before = malloc(w->bytes);
    if (w->data == NULL || w->before == NULL) {
        return LORA_ERROR_MEMORY;
    }
    weight_fill(w);
    return lora_model_add(h->model, &tensor, error);
}

/* Say where the weights are. */
static lora_status host_plan(host *h, lora_error *error)
{
    lora_status status = lora_plan_create(&h->plan, h->model, NULL, error);

    for (size_t i = 0; status == LORA_OK && i < h->count; i++) {
        lora_plan_memory memory;
        lora_plan_memory_init(&memory, sizeof memory);
        memory.data = h->weights[i].data;
        status = lora_plan_set_memory(h->plan, i, &memory, error);
    }
    return status;
}

static lora_status host_open(host *h, const char *path, lora_error *error)
{
    lora_status status;
    size_t modules;

    status = lora_context_create(&h->context, NULL, error);
    if (status == LORA_OK) {
        status = lora_adapter_open(&h->adapter, h->context, path, NULL, error);
    }
    if (status == LORA_OK) {
        status = lora_model_create(&h->model, h->context, NULL, error);
    }
    modules = lora_adapter_module_count(h->adapter);
    h->weights = calloc(modules + 1, sizeof *h->weights);
    if (h->weights == NULL) {
        return LORA_ERROR_MEMORY;
    }
    for (size_t i = 0; status == LORA_OK && i < modules; i++) {
        status = host_add(h, i, error);
    }
    if (status == LORA_OK) {
        status =
            lora_binding_create(&h->binding, h->model, h->adapter, NULL, error);
    }
    return status == LORA_OK ? host_plan(h, error) : status;
}

static void host_close(host *h)
{
    lora_plan_destroy(h->plan);
    lora_binding_destroy(h->binding);
    lora_model_destroy(h->model);
    lora_adapter_destroy(h->adapter);
    lora_context_destroy(h->context);
    for (size_t i = 0; i < h->count; i++) {
        free(h->weights[i].data);
        free(h->weights[i].before);
    }
    free(h->weights);
}

/* Do what there is to do, and say what became of the weights. */
static lora_status host_run(host *h, const char *what, lora_error *error)
{
    lora_status status = lora_plan_run(h->plan, error);
    uint64_t changed = 0;

    for (size_t i = 0; i < h->count; i++) {
        const weight *w = &h->weights[i];
        for (size_t j = 0; j < w->bytes; j += 2) {
            changed += memcmp(w->data + j, w->before + j, 2) != 0;
        }
    }
    printf("%s: %" PRIu64 " changed, %" PRIu64 " bytes kept\n", what, changed,
           lora_plan_saved_bytes(h->plan));
    return status;
}

static lora_status host_show(host *h, double strength, lora_error *error)
{
    const lora_strength full = {strength, strength};
    const lora_strength half = {strength / 2, strength / 2};
    uint64_t id;
    lora_status status = lora_plan_add(&id, h->plan, h->binding, &full, error);

    if (status == LORA_OK) {
        status = host_run(h, "in", error);
    }
    if (status == LORA_OK) {
        status = lora_plan_set_strength(h->plan, id, &half, error);
    }
    if (status == LORA_OK) {
        status = host_run(h, "half", error);
    }
    if (status == LORA_OK) {
        status = lora_plan_remove(h->plan, id, error);
    }
    return status == LORA_OK ? host_run(h, "out", error) : status;
}

int main(int argc, char **argv)
{
    host h = {0};
    lora_error error;
    lora_status status;

    if (argc != 3) {
        fputs("usage: merge_in_memory FILE STRENGTH\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    status = host_open(&h, argv[1], &error);
    if (status == LORA_OK) {
        status = host_show(&h, atof(argv[2]), &error);
    }
    if (status != LORA_OK) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    host_close(&h);
    return status != LORA_OK;
}
