/* Memory that runs out: for n = 0, 1, 2 ... the nth allocation of a call
 * fails, once, and then it and all after it. Each time the call must say
 * MEMORY, leave its outputs NULL and nothing alive or on the disk, and the
 * same call must then succeed in the same context.
 *
 * The allocator of api/support.h moves every block at every realloc, fills
 * what is fresh and what is freed, and compares what free is told.
 */
#ifdef _WIN32

/* Files are made the POSIX way. */
int main(void)
{
    return 77;
}

#else

#include "api/pair.h"

#include "api/based.h"

#include "api/models.h"

#include "api/reader.h"

static heap h;
static lora_context *context;
static lora_adapter *adapter; /* of the image, for jobs that want one */
static image im;

/* A call, and what it is called with. */
typedef struct call {
    const char *name;
    void (*make)(image *im);
    int files; /* the call opens the image itself; how many begin() writes */
    lora_status (*run)(const struct call *job, lora_error *error);
    const char *dialect;
    lora_rank_rule rule;
    lora_dtype dtype;
    uint32_t flag;    /* the job's own */
    lora_status last; /* what the call answers when it gets all memory */
} call;

/* ---- images ------------------------------------------------------------ */

/* Everything that can be wrong with modules, and what is no module. */
static void image_odd(image *out)
{
    const float zero[12] = {0};
    const float nan[1] = {NAN};

    image_begin(out, "\"lora_adapter_metadata\":\"{\\\"r\\\": [\","
                     "\"ss_tag_frequency\":\"{\\\"d\\\": {\\\"cat\\\": 3}}\","
                     "\"trigger_words\":\"one, two\"");
    image_f32(out, "emb_params", "2,6", zero, 12);
    image_f32(out, "lora_unet_a.lora_down.weight", "2,6", zero, 12);
    image_f32(out, "lora_unet_b.lora_down.weight", "2,6", zero, 12);
    image_f32(out, "lora_unet_b.lora_up.weight", "4,3", zero, 12);
    image_f32(out, "lora_unet_c.alpha", "2", zero, 2);
    image_f32(out, "lora_unet_c.lora_down.weight", "2,6", zero, 12);
    image_f32(out, "lora_unet_c.lora_up.weight", "6,2", zero, 12);
    image_f32(out, "lora_unet_d.alpha", "", nan, 1);
    image_f32(out, "lora_unet_d.lora_down.weight", "2,6", zero, 12);
    image_f32(out, "lora_unet_d.lora_up.weight", "6,2", zero, 12);
    image_f32(out, "lora_unet_e.lora_down.weight", "12", zero, 12);
    image_f32(out, "lora_unet_e.lora_up.weight", "6,2", zero, 12);
    image_f32(out, "lora_unet_f.lora_down.weight", "0,6", zero, 0);
    image_f32(out, "lora_unet_f.lora_up.weight", "6,0", zero, 0);
    image_f32(out, SAMPLE_Q ".lora_A.weight", "2,6", zero, 12);
    image_f32(out, SAMPLE_Q ".lora_down.weight", "2,6", zero, 12);
    image_f32(out, SAMPLE_K ".lora_down.weight", "2,6", zero, 12);
    image_f32(out, SAMPLE_K ".lora_up.weight", "6,2", zero, 12);
    image_f32(out, SAMPLE_K_TARGET ".lora_A.weight", "2,6", zero, 12);
    image_f32(out, SAMPLE_K_TARGET ".lora_B.weight", "6,2", zero, 12);
    image_f32(out, "something.else", "12", zero, 12);
    image_raw(out, "lora_unet_g.lora_down.weight", "I32", "2,6", zero, 48);
    image_raw(out, "lora_unet_g.lora_up.weight", "I32", "6,2", zero, 48);
    image_end(out);
}

/* What can be repaired: names, alphas, a factor out of range, metadata. */
static void image_broken(image *out)
{
    const float alphas[] = {0.0f, -1.0f};
    const float large[] = {1e6f, 2.0f, 3.0f, 4.0f};

    image_begin(out, SAMPLE_METADATA);
    image_some(out, "module.unet._orig_mod.conv_in.lora_A.weight", "2,6", 12,
               1);
    image_some(out, "module.unet._orig_mod.conv_in.lora_B.weight", "4,2", 8, 2);
    image_f32(out, SAMPLE_K ".alpha", "", &alphas[0], 1);
    image_some(out, SAMPLE_K ".lora_down.weight", "2,2", 4, 3);
    image_f32(out, SAMPLE_K ".lora_up.weight", "2,2", large, 4);
    image_f32(out, SAMPLE_Q ".alpha", "", &alphas[1], 1);
    image_some(out, SAMPLE_Q ".lora_down.weight", "2,2", 4, 5);
    image_some(out, SAMPLE_Q ".lora_up.weight", "2,2", 4, 6);
    image_some(out, SAMPLE_TE ".lora_down.weight", "2,2", 4, 7);
    image_some(out, SAMPLE_TE ".lora_up.weight", "2,2", 4, 8);
    image_some(out, "unet.conv_out.lora_A.default.weight", "2,6", 12, 9);
    image_some(out, "unet.conv_out.lora_B.default.weight", "4,2", 8, 10);
    image_end(out);
}

