/* Divide and conquer for the SVD of a matrix of two diagonals (Gu and
 * Eisenstat, A divide-and-conquer algorithm for the bidiagonal SVD, 1995).
 *
 * A part is rows [low, high) of B, which have one column more than rows. With
 * a row taken out of the middle it falls into two parts, whose SVDs are known:
 *
 *         [U1      ] [S1  0        ]
 *     B = [   1    ] [x l1 . y f2 .] diag(V1, V2)^T,
 *         [      U2] [      S2  0  ]
 *
 * x and y the two elements of the row in the middle, l1 and f2 the last row of
 * V1 and the first one of V2; so of V these two rows are all that is ever
 * needed. One rotation joins the two columns of zeros, and what is left is a
 * diagonal of poles 0, S1, S2 and a row z above it. Its singular values are
 * roots of the secular equation, and its vectors have closed forms in them.
 *
 * Poles whose z is rounding, or that are the same but for rounding, are
 * settled without any of that, and only the others are combined. The vectors
 * are orthogonal to rounding because they are those of a row z' near z for
 * which the roots are exact (Gu and Eisenstat, after Loewner).
 */
#include "linalg/conquer.h"

#include "linalg/block.h"
#include "linalg/secular.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* What is below this, where B's largest element is near 1, is taken for 0: its
 * square has not all of its digits. */
#define CONQUER_TINY 1e-140

/* Parts of this size ask whether to go on. */
#define CONQUER_LARGE 32

/* Rows of a part that are not 0 in the columns of its first half, of its
 * second half, or in both. */
enum { CONQUER_FIRST = 1, CONQUER_SECOND = 2, CONQUER_BOTH = 3 };

/* The whole problem. A part's rows are those of u_t, its vectors, and of the
 * arrays [n]; V's column without a row belongs to place `high`. */
typedef struct conquer_work {
    size_t n;
    const double *diagonal;
    const double *beside;
    double *u_t;    /* [n, n] */
    double *packed; /* [n, n]: rows on their way to others */
    double *mix;    /* [n, n]: vectors of the joined problem */
    double *sigma;  /* [n] */
    double *first;  /* [n + 1]: first row of V, */
    double *last;   /* and last row */
    double *z;      /* [n] */
    double *poles;  /* [n]: of kept rows, as the next six */
    double *weights;
    double *offsets; /* of roots, */
    double *origins; /* from these poles */
    double *old_first;
    double *old_last;
    double *made[3]; /* [n]: what goes to `first`, `last`, `sigma` */
    size_t *order;   /* [n]: rows of a part by ascending sigma */
    size_t *kept;    /* [n]: rows that are combined, by ascending pole */
    size_t *done;    /* [n]: rows that are not */
    size_t *slot;    /* [n]: where a kept one is in `packed` */
    size_t *halves;  /* [n]: which one is not 0 */
    lora_context *context;
    const lora__kernels *kernels;
} conquer_work;

/* A part that is put together of two. */
typedef struct conquer_part {
    size_t low;
    size_t middle;
    size_t high;
    size_t kept; /* row `middle` is the first of them */
    size_t done;
    size_t counts[4]; /* kept ones by halves */
    double tolerance;
} conquer_part;

/* Merge ascending runs a and b of rows. */
static void conquer_merge(size_t *out,
                          const size_t *a,
                          size_t a_count,
                          const size_t *b,
                          size_t b_count,
                          const double *sigma)
{
    size_t i = 0;
    size_t j = 0;

    while (i < a_count || j < b_count) {
        const int take_a =
            j == b_count || (i < a_count && sigma[a[i]] <= sigma[b[j]]);

        out[i + j] = take_a ? a[i] : b[j];
        i += (size_t)take_a;
        j += (size_t)!take_a;
    }
}

/* The rotation that takes (x, y) to (root, 0); returns the root. */
static double conquer_rotation(double *c, double *s, double x, double y)
{
    const double root = sqrt(x * x + y * y);
    const int exists = root > CONQUER_TINY;

    *c = exists ? x / root : 1;
    *s = exists ? y / root : 0;
    return exists ? root : 0;
}

