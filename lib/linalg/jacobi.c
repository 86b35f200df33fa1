/* SVD of a small square matrix: by one-sided Jacobi rotations up to 16 rows,
 * and by way of two diagonals (bidiagonal.h, conquer.h) above, where that is
 * faster.
 *
 * Pivoting first makes the work small: with C = P L Q, rows of L^T are near
 * orthogonal already and ordered by size, so that few sweeps are left. Rows
 * of X = L^T are then rotated until they are orthogonal:
 *
 *     J X = diag(sigma) W^T,  so  L = W diag(sigma) J,  C = (P W) diag(sigma)
 * (J Q)
 *
 * The left vectors of C are thus the rows of J X, normalised and their
 * columns put back in order; no product of rotations is kept. As each
 * rotation makes a pair orthogonal relative to its two norms, left vectors of
 * small singular values are as orthogonal as those of large ones.
 */
#include "linalg/jacobi.h"

#include "linalg/bidiagonal.h"
#include "linalg/block.h"
#include "linalg/conquer.h"
#include "linalg/householder.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define JACOBI_SWEEPS 60

/* The largest matrix that is rotated: a multiple of four, as pairs are worked
 * on by fours. Its rows stay in the first-level cache. */
#define JACOBI_MOST ((size_t)16)

/* Rows under rotation. */
typedef struct jacobi_rows {
    double *x; /* [rows, n] */
    double *squares;
    size_t rows;
    size_t n;
    const lora__kernels *kernels;
    double tolerance;
    size_t rotations;
    double dots[JACOBI_MOST]; /* of rows with their next partner */
    int known[JACOBI_MOST];
} jacobi_rows;

/* A pair, and the rotation x' = c x - s y, y' = s x + c y that makes it
 * orthogonal: |s| / c = |t|, where the sign is left to jacobi_rotate. */
typedef struct jacobi_pair {
    size_t i;
    size_t j;
    double dot;
    double t;
    double c;
} jacobi_pair;

/* Rotate rows i and j unless they are orthogonal already; 1 if so, and then
 * the product of row i and row j + 1, its next partner, if there is one.
 * Afterwards row i is not the smaller one. Square norms are brought up to date
 * by what moves, and measured once a sweep: an angle need not be exact, a
 * rotation is. */
static int jacobi_rotate(double *next, jacobi_rows *r, const jacobi_pair *pair)
{
    double *x = r->x + pair->i * r->n;
    double *y = r->x + pair->j * r->n;
    double *nx = r->squares + pair->i;
    double *ny = r->squares + pair->j;
    const double larger = *nx < *ny ? *ny : *nx;
    const double smaller = *nx < *ny ? *nx : *ny;
    /* What the larger square norm takes from the smaller. */
    const double gain = pair->dot * pair->t;
    double c = pair->c;
    double s = -pair->c * pair->t;

    if (pair->dot * pair->dot <= r->tolerance * (larger * smaller)) {
        return 0;
    }
    r->rotations++;
    if (*nx < *ny) { /* the results exchanged, one of them negated */
        c = -s;
        s = -pair->c;
    }
    *nx = larger + gain;
    *ny = smaller - gain;
    if (pair->j + 1 == r->rows) {
        r->kernels->rotate_f64(x, y, c, s, r->n);
        return 0;
    }
    *next = r->kernels->rotate_dot_f64(x, y, c, s, y + r->n, r->n);
    return 1;
}

/* Dot products of a four of pairs, as far as no rotation found them. */
static void jacobi_products(double *dot,
                            jacobi_rows *r,
                            const double *const *x,
                            const double *const *y,
                            size_t slot)
{
    int missing = 0;

    for (size_t k = 0; k < 4; k++) {
        missing |= !r->known[slot + k];
    }
    if (missing) {
        r->kernels->dots4_f64(dot, x, y, r->n);
        return;
    }
    for (size_t k = 0; k < 4; k++) {
        dot[k] = r->dots[slot + k];
    }
}

/* Pairs (i, sum - i), begin <= i < end, which have no row in common. Work is
 * done by fours, as roots and divisions of one are under way while those of the
 * next begin, and what is no pair stands for the first one. In ascending order,
 * as row i - 1 is done with row sum - i + 1 when row i meets it. */
