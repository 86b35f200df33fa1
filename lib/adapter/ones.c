/* Dimensions of 1 that a container does not keep.
 *
 * ggml counts dimensions from the fastest and drops the last ones where they
 * are 1, which are the first ones of a shape here: of rank 1, down comes as
 * [in] instead of [1, in], or as [in, h, w] instead of [1, in, h, w]. A model
 * converter of llama.cpp once dropped all of them, so that up comes as [out].
 * The ranks of both factors tell what is missing; where they agree nothing is
 * changed.
 */
#include "adapter/kind.h"

#include <string.h>

/* Tensors of these roles are matrices at least. */
#define ONES_MATRICES                                                          \
    (LORA__ROLE_BIT(LORA__ROLE_DOWN) | LORA__ROLE_BIT(LORA__ROLE_UP) |         \
     LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_DOWN) |                               \
     LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_UP) |                                 \
     LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_ROWS) |                               \
     LORA__ROLE_BIT(LORA__ROLE_HADA_W1_A) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_HADA_W1_B) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_HADA_W2_A) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_HADA_W2_B) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W1) |                                      \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W1_A) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W1_B) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W2) |                                      \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W2_A) |                                    \
     LORA__ROLE_BIT(LORA__ROLE_LOKR_W2_B))

/* Put dimensions of 1 before the others, up to `ndim`. */
static void ones_prepend(lora__entry *entry, int32_t ndim)
{
    int32_t more = ndim - entry->ndim;

    if (more <= 0) {
        return;
    }
    memmove(entry->shape + more, entry->shape,
            (size_t)entry->ndim * sizeof entry->shape[0]);
    for (int32_t i = 0; i < more; i++) {
        entry->shape[i] = 1;
    }
    entry->ndim = ndim;
}

static lora__entry *ones_entry(const lora_adapter *adapter,
                               const lora__module *module,
                               lora__role role)
{
    const lora__member *member = lora__module_find(module, role);

    return member == NULL ? NULL : &adapter->container->entries[member->entry];
}

/* A vector is the column of an up of rank 1 if down says that this is the
 * rank, else a row. */
static void ones_restore_matrix(lora__entry *entry,
                                lora__role role,
                                const lora__entry *down)
{
    if (entry->ndim != 1) {
        return;
    }
    if (role == LORA__ROLE_UP && down != NULL && down->shape[0] == 1 &&
        down->ndim > 1) {
        entry->shape[entry->ndim++] = 1;
    } else {
        ones_prepend(entry, 2);
    }
}

LORA_PRIVATE void lora__module_restore_ones(const lora_adapter *adapter,
                                            const lora__module *module)
{
    lora__entry *down = ones_entry(adapter, module, LORA__ROLE_DOWN);
    lora__entry *up = ones_entry(adapter, module, LORA__ROLE_UP);
    lora__entry *mid = ones_entry(adapter, module, LORA__ROLE_MID);

    if (down != NULL && down->ndim == 1) {
        ones_prepend(down, 2); /* first, as it says how to read up */
    }
    for (size_t i = 0; i < module->member_count; i++) {
        const lora__member *member = &module->members[i];
        if ((ONES_MATRICES & LORA__ROLE_BIT(member->role)) != 0) {
            ones_restore_matrix(&adapter->container->entries[member->entry],
                                member->role, down);
        }
    }
    if (down == NULL || up == NULL || down->ndim < 2 || up->ndim < 2) {
        return;
    }
    if (up->ndim > down->ndim && up->shape[1] == 1 && down->shape[0] != 1) {
        ones_prepend(down, up->ndim);
    } else if (up->ndim < down->ndim && up->shape[0] == down->shape[0] &&
               up->shape[1] != down->shape[0]) {
        ones_prepend(up, down->ndim);
    }
    if (mid != NULL && up->shape[1] == 1) {
        ones_prepend(mid, down->ndim);
    }
}
