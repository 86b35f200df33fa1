/* Cutting modules with a core (Tucker) that keep it.
 *
 * The change is a tensor T[out, in, K], its two sides are cut one after the
 * other, as in the higher-order SVD:
 *
 *   T unfolded as [out, in K] = U S V^T     Q1 = U^T, Y = Q1 T = S V^T
 *   Y unfolded as [in, k K]  = U' S' V'^T   Q2 = U'^T, G = Y Q2^T
 *
 * with Y of all directions first, whose second unfolding has the singular
 * values of that of T. The k leading directions of both sides give
 *
 *   up = Q1^T [out, k]   core = G [k, k, K]   down = Q2 [k, in]
 *
 * whose error is at most sqrt(2) of the least that tensors of this form have.
 * Both sides have one rank, as trainers write them: a rule sees, of each
 * direction, the larger of the two sides' singular values. Scale and size go
 * into the three evenly, by the cube root.
 */
#include "linalg/block.h"
#include "op/factor_error.h"
#include "op/factor_split.h"
#include "op/report.h"
#include "op/resize.h"

#include <math.h>
#include <string.h>

typedef struct core_work {
    lora_context *context;
    const lora__kernels *kernels;
    const lora__spectra_work *first; /* T by its factors */
    size_t out, in, kernel;
    size_t outer, inner; /* the stored ranks of up and down */
    size_t count;        /* directions of the first side */
    lora__block down;    /* [inner, in], as stored */
    lora__block mid;     /* [outer, inner, kernel], as stored */
    lora__block left;    /* [count, out]: Q1 */
    lora__block image;   /* [count, in kernel] */
    lora__block mixed;   /* [inner, count, kernel]: Y by down */
    lora__svd second;    /* of Y, unfolded */
    lora__block right;   /* [second.count, in]: Q2 */
    lora__block core;    /* [second.count, count, kernel]: G, transposed */
} core_work;

static void core_end(core_work *work)
{
    lora_context *context = work->context;

    lora__block_destroy(&work->down, context);
    lora__block_destroy(&work->mid, context);
    lora__block_destroy(&work->left, context);
    lora__block_destroy(&work->image, context);
    lora__block_destroy(&work->mixed, context);
    lora__svd_destroy(&work->second, context);
    lora__block_destroy(&work->right, context);
    lora__block_destroy(&work->core, context);
}

static lora_status core_load(lora__block *out,
                             const lora__resize *job,
                             const lora__module *module,
                             lora__role role,
                             lora_error *error)
{
    size_t index = lora__module_find(module, role)->entry;
    uint64_t elements = job->adapter->container->entries[index].elements;

    if (elements > SIZE_MAX / sizeof(double)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__block_create(out, (size_t)elements, 1, job->adapter->context,
                           error));
    return lora_adapter_read_tensor(out->at, out->count * sizeof *out->at,
                                    job->adapter, index, LORA_DTYPE_F64, error);
}

/* Balanced rows have the root of their singular value: take it out, or put it
 * in once more. */
static void core_weigh(const core_work *work,
                       lora__block *rows,
                       const lora__svd *svd,
                       int out)
{
    size_t length = rows->count / svd->count;

    for (size_t i = 0; i < svd->count; i++) {
        double root = sqrt(svd->sigma[i]);
        double by = out ? 1.0 / root : root;
        work->kernels->scale_f64(rows->at + i * length,
                                 svd->sigma[i] > 0.0 ? by : 0.0, length);
    }
}

/* mixed[j, i, x] = sum_r (Q1 up)[i, r] mid[r, j, x]: Y[i, q, x] is the sum over
 * j of that by down[j, q]. */
static void core_mix(core_work *work)
{
    const lora__factors *f = &work->first->factors;

    memset(work->mixed.at, 0, work->mixed.count * sizeof *work->mixed.at);
    for (size_t i = 0; i < work->count; i++) {
        for (size_t r = 0; r < work->outer; r++) {
            double by =
                work->kernels->dot_f64(work->left.at + i * work->out,
                                       f->up_t + r * work->out, work->out);
            for (size_t j = 0; j < work->inner; j++) {
                work->kernels->axpy_f64(
                    work->mixed.at + (j * work->count + i) * work->kernel,
                    work->mid.at + (r * work->inner + j) * work->kernel, by,
                    work->kernel);
            }
        }
    }
}

