/* Learned tokens (textual inversion, pivotal tuning): list, read, take out of
 * adapters and put into them.
 *
 * A learned token has vectors that take the place of a word of the prompt, for
 * each text encoder of the base its own. They stand in files of their own or
 * in those of adapters, under names that differ from program to program:
 *
 *     form        tensors                                      the token is
 *     token       cat-toy, <s1>: diffusers, cloneofsimo        the name
 *     a1111       string_to_param.*: A1111's .pt               the file's name
 *     emb_params  emb_params                                   the file's name
 *     encoder     clip_l, clip_g, t5, text_encoders_0          the file's name
 *     bundle      bundle_emb.TOKEN.string_to_param.*,          in the name
 *                 bundle_emb.TOKEN.clip_l: in files of
 *                 adapters
 *
 * Ownership and threads: as adapter.h says.
 */
#ifndef LORA_EMBED_H
#define LORA_EMBED_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The vectors of a token for one text encoder. */
typedef struct lora_embedding_info {
    size_t struct_size;
    const char *token;     /* what prompts call it; "" if nothing says it, as
                            * in memory, where no file has a name */
    const char *encoder;   /* "clip_l", "clip_h" (SD 2), "clip_g", "t5", ... by
                            * name or width; "clip_l_out" and their like go
                            * behind the encoder; "" not known */
    const char *form;      /* as above */
    uint64_t tensor_index; /* below lora_adapter_tensor_count() */
    int64_t vectors;
    int64_t width;
    lora_dtype dtype;
    lora_status status; /* LORA_OK, or why operations refuse it */
} lora_embedding_info;

typedef struct lora_adapter_embed_options {
    size_t struct_size;
    const char *form;   /* to write, as above; NULL: what programs read there */
    const char *token;  /* to call the only one by; NULL: as it is called */
    const char *family; /* insert: the base; NULL: the guess */
    lora_dtype dtype;   /* of the vectors; LORA_DTYPE_NONE keeps them */
    uint32_t replace;   /* insert: 1: tokens that are there already */
} lora_adapter_embed_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_embed_options_init(lora_adapter_embed_options *options,
                                size_t size);

/** Number of embeddings, one a token and text encoder, in file order; 0 for
 *  NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_adapter_embedding_count(const lora_adapter *adapter);

/** Read the description of one embedding.
 *
 *  @param out      must have its struct_size set.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_embedding_count().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_embedding(lora_embedding_info *out,
                           const lora_adapter *adapter,
                           size_t index,
                           lora_error *error);

/** Find the embedding of a token.
 *
 *  @param out_index  receives the index; untouched on failure.
 *  @param adapter    must not be NULL.
 *  @param token      must not be NULL.
 *  @param encoder    NULL: the first of that token.
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_KEY if there is none; LORA_ERROR_ARGUMENT.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_find_embedding(size_t *out_index,
                            const lora_adapter *adapter,
                            const char *token,
                            const char *encoder,
                            lora_error *error);

/** Copy the vectors of an embedding, converted.
 *
 *  @param buffer   receives vectors * width elements, row-major, in `dtype`.
 *  @param bytes    size of buffer; must be just that of the vectors.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_embedding_count().
 *  @param dtype    as for lora_adapter_read_tensor().
 *  @param error    may be NULL.
 *  @return as lora_adapter_read_tensor(); the embedding's own status;
 *          LORA_ERROR_NONFINITE. Their subject is the token.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_read_embedding(void *buffer,
                            size_t bytes,
                            const lora_adapter *adapter,
                            size_t index,
                            lora_dtype dtype,
                            lora_error *error);

/** Take embeddings out into an adapter that has nothing else.
 *
 *  By default a token of one text encoder is written as `token`, which A1111,
 *  ComfyUI, diffusers and cloneofsimo's program read; one of several as
 *  `encoder`, whose file must then be called like the token; several such
 *  tokens as `bundle`.
 *
 *  @param out          receives the adapter; NULL on failure.
 *  @param adapter      must not be NULL; the result keeps its file open.
 *  @param tokens       array of `token_count`; NULL if that is 0.
 *  @param token_count  0: all there are.
 *  @param options      NULL for defaults.
 *  @param error        may be NULL; the subject is the token where there is
 *                      one.
 *  @return LORA_OK; LORA_ERROR_KEY (no such token, or none at all);
 *          LORA_ERROR_ARGUMENT (no such form, or the token cannot be a name in
 *          it); LORA_ERROR_UNSUPPORTED (the form has no place for several
 *          tokens or encoders); an embedding's own status;
 *          LORA_ERROR_NONFINITE; LORA_ERROR_DTYPE; LORA_ERROR_OPTION;
 *          LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_extract_embeddings(lora_adapter **out,
                                const lora_adapter *adapter,
                                const char *const *tokens,
                                size_t token_count,
                                const lora_adapter_embed_options *options,
                                lora_error *error);

/** Put the embeddings of other files into an adapter.
 *
 *  They are written as `bundle`, which A1111 and ComfyUI read, or as `token`
 *  where the adapter has cloneofsimo's names. Widths must be those of the
 *  base's text encoders, where these are known, or of embeddings that the
 *  adapter has. Hashes in the metadata are made anew.
 *
 *  @param out           receives the adapter; NULL on failure.
 *  @param adapter       must not be NULL; the result keeps its file open, and
 *                       those of the sources.
 *  @param sources       array of `source_count`, none NULL. What is not an
 *                       embedding in them is passed over.
 *  @param source_count  0 changes nothing.
 *  @param options       NULL for defaults; form is NULL, "bundle" or "token".
 *  @param error         may be NULL; the subject is the token where there is
 *                       one.
 *  @return LORA_OK; LORA_ERROR_KEY (a source has no embedding);
 *          LORA_ERROR_DUPLICATE (the token is there already, or in two
 *          sources); LORA_ERROR_SHAPE (the base has no text encoder of that
 *          width, or the name is for one vector alone); otherwise as
 *          lora_adapter_extract_embeddings().
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_insert_embeddings(lora_adapter **out,
                               const lora_adapter *adapter,
                               const lora_adapter *const *sources,
                               size_t source_count,
                               const lora_adapter_embed_options *options,
                               lora_error *error);

/** Leave embeddings out of an adapter; also unusable ones.
 *
 *  @param token_count  0: all there are, if there are any.
 *  @return LORA_OK; LORA_ERROR_KEY (no such token); LORA_ERROR_ARGUMENT;
 *          LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  Otherwise as lora_adapter_extract_embeddings().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_remove_embeddings(lora_adapter **out,
                               const lora_adapter *adapter,
                               const char *const *tokens,
                               size_t token_count,
                               lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
