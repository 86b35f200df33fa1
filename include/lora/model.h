/* Models and bindings: what an adapter changes, and what it does not.
 *
 * A model is a list of tensors that adapters may change: those of a checkpoint,
 * those of a host, or the targets of a family of base models, of which only the
 * names are known. A binding says for each module of an adapter which tensors
 * of a model it changes, or why none: nothing is passed over in silence.
 *
 * Ownership: strings handed out live as long as the handle they come from. A
 * binding keeps its model and its adapter alive.
 * Threads: bindings, and models that are bound or opened, are immutable; any
 * number of threads may use one. While tensors are added to a model nobody else
 * may use it.
 */
#ifndef LORA_MODEL_H
#define LORA_MODEL_H

#include <lora/adapter.h>
#include <lora/report.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_model lora_model;
typedef struct lora_binding lora_binding;

/* How the dimensions of a host's tensor are listed. */
typedef int32_t lora_order;

enum {
    LORA_ORDER_ROWS = 0, /* [out, in, ...], as in torch and safetensors */
    LORA_ORDER_GGML = 1  /* the other way round: ne[0] is the fastest */
};

/** Rows of a tensor of a host that are one layer's: frozen. */
typedef struct lora_model_part {
    const char *target; /* of a layer, as diffusers names it */
    int64_t row_begin;
    int64_t row_end;
} lora_model_part;

/** A tensor of a host. */
typedef struct lora_model_tensor {
    size_t struct_size;
    const char *name;            /* "<module>.weight", "<module>.bias" */
    const char *component;       /* "unet", "text_encoder_2" ..., or NULL: the
                                  * name says it, or nothing does */
    const lora_model_part *parts; /* NULL: as the family's names say */
    size_t part_count;
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    lora_order order;
    lora_dtype dtype; /* F32 for formats that only the host reads */
    uint32_t reserved1;
} lora_model_tensor;

/** What became of a module, or of a tensor that is of none. */
typedef int32_t lora_binding_state;

enum {
    LORA_BINDING_BOUND = 0,   /* it changes tensors of the model */
    LORA_BINDING_HALF = 1,    /* of weight and bias the model has only one, and
                               * that is changed */
    LORA_BINDING_NOWHERE = 2, /* the model has no such weight */
    LORA_BINDING_SHAPE = 3,   /* it has one of another shape */
    LORA_BINDING_DTYPE = 4,   /* one whose numbers cannot be changed */
    LORA_BINDING_PARTNER = 5, /* the adapter has half of the module */
    LORA_BINDING_DAMAGED = 6, /* the module is unusable for another reason */
    LORA_BINDING_UNSUPPORTED = 7,
    LORA_BINDING_UNKNOWN = 8, /* a tensor that is of no module */
    LORA_BINDING_LEFT_OUT = 9 /* a selection says 0 */
};

#ifdef __cplusplus
}
#endif

#endif
