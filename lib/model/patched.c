/* Computing what adapters make of a tensor. */
#include "model/patched.h"

#include <string.h>

/* What a step reads the weight through, as the steps before it leave that. */
typedef struct patch_reader {
    const lora__patched *patched;
    size_t patch_count; /* of those before */
    const lora__bound *item;
    lora_part part;
    lora__patcher **patchers; /* one for each effect, opened when needed */
    float *line;              /* a row of a tensor that is transposed */
    size_t line_bytes;
} patch_reader;

/* One module's effect on the tensor. */
typedef struct patch_step {
    const lora_adapter *adapter;
    const lora__effect *effect;
    const lora__module *module;
    int replaces; /* 1: the state gives W', else what is added */
    lora__rows state;
    lora__base base;
    lora__base_tensor tensors[2];
    patch_reader readers[2];
    float *whole; /* the module's rows, where the tensor is transposed */
    size_t whole_bytes;
} patch_step;

struct lora__patcher {
    const lora__patched *patched;
    lora_context *context;
    const lora__kernels *kernels;
    lora__holding hold;
    patch_step *steps;
    size_t step_count;
    size_t step_most;
    float *rows; /* of one step */
    size_t row_bytes;
};

static lora_status patcher_open_some(lora__patcher **out,
                                     const lora__patched *patched,
                                     size_t patch_count,
                                     size_t tensor,
                                     lora_error *error);

/* ---- which ------------------------------------------------------------- */

LORA_PRIVATE double lora__patch_strength(const lora__patch *patch,
                                         size_t module)
{
    const lora__module *of = &patch->bind->adapter->modules[module];

    return lora__strength_of(&patch->strength, of) *
           (patch->factors == NULL ? 1.0 : patch->factors[module]);
}

/* The patch's effects on a tensor. */
static const lora__effect *const *
patch_effects(const lora__patch *patch, size_t tensor, size_t *out_count)
{
    const size_t first = patch->bind->first[tensor];

    *out_count = patch->bind->first[tensor + 1] - first;
    return patch->bind->effects + first;
}

/* The effects of all patches that have a strength. */
static size_t
patched_count(const lora__patched *patched, size_t patch_count, size_t tensor)
{
    size_t total = 0;

    for (size_t p = 0; p < patch_count; p++) {
        size_t count;
        const lora__effect *const *effects =
            patch_effects(&patched->patches[p], tensor, &count);
        for (size_t i = 0; i < count; i++) {
            total += lora__patch_strength(&patched->patches[p],
                                          effects[i]->module) != 0.0;
        }
    }
    return total;
}

LORA_PRIVATE int lora__patched_changes(const lora__patched *patched,
                                       size_t tensor)
{
    return patched_count(patched, patched->patch_count, tensor) != 0;
}

LORA_PRIVATE int lora__patched_adds(const lora__patched *patched, size_t tensor)
{
    int adds = 1;

    for (size_t p = 0; p < patched->patch_count; p++) {
        const lora__patch *patch = &patched->patches[p];
        size_t count;
        const lora__effect *const *effects =
            patch_effects(patch, tensor, &count);
        for (size_t i = 0; i < count; i++) {
            const lora__module *module =
                &patch->bind->adapter->modules[effects[i]->module];
            adds &= (module->needs & effects[i]->part) == 0 &&
                    !module->kind->decomposes;
        }
    }
    return adds;
}

/* ---- reading the weight ------------------------------------------------ */

