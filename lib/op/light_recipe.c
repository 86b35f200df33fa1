/* Recipes of callers, and single draws. */
#include "op/light.h"

#include "core/options.h"
#include "core/text.h"
#include "model/checkpoint.h"

#include <string.h>

LORA_API void lora_light_recipe_init(lora_light_recipe *recipe, size_t size)
{
    lora__options_init(recipe, size);
}

LORA_API void lora_light_options_init(lora_light_options *options, size_t size)
{
    lora__options_init(options, size);
}

LORA_PRIVATE lora_status lora__light_options_read(lora_light_options *out,
                                                  const lora_light_options *in,
                                                  lora_error *error)
{
    TRY(lora__options_read(out, sizeof *out,
                           LORA__SIZE_TO(lora_light_options, variant), in,
                           error));
    if (out->dtype != LORA_DTYPE_NONE && !lora__dtype_is_float(out->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, LORA_NO_OFFSET, "dtype",
                          "%s is no type for factors",
                          lora_dtype_name(out->dtype));
    }
    CHECK_ARG(out->target_count == 0 || out->targets != NULL, error);
    for (size_t i = 0; i < out->target_count; i++) {
        CHECK_ARG(out->targets[i] != NULL, error);
    }
    return out->rank >= 0 && out->rank <= INT32_MAX
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "rank",
                            "%lld is no rank", (long long)out->rank);
}

LORA_PRIVATE int lora__light_is(const lora__module *module)
{
    return module->kind != NULL &&
           (module->kind->roles & LORA__ROLE_BIT(LORA__ROLE_LIGHT_UP_AUX)) != 0;
}

/* ---- recipes ----------------------------------------------------------- */

/* The size of a layer in a base model. */
static int light_recipe_base(int64_t shape[2],
                             const lora__checkpoint *base,
                             const lora__module *module)
{
    const lora__holding *hold =
        base == NULL ? NULL
                     : lora__checkpoint_find_target(base, module->target,
                                                    LORA__ROLE_WEIGHT);

    if (hold == NULL || hold->rows > INT32_MAX || hold->columns > INT32_MAX) {
        return 0;
    }
    shape[0] = (int64_t)hold->rows;
    shape[1] = (int64_t)hold->columns;
    return 1;
}

static lora_status light_recipe_shapes(lora__light *light,
                                       lora__arena *arena,
                                       const lora_light_recipe *recipe,
                                       const lora_adapter *adapter,
                                       const lora__checkpoint *base,
                                       lora_error *error)
{
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        int64_t shape[2] = {0, 0};
        int known = light_recipe_base(shape, base, module);
        size_t i = recipe->shape_count;

        while (i-- > 0) {
            const lora_light_shape *theirs = &recipe->shapes[i];
            if (lora__module_matches(module, theirs->pattern)) {
                shape[0] = theirs->rows;
                shape[1] = theirs->cols;
                known = 1;
                break;
            }
        }
        if (known) {
            TRY(lora__light_add_shape(light, arena, module->target, shape[0],
                                      shape[1], error));
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status
lora__light_recipe_check(lora_light_recipe *recipe,
                         const lora_light_recipe *theirs,
                         lora_error *error)
{
    TRY(lora__options_read(recipe, sizeof *recipe,
                           LORA__SIZE_TO(lora_light_recipe, up_size), theirs,
                           error));
    CHECK_ARG(recipe->shape_count == 0 || recipe->shapes != NULL, error);
    for (size_t i = 0; i < recipe->shape_count; i++) {
        CHECK_ARG(recipe->shapes[i].pattern != NULL, error);
    }
    if (recipe->down_size < 0 || recipe->up_size < 0 ||
        recipe->down_size > INT32_MAX / 64 ||
        recipe->up_size > INT32_MAX / 64) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "recipe",
                          "%lld and %lld are no sizes",
                          (long long)recipe->down_size,
                          (long long)recipe->up_size);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__light_read(lora__light **out,
                                          lora__arena *arena,
                                          const lora_light_recipe *recipe,
                                          const lora_adapter *adapter,
                                          const lora__family *family,
                                          lora_error *error)
{
    lora_light_recipe r;
    lora__checkpoint *base = NULL;
    lora_status status = LORA_OK;

    TRY(lora__light_recipe_check(&r, recipe, error));
    TRY(lora__light_create(
        out, arena, r.seed,
        r.draws == NULL ? LORA__LIGHT_DEFAULT_DRAWS : r.draws, error));
    (*out)->family = family;
    (*out)->down_size = r.down_size;
    (*out)->up_size = r.up_size;
    if (r.family != NULL) {
        (*out)->family = lora__family_find(r.family);
        if ((*out)->family == NULL) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET,
                              r.family, "no such family");
        }
    }
    if (adapter == NULL) {
        return LORA_OK;
    }
    if (r.base != NULL) {
        TRY_OR_DONE(
            lora__checkpoint_open(&base, arena->context, r.base, 0, error));
    }
    status = light_recipe_shapes(*out, arena, &r, adapter, base, error);
done:
    lora__checkpoint_release(base);
    return status;
}

