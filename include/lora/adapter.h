/* Adapters: open a file, look inside, compute with it, save it.
 *
 * An adapter is the immutable picture of one file, or of several that an index
 * joins: its tensors, and the modules they form. A module is one adapted layer:
 * its kind (LoRA, LoHa, ...), rank, scale, and the name of the weight it
 * changes. Names come in two forms: as stored in the file, and canonical, which
 * is the dotted name in diffusers ("unet.down_blocks.0...").
 *
 * Opening reads the table of tensors and the scalar tensors (alpha); the rest
 * is read when it is asked for. A sound file with unusable modules opens: the
 * problems are listed, and operations refuse them.
 *
 * Ownership: strings handed out live as long as the adapter.
 * Threads: adapters are immutable; any number of threads may use one.
 * Limits: those of the context.
 */
#ifndef LORA_ADAPTER_H
#define LORA_ADAPTER_H

#include <lora/context.h>
#include <lora/io.h>
#include <lora/report.h>
#include <lora/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_adapter lora_adapter;

/* Flags for opening. */
enum {
    /* Map the file, or files, instead of reading. Views of tensors become
     * possible. If another program truncates the file meanwhile, the process
     * gets SIGBUS; on Windows the file cannot be replaced while mapped. */
    LORA_OPEN_MAP = 1
};

typedef struct lora_adapter_open_options {
    size_t struct_size;
    const char *config; /* text of an adapter_config.json (PEFT); NULL: of
                         * the one beside the file, where its name, or those
                         * of its tensors, are PEFT's */
    size_t config_bytes;
    uint32_t flags; /* LORA_OPEN_* */
    uint32_t reserved1;
} lora_adapter_open_options;

/** What a file is. */
typedef struct lora_adapter_info {
    size_t struct_size;
    const char *path;      /* as given, or what was found in that folder; ""
                            * for memory and readers */
    const char *container; /* "safetensors"; "safetensors shards" for an index;
                            * "torch zip", "torch legacy", "gguf"; "memory" for
                            * a result */
    const char *family;    /* best guess of the base, such as "sdxl", or "" */
    double confidence;     /* of that guess, 0 to 1 */
    uint64_t bytes;        /* of the file, or files; 0 for a result */
    uint64_t parameters;   /* elements of all tensors of modules */
    uint64_t tensor_count;
    uint64_t module_count;
    uint64_t unknown_count; /* tensors that belong to no module */
    uint64_t problem_count;
} lora_adapter_info;

/* What a module changes. */
typedef int32_t lora_part;

enum { LORA_PART_WEIGHT = 1, LORA_PART_BIAS = 2 };

/** One adapted layer. */
typedef struct lora_module_info {
    size_t struct_size;
    const char *name;    /* as stored in the file */
    const char *target;  /* canonical */
    const char *kind;    /* "lora", "locon", "loha", "lokr", "full", ... */
    const char *dialect; /* spelling of the names, such as "kohya" */
    int64_t rank;        /* 0 where the kind has none */
    double alpha;        /* meaningful only if has_alpha */
    double scale;        /* what the product of the factors is multiplied by */
    int64_t shape[LORA_MAX_DIMS]; /* of the weight it changes */
    int32_t ndim;
    int32_t has_alpha;
    lora_dtype dtype;   /* of the factors */
    int32_t dora;       /* 1: has a DoRA magnitude */
    int32_t tucker;     /* 1: has a core tensor */
    int32_t changes;    /* LORA_PART_* bits */
    lora_status status; /* LORA_OK, or why operations refuse it */
    int32_t reserved1;
} lora_module_info;

/** One tensor. */
typedef struct lora_tensor_info {
    size_t struct_size;
    const char *name;
    const char *role; /* "down", "up", "alpha", ...; "unknown" */
    uint64_t offset;  /* of the data in the file; 0 for a result */
    uint64_t bytes;
    uint64_t module_index; /* UINT64_MAX if it belongs to none */
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    lora_dtype dtype;
} lora_tensor_info;