static lora_status reader_room(float **rows,
                               size_t *bytes,
                               lora_context *context,
                               size_t count,
                               size_t columns,
                               lora_error *error)
{
    size_t needed;

    if (!lora__mul_size(count, columns, &needed) ||
        !lora__mul_size(needed, sizeof **rows, &needed)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    if (needed > *bytes) {
        lora__free(context, *rows, *bytes, LORA__ALIGN_NUMERIC);
        *bytes = 0;
        *rows = lora__alloc(context, needed, LORA__ALIGN_NUMERIC);
        if (*rows == NULL) {
            return lora__fail_memory(error, needed);
        }
        *bytes = needed;
    }
    return LORA_OK;
}

/* Rows [begin, end) of the module, of a tensor that is its transpose. */
static lora_status reader_turned(float *out,
                                 patch_reader *reader,
                                 lora__patcher *patcher,
                                 size_t begin,
                                 size_t end,
                                 lora_error *error)
{
    const size_t columns = (size_t)patcher->hold.rows;

    TRY(reader_room(&reader->line, &reader->line_bytes, patcher->context, 1,
                    (size_t)patcher->hold.columns, error));
    for (size_t c = 0; c < columns; c++) {
        TRY(lora__patcher_read(reader->line, patcher, c, 1, error));
        for (size_t r = begin; r < end; r++) {
            out[(r - begin) * columns + c] = reader->line[r];
        }
    }
    return LORA_OK;
}

static lora_status reader_effect(float *out,
                                 patch_reader *reader,
                                 size_t index,
                                 size_t begin,
                                 size_t end,
                                 lora_error *error)
{
    const lora__effect *effect = &reader->item->effects[index];
    lora__patcher *patcher;

    if (reader->patchers[index] == NULL) {
        TRY(patcher_open_some(&reader->patchers[index], reader->patched,
                              reader->patch_count, effect->tensor, error));
    }
    patcher = reader->patchers[index];
    if (effect->turned) {
        return reader_turned(out, reader, patcher, begin, end, error);
    }
    for (size_t s = 0; s < effect->span_count; s++) {
        const lora__span *span = &effect->spans[s];
        const size_t last = span->first + (span->end - span->begin);
        const size_t from = begin > span->first ? begin : span->first;
        const size_t to = end < last ? end : last;
        if (from < to) {
            TRY(lora__patcher_read(
                out + (from - begin) * (size_t)patcher->hold.columns, patcher,
                span->begin + (from - span->first), to - from, error));
        }
    }
    return LORA_OK;
}

/* Rows of a module's tensor, in F32, which is all that steps ask for. */
static lora_status reader_read(void *out,
                               lora_dtype dtype,
                               const lora__base_tensor *tensor,
                               size_t begin,
                               size_t end,
                               lora_error *error)
{
    /* A reader is the step's own: nobody else has it. */
    patch_reader *reader = (patch_reader *)(uintptr_t)tensor->user;

    INVARIANT(dtype == LORA_DTYPE_F32, error);
    for (size_t i = 0; i < reader->item->effect_count; i++) {
        if (reader->item->effects[i].part == reader->part) {
            TRY(reader_effect(out, reader, i, begin, end, error));
        }
    }
    return LORA_OK;
}

static int reader_has(const lora__bound *item, lora_part part)
{
    for (size_t i = 0; i < item->effect_count; i++) {
        if (item->effects[i].part == part) {
            return 1;
        }
    }
    return 0;
}

static void reader_close(patch_reader *reader, lora_context *context)
{
    if (reader->patchers != NULL) {
        size_t count = reader->item->effect_count;
        for (size_t i = 0; i < count; i++) {
            lora__patcher_close(reader->patchers[i]);
        }
        lora__free(context, reader->patchers, count * sizeof *reader->patchers,
                   LORA__ALIGN);
        lora__free(context, reader->line, reader->line_bytes,
                   LORA__ALIGN_NUMERIC);
    }
    memset(reader, 0, sizeof *reader);
}

/* ---- steps ------------------------------------------------------------- */

/* The weight and the bias of a step's module, as they are before it. A part
 * that the module does not change is the model's. */
static lora_status step_base(patch_step *step,
                             lora__patcher *patcher,
                             const lora__bound *item,
                             size_t patch_count,
                             lora_error *error)
{
    static const lora_part parts[] = {LORA_PART_WEIGHT, LORA_PART_BIAS};
    const lora__found_base *found = item->found;

    for (size_t p = 0; p < LORA__COUNT(parts); p++) {
        const lora__base_tensor *stored =
            p == 0 ? found->base.weight : found->base.bias;
        patch_reader *reader = &step->readers[p];
        lora__base_tensor *tensor = &step->tensors[p];
        const lora__base_tensor **out =
            p == 0 ? &step->base.weight : &step->base.bias;
        void *memory;

        *out = stored;
        if (stored == NULL || !reader_has(item, parts[p])) {
            continue;
        }
        reader->patched = patcher->patched;
        reader->patch_count = patch_count;
        reader->item = item;
        reader->part = parts[p];
        TRY(lora__alloc_zeroed(&memory, patcher->context, item->effect_count,
                               sizeof *reader->patchers, error));
        reader->patchers = memory;
        *tensor = *stored;
        tensor->read = reader_read;
        tensor->user = reader;
        *out = tensor;
    }
    return LORA_OK;
}

static lora_status step_open(patch_step *step,
                             lora__patcher *patcher,
                             const lora__effect *effect,
                             size_t patch,
                             lora_error *error)
{
    const lora__patch *of = &patcher->patched->patches[patch];
    lora__rows_how how;

    step->adapter = of->bind->adapter;
    step->effect = effect;
    step->module = &step->adapter->modules[effect->module];
    step->replaces = (step->module->needs & effect->part) != 0;
    memset(&how, 0, sizeof how);
    how.part = effect->part;
    how.dtype = LORA_DTYPE_F32;
    how.strength = lora__patch_strength(of, effect->module);
    how.rule = patcher->patched->rule;
    how.dora = patcher->patched->dora;
    how.weights = step->replaces;
    if (step->replaces) {
        how.base = &step->base;
        TRY(step_base(step, patcher, &of->bind->items[effect->module], patch,
                      error));
    }
    return lora__rows_create_how(&step->state, step->adapter, step->module,
                                 &how, error);
}

static void step_close(patch_step *step, lora_context *context)
{
    lora__rows_destroy(&step->state);
    for (size_t i = 0; i < LORA__COUNT(step->readers); i++) {
        reader_close(&step->readers[i], context);
    }
    lora__free(context, step->whole, step->whole_bytes, LORA__ALIGN_NUMERIC);
}

/* Put a step's rows in the place of others, or add them. */
static void step_put(const patch_step *step,
                     const lora__patcher *patcher,
                     float *out,
                     const float *rows,
                     size_t count)
{
    if (step->replaces) {
        memcpy(out, rows, count * sizeof *out);
    } else {
        patcher->kernels->axpy_f32(out, rows, 1.0F, count);
    }
}

/* The module's rows are the tensor's columns: they are all there at once. */
static lora_status step_turned(float *out,
                               patch_step *step,
                               lora__patcher *patcher,
                               size_t first,
                               size_t count,
                               lora_error *error)
{
    const size_t rows = step->state.rows;
    const size_t columns = step->state.cols;

    if (step->whole == NULL) {
        TRY(reader_room(&step->whole, &step->whole_bytes, patcher->context,
                        rows, columns, error));
        TRY(lora__rows_read(&step->state, step->module, 0, rows, step->whole,
                            error));
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t r = 0; r < rows; r++) {
            float value = step->whole[r * columns + first + i];
            out[i * rows + r] =
                step->replaces ? value : out[i * rows + r] + value;
        }
    }
    return LORA_OK;
}

