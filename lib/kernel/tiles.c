/* Blocked loops around register tiles; see tiles.h.
 *
 * The loops of gemm know the size of an element and not its type: `at` below
 * is where element [row, col] of a matrix lies.
 */
#include "kernel/tiles.h"

#include <string.h>

static size_t tiles_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static const char *tiles_at(const lora__gemm_tile *tile,
                            const void *matrix,
                            size_t row,
                            size_t stride,
                            size_t col)
{
    return (const char *)matrix + (row * stride + col) * tile->bytes;
}

static char *tiles_out(const lora__gemm_tile *tile,
                       void *matrix,
                       size_t row,
                       size_t stride,
                       size_t col)
{
    return (char *)matrix + (row * stride + col) * tile->bytes;
}

/* Pointers to `count` rows from row `first` on, `stride` bytes apart, the last
 * one repeated where the matrix ends. */
static void tiles_take_rows(const void **rows,
                            const void *a,
                            size_t stride,
                            size_t first,
                            size_t end,
                            size_t count)
{
    for (size_t i = 0; i < count; i++) {
        rows[i] = (const char *)a + tiles_min(first + i, end - 1) * stride;
    }
}

/* A tile that does not fit into C: by way of a whole one. */
static void tiles_gemm_edge(const lora__gemm_tile *tile,
                            void *c,
                            size_t ldc,
                            const void *const *a,
                            const void *b,
                            size_t ldb,
                            size_t rows,
                            size_t cols,
                            size_t k,
                            int add)
{
    _Alignas(64) char whole[LORA__TILE_ROWS * LORA__TILE_BYTES];

    if (add) {
        memset(whole, 0, sizeof whole);
    }
    for (size_t i = 0; add && i < rows; i++) {
        memcpy(tiles_out(tile, whole, i, tile->cols, 0),
               tiles_at(tile, c, i, ldc, 0), cols * tile->bytes);
    }
    tile->run(whole, tile->cols, a, b, ldb, k, add);
    for (size_t i = 0; i < rows; i++) {
        memcpy(tiles_out(tile, c, i, ldc, 0),
               tiles_at(tile, whole, i, tile->cols, 0), cols * tile->bytes);
    }
}

/* C[m,cols] (+)= A[m,k] * B[k,tile->cols]. */
static void tiles_gemm_strip(const lora__gemm_tile *tile,
                             void *c,
                             size_t ldc,
                             const void *a,
                             size_t lda,
                             const void *b,
                             size_t ldb,
                             size_t m,
                             size_t cols,
                             size_t k,
                             int add)
{
    const void *rows[LORA__TILE_ROWS];

    for (size_t i = 0; i < m; i += tile->rows) {
        const size_t count = tiles_min(tile->rows, m - i);
        void *to = tiles_out(tile, c, i, ldc, 0);

        tiles_take_rows(rows, a, lda * tile->bytes, i, m, tile->rows);
        if (count == tile->rows && cols == tile->cols) {
            tile->run(to, ldc, rows, b, ldb, k, add);
        } else {
            tiles_gemm_edge(tile, to, ldc, rows, b, ldb, count, cols, k, add);
        }
    }
}

static void tiles_gemm_pack(const lora__gemm_tile *tile,
                            void *packed,
                            const void *b,
                            size_t ldb,
                            size_t cols,
                            size_t k)
{
    if (cols == tile->cols) {
        tile->pack(packed, b, ldb, k);
        return;
    }
    memset(packed, 0, k * tile->cols * tile->bytes);
    for (size_t p = 0; p < k; p++) {
        memcpy(tiles_out(tile, packed, p, tile->cols, 0),
               tiles_at(tile, b, p, ldb, 0), cols * tile->bytes);
    }
}

/* Tiles of rows that read B where it is: packing would cost them more. */
#define TILES_UNPACKED 2

/* The tile for columns from which on `left` are left. */
static const lora__gemm_tile *tiles_for(const lora__gemm_tile *tile,
                                        size_t left)
{
    return left < tile->cols && tile->narrow != NULL ? tile->narrow : tile;
}

LORA_PRIVATE void lora__tiles_gemm(const lora__gemm_tile *tile,
                                   void *c,
                                   size_t ldc,
                                   const void *a,
                                   size_t lda,
                                   const void *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k)
{
    _Alignas(64) char packed[LORA__GEMM_DEPTH * LORA__TILE_BYTES];

    for (size_t i = 0; k == 0 && n != 0 && i < m; i++) {
        memset(tiles_out(tile, c, i, ldc, 0), 0, n * tile->bytes);
    }
    for (size_t p = 0; p < k; p += LORA__GEMM_DEPTH) {
        const size_t depth = tiles_min(LORA__GEMM_DEPTH, k - p);

        for (size_t j = 0, cols; j < n; j += cols) {
            const lora__gemm_tile *t = tiles_for(tile, n - j);
            const char *strip = tiles_at(t, b, p, ldb, j);
            size_t stride = ldb;

            cols = tiles_min(t->cols, n - j);
            if (m > TILES_UNPACKED * t->rows || cols < t->cols) {
                tiles_gemm_pack(t, packed, strip, ldb, cols, depth);
                strip = packed;
                stride = t->cols;
            }
            tiles_gemm_strip(t, tiles_out(tile, c, 0, ldc, j), ldc,
                             tiles_at(tile, a, 0, lda, p), lda, strip, stride,
                             m, cols, depth, p != 0);
        }
    }
}

/* Columns of C that stay in the first-level cache while rows of B go by, and
 * how many of these, so that the next row of C finds them there. */
#define TILES_THIN_COLS 1024
#define TILES_THIN_DEPTH 4

