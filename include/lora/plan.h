/* Plans: adapters in the weights of a model that a host has in memory.
 *
 * A plan knows where the host's weights lie, which adapters are to be in them,
 * and how strong. After a change it says which tensors are no longer as they
 * should be, and makes those, and only those, again: from the rows as they were
 * before any adapter, which it keeps as long as a tensor is changed. So nothing
 * adds up however often adapters come and go, and when the last one is gone the
 * weights are what they were, bit for bit.
 *
 * The work is cut into jobs, each a block of rows of one tensor, or tensors
 * whose new rows depend on each other's. The host runs them on its own threads,
 * in any order; or lora_plan_run() does on those of the context. The weights
 * have the same bits either way, and the same as lora_model_fuse() writes.
 *
 * Ownership: a plan keeps its model and bindings alive. The weights are the
 * host's, and stay where they are while a plan has them.
 * Threads: a plan is for one thread at a time, but for lora_plan_run_job().
 */
#ifndef LORA_PLAN_H
#define LORA_PLAN_H

#include <lora/convert.h>
#include <lora/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_plan lora_plan;

/* Flags for plans. */
enum {
    LORA_PLAN_STOCHASTIC = 1, /* as LORA_FUSE_STOCHASTIC */
    LORA_PLAN_SATURATE = 2,   /* as LORA_FUSE_SATURATE */
    LORA_PLAN_SAVE_NONE = 4   /* keep no rows: all are read again from where
                               * the originals are */
};

typedef struct lora_plan_options {
    size_t struct_size;
    lora_model *originals; /* a checkpoint of the same tensors, to read rows
                            * from that are not kept; NULL: none */
    uint64_t saved_bytes;  /* most that rows may take that are kept; 0: as much
                            * as they take */
    uint64_t block_bytes;  /* of a job's rows, in F32; 0: 16 MiB */
    uint64_t seed;         /* for LORA_PLAN_STOCHASTIC */
    lora_strength_rule strength_rule;
    lora_dora_rule dora_rule;
    uint32_t flags; /* LORA_PLAN_* */
    uint32_t reserved1;
} lora_plan_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_plan_options_init(lora_plan_options *options, size_t size);

/** Where a tensor's rows are: a row for each step of its first dimension, whose
 *  numbers lie side by side, or in blocks that only the host knows.
 *
 *  Functions are called by the threads that run jobs, for different rows at
 *  once. What they return, if it is not LORA_OK, is what the job returns.
 */
typedef struct lora_plan_memory {
    size_t struct_size;
    void *data;       /* the first row, may be unaligned; NULL: load and store
                       * move rows */
    size_t row_bytes; /* of a row; 0: that of its numbers, without gaps */
    size_t row_step;  /* bytes from one row to the next; 0: row_bytes */
    void *user;       /* for the functions */

    /** Copy rows, as they are stored, out of the weights, or into them. Both
     *  or none. */
    lora_status (*load)(
        void *user, size_t tensor, size_t first, size_t count, void *out);
    lora_status (*store)(
        void *user, size_t tensor, size_t first, size_t count, const void *in);

    /** Stored rows as numbers, and the other way round: for formats such as
     *  quantised ones. Each row is encoded once, with all adapters in it. Both
     *  or none; with them row_bytes must be set. */
    lora_status (*decode)(void *user,
                          size_t tensor,
                          size_t first,
                          size_t count,
                          const void *in,
                          float *out);
    lora_status (*encode)(void *user,
                          size_t tensor,
                          size_t first,
                          size_t count,
                          const float *in,
                          void *out);

    /** Copy rows as they were stored before any adapter, from elsewhere, for
     *  those that are not kept. May be NULL. */
    lora_status (*original)(
        void *user, size_t tensor, size_t first, size_t count, void *out);
    lora_dtype dtype; /* F64, F32, F16, BF16, F8; NONE: that of the model */
    uint32_t reserved1;
} lora_plan_memory;

/** As lora_plan_options_init(). @since 0.1 */
LORA_API void lora_plan_memory_init(lora_plan_memory *memory, size_t size);

