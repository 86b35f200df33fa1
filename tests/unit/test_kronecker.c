/* The nearest Kronecker product: errors and factors against numpy's SVD of the
 * rearranged matrix.
 */
#include "dense_cases.h"

#include "linalg/kronecker.h"

typedef struct kronecker_case {
    size_t shape[4]; /* rows1, cols1, rows2, cols2 */
    int is_near;     /* a product, and a 64th of what there is otherwise */
    double error;    /* sqrt of the sum of sigma^2 but the first */
    double cut[2];   /* with w2 of rank 1 and 2, w1 fitted to it; 0: no such */
    double sigma;
} kronecker_case;

static const kronecker_case kronecker_cases[] = {
    {{4, 3, 6, 10},
     0,
     11.2668176965017,
     {11.7342610746871, 11.504109184351},
     4.45616460402574},
    {{3, 5, 7, 4},
     1,
     0.142593415891434,
     {3.09701859065947, 2.14498881213042},
     4.42850751713733},
    {{8, 8, 5, 7},
     0,
     20.5704173016911,
     {20.841677031092, 20.6911473309144},
     5.8129848926703},
    {{1, 1, 9, 4},
     0,
     0.0,
     {1.99676725700953, 1.42336473533074},
     2.84915352012664},
    {{9, 4, 1, 1}, 0, 0.0, {1e-300, 0.0}, 2.84915352012664},
    {{2, 3, 1, 8},
     1,
     0.0447549577918447,
     {0.0447549577918447, 0.0},
     1.48588782329826},
    {{6, 7, 4, 2},
     0,
     7.29714829114395,
     {7.5765167772952, 7.29714829114394},
     4.23424998208715},
};

/* sqrt(sigma_1) u_1 of the second case. */
static const double kronecker_w1[15] = {
    -0.84044550697,  -0.627332827672,  -0.227978590885, 0.340891255261,
    -0.715252956079, -0.6841070784,    -0.343782296268, 0.177274413366,
    0.878306890935,  -0.0485464308278, -0.412463631568, 0.0516314409958,
    0.69875492326,   -0.289535174073,  0.715939012921};

static float *kronecker_values(const kronecker_case *c)
{
    const size_t *s = c->shape;
    size_t cols = s[1] * s[3];
    float *values = dense_matrix(s[0] * s[2], cols);

    for (size_t i = 0; c->is_near && i < s[0] * s[2]; i++) {
        for (size_t j = 0; j < cols; j++) {
            values[i * cols + j] =
                (float)(dense_element(i, j) / 64.0 +
                        dense_element(i / s[2] + 1, j / s[3]) *
                            dense_element(i % s[2] + 2, j % s[3]));
        }
    }
    return values;
}

/* |M - w1 (x) w2|_F by its definition. */
static double kronecker_off(const lora__kronecker_input *in,
                            const double *w1,
                            const double *w2)
{
    size_t cols = in->cols1 * in->cols2;
    double sum = 0.0;

    for (size_t i = 0; i < in->rows1 * in->rows2; i++) {
        for (size_t j = 0; j < cols; j++) {
            double off = (double)in->values[i * cols + j] -
                         w1[i / in->rows2 * in->cols1 + j / in->cols2] *
                             w2[i % in->rows2 * in->cols2 + j % in->cols2];
            sum += off * off;
        }
    }
    return sqrt(sum);
}

static double kronecker_square(const double *x, size_t count)
{
    double sum = 0.0;

    for (size_t i = 0; i < count; i++) {
        sum += x[i] * x[i];
    }
    return sum;
}

/* Errors are determined to rounding, 1e-15 of |M|, or, where values are close,
 * to 1e-10 of sigma^2: 1e-9 is within both. Where they are far apart, vectors
 * are good to the residual over the gap, 1e-6. Sums of squares in f64 have
 * roots of 1e-8 where nothing is left. */
static void kronecker_check(const kronecker_case *c, lora_context *context)
{
    const size_t *s = c->shape;
    float *values = kronecker_values(c);
    const lora__kronecker_input in = {s[0], s[1], s[2], s[3], values};
    double *w1 = dense_unset(s[0] * s[1]);
    double *w2 = dense_unset(s[2] * s[3]);
    double error = -1.0;

    assert_int_equal(lora__kronecker_fit(w1, w2, &error, &in, context, NULL),
                     LORA_OK);
    assert_true(fabs(error - c->error) <= 1e-8 * (1.0 + c->sigma));
    assert_true(fabs(kronecker_off(&in, w1, w2) - error) <= 1e-9);
    assert_true(fabs(kronecker_square(w1, s[0] * s[1]) / c->sigma - 1) < 1e-9);
    assert_true(fabs(kronecker_square(w2, s[2] * s[3]) / c->sigma - 1) < 1e-9);
    assert_true(isnan(w1[s[0] * s[1]]) && isnan(w2[s[2] * s[3]]));
    for (size_t i = 0; s[0] * s[1] == 15 && i < 15; i++) {
        assert_true(fabs(w1[i] - kronecker_w1[i]) < 1e-6);
    }
    for (size_t k = 1; k <= 2; k++) {
        double *up_t = dense_unset(k * s[2]);
        double *down = dense_unset(k * s[3]);
        if (c->cut[k - 1] > 0.0) {
            assert_int_equal(
                lora__kronecker_fit(w1, w2, &error, &in, context, NULL),
                LORA_OK);
            assert_int_equal(lora__kronecker_cut(w1, w2, up_t, down, &error, k,
                                                 &in, context, NULL),
                             LORA_OK);
            /* To first order in w1, which goes in as it was found. */
            assert_true(fabs(error - c->cut[k - 1]) <= 1e-5);
            assert_true(isnan(up_t[k * s[2]]) && isnan(down[k * s[3]]));
            for (size_t i = 0; i < s[2] * s[3]; i++) {
                double sum = 0.0;
                for (size_t j = 0; j < k; j++) {
                    sum +=
                        up_t[j * s[2] + i / s[3]] * down[j * s[3] + i % s[3]];
                }
                w2[i] = sum;
            }
            assert_true(fabs(kronecker_off(&in, w1, w2) - error) <= 1e-9);
        }
        free(up_t);
        free(down);
    }
    free(values);
    free(w1);
    free(w2);
}

