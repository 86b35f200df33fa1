/* DoRA, around a module of any kind that has rows: the merged weight is given
 * new norms.
 *
 *   V = W + dW        W' = V o (g / |V|)
 *
 * with a norm for each row, or for each input over all rows and the kernel.
 * Which, the magnitude's shape tells: [out, 1, ...] is of rows, [1, in, ...] of
 * inputs; with PEFT it is one of rows always, [1, out, 1, 1] too, and of an
 * embedding one of its dimensions.
 *
 * At a strength m other than 1, with s the kind's own scale:
 *
 *   LyCORIS  V = W + s dW        W' = V o (m (g / n - 1) + 1),  n = |V| + eps:
 *            0 gives V, not W
 *   PEFT     V = W + m s dW      W' = V o (g / |V|);  what is 0 stays 0
 *
 * The name of the magnitude, which each spells in its own way, tells whose it
 * is; a caller may have the other's rule for the strength. Norms are summed in
 * f64, in one order. eps is that of the type. Source:
 * formats.md 5.10.
 */
#include "adapter/kinds/common.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Rows of a pass over the whole weight take about so many bytes. */
#define DORA_PASS_BYTES ((size_t)1 << 20)

LORA_PRIVATE int lora__kind_dora_inputs(const lora__module *module,
                                        const lora__entry *entry,
                                        int peft)
{
    if (module->kind->columns || entry->ndim == 1 || peft) {
        return module->kind->columns || module->transposed;
    }
    /* One element is of the side that has one. */
    return entry->shape[0] == 1 &&
           (entry->elements > 1 || module->shape[0] != 1);
}

LORA_PRIVATE int lora__dora_is_of_kernels(const lora_adapter *adapter,
                                          const lora__module *module)
{
    const lora__entry *entry =
        lora__module_entry(adapter, module, LORA__ROLE_DORA);
    uint64_t cols = lora__shape_count(module->shape, 1, module->ndim);

    return lora__kind_dora_inputs(
               module, entry,
               lora__name_has_peft_magnitude(entry->name, entry->name_bytes)) &&
           !module->transposed && entry->elements != cols;
}

/* What a slice of V whose squares have that sum is multiplied by. */
static double
dora_factor(const lora__rows *state, double magnitude, double squares)
{
    const lora__dora *dora = &state->dora;
    double norm = sqrt(squares);

    if (dora->peft) {
        return magnitude / (norm == 0.0 ? (double)FLT_EPSILON : norm);
    }
    norm += state->dtype == LORA_DTYPE_F64 ? DBL_EPSILON : (double)FLT_EPSILON;
    return dora->strength * (magnitude / norm - 1.0) + 1.0;
}

/* Numbers of a row that are taken at once, and the sums that go side by side
 * when squares are added up. */
enum { DORA_CHUNK = 256, DORA_SUMS = 8 };

/* Numbers of a row in f64, *count of them from `first` on: of W, and of V = W +
 * dW. */
static void dora_load(double *v,
                      double *w,
                      size_t *count,
                      const lora__rows *state,
                      const void *change,
                      const void *base,
                      size_t first)
{
    const lora__kernels *kernels = state->kernels;
    const size_t left = state->cols - first;
    const size_t n = left < DORA_CHUNK ? left : DORA_CHUNK;

    if (state->dtype == LORA_DTYPE_F64) {
        memcpy(v, (const double *)change + first, n * sizeof *v);
        memcpy(w, (const double *)base + first, n * sizeof *w);
    } else {
        kernels->f32_to_f64(v, (const float *)change + first, n);
        kernels->f32_to_f64(w, (const float *)base + first, n);
    }
    kernels->axpy_f64(v, w, 1.0, n);
    *count = n;
}

