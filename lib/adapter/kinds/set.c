/* A whole new weight: W' = S, and W + m (S - W) at other strengths. alpha has
 * no meaning here. Source: formats.md 5.8.
 */
#include "adapter/kinds/common.h"

#include <string.h>

static int set_kind_claim(const lora_adapter *adapter,
                          const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_SET_WEIGHT) ? 6 : 0;
}

static lora_status set_kind_parse(lora__opening *opening, lora__module *module)
{
    const lora__entry *weight =
        lora__kind_require(opening, module, LORA__ROLE_SET_WEIGHT, 1);

    if (weight == NULL) {
        return LORA_OK;
    }
    module->scale = 1.0;
    module->dtype = weight->dtype;
    module->changes = LORA_PART_WEIGHT;
    module->needs = LORA_PART_WEIGHT;
    module->ndim = weight->ndim;
    memcpy(module->shape, weight->shape, sizeof module->shape);
    return LORA_OK;
}

static lora_status set_kind_prepare(lora__rows *state,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora_error *error)
{
    return lora__rows_load(
        state, 0, adapter,
        lora__module_find(module, LORA__ROLE_SET_WEIGHT)->entry, error);
}

static void set_kind_rows(const lora__rows *state,
                          const lora__module *module,
                          size_t begin,
                          size_t end,
                          void *out)
{
    static const double minus[1] = {-1.0};
    static const float minus_f32[1] = {-1.0F};
    size_t count = (end - begin) * state->cols;

    (void)module;
    memcpy(out,
           (const unsigned char *)state->blocks[0] +
               begin * state->cols * lora__rows_size(state),
           count * lora__rows_size(state));
    lora__rows_axpy(state, out, lora__rows_base(state, begin),
                    state->dtype == LORA_DTYPE_F64 ? (const void *)minus
                                                   : minus_f32,
                    0, count);
    lora__rows_scale(state, out, count);
}

static int set_kind_extent(lora__extent *out,
                           const lora_adapter *adapter,
                           const lora__module *module,
                           lora__role role)
{
    (void)adapter;
    (void)module;
    out->rows = 0;
    out->neutral = 0;
    out->mirror = role;
    return role == LORA__ROLE_SET_WEIGHT;
}

LORA_PRIVATE const lora__kind lora__kind_set = {
    .id = "set",
    .is_whole = 1,
    .roles = LORA__ROLE_BIT(LORA__ROLE_SET_WEIGHT),
    .claim = set_kind_claim,
    .parse = set_kind_parse,
    .prepare = set_kind_prepare,
    .rows = set_kind_rows,
    .extent = set_kind_extent,
};
