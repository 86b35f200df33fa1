/* Rank conversion by SVD on the factors. */
#ifndef LORA_RESIZE_H
#define LORA_RESIZE_H

#include <lora/adapter.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t lora_rank_rule_kind;

enum {
    LORA_RANK_FIXED = 1,      /* at most `rank` */
    LORA_RANK_ENERGY = 2,     /* least k with sum sigma^2 >= value * total */
    LORA_RANK_RATIO = 3,      /* sigma > sigma_1 / value */
    LORA_RANK_THRESHOLD = 4,  /* sigma > value */
    LORA_RANK_CUMULATIVE = 5, /* least k with sum sigma >= value * total */
    LORA_RANK_EFFECTIVE = 6, /* exp(entropy of sigma / sum sigma), rounded up */
    LORA_RANK_KNEE = 7,      /* where the curve of sigma bends: of the points
                              * (x, y), which are 0 to 1 along it, the one with
                              * the largest 1 - x - y; all if all are equal */
    LORA_RANK_SIZE = 8       /* a file, as lora_adapter_save() writes it, of at
                              * most `value` bytes: directions in descending
                              * order of sigma^2 / bytes */
};

/** How many directions a layer keeps. sigma are the singular values of the
 *  scaled weight change. Frozen: it is passed in arrays.
 */
typedef struct lora_rank_rule {
    lora_rank_rule_kind kind;
    int32_t rank; /* for LORA_RANK_FIXED; at least 1 */
    double value; /* for ENERGY, RATIO, THRESHOLD, CUMULATIVE and SIZE */
} lora_rank_rule;

/** A rule for the modules whose stored or canonical name, or component
 *  ("unet", "text_encoder"), matches a pattern ('*' any bytes, '?' one).
 * Frozen: it is passed in arrays.
 */
typedef struct lora_rank_override {
    const char *pattern;
    lora_rank_rule rule;
} lora_rank_override;

typedef int32_t lora_rank_counting;

/** Whose count a rule has. All tools have the same rules, and differ by one. */
enum {
    LORA_COUNT_EXACT = 0,  /* as the rule says */
    LORA_COUNT_KOHYA = 1,  /* of sd-scripts' resize_lora: with ENERGY, RATIO and
                            * CUMULATIVE one more, at least 2, up to min(rows,
                            * cols), filled up with zeros where the layer has
                            * less; 1 where the unscaled product is at most 1e-6.
                            * conv_rule goes for 1 x 1 convolutions too. */
    LORA_COUNT_LYCORIS = 2 /* of LyCORIS' extract_locon: with CUMULATIVE the
                            * sums below the share, which is one less */
};

typedef int32_t lora_rank_split;

/** Where the singular values go. */
enum {
    LORA_SPLIT_EVEN = 0, /* their square roots into both factors */
    LORA_SPLIT_UP = 1    /* all into up; down has orthonormal rows */
};

typedef struct lora_adapter_resize_options {
    size_t struct_size;
    const lora_rank_rule *conv_rule; /* for k x k convolutions; NULL: same */
    const lora_rank_override *overrides; /* the last that matches holds */
    size_t override_count;
    int32_t max_rank;  /* 0: none */
    int32_t min_rank;  /* 0: 1 */
    uint32_t pad;      /* 1: zeros up to a fixed rule's rank, or max_rank */
    lora_dtype dtype;  /* of the factors; LORA_DTYPE_NONE keeps them */
    uint32_t skip_bad; /* 1: leave unusable modules out */
    lora_rank_counting counting;
    lora_rank_split split; /* not of modules that keep a core */
    uint32_t keep_core;    /* 1: modules that have one (Tucker) keep it */
    const char *base; /* the model, a file or folder, for kinds that depend on
                       * it, and to measure DoRA by; NULL: none */
} lora_adapter_resize_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_resize_options_init(lora_adapter_resize_options *options,
                                 size_t size);

