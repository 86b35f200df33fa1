/* From the object of a checkpoint to named tensors.
 *
 * The object is walked depth first, with a stack of its own. A tensor's name
 * is the way to it: keys joined by "."; items of lists have their number, of
 * four digits or more in a list that is the whole object. What wraps a state
 * dict is left out, and whatever is no tensor. Tensors that could only be found
 * by running code, or that have no name, are not dropped but refused.
 *
 * Objects refer to each other as they like, in cycles too: depth, number of
 * values visited, and what names and tensors take together are bounded.
 */
#include "format/torch.h"

#include "core/text.h"
#include "format/quote.h"

#include <string.h>

#define TREE_MAX_DEPTH 64

/* Values visited, for each tensor that the limits allow. */
#define TREE_VISITS_PER_TENSOR 4

/* A value whose items are being walked. */
typedef struct tree_level {
    lora__pickle_cursor cursor;
    const lora__pickle_value *key; /* of the item we are at, in a dict */
    uint64_t number;               /* of that item, from 1 */
    const char *refused;           /* why no tensor may be in here, or NULL */
    uint32_t type;
} tree_level;

typedef struct tree_walk {
    lora__torch *torch;
    const lora_limits *limits;
    lora__buffer name;
    tree_level levels[TREE_MAX_DEPTH];
    size_t depth;
    uint64_t visits;
    uint64_t name_bytes; /* of all names */
    uint64_t bytes;      /* of all tensors */
} tree_walk;

/* Refuse the tensor that the walk has come to. */
static lora_status tree_fail(const tree_walk *w,
                             lora_status status,
                             uint64_t offset,
                             const char *what,
                             lora_error *error)
{
    return lora__fail_named(error, status, offset, w->torch->container->path,
                            "tensor", w->name.data, w->name.bytes, what);
}

/* Tensors ---------------------------------------------------------------- */

/* 1 if the value makes a tensor: what by, and from what. Parameters and
 * subclasses wrap what makes the tensor in them. */
static int tree_is_tensor(const lora__pickle_value **out_function,
                          const lora__pickle_value **out_arguments,
                          const lora__pickle_value *value)
{
    static const char prefix[] = "_rebuild_";

    for (int i = 0; i < 4; i++) {
        const lora__pickle_value *function = lora__pickle_item(value, 0);
        const lora__pickle_value *arguments = lora__pickle_item(value, 1);
        const lora__pickle_value *name;

        if (value == NULL || value->type != LORA__PICKLE_OBJECT) {
            return 0;
        }
        if (lora__pickle_is_global(function, "torch._tensor",
                                   "_rebuild_from_type_v2")) {
            function = lora__pickle_item(arguments, 0);
            arguments = lora__pickle_item(arguments, 2);
        }
        if (lora__pickle_is_global(function, "torch._utils",
                                   "_rebuild_parameter") ||
            lora__pickle_is_global(function, "torch._utils",
                                   "_rebuild_parameter_with_state")) {
            value = lora__pickle_item(arguments, 0);
            continue;
        }
        name = lora__pickle_item(function, 1);
        *out_function = function;
        *out_arguments = arguments;
        return function != NULL && function->type == LORA__PICKLE_GLOBAL &&
               name->text_bytes >= sizeof prefix - 1 &&
               memcmp(name->as.text, prefix, sizeof prefix - 1) == 0;
    }
    return 0;
}

/* A tuple of sizes or strides; torch.Size is a tuple too. Returns how many, or
 * -1 if they are anything else. */
static int32_t tree_read_sizes(int64_t out[LORA_MAX_DIMS],
                               const lora__pickle_value *tuple)
{
    lora__pickle_cursor cursor;
    const lora__pickle_value *item;
    int32_t count = 0;

    if (lora__pickle_is_global(lora__pickle_item(tuple, 0), "torch", "Size")) {
        tuple = lora__pickle_item(lora__pickle_item(tuple, 1), 0);
    }
    if (tuple == NULL || tuple->type != LORA__PICKLE_TUPLE) {
        return -1;
    }
    cursor = lora__pickle_items_of(tuple);
    while ((item = lora__pickle_next(&cursor)) != NULL) {
        if (item->type != LORA__PICKLE_INTEGER || item->as.integer < 0 ||
            count == LORA_MAX_DIMS) {
            return -1;
        }
        out[count++] = item->as.integer;
    }
    return count;
}

