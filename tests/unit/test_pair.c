/* Two checkpoints matched: by parts where one has a weight whole, and whatever
 * does not match listed. All layouts of all families are matched by
 * test_pair_layouts.c.
 */
#include "checkpoints.h"

#include "model/pair.h"

static heap memory;
static lora_context *context;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define F32 LORA_DTYPE_F32
#define F16 LORA_DTYPE_F16

/* Two models that live as long as a test. */
typedef struct models {
    lora__checkpoint *base;
    lora__checkpoint *tuned;
    blob base_file;
    blob tuned_file;
} models;

static void begin(models *m,
                  const weight *base,
                  size_t base_count,
                  const weight *tuned,
                  size_t tuned_count)
{
    context = make_context(&memory, NULL);
    assert_int_equal(
        open_weights(&m->base, &m->base_file, context, base, base_count, NULL),
        LORA_OK);
    assert_int_equal(open_weights(&m->tuned, &m->tuned_file, context, tuned,
                                  tuned_count, NULL),
                     LORA_OK);
}
#define BEGIN(m, base, tuned) begin(m, base, COUNT(base), tuned, COUNT(tuned))

static void end(models *m)
{
    lora__checkpoint_release(m->base);
    lora__checkpoint_release(m->tuned);
    free(m->base_file.data);
    free(m->tuned_file.data);
    end_context(&memory, context);
}

/* What a match is to be; names of tensors, NULL for a side without one. */
typedef struct expected {
    const char *target;
    lora__role role;
    lora__match_state state;
    const char *base;
    const char *tuned;
} expected;

static void check_side(const lora__checkpoint *c,
                       const lora__holding *hold,
                       const char *name)
{
    if (name == NULL) {
        assert_null(hold->target);
        return;
    }
    assert_non_null(hold->target);
    assert_string_equal(c->tensors[hold->tensor].name, name);
}

static void
check_matches(const lora__pair *pair, const expected *want, size_t count)
{
    size_t counts[LORA__MATCH_ASIDE + 1] = {0};

    for (size_t i = 0; i < count && i < pair->count; i++) {
        const lora__match *m = &pair->matches[i];
        if (strcmp(m->target, want[i].target) != 0) {
            fail_msg("%s, not %s", m->target, want[i].target);
        }
        assert_int_equal(m->role, want[i].role);
        assert_int_equal(m->state, want[i].state);
        check_side(pair->base, &m->base, want[i].base);
        check_side(pair->tuned, &m->tuned, want[i].tuned);
        counts[want[i].state]++;
    }
    assert_int_equal(pair->count, count);
    assert_memory_equal(counts, pair->counts, sizeof counts);
}

/* Both sides of a match as numbers. */
static void check_values(const lora__pair *pair,
                         const char *target,
                         const float *base,
                         const float *tuned,
                         size_t rows,
                         size_t columns)
{
    float got[64];

    for (size_t i = 0; i < pair->count; i++) {
        const lora__match *m = &pair->matches[i];
        if (strcmp(m->target, target) != 0) {
            continue;
        }
        assert_int_equal(m->base.rows, rows);
        assert_int_equal(m->base.columns, columns);
        assert_int_equal(lora__checkpoint_read_rows(got, LORA_DTYPE_F32,
                                                    pair->base, &m->base, 0,
                                                    rows, NULL),
                         LORA_OK);
        assert_memory_equal(got, base, rows * columns * sizeof *base);
        assert_int_equal(lora__checkpoint_read_rows(got, LORA_DTYPE_F32,
                                                    pair->tuned, &m->tuned, 0,
                                                    rows, NULL),
                         LORA_OK);
        assert_memory_equal(got, tuned, rows * columns * sizeof *tuned);
        return;
    }
    fail_msg("no %s", target);
}

#define DOUBLE "model.diffusion_model.double_blocks.2.img_attn."
#define BLOCK "transformer.transformer_blocks.2.attn."
#define W LORA__ROLE_WEIGHT
#define B LORA__ROLE_BIAS