/* The row in the middle as z over the poles, and the two rows of V over its
 * columns. */
static void conquer_join(conquer_work *w, conquer_part *p)
{
    const double x = w->diagonal[p->middle];
    const double y = w->beside[p->middle];
    double largest = fabs(x) < fabs(y) ? fabs(y) : fabs(x);
    double c;
    double s;
    const double root =
        conquer_rotation(&c, &s, x * w->last[p->middle], y * w->first[p->high]);

    for (size_t i = p->low; i < p->middle; i++) {
        w->z[i] = x * w->last[i];
        w->last[i] = 0;
        w->halves[i] = CONQUER_FIRST;
        largest = w->sigma[i] > largest ? w->sigma[i] : largest;
    }
    for (size_t i = p->middle + 1; i < p->high; i++) {
        w->z[i] = y * w->first[i];
        w->first[i] = 0;
        w->halves[i] = CONQUER_SECOND;
        largest = w->sigma[i] > largest ? w->sigma[i] : largest;
    }
    w->first[p->high] = -s * w->first[p->middle];
    w->first[p->middle] *= c;
    w->last[p->middle] = s * w->last[p->high];
    w->last[p->high] *= c;

    /* Nothing smaller than eps^2 of B counts, so that squares are numbers. */
    largest = largest > DBL_EPSILON ? largest : DBL_EPSILON;
    p->tolerance = 4 * DBL_EPSILON * largest;
    w->sigma[p->middle] = 0;
    w->z[p->middle] = root > p->tolerance ? root : p->tolerance;
}

/* Turn two rows of the same pole so that z of the first one is 0. */
static void
conquer_turn(conquer_work *w, const conquer_part *p, size_t i, size_t j)
{
    const size_t at = p->low;
    double c;
    double s;
    const double root = conquer_rotation(&c, &s, w->z[j], w->z[i]);

    w->z[j] = root;
    w->z[i] = 0;
    w->kernels->rotate_f64(w->u_t + i * w->n + at, w->u_t + j * w->n + at, c, s,
                           p->high - at);
    w->kernels->rotate_f64(w->first + i, w->first + j, c, s, 1);
    w->kernels->rotate_f64(w->last + i, w->last + j, c, s, 1);
    w->halves[i] |= w->halves[j];
    w->halves[j] = w->halves[i];
}

/* Put a row aside, in order; they come near ascending. */
static void conquer_settle(conquer_work *w, conquer_part *p, size_t row)
{
    size_t at = p->done++;

    for (; at > 0 && w->sigma[w->done[at - 1]] > w->sigma[row]; at--) {
        w->done[at] = w->done[at - 1];
    }
    w->done[at] = row;
}

static void conquer_keep(conquer_work *w, conquer_part *p, size_t row)
{
    w->kept[p->kept++] = row;
    p->counts[w->halves[row]]++;
}

/* Divide rows, by ascending pole, into those to combine and those that are
 * done. */
static void conquer_deflate(conquer_work *w, conquer_part *p)
{
    const size_t half = p->middle - p->low;
    const size_t count = p->high - p->low - 1;
    size_t *rows = w->slot;
    size_t before = p->middle; /* none */

    conquer_merge(rows, w->order + p->low, half, w->order + p->middle + 1,
                  count - half, w->sigma);
    w->kept[0] = p->middle;
    p->kept = 1;
    for (size_t k = 0; k < count; k++) {
        const size_t row = rows[k];

        if (fabs(w->z[row]) <= p->tolerance) {
            conquer_settle(w, p, row);
            continue;
        }
        if (before != p->middle) {
            if (w->sigma[row] - w->sigma[before] <= p->tolerance) {
                conquer_turn(w, p, before, row);
                conquer_settle(w, p, before);
            } else {
                conquer_keep(w, p, before);
            }
        }
        before = row;
    }
    if (before != p->middle) {
        conquer_keep(w, p, before);
    }
}

