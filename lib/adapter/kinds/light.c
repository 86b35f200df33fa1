/* Light-LoRA: dW = s * up_aux[out, b] up[b, r] down[r, a] down_aux[a, in], the
 * outer matrices frozen and often not stored but drawn again from a seed. up
 * and down may be stored as their product, or one after the other in a vector.
 *
 * It is a LoRA of rank r: up' = up_aux up, down' = down down_aux. Source:
 * formats.md 5.16.
 */
#include "adapter/light.h"
#include "adapter/kinds/common.h"

#include <string.h>

/* Short factors without frozen ones have the names of a LoRA's: that they are
 * short is said by a recipe, or by all of them together. */
static int light_kind_is_short(const lora_adapter *adapter,
                               const lora__module *module)
{
    const lora__entry *down =
        lora__module_entry(adapter, module, LORA__ROLE_DOWN);
    const lora__entry *up = lora__module_entry(adapter, module, LORA__ROLE_UP);
    int64_t shape[2];

    if (down == NULL || up == NULL || down->ndim != 2 || up->ndim != 2 ||
        kind_has(module, LORA__ROLE_MID)) {
        return 0;
    }
    return adapter->light_suspected ||
           (adapter->light != NULL &&
            lora__light_shape(shape, adapter->light, module) &&
            (up->shape[0] != shape[0] || down->shape[1] != shape[1]));
}

static int light_kind_claim(const lora_adapter *adapter,
                            const lora__module *module)
{
    int count = 0;

    for (int role = LORA__ROLE_LIGHT_DOWN_AUX; role <= LORA__ROLE_LIGHT_SEED;
         role++) {
        count += kind_has(module, (lora__role)role);
    }
    return count == 0 && !light_kind_is_short(adapter, module) ? 0 : 30;
}

/* One vector, of a and b that the recipe says: [r, a] and then [b, r]. */
static lora_status light_kind_vector(lora__opening *opening,
                                     lora__module *module,
                                     int64_t *out_b,
                                     int64_t *out_a)
{
    const lora__light *light = opening->adapter->light;
    const lora__entry *entry =
        lora__module_entry(opening->adapter, module, LORA__ROLE_WEIGHT);
    uint64_t both;

    TRY(lora__kind_vector(opening, module, LORA__ROLE_WEIGHT));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    if (light == NULL || light->down_size == 0 || light->up_size == 0) {
        module->lacks = "factors in one vector, and no recipe that says how "
                        "long each of them is";
        return LORA_OK;
    }
    *out_a = light->down_size;
    *out_b = light->up_size;
    both = (uint64_t)light->down_size + (uint64_t)light->up_size;
    if (entry->elements % both != 0) {
        return lora__module_reject(
            opening, module, LORA_ERROR_SHAPE, "rank_mismatch",
            "%llu numbers are no factors of sizes %lld and %lld",
            (unsigned long long)entry->elements, (long long)*out_a,
            (long long)*out_b);
    }
    return lora__kind_set_rank(opening, module,
                               (int64_t)(entry->elements / both));
}

/* The two trained factors, down [r, a] and up [b, r]; or their product [b, a];
 * or both in one vector. Sets the inner sizes, -1 where nothing tells them. */
static lora_status light_kind_inner(lora__opening *opening,
                                    lora__module *module,
                                    int64_t *out_b,
                                    int64_t *out_a)
{
    const lora__entry *down =
        lora__kind_optional(opening, module, LORA__ROLE_DOWN, 2);
    const lora__entry *up =
        lora__kind_optional(opening, module, LORA__ROLE_UP, 2);
    const lora__entry *product =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_DOWN_UP, 2);

    *out_a = *out_b = -1;
    if (kind_has(module, LORA__ROLE_WEIGHT)) {
        return light_kind_vector(opening, module, out_b, out_a);
    }
    if (product != NULL) {
        *out_b = product->shape[0];
        *out_a = product->shape[1];
        return LORA_OK;
    }
    if (down == NULL || up == NULL) {
        return lora__module_reject(opening, module, LORA_ERROR_KEY,
                                   "missing_pair",
                                   "down and up, or their product, is missing");
    }
    *out_b = up->shape[0];
    *out_a = down->shape[1];
    TRY(lora__kind_set_rank(opening, module, down->shape[0]));
    return lora__kind_agree(opening, module, "ranks of up and down",
                            up->shape[1], down->shape[0]);
}

