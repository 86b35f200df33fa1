/* OFT and BOFT: weights turned by hand, rotations that are ones, the same rows
 * in any pieces, and every refusal. */
#include "api/support.h"

static lora_context *context;

#define ROWS "lora_unet_a"
#define SD_SCRIPTS "oft_unet_a"
#define PEFT "base_model.model.a"
#define NONE NAN /* no alpha */

#define EXACT "{\"use_cayley_neumann\": false}"
#define SERIES "{\"use_cayley_neumann\": true, \"peft_version\": \"0.18.0\"}"
#define TERMS(n)                                                               \
    "{\"use_cayley_neumann\": true, \"num_cayley_neumann_terms\": " #n         \
    ", \"peft_version\": \"1.0.1\"}"
/* Before 0.18, which is told so or not. */
#define OLD(n, version)                                                        \
    "{\"use_cayley_neumann\": true, \"num_cayley_neumann_terms\": " #n version \
    "}"

/* A module of one tensor of blocks, and perhaps alpha, another tensor, and
 * PEFT's configuration. */
typedef struct turning {
    const char *blocks; /* name of the tensor */
    const char *shape;
    const float *values;
    float alpha;
    const char *config;
    const char *more;
    const char *more_shape;
    const float *more_values;
} turning;

#define BLOCKS(blocks, shape, values, alpha)                                   \
    {                                                                          \
        blocks, shape, values, alpha, NULL, NULL, NULL, NULL                   \
    }
#define TOLD(blocks, shape, values, config)                                    \
    {                                                                          \
        blocks, shape, values, NONE, config, NULL, NULL, NULL                  \
    }
#define BESIDE(blocks, shape, values, alpha, more, more_shape, more_values)    \
    {                                                                          \
        blocks, shape, values, alpha, NULL, more, more_shape, more_values      \
    }

typedef struct opened {
    image im;
    lora_adapter *adapter;
} opened;

/* The product of the numbers in a text. */
static size_t elements(const char *shape)
{
    size_t product = 1;

    while (*shape != '\0') {
        char *end;
        product *= strtoul(shape, &end, 10);
        shape = *end == ',' ? end + 1 : end;
    }
    return product;
}

static void open_turning(opened *out, const turning *t, const char *metadata)
{
    lora_adapter_open_options options;
    lora_error error;
    char name[64];

    image_begin(&out->im, metadata);
    if (!isnan(t->alpha)) {
        snprintf(name, sizeof name, "%.*s.alpha",
                 (int)(strchr(t->blocks, '.') - t->blocks), t->blocks);
        image_f32(&out->im, name, "", &t->alpha, 1);
    }
    image_f32(&out->im, t->blocks, t->shape, t->values, elements(t->shape));
    if (t->more != NULL) {
        image_f32(&out->im, t->more, t->more_shape, t->more_values,
                  elements(t->more_shape));
    }
    image_end(&out->im);
    lora_adapter_open_options_init(&options, sizeof options);
    options.config = t->config;
    options.config_bytes = t->config == NULL ? 0 : strlen(t->config);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_open_memory(&out->adapter, context, out->im.file,
                                   out->im.bytes, &options, &error));
    assert_int_equal(lora_adapter_module_count(out->adapter), 1);
}

static void close_turning(opened *o)
{
    lora_adapter_destroy(o->adapter);
    image_free(&o->im);
}

static lora_tensor
view(const void *data, size_t bytes, lora_dtype dtype, int64_t a, int64_t b)
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

/* Numbers of two dimensions ---------------------------------------------- */

/* With q = 1/2 Cayley's transform is [0.6 0.8; -0.8 0.6], or its transpose. */
static const float half[4] = {0.0f, 0.5f, 0.0f, 0.0f};
static const float one[4] = {0.0f, 1.0f, 0.0f, 0.0f};
static const float two[4] = {0.0f, 2.0f, 0.0f, 0.0f};
static const float triangle[1] = {0.5f};
static const float diagonal[4] = {0.6f, 0.8f, -0.8f, 0.6f};
static const float factors[2] = {2.0f, -1.0f};

/* The alpha that limits two rows to |Q| of `half`. */
#define LIMIT 0.353553390593f

