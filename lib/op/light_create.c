/* A Light-LoRA to begin a training with. */
#include "op/light.h"

#include "core/text.h"

#include <string.h>

typedef struct light_create {
    lora_context *context;
    const lora_light_recipe *recipe;
    lora_light_options options;
    const lora__dialect *dialect;
    lora__light *light;
    lora__arena arena;
    lora__buffer target;
    lora__buffer name;
    lora_builder *builder;
    size_t count;
} light_create;

/* ---- variants ---------------------------------------------------------- */

/* The order of draws of a variant. What begins as 0 is not drawn. */
static lora_status light_create_draws(lora__buffer *out,
                                      const lora_light_options *o,
                                      lora_error *error)
{
    const double deviation = o->deviation == 0.0 ? 1.0 : o->deviation;

    switch (o->variant) {
    case LORA_LIGHT_UP_ZERO:
        lora__buffer_puts(out, "down_aux,down,up_aux");
        break;
    case LORA_LIGHT_DOWN_ZERO:
        lora__buffer_puts(out, "down_aux,up,up_aux");
        break;
    case LORA_LIGHT_JOINED:
        lora__buffer_puts(out, "down_aux,up_aux");
        break;
    case LORA_LIGHT_GAUSSIAN:
        lora__buffer_puts(out, "down_aux:normal:");
        lora__buffer_number(out, deviation);
        lora__buffer_puts(out, ",down:normal:");
        lora__buffer_number(out, deviation / (double)o->rank);
        lora__buffer_puts(out, ",up_aux:normal:");
        lora__buffer_number(out, deviation);
        break;
    case LORA_LIGHT_BOTH_ZERO:
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "variant",
                          "with up and down both 0 the gradients of both are "
                          "exactly 0, at every step: nothing would be learnt");
    default:
        return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, "variant",
                          "%d is none of 1 to 5", (int)o->variant);
    }
    return lora__buffer_status(out, error);
}

/* ---- one layer --------------------------------------------------------- */

static lora_status light_create_put(light_create *job,
                                    lora__role role,
                                    const float *values,
                                    size_t rows,
                                    size_t cols,
                                    lora_error *error)
{
    const int64_t shape[LORA_MAX_DIMS] = {(int64_t)rows, (int64_t)cols};
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(job->context)->cpu);
    const lora_dtype dtype = job->options.dtype == LORA_DTYPE_NONE
                                 ? LORA_DTYPE_F32
                                 : job->options.dtype;
    const size_t bytes = rows * cols * (lora_dtype_bits(dtype) / 8);
    lora__spelling spelling;
    void *data;
    lora_status status;

    memset(&spelling, 0, sizeof spelling);
    spelling.family = job->light->family;
    spelling.target = job->target.data;
    spelling.known = 1;
    TRY(lora__light_name(&job->name, job->dialect, &spelling, role, error));
    data = lora__alloc(job->context, bytes, LORA__ALIGN_NUMERIC);
    if (data == NULL) {
        return lora__fail_memory(error, bytes);
    }
    status = lora__convert_from_f32(data, dtype, values, rows * cols, kernels,
                                    error);
    if (status != LORA_OK) {
        lora__free(job->context, data, bytes, LORA__ALIGN_NUMERIC);
        return status;
    }
    return lora__builder_adopt(job->builder, job->name.data, dtype, 2, shape,
                               data, error);
}

