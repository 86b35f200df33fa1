/* What this CPU has, as LORA_CPU_* bits of <lora/context.h>. */
#ifndef LORA__PLATFORM_CPUID_H
#define LORA__PLATFORM_CPUID_H

#include "platform/compiler.h"

LORA_PRIVATE uint32_t lora__cpu_features(void);

#endif
