/* Conversion between dialects and number types. */
#include "op/emit_alpha.h"

#include "adapter/strength.h"
#include "core/options.h"
#include "op/full.h"
#include "op/light.h"
#include "op/parts.h"
#include "op/prefix.h"
#include "op/resize.h"
#include "op/values.h"

#include <lora/convert.h>

#include <math.h>
#include <string.h>

LORA_API void
lora_adapter_convert_options_init(lora_adapter_convert_options *options,
                                  size_t size)
{
    lora__options_init(options, size);
}

typedef struct convert_job {
    lora__emit emit;
    lora__arena arena;
    unsigned char *left_out; /* one a module */
    lora__parts parts;
    lora_adapter_convert_options options;
} convert_job;

/* What is said of ranks. */
static lora_status convert_check_made(const lora_adapter_convert_options *o,
                                      lora_error *error)
{
    int lora = o->kind != NULL && strcmp(o->kind, "lora") == 0;

    if (o->kind != NULL && !lora && strcmp(o->kind, "full") != 0) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, o->kind,
                          "no kind that others can become");
    }
    CHECK_ARG((o->rank == 0 && o->rule == NULL) || lora, error);
    CHECK_ARG(o->rank == 0 || o->rule == NULL, error);
    CHECK_ARG(o->base == NULL || o->kind != NULL, error);
    CHECK_ARG(o->truncation == LORA_TRUNCATE_KEEP_ALPHA ||
                  (o->rank_prefix != 0 &&
                   (o->truncation == LORA_TRUNCATE_TRAINED_SQRT ||
                    o->truncation == LORA_TRUNCATE_KEEP_SCALE)),
              error);
    return o->rank >= 0 && o->rank_prefix >= 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "rank",
                            "negative");
}

static lora_status convert_read_options(convert_job *job,
                                        const lora__dialect **out_dialect,
                                        const lora__family **out_family,
                                        const lora_adapter *adapter,
                                        lora_error *error)
{
    const lora_adapter_convert_options *o = &job->options;

    *out_dialect = NULL;
    *out_family = adapter->names.family;
    if (o->dialect != NULL && strcmp(o->dialect, "keep") != 0) {
        *out_dialect = lora__dialect_find(o->dialect);
        if (*out_dialect == NULL) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              o->dialect, "no such dialect");
        }
    }
    if (o->family != NULL) {
        *out_family = lora__family_find(o->family);
        if (*out_family == NULL) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              o->family, "no such family");
        }
    }
    CHECK_ARG(o->drop_count == 0 || o->drops != NULL, error);
    for (size_t i = 0; i < o->drop_count; i++) {
        CHECK_ARG(o->drops[i] != NULL, error);
    }
    TRY(convert_check_made(o, error));
    TRY(lora__strength_read(&job->options.strength, error));
    if (o->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(o->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for factors",
                          lora_dtype_name(o->dtype));
    }
    return LORA_OK;
}

/* Whether the scale goes into up: asked for, or no other place for it. */
static int convert_bakes(const convert_job *job, const lora__module *module)
{
    const lora__dialect *dialect = lora__emit_dialect(&job->emit, module);
    double strength = lora__strength_of(job->options.strength, module);

    return module->rank > 0 && module->scale * strength != 1.0 &&
           (job->options.bake_alpha ||
            (!lora__dialect_has_role(dialect, LORA__ROLE_ALPHA) &&
             !lora__dialect_alpha_in_metadata(dialect)));
}

/* A renamed module loses its .scale and .scalar, which alpha then makes up
 * for. */
static int convert_has_gate(const convert_job *job, const lora__module *module)
{
    return lora__emit_dialect(&job->emit, module) != module->dialect &&
           (lora__module_find(module, LORA__ROLE_SCALE) != NULL ||
            lora__module_find(module, LORA__ROLE_SCALAR) != NULL);
}

/* Alpha with a strength in it, stored as the one before was, if there was one.
 * The sign is for a factor. */
