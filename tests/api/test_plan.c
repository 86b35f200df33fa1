/* Plans through the interface: values, what differs, what is kept, the host's
 * own formats, factors, and each failure.
 *
 * Expected values are W + sum of strength * alpha / rank * up * down, in double
 * from the numbers the files are made of, and what a type makes of them. All
 * those numbers are multiples of 1/128 below 1, so that sums of a few products
 * are exact in F32: what is left is one rounding, and it is that of
 * lora_tensor_convert(), which has tests of its own.
 */
#include "api/plans.h"

#include <math.h>

static lora_context *context;
static lora_error error;

/* ---- values ------------------------------------------------------------ */

/* Add strength * alpha / rank * up * down. */
static void add_pair(double *sum, const plan_pair *pair, double strength)
{
    size_t rows = plan_rows(pair->tensor);
    size_t columns = plan_columns(pair->tensor);
    float up[4096];
    float down[4096];

    plan_up(up, pair);
    plan_down(down, pair);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            double dot = 0.0;
            for (size_t r = 0; r < pair->rank; r++) {
                dot += (double)up[i * pair->rank + r] *
                       (double)down[r * columns + j];
            }
            sum[i * columns + j] +=
                strength * (double)pair->alpha / (double)pair->rank * dot;
        }
    }
}

/* What adapters of these strengths make of a tensor, in double. */
static double *
expected_of(const plan_host *host, size_t tensor, double first, double second)
{
    size_t count = plan_rows(tensor) * plan_columns(tensor);
    double *sum = malloc(count * sizeof *sum);

    assert_non_null(sum);
    assert_int_equal(lora_tensor_convert(sum, LORA_DTYPE_F64,
                                         host->before[tensor],
                                         plan_dtype(tensor), count, NULL),
                     LORA_OK);
    for (size_t i = 0; i < COUNT(plan_first); i++) {
        if (plan_first[i].tensor == tensor) {
            add_pair(sum, &plan_first[i], first);
        }
    }
    for (size_t i = 0; i < COUNT(plan_second); i++) {
        if (plan_second[i].tensor == tensor) {
            add_pair(sum, &plan_second[i], second);
        }
    }
    if (tensor == BIAS) {
        float bias[700];
        some_numbers(bias, 700, 99);
        for (size_t i = 0; i < count; i++) {
            sum[i] += first * (double)bias[i];
        }
    }
    return sum;
}

/* Strengths are such that all is exact in F32; -0 + 0 is 0. */
static void assert_values(const plan_host *host, double first, double second)
{
    for (size_t t = 0; t < TENSORS; t++) {
        size_t count = plan_rows(t) * plan_columns(t);
        size_t size = lora_dtype_bits(plan_dtype(t)) / 8;
        double *sum = expected_of(host, t, first, second);
        unsigned char *stored = malloc(plan_bytes(t));

        assert_non_null(stored);
        assert_int_equal(lora_tensor_convert(stored, plan_dtype(t), sum,
                                             LORA_DTYPE_F64, count, NULL),
                         LORA_OK);
        for (size_t i = 0; i < count; i++) {
            if (memcmp(host->weights[t] + i * size, stored + i * size, size) !=
                    0 &&
                sum[i] != 0.0) {
                fail_msg("tensor %d, number %d", (int)t, (int)i);
            }
        }
        free(stored);
        free(sum);
    }
}

static void test_values(void **state)
{
    plan_host host;
    lora_plan *plan;
    uint64_t first;
    uint64_t second;

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    first = plan_put(plan, host.bindings[0], 0.5);
    plan_assert_before(&host);
    plan_make(plan);
    assert_values(&host, 0.5, 0.0);
    second = plan_put(plan, host.bindings[1], -2.0);
    plan_make(plan);
    assert_values(&host, 0.5, -2.0);
    assert_int_equal(
        lora_plan_set_strength(plan, first, &(lora_strength){1.0, 9.0}, NULL),
        LORA_OK);
    plan_make(plan);
    assert_values(&host, 1.0, -2.0);
    assert_int_equal(lora_plan_set_strength(plan, first, NULL, NULL), LORA_OK);
    assert_int_equal(lora_plan_remove(plan, second, NULL), LORA_OK);
    plan_make(plan);
    assert_values(&host, 1.0, 0.0);
    assert_int_equal(
        lora_plan_replace(plan, first, host.bindings[1], NULL, NULL), LORA_OK);
    plan_make(plan);
    assert_values(&host, 0.0, 1.0);
    assert_int_equal(lora_plan_remove(plan, first, NULL), LORA_OK);
    plan_make(plan);
    plan_assert_before(&host);
    assert_int_equal(lora_plan_saved_bytes(plan), 0);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* ---- what differs ------------------------------------------------------ */

static void assert_diff(const lora_plan *plan, const char *expected)
{
    size_t tensors[TENSORS];
    size_t count = 0;
    char text[64] = "";

    assert_int_equal(
        lora_plan_diff(tensors, COUNT(tensors), &count, plan, NULL), LORA_OK);
    for (size_t i = 0; i < count; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d ",
                 (int)tensors[i]);
    }
    assert_string_equal(text, expected);
}

