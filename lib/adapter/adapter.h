/* The adapter inside the library: modules over a container.
 *
 * Immutable once opened. A module groups the tensors of one layer by role;
 * its kind says what they mean.
 */
#ifndef LORA__ADAPTER_ADAPTER_H
#define LORA__ADAPTER_ADAPTER_H

#include "format/container.h"
#include "names/names.h"

#include <lora/adapter.h>

typedef struct lora__kind lora__kind;

/* One tensor of a module. */
typedef struct lora__member {
    lora__role role;
    size_t entry; /* in the container */
} lora__member;

typedef struct lora__module {
    const char *name;      /* as stored */
    const char *path;      /* the same, mended where it is broken */
    const char *target;    /* canonical */
    const char *component; /* of a pipeline; "" where that is not known */
    const lora__dialect *dialect;
    lora__layer layer;
    int known;               /* a family knows the target */
    const lora__part *parts; /* of a weight that is several targets, or one with
                              * its rows moved; see names.h */
    size_t part_count;
    int broken; /* the name is spelled as no program does */
    const lora__kind *kind;
    lora__member *members; /* in file order */
    size_t member_count;
    uint64_t roles; /* of the members: LORA__ROLE_BIT of each */

    int64_t rank;
    int32_t has_alpha;
    int32_t ndim;
    double alpha;
    double scale;
    int64_t shape[LORA_MAX_DIMS];
    lora_dtype dtype;
    int32_t dora;
    int32_t tucker;
    int32_t padded;     /* the base may be smaller: zeros are put to it */
    int32_t sparse;     /* single elements of the change beside its factors */
    int32_t of_inputs;  /* factors of its own scale the inputs; -1: or the
                         * outputs, which is not told */
    int32_t transposed; /* shape is [in, out], factors are [out, r] [r, in] */
    int32_t changes;
    int32_t needs;      /* parts whose change depends on the base's tensor */
    const char *lacks;  /* what the numbers need that is not in the file */
    lora_status status; /* not OK: operations answer this ... */
    const char *reason; /* ... and say this */
} lora__module;

typedef struct lora__problem_node {
    struct lora__problem_node *next;
    lora_problem problem;
} lora__problem_node;

/* A growing list of problems in an arena. */
typedef struct lora__problems {
    lora__arena *arena;
    lora__problem_node *first;
    lora__problem_node **end;
    size_t count;
} lora__problems;

/* The vectors of a learned token for one text encoder; see embeddings.h. */
typedef struct lora__embedding lora__embedding;

/* What PEFT's configuration says of one component; see config.h. */
typedef struct lora__peft_config lora__peft_config;

/* How Light-LoRA's frozen matrices were drawn; see light.h. */
typedef struct lora__light lora__light;

/* What the model card says; see card.h. */
typedef struct lora__card lora__card;

/* Texts that lie beside an adapter's file; NULL: there is none. */
typedef struct lora__beside {
    const char *config; /* adapter_config.json */
    size_t config_bytes;
    const char *card; /* README.md */
    size_t card_bytes;
} lora__beside;

struct lora_adapter {
    uint32_t references; /* atomic */
    lora_context *context;
    lora__container *container;
    lora__arena arena;
    lora__names names;
    lora__module *modules;
    size_t module_count;
    size_t *entry_module;        /* per tensor: its module, or SIZE_MAX */
    lora__map by_name;           /* stored and canonical names */
    lora__embedding *embeddings; /* of learned tokens, in file order */
    size_t embedding_count;
    lora__problems problems;
    lora__peft_config *config; /* NULL if there is none */
    const char *config_text;   /* of an adapter_config.json beside the file */
    const lora__card *card;    /* NULL if there is none */
    lora__light *light;        /* NULL if there is none */
    int light_suspected;       /* factors are shorter than their layers */
};

