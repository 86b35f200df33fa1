/* Strengths that go into an adapter.
 *
 * A change that is in proportion to its strength, m dW, is the same with
 * another alpha: (m a / r) up down. The sign goes into a factor, as there are
 * programs that cannot cope with an alpha below 0; what alpha has no part in
 * (biases, full differences) is multiplied itself.
 */
#include "adapter/strength.h"

#include <string.h>

LORA_PRIVATE lora_status lora__strength_read(const lora_strength **strength,
                                             lora_error *error)
{
    const lora_strength *s = *strength;

    if (s == NULL) {
        return LORA_OK;
    }
    if (!(s->model - s->model == 0.0) ||
        !(s->text_encoder - s->text_encoder == 0.0)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET, "strength",
                          "a finite number is needed");
    }
    if (s->model == 1.0 && s->text_encoder == 1.0) {
        *strength = NULL;
    }
    return LORA_OK;
}

LORA_PRIVATE double lora__strength_of(const lora_strength *strength,
                                      const lora__module *module)
{
    static const char encoder[] = "text_encoder";

    if (strength == NULL) {
        return 1.0;
    }
    return strncmp(module->component, encoder, sizeof encoder - 1) == 0
               ? strength->text_encoder
               : strength->model;
}

LORA_PRIVATE lora_status lora__strength_check(const lora__module *module,
                                              lora_error *error)
{
    uint64_t roles = module->kind->scaled | module->kind->unscaled;
    const char *why = "has no tensor that a strength could go into";
    int found = (module->roles & roles) != 0;

    if (module->dora || lora__module_find(module, LORA__ROLE_BIAS) != NULL) {
        found = 0;
        why = "replaces what it changes: not in proportion to a strength";
    }
    return found ? LORA_OK
                 : lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                              module->name, "%s%s %s", module->kind->id,
                              module->dora ? " with DoRA" : "", why);
}

LORA_PRIVATE double lora__strength_factor(const lora__module *module,
                                          lora__role role,
                                          double scaled,
                                          double unscaled)
{
    if ((module->kind->scaled & LORA__ROLE_BIT(role)) != 0) {
        return scaled;
    }
    return (module->kind->unscaled & LORA__ROLE_BIT(role)) != 0 ? unscaled
                                                                : 1.0;
}
