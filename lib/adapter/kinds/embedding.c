/* PEFT's LoRA of an embedding: dW[vocab, dim] = s * (B A)^T with A [r, vocab]
 * and B [dim, r]. Source: formats.md 5.17. llama.cpp has A as [vocab, r].
 *
 * It has no factors for operations: what they write are a pair's up and down,
 * under other names.
 */
#include "adapter/kinds/common.h"

static int embedding_kind_claim(const lora_adapter *adapter,
                                const lora__module *module)
{
    (void)adapter;
    return kind_has(module, LORA__ROLE_EMBEDDING_DOWN) ||
                   kind_has(module, LORA__ROLE_EMBEDDING_ROWS) ||
                   kind_has(module, LORA__ROLE_EMBEDDING_UP)
               ? 20
               : 0;
}

/* The role in which a module has A. */
static lora__role embedding_kind_a(const lora__module *module)
{
    return kind_has(module, LORA__ROLE_EMBEDDING_ROWS)
               ? LORA__ROLE_EMBEDDING_ROWS
               : LORA__ROLE_EMBEDDING_DOWN;
}

static lora_status embedding_kind_parse(lora__opening *opening,
                                        lora__module *module)
{
    lora__role role = embedding_kind_a(module);
    int by_rows = role == LORA__ROLE_EMBEDDING_ROWS;
    const lora__entry *a = lora__kind_require(opening, module, role, 2);
    const lora__entry *b =
        lora__kind_require(opening, module, LORA__ROLE_EMBEDDING_UP, 2);

    if (a == NULL || b == NULL) {
        return LORA_OK;
    }
    module->dtype = a->dtype;
    module->changes = LORA_PART_WEIGHT;
    TRY(lora__kind_set_rank(opening, module, a->shape[by_rows]));
    TRY(lora__kind_agree(opening, module, "ranks of A and B", b->shape[1],
                         a->shape[by_rows]));
    TRY(lora__kind_matrix(opening, module, role));
    TRY(lora__kind_matrix(opening, module, LORA__ROLE_EMBEDDING_UP));
    TRY(lora__kind_set_shape(opening, module, a->shape[!by_rows], b->shape[0],
                             NULL));
    if (module->status != LORA_OK) {
        return LORA_OK;
    }
    TRY(lora__kind_check_dora(opening, module));
    return lora__module_resolve_scale(opening, module);
}

static lora_status embedding_kind_prepare(lora__rows *state,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          lora_error *error)
{
    return lora__kind_prepare_transposed(state, adapter, module,
                                         embedding_kind_a(module),
                                         LORA__ROLE_EMBEDDING_UP, error);
}

static void embedding_kind_rows(const lora__rows *state,
                                const lora__module *module,
                                size_t begin,
                                size_t end,
                                void *out)
{
    if (kind_has(module, LORA__ROLE_EMBEDDING_ROWS)) {
        lora__kind_rows_product(state, LORA__BLOCK_A, LORA__BLOCK_BT, begin,
                                end, out);
    } else {
        lora__kind_rows_transposed(state, begin, end, out);
    }
}

LORA_PRIVATE const lora__kind lora__kind_embedding = {
    .id = "embedding",
    .roles = LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_DOWN) |
             LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_ROWS) |
             LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_UP) |
             LORA__ROLE_BIT(LORA__ROLE_DORA),
    .scaled = LORA__ROLE_BIT(LORA__ROLE_EMBEDDING_UP),
    .columns = 1,
    .claim = embedding_kind_claim,
    .parse = embedding_kind_parse,
    .prepare = embedding_kind_prepare,
    .rows = embedding_kind_rows,
    .chain = lora__chain_embedding,
};
