/* Random numbers that are a function of a counter: Philox4x32-10.
 *
 * The same on every machine and for any number of threads, since nothing is
 * carried from one number to the next.
 */
#ifndef LORA__CORE_RNG_H
#define LORA__CORE_RNG_H

#include "platform/compiler.h"

/* Four words of a counter and a key. out may be counter. */
LORA_PRIVATE void
lora__philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

#endif
