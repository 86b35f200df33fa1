/* Frozen matrices of a file against those of a recipe, and of other orders
 * that it may have been meant to be.
 */
#include "op/light.h"

#include "core/text.h"
#include "op/report.h"

#include <math.h>
#include <string.h>

/* Orders that programs draw in, and what of the recipe they explain. */
static const struct {
    const char *draws;
    const char *meaning;
} light_verify_orders[] = {
    {"down_aux,down,up_aux", "a training whose up begins as 0 draws down "
                             "between the frozen matrices"},
    {"down_aux,up,up_aux", "a training whose down begins as 0 draws up between "
                           "the frozen matrices"},
    {"down_aux,up_aux", "a training whose up and down, or their product, begin "
                        "as 0 draws the frozen matrices alone"},
    {"down_aux,down,up,up_aux", "a training that draws all four matrices"},
    {"down_aux:linear,down:linear,up:linear,up_aux:linear,down_aux,down,up_aux",
     "the seed was set before the layers were made, and these draw too"},
    {"down_aux:linear,down:linear,up:linear,up_aux:linear,down_aux,up,up_aux",
     "the seed was set before the layers were made, and these draw too"},
    {"down_aux:linear,down:linear,up:linear,up_aux:linear,down_aux,up_aux",
     "the seed was set before the layers were made, and these draw too"},
    {"down_aux:linear,down_up:linear,up_aux:linear,down_aux,up_aux",
     "the seed was set before the layers were made, and these draw too"},
    {"down_aux:xavier,up_aux:xavier", "Xavier's initialisation"},
    {"down_aux:normal,down:normal,up_aux:normal", "normal numbers"},
    {"down_aux:normal,up_aux:normal", "normal numbers"},
};

typedef struct light_verify {
    const lora_adapter *adapter;
    lora_report *report;
    size_t compared;
    size_t differing;
} light_verify;

/* A frozen matrix that is stored. */
typedef struct light_stored {
    const lora__entry *entry;
    const char *role;
    int is_up;
    size_t count;
    double *values;
    float *drawn;
    double bound; /* of what rounding makes */
} light_stored;

/* What storing in a type, and QR in float32, may change of the largest. */
static double light_verify_bound(lora_dtype dtype, double largest)
{
    const double unit = largest > 1.0 ? largest : 1.0;

    switch (dtype) {
    case LORA_DTYPE_F64:
    case LORA_DTYPE_F32:
        return 2e-5 * unit;
    case LORA_DTYPE_F16:
        return (2e-5 + 0x1p-11) * unit;
    case LORA_DTYPE_BF16:
        return (2e-5 + 0x1p-8) * unit;
    default:
        return (2e-5 + 0x1p-3) * unit;
    }
}

/* The largest difference to what an order draws; infinite where it does not
 * draw the matrix. */
static lora_status light_verify_compare(double *out,
                                        light_stored *stored,
                                        const lora__light_order *order,
                                        uint64_t seed,
                                        const lora__light_sizes *sizes,
                                        lora_context *context,
                                        lora_error *error)
{
    const lora__light_wanted wanted = {stored->is_up ? NULL : stored->drawn,
                                       NULL, NULL,
                                       stored->is_up ? stored->drawn : NULL};
    double largest = 0.0;

    TRY(lora__light_draw(&wanted, order, seed, sizes, context, error));
    for (size_t i = 0; i < stored->count; i++) {
        const double off = fabs(stored->values[i] - (double)stored->drawn[i]);
        largest = off > largest || off != off ? off : largest;
    }
    *out = largest;
    return LORA_OK;
}

