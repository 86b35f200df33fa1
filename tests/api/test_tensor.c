/* Number types: sizes, names, and conversion of single numbers whose result
 * is known from the formats. All bit patterns are the unit tests' matter.
 */
#include "api/support.h"

static void test_sizes_and_names(void **state)
{
    static const struct {
        lora_dtype dtype;
        uint32_t bits;
        const char *name;
        const char *lower;
    } known[] = {
        {1, 8, "BOOL", "bool"},
        {2, 4, "F4", "f4"},
        {3, 6, "F6_E2M3", "f6_e2m3"},
        {4, 6, "F6_E3M2", "f6_e3m2"},
        {5, 8, "U8", "u8"},
        {6, 8, "I8", "i8"},
        {7, 8, "F8_E5M2", "f8_e5m2"},
        {8, 8, "F8_E4M3", "f8_e4m3"},
        {9, 8, "F8_E8M0", "f8_e8m0"},
        {10, 8, "F8_E4M3FNUZ", "f8_e4m3fnuz"},
        {11, 8, "F8_E5M2FNUZ", "f8_e5m2fnuz"},
        {12, 16, "I16", "i16"},
        {13, 16, "U16", "u16"},
        {14, 16, "F16", "f16"},
        {15, 16, "BF16", "bf16"},
        {16, 32, "I32", "i32"},
        {17, 32, "U32", "u32"},
        {18, 32, "F32", "f32"},
        {19, 64, "C64", "c64"},
        {20, 64, "F64", "f64"},
        {21, 64, "I64", "i64"},
        {22, 64, "U64", "u64"},
    };
    static const lora_dtype unknown[] = {0, 23, -1, INT32_MAX, INT32_MIN};

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        assert_int_equal(lora_dtype_bits(known[i].dtype), known[i].bits);
        assert_string_equal(lora_dtype_name(known[i].dtype), known[i].name);
        assert_int_equal(lora_dtype_from_name(known[i].name), known[i].dtype);
        assert_int_equal(lora_dtype_from_name(known[i].lower), known[i].dtype);
    }
    for (size_t i = 0; i < COUNT(unknown); i++) {
        assert_int_equal(lora_dtype_bits(unknown[i]), 0);
        assert_string_equal(lora_dtype_name(unknown[i]), "NONE");
    }
    assert_int_equal(lora_dtype_from_name(NULL), LORA_DTYPE_NONE);
    assert_int_equal(lora_dtype_from_name(""), LORA_DTYPE_NONE);
    assert_int_equal(lora_dtype_from_name("NONE"), LORA_DTYPE_NONE);
    assert_int_equal(lora_dtype_from_name("Bf16"), LORA_DTYPE_NONE);
    assert_int_equal(lora_dtype_from_name("f16 "), LORA_DTYPE_NONE);
}

/* From F32 to a code of at most 16 bits. */
static void test_encode(void **state)
{
    static const struct {
        float in;
        lora_dtype dtype;
        unsigned code;
    } known[] = {
        {1.0f, LORA_DTYPE_F16, 0x3C00},
        {65504.0f, LORA_DTYPE_F16, 0x7BFF},
        {65520.0f, LORA_DTYPE_F16, 0x7C00}, /* the tie goes to infinity */
        {65519.0f, LORA_DTYPE_F16, 0x7BFF},
        {1.00048828125f, LORA_DTYPE_F16, 0x3C00}, /* 1 + 2^-11: to even */
        {5.9604645e-8f, LORA_DTYPE_F16, 0x0001},
        {-2.0f, LORA_DTYPE_BF16, 0xC000},
        {1.00390625f, LORA_DTYPE_BF16, 0x3F80}, /* 1 + 2^-8: to even */
        {3.4e38f, LORA_DTYPE_BF16, 0x7F80},
        {448.0f, LORA_DTYPE_F8_E4M3, 0x7E},
        {480.0f, LORA_DTYPE_F8_E4M3, 0x7F}, /* NaN: it has no infinity */
        {57344.0f, LORA_DTYPE_F8_E5M2, 0x7B},
        {65536.0f, LORA_DTYPE_F8_E5M2, 0x7C},
        {300.0f, LORA_DTYPE_U8, 255},
        {-300.0f, LORA_DTYPE_I8, 0x80},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        unsigned char out[4] = {0, 0, 0xEE, 0xEE};
        assert_int_equal(lora_tensor_convert(out, known[i].dtype, &known[i].in,
                                             LORA_DTYPE_F32, 1, NULL),
                         LORA_OK);
        assert_int_equal(out[0] | out[1] << 8, known[i].code);
        assert_int_equal(out[2], 0xEE);
    }
}

