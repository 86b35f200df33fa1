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

/* The singular values of a layer, descending, its scale in them. */
typedef struct lora__spectrum {
    const double *sigma;
    size_t count;
    size_t full;  /* min(rows, cols): values behind the first `count` are 0 */
    double scale; /* its magnitude */
} lora__spectrum;

/* exp of the entropy of sigma / sum sigma; 0 if all are 0. */
LORA_PRIVATE double lora__rank_effective(const double *sigma, size_t count);

/* The number of values the rule keeps: 0 to count, or with kohya's counting to
 * `full`. */
LORA_PRIVATE size_t lora__rank_rule_apply(const lora_rank_rule *rule,
                                          lora_rank_counting counting,
                                          const lora__spectrum *spectrum);

/* The same where the spectrum has the first values only, and `squares` is the
 * sum of the squares of all. For rules that need no more. */
LORA_PRIVATE size_t lora__rank_rule_apply_part(const lora_rank_rule *rule,
                                               lora_rank_counting counting,
                                               const lora__spectrum *spectrum,
                                               double squares);

#endif
