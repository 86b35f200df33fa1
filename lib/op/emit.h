/* Emitting: what operations that make a new adapter share. Tensors go into a
 * builder under the names of a dialect, alpha where the dialect keeps it,
 * metadata as other programs expect it (algorithms.md 9).
 */
#ifndef LORA__OP_EMIT_H
#define LORA__OP_EMIT_H

#include "adapter/builder.h"
#include "adapter/kind.h"

#include <lora/convert.h>

/* A kind of adapter that PEFT has; see peft_type.h. */
typedef struct lora__peft_type lora__peft_type;

/* What a configuration says of a module, until all modules are known. */
typedef struct lora__emit_alpha {
    const char *target;
    size_t component; /* bytes of the target that name the model, or 0 */
    double alpha;
    int64_t rank;
    lora_dtype dtype; /* of the tensor it came from; NONE: there was none */
    int32_t ndim;
    int32_t was_zero;   /* the tensor held 0, which means the rank */
    int32_t transposed; /* the weight is stored [in, out] */
    int32_t is_end;     /* its path ends that of another one */
    int32_t has_bias;   /* of up */
    int32_t biases;     /* trained beside it: 0 none, 1 its own, 2 others too */
    int32_t has_dora;
    int32_t has_core;                 /* convolutions have */
    int32_t both;                     /* factors of LoKr are cut */
    int32_t is_feedforward;           /* of IA3: it scales inputs */
    int64_t factor;                   /* of LoKr; 0: it is not said */
    int64_t side;                     /* of blocks of OFT and BOFT; 0: it is */
    int64_t blocks;                   /* not told, but the number of blocks */
    int64_t stages;                   /* of BOFT */
    const struct lora__peft_oft *oft; /* how OFT's are read */
    const lora__peft_type *type;      /* NULL: none of PEFT's */
} lora__emit_alpha;

/* The record read back; see emit_alpha.c. */
typedef struct lora__alpha_record {
    lora__map modules; /* target -> index into stored */
    const char **stored;
    const char *common; /* what modules not in the map have */
    const char *added[8];
    size_t added_count;
} lora__alpha_record;

typedef struct lora__emit {
    const lora_adapter *source;
    lora_builder *builder;
    const lora__dialect *dialect; /* NULL: each module's own */
    const lora__family *family;
    lora__buffer name;        /* scratch */
    lora__emit_alpha *alphas; /* room for each module */
    size_t alpha_count;
    size_t alpha_room;
    lora__arena arena;         /* of the record */
    lora__alpha_record record; /* how alphas were stored once, if it is known */
    int has_record;
    const lora__peft_type *becomes; /* what modules are made; NULL: they stay
                                     * what they are */
    int changed;                    /* numbers are not those of the source */
} lora__emit;

/* A builder with the source's metadata, for so many modules at most. */
LORA_PRIVATE lora_status lora__emit_begin(lora__emit *emit,
                                          const lora_adapter *source,
                                          size_t module_count,
                                          const lora__dialect *dialect,
                                          const lora__family *family,
                                          lora_error *error);
LORA_PRIVATE void lora__emit_end(lora__emit *emit);

/* How a module is spelled in another dialect or, which `mends` says, again in
 * its own, where its name is broken. */
LORA_PRIVATE void lora__emit_spelling(lora__spelling *out,
                                      const lora__module *module,
                                      const lora__family *family,
                                      int mends,
                                      lora__role role);

/* Spell a role of a module in the dialect; with the module's own dialect, as
 * it is stored, unless that is broken and the dialect was asked for. The name
 * is in emit->name until the next call. */
LORA_PRIVATE lora_status lora__emit_spell(lora__emit *emit,
                                          const lora__module *module,
                                          lora__role role,
                                          lora_error *error);

/* The same as the dialect writes it, however it is stored. */
LORA_PRIVATE lora_status lora__emit_spell_new(lora__emit *emit,
                                              const lora__module *module,
                                              lora__role role,
                                              lora_error *error);

/* 1 for the tensors that make up the scale: they keep their type, since
 * rounding them would change everything. */
LORA_PRIVATE int lora__emit_is_scale(lora__role role);

/* The dialect a module is written in. */
LORA_PRIVATE const lora__dialect *
lora__emit_dialect(const lora__emit *emit, const lora__module *module);

/* f64 numbers rounded once to dtype, in memory of the context that
 * lora__builder_adopt() takes. NONFINITE if a finite one does not fit. */
LORA_PRIVATE lora_status lora__emit_encode(void **out,
                                           lora_context *context,
                                           const char *name,
                                           lora_dtype dtype,
                                           const double *values,
                                           size_t count,
                                           lora_error *error);