/* LoHa with cores, and of more terms than it has rows; LoKr of each form. */
static void image_products(image *out)
{
    image_begin(out, NULL);
    image_some(out, "lora_unet_a.hada_t1", "2,2,3", 12, 1);
    image_some(out, "lora_unet_a.hada_t2", "2,2,3", 12, 2);
    image_some(out, "lora_unet_a.hada_w1_a", "2,5", 10, 3);
    image_some(out, "lora_unet_a.hada_w1_b", "2,3", 6, 4);
    image_some(out, "lora_unet_a.hada_w2_a", "2,5", 10, 5);
    image_some(out, "lora_unet_a.hada_w2_b", "2,3", 6, 6);
    image_some(out, "lora_unet_b.hada_w1_a", "3,2", 6, 7);
    image_some(out, "lora_unet_b.hada_w1_b", "2,5", 10, 8);
    image_some(out, "lora_unet_b.hada_w2_a", "3,2", 6, 9);
    image_some(out, "lora_unet_b.hada_w2_b", "2,5", 10, 10);
    image_some(out, "lora_unet_c.lokr_t2", "2,2,3", 12, 11);
    image_some(out, "lora_unet_c.lokr_w1", "2,3", 6, 12);
    image_some(out, "lora_unet_c.lokr_w2_a", "2,4", 8, 13);
    image_some(out, "lora_unet_c.lokr_w2_b", "2,3", 6, 14);
    image_some(out, "lora_unet_d.lokr_w1_a", "3,2", 6, 15);
    image_some(out, "lora_unet_d.lokr_w1_b", "2,3", 6, 16);
    image_some(out, "lora_unet_d.lokr_w2", "2,4", 8, 17);
    image_end(out);
}

/* LoHa that is decomposed by its dense change. */
static void image_dense(image *out)
{
    image_begin(out, NULL);
    image_some(out, "lora_unet_a.hada_w1_a", "256,12", 3072, 1);
    image_some(out, "lora_unet_a.hada_w1_b", "12,256", 3072, 2);
    image_some(out, "lora_unet_a.hada_w2_a", "256,12", 3072, 3);
    image_some(out, "lora_unet_a.hada_w2_b", "12,256", 3072, 4);
    image_end(out);
}

static void image_peft(image *out)
{
    image_begin(out, NULL);
    image_some(out, "base_model.model.a.lora_A.weight", "2,6", 12, 1);
    image_some(out, "base_model.model.a.lora_B.weight", "4,2", 8, 2);
    image_end(out);
}

/* Many of everything, so that tables grow. */
static void image_many(image *out)
{
    image_begin(out, NULL);
    for (int i = 0; i < 90; i++) {
        char name[80];
        snprintf(name, sizeof name, "lora_unet_layer_%d.lora_down.weight", i);
        image_some(out, name, "1,2", 2, 1);
        snprintf(name, sizeof name, "lora_unet_layer_%d.lora_up.weight", i);
        image_some(out, name, "2,1", 2, 2);
    }
    image_end(out);
}

/* Halves of pairs with long names: each is copied into what is said about it,
 * so that the problems take more than what was there before them. */
static void image_halves(image *out)
{
    image_begin(out, NULL);
    for (int i = 0; i < 20; i++) {
        char name[1200];
        snprintf(name, sizeof name, "lora_unet_%01000d.lora_down.weight", i);
        image_some(out, name, "1,2", 2, 1);
    }
    image_end(out);
}

static void image_half(image *out)
{
    image_begin(out, NULL);
    image_some(out, SAMPLE_K ".lora_down.weight", "2,2", 4, 3);
    image_some(out, SAMPLE_Q ".lora_down.weight", "2,2", 4, 5);
    image_some(out, SAMPLE_Q ".lora_up.weight", "2,2", 4, 6);
    image_end(out);
}

#define SHARDS                                                                 \
    "{\"weight_map\":{\"lora_unet_a.lora_down.weight\":\"1.safetensors\","     \
    "\"lora_unet_a.lora_up.weight\":\"2.safetensors\"}}"

/* Half a pair, with metadata that the other half contradicts. */
static void put_half(const char *file, const char *role)
{
    char name[40];
    char metadata[40];
    image half;

    snprintf(metadata, sizeof metadata, "\"a\":\"b\",\"n\":\"%s\"", role);
    snprintf(name, sizeof name, "lora_unet_a.%s.weight", role);
    image_begin(&half, metadata);
    image_some(&half, name, "2,2", 4, 1);
    image_end(&half);
    folder_put(file, half.file, half.bytes);
    image_free(&half);
}

/* Beside the image: what PEFT writes, a card, and several files with their
 * index, as far as wanted. */