static const struct {
    turning t;
    double strength;
    double want[4];    /* of [1 2; 3 4] */
    double between[4]; /* the same, interpolated; all 0: as `want` */
} plane_cases[] = {
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", half, 0), 1, {-1.8, -2, 2.6, 4}, {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", half, NONE),
     1,
     {-1.8, -2, 2.6, 4},
     {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", half, 0), 0.5, {-0.4, 0, 2.8, 4}, {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", half, 0), 0, {1, 2, 3, 4}, {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", two, LIMIT),
     1,
     {-1.8, -2, 2.6, 4},
     {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", half, 1), 1, {-1.8, -2, 2.6, 4}, {0}},
    {BLOCKS(SD_SCRIPTS ".oft_blocks", "1,2,2", half, 0), 1, {1, 2, 3, 4}, {0}},
    {BLOCKS(SD_SCRIPTS ".oft_blocks", "1,2,2", half, 1),
     1,
     {-1.8, -2, 2.6, 4},
     {0}},
    {BLOCKS(SD_SCRIPTS ".oft_blocks", "1,2,2", two, LIMIT),
     1,
     {-1.8, -2, 2.6, 4},
     {0}},
    {BLOCKS(ROWS ".oft_diag", "1,2,2", diagonal, 0),
     1,
     {-1.8, -2, 2.6, 4},
     {0}},
    {BLOCKS(ROWS ".oft_diag", "1,2,2", diagonal, 0),
     0.5,
     {-0.4, 0, 2.8, 4},
     {0}},
    {BESIDE(
         ROWS ".oft_blocks", "1,2,2", half, 0, ROWS ".rescale", "2,1", factors),
     1,
     {-3.6, -4, -2.6, -4},
     {0}},
    {BESIDE(ROWS ".oft_blocks",
            "1,2,2",
            half,
            0,
            ROWS ".rescale",
            "2,1,1,1",
            factors),
     0.5,
     {-0.8, 0, -2.8, -4},
     {-1.3, -1, 0.2, 0}},
    {BESIDE(
         ROWS ".oft_blocks", "1,2,2", half, 0, ROWS ".rescale", "2", factors),
     0,
     {2, 4, -3, -4},
     {1, 2, 3, 4}},
    {BLOCKS(ROWS ".oft_blocks", "1,1,2,2", half, 0), 1, {3, 4.4, 1, 0.8}, {0}},
    {BESIDE(ROWS ".oft_blocks",
            "1,1,2,2",
            half,
            0,
            ROWS ".rescale",
            "2,1",
            factors),
     1,
     {6, 8.8, -1, -0.8},
     {0}},
    {BLOCKS(ROWS ".oft_blocks", "1,1,2,2", two, LIMIT),
     0.5,
     {2, 3.2, 2, 2.4},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, EXACT),
     1,
     {-1, 2, -1.4, 4.8},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, EXACT),
     0.5,
     {0, 2, 0.8, 4.4},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, SERIES),
     1,
     {2.0625, 0.375, 4.6875, 0},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, TERMS(5)),
     1,
     {2.0625, 0.375, 4.6875, 0},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, TERMS(1)),
     1,
     {1, 2, 3, 4},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, TERMS(2)),
     1,
     {3, 1, 7, 1},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, TERMS(3)),
     1,
     {2.25, 0.125, 5, -0.625},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, TERMS(4)),
     1,
     {2.25, 0.125, 5, -0.625},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, OLD(1, "")),
     1,
     {1, 2, 3, 4},
     {0}},
    {TOLD(PEFT ".oft_R.weight", "1,1", triangle, OLD(2, "")),
     1,
     {3, 1, 7, 1},
     {0}},
    {TOLD(PEFT ".oft_R.weight",
          "1,1",
          triangle,
          OLD(3, ", \"peft_version\": \"0.17.1\"")),
     1,
     {2.5, 0.0, 5.5, -1},
     {0}},
    {TOLD(PEFT ".oft_R.weight",
          "1,1",
          triangle,
          OLD(5, ", \"peft_version\": \"0.9.0\"")),
     1,
     {2.125, 0.5, 4.875, 0.25},
     {0}},
    {TOLD(PEFT ".oft_R.weight",
          "1,1",
          triangle,
          "{\"coft\": true, \"eps\": 0.353553390593, \"block_share\": true, "
          "\"use_cayley_neumann\": false}"),
     1,
     {-0.0588235294118, 2.23529411765, 0.764705882353, 4.94117647059},
     {0}},
    {BESIDE(
         PEFT ".boft_R", "1,1,2,2", one, NONE, PEFT ".boft_s", "2,1", factors),
     1,
     {-2, 4, 1.4, -4.8},
     {0}},
    {BESIDE(
         PEFT ".boft_R", "1,1,2,2", one, NONE, PEFT ".boft_s", "1,2", factors),
     0.5,
     {-0.5, 3, 2.2, -0.4},
     {0}},
    {BLOCKS(PEFT ".boft_R", "1,1,2,2", one, NONE), 1, {-1, 2, -1.4, 4.8}, {0}},
};

