/* Chains of the kinds whose weights are tensors of the file: see chain.h. */
#include "adapter/chain.h"
#include "adapter/kinds/common.h"

#include <string.h>

LORA_PRIVATE size_t lora__chain_take(lora__chain *chain,
                                     const lora__module *module,
                                     lora__role role)
{
    const lora__member *member = lora__module_find(module, role);

    if (member == NULL) {
        return SIZE_MAX;
    }
    chain->factors[chain->factor_count].entry = member->entry;
    chain->factors[chain->factor_count].role = role;
    return chain->factor_count++;
}

/* The next link, from `in` to `out` of a role's tensor [out, in, kernel], or
 * [in, out] if turned. */
static lora__link *chains_add(lora__chain *chain,
                              const lora_adapter *adapter,
                              const lora__module *module,
                              lora__role role,
                              size_t kernel,
                              int turned)
{
    const lora__entry *entry = lora__module_entry(adapter, module, role);
    lora__link *link = &chain->links[chain->link_count++];
    const size_t first = (size_t)entry->shape[0];
    const size_t rest = (size_t)entry->elements / first;

    memset(link, 0, sizeof *link);
    link->before = 1;
    link->after = 1;
    link->in = turned ? first : rest / kernel;
    link->out = turned ? rest : first;
    link->kernel = kernel;
    link->turned = turned;
    link->factor = lora__chain_take(chain, module, role);
    return link;
}

LORA_PRIVATE lora_status lora__chain_pair(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          lora_error *error)
{
    const int core = kind_has(module, LORA__ROLE_MID);

    (void)error;
    memset(out, 0, sizeof *out);
    chains_add(out, adapter, module, LORA__ROLE_DOWN, core ? 1 : kernel, 0)
        ->conv = !core;
    if (core) {
        chains_add(out, adapter, module, LORA__ROLE_MID, kernel, 0)->conv = 1;
    }
    chains_add(out, adapter, module, LORA__ROLE_UP, 1, 0);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__chain_full(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          lora_error *error)
{
    (void)error;
    memset(out, 0, sizeof *out);
    chains_add(out, adapter, module, LORA__ROLE_DIFF, kernel, 0)->conv = 1;
    return LORA_OK;
}

/* The outer matrices, frozen, around a pair or its product. */
LORA_PRIVATE lora_status lora__chain_light(lora__chain *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           size_t kernel,
                                           lora_error *error)
{
    lora__link *link;

    memset(out, 0, sizeof *out);
    if (!kind_has(module, LORA__ROLE_LIGHT_DOWN_AUX) ||
        !kind_has(module, LORA__ROLE_LIGHT_UP_AUX) ||
        kind_has(module, LORA__ROLE_WEIGHT)) {
        return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                          module->name,
                          "the frozen matrices are not in the file");
    }
    link =
        chains_add(out, adapter, module, LORA__ROLE_LIGHT_DOWN_AUX, kernel, 0);
    link->conv = 1;
    out->factors[link->factor].frozen = 1;
    if (kind_has(module, LORA__ROLE_LIGHT_DOWN_UP)) {
        chains_add(out, adapter, module, LORA__ROLE_LIGHT_DOWN_UP, 1, 0);
    } else {
        chains_add(out, adapter, module, LORA__ROLE_DOWN, 1, 0);
        chains_add(out, adapter, module, LORA__ROLE_UP, 1, 0);
    }
    link = chains_add(out, adapter, module, LORA__ROLE_LIGHT_UP_AUX, 1, 0);
    out->factors[link->factor].frozen = 1;
    return LORA_OK;
}

/* w1 along i1, of a tensor with `after` inner channels. */
static void chains_lokr_outer(lora__chain *out,
                              const lora_adapter *adapter,
                              const lora__module *module,
                              size_t after)
{
    if (kind_has(module, LORA__ROLE_LOKR_W1)) {
        chains_add(out, adapter, module, LORA__ROLE_LOKR_W1, 1, 0)->after =
            after;
    } else {
        chains_add(out, adapter, module, LORA__ROLE_LOKR_W1_B, 1, 0)->after =
            after;
        chains_add(out, adapter, module, LORA__ROLE_LOKR_W1_A, 1, 0)->after =
            after;
    }
}

LORA_PRIVATE lora_status lora__chain_lokr(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          lora_error *error)
{
    const int full = kind_has(module, LORA__ROLE_LOKR_W2);
    const int core = kind_has(module, LORA__ROLE_LOKR_T2);
    const lora__entry *w1 = lora__module_entry(
        adapter, module,
        kind_has(module, LORA__ROLE_LOKR_W1) ? LORA__ROLE_LOKR_W1
                                             : LORA__ROLE_LOKR_W1_B);
    const lora__entry *w1_a = lora__module_entry(
        adapter, module,
        kind_has(module, LORA__ROLE_LOKR_W1) ? LORA__ROLE_LOKR_W1
                                             : LORA__ROLE_LOKR_W1_A);
    lora__link *link;

    (void)error;
    memset(out, 0, sizeof *out);
    link = chains_add(out, adapter, module,
                      full ? LORA__ROLE_LOKR_W2 : LORA__ROLE_LOKR_W2_B,
                      core ? 1 : kernel, 0);
    link->before = (size_t)w1->shape[1];
    link->conv = !core;
    if (core) {
        link = chains_add(out, adapter, module, LORA__ROLE_LOKR_T2, kernel, 0);
        link->before = (size_t)w1->shape[1];
        link->conv = 1;
    }
    chains_lokr_outer(out, adapter, module, link->out);
    if (!full) {
        link = chains_add(out, adapter, module, LORA__ROLE_LOKR_W2_A, 1, core);
        link->before = (size_t)w1_a->shape[0];
    }
    return LORA_OK;
}
