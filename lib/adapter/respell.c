/* Tensors in another dialect: what its readers know under another role, in
 * other dimensions, or not at all. Source: formats.md 4.2, 5.10, 5.13.
 */
#include "adapter/kinds/common.h"

#include <string.h>

LORA_PRIVATE lora_status lora__respell_refuse(const lora__module *module,
                                              const lora__dialect *to,
                                              const char *why,
                                              lora_error *error)
{
    return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                      module->name, "%s cannot hold this %s: %s",
                      lora__dialect_id(to), module->kind->id, why);
}

/* Factors as readers expect them, whichever way the trainer stored them: two
 * dimensions for a linear layer, four for a 1 x 1 convolution, and for up those
 * of down. */
static void respell_factor(lora__respelling *out,
                           const lora__module *module,
                           lora__role role,
                           int32_t ndim,
                           const int64_t *shape)
{
    for (int32_t i = 2; i < ndim; i++) {
        if (shape[i] != 1) {
            return;
        }
    }
    for (int32_t i = 0; i < LORA_MAX_DIMS; i++) {
        out->shape[i] = i < 2 ? shape[i] : 1;
    }
    if (module->layer == LORA__LAYER_LINEAR && ndim == 4) {
        out->ndim = 2;
    } else if (ndim == 2 && (module->layer == LORA__LAYER_CONV1 ||
                             (role == LORA__ROLE_UP && module->ndim > 2))) {
        out->ndim = module->ndim > 2 ? module->ndim : 4;
    }
}

static int respell_has_peft_magnitude(const lora_adapter *adapter,
                                      const lora__module *module)
{
    const lora__entry *entry =
        lora__module_entry(adapter, module, LORA__ROLE_DORA);

    return entry != NULL &&
           lora__name_has_peft_magnitude(entry->name, entry->name_bytes);
}

/* A magnitude of rows: LyCORIS has [n, 1 ...], as the weight has dimensions;
 * PEFT [n], and [1, n, 1 ...] of a convolution. */
static void respell_magnitude(lora__respelling *out,
                              const lora__module *module,
                              int peft,
                              int32_t ndim,
                              const int64_t *shape)
{
    int matrix = module->ndim == 2 || module->kind->columns;
    uint64_t count = lora__shape_count(shape, 0, ndim); /* all but one are 1 */

    for (int32_t i = 0; i < LORA_MAX_DIMS; i++) {
        out->shape[i] = 1;
    }
    out->ndim = peft && matrix ? 1 : module->ndim;
    out->shape[peft && !matrix ? 1 : 0] = (int64_t)count;
}

LORA_PRIVATE void lora__respell_shape(lora__respelling *out,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      lora__role role,
                                      const lora__dialect *to,
                                      int32_t ndim,
                                      const int64_t *shape)
{
    int peft = lora__dialect_has_peft_magnitude(to);

    if (role == LORA__ROLE_DOWN || role == LORA__ROLE_UP) {
        respell_factor(out, module, role, ndim, shape);
    } else if (role == LORA__ROLE_DORA &&
               peft != respell_has_peft_magnitude(adapter, module)) {
        respell_magnitude(out, module, peft, ndim, shape);
    }
}

/* PEFT knows DoRA of a pair alone, and of rows. */
static lora_status respell_check_dora(const lora_adapter *adapter,
                                      const lora__module *module,
                                      const lora__dialect *to,
                                      lora_error *error)
{
    const lora__entry *entry =
        lora__module_entry(adapter, module, LORA__ROLE_DORA);

    if (respell_has_peft_magnitude(adapter, module) ||
        !lora__dialect_has_peft_magnitude(to)) {
        return LORA_OK;
    }
    if (!module->kind->is_pair && !module->kind->columns) {
        return lora__respell_refuse(module, to,
                                    "it has DoRA of plain pairs only", error);
    }
    return lora__kind_dora_inputs(module, entry, 0)
               ? lora__respell_refuse(
                     module, to,
                     "its DoRA gives norms to outputs, this one to "
                     "inputs",
                     error)
               : LORA_OK;
}

LORA_PRIVATE lora_status lora__module_respell(lora__respelling *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              lora__role role,
                                              const lora__dialect *to,
                                              lora_error *error)
{
    const lora__entry *entry = lora__module_entry(adapter, module, role);

    memset(out, 0, sizeof *out);
    out->role = role;
    out->ndim = -1;
    if (module->kind->respell != NULL) {
        TRY(module->kind->respell(out, adapter, module, role, to, error));
    }
    if (out->role != LORA__ROLE_UNKNOWN &&
        !lora__dialect_has_role(to, out->role)) {
        return lora__fail(
            error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
            "%s cannot hold this %s: it has no name for %s",
            lora__dialect_id(to), module->kind->id, lora__role_name(out->role));
    }
    if (role == LORA__ROLE_DORA) {
        TRY(respell_check_dora(adapter, module, to, error));
    }
    if (out->ndim < 0) {
        lora__respell_shape(out, adapter, module, role, to, entry->ndim,
                            entry->shape);
    }
    return LORA_OK;
}
