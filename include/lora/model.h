/* Models and bindings: what an adapter changes in a base model.
 *
 * A model is the list of tensors that adapters may change: those of a
 * checkpoint, those that a host has in its own memory under its own names, or
 * the layers of a family without a file. A binding is one adapter matched to a
 * model. It tells of every module, and of every tensor that is of none, what
 * became of it: nothing is passed over in silence.
 *
 * Ownership: strings handed out live as long as the handle they come from. A
 * binding keeps its model and its adapter alive.
 * Threads: bindings and models are immutable, and any number of threads may use
 * one; but a model that was made by lora_model_create() is so only once it is
 * sealed, and until then nobody else may use it.
 */
#ifndef LORA_MODEL_H
#define LORA_MODEL_H

#include <lora/adapter.h>
#include <lora/report.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lora_model lora_model;
typedef struct lora_binding lora_binding;

/** How models are read. */
typedef struct lora_model_options {
    size_t struct_size;
    const char *family; /* what it is, such as "sdxl"; NULL: a guess */
    uint32_t flags;     /* LORA_OPEN_MAP, for files */
    uint32_t reserved1;
} lora_model_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_model_options_init(lora_model_options *options, size_t size);

/** How the dimensions of a host's tensor are listed. */
typedef int32_t lora_order;

enum {
    LORA_ORDER_ROWS = 0, /* [out, in, ...], as in torch and safetensors */
    LORA_ORDER_GGML = 1  /* the other way round: ne[0] is the fastest */
};

/** Rows of a host's tensor that are one layer's. Frozen. */
typedef struct lora_model_part {
    const char *target; /* of a layer, as diffusers names it */
    int64_t row_begin;
    int64_t row_end;
} lora_model_part;

/** A tensor of a host. */
typedef struct lora_model_tensor {
    size_t struct_size;
    const char *name;             /* "<module>.weight", "<module>.bias" */
    const char *component;        /* "unet", "transformer", "prior",
                                   * "text_encoder", "text_encoder_2",
                                   * "text_encoder_3"; NULL: the name says it,
                                   * or nothing does */
    const lora_model_part *parts; /* NULL: those that the name tells */
    size_t part_count;
    int64_t shape[LORA_MAX_DIMS];
    int32_t ndim;
    lora_order order;
    lora_dtype dtype; /* F32 for formats that the host alone reads */
    uint32_t reserved1;
} lora_model_tensor;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void lora_model_tensor_init(lora_model_tensor *tensor, size_t size);

/** What a model is. */
typedef struct lora_model_info {
    size_t struct_size;
    const char *path;   /* as given; "" where there are no files */
    const char *family; /* best guess, or what was said; "" not known */
    double confidence;  /* of that, 0 to 1 */
    uint64_t tensor_count;
    uint32_t catalogue; /* 1: the layers of a family */
    uint32_t reserved1;
} lora_model_info;

/** One tensor of a model. */
typedef struct lora_model_tensor_info {
    size_t struct_size;
    const char *name;      /* as a host gave it, or as stored, behind the name
                            * of the folder in a pipeline */
    const char *target;    /* canonical name of the layer */
    const char *component; /* "" not known */
    int64_t shape[LORA_MAX_DIMS]; /* [out, in, ...] */
    int32_t ndim;                 /* -1: a family's, and not known */
    lora_dtype dtype;             /* NONE: the same */
    uint64_t part_count;          /* layers that it is together; 0: it is one */
} lora_model_tensor_info;

