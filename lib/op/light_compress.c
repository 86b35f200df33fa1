/* LoRA to Light-LoRA, by least squares.
 *
 * With f = scale * up down, U = up_aux, D = down_aux the nearest is U X Y D,
 * X = U^+ up, Y = down D^+, in the Frobenius norm: projections on the spaces
 * that U and D span, each side for itself.
 */
#include "op/light.h"

#include "linalg/small.h"
#include "op/factor_error.h"
#include "op/factor_split.h"
#include "op/remake.h"

#include <math.h>
#include <string.h>

typedef struct light_compress {
    lora__remake remake;
    lora_light_options options;
    lora__light *light;
} light_compress;

/* One module: the basis of a side has its vectors in rows. */
typedef struct light_side {
    size_t count;  /* vectors of the basis: a or b */
    size_t length; /* of each: cols or rows */
    double *basis; /* [count, length] */
    double *inner; /* [rank, count]: what is stored, up transposed */
    double *outer; /* [rank, length]: inner times basis */
} light_side;

typedef struct light_module {
    lora__factors f;
    lora__light_sizes sizes;
    light_side up;
    light_side down;
    lora_dtype dtype;
    double baked; /* the scale, where there is no place for alpha, or an alpha
                   * of 0 would mean the rank; else 1 */
    double left;  /* what is left to alpha */
} light_module;

/* ---- least squares ----------------------------------------------------- */

static double *light_compress_block(light_compress *job, size_t count)
{
    size_t bytes;

    return lora__mul_size(count, sizeof(double), &bytes)
               ? lora__alloc(job->remake.adapter->context, bytes,
                             LORA__ALIGN_NUMERIC)
               : NULL;
}

static void
light_compress_free(light_compress *job, double *block, size_t count)
{
    lora__free(job->remake.adapter->context, block, count * sizeof *block,
               LORA__ALIGN_NUMERIC);
}

/* inner = x basis^+ by the SVD of the basis, sum of sigma u v^T: directions
 * that are rounding are left out. */
static lora_status light_compress_solve(light_compress *job,
                                        light_side *side,
                                        const double *x,
                                        size_t rank,
                                        lora_error *error)
{
    const size_t k = side->count < side->length ? side->count : side->length;
    const size_t total = k * (1 + side->count + side->length);
    double *sigma = light_compress_block(job, total);
    double *u;
    double *v;
    lora_status status;

    if (sigma == NULL) {
        return lora__fail_memory(error, total * sizeof *sigma);
    }
    u = sigma + k;
    v = u + k * side->count;
    status = lora__small_truncate(sigma, u, v, side->basis, side->count,
                                  side->length, k, job->remake.adapter->context,
                                  error);
    memset(side->inner, 0, rank * side->count * sizeof *side->inner);
    for (size_t j = 0; status == LORA_OK && j < k; j++) {
        if (sigma[j] <= 1e-12 * sigma[0]) {
            break;
        }
        for (size_t i = 0; i < rank; i++) {
            const double along = job->remake.kernels->dot_f64(
                x + i * side->length, v + j * side->length, side->length);
            job->remake.kernels->axpy_f64(
                side->inner + i * side->count, u + j * side->count,
                along / (sigma[j] * sigma[j]), side->count);
        }
    }
    light_compress_free(job, sigma, total);
    return status;
}

/* Numbers rounded to the type that they are written in. */
static lora_status light_compress_round(double *values,
                                        size_t count,
                                        lora_dtype dtype,
                                        const lora__kernels *kernels,
                                        lora_error *error)
{
    unsigned char chunk[256 * sizeof(double)];

    for (size_t done = 0; done < count; done += 256) {
        const size_t step = count - done < 256 ? count - done : 256;
        TRY(lora__convert_from_f64(chunk, dtype, values + done, step, kernels,
                                   error));
        TRY(lora__convert_to_f64(values + done, chunk, dtype, step, kernels,
                                 error));
    }
    return LORA_OK;
}

/* The draw that a frozen matrix comes from. */
static const lora__light_step *light_compress_draw(const lora__light *light,
                                                   lora__role matrix)
{
    const lora__light_step *found = NULL;

    for (size_t i = 0; i < light->order.count; i++) {
        if (light->order.draws[i].matrix == matrix) {
            found = &light->order.draws[i];
        }
    }
    return found;
}