static void test_diff(void **state)
{
    const lora_strength none = {0.0, 1.0};
    plan_host host;
    lora_plan *plan;
    uint64_t first;
    uint64_t second;
    size_t count;
    size_t one[1] = {77};

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    assert_diff(plan, "");
    first = plan_put(plan, host.bindings[0], 1.0);
    assert_diff(plan, "0 1 2 3 5 ");
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "out_tensors",
          lora_plan_diff(one, 1, &count, plan, &error));
    assert_int_equal(count, 5);
    assert_int_equal(one[0], 77);
    assert_int_equal(lora_plan_diff(NULL, 0, &count, plan, NULL), LORA_OK);
    assert_int_equal(count, 5);
    plan_make(plan);
    assert_diff(plan, "");
    second = plan_put(plan, host.bindings[1], 1.0);
    assert_diff(plan, "0 4 ");
    assert_int_equal(lora_plan_remove(plan, second, NULL), LORA_OK);
    assert_diff(plan, "");
    assert_int_equal(lora_plan_set_strength(plan, first, &none, NULL), LORA_OK);
    assert_diff(plan, "0 1 2 3 5 ");
    assert_int_equal(lora_plan_set_strength(plan, first, NULL, NULL), LORA_OK);
    assert_diff(plan, "");
    assert_int_equal(
        lora_plan_replace(plan, first, host.bindings[0], NULL, NULL), LORA_OK);
    assert_diff(plan, "");
    assert_int_equal(
        lora_plan_replace(plan, first, host.bindings[1], NULL, NULL), LORA_OK);
    assert_diff(plan, "0 1 2 3 4 5 ");
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* ---- jobs -------------------------------------------------------------- */

static void test_jobs(void **state)
{
    lora_plan_options options;
    plan_host host;
    lora_plan *plan;
    unsigned char *scratch;
    size_t count;

    (void)state;
    plan_host_begin(&host, context);
    lora_plan_options_init(&options, sizeof options);
    options.block_bytes = 1;
    plan = plan_of(&host, &options);
    assert_int_equal(lora_plan_job_count(&count, plan, NULL), LORA_OK);
    assert_int_equal(count, 0);
    assert_int_equal(lora_plan_scratch_bytes(plan), 0);
    (void)plan_put(plan, host.bindings[0], 0.5);
    (void)plan_put(plan, host.bindings[1], -2.0);
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
          lora_plan_run_job(plan, 0, &host, &error));
    assert_int_equal(lora_plan_job_count(&count, plan, NULL), LORA_OK);
    assert_int_equal(count, 3 + 5);
    scratch = malloc(lora_plan_scratch_bytes(plan) + 1);
    assert_non_null(scratch);
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_plan_run_job(plan, count, scratch, &error));
    CHECK_ARGUMENT(lora_plan_run_job(plan, 0, NULL, &error));
    for (size_t i = 0; i < count; i++) {
        CHECK(LORA_OK, LORA_NO_OFFSET, NULL,
              lora_plan_run_job(plan, count - 1 - i, scratch + 1, &error));
    }
    assert_values(&host, 0.5, -2.0);
    assert_int_equal(lora_plan_diff(NULL, 0, &count, plan, NULL), LORA_OK);
    assert_int_equal(count, 0);
    assert_int_equal(lora_plan_run_job(plan, 0, scratch + 1, NULL), LORA_OK);
    assert_values(&host, 0.5, -2.0);
    free(scratch);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* Tensors that a module needs together are one job: the one for its changes
 * would read what others write. */