/* 1 if the element furthest into the storage is one of its `count`. */
static int tree_fits(const lora__entry *entry,
                     uint64_t first,
                     const uint64_t *strides,
                     uint64_t count)
{
    uint64_t last = first;

    if (entry->elements == 0) {
        return 1;
    }
    for (int32_t i = 0; i < entry->ndim; i++) {
        uint64_t step;

        if (!lora__mul_u64((uint64_t)entry->shape[i] - 1, strides[i], &step) ||
            !lora__add_u64(last, step, &last)) {
            return 0;
        }
    }
    return last < count;
}

/* Type, shape and place from the arguments of _rebuild_tensor: storage, first
 * element, sizes, strides; of version 3 the seventh is the type. */
static lora_status tree_read_tensor(lora__entry *entry,
                                    const tree_walk *w,
                                    const lora__pickle_value *function,
                                    const lora__pickle_value *arguments,
                                    uint64_t offset,
                                    lora_error *error)
{
    const lora__pickle_value *id = lora__pickle_item(arguments, 0);
    const lora__pickle_value *first = lora__pickle_item(arguments, 1);
    int64_t strides[LORA_MAX_DIMS];
    uint64_t steps[LORA_MAX_DIMS] = {0};
    lora__torch_span span = {NULL, 0, 0};
    uint64_t at;
    const char *wrong;
    size_t unit;

    if (!lora__pickle_is_global(function, "torch._utils", "_rebuild_tensor") &&
        !lora__pickle_is_global(function, "torch._utils",
                                "_rebuild_tensor_v2") &&
        !lora__pickle_is_global(function, "torch._utils",
                                "_rebuild_tensor_v3")) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset,
                         "quantised, sparse or of another sort that is not "
                         "read",
                         error);
    }
    entry->ndim =
        tree_read_sizes(entry->shape, lora__pickle_item(arguments, 2));
    if (id == NULL || id->type != LORA__PICKLE_PERSISTENT || first == NULL ||
        first->type != LORA__PICKLE_INTEGER || first->as.integer < 0 ||
        entry->ndim < 0 ||
        tree_read_sizes(strides, lora__pickle_item(arguments, 3)) !=
            entry->ndim) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset,
                         "its storage, sizes or strides are not such", error);
    }
    TRY(lora__torch_resolve(&span, w->torch, id, error));
    entry->dtype = span.storage->dtype;
    if (lora__pickle_is_global(function, "torch._utils",
                               "_rebuild_tensor_v3")) {
        entry->dtype = lora__torch_dtype(lora__pickle_item(arguments, 6));
    }
    if (entry->dtype == LORA_DTYPE_NONE) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset,
                         "a number type that is not read", error);
    }
    wrong = lora__safetensors_size(&entry->elements, &entry->bytes,
                                   entry->dtype, entry->ndim, entry->shape);
    if (wrong != NULL) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset, wrong, error);
    }
    for (int32_t i = 0; i < entry->ndim; i++) {
        steps[i] = (uint64_t)strides[i];
    }
    unit = lora_dtype_bits(entry->dtype) / 8;
    at = (uint64_t)first->as.integer;
    if (!tree_fits(entry, at, steps, span.count * span.storage->unit / unit)) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset,
                         "reaches beyond its storage", error);
    }
    /* In elements of the storage, of which a view has the same. */
    at = entry->elements == 0 ? 0 : at + span.first * span.storage->unit / unit;
    return lora__torch_place(entry, w->torch, span.storage, at, steps, error);
}

/* Names ------------------------------------------------------------------ */