static void test_plane(void **state)
{
    static const double base[4] = {1.0, 2.0, 3.0, 4.0};
    const lora_tensor weight = view(base, sizeof base, LORA_DTYPE_F64, 2, 2);
    lora_adapter_delta_base_options options;
    lora_error error;
    opened o;

    (void)state;
    for (size_t c = 0; c < COUNT(plane_cases); c++) {
        const double *want = plane_cases[c].want;
        const double *between = plane_cases[c].between;
        double got[4];
        if (memcmp(between, (const double[4]){0}, sizeof got) == 0) {
            between = want;
        }
        open_turning(&o, &plane_cases[c].t, NULL);
        lora_adapter_delta_base_options_init(&options, sizeof options);
        for (int rule = 0; rule < 2; rule++) {
            options.strength_rule =
                rule ? LORA_STRENGTH_INTERPOLATE : LORA_STRENGTH_ORIGIN;
            for (uint32_t weights = 0; weights < 2; weights++) {
                options.weights = weights;
                CHECK(LORA_OK, LORA_NO_OFFSET, "",
                      lora_adapter_delta_base(
                          got, sizeof got, o.adapter, 0, LORA_PART_WEIGHT,
                          plane_cases[c].strength, LORA_DTYPE_F64, 0, 2,
                          &weight, NULL, &options, &error));
                /* Limits are of f32, trainers add 1e-8 to norms. */
                for (int i = 0; i < 4; i++) {
                    double value = got[i] + (weights ? 0.0 : base[i]);
                    assert_true(fabs(value - (rule ? between : want)[i]) <
                                3e-7);
                }
            }
        }
        close_turning(&o);
    }
}

/* kohya's trainer is told by the metadata too: with an alpha of 0 nothing is
 * turned. */
static void test_trainer(void **state)
{
    static const float base[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    static const struct {
        const char *metadata;
        int turns;
    } cases[] = {
        {"\"ss_network_module\":\"networks.oft\"", 0},
        {"\"ss_network_module\":\"networks.oft_flux\"", 0},
        {"\"ss_network_module\":\"lycoris.kohya\"", 1},
        {"\"note\":\"networks.oft\"", 1},
    };
    const turning t = BLOCKS(ROWS ".oft_blocks", "1,2,2", half, 0);
    const lora_tensor weight = view(base, sizeof base, LORA_DTYPE_F32, 2, 2);
    lora_error error;
    opened o;
    float got[4];

    (void)state;
    for (size_t c = 0; c < COUNT(cases); c++) {
        open_turning(&o, &t, cases[c].metadata);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                      LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0,
                                      2, &weight, NULL, NULL, &error));
        assert_true((fabsf(got[0]) > 1.0f) == cases[c].turns);
        assert_true((fabsf(got[0]) < 1e-6f) == !cases[c].turns);
        close_turning(&o);
    }
}

/* Rotations of any size --------------------------------------------------- */

enum { SIDE = 24 };