static void test_decode(void **state)
{
    static const struct {
        unsigned code;
        lora_dtype dtype;
        double value;
    } known[] = {
        {0x3555, LORA_DTYPE_F16, 0.333251953125},
        {0xFBFF, LORA_DTYPE_F16, -65504.0},
        {0x3EAB, LORA_DTYPE_BF16, 0.333984375},
        {0x01, LORA_DTYPE_F8_E4M3, 0.001953125},
        {0x7E, LORA_DTYPE_F8_E4M3, 448.0},
        {0x7F, LORA_DTYPE_F8_E8M0, 1.0},
        {0x80, LORA_DTYPE_F8_E8M0, 2.0},
        {0x80, LORA_DTYPE_I8, -128.0},
        {0xFFFF, LORA_DTYPE_U16, 65535.0},
        {1, LORA_DTYPE_BOOL, 1.0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(known); i++) {
        unsigned char in[2] = {(unsigned char)known[i].code,
                               (unsigned char)(known[i].code >> 8)};
        double out = 0.0;
        assert_int_equal(lora_tensor_convert(&out, LORA_DTYPE_F64, in,
                                             known[i].dtype, 1, NULL),
                         LORA_OK);
        assert_true(out == known[i].value);
    }
}

/* Neither side aligned, in place, and many at once. */
static void test_layout(void **state)
{
    unsigned char in[1 + 4 * 301];
    unsigned char out[1 + 2 * 301 + 1];
    float values[301];
    float back[301];

    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        values[i] = (float)i - 150.0f; /* exact in F16 */
    }
    memcpy(in + 1, values, sizeof values);
    memset(out, 0xEE, sizeof out);
    assert_int_equal(lora_tensor_convert(out + 1, LORA_DTYPE_F16, in + 1,
                                         LORA_DTYPE_F32, 301, NULL),
                     LORA_OK);
    assert_int_equal(out[0], 0xEE);
    assert_int_equal(out[sizeof out - 1], 0xEE);
    assert_int_equal(lora_tensor_convert(back, LORA_DTYPE_F32, out + 1,
                                         LORA_DTYPE_F16, 301, NULL),
                     LORA_OK);
    assert_memory_equal(back, values, sizeof values);

    assert_int_equal(lora_tensor_convert(values, LORA_DTYPE_I32, values,
                                         LORA_DTYPE_F32, 301, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(values); i++) {
        int32_t whole;
        memcpy(&whole, &values[i], sizeof whole);
        assert_int_equal(whole, (int32_t)i - 150);
    }
}

static void test_refusals(void **state)
{
    unsigned char in[8] = {0};
    unsigned char out[8] = {0xEE};
    lora_error error;
    static const lora_dtype no_output[] = {LORA_DTYPE_NONE,
                                           LORA_DTYPE_F4,
                                           LORA_DTYPE_F6_E2M3,
                                           LORA_DTYPE_F6_E3M2,
                                           LORA_DTYPE_C64,
                                           LORA_DTYPE_F8_E8M0,
                                           99,
                                           -1};
    static const lora_dtype no_input[] = {LORA_DTYPE_NONE,    LORA_DTYPE_F4,
                                          LORA_DTYPE_F6_E2M3, LORA_DTYPE_C64,
                                          LORA_DTYPE_F6_E3M2, 99};

    (void)state;
    for (size_t i = 0; i < COUNT(no_output); i++) {
        CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
              lora_tensor_convert(out, no_output[i], in, LORA_DTYPE_F32, 1,
                                  &error));
    }
    for (size_t i = 0; i < COUNT(no_input); i++) {
        CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, NULL,
              lora_tensor_convert(out, LORA_DTYPE_F32, in, no_input[i], 1,
                                  &error));
    }
    CHECK_ARGUMENT(lora_tensor_convert(NULL, LORA_DTYPE_F32, in, LORA_DTYPE_F16,
                                       1, &error));
    CHECK_ARGUMENT(lora_tensor_convert(out, LORA_DTYPE_F32, NULL,
                                       LORA_DTYPE_F16, 1, &error));
    CHECK_ARGUMENT(lora_tensor_convert(out, LORA_DTYPE_F32, in, LORA_DTYPE_F16,
                                       UINT64_MAX / 2, &error));
    assert_int_equal(out[0], 0xEE);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_tensor_convert(NULL, LORA_DTYPE_F32, NULL, LORA_DTYPE_F16, 0,
                              &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_and_names), cmocka_unit_test(test_encode),
        cmocka_unit_test(test_decode),          cmocka_unit_test(test_layout),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