/** Open the checkpoint of a model. Headers are read, and no weights.
 *
 *  @param out      receives the model; NULL on failure. Destroy with
 *                  lora_model_destroy().
 *  @param context  must not be NULL; the model keeps it alive.
 *  @param path     UTF-8; must not be NULL. A file, an index of shards, or a
 *                  folder of diffusers: a pipeline, or one component of it.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (no such family also);
 *          LORA_ERROR_OPTION; LORA_ERROR_IO; LORA_ERROR_FORMAT;
 *          LORA_ERROR_TRUNCATED; LORA_ERROR_LIMIT; LORA_ERROR_DUPLICATE (two
 *          tensors are the same layer's); LORA_ERROR_UNSUPPORTED;
 *          LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_model_open(lora_model **out,
                lora_context *context,
                const char *path,
                const lora_model_options *options,
                lora_error *error);

/** A model of a family's layers, without a file: names, and the few shapes that
 *  are the same in all of its models. Which layers have a bias is not told:
 *  each that may have one does.
 *
 *  @param out      as of lora_model_open().
 *  @param context  must not be NULL.
 *  @param family   such as "sd15", "sdxl", "flux1_dev"; must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (no such family also);
 *          LORA_ERROR_LIMIT; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_model_family(lora_model **out,
                                                      lora_context *context,
                                                      const char *family,
                                                      lora_error *error);

/** A model for a host to list its own tensors in.
 *
 *  @param out      as of lora_model_open().
 *  @param context  must not be NULL.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (no such family also);
 *          LORA_ERROR_OPTION; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_model_create(lora_model **out,
                  lora_context *context,
                  const lora_model_options *options,
                  lora_error *error);

/** List one tensor. They keep their order: the first has index 0.
 *
 *  Names are those of diffusers or of the model's authors, as in checkpoints;
 *  any others are their own targets, which adapters can name as they stand.
 *
 *  @param model   made by lora_model_create(), and not sealed.
 *  @param tensor  must not be NULL; copied.
 *  @param error   may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT (no name, no such component or order);
 *          LORA_ERROR_OPTION; LORA_ERROR_STATE (sealed, or of files);
 *          LORA_ERROR_DTYPE; LORA_ERROR_SHAPE; LORA_ERROR_RANGE (a part that is
 *          not of the tensor); LORA_ERROR_UNSUPPORTED (a layer in more than two
 *          places, or bounds without a common measure); LORA_ERROR_DUPLICATE;
 *          LORA_ERROR_LIMIT; LORA_ERROR_MEMORY.
 *  @threads one at a time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_model_add(
    lora_model *model, const lora_model_tensor *tensor, lora_error *error);

/** No more tensors: find out what each of them is. Does nothing where it is
 *  done. lora_binding_create() does it too.
 *
 *  @param model  must not be NULL.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_DUPLICATE (two tensors are
 *          the same layer's); LORA_ERROR_MEMORY.
 *  @threads one at a time, the first time.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_model_seal(lora_model *model,
                                                    lora_error *error);

/** Share a model.
 *
 *  @param model  NULL gives NULL.
 *  @return the same model, with one more owner.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_model *lora_model_retain(lora_model *model);

/** Give up a model; the last owner frees it.
 *
 *  @param model  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_model_destroy(lora_model *model);

/** Facts about a model.
 *
 *  @param out    its struct_size must be set; must not be NULL.
 *  @param model  must not be NULL.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_STATE (not sealed).
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_model_get_info(lora_model_info *out,
                                                        const lora_model *model,
                                                        lora_error *error);

/** One tensor of a model.
 *
 *  @param out    its struct_size must be set; must not be NULL.
 *  @param model  must not be NULL.
 *  @param index  below tensor_count.
 *  @param error  may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE; LORA_ERROR_STATE
 *          (not sealed).
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_model_get_tensor(lora_model_tensor_info *out,
                      const lora_model *model,
                      size_t index,
                      lora_error *error);

/** What became of a module, or of a tensor that is of none. */
typedef int32_t lora_binding_state;

enum {
    LORA_BINDING_BOUND = 0,   /* it changes tensors of the model */
    LORA_BINDING_HALF = 1,    /* of weight and bias the model has only one, and
                               * that is changed */
    LORA_BINDING_NOWHERE = 2, /* the model has no such weight */
    LORA_BINDING_SHAPE = 3,   /* it has one of another shape */
    LORA_BINDING_DTYPE = 4,   /* one whose numbers cannot be changed */
    LORA_BINDING_PARTNER = 5, /* the adapter has half of the module */
    LORA_BINDING_DAMAGED = 6, /* the module is unusable for another reason */
    LORA_BINDING_UNSUPPORTED = 7,
    LORA_BINDING_UNKNOWN = 8, /* a tensor that is of no module */
    LORA_BINDING_LEFT_OUT = 9 /* it would be bound; a selection says 0 */
};

