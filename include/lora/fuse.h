/* Fusing: adapters into the weights of a checkpoint, and out again.
 *
 * A fused checkpoint has the tensors of the model, with the same names, types
 * and order. Where adapters change one, all their changes are summed in F32 and
 * rounded once. Weights are never recovered by subtracting: with an undo file
 * the files of before come back bit for bit.
 *
 * Threads: all functions here may be called concurrently.
 */
#ifndef LORA_FUSE_H
#define LORA_FUSE_H

#include <lora/convert.h>
#include <lora/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags for fusing. */
enum {
    LORA_FUSE_OVERWRITE = 1,  /* an existing output is replaced */
    LORA_FUSE_STOCHASTIC = 2, /* round up or down by chance, in proportion to
                               * what is near; what a number becomes depends on
                               * seed, tensor name and place alone */
    LORA_FUSE_SATURATE = 4,   /* in F8, what is too large becomes the largest
                               * number, as in ComfyUI, instead of NaN, as in
                               * torch */
    LORA_FUSE_DRY_RUN = 8,    /* check all, write nothing */
    LORA_FUSE_RESUME = 16     /* go on where a call with it ended, and keep what
                               * another one needs for that */
};

/* What an undo file keeps. */
typedef int32_t lora_undo_mode;

enum {
    LORA_UNDO_RAW = 0,    /* what is needed without the adapters */
    LORA_UNDO_PREDICT = 1 /* less: by what the adapters, which are needed to
                           * undo, say that the weights were */
};

typedef struct lora_model_fuse_options {
    size_t struct_size;
    const char *undo;     /* path of an undo file to be written; NULL: none */
    uint64_t seed;        /* for LORA_FUSE_STOCHASTIC */
    uint64_t shard_bytes; /* most data of a file, of a model of one; then there
                           * is an index; 0: files as the model's are */
    lora_undo_mode undo_mode;
    lora_strength_rule strength_rule;
    lora_dora_rule dora_rule;
    uint32_t flags; /* LORA_FUSE_* */
} lora_model_fuse_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_model_fuse_options_init(lora_model_fuse_options *options,
                                           size_t size);

/** Write a model's files again with adapters in their weights.
 *
 *  Adapters are applied in the order given: what does not depend on the weight
 *  is added, and a kind that does (DoRA, OFT, BOFT, (IA)^3, GLoRA, T-LoRA) has
 *  the weight that those before it left, unrounded. Rows are summed in F32 and
 *  rounded once, to nearest even. Every tensor keeps name, type and place, and
 *  metadata stay but for hashes of the tensors; what no adapter changes is
 *  copied. Reads and writes tensor by tensor: the memory
 *  is that of the largest factors.
 *
 *  A model of one file becomes one file. A model of several (an index of
 *  shards, a folder of diffusers) becomes a folder with files of the same
 *  names; one with shard_bytes becomes files beside the path, which ends in
 *  ".safetensors", or else in the folder that it names, and their index.
 *  Pickles become safetensors files. Files get their names when all of
 *  them are whole and on the disk: whatever happens, there are those of before
 *  or new ones. An undo file has its name before.
 *
 *  With RESUME files are "<name>.partial" until then, and a journal beside the
 *  path, "<path>.journal", tells which tensors are in them, on the disk.
 *  Whatever ends a call, one with the same model, adapters and options goes on
 *  and gives the same bytes; both files are gone when all is done. A journal of
 *  other inputs is refused with STATE, or with OVERWRITE begun anew. Not
 *  together with an undo file, nor where a file of the model is replaced.
 *
 *  @param out_report     receives what was done; NULL on failure; may be NULL.
 *                        Destroy with lora_report_destroy().
 *  @param model          must be of a checkpoint.
 *  @param bindings       of adapters to this model; binding_count of them.
 *  @param strengths      one for each binding; NULL: all 1.
 *  @param binding_count  at least 1.
 *  @param path           UTF-8; may be the model's own with OVERWRITE, and NULL
 *                        with DRY_RUN.
 *  @param options        NULL for defaults.
 *  @param error          may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (a binding to another model);
 *          LORA_ERROR_STATE (the model is no checkpoint; the journal is of
 *          other inputs, or another process has it); LORA_ERROR_KEY
 *          (nothing of an adapter is bound: strict bindings refuse more);
 *          LORA_ERROR_RANGE (strength); LORA_ERROR_NONFINITE, with the
 *          adapter's tensor;
 *          LORA_ERROR_UNSUPPORTED; LORA_ERROR_OPTION; LORA_ERROR_IO;
 *          LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED; what reading gives.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_model_fuse(lora_report **out_report,
                const lora_model *model,
                const lora_binding *const *bindings,
                const lora_strength *strengths,
                size_t binding_count,
                const char *path,
                const lora_model_fuse_options *options,
                lora_error *error);

typedef struct lora_model_unfuse_options {
    size_t struct_size;
    uint32_t flags; /* LORA_FUSE_OVERWRITE, LORA_FUSE_DRY_RUN */
    uint32_t reserved1;
} lora_model_unfuse_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_model_unfuse_options_init(lora_model_unfuse_options *options,
                                             size_t size);

/** Write the files that a model had before it was fused, bit for bit.
 *
 *  Every tensor is checked twice while it is read: it must be the one that
 *  fusing left, and what it becomes the one that fusing found. Of several
 *  undo files the last one goes first: a model in another state is refused.
 *
 *  A model of one file becomes the file `path`; one of several becomes files
 *  in the folder `path`, which is made if need be. Files get their names when
 *  all of them are whole and on the disk.
 *
 *  @param out_report     receives what was done; NULL on failure; may be NULL.
 *                        Destroy with lora_report_destroy().
 *  @param context        must not be NULL.
 *  @param fused          UTF-8; the fused model, as for lora_model_open(); must
 *                        not be NULL.
 *  @param undo           UTF-8; the undo file; must not be NULL.
 *  @param path           UTF-8; may be the fused model's own with OVERWRITE;
 *                        must not be NULL.
 *  @param bindings       to one model with the tensors of the fused one, of the
 *                        adapters that were fused, in that order: needed by an
 *                        undo file of LORA_UNDO_PREDICT. Else NULL.
 *  @param strengths      one for each binding, as fused; NULL: all 1.
 *  @param binding_count  0 without bindings.
 *  @param options        NULL for defaults.
 *  @param error          may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_KEY (the model is not in
 *          the state that the undo file is of: subject is the tensor; or the
 *          adapters are not those that were fused); LORA_ERROR_FORMAT,
 *          LORA_ERROR_TRUNCATED, LORA_ERROR_LIMIT, LORA_ERROR_DUPLICATE (a
 *          damaged undo file, or model); LORA_ERROR_RANGE (strength);
 *          LORA_ERROR_OPTION; LORA_ERROR_IO; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED; what reading gives.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_model_unfuse(lora_report **out_report,
                  lora_context *context,
                  const char *fused,
                  const char *undo,
                  const char *path,
                  const lora_binding *const *bindings,
                  const lora_strength *strengths,
                  size_t binding_count,
                  const lora_model_unfuse_options *options,
                  lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
