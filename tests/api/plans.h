/* A host with weights in memory, and adapters for them. */
#ifndef TEST_PLANS_H
#define TEST_PLANS_H

#include "api/models.h"

/* The first is made in three blocks, if these are as small as can be: a
 * mebibyte has 262 rows of it, of which 256 are made at a time. */
enum { TALL, BIAS, BRAIN, EIGHTH, DOUBLE, KERNEL, TENSORS };
static const host_tensor plan_tensors[TENSORS] = {
    {.name = "lora_unet_a.weight", .ndim = 2, .shape = {700, 1000}},
    {.name = "lora_unet_a.bias",
     .ndim = 1,
     .shape = {700},
     .dtype = LORA_DTYPE_F32},
    {.name = "lora_unet_b.weight",
     .ndim = 2,
     .shape = {9, 4},
     .dtype = LORA_DTYPE_BF16},
    {.name = "lora_unet_c.weight",
     .ndim = 2,
     .shape = {6, 5},
     .dtype = LORA_DTYPE_F8_E4M3},
    {.name = "lora_unet_d.weight",
     .ndim = 2,
     .shape = {6, 5},
     .dtype = LORA_DTYPE_F64},
    {.name = "lora_unet_e.weight",
     .ndim = 4,
     .shape = {4, 3, 2, 2},
     .dtype = LORA_DTYPE_F32},
};

static inline lora_dtype plan_dtype(size_t tensor)
{
    lora_dtype dtype = plan_tensors[tensor].dtype;

    return dtype == LORA_DTYPE_NONE ? LORA_DTYPE_F16 : dtype;
}

static inline size_t plan_rows(size_t tensor)
{
    return (size_t)plan_tensors[tensor].shape[0];
}

static inline size_t plan_columns(size_t tensor)
{
    size_t columns = 1;

    for (int32_t d = 1; d < plan_tensors[tensor].ndim; d++) {
        columns *= (size_t)plan_tensors[tensor].shape[d];
    }
    return columns;
}

static inline size_t plan_row_bytes(size_t tensor)
{
    return plan_columns(tensor) * lora_dtype_bits(plan_dtype(tensor)) / 8;
}

/* The pairs of an adapter, from which both its file and what is expected are
 * made. */
typedef struct plan_pair {
    const char *module;
    size_t tensor;
    size_t rank;
    float alpha;
    uint32_t seed;
} plan_pair;

static const plan_pair plan_first[] = {
    {"lora_unet_a", TALL, 2, 1.0f, 1},
    {"lora_unet_b", BRAIN, 3, 3.0f, 3},
    {"lora_unet_c", EIGHTH, 1, 2.0f, 5},
    {"lora_unet_e", KERNEL, 2, 4.0f, 7},
};
static const plan_pair plan_second[] = {
    {"lora_unet_a", TALL, 3, 1.5f, 11},
    {"lora_unet_d", DOUBLE, 2, 1.0f, 13},
};

static inline void plan_up(float *out, const plan_pair *pair)
{
    some_numbers(out, plan_rows(pair->tensor) * pair->rank, pair->seed);
}

static inline void plan_down(float *out, const plan_pair *pair)
{
    some_numbers(out, plan_columns(pair->tensor) * pair->rank, pair->seed + 1);
}

static inline void
plan_image(image *im, const plan_pair *pairs, size_t count, int with_bias)
{
    float numbers[4096];
    char name[64];
    char shape[32];

    image_begin(im, NULL);
    for (size_t i = 0; i < count; i++) {
        const plan_pair *pair = &pairs[i];
        int is_kernel = pair->tensor == KERNEL;
        snprintf(name, sizeof name, "%s.alpha", pair->module);
        image_f32(im, name, "", &pair->alpha, 1);
        if (with_bias && pair->tensor == TALL) {
            some_numbers(numbers, plan_rows(BIAS), 99);
            snprintf(name, sizeof name, "%s.diff_b", pair->module);
            image_f32(im, name, "700", numbers, plan_rows(BIAS));
        }
        snprintf(name, sizeof name, "%s.lora_down.weight", pair->module);
        snprintf(shape, sizeof shape, is_kernel ? "%d,3,2,2" : "%d,%d",
                 (int)pair->rank, (int)plan_columns(pair->tensor));
        plan_down(numbers, pair);
        image_f32(im, name, shape, numbers,
                  pair->rank * plan_columns(pair->tensor));
        snprintf(name, sizeof name, "%s.lora_up.weight", pair->module);
        snprintf(shape, sizeof shape, is_kernel ? "%d,%d,1,1" : "%d,%d",
                 (int)plan_rows(pair->tensor), (int)pair->rank);
        plan_up(numbers, pair);
        image_f32(im, name, shape, numbers,
                  pair->rank * plan_rows(pair->tensor));
    }
    image_end(im);
}

