/* Layers: the adapter of one module run on activations in the host's memory,
 * forward and back.
 *
 * The weight change is not formed. What goes out is the adapter's part alone,
 * to be added to what the layer itself gives:
 *
 *   y = strength * scale * up (down x)      LoRA; and so on for other kinds
 *
 * Activations of a linear layer are rows, [batch, in] to [batch, out]; those of
 * a convolution images, [batch, in, size...] to [batch, out, size...], with as
 * many sizes as the kernel has, up to three. Numbers of one row or image lie
 * side by side; rows and images lie as far apart as is said. Into that of an
 * embedding go ids, I64, one a row: what goes out are rows again.
 *
 * Threads: any number of threads may run one layer, each with a workspace of
 * its own, while nobody sets a factor of it. A pass uses the context's executor
 * and allocates nothing; results have the same bits for any number of threads.
 */
#ifndef LORA_LAYER_H
#define LORA_LAYER_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_layer lora_layer;

/** How a layer is used. Sizes are given for each dimension of its kernel, in
 *  the order of the weight's.
 */
typedef struct lora_layer_options {
    size_t struct_size;
    lora_dtype dtype;    /* of activations: F32, F16, BF16; NONE is F32 */
    uint32_t groups;     /* of a convolution; 0 is 1 */
    int32_t stride[3];   /* 0 is 1 */
    int32_t padding[3];  /* zeros at both ends */
    int32_t dilation[3]; /* 0 is 1 */
    int32_t kernel[3];   /* of a convolution whose factors are matrices, which
                          * do not tell it; 0 is what they tell, or 1 */
} lora_layer_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_layer_options_init(lora_layer_options *options, size_t size);

/** What goes into a layer. */
typedef int32_t lora_layer_input;

enum {
    LORA_LAYER_INPUT_NUMBERS = 0, /* of the layer's type */
    LORA_LAYER_INPUT_IDS = 1 /* one I64 a row, at least 0, below channels_in */
};

/** Where a layer stands to that of the model: what x is, and what y is added
 * to. (IA)3 scales what goes in or comes out of the model's layer, and is run
 * on that.
 */
typedef int32_t lora_layer_place;

enum {
    LORA_LAYER_PLACE_BESIDE = 0,  /* x goes into both, y is added to what the
                                   * model's layer gives */
    LORA_LAYER_PLACE_BEFORE = 1,  /* y is added to x, and their sum goes in */
    LORA_LAYER_PLACE_PRODUCT = 2, /* x is what the weight gives, without the
                                   * bias; y is added to it */
    LORA_LAYER_PLACE_AFTER = 3    /* x is what the model's layer gives, with its
                                   * bias; y is added to it */
};

/** Sizes of a batch. Frozen. */
typedef struct lora_layer_batch {
    int64_t count;   /* of rows or images */
    int64_t size[3]; /* of an image, what comes in; 0 is 1 */
} lora_layer_batch;

/** What a layer is. */
typedef struct lora_layer_info {
    size_t struct_size;
    int64_t channels_in;  /* elements of a row, channels of an image, or ids */
    int64_t channels_out; /* the same of what goes out */
    size_t factor_count;
    lora_dtype dtype; /* of activations */
    int32_t dims;     /* sizes of an image; 0: rows */
    int32_t kernel[3];
    lora_layer_input input;
    lora_layer_place place;
    uint32_t reserved1;
} lora_layer_info;

/** A matrix, core or bias that takes part. */
typedef struct lora_layer_factor {
    size_t struct_size;
    const char *name; /* of the tensor that it is, or is a part of; "" where it
                       * was drawn again, as frozen matrices are */
    const char *role; /* such as "down" */
    uint64_t elements;
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    uint32_t
        frozen; /* 1: is not trained, as the outer matrices of Light-LoRA */
} lora_layer_factor;

typedef uint32_t lora_layer_flags;

enum {
    LORA_LAYER_ADD = 1,        /* to y, or to the gradient of x */
    LORA_LAYER_ADD_FACTORS = 2 /* to the gradients of the factors */
};