static lora_status convert_alpha_times(convert_job *job,
                                       const lora__module *module,
                                       double strength,
                                       lora_error *error)
{
    const lora__entry *entry =
        lora__module_entry(job->emit.source, module, LORA__ROLE_ALPHA);
    double rank = (double)module->rank;
    double alpha = module->scale * rank;

    if (module->scale == module->alpha / rank) {
        alpha = module->alpha; /* as written, not through the quotient */
    }
    alpha = module->scale * strength == 1.0 ? rank : fabs(alpha * strength);
    return lora__emit_put_alpha(
        &job->emit, module, alpha, module->rank,
        entry != NULL ? entry->dtype : module->dtype,
        entry != NULL && entry->ndim <= 1 ? entry->ndim : 0, error);
}

/* An alpha that is not in a tensor yet, or no longer the one that is: it gets
 * the type that was stored, or is known to have been once. */
static lora_status convert_put_alpha(convert_job *job,
                                     const lora__module *module,
                                     int to_tensor,
                                     lora_error *error)
{
    const lora__entry *entry =
        lora__module_entry(job->emit.source, module, LORA__ROLE_ALPHA);
    double alpha = module->scale * (double)module->rank;
    lora_dtype dtype = module->dtype;
    int32_t ndim = 0;

    if (module->has_alpha && !convert_has_gate(job, module) &&
        module->scale == module->alpha / (double)module->rank) {
        alpha = module->alpha; /* as written, not through the quotient */
    }
    if (entry != NULL && !convert_has_gate(job, module)) {
        dtype = lora__dtype_is_float(entry->dtype) ? entry->dtype : dtype;
        ndim = entry->ndim == 1;
    } else if (job->emit.has_record && to_tensor) {
        lora__alpha_stored(&alpha, &dtype, &ndim, &job->emit.record,
                           module->target);
        if (dtype == LORA_DTYPE_NONE && alpha == (double)module->rank) {
            return LORA_OK; /* there was none before, nor need there be */
        }
        dtype = dtype == LORA_DTYPE_NONE ? module->dtype : dtype;
    }
    return lora__emit_put_alpha(&job->emit, module, alpha, module->rank, dtype,
                                ndim, error);
}

/* The alpha of a module that had one in a tensor, in metadata, or nowhere.
 * `restated` 1: it is not the one that was stored, as the rank is another. */
static lora_status convert_alpha(convert_job *job,
                                 const lora__module *module,
                                 int restated,
                                 lora_error *error)
{
    const lora__member *member = lora__module_find(module, LORA__ROLE_ALPHA);
    const lora__dialect *dialect = lora__emit_dialect(&job->emit, module);
    int to_tensor = lora__dialect_has_role(dialect, LORA__ROLE_ALPHA);
    double strength = lora__strength_of(job->options.strength, module);

    if (module->rank == 0) {
        return lora__emit_is_whole(module)
                   ? lora__emit_put_whole(&job->emit, module,
                                          fabs(module->scale * strength), error)
                   : LORA_OK;
    }
    if (module->kind->own_scale) {
        return LORA_OK; /* what says it stays */
    }
    if (convert_bakes(job, module)) {
        return lora__emit_put_alpha(&job->emit, module, (double)module->rank,
                                    module->rank, module->dtype, 0, error);
    }
    if (strength != 1.0) {
        return convert_alpha_times(job, module, strength, error);
    }
    if (member != NULL && to_tensor && !restated &&
        !convert_has_gate(job, module)) {
        TRY(lora__emit_spell(&job->emit, module, LORA__ROLE_ALPHA, error));
        return lora__emit_entry(&job->emit, job->emit.name.data, member->entry,
                                1.0, LORA_DTYPE_NONE, -1, NULL, error);
    }
    if (member == NULL && dialect == module->dialect && !module->has_alpha &&
        !lora__dialect_alpha_in_metadata(dialect)) {
        return LORA_OK; /* there was none, and nothing asks for one */
    }
    return convert_put_alpha(job, module, to_tensor, error);
}

