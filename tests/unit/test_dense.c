/* The truncated SVD of dense matrices.
 *
 * Matrices are made from their singular values, M = sum of s_i u_i v_i^T with
 * orthonormal u and v, in f64, then rounded to floats. That moves a singular
 * value by 2^-24 |M|_F at most, so the s_i are the reference.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "core/rng.h"
#include "linalg/dense.h"

/* Matrices ---------------------------------------------------------------- */

typedef struct matrix {
    size_t rows;
    size_t cols;
    size_t count;
    double *sigma; /* [count] */
    float *values; /* [rows, cols] */
} matrix;

static uint64_t random_state;

static double random_number(void)
{
    double sum = 0;

    for (int i = 0; i < 4; i++) {
        random_state =
            random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(random_state >> 11) * 0x1p-53 - 0.5;
    }
    return sum;
}

static double *numbers(size_t count)
{
    double *x = calloc(count + 1, sizeof *x);

    assert_non_null(x);
    return x;
}

/* Rows by Gram-Schmidt, done twice. */
static double *orthonormal(size_t count, size_t length)
{
    double *q = numbers(count * length);

    for (size_t i = 0; i < count * length; i++) {
        q[i] = random_number();
    }
    for (size_t i = 0; i < 2 * count; i++) {
        double *row = q + i / 2 * length;
        double norm = 0;

        for (size_t j = 0; j < i / 2; j++) {
            double dot = 0;

            for (size_t p = 0; p < length; p++) {
                dot += row[p] * q[j * length + p];
            }
            for (size_t p = 0; p < length; p++) {
                row[p] -= dot * q[j * length + p];
            }
        }
        for (size_t p = 0; p < length; p++) {
            norm += row[p] * row[p];
        }
        for (size_t p = 0; p < length; p++) {
            row[p] /= sqrt(norm);
        }
    }
    return q;
}

typedef double (*spectrum_fn)(size_t i, size_t count);

static double flat(size_t i, size_t count)
{
    return 1 - 0.5 * (double)i / (double)count;
}

static double equal(size_t i, size_t count)
{
    (void)i;
    (void)count;
    return 1;
}

static double slow(size_t i, size_t count)
{
    (void)count;
    return 1 / sqrt(1 + (double)i);
}

static double harmonic(size_t i, size_t count)
{
    (void)count;
    return 1 / (1 + (double)i);
}

static double graded(size_t i, size_t count)
{
    (void)count;
    return pow(10, -(double)i / 6);
}

static double pairs(size_t i, size_t count)
{
    (void)count;
    return pow(0.8, (double)(i / 2));
}

static double low_rank(size_t i, size_t count)
{
    (void)count;
    return i < 6 ? 1 - 0.1 * (double)i : 0;
}

static double low_rank_and_noise(size_t i, size_t count)
{
    return low_rank(i, count) + 1e-4 * flat(i, count);
}

static matrix make(size_t rows, size_t cols, spectrum_fn spectrum, double scale)
{
    matrix m = {rows, cols, rows < cols ? rows : cols, NULL, NULL};
    double *u = orthonormal(m.count, rows);
    double *v = orthonormal(m.count, cols);
    double *sum = numbers(rows * cols);

    m.sigma = numbers(m.count);
    m.values = calloc(rows * cols, sizeof *m.values);
    assert_non_null(m.values);
    for (size_t r = 0; r < m.count; r++) {
        m.sigma[r] = scale * spectrum(r, m.count);
        for (size_t i = 0; i < rows; i++) {
            for (size_t j = 0; j < cols; j++) {
                sum[i * cols + j] +=
                    m.sigma[r] * u[r * rows + i] * v[r * cols + j];
            }
        }
    }
    for (size_t i = 0; i < rows * cols; i++) {
        m.values[i] = (float)sum[i];
    }
    free(u);
    free(v);
    free(sum);
    return m;
}

static void drop(matrix *m)
{
    free(m->sigma);
    free(m->values);
}

/* Norm of the values from k on. */
static double tail(const double *sigma, size_t k, size_t count)
{
    double sum = 0;

    for (size_t i = k; i < count; i++) {
        sum += sigma[i] * sigma[i];
    }
    return sqrt(sum);
}

/* |M - up^T down|_F of a truncation to k; its rows are orthogonal and have
 * sigma as their squares. */