/* Join the way to where the walk is. Only tensors pay for their names. */
static lora_status tree_make_name(tree_walk *w, lora_error *error)
{
    lora__buffer *name = &w->name;

    lora__buffer_clear(name);
    if (w->depth == 0) {
        lora__buffer_puts(name, "tensor"); /* all there is */
    }
    for (size_t i = 0; i < w->depth; i++) {
        const tree_level *level = &w->levels[i];

        if (i > 0) {
            lora__buffer_putc(name, '.');
        }
        if (level->type != LORA__PICKLE_DICT) {
            lora__buffer_printf(name, i > 0 ? "%llu" : "%04llu",
                                (unsigned long long)level->number - 1);
        } else if (level->key->type == LORA__PICKLE_INTEGER) {
            lora__buffer_printf(name, "%lld",
                                (long long)level->key->as.integer);
        } else if (level->key->type == LORA__PICKLE_TEXT) {
            lora__buffer_append(name, level->key->as.text,
                                level->key->text_bytes);
        } else {
            lora__buffer_putc(name, '?');
        }
        if (name->bytes > w->limits->name_bytes) {
            break;
        }
    }
    return lora__buffer_status(name, error);
}

static lora_status
tree_check_name(tree_walk *w, uint64_t offset, lora_error *error)
{
    const lora__buffer *name = &w->name;

    w->name_bytes += name->bytes;
    if (name->bytes > w->limits->name_bytes ||
        w->name_bytes > w->limits->header_bytes) {
        return tree_fail(w, LORA_ERROR_LIMIT, offset,
                         "its name, or all names together, are over the limit",
                         error);
    }
    if (!lora__text_is_utf8(name->data, name->bytes) ||
        memchr(name->data, '\0', name->bytes) != NULL) {
        return tree_fail(w, LORA_ERROR_FORMAT, offset,
                         "its name is not UTF-8, or has a NUL in it", error);
    }
    if (w->torch->container->entry_count >= w->limits->tensor_count) {
        return tree_fail(w, LORA_ERROR_LIMIT, offset,
                         "more tensors than the limit", error);
    }
    return LORA_OK;
}

/* An entry of the name that the walk has come to. */
static lora_status tree_add_tensor(tree_walk *w,
                                   const lora__pickle_value *function,
                                   const lora__pickle_value *arguments,
                                   uint64_t offset,
                                   lora_error *error)
{
    lora__container *container = w->torch->container;
    size_t count = container->entry_count;
    lora__entry *entry;
    size_t existing;

    TRY(tree_check_name(w, offset, error));
    TRY(lora__container_add(&entry, container, error));
    TRY(tree_read_tensor(entry, w, function, arguments, offset, error));
    if (!lora__add_u64(w->bytes, entry->bytes, &w->bytes) ||
        w->bytes > lora__expanded_most(container->file_bytes)) {
        return tree_fail(w, LORA_ERROR_LIMIT, offset,
                         "the tensors, with this one, are far larger than the "
                         "file",
                         error);
    }
    entry->name_bytes = w->name.bytes;
    TRY(lora__arena_string(&entry->name, &container->arena, w->name.data,
                           w->name.bytes, error));
    TRY(lora__map_add(&existing, &container->by_name, entry->name,
                      entry->name_bytes, count, error));
    if (existing != count) {
        return tree_fail(w, LORA_ERROR_DUPLICATE, offset, "the same name twice",
                         error);
    }
    return LORA_OK;
}

/* The walk --------------------------------------------------------------- */

/* The member of a dict, the last of that name; NULL if there is none. */
static const lora__pickle_value *tree_member(const lora__pickle_value *dict,
                                             const char *name)
{
    lora__pickle_cursor cursor = lora__pickle_items_of(dict);
    const lora__pickle_value *found = NULL;
    const lora__pickle_value *key;

    if (dict->type != LORA__PICKLE_DICT) {
        return NULL;
    }
    while ((key = lora__pickle_next(&cursor)) != NULL) {
        const lora__pickle_value *value = lora__pickle_next(&cursor);
        if (lora__pickle_is_text(key, name)) {
            found = value;
        }
    }
    return found;
}

/* The state dict within a training checkpoint, else the object itself. */
static const lora__pickle_value *tree_root(const lora__pickle_value *root)
{
    static const char *const wrappers[] = {"state_dict", "model_state_dict"};

    for (size_t i = 0; i < LORA__COUNT(wrappers); i++) {
        const lora__pickle_value *member = tree_member(root, wrappers[i]);
        if (member != NULL && member->type == LORA__PICKLE_DICT) {
            return member;
        }
    }
    return root;
}

