/* Ranks: spectra that are known beforehand, every rule and option, refusals. */
#include "api/reader.h"

static lora_context *context;

enum { N = 6, RANK = 3 };

#define MODULE "lora_unet_m"
#define CONV "lora_unet_n"

/* dW = scale * sum of sigma_k * e_k e_k^T: up has sigma, down ones. The order
 * of the directions in the file is not that of their size. */
static void image_spectrum(image *im, const double *sigma, float alpha)
{
    static const int order[RANK] = {1, 2, 0};
    float up[N * RANK] = {0};
    float down[RANK * N] = {0};

    for (int k = 0; k < RANK; k++) {
        up[k * RANK + order[k]] = (float)sigma[k];
        down[order[k] * N + k] = 1.0f;
    }
    image_begin(im, NULL);
    image_f32(im, MODULE ".alpha", "", &alpha, 1);
    image_f32(im, MODULE ".lora_down.weight", "3,6", down, COUNT(down));
    image_f32(im, MODULE ".lora_up.weight", "6,3", up, COUNT(up));
    image_f32(im, CONV ".alpha", "", &alpha, 1);
    image_f32(im, CONV ".lora_down.weight", "3,1,3,2", down, COUNT(down));
    image_f32(im, CONV ".lora_up.weight", "6,3,1,1", up, COUNT(up));
    image_end(im);
}

static int64_t rank_of(const lora_adapter *adapter, const char *name)
{
    lora_module_info info = {.struct_size = sizeof info};

    assert_int_equal(
        lora_adapter_get_module(&info, adapter, module_at(adapter, name), NULL),
        LORA_OK);
    assert_true(info.alpha == (double)info.rank || info.scale == 0.5);
    return info.rank;
}

static void delta_of(double *out, const lora_adapter *adapter, const char *name)
{
    assert_int_equal(lora_adapter_delta(out, N * N * sizeof *out, adapter,
                                        module_at(adapter, name),
                                        LORA_PART_WEIGHT, 1.0, LORA_DTYPE_F64,
                                        0, N, NULL),
                     LORA_OK);
}

static const double steps[RANK] = {4.0, 2.0, 1.0};

/* The layer's numbers, with scale 0.5: sigma 2, 1, 0.5. */
static void check_numbers(const lora_report *report,
                          const char *name,
                          size_t index,
                          int64_t rank)
{
    lora_report_module m = {.struct_size = sizeof m};
    double total = 0.0;
    double dropped = 0.0;

    assert_int_equal(lora_report_get_module(&m, report, index, NULL), LORA_OK);
    assert_string_equal(m.name, name);
    assert_int_equal(m.sigma_count, RANK);
    assert_int_equal(m.rank_in, RANK);
    assert_int_equal(m.rank_out, rank);
    for (int k = 0; k < RANK; k++) {
        double s = 0.5 * steps[k];
        assert_true(fabs(m.sigma[k] - s) < 1e-12);
        total += s * s;
        dropped += k >= rank ? s * s : 0.0;
    }
    /* Results are F32: half an ulp of factors of about 1 in each element. */
    assert_true(fabs(m.energy - (1.0 - dropped / total)) < 1e-6);
    assert_true(fabs(m.error - sqrt(dropped)) < 1e-6);
    assert_true(fabs(m.frobenius - sqrt(m.energy)) < 1e-15);
    assert_true(m.largest == m.sigma[0] && m.least == m.sigma[rank - 1]);
    assert_true(fabs(m.stable_rank - total / 4.0) < 1e-12);
    /* exp of the entropy of 4/7, 2/7, 1/7 */
    assert_true(fabs(m.effective_rank - 2.60049000599) < 1e-9);
    assert_true(fabs(m.spectral - (rank < RANK ? 0.5 * steps[rank] : 0.0)) <
                1e-12);
}