static double truncation_error(lora_context *context,
                               const matrix *m,
                               const lora__dense *dense,
                               size_t k)
{
    double *up_t = numbers(k * m->rows);
    double *down = numbers(k * m->cols);
    double sum = 0;

    assert_int_equal(lora__dense_truncate(up_t, down, dense, k, context, NULL),
                     LORA_OK);
    for (size_t i = 0; i < m->rows; i++) {
        for (size_t j = 0; j < m->cols; j++) {
            double rest = (double)m->values[i * m->cols + j];

            for (size_t r = 0; r < k; r++) {
                rest -= up_t[r * m->rows + i] * down[r * m->cols + j];
            }
            sum += rest * rest;
        }
    }
    for (size_t r = 0; r < k && dense->sigma[r] > 1e-4 * dense->sigma[0]; r++) {
        for (size_t s = 0; s <= r; s++) {
            double up = r == s ? -dense->sigma[r] : 0;
            double other = up;

            for (size_t i = 0; i < m->rows; i++) {
                up += up_t[r * m->rows + i] * up_t[s * m->rows + i];
            }
            for (size_t j = 0; j < m->cols; j++) {
                other += down[r * m->cols + j] * down[s * m->cols + j];
            }
            assert_true(fabs(up) <= 1e-9 * dense->sigma[0]);
            assert_true(fabs(other) <= 1e-9 * dense->sigma[0]);
        }
    }
    free(up_t);
    free(down);
    return sqrt(sum);
}

/* Contexts ----------------------------------------------------------------- */

typedef struct hooks {
    int calls;
    int fail_at;
    int cancel_at;
    size_t live;
    lora_cancel_token *token;
} hooks;

static void *hooks_alloc(void *user, size_t size, size_t align)
{
    hooks *h = user;
    const int call = h->calls++;
    void *block;

    if (call == h->cancel_at) {
        lora_cancel_token_cancel(h->token);
    }
    if (call == h->fail_at) {
        return NULL;
    }
    block = aligned_alloc(align, (size + align - 1) / align * align);
    assert_non_null(block);
    h->live += size;
    return block;
}

static void hooks_free(void *user, void *block, size_t size, size_t align)
{
    hooks *h = user;

    (void)align;
    h->live -= block != NULL ? size : 0;
    free(block);
}

static void *hooks_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = hooks_alloc(user, new_size, align);

    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        hooks_free(user, block, old_size, align);
    }
    return moved;
}

static lora_context *context_with(uint32_t threads, lora_cpu disable)
{
    lora_context_options options;
    lora_context *context;

    lora_context_options_init(&options, sizeof options);
    options.max_threads = threads;
    options.disable_cpu = disable;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

static lora_context *context_hooked(hooks *h)
{
    const lora_allocator allocator = {sizeof allocator, h, hooks_alloc,
                                      hooks_realloc, hooks_free};
    lora_context_options options;
    lora_context *context;

    h->fail_at = -1;
    h->cancel_at = -1;
    lora_context_options_init(&options, sizeof options);
    options.allocator = &allocator;
    assert_int_equal(lora_cancel_token_create(&h->token, NULL), LORA_OK);
    options.cancel = h->token;
    assert_int_equal(lora_context_create(&context, &options, NULL), LORA_OK);
    return context;
}

/* Checks ------------------------------------------------------------------- */

/* Values are not above the true ones; the error is within 1.01 of the optimum;
 * what is reported of the rest is so. 1e-6 sigma_1 for products in f32. */
static void check(lora_context *context,
                  const matrix *m,
                  const lora__dense *dense,
                  size_t rank)
{
    const double unit = m->sigma[0];
    const double norm = tail(m->sigma, 0, m->count);
    const size_t cuts[] = {0, 1, rank / 2, rank, dense->count};

    assert_true(dense->count >= (rank < m->count ? rank : m->count));
    assert_true(fabs(dense->squares - norm * norm) <= 1e-6 * norm * norm);
    assert_true(dense->residual_limit <= 0x1p-18 * norm);
    for (size_t i = 0; i < dense->count; i++) {
        const double is = i < m->count ? m->sigma[i] : 0;

        assert_true(dense->sigma[i] >= 0);
        assert_true(i == 0 || dense->sigma[i] <= dense->sigma[i - 1]);
        assert_true(dense->sigma[i] <= is + 1e-6 * unit);
        assert_true(i >= rank || dense->sigma[i] >= 0.9 * is - 1e-6 * unit);
        assert_true(!dense->is_whole || dense->sigma[i] >= is - 1e-6 * unit);
    }
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        const size_t k = cuts[c] < dense->count ? cuts[c] : dense->count;
        const double error = truncation_error(context, m, dense, k);
        const double best = tail(m->sigma, k, m->count);
        const double told =
            hypot(dense->residual, tail(dense->sigma, k, dense->count));

        assert_true(k > rank || error <= 1.01 * best + 1e-6 * norm);
        if (!(fabs(error - told) <= dense->residual_limit + 1e-7 * norm)) {
            fail_msg("k %zu: error %g, told %g +- %g, norm %g", k, error, told,
                     dense->residual_limit, norm);
        }
    }
}

