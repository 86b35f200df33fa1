/* SVD of a small square matrix by one-sided Jacobi rotations.
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

#include "linalg/block.h"
#include "linalg/householder.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define JACOBI_SWEEPS 60

/* Pairs at a time: what hides the time of roots and divisions. */
#define JACOBI_BATCH 4

/* Rows under rotation. */
typedef struct jacobi_rows {
    double *x; /* [rows, n] */
    double *squares;
    size_t rows;
    size_t n;
    const lora__kernels *kernels;
    double tolerance;
    size_t rotations;
    lora_context *context;
} jacobi_rows;

/* A rotation x' = c x - s y, y' = s x + c y. */
typedef struct jacobi_angle {
    double dot;
    double c;
    double s;
} jacobi_angle;

/* With g = x . y and d = |x|^2 - |y|^2, x' . y' is 0 where
 * tan 2 theta = -2 g / d. With h = sqrt(d^2 + 4 g^2), the smaller of the angles
 * has c^2 = 1/2 + |d| / (2 h) and |s| = |g| / (h c). The sign of s is left to
 * jacobi_rotate. */
static void jacobi_measure(jacobi_angle *angle, double d)
{
    const double g = angle->dot;
    const double inverse = 1 / sqrt(d * d + 4 * g * g + DBL_MIN);

    angle->c = sqrt(0.5 + 0.5 * fabs(d) * inverse);
    angle->s = g * inverse / angle->c;
}

/* Rotate rows i and j unless they are orthogonal already. Afterwards row i is
 * not the smaller one. Square norms are brought up to date by what moves, and
 * measured once a sweep: an angle need not be exact, a rotation is. */
static void
jacobi_rotate(jacobi_rows *r, size_t i, size_t j, const jacobi_angle *angle)
{
    double *x = r->x + i * r->n;
    double *y = r->x + j * r->n;
    double *nx = r->squares + i;
    double *ny = r->squares + j;
    const double larger = *nx < *ny ? *ny : *nx;
    const double smaller = *nx < *ny ? *nx : *ny;
    /* What the larger square norm takes from the smaller: g tan theta. */
    const double gain = angle->dot * angle->s / angle->c;

    if (angle->dot * angle->dot <= r->tolerance * (larger * smaller)) {
        return;
    }
    r->rotations++;
    if (*nx >= *ny) {
        r->kernels->rotate_f64(x, y, angle->c, -angle->s, r->n);
    } else {
        /* The results exchanged, one of them negated. */
        r->kernels->rotate_f64(x, y, angle->s, -angle->c, r->n);
    }
    *nx = larger + gain;
    *ny = smaller - gain;
}

/* Pairs (i, sum - i), begin <= i < end, which have no row in common. Each
 * step is a loop of its own, so that divisions and roots overlap. */
static void
jacobi_diagonal(jacobi_rows *r, size_t sum, size_t begin, size_t end)
{
    jacobi_angle angle[JACOBI_BATCH];

    for (size_t i = begin; i < end; i++) {
        angle[i - begin].dot =
            r->kernels->dot_f64(r->x + i * r->n, r->x + (sum - i) * r->n, r->n);
    }
    for (size_t i = begin; i < end; i++) {
        jacobi_measure(&angle[i - begin], r->squares[i] - r->squares[sum - i]);
    }
    for (size_t i = begin; i < end; i++) {
        jacobi_rotate(r, i, sum - i, &angle[i - begin]);
    }
}

/* All pairs in the order (0,1) (0,2) ... (1,2) ..., or rather one that gives
 * the same: pairs of equal i + j may go side by side once (i, j - 1) and
 * (i - 1, j) are done. A few i at a time, whose rows stay in the cache. */
static lora_status jacobi_sweep(jacobi_rows *r, lora_error *error)
{
    for (size_t first = 0; first < r->rows; first += JACOBI_BATCH) {
        const size_t last = first + JACOBI_BATCH - 1;

        TRY(lora__progress(r->context, NULL, 0, 0, error));

        for (size_t sum = 2 * first + 1; sum < last + r->rows; sum++) {
            /* first <= i <= last and i < sum - i < rows */
            const size_t lowest = sum - (r->rows - 1);
            const size_t begin =
                sum >= r->rows && lowest > first ? lowest : first;
            const size_t end = (sum + 1) / 2 <= last ? (sum + 1) / 2 : last + 1;

            if (begin < end) {
                jacobi_diagonal(r, sum, begin, end);
            }
        }
    }
    return LORA_OK;
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
    jacobi_rows r = {x, squares, rows, n, kernels, 0, 0, context};

    /* A dot product of n terms is off by about eps sqrt(n); squared. */
    r.tolerance = DBL_EPSILON * DBL_EPSILON * ((double)n + 8);
    for (int sweep = 0; sweep < JACOBI_SWEEPS; sweep++) {
        for (size_t i = 0; i < rows; i++) {
            squares[i] = kernels->dot_f64(x + i * n, x + i * n, n);
        }
        r.rotations = 0;
        TRY(jacobi_sweep(&r, error));
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
    for (size_t i = 0; i < n; i++) {
        if (!(sigma[i] >= floor)) {
            sigma[i] = 0;
            memset(u_t + i * n, 0, n * sizeof *u_t);
        }
    }
done:
    lora__block_destroy(&whole, context);
    lora__block_destroy(&work, context);
    lora__block_destroy(&v_t, context);
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