/* One weight here, three there: each of the three is matched with its rows. */
static void parts_match_layers(void **state)
{
    static const weight base[] = {
        {DOUBLE "qkv.weight", F32, 2, {6, 2}, NULL},
        {DOUBLE "qkv.bias", F32, 1, {6}, NULL},
        {DOUBLE "proj.weight", F32, 2, {2, 2}, NULL},
        {"final_layer.adaLN_modulation.1.weight", F32, 2, {4, 1}, NULL},
    };
    static const weight tuned[] = {
        {BLOCK "to_q.weight", F32, 2, {2, 2}, NULL},
        {BLOCK "to_v.weight", F32, 2, {2, 2}, NULL},
        {BLOCK "to_k.weight", F32, 2, {2, 2}, NULL},
        {BLOCK "to_q.bias", F32, 1, {2}, NULL},
        {BLOCK "to_k.bias", F32, 1, {2}, NULL},
        {BLOCK "to_out.0.weight", F32, 2, {2, 2}, NULL},
        {"transformer.norm_out.linear.weight", F32, 2, {4, 1}, NULL},
    };
    static const expected want[] = {
        {"transformer.norm_out.linear", W, LORA__MATCH_BOTH,
         "final_layer.adaLN_modulation.1.weight",
         "transformer.norm_out.linear.weight"},
        {BLOCK "to_k", W, LORA__MATCH_BOTH, DOUBLE "qkv.weight",
         BLOCK "to_k.weight"},
        {BLOCK "to_k", B, LORA__MATCH_BOTH, DOUBLE "qkv.bias",
         BLOCK "to_k.bias"},
        {BLOCK "to_out.0", W, LORA__MATCH_BOTH, DOUBLE "proj.weight",
         BLOCK "to_out.0.weight"},
        {BLOCK "to_q", W, LORA__MATCH_BOTH, DOUBLE "qkv.weight",
         BLOCK "to_q.weight"},
        {BLOCK "to_q", B, LORA__MATCH_BOTH, DOUBLE "qkv.bias",
         BLOCK "to_q.bias"},
        {BLOCK "to_v", W, LORA__MATCH_BOTH, DOUBLE "qkv.weight",
         BLOCK "to_v.weight"},
        {BLOCK "to_v", B, LORA__MATCH_BASE_ONLY, DOUBLE "qkv.bias", NULL},
    };
    static const float counted[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const float swapped[] = {3, 4, 1, 2};
    models m;
    lora__pair pair;

    (void)state;
    BEGIN(&m, base, tuned);
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, NULL, NULL),
                     LORA_OK);
    check_matches(&pair, want, COUNT(want));
    check_values(&pair, BLOCK "to_q", counted, counted, 2, 2);
    check_values(&pair, BLOCK "to_k", counted + 4, counted, 2, 2);
    check_values(&pair, BLOCK "to_v", counted + 8, counted, 2, 2);
    check_values(&pair, "transformer.norm_out.linear", swapped, counted, 4, 1);
    lora__pair_destroy(&pair);
    lora__pair_destroy(&pair);
    end(&m);
}

/* Where both have it whole it stays so, unless parts are asked for. */
static void wholes_match_wholes(void **state)
{
    static const weight base[] = {
        {DOUBLE "qkv.weight", F32, 2, {6, 2}, NULL},
    };
    static const weight tuned[] = {
        {"double_blocks.2.img_attn.qkv.weight", F16, 2, {6, 2}, NULL},
    };
    static const char whole[] = "transformer.double_blocks.2.img_attn.qkv";
    static const char *const only_k[] = {"*.to_k"};
    lora__pair_options options = {0};
    lora__pair pair;
    models m;

    (void)state;
    BEGIN(&m, base, tuned);
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, &options, NULL),
                     LORA_OK);
    assert_int_equal(pair.count, 1);
    assert_string_equal(pair.matches[0].target, whole);
    assert_null(pair.matches[0].base.part);
    assert_int_equal(pair.base->tensors[0].entry->dtype, F32);
    assert_int_equal(pair.tuned->tensors[0].entry->dtype, F16);
    lora__pair_destroy(&pair);
    options.by_parts = 1;
    options.include = only_k;
    options.include_count = 1;
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, &options, NULL),
                     LORA_OK);
    assert_int_equal(pair.count, 1);
    assert_string_equal(pair.matches[0].target, BLOCK "to_k");
    assert_non_null(pair.matches[0].tuned.part);
    lora__pair_destroy(&pair);
    end(&m);
}