/* The first of the known orders that draws the matrix, or NULL. */
static lora_status light_verify_explain(size_t *out,
                                        light_stored *stored,
                                        uint64_t seed,
                                        const lora__light_sizes *sizes,
                                        lora_context *context,
                                        lora_error *error)
{
    for (size_t i = 0; i < LORA__COUNT(light_verify_orders); i++) {
        lora__light_order order;
        double off;

        TRY(lora__light_read_order(&order, light_verify_orders[i].draws,
                                   error));
        TRY(light_verify_compare(&off, stored, &order, seed, sizes, context,
                                 error));
        if (off <= stored->bound) {
            *out = i;
            return LORA_OK;
        }
    }
    *out = SIZE_MAX;
    return LORA_OK;
}

static lora_status light_verify_problem(light_verify *job,
                                        const lora__module *module,
                                        const light_stored *stored,
                                        double off,
                                        size_t found,
                                        uint64_t seed,
                                        lora_error *error)
{
    char number[40];

    number[lora__text_from_double(number, floor(off * 1e6 + 0.5) / 1e6)] = '\0';
    job->differing++;
    if (found == SIZE_MAX) {
        return lora__problems_add(
            &job->report->problems, LORA_SEVERITY_ERROR, LORA_ERROR_KEY,
            "light_differs", module->name, error,
            "%s is not what the recipe draws (off by %s), nor what any usual "
            "order draws with seed %llu",
            stored->role, number, (unsigned long long)seed);
    }
    return lora__problems_add(
        &job->report->problems, LORA_SEVERITY_ERROR, LORA_ERROR_KEY,
        "light_differs", module->name, error,
        "%s is not what the recipe draws (off by %s) but what seed %llu gives "
        "with the draws %s: %s",
        stored->role, number, (unsigned long long)seed,
        light_verify_orders[found].draws, light_verify_orders[found].meaning);
}

static lora_status light_verify_stored(light_verify *job,
                                       const lora__module *module,
                                       light_stored *stored,
                                       const lora__light_order *order,
                                       const lora__light_sizes *sizes,
                                       lora_error *error)
{
    lora_context *context = job->adapter->context;
    lora__buffer *json = &job->report->json;
    uint64_t seed;
    double off;
    size_t found = SIZE_MAX;
    const char *draws = job->adapter->light->draws;

    TRY(lora__light_seed(&seed, job->adapter, module, error));
    TRY(light_verify_compare(&off, stored, order, seed, sizes, context, error));
    if (!(off <= stored->bound)) {
        TRY(light_verify_explain(&found, stored, seed, sizes, context, error));
        TRY(light_verify_problem(job, module, stored, off, found, seed, error));
        draws = found == SIZE_MAX ? NULL : light_verify_orders[found].draws;
    }
    lora__buffer_puts(json, job->compared++ == 0 ? "{" : ",{");
    lora__report_put_string(json, "name", module->name);
    lora__report_put_string(json, "matrix", stored->role);
    lora__report_put_bool(json, "same", off <= stored->bound);
    lora__report_put_number(json, "difference", off);
    lora__report_put_string(json, "draws", draws);
    lora__buffer_putc(json, '}');
    return LORA_OK;
}

/* Load a matrix, with room for one that is drawn. */
static lora_status light_verify_load(light_stored *stored,
                                     const lora_adapter *adapter,
                                     size_t index,
                                     lora_error *error)
{
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(adapter->context)->cpu);
    const size_t bytes = (size_t)stored->entry->bytes;
    void *raw = lora__alloc(adapter->context, bytes, LORA__ALIGN_NUMERIC);
    double largest = 0.0;
    lora_status status;

    if (raw == NULL) {
        return lora__fail_memory(error, bytes);
    }
    TRY_OR_DONE(
        lora__container_read(adapter->container, index, 0, raw, bytes, error));
    TRY_OR_DONE(lora__convert_to_f64(stored->values, raw, stored->entry->dtype,
                                     stored->count, kernels, error));
    for (size_t i = 0; i < stored->count; i++) {
        largest = fabs(stored->values[i]) > largest ? fabs(stored->values[i])
                                                    : largest;
    }
    stored->bound = light_verify_bound(stored->entry->dtype, largest);