static void test_rules(void **state)
{
    static const struct {
        lora_rank_rule rule;
        int64_t rank;
    } cases[] = {
        {{LORA_RANK_FIXED, 1, 0.0}, 1},
        {{LORA_RANK_FIXED, 2, 0.0}, 2},
        {{LORA_RANK_FIXED, 3, 0.0}, 3},
        {{LORA_RANK_FIXED, 4, 0.0}, 3},
        /* squares 4, 1, 0.25 of 5.25: 0.762, 0.952, 1 */
        {{LORA_RANK_ENERGY, 0, 0.76}, 1},
        {{LORA_RANK_ENERGY, 0, 0.77}, 2},
        {{LORA_RANK_ENERGY, 0, 0.96}, 3},
        {{LORA_RANK_ENERGY, 0, 1.0}, 3},
        /* above 2 / value */
        {{LORA_RANK_RATIO, 0, 1.9}, 1},
        {{LORA_RANK_RATIO, 0, 2.1}, 2},
        {{LORA_RANK_RATIO, 0, 1e9}, 3},
        {{LORA_RANK_RATIO, 0, 1.0}, 1}, /* none is; one is kept always */
        {{LORA_RANK_THRESHOLD, 0, 0.6}, 2},
        {{LORA_RANK_THRESHOLD, 0, 0.0}, 3},
        {{LORA_RANK_THRESHOLD, 0, 7.0}, 1},
        /* sums 2, 3, 3.5: 0.571, 0.857, 1 */
        {{LORA_RANK_CUMULATIVE, 0, 0.57}, 1},
        {{LORA_RANK_CUMULATIVE, 0, 0.58}, 2},
        {{LORA_RANK_CUMULATIVE, 0, 0.86}, 3},
        /* exp(entropy of 4/7, 2/7, 1/7) = 2.60; below the line from (0, 1)
         * over six values of which three are 0: 0, 0.3, 0.35, 0.4, ... */
        {{LORA_RANK_EFFECTIVE, 0, 0.0}, 3},
        {{LORA_RANK_KNEE, 0, 0.0}, 3},
        {{LORA_RANK_SIZE, 0, 1e6}, 3},
    };
    image im;
    lora_adapter *adapter;
    lora_spectra *spectra;
    lora_error error;

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    adapter = open_image(context, &im);
    assert_int_equal(lora_spectra_create(&spectra, adapter, NULL), LORA_OK);
    for (size_t i = 0; i < 2 * COUNT(cases); i++) {
        const lora_rank_rule *rule = &cases[i / 2].rule;
        lora_adapter *out = JUNK(lora_adapter);
        lora_report *report = JUNK(lora_report);
        CHECK(LORA_OK, LORA_NO_OFFSET, "",
              i % 2 == 0 ? lora_adapter_resize(&out, &report, adapter, rule,
                                               NULL, &error)
                         : lora_spectra_resize(&out, &report, spectra, rule,
                                               NULL, &error));
        assert_int_equal(lora_report_module_count(report), 2);
        assert_int_equal(lora_report_problem_count(report), 0);
        for (size_t m = 0; m < 2; m++) {
            const char *name = m == 0 ? MODULE : CONV;
            double dense[N * N];
            assert_int_equal(rank_of(out, name), cases[i / 2].rank);
            check_numbers(report, name, m, cases[i / 2].rank);
            delta_of(dense, out, name);
            for (int k = 0; k < N * N; k++) {
                int d = k / N;
                double expected =
                    k % N == d && d < cases[i / 2].rank ? 0.5 * steps[d] : 0.0;
                assert_true(fabs(dense[k] - expected) < 1e-6);
            }
        }
        lora_report_destroy(report);
        lora_adapter_destroy(out);
    }
    lora_adapter_destroy(adapter); /* the spectra keep it */
    lora_spectra_destroy(spectra);
    lora_spectra_destroy(NULL);
    image_free(&im);
}

