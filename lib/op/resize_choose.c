/* Choosing ranks: rules, overrides, caps. */
#include "op/rank_rule.h"
#include "op/resize.h"

/* The rule for a module: the last override that matches, the one for k x k
 * convolutions, or the general one. */
static const lora_rank_rule *choose_rule(const lora__resize *job,
                                         const lora__module *module)
{
    const lora_adapter_resize_options *o = &job->options;
    int64_t kernel = 1;

    for (size_t i = o->override_count; i-- > 0;) {
        if (lora__module_matches(module, o->overrides[i].pattern)) {
            return &o->overrides[i].rule;
        }
    }
    for (int32_t i = 2; i < module->ndim; i++) {
        kernel *= module->shape[i];
    }
    return kernel > 1 && o->conv_rule != NULL ? o->conv_rule : job->rule;
}

/* Directions to keep: what the rule says, within cap and floor; a layer is
 * never left without any. */
static size_t choose_keep(const lora__resize *job,
                          const lora_rank_rule *rule,
                          const double *sigma,
                          size_t count,
                          size_t full)
{
    size_t keep = lora__rank_rule_apply(rule, sigma, count, full);
    size_t cap = (size_t)job->options.max_rank;
    size_t floor = (size_t)job->options.min_rank;

    keep = cap != 0 && keep > cap ? cap : keep;
    /* A zero layer that is lowered keeps one direction of zeros. */
    keep = count > 0 && sigma[0] == 0.0 && keep < count ? 0 : keep;
    floor = floor == 0 ? 1 : floor;
    keep = keep < floor ? floor : keep;
    return keep > count ? count : keep;
}

/* The rank to write: the directions kept, or with padding the full number of
 * a fixed rule, within the cap. */
static size_t
choose_rank(const lora__resize *job, const lora_rank_rule *rule, size_t keep)
{
    size_t full = (size_t)rule->rank;
    size_t cap = (size_t)job->options.max_rank;

    full = cap != 0 && full > cap ? cap : full;
    return job->options.pad && rule->kind == LORA_RANK_FIXED && full > keep
               ? full
               : keep;
}

LORA_PRIVATE lora__rank_choice lora__resize_choose(const lora__resize *job,
                                                   const lora__module *module,
                                                   const double *sigma,
                                                   size_t count,
                                                   size_t full)
{
    const lora_rank_rule *rule = choose_rule(job, module);
    lora__rank_choice choice;

    choice.keep = choose_keep(job, rule, sigma, count, full);
    choice.rank = choose_rank(job, rule, choice.keep);
    return choice;
}
