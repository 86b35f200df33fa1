/* SVD of a square matrix, by way of two diagonals:
 *
 *     C = U1 B V1^T,  B = U2 diag(sigma) V2^T,  U^T = U2^T U1^T,
 *
 * U1 a product of reflections (bidiagonal.h) and U2 made by divide and conquer
 * (conquer.h). V1 and V2 are never wanted.
 */
#include "linalg/square.h"

#include "linalg/bidiagonal.h"
#include "linalg/block.h"
#include "linalg/conquer.h"

#include <string.h>

/* Column-major U of the backend is our row-major U^T. */
static lora_status square_backend(double *sigma,
                                  double *u_t,
                                  double *c,
                                  size_t n,
                                  lora_context *context,
                                  lora_error *error)
{
    const lora_backend *backend = &lora__context_get(context)->backend;
    const int32_t m = (int32_t)n;
    lora__block turned = {NULL, 0};
    lora__block work = {NULL, 0};
    lora__block whole = {NULL, 0};
    lora_status status = LORA_OK;
    double *v_t = c; /* once it was turned */
    double wanted = 0;
    int32_t info;

    /* 8 n int32_t are 4 n doubles. */
    TRY_OR_DONE(lora__block_create(&turned, n, n, context, error));
    TRY_OR_DONE(lora__block_create(&whole, 4, n, context, error));
    lora__transpose(turned.at, c, n, n, sizeof *c);
    info = backend->gesdd_f64(m, m, turned.at, m, sigma, u_t, m, v_t, m,
                              &wanted, -1, (int32_t *)(void *)whole.at);
    if (info == 0 && wanted >= 1 && wanted <= INT32_MAX) {
        TRY_OR_DONE(
            lora__block_create(&work, 1, (size_t)wanted, context, error));
        info = backend->gesdd_f64(m, m, turned.at, m, sigma, u_t, m, v_t, m,
                                  work.at, (int32_t)wanted,
                                  (int32_t *)(void *)whole.at);
    } else if (info == 0) {
        info = -1;
    }
    if (info != 0) {
        status = lora__fail(
            error, info > 0 ? LORA_ERROR_CONVERGENCE : LORA_ERROR_INTERNAL,
            LORA_NO_OFFSET, NULL, "backend's gesdd failed (%d)", (int)info);
    }
done:
    lora__block_destroy(&whole, context);
    lora__block_destroy(&work, context);
    lora__block_destroy(&turned, context);
    return status;
}

static lora_status square_built_in(double *sigma,
                                   double *u_t,
                                   double *c,
                                   size_t n,
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
done:
    lora__block_destroy(&v, context);
    return status;
}

LORA_PRIVATE lora_status lora__square_svd(double *sigma,
                                          double *u_t,
                                          double *c,
                                          size_t n,
                                          double floor,
                                          lora_context *context,
                                          lora_error *error)
{
    const int has_backend =
        lora__context_get(context)->backend.gesdd_f64 != NULL;

    if (has_backend && n <= INT32_MAX / 8) {
        TRY(square_backend(sigma, u_t, c, n, context, error));
    } else {
        TRY(square_built_in(sigma, u_t, c, n, context, error));
    }
    /* Below the floor, or no number. */
    for (size_t i = 0; i < n; i++) {
        if (!(sigma[i] >= floor)) {
            sigma[i] = 0;
            memset(u_t + i * n, 0, n * sizeof *u_t);
        }
    }
    return LORA_OK;
}
