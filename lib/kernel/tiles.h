/* Blocked loops around a small tile that is held in registers.
 *
 * The loops are the same for every CPU; a variant brings its tile. Tiles at
 * the edges are computed whole, from repeated rows and zero columns, and
 * written in part, so a tile knows one size only.
 */
#ifndef LORA__KERNEL_TILES_H
#define LORA__KERNEL_TILES_H

#include "kernel/kernel.h"

/* The largest tiles that a variant may bring; rows of B in bytes. */
#define LORA__TILE_ROWS 8
#define LORA__TILE_BYTES 192

/* A strip of B of this depth is packed at a time, 24 KiB at most on the
 * stack: it stays in the first-level cache while all rows of A go by. */
#define LORA__GEMM_DEPTH 128

/* Rows of A are read in pieces of this length, 4 KiB each. */
#define LORA__GRAM_DEPTH 512

/* C[rows,cols] = (add ? C : 0) + A[rows,k] * B[k,cols], k ascending, by fused
 * multiply-add, all of one type: `bytes` is the size of an element. Rows of A
 * are given one by one. */
typedef struct lora__gemm_tile {
    size_t bytes;
    size_t rows;
    size_t cols;
    void (*run)(void *c,
                size_t ldc,
                const void *const *a,
                const void *b,
                size_t ldb,
                size_t k,
                int add);

    /* Copy B[k,cols], rows ldb apart, to dense rows. */
    void (*pack)(void *out, const void *b, size_t ldb, size_t k);

    /* One of less columns, for those that are left; NULL: none. */
    const struct lora__gemm_tile *narrow;
} lora__gemm_tile;

/* sums[rows,cols] = A[rows,k] * B[cols,k]^T: dot products of rows, of doubles
 * or floats as `bytes` says. */
typedef struct lora__gram_tile {
    size_t bytes;
    size_t rows;
    size_t cols;
    void (*run)(double *sums,
                const void *const *a,
                const void *const *b,
                size_t k);

    /* The same of one row of A, to the same bits; NULL: none. */
    void (*row)(double *sums, const void *a, const void *const *b, size_t k);
} lora__gram_tile;

/* out[n] += a[k] * B[k,n], k ascending, by fused multiply-add. */
typedef void (*lora__gemm_row_fn)(
    float *out, const float *a, const float *b, size_t ldb, size_t n, size_t k);

/* As lora__kernels.gemm_f64, or gemm_f32, by the tile's type. */
LORA_PRIVATE void lora__tiles_gemm(const lora__gemm_tile *tile,
                                   void *c,
                                   size_t ldc,
                                   const void *a,
                                   size_t lda,
                                   const void *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k);

/* gemm_f32. Rows that fill no more than half of a tile and one are made one by
 * one, by `row`: neither is B packed for them then. */
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
                                       size_t k);

/* As turn_f32, by a function that turns four rows. */
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
                                   size_t cols);

/* As gram_f64 and dots_f32. */
LORA_PRIVATE void lora__tiles_gram(const lora__gram_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const double *a,
                                   size_t lda,
                                   size_t n,
                                   size_t k);
LORA_PRIVATE void lora__tiles_dots(const lora__gram_tile *tile,
                                   double *c,
                                   size_t ldc,
                                   const float *a,
                                   size_t lda,
                                   const float *b,
                                   size_t ldb,
                                   size_t m,
                                   size_t n,
                                   size_t k);

#endif
