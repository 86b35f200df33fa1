/* What operations work with that make other modules of those of an adapter: a
 * new adapter, and a report with a row for each that was made. */
#ifndef LORA__OP_REMAKE_H
#define LORA__OP_REMAKE_H

#include "op/emit.h"
#include "op/report.h"

typedef struct lora__remake {
    const lora_adapter *adapter;
    const lora__kernels *kernels;
    lora__arena arena;
    lora__emit emit;
    lora_report *report;
    unsigned char *left_out; /* one a module: 1 is unusable */
    double squares;          /* of the changes of all rows */
    double lost;             /* of what they lost */
} lora__remake;

/* Refuse unusable modules and values, or leave them out on demand. Zeroed
 * before; on failure there is something to end too. */
LORA_PRIVATE lora_status lora__remake_begin(lora__remake *out,
                                            const lora_adapter *adapter,
                                            int skip_bad,
                                            lora_error *error);

/* Give everything back; the report, where all went well, to who asked for it.
 */
LORA_PRIVATE void lora__remake_end(lora__remake *remake,
                                   lora_status status,
                                   lora_report **out_report);

/* Room for the rows, and the beginning of the text. */
LORA_PRIVATE lora_status lora__remake_begin_rows(lora__remake *remake,
                                                 lora_error *error);

/* A row of squared norms, of the change and of its error, and the text of it up
 * to its own members, which follow; lora__remake_end_row() closes it. */
LORA_PRIVATE lora_status lora__remake_begin_row(lora__remake *remake,
                                                const lora__module *module,
                                                int64_t rank_out,
                                                double squares,
                                                double lost,
                                                lora_error *error);
LORA_PRIVATE void lora__remake_end_row(lora__remake *remake);

/* The totals; what else the text has is for the caller to add and to close. */
LORA_PRIVATE void lora__remake_end_rows(lora__remake *remake);

#endif