/** Prepare a module to run.
 *
 *  Numbers are read and converted to F32; the file is not needed afterwards.
 *  LoHa becomes its exact factors, of the product of both ranks, or where these
 *  would be larger its weight change. LoKr is run by its small factors.
 *
 *  A change of the bias is part of y, and its tensors are the last factors.
 *
 *  What needs the base weight cannot be run: DoRA, whose norms are those of the
 *  changed weight, and GLoRA, of which one term is a product with it.
 *
 *  @param out       receives the layer; NULL on failure. Destroy with
 *                   lora_layer_destroy().
 *  @param adapter   must not be NULL.
 *  @param index     module.
 *  @param strength  the user's multiplier.
 *  @param options   NULL for defaults.
 *  @param error     may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION; LORA_ERROR_DTYPE;
 *          LORA_ERROR_RANGE (no such module; a number of the options; a
 *          strength that is not finite);
 *          LORA_ERROR_SHAPE (the kernel or the groups do not fit the factors,
 *          or there is nothing that they could be of);
 *          LORA_ERROR_UNSUPPORTED (a kind that is no product with its input,
 *          or needs the base weight; groups that cut LoKr unevenly); the
 * module's own status; LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_create(lora_layer **out,
                  const lora_adapter *adapter,
                  size_t index,
                  double strength,
                  const lora_layer_options *options,
                  lora_error *error);

/** Share a layer.
 *
 *  @param layer  NULL gives NULL.
 *  @return the same layer, with one more owner.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_layer *lora_layer_retain(lora_layer *layer);

/** Give up a layer; the last owner frees it.
 *
 *  @param layer  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_layer_destroy(lora_layer *layer);

/** Facts about a layer.
 *
 *  @param out    its struct_size must be set; must not be NULL.
 *  @param layer  must not be NULL.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_layer_get_info(lora_layer_info *out,
                                                        const lora_layer *layer,
                                                        lora_error *error);

/** One factor. Gradients are asked for in this order.
 *
 *  @param out    its struct_size must be set; must not be NULL. Strings live
 *                as long as the layer.
 *  @param layer  must not be NULL.
 *  @param index  below factor_count.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_get_factor(lora_layer_factor *out,
                      const lora_layer *layer,
                      size_t index,
                      lora_error *error);

/** Put other numbers into a factor, as training does after each step.
 *
 *  The adapter stays as it is: lora_builder_add_tensor() puts what was trained
 *  into a new one.
 *
 *  @param layer   must not be NULL; nobody else may use it meanwhile.
 *  @param index   below factor_count.
 *  @param values  all elements, row-major; must not be NULL.
 *  @param count   their number, as of the factor.
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_layer_set_factor(lora_layer *layer,
                                                          size_t index,
                                                          const float *values,
                                                          size_t count,
                                                          lora_error *error);

/** The sizes of images that go out. Of a row they are 1.
 *
 *  @param out    receives the sizes; must not be NULL.
 *  @param layer  must not be NULL.
 *  @param batch  must not be NULL; `count` is not looked at.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE (the kernel does not
 *          fit into the image, or a size is negative or too large).
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_output_size(int64_t out[3],
                       const lora_layer *layer,
                       const lora_layer_batch *batch,
                       lora_error *error);

/** The memory that passes over such a batch need.
 *
 *  @param out_forward   receives the bytes for lora_layer_forward(); may be
 *                       NULL.
 *  @param out_backward  the same for lora_layer_backward().
 *  @param layer         must not be NULL.
 *  @param batch         must not be NULL; a smaller count needs no more.
 *  @param error         may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE, also where memory
 *          could not hold it.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_workspace(size_t *out_forward,
                     size_t *out_backward,
                     const lora_layer *layer,
                     const lora_layer_batch *batch,
                     lora_error *error);

/** Run a layer forward: what the adapter adds to the layer's output.
 *
 *  Sums are in F32 or wider whatever the activations are; y is rounded once.
 *
 *  @param y                receives the output, of the layer's type; must not
 *                          be NULL, nor overlap x.
 *  @param y_step           elements from one row or image of y to the next; 0
 *                          if there is nothing between them.
 *  @param layer            must not be NULL.
 *  @param x                must not be NULL; aligned to its type, as y: the
 *                          layer's, or I64 where ids go in.
 *  @param x_step           the same as y_step, of x.
 *  @param batch            must not be NULL; a count of 0 does nothing.
 *  @param flags            0, or LORA_LAYER_ADD.
 *  @param workspace        memory of any alignment; what is in it before and
 *                          afterwards means nothing.
 *  @param workspace_bytes  at least what lora_layer_workspace() says.
 *  @param error            may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (a small workspace also, or a step
 *          below the size); LORA_ERROR_RANGE, of ids too, after which nothing
 *          is written; LORA_ERROR_CANCELLED and
 *          LORA_ERROR_THREAD, after which y is written in part.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_forward(void *y,
                   size_t y_step,
                   const lora_layer *layer,
                   const void *x,
                   size_t x_step,
                   const lora_layer_batch *batch,
                   lora_layer_flags flags,
                   void *workspace,
                   size_t workspace_bytes,
                   lora_error *error);

/** Run a layer back: gradients of a loss, from its gradient with respect to y.
 *
 *  Gradients of factors are F32, row-major in the shape of the factor, and of
 *  the factor as stored: strength and scale are accounted for. What is inside
 *  of the layer is computed again from x. Those of a change of the bias are the
 *  gradient of y, summed.
 *
 *  @param grad_x           receives the gradient of x, of the layer's type; may
 *                          be NULL if it is not needed, and must where ids go
 *                          in.
 *  @param grad_x_step      as y_step of lora_layer_forward().
 *  @param grad_factors     an array with a pointer for each factor, NULL for
 *                          those that are not needed; may be NULL.
 *  @param layer            must not be NULL.
 *  @param x                what went in; must not be NULL.
 *  @param x_step           as above.
 *  @param grad_y           gradient of the output; must not be NULL.
 *  @param grad_y_step      as above.
 *  @param batch            must not be NULL.
 *  @param flags            0, LORA_LAYER_ADD, LORA_LAYER_ADD_FACTORS or both.
 *  @param workspace        as above.
 *  @param workspace_bytes  as above.
 *  @param error            may be NULL.
 *  @return as lora_layer_forward().
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_layer_backward(void *grad_x,
                    size_t grad_x_step,
                    float *const *grad_factors,
                    const lora_layer *layer,
                    const void *x,
                    size_t x_step,
                    const void *grad_y,
                    size_t grad_y_step,
                    const lora_layer_batch *batch,
                    lora_layer_flags flags,
                    void *workspace,
                    size_t workspace_bytes,
                    lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
