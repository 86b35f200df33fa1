/* Training: two LoRAs on a small network, in C alone.
 *
 *     ./train_lora out.safetensors STEPS
 *
 * The network is y = W2 relu(W1 x), its weights frozen; a teacher has weights
 * that differ from these by a change of low rank. Adam brings the network close
 * to the teacher by training a LoRA beside each weight. Each step prints its
 * number and its loss, the mean of the squares of what is missing.
 */
#include <lora/lora.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN = 16, HIDDEN = 32, OUT = 8, BATCH = 64, RANK = 4, TAUGHT = 2 };

static const double RATE = 0.01, BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;

/* One factor in training: down or up of a layer. */
typedef struct factor {
    float values[HIDDEN * RANK];
    float gradient[HIDDEN * RANK];
    double m[HIDDEN * RANK];
    double v[HIDDEN * RANK];
    size_t count;
} factor;

/* A frozen weight, what the teacher has there, and the LoRA beside it. */
typedef struct linear {
    const char *name;
    size_t in;
    size_t out;
    float weight[HIDDEN * HIDDEN];
    float taught[HIDDEN * HIDDEN];
    factor down;
    factor up;
    lora_layer *layer;
    void *workspace;
    size_t workspace_bytes;
} linear;

/* Numbers in [-size, size), the same everywhere. */
static void fill(float *out, size_t count, double size)
{
    static uint32_t state = 1;

    for (size_t i = 0; i < count; i++) {
        state = state * 1664525U + 1013904223U;
        out[i] = (float)(((double)(state >> 8) / 8388608.0 - 1.0) * size);
    }
}

/* y[BATCH, out] = x[BATCH, in] W^T */
static void
multiply(float *y, const float *x, const float *w, size_t in, size_t out)
{
    for (size_t b = 0; b < BATCH; b++) {
        for (size_t o = 0; o < out; o++) {
            double sum = 0.0;

            for (size_t i = 0; i < in; i++) {
                sum += (double)x[b * in + i] * (double)w[o * in + i];
            }
            y[b * out + o] = (float)sum;
        }
    }
}

/* What is negative becomes 0, and its gradient, if there is one. */
static void relu(float *values, const float *of, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        values[i] = of[i] > 0.0F ? values[i] : 0.0F;
    }
}

static void begin(linear *l, const char *name, size_t in, size_t out)
{
    float up[HIDDEN * TAUGHT];
    float down[HIDDEN * TAUGHT];

    memset(l, 0, sizeof *l);
    l->name = name;
    l->in = in;
    l->out = out;
    l->down.count = RANK * in;
    l->up.count = out * RANK; /* begins at 0, so that nothing changes yet */
    fill(l->weight, out * in, 1.0 / sqrt((double)in));
    fill(l->down.values, l->down.count, 1.0 / sqrt((double)in));
    fill(up, out * TAUGHT, 1.0);
    fill(down, TAUGHT * in, 1.0 / sqrt((double)in));
    for (size_t i = 0; i < out * in; i++) {
        l->taught[i] = l->weight[i];
        for (size_t r = 0; r < TAUGHT; r++) {
            l->taught[i] += up[i / in * TAUGHT + r] * down[r * in + i % in];
        }
    }
}

static lora_status add(lora_builder *builder,
                       const linear *l,
                       const char *suffix,
                       const float *values,
                       size_t rows,
                       size_t cols,
                       lora_error *error)
{
    lora_tensor tensor;
    char name[64];

    memset(&tensor, 0, sizeof tensor);
    snprintf(name, sizeof name, "lora_unet_%s.%s", l->name, suffix);
    tensor.data = values;
    tensor.bytes = rows * cols * sizeof *values;
    tensor.dtype = LORA_DTYPE_F32;
    tensor.ndim = 2;
    tensor.shape[0] = (int64_t)rows;
    tensor.shape[1] = (int64_t)cols;
    return lora_builder_add_tensor(builder, name, &tensor, error);
}