static void put_files(int count)
{
    static const char card[] =
        "---\nbase_model: [a, b]\ninstance_prompt: a\n  b\nlicense: >\n  mit\n"
        "tags:\n- 'one'\n- \"two\"\n---\n";

    folder_put("in.safetensors", im.file, im.bytes);
    folder_put("adapter_config.json", "{\"lora_alpha\": 1}", 17);
    if (count > 2) {
        folder_put("README.md", card, sizeof card - 1);
    }
    if (count > 3) {
        put_half("1.safetensors", "lora_down");
        put_half("2.safetensors", "lora_up");
        folder_put("x.safetensors.index.json", SHARDS, sizeof SHARDS - 1);
    }
    if (count > 6) {
        pair_make();
    }
}

/* ---- jobs -------------------------------------------------------------- */

static lora_status end_adapter(lora_adapter *out, lora_status status)
{
    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_adapter_destroy(out);
    return status;
}

static lora_status end_report(lora_report *out, lora_status status)
{
    if (status != LORA_OK) {
        assert_null(out);
    }
    lora_report_destroy(out);
    return status;
}

static lora_status open_file(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_open_options options;
    lora_status status;

    lora_adapter_open_options_init(&options, sizeof options);
    options.flags = job->flag;
    status = lora_adapter_open(&out, context, in_folder("in.safetensors"),
                               &options, error);
    return end_adapter(out, status);
}

static lora_status open_folder(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);

    lora_status status = lora_adapter_open(&out, context, folder, NULL, error);

    (void)job;
    return end_adapter(out, status);
}

static lora_status open_memory(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_open_options options;
    lora_status status;

    lora_adapter_open_options_init(&options, sizeof options);
    if (job->flag) {
        options.config = "{\"r\": 2, \"lora_alpha\": 3, \"rank_pattern\": "
                         "{\"a\": 2}, \"alpha_pattern\": {\"b\": 1, \"a\": 7}}";
        options.config_bytes = strlen(options.config);
    }
    status = lora_adapter_open_memory(&out, context, im.file, im.bytes,
                                      &options, error);
    return end_adapter(out, status);
}

static lora_status open_reader(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    source s = source_of(&im);
    lora_reader reader = source_reader(&s);
    lora_status status =
        lora_adapter_open_reader(&out, context, &reader, NULL, error);

    (void)job;
    status = end_adapter(out, status);
    assert_int_equal(s.destroyed, 1);
    return status;
}

static lora_status describe(const call *job, lora_error *error)
{
    lora_report *out = JUNK(lora_report);
    lora_adapter_describe_options options;
    lora_status status;

    lora_adapter_describe_options_init(&options, sizeof options);
    options.modules = job->flag;
    options.hashes = job->flag;
    status = lora_adapter_describe(&out, adapter, &options, error);
    return end_report(out, status);
}

static lora_status check(const call *job, lora_error *error)
{
    lora_report *out = JUNK(lora_report);
    lora_status status = lora_adapter_check(&out, adapter, NULL, error);

    (void)job;
    return end_report(out, status);
}

/* A host's tensors with parts, a family (of the job's name), or a checkpoint.
 */
static lora_status
make_model(lora_model **out, const call *job, lora_error *error)
{
    static const host_tensor tensors[] = {
        {.name = "unet." SAMPLE_K, .ndim = 2, .shape = {4, 6}},
        {.name = "packed.weight",
         .component = "unet",
         .ndim = 2,
         .shape = {6, 8},
         .order = LORA_ORDER_GGML,
         .parts = {{SAMPLE_Q_TARGET, 0, 2}, {SAMPLE_Q_TARGET, 4, 6}},
         .part_count = 2},
    };
    lora_status status;

    if (job->files != 0) {
        return lora_model_open(out, context, PAIR_BASE, NULL, error);
    }
    if (job->dialect != NULL) {
        return lora_model_family(out, context, job->dialect, error);
    }
    status = lora_model_create(out, context, NULL, error);
    for (size_t i = 0; i < COUNT(tensors) && status == LORA_OK; i++) {
        status = host_add(*out, &tensors[i], error);
    }
    if (status == LORA_OK) {
        status = lora_model_seal(*out, error);
    }
    return status;
}

static lora_status bind(const call *job, lora_error *error)
{
    static const lora_selection selections[] = {{"IN01", 0.5}, {"*to_q", 2.0}};
    lora_report *report = JUNK(lora_report);
    lora_binding *binding = NULL;
    lora_adapter *mine = NULL;
    lora_model *model = NULL;
    lora_binding_create_options options;
    lora_status status = make_model(&model, job, error);

    lora_binding_create_options_init(&options, sizeof options);
    options.selections = selections;
    options.selection_count = COUNT(selections);
    options.strict = job->flag;
    if (status == LORA_OK && job->files != 0) {
        status = lora_adapter_open_memory(&mine, context, im.file, im.bytes,
                                          NULL, error);
    }
    if (status == LORA_OK) {
        binding = JUNK(lora_binding);
        status = lora_binding_create(
            &binding, model, mine == NULL ? adapter : mine, &options, error);
        assert_true(status == LORA_OK || binding == NULL);
    }
    if (status == LORA_OK) {
        status = lora_binding_report(&report, binding, error);
        status = end_report(report, status);
    }
    lora_binding_destroy(binding);
    lora_adapter_destroy(mine);
    lora_model_destroy(model);
    return status;
}

