/* torch's random numbers, against what torch 2.15.0 drew on the CPU, and
 * MT19937 against the number that the C++ standard gives.
 */
#include "dense_cases.h"

#include "core/rng_torch.h"
#include "linalg/orthogonal.h"

/* Two units in the last place of the largest normal numbers, below 8. */
#define STREAM_NORMAL 1e-6

/* torch's QR is in float32: 2^-24 times the root of the size, and the condition
 * of the matrix, which is small for those here. */
#define STREAM_ORTHOGONAL 2e-6

/* manual_seed(1234); randn(3), randn(16), randn(1), randn(7), randn(17),
 * randn(1): short ones leave a number for the next short one. */
static const size_t stream_sizes[] = {3, 16, 1, 7, 17, 1};
static const float stream_sequence[] = {
    0.0461304635f, 0.402402818f,   -1.01152909f,    -0.314352393f,
    -0.496313184f, 0.123528317f,   -0.150973514f,   -1.38920546f,
    -0.620764077f, -0.0241617076f, -1.04022932f,    1.46345794f,
    -0.747661114f, 1.74556375f,    -1.27794385f,    -1.02571416f,
    1.74733686f,   0.808959723f,   -1.09886956f,    0.216738239f,
    -0.154900402f, -1.3705889f,    -0.131920427f,   0.884839773f,
    -0.261076808f, 0.610417068f,   -0.00984232128f, 0.766699731f,
    -0.565951109f, 0.356618494f,   -0.453488261f,   -0.297135472f,
    -1.53797054f,  -1.02484977f,   -0.378061563f,   0.925742388f,
    0.515787721f,  -1.0042479f,    0.985964954f,    1.13335586f,
    0.850423515f,  1.05338991f,    0.369178504f,    0.0627958626f,
    -1.44734037f};

/* manual_seed(4294967295); empty(6).uniform_(-0.25, 0.75) */
static const float stream_uniform[] = {0.743799388f, 0.321306348f,
                                       0.320008039f, -0.200496256f,
                                       0.743037462f, 0.488254547f};

/* manual_seed(3); empty(5, 4).normal_(0, 0.01)[0] */
static const float stream_normal[] = {-0.000766442914f, 0.00359881506f,
                                      -0.00782016758f, 0.000715277332f};

/* orthogonal_ of seeds 0, 42, 42: wide, square and tall. */
static const float stream_3x5[] = {
    0.522230625f,   -0.0994405895f, -0.738373399f, 0.192636564f,
    -0.367535532f,  -0.536479354f,  0.210562542f,  -0.142894149f,
    -0.358768672f,  -0.720222056f,  -0.440916508f, 0.0662605762f,
    -0.0456551909f, 0.889752865f,   -0.0863580108f};
static const float stream_4x4[] = {
    0.839475274f,  0.41199562f,   -0.259667277f, 0.241068199f,
    0.295558125f,  -0.544767976f, -0.483039856f, -0.618503094f,
    -0.327673405f, 0.713832974f,  -0.380169898f, -0.488409311f,
    -0.317106992f, -0.15469408f,  -0.744792938f, 0.566388965f};
static const float stream_7x2[] = {
    0.118761539f,  0.125558555f, 0.0827024505f, 0.164117992f, -0.396067739f,
    -0.286100864f, 0.778903961f, 0.014965944f,  0.162841409f, 0.221634075f,
    0.188678145f,  0.529205799f, 0.391635239f,  -0.738946855f};

/* orthogonal_(empty(100, 320), gain=1.5), its first four and last four, and
 * randn(4) after it. */
static const float stream_wide[] = {
    -0.102227211f, -0.104635358f, -0.0227527618f, -0.0393965915f,
    -0.10282483f,  0.068063736f,  0.142249554f,   -0.020679336f};
static const float stream_after[] = {1.16977024f, 0.467923045f, 0.697171271f,
                                     0.538620114f};

static void
check_near(const float *got, const float *want, size_t count, double bound)
{
    for (size_t i = 0; i < count; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= bound)) {
            fail_msg("number %zu is %.9g instead of %.9g", i, (double)got[i],
                     (double)want[i]);
        }
    }
}

static void test_words(void **state)
{
    lora__torch_rng rng;
    uint32_t word = 0;

    (void)state;
    lora__torch_seed(&rng, 5489);
    for (int i = 0; i < 10000; i++) {
        word = lora__torch_word(&rng);
    }
    assert_true(word == 4123659995u);
    lora__torch_seed(&rng, ((uint64_t)7 << 32) + 5489);
    assert_true(lora__torch_word(&rng) == 3499211612u);
}

