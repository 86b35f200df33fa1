/* Weight changes of LoHa and LoKr, bit by bit: against plain loops in the
 * order that is promised, for every way to cut the rows, and with every set
 * of instructions left out.
 */
#include "api/support.h"

/* More rows and columns than are computed at once, and not whole multiples. */
enum {
    ROWS = 19,
    KERNEL = 3,
    COLS = 279, /* 93 inputs of 3 */
    IN = COLS / KERNEL,
    RANK1 = 5,
    RANK2 = 3,
    MOST = 2000
};

/* The factors of one module, as they are stored. */
typedef struct sample {
    const char *name;
    int is_lokr;
    int cored;
    int ranks[2];
    int shapes[2][2]; /* of LoKr: of w1 and w2 */
    float a[2][MOST];
    float b[2][MOST];
    float core[2][MOST];
} sample;

static lora_context *context;
static sample samples[] = {
    {.name = "lora_unet_loha", .ranks = {RANK1, RANK2}},
    {.name = "lora_unet_loha_cored", .cored = 1, .ranks = {RANK1, RANK2}},
    {.name = "lora_unet_lokr",
     .is_lokr = 1,
     .ranks = {RANK1, RANK2},
     .shapes = {{3, 7}, {5, 31}}},
    {.name = "lora_unet_lokr_whole", .is_lokr = 1, .shapes = {{7, 4}, {3, 40}}},
    {.name = "lora_unet_lokr_cored",
     .is_lokr = 1,
     .cored = 1,
     .ranks = {0, RANK2},
     .shapes = {{4, 3}, {6, 3 * KERNEL}}},
};

static void rough(float *out, size_t count, uint32_t *seed)
{
    for (size_t i = 0; i < count; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        out[i] = ((float)(*seed >> 8) / 16777216.0f - 0.5f) * 3.0f;
    }
}

/* A tensor of rough numbers, which are kept in `out`. */
static void put(image *im,
                const sample *s,
                const char *suffix,
                float *out,
                uint32_t *seed,
                const int *dims,
                int ndim)
{
    char name[80];
    char shape[40] = "";
    size_t count = 1;

    for (int i = 0; i < ndim; i++) {
        size_t at = strlen(shape);
        snprintf(shape + at, sizeof shape - at, "%s%d", i == 0 ? "" : ",",
                 dims[i]);
        count *= (size_t)dims[i];
    }
    assert_true(count <= MOST);
    rough(out, count, seed);
    snprintf(name, sizeof name, "%s.%s", s->name, suffix);
    image_f32(im, name, shape, out, count);
}

/* One of the two products of LoHa, or one factor of LoKr. Both shapes are of
 * the whole, its kernel in the columns. */
static void put_part(image *im,
                     sample *s,
                     int n,
                     const int whole[2],
                     const char *kind,
                     uint32_t *seed)
{
    int rank = s->ranks[n];
    int cored = s->cored && (!s->is_lokr || n == 1);
    const int core[] = {rank, rank, KERNEL};
    const int a[] = {cored ? rank : whole[0], cored ? whole[0] : rank};
    const int b[] = {rank, cored ? whole[1] / KERNEL : whole[1]};
    char suffix[20];

    if (rank == 0) {
        snprintf(suffix, sizeof suffix, "%s_w%d", kind, n + 1);
        put(im, s, suffix, s->a[n], seed, whole, 2);
        return;
    }
    snprintf(suffix, sizeof suffix, "%s_w%d_a", kind, n + 1);
    put(im, s, suffix, s->a[n], seed, a, 2);
    snprintf(suffix, sizeof suffix, "%s_w%d_b", kind, n + 1);
    put(im, s, suffix, s->b[n], seed, b, 2);
    if (cored) {
        snprintf(suffix, sizeof suffix, "%s_t%d", kind, n + 1);
        put(im, s, suffix, s->core[n], seed, core, 3);
    }
}