static void test_jobs_together(void **state)
{
    static const host_tensor parts[3] = {
        {.name = "transformer.transformer_blocks.0.attn.to_q.weight",
         .ndim = 2,
         .shape = {2, 4}},
        {.name = "transformer.transformer_blocks.0.attn.to_k.weight",
         .ndim = 2,
         .shape = {2, 4}},
        {.name = "transformer.transformer_blocks.0.attn.to_v.weight",
         .ndim = 2,
         .shape = {2, 4}},
    };
    lora_model *model = host_model(context, parts, COUNT(parts));
    lora_plan *plan;
    uint16_t weights[3][8] = {{0}};

    (void)state;
    assert_int_equal(lora_plan_create(&plan, model, NULL, NULL), LORA_OK);
    for (size_t t = 0; t < COUNT(parts); t++) {
        lora_plan_memory memory;
        lora_plan_memory_init(&memory, sizeof memory);
        memory.data = weights[t];
        assert_int_equal(lora_plan_set_memory(plan, t, &memory, NULL), LORA_OK);
    }
    for (int with_norms = 0; with_norms < 2; with_norms++) {
        lora_adapter *adapter;
        lora_binding *binding;
        uint64_t id;
        size_t count;
        image im;

        image_begin(&im, FLUX_BASE);
        if (with_norms) {
            image_some(&im, FLUX_IMAGE ".dora_scale", "1,4", 4, 1);
        }
        image_some(&im, FLUX_IMAGE ".lora_down.weight", "2,4", 8, 2);
        image_some(&im, FLUX_IMAGE ".lora_up.weight", "6,2", 12, 3);
        image_end(&im);
        adapter = open_image(context, &im);
        binding = bind_to(model, adapter, NULL, 0);
        id = plan_put(plan, binding, 1.0);
        assert_int_equal(lora_plan_job_count(&count, plan, NULL), LORA_OK);
        assert_int_equal(count, with_norms ? 1 : 3);
        assert_int_equal(lora_plan_diff(NULL, 0, &count, plan, NULL), LORA_OK);
        assert_int_equal(count, 3);
        assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
        lora_binding_destroy(binding);
        lora_adapter_destroy(adapter);
        image_free(&im);
    }
    lora_plan_destroy(plan);
    lora_model_destroy(model);
}

/* ---- what is kept ------------------------------------------------------ */

/* Originals of a host, and how often they were asked for. */
typedef struct plan_archive {
    plan_host *host;
    size_t calls;
} plan_archive;

static lora_status
archive_read(void *user, size_t tensor, size_t first, size_t count, void *out)
{
    plan_archive *archive = user;
    size_t bytes = plan_row_bytes(tensor);

    archive->calls++;
    memcpy(out, archive->host->before[tensor] + first * bytes, count * bytes);
    return LORA_OK;
}

static void test_budget(void **state)
{
    lora_plan_options options;
    lora_plan_memory memory;
    plan_archive archive = {NULL, 0};
    plan_host host;
    lora_plan *plan;
    uint64_t id;
    size_t count;

    (void)state;
    plan_host_begin(&host, context);
    archive.host = &host;
    lora_plan_options_init(&options, sizeof options);
    options.saved_bytes = plan_bytes(BIAS) + plan_bytes(BRAIN) +
                          plan_bytes(EIGHTH) + plan_bytes(KERNEL) + 7;
    plan = plan_of(&host, &options);
    id = plan_put(plan, host.bindings[0], 0.5);
    count = 7;
    CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, plan_tensors[TALL].name,
          lora_plan_job_count(&count, plan, &error));
    assert_int_equal(count, 0);
    CHECK(LORA_ERROR_LIMIT, LORA_NO_OFFSET, plan_tensors[TALL].name,
          lora_plan_run(plan, &error));
    plan_assert_before(&host);
    assert_int_equal(lora_plan_saved_bytes(plan), 0);
    lora_plan_memory_init(&memory, sizeof memory);
    memory.data = host.weights[TALL];
    memory.user = &archive;
    memory.original = archive_read;
    assert_int_equal(lora_plan_set_memory(plan, TALL, &memory, NULL), LORA_OK);
    plan_make(plan);
    assert_values(&host, 0.5, 0.0);
    assert_int_equal(lora_plan_saved_bytes(plan), options.saved_bytes - 7);
    assert_true(archive.calls > 0);
    assert_int_equal(
        lora_plan_set_strength(plan, id, &(lora_strength){2.0, 2.0}, NULL),
        LORA_OK);
    plan_make(plan);
    assert_values(&host, 2.0, 0.0);
    assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
    plan_make(plan);
    plan_assert_before(&host);
    assert_int_equal(lora_plan_saved_bytes(plan), 0);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* ---- the host's own formats -------------------------------------------- */

/* Rows of whole numbers from -127 to 127 times the row's factor, somewhere that
 * only the host reaches. */
typedef struct plan_device {
    unsigned char rows[9][8]; /* a F32 factor and four numbers */
    size_t fails_in;          /* calls until one fails; SIZE_MAX: none */
    size_t encoded;           /* rows */
} plan_device;

static lora_status device_call(plan_device *device)
{
    return device->fails_in != SIZE_MAX && device->fails_in-- == 0
               ? LORA_ERROR_IO
               : LORA_OK;
}

static lora_status
device_load(void *user, size_t tensor, size_t first, size_t count, void *out)
{
    plan_device *device = user;
    lora_status status = device_call(device);

    assert_int_equal(tensor, BRAIN);
    if (status == LORA_OK) {
        memcpy(out, device->rows[first], count * 8);
    }
    return status;
}

