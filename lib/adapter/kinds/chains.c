/* Chains of the kinds whose weights are tensors of the file, or matrices that
 * are drawn: see chain.h.
 */
#include "adapter/chain.h"
#include "adapter/kinds/common.h"
#include "adapter/light.h"
#include "core/integer.h"

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

LORA_PRIVATE lora_status lora__chain_split(lora__chain *chain,
                                           size_t groups,
                                           lora_error *error)
{
    lora__link *last = &chain->links[chain->link_count - 1];

    for (size_t i = 0; i < chain->link_count; i++) {
        lora__link *link = &chain->links[i];

        if (!lora__mul_size(link->before, groups, &link->before)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    last->parts = groups;
    return LORA_OK;
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
    link->parts = 1;
    link->each = 1;
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
                                          size_t groups,
                                          lora_error *error)
{
    const int core = kind_has(module, LORA__ROLE_MID);

    memset(out, 0, sizeof *out);
    chains_add(out, adapter, module, LORA__ROLE_DOWN, core ? 1 : kernel, 0)
        ->conv = !core;
    if (core) {
        chains_add(out, adapter, module, LORA__ROLE_MID, kernel, 0)->conv = 1;
    }
    chains_add(out, adapter, module, LORA__ROLE_UP, 1, 0);
    return lora__chain_split(out, groups, error);
}

LORA_PRIVATE lora_status lora__chain_embedding(lora__chain *out,
                                               const lora_adapter *adapter,
                                               const lora__module *module,
                                               size_t kernel,
                                               size_t groups,
                                               lora_error *error)
{
    const int by_rows = kind_has(module, LORA__ROLE_EMBEDDING_ROWS);

    memset(out, 0, sizeof *out);
    if (kernel != 1 || groups != 1) {
        return lora__fail(error, LORA_ERROR_SHAPE, LORA_NO_OFFSET, module->name,
                          "an embedding has neither a kernel nor groups");
    }
    chains_add(out, adapter, module,
               by_rows ? LORA__ROLE_EMBEDDING_ROWS : LORA__ROLE_EMBEDDING_DOWN,
               1, by_rows)
        ->lookup = 1;
    chains_add(out, adapter, module, LORA__ROLE_EMBEDDING_UP, 1, 0);
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__chain_full(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error)
{
    memset(out, 0, sizeof *out);
    chains_add(out, adapter, module, LORA__ROLE_DIFF, kernel, 0)->conv = 1;
    return lora__chain_split(out, groups, error);
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
    link->parts = 1;
    link->each = 1;
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
                                           size_t groups,
                                           lora_error *error)
{
    lora__light_sizes s;
    lora__link *link;

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
    return lora__chain_split(out, groups, error);
}

/* ---- LoKr -------------------------------------------------------------- */

/* w1 along i1, of a tensor with `after` inner channels: the last link of it. */
static lora__link *chains_lokr_outer(lora__chain *out,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     size_t groups,
                                     size_t after)
{
    const int full = kind_has(module, LORA__ROLE_LOKR_W1);
    const size_t first = out->link_count;
    lora__link *last =
        chains_add(out, adapter, module,
                   full ? LORA__ROLE_LOKR_W1 : LORA__ROLE_LOKR_W1_B, 1, 0);

    if (!full) {
        last = chains_add(out, adapter, module, LORA__ROLE_LOKR_W1_A, 1, 0);
    }
    for (size_t i = first; i < out->link_count; i++) {
        out->links[i].before = groups;
        out->links[i].after = after;
    }
    return last;
}

/* w2 along i2, or the first of its factors and the core, of a tensor with
 * `before` outer channels: the last link of these. */
static lora__link *chains_lokr_inner(lora__chain *out,
                                     const lora_adapter *adapter,
                                     const lora__module *module,
                                     size_t kernel,
                                     size_t before)
{
    const int full = kind_has(module, LORA__ROLE_LOKR_W2);
    const int core = kind_has(module, LORA__ROLE_LOKR_T2);
    lora__link *link = chains_add(
        out, adapter, module, full ? LORA__ROLE_LOKR_W2 : LORA__ROLE_LOKR_W2_B,
        core ? 1 : kernel, 0);

    link->before = before;
    link->conv = !core;
    if (core) {
        link = chains_add(out, adapter, module, LORA__ROLE_LOKR_T2, kernel, 0);
        link->before = before;
        link->conv = 1;
    }
    return link;
}

/* The second factor of w2, if it has two: the last link. */
static lora__link *chains_lokr_last(lora__chain *out,
                                    const lora_adapter *adapter,
                                    const lora__module *module,
                                    lora__link *last,
                                    size_t before)
{
    if (!kind_has(module, LORA__ROLE_LOKR_W2)) {
        last = chains_add(out, adapter, module, LORA__ROLE_LOKR_W2_A, 1,
                          kind_has(module, LORA__ROLE_LOKR_T2));
        last->before = before;
    }
    return last;
}

/* The rows of a tensor that is there whole or as the first of two factors. */
static const lora__entry *chains_lokr_entry(const lora_adapter *adapter,
                                            const lora__module *module,
                                            lora__role whole,
                                            lora__role factor)
{
    return lora__module_entry(adapter, module,
                              kind_has(module, whole) ? whole : factor);
}

/* With groups w1 comes first: of its o1 rows, or of these and the o2 of w2,
 * each group has its own. */
static lora_status chains_lokr_groups(lora__chain *out,
                                      const lora_adapter *adapter,
                                      const lora__module *module,
                                      size_t kernel,
                                      size_t groups,
                                      lora_error *error)
{
    const lora__entry *w2 = chains_lokr_entry(
        adapter, module, LORA__ROLE_LOKR_W2, LORA__ROLE_LOKR_W2_B);
    const size_t i2 =
        kind_has(module, LORA__ROLE_LOKR_T2)
            ? (size_t)w2->shape[1]
            : (size_t)w2->elements / (size_t)w2->shape[0] / kernel;
    lora__link *one = chains_lokr_outer(out, adapter, module, groups, i2);
    size_t before = groups;
    lora__link *two;

    if (one->out % groups == 0) {
        one->parts = groups;
        if (!lora__mul_size(groups, one->out / groups, &before)) {
            return lora__fail_memory(error, UINT64_MAX);
        }
    }
    two = chains_lokr_inner(out, adapter, module, kernel, before);
    two = chains_lokr_last(out, adapter, module, two, before);
    if (one->parts == groups) {
        return LORA_OK;
    }
    if (groups % one->out != 0) {
        return lora__fail(
            error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET, module->name,
            "%llu groups, which cut the %llu rows of w1 unevenly",
            (unsigned long long)groups, (unsigned long long)one->out);
    }
    one->parts = one->out;
    one->each = groups / one->out;
    two->parts = one->each;
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__chain_lokr(lora__chain *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          size_t kernel,
                                          size_t groups,
                                          lora_error *error)
{
    const lora__entry *in = chains_lokr_entry(
        adapter, module, LORA__ROLE_LOKR_W1, LORA__ROLE_LOKR_W1_B);
    lora__link *link;

    memset(out, 0, sizeof *out);
    if (groups > 1) {
        return chains_lokr_groups(out, adapter, module, kernel, groups, error);
    }
    link =
        chains_lokr_inner(out, adapter, module, kernel, (size_t)in->shape[1]);
    link = chains_lokr_outer(out, adapter, module, 1, link->out);
    chains_lokr_last(out, adapter, module, link, link->out);
    return LORA_OK;
}
