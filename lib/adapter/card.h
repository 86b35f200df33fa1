/* Model cards: the README.md that sites keep beside an adapter. Between two
 * lines "---" at its beginning it has YAML, of which this reads what people and
 * tools write there: "key: value" at the margin, with plain and quoted text,
 * text over several lines, and lists in either form. Anything else (maps,
 * anchors, tags) counts as not said; a card can be wrong, never an error.
 * Source: formats.md 8.4, and the cards of huggingface_hub.
 */
#ifndef LORA__ADAPTER_CARD_H
#define LORA__ADAPTER_CARD_H

#include "core/arena.h"

#define LORA__CARD_FILE "README.md"

/* More of a card is not read: what is wanted stands at its beginning. */
#define LORA__CARD_MAX_BYTES (64u << 10)

/* NULL: not said. */
typedef struct lora__card {
    const char *base_model; /* the first, of several */
    const char *instance_prompt;
    const char *license;
    const char **tags;
    size_t tag_count;
} lora__card;

/* Read a card; *out is NULL if the text has no such beginning. Strings go into
 * the arena. MEMORY is the only failure. */
LORA_PRIVATE lora_status lora__card_parse(const lora__card **out,
                                          lora__arena *arena,
                                          const char *text,
                                          size_t bytes,
                                          lora_error *error);

#endif
