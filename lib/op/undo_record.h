/* The layout of undo files, and what writing and reading them share.
 *
 *   "LORAUND1", then records, little-endian:
 *
 *    0  type     u32
 *    4  flags    u32
 *    8  index    u64
 *   16  offset   u64
 *   24  bytes    u64
 *   32  payload  u32, bytes that follow
 *   36  sum      u32, CRC-32 of the 36 bytes before and of the payload
 *
 *   type     index    offset   bytes       payload
 *   BEGIN    files    tensors  adapters    mode, layout, rule, dora: u32 each
 *   ADAPTER  which    0        0           what identifies it
 *   FILE     which    0        of it       its name, below the folder
 *   TENSOR   which    in file  of it       file, dtype: u32 each; its name
 *   DATA     file     in file  unpacked    bytes that are no tensor's
 *   DELTA    tensor   in it    unpacked    before xor after; or how far before
 *                                          is from what is predicted
 *   HASH     tensor   0        0           SHA-256 before, after
 *   END      records  0        0
 *
 * In this order, DELTA and HASH in any. All pieces are small enough to be held
 * in memory. Tensors and DATA cover every file, once.
 */
#ifndef LORA__OP_UNDO_RECORD_H
#define LORA__OP_UNDO_RECORD_H

#include "op/undo.h"

#define LORA__UNDO_MAGIC "LORAUND1"
#define LORA__UNDO_MAGIC_BYTES 8
#define LORA__UNDO_HEAD 40
#define LORA__UNDO_PIECE ((size_t)1 << 20) /* the most of DATA or DELTA */

enum {
    LORA__UNDO_BEGIN = 1,
    LORA__UNDO_ADAPTER,
    LORA__UNDO_FILE,
    LORA__UNDO_TENSOR,
    LORA__UNDO_DATA,
    LORA__UNDO_DELTA,
    LORA__UNDO_HASH,
    LORA__UNDO_END
};

enum {
    LORA__UNDO_PACKED = 1,    /* DATA, DELTA: deflated */
    LORA__UNDO_PREDICTED = 2, /* DELTA: needs the adapters */
    LORA__UNDO_BLOCKS = 1     /* TENSOR: stored as blocks of few bits */
};

/* Where the files go. */
enum { LORA__UNDO_ONE_FILE = 0, LORA__UNDO_FOLDER = 1 };

typedef struct lora__undo_head {
    uint32_t type;
    uint32_t flags;
    uint64_t index;
    uint64_t offset;
    uint64_t bytes;
    uint32_t payload;
} lora__undo_head;

/* The numbers of BEGIN. */
#define LORA__UNDO_BEGIN_BYTES 16
#define LORA__UNDO_TENSOR_BYTES 8
#define LORA__UNDO_HASH_BYTES 64

LORA_PRIVATE void lora__undo_put_u32(unsigned char *out, uint32_t value);
LORA_PRIVATE uint32_t lora__undo_get_u32(const unsigned char *in);

/* A head as stored, with the sum over it and the payload. */
LORA_PRIVATE void lora__undo_encode(unsigned char out[LORA__UNDO_HEAD],
                                    const lora__undo_head *head,
                                    const void *payload);

/* Returns the sum that it has. */
LORA_PRIVATE uint32_t lora__undo_decode(
    lora__undo_head *out, const unsigned char in[LORA__UNDO_HEAD]);
LORA_PRIVATE uint32_t lora__undo_sum(const unsigned char head[LORA__UNDO_HEAD],
                                     const void *payload,
                                     size_t bytes);

/* What identifies an adapter that is applied: the content id of its file, and a
 * hash of the strengths that its modules have. */
#define LORA__UNDO_CONTENT 64
#define LORA__UNDO_IDENTITY (LORA__UNDO_CONTENT + 32)

LORA_PRIVATE lora_status
lora__undo_identify(unsigned char out[LORA__UNDO_IDENTITY],
                    const lora__patch *patch,
                    lora_error *error);

/* A tensor's bytes in its file, which may be blocks that are decoded when read
 * as numbers. *out_container is that of the one file. */
typedef struct lora__undo_place {
    const lora__container *container;
    uint64_t offset;
    uint64_t bytes;
    int blocks;
} lora__undo_place;

LORA_PRIVATE lora__undo_place lora__undo_find_place(const lora__checkpoint *c,
                                                    size_t tensor);
LORA_PRIVATE lora_status lora__undo_read_place(const lora__undo_place *place,
                                               uint64_t offset,
                                               void *buffer,
                                               size_t bytes,
                                               lora_error *error);

/* How far numbers are from those that were predicted, which is little: codes of
 * floats taken as whole numbers in the order of their values, the difference
 * d as 2 d, or -2 d - 1 where it is negative; first the lowest bytes of all of
 * them, then the next ones. `size` is that of a number, at most 8. */
LORA_PRIVATE void lora__undo_part(unsigned char *out,
                                  const unsigned char *numbers,
                                  const unsigned char *predicted,
                                  size_t size,
                                  size_t bytes);

/* The numbers again; `out` has the predicted ones. */
LORA_PRIVATE void lora__undo_join(unsigned char *out,
                                  const unsigned char *parted,
                                  size_t size,
                                  size_t bytes);

/* out[i] ^= with[i] */
LORA_PRIVATE void
lora__undo_xor(unsigned char *out, const unsigned char *with, size_t bytes);

#endif
