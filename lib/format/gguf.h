/* GGUF, the container of ggml: llama.cpp and stable-diffusion.cpp write it.
 *
 *   gguf.c         pairs, the table of tensors, where their data lie
 *   gguf_blocks.c  number types, and tensors stored as blocks
 *
 * Tensors of plain numbers are read, mapped and lent from the file. Blocks of
 * a few bits a number are decoded to F32 whenever they are read.
 */
#ifndef LORA__FORMAT_GGUF_H
#define LORA__FORMAT_GGUF_H

#include "format/container.h"

LORA_PRIVATE int lora__gguf_is(const unsigned char *head, size_t bytes);

/* Fill a new container from its reader, whose first bytes are those that
 * lora__gguf_is() knows. */
LORA_PRIVATE lora_status lora__gguf_read(lora__container *container,
                                         lora_error *error);

/* Of an entry that is stored as blocks: bytes of so many of its numbers, which
 * are whole blocks; and bytes of the file as they are. */
LORA_PRIVATE uint64_t lora__gguf_stored_bytes(const lora__entry *entry,
                                              uint64_t elements);
LORA_PRIVATE lora_status lora__gguf_read_stored(void *out,
                                                const lora__entry *entry,
                                                uint64_t offset,
                                                size_t bytes,
                                                lora_error *error);

/* Blocks of Q8_0 of numbers, by ggml's rule: d is the largest magnitude / 127,
 * and each number the nearest multiple of it, halves away from 0. What is not
 * finite makes its block NaN. */
LORA_PRIVATE void
lora__gguf_encode_q8_0(unsigned char *out, const float *in, size_t count);

/* Between the two files. */

/* Numbers of one block, of those types that are decoded. */
#define LORA__GGUF_BLOCK 32

typedef struct lora__gguf_type {
    uint32_t id;
    const char *name;
    lora_dtype dtype;     /* what it is read as; NONE: it is not read */
    uint32_t block_bytes; /* of a block of LORA__GGUF_BLOCK; 0: no blocks */
    void (*decode)(float *out, const unsigned char *block);
} lora__gguf_type;

/* NULL if no such type is known. */
LORA_PRIVATE const lora__gguf_type *lora__gguf_type_find(uint32_t id);

/* Let an entry of F32, whose shape, sizes and offset are set, be decoded from
 * the blocks at its offset in the container's reader. */
LORA_PRIVATE lora_status lora__gguf_place_blocks(lora__entry *entry,
                                                 lora__container *container,
                                                 const lora__gguf_type *type,
                                                 lora_error *error);

#endif
