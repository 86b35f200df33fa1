/* Extraction of one layer: the difference of two tensors, what of it is more
 * than rounding, and the factors, or whatever the kind asks for, that come
 * nearest. Source: algorithms.md 3.
 */
#include "op/extract.h"

#include "core/text.h"
#include "format/sha256.h"
#include "format/sort.h"
#include "linalg/dense.h"
#include "op/emit.h"
#include "op/factor_split.h"
#include "op/noise.h"
#include "op/rank_rule.h"
#include "op/values.h"

#include <math.h>
#include <string.h>

/* Rows of the base are read in pieces of about this size. */
#define EXTRACT_PIECE ((size_t)1 << 20)

/* So many numbers are made f64 at a time. */
#define EXTRACT_WIDE 512

/* A layer on its way. */
typedef struct extract_work {
    const lora__extract *job;
    const lora__match *match;
    lora__extracted *out;
    size_t rows;
    size_t cols;
    float *diff; /* [rows, cols] */
    int changed;
} extract_work;

/* ---- which rule ------------------------------------------------------- */

static int extract_is_conv(const lora__match *match)
{
    for (int32_t i = 2; i < match->base.ndim; i++) {
        if (match->base.shape[i] > 1) {
            return 1;
        }
    }
    return 0;
}

static int extract_matches(const extract_work *w, const char *pattern)
{
    const lora__pair *pair = &w->job->pair;

    return lora__tensor_matches(&pair->base->tensors[w->match->base.tensor],
                                pattern) ||
           lora__text_matches(pattern, w->match->target);
}

static const lora_rank_rule *extract_rule(const extract_work *w)
{
    const lora_adapter_extract_options *o = &w->job->options;

    for (size_t i = o->override_count; i-- > 0;) {
        if (extract_matches(w, o->overrides[i].pattern)) {
            return &o->overrides[i].rule;
        }
    }
    return extract_is_conv(w->match) && o->conv_rule != NULL ? o->conv_rule
                                                             : w->job->rule;
}

/* ---- the difference ---------------------------------------------------- */

static lora_dtype
extract_dtype(const lora__extract *job, const lora__holding *holding, int tuned)
{
    const lora__checkpoint *c = tuned ? job->pair.tuned : job->pair.base;
    return c->tensors[holding->tensor].entry->dtype;
}

/* 1 if all values are finite. In blocks that compilers make vectors of: a
 * number is finite if its exponent is not all ones. */
static int extract_is_finite(const float *values, size_t count)
{
    enum { BLOCK = 16 };
    uint32_t largest[BLOCK] = {0};
    uint32_t bits[BLOCK];
    size_t whole = count / BLOCK * BLOCK;

    for (size_t i = 0; i < whole; i += BLOCK) {
        memcpy(bits, values + i, sizeof bits);
        for (size_t k = 0; k < BLOCK; k++) {
            uint32_t magnitude = bits[k] & 0x7FFFFFFFu;
            largest[k] = largest[k] < magnitude ? magnitude : largest[k];
        }
    }
    for (size_t k = 0; k < BLOCK; k++) {
        if (largest[k] >= 0x7F800000u) {
            return 0;
        }
    }
    for (size_t i = whole; i < count; i++) {
        if (!isfinite(values[i])) {
            return 0;
        }
    }
    return 1;
}

/* NONFINITE, with the tensor, where a value is not finite. */
static lora_status extract_check_values(const lora__checkpoint *c,
                                        const lora__holding *holding,
                                        const float *values,
                                        size_t first,
                                        size_t count,
                                        lora_error *error)
{
    const lora__entry *entry = c->tensors[holding->tensor].entry;
    lora__values found;

    if (extract_is_finite(values, count)) {
        return LORA_OK;
    }
    memset(&found, 0, sizeof found);
    lora__values_add(&found, values, count, first);
    return lora__values_check(&found, entry, error);
}

/* Some rows: tuned less base, in place of tuned. */
static lora_status extract_read_rows(extract_work *w,
                                     float *base,
                                     size_t row,
                                     size_t rows,
                                     lora__noise *noise,
                                     int noise_of_tuned,
                                     lora_error *error)
{
    const lora__pair *pair = &w->job->pair;
    const lora__holding *of_base = &w->match->base;
    const lora__holding *of_tuned = &w->match->tuned;
    float *diff = w->diff + row * w->cols;
    size_t count = rows * w->cols;

    TRY(lora__checkpoint_read_rows(diff, pair->tuned, of_tuned, row, rows,
                                   error));
    TRY(lora__checkpoint_read_rows(base, pair->base, of_base, row, rows,
                                   error));
    TRY(extract_check_values(pair->tuned, of_tuned, diff, row * w->cols, count,
                             error));
    TRY(extract_check_values(pair->base, of_base, base, row * w->cols, count,
                             error));
    if (noise->columns > 0) {
        lora__noise_add(noise, noise_of_tuned ? diff : base, rows);
    }
    w->changed |= memcmp(diff, base, count * sizeof *base) != 0;
    w->job->kernels->axpy_f32(diff, base, -1.0f, count);
    return LORA_OK;
}

