/* SVD of a matrix given by its factors.
 *
 * With up_t = 2^Eu Lu Qu and down = 2^Ed Ld Qd (E diagonal, integer; L lower
 * triangular, rows of norm about 1; Q orthonormal rows),
 *
 *     M = up down = Qu^T C Qd,  C = Lu^T 2^(Eu + Ed) Ld = U diag(sigma) V^T.
 *
 * One side is the basis: its left vectors P = U^T Q are made. The other one is
 * the image: M projected on them,
 *
 *     result = P^T (P M),  P M = U^T Lu^T 2^Eu down  (for up the basis).
 *
 * As that is an orthogonal projection, an error in U changes the product only
 * to second order, and Q of the image's side is never wanted. Where down is
 * the basis all this is said of M^T.
 *
 * How a side gets its L, cheapest first:
 *
 * Cholesky. G = A A^T = L L^T; no Q: P = (U^T L^-1 2^-E) A, one product. Rows
 * of Q are off by |Q Q^T - I| <= |dG| |G^-1|, G scaled to a unit diagonal, dG
 * the rounding errors of G, about eps sqrt(length) and less. Used while
 * eps sqrt(length) |G^-1| <= 1e-11. Singular values change by that factor at
 * most, and absolutely by eps sqrt(length |G^-1|) |A| |B|, as one power of
 * the condition number goes into sigma; the truncation error by twice that
 * factor.
 *
 * Householder. Rows of any rank; needs memory for reflectors while it works,
 * or for as long as the result lives if both sides are this way.
 *
 * Dense. If more components are left than min(rows, cols), the product itself
 * is the smaller thing: the short side is the basis with Q = I, M[short, long]
 * the image.
 *
 * Scaling. Components u_j d_j of M keep exponents of their own, so that M
 * depends on no scale but that of the components, whichever factor has it,
 * and nothing overflows that is not infinite in M. Rows of Gram matrices
 * within 2^+-600 are scaled there; otherwise both factors are copied, scaled,
 * without the components that are 0.
 *
 * Error. Each component is as if its factors were perturbed by a few
 * eps sqrt(length): |dsigma| <= c eps T, T = sum |u_j| |d_j|, which is not
 * below sigma_1 and is far above it only where components cancel. Values
 * below 2 eps T are not determined by factors in f64 and come out as 0.
 */
#include "linalg/factored.h"

#include "linalg/block.h"
#include "linalg/householder.h"
#include "linalg/square.h"
#include "linalg/triangle.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Largest loss of orthogonality that Cholesky is used with. */
#define FACTORED_LOSS 1e-11

/* Square norms of rows that need no scaled copy: products of two elements
 * that count do not underflow. */
#define FACTORED_LOW 0x1p-600
#define FACTORED_HIGH 0x1p600

/* One factor at work. */
typedef struct factored_side {
    const double *a; /* [rank, length] */
    size_t length;
    lora__block copy;      /* what `a` points to, if not the caller's */
    lora__block reflector; /* V, if it came to Householder */
    double *l;             /* [rank, rank] */
    double *tau;           /* [rank], of V */
    int32_t *exponent;     /* [rank] */
    double loss;           /* of orthogonality, by Cholesky */
} factored_side;

typedef struct factored_work {
    lora_context *context;
    const lora__kernels *kernels;
    size_t room;           /* min(rank, rows, cols) */
    size_t rank;           /* components that are not 0 */
    factored_side side[2]; /* up, down */
    lora__block numbers;
    int32_t *integers;
    size_t integer_count;
    int32_t *shift; /* [rank], of components, if the sides are copies */
    double *core;   /* [room, room], as the next three */
    double *u_t;
    double *mixed; /* L^T of the basis side, weighted */
    double *spare;
    double *sigma; /* [room], as the next two */
    double *row;
    double *column;
    int32_t exponent; /* M = 2^exponent * what core stands for; even */
    double floor;     /* for sigma */
} factored_work;

/* What is left to truncate from.
 *
 *     basis[k, basis_length] = basis_mix[k, rank] * basis_data + [head 0]
 *     image[k, image_length] = image_mix[k, rank] * image_data
 *
 * Values beyond `values` are 0.
 */