static lora_status device_store(
    void *user, size_t tensor, size_t first, size_t count, const void *in)
{
    plan_device *device = user;
    lora_status status = device_call(device);

    assert_int_equal(tensor, BRAIN);
    if (status == LORA_OK) {
        memcpy(device->rows[first], in, count * 8);
    }
    return status;
}

static lora_status device_decode(void *user,
                                 size_t tensor,
                                 size_t first,
                                 size_t count,
                                 const void *in,
                                 float *out)
{
    const unsigned char *row = in;

    assert_true(tensor == BRAIN && first + count <= 9);
    for (size_t i = 0; i < count; i++, row += 8) {
        float factor;
        memcpy(&factor, row, sizeof factor);
        for (size_t j = 0; j < 4; j++) {
            out[i * 4 + j] = factor * (float)(signed char)row[4 + j];
        }
    }
    return device_call(user);
}

static lora_status device_encode(void *user,
                                 size_t tensor,
                                 size_t first,
                                 size_t count,
                                 const float *in,
                                 void *out)
{
    plan_device *device = user;
    unsigned char *row = out;

    assert_true(tensor == BRAIN && first + count <= 9);
    for (size_t i = 0; i < count; i++, row += 8) {
        float most = 0.0f;
        float factor;
        for (size_t j = 0; j < 4; j++) {
            most = fmaxf(most, fabsf(in[i * 4 + j]));
        }
        factor = most == 0.0f ? 1.0f : most / 127.0f;
        memcpy(row, &factor, sizeof factor);
        for (size_t j = 0; j < 4; j++) {
            row[4 + j] = (unsigned char)lrintf(in[i * 4 + j] / factor);
        }
        device->encoded++;
    }
    return device_call(device);
}

static void device_begin(plan_device *device)
{
    device->fails_in = SIZE_MAX;
    device->encoded = 0;
    for (size_t i = 0; i < 9; i++) {
        float factor = 0.25f / (float)(i + 1);
        memcpy(device->rows[i], &factor, sizeof factor);
        for (size_t j = 0; j < 4; j++) {
            device->rows[i][4 + j] = (unsigned char)(17 * i + 29 * j);
        }
    }
}

static lora_plan_memory device_memory(plan_device *device)
{
    lora_plan_memory memory;

    lora_plan_memory_init(&memory, sizeof memory);
    memory.user = device;
    memory.row_bytes = 8;
    memory.load = device_load;
    memory.store = device_store;
    memory.decode = device_decode;
    memory.encode = device_encode;
    return memory;
}

/* Each number is within half a step of the row's, of what is expected. */
static void
assert_device(const plan_device *device, plan_device *before, double strength)
{
    double sum[36];
    float got[36];

    assert_int_equal(device_decode(before, BRAIN, 0, 9, before->rows, got),
                     LORA_OK);
    for (size_t i = 0; i < 36; i++) {
        sum[i] = (double)got[i];
    }
    add_pair(sum, &plan_first[1], strength);
    assert_int_equal(device_decode(before, BRAIN, 0, 9, device->rows, got),
                     LORA_OK);
    for (size_t i = 0; i < 36; i++) {
        float factor;
        memcpy(&factor, device->rows[i / 4], sizeof factor);
        assert_true(fabs((double)got[i] - sum[i]) <= 0.50001 * (double)factor);
    }
}

