/* Extraction: from the results of all layers to the adapter and the report. */
#include "op/extract.h"

#include "core/text.h"
#include "op/emit.h"

#include <math.h>
#include <string.h>

/* ---- tensors ----------------------------------------------------------- */

typedef struct extract_writer {
    lora__extract *job;
    lora_builder *builder;
    lora__buffer name;
    int64_t shared_rank; /* 0: none yet, -1: several */
} extract_writer;

LORA_PRIVATE lora_status lora__extract_spell(lora__buffer *out,
                                             const lora__extract *job,
                                             const lora__match *match,
                                             lora__role role,
                                             lora_error *error)
{
    const lora__tensor *tensor = &job->pair.base->tensors[match->base.tensor];
    lora__spelling spelling;

    memset(&spelling, 0, sizeof spelling);
    spelling.family = job->pair.family;
    spelling.target = match->target;
    spelling.known = match->known;
    spelling.role = role;
    if (!match->known) {
        spelling.stored = tensor->module;
        spelling.stored_dialect = job->dialect;
    }
    lora__buffer_clear(out);
    TRY(lora__names_write(out, job->dialect, &spelling, error));
    return lora__buffer_status(out, error);
}

/* Let the builder have one tensor: its memory, or its place in the journal. */
static lora_status extract_put_tensor(extract_writer *w,
                                      lora__extract_tensor *tensor,
                                      lora_error *error)
{
    lora__container *file = w->job->journalled;
    lora__entry *entry;
    void *data = tensor->data;

    if (data != NULL) {
        tensor->data = NULL;
        return lora__builder_adopt(w->builder, w->name.data, tensor->dtype,
                                   tensor->ndim, tensor->shape, data, error);
    }
    INVARIANT(file != NULL, error);
    TRY(lora__container_add(&entry, file, error));
    entry->name = "";
    entry->dtype = tensor->dtype;
    entry->ndim = tensor->ndim;
    memcpy(entry->shape, tensor->shape, sizeof entry->shape);
    entry->bytes = tensor->bytes;
    entry->elements = tensor->bytes * 8 / lora_dtype_bits(tensor->dtype);
    entry->offset = tensor->offset;
    return lora__builder_add_entry(w->builder, w->name.data, file,
                                   file->entry_count - 1, -1, NULL, error);
}

/* Alpha where the dialect has a tensor for it: what makes the scale 1, as the
 * factors are scaled already. */
static lora_status extract_put_alpha(extract_writer *w,
                                     const lora__match *match,
                                     const lora__extracted *result,
                                     lora_error *error)
{
    double alpha = result->alpha;
    lora_dtype dtype = lora__emit_alpha_dtype(result->tensors[0].dtype, alpha);
    void *data;

    if (alpha == 0.0 ||
        !lora__dialect_has_role(w->job->dialect, LORA__ROLE_ALPHA)) {
        return LORA_OK;
    }
    TRY(lora__extract_spell(&w->name, w->job, match, LORA__ROLE_ALPHA, error));
    TRY(lora__emit_encode(&data, w->job->context, w->name.data, dtype, &alpha,
                          1, error));
    return lora__builder_adopt(w->builder, w->name.data, dtype, 0, NULL, data,
                               error);
}

/* A layer whose name the dialect does not have, or only as part of another, is
 * left out. */
static lora_status extract_put_layer(extract_writer *w,
                                     const lora__match *match,
                                     lora__extracted *result,
                                     lora_error *error)
{
    lora_error found;
    lora_status status;

    lora_error_init(&found, sizeof found);
    status = lora__extract_spell(&w->name, w->job, match,
                                 result->tensors[0].role, &found);
    if (status == LORA_ERROR_KEY || status == LORA_ERROR_UNSUPPORTED) {
        result->state = LORA__EXTRACT_NO_PLACE;
        return LORA_OK;
    }
    if (status != LORA_OK) {
        return lora__error_merge(error, &found);
    }
    for (size_t i = 0; i < result->tensor_count; i++) {
        TRY(lora__extract_spell(&w->name, w->job, match,
                                result->tensors[i].role, error));
        TRY(extract_put_tensor(w, &result->tensors[i], error));
    }
    if (result->rank > 0) {
        w->shared_rank = w->shared_rank == 0 || w->shared_rank == result->rank
                             ? result->rank
                             : -1;
    }
    return extract_put_alpha(w, match, result, error);
}