/* Read the difference, and the floor of rounding that it has. */
static lora_status extract_read(extract_work *w, lora_error *error)
{
    lora_dtype base = extract_dtype(w->job, &w->match->base, 0);
    lora_dtype tuned = extract_dtype(w->job, &w->match->tuned, 1);
    int of_tuned = !lora__noise_is_coarser(base, tuned);
    size_t step = EXTRACT_PIECE / sizeof(float) / w->cols + 1;
    size_t bytes = step * w->cols * sizeof(float);
    float *piece = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);
    lora__noise noise;
    lora_status status;

    memset(&noise, 0, sizeof noise);
    if (piece == NULL) {
        return lora__fail_memory(error, bytes);
    }
    if (base != tuned || extract_rule(w) == NULL) { /* else nobody asks */
        const lora__checkpoint *c =
            of_tuned ? w->job->pair.tuned : w->job->pair.base;
        float unit = 1.0f;
        TRY_OR_DONE(lora__checkpoint_scale(
            &unit, c, of_tuned ? w->match->tuned.tensor : w->match->base.tensor,
            error));
        TRY_OR_DONE(lora__noise_begin(&noise, w->job->context,
                                      of_tuned ? tuned : base, (double)unit,
                                      w->cols, error));
    }
    for (size_t row = 0; row < w->rows; row += step) {
        size_t rows = w->rows - row < step ? w->rows - row : step;
        TRY_OR_DONE(
            extract_read_rows(w, piece, row, rows, &noise, of_tuned, error));
    }
    w->out->noise = lora__noise_sigma(&noise);