/* The same into memory that is there. */
LORA_PRIVATE lora_status lora__emit_encode_at(void *out,
                                              lora_context *context,
                                              const char *name,
                                              lora_dtype dtype,
                                              const double *values,
                                              size_t count,
                                              lora_error *error);

/* A tensor of such numbers. */
LORA_PRIVATE lora_status lora__emit_f64(lora__emit *emit,
                                        const char *name,
                                        lora_dtype dtype,
                                        int32_t ndim,
                                        const int64_t *shape,
                                        const double *values,
                                        lora_error *error);

/* A tensor of the source, multiplied by a factor and brought to a dtype; with
 * factor 1 and the same dtype by reference. */
LORA_PRIVATE lora_status lora__emit_entry(lora__emit *emit,
                                          const char *name,
                                          size_t index,
                                          double factor,
                                          lora_dtype dtype,
                                          int32_t ndim,
                                          const int64_t *shape,
                                          lora_error *error);

/* A tensor of a module as a respelling has it, times a factor. What something
 * is added to is F32 at least, unless a dtype is asked for: sums have bits that
 * the numbers do not. */
LORA_PRIVATE lora_status lora__emit_respelt(lora__emit *emit,
                                            const lora__module *module,
                                            size_t index,
                                            const lora__respelling *there,
                                            double factor,
                                            lora_dtype dtype,
                                            lora_error *error);

/* The type to store alpha in: the one wanted, unless rounding to it would
 * change the scale of everything; F32 then. */
LORA_PRIVATE lora_dtype lora__emit_alpha_dtype(lora_dtype wanted, double alpha);

/* Alpha of a module: a tensor of `ndim` (0 or 1) dimensions, in `dtype` if the
 * value is exact in it, else in F32; or into metadata, or nothing where alpha
 * is the rank and the dialect has no place for it. */
LORA_PRIVATE lora_status lora__emit_put_alpha(lora__emit *emit,
                                              const lora__module *module,
                                              double alpha,
                                              int64_t rank,
                                              lora_dtype dtype,
                                              int32_t ndim,
                                              lora_error *error);

/* 1 for a module that has factors and no rank, as its tensors are whole: its
 * alpha has no meaning. */
LORA_PRIVATE int lora__emit_is_whole(const lora__module *module);

/* The scale of such a module, where alphas are in metadata; elsewhere nothing:
 * it has to be in the tensors. */
LORA_PRIVATE lora_status lora__emit_put_whole(lora__emit *emit,
                                              const lora__module *module,
                                              double scale,
                                              lora_error *error);

/* All tensors that belong to no module, under their own names. */
LORA_PRIVATE lora_status lora__emit_rest(lora__emit *emit, lora_error *error);

/* Bring the metadata in line with the tensors: alphas that have no tensor, the
 * base where it is certain (A1111 takes a file with metadata and without that
 * for SD1). */
LORA_PRIVATE lora_status lora__emit_metadata(lora__emit *emit,
                                             lora_error *error);

/* 1 if kohya's summary of ranks says one that no module has of those that are
 * left; `left_out`, one a module, may be NULL. */
LORA_PRIVATE int lora__emit_rank_is_stale(const lora_adapter *source,
                                          const unsigned char *left_out);

/* Room for a number, or "Dynamic". */
#define LORA__SUMMARY_TEXT 40

/* Bring kohya's summaries of rank and alpha in line with the modules that are
 * left: one that is stale becomes what they all have, or "Dynamic". `strength`,
 * which went into them, may be NULL. The rank as text goes into out_rank,
 * unless that is NULL. */
LORA_PRIVATE lora_status lora__emit_summary(char out_rank[LORA__SUMMARY_TEXT],
                                            lora_builder *builder,
                                            const lora_adapter *source,
                                            const unsigned char *left_out,
                                            const lora_strength *strength,
                                            lora_error *error);

/* 1 for a key of metadata whose value is a hash of the tensors. */
LORA_PRIVATE int lora__metadata_is_hash(const char *key);

/* Bring the hashes in the metadata of a result in line with its tensors;
 * *adapter may be replaced. Where numbers `changed`, those that are there are
 * computed anew. Where only names did, which puts tensors in another order,
 * they are if they were right: one of other tensors says which training this
 * is. */
LORA_PRIVATE lora_status lora__emit_hashes(lora_adapter **adapter,
                                           const lora_adapter *source,
                                           int changed,
                                           lora_error *error);

/* The size of the file that the adapter would be saved as, if its numbers are
 * new ones; its tensors are not read. */
LORA_PRIVATE lora_status lora__emit_measure(uint64_t *out_bytes,
                                            lora__emit *emit,
                                            lora_error *error);

/* Make the adapter, its hashes with it. */
LORA_PRIVATE lora_status lora__emit_finish(lora_adapter **out,
                                           lora__emit *emit,
                                           lora_error *error);

#endif
