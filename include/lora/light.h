/* Light-LoRA: factors that act between frozen random matrices,
 *
 *   dW[out, in] = s * up_aux[out, b] up[b, r] down[r, a] down_aux[a, in]
 *
 * of which only up and down are trained. The frozen ones need not be stored
 * where it is known how they were drawn: the recipe. Files say it in the
 * metadata entry "light_lora", a JSON object of the fields of the recipe below,
 * "shapes" being {name: [rows, columns]} there.
 */
#ifndef LORA_LIGHT_H
#define LORA_LIGHT_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The size of the layers whose stored or canonical names, or component, fit a
 *  pattern ('*' any bytes, '?' one). Frozen.
 */
typedef struct lora_light_shape {
    const char *pattern;
    int64_t rows;
    int64_t cols;
} lora_light_shape;

/** How frozen matrices were drawn. */
typedef struct lora_light_recipe {
    size_t struct_size;
    uint64_t seed;      /* of torch.manual_seed(), for each module anew */
    const char *draws;  /* what was drawn, in order; NULL: the first of below */
    const char *family; /* whose layers' sizes are meant, such as "sd15"; NULL:
                         * the one that the adapter is of, by its names */
    const char *base;   /* path of a base model to take sizes from; NULL */
    const lora_light_shape *shapes; /* sizes; the last that fits holds, before
                                     * those of base and family */
    size_t shape_count;
    int64_t down_size; /* a; 0: as tensors have it, else 100 */
    int64_t up_size;   /* b; 0: as tensors have it, else 50 */
} lora_light_recipe;

/** How a matrix is initialised, as torch does it on the CPU. */
typedef int32_t lora_light_init;

enum {
    LORA_LIGHT_ORTHOGONAL = 0, /* orthogonal_; value is the gain */
    LORA_LIGHT_NORMAL = 1,     /* normal_; value is the standard deviation */
    LORA_LIGHT_XAVIER = 2,     /* xavier_normal_; value is the gain */
    LORA_LIGHT_LINEAR = 3      /* what a new nn.Linear has; no value */
};

/** One draw. Frozen. */
typedef struct lora_light_draw {
    int64_t rows;
    int64_t cols;
    double value;
    lora_light_init init;
    uint32_t reserved1;
} lora_light_draw;

/** What is 0 at first, of what is trained, and how it is stored. */
typedef int32_t lora_light_variant;

enum {
    LORA_LIGHT_UP_ZERO = 1,   /* up; draws "down_aux,down,up_aux" */
    LORA_LIGHT_DOWN_ZERO = 2, /* down; draws "down_aux,up,up_aux" */
    LORA_LIGHT_BOTH_ZERO = 3, /* both: refused, as no gradient ever arises */
    LORA_LIGHT_JOINED = 4,    /* one matrix [b, a]; draws "down_aux,up_aux" */
    LORA_LIGHT_GAUSSIAN = 5   /* as 1, with normal instead of orthogonal ones */
};

typedef struct lora_light_options {
    size_t struct_size;
    const char *dialect; /* names of lora_light_create(); NULL: diffusers-old */
    const char *const *targets; /* its layers, by patterns of canonical names */
    size_t target_count;        /* 0: the attention of the UNet */
    double deviation;           /* its normal numbers, variant 5; 0: 1 */
    int64_t rank;      /* create: 0 is 4; expand: at most that, 0: exact */
    lora_dtype dtype;  /* of what is written; NONE: as it was, created: F32 */
    uint32_t store;    /* 1: write frozen matrices too */
    uint32_t skip_bad; /* 1: leave unusable modules out */
    lora_light_variant variant; /* of what is created; 0: 1 */
} lora_light_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_light_recipe_init(lora_light_recipe *recipe, size_t size);

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_light_options_init(lora_light_options *options, size_t size);

