/* Chains of the kinds whose weights are tensors of the file, or matrices that
 * are drawn: see chain.h.
 */
#include "adapter/chain.h"
#include "adapter/kinds/common.h"
#include "adapter/light.h"

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

/* ---- Light-LoRA -------------------------------------------------------- */

/* A frozen matrix that is not stored. */
static lora_status chains_light_draw(float *out,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     const lora__chain_factor *factor,
                                     lora_error *error)
{
    const int is_up = factor->role == LORA__ROLE_LIGHT_UP_AUX;
    const lora__light_wanted wanted = {is_up ? NULL : out, NULL, NULL,
                                       is_up ? out : NULL};
    lora__light_sizes sizes;
    uint64_t seed;

    INVARIANT(adapter->light != NULL, error);
    lora__light_sizes_of(&sizes, adapter, module);
    TRY(lora__light_seed(&seed, adapter, module, error));
    return lora__light_draw(&wanted, &adapter->light->order, seed, &sizes,
                            adapter->context, error);
}

/* The next link, of a matrix [out, in] of a role: as stored, from number
 * `first` of the vector that both factors may be, or drawn. */
static lora__link *chains_light_add(lora__chain *chain,
                                    const lora__module *module,
                                    lora__role role,
                                    size_t first,
                                    size_t out,
                                    size_t in)
{
    lora__link *link = &chain->links[chain->link_count++];
    lora__chain_factor *factor;

    link->before = 1;
    link->after = 1;
    link->in = in;
    link->out = out;
    link->kernel = 1;
    link->factor = lora__chain_take(chain, module, role);
    if (link->factor != SIZE_MAX) {
        return link;
    }
    if (role == LORA__ROLE_DOWN || role == LORA__ROLE_UP) {
        link->factor = lora__chain_take(chain, module, LORA__ROLE_WEIGHT);
    } else {
        link->factor = chain->factor_count++;
        chain->factors[link->factor].entry = SIZE_MAX;
        chain->factors[link->factor].draw = chains_light_draw;
    }
    factor = &chain->factors[link->factor];
    factor->role = role;
    factor->first = first;
    factor->shape[0] = out;
    factor->shape[1] = in;
    return link;
}

/* The outer matrices, frozen, around a pair or its product. */
LORA_PRIVATE lora_status lora__chain_light(lora__chain *out,
                                           const lora_adapter *adapter,
                                           const lora__module *module,
                                           size_t kernel,
                                           lora_error *error)
{
    lora__light_sizes s;
    lora__link *link;

    (void)error;
    memset(out, 0, sizeof *out);
    lora__light_sizes_of(&s, adapter, module);
    link = chains_light_add(out, module, LORA__ROLE_LIGHT_DOWN_AUX, 0, s.a,
                            s.cols / kernel);
    link->kernel = kernel;
    link->conv = 1;
    out->factors[link->factor].frozen = 1;
    if (kind_has(module, LORA__ROLE_LIGHT_DOWN_UP)) {
        chains_light_add(out, module, LORA__ROLE_LIGHT_DOWN_UP, 0, s.b, s.a);
    } else {
        chains_light_add(out, module, LORA__ROLE_DOWN, 0, s.rank, s.a);
        chains_light_add(out, module, LORA__ROLE_UP, s.rank * s.a, s.b, s.rank);
    }
    link =
        chains_light_add(out, module, LORA__ROLE_LIGHT_UP_AUX, 0, s.rows, s.b);
    out->factors[link->factor].frozen = 1;
    return LORA_OK;
}

/* ---- LoKr -------------------------------------------------------------- */

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