/** One tensor to be read, and where to.
 *
 *  Frozen: it is passed in arrays, so it never grows.
 */
typedef struct lora_tensor_read {
    void *buffer;       /* receives all elements, row-major, in `dtype` */
    size_t bytes;       /* size of buffer; must be just that of the tensor */
    size_t index;       /* below lora_adapter_tensor_count() */
    lora_dtype dtype;   /* LORA_DTYPE_NONE: the bytes as stored */
    uint32_t reserved1; /* 0 */
} lora_tensor_read;

typedef struct lora_adapter_describe_options {
    size_t struct_size;
    uint32_t modules; /* 1: one entry a module instead of counts by kind */
    uint32_t hashes;  /* 1: add hashes, which reads the whole file */
} lora_adapter_describe_options;

typedef struct lora_adapter_save_options {
    size_t struct_size;
    uint32_t overwrite; /* 1: replace an existing file */
    uint32_t reserved1;
} lora_adapter_save_options;

/* What a strength other than 1 means for a module whose effect is not in
 * proportion to it (DoRA, some of OFT and BOFT); for all others both rules are
 * the same. */
typedef int32_t lora_strength_rule;

enum {
    LORA_STRENGTH_ORIGIN = 0, /* what the program does that the file is of */
    LORA_STRENGTH_INTERPOLATE = 1 /* W + strength * (W' - W), W' at 1 */
};

/* Whose DoRA it is: they differ in what a strength other than 1 means, in the
 * norm of a convolution's weight and in what stands where a norm is 0. */
typedef int32_t lora_dora_rule;

enum {
    LORA_DORA_ORIGIN = 0,  /* PEFT's for its lora_magnitude_vector, LyCORIS' for
                            * dora_scale */
    LORA_DORA_LYCORIS = 1, /* W' = V (m (g / |V| - 1) + 1), V = W + dW */
    LORA_DORA_PEFT = 2     /* W' = V g / |V|, V = W + m dW */
};

typedef struct lora_adapter_delta_options {
    size_t struct_size;
    lora_dtype dtype;   /* F32 (default) or F64 */
    uint32_t canonical; /* 1: canonical names instead of stored ones */
    uint32_t overwrite; /* 1: replace an existing file */
    uint32_t skip_bad;  /* 1: leave unusable modules out */
    const char *base;   /* path of the base model; NULL: there is none, and
                         * modules that need it are refused */
    lora_strength_rule strength_rule;
    uint32_t weights; /* 1: the changed weights, W', instead of W' - W; needs
                       * base */
    uint32_t dry_run; /* 1: compute everything and write nothing; path is not
                       * used */
    lora_dora_rule dora_rule;
} lora_adapter_delta_options;

typedef struct lora_adapter_delta_base_options {
    size_t struct_size;
    lora_strength_rule strength_rule;
    lora_dora_rule dora_rule;
    uint32_t weights; /* 1: W' instead of W' - W */
    uint32_t reserved1;
} lora_adapter_delta_base_options;