static void image_samples(image *im)
{
    const float alpha = 2.0f;
    uint32_t seed = 7;

    image_begin(im, NULL);
    for (size_t i = 0; i < COUNT(samples); i++) {
        static const int loha[2] = {ROWS, COLS};
        sample *s = &samples[i];
        char name[80];
        for (int n = 0; n < 2; n++) {
            put_part(im, s, n, s->is_lokr ? s->shapes[n] : loha,
                     s->is_lokr ? "lokr" : "hada", &seed);
        }
        snprintf(name, sizeof name, "%s.alpha", s->name);
        image_f32(im, name, "", &alpha, 1);
    }
    image_end(im);
}

/* ---- the formulas ------------------------------------------------------ */

/* Sums in F32 or F64: what is fused, and what is rounded after a product. */
static double fused(double a, double b, double sum, int wide)
{
    return wide ? fma(a, b, sum) : (double)fmaf((float)a, (float)b, (float)sum);
}

static double times(double a, double b, int wide)
{
    return wide ? a * b : (double)((float)a * (float)b);
}

/* An element of b with the core in it. */
static double plain_b(const sample *s, int n, int k, int j, int cols, int wide)
{
    int rank = s->ranks[n];
    double sum = 0.0;

    if (!s->cored || (s->is_lokr && n == 0)) {
        return s->b[n][k * cols + j];
    }
    for (int l = 0; l < rank; l++) {
        sum =
            fused(s->b[n][l * (cols / KERNEL) + j / KERNEL],
                  s->core[n][(k * rank + l) * KERNEL + j % KERNEL], sum, wide);
    }
    return sum;
}

/* An element of a product, or of a factor. */
static double
plain_part(const sample *s, int n, int i, int j, const int whole[2], int wide)
{
    int rank = s->ranks[n];
    int cored = s->cored && (!s->is_lokr || n == 1);
    double sum = 0.0;

    if (rank == 0) {
        return s->a[n][i * whole[1] + j];
    }
    for (int k = 0; k < rank; k++) {
        double a = s->a[n][cored ? k * whole[0] + i : i * rank + k];
        sum = fused(a, plain_b(s, n, k, j, whole[1], wide), sum, wide);
    }
    return sum;
}

/* An element of the change. */
static double plain(const sample *s, int i, int j, double strength, int wide)
{
    static const int loha[2] = {ROWS, COLS};
    const int *one = s->is_lokr ? s->shapes[0] : loha;
    const int *two = s->is_lokr ? s->shapes[1] : loha;
    int rank = s->ranks[1] != 0 ? s->ranks[1] : s->ranks[0];
    double scale = rank == 0 ? 1.0 : 2.0 / (s->is_lokr ? rank : s->ranks[0]);
    int rows = s->is_lokr ? two[0] : ROWS + 1;
    int cols = s->is_lokr ? two[1] : COLS + 1;
    double product;

    if (!s->is_lokr) {
        product = times(plain_part(s, 0, i, j, one, wide),
                        plain_part(s, 1, i, j, two, wide), wide);
    } else {
        product = times(plain_part(s, 0, i / rows, j / cols, one, wide),
                        plain_part(s, 1, i % rows, j % cols, two, wide), wide);
    }
    return times(product, strength * scale, wide);
}

/* ---- tests ------------------------------------------------------------- */

static void
dimensions(int *rows, int *cols, const lora_adapter *adapter, size_t module)
{
    lora_module_info info = {.struct_size = sizeof info};

    assert_int_equal(lora_adapter_get_module(&info, adapter, module, NULL),
                     LORA_OK);
    *rows = (int)info.shape[0];
    *cols = 1;
    for (int32_t i = 1; i < info.ndim; i++) {
        *cols *= (int)info.shape[i];
    }
}

static void read_rows(void *out,
                      const lora_adapter *adapter,
                      size_t module,
                      double strength,
                      int wide,
                      int begin,
                      int end)
{
    int rows;
    int cols;

    dimensions(&rows, &cols, adapter, module);
    assert_int_equal(
        lora_adapter_delta(out,
                           (size_t)(end - begin) * (size_t)cols *
                               (wide ? sizeof(double) : sizeof(float)),
                           adapter, module, LORA_PART_WEIGHT, strength,
                           wide ? LORA_DTYPE_F64 : LORA_DTYPE_F32, begin, end,
                           NULL),
        LORA_OK);
}