static lora_status step_apply(float *out,
                              patch_step *step,
                              lora__patcher *patcher,
                              size_t first,
                              size_t count,
                              lora_error *error)
{
    const lora__effect *effect = step->effect;
    const size_t columns = (size_t)patcher->hold.columns;

    if (effect->turned) {
        return step_turned(out, step, patcher, first, count, error);
    }
    for (size_t s = 0; s < effect->span_count; s++) {
        const lora__span *span = &effect->spans[s];
        const size_t from = first > span->begin ? first : span->begin;
        const size_t to = first + count < span->end ? first + count : span->end;
        const size_t row = span->first + (from - span->begin);
        if (from >= to) {
            continue;
        }
        TRY(reader_room(&patcher->rows, &patcher->row_bytes, patcher->context,
                        to - from, columns, error));
        TRY(lora__rows_read(&step->state, step->module, row, row + (to - from),
                            patcher->rows, error));
        step_put(step, patcher, out + (from - first) * columns, patcher->rows,
                 (to - from) * columns);
    }
    return LORA_OK;
}

/* ---- patchers ---------------------------------------------------------- */

static lora_status patcher_fill(lora__patcher *patcher,
                                size_t patch_count,
                                size_t tensor,
                                lora_error *error)
{
    const lora__patched *patched = patcher->patched;

    for (size_t p = 0; p < patch_count; p++) {
        const lora__patch *patch = &patched->patches[p];
        size_t count;
        const lora__effect *const *effects =
            patch_effects(patch, tensor, &count);
        for (size_t i = 0; i < count; i++) {
            if (lora__patch_strength(patch, effects[i]->module) != 0.0) {
                TRY(step_open(&patcher->steps[patcher->step_count++], patcher,
                              effects[i], p, error));
            }
        }
    }
    return LORA_OK;
}

