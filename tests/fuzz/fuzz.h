/* What fuzz targets share.
 *
 * A target is a file with a name and LLVMFuzzerTestOneInput(). Linked with
 * replay.c it is a plain program that runs what is in its pack of inputs;
 * linked with libFuzzer it looks for more. A check that fails aborts.
 */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H

#define TEST_PLAIN
#include "unit/containers.h"

#include <lora/lora.h>

/* Of the target, and of its pack in corpus/. */
extern const char fuzz_name[];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The most memory that a file, and a configuration of so many bytes with it,
 * may take to open and use. */
uint64_t fuzz_memory_most(const uint8_t *data, size_t bytes, size_t config);

/* Open a file, and use all there is: every question, every tensor, the change
 * of every small module, reports, saving. It may be refused, but
 *
 *  - the same from memory and through a reader, answer by answer;
 *  - within fuzz_memory_most(), with nothing left when it is closed;
 *  - what opens can be saved, the saved file has the same tensors,
 *    metadata and modules, and saved again it has the same bytes;
 *  - when an allocation fails, opening answers MEMORY.
 *
 * `options` may be NULL. Gives what opening answered. */
lora_status fuzz_adapter(const uint8_t *data,
                         size_t bytes,
                         const lora_adapter_open_options *options);

/* Add the weight change of a module, or why there is none, to a digest. LIMIT
 * if it is not small enough to be computed here. */
lora_status fuzz_delta(uint64_t *digest,
                       const lora_adapter *adapter,
                       size_t index,
                       const lora_module_info *module);

/* Both have the same tensors: names, types, shapes and bytes. */
void fuzz_same_tensors(const lora_adapter *a, const lora_adapter *b);

/* Save, open what was saved, and compare; `options` are those that the adapter
 * was opened with, or NULL. */
void fuzz_saved(const lora_adapter *adapter,
                lora_context *context,
                const lora_adapter_open_options *options);

/* A safetensors file from a text in which everything up to the first NUL is
 * the header and the rest are the data: the fuzzer need not get the length of
 * the header right. */
blob fuzz_safetensors(const uint8_t *data, size_t bytes);

#endif
