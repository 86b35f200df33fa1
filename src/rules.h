/* The options of verbs that apply adapters to weights: what a strength and DoRA
 * mean where programs differ. */
#ifndef RULES_H
#define RULES_H

#include "app.h"

/* Rows of an option table, for settings with a member `rules`. */
#define RULES_OPTIONS(settings)                                                \
    {"strength-rule",                                                          \
     0,                                                                        \
     OPT_CHOICE,                                                               \
     "origin|interpolate",                                                     \
     "strength of kinds not linear in it (origin)",                            \
     offsetof(settings, rules.strength),                                       \
     0,                                                                        \
     0,                                                                        \
     0},                                                                       \
    {                                                                          \
        "dora", 0, OPT_CHOICE, "origin|lycoris|peft",                          \
            "whose rules DoRA follows (its origin's)",                         \
            offsetof(settings, rules.dora), 0, 0, 0                            \
    }

typedef struct rules_settings {
    int strength; /* 1: origin, 2: interpolate */
    int dora;     /* 1: origin, 2: lycoris, 3: peft */
} rules_settings;

static inline lora_strength_rule rules_strength(const rules_settings *rules)
{
    return rules->strength == 2 ? LORA_STRENGTH_INTERPOLATE
                                : LORA_STRENGTH_ORIGIN;
}

static inline lora_dora_rule rules_dora(const rules_settings *rules)
{
    return rules->dora == 3   ? LORA_DORA_PEFT
           : rules->dora == 2 ? LORA_DORA_LYCORIS
                              : LORA_DORA_ORIGIN;
}

#endif
