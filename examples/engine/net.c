/* Nothing here is of one thread: the jobs of a plan may be spread over frames,
 * as long as all of them are done before the weights are used.
 */
#include "net.h"
#include "try.h"

#include <string.h>

/* One tensor, into memory and into the list of the model. */
static lora_status
add_tensor(net *n, const lora_adapter *weights, size_t i, lora_error *error)
{
    net_tensor *to = &n->tensors[i];
    lora_tensor_info info = {.struct_size = sizeof info};
    lora_model_tensor tensor;

    TRY(lora_adapter_get_tensor_info(&info, weights, i, error));
    to->data = arena_take(n->memory, (size_t)info.bytes);
    if (to->data == NULL) {
        return LORA_ERROR_MEMORY;
    }
    to->bytes = (size_t)info.bytes;
    n->count = i + 1;
    TRY(lora_adapter_read_tensor(to->data, to->bytes, weights, i,
                                 LORA_DTYPE_NONE, error));
    lora_model_tensor_init(&tensor, sizeof tensor);
    tensor.name = info.name;
    tensor.component = "unet";
    memcpy(tensor.shape, info.shape, sizeof tensor.shape);
    tensor.ndim = info.ndim;
    tensor.dtype = info.dtype;
    return lora_model_add(n->model, &tensor, error);
}

lora_status net_begin(net *n,
                      arena *memory,
                      jobs *workers,
                      const lora_adapter *weights,
                      lora_context *context,
                      lora_error *error)
{
    size_t count = lora_adapter_tensor_count(weights);
    lora_plan_memory place;

    *n = (net){.memory = memory, .workers = workers};
    if (count > NET_MAX_TENSORS) {
        return LORA_ERROR_LIMIT;
    }
    TRY(lora_model_create(&n->model, context, NULL, error));
    for (size_t i = 0; i < count; i++) {
        TRY(add_tensor(n, weights, i, error));
    }
    TRY(lora_plan_create(&n->plan, n->model, NULL, error));
    for (size_t i = 0; i < count; i++) {
        lora_plan_memory_init(&place, sizeof place);
        place.data = n->tensors[i].data;
        TRY(lora_plan_set_memory(n->plan, i, &place, error));
    }
    return LORA_OK;
}

void net_end(net *n)
{
    lora_plan_destroy(n->plan);
    lora_model_destroy(n->model);
    for (size_t i = 0; i < n->count; i++) {
        arena_give(n->memory, n->tensors[i].data, n->tensors[i].bytes);
    }
}

/* What the jobs of an update share; a worker has its own scratch and error. */
typedef struct update {
    lora_plan *plan;
    unsigned char *scratch;
    size_t scratch_bytes;
    lora_status statuses[JOBS_MAX_WORKERS];
    lora_error errors[JOBS_MAX_WORKERS];
} update;

static void update_job(void *arg, size_t index, uint32_t worker)
{
    update *u = arg;

    if (u->statuses[worker] == LORA_OK) {
        u->statuses[worker] = lora_plan_run_job(
            u->plan, index, u->scratch + worker * u->scratch_bytes,
            &u->errors[worker]);
    }
}

lora_status net_update(net *n, size_t *out_jobs, lora_error *error)
{
    update u = {.plan = n->plan};
    size_t bytes;

    TRY(lora_plan_job_count(out_jobs, n->plan, error));
    if (*out_jobs == 0) {
        return LORA_OK;
    }
    u.scratch_bytes = lora_plan_scratch_bytes(n->plan);
    bytes = u.scratch_bytes * n->workers->worker_count;
    u.scratch = arena_take(n->memory, bytes);
    if (u.scratch == NULL) {
        return LORA_ERROR_MEMORY;
    }
    for (size_t i = 0; i < JOBS_MAX_WORKERS; i++) {
        lora_error_init(&u.errors[i], sizeof u.errors[i]);
    }
    jobs_run(n->workers, update_job, &u, *out_jobs);
    arena_give(n->memory, u.scratch, bytes);
    for (size_t i = 0; i < n->workers->worker_count; i++) {
        if (u.statuses[i] != LORA_OK) {
            *error = u.errors[i]; /* what was not done can be run again */
            return u.statuses[i];
        }
    }
    return LORA_OK;
}

uint64_t net_hash(const net *n)
{
    uint64_t hash = 14695981039346656037U;

    for (size_t i = 0; i < n->count; i++) {
        const unsigned char *byte = n->tensors[i].data;

        for (size_t k = 0; k < n->tensors[i].bytes; k++) {
            hash = (hash ^ byte[k]) * 1099511628211U;
        }
    }
    return hash;
}