/* Of a weight [SIDE, SIDE]; `piece` has the last of its rows. */
static const struct {
    const char *blocks;
    const char *shape;
    const char *config;
    const char *piece;
    const char *piece_shape;
} size_cases[] = {
    {ROWS ".oft_blocks", "24,1,1", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "8,3,3", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "1,24,24", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "1,4,6,6", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "2,2,12,12", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "3,12,2,2", NULL, NULL, NULL},
    {ROWS ".oft_blocks", "3,4,6,6", NULL, NULL, NULL},
    {SD_SCRIPTS ".oft_blocks", "3,8,8", NULL, NULL, NULL},
    {SD_SCRIPTS ".oft_blocks.0", "2,4,4", NULL, SD_SCRIPTS ".oft_blocks.1",
     "2,8,8"},
    {SD_SCRIPTS ".oft_blocks.0", "1,17,17", NULL, SD_SCRIPTS ".oft_blocks.1",
     "1,7,7"},
    {SD_SCRIPTS ".oft_blocks.0", "3,1,1", NULL, SD_SCRIPTS ".oft_blocks.1",
     "3,7,7"},
    {PEFT ".oft_R.weight", "12,1", EXACT, NULL, NULL},
    {PEFT ".oft_R.weight", "8,3", EXACT, NULL, NULL},
    {PEFT ".oft_R.weight", "1,276", EXACT, NULL, NULL},
    {PEFT ".oft_R.weight", "1,15",
     "{\"use_cayley_neumann\": false, \"block_share\": true}", NULL, NULL},
    {PEFT ".boft_R", "1,8,3,3", NULL, NULL, NULL},
    {PEFT ".boft_R", "2,4,6,6", NULL, NULL, NULL},
    {PEFT ".boft_R", "3,12,2,2", NULL, NULL, NULL},
};

static void
open_size(opened *o, size_t c, const float *values, lora_tensor *weight)
{
    const turning t = {size_cases[c].blocks,
                       size_cases[c].shape,
                       values,
                       8,
                       size_cases[c].config,
                       size_cases[c].piece,
                       size_cases[c].piece_shape,
                       values};

    open_turning(o, &t, NULL);
    weight->shape[0] = weight->shape[1] = SIDE;
    weight->ndim = 2;
    weight->dtype = LORA_DTYPE_F64;
    weight->bytes = SIDE * SIDE * sizeof(double);
}

/* What an identity becomes has rows at right angles, of norm 1: W' W'^T = I, to
 * some 24 roundings of what is 1 at most, times the condition of what was
 * solved for, which is below |Q| < 30, by stage. */
static void test_rotations(void **state)
{
    lora_adapter_delta_base_options options;
    double identity[SIDE * SIDE] = {0};
    double got[SIDE * SIDE];
    float values[SIDE * SIDE];
    lora_tensor weight = {0};
    lora_error error;
    opened o;

    (void)state;
    for (size_t i = 0; i < SIDE; i++) {
        identity[i * SIDE + i] = 1.0;
    }
    weight.data = identity;
    some_numbers(values, COUNT(values), 3);
    lora_adapter_delta_base_options_init(&options, sizeof options);
    options.weights = 1;
    for (size_t c = 0; c < COUNT(size_cases); c++) {
        double moved = 0.0;
        open_size(&o, c, values, &weight);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                      LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F64, 0,
                                      SIDE, &weight, NULL, &options, &error));
        for (size_t i = 0; i < SIDE * SIDE; i++) {
            double sum = identity[i];
            for (size_t k = 0; k < SIDE; k++) {
                sum -= got[i / SIDE * SIDE + k] * got[i % SIDE * SIDE + k];
            }
            assert_true(fabs(sum) < 3 * SIDE * 30 * 2.2e-16);
            moved += fabs(got[i] - identity[i]);
        }
        assert_true((moved > 1.0) ==
                    (strcmp(size_cases[c].shape, "24,1,1") != 0));
        close_turning(&o);
    }
}