/* An adapter of the factors as they are now. */
static lora_status make_adapter(lora_adapter **out,
                                lora_context *context,
                                const linear layers[2],
                                lora_error *error)
{
    lora_builder *builder = NULL;
    lora_status status = lora_builder_create(&builder, context, NULL, error);

    for (const linear *l = layers; status == LORA_OK && l < layers + 2; l++) {
        status = add(builder, l, "lora_down.weight", l->down.values, RANK,
                     l->in, error);
        if (status == LORA_OK) {
            status = add(builder, l, "lora_up.weight", l->up.values, l->out,
                         RANK, error);
        }
    }
    if (status == LORA_OK) {
        status = lora_builder_finish(out, builder, error);
    }
    lora_builder_destroy(builder);
    return status;
}

/* The layer of one module, and room for its passes. */
static lora_status make_layer(linear *l, lora_adapter *adapter, lora_error *e)
{
    const lora_layer_batch batch = {BATCH, {0, 0, 0}};
    char name[64];
    size_t forward = 0;
    size_t index;
    lora_status status;

    snprintf(name, sizeof name, "lora_unet_%s", l->name);
    status = lora_adapter_find_module(&index, adapter, name, e);
    if (status == LORA_OK) {
        status = lora_layer_create(&l->layer, adapter, index, 1.0, NULL, e);
    }
    if (status == LORA_OK) {
        status = lora_layer_workspace(&forward, &l->workspace_bytes, l->layer,
                                      &batch, e);
    }
    if (l->workspace_bytes < forward) {
        l->workspace_bytes = forward;
    }
    l->workspace = malloc(l->workspace_bytes + 1);
    return status == LORA_OK && l->workspace == NULL ? LORA_ERROR_MEMORY
                                                     : status;
}

/* y = W x + the adapter's part */
static lora_status
forward(float *y, const linear *l, const float *x, lora_error *error)
{
    const lora_layer_batch batch = {BATCH, {0, 0, 0}};

    multiply(y, x, l->weight, l->in, l->out);
    return lora_layer_forward(y, 0, l->layer, x, 0, &batch, LORA_LAYER_ADD,
                              l->workspace, l->workspace_bytes, error);
}

/* Gradients of the factors, and where it is wanted that of x. */
static lora_status backward(float *grad_x,
                            linear *l,
                            const float *x,
                            const float *grad_y,
                            lora_error *error)
{
    const lora_layer_batch batch = {BATCH, {0, 0, 0}};
    float *gradients[2] = {NULL, NULL};

    for (size_t i = 0; i < 2; i++) {
        lora_layer_factor info;
        lora_status status;

        info.struct_size = sizeof info;
        status = lora_layer_get_factor(&info, l->layer, i, error);
        if (status != LORA_OK) {
            return status;
        }
        gradients[i] =
            strcmp(info.role, "up") == 0 ? l->up.gradient : l->down.gradient;
    }
    for (size_t i = 0; grad_x != NULL && i < BATCH * l->in; i++) {
        double sum = 0.0;

        for (size_t o = 0; o < l->out; o++) {
            sum += (double)grad_y[i / l->in * l->out + o] *
                   (double)l->weight[o * l->in + i % l->in];
        }
        grad_x[i] = (float)sum;
    }
    return lora_layer_backward(grad_x, 0, gradients, l->layer, x, 0, grad_y, 0,
                               &batch, LORA_LAYER_ADD, l->workspace,
                               l->workspace_bytes, error);
}

/* One step of Adam. */
static void adam(factor *f, int step)
{
    for (size_t i = 0; i < f->count; i++) {
        const double g = (double)f->gradient[i];
        double m;
        double v;

        f->m[i] = BETA1 * f->m[i] + (1.0 - BETA1) * g;
        f->v[i] = BETA2 * f->v[i] + (1.0 - BETA2) * g * g;
        m = f->m[i] / (1.0 - pow(BETA1, step));
        v = f->v[i] / (1.0 - pow(BETA2, step));
        f->values[i] -= (float)(RATE * m / (sqrt(v) + EPSILON));
    }
}