/* Where kept rows go in `packed`: those of both halves between the others. */
static void conquer_place(conquer_work *w, const conquer_part *p)
{
    size_t next[4] = {0, 1, 0, 0};

    next[CONQUER_BOTH] = 1 + p->counts[CONQUER_FIRST];
    next[CONQUER_SECOND] = next[CONQUER_BOTH] + p->counts[CONQUER_BOTH];
    w->slot[0] = 0;
    for (size_t k = 1; k < p->kept; k++) {
        w->slot[k] = next[w->halves[w->kept[k]]]++;
    }
}

/* Roots i into made[2], and mix[i,k] = pole k^2 - root i^2. */
static int
conquer_roots(conquer_work *w, const conquer_part *p, const lora__secular *s)
{
    if (!lora__secular_roots(w->offsets, w->origins, s)) {
        return 0;
    }
    for (size_t i = 0; i < s->count; i++) {
        double *row = w->mix + i * p->kept;
        const double offset = w->offsets[i];
        const double pole = w->origins[i];

        w->made[2][i] = pole + offset / (pole + sqrt(pole * pole + offset));
        for (size_t k = 0; k < s->count; k++) {
            row[k] = (s->poles[k] - pole) * (s->poles[k] + pole) - offset;
        }
    }
    return 1;
}

/* z' with the signs of z, over the weights: z'[k]^2 is the product over i of
 * (root i^2 - pole k^2) / (pole i^2 - pole k^2), the divisor left out where
 * i = k. */
static void
conquer_refine(conquer_work *w, const conquer_part *p, const lora__secular *s)
{
    double *out = w->weights;
    double *factors = w->offsets;
    const double *poles = s->poles;

    for (size_t k = 0; k < s->count; k++) {
        out[k] = 1;
    }
    for (size_t i = 0; i < s->count; i++) {
        const double pole = poles[i];

        for (size_t k = 0; k < s->count; k++) {
            factors[k] = (poles[k] - pole) * (poles[k] + pole);
        }
        factors[i] = 1;
        w->kernels->divide_f64(factors, w->mix + i * p->kept, factors,
                               s->count);
        for (size_t k = 0; k < s->count; k++) {
            out[k] *= factors[k];
        }
    }
    for (size_t k = 0; k < s->count; k++) {
        const double size = sqrt(fabs(out[k]));

        out[k] = w->z[w->kept[k]] < 0 ? -size : size;
    }
}

/* Rows of `mix` become left vectors, by places in `packed`; the two rows of V
 * go from old_first and old_last to `made`. */
static void
conquer_vectors(conquer_work *w, const conquer_part *p, const lora__secular *s)
{
    const size_t count = s->count;
    const lora__kernels *kernels = w->kernels;
    double *v = w->offsets;

    for (size_t i = 0; i < count; i++) {
        double *row = w->mix + i * p->kept;
        double left;
        double right;

        kernels->divide_f64(v, s->weights, row, count);
        right = 1 / sqrt(kernels->dot_f64(v, v, count));
        w->made[0][i] = kernels->dot_f64(v, w->old_first, count) * right;
        w->made[1][i] = kernels->dot_f64(v, w->old_last, count) * right;
        v[0] = -1;
        for (size_t k = 1; k < count; k++) {
            v[k] *= s->poles[k];
        }
        left = 1 / sqrt(kernels->dot_f64(v, v, count));
        for (size_t k = 0; k < count; k++) {
            row[w->slot[k]] = v[k] * left;
        }
    }
}

/* Rows of u_t into `packed`: kept ones by their slots, then those that are
 * done. */
static void conquer_pack(conquer_work *w, const conquer_part *p)
{
    const size_t width = p->high - p->low;

    for (size_t k = 0; k < width; k++) {
        const int keep = k < p->kept;
        const size_t row = keep ? w->kept[k] : w->done[k - p->kept];

        memcpy(w->packed + (keep ? w->slot[k] : k) * width,
               w->u_t + row * w->n + p->low, width * sizeof(double));
    }
}

