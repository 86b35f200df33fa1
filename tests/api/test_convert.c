/* Conversion: names, number types, baked scales, and back again. */
#include "api/reader.h"

static lora_context *context;

/* Dialects that hold a pair of SD 1.5. Where there is no place for alpha, the
 * scale goes into the factors, and the way back does not know it. */
static const struct {
    const char *id;
    int keeps_alpha;
} dialects[] = {{"kohya", 1},     {"diffusers-old", 0},  {"diffusers-unet", 0},
                {"diffusers", 1}, {"diffusers-peft", 1}, {"peft", 1}};

static lora_status convert(lora_adapter **out,
                           const lora_adapter *adapter,
                           const char *dialect,
                           lora_dtype dtype,
                           uint32_t bake,
                           lora_error *error)
{
    lora_adapter_convert_options options;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = dialect;
    options.dtype = dtype;
    options.bake_alpha = bake;
    *out = JUNK(lora_adapter);
    return lora_adapter_convert(out, adapter, &options, error);
}

static void test_nothing(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_convert(&out, adapter, NULL, &error));
    assert_same_file(out, adapter);
    lora_adapter_destroy(out);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, "keep", LORA_DTYPE_NONE, 0, &error));
    assert_same_file(out, adapter);
    lora_adapter_destroy(out);
    /* Its own dialect and type: nothing to do either. */
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, "kohya", LORA_DTYPE_NONE, 0, &error));
    assert_same_file(out, adapter);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_names(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_pairs(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, "diffusers", LORA_DTYPE_NONE, 0, &error));
    assert_int_equal(lora_adapter_tensor_count(out), 4);
    tensor_at(out, SAMPLE_Q_TARGET ".lora_A.weight");
    tensor_at(out, SAMPLE_Q_TARGET ".lora_B.weight");
    assert_non_null(lora_adapter_find_metadata(out, "lora_adapter_metadata"));
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Every dialect and back: the same bytes, and the same change in between. */
static void test_there_and_back(void **state)
{
    image im;
    lora_adapter *adapter;

    (void)state;
    image_pairs(&im);
    adapter = open_image(context, &im);
    for (size_t i = 0; i < COUNT(dialects); i++) {
        lora_adapter *there;
        lora_adapter *back;
        double a[24];
        double b[24];
        lora_error error;
        size_t at;

        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&there, adapter, dialects[i].id, LORA_DTYPE_NONE, 0,
                      &error));
        assert_int_equal(lora_adapter_module_count(there), 2);
        at = module_at(there, SAMPLE_Q_TARGET);
        assert_int_equal(lora_adapter_delta(a, sizeof a, there, at,
                                            LORA_PART_WEIGHT, 1.0,
                                            LORA_DTYPE_F64, 0, 4, NULL),
                         LORA_OK);
        at = module_at(adapter, SAMPLE_Q_TARGET);
        assert_int_equal(lora_adapter_delta(b, sizeof b, adapter, at,
                                            LORA_PART_WEIGHT, 1.0,
                                            LORA_DTYPE_F64, 0, 4, NULL),
                         LORA_OK);
        for (size_t k = 0; k < COUNT(a); k++) {
            /* alpha/rank is 0.5: exact also where it is baked in */
            assert_true(a[k] == b[k]);
        }
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&back, there, "kohya", LORA_DTYPE_NONE, 0, &error));
        if (dialects[i].keeps_alpha) {
            assert_same_file(back, adapter);
        }
        lora_adapter_destroy(back);
        lora_adapter_destroy(there);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

#define LAYER(n) UNET "attentions_0_transformer_blocks_0_attn" n

/* Alphas in every manner trainers store them: several types, of one dimension,
 * zero, none at all. All come back as they were. */
static void image_alphas(image *im)
{
    static const char *const layers[] = {LAYER("1_to_k"), LAYER("1_to_q"),
                                         LAYER("1_to_v"), LAYER("2_to_k"),
                                         LAYER("2_to_q"), LAYER("2_to_v")};
    const double wide = 0.1;
    const float alphas[] = {2.0f, 0.0f, 5.0f};
    const uint16_t half = 0x3E00; /* 1.5 */

    image_begin(im, SAMPLE_BASE);
    image_raw(im, LAYER("2_to_q") ".alpha", "F64", "", &wide, 8);
    image_f32(im, LAYER("1_to_k") ".alpha", "", &alphas[0], 1);
    for (size_t i = 0; i < COUNT(layers); i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.lora_down.weight", layers[i]);
        if (i == 1) {
            image_f32(im, LAYER("1_to_q") ".alpha", "", &alphas[1], 1);
        } else if (i == 2) {
            image_f32(im, LAYER("1_to_v") ".alpha", "1", &alphas[2], 1);
        }
        image_some(im, name, "2,3", 6, (uint32_t)i);
        snprintf(name, sizeof name, "%s.lora_up.weight", layers[i]);
        image_some(im, name, "4,2", 8, 10 + (uint32_t)i);
    }
    image_raw(im, LAYER("2_to_v") ".alpha", "F16", "", &half, 2);
    image_end(im);
}

