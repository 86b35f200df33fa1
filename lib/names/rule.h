/* The language of rules.h: matching a name against a rule, spelling one,
 * counting what it stands for. Used inside names/ only.
 */
#ifndef LORA__NAMES_RULE_H
#define LORA__NAMES_RULE_H

#include "core/buffer.h"

#define LORA__RULE_NUMBERS 6

/* A name that is being matched, and what its holes stood for so far. */
typedef struct lora__rule_cursor {
    const char *at;
    const char *end;
    const char *seen; /* the furthest letter that was looked at, or the end */
    char separator;
    int16_t depth;
    int count; /* of numbers */
    int16_t numbers[LORA__RULE_NUMBERS];
} lora__rule_cursor;

/* 1, and the cursor past it, if the name goes on as the rule says. Either way
 * names with the same letters up to c->seen, that one included, are answered
 * alike. */
LORA_PRIVATE int lora__rule_take(lora__rule_cursor *c, const char *rule);

/* 1 if the numbers, which may come from another spelling, are those of a name
 * of this rule. */
LORA_PRIVATE int lora__rule_holds(const lora__rule_cursor *c, const char *rule);

/* Append the name. *used counts the numbers that its holes took. */
LORA_PRIVATE void lora__rule_put(lora__buffer *out,
                                 const char *rule,
                                 const int16_t numbers[LORA__RULE_NUMBERS],
                                 int *used,
                                 char separator);

/* How many names the rule stands for. */
LORA_PRIVATE size_t lora__rule_size(const char *rule, int16_t depth);

/* The numbers of the index-th of them; the last hole runs fastest. */
LORA_PRIVATE void lora__rule_unrank(int16_t numbers[LORA__RULE_NUMBERS],
                                    int *count,
                                    const char *rule,
                                    int16_t depth,
                                    size_t index);

#endif
