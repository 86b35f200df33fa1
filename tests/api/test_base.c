/* Changes that depend on the base weight, given as tensors of the caller's:
 * numbers written by hand from the formulas, the same rows in any pieces, and
 * every refusal. */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/based.h"

static lora_context *context;

/* W, [2, 3], and the biases of its rows. */
static const float weight_f32[6] = {1.0f, 2.0f, 3.0f, -4.0f, 5.0f, 0.5f};
static const double weight_f64[6] = {1.0, 2.0, 3.0, -4.0, 5.0, 0.5};
static const unsigned char weight_bf16[12] = {
    0x80, 0x3F, 0x00, 0x40, 0x40, 0x40, 0x80, 0xC0, 0xA0, 0x40, 0x00, 0x3F};
static const float bias_f32[2] = {8.0f, -2.0f};

static lora_tensor
view(const void *data, uint64_t bytes, lora_dtype dtype, int64_t a, int64_t b)
{
    lora_tensor tensor = {0};

    tensor.data = data;
    tensor.bytes = bytes;
    tensor.shape[0] = a;
    tensor.shape[1] = b;
    tensor.ndim = b == 0 ? 1 : 2;
    tensor.dtype = dtype;
    return tensor;
}

/* The module of a name's last letter. */
static size_t module_of(const lora_adapter *adapter, char letter)
{
    lora_module_info info;
    size_t count = lora_adapter_module_count(adapter);

    for (size_t i = 0; i < count; i++) {
        info.struct_size = sizeof info;
        assert_int_equal(lora_adapter_get_module(&info, adapter, i, NULL),
                         LORA_OK);
        if (info.name[strlen(info.name) - 1] == letter) {
            return i;
        }
    }
    fail();
    return 0;
}

static void expect(const lora_adapter *adapter,
                   char letter,
                   double strength,
                   const lora_tensor *weight,
                   const double change[6])
{
    const size_t index = module_of(adapter, letter);
    lora_adapter_delta_base_options options;
    lora_error error;
    double whole[6];
    double row[3];
    float narrow[6];

    lora_adapter_delta_base_options_init(&options, sizeof options);
    for (uint32_t weights = 0; weights < 2; weights++) {
        options.weights = weights;
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(whole, sizeof whole, adapter, index,
                                      LORA_PART_WEIGHT, strength,
                                      LORA_DTYPE_F64, 0, 2, weight, NULL,
                                      &options, &error));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(narrow, sizeof narrow, adapter, index,
                                      LORA_PART_WEIGHT, strength,
                                      LORA_DTYPE_F32, 0, 2, weight, NULL,
                                      &options, &error));
        for (int i = 0; i < 6; i++) {
            double want = change[i] + (weights ? weight_f64[i] : 0.0);
            assert_true(whole[i] == want);
            assert_true(narrow[i] == (float)want);
        }
        for (int64_t i = 0; i < 2; i++) {
            CHECK(LORA_OK, LORA_NO_OFFSET, "",
                  lora_adapter_delta_base(row, sizeof row, adapter, index,
                                          LORA_PART_WEIGHT, strength,
                                          LORA_DTYPE_F64, i, i + 1, weight,
                                          NULL, &options, &error));
            assert_memory_equal(row, whole + 3 * i, sizeof row);
        }
    }
}

