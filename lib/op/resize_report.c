/* The report of rank conversion. */
#include "op/report.h"
#include "op/resize.h"

#include <math.h>

/* Squares are of shares of the largest value, as those of the smallest layers
 * underflow. */
LORA_PRIVATE void lora__resize_numbers(lora_report_module *out,
                                       size_t keep,
                                       size_t rank,
                                       double discarded)
{
    const double *sigma = out->sigma;
    double largest = out->sigma_count > 0 ? sigma[0] : 0.0;
    double total = 0.0;

    for (size_t i = 0; i < out->sigma_count; i++) {
        total += sigma[i] * sigma[i];
        if (largest > 0.0) {
            out->stable_rank += sigma[i] / largest * (sigma[i] / largest);
        }
    }
    out->rank_out = (int64_t)rank;
    out->error = sqrt(discarded);
    out->energy = total > 0.0 ? 1.0 - discarded / total : 1.0;
    out->spectral = keep < out->sigma_count ? sigma[keep] : 0.0;
    out->frobenius = sqrt(out->energy > 0.0 ? out->energy : 0.0);
    out->largest = largest;
    out->least = keep > 0 ? sigma[keep - 1] : 0.0;
    out->effective_rank = lora__rank_effective(sigma, out->sigma_count);
}

static void
resize_put_totals(lora__resize *job, const lora_adapter *result, double total)
{
    lora__buffer *json = &job->report->json;
    double discarded = 0.0;
    uint64_t bytes_in = 0;
    uint64_t bytes_out = 0;

    for (size_t m = 0; m < job->report->module_count; m++) {
        const lora_report_module *module = &job->report->modules[m];
        for (size_t i = 0; i < module->sigma_count; i++) {
            total += module->sigma[i] * module->sigma[i];
        }
        discarded += module->error * module->error;
    }
    for (size_t i = 0; i < job->adapter->container->entry_count; i++) {
        bytes_in += job->adapter->container->entries[i].bytes;
    }
    for (size_t i = 0; i < result->container->entry_count; i++) {
        bytes_out += result->container->entries[i].bytes;
    }
    lora__report_put_totals(job->report, total, discarded);
    lora__report_put_u64(json, "bytes_in", bytes_in);
    lora__report_put_u64(json, "bytes_out", bytes_out);
    lora__buffer_putc(json, '}');
}

/* Modules that were left out have no numbers; they are problems. */
static lora_status resize_drop_rows(lora__resize *job, lora_error *error)
{
    lora_report *report = job->report;
    size_t count = 0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        if (!job->results[m].left_out) {
            report->modules[count++] = report->modules[m];
            continue;
        }
        TRY(lora__problems_add(
            &report->problems, LORA_SEVERITY_WARNING, LORA_OK, "left_out",
            job->adapter->modules[m].name, error, "unusable, so left out"));
    }
    report->module_count = count;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__resize_report(lora__resize *job,
                                             const lora_adapter *result,
                                             lora_error *error)
{
    lora__buffer *json = &job->report->json;

    double beyond = 0.0;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        beyond += job->results[m].beyond;
    }
    TRY(resize_drop_rows(job, error));

    lora__buffer_putc(json, '{');
    lora__report_put_modules(job->report);
    resize_put_totals(job, result, beyond);
    lora__report_put_problems(job->report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(job->report, error);
}