/* Each sum has one accumulator, k ascending, fused; each product is rounded
 * once. */
static void test_bits(void **state)
{
    const double strength = 0.9;
    static double got[ROWS * 2 * COLS];
    image im;
    lora_adapter *adapter;

    (void)state;
    image_samples(&im);
    adapter = open_image(context, &im);
    for (size_t n = 0; n < COUNT(samples); n++) {
        size_t module = module_at(adapter, samples[n].name);
        int rows;
        int cols;
        dimensions(&rows, &cols, adapter, module);
        assert_true((size_t)(rows * cols) <= COUNT(got));
        for (int wide = 0; wide < 2; wide++) {
            read_rows(got, adapter, module, strength, wide, 0, rows);
            for (int i = 0; i < rows * cols; i++) {
                double want =
                    plain(&samples[n], i / cols, i % cols, strength, wide);
                double value = wide ? got[i] : (double)((float *)got)[i];
                if (value != want) {
                    fail_msg("%s, F%d: element %d is %.17g, not %.17g",
                             samples[n].name, wide ? 64 : 32, i, value, want);
                }
            }
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Rows in pieces are the rows of the whole; nothing else is written. */
static void test_tilings(void **state)
{
    static unsigned char whole[ROWS * 2 * COLS * sizeof(double)];
    static unsigned char piece[sizeof whole + 1];
    image im;
    lora_adapter *adapter;

    (void)state;
    image_samples(&im);
    adapter = open_image(context, &im);
    for (size_t n = 0; n < 2 * COUNT(samples); n++) {
        size_t module = module_at(adapter, samples[n / 2].name);
        int wide = n % 2;
        int rows;
        int cols;
        dimensions(&rows, &cols, adapter, module);
        read_rows(whole, adapter, module, 1.5, wide, 0, rows);
        for (int i = 0; i <= rows; i++) {
            for (int j = i; j <= rows; j++) {
                size_t step = (size_t)cols * (wide ? 8 : 4);
                size_t bytes = (size_t)(j - i) * step;
                memset(piece, 0xEE, bytes + 1);
                read_rows(piece, adapter, module, 1.5, wide, i, j);
                assert_memory_equal(piece, whole + (size_t)i * step, bytes);
                assert_int_equal(piece[bytes], 0xEE);
            }
        }
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* With instructions left out the bits are the same. */
static void test_instructions(void **state)
{
    static double with[ROWS * 2 * COLS];
    static double without[ROWS * 2 * COLS];
    image im;
    lora_adapter *adapter;

    (void)state;
    image_samples(&im);
    adapter = open_image(context, &im);
    for (uint32_t bit = 0; bit < 33; bit++) {
        lora_context_options options;
        lora_context *plain_context;
        lora_adapter *other;

        lora_context_options_init(&options, sizeof options);
        options.disable_cpu =
            bit == 32 ? UINT32_MAX : UINT32_MAX << bit; /* from one set on */
        assert_int_equal(lora_context_create(&plain_context, &options, NULL),
                         LORA_OK);
        other = open_image(plain_context, &im);
        for (size_t n = 0; n < 2 * COUNT(samples); n++) {
            size_t module = module_at(adapter, samples[n / 2].name);
            int wide = n % 2;
            int rows;
            int cols;
            dimensions(&rows, &cols, adapter, module);
            read_rows(with, adapter, module, 0.7, wide, 0, rows);
            read_rows(without, other, module, 0.7, wide, 0, rows);
            assert_memory_equal(with, without,
                                (size_t)(rows * cols) * (wide ? 8 : 4));
        }
        lora_adapter_destroy(other);
        lora_context_destroy(plain_context);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(lora_context_create(&context, NULL, NULL), LORA_OK);
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
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_tilings),
        cmocka_unit_test(test_instructions),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
