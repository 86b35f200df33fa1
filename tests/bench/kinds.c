/* `./dev bench kinds`, the part in C: a LoRA layer forward and back, and its
 * weight change, by us or by the products of OpenBLAS that they come to.
 *
 *     kinds ours|theirs TIMES THREADS     then on standard input, a line each:
 *     NAME R BATCH WIDTH                  what to measure, and its sizes
 *
 * For each line it prints `NAME R BATCH WIDTH SECONDS`, the median of TIMES.
 *
 *     forward r n w     Y[n,w] = s (X[n,w] A^T) B^T       two sgemm
 *     half r n w        the same of f16                   -
 *     backward r n w    gX, gA, gB                        five sgemm
 *     delta-KIND r 0 w  the weight change, of LoRA        sgemm
 *                       s B[w,r] A[r,w]
 *
 * What is made from X alone going back (X A^T) is made again by both. A weight
 * change of any kind is beside the same one product. That of a convolution has
 * w / 8 channels and a kernel of 3 x 3; LoKr's w1 is [16, 16] and its w2 of
 * rank r, Light-LoRA has 64 rows between its matrices.
 */
#define _POSIX_C_SOURCE 199309L

#include <lora/lora.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef BENCH_OPENBLAS
void openblas_set_num_threads(int threads);
void cblas_sgemm(int order,
                 int ta,
                 int tb,
                 int m,
                 int n,
                 int k,
                 float alpha,
                 const float *a,
                 int lda,
                 const float *b,
                 int ldb,
                 float beta,
                 float *c,
                 int ldc);
#endif

enum { ROW_MAJOR = 101, PLAIN = 111, TURNED = 112 };

static const float SCALE = 0.5F;

/* One line's operands. */
typedef struct work {
    char name[16];
    size_t r;
    size_t n;
    size_t w;
    size_t cols; /* of the weight */
    float *x;
    float *y;
    float *down;
    float *up;
    float *grad_x;
    float *grad_down;
    float *grad_up;
    float *hidden;
    float *grad_hidden;
    float *delta;
    float *weight;
    void *room;
    size_t room_bytes;
    lora_context *context;
    lora_adapter *adapter;
    lora_layer *layer;
} work;

/* With one thread those of the processor, which others on it do not lengthen.
 */
static double seconds(uint32_t threads)
{
    struct timespec t;

    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC,
                  &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(lora_status status)
{
    if (status != LORA_OK) {
        fprintf(stderr, "kinds: %s\n", lora_status_name(status));
        exit(1);
    }
}

static float *numbers(size_t count)
{
    static uint32_t state = 1;
    float *out = malloc((count + 16) * sizeof *out);

    if (out == NULL) {
        exit(1);
    }
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525U + 1013904223U;
        out[i] = (float)(state >> 8) / 8388608.0F - 1.0F;
    }
    return out;
}

/* The tensors of a kind, and their sizes: o and i of the weight, r the rank, q
 * o / 16, n and l as above, c channels with a kernel. */
static const struct kind_tensor {
    const char *kind;
    const char *suffix;
    const char *sizes;
} kind_tensors[] = {
    {"lora", ".lora_down.weight", "ri"},
    {"lora", ".lora_up.weight", "or"},
    {"locon", ".lora_down.weight", "rc"},
    {"locon", ".lora_up.weight", "or11"},
    {"loha", ".hada_w1_a", "or"},
    {"loha", ".hada_w1_b", "ri"},
    {"loha", ".hada_w2_a", "or"},
    {"loha", ".hada_w2_b", "ri"},
    {"lokr", ".lokr_w1", "nn"},
    {"lokr", ".lokr_w2_a", "qr"},
    {"lokr", ".lokr_w2_b", "rq"},
    {"ia3", ".weight", "o"},
    {"ia3", ".on_input", ""},
    {"glora", ".a1.weight", "or"},
    {"glora", ".a2.weight", "ri"},
    {"glora", ".b1.weight", "or"},
    {"glora", ".b2.weight", "ri"},
    {"dora", ".lora_down.weight", "ri"},
    {"dora", ".lora_up.weight", "or"},
    {"dora", ".dora_scale", "o1"},
    {"light", ".light_down_aux", "li"},
    {"light", ".light_down", "rl"},
    {"light", ".light_up", "lr"},
    {"light", ".light_up_aux", "ol"},
};

static int64_t size_of(const work *k, char size)
{
    return (int64_t)(size == 'o'   ? k->w
                     : size == 'i' ? k->cols
                     : size == 'r' ? k->r
                     : size == 'q' ? k->w / 16
                     : size == 'n' ? 16
                     : size == 'l' ? 64
                     : size == 'c' ? k->cols / 9
                                   : 1);
}