static void test_host_format(void **state)
{
    plan_device device;
    plan_device before;
    lora_plan_memory memory = device_memory(&device);
    plan_host host;
    lora_plan *plan;
    uint64_t id;

    (void)state;
    device_begin(&device);
    device_begin(&before);
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    assert_int_equal(lora_plan_set_memory(plan, BRAIN, &memory, NULL), LORA_OK);
    id = plan_put(plan, host.bindings[0], 0.5);
    plan_make(plan);
    assert_int_equal(device.encoded, 9); /* each row once */
    assert_device(&device, &before, 0.5);
    assert_int_equal(
        lora_plan_set_strength(plan, id, &(lora_strength){-3.0, 0.0}, NULL),
        LORA_OK);
    plan_make(plan);
    assert_device(&device, &before, -3.0);
    assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
    plan_make(plan);
    assert_memory_equal(device.rows, before.rows, sizeof device.rows);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* Whichever call of the host fails, all comes right when the rest is run. */
static void test_host_fails(void **state)
{
    plan_device device;
    plan_device before;
    plan_device good;
    lora_plan_memory memory = device_memory(&device);
    plan_host host;
    lora_plan *plan;
    uint64_t id;
    size_t failures = 0;

    (void)state;
    plan_host_begin(&host, context);
    device_begin(&before);
    for (size_t n = 0;; n++) {
        lora_status status;
        device_begin(&device);
        plan = plan_of(&host, NULL);
        assert_int_equal(lora_plan_set_memory(plan, BRAIN, &memory, NULL),
                         LORA_OK);
        id = plan_put(plan, host.bindings[0], 0.5);
        (void)plan_put(plan, host.bindings[2], 1.0);
        device.fails_in = n;
        error_dirty(&error);
        status = lora_plan_run(plan, &error);
        device.fails_in = SIZE_MAX;
        if (status != LORA_OK) {
            failures++;
            assert_error(&error, status, LORA_ERROR_IO, LORA_NO_OFFSET,
                         plan_tensors[BRAIN].name);
            plan_make(plan);
        }
        if (n == 0) {
            good = device;
        }
        assert_memory_equal(device.rows, good.rows, sizeof device.rows);
        assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
        assert_int_equal(lora_plan_remove(plan, id + 1, NULL), LORA_OK);
        plan_make(plan);
        assert_memory_equal(device.rows, before.rows, sizeof device.rows);
        plan_assert_before(&host);
        lora_plan_destroy(plan);
        if (status == LORA_OK) {
            break;
        }
    }
    assert_true(failures >= 4);
    plan_host_end(&host);
}

/* Rows with something between them, which stays as it is. */
static void test_steps(void **state)
{
    enum { STEP = 13 };
    lora_plan_memory memory;
    plan_host host;
    lora_plan *plan;
    unsigned char rows[9][STEP];
    uint64_t id;

    (void)state;
    plan_host_begin(&host, context);
    memset(rows, 0xEE, sizeof rows);
    for (size_t i = 0; i < 9; i++) {
        memcpy(rows[i], host.before[BRAIN] + i * 8, 8);
    }
    plan = plan_of(&host, NULL);
    id = plan_put(plan, host.bindings[0], 0.5);
    plan_make(plan);
    assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
    lora_plan_memory_init(&memory, sizeof memory);
    memory.data = rows;
    memory.row_step = STEP;
    memory.dtype = LORA_DTYPE_F16;
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, plan_tensors[BRAIN].name,
          lora_plan_set_memory(plan, BRAIN, &memory, &error));
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, plan_tensors[BRAIN].name,
          lora_plan_set_memory(plan, BRAIN, NULL, &error));
    plan_make(plan);
    memory.dtype = LORA_DTYPE_NONE;
    assert_int_equal(lora_plan_set_memory(plan, BRAIN, &memory, NULL), LORA_OK);
    id = plan_put(plan, host.bindings[0], 0.5);
    plan_make(plan);
    for (size_t i = 0; i < 9; i++) {
        memcpy(host.weights[BRAIN] + i * 8, rows[i], 8);
        for (size_t j = 8; j < STEP; j++) {
            assert_int_equal(rows[i][j], 0xEE);
        }
    }
    assert_values(&host, 0.5, 0.0);
    assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
    plan_make(plan);
    for (size_t i = 0; i < 9; i++) {
        assert_memory_equal(rows[i], host.before[BRAIN] + i * 8, 8);
    }
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* ---- rounding ---------------------------------------------------------- */

/* By chance each number becomes one of the two that are near, the same for a
 * seed however rows are cut, and on the average what was to be rounded. */
static void test_stochastic(void **state)
{
    const size_t count = 700 * 1000;
    lora_plan_options options;
    plan_host host;
    float *got = malloc(count * sizeof *got);
    unsigned char *kept = malloc(plan_bytes(TALL));
    double drift = 0.0;
    double *sum;

    (void)state;
    assert_non_null(got);
    assert_non_null(kept);
    plan_host_begin(&host, context);
    sum = expected_of(&host, TALL, 0.3125, 0.0);
    for (uint64_t run = 0; run < 3; run++) {
        lora_plan *plan;
        lora_plan_options_init(&options, sizeof options);
        options.flags = LORA_PLAN_STOCHASTIC;
        options.seed = run == 2 ? 8 : 7;
        options.block_bytes = run == 1;
        plan = plan_of(&host, &options);
        (void)plan_put(plan, host.bindings[0], 0.3125);
        plan_make(plan);
        lora_plan_destroy(plan);
        assert_int_equal(
            memcmp(kept, host.weights[TALL], plan_bytes(TALL)) == 0, run == 1);
        memcpy(kept, host.weights[TALL], plan_bytes(TALL));
        plan_host_reset(&host);
    }
    assert_int_equal(lora_tensor_convert(got, LORA_DTYPE_F32, kept,
                                         LORA_DTYPE_F16, count, NULL),
                     LORA_OK);
    for (size_t i = 0; i < count; i++) {
        /* A step of F16 is 2^-10 of the number's power of two at most. */
        double off = (double)got[i] - sum[i];
        assert_true(fabs(off) <= ldexp(fabs(sum[i]), -10) + ldexp(1.0, -24));
        drift += off;
    }
    /* Each is off by at most 2^-10 of at most 4, and by 0 on the average: five
     * deviations of the mean. */
    assert_true(fabs(drift) / (double)count <
                5 * ldexp(4.0, -10) / sqrt((double)count));
    free(sum);
    free(kept);
    free(got);
    plan_host_end(&host);
}

