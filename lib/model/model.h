/* The public handles of models and bindings, inside the library. */
#ifndef LORA__MODEL_MODEL_H
#define LORA__MODEL_MODEL_H

#include "model/bind.h"
#include "model/select.h"

#include <lora/model.h>

/* A tensor of a host, beside what the container has of it. */
typedef struct lora__hosted {
    size_t prefix; /* bytes before the host's own name */
    lora__listed listed;
} lora__hosted;

/* A checkpoint's tensors, or those of a host, or a family's targets. */
struct lora_model {
    uint32_t references; /* atomic */
    lora_context *context;
    const lora__family *family;   /* what it was said to be, or NULL */
    lora__checkpoint *checkpoint; /* NULL while tensors are being added */
    lora__container *hosts;       /* what tensors are added to; else NULL */
    lora__hosted *hosted;         /* one for each of its entries */
    size_t hosted_capacity;
};

/* Immutable. */
struct lora_binding {
    uint32_t references; /* atomic */
    lora_context *context;
    lora_model *model;     /* retained */
    lora_adapter *adapter; /* the same */
    lora__bind bind;
    double *factors; /* one for each module of the adapter: the product of what
                      * the selections say; 0: it is left out */
    lora__selected *selections;
    size_t selection_count;
    lora_binding_verdict verdict;
    size_t counts[LORA_BINDING_LEFT_OUT + 1]; /* of items, by state */
};

/* 1 if its tensors are in files. */
static inline int lora__model_is_of_files(const lora_model *model)
{
    return model->checkpoint != NULL && model->hosts == NULL &&
           !model->checkpoint->catalogue;
}

/* The name of a tensor, as the model's owner knows it. */
LORA_PRIVATE const char *lora__model_tensor_name(const lora_model *model,
                                                 size_t tensor);

/* What became of an item, with what the selections say. */
LORA_PRIVATE lora_binding_state
lora__binding_state_of(const lora_binding *binding, size_t item);

/* The model's name that is nearest to an item's, or NULL. */
LORA_PRIVATE const char *lora__binding_nearest(const lora_binding *binding,
                                               size_t item);

#endif
