/* Every kind, one line each. */
#include "adapter/kind.h"

LORA_PRIVATE_DATA const lora__kind lora__kind_adalora;
LORA_PRIVATE_DATA const lora__kind lora__kind_boft;
LORA_PRIVATE_DATA const lora__kind lora__kind_embedding;
LORA_PRIVATE_DATA const lora__kind lora__kind_full;
LORA_PRIVATE_DATA const lora__kind lora__kind_glora;
LORA_PRIVATE_DATA const lora__kind lora__kind_ia3;
LORA_PRIVATE_DATA const lora__kind lora__kind_light;
LORA_PRIVATE_DATA const lora__kind lora__kind_locon;
LORA_PRIVATE_DATA const lora__kind lora__kind_loha;
LORA_PRIVATE_DATA const lora__kind lora__kind_lokr;
LORA_PRIVATE_DATA const lora__kind lora__kind_lora;
LORA_PRIVATE_DATA const lora__kind lora__kind_norm;
LORA_PRIVATE_DATA const lora__kind lora__kind_oft;
LORA_PRIVATE_DATA const lora__kind lora__kind_set;
LORA_PRIVATE_DATA const lora__kind lora__kind_tlora;

static const lora__kind *const kind_table[] = {
    &lora__kind_lora,      &lora__kind_locon, &lora__kind_loha,
    &lora__kind_lokr,      &lora__kind_ia3,   &lora__kind_full,
    &lora__kind_norm,      &lora__kind_glora, &lora__kind_oft,
    &lora__kind_boft,      &lora__kind_tlora, &lora__kind_light,
    &lora__kind_embedding, &lora__kind_set,   &lora__kind_adalora,
};

LORA_PRIVATE size_t lora__kind_count(void)
{
    return LORA__COUNT(kind_table);
}

LORA_PRIVATE const lora__kind *lora__kind_at(size_t index)
{
    return kind_table[index];
}
