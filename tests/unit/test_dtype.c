/* Number types, and what conversion between them means.
 *
 * Expected values come from the definition of each format, evaluated with
 * ldexp in double: value = (-1)^s * m * 2^e. Expected roundings are searched
 * for in the ascending list of all values of the format.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <lora/lora.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum family { IEEE, FINITE, FNUZ };

typedef struct format {
    lora_dtype dtype;
    int exponent_bits;
    int mantissa_bits;
    int bias;
    enum family family;
} format;

static const format formats[] = {
    {LORA_DTYPE_F16, 5, 10, 15, IEEE},
    {LORA_DTYPE_BF16, 8, 7, 127, IEEE},
    {LORA_DTYPE_F8_E5M2, 5, 2, 15, IEEE},
    {LORA_DTYPE_F8_E4M3, 4, 3, 7, FINITE},
    {LORA_DTYPE_F8_E5M2FNUZ, 5, 2, 16, FNUZ},
    {LORA_DTYPE_F8_E4M3FNUZ, 4, 3, 8, FNUZ},
};

static uint32_t sign_bit(const format *f)
{
    return 1u << (f->exponent_bits + f->mantissa_bits);
}

static double value_of(const format *f, uint32_t code)
{
    const uint32_t magnitude = code & (sign_bit(f) - 1);
    const int exponent = (int)(magnitude >> f->mantissa_bits);
    const int mantissa = (int)(magnitude & ((1u << f->mantissa_bits) - 1));
    const int last_exponent = (1 << f->exponent_bits) - 1;
    double value;

    if (f->family == FNUZ && code == sign_bit(f)) {
        return NAN;
    }
    if (f->family == FINITE && magnitude == sign_bit(f) - 1) {
        return NAN;
    }
    if (f->family == IEEE && exponent == last_exponent) {
        value = mantissa == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        value = ldexp(mantissa, 1 - f->bias - f->mantissa_bits);
    } else {
        value = ldexp((1 << f->mantissa_bits) + mantissa,
                      exponent - f->bias - f->mantissa_bits);
    }
    return code & sign_bit(f) ? -value : value;
}

/* Ascending finite values from zero, and one more that would come next;
 * returns the number of finite ones. The index is the code. */
static uint32_t list_values(const format *f, double *values)
{
    uint32_t count = 0;

    while (count < sign_bit(f) && isfinite(value_of(f, count))) {
        values[count] = value_of(f, count);
        count++;
    }
    values[count] = 2 * values[count - 1] - values[count - 2];
    return count;
}

/* The code of the value nearest to x, ties to the even code. */
static uint32_t
nearest(const format *f, const double *values, uint32_t count, double x)
{
    const double magnitude = fabs(x);
    uint32_t low = 0;
    uint32_t high = count;
    uint32_t code;

    if (magnitude >= values[count]) {
        code = count;
    } else {
        while (high - low > 1) {
            const uint32_t middle = (low + high) / 2;

            if (values[middle] <= magnitude) {
                low = middle;
            } else {
                high = middle;
            }
        }
        const double tie = (values[low] + values[high]) / 2; /* exact */

        code =
            magnitude < tie || (magnitude <= tie && low % 2 == 0) ? low : high;
    }
    if (f->family == FNUZ) {
        if (code == 0) {
            return 0;
        }
        if (code == count) {
            return sign_bit(f);
        }
    }
    return signbit(x) ? code | sign_bit(f) : code;
}

static uint32_t load_code(const void *codes, size_t index, size_t bytes)
{
    uint16_t wide;

    if (bytes == 1) {
        return ((const unsigned char *)codes)[index];
    }
    memcpy(&wide, (const unsigned char *)codes + 2 * index, 2);
    return wide;
}

static void convert(void *out,
                    lora_dtype out_dtype,
                    const void *in,
                    lora_dtype in_dtype,
                    size_t count)
{
    lora_error error;

    lora_error_init(&error, sizeof error);
    if (lora_tensor_convert(out, out_dtype, in, in_dtype, count, &error) !=
        LORA_OK) {
        fail_msg("%s", error.message);
    }
}