/* All numbers are sums of halves: every type holds them. */
static void test_changes(void **state)
{
    static const double glora[6] = {/* 0.5 ([7, -3] [0, 2, 1] + ...) */
                                    1.5, 7.0, 4.0, -1.5, -3.0, -2.0};
    static const double glora_double[6] = {3.0, 14.0, 8.0, -3.0, -6.0, -4.0};
    static const double inputs[6] = {2.0, 0.0, -3.0, -8.0, 0.0, -0.5};
    static const double inputs_half[6] = {1.0, 0.0, -1.5, -4.0, 0.0, -0.25};
    static const double rows[6] = {0.5, 1.0, 1.5, 4.0, -5.0, -0.5};
    static const double rows_back[6] = {-0.5, -1.0, -1.5, -4.0, 5.0, 0.5};
    static const double lora[6] = {0.0, 2.0, 1.0, 0.0, -2.0, -1.0};
    static const double peft[6] = {0.5, 1.0, 1.5, 4.0, -5.0, -0.5};
    const lora_tensor bases[] = {
        view(weight_f32, sizeof weight_f32, LORA_DTYPE_F32, 2, 3),
        view(weight_f64, sizeof weight_f64, LORA_DTYPE_F64, 2, 3),
        view(weight_bf16, sizeof weight_bf16, LORA_DTYPE_BF16, 2, 3),
    };
    image im;
    lora_adapter *adapter;

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    for (size_t i = 0; i < COUNT(bases); i++) {
        expect(adapter, 'a', 1.0, &bases[i], glora);
        expect(adapter, 'a', 2.0, &bases[i], glora_double);
        expect(adapter, 'b', 1.0, &bases[i], inputs);
        expect(adapter, 'b', 0.5, &bases[i], inputs_half);
        expect(adapter, 'c', 1.0, &bases[i], lora);
        expect(adapter, 'd', 1.0, &bases[i], rows);
        expect(adapter, 'd', -1.0, &bases[i], rows_back);
        expect(adapter, 'e', 1.0, &bases[i], peft);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_bias(void **state)
{
    const lora_tensor bias =
        view(bias_f32, sizeof bias_f32, LORA_DTYPE_F32, 2, 0);
    lora_adapter_delta_base_options options;
    lora_adapter *adapter;
    lora_error error;
    image im;
    float got[2];
    size_t index;

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    index = module_of(adapter, 'e');
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_delta_base(got, sizeof got, adapter, index,
                                  LORA_PART_BIAS, 1.0, LORA_DTYPE_F32, 0, 2,
                                  NULL, &bias, NULL, &error));
    assert_true(got[0] == 4.0f && got[1] == 2.0f);
    lora_adapter_delta_base_options_init(&options, sizeof options);
    options.weights = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_delta_base(got, sizeof got, adapter, index,
                                  LORA_PART_BIAS, 1.0, LORA_DTYPE_F32, 0, 2,
                                  NULL, &bias, &options, &error));
    assert_true(got[0] == 12.0f && got[1] == 0.0f);
    /* LyCORIS leaves biases alone. */
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_d",
          lora_adapter_delta_base(
              got, sizeof got, adapter, module_of(adapter, 'd'), LORA_PART_BIAS,
              1.0, LORA_DTYPE_F32, 0, 2, NULL, &bias, NULL, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* A pair whose change is 0, with magnitudes of rows under either name, and of
 * inputs. */
static void image_dora(image *im)
{
    static const float up[2] = {0.0f, 0.0f};
    static const float down[2] = {1.0f, 1.0f};
    static const float magnitudes[2] = {10.0f, 2.0f};

    image_begin(im, NULL);
    image_f32(im, "base_model.model.p.lora_A.weight", "1,2", down, 2);
    image_f32(im, "base_model.model.p.lora_B.weight", "2,1", up, 2);
    image_f32(im, "base_model.model.p.lora_magnitude_vector", "2", magnitudes,
              2);
    image_f32(im, "lora_unet_i.dora_scale", "1,2", magnitudes, 2);
    image_f32(im, "lora_unet_i.lora_down.weight", "1,2", down, 2);
    image_f32(im, "lora_unet_i.lora_up.weight", "2,1", up, 2);
    image_f32(im, "lora_unet_o.dora_scale", "2,1", magnitudes, 2);
    image_f32(im, "lora_unet_o.lora_down.weight", "1,2", down, 2);
    image_f32(im, "lora_unet_o.lora_up.weight", "2,1", up, 2);
    image_end(im);
}

static void expect_dora(const lora_adapter *adapter,
                        char letter,
                        double strength,
                        lora_strength_rule rule,
                        lora_dora_rule dora,
                        const double base[4],
                        const double want[4])
{
    const lora_tensor weight =
        view(base, 4 * sizeof *base, LORA_DTYPE_F64, 2, 2);
    lora_adapter_delta_base_options options;
    lora_error error;
    double got[4];

    lora_adapter_delta_base_options_init(&options, sizeof options);
    options.strength_rule = rule;
    options.dora_rule = dora;
    options.weights = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_delta_base(got, sizeof got, adapter,
                                  module_of(adapter, letter), LORA_PART_WEIGHT,
                                  strength, LORA_DTYPE_F64, 0, 2, &weight, NULL,
                                  &options, &error));
    for (int i = 0; i < 4; i++) {
        assert_true(got[i] - want[i] < 1e-14 && want[i] - got[i] < 1e-14);
    }
}

static void test_dora(void **state)
{
    enum {
        OWN = LORA_DORA_ORIGIN,
        LYCORIS = LORA_DORA_LYCORIS,
        PEFT = LORA_DORA_PEFT,
        ORIGIN = LORA_STRENGTH_ORIGIN,
        BETWEEN = LORA_STRENGTH_INTERPOLATE
    };
    static const double base[4] = {3.0, 4.0, 0.0, 2.0};
    static const double whole[4] = {6.0, 8.0, 0.0, 2.0};
    static const double half[4] = {4.5, 6.0, 0.0, 2.0};
    static const double inputs[4] = {/* 2 / sqrt(20) for the second */
                                     10.0, 1.7888543819998317, 0.0,
                                     0.8944271909999159};
    static const double dead[4] = {0.0, 0.0, 0.0, 2.0};
    lora_adapter *adapter;
    image im;

    (void)state;
    image_dora(&im);
    adapter = open_image(context, &im);
    expect_dora(adapter, 'o', 1.0, ORIGIN, OWN, base, whole);
    expect_dora(adapter, 'o', 0.5, ORIGIN, OWN, base, half);
    expect_dora(adapter, 'o', 0.5, BETWEEN, OWN, base, half);
    expect_dora(adapter, 'o', 0.5, ORIGIN, PEFT, base, whole);
    expect_dora(adapter, 'o', 0.5, BETWEEN, PEFT, base, half);
    expect_dora(adapter, 'o', 0.0, BETWEEN, OWN, base, base);
    expect_dora(adapter, 'p', 1.0, ORIGIN, OWN, base, whole);
    expect_dora(adapter, 'p', 0.5, ORIGIN, OWN, base, whole);
    expect_dora(adapter, 'p', 0.5, ORIGIN, LYCORIS, base, half);
    expect_dora(adapter, 'i', 1.0, ORIGIN, OWN, base, inputs);
    expect_dora(adapter, 'o', 1.0, ORIGIN, OWN, dead, dead);
    expect_dora(adapter, 'p', 1.0, ORIGIN, OWN, dead, dead);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static const lora_adapter *refused;

static lora_status refuse(char letter,
                          const lora_tensor *weight,
                          const lora_adapter_delta_base_options *options,
                          lora_error *error)
{
    double got[6];

    return lora_adapter_delta_base(
        got, sizeof got, refused, module_of(refused, letter), LORA_PART_WEIGHT,
        1.0, LORA_DTYPE_F64, 0, 2, weight, NULL, options, error);
}

static void test_refused(void **state)
{
    const lora_tensor good =
        view(weight_f32, sizeof weight_f32, LORA_DTYPE_F32, 2, 3);
    const lora_tensor turned =
        view(weight_f32, sizeof weight_f32, LORA_DTYPE_F32, 3, 2);
    const lora_tensor flat =
        view(weight_f32, sizeof weight_f32, LORA_DTYPE_F32, 6, 0);
    const lora_tensor integers =
        view(weight_f32, sizeof weight_f32, LORA_DTYPE_I32, 2, 3);
    const lora_tensor nothing =
        view(NULL, sizeof weight_f32, LORA_DTYPE_F32, 2, 3);
    lora_tensor bad = good;
    lora_adapter_delta_base_options options;
    lora_adapter *adapter;
    lora_error error;
    image im;
    double got[6];

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    refused = adapter;
    for (const char *p = "abde"; *p != '\0'; p++) {
        CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
              refuse(*p, NULL, NULL, &error));
        CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
              refuse(*p, &turned, NULL, &error));
        CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
              refuse(*p, &flat, NULL, &error));
        CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, NULL,
              lora_adapter_delta(got, sizeof got, adapter,
                                 module_of(adapter, *p), LORA_PART_WEIGHT, 1.0,
                                 LORA_DTYPE_F64, 0, 2, &error));
    }
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "weight",
          refuse('b', &integers, NULL, &error));
    CHECK_ARGUMENT(refuse('b', &nothing, NULL, &error));
    bad.bytes--;
    CHECK_ARGUMENT(refuse('b', &bad, NULL, &error));
    bad = good;
    bad.shape[1] = 0;
    CHECK_ARGUMENT(refuse('b', &bad, NULL, &error));
    bad.ndim = LORA_MAX_DIMS + 1;
    CHECK_ARGUMENT(refuse('b', &bad, NULL, &error));
    bad.ndim = 0;
    CHECK_ARGUMENT(refuse('b', &bad, NULL, &error));
    lora_adapter_delta_base_options_init(&options, sizeof options);
    options.strength_rule = 2;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          refuse('b', &good, &options, &error));
    options.strength_rule = LORA_STRENGTH_INTERPOLATE;
    options.dora_rule = 3;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          refuse('b', &good, &options, &error));
    options.dora_rule = 0;
    CHECK(LORA_OK, LORA_NO_OFFSET, "", refuse('b', &good, &options, &error));
    /* What does not need the weight does without, but not to change it. */
    CHECK(LORA_OK, LORA_NO_OFFSET, "", refuse('c', NULL, NULL, &error));
    options.weights = 1;
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "lora_unet_c",
          refuse('c', NULL, &options, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_delta_base(got, sizeof got, adapter,
                                  module_of(adapter, 'b'), LORA_PART_WEIGHT,
                                  1.0, LORA_DTYPE_F64, 1, 3, &good, NULL, NULL,
                                  &error));
    CHECK_ARGUMENT(lora_adapter_delta_base(
        got, sizeof got - 8, adapter, module_of(adapter, 'b'), LORA_PART_WEIGHT,
        1.0, LORA_DTYPE_F64, 0, 2, &good, NULL, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_delta_base(
        NULL, sizeof got, adapter, 0, LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F64, 0,
        2, &good, NULL, NULL, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* What a module of a result changes without a base. */
static void expect_made(const lora_adapter *adapter,
                        char name,
                        lora_part part,
                        const double *expected,
                        size_t count)
{
    lora_error error;
    double got[6];

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_delta(got, count * sizeof *got, adapter,
                             module_of(adapter, name), part, 1.0,
                             LORA_DTYPE_F64, 0, 2, &error));
    for (size_t i = 0; i < count; i++) {
        assert_true(got[i] == expected[i]);
    }
}

/* Numbers are such that nothing is rounded. */
static void test_convert(void **state)
{
    static const double glora[6] = {1.5, 7.0, 4.0, -1.5, -3.0, -2.0};
    static const double inputs[6] = {2.0, 0.0, -3.0, -8.0, 0.0, -0.5};
    static const double rows[6] = {0.5, 1.0, 1.5, 4.0, -5.0, -0.5};
    static const double set[6] = {0.0, -2.0, -1.0, 4.0, -2.0, -0.5};
    static const double bias[2] = {4.0, 2.0};
    lora_adapter *adapter;
    lora_adapter *out;
    lora_report *report;
    lora_report_module row = {.struct_size = sizeof row};
    lora_error error;
    image im;

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          based_convert(&out, &report, adapter, "lora", NULL, &error));
    assert_int_equal(lora_adapter_module_count(out), 10);
    expect_made(out, 'a', LORA_PART_WEIGHT, glora, 6);
    expect_made(out, 'b', LORA_PART_WEIGHT, inputs, 6);
    expect_made(out, 'd', LORA_PART_WEIGHT, rows, 6);
    expect_made(out, 'e', LORA_PART_WEIGHT, rows, 6);
    expect_made(out, 'e', LORA_PART_BIAS, bias, 2);
    expect_made(out, 'h', LORA_PART_WEIGHT, set, 6);
    assert_int_equal(lora_report_module_count(report), 10);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_report_get_module(&row, report, module_of(out, 'b'), &error));
    assert_true(row.rank_out == 2 && row.energy == 1.0 && row.error == 0.0);
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Differences are computed when they are read: after the adapter they are of is
 * closed, in pieces, in any order, by several readings at once. */
static void test_full(void **state)
{
    static const double inputs[6] = {2.0, 0.0, -3.0, -8.0, 0.0, -0.5};
    lora_adapter_convert_options options;
    lora_tensor_info info = {.struct_size = sizeof info};
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter *again;
    lora_report *report;
    lora_error error;
    float got[6];
    image im;
    size_t index = 0;

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          based_convert(&out, &report, adapter, "full", NULL, &error));
    lora_adapter_destroy(adapter);
    assert_int_equal(lora_report_module_count(report), 8);
    lora_report_destroy(report);
    expect_made(out, 'b', LORA_PART_WEIGHT, inputs, 6);
    do {
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_get_tensor_info(&info, out, index++, &error));
    } while (strcmp(info.name, "lora_unet_b.diff") != 0);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_read_tensor(got, sizeof got, out, index - 1,
                                   LORA_DTYPE_F32, &error));
    for (size_t i = 0; i < 6; i++) {
        assert_true((double)got[i] == inputs[i]);
    }
    lora_adapter_convert_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_F16; /* computed from what is computed */
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_convert(&again, out, &options, &error));
    lora_adapter_destroy(out);
    expect_made(again, 'b', LORA_PART_WEIGHT, inputs, 6);
    lora_adapter_destroy(again);
    image_free(&im);
}

