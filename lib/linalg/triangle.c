/* Lower triangular matrices: Cholesky, solving, condition. */
#include "linalg/triangle.h"

#include <float.h>
#include <math.h>
#include <string.h>

LORA_PRIVATE void lora__triangle_equilibrate(double *g,
                                             double *scale,
                                             int32_t *exponent,
                                             size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double *row = g + i * n;
        int e;

        (void)frexp(sqrt(row[i]), &e);
        exponent[i] = e;
        scale[i] = ldexp(1, -e);
        for (size_t j = 0; j <= i; j++) {
            row[j] *= scale[i] * scale[j];
        }
    }
}

/* Row by row: L[i,j] = (G[i,j] - L[i,:j] . L[j,:j]) / L[j,j]. The computed L
 * satisfies |L L^T - G| <= (n + 1) eps |L| |L|^T elementwise. */
LORA_PRIVATE int
lora__triangle_cholesky(double *l, size_t n, const lora__kernels *kernels)
{
    const double rounding = 8 * (double)n * DBL_EPSILON;

    for (size_t i = 0; i < n; i++) {
        double *row = l + i * n;
        double pivot;

        for (size_t j = 0; j < i; j++) {
            const double *other = l + j * n;

            row[j] = (row[j] - kernels->dot_f64(row, other, j)) / other[j];
        }
        pivot = row[i] - kernels->dot_f64(row, row, i);
        if (!(pivot > rounding * row[i])) {
            return 0;
        }
        row[i] = sqrt(pivot);
        memset(row + i + 1, 0, (n - i - 1) * sizeof *row);
    }
    return 1;
}

/* x L = b, last unknown first: known ones are taken out along rows of L. */
LORA_PRIVATE void lora__triangle_solve(double *x,
                                       size_t ldx,
                                       size_t rows,
                                       const double *l,
                                       size_t ldl,
                                       size_t n,
                                       const lora__kernels *kernels)
{
    for (size_t i = 0; i < rows; i++) {
        double *row = x + i * ldx;

        for (size_t j = n; j-- > 0;) {
            row[j] /= l[j * ldl + j];
            kernels->axpy_f64(row, l + j * ldl, -row[j], j);
        }
    }
}

/* x L^T = b, that is L x^T = b^T, first unknown first. */
LORA_PRIVATE void lora__triangle_solve_t(double *x,
                                         size_t ldx,
                                         size_t rows,
                                         const double *l,
                                         size_t ldl,
                                         size_t n,
                                         const lora__kernels *kernels)
{
    for (size_t i = 0; i < rows; i++) {
        double *row = x + i * ldx;

        for (size_t j = 0; j < n; j++) {
            const double *known = l + j * ldl;

            row[j] = (row[j] - kernels->dot_f64(known, row, j)) / known[j];
        }
    }
}

/* Inverse iteration. It starts from L^-1 e with signs in e chosen to make the
 * result grow, as LINPACK does, so that it does not start orthogonal to what
 * it looks for. */
LORA_PRIVATE double lora__triangle_inverse(const double *l,
                                           size_t n,
                                           double *scratch,
                                           const lora__kernels *kernels)
{
    double *x = scratch;
    double largest = 0;

    for (size_t i = 0; i < n; i++) {
        const double sum = kernels->dot_f64(l + i * n, x, i);

        x[i] = (sum < 0 ? 1 - sum : -1 - sum) / l[i * n + i];
    }
    for (int round = 0; round < 3; round++) {
        double squares = kernels->dot_f64(x, x, n);

        if (!(squares <= DBL_MAX)) {
            return (double)INFINITY;
        }
        kernels->scale_f64(x, 1 / sqrt(squares), n);
        lora__triangle_solve(x, n, 1, l, n, n, kernels);
        squares = kernels->dot_f64(x, x, n);
        if (squares > largest) {
            largest = squares;
        }
        lora__triangle_solve_t(x, n, 1, l, n, n, kernels);
    }
    return largest;
}
