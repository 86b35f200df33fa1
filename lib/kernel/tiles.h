/* Blocked loops around a small tile that is held in registers.
 *
 * The loops are the same for every CPU; a variant brings its tile. Tiles at
 * the edges are computed whole, from repeated rows and zero columns, and
 * written in part, so a tile knows one size only.
 */
#ifndef LORA__KERNEL_TILES_H
#define LORA__KERNEL_TILES_H

#include "platform/compiler.h"

/* The largest tiles that a variant may bring. */
#define LORA__TILE_ROWS 8
#define LORA__TILE_COLS 24

/* A strip of B of this depth is packed at a time, 24 KiB at most on the
 * stack: it stays in the first-level cache while all rows of A go by. */
#define LORA__GEMM_DEPTH 128

/* Rows of A are read in pieces of this length, 4 KiB each. */
#define LORA__GRAM_DEPTH 512

/* C[rows,cols] = (add ? C : 0) + A[rows,k] * B[k,cols], k ascending, by fused
 * multiply-add. Rows of A are given one by one; B is dense. */
typedef struct lora__gemm_tile {
    size_t rows;
    size_t cols;
    void (*run)(double *c,
                size_t ldc,
                const double *const *a,
                const double *b,
                size_t k,
                int add);

    /* Copy B[k,cols], rows ldb apart, to dense rows. */
    void (*pack)(double *out, const double *b, size_t ldb, size_t k);
} lora__gemm_tile;

/* sums[rows,cols] = A[rows,k] * B[cols,k]^T: dot products of rows. */
typedef struct lora__gram_tile {
    size_t rows;
    size_t cols;
    void (*run)(double *sums,
                const double *const *a,
                const double *const *b,
                size_t k);
} lora__gram_tile;

/* As lora__kernels.gemm_f64 and gram_f64. */
LORA_PRIVATE void lora__tiles_gemm(const lora__gemm_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const double *a,
                                   size_t lda,
                                   const double *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k);
LORA_PRIVATE void lora__tiles_gram(const lora__gram_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const double *a,
                                   size_t lda,
                                   size_t n,
                                   size_t k);

#endif
