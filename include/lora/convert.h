/* Conversion: other names, other number types, the same weight change. */
#ifndef LORA_CONVERT_H
#define LORA_CONVERT_H

#include <lora/report.h>
#include <lora/resize.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How strong an adapter is, as front ends let users say it: 1 is as it was
 *  trained, below 0 turns the effect round, 0 leaves nothing of it. Frozen.
 */
typedef struct lora_strength {
    double model;        /* of the UNet or transformer, and what is not known */
    double text_encoder; /* of all text encoders */
} lora_strength;

typedef int32_t lora_truncation;

/** What becomes of alpha where a rank r is cut to its first k directions. */
enum {
    LORA_TRUNCATE_KEEP_ALPHA = 0,   /* as it was, as sd-scripts does: the scale
                                     * is r / k of what it was */
    LORA_TRUNCATE_TRAINED_SQRT = 1, /* alpha sqrt(k / r): the scale that
                                     * sd-scripts trained this rank with */
    LORA_TRUNCATE_KEEP_SCALE = 2    /* alpha k / r: the same scale */
};

typedef struct lora_adapter_convert_options {
    size_t struct_size;
    const char *dialect; /* such as "kohya" or "diffusers"; NULL or "keep" */
    const char *family;  /* base to take names from; NULL: the guess */
    lora_dtype dtype;    /* of the factors; LORA_DTYPE_NONE keeps them */
    uint32_t bake_alpha; /* 1: scale into the factors, alpha = rank */
    uint32_t skip_bad;   /* 1: leave unusable modules out */
    uint32_t reserved1;
    const lora_strength *strength; /* to put into it; NULL: 1 and 1 */
    const char *const *drops;      /* patterns of modules to leave out */
    size_t drop_count;
    const char *kind;    /* "lora" or "full": what others become; NULL keeps */
    int32_t rank;        /* of those, and of LoRA, at most; 0: exact */
    int32_t rank_prefix; /* first directions to keep; 0: all */
    lora_truncation truncation;
    uint32_t reserved2;
    const char *base;           /* the model, a file or folder; NULL: none */
    const lora_rank_rule *rule; /* instead of `rank`; NULL: that */
} lora_adapter_convert_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_convert_options_init(lora_adapter_convert_options *options,
                                  size_t size);