/** Whether the model is what the adapter was made for. */
typedef int32_t lora_binding_verdict;

enum {
    LORA_BINDING_RIGHT = 0, /* all is bound, or the families are the same */
    LORA_BINDING_WRONG = 1, /* another family, and not all is bound */
    LORA_BINDING_UNSURE = 2 /* another family, and yet all is bound, as some
                             * have the same names; or nothing tells */
};

/** How strongly some modules are applied: a factor for all that fit. Of several
 *  that fit one module the product counts. Frozen.
 *
 *  A pattern is, in this order:
 *
 *    a component: "unet", "transformer", "prior", "text_encoder",
 *      "text_encoder_2", "text_encoder_3"; "te" is all text encoders;
 *    a block of a UNet as its authors number them: "IN00" to "IN11", "M00",
 *      "OUT00" to "OUT11", and "BASE" for text encoders and what is in no
 *      block; "blocks.down", "blocks.mid", "blocks.up" are many of them;
 *    a sort of layer: "attn", "attn.self", "attn.cross", "ff", "conv", "norm";
 *    a list of 12, 17, 20 or 26 numbers, separated by commas: block weights as
 *      front ends take them, of LoRA for SDXL, LoRA for SD 1, LoCon for SDXL,
 *      LoCon for SD 1. Layers of blocks that the list has no number for are
 *      left as they are;
 *    else a pattern for stored or canonical names: '*' any bytes, '?' one.
 */
typedef struct lora_selection {
    const char *pattern;
    double factor;
} lora_selection;

typedef struct lora_binding_create_options {
    size_t struct_size;
    const lora_selection *selections;
    size_t selection_count;
    uint32_t strict; /* 1: whatever is not bound is a failure */
    uint32_t reserved1;
} lora_binding_create_options;

/** See lora_adapter_open_options_init(). @since 0.1 */
LORA_API void
lora_binding_create_options_init(lora_binding_create_options *options,
                                 size_t size);

/** A binding as a whole. */
typedef struct lora_binding_info {
    size_t struct_size;
    const char *model_family;   /* "" not known */
    const char *adapter_family; /* best guess; "" not known */
    double adapter_confidence;  /* of that, 0 to 1 */
    double share;               /* of the modules that change the model */
    uint64_t item_count;        /* modules, and tensors that are of none */
    uint64_t module_count;
    uint64_t bound_count; /* modules that change the model */
    lora_binding_verdict verdict;
    uint32_t reserved1;
} lora_binding_info;

/** What became of one module, or of one tensor that is of none. */
typedef struct lora_binding_item {
    size_t struct_size;
    const char *name;      /* as stored in the adapter */
    const char *target;    /* canonical; "" of a tensor */
    const char *reason;    /* why it is not bound; "" where it is */
    const char *tensor;    /* of the model, the first it is for; "" none */
    double factor;         /* what the selections say; 1 without */
    uint64_t module_index; /* UINT64_MAX of a tensor */
    uint64_t tensor_index; /* in the adapter; UINT64_MAX of a module */
    uint64_t change_count; /* see lora_binding_get_change() */
    int64_t expected[LORA_MAX_DIMS]; /* the model's shape */
    int64_t found[LORA_MAX_DIMS];    /* the module's */
    int32_t expected_ndim;           /* 0: not known */
    int32_t found_ndim;              /* the same */
    lora_binding_state state;
    lora_status status; /* what it is to a strict binding */
} lora_binding_item;

/** Rows of one tensor of the model that a module changes. */
typedef struct lora_binding_change {
    size_t struct_size;
    const char *tensor;
    uint64_t tensor_index; /* in the model */
    int64_t row_begin;     /* of the tensor */
    int64_t row_end;       /* 0: all rows, whose number is not known */
    int64_t module_row;    /* that goes with row_begin */
    lora_part part;
    int32_t transposed; /* 1: rows of the tensor are columns of the module */
} lora_binding_change;