static void
jacobi_diagonal(jacobi_rows *r, size_t sum, size_t begin, size_t end)
{
    const double *x[JACOBI_MOST];
    const double *y[JACOBI_MOST];
    double dot[JACOBI_MOST];
    double d[JACOBI_MOST];
    double t[JACOBI_MOST];
    double c[JACOBI_MOST];
    const size_t from = begin / 4 * 4;
    const size_t to = (end + 3) / 4 * 4;

    for (size_t k = from; k < to; k++) {
        const size_t i = k >= begin && k < end ? k : begin;

        x[k] = r->x + i * r->n;
        y[k] = r->x + (sum - i) * r->n;
        d[k] = r->squares[i] - r->squares[sum - i];
        r->known[k] |= i != k;
    }
    for (size_t k = from; k < to; k += 4) {
        jacobi_products(dot + k, r, x + k, y + k, k);
    }
    for (size_t k = from; k < to; k += 4) {
        r->kernels->angles4_f64(t + k, c + k, d + k, dot + k);
    }
    for (size_t k = from; k < to; k++) {
        const jacobi_pair pair = {k, sum - k, dot[k], t[k], c[k]};

        r->known[k] =
            k >= begin && k < end ? jacobi_rotate(&r->dots[k], r, &pair) : 0;
    }
}

/* All pairs in the order (0,1) (0,2) ... (1,2) ..., or rather one that gives
 * the same: pairs of equal i + j may go side by side once (i, j - 1) and
 * (i - 1, j) are done. */
static void jacobi_sweep(jacobi_rows *r)
{
    memset(r->known, 0, sizeof r->known);
    for (size_t sum = 1; sum + 2 < 2 * r->rows; sum++) {
        /* i < sum - i < rows */
        const size_t begin = sum < r->rows ? 0 : sum - (r->rows - 1);

        jacobi_diagonal(r, sum, begin, (sum + 1) / 2);
    }
}

/* Rotate rows of x[rows, n] until no pair is off; their square norms into
 * `squares`. */
static lora_status jacobi_settle(double *x,
                                 double *squares,
                                 size_t rows,
                                 size_t n,
                                 lora_context *context,
                                 lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    jacobi_rows r;

    memset(&r, 0, sizeof r);
    r.x = x;
    r.squares = squares;
    r.rows = rows;
    r.n = n;
    r.kernels = kernels;
    /* A dot product of n terms is off by about eps sqrt(n); squared. */
    r.tolerance = DBL_EPSILON * DBL_EPSILON * ((double)n + 8);
    for (int sweep = 0; sweep < JACOBI_SWEEPS; sweep++) {
        for (size_t i = 0; i < rows; i++) {
            squares[i] = kernels->dot_f64(x + i * n, x + i * n, n);
        }
        r.rotations = 0;
        TRY(lora__progress(context, NULL, 0, 0, error));
        jacobi_sweep(&r);
        if (r.rotations == 0) {
            return LORA_OK;
        }
    }
    return lora__fail(error, LORA_ERROR_CONVERGENCE, LORA_NO_OFFSET, NULL,
                      "the SVD did not settle in %d sweeps", JACOBI_SWEEPS);
}

/* Order rows by their square norms, largest first. */
static void jacobi_sort(double *x, double *squares, size_t rows, size_t n)
{
    for (size_t i = 0; i < rows; i++) {
        size_t best = i;
        double value;

        for (size_t j = i + 1; j < rows; j++) {
            if (squares[j] > squares[best]) {
                best = j;
            }
        }
        if (best == i) {
            continue;
        }
        value = squares[i];
        squares[i] = squares[best];
        squares[best] = value;
        for (size_t j = 0; j < n; j++) {
            value = x[i * n + j];
            x[i * n + j] = x[best * n + j];
            x[best * n + j] = value;
        }
    }
}

/* sigma and U^T of the rotated rows; row[n] is scratch. */
static void jacobi_finish(double *sigma,
                          double *u_t,
                          const size_t *order,
                          const double *squares,
                          double *row,
                          size_t rows,
                          size_t n,
                          double floor)
{
    for (size_t i = 0; i < n; i++) {
        double *out = u_t + i * n;
        const double norm = i < rows ? sqrt(squares[i]) : 0;

        if (norm < floor) {
            sigma[i] = 0;
            memset(out, 0, n * sizeof *out);
            continue;
        }
        sigma[i] = norm;
        memcpy(row, out, n * sizeof *row);
        for (size_t j = 0; j < n; j++) {
            out[order[j]] = row[j] / norm;
        }
    }
}

/* The square's transpose, in place. */
static void jacobi_transpose(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            const double x = a[i * n + j];

            a[i * n + j] = a[j * n + i];
            a[j * n + i] = x;
        }
    }
}

/* What is below the floor, or no number, counts as rounding. */
static void jacobi_cut(double *sigma, double *u_t, size_t n, double floor)
{
    for (size_t i = 0; i < n; i++) {
        if (!(sigma[i] >= floor)) {
            sigma[i] = 0;
            memset(u_t + i * n, 0, n * sizeof *u_t);
        }
    }
}

