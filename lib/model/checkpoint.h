/* A checkpoint: the tensors of a base model, wherever they lie, and what each
 * of them is.
 *
 * Immutable once opened and reference-counted; all functions may be called
 * from several threads at once. Opening reads headers only.
 *
 * A tensor is a member (weight, bias) of a module, and the module's target is
 * canonical, as an adapter's is: names.h. Where the original model has one
 * weight for several layers of diffusers', the tensor has parts, and its own
 * target is that of the original weight; a holding is a canonical target's
 * share of a tensor, in the target's own order and orientation, so that both
 * layouts can be read alike.
 */
#ifndef LORA__MODEL_CHECKPOINT_H
#define LORA__MODEL_CHECKPOINT_H

#include "format/container.h"
#include "names/names.h"

/* What a tensor is to those who change weights. */
typedef enum lora__tensor_use {
    LORA__TENSOR_TARGET = 0,
    LORA__TENSOR_NUMBERS, /* of integers, or a type that has no numbers */
    LORA__TENSOR_ASIDE    /* a scale, a buffer, of a VAE, a running mean: no
                           * adapter changes it */
} lora__tensor_use;

typedef struct lora__tensor {
    const char *name; /* as stored; in a pipeline "<component>.<stored>" */
    size_t name_bytes;
    const char *module;      /* the name less its member: ".weight" ... */
    const char *target;      /* canonical; a name no family knows is its own */
    const char *component;   /* "unet", "text_encoder_2" ...; "" not known */
    lora__role role;         /* WEIGHT (bare parameters too), BIAS, SCALE */
    lora__layer layer;       /* UNKNOWN where `known` is 0 */
    int known;               /* 1: a family knows the target */
    int original;            /* 1: spelled as the model's authors do */
    const lora__part *parts; /* see names.h; shared by weight and bias */
    size_t part_count;       /* 0: the tensor is the whole target */
    lora__tensor_use use;
    size_t scale; /* the tensor of one number that its values are times, in
                   * checkpoints in F8; SIZE_MAX: none */
    const lora__entry *entry; /* type, shape, sizes; `quantised` */
    lora__container *container;
    size_t index; /* of the entry in it */
} lora__tensor;

/* A target's share of a tensor: a matrix of rows x columns, columns being the
 * product of all dimensions but the first; vectors are columns. */
typedef struct lora__holding {
    const char *target;
    size_t tensor;          /* in the checkpoint */
    const lora__part *part; /* NULL: all of the tensor */
    lora__layer layer;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS]; /* of the target */
    uint64_t rows;
    uint64_t columns;
} lora__holding;

/* One file, or files under one index. */
typedef struct lora__checkpoint_file {
    const char *path;
    const char *component; /* the folder's, in a pipeline; else "" */
    lora__container *container;
} lora__checkpoint_file;

typedef struct lora__checkpoint {
    uint32_t references; /* atomic */
    lora_context *context;
    lora__arena arena;
    const char *path;             /* as given */
    lora__checkpoint_file *files; /* in the order of components */
    size_t file_count;
    lora__tensor *tensors; /* file by file, in file order */
    size_t tensor_count;
    const lora__family *family; /* NULL: not known, or several may be */
    double confidence;          /* 0 to 1 */
    const lora__family *alternatives[LORA__MAX_ALTERNATIVES];
    size_t alternative_count;
    lora__map by_name;    /* of tensors, as stored */
    lora__map by_target;  /* weights, of whole targets and of parts */
    lora__map by_bias;    /* the same for biases */
    lora__holding *holds; /* what both lead to */
    size_t hold_count;
    int catalogue; /* 1: the targets of a family: nothing can be read, and a
                    * tensor without elements has a shape that is not known */
} lora__checkpoint;

/* What is known of a tensor beside its name. */
typedef struct lora__listed {
    const char *component;   /* static; NULL: its name tells */
    const lora__part *parts; /* instead of those that its name tells */
    size_t part_count;       /* 0: these */
} lora__listed;

