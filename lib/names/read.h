/* Reading names, inside: what read.c and resolve.c share. */
#ifndef LORA__NAMES_READ_H
#define LORA__NAMES_READ_H

#include "core/map.h"
#include "names/dialect.h"

/* Sets of roles, a bit each. */
typedef uint64_t lora__read_roles;
#define LORA__READ_ROLE(role) ((lora__read_roles)1 << (role))

/* These make no module by themselves. */
#define LORA__READ_ACCESSORIES                                                 \
    (LORA__READ_ROLE(LORA__ROLE_ALPHA) | LORA__READ_ROLE(LORA__ROLE_SCALE) |   \
     LORA__READ_ROLE(LORA__ROLE_SCALAR) | LORA__READ_ROLE(LORA__ROLE_WEIGHT) | \
     LORA__READ_ROLE(LORA__ROLE_BIAS))

typedef struct lora__read_module {
    const char *name; /* in the caller's key, or in the arena */
    size_t bytes;
    const char *path; /* the same, or mended: see mend.h */
    size_t path_bytes;
    lora__read_roles roles;
    lora__styles styles;   /* of all suffixes but accessories */
    int lycoris;           /* has a suffix that kohya's trainer lacks */
    int raw;               /* has PEFT's adapter name in a suffix */
    lora__component named; /* in its name, behind the prefix; ANY: none */
    int bare;              /* a text encoder, but which one is not said */
    int real;              /* is a module at all */
    int replaces;          /* its scale is a norm's new weight */
    int lone_bias; /* PEFT may have trained its bias, and nothing else */
    int broken;    /* spelled as no program does */
    const lora__prefix *prefix;
    lora__component component;
    lora__family_set known;
    lora__place place;
    lora__dialect_index dialect;
    const char *stored;
    const char *target;
    const char *own; /* its name without prefix and component */
    const lora__part *parts;
    size_t part_count;
} lora__read_module;

typedef struct lora__read_key {
    size_t module; /* LORA__READ_NONE: no suffix */
    lora__role role;
} lora__read_key;

#define LORA__READ_NONE SIZE_MAX

typedef struct lora__reading {
    lora_context *context;
    lora__arena *arena;
    const lora__key_in *keys;
    size_t key_count;
    lora__read_key *found;
    lora__read_module *modules;
    size_t module_count;
    size_t module_capacity;
    size_t last;   /* module that was looked for */
    lora__map map; /* from names to modules */
    lora__buffer text;
    lora__site_memo memo;
    const char *adapter; /* PEFT's adapter name */
    size_t adapter_bytes;
    int base; /* the keys are those of a base model: lora__names_read_base */
    int adapters_differ;
    int control_marker;    /* has the tensor that marks a control-LoRA */
    lora__styles numbered; /* styles with numbers that it may have */
    const char *list;      /* what the modules are of, if it is a list */
    size_t mended;         /* names that a family knew once they were mended */
    size_t missed;         /* and names that it was of no use for */
    ptrdiff_t originals;   /* original names less those of diffusers */
    int positional;
    int tokens_alone; /* all that the file has */
    int positional_extended;
    int positional_unfit[LORA__COMPONENT_COUNT];
    lora__metadata_fn metadata;
    const void *metadata_user;
} lora__reading;

/* Find out what a module is, all but what the whole file has to say. */
LORA_PRIVATE lora_status lora__read_resolve(lora__reading *r,
                                            lora__read_module *module,
                                            lora_error *error);

/* Settle what single names leave open, guess the base, and say what each
 * module is in it. */
LORA_PRIVATE lora_status lora__read_settle(lora__reading *r,
                                           lora__names *out,
                                           lora_error *error);

#endif