static lora_status fix(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_adapter_fix_options options;
    lora_status status;

    lora_adapter_fix_options_init(&options, sizeof options);
    options.skip_bad = job->flag;
    status = lora_adapter_fix(&out, &report, adapter, &options, error);
    return status == end_report(report, status) ? end_adapter(out, status)
                                                : LORA_ERROR_INTERNAL;
}

static lora_status delta(const call *job, lora_error *error)
{
    unsigned char buffer[4 * 3 * 9 * 8];
    size_t size = lora_dtype_bits(job->dtype) / 8;

    return lora_adapter_delta(buffer, 4 * 3 * 9 * size, adapter,
                              module_at(adapter, SAMPLE_CORE), LORA_PART_WEIGHT,
                              1.0, job->dtype, 0, 4, error);
}

static lora_status factors(const call *job, lora_error *error)
{
    float up[4 * 2];
    float down[2 * 3 * 9];

    (void)job;
    return lora_adapter_factors(NULL, NULL, NULL, NULL, up, down,
                                LORA_DTYPE_F32, adapter,
                                module_at(adapter, SAMPLE_CORE), error);
}

static lora_status convert(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_convert_options options;
    lora_status status;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = job->dialect;
    options.dtype = job->dtype;
    options.bake_alpha = job->flag == 1;
    options.kind = job->flag == 2 ? "lora" : job->flag == 4 ? "full" : NULL;
    options.rank = job->flag == 2 ? job->rule.rank : 0;
    options.rank_prefix = job->flag == 3 ? job->rule.rank : 0;
    status = lora_adapter_convert(&out, adapter, &options, error);
    return end_adapter(out, status);
}

/* To metadata and back, so that the record of alphas is read too. */
static lora_status weaken(const call *job, lora_error *error)
{
    const lora_strength strength = {-0.3, 0.7};
    const char *const drop = "*conv*";
    lora_adapter *out = JUNK(lora_adapter);
    lora_adapter_convert_options options;
    lora_status status;

    (void)job;
    lora_adapter_convert_options_init(&options, sizeof options);
    options.strength = &strength;
    options.drops = &drop;
    options.drop_count = 1;
    status = lora_adapter_convert(&out, adapter, &options, error);
    return end_adapter(out, status);
}

static lora_status convert_back(const call *job, lora_error *error)
{
    lora_adapter *there;
    lora_adapter *back = JUNK(lora_adapter);
    lora_adapter_convert_options options;
    lora_status status;

    lora_adapter_convert_options_init(&options, sizeof options);
    options.dialect = job->dialect;
    status = lora_adapter_convert(&there, adapter, &options, error);
    if (status == LORA_OK) {
        options.dialect = "kohya";
        status = lora_adapter_convert(&back, there, &options, error);
        end_adapter(back, status);
    }
    lora_adapter_destroy(there);
    return status;
}

static lora_status resize(const call *job, lora_error *error)
{
    const lora_rank_override override = {"*conv1", {LORA_RANK_FIXED, 2, 0.0}};
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_adapter_resize_options options;
    lora_status status;

    lora_adapter_resize_options_init(&options, sizeof options);
    options.dtype = job->dtype;
    options.pad = job->flag == 1;
    options.keep_core = job->flag == 2;
    if (job->flag == 1) {
        options.conv_rule = &one;
        options.overrides = &override;
        options.override_count = 1;
    }
    status = lora_adapter_resize(&out, &report, adapter, &job->rule, &options,
                                 error);
    end_report(report, status);
    return end_adapter(out, status);
}

static lora_status to_lokr(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_lokr_options options;
    lora_status status;

    lora_lokr_options_init(&options, sizeof options);
    options.dtype = job->dtype;
    options.rank = (int32_t)job->flag;
    status = lora_adapter_to_lokr(&out, &report, adapter, &options, error);
    end_report(report, status);
    return end_adapter(out, status);
}

/* With a journal (flag 1), and with one that is whole (flag 2); what is left
 * of it does no harm to the next call, and is gone after this one. */
