/* Ranks for a size of the whole file. Every layer starts with the least it may
 * have; then directions are taken, each the next of its layer, in descending
 * order of sigma^2 / bytes, and the first that does not fit ends it. So a
 * larger size gives a layer no smaller a rank. What fits is not guessed: the
 * file is measured with its header. Source: algorithms.md 2.
 */
#include "format/sort.h"
#include "op/report.h"
#include "op/resize.h"

#include <math.h>

/* A layer becomes one rank more. */
typedef struct size_step {
    double score; /* sigma / sqrt(bytes): squares of tiny values underflow */
    size_t module;
    size_t rank;
} size_step;

typedef struct size_plan {
    lora__resize *job;
    size_step *steps;
    size_t count;
} size_plan;

/* Descending by score, then in the order of the file. */
static int size_compare(const void *a, const void *b)
{
    const size_step *x = a;
    const size_step *y = b;

    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    if (x->module != y->module) {
        return x->module < y->module ? -1 : 1;
    }
    return x->rank < y->rank ? -1 : 1;
}

static double size_of_number(const lora__resize *job,
                             const lora__module *module,
                             lora__role role)
{
    return lora_dtype_bits(lora__resize_dtype(job, module, role)) / 8.0;
}

/* Bytes of the direction that makes a module one of that rank: a row of each
 * factor, and what a core grows by, 2 rank - 1 times the kernel. */
static double
size_of_direction(const lora__resize *job, size_t index, size_t rank)
{
    const lora__module *module = &job->adapter->modules[index];
    int32_t ndim;
    const int64_t *shape = lora__resize_shape(&ndim, job, index);
    double rows = (double)shape[0];
    double cols = (double)shape[1];
    double kernel = (double)lora__shape_count(shape, 2, ndim);
    double core = 0.0;

    if (lora__resize_keeps_core(job, index)) {
        core = (2.0 * (double)rank - 1.0) * kernel *
               size_of_number(job, module, LORA__ROLE_MID);
        kernel = 1.0;
    }
    if (lora__resize_is_turned(job, index)) { /* the factors are of the layer */
        double other = rows;
        rows = cols;
        cols = other;
    }
    return rows * size_of_number(job, module, LORA__ROLE_UP) +
           cols * kernel * size_of_number(job, module, LORA__ROLE_DOWN) + core;
}

/* 1 for a module whose rank is chosen here. */
static int size_is_free(const size_plan *plan, size_t index)
{
    return lora__resize_spectrum(plan->job, index)->sigma != NULL &&
           !plan->job->results[index].left_out &&
           lora__resize_rule(plan->job, index)->kind == LORA_RANK_SIZE;
}

/* All steps that there are; without room for them, their number only. */
static void size_list_steps(size_plan *plan)
{
    const lora__resize *job = plan->job;

    plan->count = 0;
    for (size_t m = 0; m < job->adapter->module_count; m++) {
        const lora__spectrum *s = lora__resize_spectrum(job, m);
        size_t least;
        size_t most;
        if (!size_is_free(plan, m)) {
            continue;
        }
        lora__resize_range(&least, &most, job, s);
        for (size_t rank = least + 1; rank <= most; rank++) {
            if (plan->steps != NULL) {
                size_step *step = &plan->steps[plan->count];
                step->score =
                    s->sigma[rank - 1] / sqrt(size_of_direction(job, m, rank));
                step->module = m;
                step->rank = rank;
            }
            plan->count++;
        }
    }
}

/* Give every module the rank it has after so many steps. */
static void size_take(const size_plan *plan, size_t steps)
{
    lora__resize *job = plan->job;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        const lora__spectrum *s = lora__resize_spectrum(job, m);
        size_t most;
        if (size_is_free(plan, m)) {
            lora__resize_range(&job->results[m].planned, &most, job, s);
        }
    }
    for (size_t i = 0; i < steps; i++) {
        job->results[plan->steps[i].module].planned = plan->steps[i].rank;
    }
}