static void names_and_sizes(void **state)
{
    static const struct {
        lora_dtype dtype;
        const char *name;
        const char *lower;
        uint32_t bits;
    } facts[] = {
        {LORA_DTYPE_BOOL, "BOOL", "bool", 8},
        {LORA_DTYPE_F4, "F4", "f4", 4},
        {LORA_DTYPE_F6_E2M3, "F6_E2M3", "f6_e2m3", 6},
        {LORA_DTYPE_F6_E3M2, "F6_E3M2", "f6_e3m2", 6},
        {LORA_DTYPE_U8, "U8", "u8", 8},
        {LORA_DTYPE_I8, "I8", "i8", 8},
        {LORA_DTYPE_F8_E5M2, "F8_E5M2", "f8_e5m2", 8},
        {LORA_DTYPE_F8_E4M3, "F8_E4M3", "f8_e4m3", 8},
        {LORA_DTYPE_F8_E8M0, "F8_E8M0", "f8_e8m0", 8},
        {LORA_DTYPE_F8_E4M3FNUZ, "F8_E4M3FNUZ", "f8_e4m3fnuz", 8},
        {LORA_DTYPE_F8_E5M2FNUZ, "F8_E5M2FNUZ", "f8_e5m2fnuz", 8},
        {LORA_DTYPE_I16, "I16", "i16", 16},
        {LORA_DTYPE_U16, "U16", "u16", 16},
        {LORA_DTYPE_F16, "F16", "f16", 16},
        {LORA_DTYPE_BF16, "BF16", "bf16", 16},
        {LORA_DTYPE_I32, "I32", "i32", 32},
        {LORA_DTYPE_U32, "U32", "u32", 32},
        {LORA_DTYPE_F32, "F32", "f32", 32},
        {LORA_DTYPE_C64, "C64", "c64", 64},
        {LORA_DTYPE_F64, "F64", "f64", 64},
        {LORA_DTYPE_I64, "I64", "i64", 64},
        {LORA_DTYPE_U64, "U64", "u64", 64},
    };
    static const lora_dtype unknown[] = {0, -1, 23, INT32_MIN, INT32_MAX};
    static const char *const no_names[] = {"",     "NONE", "none", "F",
                                           "Bf16", "f1",   "F160", "F16 "};

    (void)state;
    for (size_t i = 0; i < COUNT(facts); i++) {
        assert_int_equal(lora_dtype_bits(facts[i].dtype), facts[i].bits);
        assert_string_equal(lora_dtype_name(facts[i].dtype), facts[i].name);
        assert_int_equal(lora_dtype_from_name(facts[i].name), facts[i].dtype);
        assert_int_equal(lora_dtype_from_name(facts[i].lower), facts[i].dtype);
    }
    for (size_t i = 0; i < COUNT(unknown); i++) {
        assert_int_equal(lora_dtype_bits(unknown[i]), 0);
        assert_string_equal(lora_dtype_name(unknown[i]), "NONE");
    }
    for (size_t i = 0; i < COUNT(no_names); i++) {
        assert_int_equal(lora_dtype_from_name(no_names[i]), LORA_DTYPE_NONE);
    }
    assert_int_equal(lora_dtype_from_name(NULL), LORA_DTYPE_NONE);
}

/* All codes at once, through the kernels, and in pieces, through the
 * reference: the same values. */
static void decoding_follows_the_definition(void **state)
{
    static uint16_t wide_codes[1 << 16];
    static uint8_t narrow_codes[1 << 16];
    static float f32[1 << 16];
    static double f64[1 << 16];

    (void)state;
    for (uint32_t i = 0; i < 1 << 16; i++) {
        wide_codes[i] = (uint16_t)i;
        narrow_codes[i] = (uint8_t)i;
    }
    for (size_t k = 0; k < COUNT(formats); k++) {
        const format *f = &formats[k];
        const int wide = lora_dtype_bits(f->dtype) == 16;
        const void *codes = wide ? (const void *)wide_codes : narrow_codes;

        for (size_t piece = 1 << 16; piece != 0; piece >>= 3) {
            for (size_t i = 0; i < 1 << 16; i += piece) {
                const void *from = wide ? (const void *)(wide_codes + i)
                                        : (const void *)(narrow_codes + i);

                convert(f32 + i, LORA_DTYPE_F32, from, f->dtype, piece);
                convert(f64 + i, LORA_DTYPE_F64, from, f->dtype, piece);
            }
            for (uint32_t i = 0; i < 1 << 16; i++) {
                const uint32_t code = load_code(codes, i, wide ? 2 : 1);
                const double value = value_of(f, code);

                if (isnan(value)) {
                    assert_true(isnan(f32[i]) && isnan(f64[i]));
                } else if ((double)f32[i] != value || f64[i] != value ||
                           !signbit(f32[i]) != !signbit(value) ||
                           !signbit(f64[i]) != !signbit(value)) {
                    fail_msg("%s 0x%x", lora_dtype_name(f->dtype), code);
                }
            }
        }
    }
}