static lora_status light_create_layer(light_create *job,
                                      const lora__light_sizes *s,
                                      float *values,
                                      lora_error *error)
{
    const int joined = job->options.variant == LORA_LIGHT_JOINED;
    lora__light_wanted wanted = {NULL, NULL, NULL, NULL};
    float *down = values + s->a * s->cols + s->rows * s->b;
    float *up = down + s->a * s->rank;

    wanted.down_aux = values;
    wanted.up_aux = values + s->a * s->cols;
    wanted.up = job->options.variant == LORA_LIGHT_DOWN_ZERO ? up : NULL;
    wanted.down = wanted.up == NULL && !joined ? down : NULL;
    TRY(lora__light_draw(&wanted, &job->light->order, job->light->seed, s,
                         job->context, error));
    if (joined) {
        TRY(light_create_put(job, LORA__ROLE_LIGHT_DOWN_UP, down, s->b, s->a,
                             error));
    } else {
        TRY(light_create_put(job, LORA__ROLE_DOWN, down, s->rank, s->a, error));
        TRY(light_create_put(job, LORA__ROLE_UP, up, s->b, s->rank, error));
    }
    if (job->options.store) {
        TRY(light_create_put(job, LORA__ROLE_LIGHT_DOWN_AUX, wanted.down_aux,
                             s->a, s->cols, error));
        TRY(light_create_put(job, LORA__ROLE_LIGHT_UP_AUX, wanted.up_aux,
                             s->rows, s->b, error));
    }
    return LORA_OK;
}

/* Room for all matrices of a layer, with zeros where nothing is drawn. */
static lora_status light_create_target(light_create *job,
                                       const int64_t shape[2],
                                       lora_error *error)
{
    lora__light_sizes s;
    size_t inner;
    size_t count;
    void *memory;
    lora_status status;

    s.rows = (size_t)shape[0];
    s.cols = (size_t)shape[1];
    s.rank = (size_t)job->options.rank;
    s.a = (size_t)job->light->down_size;
    s.b = (size_t)job->light->up_size;
    if (!lora__mul_size(s.a + s.b, s.cols + s.rows, &count) ||
        !lora__mul_size(s.a + s.b, s.rank + s.b, &inner) ||
        !lora__add_size(count, inner, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__alloc_zeroed(&memory, job->context, count, sizeof(float), error));
    status = light_create_layer(job, &s, memory, error);
    lora__free(job->context, memory, count * sizeof(float), LORA__ALIGN);
    job->count++;
    return status;
}

/* ---- the layers -------------------------------------------------------- */

static int light_create_wants(const light_create *job, const char *target)
{
    static const char *const usual[] = {"unet.*.attn1.*", "unet.*.attn2.*"};
    const char *const *patterns = job->options.targets;
    size_t count = job->options.target_count;

    if (count == 0) {
        patterns = usual;
        count = LORA__COUNT(usual);
    }
    for (size_t i = 0; i < count; i++) {
        if (lora__text_matches(patterns[i], target)) {
            return 1;
        }
    }
    return 0;
}

/* The size of a layer: of the caller, who may know better, or the family. */
static lora_status
light_create_shape(light_create *job, int64_t out_shape[2], lora_error *error)
{
    const lora_light_recipe *recipe = job->recipe;
    const char *target = job->target.data;
    size_t i = recipe->shape_count;

    while (i-- > 0) {
        if (lora__text_matches(recipe->shapes[i].pattern, target)) {
            const char *kept;
            out_shape[0] = recipe->shapes[i].rows;
            out_shape[1] = recipe->shapes[i].cols;
            TRY(lora__arena_string(&kept, &job->arena, target, strlen(target),
                                   error));
            return lora__light_add_shape(job->light, &job->arena, kept,
                                         out_shape[0], out_shape[1], error);
        }
    }
    return lora__family_shape(out_shape, job->light->family, target)
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET, target,
                            "%s does not tell the size of this layer: say it",
                            lora__family_id(job->light->family));
}

static lora_status light_create_layers(light_create *job, lora_error *error)
{
    const lora__family *family = job->light->family;
    const size_t count = lora__family_target_count(family);

    for (size_t i = 0; i < count; i++) {
        lora__target target = {LORA__LAYER_UNKNOWN, 0};
        int64_t shape[2];

        lora__buffer_clear(&job->target);
        (void)lora__family_target_at(&job->target, &target, family, i);
        TRY(lora__buffer_status(&job->target, error));
        if (target.layer == LORA__LAYER_LINEAR &&
            light_create_wants(job, job->target.data)) {
            TRY(light_create_shape(job, shape, error));
            TRY(light_create_target(job, shape, error));
        }
        TRY(lora__progress(job->context, "create", i + 1, count, error));
    }
    return job->count > 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_KEY, LORA_NO_OFFSET,
                            lora__family_id(family),
                            "no linear layer of it fits the patterns");
}

