/* Parts: which modules a conversion writes, and of what they are made, where
 * one dialect has a single weight for what are several in another (q, k and v,
 * as a rule), or orders its rows in another way.
 *
 * Every module of the source comes as one piece, or as one for each of its
 * parts; pieces that the new dialect has in one weight form a group. So modules
 * are split, joined, or both.
 */
#ifndef LORA__OP_PARTS_H
#define LORA__OP_PARTS_H

#include "adapter/kind.h"
#include "op/gather.h"

/* Some rows of a module. */
typedef struct lora__piece {
    struct lora__piece *next; /* into the same weight */
    const lora__module *module;
    const char *target;
    lora__layer layer;
    lora__row_set from;  /* which rows of the module; 0 units: all */
    lora__row_set to;    /* and of the weight that is written */
    const size_t *terms; /* which terms of the sum these rows need; NULL: all */
    size_t term_count;
} lora__piece;

/* A module to be written. */
typedef struct lora__group {
    lora__piece *first; /* in the order of rows */
    size_t count;
    int whole; /* the only piece is a whole module, as it is */
} lora__group;

typedef struct lora__parts {
    lora__group *groups; /* in the order of their first modules */
    size_t count;
} lora__parts;

/* Make the groups, in an arena. A fused module whose up factor is block
 * diagonal, as after joining, gives each part its own block; a part whose rows
 * are zeros is left out. */
LORA_PRIVATE lora_status lora__parts_plan(lora__parts *out,
                                          lora__arena *arena,
                                          const lora_adapter *adapter,
                                          const lora__dialect *dialect,
                                          const lora__family *family,
                                          const unsigned char *left_out,
                                          lora_error *error);

/* What a group becomes. */
typedef struct lora__joined {
    const lora_adapter *adapter;
    const lora__group *group;
    lora__arena *arena;
    lora__module module; /* the first piece's, with the rank and the scale of
                          * the result */
    int stacked;         /* the terms of all pieces, side by side */
    int transposed;
    int restated;  /* alpha is no longer that of the first piece */
    uint64_t rows; /* of the weight; 0: no tensor tells */
    uint64_t roles;
} lora__joined;

/* Find out how the pieces of a group go together: UNSUPPORTED or SHAPE, with
 * the reason, if they do not without a loss. With `bakes` 1 the scale of each
 * goes into its factors, else their ratio may only be a power of two. */
LORA_PRIVATE lora_status lora__join_begin(lora__joined *out,
                                          const lora__group *group,
                                          const lora_adapter *adapter,
                                          lora__arena *arena,
                                          int bakes,
                                          lora_error *error);

/* The role of a tensor in the result, from that in the pieces: another one
 * where the weight is transposed. */
LORA_PRIVATE lora_status lora__join_role(lora__role *out,
                                         const lora__joined *joined,
                                         lora__role role,
                                         lora_error *error);

/* One of its tensors: an entry of the adapter as it is, or rectangles of
 * several. */
typedef struct lora__joined_tensor {
    size_t entry;
    lora_dtype dtype;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
    lora__rect *rects; /* in the arena; NULL: the entry */
    size_t rect_count;
} lora__joined_tensor;

LORA_PRIVATE lora_status lora__join_tensor(lora__joined_tensor *out,
                                           const lora__joined *joined,
                                           lora__role role,
                                           int bakes,
                                           lora_error *error);

/* Rows of a module's weight as its tensors tell; 0 if none does. */
LORA_PRIVATE lora_status lora__parts_rows(uint64_t *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          lora_error *error);

/* The set, or one that is all rows. */
LORA_PRIVATE lora__row_set lora__parts_slices(const lora__row_set *set);

/* 1 if an alpha in F32 can say that scale with that rank. */
LORA_PRIVATE int lora__parts_alpha_fits(double scale, size_t rank);

#endif