static void powers_of_two_decode(void **state)
{
    uint8_t codes[256];
    float f32[256];
    double f64[256];

    (void)state;
    for (int i = 0; i < 256; i++) {
        codes[i] = (uint8_t)i;
    }
    convert(f32, LORA_DTYPE_F32, codes, LORA_DTYPE_F8_E8M0, 256);
    convert(f64, LORA_DTYPE_F64, codes, LORA_DTYPE_F8_E8M0, 256);
    for (int i = 0; i < 255; i++) {
        assert_true((double)f32[i] == ldexp(1, i - 127));
        assert_true(f64[i] == ldexp(1, i - 127));
    }
    assert_true(isnan(f32[255]) && isnan(f64[255]));
}

static uint64_t random_bits(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Every value, every tie between two values, their neighbours in F32 and in
 * F64, and random patterns; both signs. */
static size_t list_inputs(double *out, const double *values, uint32_t count)
{
    uint64_t random = 88172645463325252u;
    size_t n = 0;

    for (uint32_t i = 0; i <= count; i++) {
        const double around[2] = {
            values[i], i < count ? (values[i] + values[i + 1]) / 2 : DBL_MAX};

        for (int j = 0; j < 2; j++) {
            const double x = around[j];

            out[n++] = x;
            out[n++] = nextafter(x, 0);
            out[n++] = nextafter(x, INFINITY);
            out[n++] = (double)nextafterf((float)x, 0);
            out[n++] = (double)nextafterf((float)x, INFINITY);
        }
    }
    for (int i = 0; i < 20000; i++) {
        const uint64_t bits = random_bits(&random);
        const uint32_t half = (uint32_t)(bits >> 32);
        double x;
        float y;

        memcpy(&x, &bits, sizeof x);
        memcpy(&y, &half, sizeof y);
        out[n++] = isnan(x) ? 1.0 : fabs(x);
        out[n++] = isnan(y) ? 1.0 : (double)fabsf(y);
        out[n++] = ldexp((double)half, -32 - (int)(bits % 40));
    }
    for (size_t i = 0; i < n; i++) {
        out[n + i] = -out[i];
    }
    return 2 * n;
}

static void check_codes(const format *f,
                        const double *values,
                        uint32_t count,
                        const double *inputs,
                        const void *codes,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t want = nearest(f, values, count, inputs[i]);
        const uint32_t got = load_code(codes, i, lora_dtype_bits(f->dtype) / 8);

        if (got != want) {
            fail_msg("%s of %a: 0x%x, not 0x%x", lora_dtype_name(f->dtype),
                     inputs[i], got, want);
        }
    }
}

static void encoding_rounds_once_to_nearest_even(void **state)
{
    const size_t most = 2 * (10 * 65537 + 60000);
    double *values = malloc(65537 * sizeof *values);
    double *inputs = malloc(most * sizeof *inputs);
    double *singles = malloc(most * sizeof *singles);
    float *f32 = malloc(most * sizeof *f32);
    unsigned char *codes = malloc(most * 2);

    (void)state;
    assert_true(values && inputs && singles && f32 && codes);
    for (size_t k = 0; k < COUNT(formats); k++) {
        const format *f = &formats[k];
        const size_t bytes = lora_dtype_bits(f->dtype) / 8;
        const uint32_t count = list_values(f, values);
        const size_t n = list_inputs(inputs, values, count);

        for (size_t i = 0; i < n; i++) {
            f32[i] = (float)inputs[i];
            singles[i] = (double)f32[i];
        }
        convert(codes, f->dtype, inputs, LORA_DTYPE_F64, n);
        check_codes(f, values, count, inputs, codes, n);
        convert(codes, f->dtype, f32, LORA_DTYPE_F32, n);
        check_codes(f, values, count, singles, codes, n);
        for (size_t i = 0; i < n; i += 1000) {
            const size_t piece = n - i < 1000 ? n - i : 1000;

            convert(codes + i * bytes, f->dtype, inputs + i, LORA_DTYPE_F64,
                    piece);
        }
        check_codes(f, values, count, inputs, codes, n);
    }
    free(values);
    free(inputs);
    free(singles);
    free(f32);
    free(codes);
}

