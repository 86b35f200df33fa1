/* The Tucker form of a convolution's weight, against numpy: HOSVD, the best of
 * many runs of orthogonal iteration, and the bound that holds for any form.
 */
#include "dense_cases.h"

#include "linalg/tucker.h"

typedef struct tucker_case {
    size_t out, in, kernel, out_rank, in_rank;
    int is_near;  /* a form of ranks 3, and a 64th of what there is otherwise */
    double hosvd; /* errors: of HOSVD, */
    double best;  /* of 400 rounds from HOSVD and from random bases, */
    double least; /* of cutting one side only: no form can be below */
} tucker_case;

static const tucker_case tucker_cases[] = {
    {12, 10, 9, 3, 3, 0, 13.6458774374, 13.2080016695, 11.9516619783},
    {16, 40, 9, 2, 4, 0, 33.3686863151, 32.5050364548, 30.7471823965},
    {30, 14, 3, 5, 2, 0, 14.8564173738, 14.2028281579, 14.0468342689},
    {40, 60, 9, 4, 4, 0, 65.5106264248, 63.8834309526, 62.578074485},
    {18, 40, 9, 3, 3, 1, 0.554653342626, 0.55465259328, 0.536220726681},
    {30, 14, 4, 2, 3, 1, 6.14292579845, 6.14284735676, 6.14245665168},
    /* One element, or one side left whole: the SVD's. */
    {9, 11, 1, 4, 4, 0, 1.95870732902, 1.95870732902, 1.95870732902},
    {8, 6, 4, 8, 2, 0, 4.81266285153, 4.81266285153, 4.81266285153},
    {7, 50, 2, 3, 50, 0, 8.205001386, 8.205001386, 8.205001386},
};

static float *tucker_values(const tucker_case *c)
{
    float *values = dense_matrix(c->out, c->in * c->kernel);

    for (size_t n = 0; c->is_near && n < c->out * c->in * c->kernel; n++) {
        size_t p = n / (c->in * c->kernel);
        size_t q = n / c->kernel % c->in;
        size_t x = n % c->kernel;
        double sum = dense_element(p, q * c->kernel + x) / 64.0;
        for (size_t i = 0; i < 3; i++) {
            for (size_t j = 0; j < 3; j++) {
                sum += dense_element(p, i + 2) *
                       dense_element(3 * i + 1, j * c->kernel + x) *
                       dense_element(q, j + 5);
            }
        }
        values[n] = (float)sum;
    }
    return values;
}

static void tucker_allocate(lora__tucker_result *form,
                            const lora__tucker_input *in)
{
    form->up_t = dense_unset(form->out_rank * in->out);
    form->core = dense_unset(form->out_rank * form->in_rank * in->kernel);
    form->down = dense_unset(form->in_rank * in->in);
}

static void tucker_free(lora__tucker_result *form)
{
    free(form->up_t);
    free(form->core);
    free(form->down);
}

/* |M - result|_F by its definition. */
static double tucker_off(const lora__tucker_input *in,
                         const lora__tucker_result *form)
{
    double total = 0.0;

    for (size_t n = 0; n < in->out * in->in * in->kernel; n++) {
        size_t p = n / (in->in * in->kernel);
        size_t q = n / in->kernel % in->in;
        size_t x = n % in->kernel;
        double sum = (double)in->values[n];
        for (size_t i = 0; i < form->out_rank; i++) {
            for (size_t j = 0; j < form->in_rank; j++) {
                sum -= form->up_t[i * in->out + p] *
                       form->core[(i * form->in_rank + j) * in->kernel + x] *
                       form->down[j * in->in + q];
            }
        }
        total += sum * sum;
    }
    return sqrt(total);
}

