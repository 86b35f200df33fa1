/* Models and bindings through the interface: which tensors of a host a module
 * changes, row by row, and what is said of those that change nothing. Rows are
 * those of the formats' descriptions, written by hand.
 */
#include "api/models.h"

static lora_context *context;

#define FLUX "transformer.transformer_blocks.0.attn."

/* Names of SD 1.5 as diffusers has them, of a model as small as the sample. */
#define SD "unet.down_blocks.0."
#define SD_Q SD "attentions.0.transformer_blocks.0.attn1.to_q"
#define SD_K SD "attentions.0.transformer_blocks.0.attn1.to_k"
static const host_tensor sample_host[] = {
    {.name = SD_K ".weight", .ndim = 2, .shape = {4, 6}},
    {.name = SD_Q ".weight", .ndim = 2, .shape = {4, 6}},
    {.name = SD "resnets.0.conv1.weight", .ndim = 4, .shape = {5, 2, 3, 3}},
    {.name = SD "resnets.0.conv1.bias", .ndim = 1, .shape = {5}},
    {.name = SD "resnets.0.conv2.weight", .ndim = 4, .shape = {4, 3, 3, 3}},
    {.name = "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight",
     .ndim = 2,
     .shape = {4, 3}},
};

/* Bind the image to the tensors, and compare. */
static void check_host(void (*make)(image *im),
                       const host_tensor *tensors,
                       size_t count,
                       const char *expected)
{
    lora_model *model = host_model(context, tensors, count);
    lora_adapter *adapter;
    lora_binding *binding;
    image im;

    make(&im);
    adapter = open_image(context, &im);
    binding = bind_to(model, adapter, NULL, 0);
    assert_binding(binding, expected);
    lora_model_destroy(model);
    lora_adapter_destroy(adapter); /* the binding keeps both */
    lora_binding_destroy(binding);
    image_free(&im);
}
#define CHECK_HOST(make, tensors, expected)                                    \
    check_host(make, tensors, COUNT(tensors), expected)

static void test_whole(void **state)
{
    (void)state;
    CHECK_HOST(image_sample, sample_host,
               SAMPLE_TE
               " bound; "
               "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight"
               "[0,4)<0\n" SAMPLE_Q " bound; " SD_Q
               ".weight[0,4)<0\n" SAMPLE_CONV " bound; " SD
               "resnets.0.conv1.weight[0,5)<0\n" SAMPLE_CORE " bound; " SD
               "resnets.0.conv2.weight[0,4)<0\n");
}

/* The same weights as the model's authors name them, and with the dimensions
 * the other way round. */
static void test_original(void **state)
{
    static const host_tensor host[] = {
        {.name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."
                 "attn1.to_q.weight",
         .ndim = 2,
         .shape = {6, 4},
         .order = LORA_ORDER_GGML},
        {.name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
         .ndim = 4,
         .shape = {3, 3, 2, 5},
         .order = LORA_ORDER_GGML},
    };

    (void)state;
    CHECK_HOST(image_sample, host,
               SAMPLE_TE
               " nowhere;\n" SAMPLE_Q
               " bound; model.diffusion_model.input_blocks.1.1."
               "transformer_blocks.0.attn1.to_q.weight[0,4)<0\n" SAMPLE_CONV
               " bound; model.diffusion_model.input_blocks.1.0.in_layers.2."
               "weight[0,5)<0\n" SAMPLE_CORE " nowhere;\n");
}