/* A negative scale, a zero layer, and a rank that is not there. */
static void test_spectra(void **state)
{
    static const double nothing[RANK] = {0.0, 0.0, 0.0};
    static const double one[RANK] = {3.0, 0.0, 0.0};
    const lora_rank_rule fixed = {LORA_RANK_FIXED, 1, 0.0};
    const lora_rank_rule all = {LORA_RANK_ENERGY, 0, 1.0};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_report *report;
    lora_report_module m = {.struct_size = sizeof m};
    double dense[N * N];

    (void)state;
    image_spectrum(&im, steps, -3.0f);
    adapter = open_image(context, &im);
    assert_int_equal(
        lora_adapter_resize(&out, NULL, adapter, &fixed, NULL, NULL), LORA_OK);
    delta_of(dense, out, MODULE);
    assert_true(fabs(dense[0] + 4.0) < 1e-6);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_spectrum(&im, nothing, 3.0f);
    adapter = open_image(context, &im);
    assert_int_equal(
        lora_adapter_resize(&out, &report, adapter, &fixed, NULL, NULL),
        LORA_OK);
    assert_int_equal(rank_of(out, MODULE), 1);
    assert_int_equal(lora_report_get_module(&m, report, 0, NULL), LORA_OK);
    assert_true(m.energy == 1.0 && m.error == 0.0 && m.spectral == 0.0);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
    /* The strings of a report live as long as the report. */
    assert_string_equal(m.name, MODULE);
    lora_report_destroy(report);

    image_spectrum(&im, one, 3.0f);
    adapter = open_image(context, &im);
    assert_int_equal(lora_adapter_resize(&out, NULL, adapter, &all, NULL, NULL),
                     LORA_OK);
    assert_int_equal(rank_of(out, MODULE), 1);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void resize_with(const lora_adapter *adapter,
                        const lora_rank_rule *rule,
                        const lora_adapter_resize_options *options,
                        int64_t linear,
                        int64_t conv)
{
    lora_adapter *out;
    lora_error error;

    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_resize(&out, NULL, adapter, rule, options, &error));
    assert_int_equal(rank_of(out, MODULE), linear);
    assert_int_equal(rank_of(out, CONV), conv);
    lora_adapter_destroy(out);
}

