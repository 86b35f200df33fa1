/* Rank rules: how many singular values to keep. Source: algorithms.md 2. */
#ifndef LORA__OP_RANK_RULE_H
#define LORA__OP_RANK_RULE_H

#include "core/status.h"

#include <lora/resize.h>

/* RANGE unless the rule makes sense. `subject` names the option; NULL: by the
 * rule's kind. */
LORA_PRIVATE lora_status lora__rank_rule_check(const lora_rank_rule *rule,
                                               const char *subject,
                                               lora_error *error);

/* The number of values the rule keeps; 0 to count. sigma descends; the matrix
 * has `full` values, min(rows, cols), and those behind the first `count` are
 * 0. */
LORA_PRIVATE size_t lora__rank_rule_apply(const lora_rank_rule *rule,
                                          const double *sigma,
                                          size_t count,
                                          size_t full);

/* The same where only the first `count` of all values are known, and the sum of
 * the squares of all. For rules that need no more. */
LORA_PRIVATE size_t lora__rank_rule_apply_part(const lora_rank_rule *rule,
                                               const double *sigma,
                                               size_t count,
                                               double squares);

#endif