static void test_streams(void **state)
{
    float got[64];
    size_t done = 0;
    lora__torch_rng rng;

    (void)state;
    lora__torch_seed(&rng, 1234);
    for (size_t i = 0; i < 6; i++) {
        lora__torch_normal(&rng, got + done, stream_sizes[i], 1.0);
        done += stream_sizes[i];
    }
    check_near(got, stream_sequence, done, STREAM_NORMAL);
    lora__torch_seed(&rng, 3);
    lora__torch_normal(&rng, got, 20, 0.01);
    check_near(got, stream_normal, 4, 0.01 * STREAM_NORMAL);
    lora__torch_seed(&rng, UINT32_MAX);
    lora__torch_uniform(&rng, got, 6, -0.25, 0.75);
    assert_memory_equal(got, stream_uniform, sizeof stream_uniform);
}

/* As torch.nn.init.orthogonal_ does it. */
static lora_status stream_orthogonal(float *out,
                                     lora__torch_rng *rng,
                                     size_t rows,
                                     size_t cols,
                                     double gain,
                                     lora_context *context)
{
    lora__torch_normal(rng, out, rows * cols, 1.0);
    return lora__orthogonal(out, rows, cols, gain, context, NULL);
}

static void check_orthogonal(lora_context *context)
{
    static float wide[100 * 320];
    float got[16];
    lora__torch_rng rng;

    lora__torch_seed(&rng, 0);
    assert_int_equal(stream_orthogonal(got, &rng, 3, 5, 1, context), LORA_OK);
    check_near(got, stream_3x5, 15, STREAM_ORTHOGONAL);
    lora__torch_seed(&rng, 42);
    assert_int_equal(stream_orthogonal(got, &rng, 4, 4, 1, context), LORA_OK);
    check_near(got, stream_4x4, 16, STREAM_ORTHOGONAL);
    lora__torch_seed(&rng, 42);
    assert_int_equal(stream_orthogonal(got, &rng, 7, 2, 1, context), LORA_OK);
    check_near(got, stream_7x2, 14, STREAM_ORTHOGONAL);
    lora__torch_seed(&rng, 0);
    assert_int_equal(stream_orthogonal(wide, &rng, 100, 320, 1.5, context),
                     LORA_OK);
    check_near(wide, stream_wide, 4, STREAM_ORTHOGONAL);
    check_near(wide + 100 * 320 - 4, stream_wide + 4, 4, STREAM_ORTHOGONAL);
    lora__torch_normal(&rng, got, 4, 1.0);
    check_near(got, stream_after, 4, STREAM_NORMAL);
}

static void test_orthogonal(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        lora_context *context = dense_context(NULL, reference);
        check_orthogonal(context);
        lora_context_destroy(context);
    }
}

/* Of one row or column Q is the direction, of one element its sign; a row of
 * zeros stays one. */
static void test_small(void **state)
{
    lora_context *context = dense_context(NULL, 0);
    float vector[2] = {3.0f, -4.0f};
    float number[1] = {-2.5f};
    float zeros[3] = {0.0f, 0.0f, 0.0f};

    (void)state;
    assert_int_equal(lora__orthogonal(vector, 1, 2, 1, context, NULL), LORA_OK);
    check_near(vector, (const float[]){0.6f, -0.8f}, 2, 1e-7);
    assert_int_equal(lora__orthogonal(vector, 2, 1, 5, context, NULL), LORA_OK);
    check_near(vector, (const float[]){3.0f, -4.0f}, 2, 5e-7);
    assert_int_equal(lora__orthogonal(number, 1, 1, 2, context, NULL), LORA_OK);
    assert_true(number[0] == -2.0f);
    assert_int_equal(lora__orthogonal(zeros, 1, 3, 1, context, NULL), LORA_OK);
    assert_true(zeros[0] == 0 && zeros[1] == 0 && zeros[2] == 0);
    lora_context_destroy(context);
}

static void test_memory(void **state)
{
    faults_state faults = {-1, 0, 0};
    lora_context *context = dense_context(&faults, 0);
    float *values = dense_matrix(20, 30);
    size_t live = faults.live;
    lora_status status = LORA_ERROR_MEMORY;
    int at;

    (void)state;
    for (at = 0; status != LORA_OK; at++) {
        faults.calls = 0;
        faults.fail_at = at;
        status = lora__orthogonal(values, 20, 30, 1, context, NULL);
        assert_true(status == LORA_OK || status == LORA_ERROR_MEMORY);
        assert_int_equal(faults.live, live);
    }
    assert_true(at > 3);
    faults.fail_at = -1;
    lora_context_destroy(context);
    assert_int_equal(faults.live, 0);
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),      cmocka_unit_test(test_streams),
        cmocka_unit_test(test_orthogonal), cmocka_unit_test(test_small),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
