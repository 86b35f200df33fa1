/* Files in the making: complete or absent.
 *
 * Bytes go to a temporary file in the folder of the target, since only within
 * one file system a rename replaces in one step, and on success it is flushed
 * to the disk before it gets its name. Writing is by offset, in any order and
 * from several threads; what is never written is zeros.
 */
#ifndef LORA__FORMAT_OUTPUT_H
#define LORA__FORMAT_OUTPUT_H

#include "core/context.h"
#include "platform/file.h"

typedef struct lora__output lora__output;

/* Begin a file at `path`, under a name "lora-XXXXXXXX.tmp" beside it. With
 * overwrite 0 an existing file is refused (IO, EEXIST) before anything is
 * written, and again at the rename. With overwrite 1 a file is replaced,
 * keeping its permission bits; of a link, the link itself is replaced and what
 * it leads to stays, as it may belong to a shared store; what is neither is
 * refused. */
LORA_PRIVATE lora_status lora__output_open(lora__output **out,
                                           lora_context *context,
                                           const char *path,
                                           int overwrite,
                                           lora_error *error);

/* The same under the name "<path>.partial", which stays where it is if the file
 * is not finished, for another call to go on with. `bytes` 0 begins anew, else
 * one of that many bytes is opened; *out is NULL where there is none. */
LORA_PRIVATE lora_status lora__output_open_partial(lora__output **out,
                                                   lora_context *context,
                                                   const char *path,
                                                   int overwrite,
                                                   uint64_t bytes,
                                                   lora_error *error);

/* The path it will have. */
LORA_PRIVATE const char *lora__output_path(const lora__output *output);

LORA_PRIVATE lora_status lora__output_write_at(lora__output *output,
                                               uint64_t offset,
                                               const void *data,
                                               size_t bytes,
                                               lora_error *error);

/* What was written so far to the disk. Any thread may, while others write. */
LORA_PRIVATE lora_status lora__output_sync(const lora__output *output,
                                           lora_error *error);

/* All bytes to the disk: for several files that get their names together. */
LORA_PRIVATE lora_status lora__output_flush(lora__output *output,
                                            lora_error *error);

/* Flush it if that was not done, and give it its name. It is freed, whatever
 * the result; a file that failed is removed. */
LORA_PRIVATE lora_status lora__output_finish(lora__output *output,
                                             lora_error *error);

/* Remove it, unless it is a partial one. NULL does nothing. */
LORA_PRIVATE void lora__output_abort(lora__output *output);

#endif
