/* Options about ranks: see ranks.h. */
#include "ranks.h"

#include "say.h"

#include <stdlib.h>
#include <string.h>

/* Of the choices of --split. */
enum { RANKS_SPLIT_UP = 2 };

static lora_rank_rule ranks_fixed(uint64_t rank)
{
    lora_rank_rule rule = {LORA_RANK_FIXED, (int32_t)rank, 0.0};
    return rule;
}

int ranks_find_rule(const ranks_rules *rules, lora_rank_rule *out)
{
    const struct {
        lora_rank_rule_kind kind;
        int given;
        double value;
    } all[] = {
        {LORA_RANK_FIXED, rules->rank != 0, 0.0},
        {LORA_RANK_ENERGY, rules->energy.given, rules->energy.value},
        {LORA_RANK_RATIO, rules->ratio.given, rules->ratio.value},
        {LORA_RANK_THRESHOLD, rules->threshold.given, rules->threshold.value},
        {LORA_RANK_THRESHOLD, rules->global_threshold.given,
         rules->global_threshold.value},
        {LORA_RANK_CUMULATIVE, rules->cumulative.given,
         rules->cumulative.value},
        {LORA_RANK_EFFECTIVE, rules->effective, 0.0},
        {LORA_RANK_KNEE, rules->knee, 0.0},
        {LORA_RANK_SIZE, rules->size != 0, (double)rules->size},
    };
    int given = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].given) {
            out->kind = all[i].kind;
            out->rank = (int32_t)rules->rank;
            out->value = all[i].value;
            given++;
        }
    }
    return given;
}

/* Read one PATTERN=K; the pattern is copied. The last '=' counts. */
static int
ranks_read_override(app_state *app, const char *text, lora_rank_override *out)
{
    uint64_t rank = 0;
    const char *equals = strrchr(text, '=');
    if (equals == NULL || equals == text ||
        !opt_read_count(&rank, equals + 1) || rank < 1 || rank > RANKS_MOST) {
        return say_usage(app, "--module-rank",
                         "\"%s\" is not PATTERN=K with K from 1 to %d", text,
                         RANKS_MOST);
    }
    size_t bytes = (size_t)(equals - text);
    char *pattern = app_alloc(bytes + 1, 1);
    memcpy(pattern, text, bytes);
    pattern[bytes] = '\0';
    out->pattern = pattern;
    out->rule = ranks_fixed(rank);
    return 0;
}

int ranks_check_rules(app_state *app,
                      const ranks_settings *own,
                      const ranks_rules *rules)
{
    if (rules->global_threshold.given &&
        (own->conv_rank != 0 || own->module_ranks.count != 0)) {
        return say_usage(app, "--global-threshold",
                         "is for all layers, --threshold leaves out those of "
                         "--conv-rank and --module-rank");
    }
    return 0;
}

int ranks_read(app_state *app, const ranks_settings *own, ranks_choice *out)
{
    memset(out, 0, sizeof *out);
    out->rule = ranks_fixed(RANKS_MOST);
    out->given = ranks_find_rule(&own->rules, &out->rule);
    if (out->given > 1) {
        return say_usage(app, NULL,
                         "give one of --rank, --energy, --ratio, --threshold, "
                         "--global-threshold, --cumulative, --effective, "
                         "--knee, --size; --max-rank and --min-rank go with "
                         "any");
    }
    int code = ranks_check_rules(app, own, &own->rules);
    if (code != 0) {
        return code;
    }
    if (own->kohya_count && own->lycoris_count) {
        return say_usage(app, "--lycoris-count",
                         "does not go with --kohya-count");
    }
    if (own->max_rank != 0 && own->min_rank > own->max_rank) {
        return say_usage(app, "--min-rank", "is above --max-rank");
    }
    out->conv = ranks_fixed(own->conv_rank);
    out->conv_rule = own->conv_rank != 0 ? &out->conv : NULL;
    out->overrides = app_alloc(own->module_ranks.count, sizeof *out->overrides);
    for (size_t i = 0; i < own->module_ranks.count; i++) {
        code = ranks_read_override(app, own->module_ranks.items[i],
                                   &out->overrides[i]);
        if (code != 0) {
            return code;
        }
        out->override_count++;
    }
    out->counting = own->kohya_count     ? LORA_COUNT_KOHYA
                    : own->lycoris_count ? LORA_COUNT_LYCORIS
                                         : LORA_COUNT_EXACT;
    out->split = own->split == RANKS_SPLIT_UP ? LORA_SPLIT_UP : LORA_SPLIT_EVEN;
    return 0;
}

void ranks_release(ranks_choice *choice)
{
    for (size_t i = 0; i < choice->override_count; i++) {
        char *pattern = (char *)(uintptr_t)choice->overrides[i].pattern;
        free(pattern);
    }
    free(choice->overrides);
}
