/* What a resize of DoRA costs: the change inside is not what is added to the
 * weight. With the base the changed weights are compared, before and after;
 * they are read a few rows at a time.
 */
#include "op/report.h"
#include "op/resize.h"

#include <math.h>

typedef struct dora_job {
    lora__resize *resize;
    const lora_adapter *result;
} dora_job;

/* Whether a row of the report is of DoRA that stays DoRA. */
static int dora_applies(const lora__resize *job, size_t index)
{
    return job->adapter->modules[index].dora && !job->pairs &&
           !lora__resize_is_based(job, index) && !job->results[index].left_out;
}

/* The row of the report: shares are of the change of the weight. */
static void
dora_numbers(lora__resize *job, size_t index, double squares, double lost)
{
    lora_report_module *numbers = &job->report->modules[index];
    double inside = 0.0;

    for (size_t i = 0; i < numbers->sigma_count; i++) {
        inside += numbers->sigma[i] * numbers->sigma[i];
    }
    numbers->error = sqrt(lost);
    numbers->energy = squares > 0.0 ? 1.0 - lost / squares : 1.0;
    numbers->frobenius = sqrt(numbers->energy > 0.0 ? numbers->energy : 0.0);
    job->results[index].beyond = squares - inside; /* for the totals */
}

/* A job of lora__run_jobs(). */
static lora_status
dora_measure(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const dora_job *job = arg;
    lora__resize *resize = job->resize;
    const lora__module *module = &resize->adapter->modules[index];
    const lora__module *made;
    lora__found_base found[2];
    lora__rows before;
    lora__rows after;
    double squares = 0.0;
    double lost = 0.0;
    size_t there;
    lora_status status;

    (void)worker;
    if (!dora_applies(resize, index)) {
        return LORA_OK;
    }
    TRY(lora_adapter_find_module(&there, job->result, module->name, error));
    made = &job->result->modules[there];
    TRY(lora__base_rows(&before, &found[0], resize->base, resize->adapter,
                        module, LORA_PART_WEIGHT, LORA_DTYPE_F64, error));
    status = lora__base_rows(&after, &found[1], resize->base, job->result, made,
                             LORA_PART_WEIGHT, LORA_DTYPE_F64, error);
    if (status == LORA_OK) {
        status = lora__resize_difference(&lost, &squares, &before, module,
                                         &after, made, error);
        lora__rows_destroy(&after);
    }
    lora__rows_destroy(&before);
    if (status == LORA_OK) {
        dora_numbers(resize, index, squares, lost);
    }
    return status;
}

LORA_PRIVATE lora_status lora__resize_dora(lora__resize *job,
                                           const lora_adapter *result,
                                           lora_error *error)
{
    dora_job measuring = {job, result};
    size_t count = job->adapter->module_count;

    if (job->base != NULL && !job->pairs) {
        return lora__run_jobs(job->adapter->context, "measure", dora_measure,
                              &measuring, count, error);
    }
    for (size_t m = 0; m < count; m++) {
        if (dora_applies(job, m)) {
            TRY(lora__problems_add(
                &job->report->problems, LORA_SEVERITY_NOTE, LORA_OK, "dora",
                job->adapter->modules[m].name, error,
                "its magnitudes are kept, and its error is that of the change "
                "inside: with the base it is that of the weight"));
        }
    }
    return LORA_OK;
}
