/* Choosing ranks: rules, overrides, caps. */
#include "op/resize.h"

/* 1 for what conv_rule is about: k x k convolutions, or with kohya's counting
 * all of them. */
static int choose_is_conv(const lora__resize *job, size_t index)
{
    const lora__module *module = &job->adapter->modules[index];
    int32_t ndim;
    const int64_t *shape = lora__resize_shape(&ndim, job, index);

    if (job->options.counting == LORA_COUNT_KOHYA) {
        const lora__entry *down =
            lora__module_entry(job->adapter, module, LORA__ROLE_DOWN);
        return (down != NULL ? down->ndim : ndim) > 2;
    }
    return lora__shape_count(shape, 2, ndim) > 1;
}

/* The rule for a module: the last override that matches, the one for
 * convolutions, or the general one. */
LORA_PRIVATE const lora_rank_rule *lora__resize_rule(const lora__resize *job,
                                                     size_t index)
{
    const lora_adapter_resize_options *o = &job->options;
    const lora__module *module = &job->adapter->modules[index];

    for (size_t i = o->override_count; i-- > 0;) {
        if (lora__module_matches(module, o->overrides[i].pattern)) {
            return &o->overrides[i].rule;
        }
    }
    return o->conv_rule != NULL && choose_is_conv(job, index) ? o->conv_rule
                                                              : job->rule;
}

/* What a rule says, within cap and floor; a layer is never left without any
 * direction. Above the count only where kohya's counting is. */
static size_t
choose_bounded(const lora__resize *job, const lora__spectrum *s, size_t wanted)
{
    size_t cap =
        job->options.max_rank != 0
            ? (size_t)job->options.max_rank
            : (size_t)lora__context_get(job->adapter->context)->limits.rank;
    size_t floor =
        job->options.min_rank != 0 ? (size_t)job->options.min_rank : 1;

    wanted = wanted > cap ? cap : wanted;
    /* A zero layer that is lowered keeps one direction of zeros. */
    wanted =
        s->count > 0 && s->sigma[0] == 0.0 && wanted < s->count ? 0 : wanted;
    floor = floor > s->count ? s->count : floor;
    return wanted < floor ? floor : wanted;
}

/* The rank to write: with padding the full number of a fixed rule, within the
 * cap. */
static size_t choose_padded(const lora__resize *job,
                            const lora_rank_rule *rule,
                            size_t wanted)
{
    size_t full = (size_t)rule->rank;
    size_t cap = (size_t)job->options.max_rank;

    full = cap != 0 && full > cap ? cap : full;
    return job->options.pad && rule->kind == LORA_RANK_FIXED && full > wanted
               ? full
               : wanted;
}

LORA_PRIVATE void lora__resize_range(size_t *out_least,
                                     size_t *out_most,
                                     const lora__resize *job,
                                     const lora__spectrum *spectrum)
{
    size_t most = 0;

    while (most < spectrum->count && spectrum->sigma[most] > 0.0) {
        most++;
    }
    *out_least = choose_bounded(job, spectrum, 0);
    *out_most = choose_bounded(job, spectrum, most);
}

LORA_PRIVATE lora__rank_choice lora__resize_choose(
    const lora__resize *job, size_t index, const lora__spectrum *spectrum)
{
    return lora__resize_choose_part(job, index, spectrum, -1.0);
}

LORA_PRIVATE lora__rank_choice
lora__resize_choose_part(const lora__resize *job,
                         size_t index,
                         const lora__spectrum *spectrum,
                         double squares)
{
    const lora_rank_rule *rule = lora__resize_rule(job, index);
    lora__rank_choice choice;
    size_t wanted = job->results[index].planned;

    if (rule->kind != LORA_RANK_SIZE) {
        wanted =
            squares < 0.0
                ? lora__rank_rule_apply(rule, job->options.counting, spectrum)
                : lora__rank_rule_apply_part(rule, job->options.counting,
                                             spectrum, squares);
        wanted = choose_bounded(job, spectrum, wanted);
    }
    choice.keep = wanted < spectrum->count ? wanted : spectrum->count;
    choice.rank = choose_padded(job, rule, wanted);
    return choice;
}