struct lora__svd_state {
    size_t rank;   /* components; 0: the matrix is 0 */
    size_t values; /* rows of the mixes and of head */
    lora__block sigma;
    int basis_is_down;
    size_t head_width;
    lora__block basis_mix; /* none: basis is head alone */
    lora__block image_mix;
    lora__block head;       /* [count, head_width]; none: 0 */
    lora__block basis_data; /* none: the caller's factor */
    lora__block image_data;
};

/* C[m,n] = A[m,k] * B[k,n], by the backend if there is one. Row-major is the
 * transpose of column-major: C^T = B^T A^T. */
static void factored_gemm(lora_context *context,
                          double *c,
                          const double *a,
                          const double *b,
                          size_t m,
                          size_t n,
                          size_t k)
{
    const lora__settings *settings = lora__context_get(context);

    if (settings->backend.gemm_f64 != NULL && m <= INT32_MAX &&
        n <= INT32_MAX && k <= INT32_MAX) {
        settings->backend.gemm_f64('N', 'N', (int32_t)n, (int32_t)m, (int32_t)k,
                                   1, b, (int32_t)n, a, (int32_t)k, 0, c,
                                   (int32_t)n);
        return;
    }
    lora__kernels_get(settings->cpu)->gemm_f64(c, n, a, k, b, n, m, n, k);
}

/* m[i,j] *= row[i] * column[j]; column may be NULL. */
static void factored_scale(double *m,
                           size_t rows,
                           size_t columns,
                           const double *row,
                           const double *column)
{
    for (size_t i = 0; i < rows; i++) {
        double *at = m + i * columns;

        for (size_t j = 0; j < columns; j++) {
            at[j] *= column == NULL ? row[i] : row[i] * column[j];
        }
    }
}

