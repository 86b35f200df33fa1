/* Reduction of a square matrix to two diagonals, by panels.
 *
 * Within a panel the matrix itself is left as it is, and what its reflections
 * do to it is kept as a product of low rank,
 *
 *     C_now = C - columns[2 j, n]^T rows[2 j, n],
 *
 * two more of each with every step j: u_j and y_j of the reflection from the
 * left, x_j and v_j of the one from the right (Dongarra, Sorensen and
 * Hammarling 1989). So half of the arithmetic is products of C with one
 * vector, which only read it, and the other half is one product of matrices a
 * panel.
 */
#include "linalg/bidiagonal.h"

#include "linalg/block.h"
#include "linalg/householder.h"

#include <string.h>

#define BIDIAGONAL_PANEL ((size_t)16)
#define BIDIAGONAL_PAIRS (2 * BIDIAGONAL_PANEL)

/* Rows of a product that are made before they are subtracted. */
#define BIDIAGONAL_STRIP ((size_t)64)

/* A panel under way, of steps begin, begin + 1, ... */
typedef struct bidiagonal_panel {
    double *c; /* [n, n] */
    size_t n;
    size_t begin;
    double *columns; /* [BIDIAGONAL_PAIRS, n]: u and x */
    double *rows;    /* [BIDIAGONAL_PAIRS, n]: y and v */
    const lora__kernels *kernels;
} bidiagonal_panel;

/* C[m, n] -= A[m, k] B[k, n]; product[BIDIAGONAL_STRIP, n]. */
static void bidiagonal_subtract(double *c,
                                size_t ldc,
                                const double *a,
                                size_t lda,
                                const double *b,
                                size_t ldb,
                                size_t m,
                                size_t n,
                                size_t k,
                                double *product,
                                const lora__kernels *kernels)
{
    for (size_t from = 0; from < m; from += BIDIAGONAL_STRIP) {
        const size_t count =
            m - from < BIDIAGONAL_STRIP ? m - from : BIDIAGONAL_STRIP;

        kernels->gemm_f64(product, n, a + from * lda, lda, b, ldb, count, n, k);
        for (size_t i = 0; i < count; i++) {
            kernels->axpy_f64(c + (from + i) * ldc, product + i * n, -1, n);
        }
    }
}

/* out[count] -= weights[pairs] M[pairs, count], M being rows of a panel. */
static void bidiagonal_combine(double *out,
                               const bidiagonal_panel *p,
                               const double *m,
                               double *weights,
                               size_t pairs,
                               size_t count)
{
    for (size_t j = 0; j < pairs; j++) {
        weights[j] = -weights[j];
    }
    p->kernels->gemv_t_f64(out, m, p->n, weights, pairs, count);
}

/* The reflection from the left that clears column k below the diagonal: u[n],
 * and y = tau u C_now. */
static double
bidiagonal_left(double *u, double *tau, const bidiagonal_panel *p, size_t k)
{
    const size_t n = p->n;
    const size_t pairs = 2 * (k - p->begin);
    const size_t rest = n - k - 1;
    double weights[BIDIAGONAL_PAIRS];
    double *y = p->rows + pairs * n + k + 1;
    double beta;

    memset(u, 0, k * sizeof *u);
    for (size_t i = k; i < n; i++) {
        u[i] = p->c[i * n + k];
    }
    for (size_t j = 0; j < pairs; j++) {
        weights[j] = p->rows[j * n + k];
    }
    bidiagonal_combine(u + k, p, p->columns + k, weights, pairs, n - k);
    beta = lora__householder_make(u + k, tau, n - k, p->kernels);
    memcpy(p->columns + pairs * n + k, u + k, (n - k) * sizeof *u);

    memset(y, 0, rest * sizeof *y);
    p->kernels->gemv_t_f64(y, p->c + k * n + k + 1, n, u + k, n - k, rest);
    p->kernels->gemv_f64(weights, p->columns + k, n, u + k, pairs, n - k);
    bidiagonal_combine(y, p, p->rows + k + 1, weights, pairs, rest);
    p->kernels->scale_f64(y, *tau, rest);
    return beta;
}

/* The one from the right that clears row k beyond column k + 1: v, and
 * x = tau C_now v. */
static double bidiagonal_right(const bidiagonal_panel *p, size_t k)
{
    const size_t n = p->n;
    const size_t pairs = 2 * (k - p->begin) + 1;
    const size_t rest = n - k - 1;
    double weights[BIDIAGONAL_PAIRS];
    double *v = p->rows + pairs * n + k + 1;
    double *x = p->columns + pairs * n + k + 1;
    double tau;
    double beta;

    memcpy(v, p->c + k * n + k + 1, rest * sizeof *v);
    for (size_t j = 0; j < pairs; j++) {
        weights[j] = p->columns[j * n + k];
    }
    bidiagonal_combine(v, p, p->rows + k + 1, weights, pairs, rest);
    beta = lora__householder_make(v, &tau, rest, p->kernels);

    p->kernels->gemv_f64(x, p->c + (k + 1) * n + k + 1, n, v, rest, rest);
    p->kernels->gemv_f64(weights, p->rows + k + 1, n, v, pairs, rest);
    bidiagonal_combine(x, p, p->columns + k + 1, weights, pairs, rest);
    p->kernels->scale_f64(x, tau, rest);
    return beta;
}