/* The squares of a row of V: the sum over i of those of i, i + SUMS, ... */
static double
dora_squares(const lora__rows *state, const void *change, const void *base)
{
    double sums[DORA_SUMS] = {0};
    double v[DORA_CHUNK];
    double w[DORA_CHUNK];
    size_t n;

    for (size_t first = 0; first < state->cols; first += n) {
        size_t i = 0;

        dora_load(v, w, &n, state, change, base, first);
        for (; i + DORA_SUMS <= n; i += DORA_SUMS) {
            for (size_t j = 0; j < DORA_SUMS; j++) {
                sums[j] += v[i + j] * v[i + j];
            }
        }
        for (; i < n; i++) {
            sums[i % DORA_SUMS] += v[i] * v[i];
        }
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* Squares of V, added up for each input; rows of a few at a time. */
static lora_status dora_sum_inputs(double *sums,
                                   lora__rows *state,
                                   const lora__module *module,
                                   size_t step,
                                   void *change,
                                   lora_error *error)
{
    size_t kernel = state->cols / state->dora.count;
    double v[DORA_CHUNK];
    double w[DORA_CHUNK];
    size_t n;

    for (size_t begin = 0; begin < state->rows; begin += step) {
        size_t end = state->rows - begin < step ? state->rows : begin + step;
        const unsigned char *row = change;
        TRY(lora__rows_want(state, begin, end, error));
        module->kind->rows(state, module, begin, end, change);
        for (size_t i = begin; i < end; i++) {
            for (size_t first = 0; first < state->cols; first += n) {
                dora_load(v, w, &n, state, row, lora__rows_base(state, i),
                          first);
                for (size_t j = 0; j < n; j++) {
                    sums[(first + j) / kernel] += v[j] * v[j];
                }
            }
            row += state->cols * lora__rows_size(state);
        }
    }
    return LORA_OK;
}

/* Magnitudes of inputs become factors, which need all rows of V. */
static lora_status dora_prepare_inputs(lora__rows *state,
                                       const lora__module *module,
                                       lora_error *error)
{
    void *magnitudes = state->blocks[LORA__BLOCK_DORA];
    size_t row = state->cols * lora__rows_size(state);
    size_t step = row > DORA_PASS_BYTES ? 1 : DORA_PASS_BYTES / row;
    size_t bytes = state->dora.count * sizeof(double);
    void *sums;
    void *change;
    lora_status status;

    step += state->grain - 1;
    step =
        step > state->rows ? state->rows : step / state->grain * state->grain;
    change = lora__alloc(state->context, step * row, LORA__ALIGN_NUMERIC);
    if (change == NULL) {
        return lora__fail_memory(error, step * row);
    }
    TRY_OR_DONE(lora__alloc_zeroed(&sums, state->context, state->dora.count,
                                   sizeof(double), error));
    status = dora_sum_inputs(sums, state, module, step, change, error);
    for (size_t i = 0; status == LORA_OK && i < state->dora.count; i++) {
        lora__rows_set(state, magnitudes, i,
                       dora_factor(state, lora__rows_get(state, magnitudes, i),
                                   ((double *)sums)[i]));
    }
    lora__free(state->context, sums, bytes, LORA__ALIGN);
done:
    lora__free(state->context, change, step * row, LORA__ALIGN_NUMERIC);
    return status;
}

LORA_PRIVATE lora_status lora__dora_prepare(lora__rows *state,
                                            const lora_adapter *adapter,
                                            const lora__module *module,
                                            lora_dora_rule rule,
                                            lora_error *error)
{
    const lora__member *member = lora__module_find(module, LORA__ROLE_DORA);
    const lora__entry *entry = &adapter->container->entries[member->entry];
    lora__dora *dora = &state->dora;
    int peft = lora__name_has_peft_magnitude(entry->name, entry->name_bytes);
    int inputs = lora__kind_dora_inputs(module, entry, peft);

    dora->peft = rule == LORA_DORA_ORIGIN ? peft : rule == LORA_DORA_PEFT;
    dora->count = !inputs                 ? state->rows
                  : state->base->ndim > 1 ? (size_t)state->base->shape[1]
                                          : 1;
    dora->inputs = inputs;
    if (entry->elements != dora->count) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "dora_scale has %llu elements for %llu %s",
                          (unsigned long long)entry->elements,
                          (unsigned long long)dora->count,
                          inputs ? "inputs" : "rows");
    }
    dora->strength = state->multiplier;
    if (!dora->peft) {
        state->multiplier = 1.0;
    }
    TRY(module->kind->prepare(state, adapter, module, error));
    TRY(lora__rows_load(state, LORA__BLOCK_DORA, adapter, member->entry,
                        error));
    return inputs ? dora_prepare_inputs(state, module, error) : LORA_OK;
}

/* out = factor * (out + base) - base, of one row. */
static void dora_row(const lora__rows *state, size_t row, void *out)
{
    const lora__kernels *kernels = state->kernels;
    const void *magnitudes = state->blocks[LORA__BLOCK_DORA];
    const void *base = lora__rows_base(state, row);
    const int inputs = state->dora.inputs;
    const size_t kernel = inputs ? state->cols / state->dora.count : 1;
    double factor = 0.0;
    double v[DORA_CHUNK];
    double w[DORA_CHUNK];
    size_t n;

    if (!inputs) {
        factor = dora_factor(state, lora__rows_get(state, magnitudes, row),
                             dora_squares(state, out, base));
    }
    for (size_t first = 0; first < state->cols; first += n) {
        dora_load(v, w, &n, state, out, base, first);
        for (size_t i = 0; inputs && i < n; i++) {
            factor = lora__rows_get(state, magnitudes, (first + i) / kernel);
            w[i] = fma(factor, v[i], -w[i]);
        }
        if (!inputs) {
            kernels->scale_f64(w, -1.0, n);
            kernels->axpy_f64(w, v, factor, n);
        }
        if (state->dtype == LORA_DTYPE_F64) {
            memcpy((double *)out + first, w, n * sizeof *w);
        } else {
            kernels->f64_to_f32((float *)out + first, w, n);
        }
    }
}

LORA_PRIVATE void lora__dora_rows(const lora__rows *state,
                                  const lora__module *module,
                                  size_t begin,
                                  size_t end,
                                  void *out)
{
    unsigned char *row = out;

    module->kind->rows(state, module, begin, end, out);
    for (size_t i = begin; i < end; i++) {
        dora_row(state, i, row);
        row += state->cols * lora__rows_size(state);
    }
}
