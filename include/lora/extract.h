/* Extraction: an adapter that turns one checkpoint into another. */
#ifndef LORA_EXTRACT_H
#define LORA_EXTRACT_H

#include <lora/resize.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What layers become. Vectors become diff_b, w_norm and b_norm, whatever the
 *  kind, where the dialect has names for them. A layer is written as the
 *  difference itself where what the kind makes is no smaller, and the dialect
 *  has a name for it.
 */
typedef int32_t lora_extract_kind;

enum {
    LORA_EXTRACT_LOCON = 0, /* pairs of factors, k x k convolutions too */
    LORA_EXTRACT_LORA = 1,  /* the same without k x k convolutions */
    /* k x k convolutions with a core [r, r, k, k] where that is smaller than a
     * pair. r is the larger of what the rule says of the weight as [out, in k
     * k] and as [in, out k k]; of the first alone without a rule, and where the
     * number types differ. Linear layers as pairs. */
    LORA_EXTRACT_TUCKER = 2,
    /* The nearest Kronecker product, dimensions divided by lokr_factor. A rule
     * cuts w2 to a rank, by the singular values of w2 times |w1|, where that is
     * smaller; w2 is whole without one. */
    LORA_EXTRACT_LOKR = 3,
    LORA_EXTRACT_FULL = 4 /* the difference itself */
};

enum {
    /* Decompose exactly, whatever it costs, instead of by a random sketch,
     * whose error is within 1.01 times the least. */
    LORA_EXTRACT_EXACT = 1,
    /* Leave out layers whose shapes differ, instead of refusing. */
    LORA_EXTRACT_SKIP_SHAPES = 2,
    /* Leave out layers with NaN or infinities, instead of refusing. */
    LORA_EXTRACT_SKIP_BAD = 4,
    /* Go on with the journal that an earlier call left. */
    LORA_EXTRACT_RESUME = 8
};

typedef struct lora_adapter_extract_options {
    size_t struct_size;
    const lora_rank_rule *conv_rule; /* for k x k convolutions; NULL: same */
    const lora_rank_override *overrides; /* the last that matches holds */
    size_t override_count;
    const char *const *include; /* patterns as those of overrides; none: all */
    size_t include_count;
    const char *const *exclude; /* these win */
    size_t exclude_count;
    const char *dialect; /* of the names; NULL: "diffusers" */
    const char *journal; /* where to keep what is done, UTF-8; NULL: memory */
    uint64_t seed;       /* of the sketches */
    double clamp; /* quantile of the elements of a pair of factors that these
                   * are cut off at, as kohya's tool does at 0.99, which harms;
                   * above 0.5; 0: none */
    int32_t max_rank; /* 0: none */
    int32_t min_rank; /* 0: 1 */
    lora_dtype dtype; /* NONE: F16, BF16 where the tuned one has that */
    lora_extract_kind kind;
    lora_rank_counting counting;
    lora_rank_split split;
    int32_t lokr_factor; /* as LyCORIS divides; 0 and less: near square */
    uint32_t flags;      /* LORA_EXTRACT_* */
} lora_adapter_extract_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_extract_options_init(lora_adapter_extract_options *options,
                                  size_t size);

/** Make the adapter that a checkpoint was tuned by.
 *
 *  dW = W_tuned - W_base for every tensor that both have, as the best
 *  approximation of the rank that the rule says: by a random sketch and the
 *  exact decomposition of what it finds, at a cost of rows * cols * rank.
 *  Checkpoints are matched by layer, whatever the layout, and read layer by
 *  layer: the memory is that of the largest few. Layers that did not change are
 *  left out; where the number types of the two differ, so are layers and
 *  directions that are rounding noise (the bound of algorithms.md 3).
 *
 *  LORA_RANK_SIZE is for the whole file, of pairs of factors and cores, whose
 *  ranks are up to max_rank, or to 128 without one, and are chosen as
 *  lora_adapter_resize() does. Layers that have a rule of their own keep what
 *  that says; nothing becomes a full difference. All has one type: BF16 where
 *  all of the tuned one that changed has that, if none is asked for.
 *
 *  With a journal each layer is written to that file once it is done, the
 *  result reads from there, and a call with LORA_EXTRACT_RESUME goes on where
 *  one with the same inputs and options ended, however it did; its result has
 *  the same bytes. The journal is the caller's to remove, after the adapter
 *  was saved and destroyed.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives the report; NULL on failure; may be NULL.
 *  @param context     must not be NULL.
 *  @param base        path of a checkpoint: a file, an index of shards, a
 *                     folder of diffusers; UTF-8.
 *  @param tuned       the same.
 *  @param rule        NULL: as many directions as are more than rounding noise.
 *                     Rules that look at all values (cumulative, effective,
 *                     knee) decompose exactly.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE (rule value,
 *          or a size that is too small);
 *          LORA_ERROR_OPTION; LORA_ERROR_DTYPE (no type for factors);
 *          LORA_ERROR_UNSUPPORTED (a kind that the dialect cannot hold, or a
 *          size has no ranks of);
 *          LORA_ERROR_KEY (nothing in common, or nothing changed);
 *          LORA_ERROR_SHAPE (shapes differ; the log has a warning for each);
 *          LORA_ERROR_NONFINITE, with the tensor; LORA_ERROR_STATE (the journal
 *          is of other inputs or options, or another process is at work on
 *          it); LORA_ERROR_FORMAT (the journal is none); what opening gives;
 *          LORA_ERROR_CONVERGENCE; LORA_ERROR_IO; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_extract(lora_adapter **out,
                     lora_report **out_report,
                     lora_context *context,
                     const char *base,
                     const char *tuned,
                     const lora_rank_rule *rule,
                     const lora_adapter_extract_options *options,
                     lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
