/* LQ factorisation by Householder reflections.
 *
 * Long factors are worked on in panels of 16 rows: within a panel vector by
 * vector, a quarter of the arithmetic at rank 64, and the rows below by
 * matrix products. Products with V^T come out of the Gram matrix of the panel
 * and everything below it: some of it is not needed, but it is the product
 * that runs fastest, and K comes with it.
 */
#include "linalg/householder.h"

#include "linalg/block.h"
#include "linalg/triangle.h"

#include <math.h>
#include <string.h>

#define HOUSEHOLDER_PANEL 16
#define HOUSEHOLDER_STRIP 512

/* Below this a square norm is taken for 0. */
#define HOUSEHOLDER_TINY 1e-290

LORA_PRIVATE double lora__householder_make(double *x,
                                           double *out_tau,
                                           size_t count,
                                           const lora__kernels *kernels)
{
    const double squares = kernels->dot_f64(x, x, count);
    const double first = x[0];
    double beta;

    if (squares <= HOUSEHOLDER_TINY) {
        memset(x, 0, count * sizeof *x);
        *out_tau = 0;
        return 0;
    }
    beta = first > 0 ? -sqrt(squares) : sqrt(squares);
    kernels->scale_f64(x, 1 / (first - beta), count);
    x[0] = 1;
    *out_tau = (beta - first) / beta;
    return beta;
}

/* y = y H */
static void householder_apply(double *y,
                              const double *v,
                              double tau,
                              size_t count,
                              const lora__kernels *kernels)
{
    kernels->axpy_f64(y, v, -tau * kernels->dot_f64(y, v, count), count);
}

/* Move what is left of the diagonal in rows [begin, end) from a to l. */
static void householder_unpack(
    double *l, double *a, size_t begin, size_t end, size_t rank, size_t length)
{
    for (size_t i = begin; i < end; i++) {
        double *to = l + i * rank;
        double *from = a + i * length;

        memcpy(to, from, i * sizeof *to);
        memset(from, 0, i * sizeof *from);
        memset(to + i + 1, 0, (rank - i - 1) * sizeof *to);
    }
}

/* The diagonal of K, over that of V V^T. */
static void
householder_diagonal(double *k, size_t ldk, const double *tau, size_t count)
{
    for (size_t j = 0; j < count; j++) {
        k[j * ldk + j] = tau[j] > 0 ? 1 / tau[j] : 1;
    }
}

LORA_PRIVATE void lora__lq_triangle(double *k,
                                    size_t ldk,
                                    const double *v,
                                    size_t ldv,
                                    const double *tau,
                                    size_t rank,
                                    size_t length,
                                    const lora__kernels *kernels)
{
    kernels->gram_f64(k, ldk, v, ldv, rank, length);
    householder_diagonal(k, ldk, tau, rank);
}

LORA_PRIVATE void lora__lq_mix(double *mix,
                               double *scratch,
                               const double *v,
                               const double *tau,
                               size_t rank,
                               size_t length,
                               const lora__kernels *kernels)
{
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < rank; j++) {
            mix[i * rank + j] = -v[j * length + i];
        }
    }
    lora__lq_triangle(scratch, rank, v, length, tau, rank, length, kernels);
    lora__triangle_solve(mix, rank, rank, scratch, rank, rank, kernels);
}

static void householder_panel(double *l,
                              double *a,
                              double *tau,
                              size_t begin,
                              size_t end,
                              size_t rank,
                              size_t length,
                              const lora__kernels *kernels)
{
    for (size_t i = begin; i < end; i++) {
        double *v = a + i * length + i;

        l[i * rank + i] =
            lora__householder_make(v, tau + i, length - i, kernels);
        for (size_t j = i + 1; j < end; j++) {
            householder_apply(a + j * length + i, v, tau[i], length - i,
                              kernels);
        }
    }
    householder_unpack(l, a, begin, end, rank, length);
}

/* Rows below a panel, B = B - (B V^T K^-T) V, columns from `begin` on.
 * gram[rank, rank]; product[rank, HOUSEHOLDER_STRIP]. */
