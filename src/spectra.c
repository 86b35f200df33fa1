/* Singular values of an adapter's layers: see spectra.h. */
#include "spectra.h"

#include "input.h"
#include "say.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int spectra_by_value(const void *one, const void *other)
{
    double a = *(const double *)one;
    double b = *(const double *)other;
    return (a > b) - (a < b);
}

/* The largest first; layers of one size in the order of their names. */
static int spectra_by_size(const void *one, const void *other)
{
    const spectra_layer *a = one;
    const spectra_layer *b = other;
    int order = (a->sigma[0] < b->sigma[0]) - (a->sigma[0] > b->sigma[0]);
    return order != 0 ? order : strcmp(a->name, b->name);
}

/* The quantile at `share` of sorted values, as numpy has it by default. */
static double spectra_quantile(const double *sorted, size_t count, double share)
{
    double at = share * (double)(count - 1);
    size_t below = (size_t)at;
    double part = at - (double)below;
    return below + 1 < count
               ? sorted[below] + part * (sorted[below + 1] - sorted[below])
               : sorted[count - 1];
}

/* Sort values and store their quantiles at `index`. */
static void
spectra_store(double *const *out, size_t index, double *values, size_t count)
{
    static const double shares[SPECTRA_QUANTILES] = {0.0,  0.1, 0.25, 0.5,
                                                     0.75, 0.9, 1.0};
    qsort(values, count, sizeof *values, spectra_by_value);
    for (size_t i = 0; i < SPECTRA_QUANTILES; i++) {
        out[i][index] = spectra_quantile(values, count, shares[i]);
    }
}

/* The numbers of one layer; the largest value is above 0. Values are divided
 * by it, so that no square overflows. */
static void spectra_measure(spectra_layer *layer)
{
    double largest = layer->sigma[0];
    double sum = 0.0;
    double tail = 0.0;
    double entropy = 0.0;
    layer->lost = app_alloc(layer->count + 1, sizeof *layer->lost);
    for (size_t k = layer->count; k-- > 0;) {
        double part = layer->sigma[k] / largest;
        tail += part * part;
        sum += part;
        layer->lost[k] = tail;
    }
    for (size_t k = 0; k < layer->count; k++) {
        double share = layer->sigma[k] / largest / sum;
        layer->lost[k] /= tail;
        entropy -= share > 0.0 ? share * log(share) : 0.0;
    }
    layer->effective = exp(entropy);
    layer->energy = tail;
}

/* The canonical name of a module. The report leaves modules out, so that an
 * index of its own is none of the adapter. */
static const char *spectra_target(const lora_adapter *adapter, const char *name)
{
    size_t index;
    lora_module_info info;
    info.struct_size = sizeof info;
    return lora_adapter_find_module(&index, adapter, name, NULL) == LORA_OK &&
                   lora_adapter_get_module(&info, adapter, index, NULL) ==
                       LORA_OK
               ? info.target
               : name;
}

/* Take over the layers of the report. */
static void spectra_collect(spectra *set)
{
    size_t count = lora_report_module_count(set->report);
    set->layers = app_alloc(count, sizeof *set->layers);
    set->shortest = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        lora_report_module module;
        spectra_layer *layer = &set->layers[set->count];
        module.struct_size = sizeof module;
        if (lora_report_get_module(&module, set->report, i, NULL) != LORA_OK ||
            module.sigma_count == 0) {
            continue;
        }
        if (!(module.sigma[0] > 0.0)) {
            set->zero_count++;
            continue;
        }
        layer->name = module.name;
        layer->target = spectra_target(set->adapter, module.name);
        layer->sigma = module.sigma;
        layer->count = module.sigma_count;
        spectra_measure(layer);
        set->longest =
            layer->count > set->longest ? layer->count : set->longest;
        set->shortest =
            layer->count < set->shortest ? layer->count : set->shortest;
        set->count++;
    }
    if (set->count > 0) {
        qsort(set->layers, set->count, sizeof *set->layers, spectra_by_size);
    }
}

/* What the layers say together. */
static void spectra_sum_up(spectra *set)
{
    double *values = app_alloc(set->count, sizeof *values);
    double total = 0.0;
    set->lost_all = app_alloc(set->longest + 1, sizeof *set->lost_all);
    for (size_t i = 0; i < SPECTRA_QUANTILES; i++) {
        set->sigma[i] = app_alloc(set->longest, sizeof *set->sigma[i]);
        set->lost[i] = app_alloc(set->longest + 1, sizeof *set->lost[i]);
    }
    for (size_t i = 0; i < set->count; i++) {
        double size = set->layers[i].sigma[0] / set->layers[0].sigma[0];
        set->layers[i].energy *= size * size;
        total += set->layers[i].energy;
    }
    for (size_t k = 0; k <= set->longest; k++) {
        size_t there = 0;
        for (size_t i = 0; i < set->count; i++) {
            const spectra_layer *layer = &set->layers[i];
            if (k < layer->count) {
                values[there++] = layer->sigma[k];
            }
        }
        if (there > 0) {
            spectra_store(set->sigma, k, values, there);
        }
        for (size_t i = 0; i < set->count; i++) {
            const spectra_layer *layer = &set->layers[i];
            values[i] = k < layer->count ? layer->lost[k] : 0.0;
            set->lost_all[k] += values[i] * (layer->energy / total);
        }
        spectra_store(set->lost, k, values, set->count);
    }
    free(values);
}

/* All values and no cut: a rule that no layer's rank is above. */
static lora_status
spectra_decompose(app_state *app, spectra *set, lora_error *error)
{
    const lora_rank_rule all = {LORA_RANK_FIXED, INT32_MAX, 0.0};
    lora_adapter_resize_options options;
    lora_adapter *same = NULL;
    lora_adapter_resize_options_init(&options, sizeof options);
    options.skip_bad = app->common.skip_bad != 0;
    lora_status status = lora_adapter_resize(&same, &set->report, set->adapter,
                                             &all, &options, error);
    lora_adapter_destroy(same);
    return status;
}

int spectra_read(app_state *app, spectra *out, const char *path)
{
    lora_adapter_info info;
    lora_error error;
    say_phase phase = SAY_READING;
    memset(out, 0, sizeof *out);
    out->path = path;
    lora_error_init(&error, sizeof error);
    lora_status status = input_open(app, &out->adapter, path, &error);
    if (status == LORA_OK) {
        phase = SAY_WORKING;
        info.struct_size = sizeof info;
        status = lora_adapter_get_info(&info, out->adapter, &error);
    }
    if (status == LORA_OK) {
        snprintf(out->family, sizeof out->family, "%s", info.family);
        status = spectra_decompose(app, out, &error);
    }
    progress_clear(&app->bar);
    if (status != LORA_OK) {
        return say_failure(app, phase, path, status, &error);
    }
    spectra_collect(out);
    if (out->count == 0) {
        say_error(
            app, path,
            out->zero_count > 0
                ? "all its layers are zero, there is nothing to draw"
                : "no layer has factors, so there are no singular values");
        return EXIT_FAILED;
    }
    spectra_sum_up(out);
    return 0;
}

void spectra_release(spectra *set)
{
    for (size_t i = 0; i < set->count; i++) {
        free(set->layers[i].lost);
    }
    for (size_t i = 0; i < SPECTRA_QUANTILES; i++) {
        free(set->sigma[i]);
        free(set->lost[i]);
    }
    free(set->lost_all);
    free(set->layers);
    lora_report_destroy(set->report);
    lora_adapter_destroy(set->adapter);
    memset(set, 0, sizeof *set);
}