static void test_options(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    const lora_rank_rule two = {LORA_RANK_FIXED, 2, 0.0};
    const lora_rank_rule energy = {LORA_RANK_ENERGY, 0, 0.9};
    const lora_rank_override overrides[] = {
        {"*", {LORA_RANK_FIXED, 3, 0.0}},
        {"lora_unet_?", {LORA_RANK_FIXED, 2, 0.0}},
        {"*_m", {LORA_RANK_FIXED, 1, 0.0}},
        {"*_x", {LORA_RANK_FIXED, 3, 0.0}},
    };
    image im;
    lora_adapter *adapter;
    lora_adapter_resize_options o;

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.conv_rule = &two;
    resize_with(adapter, &one, &o, 1, 2);
    o.overrides = overrides;
    o.override_count = 1;
    resize_with(adapter, &one, &o, 3, 3);
    o.override_count = COUNT(overrides);
    resize_with(adapter, &one, &o, 1, 2);

    lora_adapter_resize_options_init(&o, sizeof o);
    o.max_rank = 1;
    resize_with(adapter, &energy, &o, 1, 1);
    o.max_rank = 3;
    o.min_rank = 3;
    resize_with(adapter, &one, &o, 3, 3);
    o.min_rank = 9; /* more than there is, and more than the cap */
    o.max_rank = 0;
    resize_with(adapter, &one, &o, 3, 3);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Sizes byte by byte: both modules have sigma 2, 1, 0.5 and directions of 48
 * bytes, so they take turns, the first one first. */
static void test_size(void **state)
{
    static const int64_t ranks[][2] = {{1, 1}, {2, 1}, {2, 2}, {3, 2}, {3, 3}};
    lora_rank_rule rule = {LORA_RANK_SIZE, 0, 0.0};
    image im;
    lora_adapter *adapter;
    size_t seen = 0;
    size_t last = 0;

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    adapter = open_image(context, &im);
    for (rule.value = 1.0; rule.value < 1500.0; rule.value += 1.0) {
        lora_adapter *out;
        size_t bytes;
        size_t now = 0;
        lora_status status =
            lora_adapter_resize(&out, NULL, adapter, &rule, NULL, NULL);
        if (status != LORA_OK) {
            assert_int_equal(status, LORA_ERROR_RANGE);
            assert_int_equal(seen, 0);
            continue;
        }
        assert_int_equal(lora_adapter_save_memory(NULL, 0, &bytes, out, NULL),
                         LORA_OK);
        assert_true((double)bytes <= rule.value);
        while (now < COUNT(ranks) - 1 &&
               (rank_of(out, MODULE) != ranks[now][0] ||
                rank_of(out, CONV) != ranks[now][1])) {
            now++;
        }
        assert_int_equal(rank_of(out, MODULE), ranks[now][0]);
        assert_int_equal(rank_of(out, CONV), ranks[now][1]);
        if (seen == 0 || now != last) { /* a byte less was too little */
            assert_true((double)bytes == rule.value);
            assert_int_equal(now, seen == 0 ? 0 : last + 1);
            last = now;
            seen++;
        }
        lora_adapter_destroy(out);
    }
    assert_int_equal(seen, COUNT(ranks));
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Beside layers with rules of their own, and with cores that are kept. */
static void test_size_beside(void **state)
{
    const lora_rank_rule most = {LORA_RANK_ENERGY, 0, 0.9};
    lora_rank_rule rule = {LORA_RANK_SIZE, 0, 0.0};
    lora_adapter_resize_options o;
    image im;
    lora_adapter *adapter;
    int done = 0;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.conv_rule = &most;
    for (o.keep_core = 0; o.keep_core < 2; o.keep_core++) {
        for (rule.value = 1000.0; rule.value < 4000.0; rule.value += 7.0) {
            lora_adapter *out;
            size_t bytes;
            if (lora_adapter_resize(&out, NULL, adapter, &rule, &o, NULL) !=
                LORA_OK) {
                continue;
            }
            assert_int_equal(
                lora_adapter_save_memory(NULL, 0, &bytes, out, NULL), LORA_OK);
            assert_true((double)bytes <= rule.value);
            lora_adapter_destroy(out);
            done++;
        }
    }
    assert_true(done > 200);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Directions that are not there are filled up with zeros. */
static void test_pad(void **state)
{
    const lora_rank_rule five = {LORA_RANK_FIXED, 5, 0.0};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter_resize_options o;
    double before[N * N];
    double after[N * N];

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.pad = 1;
    assert_int_equal(lora_adapter_resize(&out, NULL, adapter, &five, &o, NULL),
                     LORA_OK);
    assert_int_equal(rank_of(out, MODULE), 5);
    delta_of(before, adapter, MODULE);
    delta_of(after, out, MODULE);
    for (int i = 0; i < N * N; i++) {
        assert_true(fabs(before[i] - after[i]) < 1e-6);
    }
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Of sigma 2, 1, 0.5 in 6 x 6: what the tools of others keep. */
static void test_counting(void **state)
{
    static const struct {
        lora_rank_rule rule;
        lora_rank_counting counting;
        int64_t rank;
    } cases[] = {
        {{LORA_RANK_ENERGY, 0, 0.76}, LORA_COUNT_KOHYA, 2},
        {{LORA_RANK_ENERGY, 0, 0.96}, LORA_COUNT_KOHYA, 4},
        {{LORA_RANK_RATIO, 0, 1.0}, LORA_COUNT_KOHYA, 2}, /* an index of 0 */
        {{LORA_RANK_CUMULATIVE, 0, 0.58}, LORA_COUNT_KOHYA, 3},
        {{LORA_RANK_FIXED, 2, 0.0}, LORA_COUNT_KOHYA, 2},
        {{LORA_RANK_FIXED, 9, 0.0}, LORA_COUNT_KOHYA, 6},
        {{LORA_RANK_THRESHOLD, 0, 0.6}, LORA_COUNT_KOHYA, 2},
        {{LORA_RANK_CUMULATIVE, 0, 0.58}, LORA_COUNT_LYCORIS, 1},
        {{LORA_RANK_CUMULATIVE, 0, 0.86}, LORA_COUNT_LYCORIS, 2},
        {{LORA_RANK_CUMULATIVE, 0, 0.57}, LORA_COUNT_LYCORIS, 1},
        {{LORA_RANK_ENERGY, 0, 0.96}, LORA_COUNT_LYCORIS, 3},
    };
    static const double tiny[RANK] = {1e-6, 0.5e-6, 0.25e-6};
    image im;
    lora_adapter *adapter;
    lora_adapter_resize_options o;

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    for (size_t i = 0; i < COUNT(cases); i++) {
        o.counting = cases[i].counting;
        resize_with(adapter, &cases[i].rule, &o, cases[i].rank, cases[i].rank);
    }
    o.counting = LORA_COUNT_KOHYA;
    o.max_rank = 3;
    resize_with(adapter, &cases[1].rule, &o, 3, 3);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_spectrum(&im, tiny, 1.5f);
    adapter = open_image(context, &im);
    resize_with(adapter, &cases[1].rule, &o, 1, 1);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* All of the singular values in up: 2 and 1, and a scale that is negative. */
static void test_split(void **state)
{
    const lora_rank_rule two = {LORA_RANK_FIXED, 2, 0.0};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter_resize_options o;
    float up[N * 2];
    float down[2 * N];

    (void)state;
    image_spectrum(&im, steps, -1.5f);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    for (int split = LORA_SPLIT_EVEN; split <= LORA_SPLIT_UP; split++) {
        o.split = split;
        assert_int_equal(
            lora_adapter_resize(&out, NULL, adapter, &two, &o, NULL), LORA_OK);
        assert_int_equal(lora_adapter_factors(NULL, NULL, NULL, NULL, up, down,
                                              LORA_DTYPE_F32, out,
                                              module_at(out, MODULE), NULL),
                         LORA_OK);
        for (int k = 0; k < 2; k++) {
            double sigma = 0.5 * steps[k];
            double part = split == LORA_SPLIT_UP ? sigma : sqrt(sigma);
            assert_true(fabs(fabs(up[k * 2 + k]) - part) < 1e-6);
            assert_true(fabs(fabs(down[k * N + k]) - sigma / part) < 1e-6);
            assert_true(up[k * 2 + k] * down[k * N + k] < 0.0f);
        }
        lora_adapter_destroy(out);
    }
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Types of the result; a core is multiplied out. */
static void test_dtype_and_core(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    lora_adapter_resize_options o;
    lora_module_info info = {.struct_size = sizeof info};

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.dtype = LORA_DTYPE_BF16;
    assert_int_equal(lora_adapter_resize(&out, NULL, adapter, &one, &o, NULL),
                     LORA_OK);
    assert_int_equal(lora_adapter_module_count(out), 4);
    for (size_t m = 0; m < 4; m++) {
        assert_int_equal(lora_adapter_get_module(&info, out, m, NULL), LORA_OK);
        assert_int_equal(info.dtype, LORA_DTYPE_BF16);
        assert_int_equal(info.rank, 1);
        assert_int_equal(info.tucker, 0);
        assert_int_equal(info.status, LORA_OK);
    }
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_metadata(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    const lora_rank_rule two = {LORA_RANK_THRESHOLD, 0, 0.6};
    image im;
    lora_adapter *adapter;
    lora_adapter *out;
    const char *hash;

    (void)state;
    image_sample(&im);
    adapter = open_image(context, &im);
    assert_int_equal(lora_adapter_resize(&out, NULL, adapter, &one, NULL, NULL),
                     LORA_OK);
    assert_string_equal(lora_adapter_find_metadata(out, "ss_network_dim"), "1");
    assert_string_equal(lora_adapter_find_metadata(out, "note"), "a b");
    hash = lora_adapter_find_metadata(out, "sshs_model_hash");
    assert_non_null(hash);
    assert_int_equal(strlen(hash), 64); /* the stale one was "00" */
    lora_adapter_destroy(out);
    assert_int_equal(lora_adapter_resize(&out, NULL, adapter, &two, NULL, NULL),
                     LORA_OK);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Refusals --------------------------------------------------------------- */

static void expect(lora_status expected,
                   const char *subject,
                   const lora_adapter *adapter,
                   const lora_rank_rule *rule,
                   const lora_adapter_resize_options *options)
{
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    lora_error error;

    CHECK(expected, ANY_OFFSET, subject,
          lora_adapter_resize(&out, &report, adapter, rule, options, &error));
    assert_null(out);
    assert_null(report);
}

static void test_refused(void **state)
{
    static const lora_rank_rule out_of_range[] = {
        {LORA_RANK_FIXED, 0, 0.0},
        {LORA_RANK_FIXED, -1, 0.0},
        {LORA_RANK_ENERGY, 1, 0.0},
        {LORA_RANK_ENERGY, 1, 1.0001},
        {LORA_RANK_ENERGY, 1, NAN},
        {LORA_RANK_RATIO, 1, 0.5},
        {LORA_RANK_RATIO, 1, NAN},
        {LORA_RANK_THRESHOLD, 1, -1.0},
        {LORA_RANK_THRESHOLD, 1, NAN},
        {LORA_RANK_CUMULATIVE, 1, -0.5},
        {LORA_RANK_CUMULATIVE, 1, HUGE_VAL},
        {LORA_RANK_SIZE, 1, 0.5},
        {LORA_RANK_SIZE, 1, NAN},
        {LORA_RANK_SIZE, 1, HUGE_VAL},
        {LORA_RANK_SIZE, 1, 99.0}}; /* too small for any file */
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    const lora_rank_rule unknown = {99, 1, 0.5};
    const lora_rank_override nameless = {NULL, {LORA_RANK_FIXED, 1, 0.0}};
    const lora_rank_override bad = {"a*", {LORA_RANK_FIXED, 0, 0.0}};
    const lora_rank_rule size = {LORA_RANK_SIZE, 0, 1e6};
    const lora_rank_override sized = {"a*", {LORA_RANK_SIZE, 0, 1e6}};
    lora_adapter_resize_options o;
    image im;
    lora_adapter *adapter;
    lora_error error;

    (void)state;
    image_spectrum(&im, steps, 1.0f);
    adapter = open_image(context, &im);
    CHECK_ARGUMENT(
        lora_adapter_resize(NULL, NULL, adapter, &one, NULL, &error));
    expect(LORA_ERROR_ARGUMENT, NULL, NULL, &one, NULL);
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, NULL, NULL);
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &unknown, NULL);
    for (size_t i = 0; i < COUNT(out_of_range); i++) {
        expect(LORA_ERROR_RANGE, NULL, adapter, &out_of_range[i], NULL);
    }
    lora_adapter_resize_options_init(&o, sizeof o);
    o.conv_rule = &out_of_range[0];
    expect(LORA_ERROR_RANGE, NULL, adapter, &one, &o);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.override_count = 1;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    o.overrides = &nameless;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    o.overrides = &sized;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    o.overrides = NULL;
    o.override_count = 0;
    o.conv_rule = &size;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    o.conv_rule = NULL;
    o.override_count = 1;
    o.overrides = &bad;
    expect(LORA_ERROR_RANGE, "a*", adapter, &one, &o);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.max_rank = -1;
    expect(LORA_ERROR_RANGE, NULL, adapter, &one, &o);
    o.max_rank = 2;
    o.min_rank = 3;
    expect(LORA_ERROR_RANGE, NULL, adapter, &one, &o);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.dtype = LORA_DTYPE_U8;
    expect(LORA_ERROR_DTYPE, "dtype", adapter, &one, &o);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.counting = LORA_COUNT_LYCORIS + 1;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    o.counting = -1;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.split = LORA_SPLIT_UP + 1;
    expect(LORA_ERROR_ARGUMENT, NULL, adapter, &one, &o);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

static void test_refused_modules(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    const float bad[4] = {1.0f, NAN, 3.0f, 4.0f};
    const float large[4] = {3e38f, 0.0f, 0.0f, 1.0f};
    lora_adapter_resize_options o;
    lora_adapter *adapter;
    lora_adapter *out;
    image im;
    lora_error error;

    (void)state;
    image_begin(&im, NULL);
    image_end(&im);
    adapter = open_image(context, &im);
    expect(LORA_ERROR_KEY, NULL, adapter, &one, NULL);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_some(&im, "lora_unet_a.lora_down.weight", "2,2", 4, 1);
    image_some(&im, "lora_unet_b.lora_down.weight", "2,2", 4, 1);
    image_some(&im, "lora_unet_b.lora_up.weight", "2,2", 4, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    expect(LORA_ERROR_KEY, "lora_unet_a", adapter, &one, NULL);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.skip_bad = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_adapter_resize(&out, NULL, adapter, &one, &o, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    lora_adapter_destroy(out);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_some(&im, "lora_unet_c.dora_scale", "1,3,1,1", 3, 1);
    image_some(&im, "lora_unet_c.lora_down.weight", "2,3,2,2", 24, 1);
    image_some(&im, "lora_unet_c.lora_up.weight", "5,2,1,1", 10, 1);
    image_end(&im);
    adapter = open_image(context, &im);
    expect(LORA_ERROR_UNSUPPORTED, "lora_unet_c", adapter, &one, NULL);
    lora_adapter_destroy(adapter);
    image_free(&im);

    image_begin(&im, NULL);
    image_f32(&im, "lora_unet_b.lora_down.weight", "2,2", bad, 4);
    image_some(&im, "lora_unet_b.lora_up.weight", "2,2", 4, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    expect(LORA_ERROR_NONFINITE, NULL, adapter, &one, NULL);
    lora_adapter_destroy(adapter);
    image_free(&im);

    /* sqrt(3e38 * 3e38) fits F32 and BF16, not F16. */
    image_begin(&im, NULL);
    image_f32(&im, "lora_unet_b.lora_down.weight", "2,2", large, 4);
    image_f32(&im, "lora_unet_b.lora_up.weight", "2,2", large, 4);
    image_end(&im);
    adapter = open_image(context, &im);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.dtype = LORA_DTYPE_F16;
    expect(LORA_ERROR_NONFINITE, NULL, adapter, &one, &o);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* What cannot be decomposed is refused when it is used, and can be left out. */
static void test_spectra_refused(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    const lora_rank_rule none = {LORA_RANK_FIXED, 0, 0.0};
    const float bad[4] = {1.0f, NAN, 3.0f, 4.0f};
    lora_adapter_resize_options o;
    lora_spectra *spectra = JUNK(lora_spectra);
    lora_adapter *adapter;
    lora_adapter *out;
    lora_report *report;
    image im;
    lora_error error;

    (void)state;
    CHECK_ARGUMENT(lora_spectra_create(&spectra, NULL, &error));
    assert_null(spectra);
    image_begin(&im, NULL);
    image_some(&im, "lora_unet_a.lora_down.weight", "2,2", 4, 1);
    image_f32(&im, "lora_unet_b.lora_down.weight", "2,2", bad, 4);
    image_some(&im, "lora_unet_b.lora_up.weight", "2,2", 4, 2);
    image_some(&im, "lora_unet_c.lora_down.weight", "2,2", 4, 1);
    image_some(&im, "lora_unet_c.lora_up.weight", "2,2", 4, 2);
    image_end(&im);
    adapter = open_image(context, &im);
    CHECK_ARGUMENT(lora_spectra_create(NULL, adapter, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_spectra_create(&spectra, adapter, &error));
    CHECK_ARGUMENT(
        lora_spectra_resize(NULL, NULL, spectra, &one, NULL, &error));
    CHECK_ARGUMENT(lora_spectra_resize(&out, NULL, NULL, &one, NULL, &error));
    CHECK_ARGUMENT(
        lora_spectra_resize(&out, NULL, spectra, NULL, NULL, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "rank",
          lora_spectra_resize(&out, NULL, spectra, &none, NULL, &error));
    CHECK(LORA_ERROR_KEY, ANY_OFFSET, "lora_unet_a",
          lora_spectra_resize(&out, &report, spectra, &one, NULL, &error));
    assert_null(out);
    assert_null(report);
    lora_adapter_resize_options_init(&o, sizeof o);
    o.skip_bad = 1;
    CHECK(LORA_OK, LORA_NO_OFFSET, "",
          lora_spectra_resize(&out, &report, spectra, &one, &o, &error));
    assert_int_equal(lora_adapter_module_count(out), 1);
    assert_int_equal(lora_report_module_count(report), 1);
    assert_int_equal(lora_report_problem_count(report), 2);
    lora_report_destroy(report);
    lora_adapter_destroy(out);
    lora_spectra_destroy(spectra);
    lora_adapter_destroy(adapter);
    image_free(&im);
}

/* Under every limit the result is the same, or there is none: what is not kept
 * is made again. */
static void test_spectra_bounded(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    lora_limits limits = {.struct_size = sizeof limits};
    lora_context_options options;
    lora_error error;
    image im;
    double dense[N * N];
    int refused = 0;
    int done = 0;

    (void)state;
    image_spectrum(&im, steps, 1.5f);
    lora_context_options_init(&options, sizeof options);
    options.limits = &limits;
    for (uint64_t bytes = 1 << 12; bytes < 1 << 18; bytes += 1 << 10) {
        lora_context *bounded;
        lora_adapter *adapter = NULL;
        lora_spectra *spectra = NULL;
        lora_adapter *out = NULL;
        lora_status status;
        limits.memory_bytes = bytes;
        assert_int_equal(lora_context_create(&bounded, &options, NULL),
                         LORA_OK);
        status = lora_adapter_open_memory(&adapter, bounded, im.file, im.bytes,
                                          NULL, &error);
        if (status == LORA_OK) {
            status = lora_spectra_create(&spectra, adapter, &error);
        }
        if (status == LORA_OK) {
            status =
                lora_spectra_resize(&out, NULL, spectra, &one, NULL, &error);
        }
        lora_spectra_destroy(spectra);
        lora_adapter_destroy(adapter);
        if (status == LORA_OK) {
            delta_of(dense, out, MODULE);
            assert_true(fabs(dense[0] - 2.0) < 1e-6 && dense[N + 1] == 0.0);
            done++;
        } else {
            assert_int_equal(status, LORA_ERROR_MEMORY);
            assert_int_equal(done, 0);
            refused++;
        }
        lora_adapter_destroy(out);
        lora_context_destroy(bounded);
    }
    assert_true(refused > 0 && done > 0);
    image_free(&im);
}

static void test_reading_fails(void **state)
{
    const lora_rank_rule one = {LORA_RANK_FIXED, 1, 0.0};
    lora_adapter *adapter;
    lora_adapter *out = JUNK(lora_adapter);
    lora_report *report = JUNK(lora_report);
    image im;
    source s;
    lora_error error;

    (void)state;
    image_sample(&im);
    s = source_of(&im);
    adapter = open_source(context, &s);
    s.fail_at = s.reads + 4;
    CHECK(LORA_ERROR_IO, ANY_OFFSET, NULL,
          lora_adapter_resize(&out, &report, adapter, &one, NULL, &error));
    assert_true(error.offset != LORA_NO_OFFSET);
    assert_null(out);
    assert_null(report);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_spectra),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_size_beside),
        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_dtype_and_core),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_modules),
        cmocka_unit_test(test_spectra_refused),
        cmocka_unit_test(test_spectra_bounded),
        cmocka_unit_test(test_reading_fails),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
