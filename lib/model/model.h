/* The public handles of models and bindings, inside the library. */
#ifndef LORA__MODEL_MODEL_H
#define LORA__MODEL_MODEL_H

#include "model/bind.h"

#include <lora/model.h>

/* A checkpoint's tensors, or those of a host, or a family's targets. */
struct lora_model {
    uint32_t references; /* atomic */
    lora_context *context;
    lora__checkpoint *checkpoint; /* NULL while tensors are being added */
    int shapeless; /* 1: of a family, whose tensors have no shapes and cannot
                    * be read */
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
};

#endif