static void run(lora_context *context,
                size_t rows,
                size_t cols,
                spectrum_fn spectrum,
                double scale,
                size_t rank,
                int exact)
{
    matrix m = make(rows, cols, spectrum, scale);
    const lora__dense_input input = {rows, cols, m.values};
    lora__dense_goal goal = {0};
    const uint64_t live = lora_context_memory_live(context);
    lora__dense dense;

    goal.rank = rank;
    goal.exact = exact;
    assert_int_equal(lora__dense_create(&dense, context, &input, &goal, NULL),
                     LORA_OK);
    assert_true(dense.is_whole || !exact);
    check(context, &m, &dense, rank);
    lora__dense_destroy(&dense, context);
    assert_int_equal(lora_context_memory_live(context), live);
    drop(&m);
}

static void run_all(lora_context *context)
{
    static const spectrum_fn spectra[] = {
        flat,   equal, slow,     harmonic,
        graded, pairs, low_rank, low_rank_and_noise};
    static const size_t shapes[][3] = {
        {100, 140, 8}, {170, 90, 20}, {90, 300, 30}, {20, 31, 5},
        {96, 96, 96},  {1, 50, 3},    {50, 1, 1}};

    random_state = 1;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t i = 0; i < sizeof spectra / sizeof *spectra; i++) {
            run(context, shapes[s][0], shapes[s][1], spectra[i], 1,
                shapes[s][2], 0);
        }
        run(context, shapes[s][0], shapes[s][1], slow, 1, shapes[s][2], 1);
    }
    run(context, 300, 200, slow, 1, 16, 0);
    run(context, 200, 300, harmonic, 1e20, 16, 0);
    run(context, 200, 100, harmonic, 1e-20, 16, 0);
    run(context, 200, 100, low_rank, 1e38, 16, 0);
    run(context, 100, 200, low_rank, 1e-30, 16, 0);
    run(context, 100, 200, low_rank, 1e30, 16, 1);
}

static void test_all(void **state)
{
    lora_context *context = context_with(0, 0);

    (void)state;
    run_all(context);
    lora_context_destroy(context);
}

static void test_all_reference(void **state)
{
    lora_context *context = context_with(0, ~(lora_cpu)0);

    (void)state;
    run_all(context);
    lora_context_destroy(context);
}

/* One element, and one above the other ends of the range. */
static void test_single_elements(void **state)
{
    lora_context *context = context_with(0, 0);
    float *values = calloc(100 * 120, sizeof *values);
    const lora__dense_input input = {100, 120, values};
    lora__dense_goal goal = {0};
    static const float numbers_[] = {1, -3, 0x1p-149f, 0x1.fffffep127f};

    (void)state;
    assert_non_null(values);
    goal.rank = 20;
    for (size_t i = 0; i < 4; i++) {
        const double is = fabs((double)numbers_[i]);
        lora__dense dense;
        double up_t[100];
        double down[120];

        values[17 * 120 + 31] = numbers_[i];
        assert_int_equal(
            lora__dense_create(&dense, context, &input, &goal, NULL), LORA_OK);
        assert_true(fabs(dense.sigma[0] - is) <= 1e-7 * is);
        assert_true(dense.sigma[1] <= 1e-7 * is);
        assert_true(dense.residual <= 1e-6 * is);
        assert_int_equal(
            lora__dense_truncate(up_t, down, &dense, 1, context, NULL),
            LORA_OK);
        assert_true(fabs(up_t[17] * down[31] - (double)numbers_[i]) <=
                    1e-7 * is);
        lora__dense_destroy(&dense, context);
    }
    free(values);
    lora_context_destroy(context);
}

