/* Blocked loops around register tiles; see tiles.h. */
#include "kernel/tiles.h"

#include <string.h>

static size_t tiles_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Pointers to `count` rows from row `first` on, the last one repeated where
 * the matrix ends. */
static void tiles_take_rows(const double **rows,
                            const double *a,
                            size_t lda,
                            size_t first,
                            size_t end,
                            size_t count)
{
    for (size_t i = 0; i < count; i++) {
        rows[i] = a + tiles_min(first + i, end - 1) * lda;
    }
}

/* A tile that does not fit into C: by way of a whole one. */
static void tiles_gemm_edge(const lora__gemm_tile *tile,
                            double *c,
                            size_t ldc,
                            const double *const *a,
                            const double *packed,
                            size_t rows,
                            size_t cols,
                            size_t k,
                            int add)
{
    double whole[LORA__TILE_ROWS * LORA__TILE_COLS];

    memset(whole, 0, sizeof whole);
    for (size_t i = 0; add && i < rows; i++) {
        memcpy(whole + i * tile->cols, c + i * ldc, cols * sizeof *c);
    }
    tile->run(whole, tile->cols, a, packed, k, add);
    for (size_t i = 0; i < rows; i++) {
        memcpy(c + i * ldc, whole + i * tile->cols, cols * sizeof *c);
    }
}

/* C[m,cols] += A[m,k] * packed[k,tile->cols]. */
static void tiles_gemm_strip(const lora__gemm_tile *tile,
                             double *c,
                             size_t ldc,
                             const double *a,
                             size_t lda,
                             const double *packed,
                             size_t m,
                             size_t cols,
                             size_t k,
                             int add)
{
    const double *rows[LORA__TILE_ROWS];

    for (size_t i = 0; i < m; i += tile->rows) {
        const size_t count = tiles_min(tile->rows, m - i);

        tiles_take_rows(rows, a, lda, i, m, tile->rows);
        if (count == tile->rows && cols == tile->cols) {
            tile->run(c + i * ldc, ldc, rows, packed, k, add);
        } else {
            tiles_gemm_edge(tile, c + i * ldc, ldc, rows, packed, count, cols,
                            k, add);
        }
    }
}

static void tiles_gemm_pack(const lora__gemm_tile *tile,
                            double *packed,
                            const double *b,
                            size_t ldb,
                            size_t cols,
                            size_t k)
{
    if (cols == tile->cols) {
        tile->pack(packed, b, ldb, k);
        return;
    }
    memset(packed, 0, k * tile->cols * sizeof *packed);
    for (size_t p = 0; p < k; p++) {
        memcpy(packed + p * tile->cols, b + p * ldb, cols * sizeof *packed);
    }
}

LORA_PRIVATE void lora__tiles_gemm(const lora__gemm_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const double *a,
                                   size_t lda,
                                   const double *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k)
{
    _Alignas(64) double packed[LORA__GEMM_DEPTH * LORA__TILE_COLS];

    for (size_t i = 0; k == 0 && n != 0 && i < m; i++) {
        memset(c + i * ldc, 0, n * sizeof *c);
    }
    for (size_t p = 0; p < k; p += LORA__GEMM_DEPTH) {
        const size_t depth = tiles_min(LORA__GEMM_DEPTH, k - p);

        for (size_t j = 0; j < n; j += tile->cols) {
            const size_t cols = tiles_min(tile->cols, n - j);

            tiles_gemm_pack(tile, packed, b + p * ldb + j, ldb, cols, depth);
            tiles_gemm_strip(tile, c + j, ldc, a + p, lda, packed, m, cols,
                             depth, p != 0);
        }
    }
}

/* Add the sums of a tile at [i, j] to C, as far as they lie in the lower
 * triangle. */
static void tiles_gram_add(double *c,
                           size_t ldc,
                           const double *sums,
                           const lora__gram_tile *tile,
                           size_t i,
                           size_t j,
                           size_t n,
                           int add)
{
    for (size_t r = i; r < tiles_min(i + tile->rows, n); r++) {
        const size_t end = tiles_min(j + tile->cols, r + 1);

        for (size_t s = j; s < end; s++) {
            const double sum = sums[(r - i) * tile->cols + (s - j)];

            c[r * ldc + s] = add ? c[r * ldc + s] + sum : sum;
        }
    }
}

LORA_PRIVATE void lora__tiles_gram(const lora__gram_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const double *a,
                                   size_t lda,
                                   size_t n,
                                   size_t k)
{
    const double *rows[LORA__TILE_ROWS];
    const double *cols[LORA__TILE_COLS];
    double sums[LORA__TILE_ROWS * LORA__TILE_COLS];

    for (size_t i = 0; k == 0 && i < n; i++) {
        memset(c + i * ldc, 0, (i + 1) * sizeof *c);
    }
    for (size_t p = 0; p < k; p += LORA__GRAM_DEPTH) {
        const size_t depth = tiles_min(LORA__GRAM_DEPTH, k - p);

        for (size_t i = 0; i < n; i += tile->rows) {
            const size_t last = tiles_min(i + tile->rows, n);

            tiles_take_rows(rows, a + p, lda, i, n, tile->rows);
            for (size_t j = 0; j < last; j += tile->cols) {
                tiles_take_rows(cols, a + p, lda, j, n, tile->cols);
                tile->run(sums, rows, cols, depth);
                tiles_gram_add(c, ldc, sums, tile, i, j, n, p != 0);
            }
        }
    }
}