static const char *kind_of(const work *k)
{
    return strncmp(k->name, "delta-", 6) == 0 ? k->name + 6 : NULL;
}

static void add(lora_builder *builder,
                const work *k,
                const struct kind_tensor *t,
                const float *data)
{
    const float zero = 0.0F;
    char name[64];
    lora_tensor tensor;

    memset(&tensor, 0, sizeof tensor);
    tensor.data = t->sizes[0] == '\0' ? &zero : data;
    tensor.bytes = sizeof *data;
    tensor.dtype = LORA_DTYPE_F32;
    for (const char *size = t->sizes; *size != '\0'; size++) {
        tensor.shape[tensor.ndim++] = size_of(k, *size);
    }
    if (strchr(t->sizes, 'c') != NULL) {
        tensor.shape[tensor.ndim++] = 3;
        tensor.shape[tensor.ndim++] = 3;
    }
    for (int32_t i = 0; i < tensor.ndim; i++) {
        tensor.bytes *= (size_t)tensor.shape[i];
    }
    snprintf(name, sizeof name, "lora_unet_x%s", t->suffix);
    check(lora_builder_add_tensor(builder, name, &tensor, NULL));
}

/* All tensors of one side have the same numbers. */
static void make_adapter(work *k)
{
    const char *kind = kind_of(k) == NULL ? "lora" : kind_of(k);
    lora_builder *builder;

    check(lora_builder_create(&builder, k->context, NULL, NULL));
    for (size_t i = 0; i < sizeof kind_tensors / sizeof *kind_tensors; i++) {
        const struct kind_tensor *t = &kind_tensors[i];

        if (strcmp(t->kind, kind) == 0) {
            add(builder, k, t, t->sizes[0] == 'o' ? k->up : k->down);
        }
    }
    check(lora_builder_finish(&k->adapter, builder, NULL));
    lora_builder_destroy(builder);
}

static void make_layer(work *k, uint32_t threads)
{
    lora_context_options options;
    lora_layer_options how;
    lora_layer_batch batch = {(int64_t)k->n, {0, 0, 0}};
    size_t forward;

    lora_context_options_init(&options, sizeof options);
    options.max_threads = threads;
    check(lora_context_create(&k->context, &options, NULL));
    make_adapter(k);
    if (kind_of(k) != NULL) {
        return;
    }
    lora_layer_options_init(&how, sizeof how);
    if (strcmp(k->name, "half") == 0) {
        how.dtype = LORA_DTYPE_F16;
    }
    check(lora_layer_create(&k->layer, k->adapter, 0, SCALE, &how, NULL));
    check(
        lora_layer_workspace(&forward, &k->room_bytes, k->layer, &batch, NULL));
    k->room_bytes = forward > k->room_bytes ? forward : k->room_bytes;
    k->room = malloc(k->room_bytes);
}

static void run_delta(const work *k)
{
    lora_tensor weight;

    memset(&weight, 0, sizeof weight);
    weight.data = k->weight;
    weight.bytes = k->w * k->cols * sizeof(float);
    weight.shape[0] = (int64_t)k->w;
    weight.shape[1] = (int64_t)k->cols;
    weight.ndim = 2;
    weight.dtype = LORA_DTYPE_F32;
    check(lora_adapter_delta_base(
        k->delta, weight.bytes, k->adapter, 0, LORA_PART_WEIGHT, SCALE,
        LORA_DTYPE_F32, 0, (int64_t)k->w, k->weight == NULL ? NULL : &weight,
        NULL, NULL, NULL));
}

static void run_ours(const work *k)
{
    lora_layer_batch batch = {(int64_t)k->n, {0, 0, 0}};
    float *gradients[2] = {k->grad_down, k->grad_up};

    if (kind_of(k) != NULL) {
        run_delta(k);
    } else if (strcmp(k->name, "backward") == 0) {
        check(lora_layer_backward(k->grad_x, 0, gradients, k->layer, k->x, 0,
                                  k->y, 0, &batch, 0, k->room, k->room_bytes,
                                  NULL));
    } else {
        check(lora_layer_forward(k->y, 0, k->layer, k->x, 0, &batch, 0, k->room,
                                 k->room_bytes, NULL));
    }
}

#ifdef BENCH_OPENBLAS
/* C[m,n] = alpha op(A) op(B), all dense. */
static void product(float *c,
                    const float *a,
                    int a_turned,
                    const float *b,
                    int b_turned,
                    size_t m,
                    size_t n,
                    size_t k,
                    float alpha)
{
    cblas_sgemm(ROW_MAJOR, a_turned ? TURNED : PLAIN, b_turned ? TURNED : PLAIN,
                (int)m, (int)n, (int)k, alpha, a, (int)(a_turned ? m : k), b,
                (int)(b_turned ? k : n), 0.0F, c, (int)n);
}

