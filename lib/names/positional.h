/* Positional names: "unet:3" is the fourth adapted layer, in the order in
 * which the trainer's framework walked through the model. Used inside names/
 * only.
 */
#ifndef LORA__NAMES_POSITIONAL_H
#define LORA__NAMES_POSITIONAL_H

#include "names/family.h"

typedef struct lora__position {
    lora__component component;
    uint32_t index;
} lora__position;

/* Read "unet:<number>" or "text_encoder:<number>"; 0 if it is none. */
LORA_PRIVATE int
lora__position_read(lora__position *out, const char *name, size_t bytes);

/* Append the canonical target and return its layer; UNKNOWN, and nothing
 * appended, past the end. `extended`: residual blocks were adapted too. */
LORA_PRIVATE lora__layer lora__position_put(lora__buffer *out,
                                            const lora__position *position,
                                            int extended);

#endif
