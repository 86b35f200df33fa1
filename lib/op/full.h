/* Full differences of what modules change. */
#ifndef LORA__OP_FULL_H
#define LORA__OP_FULL_H

#include "adapter/adapter.h"
#include "model/checkpoint.h"

#include <lora/report.h>

/* Make every module whose weight changes a full difference, in a type, or that
 * of its factors (NONE). The changes are computed when they are read, of the
 * adapter and the base, which both stay open: nothing is kept but the module
 * that was read last. The report, which may be NULL, says what rounding to the
 * type loses.
 *
 * `base` may be NULL where no module needs it; `named` is the dialect that the
 * result is for, NULL the adapter's own. */
LORA_PRIVATE lora_status lora__full_make(lora_adapter **out,
                                         lora_report **out_report,
                                         lora_adapter *adapter,
                                         lora__checkpoint *base,
                                         const lora__dialect *named,
                                         lora_dtype dtype,
                                         int skip_bad,
                                         lora_error *error);

#endif