static void householder_update(double *a,
                               const double *tau,
                               size_t begin,
                               size_t end,
                               size_t rank,
                               size_t length,
                               double *gram,
                               double *product,
                               const lora__kernels *kernels)
{
    const size_t panel = end - begin;
    const size_t below = rank - end;
    double *w = gram + panel * rank;

    kernels->gram_f64(gram, rank, a + begin * length + begin, length,
                      panel + below, length - begin);
    householder_diagonal(gram, rank, tau + begin, panel);
    lora__triangle_solve_t(w, rank, below, gram, rank, panel, kernels);

    for (size_t from = begin; from < length; from += HOUSEHOLDER_STRIP) {
        const size_t count = length - from < HOUSEHOLDER_STRIP
                                 ? length - from
                                 : HOUSEHOLDER_STRIP;

        kernels->gemm_f64(product, HOUSEHOLDER_STRIP, w, rank,
                          a + begin * length + from, length, below, count,
                          panel);
        for (size_t i = 0; i < below; i++) {
            kernels->axpy_f64(a + (end + i) * length + from,
                              product + i * HOUSEHOLDER_STRIP, -1, count);
        }
    }
}

/* A row-major [rank, length] is LAPACK's column-major [length, rank], and its
 * QR is our LQ with the same reflectors. */
static lora_status householder_backend(double *l,
                                       double *a,
                                       double *tau,
                                       size_t rank,
                                       size_t length,
                                       lora_context *context,
                                       lora_error *error)
{
    const lora_backend *backend = &lora__context_get(context)->backend;
    const int32_t m = (int32_t)length;
    const int32_t n = (int32_t)rank;
    lora__block work = {NULL, 0};
    lora_status status = LORA_OK;
    double wanted = 0;
    int32_t info;

    info = backend->geqrf_f64(m, n, a, m, tau, &wanted, -1);
    if (info == 0 && wanted >= 1 && wanted <= INT32_MAX) {
        TRY_OR_DONE(
            lora__block_create(&work, 1, (size_t)wanted, context, error));
        info = backend->geqrf_f64(m, n, a, m, tau, work.at, (int32_t)wanted);
    } else if (info == 0) {
        info = -1;
    }
    if (info != 0) {
        status =
            lora__fail(error, LORA_ERROR_INTERNAL, LORA_NO_OFFSET, NULL,
                       "backend's geqrf refused its arguments (%d)", (int)info);
        goto done;
    }
    householder_unpack(l, a, 0, rank, rank, length);
    for (size_t i = 0; i < rank; i++) {
        double *diagonal = a + i * length + i;

        l[i * rank + i] = *diagonal;
        *diagonal = tau[i] > 0 ? 1 : 0;
    }
done:
    lora__block_destroy(&work, context);
    return status;
}

LORA_PRIVATE lora_status lora__lq_create(double *l,
                                         double *a,
                                         double *tau,
                                         size_t rank,
                                         size_t length,
                                         lora_context *context,
                                         lora_error *error)
{
    const lora__settings *settings = lora__context_get(context);
    const lora__kernels *kernels = lora__kernels_get(settings->cpu);
    lora__block scratch;
    lora_status status = LORA_OK;
    double *gram;

    INVARIANT(rank <= length, error);
    if (settings->backend.geqrf_f64 != NULL && length <= INT32_MAX) {
        return householder_backend(l, a, tau, rank, length, context, error);
    }
    TRY(lora__block_create(&scratch, rank, rank + HOUSEHOLDER_STRIP, context,
                           error));
    gram = scratch.at + rank * HOUSEHOLDER_STRIP;
    for (size_t begin = 0; begin < rank; begin += HOUSEHOLDER_PANEL) {
        const size_t end =
            rank - begin < HOUSEHOLDER_PANEL ? rank : begin + HOUSEHOLDER_PANEL;

        TRY_OR_DONE(lora__progress(context, NULL, 0, 0, error));
        householder_panel(l, a, tau, begin, end, rank, length, kernels);
        if (end < rank) {
            householder_update(a, tau, begin, end, rank, length, gram,
                               scratch.at, kernels);
        }
    }
done:
    lora__block_destroy(&scratch, context);
    return status;
}
