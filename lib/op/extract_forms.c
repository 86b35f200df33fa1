/* Extraction: what a layer's difference is written as. A kind is a row of the
 * table at the end. Source: formats.md 5.1 to 5.8, algorithms.md 3.
 */
#include "core/text.h"
#include "format/sort.h"
#include "linalg/tucker.h"
#include "op/emit.h"
#include "op/extract.h"
#include "op/factor_split.h"
#include "op/lokr.h"

#include <math.h>
#include <string.h>

/* So many numbers are made f64 at a time. */
#define FORMS_WIDE 512

/* ---- tensors ----------------------------------------------------------- */

/* The type of new tensors: the one asked for, or half the size of F32, of the
 * tuned checkpoint's sort. */
static lora_dtype forms_dtype(const lora__extract_work *w)
{
    const lora__extract *job = w->job;
    lora_dtype tuned =
        job->pair.tuned->tensors[w->match->tuned.tensor].entry->dtype;

    if (job->size != NULL) {
        return LORA_DTYPE_F32; /* rounded once, at the end */
    }
    if (job->options.dtype != LORA_DTYPE_NONE) {
        return job->options.dtype;
    }
    return tuned == LORA_DTYPE_BF16 ? LORA_DTYPE_BF16 : LORA_DTYPE_F16;
}

