/* Rank rules. A rule keeps exactly as many directions as it says, unless one of
 * the tools is asked for that count one more or less.
 */
#include "op/rank_rule.h"

#include <float.h>
#include <math.h>

/* Values whose spread is below this share of the largest are equal, and sums
 * that are a whole number but for this share are that number: more is rounding
 * of the values, which are good to a few 1e-16 of the largest. */
#define RANK_RULE_SLACK 1e-12

LORA_PRIVATE lora_status lora__rank_rule_check(const lora_rank_rule *rule,
                                               const char *subject,
                                               lora_error *error)
{
    static const char *const names[] = {"rule",      "rank",      "energy",
                                        "ratio",     "threshold", "cumulative",
                                        "effective", "knee"};
    const char *wrong = NULL;
    size_t kind = rule->kind > 0 && (size_t)rule->kind < LORA__COUNT(names)
                      ? (size_t)rule->kind
                      : 0;

    subject = subject == NULL ? names[kind] : subject;
    switch (rule->kind) {
    case LORA_RANK_FIXED:
        wrong = rule->rank >= 1 ? NULL : "a rank of at least 1 is needed";
        break;
    case LORA_RANK_ENERGY:
    case LORA_RANK_CUMULATIVE:
        wrong = rule->value > 0.0 && rule->value <= 1.0
                    ? NULL
                    : "a share above 0, up to 1 is needed";
        break;
    case LORA_RANK_RATIO:
        wrong = rule->value >= 1.0 ? NULL : "a ratio of at least 1 is needed";
        break;
    case LORA_RANK_THRESHOLD:
        wrong = rule->value >= 0.0 ? NULL
                                   : "a threshold of 0 or more is "
                                     "needed";
        break;
    case LORA_RANK_SIZE:
        wrong = rule->value >= 1.0 && rule->value <= 0x1p53
                    ? NULL
                    : "a number of bytes is needed";
        break;
    case LORA_RANK_EFFECTIVE:
    case LORA_RANK_KNEE:
        break;
    default:
        return lora__fail(error, LORA_ERROR_ARGUMENT, LORA_NO_OFFSET, subject,
                          "no such rank rule");
    }
    return wrong == NULL ? LORA_OK
                         : lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                                      subject, "%s", wrong);
}

static size_t rank_rule_above(const double *sigma, size_t count, double limit)
{
    size_t k = 0;

    while (k < count && sigma[k] > limit) {
        k++;
    }
    return k;
}

/* The least k whose sum of sigma^power reaches share * total. The total is
 * summed in the same order, so that share 1 is reached at the last value
 * that is not zero. */
static size_t
rank_rule_share(const double *sigma, size_t count, double share, int power)
{
    double total = 0.0;
    double sum = 0.0;
    double top = count > 0 && sigma[0] > 0.0 ? sigma[0] : 1.0;
    size_t k = 0;

    for (size_t i = 0; i < count; i++) {
        double x = sigma[i] / top; /* squares of tiny values must not vanish */
        total += power == 2 ? x * x : x;
    }
    while (k < count && sigma[k] > 0.0 && (k == 0 || sum < share * total)) {
        double x = sigma[k] / top;
        sum += power == 2 ? x * x : x;
        k++;
    }
    return k;
}

/* exp(-sum q ln q), q = sigma / sum sigma. With p = sigma / sigma_1 and P =
 * sum p this is P exp(-sum p ln p / P). */
LORA_PRIVATE double lora__rank_effective(const double *sigma, size_t count)
{
    double total = 0.0;
    double entropy = 0.0;

    for (size_t i = 0; i < count && sigma[i] > 0.0; i++) {
        double p = sigma[i] / sigma[0];
        total += p;
        entropy -= p > 0.0 ? p * log(p) : 0.0;
    }
    return total == 0.0 ? 0.0 : total * exp(entropy / total);
}

/* 1 + the first index with the largest 1 - x - y, where x = i / (n - 1) and
 * y = (sigma_i - sigma_n) / (sigma_1 - sigma_n); n if n < 3 or all are equal.
 */