/* Open a checkpoint. The path leads to
 *
 *   a file that lora__container_open_path reads, an index of several too;
 *   a pipeline of diffusers: folders named unet, transformer, prior,
 *   text_encoder, text_encoder_2, text_encoder_3, as many as there are;
 *   the folder of one component, whose name says which, if it is one of these.
 *
 * Of a component's files the first of these that is there, and where there is
 * none the first with "fp16." before its extension:
 *
 *   diffusion_pytorch_model.safetensors.index.json, model.safetensors.index...
 *   diffusion_pytorch_model.safetensors, model.safetensors
 *   diffusion_pytorch_model.bin, pytorch_model.bin
 *
 * and then the one index, or the one .safetensors file, of whatever name; such
 * a file in a folder of its own says by its names what it is of.
 *
 * With `map` 1 files are mapped. Errors: what lora__container_open_path
 * answers; IO for a folder without weights; DUPLICATE where several files, or
 * several tensors for one target, may be meant; LIMIT for more tensors than the
 * context allows. */
LORA_PRIVATE lora_status lora__checkpoint_open(lora__checkpoint **out,
                                               lora_context *context,
                                               const char *path,
                                               int map,
                                               lora_error *error);

/* The same of a container, which is owned from here on, also on failure.
 * `component` is what its names are of, or "". */
LORA_PRIVATE lora_status lora__checkpoint_create(lora__checkpoint **out,
                                                 lora__container *container,
                                                 const char *component,
                                                 lora_error *error);

/* The same of tensors that nobody can read: those of a host, with one `listed`
 * for each, or NULL; or the targets of a family, whose names are canonical and
 * end in ".weight" or ".bias" where the layer is no bare parameter. */
LORA_PRIVATE lora_status lora__checkpoint_list(lora__checkpoint **out,
                                               lora__container *container,
                                               const lora__listed *listed,
                                               lora_error *error);
LORA_PRIVATE lora_status
lora__checkpoint_list_family(lora__checkpoint **out,
                             lora__container *container,
                             const lora__family *family,
                             lora_error *error);

/* 1 if the shape of a tensor is known. */
static inline int lora__checkpoint_has_shape(const lora__checkpoint *c,
                                             size_t tensor)
{
    return !c->catalogue || c->tensors[tensor].entry->elements != 0;
}

/* Releasing NULL does nothing. */
LORA_PRIVATE void lora__checkpoint_retain(lora__checkpoint *checkpoint);
LORA_PRIVATE void lora__checkpoint_release(lora__checkpoint *checkpoint);

/* 1 and the tensor of that stored name, or 0. */
LORA_PRIVATE int lora__checkpoint_find(size_t *out,
                                       const lora__checkpoint *checkpoint,
                                       const char *name,
                                       size_t name_bytes);

/* Who has a target's weight or bias (the role): a tensor that is it, or else
 * the share of a larger one; NULL if none has. Lives as long as the
 * checkpoint. */
LORA_PRIVATE const lora__holding *lora__checkpoint_find_target(
    const lora__checkpoint *checkpoint, const char *target, lora__role role);

/* All of a tensor as a holding, or its share that a part of it has. SHAPE where
 * the rows cannot be cut into the part's units. */
LORA_PRIVATE lora_status lora__checkpoint_hold(lora__holding *out,
                                               const lora__checkpoint *c,
                                               size_t tensor,
                                               const lora__part *part,
                                               lora_error *error);

/* Copy stored bytes of a tensor as they are. */
LORA_PRIVATE lora_status lora__checkpoint_read_bytes(const lora__checkpoint *c,
                                                     size_t tensor,
                                                     uint64_t offset,
                                                     void *buffer,
                                                     size_t bytes,
                                                     lora_error *error);

/* The number that the tensor's values are times: 1 for all but those with a
 * scale. UNSUPPORTED where the scale is not one number of floats. */
LORA_PRIVATE lora_status lora__checkpoint_scale(float *out,
                                                const lora__checkpoint *c,
                                                size_t tensor,
                                                lora_error *error);

/* Read rows of a holding as numbers of `dtype`, F32 or F64, times the tensor's
 * scale if it has one: row_count x columns of them, row after row. One rounding
 * at most, to F32 of F64 and of scaled values. RANGE if there are no such rows,
 * DTYPE if the type has no numbers, else what reading gives. NaN and infinities
 * come as they are. */
LORA_PRIVATE lora_status lora__checkpoint_read_rows(void *out,
                                                    lora_dtype dtype,
                                                    const lora__checkpoint *c,
                                                    const lora__holding *hold,
                                                    uint64_t first_row,
                                                    size_t row_count,
                                                    lora_error *error);

/* 1 if a pattern ('*' any bytes, '?' one) matches the stored name of the tensor
 * or of its module, the canonical target or one of the parts', or the
 * component. */
LORA_PRIVATE int lora__tensor_matches(const lora__tensor *tensor,
                                      const char *pattern);

#endif
