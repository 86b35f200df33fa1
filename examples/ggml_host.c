/* A host in the manner of stable-diffusion.cpp: tensors of ggml, with the names
 * of a checkpoint, quantised in a format that liblora does not know.
 *
 *     ./ggml_host
 *
 * Two adapters go into the weights, each row being quantised once, and out
 * again; then their factors are used beside the weights, which stay as they
 * are. Both are compared with W + sum of strength * alpha / rank * up * down,
 * in double. All numbers are made here.
 */
#include <lora/lora.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TRY(call)                                                              \
    do {                                                                       \
        lora_status try_status = (call);                                       \
        if (try_status != LORA_OK) {                                           \
            return try_status;                                                 \
        }                                                                      \
    } while (0)

enum { TENSORS = 3, PAIRS = 4, ADAPTERS = 2, BLOCK = 32 };
enum { MAX_ROWS = 64, MAX_COLUMNS = 288, MAX_RANK = 8 };

/* Q8_0 of ggml: 32 numbers and what they are multiplied by, an F16. */
typedef struct block_q8 {
    uint16_t scale;
    int8_t values[BLOCK];
} block_q8;

/* ne[0] is the fastest, as in ggml: {in, out}, {w, h, in, out}. */
typedef struct host_tensor {
    const char *name;
    int64_t ne[4];
    int32_t ndim;
    int quantised; /* Q8_0; else F16 */
    size_t rows;
    size_t columns;
    size_t encoded; /* rows, since the start */
    uint16_t data[MAX_ROWS * MAX_COLUMNS];
    uint16_t saved[MAX_ROWS * MAX_COLUMNS];
    float before[MAX_ROWS * MAX_COLUMNS];
    double expected[MAX_ROWS * MAX_COLUMNS];
} host_tensor;

static host_tensor tensors[TENSORS] = {
    {.name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."
             "attn1.to_q.weight",
     .ne = {64, 48},
     .ndim = 2,
     .quantised = 1},
    {.name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
     .ne = {3, 3, 32, 64},
     .ndim = 4},
    {.name = "cond_stage_model.transformer.text_model.encoder.layers.0."
             "self_attn.q_proj.weight",
     .ne = {64, 64},
     .ndim = 2,
     .quantised = 1}};

/* A LoRA of one adapter. Both spell names after kohya's custom, one with the
 * blocks of diffusers, one with those of the checkpoint. */
typedef struct pair {
    int adapter;
    int tensor;
    int64_t rank;
    float alpha;
    const char *name;
    float down[MAX_RANK * MAX_COLUMNS];
    float up[MAX_ROWS * MAX_RANK];
} pair;

