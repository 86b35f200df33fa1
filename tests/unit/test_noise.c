/* The rounding noise of a difference: the spacing of every type by its own
 * codes, the formula by hand, and cases of numpy float64 where they lie beside
 * the tree or in the folder given as argument.
 */
#include "checkpoints.h"

#include "kernel/kernel.h"
#include "op/noise.h"

#include <math.h>

static heap memory;
static lora_context *context;
static const char *folder = "../shared/golden/more";

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_context(&memory, context);
    return 0;
}

/* sigma of rows, some at a time. */
static double sigma_of(const float *values,
                       size_t rows,
                       size_t columns,
                       lora_dtype dtype,
                       double unit,
                       size_t step)
{
    lora__noise noise;
    double sigma;

    assert_int_equal(
        lora__noise_begin(&noise, context, dtype, unit, columns, NULL),
        LORA_OK);
    for (size_t i = 0; i < rows; i += step) {
        lora__noise_add(&noise, values + i * columns,
                        rows - i < step ? rows - i : step);
    }
    sigma = lora__noise_sigma(&noise);
    lora__noise_end(&noise);
    lora__noise_end(&noise);
    return sigma;
}

/* Of one value sigma is twice the spacing over the root of 12: 4 roundings. */
static void check_spacing(double value, double spacing, lora_dtype dtype)
{
    float one = (float)value;
    double want = 2 * spacing / sqrt(12.0);
    double got = sigma_of(&one, 1, 1, dtype, 1, 1);

    if (!(fabs(got - want) <= 1e-15 * want)) {
        fail_msg("%s: %g at %g, not %g", lora_dtype_name(dtype), got, value,
                 want);
    }
}

/* From each code to the next one, all that are finite. */
static void spacings_are_those_of_codes(void **state)
{
    static const struct {
        lora_dtype dtype;
        uint32_t most; /* code of the largest finite number */
    } types[] = {
        {LORA_DTYPE_F16, 0x7BFF},       {LORA_DTYPE_BF16, 0x7F7F},
        {LORA_DTYPE_F8_E4M3, 0x7E},     {LORA_DTYPE_F8_E5M2, 0x7B},
        {LORA_DTYPE_F8_E4M3FNUZ, 0x7F}, {LORA_DTYPE_F8_E5M2FNUZ, 0x7F},
    };
    const lora__kernels *kernels = lora__kernels_get(0);

    (void)state;
    for (size_t t = 0; t < COUNT(types); t++) {
        double last = 0;
        double spacing = 0;

        for (uint32_t code = 0; code <= types[t].most; code++) {
            unsigned char stored[8];
            double next;
            put_length(stored, code + 1);
            assert_int_equal(lora__convert_to_f64(&next, stored, types[t].dtype,
                                                  1, kernels, NULL),
                             LORA_OK);
            /* The largest number has the spacing of the one before. */
            if (code < types[t].most) {
                spacing = next - last;
            }
            check_spacing(last, spacing, types[t].dtype);
            check_spacing(-last, spacing, types[t].dtype);
            last = next;
        }
        /* What is not finite counts as the largest. */
        check_spacing(INFINITY, spacing, types[t].dtype);
        check_spacing(NAN, spacing, types[t].dtype);
    }
}

static void wide_spacings(void **state)
{
    (void)state;
    check_spacing(1, 0x1p-23, LORA_DTYPE_F32);
    check_spacing(1.75, 0x1p-23, LORA_DTYPE_F32);
    check_spacing(0, 0x1p-149, LORA_DTYPE_F32);
    check_spacing(0x1p-140, 0x1p-149, LORA_DTYPE_F32);
    check_spacing(0x1p127, 0x1p104, LORA_DTYPE_F32);
    check_spacing(-3, 0x1p-51, LORA_DTYPE_F64);
}

/* ulp in F16:  2^-10  2^-24      rows: 2^-20 + 2^-48, 2^-18 + 2^-48
 *              2^-9   2^-24      columns: 2^-20 + 2^-18, 2^-47 */
static void the_formula_by_hand(void **state)
{
    static const float values[] = {1, 0, -3, 0x1p-20F};
    const double want =
        (sqrt(0x1p-18 + 0x1p-48) + sqrt(0x1p-20 + 0x1p-18)) / sqrt(12.0);
    const double got = sigma_of(values, 2, 2, LORA_DTYPE_F16, 1, 2);
    static const float scaled[] = {0.375F, 0, -1.125F, 0.375F * 0x1p-20F};

    (void)state;
    assert_true(fabs(got - want) <= 1e-15 * want);
    assert_true(got == sigma_of(values, 2, 2, LORA_DTYPE_F16, 1, 1));
    /* Times a number, so is the noise. */
    assert_true(fabs(sigma_of(scaled, 2, 2, LORA_DTYPE_F16, 0.375, 1) -
                     0.375 * want) <= 1e-15 * want);
    assert_true(sigma_of(values, 0, 2, LORA_DTYPE_F16, 1, 1) == 0);
    assert_true(sigma_of(values, 0, 0, LORA_DTYPE_F16, 1, 1) == 0);
}

