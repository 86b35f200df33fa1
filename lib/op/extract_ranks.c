/* Extraction: how many directions of a layer count. Source: algorithms.md 3. */
#include "core/text.h"
#include "format/sha256.h"
#include "op/extract.h"
#include "op/rank_rule.h"

#include <string.h>

/* ---- which rule ------------------------------------------------------- */

LORA_PRIVATE int lora__extract_is_conv(const lora__match *match)
{
    return lora__shape_count(match->base.shape, 2, match->base.ndim) > 1;
}

static int ranks_matches(const lora__extract *job,
                         const lora__match *match,
                         const char *pattern)
{
    return lora__tensor_matches(&job->pair.base->tensors[match->base.tensor],
                                pattern) ||
           lora__text_matches(pattern, match->target);
}

LORA_PRIVATE const lora_rank_rule *lora__extract_rule(const lora__extract *job,
                                                      const lora__match *match)
{
    const lora_adapter_extract_options *o = &job->options;

    for (size_t i = o->override_count; i-- > 0;) {
        if (ranks_matches(job, match, o->overrides[i].pattern)) {
            return &o->overrides[i].rule;
        }
    }
    return lora__extract_is_conv(match) && o->conv_rule != NULL ? o->conv_rule
                                                                : job->rule;
}

LORA_PRIVATE int lora__extract_has_floor(const lora__extract_work *w)
{
    const lora__pair *pair = &w->job->pair;

    return pair->base->tensors[w->match->base.tensor].entry->dtype !=
           pair->tuned->tensors[w->match->tuned.tensor].entry->dtype;
}

/* ---- how many directions ----------------------------------------------- */

/* The sketch of a layer depends on the seed and its name, on nothing else. */
static uint64_t ranks_seed(const lora__extract_work *w)
{
    lora__sha256 sha;
    uint8_t digest[32];
    uint64_t name = 0;

    lora__sha256_init(&sha, lora__context_get(w->job->context)->cpu);
    lora__sha256_update(&sha, w->match->target, strlen(w->match->target));
    lora__sha256_finish(&sha, digest);
    for (size_t i = 8; i-- > 0;) {
        name = name << 8 | digest[i];
    }
    return name ^ w->job->options.seed;
}

/* What the decomposition has to find for the rule. */
static lora__dense_goal ranks_goal(const lora__extract_work *w,
                                   const lora_rank_rule *rule)
{
    size_t cap = (size_t)w->job->options.max_rank;
    lora__dense_goal goal;

    memset(&goal, 0, sizeof goal);
    goal.seed = ranks_seed(w);
    goal.exact = (w->job->options.flags & LORA_EXTRACT_EXACT) != 0;
    goal.rank = (size_t)w->job->options.min_rank;
    switch (rule == NULL ? 0 : rule->kind) {
    case LORA_RANK_FIXED:
        goal.rank = (size_t)rule->rank;
        break;
    case LORA_RANK_ENERGY:
        goal.energy = rule->value;
        break;
    case LORA_RANK_RATIO:
        goal.ratio = 1.0 / rule->value;
        break;
    case LORA_RANK_THRESHOLD:
        goal.above = rule->value;
        break;
    case 0:
        goal.above = w->out->noise;
        break;
    default: /* the rule looks at all values */
        goal.exact = 1;
        return goal;
    }
    if (cap != 0 && (goal.rank > cap || goal.rank == 0)) {
        goal.rank = cap;
    }
    if (cap != 0) { /* more than these are not kept anyway */
        goal.energy = 0.0;
        goal.ratio = 0.0;
        goal.above = 0.0;
    }
    return goal;
}

LORA_PRIVATE lora_status lora__extract_decompose(lora__dense *out,
                                                 const lora__extract_work *w,
                                                 const lora__dense_input *input,
                                                 const lora_rank_rule *rule,
                                                 lora_error *error)
{
    lora__dense_goal goal = ranks_goal(w, rule);

    return lora__dense_create(out, w->job->context, input, &goal, error);
}

/* Within cap and floor; a layer that is there at all has a direction. */
static size_t
ranks_bound(const lora__extract_work *w, const lora__dense *dense, size_t keep)
{
    const lora_adapter_extract_options *o = &w->job->options;

    if (o->max_rank != 0 && keep > (size_t)o->max_rank) {
        keep = (size_t)o->max_rank;
    }
    if (keep < (size_t)o->min_rank) {
        keep = (size_t)o->min_rank;
    }
    keep = keep < 1 ? 1 : keep;
    return keep > dense->count ? dense->count : keep;
}

LORA_PRIVATE size_t lora__extract_count(const lora__extract_work *w,
                                        const lora__dense *dense,
                                        const lora_rank_rule *rule,
                                        size_t full)
{
    lora__spectrum spectrum = {dense->sigma, dense->count, full, 1.0};

    return ranks_bound(w, dense,
                       lora__rank_rule_apply_part(rule,
                                                  w->job->options.counting,
                                                  &spectrum, dense->squares));
}

LORA_PRIVATE size_t lora__extract_keep(const lora__extract_work *w,
                                       const lora__dense *dense,
                                       const lora_rank_rule *rule)
{
    size_t full = w->rows < w->cols ? w->rows : w->cols;
    size_t above = 0;
    size_t keep;

    while (above < dense->count && dense->sigma[above] > w->out->noise) {
        above++;
    }
    keep = rule == NULL ? ranks_bound(w, dense, above)
                        : lora__extract_count(w, dense, rule, full);
    if (lora__extract_has_floor(w) && keep > above) {
        keep = above < 1 ? 1 : above;
    }
    return keep;
}
