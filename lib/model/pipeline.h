/* Pipelines: which files are the model, of a folder of diffusers'. */
#ifndef LORA__MODEL_PIPELINE_H
#define LORA__MODEL_PIPELINE_H

#include "core/arena.h"

#define LORA__PIPELINE_MAX 6 /* components that adapters are for */

typedef struct lora__pipeline_file {
    const char *component; /* static; "" where nothing tells */
    const char *path;      /* a file, or an index of several */
} lora__pipeline_file;

/* Find the files; checkpoint.h says which they are. Paths lie in the arena, or
 * are the given one. */
LORA_PRIVATE lora_status
lora__pipeline_locate(lora__pipeline_file out[LORA__PIPELINE_MAX],
                      size_t *out_count,
                      lora__arena *arena,
                      const char *path,
                      lora_error *error);

/* The component of that name, static; NULL if adapters are for no such. */
LORA_PRIVATE const char *lora__pipeline_component(const char *name);

#endif