/* Against the machine's own conversion. */
static void f64_to_f32_is_the_machines(void **state)
{
    const size_t n = 200000;
    double *in = malloc(n * sizeof *in);
    float *out = malloc(n * sizeof *out);
    uint64_t random = 1234567;

    (void)state;
    assert_true(in && out);
    for (size_t i = 0; i < n; i++) {
        /* Exponents where F32 has values, and a little beyond; few bits
         * below the last one kept, so that ties occur. */
        uint64_t bits = random_bits(&random);
        const uint64_t exponent = 1023 - 155 + bits % 290;

        bits = bits >> 12 & (i % 2 ? UINT64_MAX : ~(uint64_t)0x0fffffff);
        bits |= exponent << 52 | (uint64_t)(i % 3 == 0) << 63;
        memcpy(&in[i], &bits, sizeof bits);
    }
    convert(out, LORA_DTYPE_F32, in, LORA_DTYPE_F64, n);
    for (size_t i = 0; i < n; i++) {
        const float want = (float)in[i];

        assert_memory_equal(&out[i], &want, sizeof want);
    }
    free(in);
    free(out);
}

/* Known codes: overflow, signed zeros and NaN. */
static void specials_encode_as_in_torch(void **state)
{
    static const struct {
        lora_dtype dtype;
        double in;
        uint32_t code;
    } facts[] = {
        {LORA_DTYPE_F16, 65519.99, 0x7bff},
        {LORA_DTYPE_F16, 65520, 0x7c00},
        {LORA_DTYPE_F16, -1e300, 0xfc00},
        {LORA_DTYPE_F16, -0.0, 0x8000},
        {LORA_DTYPE_F16, -1e-300, 0x8000},
        {LORA_DTYPE_F16, NAN, 0x7e00},
        {LORA_DTYPE_BF16, -INFINITY, 0xff80},
        {LORA_DTYPE_BF16, NAN, 0x7fc0},
        {LORA_DTYPE_F8_E4M3, 448, 0x7e},
        {LORA_DTYPE_F8_E4M3, 464, 0x7e},
        {LORA_DTYPE_F8_E4M3, 464.001, 0x7f},
        {LORA_DTYPE_F8_E4M3, -1e30, 0xff},
        {LORA_DTYPE_F8_E4M3, INFINITY, 0x7f},
        {LORA_DTYPE_F8_E4M3, NAN, 0x7f},
        {LORA_DTYPE_F8_E4M3, -0.0, 0x80},
        {LORA_DTYPE_F8_E5M2, 57344, 0x7b},
        {LORA_DTYPE_F8_E5M2, 61439, 0x7b},
        {LORA_DTYPE_F8_E5M2, 61440, 0x7c},
        {LORA_DTYPE_F8_E5M2, -INFINITY, 0xfc},
        {LORA_DTYPE_F8_E5M2, NAN, 0x7f},
        {LORA_DTYPE_F8_E4M3FNUZ, 240, 0x7f},
        {LORA_DTYPE_F8_E4M3FNUZ, 248, 0x80},
        {LORA_DTYPE_F8_E4M3FNUZ, -INFINITY, 0x80},
        {LORA_DTYPE_F8_E4M3FNUZ, -0.0, 0},
        {LORA_DTYPE_F8_E4M3FNUZ, -1e-9, 0},
        {LORA_DTYPE_F8_E4M3FNUZ, NAN, 0x80},
        {LORA_DTYPE_F8_E5M2FNUZ, 57344, 0x7f},
        {LORA_DTYPE_F8_E5M2FNUZ, 61440, 0x80},
        {LORA_DTYPE_F8_E5M2FNUZ, -0.0, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(facts); i++) {
        unsigned char code[2] = {0, 0};

        convert(code, facts[i].dtype, &facts[i].in, LORA_DTYPE_F64, 1);
        if (load_code(code, 0, 2) != facts[i].code) {
            fail_msg("%s of %g: 0x%x", lora_dtype_name(facts[i].dtype),
                     facts[i].in, load_code(code, 0, 2));
        }
    }
}

/* Quieted, sign and upper payload kept. */
static void nans_keep_sign_and_payload(void **state)
{
    static const uint16_t f16[] = {0x7c01, 0xfdff, 0x7e55};
    static const uint32_t f32[] = {0x7fc02000, 0xffffe000, 0x7fcaa000};
    static const uint32_t f32_in[] = {0x7f800001, 0xffa34567, 0x7fc02000};
    static const uint16_t f16_out[] = {0x7e00, 0xff1a, 0x7e01};
    static const uint16_t bf16_out[] = {0x7fc0, 0xffe3, 0x7fc0};
    static const uint64_t f64_in[] = {0x7ff0000000000001u, 0xfff468acf0000001u};
    static const uint32_t f32_out[] = {0x7fc00000, 0xffe34567};
    uint32_t wide[3];
    uint16_t narrow[3];
    uint64_t f64[3];

    (void)state;
    convert(wide, LORA_DTYPE_F32, f16, LORA_DTYPE_F16, 3);
    assert_memory_equal(wide, f32, sizeof f32);
    convert(narrow, LORA_DTYPE_F16, f32_in, LORA_DTYPE_F32, 3);
    assert_memory_equal(narrow, f16_out, sizeof f16_out);
    convert(narrow, LORA_DTYPE_BF16, f32_in, LORA_DTYPE_F32, 3);
    assert_memory_equal(narrow, bf16_out, sizeof bf16_out);
    convert(wide, LORA_DTYPE_F32, f64_in, LORA_DTYPE_F64, 2);
    assert_memory_equal(wide, f32_out, sizeof f32_out);
    convert(f64, LORA_DTYPE_F64, f32_in, LORA_DTYPE_F32, 3);
    assert_true(f64[0] == 0x7ff8000020000000u);
    assert_true(f64[1] == 0xfffc68ace0000000u);
}

static void integers_saturate(void **state)
{
    static const double in[] = {0.5,
                                1.5,
                                2.5,
                                -0.5,
                                -1.5,
                                127.5,
                                1e30,
                                -1e30,
                                NAN,
                                255.5,
                                4294967295.5,
                                9223372036854775808.0,
                                -9223372036854775808.0};
    static const int8_t i8[] = {0,    2, 2,   0,   -2,  127, 127,
                                -128, 0, 127, 127, 127, -128};
    static const uint8_t u8[] = {0, 2, 2,   0,   0,   128, 255,
                                 0, 0, 255, 255, 255, 0};
    static const int64_t i64[] = {0,          2,         2,         0, -2,
                                  128,        INT64_MAX, INT64_MIN, 0, 256,
                                  4294967296, INT64_MAX, INT64_MIN};
    static const uint64_t u64[] = {0, 2,   2,          0,
                                   0, 128, UINT64_MAX, 0,
                                   0, 256, 4294967296, (uint64_t)1 << 63,
                                   0};
    static const uint32_t u32[] = {
        0, 2, 2, 0, 0, 128, UINT32_MAX, 0, 0, 256, UINT32_MAX, UINT32_MAX, 0};
    unsigned char out[sizeof i64];

    (void)state;
    convert(out, LORA_DTYPE_I8, in, LORA_DTYPE_F64, COUNT(in));
    assert_memory_equal(out, i8, sizeof i8);
    convert(out, LORA_DTYPE_U8, in, LORA_DTYPE_F64, COUNT(in));
    assert_memory_equal(out, u8, sizeof u8);
    convert(out, LORA_DTYPE_U32, in, LORA_DTYPE_F64, COUNT(in));
    assert_memory_equal(out, u32, sizeof u32);
    convert(out, LORA_DTYPE_I64, in, LORA_DTYPE_F64, COUNT(in));
    assert_memory_equal(out, i64, sizeof i64);
    convert(out, LORA_DTYPE_U64, in, LORA_DTYPE_F64, COUNT(in));
    assert_memory_equal(out, u64, sizeof u64);
}

static void integers_convert_exactly_among_themselves(void **state)
{
    static const int64_t i64[] = {
        INT64_MIN, -32769, -1, 0, 65536, ((int64_t)1 << 53) + 1, INT64_MAX};
    static const uint64_t u64[] = {
        0, 0, 0, 0, 65536, ((uint64_t)1 << 53) + 1, INT64_MAX};
    static const int16_t i16[] = {-32768, -32768, -1, 0, 32767, 32767, 32767};
    static const uint16_t u16[] = {0, 0, 0, 0, 65535, 65535, 65535};
    static const uint64_t large[] = {UINT64_MAX, (uint64_t)1 << 63};
    static const uint8_t bools[] = {0, 1, 2, 255};
    unsigned char out[sizeof i64];
    uint8_t u8[4];
    float f32[4];
    double f64[4];

    (void)state;
    convert(out, LORA_DTYPE_U64, i64, LORA_DTYPE_I64, COUNT(i64));
    assert_memory_equal(out, u64, sizeof u64);
    convert(out, LORA_DTYPE_I16, i64, LORA_DTYPE_I64, COUNT(i64));
    assert_memory_equal(out, i16, sizeof i16);
    convert(out, LORA_DTYPE_U16, i64, LORA_DTYPE_I64, COUNT(i64));
    assert_memory_equal(out, u16, sizeof u16);
    convert(out, LORA_DTYPE_I64, large, LORA_DTYPE_U64, 2);
    assert_memory_equal(out, &i64[6], 8);
    assert_memory_equal(out + 8, &i64[6], 8);

    convert(f32, LORA_DTYPE_F32, large, LORA_DTYPE_U64, 2);
    convert(f64, LORA_DTYPE_F64, large, LORA_DTYPE_U64, 2);
    assert_true(f32[0] == 18446744073709551616.0f);
    assert_true(f64[1] == 9223372036854775808.0);
    convert(f32, LORA_DTYPE_F32, bools, LORA_DTYPE_BOOL, 4);
    assert_true(f32[0] == 0 && f32[1] == 1 && f32[2] == 1 && f32[3] == 1);
    convert(u8, LORA_DTYPE_U8, bools, LORA_DTYPE_BOOL, 4);
    assert_true(u8[0] == 0 && u8[1] == 1 && u8[2] == 1 && u8[3] == 1);
}

/* Every readable type into every writable one, from odd addresses to odd
 * addresses: small whole numbers survive, nothing else is touched. */
static void all_pairs_convert_unaligned(void **state)
{
    static const lora_dtype types[] = {
        LORA_DTYPE_U8,      LORA_DTYPE_I8,          LORA_DTYPE_F8_E5M2,
        LORA_DTYPE_F8_E4M3, LORA_DTYPE_F8_E4M3FNUZ, LORA_DTYPE_F8_E5M2FNUZ,
        LORA_DTYPE_I16,     LORA_DTYPE_U16,         LORA_DTYPE_F16,
        LORA_DTYPE_BF16,    LORA_DTYPE_I32,         LORA_DTYPE_U32,
        LORA_DTYPE_F32,     LORA_DTYPE_F64,         LORA_DTYPE_I64,
        LORA_DTYPE_U64,
    };
    enum { N = 5000 };
    static double numbers[N];
    static double back[N];
    static unsigned char first[N * 8 + 16];
    static unsigned char second[N * 8 + 16];

    (void)state;
    for (int i = 0; i < N; i++) {
        numbers[i] = i % 9; /* 0..8: held by all types */
    }
    for (size_t i = 0; i < COUNT(types); i++) {
        for (size_t j = 0; j < COUNT(types); j++) {
            const size_t bytes = N * (lora_dtype_bits(types[j]) / 8);

            convert(first + 1, types[i], numbers, LORA_DTYPE_F64, N);
            memset(second, 0xa5, sizeof second);
            convert(second + 3, types[j], first + 1, types[i], N);
            assert_true(second[2] == 0xa5 && second[3 + bytes] == 0xa5);
            convert(back, LORA_DTYPE_F64, second + 3, types[j], N);
            assert_memory_equal(back, numbers, sizeof back);

            if (lora_dtype_bits(types[i]) == lora_dtype_bits(types[j])) {
                convert(first + 1, types[j], first + 1, types[i], N);
                assert_memory_equal(first + 1, second + 3, bytes);
            }
        }
    }
}

static lora_status status_of(void *out,
                             lora_dtype out_dtype,
                             const void *in,
                             lora_dtype in_dtype,
                             uint64_t count)
{
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_tensor_convert(out, out_dtype, in, in_dtype, count, &error);
    assert_int_equal(error.status, status);
    assert_true(status == LORA_OK || error.message[0] != '\0');
    return status;
}

static void what_cannot_be_converted_is_refused(void **state)
{
    static const lora_dtype unreadable[] = {LORA_DTYPE_NONE,
                                            LORA_DTYPE_F4,
                                            LORA_DTYPE_F6_E2M3,
                                            LORA_DTYPE_F6_E3M2,
                                            LORA_DTYPE_C64,
                                            23,
                                            -5};
    static const lora_dtype unwritable[] = {LORA_DTYPE_BOOL,
                                            LORA_DTYPE_F8_E8M0};
    double in[2] = {1, 2};
    double out[2] = {3, 4};

    (void)state;
    for (size_t i = 0; i < COUNT(unreadable); i++) {
        assert_int_equal(status_of(out, LORA_DTYPE_F32, in, unreadable[i], 1),
                         LORA_ERROR_DTYPE);
        assert_int_equal(status_of(out, unreadable[i], in, LORA_DTYPE_F32, 1),
                         LORA_ERROR_DTYPE);
        assert_int_equal(status_of(out, unreadable[i], in, unreadable[i], 0),
                         LORA_ERROR_DTYPE);
    }
    for (size_t i = 0; i < COUNT(unwritable); i++) {
        assert_int_equal(status_of(out, unwritable[i], in, LORA_DTYPE_F32, 1),
                         LORA_ERROR_DTYPE);
        assert_int_equal(status_of(out, unwritable[i], in, unwritable[i], 1),
                         LORA_ERROR_DTYPE);
    }
    assert_int_equal(status_of(NULL, LORA_DTYPE_F32, in, LORA_DTYPE_F64, 1),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(status_of(out, LORA_DTYPE_F32, NULL, LORA_DTYPE_F64, 1),
                     LORA_ERROR_ARGUMENT);
    assert_int_equal(
        status_of(out, LORA_DTYPE_U8, in, LORA_DTYPE_I8, UINT64_MAX),
        LORA_ERROR_ARGUMENT);
    assert_int_equal(
        status_of(out, LORA_DTYPE_F64, in, LORA_DTYPE_F32, UINT64_MAX / 4),
        LORA_ERROR_ARGUMENT);
    assert_true(out[0] == 3 && out[1] == 4);
    assert_int_equal(status_of(NULL, LORA_DTYPE_F32, NULL, LORA_DTYPE_F64, 0),
                     LORA_OK);
    assert_int_equal(status_of(NULL, LORA_DTYPE_F64, NULL, LORA_DTYPE_F64, 0),
                     LORA_OK);
    assert_int_equal(
        lora_tensor_convert(out, LORA_DTYPE_C64, in, LORA_DTYPE_F32, 1, NULL),
        LORA_ERROR_DTYPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_sizes),
        cmocka_unit_test(decoding_follows_the_definition),
        cmocka_unit_test(powers_of_two_decode),
        cmocka_unit_test(encoding_rounds_once_to_nearest_even),
        cmocka_unit_test(f64_to_f32_is_the_machines),
        cmocka_unit_test(specials_encode_as_in_torch),
        cmocka_unit_test(nans_keep_sign_and_payload),
        cmocka_unit_test(integers_saturate),
        cmocka_unit_test(integers_convert_exactly_among_themselves),
        cmocka_unit_test(all_pairs_convert_unaligned),
        cmocka_unit_test(what_cannot_be_converted_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