/* ---- factors ----------------------------------------------------------- */

typedef struct exported {
    lora_plan_factors_info info;
    float up[700 * 16];
    float down[16 * 1100];
    double scales[16];
} exported;

static void export_from(exported *out,
                        const lora_plan *plan,
                        size_t tensor,
                        const lora_plan_factors_options *options,
                        int with_scales)
{
    lora_status status;

    memset(out, 0xEE, sizeof *out);
    out->info.struct_size = sizeof out->info;
    error_dirty(&error);
    status = lora_plan_factors(
        &out->info, out->up, sizeof out->up, out->down, sizeof out->down,
        with_scales ? out->scales : NULL, plan, tensor, options, &error);
    assert_error(&error, status, LORA_OK, LORA_NO_OFFSET, NULL);
}

/* up * scales * down, less the change that is expected: the largest of it. */
static double exported_off(const exported *e,
                           const plan_host *host,
                           size_t tensor,
                           const lora_plan_factors_options *options,
                           int with_scales)
{
    size_t rank = (size_t)e->info.rank;
    size_t columns = (size_t)e->info.columns;
    size_t up_step = options->up_step ? options->up_step : rank;
    size_t down_step = options->down_step ? options->down_step : columns;
    double *sum = expected_of(host, tensor, 0.5, -2.0);
    double *base = expected_of(host, tensor, 0.0, 0.0);
    double most = 0.0;

    for (size_t i = 0; i < (size_t)e->info.rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            double dot = base[i * columns + j] - sum[i * columns + j];
            for (size_t r = 0; r < rank; r++) {
                dot += (double)e->up[i * up_step + r] *
                       (double)e->down[r * down_step + j] *
                       (with_scales ? e->scales[r] : 1.0);
            }
            most = fmax(most, fabs(dot));
        }
    }
    free(sum);
    free(base);
    return most;
}