/* What kohya's tools write of ranks. */
static lora_status extract_put_summary(extract_writer *w, lora_error *error)
{
    static const char *const keys[] = {"ss_network_dim", "ss_network_alpha"};
    char rank[LORA__SUMMARY_TEXT] = "Dynamic";

    if (w->shared_rank == 0 ||
        !lora__dialect_has_role(w->job->dialect, LORA__ROLE_ALPHA)) {
        return LORA_OK;
    }
    if (w->shared_rank > 0) {
        rank[lora__text_from_double(rank, (double)w->shared_rank)] = '\0';
    }
    for (size_t i = 0; i < LORA__COUNT(keys); i++) {
        TRY(lora_builder_set_metadata(w->builder, keys[i], rank, error));
    }
    return lora_builder_set_metadata(w->builder, "ss_network_module",
                                     w->job->form->module, error);
}

/* The same adapter with the metadata that other programs want to see. */
static lora_status extract_dress(lora_adapter **out,
                                 const lora__extract *job,
                                 const lora_adapter *plain,
                                 lora_error *error)
{
    lora__emit emit;
    lora_status status;

    TRY_OR_DONE(lora__emit_begin(&emit, plain, plain->module_count,
                                 job->dialect, job->pair.family, error));
    for (size_t i = 0; i < plain->container->entry_count; i++) {
        TRY_OR_DONE(lora__emit_entry(&emit, plain->container->entries[i].name,
                                     i, 1.0, LORA_DTYPE_NONE, -1, NULL, error));
    }
    TRY_OR_DONE(lora__emit_metadata(&emit, error));
    status = lora__emit_finish(out, &emit, error);
done:
    lora__emit_end(&emit);
    return status;
}

static lora_status
extract_build(lora_adapter **out, lora__extract *job, lora_error *error)
{
    extract_writer w = {job, NULL, {0}, 0};
    lora_adapter *plain = NULL;
    size_t count = 0;
    lora_status status;

    lora__buffer_init(&w.name, job->context);
    TRY_OR_DONE(lora_builder_create(&w.builder, job->context, NULL, error));
    for (size_t i = 0; i < job->pair.count; i++) {
        if (job->results[i].state == LORA__EXTRACT_DONE) {
            TRY_OR_DONE(extract_put_layer(&w, &job->pair.matches[i],
                                          &job->results[i], error));
            count += job->results[i].state == LORA__EXTRACT_DONE;
        }
    }
    if (count == 0) {
        status = lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, job->tuned,
                            "nothing that an adapter can hold differs from "
                            "the base");
        goto done;
    }
    TRY_OR_DONE(extract_put_summary(&w, error));
    TRY_OR_DONE(lora_builder_finish(&plain, w.builder, error));
    status = extract_dress(out, job, plain, error);
done:
    lora_adapter_destroy(plain);
    lora_builder_destroy(w.builder);
    lora__buffer_destroy(&w.name);
    return status;
}

/* ---- the report -------------------------------------------------------- */

/* Sums over the layers that were looked at. */
typedef struct extract_totals {
    uint64_t same;
    uint64_t noise;
    double norm; /* squared */
    double lost; /* squared */
    int is_estimate;
} extract_totals;

static double extract_kept(const lora__extracted *result)
{
    double share = result->norm > 0.0 ? result->error / result->norm : 0.0;
    return 1.0 - share * share;
}

