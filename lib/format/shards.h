/* Checkpoints in several files, and the index that joins them: formats.md 2.5.
 *
 *   {"metadata": {...}, "weight_map": {tensor: file, ...}}
 *
 * The index and its files must say the same: each tensor is in the file that
 * the index names, once, and no file has a tensor that is not in the index.
 * Files are named plainly and lie beside the index: it cannot lead elsewhere.
 *
 * All files are opened at once and stay open, so that what was checked is what
 * is read, whatever happens to the names meanwhile; their number is limited.
 */
#ifndef LORA__FORMAT_SHARDS_H
#define LORA__FORMAT_SHARDS_H

#include "format/container.h"

/* Files of one index: as many descriptors. The largest checkpoints have fewer;
 * systems allow a process 256 at least. */
#define LORA__SHARDS_MAX 128

/* 1 if the name, or the last part of the path, is that of an index:
 * "X.safetensors.index.json", "X.safetensors.index.VARIANT.json". */
LORA_PRIVATE int lora__shards_is_index(const char *path);

/* Open what the path leads to: an index with its files, or one file. With
 * `map` 1 files are mapped. */
LORA_PRIVATE lora_status lora__container_open_path(lora__container **out,
                                                   lora_context *context,
                                                   const char *path,
                                                   int map,
                                                   lora_error *error);

#endif