static void test_alphas_there_and_back(void **state)
{
    static const char *const ways[] = {"diffusers", "diffusers-peft", "peft"};
    image im;
    lora_adapter *adapter;
    size_t bytes;
    unsigned char *file;

    (void)state;
    image_alphas(&im);
    adapter = open_image(context, &im);
    file = saved_bytes(adapter, &bytes);
    assert_int_equal(bytes, im.bytes);
    assert_memory_equal(file, im.file, bytes);
    free(file);
    for (size_t i = 0; i < COUNT(ways); i++) {
        lora_adapter *there;
        lora_adapter *back;
        lora_error error;

        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&there, adapter, ways[i], LORA_DTYPE_NONE, 0, &error));
        for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
            lora_module_info a = {.struct_size = sizeof a};
            lora_module_info b = {.struct_size = sizeof b};
            assert_int_equal(lora_adapter_get_module(&a, adapter, m, NULL),
                             LORA_OK);
            assert_int_equal(lora_adapter_get_module(
                                 &b, there, module_at(there, a.target), NULL),
                             LORA_OK);
            assert_true(a.scale == b.scale);
        }
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&back, there, "kohya", LORA_DTYPE_NONE, 0, &error));
        assert_same_file(back, adapter);
        lora_adapter_destroy(back);
        lora_adapter_destroy(there);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Half the digits: each value is the nearest, as lora_tensor_convert() has
 * it; alpha stays what it is. */