/* The recipe, and which base it is of, as other programs say it: names alone
 * may not tell. */
static lora_status light_create_metadata(light_create *job, lora_error *error)
{
    const char *version = lora__family_ss_version(job->light->family);
    const char *architecture = lora__family_architecture(job->light->family);

    TRY(lora__light_set(job->builder, job->light, error));
    TRY(lora_builder_set_metadata(job->builder, "ss_base_model_version",
                                  version, error));
    return lora_builder_set_metadata(job->builder, "modelspec.architecture",
                                     architecture, error);
}

/* ---- the call ---------------------------------------------------------- */

static lora_status light_create_check(light_create *job, lora_error *error)
{
    const char *id =
        job->options.dialect == NULL ? "diffusers-old" : job->options.dialect;

    CHECK_ARG(job->recipe != NULL && job->recipe->draws == NULL, error);
    job->options.rank = job->options.rank == 0 ? 4 : job->options.rank;
    job->options.variant =
        job->options.variant == 0 ? LORA_LIGHT_UP_ZERO : job->options.variant;
    job->dialect = lora__dialect_find(id);
    if (job->dialect == NULL) {
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, id,
                          "no such dialect");
    }
    if (!(job->options.deviation >= 0.0) ||
        job->options.deviation - job->options.deviation != 0.0) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "deviation",
                          "a number above 0 is needed");
    }
    return LORA_OK;
}

static lora_status
light_create_run(lora_adapter **out, light_create *job, lora_error *error)
{
    lora_light_recipe recipe;
    lora__buffer draws;
    lora_status status;

    TRY(light_create_check(job, error));
    lora__buffer_init(&draws, job->context);
    TRY_OR_DONE(light_create_draws(&draws, &job->options, error));
    recipe = *job->recipe;
    recipe.draws = draws.data;
    TRY_OR_DONE(
        lora__light_read(&job->light, &job->arena, &recipe, NULL, NULL, error));
    if (job->light->family == NULL) {
        status = lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                            "family", "of which base? The family is needed");
        goto done;
    }
    job->light->down_size += job->light->down_size == 0 ? LORA__LIGHT_DOWN : 0;
    job->light->up_size += job->light->up_size == 0 ? LORA__LIGHT_UP : 0;
    if (job->options.variant == LORA_LIGHT_GAUSSIAN &&
        (job->options.deviation == 0.0 || job->options.deviation == 1.0)) {
        lora__log(job->context, LORA_LOG_WARNING,
                  "with normal numbers of deviation 1 a training did not "
                  "learn: the article's loss did not fall");
    }
    TRY_OR_DONE(lora_builder_create(&job->builder, job->context, NULL, error));
    TRY_OR_DONE(light_create_layers(job, error));
    TRY_OR_DONE(light_create_metadata(job, error));
    status = lora_builder_finish(out, job->builder, error);
done:
    lora__buffer_destroy(&draws);
    return status;
}

LORA_API lora_status lora_light_create(lora_adapter **out,
                                       lora_context *context,
                                       const lora_light_recipe *recipe,
                                       const lora_light_options *options,
                                       lora_error *error)
{
    light_create job;
    lora_light_recipe r;
    lora_status status;

    lora__error_begin(error);
    CHECK_ARG(out != NULL, error);
    *out = NULL;
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(recipe != NULL, error);
    memset(&job, 0, sizeof job);
    TRY(lora__light_recipe_check(&r, recipe, error));
    TRY(lora__light_options_read(&job.options, options, error));
    job.context = context;
    job.recipe = &r;
    lora__arena_init(&job.arena, context);
    lora__buffer_init(&job.target, context);
    lora__buffer_init(&job.name, context);
    status = light_create_run(out, &job, error);
    lora_builder_destroy(job.builder);
    lora__buffer_destroy(&job.target);
    lora__buffer_destroy(&job.name);
    lora__light_destroy(job.light);
    lora__arena_destroy(&job.arena);
    return status;
}
