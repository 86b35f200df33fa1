/* DyLoRA cut to its first directions, which training ordered by importance. On
 * disk it is a LoRA like any other; the cut is of rows and columns, bit by bit.
 * Source: formats.md 5.15.
 */
#include "op/prefix.h"

#include "core/text.h"
#include "op/emit.h"
#include "op/gather.h"

#include <math.h>
#include <string.h>

typedef struct prefix_job {
    lora__emit emit;
    int64_t rank;
    lora_truncation truncation;
} prefix_job;

/* Alpha as it was given, for the whole rank. */
static double prefix_alpha_before(const lora__module *module)
{
    double rank = (double)module->rank;
    int gated = lora__module_find(module, LORA__ROLE_SCALAR) != NULL;

    if (!module->has_alpha || module->alpha == 0.0) {
        return rank;
    }
    return gated || module->scale == module->alpha / rank
               ? module->alpha
               : module->scale * rank; /* rsLoRA */
}

/* And for the rank that is left: the scale is alpha / rank. */
static double prefix_alpha(const prefix_job *job, const lora__module *module)
{
    double alpha = prefix_alpha_before(module);
    double share = (double)job->rank / (double)module->rank;
    int given = module->has_alpha && module->alpha != 0.0;

    switch (job->truncation) {
    case LORA_TRUNCATE_TRAINED_SQRT:
        return alpha * sqrt(share);
    case LORA_TRUNCATE_KEEP_SCALE:
        return alpha * share;
    default: /* without alpha the scale is 1 for any rank */
        return given ? alpha : (double)job->rank;
    }
}

/* One factor: the first rows of down, the first columns of up. */
static lora_status
prefix_factor(prefix_job *job, const lora__member *member, lora_error *error)
{
    const lora_adapter *adapter = job->emit.source;
    const lora__entry *entry = &adapter->container->entries[member->entry];
    int32_t at = member->role == LORA__ROLE_UP ? 1 : 0;
    int64_t shape[LORA_MAX_DIMS];
    lora__rect rect;

    memcpy(shape, entry->shape, sizeof shape);
    shape[at] = job->rank;
    memset(&rect, 0, sizeof rect);
    rect.entry = member->entry;
    rect.from_width = entry->elements / (uint64_t)entry->shape[0];
    rect.rows = (uint64_t)shape[0];
    rect.cols = at == 1 ? (uint64_t)job->rank : rect.from_width;
    rect.factor = 1.0;
    return lora__gather_add(job->emit.builder, job->emit.name.data, adapter,
                            entry->dtype, entry->ndim, shape, &rect, 1, error);
}

/* The alpha of a module that was cut, stored as the one before was. */
static lora_status
prefix_put_alpha(prefix_job *job, const lora__module *module, lora_error *error)
{
    const lora__entry *entry =
        lora__module_entry(job->emit.source, module, LORA__ROLE_ALPHA);
    const lora__dialect *dialect = module->dialect;
    double alpha = prefix_alpha(job, module);

    if (alpha == (double)job->rank && entry == NULL &&
        !lora__dialect_alpha_in_metadata(dialect)) {
        return LORA_OK;
    }
    return lora__emit_put_alpha(
        &job->emit, module, alpha, job->rank,
        entry != NULL && lora__dtype_is_float(entry->dtype) ? entry->dtype
                                                            : module->dtype,
        entry != NULL && entry->ndim > 0, error);
}

/* What is refused: a change whose terms have no order, or that its alpha does
 * not scale. */
static lora_status prefix_check(const lora__module *module, lora_error *error)
{
    const char *why = !module->kind->is_pair ? "is no pair of factors"
                      : module->tucker       ? "has a core"
                      : module->dora         ? "has magnitudes"
                      : lora__module_find(module, LORA__ROLE_SCALE) != NULL
                          ? "has a scale that is not of its rank"
                          : NULL;

    return why == NULL
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                            module->name,
                            "%s: a prefix is of DyLoRA's up and down", why);
}

static lora_status
prefix_module(prefix_job *job, const lora__module *module, lora_error *error)
{
    int cuts = module->rank > job->rank;
    int states = cuts || (module->rank > 0 &&
                          lora__dialect_alpha_in_metadata(module->dialect));

    if (cuts) {
        TRY(prefix_check(module, error));
    }
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        if (states && member->role == LORA__ROLE_ALPHA) {
            continue;
        }
        TRY(lora__emit_spell(&job->emit, module, member->role, error));
        if (cuts && (member->role == LORA__ROLE_UP ||
                     member->role == LORA__ROLE_DOWN)) {
            TRY(prefix_factor(job, member, error));
            continue;
        }
        TRY(lora__emit_entry(&job->emit, job->emit.name.data, member->entry,
                             1.0, LORA_DTYPE_NONE, -1, NULL, error));
    }
    if (cuts) {
        return prefix_put_alpha(job, module, error);
    }
    if (lora__emit_is_whole(module)) {
        return lora__emit_put_whole(&job->emit, module, module->scale, error);
    }
    return states ? lora__emit_put_alpha(&job->emit, module,
                                         prefix_alpha_before(module),
                                         module->rank, module->dtype, 0, error)
                  : LORA_OK;
}

/* kohya's summaries of rank and alpha: what all modules have, or "Dynamic". */
static lora_status prefix_summary(prefix_job *job, lora_error *error)
{
    static const char *const keys[] = {"ss_network_dim", "ss_network_alpha"};
    const lora_adapter *adapter = job->emit.source;

    for (size_t i = 0; i < LORA__COUNT(keys); i++) {
        double shared = -1.0;
        char text[40] = "Dynamic";
        for (size_t m = 0; m < adapter->module_count; m++) {
            const lora__module *module = &adapter->modules[m];
            int cuts = module->rank > job->rank;
            double value = i == 1 ? (cuts ? prefix_alpha(job, module)
                                          : prefix_alpha_before(module))
                           : cuts ? (double)job->rank
                                  : (double)module->rank;
            if (module->rank > 0) {
                shared =
                    shared == -1.0 || shared == value ? value : (double)NAN;
            }
        }
        if (shared >= 0.0) {
            text[lora__text_from_double(text, shared)] = '\0';
        }
        if (lora__builder_metadata(job->emit.builder, keys[i]) != NULL) {
            TRY(lora_builder_set_metadata(job->emit.builder, keys[i], text,
                                          error));
        }
    }
    return LORA_OK;
}

static lora_status
prefix_run(lora_adapter **out, prefix_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->emit.source;

    for (size_t m = 0; m < adapter->module_count; m++) {
        TRY(lora__module_check(&adapter->modules[m], error));
        TRY(prefix_module(job, &adapter->modules[m], error));
    }
    TRY(lora__emit_rest(&job->emit, error));
    TRY(prefix_summary(job, error));
    job->emit.changed = 1;
    TRY(lora__emit_metadata(&job->emit, error));
    return lora__emit_finish(out, &job->emit, error);
}

LORA_PRIVATE lora_status lora__prefix_cut(lora_adapter **out,
                                          const lora_adapter *adapter,
                                          int32_t rank,
                                          lora_truncation truncation,
                                          lora_error *error)
{
    prefix_job job;
    lora_status status;

    memset(&job, 0, sizeof job);
    job.rank = rank;
    job.truncation = truncation;
    status = lora__emit_begin(&job.emit, adapter, adapter->module_count, NULL,
                              adapter->names.family, error);
    if (status == LORA_OK) {
        status = prefix_run(out, &job, error);
    }
    lora__emit_end(&job.emit);
    return status;
}