static void test_factors(void **state)
{
    static exported e;
    lora_plan_factors_options options;
    plan_host host;
    lora_plan *plan;

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    lora_plan_factors_options_init(&options, sizeof options);
    export_from(&e, plan, TALL, &options, 0);
    assert_int_equal(e.info.rank, 0);
    (void)plan_put(plan, host.bindings[0], 0.5);
    (void)plan_put(plan, host.bindings[1], -2.0);
    export_from(&e, plan, TALL, &options, 0);
    assert_int_equal(e.info.rows, 700);
    assert_int_equal(e.info.columns, 1000);
    assert_int_equal(e.info.rank, 5);
    assert_int_equal(e.info.up_bytes, 700 * 5 * 4);
    assert_int_equal(e.info.down_bytes, 5 * 1000 * 4);
    assert_true(exported_off(&e, &host, TALL, &options, 0) < 1e-6);
    options.up_step = 11;
    options.down_step = 1003;
    options.pad_rank = 8;
    export_from(&e, plan, TALL, &options, 1);
    assert_int_equal(e.info.rank, 8);
    assert_int_equal(e.info.exact_rank, 5);
    assert_int_equal(e.info.up_bytes, (699 * 11 + 8) * 4);
    assert_true(exported_off(&e, &host, TALL, &options, 1) < 1e-6);
    assert_true(e.scales[0] == 0.25 && e.scales[4] == -1.0 &&
                e.scales[5] == 0.0);
    assert_true(e.up[7] == 0.0f && e.down[7 * 1003 + 999] == 0.0f);
    lora_plan_factors_options_init(&options, sizeof options);
    export_from(&e, plan, KERNEL, &options, 0);
    assert_int_equal(e.info.columns, 12);
    assert_true(exported_off(&e, &host, KERNEL, &options, 0) < 1e-6);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* The best of rank 1: what it leaves is what the second adapter adds to the
 * first one's direction, here measured by the norm of the difference. */
static void test_factors_compressed(void **state)
{
    static exported e;
    lora_plan_factors_options options;
    plan_host host;
    lora_plan *plan;
    double *sum;
    double *base;
    double total = 0.0;
    double rest = 0.0;

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    lora_plan_factors_options_init(&options, sizeof options);
    options.rank = 3;
    (void)plan_put(plan, host.bindings[0], 0.5);
    (void)plan_put(plan, host.bindings[1], -2.0);
    export_from(&e, plan, TALL, &options, 0);
    assert_int_equal(e.info.rank, 3);
    sum = expected_of(&host, TALL, 0.5, -2.0);
    base = expected_of(&host, TALL, 0.0, 0.0);
    for (size_t i = 0; i < 700 * 1000; i++) {
        double change = sum[i] - base[i];
        double near = 0.0;
        for (size_t r = 0; r < 3; r++) {
            near += (double)e.up[i / 1000 * 3 + r] *
                    (double)e.down[r * 1000 + i % 1000];
        }
        total += change * change;
        rest += (change - near) * (change - near);
    }
    /* The error that is said is the error there is; factors in F32. */
    assert_true(fabs(sqrt(rest / total) - e.info.error) < 1e-6);
    /* Two of five directions were left out, the second adapter's three being
     * four times as strong: at most as much as leaving the first one out. */
    assert_true(e.info.error > 0.01 && e.info.error < 0.3);
    options.rank = 4;
    options.pad_rank = 6;
    options.dtype = LORA_DTYPE_F16;
    export_from(&e, plan, TALL, &options, 0);
    assert_int_equal(e.info.rank, 6);
    assert_int_equal(e.info.up_bytes, 700 * 6 * 2);
    free(sum);
    free(base);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

static void test_factors_refused(void **state)
{
    static exported e;
    lora_plan_factors_options options;
    plan_host host;
    lora_plan *plan;
    uint64_t id;

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    id = plan_put(plan, host.bindings[0], 1.0);
    e.info.struct_size = sizeof e.info;
    lora_plan_factors_options_init(&options, sizeof options);
#define EXPORT(up, bytes, tensor)                                              \
    lora_plan_factors(&e.info, up, bytes, e.down, sizeof e.down, NULL, plan,   \
                      tensor, &options, &error)
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_a",
          EXPORT(e.up, sizeof e.up, BIAS));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          EXPORT(e.up, sizeof e.up, TENSORS));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "up",
          EXPORT(e.up, 700 * 2 * 4 - 1, TALL));
    CHECK_ARGUMENT(EXPORT(NULL, 0, TALL));
    options.dtype = LORA_DTYPE_F64;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
          EXPORT(e.up, sizeof e.up, TALL));
    options.dtype = LORA_DTYPE_F16;
    options.pad_rank = 1;
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "pad_rank",
          EXPORT(e.up, sizeof e.up, TALL));
    options.pad_rank = 0;
    options.up_step = 1;
    CHECK_ARGUMENT(EXPORT(e.up, sizeof e.up, TALL));
    options.up_step = 0;
    options.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          EXPORT(e.up, sizeof e.up, TALL));
    options.reserved1 = 0;
    assert_int_equal(
        lora_plan_set_strength(plan, id, &(lora_strength){1e6, 1e6}, NULL),
        LORA_OK);
    e.up[0] = 77.0f;
    CHECK(LORA_ERROR_NONFINITE, LORA_NO_OFFSET, plan_tensors[TALL].name,
          EXPORT(e.up, sizeof e.up, TALL));
    assert_true(e.up[0] == 77.0f);
    (void)plan_put(plan, host.bindings[2], 1.0);
    options.dtype = LORA_DTYPE_F32;
    CHECK(LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, "lora_unet_b",
          EXPORT(e.up, sizeof e.up, BRAIN));
#undef EXPORT
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

/* ---- failures ---------------------------------------------------------- */

static void test_bad_plans(void **state)
{
    lora_plan *plan = JUNK(lora_plan);
    lora_plan_options options;
    lora_model *family;
    plan_host host;

    (void)state;
    plan_host_begin(&host, context);
    CHECK_ARGUMENT(lora_plan_create(NULL, host.model, NULL, &error));
    CHECK_ARGUMENT(lora_plan_create(&plan, NULL, NULL, &error));
    assert_null(plan);
    lora_plan_options_init(&options, sizeof options);
    options.flags = 1u << 30;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "flags",
          lora_plan_create(&plan, host.model, &options, &error));
    options.flags = 0;
    options.dora_rule = 99;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, "dora_rule",
          lora_plan_create(&plan, host.model, &options, &error));
    assert_int_equal(lora_model_family(&family, context, "sd15", NULL),
                     LORA_OK);
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, NULL,
          lora_plan_create(&plan, family, NULL, &error));
    assert_null(plan);
    lora_model_destroy(family);
    lora_plan_destroy(NULL);
    assert_int_equal(lora_plan_scratch_bytes(NULL), 0);
    assert_int_equal(lora_plan_saved_bytes(NULL), 0);
    plan_host_end(&host);
}