static lora_status extract(const call *job, lora_error *error)
{
    const lora_rank_override override = {"*to_q", {LORA_RANK_FIXED, 2, 0.0}};
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_adapter_extract_options options;
    lora_status status;

    lora_adapter_extract_options_init(&options, sizeof options);
    options.overrides = &override;
    options.override_count = 1;
    options.dtype = job->dtype;
    options.dialect = job->dialect;
    options.journal = job->flag > 0 ? in_folder("journal") : NULL;
    options.flags = job->flag > 1 ? LORA_EXTRACT_RESUME : 0;
    status = lora_adapter_extract(&out, &report, context, PAIR_BASE, PAIR_TUNED,
                                  &job->rule, &options, error);
    end_report(report, status);
    end_adapter(out, status);
    if (job->flag != 2 || status == LORA_OK) {
        (void)remove(in_folder("journal"));
    }
    return status;
}

/* The same from spectra. */
static lora_status decompose(const call *job, lora_error *error)
{
    lora_spectra *spectra = JUNK(lora_spectra);
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status = lora_spectra_create(&spectra, adapter, error);

    if (status != LORA_OK) {
        assert_null(spectra);
        return status;
    }
    status =
        lora_spectra_resize(&out, &report, spectra, &job->rule, NULL, error);
    lora_spectra_destroy(spectra);
    end_report(report, status);
    return end_adapter(out, status);
}

static lora_status build(const call *job, lora_error *error)
{
    const float values[2] = {1.0f, 2.0f};
    const lora_tensor view = {values, sizeof values, {1, 2}, 2, LORA_DTYPE_F32};
    lora_builder *builder = JUNK(lora_builder);
    lora_adapter *out = JUNK(lora_adapter);
    lora_status status = lora_builder_create(&builder, context,
                                             job->flag ? adapter : NULL, error);

    if (status != LORA_OK) {
        assert_null(builder);
        return status;
    }
    for (int i = 0; i < 70 && status == LORA_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "tensor %d", i);
        status = lora_builder_add_tensor(builder, name, &view, error);
    }
    for (int i = 0; i < 40 && status == LORA_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "key %d", i);
        status = lora_builder_set_metadata(builder, name, "value", error);
    }
    if (status == LORA_OK) {
        status = lora_builder_finish(&out, builder, error);
        end_adapter(out, status);
    }
    lora_builder_destroy(builder);
    return status;
}

/* Over a file that must stay what it was. */
static lora_status save_file(const call *job, lora_error *error)
{
    lora_adapter_save_options options;
    lora_status status;

    (void)job;
    folder_put("out.safetensors", "old", 3);
    lora_adapter_save_options_init(&options, sizeof options);
    options.overwrite = 1;
    status = lora_adapter_save(adapter, in_folder("out.safetensors"), &options,
                               error);
    if (status == LORA_OK) {
        folder_check("out.safetensors", im.file, im.bytes);
    } else {
        folder_check("out.safetensors", "old", 3);
    }
    assert_int_equal(remove(in_folder("out.safetensors")), 0);
    return status;
}

/* Into a new folder, which is gone again after a failure; in it no file may
 * have a name then, but those that came before. */
static lora_status save_peft(const call *job, lora_error *error)
{
    char file[1100];
    lora_status status =
        lora_adapter_save_peft(adapter, in_folder("peft"), NULL, error);

    (void)job;
    if (status != LORA_OK) {
        assert_int_equal(rmdir(in_folder("peft")), -1);
        assert_int_equal(errno, ENOENT);
        return status;
    }
    snprintf(file, sizeof file, "%s/adapter_model.safetensors",
             in_folder("peft"));
    assert_int_equal(remove(file), 0);
    snprintf(file, sizeof file, "%s/adapter_config.json", in_folder("peft"));
    assert_int_equal(remove(file), 0);
    assert_int_equal(rmdir(in_folder("peft")), 0);
    return status;
}

static lora_status save_memory(const call *job, lora_error *error)
{
    unsigned char buffer[1 << 16];
    size_t bytes = 77;
    lora_status status;

    (void)job;
    status =
        lora_adapter_save_memory(buffer, sizeof buffer, &bytes, adapter, error);
    assert_int_equal(bytes, status == LORA_OK ? im.bytes : 77);
    return status;
}

static lora_status save_writer(const call *job, lora_error *error)
{
    static sink s;
    lora_writer writer = sink_writer(&s);
    lora_status status;

    (void)job;
    sink_init(&s);
    status = lora_adapter_save_writer(adapter, &writer, error);
    assert_int_equal(s.finished, status == LORA_OK);
    assert_int_equal(s.aborted, status != LORA_OK);
    return status;
}

static lora_status save_delta(const call *job, lora_error *error)
{
    const char *path = in_folder("delta.safetensors");
    lora_adapter_delta_options options;
    lora_status status;

    lora_adapter_delta_options_init(&options, sizeof options);
    options.dtype = job->dtype;
    status = lora_adapter_save_delta(adapter, path, 1.0, &options, error);
    assert_int_equal(remove(path) == 0, status == LORA_OK);
    return status;
}

static lora_status delta_based(const call *job, lora_error *error)
{
    (void)job;
    return based_delta(adapter, error);
}