/* One more tensor, without data yet. It belongs to the result from here on. */
static lora_status forms_add(lora__extract_tensor **out,
                             lora__extract_work *w,
                             lora__role role,
                             int32_t ndim,
                             const int64_t *shape,
                             lora_error *error)
{
    lora__extract_tensor *tensor = &w->out->tensors[w->out->tensor_count];
    lora_dtype dtype = forms_dtype(w);
    size_t bytes = lora_dtype_bits(dtype) / 8;
    void *data;

    INVARIANT(w->out->tensor_count < LORA__EXTRACT_TENSORS, error);
    for (int32_t i = 0; i < ndim; i++) {
        if (!lora__mul_size(bytes, (size_t)shape[i], &bytes)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    data = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);
    if (data == NULL) {
        return lora__fail_memory(error, bytes);
    }
    memset(tensor, 0, sizeof *tensor);
    tensor->role = role;
    tensor->dtype = dtype;
    tensor->data = data;
    tensor->bytes = bytes;
    tensor->ndim = ndim;
    memcpy(tensor->shape, shape, (size_t)ndim * sizeof *shape);
    w->out->tensor_count++;
    *out = tensor;
    return LORA_OK;
}

/* A tensor of these values. */
static lora_status forms_put(lora__extract_work *w,
                             lora__role role,
                             int32_t ndim,
                             const int64_t *shape,
                             const double *values,
                             lora_error *error)
{
    lora__extract_tensor *tensor;
    size_t count;

    TRY(forms_add(&tensor, w, role, ndim, shape, error));
    count = (size_t)tensor->bytes / (lora_dtype_bits(tensor->dtype) / 8);
    return lora__emit_encode_at(tensor->data, w->job->context, w->match->target,
                                tensor->dtype, values, count, error);
}

/* The same of values that are turned: [shape[1], shape[0]]. */
static lora_status forms_put_turned(lora__extract_work *w,
                                    lora__role role,
                                    int32_t ndim,
                                    const int64_t *shape,
                                    const double *values,
                                    lora_error *error)
{
    size_t rows = (size_t)shape[0];
    size_t rank = (size_t)shape[1];
    size_t bytes = rows * rank * sizeof(double);
    double *turned = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);
    lora_status status;

    if (turned == NULL) {
        return lora__fail_memory(error, bytes);
    }
    lora__transpose(turned, values, rank, rows, sizeof(double));
    status = forms_put(w, role, ndim, shape, turned, error);
    lora__free(w->job->context, turned, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* The factors' rank, and the alpha by which all programs scale them by 1. */
static void forms_done(lora__extract_work *w, size_t rank, double alpha)
{
    w->out->rank = (int64_t)rank;
    w->out->alpha = alpha;
    w->out->state = LORA__EXTRACT_DONE;
}

/* [rows, rank, 1 ...], with as many dimensions as the weight. */
static int32_t forms_shape_up(int64_t shape[LORA_MAX_DIMS],
                              const lora__extract_work *w,
                              size_t rank)
{
    for (int32_t i = 2; i < w->match->base.ndim; i++) {
        shape[i] = 1;
    }
    shape[0] = (int64_t)w->rows;
    shape[1] = (int64_t)rank;
    return w->match->base.ndim;
}

/* The weight's with other channels. */
static int32_t forms_shape_like(int64_t shape[LORA_MAX_DIMS],
                                const lora__extract_work *w,
                                size_t out,
                                size_t in)
{
    memcpy(shape, w->match->base.shape, LORA_MAX_DIMS * sizeof *shape);
    shape[0] = (int64_t)out;
    shape[1] = (int64_t)in;
    return w->match->base.ndim;
}

/* ---- full -------------------------------------------------------------- */

LORA_PRIVATE lora_status lora__extract_full(lora__extract_work *w,
                                            lora__role role,
                                            lora_error *error)
{
    const lora__kernels *kernels = w->job->kernels;
    size_t count = w->rows * w->cols;
    lora__extract_tensor *tensor;
    unsigned char *data;
    double wide[FORMS_WIDE];

    TRY(forms_add(&tensor, w, role, w->match->base.ndim, w->match->base.shape,
                  error));
    data = tensor->data;
    for (size_t done = 0; done < count; done += FORMS_WIDE) {
        size_t left = count - done;
        size_t step = left < FORMS_WIDE ? left : FORMS_WIDE;
        kernels->f32_to_f64(wide, w->diff + done, step);
        TRY(lora__emit_encode_at(
            data + done * (lora_dtype_bits(tensor->dtype) / 8), w->job->context,
            w->match->target, tensor->dtype, wide, step, error));
    }
    forms_done(w, 0, 0.0);
    return LORA_OK;
}

static lora_status forms_full(lora__extract_work *w, lora_error *error)
{
    return lora__extract_full(w, LORA__ROLE_DIFF, error);
}

/* 1 if a form of so many numbers is no smaller than the difference itself,
 * which the dialect has a name for. A budget may cut it yet. */
static int forms_is_large(const lora__extract_work *w, size_t numbers)
{
    return numbers >= w->rows * w->cols && w->job->size == NULL &&
           lora__dialect_has_role(w->job->dialect, LORA__ROLE_DIFF);
}

/* ---- a pair of factors ------------------------------------------------- */

static int forms_compare_numbers(const void *a, const void *b)
{
    double one = *(const double *)a;
    double other = *(const double *)b;

    return one < other ? -1 : one > other;
}

/* The quantile of all elements of both factors and of their negatives, between
 * two of them in proportion. The negatives make it one of the factors alone:
 * singular vectors have no sign of their own. */
static lora_status forms_quantile(double *out,
                                  const lora__factors *f,
                                  double quantile,
                                  lora_error *error)
{
    size_t ups = f->rank * f->rows;
    size_t count = ups + f->rank * f->cols;
    size_t bytes = count * sizeof(double);
    double place = quantile * (double)(2 * count - 1) - (double)count;
    double *all = lora__alloc(f->context, bytes, LORA__ALIGN_NUMERIC);
    size_t below = place > 0.0 ? (size_t)place : 0;

    if (all == NULL) {
        return lora__fail_memory(error, bytes);
    }
    for (size_t i = 0; i < count; i++) {
        all[i] = fabs(i < ups ? f->up_t[i] : f->down[i - ups]);
    }
    lora__sort(all, count, sizeof *all, forms_compare_numbers);
    *out = all[below];
    if (below + 1 < count && place > 0.0) {
        *out += (place - (double)below) * (all[below + 1] - *out);
    }
    lora__free(f->context, all, bytes, LORA__ALIGN_NUMERIC);
    return LORA_OK;
}

/* kohya's clamp: both factors, with all singular values in up, are cut at plus
 * and minus a quantile. */
static lora_status
forms_clamp(const lora__extract_work *w, lora__factors *f, lora_error *error)
{
    double limit = 0.0;

    TRY(forms_quantile(&limit, f, w->job->options.clamp, error));
    for (size_t i = 0; i < f->rank * f->rows; i++) {
        f->up_t[i] = fmax(-limit, fmin(limit, f->up_t[i]));
    }
    for (size_t i = 0; i < f->rank * f->cols; i++) {
        f->down[i] = fmax(-limit, fmin(limit, f->down[i]));
    }
    return LORA_OK;
}

/* Remember the values that were found: those that count, and the first that is
 * lost; behind that, a sketch's are not accurate. */
static lora_status forms_remember(lora__extract_work *w,
                                  const lora__dense *dense,
                                  size_t keep,
                                  lora_error *error)
{
    size_t count =
        dense->is_whole || keep == dense->count ? dense->count : keep + 1;
    size_t bytes = count * sizeof(double);
    double lost = dense->residual * dense->residual;

    for (size_t i = dense->count; i-- > keep;) {
        lost += dense->sigma[i] * dense->sigma[i];
    }
    w->out->error = sqrt(lost);
    w->out->is_estimate = !dense->is_whole;
    w->out->sigma = lora__alloc(w->job->context, bytes, LORA__ALIGN);
    if (w->out->sigma == NULL) {
        return lora__fail_memory(error, bytes);
    }
    memcpy(w->out->sigma, dense->sigma, bytes);
    w->out->sigma_count = count;
    return LORA_OK;
}

/* The pair of factors of rank `keep`. */
static lora_status forms_cut_pair(lora__extract_work *w,
                                  const lora__dense *dense,
                                  size_t keep,
                                  lora_error *error)
{
    const lora_adapter_extract_options *o = &w->job->options;
    int64_t shape[LORA_MAX_DIMS] = {0};
    lora__factors f;
    lora_status status;

    memset(&f, 0, sizeof f);
    TRY_OR_DONE(lora__factors_alloc(&f, w->job->context, w->rows, w->cols, keep,
                                    error));
    TRY_OR_DONE(
        lora__dense_truncate(f.up_t, f.down, dense, keep, f.context, error));
    lora__factors_split(&f, w->job->kernels,
                        o->clamp != 0.0 ? LORA_SPLIT_UP : o->split, 1.0,
                        dense->sigma, keep);
    if (o->clamp != 0.0) {
        TRY_OR_DONE(forms_clamp(w, &f, error));
    }
    TRY_OR_DONE(forms_put_turned(w, LORA__ROLE_UP,
                                 forms_shape_up(shape, w, keep), shape, f.up_t,
                                 error));
    TRY_OR_DONE(forms_put(
        w, LORA__ROLE_DOWN,
        forms_shape_like(shape, w, keep, (size_t)w->match->base.shape[1]),
        shape, f.down, error));
    forms_done(w, keep, (double)keep);
done:
    lora__factors_destroy(&f);
    return status;
}

/* ---- a pair with a core ------------------------------------------------ */

/* The pieces that a core is made of. */
typedef struct forms_sides {
    size_t in;
    size_t kernel;
} forms_sides;

static forms_sides forms_sides_of(const lora__extract_work *w)
{
    forms_sides sides;

    sides.in = (size_t)w->match->base.shape[1];
    sides.kernel = w->cols / sides.in;
    return sides;
}

/* up [out, r, 1...], core [r, r, k...] and down [r, in, 1...]. */
static lora_status
forms_cut_core(lora__extract_work *w, size_t rank, lora_error *error)
{
    forms_sides sides = forms_sides_of(w);
    lora__tucker_input input = {w->rows, sides.in, sides.kernel, w->diff};
    lora__tucker_result tucker = {rank, rank, NULL, NULL, NULL, 0.0};
    int64_t shape[LORA_MAX_DIMS] = {0};
    lora__block memory = {0};
    size_t core = rank * rank * sides.kernel;
    lora_status status;

    TRY(lora__block_create(&memory, 1, rank * (w->rows + sides.in) + core,
                           w->job->context, error));
    tucker.up_t = memory.at;
    tucker.down = tucker.up_t + rank * w->rows;
    tucker.core = tucker.down + rank * sides.in;
    TRY_OR_DONE(lora__tucker_fit(&tucker, &input, w->job->context, error));
    TRY_OR_DONE(forms_put_turned(w, LORA__ROLE_UP,
                                 forms_shape_up(shape, w, rank), shape,
                                 tucker.up_t, error));
    TRY_OR_DONE(forms_put(w, LORA__ROLE_MID,
                          forms_shape_like(shape, w, rank, rank), shape,
                          tucker.core, error));
    (void)forms_shape_up(shape, w, sides.in);
    shape[0] = (int64_t)rank;
    TRY_OR_DONE(forms_put(w, LORA__ROLE_DOWN, w->match->base.ndim, shape,
                          tucker.down, error));
    w->out->error = tucker.error;
    w->out->is_estimate = 0;
    forms_done(w, rank, (double)rank);
done:
    lora__block_destroy(&memory, w->job->context);
    return status;
}

/* The difference turned and decomposed, and its products with matrices of
 * channels. */
static uint64_t forms_core_bytes(const lora__extract *job,
                                 const lora__match *match,
                                 uint64_t rank)
{
    uint64_t channels = (uint64_t)match->base.shape[1];
    uint64_t kernel = match->base.columns / (channels == 0 ? 1 : channels);

    (void)job;
    return match->base.rows * match->base.columns * sizeof(float) +
           6 * sizeof(double) * (match->base.rows + channels) * kernel * rank;
}

/* ---- by rank ----------------------------------------------------------- */

/* Numbers of a pair, and of a pair with a core. */
static size_t forms_pair_numbers(const lora__extract_work *w, size_t rank)
{
    return rank * (w->rows + w->cols);
}

static size_t forms_core_numbers(const lora__extract_work *w, size_t rank)
{
    forms_sides sides = forms_sides_of(w);
    return rank * (w->rows + sides.in + rank * sides.kernel);
}

/* What a rule says of the weight turned to [in, out K], if that is more than
 * `rank`, up to `most`. Where a floor of noise decides, which is that of the
 * weight as it is, `rank` stays. */
static lora_status forms_core_rank(size_t *rank,
                                   const lora__extract_work *w,
                                   const lora_rank_rule *rule,
                                   size_t most,
                                   lora_error *error)
{
    forms_sides sides = forms_sides_of(w);
    size_t wide = w->rows * sides.kernel;
    size_t bytes = w->rows * w->cols * sizeof(float);
    lora__dense_input input = {sides.in, wide, NULL};
    lora__dense dense;
    float *turned;
    size_t keep;
    lora_status status;

    if (rule == NULL || rule->kind == LORA_RANK_FIXED ||
        lora__extract_has_floor(w)) {
        return LORA_OK;
    }
    memset(&dense, 0, sizeof dense);
    turned = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);
    if (turned == NULL) {
        return lora__fail_memory(error, bytes);
    }
    for (size_t p = 0; p < w->rows; p++) {
        for (size_t q = 0; q < sides.in; q++) {
            memcpy(turned + q * wide + p * sides.kernel,
                   w->diff + p * w->cols + q * sides.kernel,
                   sides.kernel * sizeof *turned);
        }
    }
    input.values = turned;
    TRY_OR_DONE(lora__extract_decompose(&dense, w, &input, rule, error));
    keep =
        lora__extract_count(w, &dense, rule, sides.in < wide ? sides.in : wide);
    keep = keep < most ? keep : most;
    *rank = *rank < keep ? keep : *rank;
done:
    lora__dense_destroy(&dense, w->job->context);
    lora__free(w->job->context, turned, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* A pair of the rank that the rule says, or a core where that is wanted and
 * smaller, as a pair of the same rank is never worse; or the difference itself
 * where it is no larger. */
static lora_status
forms_by_rank(lora__extract_work *w, int core, lora_error *error)
{
    const lora_rank_rule *rule = lora__extract_rule(w->job, w->match);
    lora__dense_input input = {w->rows, w->cols, w->diff};
    lora__dense dense;
    size_t keep;
    size_t inner;
    size_t numbers;
    lora_status status = LORA_OK;

    TRY(lora__extract_decompose(&dense, w, &input, rule, error));
    if (lora__extract_has_floor(w) && dense.sigma[0] <= w->out->noise) {
        w->out->state = LORA__EXTRACT_NOISE;
        goto done;
    }
    keep = lora__extract_keep(w, &dense, rule);
    inner = keep;
    numbers = forms_pair_numbers(w, keep);
    if (core) {
        TRY_OR_DONE(forms_core_rank(&inner, w, rule, w->rows, error));
        core = forms_core_numbers(w, inner) < numbers;
        numbers = core ? forms_core_numbers(w, inner) : numbers;
    }
    if (forms_is_large(w, numbers)) {
        status = forms_full(w, error);
        goto done;
    }
    TRY_OR_DONE(forms_remember(w, &dense, keep, error));
    status = core ? forms_cut_core(w, inner, error)
                  : forms_cut_pair(w, &dense, keep, error);
done:
    lora__dense_destroy(&dense, w->job->context);
    return status;
}

static lora_status forms_pair(lora__extract_work *w, lora_error *error)
{
    return forms_by_rank(w, 0, error);
}

static lora_status forms_core(lora__extract_work *w, lora_error *error)
{
    return forms_by_rank(w, 1, error);
}

/* ---- a Kronecker product ----------------------------------------------- */

/* How the sides of a weight are divided. */
static void forms_lokr_split(lora__lokr *k,
                             const lora__extract *job,
                             const lora__match *match)
{
    size_t in = (size_t)match->base.shape[1];

    lora__lokr_split(k, (size_t)match->base.rows, in,
                     (size_t)match->base.columns / in,
                     job->options.lokr_factor);
}

/* w1, what finds it, and w2, thrice. */
static uint64_t forms_lokr_bytes(const lora__extract *job,
                                 const lora__match *match,
                                 uint64_t rank)
{
    lora__lokr k;

    (void)rank;
    if (match->base.rows == 0 || match->base.columns == 0) {
        return 0;
    }
    forms_lokr_split(&k, job, match);
    return (uint64_t)sizeof(double) * (27 * k.input.rows1 * k.input.cols1 +
                                       3 * k.input.rows2 * k.input.cols2);
}

static lora_status
forms_lokr_begin(lora__lokr *k, const lora__extract_work *w, lora_error *error)
{
    memset(k, 0, sizeof *k);
    forms_lokr_split(k, w->job, w->match);
    return lora__lokr_begin(k, w->diff, w->job->context, error);
}

/* 1 if the whole difference is nothing but noise. */
static lora_status
forms_is_noise(int *out, const lora__extract_work *w, lora_error *error)
{
    static const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    lora__dense_input input = {w->rows, w->cols, w->diff};
    lora__dense dense;

    *out = 0;
    if (lora__extract_has_floor(w)) {
        TRY(lora__extract_decompose(&dense, w, &input, &one, error));
        *out = dense.sigma[0] <= w->out->noise;
        lora__dense_destroy(&dense, w->job->context);
    }
    return LORA_OK;
}

/* What the rule keeps of the values |w1| sigma(w2), whose squares add up to
 * those of the product. The decomposition takes f32. */
static lora_status forms_lokr_count(size_t *out,
                                    lora__extract_work *w,
                                    const lora__lokr *k,
                                    const lora_rank_rule *rule,
                                    lora_error *error)
{
    const lora__kernels *kernels = w->job->kernels;
    size_t rows = k->input.rows2;
    size_t cols = k->input.cols2;
    size_t ones = k->input.rows1 * k->input.cols1;
    size_t bytes = rows * cols * sizeof(float);
    double norm = sqrt(kernels->dot_f64(k->w1, k->w1, ones));
    double error_of_product = w->out->error;
    float *values = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);
    lora__dense_input input = {rows, cols, values};
    lora__dense dense;
    lora_status status;

    memset(&dense, 0, sizeof dense);
    if (values == NULL) {
        return lora__fail_memory(error, bytes);
    }
    for (size_t i = 0; i < rows * cols; i++) {
        values[i] = (float)(norm * k->w2[i]);
    }
    TRY_OR_DONE(lora__extract_decompose(&dense, w, &input, rule, error));
    *out = lora__extract_count(w, &dense, rule, rows < cols ? rows : cols);
    status = forms_remember(w, &dense, *out, error);
    w->out->error = error_of_product; /* that of cutting is measured later */
    w->out->is_estimate = 0;
done:
    lora__dense_destroy(&dense, w->job->context);
    lora__free(w->job->context, values, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* The rank of w2: what the rule says, where that makes it smaller. */
static lora_status
forms_lokr_rank(lora__extract_work *w, lora__lokr *k, lora_error *error)
{
    lora_rank_rule cap = {LORA_RANK_FIXED, w->job->options.max_rank, 0.0};
    const lora_rank_rule *rule = lora__extract_rule(w->job, w->match);
    size_t rows = k->input.rows2;
    size_t cols = k->input.cols2;
    size_t rank = 0;

    if (rule == NULL && cap.rank == 0) {
        return LORA_OK;
    }
    TRY(forms_lokr_count(&rank, w, k, rule == NULL ? &cap : rule, error));
    k->rank = rank * (rows + cols) < rows * cols ? rank : 0;
    return LORA_OK;
}

/* w2 as its factors [o2, r] and [r, i2 K]. */
static lora_status
forms_lokr_cut(lora__extract_work *w, lora__lokr *k, lora_error *error)
{
    lora_context *context = w->job->context;
    int64_t left[2] = {(int64_t)k->input.rows2, (int64_t)k->rank};
    int64_t right[2] = {(int64_t)k->rank, (int64_t)k->input.cols2};
    lora__block memory = {NULL, 0};
    double *down;
    lora_status status;

    TRY(lora__block_create(&memory, k->rank, k->input.rows2 + k->input.cols2,
                           context, error));
    down = memory.at + k->rank * k->input.rows2;
    TRY_OR_DONE(lora__kronecker_cut(k->w1, k->w2, memory.at, down,
                                    &w->out->error, k->rank, &k->input, context,
                                    error));
    TRY_OR_DONE(
        forms_put_turned(w, LORA__ROLE_LOKR_W2_A, 2, left, memory.at, error));
    status = forms_put(w, LORA__ROLE_LOKR_W2_B, 2, right, down, error);
done:
    lora__block_destroy(&memory, context);
    return status;
}

/* With w2 whole there is no rank, and programs scale by 1 whatever alpha is, or
 * take the rank for 1: alpha 1 is right for all. */
static lora_status
forms_lokr_put(lora__extract_work *w, lora__lokr *k, lora_error *error)
{
    int64_t one[2] = {(int64_t)k->input.rows1, (int64_t)k->input.cols1};
    int64_t shape[LORA_MAX_DIMS];

    if (k->rank > 0) {
        TRY(forms_lokr_cut(w, k, error));
    } else {
        TRY(forms_put(w, LORA__ROLE_LOKR_W2,
                      forms_shape_like(shape, w, k->input.rows2, k->in2), shape,
                      k->w2, error));
    }
    TRY(forms_put(w, LORA__ROLE_LOKR_W1, 2, one, k->w1, error));
    forms_done(w, k->rank, k->rank > 0 ? (double)k->rank : 1.0);
    return LORA_OK;
}

static lora_status forms_kronecker(lora__extract_work *w, lora_error *error)
{
    lora__lokr k;
    size_t rows;
    size_t cols;
    int is_noise;
    lora_status status = LORA_OK;

    TRY(forms_is_noise(&is_noise, w, error));
    if (is_noise) {
        w->out->state = LORA__EXTRACT_NOISE;
        return LORA_OK;
    }
    TRY(forms_lokr_begin(&k, w, error));
    rows = k.input.rows2;
    cols = k.input.cols2;
    TRY_OR_DONE(lora__kronecker_fit(k.w1, k.w2, &w->out->error, &k.input,
                                    w->job->context, error));
    TRY_OR_DONE(forms_lokr_rank(w, &k, error));
    w->out->is_estimate = 0; /* the error is measured */
    if (forms_is_large(
            w, k.input.rows1 * k.input.cols1 +
                   (k.rank > 0 ? k.rank * (rows + cols) : rows * cols))) {
        w->out->error = 0.0;
        status = forms_full(w, error);
        goto done;
    }
    status = forms_lokr_put(w, &k, error);
done:
    lora__block_destroy(&k.memory, w->job->context);
    return status;
}

/* ---- the table --------------------------------------------------------- */

static const lora__extract_form forms_table[] = {
    [LORA_EXTRACT_LOCON] = {"LoCon",
                            "networks.lora",
                            {LORA__ROLE_UNKNOWN, LORA__ROLE_UNKNOWN},
                            forms_pair,
                            forms_pair,
                            NULL},
    [LORA_EXTRACT_LORA] = {"LoRA",
                           "networks.lora",
                           {LORA__ROLE_UNKNOWN, LORA__ROLE_UNKNOWN},
                           forms_pair,
                           NULL,
                           NULL},
    [LORA_EXTRACT_TUCKER] = {"LoCon with a core",
                             "lycoris.kohya",
                             {LORA__ROLE_MID, LORA__ROLE_UNKNOWN},
                             forms_pair,
                             forms_core,
                             forms_core_bytes},
    /* PEFT scales by its configuration, even where there is no rank. */
    [LORA_EXTRACT_LOKR] = {"LoKr",
                           "lycoris.kohya",
                           {LORA__ROLE_LOKR_W1, LORA__ROLE_ALPHA},
                           forms_kronecker,
                           forms_kronecker,
                           forms_lokr_bytes},
    [LORA_EXTRACT_FULL] = {"full differences",
                           "lycoris.kohya",
                           {LORA__ROLE_DIFF, LORA__ROLE_UNKNOWN},
                           forms_full,
                           forms_full,
                           NULL},
};

LORA_PRIVATE const lora__extract_form *
lora__extract_form_of(lora_extract_kind kind)
{
    return kind >= 0 && (size_t)kind < LORA__COUNT(forms_table)
               ? &forms_table[kind]
               : NULL;
}