static void test_bad_memory(void **state)
{
    lora_plan_memory memory;
    plan_host host;
    lora_plan *plan;

    (void)state;
    plan_host_begin(&host, context);
    plan = plan_of(&host, NULL);
    lora_plan_memory_init(&memory, sizeof memory);
    CHECK_ARGUMENT(lora_plan_set_memory(NULL, 0, &memory, &error));
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.data = host.weights[0];
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, NULL,
          lora_plan_set_memory(plan, TENSORS, &memory, &error));
    memory.row_step = 1999;
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.row_step = 0;
    memory.row_bytes = 1999;
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.row_bytes = 0;
    memory.load = device_load;
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.load = NULL;
    memory.decode = device_decode;
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.encode = device_encode; /* and no row_bytes */
    CHECK_ARGUMENT(lora_plan_set_memory(plan, 0, &memory, &error));
    memory.decode = NULL;
    memory.encode = NULL;
    memory.dtype = LORA_DTYPE_I32;
    CHECK(LORA_ERROR_DTYPE, LORA_NO_OFFSET, plan_tensors[0].name,
          lora_plan_set_memory(plan, 0, &memory, &error));
    memory.dtype = 0;
    memory.reserved1 = 1;
    CHECK(LORA_ERROR_OPTION, LORA_NO_OFFSET, NULL,
          lora_plan_set_memory(plan, 0, &memory, &error));
    CHECK(LORA_OK, LORA_NO_OFFSET, NULL,
          lora_plan_set_memory(plan, 0, NULL, &error));
    (void)plan_put(plan, host.bindings[0], 1.0);
    CHECK(LORA_ERROR_STATE, LORA_NO_OFFSET, plan_tensors[0].name,
          lora_plan_run(plan, &error));
    plan_assert_before(&host);
    lora_plan_destroy(plan);
    plan_host_end(&host);
}

static void test_bad_adapters(void **state)
{
    const lora_strength bad = {1.0, (double)NAN};
    plan_host host;
    plan_host other;
    lora_plan *plan;
    uint64_t id = 77;
    size_t count;

    (void)state;
    plan_host_begin(&host, context);
    plan_host_begin(&other, context);
    plan = plan_of(&host, NULL);
    CHECK_ARGUMENT(lora_plan_add(NULL, plan, host.bindings[0], NULL, &error));
    CHECK_ARGUMENT(lora_plan_add(&id, NULL, host.bindings[0], NULL, &error));
    CHECK_ARGUMENT(lora_plan_add(&id, plan, NULL, NULL, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "binding",
          lora_plan_add(&id, plan, other.bindings[0], NULL, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "strength",
          lora_plan_add(&id, plan, host.bindings[0], &bad, &error));
    assert_int_equal(id, 77);
    id = plan_put(plan, host.bindings[0], 1.0);
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_plan_remove(plan, id + 1, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_plan_set_strength(plan, 0, NULL, &error));
    CHECK(LORA_ERROR_RANGE, LORA_NO_OFFSET, "strength",
          lora_plan_set_strength(plan, id, &bad, &error));
    CHECK(LORA_ERROR_KEY, LORA_NO_OFFSET, NULL,
          lora_plan_replace(plan, 0, host.bindings[0], NULL, &error));
    CHECK(LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, "binding",
          lora_plan_replace(plan, id, other.bindings[0], NULL, &error));
    CHECK_ARGUMENT(lora_plan_remove(NULL, id, &error));
    CHECK_ARGUMENT(lora_plan_set_strength(NULL, id, NULL, &error));
    CHECK_ARGUMENT(lora_plan_replace(NULL, id, host.bindings[0], NULL, &error));
    CHECK_ARGUMENT(lora_plan_replace(plan, id, NULL, NULL, &error));
    CHECK_ARGUMENT(lora_plan_diff(NULL, 0, NULL, plan, &error));
    CHECK_ARGUMENT(lora_plan_diff(NULL, 0, &count, NULL, &error));
    CHECK_ARGUMENT(lora_plan_job_count(NULL, plan, &error));
    CHECK_ARGUMENT(lora_plan_job_count(&count, NULL, &error));
    CHECK_ARGUMENT(lora_plan_run_job(NULL, 0, &host, &error));
    CHECK_ARGUMENT(lora_plan_run(NULL, &error));
    plan_make(plan);
    assert_values(&host, 1.0, 0.0);
    lora_plan_destroy(plan);
    plan_host_end(&other);
    plan_host_end(&host);
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
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_diff),
        cmocka_unit_test(test_jobs),
        cmocka_unit_test(test_jobs_together),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_host_format),
        cmocka_unit_test(test_host_fails),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_stochastic),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_factors_compressed),
        cmocka_unit_test(test_factors_refused),
        cmocka_unit_test(test_bad_plans),
        cmocka_unit_test(test_bad_memory),
        cmocka_unit_test(test_bad_adapters),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
