/* Repairing numbers: alphas that programs read in different ways, and factors
 * over the range of F16.
 *
 *   alpha      none, or 0: the rank, which is the scale 1 that it means
 *   sign       dW = (-a / r) up down = (a / r) (-up) down
 *   range      up down = (2^-k up) (2^k down)
 *
 * All exact: a sign is a bit, and a power of two is only applied where no
 * number leaves the range of its type or loses digits below it.
 */
#include "op/fix.h"

#include "kernel/kernel.h"

enum { FIX_CHUNK = 512 };

/* 1 if every number of the tensor times the power of two is one of its type. */
static lora_status fix_is_exact(int *out,
                                const lora_adapter *adapter,
                                size_t index,
                                double factor,
                                lora_error *error)
{
    const lora__container *container = adapter->container;
    const lora__entry *entry = &container->entries[index];
    const lora__kernels *kernels = lora__kernels_get(0);
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    unsigned char bytes[FIX_CHUNK * sizeof(double)];
    double before[FIX_CHUNK];
    double after[FIX_CHUNK];

    *out = 1;
    for (uint64_t done = 0; *out && done < entry->elements; done += FIX_CHUNK) {
        uint64_t left = entry->elements - done;
        size_t count = left < FIX_CHUNK ? (size_t)left : FIX_CHUNK;
        TRY(lora__container_read(container, index, done * size, bytes,
                                 count * size, error));
        TRY(lora__convert_to_f64(before, bytes, entry->dtype, count, kernels,
                                 error));
        for (size_t i = 0; i < count; i++) {
            after[i] = before[i] * factor;
        }
        TRY(lora__convert_from_f64(bytes, entry->dtype, after, count, kernels,
                                   error));
        TRY(lora__convert_to_f64(after, bytes, entry->dtype, count, kernels,
                                 error));
        for (size_t i = 0; i < count; i++) {
            *out &= after[i] / factor == before[i];
        }
    }
    return LORA_OK;
}

/* The power of two that brings the larger factor into range, if the other
 * one can take it: out->*_factor stay 1 where not. */
static lora_status fix_range(lora__fix_scale *out,
                             const lora_adapter *adapter,
                             const lora__module *module,
                             const lora__values *values,
                             lora_error *error)
{
    const lora__member *up = lora__module_find(module, LORA__ROLE_UP);
    const lora__member *down = lora__module_find(module, LORA__ROLE_DOWN);
    double large;
    double small;
    double factor = 1.0;
    int up_is_large;
    int exact[2];

    if (up == NULL || down == NULL) {
        return LORA_OK;
    }
    up_is_large = values[up->entry].largest > values[down->entry].largest;
    large = values[(up_is_large ? up : down)->entry].largest;
    small = values[(up_is_large ? down : up)->entry].largest;
    if (large <= LORA__CHECK_F16_MAX) {
        return LORA_OK;
    }
    while (large * factor > LORA__CHECK_F16_MAX) {
        factor /= 2.0;
    }
    if (small / factor > LORA__CHECK_F16_MAX) {
        return LORA_OK;
    }
    TRY(fix_is_exact(&exact[0], adapter, up->entry,
                     up_is_large ? factor : 1.0 / factor, error));
    TRY(fix_is_exact(&exact[1], adapter, down->entry,
                     up_is_large ? 1.0 / factor : factor, error));
    if (exact[0] && exact[1]) {
        out->rescales = 1;
        out->up_factor *= up_is_large ? factor : 1.0 / factor;
        out->down_factor *= up_is_large ? 1.0 / factor : factor;
    }
    return LORA_OK;
}

static void fix_alpha(lora__fix_scale *out,
                      const lora_adapter *adapter,
                      const lora__module *module,
                      int mixed)
{
    const lora__dialect *dialect = lora__dialect_published(module->dialect);
    const lora__entry *entry =
        lora__module_entry(adapter, module, LORA__ROLE_ALPHA);

    out->doubt = lora__check_alpha(module);
    out->dtype = entry != NULL ? entry->dtype : module->dtype;
    out->alpha = (double)module->rank;
    out->has_alpha = 1;
    if (out->doubt == LORA__ALPHA_MISSING && mixed &&
        lora__dialect_has_role(dialect, LORA__ROLE_ALPHA) &&
        lora__module_find(module, LORA__ROLE_SCALE) == NULL) {
        return;
    }
    if (out->doubt == LORA__ALPHA_ZERO) {
        return;
    }
    /* The sign needs a factor to go to. */
    if (out->doubt == LORA__ALPHA_NEGATIVE &&
        lora__module_find(module, LORA__ROLE_UP) != NULL) {
        out->alpha = -module->alpha;
        out->up_factor = out->bias_factor = -1.0;
        return;
    }
    out->doubt = LORA__ALPHA_CLEAR;
    out->has_alpha = 0;
}

LORA_PRIVATE lora_status lora__fix_scale_find(lora__fix_scale *out,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              const lora__values *values,
                                              int mixed,
                                              lora_error *error)
{
    out->rescales = 0;
    out->up_factor = out->bias_factor = out->down_factor = 1.0;
    fix_alpha(out, adapter, module, mixed);
    return fix_range(out, adapter, module, values, error);
}

LORA_PRIVATE double lora__fix_scale_factor(const lora__fix_scale *scale,
                                           lora__role role)
{
    switch (role) {
    case LORA__ROLE_UP:
        return scale->up_factor;
    case LORA__ROLE_UP_BIAS:
        return scale->bias_factor;
    case LORA__ROLE_DOWN:
        return scale->down_factor;
    default:
        return 1.0;
    }
}
