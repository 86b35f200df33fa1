/* Builders inside the library: how every operation makes its result. */
#ifndef LORA__ADAPTER_BUILDER_H
#define LORA__ADAPTER_BUILDER_H

#include "adapter/adapter.h"

#include <lora/builder.h>

/* Add a tensor of a container under a new name, by reference. A shape may be
 * given (ndim >= 0) if it has as many elements. */
LORA_PRIVATE lora_status lora__builder_add_entry(lora_builder *builder,
                                                 const char *name,
                                                 lora__container *container,
                                                 size_t index,
                                                 int32_t ndim,
                                                 const int64_t *shape,
                                                 lora_error *error);

/* The same, but in another type and computed by `derive` when it is read; the
 * number of elements stays. */
LORA_PRIVATE lora_status lora__builder_add_derived(lora_builder *builder,
                                                   const char *name,
                                                   lora__container *container,
                                                   size_t index,
                                                   int32_t ndim,
                                                   const int64_t *shape,
                                                   lora_dtype dtype,
                                                   lora__derive_fn derive,
                                                   double factor,
                                                   lora_error *error);

/* Add a tensor that `derive` makes of several of a container's, as its source
 * says, which came from lora__alloc(context, source_bytes, LORA__ALIGN) and is
 * owned from here on, also on failure. SHAPE if it has no size. */
LORA_PRIVATE lora_status lora__builder_add_made(lora_builder *builder,
                                                const char *name,
                                                lora__container *container,
                                                int32_t ndim,
                                                const int64_t *shape,
                                                lora_dtype dtype,
                                                lora__derive_fn derive,
                                                void *source,
                                                size_t source_bytes,
                                                lora_error *error);

/* Add a tensor whose data was made by lora__alloc(context, bytes,
 * LORA__ALIGN_NUMERIC); the data is owned from here on, also on failure. */
LORA_PRIVATE lora_status lora__builder_adopt(lora_builder *builder,
                                             const char *name,
                                             lora_dtype dtype,
                                             int32_t ndim,
                                             const int64_t *shape,
                                             void *data,
                                             lora_error *error);

/* Start with the metadata of an adapter, not its tensors. */
LORA_PRIVATE lora_status lora__builder_copy_metadata(lora_builder *builder,
                                                     const lora_adapter *source,
                                                     lora_error *error);

/* The value a key has now, or NULL. */
LORA_PRIVATE const char *lora__builder_metadata(const lora_builder *builder,
                                                const char *key);

#endif