/* The size of the weight: of frozen matrices that are there, else of the
 * recipe, which must not contradict the one that is. */
static lora_status light_kind_outer(lora__opening *opening,
                                    lora__module *module,
                                    const lora__entry *in,
                                    const lora__entry *out)
{
    const lora__light *light = opening->adapter->light;
    int64_t shape[2] = {0, 0};

    if (in != NULL && out != NULL) {
        return lora__kind_set_shape(opening, module, out->shape[0],
                                    in->shape[1], NULL);
    }
    if (module->lacks != NULL) {
        return LORA_OK;
    }
    if (light == NULL) {
        module->lacks = "frozen matrices that are not stored, and no recipe "
                        "that says how they were drawn: see lora light";
        return LORA_OK;
    }
    if (!lora__light_shape(shape, light, module)) {
        module->lacks = "frozen matrices that are not stored, and the recipe "
                        "does not say the size of this layer: see lora light";
        return LORA_OK;
    }
    if (in != NULL) {
        TRY(lora__kind_agree(opening, module, "columns by recipe and down_aux",
                             shape[1], in->shape[1]));
    }
    if (out != NULL) {
        TRY(lora__kind_agree(opening, module, "rows by recipe and up_aux",
                             shape[0], out->shape[0]));
    }
    return lora__kind_set_shape(opening, module, shape[0], shape[1], NULL);
}

/* The type of what is trained: a seed is an integer. */
static lora_dtype light_kind_dtype(const lora_adapter *adapter,
                                   const lora__module *module)
{
    static const lora__role trained[] = {
        LORA__ROLE_DOWN, LORA__ROLE_LIGHT_DOWN_UP, LORA__ROLE_WEIGHT};

    for (size_t i = 0; i < LORA__COUNT(trained); i++) {
        const lora__entry *entry =
            lora__module_entry(adapter, module, trained[i]);
        if (entry != NULL) {
            return entry->dtype;
        }
    }
    return adapter->container->entries[module->members[0].entry].dtype;
}

static lora_status light_kind_parse(lora__opening *opening,
                                    lora__module *module)
{
    static const lora__role matrices[] = {
        LORA__ROLE_DOWN, LORA__ROLE_UP, LORA__ROLE_LIGHT_DOWN_UP,
        LORA__ROLE_LIGHT_DOWN_AUX, LORA__ROLE_LIGHT_UP_AUX};
    const lora__entry *in =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_DOWN_AUX, 2);
    const lora__entry *out =
        lora__kind_optional(opening, module, LORA__ROLE_LIGHT_UP_AUX, 2);
    int64_t a;
    int64_t b;

    module->scale = 1.0;
    module->changes = LORA_PART_WEIGHT;
    module->dtype = light_kind_dtype(opening->adapter, module);
    TRY(light_kind_inner(opening, module, &b, &a));
    for (size_t i = 0; i < LORA__COUNT(matrices); i++) {
        TRY(lora__kind_matrix(opening, module, matrices[i]));
    }
    if (in != NULL && a >= 0) {
        TRY(lora__kind_agree(opening, module, "sizes of down and down_aux", a,
                             in->shape[0]));
    }
    if (out != NULL && b >= 0) {
        TRY(lora__kind_agree(opening, module, "sizes of up and up_aux", b,
                             out->shape[1]));
    }
    if (module->status == LORA_OK) {
        TRY(light_kind_outer(opening, module, in, out));
    }
    return module->status != LORA_OK || module->rank == 0
               ? LORA_OK
               : lora__module_resolve_scale(opening, module);
}

/* ---- numbers ----------------------------------------------------------- */

enum {
    LIGHT_BLOCK_UP,   /* up' [rows, rank] */
    LIGHT_BLOCK_DOWN, /* down' [rank, cols] */
    LIGHT_BLOCK_INNER,
    LIGHT_BLOCK_AUX
};

/* Of a product the whole is exact with the shorter side between the factors. */
static size_t light_kind_rank(const lora__light_sizes *s,
                              const lora__module *module)
{
    return !kind_has(module, LORA__ROLE_LIGHT_DOWN_UP) ? s->rank
           : s->a < s->b                               ? s->a
                                                       : s->b;
}

static size_t light_kind_factor_rank(const lora_adapter *adapter,
                                     const lora__module *module)
{
    lora__light_sizes sizes;

    lora__light_sizes_of(&sizes, adapter, module);
    return light_kind_rank(&sizes, module);
}