/* work->context is set, the rest is 0. */
static lora_status factored_begin(factored_work *work,
                                  const lora__svd_input *input,
                                  size_t room,
                                  lora_error *error)
{
    double *at;
    size_t count;
    void *integers;

    work->kernels = lora__kernels_get(lora__context_get(work->context)->cpu);
    work->room = room;
    work->rank = input->rank;
    work->side[0].a = input->up_t;
    work->side[0].length = input->rows;
    work->side[1].a = input->down;
    work->side[1].length = input->cols;

    /* 6 squares and 5 vectors; three arrays of integers. */
    if (!lora__mul_size(room, 6, &count) || !lora__add_size(count, 5, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__block_create(&work->numbers, count, room, work->context, error));
    if (!lora__mul_size(input->rank, 3, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__alloc_zeroed(&integers, work->context, count, sizeof(int32_t),
                           error));
    work->integers = integers;
    work->integer_count = count;
    work->side[0].exponent = work->integers;
    work->side[1].exponent = work->integers + input->rank;
    work->shift = work->integers + 2 * input->rank;

    at = work->numbers.at;
    work->side[0].l = at;
    work->side[1].l = at + room * room;
    work->core = at + 2 * room * room;
    work->u_t = at + 3 * room * room;
    work->mixed = at + 4 * room * room;
    work->spare = at + 5 * room * room;
    at += 6 * room * room;
    work->side[0].tau = at;
    work->side[1].tau = at + room;
    work->sigma = at + 2 * room;
    work->row = at + 3 * room;
    work->column = at + 4 * room;
    return LORA_OK;
}

static void factored_end(factored_work *work)
{
    for (int i = 0; i < 2; i++) {
        lora__block_destroy(&work->side[i].copy, work->context);
        lora__block_destroy(&work->side[i].reflector, work->context);
    }
    if (work->integers != NULL) {
        lora__free(work->context, work->integers,
                   work->integer_count * sizeof(int32_t), LORA__ALIGN);
    }
    lora__block_destroy(&work->numbers, work->context);
}

/* Scaling ------------------------------------------------------------- */

/* G of a side, into l. 1 if its rows can be worked on as they are. */
static int
factored_gram(factored_side *side, size_t rank, const lora__kernels *kernels)
{
    kernels->gram_f64(side->l, rank, side->a, side->length, rank, side->length);
    for (size_t i = 0; i < rank; i++) {
        const double squares = side->l[i * rank + i];

        if (!(squares >= FACTORED_LOW && squares <= FACTORED_HIGH)) {
            return 0;
        }
    }
    return 1;
}

/* The exponent e of the largest magnitude < 2^e, for each row; INT32_MIN for
 * a row of zeros. */
static lora_status factored_measure(factored_side *side,
                                    size_t rank,
                                    const char *name,
                                    lora_error *error)
{
    for (size_t i = 0; i < rank; i++) {
        const double *row = side->a + i * side->length;
        double largest = 0;
        int exponent;

        for (size_t j = 0; j < side->length; j++) {
            const double magnitude = fabs(row[j]);

            if (!(magnitude <= DBL_MAX)) {
                return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET,
                                  NULL, "a %s factor has NaN or infinity",
                                  name);
            }
            largest = magnitude > largest ? magnitude : largest;
        }
        (void)frexp(largest, &exponent);
        side->exponent[i] = largest > 0 ? exponent : INT32_MIN;
    }
    return LORA_OK;
}

/* Copy the rows that have a weight, times 2^-exponent: two factors, as one
 * may overflow. */
static void factored_copy_rows(factored_side *side,
                               const int32_t *other_exponent,
                               size_t rank)
{
    double *out = side->copy.at;

    for (size_t i = 0; i < rank; i++) {
        const double *row = side->a + i * side->length;
        const int32_t exponent = side->exponent[i];
        const int32_t half = exponent / 2;
        double first;
        double second;

        if (exponent == INT32_MIN || other_exponent[i] == INT32_MIN) {
            continue;
        }
        first = ldexp(1, -half);
        second = ldexp(1, half - exponent);
        for (size_t j = 0; j < side->length; j++) {
            out[j] = row[j] * first * second;
        }
        out += side->length;
    }
}

/* Replace both factors by scaled copies of the components that are not 0. */
static lora_status
factored_normalise(factored_work *work, size_t rank, lora_error *error)
{
    factored_side *side = work->side;
    size_t kept = 0;

    TRY(factored_measure(&side[0], rank, "up", error));
    TRY(factored_measure(&side[1], rank, "down", error));
    for (size_t i = 0; i < rank; i++) {
        const int32_t up = side[0].exponent[i];
        const int32_t down = side[1].exponent[i];

        if (up != INT32_MIN && down != INT32_MIN) {
            work->shift[kept++] = up + down;
        }
    }
    work->rank = kept;
    if (kept == 0) {
        return LORA_OK;
    }
    for (int i = 0; i < 2; i++) {
        TRY(lora__block_create(&side[i].copy, kept, side[i].length,
                               work->context, error));
        factored_copy_rows(&side[i], side[1 - i].exponent, rank);
    }
    for (int i = 0; i < 2; i++) {
        side[i].a = side[i].copy.at;
        memset(side[i].exponent, 0, kept * sizeof *side[i].exponent);
    }
    return LORA_OK;
}

/* The exponent of M: no component above it, and even, as results take its
 * root. exponents of components are in `shift`. */
static void factored_weigh(factored_work *work)
{
    int32_t largest = work->shift[0];

    for (size_t i = 1; i < work->rank; i++) {
        if (work->shift[i] > largest) {
            largest = work->shift[i];
        }
    }
    work->exponent = largest + (largest & 1);
}

/* L of each side ------------------------------------------------------- */

/* From G in l to L. */
static lora_status
factored_triangle(factored_work *work, factored_side *side, lora_error *error)
{
    const size_t rank = work->rank;
    const size_t length = side->length;
    double *v;

    lora__triangle_equilibrate(side->l, work->row, side->exponent, rank);
    if (lora__triangle_cholesky(side->l, rank, work->kernels)) {
        side->loss =
            DBL_EPSILON * sqrt((double)length) *
            lora__triangle_inverse(side->l, rank, work->column, work->kernels);
        if (side->loss <= FACTORED_LOSS) {
            return LORA_OK;
        }
    }
    TRY(lora__block_create(&side->reflector, rank, length, work->context,
                           error));
    v = side->reflector.at;
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < length; j++) {
            v[i * length + j] = side->a[i * length + j] * work->row[i];
        }
    }
    return lora__lq_create(side->l, v, side->tau, rank, length, work->context,
                           error);
}

/* 1 if down is the better basis: Q for nothing, then the more
 * orthogonal, then the shorter. */
static int factored_basis_side(const factored_side *side)
{
    const int up = side[0].reflector.at == NULL;
    const int down = side[1].reflector.at == NULL;

    if (up != down) {
        return down;
    }
    return up ? side[1].loss < side[0].loss : side[1].length < side[0].length;
}

/* Results -------------------------------------------------------------- */