/* An adapter that is being opened. */
typedef struct lora__opening {
    lora_adapter *adapter;
    lora_error *error;
    lora_status status; /* MEMORY where a rejection could not be written down,
                         * whatever became of what reject returned */
} lora__opening;

/* Make an adapter of a container, which is owned from here on, also on
 * failure. `beside` may be NULL. */
LORA_PRIVATE lora_status lora__adapter_create(lora_adapter **out,
                                              lora__container *container,
                                              const lora__beside *beside,
                                              lora_error *error);

/* The metadata that a file made of the adapter has: those of its own, and the
 * configuration that was read from beside it, as the scale depends on that. The
 * list lies in the arena, or is the container's. */
LORA_PRIVATE lora_status lora__adapter_metadata(const lora__metadata **out,
                                                size_t *out_count,
                                                const lora_adapter *adapter,
                                                lora__arena *arena,
                                                lora_error *error);

/* Write as safetensors; the writer is finished or aborted in every case. */
LORA_PRIVATE lora_status lora__adapter_write(const lora_adapter *adapter,
                                             const lora_writer *writer,
                                             lora_error *error);

/* 1 if a pattern ('*' any bytes, '?' one) matches the stored or the canonical
 * name, or the name of the component. */
LORA_PRIVATE int lora__module_matches(const lora__module *module,
                                      const char *pattern);

/* The tensor of a role, or NULL. */
LORA_PRIVATE const lora__member *lora__module_find(const lora__module *module,
                                                   lora__role role);
LORA_PRIVATE const lora__entry *lora__module_entry(const lora_adapter *adapter,
                                                   const lora__module *module,
                                                   lora__role role);

/* Mark a module as unusable and list the problem. OK, unless memory ran out;
 * that is also kept in the opening, so callers need not pass it on. */
LORA_PRIVATE lora_status lora__module_reject(lora__opening *opening,
                                             lora__module *module,
                                             lora_status status,
                                             const char *code,
                                             const char *format,
                                             ...) LORA__PRINTF(5, 6);

/* OK, or the failure of an unusable module with its name and reason. */
LORA_PRIVATE lora_status lora__module_check(const lora__module *module,
                                            lora_error *error);

/* Read a tensor of one element as a number. SHAPE, DTYPE, or what reading
 * gives. */
LORA_PRIVATE lora_status lora__adapter_read_scalar(double *out,
                                                   const lora_adapter *adapter,
                                                   size_t entry,
                                                   lora_error *error);

/* Read a member that must be one finite number; what is wrong with it is the
 * module's problem, a failing read is the call's. */
LORA_PRIVATE lora_status lora__module_read_number(double *out,
                                                  lora__opening *opening,
                                                  lora__module *module,
                                                  lora__role role);

/* Set has_alpha, alpha and scale from the module's tensors and the PEFT
 * configuration (formats.md 5.4); rank must be set. */
LORA_PRIVATE lora_status lora__module_resolve_scale(lora__opening *opening,
                                                    lora__module *module);

/* The same of a module whose tensors are whole, which has no rank: alpha, which
 * trainers then store without meaning it, is ignored, but for that of a PEFT
 * configuration, which has a rank beside it. */
LORA_PRIVATE lora_status
lora__module_resolve_scale_whole(lora__opening *opening, lora__module *module);

/* Put back the first dimensions of 1 of a module's tensors, in the container.
 * For one whose ones_lost is set, before anybody else has it. */
LORA_PRIVATE void lora__module_restore_ones(const lora_adapter *adapter,
                                            const lora__module *module);

LORA_PRIVATE void lora__problems_init(lora__problems *problems,
                                      lora__arena *arena);
LORA_PRIVATE lora_status lora__problems_add(lora__problems *problems,
                                            lora_severity severity,
                                            lora_status status,
                                            const char *code,
                                            const char *subject,
                                            lora_error *error,
                                            const char *format,
                                            ...) LORA__PRINTF(7, 8);

#endif