/* What the tensors that alpha multiplies take of it and of the strength: all,
 * where there is no alpha, or the sign. */
static double convert_scaled(const convert_job *job, const lora__module *module)
{
    const lora__dialect *dialect = lora__emit_dialect(&job->emit, module);
    double strength = lora__strength_of(job->options.strength, module);
    double scaled = module->scale * strength;

    if (lora__emit_is_whole(module) &&
        lora__dialect_alpha_in_metadata(dialect)) {
        return scaled < 0.0 ? -1.0 : 1.0;
    }
    if (module->rank == 0 || convert_bakes(job, module)) {
        return scaled;
    }
    return strength != 1.0 && scaled < 0.0 ? -1.0 : 1.0;
}

/* Whether a tensor is left out, as the scale of the module is said again. */
static int convert_drops_scale(const convert_job *job,
                               const lora__module *module,
                               lora__role role)
{
    const lora__dialect *dialect = lora__emit_dialect(&job->emit, module);

    if (module->kind->own_scale) {
        return 0; /* nothing says it again */
    }
    if (lora__emit_is_whole(module)) { /* its alpha says nothing */
        return role == LORA__ROLE_ALPHA ? !lora__dialect_has_role(dialect, role)
                                        : lora__emit_is_scale(role);
    }
    return module->rank > 0 &&
           (role == LORA__ROLE_ALPHA ||
            (lora__emit_is_scale(role) &&
             (dialect != module->dialect || convert_bakes(job, module) ||
              lora__strength_of(job->options.strength, module) != 1.0)));
}

/* How a tensor is written in the new dialect, if it is another one. */
static lora_status convert_respell(lora__respelling *out,
                                   const convert_job *job,
                                   const lora__module *module,
                                   lora__role role,
                                   lora_error *error)
{
    const lora__dialect *dialect = lora__emit_dialect(&job->emit, module);

    if (dialect != module->dialect) {
        return lora__module_respell(out, job->emit.source, module, role,
                                    dialect, error);
    }
    memset(out, 0, sizeof *out);
    out->role = role;
    out->ndim = -1;
    return LORA_OK;
}

/* Whether the new dialect holds the kind, before anything is said of the
 * scale; *out_same is 1 if it does under the same roles. */
static lora_status convert_check_kind(int *out_same,
                                      const convert_job *job,
                                      const lora__module *module,
                                      lora_error *error)
{
    lora__respelling there;

    *out_same = 1;
    if (lora__module_replaces_bias(module) &&
        !lora__dialect_alpha_in_metadata(
            lora__emit_dialect(&job->emit, module))) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "its trained bias has no name in this dialect: make "
                          "it a difference, with --as full and the base");
    }
    for (size_t i = 0; i < module->member_count; i++) {
        lora__role role = module->members[i].role;
        if (!lora__emit_is_scale(role)) {
            TRY(convert_respell(&there, job, module, role, error));
            *out_same = *out_same && there.role == role;
        }
    }
    return LORA_OK;
}

static lora_status
convert_module(convert_job *job, const lora__module *module, lora_error *error)
{
    int bakes = convert_bakes(job, module);
    double strength = lora__strength_of(job->options.strength, module);
    double scaled = convert_scaled(job, module);
    int same;

    TRY(convert_check_kind(&same, job, module, error));
    if (bakes && module->kind->scaled == 0) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "the scale of %s cannot be baked in by this version",
                          module->kind->id);
    }
    if (strength != 1.0) {
        TRY(lora__strength_check(module, error));
    }

    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        lora__respelling there;
        if (convert_drops_scale(job, module, member->role)) {
            continue;
        }
        TRY(convert_respell(&there, job, module, member->role, error));
        TRY(lora__emit_respelt(
            &job->emit, module, member->entry, &there,
            lora__strength_factor(module, member->role, scaled, strength),
            lora__emit_is_scale(member->role) ? LORA_DTYPE_NONE
                                              : job->options.dtype,
            error));
    }
    return convert_alpha(job, module, 0, error);
}