LORA_PRIVATE lora_status lora__light_set(lora_builder *builder,
                                         const lora__light *light,
                                         lora_error *error)
{
    lora__buffer text;
    lora_status status;

    lora__buffer_init(&text, light->shapes.context);
    lora__light_put(&text, light);
    status = lora__buffer_status(&text, error);
    if (status == LORA_OK) {
        status = lora_builder_set_metadata(builder, LORA__LIGHT_KEY, text.data,
                                           error);
    }
    lora__buffer_destroy(&text);
    return status;
}

LORA_PRIVATE lora_status lora__light_attach(lora_adapter **out,
                                            const lora_adapter *adapter,
                                            const lora_light_recipe *recipe,
                                            lora_error *error)
{
    lora__arena arena;
    lora__light *light = NULL;
    lora_builder *builder = NULL;
    lora_status status;

    lora__arena_init(&arena, adapter->context);
    TRY_OR_DONE(lora__light_read(&light, &arena, recipe, adapter,
                                 adapter->names.family, error));
    TRY_OR_DONE(
        lora_builder_create(&builder, adapter->context, adapter, error));
    TRY_OR_DONE(lora__light_set(builder, light, error));
    status = lora_builder_finish(out, builder, error);
done:
    lora_builder_destroy(builder);
    lora__light_destroy(light);
    lora__arena_destroy(&arena);
    return status;
}

/* ---- names ------------------------------------------------------------- */

LORA_PRIVATE lora_status lora__light_name(lora__buffer *out,
                                          const lora__dialect *dialect,
                                          lora__spelling *spelling,
                                          lora__role role,
                                          lora_error *error)
{
    static const char frozen[] = ".light_down_aux";
    lora__row_set rows; /* of a linear layer they are all */

    lora__buffer_clear(out);
    spelling->rows = &rows;
    spelling->role = LORA__ROLE_LIGHT_DOWN_AUX;
    TRY(lora__names_write(out, dialect, spelling, error));
    TRY(lora__buffer_status(out, error));
    if ((role == LORA__ROLE_DOWN || role == LORA__ROLE_UP) &&
        lora__text_ends(out->data, out->bytes, frozen)) {
        out->bytes -= sizeof frozen - 1;
        lora__buffer_puts(out,
                          role == LORA__ROLE_UP ? ".light_up" : ".light_down");
    } else if (role != LORA__ROLE_LIGHT_DOWN_AUX) {
        lora__buffer_clear(out);
        spelling->role = role;
        TRY(lora__names_write(out, dialect, spelling, error));
    }
    return lora__buffer_status(out, error);
}

/* ---- single draws ------------------------------------------------------ */

static lora_status light_draw_check(const lora_light_draw *draw,
                                    lora_error *error)
{
    if (draw->rows < 1 || draw->cols < 1 || draw->rows > INT32_MAX / 64 ||
        draw->cols > INT32_MAX / 64 ||
        draw->rows * draw->cols > (int64_t)(SIZE_MAX / sizeof(double) / 4)) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, NULL,
                          "%lld x %lld is no matrix to draw",
                          (long long)draw->rows, (long long)draw->cols);
    }
    CHECK_ARG(draw->init >= LORA_LIGHT_ORTHOGONAL &&
                  draw->init <= LORA_LIGHT_LINEAR,
              error);
    CHECK_ARG(draw->value - draw->value == 0.0, error);
    return lora__options_reserved(draw->reserved1, error);
}

LORA_API lora_status lora_light_draw_matrix(void *buffer,
                                            size_t bytes,
                                            lora_context *context,
                                            uint64_t seed,
                                            const lora_light_draw *draws,
                                            size_t draw_count,
                                            lora_error *error)
{
    lora__torch_rng rng;
    size_t most = 0;
    float *scratch;
    lora_status status = LORA_OK;

    lora__error_begin(error);
    CHECK_ARG(buffer != NULL, error);
    CHECK_ARG(context != NULL, error);
    CHECK_ARG(draws != NULL && draw_count > 0, error);
    for (size_t i = 0; i < draw_count; i++) {
        size_t count;
        TRY(light_draw_check(&draws[i], error));
        count = (size_t)draws[i].rows * (size_t)draws[i].cols;
        most = count > most ? count : most;
        if (i + 1 == draw_count && bytes != count * sizeof *scratch) {
            return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, NULL,
                              "the buffer has not the size of the last draw");
        }
    }
    scratch = lora__alloc(context, most * sizeof *scratch, LORA__ALIGN_NUMERIC);
    if (scratch == NULL) {
        return lora__fail_memory(error, most * sizeof *scratch);
    }
    lora__torch_seed(&rng, seed);
    for (size_t i = 0; i < draw_count; i++) {
        TRY_OR_DONE(lora__light_draw_one(
            scratch, &rng, (lora__light_init)draws[i].init, draws[i].value,
            (size_t)draws[i].rows, (size_t)draws[i].cols, context, error));
    }
    memcpy(buffer, scratch, bytes);
done:
    lora__free(context, scratch, most * sizeof *scratch, LORA__ALIGN_NUMERIC);
    return status;
}