/* One weight of the adapter is three of the model's: q, k and v of 2 rows. */
static void test_fused_on_split(void **state)
{
    static const host_tensor host[] = {
        {.name = FLUX "to_v.weight", .ndim = 2, .shape = {2, 4}},
        {.name = FLUX "to_q.weight", .ndim = 2, .shape = {2, 4}},
        {.name = FLUX "to_k.weight", .ndim = 2, .shape = {2, 4}},
        {.name = FLUX "add_q_proj.weight", .ndim = 2, .shape = {2, 4}},
        {.name = FLUX "add_k_proj.weight", .ndim = 2, .shape = {2, 4}},
        {.name = "transformer.norm_out.linear.weight",
         .ndim = 2,
         .shape = {4, 4}},
    };

    (void)state;
    CHECK_HOST(image_fused, host,
               FLUX_IMAGE " bound; " FLUX "to_q.weight[0,2)<0 " FLUX
                          "to_k.weight[0,2)<2 " FLUX "to_v.weight[0,2)<4\n"
               /* v is not there: it cannot be followed */
               FLUX_TEXT " nowhere;\n"
               /* shift and scale are the other way round in diffusers */
               FLUX_LAST " bound; transformer.norm_out.linear.weight[0,2)<2 "
                          "transformer.norm_out.linear.weight[2,4)<0\n");
}

/* The other way round: k and v are rows of one weight. */
static void test_split_on_fused(void **state)
{
    static const host_tensor host[] = {
        {.name = "double_blocks.0.img_attn.qkv.weight",
         .ndim = 2,
         .shape = {6, 4}},
    };
    static const host_tensor component[] = {
        {.name = "double_blocks.0.img_attn.qkv.weight",
         .component = "transformer",
         .ndim = 2,
         .shape = {6, 4}},
    };
    static const char expected[] = FLUX_PART
        "to_k bound; double_blocks.0.img_attn.qkv.weight[2,4)<0\n" FLUX_PART
        "to_v bound; double_blocks.0.img_attn.qkv.weight[4,6)<0\n";

    (void)state;
    CHECK_HOST(image_split, host, expected);
    CHECK_HOST(image_split, component, expected);
}

/* A layout of the host's own: v, then k in two places, then rows of others. */
static void test_parts(void **state)
{
    static const host_tensor host[] = {
        {.name = "packed.weight",
         .component = "transformer",
         .ndim = 2,
         .shape = {8, 4},
         .parts = {{"transformer_blocks.0.attn.to_v", 0, 2},
                   {"transformer_blocks.0.attn.to_k", 2, 3},
                   {FLUX "to_k", 5, 6},
                   {"transformer_blocks.0.attn.to_q", 6, 8}},
         .part_count = 4},
    };

    (void)state;
    CHECK_HOST(image_split, host,
               FLUX_PART "to_k bound; packed.weight[2,3)<0 "
                         "packed.weight[5,6)<1\n" FLUX_PART
                         "to_v bound; packed.weight[0,2)<0\n");
    /* A weight of the authors' layout, all of whose parts are here. */
    CHECK_HOST(image_fused, host,
               FLUX_IMAGE
               " bound; packed.weight[6,8)<0 packed.weight[2,3)<2 "
               "packed.weight[5,6)<3 packed.weight[0,2)<4\n" FLUX_TEXT
               " nowhere;\n" FLUX_LAST " nowhere;\n");
}

/* A parameter of OpenCLIP that diffusers has as the weight of a layer. */
static void image_projection(image *im)
{
    image_begin(im, NULL);
    image_some(im, "text_encoder_2.text_projection.lora_A.weight", "2,6", 12,
               1);
    image_some(im, "text_encoder_2.text_projection.lora_B.weight", "4,2", 8, 2);
    image_end(im);
}

static void test_transposed(void **state)
{
    static const host_tensor host[] = {
        {.name = "conditioner.embedders.1.model.text_projection",
         .ndim = 2,
         .shape = {6, 4}},
    };

    (void)state;
    CHECK_HOST(image_projection, host,
               "text_encoder_2.text_projection bound; t conditioner.embedders."
               "1.model.text_projection[0,6)<0\n");
}

