/* Dense changes and factors, against plain loops written from the formulas. */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#include "api/reader.h"

static lora_context *context;

/* One module of each shape, factors that F32 holds with bits to spare but
 * whose sums need rounding. */
enum { ROWS = 5, IN = 3, KERNEL = 6, COLS = IN * KERNEL, RANK = 4, INNER = 2 };

static float up[ROWS * RANK];
static float down[RANK * COLS];
static float mid[RANK * INNER * KERNEL];
static float small_down[INNER * IN];
static float bias[ROWS];
static float full[ROWS * COLS];

static void rough_numbers(float *out, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = ((float)(seed >> 8) / 16777216.0f - 0.5f) * 3.0f;
    }
}

static void image_kinds(image *im)
{
    const float alpha = 3.0f;
    const float gate = 0.7f;

    rough_numbers(up, COUNT(up), 1);
    rough_numbers(down, COUNT(down), 2);
    rough_numbers(mid, COUNT(mid), 3);
    rough_numbers(small_down, COUNT(small_down), 4);
    rough_numbers(bias, COUNT(bias), 5);
    rough_numbers(full, COUNT(full), 6);
    image_begin(im, NULL);
    image_f32(im, "lora_unet_a.alpha", "", &alpha, 1);
    image_f32(im, "lora_unet_a.lora_down.weight", "4,18", down, COUNT(down));
    image_f32(im, "lora_unet_a.lora_up.weight", "5,4", up, COUNT(up));
    image_f32(im, "lora_unet_b.alpha", "1", &alpha, 1);
    image_f32(im, "lora_unet_b.lora_down.weight", "4,3,3,2", down, COUNT(down));
    image_f32(im, "lora_unet_b.lora_up.weight", "5,4,1,1", up, COUNT(up));
    image_f32(im, "lora_unet_b.scalar", "", &gate, 1);
    image_f32(im, "lora_unet_c.lora_down.weight", "2,3,1,1", small_down,
              COUNT(small_down));
    image_f32(im, "lora_unet_c.lora_mid.weight", "4,2,3,2", mid, COUNT(mid));
    image_f32(im, "lora_unet_c.lora_up.weight", "5,4,1,1", up, COUNT(up));
    image_f32(im, "lora_unet_d.alpha", "", &alpha, 1);
    image_f32(im, "lora_unet_d.diff", "5,3,3,2", full, COUNT(full));
    image_f32(im, "lora_unet_d.diff_b", "5", bias, COUNT(bias));
    image_f32(im, "lora_unet_e.b_norm", "5", bias, COUNT(bias));
    image_f32(im, "lora_unet_e.w_norm", "5", full, 5);
    image_end(im);
}

/* The factors of a module as its formula has them, the core multiplied in. */
static void plain_down(double *out, char module)
{
    for (int i = 0; i < RANK; i++) {
        for (int q = 0; q < IN; q++) {
            for (int x = 0; x < KERNEL; x++) {
                int at = i * COLS + q * KERNEL + x;
                double sum = 0.0;
                if (module != 'c') {
                    out[at] = down[at];
                    continue;
                }
                for (int j = 0; j < INNER; j++) {
                    sum = fma(small_down[j * IN + q],
                              mid[(i * INNER + j) * KERNEL + x], sum);
                }
                out[at] = sum;
            }
        }
    }
}

static double plain_scale(char module)
{
    return module == 'a'   ? 3.0 / RANK
           : module == 'b' ? 3.0 / RANK * (double)0.7f
                           : 1.0;
}

/* Each element one accumulator, k ascending, fused, then one product: the
 * same bits. In F32 for the modules without a core. */