/* Both sides, whole. */
static lora_status core_decompose(core_work *work, lora_error *error)
{
    const lora__spectra_work *first = work->first;
    lora__svd_input input;
    size_t cols;

    if (!lora__mul_size(work->count, work->kernel, &cols)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__block_create(&work->left, work->count, work->out, work->context,
                           error));
    TRY(lora__block_create(&work->image, work->count, first->factors.cols,
                           work->context, error));
    TRY(lora__svd_truncate(work->left.at, work->image.at, first->svd,
                           &first->input, work->count, work->context, error));
    lora__block_destroy(&work->image, work->context);
    core_weigh(work, &work->left, first->svd, 1);
    TRY(lora__block_create(&work->mixed, work->inner, cols, work->context,
                           error));
    core_mix(work);
    input.rows = work->in;
    input.cols = cols;
    input.rank = work->inner;
    input.up_t = work->down.at;
    input.down = work->mixed.at;
    TRY(lora__svd_create(&work->second, work->context, &input, error));
    TRY(lora__block_create(&work->right, work->second.count, work->in,
                           work->context, error));
    TRY(lora__block_create(&work->core, work->second.count, cols, work->context,
                           error));
    TRY(lora__svd_truncate(work->right.at, work->core.at, &work->second, &input,
                           work->second.count, work->context, error));
    core_weigh(work, &work->right, &work->second, 1);
    core_weigh(work, &work->core, &work->second, 0);
    return LORA_OK;
}

static lora_status core_begin(core_work *work,
                              const lora__resize *job,
                              const lora__module *module,
                              const lora__spectra_work *first,
                              lora_error *error)
{
    const lora__entry *down =
        lora__module_entry(job->adapter, module, LORA__ROLE_DOWN);

    memset(work, 0, sizeof *work);
    work->context = job->adapter->context;
    work->kernels = job->kernels;
    work->first = first;
    work->out = first->factors.rows;
    work->in = (size_t)down->shape[1];
    work->kernel = first->factors.cols / work->in;
    work->outer = first->factors.rank;
    work->inner = (size_t)down->shape[0];
    work->count = first->svd->count;
    TRY(core_load(&work->down, job, module, LORA__ROLE_DOWN, error));
    TRY(core_load(&work->mid, job, module, LORA__ROLE_MID, error));
    return core_decompose(work, error);
}

/* The new tensors in f64: up transposed, core, down. */
typedef struct core_parts {
    size_t rank;
    lora__block up_t; /* [rank, out] */
    lora__block core; /* [rank, rank, kernel] */
    lora__block down; /* [rank, in] */
} core_parts;

static void core_end_parts(core_parts *parts, lora_context *context)
{
    lora__block_destroy(&parts->up_t, context);
    lora__block_destroy(&parts->core, context);
    lora__block_destroy(&parts->down, context);
}

/* The first `keep` directions of both sides; those behind are zero. */
static void core_take(core_parts *parts, const core_work *work, size_t keep)
{
    double scale = work->first->factors.scale;
    double top = fabs(scale) * work->first->svd->sigma[0];
    double part = cbrt(top);
    double rest = part > 0.0 ? fabs(scale) / part / part : 0.0;
    size_t right = keep < work->second.count ? keep : work->second.count;
    size_t step = work->kernel;

    memset(parts->up_t.at, 0, parts->up_t.count * sizeof(double));
    memset(parts->core.at, 0, parts->core.count * sizeof(double));
    memset(parts->down.at, 0, parts->down.count * sizeof(double));
    memcpy(parts->up_t.at, work->left.at, keep * work->out * sizeof(double));
    memcpy(parts->down.at, work->right.at, right * work->in * sizeof(double));
    for (size_t i = 0; i < keep; i++) {
        for (size_t j = 0; j < right; j++) {
            memcpy(parts->core.at + (i * parts->rank + j) * step,
                   work->core.at + (j * work->count + i) * step,
                   step * sizeof(double));
        }
    }
    work->kernels->scale_f64(parts->up_t.at, scale < 0.0 ? -part : part,
                             parts->up_t.count);
    work->kernels->scale_f64(parts->core.at, rest, parts->core.count);
    work->kernels->scale_f64(parts->down.at, part, parts->down.count);
}

