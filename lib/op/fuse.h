/* Fusing: a model's files written again with adapters in their tensors. */
#ifndef LORA__OP_FUSE_H
#define LORA__OP_FUSE_H

#include "core/buffer.h"
#include "format/output.h"
#include "model/model.h"
#include "model/patched.h"
#include "model/rounding.h"
#include "op/undo.h"

#include <lora/fuse.h>

/* A file to be written: a copy of one of the model's but for the numbers of
 * tensors, or a safetensors file made of one that cannot be written. */
typedef struct lora__fuse_file {
    const char *path;
    const char *from;                 /* of the model's file */
    const lora__container *container; /* NULL: an index, which is copied */
    lora__buffer head;                /* all before the data */
    uint64_t bytes;
    lora__output *output; /* NULL until it is begun, and once it is finished */
} lora__fuse_file;

/* Where a tensor goes. */
typedef struct lora__fuse_place {
    size_t file;
    uint64_t offset;
} lora__fuse_place;

typedef struct lora__fuse {
    lora_model_fuse_options options;
    lora_context *context;
    const lora__checkpoint *model;
    const lora__kernels *kernels;
    const char *path;
    lora__arena arena;
    lora__patched patched;
    lora__patch *patches;
    lora__rounding rounding;
    lora__fuse_file *files;
    size_t file_count;
    lora__fuse_place *places; /* one for each tensor */
    size_t *order;            /* tensors as they follow each other on disk */
    unsigned char *changes;   /* one for each tensor: 1 if it is changed */
    lora__undo *undo;         /* NULL: none is wanted */
    size_t folder_count;      /* made for this, to be removed if it fails */
    const char **folders;
} lora__fuse;

/* Say which files there are to be, and where tensors go. */
LORA_PRIVATE lora_status lora__fuse_plan_files(lora__fuse *job,
                                               lora_error *error);

/* Begin them all: folders, temporary files, heads. */
LORA_PRIVATE lora_status lora__fuse_begin_files(lora__fuse *job,
                                                lora_error *error);

/* Flush all, then give all their names, indices last. */
LORA_PRIVATE lora_status lora__fuse_finish_files(lora__fuse *job,
                                                 lora_error *error);

/* Free heads, and remove what was not finished. */
LORA_PRIVATE void lora__fuse_end_files(lora__fuse *job);

#endif
