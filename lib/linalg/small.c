/* Truncated SVD of a small dense matrix: see small.h.
 *
 * The matrix is the product of itself and the identity, which goes on its
 * shorter side; factors are what the SVD takes.
 */
#include "linalg/small.h"

#include "linalg/block.h"
#include "linalg/factored.h"

#include <string.h>

static lora_status small_identity(lora__block *out,
                                  size_t n,
                                  lora_context *context,
                                  lora_error *error)
{
    TRY(lora__block_create(out, n, n, context, error));
    memset(out->at, 0, out->count * sizeof(double));
    for (size_t i = 0; i < n; i++) {
        out->at[i * n + i] = 1.0;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__small_truncate(double *sigma,
                                              double *up_t,
                                              double *down,
                                              const double *values,
                                              size_t rows,
                                              size_t cols,
                                              size_t k,
                                              lora_context *context,
                                              lora_error *error)
{
    size_t rank = rows < cols ? rows : cols;
    lora__block identity = {NULL, 0};
    lora__block turned = {NULL, 0};
    lora__svd_input input = {rows, cols, rank, NULL, values};
    lora__svd svd = {0, NULL, NULL};
    lora_status status;

    TRY_OR_DONE(small_identity(&identity, rank, context, error));
    input.up_t = identity.at;
    if (rows > cols) {
        TRY_OR_DONE(lora__block_create(&turned, cols, rows, context, error));
        lora__transpose(turned.at, values, rows, cols, sizeof *values);
        input.up_t = turned.at;
        input.down = identity.at;
    }
    TRY_OR_DONE(lora__svd_create(&svd, context, &input, error));
    TRY_OR_DONE(
        lora__svd_truncate(up_t, down, &svd, &input, k, context, error));
    memcpy(sigma, svd.sigma, k * sizeof *sigma);
done:
    lora__svd_destroy(&svd, context);
    lora__block_destroy(&turned, context);
    lora__block_destroy(&identity, context);
    return status;
}
