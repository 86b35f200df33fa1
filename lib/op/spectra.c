/* Decompositions of all modules of an adapter, kept for several results. */
#include "op/spectra.h"

#include <math.h>
#include <string.h>

/* Decompose the factors that are there, unless that is done. */
static lora_status spectra_work_begin(lora__spectra_work *work,
                                      const lora__svd *kept,
                                      lora_error *error)
{
    lora__factors *f = &work->factors;
    lora_status status;

    work->input.rows = f->rows;
    work->input.cols = f->cols;
    work->input.rank = f->rank;
    work->input.up_t = f->up_t;
    work->input.down = f->down;
    if (f->sigma != NULL) { /* they come decomposed */
        work->known.count = f->rank;
        work->known.sigma = f->sigma;
        work->svd = &work->known;
        return LORA_OK;
    }
    if (kept != NULL && kept->state != NULL) {
        work->svd = kept;
        return LORA_OK;
    }
    status = lora__svd_create(&work->made, f->context, &work->input, error);
    if (status != LORA_OK) {
        lora__factors_destroy(f);
        return status;
    }
    work->svd = &work->made;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__spectra_open(lora__spectra_work *out,
                                            const lora_spectra *spectra,
                                            size_t index,
                                            lora_error *error)
{
    const lora__module inner =
        lora__module_inner(&spectra->adapter->modules[index]);

    memset(out, 0, sizeof *out);
    TRY(lora__module_factors(&out->factors, spectra->adapter, &inner, error));
    return spectra_work_begin(out, &spectra->layers[index].svd, error);
}

LORA_PRIVATE lora_status lora__spectra_take(lora__spectra_work *out,
                                            lora__factors *factors,
                                            lora_error *error)
{
    memset(out, 0, sizeof *out);
    out->factors = *factors;
    memset(factors, 0, sizeof *factors);
    return spectra_work_begin(out, NULL, error);
}

LORA_PRIVATE void lora__spectra_close(lora__spectra_work *work)
{
    lora__svd_destroy(&work->made, work->factors.context);
    lora__factors_destroy(&work->factors);
}

LORA_PRIVATE lora_status lora__spectra_truncate(double *up_t,
                                                double *down,
                                                const lora__spectra_work *work,
                                                size_t k,
                                                lora_error *error)
{
    const lora__factors *f = &work->factors;

    if (f->sigma == NULL) {
        return lora__svd_truncate(up_t, down, work->svd, &work->input, k,
                                  f->context, error);
    }
    memcpy(up_t, f->up_t, k * f->rows * sizeof *up_t);
    memcpy(down, f->down, k * f->cols * sizeof *down);
    return LORA_OK;
}

LORA_PRIVATE lora__spectrum lora__spectra_read(const lora__spectra_work *work,
                                               double *sigma)
{
    const lora__factors *f = &work->factors;
    lora__spectrum spectrum;

    spectrum.sigma = sigma;
    spectrum.count = work->svd->count;
    spectrum.full = f->rows < f->cols ? f->rows : f->cols;
    spectrum.scale = fabs(f->scale);
    for (size_t i = 0; i < spectrum.count; i++) {
        sigma[i] = work->svd->sigma[i] * spectrum.scale;
    }
    return spectrum;
}

LORA_PRIVATE lora_status lora__spectra_begin(lora_spectra *out,
                                             const lora_adapter *adapter,
                                             lora_error *error)
{
    void *memory;

    memset(out, 0, sizeof *out);
    TRY(lora__alloc_zeroed(&memory, adapter->context, adapter->module_count,
                           sizeof *out->layers, error));
    out->adapter = adapter;
    out->layers = memory;
    return LORA_OK;
}

LORA_PRIVATE void lora__spectra_end(lora_spectra *spectra)
{
    const lora_adapter *adapter = spectra->adapter;

    if (spectra->layers == NULL) {
        return;
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        lora__decomposed *layer = &spectra->layers[m];
        double *sigma = (double *)(uintptr_t)layer->spectrum.sigma;
        lora__svd_destroy(&layer->svd, adapter->context);
        lora__free(adapter->context, sigma,
                   layer->spectrum.count * sizeof *sigma, LORA__ALIGN);
    }
    lora__free(adapter->context, spectra->layers,
               adapter->module_count * sizeof *spectra->layers, LORA__ALIGN);
    spectra->layers = NULL;
}

/* Whether to keep what can be made again: not into the second half of the
 * memory that is allowed, which other work needs. */
static int spectra_keeps(lora_context *context)
{
    uint64_t limit = lora__context_get(context)->limits.memory_bytes;

    return limit == 0 || lora_context_memory_live(context) <= limit / 2;
}

static lora_status
spectra_decompose(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    lora_spectra *spectra = arg;
    lora_context *context = spectra->adapter->context;
    const lora__module *module = &spectra->adapter->modules[index];
    const lora__module inner = lora__module_inner(module);
    lora__decomposed *layer = &spectra->layers[index];
    lora__spectra_work work;
    lora_error found;
    lora_status status;
    void *sigma;

    (void)worker;
    if (lora__module_has_factors(&inner, NULL) != LORA_OK) {
        return LORA_OK;
    }
    lora_error_init(&found, sizeof found);
    status = lora__spectra_open(&work, spectra, index, &found);
    if (status == LORA_ERROR_NONFINITE) {
        layer->is_nonfinite = 1;
        return LORA_OK;
    }
    if (status != LORA_OK) {
        lora__error_merge(error, &found);
        lora__error_set_subject(error, module->name);
        return status;
    }
    status = lora__alloc_zeroed(&sigma, context, work.svd->count,
                                sizeof(double), error);
    if (status == LORA_OK) {
        layer->spectrum = lora__spectra_read(&work, sigma);
        if (spectra_keeps(context)) {
            layer->svd = work.made;
            memset(&work.made, 0, sizeof work.made);
        }
    }
    lora__spectra_close(&work);
    return status;
}

LORA_PRIVATE lora_status lora__spectra_complete(lora_spectra *spectra,
                                                lora_error *error)
{
    if (spectra->is_complete) {
        return LORA_OK;
    }
    TRY(lora__run_jobs(spectra->adapter->context, "decompose",
                       spectra_decompose, spectra,
                       spectra->adapter->module_count, error));
    spectra->is_complete = 1;
    return LORA_OK;
}

LORA_API lora_status lora_spectra_create(lora_spectra **out,
                                         lora_adapter *adapter,
                                         lora_error *error)
{
    lora_spectra *spectra;
    void *memory;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(adapter != NULL, error);
    TRY(lora__alloc_zeroed(&memory, adapter->context, 1, sizeof *spectra,
                           error));
    spectra = memory;
    status = lora__spectra_begin(spectra, adapter, error);
    if (status == LORA_OK) {
        status = lora__spectra_complete(spectra, error);
    }
    if (status != LORA_OK) {
        lora__spectra_end(spectra);
        lora__free(adapter->context, spectra, sizeof *spectra, LORA__ALIGN);
        return status;
    }
    spectra->owned = lora_adapter_retain(adapter);
    *out = spectra;
    return LORA_OK;
}

LORA_API void lora_spectra_destroy(lora_spectra *spectra)
{
    lora_adapter *adapter;

    if (spectra != NULL) {
        adapter = spectra->owned;
        lora__spectra_end(spectra);
        lora__free(adapter->context, spectra, sizeof *spectra, LORA__ALIGN);
        lora_adapter_destroy(adapter);
    }
}