static void coarser_has_fewer_bits(void **state)
{
    static const lora_dtype order[] = {
        LORA_DTYPE_F64,  LORA_DTYPE_F32,     LORA_DTYPE_F16,
        LORA_DTYPE_BF16, LORA_DTYPE_F8_E4M3, LORA_DTYPE_F8_E5M2,
    };
    lora__noise noise;

    (void)state;
    for (size_t i = 0; i < COUNT(order); i++) {
        for (size_t j = 0; j < COUNT(order); j++) {
            assert_int_equal(lora__noise_is_coarser(order[i], order[j]), i > j);
        }
    }
    assert_int_equal(lora__noise_is_coarser(LORA_DTYPE_I8, LORA_DTYPE_F32), 0);
    assert_int_equal(lora__noise_is_coarser(LORA_DTYPE_F16, LORA_DTYPE_I8), 0);
    assert_int_equal(
        lora__noise_begin(&noise, context, LORA_DTYPE_I8, 1, 4, NULL),
        LORA_ERROR_DTYPE);
    lora__noise_end(&noise);
    memory.countdown = 0;
    assert_int_equal(
        lora__noise_begin(&noise, context, LORA_DTYPE_F16, 1, 4, NULL),
        LORA_ERROR_MEMORY);
    lora__noise_end(&noise);
}

/* Numpy's ------------------------------------------------------------------
 */

#define DOWN "unet.down_blocks.0.attentions.0.transformer_blocks.0."

/* sigma as the formula in F64 has it, and how many singular values of the
 * difference are above. */
static const struct {
    const char *id;
    const char *tensor;
    double sigma;
    size_t rank;
} golden[] = {
    {"floor_f16", DOWN "attn1.to_q.weight", 0.00019040371452674776, 3},
    {"floor_f16", DOWN "attn1.to_k.weight", 0.00019121364730385245, 0},
    {"floor_f16", DOWN "attn2.to_v.weight", 0.00018576308387653953, 0},
    {"floor_f16", "unet.down_blocks.1.resnets.0.conv1.weight",
     0.00019326762564301253, 2},
    {"floor_f16", "unet.down_blocks.1.resnets.0.conv2.weight",
     0.00018824065854409973, 0},
    {"floor_f16", DOWN "attn1.to_out.0.bias", 9.935808573124409e-05, 0},
    {"floor_bf16", DOWN "attn1.to_q.weight", 0.000610656504143441, 4},
    {"floor_bf16", DOWN "attn1.to_k.weight", 0.0005793717042147597, 0},
    {"floor_base16", DOWN "attn1.to_q.weight", 0.0003075908410397881, 2},
    {"floor_base16", DOWN "attn1.to_k.weight", 0.0003309466145088677, 0},
    {"floor_rows", DOWN "attn1.to_q.weight", 0.00033209496311998606, 2},
    {"floor_rows", DOWN "attn1.to_k.weight", 0.0003402027945329544, 0},
    {"floor_rows", "unet.down_blocks.1.resnets.0.conv1.weight",
     0.00037325661610295514, 0},
    {"floor_same", DOWN "attn1.to_q.weight", 0.0015499489684636925, 2},
    {"floor_same", DOWN "attn1.to_k.weight", 0.0012161441805595458, 0},
};

static lora__checkpoint *open_golden(const char *id, const char *which)
{
    lora__checkpoint *c;
    char path[1024];

    snprintf(path, sizeof path, "%s/%s.%s.safetensors", folder, id, which);
    if (lora__checkpoint_open(&c, context, path, 0, NULL) != LORA_OK) {
        return NULL;
    }
    return c;
}

static float *
read_all(lora__holding *out, const lora__checkpoint *c, const char *name)
{
    size_t index = 0;
    float *values;

    assert_true(lora__checkpoint_find(&index, c, name, strlen(name)));
    assert_int_equal(lora__checkpoint_hold(out, c, index, NULL, NULL), LORA_OK);
    values = malloc((size_t)(out->rows * out->columns) * sizeof *values);
    assert_non_null(values);
    assert_int_equal(lora__checkpoint_read_rows(values, LORA_DTYPE_F32, c, out,
                                                0, (size_t)out->rows, NULL),
                     LORA_OK);
    return values;
}

static void check_golden(size_t i,
                         const lora__checkpoint *base,
                         const lora__checkpoint *tuned,
                         const lora__checkpoint *expect)
{
    lora_dtype from = base->tensors[0].entry->dtype;
    lora_dtype to = tuned->tensors[0].entry->dtype;
    int at_base = lora__noise_is_coarser(from, to);
    lora__holding hold;
    float *values = read_all(&hold, at_base ? base : tuned, golden[i].tensor);
    double sigma = sigma_of(values, (size_t)hold.rows, (size_t)hold.columns,
                            at_base ? from : to, 1, 7);
    char name[256];
    size_t above = 0;

    free(values);
    /* Sums of at most 3,600 terms, in any order. */
    assert_true(fabs(sigma - golden[i].sigma) <= 1e-12 * sigma);
    snprintf(name, sizeof name, "%s.sigma", golden[i].tensor);
    values = read_all(&hold, expect, name);
    for (uint64_t k = 0; k < hold.rows; k++) {
        above += (double)values[k] > sigma;
    }
    free(values);
    assert_int_equal(above, golden[i].rank);
}

static void numpy_agrees(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(golden); i++) {
        lora__checkpoint *base = open_golden(golden[i].id, "base");
        lora__checkpoint *tuned = open_golden(golden[i].id, "tuned");
        lora__checkpoint *expect = open_golden(golden[i].id, "expect");

        if (base == NULL || tuned == NULL || expect == NULL) {
            assert_int_equal(i, 0);
            skip();
        }
        check_golden(i, base, tuned, expect);
        lora__checkpoint_release(base);
        lora__checkpoint_release(tuned);
        lora__checkpoint_release(expect);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spacings_are_those_of_codes),
        cmocka_unit_test(wide_spacings),
        cmocka_unit_test(the_formula_by_hand),
        cmocka_unit_test(coarser_has_fewer_bits),
        cmocka_unit_test(numpy_agrees),
    };

    folder = argc > 1 ? argv[1] : folder;
    return cmocka_run_group_tests(tests, begin, end);
}