static lora_status light_compress_side(light_compress *job,
                                       light_module *m,
                                       int is_up,
                                       lora_error *error)
{
    light_side *side = is_up ? &m->up : &m->down;
    const double *x = is_up ? m->f.up_t : m->f.down;
    const size_t rank = m->f.rank;
    const lora__light_step *draw =
        light_compress_draw(job->light, is_up ? LORA__ROLE_LIGHT_UP_AUX
                                              : LORA__ROLE_LIGHT_DOWN_AUX);

    if (draw->init == LORA__LIGHT_ORTHOGONAL && draw->value != 0.0 &&
        side->count <= side->length) {
        for (size_t i = 0; i < rank; i++) {
            for (size_t j = 0; j < side->count; j++) {
                side->inner[i * side->count + j] =
                    job->remake.kernels->dot_f64(x + i * side->length,
                                                 side->basis + j * side->length,
                                                 side->length) /
                    (draw->value * draw->value);
            }
        }
    } else {
        TRY(light_compress_solve(job, side, x, rank, error));
    }
    if (is_up) {
        job->remake.kernels->scale_f64(side->inner, m->baked,
                                       rank * side->count);
    }
    TRY(light_compress_round(side->inner, rank * side->count, m->dtype,
                             job->remake.kernels, error));
    memset(side->outer, 0, rank * side->length * sizeof *side->outer);
    for (size_t i = 0; i < rank; i++) {
        for (size_t j = 0; j < side->count; j++) {
            job->remake.kernels->axpy_f64(
                side->outer + i * side->length, side->basis + j * side->length,
                side->inner[i * side->count + j], side->length);
        }
    }
    return LORA_OK;
}

/* ---- one module -------------------------------------------------------- */

static size_t light_side_total(const light_side *side, size_t rank)
{
    return side->count * side->length + rank * (side->count + side->length);
}