static void test_convert_refused(void **state)
{
    static const lora_rank_rule rule = {LORA_RANK_FIXED, 1, 0.0};
    static const lora_rank_rule size = {LORA_RANK_SIZE, 0, 100.0};
    static const char *const drop[] = {"lora_unet_i"};
    lora_adapter_convert_options options;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_report *report;
    lora_error error;
    image im;

    (void)state;
    image_based(&im);
    adapter = open_image(context, &im);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.kind = "lora";
    options.drops = drop;
    options.drop_count = 1;
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "base_model.model.e",
          lora_adapter_convert(&out, adapter, &options, &error));
    assert_null(out);
    options.base = based_path();
    options.rule = &size;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "size",
          lora_adapter_convert(&out, adapter, &options, &error));
    assert_null(out);
    options.rule = &rule;
    options.rank = 1;
    CHECK_ARGUMENT(lora_adapter_convert(&out, adapter, &options, &error));
    options.rank = 0;
    options.kind = NULL;
    CHECK_ARGUMENT(lora_adapter_convert(&out, adapter, &options, &error));
    options.rule = NULL;
    CHECK_ARGUMENT(lora_adapter_convert(&out, adapter, &options, &error));
    options.base = NULL; /* no kind, no report */
    CHECK(
        LORA_OK, LORA_NO_OFFSET, "",
        lora_adapter_convert_report(&out, &report, adapter, &options, &error));
    assert_null(report);
    lora_adapter_destroy(out);
    options.kind = "lora";
    options.base = in_folder("none.safetensors");
    CHECK(
        LORA_ERROR_IO, LORA_NO_OFFSET, in_folder("none.safetensors"),
        lora_adapter_convert_report(&out, &report, adapter, &options, &error));
    assert_true(out == NULL && report == NULL);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static int set_up(void **state)
{
    context = plain_context();
    return folder_make(state);
}

static int tear_down(void **state)
{
    lora_context_destroy(context);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_dora),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_convert_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