static lora_status patcher_open_some(lora__patcher **out,
                                     const lora__patched *patched,
                                     size_t patch_count,
                                     size_t tensor,
                                     lora_error *error)
{
    lora_context *context = patched->model->context;
    lora__patcher *patcher;
    size_t steps = patched_count(patched, patch_count, tensor);
    void *memory;
    lora_status status;

    TRY(lora__alloc_zeroed(&memory, context, 1, sizeof *patcher, error));
    patcher = memory;
    patcher->patched = patched;
    patcher->context = context;
    patcher->kernels = lora__kernels_get(lora__context_get(context)->cpu);
    TRY_OR_DONE(lora__checkpoint_hold(&patcher->hold, patched->model, tensor,
                                      NULL, error));
    TRY_OR_DONE(lora__alloc_zeroed(&memory, context, steps + 1,
                                   sizeof *patcher->steps, error));
    patcher->steps = memory;
    patcher->step_most = steps + 1;
    status = patcher_fill(patcher, patch_count, tensor, error);
done:
    if (status != LORA_OK) {
        lora__patcher_close(patcher);
        return status;
    }
    *out = patcher;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__patcher_open(lora__patcher **out,
                                            const lora__patched *patched,
                                            size_t tensor,
                                            lora_error *error)
{
    *out = NULL;
    return patcher_open_some(out, patched, patched->patch_count, tensor, error);
}

LORA_PRIVATE lora_status lora__patcher_read(float *out,
                                            lora__patcher *patcher,
                                            size_t first,
                                            size_t count,
                                            lora_error *error)
{
    const lora__patched *patched = patcher->patched;

    if (patched->alone) {
        memset(out, 0, count * (size_t)patcher->hold.columns * sizeof *out);
    } else if (patched->source != NULL) {
        TRY(patched->source(out, patched->source_user, patcher->hold.tensor,
                            first, count, error));
    } else {
        TRY(lora__checkpoint_read_rows(out, LORA_DTYPE_F32, patched->model,
                                       &patcher->hold, first, count, error));
    }
    for (size_t i = 0; i < patcher->step_count; i++) {
        TRY(step_apply(out, &patcher->steps[i], patcher, first, count, error));
    }
    return LORA_OK;
}

LORA_PRIVATE void lora__patcher_close(lora__patcher *patcher)
{
    lora_context *context;

    if (patcher == NULL) {
        return;
    }
    context = patcher->context;
    for (size_t i = 0; i < patcher->step_count; i++) {
        step_close(&patcher->steps[i], context);
    }
    lora__free(context, patcher->steps,
               patcher->step_most * sizeof *patcher->steps, LORA__ALIGN);
    lora__free(context, patcher->rows, patcher->row_bytes, LORA__ALIGN_NUMERIC);
    lora__free(context, patcher, sizeof *patcher, LORA__ALIGN);
}