/* Kinds that need the weight: DoRA, GLoRA, (IA)^3, OFT, and a set weight. */
static inline void plan_image_based(image *im)
{
    static const float norms[4] = {1.0f, 2.0f, 0.5f, 3.0f};
    static const float yes = 1.0f;

    image_begin(im, NULL);
    image_f32(im, "lora_unet_b.dora_scale", "1,4", norms, 4);
    image_some(im, "lora_unet_b.lora_down.weight", "2,4", 8, 21);
    image_some(im, "lora_unet_b.lora_up.weight", "9,2", 18, 22);
    image_some(im, "lora_unet_c.oft_blocks", "2,3,3", 18, 23);
    image_some(im, "lora_unet_d.a1.weight", "5,1", 5, 24);
    image_some(im, "lora_unet_d.a2.weight", "1,5", 5, 25);
    image_some(im, "lora_unet_d.b1.weight", "6,1", 6, 26);
    image_some(im, "lora_unet_d.b2.weight", "1,5", 5, 27);
    image_f32(im, "lora_unet_a.on_input", "", &yes, 1);
    image_some(im, "lora_unet_a.weight", "1000", 1000, 28);
    image_end(im);
}

/* ---- the host ---------------------------------------------------------- */

typedef struct plan_host {
    lora_model *model;
    lora_binding *bindings[3];
    unsigned char *files[3]; /* of adapters, which read them when they like */
    unsigned char *weights[TENSORS];
    unsigned char *before[TENSORS];
} plan_host;

static inline size_t plan_bytes(size_t tensor)
{
    return plan_rows(tensor) * plan_row_bytes(tensor);
}

static inline lora_binding *
plan_bind(lora_model *model, lora_context *context, image *im)
{
    lora_adapter *adapter = open_image(context, im);
    lora_binding *binding = bind_to(model, adapter, NULL, 0);
    lora_binding_info info = info_of(binding);

    assert_true(info.share == 1.0);
    lora_adapter_destroy(adapter);
    return binding;
}

static inline void plan_fill(unsigned char *out, size_t tensor)
{
    size_t count = plan_rows(tensor) * plan_columns(tensor);
    float *numbers = malloc(count * sizeof *numbers);

    assert_non_null(numbers);
    some_numbers(numbers, count, 1000 + (uint32_t)tensor);
    numbers[0] = -0.0f;
    assert_int_equal(lora_tensor_convert(out, plan_dtype(tensor), numbers,
                                         LORA_DTYPE_F32, count, NULL),
                     LORA_OK);
    free(numbers);
}

/* Weights end where their block ends, and may be unaligned. */
static inline void plan_host_begin(plan_host *host, lora_context *context)
{
    static image im;

    memset(host, 0, sizeof *host);
    host->model = host_model(context, plan_tensors, TENSORS);
    assert_int_equal(lora_model_seal(host->model, NULL), LORA_OK);
    for (size_t t = 0; t < TENSORS; t++) {
        host->weights[t] = malloc(plan_bytes(t));
        host->before[t] = malloc(plan_bytes(t));
        assert_non_null(host->weights[t]);
        assert_non_null(host->before[t]);
        plan_fill(host->weights[t], t);
        memcpy(host->before[t], host->weights[t], plan_bytes(t));
    }
    for (size_t i = 0; i < COUNT(host->bindings); i++) {
        if (i == 2) {
            plan_image_based(&im);
        } else if (i == 1) {
            plan_image(&im, plan_second, COUNT(plan_second), 0);
        } else {
            plan_image(&im, plan_first, COUNT(plan_first), 1);
        }
        host->bindings[i] = plan_bind(host->model, context, &im);
        host->files[i] = im.file;
    }
}

static inline void plan_host_end(plan_host *host)
{
    for (size_t i = 0; i < COUNT(host->bindings); i++) {
        lora_binding_destroy(host->bindings[i]);
        free(host->files[i]);
    }
    for (size_t t = 0; t < TENSORS; t++) {
        free(host->weights[t]);
        free(host->before[t]);
    }
    lora_model_destroy(host->model);
}

static inline lora_plan *plan_of(const plan_host *host,
                                 const lora_plan_options *options)
{
    lora_plan *plan = NULL;

    assert_int_equal(lora_plan_create(&plan, host->model, options, NULL),
                     LORA_OK);
    for (size_t t = 0; t < TENSORS; t++) {
        lora_plan_memory memory;
        lora_plan_memory_init(&memory, sizeof memory);
        memory.data = host->weights[t];
        assert_int_equal(lora_plan_set_memory(plan, t, &memory, NULL), LORA_OK);
    }
    return plan;
}

static inline uint64_t
plan_put(lora_plan *plan, lora_binding *binding, double strength)
{
    const lora_strength both = {strength, strength};
    uint64_t id = 0;

    assert_int_equal(lora_plan_add(&id, plan, binding, &both, NULL), LORA_OK);
    return id;
}

static inline void plan_make(lora_plan *plan)
{
    lora_error error;
    lora_status status;

    lora_error_init(&error, sizeof error);
    status = lora_plan_run(plan, &error);
    if (status != LORA_OK) {
        fail_msg("%s: %s", error.subject, error.message);
    }
}

static inline void plan_assert_before(const plan_host *host)
{
    for (size_t t = 0; t < TENSORS; t++) {
        assert_memory_equal(host->weights[t], host->before[t], plan_bytes(t));
    }
}

/* Another host whose weights are as they were. */
static inline void plan_host_reset(plan_host *host)
{
    for (size_t t = 0; t < TENSORS; t++) {
        memcpy(host->weights[t], host->before[t], plan_bytes(t));
    }
}

#endif