/* Blocks of zeros, and such as are their own transpose, turn nothing at all. */
static void test_still(void **state)
{
    float values[SIDE * SIDE] = {0};
    double numbers[SIDE * SIDE];
    double got[SIDE * SIDE];
    lora_tensor weight = {0};
    lora_error error;
    opened o;

    (void)state;
    for (size_t i = 0; i < SIDE * SIDE; i++) {
        numbers[i] = 1.0 / (double)(i + 3);
    }
    weight.data = numbers;
    for (size_t c = 0; c < COUNT(size_cases); c++) {
        int triangles = strstr(size_cases[c].blocks, "oft_R.weight") != NULL;
        for (size_t i = 0; i < COUNT(values); i++) {
            values[i] = 0.0f;
        }
        for (int round = 0; round < (triangles ? 1 : 2); round++) {
            open_size(&o, c, values, &weight);
            CHECK(LORA_OK, LORA_NO_OFFSET, "",
                  lora_adapter_delta_base(
                      got, sizeof got, o.adapter, 0, LORA_PART_WEIGHT, -3.0,
                      LORA_DTYPE_F64, 0, SIDE, &weight, NULL, NULL, &error));
            for (size_t i = 0; i < SIDE * SIDE; i++) {
                assert_true(got[i] == 0.0);
            }
            close_turning(&o);
            for (size_t i = 0; i < COUNT(values); i++) {
                values[i] = 3.0f;
            }
        }
    }
}

/* The same bits for rows one by one, by fives and all at once, in any order. */
static void test_pieces(void **state)
{
    static const int64_t steps[] = {1, 5, 7, 16, 23};
    float values[SIDE * SIDE];
    double numbers[SIDE * SIDE];
    double whole[SIDE * SIDE];
    double piece[SIDE * SIDE];
    lora_tensor weight = {0};
    lora_error error;
    opened o;

    (void)state;
    some_numbers(values, COUNT(values), 3);
    for (size_t i = 0; i < SIDE * SIDE; i++) {
        numbers[i] = (double)values[i] / 3.0;
    }
    weight.data = numbers;
    for (size_t c = 0; c < 2 * COUNT(size_cases); c++) {
        lora_dtype dtype = c % 2 == 0 ? LORA_DTYPE_F32 : LORA_DTYPE_F64;
        size_t row = SIDE * lora_dtype_bits(dtype) / 8;
        open_size(&o, c / 2, values, &weight);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(whole, SIDE * row, o.adapter, 0,
                                      LORA_PART_WEIGHT, 0.5, dtype, 0, SIDE,
                                      &weight, NULL, NULL, &error));
        for (size_t s = 0; s < COUNT(steps); s++) {
            for (int64_t i = 0; i < SIDE; i += steps[s]) {
                int64_t end = SIDE - i < steps[s] ? SIDE : i + steps[s];
                size_t bytes = (size_t)(end - i) * row;
                CHECK(LORA_OK, LORA_NO_OFFSET, "",
                      lora_adapter_delta_base(
                          piece, bytes, o.adapter, 0, LORA_PART_WEIGHT, 0.5,
                          dtype, i, end, &weight, NULL, NULL, &error));
                assert_memory_equal(
                    piece, (const char *)whole + (size_t)i * row, bytes);
            }
        }
        close_turning(&o);
    }
}

/* Biases and refusals ----------------------------------------------------- */

/* A difference of the bias is no rotation's: it is added, m times. */
static void test_bias(void **state)
{
    static const double bias[2] = {8.0, -2.0};
    const turning t = BESIDE(ROWS ".oft_blocks", "1,2,2", half, 0,
                             ROWS ".diff_b", "2", factors);
    const lora_tensor b = view(bias, sizeof bias, LORA_DTYPE_F64, 2, 0);
    lora_adapter_delta_base_options options;
    lora_module_info info = {.struct_size = sizeof info};
    lora_error error;
    opened o;
    double got[2];

    (void)state;
    open_turning(&o, &t, NULL);
    assert_int_equal(lora_adapter_get_module(&info, o.adapter, 0, NULL),
                     LORA_OK);
    assert_int_equal(info.changes, LORA_PART_WEIGHT | LORA_PART_BIAS);
    lora_adapter_delta_base_options_init(&options, sizeof options);
    for (int rule = 0; rule < 2; rule++) {
        options.strength_rule = rule;
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                      LORA_PART_BIAS, 0.5, LORA_DTYPE_F64, 0, 2,
                                      NULL, &b, &options, &error));
        assert_true(got[0] == 1.0 && got[1] == -0.5);
    }
    close_turning(&o);
}

static const float broken[2][4] = {{0.0f, NAN, 0.0f, 0.0f},
                                   {INFINITY, 0.0f, 0.0f, 0.0f}};