/** Fill options with defaults.
 *
 *  @param options  NULL does nothing.
 *  @param size     sizeof of the caller's struct.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_adapter_open_options_init(lora_adapter_open_options *options,
                                             size_t size);

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_describe_options_init(lora_adapter_describe_options *options,
                                   size_t size);

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_adapter_save_options_init(lora_adapter_save_options *options,
                                             size_t size);

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_delta_options_init(lora_adapter_delta_options *options,
                                size_t size);

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_adapter_delta_base_options_init(lora_adapter_delta_base_options *options,
                                     size_t size);

/** Open an adapter: a file, a folder, or the index of several files.
 *
 *  Of a folder that file is opened which is the first to be there of
 *  adapter_model.safetensors and .bin (PEFT), or of
 *  pytorch_lora_weights.safetensors and .bin (diffusers); else the one index in
 *  it, *.safetensors.index.json; else the one *.safetensors file. Where several
 *  may be meant, that is a failure that names them.
 *
 *  An index must name files beside it (128 at most, all held open), which must
 *  have just the tensors that it says. Their metadata are united.
 *
 *  Beside the file, PEFT's adapter_config.json is read where names are PEFT's,
 *  and the model card, README.md, if it can be meant for this adapter: in a
 *  folder that was opened, beside a file with one of the names above, or where
 *  there is no other model in the folder.
 *
 *  @param out      receives the adapter; NULL on failure. Destroy with
 *                  lora_adapter_destroy().
 *  @param context  must not be NULL; the adapter keeps it alive.
 *  @param path     UTF-8; must not be NULL.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_IO, also for a folder without an adapter;
 *          LORA_ERROR_FORMAT, LORA_ERROR_TRUNCATED, LORA_ERROR_DUPLICATE
 *          (offset set where there is one), the last also for a folder with
 *          several adapters; LORA_ERROR_LIMIT; LORA_ERROR_MEMORY;
 *          LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION.
 *  @threads safe with the same context.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_open(lora_adapter **out,
                  lora_context *context,
                  const char *path,
                  const lora_adapter_open_options *options,
                  lora_error *error);

/** Open an adapter that lies in memory.
 *
 *  @param data   borrowed: must stay valid and unchanged while the adapter,
 *                or anything made from it, lives.
 *  @param bytes  size of data.
 *  Otherwise as lora_adapter_open().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_open_memory(lora_adapter **out,
                         lora_context *context,
                         const void *data,
                         size_t bytes,
                         const lora_adapter_open_options *options,
                         lora_error *error);

/** Open an adapter through the host's own reader.
 *
 *  @param reader  copied; its destroy is called when the adapter and all that
 *                 was made from it are gone, and also when opening fails,
 *                 unless the table itself is refused.
 *  Otherwise as lora_adapter_open().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_open_reader(lora_adapter **out,
                         lora_context *context,
                         const lora_reader *reader,
                         const lora_adapter_open_options *options,
                         lora_error *error);

/** Share an adapter.
 *
 *  @param adapter  NULL gives NULL.
 *  @return the same adapter, with one more owner.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_adapter *lora_adapter_retain(lora_adapter *adapter);

/** Give up an adapter; the last owner frees it.
 *
 *  @param adapter  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_adapter_destroy(lora_adapter *adapter);

/** Read what the file is.
 *
 *  @param out      must have its struct_size set.
 *  @param adapter  must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_adapter_get_info(
    lora_adapter_info *out, const lora_adapter *adapter, lora_error *error);

/** Number of modules, in the order of their first tensor in the file; 0 for
 *  NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_adapter_module_count(const lora_adapter *adapter);

/** Read one module.
 *
 *  @param out      must have its struct_size set.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_module_count().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_module(lora_module_info *out,
                        const lora_adapter *adapter,
                        size_t index,
                        lora_error *error);

/** Read several modules in one call.
 *
 *  @param out      array of `count`. struct_size of the first must be set, to
 *                  the size of one; it goes for all. Untouched on failure. May
 *                  be NULL if count is 0.
 *  @param adapter  must not be NULL.
 *  @param first    index of the first.
 *  @param count    how many; first + count is at most
 *                  lora_adapter_module_count().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_modules(lora_module_info *out,
                         const lora_adapter *adapter,
                         size_t first,
                         size_t count,
                         lora_error *error);

/** Find a module by its stored or its canonical name.
 *
 *  @param out_index  receives the index; untouched on failure.
 *  @param adapter    must not be NULL.
 *  @param name       must not be NULL.
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_KEY if there is none; LORA_ERROR_ARGUMENT.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_find_module(size_t *out_index,
                         const lora_adapter *adapter,
                         const char *name,
                         lora_error *error);

/** Number of tensors, in file order; 0 for NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_adapter_tensor_count(const lora_adapter *adapter);

/** Read the description of one tensor.
 *
 *  @param out      must have its struct_size set.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_tensor_count().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_tensor_info(lora_tensor_info *out,
                             const lora_adapter *adapter,
                             size_t index,
                             lora_error *error);

/** Read the descriptions of several tensors in one call.
 *
 *  @param count  how many; first + count is at most
 *                lora_adapter_tensor_count().
 *  Otherwise as lora_adapter_get_modules().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_tensor_infos(lora_tensor_info *out,
                              const lora_adapter *adapter,
                              size_t first,
                              size_t count,
                              lora_error *error);

/** Copy the data of one tensor, converted.
 *
 *  @param buffer   receives all elements, row-major, in `dtype`.
 *  @param bytes    size of buffer; must be just that of the tensor.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_tensor_count().
 *  @param dtype    LORA_DTYPE_NONE: the bytes as stored; otherwise see
 *                  lora_tensor_convert().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE; LORA_ERROR_DTYPE;
 *          LORA_ERROR_SHAPE (buffer of another size); LORA_ERROR_IO;
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_read_tensor(void *buffer,
                         size_t bytes,
                         const lora_adapter *adapter,
                         size_t index,
                         lora_dtype dtype,
                         lora_error *error);

/** Copy the data of several tensors, converted; where it is much, on the
 *  context's threads.
 *
 *  All are checked before the first is read.
 *
 *  @param reads    array of `count`, in any order; buffers must not overlap.
 *                  May be NULL if count is 0. After a failure of reading
 *                  buffers may hold any bytes.
 *  @param count    how many.
 *  @param adapter  must not be NULL.
 *  @param error    may be NULL.
 *  @return as lora_adapter_read_tensor(); LORA_ERROR_OPTION for a reserved
 *          field that is not 0; LORA_ERROR_CANCELLED; LORA_ERROR_THREAD.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_read_tensors(const lora_tensor_read *reads,
                          size_t count,
                          const lora_adapter *adapter,
                          lora_error *error);

/** Borrow the data of one tensor, without copying.
 *
 *  @param out      receives the view, valid as long as the adapter; its data
 *                  may be unaligned.
 *  @param adapter  must not be NULL.
 *  @param index    below lora_adapter_tensor_count().
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_STATE where the adapter is neither in memory
 *          nor mapped; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_tensor(lora_tensor *out,
                        const lora_adapter *adapter,
                        size_t index,
                        lora_error *error);

/** Number of metadata entries, sorted by key; 0 for NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_adapter_metadata_count(const lora_adapter *adapter);

/** Read one metadata entry.
 *
 *  @param out_key    receives the key.
 *  @param out_value  receives the value.
 *  @param adapter    must not be NULL.
 *  @param index      below lora_adapter_metadata_count().
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_get_metadata(const char **out_key,
                          const char **out_value,
                          const lora_adapter *adapter,
                          size_t index,
                          lora_error *error);

/** Find a metadata value by its key.
 *
 *  @return the value; NULL if there is none or an argument is NULL.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const char *lora_adapter_find_metadata(const lora_adapter *adapter,
                                                const char *key);

/** Describe the adapter: the JSON object of `lora info --json`, and the
 *  problems that show without reading tensor data.
 *
 *  @param out      receives the report; NULL on failure.
 *  @param adapter  must not be NULL.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION;
 *          LORA_ERROR_MEMORY; with hashes also LORA_ERROR_IO,
 *          LORA_ERROR_TRUNCATED and LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_describe(lora_report **out,
                      const lora_adapter *adapter,
                      const lora_adapter_describe_options *options,
                      lora_error *error);

/** Compute rows of the dense change of one module.
 *
 *  dW[out, in*K] = strength * scale * up[out, r] * down[r, in*K] for LoRA; see
 *  the format text for the other kinds. Each element is one accumulator, k
 *  ascending, fused multiply-add, then one multiplication by strength * scale:
 *  the same bits on every machine.
 *
 *  @param buffer     receives (row_end - row_begin) rows of shape[1] * ... *
 *                    shape[ndim - 1] elements, row-major.
 *  @param bytes      size of buffer; must be just that.
 *  @param adapter    must not be NULL.
 *  @param index      module.
 *  @param part       LORA_PART_WEIGHT, or LORA_PART_BIAS: a row is then one
 *                    element.
 *  @param strength   the user's multiplier.
 *  @param dtype      LORA_DTYPE_F32 or LORA_DTYPE_F64: of buffer and of the
 *                    accumulator.
 *  @param row_begin  first row.
 *  @param row_end    one past the last row; at most shape[0].
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE; LORA_ERROR_DTYPE;
 *          LORA_ERROR_UNSUPPORTED (kind needs the base weight, or changes no
 *          weight); the module's own status; LORA_ERROR_IO;
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_delta(void *buffer,
                   size_t bytes,
                   const lora_adapter *adapter,
                   size_t index,
                   lora_part part,
                   double strength,
                   lora_dtype dtype,
                   int64_t row_begin,
                   int64_t row_end,
                   lora_error *error);

/** Compute rows of the change of one module, or of the changed weight, given
 *  the weight: W' - W, or W'.
 *
 *  For every kind that can be computed, those whose change depends on the
 *  weight among them. The same rows have the same bits whichever are asked for
 *  together; whole modules are cheapest, as tensors of the file are read, and
 *  what can be prepared is, in each call.
 *
 *  @param weight     the base's weight, row-major, of any floating-point type
 *                    that can be written; its shape is that of the module, save
 *                    for dimensions of 1 at the end, and the change has it.
 *                    Some modules are of no shape of their own. May be NULL
 *                    where the change does not depend on it.
 *  @param bias       the same of the bias; NULL: the layer has none.
 *  @param options    NULL for defaults.
 *  Otherwise as lora_adapter_delta(), row_end being at most the rows of the
 *  weight, or elements of the bias.
 *  @return as lora_adapter_delta(); LORA_ERROR_KEY where the tensor that is
 *          needed is NULL; LORA_ERROR_SHAPE where it does not fit the module;
 *          LORA_ERROR_DTYPE where it is no floating point; LORA_ERROR_OPTION.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_delta_base(void *buffer,
                        size_t bytes,
                        const lora_adapter *adapter,
                        size_t index,
                        lora_part part,
                        double strength,
                        lora_dtype dtype,
                        int64_t row_begin,
                        int64_t row_end,
                        const lora_tensor *weight,
                        const lora_tensor *bias,
                        const lora_adapter_delta_base_options *options,
                        lora_error *error);

/** Compute the factors of one module: dW = scale * up[rows, rank] *
 *  down[rank, cols], exactly (a core is multiplied into down). Of LoHa these
 *  are the products of all pairs of its terms or, where that is more than its
 *  rows or columns, the change beside an identity; of LoKr the singular
 * vectors, balanced, by descending value.
 *
 *  Call with up and down NULL to learn the sizes.
 *
 *  @param out_rows   receives the rows of up; may be NULL, as the next four.
 *  @param out_cols   receives the columns of down: in * K.
 *  @param out_rank   receives the rank of the factors.
 *  @param out_scale  receives the scale, which is in neither factor.
 *  @param up         receives rows * rank elements, row-major, or NULL.
 *  @param down       receives rank * cols elements, row-major, or NULL.
 *  @param dtype      of up and down: F32 or F64.
 *  @param adapter    must not be NULL.
 *  @param index      module.
 *  @param error      may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE; LORA_ERROR_DTYPE;
 *          LORA_ERROR_UNSUPPORTED (no factors); the module's own status;
 *          LORA_ERROR_NONFINITE and LORA_ERROR_CONVERGENCE (of LoKr);
 *          LORA_ERROR_IO; LORA_ERROR_TRUNCATED; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_factors(int64_t *out_rows,
                     int64_t *out_cols,
                     int64_t *out_rank,
                     double *out_scale,
                     void *up,
                     void *down,
                     lora_dtype dtype,
                     const lora_adapter *adapter,
                     size_t index,
                     lora_error *error);

/** Save as a safetensors file.
 *
 *  Written beside the target under a temporary name, flushed and renamed: the
 *  target is either the old or the whole new file. Tensors stand in the order
 *  of the reference writer, metadata sorted by key, so equal adapters give
 *  equal bytes. A configuration that was given, or read from beside the file,
 *  becomes the metadata entry "lora_adapter_metadata". The adapter may be one
 *  that was read from the same path.
 *
 *  @param adapter  must not be NULL.
 *  @param path     UTF-8; must not be NULL.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_IO (os_error EEXIST: exists, and overwrite is
 *          not set); LORA_ERROR_LIMIT (header too large);
 *          LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION; LORA_ERROR_MEMORY;
 *          LORA_ERROR_TRUNCATED (the source shrank); LORA_ERROR_CANCELLED.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_save(const lora_adapter *adapter,
                  const char *path,
                  const lora_adapter_save_options *options,
                  lora_error *error);

/** Save into a caller's buffer, byte for byte as lora_adapter_save().
 *
 *  @param buffer     receives the file; NULL to learn the size.
 *  @param bytes      size of buffer.
 *  @param out_bytes  receives the size of the file; must not be NULL.
 *  @param adapter    must not be NULL.
 *  @param error      may be NULL.
 *  @return as lora_adapter_save(); LORA_ERROR_RANGE if buffer is too small.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_save_memory(void *buffer,
                         size_t bytes,
                         size_t *out_bytes,
                         const lora_adapter *adapter,
                         lora_error *error);

/** Save as a folder that PEFT loads: adapter_model.safetensors, and
 *  adapter_config.json with ranks and scales.
 *
 *  Both files are written in full before the first of them gets its name, the
 *  configuration last: without it PEFT loads nothing. A folder is for one
 *  model; modules of several (a UNet and its text encoder) are all in it, and
 *  each model takes what it knows.
 *
 *  @param adapter  must not be NULL; its modules must be of one type of PEFT:
 *                  LoRA, of layers or embeddings, with biases of up or
 *                  magnitudes of DoRA as far as PEFT knows them; LoHa; LoKr,
 *                  divided as PEFT divides layers; IA3. They must have the
 *                  names of PEFT: see lora_adapter_convert().
 *  @param folder   UTF-8; must not be NULL. Is made if there is none; the
 *                  folder that it is in must be there.
 *  @param options  NULL for defaults; overwrite is for both files.
 *  @param error    may be NULL.
 *  @return as lora_adapter_save(); LORA_ERROR_KEY for other names or no
 *          modules; LORA_ERROR_UNSUPPORTED for other kinds, or shapes that no
 *          configuration gives, and what was said of an unusable module.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_save_peft(const lora_adapter *adapter,
                       const char *folder,
                       const lora_adapter_save_options *options,
                       lora_error *error);

/** Save through the host's own writer.
 *
 *  @param writer  must not be NULL; unless an argument is refused it is
 *                 either finished or aborted, as io.h says.
 *  Otherwise as lora_adapter_save().
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_adapter_save_writer(
    const lora_adapter *adapter, const lora_writer *writer, lora_error *error);

/** Write the dense weight change of every module to a safetensors file, one
 *  tensor a module in the shape of the weight it changes, bias changes as
 *  "<module>.bias". Memory is bounded by one block of rows.
 *
 *  With a base the change may depend on the weight. The base is a file or
 *  folder, as lora_extract() opens it; a module's weight is "<module>.weight"
 *  with the module's name as stored, that without "base_model.model.", or the
 *  canonical one. Changed weights are written under the names of the changes,
 *  with ".weight" and ".bias" after them.
 *
 *  @param adapter   must not be NULL.
 *  @param path      UTF-8; must not be NULL, save for a dry run.
 *  @param strength  the user's multiplier.
 *  @param options   NULL for defaults.
 *  @param error     may be NULL.
 *  @return as lora_adapter_save() and lora_adapter_delta_base(); LORA_ERROR_KEY
 *          if there is no module, or the base has not its weight;
 *          LORA_ERROR_NONFINITE; LORA_ERROR_DUPLICATE (two modules of one
 *          canonical name); what opening the base gives.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_adapter_save_delta(const lora_adapter *adapter,
                        const char *path,
                        double strength,
                        const lora_adapter_delta_options *options,
                        lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