/* Combine kept rows, each half of the columns from those that are not 0. */
static void conquer_combine(conquer_work *w, const conquer_part *p)
{
    const size_t n = w->n;
    const size_t kept = p->kept;
    const size_t width = p->high - p->low;
    const size_t half = p->middle - p->low;
    const size_t both = p->counts[CONQUER_BOTH];
    const size_t first = p->counts[CONQUER_FIRST];
    double *out = w->u_t + p->low * n + p->low;

    w->kernels->gemm_f64(out, n, w->mix + 1, kept, w->packed + width, width,
                         kept, half, first + both);
    w->kernels->gemm_f64(out + half + 1, n, w->mix + 1 + first, kept,
                         w->packed + (1 + first) * width + half + 1, width,
                         kept, width - half - 1, kept - 1 - first);
    for (size_t i = 0; i < kept; i++) {
        out[i * n + half] = w->mix[i * kept];
    }
    for (size_t i = kept; i < width; i++) {
        memcpy(out + i * n, w->packed + i * width, width * sizeof *out);
    }
}

/* What belongs to rows, in their new places: first the new ones, then those
 * that are done. */
static void conquer_rename(conquer_work *w, const conquer_part *p)
{
    const size_t count = p->high - p->low;
    double *arrays[3] = {w->first, w->last, w->sigma};

    for (size_t a = 0; a < 3; a++) {
        double *from = w->made[a];

        for (size_t k = 0; k < p->done; k++) {
            from[p->kept + k] = arrays[a][w->done[k]];
        }
        memcpy(arrays[a] + p->low, from, count * sizeof *from);
    }
    for (size_t k = 0; k < count; k++) {
        w->slot[k] = p->low + k;
    }
    conquer_merge(w->order + p->low, w->slot, p->kept, w->slot + p->kept,
                  p->done, w->sigma);
}

/* What the secular equation is made of, and the rows of V beside it. */
static void
conquer_gather(lora__secular *out, conquer_work *w, const conquer_part *p)
{
    out->count = p->kept;
    out->poles = w->poles;
    out->weights = w->weights;
    out->kernels = w->kernels;
    for (size_t k = 0; k < p->kept; k++) {
        const size_t row = w->kept[k];

        w->poles[k] = w->sigma[row];
        w->weights[k] = w->z[row] * w->z[row];
        w->old_first[k] = w->first[row];
        w->old_last[k] = w->last[row];
    }
    /* No two poles are nearer than the tolerance, but for 0 and the next. */
    if (p->kept > 1 && w->poles[1] < p->tolerance / 2) {
        w->poles[1] = p->tolerance / 2;
    }
}

/* Rows [low, middle) and (middle, high) are solved; all of [low, high). */
static lora_status conquer_both(
    conquer_work *w, size_t low, size_t middle, size_t high, lora_error *error)
{
    conquer_part p = {low, middle, high, 0, 0, {0}, 0};
    lora__secular secular;

    if (high - low >= CONQUER_LARGE) {
        TRY(lora__progress(w->context, NULL, 0, 0, error));
    }
    conquer_join(w, &p);
    conquer_deflate(w, &p);
    conquer_place(w, &p);
    conquer_gather(&secular, w, &p);
    if (!conquer_roots(w, &p, &secular)) {
        return lora__fail(error, LORA_ERROR_CONVERGENCE, LORA_NO_OFFSET, NULL,
                          "the SVD did not find a root");
    }
    conquer_refine(w, &p, &secular);
    conquer_vectors(w, &p, &secular);
    conquer_pack(w, &p);
    conquer_combine(w, &p);
    conquer_rename(w, &p);
    return LORA_OK;
}

/* Rows [low, high). One row is a rotation, and none a 1. */
static lora_status
conquer_solve(conquer_work *w, size_t low, size_t high, lora_error *error)
{
    const size_t middle = low + (high - low) / 2;

    if (high == low) {
        w->first[low] = 1;
        w->last[low] = 1;
        return LORA_OK;
    }
    if (high - low == 1) {
        w->order[low] = low;
        w->sigma[low] = conquer_rotation(w->first + low, w->last + low,
                                         w->diagonal[low], w->beside[low]);
        w->first[high] = -w->last[low];
        w->last[high] = w->first[low];
        return LORA_OK;
    }
    TRY(conquer_solve(w, low, middle, error));
    TRY(conquer_solve(w, middle + 1, high, error));
    return conquer_both(w, low, middle, high, error);
}

