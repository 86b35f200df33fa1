/* What operations have in common that remake modules. */
#include "op/remake.h"

#include "op/values.h"

#include <math.h>
#include <string.h>

LORA_PRIVATE lora_status lora__remake_begin(lora__remake *out,
                                            const lora_adapter *adapter,
                                            int skip_bad,
                                            lora_error *error)
{
    lora__values *values;
    void *memory;

    out->adapter = adapter;
    out->emit.source = adapter;
    out->kernels = lora__kernels_get(lora__context_get(adapter->context)->cpu);
    lora__arena_init(&out->arena, adapter->context);
    TRY(lora__report_create(&out->report, adapter->context, error));
    TRY(lora__arena_zeroed(&memory, &out->arena, adapter->module_count + 1, 1,
                           error));
    out->left_out = memory;
    TRY(lora__arena_zeroed(&memory, &out->arena,
                           adapter->container->entry_count, sizeof *values,
                           error));
    values = memory;
    TRY(lora__values_scan(values, adapter, error));
    return lora__values_admit(out->left_out, values, adapter, skip_bad, error);
}

LORA_PRIVATE void lora__remake_end(lora__remake *remake,
                                   lora_status status,
                                   lora_report **out_report)
{
    lora__emit_end(&remake->emit);
    lora__arena_destroy(&remake->arena);
    if (status == LORA_OK && out_report != NULL) {
        *out_report = remake->report;
        remake->report = NULL;
    }
    lora_report_destroy(remake->report);
}

/* ---- the report -------------------------------------------------------- */

static double remake_share(double squares, double lost)
{
    double kept = squares > 0.0 ? 1.0 - lost / squares : 1.0;

    return kept > 0.0 ? kept : 0.0;
}

LORA_PRIVATE lora_status lora__remake_begin_rows(lora__remake *remake,
                                                 lora_error *error)
{
    lora_report *report = remake->report;

    TRY(lora__report_add_modules(report, remake->adapter->module_count, error));
    report->module_count = 0;
    lora__buffer_puts(&report->json, "{\"modules\":[");
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__remake_begin_row(lora__remake *remake,
                                                const lora__module *module,
                                                int64_t rank_out,
                                                double squares,
                                                double lost,
                                                lora_error *error)
{
    lora_report *report = remake->report;
    lora_report_module *row = &report->modules[report->module_count];

    row->struct_size = sizeof *row;
    TRY(lora__arena_string(&row->name, &report->arena, module->name,
                           strlen(module->name), error));
    row->rank_in = module->rank;
    row->rank_out = rank_out;
    row->energy = remake_share(squares, lost);
    row->error = sqrt(lost);
    row->frobenius = sqrt(row->energy);
    remake->squares += squares;
    remake->lost += lost;
    lora__buffer_puts(&report->json, report->module_count == 0 ? "{" : ",{");
    lora__report_put_string(&report->json, "name", module->name);
    return LORA_OK;
}

LORA_PRIVATE void lora__remake_end_row(lora__remake *remake)
{
    lora_report *report = remake->report;
    const lora_report_module *row = &report->modules[report->module_count++];

    lora__report_put_number(&report->json, "energy", row->energy);
    lora__report_put_number(&report->json, "error", row->error);
    lora__buffer_putc(&report->json, '}');
}

LORA_PRIVATE void lora__remake_end_rows(lora__remake *remake)
{
    lora__buffer *json = &remake->report->json;

    lora__buffer_puts(json, "],\"totals\":{");
    lora__report_put_number(json, "energy",
                            remake_share(remake->squares, remake->lost));
    lora__report_put_number(json, "error", sqrt(remake->lost));
    lora__buffer_putc(json, '}');
}
