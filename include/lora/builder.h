/* Builders: make an adapter from tensors, or from another adapter.
 *
 * Threads: one thread at a time.
 */
#ifndef LORA_BUILDER_H
#define LORA_BUILDER_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_builder lora_builder;

/** Start an adapter.
 *
 *  @param out      receives the builder; NULL on failure. Destroy with
 *                  lora_builder_destroy().
 *  @param context  must not be NULL.
 *  @param source   NULL to start empty; otherwise its tensors (by reference,
 *                  not copied) and metadata are taken over.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_builder_create(lora_builder **out,
                    lora_context *context,
                    const lora_adapter *source,
                    lora_error *error);

/** Add a tensor; its data is copied.
 *
 *  @param builder  must not be NULL.
 *  @param name     UTF-8, as it will stand in the file; must not be NULL.
 *  @param tensor   must not be NULL; bytes must be those of shape and dtype.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_DUPLICATE;
 *          LORA_ERROR_SHAPE; LORA_ERROR_DTYPE; LORA_ERROR_MEMORY.
 *  @threads one builder, one thread.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_builder_add_tensor(lora_builder *builder,
                        const char *name,
                        const lora_tensor *tensor,
                        lora_error *error);

/** Take a tensor out.
 *
 *  @param builder  must not be NULL.
 *  @param name     must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_KEY if there is none; LORA_ERROR_ARGUMENT.
 *  @threads one builder, one thread.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_builder_remove_tensor(
    lora_builder *builder, const char *name, lora_error *error);

/** Set, replace or remove a metadata entry.
 *
 *  @param builder  must not be NULL.
 *  @param key      UTF-8; NULL removes all entries.
 *  @param value    UTF-8; NULL removes the entry, if there is one.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (not UTF-8); LORA_ERROR_MEMORY.
 *  @threads one builder, one thread.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_builder_set_metadata(lora_builder *builder,
                          const char *key,
                          const char *value,
                          lora_error *error);

/** Make the adapter. The builder is empty afterwards, also on failure.
 *
 *  @param out      receives the adapter; NULL on failure.
 *  @param builder  must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_LIMIT; LORA_ERROR_IO and
 *          LORA_ERROR_TRUNCATED (scalars are read); LORA_ERROR_MEMORY.
 *  @threads one builder, one thread.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_builder_finish(lora_adapter **out,
                                                        lora_builder *builder,
                                                        lora_error *error);

/** Free a builder.
 *
 *  @param builder  NULL does nothing.
 *  @threads one builder, one thread.
 *  @since 0.1
 */
LORA_API void lora_builder_destroy(lora_builder *builder);

#ifdef __cplusplus
}
#endif

#endif
