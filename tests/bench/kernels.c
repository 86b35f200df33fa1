/* `./dev bench kernels`, the part in C: our kernels, or those of OpenBLAS, on
 * the same operands.
 *
 *     kernels ours|theirs TIMES THREADS   then on standard input, a line each:
 *     NAME A B C                          what to measure, and its sizes
 *
 * For each line it prints `NAME A B C SECONDS`, the median of TIMES; 0 where
 * there is no such thing. With more threads than one ours is THREADS
 * independent calls side by side, as modules of an adapter are, divided by
 * THREADS; theirs is one call on THREADS threads. Seconds are of CPU time for
 * one thread, and of the clock on the wall for more. A process of its own each,
 * as the threads of OpenBLAS stay awake for a while after their work.
 *
 *     gemm_f32 m n k    C[m,n] = A[m,k] B[k,n]            sgemm
 *     dots_f32 m n k    C[m,n] = A[m,k] B[n,k]^T          sgemm
 *     gemm_f64 m n k    C[m,n] = A[m,k] B[k,n]            dgemm
 *     gram_f64 n k 0    lower triangle of A[n,k] A^T      dsyrk
 *     lq n k 0          A[n,k] = L Q                      dgeqrf
 *     svd n 0 0         left SVD of C[n,n]                dgesdd
 *     factored m n r    SVD and truncation to r / 4       -
 *     dense m n r       truncated SVD of M[m,n] to r      -
 *                       M of rank 32 and noise a tenth as strong
 *     copy n 0 0        n bytes, read and written         -
 */
#define _POSIX_C_SOURCE 199309L

#include "linalg/dense.h"
#include "linalg/householder.h"
#include "linalg/square.h"
#include "platform/cpuid.h"

#include <math.h>
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
void cblas_dgemm(int order,
                 int ta,
                 int tb,
                 int m,
                 int n,
                 int k,
                 double alpha,
                 const double *a,
                 int lda,
                 const double *b,
                 int ldb,
                 double beta,
                 double *c,
                 int ldc);
void cblas_dsyrk(int order,
                 int uplo,
                 int trans,
                 int n,
                 int k,
                 double alpha,
                 const double *a,
                 int lda,
                 double beta,
                 double *c,
                 int ldc);
void dgeqrf_(int *m,
             int *n,
             double *a,
             int *lda,
             double *tau,
             double *work,
             int *lwork,
             int *info);
void dgesdd_(const char *job,
             int *m,
             int *n,
             double *a,
             int *lda,
             double *s,
             double *u,
             int *ldu,
             double *vt,
             int *ldvt,
             double *work,
             int *lwork,
             int *iwork,
             int *info);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, LOWER = 122 };
#endif

enum { MOST = 64 };

static lora_context *context;
static const lora__kernels *kernels;

/* One operation: sizes, and operands of its own for each thread. */
typedef struct task {
    char name[16];
    size_t s[3];
    uint32_t copies;
    size_t counts[3]; /* doubles' worth of each operand */
    double *x[MOST][3];
    double *kept; /* what operand 0 is set to before each time */
} task;