static void light_kind_drop(lora__rows *state, size_t block)
{
    if (state->blocks[block] != NULL) {
        lora__free(state->context, state->blocks[block],
                   state->block_bytes[block], LORA__ALIGN_NUMERIC);
        state->blocks[block] = NULL;
    }
}

/* A frozen matrix that is not stored. */
static lora_status light_kind_draw(float *out,
                                   const lora_adapter *adapter,
                                   const lora__module *module,
                                   int is_up,
                                   const lora__light_sizes *s,
                                   lora_error *error)
{
    const lora__light_wanted wanted = {is_up ? NULL : out, NULL, NULL,
                                       is_up ? out : NULL};
    uint64_t seed;

    INVARIANT(adapter->light != NULL, error);
    TRY(lora__light_seed(&seed, adapter, module, error));
    return lora__light_draw(&wanted, &adapter->light->order, seed, s,
                            adapter->context, error);
}

/* A frozen matrix into a block: as stored, or drawn. */
static lora_status light_kind_aux(lora__rows *state,
                                  size_t block,
                                  const lora_adapter *adapter,
                                  const lora__module *module,
                                  int is_up,
                                  const lora__light_sizes *s,
                                  lora_error *error)
{
    const lora__member *member = lora__module_find(
        module, is_up ? LORA__ROLE_LIGHT_UP_AUX : LORA__ROLE_LIGHT_DOWN_AUX);
    float *drawn;
    size_t count;
    lora_status status;

    if (member != NULL) {
        return lora__rows_load(state, block, adapter, member->entry, error);
    }
    if (!lora__mul_size(is_up ? s->b : s->a, is_up ? s->rows : s->cols,
                        &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, block, count, error));
    if (state->dtype == LORA_DTYPE_F32) {
        return light_kind_draw(state->blocks[block], adapter, module, is_up, s,
                               error);
    }
    drawn =
        lora__alloc(state->context, count * sizeof *drawn, LORA__ALIGN_NUMERIC);
    if (drawn == NULL) {
        return lora__fail_memory(error, count * sizeof *drawn);
    }
    status = light_kind_draw(drawn, adapter, module, is_up, s, error);
    if (status == LORA_OK) {
        state->kernels->f32_to_f64(state->blocks[block], drawn, count);
    }
    lora__free(state->context, drawn, count * sizeof *drawn,
               LORA__ALIGN_NUMERIC);
    return status;
}

/* block[rows, cols] = left[rows, inner] right[inner, cols] */
static lora_status light_kind_multiply(lora__rows *state,
                                       size_t block,
                                       const void *left,
                                       const void *right,
                                       size_t rows,
                                       size_t inner,
                                       size_t cols,
                                       lora_error *error)
{
    const size_t step = cols * lora__rows_size(state);
    const unsigned char *from = right;
    unsigned char *row;
    size_t count;

    if (!lora__mul_size(rows, cols, &count)) {
        return lora__fail_memory(error, UINT64_MAX);
    }
    TRY(lora__rows_block(state, block, count, error));
    row = state->blocks[block];
    memset(row, 0, count * lora__rows_size(state));
    for (size_t i = 0; i < rows; i++, row += step) {
        for (size_t k = 0; k < inner; k++) {
            lora__rows_axpy(state, row, from + k * step, left, i * inner + k,
                            cols);
        }
    }
    return LORA_OK;
}

/* The tensor that has the trained factor of a side, and where in it that
 * begins, in numbers. */
static const lora__member *light_kind_trained(size_t *out_at,
                                              const lora__module *module,
                                              int is_up,
                                              const lora__light_sizes *s)
{
    const lora__member *member =
        lora__module_find(module, is_up ? LORA__ROLE_UP : LORA__ROLE_DOWN);

    *out_at = 0;
    if (kind_has(module, LORA__ROLE_WEIGHT)) {
        *out_at = is_up ? s->rank * s->a : 0;
        return lora__module_find(module, LORA__ROLE_WEIGHT);
    }
    if (kind_has(module, LORA__ROLE_LIGHT_DOWN_UP)) {
        return is_up == (s->a < s->b)
                   ? lora__module_find(module, LORA__ROLE_LIGHT_DOWN_UP)
                   : NULL; /* the other side is the frozen matrix alone */
    }
    return member;
}