done:
    lora__noise_end(&noise);
    lora__free(w->job->context, piece, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* Whether the floor decides: rounding differs between the two. */
static int extract_has_floor(const extract_work *w)
{
    return extract_dtype(w->job, &w->match->base, 0) !=
           extract_dtype(w->job, &w->match->tuned, 1);
}

/* ---- tensors of the result --------------------------------------------- */

/* The type of new tensors: the one asked for, or half the size of F32, of the
 * tuned checkpoint's sort. */
static lora_dtype extract_out_dtype(const extract_work *w)
{
    lora_dtype asked = w->job->options.dtype;
    lora_dtype tuned = extract_dtype(w->job, &w->match->tuned, 1);

    if (asked != LORA_DTYPE_NONE) {
        return asked;
    }
    return tuned == LORA_DTYPE_BF16 ? LORA_DTYPE_BF16 : LORA_DTYPE_F16;
}

/* One more tensor of `count` elements, without data yet; its shape is the
 * caller's to set. It belongs to the result from here on. */
static lora_status extract_add(lora__extract_tensor **out,
                               extract_work *w,
                               lora__role role,
                               size_t count,
                               lora_error *error)
{
    lora__extract_tensor *tensor = &w->out->tensors[w->out->tensor_count];
    lora_dtype dtype = extract_out_dtype(w);
    size_t bytes = count * (lora_dtype_bits(dtype) / 8);
    void *data = lora__alloc(w->job->context, bytes, LORA__ALIGN_NUMERIC);

    if (data == NULL) {
        return lora__fail_memory(error, bytes);
    }
    memset(tensor, 0, sizeof *tensor);
    tensor->role = role;
    tensor->dtype = dtype;
    tensor->data = data;
    tensor->bytes = bytes;
    w->out->tensor_count++;
    *out = tensor;
    return LORA_OK;
}

static lora_status extract_encode(const extract_work *w,
                                  const lora__extract_tensor *tensor,
                                  const double *values,
                                  size_t count,
                                  lora_error *error)
{
    return lora__emit_encode_at(tensor->data, w->job->context, w->match->target,
                                tensor->dtype, values, count, error);
}

/* The difference itself, in the shape it has. */
static lora_status
extract_add_full(extract_work *w, lora__role role, lora_error *error)
{
    size_t count = w->rows * w->cols;
    lora__extract_tensor *tensor;
    unsigned char *data;
    double wide[EXTRACT_WIDE];

    TRY(extract_add(&tensor, w, role, count, error));
    data = tensor->data;
    for (size_t done = 0; done < count; done += EXTRACT_WIDE) {
        size_t left = count - done;
        size_t step = left < EXTRACT_WIDE ? left : EXTRACT_WIDE;
        w->job->kernels->f32_to_f64(wide, w->diff + done, step);
        TRY(lora__emit_encode_at(
            data + done * (lora_dtype_bits(tensor->dtype) / 8), w->job->context,
            w->match->target, tensor->dtype, wide, step, error));
    }
    tensor->ndim = w->match->base.ndim;
    memcpy(tensor->shape, w->match->base.shape, sizeof tensor->shape);
    w->out->state = LORA__EXTRACT_DONE;
    return LORA_OK;
}

/* up [out, r, 1...] and down [r, in, k...] of f, whose scale is 1. */
static lora_status
extract_add_factors(extract_work *w, const lora__factors *f, lora_error *error)
{
    const lora__holding *weight = &w->match->base;
    size_t bytes = f->rows * f->rank * sizeof(double);
    double *up = lora__alloc(f->context, bytes, LORA__ALIGN_NUMERIC);
    lora__extract_tensor *tensor;
    lora_status status;

    if (up == NULL) {
        return lora__fail_memory(error, bytes);
    }
    for (size_t i = 0; i < f->rank; i++) {
        for (size_t row = 0; row < f->rows; row++) {
            up[row * f->rank + i] = f->up_t[i * f->rows + row];
        }
    }
    TRY_OR_DONE(
        extract_add(&tensor, w, LORA__ROLE_UP, f->rows * f->rank, error));
    TRY_OR_DONE(extract_encode(w, tensor, up, f->rows * f->rank, error));
    tensor->ndim = weight->ndim;
    for (int32_t i = 2; i < weight->ndim; i++) {
        tensor->shape[i] = 1;
    }
    tensor->shape[0] = weight->shape[0];
    tensor->shape[1] = (int64_t)f->rank;
    TRY_OR_DONE(
        extract_add(&tensor, w, LORA__ROLE_DOWN, f->cols * f->rank, error));
    TRY_OR_DONE(extract_encode(w, tensor, f->down, f->cols * f->rank, error));
    tensor->ndim = weight->ndim;
    memcpy(tensor->shape, weight->shape, sizeof tensor->shape);
    tensor->shape[0] = (int64_t)f->rank;
    w->out->rank = (int64_t)f->rank;
    w->out->state = LORA__EXTRACT_DONE;
done:
    lora__free(f->context, up, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* ---- how many directions ----------------------------------------------- */

/* The sketch of a layer depends on the seed and its name, on nothing else. */
static uint64_t extract_seed(const extract_work *w)
{
    lora__sha256 sha;
    uint8_t digest[32];
    uint64_t name = 0;

    lora__sha256_init(&sha, lora__context_get(w->job->context)->cpu);
    lora__sha256_update(&sha, w->match->target, strlen(w->match->target));
    lora__sha256_finish(&sha, digest);
    for (size_t i = 8; i-- > 0;) {
        name = name << 8 | digest[i];
    }
    return name ^ w->job->options.seed;
}

/* What the decomposition has to find for the rule. */
static lora__dense_goal extract_goal(const extract_work *w,
                                     const lora_rank_rule *rule)
{
    size_t cap = (size_t)w->job->options.max_rank;
    lora__dense_goal goal;

    memset(&goal, 0, sizeof goal);
    goal.seed = extract_seed(w);
    goal.exact = (w->job->options.flags & LORA_EXTRACT_EXACT) != 0;
    goal.rank = (size_t)w->job->options.min_rank;
    switch (rule == NULL ? 0 : rule->kind) {
    case LORA_RANK_FIXED:
        goal.rank = (size_t)rule->rank;
        break;
    case LORA_RANK_ENERGY:
        goal.energy = rule->value;
        break;
    case LORA_RANK_RATIO:
        goal.ratio = 1.0 / rule->value;
        break;
    case LORA_RANK_THRESHOLD:
        goal.above = rule->value;
        break;
    case 0:
        goal.above = w->out->noise;
        break;
    default: /* the rule looks at all values */
        goal.exact = 1;
        return goal;
    }
    if (cap != 0 && (goal.rank > cap || goal.rank == 0)) {
        goal.rank = cap;
    }
    if (cap != 0) { /* more than these are not kept anyway */
        goal.energy = 0.0;
        goal.ratio = 0.0;
        goal.above = 0.0;
    }
    return goal;
}

/* Directions to keep: what the rule says, or, without one, all above the floor;
 * within cap and floors; a layer that is there at all has one. */
static size_t extract_keep(const extract_work *w,
                           const lora_rank_rule *rule,
                           const lora__dense *dense)
{
    const lora_adapter_extract_options *o = &w->job->options;
    lora__spectrum spectrum = {dense->sigma, dense->count,
                               w->rows < w->cols ? w->rows : w->cols, 1.0};
    size_t above = 0;
    size_t keep;

    while (above < dense->count && dense->sigma[above] > w->out->noise) {
        above++;
    }
    keep = rule == NULL ? above
                        : lora__rank_rule_apply_part(rule, o->counting,
                                                     &spectrum, dense->squares);
    if (o->max_rank != 0 && keep > (size_t)o->max_rank) {
        keep = (size_t)o->max_rank;
    }
    if (keep < (size_t)o->min_rank) {
        keep = (size_t)o->min_rank;
    }
    if (extract_has_floor(w) && keep > above) {
        keep = above;
    }
    keep = keep < 1 ? 1 : keep;
    return keep > dense->count ? dense->count : keep;
}

/* ---- factors ----------------------------------------------------------- */

static int extract_compare_numbers(const void *a, const void *b)
{
    double one = *(const double *)a;
    double other = *(const double *)b;

    return one < other ? -1 : one > other;
}

/* The quantile of all elements of both factors and of their negatives, between
 * two of them in proportion. The negatives make it one of the factors alone:
 * singular vectors have no sign of their own. */
static lora_status extract_quantile(double *out,
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
    lora__sort(all, count, sizeof *all, extract_compare_numbers);
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
extract_clamp(const extract_work *w, lora__factors *f, lora_error *error)
{
    double limit = 0.0;

    TRY(extract_quantile(&limit, f, w->job->options.clamp, error));
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
static lora_status extract_remember(extract_work *w,
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
static lora_status extract_cut(extract_work *w,
                               const lora__dense *dense,
                               size_t keep,
                               lora_error *error)
{
    const lora_adapter_extract_options *o = &w->job->options;
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
        TRY_OR_DONE(extract_clamp(w, &f, error));
    }
    status = extract_add_factors(w, &f, error);
done:
    lora__factors_destroy(&f);
    return status;
}

static lora_status extract_decompose(extract_work *w, lora_error *error)
{
    const lora_rank_rule *rule = extract_rule(w);
    lora__dense_goal goal = extract_goal(w, rule);
    lora__dense_input input = {w->rows, w->cols, w->diff};
    lora__dense dense;
    size_t keep;
    lora_status status = LORA_OK;

    TRY(lora__dense_create(&dense, w->job->context, &input, &goal, error));
    w->out->norm = sqrt(dense.squares);
    if (dense.squares == 0.0) { /* 0 became -0 */
        w->out->state = LORA__EXTRACT_SAME;
        goto done;
    }
    if (extract_has_floor(w) && dense.sigma[0] <= w->out->noise) {
        w->out->state = LORA__EXTRACT_NOISE;
        goto done;
    }
    keep = extract_keep(w, rule, &dense);
    if (keep >= w->rows * w->cols / (w->rows + w->cols) + 1 &&
        lora__dialect_has_role(w->job->dialect, LORA__ROLE_DIFF)) {
        status = extract_add_full(w, LORA__ROLE_DIFF, error);
        goto done;
    }
    TRY_OR_DONE(extract_remember(w, &dense, keep, error));
    status = extract_cut(w, &dense, keep, error);
done:
    lora__dense_destroy(&dense, w->job->context);
    return status;
}

/* ---- one layer --------------------------------------------------------- */

/* The role a vector has in an adapter; UNKNOWN: it has none. */
static lora__role extract_vector_role(const lora__match *match)
{
    int norm = match->layer == LORA__LAYER_NORM;

    if (match->role == LORA__ROLE_BIAS) {
        return norm ? LORA__ROLE_NORM_BIAS : LORA__ROLE_DIFF_BIAS;
    }
    return norm || !match->known ? LORA__ROLE_NORM_WEIGHT : LORA__ROLE_UNKNOWN;
}

/* The role that the difference itself would have, UNKNOWN: it is not written
 * as itself. */
static lora__role extract_full_role(const extract_work *w)
{
    if (w->match->role == LORA__ROLE_BIAS || w->match->base.ndim < 2) {
        return extract_vector_role(w->match);
    }
    return w->job->options.kind == LORA_EXTRACT_FULL ? LORA__ROLE_DIFF
                                                     : LORA__ROLE_UNKNOWN;
}

/* 1 if the layer is a matrix that the kind makes factors of. */
static int extract_has_factors(const extract_work *w)
{
    const lora__match *match = w->match;

    return match->role == LORA__ROLE_WEIGHT && match->base.ndim >= 2 &&
           match->layer != LORA__LAYER_EMBEDDING &&
           match->layer != LORA__LAYER_PARAMETER &&
           w->job->options.kind != LORA_EXTRACT_FULL &&
           !(w->job->options.kind == LORA_EXTRACT_LORA &&
             extract_is_conv(match));
}

static lora_status extract_make(extract_work *w, lora_error *error)
{
    lora__role role = extract_full_role(w);

    if (role == LORA__ROLE_UNKNOWN ||
        !lora__dialect_has_role(w->job->dialect, role)) {
        w->out->state = LORA__EXTRACT_NO_PLACE;
        return LORA_OK;
    }
    return extract_add_full(w, role, error);
}

/* The Frobenius norm of the difference. */
static double extract_norm(const extract_work *w)
{
    const lora__kernels *kernels = w->job->kernels;
    size_t count = w->rows * w->cols;
    double wide[EXTRACT_WIDE];
    double squares = 0.0;

    for (size_t done = 0; done < count; done += EXTRACT_WIDE) {
        size_t left = count - done;
        size_t step = left < EXTRACT_WIDE ? left : EXTRACT_WIDE;
        kernels->f32_to_f64(wide, w->diff + done, step);
        squares += kernels->dot_f64(wide, wide, step);
    }
    return sqrt(squares);
}

static lora_status extract_run_layer(extract_work *w, lora_error *error)
{
    TRY(extract_read(w, error));
    if (!w->changed) {
        w->out->state = LORA__EXTRACT_SAME;
        return LORA_OK;
    }
    if (extract_has_factors(w)) {
        return extract_decompose(w, error);
    }
    w->out->norm = extract_norm(w);
    /* The norm is at least the largest singular value: of a vector it is. */
    if (w->out->norm == 0.0) { /* 0 became -0 */
        w->out->state = LORA__EXTRACT_SAME;
        return LORA_OK;
    }
    if (extract_has_floor(w) && w->out->norm <= w->out->noise) {
        w->out->state = LORA__EXTRACT_NOISE;
        return LORA_OK;
    }
    return extract_make(w, error);
}

LORA_PRIVATE lora_status lora__extract_layer(lora__extracted *out,
                                             const lora__extract *job,
                                             const lora__match *match,
                                             lora_error *error)
{
    extract_work w;
    size_t bytes;
    lora_error found;
    lora_status status;

    memset(out, 0, sizeof *out);
    memset(&w, 0, sizeof w);
    w.job = job;
    w.match = match;
    w.out = out;
    w.rows = (size_t)match->base.rows;
    w.cols = (size_t)match->base.columns;
    if (w.rows == 0 || w.cols == 0) {
        out->state = LORA__EXTRACT_SAME;
        return LORA_OK;
    }
    if (!lora__mul_size(w.rows, w.cols, &bytes) ||
        !lora__mul_size(bytes, sizeof *w.diff, &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    w.diff = lora__alloc(job->context, bytes, LORA__ALIGN_NUMERIC);
    if (w.diff == NULL) {
        return lora__fail_memory(error, bytes);
    }
    lora_error_init(&found, sizeof found);
    status = extract_run_layer(&w, &found);
    lora__free(job->context, w.diff, bytes, LORA__ALIGN_NUMERIC);
    if (status != LORA_OK) {
        lora__extracted_free(out, job->context);
        if (status == LORA_ERROR_NONFINITE &&
            (job->options.flags & LORA_EXTRACT_SKIP_BAD) != 0) {
            out->state = LORA__EXTRACT_BAD;
            return LORA_OK;
        }
        return lora__error_merge(error, &found);
    }
    return LORA_OK;
}

LORA_PRIVATE uint64_t lora__extract_layer_bytes(const lora__extract *job,
                                                const lora__match *match)
{
    uint64_t rank = job->rule != NULL && job->rule->kind == LORA_RANK_FIXED
                        ? (uint64_t)job->rule->rank
                        : 64;
    uint64_t sides = match->base.rows + match->base.columns;

    /* The difference, a piece of the base, and what lora__dense_create() and
     * the factors take. */
    return match->base.rows * match->base.columns * sizeof(float) +
           EXTRACT_PIECE + sides * (rank + LORA__DENSE_EXTRA) * 5 * 8;
}