static const weight mixed_base[] = {
    {"b.weight", F32, 2, {2, 2}, NULL},
    {"a.weight", F32, 2, {2, 2}, NULL},
    {"a.bias", F32, 1, {2}, NULL},
    {"gone.weight", F32, 2, {2, 2}, NULL},
    {"int.weight", LORA_DTYPE_I8, 2, {2, 2}, NULL},
    {"conv.weight", F32, 4, {2, 2, 1, 1}, NULL},
    {"wide.weight", F32, 2, {2, 3}, NULL},
    {"slim.weight", F32, 2, {2, 2}, NULL},
    {"betas", F32, 1, {2}, NULL},
    {"own.int.weight", LORA_DTYPE_I8, 2, {2, 2}, NULL},
};
static const weight mixed_tuned[] = {
    {"a.bias", F32, 1, {2}, NULL},
    {"a.weight", F32, 2, {2, 2}, NULL},
    {"b.weight", F32, 2, {2, 2}, NULL},
    {"new.weight", F32, 2, {2, 2}, NULL},
    {"int.weight", F32, 2, {2, 2}, NULL},
    {"conv.weight", F32, 2, {2, 2}, NULL},
    {"wide.weight", F32, 2, {3, 2}, NULL},
    {"slim.weight", F32, 2, {2, 1}, NULL},
    {"betas", F32, 1, {2}, NULL},
    {"vae.x.weight", F32, 1, {2}, NULL},
};
static const expected mixed_want[] = {
    {"a", W, LORA__MATCH_BOTH, "a.weight", "a.weight"},
    {"a", B, LORA__MATCH_BOTH, "a.bias", "a.bias"},
    {"b", W, LORA__MATCH_BOTH, "b.weight", "b.weight"},
    {"betas", LORA__ROLE_UNKNOWN, LORA__MATCH_ASIDE, "betas", "betas"},
    {"conv", W, LORA__MATCH_BOTH, "conv.weight", "conv.weight"},
    {"gone", W, LORA__MATCH_BASE_ONLY, "gone.weight", NULL},
    {"int", W, LORA__MATCH_NUMBERS, "int.weight", "int.weight"},
    {"new", W, LORA__MATCH_TUNED_ONLY, NULL, "new.weight"},
    {"own.int", W, LORA__MATCH_NUMBERS, "own.int.weight", NULL},
    {"slim", W, LORA__MATCH_SHAPES, "slim.weight", "slim.weight"},
    {"vae.x.weight", LORA__ROLE_UNKNOWN, LORA__MATCH_ASIDE, NULL,
     "vae.x.weight"},
    {"wide", W, LORA__MATCH_SHAPES, "wide.weight", "wide.weight"},
};

/* Everything that there is is listed once. */
static void all_is_listed(void **state)
{
    lora__pair_options options = {0};
    lora__pair pair;
    lora_error error;
    models m;

    (void)state;
    BEGIN(&m, mixed_base, mixed_tuned);
    lora_error_init(&error, sizeof error);
    assert_int_equal(
        lora__pair_create(&pair, m.base, m.tuned, &options, &error),
        LORA_ERROR_SHAPE);
    assert_string_equal(error.subject, "slim");
    assert_non_null(strstr(error.message, "2x2 in the base, 2x1 in the tuned"));
    assert_null(pair.matches);
    options.skip_shapes = 1;
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, &options, NULL),
                     LORA_OK);
    check_matches(&pair, mixed_want, COUNT(mixed_want));
    assert_int_equal(pair.matches[0].known, 0);
    lora__pair_destroy(&pair);
    end(&m);
}

static void patterns_choose(void **state)
{
    static const char *const include[] = {"?", "wide.*"};
    static const char *const exclude[] = {"a.bias", "wide"};
    static const char *const nothing[] = {"nothing"};
    static const expected want[] = {
        {"a", W, LORA__MATCH_BOTH, "a.weight", "a.weight"},
        {"b", W, LORA__MATCH_BOTH, "b.weight", "b.weight"},
    };
    lora__pair_options options = {include, 2, exclude, 2, 0, 0};
    lora__pair pair;
    models m;

    (void)state;
    BEGIN(&m, mixed_base, mixed_tuned);
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, &options, NULL),
                     LORA_OK);
    check_matches(&pair, want, COUNT(want));
    lora__pair_destroy(&pair);
    options.include = nothing;
    options.include_count = 1;
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, &options, NULL),
                     LORA_ERROR_KEY);
    end(&m);
}

/* A model without tensors matches nothing. */
static void empty_ones_match_nothing(void **state)
{
    static const weight some[] = {{"a.weight", F32, 2, {2, 2}, NULL}};
    lora__pair pair;
    models m;

    (void)state;
    begin(&m, some, 1, some, 0);
    assert_int_equal(lora__pair_create(&pair, m.base, m.tuned, NULL, NULL),
                     LORA_ERROR_KEY);
    assert_int_equal(lora__pair_create(&pair, m.tuned, m.base, NULL, NULL),
                     LORA_ERROR_KEY);
    assert_int_equal(lora__pair_create(&pair, m.tuned, m.tuned, NULL, NULL),
                     LORA_ERROR_KEY);
    end(&m);
}

static void memory_may_run_out(void **state)
{
    lora__pair_options options = {0};
    lora_status status = LORA_ERROR_MEMORY;
    models m;

    (void)state;
    options.skip_shapes = 1;
    BEGIN(&m, mixed_base, mixed_tuned);
    for (size_t n = 0; status != LORA_OK; n++) {
        lora__pair pair;

        memory.countdown = n;
        memory.lasting = (int)(n % 2);
        status = lora__pair_create(&pair, m.base, m.tuned, &options, NULL);
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
        memory.countdown = SIZE_MAX;
        lora__pair_destroy(&pair);
        assert_true(n < 1000);
    }
    end(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_match_layers),
        cmocka_unit_test(wholes_match_wholes),
        cmocka_unit_test(all_is_listed),
        cmocka_unit_test(patterns_choose),
        cmocka_unit_test(empty_ones_match_nothing),
        cmocka_unit_test(memory_may_run_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