/* Whether the pieces of a group can be put together in the new dialect. */
static lora_status convert_check_pieces(const convert_job *job,
                                        const lora__group *group,
                                        lora_error *error)
{
    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        const lora__module *module = p->module;
        int same;

        TRY(convert_check_kind(&same, job, module, error));
        if (!same) {
            return lora__fail(
                error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
                "%s has other numbers for this %s, and another "
                "weight: it cannot be cut or joined too",
                lora__dialect_id(job->emit.dialect), module->kind->id);
        }
        if (lora__emit_is_whole(module) && module->scale != 1.0) {
            return lora__fail(
                error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
                "a scale that is no alpha's cannot be shared out");
        }
    }
    return LORA_OK;
}

/* The dimensions of a joined tensor in the new dialect. */
static void convert_shape_joined(lora__respelling *out,
                                 const convert_job *job,
                                 const lora__joined *joined,
                                 const lora__joined_tensor *tensor,
                                 lora__role role)
{
    const lora__dialect *to = lora__emit_dialect(&job->emit, &joined->module);
    const lora__entry *entry =
        &job->emit.source->container->entries[tensor->entry];
    int whole = tensor->rects == NULL;

    memset(out, 0, sizeof *out);
    out->role = role;
    out->ndim = -1;
    lora__respell_shape(out, job->emit.source, &joined->module, role, to,
                        whole ? entry->ndim : tensor->ndim,
                        whole ? entry->shape : tensor->shape);
    if (out->ndim < 0 && !whole) {
        out->ndim = tensor->ndim;
        memcpy(out->shape, tensor->shape, sizeof out->shape);
    }
}

/* A module of rows of others. */
static lora_status
convert_group(convert_job *job, const lora__group *group, lora_error *error)
{
    lora__joined joined;
    int bakes = 0;

    for (const lora__piece *p = group->first; p != NULL; p = p->next) {
        bakes |= convert_bakes(job, p->module);
    }
    TRY(convert_check_pieces(job, group, error));
    job->emit.changed |= bakes;
    TRY(lora__join_begin(&joined, group, job->emit.source, &job->arena, bakes,
                         error));
    for (int i = 1; i < LORA__ROLE_COUNT; i++) {
        lora__role role = (lora__role)i;
        lora__joined_tensor tensor;
        lora_dtype dtype = job->options.dtype;
        lora__respelling there;

        if ((joined.roles & LORA__ROLE_BIT(role)) == 0 ||
            (joined.module.rank > 0 && lora__emit_is_scale(role))) {
            continue;
        }
        TRY(lora__join_tensor(&tensor, &joined, role, bakes, error));
        TRY(lora__join_role(&role, &joined, role, error));
        TRY(lora__emit_spell(&job->emit, &joined.module, role, error));
        convert_shape_joined(&there, job, &joined, &tensor, role);
        if (tensor.rects == NULL) {
            TRY(lora__emit_entry(
                &job->emit, job->emit.name.data, tensor.entry, 1.0,
                lora__emit_is_scale(role) ? LORA_DTYPE_NONE : dtype, there.ndim,
                there.shape, error));
            continue;
        }
        TRY(lora__gather_add(
            job->emit.builder, job->emit.name.data, job->emit.source,
            dtype == LORA_DTYPE_NONE ? tensor.dtype : dtype, there.ndim,
            there.shape, tensor.rects, tensor.rect_count, error));
    }
    return convert_alpha(job, &joined.module, joined.restated, error);
}