/** Convert names and number types, leave modules out, put a strength in.
 *
 *  Tensor data is not touched unless a number type changes or the scale is
 *  baked in. Where one dialect has a single weight for several layers (q, k
 *  and v) or orders its rows in another way, modules are split and joined: a
 *  part gets its rows, and the terms of the change that these need; layers
 *  become one module by their common factors, else side by side, with the sum
 *  of their ranks, and rows of layers that are missing are zeros. The weight
 *  change stays the same. Scales that differ by more than powers of two take
 *  bake_alpha. What the new dialect has no place for (alpha, in diffusers-peft)
 *  goes into metadata as its readers expect it, so that converting back gives
 *  the same bytes. Tensors of no module keep their names.
 *
 *  A pattern of `drops` is for stored or canonical names, or components such as
 *  "text_encoder" ('*' any bytes, '?' one). Each must fit a module.
 *
 *  With kind "lora" every module whose change has factors becomes a pair of
 *  them, with alpha as its rank: of LoHa the products of its terms, of LoKr
 *  those of its singular vectors, so many that the change is the same but for
 *  the rounding to the type; with `rank` the best of that rank, by SVD. What
 * has none (biases, norms, full differences) stays as it is. A convolution
 * whose kernel neither the tensors nor the name tell becomes a pair of two
 *  dimensions.
 *
 *  Kinds whose change depends on the weight, as GLoRA, (IA)^3, T-LoRA, OFT,
 *  and DoRA around any kind, become pairs with `base`, which has the weights:
 *  one module is read at a time. Without a rank GLoRA becomes a pair of twice
 *  its rank, T-LoRA too; others, whose change has no factors, one of full rank,
 *  an identity beside the change. With one they are cut as by
 *  lora_adapter_resize(). A bias that changes with the base's gets a bias
 *  change. LORA_RANK_SIZE is of the file with the names and at the strength
 * that the adapter has.
 *
 *  With kind "full" every module whose weight changes becomes a full difference
 *  of that, and of its bias where that changes: of any kind, with `base` of
 *  those that need it. They are computed when they are read, rounded once, and
 *  take no memory before; the base stays open.
 *
 *  `rank_prefix` is for DyLoRA, whose directions are in the order of their
 *  importance: of up and down the first ones are kept, bit by bit. It comes
 *  before `kind`, and both before everything else but `drops`.
 *
 *  The result has at strength 1 the effect that the adapter has at `strength`.
 *  It goes into alpha, which is stored so that it loses no more than F32 does;
 *  a sign goes into a factor, and changes without alpha are multiplied
 *  themselves, with one rounding. Modules of strength 0 are left out. Kinds
 *  whose change is not in proportion to the strength are refused.
 *
 *  @param out      receives the adapter; NULL on failure.
 *  @param adapter  must not be NULL; the result keeps its file open.
 *  @param options  NULL for defaults, which change nothing.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (unknown dialect, family or kind);
 *          LORA_ERROR_OPTION; LORA_ERROR_DTYPE (no type for factors);
 *          LORA_ERROR_RANGE (a strength that is not finite, a negative rank);
 *          LORA_ERROR_LIMIT (a pair would have a rank over the limit);
 *          LORA_ERROR_UNSUPPORTED (the dialect cannot spell the kind, a module
 *          cannot be split or joined without a loss, the kind takes no
 *          strength, has no factors, needs the base, or is not DyLoRA's);
 *          LORA_ERROR_SHAPE (its rows are no shares of a weight);
 *          LORA_ERROR_KEY (there is no module, or none would be left, or none
 *          fits a pattern, or no family knows a name that must be respelled);
 *          a module's own status;
 *          LORA_ERROR_NONFINITE (a value is not finite, or overflows the
 *          type); LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_convert(lora_adapter **out,
                     const lora_adapter *adapter,
                     const lora_adapter_convert_options *options,
                     lora_error *error);

/** lora_adapter_convert(), and what it cost.
 *
 *  With kind "lora" the report has a row for each module, as
 *  lora_adapter_resize() gives it; those of modules that are pairs without a
 *  loss but rounding have no singular values, and no error unless the base was
 *  needed. With "full" it has one for each module that became one, with what
 *  rounding to the type loses. Otherwise there is none.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives the report, or NULL; may be NULL.
 *  @param adapter     must not be NULL; the result keeps its file open.
 *  @param options     NULL for defaults, which change nothing.
 *  @param error       may be NULL.
 *  @return as lora_adapter_convert().
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_convert_report(lora_adapter **out,
                            lora_report **out_report,
                            const lora_adapter *adapter,
                            const lora_adapter_convert_options *options,
                            lora_error *error);

typedef struct lora_lokr_options {
    size_t struct_size;
    lora_dtype dtype; /* of the factors; LORA_DTYPE_NONE: the module's */
    int32_t factor;   /* as LyCORIS divides; 0 and less: near square */
    int32_t rank;     /* of w2 at most, where that makes it smaller; 0: whole */
    uint32_t skip_bad; /* 1: leave unusable modules out */
} lora_lokr_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_lokr_options_init(lora_lokr_options *options, size_t size);

/** Make LoKr of an adapter: of each module whose change has factors (LoRA,
 *  LoCon, LoHa, Light-LoRA) the Kronecker product w1 (x) w2 that is nearest to
 *  it in the Frobenius norm, with w2 of a rank if one is given.
 *
 *  A change is seldom such a product: the report says how much is lost, of the
 *  factors as they are stored. A rank-1 change of w1's size is found again.
 *  What is LoKr already stays as it is, and so does what has no factors
 *  (biases, norms, full differences). Names stay; the dialect must have a place
 *  for LoKr, as those of kohya, LyCORIS, ComfyUI and PEFT do: see
 *  lora_adapter_convert().
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives for each module that was made LoKr its rank, 0
 *                     where w2 is whole, the share of the energy that is kept,
 *                     and the error; may be NULL.
 *  @param adapter     must not be NULL; the result keeps its file open.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION; LORA_ERROR_RANGE (a
 *          negative rank); LORA_ERROR_DTYPE (no type for factors);
 *          LORA_ERROR_KEY (no module could become LoKr); LORA_ERROR_UNSUPPORTED
 *          (the dialect has no place for it, or a module has a change beside
 *          its factors that LoKr has none for: DoRA, a bias of up, a weight
 *          stored transposed, an embedding); a module's own status;
 *          LORA_ERROR_NONFINITE; LORA_ERROR_CONVERGENCE; LORA_ERROR_IO;
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY; LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_to_lokr(lora_adapter **out,
                     lora_report **out_report,
                     const lora_adapter *adapter,
                     const lora_lokr_options *options,
                     lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
