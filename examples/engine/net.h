/* The engine's network: its weights in the engine's memory, and the adapters
 * that are in them.
 */
#ifndef ENGINE_NET_H
#define ENGINE_NET_H

#include "arena.h"
#include "jobs.h"
#include "pack.h"

enum { NET_MAX_TENSORS = 64 };

typedef struct net_tensor {
    void *data;
    size_t bytes;
} net_tensor;

typedef struct net {
    arena *memory;
    jobs *workers;
    lora_model *model; /* the names and shapes of the tensors */
    lora_plan *plan;   /* what is to be in them */
    size_t count;
    net_tensor tensors[NET_MAX_TENSORS];
} net;

/* Copy the weights into memory. net_end() is due also when this fails. */
lora_status net_begin(net *n,
                      arena *memory,
                      jobs *workers,
                      const lora_adapter *weights,
                      lora_context *context,
                      lora_error *error);
void net_end(net *n);

/* Bring the weights in step with the plan, on the engine's workers. */
lora_status net_update(net *n, size_t *out_jobs, lora_error *error);

/* FNV-1a, of all weights. */
uint64_t net_hash(const net *n);

#endif