static lora_status light_kind_side(lora__rows *state,
                                   const lora_adapter *adapter,
                                   const lora__module *module,
                                   int is_up,
                                   const lora__light_sizes *s,
                                   lora_error *error)
{
    const size_t block = is_up ? LIGHT_BLOCK_UP : LIGHT_BLOCK_DOWN;
    const unsigned char *inner;
    size_t at;
    const lora__member *trained = light_kind_trained(&at, module, is_up, s);

    if (trained == NULL) {
        return light_kind_aux(state, block, adapter, module, is_up, s, error);
    }
    TRY(light_kind_aux(state, LIGHT_BLOCK_AUX, adapter, module, is_up, s,
                       error));
    TRY(lora__rows_load(state, LIGHT_BLOCK_INNER, adapter, trained->entry,
                        error));
    inner = state->blocks[LIGHT_BLOCK_INNER];
    inner += at * lora__rows_size(state);
    if (is_up) {
        TRY(light_kind_multiply(state, block, state->blocks[LIGHT_BLOCK_AUX],
                                inner, s->rows, s->b, state->rank, error));
    } else {
        TRY(light_kind_multiply(state, block, inner,
                                state->blocks[LIGHT_BLOCK_AUX], state->rank,
                                s->a, s->cols, error));
    }
    light_kind_drop(state, LIGHT_BLOCK_INNER);
    light_kind_drop(state, LIGHT_BLOCK_AUX);
    return LORA_OK;
}

static lora_status light_kind_prepare(lora__rows *state,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora_error *error)
{
    lora__light_sizes sizes;

    lora__light_sizes_of(&sizes, adapter, module);
    state->rank = light_kind_rank(&sizes, module);
    state->multiplier *= module->scale;
    TRY(light_kind_side(state, adapter, module, 1, &sizes, error));
    return light_kind_side(state, adapter, module, 0, &sizes, error);
}

static void light_kind_rows(const lora__rows *state,
                            const lora__module *module,
                            size_t begin,
                            size_t end,
                            void *out)
{
    (void)module;
    lora__kind_rows_product(state, LIGHT_BLOCK_UP, LIGHT_BLOCK_DOWN, begin, end,
                            out);
}

static lora_status light_kind_factors(lora__factors *out,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora_error *error)
{
    lora__rows state;
    lora_status status;

    TRY(lora__rows_create_factors(&state, adapter, module, error));
    status = lora__kind_take_factors(out, &state, LIGHT_BLOCK_UP,
                                     LIGHT_BLOCK_DOWN, error);
    lora__rows_destroy(&state);
    return status;
}

/* Rows of the frozen matrix, if it is stored: drawn again, it would be one of
 * another size. */
static int light_kind_extent(lora__extent *out,
                             const lora_adapter *adapter,
                             const lora__module *module,
                             lora__role role)
{
    (void)adapter;
    if (!kind_has(module, LORA__ROLE_LIGHT_UP_AUX) ||
        kind_has(module, LORA__ROLE_LIGHT_SEED)) {
        return 0;
    }
    out->rows = role == LORA__ROLE_LIGHT_UP_AUX ? 0 : LORA__AXIS_NONE;
    return role == LORA__ROLE_DOWN || role == LORA__ROLE_UP ||
           (role >= LORA__ROLE_LIGHT_DOWN_AUX &&
            role <= LORA__ROLE_LIGHT_DOWN_UP);
}

LORA_PRIVATE const lora__kind lora__kind_light = {
    .id = "light",
    .roles = LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |
             LORA__ROLE_BIT(LORA__ROLE_WEIGHT) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_DOWN_AUX) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_UP_AUX) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_DOWN_UP) |
             LORA__ROLE_BIT(LORA__ROLE_LIGHT_SEED) |
             LORA__ROLE_BIT(LORA__ROLE_SCALE) |
             LORA__ROLE_BIT(LORA__ROLE_SCALAR),
    .scaled = LORA__ROLE_BIT(LORA__ROLE_UP) |
              LORA__ROLE_BIT(LORA__ROLE_LIGHT_DOWN_UP),
    .claim = light_kind_claim,
    .parse = light_kind_parse,
    .factor_rank = light_kind_factor_rank,
    .factors = light_kind_factors,
    .prepare = light_kind_prepare,
    .rows = light_kind_rows,
    .chain = lora__chain_light,
    .extent = light_kind_extent,
};
