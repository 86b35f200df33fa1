/* Two checkpoints of one model, tensor by tensor.
 *
 * Tensors are matched by canonical target and member, so the layouts of their
 * authors and of diffusers match each other. Where both have a weight whole
 * that diffusers splits, it is one match; where one of them has it split, its
 * parts are matched one by one, and what is left over is on one side alone.
 */
#ifndef LORA__MODEL_PAIR_H
#define LORA__MODEL_PAIR_H

#include "core/text.h"
#include "model/checkpoint.h"

/* Room for a shape as text. */
#define LORA__PAIR_SHAPE LORA__TEXT_SHAPE

typedef enum lora__match_state {
    LORA__MATCH_BOTH = 0,   /* the same rows and columns on both sides */
    LORA__MATCH_SHAPES,     /* on both sides, with other shapes */
    LORA__MATCH_BASE_ONLY,  /* the other side's holding is all zeros */
    LORA__MATCH_TUNED_ONLY, /* the same */
    LORA__MATCH_NUMBERS,    /* on one side at least not of floats */
    LORA__MATCH_ASIDE       /* no adapter changes it, on either side */
} lora__match_state;

typedef struct lora__match {
    const char *target; /* canonical: of a whole weight, or of a part */
    const char *component;
    lora__role role; /* WEIGHT or BIAS */
    lora__layer layer;
    lora__match_state state;
    int known;           /* 1: a family knows the target */
    lora__holding base;  /* .target NULL: this side has none */
    lora__holding tuned; /* number types: in the tensors' entries */
} lora__match;

typedef struct lora__pair_options {
    const char *const *include; /* patterns; none: all */
    size_t include_count;
    const char *const *exclude; /* these win */
    size_t exclude_count;
    int skip_shapes; /* 1: other shapes are listed, not refused */
    int by_parts;    /* 1: weights that diffusers splits are always split */
} lora__pair_options;

typedef struct lora__pair {
    lora__arena arena;
    const lora__checkpoint *base;
    const lora__checkpoint *tuned;
    const lora__family *family; /* the base's, or else the tuned one's */
    lora__match
        *matches; /* sorted by target, bytewise; weights before biases */
    size_t count;
    size_t counts[LORA__MATCH_ASIDE + 1]; /* by state */
} lora__pair;

/* Match two checkpoints, which must outlive the pair. Patterns are those of
 * lora__tensor_matches, on either side; what they leave out is not listed.
 * SHAPE, with the first such target, where shapes differ and that is not
 * allowed, and then all of them go to the log; KEY where nothing matches. */
LORA_PRIVATE lora_status lora__pair_create(lora__pair *out,
                                           const lora__checkpoint *base,
                                           const lora__checkpoint *tuned,
                                           const lora__pair_options *options,
                                           lora_error *error);

/* The shapes of both sides, as text. */
LORA_PRIVATE void lora__pair_put_shapes(char base[LORA__PAIR_SHAPE],
                                        char tuned[LORA__PAIR_SHAPE],
                                        const lora__match *match);

/* A zeroed pair may be destroyed. */
LORA_PRIVATE void lora__pair_destroy(lora__pair *pair);

#endif