static void test_cases(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        lora_context *context = dense_context(NULL, reference);
        for (size_t i = 0; i < sizeof kronecker_cases / sizeof *kronecker_cases;
             i++) {
            kronecker_check(&kronecker_cases[i], context);
        }
        lora_context_destroy(context);
    }
}

/* What LyCORIS' factorization() answers, its -1 being 0: single ones, and all
 * up to 2048 as one number. */
static void test_split(void **state)
{
    static const struct {
        size_t dimension;
        size_t small[6]; /* by the factors below */
    } rows[] = {{1, {1, 1, 1, 1, 1, 1}},      {127, {1, 1, 1, 1, 1, 1}},
                {128, {8, 2, 4, 8, 8, 8}},    {250, {10, 2, 2, 5, 10, 10}},
                {320, {16, 2, 4, 8, 16, 16}}, {360, {18, 2, 4, 8, 15, 18}},
                {640, {20, 2, 4, 8, 16, 20}}, {1280, {32, 2, 4, 8, 16, 32}},
                {3072, {48, 2, 4, 8, 16, 48}}};
    static const size_t factors[] = {0, 2, 4, 8, 16, 1000};
    static const size_t more[] = {0, 2, 3, 4, 8, 16, 64};
    uint32_t sum = 0;
    size_t small;
    size_t large;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t j = 0; j < 6; j++) {
            lora__kronecker_split(&small, &large, rows[i].dimension,
                                  factors[j]);
            assert_int_equal(small, rows[i].small[j]);
            assert_int_equal(small * large, rows[i].dimension);
        }
    }
    for (size_t dimension = 1; dimension <= 2048; dimension++) {
        for (size_t j = 0; j < 7; j++) {
            lora__kronecker_split(&small, &large, dimension, more[j]);
            assert_true(small <= large && small * large == dimension);
            sum = sum * 31 + (uint32_t)small;
        }
    }
    assert_int_equal(sum, 2921151896u);
}

/* Zero, all scales of f32, and a start that one block alone could catch: the
 * largest value belongs to blocks apart from the largest block. */
static void test_extremes(void **state)
{
    lora_context *context = dense_context(NULL, 0);
    static const float scales[] = {0.0f, 1e-38f, 1e37f};
    float values[4 * 8];
    double w1[8];
    double w2[4];
    double error;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        const lora__kronecker_input in = {2, 4, 2, 2, values};
        memset(values, 0, sizeof values);
        values[0] = 2 * scales[i]; /* block 0: [2 0; 0 0] */
        for (size_t c = 1; c < 4; c++) {
            values[8 + c * 2 + 1] = 1.9f * scales[i]; /* [0 0; 0 1.9] */
        }
        assert_int_equal(
            lora__kronecker_fit(w1, w2, &error, &in, context, NULL), LORA_OK);
        assert_true(fabs(error - 2.0 * (double)scales[i]) <=
                    1e-6 * (double)scales[i]);
        assert_true(fabs(w1[1] * w2[3] - 1.9 * (double)scales[i]) <=
                    1e-5 * (double)scales[i]);
    }
    lora_context_destroy(context);
}

static void test_refused(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    lora_context *context = dense_context(NULL, 0);
    double w1[4];
    double w2[6];
    double measured;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        float *values = dense_matrix(4, 6);
        const lora__kronecker_input in = {2, 2, 2, 3, values};
        values[23] = bad[i];
        assert_int_equal(
            lora__kronecker_fit(w1, w2, &measured, &in, context, NULL),
            LORA_ERROR_NONFINITE);
        free(values);
    }
    lora_context_destroy(context);
}

static void test_memory(void **state)
{
    faults_state faults = {-1, 0, 0};
    lora_context *context = dense_context(&faults, 0);
    float *values = dense_matrix(4 * 6, 3 * 10);
    const lora__kronecker_input in = {4, 3, 6, 10, values};
    size_t live = faults.live;
    double w1[12];
    double w2[60];
    double up_t[18];
    double down[30];
    double measured;
    lora_status status = LORA_ERROR_MEMORY;
    int at;

    (void)state;
    for (at = 0; status != LORA_OK; at++) {
        faults.calls = 0;
        faults.fail_at = at;
        status = lora__kronecker_fit(w1, w2, &measured, &in, context, NULL);
        if (status == LORA_OK) {
            status = lora__kronecker_cut(w1, w2, up_t, down, &measured, 3, &in,
                                         context, NULL);
        }
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
        assert_int_equal(faults.live, live);
    }
    assert_true(at > 5);
    faults.fail_at = -1;
    lora_context_destroy(context);
    assert_int_equal(faults.live, 0);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),    cmocka_unit_test(test_split),
        cmocka_unit_test(test_extremes), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
