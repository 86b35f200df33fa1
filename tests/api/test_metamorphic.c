/* Relations that hold whatever the numbers are: strengths, full ranks, rows
 * that are computed in another order, conversions there and back. Numbers are
 * random and rough, over several seeds.
 */
#include "api/support.h"

#define SEEDS 12

static lora_context *context;

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Full mantissas, magnitudes from 2^-6 to 2. */
static void rough(float *out, size_t count, uint32_t *seed)
{
    for (size_t i = 0; i < count; i++) {
        float x = (float)next(seed) / 16777216.0f + 1.0f;
        x = ldexpf(x, -(int)(next(seed) % 7));
        out[i] = next(seed) & 1 ? -x : x;
    }
}

static void add(image *im,
                const char *module,
                const char *part,
                const char *shape,
                size_t count,
                uint32_t *seed)
{
    float values[512];
    char name[160];

    assert_true(count <= COUNT(values));
    rough(values, count, seed);
    snprintf(name, sizeof name, "%s.%s", module, part);
    image_f32(im, name, shape, values, count);
}

/* A pair, a convolution, one with a core: rows 4 to 6, all of rank 3. */
static void image_random(image *im, uint32_t seed)
{
    image_begin(im, SAMPLE_BASE);
    add(im, SAMPLE_Q, "alpha", "", 1, &seed);
    add(im, SAMPLE_Q, "lora_down.weight", "3,7", 21, &seed);
    add(im, SAMPLE_Q, "lora_up.weight", "5,3", 15, &seed);
    add(im, SAMPLE_CONV, "alpha", "", 1, &seed);
    add(im, SAMPLE_CONV, "lora_down.weight", "3,2,3,3", 54, &seed);
    add(im, SAMPLE_CONV, "lora_up.weight", "6,3,1,1", 18, &seed);
    add(im, SAMPLE_CORE, "alpha", "", 1, &seed);
    add(im, SAMPLE_CORE, "lora_down.weight", "3,4,1,1", 12, &seed);
    add(im, SAMPLE_CORE, "lora_mid.weight", "3,3,3,3", 81, &seed);
    add(im, SAMPLE_CORE, "lora_up.weight", "4,3,1,1", 12, &seed);
    image_end(im);
}

#define MOST 512 /* elements of a dense change */

static size_t
dense(void *out, const lora_adapter *adapter, size_t m, double by, int wide)
{
    lora_module_info info = {.struct_size = sizeof info};
    size_t count = 1;

    assert_int_equal(lora_adapter_get_module(&info, adapter, m, NULL), LORA_OK);
    for (int32_t i = 0; i < info.ndim; i++) {
        count *= (size_t)info.shape[i];
    }
    assert_true(count <= MOST);
    assert_int_equal(lora_adapter_delta(out, count * (wide ? 8 : 4), adapter, m,
                                        LORA_PART_WEIGHT, by,
                                        wide ? LORA_DTYPE_F64 : LORA_DTYPE_F32,
                                        0, info.shape[0], NULL),
                     LORA_OK);
    return count;
}

/* Strength 0 is no change; powers of two scale it bit for bit; a sign is one
 * sign. */