/* The row of a layer that has tensors, with its values taken over. */
static void extract_put_row(lora_report_module *row,
                            const lora__match *match,
                            lora__extracted *result)
{
    size_t rank = (size_t)result->rank;
    uint64_t full = match->base.rows < match->base.columns
                        ? match->base.rows
                        : match->base.columns;

    row->sigma = result->sigma;
    row->sigma_count = result->sigma_count;
    row->rank_in = (int64_t)full;
    row->rank_out = result->rank;
    row->energy = extract_kept(result);
    row->error = result->error;
    row->frobenius = row->energy > 0.0 ? sqrt(row->energy) : 0.0;
    if (rank > 0 && rank <= result->sigma_count && result->sigma[0] > 0.0) {
        double ratio = result->norm / result->sigma[0];
        row->spectral = rank < result->sigma_count ? result->sigma[rank] : 0.0;
        row->largest = result->sigma[0];
        row->least = result->sigma[rank - 1];
        row->stable_rank = ratio * ratio;
    }
}

static void extract_put_json(lora__buffer *json,
                             const lora_report_module *row,
                             const lora__match *match,
                             const lora__extracted *result)
{
    lora__buffer_putc(json, '{');
    lora__report_put_string(json, "name", row->name);
    lora__report_put_string(json, "target", match->target);
    lora__report_put_string(json, "part",
                            match->role == LORA__ROLE_BIAS ? "bias" : "weight");
    lora__report_put_u64(json, "rank_in", (uint64_t)row->rank_in);
    lora__report_put_u64(json, "rank_out", (uint64_t)row->rank_out);
    lora__report_put_number(json, "norm", result->norm);
    lora__report_put_number(json, "energy", row->energy);
    lora__report_put_number(json, "error", row->error);
    lora__report_put_number(json, "noise", result->noise);
    lora__report_put_bool(json, "estimate", result->is_estimate);
    lora__report_put_values(json, "sigma", row->sigma, row->sigma_count);
    lora__buffer_putc(json, '}');
}

static lora_status
extract_add_row(lora__extract *job, size_t index, lora_error *error)
{
    lora_report *report = job->report;
    const lora__match *match = &job->pair.matches[index];
    lora__extracted *result = &job->results[index];
    lora_report_module *row = &report->modules[report->module_count];
    const lora__tensor *tensor = &job->pair.base->tensors[match->base.tensor];
    double *sigma = NULL;
    void *memory;

    extract_put_row(row, match, result);
    TRY(lora__arena_string(&row->name, &report->arena, tensor->module,
                           strlen(tensor->module), error));
    if (row->sigma_count > 0) {
        TRY(lora__arena_zeroed(&memory, &report->arena, row->sigma_count,
                               sizeof *sigma, error));
        sigma = memory;
        memcpy(sigma, row->sigma, row->sigma_count * sizeof *sigma);
    }
    row->sigma = sigma;
    lora__buffer_puts(&report->json, report->module_count == 0 ? "" : ",");
    extract_put_json(&report->json, row, match, result);
    report->module_count++;
    return LORA_OK;
}

/* A tensor that did not come into the adapter although it may matter. */
static lora_status
extract_add_problem(lora__extract *job, size_t index, lora_error *error)
{
    const lora__match *match = &job->pair.matches[index];
    const char *code = NULL;
    const char *why = "";
    char base[LORA__PAIR_SHAPE] = "";
    char tuned[LORA__PAIR_SHAPE] = "";

    switch (match->state) {
    case LORA__MATCH_BOTH:
        if (job->results[index].state == LORA__EXTRACT_NO_PLACE) {
            code = "left_out";
            why = "changed, but has no place in an adapter of this kind and "
                  "dialect";
        } else if (job->results[index].state == LORA__EXTRACT_BAD) {
            code = "nonfinite";
            why = "has values that are not finite, so it is left out";
        }
        break;
    case LORA__MATCH_SHAPES:
        code = "shapes_differ";
        why = "left out, as its shapes differ: ";
        lora__pair_put_shapes(base, tuned, match);
        break;
    case LORA__MATCH_BASE_ONLY:
        code = "only_in_base";
        why = "is in the base only";
        break;
    case LORA__MATCH_TUNED_ONLY:
        code = "only_in_tuned";
        why = "is in the tuned checkpoint only";
        break;
    default:
        break;
    }
    return code == NULL
               ? LORA_OK
               : lora__problems_add(
                     &job->report->problems, LORA_SEVERITY_WARNING, LORA_OK,
                     code, match->target, error, "%s%s%s%s%s",
                     match->role == LORA__ROLE_BIAS ? "its bias " : "", why,
                     base, *base != '\0' ? " in the base, tuned " : "", tuned);
}