static const float three[3] = {1.0f, 1.0f, 1.0f};

/* Of a base [2, 4], with the name of the module. */
static const struct {
    turning t;
    lora_status status;
} bad_cases[] = {
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", broken[0], 0), LORA_ERROR_NONFINITE},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", broken[0], 1), LORA_ERROR_NONFINITE},
    {BLOCKS(ROWS ".oft_blocks", "1,2,2", broken[1], 1), LORA_ERROR_NONFINITE},
    {BLOCKS(ROWS ".oft_blocks", "1,1,2,2", broken[1], 0), LORA_ERROR_NONFINITE},
    {BLOCKS(ROWS ".oft_diag", "1,2,2", broken[0], 0), LORA_ERROR_NONFINITE},
    {BLOCKS(SD_SCRIPTS ".oft_blocks", "1,2,2", broken[0], 1),
     LORA_ERROR_NONFINITE},
    {TOLD(PEFT ".oft_R.weight", "2,1", broken[0], EXACT), LORA_ERROR_NONFINITE},
    {TOLD(PEFT ".oft_R.weight", "2,1", broken[1], TERMS(9)),
     LORA_ERROR_NONFINITE},
    {TOLD(PEFT ".oft_R.weight",
          "2,1",
          broken[1],
          "{\"coft\": true, \"use_cayley_neumann\": true}"),
     LORA_ERROR_NONFINITE},
    {BLOCKS(PEFT ".boft_R", "1,1,2,2", broken[0], NONE), LORA_ERROR_SHAPE},
    {BESIDE(SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half,
            1,
            SD_SCRIPTS ".oft_blocks.1",
            "1,2,2",
            half),
     LORA_ERROR_SHAPE},
    {BESIDE(SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half,
            1,
            SD_SCRIPTS ".oft_blocks.1",
            "1,1,1",
            broken[1]),
     LORA_ERROR_NONFINITE},
    {BESIDE(SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half,
            1,
            SD_SCRIPTS ".oft_blocks.1",
            "2,1,1",
            half),
     LORA_ERROR_SHAPE},
    {BESIDE(SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half,
            1,
            SD_SCRIPTS ".oft_blocks.2",
            "1,1,1",
            half),
     LORA_ERROR_KEY},
    {BESIDE(SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half,
            NONE,
            SD_SCRIPTS ".oft_blocks.1",
            "1,1,1",
            half),
     LORA_ERROR_KEY},
    {BESIDE(SD_SCRIPTS ".oft_blocks",
            "1,1,1",
            half,
            1,
            SD_SCRIPTS ".oft_blocks.0",
            "1,1,1",
            half),
     LORA_ERROR_KEY},
    {BLOCKS(SD_SCRIPTS ".oft_blocks.1", "1,2,2", half, 1), LORA_ERROR_KEY},
    {BLOCKS(ROWS ".oft_blocks", "1,1,1", half, 0), LORA_ERROR_SHAPE},
    {BLOCKS(ROWS ".oft_blocks", "4,1,1", half, 0), LORA_ERROR_SHAPE},
    {BLOCKS(ROWS ".oft_blocks", "1,2,1,1", half, 0), LORA_ERROR_SHAPE},
    {BLOCKS(ROWS ".oft_blocks", "2,1,1,1", half, 0), LORA_ERROR_SHAPE},
    {BLOCKS(ROWS ".oft_blocks", "1,1,2", half, 0), LORA_ERROR_SHAPE},
    {BLOCKS(ROWS ".oft_blocks", "2,2", half, 0), LORA_ERROR_SHAPE},
    {BESIDE(ROWS ".oft_blocks",
            "1,2,2",
            half,
            NAN,
            ROWS ".alpha",
            "1",
            broken[0] + 1),
     LORA_ERROR_NONFINITE},
    {BESIDE(ROWS ".oft_blocks", "1,2,2", half, 0, ROWS ".rescale", "3", three),
     LORA_ERROR_SHAPE},
    {BESIDE(ROWS ".oft_blocks", "1,2,2", half, 0, ROWS ".diff_b", "3", three),
     LORA_ERROR_SHAPE},
    {BESIDE(
         ROWS ".oft_blocks", "1,2,2", half, 0, ROWS ".oft_diag", "1,2,2", half),
     LORA_ERROR_UNSUPPORTED},
    {BESIDE(ROWS ".oft_blocks",
            "1,2,2",
            half,
            0,
            ROWS ".dora_scale",
            "2,1",
            three),
     LORA_ERROR_UNSUPPORTED},
    {BLOCKS(SD_SCRIPTS ".oft_blocks", "1,2,2", half, NONE), LORA_ERROR_KEY},
    {BLOCKS(PEFT ".oft_R.weight", "2,1", half, NONE), LORA_ERROR_KEY},
    {TOLD(PEFT ".oft_R.weight", "2,1", half, "{\"coft\": true}"),
     LORA_ERROR_KEY},
    {TOLD(PEFT ".oft_R.weight", "1,1", half, EXACT), LORA_ERROR_SHAPE},
    {TOLD(PEFT ".oft_R.weight",
          "1,3",
          half,
          "{\"use_cayley_neumann\": false, \"block_share\": true}"),
     LORA_ERROR_SHAPE},
    {TOLD(PEFT ".oft_R.weight", "1,2", half, EXACT), LORA_ERROR_SHAPE},
    {TOLD(PEFT ".oft_R.weight", "2,1", half, TERMS(1025)), LORA_ERROR_LIMIT},
    {TOLD(PEFT ".oft_R.weight",
          "2,1",
          half,
          "{\"use_cayley_neumann\": false, \"fan_in_fan_out\": true}"),
     LORA_ERROR_UNSUPPORTED},
    {TOLD(PEFT ".oft_r", "2,1", half, EXACT), LORA_ERROR_UNSUPPORTED},
    {BESIDE(
         PEFT ".boft_R", "1,4,1,1", half, NONE, PEFT ".boft_s", "3,1", three),
     LORA_ERROR_SHAPE},
    {BESIDE(
         PEFT ".boft_R", "1,4,1,1", half, NONE, PEFT ".rescale", "2,1", three),
     LORA_ERROR_UNSUPPORTED},
};

