/* Findings, for what repairs them. */
#ifndef LORA__OP_CHECK_H
#define LORA__OP_CHECK_H

#include "op/report.h"
#include "op/values.h"

#include <lora/check.h>

/* What other programs make of a module's alpha. */
typedef enum lora__alpha_doubt {
    LORA__ALPHA_CLEAR,   /* what we do */
    LORA__ALPHA_MISSING, /* scale 1, or that of the other modules */
    LORA__ALPHA_ZERO,    /* the rank, or no effect */
    LORA__ALPHA_NEGATIVE /* some never return from it */
} lora__alpha_doubt;

LORA_PRIVATE lora__alpha_doubt lora__check_alpha(const lora__module *module);

/* The largest finite F16: what is above becomes infinite in it. */
#define LORA__CHECK_F16_MAX 65504.0

/* The options: the guess of the base, or the one that was named. */
LORA_PRIVATE lora_status lora__check_family(const lora__family **out,
                                            const lora_adapter *adapter,
                                            const char *id,
                                            lora_error *error);

/* Add all findings to the report's problems, those of opening first. *values,
 * one a tensor, live as long as the report. */
LORA_PRIVATE lora_status lora__check_find(lora_report *report,
                                          lora__values **values,
                                          const lora_adapter *adapter,
                                          const lora__family *family,
                                          lora_error *error);

/* Append "verdict", the numbers of findings, and "problems". */
LORA_PRIVATE void lora__check_put(lora_report *report);

#endif
