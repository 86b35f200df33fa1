/* The rotations that blocks of OFT and BOFT stand for. Source: formats.md 5.13
 * and 5.14.
 */
#ifndef LORA__ADAPTER_KINDS_ROTATIONS_H
#define LORA__ADAPTER_KINDS_ROTATIONS_H

#include "adapter/kinds/common.h"

/* The blocks of a module, or of a piece of it that has some of the rows:
 * [stages, count, side, side], or triangles. */
typedef struct lora__rotations {
    lora__role role;
    const lora__entry *entry;
    size_t stages;
    size_t count; /* of a stage */
    size_t side;
    int inputs; /* 1: columns of the weight are turned, not rows */
} lora__rotations;

/* Blocks of numbers: what is stored, which is there while it is read, and the
 * rotations less the identity, [stages, count, side, side] of one piece after
 * the other: what is to the left of rows of the weight, or to the right of its
 * columns. */
enum { LORA__BLOCK_ROTATIONS_RAW, LORA__BLOCK_ROTATIONS };

/* 1 if the module is kohya's, with whom an alpha of 0 means that nothing is
 * turned. Nobody else has pieces. */
LORA_PRIVATE int lora__rotations_are_kohyas(const lora_adapter *adapter,
                                            const lora__module *module);

/* Load the rotations of a module that was parsed, of each of its pieces, those
 * of rows as strong as the multiplier says: R - I times that. In f64, rounded
 * once. NONFINITE if they are; LIMIT for a series without end. */
LORA_PRIVATE lora_status lora__rotations_load(lora__rows *state,
                                              const lora_adapter *adapter,
                                              const lora__module *module,
                                              const lora__rotations *pieces,
                                              size_t piece_count,
                                              lora_error *error);

#endif
