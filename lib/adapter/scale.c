/* The scale of a module: from its tensors, or from what lies beside the file.
 * Source: formats.md 5.4.
 */
#include "adapter/config.h"
#include "kernel/kernel.h"

#include <math.h>

LORA_PRIVATE lora_status lora__adapter_read_scalar(double *out,
                                                   const lora_adapter *adapter,
                                                   size_t index,
                                                   lora_error *error)
{
    const lora__entry *entry = &adapter->container->entries[index];
    unsigned char bytes[16];

    if (entry->elements != 1) {
        return lora__fail(error, LORA_ERROR_SHAPE, entry->offset, entry->name,
                          "%llu elements where one number belongs",
                          (unsigned long long)entry->elements);
    }
    if (!lora__dtype_is_readable(entry->dtype)) {
        return lora__fail(error, LORA_ERROR_DTYPE, entry->offset, entry->name,
                          "%s where one number belongs",
                          lora_dtype_name(entry->dtype));
    }
    TRY(lora__container_read(adapter->container, index, 0, bytes,
                             (size_t)entry->bytes, error));
    return lora__convert_to_f64(out, bytes, entry->dtype, 1,
                                lora__kernels_get(0), error);
}

LORA_PRIVATE lora_status lora__module_read_number(double *out,
                                                  lora__opening *opening,
                                                  lora__module *module,
                                                  lora__role role)
{
    const lora__member *member = lora__module_find(module, role);
    lora_error found;
    lora_status status;

    lora_error_init(&found, sizeof found);
    status =
        lora__adapter_read_scalar(out, opening->adapter, member->entry, &found);
    if (status == LORA_ERROR_SHAPE || status == LORA_ERROR_DTYPE) {
        return lora__module_reject(opening, module, status, "alpha_invalid",
                                   "%s: %s", lora__role_name(role),
                                   found.message);
    }
    if (status != LORA_OK) {
        return lora__error_merge(opening->error, &found);
    }
    if (!(*out - *out == 0.0)) {
        return lora__module_reject(opening, module, LORA_ERROR_NONFINITE,
                                   "alpha_invalid", "%s is not finite",
                                   lora__role_name(role));
    }
    return LORA_OK;
}

/* A gate on the whole change; 1 where there is none. */
static lora_status scale_gate(lora__opening *opening, lora__module *module)
{
    double gate = 1.0;

    if (lora__module_find(module, LORA__ROLE_SCALE) != NULL) {
        TRY(lora__module_read_number(&module->scale, opening, module,
                                     LORA__ROLE_SCALE));
    }
    if (lora__module_find(module, LORA__ROLE_SCALAR) != NULL) {
        TRY(lora__module_read_number(&gate, opening, module,
                                     LORA__ROLE_SCALAR));
        module->scale *= gate;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__module_resolve_scale(lora__opening *opening,
                                                    lora__module *module)
{
    const lora_adapter *adapter = opening->adapter;
    int rslora = 0;

    module->scale = 1.0;
    if (lora__module_find(module, LORA__ROLE_ALPHA) != NULL) {
        TRY(lora__module_read_number(&module->alpha, opening, module,
                                     LORA__ROLE_ALPHA));
        module->has_alpha = 1;
    } else if (lora__config_alpha(&module->alpha, &rslora, adapter->config,
                                  module->target)) {
        module->has_alpha = 1;
        if (!(module->alpha - module->alpha == 0.0)) {
            return lora__module_reject(opening, module, LORA_ERROR_NONFINITE,
                                       "alpha_invalid", "alpha is not finite");
        }
    }
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    /* alpha 0 is stored by trainers that mean "the rank". */
    if (module->has_alpha && module->alpha != 0.0 && module->rank > 0) {
        double rank = (double)module->rank;
        module->scale = module->alpha / (rslora ? sqrt(rank) : rank);
    }
    return scale_gate(opening, module);
}

LORA_PRIVATE lora_status
lora__module_resolve_scale_whole(lora__opening *opening, lora__module *module)
{
    const lora__peft_config *config = opening->adapter->config;
    double alpha;
    int rslora;

    module->scale = 1.0;
    if (lora__module_find(module, LORA__ROLE_ALPHA) == NULL &&
        lora__config_alpha(&alpha, &rslora, config, module->target) &&
        alpha != 0.0) {
        double rank = lora__config_rank(config, module->target);
        if (!(alpha - alpha == 0.0) || !(rank >= 1.0 && rank - rank == 0.0)) {
            return lora__module_reject(opening, module, LORA_ERROR_NONFINITE,
                                       "alpha_invalid",
                                       "the configuration tells no alpha / r");
        }
        module->scale = alpha / rank;
    }
    return scale_gate(opening, module);
}