/* What a ParameterDict or ParameterList holds; NULL if it is neither. */
static const lora__pickle_value *
tree_parameters(const lora__pickle_value *object)
{
    static const char module[] = "torch.nn.modules.container";
    const lora__pickle_value *type = lora__pickle_item(object, 0);
    const lora__pickle_value *state = lora__pickle_item(object, 2);

    return state != NULL &&
                   (lora__pickle_is_global(type, module, "ParameterDict") ||
                    lora__pickle_is_global(type, module, "ParameterList"))
               ? tree_member(state, "_parameters")
               : NULL;
}

/* Take a value as a tensor, or go into it if there is anything in it. */
static lora_status tree_enter(tree_walk *w,
                              const lora__pickle_value *value,
                              const char *refused,
                              lora_error *error)
{
    const lora__pickle_value *function;
    const lora__pickle_value *arguments;
    tree_level *level;

    if (w->visits-- == 0) {
        return lora__fail(error, LORA_ERROR_LIMIT, LORA_NO_OFFSET,
                          w->torch->container->path,
                          "pickle: far more values than the limit of tensors "
                          "allows");
    }
    if (tree_is_tensor(&function, &arguments, value)) {
        uint64_t offset = value->as.node->offset;
        TRY(tree_make_name(w, error));
        return refused != NULL
                   ? tree_fail(w, LORA_ERROR_FORMAT, offset, refused, error)
                   : tree_add_tensor(w, function, arguments, offset, error);
    }
    if (value->type == LORA__PICKLE_OBJECT) {
        const lora__pickle_value *parameters = tree_parameters(value);
        if (parameters != NULL) {
            value = parameters;
        } else {
            refused = "within an object of a class that is not loaded";
        }
    }
    if (value->type != LORA__PICKLE_TUPLE && value->type != LORA__PICKLE_LIST &&
        value->type != LORA__PICKLE_DICT &&
        value->type != LORA__PICKLE_OBJECT) {
        return LORA_OK;
    }
    if (w->depth == TREE_MAX_DEPTH) {
        return lora__fail(error, LORA_ERROR_LIMIT, value->as.node->offset,
                          w->torch->container->path,
                          "pickle: values nested more than %d deep, or within "
                          "themselves",
                          TREE_MAX_DEPTH);
    }
    level = &w->levels[w->depth++];
    level->cursor = lora__pickle_items_of(value);
    level->key = NULL;
    level->number = 0;
    level->refused = refused;
    level->type = value->type;
    return LORA_OK;
}

static lora_status tree_run(tree_walk *w, lora_error *error)
{
    while (w->depth > 0) {
        tree_level *level = &w->levels[w->depth - 1];
        const lora__pickle_value *value = lora__pickle_next(&level->cursor);
        const char *refused = level->refused;

        if (value == NULL) {
            w->depth--;
            continue;
        }
        level->number++;
        if (level->type == LORA__PICKLE_DICT) {
            level->key = value;
            value = lora__pickle_next(&level->cursor);
            if (level->key->type != LORA__PICKLE_TEXT &&
                level->key->type != LORA__PICKLE_INTEGER) {
                refused = "under a key that is no string";
            }
        }
        TRY(tree_enter(w, value, refused, error));
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__torch_read_tree(lora__torch *torch,
                                               const lora__pickle_value *root,
                                               lora_error *error)
{
    lora_context *context = torch->container->context;
    tree_walk w;
    lora_status status;

    memset(&w, 0, sizeof w);
    w.torch = torch;
    w.limits = &lora__context_get(context)->limits;
    w.visits = w.limits->tensor_count < UINT64_MAX / 8
                   ? w.limits->tensor_count * TREE_VISITS_PER_TENSOR + 65536
                   : UINT64_MAX;
    lora__buffer_init(&w.name, context);
    TRY_OR_DONE(tree_enter(&w, tree_root(root), NULL, error));
    TRY_OR_DONE(tree_run(&w, error));
    if (torch->container->entry_count == 0) {
        status = lora__fail(error, LORA_ERROR_FORMAT, 0, torch->container->path,
                            "a PyTorch checkpoint without tensors");
    }
done:
    lora__buffer_destroy(&w.name);
    return status;
}