static double tucker_dot(const double *x, const double *y, size_t count)
{
    double sum = 0.0;

    for (size_t i = 0; i < count; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

/* Rows are orthogonal, and all of one norm, up to what the other side's rank
 * and the kernel leave directions for; the rest is 0. The three arrays have one
 * norm too. */
static void tucker_check_bases(const lora__tucker_input *in,
                               const lora__tucker_result *form)
{
    const double norm = tucker_dot(form->core, form->core,
                                   form->out_rank * form->in_rank * in->kernel);
    const double *arrays[2] = {form->up_t, form->down};
    const size_t counts[2] = {form->out_rank, form->in_rank};
    const size_t lengths[2] = {in->out, in->in};
    const size_t most[2] = {form->in_rank * in->kernel,
                            form->out_rank * in->kernel};

    for (size_t a = 0; a < 2; a++) {
        size_t used = counts[a] < most[a] ? counts[a] : most[a];
        for (size_t i = 0; i < counts[a]; i++) {
            for (size_t j = 0; j <= i; j++) {
                double dot = tucker_dot(arrays[a] + i * lengths[a],
                                        arrays[a] + j * lengths[a], lengths[a]);
                double expected =
                    i == j && i < used ? norm / (double)used : 0.0;
                assert_true(fabs(dot - expected) <= 1e-10 * norm);
            }
        }
    }
}

/* How far the error may be above the best of many runs. Where values fall off
 * by a factor f at the rank, a round leaves 1 / f^2 of what there was to gain,
 * and the last one gained less than 1e-5 of the squared error: 1e-5. A matrix
 * without such a fall has many minima: half of what is between the best one
 * and HOSVD, which are 2 to 5 % apart. */
static double tucker_slack(const tucker_case *c)
{
    return c->is_near ? 1e-5 * c->best : 0.5 * (c->hosvd - c->best) + 1e-9;
}

static void tucker_check(const tucker_case *c, lora_context *context)
{
    float *values = tucker_values(c);
    const lora__tucker_input in = {c->out, c->in, c->kernel, values};
    lora__tucker_result form = {c->out_rank, c->in_rank, NULL, NULL, NULL, -1};

    tucker_allocate(&form, &in);
    assert_int_equal(lora__tucker_fit(&form, &in, context, NULL), LORA_OK);
    assert_true(fabs(tucker_off(&in, &form) - form.error) <= 1e-9);
    assert_true(form.error <= c->hosvd * (1 + 1e-9));
    assert_true(form.error >= c->least * (1 - 1e-9));
    assert_true(form.error <= c->best + tucker_slack(c));
    tucker_check_bases(&in, &form);
    assert_true(isnan(form.up_t[c->out_rank * c->out]));
    assert_true(isnan(form.core[c->out_rank * c->in_rank * c->kernel]));
    assert_true(isnan(form.down[c->in_rank * c->in]));
    tucker_free(&form);
    free(values);
}

static void test_cases(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        lora_context *context = dense_context(NULL, reference);
        for (size_t i = 0; i < sizeof tucker_cases / sizeof *tucker_cases;
             i++) {
            tucker_check(&tucker_cases[i], context);
        }
        lora_context_destroy(context);
    }
}

/* A form of ranks 2 and 3 with small whole numbers is found again, its rank
 * being less than or just what is asked for; rows beyond are 0. */
static void test_exact(void **state)
{
    lora_context *context = dense_context(NULL, 0);
    enum { OUT = 9, IN = 24, KERNEL = 6 };
    float values[OUT * IN * KERNEL];
    const lora__tucker_input in = {OUT, IN, KERNEL, values};

    (void)state;
    for (size_t n = 0; n < sizeof values / sizeof *values; n++) {
        size_t p = n / (IN * KERNEL);
        size_t q = n / KERNEL % IN;
        size_t x = n % KERNEL;
        double sum = 0.0;
        for (size_t i = 0; i < 2; i++) {
            for (size_t j = 0; j < 3; j++) {
                sum += (double)((p * p + 3 * i * p) % 7) *
                       ((double)((i * 5 + j * 3 + x * x) % 11) - 5.0) *
                       ((double)((q * q * (j + 1)) % 13) - 6.0);
            }
        }
        values[n] = (float)sum;
    }
    for (size_t more = 0; more < 3; more++) {
        lora__tucker_result form = {2 + more, 3 + more, NULL, NULL, NULL, -1};
        size_t zero = 0;
        tucker_allocate(&form, &in);
        assert_int_equal(lora__tucker_fit(&form, &in, context, NULL), LORA_OK);
        /* |M| is below 1e4. */
        assert_true(form.error <= 1e-8);
        assert_true(tucker_off(&in, &form) <= 1e-8);
        for (size_t i = 0; i < 2 + more; i++) {
            zero += tucker_dot(form.up_t + i * OUT, form.up_t + i * OUT, OUT) ==
                    0.0;
        }
        assert_int_equal(zero, more);
        tucker_free(&form);
    }
    lora_context_destroy(context);
}

static void test_extremes(void **state)
{
    static const float scales[] = {0.0f, 1e-38f, 1e36f};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    lora_context *context = dense_context(NULL, 0);
    double first = 0.0;

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        float *values = dense_matrix(6, 8 * 9);
        const lora__tucker_input in = {6, 8, 9, values};
        lora__tucker_result form = {2, 2, NULL, NULL, NULL, -1};
        lora_status status;
        for (size_t j = 0; i < 3 && j < 6 * 8 * 9; j++) {
            values[j] *= scales[i];
        }
        if (i >= 3) {
            values[100] = bad[i - 3];
        }
        tucker_allocate(&form, &in);
        status = lora__tucker_fit(&form, &in, context, NULL);
        assert_int_equal(status, i < 3 ? LORA_OK : LORA_ERROR_NONFINITE);
        if (i == 0) {
            assert_true(form.error == 0.0);
            assert_true(tucker_off(&in, &form) == 0.0);
        } else if (i < 3) {
            /* The same at any scale; f32 below 1e-38 has 23 bits less. */
            double share = form.error / (double)scales[i];
            assert_true(first == 0.0 || fabs(share / first - 1) < 1e-5);
            first = share;
        }
        tucker_free(&form);
        free(values);
    }
    lora_context_destroy(context);
}

static void test_memory(void **state)
{
    faults_state faults = {-1, 0, 0};
    lora_context *context = dense_context(&faults, 0);
    float *values = dense_matrix(12, 10 * 9);
    const lora__tucker_input in = {12, 10, 9, values};
    lora__tucker_result form = {3, 3, NULL, NULL, NULL, -1};
    size_t live = faults.live;
    lora_status status = LORA_ERROR_MEMORY;
    int at;

    (void)state;
    tucker_allocate(&form, &in);
    for (at = 0; status != LORA_OK; at++) {
        faults.calls = 0;
        faults.fail_at = at;
        status = lora__tucker_fit(&form, &in, context, NULL);
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
        assert_int_equal(faults.live, live);
    }
    assert_true(at > 5);
    faults.fail_at = -1;
    tucker_free(&form);
    lora_context_destroy(context);
    assert_int_equal(faults.live, 0);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