/** Make a plan for the weights of a model.
 *
 *  @param out      receives the plan; NULL on failure. Destroy with
 *                  lora_plan_destroy().
 *  @param model    must not be NULL, nor of a family; is sealed.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION; LORA_ERROR_STATE
 *          (a model of a family); what lora_model_seal() answers;
 *          LORA_ERROR_MEMORY.
 *  @threads safe, if the model is sealed.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_plan_create(lora_plan **out,
                 lora_model *model,
                 const lora_plan_options *options,
                 lora_error *error);

/** Free a plan. Weights stay as they are: remove the adapters and run the jobs
 *  before, to have them as they were.
 *
 *  @param plan  NULL does nothing.
 *  @threads nobody else may use the plan.
 *  @since 0.1
 */
LORA_API void lora_plan_destroy(lora_plan *plan);

/** Say where a tensor's rows are. They are not looked at before a job needs
 *  them, and must then be as they were without adapters; while the plan changes
 *  them nobody else may. Where they are changed already they may move, in the
 *  format they have.
 *
 *  @param plan    must not be NULL.
 *  @param tensor  of the model.
 *  @param memory  is copied; NULL: the plan does not have them any longer.
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (neither data nor both functions, half
 *          a pair of functions, a step below row_bytes, or these not those of
 *          the type); LORA_ERROR_OPTION; LORA_ERROR_RANGE (no such tensor);
 *          LORA_ERROR_DTYPE; LORA_ERROR_UNSUPPORTED (F8 with a scale beside it,
 *          without functions); LORA_ERROR_STATE (changed, and another format,
 *          or NULL).
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_plan_set_memory(lora_plan *plan,
                     size_t tensor,
                     const lora_plan_memory *memory,
                     lora_error *error);

/** Put an adapter behind those that are there. Weights change when the jobs are
 *  run.
 *
 *  What does not depend on the weight is added; a kind that does has the weight
 *  that those before it left. What a binding did not find is left out: look at
 *  that before.
 *
 *  @param out_id    receives a number for the adapter, never used again; must
 *                   not be NULL.
 *  @param plan      must not be NULL.
 *  @param binding   to the plan's model; must not be NULL; the plan keeps it
 *                   alive.
 *  @param strength  NULL: 1 and 1.
 *  @param error     may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (another model); LORA_ERROR_RANGE
 *          (strength); LORA_ERROR_MEMORY.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_add(uint64_t *out_id,
                                                  lora_plan *plan,
                                                  lora_binding *binding,
                                                  const lora_strength *strength,
                                                  lora_error *error);

/** Take an adapter out.
 *
 *  @param plan   must not be NULL.
 *  @param id     what lora_plan_add() gave.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_KEY (no such adapter).
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_remove(lora_plan *plan,
                                                     uint64_t id,
                                                     lora_error *error);

/** Put an adapter in the place of another one.
 *
 *  @param binding   as of lora_plan_add().
 *  @param strength  the same.
 *  Otherwise as lora_plan_remove(); LORA_ERROR_RANGE too.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_plan_replace(lora_plan *plan,
                  uint64_t id,
                  lora_binding *binding,
                  const lora_strength *strength,
                  lora_error *error);

/** Make an adapter stronger or weaker; 0 leaves nothing of it.
 *
 *  Otherwise as lora_plan_replace().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_plan_set_strength(lora_plan *plan,
                       uint64_t id,
                       const lora_strength *strength,
                       lora_error *error);

/** Which tensors are not as they should be: those that differ from what was
 *  run last, and those of which jobs have not all come to their end.
 *
 *  @param out_tensors  receives their numbers in the model, ascending; NULL to
 *                      learn how many.
 *  @param capacity     of out_tensors.
 *  @param out_count    receives how many; must not be NULL.
 *  @param plan         must not be NULL.
 *  @param error        may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE (capacity; *out_count
 *          is set).
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_diff(size_t *out_tensors,
                                                   size_t capacity,
                                                   size_t *out_count,
                                                   const lora_plan *plan,
                                                   lora_error *error);

/** Cut what is to be done into jobs, and make room for the rows that are to be
 *  kept. Any other change of the plan makes them void.
 *
 *  @param out_count  receives the number of jobs; must not be NULL; 0 on
 *                    failure.
 *  @param plan       must not be NULL.
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_STATE (a tensor whose
 *          memory was not set); LORA_ERROR_LIMIT (more to be kept than
 *          saved_bytes, and no originals to read again); LORA_ERROR_MEMORY.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_job_count(size_t *out_count,
                                                        lora_plan *plan,
                                                        lora_error *error);

/** Bytes that each job that runs needs for itself; 0 for NULL, and where there
 *  are no jobs. Factors come out of the context's memory.
 *
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API size_t lora_plan_scratch_bytes(const lora_plan *plan);

/** Run a job. Once it is done, running it again does nothing.
 *
 *  After a failure its rows are as they were or as they should be, each one;
 *  it may be run again, at once or after lora_plan_job_count().
 *
 *  @param plan     must not be NULL.
 *  @param index    below what lora_plan_job_count() gave.
 *  @param scratch  lora_plan_scratch_bytes() bytes, may be unaligned; nobody
 *                  else's while this runs.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_STATE (the plan was changed
 *          since); LORA_ERROR_RANGE; LORA_ERROR_MEMORY; LORA_ERROR_IO and
 *          LORA_ERROR_TRUNCATED of an adapter or the originals; what a kind's
 *          numbers give; what a function of the host returned.
 *  @threads safe for different jobs at once, while nothing else is called.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_run_job(lora_plan *plan,
                                                      size_t index,
                                                      void *scratch,
                                                      lora_error *error);

/** Do all that is to be done, on the context's threads. Call again to go on
 *  after a failure.
 *
 *  @param plan   must not be NULL.
 *  @param error  may be NULL.
 *  @return as lora_plan_job_count() and lora_plan_run_job();
 *          LORA_ERROR_CANCELLED; LORA_ERROR_THREAD.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_plan_run(lora_plan *plan,
                                                  lora_error *error);

/** Bytes of rows that are kept now; 0 for NULL.
 *
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API uint64_t lora_plan_saved_bytes(const lora_plan *plan);

typedef struct lora_plan_factors_options {
    size_t struct_size;
    size_t up_step;   /* elements from one row to the next; 0: without gaps */
    size_t down_step; /* the same */
    lora_dtype dtype; /* F32, F16 or BF16; NONE is F32 */
    int32_t rank;     /* the nearest of this rank, where it is less than what
                       * there is; 0: exact */
    int32_t pad_rank; /* zeros up to this rank; 0: none */
    uint32_t reserved1;
} lora_plan_factors_options;