/** Find all modules of an adapter in a model.
 *
 *  A module is found by its name as stored, or by its layer, whatever the names
 *  of both sides; a weight that one side has in one and the other in several
 *  tensors is followed row by row. Adapters that do not fit are no failure,
 *  unless options are strict: the items tell, and the log has one warning.
 *
 *  With `strict` every item that is not bound is written to the log, and so is
 *  a selection that fits nothing; the call fails with the first of them, or
 *  where the adapter has no modules.
 *
 *  @param out      receives the binding; NULL on failure. Destroy with
 *                  lora_binding_destroy().
 *  @param model    must not be NULL; sealed by this. Retained.
 *  @param adapter  must not be NULL; retained.
 *  @param options  NULL for defaults.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_OPTION (a list of another
 *          length); LORA_ERROR_RANGE (a factor that is not finite); with
 *          `strict` LORA_ERROR_KEY, LORA_ERROR_SHAPE, LORA_ERROR_DTYPE,
 *          LORA_ERROR_UNSUPPORTED, or the module's own status; what
 *          lora_model_seal() answers; LORA_ERROR_IO; LORA_ERROR_MEMORY.
 *  @threads safe, if the model is sealed.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_binding_create(lora_binding **out,
                    lora_model *model,
                    lora_adapter *adapter,
                    const lora_binding_create_options *options,
                    lora_error *error);

/** Share a binding.
 *
 *  @param binding  NULL gives NULL.
 *  @return the same binding, with one more owner.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API lora_binding *lora_binding_retain(lora_binding *binding);

/** Give up a binding; the last owner frees it.
 *
 *  @param binding  NULL does nothing.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API void lora_binding_destroy(lora_binding *binding);

/** Facts about a binding.
 *
 *  @param out      its struct_size must be set; must not be NULL.
 *  @param binding  must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_binding_get_info(
    lora_binding_info *out, const lora_binding *binding, lora_error *error);

/** How many items are in a state; 0 for NULL.
 *
 *  @threads safe.
 *  @since 0.1
 */
LORA_API size_t lora_binding_count(const lora_binding *binding,
                                   lora_binding_state state);

/** One item: modules in the adapter's order, then tensors that are of none.
 *
 *  @param out      its struct_size must be set; must not be NULL.
 *  @param binding  must not be NULL.
 *  @param index    below item_count.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_binding_get_item(lora_binding_item *out,
                      const lora_binding *binding,
                      size_t index,
                      lora_error *error);

/** What an item changes, piece by piece.
 *
 *  @param out      its struct_size must be set; must not be NULL.
 *  @param binding  must not be NULL.
 *  @param item     below item_count.
 *  @param index    below the item's change_count.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_binding_get_change(lora_binding_change *out,
                        const lora_binding *binding,
                        size_t item,
                        size_t index,
                        lora_error *error);

/** The name in the model that is nearest to that of an item, by letters that
 *  differ: a suggestion where the item is not found. All tensors are compared,
 *  which takes some milliseconds.
 *
 *  @param out      receives the name; NULL if none is near. Lives as long as
 *                  the binding.
 *  @param binding  must not be NULL.
 *  @param item     below item_count.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_RANGE.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status
lora_binding_suggest(const char **out,
                     const lora_binding *binding,
                     size_t item,
                     lora_error *error);

/** All of a binding as one report: every item with what it changes, or why it
 *  changes nothing. As problems it lists items that are not bound, with their
 *  state as the code, selections that fit no module ("selection_unused"), and
 *  that it is the wrong base ("wrong_base"). Nearest names are told of the
 * first 64 that are not found, unless it is the wrong base.
 *
 *  @param out      receives the report; NULL on failure.
 *  @param binding  must not be NULL.
 *  @param error    may be NULL.
 *  @return LORA_OK; LORA_ERROR_ARGUMENT; LORA_ERROR_MEMORY.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API LORA_NODISCARD lora_status lora_binding_report(
    lora_report **out, const lora_binding *binding, lora_error *error);

#ifdef __cplusplus
}
#endif

#endif