static lora_status save_based(const call *job, lora_error *error)
{
    lora_status status = based_save(adapter, job->flag, error);

    assert_int_equal(remove(in_folder("delta.safetensors")) == 0,
                     status == LORA_OK);
    assert_int_equal(remove(in_folder("base.safetensors")), 0);
    return status;
}

static void image_magnitudes(image *out)
{
    static const float down[6] = {1.0f, 0.0f, 2.0f, 0.5f, 1.0f, 0.0f};
    static const float up[4] = {1.0f, 2.0f, 0.5f, -1.0f};
    static const float magnitudes[2] = {3.0f, 2.0f};

    image_begin(out, NULL);
    image_f32(out, "lora_unet_a.dora_scale", "2,1", magnitudes, 2);
    image_f32(out, "lora_unet_a.lora_down.weight", "2,3", down, 6);
    image_f32(out, "lora_unet_a.lora_up.weight", "2,2", up, 4);
    image_end(out);
}

static lora_status resize_based(const call *job, lora_error *error)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_adapter_resize_options options;
    lora_status status;

    lora_adapter_resize_options_init(&options, sizeof options);
    options.base = based_path();
    status = lora_adapter_resize(&out, &report, adapter, &job->rule, &options,
                                 error);
    assert_int_equal(remove(in_folder("base.safetensors")), 0);
    assert_int_equal(report != NULL, status == LORA_OK);
    lora_report_destroy(report);
    return end_adapter(out, status);
}

static lora_status convert_based(const call *job, lora_error *error)
{
    const lora_rank_rule *rule = job->rule.kind == 0 ? NULL : &job->rule;
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_status status =
        based_convert(&out, &report, adapter, job->dialect, rule, error);

    assert_int_equal(remove(in_folder("base.safetensors")), 0);
    assert_int_equal(report != NULL, status == LORA_OK);
    lora_report_destroy(report);
    return end_adapter(out, status);
}

static lora_status hash(const call *job, lora_error *error)
{
    lora_hashes hashes = {.struct_size = sizeof hashes};

    (void)job;
    return lora_hash_file(&hashes, context, in_folder("in.safetensors"), error);
}

/* What fails leaves the file as it was. */
static lora_status edit_file(const call *job, lora_error *error)
{
    static const lora_metadata_change changes[] = {
        {"ss_*", NULL}, {"note", "a"}, {"trigger_words", NULL}};
    lora_metadata_edit_options options;
    lora_metadata_edit out = {.struct_size = sizeof out};
    lora_status status;

    lora_metadata_edit_options_init(&options, sizeof options);
    options.rewrite = job->flag;
    options.room_bytes = job->flag * 100;
    status = lora_metadata_edit_file(&out, context, in_folder("in.safetensors"),
                                     changes, COUNT(changes), &options, error);
    if (status != LORA_OK) {
        folder_check("in.safetensors", im.file, im.bytes);
    } else {
        assert_int_equal(out.in_place, !job->flag);
    }
    return status;
}

/* ---- the loop ---------------------------------------------------------- */

static void begin(const call *job)
{
    context = heap_context(&h, NULL);
    if (job->files != 0) {
        put_files(job->files);
    } else {
        adapter = open_image(context, &im);
    }
}

static void end(const call *job)
{
    lora_adapter_destroy(adapter);
    adapter = NULL;
    heap_end(&h, context);
    assert_int_equal(folder_count(1), job->files);
}

static void torture(const call *job, int lasting)
{
    size_t n = 0;

    job->make(&im);
    for (;; n++) {
        size_t live;
        size_t met;
        lora_error error;
        lora_status status;

        begin(job);
        live = h.live;
        h.lasting = lasting;
        h.fail_at = h.calls + n;
        error_dirty(&error);
        status = job->run(job, &error);
        met = h.met;
        h.fail_at = SIZE_MAX;
        h.lasting = 0;
        if (met == 0) {
            assert_error(&error, status, job->last, ANY_OFFSET, NULL);
            assert_int_equal(h.live, live);
            end(job);
            break;
        }
        if (status != LORA_ERROR_MEMORY) {
            fail_msg("%s, allocation %u: %s", job->name, (unsigned)n,
                     lora_status_name(status));
        }
        assert_error(&error, status, LORA_ERROR_MEMORY, LORA_NO_OFFSET, NULL);
        assert_int_equal(h.live, live);
        error_dirty(&error);
        status = job->run(job, &error);
        assert_error(&error, status, job->last, ANY_OFFSET, NULL);
        assert_int_equal(h.live, live);
        end(job);
    }
    if (n == 0) {
        fail_msg("%s allocates nothing", job->name);
    }
    image_free(&im);
}

#define FIXED(n)                                                               \
    {                                                                          \
        LORA_RANK_FIXED, n, 0.0                                                \
    }
#define RULE(kind, value)                                                      \
    {                                                                          \
        LORA_RANK_##kind, 0, value                                             \
    }
#define NONE                                                                   \
    {                                                                          \
        0, 0, 0.0                                                              \
    }