static size_t rank_rule_knee(const lora__spectrum *s)
{
    const double *sigma = s->sigma;
    size_t count = s->count;
    size_t full = s->full;
    double last = full > count || count == 0 ? 0.0 : sigma[count - 1];
    double spread = count > 0 ? sigma[0] - last : 0.0;
    double best = -HUGE_VAL;
    size_t knee = 0;

    if (count == 0 || sigma[0] == 0.0) {
        return 0;
    }
    if (full < 3 || spread <= RANK_RULE_SLACK * sigma[0]) {
        return count;
    }
    for (size_t i = 0; i < full; i++) {
        double value = i < count ? sigma[i] : 0.0;
        double below =
            1.0 - (double)i / (double)(full - 1) - (value - last) / spread;
        if (below > best) {
            best = below;
            knee = i + 1;
        }
    }
    return knee < count ? knee : count;
}

static size_t rank_rule_exact(const lora_rank_rule *rule,
                              const lora__spectrum *s)
{
    const double *sigma = s->sigma;
    size_t count = s->count;

    switch (rule->kind) {
    case LORA_RANK_FIXED:
        return (size_t)rule->rank < count ? (size_t)rule->rank : count;
    case LORA_RANK_ENERGY:
        return rank_rule_share(sigma, count, rule->value, 2);
    case LORA_RANK_CUMULATIVE:
        return rank_rule_share(sigma, count, rule->value, 1);
    case LORA_RANK_RATIO:
        return count == 0
                   ? 0
                   : rank_rule_above(sigma, count, sigma[0] / rule->value);
    case LORA_RANK_EFFECTIVE:
        return (size_t)ceil(lora__rank_effective(sigma, count) *
                            (1.0 - RANK_RULE_SLACK));
    case LORA_RANK_KNEE:
        return rank_rule_knee(s);
    default: /* LORA_RANK_THRESHOLD: the rule was checked */
        return rank_rule_above(sigma, count, rule->value);
    }
}

/* 1 if the unscaled squares overflow the f32 that kohya's tool sums them in:
 * it finds no share of them then, and keeps all. */
static int rank_rule_overflows(const lora__spectrum *s)
{
    double total = 0.0;

    for (size_t i = 0; i < s->count; i++) {
        total += s->sigma[i] / s->scale * (s->sigma[i] / s->scale);
    }
    return total > (double)FLT_MAX;
}

/* Its rules give an index, within 1 and the last one, and it keeps the values
 * up to that index. A layer that is next to 0 is left with one. */
static size_t rank_rule_kohya(const lora_rank_rule *rule,
                              const lora__spectrum *s)
{
    size_t last = s->full > 1 ? s->full - 1 : 1;
    size_t index;

    if (s->count == 0 || s->sigma[0] <= 1e-6 * s->scale) {
        return 1;
    }
    switch (rule->kind) {
    case LORA_RANK_FIXED:
        return (size_t)rule->rank < s->full ? (size_t)rule->rank : s->full;
    case LORA_RANK_ENERGY:
    case LORA_RANK_RATIO:
    case LORA_RANK_CUMULATIVE:
        index = rank_rule_exact(rule, s);
        if (rule->kind == LORA_RANK_ENERGY && rank_rule_overflows(s)) {
            index = last;
        }
        index = index < 1 ? 1 : index;
        index = index > last ? last : index;
        return index + 1 < s->full ? index + 1 : s->full;
    default:
        return rank_rule_exact(rule, s);
    }
}

LORA_PRIVATE size_t lora__rank_rule_apply(const lora_rank_rule *rule,
                                          lora_rank_counting counting,
                                          const lora__spectrum *spectrum)
{
    size_t exact;

    if (counting == LORA_COUNT_KOHYA) {
        return rank_rule_kohya(rule, spectrum);
    }
    exact = rank_rule_exact(rule, spectrum);
    return counting == LORA_COUNT_LYCORIS &&
                   rule->kind == LORA_RANK_CUMULATIVE && exact > 1
               ? exact - 1
               : exact;
}

LORA_PRIVATE size_t lora__rank_rule_apply_part(const lora_rank_rule *rule,
                                               lora_rank_counting counting,
                                               const lora__spectrum *spectrum,
                                               double squares)
{
    lora_rank_rule part = *rule;
    double known = 0.0;

    for (size_t i = spectrum->count; i-- > 0;) {
        known += spectrum->sigma[i] * spectrum->sigma[i];
    }
    if (rule->kind == LORA_RANK_ENERGY && known > 0.0) {
        part.value *= squares / known;
    }
    return lora__rank_rule_apply(&part, counting, spectrum);
}