/** Draw matrices one after the other and give back the last.
 *
 *  The numbers are those of torch on the CPU after torch.manual_seed(seed):
 *  uniform ones to the bit, normal ones within 1e-6, orthogonal ones within
 *  1e-5, as torch's QR is in float32.
 *
 *  @param buffer   receives rows * cols floats of the last draw, row-major.
 *  @param bytes    the size of the buffer.
 *  @param context  must not be NULL.
 *  @param seed     its low 32 bits count, as in torch.
 *  @param draws    draw_count of them, at least 1; must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_SHAPE (a side below 1, or
 *          too large); LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_light_draw_matrix(void *buffer,
                       size_t bytes,
                       lora_context *context,
                       uint64_t seed,
                       const lora_light_draw *draws,
                       size_t draw_count,
                       lora_error *error);

/** Make plain LoRA of the Light-LoRA modules: up_aux up and down down_aux.
 *
 *  Other modules stay. One trained matrix [b, a] becomes factors of rank min(a,
 *  b), which is exact, or with `rank` the best of that rank, all its singular
 *  values in up.
 *
 *  Draws are matrices (down_aux, down, up, up_aux, down_up) separated by
 *  commas, each with an initialisation (orthogonal if not given, normal,
 *  xavier, linear) and its value after colons: "down_aux,down,up_aux",
 *  "down_aux:normal:0.1,up_aux:normal:0.1".
 *
 *  @param out      receives the adapter; NULL on failure.
 *  @param adapter  must not be NULL; the result keeps its file open.
 *  @param recipe   for matrices that are not stored; NULL: as the file says.
 *  @param options  dtype, rank, skip_bad; NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION (draws that cannot
 *          be read); LORA_ERROR_KEY (no Light-LoRA in it; frozen matrices
 *          neither stored nor drawn, or of layers of no known size);
 *          LORA_ERROR_SHAPE; LORA_ERROR_DTYPE; LORA_ERROR_NONFINITE; a module's
 *          own status; what opening the base gives; LORA_ERROR_IO;
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_light_expand(lora_adapter **out,
                  const lora_adapter *adapter,
                  const lora_light_recipe *recipe,
                  const lora_light_options *options,
                  lora_error *error);

/** Make Light-LoRA of the linear layers of an adapter: the nearest there is
 *  between the frozen matrices of a recipe, by least squares.
 *
 *  Of random matrices, most of a LoRA that was not trained between them is
 *  lost: the report says how much. One that was trained between them is found
 *  again. Layers that would not become shorter stay as they are.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives ranks, the share of the energy that is kept, and
 *                     errors; may be NULL.
 *  @param adapter     must not be NULL; the result keeps its file open.
 *  @param recipe      NULL for defaults: seed 0, the first of the orders.
 *  @param options     dtype, store, skip_bad; NULL for defaults.
 *  @param error       may be NULL.
 *  @return as lora_light_expand(); LORA_ERROR_UNSUPPORTED (the dialect has no
 *          names for it).
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_light_compress(lora_adapter **out,
                    lora_report **out_report,
                    const lora_adapter *adapter,
                    const lora_light_recipe *recipe,
                    const lora_light_options *options,
                    lora_error *error);

/** Make a Light-LoRA to be trained, of the layers of a family.
 *
 *  @param out      receives the adapter; NULL on failure.
 *  @param context  must not be NULL.
 *  @param recipe   its family must be given, one that tells the sizes of its
 *                  layers, or shapes; draws must be NULL, as the variant says
 *                  them.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return as lora_light_expand(); LORA_ERROR_OPTION (variant 3, from whose
 *          start nothing can be learnt).
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_light_create(lora_adapter **out,
                  lora_context *context,
                  const lora_light_recipe *recipe,
                  const lora_light_options *options,
                  lora_error *error);

/** Compare stored frozen matrices with those that a recipe draws.
 *
 *  One that differs is a problem of the report. It is also compared with what
 *  other orders of the same seed draw, which tells what the recipe left out.
 *
 *  @param out_report  receives the findings; NULL on failure.
 *  @param adapter     must not be NULL.
 *  @param recipe      NULL: as the file says.
 *  @param error       may be NULL.
 *  @return LORA_OK, whatever is found; LORA_ERROR_KEY (no recipe, or no frozen
 *          matrices to compare); otherwise as lora_light_expand().
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_light_verify(lora_report **out_report,
                  const lora_adapter *adapter,
                  const lora_light_recipe *recipe,
                  lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