/* Leave out what is dropped, and what a strength of 0 leaves nothing of. */
static lora_status
convert_drop(convert_job *job, const lora_adapter *adapter, lora_error *error)
{
    const lora_adapter_convert_options *o = &job->options;
    size_t left = adapter->module_count;

    for (size_t i = 0; i < o->drop_count; i++) {
        size_t found = 0;
        for (size_t m = 0; m < adapter->module_count; m++) {
            if (lora__module_matches(&adapter->modules[m], o->drops[i])) {
                job->left_out[m] = 1;
                found++;
            }
        }
        if (found == 0) {
            return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                              o->drops[i],
                              "no module and no component of such a name");
        }
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        job->left_out[m] |=
            lora__strength_of(o->strength, &adapter->modules[m]) == 0.0;
        left -= job->left_out[m];
    }
    return left != 0 ? LORA_OK
                     : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                                  adapter->container->path,
                                  "no module would be left");
}

/* Unusable modules and values are refused, or left out on demand. */
static lora_status
convert_admit(convert_job *job, const lora_adapter *adapter, lora_error *error)
{
    lora__values *values;
    void *memory;

    TRY(lora__arena_zeroed(&memory, &job->arena, adapter->module_count, 1,
                           error));
    job->left_out = memory;
    TRY(convert_drop(job, adapter, error));
    TRY(lora__arena_zeroed(&memory, &job->arena,
                           adapter->container->entry_count, sizeof *values,
                           error));
    values = memory;
    TRY(lora__values_scan(values, adapter, error));
    return lora__values_admit(job->left_out, values, adapter,
                              job->options.skip_bad != 0, error);
}

static lora_status convert_modules(convert_job *job, lora_error *error)
{
    const lora_adapter *adapter = job->emit.source;

    for (size_t m = 0; m < adapter->module_count; m++) {
        job->emit.changed |= job->left_out[m];
    }
    for (size_t g = 0; g < job->parts.count; g++) {
        const lora__group *group = &job->parts.groups[g];
        if (group->whole) {
            const lora__module *module = group->first->module;
            job->emit.changed |=
                convert_bakes(job, module) ||
                (lora__emit_is_whole(module) && module->scale != 1.0) ||
                lora__strength_of(job->options.strength, module) != 1.0;
            TRY(convert_module(job, module, error));
        } else {
            TRY(convert_group(job, group, error));
        }
        TRY(lora__progress(adapter->context, "convert", g + 1, job->parts.count,
                           error));
    }
    return LORA_OK;
}

static int convert_changes_nothing(const lora_adapter_convert_options *o)
{
    return (o->dialect == NULL || strcmp(o->dialect, "keep") == 0) &&
           o->dtype == LORA_DTYPE_NONE && !o->bake_alpha && !o->skip_bad &&
           o->drop_count == 0 && o->strength == NULL;
}

static lora_status
convert_copy(lora_adapter **out, const lora_adapter *adapter, lora_error *error)
{
    lora_builder *builder;
    lora_status status;

    TRY(lora_builder_create(&builder, adapter->context, adapter, error));
    status = lora_builder_finish(out, builder, error);
    lora_builder_destroy(builder);
    return status;
}

/* 1 if a module is split or joined, or its numbers are others elsewhere. */
static int convert_regroups(const convert_job *job)
{
    for (size_t g = 0; g < job->parts.count; g++) {
        const lora__group *group = &job->parts.groups[g];
        const lora__module *module = group->first->module;
        if (!group->whole ||
            (module->kind->respell != NULL &&
             lora__emit_dialect(&job->emit, module) != module->dialect)) {
            return 1;
        }
    }
    return 0;
}

/* The strength first, and then other names: modules that are split and joined
 * have it in them by then. */
static lora_status convert_twice(lora_adapter **out,
                                 const lora_adapter *adapter,
                                 const lora_adapter_convert_options *options,
                                 lora_error *error)
{
    lora_adapter_convert_options first = *options;
    lora_adapter_convert_options then = *options;
    lora_adapter *between;
    lora_status status;

    first.dialect = NULL;
    first.bake_alpha = 0;
    then.dtype = LORA_DTYPE_NONE;
    then.drops = NULL;
    then.drop_count = 0;
    then.strength = NULL;
    TRY(lora_adapter_convert(&between, adapter, &first, error));
    status = lora_adapter_convert(out, between, &then, error);
    lora_adapter_destroy(between);
    return status;
}