done:
    lora__free(adapter->context, raw, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

static lora_status light_verify_role(light_verify *job,
                                     const lora__module *module,
                                     lora__role role,
                                     const lora__light_sizes *sizes,
                                     lora_error *error)
{
    const lora_adapter *adapter = job->adapter;
    const lora__member *member = lora__module_find(module, role);
    light_stored stored;
    size_t bytes;
    lora_status status;

    if (member == NULL) {
        return LORA_OK;
    }
    memset(&stored, 0, sizeof stored);
    stored.entry = &adapter->container->entries[member->entry];
    stored.role = lora__role_name(role);
    stored.is_up = role == LORA__ROLE_LIGHT_UP_AUX;
    if (!lora__u64_to_size(stored.entry->elements, &stored.count) ||
        !lora__mul_size(stored.count, sizeof(double) + sizeof(float), &bytes)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    stored.values = lora__alloc(adapter->context, bytes, LORA__ALIGN_NUMERIC);
    if (stored.values == NULL) {
        return lora__fail_memory(error, bytes);
    }
    stored.drawn = (float *)(stored.values + stored.count);
    TRY_OR_DONE(light_verify_load(&stored, adapter, member->entry, error));
    status = light_verify_stored(job, module, &stored, &adapter->light->order,
                                 sizes, error);
done:
    lora__free(adapter->context, stored.values, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

static lora_status light_verify_modules(light_verify *job, lora_error *error)
{
    const lora_adapter *adapter = job->adapter;

    if (adapter->light == NULL) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path,
                          "the file says no recipe: which one is to be "
                          "compared?");
    }
    lora__buffer_puts(&job->report->json, "{\"matrices\":[");
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        lora__light_sizes sizes;

        if (!lora__light_is(module) || module->status != LORA_OK) {
            continue;
        }
        if (module->lacks != NULL) {
            TRY(lora__problems_add(&job->report->problems, LORA_SEVERITY_ERROR,
                                   LORA_ERROR_KEY, "light_incomplete",
                                   module->name, error, "%s", module->lacks));
            continue;
        }
        lora__light_sizes_of(&sizes, adapter, module);
        TRY(light_verify_role(job, module, LORA__ROLE_LIGHT_DOWN_AUX, &sizes,
                              error));
        TRY(light_verify_role(job, module, LORA__ROLE_LIGHT_UP_AUX, &sizes,
                              error));
        TRY(lora__progress(adapter->context, "verify", m + 1,
                           adapter->module_count, error));
    }
    return job->compared > 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            adapter->container->path,
                            "no frozen matrices are stored in it: there is "
                            "nothing to compare");
}

static lora_status light_verify_run(light_verify *job, lora_error *error)
{
    lora__buffer *json = &job->report->json;

    TRY(light_verify_modules(job, error));
    lora__buffer_puts(json, "],\"totals\":{");
    lora__report_put_u64(json, "compared", job->compared);
    lora__report_put_u64(json, "differing", job->differing);
    lora__buffer_puts(json, "},\"recipe\":");
    lora__light_put(json, job->adapter->light);
    lora__report_put_problems(job->report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(job->report, error);
}

LORA_API lora_status lora_light_verify(lora_report **out_report,
                                       const lora_adapter *adapter,
                                       const lora_light_recipe *recipe,
                                       lora_error *error)
{
    light_verify job;
    lora_adapter *told = NULL;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out_report != NULL, error);
    *out_report = NULL;
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    if (recipe != NULL) {
        TRY(lora__light_attach(&told, adapter, recipe, error));
    }
    job.adapter = told == NULL ? adapter : told;
    TRY_OR_DONE(lora__report_create(&job.report, adapter->context, error));
    status = light_verify_run(&job, error);
    if (status == LORA_OK) {
        *out_report = job.report;
        job.report = NULL;
    }
done:
    lora_report_destroy(job.report);
    lora_adapter_destroy(told);
    return status;
}