static void test_zero(void **state)
{
    lora_context *context = context_with(0, 0);
    float *values = calloc(100 * 120, sizeof *values);
    const lora__dense_input input = {100, 120, values};
    static const size_t ranks[][2] = {{0, 1}, {7, 7}, {500, 100}};

    (void)state;
    assert_non_null(values);
    for (size_t i = 0; i < 6; i++) {
        lora__dense_goal goal = {0};
        lora__dense dense;
        double up_t[100] = {1};
        double down[120] = {1};

        goal.rank = ranks[i / 2][0];
        goal.exact = (int)(i % 2);
        assert_int_equal(
            lora__dense_create(&dense, context, &input, &goal, NULL), LORA_OK);
        assert_int_equal(dense.count, ranks[i / 2][1]);
        assert_true(dense.squares == 0 && dense.residual == 0);
        for (size_t j = 0; j < dense.count; j++) {
            assert_true(dense.sigma[j] == 0);
        }
        assert_int_equal(
            lora__dense_truncate(up_t, down, &dense, 1, context, NULL),
            LORA_OK);
        assert_true(up_t[0] == 0 && down[0] == 0);
        lora__dense_destroy(&dense, context);
    }
    free(values);
    lora_context_destroy(context);
}

static void test_nonfinite(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    lora_context *context = context_with(0, 0);

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        matrix m = make(80, 90, slow, 1);
        const lora__dense_input input = {80, 90, m.values};
        const lora__dense_goal goal = {0};
        lora_error error;
        lora__dense dense;

        m.values[i == 0 ? 0 : 7199 / i] = bad[i];
        lora_error_init(&error, sizeof error);
        assert_int_equal(
            lora__dense_create(&dense, context, &input, &goal, &error),
            LORA_ERROR_NONFINITE);
        assert_int_equal(error.status, LORA_ERROR_NONFINITE);
        assert_null(dense.sigma);
        drop(&m);
    }
    lora_context_destroy(context);
}

/* Each goal alone: what it asks for is there, and where little is asked for
 * it is not found by looking for everything. */
static void test_goals(void **state)
{
    lora_context *context = context_with(0, 0);
    matrix m = make(200, 240, harmonic, 3);
    const lora__dense_input input = {200, 240, m.values};
    const double total = tail(m.sigma, 0, m.count);

    (void)state;
    for (int which = 0; which < 6; which++) {
        lora__dense_goal goal = {0};
        lora__dense dense;
        size_t wanted = 0;

        switch (which) {
        case 0:
            goal.above = 3 / 10.5;
            wanted = 10;
            break;
        case 1:
            goal.ratio = 1 / 30.5;
            wanted = 30;
            break;
        case 2:
            goal.energy = 0.95;
            while (pow(tail(m.sigma, wanted, m.count) / total, 2) > 0.05) {
                wanted++;
            }
            break;
        case 3:
            goal.above = 3 / 60.5;
            goal.rank = 5;
            wanted = 60;
            break;
        case 4:
            goal.energy = 1; /* all of it: in full */
            wanted = 200;
            break;
        default:
            goal.above = 1e-9;
            wanted = 200;
            break;
        }
        assert_int_equal(
            lora__dense_create(&dense, context, &input, &goal, NULL), LORA_OK);
        assert_true(dense.count >= wanted);
        assert_true(wanted < 100 ? dense.count <= 2 * wanted + 40
                                 : dense.is_whole);
        check(context, &m, &dense, wanted);
        lora__dense_destroy(&dense, context);
    }
    drop(&m);
    lora_context_destroy(context);
}

/* Memory goes with rows + cols, not with their product. */
static void test_memory_bound(void **state)
{
    static const spectrum_fn spectra[] = {slow, low_rank};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        lora_context *context = context_with(0, 0);
        matrix m = make(300, 1700, spectra[i], 1);
        const lora__dense_input input = {300, 1700, m.values};
        const uint64_t live = lora_context_memory_live(context);
        lora__dense_goal goal = {0};
        lora__dense dense;
        uint64_t peak;

        goal.rank = 20;
        assert_int_equal(
            lora__dense_create(&dense, context, &input, &goal, NULL), LORA_OK);
        peak = lora_context_memory_peak(context) - live;
        assert_int_equal(dense.count, 32);
        assert_true(peak <= 8 * (3 * 2000 * 32 + 15 * 32 * 32));
        lora__dense_destroy(&dense, context);
        drop(&m);
        lora_context_destroy(context);
    }
}

/* Another seed gives another basis, the same one the same bits, with any
 * number of threads and from within a job. */
typedef struct job {
    lora_context *context;
    const lora__dense_input *input;
    lora__dense_goal goal;
    double *out[3];
} job;

