/* The kinds of adapters that PEFT has, and what its configurations say. */
#ifndef LORA__OP_PEFT_TYPE_H
#define LORA__OP_PEFT_TYPE_H

#include "op/emit.h"

struct lora__peft_type {
    const char *id;    /* its peft_type */
    const char *alpha; /* its field for alpha; NULL: it has neither that nor a
                        * rank */
    uint64_t roles;    /* of its layers, in this dialect and others */
    int32_t is_pair;   /* fields of LoRA alone */
    int32_t has_core;  /* convolutions have cores all, or none */
    int32_t is_kronecker;
    int32_t has_sides;  /* some scale inputs, and are named */
    const char *blocks; /* its field for their number and their side; NULL: */
    const char *side;   /* it has no blocks */
    int32_t is_butterfly;
};

/* The type of PEFT that a module is of, or NULL. */
LORA_PRIVATE const lora__peft_type *
lora__peft_type_of(const lora__module *module);

/* That of plain LoRA. */
LORA_PRIVATE const lora__peft_type *lora__peft_type_plain(void);

/* That of LoKr. */
LORA_PRIVATE const lora__peft_type *lora__peft_type_kronecker(void);

/* PEFT makes the layers of LoHa, LoKr, OFT and BOFT by its configuration, and
 * loads what fits them. Fill in what the configuration of these modules has to
 * say, and the ranks and alphas of whole tensors. UNSUPPORTED, with the module,
 * if nothing gives them all. `count` of the adapter's modules, one type. */
LORA_PRIVATE lora_status lora__peft_plan(lora__emit_alpha *alphas,
                                         const lora_adapter *adapter,
                                         size_t count,
                                         lora_error *error);

#endif