/* Singular values of M, and into `row` the roots of those of the core. */
static lora_status factored_values(double *sigma,
                                   const factored_work *work,
                                   size_t count,
                                   lora_error *error)
{
    for (size_t i = 0; i < count; i++) {
        sigma[i] = ldexp(work->sigma[i], work->exponent);
        if (!(sigma[i] <= DBL_MAX)) {
            return lora__fail(error, LORA_ERROR_NONFINITE, LORA_NO_OFFSET, NULL,
                              "the product of the factors is too large");
        }
        work->row[i] = sigma[i] > 0 ? sqrt(work->sigma[i]) : 0;
    }
    return LORA_OK;
}

/* row[i] = 1 / row[i], but 0 of 0. */
static void factored_invert(double *row, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        row[i] = row[i] > 0 ? 1 / row[i] : 0;
    }
}

/* basis_mix and head of a side with reflectors, whose P is
 *
 *     U^T Q = [U^T 0] - (U^T V1 K^-1) V,  V1[i,j] = V[j,i], [rank, rank]
 *
 * `core` and `spare` are used up; `column` holds 2^(exponent / 2). */
static lora_status factored_reflected(lora__svd_state *state,
                                      factored_work *work,
                                      const factored_side *basis,
                                      lora_error *error)
{
    const size_t rank = work->rank;

    TRY(lora__block_create(&state->basis_mix, rank, rank, work->context,
                           error));
    TRY(lora__block_create(&state->head, rank, rank, work->context, error));
    state->head_width = rank;
    memcpy(state->head.at, work->u_t, rank * rank * sizeof(double));
    factored_scale(state->head.at, rank, rank, work->row, work->column);

    lora__lq_mix(work->spare, work->core, basis->reflector.at, basis->tau, rank,
                 basis->length, work->kernels);
    factored_gemm(work->context, state->basis_mix.at, work->u_t, work->spare,
                  rank, rank, rank);
    factored_scale(state->basis_mix.at, rank, rank, work->row, work->column);
    return LORA_OK;
}

/* basis_mix of a side with a triangle alone: U^T L^-1. `column` holds
 * 2^(exponent / 2 - exponent of the component). */
static lora_status factored_solved(lora__svd_state *state,
                                   factored_work *work,
                                   const factored_side *basis,
                                   lora_error *error)
{
    const size_t rank = work->rank;

    TRY(lora__block_create(&state->basis_mix, rank, rank, work->context,
                           error));
    memcpy(state->basis_mix.at, work->u_t, rank * rank * sizeof(double));
    lora__triangle_solve(state->basis_mix.at, rank, rank, basis->l, rank, rank,
                         work->kernels);
    factored_scale(state->basis_mix.at, rank, rank, work->row, work->column);
    return LORA_OK;
}

static void factored_move(lora__block *to, lora__block *from)
{
    *to = *from;
    from->at = NULL;
    from->count = 0;
}

/* column[j] = 2^(exponent / 2 - exponent of side's component j); the second
 * term is left out without a side. */
static void
factored_columns(factored_work *work, const factored_side *side, size_t count)
{
    for (size_t j = 0; j < count; j++) {
        const int32_t exponent = side == NULL ? 0 : side->exponent[j];

        work->column[j] = ldexp(1, work->exponent / 2 - exponent);
    }
}

/* Core of two triangles, and the floor; components' exponents to `shift`. */
static void factored_core(factored_work *work,
                          const factored_side *basis,
                          const factored_side *image)
{
    const size_t rank = work->rank;
    double total = 0;

    for (size_t j = 0; j < rank; j++) {
        work->shift[j] += basis->exponent[j] + image->exponent[j];
    }
    factored_weigh(work);
    for (size_t j = 0; j < rank; j++) {
        const double *row = basis->l + j * rank;
        const double *other = image->l + j * rank;
        const double weight = ldexp(1, work->shift[j] - work->exponent);

        for (size_t i = 0; i < rank; i++) {
            work->mixed[i * rank + j] = weight * row[i];
        }
        total += weight * sqrt(work->kernels->dot_f64(row, row, rank) *
                               work->kernels->dot_f64(other, other, rank));
    }
    work->floor = 2 * DBL_EPSILON * total;
    factored_gemm(work->context, work->core, work->mixed, image->l, rank, rank,
                  rank);
}