static void test_bits(void **state)
{
    const double strength = 0.9;
    image im;
    lora_adapter *adapter;

    (void)state;
    image_kinds(&im);
    adapter = open_image(context, &im);
    for (char m = 'a'; m <= 'c'; m++) {
        const char name[] = {'l', 'o', 'r', 'a', '_', 'u',
                             'n', 'e', 't', '_', m,   '\0'};
        double wide_down[RANK * COLS];
        double wide[ROWS * COLS];
        float narrow[ROWS * COLS];
        size_t index = module_at(adapter, name);
        double by = strength * plain_scale(m);

        plain_down(wide_down, m);
        assert_int_equal(lora_adapter_delta(wide, sizeof wide, adapter, index,
                                            LORA_PART_WEIGHT, strength,
                                            LORA_DTYPE_F64, 0, ROWS, NULL),
                         LORA_OK);
        assert_int_equal(lora_adapter_delta(narrow, sizeof narrow, adapter,
                                            index, LORA_PART_WEIGHT, strength,
                                            LORA_DTYPE_F32, 0, ROWS, NULL),
                         LORA_OK);
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < COLS; j++) {
                double sum = 0.0;
                float short_sum = 0.0f;
                for (int k = 0; k < RANK; k++) {
                    sum = fma(up[i * RANK + k], wide_down[k * COLS + j], sum);
                    short_sum = fmaf(up[i * RANK + k],
                                     (float)wide_down[k * COLS + j], short_sum);
                }
                assert_true(wide[i * COLS + j] == sum * by);
                if (m != 'c') {
                    assert_true(narrow[i * COLS + j] == short_sum * (float)by);
                }
                assert_true(fabs((double)narrow[i * COLS + j] - sum * by) <
                            1e-5);
            }
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_dense_kinds(void **state)
{
    image im;
    lora_adapter *adapter;
    float weight[ROWS * COLS];
    float b[ROWS];
    size_t d;
    size_t e;

    (void)state;
    image_kinds(&im);
    adapter = open_image(context, &im);
    d = module_at(adapter, "lora_unet_d");
    e = module_at(adapter, "lora_unet_e");
    assert_int_equal(lora_adapter_delta(weight, sizeof weight, adapter, d,
                                        LORA_PART_WEIGHT, 0.5, LORA_DTYPE_F32,
                                        0, ROWS, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(full); i++) {
        assert_true(weight[i] == 0.5f * full[i]); /* alpha is ignored */
    }
    for (size_t m = 0; m < 2; m++) {
        assert_int_equal(lora_adapter_delta(b, sizeof b, adapter,
                                            m == 0 ? d : e, LORA_PART_BIAS,
                                            -2.0, LORA_DTYPE_F32, 0, ROWS,
                                            NULL),
                         LORA_OK);
        for (size_t i = 0; i < ROWS; i++) {
            assert_true(b[i] == -2.0f * bias[i]);
        }
    }
    assert_int_equal(lora_adapter_delta(weight, ROWS * sizeof *weight, adapter,
                                        e, LORA_PART_WEIGHT, 1.0,
                                        LORA_DTYPE_F32, 0, ROWS, NULL),
                     LORA_OK);
    assert_memory_equal(weight, full, ROWS * sizeof *weight);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* A pair with biases: b' - b = m * (diff_b + s * up_bias), in one rounding
 * after each step. */
static void test_biases_of_a_pair(void **state)
{
    const float alpha = 1.0f;
    image im;
    lora_adapter *adapter;
    float up_bias[ROWS];
    double wide[ROWS];
    float narrow[ROWS];

    (void)state;
    rough_numbers(bias, COUNT(bias), 5);
    rough_numbers(up_bias, COUNT(up_bias), 7);
    image_begin(&im, NULL);
    image_f32(&im, "lora_unet_a.alpha", "", &alpha, 1);
    image_f32(&im, "lora_unet_a.diff_b", "5", bias, ROWS);
    image_some(&im, "lora_unet_a.lora_down.weight", "2,3", 6, 1);
    image_f32(&im, "lora_unet_a.lora_up.bias", "5", up_bias, ROWS);
    image_some(&im, "lora_unet_a.lora_up.weight", "5,2", 10, 1);
    image_end(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_adapter_delta(wide, sizeof wide, adapter, 0,
                                        LORA_PART_BIAS, 0.3, LORA_DTYPE_F64, 0,
                                        ROWS, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_delta(narrow, sizeof narrow, adapter, 0,
                                        LORA_PART_BIAS, 0.3, LORA_DTYPE_F32, 0,
                                        ROWS, NULL),
                     LORA_OK);
    for (size_t i = 0; i < ROWS; i++) {
        double expected = 0.3 * fma(0.5, up_bias[i], bias[i]);
        assert_true(wide[i] == expected);
        assert_true(narrow[i] == (float)expected);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Rows in pieces are the rows of the whole; nothing else is written. */
static void test_row_ranges(void **state)
{
    image im;
    lora_adapter *adapter;
    float whole[ROWS * COLS];

    (void)state;
    image_kinds(&im);
    adapter = open_image(context, &im);
    for (size_t m = 0; m < 4; m++) {
        assert_int_equal(lora_adapter_delta(whole, sizeof whole, adapter, m,
                                            LORA_PART_WEIGHT, 1.0,
                                            LORA_DTYPE_F32, 0, ROWS, NULL),
                         LORA_OK);
        for (int64_t i = 0; i <= ROWS; i++) {
            for (int64_t j = i; j <= ROWS; j++) {
                float piece[ROWS * COLS + 1];
                size_t count = (size_t)(j - i) * COLS;
                memset(piece, 0xEE, sizeof piece);
                assert_int_equal(
                    lora_adapter_delta(piece, count * sizeof *piece, adapter, m,
                                       LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, i,
                                       j, NULL),
                    LORA_OK);
                assert_memory_equal(piece, whole + i * COLS,
                                    count * sizeof *piece);
                assert_int_equal(((unsigned char *)(piece + count))[0], 0xEE);
            }
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static lora_status delta(const lora_adapter *adapter,
                         size_t index,
                         lora_part part,
                         lora_dtype dtype,
                         int64_t begin,
                         int64_t end,
                         lora_error *error)
{
    unsigned char buffer[ROWS * COLS * sizeof(double)];
    size_t bytes = 0;

    if (begin >= 0 && end >= begin && end <= ROWS) {
        bytes = (size_t)(end - begin) * (part == LORA_PART_BIAS ? 1 : COLS) *
                (dtype == LORA_DTYPE_F64 ? 8 : 4);
    }
    return lora_adapter_delta(buffer, bytes, adapter, index, part, 1.0, dtype,
                              begin, end, error);
}

static void test_delta_refused(void **state)
{
    image im;
    lora_adapter *adapter;
    unsigned char buffer[ROWS * COLS * 4 + 4];
    lora_error error;

    (void)state;
    image_kinds(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, ROWS, &error));
    CHECK_ARGUMENT(
        delta(NULL, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, ROWS, &error));
    CHECK_ARGUMENT(delta(adapter, 0, 0, LORA_DTYPE_F32, 0, ROWS, &error));
    CHECK_ARGUMENT(delta(adapter, 0, 3, LORA_DTYPE_F32, 0, ROWS, &error));
    CHECK_ARGUMENT(lora_adapter_delta(NULL, 0, adapter, 0, LORA_PART_WEIGHT,
                                      1.0, LORA_DTYPE_F32, 0, 0, &error));
    for (size_t bytes = sizeof buffer - 8; bytes <= sizeof buffer; bytes += 8) {
        CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "lora_unet_a",
              lora_adapter_delta(buffer, bytes, adapter, 0, LORA_PART_WEIGHT,
                                 1.0, LORA_DTYPE_F32, 0, ROWS, &error));
    }
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          delta(adapter, 5, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, 1, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "lora_unet_a",
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, -1, 1, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "lora_unet_a",
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 2, 1, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "lora_unet_a",
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, ROWS + 1,
                &error));
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F16, 0, 1, &error));
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_NONE, 0, 1, &error));
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_a",
          delta(adapter, 0, LORA_PART_BIAS, LORA_DTYPE_F32, 0, ROWS, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* A module with half of a pair, one whose ranks differ, one of a kind that is
 * not computed yet, and a sound one. */
static void image_troubled(image *im)
{
    image_begin(im, NULL);
    image_some(im, "lora_unet_a.lora_down.weight", "2,3", 6, 1);
    image_some(im, "lora_unet_b.lora_down.weight", "2,3", 6, 1);
    image_some(im, "lora_unet_b.lora_up.weight", "2,3", 6, 1);
    image_some(im, "lora_unet_c.oft_blocks", "2,3,3", 18, 1);
    image_some(im, "lora_unet_d.lora_down.weight", "2,3", 6, 1);
    image_some(im, "lora_unet_d.lora_up.weight", "5,2", 10, 1);
    image_end(im);
}

static void test_troubled_modules(void **state)
{
    static const struct {
        const char *name;
        lora_status status; /* of the module, which operations answer */
        lora_status answer;
    } modules[] = {
        {"lora_unet_a", LORA_ERROR_KEY, LORA_ERROR_KEY},
        {"lora_unet_b", LORA_ERROR_SHAPE, LORA_ERROR_SHAPE},
        {"lora_unet_c", LORA_OK, LORA_ERROR_UNSUPPORTED},
    };
    lora_module_info info = {.struct_size = sizeof info};
    lora_adapter *adapter;
    lora_error error;
    float buffer[15];
    image im;

    (void)state;
    image_troubled(&im);
    adapter = open_image(context, &im);
    for (size_t i = 0; i < COUNT(modules); i++) {
        assert_int_equal(lora_adapter_get_module(&info, adapter, i, NULL),
                         LORA_OK);
        assert_int_equal(info.status, modules[i].status);
        CHECK(modules[i].answer, LORA_NO_OFFSET, modules[i].name,
              lora_adapter_delta(buffer, sizeof buffer, adapter, i,
                                 LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0, 5,
                                 &error));
        CHECK(modules[i].answer, LORA_NO_OFFSET, modules[i].name,
              lora_adapter_factors(NULL, NULL, NULL, NULL, NULL, NULL,
                                   LORA_DTYPE_F32, adapter, i, &error));
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_delta_fails_reading(void **state)
{
    image im;
    source s;
    lora_adapter *adapter;
    lora_error error;

    (void)state;
    image_kinds(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    s.fail_at = s.reads + 1; /* the second tensor */
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, ROWS, &error));
    assert_true(error.offset != LORA_NO_OFFSET);
    s.bytes = 8 + im.header_bytes + 4 + sizeof down + 20; /* within up */
    CHECK(LORA_ERROR_TRUNCATED, s.bytes, NULL,
          delta(adapter, 0, LORA_PART_WEIGHT, LORA_DTYPE_F32, 0, ROWS, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Factors ---------------------------------------------------------------- */

static void test_factors(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_error error;

    (void)state;
    image_kinds(&im);
    adapter = open_image(context, &im);
    for (size_t m = 0; m < 3; m++) {
        double wide_up[ROWS * RANK];
        double wide_down[RANK * COLS];
        double expected[RANK * COLS];
        float narrow_up[ROWS * RANK];
        int64_t rows = 0;
        int64_t cols = 0;
        int64_t rank = 0;
        double scale = 0.0;

        plain_down(expected, (char)('a' + (int)m));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_factors(&rows, &cols, &rank, &scale, NULL, NULL,
                                   LORA_DTYPE_F64, adapter, m, &error));
        assert_int_equal(rows, ROWS);
        assert_int_equal(cols, COLS);
        assert_int_equal(rank, RANK);
        assert_true(scale == plain_scale((char)('a' + (int)m)));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_factors(NULL, NULL, NULL, NULL, wide_up, wide_down,
                                   LORA_DTYPE_F64, adapter, m, &error));
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_factors(NULL, NULL, NULL, NULL, narrow_up, NULL,
                                   LORA_DTYPE_F32, adapter, m, &error));
        assert_memory_equal(narrow_up, up, sizeof up);
        assert_memory_equal(wide_down, expected, sizeof expected);
        for (size_t i = 0; i < COUNT(up); i++) {
            assert_true(wide_up[i] == (double)up[i]);
        }
    }
    CHECK_ARGUMENT(lora_adapter_factors(NULL, NULL, NULL, NULL, NULL, NULL,
                                        LORA_DTYPE_F32, NULL, 0, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_adapter_factors(NULL, NULL, NULL, NULL, NULL, NULL,
                               LORA_DTYPE_F32, adapter, 5, &error));
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
          lora_adapter_factors(NULL, NULL, NULL, NULL, NULL, NULL,
                               LORA_DTYPE_BF16, adapter, 0, &error));
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_d",
          lora_adapter_factors(NULL, NULL, NULL, NULL, NULL, NULL,
                               LORA_DTYPE_F32, adapter, 3, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* PEFT's fan_in_fan_out: the weight is [in, out], the file's factors are the
 * layer's. */
static void test_transposed(void **state)
{
    enum { OUT = 4, R = 2 };
    static const float a[R * IN] = {1, 2, 3, 4, 5, 6};
    static const float b[OUT * R] = {1, -1, 2, 0.5f, -3, 1, 0, 2};
    static const char config[] = "{\"lora_alpha\": 3, "
                                 "\"fan_in_fan_out\": true}";
    lora_adapter_open_options options;
    lora_module_info info = {.struct_size = sizeof info};
    lora_adapter *adapter;
    lora_error error;
    image im;
    double delta[IN * OUT];
    float wide_up[IN * R];
    float wide_down[R * OUT];
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t rank = 0;
    double scale = 0.0;

    (void)state;
    image_begin(&im, NULL);
    image_f32(&im, "base_model.model.c_attn.lora_A.weight", "2,3", a, R * IN);
    image_f32(&im, "base_model.model.c_attn.lora_B.weight", "4,2", b, OUT * R);
    image_end(&im);
    lora_adapter_open_options_init(&options, sizeof options);
    options.config = config;
    options.config_bytes = strlen(config);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open_memory(&adapter, context, im.file, im.bytes,
                                   &options, &error));
    assert_int_equal(lora_adapter_get_module(&info, adapter, 0, NULL), LORA_OK);
    assert_int_equal(info.ndim, 2);
    assert_int_equal(info.shape[0], IN);
    assert_int_equal(info.shape[1], OUT);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_factors(&rows, &cols, &rank, &scale, wide_up, wide_down,
                               LORA_DTYPE_F32, adapter, 0, &error));
    assert_int_equal(rows, IN);
    assert_int_equal(cols, OUT);
    assert_int_equal(rank, R);
    assert_true(scale == 1.5);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_delta(delta, sizeof delta, adapter, 0, LORA_PART_WEIGHT,
                             2.0, LORA_DTYPE_F64, 0, IN, &error));
    for (int i = 0; i < IN; i++) {
        for (int j = 0; j < OUT; j++) {
            double sum = 0.0;
            for (int r = 0; r < R; r++) {
                sum += (double)a[r * IN + i] * (double)b[j * R + r];
                assert_true(wide_up[i * R + r] == a[r * IN + i]);
                assert_true(wide_down[r * OUT + j] == b[j * R + r]);
            }
            assert_true(delta[i * OUT + j] == 3.0 * sum);
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* To a file -------------------------------------------------------------- */

/* The tensors are what lora_adapter_delta() gives. */
static void check_saved(const char *path,
                        const lora_adapter *adapter,
                        double strength,
                        lora_dtype dtype)
{
    size_t size = dtype == LORA_DTYPE_F64 ? 8 : 4;
    lora_module_info module = {.struct_size = sizeof module};
    lora_adapter *saved;
    size_t seen = 0;

    assert_int_equal(lora_adapter_open(&saved, context, path, NULL, NULL),
                     LORA_OK);
    for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
        assert_int_equal(lora_adapter_get_module(&module, adapter, m, NULL),
                         LORA_OK);
        for (lora_part part = LORA_PART_WEIGHT; part <= LORA_PART_BIAS;
             part++) {
            lora_tensor_info info = {.struct_size = sizeof info};
            unsigned char expected[ROWS * COLS * 8];
            unsigned char got[ROWS * COLS * 8];
            char name[64];
            size_t index;
            size_t bytes;
            if ((module.changes & part) == 0) {
                continue;
            }
            snprintf(name, sizeof name, "%s%s", module.name,
                     part == LORA_PART_BIAS ? ".bias" : "");
            index = tensor_at(saved, name);
            assert_int_equal(
                lora_adapter_get_tensor_info(&info, saved, index, NULL),
                LORA_OK);
            bytes = (size_t)info.bytes;
            assert_int_equal(info.dtype, dtype);
            assert_int_equal(info.ndim,
                             part == LORA_PART_BIAS ? 1 : module.ndim);
            assert_memory_equal(info.shape, module.shape,
                                (size_t)info.ndim * sizeof info.shape[0]);
            assert_int_equal(lora_adapter_delta(expected, bytes, adapter, m,
                                                part, strength, dtype, 0,
                                                module.shape[0], NULL),
                             LORA_OK);
            assert_int_equal(bytes % size, 0);
            assert_int_equal(lora_adapter_read_tensor(got, bytes, saved, index,
                                                      LORA_DTYPE_NONE, NULL),
                             LORA_OK);
            assert_memory_equal(got, expected, bytes);
            seen++;
        }
    }
    assert_int_equal(lora_adapter_tensor_count(saved), seen);
    assert_int_equal(lora_adapter_metadata_count(saved), 0);
    lora_adapter_destroy(saved);
}

static void test_save_delta(void **state)
{
    image im;
    lora_adapter *adapter;
    const char *path = in_folder("delta.safetensors");
    lora_adapter_delta_options options;
    lora_error error;

    folder_clear(state);
    image_kinds(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_delta(adapter, path, 0.75, NULL, &error));
    check_saved(path, adapter, 0.75, LORA_DTYPE_F32);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, path,
          lora_adapter_save_delta(adapter, path, 1.0, NULL, &error));
    assert_int_equal(error.os_error, EEXIST);
    check_saved(path, adapter, 0.75, LORA_DTYPE_F32);
    lora_adapter_delta_options_init(&options, sizeof options);
    options.overwrite = 1;
    options.dtype = LORA_DTYPE_F64;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_save_delta(adapter, path, -2.0, &options, &error));
    check_saved(path, adapter, -2.0, LORA_DTYPE_F64);
    assert_int_equal(folder_count(1), 1);

    CHECK_ARGUMENT(lora_adapter_save_delta(NULL, path, 1.0, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_save_delta(adapter, NULL, 1.0, NULL, &error));
    options.dtype = LORA_DTYPE_F16;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
          lora_adapter_save_delta(adapter, path, 1.0, &options, &error));
    CHECK(
        LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
        lora_adapter_save_delta(adapter, in_folder("no/x"), 1.0, NULL, &error));
    assert_int_equal(error.os_error, ENOENT);
    assert_int_equal(folder_count(0), 0);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_save_delta_canonical(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *saved;
    const char *path = in_folder("canonical.safetensors");
    lora_adapter_delta_options options;

    (void)state;
    image_pairs(&im);
    adapter = open_image(context, &im);
    lora_adapter_delta_options_init(&options, sizeof options);
    options.canonical = 1;
    assert_int_equal(
        lora_adapter_save_delta(adapter, path, 1.0, &options, NULL), LORA_OK);
    assert_int_equal(lora_adapter_open(&saved, context, path, NULL, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_tensor_count(saved), 2);
    tensor_at(saved, SAMPLE_Q_TARGET);
    lora_adapter_destroy(saved);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_save_delta_troubled(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_builder *builder;
    lora_adapter_delta_options options;
    const char *path = in_folder("troubled.safetensors");
    lora_error error;

    folder_clear(state);
    image_troubled(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "lora_unet_a",
          lora_adapter_save_delta(adapter, path, 1.0, NULL, &error));
    lora_adapter_delta_options_init(&options, sizeof options);
    options.skip_bad = 1; /* passes over a and b, not over what it cannot do */
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_c",
          lora_adapter_save_delta(adapter, path, 1.0, &options, &error));
    assert_int_equal(folder_count(0), 0);

    assert_int_equal(lora_builder_create(&builder, context, NULL, NULL),
                     LORA_OK);
    lora_adapter_destroy(adapter);
    assert_int_equal(lora_builder_finish(&adapter, builder, NULL), LORA_OK);
    lora_builder_destroy(builder);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_adapter_save_delta(adapter, path, 1.0, NULL, &error));
    assert_int_equal(folder_count(0), 0);
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
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_dense_kinds),
        cmocka_unit_test(test_biases_of_a_pair),
        cmocka_unit_test(test_row_ranges),
        cmocka_unit_test(test_delta_refused),
        cmocka_unit_test(test_troubled_modules),
        cmocka_unit_test(test_delta_fails_reading),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_transposed),
        cmocka_unit_test(test_save_delta),
        cmocka_unit_test(test_save_delta_canonical),
        cmocka_unit_test(test_save_delta_troubled),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