static void test_strength(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        image im;
        lora_adapter *adapter;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        for (size_t m = 0; m < 3; m++) {
            double one[MOST];
            double other[MOST];
            float one_narrow[MOST];
            float other_narrow[MOST];
            size_t count = dense(one, adapter, m, 1.0, 1);

            dense(one_narrow, adapter, m, 1.0, 0);
            dense(other, adapter, m, 0.0, 1);
            for (size_t i = 0; i < count; i++) {
                assert_true(other[i] == 0.0);
            }
            for (int power = -5; power <= 5; power++) {
                double by = ldexp(power % 2 == 0 ? 1.0 : -1.0, power);
                dense(other, adapter, m, by, 1);
                dense(other_narrow, adapter, m, by, 0);
                for (size_t i = 0; i < count; i++) {
                    assert_true(other[i] == one[i] * by);
                    assert_true(other_narrow[i] == one_narrow[i] * (float)by);
                }
            }
        }
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* F64 is F32 with smaller errors: three products and sums, a scale. */
static void test_precision(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        image im;
        lora_adapter *adapter;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        for (size_t m = 0; m < 2; m++) {
            double wide[MOST];
            float narrow[MOST];
            size_t count = dense(wide, adapter, m, 0.8, 1);
            dense(narrow, adapter, m, 0.8, 0);
            for (size_t i = 0; i < count; i++) {
                /* Terms are below 4 * 2 * 2 / 3, and each of 5 roundings
                 * costs 2^-24 of their sum. */
                assert_true(fabs(wide[i] - (double)narrow[i]) <
                            3 * 6.0 * 5 * 0x1p-24);
            }
        }
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* A rule that keeps every direction keeps every byte of every tensor. */
static void test_full_rank(void **state)
{
    static const lora_rank_rule rules[] = {{LORA_RANK_FIXED, 3, 0.0},
                                           {LORA_RANK_FIXED, 100, 0.0},
                                           {LORA_RANK_THRESHOLD, 0, 0.0}};

    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        image im;
        lora_adapter *adapter;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        for (size_t i = 0; i < COUNT(rules); i++) {
            lora_adapter *out;
            assert_int_equal(
                lora_adapter_resize(&out, NULL, adapter, &rules[i], NULL, NULL),
                LORA_OK);
            assert_same_file(out, adapter);
            lora_adapter_destroy(out);
        }
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* What was dropped is what is missing, and no rank-2 result can be nearer
 * than the third singular value. */
static void test_error_is_measured(void **state)
{
    const lora_rank_rule two = {LORA_RANK_FIXED, 2, 0.0};

    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        image im;
        lora_adapter *adapter;
        lora_adapter *out;
        lora_report *report;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        assert_int_equal(
            lora_adapter_resize(&out, &report, adapter, &two, NULL, NULL),
            LORA_OK);
        for (size_t m = 0; m < 3; m++) {
            lora_report_module numbers = {.struct_size = sizeof numbers};
            double before[MOST];
            double after[MOST];
            double sum = 0.0;
            double all = 0.0;
            size_t count;

            assert_int_equal(lora_report_get_module(&numbers, report, m, NULL),
                             LORA_OK);
            count = dense(before, adapter, m, 1.0, 1);
            dense(after, out, module_at(out, numbers.name), 1.0, 1);
            for (size_t i = 0; i < count; i++) {
                double x = before[i] - after[i];
                sum += x * x;
                all += before[i] * before[i];
            }
            /* The report's own error is about 1e-16 of the whole. */
            assert_true(fabs(sqrt(sum) - numbers.error) <=
                        1e-7 * sqrt(all) + 1e-9 * sqrt(sum));
            assert_true(numbers.error >= numbers.sigma[2] * (1.0 - 1e-9));
            assert_true(numbers.error <=
                        numbers.sigma[2] + 1e-6 * numbers.sigma[0]);
            assert_true(fabs(numbers.energy - (1.0 - sum / all)) < 1e-9);
        }
        lora_report_destroy(report);
        lora_adapter_destroy(out);
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* Cutting twice is cutting once, to the roundings of the file's type. */
static void test_twice(void **state)
{
    const lora_rank_rule two = {LORA_RANK_FIXED, 2, 0.0};
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};

    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        image im;
        lora_adapter *adapter;
        lora_adapter *first;
        lora_adapter *second;
        lora_adapter *direct;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        assert_int_equal(
            lora_adapter_resize(&first, NULL, adapter, &two, NULL, NULL),
            LORA_OK);
        assert_int_equal(
            lora_adapter_resize(&second, NULL, first, &one, NULL, NULL),
            LORA_OK);
        assert_int_equal(
            lora_adapter_resize(&direct, NULL, adapter, &one, NULL, NULL),
            LORA_OK);
        for (size_t m = 0; m < 3; m++) {
            double a[MOST];
            double b[MOST];
            double largest = 0.0;
            size_t count = dense(a, second, m, 1.0, 1);
            dense(b, direct, m, 1.0, 1);
            for (size_t i = 0; i < count; i++) {
                largest = fmax(largest, fabs(b[i]));
            }
            for (size_t i = 0; i < count; i++) {
                /* Directions turn by the rounding over the gap between
                 * sigma 1 and 2, which these seeds keep above 1/100. */
                assert_true(fabs(a[i] - b[i]) < 1e-4 * largest);
            }
        }
        lora_adapter_destroy(direct);
        lora_adapter_destroy(second);
        lora_adapter_destroy(first);
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* Wider and back is the identity; save, load, save too. */
static void test_round_trips(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        lora_adapter_convert_options options;
        image im;
        lora_adapter *adapter;
        lora_adapter *wide;
        lora_adapter *back;
        lora_adapter *reread;
        unsigned char *file;
        size_t bytes;

        image_random(&im, seed);
        adapter = open_image(context, &im);
        lora_adapter_convert_options_init(&options, sizeof options);
        options.dtype = LORA_DTYPE_F64;
        assert_int_equal(lora_adapter_convert(&wide, adapter, &options, NULL),
                         LORA_OK);
        options.dtype = LORA_DTYPE_F32;
        assert_int_equal(lora_adapter_convert(&back, wide, &options, NULL),
                         LORA_OK);
        assert_same_file(back, adapter);
        file = saved_bytes(wide, &bytes);
        assert_int_equal(
            lora_adapter_open_memory(&reread, context, file, bytes, NULL, NULL),
            LORA_OK);
        assert_same_file(reread, wide);
        lora_adapter_destroy(reread);
        free(file);
        lora_adapter_destroy(back);
        lora_adapter_destroy(wide);
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
}

/* The factors multiplied out are the dense change. */
static void test_factors_make_delta(void **state)
{
    image im;
    lora_adapter *adapter;

    (void)state;
    image_random(&im, 5);
    adapter = open_image(context, &im);
    for (size_t m = 0; m < 3; m++) {
        double whole[MOST];
        double up[64];
        double down[256];
        int64_t rows;
        int64_t cols;
        int64_t rank;
        double scale;

        assert_int_equal(lora_adapter_factors(&rows, &cols, &rank, &scale, up,
                                              down, LORA_DTYPE_F64, adapter, m,
                                              NULL),
                         LORA_OK);
        assert_int_equal(dense(whole, adapter, m, 1.0, 1), rows * cols);
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < cols; j++) {
                double sum = 0.0;
                for (int64_t k = 0; k < rank; k++) {
                    sum = fma(up[i * rank + k], down[k * cols + j], sum);
                }
                assert_true(whole[i * cols + j] == sum * scale);
            }
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* With every instruction set left out the bits are the same, but for the
 * singular vectors, which promise equal bits per variant only. */
static void test_plain_cpu(void **state)
{
    lora_context_options options;
    lora_context *plain;
    image im;
    lora_adapter *a;
    lora_adapter *b;
    lora_adapter_convert_options convert;
    lora_adapter *half_a;
    lora_adapter *half_b;

    (void)state;
    lora_context_options_init(&options, sizeof options);
    options.disable_cpu = UINT32_MAX;
    assert_int_equal(lora_context_create(&plain, &options, NULL), LORA_OK);
    image_random(&im, 9);
    a = open_image(context, &im);
    b = open_image(plain, &im);
    for (size_t m = 0; m < 3; m++) {
        double x[MOST];
        double y[MOST];
        for (int wide = 0; wide < 2; wide++) {
            size_t count = dense(x, a, m, 0.7, wide);
            dense(y, b, m, 0.7, wide);
            assert_memory_equal(x, y, count * (wide ? 8 : 4));
        }
    }
    lora_adapter_convert_options_init(&convert, sizeof convert);
    convert.dtype = LORA_DTYPE_F16;
    convert.bake_alpha = 1;
    assert_int_equal(lora_adapter_convert(&half_a, a, &convert, NULL), LORA_OK);
    assert_int_equal(lora_adapter_convert(&half_b, b, &convert, NULL), LORA_OK);
    assert_same_file(half_a, half_b);
    lora_adapter_destroy(half_a);
    lora_adapter_destroy(half_b);
    lora_adapter_destroy(a);
    lora_adapter_destroy(b);
    lora_context_destroy(plain);
    image_free(&im);
}

static int set_up(void **state)
{
    (void)state;
    context = plain_context();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lora_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strength),
        cmocka_unit_test(test_precision),
        cmocka_unit_test(test_full_rank),
        cmocka_unit_test(test_error_is_measured),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_factors_make_delta),
        cmocka_unit_test(test_plain_cpu),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