static void extract_put_totals(lora__extract *job,
                               const extract_totals *totals,
                               const lora_adapter *adapter)
{
    lora__buffer *json = &job->report->json;
    double lost = totals->norm > 0.0 ? totals->lost / totals->norm : 0.0;
    uint64_t bytes = 0;

    for (size_t i = 0; i < adapter->container->entry_count; i++) {
        bytes += adapter->container->entries[i].bytes;
    }
    lora__json_put_key(json, "totals");
    lora__buffer_putc(json, '{');
    lora__report_put_u64(json, "modules", job->report->module_count);
    lora__report_put_u64(json, "unchanged", totals->same);
    lora__report_put_u64(json, "noise", totals->noise);
    lora__report_put_number(json, "energy", 1.0 - lost);
    lora__report_put_number(json, "error", sqrt(totals->lost));
    lora__report_put_number(json, "relative_error", sqrt(lost));
    lora__report_put_bool(json, "estimate", totals->is_estimate);
    lora__report_put_u64(json, "bytes_out", bytes);
    lora__buffer_putc(json, '}');
}

static lora_status extract_report(lora__extract *job,
                                  const lora_adapter *adapter,
                                  lora_error *error)
{
    extract_totals totals = {0, 0, 0.0, 0.0, 0};
    lora__buffer *json = &job->report->json;

    TRY(lora__report_add_modules(job->report, job->pair.count, error));
    job->report->module_count = 0;
    lora__buffer_putc(json, '{');
    lora__report_put_string(
        json, "family",
        job->pair.family == NULL ? NULL : lora__family_id(job->pair.family));
    lora__json_put_key(json, "modules");
    lora__buffer_putc(json, '[');
    for (size_t i = 0; i < job->pair.count; i++) {
        const lora__extracted *result = &job->results[i];
        totals.same += result->state == LORA__EXTRACT_SAME;
        totals.noise += result->state == LORA__EXTRACT_NOISE;
        if (result->state == LORA__EXTRACT_DONE) {
            totals.norm += result->norm * result->norm;
            totals.lost += result->error * result->error;
            totals.is_estimate |= result->is_estimate;
            TRY(extract_add_row(job, i, error));
        }
        TRY(extract_add_problem(job, i, error));
    }
    lora__buffer_putc(json, ']');
    extract_put_totals(job, &totals, adapter);
    lora__report_put_problems(job->report);
    lora__buffer_putc(json, '}');
    return lora__report_finish(job->report, error);
}

LORA_PRIVATE lora_status lora__extract_write(lora_adapter **out,
                                             lora__extract *job,
                                             lora_error *error)
{
    lora_adapter *adapter = NULL;
    lora_status status;

    TRY_OR_DONE(extract_build(&adapter, job, error));
    if (job->size != NULL) {
        lora_adapter *wide = adapter;
        adapter = NULL;
        status = lora__extract_fit(&adapter, job, wide, error);
        lora_adapter_destroy(wide);
        if (status != LORA_OK) {
            goto done;
        }
    }
    TRY_OR_DONE(extract_report(job, adapter, error));
    *out = adapter;
    return LORA_OK;
done:
    lora_adapter_destroy(adapter);
    return status;
}
