/* Extraction of one layer: the difference of two tensors, and whether it is
 * more than rounding. Source: algorithms.md 3.
 */
#include "op/extract.h"

#include "op/noise.h"
#include "op/values.h"

#include <math.h>
#include <string.h>

/* Rows of the base are read in pieces of about this size. */
#define EXTRACT_PIECE ((size_t)1 << 20)

/* So many numbers are made f64 at a time. */
#define EXTRACT_WIDE 512

/* One of the two, to those who read messages. */
typedef struct extract_side {
    const lora__checkpoint *c;
    const lora__holding *holding;
    const char *name;
} extract_side;

/* ---- the difference ---------------------------------------------------- */

static lora_dtype
extract_dtype(const lora__extract *job, const lora__holding *holding, int tuned)
{
    const lora__checkpoint *c = tuned ? job->pair.tuned : job->pair.base;
    return c->tensors[holding->tensor].entry->dtype;
}

/* 1 if all values are finite, and so those that they are the difference of. In
 * blocks that compilers make vectors of: a number is finite if its exponent is
 * not all ones. */
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

/* NONFINITE if a tensor, as it is stored, has values that are not finite. */
static lora_status extract_check_tensor(const extract_side *side,
                                        lora_error *error)
{
    const lora__tensor *t = &side->c->tensors[side->holding->tensor];
    lora__values found;

    TRY(lora__values_look_at(&found, t->container, t->index, error));
    return found.bad == 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_NONFINITE, t->entry->offset,
                            t->name,
                            "%llu of %llu values are NaN or infinite, the "
                            "first is element %llu; in %s, %s",
                            (unsigned long long)found.bad,
                            (unsigned long long)t->entry->elements,
                            (unsigned long long)found.first_bad, side->name,
                            t->container->path);
}

/* Why the difference is not finite: NONFINITE, or what reading gives. */
static lora_status extract_say_nonfinite(const lora__extract_work *w,
                                         const float *diff,
                                         size_t first,
                                         lora_error *error)
{
    const lora__pair *pair = &w->job->pair;
    const extract_side base = {pair->base, &w->match->base, "the base"};
    const extract_side tuned = {pair->tuned, &w->match->tuned,
                                "the tuned model"};
    size_t i = 0;

    TRY(extract_check_tensor(&base, error));
    TRY(extract_check_tensor(&tuned, error));
    while (isfinite(diff[i])) {
        i++;
    }
    return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                      tuned.c->tensors[tuned.holding->tensor].name,
                      "the difference from the base is too large for F32, "
                      "first of element %llu",
                      (unsigned long long)(first + i));
}

/* Some rows: tuned less base, in place of tuned. */
static lora_status extract_read_rows(lora__extract_work *w,
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

    TRY(lora__checkpoint_read_rows(diff, LORA_DTYPE_F32, pair->tuned, of_tuned,
                                   row, rows, error));
    TRY(lora__checkpoint_read_rows(base, LORA_DTYPE_F32, pair->base, of_base,
                                   row, rows, error));
    if (noise->columns > 0) {
        lora__noise_add(noise, noise_of_tuned ? diff : base, rows);
    }
    w->changed |= memcmp(diff, base, count * sizeof *base) != 0;
    w->job->kernels->axpy_f32(diff, base, -1.0f, count);
    return extract_is_finite(diff, count)
               ? LORA_OK
               : extract_say_nonfinite(w, diff, row * w->cols, error);
}

/* Read the difference, and the floor of rounding that it has. */
static lora_status extract_read(lora__extract_work *w, lora_error *error)
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
    if (base != tuned ||
        lora__extract_rule(w->job, w->match) == NULL) { /* else nobody asks */
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

/* ---- one layer --------------------------------------------------------- */

/* The role that the difference of what is no matrix has; UNKNOWN: it has
 * none. */
static lora__role extract_vector_role(const lora__match *match)
{
    int norm = match->layer == LORA__LAYER_NORM;

    if (match->role == LORA__ROLE_BIAS) {
        return norm ? LORA__ROLE_NORM_BIAS : LORA__ROLE_DIFF_BIAS;
    }
    if (match->base.ndim >= 2) {
        return LORA__ROLE_UNKNOWN;
    }
    return norm || !match->known ? LORA__ROLE_NORM_WEIGHT : LORA__ROLE_UNKNOWN;
}

/* How the kind writes the layer; NULL: not as a matrix. Embeddings and lone
 * parameters are written in full or not at all. */
static lora__extract_make *extract_maker(const lora__extract_work *w)
{
    const lora__match *match = w->match;
    const lora__extract_form *form = w->job->form;

    if (match->role == LORA__ROLE_BIAS || match->base.ndim < 2 ||
        (w->job->options.kind != LORA_EXTRACT_FULL &&
         (match->layer == LORA__LAYER_EMBEDDING ||
          match->layer == LORA__LAYER_PARAMETER))) {
        return NULL;
    }
    return lora__extract_is_conv(match) ? form->kernel : form->matrix;
}

/* The Frobenius norm of the difference. */
static double extract_norm(const lora__extract_work *w)
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

static lora_status extract_run_layer(lora__extract_work *w, lora_error *error)
{
    lora__extract_make *make = extract_maker(w);
    lora__role role;

    TRY(extract_read(w, error));
    if (w->changed) {
        w->out->norm = extract_norm(w);
    }
    if (w->out->norm == 0.0) { /* or 0 became -0 */
        w->out->state = LORA__EXTRACT_SAME;
        return LORA_OK;
    }
    /* The norm is at least the largest singular value: of a vector it is. */
    if (lora__extract_has_floor(w) && w->out->norm <= w->out->noise) {
        w->out->state = LORA__EXTRACT_NOISE;
        return LORA_OK;
    }
    if (make != NULL) {
        return make(w, error);
    }
    role = extract_vector_role(w->match);
    if (role == LORA__ROLE_UNKNOWN ||
        !lora__dialect_has_role(w->job->dialect, role)) {
        w->out->state = LORA__EXTRACT_NO_PLACE;
        return LORA_OK;
    }
    return lora__extract_full(w, role, error);
}

LORA_PRIVATE lora_status lora__extract_layer(lora__extracted *out,
                                             const lora__extract *job,
                                             const lora__match *match,
                                             lora_error *error)
{
    lora__extract_work w;
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
    lora__extract_bytes *more = job->form->bytes;

    /* The difference, a piece of the base, and what lora__dense_create() and
     * the factors take. */
    return (more == NULL ? 0 : more(job, match, rank + LORA__DENSE_EXTRA)) +
           match->base.rows * match->base.columns * sizeof(float) +
           EXTRACT_PIECE + sides * (rank + LORA__DENSE_EXTRA) * 5 * 8;
}
