/* Repairing: what fix.c and fix_scale.c share. */
#ifndef LORA__OP_FIX_H
#define LORA__OP_FIX_H

#include "adapter/builder.h"
#include "op/check.h"

/* What is done to the numbers of a module. Nothing of it changes the weight
 * change. */
typedef struct lora__fix_scale {
    int has_alpha;      /* alpha becomes `alpha` */
    double alpha;       /* above 0 */
    lora_dtype dtype;   /* of alpha, where there was none */
    double up_factor;   /* for up, and its bias where it is a sign */
    double bias_factor; /* for up's bias */
    double down_factor;
    lora__alpha_doubt doubt; /* that this clears */
    int rescales;            /* a factor was over the range of F16 */
} lora__fix_scale;

/* Find out what to do. `mixed`: other modules of the file have an alpha. */
LORA_PRIVATE lora_status lora__fix_scale_find(lora__fix_scale *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              const lora__values *values,
                                              int mixed,
                                              lora_error *error);

/* What a tensor of a role is multiplied by. */
LORA_PRIVATE double lora__fix_scale_factor(const lora__fix_scale *scale,
                                           lora__role role);

#endif
