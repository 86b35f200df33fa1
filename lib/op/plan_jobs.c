/* Running a plan's jobs.
 *
 * First the rows that are to be kept are, then new ones are made of those and
 * written. The thread that ends a tensor's last job marks it as made.
 */
#include "op/plan.h"

#include <string.h>

/* Scratch may begin anywhere. */
#define PLAN_SLACK (LORA__ALIGN_NUMERIC - 1)

static size_t plan_numbers_bytes(const lora_plan *plan)
{
    return (plan->rows_bytes + PLAN_SLACK) & ~(size_t)PLAN_SLACK;
}

LORA_API size_t lora_plan_scratch_bytes(const lora_plan *plan)
{
    return plan == NULL || plan->job_count == 0
               ? 0
               : PLAN_SLACK + plan_numbers_bytes(plan) + plan->stored_bytes;
}

LORA_API lora_status lora_plan_job_count(size_t *out_count,
                                         lora_plan *plan,
                                         lora_error *error)
{
    lora__error_begin(error);
    CHECK_ARG(out_count != NULL, error);
    *out_count = 0;
    CHECK_ARG(plan != NULL, error);
    TRY(lora__plan_cut(plan, error));
    *out_count = plan->job_count;
    return LORA_OK;
}

/* ---- one job ----------------------------------------------------------- */

/* Rows [begin, end), which are whole blocks. */
static lora_status plan_make(const lora__plan_work *work,
                             const lora__patched *patched,
                             size_t tensor,
                             size_t begin,
                             size_t end,
                             lora_error *error)
{
    const lora__plan_target *target = &work->plan->targets[tensor];
    lora__patcher *patcher;
    lora_status status = LORA_OK;

    TRY(lora__patcher_open(&patcher, patched, tensor, error));
    while (begin < end) {
        const size_t left = end - begin;
        const size_t count =
            left < target->chunk_rows ? left : target->chunk_rows;
        TRY_OR_DONE(
            lora__patcher_read(work->rows, patcher, begin, count, error));
        TRY_OR_DONE(lora__plan_write(work, tensor, begin, count, error));
        begin += count;
    }
done:
    lora__patcher_close(patcher);
    return status;
}

/* Blocks [first, end) of a target. */
static lora_status plan_make_blocks(const lora__plan_work *work,
                                    const lora__patched *patched,
                                    size_t tensor,
                                    size_t first,
                                    size_t end,
                                    lora_error *error)
{
    lora__plan_target *target = &work->plan->targets[tensor];
    const size_t last = end * target->block_rows;

    lora__atomic_store_u32(&target->touched, 1);
    if (target->wanted.count != 0) {
        return plan_make(work, patched, tensor, first * target->block_rows,
                         end == target->block_count ? target->rows : last,
                         error);
    }
    for (size_t b = first; b < end; b++) {
        TRY(lora__plan_restore(work, tensor, b, error));
    }
    return LORA_OK;
}

/* All jobs of a target are done. */
static void plan_end_target(lora_plan *plan, size_t tensor)
{
    lora__plan_target *target = &plan->targets[tensor];

    lora__plan_unmark(&target->applied, plan->context);
    target->applied = target->wanted;
    memset(&target->wanted, 0, sizeof target->wanted);
    if (target->applied.count == 0) {
        lora__plan_unsave(target, plan->context);
    }
    lora__atomic_store_u32(&target->touched, 0);
}

static void plan_blocks(const lora_plan *plan,
                        const lora__plan_job *job,
                        size_t tensor,
                        size_t *out_first,
                        size_t *out_end)
{
    const int all = job->block == SIZE_MAX;

    *out_first = all ? 0 : job->block;
    *out_end = all ? plan->targets[tensor].block_count : job->block + 1;
}

