/* Options about ranks, which all verbs that choose ranks have. */
#ifndef RANKS_H
#define RANKS_H

#include "app.h"

#define RANKS_MOST 65536

/* The first member of the settings of such a verb. */
typedef struct ranks_settings {
    uint64_t rank;
    opt_real energy, ratio, threshold, global_threshold, cumulative;
    int effective, knee;
    uint64_t size;
    uint64_t conv_rank, max_rank, min_rank;
    opt_list module_ranks;
    int kohya_count, lycoris_count, split;
} ranks_settings;

/* Their options, but --rank. */
#define RANKS_OPTIONS                                                          \
    {"energy",                                                                 \
     0,                                                                        \
     OPT_REAL,                                                                 \
     "E",                                                                      \
     "keep the share E of the squared values",                                 \
     offsetof(ranks_settings, energy),                                         \
     0,                                                                        \
     1,                                                                        \
     0},                                                                       \
        {"ratio",                                                              \
         0,                                                                    \
         OPT_REAL,                                                             \
         "P",                                                                  \
         "drop values below the largest divided by P",                         \
         offsetof(ranks_settings, ratio),                                      \
         1,                                                                    \
         1e300,                                                                \
         0},                                                                   \
        {"threshold",                                                          \
         0,                                                                    \
         OPT_REAL,                                                             \
         "T",                                                                  \
         "drop values up to T",                                                \
         offsetof(ranks_settings, threshold),                                  \
         0,                                                                    \
         1e300,                                                                \
         0},                                                                   \
        {"cumulative",                                                         \
         0,                                                                    \
         OPT_REAL,                                                             \
         "C",                                                                  \
         "keep the share C of the sum of values",                              \
         offsetof(ranks_settings, cumulative),                                 \
         0,                                                                    \
         1,                                                                    \
         0},                                                                   \
        {"effective",                                                          \
         0,                                                                    \
         OPT_FLAG,                                                             \
         NULL,                                                                 \
         "keep exp(entropy) of the values",                                    \
         offsetof(ranks_settings, effective),                                  \
         0,                                                                    \
         0,                                                                    \
         0},                                                                   \
        {"knee",                                                               \
         0,                                                                    \
         OPT_FLAG,                                                             \
         NULL,                                                                 \
         "keep values up to the bend of their curve",                          \
         offsetof(ranks_settings, knee),                                       \
         0,                                                                    \
         0,                                                                    \
         0},                                                                   \
        {"global-threshold",                                                   \
         0,                                                                    \
         OPT_REAL,                                                             \
         "T",                                                                  \
         "drop values up to T, the same in all layers",                        \
         offsetof(ranks_settings, global_threshold),                           \
         0,                                                                    \
         1e300,                                                                \
         0},                                                                   \
        {"size",                                                               \
         0,                                                                    \
         OPT_SIZE,                                                             \
         "SIZE",                                                               \
         "a file of at most SIZE: 40MB, 40MiB",                                \
         offsetof(ranks_settings, size),                                       \
         1,                                                                    \
         9e15,                                                                 \
         0},                                                                   \
        {"conv-rank",                                                          \
         0,                                                                    \
         OPT_COUNT,                                                            \
         "K",                                                                  \
         "rank of k x k convolutions",                                         \
         offsetof(ranks_settings, conv_rank),                                  \
         1,                                                                    \
         RANKS_MOST,                                                           \
         0},                                                                   \
        {"max-rank",                                                           \
         0,                                                                    \
         OPT_COUNT,                                                            \
         "K",                                                                  \
         "never above K, whatever the rule",                                   \
         offsetof(ranks_settings, max_rank),                                   \
         1,                                                                    \
         RANKS_MOST,                                                           \
         0},                                                                   \
        {"min-rank",                                                           \
         0,                                                                    \
         OPT_COUNT,                                                            \
         "K",                                                                  \
         "never below K, whatever the rule",                                   \
         offsetof(ranks_settings, min_rank),                                   \
         1,                                                                    \
         RANKS_MOST,                                                           \
         0},                                                                   \
        {"module-rank",                                                        \
         0,                                                                    \
         OPT_LIST,                                                             \
         "PATTERN=K",                                                          \
         "rank of the modules that match (repeatable)",                        \
         offsetof(ranks_settings, module_ranks),                               \
         0,                                                                    \
         0,                                                                    \
         0},                                                                   \
        {"kohya-count",                                                        \
         0,                                                                    \
         OPT_FLAG,                                                             \
         NULL,                                                                 \
         "count ranks as kohya's resize_lora",                                 \
         offsetof(ranks_settings, kohya_count),                                \
         0,                                                                    \
         0,                                                                    \
         0},                                                                   \
        {"lycoris-count",                                                      \
         0,                                                                    \
         OPT_FLAG,                                                             \
         NULL,                                                                 \
         "count them as LyCORIS",                                              \
         offsetof(ranks_settings, lycoris_count),                              \
         0,                                                                    \
         0,                                                                    \
         0},                                                                   \
    {                                                                          \
        "split", 0, OPT_CHOICE, "even|up",                                     \
            "which factors the values go into (even)",                         \
            offsetof(ranks_settings, split), 0, 0, 0                           \
    }

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

#endif
