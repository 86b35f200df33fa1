/* Mending names that were spoiled on their way. Used inside names/ only. */
#ifndef LORA__NAMES_MEND_H
#define LORA__NAMES_MEND_H

#include "core/buffer.h"

/* Append the module's name with one mistake less; 0, and nothing is appended,
 * if there is none that is known. Whether the result means anything is for the
 * caller to find out: what is a mistake in one name is part of another. */
LORA_PRIVATE int
lora__name_mend(lora__buffer *out, const char *name, size_t bytes);

#endif