static lora_status update(linear *l, int step, lora_error *error)
{
    lora_status status = LORA_OK;

    adam(&l->down, step);
    adam(&l->up, step);
    for (size_t i = 0; status == LORA_OK && i < 2; i++) {
        lora_layer_factor info;
        const factor *f;

        info.struct_size = sizeof info;
        status = lora_layer_get_factor(&info, l->layer, i, error);
        if (status == LORA_OK) {
            f = strcmp(info.role, "up") == 0 ? &l->up : &l->down;
            status =
                lora_layer_set_factor(l->layer, i, f->values, f->count, error);
        }
    }
    return status;
}

/* One step on new samples. */
static lora_status train(linear layers[2], int step, lora_error *error)
{
    float x[BATCH * IN];
    float hidden[BATCH * HIDDEN];
    float grad_hidden[BATCH * HIDDEN];
    float y[BATCH * OUT];
    float wanted[BATCH * OUT];
    double loss = 0.0;
    lora_status status;

    fill(x, BATCH * IN, 1.0);
    multiply(hidden, x, layers[0].taught, IN, HIDDEN);
    relu(hidden, hidden, BATCH * HIDDEN);
    multiply(wanted, hidden, layers[1].taught, HIDDEN, OUT);

    status = forward(hidden, &layers[0], x, error);
    relu(hidden, hidden, BATCH * HIDDEN);
    if (status == LORA_OK) {
        status = forward(y, &layers[1], hidden, error);
    }
    for (size_t i = 0; i < BATCH * OUT; i++) {
        y[i] -= wanted[i];
        loss += (double)y[i] * (double)y[i] / (BATCH * OUT);
        y[i] *= 2.0F / (BATCH * OUT); /* the gradient from here on */
    }
    printf("%d %.9g\n", step, loss);

    if (status == LORA_OK) {
        status = backward(grad_hidden, &layers[1], hidden, y, error);
    }
    relu(grad_hidden, hidden, BATCH * HIDDEN);
    if (status == LORA_OK) {
        status = backward(NULL, &layers[0], x, grad_hidden, error);
    }
    for (size_t i = 0; status == LORA_OK && i < 2; i++) {
        status = update(&layers[i], step, error);
    }
    return status;
}

int main(int argc, char **argv)
{
    static linear layers[2];
    const int steps = argc == 3 ? atoi(argv[2]) : 0;
    lora_context *context = NULL;
    lora_adapter *start = NULL;
    lora_adapter *trained = NULL;
    lora_error error;
    lora_status status;

    if (steps < 1) {
        fputs("usage: train_lora OUT STEPS\n", stderr);
        return 2;
    }
    lora_error_init(&error, sizeof error);
    begin(&layers[0], "first", IN, HIDDEN);
    begin(&layers[1], "second", HIDDEN, OUT);
    status = lora_context_create(&context, NULL, &error);
    if (status == LORA_OK) {
        status = make_adapter(&start, context, layers, &error);
    }
    for (size_t i = 0; status == LORA_OK && i < 2; i++) {
        status = make_layer(&layers[i], start, &error);
    }
    for (int step = 1; status == LORA_OK && step <= steps; step++) {
        status = train(layers, step, &error);
    }
    if (status == LORA_OK) {
        status = make_adapter(&trained, context, layers, &error);
    }
    if (status == LORA_OK) {
        status = lora_adapter_save(trained, argv[1], NULL, &error);
    }
    if (status != LORA_OK) {
        fprintf(stderr, "%s: %s\n", error.subject, error.message);
    }
    for (size_t i = 0; i < 2; i++) {
        lora_layer_destroy(layers[i].layer);
        free(layers[i].workspace);
    }
    lora_adapter_destroy(trained);
    lora_adapter_destroy(start);
    lora_context_destroy(context);
    return status == LORA_OK ? 0 : 1;
}