/* The size of the file after so many steps. */
static lora_status size_measure(uint64_t *out,
                                const size_plan *plan,
                                size_t steps,
                                lora_error *error)
{
    lora__resize *job = plan->job;

    size_take(plan, steps);
    for (size_t m = 0; m < job->adapter->module_count; m++) {
        const lora__spectrum *s = lora__resize_spectrum(job, m);
        lora_report_module *numbers = &job->report->modules[m];
        if (s->sigma != NULL && !job->results[m].left_out) {
            size_t rank = lora__resize_choose(job, m, s).rank;
            job->results[m].rank = rank;
            job->results[m].is_new = lora__resize_is_remade(job, m) ||
                                     (int64_t)rank != numbers->rank_in;
            numbers->rank_out = (int64_t)rank;
        }
    }
    return lora__resize_measure(out, job, error);
}

/* The most steps whose file is not larger than asked. */
static lora_status
size_search(size_t *out, const size_plan *plan, lora_error *error)
{
    double asked = plan->job->rule->value;
    size_t fits = 0;
    size_t fails = plan->count + 1;
    size_t next = plan->count;
    uint64_t bytes;

    TRY(size_measure(&bytes, plan, 0, error));
    if ((double)bytes > asked) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "size",
                          "with the least rank in every layer the file has "
                          "%llu bytes: it cannot have %.0f",
                          (unsigned long long)bytes, asked);
    }
    while (fails - fits > 1) {
        TRY(size_measure(&bytes, plan, next, error));
        if ((double)bytes <= asked) {
            fits = next;
        } else {
            fails = next;
        }
        next = fits + (fails - fits) / 2;
    }
    *out = fits;
    return LORA_OK;
}

/* What was measured is yet to be made. */
static void size_forget(lora__resize *job)
{
    for (size_t m = 0; m < job->adapter->module_count; m++) {
        job->results[m].is_new = 0;
        job->results[m].rank = 0;
    }
}

/* A job of lora__run_jobs(): the values of a module that the spectra cannot
 * have, as they are those of the base too. */
static lora_status
size_decompose(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    lora__resize *job = arg;
    lora_error found;
    lora_status status;

    (void)worker;
    if (!lora__resize_is_based(job, index) || job->results[index].left_out) {
        return LORA_OK;
    }
    lora_error_init(&found, sizeof found);
    status = lora__resize_based_spectrum(job, index, &found);
    if (status == LORA_ERROR_NONFINITE) {
        return lora__resize_nonfinite(job, index, error);
    }
    if (status != LORA_OK) {
        lora__error_merge(error, &found);
        lora__error_set_subject(error, job->adapter->modules[index].name);
    }
    return status;
}

LORA_PRIVATE lora_status lora__resize_plan_size(lora__resize *job,
                                                lora_error *error)
{
    size_plan plan = {job, NULL, 0};
    size_t steps = 0;
    size_t count;
    void *memory;
    lora_status status;

    for (size_t m = 0; m < job->adapter->module_count; m++) {
        if (job->spectra->layers[m].is_nonfinite) {
            TRY(lora__resize_nonfinite(job, m, error));
        }
    }
    TRY(lora__run_jobs(job->adapter->context, "decompose", size_decompose, job,
                       job->adapter->module_count, error));
    size_list_steps(&plan);
    count = plan.count;
    TRY(lora__alloc_zeroed(&memory, job->adapter->context, count,
                           sizeof *plan.steps, error));
    plan.steps = memory;
    size_list_steps(&plan);
    lora__sort(plan.steps, count, sizeof *plan.steps, size_compare);
    status = size_search(&steps, &plan, error);
    if (status == LORA_OK) {
        size_take(&plan, steps);
        size_forget(job);
    }
    lora__free(job->adapter->context, plan.steps, count * sizeof *plan.steps,
               LORA__ALIGN);
    return status;
}
