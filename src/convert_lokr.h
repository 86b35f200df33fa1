/* convert --as lokr: a step after the others. */
#ifndef CONVERT_LOKR_H
#define CONVERT_LOKR_H

#include "app.h"

#include <lora/convert.h>

/* Make LoKr of *adapter, which is replaced, in the names that it has by now and
 * of numbers that were not rounded before; what stays as it is gets the type
 * that was asked for, too.
 * *report, which is replaced, may be NULL. */
lora_status convert_lokr(lora_adapter **adapter,
                         lora_report **report,
                         const app_state *app,
                         uint64_t factor,
                         int32_t rank,
                         lora_error *error);

#endif