static pair pairs[PAIRS] = {
    {.adapter = 0,
     .tensor = 0,
     .rank = 4,
     .alpha = 2,
     .name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
             "attn1_to_q"},
    {.adapter = 0,
     .tensor = 1,
     .rank = 3,
     .alpha = 3,
     .name = "lora_unet_down_blocks_0_resnets_0_conv1"},
    {.adapter = 0,
     .tensor = 2,
     .rank = 2,
     .alpha = 1,
     .name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"},
    {.adapter = 1,
     .tensor = 0,
     .rank = 2,
     .alpha = 2,
     .name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"}};

static const lora_strength strengths[ADAPTERS] = {{0.75, 0.5}, {-0.5, 1.0}};

/* ---- the host's format -------------------------------------------------- */

static size_t row_bytes(const host_tensor *t)
{
    return t->quantised ? t->columns / BLOCK * sizeof(block_q8)
                        : t->columns * sizeof(uint16_t);
}

/* These two do not fail for one number. */
static float from_half(uint16_t half)
{
    float value = 0;

    (void)!lora_tensor_convert(&value, LORA_DTYPE_F32, &half, LORA_DTYPE_F16, 1,
                               NULL);
    return value;
}

static uint16_t to_half(float value)
{
    uint16_t half = 0;

    (void)!lora_tensor_convert(&half, LORA_DTYPE_F16, &value, LORA_DTYPE_F32, 1,
                               NULL);
    return half;
}

static lora_status decode(void *user,
                          size_t tensor,
                          size_t first,
                          size_t count,
                          const void *in,
                          float *out)
{
    size_t blocks = count * tensors[tensor].columns / BLOCK;
    block_q8 block;

    (void)user;
    (void)first;
    for (size_t b = 0; b < blocks; b++) {
        memcpy(&block, (const char *)in + b * sizeof block, sizeof block);
        for (size_t k = 0; k < BLOCK; k++) {
            out[b * BLOCK + k] =
                from_half(block.scale) * (float)block.values[k];
        }
    }
    return LORA_OK;
}

static lora_status encode(void *user,
                          size_t tensor,
                          size_t first,
                          size_t count,
                          const float *in,
                          void *out)
{
    size_t blocks = count * tensors[tensor].columns / BLOCK;
    block_q8 block;

    (void)user;
    (void)first;
    for (size_t b = 0; b < blocks; b++, in += BLOCK) {
        float largest = 0;

        for (size_t k = 0; k < BLOCK; k++) {
            largest = fmaxf(largest, fabsf(in[k]));
        }
        block.scale = to_half(largest / 127);
        for (size_t k = 0; k < BLOCK; k++) {
            block.values[k] =
                (int8_t)(largest > 0 ? roundf(in[k] / largest * 127) : 0);
        }
        memcpy((char *)out + b * sizeof block, &block, sizeof block);
    }
    tensors[tensor].encoded += count; /* the context has one thread */
    return LORA_OK;
}

/* All rows as numbers. */
static lora_status read_rows(float *out, size_t tensor)
{
    host_tensor *t = &tensors[tensor];

    return t->quantised ? decode(NULL, tensor, 0, t->rows, t->data, out)
                        : lora_tensor_convert(out, LORA_DTYPE_F32, t->data,
                                              LORA_DTYPE_F16,
                                              t->rows * t->columns, NULL);
}

/* ---- numbers ------------------------------------------------------------ */

/* Numbers in [-size, size), the same everywhere. */
static void fill(float *out, size_t count, double size)
{
    static uint32_t state = 1;

    for (size_t i = 0; i < count; i++) {
        state = state * 1664525U + 1013904223U;
        out[i] = (float)(((double)(state >> 8) / 8388608.0 - 1.0) * size);
    }
}

static lora_status make_weights(void)
{
    static float values[MAX_ROWS * MAX_COLUMNS];

    for (size_t i = 0; i < TENSORS; i++) {
        host_tensor *t = &tensors[i];
        size_t count;

        t->rows = (size_t)t->ne[t->ndim - 1];
        t->columns = 1;
        for (int32_t d = 0; d < t->ndim - 1; d++) {
            t->columns *= (size_t)t->ne[d];
        }
        count = t->rows * t->columns;
        fill(values, count, 0.25);
        TRY(t->quantised ? encode(NULL, i, 0, t->rows, values, t->data)
                         : lora_tensor_convert(t->data, LORA_DTYPE_F16, values,
                                               LORA_DTYPE_F32, count, NULL));
        t->encoded = 0;
        memcpy(t->saved, t->data, t->rows * row_bytes(t));
        TRY(read_rows(t->before, i));
        for (size_t k = 0; k < count; k++) {
            t->expected[k] = (double)t->before[k];
        }
    }
    return LORA_OK;
}

static lora_status add_factor(lora_builder *builder,
                              const pair *p,
                              const char *which,
                              const float *values,
                              const int64_t shape[4],
                              lora_error *error)
{
    lora_tensor tensor = {.data = values, .dtype = LORA_DTYPE_F32};
    char name[128];

    tensor.bytes = sizeof(float);
    for (int32_t d = 0; d < 4 && shape[d] > 0; d++) {
        tensor.shape[tensor.ndim++] = shape[d];
        tensor.bytes *= (uint64_t)shape[d];
    }
    snprintf(name, sizeof name, "%s.%s", p->name, which);
    return lora_builder_add_tensor(builder, name, &tensor, error);
}

/* Its tensors in the builder, and its change in what is expected. */
static lora_status
make_pair(lora_builder *builder, pair *p, double strength, lora_error *error)
{
    host_tensor *t = &tensors[p->tensor];
    size_t rank = (size_t)p->rank;
    const int64_t *ne = t->ne;
    int conv = t->ndim == 4;
    int64_t down[4] = {p->rank, conv ? ne[2] : ne[0], conv ? ne[1] : 0,
                       conv ? ne[0] : 0};
    int64_t up[4] = {(int64_t)t->rows, p->rank, conv, conv};
    const int64_t scalar[4] = {0};

    fill(p->down, rank * t->columns, 0.25);
    fill(p->up, t->rows * rank, 0.25);
    for (size_t i = 0; i < t->rows * t->columns; i++) {
        double dot = 0;

        for (size_t r = 0; r < rank; r++) {
            dot += (double)p->up[i / t->columns * rank + r] *
                   (double)p->down[r * t->columns + i % t->columns];
        }
        t->expected[i] += strength * (double)p->alpha / (double)rank * dot;
    }
    TRY(add_factor(builder, p, "lora_down.weight", p->down, down, error));
    TRY(add_factor(builder, p, "lora_up.weight", p->up, up, error));
    return add_factor(builder, p, "alpha", &p->alpha, scalar, error);
}

static lora_status make_adapter(lora_adapter **out,
                                lora_context *context,
                                int index,
                                lora_error *error)
{
    lora_builder *builder = NULL;
    lora_status status = lora_builder_create(&builder, context, NULL, error);

    for (size_t i = 0; status == LORA_OK && i < PAIRS; i++) {
        const lora_strength *s = &strengths[index];

        if (pairs[i].adapter == index) {
            status = make_pair(
                builder, &pairs[i],
                pairs[i].tensor == 2 ? s->text_encoder : s->model, error);
        }
    }
    if (status == LORA_OK) {
        status = lora_builder_finish(out, builder, error);
    }
    lora_builder_destroy(builder);
    return status;
}

/* ---- in the weights ----------------------------------------------------- */

static lora_status
list_tensors(lora_model **out, lora_context *context, lora_error *error)
{
    lora_model_options options;
    lora_model_tensor tensor;

    lora_model_options_init(&options, sizeof options);
    options.family = "sd15";
    TRY(lora_model_create(out, context, &options, error));
    for (size_t i = 0; i < TENSORS; i++) {
        lora_model_tensor_init(&tensor, sizeof tensor);
        tensor.name = tensors[i].name;
        tensor.ndim = tensors[i].ndim;
        tensor.order = LORA_ORDER_GGML;
        tensor.dtype = tensors[i].quantised ? LORA_DTYPE_F32 : LORA_DTYPE_F16;
        memcpy(tensor.shape, tensors[i].ne, sizeof tensors[i].ne);
        TRY(lora_model_add(*out, &tensor, error));
    }
    return lora_model_seal(*out, error);
}

static lora_status
make_plan(lora_plan **out, lora_model *model, lora_error *error)
{
    lora_plan_memory memory;

    TRY(lora_plan_create(out, model, NULL, error));
    for (size_t i = 0; i < TENSORS; i++) {
        lora_plan_memory_init(&memory, sizeof memory);
        memory.data = tensors[i].data;
        if (tensors[i].quantised) {
            memory.row_bytes = row_bytes(&tensors[i]);
            memory.decode = decode;
            memory.encode = encode;
        }
        TRY(lora_plan_set_memory(*out, i, &memory, error));
    }
    return LORA_OK;
}

static lora_status add_adapter(lora_plan *plan,
                               uint64_t *out_id,
                               lora_context *context,
                               lora_model *model,
                               int index,
                               lora_error *error)
{
    lora_binding_create_options options;
    lora_adapter *adapter = NULL;
    lora_binding *binding = NULL;
    lora_status status;

    lora_binding_create_options_init(&options, sizeof options);
    options.strict = 1; /* all of it must be found */
    TRY(make_adapter(&adapter, context, index, error));
    status = lora_binding_create(&binding, model, adapter, &options, error);
    if (status == LORA_OK) {
        status = lora_plan_add(out_id, plan, binding, &strengths[index], error);
    }
    lora_binding_destroy(binding); /* the plan has it, and it the adapter */
    lora_adapter_destroy(adapter);
    return status;
}

/* The largest error, in what rounding may do: to Q8_0 half a step, and what the
 * F16 scale is off, 127 steps of 2^-11; to F16 2^-11 of the number. */
static lora_status check_weights(int *good)
{
    static float now[MAX_ROWS * MAX_COLUMNS];

    for (size_t i = 0; i < TENSORS; i++) {
        const host_tensor *t = &tensors[i];
        double worst = 0;
        double change = 0;

        TRY(read_rows(now, i));
        for (size_t k = 0; k < t->rows * t->columns; k++) {
            double off = fabs((double)now[k] - t->expected[k]);
            double size = fabs(t->expected[k]);

            for (size_t b = 0; t->quantised && b < BLOCK; b++) {
                size = fmax(size, fabs(t->expected[k / BLOCK * BLOCK + b]));
            }
            off /= t->quantised ? size / 127 * (0.5 + 127 / 2048.0 + 0.001)
                                : size / 2048 + 1e-7;
            worst = fmax(worst, off);
            change += pow((double)(now[k] - t->before[k]), 2);
        }
        printf("%s\n  changed by %.5f, %zu of %zu rows encoded, error %.2f\n",
               t->name, sqrt(change), t->encoded, t->rows, worst);
        *good &= worst <= 1 && t->encoded == (t->quantised ? t->rows : 0);
    }
    return LORA_OK;
}

/* ---- beside the weights ------------------------------------------------- */

/* The largest error of up * down, in what rounding both to F16 may do: 2^-11 of
 * each factor, and some. A graph computes y += up (down x) with them. */
static double factors_error(const host_tensor *t,
                            const uint16_t *up,
                            const uint16_t *down,
                            size_t rank)
{
    double worst = 0;

    for (size_t k = 0; k < t->rows * t->columns; k++) {
        double off = (double)t->before[k] - t->expected[k];
        double bound = 1e-7;

        for (size_t r = 0; r < rank; r++) {
            double term =
                (double)from_half(up[k / t->columns * rank + r]) *
                (double)from_half(down[r * t->columns + k % t->columns]);
            off += term;
            bound += fabs(term) / 1000;
        }
        worst = fmax(worst, fabs(off) / bound);
    }
    return worst;
}

static lora_status check_factors(int *good, lora_plan *plan, lora_error *error)
{
    static uint16_t up[MAX_ROWS * MAX_RANK];
    static uint16_t down[MAX_RANK * MAX_COLUMNS];
    lora_plan_factors_options options;

    lora_plan_factors_options_init(&options, sizeof options);
    options.dtype = LORA_DTYPE_F16;
    for (size_t i = 0; i < TENSORS; i++) {
        lora_plan_factors_info info = {.struct_size = sizeof info};
        double worst;

        TRY(lora_plan_factors(&info, up, sizeof up, down, sizeof down, NULL,
                              plan, i, &options, error));
        worst = factors_error(&tensors[i], up, down, (size_t)info.rank);
        printf("%s\n  beside it: rank %d, error %.2f\n", tensors[i].name,
               (int)info.rank, worst);
        *good &= worst <= 1;
    }
    return LORA_OK;
}

static lora_status run(int *good,
                       lora_context *context,
                       lora_model **model,
                       lora_plan **plan,
                       lora_error *error)
{
    uint64_t ids[ADAPTERS];

    TRY(make_weights());
    TRY(list_tensors(model, context, error));
    TRY(make_plan(plan, *model, error));
    for (int i = 0; i < ADAPTERS; i++) {
        TRY(add_adapter(*plan, &ids[i], context, *model, i, error));
    }
    TRY(check_factors(good, *plan, error)); /* needs no weights */
    TRY(lora_plan_run(*plan, error));
    TRY(check_weights(good));
    for (int i = 0; i < ADAPTERS; i++) {
        TRY(lora_plan_remove(*plan, ids[i], error));
    }
    TRY(lora_plan_run(*plan, error));
    for (size_t i = 0; i < TENSORS; i++) {
        const host_tensor *t = &tensors[i];

        *good &= memcmp(t->data, t->saved, t->rows * row_bytes(t)) == 0;
    }
    puts(*good ? "right, and as before" : "WRONG");
    return LORA_OK;
}

int main(void)
{
    lora_context *context = NULL;
    lora_model *model = NULL;
    lora_plan *plan = NULL;
    lora_error error;
    lora_status status;
    int good = 1;

    lora_error_init(&error, sizeof error);
    status = lora_context_create(&context, NULL, &error);
    if (status == LORA_OK) {
        status = run(&good, context, &model, &plan, &error);
    }
    if (status != LORA_OK) {
        fprintf(stderr, "%s: %s %s\n", lora_status_name(status), error.subject,
                error.message);
    }
    lora_plan_destroy(plan);
    lora_model_destroy(model);
    lora_context_destroy(context);
    return status == LORA_OK && good ? 0 : 1;
}