static void run_theirs(const work *k)
{
    if (kind_of(k) != NULL) {
        product(k->delta, k->up, 0, k->down, 0, k->w, k->cols, k->r, SCALE);
        return;
    }
    product(k->hidden, k->x, 0, k->down, 1, k->n, k->r, k->w, SCALE);
    if (strcmp(k->name, "forward") == 0) {
        product(k->y, k->hidden, 0, k->up, 1, k->n, k->w, k->r, 1.0F);
        return;
    }
    product(k->grad_up, k->y, 1, k->hidden, 0, k->w, k->r, k->n, 1.0F);
    product(k->grad_hidden, k->y, 0, k->up, 0, k->n, k->r, k->w, SCALE);
    product(k->grad_down, k->grad_hidden, 1, k->x, 0, k->r, k->w, k->n, 1.0F);
    product(k->grad_x, k->grad_hidden, 0, k->down, 0, k->n, k->w, k->r, 1.0F);
}
#else
static void run_theirs(const work *k)
{
    (void)k;
}
#endif

static int by_time(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double measure(const work *k, int ours, size_t times, uint32_t threads)
{
    double found[64];

    for (size_t i = 0; i <= times; i++) { /* the first one warms up */
        const double start = seconds(threads);
        size_t calls = 0;

        do {
            if (ours) {
                run_ours(k);
            } else {
                run_theirs(k);
            }
            calls++;
        } while (seconds(threads) - start < 2e-3);
        found[i == 0 ? 0 : i - 1] = (seconds(threads) - start) / (double)calls;
    }
    qsort(found, times, sizeof *found, by_time);
    return found[times / 2];
}

static void fill(work *k)
{
    const char *kind = kind_of(k);
    const size_t most = k->r > 64 ? k->r : 64; /* of what is one side's */
    const int based = kind != NULL &&
                      (strcmp(kind, "ia3") == 0 || strcmp(kind, "glora") == 0 ||
                       strcmp(kind, "dora") == 0);

    k->cols = kind != NULL && strcmp(kind, "locon") == 0 ? k->w / 8 * 9 : k->w;
    k->x = numbers(k->n * k->w);
    k->y = numbers(k->n * k->w);
    k->grad_x = numbers(k->n * k->w);
    k->down = numbers(most * k->cols);
    k->up = numbers(most * k->w);
    k->grad_down = numbers(k->r * k->w);
    k->grad_up = numbers(k->r * k->w);
    k->hidden = numbers(k->n * k->r);
    k->grad_hidden = numbers(k->n * k->r);
    k->delta = numbers(kind == NULL ? 0 : k->w * k->cols);
    k->weight = based ? numbers(k->w * k->cols) : NULL;
    if (strcmp(k->name, "half") == 0) {
        check(lora_tensor_convert(k->x, LORA_DTYPE_F16, k->grad_x,
                                  LORA_DTYPE_F32, k->n * k->w, NULL));
    }
}

static void drop(work *k)
{
    float *all[] = {k->x,           k->y,         k->grad_x,  k->down,
                    k->up,          k->grad_down, k->grad_up, k->hidden,
                    k->grad_hidden, k->delta,     k->weight};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
    free(k->room);
    lora_layer_destroy(k->layer);
    lora_adapter_destroy(k->adapter);
    lora_context_destroy(k->context);
}

int main(int argc, char **argv)
{
    const int ours = argc == 4 && strcmp(argv[1], "ours") == 0;
    const size_t times = argc == 4 ? (size_t)atoi(argv[2]) : 0;
    const uint32_t threads = argc == 4 ? (uint32_t)atoi(argv[3]) : 0;
    work k;

    if (times < 1 || times > 63 || threads < 1) {
        fputs("usage: kinds ours|theirs TIMES THREADS\n", stderr);
        return 2;
    }
#ifdef BENCH_OPENBLAS
    openblas_set_num_threads((int)threads);
#endif
    memset(&k, 0, sizeof k);
    while (scanf("%15s %zu %zu %zu", k.name, &k.r, &k.n, &k.w) == 4) {
        fill(&k);
        if (ours) {
            make_layer(&k, threads);
        }
        printf("%s %zu %zu %zu %.9g\n", k.name, k.r, k.n, k.w,
               !ours && strcmp(k.name, "half") == 0
                   ? 0.0
                   : measure(&k, ours, times, threads));
        fflush(stdout);
        drop(&k);
        memset(&k, 0, sizeof k);
    }
    return 0;
}