/* out[cols, rows] = the transpose of in[rows, cols], rows of which are ldi
 * apart, those of out ldo. */
static void bidiagonal_transpose(double *out,
                                 size_t ldo,
                                 const double *in,
                                 size_t ldi,
                                 size_t rows,
                                 size_t cols)
{
    for (size_t j = 0; j < cols; j++) {
        for (size_t i = 0; i < rows; i++) {
            out[j * ldo + i] = in[i * ldi + j];
        }
    }
}

LORA_PRIVATE lora_status lora__bidiagonal_create(double *diagonal,
                                                 double *beside,
                                                 double *v,
                                                 double *tau,
                                                 double *c,
                                                 size_t n,
                                                 lora_context *context,
                                                 lora_error *error)
{
    const size_t height = 3 * BIDIAGONAL_PAIRS + BIDIAGONAL_STRIP;
    lora__block scratch;
    lora_status status = LORA_OK;
    bidiagonal_panel p;
    double *turned;  /* [n, BIDIAGONAL_PAIRS]: columns of what is left */
    double *product; /* [BIDIAGONAL_STRIP, n] */

    TRY(lora__block_create(&scratch, height, n, context, error));
    p.c = c;
    p.n = n;
    p.columns = scratch.at;
    p.rows = p.columns + BIDIAGONAL_PAIRS * n;
    p.kernels = lora__kernels_get(lora__context_get(context)->cpu);
    turned = p.rows + BIDIAGONAL_PAIRS * n;
    product = turned + BIDIAGONAL_PAIRS * n;
    for (p.begin = 0; p.begin < n; p.begin += BIDIAGONAL_PANEL) {
        const size_t end =
            n - p.begin < BIDIAGONAL_PANEL ? n : p.begin + BIDIAGONAL_PANEL;
        const size_t rest = n - end;

        TRY_OR_DONE(lora__progress(context, NULL, 0, 0, error));
        for (size_t k = p.begin; k < end; k++) {
            diagonal[k] = bidiagonal_left(v + k * n, tau + k, &p, k);
            beside[k] = k + 1 < n ? bidiagonal_right(&p, k) : 0;
        }
        if (rest > 0) {
            bidiagonal_transpose(turned, BIDIAGONAL_PAIRS, p.columns + end, n,
                                 BIDIAGONAL_PAIRS, rest);
            bidiagonal_subtract(c + end * n + end, n, turned, BIDIAGONAL_PAIRS,
                                p.rows + end, n, rest, rest, BIDIAGONAL_PAIRS,
                                product, p.kernels);
        }
    }
done:
    lora__block_destroy(&scratch, context);
    return status;
}

/* V = K^-1 V, K being the triangle of V's reflections. */
static void bidiagonal_solve(double *v,
                             const double *k,
                             size_t count,
                             size_t n,
                             size_t length,
                             const lora__kernels *kernels)
{
    double weights[BIDIAGONAL_PAIRS];

    for (size_t i = 0; i < count; i++) {
        const double *row = k + i * BIDIAGONAL_PAIRS;

        for (size_t j = 0; j < i; j++) {
            weights[j] = -row[j];
        }
        kernels->gemv_t_f64(v + i * n, v, n, weights, i, length);
        kernels->scale_f64(v + i * n, 1 / row[i], length);
    }
}

/* Panels last to first, X = X - (X V^T) (K^-1 V). */
LORA_PRIVATE lora_status lora__bidiagonal_turn(double *x,
                                               double *v,
                                               const double *tau,
                                               size_t n,
                                               lora_context *context,
                                               lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(context)->cpu);
    const size_t width = BIDIAGONAL_PAIRS;
    lora__block scratch;
    lora_status status = LORA_OK;
    double *turned; /* [n, width] */
    double *part;   /* [n, width] */
    double *product;
    double k[BIDIAGONAL_PAIRS * BIDIAGONAL_PAIRS];

    TRY(lora__block_create(&scratch, 2 * width + BIDIAGONAL_STRIP, n, context,
                           error));
    turned = scratch.at;
    part = turned + width * n;
    product = part + width * n;
    for (size_t begin = (n - 1) / width * width + width; begin > 0;) {
        size_t count;
        double *at;

        begin -= width;
        count = n - begin < width ? n - begin : width;
        at = v + begin * n + begin;
        TRY_OR_DONE(lora__progress(context, NULL, 0, 0, error));
        bidiagonal_transpose(turned, width, at, n, count, n - begin);
        lora__lq_triangle(k, width, at, n, tau + begin, count, n - begin,
                          kernels);
        bidiagonal_solve(at, k, count, n, n - begin, kernels);
        kernels->gemm_f64(part, width, x + begin, n, turned, width, n, count,
                          n - begin);
        bidiagonal_subtract(x + begin, n, part, width, at, n, n, n - begin,
                            count, product, kernels);
    }
done:
    lora__block_destroy(&scratch, context);
    return status;
}
