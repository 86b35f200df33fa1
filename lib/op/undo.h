/* Undo files: what fusing changed in a model, so that the model it began with
 * comes back bit for bit.
 *
 * Nothing is subtracted: what two roundings leave is not what was there. Kept
 * is the stored tensor before, xor what whoever undoes has anyway: the tensor
 * after; or, where adapters only add, how far it is from what subtracting them
 * would give, which is nearly right and so packs well. All bytes of the files
 * that are no tensor data are kept as they are.
 *
 * undo_record.h has the layout, undo_read.h the way back.
 */
#ifndef LORA__OP_UNDO_H
#define LORA__OP_UNDO_H

#include "kernel/kernel.h"
#include "model/patched.h"

typedef struct lora__undo lora__undo;

/* What is kept of a changed tensor: before xor after, or how far predicted
 * numbers are from it, for which the adapters are needed again. */
enum { LORA__UNDO_RAW = 0, LORA__UNDO_PREDICT = 1 };

/* Begin an undo file at `path`, as a temporary file beside it until it is
 * finished; one that is there is refused unless `overwrite` is 1. What is
 * patched must outlive it. UNSUPPORTED for a model in files that cannot be
 * restored from their tensors: torch's pickles and zips. */
LORA_PRIVATE lora_status lora__undo_create(lora__undo **out,
                                           const lora__patched *patched,
                                           const char *path,
                                           int mode,
                                           int overwrite,
                                           lora_error *error);

/* Some stored bytes of a changed tensor, from `offset` on, before and after.
 * With `predicted`, what lora__undo_predict() makes of those after, which are
 * whole numbers, how far these are from that is kept. Bytes that are told of no
 * change stay. Any thread, any order, no byte twice. Of tensors that are read
 * as numbers and stored as blocks, the bytes are those of the blocks, and
 * nothing is predicted. */
LORA_PRIVATE lora_status lora__undo_put(lora__undo *undo,
                                        size_t tensor,
                                        uint64_t offset,
                                        const void *before,
                                        const void *after,
                                        const void *predicted,
                                        size_t bytes,
                                        lora_error *error);

/* SHA-256 of a tensor's stored bytes before and after, once for every tensor,
 * changed or not. Any thread. */
LORA_PRIVATE lora_status lora__undo_hash(lora__undo *undo,
                                         size_t tensor,
                                         const uint8_t before[32],
                                         const uint8_t after[32],
                                         lora_error *error);

/* Flush the file and give it its name; the undo is gone then, and so it is on
 * failure, with its temporary file. STATE if a tensor was not told. */
LORA_PRIVATE lora_status lora__undo_finish(lora__undo *undo, lora_error *error);

/* Give it up, with its temporary file. NULL does nothing. */
LORA_PRIVATE void lora__undo_abort(lora__undo *undo);

/* What stored numbers may have been before: out = round((scale * F - dW) /
 * scale), element by element, to nearest even, of F32. F are the fused numbers
 * as stored, the change is what a patcher with a source of zeros gives. The
 * same bits on every machine, NaNs too, which are as they are in F. */
LORA_PRIVATE lora_status lora__undo_predict(void *out,
                                            const void *fused,
                                            const float *change,
                                            lora_dtype dtype,
                                            float scale,
                                            size_t count,
                                            const lora__kernels *kernels,
                                            lora_error *error);

#endif