/* Of the process's CPU for one thread, as the machine may be busy. */
static double now(int threads)
{
    struct timespec t;

    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC,
                  &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int is(const task *t, const char *name)
{
    return strcmp(t->name, name) == 0;
}

/* Is operand 0 spoiled by the operation? */
static int spoils(const task *t)
{
    return is(t, "lq") || is(t, "svd");
}

static void size(task *t)
{
    const size_t a = t->s[0];
    const size_t b = t->s[1];
    const size_t c = t->s[2];
    size_t counts[3] = {a * c, b * c, a * b};

    if (is(t, "gram_f64") || is(t, "lq")) {
        counts[0] = a * b;
        counts[1] = a * a + a;
        counts[2] = 64 * a;
    } else if (is(t, "svd")) {
        counts[0] = a * a;
        counts[1] = 2 * a * a + a;
        counts[2] = 20 * a * a + 1000;
    } else if (is(t, "factored")) {
        counts[2] = (a + b) * c;
    } else if (is(t, "dense")) {
        counts[0] = a * b / 2 + 1;
        counts[1] = (a + b) * c;
        counts[2] = 1;
    } else if (is(t, "copy")) {
        counts[0] = counts[1] = a / 8 + 1;
        counts[2] = 1;
    }
    memcpy(t->counts, counts, sizeof counts);
}

static void fill(double *x, size_t count, int floats)
{
    uint64_t state = 1;

    for (size_t i = 0; i < count * (floats ? 2 : 1); i++) {
        double value;

        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (double)(state >> 11) * 0x1p-53 - 0.5;
        if (floats) {
            ((float *)(void *)x)[i] = (float)value;
        } else {
            x[i] = value;
        }
    }
}

/* M += 10 A B, elements of all three of the same size. */
static void add_rank_32(float *m, size_t rows, size_t cols)
{
    enum { RANK = 32 };
    const size_t count = (rows + cols) * RANK;
    double *factors = malloc((count + rows * cols) * sizeof *factors);
    float *a = (float *)(void *)factors;
    float *product = (float *)(void *)(factors + count);

    fill(factors, count, 1);
    kernels->gemm_f32(product, cols, a, RANK, a + rows * RANK, cols, rows, cols,
                      RANK);
    kernels->axpy_f32(m, product, 10 / sqrtf(RANK), rows * cols);
    free(factors);
}

static int is_float(const task *t)
{
    return is(t, "gemm_f32") || is(t, "dots_f32") || is(t, "dense");
}

static void make(task *t)
{
    size(t);
    for (uint32_t i = 0; i < t->copies; i++) {
        for (size_t j = 0; j < 3; j++) {
            t->x[i][j] = aligned_alloc(64, (t->counts[j] * 8 + 63) / 64 * 64);
            if (t->x[i][j] == NULL) {
                exit(1);
            }
            fill(t->x[i][j], t->counts[j], is_float(t));
        }
        if (is(t, "dense")) {
            add_rank_32((float *)(void *)t->x[i][0], t->s[0], t->s[1]);
        }
    }
    t->kept = malloc(t->counts[0] * 8);
    memcpy(t->kept, t->x[0][0], t->counts[0] * 8);
}

static void drop(task *t)
{
    for (uint32_t i = 0; i < t->copies; i++) {
        for (size_t j = 0; j < 3; j++) {
            free(t->x[i][j]);
        }
    }
    free(t->kept);
}

static lora_status
ours(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    const task *t = arg;
    double *const *x = t->x[index];
    const float *f0 = (const float *)(const void *)x[0];
    const float *f1 = (const float *)(const void *)x[1];
    const size_t a = t->s[0];
    const size_t b = t->s[1];
    const size_t c = t->s[2];

    (void)worker;
    if (is(t, "gemm_f32")) {
        kernels->gemm_f32((float *)(void *)x[2], b, f0, c, f1, b, a, b, c);
    } else if (is(t, "dots_f32")) {
        kernels->dots_f32(x[2], b, f0, c, f1, c, a, b, c);
    } else if (is(t, "gemm_f64")) {
        kernels->gemm_f64(x[2], b, x[0], c, x[1], b, a, b, c);
    } else if (is(t, "gram_f64")) {
        kernels->gram_f64(x[1], a, x[0], b, a, b);
    } else if (is(t, "lq")) {
        return lora__lq_create(x[1], x[0], x[1] + a * a, a, b, context, error);
    } else if (is(t, "svd")) {
        return lora__square_svd(x[1], x[1] + a, x[0], a, 1e-14, context, error);
    } else if (is(t, "factored")) {
        const lora__svd_input in = {a, b, c, x[0], x[1]};
        lora__svd svd;
        lora_status status = lora__svd_create(&svd, context, &in, error);

        if (status == LORA_OK) {
            status = lora__svd_truncate(x[2], x[2] + a * c, &svd, &in, c / 4,
                                        context, error);
            lora__svd_destroy(&svd, context);
        }
        return status;
    } else if (is(t, "dense")) {
        const lora__dense_input in = {a, b, f0};
        lora__dense_goal goal = {0};
        lora__dense dense;
        lora_status status;

        goal.rank = c;
        status = lora__dense_create(&dense, context, &in, &goal, error);
        if (status == LORA_OK) {
            status = lora__dense_truncate(x[1], x[1] + a * c, &dense, c,
                                          context, error);
            lora__dense_destroy(&dense, context);
        }
        return status;
    } else {
        memcpy(x[1], x[0], a);
    }
    return LORA_OK;
}

/* 1 if there is such a thing. */
static int theirs(task *t, int threads)
{
#ifdef BENCH_OPENBLAS
    double *const *x = t->x[0];
    const float *f0 = (const float *)(const void *)x[0];
    const float *f1 = (const float *)(const void *)x[1];
    int a = (int)t->s[0];
    int b = (int)t->s[1];
    int c = (int)t->s[2];
    int info = 0;

    openblas_set_num_threads(threads);
    if (is(t, "gemm_f32")) {
        cblas_sgemm(ROW_MAJOR, NO_TRANS, NO_TRANS, a, b, c, 1, f0, c, f1, b, 0,
                    (float *)(void *)x[2], b);
    } else if (is(t, "dots_f32")) {
        cblas_sgemm(ROW_MAJOR, NO_TRANS, TRANS, a, b, c, 1, f0, c, f1, c, 0,
                    (float *)(void *)x[2], b);
    } else if (is(t, "gemm_f64")) {
        cblas_dgemm(ROW_MAJOR, NO_TRANS, NO_TRANS, a, b, c, 1, x[0], c, x[1], b,
                    0, x[2], b);
    } else if (is(t, "gram_f64")) {
        cblas_dsyrk(ROW_MAJOR, LOWER, NO_TRANS, a, b, 1, x[0], b, 0, x[1], a);
    } else if (is(t, "lq")) {
        int work = 64 * a;

        dgeqrf_(&b, &a, x[0], &b, x[1], x[2], &work, &info);
    } else if (is(t, "svd")) {
        int work = 8 * a * a + 8 * a + 500;
        double *iwork = x[2] + work;

        dgesdd_("S", &a, &a, x[0], &a, x[1], x[1] + a, &a, x[1] + a + a * a, &a,
                x[2], &work, (int *)(void *)iwork, &info);
    } else {
        return 0;
    }
    if (info != 0) {
        exit(1);
    }
    return 1;
#else
    (void)t;
    (void)threads;
    return 0;
#endif
}

static void reset(task *t)
{
    for (uint32_t i = 0; spoils(t) && i < t->copies; i++) {
        memcpy(t->x[i][0], t->kept, t->counts[0] * 8);
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x, size_t count)
{
    qsort(x, count, sizeof *x, ascending);
    return (x[(count - 1) / 2] + x[count / 2]) / 2;
}

/* One time; less than 0 if there is no such thing. */
static double once(task *t, int mine)
{
    double start;
    int exists = 1;
    lora_error error;

    lora_error_init(&error, sizeof error);
    reset(t);
    start = now((int)t->copies);
    if (!mine) {
        exists = theirs(t, (int)t->copies);
    } else if (lora__run_jobs(context, NULL, ours, t, t->copies, &error) !=
               LORA_OK) {
        fprintf(stderr, "%s: %s\n", t->name, error.message);
        exit(1);
    }
    return exists ? (now((int)t->copies) - start) / (mine ? t->copies : 1) : -1;
}

static void measure(task *t, int mine, size_t times)
{
    double *seconds = malloc(times * sizeof *seconds);

    (void)once(t, mine); /* warms up */
    for (size_t i = 0; i < times; i++) {
        seconds[i] = once(t, mine);
    }
    printf("%s %zu %zu %zu %.9f\n", t->name, t->s[0], t->s[1], t->s[2],
           seconds[0] < 0 ? 0 : median(seconds, times));
    fflush(stdout);
    free(seconds);
}

int main(int argc, char **argv)
{
    const int mine = argc > 1 && strcmp(argv[1], "ours") == 0;
    const size_t times = argc > 2 ? (size_t)atoi(argv[2]) : 0;
    const int threads = argc > 3 ? atoi(argv[3]) : 0;
    lora_context_options options;
    task t;

    if (times < 1 || threads < 1 || threads > MOST) {
        fprintf(stderr, "usage: kernels ours|theirs TIMES THREADS\n");
        return 2;
    }
    lora_context_options_init(&options, sizeof options);
    options.max_threads = (uint32_t)threads;
    if (lora_context_create(&context, &options, NULL) != LORA_OK) {
        return 1;
    }
    kernels = lora__kernels_get(lora__context_get(context)->cpu);
    memset(&t, 0, sizeof t);
    while (scanf("%15s %zu %zu %zu", t.name, &t.s[0], &t.s[1], &t.s[2]) == 4) {
        t.copies = (uint32_t)threads;
        make(&t);
        measure(&t, mine, times);
        drop(&t);
        memset(&t, 0, sizeof t);
    }
    lora_context_destroy(context);
    return 0;
}