static lora_status light_side_begin(light_compress *job,
                                    light_side *side,
                                    size_t count,
                                    size_t length,
                                    size_t rank,
                                    lora_error *error)
{
    size_t total;

    side->count = count;
    side->length = length;
    if (!lora__mul_size(count + rank, length + count, &total)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    total = light_side_total(side, rank);
    side->basis = light_compress_block(job, total);
    if (side->basis == NULL) {
        return lora__fail_memory(error, total * sizeof(double));
    }
    side->inner = side->basis + count * length;
    side->outer = side->inner + rank * count;
    return LORA_OK;
}

static void light_compress_end(light_compress *job, light_module *m)
{
    if (m->up.basis != NULL) {
        light_compress_free(job, m->up.basis,
                            light_side_total(&m->up, m->f.rank));
    }
    if (m->down.basis != NULL) {
        light_compress_free(job, m->down.basis,
                            light_side_total(&m->down, m->f.rank));
    }
    lora__factors_destroy(&m->f);
}

/* Draw both bases: up_aux with its columns in rows. */
static lora_status
light_compress_bases(light_compress *job, light_module *m, lora_error *error)
{
    const lora__light_sizes *s = &m->sizes;
    const size_t bytes = (s->a * s->cols + s->rows * s->b) * sizeof(float);
    lora_context *context = job->remake.adapter->context;
    float *drawn = lora__alloc(context, bytes, LORA__ALIGN_NUMERIC);
    lora__light_wanted wanted = {drawn, NULL, NULL, NULL};
    lora_status status;

    if (drawn == NULL) {
        return lora__fail_memory(error, bytes);
    }
    wanted.up_aux = drawn + s->a * s->cols;
    TRY_OR_DONE(lora__light_draw(&wanted, &job->light->order, job->light->seed,
                                 s, context, error));
    job->remake.kernels->f32_to_f64(m->down.basis, drawn, s->a * s->cols);
    for (size_t i = 0; i < s->rows; i++) {
        for (size_t j = 0; j < s->b; j++) {
            m->up.basis[j * s->rows + i] = (double)wanted.up_aux[i * s->b + j];
        }
    }
    if (job->options.store) {
        TRY_OR_DONE(light_compress_round(m->down.basis, s->a * s->cols,
                                         m->dtype, job->remake.kernels, error));
        TRY_OR_DONE(light_compress_round(m->up.basis, s->rows * s->b, m->dtype,
                                         job->remake.kernels, error));
    }
done:
    lora__free(context, drawn, bytes, LORA__ALIGN_NUMERIC);
    return status;
}

/* A tensor of the result; `turned` values are transposed. */
static lora_status light_compress_put(light_compress *job,
                                      const lora__module *module,
                                      lora__role role,
                                      lora_dtype dtype,
                                      size_t rows,
                                      size_t cols,
                                      const double *values,
                                      int turned,
                                      lora_error *error)
{
    const int64_t shape[LORA_MAX_DIMS] = {(int64_t)rows, (int64_t)cols};
    lora__emit *emit = &job->remake.emit;
    lora__spelling spelling;
    double *flat;
    lora_status status;

    lora__emit_spelling(&spelling, module, emit->family, 0, role);
    TRY(lora__light_name(&emit->name, module->dialect, &spelling, role, error));
    if (!turned) {
        return lora__emit_f64(emit, emit->name.data, dtype, 2, shape, values,
                              error);
    }
    flat = light_compress_block(job, rows * cols);
    if (flat == NULL) {
        return lora__fail_memory(error, rows * cols * sizeof *flat);
    }
    lora__transpose(flat, values, cols, rows, sizeof(double));
    status =
        lora__emit_f64(emit, emit->name.data, dtype, 2, shape, flat, error);
    light_compress_free(job, flat, rows * cols);
    return status;
}

static lora_status light_compress_emit(light_compress *job,
                                       const lora__module *module,
                                       light_module *m,
                                       lora_error *error)
{
    const lora__entry *alpha =
        lora__module_entry(job->remake.adapter, module, LORA__ROLE_ALPHA);
    const lora__light_sizes *s = &m->sizes;
    const size_t rank = m->f.rank;
    const double scale = m->left;

    TRY(light_compress_put(job, module, LORA__ROLE_DOWN, m->dtype, rank, s->a,
                           m->down.inner, 0, error));
    TRY(light_compress_put(job, module, LORA__ROLE_UP, m->dtype, s->b, rank,
                           m->up.inner, 1, error));
    if (job->options.store) {
        TRY(light_compress_put(job, module, LORA__ROLE_LIGHT_DOWN_AUX, m->dtype,
                               s->a, s->cols, m->down.basis, 0, error));
        TRY(light_compress_put(job, module, LORA__ROLE_LIGHT_UP_AUX, m->dtype,
                               s->rows, s->b, m->up.basis, 1, error));
    }
    return alpha == NULL && scale == 1.0
               ? LORA_OK
               : lora__emit_put_alpha(&job->remake.emit, module,
                                      scale * (double)rank, (int64_t)rank,
                                      alpha != NULL ? alpha->dtype : m->dtype,
                                      alpha != NULL && alpha->ndim == 1, error);
}

static lora_status light_compress_report(light_compress *job,
                                         const lora__module *module,
                                         light_module *m,
                                         lora_error *error)
{
    lora__buffer *json = &job->remake.report->json;
    double norm;
    double lost;

    TRY(lora__factor_error(&norm, &m->f, m->f.up_t, m->f.down, 0,
                           job->remake.kernels, error));
    job->remake.kernels->scale_f64(m->up.outer, m->left, m->f.rank * m->f.rows);
    TRY(lora__factor_error(&lost, &m->f, m->up.outer, m->down.outer, m->f.rank,
                           job->remake.kernels, error));
    TRY(lora__remake_begin_row(&job->remake, module, (int64_t)m->f.rank, norm,
                               lost, error));
    lora__report_put_u64(json, "rank", (uint64_t)m->f.rank);
    lora__report_put_number(json, "norm", sqrt(norm));
    lora__remake_end_row(&job->remake);
    return LORA_OK;
}

/* 1 if the module has a linear layer's weight change alone, and would have
 * shorter factors. */
static int light_compress_takes(light_compress *job, const lora__module *module)
{
    if (module->kind->factors == NULL || module->dora || module->transposed ||
        module->lacks != NULL || module->changes != LORA_PART_WEIGHT ||
        module->ndim < 2) {
        return 0;
    }
    return lora__shape_count(module->shape, 2, module->ndim) == 1 &&
           (module->shape[0] > job->light->up_size ||
            module->shape[1] > job->light->down_size);
}

/* The recipe must tell what the file will not: sizes that no family has. */
static lora_status light_compress_tell(light_compress *job,
                                       const lora__module *module,
                                       lora_error *error)
{
    int64_t shape[2];

    return lora__light_shape(shape, job->light, module) &&
                   shape[0] == module->shape[0] && shape[1] == module->shape[1]
               ? LORA_OK
               : lora__light_add_shape(job->light, &job->remake.arena,
                                       module->target, module->shape[0],
                                       module->shape[1], error);
}

static lora_status light_compress_module(light_compress *job,
                                         const lora__module *module,
                                         lora_error *error)
{
    light_module m;
    lora_status status;

    memset(&m, 0, sizeof m);
    TRY(light_compress_tell(job, module, error));
    TRY_OR_DONE(lora__module_factors(&m.f, job->remake.adapter, module, error));
    m.dtype = job->options.dtype == LORA_DTYPE_NONE ? module->dtype
                                                    : job->options.dtype;
    m.baked = m.left = 1.0;
    if (m.f.scale != 0.0 &&
        lora__dialect_has_role(module->dialect, LORA__ROLE_ALPHA)) {
        m.left = m.f.scale;
    } else {
        m.baked = m.f.scale;
    }
    m.sizes.rows = m.f.rows;
    m.sizes.cols = m.f.cols;
    m.sizes.rank = m.f.rank;
    m.sizes.a = (size_t)job->light->down_size;
    m.sizes.b = (size_t)job->light->up_size;
    TRY_OR_DONE(
        light_side_begin(job, &m.up, m.sizes.b, m.f.rows, m.f.rank, error));
    TRY_OR_DONE(
        light_side_begin(job, &m.down, m.sizes.a, m.f.cols, m.f.rank, error));
    TRY_OR_DONE(light_compress_bases(job, &m, error));
    TRY_OR_DONE(light_compress_side(job, &m, 1, error));
    TRY_OR_DONE(light_compress_side(job, &m, 0, error));
    TRY_OR_DONE(light_compress_report(job, module, &m, error));
    status = light_compress_emit(job, module, &m, error);
done:
    light_compress_end(job, &m);
    return status;
}

/* ---- the call ---------------------------------------------------------- */

static lora_status light_compress_keep(light_compress *job,
                                       const lora__module *module,
                                       lora_error *error)
{
    const lora__entry *entries = job->remake.adapter->container->entries;

    for (size_t i = 0; i < module->member_count; i++) {
        const size_t entry = module->members[i].entry;
        TRY(lora__emit_entry(&job->remake.emit, entries[entry].name, entry, 1.0,
                             LORA_DTYPE_NONE, -1, NULL, error));
    }
    return lora__problems_add(&job->remake.report->problems, LORA_SEVERITY_NOTE,
                              LORA_OK, "kept", module->name, error,
                              "stays as it is: no linear layer that would get "
                              "shorter factors");
}

static lora_status light_compress_modules(light_compress *job,
                                          lora_error *error)
{
    const lora_adapter *adapter = job->remake.adapter;

    TRY(lora__remake_begin_rows(&job->remake, error));
    TRY(lora__emit_begin(&job->remake.emit, adapter, adapter->module_count,
                         NULL, adapter->names.family, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        if (job->remake.left_out[m]) {
            continue;
        }
        if (light_compress_takes(job, module)) {
            TRY(light_compress_module(job, module, error));
        } else {
            TRY(light_compress_keep(job, module, error));
        }
        TRY(lora__progress(adapter->context, "compress", m + 1,
                           adapter->module_count, error));
    }
    return job->remake.report->module_count > 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            adapter->container->path,
                            "no linear layer in it is longer than %lld and "
                            "%lld",
                            (long long)job->light->down_size,
                            (long long)job->light->up_size);
}

static lora_status light_compress_finish(light_compress *job, lora_error *error)
{
    lora__buffer *json = &job->remake.report->json;

    lora__remake_end_rows(&job->remake);
    lora__buffer_puts(json, ",\"recipe\":");
    lora__light_put(json, job->light);
    lora__report_put_problems(job->remake.report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(job->remake.report, error);
}

static lora_status light_compress_run(lora_adapter **out,
                                      light_compress *job,
                                      const lora_adapter *adapter,
                                      const lora_light_recipe *recipe,
                                      lora_error *error)
{
    TRY(lora__remake_begin(&job->remake, adapter, job->options.skip_bad != 0,
                           error));
    TRY(lora__light_read(&job->light, &job->remake.arena, recipe, adapter,
                         adapter->names.family, error));
    if (job->light->down_size == 0) {
        job->light->down_size = LORA__LIGHT_DOWN;
    }
    if (job->light->up_size == 0) {
        job->light->up_size = LORA__LIGHT_UP;
    }
    if (light_compress_draw(job->light, LORA__ROLE_LIGHT_DOWN_AUX) == NULL ||
        light_compress_draw(job->light, LORA__ROLE_LIGHT_UP_AUX) == NULL) {
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "draws",
                          "both down_aux and up_aux must be drawn");
    }
    TRY(light_compress_modules(job, error));
    TRY(lora__emit_rest(&job->remake.emit, error));
    TRY(lora__light_set(job->remake.emit.builder, job->light, error));
    job->remake.emit.changed = 1;
    TRY(lora__emit_metadata(&job->remake.emit, error));
    TRY(light_compress_finish(job, error));
    return lora__emit_finish(out, &job->remake.emit, error);
}

LORA_API lora_status lora_light_compress(lora_adapter **out,
                                         lora_report **out_report,
                                         const lora_adapter *adapter,
                                         const lora_light_recipe *recipe,
                                         const lora_light_options *options,
                                         lora_error *error)
{
    light_compress job;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__light_options_read(&job.options, options, error));
    status = light_compress_run(out, &job, adapter, recipe, error);
    lora__light_destroy(job.light);
    lora__remake_end(&job.remake, status, out_report);
    return status;
}