/* Whatever can go wrong, one module of each. */
static void image_wrong(image *im)
{
    const float zero[24] = {0};

    image_begin(im, NULL);
    image_some(im, SAMPLE_CONV ".diff", "5,2,3,3", 90, 5);
    image_some(im, SAMPLE_CONV ".diff_b", "5", 5, 5);
    image_some(im, SAMPLE_K ".lora_down.weight", "2,6", 12, 1);
    image_some(im, SAMPLE_K ".lora_up.weight", "5,2", 10, 2);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 3);
    image_f32(im, "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
              "2,6", zero, 12);
    image_some(im, "some.thing", "4", 4, 4);
    image_some(im, UNET "resnets_0_conv2.diff", "4,3,3,3", 108, 8);
    image_some(im, UNET "resnets_0_conv2.diff_b", "4", 4, 9);
    image_some(im, UNET "resnets_1_conv1.diff", "4,3,3,3", 108, 8);
    image_end(im);
}

static void test_wrong(void **state)
{
    host_tensor host[COUNT(sample_host) + 1];
    lora_binding_item item;
    lora_binding *binding;
    lora_adapter *adapter;
    lora_model *model;
    image im;

    (void)state;
    memcpy(host, sample_host, sizeof sample_host);
    host[0].dtype = LORA_DTYPE_NONE;
    host[COUNT(sample_host)] =
        (host_tensor){.name = SD "resnets.1.conv1.weight",
                      .ndim = 4,
                      .shape = {4, 3, 3, 3},
                      .dtype = LORA_DTYPE_I8};
    CHECK_HOST(image_wrong, host,
               SAMPLE_CONV
               " bound; " SD "resnets.0.conv1.weight[0,5)<0 b " SD
               "resnets.0.conv1.bias[0,5)<0\n" SAMPLE_K " shape;\n" SAMPLE_Q
               " partner;\n"
               "lora_unet_mid_block_attentions_0_proj_in partner;\n" UNET
               "resnets_0_conv2 half; " SD
               "resnets.0.conv2.weight[0,4)<0\n" UNET
               "resnets_1_conv1 dtype;\nsome.thing unknown;\n");

    model = host_model(context, host, COUNT(host));
    image_wrong(&im);
    adapter = open_image(context, &im);
    binding = bind_to(model, adapter, NULL, 0);
    item = item_at(binding, 1);
    assert_string_equal(item.target, SD_K);
    assert_string_equal(item.tensor, SD_K ".weight");
    assert_int_equal(item.status, LORA_ERROR_SHAPE);
    assert_int_equal(item.expected_ndim, 2);
    assert_int_equal(item.expected[0], 4);
    assert_int_equal(item.expected[1], 6);
    assert_int_equal(item.found_ndim, 2);
    assert_int_equal(item.found[0], 5);
    assert_int_equal(item.found[1], 6);
    assert_non_null(strstr(item.reason, "4x6"));
    assert_non_null(strstr(item.reason, "5x6"));
    item = item_at(binding, 6);
    assert_int_equal(item.module_index, UINT64_MAX);
    assert_int_equal(item.tensor_index, tensor_at(adapter, "some.thing"));
    assert_int_equal(item.status, LORA_ERROR_KEY);
    assert_int_equal(info_of(binding).bound_count, 2);
    assert_int_equal(info_of(binding).module_count, 6);
    assert_int_equal(info_of(binding).item_count, 7);
    assert_true(fabs(info_of(binding).share - 2.0 / 6.0) < 1e-15);
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

/* ---- strict ------------------------------------------------------------ */

/* What a strict binding answers, and that nothing comes out. */
static void check_strict(void (*make)(image *im),
                         const host_tensor *tensors,
                         size_t count,
                         const char *pattern,
                         lora_status expected,
                         const char *subject)
{
    const lora_selection selection = {pattern, 1.0};
    lora_model *model = host_model(context, tensors, count);
    lora_binding *binding = JUNK(lora_binding);
    lora_binding_create_options options;
    lora_adapter *adapter;
    lora_error error;
    image im;

    make(&im);
    adapter = open_image(context, &im);
    lora_binding_create_options_init(&options, sizeof options);
    options.strict = 1;
    options.selections = &selection;
    options.selection_count = pattern != NULL;
    CHECK(expected, LORA_NO_OFFSET, subject,
          lora_binding_create(&binding, model, adapter, &options, &error));
    assert_true((binding != NULL) == (expected == LORA_OK));
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

static void image_empty(image *im)
{
    image_begin(im, NULL);
    image_end(im);
}

static void image_unknown(image *im)
{
    image_begin(im, NULL);
    image_some(im, SAMPLE_Q ".lora_down.weight", "2,6", 12, 3);
    image_some(im, SAMPLE_Q ".lora_up.weight", "4,2", 8, 4);
    image_some(im, "some.thing", "4", 4, 4);
    image_end(im);
}

static void test_strict(void **state)
{
    const size_t all = COUNT(sample_host);

    (void)state;
    check_strict(image_sample, sample_host, all, NULL, LORA_OK, "");
    check_strict(image_sample, sample_host, all, "unet", LORA_OK, "");
    check_strict(image_sample, sample_host, all, "prior", LORA_ERROR_KEY,
                 "prior");
    check_strict(image_sample, sample_host, all - 1, NULL, LORA_ERROR_KEY,
                 SAMPLE_TE);
    check_strict(image_wrong, sample_host, all, NULL, LORA_ERROR_SHAPE,
                 SAMPLE_K);
    check_strict(image_unknown, sample_host, all, NULL, LORA_ERROR_KEY,
                 "some.thing");
    check_strict(image_empty, sample_host, all, NULL, LORA_ERROR_KEY, "");
}

/* ---- selections -------------------------------------------------------- */

/* The factors of the sample's modules. */
static void check_factors(const lora_selection *selections,
                          size_t count,
                          const double *expected)
{
    lora_model *model = host_model(context, sample_host, COUNT(sample_host));
    lora_adapter *adapter;
    lora_binding *binding;
    image im;

    image_sample(&im);
    adapter = open_image(context, &im);
    binding = bind_to(model, adapter, selections, count);
    for (size_t i = 0; i < 4; i++) {
        lora_binding_item item = item_at(binding, i);
        if (item.factor != expected[i]) {
            fail_msg("%s: %s has %f", selections[0].pattern, item.name,
                     item.factor);
        }
        assert_int_equal(item.state, expected[i] == 0.0 ? LORA_BINDING_LEFT_OUT
                                                        : LORA_BINDING_BOUND);
    }
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

static void test_selections(void **state)
{
    /* Of fc1 of the text encoder, to_q, conv1 and conv2, all in IN01. */
    static const struct {
        lora_selection selection;
        double expected[4];
    } cases[] = {
        {{"unet", 0.5}, {1, 0.5, 0.5, 0.5}},
        {{"te", 0.0}, {0, 1, 1, 1}},
        {{"text_encoder", -2.0}, {-2, 1, 1, 1}},
        {{"text_encoder_2", 0.0}, {1, 1, 1, 1}},
        {{"IN01", 2.0}, {1, 2, 2, 2}},
        {{"IN02", 2.0}, {1, 1, 1, 1}},
        {{"BASE", 2.0}, {2, 1, 1, 1}},
        {{"M00", 2.0}, {1, 1, 1, 1}},
        {{"blocks.down", 3.0}, {1, 3, 3, 3}},
        {{"blocks.up", 3.0}, {1, 1, 1, 1}},
        {{"attn", 3.0}, {1, 3, 1, 1}},
        {{"attn.self", 3.0}, {1, 3, 1, 1}},
        {{"attn.cross", 3.0}, {1, 1, 1, 1}},
        {{"ff", 3.0}, {3, 1, 1, 1}},
        {{"conv", 3.0}, {1, 1, 3, 3}},
        {{"norm", 3.0}, {1, 1, 1, 1}},
        {{"*conv?", 3.0}, {1, 1, 3, 3}},
        {{"lora_unet_*conv1", 3.0}, {1, 1, 3, 1}},
        {{"unet.*.to_q", 3.0}, {1, 3, 1, 1}},
        {{"2,0.5,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", 3.0}, {6, 1.5, 1.5, 1.5}},
        {{"2, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1", 1.0},
         {2, 0, 0, 0}},
        {{"1,1,-0.5e1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", 1.0},
         {1, -5, -5, -5}},
        /* LoRA of SDXL has no IN01. */
        {{"1,0,0,0,0,0,0,0,0,0,0,0", 1.0}, {1, 1, 1, 1}},
    };
    static const lora_selection several[] = {
        {"unet", 0.5}, {"conv", 4.0}, {"attn", 0.0}};
    static const double product[] = {1, 0, 2, 2};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        check_factors(&cases[i].selection, 1, cases[i].expected);
    }
    check_factors(several, COUNT(several), product);
}

static void test_bad_selections(void **state)
{
    static const struct {
        lora_selection selection;
        lora_status status;
    } cases[] = {
        {{NULL, 1.0}, LORA_ERROR_ARGUMENT},
        {{"unet", NAN}, LORA_ERROR_RANGE},
        {{"unet", INFINITY}, LORA_ERROR_RANGE},
        {{"1,2", 1.0}, LORA_ERROR_OPTION},
        {{"1,,1,1,1,1,1,1,1,1,1,1", 1.0}, LORA_ERROR_OPTION},
        {{"1,1,1,1,1,1,1,1,1,1,1,1e999", 1.0}, LORA_ERROR_OPTION},
        {{"1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", 1.0},
         LORA_ERROR_OPTION},
    };
    lora_model *model = host_model(context, sample_host, COUNT(sample_host));
    lora_binding_create_options options;
    lora_binding *binding;
    lora_adapter *adapter;
    lora_error error;
    image im;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    lora_binding_create_options_init(&options, sizeof options);
    for (size_t i = 0; i < COUNT(cases); i++) {
        binding = JUNK(lora_binding);
        options.selections = &cases[i].selection;
        options.selection_count = 1;
        CHECK(cases[i].status, LORA_NO_OFFSET, NULL,
              lora_binding_create(&binding, model, adapter, &options, &error));
        assert_null(binding);
    }
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

/* ---- families ---------------------------------------------------------- */

static void check_family(const char *family,
                         void (*make)(image *im),
                         size_t bound,
                         lora_binding_verdict verdict)
{
    lora_binding_info info;
    lora_binding *binding;
    lora_adapter *adapter;
    lora_model *model;
    image im;

    make(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_model_family(&model, context, family, NULL), LORA_OK);
    binding = bind_to(model, adapter, NULL, 0);
    info = info_of(binding);
    assert_string_equal(info.model_family, family);
    assert_int_equal(info.bound_count, bound);
    assert_int_equal(info.verdict, verdict);
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

/* A pair as SD 1.5 has it, 320 rows. */
static void image_large(image *im)
{
    image_begin(im, SAMPLE_BASE);
    image_some(im, SAMPLE_Q ".lora_down.weight", "1,320", 320, 3);
    image_some(im, SAMPLE_Q ".lora_up.weight", "320,1", 320, 4);
    image_end(im);
}

static void test_family(void **state)
{
    (void)state;
    check_family("sd15", image_large, 1, LORA_BINDING_RIGHT);
    /* to_q is 4 x 6 in it, and 320 x 320 in the family. */
    check_family("sd15", image_sample, 3, LORA_BINDING_RIGHT);
    check_family("flux1_dev", image_sample, 1, LORA_BINDING_WRONG);
    check_family("flux1_dev", image_fused, 3, LORA_BINDING_RIGHT);
    check_family("sdxl", image_fused, 0, LORA_BINDING_WRONG);
}

static void test_suggest(void **state)
{
    static const host_tensor host[] = {
        {.name = "blocks.0.attn.to_q.weight", .ndim = 2, .shape = {4, 6}},
        {.name = "blocks.0.attn.to_k.weight", .ndim = 2, .shape = {4, 6}},
    };
    lora_model *model = host_model(context, host, COUNT(host));
    lora_adapter *adapter;
    lora_binding *binding;
    const char *name;
    lora_error error;
    image im;

    (void)state;
    image_begin(&im, NULL);
    image_some(&im, "blocks_0_attn_tok.lora_down.weight", "2,6", 12, 1);
    image_some(&im, "blocks_0_attn_tok.lora_up.weight", "4,2", 8, 2);
    image_some(&im, "nothing_at_all_like_it.lora_down.weight", "2,6", 12, 1);
    image_some(&im, "nothing_at_all_like_it.lora_up.weight", "4,2", 8, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    binding = bind_to(model, adapter, NULL, 0);
    assert_int_equal(info_of(binding).bound_count, 0);
    assert_int_equal(info_of(binding).verdict, LORA_BINDING_UNSURE);
    assert_int_equal(lora_binding_suggest(&name, binding, 0, NULL), LORA_OK);
    assert_string_equal(name, "blocks.0.attn.to_k.weight");
    name = "";
    assert_int_equal(lora_binding_suggest(&name, binding, 1, NULL), LORA_OK);
    assert_null(name);
    name = "";
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_binding_suggest(&name, binding, 2, &error));
    assert_null(name);
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

/* ---- reports ----------------------------------------------------------- */

/* Findings, in order, as "code subject;". */
static void assert_problems(const lora_report *report, const char *expected)
{
    char text[1024] = "";

    for (size_t i = 0; i < lora_report_problem_count(report); i++) {
        lora_problem one = {.struct_size = sizeof one};
        size_t at = strlen(text);
        assert_int_equal(lora_report_get_problem(&one, report, i, NULL),
                         LORA_OK);
        assert_int_equal(one.severity, LORA_SEVERITY_WARNING);
        assert_true(one.status != LORA_OK && one.message[0] != '\0');
        snprintf(text + at, sizeof text - at, "%s %s;", one.code, one.subject);
    }
    assert_string_equal(text, expected);
}

static void test_report(void **state)
{
    static const lora_selection selections[] = {{"prior", 0.5}, {"conv", 0.25}};
    lora_model *model = host_model(context, sample_host, COUNT(sample_host));
    lora_report *report = JUNK(lora_report);
    lora_adapter *adapter;
    lora_binding *binding;
    lora_error error;
    const char *json;
    image im;

    (void)state;
    CHECK_ARGUMENT(lora_binding_report(&report, NULL, &error));
    assert_null(report);
    image_wrong(&im);
    adapter = open_image(context, &im);
    binding = bind_to(model, adapter, selections, COUNT(selections));
    CHECK_ARGUMENT(lora_binding_report(NULL, binding, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_binding_report(&report, binding, &error));
    assert_problems(report, "selection_unused prior;shape " SAMPLE_K
                            ";partner " SAMPLE_Q
                            ";partner lora_unet_mid_block_attentions_0_proj_in;"
                            "half " UNET "resnets_0_conv2;nowhere " UNET
                            "resnets_1_conv1;unknown some.thing;");
    json = lora_report_to_json(report, NULL);
    assert_non_null(strstr(json, "\"modules\":6,\"bound\":2,"));
    assert_non_null(strstr(json, "{\"pattern\":\"conv\",\"factor\":0.25,"
                                 "\"modules\":3}"));
    assert_non_null(
        strstr(json, "{\"name\":\"" SAMPLE_K "\",\"target\":\"" SD_K
                     "\",\"state\":\"shape\",\"factor\":1,\"changes\":[],"));
    assert_non_null(strstr(json, "\"expected\":[4,6],\"found\":[5,6]}"));
    /* One digit is another. */
    assert_non_null(
        strstr(json, "\"suggestion\":\"" SD "resnets.0.conv1.weight\""));
    lora_report_destroy(report);
    lora_binding_destroy(binding);
    lora_adapter_destroy(adapter);
    lora_model_destroy(model);
    image_free(&im);
}

/* ---- hosts ------------------------------------------------------------- */

static void test_tensors(void **state)
{
    static const host_tensor host[] = {
        {.name = "double_blocks.0.img_attn.qkv.weight",
         .component = "transformer",
         .ndim = 2,
         .shape = {4, 6},
         .order = LORA_ORDER_GGML},
        {.name = "text_model.encoder.layers.0.mlp.fc1.weight",
         .component = "text_encoder",
         .ndim = 2,
         .shape = {4, 3}},
    };
    lora_model_tensor_info tensor = {.struct_size = sizeof tensor};
    lora_model_info info = {.struct_size = sizeof info};
    lora_model *model = host_model(context, host, COUNT(host));
    lora_error error;

    (void)state;
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
          lora_model_get_info(&info, model, &error));
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
          lora_model_get_tensor(&tensor, model, 0, &error));
    assert_int_equal(lora_model_seal(model, NULL), LORA_OK);
    assert_int_equal(lora_model_seal(model, NULL), LORA_OK);
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, host[0].name,
          host_add(model, &host[0], &error));
    assert_int_equal(lora_model_get_info(&info, model, NULL), LORA_OK);
    assert_int_equal(info.tensor_count, 2);
    assert_int_equal(info.catalogue, 0);
    assert_string_equal(info.path, "");
    assert_int_equal(lora_model_get_tensor(&tensor, model, 0, NULL), LORA_OK);
    assert_string_equal(tensor.name, host[0].name);
    assert_string_equal(tensor.component, "transformer");
    assert_string_equal(tensor.target,
                        "transformer.double_blocks.0.img_attn.qkv");
    assert_int_equal(tensor.part_count, 3);
    assert_int_equal(tensor.ndim, 2);
    assert_int_equal(tensor.shape[0], 6);
    assert_int_equal(tensor.shape[1], 4);
    assert_int_equal(tensor.dtype, LORA_DTYPE_F16);
    assert_int_equal(lora_model_get_tensor(&tensor, model, 1, NULL), LORA_OK);
    assert_string_equal(tensor.name, host[1].name);
    assert_string_equal(tensor.target,
                        "text_encoder.text_model.encoder.layers.0.mlp.fc1");
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_model_get_tensor(&tensor, model, 2, &error));
    lora_model_destroy(model);
}

static void test_bad_tensors(void **state)
{
    static const struct {
        host_tensor tensor;
        lora_status status;
    } cases[] = {
        {{.name = NULL, .ndim = 1, .shape = {4}}, LORA_ERROR_ARGUMENT},
        {{.name = "", .ndim = 1, .shape = {4}}, LORA_ERROR_ARGUMENT},
        {{.name = "a", .ndim = 0}, LORA_ERROR_SHAPE},
        {{.name = "a", .ndim = 9}, LORA_ERROR_SHAPE},
        {{.name = "a", .ndim = 2, .shape = {4, 0}}, LORA_ERROR_SHAPE},
        {{.name = "a", .ndim = 2, .shape = {4, -1}}, LORA_ERROR_SHAPE},
        {{.name = "a", .ndim = 2, .shape = {INT64_MAX, INT64_MAX}},
         LORA_ERROR_SHAPE},
        {{.name = "a", .ndim = 1, .shape = {4}, .dtype = 99}, LORA_ERROR_DTYPE},
        {{.name = "a", .ndim = 1, .shape = {4}, .order = 2},
         LORA_ERROR_ARGUMENT},
        {{.name = "a", .ndim = 1, .shape = {4}, .component = "vae"},
         LORA_ERROR_ARGUMENT},
        {{.name = "there", .ndim = 1, .shape = {4}}, LORA_ERROR_DUPLICATE},
        {{.name = "a",
          .ndim = 1,
          .shape = {4},
          .parts = {{NULL, 0, 4}},
          .part_count = 1},
         LORA_ERROR_ARGUMENT},
        {{.name = "a",
          .ndim = 1,
          .shape = {4},
          .parts = {{"b", 0, 5}},
          .part_count = 1},
         LORA_ERROR_RANGE},
        {{.name = "a",
          .ndim = 1,
          .shape = {4},
          .parts = {{"b", -1, 4}},
          .part_count = 1},
         LORA_ERROR_RANGE},
        {{.name = "a",
          .ndim = 1,
          .shape = {4},
          .parts = {{"b", 2, 2}},
          .part_count = 1},
         LORA_ERROR_RANGE},
        {{.name = "a",
          .ndim = 1,
          .shape = {8},
          .parts = {{"b", 0, 1}, {"b", 2, 3}, {"b", 4, 5}},
          .part_count = 3},
         LORA_ERROR_UNSUPPORTED},
        {{.name = "a",
          .ndim = 1,
          .shape = {65536},
          .parts = {{"b", 0, 1}},
          .part_count = 1},
         LORA_ERROR_UNSUPPORTED},
    };
    const host_tensor there = {.name = "there", .ndim = 1, .shape = {4}};
    lora_model_info info = {.struct_size = sizeof info};
    lora_model *model = host_model(context, &there, 1);
    lora_error error;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        CHECK(cases[i].status, LORA_NO_OFFSET, NULL,
              host_add(model, &cases[i].tensor, &error));
    }
    assert_int_equal(lora_model_seal(model, NULL), LORA_OK);
    assert_int_equal(lora_model_get_info(&info, model, NULL), LORA_OK);
    assert_int_equal(info.tensor_count, 1);
    lora_model_destroy(model);
}

static void test_arguments(void **state)
{
    lora_binding_change change = {.struct_size = sizeof change};
    lora_binding_item item = {.struct_size = sizeof item};
    lora_model *model = JUNK(lora_model);
    lora_binding *binding = JUNK(lora_binding);
    lora_model_options options;
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_model_open(NULL, context, "a", NULL, &error));
    CHECK_ARGUMENT(lora_model_open(&model, NULL, "a", NULL, &error));
    assert_null(model);
    model = JUNK(lora_model);
    CHECK_ARGUMENT(lora_model_open(&model, context, NULL, NULL, &error));
    assert_null(model);
    CHECK(LORA_ERROR_IO, LORA_NO_OFFSET, NULL,
          lora_model_open(&model, context, "no such file", NULL, &error));
    CHECK_ARGUMENT(lora_model_family(&model, context, NULL, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "sd16",
          lora_model_family(&model, context, "sd16", &error));
    lora_model_options_init(&options, sizeof options);
    options.family = "sd16";
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "sd16",
          lora_model_create(&model, context, &options, &error));
    options.family = NULL;
    options.flags = 2;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_model_create(&model, context, &options, &error));
    options.flags = 0;
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_model_create(&model, context, &options, &error));
    CHECK_ARGUMENT(lora_model_add(NULL, NULL, &error));
    CHECK_ARGUMENT(lora_model_seal(NULL, &error));
    CHECK_ARGUMENT(lora_binding_create(&binding, NULL, NULL, NULL, &error));
    assert_null(binding);
    CHECK_ARGUMENT(lora_binding_get_item(&item, NULL, 0, &error));
    CHECK_ARGUMENT(lora_binding_get_change(&change, NULL, 0, 0, &error));
    assert_int_equal(lora_binding_count(NULL, LORA_BINDING_BOUND), 0);
    assert_null(lora_model_retain(NULL));
    assert_null(lora_binding_retain(NULL));
    lora_model_destroy(NULL);
    lora_binding_destroy(NULL);
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
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_original),
        cmocka_unit_test(test_fused_on_split),
        cmocka_unit_test(test_split_on_fused),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_transposed),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_selections),
        cmocka_unit_test(test_bad_selections),
        cmocka_unit_test(test_family),
        cmocka_unit_test(test_suggest),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_arguments),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