/* The next step of several: *adapter, which is owned, is replaced. */
static void convert_step(lora_adapter **adapter, lora_adapter *next)
{
    lora_adapter_destroy(*adapter);
    *adapter = next;
}

/* Light-LoRA of an adapter, which is owned and replaced, expanded. */
static lora_status convert_expand(lora_adapter **adapter,
                                  const lora_adapter_convert_options *options,
                                  lora_error *error)
{
    lora_light_options light;
    lora_adapter *next;
    int found = 0;

    for (size_t m = 0; m < (*adapter)->module_count; m++) {
        found |= lora__light_is(&(*adapter)->modules[m]);
    }
    if (!found) {
        return LORA_OK;
    }
    lora_light_options_init(&light, sizeof light);
    light.dtype = options->dtype;
    TRY(lora_light_expand(&next, *adapter, NULL, &light, error));
    convert_step(adapter, next);
    return LORA_OK;
}

/* What was asked for of kinds, once modules are dropped and cut: *adapter,
 * which is owned, is replaced. */
static lora_status convert_kinds(lora_adapter **adapter,
                                 lora_report **out_report,
                                 const lora_adapter_convert_options *options,
                                 lora_error *error)
{
    lora_rank_rule rank = {.kind = LORA_RANK_FIXED, .rank = options->rank};
    lora_adapter_resize_options resize;
    lora__checkpoint *base = NULL;
    lora_adapter *next = NULL;
    const lora__dialect *named =
        options->dialect == NULL ? NULL : lora__dialect_find(options->dialect);
    lora_status status;

    if (options->base != NULL) {
        TRY(lora__checkpoint_open(&base, (*adapter)->context, options->base, 0,
                                  error));
    }
    if (strcmp(options->kind, "full") == 0) {
        status = lora__full_make(&next, out_report, *adapter, base, named,
                                 options->dtype, options->skip_bad != 0, error);
    } else {
        lora_adapter_resize_options_init(&resize, sizeof resize);
        resize.dtype = options->dtype;
        resize.skip_bad = options->skip_bad;
        status = lora__resize_to_pairs(&next, out_report, *adapter,
                                       options->rule != NULL ? options->rule
                                       : options->rank != 0  ? &rank
                                                             : NULL,
                                       base, named, &resize, error);
    }
    lora__checkpoint_release(base);
    if (status == LORA_OK) {
        convert_step(adapter, next);
    }
    return status;
}

/* The dialect of what is made: the one that was asked for, or another where all
 * modules have one that has no names for it. */
static const char *convert_made_dialect(const lora_adapter *adapter,
                                        const lora_adapter_convert_options *o)
{
    const lora__dialect *pairs = NULL;

    if (o->kind == NULL ||
        (o->dialect != NULL && strcmp(o->dialect, "keep") != 0)) {
        return o->dialect;
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__dialect *own = adapter->modules[m].dialect;
        pairs = lora__dialect_of_pairs(own);
        if (pairs == own) {
            return o->dialect;
        }
    }
    return pairs == NULL ? o->dialect : lora__dialect_id(pairs);
}

/* Other factors, and then what else was asked for. What is dropped need not
 * have any. */