LORA_PRIVATE void lora__tiles_gemm_f32(const lora__gemm_tile *tile,
                                       lora__gemm_row_fn row,
                                       float *c,
                                       size_t ldc,
                                       const float *a,
                                       size_t lda,
                                       const float *b,
                                       size_t ldb,
                                       size_t m,
                                       size_t n,
                                       size_t k)
{
    if (m > tile->rows / 2 + 1) {
        lora__tiles_gemm(tile, c, ldc, a, lda, b, ldb, m, n, k);
        return;
    }
    for (size_t j = 0; j < n; j += TILES_THIN_COLS) {
        const size_t cols = tiles_min(TILES_THIN_COLS, n - j);

        for (size_t i = 0; i < m; i++) {
            memset(c + i * ldc + j, 0, cols * sizeof *c);
        }
        for (size_t p = 0; p < k; p += TILES_THIN_DEPTH) {
            for (size_t i = 0; i < m; i++) {
                row(c + i * ldc + j, a + i * lda + p, b + p * ldb + j, ldb,
                    cols, tiles_min(TILES_THIN_DEPTH, k - p));
            }
        }
    }
}

/* Columns that are turned of all rows first: as many rows of the output stay in
 * the first-level cache. */
#define TILES_TURN_COLS 64

LORA_PRIVATE void lora__tiles_turn(void (*turn4)(float *out,
                                                 size_t out_step,
                                                 const float *in,
                                                 size_t in_step,
                                                 size_t cols),
                                   float *out,
                                   size_t out_step,
                                   const float *in,
                                   size_t in_step,
                                   size_t rows,
                                   size_t cols)
{
    const size_t whole = rows / 4 * 4;

    for (size_t c = 0; c < cols; c += TILES_TURN_COLS) {
        const size_t count = tiles_min(TILES_TURN_COLS, cols - c);
        float *to = out + c * out_step;

        for (size_t r = 0; r < whole; r += 4) {
            turn4(to + r, out_step, in + r * in_step + c, in_step, count);
        }
        for (size_t r = whole; r < rows; r++) {
            for (size_t i = 0; i < count; i++) {
                to[i * out_step + r] = in[r * in_step + c + i];
            }
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
    const size_t stride = lda * sizeof *a;
    const void *rows[LORA__TILE_ROWS];
    const void *cols[LORA__TILE_ROWS];
    double sums[LORA__TILE_ROWS * LORA__TILE_ROWS];

    for (size_t i = 0; k == 0 && i < n; i++) {
        memset(c + i * ldc, 0, (i + 1) * sizeof *c);
    }
    for (size_t p = 0; p < k; p += LORA__GRAM_DEPTH) {
        const size_t depth = tiles_min(LORA__GRAM_DEPTH, k - p);

        for (size_t i = 0; i < n; i += tile->rows) {
            const size_t last = tiles_min(i + tile->rows, n);

            tiles_take_rows(rows, a + p, stride, i, n, tile->rows);
            for (size_t j = 0; j < last; j += tile->cols) {
                tiles_take_rows(cols, a + p, stride, j, n, tile->cols);
                tile->run(sums, rows, cols, depth);
                tiles_gram_add(c, ldc, sums, tile, i, j, n, p != 0);
            }
        }
    }
}

/* C[m,n] (+)= A[m,k] * B[n,k]^T for few rows of B, which stay in the
 * first-level cache while all rows of A go by. */
static void tiles_dots_strip(const lora__gram_tile *tile,
                             double *c,
                             size_t ldc,
                             const float *a,
                             size_t lda,
                             const float *b,
                             size_t ldb,
                             size_t m,
                             size_t n,
                             size_t k,
                             int add)
{
    const void *rows[LORA__TILE_ROWS];
    const void *cols[LORA__TILE_ROWS];
    double sums[LORA__TILE_ROWS * LORA__TILE_ROWS];

    for (size_t i = 0; i < m; i += tile->rows) {
        const size_t last = tiles_min(i + tile->rows, m);

        const int few = tile->row != NULL && 2 * (last - i) <= tile->rows;

        tiles_take_rows(rows, a, lda * sizeof *a, i, m, tile->rows);
        for (size_t j = 0; j < n; j += tile->cols) {
            const size_t end = tiles_min(j + tile->cols, n);

            tiles_take_rows(cols, b, ldb * sizeof *b, j, n, tile->cols);
            for (size_t r = i; few && r < last; r++) {
                tile->row(sums + (r - i) * tile->cols, rows[r - i], cols, k);
            }
            if (!few) {
                tile->run(sums, rows, cols, k);
            }
            for (size_t r = i; r < last; r++) {
                const double *row = sums + (r - i) * tile->cols;
                double *to = c + r * ldc;

                for (size_t s = j; s < end; s++) {
                    to[s] = add ? to[s] + row[s - j] : row[s - j];
                }
            }
        }
    }
}

LORA_PRIVATE void lora__tiles_dots(const lora__gram_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const float *a,
                                   size_t lda,
                                   const float *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k)
{
    const size_t strip = 2 * tile->cols;

    for (size_t i = 0; k == 0 && n != 0 && i < m; i++) {
        memset(c + i * ldc, 0, n * sizeof *c);
    }
    for (size_t p = 0; p < k; p += LORA__DOTS_DEPTH) {
        const size_t depth = tiles_min(LORA__DOTS_DEPTH, k - p);

        for (size_t j = 0; j < n; j += strip) {
            tiles_dots_strip(tile, c + j, ldc, a + p, lda, b + j * ldb + p, ldb,
                             m, tiles_min(strip, n - j), depth, p != 0);
        }
    }
}