/* No more components than rows and columns; G of each side is in its l. */
static lora_status factored_thin(double *sigma,
                                 lora__svd_state *state,
                                 factored_work *work,
                                 lora_error *error)
{
    const size_t rank = work->rank;
    factored_side *basis;
    factored_side *image;

    TRY(factored_triangle(work, &work->side[0], error));
    TRY(factored_triangle(work, &work->side[1], error));
    state->basis_is_down = factored_basis_side(work->side);
    basis = &work->side[state->basis_is_down];
    image = &work->side[!state->basis_is_down];

    factored_core(work, basis, image);
    TRY(lora__square_svd(work->sigma, work->u_t, work->core, rank, work->floor,
                         work->context, error));
    TRY(factored_values(sigma, work, rank, error));

    if (basis->reflector.at != NULL) {
        factored_columns(work, NULL, rank);
        TRY(factored_reflected(state, work, basis, error));
        factored_move(&state->basis_data, &basis->reflector);
    } else {
        factored_columns(work, basis, rank);
        TRY(factored_solved(state, work, basis, error));
        factored_move(&state->basis_data, &basis->copy);
    }

    TRY(lora__block_create(&state->image_mix, rank, rank, work->context,
                           error));
    factored_gemm(work->context, state->image_mix.at, work->u_t, work->mixed,
                  rank, rank, rank);
    factored_invert(work->row, rank);
    factored_columns(work, image, rank);
    factored_scale(state->image_mix.at, rank, rank, work->row, work->column);
    factored_move(&state->image_data, &image->copy);
    state->rank = rank;
    state->values = rank;
    return LORA_OK;
}

/* More components than rows or columns; both factors are copies. */
static lora_status factored_dense(double *sigma,
                                  lora__svd_state *state,
                                  factored_work *work,
                                  lora_error *error)
{
    const size_t rank = work->rank;
    const size_t width = work->room;
    const lora__kernels *kernels = work->kernels;
    factored_side *basis;
    factored_side *image;
    lora__block product = {NULL, 0};
    lora__block mixed = {NULL, 0};
    lora_status status = LORA_OK;
    double total = 0;

    state->basis_is_down = work->side[1].length < work->side[0].length;
    basis = &work->side[state->basis_is_down];
    image = &work->side[!state->basis_is_down];
    TRY_OR_DONE(lora__block_create(&mixed, width, rank, work->context, error));
    TRY_OR_DONE(lora__block_create(&product, width, image->length,
                                   work->context, error));

    factored_weigh(work);
    for (size_t j = 0; j < rank; j++) {
        const double *row = basis->a + j * width;
        const double *other = image->a + j * image->length;
        const double weight = ldexp(1, work->shift[j] - work->exponent);

        for (size_t i = 0; i < width; i++) {
            mixed.at[i * rank + j] = weight * row[i];
        }
        total += weight * sqrt(kernels->dot_f64(row, row, width) *
                               kernels->dot_f64(other, other, image->length));
    }
    factored_gemm(work->context, product.at, mixed.at, image->a, width,
                  image->length, rank);
    TRY_OR_DONE(lora__lq_create(work->core, product.at, basis->tau, width,
                                image->length, work->context, error));
    TRY_OR_DONE(lora__square_svd(work->sigma, work->u_t, work->core, width,
                                 2 * DBL_EPSILON * total, work->context,
                                 error));
    TRY_OR_DONE(factored_values(sigma, work, width, error));

    factored_columns(work, NULL, width);
    TRY_OR_DONE(
        lora__block_create(&state->head, width, width, work->context, error));
    memcpy(state->head.at, work->u_t, width * width * sizeof(double));
    factored_scale(state->head.at, width, width, work->row, work->column);
    state->head_width = width;

    TRY_OR_DONE(lora__block_create(&state->image_mix, width, rank,
                                   work->context, error));
    factored_gemm(work->context, state->image_mix.at, work->u_t, mixed.at,
                  width, rank, width);
    factored_invert(work->row, width);
    factored_scale(work->row, width, 1, work->column, NULL);
    factored_scale(state->image_mix.at, width, rank, work->row, NULL);
    factored_move(&state->image_data, &image->copy);
    state->rank = rank;
    state->values = width;
done:
    lora__block_destroy(&mixed, work->context);
    lora__block_destroy(&product, work->context);
    return status;
}

/* Interface ------------------------------------------------------------ */