static lora_status convert_made(lora_adapter **out,
                                lora_report **out_report,
                                const lora_adapter *adapter,
                                const lora_adapter_convert_options *options,
                                lora_error *error)
{
    lora_adapter_convert_options first;
    lora_adapter_convert_options then = *options;
    lora_adapter *between;
    lora_adapter *next;
    lora_report *report = NULL;
    lora_status status;

    lora_adapter_convert_options_init(&first, sizeof first);
    first.drops = options->drops;
    first.drop_count = options->drop_count;
    first.skip_bad = options->skip_bad;
    then.drops = NULL;
    then.drop_count = 0;
    then.kind = NULL;
    then.base = NULL;
    then.rule = NULL;
    then.rank = 0;
    then.rank_prefix = 0;
    then.truncation = LORA_TRUNCATE_KEEP_ALPHA;
    TRY(lora_adapter_convert(&between, adapter, &first, error));
    if (options->rank_prefix != 0) {
        TRY_OR_DONE(lora__prefix_cut(&next, between, options->rank_prefix,
                                     options->truncation, error));
        convert_step(&between, next);
    }
    if (options->kind != NULL) {
        if (strcmp(options->kind, "lora") == 0 && options->rank == 0 &&
            options->rule == NULL) {
            TRY_OR_DONE(convert_expand(&between, options, error));
        }
        then.dtype = LORA_DTYPE_NONE; /* done with it */
        TRY_OR_DONE(convert_kinds(&between, &report, options, error));
    }
    status = lora_adapter_convert(out, between, &then, error);
    if (status == LORA_OK && out_report != NULL) {
        *out_report = report;
        report = NULL;
    }
done:
    lora_report_destroy(report);
    lora_adapter_destroy(between);
    return status;
}

static lora_status convert_run(lora_adapter **out,
                               convert_job *job,
                               const lora_adapter *adapter,
                               const lora__dialect *dialect,
                               const lora__family *family,
                               lora_error *error)
{
    TRY(convert_admit(job, adapter, error));
    TRY(lora__parts_plan(&job->parts, &job->arena, adapter, dialect, family,
                         job->left_out, error));
    if (job->options.strength != NULL && convert_regroups(job)) {
        return convert_twice(out, adapter, &job->options, error);
    }
    TRY(lora__emit_begin(&job->emit, adapter, job->parts.count, dialect, family,
                         error));
    job->emit.changed = job->options.dtype != LORA_DTYPE_NONE;
    TRY(convert_modules(job, error));
    TRY(lora__emit_rest(&job->emit, error));
    TRY(lora__emit_metadata(&job->emit, error));
    if (job->options.strength != NULL || job->options.drop_count != 0) {
        TRY(lora__emit_summary(NULL, job->emit.builder, adapter, job->left_out,
                               job->options.strength, error));
    }
    return lora__emit_finish(out, &job->emit, error);
}

LORA_API lora_status
lora_adapter_convert_report(lora_adapter **out,
                            lora_report **out_report,
                            const lora_adapter *adapter,
                            const lora_adapter_convert_options *options,
                            lora_error *error)
{
    convert_job job;
    const lora__dialect *dialect;
    const lora__family *family;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    if (out_report != NULL) {
        *out_report = NULL;
    }
    CHECK_ARG(adapter != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__options_read(&job.options, sizeof job.options,
                           LORA__SIZE_TO(lora_adapter_convert_options, rule),
                           options, error));
    TRY(lora__options_reserved(job.options.reserved1, error));
    TRY(lora__options_reserved(job.options.reserved2, error));
    TRY(convert_read_options(&job, &dialect, &family, adapter, error));
    if (job.options.kind != NULL || job.options.rank_prefix != 0) {
        job.options.dialect = convert_made_dialect(adapter, &job.options);
        return convert_made(out, out_report, adapter, &job.options, error);
    }
    if (convert_changes_nothing(&job.options)) {
        return convert_copy(out, adapter, error);
    }
    if (adapter->module_count == 0) {
        return lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                          adapter->container->path,
                          "no adapter: there is nothing to convert");
    }
    lora__arena_init(&job.arena, adapter->context);
    job.emit.source = adapter;
    status = convert_run(out, &job, adapter, dialect, family, error);
    lora__emit_end(&job.emit);
    lora__arena_destroy(&job.arena);
    return status;
}

LORA_API lora_status
lora_adapter_convert(lora_adapter **out,
                     const lora_adapter *adapter,
                     const lora_adapter_convert_options *options,
                     lora_error *error)
{
    return lora_adapter_convert_report(out, NULL, adapter, options, error);
}
