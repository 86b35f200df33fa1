/* The allocator a context has when the host gives none: malloc. */
#ifndef LORA__CORE_ALLOC_H
#define LORA__CORE_ALLOC_H

#include "platform/compiler.h"

#include <lora/context.h>

LORA_PRIVATE lora_allocator lora__alloc_default(void);

#endif