static void test_dtype(void **state)
{
    static const lora_dtype dtypes[] = {LORA_DTYPE_F16, LORA_DTYPE_BF16,
                                        LORA_DTYPE_F8_E4M3, LORA_DTYPE_F64};
    image im;
    lora_adapter *adapter;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        size_t size = lora_dtype_bits(dtypes[i]) / 8;
        lora_adapter *out;
        lora_error error;

        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&out, adapter, NULL, dtypes[i], 0, &error));
        for (size_t t = 0; t < lora_adapter_tensor_count(adapter); t++) {
            lora_tensor_info from = {.struct_size = sizeof from};
            lora_tensor_info to = {.struct_size = sizeof to};
            float values[64];
            unsigned char expected[64 * 8];
            unsigned char got[64 * 8];
            size_t at;
            size_t count;

            assert_int_equal(
                lora_adapter_get_tensor_info(&from, adapter, t, NULL), LORA_OK);
            at = tensor_at(out, from.name);
            assert_int_equal(lora_adapter_get_tensor_info(&to, out, at, NULL),
                             LORA_OK);
            assert_int_equal(to.ndim, from.ndim);
            if (strcmp(from.role, "alpha") == 0) {
                continue;
            }
            assert_int_equal(to.dtype, dtypes[i]);
            count = (size_t)from.bytes / 4;
            assert_int_equal(to.bytes, count * size);
            assert_int_equal(lora_adapter_read_tensor(values, count * 4,
                                                      adapter, t, 0, NULL),
                             LORA_OK);
            assert_int_equal(
                lora_adapter_read_tensor(got, count * size, out, at, 0, NULL),
                LORA_OK);
            assert_int_equal(lora_tensor_convert(expected, dtypes[i], values,
                                                 LORA_DTYPE_F32, count, NULL),
                             LORA_OK);
            assert_memory_equal(got, expected, count * size);
        }
        for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
            lora_module_info a = {.struct_size = sizeof a};
            lora_module_info b = {.struct_size = sizeof b};
            assert_int_equal(lora_adapter_get_module(&a, adapter, m, NULL),
                             LORA_OK);
            assert_int_equal(
                lora_adapter_get_module(&b, out, module_at(out, a.name), NULL),
                LORA_OK);
            assert_true(a.alpha == b.alpha && a.scale == b.scale);
        }
        lora_adapter_destroy(out);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_bake(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, NULL, LORA_DTYPE_NONE, 1, &error));
    for (size_t m = 0; m < lora_adapter_module_count(adapter); m++) {
        lora_module_info a = {.struct_size = sizeof a};
        lora_module_info b = {.struct_size = sizeof b};
        size_t at;
        double x[256];
        double y[256];
        size_t count = 1;

        assert_int_equal(lora_adapter_get_module(&a, adapter, m, NULL),
                         LORA_OK);
        at = module_at(out, a.name);
        assert_int_equal(lora_adapter_get_module(&b, out, at, NULL), LORA_OK);
        assert_true(b.scale == 1.0);
        for (int32_t i = 0; i < a.ndim; i++) {
            count *= (size_t)a.shape[i];
        }
        assert_int_equal(
            lora_adapter_delta(x, count * 8, adapter, m, LORA_PART_WEIGHT, 1.0,
                               LORA_DTYPE_F64, 0, a.shape[0], NULL),
            LORA_OK);
        assert_int_equal(
            lora_adapter_delta(y, count * 8, out, at, LORA_PART_WEIGHT, 1.0,
                               LORA_DTYPE_F64, 0, a.shape[0], NULL),
            LORA_OK);
        for (size_t i = 0; i < count; i++) {
            assert_true(x[i] == y[i]); /* scales are powers of two */
        }
    }
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_refused(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_convert_options options;
    lora_error error;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK_ARGUMENT(lora_adapter_convert(NULL, adapter, NULL, &error));
    CHECK_ARGUMENT(lora_adapter_convert(&out, NULL, NULL, &error));
    assert_null(out);
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "klingon",
          convert(&out, adapter, "klingon", LORA_DTYPE_NONE, 0, &error));
    assert_null(out);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.family = "sd0";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "sd0",
          lora_adapter_convert(&out, adapter, &options, &error));
    options.family = NULL;
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_adapter_convert(&out, adapter, &options, &error));
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          convert(&out, adapter, NULL, LORA_DTYPE_I32, 0, &error));
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          convert(&out, adapter, NULL, 99, 0, &error));
    assert_null(out);
    /* A core has no name there. */
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, NULL,
          convert(&out, adapter, "diffusers-old", LORA_DTYPE_NONE, 0, &error));
    assert_null(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Modules that stand in the way: unknown names, halves, values too large. */
static void test_refused_modules(void **state)
{
    const float large[2] = {1.0f, 70000.0f};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter_convert_options options;
    lora_error error;

    (void)state;
    image_begin(&im, NULL);
    image_some(&im, "lora_unet_nobody.lora_down.weight", "1,2", 2, 1);
    image_some(&im, "lora_unet_nobody.lora_up.weight", "2,1", 2, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          convert(&out, adapter, "diffusers", LORA_DTYPE_NONE, 0, &error));
    assert_non_null(strstr(error.subject, "nobody"));
    assert_null(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_f32(&im, SAMPLE_K ".lora_down.weight", "1,2", large, 2);
    image_some(&im, SAMPLE_K ".lora_up.weight", "2,1", 2, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_NONFINITE, LORA_NO_OFFSET, SAMPLE_K ".lora_down.weight",
          convert(&out, adapter, NULL, LORA_DTYPE_F16, 0, &error));
    assert_null(out);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, NULL, LORA_DTYPE_BF16, 0, &error));
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_some(&im, SAMPLE_K ".lora_down.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_Q ".lora_down.weight", "1,2", 2, 1);
    image_some(&im, SAMPLE_Q ".lora_up.weight", "2,1", 2, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, SAMPLE_K,
          convert(&out, adapter, "peft", LORA_DTYPE_NONE, 0, &error));
    assert_null(out);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.skip_bad = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_convert(&out, adapter, &options, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_some(&im, "weight", "1,2", 2, 1);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          convert(&out, adapter, "peft", LORA_DTYPE_NONE, 0, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* A module's weight change, which has `count` elements. */
static void
change(double *out, const lora_adapter *adapter, const char *name, size_t count)
{
    lora_module_info module = {.struct_size = sizeof module};
    size_t at = module_at(adapter, name);

    assert_int_equal(lora_adapter_get_module(&module, adapter, at, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_delta(out, count * sizeof *out, adapter, at,
                                        LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F64,
                                        0, module.shape[0], NULL),
                     LORA_OK);
}

static void assert_equal_numbers(const double *a, const double *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_true(a[i] == b[i]);
    }
}

/* One weight for three layers, and one with its halves swapped: rows of the
 * change, and the same file again. */
static void test_split(void **state)
{
    static const char *const parts[] = {"to_q", "to_k", "to_v"};
    static const char *const added[] = {"add_q_proj", "add_k_proj",
                                        "add_v_proj"};
    static const char *const ways[] = {"diffusers", "peft", "OneTrainer DiT"};
    image im;
    lora_adapter *adapter;

    (void)state;
    image_fused(&im);
    adapter = open_image(context, &im);
    for (size_t i = 0; i < COUNT(ways); i++) {
        lora_adapter *there;
        lora_adapter *back;
        double whole[24];
        double text[24];
        double part[16];
        lora_error error;

        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&there, adapter, ways[i], LORA_DTYPE_NONE, 0, &error));
        assert_int_equal(lora_adapter_module_count(there), 7);
        change(whole, adapter, FLUX_IMAGE, 24);
        change(text, adapter, FLUX_TEXT, 24);
        for (size_t p = 0; p < 3; p++) {
            lora_module_info module = {.struct_size = sizeof module};
            char name[100];
            snprintf(name, sizeof name,
                     "transformer.transformer_blocks.0.attn.%s", parts[p]);
            change(part, there, name, 8);
            assert_equal_numbers(part, whole + 8 * p, 8);
            snprintf(name, sizeof name,
                     "transformer.transformer_blocks.0.attn.%s", added[p]);
            change(part, there, name, 8);
            assert_equal_numbers(part, text + 8 * p, 8);
            assert_int_equal(lora_adapter_get_module(
                                 &module, there, module_at(there, name), NULL),
                             LORA_OK);
            assert_int_equal(module.rank, 1);
        }
        change(whole, adapter, FLUX_LAST, 16);
        change(part, there, "transformer.norm_out.linear", 16);
        assert_equal_numbers(part, whole + 8, 8);
        assert_equal_numbers(part + 8, whole, 8);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              convert(&back, there, "kohya", LORA_DTYPE_NONE, 0, &error));
        assert_same_file(back, adapter);
        lora_adapter_destroy(back);
        lora_adapter_destroy(there);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Layers in one weight, the first of which is missing; their scales, 1/2 and
 * 2, become one. */
static void test_join(void **state)
{
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_module_info module = {.struct_size = sizeof module};
    double whole[24];
    double part[8];
    lora_error error;

    (void)state;
    image_split(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          convert(&out, adapter, "kohya", LORA_DTYPE_NONE, 0, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    assert_int_equal(
        lora_adapter_get_module(&module, out, module_at(out, FLUX_IMAGE), NULL),
        LORA_OK);
    assert_int_equal(module.rank, 5);
    assert_true(module.alpha == 2.5 && module.scale == 0.5);
    change(whole, out, FLUX_IMAGE, 24);
    for (size_t k = 0; k < 8; k++) {
        assert_true(whole[k] == 0.0);
    }
    change(part, adapter, FLUX_PART "to_k", 8);
    assert_equal_numbers(whole + 8, part, 8);
    change(part, adapter, FLUX_PART "to_v", 8);
    assert_equal_numbers(whole + 16, part, 8);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_reading_fails(void **state)
{
    image im;
    source s;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;

    (void)state;
    image_sample(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    s.fail_at = s.reads + 3;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          convert(&out, adapter, NULL, LORA_DTYPE_F16, 0, &error));
    assert_null(out);
    lora_adapter_destroy(adapter);
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

static lora_status reshape(lora_adapter **out,
                           const lora_adapter *adapter,
                           double model,
                           double text_encoder,
                           const char *drop,
                           lora_error *error)
{
    const lora_strength strength = {model, text_encoder};
    lora_adapter_convert_options options;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.strength = &strength;
    options.drops = &drop;
    options.drop_count = drop != NULL;
    *out = JUNK(lora_adapter);
    return lora_adapter_convert(out, adapter, &options, error);
}

/* Numbers are for golden/test_strength.py. */
static void test_strength(void **state)
{
    lora_adapter_convert_options options;
    lora_module_info info = {.struct_size = sizeof info};
    lora_adapter *adapter;
    lora_adapter *out;
    lora_error error;
    image im;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          reshape(&out, adapter, -0.5, 2.0, "*conv*", &error));
    assert_int_equal(lora_adapter_module_count(out), 2);
    assert_int_equal(
        lora_adapter_get_module(&info, out, module_at(out, SAMPLE_Q), NULL),
        LORA_OK);
    assert_true(info.alpha == 0.5);
    assert_int_equal(
        lora_adapter_get_module(&info, out, module_at(out, SAMPLE_TE), NULL),
        LORA_OK);
    assert_true(info.alpha == 8.0);
    lora_adapter_destroy(out);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          reshape(&out, adapter, 0.0, 1.0, NULL, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    lora_adapter_destroy(out);
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          reshape(&out, adapter, 1.0, 1.0, NULL, &error));
    assert_same_file(out, adapter);
    lora_adapter_destroy(out);

    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "strength",
          reshape(&out, adapter, NAN, 1.0, NULL, &error));
    assert_null(out);
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "strength",
          reshape(&out, adapter, 1.0, INFINITY, NULL, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "nobody",
          reshape(&out, adapter, 1.0, 1.0, "nobody", &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          reshape(&out, adapter, 1.0, 1.0, "*", &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, "",
          reshape(&out, adapter, 0.0, 0.0, NULL, &error));
    assert_null(out);
    lora_adapter_convert_options_init(&options, sizeof options);
    options.drop_count = 1;
    CHECK_ARGUMENT(lora_adapter_convert(&out, adapter, &options, &error));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_alphas_there_and_back),
        cmocka_unit_test(test_dtype),
        cmocka_unit_test(test_bake),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_modules),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_reading_fails),
        cmocka_unit_test(test_strength),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