static lora_status factored_run(double *sigma,
                                lora__svd_state *state,
                                factored_work *work,
                                size_t rank,
                                lora_error *error)
{
    factored_side *side = work->side;

    if (rank > work->room || !factored_gram(&side[0], rank, work->kernels) ||
        !factored_gram(&side[1], rank, work->kernels)) {
        TRY(factored_normalise(work, rank, error));
        if (work->rank == 0) {
            return LORA_OK;
        }
        if (work->rank > work->room) {
            return factored_dense(sigma, state, work, error);
        }
        (void)factored_gram(&side[0], work->rank, work->kernels);
        (void)factored_gram(&side[1], work->rank, work->kernels);
    }
    return factored_thin(sigma, state, work, error);
}

LORA_PRIVATE lora_status lora__svd_create(lora__svd *out,
                                          lora_context *context,
                                          const lora__svd_input *input,
                                          lora_error *error)
{
    const size_t side = input->rows < input->cols ? input->rows : input->cols;
    const size_t count = input->rank < side ? input->rank : side;
    factored_work work;
    lora_status status = LORA_OK;
    void *state;

    memset(out, 0, sizeof *out);
    INVARIANT(count > 0, error);
    TRY(lora__alloc_zeroed(&state, context, 1, sizeof(lora__svd_state), error));
    out->state = state;
    memset(&work, 0, sizeof work);
    work.context = context;
    TRY_OR_DONE(
        lora__block_create(&out->state->sigma, 1, count, context, error));
    out->sigma = out->state->sigma.at;
    out->count = count;
    memset(out->sigma, 0, count * sizeof *out->sigma);
    TRY_OR_DONE(factored_begin(&work, input, count, error));
    TRY_OR_DONE(factored_run(out->sigma, state, &work, input->rank, error));
done:
    factored_end(&work);
    if (status != LORA_OK) {
        lora__svd_destroy(out, context);
    }
    return status;
}

LORA_PRIVATE lora_status lora__svd_truncate(double *up_t,
                                            double *down,
                                            const lora__svd *svd,
                                            const lora__svd_input *input,
                                            size_t k,
                                            lora_context *context,
                                            lora_error *error)
{
    const lora__svd_state *state = svd->state;
    const size_t some = k < state->values ? k : state->values;
    double *basis = state->basis_is_down ? down : up_t;
    double *image = state->basis_is_down ? up_t : down;
    const double *basis_data = state->basis_is_down ? input->down : input->up_t;
    const double *image_data = state->basis_is_down ? input->up_t : input->down;
    const size_t basis_length =
        state->basis_is_down ? input->cols : input->rows;
    const size_t image_length =
        state->basis_is_down ? input->rows : input->cols;

    INVARIANT(k <= svd->count, error);
    basis_data =
        state->basis_data.at != NULL ? state->basis_data.at : basis_data;
    image_data =
        state->image_data.at != NULL ? state->image_data.at : image_data;
    memset(basis + some * basis_length, 0,
           (k - some) * basis_length * sizeof *basis);
    memset(image + some * image_length, 0,
           (k - some) * image_length * sizeof *image);
    if (some == 0) {
        return LORA_OK;
    }
    if (state->basis_mix.at != NULL) {
        factored_gemm(context, basis, state->basis_mix.at, basis_data, some,
                      basis_length, state->rank);
    } else {
        memset(basis, 0, some * basis_length * sizeof *basis);
    }
    for (size_t i = 0; i < some; i++) {
        for (size_t j = 0; j < state->head_width; j++) {
            basis[i * basis_length + j] +=
                state->head.at[i * state->head_width + j];
        }
    }
    factored_gemm(context, image, state->image_mix.at, image_data, some,
                  image_length, state->rank);
    return LORA_OK;
}

LORA_PRIVATE void lora__svd_destroy(lora__svd *svd, lora_context *context)
{
    lora__svd_state *state = svd->state;

    if (state != NULL) {
        lora__block_destroy(&state->sigma, context);
        lora__block_destroy(&state->basis_mix, context);
        lora__block_destroy(&state->image_mix, context);
        lora__block_destroy(&state->head, context);
        lora__block_destroy(&state->basis_data, context);
        lora__block_destroy(&state->image_data, context);
        lora__free(context, state, sizeof *state, LORA__ALIGN);
    }
    memset(svd, 0, sizeof *svd);
}