static void test_refused(void **state)
{
    static const float base[8] = {1.0f, 2.0f, 3.0f, 4.0f};
    const lora_tensor weight = view(base, sizeof base, LORA_DTYPE_F32, 2, 4);
    lora_error error;
    opened o;
    float got[8];

    (void)state;
    for (size_t c = 0; c < COUNT(bad_cases); c++) {
        lora_module_info info = {.struct_size = sizeof info};
        open_turning(&o, &bad_cases[c].t, NULL);
        assert_int_equal(lora_adapter_get_module(&info, o.adapter, 0, NULL),
                         LORA_OK);
        CHECK(bad_cases[c].status, ANY_OFFSET, info.name,
              lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                      LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0,
                                      2, &weight, NULL, NULL, &error));
        close_turning(&o);
    }
}

/* A vector has no blocks to turn, and without a base there is nothing. */
static void test_bases(void **state)
{
    static const float base[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    const turning t = BLOCKS(ROWS ".oft_blocks", "2,2,2", one, 0);
    const lora_tensor flat = view(base, sizeof base, LORA_DTYPE_F32, 4, 0);
    float values[8] = {0};
    turning full = t;
    lora_error error;
    opened o;
    float got[4];

    (void)state;
    full.values = values;
    open_turning(&o, &full, NULL);
    CHECK(LORA_ERROR_SHAPE, LORA_NO_OFFSET, ROWS,
          lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                  LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0, 4,
                                  &flat, NULL, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, ROWS,
          lora_adapter_delta_base(got, sizeof got, o.adapter, 0,
                                  LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F32, 0, 4,
                                  NULL, NULL, NULL, &error));
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, ROWS,
          lora_adapter_delta(got, sizeof got, o.adapter, 0, LORA_PART_WEIGHT,
                             1.0, LORA_DTYPE_F32, 0, 4, &error));
    close_turning(&o);
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
        cmocka_unit_test(test_plane),     cmocka_unit_test(test_trainer),
        cmocka_unit_test(test_rotations), cmocka_unit_test(test_still),
        cmocka_unit_test(test_pieces),    cmocka_unit_test(test_bias),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_bases),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