/* The power of two that brings B's largest element to [1/2, 1); 0 if B has an
 * element that is not finite. */
static double
conquer_scale(const double *diagonal, const double *beside, size_t n)
{
    double largest = 0;
    int exponent;

    for (size_t i = 0; i < n; i++) {
        const double a = fabs(diagonal[i]);
        const double b = fabs(beside[i]);

        if (!(a <= DBL_MAX && b <= DBL_MAX)) {
            return 0;
        }
        largest = a > largest ? a : largest;
        largest = b > largest ? b : largest;
    }
    (void)frexp(largest, &exponent);
    /* Within what is a number, and its inverse too; where B is 0, so that what
     * tolerances leave of it is as well. */
    exponent = exponent < -1000 || !(largest > 0) ? -1000 : exponent;
    return ldexp(1, exponent > 1000 ? -1000 : -exponent);
}

/* Arrays of the work: `numbers` and `places`. */
static void conquer_divide(conquer_work *w, double *numbers, size_t *places)
{
    double **const arrays[] = {
        &w->sigma,   &w->z,         &w->poles,    &w->weights, &w->offsets,
        &w->origins, &w->old_first, &w->old_last, &w->made[0], &w->made[1],
        &w->made[2], &w->first,     &w->last};
    size_t **const integers[] = {&w->order, &w->kept, &w->done, &w->slot,
                                 &w->halves};
    const size_t n = w->n;

    w->mix = numbers;
    numbers += n * n;
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        *arrays[i] = numbers;
        numbers += n + 1;
    }
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        *integers[i] = places;
        places += n;
    }
}

LORA_PRIVATE lora_status lora__conquer(double *sigma,
                                       double *u_t,
                                       double *diagonal,
                                       double *beside,
                                       double *spare,
                                       size_t n,
                                       lora_context *context,
                                       lora_error *error)
{
    const double scale = conquer_scale(diagonal, beside, n);
    lora__block numbers = {NULL, 0};
    lora_status status = LORA_OK;
    void *places = NULL;
    conquer_work w;

    memset(&w, 0, sizeof w);
    w.n = n;
    w.diagonal = diagonal;
    w.beside = beside;
    w.u_t = u_t;
    w.packed = spare;
    w.context = context;
    w.kernels = lora__kernels_get(lora__context_get(context)->cpu);
    if (!(scale > 0)) {
        return lora__fail(error, LORA_ERROR_CONVERGENCE, LORA_NO_OFFSET, NULL,
                          "the SVD met a number that is not finite");
    }
    /* A square, and 13 arrays of n + 1. */
    TRY_OR_DONE(lora__block_create(&numbers, n + 13, n + 1, context, error));
    TRY_OR_DONE(
        lora__alloc_zeroed(&places, context, n, 5 * sizeof(size_t), error));
    conquer_divide(&w, numbers.at, places);
    w.kernels->scale_f64(diagonal, scale, n);
    w.kernels->scale_f64(beside, scale, n);
    memset(u_t, 0, n * n * sizeof *u_t);
    for (size_t i = 0; i < n; i++) {
        u_t[i * n + i] = 1;
    }
    TRY_OR_DONE(conquer_solve(&w, 0, n, error));
    for (size_t i = 0; i < n; i++) {
        const size_t row = w.order[n - 1 - i];

        sigma[i] = w.sigma[row] / scale;
        memcpy(spare + i * n, u_t + row * n, n * sizeof *u_t);
    }
    memcpy(u_t, spare, n * n * sizeof *u_t);
done:
    if (places != NULL) {
        lora__free(context, places, 5 * n * sizeof(size_t), LORA__ALIGN);
    }
    lora__block_destroy(&numbers, context);
    return status;
}
