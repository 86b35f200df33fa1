/* Which tensors of a module go with the rows of its weight. */
#include "adapter/kind.h"

/* What has the same meaning for all kinds. */
static int extent_common(lora__extent *out,
                         const lora_adapter *adapter,
                         const lora__module *module,
                         lora__role role)
{
    const lora__entry *entry = lora__module_entry(adapter, module, role);

    switch (role) {
    case LORA__ROLE_ALPHA:
    case LORA__ROLE_SCALE:
    case LORA__ROLE_SCALAR:
        out->mirror = role;
        return 1;
    case LORA__ROLE_DIFF_BIAS:
    case LORA__ROLE_UP_BIAS:
        out->rows = 0;
        return 1;
    case LORA__ROLE_DORA:
        /* A magnitude of columns is the norm over all rows: that of some of
         * them is another one. */
        out->rows = 0;
        out->neutral = 0;
        return entry->elements == (uint64_t)module->shape[0] &&
               entry->shape[0] == module->shape[0];
    default:
        return 0;
    }
}

/* A tensor has the dimensions that its kind says: parsing looks at those that
 * numbers need. */
static int extent_holds(const lora__extent *extent, const lora__entry *entry)
{
    return entry->elements != 0 && extent->rows < entry->ndim &&
           extent->terms < entry->ndim;
}

LORA_PRIVATE lora_status lora__module_extent(lora__extent *out,
                                             const lora_adapter *adapter,
                                             const lora__module *module,
                                             lora__role role,
                                             lora_error *error)
{
    const lora__extent whole = {LORA__AXIS_NONE, LORA__AXIS_NONE, 1, 1,
                                LORA__ROLE_UNKNOWN};
    const lora__kind *kind = module->kind;
    const lora__entry *entry = lora__module_entry(adapter, module, role);

    *out = whole;
    if (kind->extent == NULL) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "this dialect cuts or orders the rows of the weight "
                          "in another way, and %s cannot follow",
                          kind->id);
    }
    if (kind->extent(out, adapter, module, role) && extent_holds(out, entry)) {
        return LORA_OK;
    }
    *out = whole;
    if (extent_common(out, adapter, module, role) && extent_holds(out, entry)) {
        return LORA_OK;
    }
    return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                      module->name,
                      "this dialect cuts or orders the rows of the weight in "
                      "another way, and %s of %s cannot follow",
                      lora__role_name(role), kind->id);
}
