/* Extraction inside the library: extract.c plans and runs, extract_layer.c
 * reads one layer's difference, extract_ranks.c chooses how much of it counts,
 * extract_forms.c makes the tensors that the kind asks for, extract_write.c
 * makes the adapter and the report, extract_budget.c fits it into a size.
 */
#ifndef LORA__OP_EXTRACT_H
#define LORA__OP_EXTRACT_H

#include "linalg/dense.h"
#include "model/pair.h"
#include "op/journal.h"
#include "op/report.h"

#include <lora/extract.h>

#define LORA__EXTRACT_TENSORS 4 /* as many has a LoKr */

typedef struct lora__extract_tensor {
    lora__role role;
    lora_dtype dtype;
    int32_t ndim;
    int64_t shape[LORA_MAX_DIMS];
    uint64_t bytes;
    uint64_t offset; /* in the journal, where data is NULL */
    void *data;      /* lora__alloc(context, bytes, LORA__ALIGN_NUMERIC) */
} lora__extract_tensor;

/* What became of a tensor that both checkpoints have. */
typedef enum lora__extract_state {
    LORA__EXTRACT_PENDING = 0,
    LORA__EXTRACT_SAME,     /* no value differs */
    LORA__EXTRACT_NOISE,    /* by nothing but rounding */
    LORA__EXTRACT_DONE,     /* it has tensors */
    LORA__EXTRACT_NO_PLACE, /* changed; kind or dialect cannot say how */
    LORA__EXTRACT_BAD       /* not finite, and left out */
} lora__extract_state;

typedef struct lora__extracted {
    lora__extract_state state;
    size_t tensor_count;
    lora__extract_tensor tensors[LORA__EXTRACT_TENSORS];
    int64_t rank;    /* 0: no factors */
    double alpha;    /* 0: none */
    double norm;     /* Frobenius norm of the difference */
    double error;    /* that of what is lost */
    double noise;    /* the floor; 0: was not asked for */
    int is_estimate; /* sigma and error are those of a sketch */
    size_t sigma_count;
    double *sigma; /* those that were computed, descending */
} lora__extracted;

typedef struct lora__extract_form lora__extract_form;

typedef struct lora__extract {
    lora_context *context;
    const char *base;
    const char *tuned;
    const lora_rank_rule *rule; /* of layers; what `most` says under `size` */
    const lora_rank_rule *size; /* of the file; NULL: none */
    lora_rank_rule most;
    lora_adapter_extract_options options;
    const lora__dialect *dialect;
    const lora__extract_form *form;
    const lora__kernels *kernels;
    lora__pair pair;
    lora__extracted *results;    /* one a match of the pair */
    lora__journal *journal;      /* or NULL */
    lora__container *journalled; /* its file, for the result; or NULL */
    lora_report *report;
} lora__extract;

/* A layer on its way. */
typedef struct lora__extract_work {
    const lora__extract *job;
    const lora__match *match;
    lora__extracted *out;
    size_t rows;
    size_t cols;
    float *diff; /* [rows, cols] */
    int changed;
} lora__extract_work;

/* Makes the tensors of a difference that is not 0, or says in out->state what
 * it is instead. */
typedef lora_status lora__extract_make(lora__extract_work *w,
                                       lora_error *error);

/* Memory that making takes beside a decomposition, of so many directions. */
typedef uint64_t lora__extract_bytes(const lora__extract *job,
                                     const lora__match *match,
                                     uint64_t rank);

/* How a kind writes layers. */
struct lora__extract_form {
    const char *name;
    const char *module;         /* what kohya's tools would call it */
    lora__role needs[2];        /* of the dialect; UNKNOWN: none */
    lora__extract_make *matrix; /* linear layers, 1 x 1 convolutions */
    lora__extract_make *kernel; /* k x k convolutions; NULL: not written */
    lora__extract_bytes *bytes; /* NULL: none */
};

/* NULL if there is no such kind. */
LORA_PRIVATE const lora__extract_form *
lora__extract_form_of(lora_extract_kind kind);

/* The difference itself, in the shape it has. */
LORA_PRIVATE lora_status lora__extract_full(lora__extract_work *w,
                                            lora__role role,
                                            lora_error *error);

/* ---- ranks ------------------------------------------------------------- */

LORA_PRIVATE int lora__extract_is_conv(const lora__match *match);

/* The rule for a layer; NULL: what is more than rounding noise. */
LORA_PRIVATE const lora_rank_rule *lora__extract_rule(const lora__extract *job,
                                                      const lora__match *match);

/* Whether the floor of noise decides: rounding differs between the two. */
LORA_PRIVATE int lora__extract_has_floor(const lora__extract_work *w);

/* Decompose a matrix as far as a rule needs, NULL: down to the noise. */
LORA_PRIVATE lora_status lora__extract_decompose(lora__dense *out,
                                                 const lora__extract_work *w,
                                                 const lora__dense_input *input,
                                                 const lora_rank_rule *rule,
                                                 lora_error *error);

/* Directions that a rule keeps, within cap and floor, at least one. */
LORA_PRIVATE size_t lora__extract_count(const lora__extract_work *w,
                                        const lora__dense *dense,
                                        const lora_rank_rule *rule,
                                        size_t full);

/* The same of the difference; without a rule, and where the number types
 * differ, none below the noise. */
LORA_PRIVATE size_t lora__extract_keep(const lora__extract_work *w,
                                       const lora__dense *dense,
                                       const lora_rank_rule *rule);

/* ---- the whole --------------------------------------------------------- */

/* What a match becomes; on failure nothing. */
LORA_PRIVATE lora_status lora__extract_layer(lora__extracted *out,
                                             const lora__extract *job,
                                             const lora__match *match,
                                             lora_error *error);

/* The most memory that takes at once, without what it makes. */
LORA_PRIVATE uint64_t lora__extract_layer_bytes(const lora__extract *job,
                                                const lora__match *match);

LORA_PRIVATE void lora__extracted_free(lora__extracted *extracted,
                                       lora_context *context);

/* The name of a role of a match's module, in the dialect. One that no family
 * knows keeps the name it has. */
LORA_PRIVATE lora_status lora__extract_spell(lora__buffer *out,
                                             const lora__extract *job,
                                             const lora__match *match,
                                             lora__role role,
                                             lora_error *error);

/* The adapter with ranks for job->size, which go into the results. */
LORA_PRIVATE lora_status lora__extract_fit(lora_adapter **out,
                                           lora__extract *job,
                                           const lora_adapter *wide,
                                           lora_error *error);

/* The adapter of all results, whose tensors it takes over, and the report,
 * ready for its readers. */
LORA_PRIVATE lora_status lora__extract_write(lora_adapter **out,
                                             lora__extract *job,
                                             lora_error *error);

#endif