static lora_status core_make(core_parts *parts,
                             const core_work *work,
                             lora__rank_choice choice,
                             lora_error *error)
{
    size_t cols;

    if (!lora__mul_size(choice.rank, work->kernel, &cols)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    parts->rank = choice.rank;
    TRY(lora__block_create(&parts->up_t, choice.rank, work->out, work->context,
                           error));
    TRY(lora__block_create(&parts->core, choice.rank, cols, work->context,
                           error));
    TRY(lora__block_create(&parts->down, choice.rank, work->in, work->context,
                           error));
    core_take(parts, work, choice.keep);
    return LORA_OK;
}

/* The squared error of what is written: the core multiplied into down again. */
static lora_status core_error(double *out,
                              const core_work *work,
                              const core_parts *parts,
                              lora_error *error)
{
    lora__block cored;
    size_t cols = work->first->factors.cols;
    lora_status status;

    TRY(lora__block_create(&cored, parts->rank, cols, work->context, error));
    memset(cored.at, 0, cored.count * sizeof *cored.at);
    for (size_t i = 0; i < parts->rank; i++) {
        for (size_t j = 0; j < parts->rank; j++) {
            for (size_t q = 0; q < work->in; q++) {
                work->kernels->axpy_f64(
                    cored.at + i * cols + q * work->kernel,
                    parts->core.at + (i * parts->rank + j) * work->kernel,
                    parts->down.at[j * work->in + q], work->kernel);
            }
        }
    }
    status = lora__factor_error(out, &work->first->factors, parts->up_t.at,
                                cored.at, parts->rank, work->kernels, error);
    lora__block_destroy(&cored, work->context);
    return status;
}

/* The parts are then rounded, as they are written. */
static lora_status core_store(lora__resize_result *result,
                              const core_parts *parts,
                              const lora__resize *job,
                              const lora__module *module,
                              lora_error *error)
{
    const struct {
        void **data;
        size_t *bytes;
        const lora__block *block;
        lora__role role;
    } all[] = {
        {&result->up, &result->up_bytes, &parts->up_t, LORA__ROLE_UP},
        {&result->core, &result->core_bytes, &parts->core, LORA__ROLE_MID},
        {&result->down, &result->down_bytes, &parts->down, LORA__ROLE_DOWN}};
    double lost = 0.0;

    for (size_t i = 0; i < LORA__COUNT(all); i++) {
        TRY(lora__resize_encode(
            all[i].data, all[i].bytes, all[i].block->at, &lost, parts->rank,
            all[i].block->count / parts->rank, all[i].role == LORA__ROLE_UP,
            lora__resize_dtype(job, module, all[i].role), module->name,
            job->adapter->context, error));
    }
    result->rank = parts->rank;
    result->is_new = 1;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__resize_core(lora__resize *job,
                                           size_t index,
                                           const lora__spectra_work *first,
                                           const lora__spectrum *spectrum,
                                           lora_error *error)
{
    const lora__module *module = &job->adapter->modules[index];
    lora_report_module *numbers = &job->report->modules[index];
    lora__spectrum larger = *spectrum;
    lora__block values = {NULL, 0};
    lora__rank_choice choice;
    core_parts parts;
    core_work work;
    double discarded = 0.0;
    lora_status status;

    memset(&parts, 0, sizeof parts);
    TRY_OR_DONE(core_begin(&work, job, module, first, error));
    TRY_OR_DONE(
        lora__block_create(&values, spectrum->count, 1, work.context, error));
    for (size_t i = 0; i < spectrum->count; i++) {
        double other = i < work.second.count
                           ? work.second.sigma[i] * spectrum->scale
                           : 0.0;
        values.at[i] = spectrum->sigma[i] > other ? spectrum->sigma[i] : other;
    }
    /* A size was measured with the ranks that the layer's own values give. */
    larger.sigma =
        job->rule->kind == LORA_RANK_SIZE ? spectrum->sigma : values.at;
    choice = lora__resize_choose(job, index, &larger);
    if (choice.rank == work.outer) { /* it stays what it was */
        TRY_OR_DONE(lora__resize_kept_error(&discarded, job, module,
                                            &first->factors, error));
        lora__resize_numbers(numbers, spectrum->count, choice.rank, discarded);
        goto done;
    }
    TRY_OR_DONE(core_make(&parts, &work, choice, error));
    TRY_OR_DONE(core_store(&job->results[index], &parts, job, module, error));
    TRY_OR_DONE(core_error(&discarded, &work, &parts, error));
    lora__resize_numbers(numbers, choice.keep, choice.rank, discarded);
done:
    core_end_parts(&parts, job->adapter->context);
    lora__block_destroy(&values, job->adapter->context);
    core_end(&work);
    return status;
}