static lora_status plan_do_job(const lora__plan_work *work,
                               const lora__plan_job *job,
                               lora_error *error)
{
    lora_plan *plan = work->plan;
    lora__plan_work own = *work;
    lora__patched patched;
    size_t first;
    size_t end;

    memset(&patched, 0, sizeof patched);
    patched.model = plan->checkpoint;
    patched.patches = plan->patches;
    patched.patch_count = plan->patch_count;
    patched.rule = plan->options.strength_rule;
    patched.dora = plan->options.dora_rule;
    patched.source = lora__plan_source;
    patched.source_user = &own;
    for (size_t i = job->first; i < job->end; i++) {
        plan_blocks(plan, job, plan->order[i], &first, &end);
        for (size_t b = first; b < end; b++) {
            TRY(lora__plan_save(work, plan->order[i], b, error));
        }
    }
    for (size_t i = job->first; i < job->end; i++) {
        plan_blocks(plan, job, plan->order[i], &first, &end);
        TRY(plan_make_blocks(work, &patched, plan->order[i], first, end,
                             error));
    }
    return LORA_OK;
}

static lora_status
plan_run_at(const lora__plan_work *work, size_t index, lora_error *error)
{
    lora_plan *plan = work->plan;
    lora__plan_job *job = &plan->jobs[index];

    if (lora__atomic_load_u32(&job->done)) {
        return LORA_OK;
    }
    TRY(plan_do_job(work, job, error));
    lora__atomic_store_u32(&job->done, 1);
    for (size_t i = job->first; i < job->end; i++) {
        lora__plan_target *target = &plan->targets[plan->order[i]];
        if (lora__atomic_add_u32(&target->jobs_left, UINT32_MAX) == 0) {
            plan_end_target(plan, plan->order[i]);
        }
    }
    return LORA_OK;
}

static lora__plan_work plan_work(lora_plan *plan, void *scratch)
{
    lora__plan_work work;
    uintptr_t at = ((uintptr_t)scratch + PLAN_SLACK) & ~(uintptr_t)PLAN_SLACK;
    unsigned char *aligned =
        (unsigned char *)scratch + (size_t)(at - (uintptr_t)scratch);

    work.plan = plan;
    work.rows = (float *)(void *)aligned;
    work.stored = aligned + plan_numbers_bytes(plan);
    return work;
}

LORA_API lora_status lora_plan_run_job(lora_plan *plan,
                                       size_t index,
                                       void *scratch,
                                       lora_error *error)
{
    lora__plan_work work;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    CHECK_ARG(scratch != NULL, error);
    if (plan->jobs == NULL) {
        return lora__fail(error, LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
                          "no jobs: call lora_plan_job_count() after a change");
    }
    if (index >= plan->job_count) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
                          "job %llu of %llu", (unsigned long long)index,
                          (unsigned long long)plan->job_count);
    }
    work = plan_work(plan, scratch);
    return plan_run_at(&work, index, error);
}

/* ---- all jobs ---------------------------------------------------------- */

typedef struct plan_run {
    lora_plan *plan;
    unsigned char *scratch; /* one a worker */
    size_t scratch_bytes;
} plan_run;

static lora_status
plan_run_one(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const plan_run *run = arg;
    const lora__plan_work work =
        plan_work(run->plan, run->scratch + worker * run->scratch_bytes);

    return plan_run_at(&work, index, error);
}

LORA_API lora_status lora_plan_run(lora_plan *plan, lora_error *error)
{
    plan_run run;
    size_t bytes;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(plan != NULL, error);
    TRY(lora__plan_cut(plan, error));
    if (plan->job_count == 0) {
        return LORA_OK;
    }
    run.plan = plan;
    run.scratch_bytes = lora_plan_scratch_bytes(plan);
    if (!lora__mul_size(run.scratch_bytes, lora__concurrency(plan->context),
                        &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    run.scratch = lora__alloc(plan->context, bytes, LORA__ALIGN_NUMERIC);
    status = run.scratch == NULL
                 ? lora__fail_memory(error, bytes)
                 : lora__run_jobs(plan->context, "plan", plan_run_one, &run,
                                  plan->job_count, error);
    lora__free(plan->context, run.scratch, bytes, LORA__ALIGN_NUMERIC);
    lora__plan_uncut(plan);
    return status;
}