/** Change the ranks of an adapter.
 *
 *  Per module: QR of both factors, SVD of the small core, so the cost is
 *  (rows + cols) * rank^2, never that of the dense matrix. The result is the
 *  best approximation of its rank in the Frobenius norm. A module whose rank
 *  the rule does not lower keeps its bytes. A core (Tucker) is multiplied out,
 *  unless keep_core says otherwise: then both sides are cut to one rank, the
 *  larger of what the rule says of either's singular values, and the core is
 *  what is left between them: the truncated higher-order SVD.
 *  LoHa and LoKr whose rank is lowered become pairs of factors: LoKr by the
 * SVDs of its two matrices; LoHa by its factors or, where these have more terms
 * than half of its rows or columns and the rule needs the first values only, by
 * its dense change, within 1.01 of the best error. The report has the values
 * that were found then. Biases, norms, full differences, learned tokens and
 * unknown tensors pass through.
 *
 *  GLoRA, T-LoRA, (IA)^3, OFT and BOFT become pairs with `base`, which has the
 *  weights that they change, and are refused without it: GLoRA and T-LoRA by
 *  their factors, others by the dense change, of which every thread has one in
 *  memory. A bias that changes with the base's gets a bias change.
 *
 *  Of DoRA the change inside is cut, and the magnitudes are kept bit by bit:
 *  they fix the norms of the rows, or inputs, of the result too. Singular
 * values are those of the change inside; so are errors, which a note says,
 * unless `base` is given: then they are of the changed weight, and shares are
 * of its difference from the base. DoRA on the inputs of a convolution is
 * refused.
 *
 *  LORA_RANK_SIZE is for the whole file, so it is no rule of conv_rule or
 *  overrides; layers that have one of these keep what that says.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives the report; NULL on failure; may be NULL.
 *  @param adapter     must not be NULL.
 *  @param rule        must not be NULL.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE (rule value,
 *          or a size that is too small);
 *          LORA_ERROR_OPTION; LORA_ERROR_DTYPE (no type for factors);
 *          LORA_ERROR_KEY (no module); a module's own
 *          status; LORA_ERROR_UNSUPPORTED (kind); LORA_ERROR_LIMIT (a rank to
 *          pad to); LORA_ERROR_NONFINITE; LORA_ERROR_TRUNCATED;
 *          LORA_ERROR_CONVERGENCE; LORA_ERROR_IO; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_resize(lora_adapter **out,
                    lora_report **out_report,
                    const lora_adapter *adapter,
                    const lora_rank_rule *rule,
                    const lora_adapter_resize_options *options,
                    lora_error *error);

/** The decompositions of an adapter's modules, for several results of it. */
typedef struct lora_spectra lora_spectra;

/** Decompose every module, which is most of the work of a resize.
 *
 *  Takes about rank^2 numbers a module, up to twice the factors in f64 where
 *  these are nearly dependent. What does not fit into half of the context's
 *  memory limit is not kept, and done again when it is needed. A module that
 *  cannot be decomposed is a failure of lora_spectra_resize(), not of this.
 *
 *  @param out      receives the spectra; NULL on failure.
 *  @param adapter  must not be NULL; gets one more owner.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_TRUNCATED;
 *          LORA_ERROR_CONVERGENCE; LORA_ERROR_IO; LORA_ERROR_MEMORY;
 *          LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_spectra_create(lora_spectra **out,
                                                        lora_adapter *adapter,
                                                        lora_error *error);

/** lora_adapter_resize() from decompositions: the same bytes, in less time.
 *
 *  @param out         receives the adapter; NULL on failure.
 *  @param out_report  receives the report; NULL on failure; may be NULL.
 *  @param spectra     must not be NULL.
 *  @param rule        must not be NULL.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return as lora_adapter_resize().
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_spectra_resize(lora_adapter **out,
                    lora_report **out_report,
                    const lora_spectra *spectra,
                    const lora_rank_rule *rule,
                    const lora_adapter_resize_options *options,
                    lora_error *error);

/** Free spectra; their adapter loses an owner.
 *
 *  @param spectra  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_spectra_destroy(lora_spectra *spectra);

#ifdef __cplusplus
}
#endif

#endif
