/* Options about ranks, which all verbs that choose ranks have. */
#ifndef RANKS_H
#define RANKS_H

#include "app.h"

#define RANKS_MOST 65536

/* Of these one is given. */
typedef struct ranks_rules {
    uint64_t rank, size;
    opt_real energy, ratio, threshold, global_threshold, cumulative;
    int effective, knee;
} ranks_rules;

/* The first member of the settings of such a verb. The rules come first, so
 * that an offset tells whether an option is one of them. */
typedef struct ranks_settings {
    ranks_rules rules;
    uint64_t conv_rank, max_rank, min_rank;
    opt_list module_ranks;
    int kohya_count, lycoris_count, split;
} ranks_settings;

#define RANKS_OPTION(name, kind, value, help, field, min, max)                 \
    {                                                                          \
        name, 0, kind, value, help, offsetof(ranks_settings, field), min, max, \
            0                                                                  \
    }

/* Their options, but --rank. */
#define RANKS_OPTIONS                                                          \
    RANKS_OPTION("energy", OPT_REAL, "E",                                      \
                 "keep the share E of the squared values", rules.energy, 0,    \
                 1),                                                           \
        RANKS_OPTION("ratio", OPT_REAL, "P",                                   \
                     "drop values below the largest divided by P",             \
                     rules.ratio, 1, 1e300),                                   \
        RANKS_OPTION("threshold", OPT_REAL, "T", "drop values up to T",        \
                     rules.threshold, 0, 1e300),                               \
        RANKS_OPTION("cumulative", OPT_REAL, "C",                              \
                     "keep the share C of the sum of values",                  \
                     rules.cumulative, 0, 1),                                  \
        RANKS_OPTION("effective", OPT_FLAG, NULL,                              \
                     "keep exp(entropy) of the values", rules.effective, 0,    \
                     0),                                                       \
        RANKS_OPTION("knee", OPT_FLAG, NULL,                                   \
                     "keep values up to the bend of their curve", rules.knee,  \
                     0, 0),                                                    \
        RANKS_OPTION("global-threshold", OPT_REAL, "T",                        \
                     "drop values up to T, the same in all layers",            \
                     rules.global_threshold, 0, 1e300),                        \
        RANKS_OPTION("size", OPT_SIZE, "SIZE",                                 \
                     "a file of at most SIZE: 40MB, 40MiB", rules.size, 1,     \
                     9e15),                                                    \
        RANKS_OPTION("conv-rank", OPT_COUNT, "K",                              \
                     "rank of k x k convolutions", conv_rank, 1, RANKS_MOST),  \
        RANKS_OPTION("max-rank", OPT_COUNT, "K",                               \
                     "never above K, whatever the rule", max_rank, 1,          \
                     RANKS_MOST),                                              \
        RANKS_OPTION("min-rank", OPT_COUNT, "K",                               \
                     "never below K, whatever the rule", min_rank, 1,          \
                     RANKS_MOST),                                              \
        RANKS_OPTION("module-rank", OPT_LIST, "PATTERN=K",                     \
                     "rank of the modules that match (repeatable)",            \
                     module_ranks, 0, 0),                                      \
        RANKS_OPTION("kohya-count", OPT_FLAG, NULL,                            \
                     "count ranks as kohya's resize_lora", kohya_count, 0, 0), \
        RANKS_OPTION("lycoris-count", OPT_FLAG, NULL, "count them as LyCORIS", \
                     lycoris_count, 0, 0),                                     \
        RANKS_OPTION("split", OPT_CHOICE, "even|up",                           \
                     "which factors the values go into (even)", split, 0, 0)

/* What they say; freed by ranks_release(). */
typedef struct ranks_choice {
    int given; /* a rule was */
    lora_rank_rule rule;
    const lora_rank_rule *conv_rule; /* NULL: none */
    lora_rank_rule conv;
    lora_rank_override *overrides;
    size_t override_count;
    lora_rank_counting counting;
    lora_rank_split split;
} ranks_choice;

/* 0, or EXIT_USAGE after a message. Without a rule `rule` keeps all. */
int ranks_read(app_state *app, const ranks_settings *own, ranks_choice *out);
void ranks_release(ranks_choice *choice);

/* The last rule that was given, and how many were; without one *out stays. */
int ranks_find_rule(const ranks_rules *rules, lora_rank_rule *out);

/* Refuse rules that contradict other options; as ranks_read(). */
int ranks_check_rules(app_state *app,
                      const ranks_settings *own,
                      const ranks_rules *rules);

#endif
