/* Learned tokens of an adapter: textual inversions in its file, or all that it
 * has. A token has one tensor for each text encoder.
 */
#ifndef LORA__ADAPTER_EMBEDDINGS_H
#define LORA__ADAPTER_EMBEDDINGS_H

#include "adapter/adapter.h"
#include "names/token.h"

struct lora__embedding {
    const char *token;   /* what prompts call it; "" where nothing says it */
    const char *encoder; /* its text encoder; "" not known */
    lora__token_form form;
    size_t entry;
    int64_t vectors;
    int64_t width;
    lora_status status; /* not OK: operations answer this ... */
    const char *reason; /* ... and say this */
};

/* Fill the list of an adapter whose names are read. */
LORA_PRIVATE lora_status lora__embeddings_find(lora_adapter *adapter,
                                               lora_error *error);

/* OK, or why it cannot be used, with its token; reads no values. */
LORA_PRIVATE lora_status lora__embedding_check(const lora_adapter *adapter,
                                               const lora__embedding *embedding,
                                               lora_error *error);

#endif
