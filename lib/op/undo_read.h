/* Undo files, read. They are as hostile as any other file: opening checks all
 * that is told of files, tensors and pieces against each other; the pieces
 * themselves are checked when they are read.
 *
 * Immutable once open: any thread may read.
 */
#ifndef LORA__OP_UNDO_READ_H
#define LORA__OP_UNDO_READ_H

#include "op/undo_record.h"

/* Some bytes of a file or a tensor. */
typedef struct lora__undo_piece {
    size_t owner;    /* the file, or the tensor */
    uint64_t offset; /* in it */
    uint64_t at;     /* of the record, in the undo file */
    uint32_t bytes;
    uint32_t payload;
    uint32_t flags;
} lora__undo_piece;

typedef struct lora__undo_file_info {
    const char *name; /* "a.safetensors", "unet/a.safetensors": plain, and in
                       * no folder of more than one level */
    uint64_t bytes;
} lora__undo_file_info;

typedef struct lora__undo_tensor_info {
    const char *name;
    size_t name_bytes;
    size_t file;
    uint64_t offset; /* in the file */
    uint64_t bytes;
    lora_dtype dtype;
    uint32_t flags;     /* LORA__UNDO_BLOCKS */
    size_t first_delta; /* in `deltas` */
    size_t delta_count;
    int predicted; /* 1: a delta needs the adapters */
    uint8_t before[32];
    uint8_t after[32];
} lora__undo_tensor_info;

typedef struct lora__undo_content {
    lora_context *context;
    lora__arena arena;
    lora_reader reader;
    const char *path;
    int mode;
    int layout;
    lora_strength_rule rule;
    lora_dora_rule dora;
    unsigned char (*adapters)[LORA__UNDO_IDENTITY];
    size_t adapter_count;
    lora__undo_file_info *files;
    size_t file_count;
    lora__undo_tensor_info *tensors;
    size_t tensor_count;
    lora__undo_piece *data; /* by file and offset */
    size_t data_count;
    size_t data_capacity;
    lora__undo_piece *deltas; /* by tensor and offset */
    size_t delta_count;
    size_t delta_capacity;
} lora__undo_content;

/* Read the tables of an undo file. The reader is owned from here on, also on
 * failure. FORMAT, TRUNCATED, LIMIT, DUPLICATE, MEMORY, or what reading
 * gives. */
LORA_PRIVATE lora_status lora__undo_open(lora__undo_content *out,
                                         lora_context *context,
                                         const lora_reader *reader,
                                         const char *path,
                                         lora_error *error);

/* The piece's bytes, unpacked, of which `out` has room for piece->bytes. `room`
 * is for piece->payload bytes and LORA__UNDO_HEAD. */
LORA_PRIVATE lora_status lora__undo_read_piece(unsigned char *out,
                                               const lora__undo_content *undo,
                                               const lora__undo_piece *piece,
                                               unsigned char *room,
                                               lora_error *error);

/* A zeroed one may be closed. */
LORA_PRIVATE void lora__undo_close(lora__undo_content *undo);

#endif