/* Column-major U of the backend is our row-major U^T. */
static lora_status jacobi_backend(double *sigma,
                                  double *u_t,
                                  double *c,
                                  size_t n,
                                  double floor,
                                  lora_context *context,
                                  lora_error *error)
{
    const lora_backend *backend = &lora__context_get(context)->backend;
    const int32_t m = (int32_t)n;
    lora__block v_t = {NULL, 0};
    lora__block work = {NULL, 0};
    lora__block whole = {NULL, 0};
    lora_status status = LORA_OK;
    double wanted = 0;
    int32_t info;

    /* 8 n int32_t are 4 n doubles. */
    TRY_OR_DONE(lora__block_create(&v_t, n, n, context, error));
    TRY_OR_DONE(lora__block_create(&whole, 4, n, context, error));
    jacobi_transpose(c, n);
    info = backend->gesdd_f64(m, m, c, m, sigma, u_t, m, v_t.at, m, &wanted, -1,
                              (int32_t *)(void *)whole.at);
    if (info == 0 && wanted >= 1 && wanted <= INT32_MAX) {
        TRY_OR_DONE(
            lora__block_create(&work, 1, (size_t)wanted, context, error));
        info = backend->gesdd_f64(m, m, c, m, sigma, u_t, m, v_t.at, m, work.at,
                                  (int32_t)wanted, (int32_t *)(void *)whole.at);
    } else if (info == 0) {
        info = -1;
    }
    if (info != 0) {
        status = lora__fail(
            error, info > 0 ? LORA_ERROR_CONVERGENCE : LORA_ERROR_INTERNAL,
            LORA_NO_OFFSET, NULL, "backend's gesdd failed (%d)", (int)info);
        goto done;
    }
    jacobi_cut(sigma, u_t, n, floor);
done:
    lora__block_destroy(&whole, context);
    lora__block_destroy(&work, context);
    lora__block_destroy(&v_t, context);
    return status;
}

/* By way of two diagonals. */
static lora_status jacobi_conquered(double *sigma,
                                    double *u_t,
                                    double *c,
                                    size_t n,
                                    double floor,
                                    lora_context *context,
                                    lora_error *error)
{
    lora__block v = {NULL, 0};
    lora_status status = LORA_OK;
    double *tau;
    double *diagonal;
    double *beside;

    TRY_OR_DONE(lora__block_create(&v, n + 3, n, context, error));
    tau = v.at + n * n;
    diagonal = tau + n;
    beside = diagonal + n;
    TRY_OR_DONE(lora__bidiagonal_create(diagonal, beside, v.at, tau, c, n,
                                        context, error));
    TRY_OR_DONE(
        lora__conquer(sigma, u_t, diagonal, beside, c, n, context, error));
    TRY_OR_DONE(lora__bidiagonal_turn(u_t, v.at, tau, n, context, error));
    jacobi_cut(sigma, u_t, n, floor);
done:
    lora__block_destroy(&v, context);
    return status;
}

LORA_PRIVATE lora_status lora__jacobi_left(double *sigma,
                                           double *u_t,
                                           double *c,
                                           size_t n,
                                           double floor,
                                           lora_context *context,
                                           lora_error *error)
{
    const lora__settings *settings = lora__context_get(context);
    const lora__kernels *kernels = lora__kernels_get(settings->cpu);
    lora__block scratch = {NULL, 0};
    lora_status status = LORA_OK;
    void *order = NULL;
    double *squares;
    size_t rows;

    if (settings->backend.gesdd_f64 != NULL && n <= INT32_MAX / 8) {
        return jacobi_backend(sigma, u_t, c, n, floor, context, error);
    }
    if (n > JACOBI_MOST) {
        return jacobi_conquered(sigma, u_t, c, n, floor, context, error);
    }
    TRY_OR_DONE(lora__block_create(&scratch, 3, n, context, error));
    TRY_OR_DONE(lora__alloc_zeroed(&order, context, n, sizeof(size_t), error));
    squares = scratch.at;

    rows = lora__lq_pivoted(c, order, squares, n, floor / 4, kernels);
    memset(u_t, 0, rows * n * sizeof *u_t);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = i; j < n; j++) {
            u_t[i * n + j] = c[j * n + i];
        }
    }
    TRY_OR_DONE(jacobi_settle(u_t, squares, rows, n, context, error));
    jacobi_sort(u_t, squares, rows, n);
    jacobi_finish(sigma, u_t, order, squares, squares + 2 * n, rows, n, floor);
done:
    if (order != NULL) {
        lora__free(context, order, n * sizeof(size_t), LORA__ALIGN);
    }
    lora__block_destroy(&scratch, context);
    return status;
}