/** As lora_plan_options_init(). @since 0.1 */
LORA_API void lora_plan_factors_options_init(lora_plan_factors_options *options,
                                             size_t size);

/** What a tensor's factors are. */
typedef struct lora_plan_factors_info {
    size_t struct_size;
    int64_t rows;       /* of up, and of the tensor */
    int64_t columns;    /* of down */
    int64_t rank;       /* of both, padding with it */
    int64_t exact_rank; /* of all adapters together */
    uint64_t up_bytes;  /* with the steps between rows */
    uint64_t down_bytes;
    double error; /* Frobenius norm of what was left out, by that of the whole;
                   * 0 where nothing was, or factors are not asked for */
} lora_plan_factors_info;

/** Factors of what all adapters of a plan change in a tensor, to be used beside
 *  the weight: y += up[rows, rank] (down[rank, columns] x).
 *
 *  Those of several adapters stand behind each other; rows that no adapter has
 *  are zero. Compressed ones are balanced singular vectors, by descending
 *  value. Does not depend on what jobs were run, nor on the tensor's memory.
 *
 *  @param out         receives the sizes; must not be NULL; struct_size is set.
 *  @param up          receives the factor, row after row; NULL for sizes only.
 *  @param up_bytes    size of up; at least out->up_bytes.
 *  @param down        as up; both or none.
 *  @param down_bytes  the same.
 *  @param scales      receives `rank` numbers: strength times scale, which are
 *                     then in neither factor; NULL: they are in up.
 *  @param plan        must not be NULL.
 *  @param tensor      of the model.
 *  @param options     NULL for defaults.
 *  @param error       may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION; LORA_ERROR_DTYPE;
 *          LORA_ERROR_RANGE (no such tensor, a buffer that is too small, a
 *          pad_rank below the rank); LORA_ERROR_UNSUPPORTED (a bias, or a kind
 *          that has no factors or needs the weight); LORA_ERROR_NONFINITE
 *          (factors, or a number too large for the type);
 *          LORA_ERROR_CONVERGENCE; LORA_ERROR_IO; LORA_ERROR_TRUNCATED;
 *          LORA_ERROR_MEMORY.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_plan_factors(lora_plan_factors_info *out,
                  void *up,
                  size_t up_bytes,
                  void *down,
                  size_t down_bytes,
                  double *scales,
                  const lora_plan *plan,
                  size_t tensor,
                  const lora_plan_factors_options *options,
                  lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