static const call jobs[] = {
    {"open", image_sample, 2, open_file, NULL, NONE, 0, 0, 0},
    {"open map", image_sample, 2, open_file, NULL, NONE, 0, LORA_OPEN_MAP, 0},
    {"open peft", image_peft, 2, open_file, NULL, NONE, 0, 0, 0},
    {"open odd", image_odd, 2, open_file, NULL, NONE, 0, 0, 0},
    {"open many", image_many, 2, open_file, NULL, NONE, 0, 0, 0},
    {"open halves", image_halves, 2, open_file, NULL, NONE, 0, 0, 0},
    {"open beside", image_sample, 3, open_file, NULL, NONE, 0, 0, 0},
    {"open folder", image_peft, 3, open_folder, NULL, NONE, 0, 0, 0},
    {"open shards", image_sample, 6, open_folder, NULL, NONE, 0, 0, 0},
    {"memory", image_sample, 0, open_memory, NULL, NONE, 0, 0, 0},
    {"memory config", image_peft, 0, open_memory, NULL, NONE, 0, 1, 0},
    {"reader", image_sample, 0, open_reader, NULL, NONE, 0, 0, 0},
    {"describe", image_sample, 0, describe, NULL, NONE, 0, 0, 0},
    {"describe all", image_sample, 0, describe, NULL, NONE, 0, 1, 0},
    {"describe odd", image_odd, 0, describe, NULL, NONE, 0, 1, 0},
    {"check", image_sample, 0, check, NULL, NONE, 0, 0, 0},
    {"check odd", image_odd, 0, check, NULL, NONE, 0, 0, 0},
    {"check many", image_many, 0, check, NULL, NONE, 0, 0, 0},
    {"bind", image_sample, 0, bind, NULL, NONE, 0, 0, 0},
    {"bind odd", image_odd, 0, bind, NULL, NONE, 0, 0, 0},
    {"bind strict", image_odd, 0, bind, NULL, NONE, 0, 1, LORA_ERROR_KEY},
    {"bind family", image_pairs, 0, bind, "sd15", NONE, 0, 0, 0},
    {"bind file", image_half, 8, bind, NULL, NONE, 0, 0, 0},
    {"fix", image_sample, 0, fix, NULL, NONE, 0, 0, 0},
    {"fix broken", image_broken, 0, fix, NULL, NONE, 0, 0, 0},
    {"fix odd", image_odd, 0, fix, NULL, NONE, 0, 0, 0},
    {"fix nothing", image_halves, 0, fix, NULL, NONE, 0, 1, LORA_ERROR_KEY},
    {"fix without", image_half, 0, fix, NULL, NONE, 0, 1, 0},
    {"delta", image_sample, 0, delta, NULL, NONE, LORA_DTYPE_F32, 0, 0},
    {"delta f64", image_sample, 0, delta, NULL, NONE, LORA_DTYPE_F64, 0, 0},
    {"factors", image_sample, 0, factors, NULL, NONE, 0, 0, 0},
    {"convert", image_sample, 0, convert, NULL, NONE, 0, 0, 0},
    {"convert f16", image_sample, 0, convert, NULL, NONE, LORA_DTYPE_F16, 0, 0},
    {"convert f8", image_sample, 0, convert, NULL, NONE, LORA_DTYPE_F8_E4M3, 0,
     0},
    {"convert f64", image_sample, 0, convert, NULL, NONE, LORA_DTYPE_F64, 0, 0},
    {"convert bake", image_sample, 0, convert, NULL, NONE, LORA_DTYPE_BF16, 1,
     0},
    {"as lora", image_products, 0, convert, NULL, NONE, 0, 2, 0},
    {"as lora of a rank", image_products, 0, convert, NULL, FIXED(1), 0, 2, 0},
    {"to lokr", image_sample, 0, to_lokr, NULL, NONE, 0, 0, 0},
    {"to lokr of a rank", image_sample, 0, to_lokr, NULL, NONE, LORA_DTYPE_F16,
     1, 0},
    {"prefix", image_pairs, 0, convert, NULL, FIXED(1), 0, 3, 0},
    {"weaker", image_sample, 0, weaken, NULL, NONE, 0, 0, 0},
    {"to kohya", image_pairs, 0, convert, "kohya", NONE, 0, 0, 0},
    {"to diffusers", image_pairs, 0, convert, "diffusers", NONE, 0, 0, 0},
    {"to old", image_pairs, 0, convert, "diffusers-old", NONE, 0, 0, 0},
    {"to unet", image_pairs, 0, convert, "diffusers-unet", NONE, 0, 0, 0},
    {"to peft", image_pairs, 0, convert, "peft", NONE, 0, 0, 0},
    {"to native", image_pairs, 0, convert, "comfy/native", NONE, 0, 0, 0},
    {"no core in old", image_sample, 0, convert, "diffusers-old", NONE, 0, 0,
     LORA_ERROR_UNSUPPORTED},
    {"there and back", image_pairs, 0, convert_back, "diffusers", NONE, 0, 0,
     0},
    {"split", image_fused, 0, convert, "diffusers", NONE, 0, 0, 0},
    {"split f16", image_fused, 0, convert, "OneTrainer DiT", NONE,
     LORA_DTYPE_F16, 0, 0},
    {"split and back", image_fused, 0, convert_back, "diffusers", NONE, 0, 0,
     0},
    {"join", image_split, 0, convert, "kohya", NONE, 0, 0, 0},
    {"join bake", image_split, 0, convert, "comfy/native", NONE, 0, 1, 0},
    {"not to split", image_fused, 0, convert, "diffusers-old", NONE, 0, 0,
     LORA_ERROR_UNSUPPORTED},
    {"fixed", image_sample, 0, resize, NULL, FIXED(1), 0, 0, 0},
    {"pad", image_sample, 0, resize, NULL, FIXED(4), LORA_DTYPE_F16, 1, 0},
    {"energy", image_sample, 0, resize, NULL, RULE(ENERGY, 0.5), 0, 0, 0},
    {"ratio", image_sample, 0, resize, NULL, RULE(RATIO, 1.5), 0, 0, 0},
    {"threshold", image_sample, 0, resize, NULL, RULE(THRESHOLD, 9.0), 0, 0, 0},
    {"cumulative", image_sample, 0, resize, NULL, RULE(CUMULATIVE, 0.5), 0, 0,
     0},
    {"size", image_sample, 0, resize, NULL, RULE(SIZE, 1e5), 0, 0, 0},
    {"products", image_products, 0, resize, NULL, FIXED(1), 0, 0, 0},
    {"rounded", image_products, 0, resize, NULL, FIXED(99), LORA_DTYPE_F16, 0,
     0},
    {"dense", image_dense, 0, resize, NULL, FIXED(2), 0, 0, 0},
    {"core", image_sample, 0, resize, NULL, FIXED(1), 0, 2, 0},
    {"spectra", image_sample, 0, decompose, NULL, FIXED(1), 0, 0, 0},
    {"extract", image_half, 8, extract, NULL, FIXED(1), 0, 0, 0},
    {"extract f32", image_half, 8, extract, "kohya", RULE(ENERGY, 0.9),
     LORA_DTYPE_F32, 0, 0},
    {"extract all", image_half, 8, extract, NULL, RULE(KNEE, 0.0), 0, 0, 0},
    {"extract journal", image_half, 8, extract, NULL, FIXED(1), 0, 1, 0},
    {"extract resume", image_half, 8, extract, NULL, FIXED(1), 0, 2, 0},
    {"build", image_sample, 0, build, NULL, NONE, 0, 0, 0},
    {"edit", image_sample, 0, build, NULL, NONE, 0, 1, 0},
    {"save", image_sample, 0, save_file, NULL, NONE, 0, 0, 0},
    {"save peft", image_peft, 0, save_peft, NULL, NONE, 0, 0, 0},
    {"save memory", image_sample, 0, save_memory, NULL, NONE, 0, 0, 0},
    {"save writer", image_sample, 0, save_writer, NULL, NONE, 0, 0, 0},
    {"save delta", image_sample, 0, save_delta, NULL, NONE, LORA_DTYPE_F32, 0,
     0},
    {"delta based", image_based, 0, delta_based, NULL, NONE, 0, 0, 0},
    {"save based", image_based, 0, save_based, NULL, NONE, 0, 0, 0},
    {"save based, some", image_based, 0, save_based, NULL, NONE, 0, 1, 0},
    {"convert based", image_based, 0, convert_based, "lora", NONE, 0, 0, 0},
    {"convert based, rank", image_based, 0, convert_based, "lora", FIXED(1), 0,
     0, 0},
    {"convert full", image_sample, 0, convert, "kohya", NONE, 0, 4, 0},
    {"convert based, full", image_based, 0, convert_based, "full", NONE, 0, 0,
     0},
    {"resize DoRA", image_magnitudes, 0, resize, NULL, FIXED(1), 0, 0, 0},
    {"resize DoRA, base", image_magnitudes, 0, resize_based, NULL, FIXED(1), 0,
     0, 0},
    {"hash", image_sample, 2, hash, NULL, NONE, 0, 0, 0},
    {"hash odd", image_odd, 2, hash, NULL, NONE, 0, 0, 0},
    {"edit in place", image_sample, 2, edit_file, NULL, NONE, 0, 0, 0},
    {"edit anew", image_sample, 2, edit_file, NULL, NONE, 0, 1, 0},
    {"edit odd", image_odd, 2, edit_file, NULL, NONE, 0, 0, 0},
};

static void test_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(jobs); i++) {
        torture(&jobs[i], 0);
    }
}

static void test_for_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(jobs); i++) {
        torture(&jobs[i], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_once, folder_clear),
        cmocka_unit_test_setup(test_for_good, folder_clear),
    };

    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}

#endif