static lora_status
run_job(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    job *j = arg;
    double *out = j->out[index];
    lora__dense dense;

    (void)worker;
    TRY(lora__dense_create(&dense, j->context, j->input, &j->goal, error));
    memcpy(out, dense.sigma, 10 * sizeof *out);
    TRY(lora__dense_truncate(out + 10, out + 10 + 10 * j->input->rows, &dense,
                             10, j->context, error));
    lora__dense_destroy(&dense, j->context);
    return LORA_OK;
}

static void test_threads(void **state)
{
    matrix m = make(300, 1700, slow, 1);
    const lora__dense_input input = {300, 1700, m.values};
    const size_t count = 10 + 10 * 2000;
    job j = {NULL, &input, {0}, {NULL, NULL, NULL}};
    double *first = numbers(count);

    (void)state;
    j.goal.rank = 10;
    for (size_t i = 0; i < 3; i++) {
        j.out[i] = numbers(count);
    }
    for (uint32_t threads = 1; threads <= 4; threads++) {
        j.context = context_with(threads, 0);
        j.goal.parallel = 1;
        assert_int_equal(run_job(&j, 0, 0, NULL), LORA_OK);
        if (threads == 1) {
            memcpy(first, j.out[0], count * sizeof *first);
        }
        assert_memory_equal(j.out[0], first, count * sizeof *first);
        j.goal.parallel = 0;
        assert_int_equal(
            lora__run_jobs(j.context, "test", run_job, &j, 3, NULL), LORA_OK);
        for (size_t i = 0; i < 3; i++) {
            assert_memory_equal(j.out[i], first, count * sizeof *first);
        }
        lora_context_destroy(j.context);
    }
    j.context = context_with(0, 0);
    j.goal.seed = 1;
    assert_int_equal(run_job(&j, 0, 0, NULL), LORA_OK);
    assert_memory_not_equal(j.out[0], first, count * sizeof *first);
    lora_context_destroy(j.context);
    for (size_t i = 0; i < 3; i++) {
        free(j.out[i]);
    }
    free(first);
    drop(&m);
}

/* Each allocation fails in turn, then cancels in turn. */
static void test_memory_and_cancelling(void **state)
{
    hooks h = {0};
    lora_context *context = context_hooked(&h);
    const size_t start = h.live;
    static const struct {
        spectrum_fn spectrum;
        double energy;
        int exact;
    } cases[] = {
        {slow, 0.5, 0}, {slow, 0.9, 0}, {low_rank, 0, 0}, {slow, 0, 1}};

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        const int cancel = (int)(i % 2);
        const lora_status failure =
            cancel ? LORA_ERROR_CANCELLED : LORA_ERROR_MEMORY;
        matrix m = make(160, 130, cases[i / 2].spectrum, 1);
        const lora__dense_input input = {160, 130, m.values};
        lora__dense_goal goal = {0};
        lora_status status = failure;
        int failed = 0;

        goal.energy = cases[i / 2].energy;
        goal.exact = cases[i / 2].exact;
        for (int at = 0; status != LORA_OK || failed < 5; at++) {
            lora__dense dense;

            lora_cancel_token_reset(h.token);
            h.calls = 0;
            *(cancel ? &h.cancel_at : &h.fail_at) = at;
            status = lora__dense_create(&dense, context, &input, &goal, NULL);
            h.fail_at = -1;
            h.cancel_at = -1;
            if (status == LORA_OK) {
                lora__dense_destroy(&dense, context);
                assert_true(failed >= 5);
            } else {
                assert_int_equal(status, failure);
                assert_null(dense.sigma);
                failed++;
            }
            assert_int_equal(h.live, start);
        }
        drop(&m);
    }
    lora_cancel_token_destroy(h.token);
    lora_context_destroy(context);
    assert_int_equal(h.live, 0);
}

/* The vectors that were published with Philox4x32-10. */
static void test_philox(void **state)
{
    static const uint32_t cases[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
         0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        uint32_t words[4];

        lora__philox(words, cases[i], cases[i] + 4);
        assert_memory_equal(words, cases[i] + 6, sizeof words);
        memcpy(words, cases[i], sizeof words);
        lora__philox(words, words, cases[i] + 4);
        assert_memory_equal(words, cases[i] + 6, sizeof words);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_all_reference),
        cmocka_unit_test(test_single_elements),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_goals),
        cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_memory_and_cancelling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
